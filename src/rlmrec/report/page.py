"""The page: all sections that have something to show, in one HTML file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby

import jinja2

from rlmrec import __version__
from rlmrec.report import accuracy, data, maps, record
from rlmrec.report.blocks import Block, Options, Section
from rlmrec.report.collect import Inputs

# Returns a section, or None if the workspace does not hold what it shows.
MakeSection = Callable[[Inputs, Options], Section | None]
# In the order of the page. The caller's own sections stand between the two.
RESULTS: tuple[MakeSection, ...] = (
    data.dataset,
    accuracy.results,
    accuracy.who_gains,
    accuracy.training,
    accuracy.noise,
    accuracy.ablation,
    record.experiments,
    maps.maps,
)
BACKGROUND: tuple[MakeSection, ...] = (record.profiles, record.costs, record.repeat)


def render(name: str, sections: Sequence[Section], left_out: Sequence[str]) -> str:
    """Return the HTML. Every text is escaped; only our own SVG is inserted as it is."""
    engine = jinja2.Environment(
        loader=jinja2.PackageLoader("rlmrec.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters |= {"by_kind": _by_kind, "minus": _minus, "wrapped": _wrapped}
    page = engine.get_template("page.html")
    return page.render(name=name, sections=sections, left_out=left_out, version=__version__)


def _by_kind(blocks: Sequence[Block]) -> list[tuple[str, list[Block]]]:
    """Group neighbours of one kind: charts, and cards, stand side by side."""
    return [(kind, list(same)) for kind, same in groupby(blocks, key=lambda block: block.kind)]


def _minus(number: str) -> str:
    """Replace the hyphen by a minus sign, which is as wide as a plus."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", number)


def _wrapped(number: str) -> str:
    """Put the change in brackets on a line of its own, so that six metrics stand side by side."""
    return _minus(number).replace(" (", "\n(")
