"""TextEncoder: the interface of everything that encodes texts as vectors, s = T(P) (Eq. 15)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from rlmrec.errors import DataError
from rlmrec.types import AnyArray, Float32Array

Sink = Callable[[Sequence[int], Float32Array], None]  # takes the vectors of some rows of the texts


class EncoderSettings(NamedTuple):
    """Settings of the built-in encoders, for their ``create``.

    base_url: root of an OpenAI-compatible endpoint; None is OpenAI's.
    key_env: environment variable with the endpoint's key.
    device: device of a model that runs here.
    endpoint: further options of ``OpenAIEmbeddings``.
    """

    base_url: str | None = None
    key_env: str = "OPENAI_API_KEY"
    device: str = "cpu"
    endpoint: Mapping[str, Any] | None = None


@runtime_checkable
class TextEncoder(Protocol):
    """Interface of an encoder: any object with ``name``, ``dim`` and ``encode``.

    Optional: ``revision``, of the model, for the manifest; ``is_truncated(texts)``, one bool per text, whether it
    is longer than the model's longest input; ``stream(texts, sink)``, which calls ``sink(rows, vectors)`` as
    vectors arrive, in any order, so that an encoder with several requests under way loses no answer that was
    paid for.

    ``rlmrec encode --encoder my.py:Mine`` makes a class without arguments, or, if it has a ``Config``, with
    an instance of it that holds the options of ``--set``.

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
        """Name of what makes the vectors: model, revision, instruction. Stored vectors are found by it."""
        ...

    @property
    def dim(self) -> int | None:
        """Number of dimensions d_s; None until the first vectors where it is not known before."""
        ...

    def encode(self, texts: Sequence[str]) -> AnyArray:
        """Return numbers (n, d_s), in the order of ``texts``."""
        ...


def checked(name: str, vectors: Any, n_texts: int, dim: int | None) -> Float32Array:
    """Return an encoder's vectors as float32[n, d_s] after checking them.

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
            f"{name} returned something else than an array of numbers ({error}): expected ({n_texts}, d_s)"
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
