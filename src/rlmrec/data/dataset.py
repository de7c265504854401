"""Dataset: training, validation and test interactions, their users and items, and the texts of both."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import polars as pl
import scipy.sparse as sp

from rlmrec.data.checks import check_ids, check_texts, check_values
from rlmrec.data.filters import Filters, Moment
from rlmrec.data.interactions import Interactions, joined, repeats
from rlmrec.data.source import Source
from rlmrec.data.vocabulary import RawId, Vocabulary
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.files import atomic_folder, complete_folder, read_json, read_unchanged, sha256, write_json
from rlmrec.findings import Finding, by_number
from rlmrec.html import html_table
from rlmrec.trust import damaged, expect
from rlmrec.types import BoolArray, IntArray

if TYPE_CHECKING:
    from narwhals.typing import IntoDataFrame

SPLITS = ("train", "valid", "test")
FORMAT = 1
MUCH = 0.05  # share of the users or items that filters leave out, above which that is a warning
HALF = 0.5  # likewise, from which on from_frame warns, though the caller has named the filters
_KEEP_MORE = {"core": "a smaller k_core", "rating": "a lower min_rating", "period": "a longer period"}
MOST_LEFT_OUT = 1_000_000  # ids of users that were left out and are stored
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
        findings: what is unusual about the data, such as ids in two spellings; not saved.
        unranked: pairs beside those of ``train`` that no list may contain, such as history that an experiment hides
            from training; not saved.
        cold: interactions of users without a training interaction, as a split by time leaves them. They are known, so
            they are not recommended, and a final model learns from them; they are not evaluated. None without any.
        left_out: one row for each user of the source that no interaction is left of: ``id`` as text and ``reason``.
        low_rated: pairs that ``min_rating`` or their weight left out. They are in no split and are candidates in
            evaluation, as in the paper, but they are known, so they are not recommended. None without any.
        n_before_final: of a final dataset, how many training interactions the dataset before had, which come first; not
            saved. None for others.

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
    findings: tuple[Finding, ...] = ()
    unranked: Interactions | None = None
    cold: Interactions | None = None
    left_out: pl.DataFrame | None = None
    low_rated: Interactions | None = None
    n_before_final: int | None = None

    def __post_init__(self) -> None:
        beside = [] if self.low_rated is None else [("low_rated", self.low_rated)]
        for split, part in [*self._parts(), *beside]:
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
        if not repeats(np.concatenate([self.split(split).keys() for split in SPLITS])).size:
            return
        keys = [self.split(split).keys() for split in SPLITS]
        shared = repeats(np.concatenate([np.unique(part) for part in keys]))
        twice = shared if shared.size else repeats(np.concatenate(keys))
        user, item = divmod(int(twice[0]), self.n_items)
        example = f"for example user {self.users.id(user)!r} with item {self.items.id(item)!r}"
        occur = by_number(len(twice), "pair occurs", "pairs occur")
        if shared.size:
            raise DataError(
                f"{len(twice)} {occur} in more than one split, {example}: a held-out pair must not be in training"
            )
        raise DataError(
            f"{len(twice)} {occur} more than once in a split, {example}: merge them with Interactions.merged()"
        )

    def _refuse_untrained_users(self) -> None:
        untrained = self.train.user_degrees() == 0
        for split in ("valid", "test"):
            orphans = np.flatnonzero(untrained & (self.split(split).user_degrees() > 0))
            if len(orphans):
                have = by_number(len(orphans), "user", "users"), by_number(len(orphans), "has", "have")
                raise DataError(
                    f"{len(orphans)} {have[0]} of {split} {have[1]} no training interaction, for example "
                    f"{self.users.id(int(orphans[0]))!r}: drop them or give each one at least one"
                )

    @staticmethod
    def check(dataset: object) -> None:
        """Check that something is a dataset, and not a data frame or a model.

        Raises:
            ConfigError: it is something else.
        """
        if not isinstance(dataset, Dataset):
            raise ConfigError(
                f"dataset has type {type(dataset).__name__}: expected a Dataset, such as Dataset.from_frame makes"
            )

    def __repr__(self) -> str:
        sizes = " / ".join(f"{len(self.split(split)):,} {split}" for split in SPLITS)
        density = len(self.train) / (self.n_users * self.n_items)
        from rlmrec.data.metadata import text_columns  # which imports this module

        texts = ", ".join(text_columns(self)) or "none"
        if of_users := text_columns(self, "user"):
            texts += f", user texts: {', '.join(of_users)}"
        return (
            f"Dataset({self.name!r}: {self.n_users:,} users x {self.n_items:,} items, interactions {sizes}, "
            f"training density {density:.2e}, item texts: {texts})"
        )

    def _repr_html_(self) -> str:
        """Return a table of sizes for notebooks."""
        from rlmrec.data.metadata import text_columns  # which imports this module

        train, valid, test = (f"{len(self.split(split)):,}" for split in SPLITS)
        rows: list[tuple[str, object]] = [
            ("users", f"{self.n_users:,}"),
            ("items", f"{self.n_items:,}"),
            ("training / validation / test interactions", f"{train} / {valid} / {test}"),
            ("training interactions of a user", f"median {np.median(self.train.user_degrees()):g}"),
            ("density of training", f"{len(self.train) / (self.n_users * self.n_items):.2e}"),
        ]
        for kind, table in (("item", self.item_texts), ("user", self.user_texts)):
            texts = text_columns(self, kind)
            others = [] if table is None else [name for name in table.columns if name not in texts]
            rows += [(f"texts of {kind}s", ", ".join(texts))] if texts else []
            rows += [(f"other columns of {kind}s", ", ".join(others))] if others else []
        rows += [("", told) for told in self.left_out_notes()]
        return html_table(f"Dataset {self.name}", (), rows, text_columns=2)

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

    def _parts(self) -> list[tuple[str, Interactions]]:
        """Return the splits by name, and the cold interactions where there are any."""
        parts = [(split, self.split(split)) for split in SPLITS]
        return parts if self.cold is None else [*parts, ("cold", self.cold)]

    def everything(self) -> Interactions:
        """Return all interactions that are known: training, validation, test and cold ones."""
        return joined([part for _, part in self._parts()])

    def filtered_out(self) -> dict[str, dict[str, int]]:
        """Return "users" and "items" → reason → how many of them the filters left out."""
        found: dict[str, dict[str, int]] = {"users": {}, "items": {}}
        for label, count in self.provenance.get("left out", {}).items():
            kind, _, reason = label.partition(": ")
            found[kind][reason] = count
        return found

    def left_out_notes(self) -> list[str]:
        """Say how many users and items of their tables have no interaction, and how many the filters left out.

        Filters that leave out few users or items are not told of.
        """
        lines = [left_out_line(self.filtered_out()[kind], size, kind) for kind, size in self._sizes()]
        return [*self._without_interaction(), *(line for line, share in lines if share > MUCH)]

    def _sizes(self) -> tuple[tuple[str, int], tuple[str, int]]:
        return ("users", self.n_users), ("items", self.n_items)

    def _without_interaction(self) -> list[str]:
        """Say how many users and items of their tables have no interaction."""
        told = []
        for kind, _ in self._sizes():
            label = f"{kind} of the table without an interaction"
            if count := self.provenance.get("texts", {}).get(label, 0):
                told.append(
                    f"{count:,} {by_number(count, kind[:-1], kind)} of the table {by_number(count, 'has', 'have')} no "
                    f"interaction and {by_number(count, 'is', 'are')} not in the dataset: a cold start recommends by "
                    "their text (docs/recommending.md)"
                )
        return told

    def _filters_of_much(self) -> list[str]:
        """Say which filters but a sample of users leave out half of the users or items, and what keeps more."""
        told = []
        for kind, size in self._sizes():
            reasons = {why: n for why, n in self.filtered_out()[kind].items() if "sample" not in why}
            line, share = left_out_line(reasons, size, kind)
            if share >= HALF:
                remedies = [
                    remedy for word, remedy in _KEEP_MORE.items() if any(word in why for why in reasons)
                ]
                told.append(f"{line}: {' or '.join(remedies)} keeps more")
        return told

    def known(self) -> sp.csr_array:
        """Return the U x I matrix of the pairs that are not recommended.

        These are everything that is known, what ``min_rating`` or weights left out, and ``unranked``.
        """
        known = self.everything().csr()
        for more in (self.unranked, self.low_rated):
            known = known if more is None else sp.csr_array(known + more.csr())
        return known

    def low_ratings(self) -> IntArray:
        """Return int64[I], the number of ``low_rated`` pairs of each item."""
        return np.zeros(self.n_items, np.int64) if self.low_rated is None else self.low_rated.item_degrees()

    def final(self) -> Dataset:
        """Return this dataset with everything in training and nothing held out, for a model that goes into use.

        It has the same fingerprint, since ids and pairs are the same: vectors and recommenders of the one are also
        those of the other. ``evaluate`` warns of a model of this one, which has seen what is held out.
        """
        everything = self.everything()
        nothing = everything.take(np.empty(0, np.int64))
        before = len(self.split_of_means)
        final = replace(self, train=everything, valid=nothing, test=nothing, cold=None, n_before_final=before)
        final.__dict__["fingerprint"] = self.fingerprint  # where cached_property keeps it
        return final

    @property
    def is_final(self) -> bool:
        """Whether nothing is held out, as in what ``final()`` returns."""
        return not (len(self.valid) or len(self.test))

    @property
    def split_of_means(self) -> Interactions:
        """The training split over which text embeddings take users' means; of a final dataset that of before."""
        if self.n_before_final is None:
            return self.train
        return self.train.take(np.arange(len(self.train)) < self.n_before_final)

    @property
    def lineage(self) -> list[dict[str, Any]]:
        """The datasets that this one was made of by appending, oldest first: fingerprint, content, sizes, changes."""
        ancestors: list[dict[str, Any]] = self.provenance.get("lineage", [])
        return ancestors

    @property
    def taken_back(self) -> list[int]:
        """Ids of the training interactions that a low rating took back when it was appended."""
        ids: list[int] = self.provenance.get("taken back", [])
        return ids

    def descends_from(self, fingerprint: str | None) -> bool:
        """Return whether a fingerprint is that of this dataset or of one that it was made of by appending.

        Then every id of that dataset has the same row here, and its held-out pairs are held out here, unless a later
        low rating took them back.
        """
        return fingerprint in (self.fingerprint, *(one["fingerprint"] for one in self.lineage))

    def keeps_profile(self, kind: str, raw: RawId, content: str | None) -> bool:
        """Return whether a profile that was written for a dataset with this ``content`` is still that of its node.

        After appending it is, unless the item's text has changed; that a user has more interactions now makes no
        profile wrong.

        Args:
            kind: "item" or "user".
            raw: raw id of the node.
            content: what the profile names.
        """
        if content == self.content:
            return True
        contents = [one["content"] for one in self.lineage]
        if content not in contents or (kind == "item" and raw not in self.items):
            return False
        later = self.lineage[len(contents) - 1 - contents[::-1].index(content) :]
        return kind != "item" or all(self.items.row(raw) not in one["changed"] for one in later)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the ids and the splits, by which vectors, runs and recommenders name their dataset."""
        digest = hashlib.sha256(json.dumps([self.users.ids, self.items.ids]).encode())
        for _, part in self._parts():
            digest.update(np.sort(part.keys()).tobytes() + b"|")
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
                digest.update(_json_row(row))
        return digest.hexdigest()[:16]

    @classmethod
    def from_source(
        cls,
        source: Source,
        *,
        name: str | None = None,
        min_rating: float | None = None,
        period: tuple[Moment, Moment] | None = None,
        sample_users: float | None = None,
        k_core: int = 1,
        split: tuple[float, float, float] | str = (3, 1, 1),
        cold: str = "keep",
        seed: int = 0,
    ) -> Dataset:
        """Filter and split the interactions of a source, in the paper's order (Section 4.1.1).

        Keep a period → drop missing ratings (with ``min_rating``) → merge repeated pairs → drop low ratings → sample
        users → k-core → renumber what is left → split. So a user's latest rating of an item counts. What is unusual
        is in ``findings``.
        A ready-made split is kept; only repeated pairs are merged.

        Args:
            source: what a reader returned.
            name: the dataset's name; the source's by default.
            min_rating: keep ratings of at least this; None keeps all.
            period: (start, end), None for no bound; None keeps all. Days such as "2026-01-31" count as a whole. Seconds
                since 1970, a datetime or a Timestamp are moments, of which the end is excluded.
            sample_users: share of users to keep, in (0, 1], or their number, above 1; None keeps all.
            k_core: least number of interactions of each remaining user and item.
            split: ratio of training, validation and test, or the text of a ``SplitRule``.
            cold: what becomes of the held-out interactions of users and items without a training interaction, which a
                split by time makes: "keep" keeps them (``Dataset.cold``), "drop" leaves them out. Both are counted.
            seed: seed of the sampling and the split.

        Raises:
            ConfigError: an option has a wrong value, or one is given for a ready-made split.
            DataError: nothing is left, or the input is not usable; the message says which and why.
        """
        filters = Filters.checked(min_rating, period, sample_users, k_core, split, cold, seed)
        options, rule = filters.plain(), filters.rule
        parts = list(source.interactions) if isinstance(source.interactions, tuple) else [source.interactions]
        findings = [
            *source.findings,
            *check_ids(source.users, [part.user_degrees() for part in parts]),
            *check_ids(source.items, [part.item_degrees() for part in parts]),
        ]
        findings += check_values(parts, source.users, source.items, filters.min_rating is not None)
        del parts
        sides = (source.users, source.items, source.item_texts, source.user_texts)
        provenance = dict(source.provenance)
        if isinstance(source.interactions, tuple):
            given = [option for option, default in _NO_FILTERS.items() if options[option] != default]
            if given:
                raise ConfigError(f"{', '.join(given)}: not allowed with a ready-made split")
            train, valid, test = (_merged(part, source, findings) for part in source.interactions)
            left_out, low_rated = None, source.light
            if low_rated is not None:  # of one split, perhaps, and of enough weight in another
                kept = joined([train, valid, test])
                low_rated = low_rated.take(~np.isin(low_rated.keys(), kept.keys())) or None
        else:
            rng = np.random.default_rng(filters.seed)
            kept = source.interactions
            nothing = kept.take(np.empty(0, np.int64))
            source = replace(source, interactions=nothing)  # so that what was read does not stay in memory
            kept, low_rated, counts, left_out = _filtered(kept, source, findings, filters, rng)
            kept, low_rated, sides = _renumbered(kept, low_rated, *sides)
            rule = rule.settled(kept)
            train, valid, test = rule.parts(kept, sides[0], sides[1], rng)
            del kept
            provenance |= {"options": options, "interactions": counts, "left out": left_out.summary}
            if rule.kind != "random":
                provenance["split"] = str(rule)
        train, valid, test, later = _without_cold(train, valid, test, sides, cold, provenance, findings)
        for part, found, lack in (
            ("valid", valid, "training cannot be stopped early"),
            ("test", test, "there is no final result"),
        ):
            if not len(found):
                remedy = "give more interactions or another split"
                findings.append(
                    Finding("empty split", f"the {part} split is empty, so {lack}", remedy=remedy)
                )
        dataset = cls(
            name or source.name, train, valid, test, *sides, provenance, tuple(findings),
            cold=later, left_out=None if left_out is None else left_out.table, low_rated=low_rated,
        )  # fmt: skip
        if source.finish is not None:
            dataset = source.finish(dataset)
        missing = check_texts(dataset.item_texts, dataset.items)
        return replace(dataset, findings=(*dataset.findings, *missing)) if missing else dataset

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
        decimal: str = ".",
        timestamp_format: str | None = None,
        item_separator: str | None = None,
        weight: str | None = None,
        min_weight: float | None = None,
        items: IntoDataFrame | None = None,
        items_id: str | None = None,
        title: str | None = None,
        text_columns: Sequence[str] | str | None = None,
        users: IntoDataFrame | None = None,
        users_id: str | None = None,
        train: IntoDataFrame | None = None,
        valid: IntoDataFrame | None = None,
        test: IntoDataFrame | None = None,
        min_rating: float | None = None,
        period: tuple[Moment, Moment] | None = None,
        sample_users: float | None = None,
        k_core: int = 1,
        split: tuple[float, float, float] | str = (3, 1, 1),
        cold: str = "keep",
        seed: int = 0,
    ) -> Dataset:
        """Make a dataset of data frames: pandas, Polars or Arrow.

        What is unusual about the data (``findings``) is issued as warnings, and so are users and items of their tables
        without an interaction, and filters that leave out half of the users or items. ``left_out_notes`` has those that
        leave out fewer.

        Args:
            df: interactions, one row each, to be filtered and split.
            name: the dataset's name.
            user: column of user ids.
            item: column of item ids.
            rating: column of ratings; None: there are none.
            timestamp: column of times: seconds since 1970, dates, or their text in one of the usual forms.
            review: column of review texts.
            decimal, timestamp_format, item_separator: how texts write numbers, times and baskets; see
                ``rlmrec.data.file_format``.
            weight: column of quantities, added up for each pair; pairs of at least ``min_weight``, by default of more
                than 0, count. No model weighs pairs by them.
            min_weight: see ``weight``.
            items: columns of items, one row per item.
            items_id: column of item ids in ``items``; by default ``item``.
            title: column of ``items`` with the titles; by default "title", "name" or similar.
            text_columns: columns of ``items`` that go into prompts and text vectors, the title always among them; by
                default those of texts, not dates, truth values, prices, stock and other numbers.
            users: user texts, one row per user.
            users_id: column of user ids in ``users``; by default ``user``.
            train, valid, test: interactions of a ready-made split, instead of ``df``.
            min_rating, period, sample_users, k_core, split, cold, seed: as in ``from_source``.

        Raises:
            ConfigError: neither ``df`` nor a split is given, or filters are given for a split.
            DataError: a column is missing, or a value cannot be used; the message names row and column.

        Example:
            >>> import polars as pl
            >>> ratings = pl.DataFrame({"user_id": [1, 1, 2, 2], "item_id": ["a", "b", "a", "c"]})
            >>> Dataset.from_frame(ratings, split=(2, 1, 1), name="tiny").n_items
            3
        """
        from rlmrec.data.file_format import FileFormat
        from rlmrec.data.frames import read_frames  # Narwhals is imported only here
        from rlmrec.data.tables import Columns

        source = read_frames(
            [("df", df), ("train", train), ("valid", valid), ("test", test)],
            name, Columns(user, item, rating, timestamp, review), items, users, title,
            FileFormat(
                decimal=decimal, timestamp_format=timestamp_format, item_separator=item_separator,
                weight_column=weight, min_weight=min_weight,
            ),
            text_columns, items_id, users_id,
        )  # fmt: skip
        dataset = cls.from_source(
            source, min_rating=min_rating, period=period, sample_users=sample_users, k_core=k_core,
            split=split, cold=cold, seed=seed,
        )  # fmt: skip
        notes = [*dataset._without_interaction(), *dataset._filters_of_much()]
        for told in [*map(str, dataset.findings), *notes]:
            warnings.warn(told, stacklevel=2)
        return dataset

    def save(self, folder: Path | str) -> None:
        """Write the dataset as a folder of Parquet tables and ``dataset.json``, atomically."""
        with atomic_folder(Path(folder), "dataset.json") as temporary:
            tables = {split: _table(part) for split, part in self._parts()}
            tables["users"] = _ids_and_texts(self.users, self.user_texts)
            tables["items"] = _ids_and_texts(self.items, self.item_texts)
            if self.left_out is not None and len(self.left_out):
                tables["left_out"] = self.left_out
            if self.low_rated is not None:
                tables["low_rated"] = _table(self.low_rated)
            for name, table in tables.items():
                table.write_parquet(temporary / f"{name}.parquet")
            manifest = {
                "format": FORMAT,
                "name": self.name,
                "users": self.n_users,
                "items": self.n_items,
                **{split: len(self.split(split)) for split in SPLITS},
                "fingerprint": self.fingerprint,
                "content": self.content,
                "provenance": self.provenance,
                "sha256": {name: sha256(temporary / f"{name}.parquet") for name in tables},
            }
            write_json(temporary / "dataset.json", manifest)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a folder that ``save`` wrote.

        Raises:
            WorkspaceError: the folder is absent, of another format, or a file does not match its checksum.
        """
        folder = complete_folder(Path(folder))
        return read_unchanged(folder / "dataset.json", lambda: cls._checked(folder))

    @classmethod
    def _checked(cls, folder: Path) -> Self:
        if not (folder / "dataset.json").exists():
            raise WorkspaceError(f"no dataset at {folder}: make one with 'rlmrec data …'")
        with damaged(folder, "run 'rlmrec data …' again"):
            return cls._load(folder)

    @classmethod
    def _load(cls, folder: Path) -> Self:
        manifest = _manifest(folder)
        optional = [name for name in ("cold", "left_out", "low_rated") if name in manifest["sha256"]]
        tables = _tables(folder, manifest, [*SPLITS, "users", "items", *optional])
        sides = _sides(tables)
        shape = len(sides[0]), len(sides[1])
        train, valid, test = (_interactions(tables[split], *shape) for split in SPLITS)
        found = cls(
            expect(manifest["name"], str, "the name"),
            train,
            valid,
            test,
            *sides,
            expect(manifest["provenance"], dict, "the provenance"),
            cold=_interactions(tables["cold"], *shape) if "cold" in tables else None,
            left_out=tables.get("left_out"),
            low_rated=_interactions(tables["low_rated"], *shape) if "low_rated" in tables else None,
        )
        # It is of these very tables, as their checksums say; to compute it takes seconds for a million items.
        if "content" in manifest:
            found.__dict__["content"] = expect(manifest["content"], str, "the content")
        return found


