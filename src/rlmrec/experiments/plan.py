"""The plan of an experiment: what is left to train, and how long it may take by what was trained before."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlmrec.experiments.experiment import Experiment, Method, Row
from rlmrec.experiments.results import Results, TrialRecord
from rlmrec.experiments.trial import Trial


@dataclass(frozen=True)
class PlannedRow:
    """A row of an experiment's table that is to be trained.

    Args:
        part: the number of its stage, from 1 on: stages run one after another.
        row: its coordinates.
        trainings: how many there are, tries included.
        left: how many of them are not done.
        seconds: estimate of the time for those; None where nothing alike was trained yet.
    """

    part: int
    row: Row
    trainings: int
    left: int
    seconds: float | None


def planned_rows(
    experiment: Experiment,
    stages: Sequence[Sequence[Method]],
    tried: Results[TrialRecord],
    records: Results[TrialRecord],
) -> list[PlannedRow]:
    """Return the rows in the order in which they are trained.

    A training is expected to take as long as the mean of those that are done with the same backbone, limit of epochs
    and patience, and with the same alignment if there are such. A run that follows tries is expected to take as many
    times as long as a try as the runs that are done.

    Args:
        experiment: whose stages these are.
        stages: as ``Experiment.methods`` returns them.
        tried: records of the tries.
        records: of the runs.
    """
    found = []
    for part, stage in enumerate(stages, 1):
        for method in stage:
            runs = method.chosen(tried) or method.runs[0]  # which options are chosen is known after the tries
            left = [[one for one in trials if not done.is_done(one.id)] for trials, done in (
                (method.tries, tried), (runs, records)
            )]  # fmt: skip
            per_run = _expected(runs[0], records)
            per_try = _expected(method.tries[0], tried) if method.tries else None
            if per_run is None and per_try is not None:
                ratio = _run_per_try(_alike(method.tries[0], tried), _alike(runs[0], records))
                per_run = None if ratio is None else ratio * per_try
            parts = [(len(left[0]), per_try), (len(left[1]), per_run)]
            known = all(seconds is not None for count, seconds in parts if count)
            seconds = sum(count * (each or 0.0) for count, each in parts) if known else None
            row = experiment.row(runs[0].as_dict())
            assert row is not None  # only trials that others start from have none
            trainings = len(method.tries) + len(runs)
            found.append(PlannedRow(part, row, trainings, sum(map(len, left)), seconds))
    return found


def _alike(trial: Trial, results: Results[TrialRecord]) -> list[TrialRecord]:
    """Return the records of trials that are done and had the limit of epochs and the patience of this one."""

    def limits(one: Mapping[str, Any]) -> list[Any]:
        return [one.get("training", {}).get(name) for name in ("epochs", "patience")]

    mine = limits(trial.as_dict())
    return [
        one for one in results.records.values() if one["status"] == "done" and limits(one["cell"]) == mine
    ]


def _expected(trial: Trial, results: Results[TrialRecord]) -> float | None:
    """Return the mean seconds of the trials that are done and most like this one; None if there are none."""
    mine = trial.as_dict()["run"]
    done = _alike(trial, results)
    for keys in (("backbone", "alignment"), ("backbone",)):
        alike = [
            record["seconds"]
            for record in done
            if all(record["cell"]["run"][key] == mine[key] for key in keys)
        ]
        if alike:
            return statistics.mean(alike)
    return None


def _run_per_try(tries: Sequence[TrialRecord], runs: Sequence[TrialRecord]) -> float | None:
    """Return how many times as long a run takes as a try, over the backbones and alignments that have both."""
    seconds: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for side, records in enumerate((tries, runs)):
        for record in records:
            run = record["cell"]["run"]
            seconds.setdefault((run["backbone"], run["alignment"]), ([], []))[side].append(record["seconds"])
    means = [list(map(statistics.mean, both)) for both in seconds.values() if all(both)]
    total = sum(one for one, _ in means)
    return sum(other for _, other in means) / total if total else None
