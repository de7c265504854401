"""Finding: something unusual in users' data that changes the data without making it unreadable."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


def by_number(count: int, one: str, many: str) -> str:
    """Return the words that follow a number: those for 1 or those for others.

    Example:
        >>> by_number(1, "pair occurs", "pairs occur")
        'pair occurs'
    """
    return one if count == 1 else many


@dataclass(frozen=True)
class Finding:
    """One kind of finding, with its number and an example; ``str`` gives the sentence for the user.

    Args:
        kind: short name, the same for all findings of one kind, for programs.
        what: what was found, as it follows the number.
        count: how often; None where there is nothing to count.
        example: one of them, with the ids as they are in the source.
        remedy: what becomes of them, or what to do.
        ordinary: whether it is to be expected in good data; ``rlmrec data --strict`` refuses only the others.

    Example:
        >>> str(Finding("missing", "user ids say that a value is missing", 3, "'nan'", "fill them in"))
        "3 user ids say that a value is missing, for example 'nan': fill them in"
    """

    kind: str
    what: str
    count: int | None = None
    example: str = ""
    remedy: str = ""
    ordinary: bool = False

    def __str__(self) -> str:
        count = "" if self.count is None else f"{self.count:,} "
        example = f", for example {self.example}" if self.example else ""
        return f"{count}{self.what}{example}{f': {self.remedy}' if self.remedy else ''}"

    def plain(self) -> dict[str, Any]:
        """Return the finding as JSON values, with its sentence."""
        return {**asdict(self), "message": str(self)}
