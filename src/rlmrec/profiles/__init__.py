"""From texts to prompts to profiles, and the proof that nothing held out went in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlmrec.lazy import lazy_names

if TYPE_CHECKING:
    from rlmrec.profiles.profiler import Profiler
    from rlmrec.profiles.progress import Price
    from rlmrec.profiles.prompts import PromptOptions

# The kinds of items that have prompt templates of their own.
DOMAINS = ("general", "books", "businesses", "games", "movies")
# Which text stands for an item or user: its profile, its metadata, or both.
SOURCES = ("llm", "metadata", "llm+metadata")

__all__ = [
    "Price",
    "Profiler",
    "PromptOptions",
]

if not TYPE_CHECKING:  # a type checker would take every name for one of the package
    __getattr__ = lazy_names(
        __name__,
        {
            "Price": "rlmrec.profiles.progress",
            "Profiler": "rlmrec.profiles.profiler",
            "PromptOptions": "rlmrec.profiles.prompts",
        },
    )
