"""Tables from Postgres, DuckDB and Excel."""

import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest

from rlmrec.data.databases import connect_postgres, shown
from rlmrec.data.dataset import Dataset
from rlmrec.data.tables import read_table, read_tables
from rlmrec.errors import ConfigError, DataError
from rlmrec.testing.shop import shop

NAMES = {"user_column": "customer_id", "item_column": "product_id", "timestamp_column": "ordered_at"}
TABLE = ("--user-column", "customer_id", "--item-column", "product_id", "--timestamp-column", "ordered_at")


TABLES = """
create table orders(
    customer_id text, product_id text, ordered_at timestamp, quantity int, price numeric(9, 2), returned bool
);
create table products(
    product_id text, title text, category text, brand text, description text, price numeric(9, 2), in_stock bool
);
create table next (like orders);
copy orders from '{place}/orders.csv' csv header;
copy products from '{place}/products.csv' csv header;
copy next from '{place}/next_day.csv' csv header;
create table typed(u uuid, i bigint, j jsonb);
insert into typed values('6ba7b810-9dad-11d1-80b4-00c04fd430c8', 7, '{{"a": 1}}')
"""


@pytest.fixture(scope="module")
def files():
    return shop(customers=40, products=30, orders=400)


@pytest.fixture(scope="module")
def postgres(files, postgres_server):
    """The connection string of a server with the shop's tables; it has a password."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # the server reads the files, as another user
        files.write(Path(folder))
        with connect_postgres(postgres_server) as database, database.cursor() as cursor:
            for statement in TABLES.format(place=folder).split(";"):
                cursor.execute(statement)
            database.commit()
    return postgres_server.replace("shop@", "shop:geheim%20123@")


@pytest.fixture(scope="module")
def duck(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("duck") / "shop.duckdb"
    with duckdb.connect(path) as database:
        for name in ("orders", "products", "next_day"):
            getattr(files, name).write_parquet(path.parent / f"{name}.parquet")
            database.execute(f"create table {name} as select * from '{path.parent}/{name}.parquet'")
    return f"duckdb:///{path}"


@pytest.fixture(scope="module")
def by_csv(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("csv")
    files.write(folder)
    return read_tables(folder / "orders.csv", items=folder / "products.csv", **NAMES)


def same(source, other):
    assert source.users.ids == other.users.ids
    assert source.items.ids == other.items.ids
    for name in ("users", "items", "timestamp"):
        assert (getattr(source.interactions, name) == getattr(other.interactions, name)).all()
    assert source.provenance["text_columns"] == other.provenance["text_columns"]
    texts = other.provenance["text_columns"]
    assert source.item_texts.select(texts).equals(other.item_texts.select(texts))


@pytest.mark.parametrize("kind", ["postgres", "duck"])
def test_a_database_gives_what_a_csv_file_gives(kind, by_csv, request):
    where = request.getfixturevalue(kind)
    source = read_tables(where, query="select * from orders", items_query="select * from products", **NAMES)
    same(source, by_csv)
    assert "geheim" not in str(source.provenance)
    assert source.name == ("postgres" if kind == "postgres" else "shop")
    assert source.item_texts["price"].cast(pl.Float64).equals(by_csv.item_texts["price"].cast(pl.Float64))


def test_the_command_stores_and_prints_no_password(postgres, tmp_path, call):
    code, out, err = call(
        "data", "table", postgres, "--query", "select * from orders", *TABLE, "-w", tmp_path,
        "--items-query", "select * from products",
    )  # fmt: skip
    assert code == 0, err
    code, more, err = call("data", "append", postgres, "--query", "select * from next", "-w", tmp_path)
    assert code == 0, err
    wrong = postgres.replace("/postgres", "/geheim 123").replace("%20", " ")
    failed = call("data", "append", wrong, "--query", "select 1", "-w", tmp_path)
    assert failed[0] == 1
    assert "Traceback" not in failed[2]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for text in (out, more, err, *failed[1:], written.decode("latin-1")):
        assert "geheim 123@" not in text
        assert "geheim%20123" not in text
    assert Dataset.load(tmp_path / "dataset").provenance["files"] == [shown(postgres)]


def test_postgres_types(postgres):
    table = read_table(postgres, query="select * from typed")
    assert table.frame.row(0) == ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", 7, '{"a": 1}')
    zoned = read_table(postgres, query="select timestamptz '2026-12-31 23:59+01' as at")
    assert zoned.times("at").tolist() == [datetime(2026, 12, 31, 22, 59, tzinfo=UTC).timestamp()]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select * from nowhere", r'[^\[]* relation "nowhere" does not exist$'),
        ("delete from orders", "cannot execute DELETE in a read-only transaction"),
        ("select customer_id from orders", "has no column 'product_id'"),
        ("select * from orders where false", "has columns but no rows"),
        (None, "is a database: say what to read of it"),
    ],
)
def test_a_query_that_fails_is_one_line_without_the_password(postgres, query, message):
    with pytest.raises((DataError, ConfigError), match=message) as caught:
        read_tables(postgres, query=query, **NAMES)
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("where", "query", "message"),
    [
        ("duckdb:///nowhere.duckdb", "select 1", "nowhere.duckdb does not exist"),
        ("duckdb:///:memory:", "select * from nowhere", "Table with name nowhere does not exist"),
        ("duckdb:///:memory:", "create table t as select 1 a", "."),
        ("mysql://u:p@h/d", "select 1", r"mysql://u@h/d: expected a file, postgresql://… or duckdb:///…"),
        ("orders.csv", "select 1", "is a file: a query needs a database"),
    ],
)
def test_other_databases(where, query, message):
    with pytest.raises((DataError, ConfigError), match=message):
        read_table(where, query=query, columns=["customer_id"])


def test_a_server_that_is_not_there_is_one_line_that_says_what_to_check():
    with pytest.raises(DataError) as caught:
        read_table("postgresql://ann:geheim@127.0.0.1:1/shop", query="select 1")
    assert str(caught.value) == (
        'postgresql://ann@127.0.0.1:1/shop cannot be reached: connection to server at "127.0.0.1", port 1 failed: '
        "Connection refused: check that the server runs, and the host, port, user and database of the connection string"
    )


def test_passwords_are_not_shown():
    assert (
        shown("postgresql://a:p@ss:w@h/d?password=x&sslmode=require")
        == "postgresql://a@h/d?password=…&sslmode=require"
    )
    assert shown("orders:2026@home.csv") == "orders:2026@home.csv"


# -- Excel -----------------------------------------------------------------------------------------------


@pytest.fixture
def book(files, tmp_path):
    from xlsxwriter import Workbook

    path = tmp_path / "shop.xlsx"
    with Workbook(path) as book:
        files.orders.write_excel(book, worksheet="Orders")
        files.products.write_excel(book, worksheet="Products")
    return path


def test_an_excel_file_gives_what_a_csv_file_gives(book, by_csv):
    source = read_tables(book, items=f"{book}#Products", decimal=",", **NAMES)
    same(source, by_csv)
    assert source.name == "shop"
    assert source.item_texts["price"].cast(pl.Float64).equals(by_csv.item_texts["price"].cast(pl.Float64))


def test_rows_without_values_are_left_out_and_rows_are_counted_as_excel_does(tmp_path):
    from xlsxwriter import Workbook

    path = tmp_path / "t.xlsx"
    with Workbook(path) as book:
        sheet = book.add_worksheet()
        for row, values in enumerate(
            [(), (), ("user_id", "item_id"), (1, "007"), (), (" ", ""), (2, "008"), (None, "9")]
        ):
            sheet.write_row(row, 0, values)
        sheet.write(11, 4, " ")  # outside the table
    table = read_table(path)
    assert table.frame.columns == ["user_id", "item_id"]
    assert table.frame.rows() == [("1", "007"), ("2", "008"), (None, "9")]
    with pytest.raises(
        DataError, match=r"t\.xlsx, row 8, column 'user_id': the user id is missing \(1 in all\)"
    ):
        read_tables(path)


def test_decimal_commas_in_cells_of_text(tmp_path):
    from xlsxwriter import Workbook

    with Workbook(tmp_path / "t.xlsx") as book:
        sheet = book.add_worksheet()
        for row, values in enumerate(
            [("user_id", "item_id", "stars"), ("a", "1,5", "4,5"), ("b", "2", 3.25)]
        ):
            sheet.write_row(row, 0, values)
    source = read_tables(tmp_path / "t.xlsx", rating_column="stars", decimal=",")
    assert source.interactions.rating.tolist() == [4.5, 3.25]
    assert source.items.ids == ["1,5", "2"]  # ids stay


def test_wrong_excel_files(book, tmp_path, monkeypatch):
    with pytest.raises(
        DataError,
        match=r"this is the first sheet, 'Orders'; the others are 'Products' \(shop\.xlsx#Products\)",
    ):
        read_table(book, ["title"])
    from xlsxwriter import Workbook

    with Workbook(tmp_path / "headed.xlsx") as headed:
        headed.add_worksheet().write_column(0, 0, ["Orders of 2026", "user_id", "1"])
        headed.get_worksheet_by_name("Sheet1").write_column(1, 1, ["item_id", "2"])
    with pytest.raises(
        DataError, match="'Orders of 2026', '__UNNAMED__1'; the first row must name the columns"
    ):
        read_table(tmp_path / "headed.xlsx", ["user_id"])
    with pytest.raises(DataError, match=r"has no sheet 'Nowhere': its sheets are 'Orders', 'Products'"):
        read_table(f"{book}#Nowhere")
    with pytest.raises(DataError, match=r"#Products has no column 'stars'"):
        read_table(f"{book}#Products", ["stars"])
    (tmp_path / "t.xlsx").write_bytes(b"x")
    with pytest.raises(DataError, match="is not a readable Excel file"):
        read_table(tmp_path / "t.xlsx")
    with zipfile.ZipFile(tmp_path / "t.xlsx", "w") as empty:
        empty.writestr("a", "b")
    with pytest.raises(DataError, match="is not a readable Excel file"):
        read_table(tmp_path / "t.xlsx")
    with pytest.raises(DataError, match="does not exist"):
        read_table(tmp_path / "u.xlsx#A")
    monkeypatch.setattr("rlmrec.files.UNPACKED_BYTES", 1 << 10)
    monkeypatch.setattr("rlmrec.files.UNPACKED_RATIO", 1)
    with pytest.raises(DataError, match="RLMREC_MAX_UNPACKED_MB"):
        read_table(book)
