"""rlmrec experiment: a grid of training runs that makes a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from typer.core import TyperCommand

from rlmrec.cli.arguments import (
    DEFAULT_WORKSPACE,
    AddressOption,
    DevicesOption,
    EngineOption,
    EpochsOption,
    JobsOption,
    JsonOption,
    PresetOption,
    SettingsOption,
    ThreadsOption,
    WorkspaceOption,
)
from rlmrec.cli.paper import RenderOption, ResultsOption, written_files
from rlmrec.cli.sweep import PARTLY_FAILED, run_with_progress
from rlmrec.errors import ConfigError
from rlmrec.experiments import DEFAULT_PRESET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlmrec.cli.output import Output
    from rlmrec.data.dataset import Dataset
    from rlmrec.experiments.experiment import Experiment
    from rlmrec.experiments.plan import PlannedRow
    from rlmrec.experiments.trial import Trial
    from rlmrec.workspace import Workspace


class _Command(TyperCommand):
    """Names the new command of a study, before the parser refuses the options that the old one had."""

    def parse_args(self, context: typer.Context, arguments: list[str]) -> list[str]:  # type: ignore[override]
        """Refuse the names of studies."""
        for name in arguments:
            if name.startswith("-"):
                break  # --help needs none of the studies' imports
            from rlmrec.paper.studies import STUDIES

            if name in STUDIES:
                raise ConfigError(f"{name} is not a grid of trials: use rlmrec paper {STUDIES[name].command}")
        return super().parse_args(context, arguments)


COMMAND = _Command  # the class of the command, for ``cli.build``


def experiment(
    name: Annotated[
        str,
        typer.Argument(
            help="table1, table2, table3, table4, figure4, figure5 of the paper; strong: text against tuned baselines "
            "that are trained out; history: the same on short histories; hidden: "
            "users and items that are known by their text alone; or the TOML file of an experiment of your own."
        ),
    ],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Run a part of the grid: the values to keep of "
            "backbone, alignment, text_embeddings, shuffle, noise, period, cut, start, history, keep, hidden, seed, "
            "and of the columns variant and dimension; separate several values by commas (variants by another --only); "
            "repeat.",
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds, from 1 on; by default the experiment's own.")
    ] = None,
    jobs: JobsOption = 1,
    threads: ThreadsOption = None,
    device: DevicesOption = "cpu",
    preset: PresetOption = DEFAULT_PRESET,
    settings: SettingsOption = None,
    epochs: EpochsOption = None,
    results: ResultsOption = None,
    render: RenderOption = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show what is left to train, in order, and how long it may take; train nothing.",
        ),
    ] = False,
    engine: EngineOption = "local",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a grid of training runs on the workspace's dataset and show its table, beside the paper's if it has one.

    Each trial that ends is a JSON line in RESULTS/NAME/DATASET.jsonl. A killed command continues when it is repeated,
    and trials that failed are run again (exit code 3: some failed). Seeds are 1, 2, …: with more seeds, earlier trials
    are kept. The table shows the trials with this command's options, also of rows that --only leaves out; † marks rows
    of which only others were trained. The tables are written beside the records as Markdown, CSV and LaTeX; models and
    values per user are in the workspace's trials/. Several datasets of different names may share a results folder. A
    finished `rlmrec train` run of the workspace with the same configuration (preset, options, seed, dataset, text
    embeddings) is copied instead of trained again.

    **Examples:**

    `rlmrec experiment table1 -w amazon --preset amazon --only alignment=none --seeds 3`

    `rlmrec experiment figure5 -w movies --preset movielens --jobs 2`

    `rlmrec experiment strong -w movies --dry-run`   how much there is to train

    `rlmrec experiment my.toml -w movies`   with my.toml as in docs/experiments.md
    """
    import torch

    from rlmrec.cli.output import Output, printable
    from rlmrec.config import parse_settings
    from rlmrec.engine import open_engine
    from rlmrec.experiments.plan import planned_rows
    from rlmrec.experiments.results import Results, TrialRecord, results_path, tries_path
    from rlmrec.experiments.trial import TrialInputs
    from rlmrec.report.experiments import (
        run_tests,
        save_asked,
        summaries_of,
        summarize,
        tables_of,
        write_experiment,
    )
    from rlmrec.report.tables import as_markdown
    from rlmrec.workspace import Workspace

    place, output = Workspace(workspace), Output(as_json)
    folder = results or place.experiments_path
    plan = _load(name)
    failed = 0
    options = parse_settings(settings or [])
    if epochs is not None:
        options["epochs"] = epochs
    share = threads or (torch.get_num_threads() if plan.is_timing else None)
    timing = f"{device}, {share} threads" if plan.is_timing else ""
    if render and place.dataset_path.exists():
        inputs = TrialInputs(place)
        path = results_path(folder, plan.name, inputs.dataset.name)
        if path.exists():
            if results is not None:
                refuse_other_dataset(path, inputs.dataset)
            if options:
                plan.methods(inputs, preset, options, seeds=seeds)  # names an option that no trial has
            asked = plan.asked(inputs, preset, options, seeds=seeds)
            save_asked(path, plan, asked, Results[TrialRecord](tries_path(path)))
            run_tests(plan, path, inputs)
    if not render:

        def tell(text: str) -> None:
            output.say(f"[yellow]{escape(text)}[/]")

        inputs = TrialInputs(place)
        stages, lacking = plan.methods(
            inputs, preset, options, seeds=seeds, only=_parse_only(only or []), timing=timing,
            tell=tell,
        )  # fmt: skip
        if lacking:
            report_lacking(
                lacking, sum(len(method.runs[0]) for stage in stages for method in stage), place, output
            )
        if plan.is_timing and jobs > 1:
            output.say("[yellow]--jobs is ignored: seconds are measured one trial at a time[/]")
        path = results_path(folder, plan.name, inputs.dataset.name)
        records = Results[TrialRecord](path)
        tried = Results[TrialRecord](tries_path(path))
        if results is not None:
            refuse_other_dataset(path, inputs.dataset)
        asked = plan.asked(inputs, preset, options, seeds=seeds, timing=timing, tell=tell)
        if dry_run:
            show_plan(planned_rows(plan, stages, tried, records), plan.rows, output)
            return
        if name.endswith(".toml"):
            keep_file(Path(name), folder / plan.name / f"{plan.name}.toml")
        planned = [method for stage in stages for method in stage]
        every_try = [trial for method in planned for trial in method.tries]
        every_run = [trial for method in planned for run in method.runs for trial in run]
        with open_engine(engine, address, device, output.say) as opened:
            for number, stage in enumerate(stages, 1):
                label = plan.name if len(stages) == 1 else f"{plan.name}, part {number} of {len(stages)}"
                tries = [trial for method in stage for trial in method.tries]
                if tries:
                    run_with_progress(
                        tries, place, tried, output, f"{label}, tries", jobs, share, device, opened, every_try
                    )
                trials = [trial for method in stage for trial in method.chosen(tried)]
                ran = run_with_progress(
                    trials, place, records, output, label, jobs, share, device, opened, every_run
                )
                failed += sum(not tried.is_done(trial.id) for trial in tries)
                failed += sum(record["status"] == "failed" for record in ran)
                for method in stage:
                    method.remove_checkpoints(place, tried, records)
                save_asked(path, plan, asked, tried)
                run_tests(plan, path, inputs)  # after each part, so that one that is killed has its tests too
        output.console.print(
            printable(as_markdown(tables_of(summarize(plan, path)))), markup=False, soft_wrap=True
        )
    written = write_experiment(plan, folder)
    output.say(written_files(written))
    output.result(
        {
            "experiment": plan.name,
            "failed": failed,
            "tables": [str(path) for path in written],
            "rows": [
                {
                    "dataset": summary.dataset, **dict(zip(plan.rows, row.row, strict=True)),
                    "seeds": row.seeds, **row.mean,
                    **({"other_options": row.other_options} if row.other_options else {}),
                }
                for summary in summaries_of(plan, folder)
                for row in summary.rows
            ],
        }
    )  # fmt: skip
    if failed:
        raise typer.Exit(PARTLY_FAILED)


