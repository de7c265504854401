"""CSV, TSV and other text files with one record per line: read by Polars, with the quotes of Python's ``csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rlmrec.data.encodings import TextFile
from rlmrec.data.table import (
    UNREADABLE,
    BrokenLinesError,
    Records,
    Table,
    check_columns,
    first_line,
    refuse_absent,
)
from rlmrec.errors import ColumnError, DataError, NoRowsError
from rlmrec.files import longest_line, too_long
from rlmrec.findings import Finding

SEPARATORS = ",;\t|"
_BLOCK = 1 << 20  # bytes that are looked at in one go
_SAMPLE = 1 << 16  # bytes by which the separator is chosen
_SAMPLE_RECORDS = 50
TOO_MANY = "drop the line, or put texts that contain the separator in quotes"


def read_delimited(
    path: Path,
    separator: str | None = None,
    *,
    quote: str | None = '"',
    names: Sequence[str] | None = None,
    encoding: str | None = "utf-8",
    columns: Sequence[str] | None = None,
    required: Sequence[str] = (),
) -> Table:
    """Read a text file with one record per line; all values are text.

    Args:
        path: the file, plain or packed by gzip or zstd.
        separator: one ASCII character between fields; None takes the one that the first lines have.
        quote: the character around fields that hold a separator or a line break; None when there is none. Inside a
            field that does not begin with it, it is a character like others.
        names: the columns of a file without a header; None takes them from the first line.
        encoding: encoding of the file; None guesses it.
        columns: the columns to read; None reads all.
        required: columns that must be present, whether ``columns`` names them or not.

    Raises:
        BrokenLinesError: lines have more fields than the first one.
        DataError: as ``read_table``.
    """
    refuse_absent(path)
    skipped = 0 if names else 1
    header: list[str] | None = None
    try:
        text = TextFile.of(path, encoding)
        separator = separator or _separator(text)
        records = partial(_fields, text, separator, quote)
        is_odd = _is_odd(text, separator, quote)
        header = list(names) if names else next((fields for _, fields in records() if fields), None)
        if header is None:
            raise DataError(f"{path} is empty: expected a header and rows")
        try:
            check_columns(path, header, [*(columns or ()), *required])
        except ColumnError as error:
            if len(header) > 1 and "" not in header:
                raise
            raise ColumnError(
                f"{error}; the first line must name the columns, separated by a comma, semicolon, tab, bar or what "
                "--delimiter says"
            ) from None
        frame = pl.read_csv(
            _source(text, records, len(header), is_odd),
            has_header=names is None,
            new_columns=names,
            separator="," if is_odd else separator,
            quote_char='"' if is_odd else quote,
            infer_schema=False,
            glob=False,
        )
        if columns is not None:  # only now: Polars overlooks lines with too many fields in columns not read
            frame = frame.select(list(dict.fromkeys(columns)))
    except (*UNREADABLE, csv.Error) as error:
        why, is_wide = _why(records, error)
        if is_wide and header is not None:
            wanted = {name: header.index(name) for name in (*(columns or ()), *required)}
            rest = partial(
                _without_wide_lines, path, partial(_after_header, records, skipped), wanted, len(header)
            )
            raise BrokenLinesError(f"{path} cannot be read: {why}", rest) from None
        raise DataError(f"{path} cannot be read: {why}") from None
    body = partial(_after_header, records, skipped)
    lines = _after_header(records, skipped, whole=True)
    # Polars makes a row of a blank line; records that are written regularly for it have none of these.
    frame, hollow = _without_blank_lines(path, frame, (one for one in lines if one[1] or not is_odd))
    if not len(frame):
        raise NoRowsError(f"{path} has {'a header but no rows' if skipped else 'no rows'}")
    return Table(path, frame, typed=False, records=body, findings=(*text.findings(), *hollow))


def _is_odd(text: TextFile, separator: str, quote: str | None) -> bool:
    """Return whether quotes stand inside unquoted fields, or lines end with CR alone: Polars cannot read these.

    Where all quotes are regular, each odd one opens a field, so a separator or a line break stands before it, and each
    even one closes it, so one stands behind it. Doubled quotes close a field and open it at once.

    Raises:
        DataError: a line is far too long, or a quote is never closed.
    """
    longest = longest_line()
    borders = np.zeros(256, bool)
    borders[list(f"{separator}\r\n".encode())] = True
    mark = ord(quote) if quote else -1
    if quote:
        borders[mark] = True
    n_quotes = n_lines = line_start = total = 0
    opened = 0  # the line of the last opening quote
    previous, pending_close, lone_cr, odd = ord("\n"), False, False, False
    with text.open() as stream:
        while chunk := stream.read(_BLOCK):
            block = np.frombuffer(chunk, np.uint8)
            if pending_close:  # the last byte of the block before was a closing quote
                odd |= not borders[block[0]]
            places = np.flatnonzero(block == mark) if quote and quote.encode() in chunk else block[:0]
            if len(places) and not odd:
                opening = places[n_quotes % 2 :: 2]
                closing = places[1 - n_quotes % 2 :: 2]
                before = np.where(opening > 0, block[opening - 1], previous)
                behind = block[np.minimum(closing + 1, len(block) - 1)]
                odd = not (borders[before].all() and borders[behind].all())
                if len(opening):
                    opened = n_lines + 1 + chunk.count(b"\n", 0, int(opening[-1]))
            n_quotes += len(places)
            pending_close = (
                bool(quote) and chunk.endswith(quote.encode()) and n_quotes % 2 == 0 if quote else False
            )
            lone_cr = lone_cr or _has_lone_cr(chunk, previous)
            n_lines += chunk.count(b"\n")
            if (end := max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))) >= 0:
                line_start = total + end + 1
            total, previous = total + len(chunk), chunk[-1]
            if total - line_start > longest:
                raise too_long(text.path, n_lines + 1, longest)
    if n_quotes % 2 and not odd:
        raise DataError(f"{text.path} cannot be read: the quote in line {opened:,} is never closed: close it")
    return bool(odd or lone_cr or previous == ord("\r"))


def _has_lone_cr(chunk: bytes, previous: int) -> bool:
    """Return whether a CR without LF ends a line, up to the last byte, which the next block decides about."""
    if previous == ord("\r") and chunk[0] != ord("\n"):
        return True
    return chunk.count(b"\r") - chunk.count(b"\r\n") > chunk.endswith(b"\r")


def _source(text: TextFile, records: Records, width: int, is_odd: bool) -> Path | io.BytesIO:
    """Return what Polars reads: the file itself, its text as UTF-8, or its records written regularly."""
    if not is_odd:
        if text.is_plain:
            return text.path
        with text.open() as stream:
            return io.BytesIO(stream.read())
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for _, fields in records():
        if len(fields) > width:
            raise csv.Error("too many fields")  # ``_why`` finds all such lines
        if fields:
            writer.writerow([*fields, *[""] * (width - len(fields))])
    return io.BytesIO(out.getvalue().encode())


def _fields(text: TextFile, separator: str, quote: str | None) -> Iterator[tuple[int, list[str]]]:
    """Yield first line and fields of each record; a blank line gives an empty record."""
    options: dict[str, Any] = {"delimiter": separator, "quotechar": quote}
    options["quoting"] = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    before, line = csv.field_size_limit(longest_line()), 1
    try:
        with io.TextIOWrapper(text.open(), "utf-8", newline="") as lines:
            latest: list[str] = []  # the lines of the record that is being read

            def kept() -> Iterator[str]:
                for line in lines:
                    latest.append(line)
                    yield line

            reader = csv.reader(kept(), **options)
            for fields in reader:
                first, line = line, reader.line_num + 1
                if line - first > 1 and not _is_whole(latest, options):
                    raise DataError(
                        f"{text.path} cannot be read: a quote in line {first:,} is never closed: close it"
                    )
                latest.clear()
                yield first, fields
    except csv.Error as error:
        if "field larger" not in str(error):
            raise
        raise DataError(
            f"{text.path} cannot be read: a quote in line {line:,} is never closed, or the field is longer than "
            f"{longest_line() >> 20:,} MB: close it, or set RLMREC_MAX_LINE_MB to what a field may have"
        ) from None
    finally:
        csv.field_size_limit(before)


def _is_whole(lines: list[str], options: dict[str, Any]) -> bool:
    """Return whether a record of several lines ends with a closed quote; ``csv`` accepts one that the file cuts off."""
    try:
        list(csv.reader(lines, **options, strict=True))
    except csv.Error as error:
        return "unexpected end of data" not in str(error)
    return True


def _after_header(records: Records, skipped: int, whole: bool = False) -> Iterator[tuple[int, Any]]:
    """Yield line and fields of the records behind the header; without ``whole``, no fields of one without values."""
    for line, fields in records():
        if skipped and fields:
            skipped -= 1  # blank lines above the header do not count
        elif not skipped:
            yield line, fields if whole or _has_values(fields) else []


def _separator(text: TextFile) -> str:
    """Return the separator by which the first lines have the most fields, and all of them as many as the header.

    Without one it is a comma, or what a header without a comma has instead.
    """
    with text.open() as stream:
        sample = stream.read(_SAMPLE)
    lines = sample.decode("utf-8", "replace")
    if len(sample) == _SAMPLE:
        lines = lines[: max(lines.rfind("\n"), lines.rfind("\r")) + 1] or lines
    widths: dict[str, list[int]] = {}
    for separator in SEPARATORS:
        reader = csv.reader(io.StringIO(lines, newline=""), delimiter=separator)
        try:
            found = [len(fields) for fields, _ in zip(reader, range(_SAMPLE_RECORDS), strict=False) if fields]
        except csv.Error:
            continue
        widths[separator] = found or [1]
    regular = {separator: of[0] for separator, of in widths.items() if len(set(of)) == 1 and of[0] > 1}
    if regular:
        return max(regular, key=lambda separator: regular[separator])
    return next((separator for separator, of in widths.items() if of[0] > 1), ",")


def _without_blank_lines(
    path: Path, frame: pl.DataFrame, lines: Iterator[tuple[int, Any]]
) -> tuple[pl.DataFrame, list[Finding]]:
    """Drop the rows that Polars makes of blank lines and of lines with separators alone; report the latter."""
    # Only columns that were read can tell; whether a row has values in others, its line does.
    texts = pl.all().str.strip_chars(" ").fill_null("") == ""
    empty = frame.select(pl.all_horizontal(texts)).to_series()
    if not empty.any():
        return frame, []
    blank: list[int] = []
    hollow: list[int] = []
    for row, (line, fields) in enumerate(lines):
        if not _has_values(fields):
            blank.append(row)
            hollow += [line] if fields else []
    rows = pl.int_range(len(frame), eager=True)
    kept = frame.filter(~(empty & rows.is_in(pl.Series(blank, dtype=pl.Int64).implode())))
    if not hollow:
        return kept, []
    what = f"lines of {path} have separators and no values"
    return kept, [Finding("empty line", what, len(hollow), f"line {hollow[0]}", "they are left out")]


def _has_values(fields: Sequence[str]) -> bool:
    return any(field.strip(" ") for field in fields)


def _why(records: Records, error: BaseException) -> tuple[str, bool]:
    """Find what Polars could not read, which its error does not name; say whether it is lines with many fields."""
    width = 0
    said, count = "", 0
    try:
        for line, fields in records():
            width = width or len(fields)  # blank lines above the header do not count
            if len(fields) > width:
                said = said or f"line {line} has {len(fields)} fields, the first line has {width}"
                count += 1
    except (*UNREADABLE, csv.Error) as again:
        return first_line(again), False
    return (f"{said} ({count} such in all): {TOO_MANY}", True) if count else (first_line(error), False)


def _without_wide_lines(path: Path, body: Records, places: dict[str, int], width: int) -> Table:
    """Read columns, given their places, of the lines that have at most as many fields as the first one."""

    def narrow() -> Iterator[tuple[int, Any]]:
        for line, fields in body():
            yield line, fields if len(fields) <= width else []

    rows = [fields + [""] * (width - len(fields)) for _, fields in narrow() if fields]
    frame = pl.DataFrame({name: [row[place] for row in rows] for name, place in places.items()})
    return Table(path, frame.cast(pl.String), typed=False, records=narrow)
