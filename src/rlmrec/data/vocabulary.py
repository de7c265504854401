"""Vocabulary: maps raw ids, as in the user's files, to rows of matrices and back."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

from rlmrec.errors import DataError, UnknownIdError
from rlmrec.types import AnyArray, IntArray

RawId = int | str
# Ids that a lookup accepts, integers of NumPy included.
AnyId = int | str | np.integer[Any]
SUGGESTED_FROM = 10_000  # ids at most: a server must not read a million of them for an unknown one


class Vocabulary:
    """The distinct raw ids of one side (users or items), in row order.

    Ids are all integers or all text. ``7`` and ``"7"`` in one vocabulary are refused, because they could be
    meant as one id.

    Args:
        ids: distinct raw ids; the position is the row.
        kind: word for them in messages, "user" or "item".

    Raises:
        DataError: an id occurs twice, is neither ``int`` nor ``str``, or the two types are mixed.

    Example:
        >>> books = Vocabulary(["b7", "b3"], kind="item")
        >>> books.row("b3"), books.id(0), len(books)
        (1, 'b7', 2)
    """

    def __init__(self, ids: Iterable[AnyId], kind: str = "id") -> None:
        self.kind = kind
        what = kind if kind == "id" else f"{kind} id"
        if isinstance(ids, str):
            raise DataError(f"{what}s are the text {ids!r}: expected a list of them")
        self.ids: list[RawId] = [int(i) if isinstance(i, np.integer) else i for i in ids]
        types = {type(i) for i in self.ids}
        if not types <= {int, str}:
            raise DataError(
                f"{what}s must be integers or text, got {sorted(t.__name__ for t in types)}: convert them, for example "
                "by str, or in pandas by .astype(str)"
            )
        if len(types) > 1:
            texts = {i for i in self.ids if isinstance(i, str)}
            both = next((i for i in self.ids if isinstance(i, int) and str(i) in texts), None)
            hint = f"; {both} occurs as a number and as text" if both is not None else ""
            raise DataError(f"{what}s mix integers and text{hint}: make them one type")
        self.is_text = str in types
        if len(set(self.ids)) != len(self.ids):
            seen: set[RawId] = set()
            twice = next(i for i in self.ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise DataError(f"{what} {twice!r} occurs twice in the vocabulary")

    @cached_property
    def _rows(self) -> dict[RawId, int]:
        """The row of each id. Most of the memory of a large vocabulary, so it is made by the first look-up."""
        return {raw: row for row, raw in enumerate(self.ids)}

    @cached_property
    def _by_bare(self) -> dict[str, RawId]:
        """The first id of each bare form, for suggestions; empty for more than ``SUGGESTED_FROM`` ids."""
        if len(self) > SUGGESTED_FROM:
            return {}
        return {bare: own for own in reversed(self.ids) if (bare := _bare(own))}

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.ids[:3])) + ", …" * (len(self) > 3)
        return f"Vocabulary({len(self):,} {self.kind}s: {shown})"

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, raw: object) -> bool:
        return raw in self._rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.ids == other.ids

    __hash__ = None  # type: ignore[assignment]

    def row(self, raw: AnyId) -> int:
        """Return the row of one raw id.

        Raises:
            UnknownIdError: the id is not in the vocabulary; the message says if only its type differs.
        """
        try:
            row = self._rows.get(int(raw) if isinstance(raw, np.integer) else raw)
        except TypeError:  # a list, for example
            raise DataError(f"got {raw!r}, expected one {self.kind} id") from None
        if row is not None:
            return row
        twin = self.parse(str(raw))
        if twin is not None and twin in self._rows:
            raise UnknownIdError(
                f"unknown {self.kind} {raw!r} ({type(raw).__name__}): {self.kind} ids are "
                f"{'text' if self.is_text else 'integers'} here, pass {twin!r}"
            )
        examples = ", ".join(repr(i) for i in self.ids[:3])
        similar = self.similar(raw)
        meant = "" if similar is None else f"; did you mean {similar!r}?"
        raise UnknownIdError(
            f"unknown {self.kind} {raw!r}: not among the {len(self)} ids ({examples}, …){meant}"
        )

    def similar(self, raw: AnyId) -> RawId | None:
        """Return the id that differs in case, outer blanks and leading zeros alone; None without one."""
        return self._by_bare.get(_bare(raw))

    def rows(self, raw: Iterable[AnyId] | AnyArray) -> IntArray:
        """Return the rows of several raw ids; the first unknown one raises ``UnknownIdError``."""
        # A text would be taken letter by letter, and an array of no dimension is one id.
        if isinstance(raw, str) or not isinstance(raw, Iterable) or getattr(raw, "ndim", 1) == 0:
            raise DataError(f"got {raw!r}, expected a list of {self.kind} ids such as {self.ids[:1]}")
        return np.fromiter(map(self.row, raw), np.int64)

    def id(self, row: int) -> RawId:
        """Return the raw id of one row.

        Raises:
            DataError: there is no such row, or it is no whole number.
        """
        try:
            if 0 <= row < len(self.ids):
                return self.ids[row]
        except TypeError:
            raise DataError(f"got {row!r}, expected the row of one {self.kind}, a whole number") from None
        raise DataError(f"there is no {self.kind} in row {row}: rows are numbered from 0 to {len(self) - 1}")

    def given(self, raw: RawId) -> RawId:
        """Return an id from JSON as the vocabulary writes it: a text that is exactly an integer id becomes one."""
        parsed = self.parse(raw) if isinstance(raw, str) else raw
        return raw if parsed is None else parsed

    def parse(self, text: str) -> RawId | None:
        """Convert text, typed by a user or read from an untyped file, to a raw id; None if it cannot be one."""
        if self.is_text:
            return text
        try:
            return int(text) if str(int(text)) == text else None
        except ValueError:
            return None


def _bare(raw: AnyId) -> str:
    """Return an id as text without case, outer blanks and leading zeros, which people and programs lose."""
    return str(raw).strip().lstrip("0").lower()
