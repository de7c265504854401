"""One choice of the columns that go into prompts and vectors."""

import json
import warnings
from datetime import date, datetime

import pandas as pd
import polars as pl
import pytest

from rlmrec.data.append import append
from rlmrec.data.dataset import Dataset
from rlmrec.data.markup import plain, without_markup
from rlmrec.data.metadata import described_items, text_columns
from rlmrec.data.table import Table
from rlmrec.data.tables import Columns, read_tables
from rlmrec.errors import ColumnError, ConfigError
from rlmrec.profiles.prompts import PromptBuilder
from rlmrec.profiles.select import metadata_of
from rlmrec.profiles.template import Template

ORDERS = "user_id,item_id\n" + "".join(
    f"u{user},{item}\n" for user in range(8) for item in range(4) if user != item
)
ITEMS = [
    {
        "item_id": item, "Unnamed: 0": item, "title": f"Pan {item}", "category": "Kitchen", "brand": "Arbor",
        "description": "A pan of steel." if item else None, "price": f"{item + 1},50 €", "cost": f"EUR {item}.00",
        "Lagerbestand": "wenig", "in_stock": "yes", "photo": f"https://shop/{item}.jpg", "weight_g": item * 100,
        "year": 1999,
    }
    for item in range(4)
]  # fmt: skip
TEXTS = ["title", "category", "brand", "description", "year"]


@pytest.fixture
def files(tmp_path):
    (tmp_path / "orders.csv").write_text(ORDERS)
    pl.DataFrame(ITEMS).write_csv(tmp_path / "items.csv")
    return tmp_path


def made(files, **options):
    return Dataset.from_source(read_tables(files / "orders.csv", items=files / "items.csv", **options))


def prompt(dataset, item):
    template = Template("item", "# System\nx\n# Prompt\n{{ data }}")
    builder = PromptBuilder(
        dataset.train, dataset.users, dataset.items, described_items(dataset), {"item": template},
        attributes_too="prompt_attributes" in dataset.provenance,
    )  # fmt: skip
    return json.loads(builder.item(dataset.items.row(item)).text)


def test_by_default_what_is_text_and_never_price_stock_and_row_numbers(files):
    dataset = made(files)
    assert text_columns(dataset) == TEXTS
    assert "price" in dataset.item_texts.columns  # for conditions on lists
    assert metadata_of(dataset, "item")[1] == (
        "Pan 1 (1999). Category: Kitchen. Brand: Arbor. Description: A pan of steel."
    )
    attributes = {"category": "Kitchen", "brand": "Arbor", "year": "1999"}
    assert prompt(dataset, 1) == {
        "title": "Pan 1",
        "description": "A pan of steel.",
        "attributes": attributes,
    }
    assert prompt(dataset, 0) == {"title": "Pan 0", "attributes": attributes, "reviews": "None"}


def test_the_paper_s_data_keeps_the_paper_s_prompts(files):
    """Of other sources, and of datasets made before, an item with a description is title and description."""
    dataset = made(files)
    del dataset.provenance["prompt_attributes"]
    assert prompt(dataset, 1) == {"title": "Pan 1", "description": "A pan of steel."}


def test_a_choice_holds_for_prompts_and_vectors_and_is_kept(files):
    dataset = made(files, text_columns="brand, category")
    assert text_columns(dataset) == ["title", "brand", "category"]
    assert metadata_of(dataset, "item")[1] == "Pan 1. Brand: Arbor. Category: Kitchen."
    assert prompt(dataset, 1) == {
        "title": "Pan 1", "attributes": {"brand": "Arbor", "category": "Kitchen"}, "reviews": "None",
    }  # fmt: skip
    dataset.save(files / "d")
    orders = Table("new", pl.DataFrame({"user_id": ["u1"], "item_id": [9]}), typed=True)
    items = Table("items", pl.DataFrame([{**ITEMS[1], "item_id": 9, "season": "summer"}]), typed=True)
    grown = append(Dataset.load(files / "d"), orders, Columns(), items=items).dataset
    assert text_columns(grown) == ["title", "brand", "category"]
    assert prompt(grown, 9)["attributes"] == {"brand": "Arbor", "category": "Kitchen"}


