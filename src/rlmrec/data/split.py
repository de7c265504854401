"""Splitting interactions into training, validation and test (Section 4.1.1: 3:1:1)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError, DataError
from rlmrec.types import FloatArray, IntArray

KINDS = ("random", "hash", "temporal", "leave-last")
Parts = tuple[Interactions, Interactions, Interactions]


@dataclass(frozen=True)
class SplitRule:
    """A rule by which interactions go to training, validation or test.

    random: by chance, in the ratio ``shares``; each user and item keeps a training interaction.
    hash: by a hash of the pair of ids, about in the ratio, so that a pair always falls into the same split.
    temporal: validation begins at the first of two moments and test at the second; ``shares`` finds the moments.
    leave-last: each user's last ``last`` interactions are for test and the ``last`` before them for validation.

    Args:
        kind: one of these.
        shares: ratio of training, validation and test; of all but leave-last.
        moments: seconds since 1970 of temporal; None takes ``shares``.
        last: K of leave-last.
    """

    kind: str = "random"
    shares: tuple[float, float, float] = (3, 1, 1)
    moments: tuple[float, float] | None = None
    last: int = 1

    @classmethod
    def parse(cls, text: str) -> SplitRule:
        """Read a rule from text.

        Raises:
            ConfigError: it is none.

        Example:
            >>> SplitRule.parse("leave-last 2").last, SplitRule.parse("temporal 8:1:1").shares
            (2, (8.0, 1.0, 1.0))
        """
        words = text.split()
        kind = words.pop(0) if words and words[0] in KINDS else "random"
        try:
            if kind == "leave-last" and len(words) <= 1:
                last = int(words[0]) if words else 1
                if last >= 1:
                    return cls(kind, last=last)
            elif kind == "temporal" and len(words) == 2:
                start, end = (_moment(word) for word in words)
                if start <= end:
                    return cls(kind, moments=(start, end))
            elif not words:
                if text:
                    return cls(kind)
            elif len(words) == 1:
                train, valid, test = (float(part) for part in words[0].split(":"))
                return cls(kind, (train, valid, test))
        except ValueError:
            pass
        raise ConfigError(
            f"split {text!r}: expected three numbers such as 3:1:1, 'hash 3:1:1', 'temporal 8:1:1', "
            "'temporal 2026-11-01 2026-11-15' (where validation and test begin) or 'leave-last 1'"
        )

    def __str__(self) -> str:
        if self.kind == "leave-last":
            return f"leave-last {self.last}"
        if self.moments is not None:
            days = (datetime.fromtimestamp(moment, UTC).isoformat() for moment in self.moments)
            return f"{self.kind} {' '.join(day.removesuffix('+00:00') for day in days)}"
        return f"{self.kind} {':'.join(f'{share:g}' for share in self.shares)}"

    def settled(self, interactions: Interactions) -> SplitRule:
        """Return the rule with the moments that ``shares`` means for these interactions."""
        if self.kind != "temporal" or self.moments is not None:
            return self
        times, shares = _times(interactions, self.kind), check_shares(self.shares)
        ends = np.cumsum(shares / shares.sum())[:2]
        ordered = np.sort(times)
        places = np.minimum((ends * len(times)).round().astype(np.int64), len(times) - 1)
        start, end = (float(ordered[place]) for place in places)
        return replace(self, moments=(start, end))

    def parts(
        self, interactions: Interactions, users: Vocabulary, items: Vocabulary, rng: np.random.Generator
    ) -> Parts:
        """Split interactions; under temporal and leave-last a user may be left without training.

        Args:
            interactions: n distinct pairs.
            users: raw ids, which the hash is of.
            items: likewise.
            rng: source of a random split.

        Raises:
            DataError: there are no interactions or no timestamps, or nothing is left to train on.
        """
        if self.kind == "random":
            return split_by_ratio(interactions, self.shares, rng)
        if not len(interactions):
            raise DataError("there are no interactions to split")
        if self.kind == "hash":
            place = self.places(interactions, users, items)
            place[untrained(interactions, place)] = 0
        elif self.kind == "temporal":
            place = self.places(interactions, users, items)
        else:
            place = last_places(interactions, self.last)
        if not (place == 0).any():
            raise DataError(f"the split {self} leaves nothing to train on: let validation begin later")
        train, valid, test = (interactions.take(place == part) for part in range(3))
        return train, valid, test

    def places(self, interactions: Interactions, users: Vocabulary, items: Vocabulary) -> IntArray:
        """Return int64[n], 0 training, 1 validation or 2 test, of hash or temporal: it depends on the pair alone."""
        if self.kind == "temporal":
            moments = self.settled(interactions).moments
            return np.searchsorted(np.asarray(moments), _times(interactions, self.kind), side="right")
        shares = check_shares(self.shares)
        ends = np.cumsum(shares / shares.sum())[:2]
        return np.searchsorted(ends, _pair_hash(interactions, users, items), side="right")


def _moment(word: str) -> float:
    moment = datetime.fromisoformat(word)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _times(interactions: Interactions, kind: str) -> FloatArray:
    if interactions.timestamp is None:
        raise DataError(
            f"a {kind} split needs timestamps and none were read: name their column (timestamp, --timestamp-column)"
        )
    return interactions.timestamp


def check_shares(ratio: Sequence[float]) -> FloatArray:
    """Return a ratio of training, validation and test as float64[3].

    Raises:
        DataError: it is not three non-negative numbers of which the first is positive.
    """
    try:
        parts = np.asarray(ratio, float)
    except (TypeError, ValueError):
        parts = np.empty(0)
    if parts.shape != (3,) or not np.isfinite(parts).all() or (parts < 0).any() or parts[0] <= 0:
        raise DataError(
            f"a split needs three non-negative numbers such as 3:1:1, got {ratio!r}: in Python pass (3, 1, 1), or a "
            "text such as 'temporal 8:1:1'"
        )
    return parts


def _pair_hash(interactions: Interactions, users: Vocabulary, items: Vocabulary) -> FloatArray:
    """Return float64[n] in [0, 1), a hash of the two raw ids, the same on every machine and in every version."""
    of_users, of_items = (
        np.array(
            [
                int.from_bytes(
                    hashlib.blake2b(f"{ids.kind} {raw}".encode(), digest_size=8).digest(), "little"
                )
                for raw in ids.ids
            ],
            np.uint64,
        )
        for ids in (users, items)
    )
    mixed: npt.NDArray[np.uint64] = of_users[interactions.users] * np.uint64(3) + of_items[interactions.items]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53


def untrained(interactions: Interactions, place: IntArray) -> IntArray:
    """Return one held-out interaction of each user and each item that has none in training."""
    chosen: list[IntArray] = []
    for rows, size in (
        (interactions.users, interactions.n_users),
        (interactions.items, interactions.n_items),
    ):
        trained = np.bincount(rows[place == 0], minlength=size) > 0
        waiting = np.flatnonzero(~trained[rows])
        chosen.append(waiting[_first(rows[waiting], size)])
    return np.unique(np.concatenate(chosen))


def last_places(interactions: Interactions, last: int) -> IntArray:
    """Return int64[n], the split of each interaction by its place from the end of its user's history.

    A user with few interactions keeps one for training, and test comes before validation.
    """
    times = _times(interactions, "leave-last")
    order = np.lexsort((np.arange(len(times)), times, interactions.users))
    counts = interactions.user_degrees()
    ends = np.repeat(np.cumsum(counts), counts)
    from_end = np.empty(len(times), np.int64)
    from_end[order] = ends - 1 - np.arange(len(times))
    spare = counts[interactions.users] - 1
    return np.where(
        from_end < np.minimum(last, spare), 2, np.where(from_end < np.minimum(2 * last, spare), 1, 0)
    )


def split_by_ratio(interactions: Interactions, ratio: Sequence[float], rng: np.random.Generator) -> Parts:
    """Split at random in the given ratio so that each user and each item keeps a training interaction.

    Of the shuffled interactions, the first of every user and the first of every item go to training. The rest
    is distributed so that the three sizes have the ratio exactly (rounded), unless those first ones alone are
    more than training's share.

    Args:
        interactions: n distinct pairs.
        ratio: three non-negative numbers, for example (3, 1, 1); training's is positive.
        rng: source of the order.

    Returns:
        training, validation and test: a partition of ``interactions``, each in the original order.

    Raises:
        DataError: the ratio is invalid, there are no interactions, or there is only one user.
    """
    parts = check_shares(ratio)
    n = len(interactions)
    n_active = int((interactions.user_degrees() > 0).sum())
    if n == 0:
        raise DataError("there are no interactions to split")
    if n_active < 2:
        raise DataError(f"collaborative filtering needs at least 2 users, got {n_active}")
    order = rng.permutation(n)
    must_train = np.zeros(n, bool)
    for side, size in (("users", interactions.n_users), ("items", interactions.n_items)):
        must_train[_first(interactions.stored(side)[order], size)] = True
    # Those that must be trained on come first, so one cut after n_train keeps them all in training.
    dealt = np.concatenate([order[must_train], order[~must_train]])
    del order
    n_train = max(int(must_train.sum()), round(n * parts[0] / parts.sum()))
    held_out = parts[1] + parts[2]
    n_valid = round((n - n_train) * parts[1] / held_out) if held_out else 0
    cuts = np.split(dealt, [n_train, n_train + n_valid])
    train, valid, test = (interactions.take(np.sort(cut)) for cut in cuts)
    return train, valid, test


def split_by_time(
    interactions: Interactions, share: float, per_user: bool = False
) -> tuple[Interactions, Interactions]:
    """Cut in two by timestamp, then keep the users and items that occur on both sides (Table 3).

    Args:
        interactions: interactions with timestamps.
        share: share of the interactions before the cut, in (0, 1). Interactions with equal timestamps stay together.
        per_user: cut each user's own history at that share instead of everybody's at one moment. This keeps users
            whose interactions are all from one day.

    Returns:
        the earlier and the later part. The numbers of users and items stay; those that are removed have no
        interactions.

    Raises:
        DataError: there are no timestamps, the share is invalid, or no user is on both sides.
    """
    if interactions.timestamp is None:
        raise DataError(
            "a split by time needs timestamps and this dataset has none: read it with their column "
            "(--timestamp-column), or take a dataset that has them"
        )
    if not 0 < share < 1:
        raise DataError(f"the share before the cut must be in (0, 1), got {share:g}")
    times, users = interactions.timestamp, interactions.users
    if per_user:
        order = np.lexsort((times, users))
        counts = interactions.user_degrees()
        place = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
        last = (
            np.maximum(1, np.floor(share * counts)).astype(np.int64) - 1
        )  # of the earlier part, within a user
        cuts = np.zeros(interactions.n_users)
        at_cut = place == np.repeat(last, counts)
        cuts[users[order][at_cut]] = times[order][at_cut]
        is_early = times <= cuts[users]
    else:
        is_early = times <= np.quantile(times, share, method="lower")
    early, late = interactions.take(is_early), interactions.take(~is_early)
    # Removing a user can remove the last interaction of an item on one side, and so on: repeat until nothing changes.
    while True:
        keep_users = (early.user_degrees() > 0) & (late.user_degrees() > 0)
        keep_items = (early.item_degrees() > 0) & (late.item_degrees() > 0)
        kept = [part.take(keep_users[part.users] & keep_items[part.items]) for part in (early, late)]
        if [len(part) for part in kept] == [len(early), len(late)]:
            break
        early, late = kept
    if not len(early):
        raise DataError(f"no user has interactions with the same items before and after the cut at {share:g}")
    return early, late


def _first(rows: IntArray, size: int) -> IntArray:
    """Return the position of the first occurrence of each row that occurs."""
    first = np.full(size, -1)
    first[rows[::-1]] = np.arange(len(rows))[::-1]  # written backwards, so that the first one stays
    return first[first >= 0]
