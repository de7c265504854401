"""The tables of an experiment: means over seeds, changes, significance tests, published numbers beside ours."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from rlmrec.errors import WorkspaceError
from rlmrec.evaluation.compare import compare_pairs, comparisons_as_dict, limit_sentence
from rlmrec.evaluation.ranking import read_table
from rlmrec.evaluation.significance import LEVEL, holm
from rlmrec.experiments.experiment import ABSENT, Experiment, Method, Row
from rlmrec.experiments.results import Results, TrialRecord, metric_value, read_trial_records, tries_path
from rlmrec.experiments.spec import flat_options
from rlmrec.experiments.trial import TrialInputs, option_label, options_of
from rlmrec.files import read_json, write_json
from rlmrec.findings import by_number
from rlmrec.report.details import NOT_MEASURED, detail_tables, is_ended_by_limit
from rlmrec.report.pairs import PairTests, load_pairs, pair_table, run_pair_tests
from rlmrec.report.tables import ResultTable, Value, short_metric, write_tables

POPULARITY = "popularity"  # the backbone that others are compared with
Tests = Mapping[Row, Mapping[str, Mapping[str, Any]]]  # row → metric → the fields of ``SeededComparison``
OTHER = "†"  # marks rows with options other than the command asked for
# Option, as "part.name" → its value in a trial and the one that was asked for.
Differences = Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True)
class AskedRow:
    """What the last command asked for in a row of the table.

    Args:
        seeds: of its trials.
        trials: ``Trial.as_dict`` of one seed: of several grids that make the row, or of the choices as long as none is
            made, there are several.
    """

    seeds: list[int]
    trials: list[dict[str, Any]]


Asked = Mapping[Row, AskedRow]


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
        other_options: in which it differs from what the last command asked for.
        base: the row that it is compared with; None if there is none, or if that one has other options.
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
    other_options: Differences = field(default_factory=dict)
    base: Row | None = None
    tests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    change: dict[str, float] = field(default_factory=dict)
    to_reference: dict[str, float] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    published_change: dict[str, float] = field(default_factory=dict)

    @property
    def environments(self) -> list[dict[str, Any]]:
        """What the trials were run with."""
        return [record["environment"] for record in self.records]

    @property
    def marked(self) -> list[str]:
        """The coordinates, with a mark if its options are not those asked for."""
        return [*self.row[:-1], self.row[-1] + f" {OTHER}" * bool(self.other_options)]

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
        left_out: records of rows that are shown with other options.
        asked: what the last command asked for; empty if that is not known.
        failed: trials whose last attempt failed.
        tries: row → records of the tries that its options were chosen from.
        pairs: tests of pairs of rows.
    """

    experiment: Experiment
    dataset: str
    rows: list[SummaryRow]
    published_dataset: str | None = None
    encoders: Mapping[str, str] = field(default_factory=dict)
    left_out: int = 0
    failed: int = 0
    tries: Mapping[Row, list[TrialRecord]] = field(default_factory=dict)
    asked: Asked = field(default_factory=dict)
    pairs: Sequence[PairTests] = ()

    @property
    def is_same_data(self) -> bool:
        """Whether the published numbers are of the same split, so that numbers can be compared."""
        published = self.experiment.published
        return published is not None and published.same_data.get(self.dataset) == self.published_dataset


