"""Batch: B training triples, on the device of the model."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """B triples of rows: a user, an item of theirs, an item that is not. All int64[B].

    ``negatives`` is empty for a backbone that uses none, so that nothing else uses them either.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor


def distinct(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sorted distinct rows, where each entry of ``rows`` stands among them, and how often each occurs."""
    found, inverse, counts = torch.unique(rows, return_inverse=True, return_counts=True)
    return found, inverse, counts
