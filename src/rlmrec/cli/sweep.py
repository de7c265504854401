"""rlmrec sweep, and the progress of many trials."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from rlmrec.cli.arguments import (
    DEFAULT_WORKSPACE,
    AddressOption,
    DevicesOption,
    EngineOption,
    JobsOption,
    JsonOption,
    ThreadsOption,
    WorkspaceOption,
)
from rlmrec.errors import ConfigError
from rlmrec.text import DEFAULT_TEXT_EMBEDDINGS

if TYPE_CHECKING:
    from rlmrec.cli.output import Output
    from rlmrec.engine import Engine
    from rlmrec.experiments.results import Results, TrialRecord
    from rlmrec.experiments.runner import Prune, TrialsProgress
    from rlmrec.experiments.sweep import Candidate, Sweep, Variant
    from rlmrec.experiments.trial import Trial
    from rlmrec.workspace import Workspace

PARTLY_FAILED = 3
SHOWN_CANDIDATES = 5


def sweep(
    file: Annotated[
        Path, typer.Argument(help="TOML: backbones, alignments, seeds, options, grid or search.")
    ],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    jobs: JobsOption = 1,
    threads: ThreadsOption = None,
    device: DevicesOption = "cpu",
    engine: EngineOption = "local",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search hyper-parameters by a grid or by Optuna, on validation alone. A killed command continues when repeated.

    Each trial is a JSON line in sweeps/NAME/trials.jsonl, where NAME is the file's name without .toml. The best options
    of each backbone and alignment are printed as a preset and written to sweeps/NAME/best.toml for
    `rlmrec train --preset`. After a change of the file, trials that it still has are kept; another file of the same
    name is refused.

    **Example:**  `rlmrec sweep -w movies sweep.toml --jobs 2`   with this sweep.toml:

        backbones = ["lightgcn", "sgl"]
        alignments = ["none", "contrastive"]
        seeds = [1]
        [options]
        learning_rate = 5e-3
        [grid]
        l2 = [1e-6, 1e-5]
        [grid.contrastive]
        weight = [1e-3, 1e-2]

    With [search] instead of [grid], trials = 20 and ranges such as l2 = {low = 1e-7, high = 1e-4, log = true}, Optuna
    proposes the same number of trials for each variant. It ends those early whose validation falls behind the median
    of the others; prune = false in [search] trains all to their end, warmup = 15 is the number of epochs before that.

    Further keys: metric = "recall@20", of validation; preset = "general", whose options are taken where the file sets
    none; text_embeddings = "default", their name in the workspace.
    """
    from rlmrec.cli.output import Output
    from rlmrec.engine import open_engine
    from rlmrec.experiments.results import Results, TrialRecord
    from rlmrec.experiments.runner import TrialsProgress, run_trials
    from rlmrec.experiments.search import search
    from rlmrec.experiments.sweep import (
        Sweep,
        best_candidates,
        best_preset,
        grid_candidates,
        trial_maker,
        uneven,
    )
    from rlmrec.files import write_text
    from rlmrec.workspace import Workspace

    place, output = Workspace(workspace), Output(as_json)
    plan = Sweep.read(file)
    dataset = place.dataset()
    if not len(dataset.valid):
        raise ConfigError(
            f"the validation split of {dataset.name!r} is empty, so that nothing can be chosen on it: split with e.g. "
            "3:1:1"
        )
    name = plan.text_embeddings
    # Where they are needed and not there, reading them tells it.
    has_texts = name in place.text_embeddings_names() or plan.needs_text
    make = trial_maker(dataset.fingerprint, place.text_embeddings(dataset, name) if has_texts else None, name)
    folder = place.path / "sweeps" / plan.name
    keep_to_one_file(folder, file)
    results = Results[TrialRecord](folder / "trials.jsonl")
    label = f"sweep {plan.name}"
    if plan.searches:
        # A round has trials of all variants: as many as keep all processes busy.
        width = max(1, jobs // (len(plan.variants) * len(plan.seeds)))
        total = plan.candidates * len(plan.variants) * len(plan.seeds)
        with (
            open_engine(engine, address, device, output.say) as opened,
            output.progress(f"{label}, trials", total, remaining=False) as update,
        ):
            shown = _ShownTrials(output, update)
            progress = TrialsProgress(total, 0)

            def run_round(trials: Sequence[Trial], prune: Prune | None) -> object:
                shown.name(trials)
                return run_trials(
                    trials, place, results,
                    jobs=jobs, threads=threads, device=device, on_progress=shown, engine=opened,
                    prune=prune, progress=progress,
                )  # fmt: skip

            def on_ended(candidates: int) -> None:
                # Of a pruned candidate the other seeds never run, and one that was drawn twice runs once.
                progress.kept = candidates * len(plan.seeds) - progress.done - progress.failed
                shown(progress, None)

            candidates = search(plan, make, results, run_round, folder / "optuna.journal", width, on_ended)
    else:
        candidates = grid_candidates(plan, make)
        warning = uneven(candidates)
        if warning:
            output.say(f"[yellow]{escape(warning)}[/]")
        trials = [trial for one in candidates for trial in one.trials]
        with open_engine(engine, address, device, output.say) as opened:
            run_with_progress(trials, place, results, output, label, jobs, threads, device, opened)
    best = best_candidates(candidates, results, plan.metric)
    show_candidates(plan, candidates, results, output)
    if best:
        preset = best_preset(best, plan)
        write_text(folder / "best.toml", preset)
        output.say(
            f"best of each variant by {plan.metric} on validation, as a preset ({folder / 'best.toml'}):\n"
        )
        output.say(escape(preset))
        output.say("to train them" + ", with the first of the seeds" * (len(plan.seeds) > 1) + ":")
        for command in train_commands(place, list(best), folder / "best.toml", name, plan.seeds[0]):
            output.say(f"  {escape(command)}")
    failed = [identity for one in candidates for identity in one.failures(results)]
    output.result(
        {
            "sweep": plan.name,
            "results": str(results.path),
            "trials": sum(len(one.trials) for one in candidates),
            "failed": len(failed),
            "pruned": sum(one.is_pruned(results) for one in candidates),
            "best": [
                {"backbone": variant[0], "alignment": variant[1], "valid": value, "options": one.options}
                for variant, (one, value) in best.items()
            ],
        }
    )
    if failed:
        raise typer.Exit(PARTLY_FAILED)


def keep_to_one_file(folder: Path, file: Path) -> None:
    """Record the file of a sweep's folder, so that another file of the same name does not replace its results.

    The same file with other content is a changed sweep; the same content elsewhere is a moved file.

    Raises:
        ConfigError: the folder belongs to another file.
    """
    from rlmrec.files import read_json, write_json

    note, content = folder / "sweep.json", file.read_text(encoding="utf-8")
    now = {"file": str(file.resolve()), "content": content}
    if note.exists():
        there = read_json(note)
        if there["file"] != now["file"] and there["content"] != content:
            raise ConfigError(
                f"{folder} holds the sweep of {there['file']}, and {file} is another one: rename the file"
            )
    write_json(note, now)


def train_commands(
    place: Workspace, variants: Sequence[Variant], preset: Path, text_embeddings: str, seed: int
) -> list[str]:
    """Return the command that trains each variant with a preset's options and a seed, for a shell."""
    from rlmrec.experiments.spec import RunSpec

    commands = []
    for backbone, alignment in variants:
        words = ["rlmrec", "train", "-w", str(place.path), "--backbone", backbone, "--alignment", alignment]
        words += ["--seed", str(seed)] * (seed != 0)
        if (
            text_embeddings != DEFAULT_TEXT_EMBEDDINGS
            and RunSpec.resolve(backbone, alignment, str(preset)).reads_text
        ):
            words += ["--text-embeddings", text_embeddings]
        commands.append(shlex.join([*words, "--preset", str(preset)]))
    return commands


def show_candidates(
    plan: Sweep, candidates: Sequence[Candidate], results: Results[TrialRecord], output: Output
) -> None:
    """Print the best candidates of each variant, and how many there are."""
    from rlmrec.durations import format_duration

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
            seconds = sum(results.records[trial.id]["seconds"] for trial in one.trials)
            rows.append(
                [
                    *variant,
                    str(place),
                    options,
                    f"{values[id(one)]:.4f}",
                    format_duration(seconds),
                ]
            )
        pruned = [results.records[one.trials[0].id] for one in of_variant if one.is_pruned(results)]
        if pruned:
            last = [record["validation_curve"][-1][0] + 1 for record in pruned]
            epochs = f"{min(last):.0f}" if min(last) == max(last) else f"{min(last):.0f} to {max(last):.0f}"
            seconds = sum(record["seconds"] for record in pruned)
            ended = f"pruned after epoch {epochs}: below the median of the others"
            rows.append([*variant, "-", f"{len(pruned)} {ended}", "", format_duration(seconds)])
    seeds = f", mean of {len(plan.seeds)} seeds" if len(plan.seeds) > 1 else ""
    columns = ["backbone", "alignment", "rank", "options", f"valid {plan.metric}", "time"]
    budgets = sorted({str(count) for count in budget.values()}, key=int)
    noun = "candidate" if budgets == ["1"] else "candidates"
    title = f"{plan.name}: best of the {' or '.join(budgets)} {noun} of each variant on validation{seeds}"
    output.table(title, columns, rows, text_columns=4)


def _reached(record: TrialRecord) -> str:
    """Say how far a pruned trial came."""
    epoch, value = record["validation_curve"][-1]
    return f"valid R@20 {value:.4f} after epoch {epoch + 1:.0f}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run_with_progress(
    trials: Sequence[Trial],
    place: Workspace,
    results: Results[TrialRecord],
    output: Output,
    label: str,
    jobs: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    engine: Engine | None = None,
    among: Sequence[Trial] = (),
) -> list[TrialRecord]:
    """Run trials with a progress bar, the time left, and a line for each trial that ends.

    A line names the options in which a trial differs from the others, and from those of ``among``.
    """
    from rlmrec.experiments.runner import run_trials, unique

    with output.progress(f"{label}, trials", len(unique(trials)), remaining=False) as update:
        shown = _ShownTrials(output, update)
        shown.name([*trials, *among])
        return run_trials(
            trials, place, results,
            jobs=jobs, threads=threads, device=device, on_progress=shown, engine=engine,
        )  # fmt: skip


