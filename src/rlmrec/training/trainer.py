"""Training: Adam, early stopping on validation, checkpoints. One trainer for all backbones and alignments."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from rlmrec.alignment.base import Alignment
from rlmrec.backbones.base import Backbone
from rlmrec.batch import Batch, available_device, is_accelerator
from rlmrec.columns import Columns
from rlmrec.config import Config, as_config
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, DataError, RlmrecError
from rlmrec.evaluation.ranking import DotProduct, evaluate
from rlmrec.files import write_text
from rlmrec.graph import Graph
from rlmrec.shards import Shards
from rlmrec.training import checkpoint
from rlmrec.training.captured import CapturedUpdate, check_capturable
from rlmrec.training.compiled import check_compilable, compiled, default_generator
from rlmrec.training.config import TrainConfig
from rlmrec.training.onednn import exact_products_by_onednn
from rlmrec.training.sampler import Sampler
from rlmrec.training.spectral import check_tables, put_spectral_embeddings
from rlmrec.training.step import step
from rlmrec.training.validation import DeviceValidation
from rlmrec.trust import damaged, expect
from rlmrec.types import Float32Array, IntArray

MONITORED = "recall@20"


class OtherRunError(ConfigError):
    """The checkpoint in a run's folder is of another run."""


class TrainingError(RlmrecError):
    """Training cannot continue: the loss or an embedding is not finite."""


@dataclass
class History:
    """Record of a training run.

    best_epoch: the epoch whose parameters the model has now; records count epochs from 0, messages and tables from 1.
    best: validation Recall@20 at that epoch.
    epochs: one record per epoch: number, seconds, loss terms and, where validated, metrics.
    """

    best_epoch: int = -1
    best: float = -math.inf
    epochs: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @property
    def seconds_per_epoch(self) -> float:
        """Median time of one epoch, without validation and checkpoints."""
        return float(np.median([record["seconds"] for record in self.epochs]))

    @property
    def seconds_evaluation(self) -> float:
        """Median time of one validation."""
        times = [record["seconds_evaluation"] for record in self.epochs if "valid" in record]
        return float(np.median(times)) if times else 0.0


@dataclass(kw_only=True, eq=False)
class TrainingResult(History):
    """A trained model's embeddings and the record of its training.

    users: final embeddings of users, float32[U, d'].
    items: final embeddings of items, float32[I, d'].
    item_messages: float32[I, d'] for ``Recommender.item_messages``; None where the backbone has none.
    self_loops: whether the backbone's graph is that of A + I, which ``Recommender`` needs with the messages.
    """

    users: Float32Array = field(repr=False)
    items: Float32Array = field(repr=False)
    item_messages: Float32Array | None = field(default=None, repr=False)
    self_loops: bool = False


