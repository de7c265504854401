"""Matrix products on the CPU: by oneDNN where it is as exact as PyTorch's default, and so often twice as fast."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# PyTorch hands float32 products to MKL, which leaves half the vector width of AMD's processors unused. This is
# its one switch that hands them to oneDNN instead; its name is that of what it permits inside, and oneDNN makes
# use of the permission only on processors that have matrix units for bfloat16.
_PERMISSION = "bf16"
# How many shapes oneDNN and PyTorch's layer above it keep prepared, 1,024 by default. The distinct nodes of a batch are
# another number in every step, so these would fill with what is never used again: 1 GiB, and slower than with few.
_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}
# Rounding of float32 gives about 1e-7 here, that of bfloat16 about 2e-3.
_TOLERANCE = 1e-5


@contextmanager
def exact_products_by_onednn() -> Iterator[bool]:
    """Within the block float32 products on the CPU are oneDNN's, if a trial shows that they keep float32's precision.

    Sets environment variables that bound oneDNN's memory, unless they are set already; it reads them at the first
    product of the process.

    Yields:
        whether they are. If not, nothing has changed.
    """
    settings = getattr(torch.backends.mkldnn, "matmul", None)
    if settings is None:  # a PyTorch that is older than the switch
        yield False
        return
    for name, capacity in _CACHES.items():
        os.environ.setdefault(name, capacity)
    before = settings.fp32_precision
    settings.fp32_precision = _PERMISSION
    try:
        exact = _relative_error() < _TOLERANCE
        if not exact:
            settings.fp32_precision = before
        yield exact
    finally:
        settings.fp32_precision = before


def _relative_error() -> float:
    """Of a float32 product of the size that training has, against the same in float64."""
    rng = torch.Generator().manual_seed(0)
    left, right = torch.rand(256, 96, generator=rng), torch.rand(96, 1024, generator=rng)
    exact = left.double() @ right.double()
    return float((left @ right - exact).norm() / exact.norm())
