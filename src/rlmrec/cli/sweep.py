"""rlmrec sweep, and how a grid of trials is run and shown."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from rlmrec.cli.arguments import (
    DEFAULT_WORKSPACE,
    DeviceOption,
    JobsOption,
    JsonOption,
    ThreadsOption,
    WorkspaceOption,
)
from rlmrec.cli.output import Output
from rlmrec.errors import ConfigError
from rlmrec.experiments.runner import Line, Progress, Results, describe, duration, run_trials, unique
from rlmrec.experiments.spec import RunSpec
from rlmrec.experiments.sweep import (
    Candidate,
    Sweep,
    Variant,
    best_candidates,
    best_preset,
    grid_candidates,
    search,
    trial_maker,
    uneven,
)
from rlmrec.experiments.trial import Trial
from rlmrec.files import read_json, write_json, write_text
from rlmrec.workspace import DEFAULT_TEXT_EMBEDDINGS, Workspace

PARTLY_FAILED = 3
SHOWN_CANDIDATES = 5


def sweep(
    file: Annotated[
        Path, typer.Argument(help="TOML: backbones, alignments, seeds, options, grid or search.")
    ],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    jobs: JobsOption = 1,
    threads: ThreadsOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Search hyper-parameters by a grid or by Optuna, judged on validation alone. Killed and given again, it goes on.

    Each trial (a trial with one seed) is a JSON line in sweeps/NAME/trials.jsonl, NAME being the file's without .toml;
    the best of each backbone and alignment are printed as a preset, which `rlmrec train --preset` reads from
    sweeps/NAME/best.toml. A file may be changed and given again, trials that it still has are kept; another file of the
    same name is refused.

    **Example:**  `rlmrec sweep -w movies sweep.toml --jobs 2`   where sweep.toml says

        backbones = ["lightgcn", "sgl"]
        alignments = ["none", "contrastive"]
        seeds = [1]
        [options]
        learning_rate = 5e-3
        [grid]
        l2 = [1e-6, 1e-5]
        [grid.contrastive]
        weight = [1e-3, 1e-2]

    Instead of [grid], [search] with trials = 20 and ranges such as l2 = {low = 1e-7, high = 1e-4, log = true}
    asks Optuna, the same number of trials for each variant.
    """
    place, output = Workspace(workspace), Output(as_json)
    plan = Sweep.read(file)
    dataset = place.dataset()
    name = str(plan.values.get("semantics", DEFAULT_TEXT_EMBEDDINGS))
    has_texts = name in place.text_embeddings_names()
    make = trial_maker(dataset.fingerprint, place.text_embeddings(dataset, name) if has_texts else None, name)
    folder = place.path / "sweeps" / plan.name
    keep_to_one_file(folder, file)
    results = Results(folder / "trials.jsonl")
    label = f"sweep {plan.name}"
    if plan.searches:
        # Rounds are shared by the variants: each asks for as many trials as keep all processes busy.
        width = max(1, jobs // (len(plan.variants) * len(plan.seeds)))

        total = plan.candidates * len(plan.variants) * len(plan.seeds)

        def run_round(trials: Sequence[Trial]) -> object:
            so_far = f"{label}, {len(results.lines)} trials stored, {total} planned"
            return run_with_progress(trials, place, results, output, so_far, jobs, threads, device)

        candidates = search(plan, make, results, run_round, folder / "optuna.journal", width)
    else:
        candidates = grid_candidates(plan, make)
        warning = uneven(candidates)
        if warning:
            output.say(f"[yellow]{escape(warning)}[/]")
        trials = [trial for one in candidates for trial in one.trials]
        run_with_progress(trials, place, results, output, label, jobs, threads, device)
    best = best_candidates(candidates, results, plan.metric)
    show_candidates(plan, candidates, results, output)
    if best:
        preset = best_preset(best, plan)
        write_text(folder / "best.toml", preset)
        output.say(
            f"best of each variant by {plan.metric} on validation, as a preset ({folder / 'best.toml'}):\n"
        )
        output.say(escape(preset))
        output.say("to train them:")
        for line in train_commands(place, list(best), folder / "best.toml", name):
            output.say(f"  {escape(line)}")
    failed = [trial.id for one in candidates for trial in one.trials if not results.done(trial)]
    output.result(
        {
            "sweep": plan.name,
            "results": str(results.path),
            "trials": sum(len(one.trials) for one in candidates),
            "failed": len(failed),
            "best": [
                {"backbone": variant[0], "alignment": variant[1], "valid": value, "options": one.options}
                for variant, (one, value) in best.items()
            ],
        }
    )
    if failed:
        raise typer.Exit(PARTLY_FAILED)


def keep_to_one_file(folder: Path, file: Path) -> None:
    """Note which file a sweep's folder is of, so that another one of the same name does not replace its best.

    The same file with other content is the same sweep, changed; the same content elsewhere has been moved.

    Raises:
        ConfigError: the folder is of another file.
    """
    note, content = folder / "sweep.json", file.read_text(encoding="utf-8")
    now = {"file": str(file.resolve()), "content": content}
    if note.exists():
        there = read_json(note)
        if there["file"] != now["file"] and there["content"] != content:
            raise ConfigError(
                f"{folder} holds the sweep of {there['file']}, and {file} is another one: give it another name"
            )
    write_json(note, now)


def train_commands(
    place: Workspace, variants: Sequence[Variant], preset: Path, text_embeddings: str
) -> list[str]:
    """The command that trains each variant with a preset's options; to be pasted into a shell."""
    commands = []
    for backbone, alignment in variants:
        words = ["rlmrec", "train", "-w", str(place.path), "--backbone", backbone, "--alignment", alignment]
        if (
            text_embeddings != DEFAULT_TEXT_EMBEDDINGS
            and RunSpec.resolve(backbone, alignment, str(preset)).needs_text
        ):
            words += ["--text-embeddings", text_embeddings]
        commands.append(shlex.join([*words, "--preset", str(preset)]))
    return commands


def show_candidates(plan: Sweep, candidates: Sequence[Candidate], results: Results, output: Output) -> None:
    """The best few trials of each variant, and how many there are."""
    budget = Counter(one.variant for one in candidates)
    rows = []
    for variant in plan.variants:
        of_variant = [one for one in candidates if one.variant == variant]
        values = {id(one): one.value(results, plan.metric) for one in of_variant}
        ranked = sorted(
            (one for one in of_variant if values[id(one)] is not None),
            key=lambda one: -(values[id(one)] or 0.0),
        )
        for place, one in enumerate(ranked[:SHOWN_CANDIDATES], 1):
            options = ", ".join(f"{name} = {_short(value)}" for name, value in one.options.items())
            seconds = sum(results.lines[trial.id]["seconds"] for trial in one.trials)
            rows.append(
                [
                    *variant,
                    f"{place} of {budget[variant]}",
                    options,
                    f"{values[id(one)]:.4f}",
                    duration(seconds),
                ]
            )
    seeds = f", mean of {len(plan.seeds)} seeds" if len(plan.seeds) > 1 else ""
    columns = ["backbone", "alignment", "rank", "options", f"valid {plan.metric}", "time"]
    output.table(f"{plan.name}: best trials on validation{seeds}", columns, rows, text_columns=4)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run_with_progress(
    trials: Sequence[Trial],
    place: Workspace,
    results: Results,
    output: Output,
    label: str,
    jobs: int = 1,
    threads: int | None = None,
    device: str = "cpu",
) -> list[Line]:
    """``run_cells`` with a progress bar over the whole grid, the time left, and a line for each trial that ends."""
    labels = {trial.id: trial.label for trial in trials}
    with output.progress(label, len(unique(trials)), remaining=False) as update:

        def report(progress: Progress, line: Line | None) -> None:
            update(progress.completed, describe(progress))
            if line is None:
                return
            name = escape(labels.get(line["id"], "tables to start from"))
            if line["status"] == "failed":
                output.say(f"[bold red]failed[/] {name}: {escape(line['error'])}")
                return
            valid = line["valid"]["recall@20"] if line["valid"] else float("nan")
            taken = f", taken from run {line['taken_from']}" if "taken_from" in line else ""
            output.say(
                f"{name}: valid R@20 {valid:.4f}, {line['epochs']} epochs, {duration(line['seconds'])}"
                f"{escape(taken)} ({describe(progress)})"
            )

        return run_trials(trials, place, results, jobs=jobs, threads=threads, device=device, report=report)
