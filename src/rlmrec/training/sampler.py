"""Sampling of training triples, a whole epoch at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from rlmrec.batch import Batch, is_accelerator
from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import DataError
from rlmrec.types import IntArray


class Sampler:
    """Samples every training interaction once per epoch, in random order, with one new uniform negative each.

    A negative is never a training item of that user. Candidates are drawn for the whole epoch; those that
    are training pairs (found by binary search in the sorted pairs) are drawn again. So each negative is
    uniform over the items that the user has not. A user with every item is in no triple, and a warning says so.

    An accelerator draws for itself: a negative is the item of a uniform rank among those that the user has not, so
    nothing is drawn again and the host waits for nothing. Its random stream is another one.

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
        self._on_device = _DeviceDraws(train, device) if is_accelerator(device) else None

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
        if self._on_device is not None:
            yield from self._split(self._on_device.epoch(int(rng.integers(2**63))))
            return
        order = rng.permutation(len(self.train))
        users = self.train.users[order]
        columns = (users, self.train.items[order], self.negatives(users, rng))
        yield from self._split([torch.from_numpy(column).to(self.device) for column in columns])

    def _split(self, columns: Sequence[Tensor]) -> Iterator[Batch]:
        for start in range(0, len(columns[0]), self.batch_size):
            yield Batch(*(column[start : start + self.batch_size] for column in columns))


class _DeviceDraws:
    """Draws the triples of an epoch on a device.

    With h_0 < h_1 < … the items of a user, h_j − j of the items before h_j are none of theirs. So the item of rank r
    (from 0 on) among the others is r + #{j : h_j − j ≤ r}, which one binary search finds.

    Args:
        train: the training split.
        device: where the triples are drawn.
    """

    def __init__(self, train: Interactions, device: torch.device | str) -> None:
        matrix = train.csr()
        counts = np.diff(matrix.indptr).astype(np.int64)
        users = np.repeat(np.arange(train.n_users), counts)
        starts = matrix.indptr[:-1].astype(np.int64)
        before = matrix.indices - (np.arange(matrix.nnz) - starts[users])
        self.width = train.n_items + 1
        arrays = (users, matrix.indices.astype(np.int64), users * self.width + before, starts, counts)
        self.users, self.items, self.keys, self.starts, self.counts = (
            torch.from_numpy(array).to(device) for array in arrays
        )

    def epoch(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return users, items and negatives of all interactions in random order, int64[n] each."""
        rng = torch.Generator(self.users.device).manual_seed(seed)
        order = torch.randperm(len(self.users), generator=rng, device=rng.device)
        users = self.users[order]
        free = self.width - 1 - self.counts[users]
        kind = torch.float32 if rng.device.type == "mps" else torch.float64
        drawn = torch.rand(len(users), generator=rng, dtype=kind, device=rng.device)
        rank = torch.minimum((drawn * free).long(), free - 1)
        passed = torch.searchsorted(self.keys, users * self.width + rank, right=True) - self.starts[users]
        return users, self.items[order], rank + passed
