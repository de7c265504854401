"""The page: all sections that have something to show, in one HTML file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby

import jinja2

from rlmrec import __version__
from rlmrec.report import accuracy, conclusion, data, maps, record
from rlmrec.report.blocks import Block, Options, Section, Sentence
from rlmrec.report.collect import Inputs

# Returns a section, or None if the workspace does not hold what it shows.
MakeSection = Callable[[Inputs, Options], Section | None]
# In the order of the page. The caller's own sections stand between the two.
RESULTS: tuple[MakeSection, ...] = (
    conclusion.conclusion,
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
    engine.filters |= {
        "by_kind": _by_kind,
        "by_topic": _by_topic,
        "minus": _minus,
        "tight": _tight,
        "wrapped": _wrapped,
    }
    page = engine.get_template("page.html")
    anchors = {getattr(block, "anchor", "") for section in sections for block in section.blocks} - {""}
    return page.render(name=name, sections=sections, left_out=left_out, version=__version__, anchors=anchors)


def _by_kind(blocks: Sequence[Block]) -> list[tuple[str, list[Block]]]:
    """Group neighbours of one kind: charts, and cards, stand side by side."""
    return [(kind, list(same)) for kind, same in groupby(blocks, key=lambda block: block.kind)]


def _by_topic(sentences: Sequence[Sentence]) -> list[tuple[str, list[Sentence]]]:
    """Group neighbours of one topic, which is shown once."""
    return [(topic, list(same)) for topic, same in groupby(sentences, key=lambda one: one.topic)]


def _minus(number: str) -> str:
    """Replace the hyphen by a minus sign, which is as wide as a plus."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", number)


def _tight(sentence: str) -> str:
    """Keep a number and its unit, and "p = 0.04", on one line."""
    return re.sub(r"(?<=\d) (?=(?:%|s)\b|%)|(?<=\bp) (?=[=<])|(?<=[=<]) (?=\d)", "\u00a0", sentence)


def _wrapped(number: str) -> str:
    """Put the change in brackets on a line of its own, so that six metrics stand side by side."""
    return _minus(number).replace(" (", "\n(")
