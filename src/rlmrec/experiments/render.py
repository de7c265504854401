"""Tables of experiments from their JSON lines: ours beside the paper's, as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from rlmrec.errors import WorkspaceError
from rlmrec.evaluation.significance import LEVEL
from rlmrec.experiments.experiment import Experiment, Row, experiments_of
from rlmrec.experiments.runner import Line, Results
from rlmrec.files import read_json, write_json, write_text
from rlmrec.paper.figures import FIGURES, Sheet, sheets_of

# Datasets of which the paper's own split is published: numbers can be held beside each other as they are.
SAME_DATA = {"rlmrec-amazon": "amazon-book"}
SIGNIFICANT = "*"
SHORT = {"recall": "R", "ndcg": "N"}

Tests = Mapping[Row, Mapping[str, Mapping[str, Any]]]


@dataclass
class Entry:
    """A row of a table.

    row: its coordinates. seeds: that ended. epochs: mean number. mean, std: by metric; std is None for one
    seed. environments: one a run. tests: by metric, against the base row. change: by metric, to the base row;
    to_reference: to the reference row. paper: by metric; paper_change: the paper's own change to its base row.
    """

    row: Row
    seeds: list[int]
    epochs: float
    mean: dict[str, float]
    std: dict[str, float] | None
    environments: list[dict[str, Any]]
    tests: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    change: dict[str, float] = field(default_factory=dict)
    to_reference: dict[str, float] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)
    paper_change: dict[str, float] = field(default_factory=dict)


@dataclass
class Table:
    """An experiment on one dataset.

    entries: its rows. paper_dataset: whose numbers of the paper stand beside ours, None for none. encoders: what
    made the text vectors, by their name. left_out: lines of rows that were run with other options before. failed:
    trials that failed last.
    """

    experiment: Experiment
    dataset: str
    entries: list[Entry]
    paper_dataset: str | None
    encoders: Mapping[str, str] = field(default_factory=dict)
    left_out: int = 0
    failed: int = 0

    @property
    def same_data(self) -> bool:
        """Whether ours and the paper's numbers are of one split."""
        return SAME_DATA.get(self.dataset) == self.paper_dataset


def significance_path(lines: Path) -> Path:
    """Where the significance tests of a file of lines lie."""
    return lines.with_suffix(".significance.json")


def current(experiment: Experiment, lines: Sequence[Line]) -> tuple[list[Line], int]:
    """The lines of each row that share the options of its last one, and how many others there are.

    Seeds are compared and averaged only where nothing else differs. Rows are compared with each other, so all are
    of the last line's dataset: one that was split anew, or another of the same name, has the same file.
    """
    latest: dict[Row, str] = {}
    dataset = None
    for line in lines:
        row = experiment.row(line["cell"])
        if row is not None and line["status"] == "done":
            latest[row] = _but_seed(line["cell"])
            dataset = line["cell"]["data"]["dataset"]
    kept, left_out = [], 0
    for line in lines:
        row = experiment.row(line["cell"])
        if row is None or line["status"] != "done":
            continue
        if latest[row] == _but_seed(line["cell"]) and line["cell"]["data"]["dataset"] == dataset:
            kept.append(line)
        else:
            left_out += 1
    return kept, left_out


def _but_seed(trial: Mapping[str, Any]) -> str:
    run = {name: value for name, value in trial["run"].items() if name != "seed"}
    start = None if trial["start"] is None else trial["start"]["alignment"]  # its seed is the cell's own
    return json.dumps({**trial, "run": run, "start": start}, sort_keys=True)


def save_significance(path: Path, tests: Tests) -> None:
    """Write what ``significance`` found beside the lines, so that a table needs no values per user."""
    write_json(path, [{"row": list(row), "metrics": found} for row, found in tests.items()])


