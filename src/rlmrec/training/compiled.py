"""Compilation of a training step by torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from rlmrec.backbones.base import Backbone
from rlmrec.errors import ConfigError

BACKEND = "inductor"
DEVICES = ("cpu", "cuda")

Result = TypeVar("Result")
Item = TypeVar("Item")


def check_compilable(backbone: Backbone, device: torch.device, processes: int) -> None:
    """Check that the steps of a run can be compiled.

    Raises:
        ConfigError: the backbone's shapes change between batches, several processes train together, or the device is
            not a CPU or a CUDA device.
    """
    if not backbone.has_static_steps:
        raise ConfigError(
            f"compile=true: the graph or the shapes of {type(backbone).__name__} with these options change between "
            "batches: leave compile out"
        )
    if processes > 1:
        raise ConfigError(
            f"compile=true: {processes} processes train together: leave compile out, or train with one"
        )
    if device.type not in DEVICES:
        raise ConfigError(f"compile=true: expected a device of {' or '.join(DEVICES)}, got {device}")


def compiled(function: Callable[[Item], Result], device: torch.device) -> Callable[[Item], Result]:
    """Return a function as torch.compile compiles it; on CUDA its kernels are launched together as CUDA graphs.

    Random numbers are those of PyTorch's default generator, as without compilation.

    Args:
        function: from a batch to the terms of the loss. It is compiled at its first call.
        device: of the batch.

    Raises:
        ConfigError: at the first call, if it cannot be compiled here.
    """
    options: dict[str, str | int | bool | Callable[..., Any]] = {"fallback_random": True}
    options["triton.cudagraphs"] = device.type == "cuda"
    quick = torch.compile(
        function, dynamic=False, backend=BACKEND, options=options if BACKEND == "inductor" else None
    )

    def call(item: Item) -> Result:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # results of the last step may be overwritten
        try:
            return quick(item)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"compile=true: PyTorch cannot compile the step here ({reason}): the CPU needs a C++ compiler, CUDA "
                "needs Triton; otherwise leave compile out"
            ) from error

    return call


@contextmanager
def default_generator(device: torch.device, wanted: bool) -> Iterator[torch.Generator]:
    """Yield a generator for a run: a new one, or PyTorch's default one, whose state is restored at the end.

    Args:
        device: of the random numbers.
        wanted: yield the default generator, the only one that torch.compile knows.
    """
    if not wanted:
        yield torch.Generator(device)
        return
    if device.type != "cuda":
        with torch.random.fork_rng([]):
            yield torch.default_generator
        return
    place = torch.cuda.current_device() if device.index is None else device.index
    with torch.random.fork_rng([place]):
        yield torch.cuda.default_generators[place]
