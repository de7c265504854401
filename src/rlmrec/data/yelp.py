"""The Yelp academic dataset: yelp_academic_dataset_review.json and yelp_academic_dataset_business.json.

Reviews: user_id, business_id, stars, date, text. Businesses: business_id, name, city, state, categories,
attributes. Their stars and numbers of reviews are left out, and so is yelp_academic_dataset_user.json: what
they count includes the held-out reviews.

Source: https://www.yelp.com/dataset (the paper: the edition of 2022).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rlmrec.data.dataset import Dataset
from rlmrec.data.lines import (
    MAX_BAD_LINES,
    Progress,
    Record,
    identity,
    number,
    parse_literal,
    plain,
    seconds,
)  # fmt: skip
from rlmrec.data.raw import Format, Review, build
from rlmrec.errors import DataError

_PREFIXES = ("yelp_academic_dataset_", "")
_ENDINGS = (".json", ".json.gz")


def read_yelp(
    folder: Path | str,
    *,
    domain: str = "businesses",
    min_rating: float | None = 3,
    max_bad_lines: int = MAX_BAD_LINES,
    progress: Progress | None = None,
    **options: Any,
) -> Dataset:
    """Make a dataset of Yelp's reviews and businesses.

    Args:
        folder: holds the two files, plain or gzipped.
        domain: whose words the prompts use.
        min_rating: keep reviews of at least so many stars; None keeps all.
        max_bad_lines: most unusable lines of a file; they are counted and skipped.
        progress: called with what is being read, the bytes read and the bytes in all.
        options: the others of ``Dataset.build``: period, sample_users, k_core, split, seed.

    Returns:
        a dataset with the item texts title, city, state, categories and attributes, and reviews.

    Raises:
        DataError: a file is missing; as ``rlmrec.data.raw.build``.
    """
    return build(
        YELP, *yelp_files(folder), domain=domain, min_rating=min_rating,
        max_bad_lines=max_bad_lines, progress=progress, **options,
    )  # fmt: skip


def yelp_files(folder: Path | str) -> tuple[Path, Path]:
    """The files of reviews and of businesses in a folder.

    Raises:
        DataError: one is missing.
    """
    folder = Path(folder)
    found = []
    for kind in ("review", "business"):
        names = [f"{prefix}{kind}{ending}" for prefix in _PREFIXES for ending in _ENDINGS]
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            raise DataError(f"{folder} holds no {names[0]}: pass the folder of the unpacked Yelp dataset")
        found.append(path)
    return found[0], found[1]


def _review(record: Record) -> Review:
    return Review(
        identity(record, "user_id"),
        identity(record, "business_id"),
        number(record, "stars"),
        seconds(record, "date"),
    )


def _review_text(record: Record) -> str | None:
    return plain(record.get("text"))


def _item_id(record: Record) -> str:
    return identity(record, "business_id")


def _item_texts(record: Record) -> tuple[str | None, ...]:
    return (
        plain(record.get("name")),
        plain(record.get("city")),
        plain(record.get("state")),
        plain(record.get("categories")),
        _attributes(record.get("attributes")),
    )


def _attributes(value: Any) -> str | None:
    """What a business has: {"WiFi": "u'free'", "BikeParking": "True"} is "wifi: free; bike parking"."""
    if not isinstance(value, dict):
        return plain(value)
    said = []
    for name, entry in value.items():
        entry = _literal(entry)
        if isinstance(entry, dict):
            entry = [_words(inner) for inner, there in entry.items() if there is True]
        told = plain(entry)
        if entry is True:
            said.append(_words(name))
        elif told is not None and told not in ("no", "none"):
            said.append(f"{_words(name)}: {told}")
    return "; ".join(said) or None


def _literal(value: Any) -> Any:
    """Yelp's attributes are Python literals within JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return parse_literal(value)
    except (ValueError, RecursionError):
        return value


def _words(name: str) -> str:
    """ "BusinessAcceptsCreditCards" as words."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.replace("WiFi", "Wifi")).replace("_", " ").lower()


YELP = Format(
    name="yelp",
    domain="businesses",
    rated=True,
    review_keys=("user_id", "business_id", "stars", "date"),
    item_keys=("business_id", "name"),
    review=_review,
    review_text=_review_text,
    item_id=_item_id,
    item_texts=_item_texts,
    columns=("title", "city", "state", "categories", "attributes"),
)
