"""The tables of an experiment: means over seeds, changes, significance tests, published numbers beside ours."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from rlmrec.errors import WorkspaceError
from rlmrec.evaluation.compare import compare_pairs, comparisons_as_dict
from rlmrec.evaluation.ranking import read_table
from rlmrec.evaluation.significance import LEVEL
from rlmrec.experiments.experiment import ABSENT, Experiment, Row
from rlmrec.experiments.results import TrialRecord, metric_value, read_trial_records, tries_path
from rlmrec.experiments.trial import TrialInputs
from rlmrec.files import read_json, write_json
from rlmrec.report.details import NOT_MEASURED, detail_tables
from rlmrec.report.tables import ResultTable, Value, short_metric, write_tables

POPULARITY = "popularity"  # the backbone that others are compared with
Tests = Mapping[Row, Mapping[str, Mapping[str, Any]]]  # row → metric → the fields of ``SeededComparison``


@dataclass
class SummaryRow:
    """A row of a summary, over the seeds.

    Args:
        row: its coordinates.
        seeds: of the trials that are done.
        epochs: mean number.
        mean: by metric.
        std: standard deviation by metric; None for one seed.
        records: of the trials.
        tests: by metric, against the base row.
        change: relative change by metric, to the base row.
        to_reference: relative change by metric, to the reference row.
        published: by metric.
        published_change: relative change of the published numbers to their base row.
    """

    row: Row
    seeds: list[int]
    epochs: float
    mean: dict[str, float]
    std: dict[str, float] | None
    records: list[TrialRecord]
    tests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    change: dict[str, float] = field(default_factory=dict)
    to_reference: dict[str, float] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    published_change: dict[str, float] = field(default_factory=dict)

    @property
    def environments(self) -> list[dict[str, Any]]:
        """What the trials were run with."""
        return [record["environment"] for record in self.records]

    def is_significant(self, metric: str) -> bool:
        """Return whether the corrected p of the t-test over users is below the level."""
        return metric in self.tests and bool(self.tests[metric]["p_holm"] < LEVEL)


@dataclass
class Summary:
    """The results of an experiment on one dataset.

    Args:
        experiment: of the results.
        dataset: its name.
        rows: in the order of the grids.
        published_dataset: whose published numbers are shown; None for none.
        encoders: name of text embeddings → their encoder.
        left_out: records of rows that were run with other options before.
        failed: trials whose last attempt failed.
        tries: row → records of the tries that its options were chosen from.
    """

    experiment: Experiment
    dataset: str
    rows: list[SummaryRow]
    published_dataset: str | None = None
    encoders: Mapping[str, str] = field(default_factory=dict)
    left_out: int = 0
    failed: int = 0
    tries: Mapping[Row, list[TrialRecord]] = field(default_factory=dict)

    @property
    def is_same_data(self) -> bool:
        """Whether the published numbers are of the same split, so that numbers can be compared."""
        published = self.experiment.published
        return published is not None and published.same_data.get(self.dataset) == self.published_dataset


def current_records(
    experiment: Experiment, records: Sequence[TrialRecord]
) -> tuple[dict[Row, list[TrialRecord]], int]:
    """Return the records of each row that share the options of its last one, and the number of the others.

    Means over seeds make sense only if nothing else differs. Rows are compared with each other, so all must be of
    the dataset of the last record: a dataset that was split again under its old name shares the file.
    """
    done = [
        (row, record)
        for record in records
        if record["status"] == "done" and (row := experiment.row(record["cell"])) is not None
    ]
    latest = {row: _without_seed(record["cell"]) for row, record in done}
    kept: dict[Row, list[TrialRecord]] = {}
    for row, record in done:
        dataset = done[-1][1]["cell"]["data"]["dataset"]
        if _without_seed(record["cell"]) == latest[row] and record["cell"]["data"]["dataset"] == dataset:
            kept.setdefault(row, []).append(record)
    return kept, len(done) - sum(map(len, kept.values()))


def _without_seed(trial: Mapping[str, Any]) -> str:
    run = {name: value for name, value in trial["run"].items() if name != "seed"}
    start = (
        None if trial["start"] is None else trial["start"]["alignment"]
    )  # started with the trial's own seed
    return json.dumps({**trial, "run": run, "start": start}, sort_keys=True)


def run_tests(experiment: Experiment, path: Path, inputs: TrialInputs) -> None:
    """Test each row against its base row over users and seeds, and store the results beside the records.

    Holm's correction is over all tests of the table. Only trials whose values per user are in the workspace can be
    tested; stored tests of other rows are kept.
    """
    tables: dict[Row, dict[int, pl.DataFrame]] = {}
    for row, records in current_records(experiment, read_trial_records(path))[0].items():
        for record in records:
            values = inputs.place.trial(record["id"]) / "test.parquet"
            if record["test"] is not None and values.exists():
                tables.setdefault(row, {})[record["cell"]["run"]["seed"]] = read_table(values)
    pairs = {}
    for row, by_seed in tables.items():
        base = experiment.other_row(row, "against")
        if base is not None and base in tables:
            pairs["\n".join(row)] = by_seed, tables[base]
    compared = compare_pairs(pairs, [metric for metric in experiment.metrics if "@" in metric])
    found = comparisons_as_dict(compared)
    save_tests(path, {**load_tests(path), **{tuple(key.split("\n")): value for key, value in found.items()}})


def _tests_path(records: Path) -> Path:
    return records.with_suffix(".significance.json")


def save_tests(records: Path, tests: Tests) -> None:
    """Write tests beside a file of records."""
    write_json(_tests_path(records), [{"row": list(row), "metrics": found} for row, found in tests.items()])


def load_tests(records: Path) -> Tests:
    """Read what ``save_tests`` wrote; nothing if there is no file."""
    path = _tests_path(records)
    if not path.exists():
        return {}
    try:
        return {tuple(entry["row"]): entry["metrics"] for entry in read_json(path)}
    except (TypeError, KeyError):
        raise WorkspaceError(f"{path} is damaged: run the experiment again") from None


def summarize(experiment: Experiment, path: Path) -> Summary:
    """Summarize a file of records.

    Raises:
        WorkspaceError: the file or that of its tests is damaged.
    """
    records = read_trial_records(path)
    by_row, left_out = current_records(experiment, records)
    tests = load_tests(path)
    rows = {row: _over_seeds(experiment, row, by_row[row]) for row in sorted(by_row, key=experiment.sort_key)}
    kept = [record for same in by_row.values() for record in same]
    dataset = kept[-1]["dataset"] if kept else path.stem
    published = experiment.published
    published_dataset = None if published is None else published.dataset_for(dataset)
    numbers = {} if published is None else published.numbers.get(published_dataset or "", {})
    for row, found in rows.items():
        base, reference = experiment.other_row(row, "against"), experiment.other_row(row, "reference")
        found.tests = tests.get(row, {})
        if base in rows:
            found.change = _changes(found.mean, rows[base].mean)
        if reference in rows:
            found.to_reference = _changes(found.mean, rows[reference].mean)
        found.published = numbers.get(_published_row(experiment, row), {})
        if base is not None:
            found.published_change = _changes(
                found.published, numbers.get(_published_row(experiment, base), {})
            )
    return Summary(
        experiment,
        dataset,
        list(rows.values()),
        published_dataset,
        {record["cell"]["data"]["semantics"]: record["encoder"] for record in kept if "encoder" in record},
        left_out,
        sum(record["status"] == "failed" for record in records),
        _tries(experiment, path),
    )


def _tries(experiment: Experiment, path: Path) -> dict[Row, list[TrialRecord]]:
    """Return the tries of each row."""
    tries: dict[Row, list[TrialRecord]] = {}
    for record in read_trial_records(tries_path(path)) if tries_path(path).exists() else []:
        row = experiment.row(record["cell"])
        if record["status"] == "done" and row is not None:
            tries.setdefault(row, []).append(record)
    return tries


def summaries_of(experiment: Experiment, results: Path) -> list[Summary]:
    """Summarize each dataset that an experiment was run on."""
    found = [summarize(experiment, path) for path in sorted((results / experiment.name).glob("*.jsonl"))]
    return [summary for summary in found if summary.rows]


def _over_seeds(experiment: Experiment, row: Row, records: Sequence[TrialRecord]) -> SummaryRow:
    values: dict[str, list[float]] = {}
    for metric in experiment.metrics:
        found = [metric_value(record, metric) for record in records]
        if None not in found:
            values[metric] = [value for value in found if value is not None]
    std = {name: statistics.stdev(found) for name, found in values.items()} if len(records) > 1 else None
    return SummaryRow(
        row,
        sorted(record["cell"]["run"]["seed"] for record in records),
        statistics.mean(record["epochs"] for record in records),
        {name: statistics.mean(found) for name, found in values.items()},
        std,
        list(records),
    )


def _changes(values: Mapping[str, float], base: Mapping[str, float]) -> dict[str, float]:
    return {name: value / base[name] - 1 for name, value in values.items() if base.get(name)}


def _published_row(experiment: Experiment, row: Row) -> Row:
    """Return the row to look up: where a history was cut is not among the published coordinates."""
    return tuple("" if name == "cut" else value for name, value in zip(experiment.rows, row, strict=True))


def tables_of(summary: Summary) -> list[ResultTable]:
    """Return the table of our numbers, and those of published numbers and of details if there are any."""
    beside = any(row.published for row in summary.rows)
    details = detail_tables(summary) if summary.experiment.has_details else []
    return [_our_table(summary), *([_beside_published(summary)] if beside else []), *details]


def write_experiment(experiment: Experiment, results: Path) -> list[Path]:
    """Write an experiment's tables beside its records and return their paths."""
    found = summaries_of(experiment, results)
    return write_tables(
        results / experiment.name,
        experiment.name,
        [table for summary in found for table in tables_of(summary)],
        [_long_table(summary) for summary in found],
        [_printed_table(summary) for summary in found],
    )


