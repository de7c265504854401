"""A batch of training triples, on the device of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor


@dataclass
class ListTargets:
    """Lists of items that an alignment wants a softmax over all items to rank high, for a batch's distinct users.

    A backbone whose loss has the same softmax computes the alignment's term in the same pass and leaves it here.

    Args:
        items: rows of items, int64[n, M]; n users in the order of ``distinct``.
        probabilities: π, (n, M).
        shares: weight of each user in the mean, (n,); 0 for a user who takes no part.
        temperature: τ of the cosines.
        term: the mean cross-entropy, once it is computed.
    """

    items: Tensor
    probabilities: Tensor
    shares: Tensor
    temperature: float
    term: Tensor | None = None


class Batch(NamedTuple):
    """B triples of rows: a user, an item from their history, and an item outside it. All int64[B].

    ``negatives`` is empty for a backbone that uses none, so that an alignment cannot use them either.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor


class TaughtBatch(Batch):
    """A batch with the targets of an alignment. They are no field: a batch unpacks into its three columns.

    Args:
        batch: the triples.
        targets: for its distinct users.
    """

    targets: ListTargets | None = None  # as after _replace

    def __new__(cls, batch: Batch, targets: ListTargets) -> Self:
        """Make the tuple and attach the targets."""
        taught = super().__new__(cls, *batch)
        taught.targets = targets
        return taught


def distinct(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sorted distinct rows, the position of each entry of ``rows`` among them, and their counts."""
    found, inverse, counts = torch.unique(rows, return_inverse=True, return_counts=True)
    return found, inverse, counts
