"""What the commands print: tables and progress for people, one JSON line for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

WorkspaceOption = Annotated[
    Path,
    typer.Option("--workspace", "-w", help="Folder that holds this project's dataset, vectors and runs."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON line on stdout; the rest goes to stderr.")
]

WHOLE = 24  # characters of an id that fit beside two titles on 80 columns

_stderr = Console(stderr=True, highlight=False, emoji=False)


def error(message: str) -> None:
    """One line on stderr."""
    _stderr.print(f"[bold red]error[/]: {escape(' '.join(message.split()))}", soft_wrap=True)


class Output:
    """Where a command's output goes.

    Args:
        as_json: people's output to stderr and one JSON line to stdout, instead of all to stdout.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(stderr=as_json, highlight=False, emoji=False)

    def say(self, message: str) -> None:
        """A line for people; Rich markup allowed, so escape what comes from data."""
        self.console.print(message, soft_wrap=True)

    def table(self, title: str, columns: list[str], rows: list[list[str]], text_columns: int = 1) -> None:
        """A table; the first ``text_columns`` columns are text, the others numbers.

        What is too long goes on in the next line: two long names must not end up the same. A column called
        "id" is not broken where titles can be, since ids are copied from it.
        """
        table = Table(title=escape(title), title_justify="left", title_style="bold")
        for index, column in enumerate(columns):
            table.add_column(
                escape(column),
                justify="left" if index < text_columns else "right",
                overflow="fold",
                no_wrap=column == "id" and all(len(row[index]) <= WHOLE for row in rows),
            )
        for row in rows:
            table.add_row(*map(escape, row))
        self.console.print(table)

    def result(self, payload: Any) -> None:
        """The JSON line, if one was asked for."""
        if self.as_json:
            print(json.dumps(payload, ensure_ascii=False, allow_nan=False, default=str), flush=True)

    @contextmanager
    def progress(self, label: str, total: int, remaining: bool = True) -> Iterator[Callable[..., None]]:
        """A progress bar; call what it yields with ``completed`` and, if you like, a ``note``.

        Without ``remaining`` it makes no estimate of the time left: the note has a better one.
        """
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[note]}"),
            *[TimeRemainingColumn(elapsed_when_finished=True)] * remaining,
            console=self.console,
        )
        with bar:
            task = bar.add_task(escape(label), total=total, note="")

            def update(completed: float, note: str = "") -> None:
                bar.update(task, completed=completed, note=escape(note))

            yield update
