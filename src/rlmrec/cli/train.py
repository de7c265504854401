"""rlmrec train: train and evaluate one run."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from rlmrec.cli.arguments import (
    DEFAULT_WORKSPACE,
    AlignmentOption,
    BackboneOption,
    DeviceOption,
    EpochsOption,
    JsonOption,
    OverwriteOption,
    PresetOption,
    SeedOption,
    SettingsOption,
    TextEmbeddingsOption,
    WorkspaceOption,
    is_given,
)
from rlmrec.errors import ConfigError
from rlmrec.experiments import DEFAULT_PRESET
from rlmrec.text import DEFAULT_TEXT_EMBEDDINGS, NO_TEXT_EMBEDDINGS

if TYPE_CHECKING:
    from rlmrec.cli.output import Output
    from rlmrec.data.dataset import Dataset
    from rlmrec.evaluation.compare import FinishedRun
    from rlmrec.experiments.run import InitialEmbeddings
    from rlmrec.experiments.spec import RunSpec
    from rlmrec.text.embeddings import TextEmbeddings
    from rlmrec.training.logs import RunLog
    from rlmrec.workspace import Workspace

FEW_UPDATES = 50  # of Adam: at the learning rates of the presets the embeddings have hardly left their start


def train(
    context: typer.Context,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    backbone: BackboneOption = None,
    alignment: AlignmentOption = "none",
    preset: PresetOption = DEFAULT_PRESET,
    settings: SettingsOption = None,
    text_embeddings_name: TextEmbeddingsOption = DEFAULT_TEXT_EMBEDDINGS,
    seed: SeedOption = 0,
    epochs: EpochsOption = None,
    name: Annotated[
        str | None, typer.Option(help="The run's name; by default made from the options.")
    ] = None,
    start_from: Annotated[
        str | None, typer.Option(metavar="RUN", help="Start from the learned initial embeddings of this run.")
    ] = None,
    final: Annotated[
        bool,
        typer.Option(
            "--final",
            help="Train on everything, held-out interactions too, with the options of --like. Such a run is for use: "
            "it has no test figure.",
        ),
    ] = False,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="With --final: take the options and the number of epochs of this run."
        ),
    ] = None,
    device: DeviceOption = "cpu",
    overwrite: OverwriteOption = False,
    logs: Annotated[
        list[str] | None,
        typer.Option(
            "--log",
            metavar="tensorboard|mlflow|wandb",
            help="Also log losses and metrics to TensorBoard (files in the run's folder), MLflow or Weights & Biases "
            "(where MLFLOW_TRACKING_URI, WANDB_MODE and their like say); repeat for several.",
        ),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", hidden=True)] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a recommender, stop early on validation, evaluate it and save it. Repeat the command to resume a run.

    Without `--backbone` it fits graph-filter, which is computed in seconds instead of trained, with the workspace's
    text embeddings if there are any; with `--alignment`, LightGCN. `rlmrec options --backbone lightgcn --alignment
    contrastive` lists what `--set` accepts.

    **Examples:**

    `rlmrec train -w movies`

    `rlmrec train -w movies --alignment contrastive --name con`

    `rlmrec train -w movies --alignment contrastive --text-embeddings by-llm`

    `rlmrec train -w movies --text-embeddings none`   (graph-filter without text)

    `rlmrec train -w amazon --backbone lightgcn --preset amazon --seed 1 --set layers=2 --set l2=1e-7`

    `rlmrec train -w shop --final --like con --name live`   (the model to use, on all data)

    `torchrun --nproc-per-node 4 -m rlmrec train -w amazon --backbone lightgcn`   (four processes share the embeddings)
    """
    from rlmrec.alignment.teacher import teachers_kept_in
    from rlmrec.cli.compare import show_metrics, show_seconds
    from rlmrec.cli.output import Output
    from rlmrec.config import parse_settings
    from rlmrec.evaluation.compare import limit_reached
    from rlmrec.experiments.baselines import default_texts
    from rlmrec.experiments.run import InitialEmbeddings, read_config, run
    from rlmrec.experiments.spec import RunSpec
    from rlmrec.models import default_backbone
    from rlmrec.registry import short_name
    from rlmrec.workspace import Workspace

    place, output = Workspace(workspace), Output(as_json)
    chosen = parse_settings(settings or [])
    if epochs is not None:
        chosen["epochs"] = epochs
    if final or like is not None:
        spec, text_embeddings_name = _final_spec(context, place, final, like, text_embeddings_name, epochs)
        backbone, alignment, name = spec.backbone, spec.alignment, name or f"{like}-final"
    else:
        backbone = backbone or default_backbone(alignment)
        spec = RunSpec.resolve(backbone, alignment, preset, seed, chosen)
    dataset = place.dataset()
    if spec.reads_text and text_embeddings_name not in (DEFAULT_TEXT_EMBEDDINGS, NO_TEXT_EMBEDDINGS):
        place.text_embeddings(dataset, text_embeddings_name)  # those that were named must be there
    text_embeddings, _ = default_texts(place, dataset, spec, text_embeddings_name)
    if text_embeddings is not None and os.environ.get("RANK", "0") == "0":
        output.findings(text_embeddings.findings(dataset))
    if name is None:
        parts = [short_name(backbone).lower(), *([f"seed{seed}"] if seed else [])]
        parts = (
            parts
            if spec.is_closed_form
            else [
                short_name(backbone).lower(),
                short_name(alignment).lower(),
                Path(preset).stem,
                f"seed{seed}",
            ]
        )
        if spec.reads_text and text_embeddings_name != DEFAULT_TEXT_EMBEDDINGS:
            parts.append(f"texts={text_embeddings_name}")
        parts += [f"from-{start_from}"] * (start_from is not None)
        values = {option: short_name(one) if isinstance(one, str) else one for option, one in chosen.items()}
        name = "-".join([*parts, *(f"{option}={value}" for option, value in values.items())])
    start = None if start_from is None else InitialEmbeddings.of(place.finished_run(start_from))
    if start is not None and not final and not dataset.descends_from(start.dataset):
        output.say(
            f"[yellow]--start-from {escape(str(start_from))}: it is of another dataset or split, so that the held-out "
            "items may have been in its training[/]"
        )
    if start_from is not None:
        before = read_config(place.finished_run(start_from))["run"]
        if (before["backbone"], before["alignment"]) != (spec.backbone, spec.alignment):
            output.say(
                f"[yellow]--start-from {escape(start_from)}: it is {escape(_model(before))}, this run is "
                f"{escape(_model({'backbone': spec.backbone, 'alignment': spec.alignment}))}; only its initial "
                "embeddings are taken[/]"
            )
    with _processes(spec, device) as (is_first, device), teachers_kept_in(place.teachers_path):
        if not is_first:
            run(
                spec, dataset, text_embeddings, place.run(name),
                start=start, device=device, overwrite=overwrite, final=final,
            )  # fmt: skip
            return
        finished = train_with_progress(
            spec, dataset, text_embeddings, place.run(name), output,
            start=start, device=device, overwrite=overwrite,
            logs=[*(logs or []), *["tensorboard"] * tensorboard],
            text_embeddings_name=text_embeddings_name, final=final,
        )  # fmt: skip
    metrics = finished.metrics
    if final:
        figure = f": that of {like} stands for the choice of options"
        if read_config(place.finished_run(str(like)))["data"].get("final"):
            figure = f"; neither has {like}, which is a final run itself: see the run whose options it took"
        output.say(
            escape(
                f"trained on all {len(dataset.everything()):,} interactions like {like}; nothing was held out, so this "
                f"run has no test figure of its own{figure}"
            )
        )
    else:
        show_metrics([finished.group()], output)
    if spec.is_closed_form:
        is_named = text_embeddings is not None or text_embeddings_name == NO_TEXT_EMBEDDINGS
        texts = text_embeddings_name if is_named else None
        _describe_fit(metrics, spec, texts, finished.folder, output)
        output.result({"run": name, **metrics})
        return
    what = (
        f"{metrics['epochs']} epochs"
        if final
        else f"best after {metrics['best_epoch'] + 1} of {metrics['epochs']} epochs"
    )
    output.say(
        escape(f"{what}, {show_seconds(metrics['seconds_per_epoch'])} s/epoch; saved in {finished.folder}")
    )
    if not final:
        _warn_of_few_updates(metrics["epochs"], spec, dataset, output)
        if limit := limit_reached([finished.group()]):
            output.say(f"[yellow]{escape(limit)}[/]")
    output.result({"run": name, **metrics})


