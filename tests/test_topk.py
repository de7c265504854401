import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlmrec import topk
from rlmrec.errors import DataError
from rlmrec.linalg import unit_rows
from rlmrec.topk import ByNorm, map_blocks, top_k, top_k_by_norm, top_k_products


def reference(scores, k):
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


def assert_exact(scores, k):
    ids, best = top_k(scores, k)
    expected_ids, expected = reference(scores, k)
    assert ids.dtype == np.int64
    assert best.dtype == np.float32
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(best, expected)


@pytest.mark.parametrize("n_items", [1, 2, 19, 20, 21, 319, 320, 1279, 1280, 5003, 40_000])
@pytest.mark.parametrize("k", [1, 20, 100])
def test_equals_a_stable_argsort(n_items, k):
    rng = np.random.default_rng(n_items + k)
    assert_exact(rng.standard_normal((7, n_items), dtype=np.float32), k)


@pytest.mark.parametrize("levels", [1, 2, 30, 1000])
def test_ties_go_to_the_lower_index(levels):
    rng = np.random.default_rng(levels)
    scores = rng.integers(levels, size=(5, 7001)).astype(np.float32)
    scores[0, ::2] *= -1
    assert_exact(scores, 20)


values = st.sampled_from([-np.inf, np.inf, -3.5, -1.0, -0.0, 0.0, 1e-40, 1.0, 2.0, 3e38])


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 400)), elements=values, fill=values),
    st.integers(1, 30),
)
def test_any_float_and_many_ties(scores, k):
    assert_exact(scores, k)


