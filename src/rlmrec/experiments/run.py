"""Run: build the modules of a RunSpec, train, evaluate, and write what serving and comparison need."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import tomli_w

from rlmrec import __version__
from rlmrec.alignment import ALIGNMENTS
from rlmrec.backbones import BACKBONES
from rlmrec.closed_form.base import Texts, fitted, own_user_texts
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.evaluation.ranking import DotProduct, Ranking, Scorer, evaluate
from rlmrec.experiments.spec import RunSpec
from rlmrec.files import atomic_file, read_json, write_json, write_text
from rlmrec.machine import available_cores, load_average
from rlmrec.models import MODELS, is_closed_form
from rlmrec.recommend.recommender import Recommender
from rlmrec.shards import Shards
from rlmrec.text import NO_TEXT_EMBEDDINGS
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.workspace import set_aside

if TYPE_CHECKING:
    from torch import Tensor

    from rlmrec.alignment import Alignment
    from rlmrec.backbones import Backbone
    from rlmrec.backbones.base import BackboneConfig

K = (5, 10, 20)
SEMANTIC_ONLY = "semantic-only"  # in the place of a backbone's name


@dataclass(frozen=True, eq=False)
class InitialEmbeddings:
    """Initial embeddings that a run starts from instead of random ones (pre-training, Table 3).

    Args:
        users: (U, d).
        items: (I, d).
        dataset: fingerprint of the dataset that they were learned on, if it is known.
        is_final: whether they were learned on everything, held-out interactions too.
    """

    users: Tensor
    items: Tensor
    dataset: str | None = None
    is_final: bool = False

    @classmethod
    def of(cls, folder: Path) -> InitialEmbeddings:
        """Read the initial embeddings that a finished run has learned.

        Raises:
            WorkspaceError: the folder has no finished run with a model.
            ConfigError: its backbone keeps them elsewhere, as a wrapped model does.
        """
        from safetensors.torch import load_file

        path = folder / "model.safetensors"
        if not (folder / "metrics.json").exists() or not path.exists():
            raise WorkspaceError(f"{folder} holds no finished training run to start from")
        state = load_file(path)
        try:
            data = read_config(folder).get("data", {})
            tables = state["backbone.user_embedding"], state["backbone.item_embedding"]
            return cls(*tables, data.get("dataset"), bool(data.get("final")))
        except KeyError:
            raise ConfigError(
                f"the backbone of {folder} has no parameters user_embedding and item_embedding"
            ) from None

    @cached_property
    def digest(self) -> str:
        """Hash of the embeddings: a run records what it started from."""
        return hashlib.sha256(self.users.numpy().tobytes() + self.items.numpy().tobytes()).hexdigest()[:16]

    def put_into(self, backbone: Backbone, dataset: Dataset) -> None:
        """Replace the backbone's initial embeddings; users and items that were appended since keep their own.

        Raises:
            ConfigError: it has none, or they have another shape, or fewer rows although nothing was appended.
        """
        import torch

        grown = dataset.descends_from(self.dataset) and self.dataset != dataset.fingerprint
        parameters = dict(backbone.named_parameters())
        for name, table in (("user_embedding", self.users), ("item_embedding", self.items)):
            shape = tuple(parameters[name].shape) if name in parameters else None
            fits = shape is not None and shape[1:] == tuple(table.shape[1:]) and shape[0] >= len(table)
            if shape != tuple(table.shape) and not (grown and fits):
                raise ConfigError(
                    f"cannot start from {name} of {tuple(table.shape)}: the backbone's is {shape or 'absent'}; "
                    "take a run with the same users, items and embedding_size"
                )
        with torch.no_grad():
            parameters["user_embedding"][: len(self.users)] = self.users
            parameters["item_embedding"][: len(self.items)] = self.items


def build(
    spec: RunSpec, dataset: Dataset, text_embeddings: TextEmbeddings | None
) -> tuple[Backbone, Alignment]:
    """Make the modules of a run, freshly initialised from its seed.

    Raises:
        ConfigError: the alignment or the backbone needs text vectors and there are none, or a class of the
            user's own takes other arguments.
    """
    import torch

    backbone_kind, alignment_kind = BACKBONES.resolve(spec.backbone), ALIGNMENTS.resolve(spec.alignment)
    for part, name, kind in (
        ("alignment", spec.alignment, alignment_kind),
        ("backbone", spec.backbone, backbone_kind),
    ):
        if text_embeddings is None and kind.needs_text:
            raise ConfigError(f"{part} {name!r} needs text vectors: run 'rlmrec encode' first")
    with torch.random.fork_rng():  # the caller's random numbers stay as they were
        torch.manual_seed(spec.seed)
        backbone = backbone_kind.create(
            dataset.n_users, dataset.n_items, cast("BackboneConfig", spec.backbone_config), text_embeddings
        )
        more = [dataset] if alignment_kind.needs_dataset else []
        return backbone, alignment_kind.create(text_embeddings, backbone, spec.alignment_config, *more)


def run(
    spec: RunSpec,
    dataset: Dataset,
    text_embeddings: TextEmbeddings | None,
    folder: Path,
    *,
    start: InitialEmbeddings | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    text_embeddings_name: str | None = None,
    on_start: Callable[[], object] | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    final: bool = False,
    baseline: bool = False,
    keep_checkpoint: bool = False,
) -> dict[str, Any]:
    """Train, restore the best epoch, evaluate on validation and test, and write the run's folder.

    Where several processes train together (``rlmrec.columns``), the first one writes; the others return nothing.

    ``config.toml`` is written first and identifies the run: a run that was killed continues where it stopped, the
    metrics of a finished one are returned without training, and neither is mixed with a run of other options.

    Args:
        spec: the run.
        dataset: the dataset.
        text_embeddings: text vectors; None when nothing needs them.
        folder: the run's folder.
        start: initial embeddings to start from; None for random ones.
        device: "cpu", "cuda" or "mps"; a closed form is computed on the CPU.
        overwrite: start again even if the folder holds a run.
        text_embeddings_name: name of the vectors in their workspace, for the record; their hash identifies them.
        on_start: called when all is checked and training begins; not for a run that has finished before.
        on_epoch: called with each epoch's record.
        final: train on everything, held-out interactions too, for exactly the epochs of ``spec``; then nothing is
            evaluated, and both metrics are None.
        baseline: nobody asked for this run by name; it is recorded, so that it may be fitted again on other data.
        keep_checkpoint: leave the last checkpoint in the folder, so that a run with more patience can go on from it.

    Returns:
        the content of ``metrics.json``; empty in a process that is not the first.

    Raises:
        ConfigError: the folder holds a run with other options, or this one cannot be trained.
    """
    if start is not None and spec.training.initial_embeddings != "random":
        raise ConfigError(
            "this run starts from the embeddings of another run: leave out initial_embeddings=spectral"
        )
    if start is not None and start.is_final and not final:
        raise ConfigError(
            "this run starts from one that was trained on everything (--final), so it would be tested on what it was "
            "trained on: start from the run whose options that one took"
        )
    config = run_config(spec, dataset, text_embeddings, start, final)
    if kept := _kept(folder, config, overwrite):
        return kept
    is_named = text_embeddings is not None or text_embeddings_name == NO_TEXT_EMBEDDINGS
    if is_named and spec.reads_text and text_embeddings_name is not None:
        config["names"] = {"semantics": text_embeddings_name}  # a part of its own: it identifies nothing
    if baseline:
        config.setdefault("names", {})["baseline"] = True
    if final:
        whole = dataset.final()
        if text_embeddings is not None:
            own = own_user_texts(text_embeddings.check(dataset), dataset)
            if (text_embeddings.has_user & ~own).any():  # else users without a text were to have no vector
                text_embeddings = text_embeddings.mapped(lambda raw: raw.with_means_over(whole.train, ~own))
        dataset = whole
    if spec.is_closed_form:
        if start is not None:
            raise ConfigError(f"{spec.backbone} is computed, not trained: it starts from no other run")
        if device != "cpu":  # it is not used, but a wrong one is a mistake here as elsewhere
            from rlmrec.batch import available_device

            available_device(device)
        if on_start is not None:
            on_start()
        return _fit(spec, dataset, text_embeddings if spec.reads_text else None, folder, config)
    # PyTorch is imported here, so that a closed form is fitted without it.
    from safetensors.torch import save_file

    from rlmrec.columns import Columns
    from rlmrec.training import checkpoint
    from rlmrec.training.trainer import check_options, check_trainable, train

    backbone, alignment = build(spec, dataset, text_embeddings)
    if start is not None:
        start.put_into(backbone, dataset)
    check_options(backbone, spec.training, check_trainable(dataset, device, early_stopping=not final))
    columns = Columns.current()
    if columns is not None and not columns.is_first:
        train(
            backbone, alignment, dataset, spec.training,
            seed=spec.seed, device=device, folder=folder, progress=False, early_stopping=not final,
        )  # fmt: skip
        return {}
    if not overwrite:  # the run goes on that a killed process has begun to overwrite
        shutil.rmtree(set_aside(folder), ignore_errors=True)
    with _replaced(folder) if overwrite else nullcontext():  # only now, when the new run is known to start
        write_text(folder / "config.toml", tomli_w.dumps(config))
        if on_start is not None:
            on_start()
        trained = train(
            backbone, alignment, dataset, spec.training,
            seed=spec.seed, device=device, folder=folder, on_epoch=on_epoch, progress=False,
            early_stopping=not final,
        )  # fmt: skip
        with atomic_file(folder / "model.safetensors") as temporary:
            state = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
            state |= {f"alignment.{k}": v for k, v in alignment.state_dict().items()}
            save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, temporary)
        Recommender.of(
            dataset,
            trained.users,
            trained.items,
            {"config": config},
            trained.item_messages,
            trained.self_loops,
        ).save(folder / "recommender")
        results = evaluate_scores(DotProduct(trained.users, trained.items), dataset, folder)
        metrics = {
            **results,
            "best_epoch": trained.best_epoch,
            "epochs": len(trained.epochs),
            "seconds_per_epoch": trained.seconds_per_epoch,
            "seconds_evaluation": trained.seconds_evaluation,
            **({"chosen": alignment.chosen} if alignment.chosen else {}),
            "environment": environment(device),
            "config": config,
        }
        write_json(folder / "metrics.json", metrics)  # last: its presence says that the run has ended
    if not keep_checkpoint:
        checkpoint.remove(folder)
    return metrics


@contextmanager
def _replaced(folder: Path) -> Iterator[None]:
    """Set the run in a folder aside while another is written there; put it back if that fails, as on a full disk.

    Somebody who interrupts the new run keeps that one: it goes on when the command is repeated.
    """
    aside = set_aside(folder)
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed
    if folder.exists():
        folder.rename(aside)
    try:
        yield
    except Exception:
        if aside.exists():
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _fit(
    spec: RunSpec,
    dataset: Dataset,
    text_embeddings: TextEmbeddings | None,
    folder: Path,
    config: dict[str, Any],
) -> dict[str, Any]:
    """Fit a closed form, evaluate it and write the run's folder; return the content of ``metrics.json``."""
    kind = MODELS.resolve(spec.backbone)
    assert is_closed_form(kind)
    if text_embeddings is not None and text_embeddings.unwhitened is not None:
        text_embeddings = text_embeddings.unwhitened  # a closed form whitens by itself, each side apart
    texts = None if text_embeddings is None else Texts.of(text_embeddings, dataset)
    start = time.perf_counter()
    shards = Shards.current()
    if shards.count > 1 and kind.has_shards:
        model = fitted(kind, dataset, texts, spec.backbone_config, spec.seed, shards=shards)
        if not shards.is_first:
            return {}
    else:
        model = fitted(kind, dataset, texts, spec.backbone_config, spec.seed)
    seconds = time.perf_counter() - start
    manifest: dict[str, Any] = {}
    user_texts = None
    if text_embeddings is not None and texts is not None and model.rule.reads_texts:
        manifest["texts"] = {
            "encoder": text_embeddings.manifest.get("encoder", "unknown"),
            "made_by": text_embeddings.manifest.get("made_by"),
            "text_size": text_embeddings.size,
        }
        if texts.users is not None and texts.has_user is not None:
            user_texts = np.where(texts.has_user[:, None], texts.users, np.float32(0))
    record = json.loads(json.dumps(model.record, default=float))
    recommender = Recommender.of_model(dataset, model, manifest, user_texts)
    return _write_untrained(folder, config, dataset, recommender, seconds=seconds, fit=record)


