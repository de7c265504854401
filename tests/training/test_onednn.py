"""Who multiplies: oneDNN only where that costs no precision, and never outside the block."""

import os
import subprocess
import sys

import pytest
import torch

from rlmrec.training import onednn
from rlmrec.training.onednn import exact_products_by_onednn

SETTINGS = torch.backends.mkldnn.matmul


def product_error() -> float:
    rng = torch.Generator().manual_seed(1)
    left, right = torch.randn(500, 64, generator=rng), torch.randn(64, 700, generator=rng)
    exact = left.double() @ right.double()
    return float((left @ right - exact).norm() / exact.norm())


def test_products_keep_float32_precision_on_this_machine():
    with exact_products_by_onednn():
        assert product_error() < 1e-6


def test_the_setting_comes_back_even_after_an_error():
    before = SETTINGS.fp32_precision
    with pytest.raises(ValueError, match="inside"), exact_products_by_onednn():
        raise ValueError("inside")
    assert SETTINGS.fp32_precision == before


def test_where_onednn_rounds_to_bfloat16_nothing_changes(monkeypatch):
    monkeypatch.setattr(onednn, "_relative_error", lambda: 2e-3)
    before = SETTINGS.fp32_precision
    with exact_products_by_onednn() as used:
        assert not used
        assert SETTINGS.fp32_precision == before


def test_a_pytorch_without_the_switch_multiplies_as_it_does(monkeypatch):
    monkeypatch.delattr(type(torch.backends.mkldnn), "matmul")
    with exact_products_by_onednn() as used:
        assert not used


def test_rounding_to_bfloat16_is_seen_by_the_trial(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: (
        torch.mm(a.bfloat16(), b.bfloat16()).to(a.dtype) if a.dtype == torch.float32 else torch.mm(a, b)
    ))  # fmt: skip
    assert onednn._relative_error() > onednn._TOLERANCE


MANY_SHAPES = """
import resource, torch
from rlmrec.training import onednn
from rlmrec.training.onednn import exact_products_by_onednn
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
torch.set_num_threads(1)
a, b = torch.rand(600, 64), torch.rand(64, 3000)
with exact_products_by_onednn():
    a @ b
    before = peak()
    for n in range(700):
        a[: 600 - n // 2] @ b[:, : 3000 - n]
print(peak() - before)
"""


def test_shapes_that_never_come_again_take_no_memory():
    """With oneDNN's own bounds the 700 shapes cost 445 MiB; each product has 7 at most."""
    caches = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    environment = {name: value for name, value in os.environ.items() if name not in caches}
    script = [sys.executable, "-c", MANY_SHAPES]
    grown = subprocess.run(script, env=environment, capture_output=True, check=True, text=True).stdout
    assert int(grown) * (1 if sys.platform == "darwin" else 1024) < 150 * 2**20
