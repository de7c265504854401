"""The machine that a process runs on, asked in a way that works on every operating system."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Return the number of cores that this process may use (on macOS and Windows: those there are)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float | None:
    """Return the mean number of running processes over the last minute; None where it is unknown (Windows)."""
    try:
        return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    except OSError:
        return None
