"""Large arrays of PyTorch in pages of 2 MB."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SETTING = "THP_MEM_ALLOC_ENABLE"
KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FAULTS = """
import resource, rlmrec, torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(25_000_000)  # 100 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(**environment):
    others = {name: value for name, value in os.environ.items() if name != SETTING}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env=others | environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(
    not KERNEL.exists() or "[never]" in KERNEL.read_text(), reason="this kernel gives small pages alone"
)
def test_an_array_of_100_mb_takes_a_tenth_of_the_page_faults_unless_the_user_set_it_otherwise():
    small = page_faults(**{SETTING: "0"})
    assert small > 90e6 / os.sysconf("SC_PAGESIZE")
    assert page_faults() < small / 10
