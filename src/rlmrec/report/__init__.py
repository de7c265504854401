"""The report: one HTML file of a workspace that opens anywhere, offline, in light and in dark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.files import write_text
from rlmrec.workspace import Workspace


def write_report(
    workspace: Workspace,
    path: Path,
    runs: Sequence[str] | None = None,
    **options: Any,
) -> list[str]:
    """Write the report of a workspace, atomically. What is not there has no section.

    Nothing in the file is loaded from elsewhere and no script is in it. Every text that comes from data
    (titles, profiles, names) is escaped.

    Args:
        workspace: what to report on.
        path: the HTML file.
        runs: names of the runs; None takes all that have ended.
        options: of ``blocks.Options``: projection, colour_by, examples, price, seed.

    Returns:
        what could not be read and was left out, in words; the report says so, too.

    Raises:
        ConfigError: the extra ``report`` is not installed, or an unknown option.
        WorkspaceError: the workspace has neither dataset nor runs, or a run that was asked for is not there.

    Example:
        ``write_report(Workspace(Path("shop")), Path("shop/report.html"))``
    """
    try:
        from rlmrec.report.blocks import Options
        from rlmrec.report.collect import collect
        from rlmrec.report.page import SECTIONS, render
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("rlmrec"):
            raise
        raise ConfigError(f"the report needs {error.name}: pip install 'rlmrec[report]'") from None
    chosen = Options(**options)
    inputs = collect(workspace, runs)
    made = [section for make in SECTIONS if (section := make(inputs, chosen)) is not None]
    if not made:
        why = "; ".join(inputs.left_out) or "no dataset, no run"
        raise WorkspaceError(f"there is nothing to report in {workspace.path}: {why}")
    name = workspace.path.resolve().name if inputs.dataset is None else inputs.dataset.name
    write_text(path, render(name, made, inputs.left_out))
    return inputs.left_out
