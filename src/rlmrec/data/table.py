"""Table: named columns of one file or data frame, read as ids, numbers, times and texts."""

from __future__ import annotations

import difflib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from rlmrec.data.file_format import PLAIN, FileFormat
from rlmrec.data.times import UNITS, compact_dates, is_compact_date, parse_times, read_times
from rlmrec.errors import BrokenRowsError, ColumnError, DataError
from rlmrec.findings import Finding
from rlmrec.types import FloatArray, IntArray

_EXACT = 2**53  # from here on, different integers can be the same float
_COMMA = re.compile(r"^\s*[+-]?[\d.]*\d,\d+\s*$")
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, EOFError, zlib.error)


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
        form: how it writes numbers and times.
        findings: what was found while it was read.
        rows: int64[n], the row of the source that each row was made of; None where they are the same.
        parts: number of rows and table of each file, if there are several.
        light: the rows whose pair has too little weight, which are not among the n; None without any.
    """

    path: Path | str
    frame: pl.DataFrame
    typed: bool
    records: Records | None = None
    first_row: int = 1
    form: FileFormat = PLAIN
    findings: tuple[Finding, ...] = ()
    rows: IntArray | None = None
    parts: tuple[tuple[int, Table], ...] = ()
    light: Table | None = None

    def place(self, row: int) -> str:
        """Return the line of a row as an editor shows it, or its number in a file without lines."""
        row = row if self.rows is None else int(self.rows[row])
        for size, part in self.parts:
            if row < size:
                return f"{part.path}, {part.place(row)}"
            row -= size
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
        raw, told = self.frame[column], []
        if raw.dtype.is_float():
            raw = raw.fill_nan(None)
            odd = (raw != raw.round()).fill_null(False) | (raw.abs() >= _EXACT).fill_null(False)
            if odd.any():
                told.append(
                    f"{self.path}, {self.place(first_true(odd))}, column {column!r}: got {raw[first_true(odd)]!r} "
                    f"({odd.sum()} such in all), {kind} ids must be integers or text: {_of_float(raw[first_true(odd)])}"
                )
            missing = raw.is_null()
            raw = raw.cast(pl.Int64, strict=False)
        elif raw.dtype.is_integer():
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
            told.append(self._missing(column, missing, f"{kind} id"))
        if told:
            raise (DataError if len(told) == 1 else BrokenRowsError)("\n".join(told))
        return raw

    def _missing(self, column: str, missing: pl.Series, what: str) -> str:
        return (
            f"{self.path}, {self.place(first_true(missing))}, column {column!r}: the {what} is missing "
            f"({missing.sum()} in all): fill it in or drop the row"
        )

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
            values = self._plain_numbers(raw).cast(pl.Float64, strict=False)
        elif raw.dtype.is_numeric():
            values = raw.cast(pl.Float64)
        else:
            raise DataError(f"{self.path}: column {column!r} holds {raw.dtype}, expected numbers")
        bad = ~values.is_finite().fill_null(False)
        if missing:
            bad &= ~is_blank(raw)
        if bad.any():
            row = first_true(bad)
            value = "" if raw[row] is None else raw[row]
            commas = raw.dtype == pl.String and self.form.decimal == "." and _COMMA.search(str(value))
            remedy = "; for decimal commas say so (decimal, --decimal ,)" if commas else ""
            raise DataError(
                f"{self.path}, {self.place(row)}, column {column!r}: expected a finite number, got {value!r} "
                f"({bad.sum()} such in all){remedy}"
            )
        return cast(FloatArray, values.fill_null(float("nan")).to_numpy())

    def _plain_numbers(self, texts: pl.Series) -> pl.Series:
        """Return numbers as they are written in programs, of numbers as this table writes them."""
        return (
            decimal_points(texts.str.strip_chars()) if self.form.decimal == "," else texts.str.strip_chars()
        )

    def times(self, column: str) -> FloatArray:
        """Return the column as float64[n], seconds since 1970.

        Text may be numbers or dates in one of the usual forms; see ``rlmrec.data.times.read_times``. Numbers that are
        written like 20170714, 201707142209 or 20170714220911 are dates. The table's ``timestamp_format`` goes first.

        Raises:
            DataError: a value is none of these, the forms are mixed, or day and month cannot be told apart.
        """
        raw, form = self.frame[column], self.form.timestamp_format
        if not len(raw):  # of returns alone
            return np.empty(0)
        missing = is_blank(raw)
        if missing.any():
            told = [self._missing(column, missing, "time")]
            rows = np.flatnonzero(~missing.to_numpy())
            if len(rows):
                places = rows if self.rows is None else self.rows[rows]
                told += problems([partial(replace(self, frame=self.frame[rows], rows=places).times, column)])
            raise (DataError if len(told) == 1 else BrokenRowsError)("\n".join(told))
        if raw.dtype in (pl.Date, pl.Datetime):
            return self.numbers(column)
        if form in UNITS:
            return self.numbers(column) / UNITS[form]
        texts = raw.str.strip_chars() if raw.dtype == pl.String else raw
        numeric = raw.dtype != pl.String or texts.cast(pl.Float64, strict=False).is_not_null().any()
        if form is not None:
            if texts.dtype != pl.String:
                texts = pl.Series(self.numbers(column)).cast(pl.Int64).cast(pl.String)
            reading = parse_times(texts, form)
        elif numeric:
            numbers = self.numbers(column)
            if is_compact_date(numbers).mean() <= 0.5:
                return numbers
            reading = compact_dates(numbers)
        else:
            reading = read_times(texts)
        if reading.seconds is None:
            said = f"{raw[reading.row]!r}" + (f" ({reading.number} such in all)" if reading.number else "")
            said = f"got {said}, " if reading.problem.startswith("expected") else f"{said} "
            raise DataError(
                f"{self.path}, {self.place(reading.row)}, column {column!r}: {said}{reading.problem}"
            )
        return reading.seconds

    def texts(self, column: str) -> pl.Series:
        """Return the column as String: "" becomes null, lists are joined by ", ", other values printed."""
        raw = self.frame[column]
        try:
            if isinstance(raw.dtype, pl.List):
                raw = raw.list.eval(pl.element().cast(pl.String)).list.join(", ")
            raw = raw.struct.json_encode() if isinstance(raw.dtype, pl.Struct) else raw.cast(pl.String)
        except pl.exceptions.PolarsError:
            raise DataError(f"{self.path}: column {column!r} holds {raw.dtype}, expected text") from None
        raw = raw.set(raw == "", None)
        is_number = self.frame[column].dtype.is_numeric()  # of a data frame or Parquet: printed with a point
        return with_points(raw) if self.form.decimal == "," and not is_number else raw


class BrokenLinesError(DataError):
    """Lines of a text file with more fields than the first one.

    Args:
        message: what they are.
        rest: reads the ids and the columns that were asked for from the other lines, for what else is wrong.
    """

    def __init__(self, message: str, rest: Callable[[], Table]) -> None:
        super().__init__(message)
        self.rest = rest


def problems(checks: Sequence[Callable[[], object]]) -> list[str]:
    """Return what the checks of values refuse: one line for each kind, with count, place and example."""
    told: list[str] = []
    for check in checks:
        try:
            check()
        except DataError as error:
            told += str(error).splitlines()
    return list(dict.fromkeys(told))


def decimal_points(texts: pl.Series) -> pl.Series:
    """Return numbers with decimal commas, such as 1.234,50, with points instead; other texts become null.

    Example:
        >>> decimal_points(pl.Series(["1.234,50", "-3,5", "7", "2.5", "0.125"])).to_list()
        ['1234.50', '-3.5', '7', None, None]
    """
    number = texts.str.contains(r"^[+-]?(\d+|[1-9]\d{0,2}(\.\d{3})+)(,\d*)?([eE][+-]?\d+)?$")
    plain = texts.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    return plain.set(~number.fill_null(False), None)


def with_points(texts: pl.Series) -> pl.Series:
    """Return a column of numbers with decimal commas, such as prices, with points; other columns as they are."""
    numbers = decimal_points(texts.str.strip_chars())
    return numbers if numbers.null_count() == texts.null_count() else texts


def commas_to_points(texts: pl.Series) -> pl.Series:
    """Return a column of numbers of which some have decimal commas, with points; other columns as they are.

    Example:
        >>> commas_to_points(pl.Series(["1.5", "1.234,50", "none", None])).to_list()
        ['1.5', '1234.50', 'none', None]
    """
    points = decimal_points(
        texts.str.strip_chars().set(~texts.str.contains(",", literal=True).fill_null(False), None)
    )
    mixed = pl.select(pl.coalesce(points, texts)).to_series()
    numbers = mixed.cast(pl.Float64, strict=False).is_not_null().sum()
    return mixed.rename(texts.name) if 2 * numbers >= len(texts.drop_nulls()) else texts


def _of_float(value: float) -> str:
    """Return what to do about an id that is a float; from 2⁵³ on, it may have lost digits."""
    if abs(value) < _EXACT:
        return "convert the column"
    return (
        "a float keeps 15 to 17 digits, and converting cannot bring the others back; read or export the data again "
        "with the ids as text or integers"
    )


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
        remedy = (
            _of_float(values[odd])
            if isinstance(values[odd], float)
            else "convert them (pandas: .astype(str))"
        )
        raise DataError(
            f"{table.path}, {table.place(odd)}, column {column!r}: got {repr(values[odd])[:80]}, "
            f"ids must be integers or text: {remedy}"
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


def refuse_absent(path: Path) -> None:
    """Check that a file is there; a missing one and a folder are a ``DataError``."""
    if not path.is_file():
        raise DataError(f"{path} {'is a folder, expected a file' if path.is_dir() else 'does not exist'}")


def check_columns(
    path: Path | str, header: Sequence[str], wanted: Sequence[str], nested: Sequence[str] = ()
) -> None:
    """Check that each wanted column is there once.

    Args:
        path: of the table, for messages.
        header: its columns.
        wanted: those that must be there.
        nested: paths into its columns, one of which may have been meant.

    Raises:
        ColumnError: one is missing.
        DataError: one is there several times.
    """
    for name in wanted:
        if name not in header:
            others = [*header, *nested]
            close = difflib.get_close_matches(plain_name(name), map(plain_name, others), 1)
            hint = next(
                (f"; did you mean {other!r}?" for other in others if [plain_name(other)] == close), ""
            )
            listed = (
                f"its columns are {', '.join(map(repr, header))}" if header else "it has no columns at all"
            )
            raise ColumnError(f"{path} has no column {name!r}: {listed}{hint}")
        if list(header).count(name) > 1:
            raise DataError(f"{path} has {list(header).count(name)} columns {name!r}: rename all but one")


def plain_name(name: str) -> str:
    """Return the name of a column without case, underscores and blanks."""
    return name.casefold().replace("_", "").replace(" ", "")


def is_blank(values: pl.Series) -> pl.Series:
    """Return whether each value is missing or a text of blanks alone."""
    return values.is_null() if values.dtype != pl.String else values.fill_null("").str.strip_chars() == ""


def first_true(mask: pl.Series) -> int:
    """Return the first row where a mask is true."""
    return int(cast(int, mask.arg_max()))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its name."""
    return (str(error) or type(error).__name__).splitlines()[0]
