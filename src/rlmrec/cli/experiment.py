"""rlmrec experiment: a table or figure of the paper by one command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.markup import escape

from rlmrec.cli.output import JsonOption, Output
from rlmrec.cli.sweep import PARTLY_FAILED, DeviceOption, JobsOption, ThreadsOption, run_with_progress
from rlmrec.errors import ConfigError
from rlmrec.experiments.cells import Materials
from rlmrec.experiments.experiment import Experiment, experiment_names, significance
from rlmrec.experiments.grid import Results
from rlmrec.experiments.render import (
    build_table,
    current,
    lines_path,
    load_significance,
    markdown,
    save_significance,
    significance_path,
    tables_of,
    write_tables,
)
from rlmrec.experiments.spec import DEFAULT_PRESET, parse_settings
from rlmrec.workspace import Workspace


@dataclass(frozen=True)
class Request:
    """What was asked of an experiment that is no grid of training runs.

    Args:
        place: the workspace.
        results: the folder of JSON lines; the experiment writes into its own folder there.
        only: axis → values to keep.
        seeds: how many; None for the experiment's own number.
        jobs: processes at a time.
        device: "cpu", "cuda" or "mps".
        output: where to print.
    """

    place: Workspace
    results: Path
    only: dict[str, list[str]]
    seeds: int | None
    jobs: int
    device: str
    output: Output


# Experiments that are no grid of training runs: name → function. A grid is a file in experiments/tables instead.
FUNCTIONS: dict[str, Callable[[Request], None]] = {}


def experiment(
    name: Annotated[str, typer.Argument(help="table1, table2, table3, table4, figure4 or figure5.")],
    workspace: Annotated[
        Path, typer.Option("--workspace", "-w", help="Folder that holds the dataset and the text vectors.")
    ] = Path("workspace"),
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Of backbone, alignment, seed …; several values by comma; repeat."
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
        typer.Option("--set", metavar="NAME=VALUE", help="Override an option wherever a cell has it."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most this many epochs a cell.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder of the JSON lines; by default experiments/ in the workspace.")
    ] = None,
    render: Annotated[
        bool, typer.Option("--render", help="Run nothing, write the tables of what was run.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a table or figure of the paper on the workspace's dataset and show ours beside the paper's.

    Each cell that ends is a JSON line in RESULTS/NAME/DATASET.jsonl; killed and given again, it goes on. The tables
    are written beside the lines as Markdown, CSV and LaTeX. Runs of several datasets may share a results folder.
    A finished `rlmrec train` run of the workspace with a cell's very configuration (preset, options, seed, dataset,
    text vectors) is taken over instead of trained again.

    **Examples:**

    `rlmrec experiment table1 -w amazon --preset amazon --only alignment=none --seeds 3`

    `rlmrec experiment figure5 -w movies --preset movielens --jobs 2`
    """
    place, output = Workspace(workspace), Output(as_json)
    folder = results or place.path / "experiments"
    chosen = _only(only or [])
    if name in FUNCTIONS:
        FUNCTIONS[name](Request(place, folder, chosen, seeds, jobs, device, output))
        return
    if name not in experiment_names():
        known = ", ".join([*experiment_names(), *FUNCTIONS])
        raise ConfigError(f"unknown experiment {name!r}: expected one of {known}")
    plan = Experiment.load(name)
    failed = 0
    if not render:
        options = parse_settings(settings or [])
        if epochs is not None:
            options["epochs"] = epochs
        materials = Materials(place)
        share = threads or (torch.get_num_threads() if plan.is_timing else None)
        cells, lacking = plan.cells(
            materials, preset, options,
            seeds=seeds, only=chosen, timing=f"{device}, {share} threads" if plan.is_timing else "",
        )  # fmt: skip
        if lacking:
            output.say(
                f"[yellow]{len(lacking)} of {len(lacking) + len(cells)} cells need text vectors that this workspace "
                "does not have and are left out: rlmrec encode makes them[/]"
            )
        if plan.is_timing and jobs > 1:
            output.say("[yellow]seconds are measured one cell at a time: --jobs is not used[/]")
        path = lines_path(folder, name, materials.dataset.name)
        lines = Results(path)
        ran = run_with_progress(cells, place, lines, output, name, jobs, share, device)
        failed = sum(line["status"] == "failed" for line in ran)
        kept, _ = current(plan, list(lines.lines.values()))
        here = [line for line in kept if (place.cell(line["id"]) / "metrics.json").exists()]
        # What stands there of rows that were run elsewhere stays.
        tests = {**load_significance(significance_path(path)), **significance(plan, here, materials)}
        save_significance(significance_path(path), tests)
        output.console.print(markdown(build_table(plan, path)), markup=False, soft_wrap=True)
    elif not tables_of(name, folder):
        raise ConfigError(f"nothing to render: there are no lines of {name} in {folder}")
    written = write_tables(name, folder)
    output.say("wrote " + ", ".join(escape(str(path)) for path in written))
    output.result(
        {
            "experiment": name,
            "failed": failed,
            "tables": [str(path) for path in written],
            "rows": [
                {"dataset": table.dataset, **dict(zip(plan.rows, entry.row, strict=True)), "seeds": entry.seeds,
                 **entry.mean}
                for table in tables_of(name, folder)
                for entry in table.entries
            ],
        }
    )  # fmt: skip
    if failed:
        raise typer.Exit(PARTLY_FAILED)


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
