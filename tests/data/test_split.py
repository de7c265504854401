import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlmrec.data.interactions import Interactions
from rlmrec.data.split import split_by_ratio
from rlmrec.errors import DataError


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


def test_one_user_is_refused():
    with pytest.raises(DataError, match="at least 2 users, got 1"):
        split(make(range(5)))


def test_nothing_is_refused():
    with pytest.raises(DataError, match="no interactions to split"):
        split(make([]))
