"""Shards: several processes that compute one result together, each on its part of the rows.

A closed form is sums over users, so each process adds up those of its own users, and the sums of all are added. The
processes are those of ``torch.distributed`` (gloo), as ``torchrun`` starts them; one process alone needs no PyTorch.
"""

from __future__ import annotations

import os
import sys
from typing import Any, TypeVar, cast

import numpy as np
import scipy.sparse as sp

from rlmrec.errors import ConfigError
from rlmrec.types import AnyArray

Numbers = TypeVar("Numbers", bound=AnyArray)
# What torchrun sets for each process. One of them alone is left over from something else.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def started_processes() -> int:
    """Return the number of processes that torchrun, or a program like it, has started together; 1 without one.

    Raises:
        ConfigError: ``RANK`` or ``WORLD_SIZE`` is not a number, or they do not fit each other.
    """
    if not all(name in os.environ for name in VARIABLES):
        return 1
    rank, count = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
        raise ConfigError(
            f"the environment says RANK={rank!r} and WORLD_SIZE={count!r}: expected numbers from torchrun, the first "
            "below the second; unset them to use one process"
        )
    return int(count)


class Shards:
    """One process, which has all rows: each method returns what it is given.

    Attributes:
        rank: number of this process, from 0 on.
        count: number of processes.
    """

    rank = 0
    count = 1

    @staticmethod
    def current() -> Shards:
        """Return those of the process group that this process has joined, or of this process alone."""
        torch = sys.modules.get("torch")  # a process that has not imported PyTorch has joined none
        if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
            return ProcessShards()
        return Shards()

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def rows(self, n: int) -> slice:
        """Return which of n rows are this process's: consecutive ones, equally many but for one."""
        return slice(n * self.rank // self.count, n * (self.rank + 1) // self.count)

    def sum(self, values: Numbers) -> Numbers:
        """Return the sum of all processes' arrays of the same shape, in place; equal in every process."""
        return values

    def from_first(self, values: Numbers) -> Numbers:
        """Return the first process's array in every process, in place."""
        return values

    def gather(self, values: Numbers, everywhere: bool = True) -> Numbers:
        """Return all processes' rows below each other, in the order of the processes.

        Args:
            values: (B, …); B may differ between the processes.
            everywhere: in every process; otherwise only the first one gets them and the others keep their own.
        """
        del everywhere
        return values

    def gather_sparse(self, matrix: sp.csr_array, everywhere: bool = True) -> sp.csr_array:
        """Return all processes' rows of a sparse matrix below each other; see ``gather``."""
        if self.count == 1:
            return matrix
        data, indices, counts = (
            self.gather(part, everywhere) for part in (matrix.data, matrix.indices, np.diff(matrix.indptr))
        )
        ends = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return sp.csr_array((data, indices, ends), shape=(len(counts), matrix.shape[1]))


class ProcessShards(Shards):
    """The processes of a group of ``torch.distributed``, whose backend must move arrays of the CPU (gloo)."""

    def __init__(self) -> None:
        import torch.distributed

        self._group: Any = torch.distributed
        self.rank, self.count = self._group.get_rank(), self._group.get_world_size()

    def sum(self, values: Numbers) -> Numbers:
        """See ``Shards.sum``."""
        self._group.all_reduce(_tensor(values))
        return values

    def from_first(self, values: Numbers) -> Numbers:
        """See ``Shards.from_first``."""
        self._group.broadcast(_tensor(values), 0)
        return values

    def gather(self, values: Numbers, everywhere: bool = True) -> Numbers:
        """See ``Shards.gather``."""
        lengths = self.sum(np.bincount([self.rank], [len(values)], self.count).astype(np.int64))
        own: Any = np.ascontiguousarray(values)
        parts: list[Any] = []
        for rank, length in enumerate(lengths.tolist()):
            part = own if rank == self.rank else np.empty((length, *own.shape[1:]), own.dtype)
            if everywhere:
                self._group.broadcast(_tensor(part), rank)
            elif rank and length:  # the first one receives one process's rows after the other's
                if self.is_first:
                    self._group.recv(_tensor(part), rank)
                elif rank == self.rank:
                    self._group.send(_tensor(part), 0)
            parts.append(part)
        whole: Any = np.concatenate(parts) if everywhere or self.is_first else own
        return cast(Numbers, whole)


def _tensor(values: AnyArray) -> Any:
    """Return a tensor over the memory of an array."""
    import torch

    if not values.flags.c_contiguous:
        raise ValueError("an array that is exchanged must be contiguous")
    return torch.from_numpy(values)
