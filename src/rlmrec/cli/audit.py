"""rlmrec audit: the proof that no held-out interaction went into a prompt."""

from __future__ import annotations

import typer
from rich.markup import escape

from rlmrec.cli.arguments import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption
from rlmrec.cli.output import Output


def audit(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: JsonOption = False) -> None:
    """Check that no held-out interaction is in a prompt, from the sources recorded with each profile.

    The exit code is 1 if one is, or if there are no profiles to check. Suspicious profiles are listed with a count
    and an example: texts that end without a mark, that are far shorter than the others, that say nothing, or that
    are not what the stored answer says.

    **Example:**  `rlmrec audit -w movies`
    """
    from rlmrec.llm.store import Store
    from rlmrec.profiles.audit import audit as run_audit
    from rlmrec.workspace import Workspace

    place, output = Workspace(workspace), Output(as_json)
    dataset = place.dataset()
    with Store(place.profiles_path, create=False) as store:
        found = run_audit(store, dataset)
    checked = ", ".join(f"{count:,} {kind}s" for kind, count in found.profiles.items()) or "no profiles"
    if found.passed:
        output.say(
            f"passed: the prompts of {checked} used {found.interactions:,} interactions, all of them "
            f"training interactions of {escape(dataset.name)}"
        )
    elif found.n_violations:
        output.say(f"[bold red]failed[/]: {found.n_violations:,} violations in the prompts of {checked}")
        for line in found.violations:
            output.say("  " + escape(line))
    else:
        output.say("[bold red]failed[/]: there are no profiles to check")
    output.findings(found.findings)
    output.result(
        {
            "passed": found.passed,
            "profiles": dict(found.profiles),
            "interactions": found.interactions,
            "violations": found.n_violations,
            "first": found.violations,
            "other_datasets": found.other_datasets,
            "findings": [finding.plain() for finding in found.findings],
        }
    )
    if not found.passed:
        raise typer.Exit(1)
