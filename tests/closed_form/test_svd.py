"""The truncated SVD against a dense one in float64."""

import numpy as np
import pytest
import scipy.sparse as sp

from rlmrec.closed_form.svd import Gram, right_singular_vectors
from rlmrec.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def matrix():
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((900, 20)) @ rng.standard_normal((20, 700))
    kept = (rng.random(latent.shape) < 0.03) & (latent > 0)
    return sp.csr_array(np.where(kept, latent, 0).astype(np.float32))


@pytest.mark.parametrize("rank", [1, 10, 40])
def test_equals_the_dense_svd(matrix, rank):
    found = right_singular_vectors(matrix, rank, tolerance=1e-3)
    _, values, vectors = np.linalg.svd(matrix.toarray().astype(np.float64), full_matrices=False)
    assert found.error <= 1e-3
    np.testing.assert_allclose(found.values, values[:rank], rtol=1e-4)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(rank), atol=1e-5)
    # The subspace: what it captures of the matrix is what the best one captures.
    captured = np.linalg.norm(matrix @ found.vectors) ** 2
    assert captured == pytest.approx((values[:rank] ** 2).sum(), rel=1e-4)
    assert abs(found.vectors[:, 0] @ vectors[0]) == pytest.approx(1, abs=1e-4)


def test_small_values_beside_a_large_first_one():
    """As of dense ratings: a polynomial that raises the first vector too far above the others loses them."""
    rng = np.random.default_rng(0)
    often = 0.9 / (1 + np.arange(900) / 80)
    matrix = sp.csr_array((rng.random((800, 900)) < often).astype(np.float32))
    values = np.linalg.svd(matrix.toarray().astype(np.float64), compute_uv=False)
    assert values[0] > 15 * values[199]
    found = right_singular_vectors(matrix, 200, tolerance=0.02)
    assert found.error <= 0.02
    np.testing.assert_allclose(found.values, values[:200], rtol=0.001)


def test_reported_error_is_the_residual(matrix):
    found = right_singular_vectors(matrix, 20, tolerance=0.2)
    wide = matrix.toarray().astype(np.float64)
    residual = wide.T @ (wide @ found.vectors) - found.vectors * found.values**2
    assert found.error <= 0.2
    assert (np.linalg.norm(residual, axis=0) / found.values**2).max() == pytest.approx(found.error, rel=0.01)


def test_same_on_every_run_and_other_start_same_answer(matrix):
    first, second = (right_singular_vectors(matrix, 10, tolerance=1e-3) for _ in range(2))
    np.testing.assert_array_equal(first.vectors, second.vectors)
    other = right_singular_vectors(matrix, 10, tolerance=1e-3, seed=5, start=first.vectors[:, :4])
    np.testing.assert_allclose(other.values, first.values, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 64, 899, 900, 5000])
def test_rows_are_read_in_blocks(matrix, rows):
    columns = np.random.default_rng(0).standard_normal((700, 3)).astype(np.float32)
    expected = matrix.T @ (matrix @ columns)
    np.testing.assert_allclose(Gram(matrix, rows)(columns), expected, rtol=1e-5, atol=1e-3)


def test_smoothing_is_the_product(matrix):
    rng = np.random.default_rng(1)
    near = sp.csr_array(sp.random_array((700, 700), density=0.01, rng=rng, dtype=np.float32))
    smoothing = sp.csr_array(sp.eye_array(700, dtype=np.float32) + near)
    found = right_singular_vectors(matrix, 8, smoothing=smoothing, tolerance=1e-3)
    values = np.linalg.svd((matrix @ smoothing).toarray().astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(found.values, values[:8], rtol=1e-4)


@pytest.mark.parametrize("shape", [(3, 50), (50, 3), (1, 4), (4, 4)])
def test_small_matrices_are_exact_and_the_rank_is_cut(shape):
    dense = np.random.default_rng(0).random(shape).astype(np.float32)
    found = right_singular_vectors(sp.csr_array(dense), 10)
    rank = min(shape)
    assert found.vectors.shape == (shape[1], rank)
    np.testing.assert_allclose(found.values, np.linalg.svd(dense, compute_uv=False), rtol=1e-4)
    rebuilt = dense @ found.vectors @ found.vectors.T
    np.testing.assert_allclose(rebuilt, dense, atol=1e-5)


def test_rank_above_what_the_values_hold():
    low = np.zeros((600, 520), np.float32)
    low[:, :2] = np.random.default_rng(0).random((600, 2))
    found = right_singular_vectors(sp.csr_array(low), 5)
    assert np.isfinite(found.vectors).all()
    np.testing.assert_allclose(found.values[:2], np.linalg.svd(low, compute_uv=False)[:2], rtol=1e-4)
    assert (found.values[2:] < 1e-2 * found.values[0]).all()


def test_spare_vectors_come_after_the_accurate_ones():
    matrix = sp.csr_array(
        sp.random_array((900, 700), density=0.03, rng=np.random.default_rng(0), dtype=np.float32)
    )
    plain, wide = (right_singular_vectors(matrix, 40, spare=spare) for spare in (False, True))
    assert wide.vectors.shape[1] == len(wide.values) == 56
    np.testing.assert_array_equal(wide.vectors[:, :40], plain.vectors)
    assert wide.error == plain.error
    np.testing.assert_allclose(wide.vectors.T @ wide.vectors, np.eye(56), atol=1e-4)


def test_refuses(matrix):
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        right_singular_vectors(matrix, 0)
    broken = matrix.copy()
    broken.data[3] = np.nan
    with pytest.raises(DataError, match="NaN or infinity"):
        right_singular_vectors(broken, 3)


def test_a_value_that_many_groups_share_is_found_as_often():
    rng = np.random.default_rng(0)
    groups = [(rng.random((rng.integers(4, 9), 6)) < 0.6) | np.eye(6, dtype=bool)[:1] for _ in range(200)]
    groups = [
        group / np.sqrt(np.outer(np.maximum(group.sum(1), 1), np.maximum(group.sum(0), 1)))
        for group in groups
    ]
    whole = sp.csr_array(sp.block_diag(groups, format="csr").astype(np.float32))
    found = right_singular_vectors(whole, 128)
    np.testing.assert_allclose(found.values, 1, atol=1e-3)
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(128), atol=1e-4)
