"""Exact and deterministic top-k search in the rows of a score matrix or of a product, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from rlmrec.errors import ConfigError, DataError
from rlmrec.machine import available_cores
from rlmrec.types import AnyArray, Float32Array, FloatArray, IntArray

Result = TypeVar("Result")

MEMORY_BUDGET = 256 << 20
# Scores per block: 4 MiB stays in the cache between the product and the selection. Measured on 2 cores at
# 11,000 x 9,332: 65 ms with blocks of 4 MiB, 76 with 9 MiB, 180 with 38 MiB.
BLOCK = 1 << 20
# Items per tile of ``top_k_products``: with BLOCK // TILE = 512 rows it is 4 MiB again. Measured on one core,
# d = 64, 100,000 items, microseconds per row: product 102, comparison 14, collecting the greater scores 8; the
# product of 32 whole rows takes 225.
TILE = 1 << 11
# Items are searched by norm where the median is below this share of the norm that a sixteenth of the items exceed.
MEDIAN_NORM = 0.7
FIRST_TILES = 4  # tiles at once of a few queries, so that those after them can be left out
NO_KEY = np.iinfo(np.uint64).max  # after every key
PAIRS = 1 << 15  # dot products of single pairs made at a time
BLOCK_ROWS = 32  # with fewer rows the matrix product is slow, whatever the cache
# Memory per score while the top k is searched: the score, a copy, a mask.
BYTES_PER_SCORE = 10
# Number of scores that the slow path turns into 8-byte keys at a time: 32 MiB.
SLICE = 1 << 22


def map_blocks(
    work: Callable[[slice], Result],
    n_rows: int,
    n_items: int,
    memory_budget: int = MEMORY_BUDGET,
    threads: int | None = None,
) -> Iterator[Result]:
    """Call ``work`` on consecutive slices of the rows of an n_rows x n_items score matrix; yield results in order.

    The slices are processed by a pool of threads (NumPy releases the interpreter lock), each with a
    single-threaded matrix product: splitting every small product over the cores as well costs more than it
    gains, and is ten times slower if the cores are busy with other work. A single block or a single thread
    runs in the caller's thread.

    Args:
        work: called with a slice; must be safe to call from several threads when ``threads`` is not 1.
        n_rows: number of rows.
        n_items: I, number of scores per row.
        memory_budget: bytes that all blocks in progress may take together; each has at least one row.
        threads: number of threads; None means one per core, at most 16.
    """
    threads = min(16, available_cores()) if threads is None else threads
    rows = max(BLOCK_ROWS, BLOCK // max(1, n_items))
    affordable = memory_budget // (BYTES_PER_SCORE * max(1, n_items) * threads)
    rows = max(1, min(rows, affordable))
    slices = [slice(start, min(start + rows, n_rows)) for start in range(0, n_rows, rows)]
    if threads == 1 or len(slices) <= 1:
        yield from map(work, slices)
        return
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(min(threads, len(slices))) as pool:
        yield from pool.map(work, slices)


def check_whole(value: object, name: str = "k") -> int:
    """Return a whole number of at least 1, such as the length of a list.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise ConfigError(f"{name} must be a whole number such as 20, got {value!r}")
    if value < 1:
        raise ConfigError(f"{name} must be at least 1, got {value}")
    return int(value)


