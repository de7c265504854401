"""RecBole's atomic files: a folder with NAME.inter and, where present, NAME.item and NAME.user.

Tab-separated, without quoting; the header gives each column a name and a type (``rating:float``). Tokens
become ids by the rule for untyped files in ``rlmrec.data.tables``. A sequence of tokens is kept as written,
separated by spaces, because RecBole writes a title and a list of genres alike.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl

from rlmrec.data.delimited import read_delimited
from rlmrec.data.metadata import TEXT_COLUMNS
from rlmrec.data.source import Source
from rlmrec.data.table import Table
from rlmrec.data.tables import align, assemble, check_table
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import DataError
from rlmrec.findings import Finding, by_number

TYPES = ("token", "token_seq", "float", "float_seq")
# Columns of .item and .user that summarise behaviour, held-out interactions included.
SUMMARIES = re.compile(r"(^|_)(stars|rating|count|sentiment|metascore|sales_rank|popularity)$", re.IGNORECASE)


def read_recbole(
    folder: Path | str,
    *,
    user_field: str = "user_id",
    item_field: str = "item_id",
    rating_field: str = "rating",
    timestamp_field: str = "timestamp",
) -> Source:
    """Read RecBole's atomic files.

    A ready-made split (NAME.train.inter, NAME.valid.inter and NAME.test.inter) is kept. Columns of .item and .user
    that summarise behaviour (ending in stars, rating, count, sentiment, metascore, sales_rank or popularity) are
    left out, since they contain the interactions that will be held out. Other columns of floats are no texts.

    Args:
        folder: Folder with one .inter file, or those of a split, and, if any, .item and .user.
        user_field: Field of user ids, in .inter and .user.
        item_field: Field of item ids, in .inter and .item.
        rating_field: Field of ratings, read where .inter has it.
        timestamp_field: Field of times, read where .inter has it.

    Raises:
        DataError: there is neither one .inter file nor a split, a header is not ``name:type``, or a value
            cannot be used.
    """
    folder = Path(folder)
    paths = _splits(folder) or [_only_inter_file(folder)]
    tables = [read_atomic(path, user_field, item_field) for path in paths]
    present = set.intersection(*(set(table.frame.columns) for table in tables))
    optional = [field if field in present else None for field in (rating_field, timestamp_field)]
    parts, users, items = assemble(tables, user_field, item_field, *optional)
    is_split = len(parts) > 1
    stem = paths[0].name.removesuffix(".inter").removesuffix(".train")
    (item_texts, user_texts), left_out, described, findings = _texts(
        folder / stem, user_field, item_field, users, items
    )
    summaries = Finding(
        "summary column",
        by_number(
            len(left_out),
            "column is left out of the texts, since it summarises",
            "columns are left out of the texts, since they summarise",
        )
        + " held-out behaviour",
        len(left_out),
        ", ".join(left_out),
        ordinary=True,
    )
    return Source(
        stem if is_split else folder.resolve().name,
        (parts[0], parts[1], parts[2]) if is_split else parts[0],
        users,
        items,
        item_texts,
        user_texts,
        findings=[summaries, *findings] if left_out else findings,
        provenance={
            "source": "recbole",
            "files": [path.name for path in paths],
            "columns_left_out": list(left_out),
            **described,
        },
    )


def _only_inter_file(folder: Path) -> Path:
    found = sorted(folder.glob("*.inter"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(
            f"{folder}: expected exactly one .inter file, or NAME.train.inter, NAME.valid.inter and "
            f"NAME.test.inter, found {names}"
        )
    return found[0]


def _splits(folder: Path) -> list[Path] | None:
    """Return the three files of a ready-made split; None without one."""
    for train in sorted(folder.glob("*.train.inter")):
        name = train.name.removesuffix(".train.inter")
        paths = [train, *(train.with_name(f"{name}.{part}.inter") for part in ("valid", "test"))]
        if all(path.exists() for path in paths):
            return paths
    return None


def _texts(
    path: Path, user: str, item: str, users: Vocabulary, items: Vocabulary
) -> tuple[list[pl.DataFrame | None], tuple[str, ...], dict[str, list[str]], list[Finding]]:
    """Read the texts of PATH.item and PATH.user, where present.

    Returns:
        the texts of items and of users, the columns that are left out, those that describe where there are others, for
        the provenance, and findings.
    """
    described: dict[str, list[str]] = {}
    findings: list[Finding] = []
    texts: list[pl.DataFrame | None] = []
    left_out: list[str] = []
    for ending, field, vocabulary in (("item", item, items), ("user", user, users)):
        file = path.with_name(f"{path.name}.{ending}")
        if not file.exists():
            texts.append(None)
            continue
        table, types = _typed(file, field)
        names = [name for name in table.frame.columns if name != field and SUMMARIES.search(name)]
        left_out += names
        kept = replace(table, frame=table.frame.drop(names))
        texts.append(align(kept, vocabulary, field) if kept.frame.width > 1 else None)
        names = [name for name in kept.frame.columns if name != field]
        words = [name for name in names if name == "year" or not types[name].startswith("float")]
        if words != names:
            described[TEXT_COLUMNS[ending]] = words
        findings += check_table(kept, vocabulary, field)
    return texts, tuple(dict.fromkeys(left_out)), described, findings


def read_atomic(path: Path, *required: str) -> Table:
    """Read one atomic file; its columns are named without their types.

    Raises:
        DataError: as ``read_recbole``, or a ``required`` column is missing.
    """
    return _typed(path, *required)[0]


def _typed(path: Path, *required: str) -> tuple[Table, dict[str, str]]:
    """Read one atomic file as ``read_atomic`` does; also return the type of each column."""
    table = read_delimited(path, "\t", quote=None)
    names, types = {}, {}
    for field in table.frame.columns:
        name, _, kind = field.rpartition(":")
        if not name or kind not in TYPES:
            raise DataError(
                f"{path}, line 1: expected fields such as 'user_id:token' ({', '.join(TYPES)}), got {field!r}"
            )
        names[field], types[name] = name, kind
    for name in required:
        if name not in names.values():
            raise DataError(
                f"{path} has no column {name!r}: its columns are {', '.join(map(repr, names.values()))}"
            )
    return replace(table, frame=table.frame.rename(names)), types
