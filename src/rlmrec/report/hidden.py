"""What the experiment ``hidden`` found: who gains among users and items that are known by their text alone."""

from __future__ import annotations

from dataclasses import dataclass

from rlmrec.errors import RlmrecError
from rlmrec.report.collect import Inputs
from rlmrec.report.experiments import Summary, SummaryRow, summarize

NAME = "hidden"  # of the experiment
ANCHOR = "t-hidden"  # of its table
POPULARITY = "popularity"


@dataclass(frozen=True)
class KnownByText:
    """What a text tells of users or items without a history.

    Args:
        kind: "users" or "items".
        name: of the best recommender that places them by their text.
        value: its metric on them.
        base: what it is held against: popularity, or the same recommender with texts given to the wrong ones.
        base_value: the metric of ``base``.
    """

    kind: str
    name: str
    value: float
    base: str
    base_value: float


def known_by_text(inputs: Inputs, metric: str) -> list[KnownByText]:
    """Return the results of the workspace's experiment ``hidden``, for users and for items where both were run."""
    experiment = next((one for one in inputs.experiments if one.name == NAME), None)
    if experiment is None:
        return []
    found: list[KnownByText] = []
    for path in sorted((inputs.workspace.experiments_path / NAME).glob("*.jsonl")):
        try:
            summary = summarize(experiment, path)
        except RlmrecError:
            continue  # the section of experiments says so
        found = [one for kind in ("users", "items") for one in _of_kind(summary, kind, metric)]
        if found:
            break
    return found


def _of_kind(summary: Summary, kind: str, metric: str) -> list[KnownByText]:
    """Return the best recommender for a kind beside the best that knows nothing of their texts; none without both."""
    rows = [row for row in summary.rows if _data(row)["hidden"] == kind and metric in row.mean]
    own = [row for row in rows if _data(row)["texts"] is not None and _data(row)["shuffle"] == "none"]
    bases = [row for row in rows if row not in own]
    if not own or not bases:
        return []
    best, base = (max(found, key=lambda row: row.mean[metric]) for found in (own, bases))
    return [KnownByText(kind, _name(best), best.mean[metric], _name(base), base.mean[metric])]


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
