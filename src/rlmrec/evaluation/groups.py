"""Groups of items by popularity and of users by activity, and the accuracy within each group."""

from __future__ import annotations

import numpy as np

from rlmrec.data.dataset import Dataset
from rlmrec.evaluation.ranking import Ranking
from rlmrec.types import BoolArray, FloatArray, IntArray

ITEM_GROUPS = ("head", "middle", "tail")
USER_GROUPS = ("sparse", "active")


def head_mid_tail(popularity: IntArray) -> IntArray:
    """Return the popularity group of each item, int64[I]: 0 head, 1 middle, 2 tail.

    The most popular items that together have a fifth of the interactions are the head, the least popular ones that
    have a fifth are the tail.

    Args:
        popularity: int64[I], training interactions of each item.

    Source: Abdollahpouri et al., RMSE workshop at RecSys 2019 (Section 3).

    Example:
        >>> head_mid_tail(np.array([1, 5, 10, 2, 2])).tolist()
        [2, 1, 0, 1, 2]
    """
    order = np.argsort(-popularity, kind="stable")
    before = np.cumsum(popularity[order]) - popularity[order]  # interactions of more popular items
    share = before / max(1, popularity.sum())
    groups = np.empty(len(popularity), np.int64)
    groups[order] = np.where(share < 0.2, 0, np.where(share < 0.8, 1, 2))
    return groups


def item_group_recall(ranking: Ranking, dataset: Dataset, groups: IntArray) -> tuple[FloatArray, BoolArray]:
    """Compute the recall of the held-out test items of each popularity group, for each user of a ranking.

    Args:
        ranking: of the test split.
        dataset: with this test split.
        groups: int64[I], as ``head_mid_tail`` returns.

    Returns:
        float64[3, n], recall at the greatest k of the ranking; bool[3, n], whether the user has such items.
    """
    wanted = dataset.test.csr()[ranking.users]
    rows = np.repeat(np.arange(len(ranking)), np.diff(wanted.indptr))
    of_item = groups[wanted.indices]
    numbers = range(len(ITEM_GROUPS))
    counts = np.stack([np.bincount(rows[of_item == one], minlength=len(ranking)) for one in numbers])
    hits = np.stack([(ranking.hits & (groups[ranking.items] == one)).sum(axis=1) for one in numbers])
    return hits / np.maximum(counts, 1), counts > 0


def group_metrics(ranking: Ranking, dataset: Dataset) -> dict[str, float]:
    """Compute Recall@20 of head, middle and tail items and of sparse and active users on the test split.

    Interactions that an experiment hides from training count too, so that the groups stay the same.

    Returns:
        "head", "middle", "tail": recall of the held-out items of this group, over the users who have any;
        "sparse", "active": recall of the users with at most, and with more than, the median number of training
        interactions among them. A group without users is left out.
    """
    known = dataset.excluded()
    popularity = np.bincount(known.indices, minlength=dataset.n_items)
    values, having = item_group_recall(ranking, dataset, head_mid_tail(popularity))
    recall = ranking.per_user(f"recall@{ranking.k[-1]}")
    degrees = np.diff(known.indptr)[ranking.users]
    sparse = degrees <= np.median(degrees)
    parts = [
        *zip(ITEM_GROUPS, values, having, strict=True),
        *((name, recall, mask) for name, mask in zip(USER_GROUPS, (sparse, ~sparse), strict=True)),
    ]
    return {name: float(found[mask].mean()) for name, found, mask in parts if mask.any()}
