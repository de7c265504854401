"""Audit: proof, from the sources recorded with each profile, that nothing held out reached a prompt."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from rlmrec.data.dataset import SPLITS, Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.errors import DataError
from rlmrec.findings import Finding
from rlmrec.llm.store import UNREADABLE, Profile, Store
from rlmrec.profiles.suspicious import suspicious
from rlmrec.profiles.template import KINDS
from rlmrec.types import IntArray


@dataclass
class Audit:
    """The result of an audit.

    Args:
        profiles: number of profiles checked, by kind, including failed ones, whose prompts were sent as well.
        interactions: number of distinct interactions in the prompts.
        violations: descriptions of the first 20.
        n_violations: number of all violations.
        other_datasets: number of profiles of users or items that this dataset lacks; they are not checked and
            not used.
        findings: profiles that should be looked at; see ``suspicious``. They do not change whether it passed.
    """

    profiles: Counter[str] = field(default_factory=Counter)
    interactions: int = 0
    violations: list[str] = field(default_factory=list)
    n_violations: int = 0
    other_datasets: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether there were profiles to check and no violation."""
        return self.n_violations == 0 and self.profiles.total() > 0

    def _violation(self, line: str) -> None:
        self.n_violations += 1
        if len(self.violations) < 20:
            self.violations.append(line)


def audit(store: Store, dataset: Dataset) -> Audit:
    """Check every recorded source of every profile against the split.

    A source must be a training interaction: of the item in an item's prompt, of the user in a user's. A user's
    prompt also quotes item profiles; the interactions that they were written from are recorded with the user's
    profile and must be training interactions too. A user's prompt without a source is a violation, as there is
    always one.

    An interaction of training that a later low rating took back counts as one, as it was none that is held out.

    The sources belong to the dataset that the profile was written for. A profile that was written for another
    dataset, split or other texts is stale, and a violation, until ``rlmrec profile`` confirms or replaces it.

    Profiles that may be less than what the model wrote become findings.

    Args:
        store: the store of profiles.
        dataset: the dataset with its split.

    Raises:
        DataError: interaction ids occur in several splits, so that they prove nothing.

    Example: ``rlmrec audit -w W`` prints ``audit(Store("W/profiles.sqlite"), Dataset.load("W/dataset"))``.
    """
    index = _Index(dataset)
    found = Audit()
    seen: list[IntArray] = []
    for kind in KINDS:
        vocabulary = dataset.items if kind == "item" else dataset.users
        of_dataset = []
        for profile in store.profiles(kind):
            if profile.key not in vocabulary:
                found.other_datasets += 1
                continue
            of_dataset.append(profile)
            found.profiles[kind] += 1
            if not dataset.keeps_profile(profile.kind, profile.key, profile.dataset):
                found._violation(
                    f"the profile of {kind} {json.dumps(profile.key)} is stale: it was written for another dataset, "
                    f"split or other texts; run 'rlmrec profile --{kind}s' with the same options again"
                )
            seen.append(_check(profile, vocabulary.row(profile.key), index, found))
        found.findings += suspicious(store, of_dataset)
    found.interactions = len(np.unique(np.concatenate(seen))) if seen else 0
    return found


def _check(profile: Profile, row: int, index: _Index, found: Audit) -> IntArray:
    name = f"{profile.kind} {json.dumps(profile.key)}"
    sent = profile.summarization is not None or profile.requests
    if profile.kind == "user" and sent and not profile.sources:
        found._violation(f"the prompt of {name} has no recorded source")
    sources = np.array((*profile.sources, *profile.quoted), np.int64)
    split, users, items = index.look_up(sources)
    for position, source in enumerate(sources.tolist()):
        own = position < len(profile.sources)
        where = f"the prompt of {name} used " + ("" if own else "an item profile written from ")
        where += (
            "something that is not an interaction id" if source == UNREADABLE else f"interaction {source}"
        )
        if source in index.taken_back:
            continue
        if split[position] < 0:
            found._violation(f"{where}, which this dataset does not hold")
        elif SPLITS[split[position]] != "train":
            found._violation(f"{where}, which is held out for {SPLITS[split[position]]}")
        elif own and (items if profile.kind == "item" else users)[position] != row:
            found._violation(f"{where}, which is not of this {profile.kind}")
    return sources


class _Index:
    """Looks up split, user and item of interaction ids."""

    def __init__(self, dataset: Dataset) -> None:
        self.taken_back = frozenset(dataset.taken_back)
        parts = [dataset.split(name) for name in SPLITS]
        ids = np.concatenate([_ids(part) for part in parts])
        order = np.argsort(ids, kind="stable")
        self.ids = ids[order]
        self.split = np.repeat(np.arange(len(parts)), [len(part) for part in parts])[order]
        self.users = np.concatenate([part.users for part in parts])[order]
        self.items = np.concatenate([part.items for part in parts])[order]
        twice = np.flatnonzero((self.ids[1:] == self.ids[:-1]) & (self.ids[1:] >= 0))
        if len(twice):
            raise DataError(
                f"{len(twice)} interaction ids occur more than once, for example {self.ids[twice[0]]}: an "
                "audit needs ids that number the source's rows across all splits; make the dataset again"
            )

    def look_up(self, sources: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Return (split, user, item) of each source; split is -1 for an unknown id."""
        if not len(self.ids):
            return np.full(len(sources), -1), sources, sources
        place = np.minimum(np.searchsorted(self.ids, sources), len(self.ids) - 1)
        known = (self.ids[place] == sources) & (sources >= 0)
        return np.where(known, self.split[place], -1), self.users[place], self.items[place]


def _ids(interactions: Interactions) -> IntArray:
    assert interactions.id is not None  # set by Interactions
    return interactions.id
