"""A shop's next day: rows, held-out pairs and profiles stay; what is new joins by the rule of the split."""

import pickle
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest

from rlmrec.data.append import append
from rlmrec.data.dataset import SPLITS, Dataset
from rlmrec.data.frames import read_frame
from rlmrec.data.tables import Columns
from rlmrec.errors import ColumnError, DataError
from rlmrec.testing.shop import shop

COLUMNS = Columns("customer_id", "product_id", timestamp="ordered_at")


@pytest.fixture(scope="module")
def market():
    return shop(customers=120, products=60, orders=2000)


def made(market, **options):
    with pytest.warns(UserWarning, match="occur more than once"):
        return Dataset.from_frame(
            market.orders,
            user="customer_id",
            item="product_id",
            timestamp="ordered_at",
            items=market.products,
            **options,
        )


def next_day(market, dataset, items=True):
    orders = read_frame(market.next_day, "orders", COLUMNS.present, COLUMNS[:2])
    products = read_frame(market.next_products, "products", ids=("product_id",)) if items else None
    return append(dataset, orders, COLUMNS, products)


def pairs(dataset, split):
    part = dataset.split(split) if split != "cold" else dataset.cold
    if part is None:
        return set()
    return {
        (dataset.users.id(u), dataset.items.id(i))
        for u, i in zip(part.users.tolist(), part.items.tolist(), strict=True)
    }


def test_what_is_rated_low_is_known_and_in_no_split(tmp_path):
    rng = np.random.default_rng(0)
    table = pl.DataFrame(
        {
            "user_id": rng.integers(30, size=900),
            "item_id": rng.integers(25, size=900),
            "stars": rng.choice([1.0, 2.0, 3.0, 4.0, 5.0, None], size=900).tolist(),
            "t": np.arange(900.0),
        }
    )
    columns = Columns("user_id", "item_id", rating="stars", timestamp="t")

    def high(rows):  # the latest opinion counts, and unrated pairs are none
        rated = rows.drop_nulls("stars").unique(["user_id", "item_id"], keep="last", maintain_order=True)
        return set(rated.filter(pl.col("stars") >= 4).select("user_id", "item_id").rows())

    def low(rows):
        return set(rows.select("user_id", "item_id").rows()) - high(rows)

    def known_low(dataset):
        part = dataset.low_rated
        return {
            (dataset.users.id(u), dataset.items.id(i))
            for u, i in zip(part.users.tolist(), part.items.tolist(), strict=True)
        }

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Dataset.from_frame(table[:700], rating="stars", timestamp="t", min_rating=4)
    assert known_low(made) == low(table[:700])
    assert not (made.everything().csr().multiply(made.low_rated.csr())).nnz
    assert (made.known().toarray() > 0).sum() == len(made.everything()) + len(made.low_rated)
    assert not made.excluded().multiply(made.low_rated.csr()).nnz, "candidates in evaluation, as in the paper"
    made.save(tmp_path / "dataset")
    again = Dataset.load(tmp_path / "dataset")
    assert known_low(again) == known_low(made)
    assert known_low(again.final()) == known_low(made)

    day = table[700:].filter(pl.col("user_id") < 29)
    stranger = pl.DataFrame({"user_id": [77], "item_id": [3], "stars": [1.0], "t": [1000.0]})
    orders = read_frame(pl.concat([day, stranger]), "day", columns.present, columns[:2])
    appended = append(again, orders, columns)
    grown, both = appended.dataset, pl.concat([table[:700], day])
    everything = set().union(*(pairs(grown, name) for name in (*SPLITS, "cold")))
    assert everything == high(both), "a later low rating takes back an earlier one"
    assert known_low(grown) == low(both), "nobody joins by a low rating alone"
    assert appended.counts["earlier ratings that they take back"] == len(high(table[:700]) - high(both)) > 0
    for name in SPLITS:
        assert pairs(grown, name) & high(table[:700]) <= pairs(made, name), "splits stay"
    only_low = read_frame(day.filter(pl.col("stars") < 3)[:3], "day", columns.present, columns[:2])
    assert append(grown, only_low, columns).dataset is grown
    known = table[:700].filter(pl.col("stars") < 3, pl.col("user_id") == made.users.id(0))
    again = append(made, read_frame(known, "day", columns.present, columns[:2]), columns).dataset
    assert again is made, "what was rated low before an interaction takes nothing back"
    row = made.train.users[0]
    every = pl.DataFrame(
        {"item_id": made.items.ids, "user_id": made.users.id(row), "stars": 1.0, "t": 2000.0}
    )
    hidden = pl.concat([every[:-1], every[-1:].with_columns(stars=pl.lit(5.0))]).select(columns.present)
    taken = append(made, read_frame(hidden, "day", columns.present, columns[:2]), columns).dataset
    left = taken.everything().take(taken.everything().users == row).items
    assert left.tolist() == [made.n_items - 1]
    all_low = append(made, read_frame(every, "day", columns.present, columns[:2]), columns).dataset
    assert not (all_low.everything().users == row).any(), "held-out pairs are taken back, too"
    assert all_low.descends_from(made.fingerprint)
    ids = set(made.train.id.tolist()) - set(all_low.train.id.tolist())
    assert set(all_low.taken_back) == ids
    later = append(all_low, read_frame(hidden, "day", columns.present, columns[:2]), columns).dataset
    assert not ids & set(later.everything().id.tolist()), "no id is given twice"


