"""RecBole's atomic files: a folder with NAME.inter and, where present, NAME.item and NAME.user.

Tab-separated, without quoting; the header gives each column a name and a type (``rating:float``). Tokens
become ids by the rule for untyped files in ``rlmrec.data.tables``. A sequence of tokens stays as it is
written, separated by spaces: RecBole writes a title and a list of genres alike.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import polars as pl

from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.tables import Table, align, assemble, read_delimited
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import DataError

TYPES = ("token", "token_seq", "float", "float_seq")
# Columns of .item and .user that sum up behaviour, that of the held-out interactions included.
SUMS_UP = re.compile(r"(^|_)(stars|rating|count|sentiment|metascore|sales_rank|popularity)$", re.IGNORECASE)


class Source(NamedTuple):
    """What a source holds before filters and split: the input of ``Dataset.build``.

    Args:
        interactions: n interactions.
        users: U raw user ids.
        items: I raw item ids.
        item_texts: I rows of text columns, or None.
        user_texts: U rows of text columns, or None.
        left_out: columns that are no texts, since they sum up interactions that will be held out.
    """

    interactions: Interactions
    users: Vocabulary
    items: Vocabulary
    item_texts: pl.DataFrame | None = None
    user_texts: pl.DataFrame | None = None
    left_out: tuple[str, ...] = ()


def read_recbole(
    folder: Path | str,
    user: str = "user_id",
    item: str = "item_id",
    rating: str = "rating",
    timestamp: str = "timestamp",
) -> Source:
    """Read a folder of atomic files.

    Columns of .item and .user that sum up what people did (ending in stars, rating, count, sentiment,
    metascore, sales_rank or popularity) are left out: they hold what the split is going to hold out.

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
    (item_texts, user_texts), left_out = _texts(found[0].with_suffix(""), user, item, users, items)
    return Source(interactions, users, items, item_texts, user_texts, left_out)


def ready_splits(folder: Path | str) -> tuple[Path, Path, Path] | None:
    """NAME.train.inter, NAME.valid.inter and NAME.test.inter of a folder; None where the split is not ready."""
    for train in sorted(Path(folder).glob("*.train.inter")):
        name = train.name.removesuffix(".train.inter")
        valid, test = (train.with_name(f"{name}.{part}.inter") for part in ("valid", "test"))
        if valid.exists() and test.exists():
            return train, valid, test
    return None


def read_recbole_splits(
    folder: Path | str,
    user: str = "user_id",
    item: str = "item_id",
    rating: str = "rating",
    timestamp: str = "timestamp",
) -> Dataset:
    """Read a folder of atomic files whose split is ready, and keep that split.

    Args:
        folder: holds NAME.train.inter, NAME.valid.inter and NAME.test.inter, and NAME.item and NAME.user where
            present; the other arguments are those of ``read_recbole``.

    Raises:
        DataError: as ``read_recbole``; a file is missing, or the splits are refused by ``Dataset``.
    """
    paths = ready_splits(folder)
    if paths is None:
        raise DataError(f"{folder} lacks one of NAME.train.inter, NAME.valid.inter and NAME.test.inter")
    tables = [read_atomic(path, user, item) for path in paths]
    present = set.intersection(*(set(table.frame.columns) for table in tables))
    parts, users, items = assemble(
        tables, user, item,
        rating if rating in present else None,
        timestamp if timestamp in present else None,
    )  # fmt: skip
    name = paths[0].name.removesuffix(".train.inter")
    train, valid, test = (part.merged() for part in parts)
    (item_texts, user_texts), left_out = _texts(paths[0].with_name(name), user, item, users, items)
    provenance = {
        "source": "recbole",
        "files": [path.name for path in paths],
        "columns_left_out": list(left_out),
    }
    return Dataset(name, train, valid, test, users, items, item_texts, user_texts, provenance)


def _texts(
    path: Path, user: str, item: str, users: Vocabulary, items: Vocabulary
) -> tuple[list[pl.DataFrame | None], tuple[str, ...]]:
    """The texts of PATH.item and PATH.user, where present, and the columns of these that are left out."""
    texts: list[pl.DataFrame | None] = []
    left_out: list[str] = []
    for ending, field, vocabulary in (("item", item, items), ("user", user, users)):
        file = path.with_name(f"{path.name}.{ending}")
        if not file.exists():
            texts.append(None)
            continue
        table = read_atomic(file, field)
        names = [name for name in table.frame.columns if name != field and SUMS_UP.search(name)]
        left_out += names
        kept = replace(table, frame=table.frame.drop(names))
        texts.append(align(kept, vocabulary, field) if kept.frame.width > 1 else None)
    return texts, tuple(dict.fromkeys(left_out))


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
