"""Precision of dense products on CUDA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tf32_products(wanted: bool) -> Iterator[None]:
    """Compute dense float32 products on CUDA in TF32 inside the block.

    TF32 keeps the range of float32 and 10 bits of its mantissa. Products over the graph are sparse and stay in float32.

    Args:
        wanted: False leaves PyTorch's setting as it is, full float32 unless the caller has changed it.
    """
    if not wanted:
        yield
        return
    settings = torch.backends.cuda.matmul
    is_new = hasattr(settings, "fp32_precision")  # since PyTorch 2.9
    name, value = ("fp32_precision", "tf32") if is_new else ("allow_tf32", True)
    before = getattr(settings, name)
    setattr(settings, name, value)
    try:
        yield
    finally:
        setattr(settings, name, before)
