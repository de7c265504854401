"""Texts as callers give them, by position or by id: one text or None for each item or user."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import DataError, UnknownIdError
from rlmrec.findings import by_number

GivenTexts = Mapping[Any, str | None] | Sequence[str | None]


def texts_by_row(texts: GivenTexts, ids: Vocabulary) -> list[str | None]:
    """Return one text for each id, in row order; None where there is none.

    None, NaN and texts of blanks alone mean that there is no text.

    Args:
        texts: by id: a mapping, or a pandas Series that is indexed by id, in which ids may be missing; or by position:
            a list of one text for each id.
        ids: of the items or users.

    Warns:
        UserWarning: ids that are not in the dataset, whose texts are not used.

    Raises:
        DataError: another number of texts, no known id, a column without ids, or something else than texts.

    Example:
        >>> texts_by_row({"b": "Emma", "a": " "}, Vocabulary(["a", "b", "c"], "item"))
        [None, 'Emma', None]
    """
    kind, every = ids.kind, f"dataset.{ids.kind}s.ids"
    if isinstance(texts, str | bytes | Set) or hasattr(texts, "columns"):
        got = "one text" if isinstance(texts, str | bytes) else f"a {type(texts).__name__}"
        raise DataError(
            f"the texts of {kind}s are {got}: expected a list in the order of {every}, a dict from id to text, or one "
            "column that is indexed by id"
        )
    if isinstance(texts, Mapping):
        return _by_id(list(texts), list(texts.values()), ids, "")
    index: Any = getattr(texts, "index", None)
    is_pandas = hasattr(texts, "iloc")
    if is_pandas and not _is_default(index):
        by_position = f"; to take the texts in the order of {every}, pass a list (to_list())"
        return _by_id(index.tolist(), list(texts), ids, by_position)
    if is_pandas or hasattr(texts, "to_list"):  # a Series of pandas or polars: a column that has lost its ids
        by_id = (
            f'.set_index("{kind}_id")["text"]'
            if is_pandas
            else f'dict(zip(table["{kind}_id"], table["text"]))'
        )
        raise DataError(
            f"the texts of {kind}s are a Series without ids: pass them by id, such as {by_id}, or as a list "
            f"(.to_list()) if they are in the order of {every}"
        )
    values = list(texts)
    if len(values) != len(ids):
        raise DataError(
            f"there are {len(values)} texts of {kind}s, the dataset has {len(ids)}: one for each row, in the order of "
            f"{every}, or a dict from id to text"
        )
    return [_text(value, kind, raw) for value, raw in zip(values, ids.ids, strict=True)]


def _is_default(index: Any) -> bool:
    """Return whether an index of pandas only counts the rows."""
    return type(index).__name__ == "RangeIndex" and index.start == 0 and index.step == 1


def _by_id(keys: list[Any], values: list[Any], ids: Vocabulary, hint: str) -> list[str | None]:
    kind = ids.kind
    if len(set(keys)) < len(keys):
        seen: set[Any] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DataError(f"{kind} {twice!r} has several texts: keep one{hint}")
    unknown = [key for key in keys if key not in ids]
    if keys and len(unknown) == len(keys):
        try:
            ids.row(unknown[0])
        except UnknownIdError as error:
            raise DataError(f"of {len(keys)} texts none is of a known {kind}: {error}{hint}") from None
    if unknown:
        what = by_number(len(unknown), f"is of no {kind}", f"are of no {kind}s")
        warnings.warn(
            f"{len(unknown):,} of {len(keys):,} texts {what} of the dataset, for example {unknown[0]!r}: "
            f"not used{hint}",
            stacklevel=4,
        )
    found: list[str | None] = [None] * len(ids)
    for key, value in zip(keys, values, strict=True):
        if key in ids:
            found[ids.row(key)] = _text(value, kind, key)
    return found


def _text(value: Any, kind: str, raw: Any) -> str | None:
    """Return a text; None if it is blank or missing, in one of the ways that data frames write that."""
    if isinstance(value, str):
        return value if value.strip() else None
    is_nan = isinstance(value, float | np.floating) and np.isnan(value)
    if value is None or is_nan or type(value).__name__ in ("NAType", "NaTType"):
        return None
    raise DataError(
        f"the text of {kind} {raw!r} is {value!r} ({type(value).__name__}): expected a text, or None where there is "
        "none; convert it (str)"
    )
