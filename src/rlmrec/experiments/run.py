"""One run: build what a RunSpec says, train it, evaluate it, keep what serving and comparison need."""

from __future__ import annotations

import platform
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tomli_w
import torch
from safetensors.torch import save_file

from rlmrec.alignment import Alignment, Contrastive, Generative
from rlmrec.backbones import Backbone
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.evaluation.ranking import DotProduct, Ranking, evaluate
from rlmrec.experiments.spec import RunSpec, alignment_class, backbone_class
from rlmrec.files import atomic_file, read_json, write_json, write_text
from rlmrec.serving.recommender import Recommender
from rlmrec.text.semantics import Semantics
from rlmrec.training import checkpoint
from rlmrec.training.trainer import check_trainable, embeddings, neighbours, train

K = (5, 10, 20)


def build(spec: RunSpec, dataset: Dataset, semantics: Semantics | None) -> tuple[Backbone, Alignment]:
    """The modules of a run, freshly initialised from its seed.

    Raises:
        ConfigError: the alignment or the backbone needs text vectors and there are none.
    """
    if semantics is None and spec.needs_text:
        what = f"backbone {spec.backbone!r}" if spec.alignment == "none" else f"alignment {spec.alignment!r}"
        raise ConfigError(f"{what} needs text vectors: run 'rlmrec encode' first")
    backbone_kind, kind = backbone_class(spec.backbone), alignment_class(spec.alignment)
    # The spec made each configuration from the class's own Config.
    backbone_config: Any = spec.backbone_config
    alignment_config: Any = spec.alignment_config
    with torch.random.fork_rng():  # the caller's random numbers stay as they were
        torch.manual_seed(spec.seed)
        text: Any = {"semantics": semantics} if backbone_kind.needs_text else {}
        backbone = backbone_kind(dataset.n_users, dataset.n_items, backbone_config, **text)
        if semantics is None or kind is Alignment:
            return backbone, Alignment()
        if kind is Generative:
            size = backbone.initial().shape[1]
            return backbone, Generative(semantics, backbone.output_size, size, alignment_config)
        return backbone, Contrastive(semantics, backbone.output_size, alignment_config)


def run(
    spec: RunSpec,
    dataset: Dataset,
    semantics: Semantics | None,
    folder: Path,
    *,
    device: str = "cpu",
    overwrite: bool = False,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train, restore the best, evaluate on validation and test, and write the run's folder.

    ``config.toml`` is written first and says what the folder is for: a run that was killed goes on where it
    was, one that has ended is not repeated and its metrics come back, and neither is mixed with other options.

    Args:
        spec: what to run.
        dataset: on what.
        semantics: text vectors; None when nothing needs them.
        folder: the run's folder.
        device: "cpu", "cuda" or "mps".
        overwrite: start anew even if the folder holds a run.
        on_epoch: told each epoch's record.

    Returns:
        what ``metrics.json`` holds.

    Raises:
        ConfigError: the folder holds a run with other options, or this one cannot be trained.
    """
    config = {**spec.as_dict(), "data": {"dataset": dataset.fingerprint}}
    if semantics is not None and spec.needs_text:
        config["data"]["texts"] = semantics.digest
    if not overwrite:
        _refuse_other_run(folder, config)
        if (folder / "metrics.json").exists():
            metrics: dict[str, Any] = read_json(folder / "metrics.json")
            return metrics
    backbone, alignment = build(spec, dataset, semantics)
    check_trainable(dataset, device)
    if overwrite:  # only now, when the new run is known to start
        shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / "config.toml", tomli_w.dumps(config))
    history = train(
        backbone, alignment, dataset, spec.training,
        seed=spec.seed, device=device, folder=folder, on_epoch=on_epoch,
    )  # fmt: skip
    with atomic_file(folder / "model.safetensors") as temporary:
        state = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
        state |= {f"alignment.{k}": v for k, v in alignment.state_dict().items()}
        save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, temporary)
    users, items = embeddings(backbone, dataset)
    Recommender.of(
        dataset, users, items, {"config": config}, neighbours(backbone, dataset), backbone.self_loops
    ).save(folder / "recommender")
    results = evaluate_embeddings(users, items, dataset, folder)
    metrics = {
        **results,
        "best_epoch": history.best_epoch,
        "epochs": len(history.epochs),
        "seconds_per_epoch": history.seconds_per_epoch,
        "seconds_evaluation": history.seconds_evaluation,
        "environment": {
            "device": device,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
        "config": config,
    }
    write_json(folder / "metrics.json", metrics)  # last: its presence says that the run has ended
    checkpoint.remove(folder)
    return metrics


def _refuse_other_run(folder: Path, config: dict[str, Any]) -> None:
    if not (folder / "config.toml").exists():
        return
    try:
        there = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WorkspaceError(f"{folder / 'config.toml'} is damaged: {error}; --overwrite the run") from None
    differences = [
        f"{name} is {there.get(part, {}).get(name, 'not set')} there and {value} here"
        for part, options in config.items()
        for name, value in options.items()
        if there.get(part, {}).get(name) != value
    ]
    if differences:
        raise ConfigError(
            f"{folder} holds another run ({'; '.join(differences)}): choose another --name, or --overwrite"
        )


def evaluate_embeddings(
    users: Any, items: Any, dataset: Dataset, folder: Path | None = None
) -> dict[str, Any]:
    """Test and validation metrics of final embeddings; with a folder, the per-user values are kept there."""
    results: dict[str, Any] = {}
    for split in ("test", "valid"):
        if not len(dataset.split(split)):
            results[split] = None
            continue
        ranking: Ranking = evaluate(DotProduct(users, items), dataset, k=K, split=split)
        results[split] = ranking.metrics()
        if folder is not None:
            ranking.save(folder / f"{split}.parquet")
    return results