def test_who_has_no_training_interaction_left_is_not_evaluated():
    columns = Columns(rating="stars", timestamp="t")
    rows = [(user, item, 5.0, 10.0 * item) for user in range(4) for item in range(6)]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "stars", "t"], orient="row")
    made = Dataset.from_frame(table, rating="stars", timestamp="t", min_rating=3, split="leave-last 1")
    hidden = table.filter(pl.col("user_id") == 2, pl.col("item_id") < 4).with_columns(
        stars=pl.lit(1.0), t=pl.lit(99.0)
    )
    grown = append(made, read_frame(hidden, "day", columns.present, columns[:2]), columns).dataset
    assert pairs(grown, "cold") == {(2, 4), (2, 5)}
    assert pairs(grown, "test") == {(0, 5), (1, 5), (3, 5)}


def test_the_shop_is_the_same_for_the_same_seed(market):
    again = shop(customers=120, products=60, orders=2000)
    assert market.orders.equals(again.orders)
    assert market.next_products.equals(again.next_products)
    assert not market.orders.equals(shop(customers=120, products=60, orders=2000, seed=1).orders)
    new = set(market.next_day["product_id"]) - set(market.products["product_id"])
    assert new  # sold before anybody has them in training
    assert set(market.next_day["customer_id"]) - set(market.orders["customer_id"])


@pytest.mark.parametrize("split", [(3, 1, 1), "hash 3:1:1", "temporal 8:1:1", "leave-last 1"])
def test_rows_and_splits_stay(market, split, tmp_path):
    dataset = made(market, split=split)
    appended = next_day(market, dataset)
    grown = appended.dataset
    assert grown.users.ids[: dataset.n_users] == dataset.users.ids
    assert grown.items.ids[: dataset.n_items] == dataset.items.ids
    assert appended.new_users
    assert appended.new_items
    for name in (*SPLITS, "cold"):
        assert pairs(dataset, name) <= pairs(grown, name)
    everything = {*zip(market.orders["customer_id"], market.orders["product_id"], strict=True)}
    everything |= {*zip(market.next_day["customer_id"], market.next_day["product_id"], strict=True)}
    assert set().union(*(pairs(grown, name) for name in (*SPLITS, "cold"))) == everything
    ids = np.concatenate([grown.split(name).id for name in SPLITS])
    assert len(np.unique(ids)) == len(ids)  # every interaction can be traced back
    grown.save(tmp_path / "d")
    stored = Dataset.load(tmp_path / "d")
    assert stored.fingerprint == grown.fingerprint
    assert stored.descends_from(dataset.fingerprint)
    assert not dataset.descends_from(grown.fingerprint)
    assert len(stored.everything()) == len(everything)


def test_where_new_pairs_go(market):
    def gained(split):
        dataset = made(market, split=split)
        grown = next_day(market, dataset).dataset
        return dataset, grown, {name: pairs(grown, name) - pairs(dataset, name) for name in (*SPLITS, "cold")}

    dataset, _, new = gained("temporal 8:1:1")
    assert not new["train"]
    assert not new["valid"]
    trained = {user for user, _ in pairs(dataset, "train")}
    assert {user for user, _ in new["test"]} <= trained
    assert not {user for user, _ in new["cold"]} & trained
    dataset, grown, new = gained("leave-last 1")
    assert not new["cold"]  # a new user's first order is for training
    held_out = {user for user, _ in pairs(dataset, "test")}
    assert {pair for pair in set().union(*new.values()) if pair[0] in held_out} <= new["test"]
    dataset, grown, new = gained("hash 3:1:1")
    again = made(market, split="hash 3:1:1")
    assert all(pairs(dataset, name) == pairs(again, name) for name in SPLITS)
    assert (grown.train.user_degrees() > 0).all()


