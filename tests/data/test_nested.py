"""Columns by path, and rows that hold a basket."""

import json
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest

from rlmrec.data.dataset import Dataset
from rlmrec.data.metadata import text_columns
from rlmrec.data.tables import read_tables
from rlmrec.errors import ColumnError, ConfigError, DataError
from rlmrec.workspace import Workspace

ORDERS = [
    {
        "customer": {"id": 7}, "at": "2026-12-31", "a.b": "x",
        "lines": [{"sku": "a", "stars": 5}, {"sku": "b", "stars": 1}],
    },
    {"customer": {"id": 8}, "lines": [{"sku": "b", "stars": 2}], "at": "2027-01-01", "a.b": "y"},
    {"customer": {"id": 9}, "lines": [], "at": "2027-01-02", "a.b": "z"},
]  # fmt: skip
PATHS = {"user_column": "customer.id", "item_column": "lines.sku", "rating_column": "lines.stars"}


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pl.DataFrame(rows).write_parquet(path)
    return path


def pairs(source):
    part = source.interactions
    return [
        (source.users.id(u), source.items.id(i))
        for u, i in zip(part.users.tolist(), part.items.tolist(), strict=True)
    ]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_nested_orders_are_read_by_path(tmp_path, ending):
    path = write(tmp_path / f"t.{ending}", ORDERS)
    source = read_tables(path, timestamp_column="at", **PATHS)
    assert pairs(source) == [(7, "a"), (7, "b"), (8, "b")]
    assert source.interactions.rating.tolist() == [5, 1, 2]
    assert np.diff(source.interactions.timestamp).tolist() == [0, 86400]
    (found,) = [found for found in source.findings if found.kind == "basket"]
    assert str(found).startswith(f"3 rows of {path} hold baskets, 3 items in all, 1 none")
    assert pairs(read_tables(path, user_column="a.b", item_column="lines.sku")) == [
        ("x", "a"),
        ("x", "b"),
        ("y", "b"),
    ]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_path_that_leads_nowhere(tmp_path, ending):
    path = write(tmp_path / f"t.{ending}", ORDERS)
    with pytest.raises(DataError, match=r"has no column 'customer.name'"):
        read_tables(path, user_column="customer.name", item_column="lines.sku")
    with pytest.raises(DataError, match=r"'customer.idd': its columns are .* did you mean 'customer.id'\?"):
        read_tables(path, user_column="customer.idd", item_column="lines.sku")
    with pytest.raises(DataError, match=r"did you mean 'customer.id'\?"):
        Dataset.from_frame(pl.DataFrame(ORDERS), user="customer.idd", item="lines.sku")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_texts_of_items_are_named_by_path(tmp_path, call, ending):
    def articles(first, n):
        meta = (
            {"head": f"Report {row}", "tags": [{"name": f"t{row}"}, {"name": "news"}]} for row in range(n)
        )
        return [{"item_id": first + row, "price": row, "meta": one} for row, one in enumerate(meta)]

    rows = [{"user_id": user, "item_id": item} for user in range(6) for item in range(5)]
    write(tmp_path / "orders.jsonl", rows)
    items = write(tmp_path / f"items.{ending}", articles(0, 5))
    options = ("--title-column", "meta.head", "--text-columns", "meta.tags.name", "-w", tmp_path / "w")
    code, _, err = call("data", "table", tmp_path / "orders.jsonl", "--items", items, *options)
    assert code == 0, err
    write(tmp_path / "day.jsonl", [{"user_id": 0, "item_id": 7}])
    more = write(tmp_path / f"more.{ending}", articles(7, 2))
    code, _, err = call("data", "append", tmp_path / "day.jsonl", "--items", more, "-w", tmp_path / "w")
    assert code == 0, err
    made = Workspace(tmp_path / "w").dataset()
    assert text_columns(made) == ["title", "meta.tags.name"]
    assert made.item_texts.select(text_columns(made)).rows()[4:] == [
        ("Report 4", "t4, news"),
        ("Report 0", "t0, news"),
    ]
    with pytest.raises(ColumnError, match=r"no column 'meta.tag.name': .* did you mean 'meta.tags.name'\?"):
        read_tables(tmp_path / "orders.jsonl", items=items, text_columns="meta.tags.name,meta.tag.name")
    frame = Dataset.from_frame(pl.DataFrame(rows), items=pl.DataFrame(articles(0, 5)), title="meta.head")
    assert frame.item_texts["title"].to_list() == made.item_texts["title"].to_list()[:5]