def refuse_other_dataset(path: Path, dataset: Dataset) -> None:
    """Refuse a file of records that has those of another dataset: its tables would show one of the two alone.

    Raises:
        ConfigError: a record is of another dataset, such as another split of the same file.
    """
    from rlmrec.experiments.results import read_trial_records, tries_path

    for record in [*read_trial_records(path), *read_trial_records(tries_path(path))]:
        if not dataset.descends_from(record["cell"]["data"]["dataset"]):
            raise ConfigError(
                f"{path} has trials of another dataset called {dataset.name!r}, such as another split of the same "
                "file: pass another folder by --results"
            )


def report_lacking(lacking: Sequence[Trial], planned: int, place: Workspace, output: Output) -> None:
    """Say which text embeddings are missing, and how many trials are left out for it.

    Raises:
        ConfigError: no trial is left.
    """
    from rlmrec.errors import did_you_mean
    from rlmrec.findings import by_number
    from rlmrec.text import DEFAULT_TEXT_EMBEDDINGS

    there = place.text_embeddings_names()
    names = sorted({str(trial.text_embeddings) for trial in lacking})
    named = ", ".join(f"{name!r}{did_you_mean(name, there)}" for name in names)
    made = " or ".join(
        "'rlmrec encode'" + f" --name {name}" * (name != DEFAULT_TEXT_EMBEDDINGS) for name in names
    )
    total = len(lacking) + planned
    need = f"{len(lacking)} of {total} {by_number(total, 'trial', 'trials')} {by_number(len(lacking), 'needs', 'need')}"
    message = f"{need} text embeddings {named} that this workspace does not have"
    there_are = f"there are {', '.join(there) or 'none yet'}; make them with {made}"
    if not planned:
        raise ConfigError(f"{message}, and none is left: {there_are}")
    left_out = by_number(len(lacking), "is", "are")
    output.say(f"[yellow]{escape(message)}, and {left_out} left out: {escape(there_are)}[/]")


