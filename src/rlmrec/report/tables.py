"""ResultTable: the one kind of table, and how it is written as Markdown, CSV and LaTeX. ``page.html`` writes HTML."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlmrec.errors import ConfigError
from rlmrec.files import write_text

Value = str | int | float | None
UNKNOWN = "–"
SHORT_METRICS = {"recall": "R", "ndcg": "N"}
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "−": "$-$",
    "±": r"$\pm$", "≤": r"$\leq$", "<": "$<$", ">": "$>$", "…": r"\ldots{}", "*": "$^{*}$", "↓": r"$^{\downarrow}$",
    "†": r"$^{\dagger}$",
}  # fmt: skip


@dataclass(frozen=True)
class ResultTable:
    """A table of results.

    Args:
        columns: their names.
        rows: a value for each column: text, a number, or None where it is unknown.
        title: above the table.
        note: below the table.
        dataset: the dataset of the results; "" if the table has none.
        text_columns: how many columns, from the left, are text; the others are numbers and stand right-aligned.
        formats: column → how its numbers are written, as in ``format``; "" or absent writes them as they are.
        anchor: its id on the report's page, for links.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    title: str = ""
    note: str = ""
    dataset: str = ""
    text_columns: int = 1
    formats: Mapping[str, str] = field(default_factory=dict)
    anchor: str = ""
    kind: str = field(default="table", init=False)

    @property
    def heading(self) -> str:
        """The title and the dataset."""
        return ": ".join(filter(None, (self.title, self.dataset)))

    @property
    def texts(self) -> list[list[str]]:
        """The rows as people read them."""
        forms = [self.formats.get(name, "") for name in self.columns]
        return [[_text(value, form) for value, form in zip(row, forms, strict=True)] for row in self.rows]

    def records(self) -> list[dict[str, Value]]:
        """Return a dictionary for each row, the dataset included."""
        return [{"dataset": self.dataset, **dict(zip(self.columns, row, strict=True))} for row in self.rows]


def _text(value: Value, form: str) -> str:
    if value is None or isinstance(value, str):
        return UNKNOWN if value is None else value
    return format(value, form).replace("%", " %")


def as_markdown(tables: Sequence[ResultTable]) -> str:
    """Return the tables as Markdown; those without a dataset follow the heading of the table before them."""
    lines: list[str] = []
    for table in tables:
        lines += [f"### {table.heading}" if table.dataset else table.title, ""]
        for row in [table.columns, ["---"] * len(table.columns), *table.texts]:
            lines.append("| " + " | ".join(text.replace("|", "\\|") for text in row) + " |")
        lines += ["", *([table.note, ""] if table.note else [])]
    return "\n".join(lines)


def as_csv(tables: Sequence[ResultTable]) -> str:
    """Return the values as they are, six digits of a number, nothing for what is unknown."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns: Sequence[str] = ()
    for table in tables:
        if table.columns != columns:
            columns = table.columns
            writer.writerow(["dataset", *columns])
        for row in table.rows:
            values = (f"{value:.6g}" if isinstance(value, float) else value for value in row)
            writer.writerow([table.dataset, *values])
    return out.getvalue()


def as_latex(tables: Sequence[ResultTable]) -> str:
    """Return each table as a float with a tabular (booktabs); title, dataset and note make the caption."""
    floats = []
    for table in tables:
        align = "l" * table.text_columns + "r" * (len(table.columns) - table.text_columns)
        named = "; ".join(filter(None, (table.title, table.dataset)))
        caption = escape_latex(f"{named}. {table.note}".rstrip(". "))
        rows = [" & ".join(map(escape_latex, row)) + r" \\" for row in table.texts]
        header = " & ".join(map(escape_latex, table.columns)) + r" \\"
        floats += [
            r"\begin{table}", r"\centering", rf"\caption{{{caption}.}}", rf"\begin{{tabular}}{{{align}}}", r"\toprule",
            header, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
        ]  # fmt: skip
    return "\n".join(floats)


def escape_latex(text: str) -> str:
    """Return any text as LaTeX text; *, ↓ and † become superscripts.

    Example:
        >>> escape_latex("5 % of a_b*")
        '5 \\\\% of a\\\\_b$^{*}$'
    """
    return re.sub(r"[\\~^%&_#${}–−±≤<>…*↓†]", lambda found: _LATEX.get(found[0], "\\" + found[0]), text)


def write_tables(
    folder: Path,
    name: str,
    tables: Sequence[ResultTable],
    long: Sequence[ResultTable] | None = None,
    printed: Sequence[ResultTable] | None = None,
) -> list[Path]:
    """Write ``name.md``, ``name.csv`` and ``name.tex`` into a folder.

    Args:
        folder: of the files.
        name: of the files.
        tables: what to write.
        long: other tables for CSV, with everything that is known; None takes ``tables``.
        printed: other tables for LaTeX, narrow enough for a page; None takes ``tables``.

    Returns:
        the paths.

    Raises:
        ConfigError: there is no table.
    """
    if not tables:
        raise ConfigError(f"nothing to render: there are no results of {name} in {folder.parent}")
    texts = {
        "md": as_markdown(tables),
        "csv": as_csv(tables if long is None else long),
        "tex": as_latex(tables if printed is None else printed),
    }
    paths = [folder / f"{name}.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def short_metric(metric: str) -> str:
    """Return the name of a column for a metric: "R@20", "s/epoch"."""
    name, _, k = metric.partition("@")
    return f"{SHORT_METRICS.get(name, name)}@{k}" if k else {"seconds_per_epoch": "s/epoch"}.get(name, name)
