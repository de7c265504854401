import csv
import gzip
import io
import json
from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlmrec.cli.output import of_options
from rlmrec.data.dataset import Dataset
from rlmrec.data.tables import read_table, read_tables, read_texts
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError, DataError

YELP = Path(__file__).parents[2].parent / "shared" / "data" / "yelp-profiles"

ROWS = [
    {"user_id": 10, "item_id": "b", "stars": 4.5, "time": 1000, "review": 'so, "so"\nlong'},
    {"user_id": 9, "item_id": "a", "stars": 1.0, "time": 2000, "review": None},
    {"user_id": 10, "item_id": "a", "stars": 3.0, "time": 3000, "review": "fine"},
]


def read_interactions(path, user="user_id", item="item_id", **columns):
    optional = {f"{kind}_column": name for kind, name in columns.items()}
    source = read_tables(path, user_column=user, item_column=item, **optional)
    return source.interactions, source.users, source.items


def read_splits(train, valid, test):
    source = read_tables(train=train, valid=valid, test=test)
    return *source.interactions, source.users, source.items


OPTIONAL = {"rating": "stars", "timestamp": "time", "review": "review"}


def write_csv(path, rows, separator=","):
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as handle:
        handle.write(text.getvalue())


def write(path, rows):
    """Write ``rows`` in the format of the ending."""
    if ".csv" in path.name or ".tsv" in path.name:
        write_csv(path, rows, "\t" if ".tsv" in path.name else ",")
    elif path.suffix == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "wt", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row) + "\n" for row in rows)
    return path


ENDINGS = ["csv", "tsv", "csv.gz", "tsv.gz", "jsonl", "jsonl.gz", "json", "parquet"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_gives_the_same(tmp_path, ending):
    path = write(tmp_path / f"t.{ending}", ROWS)
    interactions, users, items = read_interactions(path, **OPTIONAL)
    assert (users.ids, items.ids) == ([9, 10], ["a", "b"])
    assert (users.kind, items.kind) == ("user", "item")
    assert interactions.users.tolist() == [1, 0, 1]
    assert interactions.items.tolist() == [1, 0, 0]
    assert interactions.rating.tolist() == [4.5, 1, 3]
    assert interactions.timestamp.tolist() == [1000, 2000, 3000]
    assert interactions.review[1:].tolist() == [None, "fine"]
    assert interactions.review[0].replace("\r\n", "\n") == 'so, "so"\nlong'
    assert interactions.id.tolist() == [0, 1, 2]


def test_optional_columns_are_not_read_unasked(tmp_path):
    interactions, _, _ = read_interactions(write(tmp_path / "t.csv", ROWS))
    assert interactions.columns().keys() == {"users", "items", "id"}


@given(
    raw=st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1), min_size=1
    )
)
def test_text_ids_survive(tmp_path_factory, raw):
    raw = [text for text in raw if text.strip()] or ["x"]
    path = tmp_path_factory.mktemp("ids") / "t.csv"
    write_csv(path, [{"user_id": text, "item_id": "x"} for text in raw])
    interactions, users, _ = read_interactions(path)
    integers = all(
        text.lstrip("-").isascii() and text.lstrip("-").isdigit() and str(int(text)) == text for text in raw
    )
    assert users.ids == sorted({int(text) for text in raw} if integers else set(raw))
    assert [str(users.id(row)) for row in interactions.users] == raw


@pytest.mark.parametrize("odd", ["007", "+7", "-0", "1.0", "1e3", " 7", "9223372036854775808", "x"])
def test_one_id_not_written_as_an_integer_makes_all_text(tmp_path, odd):
    (tmp_path / "t.csv").write_text(f"user_id,item_id\n7,1\n{odd},-2\n10,10\n")
    _, users, items = read_interactions(tmp_path / "t.csv")
    assert users.ids == sorted(["7", odd, "10"])
    assert items.ids == [-2, 1, 10]  # ascending as numbers