def _model(run: Mapping[str, Any]) -> str:
    """Return a run's backbone and alignment in words."""
    return f"{run['backbone']} {'without an alignment' if run['alignment'] == 'none' else 'with ' + run['alignment']}"


@contextmanager
def _processes(spec: RunSpec, device: str) -> Iterator[tuple[bool, str]]:
    """Join the processes that torchrun has started; yield whether this is the first, and its device.

    Raises:
        ConfigError: several processes for a closed form that is computed by one.
    """
    from rlmrec.models import MODELS
    from rlmrec.shards import Shards, started_processes

    count = started_processes()
    if count == 1:
        yield True, device
        return
    if spec.is_closed_form and not getattr(MODELS.resolve(spec.backbone), "has_shards", False):
        raise ConfigError(
            f"{count} processes were started, and {spec.backbone} is computed by one: run the command without torchrun"
        )
    from rlmrec.columns import process_group

    with process_group("cpu" if spec.is_closed_form else device) as own_device:
        yield Shards.current().is_first, own_device


def _final_spec(
    context: typer.Context,
    place: Workspace,
    final: bool,
    like: str | None,
    text_embeddings_name: str,
    epochs: int | None,
) -> tuple[RunSpec, str]:
    """Return the spec of a final run and the name of the text embeddings that the run before it read."""
    from dataclasses import replace

    from rlmrec.config import parse_settings
    from rlmrec.experiments.final import final_spec
    from rlmrec.experiments.run import read_config
    from rlmrec.registry import is_path

    if not final or like is None:
        raise ConfigError(
            "--final and --like RUN go together: a final run takes the options of a run that was chosen"
        )
    fixed = ("backbone", "alignment", "preset", "settings", "seed")
    settings = parse_settings(context.params["settings"] or [])
    classes = {str(context.params["backbone"]), context.params["alignment"], str(settings.get("teacher"))}
    classes = set(filter(is_path, classes))  # they are named, so that their code may run, and change nothing
    given = [
        option
        for option in fixed
        if is_given(context, option)
        and context.params[option] not in classes
        and not (option == "settings" and set(settings) == {"teacher"} and settings["teacher"] in classes)
    ]
    if given:
        names = ", ".join("--set" if option == "settings" else f"--{option}" for option in given)
        raise ConfigError(f"{names}: a final run takes the options of --like {like}; leave it out")
    folder = place.finished_run(like)
    if read_config(folder)["data"].get("start") and epochs is None and not is_given(context, "start_from"):
        raise ConfigError(
            f"{like} started from the embeddings of another run, and its number of epochs is too small for a start "
            "from random ones: name a run by --start-from RUN, or a number by --epochs"
        )
    spec = final_spec(folder, classes)
    if epochs is not None and not spec.is_closed_form:
        spec = replace(spec, training=spec.training.model_copy(update={"epochs": epochs}))
    if not is_given(context, "text_embeddings_name"):
        text_embeddings_name = read_config(folder).get("names", {}).get("semantics", text_embeddings_name)
    return spec, text_embeddings_name