def test_appending_twice_changes_nothing(market):
    grown = next_day(market, made(market)).dataset
    again = next_day(market, grown)
    assert again.dataset is grown
    assert again.counts["new"] == 0


def test_prices_change_without_a_new_dataset(market):
    """Vectors, runs and profiles depend on ids and texts alone; a changed title makes one profile stale."""
    dataset = made(market)
    stock = market.products.select("product_id", pl.col("price") * 2, in_stock=~pl.col("in_stock"))
    dearer = append(dataset, None, COLUMNS, read_frame(stock, "stock", ids=("product_id",))).dataset
    assert dearer.fingerprint == dataset.fingerprint
    assert dearer.item_texts["title"].to_list() == dataset.item_texts["title"].to_list()
    row = dataset.items.row("p00007")
    assert float(dearer.item_texts["price"][row]) == pytest.approx(
        2 * float(dataset.item_texts["price"][row])
    )
    assert all(dearer.keeps_profile("item", raw, dataset.content) for raw in dataset.items.ids)
    titles = pl.DataFrame({"product_id": ["p00007"], "title": ["Another pan"]})
    renamed = append(dearer, None, COLUMNS, read_frame(titles, "titles", ids=("product_id",))).dataset
    assert renamed.item_texts["title"][row] == "Another pan"
    capital = titles.rename({"title": "Title"})
    again = append(dearer, None, COLUMNS, read_frame(capital, "titles", ids=("product_id",))).dataset
    assert again.item_texts.equals(renamed.item_texts)
    assert renamed.item_texts["price"].to_list() == dearer.item_texts["price"].to_list()
    kept = [renamed.keeps_profile("item", raw, dataset.content) for raw in dataset.items.ids]
    assert [index for index, keeps in enumerate(kept) if not keeps] == [row]
    assert renamed.keeps_profile("user", dataset.users.id(0), dataset.content)
    assert not renamed.keeps_profile("item", dataset.items.id(0), "another dataset")


def test_what_does_not_fit_is_refused(market):
    dataset = made(market)
    orders = pl.DataFrame({"customer_id": ["c1"], "product_id": ["p1"]})
    with pytest.raises(DataError, match="--timestamp-column"):
        append(dataset, read_frame(orders, "orders", ids=COLUMNS[:2]), Columns("customer_id", "product_id"))
    numbers = Dataset.from_frame(
        pl.DataFrame({"user_id": [1, 1, 2, 2] * 2, "item_id": [1, 2, 3, 4, 5, 6, 7, 8]})
    )
    with pytest.raises(
        DataError,
        match=r"item ids are text \('0'\), those of the dataset are integers: convert them, .*astype\(int\)",
    ):
        append(numbers, pd.DataFrame({"user_id": [9], "item_id": ["0"]}))
    with pytest.raises(DataError, match="user ids of the dataset are integers"):
        append(
            numbers, read_frame(orders.rename({"customer_id": "user_id", "product_id": "item_id"}), "orders")
        )


def test_cold_users_are_kept_or_dropped(market):
    kept, dropped = (made(market, split="temporal 8:1:1", cold=cold) for cold in ("keep", "drop"))
    assert kept.provenance["cold"] == dropped.provenance["cold"]
    assert dropped.cold is None
    assert len(kept.cold)
    untrained = np.flatnonzero(kept.train.user_degrees() == 0)
    assert set(kept.cold.users) == set(untrained)
    assert len(dropped.everything()) < len(kept.everything())


def test_everything_is_in_a_final_dataset(market):
    dataset = made(market, split="temporal 8:1:1")
    final = dataset.final()
    assert len(final.train) == len(dataset.everything()) == len(set(final.train.keys()))
    assert not len(final.valid)
    assert not len(final.test)
    assert final.fingerprint == dataset.fingerprint
    assert len(dataset.valid)
    for one in (final, final.final(), replace(final, name="renamed"), pickle.loads(pickle.dumps(final))):
        assert np.array_equal(one.split_of_means.keys(), dataset.train.keys())
    assert len(pickle.dumps(final)) < 1.1 * len(pickle.dumps(dataset))