def _without_none(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without the options left open, for which TOML has no value."""
    return {
        part: {name: value for name, value in options.items() if value is not None}
        for part, options in config.items()
    }


def run_config(
    spec: RunSpec,
    dataset: Dataset,
    text_embeddings: TextEmbeddings | None,
    start: InitialEmbeddings | None = None,
    final: bool = False,
) -> dict[str, Any]:
    """Return all that a run's numbers depend on: the content of ``config.toml`` without names for people."""
    data: dict[str, Any] = {"dataset": dataset.fingerprint}
    if text_embeddings is not None and spec.reads_text:
        data["texts"] = text_embeddings.digest
    if start is not None:
        data["start"] = start.digest
    if final:
        data["final"] = True
    return {**spec.as_dict(), "data": data}


def run_semantic_only(
    dataset: Dataset, text_embeddings: TextEmbeddings, folder: Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Evaluate "semantic embeddings only" (Table 1) as a run: cosines of text vectors, nothing is trained.

    The folder has the files of any run except a model and the records of training.

    Args:
        dataset: the dataset.
        text_embeddings: the text vectors.
        folder: the run's folder.
        overwrite: start again even if the folder holds a run.

    Returns:
        the content of ``metrics.json``.

    Raises:
        ConfigError: the folder holds another run.
    """
    config = {
        "run": {"backbone": SEMANTIC_ONLY, "alignment": "none", "seed": 0},
        "data": {"dataset": dataset.fingerprint, "texts": text_embeddings.digest},
    }
    if kept := _kept(folder, config, overwrite):
        return kept
    scores = DotProduct.cosine(text_embeddings.users, text_embeddings.items)
    return _write_untrained(folder, config, dataset, Recommender.of(dataset, scores.users, scores.items))


def _kept(folder: Path, config: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """Return the metrics of a finished run with this configuration in a folder; None if there is none."""
    if overwrite:
        return None
    _refuse_other_run(folder, config)
    if not (folder / "metrics.json").exists():
        return None
    metrics: dict[str, Any] = read_json(folder / "metrics.json")
    return metrics


def _write_untrained(
    folder: Path, config: dict[str, Any], dataset: Dataset, recommender: Recommender, **more: Any
) -> dict[str, Any]:
    """Write the folder of a run without training; return its ``metrics.json``, which ``more`` is added to."""
    with _replaced(folder):
        write_text(folder / "config.toml", tomli_w.dumps(_without_none(config)))
        recommender.manifest["config"] = config
        recommender.save(folder / "recommender")
        start = time.perf_counter()
        results = evaluate_scores(recommender.scorer(), dataset, folder)
        metrics = {
            **results,
            "best_epoch": None,
            "epochs": 0,
            "seconds_per_epoch": 0.0,
            "seconds_evaluation": time.perf_counter() - start,
            **more,
            "environment": environment(None),
            "config": config,
        }
        write_json(folder / "metrics.json", metrics)
    return metrics


def environment(device: str | None) -> dict[str, Any]:
    """Describe what a run's numbers were computed with: device, threads, versions.

    Args:
        device: of PyTorch; None for a run without PyTorch.
    """
    used: dict[str, Any] = {"device": "cpu", "threads": available_cores()}
    if device is not None:
        import torch

        used = {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}
    load = load_average()  # this run included: what else was going on
    return {
        **used,
        "rlmrec": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        **({} if load is None else {"load": load}),
    }


def _refuse_other_run(folder: Path, config: dict[str, Any]) -> None:
    if not (folder / "config.toml").exists():
        return
    differences = _differences(read_config(folder), config)
    if differences:
        raise ConfigError(
            f"{folder} holds another run ({'; '.join(differences)}): choose another --name, or --overwrite"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """Read a run's ``config.toml``.

    Raises:
        WorkspaceError: it is not TOML.
    """
    try:
        return tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WorkspaceError(f"{folder / 'config.toml'} is damaged: {error}; --overwrite the run") from None


# Names for people: the texts' hash and the class's path identify what they stand for.
_NAMES = {("data", "semantics"), ("run", "alignment_label"), ("run", "backbone_label")}


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Describe the options in which two configurations differ; names for people do not count."""
    return [
        f"{name} is {there.get(part, {}).get(name, 'not set')} there and {options.get(name, 'not set')} here"
        for part, options in here.items()
        for name in {**options, **there.get(part, {})}
        if there.get(part, {}).get(name) != options.get(name) and (part, name) not in _NAMES
    ]


def reuse_finished_run(folder: Path, runs: Path, config: Mapping[str, Any]) -> str | None:
    """Copy a finished run with this configuration into a folder, instead of training it again.

    Every option must be recorded and equal: a run of a version without one of the options is not copied, because
    its behaviour then is not known. The copy's ``metrics.json`` has "taken_from".

    Args:
        folder: where the copy goes; the files of an unfinished run there are replaced.
        runs: a folder of runs.
        config: the result of ``run_config``.

    Returns:
        the name of the copied run, or None.
    """
    for path in sorted(runs.glob("[!.]*/metrics.json")):
        found = path.parent
        if not (found / "config.toml").exists() or _differences(read_config(found), config):
            continue
        with TemporaryDirectory(dir=folder.parent, prefix=".taken-") as temporary:
            copy = shutil.copytree(found, Path(temporary) / found.name)
            write_json(copy / "metrics.json", {**read_json(path), "taken_from": found.name})
            shutil.rmtree(folder, ignore_errors=True)
            copy.rename(folder)
        return found.name
    return None


def evaluate_scores(scores: Scorer, dataset: Dataset, folder: Path | None = None) -> dict[str, Any]:
    """Compute test and validation metrics of final scores; with a folder, the per-user values are written there."""
    results: dict[str, Any] = {}
    for split in ("test", "valid"):
        if not len(dataset.split(split)):
            results[split] = None
            continue
        ranking: Ranking = evaluate(scores, dataset, k=K, split=split)
        results[split] = ranking.metrics()
        if folder is not None:
            ranking.save(folder / f"{split}.parquet")
    return results