def test_places_in_a_basket_are_those_of_its_row(tmp_path):
    rows = [ORDERS[1], {**ORDERS[0], "lines": [{"sku": "a", "stars": 1}, {"sku": "b", "stars": "many"}]}]
    with pytest.raises(
        DataError, match=r"line 2, column 'lines.stars': expected a finite number, got 'many'"
    ):
        read_tables(write(tmp_path / "t.jsonl", rows), **PATHS)
    rows[1]["lines"][1]["sku"] = None
    with pytest.raises(DataError, match=r"line 2, column 'lines.sku': the item id is missing"):
        read_tables(write(tmp_path / "t.jsonl", rows), **PATHS)
    rows = [{"u": 1, "i": ["a", "b"], "r": [1]}]
    with pytest.raises(
        DataError, match="line 1: column 'i' has 2 entries and column 'r' 1: expected as many"
    ):
        read_tables(write(tmp_path / "t.jsonl", rows), user_column="u", item_column="i", rating_column="r")


@pytest.mark.parametrize(
    ("written", "separator"), [(("a|b", "b"), "|"), (("a, b", "b,"), ","), (('["a", "b"]', '["b"]'), None)]
)
def test_baskets_as_text(tmp_path, written, separator):
    table = pl.DataFrame({"user_id": [1, 2], "item_id": written, "at": ["1.2.2026", "2.2.2026"]})
    table.write_csv(tmp_path / "t.csv")
    source = read_tables(tmp_path / "t.csv", item_separator=separator, timestamp_column="at")
    assert pairs(source) == [(1, "a"), (1, "b"), (2, "b")]
    assert np.diff(source.interactions.timestamp).tolist() == [0, 86400]


@pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame])
def test_baskets_in_a_data_frame(make):
    frame = make({"u": [1, 2, 3], "i": [[1, 2, 3], [2, 1, 4], [3, 4]]})
    with pytest.warns(UserWarning, match="rows of df hold baskets, 8 items"):
        dataset = Dataset.from_frame(frame, user="u", item="i", split=(2, 1, 1))
    assert len(dataset.everything()) == 8
    assert dataset.items.ids == [1, 2, 3, 4]


def test_an_append_reads_baskets_as_the_dataset_was_read(tmp_path, call):
    text = "user_id,item_id\n" + "".join(f"u{user},{user}|{user + 1}|9\n" for user in range(6))
    (tmp_path / "t.csv").write_text(text)
    command = ("data", "table", tmp_path / "t.csv", "--item-separator", "|", "-w", tmp_path / "w")
    assert call(*command)[0] == 0
    (tmp_path / "n.csv").write_text("user_id,item_id\nu1,4|5\nnew,1|2\n")
    code, out, err = call("data", "append", tmp_path / "n.csv", "-w", tmp_path / "w", "--json")
    assert code == 0, err
    assert json.loads(out)["counts"]["new"] == 4


# -- weights ---------------------------------------------------------------------------------------------

QUANTITIES = [(1, "a", 1), (1, "a", -1), (1, "b", 1), (2, "a", 1), (2, "a", 2), (2, "b", 0)]


@pytest.mark.parametrize(
    ("least", "expected"), [(None, [(1, "b"), (2, "a"), (2, "a")]), (2, [(2, "a"), (2, "a")])]
)
def test_pairs_count_by_the_sum_of_their_weights(tmp_path, least, expected):
    table = pl.DataFrame(QUANTITIES, schema=["user_id", "item_id", "n"], orient="row")
    table.write_csv(tmp_path / "t.csv")
    source = read_tables(tmp_path / "t.csv", weight_column="n", min_weight=least)
    assert pairs(source) == expected
    (found,) = [found for found in source.findings if found.kind == "weight"]
    assert found.count == 6 - len(expected)
    assert found.example == "0 of user '1' with item 'a'"
    with pytest.raises(
        DataError, match="has enough weight, for example 0 of user '1' with item 'a'; expected at least 9"
    ):
        read_tables(tmp_path / "t.csv", weight_column="n", min_weight=9)
    with pytest.raises(ConfigError, match="needs a column of weights"):
        read_tables(tmp_path / "t.csv", min_weight=1)


