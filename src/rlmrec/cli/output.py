"""What the commands print: tables and progress for people, one JSON line for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlmrec.findings import Finding

WHOLE = 24  # characters of an id that fit beside two titles on 80 columns
NARROW = 8  # a column of text is not made narrower by breaking words

# Characters by which data could control a terminal or reorder its line: all but the line break and the tab.
_RANGES = ((0, 9), (11, 32), (127, 160), (0x202A, 0x202F), (0x2066, 0x206A))
_CONTROLS: dict[int, str | None] = {code: None for span in _RANGES for code in range(*span)}
_CONTROLS |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")  # half characters, which UTF-8 cannot encode

_stderr = Console(stderr=True, highlight=False, emoji=False)


_HIDDEN = re.compile("[" + "".join(map(chr, _CONTROLS)) + "]")  # in JSON they are escaped, so nothing is lost


def printable(text: str) -> str:
    """Return a text without what could control a terminal: titles and ids come from data.

    Example:
        >>> printable("Du\\x1b[31mne\\x07")
        'Du[31mne'
    """
    return text.translate(_CONTROLS)


def error(message: str) -> None:
    """Print one line on stderr."""
    _stderr.print(f"[bold red]error[/]: {escape(' '.join(printable(message).split()))}", soft_wrap=True)


class Output:
    """The output of a command.

    Args:
        as_json: whether stdout gets one JSON line, and all that is for people goes to stderr.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(stderr=as_json, highlight=False, emoji=False)

    def say(self, message: str) -> None:
        """Print a line for people. It may hold Rich markup, so escape what comes from data."""
        self.console.print(printable(message), soft_wrap=True)

    def findings(self, findings: Iterable[Finding]) -> None:
        """Print findings: in yellow what looks like a mistake."""
        for finding in findings:
            text = escape(str(finding))
            self.say(f"note: {text}" if finding.ordinary else f"[yellow]found: {text}[/]")

    def length(self, k: int, n_items: int) -> int:
        """Return the length of lists, at most the number of items; say so where -k is more."""
        if k > n_items:
            self.say(f"[yellow]-k {k:,}: there are {n_items:,} items, so lists have at most {n_items:,}[/]")
        return min(k, n_items)

    def table(self, title: str, columns: list[str], rows: list[list[str]], text_columns: int = 1) -> None:
        """Print a table; the first ``text_columns`` columns are text, the others numbers.

        Text is never cut off: two long names must not look the same. In a table that is too wide for the terminal,
        columns of text with the same value in all rows become a line below it, and cells continue on the next line:
        headers first, then the widest columns, between words where there is room. A column called "id" stays whole,
        since ids are copied from it. A table that does not fit even so has a line for each row.
        """
        title, columns = printable(title), list(map(printable, columns))
        rows = [list(map(printable, row)) for row in rows]
        same: list[str] = []
        if _borders(columns) + sum(_natural(columns, rows)) > self.console.width:
            columns, rows, text_columns, same = _without_constants(columns, rows, text_columns)
        widths = _widths(columns, rows, text_columns, self.console.width - _borders(columns))
        if widths is None:
            self.say(f"[bold]{escape(title)}[/]")
            for row in rows:
                pairs = zip(columns, row, strict=True)
                self.say(escape(", ".join(f"{name} {cell}".strip() for name, cell in pairs)))
        else:
            table = Table(title=escape(title), title_justify="left", title_style="bold")
            for place, (column, width) in enumerate(zip(columns, widths, strict=True)):
                justify: Literal["left", "right"] = "left" if place < text_columns else "right"
                table.add_column(escape(column), justify=justify, overflow="fold", width=width)
            for row in rows:
                table.add_row(*map(escape, row))
            self.console.print(table)
        if same:
            self.say(f"the same in all rows: {escape(', '.join(same))}")

    def result(self, payload: Any) -> None:
        """Print the JSON line if ``--json`` was given."""
        if self.as_json:
            text = json.dumps(payload, ensure_ascii=False, allow_nan=False, default=str)
            print(_HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)

    @contextmanager
    def progress(self, label: str, total: int, remaining: bool = True) -> Iterator[Callable[..., None]]:
        """Show a progress bar and yield the function that updates it: ``update(completed, note="")``.

        Args:
            label: text before the bar.
            total: value of ``completed`` at the end.
            remaining: whether to estimate the time left; leave it out where the note has a better estimate.
        """
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[note]}"),
            *[TimeRemainingColumn(elapsed_when_finished=True)] * remaining,
            console=self.console,
        )
        with bar:
            task = bar.add_task(escape(printable(label)), total=total, note="")

            def update(completed: float, note: str = "") -> None:
                bar.update(task, completed=completed, note=escape(printable(note)))

            yield update


def _borders(columns: list[str]) -> int:
    """Return the characters of a table's borders and of the space beside them."""
    return 3 * len(columns) + 1


def _without_constants(
    columns: list[str], rows: list[list[str]], text_columns: int
) -> tuple[list[str], list[list[str]], int, list[str]]:
    """Take out the columns of text that are the same in all rows; return the table, its text columns, what is out."""
    texts = list(zip(*rows, strict=True))[:text_columns]
    out = [place for place, cells in enumerate(texts) if len(rows) > 1 and len(set(cells)) == 1]
    if len(out) == text_columns:
        out = out[1:]  # the first column says what a row is
    kept = [place for place in range(len(columns)) if place not in out]
    same = [f"{columns[place]} {rows[0][place]}".strip() for place in out]
    shown = [[row[place] for place in kept] for row in rows]
    return [columns[place] for place in kept], shown, text_columns - len(out), same


def _natural(columns: list[str], rows: list[list[str]]) -> list[int]:
    """Return the width of each column in which no cell continues on the next line."""
    return [max(_lengths(cells)) for cells in zip(columns, *rows, strict=True)]


def _lengths(cells: Iterable[str]) -> list[int]:
    return [cell_len(line) for cell in cells for line in cell.split("\n")]


def _widths(columns: list[str], rows: list[list[str]], text_columns: int, available: int) -> list[int] | None:
    """Return widths that fit, with as few words broken as possible; None if there is too little room."""
    widths = _natural(columns, rows)
    words = [max(_lengths(" ".join(cells).split() or [""])) for cells in zip(columns, *rows, strict=True)]
    least = [
        width if column == "id" and max(_lengths([row[place] for row in rows] or [""])) <= WHOLE else word
        for place, (column, width, word) in enumerate(zip(columns, widths, words, strict=True))
    ]
    bodies = [max(_lengths([row[place] for row in rows] or [""])) for place in range(len(columns))]
    broken = [min(one, NARROW) if place < text_columns else one for place, one in enumerate(least)]
    # Headers continue on the next line first, then cells between words; at last words of text are broken.
    for floors in (list(map(max, bodies, least)), least, broken):
        while sum(widths) > available:
            place = max(range(len(widths)), key=lambda place: (widths[place] > floors[place], widths[place]))
            if widths[place] <= floors[place]:
                break
            widths[place] -= 1
    return widths if sum(widths) <= available else None
