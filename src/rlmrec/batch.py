"""A batch of training triples, on the device of the model."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """B triples of rows: a user, an item from their history, and an item outside it. All int64[B].

    ``negatives`` is empty for a backbone that uses none, so that an alignment cannot use them either.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor


def distinct(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sorted distinct rows, the position of each entry of ``rows`` among them, and their counts."""
    found, inverse, counts = torch.unique(rows, return_inverse=True, return_counts=True)
    return found, inverse, counts