@dataclass(frozen=True, eq=False)
class DatasetWithoutPairs(Dataset):
    """A stored dataset for a server, whose recommender knows the interactions: its ids, texts and provenance.

    The splits are empty. What needs interactions (``everything``, ``known``, ``content`` and others) reads it whole.

    Args:
        folder: that the dataset is stored in.
    """

    folder: Path = Path()

    def __post_init__(self) -> None:
        """Check nothing: there are no interactions."""

    @classmethod
    def _load(cls, folder: Path) -> Self:
        manifest = _manifest(folder)
        tables = _tables(folder, manifest, ["users", "items"])
        sides = _sides(tables)
        none = Interactions(np.empty(0, np.int64), np.empty(0, np.int64), len(sides[0]), len(sides[1]))
        found = cls(
            expect(manifest["name"], str, "the name"),
            none,
            none,
            none,
            *sides,
            expect(manifest["provenance"], dict, "the provenance"),
            folder=folder,
        )
        found.__dict__["fingerprint"] = expect(manifest["fingerprint"], str, "the fingerprint")
        return found

    def everything(self) -> Interactions:
        """Read all interactions that are known."""
        return Dataset.load(self.folder).everything()

    def known(self) -> sp.csr_array:
        """Read the pairs that are not recommended."""
        return Dataset.load(self.folder).known()

    def low_ratings(self) -> IntArray:
        """Count the low ratings of each item."""
        return Dataset.load(self.folder).low_ratings()

    @cached_property
    def content(self) -> str:
        """Read everything that the prompts depend on, and return its hash."""
        return Dataset.load(self.folder).content


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = expect(read_json(folder / "dataset.json"), dict, "dataset.json")
    if manifest.get("format", FORMAT) != FORMAT:
        raise WorkspaceError(f"{folder} has format {manifest['format']!r}, this version reads {FORMAT}")
    return manifest


