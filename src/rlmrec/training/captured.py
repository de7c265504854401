"""Capture of a training step as a CUDA graph: its kernels are launched together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlmrec.backbones.base import Backbone
from rlmrec.batch import Batch
from rlmrec.errors import ConfigError

WARM_UP_STEPS = 3  # before a capture; libraries create their handles and workspaces in them


def check_capturable(backbone: Backbone, device: torch.device, processes: int) -> None:
    """Check that the steps of a run can be captured.

    Raises:
        ConfigError: the device is not a CUDA device, the backbone's shapes change between batches, or several processes
            train together.
    """
    if device.type != "cuda":
        raise ConfigError(f"cuda_graphs=true: expected a CUDA device, got {device}: leave cuda_graphs out")
    if not backbone.has_static_steps:
        raise ConfigError(
            f"cuda_graphs=true: the graph or the shapes of {type(backbone).__name__} with these options change "
            "between batches: leave cuda_graphs out"
        )
    if processes > 1:
        raise ConfigError(
            f"cuda_graphs=true: {processes} processes train together: leave cuda_graphs out, or train with one"
        )


class CapturedUpdate:
    """An update of the parameters from a batch that a CUDA device replays as one graph.

    The first batches run as usual. Then the update is recorded once, with the addresses of its tensors: from there on a
    batch is copied to where the recorded one was, and one launch computes everything, optimizer included. Random
    numbers continue the stream of the run. What Python computes in an update, such as a weight that depends on a
    counter, is recorded as it was.

    Args:
        update: from a batch to the terms of its loss; it changes the parameters and waits for nothing.
        rng: the run's generator, on the device.

    Raises:
        ConfigError: at the capture, if the update does something that cannot be captured.
    """

    def __init__(self, update: Callable[[Batch], dict[str, Tensor]], rng: torch.Generator) -> None:
        self.update, self.rng = update, rng
        self.stream = torch.cuda.Stream(rng.device)  # type: ignore[no-untyped-call]
        self.warm_up_steps = 0
        self._captured: tuple[torch.cuda.CUDAGraph, Batch, dict[str, Tensor]] | None = None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Update the parameters; return the terms, which the next call overwrites."""
        if self._captured is None and self.warm_up_steps < WARM_UP_STEPS:
            self.warm_up_steps += 1
            # On the stream of the capture, as gradients remember the stream that they were made on.
            self.stream.wait_stream(torch.cuda.current_stream(self.rng.device))
            with torch.cuda.stream(self.stream):
                result = self.update(batch)
            torch.cuda.current_stream(self.rng.device).wait_stream(self.stream)
            return result
        if self._captured is None:
            self._captured = self._capture(batch)
        graph, static_batch, result = self._captured
        for column, values in zip(static_batch, batch, strict=True):
            column.copy_(values)
        graph.replay()
        return result

    def _capture(self, batch: Batch) -> tuple[torch.cuda.CUDAGraph, Batch, dict[str, Tensor]]:
        """Record the update of a batch of this size, without computing anything."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.rng)
        static_batch = Batch(*(column.clone() for column in batch))
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                result = self.update(static_batch)
        except RuntimeError as error:
            first = error.__context__ or error  # ending a failed capture fails too
            reason = " ".join(str(first).split())[:300]
            raise ConfigError(
                f"the training step cannot be captured as a CUDA graph ({reason}): leave cuda_graphs out"
            ) from error
        return graph, static_batch, result
