"""What the commands print: tables and progress for people, one JSON line for programs."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlmrec.durations import format_duration
from rlmrec.findings import Finding

WHOLE = 24  # characters of an id that fit beside two titles on 80 columns
NARROW = 8  # a column of text is not made narrower by breaking words

# Characters by which data could control a terminal or reorder its line: all but the line break and the tab.
_RANGES = ((0, 9), (11, 32), (127, 160), (0x202A, 0x202F), (0x2066, 0x206A))
_CONTROLS: dict[int, str | None] = {code: None for span in _RANGES for code in range(*span)}
_CONTROLS |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")  # half characters, which UTF-8 cannot encode

FIRST_LINE, NEXT_LINE = 1.0, 20.0  # seconds until a log says that a step runs, and until it says so again

_quiet = False
_stderr = Console(stderr=True, highlight=False, emoji=False)


_HIDDEN = re.compile("[" + "".join(map(chr, _CONTROLS)) + "]")  # in JSON they are escaped, so nothing is lost


def printable(text: str) -> str:
    """Return a text without what could control a terminal: titles and ids come from data.

    Example:
        >>> printable("Du\\x1b[31mne\\x07")
        'Du[31mne'
    """
    return text.translate(_CONTROLS)


@contextmanager
def quiet() -> Iterator[None]:
    """Print no progress and no remarks: only tables, JSON, errors, and findings that look like mistakes in the data."""
    global _quiet
    _quiet = True
    try:
        yield
    finally:
        _quiet = False


def of_options(message: str) -> str:
    """Return a message with the options of the command line alone, without their names in Python.

    Example:
        >>> of_options("say so (decimal, --decimal ,); or name them (items_id, --items-id-column)")
        'say so (--decimal ,); or name them (--items-id-column)'
    """
    return re.sub(r"\((?:[a-z_]+, )+(--[a-z])", r"(\1", message)


def error(message: str, *more: str) -> None:
    """Print a message on stderr, each argument as a line of its own."""
    first, *others = (escape(" ".join(printable(of_options(line)).split())) for line in (message, *more))
    _stderr.print(
        "\n".join([f"[bold red]error[/]: {first}", *(f"  {line}" for line in others)]), soft_wrap=True
    )


class Output:
    """The output of a command.

    Args:
        as_json: whether stdout gets one JSON line, and all that is for people goes to stderr.
        clock: seconds, for the durations of steps.
    """

    def __init__(self, as_json: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.as_json, self.clock = as_json, clock
        self.console = Console(stderr=as_json, highlight=False, emoji=False)

    def say(self, message: str) -> None:
        """Print a line for people, unless --quiet is given. It may hold Rich markup, so escape what comes from data."""
        if not _quiet:
            self._print(message)

    def _print(self, message: str) -> None:
        self.console.print(printable(message), soft_wrap=True)

    def findings(self, findings: Iterable[Finding]) -> None:
        """Print findings: in yellow what looks like a mistake."""
        for finding in findings:
            text = escape(of_options(str(finding)))
            if finding.ordinary:
                self.say(f"note: {text}")
            else:
                self._print(f"[yellow]found: {text}[/]")

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
            self._print(f"[bold]{escape(title)}[/]")
            for row in rows:
                pairs = zip(columns, row, strict=True)
                self._print(escape(", ".join(f"{name} {cell}".strip() for name, cell in pairs)))
        else:
            table = Table(title=escape(title), title_justify="left", title_style="bold")
            for place, (column, width) in enumerate(zip(columns, widths, strict=True)):
                justify: Literal["left", "right"] = "left" if place < text_columns else "right"
                table.add_column(escape(column), justify=justify, overflow="fold", width=width)
            for row in rows:
                table.add_row(*map(escape, row))
            self.console.print(table)
        if same:
            self._print(f"the same in all rows: {escape(', '.join(same))}")

    def result(self, payload: Any) -> None:
        """Print the JSON line if ``--json`` was given."""
        if self.as_json:
            text = json.dumps(payload, ensure_ascii=False, allow_nan=False, default=str)
            print(_HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)

    @contextmanager
    def progress(self, label: str, total: int, remaining: bool = True) -> Iterator[Callable[..., None]]:
        """Show progress and yield the function that updates it: ``update(completed, note="")``.

        A terminal shows a bar. A log gets a line after a second, one every 20 s, and one at the end with the time it
        took.

        Args:
            label: what is done.
            total: value of ``completed`` at the end.
            remaining: whether to estimate the time left; leave it out where the note has a better estimate.
        """
        with (
            self._bar(label, total, remaining)
            if self._bars
            else self._lines(label, total, remaining) as update
        ):
            yield update

    @contextmanager
    def step(self, label: str) -> Iterator[None]:
        """Show that a step runs whose length is not known, and how long it took if that was over a second."""
        if self._bars:
            start = self.clock()
            with self._bar(label, None, remaining=False):
                yield
            seconds = self.clock() - start
            if seconds >= FIRST_LINE:
                self.say(f"{escape(label)}: {format_duration(seconds)}")
        else:
            with self._lines(label, None, remaining=False):
                yield

    @property
    def _bars(self) -> bool:
        return self.console.is_terminal and not _quiet

    @contextmanager
    def _bar(self, label: str, total: int | None, remaining: bool) -> Iterator[Callable[..., None]]:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        count = [MofNCompleteColumn()] * (total is not None)
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=10),
            *count,
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(elapsed_when_finished=True) if remaining else TimeElapsedColumn(),
            console=self.console,
            transient=total is None,
        )
        with bar:
            task = bar.add_task(escape(printable(label)), total=total, note="")

            def update(completed: float, note: str = "") -> None:
                bar.update(task, completed=completed, note=escape(printable(note)))

            yield update

    @contextmanager
    def _lines(self, label: str, total: int | None, remaining: bool) -> Iterator[Callable[..., None]]:
        lines = ProgressLines(lambda line: self.say(escape(line)), label, total, remaining, self.clock)
        ended = threading.Event()

        def beat() -> None:  # says that a step runs while it does not report by itself
            while not ended.wait(1.0):
                lines.tick()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield lines.update
        finally:
            ended.set()
            thread.join()
        lines.end()  # after the thread, whose line would otherwise follow it


class ProgressLines:
    """Progress as lines of a log.

    Args:
        say: prints a line.
        label: what is done.
        total: value of ``completed`` at the end; None if it is not known.
        remaining: whether to estimate the time left.
        clock: seconds.
    """

    def __init__(
        self,
        say: Callable[[str], object],
        label: str,
        total: int | None,
        remaining: bool,
        clock: Callable[[], float],
    ) -> None:
        self._say, self._label = say, label
        self._total, self._remaining = total, remaining
        self._clock = clock
        self._lock = threading.Lock()
        self._start = clock()
        self._next = self._start + FIRST_LINE
        self._completed, self._note = 0.0, ""

    def update(self, completed: float, note: str = "") -> None:
        """Note how far the step is, and print a line if one is due."""
        self._completed, self._note = completed, note
        self.tick()

    def tick(self) -> None:
        """Print a line if one is due."""
        with self._lock:
            now = self._clock()
            if now < self._next:
                return
            self._next = now + NEXT_LINE
        seconds = now - self._start
        parts = [self._count(), f"{format_duration(seconds)} so far"]
        if self._remaining and self._total and self._completed:
            left = seconds / self._completed * (self._total - self._completed)
            parts.append(f"about {format_duration(left)} left")
        self._print([*parts, self._note])

    def end(self) -> None:
        """Print the line that ends the step."""
        seconds = self._clock() - self._start
        if self._total is not None or seconds >= FIRST_LINE:
            self._print([self._count(), f"done in {format_duration(seconds)}", self._note])

    def _count(self) -> str:
        return "" if self._total is None else f"{int(self._completed):,} of {self._total:,}"

    def _print(self, parts: list[str]) -> None:
        self._say(f"{self._label}: {', '.join(filter(None, parts))}")


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
