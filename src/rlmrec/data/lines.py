"""Files of records, one a line, as the raw sources come: JSON objects or Python literals, plain or gzipped.

Such files are gigabytes of other people's text. So they are streamed, a damaged line costs a line and not
the run, and nothing in them is ever evaluated: a line of Python literals is rewritten as JSON, string by
string, and read by the JSON decoder. What that cannot read is a malformed line.
"""

from __future__ import annotations

import ast
import gzip
import io
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from json.encoder import encode_basestring
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from rlmrec.errors import DataError

MAX_LINE = 1 << 20  # bytes; the longest lines of the known sources have some ten thousand
MAX_BAD_LINES = 1000
_SHOWN = 10  # bad lines that a report quotes
_TO_TELL = 10  # so many bad lines and not a usable one: it is another file
_TICK = 1 << 13  # lines between two calls of progress

Record = dict[str, Any]
# What is being read, bytes read so far, bytes in all.
Progress = Callable[[str, int, int], None]
T = TypeVar("T")
_Parser = Callable[[str], Any]


class BadRecord(ValueError):
    """Why one line cannot be used; the file that it stands in counts it and goes on."""


@dataclass
class LineReport:
    """What became of the lines of a file.

    Args:
        lines: lines read, blank ones too.
        usable: records that could be used.
        bad: lines that could not.
        first: the first of those: (line number, why).
        not_utf8: lines with bytes that are not UTF-8; they are used, with U+FFFD for such bytes.
    """

    lines: int = 0
    usable: int = 0
    bad: int = 0
    first: list[tuple[int, str]] = field(default_factory=list)
    not_utf8: int = 0

    def plain(self) -> dict[str, Any]:
        """As JSON, for a dataset's provenance."""
        shown = [f"line {number}: {why}" for number, why in self.first]
        return {"lines": self.lines, "bad": self.bad, "first_bad": shown, "not_utf8": self.not_utf8}

    def notes(self, file: str) -> list[str]:
        """Describe the unusable lines for the user."""
        notes = []
        if self.bad:
            shown = "; ".join(f"line {number}: {why}" for number, why in self.first)
            more = f"; and {self.bad - len(self.first):,} more" if self.bad > len(self.first) else ""
            notes.append(f"{self.bad:,} of {self.lines:,} lines of {file} skipped: {shown}{more}")
        if self.not_utf8:
            notes.append(f"{self.not_utf8:,} lines of {file} have bytes that are not UTF-8, shown as U+FFFD")
        return notes


