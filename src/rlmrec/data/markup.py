"""Markup in texts: descriptions of shops often are HTML, whose tags say nothing about an item."""

from __future__ import annotations

import html
import re

import polars as pl

from rlmrec.findings import Finding

_INLINE = "a|abbr|b|em|font|i|small|span|strong|sub|sup|u"
_BLOCKS = "blockquote|br|div|h[1-6]|hr|img|li|ol|p|pre|table|tbody|td|th|thead|tr|ul"
_TAG = rf"</?(?:{_INLINE}|{_BLOCKS})(?:\s[^<>]*)?/?>"
_ENTITY = r"&(?:[A-Za-z]{2,8}|#\d{2,6});"
_IS_MARKUP = rf"(?i){_TAG}|{_ENTITY}"
_BLOCK_TAG = re.compile(rf"</?(?:{_BLOCKS})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_INLINE_TAG = re.compile(rf"</?(?:{_INLINE})(?:\s[^<>]*)?/?>", re.IGNORECASE)


def plain(text: str) -> str:
    """Return a text without tags of HTML, with its entities as characters.

    Example:
        >>> plain("<p>A <b>chair</b> &amp; more</p><p>Oak</p>")
        'A chair & more Oak'
    """
    found = html.unescape(_INLINE_TAG.sub("", _BLOCK_TAG.sub(" ", text)))
    return text if found == text else " ".join(found.split())


def without_markup(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table whose texts have no tags of HTML; one of tags alone is missing."""
    changed = []
    for column in table.select(pl.col(pl.String)):
        if (column.str.contains(_IS_MARKUP)).any():
            changed.append(column.map_elements(lambda text: plain(text) or None, return_dtype=pl.String))
    return table.with_columns(changed)


def check_markup(path: object, table: pl.DataFrame) -> list[Finding]:
    """Find texts that are HTML, which ``without_markup`` makes plain.

    Args:
        path: the file, or the name of the data frame.
        table: its texts.
    """
    count, example = 0, ""
    for column in table.select(pl.col(pl.String)):
        for text in column.filter(column.str.contains(_IS_MARKUP).fill_null(False)):
            if plain(text) != text:
                count += 1
                example = example or repr(text if len(text) <= 60 else f"{text[:60]}…")
    if not count:
        return []
    remedy = "their tags are left out, entities become characters"
    return [Finding("markup", f"texts of {path} are HTML", count, example, remedy, ordinary=True)]
