"""The trainer: Adam, early stopping on validation, checkpoints. One for all backbones and alignments."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from rlmrec.alignment.base import Alignment
from rlmrec.backbones.base import Backbone
from rlmrec.config import Config
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, RlmrecError
from rlmrec.evaluation.ranking import DotProduct, evaluate
from rlmrec.files import write_text
from rlmrec.graph import Graph
from rlmrec.training import checkpoint
from rlmrec.training.onednn import exact_products_by_onednn
from rlmrec.training.sampler import Sampler
from rlmrec.training.step import step
from rlmrec.types import Float32Array

MONITORED = "recall@20"


class TrainConfig(Config):
    """Options of training; the defaults are the paper's (Section 4.1.4)."""

    learning_rate: float = Field(1e-3, gt=0, description="of Adam")
    batch_size: int = Field(4096, ge=1, description="B")
    l2: float = Field(1e-6, ge=0, description="λ, weight of ||Θ||²")
    epochs: int = Field(1000, ge=1, description="at most this many; early stopping usually ends before")
    evaluate_every: int = Field(3, ge=1, description="epochs between validations")
    patience: int = Field(5, ge=1, description="validations in a row without a new best before stopping")


class TrainingError(RlmrecError):
    """Training cannot go on: the loss or an embedding is not a number any more."""


@dataclass
class History:
    """What happened in training.

    best_epoch: the epoch whose parameters the model has now.
    best: validation Recall@20 at that epoch.
    epochs: one record per epoch: number, seconds, loss terms and, every third, validation metrics.
    """

    best_epoch: int = -1
    best: float = -math.inf
    epochs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds_per_epoch(self) -> float:
        """Median, evaluation and checkpoints not counted."""
        return float(np.median([record["seconds"] for record in self.epochs]))

    @property
    def seconds_evaluation(self) -> float:
        """Median time of one validation."""
        times = [record["seconds_evaluation"] for record in self.epochs if "valid" in record]
        return float(np.median(times))


def train(
    backbone: Backbone,
    alignment: Alignment,
    dataset: Dataset,
    config: TrainConfig | None = None,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> History:
    """Train in place; afterwards both modules have the parameters of the best validation.

    Validation Recall@20 is measured after epoch 0 and every ``evaluate_every`` epochs; training stops after
    ``patience`` validations in a row without a new best. The same seed gives the same numbers on one machine.

    Args:
        backbone: R.
        alignment: L_info; ``Alignment()`` for none.
        dataset: its training split is learned from, its validation split stops training.
        config: options.
        seed: of the shuffling, the negatives, and the noise of models. The modules come initialised: seed
            PyTorch before you make them, if their start shall repeat too.
        device: "cpu", "cuda" or "mps".
        folder: where ``metrics.jsonl`` and a checkpoint after every validation go. A run that was killed
            goes on from there when called again with the same arguments, on the CPU bit for bit.
        on_epoch: told each epoch's record.

    Raises:
        ConfigError: there is nothing to validate on, the device is not there, or the checkpoint is of
            another run.
        TrainingError: the loss or an embedding became infinite or not a number.

    Source: Ren et al., WWW 2024, Algorithms 1 and 2.
    """
    config = config or TrainConfig()
    run = _Run(backbone, alignment, dataset, config, seed, check_trainable(dataset, device), folder)
    run.resume()
    with exact_products_by_onednn():
        while not run.finished:
            record = run.epoch()
            if on_epoch:
                on_epoch(record)
    run.restore_best()
    return run.history


@torch.no_grad()
def embeddings(
    backbone: Backbone, dataset: Dataset, graph: Graph | None = None
) -> tuple[Float32Array, Float32Array]:
    """The final embeddings of users (U, d') and items (I, d') as float32 arrays: all that serving needs.

    Args:
        backbone: a trained backbone.
        dataset: whose training interactions make the graph.
        graph: that graph, if it is at hand.
    """
    x = backbone.initial()
    if graph is None:
        graph = Graph.from_interactions(dataset.train, backbone.self_loops, x.dtype, x.device)
    users, items = backbone.encode(x, graph)
    return users.float().cpu().numpy(), items.float().cpu().numpy()


@torch.no_grad()
def item_messages(backbone: Backbone, dataset: Dataset) -> Float32Array | None:
    """float32[I, d']: what each item hands to its users in the last step, for ``Recommender.item_messages``.

    n_v = m_v / √d_v of the backbone's ``last_layer_messages`` m, so that e_u = own_u + Σ n_v / √d_u; None when the
    backbone has no such step, or when a subclass has its own ``encode`` and says nothing of its messages.
    """
    if not issubclass(_home(backbone, "last_layer_messages"), _home(backbone, "encode")):
        return None
    x = backbone.initial()
    graph = Graph.from_interactions(dataset.train, backbone.self_loops, x.dtype, x.device)
    last_layer_messages = backbone.last_layer_messages(x, graph)
    if last_layer_messages is None:
        return None
    degrees = dataset.train.item_degrees() + int(backbone.self_loops)
    scale = np.sqrt(np.maximum(degrees, 1)).astype(np.float32)[:, None]
    sent = graph.split(last_layer_messages)[1].float().cpu().numpy()
    handed: Float32Array = np.where(degrees[:, None] > 0, sent / scale, 0).astype(np.float32)
    return handed


def _home(backbone: Backbone, method: str) -> type:
    """The class that defines the method that this backbone has."""
    return next(kind for kind in type(backbone).__mro__ if method in vars(kind))


def check_trainable(dataset: Dataset, device: torch.device | str) -> torch.device:
    """What must hold before anything is trained or replaced; returns the device.

    Raises:
        ConfigError: there is nothing to validate on, or this machine does not have the device.
    """
    if not len(dataset.valid):
        raise ConfigError(
            "the validation split is empty, so training cannot be stopped: split with e.g. 3:1:1"
        )
    present = ["cpu"]
    present += ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError):  # PyTorch's ways of saying no
        found = None
    if found is None or found.type not in present:
        raise ConfigError(
            f"device {str(device)!r} is not available here: expected one of {', '.join(present)}"
        )
    return found


