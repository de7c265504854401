import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlmrec.data import interactions, tables
from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions, index_type
from rlmrec.data.tables import _numbered, read_tables
from rlmrec.errors import DataError

U, I = 6, 5
pairs = st.lists(st.tuples(st.integers(0, U - 1), st.integers(0, I - 1)), min_size=1, max_size=60)


def make(rows, **columns):
    users, items = np.array(rows, np.int64).reshape(-1, 2).T
    return Interactions(users, items, U, I, **columns)


def as_set(interactions):
    return set(zip(interactions.users.tolist(), interactions.items.tolist(), strict=True))


def slow_k_core(rows, k):
    """One removal at a time, in Python."""
    rows = set(rows)
    while True:
        for side in (0, 1):
            for row in {pair[side] for pair in rows}:
                mine = {pair for pair in rows if pair[side] == row}
                if len(mine) < k:
                    rows -= mine
                    break
            else:
                continue
            break
        else:
            return rows


@given(pairs, st.integers(1, 4))
def test_k_core_is_the_maximal_fixed_point(rows, k):
    distinct = make(sorted(set(rows)))
    expected = slow_k_core(rows, k)
    if not expected:
        largest = max(smaller for smaller in range(k) if slow_k_core(rows, smaller))
        with pytest.raises(
            DataError, match=rf"the {k}-core is empty.*largest k that leaves any is {largest}$"
        ):
            distinct.k_core(k)
        return
    core = distinct.k_core(k)
    assert as_set(core) == expected
    assert as_set(core.k_core(k)) == expected
    for degrees in (core.user_degrees(), core.item_degrees()):
        assert (degrees[degrees > 0] >= k).all()


@given(pairs, st.booleans(), st.randoms(use_true_random=False))
def test_merged_keeps_the_latest_of_each_pair(rows, timed, random):
    times = [random.randint(0, 3) for _ in rows] if timed else None
    merged = make(rows, timestamp=np.array(times, float) if timed else None).merged()
    latest = {}
    for number, row in enumerate(rows):
        if row not in latest or not timed or times[number] >= times[latest[row]]:
            latest[row] = number
    assert merged.id.tolist() == sorted(latest.values())
    assert as_set(merged) == set(rows)
    assert len(merged.merged()) == len(merged) == len(set(rows))


@given(pairs, st.integers(1, 5))
def test_min_rating_keeps_exactly_the_high_ones(rows, threshold):
    ratings = np.arange(len(rows)) % 5 + 1.0
    interactions = make(rows, rating=ratings)
    if ratings.max() < threshold:
        with pytest.raises(DataError, match=rf"no interaction has a rating of at least {threshold}"):
            interactions.min_rating(threshold)
    else:
        assert interactions.min_rating(threshold).id.tolist() == np.flatnonzero(ratings >= threshold).tolist()


def test_min_rating_needs_ratings():
    with pytest.raises(DataError, match="none were read"):
        make([(0, 0)]).min_rating(3)


@given(pairs, st.floats(0.01, 1), st.integers(0, 99))
def test_sampled_users_keep_all_they_have(rows, share, seed):
    interactions = make(rows)
    sampled = interactions.sample_users(share, np.random.default_rng(seed))
    chosen = set(sampled.users.tolist())
    assert len(chosen) == max(1, round(share * len(set(interactions.users.tolist()))))
    assert sampled.id.tolist() == [n for n, (user, _) in enumerate(rows) if user in chosen]
    again = interactions.sample_users(share, np.random.default_rng(seed))
    assert again.id.tolist() == sampled.id.tolist()


@pytest.mark.parametrize("share", [0, -1, 1.1, float("nan"), float("inf")])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(DataError, match=r"a share in \(0, 1\] or a whole number"):
        make([(0, 0)]).sample_users(share, np.random.default_rng(0))


@given(pairs, st.floats(0, 1), st.integers(0, 99))
def test_noise_adds_new_distinct_pairs(rows, ratio, seed):
    interactions = make(sorted(set(rows)))
    wanted = round(ratio * len(interactions))
    if wanted > U * I - len(interactions):
        with pytest.raises(DataError, match="cannot add"):
            interactions.with_noise(ratio, np.random.default_rng(seed))
        return
    noisy = interactions.with_noise(ratio, np.random.default_rng(seed))
    assert noisy.keys()[: len(interactions)].tolist() == interactions.keys().tolist()
    assert len(noisy) == len(set(noisy.keys().tolist())) == len(interactions) + wanted
    assert (noisy.id[len(interactions) :] == -1).all()


def test_noise_avoids_what_is_held_out():
    train, held_out = (
        make([(0, 0), (1, 1)]),
        make([(u, i) for u in range(U) for i in range(1, I) if (u, i) != (1, 1)]),
    )
    noisy = train.with_noise(1.0, np.random.default_rng(0), avoid=[held_out])
    assert (noisy.items[2:] == 0).all()
    with pytest.raises(DataError, match="cannot add"):
        train.with_noise(U, np.random.default_rng(0), avoid=[held_out])


