"""The directive `options`: a table of the options of a configuration class, from its fields."""

from importlib import import_module
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Options(SphinxDirective):
    """`{options} module:Class` shows each option's name, default and meaning."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        module, _, name = self.arguments[0].partition(":")
        fields = getattr(import_module(module), name).model_fields
        rows = [(field, _shown(info.get_default()), info.description or "") for field, info in fields.items()]
        return [_table(("Option", "Default", "Meaning"), rows)]


def _shown(default: Any) -> str:
    return "open" if default is None else str(default)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> nodes.table:
    group = nodes.tgroup(cols=len(header))
    group += [nodes.colspec(colwidth=width) for width in (25, 15, 60)]
    head = nodes.thead()
    head += _row([nodes.paragraph(text=text) for text in header])
    body = nodes.tbody()
    for name, default, meaning in rows:
        literals = [nodes.paragraph("", "", nodes.literal(text=text)) for text in (name, default)]
        body += _row([*literals, nodes.paragraph(text=meaning)])
    group += [head, body]
    table = nodes.table(classes=["options"])
    table += group
    return table


def _row(cells: list[nodes.paragraph]) -> nodes.row:
    row = nodes.row()
    row += [nodes.entry("", cell) for cell in cells]
    return row


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("options", Options)
    return {"parallel_read_safe": True}
