"""Tables with named columns (CSV, TSV, JSON lines, Parquet): interactions, ready-made splits and texts.

Ids keep the type that their file gives them. CSV and TSV have no types; there a column of ids counts as
integers only if every value is written as one (``7``, not ``007`` or ``+7``), and as text otherwise.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import polars as pl

from rlmrec.data.checks import check_join, index_columns
from rlmrec.data.interactions import Interactions
from rlmrec.data.lines import iso_seconds
from rlmrec.data.metadata import TITLE_COLUMNS
from rlmrec.data.source import Source
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ColumnError, ConfigError, DataError
from rlmrec.files import check_text
from rlmrec.findings import Finding
from rlmrec.types import BoolArray, FloatArray, IntArray

_JSON_LINES = (".jsonl", ".ndjson", ".json")
_EXACT = 2**53  # from here on, different integers can be the same float
_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, EOFError, zlib.error)


Records = Callable[[], Iterator[tuple[int, Any]]]


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of one file or data frame, and the place of each row in it.

    Args:
        path: the file, or the name of the data frame; for messages.
        frame: n rows; untyped files give text, JSON lines text except for ids, Parquet the stored types.
        typed: whether the file itself distinguishes integer ids from text.
        records: reads the file again as (line, record), blank lines with an empty record; None when the
            file has no lines. Only errors need it, so no line number is kept for each row.
        first_row: number of the first row in messages.
    """

    path: Path | str
    frame: pl.DataFrame
    typed: bool
    records: Records | None = None
    first_row: int = 1

    def place(self, row: int) -> str:
        """Return the line of a row as an editor shows it, or its number in a file without lines."""
        if self.records is not None:
            filled = (line for line, record in self.records() if record)
            for number, line in enumerate(filled):
                if number == row:
                    return f"line {line}"
        return f"row {row + self.first_row}{'' if self.first_row else ' (counted from 0)'}"

    def ids(self, column: str, kind: str) -> pl.Series:
        """Return the column as Int64 or String; floats that are whole, as pandas makes them, are integers.

        Raises:
            DataError: an id is missing, or the column holds something else.
        """
        raw = self.frame[column]
        if raw.dtype.is_float():
            raw = raw.fill_nan(None)
            odd = (raw != raw.round()).fill_null(False) | (raw.abs() >= _EXACT).fill_null(False)
            if odd.any():
                raise DataError(
                    f"{self.path}, {self.place(_first(odd))}, column {column!r}: got {raw[_first(odd)]!r} "
                    f"({odd.sum()} such in all), {kind} ids must be integers or text: convert the column"
                )
            raw = raw.cast(pl.Int64)
        if raw.dtype.is_integer():
            try:
                raw = raw.cast(pl.Int64)
            except pl.exceptions.InvalidOperationError:
                raise DataError(
                    f"{self.path}: column {column!r} has {kind} ids beyond 64 bits: write them as text"
                ) from None
            missing = raw.is_null()
        elif raw.dtype in (pl.String, pl.Categorical, pl.Enum):
            raw = raw.cast(pl.String)
            missing = (raw.str.strip_chars() == "").fill_null(True)
        else:
            raise DataError(
                f"{self.path}: column {column!r} holds {raw.dtype}, {kind} ids must be integers or text: "
                "convert the column"
            )
        if missing.any():
            raise DataError(
                f"{self.path}, {self.place(_first(missing))}, column {column!r}: the {kind} id is missing "
                f"({missing.sum()} in all): fill it in or drop the row"
            )
        return raw

    def numbers(self, column: str, missing: bool = False) -> FloatArray:
        """Return the column as float64[n]; dates become seconds since 1970.

        Args:
            column: its name.
            missing: whether values may be missing; they become NaN.

        Raises:
            DataError: a value is not a number, not finite, or missing although it must not.
        """
        raw = self.frame[column]
        if raw.dtype in (pl.Date, pl.Datetime):
            values = raw.dt.epoch("us") / 1e6
        elif raw.dtype == pl.String:
            values = raw.str.strip_chars().cast(pl.Float64, strict=False)
        elif raw.dtype.is_numeric():
            values = raw.cast(pl.Float64)
        else:
            raise DataError(f"{self.path}: column {column!r} holds {raw.dtype}, expected numbers")
        bad = ~values.is_finite().fill_null(False)
        if missing:
            empty = raw.is_null() if raw.dtype != pl.String else raw.fill_null("").str.strip_chars() == ""
            bad &= ~empty
        if bad.any():
            row = _first(bad)
            value = "" if raw[row] is None else raw[row]
            raise DataError(
                f"{self.path}, {self.place(row)}, column {column!r}: expected a finite number, got {value!r} "
                f"({bad.sum()} such in all)"
            )
        return cast(FloatArray, values.fill_null(float("nan")).to_numpy())

    def times(self, column: str) -> FloatArray:
        """Return the column as float64[n], seconds since 1970; text may be numbers or ISO 8601 dates (UTC).

        Numbers that are all written like 20170714 or 20170714220911 are dates.

        Raises:
            DataError: a value is neither, or the column mixes both.
        """
        raw = self.frame[column]
        if raw.dtype in (pl.Date, pl.Datetime):
            return self.numbers(column)
        texts = raw.fill_null("").str.strip_chars() if raw.dtype == pl.String else raw
        if raw.dtype != pl.String or texts.cast(pl.Float64, strict=False).is_not_null().any():
            numbers = self.numbers(column)
            return self._dates(column, numbers) if is_compact_date(numbers).all() else numbers
        values = np.empty(len(texts))
        for row, text in enumerate(texts):
            try:
                values[row] = iso_seconds(text)
            except ValueError:
                raise DataError(
                    f"{self.path}, {self.place(row)}, column {column!r}: expected seconds since 1970 or a date "
                    f"such as 2018-07-07 22:09:11, got {text!r}"
                ) from None
        return values

    def _dates(self, column: str, numbers: FloatArray) -> FloatArray:
        """Return seconds since 1970 of dates such as 20170714 or 20170714220911."""
        texts = pl.Series(numbers).cast(pl.Int64).cast(pl.String).str.pad_end(14, "0")
        moments = texts.str.to_datetime("%Y%m%d%H%M%S", time_unit="us", strict=False)
        if moments.is_null().any():
            row = _first(moments.is_null())
            raise DataError(
                f"{self.path}, {self.place(row)}, column {column!r}: {numbers[row]:.0f} is not a date, and the "
                "column looks like dates such as 20170714: expected those, or seconds since 1970"
            )
        return cast(FloatArray, (moments.dt.epoch("us") / 1e6).to_numpy())

    def texts(self, column: str) -> pl.Series:
        """Return the column as String: "" becomes null, lists are joined by ", ", other values printed."""
        raw = self.frame[column]
        try:
            if isinstance(raw.dtype, pl.List):
                raw = raw.list.eval(pl.element().cast(pl.String)).list.join(", ")
            raw = raw.struct.json_encode() if isinstance(raw.dtype, pl.Struct) else raw.cast(pl.String)
        except pl.exceptions.PolarsError:
            raise DataError(f"{self.path}: column {column!r} holds {raw.dtype}, expected text") from None
        return raw.set(raw == "", None)