def _sides(
    tables: dict[str, pl.DataFrame],
) -> tuple[Vocabulary, Vocabulary, pl.DataFrame | None, pl.DataFrame | None]:
    """Return users, items, and the texts of items and of users."""
    users = Vocabulary(tables["users"]["id"].to_list(), "user")
    items = Vocabulary(tables["items"]["id"].to_list(), "item")
    return users, items, _texts(tables["items"]), _texts(tables["users"])


def _tables(folder: Path, manifest: dict[str, Any], names: Sequence[str]) -> dict[str, pl.DataFrame]:
    """Read the tables of a dataset, after comparing their checksums."""
    tables = {}
    for name in names:
        path = folder / f"{name}.parquet"
        if not path.exists() or sha256(path) != manifest["sha256"][name]:
            raise WorkspaceError(f"{path} is missing or was changed: run 'rlmrec data …' again")
        tables[name] = pl.read_parquet(path)
    return tables


def left_out_line(reasons: dict[str, int], size: int, kind: str) -> tuple[str, float]:
    """Say how many users or items were left out and why; also return the share of them. ("", 0.0) for none.

    Args:
        reasons: reason → number.
        size: number of those that are left.
        kind: "users" or "items".
    """
    total = sum(reasons.values())
    if not total:
        return "", 0.0
    why = ", ".join(
        f"{count:,} {reason}" if len(reasons) > 1 else reason for reason, count in reasons.items()
    )
    return f"left out: {total:,} of {total + size:,} {kind} ({why})", total / (total + size)


