"""rlmrec encode: from texts to vectors."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from rlmrec.cli.output import JsonOption, Output, WorkspaceOption
from rlmrec.data.dataset import Dataset
from rlmrec.data.tables import read_texts
from rlmrec.errors import ConfigError, RlmrecError
from rlmrec.profiles.metadata import metadata_texts
from rlmrec.text.local import LocalEncoder
from rlmrec.text.semantics import Semantics, mean_over_training
from rlmrec.workspace import Workspace


def encode(
    workspace: WorkspaceOption = Path("workspace"),
    items: Annotated[
        Path | None,
        typer.Option(help="Item texts (CSV, TSV, Parquet, JSON lines); else those of the dataset."),
    ] = None,
    users: Annotated[
        Path | None,
        typer.Option(help="User texts; else a user is the mean over their training items' vectors."),
    ] = None,
    item_column: Annotated[str, typer.Option(help="Column of item ids in --items.")] = "item_id",
    user_column: Annotated[str, typer.Option(help="Column of user ids in --users.")] = "user_id",
    user_vectors: Annotated[
        str | None,
        typer.Option(
            help="mean: over training items; texts: of --users or the dataset. By default texts with --users."
        ),
    ] = None,
    text_column: Annotated[
        list[str] | None, typer.Option(help="Column to encode; repeat for several. All of them by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn texts into vectors with the embedded sentence encoder (all-MiniLM-L6-v2, no network).

    **Examples:**

    `rlmrec encode -w movies`

    `rlmrec encode -w shop --items profiles.jsonl --text-column summarization`
    """
    place, output = Workspace(workspace), Output(as_json)
    dataset = place.dataset()
    texts = item_texts(dataset, items, item_column, text_column)
    if user_vectors not in (None, "mean", "texts") or (user_vectors == "mean" and users is not None):
        raise ConfigError(f"--user-vectors {user_vectors!r}: expected texts, or mean without --users")
    user_texts = None
    if users is not None:
        user_texts = metadata_texts(read_texts(users, dataset.users, user_column, text_column), text_column)
    elif user_vectors == "texts":
        if dataset.user_texts is None:
            raise ConfigError("this dataset has no user texts: give a file of them with --users FILE")
        user_texts = metadata_texts(dataset.user_texts)
    semantics, done_before = encode_texts(place, dataset, texts, user_texts, output)
    missing = texts.count("None")
    output.say(
        f"{'kept' if done_before else 'wrote'} {place.semantics_path}: {len(semantics.items):,} items and "
        f"{len(semantics.users):,} users in {semantics.size} dimensions"
        + (f"; [yellow]{missing} items have no text[/]" if missing else "")
    )
    output.result(
        {
            "semantics": str(place.semantics_path),
            "skipped": done_before,
            "items_without_text": missing,
            **semantics.manifest,
        }
    )


def item_texts(
    dataset: Dataset, file: Path | None = None, id_column: str = "item_id", columns: list[str] | None = None
) -> list[str]:
    """One text per item, from ``file`` or from the dataset.

    Raises:
        ConfigError: neither has any.
    """
    if file is not None:
        return metadata_texts(read_texts(file, dataset.items, id_column, columns), columns)
    if dataset.item_texts is None:
        raise ConfigError(
            "this dataset has no item texts: give a file of them with --items FILE --text-column NAME"
        )
    return metadata_texts(dataset.item_texts, columns)


def encode_texts(
    workspace: Workspace, dataset: Dataset, items: list[str], users: list[str] | None, output: Output
) -> tuple[Semantics, bool]:
    """Encode and store, unless the very same was done before; says which."""
    encoder = LocalEncoder()
    digest = hashlib.sha256()
    for text in [*items, "", *(users or [])]:
        digest.update(text.encode() + b"\0")
    manifest = {
        "encoder": encoder.name,
        "dimensions": encoder.dim,
        "users": "mean over training items" if users is None else "texts",
        "texts_sha256": digest.hexdigest(),
        "dataset": dataset.fingerprint,
    }
    try:
        existing = workspace.semantics(dataset)
        if existing.manifest == manifest:
            return existing, True
    except RlmrecError:
        pass  # absent, damaged or of another dataset: made anew below
    with output.progress("encoding", len(items) + len(users or [])) as update:
        item_vectors = encoder.encode(items, update)
        if users is None:
            user_vectors = mean_over_training(item_vectors, dataset.train)
        else:
            user_vectors = encoder.encode(users, lambda done: update(len(items) + done))
    semantics = Semantics(user_vectors, item_vectors, manifest)
    semantics.save(workspace.semantics_path)
    return semantics, False
