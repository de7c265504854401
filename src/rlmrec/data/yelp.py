"""The Yelp academic dataset: yelp_academic_dataset_review.json and yelp_academic_dataset_business.json.

Reviews: user_id, business_id, stars, date, text. Businesses: business_id, name, city, state, categories,
attributes. Their stars and numbers of reviews are left out, and so is yelp_academic_dataset_user.json: they
count held-out reviews, too.

Source: https://www.yelp.com/dataset (the paper: the edition of 2022).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

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
from rlmrec.data.raw import Format, Review, read_raw
from rlmrec.data.source import Source
from rlmrec.errors import DataError

_PREFIXES = ("yelp_academic_dataset_", "")
_ENDINGS = (".json", ".json.gz")


def read_yelp(
    folder: Path | str,
    *,
    domain: str = "businesses",
    max_bad_lines: int = MAX_BAD_LINES,
    progress: Progress | None = None,
) -> Source:
    """Read the Yelp academic dataset, unpacked.

    The item texts are title, city, state, categories and attributes.

    Args:
        folder: Folder with yelp_academic_dataset_review.json and yelp_academic_dataset_business.json, gzipped or
            not.
        domain: Wording of the prompts.
        max_bad_lines: Unusable lines of a file that are skipped; one more is an error.
        progress: called with the name of the file that is being read, the bytes read and its size in bytes.

    Raises:
        DataError: a file is missing or cannot be used.
    """
    return read_raw(YELP, *yelp_files(folder), domain=domain, max_bad_lines=max_bad_lines, progress=progress)


def yelp_files(folder: Path | str) -> tuple[Path, Path]:
    """Return the files of reviews and of businesses in a folder.

    Raises:
        DataError: one is missing.
    """
    folder = Path(folder)
    found = []
    for kind in ("review", "business"):
        names = [f"{prefix}{kind}{ending}" for prefix in _PREFIXES for ending in _ENDINGS]
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            raise DataError(f"{folder} has no {names[0]}: give the folder of the unpacked Yelp dataset")
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
    """Format attributes: {"WiFi": "u'free'", "BikeParking": "True"} gives "wifi: free; bike parking"."""
    if not isinstance(value, dict):
        return plain(value)
    parts = []
    for name, entry in value.items():
        entry = _literal(entry)
        if isinstance(entry, dict):
            entry = [_words(inner) for inner, there in entry.items() if there is True]
        text = plain(entry)
        if entry is True:
            parts.append(_words(name))
        elif text is not None and text not in ("no", "none"):
            parts.append(f"{_words(name)}: {text}")
    return "; ".join(parts) or None


def _literal(value: Any) -> Any:
    """Parse an attribute: Yelp writes Python literals in JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return parse_literal(value)
    except (ValueError, RecursionError):
        return value


def _words(name: str) -> str:
    """Split a name such as "BusinessAcceptsCreditCards" into words."""
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