def is_compact_date(numbers: FloatArray) -> BoolArray:
    """Return whether each number is written like a date of 1900 to 2099: 20170714 or 20170714220911."""
    days = np.where(numbers >= 1e13, numbers // 1e6, numbers)
    return cast(BoolArray, (days >= 19000101) & (days < 21000000) & (numbers == np.floor(numbers)))


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
    train: Path | str | None = None,
    valid: Path | str | None = None,
    test: Path | str | None = None,
    user_column: str = "user_id",
    item_column: str = "item_id",
    rating_column: str | None = None,
    timestamp_column: str | None = None,
    review_column: str | None = None,
    items: Path | str | None = None,
    title_column: str | None = None,
    users: Path | str | None = None,
) -> Source:
    """Read your own CSV, TSV, Parquet or JSON-lines files with named columns.

    Args:
        file: File of interactions, to be filtered and split.
        train: Ready-made split: file of training interactions.
        valid: Ready-made split: file of validation interactions.
        test: Ready-made split: file of test interactions.
        user_column: Column of user ids.
        item_column: Column of item ids, in the file of --items too.
        rating_column: Column of ratings.
        timestamp_column: Column of times: seconds since 1970, or dates. Of a repeated pair the latest is kept.
        review_column: Column of review texts.
        items: File of item texts, one row per item.
        title_column: Column of the items' titles in the file of --items; by default title, name or similar,
            else the first.
        users: File of user texts, one row per user.

    Returns:
        the interactions in the order of the file (their ids are counted through a ready-made split), the users
        and the items (integers ascending, text sorted).

    Raises:
        ConfigError: neither one file nor the three of a split are given.
        DataError: a file cannot be read, a column is missing, or a value cannot be used; the message names
            file, line and column.
    """
    columns = Columns(user_column, item_column, rating_column, timestamp_column, review_column)
    ready = [path for path in (train, valid, test) if path is not None]
    if (file is None) != (len(ready) == 3) or (file is not None and ready):
        raise ConfigError("give either one file of interactions, or a split: --train, --valid and --test")
    paths = ready if file is None else [file]
    tables = [read_table(path, columns.present, ids=columns[:2]) for path in paths]
    first = Path(paths[0])
    return to_source(
        first.stem if file is not None else first.resolve().parent.name,
        tables,
        columns,
        items=read_table(items, ids=(item_column,)) if items is not None else None,
        users=read_table(users, ids=(user_column,)) if users is not None else None,
        title=title_column,
        provenance={
            "files": [str(path) for path in paths],
            "columns": {**columns._asdict(), "title": title_column},
        },
    )