def _columns(experiment: Experiment) -> list[str]:
    return [name.replace("_", " ") for name in experiment.rows]


def _reference_columns(experiment: Experiment) -> list[str]:
    if "reference" not in experiment.values:
        return []
    reference = ", ".join(experiment.values["reference"].values())
    return [f"{short_metric(metric)}, change to {reference}" for metric in experiment.metrics]


def _reference_values(summary: Summary, row: SummaryRow) -> list[Value]:
    experiment = summary.experiment
    with_reference = "reference" in experiment.values
    return [_percent(row.to_reference.get(metric)) for metric in experiment.metrics if with_reference]


def _our_table(summary: Summary) -> ResultTable:
    experiment, metrics = summary.experiment, summary.experiment.metrics
    body: list[list[Value]] = []
    for row in summary.rows:
        values: list[Value] = []
        for metric in metrics:
            text = _number(metric, row.mean.get(metric))
            if row.std is not None and metric in row.std:
                text += f" ± {_number(metric, row.std[metric])}"
            if metric in row.change:
                text += f" ({_percent(row.change[metric])}{'*' * row.is_significant(metric)})"
            values.append(text)
        seeds = ", ".join(map(str, row.seeds))
        body.append([*row.row, seeds, f"{row.epochs:.0f}", *values, *_reference_values(summary, row)])
    if experiment.has_details:
        body = _with_missing_rows(summary, body)
    columns = [*_columns(experiment), "seeds", "epochs", *map(short_metric, metrics)]
    return ResultTable(
        [*columns, *_reference_columns(experiment)], body, experiment.title, _note(summary),
        summary.dataset, len(experiment.rows),
    )  # fmt: skip


