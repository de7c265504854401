"""The report: one HTML file about a workspace that opens anywhere, offline, in light and in dark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.files import write_text
from rlmrec.workspace import Workspace

if TYPE_CHECKING:
    from rlmrec.experiments.experiment import Experiment
    from rlmrec.report.page import MakeSection


def write_report(
    workspace: Workspace,
    path: Path,
    runs: Sequence[str] | None = None,
    *,
    experiments: Sequence[Experiment] = (),
    sections: Sequence[MakeSection] = (),
    on_section: Callable[[int, int, str], object] = lambda *_: None,
    **options: Any,
) -> list[str]:
    """Write the report of a workspace, atomically. Sections without content are omitted.

    The file loads nothing from elsewhere and contains no script. Every text that comes from data (titles, profiles,
    names) is escaped.

    Args:
        workspace: what to report on.
        path: the HTML file.
        runs: names of the runs; None takes all that have ended.
        experiments: experiments to show if they were run, besides those whose files are in the workspace.
        sections: further sections, as those of ``rlmrec.paper``.
        on_section: called before each section with the number of those that are made, of all, and what is made.
        options: of ``blocks.Options``: projection, colour_by, examples, price, seed.

    Returns:
        what could not be read and was left out, in words; the report lists it, too.

    Raises:
        ConfigError: the extra ``report`` is not installed, or an unknown option.
        WorkspaceError: the workspace has neither dataset nor runs, or a run in ``runs`` is not there.

    Example:
        ``write_report(Workspace(Path("shop")), Path("shop/report.html"))``
    """
    try:
        from rlmrec.report.blocks import Options
        from rlmrec.report.collect import collect
        from rlmrec.report.page import BACKGROUND, RESULTS, render
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("rlmrec"):
            raise
        raise ConfigError(f"the report needs {error.name}: pip install 'rlmrec[report]'") from None
    chosen = Options(**options)
    inputs = collect(workspace, runs, experiments)
    every = (*RESULTS, *sections, *BACKGROUND)
    shown = []
    for number, make in enumerate(every):
        on_section(number, len(every), make.__name__.replace("_", " "))
        section = make(inputs, chosen)
        if section is not None:
            shown.append(section)
    on_section(len(every), len(every), "")
    if not shown:
        why = "; ".join(inputs.left_out) or "no dataset, no run"
        raise WorkspaceError(f"there is nothing to report in {workspace.path}: {why}")
    name = workspace.path.resolve().name if inputs.dataset is None else inputs.dataset.name
    write_text(path, render(name, shown, inputs.left_out))
    return inputs.left_out
