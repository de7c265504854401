"""Vocabulary: raw ids (what the user's files say) to rows (what matrices are indexed by) and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rlmrec.errors import DataError, UnknownIdError
from rlmrec.types import AnyArray, IntArray

RawId = int | str
# What a lookup takes: numpy's integers too.
AnyId = int | str | np.integer[Any]


class Vocabulary:
    """The distinct raw ids of one side (users or items), in row order.

    Ids are all integers or all text: ``7`` and ``"7"`` never stand in one vocabulary, because nobody can
    tell afterwards whether they were meant to be one.

    Args:
        ids: distinct raw ids; the position is the row.
        kind: what they are called in messages: "user" or "item".

    Raises:
        DataError: an id occurs twice, is neither ``int`` nor ``str``, or the two types are mixed.

    Example:
        >>> books = Vocabulary(["b7", "b3"], kind="item")
        >>> books.row("b3"), books.id(0), len(books)
        (1, 'b7', 2)
    """

    def __init__(self, ids: Iterable[AnyId], kind: str = "id") -> None:
        self.kind = kind
        self.ids: list[RawId] = [int(i) if isinstance(i, np.integer) else i for i in ids]
        types = {type(i) for i in self.ids}
        if not types <= {int, str}:
            raise DataError(f"{kind} ids must be integers or text, got {sorted(t.__name__ for t in types)}")
        if len(types) > 1:
            texts = {i for i in self.ids if isinstance(i, str)}
            both = next((i for i in self.ids if isinstance(i, int) and str(i) in texts), None)
            hint = f"; {both} occurs as a number and as text" if both is not None else ""
            raise DataError(f"{kind} ids mix integers and text{hint}: make them one type")
        self.is_text = str in types
        self._rows = {raw: row for row, raw in enumerate(self.ids)}
        if len(self._rows) != len(self.ids):
            seen: set[RawId] = set()
            twice = next(i for i in self.ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise DataError(f"{kind} id {twice!r} occurs twice in the vocabulary")

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, raw: object) -> bool:
        return raw in self._rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.ids == other.ids

    __hash__ = None  # type: ignore[assignment]

    def row(self, raw: AnyId) -> int:
        """The row of one raw id.

        Raises:
            UnknownIdError: the id is not in the vocabulary; says so when only its type differs.
        """
        row = self._rows.get(int(raw) if isinstance(raw, np.integer) else raw)
        if row is not None:
            return row
        twin = self.parse(str(raw))
        if twin is not None and twin in self._rows:
            raise UnknownIdError(
                f"unknown {self.kind} {raw!r} ({type(raw).__name__}): {self.kind} ids are "
                f"{'text' if self.is_text else 'integers'} here, pass {twin!r}"
            )
        examples = ", ".join(repr(i) for i in self.ids[:3])
        raise UnknownIdError(f"unknown {self.kind} {raw!r}: not among the {len(self)} ids ({examples}, …)")

    def rows(self, raw: Sequence[AnyId] | AnyArray) -> IntArray:
        """The rows of several raw ids; the first unknown one raises."""
        return np.fromiter((self.row(r) for r in raw), np.int64, count=len(raw))

    def id(self, row: int) -> RawId:
        """The raw id of one row."""
        return self.ids[row]

    def parse(self, text: str) -> RawId | None:
        """What ``text`` (typed by a user, read from an untyped file) is as an id: None if it cannot be one."""
        if self.is_text:
            return text
        try:
            return int(text) if str(int(text)) == text else None
        except ValueError:
            return None
