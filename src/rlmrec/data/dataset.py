"""Dataset: training, validation and test interactions, their users and items, and the texts of both."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import scipy.sparse as sp

from rlmrec.data.interactions import Interactions, repeats
from rlmrec.data.source import Source
from rlmrec.data.split import split_by_ratio
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.files import atomic_folder, read_json, sha256, write_json
from rlmrec.trust import damaged, expect
from rlmrec.types import IntArray

if TYPE_CHECKING:
    from narwhals.typing import IntoDataFrame

SPLITS = ("train", "valid", "test")
FORMAT = 1
_NO_FILTERS = {
    "min_rating": None, "period": None, "sample_users": None, "k_core": 1, "split": [3, 1, 1], "seed": 0,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test interactions of users with items, and the texts of both.

    Make one with ``Dataset.from_frame`` or, from files, with ``Dataset.from_source`` and a reader.

    Args:
        name: name in tables and file names.
        train: training interactions, the only ones a model or a prompt may see.
        valid: validation interactions, for early stopping and choosing hyper-parameters.
        test: test interactions, for the final number.
        users: raw user ids, U rows.
        items: raw item ids, I rows.
        item_texts: table of I rows in item order, whose columns (title, description, genres …) depend on the
            source; None when the source has no texts.
        user_texts: likewise for users.
        provenance: where it came from and how it was filtered; JSON.
        notes: remarks on the data for the user; not saved.
        unranked: pairs beside those of ``train`` that no list may contain, such as history that an experiment hides
            from training; not saved.

    Raises:
        DataError: the splits, vocabularies and tables do not have the same U and I, splits overlap, or a
            user with held-out items has no training interaction.
    """

    name: str
    train: Interactions
    valid: Interactions
    test: Interactions
    users: Vocabulary
    items: Vocabulary
    item_texts: pl.DataFrame | None = None
    user_texts: pl.DataFrame | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unranked: Interactions | None = None

    def __post_init__(self) -> None:
        for split in SPLITS:
            part = self.split(split)
            if (part.n_users, part.n_items) != (self.n_users, self.n_items):
                raise DataError(
                    f"{split} is {part.n_users} x {part.n_items} (users x items), "
                    f"the vocabularies have {self.n_users} x {self.n_items}"
                )
        for kind, table, size in (
            ("item", self.item_texts, self.n_items),
            ("user", self.user_texts, self.n_users),
        ):
            if table is not None and len(table) != size:
                raise DataError(f"the {kind} texts have {len(table)} rows, the dataset has {size} {kind}s")
        if not len(self.train):
            raise DataError("the training split has no interaction")
        if self.n_users < 2 or self.n_items < 2:
            raise DataError(f"at least 2 users and 2 items are needed, got {self.n_users} and {self.n_items}")
        self._refuse_overlap()
        self._refuse_untrained_users()

    def _refuse_overlap(self) -> None:
        keys = [self.split(split).keys() for split in SPLITS]
        if not repeats(np.concatenate(keys)).size:
            return
        shared = repeats(np.concatenate([np.unique(part) for part in keys]))
        twice = shared if shared.size else repeats(np.concatenate(keys))
        user, item = divmod(int(twice[0]), self.n_items)
        example = f"for example user {self.users.id(user)!r} with item {self.items.id(item)!r}"
        if shared.size:
            raise DataError(
                f"{len(shared)} pairs occur in more than one split, {example}: "
                "a held-out pair must not be in training"
            )
        raise DataError(
            f"{len(twice)} pairs occur more than once in a split, {example}: merge them with Interactions.merged()"
        )

    def _refuse_untrained_users(self) -> None:
        untrained = self.train.user_degrees() == 0
        for split in ("valid", "test"):
            orphans = np.flatnonzero(untrained & (self.split(split).user_degrees() > 0))
            if len(orphans):
                raise DataError(
                    f"{len(orphans)} users of {split} have no training interaction, for example "
                    f"{self.users.id(int(orphans[0]))!r}: drop them or give each one at least one"
                )

    def __repr__(self) -> str:
        sizes = " / ".join(f"{len(self.split(split)):,} {split}" for split in SPLITS)
        density = len(self.train) / (self.n_users * self.n_items)
        texts = ", ".join(self.item_texts.columns) if self.item_texts is not None else "none"
        return (
            f"Dataset({self.name!r}: {self.n_users:,} users x {self.n_items:,} items, interactions {sizes}, "
            f"training density {density:.2e}, item texts: {texts})"
        )

    @property
    def n_users(self) -> int:
        """Number of users, U."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Number of items, I."""
        return len(self.items)

    def split(self, name: str) -> Interactions:
        """Return the split "train", "valid" or "test"."""
        if name not in SPLITS:
            raise DataError(f"unknown split {name!r}: expected one of {', '.join(SPLITS)}")
        part: Interactions = getattr(self, name)
        return part

    def excluded(self) -> sp.csr_array:
        """Return the U x I matrix of the pairs that no list contains: those of ``train`` and of ``unranked``."""
        known = self.train.csr()
        return known if self.unranked is None else sp.csr_array(known + self.unranked.csr())

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the ids and the splits, by which vectors, runs and recommenders name their dataset."""
        digest = hashlib.sha256(json.dumps([self.users.ids, self.items.ids]).encode())
        for split in SPLITS:
            digest.update(np.sort(self.split(split).keys()).tobytes() + b"|")
        return digest.hexdigest()[:16]

    @cached_property
    def content(self) -> str:
        """Hash of everything that the prompts depend on, by which profiles name their dataset.

        It covers the fingerprint, the ids of the interactions in their source, the training reviews and the
        item texts. Vectors and runs do not depend on the last three, so they name the fingerprint.
        """
        digest = hashlib.sha256(self.fingerprint.encode())
        for split in SPLITS:
            part = self.split(split)
            order = np.argsort(part.keys())
            assert part.id is not None  # set by Interactions
            digest.update(part.id[order].tobytes() + b"|")
            if split == "train" and part.review is not None:
                for review in part.review[order]:
                    digest.update(_json(review))
        if self.item_texts is not None:
            digest.update(_json(self.item_texts.columns))
            for row in self.item_texts.iter_rows():
                digest.update(_json(row))
        return digest.hexdigest()[:16]

    @classmethod
    def from_source(
        cls,
        source: Source,
        *,
        name: str | None = None,
        min_rating: float | None = None,
        period: tuple[float | None, float | None] | None = None,
        sample_users: float | None = None,
        k_core: int = 1,
        split: tuple[float, float, float] = (3, 1, 1),
        seed: int = 0,
    ) -> Dataset:
        """Filter and split the interactions of a source, in the paper's order (Section 4.1.1).

        Drop low ratings → keep a period → merge repeated pairs → sample users → k-core → renumber what is
        left → split. A ready-made split is kept; only repeated pairs are merged.

        Args:
            source: what a reader returned.
            name: the dataset's name; the source's by default.
            min_rating: keep ratings of at least this; None keeps all.
            period: (start, end) in seconds since 1970, end excluded, None for no bound; None keeps all.
            sample_users: share of users to keep, in (0, 1], or their number, above 1; None keeps all.
            k_core: least number of interactions of each remaining user and item.
            split: ratio of training, validation and test.
            seed: seed of the sampling and the split.

        Raises:
            ConfigError: a filter or a split is given for a ready-made split.
            DataError: nothing is left, or the input is not usable; the message says which and why.
        """
        if seed < 0 or k_core < 1:
            raise ConfigError(
                f"expected a seed of at least 0 and a k_core of at least 1, got {seed} and {k_core}"
            )
        filters = {
            "min_rating": min_rating,
            "period": list(period) if period is not None else None,
            "sample_users": sample_users,
            "k_core": k_core,
            "split": list(split),
            "seed": seed,
        }
        notes = list(source.notes)
        sides = (source.users, source.items, source.item_texts, source.user_texts)
        provenance = dict(source.provenance)
        if isinstance(source.interactions, tuple):
            given = [option for option, default in _NO_FILTERS.items() if filters[option] != default]
            if given:
                raise ConfigError(f"{', '.join(given)}: not allowed with a ready-made split")
            train, valid, test = (_merged(part, source, notes) for part in source.interactions)
        else:
            rng = np.random.default_rng(seed)
            kept, counts = _filtered(source, notes, min_rating, period, sample_users, k_core, rng)
            kept, sides = _renumbered(kept, *sides)
            train, valid, test = split_by_ratio(kept, split, rng)
            provenance |= {"options": filters, "interactions": counts}
        for part, found, lack in (
            ("valid", valid, "training cannot be stopped early"),
            ("test", test, "there is no final result"),
        ):
            if not len(found):
                notes.append(f"the {part} split is empty, so {lack}: give more interactions or another split")
        dataset = cls(name or source.name, train, valid, test, *sides, provenance, tuple(notes))
        return dataset if source.finish is None else source.finish(dataset)

    @classmethod
    def from_frame(
        cls,
        df: IntoDataFrame | None = None,
        *,
        name: str = "dataset",
        user: str = "user_id",
        item: str = "item_id",
        rating: str | None = None,
        timestamp: str | None = None,
        review: str | None = None,
        items: IntoDataFrame | None = None,
        title: str | None = None,
        users: IntoDataFrame | None = None,
        train: IntoDataFrame | None = None,
        valid: IntoDataFrame | None = None,
        test: IntoDataFrame | None = None,
        min_rating: float | None = None,
        period: tuple[float | None, float | None] | None = None,
        sample_users: float | None = None,
        k_core: int = 1,
        split: tuple[float, float, float] = (3, 1, 1),
        seed: int = 0,
    ) -> Dataset:
        """Make a dataset of data frames: pandas, Polars or Arrow.

        Remarks on the data (``notes``) are issued as warnings.

        Args:
            df: interactions, one row each, to be filtered and split.
            name: the dataset's name.
            user: column of user ids, in ``users`` too.
            item: column of item ids, in ``items`` too.
            rating: column of ratings; None: there are none.
            timestamp: column of times: seconds since 1970, dates, or their text in ISO 8601.
            review: column of review texts.
            items: item texts, one row per item; all columns but the ids are texts.
            title: column of ``items`` with the titles; by default "title", "name" or similar.
            users: user texts, one row per user.
            train, valid, test: interactions of a ready-made split, instead of ``df``.
            min_rating, period, sample_users, k_core, split, seed: as in ``from_source``.

        Raises:
            ConfigError: neither ``df`` nor a split is given, or filters are given for a split.
            DataError: a column is missing, or a value cannot be used; the message names row and column.

        Example:
            >>> import polars as pl
            >>> ratings = pl.DataFrame({"user_id": [1, 1, 2, 2], "item_id": ["a", "b", "a", "c"]})
            >>> Dataset.from_frame(ratings, split=(2, 1, 1), name="tiny").n_items
            3
        """
        from rlmrec.data.frames import read_frames  # Narwhals is imported only here
        from rlmrec.data.tables import Columns

        if user == item:
            raise ConfigError(f"user and item are both the column {user!r}: name two columns")
        source = read_frames(
            [("df", df), ("train", train), ("valid", valid), ("test", test)],
            name, Columns(user, item, rating, timestamp, review), items, users, title,
        )  # fmt: skip
        dataset = cls.from_source(
            source, min_rating=min_rating, period=period, sample_users=sample_users, k_core=k_core,
            split=split, seed=seed,
        )  # fmt: skip
        for note in dataset.notes:
            warnings.warn(note, stacklevel=2)
        return dataset

    def save(self, folder: Path | str) -> None:
        """Write the dataset as a folder of Parquet tables and ``dataset.json``, atomically."""
        with atomic_folder(Path(folder), "dataset.json") as temporary:
            tables = {split: _table(self.split(split)) for split in SPLITS}
            tables["users"] = _ids_and_texts(self.users, self.user_texts)
            tables["items"] = _ids_and_texts(self.items, self.item_texts)
            for name, table in tables.items():
                table.write_parquet(temporary / f"{name}.parquet")
            manifest = {
                "format": FORMAT,
                "name": self.name,
                "users": self.n_users,
                "items": self.n_items,
                **{split: len(self.split(split)) for split in SPLITS},
                "fingerprint": self.fingerprint,
                "provenance": self.provenance,
                "sha256": {name: sha256(temporary / f"{name}.parquet") for name in tables},
            }
            write_json(temporary / "dataset.json", manifest)

    @classmethod
    def load(cls, folder: Path | str) -> Dataset:
        """Read a folder that ``save`` wrote.

        Raises:
            WorkspaceError: the folder is absent, of another format, or a file does not match its checksum.
        """
        folder = Path(folder)
        if not (folder / "dataset.json").exists():
            raise WorkspaceError(f"no dataset at {folder}: make one with 'rlmrec data …'")
        with damaged(folder, "run 'rlmrec data …' again"):
            return cls._load(folder)

    @classmethod
    def _load(cls, folder: Path) -> Dataset:
        manifest = expect(read_json(folder / "dataset.json"), dict, "dataset.json")
        if manifest.get("format", FORMAT) != FORMAT:
            raise WorkspaceError(f"{folder} has format {manifest['format']!r}, this version reads {FORMAT}")
        tables = {}
        for name in (*SPLITS, "users", "items"):
            path = folder / f"{name}.parquet"
            if not path.exists() or sha256(path) != manifest["sha256"][name]:
                raise WorkspaceError(f"{path} is missing or was changed: run 'rlmrec data …' again")
            tables[name] = pl.read_parquet(path)
        users = Vocabulary(tables["users"]["id"].to_list(), "user")
        items = Vocabulary(tables["items"]["id"].to_list(), "item")
        train, valid, test = (_interactions(tables[split], len(users), len(items)) for split in SPLITS)
        return cls(
            expect(manifest["name"], str, "the name"),
            train,
            valid,
            test,
            users,
            items,
            _texts(tables["items"]),
            _texts(tables["users"]),
            expect(manifest["provenance"], dict, "the provenance"),
        )


def _json(value: Any) -> bytes:
    return json.dumps(value, default=str).encode() + b"\n"


def _filtered(
    source: Source,
    notes: list[str],
    min_rating: float | None,
    period: tuple[float | None, float | None] | None,
    sample_users: float | None,
    k_core: int,
    rng: np.random.Generator,
) -> tuple[Interactions, dict[str, int]]:
    """Apply the filters; return what is left and the number of interactions after each filter."""
    assert isinstance(source.interactions, Interactions)
    kept = source.interactions
    counts = {"read": len(kept)}
    if min_rating is not None:
        kept = kept.min_rating(min_rating)
        counts["rated high enough"] = len(kept)
    if period is not None and period != (None, None):
        kept = kept.between(*period)
        counts["in the period"] = len(kept)
    kept = _merged(kept, source, notes)
    counts["distinct pairs"] = len(kept)
    if sample_users is not None:
        kept = kept.sample_users(sample_users, rng)
        counts["of sampled users"] = len(kept)
    kept = kept.k_core(k_core)
    counts[f"in the {k_core}-core"] = len(kept)
    return kept, counts


def _merged(part: Interactions, source: Source, notes: list[str]) -> Interactions:
    """Merge repeated pairs and note how many there were."""
    merged = part.merged()
    if len(merged) < len(part):
        twice = repeats(part.keys())
        user, item = divmod(int(twice[0]), part.n_items)
        notes.append(
            f"{len(twice):,} pairs of user and item occur more than once, for example user "
            f"{source.users.id(user)!r} with item {source.items.id(item)!r}: the "
            f"{'last' if part.timestamp is None else 'latest'} interaction of each is kept"
        )
    return merged


def _renumbered(
    kept: Interactions,
    users: Vocabulary,
    items: Vocabulary,
    item_texts: pl.DataFrame | None,
    user_texts: pl.DataFrame | None,
) -> tuple[Interactions, tuple[Vocabulary, Vocabulary, pl.DataFrame | None, pl.DataFrame | None]]:
    """Drop the users and items without an interaction."""
    user_rows, new_users = _renumber(kept.users, kept.n_users)
    item_rows, new_items = _renumber(kept.items, kept.n_items)
    kept = replace(kept, users=new_users, items=new_items, n_users=len(user_rows), n_items=len(item_rows))
    return kept, (
        Vocabulary((users.id(int(row)) for row in user_rows), "user"),
        Vocabulary((items.id(int(row)) for row in item_rows), "item"),
        item_texts[item_rows] if item_texts is not None else None,
        user_texts[user_rows] if user_texts is not None else None,
    )


def _renumber(rows: IntArray, size: int) -> tuple[IntArray, IntArray]:
    """Return the rows that occur, ascending, and the position of each of ``rows`` among them."""
    present = np.zeros(size, bool)
    present[rows] = True
    return np.flatnonzero(present), (np.cumsum(present) - 1)[rows]


def _table(interactions: Interactions) -> pl.DataFrame:
    return pl.DataFrame(
        {
            name: column.tolist() if column.dtype == object else column
            for name, column in interactions.columns().items()
        },
        schema_overrides={"review": pl.String} if interactions.review is not None else None,
    )


def _interactions(table: pl.DataFrame, n_users: int, n_items: int) -> Interactions:
    optional = {
        name: table[name].to_numpy() if name != "review" else np.array(table[name].to_list(), object)
        for name in ("rating", "timestamp", "review", "id")
        if name in table.columns
    }
    return Interactions(table["users"].to_numpy(), table["items"].to_numpy(), n_users, n_items, **optional)


def _ids_and_texts(vocabulary: Vocabulary, texts: pl.DataFrame | None) -> pl.DataFrame:
    ids = pl.DataFrame({"id": pl.Series(vocabulary.ids, dtype=pl.String if vocabulary.is_text else pl.Int64)})
    if texts is None:
        return ids
    return ids.hstack(texts.select(pl.all().name.prefix("text.")))


def _texts(table: pl.DataFrame) -> pl.DataFrame | None:
    columns = [name for name in table.columns if name.startswith("text.")]
    return (
        table.select(pl.col(name).alias(name.removeprefix("text.")) for name in columns) if columns else None
    )