def _with_missing_rows(summary: Summary, body: list[list[Value]]) -> list[list[Value]]:
    """Return the body of a table with a line for each row of the grids that was not run."""
    experiment = summary.experiment
    lines = {row.row: line for row, line in zip(summary.rows, body, strict=True)}
    numbers = [NOT_MEASURED] * len(experiment.metrics) + [None] * len(_reference_columns(experiment))
    for row in experiment.known_rows:
        lines.setdefault(row, [*row, "–", "–", *numbers])
    return [lines[row] for row in sorted(lines, key=experiment.sort_key)]


def _beside_published(summary: Summary) -> ResultTable:
    experiment = summary.experiment
    metrics = [name for name in experiment.metrics if name.endswith("@20")] or experiment.metrics
    against = "against" in experiment.values
    columns = _columns(experiment)
    for metric in metrics:
        columns += [f"{short_metric(metric)} ours"]
        columns += (
            ["paper", "difference"] if summary.is_same_data else [f"paper, {summary.published_dataset}"]
        )
        columns += ["change ours", "paper"] if against else []
    body: list[list[Value]] = []
    for row in summary.rows:
        values: list[Value] = list(row.row)
        for metric in metrics:
            ours, paper = row.mean.get(metric), row.published.get(metric)
            values += [_number(metric, ours), _number(metric, paper)]
            if summary.is_same_data:
                values.append(_percent(ours / paper - 1 if ours is not None and paper else None))
            if against:
                values.append(_percent(row.change.get(metric)) + "*" * row.is_significant(metric))
                values.append(_percent(row.published_change.get(metric)))
        body.append(values)
    title = f"Beside the paper's {summary.published_dataset}"
    title += ":" if summary.is_same_data else ", which is other data: compare changes, not numbers."
    return ResultTable(columns, body, title, text_columns=len(experiment.rows))


