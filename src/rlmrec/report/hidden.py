"""What the experiment ``hidden`` found: what texts do for users and items that are known by their text alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlmrec.errors import RlmrecError
from rlmrec.report.collect import Inputs
from rlmrec.report.experiments import POPULARITY, Summary, SummaryRow, summarize

NAME = "hidden"  # of the experiment
ANCHOR = "t-hidden"  # of its table
GRAPH_FILTER = "graph-filter"


@dataclass(frozen=True)
class KnownByText:
    """What a text tells of users or items without a history.

    Args:
        kind: "users" or "items".
        name: of the recommender that places them by their text.
        value: its metric on them.
        base: what it is compared with: popularity, or the same recommender with texts given to the wrong ones.
        base_value: the metric of ``base``.
        significant: whether the stored test finds a difference; None if there is no test of this pair.
    """

    kind: str
    name: str
    value: float
    base: str
    base_value: float
    significant: bool | None = None


def known_by_text(inputs: Inputs, metric: str) -> list[KnownByText]:
    """Return the results of the experiment ``hidden`` on the workspace's dataset, for users and for items if run."""
    experiment = next((one for one in inputs.experiments if one.name == NAME), None)
    if experiment is None:
        return []
    found: list[KnownByText] = []
    for path in sorted((inputs.workspace.experiments_path / NAME).glob("*.jsonl")):
        try:
            summary = summarize(experiment, path)
        except RlmrecError:
            continue  # the section of experiments says so
        if inputs.dataset is not None and any(
            _data(row)["dataset"] != inputs.dataset.fingerprint for row in summary.rows
        ):
            continue  # of another dataset of the workspace, whose numbers are in its own table
        found = [one for kind in ("users", "items") for one in _of_kind(summary, kind, metric)]
        if found:
            break
    return found


def _of_kind(summary: Summary, kind: str, metric: str) -> list[KnownByText]:
    """Return the pairs of a kind: right and shuffled texts, and the graph filter and popularity.

    Which rows are compared does not depend on their figures: the best of several, chosen on the test split, would look
    better than it is.
    """
    rows = [row for row in summary.rows if _data(row)["hidden"] == kind and metric in row.mean]
    own = [row for row in rows if _data(row)["texts"] is not None and _data(row)["shuffle"] == "none"]
    pairs = [(row, other) for row in own for other in rows if _is_shuffled(row, other)]
    pairs += [
        (row, other)
        for row in own
        for other in rows
        if (_backbone(row), _backbone(other)) == (GRAPH_FILTER, POPULARITY)
    ]
    found = []
    for row, base in pairs:
        tested = metric in row.tests and summary.experiment.other_row(row.row, "against") == base.row
        significant = row.is_significant(metric) if tested else None
        values = row.mean[metric], base.mean[metric]
        found.append(KnownByText(kind, _name(row), values[0], _name(base), values[1], significant))
    return found


def _is_shuffled(row: SummaryRow, other: SummaryRow) -> bool:
    """Return whether ``other`` is the same recommender with shuffled texts."""

    def unshuffled(one: SummaryRow) -> dict[str, Any]:
        trial = one.records[0]["cell"]
        run = {name: value for name, value in trial["run"].items() if name != "seed"}
        return {**trial, "run": run, "data": {**trial["data"], "shuffle": "none"}}

    return _data(other)["shuffle"] != "none" and unshuffled(row) == unshuffled(other)


def _backbone(row: SummaryRow) -> str:
    backbone: str = row.records[0]["cell"]["run"]["backbone"]
    return backbone


def _data(row: SummaryRow) -> dict[str, str | None]:
    data: dict[str, str | None] = row.records[0]["cell"]["data"]
    return data


def _name(row: SummaryRow) -> str:
    trial = row.records[0]["cell"]
    backbone, alignment = trial["run"]["backbone"], trial["run"]["alignment"]
    if backbone == POPULARITY:
        return POPULARITY
    named = [backbone] if alignment == "none" else [backbone, alignment]
    return " with ".join([*named, *["shuffled texts"] * (trial["data"]["shuffle"] != "none")])
