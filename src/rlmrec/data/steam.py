"""Steam's reviews and games: steam_reviews.json.gz and steam_games.json.gz, files of Python literals.

Reviews: username, product_id, text, date, hours; no rating, so every review counts as an interaction.
Games: id, app_name, title, genres, tags, specs, developer, publisher, release_date, price. Summaries
of the players' opinions (sentiment, metascore) are left out, since they contain held-out reviews.

Source: W.-C. Kang and J. McAuley, "Self-attentive sequential recommendation", ICDM 2018.
"""

from __future__ import annotations

import re
from pathlib import Path

from rlmrec.data.lines import MAX_BAD_LINES, Progress, Record, identity, plain, seconds
from rlmrec.data.raw import Format, Review, read_raw
from rlmrec.data.source import Source


def read_steam(
    *,
    reviews: Path | str,
    games: Path | str,
    domain: str = "games",
    max_bad_lines: int = MAX_BAD_LINES,
    progress: Progress | None = None,
) -> Source:
    """Read Steam's reviews and games, gzipped or not. There are no ratings: every review is an interaction.

    Users are identified by their names, as in the paper. The item texts are title, genres, tags, developer,
    publisher, specs, year and price.

    Args:
        reviews: File of reviews: steam_reviews.json.gz.
        games: File of games: steam_games.json.gz.
        domain: Wording of the prompts.
        max_bad_lines: Unusable lines of a file that are skipped; one more is an error.
        progress: called with the name of the file that is being read, the bytes read and its size in bytes.

    Raises:
        DataError: a file is missing or cannot be used.
    """
    return read_raw(STEAM, reviews, games, domain=domain, max_bad_lines=max_bad_lines, progress=progress)


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