def _options(module: nn.Module) -> dict[str, Any]:
    config = getattr(module, "config", None)
    return {"class": type(module).__qualname__, **(config.model_dump() if isinstance(config, Config) else {})}


class _Run:
    """The state of one training run; everything in it is in a checkpoint or derived from the arguments."""

    def __init__(
        self,
        backbone: Backbone,
        alignment: Alignment,
        dataset: Dataset,
        config: TrainConfig,
        seed: int,
        device: torch.device,
        folder: Path | None,
    ) -> None:
        self.backbone, self.alignment = backbone, alignment
        self.model = nn.ModuleDict({"backbone": backbone, "alignment": alignment}).to(device)
        self.dataset, self.config, self.folder = dataset, config, folder
        dtype = next(backbone.parameters()).dtype
        self.graph = Graph.from_interactions(dataset.train, backbone.self_loops, dtype, device)
        self.sampler = Sampler(dataset.train, config.batch_size, device, dataset.users)
        # Two streams from one seed: the sampler's draws do not move when a model draws more or fewer.
        sampler_seed, model_seed = np.random.SeedSequence(seed).spawn(2)
        self.sampler_rng = np.random.default_rng(sampler_seed)
        self.model_rng = torch.Generator(device).manual_seed(
            int(model_seed.generate_state(1, np.uint64)[0] >> 1)
        )
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.learning_rate, fused=device.type in ("cpu", "cuda")
        )
        self.history = History()
        self.best_parameters: dict[str, Tensor] = {}
        self.identity = {
            "config": config.model_dump(),
            "seed": seed,
            "dataset": dataset.fingerprint,
            "backbone": _options(backbone),
            "alignment": _options(alignment),
            "texts": getattr(alignment, "text_digest", None) or getattr(backbone, "text_digest", None),
            "model": {name: list(tensor.shape) for name, tensor in self.model.state_dict().items()},
        }

    @property
    def finished(self) -> bool:
        """Out of epochs or out of patience."""
        done = len(self.history.epochs)
        stale = sum("valid" in record for record in self.history.epochs[self.history.best_epoch + 1 :])
        return done >= self.config.epochs or (self.history.best_epoch >= 0 and stale >= self.config.patience)

    def epoch(self) -> dict[str, Any]:
        """Train one epoch; validate and save when it is due."""
        number = len(self.history.epochs)
        start = time.perf_counter()
        terms = self._pass()
        record: dict[str, Any] = {"epoch": number, "seconds": time.perf_counter() - start, "loss": terms}
        due = number % self.config.evaluate_every == 0 or number == self.config.epochs - 1
        if due:
            self._validate(record)
        record["best"] = {"epoch": self.history.best_epoch, MONITORED: self.history.best}
        self.history.epochs.append(record)
        if self.folder:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(record) + "\n")
            if due:
                self._save(number)
        return record

    def _pass(self) -> dict[str, float]:
        self.model.train()
        sums: dict[str, Tensor] = {}
        for batch in self.sampler.epoch(self.sampler_rng):
            terms = step(self.backbone, self.alignment, self.graph, batch, self.config.l2, self.model_rng)
            self.optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach()
        means = {name: float(total) / self.sampler.n_batches for name, total in sums.items()}
        self._demand(all(map(math.isfinite, means.values())), "the loss")
        return means

    def _demand(self, finite: bool, what: str) -> None:
        if not finite:
            raise TrainingError(
                f"{what} is not finite after epoch {len(self.history.epochs)}: "
                "lower learning_rate or the alignment's weight, or raise its temperature"
            )

    def _validate(self, record: dict[str, Any]) -> None:
        self.model.eval()
        start = time.perf_counter()
        users, items = embeddings(self.backbone, self.dataset, self.graph)
        # An update comes after the last loss that was looked at.
        self._demand(bool(np.isfinite(users).all() and np.isfinite(items).all()), "an embedding")
        metrics = evaluate(DotProduct(users, items), self.dataset, k=(20,), split="valid").metrics()
        record["seconds_evaluation"] = time.perf_counter() - start
        record["valid"] = {name: metrics[name] for name in (MONITORED, "ndcg@20")}
        if metrics[MONITORED] > self.history.best:
            self.history.best, self.history.best_epoch = metrics[MONITORED], record["epoch"]
            self.best_parameters = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def restore_best(self) -> None:
        """Give the modules the parameters of the best validation."""
        self.model.load_state_dict(self.best_parameters)
        self.model.eval()

    def _save(self, epoch: int) -> None:
        assert self.folder is not None
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best_parameters.items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{slot}": value for slot, value in slots.items()}
        tensors["model_rng"] = self.model_rng.get_state()
        state = {
            "identity": self.identity,
            "sampler_rng": self.sampler_rng.bit_generator.state,
            "best": self.history.best,
            "best_epoch": self.history.best_epoch,
            "epochs": self.history.epochs,
        }
        checkpoint.save(self.folder, epoch, tensors, state)

    def resume(self) -> None:
        """Take up the last checkpoint, if there is one."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        found = checkpoint.load(self.folder)
        if found is not None:
            tensors, state = found
            there = state.get("identity", {})
            if there != self.identity:
                changed = [key for key in self.identity if there.get(key) != self.identity[key]]
                raise ConfigError(
                    f"{self.folder} holds a run with another {' and '.join(changed)}: "
                    "choose another --name, or start it anew with --overwrite"
                )
            self.model.load_state_dict(_under("model.", tensors))
            device = self.graph.values.device
            self.best_parameters = {k: v.to(device) for k, v in _under("best.", tensors).items()}
            slots: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _under("adam.", tensors).items():
                index, slot = name.split(".", 1)
                slots.setdefault(int(index), {})[slot] = tensor
            adam = self.optimizer.state_dict()
            self.optimizer.load_state_dict({**adam, "state": slots})
            self.model_rng.set_state(tensors["model_rng"])
            self.sampler_rng.bit_generator.state = state["sampler_rng"]
            self.history = History(state["best_epoch"], state["best"], state["epochs"])
        # Epochs after the checkpoint are trained again: their lines go.
        lines = [json.dumps(record) + "\n" for record in self.history.epochs]
        write_text(self.folder / "metrics.jsonl", "".join(lines))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