def _describe_fit(
    metrics: Mapping[str, Any], spec: RunSpec, texts: str | None, folder: Path, output: Output
) -> None:
    """Print what the fit of a closed form chose, what validation said, and its notes."""
    from rlmrec.models import MODELS

    fit = metrics["fit"]
    if texts == NO_TEXT_EMBEDDINGS:
        output.say("texts: none, as --text-embeddings says")
    elif texts is not None:
        output.say(escape(f"texts: the text embeddings {texts!r}"))
    elif not spec.reads_text and getattr(MODELS.resolve(spec.backbone), "reads_text", False):
        output.say("texts: none are used with these options")
    elif spec.reads_text:
        output.say("texts: none; 'rlmrec encode' makes text embeddings, then train again with --overwrite")
    if fit.get("chosen"):
        output.say(
            escape(
                "options: " + ", ".join(f"{key} = {_short(value)}" for key, value in fit["chosen"].items())
            )
        )
    if fit.get("validation"):
        values = ", ".join(f"{key} {value:.4f}" for key, value in fit["validation"].items())
        output.say(escape(f"validation: {values}"))
    for note in fit.get("notes", ()):
        output.say(escape(f"note: {note}"))
    output.say(escape(f"fitted in {metrics['seconds']:.1f} s; saved in {folder}"))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _warn_of_few_updates(epochs: int, spec: RunSpec, dataset: Dataset, output: Output) -> None:
    """Warn if patience ended a run after very few updates, as it does where an epoch is only a batch or two."""
    training = spec.training
    batches = math.ceil(len(dataset.train) / training.batch_size)
    updates = epochs * batches
    if epochs < training.epochs and updates < FEW_UPDATES:
        output.say(
            f"[yellow]stopped after {updates} updates, {batches} per epoch: the model may hardly have begun to "
            f"learn. Train longer with a patience above {training.patience} (--set patience=50), or use smaller "
            "batches (--set batch_size=256)[/]"
        )


