"""Tables with named columns (CSV, TSV, JSON lines, Parquet): interactions, ready-made splits and texts.

Ids keep the type that their file gives them. CSV and TSV have no types; there a column of ids counts as
integers only if every value is written as one (``7``, not ``007`` or ``+7``), and as text otherwise.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import polars as pl

from rlmrec.data.checks import ROUNDED, YEAR_1990, YEAR_2100, check_join, index_columns, rounded
from rlmrec.data.databases import UNNAMED, is_connection, read_query, read_sheet, shown
from rlmrec.data.delimited import read_delimited
from rlmrec.data.encodings import TextFile
from rlmrec.data.file_format import PLAIN, FileFormat
from rlmrec.data.interactions import Interactions, index_type
from rlmrec.data.markup import check_markup, without_markup
from rlmrec.data.metadata import TEXT_COLUMNS, TITLE_COLUMNS
from rlmrec.data.nested import list_of_ids, nested_names, value_at, with_paths, without_baskets
from rlmrec.data.source import Source
from rlmrec.data.table import (
    UNREADABLE,
    BrokenLinesError,
    Table,
    as_ids,
    as_text,
    check_columns,
    commas_to_points,
    decimal_points,
    first_line,
    first_true,
    is_blank,
    plain_name,
    problems,
    refuse_absent,
)
from rlmrec.data.times import UNITS
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import BrokenRowsError, ColumnError, ConfigError, DataError, NoRowsError, did_you_mean
from rlmrec.files import bounded_lines
from rlmrec.findings import Finding, by_number
from rlmrec.types import IntArray

_JSON_LINES = (".jsonl", ".ndjson", ".json")
_PACKED = (".gz", ".zst", ".zstd")
_ENDINGS = (".csv", ".tsv", *_JSON_LINES, ".parquet", ".xlsx")
DENSE_IDS = 2  # integers between the ids, for each row


class Columns(NamedTuple):
    """Names of the columns of interactions; None for those that are not read."""

    user: str = "user_id"
    item: str = "item_id"
    rating: str | None = None
    timestamp: str | None = None
    review: str | None = None

    @property
    def present(self) -> list[str]:
        """The names that are given."""
        return [name for name in self if name is not None]


def read_tables(
    file: Path | str | None = None,
    *,
    query: str | None = None,
    train: Path | str | None = None,
    valid: Path | str | None = None,
    test: Path | str | None = None,
    user_column: str = "user_id",
    item_column: str = "item_id",
    rating_column: str | None = None,
    timestamp_column: str | None = None,
    review_column: str | None = None,
    items: Path | str | None = None,
    items_query: str | None = None,
    items_id_column: str | None = None,
    title_column: str | None = None,
    text_columns: str | None = None,
    users: Path | str | None = None,
    users_query: str | None = None,
    users_id_column: str | None = None,
    delimiter: str | None = None,
    decimal: str = ".",
    encoding: str | None = None,
    timestamp_format: str | None = None,
    item_separator: str | None = None,
    weight_column: str | None = None,
    min_weight: float | None = None,
    name: str | None = None,
) -> Source:
    """Read your own tables: CSV, TSV, Parquet, JSON lines, Excel, DuckDB or Postgres. docs/tables.md describes them.

    Args:
        file: Table of interactions, to be filtered and split: a file, a folder of files, their pattern in quotes,
            orders.xlsx#SHEET, postgresql://user@host/database or duckdb:///file.db.
        query: SQL, if file is a database.
        train: Ready-made split: training interactions.
        valid: Its validation interactions.
        test: Its test interactions.
        user_column: Column of user ids.
        item_column: Column of item ids.
        rating_column: Column of ratings.
        timestamp_column: Column of times: dates, seconds since 1970, or what --timestamp-format says. Of a repeated
            pair the latest is kept.
        review_column: Column of review texts.
        items: Table of items, one row each.
        items_query: SQL, if --items is a database; by default the one of the interactions.
        items_id_column: Column of item ids in --items; by default that of --item-column.
        title_column: Column of titles; by default title, name or similar.
        text_columns: Columns for language models and text vectors, separated by commas; by default all texts.
        users: Table of users, one row each.
        users_query: SQL, if --users is a database; by default the one of the interactions.
        users_id_column: Column of user ids in --users; by default that of --user-column.
        delimiter: Character between the fields, or tab; by default found in the file.
        decimal: Decimal separator: . or a comma.
        encoding: Encoding; by default UTF-8, UTF-16 or Windows-1252, whichever the file looks like.
        timestamp_format: How times are written: as for strptime, or seconds, milliseconds, microseconds or nanoseconds
            since 1970; by default found in the file.
        item_separator: What stands between the ids where a row holds a basket, such as a|b|c.
        weight_column: Column of quantities, added up for each user and item to decide which pairs count.
        min_weight: Smallest sum of quantities of a pair that counts; by default more than 0.
        name: Name of the dataset, which tables and records call it by; by default that of the file or folder.

    Returns:
        the interactions in the order of the file (their ids are counted through a ready-made split), the users
        and the items (integers ascending, text sorted).

    Raises:
        ConfigError: neither one file nor the three of a split are given, or the name is blank.
        DataError: a file cannot be read, a column is missing, or a value cannot be used; the message names
            file, line and column.
    """
    columns = Columns(user_column, item_column, rating_column, timestamp_column, review_column)
    ready = [path for path in (train, valid, test) if path is not None]
    if (file is None) != (len(ready) == 3) or (file is not None and ready):
        raise ConfigError("give either one file of interactions, or a split: --train, --valid and --test")
    if name is not None and not name.strip():
        raise ConfigError("--name is blank: expected a name of the dataset")
    paths = ready if file is None else [file]
    form = FileFormat(
        delimiter, decimal, encoding, timestamp_format, item_separator, weight_column, min_weight
    )
    if query is not None and file is None:
        raise ConfigError("--query reads the one table of interactions, not a ready-made split")
    tables = [read_interactions(path, columns, form, query) for path in paths]
    items, users = (
        own if of is None else own or file for own, of in ((items, items_query), (users, users_query))
    )
    texts = None if text_columns is None else [name.strip() for name in text_columns.split(",")]
    named = [name for name in (title_column, *(texts or ())) if name is not None]
    items_id, users_id = items_id_column or item_column, users_id_column or user_column
    first = Path(shown(paths[0]).partition("?")[0])
    if name is None and file is not None and (first.exists() or not is_pattern(first)):
        name = first.stem
    return to_source(
        name or next(folder.name for folder in first.resolve().parents if not is_pattern(folder)),
        tables,
        columns,
        items=read_described(items, "item", items_id, form, items_query, named)
        if items is not None
        else None,
        users=read_described(users, "user", users_id, form, users_query) if users is not None else None,
        items_id=items_id_column,
        users_id=users_id_column,
        title=title_column,
        text_columns=texts,
        provenance={
            "files": [shown(path) for path in paths],
            "columns": {
                **columns._asdict(),
                "title": title_column,
                "items_id": items_id_column,
                "users_id": users_id_column,
            },
            **({"format": form.given()} if form != PLAIN else {}),
        },
    )


def to_source(
    name: str,
    tables: Sequence[Table],
    columns: Columns,
    *,
    items: Table | None = None,
    users: Table | None = None,
    items_id: str | None = None,
    users_id: str | None = None,
    title: str | None = None,
    text_columns: Sequence[str] | None = None,
    provenance: dict[str, Any] | None = None,
) -> Source:
    """Make a source of one table of interactions or of the three of a ready-made split, and of texts.

    Args:
        name: name of the source.
        tables: one table, or training, validation and test.
        columns: their columns.
        items: item texts with the column of item ids, one row per item.
        users: user texts, likewise.
        items_id, users_id: columns of the ids in ``items`` and ``users``; by default those of ``columns``.
        title: column of ``items`` with the titles.
        text_columns: columns of ``items`` that go into prompts and vectors; None chooses those of texts.
        provenance: where the tables came from; JSON.

    Raises:
        ColumnError: there is no column ``title``, or another column has that name already.
        DataError: a value cannot be used.
    """
    if items is None and (title is not None or text_columns is not None):
        raise ConfigError(
            "columns of titles and texts are in the table of items: give that, too (items, --items)"
        )
    for kind, table, id_column in (("item", items, items_id), ("user", users, users_id)):
        if table is None and id_column is not None:
            raise without_table(kind)
    items_id, users_id = items_id or columns.item, users_id or columns.user
    for table in tables:
        if table.frame.is_empty():  # a file without rows is refused when it is read
            raise DataError(
                f"{table.path}, column {table.form.weight_column!r}: no pair of user and item has enough weight, "
                f"for example {table.findings[-1].example}; {table.findings[-1].remedy}"
            )
    with telling_all(tables, columns, [("item", items, items_id), ("user", users, users_id)]):
        parts, user_ids, item_ids = assemble(tables, *columns)
        item_texts = without_markup(align(items, item_ids, items_id)) if items is not None else None
        user_texts = without_markup(align(users, user_ids, users_id)) if users is not None else None
    described = [(items, item_ids, items_id), (users, user_ids, users_id)]
    findings = check_tables(tables, columns, described)
    if item_texts is not None and title is None:
        title = similar_title(item_texts)
    if item_texts is not None and title is not None:
        item_texts = titled(item_texts, title)
    elif item_texts is not None and not set(TITLE_COLUMNS) & set(item_texts.columns):
        called = (
            f"items are called by their {item_texts.columns[0]}" if item_texts.width else "items have no text"
        )
        findings.append(
            Finding(
                "no title",
                f"no column of titles ({', '.join(TITLE_COLUMNS)})",
                remedy=f"{called}, and prompts quote no title; name the column of titles (title, --title-column)",
                ordinary=True,
            )
        )
    recorded: dict[str, Any] = {}
    unused = {
        unordered(ids.kind): len(table.frame) - int(is_listed(table, ids, column).sum())
        for table, ids, column in described
        if table is not None
    }
    if unused:
        recorded["texts"] = unused
    if item_texts is not None and items is not None:
        names = columns_of_text(item_texts, items.frame)
        if text_columns is not None:
            names, odd = chosen_columns(item_texts, text_columns, title, items.frame)
            findings += odd
        if title not in (None, "title"):
            recorded["title_column"] = title
        recorded |= {TEXT_COLUMNS["item"]: names, "prompt_attributes": True}
    if user_texts is not None and users is not None:
        recorded[TEXT_COLUMNS["user"]] = columns_of_text(user_texts, users.frame)
    return Source(
        name,
        parts[0] if len(parts) == 1 else (parts[0], parts[1], parts[2]),
        user_ids,
        item_ids,
        item_texts,
        user_texts,
        findings=findings,
        provenance={**(provenance or {}), **recorded},
        light=light_pairs(tables, columns, user_ids, item_ids),
        n_light=sum(len(table.light.frame) for table in tables if table.light is not None),
    )


def unordered(kind: str) -> str:
    """Return what the number of items or users of a table without an interaction is called."""
    return f"{kind}s of the table without an interaction"


def is_listed(table: Table, ids: Vocabulary, id_column: str) -> pl.Series:
    """Return whether each id of ``ids`` is in a table of items or users."""
    named = table.ids(id_column, ids.kind).cast(pl.String)
    return pl.Series(ids.ids).cast(pl.String).is_in(named.implode())


# Names of columns that tell nothing about taste, whatever they hold; as ``plain_name`` writes them.
AMOUNTS = {
    *("price", "prices", "listprice", "saleprice", "cost", "preis", "preise"),
    *("stock", "instock", "stocklevel", "inventory", "available", "availability", "quantity", "qty"),
    *("bestand", "lager", "lagerbestand", "auflager", "verfügbar", "verfügbarkeit", "menge", "anzahl"),
}
NO_TEXT = AMOUNTS | {
    *("currency", "währung"),
    *("row", "rowid", "rownumber", "zeile", "zeilennummer", "sku", "ean", "gtin", "barcode"),
}
_CURRENCIES = "EUR|USD|GBP|CHF|JPY|CNY|INR|SEK|NOK|DKK|PLN|CZK|HUF|CAD|AUD|NZD|BRL|TRY"
_AMOUNT = rf"^(?:[€$£¥]|{_CURRENCIES})? ?[+-]?\d[\d.,' ]*(?:,-)? ?(?:[€$£¥%]|{_CURRENCIES})?$"


def columns_of_text(table: pl.DataFrame, read: pl.DataFrame | None = None) -> list[str]:
    """Return the columns that describe an item or a user: not those of numbers or of true and false, except a year.

    A price, a stock, a row number or an address of a picture says nothing to an encoder or a language model.

    Args:
        table: all columns as text.
        read: the table as it was read, if that has types: what is a date or a time in it is no text.
    """
    schema = {} if read is None else read.schema
    switches = {"true", "false", "yes", "no", "ja", "nein"}

    def is_text(name: str) -> bool:
        values = table[name].drop_nulls().str.strip_chars()
        return bool(len(values)) and not (
            plain_name(name) in NO_TEXT
            or (name in schema and schema[name].is_temporal())
            or values.cast(pl.Float64, strict=False).is_not_null().all()
            or values.str.contains(_AMOUNT).all()
            or values.str.to_lowercase().is_in(list(switches)).all()
            or values.str.contains(r"^https?://\S+$").all()
        )

    return [name for name in table.columns if name == "year" or name in TITLE_COLUMNS or is_text(name)]


def chosen_columns(
    table: pl.DataFrame, chosen: Sequence[str], title: str | None, read: pl.DataFrame
) -> tuple[list[str], list[Finding]]:
    """Return the columns that describe an item by the user's choice, the title always among them.

    Args:
        table: the item texts; the column of titles is called "title" already.
        chosen: names as they are in the user's table.
        title: what the column of titles was called there; None if it was not renamed.
        read: the table as it was read.

    Raises:
        ColumnError: one of them is not in the table.
    """
    renamed = [{title: "title"}.get(name, name) if title is not None else name for name in chosen]
    check_columns("the table of items", table.columns, renamed)
    titles = [name for name in TITLE_COLUMNS if name in table.columns][:1]
    kept = list(dict.fromkeys([*titles, *renamed]))
    odd = [name for name in renamed if name not in columns_of_text(table, read)]
    if not odd:
        return kept, []
    return kept, [
        Finding(
            "text column",
            by_number(len(odd), "chosen column of texts holds", "chosen columns of texts hold")
            + " numbers, dates, prices, stock or the like",
            len(odd),
            repr(odd[0]),
            "they go into prompts and vectors as you chose; leave them out of text_columns (--text-columns)",
        )
    ]


def check_tables(
    orders: Sequence[Table],
    columns: Columns,
    described: Sequence[tuple[Table | None, Vocabulary, str]],
) -> list[Finding]:
    """Return what was found while tables were read, and what is unusual about their columns.

    Args:
        orders: tables of interactions.
        columns: their columns.
        described: table of items or users, if there is one, the ids of the interactions, and its column of ids.
    """
    others = [(table, ids, column) for table, ids, column in described if table is not None]
    every = [*orders, *(table for table, _, _ in others)]
    findings = list(dict.fromkeys(found for table in every for found in table.findings))
    amounts = [name for name in (columns.rating, *(table.form.weight_column for table in orders[:1])) if name]
    findings += [found for table in orders for found in check_thousands(table, amounts)]
    if columns.timestamp is not None:
        findings += [found for table in orders for found in check_unit(table, columns.timestamp)]
    return findings + [found for table, ids, column in others for found in check_table(table, ids, column)]


def check_table(table: Table, vocabulary: Vocabulary, id_column: str) -> list[Finding]:
    """Find columns of a table of texts that only count its rows, ids that it spells in another way, and markup."""
    findings = check_join(vocabulary.kind, table.ids(id_column, vocabulary.kind), vocabulary)
    findings += check_markup(table.path, table.frame.drop(id_column))
    findings += check_amounts(table, [name for name in table.frame.columns if name != id_column])
    index = index_columns(table.frame.drop(id_column))
    if index:
        findings.append(
            Finding(
                "index column",
                by_number(
                    len(index), f"column of {table.path} only counts", f"columns of {table.path} only count"
                )
                + " its rows",
                len(index),
                repr(index[0]),
                "left out of the texts; write the table without its index (pandas: index=False)",
            )
        )
    return findings


def check_amounts(table: Table, columns: Sequence[str]) -> list[Finding]:
    """Find columns of prices and stock that are not all numbers, such as "12,50 €" or "on request"."""
    findings = check_thousands(table, columns)
    for name in columns:
        values = table.texts(name).drop_nulls().str.strip_chars()
        is_number = values.cast(pl.Float64, strict=False).is_not_null()
        is_amount = values.str.contains(_AMOUNT)
        has_unit = (
            is_amount & ~is_number & values.str.contains(rf"[€$£¥]|^({_CURRENCIES})\b|\b({_CURRENCIES})$")
        )
        is_named = plain_name(name) in AMOUNTS and 2 * int((is_number | is_amount).sum()) >= len(values)
        odd = values.filter(~is_number)
        has_commas = table.form.decimal == "." and 2 * decimal_points(odd).is_not_null().sum() >= len(odd) > 0
        commas = "for decimal commas say so (decimal, --decimal ,); else " if has_commas else ""
        if len(odd) and (is_named or 2 * int(has_unit.sum()) >= len(values)):
            findings.append(
                Finding(
                    "amounts as text",
                    f"of {len(values):,} values of the column {name!r} of {table.path} "
                    + by_number(len(odd), "is not a plain number", "are not plain numbers"),
                    len(odd),
                    repr(odd[0]),
                    "it stays a column of text, so a condition such as price < 20 does not hold for it; "
                    f"{commas}write numbers such as 12.50, and nothing where there is none",
                    ordinary=True,
                )
            )
    return findings


def check_unit(table: Table, column: str) -> list[Finding]:
    """Find times that all lie before 1990 by the unit that was named, as another one was meant."""
    unit = table.form.timestamp_format
    if unit not in UNITS or table.frame.is_empty() or table.frame[column].dtype in (pl.Date, pl.Datetime):
        return []
    seconds = table.times(column)
    if seconds.max() >= YEAR_1990:
        return []
    numbers = seconds * UNITS[unit]
    likely = [name for name, size in UNITS.items() if YEAR_1990 <= np.median(numbers) / size < YEAR_2100]
    return [
        Finding(
            "time",
            by_number(len(seconds), "time lies", f"times of {table.path} all lie")
            + f" before the year 1990 as {unit}",
            len(seconds),
            f"{numbers[0]:.15g}",
            "name their unit (timestamp_format, --timestamp-format"
            + "".join(f" {name}" for name in likely[:1])
            + ")",
        )
    ]


def check_thousands(table: Table, columns: Sequence[str]) -> list[Finding]:
    """Find columns of integers in which points seem to separate thousands, which makes 1.000 a 1."""
    findings = []
    # Cells of numbers have no spelling, so that naming it changes nothing.
    remedy = "make the cells numbers" if ".xlsx" in str(table.path) else "say so (decimal, --decimal ,)"
    for name in columns if table.form.decimal == "." else ():
        raw = table.frame[name]
        if raw.dtype != pl.String:
            continue
        values = raw.filter(~is_blank(raw)).str.strip_chars()
        thousands = values.str.contains(r"^[+-]?[1-9]\d{0,2}(\.\d{3})+$")
        whole = values.str.contains(r"^[+-]?\d+$")
        if thousands.any() and whole.any() and (thousands | whole).all():
            findings.append(
                Finding(
                    "thousands",
                    by_number(int(thousands.sum()), "value", "values")
                    + f" of the column {name!r} of {table.path} with a point before three digits, the others with none",
                    int(thousands.sum()),
                    repr(values.filter(thousands)[0]),
                    f"the point is read as that of decimals; if it separates thousands, {remedy}",
                    ordinary=True,
                )
            )
    return findings


def similar_title(texts: pl.DataFrame) -> str | None:
    """Return the column that is a title but for case, blanks and underscores, such as Name; None if none is needed."""
    if set(TITLE_COLUMNS) & set(texts.columns):
        return None
    wanted = [plain_name(name) for name in TITLE_COLUMNS]
    similar = [name for name in texts.columns if plain_name(name) in wanted]
    return min(similar, key=lambda name: wanted.index(plain_name(name)), default=None)


def titled(texts: pl.DataFrame, column: str) -> pl.DataFrame:
    """Rename ``column`` to ``title``, the name that later steps look for."""
    if column not in texts.columns:
        raise ColumnError(
            f"no column of titles {column!r}{did_you_mean(column, texts.columns)}: the item texts have "
            + ", ".join(texts.columns)
        )
    if column != "title" and "title" in texts.columns:
        raise ColumnError(
            f"{column!r} cannot be the title: there is a column title already; rename one of them"
        )
    return texts.rename({column: "title"})


def read_texts(
    path: Path | str, vocabulary: Vocabulary, id_column: str, text_columns: Sequence[str] | None = None
) -> pl.DataFrame:
    """Read the texts of users or items.

    Args:
        path: a table as for ``read_interactions``, one row per id; ids the vocabulary lacks are ignored.
        vocabulary: the users or items, n of them.
        id_column: the column of their ids.
        text_columns: the columns to read; None reads all others.

    Returns:
        n rows in the vocabulary's order; all columns text, null where there is none.

    Raises:
        DataError: the file cannot be used, an id occurs twice, or none of them is known.
    """
    columns = None if text_columns is None else [id_column, *text_columns]
    return align(read_table(path, columns, ids=(id_column,)), vocabulary, id_column)


def assemble(
    tables: Sequence[Table],
    user: str,
    item: str,
    rating: str | None = None,
    timestamp: str | None = None,
    review: str | None = None,
) -> tuple[list[Interactions], Vocabulary, Vocabulary]:
    """Return the interactions of each table over shared vocabularies; ids are counted through all tables."""
    user_rows, users = _factorise(tables, user, "user")
    item_rows, items = _factorise(tables, item, "item")
    parts = []
    start = 0
    for table, user_row, item_row in zip(tables, user_rows, item_rows, strict=True):
        parts.append(
            Interactions(
                user_row, item_row, len(users), len(items),
                table.numbers(rating, missing=True) if rating is not None else None,
                table.times(timestamp) if timestamp is not None else None,
                np.array(table.texts(review).to_list(), object) if review is not None else None,
                np.arange(start, start + len(user_row)),
            )
        )  # fmt: skip
        start += len(user_row)
    return parts, users, items


def light_pairs(
    tables: Sequence[Table], columns: Columns, users: Vocabulary, items: Vocabulary
) -> Interactions | None:
    """Return the distinct pairs of too little weight, of the users and items that are known; None without any."""
    rows = []
    for table in [table.light for table in tables if table.light is not None]:
        found = [
            table.ids(column, ids.kind).cast(pl.String).replace_strict(
                pl.Series(ids.ids).cast(pl.String), pl.int_range(len(ids), eager=True), default=None
            )
            for column, ids in ((columns.user, users), (columns.item, items))
        ]  # fmt: skip
        rows.append(pl.DataFrame(found).drop_nulls())
    pairs = pl.concat(rows).unique(maintain_order=True) if rows else pl.DataFrame()
    if pairs.is_empty():
        return None
    user_rows, item_rows = (pairs[column].to_numpy() for column in columns[:2])
    return Interactions(user_rows, item_rows, len(users), len(items))


def align(table: Table, vocabulary: Vocabulary, id_column: str) -> pl.DataFrame:
    """Return the text columns of ``table`` with one row per id of ``vocabulary``, in its order.

    A column that holds the index of a data frame is left out.
    """
    kind = vocabulary.kind
    ids = _distinct_ids(table, id_column, kind)
    dtype = pl.String if vocabulary.is_text else pl.Int64
    if table.typed and ids.dtype != dtype:
        raise DataError(
            f"{table.path}, column {id_column!r}: {_NAMES[ids.dtype]}, but the {kind} ids of the dataset are "
            f"{_NAMES[dtype]}: make them one type"
        )
    known = pl.Series("id", vocabulary.ids, dtype=dtype)
    if ids.dtype != dtype:  # an untyped file; text that is not an integer matches no id
        known = known.cast(pl.String)
    if not known.is_in(ids.implode()).any():
        others = [name for name in table.frame.columns if name != id_column]
        known_texts = known.cast(pl.String).implode()
        meant = next(
            (name for name in others if 2 * table.texts(name).is_in(known_texts).sum() >= len(ids)), None
        )
        hint = (
            f"; the column {meant!r} has such ids ({kind}s_id, --{kind}s-id-column)"
            if meant
            else _if_rounded(ids)
        )
        raise DataError(
            f"{table.path}, column {id_column!r}: none of its {len(ids)} ids is a known {kind}: "
            f"got for example {ids[0]!r}, expected ids like {vocabulary.id(0)!r}{hint}"
        )
    texts_only = table.frame.drop(id_column)
    names = [name for name in texts_only.columns if name not in index_columns(texts_only)]
    # Positional names, because a text column may be called "id" as well.
    texts = [table.texts(name).alias(str(position)) for position, name in enumerate(names)]
    joined = known.to_frame().join(
        pl.DataFrame([ids.alias("id"), *texts]), on="id", how="left", maintain_order="left"
    )
    return joined.drop("id").rename({str(position): name for position, name in enumerate(names)})


def _distinct_ids(table: Table, id_column: str, kind: str) -> pl.Series:
    """Return the ids of a table of items or users, one row each."""
    ids = table.ids(id_column, kind)
    again = ~ids.is_first_distinct()
    if again.any():
        twice = first_true(again)
        first = first_true(ids == ids[twice])
        raise DataError(
            f"{table.path}, {table.place(twice)}, column {id_column!r}: {kind} {ids[twice]!r} is in "
            f"{table.place(first)} already ({again.sum()} such in all)"
            + (_if_rounded(ids) or f": keep one row per {kind}")
        )
    return ids


def _if_rounded(ids: pl.Series) -> str:
    """Return the end of a message that says how many ids were rounded, and what to do; nothing if none were."""
    found = rounded(ids.unique(maintain_order=True))
    if found.is_empty():
        return ""
    numbers = by_number(len(found), "one id is a number", f"{len(found)} ids are numbers") + f" {ROUNDED}"
    return f"; {numbers}, such as {found[0]!r}, so different ids may have become one: export the ids again as text"


@contextmanager
def telling_all(
    tables: Sequence[Table], columns: Columns, described: Sequence[tuple[str, Table | None, str]] = ()
) -> Iterator[None]:
    """Add to the error of a value those of all other values, so that one run tells all kinds of broken rows.

    Args:
        tables: of interactions.
        columns: their columns.
        described: "item" or "user", their table if there is one, and its column of ids.
    """
    try:
        yield
    except ColumnError:
        raise
    except DataError as error:
        checks: list[Callable[[], object]] = []
        for table in tables:
            checks += [partial(table.ids, columns.user, "user"), partial(table.ids, columns.item, "item")]
            if columns.rating is not None:
                checks.append(partial(table.numbers, columns.rating, missing=True))
            if columns.timestamp is not None:
                checks.append(partial(table.times, columns.timestamp))
            if table.form.weight_column is not None:
                checks.append(partial(table.numbers, table.form.weight_column))
        checks += [
            partial(_distinct_ids, table, column, kind)
            for kind, table, column in described
            if table is not None
        ]
        told = list(dict.fromkeys([*str(error).splitlines(), *problems(checks)]))
        if len(told) == 1:
            raise
        raise BrokenRowsError("\n".join([f"{len(told)} kinds of problems:", *told])) from None


def without_table(kind: str) -> ConfigError:
    """Return the error of a column of ids for a table of items or users that is not given."""
    return ConfigError(
        f"the column of {kind} ids ({kind}s_id, --{kind}s-id-column) is in the table of {kind}s: give that table, too "
        f"({kind}s, --{kind}s)"
    )


@contextmanager
def told_to_name_ids(kind: str) -> Iterator[None]:
    """Say in the error of a missing column of ids of the table of items or users how to name it."""
    try:
        yield
    except ColumnError as error:
        raise ColumnError(
            f"name the column of {kind} ids in the table of {kind}s ({kind}s_id, --{kind}s-id-column): {error}"
        ) from None


def read_described(
    path: Path | str,
    kind: str,
    id_column: str,
    form: FileFormat = PLAIN,
    query: str | None = None,
    paths: Sequence[str] = (),
) -> Table:
    """Read the table of items or users, one row each, as ``read_table`` does."""
    with told_to_name_ids(kind):
        return read_table(path, ids=(id_column,), form=form, query=query, paths=paths)


def read_interactions(
    path: Path | str, columns: Columns, form: FileFormat = PLAIN, query: str | None = None
) -> Table:
    """Read the columns of interactions of a file or database, one row each, as ``read_table`` does."""
    names = read_columns(columns, form)
    with told_to_name_columns("--user-column, --item-column and so on"):
        try:
            table = read_table(path, names, ids=columns[:2], form=form, query=query)
        except BrokenLinesError as error:
            with telling_all([replace(error.rest(), form=form)], columns):
                raise
    return single_rows(table, columns)


@contextmanager
def told_to_name_columns(options: str) -> Iterator[None]:
    """Say in the error of a missing column which options name columns, unless it names the one that was meant."""
    try:
        yield
    except ColumnError as error:
        if str(error).endswith("?"):
            raise
        raise ColumnError(f"{error}; name the columns ({options})") from None


def read_columns(columns: Columns, form: FileFormat) -> list[str]:
    """Return the names of the columns of interactions that are read, that of weights among them.

    Raises:
        ConfigError: users and items are the same column.
    """
    if columns.user == columns.item:
        raise ConfigError(
            f"user and item are both the column {columns.user!r}: name two columns (user, item, --user-column, "
            "--item-column)"
        )
    return [*columns.present, *([form.weight_column] if form.weight_column is not None else [])]


def single_rows(table: Table, columns: Columns) -> Table:
    """Return a table of interactions with one row for each item of a basket, of the pairs of enough weight.

    The table is empty where no pair has enough weight, as on a day with nothing but returns.
    """
    form = table.form
    table = without_baskets(table, columns.item, read_columns(columns, form), form.item_separator)
    if form.weight_column is None:
        return table
    with telling_all([table], columns):
        weight = table.numbers(form.weight_column)
    pairs = table.frame.select(user=columns.user, item=columns.item, weight=weight)
    sums = pairs.select(pl.col("weight").sum().over("user", "item")).to_series()
    light = sums <= 0 if form.min_weight is None else sums < form.min_weight
    if not light.any():
        return table
    first = first_true(light)
    least = "more than 0" if form.min_weight is None else f"at least {form.min_weight:g}"
    finding = Finding(
        "weight",
        by_number(int(light.sum()), f"interaction of {table.path} is", f"interactions of {table.path} are")
        + " left out, since the weights of their pair add up to too little",
        int(light.sum()),
        f"{sums[first]:g} of user {pairs['user'][first]!r} with item {pairs['item'][first]!r}",
        f"expected {least} (min_weight, --min-weight)",
        ordinary=True,
    )

    def part(mask: pl.Series) -> Table:
        rows = np.flatnonzero(mask.to_numpy())
        return replace(table, frame=table.frame[rows], rows=rows if table.rows is None else table.rows[rows])

    return replace(part(~light), findings=(*table.findings, finding), light=part(light))


def read_table(
    path: Path | str,
    columns: Sequence[str] | None = None,
    ids: Sequence[str] = (),
    form: FileFormat = PLAIN,
    query: str | None = None,
    paths: Sequence[str] = (),
) -> Table:
    """Read columns of a file, whose ending decides how, or of a database.

    Args:
        path: a .csv, .tsv, .jsonl (each also .gz or .zst), .parquet or .xlsx file, where ``#NAME`` may name a sheet;
            a folder of such files or a pattern (``log/*.jsonl``), see ``read_folder``; or a connection string, see
            ``rlmrec.data.databases``.
        columns: their names; None reads all, and ``ids`` must be among them. ``customer.id`` is the field ``id`` of
            the nested column ``customer`` if there is no column of that name.
        ids: the columns of ids, whose types must not be mixed.
        form: how it writes its values.
        query: what to read of a database.
        paths: fields of nested columns, such as ``meta.tags``, that become columns beside all others if they are there.

    Raises:
        ConfigError: a query without a database or the other way round.
        DataError: the file is absent, empty, damaged, of an unknown kind, or lacks a column.
    """
    if is_connection(path):
        frame = read_query(str(path), query)
        return replace(_selected(Table(shown(path), frame, typed=True), columns, ids, paths), form=form)
    if query is not None:
        raise ConfigError(f"{path} is a file: a query needs a database, postgresql://… or duckdb:///…")
    path = Path(path)
    if path.is_dir() or (is_pattern(path) and not path.exists()):
        return read_folder(path, columns, ids, form, paths)
    file, _, sheet = str(path).partition(".xlsx#")
    if path.suffix.lower() == ".xlsx" or (sheet and not path.exists()):
        book = Path(f"{file}.xlsx") if sheet and not path.exists() else path
        table = _read_excel(path, book, sheet or None, columns, ids)
        if form.decimal == ",":  # only cells of text have a spelling, those of numbers none
            others = [name for name in table.frame.columns if name not in ids]
            table = replace(
                table, frame=table.frame.with_columns(commas_to_points(table.frame[n]) for n in others)
            )
        return replace(table, form=replace(form, decimal="."))
    ending, packed = _ending(path)
    if ending in (".csv", ".tsv"):
        separator = form.delimiter or ("\t" if ending == ".tsv" else None)
        table = read_delimited(path, separator, encoding=form.encoding, columns=columns, required=ids)
    elif ending in _JSON_LINES:
        table = _read_json_lines(path, columns, ids, form.encoding, paths)
    elif ending == ".parquet" and not packed:
        table = _read_parquet(path, columns, ids, paths)
    else:
        raise DataError(
            f"{path}: unknown ending, expected .csv, .tsv, .jsonl (each also .gz or .zst), .parquet or .xlsx"
        )
    return replace(table, form=form)


def _ending(path: Path) -> tuple[str, bool]:
    """Return the ending of a file's name without that of a packed file, and whether it is packed."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] != [] and suffixes[-1] in _PACKED
    return "".join(suffixes[-2:-1] if packed else suffixes[-1:]), packed


def is_pattern(path: Path) -> bool:
    """Return whether a path is a pattern of files, such as log/*.jsonl."""
    return glob.has_magic(str(path))


def read_folder(
    path: Path,
    columns: Sequence[str] | None = None,
    ids: Sequence[str] = (),
    form: FileFormat = PLAIN,
    paths: Sequence[str] = (),
) -> Table:
    """Read the files of a folder or of a pattern, in the order of their names, as one table.

    Hidden files and those whose names begin with an underscore are left out.

    Args:
        path: the folder or pattern; ``**`` stands for folders at any depth.
        columns, ids, form, paths: as for ``read_table``; without ``columns`` those of all files, with nulls where a
            file lacks one.

    Raises:
        DataError: there are no files, they have different endings, one is there both plain and packed, or a column has
            another type in one of them.
    """
    found = map(str, path.iterdir()) if path.is_dir() else glob.glob(str(path), recursive=True)
    files = [file for file in map(Path, sorted(found)) if file.is_file() and file.name[0] not in "._"]
    if not files:
        raise DataError(f"{path}: no files there")
    meant = next((file for file in files if _ending(file)[0] in _ENDINGS), files[0])
    ending = _ending(meant)[0]
    odd = next((file for file in files if _ending(file)[0] != ending), None)
    if odd is not None:
        packed = any(_ending(file) == (ending, True) for file in files)
        pattern = f"{path if path.is_dir() else path.parent}/*{ending}{'*' if packed else ''}"
        raise DataError(
            f"{path} has {meant.name} and {odd.name}: expected files of one ending; name those that are meant by a "
            f"pattern in quotes, such as '{pattern}'"
        )
    unpacked: dict[Path, Path] = {}
    for file in files:
        twin = unpacked.setdefault(file.with_suffix("") if _ending(file)[1] else file, file)
        if twin is not file:
            raise DataError(
                f"{path} has {twin.name} and {file.name}, which would count the same rows twice: remove one, or name "
                f"the files that are meant by a pattern in quotes"
            )
    tables: list[Table] = []
    without_rows: list[Path] = []
    for file in files:
        try:
            table = read_table(file, columns, ids, form, paths=paths)
        except NoRowsError:  # such as a day without orders
            without_rows.append(file)
            continue
        tables.append(table)
        for name in ids:
            one, other = (of.frame.schema[name] for of in (tables[0], table))
            if (one == pl.String) != (other == pl.String):
                raise DataError(
                    f"column {name!r} is {one} in {tables[0].path} and {other} in {file}: make them one type"
                )
    if not tables:
        raise NoRowsError(f"{path}: no file there has rows")
    findings = [finding for table in tables for finding in table.findings]
    if without_rows:
        what = f"of {len(files):,} files of {path} {by_number(len(without_rows), 'has', 'have')} no rows"
        findings.append(Finding("no rows", what, len(without_rows), without_rows[0].name, ordinary=True))
    try:
        frame = pl.concat([table.frame for table in tables], how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{path}: a column has other values in some of the files: {first_line(error)}"
        ) from None
    return replace(
        tables[0],
        path=path,
        frame=frame,
        records=None,
        rows=None,
        findings=tuple(dict.fromkeys(findings)),
        parts=tuple((len(table.frame), replace(table, frame=table.frame.clear())) for table in tables),
    )


def _selected(
    table: Table, columns: Sequence[str] | None, ids: Sequence[str], paths: Sequence[str] = ()
) -> Table:
    """Return the columns of a table that was read as a whole."""
    wanted = [*(columns or ()), *ids]
    table = replace(table, frame=with_paths(table.frame, [*wanted, *paths]))
    nested = [] if set(wanted) <= set(table.frame.columns) else nested_names(table.frame.head(10).to_dicts())
    check_columns(table.path, table.frame.columns, wanted, nested)
    if not len(table.frame):
        raise NoRowsError(f"{table.path} has columns but no rows")
    return (
        table if columns is None else replace(table, frame=table.frame.select(list(dict.fromkeys(columns))))
    )


def _read_excel(
    path: Path, book: Path, sheet: str | None, columns: Sequence[str] | None, ids: Sequence[str]
) -> Table:
    """Read columns of a sheet; rows without values are left out, as blank lines of a text file are."""
    frame, sheets, header = read_sheet(book, sheet)
    rows = np.flatnonzero(
        ~frame.select(pl.all_horizontal(pl.all().map_batches(is_blank))).to_series().to_numpy()
    )
    table = Table(path, frame[rows], typed=False, first_row=header + 1, rows=rows)
    try:
        return _selected(table, columns, ids)
    except ColumnError as error:
        hints = []
        if any(name.startswith(UNNAMED) for name in frame.columns):
            hints.append("the first row must name the columns")
        if sheet is None and len(sheets) > 1:
            others = ", ".join(map(repr, sheets[1:]))
            hints.append(
                f"this is the first sheet, {sheets[0]!r}; the others are {others} ({book.name}#{sheets[1]})"
            )
        raise ColumnError("; ".join([str(error), *hints])) from None


def _read_json_lines(
    path: Path,
    columns: Sequence[str] | None,
    ids: Sequence[str],
    encoding: str | None,
    paths: Sequence[str] = (),
) -> Table:
    refuse_absent(path)
    try:
        text = TextFile.of(path, encoding)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from None
    records = partial(_json_objects, text)
    values: dict[str, list[Any]] = {name: [] for name in columns or ()}
    seen: dict[str, None] = {}
    n = 0
    for _, record in records():
        if not record:
            continue
        for name in record.keys() - seen.keys() if columns is None else ():
            values[name] = [None] * n
        if not record.keys() <= seen.keys():
            seen.update(dict.fromkeys(record))
        for name in dict.fromkeys([*ids, *paths]) if columns is None else ():
            values.setdefault(name, [None] * n)
        for name, column in values.items():
            value = value_at(record, name)
            if value is not None:
                seen.setdefault(name)
            try:
                column.append(value if name in ids or _is_flat_list(value) else as_text(value))
            except RecursionError:
                raise DataError(
                    f"{path}, record {n + 1}, {name!r}: nested too deeply: make it a text"
                ) from None
        n += 1
    if not n:
        raise DataError(f"{path} is empty: expected one JSON object per line")
    wanted = [*(columns or ()), *ids]
    nested = [] if set(wanted) <= set(seen) else nested_names(record for _, record in islice(records(), 10))
    check_columns(path, list(seen), wanted, nested)
    table = Table(path, pl.DataFrame(), typed=True, records=records)
    series = [
        _json_column(table, name, values[name], ids) for name in (columns if columns is not None else seen)
    ]
    return Table(path, pl.DataFrame(series), typed=True, records=records, findings=tuple(text.findings()))


def _is_flat_list(value: Any) -> bool:
    return isinstance(value, list) and not any(isinstance(entry, list | dict) for entry in value)


def _json_column(table: Table, name: str, values: list[Any], ids: Sequence[str]) -> pl.Series:
    """Return a column of JSON values: ids or texts, or lists of them where there are lists."""
    has_lists = any(isinstance(value, list) for value in values)
    if name in ids:  # of users and items, those of items may be baskets
        return (
            list_of_ids(table, name, values) if has_lists and name in ids[1:] else as_ids(table, name, values)
        )
    if not has_lists:
        return pl.Series(name, values, dtype=pl.String)
    texts = [
        None if value is None else [as_text(entry) for entry in value] for value in map(_as_list, values)
    ]
    return pl.Series(name, texts, dtype=pl.List(pl.String))


def _as_list(value: Any) -> list[Any] | None:
    return value if value is None or isinstance(value, list) else [value]


def _read_parquet(
    path: Path, columns: Sequence[str] | None, ids: Sequence[str], paths: Sequence[str] = ()
) -> Table:
    refuse_absent(path)
    try:
        header = list(pl.read_parquet_schema(path))
        wanted = list(dict.fromkeys([*(columns or ()), *ids]))
        roots = [name if name in header else name.split(".")[0] for name in wanted]
        check_columns(
            path, header, [root if root in header else name for root, name in zip(roots, wanted, strict=True)]
        )
        frame = pl.read_parquet(
            path, columns=list(dict.fromkeys(roots)) if columns is not None else None, glob=False
        )
    except UNREADABLE as error:
        raise DataError(f"{path} is not a readable Parquet file: {first_line(error)}") from None
    if not len(frame):
        raise NoRowsError(f"{path} has columns but no rows")
    return _selected(Table(path, frame, typed=True), columns, ids, paths)


_NAMES: dict[Any, str] = {pl.Int64: "integers", pl.String: "text"}


def _factorise(tables: Sequence[Table], column: str, kind: str) -> tuple[list[IntArray], Vocabulary]:
    """Number the ids of all tables by one sorted vocabulary. All work per interaction runs in Polars."""
    ids = [table.ids(column, kind) for table in tables]
    typed = {series.dtype: table for table, series in zip(tables, ids, strict=True) if table.typed}
    if len(typed) > 1:
        raise DataError(
            f"column {column!r}: {kind} ids are integers in {typed[pl.Int64()].path} and text in "
            f"{typed[pl.String()].path}: make them one type"
        )
    distinct = [series.unique() for series in ids]
    if pl.String not in typed:
        odd = [
            series.filter(~_is_integer(series)) if series.dtype == pl.String else series.clear()
            for series in distinct
        ]
        first = next((number for number, series in enumerate(odd) if len(series)), None)
        if first is None:
            ids = [series.cast(pl.Int64) for series in ids]
            distinct = [series.cast(pl.Int64) for series in distinct]
        elif typed:
            row = first_true(ids[first] == odd[first][0])
            raise DataError(
                f"{tables[first].path}, {tables[first].place(row)}, column {column!r}: {kind} ids are "
                f"integers in {typed[pl.Int64()].path}, got {ids[first][row]!r}: make them one type"
            )
    union = pl.concat(distinct).unique().sort()
    return [_numbered(series, union) for series in ids], Vocabulary(union.to_list(), kind)


def _numbered(ids: pl.Series, union: pl.Series) -> IntArray:
    """Return the place of each id in ``union``, which is ascending and has them all."""
    if union.dtype == pl.Int64 and len(union):
        least, most = int(union[0]), int(union[-1])
        if most - least < DENSE_IDS * len(ids):  # integers that are close together: a table of all in between
            places = np.zeros(most - least + 1, index_type(len(union)))
            places[union.to_numpy() - least] = np.arange(len(union))
            return cast(IntArray, places[ids.to_numpy() - least])
    rows = pl.int_range(len(union), eager=True)
    return cast(IntArray, ids.replace_strict(union, rows).to_numpy())


def _is_integer(texts: pl.Series) -> pl.Series:
    """Return whether each text is a 64-bit integer as Python prints it."""
    return (texts.cast(pl.Int64, strict=False).cast(pl.String) == texts).fill_null(False)


def _json_objects(text: TextFile) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of each line; a blank line gives an empty object."""
    path, number = text.path, 0
    try:
        with text.open() as stream:
            for number, line in enumerate(bounded_lines(stream, path), start=1):
                record = json.loads(line) if line.strip() else {}
                if not isinstance(record, dict):
                    raise DataError(
                        f"{path}, line {number}: expected one JSON object per line, got {line[:40]!r}"
                    )
                yield number, record
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {number}: expected one JSON object per line ({error})") from None
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from None
