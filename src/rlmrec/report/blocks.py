"""The parts of a page: tables, texts, code, cards and charts in sections; and how names and numbers are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from rlmrec.errors import ConfigError
from rlmrec.profiles.progress import Price
from rlmrec.report.tables import ResultTable

PROJECTIONS = ("pca", "tsne")


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = field(default="text", init=False)


@dataclass(frozen=True)
class Code:
    """Lines to copy, folded under a title."""

    title: str
    text: str
    kind: str = field(default="code", init=False)


@dataclass(frozen=True)
class Card:
    """A title, pairs of label and text, and a note below."""

    title: str
    entries: Sequence[tuple[str, str]]
    note: str = ""
    kind: str = field(default="card", init=False)


@dataclass(frozen=True)
class Chart:
    """A finished picture.

    Args:
        title: above it, and what a screen reader reads out.
        svg: the picture.
        legend: (place, glyph, name) of each series.
        note: below it: what is shown, and how to read it.
        anchor: its id on the page, for links.
    """

    title: str
    svg: Markup
    legend: tuple[tuple[int, str, str], ...] = ()
    note: str = ""
    anchor: str = ""
    kind: str = field(default="chart", init=False)


@dataclass(frozen=True)
class Sentence:
    """A sentence of the conclusion.

    Args:
        topic: a word before it.
        text: it.
        anchor: of the table or chart with its numbers; "" if it has none.
    """

    topic: str
    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Conclusion:
    """Sentences that the page begins with, each with a link to its numbers."""

    sentences: Sequence[Sentence]
    kind: str = field(default="conclusion", init=False)


Block = ResultTable | Text | Code | Card | Chart | Conclusion


@dataclass(frozen=True)
class Section:
    """A section of the page. Adjacent charts, and adjacent cards, stand side by side if there is room."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Options:
    """What is shown, and how.

    Args:
        projection: of the maps: "pca" or "tsne".
        colour_by: column of the items' texts that colours the maps; None chooses one.
        examples: profiles to show, of items and of users.
        price: money per million tokens; None shows no money.
        seed: of samples and of t-SNE.

    Raises:
        ConfigError: an unknown projection.
    """

    projection: str = "pca"
    colour_by: str | None = None
    examples: int = 3
    price: Price | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.projection not in PROJECTIONS:
            raise ConfigError(
                f"unknown projection {self.projection!r}: expected one of {', '.join(PROJECTIONS)}"
            )


def anchor(what: str, name: str) -> str:
    """Return the id of what is shown for a name, such as a backbone's; it may be that of a user's class."""
    return f"{what}-{re.sub('[^a-zA-Z0-9]+', '-', name).strip('-').lower()}"


def p_value(value: float) -> str:
    """Return a p-value with two significant digits, or three decimals."""
    return f"{value:.3f}" if value >= 0.0995 else f"{value:.2g}"


def decimal(value: float) -> str:
    """Return three decimals, with a minus sign that is as wide as a plus."""
    return f"{value:.3f}".replace("-", "−")


def signed(value: float, form: str = ".1f") -> str:
    """Return a number with its sign; the minus sign is as wide as a plus."""
    return format(value, f"+{form}").replace("-", "−")
