"""Reads the reviews and items of the original distributions, with texts (Section 4.1.1).

The reviews are read twice. The first pass keeps only user, item, rating and time, 28 bytes per interaction;
they decide which users and items remain. The second pass reads the texts of the remaining reviews, a few per cent
of the file, by their line numbers. So memory holds the texts of the dataset and not those of the source. An
interaction's ``id`` is the number of its line in the file of reviews.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from rlmrec.data.dataset import SPLITS, Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.lines import MAX_BAD_LINES, Progress, Record, RecordFile
from rlmrec.data.source import Source
from rlmrec.data.vocabulary import RawId, Vocabulary
from rlmrec.errors import DataError
from rlmrec.findings import Finding


class Review(NamedTuple):
    """Raw ids as text, the rating (0 in a source without ratings) and seconds since 1970."""

    user: str
    item: str
    rating: float
    time: float


@dataclass(frozen=True)
class Format:
    """Format of the reviews and items of one source. The functions raise ``BadRecord`` for unusable records.

    Args:
        name: name of the source, for example "amazon".
        domain: wording of the prompts by default.
        rated: whether reviews have ratings.
        review_keys: keys of each record of the file of reviews.
        item_keys: keys of each record of the file of items.
        review: makes the interaction of a record of the reviews.
        review_text: extracts the text of a record of the reviews, None where it has none.
        item_id: extracts the raw id of a record of the items.
        item_texts: extracts the texts of a record of the items, a value (or None) for each of ``columns``.
        columns: names of the texts; the prompts use "title" and "description" by name.
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
        """Open the file of reviews."""
        kind = f"{self.name.capitalize()} reviews"
        return RecordFile(path, kind, self.review_keys, max_bad_lines, progress)

    def items(self, path: Path | str, max_bad_lines: int, progress: Progress | None) -> RecordFile:
        """Open the file of items."""
        kind = f"{self.name.capitalize()} items"
        return RecordFile(path, kind, self.item_keys, max_bad_lines, progress)


def read_raw(
    form: Format,
    reviews: Path | str,
    items: Path | str,
    *,
    domain: str | None = None,
    max_bad_lines: int = MAX_BAD_LINES,
    progress: Progress | None = None,
) -> Source:
    """Read the reviews without their texts; the texts of what remains after the filters are read at the end.

    Args:
        form: how the files are written.
        reviews: the file of reviews.
        items: the file of items.
        domain: wording of the prompts; those of the format by default.
        max_bad_lines: maximum number of unusable lines in a file.
        progress: called with the name of the file that is being read, the bytes read and its size in bytes.

    Returns:
        a source whose dataset has item texts and reviews; its provenance counts the lines and the items and reviews
        with texts.

    Raises:
        DataError: a file cannot be used.
    """
    file = form.reviews(reviews, max_bad_lines, progress)
    catalogue = form.items(items, max_bad_lines, progress)
    catalogue.check(form.item_id)
    interactions, users, articles = _interactions(form, file)

    def finish(dataset: Dataset) -> Dataset:
        kept = [number for part in _parts(dataset) for number in _ids(part)]
        texts = {line: text for line, text in file.at(kept, form.review_text) if text is not None}
        return _with_items(_with_reviews(dataset, texts), form, catalogue)

    provenance = {
        "source": form.name,
        "domain": domain or form.domain,
        "files": {"reviews": Path(reviews).name, "items": Path(items).name},
        "lines": {"reviews": file.report.plain()},
    }
    unrated = Finding(
        "no rating",
        f"{form.name} reviews have no ratings",
        remedy="every review counts as an interaction",
        ordinary=True,
    )
    findings = [] if form.rated else [unrated]
    return Source(
        form.name, interactions, users, articles,
        findings=[*findings, *file.report.findings("reviews")], provenance=provenance, finish=finish,
    )  # fmt: skip


