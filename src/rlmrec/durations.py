"""Durations in words."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Return a duration such as "0.04 s", "0.4 s", "40 s", "12 min" or "3.5 h"."""
    if seconds < 0.01:
        return "< 0.01 s"
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{round(seconds, 1 if seconds >= 0.1 else 2):g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