def train(
    backbone: Backbone,
    alignment: Alignment | None,
    dataset: Dataset,
    config: TrainConfig | Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    folder: Path | str | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    progress: bool | None = None,
    early_stopping: bool = True,
) -> TrainingResult:
    """Train a backbone with an alignment in place; both end with the parameters of the best validation.

    Validation Recall@20 is measured after the first epoch and every ``evaluate_every`` epochs from there; training
    stops after ``patience`` validations in a row without a new best. The same seed gives the same numbers on one
    machine. Where several processes of ``torch.distributed`` call it with the same arguments, they share the columns
    of the embeddings (``rlmrec.columns``); each of them gets the whole result.

    Args:
        backbone: R.
        alignment: L_info; None for no alignment.
        dataset: its training split is learned from, its validation split stops training.
        config: options, or a mapping of them.
        seed: seed of the shuffling, the negatives, and the noise of models. The modules come initialised: seed
            PyTorch before you make them, if their initial values should repeat too.
        device: "cpu", "cuda" or "mps".
        folder: where ``metrics.jsonl`` and a checkpoint after every validation go. A run that was killed
            continues from there when called again with the same arguments, on the CPU bit for bit.
        on_epoch: called with each epoch's record.
        progress: show epoch, loss and best validation in one line; None shows it in a terminal or notebook.
        early_stopping: False trains for exactly ``config.epochs`` without validation and keeps the last parameters.

    Returns:
        final embeddings, best epoch and the record of each epoch.

    Raises:
        ConfigError: the backbone or the text vectors are for other users and items than the dataset, there is
            nothing to validate on, the device is not available, or the checkpoint is of another run.
        TrainingError: the loss or an embedding became infinite or not a number.

    Source: Ren et al., WWW 2024, Algorithms 1 and 2.
    """
    config = as_config(TrainConfig, config, {})
    if seed < 0:
        raise ConfigError(f"seed is {seed}: expected 0 or more")
    if alignment is None:
        alignment = Alignment()
    check_fit(backbone, alignment, dataset)
    device = check_trainable(dataset, device, early_stopping)
    place = None if folder is None else Path(folder)
    with (
        default_generator(device, config.compile) as rng,
        exact_products_by_onednn(),
        _progress(progress, config.epochs) as show,
    ):
        run = _Run(backbone, alignment, dataset, config, seed, device, place, rng, early_stopping)
        run.resume()
        while not run.finished:
            record = run.epoch()
            show(record)
            if on_epoch:
                on_epoch(record)
    run.restore_best()
    if run.columns is not None:
        run.columns.join(backbone, alignment)
    users, items = embeddings(backbone, dataset, run.graph)
    messages = item_messages(backbone, dataset, run.graph)
    return TrainingResult(
        **vars(run.history), users=users, items=items, item_messages=messages, self_loops=backbone.self_loops
    )


@contextmanager
def _progress(wanted: bool | None, epochs: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show one line of progress; yield the function that updates it with an epoch's record."""
    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter if wanted is None else wanted):
        yield lambda _: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", total=epochs)

        def show(record: dict[str, Any]) -> None:
            text = f"epoch {record['epoch'] + 1}, loss {sum(record['loss'].values()):.4f}"
            if "best" in record:
                text += f", best recall@20 {record['best'][MONITORED]:.4f}"
            bar.update(task, completed=record["epoch"] + 1, description=text)

        yield show


@torch.no_grad()
def embeddings(
    backbone: Backbone, dataset: Dataset, graph: Graph | None = None
) -> tuple[Float32Array, Float32Array]:
    """Compute the final embeddings of users (U, d') and items (I, d') as float32 arrays: all that serving needs.

    Args:
        backbone: a trained backbone.
        dataset: its training interactions make the graph.
        graph: that graph, if you have it already.

    Raises:
        ConfigError: the backbone is for other users and items than the dataset.
    """
    check_fit(backbone, None, dataset)
    x = backbone.initial()
    graph = graph or Graph.from_interactions(dataset.train, backbone.self_loops, x.dtype, x.device)
    users, items = _final(backbone, graph)
    return users.cpu().numpy(), items.cpu().numpy()


@torch.no_grad()
def _final(backbone: Backbone, graph: Graph) -> tuple[Tensor, Tensor]:
    """Compute the final embeddings in float32, on the device of the backbone."""
    users, items = backbone.encode(backbone.initial(), graph)
    if backbone.ranks_by_cosine:  # a user's own length does not change the order of the items
        items = F.normalize(items, dim=1)
    return users.float(), items.float()


