"""Docstrings as they are written here: an indented paragraph is an equation and keeps its characters."""

from typing import Any

from sphinx.application import Sphinx


def mark_equations(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Put `::` before each indented paragraph that follows an unindented one, so that it is shown as it stands."""
    del app, what, name, thing, options
    marked: list[str] = []
    before = ""  # the last line with text
    for number, line in enumerate(lines):
        after_gap = number and not lines[number - 1].strip()
        if line.startswith("    ") and after_gap and before and not before.startswith(" "):
            marked += ["::", ""]
        marked.append(line)
        before = line if line.strip() else before
    lines[:] = marked


def shorten_defaults(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Write `...` for the default of a field that has a factory, since `<factory>` is no Python."""
    del app, what, name, thing, options
    return signature and signature.replace("<factory>", "..."), returned


def setup(app: Sphinx) -> dict[str, bool]:
    """Run before Napoleon, which reads the sections."""
    app.connect("autodoc-process-docstring", mark_equations, priority=100)
    app.connect("autodoc-process-signature", shorten_defaults)
    return {"parallel_read_safe": True}
