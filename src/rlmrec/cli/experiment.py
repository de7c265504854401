"""rlmrec experiment: a table or figure of the paper by one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.markup import escape

from rlmrec.cli.arguments import DEFAULT_WORKSPACE, DeviceOption, JobsOption, JsonOption, ThreadsOption
from rlmrec.cli.figures import FUNCTIONS, Request, check_options, run_figure
from rlmrec.cli.output import Output
from rlmrec.cli.sweep import PARTLY_FAILED, run_with_progress
from rlmrec.errors import ConfigError
from rlmrec.experiments.experiment import Experiment, experiment_names, significance
from rlmrec.experiments.render import (
    build_table,
    current,
    load_significance,
    markdown,
    save_significance,
    sheet_markdown,
    significance_path,
    tables_of,
    write_tables,
)
from rlmrec.experiments.runner import Results, lines_path
from rlmrec.experiments.spec import DEFAULT_PRESET, parse_settings
from rlmrec.experiments.trial import TrialInputs
from rlmrec.files import write_text
from rlmrec.paper.figures import sheets_of
from rlmrec.workspace import Workspace


def experiment(
    name: Annotated[
        str,
        typer.Argument(
            help="table1, table2, table3, table4, figure1, figure4, figure5, figure6, theorem2, or the TOML file of an "
            "experiment of your own."
        ),
    ],
    workspace: Annotated[
        Path, typer.Option("--workspace", "-w", help="Folder that holds the dataset and the text vectors.")
    ] = DEFAULT_WORKSPACE,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Of backbone, alignment, semantics, shuffle, noise, period, start, seed; several values by comma; "
            "repeat.",
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many, from 1 on; else the experiment's own.")
    ] = None,
    jobs: JobsOption = 1,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
    preset: Annotated[
        str, typer.Option(help="Whose options: a preset's name, or a TOML file such as a sweep's best.toml.")
    ] = DEFAULT_PRESET,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Override an option wherever a trial has it."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most this many epochs a trial.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Folder of the lines and the tables; by default experiments/ in the workspace."),
    ] = None,
    render: Annotated[
        bool, typer.Option("--render", help="Run nothing, write the tables of what was run.")
    ] = False,
    run: Annotated[str | None, typer.Option(help="figure1: the run whose lists are re-ranked.")] = None,
    users: Annotated[int | None, typer.Option(min=1, help="figure1: how many; else 200.")] = None,
    candidates: Annotated[
        int | None, typer.Option(min=20, help="figure1: length of the lists; else 40.")
    ] = None,
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="figure1: show the candidates in random order.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(help="figure1: name at the endpoint; else the embedded model, 'local'.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="figure1: root of an OpenAI-compatible endpoint.")
    ] = None,
    key_env: Annotated[
        str | None, typer.Option(help="figure1: environment variable with the key; else OPENAI_API_KEY.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="figure1: requests at once; else 16 (the embedded model: one).")
    ] = None,
    base: Annotated[str | None, typer.Option(help="figure6: the run without alignment.")] = None,
    runs: Annotated[
        list[str] | None, typer.Option(help="figure6: the runs to hold against it, by comma; repeat.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a table or figure of the paper on the workspace's dataset and show ours beside the paper's.

    Each trial that ends is a JSON line in RESULTS/NAME/DATASET.jsonl; killed and given again, it goes on, and a trial
    that failed is tried again (exit code 3: some failed). Seeds are 1, 2, …: with more seeds, those that ran are
    kept. The tables are written beside the lines as Markdown, CSV and LaTeX; models and values per user lie in the
    workspace's cells/. Runs of several datasets may share a results folder.
    A finished `rlmrec train` run of the workspace with a cell's very configuration (preset, options, seed, dataset,
    text vectors) is taken over instead of trained again.

    **Examples:**

    `rlmrec experiment table1 -w amazon --preset amazon --only alignment=none --seeds 3`

    `rlmrec experiment figure5 -w movies --preset movielens --jobs 2`

    `rlmrec experiment my.toml -w movies`   with my.toml as in docs/experiments.md

    `rlmrec experiment figure1 -w movies --run base --users 50`   and   `figure6 -w movies --base base --runs con,gen`
    """
    place, output = Workspace(workspace), Output(as_json)
    folder = results or place.path / "experiments"
    chosen = _only(only or [])
    request = Request(
        place, folder, output, chosen, seeds, run, users, candidates, shuffle, model, base_url, key_env, concurrency,
        threads, base, runs or (),
    )  # fmt: skip
    if name in FUNCTIONS:
        if not render:
            of_grids = {"preset": preset != DEFAULT_PRESET, "set": settings, "epochs": epochs}
            check_options(name, {option for option, value in of_grids.items() if value})
            ignored = ["--jobs"] * (jobs != 1) + ["--device"] * (device != "cpu")
            run_figure(name, request, ignored)
        _show_figure(name, folder, output)
        return
    own = Path(name) if name.endswith(".toml") else None
    if own is None and name not in experiment_names():
        known = ", ".join(sorted([*experiment_names(), *FUNCTIONS]))
        raise ConfigError(
            f"unknown experiment {name!r}: expected one of {known}, or a file's path ending in .toml"
        )
    check_options(name, request.given() - {"only", "seeds", "threads"})
    plan = Experiment.load(name)
    name = plan.name
    failed = 0
    if not render:
        options = parse_settings(settings or [])
        if epochs is not None:
            options["epochs"] = epochs
        inputs = TrialInputs(place)
        share = threads or (torch.get_num_threads() if plan.is_timing else None)
        trials, lacking = plan.trials(
            inputs, preset, options,
            seeds=seeds, only=chosen, timing=f"{device}, {share} threads" if plan.is_timing else "",
        )  # fmt: skip
        if lacking:
            output.say(
                f"[yellow]{len(lacking)} of {len(lacking) + len(trials)} trials need text vectors that this workspace "
                "does not have and are left out: rlmrec encode makes them[/]"
            )
        if plan.is_timing and jobs > 1:
            output.say("[yellow]seconds are measured one trial at a time: --jobs is not used[/]")
        path = lines_path(folder, name, inputs.dataset.name)
        lines = Results(path)
        if own is not None:
            keep_file(own, folder / name / f"{name}.toml")
        ran = run_with_progress(trials, place, lines, output, name, jobs, share, device)
        failed = sum(line["status"] == "failed" for line in ran)
        kept, _ = current(plan, list(lines.lines.values()))
        here = [line for line in kept if (place.trial(line["id"]) / "metrics.json").exists()]
        # What stands there of rows that were run elsewhere stays.
        tests = {**load_significance(significance_path(path)), **significance(plan, here, inputs)}
        save_significance(significance_path(path), tests)
        output.console.print(markdown(build_table(plan, path)), markup=False, soft_wrap=True)
    elif not tables_of(plan, folder):
        raise ConfigError(f"nothing to render: there are no lines of {name} in {folder}")
    written = write_tables(plan, folder)
    output.say("wrote " + ", ".join(escape(str(path)) for path in written))
    output.result(
        {
            "experiment": name,
            "failed": failed,
            "tables": [str(path) for path in written],
            "rows": [
                {"dataset": table.dataset, **dict(zip(plan.rows, entry.row, strict=True)), "seeds": entry.seeds,
                 **entry.mean}
                for table in tables_of(plan, folder)
                for entry in table.entries
            ],
        }
    )  # fmt: skip
    if failed:
        raise typer.Exit(PARTLY_FAILED)