def current_records(
    experiment: Experiment, records: Sequence[TrialRecord], asked: Asked | None = None
) -> tuple[dict[Row, list[TrialRecord]], int]:
    """Return the records of each row that share all options, and the number of the others.

    Means over seeds make sense only if nothing else differs. Of several choices of options the nearest to what was
    asked for is taken; of equally near ones, and where nothing is known to be asked for, that of the last record.
    Rows are compared with each other, so all must be of one dataset, that asked for or that of the last record: a
    dataset that was split again under its old name shares the file.
    """
    done = [
        (row, record)
        for record in records
        if record["status"] == "done" and (row := experiment.row(record["cell"])) is not None
    ]
    wanted = {one["data"]["dataset"] for row in (asked or {}).values() for one in row.trials}
    datasets = [record["cell"]["data"]["dataset"] for _, record in done]
    dataset = next((one for one in reversed(datasets) if one in wanted), datasets[-1] if datasets else None)
    alike: dict[Row, dict[str, list[TrialRecord]]] = {}
    for row, record in done:
        if record["cell"]["data"]["dataset"] == dataset:
            by_options = alike.setdefault(row, {})
            key = _without_seed(record["cell"])
            by_options[key] = [*by_options.pop(key, []), record]  # the last one last
    kept = {}
    for row, by_options in alike.items():
        trials = asked[row].trials if asked and row in asked else []
        exact = {_without_seed(one) for one in trials}
        nearest = min(
            reversed(by_options),
            key=lambda key: (key not in exact, len(_differences(by_options[key][0]["cell"], trials))),
        )
        kept[row] = by_options[nearest]
    return kept, len(done) - sum(map(len, kept.values()))


