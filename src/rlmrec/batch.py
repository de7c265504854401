"""A batch of training triples, on the device of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from rlmrec.errors import ConfigError


@dataclass
class ListTargets:
    """Lists of items that an alignment wants a softmax over all items to rank high, for a batch's distinct users.

    A backbone whose loss has the same softmax computes the alignment's term in the same pass and leaves it here.

    Args:
        items: rows of items, int64[n, M]; n users in the order of ``distinct``.
        probabilities: π, (n, M).
        shares: weight of each user in the sum of cross-entropies, (n,); 0 for a user who takes no part.
        temperature: τ of the cosines, or of the inner products.
        by_cosine: whether the softmax is over cosines or over inner products.
        term: the weighted sum, once it is computed.
    """

    items: Tensor
    probabilities: Tensor
    shares: Tensor
    temperature: float
    by_cosine: bool
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


DYNAMIC_DEVICES = ("cpu",)  # where a shape may depend on numbers


def has_static_shapes(tensor: Tensor) -> bool:
    """Return whether shapes must not depend on numbers: on an accelerator, and wherever a step is compiled."""
    return is_accelerator(tensor.device) or torch.compiler.is_compiling()


def is_accelerator(device: torch.device | str) -> bool:
    """Return whether the host should queue work for a device and never wait for its numbers."""
    return torch.device(device).type not in DYNAMIC_DEVICES


def available_device(device: torch.device | str) -> torch.device:
    """Return a device of PyTorch that this machine has.

    Raises:
        ConfigError: it has no such device.
    """
    present = ["cpu"]
    present += ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError):  # PyTorch's ways of saying no
        found = None
    if found is None or found.type not in present:
        raise ConfigError(f"device {str(device)!r} is not available here: expected {' or '.join(present)}")
    return found


def stream(rng: torch.Generator | None) -> torch.Generator | None:
    """Return the generator to draw from; None, PyTorch's default one, where a step is compiled.

    The compiler knows no other. Training then makes the run's generator the default one, so the numbers are the same.
    """
    return None if torch.compiler.is_compiling() else rng


def occurrences_of(wanted: Tensor, rows: Tensor) -> Tensor:
    """Return how often each wanted number is among rows, int64[B]; its shape depends on no number."""
    ordered = rows.sort().values
    return torch.searchsorted(ordered, wanted, right=True) - torch.searchsorted(ordered, wanted)


class Distinct(NamedTuple):
    """Rows of a batch, each once; on an accelerator all of them, so that their number is known beforehand.

    A mean over the batch is the sum over ``rows`` weighted by ``counts``, a sum over distinct rows the one weighted by
    ``shares``; both are the same numbers in either form.

    rows: int64[n].
    at: position of each entry of the batch among ``rows``, int64[B].
    counts: how many entries of the batch each stands for, int64[n].
    """

    rows: Tensor
    at: Tensor
    counts: Tensor

    @property
    def shares(self) -> Tensor | None:
        """1 / how often a row is in ``rows``, (n,); None where each is there once."""
        if not has_static_shapes(self.rows):
            return None
        counts = occurrences_of(self.rows, self.rows)
        return 1.0 / counts.to(torch.float32 if counts.device.type == "mps" else torch.float64)

    @property
    def places(self) -> Tensor:
        """The place of each row among the sorted distinct ones, int64[n]."""
        if not has_static_shapes(self.rows):
            return torch.arange(len(self.rows), device=self.rows.device)
        ordered, order = self.rows.sort()
        new = F.pad((ordered[1:] != ordered[:-1]).long(), (1, 0))
        return torch.zeros_like(order).scatter_(0, order, new.cumsum(0))


def distinct(rows: Tensor) -> Distinct:
    """Return the sorted distinct rows; on an accelerator the rows as they are, each counted once."""
    if has_static_shapes(rows):
        return Distinct(rows, torch.arange(len(rows), device=rows.device), torch.ones_like(rows))
    return Distinct(*torch.unique(rows, return_inverse=True, return_counts=True))