class RecordFile:
    """One file of records.

    Args:
        path: plain or gzipped, whatever its name ends in.
        kind: what it must hold, for messages and the progress bar, for example "Amazon reviews".
        required: keys that every record has; ids are among them.
        max_bad_lines: most lines that may be unusable.
        progress: called now and then with ``kind``, the bytes read and the bytes in all.

    Raises:
        DataError: the file does not exist; while reading: it is a broken gzip file, more lines are unusable
            than may be, or none is usable.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "games.json"
        ...     _ = path.write_text("{u'id': u'10', u'tags': [u'Action']}\\nnonsense\\n")
        ...     file = RecordFile(path, "games", ["id"])
        ...     list(file.each(lambda record: record["tags"])), file.report.bad
        ([(1, ['Action'])], 1)
    """

    def __init__(
        self,
        path: Path | str,
        kind: str,
        required: Collection[str],
        max_bad_lines: int = MAX_BAD_LINES,
        progress: Progress | None = None,
    ) -> None:
        self.path = Path(path)
        self.kind = kind
        self.required = tuple(required)
        self.max_bad_lines = max_bad_lines
        self.progress = progress
        self.report = LineReport()
        self._parse: _Parser | None = None  # settled by the first record
        if not self.path.is_file():
            what = "is a folder, expected a file" if self.path.is_dir() else "does not exist"
            raise DataError(f"{self.path} {what}: expected {kind}")

    def each(self, convert: Callable[[Record], T]) -> Iterator[tuple[int, T]]:
        """The number (from 1) of each usable line, and what ``convert`` makes of its record.

        ``convert`` raises ``BadRecord`` for a record that cannot be used.
        """
        self.report = LineReport()
        for number, raw in self._lines():
            self.report.lines = number
            if raw is not None and not raw.strip():
                continue
            try:
                converted = convert(self._record(raw))
            except BadRecord as why:
                self._count_bad(number, str(why))
                continue
            self.report.usable += 1
            yield number, converted
        if not self.report.usable:
            raise self._another_file()

    def check(self, convert: Callable[[Record], T]) -> None:
        """Read up to the first usable record, so that a wrong file is told before hours go into another.

        Raises:
            DataError: there is none, as in ``each``.
        """
        next(self.each(convert))

    def at(self, numbers: Collection[int], convert: Callable[[Record], T]) -> Iterator[tuple[int, T]]:
        """As ``each``, for lines that it found usable; the others are passed over without being parsed."""
        wanted = frozenset(numbers)
        last = max(wanted, default=0)
        report, self.report = self.report, LineReport()  # these lines were counted before
        try:
            for number, raw in self._lines("texts of ") if wanted else ():
                if number in wanted:
                    try:
                        converted = convert(self._record(raw))
                    except BadRecord as why:
                        raise DataError(
                            f"{self.path} was changed while it was read: line {number} {why}"
                        ) from None
                    yield number, converted
                if number >= last:
                    break
            if self.progress is not None:
                size = self.path.stat().st_size  # what lies behind the last line does not matter
                self.progress("texts of " + self.kind, size, size)
        finally:
            self.report = report

    def _lines(self, doing: str = "") -> Iterator[tuple[int, bytes | None]]:
        """Number and bytes of each line; None for one that is too long."""
        size = self.path.stat().st_size
        number = 0
        try:
            with self.path.open("rb") as file:
                packed = file.read(2) == b"\x1f\x8b"
                file.seek(0)
                stream = _unpacked(file) if packed else file
                while raw := stream.readline(MAX_LINE + 1):
                    number += 1
                    if number == 1:
                        raw = raw.removeprefix(b"\xef\xbb\xbf") or b"\n"
                    if len(raw) > MAX_LINE and not raw.endswith(b"\n"):
                        while (more := stream.readline(MAX_LINE)) and not more.endswith(b"\n"):
                            pass
                        yield number, None
                    else:
                        yield number, raw
                    if self.progress is not None and number % _TICK == 0:
                        self.progress(doing + self.kind, file.tell(), size)
        except EOFError:
            raise DataError(
                f"{self.path} is cut off: the gzip data ends after line {number}; copy or download it again"
            ) from None
        except (OSError, zlib.error) as error:
            raise DataError(f"{self.path} cannot be read after line {number}: {error}") from None
        if self.progress is not None:
            self.progress(doing + self.kind, size, size)

    def _record(self, raw: bytes | None) -> Record:
        if raw is None:
            raise BadRecord(f"longer than {MAX_LINE:,} bytes")
        try:
            text, whole = raw.decode(), True
        except UnicodeDecodeError:
            text, whole = raw.decode(errors="replace"), False
        record = self._parsed(text)
        missing = [key for key in self.required if key not in record]
        if missing:
            there = ", ".join(map(repr, list(record)[:12])) or "no key"
            raise BadRecord(f"lacks {', '.join(map(repr, missing))}; it has {_short(there, 200)}")
        if not whole:
            # Two ids could become one; in a text it does no harm.
            for key in self.required:
                if isinstance(record[key], str) and "\ufffd" in record[key]:
                    raise BadRecord(f"{key!r} has bytes that are not UTF-8")
            self.report.not_utf8 += 1
        return record

    def _parsed(self, text: str) -> Record:
        parsers: tuple[_Parser, ...] = (parse_json, parse_literal) if self._parse is None else (self._parse,)
        for parse in parsers:
            try:
                record = parse(text)
            except (ValueError, RecursionError):
                continue
            if not isinstance(record, dict):
                raise BadRecord(f"expected an object with names, got {_short(text.strip(), 40)!r}")
            if record:
                self._parse = parse
            return record
        forms: dict[_Parser, str] = {
            parse_json: "a JSON object",
            parse_literal: "a dictionary of Python literals",
        }
        expected = " or ".join(forms[parse] for parse in parsers)
        raise BadRecord(f"expected {expected}, got {_short(text.strip(), 40)!r}")

    def _count_bad(self, number: int, why: str) -> None:
        report = self.report
        report.bad += 1
        if len(report.first) < _SHOWN:
            report.first.append((number, why))
        if not report.usable and report.bad >= _TO_TELL:
            raise self._another_file()
        if report.bad > self.max_bad_lines:
            shown = "; ".join(f"line {number}: {why}" for number, why in report.first[:3])
            raise DataError(
                f"{self.path}: more than {self.max_bad_lines:,} of {report.lines:,} lines are no usable "
                f"{self.kind} ({shown}): mend the file, or allow more (--max-bad-lines)"
            )

    def _another_file(self) -> DataError:
        if not self.report.first:
            return DataError(f"{self.path} is empty: expected {self.kind}, one record a line")
        # The reason met most often: a line of rubbish on top must not hide that all others are of another kind.
        (why, _), *_ = Counter(why for _, why in self.report.first).most_common(1)
        number = next(number for number, reason in self.report.first if reason == why)
        return DataError(
            f"{self.path} does not hold {self.kind}: line {number} {why}. Expected one record a line, JSON or "
            f"Python literals, with {', '.join(map(repr, self.required))}: was another file meant?"
        )


def parse_json(text: str) -> Any:
    """One JSON value; ``ValueError`` if it is none. NaN and infinity, which JSON does not know, are refused."""
    return _decode_json(text)


