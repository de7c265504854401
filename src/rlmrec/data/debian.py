"""A sample of Debian's package index, which comes with rlmrec: 3,563 projects and the 1,521 packages they need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np

from rlmrec.data.source import Source
from rlmrec.data.tables import read_tables
from rlmrec.trust import read_tensors
from rlmrec.types import Float32Array

NAME = "debian-packages"
VECTORS = "vectors.safetensors"


def read_debian_packages() -> Source:
    """Read a sample of Debian's package index: which packages does a piece of software need?

    Users are source packages, items the packages that they depend on or recommend. Both have a name and a
    description, written by their maintainers. The sample comes with rlmrec; nothing is downloaded.

    Returns:
        the 35,721 pairs; item texts ``title``, ``section``, ``description``; user texts ``name``, ``description``.
    """
    with _folder() as folder:
        source = read_tables(
            folder / "pairs.parquet", items=folder / "items.parquet", users=folder / "users.parquet"
        )
    texts = {"text_columns": source.provenance["text_columns"]}
    return replace(source, name=NAME, provenance={"source": NAME, **texts})


def packaged_vectors() -> tuple[str, Float32Array, Float32Array]:
    """Return the text vectors that come with the sample.

    They are those of the embedded encoder for name, section and description, rounded to 8 bits.

    Returns:
        the name of the encoder; float32[I, 384] and float32[U, 384], items and users in the order of the source.
    """
    with _folder() as folder:
        found, header = read_tensors(folder / VECTORS)
    items, users = (
        (found[f"{kind}s"] * found[f"{kind}_scale"]).astype(np.float32) for kind in ("item", "user")
    )
    return header["encoder"], items, users


@contextmanager
def _folder() -> Iterator[Path]:
    with resources.as_file(resources.files("rlmrec.data") / "debian") as folder:
        yield folder
