"""Data frames in memory: pandas, Polars and Arrow, read through Narwhals.

Each frame becomes the same ``Table`` as a file, so that checks and messages are those of
``rlmrec.data.tables``. pandas itself is never imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
import polars as pl

from rlmrec.data.file_format import PLAIN, FileFormat
from rlmrec.data.nested import list_of_ids, nested_names, with_paths
from rlmrec.data.source import Source
from rlmrec.data.table import Table, as_ids, as_text, check_columns
from rlmrec.data.tables import (
    Columns,
    read_columns,
    single_rows,
    to_source,
    told_to_name_columns,
    told_to_name_ids,
)
from rlmrec.errors import ConfigError, DataError

SPLIT = ["train", "valid", "test"]

if TYPE_CHECKING:
    from narwhals.typing import IntoDataFrame


def read_frames(
    frames: Sequence[tuple[str, IntoDataFrame | None]],
    name: str,
    columns: Columns,
    items: IntoDataFrame | None = None,
    users: IntoDataFrame | None = None,
    title: str | None = None,
    form: FileFormat = PLAIN,
    text_columns: Sequence[str] | str | None = None,
    items_id: str | None = None,
    users_id: str | None = None,
) -> Source:
    """Read interactions and texts from data frames.

    Args:
        frames: ("df", its frame) and the ("train", …), ("valid", …) and ("test", …) of a ready-made split; either
            the first or the other three must be given.
        name: name of the source.
        columns: columns of the interactions.
        items: item texts, one row per item.
        users: user texts, one row per user.
        title: column of ``items`` with the titles.
        form: how texts in them write numbers and times.
        text_columns: columns of ``items`` that go into prompts and vectors, or one; None chooses those of texts.
        items_id, users_id: columns of the ids in ``items`` and ``users``; by default those of ``columns``.

    Raises:
        ConfigError: neither one frame nor three are given.
        DataError: something is not a data frame, a column is missing, or a value cannot be used.
    """
    given = [(label, frame) for label, frame in frames if frame is not None]
    labels = [label for label, _ in given]
    if labels not in (["df"], SPLIT):
        missing = [label for label in SPLIT if label not in labels]
        hint = f": {', '.join(missing)} is missing" if labels and "df" not in labels else ""
        raise ConfigError(
            f"give either one data frame of interactions, or a split: train, valid and test{hint}"
        )
    texts = [text_columns] if isinstance(text_columns, str) else text_columns
    for option, column in [
        *columns._asdict().items(),
        *(("title", title), ("items_id", items_id), ("users_id", users_id), ("weight", form.weight_column)),
        *(("text_columns", column) for column in texts or ()),
    ]:
        is_needed = option in ("user", "item", "text_columns")
        if not isinstance(column, str) and (is_needed or column is not None):
            raise ConfigError(
                f"{option} is {column!r} ({type(column).__name__}): expected the name of a column"
                + ("" if is_needed else ", or None")
            )
    paths = [name for name in (title, *(texts or ())) if name is not None]
    tables = [read_orders(frame, label, columns, form, "user, item and so on") for label, frame in given]
    return to_source(
        name,
        tables,
        columns,
        items=None if items is None else described(items, "item", items_id or columns.item, form, paths),
        users=None if users is None else described(users, "user", users_id or columns.user, form),
        items_id=items_id,
        users_id=users_id,
        title=title,
        text_columns=texts,
        provenance={
            "source": "data frame",
            "columns": {**columns._asdict(), "title": title, "items_id": items_id, "users_id": users_id},
            **({"format": form.given()} if form != PLAIN else {}),
        },
    )


def read_orders(
    frame: IntoDataFrame,
    label: str,
    columns: Columns,
    form: FileFormat = PLAIN,
    options: str = "columns=Columns(user=…, item=…)",
) -> Table:
    """Read the columns of interactions of a data frame, one row each; ``options`` name them, for messages."""
    with told_to_name_columns(options):
        table = read_frame(frame, label, read_columns(columns, form), columns[:2])
        return single_rows(replace(table, form=form), columns)


def described(
    frame: IntoDataFrame, kind: str, id_column: str, form: FileFormat, paths: Sequence[str] = ()
) -> Table:
    """Read the columns of items or users."""
    with told_to_name_ids(kind):
        return replace(read_frame(frame, f"{kind}s", ids=(id_column,), paths=paths), form=form)


def read_frame(
    frame: IntoDataFrame,
    label: str,
    columns: Sequence[str] | None = None,
    ids: Sequence[str] = (),
    paths: Sequence[str] = (),
) -> Table:
    """Read columns of a data frame; a named index of pandas counts as a column.

    Args:
        frame: a pandas or Polars data frame or an Arrow table.
        label: what messages call it.
        columns: their names; None reads all, and ``ids`` must be among them.
        ids: the columns of ids.
        paths: as for ``read_table``.

    Raises:
        DataError: it is not a data frame, has no rows, or lacks a column.
    """
    wanted = [*(columns or ()), *ids]
    index = getattr(getattr(frame, "index", None), "names", ())
    try:
        # Only pandas has an index. Its name may be that of a column as well, as after set_index(drop=False).
        if index and set(wanted) & set(index) - set(getattr(frame, "columns", ())):
            frame = frame.reset_index()  # type: ignore[attr-defined]
        data = nw.from_native(frame, eager_only=True)
        header = [str(name) for name in data.columns]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{label}: expected a pandas or Polars data frame or an Arrow table, got {type(frame).__name__} "
            f"({' '.join(str(error).split())[:200]})"
        ) from None
    if data.implementation.is_pandas_like():
        check_columns(label, header, wanted)
        names = data.columns if columns is None else list(dict.fromkeys(columns))
        converted = pl.DataFrame([_series(data[name], label, name in ids, name in ids[1:]) for name in names])
    else:
        converted = with_paths(data.to_polars(), [*wanted, *paths])
        nested = [] if set(wanted) <= set(converted.columns) else nested_names(converted.head(10).to_dicts())
        check_columns(label, converted.columns, wanted, nested)
        converted = converted if columns is None else converted.select(list(dict.fromkeys(columns)))
    if not len(data):
        raise DataError(f"{label} has columns but no rows")
    return Table(label, converted, typed=True, first_row=0)


def _series(series: nw.Series[Any], label: str, is_id: bool, may_be_list: bool = False) -> pl.Series:
    """Convert a column of pandas without pyarrow, which ``to_polars`` would need. NaN means missing."""
    if series.dtype == nw.Datetime:
        micros = pl.Series(series.name, series.dt.timestamp("us").to_numpy(), nan_to_null=True)
        return micros.cast(pl.Int64).cast(pl.Datetime("us"))
    missing = series.is_null().to_list()
    # NumPy has no missing integer: 1999 would become 1999.0.
    if series.dtype.is_numeric() and not (series.dtype.is_integer() and any(missing)):
        return pl.Series(series.name, series.to_numpy(), nan_to_null=True)
    values = [None if gone else value for gone, value in zip(missing, series.to_list(), strict=True)]
    if may_be_list and any(isinstance(value, list | np.ndarray) for value in values):
        return list_of_ids(Table(label, pl.DataFrame(), typed=True, first_row=0), series.name, values)
    if is_id:
        return as_ids(Table(label, pl.DataFrame(), typed=True, first_row=0), series.name, values)
    if {type(value) for value in values} - {type(None)} == {date}:  # pandas has no type for them
        return pl.Series(series.name, values, dtype=pl.Date)
    return pl.Series(series.name, list(map(as_text, values)), dtype=pl.String)