class _LeftOut(NamedTuple):
    """The users and items of a source of which the filters leave no interaction."""

    table: pl.DataFrame
    summary: dict[str, int]


class _Step(NamedTuple):
    """Which users bool[U] and items bool[I] have an interaction after a filter, and why it leaves out the others."""

    reason: str
    users: BoolArray
    items: BoolArray

    @classmethod
    def of(cls, reason: str, kept: Interactions) -> _Step:
        """Look at the interactions that a filter has kept."""
        return cls(reason, kept.user_degrees() > 0, kept.item_degrees() > 0)


def _left_out(source: Source, steps: list[_Step]) -> _LeftOut:
    """Find the users and items that each step leaves out.

    Args:
        source: whose users and items.
        steps: one for each filter; the first is what was read.
    """
    gone: dict[str, list[str]] = {"id": [], "reason": []}
    summary = {}
    for kind, ids in (("users", source.users), ("items", source.items)):
        had: BoolArray = getattr(steps[0], kind)
        for step in steps[1:]:
            reason, has = step.reason, getattr(step, kind)
            rows = np.flatnonzero(had & ~has).tolist()
            if rows:
                summary[f"{kind}: {reason}"] = len(rows)
            if kind == "users" and len(gone["id"]) + len(rows) <= MOST_LEFT_OUT:
                gone["id"] += [str(ids.id(row)) for row in rows]
                gone["reason"] += [reason] * len(rows)
            had = has
    return _LeftOut(pl.DataFrame(gone, schema={"id": pl.String, "reason": pl.String}), summary)


