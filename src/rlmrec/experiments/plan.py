"""The plan of an experiment: what is left to train, and how long it may take by what was trained before."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

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

    A training is expected to take as long as the mean of those that are done with the same backbone and alignment, else
    with the same backbone. A run that follows tries is expected to take as many times as long as a try as the runs that
    are done.

    Args:
        experiment: whose stages these are.
        stages: as ``Experiment.methods`` returns them.
        tried: records of the tries.
        records: of the runs.
    """
    ratio = _run_per_try(tried, records)
    found = []
    for part, stage in enumerate(stages, 1):
        for method in stage:
            runs = method.chosen(tried) or method.runs[0]  # which options are chosen is known after the tries
            left = [[one for one in trials if not done.is_done(one.id)] for trials, done in (
                (method.tries, tried), (runs, records)
            )]  # fmt: skip
            per_try = _expected(runs[0], tried)
            per_run = _expected(runs[0], records)
            if per_run is None and per_try is not None and ratio is not None:
                per_run = ratio * per_try
            parts = [(len(left[0]), per_try), (len(left[1]), per_run)]
            known = all(seconds is not None for count, seconds in parts if count)
            seconds = sum(count * (each or 0.0) for count, each in parts) if known else None
            row = experiment.row(runs[0].as_dict())
            assert row is not None  # only trials that others start from have none
            trainings = len(method.tries) + len(runs)
            found.append(PlannedRow(part, row, trainings, sum(map(len, left)), seconds))
    return found


def _expected(trial: Trial, results: Results[TrialRecord]) -> float | None:
    """Return the mean seconds of the trials that are done and most like this one; None if there are none."""
    mine = trial.as_dict()["run"]
    done = [record for record in results.records.values() if record["status"] == "done"]
    for keys in (("backbone", "alignment"), ("backbone",)):
        alike = [
            record["seconds"]
            for record in done
            if all(record["cell"]["run"][key] == mine[key] for key in keys)
        ]
        if alike:
            return statistics.mean(alike)
    return None


def _run_per_try(tried: Results[TrialRecord], records: Results[TrialRecord]) -> float | None:
    """Return how many times as long a run takes as a try, over the backbones and alignments that have both."""
    seconds: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for side, results in enumerate((tried, records)):
        for record in results.records.values():
            if record["status"] == "done":
                run = record["cell"]["run"]
                seconds.setdefault((run["backbone"], run["alignment"]), ([], []))[side].append(
                    record["seconds"]
                )
    means = [list(map(statistics.mean, both)) for both in seconds.values() if all(both)]
    total = sum(one for one, _ in means)
    return sum(other for _, other in means) / total if total else None
