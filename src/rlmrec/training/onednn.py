"""Matrix products by oneDNN on the CPU, where they keep float32's precision: often twice as fast."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# PyTorch computes float32 products with MKL, which uses only half the vector width of AMD's processors. This setting
# is the only one that selects oneDNN instead. It also permits bfloat16 inside a product; oneDNN uses that permission
# only on processors with matrix units for bfloat16.
_PERMISSION = "bf16"
# Number of shapes for which oneDNN and PyTorch's layer above it cache prepared kernels, 1,024 by default. The number of
# distinct nodes differs in every batch, so these caches fill with kernels that are never used again: 1 GiB, and slower.
_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}
# Rounding of float32 gives about 1e-7 here, that of bfloat16 about 2e-3.
_TOLERANCE = 1e-5


@contextmanager
def exact_products_by_onednn() -> Iterator[bool]:
    """Use oneDNN for float32 products on the CPU inside the block, if a trial product keeps float32's precision.

    Sets environment variables that limit oneDNN's memory, unless they are set already. oneDNN reads them at the
    first product of the process.

    Yields:
        whether oneDNN is used. If not, nothing has changed.
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
    """Return the relative error of a float32 product, of a size typical of training, against float64."""
    rng = torch.Generator().manual_seed(0)
    left, right = torch.rand(256, 96, generator=rng), torch.rand(96, 1024, generator=rng)
    exact = left.double() @ right.double()
    return float((left @ right - exact).norm() / exact.norm())
