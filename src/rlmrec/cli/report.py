"""rlmrec report: one HTML file about everything in a workspace."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from rlmrec.cli.arguments import DEFAULT_WORKSPACE, BaselinesOption, JsonOption, WorkspaceOption
from rlmrec.errors import ConfigError


def report(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Names of finished runs; all of the workspace by default.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; report.html in the workspace by default.")
    ] = None,
    projection: Annotated[str, typer.Option(help="Projection of the maps: pca or tsne.")] = "pca",
    colour_by: Annotated[
        str | None, typer.Option(help="Column of the items' texts that colours the maps.")
    ] = None,
    examples: Annotated[
        int, typer.Option(min=0, help="How many profiles of items and of users to show.")
    ] = 3,
    price_in: Annotated[float | None, typer.Option(min=0, help="Money per million prompt tokens.")] = None,
    price_out: Annotated[float | None, typer.Option(min=0, help="Money per million answer tokens.")] = None,
    baselines: BaselinesOption = True,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML file about the dataset, the runs, the profiles and the experiments; it opens offline.

    Sections without content are omitted. Runs that differ in their seed alone are averaged. Beside the runs stand
    popularity and the graph filter; on more than two million interactions only if they were trained before.

    **Examples:**

    `rlmrec report -w movies`

    `rlmrec report base con -w movies --projection tsne --colour-by genres --out movies.html`
    """
    from rlmrec.cli.output import Output
    from rlmrec.experiments.baselines import find_baselines
    from rlmrec.paper.grids import grids
    from rlmrec.paper.sections import SECTIONS
    from rlmrec.profiles.progress import Price
    from rlmrec.report import write_report
    from rlmrec.workspace import Workspace

    place, output = Workspace(workspace), Output(as_json)
    if (price_in is None) != (price_out is None):
        raise ConfigError("give both prices or none: --price-in and --price-out")
    price = None if price_in is None or price_out is None else Price(price_in, price_out)
    path = out or place.path / "report.html"
    if (
        baselines
        and place.dataset_path.exists()
        and (runs or any(place.path.glob("runs/[!.]*/metrics.json")))
    ):
        with output.step("baselines"):
            found = find_baselines(place, place.dataset(), runs or ())
        for note in found.notes:
            output.say(escape(note))
        runs = [*runs, *(run.name for run in found.runs)] if runs else None
    with ExitStack() as bar:
        updates: list[Callable[..., None]] = []

        def show(done: int, total: int, name: str) -> None:
            if not updates:
                updates.append(bar.enter_context(output.progress("sections of the report", total)))
            updates[0](done, name)

        left_out = write_report(
            place, path, runs or None, experiments=grids(), sections=SECTIONS, on_section=show,
            projection=projection, colour_by=colour_by, examples=examples, price=price,
        )  # fmt: skip
    for line in left_out:
        output.say(f"[yellow]left out[/]: {escape(line)}")
    output.say(f"wrote {escape(str(path))} ({path.stat().st_size / 1e6:.1f} MB)")
    output.result({"report": str(path), "bytes": path.stat().st_size, "left_out": left_out})