def to_source(
    name: str,
    tables: Sequence[Table],
    columns: Columns,
    *,
    items: Table | None = None,
    users: Table | None = None,
    title: str | None = None,
    provenance: dict[str, Any] | None = None,
) -> Source:
    """Make a source of one table of interactions or of the three of a ready-made split, and of texts.

    Args:
        name: name of the source.
        tables: one table, or training, validation and test.
        columns: their columns.
        items: item texts with the column of item ids, one row per item.
        users: user texts, likewise.
        title: column of ``items`` with the titles.
        provenance: where the tables came from; JSON.

    Raises:
        ColumnError: there is no column ``title``, or another column has that name already.
        DataError: a value cannot be used.
    """
    if title is not None and items is None:
        raise ConfigError("a column of titles is in the table of items: give that, too (items, --items)")
    parts, user_ids, item_ids = assemble(tables, *columns)
    item_texts = align(items, item_ids, columns.item) if items is not None else None
    user_texts = align(users, user_ids, columns.user) if users is not None else None
    findings = [
        finding
        for table, ids, column in ((items, item_ids, columns.item), (users, user_ids, columns.user))
        if table is not None
        for finding in check_table(table, ids, column)
    ]
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
    described = {} if item_texts is None else {"text_columns": columns_of_text(item_texts)}
    return Source(
        name,
        parts[0] if len(parts) == 1 else (parts[0], parts[1], parts[2]),
        user_ids,
        item_ids,
        item_texts,
        user_texts,
        findings=findings,
        provenance={**(provenance or {}), **described},
    )


def columns_of_text(table: pl.DataFrame) -> list[str]:
    """Return the columns that describe an item: not those of numbers or of true and false, except a year.

    A price, a stock or a row number says nothing to an encoder or a language model.
    """
    switches = {"true", "false", "yes", "no"}

    def is_text(column: pl.Series) -> bool:
        values = column.drop_nulls()
        numbers = values.str.strip_chars().cast(pl.Float64, strict=False)
        return bool(len(values)) and not (
            numbers.is_not_null().all() or values.str.to_lowercase().is_in(list(switches)).all()
        )

    found = [
        name for name in table.columns if name == "year" or name in TITLE_COLUMNS or is_text(table[name])
    ]
    return found or table.columns


def check_table(table: Table, vocabulary: Vocabulary, id_column: str) -> list[Finding]:
    """Find columns of a table of texts that only count its rows, and ids that it spells in another way."""
    findings = check_join(vocabulary.kind, table.ids(id_column, vocabulary.kind), vocabulary)
    index = index_columns(table.frame.drop(id_column))
    if index:
        findings.append(
            Finding(
                "index column",
                f"columns of {table.path} only count its rows",
                len(index),
                repr(index[0]),
                "they are left out of the texts; write the table without its index (pandas: index=False)",
            )
        )
    return findings


def titled(texts: pl.DataFrame, column: str) -> pl.DataFrame:
    """Rename ``column`` to ``title``, the name that later steps look for."""
    if column not in texts.columns:
        raise ColumnError(f"no column of titles {column!r}: the item texts have {', '.join(texts.columns)}")
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