def _without_cold(
    train: Interactions,
    valid: Interactions,
    test: Interactions,
    sides: tuple[Any, ...],
    cold: str,
    provenance: dict[str, Any],
    findings: list[Finding],
) -> tuple[Interactions, Interactions, Interactions, Interactions | None]:
    """Separate the held-out interactions of users without a training interaction, and count them and such items."""
    held_out = joined([valid, test])
    is_new_user = train.user_degrees() == 0
    is_new_item = train.item_degrees() == 0
    new_users = np.unique(held_out.users[is_new_user[held_out.users]])
    new_items = np.unique(held_out.items[is_new_item[held_out.items]])
    if len(new_users) or len(new_items):
        provenance["cold"] = {"users": len(new_users), "items": len(new_items)}
        remedy = {
            "user": by_number(
                len(new_users), "the user is kept and not evaluated", "they are kept and not evaluated"
            ),
            "item": f"interactions alone cannot find {by_number(len(new_items), 'it', 'them')}",
        }
        if cold == "drop":
            remedy = dict.fromkeys(remedy, "their interactions are left out")
        findings += [
            Finding(
                "cold",
                by_number(len(rows), f"{ids.kind} has", f"{ids.kind}s have") + " no training interaction",
                len(rows),
                repr(ids.id(int(rows[0]))),
                f"{remedy[ids.kind]} (cold, --cold keep or drop)",
                ordinary=True,
            )
            for rows, ids in ((new_users, sides[0]), (new_items, sides[1]))
            if len(rows)
        ]
    if cold == "drop":
        valid, test = (
            part.take(~is_new_user[part.users] & ~is_new_item[part.items]) for part in (valid, test)
        )
        return train, valid, test, None
    later = held_out.take(is_new_user[held_out.users]) if len(new_users) else None
    valid, test = (part.take(~is_new_user[part.users]) for part in (valid, test))
    return train, valid, test, later