@torch.no_grad()
def item_messages(backbone: Backbone, dataset: Dataset, graph: Graph | None = None) -> Float32Array | None:
    """Compute what each item sends to its users in the last step, float32[I, d'] (``Recommender.item_messages``).

    n_v = m_v / √d_v of the backbone's ``last_layer_messages`` m, so that e_u = own_u + Σ n_v / √d_u. None where the
    backbone has no such step, or a subclass has its own ``encode`` without its own ``last_layer_messages``.

    Args:
        backbone: a trained backbone.
        dataset: its training interactions make the graph.
        graph: that graph, if you have it already.
    """
    if not backbone.matches_encode("last_layer_messages"):
        return None
    x = backbone.initial()
    graph = graph or Graph.from_interactions(dataset.train, backbone.self_loops, x.dtype, x.device)
    last_layer_messages = backbone.last_layer_messages(x, graph)
    if last_layer_messages is None:
        return None
    degrees = dataset.train.item_degrees() + int(backbone.self_loops)
    scale = np.sqrt(np.maximum(degrees, 1)).astype(np.float32)[:, None]
    sent = graph.split(last_layer_messages)[1].float().cpu().numpy()
    scaled: Float32Array = np.where(degrees[:, None] > 0, sent / scale, 0).astype(np.float32)
    return scaled


def validation_sample(dataset: Dataset, count: int | None, seed: int) -> IntArray | None:
    """Draw the users that validations during training rank for, ascending rows; None where all are taken.

    Args:
        dataset: its users with validation interactions are drawn from.
        count: how many; None takes all.
        seed: of the run. The draw moves no other stream of random numbers.
    """
    users = np.flatnonzero(dataset.valid.user_degrees())
    if count is None or count >= len(users):
        return None
    return np.sort(np.random.default_rng([seed, len(users)]).choice(users, count, replace=False))


def check_fit(backbone: Backbone, alignment: Alignment | None, dataset: Dataset) -> None:
    """Check that a backbone and an alignment are for the users and items of a dataset.

    Raises:
        ConfigError: something else than a backbone or an alignment was passed, or they are of another dataset.
    """
    for name, got, kind in (
        ("backbone", backbone, Backbone),
        ("alignment", alignment, Alignment),
        ("dataset", dataset, Dataset),
    ):
        if not isinstance(got, kind) and not (name == "alignment" and got is None):
            raise ConfigError(f"{name} has type {type(got).__name__}: expected {kind.__name__}")
    if (backbone.n_users, backbone.n_items) != (dataset.n_users, dataset.n_items):
        raise ConfigError(
            f"{type(backbone).__name__} has {backbone.n_users} users and {backbone.n_items} items, the dataset has "
            f"{dataset.n_users} and {dataset.n_items}: make it with dataset.n_users and dataset.n_items"
        )
    if alignment is not None:
        alignment.check_rows(dataset.n_users, dataset.n_items, "the dataset")
        # Absent if a subclass skips the constructor.
        for part, made_for in getattr(alignment, "made_for", {}).items():
            if made_for not in (None, dataset.fingerprint):
                raise ConfigError(
                    f"the {part} of {type(alignment).__name__} were made for another dataset ({made_for}) than "
                    f"{dataset.name!r} ({dataset.fingerprint}): make them for this one"
                )
        size = getattr(alignment, "output_size", backbone.output_size)  # absent without a backbone
        if size != backbone.output_size:
            raise ConfigError(
                f"{type(alignment).__name__} is for embeddings of {size} dimensions, {type(backbone).__name__} has "
                f"{backbone.output_size}: make the alignment with this backbone"
            )


def check_trainable(
    dataset: Dataset, device: torch.device | str, early_stopping: bool = True
) -> torch.device:
    """Check what must hold before anything is trained or replaced; return the device.

    Raises:
        ConfigError: there is nothing to validate on, or this machine does not have the device.
    """
    if early_stopping and not len(dataset.valid):
        raise ConfigError(
            "the validation split is empty, so training cannot be stopped: split with e.g. 3:1:1"
        )
    return available_device(device)


def check_options(backbone: Backbone, config: TrainConfig, device: torch.device) -> None:
    """Check that a backbone can be trained with these options.

    Raises:
        ConfigError: its steps cannot be compiled or captured, or it has no tables for spectral initial embeddings.
    """
    columns = Columns.current()
    processes = 1 if columns is None else columns.count
    if config.compile and config.cuda_graphs:
        raise ConfigError("compile=true uses CUDA graphs of its own: leave out compile or cuda_graphs")
    if config.compile:
        check_compilable(backbone, device, processes)
    if config.cuda_graphs:
        check_capturable(backbone, device, processes)
    if config.initial_embeddings == "spectral":
        check_tables(backbone)


