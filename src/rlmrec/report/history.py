"""The chart of the experiment ``history``: the gain from text against the length of the users' histories."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rlmrec.report.blocks import Chart
from rlmrec.report.charts import SERIES, Series, lines
from rlmrec.report.experiments import POPULARITY, Summary, SummaryRow
from rlmrec.report.tables import short_metric

NAME = "history"  # of the experiment


def gain_chart(summaries: Sequence[Summary], metric: str = "recall@20") -> Chart | None:
    """Draw the relative change that text makes to each recommender, at each length of history.

    The base is the same recommender without text or popularity, whichever is better on validation at this length: a
    recommender that knows one item of each user has no pairs of items to learn from, and any prior would beat it.

    Args:
        summaries: of the experiment ``history``, one for each dataset.
        metric: of the test split.

    Returns:
        the chart; None if no recommender was run with and without text at two lengths.
    """
    lengths = {row.row[0] for summary in summaries for row in summary.rows}
    places = {length: place for place, length in enumerate(sorted(lengths, key=_number))}
    series = [one for summary in summaries for one in _series(summary, places, metric)]
    if not series:
        return None
    return lines(
        "Gain from text against history length",
        series[: len(SERIES)],
        "training interactions that each user keeps",
        f"change of {short_metric(metric)}, %",
        note="Test split, which is the same at every length. The base is the same recommender without text or "
        "popularity, whichever is better on validation at this length.",
        levels=[(0.0, "")],
        x_ticks=[(place, length.removeprefix("random ")) for length, place in places.items()],
    )


def _series(summary: Summary, places: dict[str, int], metric: str) -> list[Series]:
    """Return a line for each recommender with text, of the lengths at which it and its base were run."""
    rows = {row.row: row for row in summary.rows}
    popularity = {
        row.row[0]: row for row in summary.rows if row.records[0]["cell"]["run"]["backbone"] == POPULARITY
    }
    points: dict[tuple[str, ...], list[tuple[int, float]]] = {}
    for row in summary.rows:
        without = rows.get(summary.experiment.other_row(row.row, "against") or row.row)
        if without is None or without is row or metric not in row.mean:
            continue
        bases = [without, *([popularity[row.row[0]]] if row.row[0] in popularity else [])]
        base = max(bases, key=lambda one: _on_validation(one, metric)).mean[metric]
        if base > 0:
            change = 100 * (row.mean[metric] / base - 1)
            points.setdefault(row.row[1:], []).append((places[row.row[0]], change))
    return [
        Series(
            f"{summary.dataset}: {_label(key)}", [x for x, _ in sorted(found)], [y for _, y in sorted(found)]
        )
        for key, found in points.items()
        if len(found) > 1
    ]


def _on_validation(row: SummaryRow, metric: str) -> float:
    return statistics.mean((record["valid"] or {}).get(metric, 0.0) for record in row.records)


def _number(length: str) -> float:
    """Return what a history such as "random 3" or "all" is ordered by."""
    digits = length.rpartition(" ")[2]
    return float(digits) if digits.isdecimal() else float("inf")


def _label(key: Sequence[str]) -> str:
    """Return the label of a row without its history: backbone, variant, text embeddings, shuffle."""
    backbone, variant, _, shuffle = key
    name = backbone if variant == "Base" else f"{backbone}, {variant}"
    return f"{name}, {'shuffled text' if shuffle != 'none' else 'text'}"
