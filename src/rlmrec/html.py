"""HTML of results for notebooks: one small table, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

CELL = "border:0;border-bottom:1px solid rgba(128,128,128,.35);padding:.25em .9em .25em 0;color:inherit"
PLAIN = "background:none;color:inherit"


def html_table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    text_columns: int = 1,
    note: str = "",
) -> str:
    """Return a table as HTML. Every text in it is escaped, and its colours are those of the page.

    Args:
        caption: above it.
        header: names of the columns; empty for none.
        rows: the cells.
        text_columns: the first so many columns are aligned left, the others right.
        note: below it.
    """
    head = f"<thead>{_row('th', header, text_columns)}</thead>" if header else ""
    body = "".join(_row("td", row, text_columns) for row in rows)
    below = f'<p style="margin:.2em 0 1em;opacity:.8">{escape(note)}</p>' if note else ""
    return (
        f'<table style="border-collapse:collapse;border:0;margin:.5em 0;{PLAIN}">'
        f'<caption style="caption-side:top;text-align:left;padding-bottom:.3em;{PLAIN}">{escape(caption)}</caption>'
        f"{head}<tbody>{body}</tbody></table>{below}"
    )


def _row(tag: str, cells: Sequence[object], text_columns: int) -> str:
    shown = (
        f'<{tag} style="{CELL};text-align:{"left" if place < text_columns else "right"}">{escape(str(cell))}</{tag}>'
        for place, cell in enumerate(cells)
    )
    return f'<tr style="{PLAIN}">{"".join(shown)}</tr>'
