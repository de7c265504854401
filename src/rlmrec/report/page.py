"""The page: all sections that have something to show, in one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import jinja2

from rlmrec import __version__
from rlmrec.report import accuracy, data, maps, record, studies
from rlmrec.report.blocks import Block, Options, Section
from rlmrec.report.collect import Inputs

# In the order of the page. Each takes what was collected and returns itself, or None where its inputs are not there.
SECTIONS: tuple[Callable[[Inputs, Options], Section | None], ...] = (
    data.dataset,
    accuracy.results,
    accuracy.who_gains,
    accuracy.training,
    accuracy.noise,
    accuracy.ablation,
    studies.tables,
    maps.maps,
    studies.case,
    studies.reranking,
    studies.theory,
    record.profiles,
    record.costs,
    record.repeat,
)


def render(name: str, sections: Sequence[Section], left_out: Sequence[str]) -> str:
    """The HTML. Every text is escaped; only our own SVG goes in as it is."""
    engine = jinja2.Environment(
        loader=jinja2.PackageLoader("rlmrec.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters["by_kind"] = _by_kind
    page = engine.get_template("page.html")
    return page.render(name=name, sections=sections, left_out=left_out, version=__version__)


def _by_kind(blocks: Sequence[Block]) -> list[tuple[str, list[Block]]]:
    """Neighbours of one kind together: charts, and cards, stand side by side."""
    return [(kind, list(same)) for kind, same in groupby(blocks, key=lambda block: block.kind)]