def load_significance(path: Path) -> Tests:
    """What ``save_significance`` wrote; nothing where there is no file."""
    if not path.exists():
        return {}
    found = read_json(path)
    try:
        return {tuple(entry["row"]): entry["metrics"] for entry in found}
    except (TypeError, KeyError):
        raise WorkspaceError(f"{path} is damaged: run the experiment again") from None


def paper_numbers(experiment: str) -> dict[str, dict[Row, dict[str, float]]]:
    """The paper's numbers: dataset → row → metric; empty where it gives a plot only."""
    path = resources.files("rlmrec.paper") / "numbers" / f"{experiment}.csv"
    if not path.is_file():
        return {}
    numbers: dict[str, dict[Row, dict[str, float]]] = {}
    rows = Experiment.load(experiment).rows
    for record in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
        # A coordinate that the paper does not have, such as how a history was cut, has one value there.
        row = tuple(record.get(name, "") for name in rows)
        metrics = {name: float(value) for name, value in record.items() if name not in ("dataset", *rows)}
        numbers.setdefault(record["dataset"], {})[row] = metrics
    return numbers


def build_table(experiment: Experiment, path: Path) -> Table:
    """The table of a file of lines.

    Raises:
        WorkspaceError: the file or that of its tests is damaged.
    """
    lines = list(Results(path).lines.values())
    for line in lines:
        _check(line, path)
    kept, left_out = current(experiment, lines)
    tests = load_significance(significance_path(path))
    groups: dict[Row, list[Line]] = {}
    for line in kept:
        row = experiment.row(line["cell"])
        assert row is not None
        groups.setdefault(row, []).append(line)
    dataset = kept[-1]["dataset"] if kept else path.stem
    paper = paper_numbers(experiment.name)
    paper_dataset = _paper_dataset(dataset, list(paper))
    entries = {row: _entry(experiment, row, groups[row]) for row in sorted(groups, key=experiment.place)}
    beside = paper.get(paper_dataset or "", {})
    for row, entry in entries.items():
        entry.tests = tests.get(row, {})
        base, reference = experiment.other_row(row, "against"), experiment.other_row(row, "reference")
        entry.change = _change(entry, entries.get(base) if base else None)
        entry.to_reference = _change(entry, entries.get(reference) if reference else None)
        entry.paper = beside.get(_paper_row(row, experiment), {})
        of_base = beside.get(_paper_row(base, experiment), {}) if base else {}
        entry.paper_change = {
            name: value / of_base[name] - 1 for name, value in entry.paper.items() if of_base.get(name)
        }
    failed = sum(line["status"] == "failed" for line in lines)
    encoders = {line["cell"]["data"]["semantics"]: line["encoder"] for line in kept if "encoder" in line}
    return Table(experiment, dataset, list(entries.values()), paper_dataset, encoders, left_out, failed)


def _check(line: Line, path: Path) -> None:
    trial = line.get("cell")
    lacking = [part for part in ("run", "data", "start") if not isinstance(trial, dict) or part not in trial]
    if line["status"] == "done":
        lacking += [name for name in ("dataset", "test", "epochs", "environment") if name not in line]
    if lacking:
        raise WorkspaceError(
            f"{path}: the line with id {line['id']!r} has no {', '.join(lacking)}, so it is no trial of an "
            "experiment: remove it"
        )


def _paper_row(row: Row, experiment: Experiment) -> Row:
    return tuple("" if name == "cut" else value for name, value in zip(experiment.rows, row, strict=True))


def _paper_dataset(dataset: str, known: Sequence[str]) -> str | None:
    """The paper's dataset to show: the same data, else one of a like name, else its first."""
    if SAME_DATA.get(dataset) in known:
        return SAME_DATA[dataset]
    alike = [name for name in known if dataset.split("-")[0] == name.split("-")[0]]
    return next(iter([*alike, *known]), None)