def keep_file(file: Path, beside: Path) -> None:
    """Copy an experiment's file to its lines, so that the report and ``--render`` know what they are of.

    The rows of another experiment would be mixed with them, so one of the same name is refused, unless the grid
    has only grown or shrunk: what makes a row decides.

    Raises:
        ConfigError: the lines there are of another experiment.
    """
    if beside.exists() and not beside.samefile(file):
        there, now = Experiment.load(str(beside)), Experiment.load(str(file))
        if there.rows != now.rows:
            raise ConfigError(
                f"{beside.parent} holds an experiment whose rows are {', '.join(there.rows)}, and those of {file} are "
                f"{', '.join(now.rows)}: give it another name"
            )
    if not beside.exists() or not beside.samefile(file):
        write_text(beside, file.read_text(encoding="utf-8"))


def _show_figure(name: str, folder: Path, output: Output) -> None:
    sheets = sheets_of(name, folder)
    if not sheets:
        raise ConfigError(f"nothing to render: there are no lines of {name} in {folder}")
    for sheet in sheets:
        output.console.print(sheet_markdown(sheet), markup=False, soft_wrap=True)
    written = write_tables(name, folder)
    output.say("wrote " + ", ".join(escape(str(path)) for path in written))
    output.result(
        {
            "experiment": name,
            "tables": [str(path) for path in written],
            "rows": [
                {"dataset": sheet.dataset, **dict(zip(sheet.columns, row, strict=True))}
                for sheet in sheets
                for row in sheet.rows
            ],
        }
    )


def _only(arguments: list[str]) -> dict[str, list[str]]:
    chosen: dict[str, list[str]] = {}
    for argument in arguments:
        key, equals, values = argument.partition("=")
        if not equals or not key or not values:
            raise ConfigError(
                f"--only {argument!r}: expected key=value, for example --only backbone=lightgcn,sgl"
            )
        chosen.setdefault(key, []).extend(value.strip() for value in values.split(","))
    return chosen
