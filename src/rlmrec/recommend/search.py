"""Top-k search of many queries over many items: exact, or through an approximate index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from rlmrec.closed_form.base import UserParts
from rlmrec.recommend.index import Index
from rlmrec.topk import (
    MEMORY_BUDGET,
    TILE,
    ByNorm,
    check_whole,
    map_blocks,
    top_k,
    top_k_by_norm,
    top_k_products,
)
from rlmrec.types import Float32Array, IntArray

INDEX_BLOCK = 1024  # queries per call of an index
WIDEST = 1 << 22  # candidates of a block of queries at a time
PRODUCTS = 1 << 15  # dot products of single pairs made at a time
Found = tuple[IntArray, Float32Array]


class Queries(NamedTuple):
    """Queries that are made block by block, so that memory does not grow with their number.

    Args:
        n_rows: B, how many.
        vectors: returns float32[b, d] for a slice of them.
        excluded: returns a sparse b x I matrix whose non-zeros are never found; None excludes nothing.
        sparse: returns all parts of a slice, where the score is more than a dot product; no search here reads them.
        added: returns a sparse b x I matrix that is added to the dot products of a slice; None adds nothing.
    """

    n_rows: int
    vectors: Callable[[slice], Float32Array]
    excluded: Callable[[slice], sp.csr_array] | None = None
    sparse: Callable[[slice], UserParts] | None = None
    added: Callable[[slice], sp.csr_array] | None = None

    def row(self, row: int) -> Queries:
        """Return one of the queries alone, by its row; ``sparse`` is left out."""
        excluded, added = self.excluded, self.added

        def only(_: slice) -> slice:
            return slice(row, row + 1)

        return Queries(
            1,
            lambda block: self.vectors(only(block)),
            None if excluded is None else lambda block: excluded(only(block)),
            added=None if added is None else lambda block: added(only(block)),
        )

    def among(self, columns: IntArray) -> Queries:
        """Return the same queries over these columns (items) alone."""
        excluded = self.excluded
        if excluded is None:
            return self
        return self._replace(excluded=lambda block: sp.csr_array(excluded(block)[:, columns]))


def exact(
    queries: Queries,
    items: Float32Array,
    k: int,
    banned: IntArray | None = None,
    memory_budget: int = MEMORY_BUDGET,
    by_norm: ByNorm | None = None,
) -> Found:
    """Find the k largest dot products of each query, with what is added to them.

    Args:
        queries: B of them.
        items: float32[I, d].
        k: how many.
        banned: rows of items that no query may find.
        memory_budget: bytes that blocks of scores may take together.
        by_norm: ``ByNorm.of(items)``, with which most products are left out; the result is the same up to rounding.

    Returns:
        item rows int64[B, k] and scores float32[B, k], best first, padded with −1 and −∞.

    Raises:
        ConfigError: k below 1.
    """
    check_whole(k)

    by_norm = None if by_norm is None else by_norm.without(banned)

    def best(block: slice) -> Found:
        excluded = None if queries.excluded is None else queries.excluded(block)
        added = None if queries.added is None else queries.added(block)
        vectors = queries.vectors(block)
        if by_norm is not None:
            return top_k_by_norm(vectors, items, k, by_norm, excluded, banned, added)
        return top_k_products(vectors, items, k, excluded, banned, added)

    columns = min(len(items), max(TILE, 16 * k))
    return _gathered(map_blocks(best, queries.n_rows, columns, memory_budget), queries.n_rows, k)


def exact_scores(
    score: Callable[[slice], Float32Array],
    n_rows: int,
    n_items: int,
    k: int,
    excluded: Callable[[slice], sp.csr_array] | None = None,
    banned: IntArray | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> Found:
    """Find the k largest scores of each row, where scores are more than a dot product.

    Args:
        score: returns the scores float32[b, I] of a slice of rows, a new array each time.
        n_rows: B, how many rows.
        n_items: I.
        k: how many.
        excluded: returns a sparse b x I matrix whose non-zeros are never found; None excludes nothing.
        banned: items that no row may find.
        memory_budget: bytes that blocks of scores may take together.

    Returns:
        as ``exact``.

    Raises:
        ConfigError: k below 1.
    """
    check_whole(k)

    def best(block: slice) -> Found:
        scores = score(block)
        if excluded is not None:
            left_out = excluded(block)
            scores[np.repeat(np.arange(len(scores)), np.diff(left_out.indptr)), left_out.indices] = -np.inf
        if banned is not None:
            scores[:, banned] = -np.inf
        return top_k(scores, k)

    # Three times the scores: a sparse product takes its values, their columns, and then the dense rows.
    return _gathered(map_blocks(best, n_rows, 3 * n_items, memory_budget), n_rows, k)


def approximate(
    queries: Queries, index: Index, k: int, items: Float32Array, memory_budget: int = MEMORY_BUDGET
) -> Found:
    """Find about the k highest scores of each query through an index; results as in ``exact``.

    The index finds items by their dot products. All items to which ``queries.added`` adds something are candidates
    beside them, scored exactly. So only an item that the index misses and nothing is added to can be missing.

    An index cannot exclude items, so it is searched for as many more as the fullest history of a block has. A query
    that still finds fewer items than there are is searched exactly.

    Args:
        queries: B of them.
        index: over the items.
        k: how many.
        items: float32[I, d].
        memory_budget: bytes that blocks of scores may take together.
    """

    def blocks() -> Iterator[Found]:
        for start in range(0, queries.n_rows, INDEX_BLOCK):
            block = slice(start, min(start + INDEX_BLOCK, queries.n_rows))
            excluded = None if queries.excluded is None else queries.excluded(block)
            added = None if queries.added is None else queries.added(block)
            counts = np.zeros(block.stop - start, np.int64) if excluded is None else np.diff(excluded.indptr)
            vectors = queries.vectors(block)
            found, scores = index.search(vectors, min(k + int(counts.max(initial=0)), len(index)))
            if added is not None:
                found, scores = _with_added(found, scores, vectors, items, added)
            if excluded is not None:
                found, scores = without(found, scores, excluded)
            found, scores = found[:, :k], scores[:, :k]
            short = np.flatnonzero((found >= 0).sum(axis=1) < np.minimum(k, len(items) - counts))
            if len(short):
                rest = Queries(
                    len(short),
                    vectors[short].__getitem__,
                    None if excluded is None else sp.csr_array(excluded[short]).__getitem__,
                    added=None if added is None else sp.csr_array(added[short]).__getitem__,
                )
                exact_rows, exact_scores = exact(rest, items, k, None, memory_budget)
                found[short], scores[short] = (
                    part[:, : found.shape[1]] for part in (exact_rows, exact_scores)
                )
            yield found, scores

    return _gathered(blocks(), queries.n_rows, k)


def _with_added(
    found: IntArray, scores: Float32Array, vectors: Float32Array, items: Float32Array, added: sp.csr_array
) -> Found:
    """Merge what an index found with all items to which something is added, best first; −1 and −∞ at the end.

    Args:
        found: int64[B, m], item rows, −1 for none.
        scores: float32[B, m], their dot products.
        vectors: float32[B, d], the queries.
        items: float32[I, d].
        added: sparse B x I; each entry occurs once.
    """
    wanted, counts = found.shape[1], np.diff(added.indptr)
    half = len(found) // 2
    if half and len(found) * int(counts.max()) > WIDEST:  # some user has a very long history
        parts = [
            _with_added(found[rows], scores[rows], vectors[rows], items, sp.csr_array(added[rows]))
            for rows in (slice(half), slice(half, None))
        ]
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([best for _, best in parts])
    rows = np.repeat(np.arange(len(found)), counts)
    products = np.empty(added.nnz, np.float32)
    for start in range(0, added.nnz, PRODUCTS):
        part = slice(start, start + PRODUCTS)
        products[part] = np.einsum("nd,nd->n", vectors[rows[part]], items[added.indices[part]])
    # Rows of candidates as wide as the longest; what the index found again is dropped there.
    widest = int(counts.max(initial=0))
    more = np.full((len(found), widest), -1)
    values = np.full((len(found), widest), -np.inf, np.float32)
    places = np.arange(added.nnz) - np.repeat(added.indptr[:-1], counts)
    more[rows, places], values[rows, places] = added.indices, products + added.data
    keys = np.arange(len(found))[:, None] * added.shape[1] + found
    again = np.isin(keys, rows * added.shape[1] + added.indices) | (found < 0)
    found = np.concatenate([np.where(again, -1, found), more], axis=1)
    scores = np.concatenate([np.where(again, np.float32(-np.inf), scores), values], axis=1)
    order, scores = top_k(scores, wanted)
    return np.take_along_axis(found, order, 1), scores


def without(found: IntArray, scores: Float32Array, excluded: sp.csr_array) -> Found:
    """Drop the excluded items from each list, move up the rest in its order and pad with −1 and −∞."""
    n_items = excluded.shape[1]
    keys = np.repeat(np.arange(len(found)), np.diff(excluded.indptr)) * n_items + excluded.indices
    drop = np.isin(np.arange(len(found))[:, None] * n_items + found, keys) | (found < 0)
    order = np.argsort(drop, axis=1, kind="stable")
    found = np.take_along_axis(np.where(drop, -1, found), order, 1)
    return found, np.take_along_axis(np.where(drop, np.float32(-np.inf), scores), order, 1)


def _gathered(blocks: Iterable[Found], n_rows: int, k: int) -> Found:
    """Join the results of all blocks into arrays of k columns, padded with −1 and −∞."""
    found = np.full((n_rows, k), -1)
    scores = np.full((n_rows, k), -np.inf, np.float32)
    start = 0
    for columns, values in blocks:
        stop, width = start + len(columns), columns.shape[1]
        found[start:stop, :width] = np.where(np.isneginf(values), -1, columns)
        scores[start:stop, :width] = values
        start = stop
    return found, scores
