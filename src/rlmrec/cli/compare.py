"""rlmrec compare: runs beside each other, with the significance of their differences."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from rlmrec.cli.arguments import DEFAULT_WORKSPACE, BaselinesOption, JsonOption, WorkspaceOption
from rlmrec.errors import ConfigError

if TYPE_CHECKING:
    from rlmrec.cli.output import Output
    from rlmrec.data.dataset import Dataset
    from rlmrec.evaluation.compare import Comparisons, FinishedRun, RunGroup
    from rlmrec.workspace import Workspace


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Names of finished runs; the first is the baseline. A name without -seedN stands for all its seeds."
        ),
    ],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    baselines: BaselinesOption = True,
    as_json: JsonOption = False,
) -> None:
    """Compare runs on the test split: metrics, change against the first run, paired significance tests.

    A name that is not a run itself stands for the runs of that name with different seeds: base for base-seed1,
    base-seed2 … The table then shows mean ± standard deviation over seeds. The tests are over users, each user's
    value being the mean over seeds; with 3 or more common seeds there are also tests over seeds.

    The p-values are those of paired t-tests and Wilcoxon signed-rank tests, each with Holm's correction over the
    whole table; * marks p < 0.05 of the t-test over users.

    The last rows are popularity and the graph filter, unless `--no-baselines` is given; the graph filter shows the
    text embeddings that it was fitted with. They are not tested, so the p-values do not depend on them; to test one,
    name it: it is fitted if it is missing.

    Where nothing is significant, the command says how large a difference had to be to show, how many users or seeds
    the observed one would need (80 % power, at the strictest level of Holm's correction), and what to try next.

    Other options in which the runs differ are listed below the table, those at their defaults included: only where
    there are none is the difference due to the alignment. Runs that the limit of epochs ended before patience did are
    named, as they may not be trained out.

    **Examples:**

    `rlmrec compare -w movies base con gen`

    `rlmrec compare -w amazon lightgcn-none-amazon lightgcn-contrastive-amazon`   (over the seeds of each)
    """
    from rich.markup import escape

    from rlmrec.cli.output import Output
    from rlmrec.evaluation.compare import compare_groups, comparisons_as_dict, limit_reached
    from rlmrec.experiments.differences import differing_options, in_words
    from rlmrec.workspace import Workspace

    place, output = Workspace(workspace), Output(as_json)
    if len(runs) < 2:
        raise ConfigError(
            f"compare needs at least two runs, got {', '.join(runs)}: name a second one, such as popularity"
        )
    groups = [_group(place, name, output) for name in dict.fromkeys(runs)]
    members = [run.name for group in groups for run in group.runs]
    repeated = sorted({name for name in members if members.count(name) > 1}) or sorted(
        {name for name in runs if runs.count(name) > 1}
    )
    if repeated:
        raise ConfigError(f"{', '.join(repeated)} would be compared with itself: name each run once")
    final = [run.name for group in groups for run in group.runs if run.config["data"].get("final")]
    if final:
        raise ConfigError(
            f"{', '.join(final)}: trained on everything (--final), so there is no test figure: compare the runs whose "
            "options they took"
        )
    datasets = {run.config["data"]["dataset"] for group in groups for run in group.runs}
    if len(datasets) > 1:
        groups, trained_on = _evaluated_again(place, groups, output)
        datasets = {trained_on}
    comparisons = compare_groups(groups)
    [trained_on] = datasets
    beside = _baselines(place, trained_on, members, output) if baselines else []
    show_metrics([*groups, *beside], output, comparisons)
    show_significance(comparisons, output)
    power = show_power(groups, comparisons, output)
    options = differing_options(groups)
    if options:
        output.say(f"options that differ: {escape(in_words(options))}")
    limit = limit_reached(groups)
    if limit:
        output.say(f"[yellow]{escape(limit)}[/]")
    if place.dataset_path.exists() and place.dataset().fingerprint != trained_on:
        output.say("[yellow]these runs are of an earlier dataset than the present one of the workspace[/]")
    output.result(
        {
            "runs": {group.name: group.summary() for group in groups},
            "baselines": {group.name: group.summary() for group in beside},
            "comparisons": comparisons_as_dict(comparisons),
            "options_that_differ": options,
            "ended_by_limit": [run.name for group in groups for run in group.runs if run.ended_by_limit],
            "not_significant": power,
        }
    )


def _evaluated_again(
    place: Workspace, groups: Sequence[RunGroup], output: Output
) -> tuple[list[RunGroup], str]:
    """Return the groups with runs of before ``rlmrec data append`` evaluated on the present dataset, which is named.

    Raises:
        ConfigError: a run is of a dataset that the present one was not made of by appending.
    """
    from dataclasses import replace

    from rich.markup import escape

    from rlmrec.evaluation.ranking import evaluate
    from rlmrec.experiments.run import K
    from rlmrec.recommend.open import open_scorer

    dataset = place.dataset()

    def present(run: FinishedRun) -> FinishedRun:
        trained_on = run.config["data"]["dataset"]
        if trained_on == dataset.fingerprint:
            return run
        if not dataset.descends_from(trained_on):
            of_runs: dict[str, list[str]] = {}
            for each in (each for group in groups for each in group.runs):
                of_runs.setdefault(each.config["data"]["dataset"], []).append(each.name)
            listed = "; ".join(
                f"{', '.join(names)} of {of[:8]}{' (the present one)' * (of == dataset.fingerprint)}"
                for of, names in of_runs.items()
            )
            raise ConfigError(
                f"these runs are of different datasets: {listed}. Compare runs of one dataset and split"
            )
        scores, unknown = open_scorer(place, run.name, dataset)
        ranking = evaluate(scores, dataset, k=K)
        more = f"; {unknown:,} items that it does not know are in no list" if unknown else ""
        output.say(
            escape(f"{run.name}: trained before interactions were appended, evaluated again with them{more}")
        )
        metrics = {**run.metrics, "test": ranking.metrics(), "valid": None}
        return replace(run, metrics=metrics, evaluated=ranking.table())

    found = [replace(group, runs=tuple(present(run) for run in group.runs)) for group in groups]
    return found, dataset.fingerprint


def _baselines(place: Workspace, trained_on: str, shown: Sequence[str], output: Output) -> list[RunGroup]:
    """Return the baselines that are not shown anyway, if the runs are of the workspace's present dataset."""
    if not place.dataset_path.exists():
        return []
    dataset = place.dataset()
    if dataset.fingerprint != trained_on:
        return []
    return [run.group() for run in _fitted(place, dataset, shown, output)]


def _fitted(
    place: Workspace, dataset: Dataset, besides: Collection[str], output: Output
) -> tuple[FinishedRun, ...]:
    """Return the baselines apart from some, fitted where they are missing, and print what is to be said of them."""
    from rich.markup import escape

    from rlmrec.experiments.baselines import find_baselines

    with output.step("baselines"):
        found = find_baselines(place, dataset, besides)
    for note in found.notes:
        output.say(escape(note))
    return found.runs


def _group(place: Workspace, name: str, output: Output) -> RunGroup:
    """Return the runs that a name stands for; a baseline is fitted if it is missing.

    Raises:
        WorkspaceError: there is no finished run of that name.
        ConfigError: the runs differ in more than their seed, or two have the same.
    """
    from rlmrec.evaluation.compare import FinishedRun, find_group
    from rlmrec.models import BASELINES

    group = find_group(place.run(name).parent, name)
    if group is None and name in BASELINES and place.dataset_path.exists() and not place.run(name).exists():
        for run in _fitted(place, place.dataset(), set(BASELINES) - {name}, output):
            return run.group()
    if group is None:
        return FinishedRun.read(place.finished_run(name)).group()  # raises: it lists the runs
    if group.unfinished:
        output.say(f"[yellow]{name}: {', '.join(group.unfinished)} has not ended and is left out[/]")
    return group


def show_metrics(groups: Sequence[RunGroup], output: Output, comparisons: Comparisons | None = None) -> None:
    """Print the table of runs: Recall and NDCG on test, change against the first run, seconds of training."""
    from rlmrec.evaluation.compare import SHOWN_METRICS
    from rlmrec.experiments.baselines import with_texts
    from rlmrec.models import BASELINES

    rows = []
    for group in groups:
        cells = []  # short enough that six metrics fit on 80 characters
        for metric in SHOWN_METRICS:
            mean, std = group.mean(metric), group.std(metric)
            cell = "–" if mean is None else f"{mean:.4f}"
            if std is not None:
                cell += f" ±{std:.4f}".replace("0.", ".")
            compared = (comparisons or {}).get(group.name, {}).get(metric)
            if compared is not None and compared.users.base:
                cell += f" {100 * compared.users.relative:+.1f}" + "*" * compared.users.significant
            cells.append(cell)
        # Other names may say it by themselves, and six metrics leave little room.
        name = with_texts(group.name, group.runs[0]) if group.name in BASELINES else group.name
        rows.append([name, *cells, show_seconds(group.seconds)])
    columns = [name.replace("recall", "R").replace("ndcg", "N") for name in SHOWN_METRICS]
    change = ", change in %" if comparisons else ""
    output.table(
        f"test split, all items ranked (R recall, N NDCG{change})", ["run", *columns, "seconds"], rows
    )


def show_seconds(value: float) -> str:
    """Return a time with two digits; "–" for 0, where nothing was trained."""
    if not value:
        return "–"
    if value < 0.001:
        return "<0.001"
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def show_significance(comparisons: Comparisons, output: Output) -> None:
    """Print the corrected p-values of the t-test and of Wilcoxon's test, over users and over seeds."""
    rows = []
    for name, of_run in comparisons.items():
        for metric in ("recall@20", "ndcg@20"):
            users, seeds = of_run[metric].users, of_run[metric].seeds
            interval = f"{users.low:+.4f} to {users.high:+.4f}"
            for over, tests, shown in (("users", users, interval), ("seeds", seeds, "")):
                if tests is not None:
                    rows.append(
                        [name, metric, over, shown, f"{tests.p_holm:.2g}", f"{tests.p_wilcoxon_holm:.2g}"]
                    )
    columns = ["run", "metric", "tested over", "difference, 95 %", "p, t", "p, Wilcoxon"]
    output.table(
        "p-values after Holm's correction; each interval is of its difference alone",
        columns,
        rows,
        text_columns=3,
    )


def show_power(
    groups: Sequence[RunGroup], comparisons: Comparisons, output: Output, metric: str = "recall@20"
) -> dict[str, dict[str, list[str]]]:
    """Print what comparisons without a significant difference could have shown, and what to try next.

    Returns:
        the same for JSON: run → its sentences under "power", and "next".
    """
    from rich.markup import escape

    from rlmrec.evaluation.compare import power
    from rlmrec.evaluation.power import next_steps

    base, found = groups[0], {}
    for group in groups[1:]:
        sentences = power(comparisons, metric).get(group.name)
        if sentences is None:
            continue
        steps = next_steps(
            comparisons[group.name][metric],
            trained=any(one.runs[0].metrics.get("epochs") for one in (base, group)),
            text=_texts_of(base) != _texts_of(group),
        )
        found[group.name] = {"power": sentences, "next": steps}
        output.say(f"[bold]{escape(group.name)}[/]: no metric differs significantly from {escape(base.name)}")
        for sentence in sentences:
            output.say(f"  {escape(sentence)}")
    shown = dict.fromkeys(step for one in found.values() for step in one["next"])
    if shown:
        output.say("what to try next:")
    for step in shown:
        output.say(f"  - {escape(step)}")
    return found


def _texts_of(group: RunGroup) -> tuple[object, ...]:
    """Return how a group uses texts: its alignment, its text vectors and their weights."""
    config = group.runs[0].config
    weights = [config.get("backbone", {}).get(name) for name in ("text_weight", "user_text_weight")]
    return (config["run"]["alignment"], config["data"].get("texts"), *weights)