def test_a_choice_in_python_and_of_a_renamed_title(files):
    orders, items = (
        pl.read_csv(files / "orders.csv"),
        pl.read_csv(files / "items.csv").rename({"title": "produkt"}),
    )
    with pytest.warns(
        UserWarning, match="1 chosen column of texts holds numbers, dates, .* for example 'price'"
    ):
        dataset = Dataset.from_frame(
            orders, items=items, title="produkt", text_columns=["produkt", "price"], split=(2, 1, 1)
        )
    assert text_columns(dataset) == ["title", "price"]
    dataset = Dataset.from_frame(orders, items=items, title="produkt", text_columns="brand", split=(2, 1, 1))
    assert text_columns(dataset) == ["title", "brand"], "one text is one column"
    with pytest.raises(ColumnError, match=r"no column of titles 'produckt' \(did you mean 'produkt'\?\)"):
        Dataset.from_frame(orders, items=items, title="produckt", split=(2, 1, 1))
    with pytest.raises(ColumnError, match=r"no column 'categori': .* did you mean 'category'\?"):
        made(files, text_columns="categori")
    with pytest.raises(ConfigError, match="are in the table of items"):
        read_tables(files / "orders.csv", text_columns="brand")


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
def test_typed_dates_and_truth_values_are_no_texts(make):
    day = date(2026, 7, 4)
    items = {
        "item_id": ["x", "y", "z"],
        "title": ["Go", "Rust", "Java"],
        "closes_on": [datetime(2026, 7, 4)] * 3,
        "day": [day, None, day],
        "remote": [True, False, True],
        "salary": [1.5, 2.5, 3.5],
        "city": ["Kiel", "Bonn", "Jena"],
    }
    orders = make({"user_id": [*"aabbcc"], "item_id": [*"xyyzzx"]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = Dataset.from_frame(orders, items=make(items), split=(1, 0, 0))
    assert text_columns(dataset) == ["title", "city"]
    assert dataset.item_texts["day"].to_list() == ["2026-07-04", None, "2026-07-04"]


def test_items_without_a_column_of_texts(files):
    pl.DataFrame(ITEMS).select("item_id", "price", "in_stock").write_csv(files / "items.csv")
    dataset = made(files)
    assert text_columns(dataset) == []
    assert described_items(dataset) is None
    with pytest.raises(ConfigError, match=r"no column of texts, only price, in_stock: name some"):
        metadata_of(dataset, "item")


def test_the_choice_is_shown(files, call):
    command = ("data", "table", files / "orders.csv", "--items", files / "items.csv", "-w", files / "w")
    code, out, err = call(*command, "--text-columns", "category")
    assert code == 0, err
    shown = " ".join(out.split())
    assert "title, category" in shown
    assert "not in prompts and vectors" in shown
    assert "user texts │ none" in shown
    (files / "users.csv").write_text("user_id,Ort,Plz\nu1,Kiel,24103\nu2,,74314\n")
    code, out, err = call(*command, "--text-columns", "category", "--users", files / "users.csv")
    assert code == 0, err
    shown = " ".join(out.split())
    assert "user texts │ Ort" in shown
    assert "not in vectors of users │ Plz" in shown
    assert "users with a text │ 1 of 8" in shown
    dataset = Dataset.load(files / "w" / "dataset")
    assert metadata_of(dataset, "user") == [None, "Kiel.", *[None] * 6]
    encode = ("encode", "-w", files / "w", "--encoder", "tfidf", "--set", "dim=4")
    code, out, err = call(*encode)
    assert code == 0, err
    assert "1 of 8 users has a text of their own; --user-vectors texts uses them" in " ".join(out.split())
    code, out, err = call(*encode, "--user-vectors", "texts")
    assert "users: their texts; 7 of 8 have none" in out
    assert "not used" not in out
    plain = Dataset.from_frame(pl.read_csv(files / "orders.csv"), split=(2, 1, 1))
    users = Table("users", pl.read_csv(files / "users.csv"), typed=True)
    assert text_columns(append(plain, users=users).dataset, "user") == ["Ort"]
    code, out, err = call("profile", "-w", files / "w", "--items", "--dry-run")
    assert code == 0, err
    assert "columns of items in the prompts: title, category\n" in out


def test_html_in_texts_becomes_plain_and_is_counted(files):
    items = pl.DataFrame(ITEMS).with_columns(
        description=pl.Series(
            [
                "<p>A <b>pan</b> &amp; lid</p><p>Steel<br/>30&nbsp;cm</p>",
                "5 < 6 and a > b",
                None,
                "R&D; <new>",
            ]
        )
    )
    items.write_csv(files / "items.csv")
    source = read_tables(files / "orders.csv", items=files / "items.csv")
    dataset = Dataset.from_source(source)
    assert dataset.item_texts["description"].to_list() == [
        "A pan & lid Steel 30 cm",
        "5 < 6 and a > b",
        None,
        "R&D; <new>",
    ]
    [finding] = [one for one in source.findings if one.kind == "markup"]
    assert str(finding).startswith(
        f"1 text of {files / 'items.csv'} is HTML, for example '<p>A <b>pan</b> &amp; lid"
    )
    # The same table again changes nothing.
    again = append(dataset, None, items=Table("items", pl.read_csv(files / "items.csv"), typed=True))
    assert again.dataset.fingerprint == dataset.fingerprint
    assert again.dataset.content == dataset.content


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("https://x.org/?lang=en&region=us", None),
        ("?a=1&copy=2 &copyright; &foo;", None),
        ("if a <b and c>d", None),
        ("5 <i> is not closed by <title>", "5 is not closed by <title>"),
        ("It&#x27;s &#39;so&#X27; &frac12;", "It's 'so' ½"),
        ("&lt;p&gt;Hi &amp;amp; you", "Hi & you"),
        ("A<!-- <b>not</b> this -->B", "A B"),
        ("A<script type='x'>if (a < b) f('<p>')</script>B<STYLE>p {}</style >C", "A B C"),
        ("""<a href="/x?a=1&b=2>3" title='y' id=z>A</a><td nowrap>B<br />C""", "A B C"),
        ("<!-- open, <script> too", None),
    ],
)
def test_what_is_markup_and_what_is_not(text, found):
    assert plain(text) == (text if found is None else found)
    table = pl.DataFrame({"t": [text, "  two   blanks & more ", "", "<p></p>", None]})
    assert without_markup(table)["t"].to_list() == [plain(text), "  two   blanks & more ", "", None, None]


@pytest.mark.parametrize("piece", ["<!--", "<script>", "<a b='", '<a x="', "<p ", "<p a=", "&#", "&amp;"])
def test_long_texts_take_linear_time(piece):
    """A quadratic pattern would read 10¹⁰ characters and more."""
    assert plain(piece * 50_000)
