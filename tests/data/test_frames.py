"""Data frames give what the same CSV gives, and name what is wrong with them."""

import re
import subprocess
import sys
import warnings
from datetime import UTC, date, datetime
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import pytest

from rlmrec.data.dataset import SPLITS, Dataset
from rlmrec.data.tables import read_tables
from rlmrec.errors import ColumnError, ConfigError, DataError

MAKERS = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "arrow": lambda columns: pl.DataFrame(columns).to_arrow(),
}
NOW = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


def columns(seed=0, n=400):
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(30 * 25)[:n]
    return {
        "user_id": [f"u{pair // 25}" for pair in pairs.tolist()],
        "item_id": (pairs % 25).tolist(),
        "stars": rng.integers(1, 6, n).tolist(),
        "time": rng.integers(0, 1000, n).tolist(),
        "review": [None if k % 3 else f"réview {k}" for k in range(n)],
    }


ITEMS = {"item_id": list(range(25)), "name": [f"Title {row}" for row in range(25)], "pages": list(range(25))}
NAMES = {"rating": "stars", "timestamp": "time", "review": "review"}
FILTERS = {"min_rating": 2, "k_core": 3, "sample_users": 0.9, "period": (100, None), "seed": 3}


def plain(dataset):
    parts = {
        split: {name: values.tolist() for name, values in dataset.split(split).columns().items()}
        for split in SPLITS
    }
    return dataset.fingerprint, dataset.users.ids, dataset.items.ids, dataset.item_texts.rows(), parts


def test_a_frame_gives_what_the_csv_gives(make, tmp_path):
    pl.DataFrame(columns()).write_csv(tmp_path / "r.csv")
    pl.DataFrame(ITEMS).write_csv(tmp_path / "i.csv")
    options = {f"{kind}_column": name for kind, name in NAMES.items()}
    source = read_tables(tmp_path / "r.csv", items=tmp_path / "i.csv", title_column="name", **options)
    expected = Dataset.from_source(source, **FILTERS)
    items = make({"sku" if name == "item_id" else name: values for name, values in ITEMS.items()})
    made = Dataset.from_frame(make(columns()), **NAMES, items=items, items_id="sku", title="name", **FILTERS)
    assert plain(made) == plain(expected)
    assert made.content == expected.content


def test_a_ready_made_split_is_kept(make):
    whole = Dataset.from_frame(make(columns()))
    frames = {
        split: make({
            "user_id": [whole.users.id(row) for row in whole.split(split).users],
            "item_id": [whole.items.id(row) for row in whole.split(split).items],
        })
        for split in SPLITS
    }  # fmt: skip
    assert Dataset.from_frame(**frames, period=(None, None)).fingerprint == whole.fingerprint
    with pytest.raises(ConfigError, match="k_core: not allowed with a ready-made split"):
        Dataset.from_frame(**frames, k_core=2)
    with pytest.raises(ConfigError, match="or a split: train, valid and test: valid is missing"):
        Dataset.from_frame(train=make(columns()), test=make(columns()))
    with pytest.raises(ConfigError, match="either one data frame of interactions, or a split"):
        Dataset.from_frame(train=frames["train"])


