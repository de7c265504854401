"""Columns: training by several processes, each of which holds some columns of every initial embedding.

Propagation treats every column alike, so each process propagates its own without talking to the others. The final
embeddings are then gathered, and every process computes the same loss from them; the gradient of its own columns is a
part of the gradient that it has. So P processes give what one gives, up to rounding.

A step gathers N·d' numbers. A process keeps the parameters and Adam's moments of d/P columns, and all of the graph.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlmrec.errors import ConfigError
from rlmrec.losses import squared_norm
from rlmrec.shards import started_processes

# Those of rlmrec.backbones and rlmrec.alignment, which import this module.
Backbone: TypeAlias = Any
Alignment: TypeAlias = Any


class Columns:
    """The columns of one of P processes: those from rank · d/P on.

    Args:
        rank: number of this process, from 0 on.
        count: P.
    """

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        self.width = 0  # d/P, known once a model is split
        self.split_parameters: list[nn.Parameter] = []
        self.names: set[str] = set()  # of them, as in the state of {"backbone": …, "alignment": …}

    @classmethod
    def current(cls) -> Columns | None:
        """Return those of this process; None unless several processes train together."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return None
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process evaluates, and writes the files."""
        return self.rank == 0

    def split(self, backbone: Backbone, alignment: Alignment) -> None:
        """Keep this process's columns of the initial embeddings, in place; ``join`` undoes it.

        Raises:
            ConfigError: the backbone mixes columns, or d is no multiple of the number of processes.
        """
        if not backbone.has_separate_columns:
            raise ConfigError(
                f"{type(backbone).__name__} mixes the columns of the embeddings, so several processes cannot share "
                "them: train it with one process, or take LightGCN, GCCF, SGL, SimGCL or MF"
            )
        size = backbone.config.embedding_size
        if size % self.count:
            raise ConfigError(
                f"embedding_size is {size}, and {self.count} processes train together: expected a multiple of "
                f"{self.count}"
            )
        self.width = size // self.count
        for prefix, module, names in _tables(backbone, alignment):
            for name in names:
                parameter = nn.Parameter(self.own(getattr(module, name).detach()).clone())
                setattr(module, name, parameter)
                self.split_parameters.append(parameter)
                self.names.add(f"{prefix}.{name}")
        backbone.columns = self

    def join(self, backbone: Backbone, alignment: Alignment) -> None:
        """Give every process all columns again."""
        backbone.columns = None
        for _, module, names in _tables(backbone, alignment):
            for name in names:
                setattr(module, name, nn.Parameter(self.gather(getattr(module, name).detach())))

    def own(self, values: Tensor) -> Tensor:
        """Return this process's columns of values (…, d)."""
        return values.chunk(self.count, dim=-1)[self.rank]

    def gather(self, values: Tensor) -> Tensor:
        """Return all columns (…, b·d) of values (…, b·d/P); b blocks, such as GCCF's layers, stay blocks."""
        rows = values.reshape(-1, values.shape[-1])
        gathered: Tensor = _Gather.apply(rows, self)  # type: ignore[no-untyped-call]
        return gathered.reshape(*values.shape[:-1], -1)

    def squared_norm(self, parameters: Iterable[Tensor]) -> Tensor:
        """Compute ||Θ||² of all processes' parameters together; each gets the gradient of its own."""
        mine = {id(parameter) for parameter in self.split_parameters}
        shared = [parameter for parameter in parameters if id(parameter) not in mine]
        total: Tensor = _Total.apply(squared_norm(self.split_parameters))  # type: ignore[no-untyped-call]
        return total + squared_norm(shared) if shared else total

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Make the gradients of parameters that every process has the same to the last bit."""
        mine = {id(parameter) for parameter in self.split_parameters}
        for parameter in parameters:
            if id(parameter) not in mine and parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.count

    def from_first(self, values: list[float]) -> list[float]:
        """Return the first process's numbers in every process; those of the others do not matter."""
        tensor = torch.tensor(values, dtype=torch.float64, device=_device())
        dist.broadcast(tensor, 0)
        return [float(value) for value in tensor]

    @staticmethod
    def wait() -> None:
        """Wait until every process is here."""
        dist.barrier()


def _tables(backbone: Backbone, alignment: Alignment) -> Iterator[tuple[str, nn.Module, tuple[str, ...]]]:
    """Yield what is split: prefix of the names, module, and names of its parameters whose last axis are columns."""
    yield "backbone", backbone, ("user_embedding", "item_embedding")
    yield "alignment", alignment, alignment.column_parameters


class _Gather(torch.autograd.Function):
    """All processes' columns beside each other; its gradient is that of this process's columns."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Columns) -> Tensor:
        ctx.columns = columns
        parts = [torch.empty_like(rows) for _ in range(columns.count)]
        dist.all_gather(parts, rows.contiguous())
        blocks = torch.stack(parts, dim=1).view(len(rows), columns.count, -1, columns.width)
        return blocks.transpose(1, 2).reshape(len(rows), -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        columns: Columns = ctx.columns
        blocks = gradient.view(len(gradient), -1, columns.count, columns.width)
        return blocks[:, :, columns.rank].reshape(len(gradient), -1), None


class _Total(torch.autograd.Function):
    """The sum over all processes; each gets the gradient of its own part."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        del ctx
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        del ctx
        return gradient


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the processes that torchrun has started, if it has; yield the device of this one.

    Args:
        device: "cpu" (gloo) or "cuda" (NCCL, one device for each process of a machine).
    """
    if started_processes() == 1 or dist.is_initialized():
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    from torch.distributed.distributed_c10d import PrefixStore  # not in every build of PyTorch
    from torch.distributed.rendezvous import rendezvous

    # Without --standalone torchrun keeps one store over restarts, with the addresses of the processes that have died.
    store, rank, count = next(iter(rendezvous("env://")))
    attempt = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, store=attempt, rank=rank, world_size=count)
    try:
        yield device
    finally:
        dist.destroy_process_group()
