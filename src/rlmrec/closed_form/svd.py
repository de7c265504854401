"""Truncated SVD of a sparse matrix, to a chosen accuracy and equal on every run."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.linalg import solve_triangular

from rlmrec.data.interactions import index_type
from rlmrec.errors import ConfigError, DataError
from rlmrec.linalg import WIDE_ROWS, gram_matrix
from rlmrec.machine import available_cores
from rlmrec.shards import Shards
from rlmrec.types import Float32Array, FloatArray

# Up to this size of the smaller side the Gram matrix is decomposed as a whole: 50 ms, and exact.
EXACT_SIZE = 500
# Degree of the polynomial between two orthonormalisations. Measured on amazon-book, rank 512: an error of 1 %
# takes 4 rounds of degree 4 or 3 of degree 8.
DEGREE = 8
# A polynomial raises the first singular vector by at most so much above the last one that is wanted: float32 loses the
# latter beside more. MovieLens-100K, rank 256: degree 8 stops at a relative residual of .72, this reaches .01.
GROWTH = 1e16
MAX_ROUNDS = 12
# Columns multiplied at once: 32 columns of 10,000 rows stay in the cache, which halves the time.
TILE = 32
# Rows multiplied at once: what is kept of them is 32 MiB in each thread, however many rows there are.
ROWS = 1 << 18


class SingularVectors(NamedTuple):
    """Leading right singular vectors and values of a matrix, and how accurate they are.

    Args:
        vectors: float32[I, r], orthonormal columns.
        values: float64[r], singular values, descending.
        error: largest relative residual ‖(AᵀA − σ²) q‖ / σ² among the r pairs.
    """

    vectors: Float32Array
    values: FloatArray
    error: float


def right_singular_vectors(
    matrix: sp.csr_array,
    rank: int,
    *,
    smoothing: sp.csr_array | None = None,
    tolerance: float = 0.05,
    seed: int = 0,
    start: Float32Array | None = None,
    shards: Shards | None = None,
    spare: bool = False,
) -> SingularVectors:
    """Compute the r leading right singular vectors of a sparse matrix A, or of A S, without U x r memory.

    A is read ``ROWS`` rows at a time and never transposed or copied, so beside it I x r numbers are in memory.

    Subspace iteration on AᵀA from a random block of r + p columns. Each round applies a Chebyshev polynomial
    of AᵀA, which stays small on the unwanted part of the spectrum and grows fast above it, orthonormalises the
    block and solves the eigenproblem within it (Rayleigh-Ritz). It stops when every one of the r pairs has a
    relative residual ‖(AᵀA − σ²) q‖ / σ² ≤ ``tolerance``.

    Where the smaller side is at most ``EXACT_SIZE``, or less than 2 r, the Gram matrix is decomposed densely in
    float64 instead.

    Args:
        matrix: A, sparse U x I of finite values.
        rank: r; more than min(U, I) means min(U, I).
        smoothing: S, sparse I x I; None is the identity.
        tolerance: the relative residual to reach.
        seed: of the random block; the result depends on nothing else.
        start: float32[I, k], columns to begin with, such as the vectors of a similar matrix or a lower rank.
        shards: processes that compute it together, each of which is given all of A and multiplies its own rows: an
            all-reduce of I x (r + p) numbers for each product with AᵀA. All of them get the same result.
        spare: return the p oversampling columns too, where the block was iterated; they are less accurate.

    Returns:
        vectors, values and the error that was reached, above ``tolerance`` only if ``MAX_ROUNDS`` rounds did
        not suffice. Each vector's largest entry is positive.

    Raises:
        ConfigError: a rank below 1.
        DataError: a value of the matrix is not finite.

    Source: Zhou and Saad 2006, SIAM J. Matrix Anal. Appl. 29(3); Halko, Martinsson and Tropp 2011, SIAM
    Review 53(2).
    """
    if rank < 1:
        raise ConfigError(f"the rank of a truncated SVD must be at least 1, got {rank}")
    if not np.isfinite(matrix.data).all():
        raise DataError("the matrix to decompose holds NaN or infinity: every value must be finite")
    smaller = min(matrix.shape)
    rank = min(rank, smaller)
    shards = shards or Shards()
    if smaller <= EXACT_SIZE or 2 * rank > smaller:
        exact = _exact(matrix if smoothing is None else sp.csr_array(matrix @ smoothing), rank)
        return exact._replace(
            vectors=shards.from_first(exact.vectors), values=shards.from_first(exact.values)
        )
    width = min(smaller, rank + max(16, rank // 4))
    block = np.random.default_rng(seed).standard_normal((matrix.shape[1], width), np.float32)
    if start is not None:
        block[:, : min(width, start.shape[1])] = start[:, :width]
    with ThreadPoolExecutor(available_cores()) as pool:
        if shards.count > 1:
            mine = shards.rows(matrix.shape[0])
            part = _Shared(rows_of(matrix, mine.start, mine.stop), smoothing, pool, shards)
            return _iterate(part, block, rank, tolerance, shards, spare)
        return _iterate(_Tiles(matrix, smoothing, pool), block, rank, tolerance, shards, spare)


class Gram:
    """AᵀA as a function of columns, a block of rows of A at a time: neither AᵀA nor Aᵀ nor A columns is made.

    Args:
        matrix: A, sparse U x I.
        rows: of A multiplied at once.
    """

    def __init__(self, matrix: sp.csr_array, rows: int = ROWS) -> None:
        self.matrix, self.rows = _narrow(matrix), rows

    def __call__(self, columns: Float32Array) -> Float32Array:
        """float32[I, w]: AᵀA ``columns`` float32[I, w]."""
        total: Float32Array | None = None
        n = self.matrix.shape[0]
        for start in range(0, n, self.rows):
            block = rows_of(self.matrix, start, min(start + self.rows, n))
            part = block.T @ (block @ columns)
            total = part if total is None else np.add(total, part, out=total)
        return np.zeros_like(columns) if total is None else total


def rows_of(matrix: sp.csr_array, start: int, stop: int) -> sp.csr_array:
    """Consecutive rows of a matrix, over the same memory."""
    first, last = matrix.indptr[start], matrix.indptr[stop]
    arrays = (
        matrix.data[first:last],
        matrix.indices[first:last],
        matrix.indptr[start : stop + 1] - first,
    )
    return sp.csr_array(arrays, shape=(stop - start, matrix.shape[1]))


class _Tiles:
    """AᵀA (SᵀAᵀAS) as a function of blocks of columns, a few columns at a time in each thread."""

    def __init__(
        self, matrix: sp.csr_array, smoothing: sp.csr_array | None, pool: ThreadPoolExecutor
    ) -> None:
        self.gram = Gram(matrix)
        self.smoothing = None if smoothing is None else _narrow(smoothing)
        self.pool = pool

    def product(self, columns: Float32Array) -> Float32Array:
        if self.smoothing is None:
            return self.gram(columns)
        found: Float32Array = self.smoothing.T @ self.gram(self.smoothing @ columns)
        return found

    def by_tiles(self, work: Callable[[slice], Float32Array], width: int) -> Float32Array:
        tiles = [slice(start, min(start + TILE, width)) for start in range(0, width, TILE)]
        return np.concatenate(list(self.pool.map(work, tiles)), axis=1)

    def whole(self, work: Callable[[slice], Float32Array], width: int) -> Float32Array:
        """``work`` on all columns, in which every column is treated alike."""
        return self.by_tiles(work, width)

    def __call__(self, block: Float32Array) -> Float32Array:
        return self.by_tiles(lambda tile: self.product(np.ascontiguousarray(block[:, tile])), block.shape[1])

    def chebyshev(self, block: Float32Array, image: Float32Array, cut: float, top: float) -> Float32Array:
        """p(AᵀA) block, p a Chebyshev polynomial that is small on [0, cut], scaled to |p(top)| = 1.

        Its degree is ``DEGREE``, or less where |p| would grow by more than ``GROWTH``.

        Args:
            block: float32[I, w].
            image: AᵀA block.
            cut: σ² below which to suppress.
            top: largest σ²; must exceed ``cut``.
        """
        half = cut / 2
        first = half / (half - top)
        degree = min(DEGREE, max(1, int(math.acosh(GROWTH) / math.acosh(top / half - 1))))

        def filtered(tile: slice) -> Float32Array:
            before = np.ascontiguousarray(block[:, tile])
            now = (image[:, tile] - half * before) * np.float32(first / half)
            scale = first
            for _ in range(1, degree):
                following = 1 / (2 / first - scale)
                after = self.product(now)
                after -= np.float32(half) * now
                after *= np.float32(2 * following / half)
                after -= np.float32(scale * following) * before
                before, now, scale = now, after, following
            return now

        return self.whole(filtered, block.shape[1])


class _Shared(_Tiles):
    """AᵀA of which this process has some rows of A; all processes must ask for the same products."""

    def __init__(
        self, rows: sp.csr_array, smoothing: sp.csr_array | None, pool: ThreadPoolExecutor, shards: Shards
    ) -> None:
        super().__init__(rows, smoothing, pool)
        self.shards = shards

    def product(self, columns: Float32Array) -> Float32Array:
        wide = columns if self.smoothing is None else self.smoothing @ columns
        total = self.by_tiles(lambda tile: self.gram(np.ascontiguousarray(wide[:, tile])), wide.shape[1])
        total = self.shards.sum(np.ascontiguousarray(total))
        return total if self.smoothing is None else self.smoothing.T @ total

    def __call__(self, block: Float32Array) -> Float32Array:
        return self.product(block)

    def whole(self, work: Callable[[slice], Float32Array], width: int) -> Float32Array:
        # Not by tiles: their threads would ask for sums in an order that differs between processes.
        return work(slice(0, width))


def _narrow(matrix: sp.csr_array) -> sp.csr_array:
    """``matrix`` in float32 with 32-bit indices where they suffice: less memory to read."""
    kind = index_type(matrix.nnz, *matrix.shape)
    parts = (matrix.data, np.float32), (matrix.indices, kind), (matrix.indptr, kind)
    return sp.csr_array(tuple(array.astype(to, copy=False) for array, to in parts), shape=matrix.shape)


def _iterate(
    gram: _Tiles, block: Float32Array, rank: int, tolerance: float, shards: Shards, spare: bool
) -> SingularVectors:
    # What machines may round differently is taken from the first process, so that all of them stop at the same round.
    block = shards.from_first(_orthonormal(block))
    image = gram(block)
    for round_ in range(MAX_ROUNDS + 1):
        squares, rotation = np.linalg.eigh((block.T @ image).astype(np.float64))
        squares, rotation = shards.from_first(squares), shards.from_first(np.ascontiguousarray(rotation))
        squares = np.maximum(squares[::-1], 0)
        turn = np.ascontiguousarray(rotation[:, ::-1], np.float32)
        block, image = block @ turn, image @ turn
        residuals = np.linalg.norm(image - block * squares.astype(np.float32), axis=0)[:rank]
        # Values that are 0 but for rounding have no direction of their own: the residual is judged by σ_1.
        floor = max(1e-4 * squares[0], float(np.finfo(np.float32).tiny))
        error = float(
            shards.from_first((residuals / np.maximum(squares[:rank], floor)).astype(np.float64)).max()
        )
        if error <= tolerance or round_ == MAX_ROUNDS or squares[0] <= 0:
            break
        top = float(squares[0])
        cut = max(float(squares[-1]), 1e-6 * top)
        block = shards.from_first(_orthonormal(gram.chebyshev(block, image, cut, top)))
        image = gram(block)
    kept = block.shape[1] if spare else rank
    return SingularVectors(shards.from_first(_signed(block[:, :kept])), np.sqrt(squares[:kept]), error)


def _orthonormal(block: Float32Array) -> Float32Array:
    """float32[I, w] with orthonormal columns of the same span, by Cholesky of the Gram matrix in float64.

    A sixth of the time of a QR by reflections. The columns are close to orthogonal already; where they are
    not (Cholesky fails) the QR is used.
    """
    lengths = np.linalg.norm(block, axis=0)
    block = np.ascontiguousarray(block / np.where(lengths > 0, lengths, 1), np.float32)
    parts = [block[start : start + WIDE_ROWS] for start in range(0, len(block), WIDE_ROWS)]
    for _ in range(2):  # the second pass removes what the first left by rounding
        try:
            factor = np.linalg.cholesky(gram_matrix(block))
        except np.linalg.LinAlgError:
            return np.ascontiguousarray(np.linalg.qr(block)[0])
        for part in parts:
            part[:] = solve_triangular(factor, part.T.astype(np.float64), lower=True).T
    return block


def _exact(matrix: sp.csr_array, rank: int) -> SingularVectors:
    wide = matrix.astype(np.float64)
    tall = matrix.shape[0] >= matrix.shape[1]
    gram = (wide.T @ wide if tall else wide @ wide.T).toarray()
    squares, vectors = np.linalg.eigh(gram)
    values = np.sqrt(np.maximum(squares[::-1][:rank], 0))
    vectors = vectors[:, ::-1][:, :rank]
    if not tall:  # q = Aᵀ p / σ; what belongs to σ = 0 is left at zero
        inverse = np.divide(1, values, out=np.zeros(rank), where=values > 1e-9 * max(values[0], 1e-300))
        vectors = (wide.T @ vectors) * inverse
    return SingularVectors(_signed(np.asarray(vectors, np.float32)), values, 0.0)


def _signed(vectors: Float32Array) -> Float32Array:
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return np.ascontiguousarray(vectors * np.where(largest < 0, -1, 1).astype(np.float32))
