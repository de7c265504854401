"""Sampling of training triples, a whole epoch at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch

from rlmrec.batch import Batch
from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import DataError
from rlmrec.types import IntArray


class Sampler:
    """Samples every training interaction once per epoch, in random order, with one new uniform negative each.

    A negative is never a training item of that user. Candidates are drawn for the whole epoch; those that
    are training pairs (found by binary search in the sorted pairs) are drawn again. So each negative is
    uniform over the items that the user has not. A user with every item is in no triple, and a warning says so.

    Args:
        train: the training split.
        batch_size: B.
        device: device of the batches.
        users: raw ids for error messages; without them a message names the row.

    Raises:
        DataError: every user has every item, so there is no negative.
    """

    def __init__(
        self,
        train: Interactions,
        batch_size: int,
        device: torch.device | str = "cpu",
        users: Vocabulary | None = None,
    ) -> None:
        is_full = train.user_degrees() >= train.n_items
        if is_full.any():
            row = int(np.argmax(is_full))
            first = f"row {row}" if users is None else repr(users.id(row))
            found = (
                f"{is_full.sum()} of {train.n_users} users have a training interaction with every item, for example "
                f"user {first}: no negative can be drawn for them"
            )
            if is_full.all():
                raise DataError(f"{found}, so nothing can be trained")
            warnings.warn(f"{found}, so they are in no triple", stacklevel=2)
            train = train.take(~is_full[train.users])
        self.train = train
        self.batch_size = batch_size
        self.device = device
        self._sorted_keys = np.sort(train.keys())

    @property
    def n_batches(self) -> int:
        """Number of batches per epoch."""
        return -(-len(self.train) // self.batch_size)

    def negatives(self, users: IntArray, rng: np.random.Generator) -> IntArray:
        """Draw an item without a training interaction for each user row; int64[n]."""
        # Rejection: most items are not in a history, so two or three rounds are enough.
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
        """Yield the batches of one epoch; all random numbers are drawn before the first."""
        order = rng.permutation(len(self.train))
        users = self.train.users[order]
        columns = (users, self.train.items[order], self.negatives(users, rng))
        tensors = [torch.from_numpy(column).to(self.device) for column in columns]
        for start in range(0, len(order), self.batch_size):
            yield Batch(*(column[start : start + self.batch_size] for column in tensors))
