"""From the files that a source distributes, reviews and items, to a dataset with texts (Section 4.1.1).

The reviews are read twice. The first time only who, what, how many stars and when are kept, in columns of 28
bytes an interaction; that decides which users and items remain. The second time the reviews that remain, a
few per cent of the file, are taken by their line numbers. So memory holds the texts of the dataset and not
those of the source. An interaction's ``id`` is the number of its line in the file of reviews.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from rlmrec.data.dataset import SPLITS, Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.lines import MAX_BAD_LINES, Progress, Record, RecordFile
from rlmrec.data.vocabulary import RawId, Vocabulary
from rlmrec.errors import DataError


class Review(NamedTuple):
    """Who reviewed what: raw ids as text; the rating (0 in a source without) and seconds since 1970."""

    user: str
    item: str
    rating: float
    time: float


@dataclass(frozen=True)
class Format:
    """How one source writes its reviews and items. The functions raise ``BadRecord`` for what they cannot use.

    Args:
        name: of the source, for example "amazon".
        domain: whose words the prompts use, unless the reader is told another.
        rated: whether reviews have ratings.
        review_keys: what each record of the file of reviews has.
        item_keys: likewise of the file of items.
        review: the interaction that a record of the reviews is.
        review_text: its text, None where it has none.
        item_id: the raw id of a record of the items.
        item_texts: its texts, a value (or None) for each of ``columns``.
        columns: names of the texts; "title" and "description" mean something to the prompts.
    """

    name: str
    domain: str
    rated: bool
    review_keys: tuple[str, ...]
    item_keys: tuple[str, ...]
    review: Callable[[Record], Review]
    review_text: Callable[[Record], str | None]
    item_id: Callable[[Record], str]
    item_texts: Callable[[Record], tuple[str | None, ...]]
    columns: tuple[str, ...]

    def reviews(self, path: Path | str, max_bad_lines: int, progress: Progress | None) -> RecordFile:
        """The file of reviews."""
        kind = f"{self.name.capitalize()} reviews"
        return RecordFile(path, kind, self.review_keys, max_bad_lines, progress)

    def items(self, path: Path | str, max_bad_lines: int, progress: Progress | None) -> RecordFile:
        """The file of items."""
        kind = f"{self.name.capitalize()} items"
        return RecordFile(path, kind, self.item_keys, max_bad_lines, progress)


def build(
    source: Format,
    reviews: Path | str,
    items: Path | str,
    *,
    domain: str | None = None,
    max_bad_lines: int = MAX_BAD_LINES,
    progress: Progress | None = None,
    **options: Any,
) -> Dataset:
    """Read, filter, sample, reduce, split, and add the texts.

    Args:
        source: how the files are written.
        reviews: the file of reviews.
        items: the file of items.
        domain: noted in the provenance, for the prompts; the source's own by default.
        max_bad_lines: most lines of a file that may be unusable.
        progress: called with what is being read, the bytes read and the bytes in all.
        options: those of ``Dataset.build``: min_rating, period, sample_users, k_core, split, seed.

    Returns:
        a dataset with item texts and reviews; the provenance says what became of the lines and how many
        items and reviews have texts.

    Raises:
        DataError: a file is not what it must be, or nothing is left of it.
    """
    file = source.reviews(reviews, max_bad_lines, progress)
    catalogue = source.items(items, max_bad_lines, progress)
    catalogue.check(source.item_id)
    interactions, users, articles = _interactions(source, file)
    provenance = {
        "source": source.name,
        "domain": domain or source.domain,
        "files": {"reviews": Path(reviews).name, "items": Path(items).name},
        "lines": {"reviews": file.report.plain()},
    }
    dataset = Dataset.build(source.name, interactions, users, articles, provenance=provenance, **options)
    del interactions, users, articles
    kept = [number for part in _parts(dataset) for number in _ids(part)]
    texts = {line: text for line, text in file.at(kept, source.review_text) if text is not None}
    dataset = _with_reviews(dataset, texts)
    return _with_items(dataset, source, catalogue)


@dataclass(frozen=True)
class Matched:
    """How much of a dataset was found in raw files.

    Args:
        items: I, all items.
        items_found: those with a record.
        interactions: all interactions.
        interactions_found: those with a review of the same user and item.
        reviews: those whose review has a text.
    """

    items: int
    items_found: int
    interactions: int
    interactions_found: int
    reviews: int


def add_texts(
    source: Format,
    dataset: Dataset,
    reviews: Path | str,
    items: Path | str,
    *,
    min_rating: float | None = 3,
    domain: str | None = None,
    max_bad_lines: int = MAX_BAD_LINES,
    progress: Progress | None = None,
) -> tuple[Dataset, Matched]:
    """Give a dataset that has raw ids and a split already the texts of raw files.

    Args:
        source: how the files are written.
        dataset: with the source's ids; its splits and interaction ids stay as they are, its item texts are
            replaced.
        reviews: the file of reviews; of several by one user about one item the latest counts.
        items: the file of items.
        min_rating: reviews with fewer stars are passed over, as they were when the dataset was made; of no
            effect in a source without ratings.
        domain, max_bad_lines, progress: as in ``build``.

    Returns:
        the dataset with texts, and how much of it was found.

    Raises:
        DataError: a file is not what it must be, or holds not one of the dataset's interactions or items.
    """
    file = source.reviews(reviews, max_bad_lines, progress)
    catalogue = source.items(items, max_bad_lines, progress)
    catalogue.check(source.item_id)
    ids = {
        key: number
        for part in _parts(dataset)
        for key, number in zip(part.keys().tolist(), _ids(part), strict=True)
    }
    user_rows, item_rows = _rows(dataset.users), _rows(dataset.items)
    latest: dict[int, tuple[float, str | None]] = {}
    for _, (review, record) in file.each(lambda record: (source.review(record), record)):
        user, item = user_rows.get(review.user), item_rows.get(review.item)
        if user is None or item is None or (key := user * dataset.n_items + item) not in ids:
            continue
        if source.rated and min_rating is not None and review.rating < min_rating:
            continue
        if key not in latest or review.time >= latest[key][0]:
            latest[key] = (review.time, source.review_text(record))
    if not latest:
        raise DataError(
            f"{file.path} holds no review of the dataset's {len(ids):,} interactions: its users are called like "
            f"{dataset.users.id(0)!r}, its items like {dataset.items.id(0)!r}. Are mappers and reviews of one source?"
        )
    texts = {ids[key]: text for key, (_, text) in latest.items() if text is not None}
    provenance = {
        **dataset.provenance,
        "texts_source": source.name,
        "domain": domain or source.domain,
        "lines": {"reviews": file.report.plain()},
    }
    dataset = _with_reviews(replace(dataset, item_texts=None, provenance=provenance), texts)
    dataset = _with_items(dataset, source, catalogue)
    found = dataset.provenance["texts"]["items found"]
    return dataset, Matched(dataset.n_items, found, len(ids), len(latest), len(texts))


def _interactions(source: Format, file: RecordFile) -> tuple[Interactions, Vocabulary, Vocabulary]:
    """Pass one: no text is kept. Rows are numbered in the order of the file."""
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    user_rows, item_rows, lines = array("i"), array("i"), array("i")
    ratings, times = array("d"), array("d")
    for line, review in file.each(source.review):
        user_rows.append(users.setdefault(review.user, len(users)))
        item_rows.append(items.setdefault(review.item, len(items)))
        ratings.append(review.rating)
        times.append(review.time)
        lines.append(line)
    interactions = Interactions(
        np.frombuffer(user_rows, np.int32), np.frombuffer(item_rows, np.int32), len(users), len(items),
        np.frombuffer(ratings, np.float64) if source.rated else None,
        np.frombuffer(times, np.float64),
        id=np.frombuffer(lines, np.int32).astype(np.int64),
    )  # fmt: skip
    return interactions, _vocabulary(users, "user"), _vocabulary(items, "item")


def _vocabulary(rows: dict[str, int], kind: str) -> Vocabulary:
    ids = list(rows)
    rows.clear()  # the vocabulary makes its own, and there are millions
    return Vocabulary(ids, kind)


def _ids(part: Interactions) -> list[int]:
    assert part.id is not None  # set by Interactions
    numbers: list[int] = part.id.tolist()
    return numbers


def _parts(dataset: Dataset) -> list[Interactions]:
    return [dataset.split(name) for name in SPLITS]


def _with_reviews(dataset: Dataset, texts: dict[int, str]) -> Dataset:
    """The dataset with the reviews of these interaction ids."""

    def told(part: Interactions) -> Interactions:
        return replace(part, review=np.array([texts.get(number) for number in _ids(part)], object))

    train, valid, test = map(told, _parts(dataset))
    return replace(dataset, train=train, valid=valid, test=test)


def _rows(vocabulary: Vocabulary) -> dict[str, int]:
    """Rows by the id as text, as raw files have it."""
    return {str(raw): row for row, raw in enumerate(vocabulary.ids)}


def _with_items(dataset: Dataset, source: Format, file: RecordFile) -> Dataset:
    """The dataset with the texts of its items; of several records of an item the first counts."""
    rows = _rows(dataset.items)
    texts: list[tuple[str | None, ...] | None] = [None] * dataset.n_items
    repeated = 0
    for _, (raw, record) in file.each(lambda record: (source.item_id(record), record)):
        row = rows.get(raw)
        if row is None:
            continue
        if texts[row] is None:
            texts[row] = source.item_texts(record)
        else:
            repeated += 1
    found = sum(entry is not None for entry in texts)
    if not found:
        example: RawId = dataset.items.id(0)
        raise DataError(
            f"{file.path} has none of the {dataset.n_items:,} items that are left of the reviews, for example "
            f"{example!r}: do the two files belong together?"
        )
    nothing = (None,) * len(source.columns)
    table = pl.DataFrame(
        [entry or nothing for entry in texts], schema=dict.fromkeys(source.columns, pl.String), orient="row"
    )
    described = "description" in source.columns
    with_review = sum(
        part.review is not None and sum(r is not None for r in part.review) for part in _parts(dataset)
    )
    provenance = {
        **dataset.provenance,
        "lines": {**dataset.provenance["lines"], "items": file.report.plain()},
        "texts": {
            "items found": found,
            "items with a title": dataset.n_items - table["title"].null_count(),
            **(
                {"items with a description": dataset.n_items - table["description"].null_count()}
                if described
                else {}
            ),
            "repeated records of items": repeated,
            "interactions with a review": with_review,
        },
    }
    return replace(dataset, item_texts=table, provenance=provenance)
