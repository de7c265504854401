"""RecBole's atomic files: a folder with NAME.inter and, where present, NAME.item and NAME.user.

Tab-separated, without quoting; the header gives each column a name and a type (``rating:float``). Tokens
become ids by the rule for untyped files in ``rlmrec.data.tables``. A sequence of tokens stays as it is
written, separated by spaces: RecBole writes a title and a list of genres alike.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import polars as pl

from rlmrec.data.interactions import Interactions
from rlmrec.data.tables import Table, align, assemble, read_delimited
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import DataError

TYPES = ("token", "token_seq", "float", "float_seq")


class Source(NamedTuple):
    """What a source holds before filters and split: the input of ``Dataset.build``.

    Args:
        interactions: n interactions.
        users: U raw user ids.
        items: I raw item ids.
        item_texts: I rows of text columns, or None.
        user_texts: U rows of text columns, or None.
    """

    interactions: Interactions
    users: Vocabulary
    items: Vocabulary
    item_texts: pl.DataFrame | None = None
    user_texts: pl.DataFrame | None = None


def read_recbole(
    folder: Path | str,
    user: str = "user_id",
    item: str = "item_id",
    rating: str = "rating",
    timestamp: str = "timestamp",
) -> Source:
    """Read a folder of atomic files.

    Args:
        folder: holds exactly one .inter file.
        user: the field of user ids, in .inter and .user.
        item: the field of item ids, in .inter and .item.
        rating: the field of ratings, read where .inter has it.
        timestamp: the field of times, likewise.

    Raises:
        DataError: there is no .inter file or more than one, a header is not ``name:type``, or a value is
            not what it must be.
    """
    folder = Path(folder)
    found = sorted(folder.glob("*.inter"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{folder}: expected exactly one .inter file, found {names}")
    table = read_atomic(found[0], user, item)
    present = table.frame.columns
    (interactions,), users, items = assemble(
        [table], user, item,
        rating if rating in present else None,
        timestamp if timestamp in present else None,
    )  # fmt: skip
    texts = []
    for ending, field, vocabulary in ((".item", item, items), (".user", user, users)):
        path = found[0].with_suffix(ending)
        texts.append(align(read_atomic(path, field), vocabulary, field) if path.exists() else None)
    return Source(interactions, users, items, *texts)


def read_atomic(path: Path, *required: str) -> Table:
    """Read one atomic file; columns carry their names without the types.

    Raises:
        DataError: as ``read_recbole``, or a ``required`` column is missing.
    """
    table = read_delimited(path, "\t", quote=None)
    names = {}
    for field in table.frame.columns:
        name, _, kind = field.rpartition(":")
        if not name or kind not in TYPES:
            raise DataError(
                f"{path}, line 1: expected fields such as 'user_id:token' ({', '.join(TYPES)}), got {field!r}"
            )
        names[field] = name
    for name in required:
        if name not in names.values():
            raise DataError(
                f"{path} has no column {name!r}: its columns are {', '.join(map(repr, names.values()))}"
            )
    return replace(table, frame=table.frame.rename(names))
