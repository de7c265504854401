"""Conditions in SQL that compare columns of dates with dates instead of with text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime, time
from typing import NamedTuple

import polars as pl

from rlmrec.data.times import read_times
from rlmrec.errors import ConfigError

DATE = r"\d{4}-\d{2}-\d{2}"
EXPECTED = "a date or a time such as '2026-10-15' or '2026-10-15 12:00'"
_ISO = rf"^{DATE}(?:[ T]\d{{2}}:\d{{2}}(?::\d{{2}}(?:\.\d{{1,9}})?)?(?: ?Z|[+-]\d{{2}}:?\d{{2}})?)?$"
_TOKEN = re.compile(
    rf"\s+|--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|{DATE}\b|\d+(?:\.\d+)?|[^\W\d]\w*"
    r"|<=|>=|<>|!=|==|::|.",
    re.DOTALL,
)
_COMPARE = {"=", "==", "<", "<=", ">", ">=", "!=", "<>"}
_TYPES = {"date": pl.Date(), "datetime": pl.Datetime("us"), "timestamp": pl.Datetime("us")}


def as_dates(column: pl.Series) -> pl.Series | None:
    """Return a column of text as dates, or as times (UTC); None unless all its values are such, as ISO 8601."""
    if column.dtype != pl.String or not column.count():
        return None
    values = column.str.strip_chars()
    known = values.is_not_null() & (values != "")
    written = values.filter(known)
    if not len(written) or not written.str.contains(_ISO).all():
        return None
    moments = _moments(written)
    if moments is None:
        return None
    if written.str.contains(rf"^{DATE}$").all():
        moments = moments.cast(pl.Date)
    empty = pl.Series(column.name, [], dtype=moments.dtype).extend_constant(None, len(column))
    return empty.scatter(known.fill_null(False).arg_true(), moments)


def with_dates(where: str, columns: Mapping[str, pl.DataType]) -> str:
    """Return a condition in which columns of dates are compared with dates.

    What is written as a text ('2026-10-15'), or as a date without quotation marks, becomes one. A pattern (LIKE) is
    compared with the date as text.

    Args:
        where: an SQL condition.
        columns: the types of all columns; those of dates and of times count.

    Raises:
        ConfigError: a column of dates is compared with something else.
    """
    tokens = [found[0] for found in _TOKEN.finditer(where)]
    words = [
        place for place, token in enumerate(tokens) if not token.isspace() and token[:2] not in ("--", "/*")
    ]
    text = [tokens[place] for place in words]
    changed = list(tokens)
    for operand in _operands(text, columns):
        for first, last in _compared(text, operand):
            name, written = (
                "".join(tokens[words[start] : words[end] + 1]) for start, end in (operand[:2], (first, last))
            )
            changed[words[first]] = _literal(where, name, written, text[last], operand)
            for place in range(first + 1, last + 1):
                changed[words[place]] = ""
        if _is_pattern(text, operand):
            changed[words[operand.first]] = f"cast({changed[words[operand.first]]}"
            changed[words[operand.last]] += " as text)"
    return "".join(changed)


def flat_name(where: str) -> str | None:
    """Return the first name with points in a condition, such as ``meta.tags.name``; None without one."""
    bare = re.sub(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"", "''", where)
    found = re.search(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+", bare)
    return None if found is None else found[0]


class _Operand(NamedTuple):
    """Words of a condition, from the first to the last, whose value is a date or a time."""

    first: int
    last: int
    type: pl.DataType


def _operands(words: list[str], columns: Mapping[str, pl.DataType]) -> Iterator[_Operand]:
    """Yield columns of dates and casts to a date."""
    place = 0
    while place < len(words):
        end, kind = place, columns.get(words[place].strip('"`'))
        following = words[place + 1] if place + 1 < len(words) else ""
        if words[place].lower() in ("cast", "try_cast") and following == "(":
            last = _closing(words, place + 1)
            kind = _TYPES.get(words[last - 1].lower()) if words[last - 2].lower() == "as" else None
            end = place if kind is None else last  # inside of another cast there may be comparisons
        if words[end + 1 : end + 2] == ["::"] and end + 2 < len(words):
            end, kind = end + 2, _TYPES.get(words[end + 2].lower())
        is_name = (not words[place].startswith("'") and following not in ("(", ".")) or end > place
        if kind is not None and kind.is_temporal() and is_name and words[place - 1 : place] != ["."]:
            yield _Operand(place, end, kind)
        place = end + 1


def _closing(words: list[str], opening: int) -> int:
    depth = 0
    for place in range(opening, len(words)):
        depth += (words[place] == "(") - (words[place] == ")")
        if not depth:
            return place
    return len(words) - 1


def _compared(words: list[str], operand: _Operand) -> Iterator[tuple[int, int]]:
    """Yield the first and the last word of each literal that an operand is compared with."""
    after = operand.last + 1
    if words[after : after + 1] and words[after].lower() == "not":
        after += 1
    sign = words[after].lower() if after < len(words) else ""
    if sign in _COMPARE:
        yield from _literals(words, after + 1, 1, "")
    elif sign == "between":
        yield from _literals(words, after + 1, 2, "and")
    elif sign == "in" and words[after + 1 : after + 2] == ["("]:
        yield from _literals(words, after + 2, len(words), ",")
    before = operand.first - 1
    if before >= 1 and words[before] in _COMPARE and _is_literal(words[before - 1]):
        typed = before >= 2 and words[before - 2].lower() in _TYPES
        yield before - 1 - typed, before - 1


def _literals(words: list[str], place: int, count: int, separator: str) -> Iterator[tuple[int, int]]:
    """Yield at most ``count`` literals from a place on, each with the word DATE or TIMESTAMP or the sign before it."""
    for _ in range(count):
        if place >= len(words):
            return
        following = words[place + 1] if place + 1 < len(words) else ""
        typed = words[place].lower() in _TYPES and following.startswith("'")
        signed = words[place] in ("-", "+") and following[:1].isdigit()
        last = place + (typed or signed)
        if last >= len(words) or not _is_literal(words[last]):
            return
        yield place, last
        if words[last + 1 : last + 2] and words[last + 1].lower() == separator:
            place = last + 2
        else:
            return


def _is_literal(word: str) -> bool:
    return word.startswith("'") or word[:1].isdigit()


def _is_pattern(words: list[str], operand: _Operand) -> bool:
    after = [word.lower() for word in words[operand.last + 1 : operand.last + 3]]
    return after[:1] in (["like"], ["ilike"]) or after in (["not", "like"], ["not", "ilike"])


def _literal(where: str, name: str, written: str, literal: str, operand: _Operand) -> str:
    """Return a text or a number as a date or a time in SQL; ``written`` has what stands before it."""
    text = literal.strip("'").strip()
    is_number = written[0] in "-+" or text.isdigit()
    moments = None if is_number or not text else _moments(pl.Series([text], dtype=pl.String))
    if moments is None:
        missing = "" if text else f", or '{name} is null' for the items without one"
        raise ConfigError(
            f"filter {where!r}: {name} is compared with {written}, but holds "
            f"{'dates' if operand.type == pl.Date else 'dates with times'}: expected {EXPECTED}{missing}"
        )
    moment: datetime = moments[0]
    if operand.type == pl.Date and moment.time() == time():
        return f"date '{moment.date().isoformat()}'"
    return f"timestamp '{moment.isoformat(' ')}'"


def _moments(texts: pl.Series) -> pl.Series | None:
    """Return texts as times (UTC); None unless all of them are such, of the years 1 to 9999."""
    seconds = read_times(texts).seconds
    if seconds is None:
        return None
    found = pl.Series((seconds * 1e6).round()).cast(pl.Int64).cast(pl.Datetime("us"))
    return found if found.dt.year().is_between(1, 9999).all() else None
