"""Whitening of text vectors: centring, and scaling each direction by a power of its spread."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from rlmrec.errors import DataError, WorkspaceError
from rlmrec.files import atomic_file
from rlmrec.linalg import ROUNDING, gram_matrix, unit_rows
from rlmrec.text.encoder import DerivedEncoder, TextEncoder
from rlmrec.trust import damaged, matrix, read_tensors, write_tensors
from rlmrec.types import AnyArray, BoolArray, Float32Array

# Directions whose singular value is below this share of the largest are rounding, not text.
NEGLIGIBLE = 1e-4


@dataclass(frozen=True, eq=False)
class Whitening:
    """Maps text vectors x to (x − mean) W S^(p−1), scaled to unit length.

    With T − mean = P S Wᵀ, the vectors that it was fitted on become the rows of P S^p: p = 1 only centres them,
    p = 0 gives every direction the same spread, p = ½ lies between.

    Args:
        mean: float32[d_s].
        map: float32[d_s, d_t], W S^(p−1); d_t ≤ d_s, 0 if all vectors are equal.

    Example:
        >>> vectors = np.array([[3, 1], [1, 1], [2, 2]], np.float32)
        >>> Whitening.fit(vectors, power=1)(vectors).round(2).tolist()
        [[0.95, -0.32], [-0.95, -0.32], [0.0, 1.0]]
    """

    mean: Float32Array
    map: Float32Array

    @classmethod
    def fit(
        cls,
        vectors: Float32Array,
        power: float = 0.5,
        *,
        mask: BoolArray | None = None,
        size: int | None = None,
    ) -> Whitening:
        """Compute mean and map from the vectors of a catalogue.

        Args:
            vectors: float32[n, d_s].
            power: p, from 0 to 1.
            mask: bool[n], the rows that have a text; all by default.
            size: d_t, keep this many of the widest directions; all by default.

        Raises:
            DataError: not a matrix, or a vector with NaN or infinity.
        """
        _check(vectors)
        known = vectors if mask is None else vectors[mask]
        mean = known.mean(axis=0, dtype=np.float64) if len(known) else np.zeros(vectors.shape[1])
        # The Gram matrix is d_s x d_s: cheaper than an SVD of the n x d_s vectors, and as good in float64.
        squares, directions = np.linalg.eigh(gram_matrix(known, mean))
        spread = np.sqrt(np.maximum(squares[::-1], 0))
        directions = directions[:, ::-1]
        length = float(np.sqrt(np.einsum("nd,nd->", known, known, dtype=np.float64)))
        kept = (
            spread > NEGLIGIBLE * max(float(spread[0]), 1e-3 * length, 1e-30) if spread.size else spread > 0
        )
        if size is not None:
            kept[size:] = False
        # Spread a row, so that the scale of the map does not depend on n.
        per_row = spread[kept] / np.sqrt(max(len(known), 1))
        scaled = directions[:, kept] * per_row ** (power - 1)
        return cls(mean.astype(np.float32), np.ascontiguousarray(scaled, np.float32))

    def __call__(self, vectors: Float32Array, *, mask: BoolArray | None = None) -> Float32Array:
        """float32[n, d_t]: whitened vectors of unit length; zeros where ``mask`` is False or nothing is left.

        Raises:
            DataError: not a matrix of d_s columns, or a vector with NaN or infinity.
        """
        _check(vectors)
        self.check_size(vectors)
        mapped = np.asarray((vectors - self.mean) @ self.map, np.float32)
        if mask is not None:
            mapped[~mask] = 0
        return unit_rows(mapped, ROUNDING)

    def check_size(self, vectors: Float32Array) -> None:
        """Check that vectors have as many dimensions as those that this was fitted on.

        Raises:
            DataError: they have not d_s columns.
        """
        if vectors.shape[-1] != len(self.mean):
            raise DataError(
                f"the text vectors have {vectors.shape[-1]} dimensions, expected {len(self.mean)}: "
                "use the encoder that the whitening was fitted with"
            )

    @property
    def size(self) -> int:
        """d_t."""
        return int(self.map.shape[1])

    def state(self) -> dict[str, Float32Array]:
        """The two arrays; ``from_state`` restores."""
        return {"mean": self.mean, "map": self.map}

    @classmethod
    def from_state(cls, state: dict[str, Float32Array]) -> Whitening:
        """Restore what ``state`` returned."""
        return cls(state["mean"], state["map"])

    @cached_property
    def digest(self) -> str:
        """Hash of mean and map."""
        return hashlib.sha256(self.mean.tobytes() + self.map.tobytes()).hexdigest()[:16]

    def save(self, folder: Path) -> str:
        """Write mean and map into a folder as a safetensors file named after their hash; return the file's name."""
        path = Path(folder) / f"whitening-{self.digest}.safetensors"
        with atomic_file(path) as temporary:  # one that is there may be damaged
            write_tensors(temporary, self.state())
        return path.name

    @classmethod
    def load(cls, path: Path) -> Whitening:
        """Read what ``save`` wrote.

        Raises:
            WorkspaceError: absent or damaged.
        """
        if not path.is_file():
            raise WorkspaceError(f"{path} is absent: encode the texts again")
        with damaged(path, "encode the texts again"):
            return cls.of_arrays(read_tensors(path)[0])

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, AnyArray], prefix: str = "") -> Whitening:
        """Take mean and map from the arrays of a file, and check them.

        Args:
            arrays: by name.
            prefix: what stands before the two names.

        Raises:
            DataError: one is missing or has another type or shape, or a number is not finite.
        """
        directions = matrix(arrays, f"{prefix}map")
        mean = arrays.get(f"{prefix}mean")
        if mean is None:
            raise DataError("the mean of the whitening is missing")
        return cls(matrix({"mean": mean[None]}, "mean", 1, len(directions))[0], directions)


class WhitenedEncoder(DerivedEncoder):
    """An encoder followed by a whitening that was fitted on the text vectors of a catalogue.

    Args:
        encoder: the encoder of these vectors.
        whitening: mean and map.
        power: p, for the name.
    """

    def __init__(self, encoder: TextEncoder, whitening: Whitening, power: float) -> None:
        self.parts = (encoder,)
        self.whitening = whitening
        self.name = whitened_name(encoder.name, power, whitening)
        self.revision = encoder.revision
        self.dim: int = whitening.size

    def join(self, vectors: Sequence[Float32Array]) -> Float32Array:
        """Whiten float32[n, d]; zeros, which stand for a text without a known word, stay zeros."""
        [found] = vectors
        return self.whitening(found, mask=np.atleast_1d(found.any(axis=1)))


def whitened_name(encoder: str, power: float, whitening: Whitening) -> str:
    """Name of the encoder of whitened vectors, from that of the vectors before."""
    return f"{encoder}, whitened {power:g} ({whitening.digest})"


def _check(vectors: Float32Array) -> None:
    if vectors.ndim != 2:
        raise DataError(f"the text vectors have shape {vectors.shape}, expected (rows, d_s)")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise DataError(f"the text vector of row {row} holds NaN or infinity: every vector must be finite")