def _differences(trial: Mapping[str, Any], asked: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Return the options in which a trial differs from the nearest one that was asked for; none if none was."""
    mine = options_of(trial)
    found = []
    for other in map(options_of, asked):
        names = {**other, **mine}
        if not other["run.timing"]:
            del names["run.timing"]  # --render asks for seconds of no machine in particular
        found.append(
            {name: (mine.get(name), other.get(name)) for name in names if mine.get(name) != other.get(name)}
        )
    return min(found, key=len, default={})


def _is_alike(one: Differences, other: Differences) -> bool:
    """Return whether two rows differ in the same way from what was asked for, so that they can be compared.

    An alignment's own options are no others than those of its row.
    """

    def shared(differences: Differences) -> dict[str, Any]:
        return {name: both for name, both in differences.items() if not name.startswith("alignment.")}

    return shared(one) == shared(other)


def _without_seed(trial: Mapping[str, Any]) -> str:
    run = {name: value for name, value in trial["run"].items() if name != "seed"}
    start = (
        None if trial["start"] is None else trial["start"]["alignment"]
    )  # started with the trial's own seed
    return json.dumps({**trial, "run": run, "start": start}, sort_keys=True)


def run_tests(experiment: Experiment, path: Path, inputs: TrialInputs) -> None:
    """Test each row against its base row over users and seeds, and store the results beside the records.

    Holm's correction is over all tests of the table. Only trials whose values per user are in the workspace can be
    tested. Stored tests of other rows are kept, and so is a stored one that a new one would take fewer seeds for.
    """
    tables: dict[Row, dict[int, pl.DataFrame]] = {}
    asked = load_asked(path, experiment)
    shown, _ = current_records(experiment, read_trial_records(path), asked)
    other = _other_options(shown, asked)
    for row, records in shown.items():
        for record in records:
            values = inputs.place.trial(record["id"]) / "test.parquet"
            if record["test"] is not None and values.exists():
                tables.setdefault(row, {})[record["cell"]["run"]["seed"]] = read_table(values)
    pairs, stored = {}, {row: one for row, one in load_tests(path).items() if row in shown}
    for row, by_seed in tables.items():
        base = experiment.other_row(row, "against", tables)
        if base is None or base not in tables or not _is_alike(other[row], other[base]):
            continue
        if row not in stored or all(len(tables[one]) == len(shown[one]) for one in (row, base)):
            pairs["\n".join(row)] = by_seed, tables[base]
    compared = compare_pairs(pairs, [metric for metric in experiment.metrics if "@" in metric])
    found = comparisons_as_dict(compared)
    save_tests(
        path, _corrected({**stored, **{tuple(key.split("\n")): value for key, value in found.items()}})
    )
    ids = {row: {record["cell"]["run"]["seed"]: record["id"] for record in shown[row]} for row in tables}
    like = [(row, base) for row, base in experiment.pairs(tables) if _is_alike(other[row], other[base])]
    run_pair_tests(like, tables, ids, [metric for metric in experiment.metrics if "@" in metric], path)


def _corrected(tests: Tests) -> Tests:
    """Return tests with Holm's correction over all of them: those of earlier calls had that over fewer."""
    new = {row: {metric: dict(one) for metric, one in metrics.items()} for row, metrics in tests.items()}
    every = [one for metrics in new.values() for one in metrics.values()]
    for name, corrected in (("p_t", "p_holm"), ("p_wilcoxon", "p_wilcoxon_holm")):
        for one, p in zip(every, holm([one[name] for one in every]).tolist(), strict=True):
            one[corrected] = p
    return new


def _other_options(shown: Mapping[Row, Sequence[TrialRecord]], asked: Asked) -> dict[Row, dict[str, Any]]:
    """Return the options in which the records of each row differ from what was asked for."""
    return {
        row: _differences(records[0]["cell"], asked[row].trials if row in asked else [])
        for row, records in shown.items()
    }


def save_asked(
    path: Path, experiment: Experiment, methods: Iterable[Method], tried: Results[TrialRecord]
) -> None:
    """Write what a command asks for beside a file of records, so that its table, and no older one, is shown.

    Args:
        path: of the records.
        experiment: of the methods.
        methods: as ``Experiment.asked`` returns them.
        tried: records of the tries.
    """
    rows: dict[Row, AskedRow] = {}
    for method in methods:
        chosen = method.chosen(tried)
        for trials in [chosen] if chosen else method.runs:
            row = experiment.row(trials[0].as_dict())
            if row is not None:
                asked = rows.setdefault(row, AskedRow([], []))
                asked.trials.append(trials[0].as_dict())
                asked.seeds.extend({trial.seed for trial in trials} - set(asked.seeds))
    write_json(
        _asked_path(path),
        [{"row": list(row), "seeds": sorted(one.seeds), "trials": one.trials} for row, one in rows.items()],
    )


def load_asked(path: Path, experiment: Experiment) -> Asked:
    """Read what ``save_asked`` wrote; nothing if there is no file.

    Args:
        path: of the file of records.
        experiment: which makes the rows.

    Raises:
        WorkspaceError: it is damaged.
    """
    file = _asked_path(path)
    if not file.exists():
        return {}
    try:
        asked: dict[Row, AskedRow] = {}
        for one in read_json(file):
            for trial in one["trials"]:
                _ = _without_seed(trial), trial["data"]["dataset"]
            row = experiment.row(one["trials"][0])  # a stored row may have names of an earlier version
            if row is not None:
                asked[row] = AskedRow(one["seeds"], one["trials"])
        return asked
    except (AttributeError, TypeError, KeyError, IndexError):
        raise WorkspaceError(f"{file} is damaged: run the experiment again") from None


def _asked_path(records: Path) -> Path:
    return records.with_suffix(".asked.json")


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
    asked = load_asked(path, experiment)
    by_row, left_out = current_records(experiment, records, asked)
    other = _other_options(by_row, asked)
    tests = load_tests(path)
    rows = {row: _over_seeds(experiment, row, by_row[row]) for row in sorted(by_row, key=experiment.sort_key)}
    kept = [record for same in by_row.values() for record in same]
    dataset = kept[-1]["dataset"] if kept else path.stem
    published = experiment.published
    published_dataset = None if published is None else published.dataset_for(dataset)
    numbers = {} if published is None else published.numbers.get(published_dataset or "", {})
    for row, found in rows.items():
        base, reference = (experiment.other_row(row, key, rows) for key in ("against", "reference"))
        found.other_options = other[row]
        if base in rows and _is_alike(other[row], other[base]):
            found.base = base
            # Without this base they are of earlier trials.
            found.tests = tests.get(row, {})
            found.change = _changes(found.mean, rows[base].mean)
        if reference in rows and _is_alike(other[row], other[reference]):
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
        _tries(experiment, path, by_row),
        asked,
        load_pairs(path),
    )


