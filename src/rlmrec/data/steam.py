"""Steam's reviews and games: steam_reviews.json.gz and steam_games.json.gz, files of Python literals.

Reviews: username, product_id, text, date, hours; no rating, so every review counts as an interaction.
Games: id, app_name, title, genres, tags, specs, developer, publisher, release_date, price. What players
think of a game on the whole (sentiment, metascore) is left out: held-out reviews are part of it.

Source: W.-C. Kang and J. McAuley, "Self-attentive sequential recommendation", ICDM 2018.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rlmrec.data.dataset import Dataset
from rlmrec.data.lines import MAX_BAD_LINES, Progress, Record, identity, plain, seconds
from rlmrec.data.raw import Format, Review, build


def read_steam(
    reviews: Path | str,
    games: Path | str,
    *,
    domain: str = "games",
    max_bad_lines: int = MAX_BAD_LINES,
    progress: Progress | None = None,
    **options: Any,
) -> Dataset:
    """Make a dataset of Steam's reviews and games.

    Args:
        reviews: steam_reviews.json.gz; a user is known by their name, as in the paper.
        games: steam_games.json.gz.
        domain: whose words the prompts use.
        max_bad_lines: most unusable lines of a file; they are counted and skipped.
        progress: called with what is being read, the bytes read and the bytes in all.
        options: those of ``Dataset.build``: period, sample_users, k_core, split, seed; there are no ratings.

    Returns:
        a dataset with the item texts title, genres, tags, developer, publisher, specs, year and price, and
        reviews.

    Raises:
        DataError: as ``rlmrec.data.raw.build``.
    """
    return build(
        STEAM, reviews, games, domain=domain, max_bad_lines=max_bad_lines, progress=progress, **options
    )


def _review(record: Record) -> Review:
    return Review(identity(record, "username"), identity(record, "product_id"), 0.0, seconds(record, "date"))


def _review_text(record: Record) -> str | None:
    return plain(record.get("text"))


def _item_id(record: Record) -> str:
    return identity(record, "id")


def _item_texts(record: Record) -> tuple[str | None, ...]:
    year = re.search(r"\b(19|20)\d\d\b", plain(record.get("release_date")) or "")
    return (
        plain(record.get("app_name")) or plain(record.get("title")),
        *(plain(record.get(name)) for name in ("genres", "tags", "developer", "publisher", "specs")),
        year[0] if year else None,
        plain(record.get("price")),
    )


STEAM = Format(
    name="steam",
    domain="games",
    rated=False,
    review_keys=("username", "product_id", "date"),
    item_keys=("id",),
    review=_review,
    review_text=_review_text,
    item_id=_item_id,
    item_texts=_item_texts,
    columns=("title", "genres", "tags", "developer", "publisher", "specs", "year", "price"),
)