@dataclass(frozen=True)
class Matched:
    """Number of items and interactions of a dataset that were found in raw files.

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
    form: Format,
    dataset: Dataset,
    reviews: Path | str,
    items: Path | str,
    *,
    min_rating: float | None = 3,
    domain: str | None = None,
    max_bad_lines: int = MAX_BAD_LINES,
    progress: Progress | None = None,
) -> tuple[Dataset, Matched]:
    """Add the texts of raw files to a dataset with raw ids and a split.

    Args:
        form: how the files are written.
        dataset: dataset with the ids of the files; its splits and interaction ids stay, its item texts are
            replaced.
        reviews: the file of reviews; of several by one user about one item the latest is used.
        items: the file of items.
        min_rating: ignore reviews with fewer stars, as when the dataset was made; no effect on a source without
            ratings.
        domain, max_bad_lines, progress: as in ``read_raw``.

    Returns:
        the dataset with texts, and how much of it was found.

    Raises:
        DataError: a file cannot be used, or contains none of the dataset's interactions or items.
    """
    file = form.reviews(reviews, max_bad_lines, progress)
    catalogue = form.items(items, max_bad_lines, progress)
    catalogue.check(form.item_id)
    ids = {
        key: number
        for part in _parts(dataset)
        for key, number in zip(part.keys().tolist(), _ids(part), strict=True)
    }
    user_rows, item_rows = _rows(dataset.users), _rows(dataset.items)
    latest: dict[int, tuple[float, str | None]] = {}
    for _, (review, record) in file.each(lambda record: (form.review(record), record)):
        user, item = user_rows.get(review.user), item_rows.get(review.item)
        if user is None or item is None or (key := user * dataset.n_items + item) not in ids:
            continue
        if form.rated and min_rating is not None and review.rating < min_rating:
            continue
        if key not in latest or review.time >= latest[key][0]:
            latest[key] = (review.time, form.review_text(record))
    if not latest:
        raise DataError(
            f"{file.path} has no review of the dataset's {len(ids):,} interactions: its users have ids like "
            f"{dataset.users.id(0)!r}, its items like {dataset.items.id(0)!r}. Are mappers and reviews of one source?"
        )
    texts = {ids[key]: text for key, (_, text) in latest.items() if text is not None}
    provenance = {
        **dataset.provenance,
        "texts_source": form.name,
        "domain": domain or form.domain,
        "lines": {"reviews": file.report.plain()},
    }
    findings = (*dataset.findings, *file.report.findings("reviews"))
    dataset = _with_reviews(
        replace(dataset, item_texts=None, provenance=provenance, findings=findings), texts
    )
    dataset = _with_items(dataset, form, catalogue)
    found = dataset.provenance["texts"]["items found"]
    return dataset, Matched(dataset.n_items, found, len(ids), len(latest), len(texts))


def _interactions(form: Format, file: RecordFile) -> tuple[Interactions, Vocabulary, Vocabulary]:
    """Read the interactions without texts. Rows are numbered in the order of the file."""
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    user_rows, item_rows, lines = array("i"), array("i"), array("i")
    ratings, times = array("d"), array("d")
    for line, review in file.each(form.review):
        user_rows.append(users.setdefault(review.user, len(users)))
        item_rows.append(items.setdefault(review.item, len(items)))
        ratings.append(review.rating)
        times.append(review.time)
        lines.append(line)
    interactions = Interactions(
        np.frombuffer(user_rows, np.int32), np.frombuffer(item_rows, np.int32), len(users), len(items),
        np.frombuffer(ratings, np.float64) if form.rated else None,
        np.frombuffer(times, np.float64),
        id=np.frombuffer(lines, np.int32).astype(np.int64),
    )  # fmt: skip
    return interactions, _vocabulary(users, "user"), _vocabulary(items, "item")


def _vocabulary(rows: dict[str, int], kind: str) -> Vocabulary:
    ids = list(rows)
    rows.clear()  # the vocabulary makes its own, and millions of ids need not be held twice
    return Vocabulary(ids, kind)


def _ids(part: Interactions) -> list[int]:
    assert part.id is not None  # set by Interactions
    numbers: list[int] = part.id.tolist()
    return numbers


def _parts(dataset: Dataset) -> list[Interactions]:
    return [dataset.split(name) for name in SPLITS]


def _with_reviews(dataset: Dataset, texts: dict[int, str]) -> Dataset:
    """Add the reviews of these interaction ids."""

    def reviewed(part: Interactions) -> Interactions:
        return replace(part, review=np.array([texts.get(number) for number in _ids(part)], object))

    train, valid, test = map(reviewed, _parts(dataset))
    return replace(dataset, train=train, valid=valid, test=test)


def _rows(vocabulary: Vocabulary) -> dict[str, int]:
    """Map the ids as text, as in raw files, to rows."""
    return {str(raw): row for row, raw in enumerate(vocabulary.ids)}


def _with_items(dataset: Dataset, form: Format, file: RecordFile) -> Dataset:
    """Add the texts of the items; of several records of an item the first is used."""
    rows = _rows(dataset.items)
    texts: list[tuple[str | None, ...] | None] = [None] * dataset.n_items
    repeated = 0
    for _, (raw, record) in file.each(lambda record: (form.item_id(record), record)):
        row = rows.get(raw)
        if row is None:
            continue
        if texts[row] is None:
            texts[row] = form.item_texts(record)
        else:
            repeated += 1
    found = sum(entry is not None for entry in texts)
    if not found:
        example: RawId = dataset.items.id(0)
        raise DataError(
            f"{file.path} has none of the {dataset.n_items:,} items that are left of the reviews, for example "
            f"{example!r}: do the two files belong together?"
        )
    nothing = (None,) * len(form.columns)
    table = pl.DataFrame(
        [entry or nothing for entry in texts], schema=dict.fromkeys(form.columns, pl.String), orient="row"
    )
    described = "description" in form.columns
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
    findings = (*dataset.findings, *file.report.findings("items"))
    return replace(dataset, item_texts=table, provenance=provenance, findings=findings)
