"""Which text stands for a user or an item: its profile, its metadata, or both; and which if it has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlmrec.data.dataset import Dataset
from rlmrec.data.metadata import MEANS, metadata_texts, own_texts, unused_user_texts
from rlmrec.data.tables import read_texts
from rlmrec.data.vocabulary import RawId
from rlmrec.errors import DataError, WorkspaceError
from rlmrec.files import is_full
from rlmrec.llm.store import Store
from rlmrec.profiles import SOURCES

PROFILES = (*SOURCES, "mean")
USER_VECTORS = ("profiles", "texts", "mean")
ON_MISSING = ("text", "drop")


@dataclass(frozen=True)
class StoredProfiles:
    """The profiles of a dataset's items or users in a store.

    Args:
        texts: the summarization of each node, in row order; None without one.
        failed: number of nodes whose profiling failed.
        models: names of the models, with the number of profiles that each wrote.
        sources: ids of the interactions that each profile was written from.
        unanswered: number of failed nodes that never got an answer from the endpoint.
    """

    texts: list[str | None]
    failed: int
    models: Counter[str]
    sources: list[tuple[int, ...]] = field(default_factory=list)
    unanswered: int = 0

    @classmethod
    def none(cls, size: int) -> StoredProfiles:
        """Return the profiles of ``size`` nodes of which none has one."""
        return cls([None] * size, 0, Counter(), [()] * size)

    @property
    def profiled(self) -> int:
        """Number of nodes with a profile."""
        return sum(text is not None for text in self.texts)

    @property
    def finished(self) -> bool:
        """Whether every node has a profile or failed, and at least one has a profile."""
        return self.profiled > 0 and self.profiled + self.failed == len(self.texts)

    @property
    def authors(self) -> str:
        """Names of the models, the one with the most profiles first."""
        return ", ".join(model for model, _ in self.models.most_common())


@dataclass(frozen=True)
class NodeTexts:
    """One text per node, and how many of them are what.

    Args:
        texts: in row order; None for a node without a text.
        source: "llm", "metadata" or "llm+metadata".
        profile: number of nodes whose text contains a profile.
        fallback: number of nodes without a profile whose text is their metadata instead.
        missing: number of nodes without a text.
    """

    texts: list[str | None]
    source: str
    profile: int = 0
    fallback: int = 0
    missing: int = 0


@dataclass(frozen=True)
class TextSelection:
    """The kinds of texts to encode, and the profiles among them.

    Args:
        items: one of ``SOURCES``.
        users: one of ``USER_VECTORS``.
        item_profiles: of all items.
        user_profiles: of all users.
        unused: a line for each set of profiles or users' texts that exists and is not used.
    """

    items: str
    users: str
    item_profiles: StoredProfiles
    user_profiles: StoredProfiles
    unused: list[str]

    def manifest(self, items: NodeTexts, users: NodeTexts | None, on_missing: str) -> dict[str, Any]:
        """Return what the manifest of the vectors records about their texts."""
        return {
            "profiles": self.items,
            "users": MEANS if self.users == "mean" else self.users,
            "on_missing": on_missing,
            "models": dict(self.item_profiles.models) if self.items != "metadata" else {},
            "items_with_profile": items.profile,
            "items_with_fallback": items.fallback,
            "items_failed": self.item_profiles.failed,
            "users_with_profile": 0 if users is None else users.profile,
            "users_failed": self.user_profiles.failed,
        }

    def describe(self, items: NodeTexts, users: NodeTexts | None) -> Iterator[str]:
        """Yield a line about the items' texts, one about the users', and those about what is not used."""
        if self.items == "metadata":
            yield f"items: their metadata; {items.missing:,} of {len(items.texts):,} have none"
        else:
            also = " after their metadata" if self.items == "llm+metadata" else ""
            line = (
                f"items: profiles by {self.item_profiles.authors}{also}: {items.profile:,} of "
                f"{len(items.texts):,}"
            )
            if others := items.fallback + items.missing:
                line += (
                    f"; of the other {others:,} ({self.item_profiles.failed:,} failed) {items.fallback:,} have "
                    f"their metadata instead, {items.missing:,} nothing"
                )
            yield line
        if users is None:
            yield "users: the mean over their training items' vectors"
        elif self.users == "texts":
            yield f"users: their texts; {users.missing:,} of {len(users.texts):,} have none"
        else:
            yield (
                f"users: profiles by {self.user_profiles.authors}: {users.profile:,} of {len(users.texts):,} "
                f"({self.user_profiles.failed:,} failed)"
            )
        yield from self.unused


def select_texts(
    dataset: Dataset,
    store: Path,
    profiles: str | None = None,
    user_vectors: str | None = None,
    *,
    item_file: bool = False,
    user_file: bool = False,
) -> TextSelection:
    """Decide which texts are encoded: as the arguments say, else by the profiles in the store.

    By default items are represented by their profiles once all items were profiled, and users by theirs once
    all users were; before that items by their metadata, and users by the mean over their training items.

    Args:
        dataset: whose items and users.
        store: file of the store of profiles; it need not exist.
        profiles: one of ``PROFILES`` for the items; "mean" is "llm" with users by the mean.
        user_vectors: one of ``USER_VECTORS``.
        item_file: metadata of items are given in a file, so that they come before profiles.
        user_file: texts of users are given in a file, likewise.

    Raises:
        WorkspaceError: profiles are required, and there are none or they cannot be used.
    """
    unused: list[str] = []
    item = _read_profiles(store, dataset, "item", profiles not in (None, "metadata"), unused)
    user = _read_profiles(store, dataset, "user", user_vectors == "profiles", unused)
    for kind, found, needed in (
        ("item", item, profiles in ("llm", "llm+metadata")),
        ("user", user, user_vectors == "profiles"),
    ):
        if needed and not found.profiled:
            raise WorkspaceError(
                f"{store.parent} holds no profile of {kind}s of {dataset.name}: write them first "
                f"('rlmrec profile --{kind}s')"
            )
    if profiles in SOURCES:
        items = profiles
    elif profiles == "mean":
        items = "llm" if item.profiled else "metadata"
    else:
        items = "llm" if item.finished and not item_file else "metadata"
    if user_vectors is not None:
        users = user_vectors
    elif user_file:
        users = "texts"
    else:
        follow = profiles != "mean" and items != "metadata" and user.finished
        users = "profiles" if follow else "mean"
    for nodes, found, used, option in (
        ("items", item, items != "metadata", "--profiles llm"),
        ("users", user, users == "profiles", "--user-vectors profiles"),
    ):
        if found.profiled and not used:
            unused.append(
                f"not used: profiles of {found.profiled:,} of {len(found.texts):,} {nodes} in {store}; "
                f"{option} uses them"
            )
    if users != "texts" and (own := unused_user_texts(dataset)):
        unused.append(f"{own}; --user-vectors texts uses them")
    return TextSelection(items, users, item, user, unused)


def _read_profiles(
    path: Path, dataset: Dataset, kind: str, required: bool, unused: list[str]
) -> StoredProfiles:
    """Read the profiles of one kind; profiles that cannot be used are an error only if they are required."""
    if path.exists():
        try:
            with Store(path, create=False) as store:
                return stored_profiles(store, dataset, kind)
        except WorkspaceError as error:
            if required or is_full(error):  # a full disk must not change which texts are used
                raise
            unused.append(f"not used: {error}")
    return StoredProfiles.none(dataset.n_items if kind == "item" else dataset.n_users)


def stored_profiles(store: Store, dataset: Dataset, kind: str) -> StoredProfiles:
    """Read the profiles of a dataset's items or users from a store.

    Args:
        store: the store; profiles of nodes that the dataset lacks are ignored.
        dataset: whose nodes.
        kind: "item" or "user".

    Raises:
        WorkspaceError: a profile is stale, written for another dataset, split or other texts; or it was written
            from interactions that are not training interactions of this dataset: using it would leak held-out
            ones.
    """
    vocabulary = dataset.items if kind == "item" else dataset.users
    texts: list[str | None] = [None] * len(vocabulary)
    written_from: list[tuple[int, ...]] = [()] * len(vocabulary)
    stale: list[RawId] = []
    failed = unanswered = 0
    models: Counter[str] = Counter()
    keys: list[RawId] = []
    sources: list[int] = []
    for profile in store.profiles(kind):
        if profile.key not in vocabulary:
            continue
        if not dataset.keeps_profile(kind, profile.key, profile.dataset):
            stale.append(profile.key)
            continue
        if profile.summarization is None:
            failed += 1
            unanswered += profile.error_kind == "endpoint"
            continue
        row = vocabulary.row(profile.key)
        texts[row], written_from[row] = profile.summarization, profile.sources
        models[profile.model] += 1
        keys.extend([profile.key] * len(profile.sources))
        sources.extend(profile.sources)
    if stale:
        raise WorkspaceError(
            f"{len(stale):,} {kind} profiles in {store.path} are stale, for example that of {kind} {stale[0]!r}: they "
            f"were written for another dataset, split or other texts than {dataset.name} has now; run "
            f"'rlmrec profile --{kind}s' with the same options again, it re-sends only prompts that changed"
        )
    foreign = np.flatnonzero(~np.isin(np.array(sources, np.int64), np.asarray(dataset.train.id)))
    if len(foreign):
        first = foreign[0]
        raise WorkspaceError(
            f"the profile of {kind} {keys[first]!r} was written from interaction {sources[first]}, which is no "
            f"training interaction of {dataset.name}: the profiles belong to another split; write them "
            f"again ('rlmrec profile --{kind}s')"
        )
    return StoredProfiles(texts, failed, models, written_from, unanswered)


def metadata_of(
    dataset: Dataset,
    kind: str,
    file: Path | None = None,
    id_column: str | None = None,
    columns: list[str] | None = None,
) -> list[str | None]:
    """Return the metadata of each item or user as text, None without any.

    Args:
        dataset: the dataset.
        kind: "item" or "user".
        file: a table of texts; by default those of the dataset.
        id_column: the file's column of ids; by default "item_id" or "user_id".
        columns: the columns to use; by default all of the file, and of the dataset those that describe.

    Raises:
        ConfigError: there is no file, and the dataset has no texts.
        DataError: the file cannot be used; see ``read_texts``.
    """
    if file is not None:
        vocabulary = dataset.items if kind == "item" else dataset.users
        return metadata_texts(read_texts(file, vocabulary, id_column or f"{kind}_id", columns), columns)
    return own_texts(dataset, kind, columns)


def node_texts(
    source: str,
    profiles: Sequence[str | None],
    metadata: Sequence[str | None],
    on_missing: str = "text",
) -> NodeTexts:
    """Choose one text per node.

    Args:
        source: "llm": the profile; "metadata"; "llm+metadata": the metadata, then the profile.
        profiles: one per node, None without one; not used for "metadata".
        metadata: likewise.
        on_missing: the text of a node without a profile. "text": its metadata; "drop": none, as in the paper.

    Raises:
        DataError: an unknown source, or not as many profiles as metadata texts.

    Example:
        >>> node_texts("llm", ["For night owls.", None], ["Emma.", "Ulysses."])
        NodeTexts(texts=['For night owls.', 'Ulysses.'], source='llm', profile=1, fallback=1, missing=0)
    """
    if source not in SOURCES or on_missing not in ON_MISSING or len(profiles) != len(metadata):
        raise DataError(
            f"got source {source!r}, on_missing {on_missing!r}, {len(profiles)} profiles and {len(metadata)} "
            f"metadata texts: expected one of {', '.join(SOURCES)}, one of {', '.join(ON_MISSING)}, and as many of both"
        )
    if source == "metadata":
        return NodeTexts(list(metadata), source, missing=sum(text is None for text in metadata))
    texts: list[str | None] = []
    counts: Counter[str] = Counter()
    for profile, plain in zip(profiles, metadata, strict=True):
        if profile is not None:
            counts["profile"] += 1
            both = source == "llm+metadata" and plain is not None
            texts.append(f"{plain} {profile}" if both else profile)
        elif on_missing == "text" and plain is not None:
            counts["fallback"] += 1
            texts.append(plain)
        else:
            counts["missing"] += 1
            texts.append(None)
    return NodeTexts(texts, source, **counts)
