"""Metadata profiles: text made without a language model, by a template over the columns that are there."""

from __future__ import annotations

import polars as pl

from rlmrec.data.dataset import Dataset
from rlmrec.errors import ColumnError, ConfigError
from rlmrec.findings import by_number
from rlmrec.types import IntArray

TITLE_COLUMNS = ("title", "name", "movie_title", "app_name", "item_name")
TEXT_COLUMNS = {
    "item": "text_columns",
    "user": "user_text_columns",
}  # where a dataset's provenance records them
# What manifests of text vectors and of profiles call the vectors of users without a text of their own.
MEANS = "mean over training items"


def metadata_texts(table: pl.DataFrame, columns: list[str] | None = None) -> list[str | None]:
    """One text per row: "Toy Story (1995). Genres: Animation, Children's, Comedy."

    The title, with the year behind it, comes first and the other columns follow, each under its name.
    Empty cells are left out; a row without any text becomes None.

    Args:
        table: one row per item or user.
        columns: which columns, in which order; all of them by default.

    Raises:
        ColumnError: a named column is not in the table, or there is none at all.
    """
    names = table.columns if columns is None else columns
    unknown = [name for name in names if name not in table.columns]
    if unknown or not names:
        raise ColumnError(
            f"text column {unknown or names} not found: the texts have {', '.join(table.columns) or 'none'}"
        )
    title = next((name for name in TITLE_COLUMNS if name in names), None)
    if title is None and len(names) == 1:
        title = names[0]  # one column is the text itself, it needs no label
    texts: list[str | None] = []
    for row in table.select(names).iter_rows(named=True):
        cells = {name: _plain(value) for name, value in row.items()}
        parts = []
        if title and cells[title]:
            year = cells.pop("year", "")
            parts.append(f"{cells[title]} ({year})" if year else cells[title])
        parts += [f"{_label(name)}: {text}" for name, text in cells.items() if text and name != title]
        texts.append(
            "".join(part if part.endswith((".", "!", "?")) else f"{part}." for part in _spaced(parts)) or None
        )
    return texts


def text_columns(dataset: Dataset, kind: str = "item") -> list[str]:
    """Return the columns of items or users that describe them: what is encoded and what a language model reads.

    A dataset of one's own tables records the choice (of items ``--text-columns``); of others they are all columns.

    Args:
        dataset: the dataset.
        kind: "item" or "user".
    """
    table = dataset.item_texts if kind == "item" else dataset.user_texts
    if table is None:
        return []
    recorded = dataset.provenance.get(TEXT_COLUMNS[kind], table.columns)
    return [name for name in recorded if name in table.columns]


def title_origin(dataset: Dataset) -> str | None:
    """Return what the column ``title`` of items is called in one's own tables; None if it is called so there."""
    named = (dataset.provenance.get("columns") or {}).get(
        "title"
    )  # all that datasets of before have recorded
    origin: str | None = dataset.provenance.get("title_column", named)
    return None if origin == "title" else origin


def listed_columns(dataset: Dataset, names: list[str]) -> str:
    """Return names of columns of items for a message, the title with what it is called in one's own tables."""
    origin = title_origin(dataset)
    return ", ".join(f"title ({origin})" if name == "title" and origin else name for name in names)


def own_texts(dataset: Dataset, kind: str = "item", columns: list[str] | None = None) -> list[str | None]:
    """Return the text that a dataset has of each item or user, None without any.

    Args:
        dataset: the dataset.
        kind: "item" or "user".
        columns: the columns to use; by default those that describe.

    Raises:
        ConfigError: the dataset has no texts.
        ColumnError: a named column is not among them.
    """
    table = dataset.item_texts if kind == "item" else dataset.user_texts
    if table is None:
        raise ConfigError(
            f"{dataset.name} has no {kind} texts: pass {kind}s=…, or --{kind}s FILE, with a text or None for each "
            f"{kind}"
        )
    columns = columns or text_columns(dataset, kind)
    if not columns:
        # RecBole's folders are read without a choice of columns.
        named = kind == "item" and dataset.provenance.get("source") != "recbole"
        choose = "name some when the dataset is made (text_columns=…, --text-columns), or " * named
        raise ConfigError(
            f"the {kind}s have no column of texts, only {', '.join(table.columns)}: {choose}pass {kind}s=…, or "
            f"--{kind}s FILE"
        )
    return metadata_texts(table, columns)


def with_text(dataset: Dataset, kind: str) -> int:
    """Return how many items or users have a text in a column that describes them."""
    table = dataset.item_texts if kind == "item" else dataset.user_texts
    names = text_columns(dataset, kind)
    if table is None or not names:
        return 0
    has = [
        pl.col(name).str.strip_chars() != ""
        if table.schema[name] == pl.String
        else pl.col(name).is_not_null()
        for name in names
    ]
    return int(table.select(pl.any_horizontal(*has)).to_series().sum())


def unused_user_texts(dataset: Dataset) -> str | None:
    """Say that users have texts of their own, for those who take the mean over their items; None without any."""
    own = with_text(dataset, "user")
    have = by_number(own, "has", "have")
    return f"not used: {own:,} of {dataset.n_users:,} users {have} a text of their own" if own else None


def described_items(dataset: Dataset) -> pl.DataFrame | None:
    """Return the items' columns that describe them, one row per item; None without any."""
    names = text_columns(dataset)
    return None if dataset.item_texts is None or not names else dataset.item_texts.select(names)


def item_labels(dataset: Dataset, rows: IntArray | None = None) -> list[str]:
    """What to call each item in a table: its title and year, else its first text, else its id.

    Args:
        dataset: has the items' texts.
        rows: int64[n], the items to name; None names all.
    """
    ids = dataset.items.ids if rows is None else [dataset.items.id(row) for row in rows.tolist()]
    if dataset.item_texts is None:
        return [str(raw) for raw in ids]
    columns = dataset.item_texts.columns
    title = next((name for name in TITLE_COLUMNS if name in columns), columns[0])
    shown = [title, "year"] if "year" in columns else [title]
    texts = dataset.item_texts if rows is None else dataset.item_texts[rows]
    return [
        text.removesuffix(".") if text else str(raw)
        for raw, text in zip(ids, metadata_texts(texts, shown), strict=True)
    ]


def user_labels(dataset: Dataset) -> list[str]:
    """What to call each user in a table: their name if there is a column of names, else their id."""
    table = dataset.user_texts
    title = next((name for name in TITLE_COLUMNS if table is not None and name in table.columns), None)
    names = [None] * dataset.n_users if table is None or title is None else table[title].to_list()
    return [str(name or raw) for name, raw in zip(names, dataset.users.ids, strict=True)]


def _plain(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(filter(None, map(_plain, value)))
    return " ".join(str(value).split())


def _label(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _spaced(parts: list[str]) -> list[str]:
    return [part if i == 0 else f" {part}" for i, part in enumerate(parts)]