def parse_literal(text: str) -> Any:
    """One value of Python literals: dictionaries with text keys, lists, text, numbers, True, False, None.

    That is what ``repr`` makes of a JSON value in Python 2 (``u'…'``) or 3. Nothing is evaluated, and depth
    and length are the JSON decoder's to bound. Twice as fast as ``ast.literal_eval``, which makes a
    syntax tree of each line.

    Raises:
        ValueError: it is anything else. (``RecursionError`` when nested too deeply.)

    Example:
        >>> parse_literal("{u'name': u'It\\\\'s \\\\u2603', 'tags': [\\"don't\\"], 'free': True}")
        {'name': "It's ☃", 'tags': ["don't"], 'free': True}
    """
    parts = _STRING.split(text)
    outside = "\0".join(parts[::2])
    for python, javascript in _WORDS:
        outside = outside.replace(python, javascript)
    between = outside.split("\0")
    if len(between) != len(parts[::2]):
        raise ValueError("a NUL outside of a string")
    parts[::2] = between
    parts[1::2] = map(_json_string, parts[1::2])
    return _decode_json("".join(parts))


# A string to its closing quote, or to the end of the line where there is none: always a match, and no
# backtracking, so that a line of a million quotes takes no longer than any other.
_STRING = re.compile(
    r"""('[^'\\]*+(?:\\.[^'\\]*+)*+(?:'|\\?\Z)|"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z))""", re.DOTALL
)
# A NUL stands where a string does.
_WORDS = (("u\0", "\0"), ("U\0", "\0"), ("True", "true"), ("False", "false"), ("None", "null"))


def _json_string(token: str) -> str:
    """A Python string literal as a JSON one."""
    quote = token[0]
    if len(token) < 2 or token[-1] != quote:
        raise ValueError("a string without an end")
    if "\\" in token:
        if token.isascii():
            value = token[1:-1].encode().decode("unicode_escape")
        else:  # that codec reads bytes, so an escape could swallow half a character
            value = _literal_string(token)
        return encode_basestring(value)
    if quote == '"':
        return token
    return encode_basestring(token[1:-1]) if '"' in token else f'"{token[1:-1]}"'


def _literal_string(token: str) -> str:
    try:
        value = ast.literal_eval(token)  # a single string: nothing to nest
    except SyntaxError as error:
        raise ValueError(str(error)) from None
    assert isinstance(value, str)  # the token is one quoted string
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


# Not strict: repr leaves a tab or a DEL in a string as it is.
_decode_json = json.JSONDecoder(strict=False, parse_constant=_no_constant).decode


# What one value of a record is. These are for the readers of the single sources.


def identity(record: Record, key: str) -> str:
    """An id as text, also where the source has a number.

    Raises:
        BadRecord: there is none.
    """
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise BadRecord(f"{key!r}: expected an id, got {_shown(value)}")
    return whole(value)


def number(record: Record, key: str) -> float:
    """A finite number.

    Raises:
        BadRecord: it is something else.
    """
    value = record.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            if math.isfinite(value):
                return float(value)
        except OverflowError:
            pass
    raise BadRecord(f"{key!r}: expected a number, got {_shown(value)}")


def seconds(record: Record, key: str) -> float:
    """A date or a date with a time, such as "2018-07-07 22:09:11", as seconds since 1970 (UTC).

    Raises:
        BadRecord: it is something else.
    """
    value = record.get(key)
    try:
        return iso_seconds(cast(str, value))
    except (TypeError, ValueError):
        raise BadRecord(f"{key!r}: expected a date such as 2018-07-07, got {_shown(value)}") from None


def iso_seconds(text: str) -> float:
    """A date of ISO 8601, UTC unless it says otherwise, as seconds since 1970; ``ValueError`` if it is none."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def plain(value: Any) -> str | None:
    """What a value says, as text; of a list the entries, however nested, each once; None for nothing.

    Example:
        >>> plain([["Books", "Crafts, Hobbies & Home"], ["Books", "Sewing"]]), plain(4.5), plain("  ")
        ('Books, Crafts, Hobbies & Home, Sewing', '4.5', None)
    """
    said: dict[str, None] = {}
    waiting = [value]
    while waiting:  # a stack: how deep a list may be nested is a stranger's choice
        entry = waiting.pop()
        if isinstance(entry, list):
            waiting.extend(reversed(entry))
        elif isinstance(entry, str):
            said[whole(entry).strip()] = None
        elif isinstance(entry, int | float) and not isinstance(entry, bool):
            said[f"{entry:.12g}" if isinstance(entry, float) else str(entry)] = None
    return ", ".join(filter(None, said)) or None


def whole(text: str) -> str:
    """Text that UTF-8 can hold: halves of surrogate pairs are joined, lone ones become U+FFFD.

    Example:
        >>> whole("\\ud83d\\ude00"), whole("\\ud83d!")
        ('😀', '\ufffd!')
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:  # the repr of Python 2 spells an emoji as a pair
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    # GzipFile's own readline goes through Python for each line.
    return cast(IO[bytes], io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=file)), 1 << 20))


def _shown(value: Any) -> str:
    simple = value is None or isinstance(value, str | int | float)
    return _short(repr(value), 40) if simple else f"a {type(value).__name__}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