def align(table: Table, vocabulary: Vocabulary, id_column: str) -> pl.DataFrame:
    """Return the text columns of ``table`` with one row per id of ``vocabulary``, in its order.

    A column that holds the index of a data frame is left out.
    """
    kind, ids = vocabulary.kind, table.ids(id_column, vocabulary.kind)
    if ids.n_unique() < len(ids):
        twice = _first(~ids.is_first_distinct())
        first = _first(ids == ids[twice])
        raise DataError(
            f"{table.path}, {table.place(twice)}, column {id_column!r}: {kind} {ids[twice]!r} is in "
            f"{table.place(first)} already: keep one row per {kind}"
        )
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
        raise DataError(
            f"{table.path}, column {id_column!r}: none of its {len(ids)} ids is a known {kind}: "
            f"got for example {ids[0]!r}, expected ids like {vocabulary.id(0)!r}"
        )
    texts_only = table.frame.drop(id_column)
    names = [name for name in texts_only.columns if name not in index_columns(texts_only)]
    # Positional names, because a text column may be called "id" as well.
    texts = [table.texts(name).alias(str(position)) for position, name in enumerate(names)]
    joined = known.to_frame().join(
        pl.DataFrame([ids.alias("id"), *texts]), on="id", how="left", maintain_order="left"
    )
    return joined.drop("id").rename({str(position): name for position, name in enumerate(names)})


