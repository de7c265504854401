"""Amazon's reviews and metadata of one category, as distributed in 2014 or, with the same keys, in 2018.

Reviews: reviewerID, asin, overall (1 to 5), reviewText, summary, unixReviewTime. Metadata: asin, title,
description, categories, brand, price. The reviews are JSON; the metadata are JSON in some files and Python
literals in others. Both contain HTML entities and tags.

Source: R. He and J. McAuley, "Ups and downs", WWW 2016; J. Ni et al., EMNLP 2019 (the form of 2018).
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from rlmrec.data.lines import MAX_BAD_LINES, BadRecord, Progress, Record, identity, number, plain
from rlmrec.data.raw import Format, Review, read_raw
from rlmrec.data.source import Source

# Tags by their names, because "<3" and "if x <y and z> 2" are text that somebody wrote.
HIDDEN = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
BLOCKS = re.compile(
    r"</?(?:br|p|div|hr|h[1-6]|ul|ol|li|dl|dt|dd|table|tbody|thead|tr|td|th|blockquote|center|pre|img)(?:\s[^<>]*|/)?>",
    re.IGNORECASE,
)
INLINE = re.compile(
    r"</?(?:a|abbr|b|big|cite|code|em|font|i|small|span|strike|strong|sub|sup|tt|u)(?:\s[^<>]*|/)?>",
    re.IGNORECASE,
)


def read_amazon(
    *,
    reviews: Path | str,
    meta: Path | str,
    domain: str | None = None,
    max_bad_lines: int = MAX_BAD_LINES,
    progress: Progress | None = None,
) -> Source:
    """Read Amazon's reviews and metadata of a category, as distributed in 2014 or 2018, gzipped or not.

    The item texts are title, description, categories, brand and price.

    Args:
        reviews: File of reviews: reviews_Books.json.gz or another category's.
        meta: File of metadata of the same category: meta_Books.json.gz.
        domain: Wording of the prompts; by default books if the name of the file of reviews contains "book", else
            general.
        max_bad_lines: Unusable lines of a file that are skipped; one more is an error.
        progress: called with the name of the file that is being read, the bytes read and its size in bytes.

    Raises:
        DataError: a file is missing or cannot be used.
    """
    domain = domain or (AMAZON.domain if "book" in Path(reviews).name.lower() else "general")
    return read_raw(AMAZON, reviews, meta, domain=domain, max_bad_lines=max_bad_lines, progress=progress)


def _review(record: Record) -> Review:
    return Review(
        identity(record, "reviewerID"),
        identity(record, "asin"),
        number(record, "overall"),
        number(record, "unixReviewTime"),
    )


def _review_text(record: Record) -> str | None:
    """Return the review, or its headline where it has no text."""
    return _text(record.get("reviewText")) or _text(record.get("summary"))


def _item_id(record: Record) -> str:
    if "reviewerID" in record:
        raise BadRecord("is a review, not a record of metadata")
    return identity(record, "asin")


def _item_texts(record: Record) -> tuple[str | None, ...]:
    description = record.get("description")
    if isinstance(description, list):  # 2018: a list of paragraphs
        description = " ".join(filter(None, map(plain, description)))
    return (
        _text(record.get("title")),
        _text(description),
        _text(record.get("categories", record.get("category"))),
        _text(record.get("brand")),
        _text(record.get("price")),
    )


def _text(value: Any) -> str | None:
    """Return a value as text without HTML; tags may be written with entities themselves."""
    text = plain(value)
    if text is not None and "&" in text:
        text = html.unescape(text).strip()
    if text is not None and "<" in text:
        text = INLINE.sub("", BLOCKS.sub(" ", HIDDEN.sub(" ", text)))
        text = " ".join(text.split())
    return text or None


AMAZON = Format(
    name="amazon",
    domain="books",
    rated=True,
    review_keys=("reviewerID", "asin", "overall", "unixReviewTime"),
    item_keys=("asin",),
    review=_review,
    review_text=_review_text,
    item_id=_item_id,
    item_texts=_item_texts,
    columns=("title", "description", "categories", "brand", "price"),
)
