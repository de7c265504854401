"""Equations as MathML, which browsers draw by themselves: the site needs no script and no other host."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx

TAG = re.compile(r"\\tag\{(.*?)\}", re.DOTALL)


def visit_inline(translator: Any, node: nodes.math) -> None:
    """Write an equation within a line."""
    translator.body.append(latex2mathml.tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_block(translator: Any, node: nodes.math_block) -> None:
    r"""Write an equation on its own line, with what its \tag says at the right."""
    text = node.astext()
    number = TAG.search(text)
    equation = latex2mathml.tex2mathml(TAG.sub("", text), as_block=True)
    shown = f'<span class="number">({number[1]})</span>' if number else ""
    translator.body.append(f'<div class="equation">{equation}{shown}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer under the name "mathml"."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True}
