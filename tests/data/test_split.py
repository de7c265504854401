import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlmrec.data.interactions import Interactions
from rlmrec.data.split import SplitRule, split_by_ratio, split_by_time
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError, DataError


def make(keys, n_items=12):
    users, items = np.divmod(np.array(sorted(keys), np.int64), n_items)
    return Interactions(users, items, 10, n_items)


def split(interactions, ratio=(3, 1, 1), seed=0):
    return split_by_ratio(interactions, ratio, np.random.default_rng(seed))


@given(
    st.sets(st.integers(0, 119), min_size=2).filter(lambda keys: len({key // 12 for key in keys}) > 1),
    st.tuples(st.integers(1, 5), st.integers(0, 5), st.integers(0, 5)),
    st.integers(0, 9),
)
def test_a_split_is_a_partition_that_trains_every_user_and_item(keys, ratio, seed):
    interactions = make(keys)
    parts = split(interactions, ratio, seed)
    assert sorted(np.concatenate([part.id for part in parts])) == interactions.id.tolist()
    assert all((np.diff(part.id) > 0).all() for part in parts)  # the original order
    train, valid, test = parts
    assert (train.user_degrees()[interactions.user_degrees() > 0] > 0).all()
    assert (train.item_degrees()[interactions.item_degrees() > 0] > 0).all()
    n = len(interactions)
    asked = round(n * ratio[0] / sum(ratio))
    n_users, n_items = len(set(interactions.users.tolist())), len(set(interactions.items.tolist()))
    # More than asked only if the firsts of each user and item need it.
    assert asked <= len(train) <= max(asked, n_users + n_items)
    held_out = ratio[1] + ratio[2]
    assert len(valid) == (round((n - len(train)) * ratio[1] / held_out) if held_out else 0)
    assert len(test) == n - len(train) - len(valid)


def test_sizes_meet_the_ratio_exactly():
    assert [len(part) for part in split(make(range(120)))] == [72, 24, 24]


def test_the_seed_decides():
    interactions = make(range(120))
    ids = [split(interactions, seed=seed)[2].id.tolist() for seed in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("ratio", [(3, 1), (0, 1, 1), (1, -1, 1), (1, float("nan"), 1), (1, float("inf"), 1)])
def test_a_bad_ratio_is_refused(ratio):
    with pytest.raises(DataError, match="three non-negative numbers such as 3:1:1"):
        split(make(range(30)), ratio)
    with pytest.raises(DataError, match=r"numbers such as 3:1:1, got '3:1:1': in Python pass \(3, 1, 1\)"):
        split(make(range(30)), "3:1:1")


def test_one_user_is_refused():
    with pytest.raises(DataError, match="at least 2 users, got 1"):
        split(make(range(5)))


def test_nothing_is_refused():
    with pytest.raises(DataError, match="no interactions to split"):
        split(make([]))


def timed(rows):
    """(user, item, time) of 3 users and 4 items."""
    users, items, times = map(np.array, zip(*rows, strict=True))
    return Interactions(users, items, 3, 4, timestamp=times.astype(float))


def pairs(part):
    return sorted(zip(part.users.tolist(), part.items.tolist(), strict=True))


def test_by_time_keeps_who_is_on_both_sides():
    # The cut lies after time 3; user 2 came late, item 3 was there early only.
    rows = [(0, 0, 1), (1, 1, 2), (0, 3, 3), (0, 1, 4), (1, 0, 5), (2, 0, 6)]
    early, late = split_by_time(timed(rows), 0.5)
    assert pairs(early) == [(0, 0), (1, 1)]
    assert pairs(late) == [(0, 1), (1, 0)]


def test_leaving_out_goes_on_until_nothing_changes():
    # Item 2 goes, with it user 1's only late interaction, with that user item 1's only early one.
    rows = [(0, 0, 1), (1, 1, 2), (0, 3, 3), (1, 2, 7), (0, 1, 8), (0, 0, 9)]
    early, late = split_by_time(timed(rows), 0.5)
    assert pairs(early) == pairs(late) == [(0, 0)]


def test_by_time_within_each_user():
    rows = [(0, 0, 1), (0, 1, 2), (1, 1, 100), (1, 0, 101), (2, 0, 50)]
    early, late = split_by_time(timed(rows), 0.5, per_user=True)
    assert pairs(early) == [(0, 0), (1, 1)]
    assert pairs(late) == [(0, 1), (1, 0)]


def test_one_moment_is_not_torn_apart():
    rows = [(0, 0, 1), (0, 1, 1), (0, 2, 1), (1, 0, 1), (0, 0, 2), (1, 0, 2)]
    for per_user in (False, True):
        early, late = split_by_time(timed(rows), 0.3, per_user)
        assert early.timestamp.max() == 1
        assert late.timestamp.min() == 2


def test_what_cannot_be_cut_by_time():
    with pytest.raises(DataError, match="needs timestamps"):
        split_by_time(make(range(5)), 0.5)
    with pytest.raises(DataError, match=r"in \(0, 1\), got 1"):
        split_by_time(timed([(0, 0, 1)]), 1)
    with pytest.raises(DataError, match="no user has interactions with the same items"):
        split_by_time(timed([(0, 0, 1), (1, 1, 2)]), 0.5)


def named(interactions):
    return (
        Vocabulary([f"u{row}" for row in range(interactions.n_users)], "user"),
        Vocabulary([f"i{row}" for row in range(interactions.n_items)], "item"),
    )


def with_times(seed=0, n=90):
    rng = np.random.default_rng(seed)
    keys = np.sort(rng.choice(120, n, replace=False))
    users, items = np.divmod(keys, 12)
    return Interactions(users, items, 10, 12, timestamp=rng.permutation(n).astype(float))


@pytest.mark.parametrize("text", ["3:1:1", "random 8:1:1", "hash", "temporal 8:1:1", "leave-last 2", "leave-last",
                                  "temporal 2026-11-01 2026-11-15T06:00:00"])  # fmt: skip
def test_a_rule_is_read_from_text_and_written_again(text):
    rule = SplitRule.parse(text)
    assert SplitRule.parse(str(rule)) == rule


@pytest.mark.parametrize(
    "text", ["", "3:1", "leave-last 0", "leave-last x", "temporal 2026-11-02 2026-11-01", "byhash 1:1:1"]
)
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(ConfigError, match="expected three numbers such as 3:1:1"):
        SplitRule.parse(text)


@pytest.mark.parametrize("text", ["hash 3:1:1", "temporal 3:1:1", "leave-last 2"])
def test_every_rule_partitions_and_does_not_depend_on_the_order_of_rows(text):
    interactions = with_times()
    rule, ids = SplitRule.parse(text).settled(interactions), named(interactions)
    parts = rule.parts(interactions, *ids, np.random.default_rng(0))
    assert sorted(np.concatenate([part.keys() for part in parts])) == sorted(interactions.keys())
    shuffled = interactions.take(np.random.default_rng(1).permutation(len(interactions)))
    again = rule.parts(shuffled, *ids, np.random.default_rng(5))
    if text != "hash 3:1:1":  # which interaction a user keeps for training may depend on it
        assert [set(part.keys()) for part in parts] == [set(part.keys()) for part in again]


def test_hash_is_stable_and_near_the_ratio():
    """A pair keeps its split whatever else is there; the hash itself is fixed."""
    rng = np.random.default_rng(0)
    keys = rng.choice(200 * 300, 30_000, replace=False)
    interactions = Interactions(*np.divmod(keys, 300), 200, 300)
    rule, ids = SplitRule.parse("hash 3:1:1"), named(interactions)
    place = rule.places(interactions, *ids)
    np.testing.assert_allclose(np.bincount(place) / len(place), [0.6, 0.2, 0.2], atol=0.01)
    assert (rule.places(interactions.take(np.arange(500)), *ids) == place[:500]).all()
    pair = Interactions(np.arange(8) // 4, np.arange(8) % 4, 2, 4)
    assert rule.places(pair, *named(pair)).tolist() == HASHED


HASHED = [0, 2, 0, 0, 0, 0, 2, 0]


def test_temporal_by_moments_and_by_shares():
    interactions = with_times(n=100)
    by_share = SplitRule.parse("temporal 8:1:1").settled(interactions)
    assert by_share.moments == (80.0, 90.0)
    train, valid, test = by_share.parts(interactions, *named(interactions), np.random.default_rng(0))
    assert train.timestamp.max() < 80 <= valid.timestamp.min()
    assert valid.timestamp.max() < 90 <= test.timestamp.min()
    rule = SplitRule.parse("temporal 1969-01-01 1970-01-01")
    with pytest.raises(DataError, match="leaves nothing to train on"):
        rule.parts(interactions, *named(interactions), np.random.default_rng(0))
    with pytest.raises(DataError, match="temporal split needs timestamps"):
        by_share.parts(make(range(30)), *named(make(range(30))), np.random.default_rng(0))


def test_leave_last():
    interactions = with_times()
    train, valid, test = SplitRule.parse("leave-last 2").parts(
        interactions, *named(interactions), np.random.default_rng(0)
    )
    for user in range(10):
        times = np.sort(interactions.timestamp[interactions.users == user])
        n_test = min(2, len(times) - 1)
        n_valid = min(2, len(times) - 1 - n_test)
        cuts = [len(times) - n_test - n_valid, len(times) - n_test]
        for part, expected in zip((train, valid, test), np.split(times, cuts), strict=True):
            assert sorted(part.timestamp[part.users == user]) == expected.tolist()
