"""Processor time until a command line answers: help pages, the version, slips of the pen, and `import rlmrec`."""

from __future__ import annotations

import os
import subprocess
import sys

from rlmrec.cli import COMMANDS

RUNS = 5
LIMITS = {"import rlmrec": 0.3}  # seconds; all others 0.5


def processor_seconds(command: list[str]) -> float:
    """User and system time of a process: unlike the time of day it hardly depends on what else is running."""
    before = os.times()
    subprocess.run(command, capture_output=True, check=False)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Print the best of several runs of each."""
    program = [sys.executable, "-m", "rlmrec"]
    cases = {
        "import rlmrec": [sys.executable, "-c", "import rlmrec"],
        "rlmrec --version": [*program, "--version"],
        "rlmrec --help": [*program, "--help"],
        "rlmrec trian": [*program, "trian"],
        "rlmrec train --epoch 3": [*program, "train", "--epoch", "3"],
        **{f"rlmrec {command} --help": [*program, command, "--help"] for command in COMMANDS},
        "rlmrec data table --help": [*program, "data", "table", "--help"],
    }
    for name, command in cases.items():
        seconds = min(processor_seconds(command) for _ in range(RUNS))
        print(f"{name:28} {seconds:.2f} s" + "  above the limit" * (seconds > LIMITS.get(name, 0.5)))


if __name__ == "__main__":
    main()