def _long_table(summary: Summary) -> ResultTable:
    """Return everything that is known, a row for each row and metric."""
    columns = [
        *summary.experiment.rows, "metric", "seeds", "epochs", "mean", "std", "change", "low", "high", "p_t",
        "p_t_holm", "p_wilcoxon", "p_wilcoxon_holm", "p_t_seeds", "p_wilcoxon_seeds", "change_to_reference",
        "paper_dataset", "paper", "difference_to_paper", "paper_change",
    ]  # fmt: skip
    body: list[list[Value]] = []
    for row in summary.rows:
        for metric, mean in row.mean.items():
            tests: Mapping[str, Any] = row.tests.get(metric, {})
            seeds: Mapping[str, Any] = tests.get("seeds") or {}
            paper = row.published.get(metric)
            body.append([
                *row.row, metric, len(row.seeds), f"{row.epochs:.1f}",
                mean, None if row.std is None else row.std[metric], row.change.get(metric),
                tests.get("low"), tests.get("high"), tests.get("p_t"), tests.get("p_holm"),
                tests.get("p_wilcoxon"), tests.get("p_wilcoxon_holm"), seeds.get("p_t"), seeds.get("p_wilcoxon"),
                row.to_reference.get(metric), None if paper is None else summary.published_dataset, paper,
                mean / paper - 1 if paper and summary.is_same_data else None, row.published_change.get(metric),
            ])  # fmt: skip
    return ResultTable(columns, body, summary.experiment.title, dataset=summary.dataset)


def _printed_table(summary: Summary) -> ResultTable:
    """Return our means with marks, the published number beside each in brackets: narrow enough for a page."""
    experiment, metrics = summary.experiment, summary.experiment.metrics
    body: list[list[Value]] = []
    for row in summary.rows:
        values: list[Value] = []
        for metric in metrics:
            text = _number(metric, row.mean.get(metric))
            if row.is_significant(metric):
                text += "*" if row.change.get(metric, 0) > 0 else "↓"
            if metric in row.published and metric in row.mean:
                text += f" ({_number(metric, row.published[metric])})"
            values.append(text)
        body.append([*row.row, str(len(row.seeds)), *values, *_reference_values(summary, row)])
    notes = ["Means over the seeds"]
    if any("@" in metric for metric in metrics):
        notes[0] += "; R is Recall, N is NDCG, all items ranked"
    if any(row.published for row in summary.rows):
        other = ", which is other data: numbers cannot be compared" * (not summary.is_same_data)
        notes.append(f"In brackets the paper's, {summary.published_dataset}{other}")
    if any(row.is_significant(metric) for row in summary.rows for metric in metrics):
        base = ", ".join(
            f"{key} {value}".replace("_", " ") for key, value in experiment.values["against"].items()
        )
        notes.append(
            f"* better and ↓ worse than {base}, p < {LEVEL} in a paired t-test over test users, with Holm's correction "
            "over the table"
        )
    columns = [*_columns(experiment), "seeds", *map(short_metric, metrics), *_reference_columns(experiment)]
    return ResultTable(
        columns, body, experiment.title, ". ".join(notes), summary.dataset, len(experiment.rows)
    )


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return ABSENT
    return f"{value:.4f}" if "@" in metric else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return ABSENT if value is None else f"{100 * value:+.1f} %"


def _note(summary: Summary) -> str:
    notes = []
    if any(row.change for row in summary.rows):
        against = summary.experiment.values["against"].items()
        base = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in against if value != ABSENT)
        notes.append(
            f"In brackets the change to {base}; * marks p < {LEVEL} in a paired t-test over test users (values "
            "averaged over seeds), with Holm's correction over the table."
        )
    if summary.encoders:
        made_by = (f"{name} by {encoder}" for name, encoder in sorted(summary.encoders.items()))
        notes.append(f"Text embeddings: {', '.join(made_by)}.")
    environments = [one for row in summary.rows for one in row.environments]
    if environments:
        notes.append(describe_environments(environments))
    loads = [one["load"] for one in environments if one.get("load") is not None]
    if summary.experiment.is_timing and loads:
        notes.append(
            f"Load of the machine {min(loads):g} to {max(loads):g}; a load above the number of threads means that "
            "other programs ran."
        )
    if summary.left_out:
        notes.append(
            f"{summary.left_out} runs with other options than the last ones of their row, or on other data, are not "
            "shown."
        )
    if summary.failed:
        notes.append(f"{summary.failed} trials failed.")
    return " ".join(notes)


def describe_environments(environments: Sequence[Mapping[str, Any]]) -> str:
    """Return every device, number of threads and version among the environments of runs, in a sentence.

    Example:
        >>> describe_environments([{"device": "cpu", "threads": n, "torch": "2.13.0"} for n in (2, 1, 2)])
        'Run on cpu with 1 or 2 threads; torch 2.13.0.'
    """

    def every(name: str) -> str:
        values = {one[name] for one in environments if one.get(name) is not None}
        return " or ".join(map(str, sorted(values)))

    machine, threads = every("machine"), every("threads") or "unknown"
    where = f"Run on {every('device') or 'an unknown device'}{f' ({machine})' * bool(machine)}"
    where += f" with {threads} thread{'s' * (threads != '1')}"
    versions = [f"{name} {every(name)}" for name in ("rlmrec", "torch", "python") if every(name)]
    return "; ".join([where, *[", ".join(versions)] * bool(versions)]) + "."
