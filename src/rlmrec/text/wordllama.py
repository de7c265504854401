"""wordllama: static word vectors averaged over a text, 256 dimensions, fast; a second encoder for ablations.

The package is MIT; its vectors were made from the token embeddings of large language models, Llama 2 among
them, whose licences may reach them. Ask yourself before you build a product on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Self

import numpy as np

from rlmrec.errors import ConfigError
from rlmrec.text.encoder import EncoderSettings, TextEncoder, list_of_texts
from rlmrec.types import Float32Array


class WordLlamaEncoder(TextEncoder):
    """Static word vectors, averaged: no word order, no context, no limit on length, no network.

    Raises:
        ConfigError: the ``wordllama`` extra is not installed.

    Source: https://github.com/dleemiller/WordLlama

    Example:
        >>> WordLlamaEncoder().encode(["Toy Story (1995)."]).shape
        (1, 256)
    """

    dim = 256

    def __init__(self) -> None:
        try:
            import wordllama
        except ImportError as error:
            raise ConfigError(f"{error}: install it with  pip install 'rlmrec[wordllama]'") from None
        self.revision = metadata.version("wordllama")
        self.name = f"wordllama l2_supercat 256 (wordllama {self.revision})"
        # The weights come with the package; elsewhere it would look for them on a hub.
        self._model = wordllama.WordLlama.load(
            cache_dir=Path(wordllama.__file__).parent, dim=self.dim, disable_download=True
        )

    @classmethod
    def create(cls, argument: str, settings: EncoderSettings) -> Self:
        """Make the encoder; it has no options."""
        del argument, settings
        return cls()

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Return float32[n, 256]; zeros for a text without a token."""
        texts = list_of_texts(texts)
        vectors = np.zeros((len(texts), self.dim), np.float32)
        rows = [row for row, text in enumerate(texts) if text.strip()]
        if rows:
            vectors[rows] = self._model.embed([texts[row] for row in rows])
        return vectors