def top_k(scores: Float32Array, k: int) -> tuple[IntArray, Float32Array]:
    """Return the k largest scores of each row in descending order; among equal scores, the lower index comes first.

    The result equals the first k columns of a stable ``argsort(-scores)``, at a twentieth of its cost. Each row is
    divided into chunks. Let t be the k-th largest of the chunks' maxima: at least k scores are ≥ t, so the k best
    are among them, and they are in the chunks whose maximum is ≥ t. For k = 20 of I = 10,000 these are about 22
    scores in 20 chunks. The rest is sorted by one 64-bit key of (score, index), which also resolves ties. A row
    where ties (or −∞) leave too many candidates is sorted as a whole by the same key.

    Args:
        scores: float32[B, I]; −∞ is allowed, NaN is not. I < 2³².
        k: number of items, at least 1; more than I means I.

    Returns:
        ids int64[B, min(k, I)] and their scores float32[B, min(k, I)].

    Raises:
        DataError: ``scores`` is not a matrix of float32 or contains NaN, or k < 1.

    Example:
        >>> ids, best = top_k(np.array([[1, 3, 3, 2]], np.float32), k=3)
        >>> ids.tolist(), best.tolist()
        ([[1, 2, 3]], [[3.0, 3.0, 2.0]])
    """
    if scores.ndim != 2 or scores.dtype != np.float32:
        raise DataError(f"scores must be a float32 matrix, got {scores.dtype} of shape {scores.shape}")
    if k < 1:
        raise DataError(f"k must be at least 1, got {k}")
    n_rows, n_items = scores.shape
    k = min(k, n_items)
    if not scores.size:
        return np.empty((n_rows, k), np.int64), np.empty((n_rows, k), np.float32)
    best = _chunk_maxima(scores, _chunk_length(n_items, k))  # (B, n)
    _refuse_nan(best)
    n = best.shape[1]
    threshold = np.partition(best, n - k, axis=1)[:, n - k]  # (B,)
    wide = np.isneginf(threshold)  # fewer than k chunks hold a candidate: everything would pass
    threshold[wide] = np.inf
    rows, items = _at_least(scores, best, threshold)
    counts = np.bincount(rows, minlength=n_rows)
    wide |= counts > 4 * k  # many ties
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    if wide.any():
        rows, items, place = (column[~wide[rows]] for column in (rows, items, place))
    keys = np.full((n_rows, place.max(initial=k - 1) + 1), np.iinfo(np.uint64).max)
    keys[rows, place] = _keys(scores[rows, items], items)
    keys.sort(axis=1)
    keys = keys[:, :k]
    if wide.any():
        keys[wide] = _sorted_keys(scores[wide], k)
    return _decode(keys)


