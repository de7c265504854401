"""rlmrec train, evaluate, compare."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from rlmrec.cli.output import JsonOption, Output, WorkspaceOption
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError
from rlmrec.evaluation.ranking import DotProduct, read_table
from rlmrec.evaluation.ranking import evaluate as rank
from rlmrec.evaluation.significance import LEVEL, compare_pairs
from rlmrec.experiments.run import SEMANTIC_ONLY, InitialEmbeddings, run, run_semantic_only
from rlmrec.experiments.spec import DEFAULT_PRESET, RunSpec, describe_options, parse_settings
from rlmrec.files import read_json
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.workspace import DEFAULT_TEXT_EMBEDDINGS, Workspace

Comparisons = dict[str, dict[str, dict[str, Any]]]  # run → metric → what compare() found
SHOWN = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in (5, 10, 20)]
DEFAULT_WORKSPACE = Path("workspace")
FEW_UPDATES = 50  # of Adam: at the learning rates of the presets the embeddings have hardly left their start


def train(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    backbone: Annotated[
        str,
        typer.Option(
            help="lightgcn, gccf, sgl, simgcl, dccf, autocf, ngcf, mf, kar-lightgcn, kar-sgl, "
            "or package.module:Class of your own."
        ),
    ] = "lightgcn",
    alignment: Annotated[str, typer.Option(help="none, contrastive (Con) or generative (Gen).")] = "none",
    preset: Annotated[
        str, typer.Option(help="general, movielens, the paper's amazon, yelp, steam, or a TOML file's path.")
    ] = DEFAULT_PRESET,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Override an option; repeat for several."),
    ] = None,
    text_embeddings_name: Annotated[
        str, typer.Option("--semantics", help="Which text vectors, by the --name given to 'rlmrec encode'.")
    ] = DEFAULT_TEXT_EMBEDDINGS,
    seed: Annotated[int, typer.Option(min=0, help="Of initialisation and training.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most this many epochs.")] = None,
    name: Annotated[str | None, typer.Option(help="The run's name; by default made of the options.")] = None,
    start_from: Annotated[
        str | None, typer.Option(metavar="RUN", help="Start from the embeddings that this run has learned.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew if the run exists.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write TensorBoard event files.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train, stop early on validation, evaluate, and save a recommender. A killed run goes on when called again.

    What `--set` takes: `rlmrec options --backbone lightgcn --alignment contrastive`.

    **Examples:**

    `rlmrec train -w movies --alignment contrastive --name con`

    `rlmrec train -w movies --alignment contrastive --semantics by-llm`

    `rlmrec train -w amazon --preset amazon --seed 1 --set layers=2 --set l2=1e-7`
    """
    place, output = Workspace(workspace), Output(as_json)
    chosen = parse_settings(settings or [])
    if epochs is not None:
        chosen["epochs"] = epochs
    spec = RunSpec.resolve(backbone, alignment, preset, seed, chosen)
    dataset = place.dataset()
    text_embeddings = place.text_embeddings(dataset, text_embeddings_name) if spec.needs_text else None
    if name is None:
        parts = [backbone.rpartition(":")[2].lower(), alignment, Path(preset).stem, f"seed{seed}"]
        if spec.needs_text and text_embeddings_name != DEFAULT_TEXT_EMBEDDINGS:
            parts.append(f"semantics={text_embeddings_name}")
        parts += [f"from-{start_from}"] * (start_from is not None)
        name = "-".join([*parts, *(f"{option}={value}" for option, value in chosen.items())])
    start = None if start_from is None else InitialEmbeddings.of(place.finished_run(start_from))
    metrics = train_with_progress(
        spec, dataset, text_embeddings, place.run(name), output,
        label=name, start=start, device=device, overwrite=overwrite, tensorboard=tensorboard,
        text_embeddings_name=text_embeddings_name,
    )  # fmt: skip
    show_metrics([name], [metrics], output)
    output.say(
        f"best epoch {metrics['best_epoch']} of {metrics['epochs']}, {_seconds(metrics['seconds_per_epoch'])} s "
        f"an epoch; saved in {place.run(name)}"
    )
    _warn_of_few_updates(metrics, spec, dataset, output)
    output.result({"run": name, **metrics})


def _warn_of_few_updates(metrics: Mapping[str, Any], spec: RunSpec, dataset: Dataset, output: Output) -> None:
    """Say so where patience ended a run that had only just begun, as it does where an epoch is a batch or two."""
    training = spec.training
    batches = math.ceil(len(dataset.train) / training.batch_size)
    updates = metrics["epochs"] * batches
    if metrics["epochs"] < training.epochs and updates < FEW_UPDATES:
        output.say(
            f"[yellow]stopped after {updates} updates, {batches} an epoch: with so few a model may not have begun to "
            f"learn. Give it time by a larger patience than {training.patience} (--set patience=50), or smaller "
            "batches (--set batch_size=256)[/]"
        )