def test_a_number_and_the_same_text_in_json_lines_are_refused(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [{"user_id": user, "item_id": "x"} for user in (3, 1, "b", 1, "1")]
    path.write_text("\n\n" + "\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError) as caught:
        read_interactions(path)
    assert str(caught.value) == (
        f"{path}, column 'user_id' mixes integers and text: 1 in line 4, '1' in line 7: make them one type"
    )
    write(path, [{"user_id": user, "item_id": "x"} for user in (3, "b")])
    with pytest.raises(DataError, match=r"mixes integers and text: 3 in line 1, 'b' in line 2"):
        read_interactions(path)


@pytest.mark.parametrize("odd", [1.0, True, [1], {"a": 1}])
def test_other_json_ids_are_refused(tmp_path, odd):
    path = write(tmp_path / "t.jsonl", [{"user_id": 1, "item_id": 1}, {"user_id": odd, "item_id": 1}])
    with pytest.raises(
        DataError, match=r"t\.jsonl, line 2, column 'user_id': got .*must be integers or text"
    ):
        read_interactions(path)


def test_ids_beyond_64_bits_are_refused_where_they_are_numbers(tmp_path):
    path = write(tmp_path / "t.jsonl", [{"user_id": 2**70, "item_id": 1}])
    with pytest.raises(DataError, match="column 'user_id' has ids beyond 64 bits: write them as text"):
        read_interactions(path)
    path = tmp_path / "t.parquet"
    pl.DataFrame({"user_id": pl.Series([2**63], dtype=pl.UInt64), "item_id": [1]}).write_parquet(path)
    with pytest.raises(DataError, match="column 'user_id' has user ids beyond 64 bits"):
        read_interactions(path)


def test_parquet_ids_of_other_types_are_refused(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"user_id": [True], "item_id": [1]}).write_parquet(path)
    with pytest.raises(DataError, match="column 'user_id' holds Boolean, user ids must be integers or text"):
        read_interactions(path)
    pl.DataFrame({"user_id": [1.0, 1.5], "item_id": [1, 2]}).write_parquet(path)
    with pytest.raises(
        DataError, match=r"row 2, column 'user_id': got 1\.5 \(1 such in all\), user ids must"
    ):
        read_interactions(path)
    pl.DataFrame({"user_id": [7.0, 2.0], "item_id": [1, 2]}).write_parquet(path)
    assert read_interactions(path)[1].ids == [2, 7]
    pl.DataFrame({"user_id": [1, None], "item_id": [1, 2]}).write_parquet(path)
    with pytest.raises(DataError, match=r"t\.parquet, row 2, column 'user_id': the user id is missing"):
        read_interactions(path)


def test_parquet_categories_and_dates_are_read(tmp_path):
    when = datetime(2020, 1, 1, tzinfo=UTC)
    pl.DataFrame(
        {"user_id": pl.Series(["b", "a"], dtype=pl.Categorical), "item_id": [1, 2], "time": [when, when]}
    ).write_parquet(tmp_path / "t.parquet")
    interactions, users, _ = read_interactions(tmp_path / "t.parquet", timestamp="time")
    assert users.ids == ["a", "b"]
    assert interactions.timestamp.tolist() == [when.timestamp()] * 2


def test_a_rating_may_be_missing_and_then_it_is_not_high_enough(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("user_id,item_id,rating\n1,1,5\n2,1,\n3,1,2\n")
    interactions, users, _ = read_interactions(path, rating="rating")
    assert np.isnan(interactions.rating).tolist() == [False, True, False]
    assert [users.id(row) for row in interactions.min_rating(3).users.tolist()] == [1]


@pytest.mark.parametrize(("column", "value"), product(["rating", "timestamp"], ["x", "nan", "inf", "1_0"]))
def test_what_is_not_a_number_is_refused_with_its_place(tmp_path, column, value):
    path = tmp_path / "t.csv"
    path.write_text(f'user_id,item_id,{column},note\n1,1,5,"two\nlines"\n\n2,1,{value},\n')
    with pytest.raises(DataError) as caught:
        read_interactions(path, **{column: column})
    assert str(caught.value) == (
        f"{path}, line 5, column {column!r}: expected a finite number, got {value!r} (1 such in all)"
    )


def test_nan_in_parquet_and_json_is_refused(tmp_path):
    rows = [{"user_id": 1, "item_id": 1, "stars": 1.0}, {"user_id": 1, "item_id": 2, "stars": float("nan")}]
    for ending, place in (("parquet", "row 2"), ("jsonl", "line 2")):
        path = write(tmp_path / f"t.{ending}", rows)
        with pytest.raises(
            DataError, match=rf"t\.{ending}, {place}, column 'stars': expected a finite number"
        ):
            read_interactions(path, rating="stars")
    pl.DataFrame({"user_id": [1], "item_id": [1], "stars": [True]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="column 'stars' holds Boolean, expected numbers"):
        read_interactions(tmp_path / "t.parquet", rating="stars")


def test_all_kinds_of_broken_rows_are_told_at_once(tmp_path, call):
    orders, items = tmp_path / "orders.csv", tmp_path / "items.csv"
    orders.write_text(
        "user_id,item_id,stars,at,n\nann,1,5,31.12.2026,1\n,1,5,31.12.2026,1\nbob,1,good,,1\n\ncat,,bad,12/31/2026,x\n"
        ",2,5,1.2.2026,1\ncat,3,5,3.4.2026,1\n"
    )
    items.write_text("item_id,title\n1,One\n1,Uno\n,None\n2,Two\n")
    columns = {"rating_column": "stars", "timestamp_column": "at"}
    told = [
        f"{orders}, line 3, column 'user_id': the user id is missing (2 in all): fill it in or drop the row",
        f"{orders}, line 6, column 'item_id': the item id is missing (1 in all): fill it in or drop the row",
        f"{orders}, line 4, column 'stars': expected a finite number, got 'good' (2 such in all)",
        f"{orders}, line 4, column 'at': the time is missing (1 in all): fill it in or drop the row",
        f"{orders}, line 6, column 'at': got '12/31/2026' (1 such in all), expected seconds since 1970 or a date such "
        "as 2018-07-07 22:09:11, written like the others ('31.12.2026'), or say how times are written "
        "(timestamp_format, --timestamp-format)",
    ]
    of_items = (
        f"{items}, line 4, column 'item_id': the item id is missing (1 in all): fill it in or drop the row"
    )
    with pytest.raises(DataError) as caught:
        read_tables(orders, items=items, **columns)
    assert str(caught.value).splitlines() == ["6 kinds of problems:", *told, of_items]
    options = ("--rating-column", "stars", "--timestamp-column", "at", "-w", tmp_path / "w")
    code, _, err = call("data", "table", orders, "--items", items, *options)
    assert code == 1
    assert err.splitlines()[-7:] == [
        "error: 6 kinds of problems:",
        *(f"  {of_options(line)}" for line in (*told, of_items)),
    ]
    weights = f"{orders}, line 6, column 'n': expected a finite number, got 'x' (1 such in all)"
    with pytest.raises(DataError) as caught:
        read_tables(orders, weight_column="n", **columns)
    assert sorted(str(caught.value).splitlines()) == sorted(["6 kinds of problems:", *told, weights])
    # Lines with too many fields are told beside the others, not counted among them.
    lines = orders.read_text()
    for quote in ("", '12" '):
        wide = f",1,5,31.12.2026,1,{quote}more\n,1,5,31.12.2026,1,and,more\n"
        orders.write_text(f"\n{lines}{wide}")
        with pytest.raises(DataError) as caught:
            read_tables(orders, **columns)
        first, *others = str(caught.value).splitlines()[1:]
        assert first.startswith(
            f"{orders} cannot be read: line 10 has 6 fields, the first line has 5 (2 such in all)"
        )
        places = zip((4, 7, 5, 5, 7), others, strict=True)
        assert all(f"line {line}, column" in one for line, one in places)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("user_id,item_id\n1,1\n,2\n", "line 3"),
        ("user_id,item_id\n1,1\n  ,2\n", "line 3"),
        ("user_id,item_id,x\n1,1,1\n\n,,5\n", "line 4"),
        ("item_id,user_id\n1,1\n2\n", "line 3"),
    ],
)
def test_a_missing_id_is_refused_with_its_line(tmp_path, text, place):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=rf"t\.csv, {place}, column 'user_id': the user id is missing"):
        read_interactions(tmp_path / "t.csv")


