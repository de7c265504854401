"""TF-IDF with a truncated SVD: text vectors in seconds, from the texts of the catalogue alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from rlmrec.config import Config
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.files import atomic_file
from rlmrec.linalg import unit_rows
from rlmrec.text.encoder import TextEncoder, list_of_texts, stored_file
from rlmrec.trust import check_finite, damaged, matrix, read_tensors, write_tensors
from rlmrec.types import AnyArray, Float32Array

State = dict[str, AnyArray]


class TfidfConfig(Config):
    """Options of the TF-IDF encoder."""

    dim: int = Field(256, ge=1, description="d_s, singular vectors kept; fewer where the texts have fewer")
    min_count: int = Field(
        2, ge=1, description="texts that a term must occur in, where there are 10 texts or more"
    )
    max_share: float = Field(
        0.5, gt=0, le=1, description="share of the texts above which a term says nothing"
    )
    ngrams: int = Field(1, ge=1, le=3, description="longest sequence of words that is a term")


class TfidfEncoder(TextEncoder):
    """Maps a text to its TF-IDF weights, projected on their leading singular vectors and scaled to unit length.

        weight of term t in a text = (1 + ln count) · (ln((1 + n) / (1 + n_t)) + 1),  rows of length 1,  x = X V

    ``fit`` it to the texts of a catalogue; it then encodes any text. A text without a known term has zeros.

    Args:
        terms: the vocabulary, in the order of ``idf``.
        idf: float32[n_terms].
        components: V, float32[n_terms, d_s].
        config: options.

    Raises:
        ConfigError: scikit-learn is not installed.

    Example:
        >>> encoder = TfidfEncoder.fit(["a space opera", "a western", "space western"], TfidfConfig(dim=2))
        >>> encoder.encode(["western in space"]).shape
        (1, 2)
    """

    def __init__(
        self, terms: Sequence[str], idf: Float32Array, components: Float32Array, config: TfidfConfig
    ) -> None:
        if not len(terms) == len(idf) == len(components):
            raise DataError(
                f"there are {len(terms)} terms, {len(idf)} weights and {len(components)} rows of components: "
                "expected the same number"
            )
        self.terms = list(terms)
        self.idf = idf
        self.components = components
        self.config = config
        self.dim: int = int(components.shape[1])
        self.name = f"tfidf {self.dim} ({self.digest})"

    @cached_property
    def digest(self) -> str:
        """A hash of everything that its vectors depend on."""
        found = hashlib.sha256()
        for array in self.state().values():
            found.update(np.ascontiguousarray(array).tobytes())
        return found.hexdigest()[:16]

    def save(self, folder: Path) -> str:
        """Write the encoder into a folder as a safetensors file named after its hash; return the file's name."""
        path = Path(folder) / f"tfidf-{self.digest}.safetensors"
        with atomic_file(path) as temporary:  # one that is there may be damaged
            write_tensors(temporary, self.state())
        return path.name

    def stored(self, folder: Path) -> dict[str, Any]:
        """Write the encoder; return the name of its file for the manifest."""
        return {"file": self.save(folder)}

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            WorkspaceError: absent or damaged.
        """
        if not path.is_file():
            raise WorkspaceError(f"{path} is absent: encode the texts again")
        with damaged(path, "encode the texts again"):
            arrays, _ = read_tensors(path)
            check_finite(arrays)
            matrix(arrays, "components")
            encoder = cls.from_state(arrays)
            encoder.encode(["a text"])
            return encoder

    @classmethod
    def fit(cls, texts: Sequence[str], config: TfidfConfig | None = None, seed: int = 0) -> Self:
        """Take vocabulary, weights and singular vectors from the texts of a catalogue.

        Args:
            texts: n of them; empty ones are allowed.
            config: options.
            seed: of the SVD.

        Raises:
            DataError: no text holds a term, or these are no texts.
            ConfigError: scikit-learn is not installed.
        """
        config, texts = config or TfidfConfig(), list_of_texts(texts)
        count_vectorizer, truncated_svd = _sklearn()
        few = len(texts) < 10
        vectorizer = count_vectorizer(
            ngram_range=(1, config.ngrams),
            min_df=1 if few else config.min_count,
            max_df=1.0 if few else config.max_share,
            dtype=np.float32,
        )
        try:
            counts = sp.csr_array(vectorizer.fit_transform(texts))
        except ValueError as error:  # "empty vocabulary", "no terms remain"
            raise DataError(
                f"no term is left of {len(texts)} texts ({error}): give texts with words"
            ) from None
        present = np.bincount(counts.indices, minlength=counts.shape[1])
        idf = (np.log((1 + len(texts)) / (1 + present)) + 1).astype(np.float32)
        weights = _weighted(counts, idf)
        size = min(config.dim, min(weights.shape) - 1)
        if size < 1:  # a single text or term: nothing to reduce
            components = np.eye(weights.shape[1], min(config.dim, weights.shape[1]), dtype=np.float32)
        else:
            svd = truncated_svd(size, n_iter=4, random_state=seed).fit(weights)
            components = np.ascontiguousarray(svd.components_.T, np.float32)
        return cls(vectorizer.get_feature_names_out().tolist(), idf, components, config)

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """float32[n, d_s], rows of unit length; zeros for a text without a known term."""
        texts = list_of_texts(texts)
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        counts = sp.csr_array(self._vectorizer.transform(texts))
        vectors: Float32Array = _weighted(counts, self.idf) @ self.components
        return unit_rows(vectors)

    @cached_property
    def _vectorizer(self) -> Any:
        count_vectorizer, _ = _sklearn()
        return count_vectorizer(ngram_range=(1, self.config.ngrams), vocabulary=self.terms, dtype=np.float32)

    def state(self) -> State:
        """Arrays for safetensors; text as UTF-8 bytes. ``from_state`` restores the encoder."""
        described = {"terms": self.terms, "config": self.config.model_dump()}
        text = json.dumps(described, ensure_ascii=False).encode()
        return {"idf": self.idf, "components": self.components, "description": np.frombuffer(text, np.uint8)}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Restore what ``state`` returned.

        Raises:
            DataError: the description is no JSON.
        """
        try:
            described = json.loads(state["description"].tobytes())
        except ValueError as error:
            raise DataError(
                f"the encoder's description is damaged ({error}): encode the texts again"
            ) from None
        config = TfidfConfig(**described["config"])
        return cls(described["terms"], state["idf"], state["components"], config)


