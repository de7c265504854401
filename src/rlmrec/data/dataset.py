"""Dataset: three splits over one vocabulary of users and one of items, with the items' texts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rlmrec.data.interactions import Interactions, repeats
from rlmrec.data.split import split_by_ratio
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import DataError, WorkspaceError
from rlmrec.files import atomic_folder, read_json, sha256, write_json
from rlmrec.types import IntArray

SPLITS = ("train", "valid", "test")
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Dataset:
    """What everything downstream stands on. Make it with ``Dataset.build`` or a reader.

    Args:
        name: for tables and file names.
        train: training interactions, the only ones a model or a prompt may see.
        valid: validation interactions, for early stopping and choosing hyper-parameters.
        test: test interactions, for the final number.
        users: raw user ids, U rows.
        items: raw item ids, I rows.
        item_texts: a table of I rows in item order; the columns (title, description, genres …) are the
            source's. None when the source has no texts.
        user_texts: likewise for users.
        provenance: where it came from and how it was filtered; JSON.

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
                f"{len(shared)} pairs stand in more than one split, {example}: "
                "a held-out pair must not be trained on"
            )
        raise DataError(
            f"{len(twice)} pairs occur more than once in a split, {example}: call merged() on it first"
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

    @property
    def n_users(self) -> int:
        """U."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.items)

    def split(self, name: str) -> Interactions:
        """The split called "train", "valid" or "test"."""
        if name not in SPLITS:
            raise DataError(f"unknown split {name!r}: expected one of {', '.join(SPLITS)}")
        part: Interactions = getattr(self, name)
        return part

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the ids and the splits: vectors, runs and recommenders name the dataset they belong to."""
        digest = hashlib.sha256(json.dumps([self.users.ids, self.items.ids]).encode())
        for split in SPLITS:
            digest.update(np.sort(self.split(split).keys()).tobytes() + b"|")
        return digest.hexdigest()[:16]

    @cached_property
    def content(self) -> str:
        """A hash of all that prompts are made of, and of what must not get into one: profiles name it.

        The fingerprint, the number of each interaction in its source, the training reviews and the items' texts.
        Vectors and runs do not depend on these, so they name the fingerprint.
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
    def build(
        cls,
        name: str,
        interactions: Interactions,
        users: Vocabulary,
        items: Vocabulary,
        *,
        min_rating: float | None = None,
        period: tuple[float | None, float | None] | None = None,
        sample_users: float | None = None,
        k_core: int = 1,
        split: tuple[float, float, float] = (3, 1, 1),
        seed: int = 0,
        item_texts: pl.DataFrame | None = None,
        user_texts: pl.DataFrame | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> Dataset:
        """Filter, reduce and split raw interactions, in the paper's order (Section 4.1.1).

        Drop low ratings → keep a period → merge repeated pairs → sample users → k-core → renumber what is
        left → split.

        Args:
            name: the dataset's name.
            interactions: raw interactions over ``users`` and ``items``.
            users: raw user ids.
            items: raw item ids.
            min_rating: keep ratings of at least this; None keeps all.
            period: (start, end) in seconds since 1970, end excluded, None for no bound; None keeps all.
            sample_users: share of users to keep, in (0, 1], or their number, above 1; None keeps all.
            k_core: least number of interactions of each remaining user and item.
            split: ratio of training, validation and test.
            seed: of the sampling and the split.
            item_texts: one row per item of ``items``.
            user_texts: one row per user of ``users``.
            provenance: recorded in the dataset beside the options above.

        Raises:
            DataError: nothing is left, or the input is not usable; the message says which and why.
        """
        rng = np.random.default_rng(seed)
        counts = {"read": len(interactions)}
        kept = interactions
        if min_rating is not None:
            kept = kept.min_rating(min_rating)
            counts["rated high enough"] = len(kept)
        if period is not None and period != (None, None):
            kept = kept.between(*period)
            counts["in the period"] = len(kept)
        kept = kept.merged()
        counts["distinct pairs"] = len(kept)
        if sample_users is not None:
            kept = kept.sample_users(sample_users, rng)
            counts["of sampled users"] = len(kept)
        kept = kept.k_core(k_core)
        counts[f"in the {k_core}-core"] = len(kept)
        user_rows, new_users = _renumber(kept.users, kept.n_users)
        item_rows, new_items = _renumber(kept.items, kept.n_items)
        kept = Interactions(
            new_users, new_items, len(user_rows), len(item_rows),
            kept.rating, kept.timestamp, kept.review, kept.id,
        )  # fmt: skip
        train, valid, test = split_by_ratio(kept, split, rng)
        options = {
            "min_rating": min_rating,
            "period": list(period) if period is not None else None,
            "sample_users": sample_users,
            "k_core": k_core,
            "split": list(split),
            "seed": seed,
        }
        return cls(
            name, train, valid, test,
            Vocabulary((users.id(int(r)) for r in user_rows), "user"),
            Vocabulary((items.id(int(r)) for r in item_rows), "item"),
            item_texts[item_rows] if item_texts is not None else None,
            user_texts[user_rows] if user_texts is not None else None,
            {**(provenance or {}), "options": options, "interactions": counts},
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write the folder: Parquet tables and ``dataset.json`` with their checksums; atomic as a whole."""
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
    def load(cls, folder: Path) -> Dataset:
        """Read a folder that ``save`` wrote.

        Raises:
            WorkspaceError: it is absent, of another format, or a file does not match its checksum.
        """
        folder = Path(folder)
        if not (folder / "dataset.json").exists():
            raise WorkspaceError(f"no dataset at {folder}: make one with 'rlmrec data …'")
        manifest = read_json(folder / "dataset.json")
        if isinstance(manifest, dict) and manifest.get("format", FORMAT) != FORMAT:
            raise WorkspaceError(f"{folder} has format {manifest['format']!r}, this version reads {FORMAT}")
        needed = {"format", "name", "users", "items", "sha256", "provenance"}
        if not isinstance(manifest, dict) or not needed <= manifest.keys():
            raise WorkspaceError(f"{folder / 'dataset.json'} is damaged: run 'rlmrec data …' again")
        tables = {}
        for name, checksum in manifest["sha256"].items():
            path = folder / f"{name}.parquet"
            if not path.exists() or sha256(path) != checksum:
                raise WorkspaceError(f"{path} is missing or was changed: run 'rlmrec data …' again")
            tables[name] = pl.read_parquet(path)
        n_users, n_items = manifest["users"], manifest["items"]
        train, valid, test = (_interactions(tables[split], n_users, n_items) for split in SPLITS)
        return cls(
            manifest["name"],
            train,
            valid,
            test,
            Vocabulary(tables["users"]["id"].to_list(), "user"),
            Vocabulary(tables["items"]["id"].to_list(), "item"),
            _texts(tables["items"]),
            _texts(tables["users"]),
            manifest["provenance"],
        )


def _json(value: Any) -> bytes:
    return json.dumps(value, default=str).encode() + b"\n"


def _renumber(rows: IntArray, size: int) -> tuple[IntArray, IntArray]:
    """The rows that occur, ascending, and each row's place among them."""
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