def test_a_missing_id_in_json_lines_is_refused(tmp_path):
    path = write(tmp_path / "t.jsonl", [{"user_id": "a", "item_id": 1}, {"item_id": 1}])
    with pytest.raises(DataError, match="line 2, column 'user_id': the user id is missing"):
        read_interactions(path)


@pytest.mark.parametrize("breaks", ["\n", "\r\n"])
def test_blank_lines_and_a_byte_order_mark_are_ignored(tmp_path, breaks):
    text = breaks.join(["\ufeffuser_id,item_id", "1,2", "", "3,4", "", ""])
    (tmp_path / "t.csv").write_bytes(text.encode())
    interactions, users, items = read_interactions(tmp_path / "t.csv")
    assert (len(interactions), users.ids, items.ids) == (2, [1, 3], [2, 4])


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_missing_column_is_named_with_those_there(tmp_path, ending):
    path = write(tmp_path / f"t.{ending}", [{"user": 1, "item_id": 2}])
    with pytest.raises(
        DataError, match=rf"t\.{ending} has no column 'user_id': its columns are 'user', 'item_id'"
    ):
        read_interactions(path)
    with pytest.raises(DataError, match="has no column 'stars'"):
        read_interactions(path, user="user", rating="stars")


def test_a_repeated_column_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("user_id,item_id,user_id\n1,2,3\n")
    with pytest.raises(DataError, match="has 2 columns 'user_id': rename all but one"):
        read_interactions(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "is empty: expected a header and rows"),
        ("t.csv", b"\n\n", "is empty: expected a header and rows"),
        ("t.csv", b"user_id,item_id\n", "has a header but no rows"),
        ("t.csv", b"user_id,item_id\n\n\n", "has a header but no rows"),
        ("t.csv", b"user_id,item_id\n\xc3\xa4,2\n1,\xff\n", "cannot be read: line 3 is not UTF-8"),
        ("t.csv", b"user_id,item_id\xc3\xa4\xff\n1,2\n", "cannot be read: line 1 is not UTF-8"),
        (
            "t.csv",
            b"user_id,item_id\n1,\x81\n",
            "neither UTF-8 nor UTF-16 nor Windows-1252: name its encoding",
        ),
        ("t.csv", b"user_id,item_id\n1,2\n1,2,3\n", "line 3 has 3 fields, the first line has 2"),
        ("t.csv", b'user_id,item_id\n1,"2\n1,2\n', "cannot be read"),
        ("t.csv.gz", gzip.compress(b"user_id,item_id\n" + b"1,2\n" * 999, mtime=0)[:-9], "cannot be read"),
        ("t.csv.gz", b"\x1f\x8bgarbage", "cannot be read"),
        ("t.jsonl", b"", "is empty: expected one JSON object per line"),
        ("t.jsonl", b'{"user_id": 1}\n{"user', "line 2: expected one JSON object per line"),
        ("t.jsonl", b"[1]\n", "line 1: expected one JSON object per line, got"),
        ("t.jsonl", b'{"user_id": "\xc3\xa4\xff"}\n', "line 1 is not UTF-8"),
        ("t.jsonl", b"[" * 100_000, "line 1: expected one JSON object per line"),
        ("t.jsonl.gz", b"\x1f\x8bgarbage", "cannot be read"),
        ("t.parquet", b"PAR1garbage", "is not a readable Parquet file"),
        ("t.parquet", b"", "is not a readable Parquet file"),
        ("t.docx", b"x", r"unknown ending, expected \.csv, \.tsv, \.jsonl"),
        ("t.parquet.gz", b"x", "unknown ending"),
        ("t", b"x", "unknown ending"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_interactions(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_absent_file_is_named(tmp_path, ending):
    with pytest.raises(DataError, match=rf"t\.{ending} does not exist"):
        read_interactions(tmp_path / f"t.{ending}")


def test_a_parquet_table_without_rows_is_refused(tmp_path):
    pl.DataFrame({"user_id": [1], "item_id": [1]}).clear().write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="has columns but no rows"):
        read_interactions(tmp_path / "t.parquet")


def test_a_name_with_wildcards_is_a_name(tmp_path):
    path = write(tmp_path / "t[1]*.csv", ROWS)
    assert len(read_interactions(path)[0]) == 3


# Ready splits.


def parts(tmp_path, *ids, endings=("csv", "csv", "csv")):
    return [
        write(tmp_path / f"{name}.{ending}", [{"user_id": user, "item_id": 5} for user in users])
        for name, users, ending in zip(("train", "valid", "test"), ids, endings, strict=True)
    ]


def test_splits_share_one_vocabulary(tmp_path):
    train, valid, test, users, items = read_splits(*parts(tmp_path, [10, 9], [9], [10, 2]))
    assert (users.ids, items.ids) == ([2, 9, 10], [5])
    assert [part.users.tolist() for part in (train, valid, test)] == [[2, 1], [1], [2, 0]]
    assert [part.id.tolist() for part in (train, valid, test)] == [[0, 1], [2], [3, 4]]
    assert {(part.n_users, part.n_items) for part in (train, valid, test)} == {(3, 1)}


def test_untyped_splits_are_text_together(tmp_path):
    *_, users, _ = read_splits(*parts(tmp_path, [10, 9], [9], ["x"]))
    assert users.ids == ["10", "9", "x"]


def test_a_typed_split_decides_for_untyped_ones(tmp_path):
    *_, users, _ = read_splits(*parts(tmp_path, [10], [9], [2], endings=("csv", "parquet", "jsonl")))
    assert users.ids == [2, 9, 10]
    *_, users, _ = read_splits(*parts(tmp_path, [10], ["9"], ["2"], endings=("csv", "parquet", "jsonl")))
    assert users.ids == ["10", "2", "9"]


def test_splits_whose_ids_differ_by_type_are_refused(tmp_path):
    paths = parts(tmp_path, [1], [2], ["1"], endings=("parquet", "csv", "jsonl"))
    with pytest.raises(DataError) as caught:
        read_splits(*paths)
    assert str(caught.value) == (
        f"column 'user_id': user ids are integers in {paths[0]} and text in {paths[2]}: make them one type"
    )
    paths = parts(tmp_path, [1], [1, "x"], [1], endings=("parquet", "csv", "csv"))
    with pytest.raises(
        DataError, match=r"valid\.csv, line 3, column 'user_id': .* integers in .*train\.parquet, got 'x'"
    ):
        read_splits(*paths)


@pytest.mark.skipif(not YELP.is_dir(), reason=f"no real data at {YELP}")
def test_the_yelp_split_is_a_dataset():
    *splits, users, items = read_splits(*(YELP / f"{name}.csv" for name in ("train", "valid", "test")))
    dataset = Dataset("yelp", *splits, users, items)
    assert (dataset.n_users, dataset.n_items) == (15962, 14085)
    assert [len(part) for part in splits] == [314_944, 39_368, 39_368]
    texts = read_texts(YELP / "item_profiles.jsonl", items, "item_id", ["summarization"])
    assert len(texts) == dataset.n_items
    assert texts["summarization"].null_count() == 0


# Texts.

BOOKS = [
    {"id": "b", "title": "B", "tags": "x"},
    {"id": "z", "title": "Z", "tags": ""},
    {"id": "a", "title": "A", "tags": ""},
]


@pytest.mark.parametrize("ending", ENDINGS)
def test_texts_come_in_the_order_of_the_vocabulary(tmp_path, ending):
    path = write(tmp_path / f"t.{ending}", BOOKS)
    texts = read_texts(path, Vocabulary(["a", "missing", "b"], "item"), "id")
    assert texts.columns == ["title", "tags"]
    assert texts.rows() == [("A", None), (None, None), ("B", "x")]
    assert read_texts(path, Vocabulary(["b"], "item"), "id", ["tags"]).rows() == [("x",)]


def test_integer_ids_of_an_untyped_file_match_integers(tmp_path):
    path = write(tmp_path / "t.csv", [{"item": item, "id": f"text {item}"} for item in ("7", "007", "x")])
    texts = read_texts(path, Vocabulary([7, 8], "item"), "item")
    assert texts.rows() == [("text 7",), (None,)]
    assert texts.columns == ["id"]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_values_that_are_no_text_become_it(tmp_path, ending):
    rows = [
        {"id": 1, "tags": ["a", "b"], "n": 2, "none": None},
        {"id": 2, "tags": [], "n": None, "none": None},
    ]
    texts = read_texts(
        write(tmp_path / f"t.{ending}", rows), Vocabulary([1, 2], "item"), "id", ["tags", "n", "none"]
    )
    assert texts.rows() == [("a, b", "2", None), (None, None, None)]
    assert set(texts.dtypes) == {pl.String}


def test_json_keys_may_come_late(tmp_path):
    path = write(tmp_path / "t.jsonl", [{"id": 1}, {"id": 2, "title": "\ud800é", "more": {"a": "é"}}])
    assert read_texts(path, Vocabulary([1, 2], "item"), "id").to_dicts() == [
        {"title": None, "more": None},
        {"title": "?é", "more": '{"a": "é"}'},
    ]


@pytest.mark.parametrize(("ending", "places"), [("csv", (4, 2)), ("jsonl", (3, 1)), ("parquet", (3, 1))])
def test_an_id_twice_is_refused(tmp_path, ending, places):
    path = write(tmp_path / f"t.{ending}", [{"id": i, "title": "x"} for i in ("a", "b", "a")])
    word = "row" if ending == "parquet" else "line"
    with pytest.raises(DataError) as caught:
        read_texts(path, Vocabulary(["b"], "item"), "id")
    assert str(caught.value) == (
        f"{path}, {word} {places[0]}, column 'id': item 'a' is in {word} {places[1]} already "
        "(1 such in all): "
        "keep one row per item"
    )


def test_texts_whose_ids_differ_by_type_are_refused(tmp_path):
    path = write(tmp_path / "t.jsonl", [{"id": 1, "title": "x"}])
    with pytest.raises(DataError, match=r"column 'id': integers, but the item ids of the dataset are text"):
        read_texts(path, Vocabulary(["1"], "item"), "id")


def test_texts_of_other_items_are_refused(tmp_path):
    path = write(tmp_path / "t.csv", [{"id": "x", "title": "x"}])
    with pytest.raises(
        DataError, match="none of its 1 ids is a known item: got for example 'x', expected ids like 7"
    ):
        read_texts(path, Vocabulary([7], "item"), "id")
    write(
        path,
        [
            {"id": "a", "stock": 0, "sku": 7},
            {"id": "b", "stock": 7, "sku": 8},
            {"id": "c", "stock": 0, "sku": 6},
        ],
    )
    with pytest.raises(
        DataError, match=r"like 7; the column 'sku' has such ids \(items_id, --items-id-column\)$"
    ):
        read_texts(path, Vocabulary([7, 8], "item"), "id")


def test_a_missing_text_column_is_refused(tmp_path):
    path = write(tmp_path / "t.csv", [{"id": "x", "title": "x"}])
    with pytest.raises(DataError, match="has no column 'plot': its columns are 'id', 'title'"):
        read_texts(path, Vocabulary(["x"], "item"), "id", ["plot"])
    with pytest.raises(DataError, match="has no column 'asin'"):
        read_texts(path, Vocabulary(["x"], "item"), "asin")


def test_a_million_rows_are_numbered_without_python(tmp_path):
    rng = np.random.default_rng(0)
    table = pl.DataFrame(
        {"user_id": rng.integers(10**5, size=10**6), "item_id": rng.integers(10**5, size=10**6)}
    )
    table.write_csv(tmp_path / "t.csv")
    interactions, users, items = read_interactions(tmp_path / "t.csv")
    assert (np.array(users.ids)[interactions.users] == table["user_id"].to_numpy()).all()
    assert (np.array(items.ids)[interactions.items] == table["item_id"].to_numpy()).all()


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_csv_with_another_separator_is_recognised(tmp_path, separator):
    write_csv(tmp_path / "t.csv", ROWS, separator)
    interactions, users, items = read_interactions(tmp_path / "t.csv", **OPTIONAL)
    assert (users.ids, items.ids) == ([9, 10], ["a", "b"])
    assert interactions.review[0].replace("\r\n", "\n") == 'so, "so"\nlong'
    # A comma decides, and a header of one column is one.
    (tmp_path / "u.csv").write_text("id,a;b\n1,x\n")
    assert read_texts(tmp_path / "u.csv", Vocabulary([1]), "id").columns == ["a;b"]
    (tmp_path / "o.csv").write_text("id\n1\n")
    with pytest.raises(DataError, match="has no column 'user_id': its columns are 'id'"):
        read_interactions(tmp_path / "o.csv")


DATES = ["2018-07-07 22:09:11", "2018-07-07T22:09:11Z", "2018-07-07", " 1969-12-31T23:00:00-01:00 "]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_dates_become_seconds(tmp_path, ending):
    rows = [{"user_id": 1, "item_id": number, "time": date} for number, date in enumerate(DATES)]
    interactions, _, _ = read_interactions(write(tmp_path / f"t.{ending}", rows), timestamp="time")
    noon = datetime(2018, 7, 7, 22, 9, 11, tzinfo=UTC).timestamp()
    assert interactions.timestamp.tolist() == [noon, noon, datetime(2018, 7, 7, tzinfo=UTC).timestamp(), 0]
    rows[2]["time"] = "07/07/2018"
    with pytest.raises(
        DataError,
        match=r"line \d, column 'time': got '07/07/2018' \(1 such in all\), expected seconds .* like the others",
    ):
        read_interactions(write(tmp_path / f"t.{ending}", rows), timestamp="time")
    rows[2]["time"] = 5
    with pytest.raises(
        DataError, match=r"column 'time': expected a finite number, got '2018-07-07 22:09:11'"
    ):
        read_interactions(write(tmp_path / f"t.{ending}", rows), timestamp="time")


def test_a_line_with_too_many_fields_is_named_even_in_columns_nobody_reads(tmp_path):
    (tmp_path / "r.csv").write_text("user;item;note\na;x;\nb;y;c;d;e\n")
    with pytest.raises(DataError, match="line 3 has 5 fields, the first line has 3"):
        read_interactions(tmp_path / "r.csv", "user", "item")


@pytest.mark.parametrize("index", ["", "Unnamed: 0"])
def test_the_index_of_a_data_frame_is_not_a_text(tmp_path, index):
    (tmp_path / "r.csv").write_text("user_id,item_id\n1,7\n2,8\n")
    (tmp_path / "i.csv").write_text(f"{index},item_id,genre\n0,7,a\n1,8,b\n")
    source = read_tables(tmp_path / "r.csv", items=tmp_path / "i.csv")
    assert source.item_texts.to_dict(as_series=False) == {"genre": ["a", "b"]}
    assert [found.kind for found in source.findings] == ["index column", "no title"]
    assert "items are called by their genre" in str(source.findings[1])


@pytest.mark.parametrize("name", ["Name", "TITLE", "Movie Title"])
def test_a_title_is_found_whatever_its_case(tmp_path, name):
    (tmp_path / "r.csv").write_text("user_id,item_id\n1,7\n2,8\n")
    (tmp_path / "i.csv").write_text(f"item_id,Kategorie,{name}\n7,a,Pan\n8,b,Pot\n")
    source = read_tables(tmp_path / "r.csv", items=tmp_path / "i.csv", text_columns=name)
    assert source.item_texts["title"].to_list() == ["Pan", "Pot"]
    assert source.provenance["text_columns"] == ["title"]
    assert not source.findings


def test_a_missing_column_of_ids_says_which_options_name_it(tmp_path):
    (tmp_path / "r.csv").write_text("Kundennummer,Artikelnummer\n1,7\n")
    with pytest.raises(
        DataError, match=r"no column 'user_id'.*name the columns .--user-column, --item-column"
    ):
        read_tables(tmp_path / "r.csv")


# -- bounds --------------------------------------------------------------------------------------------


def test_a_file_that_unpacks_to_far_too_much_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = tmp_path / "r.csv.gz"
    path.write_bytes(gzip.compress(b"user_id,item_id\n" + b"u1,i1\n" * 400_000))
    monkeypatch.setattr("rlmrec.files.UNPACKED_BYTES", 1 << 20)
    with pytest.raises(DataError, match=r"unpacks to more than 1 MB .* set RLMREC_MAX_UNPACKED_MB"):
        read_table(path)
    monkeypatch.setenv("RLMREC_MAX_UNPACKED_MB", "3")
    assert len(read_table(path).frame) == 400_000


def test_a_quote_that_is_never_closed_and_endless_lines_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("rlmrec.files.LINE_BYTES", 1 << 20)
    (tmp_path / "q.csv").write_bytes(b'user_id,item_id\nu1,"i1\n' + b"u1,i1\n" * 600_000)
    with pytest.raises(DataError, match=r"the quote in line 2 is never closed: close it"):
        read_table(tmp_path / "q.csv")
    for name in ("l.csv", "l.jsonl"):
        first = b"user_id,item_id\n" if name == "l.csv" else b'{"user_id": 1}\n'
        (tmp_path / name).write_bytes(first + b"x" * (4 << 20))
        with pytest.raises(DataError, match=r"line 2 is longer than 1 MB: .* set RLMREC_MAX_LINE_MB"):
            read_table(tmp_path / name)
    (tmp_path / "f.csv").write_bytes(b"user_id,item_id\n" + b'"u,1",i1\n' * 300_000)
    assert len(read_table(tmp_path / "f.csv").frame) == 300_000


def test_json_that_is_nested_deeply_is_one_of_our_errors(tmp_path):
    for depth in (100, 100_000):
        text = f'{{"user_id": 1, "item_id": 2, "t": {"[" * depth + "]" * depth}}}\n'
        (tmp_path / "d.jsonl").write_text(text)
        with pytest.raises(DataError, match=r"nested too deeply|recursion") if depth > 100 else nullcontext():
            read_table(tmp_path / "d.jsonl")


def test_the_files_of_a_folder_are_one_table(tmp_path, call):
    log = tmp_path / "log"
    log.mkdir()
    rows = [{"reader": {"id": f"u{n % 5}"}, "article": n % 7, "at": n} for n in range(60)]
    for number, name in enumerate(("2.jsonl.gz", "1.jsonl", "3.jsonl.gz")):  # read as 1, 2, 3
        part = rows[20:40] if number == 0 else rows[:20] if number == 1 else rows[40:]
        lines = "".join(f"{json.dumps(row)}\n" for row in part).encode()
        (log / name).write_bytes(gzip.compress(lines) if name.endswith(".gz") else lines)
    (log / "_SUCCESS").touch()
    (log / ".2.crc").touch()
    columns = {"user_column": "reader.id", "item_column": "article", "timestamp_column": "at"}
    for path in (log, f"{log}/*.jsonl*"):
        source = read_tables(path, **columns)
        assert source.interactions.timestamp.tolist() == list(range(60))
        assert source.users.ids == [f"u{n}" for n in range(5)]
        assert (source.name, source.provenance["files"]) == ("log", [str(path)])
    bad = "\n".join(json.dumps(row) for row in [*rows[:3], rows[3] | {"at": "soon"}])
    (log / "4.jsonl").write_text(bad)
    with pytest.raises(DataError, match=r"log, .*4\.jsonl, line 4, column 'at': .*'soon'"):
        read_tables(log, **columns)
    (log / "4.jsonl").write_text('{"reader": {"id": 7}, "article": 1, "at": 1}\n')
    with pytest.raises(DataError, match=r"'reader.id' is String in .*1.jsonl and Int64 in .*4.jsonl: make"):
        read_tables(log, **columns)
    (log / "4.jsonl").write_text('{"reader": {"id": "u1"}, "article": 1}\n')
    with pytest.raises(DataError, match=r"4.jsonl has no column 'at'"):
        read_tables(log, **columns)
    (log / "4.jsonl").unlink()
    (log / "2.jsonl").write_bytes(gzip.decompress((log / "2.jsonl.gz").read_bytes()))
    with pytest.raises(
        DataError, match=r"log has 2.jsonl and 2.jsonl.gz, which would count the same rows twice"
    ):
        read_tables(log, **columns)
    (log / "5.csv").write_text("a\n")
    code, _, err = call("data", "table", log, "--user-column", "reader.id", "-w", tmp_path / "w")
    assert code == 1
    assert "expected files of one ending; name those that are meant by a pattern in quotes" in " ".join(
        err.split()
    )
    assert f"'{log}/*.jsonl*'" in err.replace("\n", "")
    with pytest.raises(DataError, match="no files there"):
        read_tables(f"{log}/*.parquet", **columns)
    orders = pl.DataFrame({"user_id": ["a", "a", "b"], "item_id": [1, 2, 1]})
    items = tmp_path / "items"
    items.mkdir()
    for item in (1, 2):
        pl.DataFrame({"item_id": [item], "title": [f"t{item}"]}).write_csv(items / f"{item}.csv")
    orders.write_csv(tmp_path / "orders.csv")
    assert read_tables(tmp_path / "orders.csv", items=items).item_texts["title"].to_list() == ["t1", "t2"]
    # A column that some files do not have is kept.
    pl.DataFrame({"genre": ["g"], "item_id": [3], "title": ["t3"]}).write_csv(items / "3.csv")
    assert read_table(items, ids=("item_id",)).frame.rows() == [
        ("1", "t1", None),
        ("2", "t2", None),
        ("3", "t3", "g"),
    ]
    # A file without rows, such as a day without orders, is told and no error.
    (items / "4.csv").write_text("item_id,title\n")
    table = read_table(items, ids=("item_id",))
    assert len(table.frame) == 3
    assert str(table.findings[-1]) == f"1 of 4 files of {items} has no rows, for example 4.csv"
    for name in "123":
        (items / f"{name}.csv").unlink()
    with pytest.raises(DataError, match="no file there has rows"):
        read_table(items, ids=("item_id",))


def test_folders_with_odd_names_and_at_any_depth(tmp_path):
    deep = tmp_path / "log[2026]" / "day=1" / "hour=2"
    deep.mkdir(parents=True)
    for folder in (deep, deep.parent, deep.parent.parent):
        (folder / "x.csv").write_text("user_id,item_id\na,1\nb,1\n")
    assert len(read_table(deep.parent.parent).frame) == 2
    (tmp_path / "log[2026]").rename(tmp_path / "log")
    source = read_tables(f"{tmp_path}/log/**/*.csv")
    assert (source.name, len(source.interactions)) == ("log", 6)
    assert read_tables(f"{tmp_path}/log/**/*.csv", name="2026").name == "2026"
    with pytest.raises(ConfigError, match="--name is blank"):
        read_tables(f"{tmp_path}/log/**/*.csv", name=" ")
    (tmp_path / "log" / "README.md").touch()
    with pytest.raises(DataError, match=r"has x.csv and README.md: .* '.*/log/\*\.csv'$"):
        read_table(tmp_path / "log")