def test_weights_of_a_data_frame_and_of_an_append(tmp_path, call):
    rows = [(f"u{user}", item, 2) for user in range(6) for item in "abc"] + [("u1", "z", 1)]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "n"], orient="row")
    with pytest.warns(UserWarning, match="1 interaction of df is left out"):
        dataset = Dataset.from_frame(table, weight="n", min_weight=2)
    assert dataset.items.ids == ["a", "b", "c"]
    dataset.save(tmp_path / "w" / "dataset")
    (tmp_path / "n.csv").write_text("user_id,item_id,n\nu1,z,1\nu2,y,1\nu2,y,1\n")
    code, out, err = call("data", "append", tmp_path / "n.csv", "-w", tmp_path / "w", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["new_items"] == 1
    (found,) = [found for found in told["findings"] if found["kind"] == "weight"]
    assert (found["count"], found["example"]) == (1, "1 of user 'u1' with item 'z'")


def test_pairs_of_too_little_weight_are_known_and_count_for_nothing(tmp_path, call):
    """A hide of -10 after a read of +1: no interaction, but nothing to recommend either."""
    rows = [(f"u{user}", item, 1) for user in range(6) for item in "abcd" if (user, item) != (0, "d")]
    hidden = [("u0", "d", 1), ("u0", "d", -10), ("u0", "only hidden", -1), ("guest", "a", -1)]
    table = pl.DataFrame(rows + hidden, schema=["user_id", "item_id", "n"], orient="row")
    table.write_csv(tmp_path / "t.csv")
    code, out, err = call("data", "table", tmp_path / "t.csv", "--weight-column", "n", "-w", tmp_path / "w")
    assert code == 0, err
    assert f"interactions: read {len(rows) + 4} interactions: of enough weight {len(rows)}" in " ".join(
        re.findall(r"[\w:]+", out)
    )
    made = Workspace(tmp_path / "w").dataset()
    assert (made.users.ids, made.items.ids) == ([f"u{user}" for user in range(6)], list("abcd"))
    assert made.low_rated.keys().tolist() == [3]
    assert made.known().toarray()[0, 3] == 1
    assert made.excluded().toarray()[0, 3] == 0, "a candidate in evaluation, as what is rated low"

    def appended(*day):
        lines = "".join(f"{user},{item},{n}\n" for user, item, n in day)
        (tmp_path / "day.csv").write_text(f"user_id,item_id,n\n{lines}")
        code, out, err = call("data", "append", tmp_path / "day.csv", "-w", tmp_path / "w", "--json")
        assert code == 0, err
        return json.loads(out)["counts"], Workspace(tmp_path / "w").dataset()

    counts, grown = appended(("u1", "a", -1), ("u1", "e", 1), ("u2", "e", -1))
    assert (counts["read"], counts["new"]) == (3, 1)
    assert grown.low_rated.csr().toarray()[[0, 2], [3, 4]].tolist() == [1, 1]
    assert len(grown.low_rated) == 2, "what is bought stays so"
    counts, grown = appended(("u3", "e", -1))  # returns alone
    assert (counts["read"], counts["new"], len(grown.low_rated)) == (1, 0, 3)
    _, grown = appended(("u0", "d", 1))
    assert len(grown.low_rated) == 2, "an interaction of later counts"

    with pytest.warns(UserWarning, match="weights of their pair"):
        split = Dataset.from_frame(
            train=table, valid=pl.DataFrame([("u0", "d", 2)], schema=table.schema, orient="row"),
            test=table[:1].with_columns(user_id=pl.lit("u5"), item_id=pl.lit("x")), weight="n",
        )  # fmt: skip
    assert split.low_rated is None, "it is held out"
