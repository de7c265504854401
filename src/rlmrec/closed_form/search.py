"""Choosing options on validation: the held-out users, their score of a matrix, and when a gain counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from rlmrec.data.dataset import Dataset
from rlmrec.evaluation import metrics
from rlmrec.shards import Shards
from rlmrec.topk import map_blocks, top_k
from rlmrec.types import BoolArray, Float32Array, FloatArray, IntArray

K = 20
# Scores that are computed for each way to score. In a large catalogue that would be so few users that chance chooses:
# there it is more, for this number of users.
CELLS, USERS = 1 << 26, 2048


class Quality(NamedTuple):
    """How well the validation items of some users are ranked.

    Args:
        recall: float64[n], Recall@20 of each user.
        ndcg: float64[n], NDCG@20.
    """

    recall: FloatArray
    ndcg: FloatArray

    @property
    def per_user(self) -> FloatArray:
        """float64[n]: the mean of both, which options are chosen by."""
        values: FloatArray = (self.recall + self.ndcg) / 2
        return values

    @property
    def mean(self) -> float:
        """The mean of ``per_user``."""
        return float(self.per_user.mean())

    def gain_over(self, base: Quality) -> tuple[float, float]:
        """The mean gain over another result of the same users, and its standard error."""
        gain = self.per_user - base.per_user
        error = float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else float("inf")
        return float(gain.mean()), error

    def figures(self) -> dict[str, float]:
        """Both means, for a record."""
        return {"recall@20": float(self.recall.mean()), "ndcg@20": float(self.ndcg.mean())}


def shards_for(n: int, shards: Shards | None) -> Shards:
    """Return the processes that share n users; if some would get none, each of them works on all users alone."""
    return shards if shards is not None and shards.count <= n else Shards()


class Validation:
    """A fixed sample of the users with validation items, and what they are to be found.

    Args:
        dataset: its ``excluded()`` items are left out of the candidates, the validation items are sought.
        seed: of the sample.
        cells: users times items; a large catalogue gets more, for ``USERS`` users.
        shards: processes of which each ranks for its own users; all of them get the qualities of all users.

    Attributes:
        users: int64[n], this process's users of the sample.
    """

    def __init__(
        self, dataset: Dataset, seed: int = 0, cells: int = CELLS, shards: Shards | None = None
    ) -> None:
        users = np.flatnonzero(dataset.valid.user_degrees())
        size = min(len(users), max(USERS, cells // dataset.n_items))
        if size < len(users):
            users = np.sort(np.random.default_rng(seed).choice(users, size, replace=False))
        self.shards = shards_for(len(users), shards)
        users = users[self.shards.rows(len(users))]
        self._set(users, dataset.excluded()[users], dataset.valid.csr()[users])

    @classmethod
    def of_hidden(cls, dataset: Dataset, users: IntArray, shards: Shards | None = None) -> Validation:
        """For users who are treated as new: all their training and validation items are sought.

        Args:
            dataset: the dataset.
            users: int64[n], this process's.
            shards: the processes that have users each.
        """
        self = cls.__new__(cls)
        self.shards = shards or Shards()
        wanted = sp.csr_array(dataset.train.csr()[users] + dataset.valid.csr()[users])
        wanted.sort_indices()
        self._set(users, sp.csr_array(wanted.shape), wanted)
        return self

    def _set(self, users: IntArray, seen: sp.csr_array, wanted: sp.csr_array) -> None:
        self.users: IntArray = users
        self.tried = 0  # ways to score that were ranked so far
        self.n_items = wanted.shape[1]
        self.seen_rows = np.repeat(np.arange(len(users)), np.diff(seen.indptr))
        self.seen_items = seen.indices
        self.n_relevant = np.diff(wanted.indptr).astype(np.int64)
        self.keys = np.repeat(np.arange(len(users)), self.n_relevant) * self.n_items + wanted.indices

    def __len__(self) -> int:
        return len(self.users)

    def qualities(self, scores: Callable[[slice], Iterable[Float32Array]]) -> list[Quality]:
        """Rank the items by several ways to score them, one block of users after the other, a thread for each core.

        Args:
            scores: called with a slice of ``users``; gives float32[B, I] for each way. What it gives may be
                changed by it afterwards, but not by others.
        """

        def rank(block: slice) -> list[BoolArray]:
            return [self._hits(block, of_block) for of_block in scores(block)]

        blocks = list(map_blocks(rank, len(self), self.n_items))
        found = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
        self.tried += len(found)
        ranked = [
            (metrics.recall(hits, self.n_relevant), metrics.ndcg(hits, self.n_relevant)) for hits in found
        ]
        if self.shards.count == 1:
            return [Quality(*both) for both in ranked]
        whole = self.shards.gather(np.array(ranked).transpose(2, 0, 1))  # users, ways, both
        return [Quality(*np.ascontiguousarray(whole[:, way].T)) for way in range(len(ranked))]

    def quality(self, scores: Callable[[slice], Float32Array]) -> Quality:
        """``qualities`` of one way to score."""
        return self.qualities(lambda block: [scores(block)])[0]

    def _hits(self, block: slice, scores: Float32Array) -> BoolArray:
        """bool[B, 20]: whether the item at each rank is sought; ``scores`` are as before afterwards."""
        of_rows = slice(*np.searchsorted(self.seen_rows, (block.start, block.stop)))
        seen = self.seen_rows[of_rows] - block.start, self.seen_items[of_rows]
        kept = scores[seen]
        scores[seen] = -np.inf
        items, best = top_k(scores, K)
        scores[seen] = kept
        ranked = np.arange(block.start, block.stop)[:, None] * self.n_items + items
        place = np.minimum(np.searchsorted(self.keys, ranked), len(self.keys) - 1)
        found: BoolArray = (self.keys[place] == ranked) & (best > -np.inf)
        return found
