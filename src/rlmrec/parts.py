"""Parts: answers and vectors on their way from one machine to another, as Parquet files named by their SHA-256.

A part's rows begin with the hash of what was asked or encoded, so taking a part twice, or two that overlap, changes
nothing. The name shows whether a part arrived whole. Any tool may copy a folder of parts.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from rlmrec.errors import DataError
from rlmrec.files import atomic_file, sha256
from rlmrec.trust import damaged, expect, parse_json

ROWS = 50_000  # of a part
ABOUT = "rlmrec"  # the entry of a file's metadata
REMEDY = "copy it again or delete it; the other parts can be taken without it"


class Part(NamedTuple):
    """A part that was read: what it is about, and its rows."""

    about: dict[str, Any]
    rows: pl.DataFrame


class Taken(NamedTuple):
    """How many rows of parts were new, and how many were there already."""

    new: int
    known: int


def write_part(folder: Path, rows: pl.DataFrame, about: Mapping[str, Any]) -> Path:
    """Write a part and return its path; equal rows and the same version of Polars give the same file.

    Args:
        folder: made where it does not exist.
        rows: the first column is the key.
        about: what all rows share, as JSON values; ``kind`` among them.
    """
    content = io.BytesIO()
    rows.sort(rows.columns[0]).write_parquet(
        content, metadata={ABOUT: json.dumps(dict(about), sort_keys=True)}
    )
    path = folder / f"{hashlib.sha256(content.getbuffer()).hexdigest()}.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.getbuffer())
    return path


def read_parts(path: Path, kind: str, schema: Mapping[str, Any]) -> Iterator[Part]:
    """Yield the parts of a folder, or the part in a file.

    Args:
        path: folder or file.
        kind: what the parts must be of.
        schema: column → type; None stands for any list of 32-bit floats of one length.

    Raises:
        DataError: no part there.
        WorkspaceError: a part is torn or changed, or holds something else; the message names it.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise DataError(
            f"{path} holds no parts: expected a folder of files that --parts-out wrote, or one of them"
        )
    for file in files:
        with damaged(file, REMEDY):
            if not re.fullmatch("[0-9a-f]{64}", file.stem) or sha256(file) != file.stem:
                raise DataError("its SHA-256 is not its name, so it did not arrive whole or was changed")
            about = expect(parse_json(pl.read_parquet_metadata(file)[ABOUT]), dict, "what it is about")
            if about.get("kind") != kind:
                raise DataError(f"it holds {about.get('kind')!r}, expected {kind!r}")
            rows = pl.read_parquet(file)
            for name, wanted in schema.items():
                found = rows.schema[name]
                fits = (
                    found == wanted if wanted else isinstance(found, pl.Array) and found.inner == pl.Float32
                )
                if not fits or rows[name].null_count():
                    raise DataError(
                        f"column {name} has type {found} or missing values, expected {wanted or 'vectors'}"
                    )
        yield Part(about, rows)
