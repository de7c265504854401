"""Splitting interactions into training, validation and test (Section 4.1.1: 3:1:1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlmrec.data.interactions import IntArray, Interactions
from rlmrec.errors import DataError


def split_by_ratio(
    interactions: Interactions, ratio: Sequence[float], rng: np.random.Generator
) -> tuple[Interactions, Interactions, Interactions]:
    """Split at random in the given ratio so that each user and each item keeps a training interaction.

    Of the shuffled interactions, the first of every user and the first of every item go to training; the
    rest is dealt out so that the three sizes meet the ratio exactly (rounded), unless those first ones
    alone are more than training's share.

    Args:
        interactions: n distinct pairs.
        ratio: three non-negative numbers, for example (3, 1, 1); training's is positive.
        rng: source of the order.

    Returns:
        training, validation and test: a partition of ``interactions``, each in the original order.

    Raises:
        DataError: a bad ratio, no interactions, or a single user.
    """
    parts = np.asarray(ratio, float)
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
    dealt = np.concatenate([order[must_train], order[~must_train]])
    n_train = max(int(must_train.sum()), round(n * parts[0] / parts.sum()))
    held_out = parts[1] + parts[2]
    n_valid = round((n - n_train) * parts[1] / held_out) if held_out else 0
    cuts = np.split(dealt, [n_train, n_train + n_valid])
    train, valid, test = (interactions.take(np.sort(cut)) for cut in cuts)
    return train, valid, test


def _first(rows: IntArray, size: int) -> IntArray:
    """Where each row that occurs does so first."""
    first = np.full(size, -1)
    first[rows[::-1]] = np.arange(len(rows))[::-1]  # written backwards, so that the first one stays
    return first[first >= 0]
