"""TextEncoder: what turns texts into vectors, s = T(P) (Eq. 15)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rlmrec.errors import DataError
from rlmrec.types import AnyArray, Float32Array

Sink = Callable[[Sequence[int], Float32Array], None]  # takes the vectors of some rows of the texts


@runtime_checkable
class TextEncoder(Protocol):
    """Anything that maps texts to vectors of one length. Any object with these three will do.

    Three more are optional. ``revision``: of the model, for the manifest. ``is_cut(texts)``: one bool a
    text, whether it is longer than what the model reads. ``stream(texts, sink)``: hands vectors over as
    they come, ``sink(rows, vectors)``, in any order; for encoders that have several requests under way,
    so that each answer is stored the moment it is paid for.

    Example:
        >>> class Letters:
        ...     name, dim = "letters 1", 26  # change the name when the vectors change
        ...     def encode(self, texts):
        ...         return np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts])
        >>> isinstance(Letters(), TextEncoder), Letters().encode(["Abba"])[0, :3].tolist()
        (True, [2, 2, 0])
    """

    @property
    def name(self) -> str:
        """What makes the vectors: model, revision, instruction. Vectors are kept under it."""
        ...

    @property
    def dim(self) -> int | None:
        """d_s; None while only the first answer can tell."""
        ...

    def encode(self, texts: Sequence[str]) -> AnyArray:
        """(n, d_s), numbers, in the order of ``texts``."""
        ...


def checked(name: str, vectors: Any, n_texts: int, dim: int | None) -> Float32Array:
    """``vectors`` as float32[n, d_s], if that is what they are.

    Args:
        name: the encoder's.
        vectors: what it returned.
        n_texts: n.
        dim: d_s, where it is known.

    Raises:
        DataError: another number of vectors, another dimension, no numbers, NaN or infinity.
    """
    try:
        with np.errstate(over="ignore"):  # becomes infinity, which is refused below
            array = np.asarray(vectors, np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{name} answered with what is no array of numbers ({error}): expected ({n_texts}, d_s) of them"
        ) from None
    if array.ndim != 2 or len(array) != n_texts or not array.shape[1]:
        raise DataError(
            f"{name} answered {n_texts} texts with an array of shape {array.shape}: expected one vector for each"
        )
    if dim is not None and array.shape[1] != dim:
        raise DataError(
            f"{name} answered with vectors of {array.shape[1]} dimensions, {dim} before: all must have the same"
        )
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array).all(1)).sum())
        raise DataError(
            f"{name} answered {bad} of {n_texts} texts with NaN or infinity: vectors must be finite"
        )
    return array
