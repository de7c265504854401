"""rlmrec publish: choose the run that servers answer from."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from rlmrec.cli.arguments import DEFAULT_WORKSPACE, AddedItemsOption, JsonOption, WorkspaceOption
from rlmrec.errors import ConfigError, RlmrecError, WorkspaceError


def publish(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    run: Annotated[str | None, typer.Option(help="Name of a finished run to publish.")] = None,
    back: Annotated[
        bool, typer.Option("--rollback", help="Publish again what was published before the present release.")
    ] = False,
    keep: Annotated[int, typer.Option(min=2, help="Number of releases to keep.")] = 3,
    added_items: AddedItemsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Publish a run: `rlmrec serve` without `--run` answers from it, and running servers change to it.

    A release has a copy of the run and of the dataset, so whatever is appended, trained or overwritten later does
    not touch it. It is chosen by replacing one file: a server that starts at any moment finds the old release or
    the new one. Without `--run` and `--rollback` the command shows what is published.

    **Examples:**

    `rlmrec publish -w shop --run live`

    `rlmrec publish -w shop --rollback`
    """
    from rlmrec.cli.output import Output
    from rlmrec.data.databases import shown
    from rlmrec.recommend.publish import publish, releases, rollback
    from rlmrec.server.added_items import item_store
    from rlmrec.workspace import Workspace

    if back and run is not None:
        raise ConfigError("--rollback goes back to what was published: leave out --run")
    place, output = Workspace(workspace), Output(as_json)
    store = item_store(place, added_items)  # a mistake in its address is found before anything is published
    servers, others = (
        (f"running servers with --added-items {escape(shown(added_items))}", "--run")
        if added_items
        else ("running servers of this workspace", "--run or --added-items")
    )
    if run is not None:
        release = publish(place, run, keep)
    elif back:
        release = rollback(place)
    if run is not None or back:
        try:
            store.request_reload()
        except RlmrecError as error:
            raise WorkspaceError(
                f"release {release.name} is published, but running servers do not know of it yet: {error}"
            ) from None
        output.say(
            f"published run {escape(release.run)} as release {release.name}; {servers} change to it, "
            f"except those with {others}"
        )
    found = releases(place)
    output.table(
        f"releases of {place.path}",
        ["release", "run", "made, UTC", "users", "items", "interactions"],
        [
            [one.name + " (published)" * (not number), one.run, one.record["made"][:16].replace("T", " "),
             *(f"{one.record[key]:,}" for key in ("users", "items", "interactions"))]
            for number, one in enumerate(found)
        ],
        text_columns=3,
    )  # fmt: skip
    output.result({"releases": [{"name": one.name, **one.record} for one in found]})
