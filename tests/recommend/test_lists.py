"""Lists by rules, compared with a slow choice one user and one item at a time."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ColumnError, ConfigError
from rlmrec.recommend.explain import Explainer
from rlmrec.recommend.lists import Lists, Rules
from rlmrec.recommend.recommender import Recommender

U, I, D = 12, 150, 6


@pytest.fixture(scope="module")
def lists():
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((U, I)) < 0.1)
    keep = users != 5  # user 5 has nothing
    half = np.flatnonzero(keep)[::2], np.flatnonzero(keep)[1::2]
    train, valid = (Interactions(users[rows], items[rows], U, I) for rows in half)
    empty = Interactions(np.empty(0, int), np.empty(0, int), U, I)
    columns = pl.DataFrame(
        {
            "title": [f"thing {row}" for row in range(I)],
            "brand": [None if row % 11 == 0 else f"brand {row % 7}" for row in range(I)],
            "price": [f"{row / 10:g}" for row in range(I)],
            "in_stock": ["true" if row % 3 else "false" for row in range(I)],
        }
    )
    dataset = Dataset(
        "things", train, valid, empty, Vocabulary([f"u{row}" for row in range(U)], "user"),
        Vocabulary([f"i{row}" for row in range(I)], "item"), columns,
    )  # fmt: skip
    vectors = (rng.standard_normal((n, D), dtype=np.float32) for n in (U, I))
    return Lists(Recommender.of(dataset, *vectors), dataset)


def slow(lists, user, k, rules):
    """The definition of Rules, one item at a time over all items."""
    recommender, columns = lists.recommender, lists.columns
    row = recommender.user_ids.row(user)
    scores = recommender.items @ recommender.users[row]
    had = set(recommender.known[[row]].indices.tolist()) if rules.exclude_seen else set()
    left = [item for item in np.argsort(-scores, kind="stable").tolist() if item not in had]
    if rules.diversity:
        left = left[: max(100, 5 * k)]
    unit = recommender.items / np.linalg.norm(recommender.items, axis=1, keepdims=True)
    low, high = scores[left].min(), scores[left].max()
    chosen = []
    while left and len(chosen) < k:

        def utility(item, chosen=chosen):
            relevance = (scores[item] - low) / (high - low)
            nearest = max([0.0, *(unit[item] @ unit[other] for other in chosen)])
            return (1 - rules.diversity) * relevance - rules.diversity * nearest

        best = max(left, key=utility) if rules.diversity else left[0]
        left.remove(best)
        values = [(name, columns[name][best], cap) for name, cap in rules.at_most.items()]
        same = [sum(columns[name][other] == value for other in chosen) for name, value, _ in values]
        if all(value is None or n < cap for n, (_, value, cap) in zip(same, values, strict=True)):
            chosen.append(best)
    return [recommender.item_ids.id(item) for item in chosen]


@pytest.mark.parametrize(
    "rules",
    [
        Rules(),
        Rules(exclude_seen=False),
        Rules(at_most={"brand": 2}),
        Rules(at_most={"brand": 1, "in_stock": 4}),
        Rules(diversity=0.3),
        Rules(diversity=0.7, at_most={"brand": 3}),
    ],
)
def test_against_a_slow_choice(lists, rules):
    users = [f"u{row}" for row in range(U) if row != 5]
    found = lists.of(users, 12, rules)
    for one in found:
        assert one.source == "history"
        assert one.items == slow(lists, one.user, 12, rules)


def test_filters_read_numbers_and_switches(lists):
    table = lists.columns
    assert (table.schema["price"], table.schema["in_stock"]) == (pl.Float64, pl.Boolean)
    wanted = lists.matching("in_stock and price < 5 and brand in ('brand 1', 'brand 2')")
    expected = [row for row in range(50) if row % 3 and row % 7 in (1, 2) and row % 11]
    assert np.flatnonzero(wanted).tolist() == expected
    [one] = lists.of(["u1"], 100, Rules(where="in_stock = true and price < 5"))
    assert one.items
    assert all(int(raw[1:]) % 3 and int(raw[1:]) < 50 for raw in one.items)
    assert not lists.matching("brand = 'brand 0' and brand is null").any()
    assert lists.matching("id = 'i7'").sum() == 1
    for broken in ("price <", "colour = 'red'", "title", "sum(", "select 1"):
        with pytest.raises(ConfigError, match="expected an SQL condition"):
            lists.matching(broken)


@pytest.fixture(scope="module")
def news(lists):
    """Items whose first rows have times of two days, the second in the other form; and a day, and a German date."""
    old = lists.dataset
    times = [
        "2026-10-14 23:59:59",
        "2026-10-15 00:00:00",
        "2026-10-15T12:30:00.25",
        "2026-10-16 08:00:00",
        "",
    ]
    table = pl.DataFrame(
        {
            "title": [f"thing {row}" for row in range(I)],
            "published_at": [*times, *[None] * (I - len(times))],
            "day": [f"2026-10-{14 + row}" if row < 4 else None for row in range(I)],
            "german": [f"{14 + row}.10.2026" if row < 4 else None for row in range(I)],
            "year": [str(2020 + row % 5) for row in range(I)],
            "meta.tag": ["Ulm"] * I,
        }
    )
    dataset = Dataset("news", old.train, old.valid, old.test, old.users, old.items, table)
    return Lists(lists.recommender, dataset)


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("published_at >= '2026-10-15'", [1, 2, 3]),
        ("published_at >= '15.10.2026'", [1, 2, 3]),
        ("published_at >= '2026-10-15T12:00'", [2, 3]),
        ("published_at > '2026-10-15 12:30:00.25'", [3]),
        ("published_at >= '2026-10-15T14:00:00+02:00'", [2, 3]),
        ("published_at > date '2026-10-15'", [2, 3]),
        ("published_at > timestamp '2026-10-15T12:00'", [2, 3]),
        ("cast(published_at as date) >= '2026-10-15'", [1, 2, 3]),
        ("published_at::date = '2026-10-15'", [1, 2]),
        ("published_at >= 2026-10-15", [1, 2, 3]),
        ("'2026-10-15' < published_at and year > 2021", [2, 3]),
        ("published_at not between '2026-10-15' and '2026-10-15 23:59'", [0, 3]),
        ("\"published_at\" in ('2026-10-15', '2026-10-16 08:00')", [1, 3]),
        ("published_at like '2026-10-15%' -- '2026-10-14'", [1, 2]),
        ("date_part('day', published_at) = 16", [3]),
        ("published_at > date '2026-10-17' - interval '1 day'", [3]),
        ("day >= '2026-10-16'", [2, 3]),
        ("day > '2026-10-15 12:00'", [2, 3]),
        ("day in ('2026-10-15')", [1]),
        ("cast(case when day > '2026-10-15' then 1 else 0 end as int) = 1", [2, 3]),
        ("day <= published_at", [0, 1]),
        ("german = '15.10.2026'", [1]),  # no ISO date: a text as before
        ("\"meta.tag\" = 'Ulm' and day = '2026-10-14'", [0]),
    ],
)
def test_dates_are_compared_as_dates(news, condition, rows):
    # Of rows 0 to 3: published 14 to 16 October, days 14 to 17 October.
    assert np.flatnonzero(news.matching(condition)).tolist() == rows


def test_conditions_on_dates_that_cannot_hold_are_refused(news):
    for condition, said in (
        (
            "published_at >= 'yesterday'",
            "published_at is compared with 'yesterday', but holds dates with times",
        ),
        (
            "day > 5",
            "day is compared with 5, but holds dates: expected a date or a time such as '2026-10-15'",
        ),
        ("day > -5", "day is compared with -5, but holds dates"),
        ("day <> ''", "or 'day is null' for the items without one"),
        ("day = '2026-02-30'", "compared with '2026-02-30'"),
        ("day < '9999-12-31T23:59-12:00'", "expected a date or a time"),
        ("day >", "expected an SQL condition"),
        ("(day) = 'y'", "compare day with a date or a time such as"),
        (
            "published_at",
            "it is a date, expected an SQL condition such as published_at = '2026-10-14 23:59:59'",
        ),
        (
            "meta.tag = 'Ulm'",
            'meta.tag has points, but columns are flat: write "meta.tag" with its quotation',
        ),
        (
            "author.name = 'x'",
            "author.name has points, but columns are flat; expected an SQL condition such as in_",
        ),
    ):
        with pytest.raises(ConfigError) as error:
            news.matching(condition)
        assert said in str(error.value)
    with pytest.raises(
        ConfigError, match="published_at has dates from 2026-10-14 23:59:59 to 2026-10-16 08:00:00"
    ):
        news.check_some_left(Rules(where="published_at > '2026-11-01'"))


def test_unknown_ids_are_skipped_and_counted(lists):
    rules = Rules(candidates=["i1", "i2", "i3", "gone"], exclude=["i2", "never"])
    mask, skipped = lists.allowed(rules)
    assert skipped == 2
    assert np.flatnonzero(mask).tolist() == [1, 3]
    assert set(lists.of(["u5"], 5, rules)[0].items) == {"i1", "i3"}


def test_somebody_who_is_unknown_or_empty_gets_what_is_popular(lists):
    known, empty, unknown = lists.of(["u0", "u5", "somebody"], 7)
    counts = lists.recommender.known.sum(axis=0)
    expected = [f"i{row}" for row in np.argsort(-np.asarray(counts), kind="stable")[:7]]
    assert (known.source, empty.source, unknown.source) == ("history", "popularity", "popularity")
    assert empty.items == unknown.items == expected
    assert unknown.scores.tolist() == sorted(np.asarray(counts).tolist())[::-1][:7]
    brands = [
        lists.columns["brand"][int(raw[1:])]
        for raw in lists.of(["x"], 7, Rules(at_most={"brand": 1}))[0].items
    ]
    named = [brand for brand in brands if brand]
    assert len(named) == len(set(named))


def test_who_rates_an_item_low_does_not_make_it_popular(lists):
    users, items = np.arange(U - 1), np.full(U - 1, 149)
    free = np.asarray(lists.recommender.known[users][:, [149]].toarray()).ravel() == 0
    dataset = replace(lists.dataset, low_rated=Interactions(users[free], items[free], U, I))
    recommender = Recommender.of(dataset, lists.recommender.users, lists.recommender.items)
    assert recommender.known[:, [149]].nnz >= U - 1
    there = Lists(recommender, dataset)
    np.testing.assert_array_equal(there.popularity, lists.popularity)
    assert there.of(["somebody"], 7)[0].items == lists.of(["somebody"], 7)[0].items
    told = Explainer(recommender, dataset).explain("u5", "i149")
    assert (told.is_popular, told.score) == (True, lists.popularity[149])


def test_consumables_are_offered_again(lists):
    recommender = lists.recommender
    [one] = lists.of(["u2"], I, Rules(bought_where="price >= 10"))
    known = set(recommender.known[[2]].indices.tolist())
    rows = [int(raw[1:]) for raw in one.items]
    assert len(rows) == len(set(rows))
    assert {row for row in known if row >= 100} <= set(rows)
    assert not {row for row in known if row < 100} & set(rows)
    assert (np.diff(one.scores) <= 0).all()


@pytest.mark.parametrize(
    "rules", [Rules(), Rules(at_most={"brand": 2}), Rules(diversity=0.5), Rules(where="price < 3")]
)
def test_a_list_ends_with_the_items_however_long_it_should_be(lists, rules):
    endless = lists.of(["u0", "u5", "nobody"], 2_000_000_000, rules)
    for found, whole in zip(endless, lists.of(["u0", "u5", "nobody"], I, rules), strict=True):
        assert found.items == whole.items
        assert len(found.items) <= I


def test_wrong_rules(lists):
    for wrong in (
        {"at_most": {"brand": 0}},
        {"diversity": 1.5},
        {"where": 5},
        {"candidates": "i1"},
        {"exclude": 5},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Rules(**wrong)
    for users, k, rules, told in (
        ("u1", 3, None, r"users is 'u1': expected a list of ids such as \['u0'\]"),
        (None, 3, None, "users is None"),
        (np.array("u1"), 3, None, r"users is array\('u1'.*expected a list of ids"),
        (["u1"], 2.5, None, "k must be a whole number"),
        (["u1"], 3, "price < 5", r"rules has type str: expected Rules\(where='price < 5'\)"),
    ):
        with pytest.raises(ConfigError, match=told):
            lists.of(users, k, rules)
    for condition, told in (
        ("thing_id = 7", "unable to find column \"thing_id\"; ids are in the column id, as text: id = 'i0'"),
        ("id = 7", "id is text: id = 'i0'; expected"),
        ("price < 5 and id in (7, 8)", "id is text: id = 'i0'; expected"),
        ("id = 'i7' and brand > 5", "numeric type .*; brand is text: brand = 'brand 1'; expected"),
    ):
        with pytest.raises(ConfigError, match=told):
            lists.matching(condition)
    for column, is_id in (
        *((name, True) for name in ("item_id", "ITEM_ID", "ItemID", "itemId")),
        *((name, False) for name in ("paid", "grid", "valid", "GRID")),
    ):
        with pytest.raises(ConfigError, match=f'unable to find column "{column}"') as error:
            lists.matching(f"{column} = 7")
        assert ("ids are in the column id" in str(error.value)) == is_id
    with pytest.raises(ConfigError, match=r"\(did you mean 'brand'\?\); expected"):
        lists.matching("brandid = 7")
    with pytest.raises(ConfigError, match=r"\(did you mean 'brand'\?\); ids are in the column id"):
        lists.matching("brand_id = 7")
    assert repr(lists) == (
        f"Lists({lists.recommender!r}, columns for rules: id, title, brand, price, in_stock)"
    )
    with pytest.raises(ColumnError, match="no column 'colour'"):
        lists.of(["u1"], 3, Rules(at_most={"colour": 1}))
    bare = Recommender(
        np.zeros((2, 0), np.float32), np.zeros((2, 0), np.float32),
        Vocabulary([*"ab"], "user"), Vocabulary([*"xy"], "item"), sp.csr_array(np.eye(2)),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="diversity needs embeddings"):
        Lists(bare, lists.dataset).of(["a"], 1, Rules(diversity=0.5))
