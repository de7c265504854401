"""rlmrec train, evaluate, compare."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlmrec.cli.output import JsonOption, Output, WorkspaceOption
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError
from rlmrec.evaluation.ranking import DotProduct, read_table
from rlmrec.evaluation.ranking import evaluate as rank
from rlmrec.evaluation.significance import compare_tables, holm
from rlmrec.files import read_json
from rlmrec.text.semantics import Semantics
from rlmrec.workspace import Workspace

# PyTorch comes with what trains, so that is imported where it is used: every other command starts in a
# third of the time, and serving needs no PyTorch at all.
if TYPE_CHECKING:
    from rlmrec.experiments.spec import RunSpec

Comparisons = dict[str, dict[str, dict[str, Any]]]  # run → metric → what compare() found
SHOWN = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in (5, 10, 20)]
DEFAULT_WORKSPACE = Path("workspace")


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
        str, typer.Option(help="general, movielens, or the paper's: amazon, yelp, steam.")
    ] = "general",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Override an option; repeat for several."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of initialisation and training.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most this many epochs.")] = None,
    name: Annotated[str | None, typer.Option(help="The run's name; by default made of the options.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew if the run exists.")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write TensorBoard event files.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train, stop early on validation, evaluate, and save a recommender. A killed run goes on when called again.

    **Examples:**

    `rlmrec train -w movies --alignment contrastive --name con`

    `rlmrec train -w amazon --preset amazon --seed 1 --set layers=2 --set l2=1e-7`
    """
    from rlmrec.experiments.spec import RunSpec, parse_settings

    place, output = Workspace(workspace), Output(as_json)
    options = parse_settings(settings or [])
    if epochs is not None:
        options["epochs"] = epochs
    spec = RunSpec.resolve(backbone, alignment, preset, seed, options)
    dataset = place.dataset()
    semantics = place.semantics(dataset) if spec.needs_text else None
    if name is None:
        parts = [backbone.rpartition(":")[2].lower(), alignment, preset, f"seed{seed}"]
        name = "-".join([*parts, *(f"{option}={value}" for option, value in options.items())])
    metrics = train_with_progress(
        spec, dataset, semantics, place.run(name), output,
        label=name, device=device, overwrite=overwrite, tensorboard=tensorboard,
    )  # fmt: skip
    show_metrics([name], [metrics], output)
    output.say(
        f"best epoch {metrics['best_epoch']} of {metrics['epochs']}, {metrics['seconds_per_epoch']:.2f} s an epoch; "
        f"saved in {place.run(name)}"
    )
    output.result({"run": name, **metrics})


def train_with_progress(
    spec: RunSpec,
    dataset: Dataset,
    semantics: Semantics | None,
    folder: Path,
    output: Output,
    *,
    label: str,
    device: str = "cpu",
    overwrite: bool = False,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """``run`` with a progress bar: loss, validation metric, what the best was, time left."""
    from rlmrec.experiments.run import run

    if (folder / "metrics.json").exists() and not overwrite:
        kept = run(spec, dataset, semantics, folder)  # refuses if it is another run
        output.say(f"{label}: done before, kept (--overwrite starts it anew)")
        return kept
    log = _EventLog(folder) if tensorboard else None
    with output.progress(label, spec.training.epochs) as update:

        def on_epoch(record: dict[str, Any]) -> None:
            loss, best = sum(record["loss"].values()), record["best"]
            note = f"loss {loss:.3f} · best valid R@20 {best['recall@20']:.4f} at {best['epoch']}"
            update(record["epoch"] + 1, note)
            if log is not None:
                log.write(record)

        try:
            return run(
                spec, dataset, semantics, folder, device=device, overwrite=overwrite, on_epoch=on_epoch
            )
        finally:
            if log is not None:
                log.close()


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
    run: Annotated[str, typer.Option(help="The run's name.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    split: Annotated[str, typer.Option(help="test or valid.")] = "test",
    k: Annotated[
        list[int] | None, typer.Option("-k", help="Cut-off; repeat for several. 5, 10, 20 by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rank all items for every user of a split again and print all metrics.

    **Example:**  `rlmrec evaluate -w movies --run con -k 10 -k 50`
    """
    place, output = Workspace(workspace), Output(as_json)
    if split not in ("test", "valid"):
        raise ConfigError(f"--split {split!r}: expected test or valid")
    cuts = tuple(sorted(k or (5, 10, 20)))
    dataset = place.dataset()
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
        typer.Argument(help="Names of finished runs; the first is what the others are held against."),
    ],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Compare runs on the test split: metrics, change in % and paired significance over users.

    The p-values are of paired t-tests over the test users, corrected after Holm over all that the
    table shows; * marks p < 0.05.

    **Example:**  `rlmrec compare -w movies base con gen`
    """
    place, output = Workspace(workspace), Output(as_json)
    if len(runs) < 2:
        raise ConfigError("compare needs at least two runs")
    folders = [place.finished_run(name) for name in runs]
    metrics = [read_json(folder / "metrics.json") for folder in folders]
    if len({result["config"]["data"]["dataset"] for result in metrics}) > 1:
        raise ConfigError("these runs are of different datasets: compare runs of one dataset and split")
    comparisons = compare_to_first(runs, folders)
    show_metrics(runs, metrics, output, comparisons)
    output.result({"runs": dict(zip(runs, metrics, strict=True)), "comparisons": comparisons})


def compare_to_first(names: list[str], folders: list[Path]) -> Comparisons:
    """Each later run against the first, per metric: relative change, interval, p-values, Holm-corrected.

    Raises:
        DataError: the runs were evaluated on different users.
    """
    base, *tables = [read_table(folder / "test.parquet") for folder in folders]
    results = {
        name: {metric: asdict(compare_tables(table, base, metric)) for metric in SHOWN}
        for name, table in zip(names[1:], tables, strict=True)
    }
    cells = [cell for metrics in results.values() for cell in metrics.values()]
    for cell, corrected in zip(cells, holm([cell["p_t"] for cell in cells]).tolist(), strict=True):
        cell["p_holm"] = corrected
        if not math.isfinite(cell["relative"]):  # against a base of 0
            cell["relative"] = None
    return results


def show_metrics(
    names: list[str],
    metrics: list[dict[str, Any]],
    output: Output,
    comparisons: Comparisons | None = None,
) -> None:
    """The table of runs: Recall and NDCG on test, change against the first run, seconds an epoch."""
    rows = []
    for name, result in zip(names, metrics, strict=True):
        cells = []
        for metric in SHOWN:
            value = f"{result['test'][metric]:.4f}" if result["test"] else "–"
            against = (comparisons or {}).get(name, {}).get(metric)
            if against and against["relative"] is not None:
                star = "*" if against["p_holm"] < 0.05 else ""
                value += f" {100 * against['relative']:+.1f}%{star}"
            cells.append(value)
        rows.append([name, *cells, f"{result['seconds_per_epoch']:.2f}"])
    columns = [name.replace("recall", "R").replace("ndcg", "N") for name in SHOWN]  # fits 80 characters
    output.table("test split, all items ranked (R recall, N NDCG)", ["run", *columns, "s/epoch"], rows)
