"""Tests of pairs of rows of an experiment, such as distillation against Con, beside those against the base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from rlmrec.errors import WorkspaceError
from rlmrec.evaluation.significance import LEVEL, compare_seeds, holm
from rlmrec.experiments.experiment import ABSENT, Row
from rlmrec.files import read_json, write_json
from rlmrec.report.tables import ResultTable, Value, short_metric

if TYPE_CHECKING:
    from rlmrec.report.experiments import Summary


@dataclass(frozen=True)
class PairTests:
    """The tests of a row against another.

    Args:
        row: its coordinates.
        other: those of the row that it is tested against.
        trials: ids of the trials of both, so that tests of earlier trials are not shown.
        metrics: metric → the fields of ``Comparison``; p-values are not corrected. "seeds" is the test over seeds.
    """

    row: Row
    other: Row
    trials: tuple[list[str], list[str]]
    metrics: Mapping[str, Mapping[str, Any]]


def run_pair_tests(
    pairs: Sequence[tuple[Row, Row]],
    tables: Mapping[Row, Mapping[int, pl.DataFrame]],
    ids: Mapping[Row, Mapping[int, str]],
    metrics: Sequence[str],
    path: Path,
) -> None:
    """Test pairs of rows over users and seeds, and store the results beside the records.

    Where both rows have some seeds, only these are compared: a mean of three seeds has less noise than one seed.

    Args:
        pairs: of rows.
        tables: row → seed → values per user.
        ids: row → seed → trial.
        metrics: for example ["recall@20", "ndcg@20"].
        path: of the records. Stored tests of other pairs are kept.
    """
    found = {(one.row, one.other): one for one in load_pairs(path)}
    for row, other in pairs:
        values = {}
        seeds_of = _compared(tables[row], tables[other])
        new, base = (
            {seed: tables[one][seed] for seed in seeds}
            for one, seeds in zip((row, other), seeds_of, strict=True)
        )
        for metric in metrics:
            over_users, over_seeds = compare_seeds(new, base, metric)
            seeds = None if over_seeds is None else over_seeds.as_dict()
            values[metric] = {**over_users.as_dict(), "seeds": seeds}
        trials = [ids[row][seed] for seed in seeds_of[0]], [ids[other][seed] for seed in seeds_of[1]]
        found[row, other] = PairTests(row, other, trials, values)
    if found:
        write_json(_path(path), [asdict(one) for one in found.values()])


def load_pairs(records: Path) -> list[PairTests]:
    """Read what ``run_pair_tests`` stored; nothing if there is no file.

    Raises:
        WorkspaceError: it is damaged.
    """
    path = _path(records)
    if not path.exists():
        return []
    try:
        return [
            PairTests(tuple(one["row"]), tuple(one["other"]), tuple(one["trials"]), one["metrics"])
            for one in read_json(path)
        ]
    except (TypeError, KeyError):
        raise WorkspaceError(f"{path} is damaged: run the experiment again") from None


def pair_table(summary: Summary) -> ResultTable | None:
    """Return the table of pairs, with Holm's correction over it; None if none of them is of what is shown."""
    experiment = summary.experiment
    rows = {row.row: row for row in summary.rows}
    trials = {
        row.row: {record["cell"]["run"]["seed"]: record["id"] for record in row.records}
        for row in summary.rows
    }
    wanted = experiment.pairs(rows)
    seeds_of = {pair: _compared(*(trials[row] for row in pair)) for pair in wanted}
    metrics = [metric for metric in experiment.metrics if "@" in metric]
    shown = {
        (one.row, one.other): one
        for one in summary.pairs
        if (one.row, one.other) in wanted
        and set(metrics) <= set(one.metrics)
        and [sorted(ids) for ids in one.trials]
        == [
            sorted(trials[row][seed] for seed in seeds)
            for row, seeds in zip((one.row, one.other), seeds_of[one.row, one.other], strict=True)
        ]
    }
    pairs = [shown[pair] for pair in wanted if pair in shown]
    if not pairs:
        return None
    corrected = iter(holm([one.metrics[metric]["p_t"] for one in pairs for metric in metrics]).tolist())
    body: list[list[Value]] = []
    for one in pairs:
        values: list[Value] = []
        for metric in metrics:
            tests, p = one.metrics[metric], next(corrected)
            over_seeds = tests["seeds"]
            change = ABSENT if tests["relative"] is None else f"{100 * tests['relative']:+.1f} %"
            values += [
                change + "*" * (p < LEVEL),
                f"{tests['p_t']:.2g}",
                f"{p:.2g}",
                ABSENT if over_seeds is None else f"{over_seeds['p_t']:.2g}",
            ]
        seeds = [", ".join(map(str, part)) for part in seeds_of[one.row, one.other]]
        body.append([
            *rows[one.row].marked, _differing(experiment.rows, one),
            seeds[0] if seeds[0] == seeds[1] else " and ".join(seeds), *values,
        ])  # fmt: skip
    columns = [name.replace("_", " ") for name in experiment.rows]
    for metric in metrics:
        name = short_metric(metric)
        columns += [f"{name}, change", "p", "p, Holm", "p over seeds"]
    return ResultTable(
        [*columns[: len(experiment.rows)], "compared with", "seeds", *columns[len(experiment.rows) :]],
        body,
        "Pairs",
        "p of a paired t-test over test users (values averaged over seeds), alone and with Holm's correction over "
        f"this table; * marks p < {LEVEL} after it. p over seeds is of a t-test over the means of the seeds, not "
        "corrected; it says whether other seeds would show the same, and has little power with three.",
        summary.dataset,
        len(experiment.rows) + 1,
    )


def _compared(mine: Iterable[int], others: Iterable[int]) -> tuple[list[int], list[int]]:
    """Return the seeds that are compared: those of both, or all if there are none."""
    both = sorted(set(mine) & set(others))
    return both or sorted(mine), both or sorted(others)


def _differing(names: Sequence[str], pair: PairTests) -> str:
    """Name the coordinates in which the other row differs."""
    parts = [
        f"{name.replace('_', ' ')} {theirs}" if name != "variant" else theirs
        for name, mine, theirs in zip(names, pair.row, pair.other, strict=True)
        if mine != theirs
    ]
    return ", ".join(parts)


def _path(records: Path) -> Path:
    return records.with_suffix(".pairs.json")
