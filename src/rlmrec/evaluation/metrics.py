"""Metrics of ranked lists: accuracy and novelty per user, coverage and evenness of all lists together.

Accuracy metrics take ``hits`` bool[n, k] (whether the item at rank r = 1 … k is held out) and ``n_relevant`` int[n]
(number of the user's held-out items, at least 1), and return float64[n] in [0, 1]. k is the number of columns: pass
``hits[:, :k]`` for a shorter list.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rlmrec.types import BoolArray, FloatArray, IntArray


def recall(hits: BoolArray, n_relevant: IntArray) -> FloatArray:
    """Compute the share of the held-out items that are in the list.

        Recall@k = hits / |held-out|

    Example:
        >>> recall(np.array([[True, False, True]]), np.array([4])).tolist()
        [0.5]
    """
    shares: FloatArray = hits.sum(axis=1) / n_relevant
    return shares


def precision(hits: BoolArray, n_relevant: IntArray) -> FloatArray:  # noqa: ARG001
    """Compute the share of the list that is held out.

        Precision@k = hits / k

    The divisor is k also where the catalogue left fewer than k candidates.
    """
    found: IntArray = hits.sum(axis=1)
    shares: FloatArray = found / hits.shape[1]
    return shares


def hit_rate(hits: BoolArray, n_relevant: IntArray) -> FloatArray:  # noqa: ARG001
    """Return 1 where at least one held-out item is in the list, else 0."""
    found: IntArray = hits.sum(axis=1)
    return (found > 0).astype(np.float64)


def mrr(hits: BoolArray, n_relevant: IntArray) -> FloatArray:  # noqa: ARG001
    """Compute the reciprocal rank of the first hit; its mean over users is MRR@k.

    RR@k = 1 / min{r : hit_r}, 0 without a hit
    """
    # argmax is 0 for a row without a hit, too: the numerator is what makes such a row 0.
    reciprocal: FloatArray = hits.any(axis=1) / (hits.argmax(axis=1) + 1)
    return reciprocal


def ndcg(hits: BoolArray, n_relevant: IntArray) -> FloatArray:
    """Compute normalised discounted cumulative gain with binary gains.

        NDCG@k = Σ_{r ≤ k} hit_r / log2(r + 1)  /  Σ_{r ≤ min(k, |held-out|)} 1 / log2(r + 1)

    Example:
        >>> ndcg(np.array([[True, False, True]]), np.array([2])).round(4).tolist()
        [0.9197]
    """
    k = hits.shape[1]
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)
    gained: FloatArray = hits @ discount
    # The product sums in another order than cumsum, so a perfect list could exceed 1 by a rounding error.
    shares: FloatArray = np.minimum(gained / ideal[np.minimum(n_relevant, k) - 1], 1)
    return shares


def average_precision(hits: BoolArray, n_relevant: IntArray) -> FloatArray:
    """Compute average precision; its mean over users is MAP@k.

        AP@k = Σ_{r ≤ k} hit_r · Precision@r  /  min(k, |held-out|)

    There are two definitions in use. With this one the best value is always 1; trec_eval's ``map_cut`` divides by
    the number of held-out items instead and cannot reach 1 when that exceeds k.
    """
    k = hits.shape[1]
    precisions = np.cumsum(hits, axis=1) / np.arange(1, k + 1)
    means: FloatArray = np.minimum((hits * precisions).sum(axis=1) / np.minimum(n_relevant, k), 1)
    return means


# A new accuracy metric is a function above and a line here; commands and reports take their names from it.
ACCURACY: dict[str, Callable[[BoolArray, IntArray], FloatArray]] = {
    "recall": recall,
    "ndcg": ndcg,
    "precision": precision,
    "mrr": mrr,
    "hit_rate": hit_rate,
    "map": average_precision,
}


def novelty(ranked: IntArray, popularity: IntArray, n_users: int) -> FloatArray:
    """Compute the novelty of each list: the mean self-information of its items, in bits.

        novelty = mean_{i in list} −log2 p_i,   p_i = max(1, training users of i) / U

    An item without a training interaction counts as if it had one, so that the value is finite.

    Args:
        ranked: int64[n, k] item rows, −1 where the list is shorter than k.
        popularity: int64[I], training interactions of each item.
        n_users: U.

    Returns:
        float64[n] in [0, log2 U]; 0 for an empty list.

    Source: Zhou et al. 2010, PNAS 107(10).
    """
    return _mean_of_items(ranked, -np.log2(np.maximum(popularity, 1) / n_users))


def average_popularity(ranked: IntArray, popularity: IntArray) -> FloatArray:
    """Return float64[n], the mean number of training interactions of the items in each list; 0 for an empty list."""
    return _mean_of_items(ranked, popularity.astype(np.float64))


def _mean_of_items(ranked: IntArray, values: FloatArray) -> FloatArray:
    listed = ranked >= 0  # -1 marks the places behind the end of a short list
    sums: FloatArray = np.where(listed, values[ranked], 0).sum(axis=1)
    means: FloatArray = sums / np.maximum(listed.sum(axis=1), 1)
    return means


def coverage(ranked: IntArray, n_items: int) -> float:
    """Return the share of the catalogue that is in at least one list: the number of such items over I."""
    return float((_exposure(ranked, n_items) > 0).mean())


def gini(ranked: IntArray, n_items: int) -> float:
    """Compute the Gini index of exposure: 0 if all items are in equally many lists, close to 1 if only one is shown.

        G = Σ_{j = 1..I} (2j − I − 1) x_(j)  /  (I · Σ_j x_(j))

    x_(1) ≤ … ≤ x_(I) are the numbers of lists that contain each item.
    """
    exposure = np.sort(_exposure(ranked, n_items)).astype(np.float64)
    weights = 2 * np.arange(1, n_items + 1) - n_items - 1
    return float(weights @ exposure / max(n_items * exposure.sum(), 1))


def _exposure(ranked: IntArray, n_items: int) -> IntArray:
    """Return int64[I], the number of lists that contain each item."""
    return np.bincount(ranked[ranked >= 0], minlength=n_items)
