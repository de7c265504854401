"""Reader for the files of the raw sources: one record per line, JSON or Python literals, plain, gzip or zstd.

Such files are gigabytes of untrusted text. They are streamed, a damaged line is skipped instead of ending the
run, and nothing in them is ever evaluated: a line of Python literals is rewritten as JSON, string by string, and
read by the JSON decoder. A line that the decoder cannot read is malformed.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, TypeVar, cast

from rlmrec.errors import DataError
from rlmrec.findings import Finding

MAX_LINE = 1 << 20  # bytes; the longest lines of the known sources have some ten thousand
MAX_BAD_LINES = 1000
_SHOWN = 10  # bad lines that a report quotes
_HOPELESS = 10  # after this many bad lines without a usable one, the file is taken for the wrong one
_TICK = 1 << 13  # lines between two calls of progress

Record = dict[str, Any]
# Called with the name of the file that is being read, the bytes read so far and the size in bytes.
Progress = Callable[[str, int, int], None]
T = TypeVar("T")
_Parser = Callable[[str], Any]


class BadRecord(ValueError):
    """The reason why a line cannot be used. ``RecordFile`` counts the line and continues."""


@dataclass
class LineReport:
    """Counts of the usable and unusable lines of a file.

    Args:
        lines: lines read, including blank ones.
        usable: usable records.
        bad: unusable lines.
        first: the first unusable lines, as (line number, reason).
        not_utf8: lines with bytes that are not UTF-8; they are used, with U+FFFD for such bytes.
    """

    lines: int = 0
    usable: int = 0
    bad: int = 0
    first: list[tuple[int, str]] = field(default_factory=list)
    not_utf8: int = 0

    def plain(self) -> dict[str, Any]:
        """Return the report as JSON values, for a dataset's provenance."""
        shown = [f"line {number}: {why}" for number, why in self.first]
        return {"lines": self.lines, "bad": self.bad, "first_bad": shown, "not_utf8": self.not_utf8}

    def findings(self, file: str) -> list[Finding]:
        """Return the unusable lines as findings."""
        findings = []
        if self.bad:
            shown = "; ".join(f"line {number}: {why}" for number, why in self.first)
            more = f"; and {self.bad - len(self.first):,} more" if self.bad > len(self.first) else ""
            what = f"of {self.lines:,} lines of {file} skipped"
            findings.append(Finding("bad line", what, self.bad, remedy=f"{shown}{more}"))
        if self.not_utf8:
            what = f"lines of {file} have bytes that are not UTF-8, shown as U+FFFD"
            findings.append(Finding("not UTF-8", what, self.not_utf8))
        return findings


class RecordFile:
    """A file of records, read line by line.

    Args:
        path: the file, plain, gzip or zstd; its first bytes decide, not its name.
        kind: expected content, for messages and the progress bar, for example "Amazon reviews".
        required: keys that every record must have, including those of ids.
        max_bad_lines: maximum number of unusable lines.
        progress: called every few thousand lines with ``kind``, the bytes read and the size in bytes.

    Raises:
        DataError: the file does not exist; while reading: the packed data is damaged or unpacks to far too much, too
            many lines are unusable, or none is usable.

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
        self._parse: _Parser | None = None  # chosen by the first record; a file does not mix the two forms
        if not self.path.is_file():
            what = "is a folder, expected a file" if self.path.is_dir() else "does not exist"
            raise DataError(f"{self.path} {what}: expected {kind}")

    def each(self, convert: Callable[[Record], T]) -> Iterator[tuple[int, T]]:
        """Yield the number (from 1) of each usable line and its record as converted by ``convert``.

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
            raise self._wrong_file()

    def check(self, convert: Callable[[Record], T]) -> None:
        """Read up to the first usable record, so that a wrong file is reported before another is read for hours.

        Raises:
            DataError: there is no usable record, as in ``each``.
        """
        next(self.each(convert))

    def at(self, numbers: Collection[int], convert: Callable[[Record], T]) -> Iterator[tuple[int, T]]:
        """Yield the same as ``each`` for the given lines only, which must be usable; others are not parsed."""
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
                size = self.path.stat().st_size  # lines after the last wanted one are not read
                self.progress("texts of " + self.kind, size, size)
        finally:
            self.report = report

    def _lines(self, doing: str = "") -> Iterator[tuple[int, bytes | None]]:
        """Yield the number and the bytes of each line; None for a line that is too long."""
        from rlmrec.files import unpacked  # here, as help pages must not wait for NumPy

        size = self.path.stat().st_size
        number = 0
        try:
            with self.path.open("rb") as file:
                stream = unpacked(file, self.path)
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
        except OSError as error:
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
            # Replaced bytes could make two ids equal; in a text they do no harm.
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
                raise BadRecord(f"expected an object with keys, got {_short(text.strip(), 40)!r}")
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
        if not report.usable and report.bad >= _HOPELESS:
            raise self._wrong_file()
        if report.bad > self.max_bad_lines:
            shown = "; ".join(f"line {number}: {why}" for number, why in report.first[:3])
            raise DataError(
                f"{self.path}: more than {self.max_bad_lines:,} of {report.lines:,} lines are unusable as "
                f"{self.kind} ({shown}): repair the file, or allow more (--max-bad-lines)"
            )

    def _wrong_file(self) -> DataError:
        if not self.report.first:
            return DataError(f"{self.path} is empty: expected {self.kind}, one record per line")
        # Report the most frequent reason: a damaged first line must not hide what is wrong with all others.
        (why, _), *_ = Counter(why for _, why in self.report.first).most_common(1)
        number = next(number for number, reason in self.report.first if reason == why)
        return DataError(
            f"{self.path} does not contain {self.kind}: line {number} {why}. Expected one record per line, JSON or "
            f"Python literals, with {', '.join(map(repr, self.required))}: is this the right file?"
        )