_ENCODE = json.JSONEncoder(default=str).encode  # json.dumps would make an encoder for each value


def _json(value: Any) -> bytes:
    return _ENCODE(value).encode() + b"\n"


def _json_row(row: Sequence[Any]) -> bytes:
    """Return what ``_json`` returns, cell by cell, as JSONEncoder is slow at anything but a text."""
    cells = ", ".join(["null" if cell is None else _ENCODE(cell) for cell in row])
    return f"[{cells}]\n".encode()


def _filtered(
    kept: Interactions,
    source: Source,
    findings: list[Finding],
    filters: Filters,
    rng: np.random.Generator,
) -> tuple[Interactions, Interactions | None, dict[str, int], _LeftOut]:
    """Apply the filters.

    Returns:
        what is left, the pairs that ``min_rating`` or their weight leaves out, the interactions after each filter,
        and who was left out.
    """
    min_rating, period, sample_users, k_core, *_ = filters
    counts = {"read": len(kept) + source.n_light}
    if source.n_light:
        counts["of enough weight"] = len(kept)
    steps = [_Step.of("", kept)]
    if period is not None:
        kept = kept.between(*period)
        counts["in the period"] = len(kept)
        steps.append(_Step.of("without an interaction in the period", kept))
    low_rated = None
    every = None if min_rating is None else kept  # which else would stay in memory
    if min_rating is not None:
        kept = kept.rated()  # otherwise a later interaction without a rating would hide one with a rating
    kept = _merged(kept, source, findings)
    counts["distinct pairs"] = len(kept)
    if min_rating is not None and every is not None:
        kept = kept.min_rating(min_rating)
        counts["rated high enough"] = len(kept)
        low_rated = every.take(~np.isin(every.keys(), kept.keys())).merged()
        every = None
        steps.append(_Step.of(f"without a rating of at least {min_rating:g}", kept))
    if source.light is not None:
        low_rated = source.light if low_rated is None else joined([low_rated, source.light])
    if sample_users is not None:
        kept = kept.sample_users(sample_users, rng)
        counts["of sampled users"] = len(kept)
        steps.append(_Step.of("not in the sample of users", kept))
    if k_core > 1:
        kept = kept.k_core(k_core)
        counts[f"in the {k_core}-core"] = len(kept)
        steps.append(_Step.of(f"not in the {k_core}-core", kept))
    return kept, low_rated, counts, _left_out(source, steps)