def options(
    backbone: Annotated[str, typer.Option(help="As of rlmrec train.")] = "lightgcn",
    alignment: Annotated[str, typer.Option(help="none, contrastive or generative.")] = "none",
    preset: Annotated[str, typer.Option(help="Whose values to show.")] = DEFAULT_PRESET,
    as_json: JsonOption = False,
) -> None:
    """List what `--set` can set for a backbone with an alignment: type, value in the preset, meaning.

    **Example:**  `rlmrec options --backbone sgl --alignment generative --preset yelp`
    """
    output = Output(as_json)
    rows = describe_options(RunSpec.resolve(backbone, alignment, preset))
    output.table(
        f"options of {backbone} with alignment {alignment}; values of preset {preset}",
        ["--set", "type", "value", "default", "meaning"],
        [[row["name"], row["type"], *(f"{row[key]}" for key in ("value", "default")), row["meaning"]]
         for row in rows],
        text_columns=5,
    )  # fmt: skip
    output.result({"backbone": backbone, "alignment": alignment, "preset": preset, "options": rows})


def train_with_progress(
    spec: RunSpec,
    dataset: Dataset,
    text_embeddings: TextEmbeddings | None,
    folder: Path,
    output: Output,
    *,
    label: str,
    start: InitialEmbeddings | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    tensorboard: bool = False,
    text_embeddings_name: str = DEFAULT_TEXT_EMBEDDINGS,
) -> dict[str, Any]:
    """``run`` with a progress bar: loss, validation metric, what the best was, time left."""
    if (folder / "metrics.json").exists() and not overwrite:
        kept = run(spec, dataset, text_embeddings, folder, start=start)  # refuses if it is another run
        output.say(f"{label}: done before, kept (--overwrite starts it anew)")
        return kept
    log = _EventLog(folder) if tensorboard else None
    with ExitStack() as open_:
        updates: list[Callable[..., None]] = []  # of the bar: none before the options are known to be right
        if log is not None:
            open_.callback(log.close)

        def on_start() -> None:
            updates.append(open_.enter_context(output.progress(label, spec.training.epochs)))

        def on_epoch(record: dict[str, Any]) -> None:
            loss, best = sum(record["loss"].values()), record["best"]
            note = f"loss {loss:.3f} · best valid R@20 {best['recall@20']:.4f} at {best['epoch']}"
            for update in updates:
                update(record["epoch"] + 1, note)
            if log is not None:
                log.write(record)

        return run(
            spec, dataset, text_embeddings, folder,
            start=start, device=device, overwrite=overwrite, text_embeddings_name=text_embeddings_name,
            on_start=on_start, on_epoch=on_epoch,
        )  # fmt: skip