def parse_json(text: str) -> Any:
    """Parse a JSON value; ``ValueError`` if it is not one. NaN and infinity, which JSON lacks, are refused."""
    return _decode_json(text)


def parse_literal(text: str) -> Any:
    """Parse a Python literal of dictionaries with text keys, lists, text, numbers, True, False and None.

    This is the ``repr`` of a JSON value in Python 2 (``u'…'``) or 3. Nothing is evaluated, and the JSON decoder
    limits depth and length. It is twice as fast as ``ast.literal_eval``, which builds a syntax tree of each line.

    Raises:
        ValueError: the text is anything else.
        RecursionError: it is nested too deeply.

    Example:
        >>> parse_literal("{u'name': u'It\\\\'s \\\\u2603', 'tags': [\\"don't\\"], 'free': True}")
        {'name': "It's ☃", 'tags': ["don't"], 'free': True}
    """
    # Strings are at the odd places. Words such as None are replaced only outside of them.
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


# A string up to its closing quote, or to the end of the line without one. Possessive quantifiers prevent
# backtracking, so a line of a million quotes takes no longer than any other.
_STRING = re.compile(
    r"""('[^'\\]*+(?:\\.[^'\\]*+)*+(?:'|\\?\Z)|"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z))""", re.DOTALL
)
# Python's words and JSON's. A NUL is the place of a string, so "u\0" is the prefix of a string of Python 2.
_WORDS = (("u\0", "\0"), ("U\0", "\0"), ("True", "true"), ("False", "false"), ("None", "null"))


def _json_string(token: str) -> str:
    """Convert a Python string literal to a JSON one."""
    quote = token[0]
    if len(token) < 2 or token[-1] != quote:
        raise ValueError("a string without a closing quote")
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
    raise ValueError(f"{name} is not JSON")


# Not strict: repr leaves a tab or a DEL in a string as it is.
_decode_json = json.JSONDecoder(strict=False, parse_constant=_no_constant).decode


# Conversions of single values, for the readers of the sources.


def identity(record: Record, key: str) -> str:
    """Return an id as text, even if the source has a number.

    Raises:
        BadRecord: there is no id.
    """
    value = record.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise BadRecord(f"{key!r}: expected an id, got {_shown(value)}")
    return whole(value)


def number(record: Record, key: str) -> float:
    """Return a finite number.

    Raises:
        BadRecord: the value is something else.
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
    """Convert a date such as "2018-07-07", with or without a time, to seconds since 1970 (UTC).

    Raises:
        BadRecord: the value is something else.
    """
    value = record.get(key)
    try:
        return iso_seconds(cast(str, value))
    except (TypeError, ValueError):
        raise BadRecord(f"{key!r}: expected a date such as 2018-07-07, got {_shown(value)}") from None


def iso_seconds(text: str) -> float:
    """Convert an ISO 8601 date (UTC unless it names a zone) to seconds since 1970; ``ValueError`` if it is not one."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def plain(value: Any) -> str | None:
    """Convert a value to text; a list, however nested, gives its distinct entries. None if nothing is left.

    Example:
        >>> plain([["Books", "Crafts, Hobbies & Home"], ["Books", "Sewing"]]), plain(4.5), plain("  ")
        ('Books, Crafts, Hobbies & Home, Sewing', '4.5', None)
    """
    texts: dict[str, None] = {}  # a dictionary is a set that keeps the order
    waiting = [value]
    while waiting:  # a stack instead of recursion: the file is untrusted and may nest lists deeply
        entry = waiting.pop()
        if isinstance(entry, list):
            waiting.extend(reversed(entry))
        elif isinstance(entry, str):
            texts[whole(entry).strip()] = None
        elif isinstance(entry, int | float) and not isinstance(entry, bool):
            texts[f"{entry:.12g}" if isinstance(entry, float) else str(entry)] = None
    return ", ".join(filter(None, texts)) or None


def whole(text: str) -> str:
    """Make text that UTF-8 can encode: surrogate pairs are joined, lone halves become U+FFFD.

    Example:
        >>> whole("\\ud83d\\ude00"), whole("\\ud83d!")
        ('😀', '\ufffd!')
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:  # the repr of Python 2 writes an emoji as a surrogate pair
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _shown(value: Any) -> str:
    simple = value is None or isinstance(value, str | int | float)
    return _short(repr(value), 40) if simple else f"a {type(value).__name__}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