def test_dates_are_seconds(make):
    table = columns() | {"time": [NOW] * 400}
    assert set(Dataset.from_frame(make(table), timestamp="time").train.timestamp) == {NOW.timestamp()}


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"user_id": ["a", None, None]}, {}, r"df, row 1 \(counted from 0\), column 'user_id': the user id is missing "
         r"\(2 in all\)"),
        ({"item_id": [1.5, 2, 3]}, {}, r"df, row 0 .*column 'item_id': got 1\.5 \(1 such in all\), item ids must be"),
        ({"item_id": [1, 2, None]}, {}, r"df, row 2 .* the item id is missing \(1 in all\)"),
        ({"user_id": [True, False, True]}, {}, "user_id'.* ids must be integers or text"),
        ({"stars": [1.0, float("inf"), 2.0]}, {"rating": "stars"}, "column 'stars': expected a finite number, got inf"),
        ({}, {"user": "userid"}, "df has no column 'userid': its columns are .*; did you mean 'user_id'"),
        ({}, {"user": "who"}, "df has no column 'who': its columns are .*; name the columns .user, item and so on"),
        ({}, {"k_core": 5}, "the 5-core is empty"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_a_count_and_an_example(make, changes, options, message):
    table = {"user_id": ["a", "b", "c"], "item_id": [1, 2, 3], "stars": [1.0, 2.0, 3.0]}
    with pytest.raises(DataError, match=message):
        Dataset.from_frame(make(table | changes), **options)


def test_an_empty_frame_and_what_is_no_frame(make):
    with pytest.raises(DataError, match="df has columns but no rows"):
        Dataset.from_frame(make({"user_id": [], "item_id": []}))
    for odd in ({"user_id": [1]}, [1], pl.LazyFrame({"user_id": [1]})):
        with pytest.raises(
            DataError, match="df: expected a pandas or Polars data frame or an Arrow table, got "
        ):
            Dataset.from_frame(odd)


def test_repeated_pairs_and_missing_titles_are_warned_of(make):
    table = columns()
    table = {name: [*values, values[0]] for name, values in table.items()}
    with pytest.warns(UserWarning, match="occurs more than once") as caught:
        Dataset.from_frame(make(table), items=make({"item_id": ITEMS["item_id"], "art": ["x"] * 25}))
    told = "\n".join(str(warning.message) for warning in caught)
    assert f"1 pair of user and item occurs more than once, for example user {table['user_id'][0]!r}" in told
    assert "no column of titles" in told
    assert all(warning.filename == __file__ for warning in caught)


def test_an_item_twice_and_items_of_others_are_refused(make):
    with pytest.raises(DataError, match=r"items, row 25 .*: item 0 is in row 0 .* already"):
        Dataset.from_frame(make(columns()), items=make({"item_id": [*range(25), 0], "title": ["x"] * 26}))
    with pytest.raises(
        DataError, match="items, column 'item_id': text, but the item ids of the dataset are int"
    ):
        Dataset.from_frame(make(columns()), items=make({"item_id": ["0"], "title": ["x"]}))


# What only pandas has.


def test_types_of_pandas_are_read():
    table = pd.DataFrame(columns())
    expected = plain(Dataset.from_frame(table, **NAMES, items=pd.DataFrame(ITEMS), title="name"))
    same = {
        "floats that are whole": table.assign(item_id=table["item_id"].astype(float)),
        "nullable integers": table.assign(item_id=table["item_id"].astype("Int64")),
        "categories": table.astype({"user_id": "category", "item_id": "category"}),
        "objects": table.astype({"user_id": object, "item_id": object}),
        "an index": table.set_index("user_id"),
        "two indices": table.set_index(["user_id", "item_id"]),
        "any other index": table.set_index(pd.Index(range(1000, 1400))),
    }
    for kind, frame in same.items():
        items = pd.DataFrame(ITEMS).set_index("item_id")
        assert plain(Dataset.from_frame(frame, **NAMES, items=items, title="name")) == expected, kind


def test_mixed_ids_of_pandas_are_refused():
    table = pd.DataFrame({"user_id": [3, "b", "3"], "item_id": [1, 2, 3]})
    with pytest.raises(
        DataError, match=r"df, column 'user_id' mixes integers and text: 3 in row 0 .*, '3' in row 2"
    ):
        Dataset.from_frame(table)


def test_a_repeated_column_of_pandas_is_refused():
    table = pd.DataFrame([[1, 2, 3]], columns=["user_id", "item_id", "user_id"])
    with pytest.raises(DataError, match="user_id"):
        Dataset.from_frame(table)
    with pytest.raises(ColumnError, match="no column 'user_id': its columns are '0', '1'"):
        Dataset.from_frame(pd.DataFrame([[1, 2]]))


def test_texts_of_pandas_are_text():
    tags = [["x", "y"], np.array(["z"]), None, float("nan"), 5]
    items = pd.DataFrame({"item_id": range(5), "title": list("abcde"), "tags": tags})
    table = {"user_id": [1, 1, 1, 2, 2, 2, 2], "item_id": [0, 1, 2, 3, 4, 0, 1]}
    made = Dataset.from_frame(pd.DataFrame(table), items=items)
    assert made.item_texts["tags"].to_list() == ["x, y", "z", None, None, "5"]


def test_missing_integers_of_pandas_stay_integers():
    items = pd.DataFrame({"item_id": range(3), "year": pd.array([1999, None, 2001], dtype="Int64")})
    made = Dataset.from_frame(pd.DataFrame({"user_id": [1, 1, 2], "item_id": range(3)}), items=items)
    assert made.item_texts["year"].to_list() == ["1999", None, "2001"]


def test_an_index_of_pandas_may_be_a_column_too():
    frame = pd.DataFrame({"user_id": [1, 1, 1, 2], "item_id": [0, 1, 2, 0]})
    expected = Dataset.from_frame(frame, split=(1, 1, 1))
    for kept in (True, False):
        made = Dataset.from_frame(frame.set_index("user_id", drop=not kept), split=(1, 1, 1))
        assert made.fingerprint == expected.fingerprint


def test_pandas_and_pyarrow_are_not_imported():
    code = (
        "import sys, polars, rlmrec; "
        "rlmrec.Dataset.from_frame(polars.DataFrame({'user_id': [1, 1, 2], 'item_id': [1, 2, 1]}), split=(1, 0, 0)); "
        "assert not {'pandas', 'pyarrow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_reprs_help():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Dataset.from_frame(
            pl.DataFrame(columns()), items=pl.DataFrame(ITEMS), name="shop", rating="stars"
        )
    assert repr(made).startswith(
        "Dataset('shop': 30 users x 25 items, interactions 240 train / 80 valid / 80 test"
    )
    assert repr(made).endswith("item texts: name)")
    page = made._repr_html_()
    assert re.search("texts of items<[^>]*><[^>]*>name<", page)
    assert re.search("other columns of items<[^>]*><[^>]*>pages<", page)
    assert repr(made.items) == "Vocabulary(25 items: 0, 1, 2, …)"
    assert repr(made.train) == "Interactions(240 of 30 users with 25 items; rating)"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"seed": -1}, "seed is -1: expected a whole number of at least 0"),
        ({"k_core": 0}, "^k_core is 0: expected a whole number of at least 1"),
        ({"k_core": "3"}, "k_core is '3': expected a whole number"),
        ({"item": "user_id"}, "user_id"),
        ({"user": None}, r"user is None \(NoneType\): expected the name of a column"),
        ({"rating": 0}, r"rating is 0 \(int\): expected the name of a column, or None"),
        ({"sample_users": "all"}, "sample_users is 'all': expected a number, or None, which keeps all"),
        ({"min_rating": "high"}, "min_rating is 'high': expected a number"),
        ({"split": 0.8}, r"got 0.8: in Python pass \(3, 1, 1\)"),
        ({"split": None}, r"got None: in Python pass \(3, 1, 1\)"),
        ({"period": 1.7e9}, r"period is 1700000000.0: expected \(start, end\)"),
        ({"period": ("last week", None)}, "period: the start 'last week': expected a day such as 2012-01-31"),
        ({"period": (None, pd.NaT)}, "period: the end NaT: expected a day"),
        ({"period": (np.datetime64("NaT", "D"), None)}, "period: the start .*NaT.*: expected a day"),
        ({"period": ("2020-01-03", "2020-01-02")}, "the start 2020-01-03 is not before the end 2020-01-02"),
        ({"period": (5, 5)}, "the start 5 is not before the end 5"),
    ],
)
def test_options_of_other_types_or_out_of_range_are_refused(option, message):
    table = pd.DataFrame({"user_id": [1, 2, 2], "item_id": [1, 1, 2]})
    with pytest.raises((ConfigError, DataError), match=message):
        Dataset.from_frame(table, **option)


