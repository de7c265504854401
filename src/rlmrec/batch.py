"""Batch: B training triples, on the device of the model."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """B triples of rows: a user, an item of theirs, an item that is not. All int64[B]."""

    users: Tensor
    positives: Tensor
    negatives: Tensor