def _entry(experiment: Experiment, row: Row, lines: Sequence[Line]) -> Entry:
    values: dict[str, list[float]] = {
        name: [float(line["test"][name] if "@" in name else line[name]) for line in lines]
        for name in experiment.metrics
        if all("@" not in name or line["test"] is not None for line in lines)
    }
    several = len(lines) > 1
    return Entry(
        row,
        sorted(line["cell"]["run"]["seed"] for line in lines),
        statistics.mean(line["epochs"] for line in lines),
        {name: statistics.mean(found) for name, found in values.items()},
        {name: statistics.stdev(found) for name, found in values.items()} if several else None,
        [line["environment"] for line in lines],
    )


def _change(entry: Entry, base: Entry | None) -> dict[str, float]:
    if base is None:
        return {}
    return {name: value / base.mean[name] - 1 for name, value in entry.mean.items() if base.mean.get(name)}


def short(metric: str) -> str:
    """ "R@20", "s an epoch"."""
    name, _, k = metric.partition("@")
    return f"{SHORT.get(name, name)}@{k}" if k else {"seconds_per_epoch": "s an epoch"}.get(metric, metric)


def _number(metric: str, value: float) -> str:
    return f"{value:.4f}" if "@" in metric else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f} %"


def _star(entry: Entry, metric: str) -> str:
    found = entry.tests.get(metric)
    return SIGNIFICANT if found and found["p_holm"] < LEVEL else ""


def markdown(table: Table) -> str:
    """Our numbers with their changes and marks, then the paper's beside them."""
    first, *others = parts(table)
    lines = [
        f"### {first.title}: {table.dataset}",
        "",
        *_markdown_table(first.header, first.rows),
        "",
        first.note,
        "",
    ]
    for part in others:
        lines += [part.title, "", *_markdown_table(part.header, part.rows), ""]
    return "\n".join(lines)


class Part(NamedTuple):
    """What a table is made of: texts under a header; the first columns are the row's coordinates."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


def parts(table: Table) -> list[Part]:
    """Our numbers, then the paper's beside them where it has some."""
    found = [_ours(table)]
    if any(entry.paper for entry in table.entries):
        found.append(_beside_the_paper(table))
    return found


def _ours(table: Table) -> Part:
    experiment, metrics = table.experiment, table.experiment.metrics
    header = [*experiment.rows, "seeds", "epochs", *map(short, metrics)]
    if "reference" in experiment.values:
        what = ", ".join(experiment.values["reference"].values())
        header += [f"{short(metric)}, change to {what}" for metric in metrics]
    body = []
    for entry in table.entries:
        trials = [*entry.row, ", ".join(map(str, entry.seeds)), f"{entry.epochs:.0f}"]
        for metric in metrics:
            if metric not in entry.mean:
                trials.append("–")
                continue
            trial = _number(metric, entry.mean[metric])
            if entry.std is not None:
                trial += f" ± {_number(metric, entry.std[metric])}"
            if metric in entry.change:
                trial += f" ({_percent(entry.change[metric])}{_star(entry, metric)})"
            trials.append(trial)
        if "reference" in experiment.values:
            trials += [_percent(entry.to_reference.get(metric)) for metric in metrics]
        body.append(trials)
    return Part(experiment.title, header, body, _note(table))


def _beside_the_paper(table: Table) -> Part:
    experiment = table.experiment
    metrics = [name for name in experiment.metrics if name.endswith("@20")] or experiment.metrics
    against = "against" in experiment.values
    header = list(experiment.rows)
    for metric in metrics:
        header += [f"{short(metric)} ours", "paper", "difference"] if table.same_data else [
            f"{short(metric)} ours", f"paper, {table.paper_dataset}"
        ]  # fmt: skip
        header += ["change ours", "paper"] if against else []
    body = []
    for entry in table.entries:
        trials = list(entry.row)
        for metric in metrics:
            ours, paper = entry.mean.get(metric), entry.paper.get(metric)
            trials.append("–" if ours is None else _number(metric, ours))
            trials.append("–" if paper is None else _number(metric, paper))
            if table.same_data:
                trials.append(_percent(ours / paper - 1 if ours is not None and paper else None))
            if against:
                mark = _star(entry, metric)
                trials.append(_percent(entry.change.get(metric)) + mark)
                trials.append(_percent(entry.paper_change.get(metric)))
        body.append(trials)
    title = f"Beside the paper's {table.paper_dataset}"
    title += ":" if table.same_data else ", which is other data: changes can be compared, numbers cannot."
    return Part(title, header, body)


