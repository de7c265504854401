"""Nested tables: columns by path, such as ``customer.id``, and rows that hold a whole basket of items."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from rlmrec.data.table import Table, as_ids, first_true
from rlmrec.errors import DataError
from rlmrec.findings import Finding


def value_at(record: dict[str, Any], name: str) -> Any:
    """Return a value of a JSON object by its key or, if there is no such key, by its path; None if there is neither.

    Example:
        >>> order = {"customer": {"id": 7}, "lines": [{"sku": "a"}, {"sku": "b"}], "a.b": 1}
        >>> value_at(order, "customer.id"), value_at(order, "lines.sku"), value_at(order, "a.b")
        (7, ['a', 'b'], 1)
    """
    if name in record or "." not in name:
        return record.get(name)
    value: Any = record
    for part in name.split("."):
        if isinstance(value, list):
            value = [entry.get(part) if isinstance(entry, dict) else None for entry in value]
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


def with_paths(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Add the columns that are named by a path into a column of structures, or of lists of structures."""
    for name in names:
        first, *parts = name.split(".")
        if name in frame.columns or not parts or first not in frame.columns:
            continue
        dtype: Any = frame.schema[first]
        expression = pl.col(first)
        for part in parts:
            inner = dtype.inner if isinstance(dtype, pl.List) else dtype
            fields = (
                {field.name: field.dtype for field in inner.fields} if isinstance(inner, pl.Struct) else {}
            )
            if part not in fields:
                break
            if isinstance(dtype, pl.List):
                expression = expression.list.eval(pl.element().struct.field(part))
                dtype = pl.List(fields[part])
            else:
                expression, dtype = expression.struct.field(part), fields[part]
        else:
            frame = frame.with_columns(expression.alias(name))
    return frame


def nested_names(records: Iterable[Any], prefix: str = "") -> list[str]:
    """Return the paths of the fields inside of records, as ``value_at`` takes them.

    Example:
        >>> nested_names([{"customer": {"id": 7}, "lines": [{"sku": "a"}], "at": 1}])
        ['customer.id', 'lines.sku']
    """
    names: dict[str, None] = {}
    for record in records:
        for name, value in record.items() if isinstance(record, dict) else ():
            if prefix and not isinstance(value, dict | list):
                names[f"{prefix}{name}"] = None
            inside = value if isinstance(value, list) else [value]
            names |= dict.fromkeys(nested_names(inside, f"{prefix}{name}."))
    return list(names)


def list_of_ids(table: Table, name: str, values: Sequence[Any]) -> pl.Series:
    """Return a column of lists of ids; a single id is a list of one."""
    lists = [list(value) if isinstance(value, list | np.ndarray) else [value] for value in values]
    sizes = [len(value) for value in lists]
    rows = np.repeat(np.arange(len(lists)), sizes)
    flat = as_ids(replace(table, rows=rows), name, [entry for value in lists for entry in value]).to_list()
    ends = np.concatenate([[0], np.cumsum(sizes)]).tolist()
    kind = pl.Int64 if any(isinstance(value, int) for value in flat) else pl.String
    return pl.Series(name, [flat[start:end] for start, end in pairwise(ends)], dtype=pl.List(kind))


def without_baskets(table: Table, item: str, names: Sequence[str], separator: str | None = None) -> Table:
    """Return a table with one row for each item of a basket.

    Baskets are lists, JSON lists as text, or texts with a separator. Other columns of lists, such as quantities, must
    have an entry for each item; all others are repeated.

    Args:
        table: rows with one item or a basket each.
        item: the column of items.
        names: the columns that are read.
        separator: what stands between the ids of a text.

    Raises:
        DataError: lists of one row have different lengths.
    """
    frame = table.frame
    baskets = _lists(frame[item], separator)
    if baskets is None:
        return table
    frame = frame.with_columns(baskets.alias(item))
    sizes = baskets.list.len()
    parallel = [item]
    for name in dict.fromkeys(names):
        lists = _lists(frame[name], separator) if name != item else None
        if lists is None or not isinstance(frame.schema[name], pl.List | pl.String):
            continue
        if isinstance(frame.schema[name], pl.String) and not (lists.list.len() == sizes).all():
            continue  # a text that happens to hold the separator
        odd = (lists.list.len() != sizes).fill_null(True)
        if odd.any():
            row = first_true(odd)
            raise DataError(
                f"{table.path}, {table.place(row)}: column {item!r} has {sizes[row]} entries and column {name!r} "
                f"{lists.list.len()[row]}: expected as many"
            )
        frame = frame.with_columns(lists.alias(name))
        parallel.append(name)
    rows = np.flatnonzero((sizes > 0).fill_null(True).to_numpy())
    frame = frame.with_columns(pl.Series("\0row", np.arange(len(frame))))[rows].explode(parallel)
    empty = len(table.frame) - len(rows)
    if not len(frame):
        raise DataError(f"{table.path}, column {item!r}: all baskets are empty")
    findings = [
        Finding(
            "basket",
            f"rows of {table.path} hold baskets, {len(frame):,} items in all{f', {empty:,} none' if empty else ''}",
            len(table.frame),
            remedy="each item counts as an interaction",
            ordinary=True,
        )
    ]
    return replace(
        table,
        frame=frame.drop("\0row"),
        rows=frame["\0row"].to_numpy(),
        findings=(*table.findings, *findings),
    )


def _lists(column: pl.Series, separator: str | None) -> pl.Series | None:
    """Return the column as one of lists; None if it holds none."""
    if isinstance(column.dtype, pl.List):
        return column
    if column.dtype != pl.String:
        return None
    texts = column.str.strip_chars()
    if separator is not None:
        if not texts.str.contains(separator, literal=True).any():
            return None
        entries = texts.str.split(separator).list.eval(pl.element().str.strip_chars())
        return entries.list.eval(pl.element().filter(pl.element() != ""))
    if not len(texts) or not (texts.str.starts_with("[") & texts.str.ends_with("]")).fill_null(False).all():
        return None
    try:
        values = [json.loads(text) for text in texts]
        if not all(type(entry) in (int, str) for value in values for entry in value):
            return None
        return pl.Series(
            column.name, [[str(entry) for entry in value] for value in values], dtype=pl.List(pl.String)
        )
    except (ValueError, RecursionError, TypeError):
        return None
