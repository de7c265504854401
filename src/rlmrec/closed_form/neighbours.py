"""Nearest neighbours by cosine, by comparing all pairs, and the largest entries of each row of a sparse matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from rlmrec.closed_form.svd import Gram, rows_of
from rlmrec.data.interactions import index_type
from rlmrec.shards import Shards
from rlmrec.topk import map_blocks, top_k
from rlmrec.types import Float32Array, IntArray

# One entry in so many: from there on a block of products is searched faster as a dense one.
DENSE = 8
# A step of a sparse product of sparse matrices takes as long as so many of one with dense columns.
SPARSE = 16


def nearest(
    queries: Float32Array, vectors: Float32Array, m: int, own: IntArray | None = None
) -> tuple[IntArray, Float32Array]:
    """Find the m vectors of highest cosine for each query; of equal cosines the lower row comes first.

    Cosines are rounded to 4 decimals, so those of equal texts tie however they were computed, and so do close ones.

    Args:
        queries: float32[B, d], rows of unit length or zeros.
        vectors: float32[n, d], likewise.
        m: how many; more than n means n.
        own: int64[B], the row of ``vectors`` that each query is and that is left out; −1 for none.

    Returns:
        rows int64[B, m] and cosines float32[B, m]; a row that was left out has the cosine −∞.
    """
    m = min(m, len(vectors))

    def search(block: slice) -> tuple[IntArray, Float32Array]:
        # The last digits of a product depend on how many queries are multiplied at once.
        cosines = np.round(queries[block] @ vectors.T, 4)
        if own is not None:
            rows = np.flatnonzero(own[block] >= 0)
            cosines[rows, own[block][rows]] = -np.inf
        return top_k(cosines, m)

    if not len(queries) or not m:
        return np.empty((len(queries), m), np.int64), np.empty((len(queries), m), np.float32)
    found = list(map_blocks(search, len(queries), len(vectors)))
    return np.concatenate([ids for ids, _ in found]), np.concatenate([best for _, best in found])


def similarity_graph(vectors: Float32Array, m: int) -> sp.csr_array:
    """Build K = D^-½ (N + Nᵀ)/2 D^-½ from the m nearest neighbours N of each row, by positive cosine.

    Args:
        vectors: float32[n, d], rows of unit length; a row of zeros has no neighbour.
        m: neighbours of each row.

    Returns:
        sparse float32, n x n, symmetric, no diagonal, largest eigenvalue at most 1.
    """
    n = len(vectors)
    ids, cosines = nearest(vectors, vectors, m, np.arange(n))
    graph = weighted_rows(ids, np.maximum(cosines, 0), n)
    graph = sp.csr_array((graph + graph.T) / 2)
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    root = np.divide(1, np.sqrt(degrees), out=np.zeros(n), where=degrees > 0)
    scaled = sp.diags_array(root) @ graph @ sp.diags_array(root)
    return sp.csr_array(scaled, dtype=np.float32)


def weighted_rows(ids: IntArray, weights: Float32Array, n: int) -> sp.csr_array:
    """The sparse B x n matrix whose row b has ``weights[b]`` in the columns ``ids[b]``; zeros are not kept."""
    rows, columns = np.nonzero(weights > 0)
    entries: Any = weights[rows, columns].astype(np.float32), (rows, ids[rows, columns])
    found: sp.csr_array = sp.csr_array(entries, shape=(len(ids), n))
    return found


def largest_products(matrix: sp.csr_array, m: int, shards: Shards | None = None) -> sp.csr_array:
    """Keep the m largest entries in each row of AᵀA, some rows at a time: all of it may have I² entries.

    Args:
        matrix: A, sparse U x I, no negative value.
        m: how many; of equal ones the first are kept.
        shards: processes that compute it together, each of which is given all of A and finds its own items' entries.

    Returns:
        sparse float32, I x I.
    """
    n, shards = matrix.shape[1], shards or Shards()
    mine = shards.rows(n)
    rows = sp.csr_array(matrix.T)
    if shards.count > 1:
        rows = rows_of(rows, mine.start, mine.stop)

    def work(block: slice) -> sp.csr_array:
        products = sp.csr_array(rows[block] @ matrix)
        if DENSE * products.nnz < products.shape[0] * n:
            return largest(products, m)
        return _largest_of(products.toarray(), m)

    # A sparse product takes its values and their columns before it is dense.
    blocks = list(map_blocks(work, rows.shape[0], 3 * n)) or [sp.csr_array(np.empty((0, n), np.float32))]
    return shards.gather_sparse(sp.csr_array(sp.vstack(blocks, format="csr")))


def times_products(rows: sp.csr_array, matrix: sp.csr_array, transposed: sp.csr_array) -> Float32Array:
    """Return float32[B, I], ``rows`` times AᵀA, without making AᵀA.

    Where ``rows`` share few rows of A, as in large catalogues, the products stay sparse until the end.

    Args:
        rows: sparse B x I.
        matrix: A, sparse U x I.
        transposed: Aᵀ as a CSR matrix.
    """
    through = sp.csr_array(rows @ transposed)
    steps = int(np.diff(matrix.indptr)[through.indices].sum(dtype=np.int64))
    if SPARSE * steps < 2 * matrix.nnz * rows.shape[0]:
        return np.asarray((through @ matrix).toarray(), np.float32)
    columns = np.ascontiguousarray(rows.toarray().T)
    return np.ascontiguousarray(Gram(matrix)(columns).T)


def _largest_of(block: Float32Array, m: int) -> sp.csr_array:
    """Keep the m largest positive entries of each row of a dense block; of equal ones the first."""
    n = block.shape[1]
    keep = block > 0
    if m < n:
        bar = np.partition(block, n - m, axis=1)[:, n - m, None]
        above, at = block > bar, block == bar
        room = m - above.sum(axis=1)
        tied = np.flatnonzero(at.sum(axis=1) > room)
        at[tied] &= np.cumsum(at[tied], axis=1) <= room[tied, None]
        keep &= above | at
    places = np.flatnonzero(keep)
    ends = np.concatenate([[0], np.cumsum(keep.sum(axis=1))])
    kind = index_type(len(places), n)
    entries: Any = block.ravel()[places], (places % n).astype(kind), ends.astype(kind)
    return sp.csr_array(entries, shape=block.shape)


def largest(matrix: sp.csr_array, m: int) -> sp.csr_array:
    """Keep the m entries of largest magnitude in each row of a sparse matrix; of equal ones the first."""
    matrix = sp.csr_array(matrix)
    matrix.sort_indices()
    counts = np.diff(matrix.indptr)
    if counts.max(initial=0) <= m:
        return matrix
    keep = np.ones(matrix.nnz, bool)
    for row in np.flatnonzero(counts > m):
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        size = np.abs(matrix.data[part])
        bar = np.partition(size, len(size) - m)[len(size) - m]
        above, at = size > bar, np.flatnonzero(size == bar)
        above[at[: m - int(above.sum())]] = True
        keep[part] = above
    ends = np.concatenate([[0], np.cumsum(keep)])[matrix.indptr].astype(matrix.indices.dtype)
    return sp.csr_array((matrix.data[keep], matrix.indices[keep], ends), shape=matrix.shape)