def _note(table: Table) -> str:
    notes = []
    if any(entry.change for entry in table.entries):
        what = ", ".join(
            f"{key} {value}" for key, value in table.experiment.values["against"].items() if value != "–"
        )
        notes.append(
            f"In brackets the change to {what}; * p < {LEVEL} of the paired t-test over test users (values averaged "
            "over seeds), after Holm over the table."
        )
    if table.encoders:
        made_by = (f"{name} by {encoder}" for name, encoder in sorted(table.encoders.items()))
        notes.append(f"Text vectors: {', '.join(made_by)}.")
    if table.entries:
        environments = [made for entry in table.entries for made in entry.environments]
        notes.append(made_with(environments))
        loads = [made["load"] for made in environments if "load" in made]
        if table.experiment.is_timing and loads:
            notes.append(
                f"Load of the machine {min(loads):g} to {max(loads):g}: above the number of threads other work ran."
            )
    if table.left_out:
        notes.append(
            f"{table.left_out} runs with other options than the last ones of their row, or on other data, are not "
            "shown."
        )
    if table.failed:
        notes.append(f"{table.failed} trials failed.")
    return " ".join(notes)


def made_with(environments: Sequence[Mapping[str, Any]]) -> str:
    """Every device, number of threads and version among runs' environments, in a sentence.

    Example:
        >>> made_with([{"device": "cpu", "threads": n, "torch": "2.13.0"} for n in (2, 1, 2)])
        'Made on cpu with 1 or 2 threads; torch 2.13.0.'
    """

    def every(name: str) -> str:
        values = {made[name] for made in environments if made.get(name) is not None}
        return " or ".join(map(str, sorted(values)))

    machine, threads = every("machine"), every("threads") or "unknown"
    where = f"Made on {every('device') or 'an unknown device'}{f' ({machine})' * bool(machine)}"
    where += f" with {threads} thread{'s' * (threads != '1')}"
    versions = [f"{name} {every(name)}" for name in ("rlmrec", "torch", "python") if every(name)]
    return "; ".join([where, *[", ".join(versions)] * bool(versions)]) + "."


def _markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rows = [header, ["---"] * len(header), *body]
    return ["| " + " | ".join(trial.replace("|", "\\|") for trial in row) + " |" for row in rows]


def as_csv(tables: Sequence[Table]) -> str:
    """One line a row and metric, with everything that is known of it."""
    out = io.StringIO()
    names = tables[0].experiment.rows if tables else []
    columns = [
        "dataset", *names, "metric", "seeds", "epochs", "mean", "std", "change", "low", "high", "p_t", "p_t_holm",
        "p_wilcoxon", "p_wilcoxon_holm", "p_t_seeds", "p_wilcoxon_seeds", "change_to_reference", "paper_dataset",
        "paper", "difference_to_paper", "paper_change",
    ]  # fmt: skip
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for table in tables:
        for entry in table.entries:
            for metric, mean in entry.mean.items():
                tests: Mapping[str, Any] = entry.tests.get(metric, {})
                seeds: Mapping[str, Any] = tests.get("seeds") or {}
                paper = entry.paper.get(metric)
                found = [
                    mean, None if entry.std is None else entry.std[metric], entry.change.get(metric),
                    tests.get("low"), tests.get("high"), tests.get("p_t"), tests.get("p_holm"),
                    tests.get("p_wilcoxon"), tests.get("p_wilcoxon_holm"), seeds.get("p_t"), seeds.get("p_wilcoxon"),
                    entry.to_reference.get(metric), table.paper_dataset if paper is not None else None, paper,
                    mean / paper - 1 if paper and table.same_data else None, entry.paper_change.get(metric),
                ]  # fmt: skip
                writer.writerow(
                    [table.dataset, *entry.row, metric, len(entry.seeds), f"{entry.epochs:.1f}"]
                    + ["" if v is None else v if isinstance(v, str) else f"{v:.6g}" for v in found]
                )
    return out.getvalue()