def test_what_is_unusual_about_a_new_day_is_found(market):
    dataset = made(market)
    assert next_day(market, dataset).findings == ()
    known = dataset.users.id(0)
    odd = market.next_day.head(3).with_columns(
        customer_id=pl.Series([f" {known.upper()}", "nan", known]), ordered_at=pl.lit(4_200_000_000_000.0)
    )
    orders = read_frame(odd, "orders", COLUMNS.present, COLUMNS[:2])
    found = {finding.kind: finding for finding in append(dataset, orders, COLUMNS).findings}
    assert found.keys() == {"spelling", "missing id", "time"}
    assert found["spelling"].count == found["missing id"].count == 1
    assert known in found["spelling"].example
    undescribed = market.next_products.with_columns(title=None, category=None, brand=None, description=None)
    bare = append(
        dataset,
        read_frame(market.next_day, "orders", COLUMNS.present, COLUMNS[:2]),
        COLUMNS,
        read_frame(undescribed.select("product_id", "title"), "products", ids=("product_id",)),
    )
    assert [finding.kind for finding in bare.findings] == ["without text"]
    assert "write the ids alike" in bare.findings[0].remedy
    (found,) = next_day(market, dataset, items=False).findings
    assert "give the table of items as well (items, --items)" in found.remedy


def test_texts_of_known_items_that_change_are_counted(market):
    dataset = made(market)
    counts = next_day(market, dataset).counts
    assert counts["known items with a changed text"] == 0
    assert counts["known items with other changes only"] > 0
    worse = market.products.with_columns(
        description=pl.when(pl.int_range(pl.len()) < 3).then(pl.lit("n/a")).otherwise("description")
    )
    known = dataset.items.ids
    worn = int(worse.head(3)["product_id"].is_in(known).sum())
    appended = append(dataset, None, COLUMNS, read_frame(worse, "products", ids=("product_id",)))
    assert appended.counts["known items with a changed text"] == worn > 0
    assert appended.counts["known items with other changes only"] == 0
    [found] = [finding for finding in appended.findings if finding.kind == "missing text"]
    assert found.count == worn
    bare = replace(dataset, item_texts=None)
    one = market.products.filter(pl.col("product_id") == known[0])
    described = append(bare, None, COLUMNS, read_frame(one, "products", ids=("product_id",)))
    assert described.counts["known items with a changed text"] == 1
    assert described.counts["known items with other changes only"] == 0


def test_new_users_whose_past_was_left_out_are_told(market):
    dataset = made(market, k_core=8)
    gone = dataset.left_out["id"]
    kind, back = "left out before", market.orders.filter(pl.col("customer_id").is_in(gone.implode()))
    orders = read_frame(back.tail(30), "orders", COLUMNS.present, COLUMNS[:2])
    appended = append(dataset, orders, COLUMNS)
    [found] = [finding for finding in appended.findings if finding.kind == kind]
    assert found.count == len(appended.new_users) == back.tail(30)["customer_id"].n_unique()
    assert "not in the 8-core" in found.example
    assert "make the dataset again" in found.remedy
    assert kind not in {finding.kind for finding in next_day(market, made(market)).findings}


def test_new_users_and_items_below_the_k_core_are_told(market):
    dataset = made(market, k_core=5)
    appended = next_day(market, dataset)
    found = [finding for finding in appended.findings if finding.kind == "below-k-core"]
    everything = appended.dataset.everything()
    for new, degrees, size in (
        (appended.new_users, everything.user_degrees(), dataset.n_users),
        (appended.new_items, everything.item_degrees(), dataset.n_items),
    ):
        few = [raw for raw, degree in zip(new, degrees[size:], strict=True) if degree < 5]
        kind = "users" if new is appended.new_users else "items"
        have = "has" if len(few) == 1 else "have"
        [finding] = [f for f in found if f"{len(new)} new {kind} {have} fewer than 5" in str(f)]
        assert finding.count == len(few) > 0
        assert finding.example.startswith(repr(few[0]))
        assert "all interactions and --k-core 5" in finding.remedy
    assert not [f for f in next_day(market, made(market)).findings if f.kind == "below-k-core"]
    assert not [f for f in next_day(market, appended.dataset).findings if f.kind == "below-k-core"]


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame])
def test_data_frames_are_appended_by_the_columns_of_before(market, make):
    dataset = made(market)
    expected = next_day(market, dataset)
    found = append(
        dataset,
        make(market.next_day.to_dict(as_series=False)),
        items=make(market.next_products.to_dict(as_series=False)),
    )
    assert found.counts == expected.counts
    assert found.dataset.fingerprint == expected.dataset.fingerprint
    with pytest.raises(
        ColumnError, match=r"no column 'customer_id'.*name the columns .columns=Columns.user=…"
    ):
        append(dataset, make({"user": ["x"], "item": ["y"]}))
    with pytest.raises(DataError, match=r"orders: expected a pandas or Polars data frame .* got str"):
        append(dataset, "orders.csv")