def _tries(
    experiment: Experiment, path: Path, shown: Mapping[Row, Sequence[TrialRecord]]
) -> dict[Row, list[TrialRecord]]:
    """Return the tries that the options of each row were chosen from.

    The file also has those of earlier commands. The row's own differ from its runs in the options that are tried alone.
    """
    grids = experiment.values["grid"]
    tables = [
        experiment.values.get("try_options", {}),
        *(one for grid in grids for one in grid.get("tries", ())),
    ]
    tried = {name.rpartition(".")[2] for table in tables for name in flat_options(table)}

    def fixed(record: TrialRecord) -> dict[str, Any]:
        trial = record["cell"]
        options = {**options_of(trial), "dataset": trial["data"]["dataset"]}
        return {name: value for name, value in options.items() if name.rpartition(".")[2] not in tried}

    tries: dict[Row, list[TrialRecord]] = {}
    for record in read_trial_records(tries_path(path)) if tries_path(path).exists() else []:
        row = experiment.row(record["cell"])
        if record["status"] != "done" or row is None or row not in shown:
            continue
        if fixed(record) == fixed(shown[row][0]):
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
    pairs = pair_table(summary)
    return [
        _our_table(summary),
        *([_beside_published(summary)] if beside else []),
        *([] if pairs is None else [pairs]),
        *details,
    ]


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
            text = _with_deviation(row, metric)
            if metric in row.change:
                text += f" ({_percent(row.change[metric])}{'*' * row.is_significant(metric)})"
            values.append(text)
        seeds = ", ".join(map(str, row.seeds))
        body.append([*row.marked, seeds, f"{row.epochs:.0f}", *values, *_reference_values(summary, row)])
    if experiment.has_details:
        body = _with_missing_rows(summary, body)
    columns = [*_columns(experiment), "seeds", "epochs", *map(short_metric, metrics)]
    return ResultTable(
        [*columns, *_reference_columns(experiment)], body, experiment.title, _note(summary),
        summary.dataset, len(experiment.rows),
    )  # fmt: skip


def _other_options_note(summary: Summary) -> str | None:
    """Say which rows have other options than the last command asked for, and which; None if there are none."""
    rows: dict[str, list[str]] = {}
    for row in summary.rows:
        if row.other_options:
            rows.setdefault(_in_words(row.other_options), []).append(_row_name(row.row))
    if not rows:
        return None
    listed = "; ".join(f"{', '.join(names)} ({options})" for options, names in rows.items())
    return (
        f"{OTHER} marks rows that were run with options other than the last command asked for: {listed}. They are "
        "compared only with rows that differ from it alike."
    )


def _row_name(row: Row) -> str:
    return " ".join(value for value in row if value != ABSENT)


def _in_words(differences: Differences) -> str:
    """Name options that differ from what was asked for."""

    def value(one: Any) -> str:
        return "the default" if one is None else str(one)

    parts = [
        "text vectors of before" if name == "data.texts" else
        f"{option_label(name)} {value(mine)} instead of {value(asked)}"
        for name, (mine, asked) in differences.items()
    ]  # fmt: skip
    return ", ".join(parts)


def _seeds_note(summary: Summary) -> str | None:
    """Say which rows are compared over other seeds although the same were asked for; None if there are none."""
    rows = {row.row: row for row in summary.rows}
    found = []
    for row in summary.rows:
        base = rows.get(row.base) if row.base is not None else None
        asked = [
            summary.asked[one.row].seeds
            for one in (row, base)
            if one is not None and one.row in summary.asked
        ]
        if base is not None and len(asked) == 2 and asked[0] == asked[1] and row.seeds != base.seeds:
            seeds = [", ".join(map(str, one.seeds)) for one in (row, base)]
            found.append(f"{_row_name(row.row)} ({seeds[0]}) with {_row_name(base.row)} ({seeds[1]})")
    return f"Compared over different seeds: {'; '.join(found)}." if found else None


