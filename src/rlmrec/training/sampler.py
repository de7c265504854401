"""The sampler: an epoch's triples, drawn at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from rlmrec.batch import Batch
from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import DataError
from rlmrec.types import IntArray


class Sampler:
    """Every training interaction once an epoch, shuffled, each with one uniform negative drawn anew.

    A negative is never a training item of that user. Candidates are drawn for the whole epoch and those
    that hit a training pair (a binary search in the sorted pairs) are drawn again, which leaves the draw
    uniform over the items that are allowed.

    Args:
        train: the training split.
        batch_size: B.
        device: where the batches go.
        users: raw ids, for the error; without them it names a row.

    Raises:
        DataError: a user has every item, so there is no negative.
    """

    def __init__(
        self,
        train: Interactions,
        batch_size: int,
        device: torch.device | str = "cpu",
        users: Vocabulary | None = None,
    ) -> None:
        full = np.flatnonzero(train.user_degrees() >= train.n_items)
        if len(full):
            first = f"row {full[0]}" if users is None else repr(users.id(full[0]))
            raise DataError(
                f"user {first} has a training interaction with every item, so no negative can be drawn: drop such "
                f"users ({len(full)} of {train.n_users})"
            )
        self.train = train
        self.batch_size = batch_size
        self.device = device
        self._sorted_keys = np.sort(train.keys())

    @property
    def n_batches(self) -> int:
        """Batches an epoch."""
        return -(-len(self.train) // self.batch_size)

    def negatives(self, users: IntArray, rng: np.random.Generator) -> IntArray:
        """int64[n]: for each user row an item that the user has no training interaction with."""
        drawn = rng.integers(self.train.n_items, size=len(users))
        pending = np.arange(len(users))
        while len(pending):
            keys = users[pending] * self.train.n_items + drawn[pending]
            at = np.searchsorted(self._sorted_keys, keys)
            hit = self._sorted_keys[np.minimum(at, len(self._sorted_keys) - 1)] == keys
            pending = pending[hit]
            drawn[pending] = rng.integers(self.train.n_items, size=len(pending))
        return drawn

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """The batches of one epoch; all randomness is drawn before the first one is handed out."""
        order = rng.permutation(len(self.train))
        users = self.train.users[order]
        columns = (users, self.train.items[order], self.negatives(users, rng))
        tensors = [torch.from_numpy(column).to(self.device) for column in columns]
        for start in range(0, len(order), self.batch_size):
            yield Batch(*(column[start : start + self.batch_size] for column in tensors))