class _ShownTrials:
    """Updates a progress bar with the progress of trials and prints a line for each trial that ends.

    Args:
        output: of the command.
        update: of the progress bar.
    """

    def __init__(self, output: Output, update: Callable[..., None]) -> None:
        self._output, self._update = output, update
        self._trials: list[Trial] = []
        self._labels: dict[str, str] = {}

    def name(self, trials: Sequence[Trial]) -> None:
        """Add trials whose labels are shown."""
        from rlmrec.experiments.trial import told_apart

        self._trials += trials
        self._labels = told_apart(self._trials)

    def __call__(self, progress: TrialsProgress, record: TrialRecord | None) -> None:
        self._update(progress.completed, progress.note)
        if record is not None:
            name = self._labels.get(record["id"], "embeddings to start from")
            self._output.say(f"{_ended(name, record)} ({progress})")


def _ended(name: str, record: TrialRecord) -> str:
    """Say how a trial ended, as Rich markup."""
    from rlmrec.durations import format_duration

    if record["status"] == "failed":
        return f"[bold red]failed[/] {escape(name)}: {escape(record['error'])}"
    seconds = format_duration(record["seconds"])
    if record["status"] == "pruned":
        return f"{escape(name)}: pruned, {_reached(record)}, {seconds}"
    valid = record["valid"]["recall@20"] if record["valid"] else float("nan")
    taken = f", copied from run {record['taken_from']}" if "taken_from" in record else ""
    return escape(f"{name}: valid R@20 {valid:.4f}, {record['epochs']} epochs, {seconds}{taken}")