def _options(module: nn.Module) -> dict[str, Any]:
    config = getattr(module, "config", None)
    return {"class": type(module).__qualname__, **(config.stored() if isinstance(config, Config) else {})}


class _Run:
    """The state of a training run. Everything in it is in a checkpoint or follows from the arguments."""

    def __init__(
        self,
        backbone: Backbone,
        alignment: Alignment,
        dataset: Dataset,
        config: TrainConfig,
        seed: int,
        device: torch.device,
        folder: Path | None,
        rng: torch.Generator,
        early_stopping: bool = True,
    ) -> None:
        self.backbone, self.alignment = backbone, alignment
        self.early_stopping = early_stopping
        self.model = nn.ModuleDict({"backbone": backbone, "alignment": alignment}).to(device)
        self.columns = Columns.current()
        check_options(backbone, config, device)
        dtype = next(backbone.parameters()).dtype
        self.graph = Graph.from_interactions(dataset.train, backbone.self_loops, dtype, device)
        is_new = folder is None or not checkpoint.exists(folder)
        if config.initial_embeddings == "spectral" and is_new:
            # NCCL moves no arrays of the CPU, so with GPUs each process decomposes alone.
            shards = Shards.current() if device.type == "cpu" else Shards()
            put_spectral_embeddings(backbone, dataset, self.graph, seed, shards)
        shapes = {name: list(tensor.shape) for name, tensor in self.model.state_dict().items()}
        if self.columns is not None:
            self.columns.split(backbone, alignment)
            self.columns.wait()  # until the first has set aside what it overwrites
        self.dataset, self.config, self.folder = dataset, config, folder
        self.sampler = Sampler(dataset.train, config.batch_size, device, dataset.users)
        self.validation_users = validation_sample(dataset, config.validation_users, seed)
        self.device_validation = (
            DeviceValidation(dataset, self.validation_users, device)
            if is_accelerator(device) and early_stopping
            else None
        )
        # Two streams from one seed: the sampler's draws do not move when a model draws more or fewer.
        sampler_seed, model_seed = np.random.SeedSequence(seed).spawn(2)
        self.sampler_rng = np.random.default_rng(sampler_seed)
        self.model_rng = rng.manual_seed(int(model_seed.generate_state(1, np.uint64)[0] >> 1))
        self.optimizer = torch.optim.Adam(
            self.model.parameters(),
            lr=config.learning_rate,
            fused=device.type in ("cpu", "cuda"),
            capturable=device.type == "cuda",
        )
        self._compiled = self._captured = None
        if config.compile:
            _ = self.graph.transpose  # made now: the compiler cannot follow how it is made when first needed
            self._compiled = compiled(self._terms, device)
        if config.cuda_graphs:
            self._captured = CapturedUpdate(self._update, self.model_rng)
        self.history = History()
        self.best_parameters: dict[str, Tensor] = {}
        read = getattr(alignment, "input_digests", {})
        self.identity = {
            "config": config.stored(),
            "seed": seed,
            "dataset": dataset.fingerprint,
            "backbone": _options(backbone),
            "alignment": _options(alignment),
            "texts": read.get("texts") or getattr(backbone, "text_digest", None),
            **{name: digest for name, digest in read.items() if name != "texts"},
            "model": shapes,
        }
        self._parameter_names = [name for name, _ in self.model.named_parameters()]

    @property
    def finished(self) -> bool:
        """Whether the epochs or the patience are used up."""
        done = len(self.history.epochs)
        if not self.early_stopping:
            return done >= self.config.epochs
        stale = sum("valid" in record for record in self.history.epochs[self.history.best_epoch + 1 :])
        return done >= self.config.epochs or (self.history.best_epoch >= 0 and stale >= self.config.patience)

    def epoch(self) -> dict[str, Any]:
        """Train one epoch; validate and save when due. Return the epoch's record."""
        number = len(self.history.epochs)
        start = time.perf_counter()
        terms = self._pass()
        record: dict[str, Any] = {"epoch": number, "seconds": time.perf_counter() - start, "loss": terms}
        due = number % self.config.evaluate_every == 0 or number == self.config.epochs - 1
        if due and self.early_stopping:
            self._validate(record)
        if self.early_stopping:
            record["best"] = {"epoch": self.history.best_epoch, MONITORED: self.history.best}
        else:
            self.history.best_epoch = number
        self.history.epochs.append(record)
        if self.folder:
            if self._writes:
                with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
                    log.write(json.dumps(record) + "\n")
            if due:
                self._save(number)
        return record

    @property
    def _writes(self) -> bool:
        """Whether this process writes the files: one of those that train together does."""
        return self.columns is None or self.columns.is_first

    def _pass(self) -> dict[str, float]:
        self.model.train()
        sums: dict[str, Tensor] = {}
        for batch in self.sampler.epoch(self.sampler_rng):
            is_whole = len(batch.users) == self.config.batch_size  # the last of an epoch is mostly smaller
            update = self._captured if self._captured and is_whole else self._update
            for name, term in update(batch).items():
                sums[name] = sums.get(name, 0) + term
        totals = torch.stack(list(sums.values())).tolist()  # once an epoch: the host waits for a GPU here
        means = {name: total / self.sampler.n_batches for name, total in zip(sums, totals, strict=True)}
        self._demand(all(map(math.isfinite, means.values())), "the loss")
        return means

    def _update(self, batch: Batch) -> dict[str, Tensor]:
        """Update the parameters with a batch; return the terms of its loss, without gradients."""
        is_whole = len(batch.users) == self.config.batch_size
        terms = (self._compiled if self._compiled and is_whole else self._terms)(batch)
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        if self.columns is not None:
            self.columns.average_gradients(self.model.parameters())
        self.optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        return step(self.backbone, self.alignment, self.graph, batch, self.config.l2, self.model_rng)

    def _demand(self, finite: bool, what: str) -> None:
        if not finite:
            raise TrainingError(
                f"{what} is not finite after epoch {len(self.history.epochs) + 1}: "
                "lower learning_rate or the alignment's weight, or raise its temperature"
            )

    def _validate(self, record: dict[str, Any]) -> None:
        self.model.eval()
        start = time.perf_counter()
        users, items = _final(self.backbone, self.graph)
        # The last update of the epoch comes after the last loss that was checked.
        self._demand(bool(users.isfinite().all() & items.isfinite().all()), "an embedding")
        names = (MONITORED, "ndcg@20")
        values = [0.0 for _ in names]
        if self._writes and self.device_validation is not None:
            values = torch.stack(self.device_validation.metrics(users, items)).tolist()
        elif self._writes:
            scores = DotProduct(users.numpy(), items.numpy())
            ranking = evaluate(scores, self.dataset, k=(20,), split="valid", users=self.validation_users)
            metrics = ranking.metrics()
            values = [metrics[name] for name in names]
        if self.columns is not None:
            values = self.columns.from_first(values)
        record["seconds_evaluation"] = time.perf_counter() - start
        record["valid"] = dict(zip(names, values, strict=True))
        if values[0] > self.history.best:
            self.history.best, self.history.best_epoch = values[0], record["epoch"]
            self.best_parameters = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def restore_best(self) -> None:
        """Load the parameters of the best validation into the modules, where there was one."""
        if self.early_stopping:
            self.model.load_state_dict(self.best_parameters)
        self.model.eval()

    def _save(self, epoch: int) -> None:
        assert self.folder is not None
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best_parameters.items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{slot}": value for slot, value in slots.items()}
        tensors["model_rng"] = self.model_rng.get_state()
        if self.columns is not None:  # the file is that of one process: any number of them can go on from it
            tensors = {
                name: self.columns.gather(tensor) if self._is_split(name) else tensor
                for name, tensor in tensors.items()
            }
        if not self._writes:
            return
        state = {
            "identity": self.identity,
            "sampler_rng": self.sampler_rng.bit_generator.state,
            "best": self.history.best if self.early_stopping else 0.0,
            "best_epoch": self.history.best_epoch,
            "epochs": self.history.epochs,
        }
        checkpoint.save(self.folder, epoch, tensors, state)

    def _is_split(self, name: str) -> bool:
        """Whether a tensor of a checkpoint has the columns of the embeddings, of which each process has some."""
        assert self.columns is not None
        kind, _, rest = name.partition(".")
        if kind != "adam":
            return rest in self.columns.names
        place, _, slot = rest.partition(".")
        return slot != "step" and self._parameter_names[int(place)] in self.columns.names

    def resume(self) -> None:
        """Continue from the last checkpoint, if there is one."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        found = checkpoint.load(self.folder)
        if found is not None:
            tensors, state = found
            there = state.get("identity", {})
            if there != self.identity:
                changed = [key for key in self.identity if there.get(key) != self.identity[key]]
                raise OtherRunError(
                    f"{self.folder} holds a run with another {' and '.join(changed)}: "
                    "choose another --name, or start again with --overwrite"
                )
            streams = [len(state) for state in (tensors.get("model_rng", ()), self.model_rng.get_state())]
            if 0 < streams[0] != streams[1]:
                raise ConfigError(
                    f"the checkpoint in {self.folder} was trained on another kind of device than {self.graph.device}, "
                    "whose random numbers are others: continue with the --device that it began on, or start again "
                    "with --overwrite"
                )
            with damaged(self.folder / "checkpoint.json", "restart the run with --overwrite"):
                self._restore(tensors, state)
        if not self._writes:
            return
        # Epochs after the checkpoint are trained again: their lines are removed.
        lines = [json.dumps(record) + "\n" for record in self.history.epochs]
        write_text(self.folder / "metrics.jsonl", "".join(lines))

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take over the state of a checkpoint."""
        if self.columns is not None:
            own = self.columns.own
            tensors = {
                name: own(tensor).clone() if self._is_split(name) else tensor
                for name, tensor in tensors.items()
            }
        self.model.load_state_dict(_under("model.", tensors))
        device = self.graph.device
        self.best_parameters = {k: v.to(device) for k, v in _under("best.", tensors).items()}
        shapes = {name: tensor.shape for name, tensor in self.best_parameters.items()}
        expected = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        if self.early_stopping and state["best_epoch"] != -1 and shapes != expected:
            raise DataError("the best parameters are not those of the model")
        json.dumps(
            state, allow_nan=False
        )  # raises where a number is not finite, which could not be saved again
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("adam.", tensors).items():
            index, slot = name.split(".", 1)
            slots.setdefault(int(index), {})[slot] = tensor
        parameters = list(self.model.parameters())
        for place, moments in slots.items():  # Adam's compiled code checks no shape
            shape = parameters[place].shape if 0 <= place < len(parameters) else None
            if {name: tensor.shape for name, tensor in moments.items()} != {
                "step": torch.Size([]), "exp_avg": shape, "exp_avg_sq": shape
            }:  # fmt: skip
                raise DataError(f"the moments of parameter {place} have another shape")
        adam = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**adam, "state": slots})
        self.model_rng.set_state(tensors["model_rng"])
        self.sampler_rng.bit_generator.state = state["sampler_rng"]
        epochs = expect(state["epochs"], list, "epochs")
        best_epoch = expect(state["best_epoch"], int, "best_epoch")
        if not all(isinstance(epoch, dict) for epoch in epochs) or not -1 <= best_epoch < max(len(epochs), 1):
            raise DataError("its record of the epochs is damaged")
        best = float(expect(state["best"], (int, float), "the best metric"))
        self.history = History(best_epoch, best, epochs)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
