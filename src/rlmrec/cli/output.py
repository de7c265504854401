"""What the commands print: tables and progress for people, one JSON line for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlmrec.findings import Finding

WHOLE = 24  # characters of an id that fit beside two titles on 80 columns

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

        What does not fit the terminal continues on the next line, numbers and their headers between words only.
        Text is never cut off: two long names must not look the same. A column called "id" stays whole, since ids
        are copied from it.
        """
        title, columns = printable(title), list(map(printable, columns))
        rows = [list(map(printable, row)) for row in rows]
        table = Table(title=escape(title), title_justify="left", title_style="bold")
        # Rich narrows all columns to fit, and would break numbers; with their words on lines of their own the
        # columns of text are the widest, and only they are narrowed.
        if _width(columns, rows) > self.console.width:
            columns, *rows = (
                [cell if place < text_columns else cell.replace(" ", "\n") for place, cell in enumerate(row)]
                for row in (columns, *rows)
            )
        for place, column in enumerate(columns):
            table.add_column(
                escape(column),
                justify="left" if place < text_columns else "right",
                overflow="fold",
                no_wrap=column == "id" and all(len(row[place]) <= WHOLE for row in rows),
            )
        for row in rows:
            table.add_row(*map(escape, row))
        self.console.print(table)

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


def _width(columns: list[str], rows: list[list[str]]) -> int:
    """Return the characters that a table takes without wrapping, with its borders."""
    widths = [max(map(cell_len, column)) for column in zip(columns, *rows, strict=True)]
    return sum(widths) + 3 * len(widths) + 1
