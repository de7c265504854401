"""Which text stands for a node: its profile by the language model, its metadata, or both; and what if it has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rlmrec.data.dataset import Dataset
from rlmrec.data.vocabulary import RawId
from rlmrec.errors import DataError, WorkspaceError
from rlmrec.llm.store import Store
from rlmrec.profiles import SOURCES

ON_MISSING = ("text", "drop")


@dataclass(frozen=True)
class Stored:
    """What a store holds of a dataset's items or users.

    Args:
        texts: the summarization of each, in row order; None where there is none.
        failed: nodes whose profiling ended in a failure.
        models: names of the models, with how many profiles each wrote.
        sources: the interactions that each profile was written from.
        unanswered: how many of the failed ones never got an answer from the endpoint.
    """

    texts: list[str | None]
    failed: int
    models: Counter[str]
    sources: list[tuple[int, ...]] = field(default_factory=list)
    unanswered: int = 0

    @property
    def profiled(self) -> int:
        """Nodes with a profile."""
        return sum(text is not None for text in self.texts)

    @property
    def finished(self) -> bool:
        """Whether every node was profiled or recorded as failed, and at least one has a profile."""
        return self.profiled > 0 and self.profiled + self.failed == len(self.texts)


@dataclass(frozen=True)
class NodeTexts:
    """One text a node, and how they came about.

    Args:
        texts: in row order; None for a node without a vector of its own.
        source: "llm", "metadata" or "llm+metadata".
        profile: nodes whose text holds a profile.
        fallback: nodes without one that were given their metadata instead.
        missing: nodes without a text.
    """

    texts: list[str | None]
    source: str
    profile: int = 0
    fallback: int = 0
    missing: int = 0


def stored_profiles(store: Store, dataset: Dataset, kind: str) -> Stored:
    """The profiles of a dataset's items or users in a store.

    Args:
        store: with profiles; those of other nodes are passed over.
        dataset: whose nodes.
        kind: "item" or "user".

    Raises:
        WorkspaceError: one is stale, written for another dataset, split or other texts; or was made from
            interactions that are not this dataset's training interactions: using it would leak what is
            held out.
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
        if profile.dataset != dataset.content:
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
            f"were written for another dataset, split or other texts than {dataset.name} has now; give "
            f"'rlmrec profile --{kind}s' again as before, it asks only for what changed"
        )
    foreign = np.flatnonzero(~np.isin(np.array(sources, np.int64), np.asarray(dataset.train.id)))
    if len(foreign):
        first = foreign[0]
        raise WorkspaceError(
            f"the profile of {kind} {keys[first]!r} was written from interaction {sources[first]}, which is no "
            f"training interaction of {dataset.name}: the profiles belong to another split; write them "
            f"again ('rlmrec profile --{kind}s')"
        )
    return Stored(texts, failed, models, written_from, unanswered)


def node_texts(
    source: str,
    profiles: Sequence[str | None],
    metadata: Sequence[str | None],
    on_missing: str = "text",
) -> NodeTexts:
    """One text a node.

    Args:
        source: "llm": the profile; "metadata"; "llm+metadata": the metadata, then the profile.
        profiles: one a node, None where there is none; not looked at for "metadata".
        metadata: likewise.
        on_missing: what a node without a profile gets: "text": its metadata; "drop": nothing, as in the
            paper. A node without any text has none either way.

    Raises:
        DataError: another source or number of texts.

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