def top_k_products(
    queries: Float32Array,
    items: Float32Array,
    k: int,
    excluded: sp.csr_array | None = None,
    banned: IntArray | None = None,
    added: sp.csr_array | None = None,
) -> tuple[IntArray, Float32Array]:
    """Compute ``top_k(queries @ items.T + added, k)`` without storing the sum, one tile of items after another.

    After the first tile, each row's k-th best score is the threshold for the following tiles. The few scores above
    it are collected; once there are more than 3 k per row, they are merged and the threshold rises. A score equal
    to the threshold has a higher index than the item that set it, so only greater scores count.

    Args:
        queries: float32[B, d]. B should be about ``BLOCK // TILE`` (see ``map_blocks``).
        items: float32[I, d]; no product may overflow (a NaN after the first tile is not noticed).
        k: number of items, at least 1; more than I means I.
        excluded: B x I sparse matrix; its non-zero entries are excluded from their row.
        banned: items that are excluded from every row.
        added: B x I sparse matrix that is added to the products; None adds nothing. Each entry occurs once.

    Returns:
        ids int64[B, min(k, I)] and their scores float32[B, min(k, I)]; excluded items have the score −∞.

    Raises:
        DataError: k < 1.
    """
    n_rows, n_items = len(queries), len(items)
    left_out, more = _ByTile(excluded), _ByTile(added)
    without = None if banned is None else np.unique(banned)

    tile = -(-max(16 * k, BLOCK // max(1, n_rows)) // TILE) * TILE
    ids, best = top_k(_finish(queries @ items[:tile].T, 0, left_out, more, without), k)
    k = min(k, n_items)
    if n_items <= tile or not n_rows:
        return ids, best
    keys = _keys(best, ids)  # (B, k), ascending
    bar = best[:, -1:]
    buffer = np.empty((n_rows, tile), np.float32)
    passed = np.empty((n_rows, tile), bool)
    waiting: list[tuple[IntArray, npt.NDArray[np.uint64]]] = []
    n_waiting = 0
    for start in range(tile, n_items, tile):
        part = items[start : start + tile]
        # The last tile may be short. Slicing the flat buffer keeps its memory contiguous.
        scores = buffer.ravel()[: n_rows * len(part)].reshape(n_rows, -1)
        above = passed.ravel()[: n_rows * len(part)].reshape(n_rows, -1)
        np.matmul(queries, part.T, out=scores)
        _finish(scores, start, left_out, more, without)
        np.greater(scores, bar, out=above)
        found = np.flatnonzero(above)
        rows, columns = np.divmod(found, len(part))
        waiting.append((rows, _keys(scores.ravel()[found], columns + start)))
        n_waiting += len(found)
        if n_waiting > 3 * k * n_rows or start + tile >= n_items:
            keys = _merged(keys, waiting)
            bar = _decode(keys[:, -1:])[1]
            waiting, n_waiting = [], 0
    return _decode(keys)


@dataclass(frozen=True, eq=False)
class ByNorm:
    """Items in the order of descending norm: an item whose norm is small enough needs no product.

    As u·v ≤ |u| |v|, no item from position j on can score more than |u| times the norm at j.

    Args:
        order: items, the largest norm first; among equal ones the lower index first. int64[J], J = I without banned
            items.
        place: position of each item in ``order``, int64[I]; −1 for a banned item.
        norms: float64[J], descending.
        head: vectors of the first items in this order, so that they need not be gathered.

    Source: Teflioudi, Gemulla and Mykytiuk, "LEMP: Fast Retrieval of Large Entries in a Matrix Product", SIGMOD 2015.
    """

    order: IntArray
    place: IntArray
    norms: FloatArray
    head: Float32Array

    @classmethod
    def of(cls, items: Float32Array) -> Self | None:
        """Order items float32[I, d]; None where they are few or have much the same norms, which would save nothing."""
        if len(items) <= FIRST_TILES * TILE or not items.shape[1]:
            return None
        norms = np.sqrt(np.einsum("id,id->i", items, items, dtype=np.float64))
        order = np.argsort(-norms, kind="stable")
        norms = norms[order]
        if not np.isfinite(norms).all() or norms[len(norms) // 2] >= MEDIAN_NORM * norms[len(norms) // 16]:
            return None
        return cls(order, _places(order, len(items)), norms, items[order[: len(order) // 8]])

    def without(self, banned: IntArray | None) -> ByNorm:
        """Return the order of the other items."""
        if banned is None or (self.place[banned] < 0).all():
            return self
        kept = np.ones(len(self.place), bool)
        kept[banned] = False
        kept = kept[self.order]
        order = self.order[kept]
        return ByNorm(order, _places(order, len(self.place)), self.norms[kept], self.head[:0])

    def reordered(self, matrix: sp.csr_array | None) -> sp.csr_array | None:
        """Return a sparse B x I matrix as B x J with its columns in this order, in float32."""
        if matrix is None:
            return None
        rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        columns = self.place[matrix.indices]
        kept = columns >= 0
        counts = np.bincount(rows[kept], minlength=matrix.shape[0])
        indptr = np.concatenate([[0], np.cumsum(counts)])
        values = matrix.data[kept].astype(np.float32)
        return sp.csr_array((values, columns[kept], indptr), shape=(matrix.shape[0], len(self.order)))


def _places(order: IntArray, n_items: int) -> IntArray:
    """Return the position of each item in an order, int64[I]; −1 for one that is not in it."""
    place = np.full(n_items, -1)
    place[order] = np.arange(len(order))
    return place


def top_k_by_norm(
    queries: Float32Array,
    items: Float32Array,
    k: int,
    by_norm: ByNorm,
    excluded: sp.csr_array | None = None,
    banned: IntArray | None = None,
    added: sp.csr_array | None = None,
) -> tuple[IntArray, Float32Array]:
    """Compute ``top_k_products`` without the products that cannot be among the k best.

    The result is the same up to the rounding of float32 products. Items come tile by tile, the largest norm first. A
    query stops when the bound of ``ByNorm`` falls below its k-th best score. An item after that may still be among the
    best by what is added to it: then it is scored by itself.

    Args:
        queries: float32[B, d].
        items: float32[I, d].
        k: number of items, at least 1.
        by_norm: ``ByNorm.of(items)``.
        excluded: as ``top_k_products``.
        banned: likewise.
        added: likewise.

    Returns:
        as ``top_k_products``; places without an item have the score −∞.

    Raises:
        DataError: k < 1, or the first products contain NaN.
    """
    if k < 1:
        raise DataError(f"k must be at least 1, got {k}")
    # A sum of d products in float32 is at most this much above the bound.
    norms = np.linalg.norm(queries.astype(np.float64), axis=1) * (1 + queries.shape[1] * 2.0**-22)
    zero = np.flatnonzero(norms == 0)
    if not len(zero):
        return _top_k_by_norm(queries, norms, items, k, by_norm.without(banned), excluded, added)
    # All products of such a query are 0, which no bound tells apart.
    other = np.flatnonzero(norms > 0)
    k = min(k, len(items))
    ids, best = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)

    def of(matrix: sp.csr_array | None, rows: IntArray) -> sp.csr_array | None:
        return None if matrix is None else sp.csr_array(matrix[rows])

    ids[zero], best[zero] = top_k_products(
        queries[zero], items, k, of(excluded, zero), banned, of(added, zero)
    )
    ids[other], best[other] = _top_k_by_norm(
        queries[other], norms[other], items, k, by_norm.without(banned), of(excluded, other), of(added, other)
    )
    return ids, best


def _top_k_by_norm(
    queries: Float32Array,
    norms: FloatArray,
    items: Float32Array,
    k: int,
    by_norm: ByNorm,
    excluded: sp.csr_array | None,
    added: sp.csr_array | None,
) -> tuple[IntArray, Float32Array]:
    """Compute ``top_k_by_norm`` of queries that are not 0, over the items of ``by_norm``."""
    n_rows, n_items = len(queries), len(by_norm.order)
    left_out, more = _ByTile(by_norm.reordered(excluded)), _ByTile(by_norm.reordered(added))
    keys = np.full((n_rows, min(k, len(items))), NO_KEY)
    bar = np.full(n_rows, -np.inf, np.float32)
    scored = np.zeros(n_rows, np.int64)  # items of each query that have been scored
    active = np.arange(n_rows)
    tile = -(-max(16 * k, min(BLOCK // max(1, n_rows), FIRST_TILES * TILE)) // TILE) * TILE
    start = 0
    while start < n_items and len(active):
        columns = by_norm.order[start : start + tile]
        part = by_norm.head[start : start + tile]
        part = part if len(part) == len(columns) else items[columns]
        scores = (queries if len(active) == n_rows else queries[active]) @ part.T
        _finish(scores, start, left_out, more, None, None if len(active) == n_rows else active)
        if not start:
            bar = top_k(scores, min(k, len(columns)))[1][:, -1]
        above = scores >= bar[active, None]
        if start:  # among equal scores the lower index counts; in the first tile all are still to be compared
            last = (keys[active, -1] & np.uint64(0xFFFFFFFF)).astype(np.int64)
            above &= (scores > bar[active, None]) | (columns < last[:, None])
        rows, places = np.divmod(np.flatnonzero(above), len(columns))
        keys, bar = _with_better(keys, bar, active[rows], _keys(scores[rows, places], columns[places]))
        start += len(columns)
        scored[active] = start
        if start < n_items:
            active = active[norms[active] * by_norm.norms[start] >= bar[active]]
    if more.rows.size:
        bound = more.values + norms[more.rows] * by_norm.norms[more.columns]
        # Rounded as the scores are: among equal ones the lower index counts.
        late = (more.columns >= scored[more.rows]) & (bound.astype(np.float32) >= bar[more.rows])
        rows, places, values = more.rows[late], more.columns[late], more.values[late]
        kept = ~np.isin(rows * n_items + places, left_out.rows * n_items + left_out.columns)
        rows, columns, values = rows[kept], by_norm.order[places[kept]], values[kept]
        for first in range(0, len(rows), PAIRS):
            some = slice(first, first + PAIRS)
            values[some] += np.einsum("nd,nd->n", queries[rows[some]], items[columns[some]])
        keys, bar = _with_better(keys, bar, rows, _keys(values, columns))
    keys[keys == NO_KEY] = _keys(np.full(1, -np.inf, np.float32), np.zeros(1, np.int64))[0]
    return _decode(keys)


def _finish(
    scores: Float32Array,
    start: int,
    left_out: _ByTile,
    more: _ByTile,
    without: IntArray | None,
    kept: IntArray | None = None,
) -> Float32Array:
    """Add to a tile what is added, then write −∞ over what is left out; in place.

    Args:
        scores: float32[A, w] of the items from position ``start`` on.
        start: a multiple of TILE.
        left_out: excluded items of each row.
        more: what is added.
        without: items that are excluded from every row, ascending.
        kept: the rows that ``scores`` has, ascending, int64[A]; None for all.
    """
    for entries, is_added in ((more, True), (left_out, False)):
        rows, columns, values = entries.within(start, scores.shape[1])
        if kept is not None:
            at = np.minimum(np.searchsorted(kept, rows), len(kept) - 1)
            here = kept[at] == rows
            rows, columns, values = at[here], columns[here], values[here]
        if is_added and len(rows):
            scores[rows, columns] += values
        elif not is_added:
            scores[rows, columns] = -np.inf
    if without is not None:
        stop = start + scores.shape[1]
        scores[:, without[slice(*np.searchsorted(without, (start, stop)))] - start] = -np.inf
    return scores


def _with_better(
    keys: npt.NDArray[np.uint64], bar: Float32Array, rows: IntArray, found: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.uint64], Float32Array]:
    """Merge keys found for rows into the k smallest of each row; return these and each row's k-th best score."""
    better = found < keys[rows, -1]
    if not better.any():
        return keys, bar
    keys = _merged(keys, [(rows[better], found[better])])
    last = keys[:, -1]
    return keys, np.where(last < NO_KEY, _decode(last)[1], bar).astype(np.float32)


class _ByTile:
    """The entries of a sparse matrix, sorted by tile so that a tile finds its own quickly."""

    def __init__(self, matrix: sp.csr_array | None) -> None:
        self.tiles: AnyArray = np.empty(0, np.int32)
        self.rows: AnyArray = self.tiles
        self.columns: AnyArray = self.tiles
        self.values: AnyArray = self.tiles
        if matrix is not None and matrix.nnz:
            tiles = matrix.indices // TILE
            short = tiles.astype(np.uint16) if matrix.shape[1] < TILE << 16 else tiles
            order = np.argsort(short, kind="stable")  # radix sort of 16 bits
            self.tiles = tiles[order]
            self.rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))[order]
            self.columns = matrix.indices[order]
            self.values = matrix.data[order]

    def within(self, start: int, width: int) -> tuple[AnyArray, AnyArray, AnyArray]:
        """Return rows, columns and values of the tiles from item ``start``, a multiple of TILE, counted from there."""
        part = slice(*np.searchsorted(self.tiles, (start // TILE, -(-(start + width) // TILE))))
        return self.rows[part], self.columns[part] - start, self.values[part]


def _merged(
    keys: npt.NDArray[np.uint64], waiting: list[tuple[IntArray, npt.NDArray[np.uint64]]]
) -> npt.NDArray[np.uint64]:
    """Return uint64[B, k], the k smallest of each row's keys and the keys collected for it."""
    n_rows, k = keys.shape
    rows = np.concatenate([part[0] for part in waiting])
    order = np.argsort(rows.astype(np.uint16) if n_rows <= 1 << 16 else rows, kind="stable")  # radix sort
    rows = rows[order]
    counts = np.bincount(rows, minlength=n_rows)
    wide = np.full((n_rows, k + counts.max(initial=0)), np.iinfo(np.uint64).max)
    wide[:, :k] = keys
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    wide[rows, k + place] = np.concatenate([part[1] for part in waiting])[order]
    wide.sort(axis=1)
    return wide[:, :k]


def _chunk_length(n_items: int, k: int) -> int:
    """Return the length of a chunk that balances the two costs: I / length maxima, and k · length scores to rescan."""
    length = math.isqrt(n_items // (4 * k))
    return length if length > 3 else 1


def _chunk_maxima(scores: Float32Array, length: int) -> Float32Array:
    """Return float32[B, n], the maximum of each chunk. Chunk c holds items c, c + n, c + 2n, … (fast in memory)."""
    if length == 1:
        return scores
    n_rows, n_items = scores.shape
    n = -(-n_items // length)
    whole = n_items // n
    best: Float32Array = scores[:, : whole * n].reshape(n_rows, whole, n).max(axis=1)
    rest = scores[:, whole * n :]
    np.maximum(best[:, : rest.shape[1]], rest, out=best[:, : rest.shape[1]])
    return best


def _at_least(scores: Float32Array, best: Float32Array, threshold: Float32Array) -> tuple[IntArray, IntArray]:
    """Return rows (ascending) and items of all scores ≥ their row's threshold, found by the chunks' maxima."""
    n_items, n = scores.shape[1], best.shape[1]
    rows, chunks = np.divmod(np.flatnonzero(best >= threshold[:, None]), n)
    if n == n_items:
        return rows, chunks
    length = -(-n_items // n)
    items = chunks[:, None] + n * np.arange(length)  # (P, length)
    # The last chunks may be one item short: the row's last score is read instead, and dropped below.
    found = scores.ravel().take((rows * n_items)[:, None] + np.minimum(items, n_items - 1))
    passed = np.flatnonzero((found >= threshold[rows, None]) & (items < n_items))
    return rows[passed // length], items.ravel()[passed]


def _refuse_nan(scores: Float32Array) -> None:
    bad = np.isnan(scores).any(axis=1)
    if bad.any():
        raise DataError(
            f"{int(bad.sum())} rows of scores contain NaN, the first is row {int(bad.argmax())}: expected numbers or −∞"
        )


def _keys(scores: Float32Array, items: AnyArray) -> npt.NDArray[np.uint64]:
    """Make uint64 keys whose ascending order is that of descending scores, then of ascending items.

    The bits of a float, read as an integer, sort like the float if the sign bit of positive numbers and all bits
    of negative numbers are flipped. The keys use the complement of that.
    """
    bits = (scores + np.float32(0)).view(np.uint32)  # −0 becomes 0: they are equal, their bits are not
    descending = bits ^ np.where(bits >> 31, np.uint32(0), np.uint32(0x7FFFFFFF))
    return (descending.astype(np.uint64) << np.uint64(32)) | items.astype(np.uint64)


def _decode(keys: npt.NDArray[np.uint64]) -> tuple[IntArray, Float32Array]:
    """Return the items and scores of keys: the inverse of ``_keys``."""
    descending = (keys >> np.uint64(32)).astype(np.uint32)
    bits = descending ^ np.where(descending >> 31, np.uint32(0), np.uint32(0x7FFFFFFF))
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.int64), bits.view(np.float32)


def _sorted_keys(scores: Float32Array, k: int) -> npt.NDArray[np.uint64]:
    """Return uint64[B, k], the k smallest keys of whole rows, computed a few rows at a time."""
    n_rows, n_items = scores.shape
    best = np.empty((n_rows, k), np.uint64)
    step = max(1, SLICE // max(1, n_items))
    for start in range(0, n_rows if k else 0, step):
        keys = _keys(scores[start : start + step], np.arange(n_items))
        best[start : start + step] = np.partition(keys, k - 1, axis=1)[:, :k]
    best.sort(axis=1)
    return best