def _merged(part: Interactions, source: Source, findings: list[Finding]) -> Interactions:
    """Merge repeated pairs and note how many there were."""
    merged = part.merged()
    if len(merged) < len(part):
        twice = repeats(part.keys())
        user, item = divmod(int(twice[0]), part.n_items)
        findings.append(
            Finding(
                "repeated pair",
                by_number(len(twice), "pair of user and item occurs", "pairs of user and item occur")
                + " more than once",
                len(twice),
                f"user {source.users.id(user)!r} with item {source.items.id(item)!r}",
                f"the {'last' if part.timestamp is None else 'latest'} interaction of each is kept",
                ordinary=True,
            )
        )
    return merged


def _renumbered(
    kept: Interactions,
    low_rated: Interactions | None,
    users: Vocabulary,
    items: Vocabulary,
    item_texts: pl.DataFrame | None,
    user_texts: pl.DataFrame | None,
) -> tuple[
    Interactions,
    Interactions | None,
    tuple[Vocabulary, Vocabulary, pl.DataFrame | None, pl.DataFrame | None],
]:
    """Drop the users and items without an interaction, and what these have among the pairs that were rated low."""
    user_rows, of_users = _renumber(kept.users, kept.n_users)
    item_rows, of_items = _renumber(kept.items, kept.n_items)
    n_users, n_items = len(user_rows), len(item_rows)
    users_kept, items_kept = of_users[kept.users], of_items[kept.items]
    kept = replace(kept, users=users_kept, items=items_kept, n_users=n_users, n_items=n_items)
    if low_rated is not None:
        low_users, low_items = of_users[low_rated.users], of_items[low_rated.items]
        stay = (low_users >= 0) & (low_items >= 0)
        low_rated = Interactions(low_users[stay], low_items[stay], n_users, n_items) if stay.any() else None
    return (
        kept,
        low_rated,
        (
            Vocabulary((users.id(int(row)) for row in user_rows), "user"),
            Vocabulary((items.id(int(row)) for row in item_rows), "item"),
            item_texts[item_rows] if item_texts is not None else None,
            user_texts[user_rows] if user_texts is not None else None,
        ),
    )


def _renumber(rows: IntArray, size: int) -> tuple[IntArray, IntArray]:
    """Return the rows that occur, ascending, and int64[size]: the place of each row among them, −1 for the others."""
    present = np.zeros(size, bool)
    present[rows] = True
    return np.flatnonzero(present), np.where(present, np.cumsum(present) - 1, -1)


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