class Tfidf(TextEncoder):
    """``--encoder tfidf``: becomes a ``TfidfEncoder`` once the texts of a catalogue are known.

    Args:
        config: options.
    """

    Config = TfidfConfig
    name = "tfidf, not fitted yet"

    def __init__(self, config: TfidfConfig | None = None) -> None:
        self.config = config or TfidfConfig()
        self.dim = self.config.dim

    def fitted_to(self, texts: Sequence[str]) -> TfidfEncoder:
        """Return an encoder fitted to the distinct texts of a catalogue."""
        return TfidfEncoder.fit(sorted(set(list_of_texts(texts))), self.config)

    def restored(self, stored: Mapping[str, Any], folder: Path) -> TfidfEncoder:
        """Read the fitted encoder; see ``TextEncoder.restored``."""
        return TfidfEncoder.load(stored_file(stored, folder))

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Encode texts by an encoder that is fitted to these texts alone."""
        texts = list_of_texts(texts)
        return self.fitted_to(texts).encode(texts)


def _weighted(counts: sp.csr_array, idf: Float32Array) -> sp.csr_array:
    """TF-IDF weights, rows of unit length."""
    values = (1 + np.log(counts.data)) * idf[counts.indices]
    rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    lengths = np.sqrt(np.bincount(rows, values**2, minlength=counts.shape[0]))
    entries = (values / lengths[rows]).astype(np.float32), counts.indices, counts.indptr
    weights: sp.csr_array = sp.csr_array(entries, shape=counts.shape)
    return weights


def _sklearn() -> tuple[Any, Any]:
    try:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import CountVectorizer
    except ImportError as error:
        raise ConfigError(f"{error}: install scikit-learn with  pip install 'rlmrec[report]'") from None
    return CountVectorizer, TruncatedSVD