class _EventLog:
    """TensorBoard events; the file is made with the first epoch, when the run's folder is settled."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError("--tensorboard needs TensorBoard: pip install 'rlmrec[tensorboard]'") from None
        self._make: Callable[[], Any] = lambda: SummaryWriter(folder / "tensorboard")
        self._writer: Any = None

    def write(self, record: dict[str, Any]) -> None:
        """Loss terms and, where there are any, validation metrics of one epoch."""
        self._writer = self._writer or self._make()
        for group in ("loss", "valid"):
            for key, value in record.get(group, {}).items():
                self._writer.add_scalar(f"{group}/{key}", value, record["epoch"])

    def close(self) -> None:
        """Flush."""
        if self._writer is not None:
            self._writer.close()


def evaluate(
    run: Annotated[str | None, typer.Option(help="The run's name.")] = None,
    semantic_only: Annotated[
        bool,
        typer.Option(
            "--semantic-only", help="No model: score by the text vectors' cosines, kept as run semantic-only."
        ),
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    split: Annotated[str, typer.Option(help="test or valid.")] = "test",
    k: Annotated[
        list[int] | None, typer.Option("-k", help="Cut-off; repeat for several. 5, 10, 20 by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rank all items for every user of a split again and print all metrics.

    **Examples:**

    `rlmrec evaluate -w movies --run con -k 10 -k 50`

    `rlmrec evaluate -w movies --semantic-only`   and then   `rlmrec compare -w movies semantic-only base`
    """
    place, output = Workspace(workspace), Output(as_json)
    if split not in ("test", "valid"):
        raise ConfigError(f"--split {split!r}: expected test or valid")
    cuts = tuple(sorted(k or (5, 10, 20)))
    dataset = place.dataset()
    if (run is None) == (not semantic_only):
        raise ConfigError("give either --run NAME or --semantic-only")
    if run is None:
        run = SEMANTIC_ONLY
        # Made anew each time: the dataset or the vectors may be others, and it costs one evaluation.
        run_semantic_only(dataset, place.text_embeddings(dataset), place.run(run), overwrite=True)
    recommender = place.recommender(run, dataset)
    metrics = rank(DotProduct(recommender.users, recommender.items), dataset, k=cuts, split=split).metrics()
    names = list(dict.fromkeys(name.partition("@")[0] for name in metrics))
    output.table(
        f"{run} on {split}",
        ["metric", *(f"@{cut}" for cut in cuts)],
        [[name, *(f"{metrics[f'{name}@{cut}']:.4f}" for cut in cuts)] for name in names],
    )
    output.result({"run": run, "split": split, **metrics})


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Names of finished runs; the first is what the others are held against. "
            "A name without -seedN stands for all its seeds."
        ),
    ],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Compare runs on the test split: metrics, change in % and paired significance.

    A name that is no run itself stands for the runs that are called so but for their seed: base for base-seed1,
    base-seed2 … Then the table shows mean ± standard deviation over seeds, and the tests are over users, each
    user's value being the mean over seeds; from 3 common seeds on there are tests over seeds as well.

    The p-values are of paired t-tests and Wilcoxon's signed-rank tests, each corrected after Holm over all
    that the table shows; * marks p < 0.05 of the t-test over users.

    Below stands what else than the alignment the runs differ in: a difference is the alignment's where nothing does.

    **Examples:**

    `rlmrec compare -w movies base con gen`

    `rlmrec compare -w amazon lightgcn-none-amazon lightgcn-contrastive-amazon`   (over the seeds of each)
    """
    place, output = Workspace(workspace), Output(as_json)
    if len(runs) < 2:
        raise ConfigError("compare needs at least two runs")
    groups = {name: seeds_of(place, name, output) for name in runs}
    named = [folder for folders in groups.values() for folder in folders]
    twice = sorted({folder.name for folder in named if named.count(folder) > 1})
    if len(groups) < len(runs) or twice:
        same = twice or sorted({name for name in runs if runs.count(name) > 1})
        raise ConfigError(f"{', '.join(same)} would be compared with itself: name each run once")
    metrics = {name: [read_json(folder / "metrics.json") for folder in groups[name]] for name in runs}
    datasets = {result["config"]["data"]["dataset"] for found in metrics.values() for result in found}
    if len(datasets) > 1:
        raise ConfigError("these runs are of different datasets: compare runs of one dataset and split")
    comparisons = compare_groups(groups)
    summaries = [over_seeds(found) for found in metrics.values()]
    show_metrics(runs, summaries, output, comparisons)
    show_significance(comparisons, output)
    options = differing_options({name: [result["config"] for result in metrics[name]] for name in runs})
    if options:
        listed = "; ".join(f"{option} {' | '.join(values)}" for option, values in options.items())
        output.say(f"options that differ: {escape(listed)}")
    [trained_on] = datasets
    if place.dataset_path.exists() and place.dataset().fingerprint != trained_on:
        output.say("[yellow]these runs are of an earlier dataset than the workspace's present one[/]")
    output.result(
        {
            "runs": dict(zip(runs, summaries, strict=True)),
            "comparisons": comparisons,
            "options_that_differ": options,
        }
    )


def seeds_of(place: Workspace, name: str, output: Output) -> list[Path]:
    """The folders of the run called ``name``, or of the finished runs called so but for their seed.

    Raises:
        WorkspaceError: there is neither.
        ConfigError: the runs differ in more than their seed, or two have the same.
    """
    if (place.run(name) / "metrics.json").exists():
        return [place.run(name)]
    of_name = [path for path in sorted(place.path.glob("runs/*")) if without_seed(path.name) == name]
    folders = [path for path in of_name if path.name != name and (path / "metrics.json").exists()]
    if not folders:
        return [place.finished_run(name)]  # says what there is
    unfinished = [path.name for path in of_name if path not in folders]
    if unfinished:
        output.say(f"[yellow]{name}: {', '.join(unfinished)} has not ended and is left out[/]")
    configs = [read_json(folder / "metrics.json")["config"] for folder in folders]
    seeds = [config["run"].pop("seed") for config in configs]
    for folder, config in zip(folders, configs, strict=True):
        if config != configs[0]:
            raise ConfigError(
                f"{folders[0].name} and {folder.name} differ in more than their seed: name them one by one"
            )
    if len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"two runs of {name} have the same seed: {dict(zip([f.name for f in folders], seeds, strict=True))}"
        )
    return folders


def differing_options(groups: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
    """The options that runs differ in, but for which alignment they have and its own options.

    An alignment's own options count where all have the same alignment. An option that a run does not have
    (a backbone without layers, a base without texts) is no difference by itself.

    Args:
        groups: name → configurations of its runs, which differ in their seed alone.

    Returns:
        option → what it is in each group, "–" where there is none.
    """
    found: dict[str, dict[str, str]] = {}
    parts = ["run", "backbone", "training"]
    if len({configs[0]["run"]["alignment"] for configs in groups.values()}) == 1:
        parts.append("alignment")
    for name, (config, *more) in groups.items():
        options = {option: value for part in parts for option, value in config.get(part, {}).items()}
        options.pop("alignment", None)
        options["seed"] = ", ".join(str(one["run"]["seed"]) for one in (config, *more))
        options |= {key: value for key, value in config["data"].items() if key != "dataset"}
        if "texts" in options and "names" in config:
            options["texts"] = f"{config['names']['semantics']} ({options['texts'][:6]})"
        for option, value in options.items():
            found.setdefault(option, {})[name] = str(value)
    return {
        option: [values.get(name, "–") for name in groups]
        for option, values in found.items()
        if len(set(values.values())) > 1
    }


def without_seed(name: str) -> str:
    """The name of a run without its ``-seedN``."""
    return re.sub(r"-seed\d+(?=-|$)", "", name)


def over_seeds(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """What several runs that differ in their seed alone have in common: mean and standard deviation.

    One run stays as it is.
    """
    if len(metrics) == 1:
        return metrics[0]
    summary: dict[str, Any] = {"seeds": [result["config"]["run"]["seed"] for result in metrics]}
    for split in ("test", "valid"):
        found = [result[split] for result in metrics]
        summary[split] = summary[f"{split}_std"] = None
        if all(found):
            summary[split] = {name: statistics.mean(r[name] for r in found) for name in found[0]}
            summary[f"{split}_std"] = {name: statistics.stdev(r[name] for r in found) for name in found[0]}
    for name in ("seconds_per_epoch", "epochs"):
        summary[name] = statistics.mean(result[name] for result in metrics)
    return summary


def compare_to_first(names: list[str], folders: list[Path]) -> Comparisons:
    """Each later run against the first, per metric: relative change, interval, p-values, Holm-corrected.

    Raises:
        DataError: the runs were evaluated on different users.
    """
    return compare_groups({name: [folder] for name, folder in zip(names, folders, strict=True)})


def compare_groups(groups: dict[str, list[Path]]) -> Comparisons:
    """Each later group of runs that differ in their seed alone against the first group.

    Raises:
        DataError: the runs were evaluated on different users.
    """
    (_, base), *others = (
        (name, {_seed(folder): read_table(folder / "test.parquet") for folder in folders})
        for name, folders in groups.items()
    )
    return compare_pairs({name: (new, base) for name, new in others}, SHOWN)


def _seed(folder: Path) -> int:
    return int(read_json(folder / "metrics.json")["config"]["run"]["seed"])


def show_metrics(
    names: list[str],
    metrics: list[dict[str, Any]],
    output: Output,
    comparisons: Comparisons | None = None,
) -> None:
    """The table of runs: Recall and NDCG on test, change against the first run, seconds an epoch."""
    rows = []
    for name, result in zip(names, metrics, strict=True):
        trials = []
        for metric in SHOWN:
            value = f"{result['test'][metric]:.4f}" if result["test"] else "–"
            if result.get("test_std"):
                value += f" ±{result['test_std'][metric]:.4f}".replace("0.", ".")
            against = (comparisons or {}).get(name, {}).get(metric)
            if against and against["relative"] is not None:
                star = "*" if against["p_holm"] < LEVEL else ""
                value += f" {100 * against['relative']:+.1f}%{star}"
            trials.append(value)
        rows.append([name, *trials, _seconds(result["seconds_per_epoch"])])
    columns = [name.replace("recall", "R").replace("ndcg", "N") for name in SHOWN]  # fits 80 characters
    output.table("test split, all items ranked (R recall, N NDCG)", ["run", *columns, "s / epoch"], rows)


def _seconds(value: float) -> str:
    """Two digits at least of a time; "–" where nothing was trained."""
    if not value:
        return "–"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def show_significance(comparisons: Comparisons, output: Output) -> None:
    """The p-values behind the stars, where there is more than one test: t and Wilcoxon, users and seeds."""
    rows = []
    for name, metrics in comparisons.items():
        for metric in ("recall@20", "ndcg@20"):
            users, seeds = metrics[metric], metrics[metric]["seeds"]
            interval = f"{users['low']:+.4f} to {users['high']:+.4f}"
            for over, tests, shown in (("users", users, interval), ("seeds", seeds, "")):
                if tests:
                    p_values = [f"{tests[p]:.2g}" for p in ("p_holm", "p_wilcoxon_holm")]
                    rows.append([name, metric, over, shown, *p_values])
    columns = ["run", "metric", "over", "difference, 95 %", "p, t", "p, Wilcoxon"]
    output.table("p after Holm; over seeds from 3 common seeds on", columns, rows, text_columns=3)
