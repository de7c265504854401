"""TextEncoder: base class of everything that encodes texts as vectors, s = T(P) (Eq. 15)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np

from rlmrec.errors import LONGEST_SHOWN, DataError, WorkspaceError
from rlmrec.findings import Finding
from rlmrec.linalg import unit_rows
from rlmrec.types import AnyArray, BoolArray, Float32Array

Sink = Callable[[Sequence[int], AnyArray], None]  # takes the vectors of some rows of the texts
# Texts per call of an encoder: enough to keep it busy, few enough to lose little when the process is killed.
CHUNK = 128
# What to say of a new text whose vector is all zeros.
UNKNOWN_WORDS = "the encoder knows no word of this text, so it tells nothing: choose other words"


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


class TextEncoder(ABC):
    """Base class of text encoders: subclasses have ``name``, ``dim`` and ``encode``; the rest has defaults.

    An object that has these three and does not derive from this class is accepted too, see ``as_text_encoder``.
    ``rlmrec encode --encoder my.py:Mine`` makes a class without arguments, or, if it has a ``Config``, with
    an instance of it that holds the options of ``--set``.

    Attributes:
        name: what makes the vectors: model, revision, instruction. Stored vectors are found by it, so change it
            when the vectors change.
        dim: number of dimensions d_s; None until the first vectors where it is not known before.
        revision: of the model, for the manifest.
        tokens: how many tokens an endpoint has counted so far; None for an encoder that is not paid by tokens.
        refused: texts that ``stream`` left without a vector because an endpoint refuses them, with its reason.

    Example:
        >>> class Letters(TextEncoder):
        ...     name, dim = "letters 1", 26
        ...     def encode(self, texts):
        ...         return np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts])
        >>> Letters().encode(["Abba"])[0, :3].tolist(), Letters().is_truncated(["Abba"]).tolist()
        ([2, 2, 0], [False])
    """

    name: str
    dim: int | None
    revision: str | None = None
    tokens: int | None = None
    refused: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> AnyArray:
        """Return numbers (n, d_s), in the order of ``texts``."""

    def stream(self, texts: Sequence[str], sink: Sink) -> None:
        """Call ``sink(rows, vectors)`` as vectors arrive, in any order; by default after every 128 texts.

        An encoder with several requests under way overrides it, so that no answer is lost that was paid for.
        Rows that it leaves out must be in ``refused``.
        """
        for start in range(0, len(texts), CHUNK):
            part = texts[start : start + CHUNK]
            sink(range(start, start + len(part)), self.encode(part))

    def is_truncated(self, texts: Sequence[str]) -> BoolArray:
        """Return bool[n]: whether each text is longer than the model reads; by default none is."""
        return np.zeros(len(texts), bool)

    def findings(self) -> list[Finding]:
        """Return what the user should know about the answers so far; by default nothing."""
        return []

    def fitted_to(self, texts: Sequence[str]) -> TextEncoder:
        """Return the encoder that has learned what it needs from the texts of a catalogue; by default itself."""
        del texts
        return self

    def stored(self, folder: Path) -> dict[str, Any]:
        """Write what was learned from texts into a folder; return entries for the manifest, by default none.

        ``restored`` makes the same encoder again from them.
        """
        del folder
        return {}

    def restored(self, stored: Mapping[str, Any], folder: Path) -> TextEncoder:
        """Return the encoder with what it had learned when ``stored`` returned these entries; by default itself.

        Raises:
            WorkspaceError: a file is absent or damaged.
        """
        del stored, folder
        return self


class DerivedEncoder(TextEncoder):
    """Base class of encoders whose vectors are computed from those of other encoders, ``parts``.

    Each part's vectors are cached under its own name, so another combination of the same parts encodes nothing again.
    """

    parts: tuple[TextEncoder, ...]

    @abstractmethod
    def join(self, vectors: Sequence[Float32Array]) -> Float32Array:
        """Compute float32[n, d_s] from the vectors of each part, float32[n, d_k], for the same n texts."""

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Return float32[n, d_s]."""
        return self.join(
            [checked(part.name, part.encode(texts), len(texts), part.dim) for part in self.parts]
        )

    def is_truncated(self, texts: Sequence[str]) -> BoolArray:
        """Return bool[n]: whether a part does not read each text to its end."""
        truncated = np.zeros(len(texts), bool)
        for part in self.parts:
            truncated |= part.is_truncated(texts)
        return truncated

    @property
    def refused(self) -> dict[str, str]:  # type: ignore[override]  # follows the parts
        """Texts that a part's endpoint refuses, with its reason."""
        return {text: reason for part in self.parts for text, reason in part.refused.items()}

    def findings(self) -> list[Finding]:
        """Return the findings of all parts."""
        return [finding for part in self.parts for finding in part.findings()]

    def stored(self, folder: Path) -> dict[str, Any]:
        """Write what the parts have learned; see ``TextEncoder.stored``."""
        return {"parts": [part.stored(folder) for part in self.parts]}


