"""What a section is made of, and how it writes names and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rlmrec.errors import ConfigError
from rlmrec.profiles.profiler import Price
from rlmrec.report.charts import Chart

PROJECTIONS = ("pca", "tsne")


@dataclass(frozen=True)
class Table:
    """Rows of texts under columns; the first ``text_columns`` columns are text, the others numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    note: str = ""
    text_columns: int = 1
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = field(default="text", init=False)


@dataclass(frozen=True)
class Code:
    """Lines to copy, folded up under a title."""

    title: str
    text: str
    kind: str = field(default="code", init=False)


@dataclass(frozen=True)
class Card:
    """A title, (label, text) pairs, and a line below."""

    title: str
    entries: Sequence[tuple[str, str]]
    note: str = ""
    kind: str = field(default="card", init=False)


Block = Table | Text | Code | Card | Chart


@dataclass(frozen=True)
class Section:
    """A part of the page: neighbouring charts, and neighbouring cards, stand side by side where there is room."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Options:
    """What is shown, and how.

    Args:
        projection: how maps are made: "pca" or "tsne".
        colour_by: column of the items' texts that colours maps; None takes the most telling one there is.
        examples: profiles of each kind.
        price: money per million tokens; None leaves money out.
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


def model_name(backbone: str) -> str:
    """A backbone as people write it."""
    names = {"lightgcn": "LightGCN", "simgcl": "SimGCL", "autocf": "AutoCF", "": "no model"}
    return names.get(backbone, backbone if ":" in backbone or "-" in backbone else backbone.upper())


def metric_name(name: str) -> str:
    """recall@20 → R@20, ndcg@5 → N@5."""
    return name.replace("recall", "R").replace("ndcg", "N")


def p_value(value: float) -> str:
    """Two digits that count, or three decimals."""
    return f"{value:.3f}" if value >= 0.0995 else f"{value:.2g}"


def decimal(value: float) -> str:
    """Three decimals, with a minus that is as wide as a plus."""
    return f"{value:.3f}".replace("-", "−")


def signed(value: float, form: str = ".1f") -> str:
    """With its sign, and a minus that is as wide as a plus."""
    return format(value, f"+{form}").replace("-", "−")


def x_and_y(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Points to columns."""
    return [x for x, _ in points], [y for _, y in points]