def test_negative_noise_is_refused():
    with pytest.raises(DataError, match="cannot add"):
        make([(0, 0)] * 3).with_noise(-1, np.random.default_rng(0))


@given(pairs)
def test_csr_is_binary_and_has_the_pairs(rows):
    matrix = make(rows).csr()
    assert matrix.shape == (U, I)
    assert matrix.dtype == np.float32
    dense = np.zeros((U, I))
    dense[tuple(zip(*rows, strict=True))] = 1
    assert (matrix.toarray() == dense).all()
    assert matrix.has_sorted_indices
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32


def test_indices_are_wide_where_a_size_needs_it():
    assert index_type(5, 2**31 - 2) is np.int32
    assert index_type(5, 2**31 - 1) is np.int64
    assert index_type(3, 4, bound=4) is np.int64


@pytest.mark.parametrize("split", ["3:1:1", "leave-last 1", "temporal 8:1:1", "hash 3:1:1"])
def test_a_large_dataset_in_32_bits_is_the_same(split, monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    users, items = (rng.integers(size, size=3000) for size in (90, 60))
    columns = {
        "user_id": users,
        "item_id": items * 1000,
        "rating": rng.integers(1, 6, 3000),
        "t": users + items,
    }
    path = tmp_path / "pairs.parquet"
    pl.DataFrame(columns).write_parquet(path)

    def made():
        source = read_tables(path, rating_column="rating", timestamp_column="t")
        return Dataset.from_source(source, min_rating=2, sample_users=0.9, k_core=4, split=split, seed=1)

    made().save(tmp_path / "wide")
    monkeypatch.setattr(interactions, "COMPACT", 7)
    narrow = made()
    narrow.save(tmp_path / "narrow")
    for file in (tmp_path / "wide").iterdir():
        assert (tmp_path / "narrow" / file.name).read_bytes() == file.read_bytes(), file.name
    train = narrow.train
    assert train.stored("users").dtype == train.stored("id").dtype == np.int32
    assert train.users.dtype == train.items.dtype == train.id.dtype == np.int64
    assert pickle.loads(pickle.dumps(train)).items.tolist() == train.items.tolist()
    with pytest.raises(AttributeError, match="no attribute 'userz'"):
        train.userz  # noqa: B018


def test_ids_far_apart_and_close_together_are_numbered_alike(monkeypatch):
    ids = pl.Series([7, -3, 7, 900, 12])
    union = ids.unique().sort()
    found = [_numbered(ids, union).tolist()]
    monkeypatch.setattr(tables, "DENSE_IDS", 10**6)
    found.append(_numbered(ids, union).tolist())
    assert found == [[1, 0, 1, 3, 2]] * 2


def test_every_column_follows_a_filter():
    interactions = make(
        [(0, 0), (1, 1), (2, 2)],
        rating=np.array([1.0, 2, 3]),
        timestamp=np.array([4.0, 5, 6]),
        review=np.array(["a", None, "c"], object),
    )
    taken = interactions.take(np.array([2, 1]))
    assert {name: column.tolist() for name, column in taken.columns().items()} == {
        "users": [2, 1], "items": [2, 1], "id": [2, 1],
        "rating": [3, 2], "timestamp": [6, 5], "review": ["c", None],
    }  # fmt: skip


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(DataError, match=r"column rating has shape \(2,\), users have \(1,\)"):
        make([(0, 0)], rating=np.ones(2))


@pytest.mark.parametrize(("row", "kind"), [((U, 0), "user"), ((0, I), "item"), ((-1, 0), "user")])
def test_rows_outside_the_vocabulary_are_refused(row, kind):
    with pytest.raises(DataError, match=f"{kind} rows span"):
        make([row])


def test_a_period_keeps_its_start_and_leaves_out_its_end():
    times = np.array([5.0, 10, 15, 20])
    interactions = Interactions(np.arange(4), np.arange(4), 4, 4, timestamp=times)
    assert interactions.between(10, 20).id.tolist() == [1, 2]
    assert interactions.between(None, 10).id.tolist() == [0]
    assert interactions.between(15, None).id.tolist() == [2, 3]
    with pytest.raises(DataError, match="timestamps span 1970-01-01 to 1970-01-01"):
        interactions.between(30, None)
    odd = Interactions(np.arange(1), np.arange(1), 1, 1, timestamp=np.array([1e300]))
    with pytest.raises(DataError, match="span 9892-"):
        odd.between(None, 5)
    with pytest.raises(DataError, match="none were read"):
        make([(0, 0)]).between(1, 2)


def test_a_number_of_users_is_a_sample_too():
    interactions = make([(user, 0) for user in range(6)])
    assert len(interactions.sample_users(4, np.random.default_rng(0))) == 4
    assert len(interactions.sample_users(1, np.random.default_rng(0))) == 6  # a share
    assert len(interactions.sample_users(50, np.random.default_rng(0))) == 6