def _limit_note(summary: Summary) -> str | None:
    """Say how many runs the limit of epochs ended before patience did; None if there are none, or where it is meant."""
    trained = [one for row in summary.rows for one in row.records if one.get("best_epoch") is not None]
    ended = [one["epochs"] for one in trained if is_ended_by_limit(one)]
    if not ended or summary.experiment.is_timing:
        return None
    who = f"{len(ended)} of {len(trained)} trained {by_number(len(trained), 'run', 'runs')}"
    in_file = any(
        "epochs" in flat_options(grid.get("options", {})) for grid in summary.experiment.values["grid"]
    )
    how = "raise epochs in the file" if in_file else f"--epochs {2 * max(ended)}"
    return f"{limit_sentence(who, len(ended), how)}."


def _with_missing_rows(summary: Summary, body: list[list[Value]]) -> list[list[Value]]:
    """Return the body of a table with a line for each row that was asked for and not run.

    Where that is not known, these are the rows of the grids, whose classes of the user's own are not imported.
    """
    experiment = summary.experiment
    lines = {row.row: line for row, line in zip(summary.rows, body, strict=True)}
    numbers = [NOT_MEASURED] * len(experiment.metrics) + [None] * len(_reference_columns(experiment))
    for row in summary.asked or experiment.known_rows:
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
    title += ":" if summary.is_same_data else ", which is different data: compare changes, not numbers."
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
            text = _with_deviation(row, metric)
            if row.is_significant(metric):
                text += "*" if row.change.get(metric, 0) > 0 else "↓"
            if metric in row.published and metric in row.mean:
                text += f" ({_number(metric, row.published[metric])})"
            values.append(text)
        changes = [str(value).replace("-", "−") for value in _reference_values(summary, row)]
        body.append([*row.marked, str(len(row.seeds)), *values, *changes])
    notes = ["Means over the seeds"]
    if any(row.std for row in summary.rows):
        notes[0] += " ± standard deviation"
    if any("@" in metric for metric in metrics):
        notes[0] += "; R is Recall, N is NDCG, all items ranked"
    if any(row.published for row in summary.rows):
        other = ", which is different data: numbers cannot be compared" * (not summary.is_same_data)
        notes.append(f"In brackets the paper's, {summary.published_dataset}{other}")
    if any(row.is_significant(metric) for row in summary.rows for metric in metrics):
        base = ", ".join(
            f"{key} {value}".replace("_", " ") for key, value in experiment.values["against"].items()
        )
        notes.append(
            f"* better and ↓ worse than {base}, p < {LEVEL} in a paired t-test over test users, with Holm's correction "
            "over the table"
        )
    more = (_limit_note(summary), _other_options_note(summary), _seeds_note(summary))
    notes += [note.rstrip(".") for note in more if note]
    columns = [*_columns(experiment), "seeds", *map(short_metric, metrics), *_reference_columns(experiment)]
    return ResultTable(
        columns, body, experiment.title, ". ".join(notes), summary.dataset, len(experiment.rows)
    )


def _with_deviation(row: SummaryRow, metric: str) -> str:
    """Return a mean, with the standard deviation over the seeds if there are several."""
    text = _number(metric, row.mean.get(metric))
    return (
        text if row.std is None or metric not in row.std else f"{text} ± {_number(metric, row.std[metric])}"
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
    notes += filter(None, [_limit_note(summary), _other_options_note(summary), _seeds_note(summary)])
    if summary.left_out:
        shown = "those shown" if summary.asked else "those of the row's last run"
        notes.append(
            f"{summary.left_out} {by_number(summary.left_out, 'run', 'runs')} with options other than {shown}, or on "
            f"different data, {by_number(summary.left_out, 'is', 'are')} not shown."
        )
    if summary.failed:
        notes.append(f"{summary.failed} {by_number(summary.failed, 'trial', 'trials')} failed.")
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