def show_plan(planned: Sequence[PlannedRow], columns: Sequence[str], output: Output) -> None:
    """Print the rows that an experiment trains, in order, with the time that those left may take."""
    from rlmrec.durations import format_duration
    from rlmrec.findings import by_number

    rows = [
        [
            str(one.part), *one.row, f"{one.left}/{one.trainings}",
            "–" if not one.left else "?" if one.seconds is None else format_duration(one.seconds),
        ]
        for one in planned
    ]  # fmt: skip
    names = ["texts" if name == "text_embeddings" else name for name in columns]
    output.table("to train, in this order", ["part", *names, "left", "time"], rows, len(names) + 1)
    left = sum(one.left for one in planned)
    known = [one for one in planned if one.left and one.seconds is not None]
    counted, seconds = sum(one.left for one in known), sum(one.seconds or 0.0 for one in known)
    unknown = (
        "; ? marks rows without a finished training like them (backbone, limit of epochs, patience)"
        if counted < left
        else ""
    )
    output.say(
        f"{left} of {sum(one.trainings for one in planned)} trainings {by_number(left, 'is', 'are')} left"
        + (f", about {format_duration(seconds)} for {counted} of them" if known else "")
        + unknown
    )
    output.result({
        "left": left,
        "seconds": seconds,
        "rows": [
            {"part": one.part, **dict(zip(columns, one.row, strict=True)), "trainings": one.trainings,
             "left": one.left, "seconds": one.seconds}
            for one in planned
        ],
    })  # fmt: skip


def _load(name: str) -> Experiment:
    """Return the paper's grid of this name, or the experiment of a user's file.

    Raises:
        ConfigError: there is none, or the file has the name of one of the paper's.
    """
    from rlmrec.experiments.experiment import Experiment
    from rlmrec.paper.grids import grid, grid_names
    from rlmrec.paper.studies import STUDIES

    if not name.endswith(".toml"):
        return grid(name)
    if Path(name).stem in (*STUDIES, *grid_names()):
        raise ConfigError(f"{name}: {Path(name).stem} is a name of the paper's: rename the file")
    return Experiment.read(Path(name))


def keep_file(file: Path, copy: Path) -> None:
    """Copy an experiment's file beside its records, so that the report and ``--render`` find it.

    The grid may grow or shrink between calls. Another experiment of the same name is refused, as its rows would mix
    with those of the first: one whose rows lack a coordinate that made the rows of the first.

    Raises:
        ConfigError: the records there are of another experiment.
    """
    from rlmrec.experiments.experiment import Experiment
    from rlmrec.files import write_text

    if copy.exists() and not copy.samefile(file):
        there, here = Experiment.read(copy), Experiment.read(file)
        if not set(there.rows) <= set(here.rows):  # records hold every coordinate
            raise ConfigError(
                f"{copy.parent} holds an experiment with rows of {', '.join(there.rows)}, but the rows of {file} are "
                f"of {', '.join(here.rows)}: rename the file"
            )
    if not copy.exists() or not copy.samefile(file):
        write_text(copy, file.read_text(encoding="utf-8"))


def _parse_only(arguments: list[str]) -> dict[str, list[str]]:
    """Return axis → values of ``--only`` arguments."""
    chosen: dict[str, list[str]] = {}
    for argument in arguments:
        key, equals, values = argument.partition("=")
        if not equals or not key or not values:
            raise ConfigError(
                f"--only {argument!r}: expected key=value, for example --only backbone=lightgcn,sgl"
            )
        # A variant may contain a comma: "Distilled, softmax".
        chosen.setdefault(key, []).extend([values] if key == "variant" else map(str.strip, values.split(",")))
    return chosen