DAYS = pd.to_datetime(["2020-01-01 12:00", "2020-01-02 00:00", "2020-01-02 23:59", "2020-01-03 00:00"])


@pytest.mark.parametrize(
    ("period", "kept"),
    [
        (("2020-01-02", None), [1, 2, 3]),
        ((None, "2020-01-02"), [0, 1, 2]),  # the whole day, as --until
        (("2020-01-02", date(2020, 1, 2)), [1, 2]),
        ((None, "2020-01-02T23:59"), [0, 1]),  # a moment, which is excluded
        ((np.datetime64("2020-01-02"), np.datetime64("2020-01-02")), [1, 2]),
        ((datetime(2020, 1, 2), pd.Timestamp("2020-01-03")), [1, 2]),
        ((np.datetime64("2020-01-02T23:00"), NOW.timestamp() + 3 * 86400), [2, 3]),
    ],
)
def test_periods_are_days_or_moments(period, kept):
    table = pd.DataFrame({"user_id": 0, "item_id": [0, 1, 2, 3], "at": DAYS})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = pd.concat([table, table.assign(user_id=1)])
        made = Dataset.from_frame(table, timestamp="at", period=period, split=(1, 0, 0))
    assert made.items.ids == kept


def test_who_is_left_out_is_warned_of():
    orders = pd.DataFrame({"user_id": [*"aabbccd"], "item_id": [*"xyyxxyw"]})
    jobs = pd.DataFrame({"item_id": [*"wxyz"], "title": [*"WXYZ"]})
    with pytest.warns(UserWarning, match="no interaction") as caught:
        made = Dataset.from_frame(
            orders,
            items=jobs,
            users=pd.DataFrame({"user_id": [*"abcdef"], "cv": "Go"}),
            k_core=2,
            split=(1, 0, 0),
        )
    told = "\n".join(str(one.message) for one in caught)
    assert "2 users of the table have no interaction and are not in the dataset: a cold start" in told
    assert "1 item of the table has no interaction and is not in the dataset" in told
    assert "left out" not in told  # less than half, by a filter that the caller named
    notes = made.left_out_notes()
    assert "left out: 1 of 4 users (not in the 2-core)" in notes
    assert "left out: 1 of 3 items (not in the 2-core)" in notes
    assert "left out: 1 of 4 users" in made._repr_html_()
    alone = pd.DataFrame({"user_id": [*"efgh"], "item_id": [*"stuv"]})
    with pytest.warns(
        UserWarning, match=r"8 users \(not in the 2-core\): a smaller k_core keeps more$"
    ) as caught:
        Dataset.from_frame(pd.concat([orders, alone]), k_core=2, split=(1, 0, 0))
    assert "left out: 5 of 7 items (not in the 2-core): a smaller k_core keeps more" in map(
        str, [one.message for one in caught]
    )
    ten = pd.DataFrame({"user_id": np.repeat(np.arange(10), 3), "item_id": np.tile(np.arange(3), 10)})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="left out")
        warnings.filterwarnings("ignore", message="the (valid|test) split is empty")
        assert (
            "6 of 10 users (not in the sample"
            in Dataset.from_frame(ten, sample_users=0.4, split=(1, 0, 0))._repr_html_()
        )


def test_ids_of_other_types_and_frames_without_columns():
    with pytest.raises(
        DataError, match=r"got UUID\(.*ids must be integers or text: convert them \(pandas: .astype"
    ):
        Dataset.from_frame(pd.DataFrame({"user_id": [UUID(int=1)], "item_id": [1]}))
    with pytest.raises(ColumnError, match="df has no column 'user_id': it has no columns at all"):
        Dataset.from_frame(pd.DataFrame())