def test_masked_rows_beside_ordinary_ones():
    """A user who has seen nearly everything does not disturb the others of the block."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((6, 9332), dtype=np.float32)
    scores[1] = -np.inf
    scores[3, 10:] = -np.inf
    scores[4, :9000] = -np.inf
    assert_exact(scores, 20)


def test_slow_path_in_slices(monkeypatch):
    monkeypatch.setattr(topk, "SLICE", 10)
    assert_exact(np.zeros((5, 4000), np.float32), 20)


def test_a_block_that_is_not_contiguous():
    scores = np.random.default_rng(0).standard_normal((5000, 8), dtype=np.float32).T
    assert_exact(scores, 20)


def test_more_than_there_are_and_none_at_all():
    ids, scores = top_k(np.array([[1, 2]], np.float32), 5)
    assert ids.tolist() == [[1, 0]]
    assert scores.shape == (1, 2)
    assert top_k(np.empty((0, 5), np.float32), 3)[0].shape == (0, 3)
    assert top_k(np.empty((2, 0), np.float32), 3)[0].shape == (2, 0)


@pytest.mark.parametrize("n_items", [5, 5000])
def test_nan_is_refused(n_items):
    scores = np.zeros((3, n_items), np.float32)
    scores[2, n_items - 1] = np.nan
    with pytest.raises(DataError, match="NaN, the first is row 2"):
        top_k(scores, 2)


def test_wrong_input():
    with pytest.raises(DataError, match="float32 matrix, got float64"):
        top_k(np.zeros((2, 2)), 1)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="shape"):
        top_k(np.zeros(2, np.float32), 1)
    with pytest.raises(DataError, match="at least 1"):
        top_k(np.zeros((2, 2), np.float32), 0)


@pytest.mark.parametrize("threads", [None, 1, 3])
@pytest.mark.parametrize("budget", [1, 100_000, 1 << 30])
def test_blocks_cover_all_rows_in_order(threads, budget):
    rows = np.concatenate(
        [np.arange(b.start, b.stop) for b in map_blocks(lambda b: b, 1000, 500, budget, threads)]
    )
    np.testing.assert_array_equal(rows, np.arange(1000))


def test_blocks_keep_to_the_budget():
    budget, n_items, threads = 10 << 20, 50_000, 2
    sizes = [b.stop - b.start for b in map_blocks(lambda b: b, 1000, n_items, budget, threads)]
    assert max(sizes) * n_items * topk.BYTES_PER_SCORE * threads <= budget


def test_an_error_in_a_block_reaches_the_caller():
    def fail(block):
        raise DataError(f"block at {block.start}")

    with pytest.raises(DataError, match="block at 0"):
        list(map_blocks(fail, 1000, 10**6, threads=2))


def whole(queries, items, k, excluded=None, banned=None):
    """Small integers: every product is exact, so the order of summation cannot show."""
    scores = queries @ items.T
    if excluded is not None:
        scores[excluded.toarray() > 0] = -np.inf
    if banned is not None:
        scores[:, banned] = -np.inf
    return reference(scores, k)


@pytest.mark.parametrize("n_items", [50, 2048, 2049, 30_001])
@pytest.mark.parametrize("k", [1, 20, 300])
@pytest.mark.parametrize("levels", [2, 50])
def test_products_equal_the_whole_matrix(monkeypatch, n_items, k, levels):
    monkeypatch.setattr(topk, "BLOCK", 1 << 14)
    rng = np.random.default_rng(n_items + k)
    queries, items = (rng.integers(-levels, levels + 1, (n, 6)).astype(np.float32) for n in (9, n_items))
    density = sp.csr_array(rng.random((9, n_items)) < 0.2)
    banned = np.flatnonzero(rng.random(n_items) < 0.1)
    for options in ({}, {"excluded": density}, {"banned": banned}, {"excluded": density, "banned": banned}):
        ids, best = top_k_products(queries, items, k, **options)
        expected_ids, expected = whole(queries, items, min(k, n_items), **options)
        np.testing.assert_array_equal(best, expected)
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(ids[finite], expected_ids[finite])


def test_products_of_a_row_that_has_nothing_left_in_the_first_tiles(monkeypatch):
    monkeypatch.setattr(topk, "BLOCK", 1 << 12)
    rng = np.random.default_rng(0)
    queries, items = (rng.integers(-9, 10, (n, 4)).astype(np.float32) for n in (3, 20_000))
    seen = np.zeros((3, 20_000), bool)
    seen[1, :15_000] = True
    seen[2, :-5] = True
    excluded = sp.csr_array(seen)
    ids, best = top_k_products(queries, items, 20, excluded)
    expected_ids, expected = whole(queries, items, 20, excluded)
    np.testing.assert_array_equal(best, expected)
    np.testing.assert_array_equal(ids[:2], expected_ids[:2])
    assert set(ids[2, :5].tolist()) == set(range(19_995, 20_000))


@pytest.mark.parametrize("n_items", [3, 500, 20_000])
def test_products_with_a_sparse_sum(n_items, monkeypatch):
    monkeypatch.setattr(topk, "BLOCK", 1 << 12)
    rng = np.random.default_rng(n_items)
    queries, items = (rng.integers(-9, 10, (n, 4)).astype(np.float32) for n in (5, n_items))
    added = sp.csr_array(sp.random_array((5, n_items), density=0.3, rng=rng, dtype=np.float32) * 200)
    excluded = sp.csr_array(rng.random((5, n_items)) < 0.3)
    scores = queries @ items.T + added.toarray()
    scores[excluded.toarray()] = -np.inf
    scores[:, 1] = -np.inf
    ids, best = top_k_products(queries, items, 20, excluded, np.array([1]), added)
    expected_ids, expected = reference(scores, 20)
    np.testing.assert_array_equal(best, expected)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(ids[finite], expected_ids[finite])


@pytest.mark.parametrize("k", [1, 20, 300])
@pytest.mark.parametrize("n_rows", [1, 40, 300])  # tiles of 8,192 to 2,048 items, with and without ``head``
@pytest.mark.parametrize("parts", ["", "added", "excluded banned", "added excluded banned"])
def test_items_by_norm_give_the_same(k, n_rows, parts):
    rng = np.random.default_rng(k + n_rows + len(parts))
    n_items = 40_000
    # Small integers, so that products are exact and many are equal; some items are 0.
    queries = rng.integers(-3, 4, (n_rows, 4)).astype(np.float32)
    if n_rows > 1:
        queries[[0, -1]] = 0
    factors = rng.choice([0, 1, 1, 1, 2, 9], (n_items, 1), p=[0.1, 0.3, 0.3, 0.2, 0.06, 0.04])
    items = (rng.integers(-3, 4, (n_items, 4)) * factors).astype(np.float32)
    by_norm = ByNorm.of(items)
    options = {}
    if "added" in parts:
        kind = np.float64 if k == 1 else np.float32
        added = sp.csr_array(sp.random_array((n_rows, n_items), density=0.005, rng=rng, dtype=kind))
        added.data = np.round(150 * added.data - 50).astype(kind)
        options["added"] = added
    if "excluded" in parts:
        excluded = rng.random((n_rows, n_items)) < 0.05
        excluded[n_rows // 2, by_norm.order[:15_000]] = True  # nothing is left in the first tiles
        excluded[n_rows // 3] = True
        options["excluded"] = sp.csr_array(excluded)
        options["banned"] = np.sort(by_norm.order[: n_items // 4])
    ids, best = top_k_by_norm(queries, items, k, by_norm, **options)
    expected_ids, expected = top_k_products(queries, items, k, **options)
    np.testing.assert_array_equal(best, expected)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(ids[finite], expected_ids[finite])


def test_what_is_added_decides_between_scores_that_round_to_the_same():
    items = np.ones((40_000, 1), np.float32)
    items[:36_000] = 1.5 * 2**-25
    added = sp.csr_array(([np.float32(1 - 2**-24)], ([0], [5000])), shape=(1, 40_000))
    query = np.ones((1, 1), np.float32)
    by_norm = ByNorm.of(items)
    assert by_norm is not None
    assert top_k_by_norm(query, items, 1, by_norm, added=added)[0] == [[5000]]


def test_most_products_with_items_of_small_norm_are_left_out(monkeypatch):
    rng = np.random.default_rng(0)
    queries, items = (rng.standard_normal((n, 16), np.float32) for n in (50, 40_000))
    items *= (rng.pareto(1.5, 40_000).astype(np.float32) + 0.01)[:, None]
    scored = []
    finish = topk._finish
    monkeypatch.setattr(
        topk, "_finish", lambda scores, *rest: (scored.append(scores.size), finish(scores, *rest))[1]
    )
    ids, best = top_k_by_norm(queries, items, 20, ByNorm.of(items))
    assert sum(scored) < 0.4 * queries.shape[0] * len(items)
    expected_ids, expected = top_k_products(queries, items, 20)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(best, expected, rtol=1e-5)


def test_items_of_one_norm_or_few_items_are_not_ordered():
    rng = np.random.default_rng(0)
    items = rng.standard_normal((10_000, 8), np.float32)
    unit = unit_rows(items)
    assert ByNorm.of(unit) is None
    unit[7] *= 100
    assert ByNorm.of(unit) is None
    assert ByNorm.of(0 * items) is None
    assert ByNorm.of(items[:100]) is None
    assert ByNorm.of(np.empty((10_000, 0), np.float32)) is None
    uneven = items * rng.random((10_000, 1), np.float32) ** 4
    by_norm = ByNorm.of(uneven)
    with pytest.raises(DataError, match="k must be at least 1"):
        top_k_by_norm(items, uneven, 0, by_norm)


def test_products_of_no_query_and_a_bad_k():
    items = np.ones((5, 2), np.float32)
    assert top_k_products(np.empty((0, 2), np.float32), items, 3)[0].shape == (0, 3)
    with pytest.raises(DataError, match="k must be at least 1"):
        top_k_products(items, items, 0)
