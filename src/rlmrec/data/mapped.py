"""A published dataset folder with the raw texts that it was made of."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from rlmrec.data.amazon import AMAZON
from rlmrec.data.dataset import Dataset
from rlmrec.data.lines import MAX_BAD_LINES, Progress
from rlmrec.data.published import read_published
from rlmrec.data.raw import Format, add_texts
from rlmrec.data.source import Source
from rlmrec.data.steam import STEAM
from rlmrec.data.yelp import YELP, yelp_files
from rlmrec.errors import ConfigError
from rlmrec.findings import Finding


def read_mapped(
    folder: Path | str,
    *,
    user_mapper: Path | str,
    item_mapper: Path | str,
    reviews: Path | str | None = None,
    meta: Path | str | None = None,
    games: Path | str | None = None,
    yelp: Path | str | None = None,
    domain: str | None = None,
    min_rating: float | None = 3,
    max_bad_lines: int = MAX_BAD_LINES,
    progress: Progress | None = None,
) -> Source:
    """Read a dataset folder of the paper and the raw texts it was made of: titles, descriptions, reviews.

    The published mappers give the raw user and item id of each row. The split is kept; the item texts are those of
    the raw files, not the published profiles.

    Args:
        folder: Folder with trn_mat.pkl, val_mat.pkl, tst_mat.pkl and, if any, the vectors.
        user_mapper: Published JSON lines with the raw id of each user row.
        item_mapper: Published JSON lines with the raw id of each item row.
        reviews: File of reviews of Amazon or Steam.
        meta: Amazon's file of metadata.
        games: Steam's file of games.
        yelp: Folder of the Yelp dataset.
        domain: Wording of the prompts; the source's by default.
        min_rating: Ignore reviews with fewer stars, as when the dataset was made.
        max_bad_lines: Unusable lines of a file that are skipped; one more is an error.
        progress: called with the name of the file that is being read, the bytes read and its size in bytes.

    Raises:
        ConfigError: the raw files are not those of one source.
        DataError: a file cannot be used, or has none of the dataset's interactions or items.
    """
    form, files = _raw_files(reviews, meta, games, yelp)

    def finish(dataset: Dataset) -> Dataset:
        dataset, matched = add_texts(
            form, dataset, *files, min_rating=min_rating, domain=domain, max_bad_lines=max_bad_lines,
            progress=progress,
        )  # fmt: skip
        text = (
            f"matched {matched.items_found:,} of {matched.items:,} items and {matched.interactions_found:,} of "
            f"{matched.interactions:,} interactions, {matched.reviews:,} of them with the text of a review"
        )
        provenance = {**dataset.provenance, "matched": asdict(matched)}
        finding = Finding("matched", text, ordinary=True)
        return replace(dataset, provenance=provenance, findings=(*dataset.findings, finding))

    return replace(read_published(folder, user_mapper=user_mapper, item_mapper=item_mapper), finish=finish)


def _raw_files(
    reviews: Path | str | None, meta: Path | str | None, games: Path | str | None, yelp: Path | str | None
) -> tuple[Format, tuple[Path | str, Path | str]]:
    """Return the source that the files belong to, and its files of reviews and items."""
    given = (reviews is not None, meta is not None, games is not None, yelp is not None)
    if reviews is not None and meta is not None and given == (True, True, False, False):
        return AMAZON, (reviews, meta)
    if reviews is not None and games is not None and given == (True, False, True, False):
        return STEAM, (reviews, games)
    if yelp is not None and given == (False, False, False, True):
        return YELP, yelp_files(yelp)
    raise ConfigError(
        "give the raw files of one source: --reviews and --meta (Amazon), --reviews and --games (Steam), "
        "or --yelp FOLDER"
    )