def latex(tables: Sequence[Table]) -> str:
    """A tabular a dataset (booktabs): ours with marks, the paper's number beside it in brackets."""
    parts = []
    for table in tables:
        experiment, metrics = table.experiment, table.experiment.metrics
        names = [*experiment.rows, "seeds", *map(short, metrics)]
        if "reference" in experiment.values:
            what = ", ".join(experiment.values["reference"].values())
            names += [f"{short(metric)}, change to {what}" for metric in metrics]
        body = []
        for entry in table.entries:
            trials = [*map(_escaped, entry.row), str(len(entry.seeds))]
            for metric in metrics:
                if metric not in entry.mean:
                    trials.append("--")
                    continue
                trial = _number(metric, entry.mean[metric])
                if _star(entry, metric):
                    trial += "$^{*}$" if entry.change.get(metric, 0) > 0 else r"$^{\downarrow}$"
                if metric in entry.paper:
                    trial += f" ({_number(metric, entry.paper[metric])})"
                trials.append(trial)
            if "reference" in experiment.values:
                trials += [_escaped(_percent(entry.to_reference.get(metric))) for metric in metrics]
            body.append(trials)
        parts.append(_tabular(_caption(table), names, len(experiment.rows), body))
    return "\n".join(parts)


def _caption(table: Table) -> str:
    """What a table shows and what its marks mean, as LaTeX."""
    said = [_escaped(f"{table.experiment.title}; {table.dataset}"), "Means over the seeds"]
    if any("@" in metric for metric in table.experiment.metrics):
        said[-1] += "; R is Recall, N is NDCG, all items ranked"
    if any(entry.paper for entry in table.entries):
        said.append(
            _escaped(f"In brackets the paper's, {table.paper_dataset}")
            + ", which is other data: numbers cannot be compared" * (not table.same_data)
        )
    stars = {_star(entry, metric) for entry in table.entries for metric in table.experiment.metrics}
    if SIGNIFICANT in stars:
        what = ", ".join(f"{key} {value}" for key, value in table.experiment.values["against"].items())
        said.append(
            rf"$^{{*}}$ better and $^{{\downarrow}}$ worse than {_escaped(what)}, $p < {LEVEL}$ of the paired t-test "
            "over test users, after Holm over the table"
        )
    return ". ".join(said)


def _escaped(text: str) -> str:
    """Any text as LaTeX text."""
    special = {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "−": "$-$",
        "±": r"$\pm$", "≤": r"$\leq$", "<": r"$<$", ">": r"$>$", "…": r"\ldots{}",
    }  # fmt: skip
    return re.sub(r"[\\~^%&_#${}–−±≤<>…]", lambda found: special.get(found[0], "\\" + found[0]), text)


def tables_of(experiment: Experiment, results: Path) -> list[Table]:
    """The tables of an experiment, one a dataset that has lines; empty where nothing was run."""
    found = [build_table(experiment, path) for path in sorted((results / experiment.name).glob("*.jsonl"))]
    return [table for table in found if table.entries]