def train_with_progress(
    spec: RunSpec,
    dataset: Dataset,
    text_embeddings: TextEmbeddings | None,
    folder: Path,
    output: Output,
    *,
    start: InitialEmbeddings | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    logs: Sequence[str] = (),
    text_embeddings_name: str = DEFAULT_TEXT_EMBEDDINGS,
    final: bool = False,
) -> FinishedRun:
    """Train a run (see ``rlmrec.experiments.run.run``) with a progress bar: loss, best validation metric, time left.

    A run that has ended before is not repeated. ``logs`` are names of ``rlmrec.training.logs``.

    Raises:
        WorkspaceError: another process is training this run.
        RlmrecError: as ``run``.
    """
    from rlmrec.evaluation.compare import FinishedRun
    from rlmrec.experiments.run import run
    from rlmrec.files import locked
    from rlmrec.training.logs import open_log

    label = folder.name
    if (folder / "metrics.json").exists() and not overwrite:
        kept = run(
            spec, dataset, text_embeddings, folder, start=start, final=final
        )  # refuses if it is another run
        output.say(f"{label}: already finished and kept (--overwrite trains it again)")
        return FinishedRun(label, folder, kept)
    opened = [open_log(log, folder, spec.as_dict()) for log in dict.fromkeys(logs)]
    with ExitStack() as open_:
        busy = f"another process is training the run {label!r}: wait until it has ended, or choose another --name"
        open_.enter_context(locked(folder, busy))
        updates: list[Callable[..., None]] = []  # of the bar: none before the options are known to be right

        def on_start() -> None:
            if spec.is_closed_form:
                open_.enter_context(output.step(f"{label}: fitting and evaluating {spec.backbone}"))
            else:
                # Where training stops early, the last epoch is a bound that is hardly ever reached.
                what = f"{label}, epochs" if final else f"{label} (may stop early), epochs"
                bar = output.progress(what, spec.training.epochs, remaining=final)
                updates.append(open_.enter_context(bar))

        def on_epoch(record: dict[str, Any]) -> None:
            note = f"loss {sum(record['loss'].values()):.3f}"
            if best := record.get("best"):
                note += f" · best valid R@20 {best['recall@20']:.4f} after {best['epoch'] + 1}"
            for update in updates:
                update(record["epoch"] + 1, note)
            for log in list(opened):
                tell(log, log, record)

        def tell(log: RunLog, write: Callable[[Any], None], what: Mapping[str, Any] | None) -> None:
            try:
                write(what)
            except Exception as error:  # of another program, and of any type: it must not cost the training
                opened.remove(log)
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                output.say(escape(f"--log {log.name} failed and gets nothing more of this run: {reason}"))

        metrics: dict[str, Any] | None = None
        try:
            metrics = run(
                spec, dataset, text_embeddings, folder,
                start=start, device=device, overwrite=overwrite, text_embeddings_name=text_embeddings_name,
                on_start=on_start, on_epoch=on_epoch, final=final,
            )  # fmt: skip
        finally:
            for log in list(opened):
                tell(log, log.close, metrics)
    return FinishedRun(label, folder, metrics)