class CombinedEncoder(DerivedEncoder):
    """The vectors of several encoders side by side, scaled so that a cosine is the mean of the parts' cosines.

        x = [x_1 / ‖x_1‖; …; x_m / ‖x_m‖] / √m

    A text for which a part has only zeros is represented by the other parts alone.

    Args:
        parts: the encoders, at least two.

    Example:
        >>> class Letters(TextEncoder):
        ...     name, dim = "letters 1", 26
        ...     def encode(self, texts):
        ...         return np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts])
        >>> both = CombinedEncoder([Letters(), Letters()])
        >>> both.name, both.encode(["Abba"]).shape
        ('letters 1 + letters 1', (1, 52))
    """

    def __init__(self, parts: Sequence[TextEncoder]) -> None:
        self.parts = tuple(parts)
        self.name = " + ".join(part.name for part in self.parts)
        revisions = [part.revision for part in self.parts if part.revision]
        self.revision = ", ".join(revisions) or None

    @property
    def dim(self) -> int | None:  # type: ignore[override]  # follows the parts
        """d_s, the sum of the parts' dimensions."""
        sizes = [part.dim for part in self.parts]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def tokens(self) -> int | None:  # type: ignore[override]  # follows the parts
        """Tokens of all parts that are paid by tokens."""
        counts = [part.tokens for part in self.parts if part.tokens is not None]
        return sum(counts) if counts else None

    def join(self, vectors: Sequence[Float32Array]) -> Float32Array:
        """Put the vectors side by side; see ``DerivedEncoder.join``."""
        return unit_rows(np.concatenate([unit_rows(part) for part in vectors], axis=1))

    def fitted_to(self, texts: Sequence[str]) -> Self:
        """Return the combination of the fitted parts."""
        return type(self)([part.fitted_to(texts) for part in self.parts])

    def restored(self, stored: Mapping[str, Any], folder: Path) -> Self:
        """Return the combination of the restored parts."""
        of_parts = stored.get("parts") or []
        if len(of_parts) != len(self.parts):
            raise WorkspaceError(
                f"the record of {self.name} has {len(of_parts)} parts, expected {len(self.parts)}: run "
                "'rlmrec encode' again"
            )
        return type(self)(
            [part.restored(one, folder) for part, one in zip(self.parts, of_parts, strict=True)]
        )


class _Adapted(TextEncoder):
    """An object with ``name``, ``dim`` and ``encode``, and perhaps ``stream`` or ``is_truncated``, as a TextEncoder."""

    OPTIONAL = (
        "revision",
        "tokens",
        "stream",
        "is_truncated",
        "refused",
        "findings",
        "fitted_to",
        "stored",
        "restored",
    )

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self.name = encoder.name
        for name in self.OPTIONAL:
            if hasattr(encoder, name):
                setattr(self, name, getattr(encoder, name))

    @property
    def dim(self) -> int | None:  # type: ignore[override]  # may be known after the first vectors
        found: int | None = self._encoder.dim
        return found

    def encode(self, texts: Sequence[str]) -> AnyArray:
        found: AnyArray = self._encoder.encode(texts)
        return found


def as_text_encoder(encoder: Any) -> TextEncoder:
    """Return an encoder as it is, or an object of another class with ``name``, ``dim`` and ``encode`` as one.

    Raises:
        DataError: one of the three is missing, or it is a class.
    """
    if isinstance(encoder, TextEncoder):
        return encoder
    if isinstance(encoder, type):
        raise DataError(
            f"the encoder is the class {encoder.__name__}: make one, such as {encoder.__name__}(), or pass a name such "
            "as 'local'"
        )
    if missing := missing_of(encoder):
        raise DataError(
            f"the encoder {type(encoder).__name__} has no {', no '.join(missing)}: see "
            "rlmrec.text.TextEncoder"
        )
    return _Adapted(encoder)


def missing_of(encoder: Any) -> list[str]:
    """Return which of ``name``, ``dim`` and ``encode`` an encoder does not have."""
    return [name for name in ("name", "dim", "encode") if not hasattr(encoder, name)]


def list_of_texts(texts: Sequence[str]) -> list[str]:
    """Return texts as a list.

    Raises:
        DataError: it is one text, which would be read letter by letter, or something in it is no text.
    """
    if isinstance(texts, str):
        raise DataError(
            f"got the text {texts[:LONGEST_SHOWN]!r}, expected a list of texts: pass [text] and take the first vector"
        )
    found = list(texts)
    odd = next((row for row, text in enumerate(found) if not isinstance(text, str)), None)
    if odd is not None:
        raise DataError(
            f"text {odd} is {repr(found[odd])[:LONGEST_SHOWN]} ({type(found[odd]).__name__}): expected texts"
        )
    return found


def stored_file(stored: Mapping[str, Any], folder: Path) -> Path:
    """Return the file in a folder that was learned from texts and that a manifest names.

    Raises:
        WorkspaceError: it names none, or the file is not there.
    """
    name = Path(str(stored.get("file") or "")).name
    if not name:
        raise WorkspaceError(
            "what the encoder learned from the texts was not stored with their vectors: encode them again with "
            "encoders=FOLDER (or 'rlmrec encode'), then pass folder=FOLDER"
        )
    if not (folder / name).is_file():
        raise WorkspaceError(
            f"{folder / name} is absent: encode the texts again ('rlmrec encode'), or pass the folder that "
            "encode_dataset stored it in (folder=)"
        )
    return folder / name


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


def unknown_words(vector: Float32Array) -> str | None:
    """Say that an encoder knows no word of a new text, by its vector float32[d_s]; None if it knows one."""
    return None if vector.any() else UNKNOWN_WORDS
