"""Splitting interactions into training, validation and test (Section 4.1.1: 3:1:1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlmrec.data.interactions import Interactions
from rlmrec.errors import DataError
from rlmrec.types import IntArray


def split_by_ratio(
    interactions: Interactions, ratio: Sequence[float], rng: np.random.Generator
) -> tuple[Interactions, Interactions, Interactions]:
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
    try:
        parts = np.asarray(ratio, float)
    except (TypeError, ValueError):  # such as the text "3:1:1"
        raise DataError(f"a split needs three numbers such as (3, 1, 1), got {ratio!r}") from None
    if parts.shape != (3,) or not np.isfinite(parts).all() or (parts < 0).any() or parts[0] <= 0:
        raise DataError(f"a split needs three non-negative numbers such as 3:1:1, got {ratio!r}")
    n = len(interactions)
    n_active = int((interactions.user_degrees() > 0).sum())
    if n == 0:
        raise DataError("there are no interactions to split")
    if n_active < 2:
        raise DataError(f"collaborative filtering needs at least 2 users, got {n_active}")
    order = rng.permutation(n)
    must_train = np.zeros(n, bool)
    must_train[_first(interactions.users[order], interactions.n_users)] = True
    must_train[_first(interactions.items[order], interactions.n_items)] = True
    # Those that must be trained on come first, so one cut after n_train keeps them all in training.
    dealt = np.concatenate([order[must_train], order[~must_train]])
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
