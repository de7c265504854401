"""Products and lengths of tall matrices."""

from __future__ import annotations

import numpy as np

from rlmrec.types import Float32Array, FloatArray

# Rows that are in float64 at a time.
WIDE_ROWS = 1 << 15
# Length of a row below which float32 cannot tell it from one that rounding left of zero.
ROUNDING = 1e-6


def gram_matrix(rows: Float32Array, mean: FloatArray | None = None) -> FloatArray:
    """Return AᵀA, float64[d, d], for A = ``rows`` − ``mean``, summed over ``WIDE_ROWS`` rows at a time.

    Only these are copied to float64 at a time. BLAS takes ten times as long for one product of a million rows.

    Args:
        rows: float32[n, d].
        mean: float64[d]; None subtracts nothing.
    """
    total = np.zeros((rows.shape[1],) * 2)
    for start in range(0, len(rows), WIDE_ROWS):
        wide = rows[start : start + WIDE_ROWS].astype(np.float64)
        if mean is not None:
            wide -= mean
        total += wide.T @ wide
    return total


def unit_rows(rows: Float32Array, least: float = 0.0) -> Float32Array:
    """Scale rows float32[n, d] to length 1.

    Args:
        rows: float32[n, d].
        least: rows that are no longer than this become zeros; ``ROUNDING`` for differences of float32.
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled = np.zeros(rows.shape, np.float32)
    np.divide(rows, lengths, out=scaled, where=lengths > least, casting="same_kind")
    return scaled
