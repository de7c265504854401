"""A part of what the scripts of this folder run in full."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz import fuzz


@pytest.mark.parametrize("target", ["recommender", "cold start", "profiles", "replay", "csv", "json lines"])
def test_mutated_files_raise_our_own_errors(target):
    assert fuzz(target, 12, seed=1) == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
@pytest.mark.parametrize(
    ("script", "arguments"),
    [("kills.py", ["--count", "2", "--only", "data append"]), ("full_disk.py", ["--only", "recommend csv"])],
)
def test_a_kill_and_a_full_disk_leave_everything_whole(script, arguments):
    path = Path(__file__).with_name(script)
    done = subprocess.run([sys.executable, path, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if done.stdout.startswith("skipped"):
        pytest.skip(done.stdout.strip())