def write_tables(which: Experiment | str, results: Path) -> list[Path]:
    """Write ``<results>/<name>/<name>.md``, ``.csv`` and ``.tex`` of an experiment or of one of ``FIGURES``.

    Returns:
        the paths.
    """
    name = which if isinstance(which, str) else which.name
    if isinstance(which, str):
        sheets = sheets_of(name, results)
        texts = {
            "md": "\n".join(map(sheet_markdown, sheets)),
            "csv": sheet_csv(sheets),
            "tex": sheet_latex(sheets),
        }
    else:
        tables = tables_of(which, results)
        texts = {"md": "\n".join(map(markdown, tables)), "csv": as_csv(tables), "tex": latex(tables)}
    paths = [results / name / f"{name}.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def sheet_markdown(sheet: Sheet) -> str:
    """A sheet under its title, with what there is to know below."""
    table = _markdown_table(list(sheet.columns), sheet.texts())
    return "\n".join([f"### {sheet.title}: {sheet.dataset}", "", *table, "", sheet.note, ""])


def sheet_csv(sheets: Sequence[Sheet]) -> str:
    """Values as they are; what is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for place, sheet in enumerate(sheets):
        if place == 0 or sheet.columns.keys() != sheets[place - 1].columns.keys():
            writer.writerow(["dataset", *sheet.columns])
        for row in sheet.rows:
            writer.writerow([sheet.dataset, *(f"{v:.6g}" if isinstance(v, float) else v for v in row)])
    return out.getvalue()


def sheet_latex(sheets: Sequence[Sheet]) -> str:
    """A tabular a sheet (booktabs)."""
    return "\n".join(
        _tabular(
            _escaped(f"{sheet.title}; {sheet.dataset}. {sheet.note.removesuffix('.')}"),
            list(sheet.columns),
            sum(not form for form in sheet.columns.values()),
            [[_escaped(text) for text in row] for row in sheet.texts()],
        )
        for sheet in sheets
    )


def _tabular(caption: str, names: Sequence[str], n_texts: int, body: Sequence[Sequence[str]]) -> str:
    """A table float; the first ``n_texts`` columns are text, the others numbers. Caption and body are LaTeX already."""
    align = "l" * n_texts + "r" * (len(names) - n_texts)
    return "\n".join(
        [r"\begin{table}", r"\centering", rf"\caption{{{caption}.}}", rf"\begin{{tabular}}{{{align}}}", r"\toprule",
         " & ".join(map(_escaped, names)) + r" \\", r"\midrule", *(" & ".join(row) + r" \\" for row in body),
         r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    )  # fmt: skip


def readme(results: Path) -> str:
    """The tables of everything that was run, as ``experiments/README.md`` shows them.

    Files that lie in ``results`` itself are of other forms: those that the log beside it speaks of are named.
    """
    parts = [
        "# Experiments",
        "",
        "Made by `python experiments/render.py` from the JSON lines in `results/`; do not edit. `LOG.md` says what",
        "was learned. `rlmrec experiment NAME -w WORKSPACE --results experiments/results` runs one and adds its lines.",
        "",
    ]
    log = results.parent / "LOG.md"
    told = log.read_text(encoding="utf-8") if log.exists() else ""
    others = [path.name for path in sorted(results.glob("*.jsonl")) if path.name in told]
    if others:
        names = ", ".join(f"`{name}`" for name in others)
        parts += [
            f"Of runs before there were experiments, in forms of their own, shown in `LOG.md`: {names}.",
            "",
        ]
    missing = []
    plans = {plan.name: plan for plan in experiments_of(results)}
    for name in sorted([*plans, *FIGURES]):
        if name in FIGURES:
            shown = [sheet_markdown(sheet) for sheet in sheets_of(name, results)]
        else:
            shown = [markdown(table) for table in tables_of(plans[name], results)]
        if not shown:
            missing.append(name)
        for text in shown:
            parts += [text, f"`rlmrec experiment {name}`", ""]
    if missing:
        parts += [f"Not run yet: {', '.join(missing)}.", ""]
    return "\n".join(parts)
