"""Amazon's reviews and metadata of one category, as distributed in 2014 (and, alike in what counts, 2018).

Reviews: reviewerID, asin, overall (1 to 5), reviewText, summary, unixReviewTime. Metadata: asin, title,
description, categories, brand, price. The reviews are JSON; of the metadata there are strict JSON files and
files of Python literals. Both hold HTML entities and tags.

Source: R. He and J. McAuley, "Ups and downs", WWW 2016; J. Ni et al., EMNLP 2019 (the form of 2018).
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from rlmrec.data.dataset import Dataset
from rlmrec.data.lines import MAX_BAD_LINES, BadRecord, Progress, Record, identity, number, plain
from rlmrec.data.raw import Format, Review, build

# Tags by their names: "<3" and "if x <y and z> 2" are what somebody wrote.
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
    reviews: Path | str,
    meta: Path | str,
    *,
    domain: str = "books",
    min_rating: float | None = 3,
    max_bad_lines: int = MAX_BAD_LINES,
    progress: Progress | None = None,
    **options: Any,
) -> Dataset:
    """Make a dataset of Amazon's reviews and metadata (the paper: Books of 2014).

    Args:
        reviews: for example reviews_Books.json.gz.
        meta: for example meta_Books.json.gz.
        domain: of the category; "books" by default.
        min_rating: keep ratings of at least this; None keeps all.
        max_bad_lines: most unusable lines of a file; they are counted and skipped.
        progress: called with what is being read, the bytes read and the bytes in all.
        options: the others of ``Dataset.build``: period, sample_users, k_core, split, seed.

    Returns:
        a dataset with the item texts title, description, categories, brand and price, and reviews.

    Raises:
        DataError: as ``rlmrec.data.raw.build``.
    """
    return build(
        AMAZON, reviews, meta, domain=domain, min_rating=min_rating,
        max_bad_lines=max_bad_lines, progress=progress, **options,
    )  # fmt: skip


def _review(record: Record) -> Review:
    return Review(
        identity(record, "reviewerID"),
        identity(record, "asin"),
        number(record, "overall"),
        number(record, "unixReviewTime"),
    )


def _review_text(record: Record) -> str | None:
    """The review; its headline where there is nothing below it."""
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
    """What a value says, without HTML; tags may be written with entities themselves."""
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
