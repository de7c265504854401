"""Markup in texts: descriptions of shops often are HTML, whose tags say nothing about an item."""

from __future__ import annotations

import html
import re
from html.entities import html5

import polars as pl

from rlmrec.findings import Finding, by_number

_INLINE = "a|abbr|b|code|del|em|font|i|ins|s|small|span|strike|strong|sub|sup|u"
_BLOCKS = (
    "article|blockquote|body|br|center|dd|div|dl|dt|h[1-6]|head|hr|html|img|li|ol|p|pre|section|table|tbody|td|tfoot|"
    "th|thead|tr|ul"
)
# An attribute has a value, or is one of the few that need none: "a <b and c>d" compares numbers. No pattern reads on
# beyond the next beginning of what it looks for, so that the time is linear.
_ATTRIBUTE = r"""\s+(?:[\w:-]+\s*=\s*(?:"[^"<]*"|'[^'<]*'|[^\s<>"'][^\s<>]*)|compact|hidden|nowrap|noshade)"""
_REST = rf"(?:{_ATTRIBUTE})*\s*/?>"
_BLOCK = re.compile(
    rf"<!--(?:(?!<!--).)*?-->|<(script|style)\b[^<>]*>(?:(?!<\1\b).)*?</\1\s*>|</?(?:{_BLOCKS}){_REST}",
    re.IGNORECASE | re.DOTALL,
)
_INLINE_TAG = re.compile(rf"</?(?:{_INLINE}){_REST}", re.IGNORECASE)
# Only with its semicolon: the parameters of "?lang=en&region=us" begin as entities do.
_ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]{1,30}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});")
_MAY_BE_MARKUP = r"<[A-Za-z/!]|&[A-Za-z#]"  # quick, to call Python for few texts


def plain(text: str) -> str:
    """Return a text without tags of HTML, with its entities as characters.

    Tags that are written with entities, as in exports that escape twice, are left out too.

    Example:
        >>> plain("<p>A <b>chair</b> &amp; more</p>&lt;p&gt;Oak")
        'A chair & more Oak'
    """
    found = text
    for _ in range(2):
        found = _ENTITY.sub(_character, _without_tags(found))
    found = _without_tags(found)
    return text if found == text else " ".join(found.split())


def _without_tags(text: str) -> str:
    return _INLINE_TAG.sub("", _BLOCK.sub(" ", text))


def _character(entity: re.Match[str]) -> str:
    name = entity[0][1:]
    return html.unescape(entity[0]) if name.startswith("#") else html5.get(name, entity[0])


def without_markup(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table whose texts have no tags of HTML; one of tags alone is missing."""
    changed = []
    for column in table.select(pl.col(pl.String)):
        if column.str.contains(_MAY_BE_MARKUP).any():
            changed.append(column.map_elements(_plain_or_none, return_dtype=pl.String))
    return table.with_columns(changed)


def _plain_or_none(text: str) -> str | None:
    found = plain(text)
    return text if found == text else found or None


def check_markup(path: object, table: pl.DataFrame) -> list[Finding]:
    """Find texts that are HTML, which ``without_markup`` makes plain.

    Args:
        path: the file, or the name of the data frame.
        table: its texts.
    """
    count, example = 0, ""
    for column in table.select(pl.col(pl.String)):
        for text in column.filter(column.str.contains(_MAY_BE_MARKUP).fill_null(False)):
            if plain(text) != text:
                count += 1
                example = example or repr(text if len(text) <= 60 else f"{text[:60]}…")
    if not count:
        return []
    remedy = "their tags are left out, entities become characters"
    what = by_number(count, f"text of {path} is HTML", f"texts of {path} are HTML")
    return [Finding("markup", what, count, example, remedy, ordinary=True)]
