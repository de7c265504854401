"""Charts as inline SVG that follow the page, light or dark, narrow or wide, without a script.

Matplotlib draws them in placeholder colours, each of which is replaced by a CSS variable that the page sets for
either scheme. Texts stay texts and are never read as markup or mathematics. Legends are HTML beside the picture,
where they can wrap. Series differ in marker and in colour (Okabe and Ito's palette, which colour-blind readers can
tell apart).
"""

from __future__ import annotations

import hashlib
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from rlmrec.report.blocks import Chart
from rlmrec.types import FloatArray, IntArray

# The placeholders that Matplotlib draws with; each becomes a CSS variable of the page.
INK, MUTED, GRID = "#0a0b01", "#0a0b02", "#0a0b03"
SERIES = tuple(f"#0a0b1{number}" for number in range(8))
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES)
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GLYPHS = ("●", "■", "▲", "◆", "▼", "✚", "✖", "★")  # the same in a legend
BAR_GLYPH = "■"
LABEL = 20  # characters
LINE = 14.0  # height of a line of text in a file of its own, points
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rlmrec",  # the same ids each time
    "text.parse_math": False,  # a title with two dollar signs is a title
    "text.usetex": False,
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Series:
    """The values of a line or of a set of bars.

    Args:
        name: for the legend.
        x: positions on the horizontal axis; of bars, 0, 1, 2 ….
        y: values.
        low: lower ends of intervals; None draws no intervals.
        high: upper ends.
        place: number of the colour and marker; None takes the next.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    place: int | None = None


def lines(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    note: str = "",
    x_scale: str = "linear",
    y_scale: str = "linear",
    levels: Sequence[tuple[float, str]] = (),
    marks: bool = True,
    x_ticks: Sequence[tuple[float, str]] = (),
) -> Chart:
    """Draw lines with markers; intervals are bands.

    Args:
        title: what is shown.
        series: at most 8.
        x_label: with its unit.
        y_label: with its unit.
        note: below the chart.
        x_scale: "linear" or "log".
        y_scale: likewise.
        levels: (value, label) of dashed lines to compare with.
        marks: whether points have markers.
        x_ticks: (position, label) of the ticks of the horizontal axis; by default numbers.
    """
    with _axes(x_label, y_label) as (figure, axes, tips):
        axes.set_xscale(x_scale)
        axes.set_yscale(y_scale)
        # By default powers of ten are written as mathematics, which needs another font.
        for axis, scale in ((axes.xaxis, x_scale), (axes.yaxis, y_scale)):
            if scale == "log":
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
                axis.set_minor_formatter(NullFormatter())
        if x_ticks:
            axes.set_xticks([x for x, _ in x_ticks], [label for _, label in x_ticks])
        legend = []
        for number, one in enumerate(series):
            place = _place(one, number)
            x, y = np.asarray(one.x, float), np.asarray(one.y, float)
            points = np.geomspace(1, len(x), 12) - 1 if x_scale == "log" else np.linspace(0, len(x) - 1, 12)
            marked = np.unique(points.astype(int)).tolist()
            axes.plot(
                x, y, color=SERIES[place], linewidth=1.6, marker=MARKERS[place] if marks else None,
                markersize=4.5, markevery=marked, gid=tips.name(one.name),
            )  # fmt: skip
            for at in marked if marks else ():
                tips.point(
                    x[at], y[at], f"{one.name}: {_value(y[at])} at {_value(x[at])}{_interval(one, at)}"
                )
            if one.low is not None and one.high is not None:
                axes.fill_between(x, one.low, one.high, color=SERIES[place], alpha=0.18, linewidth=0)
            legend.append((place, GLYPHS[place], one.name))
        for value, label in levels:
            axes.axhline(value, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                _short(label), (1, value), xycoords=("axes fraction", "data"), xytext=(0, 2),
                textcoords="offset points", ha="right", va="bottom", color=INK, fontsize=8,
            )  # fmt: skip
        return Chart(title, _svg(figure, title, tips), tuple(legend) if len(legend) > 1 else (), note)


def bars(
    title: str,
    categories: Sequence[str],
    series: Sequence[Series],
    y_label: str,
    *,
    note: str = "",
    x_label: str = "",
) -> Chart:
    """Draw bars side by side in each category; intervals are whiskers.

    Args:
        title: what is shown.
        categories: labels along the horizontal axis.
        series: at most 8, each with a value for every category.
        y_label: with its unit.
        note: below the chart.
        x_label: with its unit.
    """
    with _axes(x_label, y_label) as (figure, axes, tips):
        width = 0.8 / max(1, len(series))
        legend = []
        for number, one in enumerate(series):
            place = _place(one, number)
            x = np.arange(len(categories)) + (number - (len(series) - 1) / 2) * width
            y = np.asarray(one.y, float)
            drawn = axes.bar(x, y, 0.92 * width, color=SERIES[place], linewidth=0)
            for at, bar in enumerate(drawn):
                bar.set_gid(tips.name(f"{one.name}, {categories[at]}: {_value(y[at])}{_interval(one, at)}"))
            if one.low is not None and one.high is not None:
                below, above = y - np.asarray(one.low, float), np.asarray(one.high, float) - y
                axes.errorbar(
                    x, y, [np.maximum(below, 0), np.maximum(above, 0)],
                    fmt="none", color=INK, ecolor=INK, elinewidth=1, capsize=2,
                )  # fmt: skip
            legend.append((place, BAR_GLYPH, one.name))
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.set_xticks(range(len(categories)), [_short(category) for category in categories])
        axes.grid(False, axis="x")
        # Long labels would run into each other.
        if len(categories) * max(map(len, categories), default=0) > 60:
            axes.tick_params(axis="x", labelrotation=30)
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("right")
        return Chart(title, _svg(figure, title, tips), tuple(legend) if len(legend) > 1 else (), note)


def scatter(
    title: str,
    points: FloatArray,
    classes: IntArray,
    names: Sequence[str],
    *,
    note: str = "",
    labels: Sequence[str] = (),
    moved: FloatArray | None = None,
) -> Chart:
    """Draw a map: points in the plane, coloured and marked by class; the axes have no unit.

    Args:
        title: what is shown.
        points: float[n, 2].
        classes: int[n], the class of each point; ``len(names)`` means "other", which is small and grey.
        names: of the classes, at most 8.
        note: below the chart.
        labels: a tooltip for each point; none by default.
        moved: float[n, 2], where each point is afterwards, drawn as an arrow; NaN draws none.
    """
    with _axes("", "", height=3.6) as (figure, axes, tips):
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_aspect("equal", adjustable="datalim")
        for at, label in enumerate(labels):
            tips.point(points[at, 0], points[at, 1], label)
        if moved is not None:
            for start, end, place in zip(points, moved, classes.tolist(), strict=True):
                if np.isfinite(end).all():
                    axes.annotate(
                        "", end, start, annotation_clip=False,
                        arrowprops={"arrowstyle": "->", "color": SERIES[place] if place < len(names) else INK,
                                    "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0},
                    )  # fmt: skip
            axes.update_datalim(moved[np.isfinite(moved).all(axis=1)])
        other = classes >= len(names)
        axes.scatter(points[other, 0], points[other, 1], s=5, color=MUTED, alpha=0.35, linewidths=0)
        for place in range(len(names)):
            mine = points[classes == place]
            axes.scatter(
                mine[:, 0], mine[:, 1], s=13, color=SERIES[place], marker=MARKERS[place],
                alpha=0.8 if moved is None else 0.3, linewidths=0,
            )  # fmt: skip
        legend = tuple((place, GLYPHS[place], name) for place, name in enumerate(names))
        return Chart(title, _svg(figure, title, tips), legend, note)


def standalone(chart: Chart) -> str:
    """Return a chart as an SVG file with its title, legend and note, light or dark as the reader prefers.

    Args:
        chart: with the placeholders of its colours replaced by the page's variables, as all functions here return it.
    """
    page = resources.files("rlmrec.report").joinpath("page.html").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", page, re.DOTALL)[:2]
    head, _, body = str(chart.svg).partition(">")  # no markup: what is joined to it is escaped already
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    assert found is not None  # Matplotlib writes it
    width, height = map(float, found.groups())
    legend = [
        (f'<tspan fill="var(--series-{place})">{glyph}</tspan> {escape(name)}', LINE)
        for place, glyph, name in chart.legend
    ]
    notes = [(str(escape(line)), LINE) for line in textwrap.wrap(chart.note, int(width / 5))]
    above = [(f'<tspan font-weight="bold">{escape(chart.title)}</tspan>', 1.4 * LINE), *legend]
    top = sum(step for _, step in above) + LINE
    total = top + height + sum(step for _, step in notes) + LINE / 2
    texts, y = [], 0.0
    for text, step in above:
        y += step
        texts.append(f'<text x="8" y="{y:.1f}" fill="var(--ink)" font-size="10">{text}</text>')
    y = top + height
    for text, step in notes:
        y += step
        texts.append(f'<text x="8" y="{y:.1f}" fill="var(--muted)" font-size="9">{text}</text>')
    head = head.replace(found.group(0), f'viewBox="0 0 {width:g} {total:.0f}" width="{1.6 * width:.0f}"')
    style = (
        f":root {{{light}}} @media (prefers-color-scheme: dark) {{ :root {{{dark}}} }}"
        " svg text { font-family: system-ui, sans-serif; }"
    )
    picture = body.removesuffix("</svg>\n").removesuffix("</svg>")
    return (
        f"{head}><style>{style}</style>"
        f'<rect width="100%" height="100%" fill="var(--paper)"/>{"".join(texts)}'
        f'<g transform="translate(0 {top:.1f})">{picture}</g></svg>\n'
    )


def _short(label: str) -> str:
    """Return a label short enough to leave room for the picture."""
    return label if len(label) <= LABEL else label[: LABEL - 1] + "…"


def _place(series: Series, number: int) -> int:
    return (number if series.place is None else series.place) % len(SERIES)


def _value(number: float) -> str:
    """Return a number of a tooltip, four digits."""
    return f"{number:,.4g}".replace("-", "−")


def _interval(series: Series, at: int) -> str:
    if series.low is None or series.high is None:
        return ""
    return f" (95 % interval {_value(series.low[at])} to {_value(series.high[at])})"


class _Tips:
    """Texts that a browser shows when the pointer rests on a part of a picture: SVG titles, without a script."""

    def __init__(self, axes: Axes) -> None:
        self._axes = axes
        self._named: dict[str, str] = {}
        self._points: list[tuple[float, float, str]] = []

    def name(self, text: str) -> str:
        """Return the group id of a part of the picture, such as a bar, that has this tooltip."""
        gid = f"tip-{len(self._named)}"
        self._named[gid] = text
        return gid

    def point(self, x: float, y: float, text: str) -> None:
        """Add a tooltip at a point of the data; not drawn."""
        if np.isfinite([x, y]).all():
            self._points.append((float(x), float(y), text))

    def insert(self, svg: str, height: float) -> str:
        """Return a picture of a figure, which was drawn at 72 dots per inch, with its tooltips.

        Args:
            svg: the picture.
            height: of the figure in points; SVG counts from the top.
        """
        for gid, text in self._named.items():
            svg = svg.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{escape(text)}</title>')
        if not self._points:
            return svg
        # Titles of data may stand in for anything but markup: they are escaped like every other text.
        places = self._axes.transData.transform([(x, y) for x, y, _ in self._points])
        circles = "".join(
            f'<circle cx="{x:.1f}" cy="{height - y:.1f}" r="4"><title>{escape(text)}</title></circle>'
            for (x, y), (_, _, text) in zip(places, self._points, strict=True)
        )
        end = svg.rindex("</svg>")
        return f'{svg[:end]}<g class="tips" fill="transparent" stroke="none">{circles}</g>\n{svg[end:]}'


@contextmanager
def _axes(x_label: str, y_label: str, height: float = 2.9) -> Iterator[tuple[Figure, Axes, _Tips]]:
    # At this width 9 points are about 9 pixels on a telephone, where the chart is as wide as the page.
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.7, height), dpi=72, layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        yield figure, axes, _Tips(axes)


def _svg(figure: Figure, title: str, tips: _Tips) -> Markup:
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(_STYLE):
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = tips.insert(svg, 72 * figure.get_figheight())
    # A page has several pictures: each needs ids of its own, and the same ones each time.
    prefix = f"c{hashlib.sha256(svg.encode()).hexdigest()[:8]}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)  # so that the page's font is used
    # The page sets the size; screen readers need a name.
    head, rest = svg[: svg.index(">")], svg[svg.index(">") :]
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    return Markup(f'{head} role="img" aria-label="{escape(title)}"{rest}')