def read_table(path: Path | str, columns: Sequence[str] | None = None, ids: Sequence[str] = ()) -> Table:
    """Read columns of a file; the ending of its name decides how.

    Args:
        path: a .csv, .tsv, .jsonl (each also .gz) or .parquet file.
        columns: their names; None reads all, and ``ids`` must be among them.
        ids: the columns of ids, whose types must not be mixed.

    Raises:
        DataError: the file is absent, empty, damaged, of an unknown kind, or lacks a column.
    """
    path = Path(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compressed = suffixes[-1:] == [".gz"]
    ending = "".join(suffixes[-2:-1] if compressed else suffixes[-1:])
    if ending in (".csv", ".tsv", *_JSON_LINES) and path.is_file():
        try:
            check_text(path, compressed, b'"' if ending in (".csv", ".tsv") else None)
        except _UNREADABLE as error:
            raise DataError(f"{path} cannot be read: {_line(error)}") from None
    if ending in (".csv", ".tsv"):
        separator = _separator(path) if ending == ".csv" else "\t"
        table = read_delimited(path, separator, columns=columns, required=ids)
    elif ending in _JSON_LINES:
        table = _read_json_lines(path, columns, ids)
    elif ending == ".parquet" and not compressed:
        table = _read_parquet(path, columns, ids)
    else:
        raise DataError(f"{path}: unknown ending, expected .csv, .tsv, .jsonl (each also .gz) or .parquet")
    return table


def read_delimited(
    path: Path,
    separator: str,
    *,
    quote: str | None = '"',
    names: Sequence[str] | None = None,
    encoding: str = "utf-8",
    columns: Sequence[str] | None = None,
    required: Sequence[str] = (),
) -> Table:
    """Read a text file with one record per line; all values are text.

    Args:
        path: the file, plain or gzipped.
        separator: one character between fields.
        quote: the character around fields that hold a separator or a line break; None when there is none.
        names: the columns of a file without a header; None takes them from the first line.
        encoding: encoding of the file.
        columns: the columns to read; None reads all.
        required: columns that must be present, whether ``columns`` names them or not.

    Raises:
        DataError: as ``read_table``.
    """
    _refuse_absent(path)
    records = partial(_fields, path, separator, quote, encoding)
    try:
        header = list(names) if names else next((fields for _, fields in records() if fields), None)
        if header is None:
            raise DataError(f"{path} is empty: expected a header and rows")
        check_columns(path, header, [*(columns or ()), *required])
        frame = pl.read_csv(
            path if encoding == "utf-8" else io.BytesIO(_plain(path).decode(encoding).encode()),
            has_header=names is None,
            new_columns=names,
            separator=separator,
            quote_char=quote,
            infer_schema=False,
            glob=False,
        )
        if columns is not None:  # only now: Polars overlooks lines with too many fields in columns not read
            frame = frame.select(list(dict.fromkeys(columns)))
    except (*_UNREADABLE, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {_why(path, records, encoding, error)}") from None
    skipped = 0 if names else 1
    body = partial(_after_header, records, skipped)
    frame = _without_blank_lines(frame, body)
    if not len(frame):
        raise DataError(f"{path} has {'a header but no rows' if skipped else 'no rows'}")
    return Table(path, frame, typed=False, records=body)


def _read_json_lines(path: Path, columns: Sequence[str] | None, ids: Sequence[str]) -> Table:
    _refuse_absent(path)
    records = partial(_json_objects, path)
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
        for name, column in values.items():
            value = record.get(name)
            try:
                column.append(value if name in ids else as_text(value))
            except RecursionError:
                raise DataError(
                    f"{path}, record {n + 1}, {name!r}: nested too deeply: make it a text"
                ) from None
        n += 1
    if not n:
        raise DataError(f"{path} is empty: expected one JSON object per line")
    check_columns(path, list(seen), [*(columns or ()), *ids])
    table = Table(path, pl.DataFrame(), typed=True, records=records)
    series = [
        as_ids(table, name, values[name]) if name in ids else pl.Series(name, values[name], dtype=pl.String)
        for name in (columns if columns is not None else seen)
    ]
    return Table(path, pl.DataFrame(series), typed=True, records=records)


def _read_parquet(path: Path, columns: Sequence[str] | None, ids: Sequence[str]) -> Table:
    _refuse_absent(path)
    try:
        header = list(pl.read_parquet_schema(path))
        check_columns(path, header, [*(columns or ()), *ids])
        frame = pl.read_parquet(
            path, columns=list(dict.fromkeys(columns)) if columns is not None else None, glob=False
        )
    except _UNREADABLE as error:
        raise DataError(f"{path} is not a readable Parquet file: {_line(error)}") from None
    if not len(frame):
        raise DataError(f"{path} has columns but no rows")
    return Table(path, frame, typed=True)


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
            row = _first(ids[first] == odd[first][0])
            raise DataError(
                f"{tables[first].path}, {tables[first].place(row)}, column {column!r}: {kind} ids are "
                f"integers in {typed[pl.Int64()].path}, got {ids[first][row]!r}: make them one type"
            )
    union = pl.concat(distinct).unique().sort()
    rows = pl.int_range(len(union), eager=True)
    numbered = [cast(IntArray, series.replace_strict(union, rows).to_numpy()) for series in ids]
    return numbered, Vocabulary(union.to_list(), kind)


def _is_integer(texts: pl.Series) -> pl.Series:
    """Return whether each text is a 64-bit integer as Python prints it."""
    return (texts.cast(pl.Int64, strict=False).cast(pl.String) == texts).fill_null(False)


def as_ids(table: Table, column: str, values: list[Any]) -> pl.Series:
    """Make a column of ids of Python values: all integers or all text.

    Raises:
        DataError: they are mixed, or a value is neither; the message names places in ``table``.
    """
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    types = {type(value) for value in values} - {type(None)}
    odd = next(
        (row for row, value in enumerate(values) if value is not None and type(value) not in (int, str)), None
    )
    if odd is not None:
        raise DataError(
            f"{table.path}, {table.place(odd)}, column {column!r}: got {repr(values[odd])[:80]}, "
            "ids must be integers or text"
        )
    if len(types) > 1:
        integers = {value: row for row, value in reversed(list(enumerate(values))) if isinstance(value, int)}
        texts = {value: row for row, value in reversed(list(enumerate(values))) if isinstance(value, str)}
        number = next((value for value in integers if str(value) in texts), None)
        text = str(number) if number is not None else next(reversed(texts))
        number = number if number is not None else next(reversed(integers))
        raise DataError(
            f"{table.path}, column {column!r} mixes integers and text: {number} in "
            f"{table.place(integers[number])}, {text!r} in {table.place(texts[text])}: "
            "make them one type"
        )
    try:
        return pl.Series(column, values, dtype=pl.Int64 if int in types else pl.String)
    except (OverflowError, TypeError, pl.exceptions.PolarsError):
        raise DataError(
            f"{table.path}: column {column!r} has ids beyond 64 bits: write them as text"
        ) from None


def as_text(value: Any) -> str | None:
    """Make text of a value of JSON or of a data frame; lists are joined by ", "."""
    if value is None or isinstance(value, str):
        # JSON can contain half a surrogate pair, which UTF-8 cannot encode.
        return value if value is None or value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, np.ndarray | tuple):
        value = list(value)
    if isinstance(value, list):
        return ", ".join(text for text in map(as_text, value) if text)
    is_json = isinstance(value, dict | bool | int | float)
    return json.dumps(value, ensure_ascii=False, default=str) if is_json else str(value)


def _json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of each line; a blank line gives an empty object."""
    line = 0
    try:
        with _open(path) as handle:
            for line, text in enumerate(handle, start=1):
                record = json.loads(text.decode("utf-8-sig")) if text.strip() else {}
                if not isinstance(record, dict):
                    raise DataError(
                        f"{path}, line {line}: expected one JSON object per line, got {text[:40]!r}"
                    )
                yield line, record
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {line}: expected one JSON object per line ({error})") from None
    except _UNREADABLE as error:
        raise DataError(f"{path} cannot be read: {_line(error)}") from None


def _fields(path: Path, separator: str, quote: str | None, encoding: str) -> Iterator[tuple[int, list[str]]]:
    """Yield first line and fields of each record; a blank line gives an empty record."""
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding
    with _open(path) as raw, io.TextIOWrapper(raw, encoding, newline="") as handle:
        reader = csv.reader(
            handle,
            delimiter=separator,
            quotechar=quote,
            quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
        )
        line = 1
        for fields in reader:
            yield line, fields
            line = reader.line_num + 1


def _after_header(records: Records, skipped: int) -> Iterator[tuple[int, Any]]:
    for line, fields in records():
        if skipped and fields:
            skipped -= 1  # blank lines above the header do not count
        elif not skipped:
            yield line, fields


def _separator(path: Path) -> str:
    """Return a comma, or the semicolon or tab that the header has instead, as some spreadsheets write it."""
    try:
        header = next((fields for _, fields in _fields(path, ",", '"', "utf-8") if fields), [])
    except (*_UNREADABLE, UnicodeDecodeError, csv.Error):
        return ","  # reading the whole file will report what is wrong
    found = (separator for separator in ";\t" if len(header) == 1 and separator in header[0])
    return next(found, ",")


def _without_blank_lines(frame: pl.DataFrame, body: Records) -> pl.DataFrame:
    """Drop the rows that Polars makes of blank lines, but not those with separators and no values."""
    empty = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
    if not empty.any():
        return frame
    blank = [row for row, (_, fields) in enumerate(body()) if not fields]
    rows = pl.int_range(len(frame), eager=True)
    return frame.filter(~(empty & rows.is_in(pl.Series(blank, dtype=pl.Int64).implode())))


def _why(path: Path, records: Records, encoding: str, error: BaseException) -> str:
    """Find the line that Polars could not read, which its error does not name."""
    line = 0
    try:
        with _open(path) as handle:
            for text in handle:
                line += 1
                text.decode(encoding)
        width = None
        for line, fields in records():
            width = len(fields) if width is None else width
            if len(fields) > width:
                return f"line {line} has {len(fields)} fields, the first line has {width}"
    except UnicodeDecodeError as undecodable:
        return f"line {line} is not {encoding.upper()} ({undecodable.reason})"
    except (*_UNREADABLE, csv.Error) as again:
        return _line(again)
    return _line(error)


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def _plain(path: Path) -> bytes:
    with _open(path) as handle:
        return handle.read()


def _refuse_absent(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path} {'is a folder, expected a file' if path.is_dir() else 'does not exist'}")


def check_columns(path: Path | str, header: Sequence[str], wanted: Sequence[str]) -> None:
    """Check that each wanted column is there once.

    Raises:
        ColumnError: one is missing.
        DataError: one is there several times.
    """
    for name in wanted:
        if name not in header:
            close = difflib.get_close_matches(_bare(name), map(_bare, header), 1)
            hint = next((f"; did you mean {other!r}?" for other in header if [_bare(other)] == close), "")
            raise ColumnError(
                f"{path} has no column {name!r}: its columns are {', '.join(map(repr, header))}{hint}"
            )
        if list(header).count(name) > 1:
            raise DataError(f"{path} has {list(header).count(name)} columns {name!r}: rename all but one")


def _bare(name: str) -> str:
    return name.casefold().replace("_", "").replace(" ", "")


def _first(mask: pl.Series) -> int:
    return int(cast(int, mask.arg_max()))


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
