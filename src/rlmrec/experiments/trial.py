"""Trial: one training run of a sweep or an experiment, as data that says everything its numbers depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.split import split_by_ratio, split_by_time
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError, DataError
from rlmrec.experiments.run import (
    SEMANTIC_ONLY,
    InitialEmbeddings,
    reuse_finished_run,
    run,
    run_config,
    run_semantic_only,
)
from rlmrec.experiments.spec import RunSpec
from rlmrec.files import locked, write_json
from rlmrec.text.embeddings import TextEmbeddings, mean_over_training
from rlmrec.training.trainer import MONITORED
from rlmrec.workspace import DEFAULT_TEXT_EMBEDDINGS, Workspace

# A period is a part of the history, and how it was cut: at one moment, or within each user's own history.
PERIODS = ("", "earlier", "later", "earlier, by user", "later, by user")
EARLIER_SHARE = 0.5


@dataclass(frozen=True)
class Trial:
    """What is trained on what. Two trials with the same ``id`` give the same numbers and are run once.

    Args:
        spec: backbone, alignment and options, fully resolved; None stands for the text vectors alone.
        dataset: fingerprint of the workspace's dataset.
        texts: digest of the text vectors, before any shuffling; None where nothing reads them.
        semantics: their name in the workspace; None likewise.
        shuffle: whose vectors are given to the wrong nodes: "none", "users", "items" or "both".
        noise: interactions that do not exist, added to training, relative to its size.
        period: one of ``PERIODS``; "" is the whole dataset.
        start: the trial whose learned embeddings it starts from; None for random ones.
        timing: device and threads, in words, where the seconds of an epoch are what is measured, else "".

    The seed of ``spec`` is that of the shuffling and of the noise too.

    Raises:
        ConfigError: an unknown period.
    """

    spec: RunSpec | None
    dataset: str
    texts: str | None = None
    text_embeddings: str | None = None
    shuffle: str = "none"
    noise: float = 0.0
    period: str = ""
    start: Trial | None = None
    timing: str = ""

    def __post_init__(self) -> None:
        if self.period not in PERIODS:
            raise ConfigError(f"unknown period {self.period!r}: expected one of {', '.join(PERIODS[1:])}")

    @property
    def seed(self) -> int:
        """Of initialisation, training, shuffling and noise."""
        return 0 if self.spec is None else self.spec.seed

    @property
    def label(self) -> str:
        """For people: ``name`` and the seed."""
        return self.name if self.spec is None else f"{self.name}, seed {self.seed}"

    @property
    def name(self) -> str:
        """For people: backbone, alignment, and what else is not as usual; that of all its seeds."""
        if self.spec is None:
            return " ".join(
                [
                    "text vectors alone",
                    *([f"({self.text_embeddings})"] * (self.text_embeddings != DEFAULT_TEXT_EMBEDDINGS)),
                ]
            )
        parts = [self.spec.backbone, self.spec.alignment]
        parts += [self.text_embeddings] * (self.text_embeddings not in (None, DEFAULT_TEXT_EMBEDDINGS))  # type: ignore[list-item]
        parts += [f"{self.shuffle} shuffled"] * (self.shuffle != "none")
        parts += [f"noise {self.noise:g}"] * (self.noise > 0)
        parts += [f"{self.period} period"] * bool(self.period)
        if self.start is not None and self.start.spec is not None:
            parts.append(f"started from {self.start.spec.alignment}")
        parts += ["timed"] * bool(self.timing)
        return ", ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain values."""
        run = {"run": {"backbone": SEMANTIC_ONLY, "alignment": "none", "seed": 0}}
        return {
            **(run if self.spec is None else self.spec.as_dict()),
            "data": {
                "dataset": self.dataset,
                "noise": self.noise,
                "period": self.period,
                "semantics": self.text_embeddings,
                "texts": self.texts,
                "shuffle": self.shuffle,
            },
            "start": None if self.start is None else self._of_start(self.start),
            "timing": self.timing,
        }

    @staticmethod
    def _of_start(start: Trial) -> dict[str, str]:
        return {"cell": start.id, "alignment": "none" if start.spec is None else start.spec.alignment}

    @cached_property
    def id(self) -> str:
        """The identity: a hash of ``as_dict()``."""
        return identity(self.as_dict())


def identity(values: Mapping[str, Any]) -> str:
    """A hash of plain values: the same for the same question."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class TrialInputs:
    """The dataset and the text vectors of a workspace, read once, and what a trial makes of them.

    Args:
        place: the workspace.
    """

    def __init__(self, place: Workspace) -> None:
        self.place = place
        self.dataset = place.dataset()
        self._semantics: dict[str, TextEmbeddings] = {}

    def text_embeddings(self, name: str) -> TextEmbeddings:
        """The text vectors called ``name``."""
        if name not in self._semantics:
            self._semantics[name] = self.place.text_embeddings(self.dataset, name)
        return self._semantics[name]

    def of(self, trial: Trial) -> tuple[Dataset, TextEmbeddings | None]:
        """The dataset and the text vectors that a trial is trained on.

        Vectors of users that are means over training items are made anew for a period, so that the earlier
        one knows nothing of the later; noise does not change them, as texts are written before training.

        Raises:
            DataError: the workspace holds another dataset or other vectors than the trial was made for, or
                they cannot be cut by time.
        """
        if self.dataset.fingerprint != trial.dataset:
            raise DataError("the workspace's dataset was replaced while its trials were running")
        text_embeddings = None
        if trial.text_embeddings is not None:
            text_embeddings = self.text_embeddings(trial.text_embeddings)
            if text_embeddings.digest != trial.texts:
                raise DataError(
                    f"the text vectors {trial.text_embeddings!r} were replaced while trials were running"
                )
            if trial.shuffle != "none":
                text_embeddings = text_embeddings.shuffled(np.random.default_rng(trial.seed), trial.shuffle)
        dataset = self.dataset
        if trial.period:
            dataset, text_embeddings = of_period(dataset, text_embeddings, trial.period)
        if trial.noise:
            rng = np.random.default_rng(trial.seed)
            noisy = dataset.train.with_noise(trial.noise, rng, avoid=(dataset.valid, dataset.test))
            dataset = replace(dataset, train=noisy)
        return dataset, text_embeddings


def of_period(
    dataset: Dataset, text_embeddings: TextEmbeddings | None, period: str
) -> tuple[Dataset, TextEmbeddings | None]:
    """The earlier or the later half of a dataset's history, over the users and items that both have.

    The earlier is split 4:1 into training and validation, the later 3:1:1. Users' vectors become the mean
    over the training items of that period, whatever they were.

    Raises:
        DataError: there are no timestamps, or nobody is in both.
    """
    parts = [dataset.train, dataset.valid, dataset.test]
    timestamps = [part.timestamp for part in parts if part.timestamp is not None]
    everything = Interactions(
        np.concatenate([part.users for part in parts]),
        np.concatenate([part.items for part in parts]),
        dataset.n_users,
        dataset.n_items,
        timestamp=np.concatenate(timestamps) if len(timestamps) == len(parts) else None,
    )
    halves = split_by_time(everything, EARLIER_SHARE, per_user=period.endswith("by user"))
    user_rows, item_rows = (np.unique(getattr(halves[0], kind)) for kind in ("users", "items"))
    half = halves[0] if period.startswith("earlier") else halves[1]
    own = Interactions(
        np.searchsorted(user_rows, half.users),
        np.searchsorted(item_rows, half.items),
        len(user_rows),
        len(item_rows),
        timestamp=half.timestamp,
    )
    ratio = (4, 1, 0) if period.startswith("earlier") else (3, 1, 1)
    reduced = Dataset(
        f"{dataset.name}, {period}",
        *split_by_ratio(own, ratio, np.random.default_rng(0)),
        Vocabulary((dataset.users.id(int(row)) for row in user_rows), "user"),
        Vocabulary((dataset.items.id(int(row)) for row in item_rows), "item"),
    )
    if text_embeddings is None:
        return reduced, None
    vectors = text_embeddings.items[item_rows]
    return reduced, TextEmbeddings(
        mean_over_training(vectors, reduced.train), vectors, text_embeddings.manifest
    )


def run_trial(
    trial: Trial,
    inputs: TrialInputs,
    *,
    device: str = "cpu",
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run a trial in its folder of the workspace, or take it up where it was killed.

    Another process that works on the same trial is waited for, and its result is taken. A finished run of the
    workspace with the same configuration is copied instead of trained again, unless seconds are what is measured.

    Returns:
        the cell's line: ``id``, ``status`` "done", ``dataset``, ``trial`` (what ``as_dict`` says), metrics of
        "valid" and "test", ``best_epoch``, ``epochs``, ``seconds_per_epoch``, ``seconds`` (training and
        validation in all, kills not counted twice), ``environment``, ``validation_curve`` as
        [epoch, Recall@20] pairs, ``encoder`` of its text vectors if they tell it, and ``taken_from`` if it is
        the copy of a run. Values are JSON.

    Raises:
        RlmrecError: the trial cannot be run.
    """
    folder = inputs.place.trial(trial.id)
    dataset, text_embeddings = inputs.of(trial)
    with locked(folder):
        if trial.spec is None:
            if text_embeddings is None:
                raise ConfigError(
                    "text vectors alone are no scorer without text vectors: run 'rlmrec encode'"
                )
            metrics = run_semantic_only(dataset, text_embeddings, folder)
        else:
            start = None if trial.start is None else InitialEmbeddings.of(inputs.place.trial(trial.start.id))
            if not trial.timing and not (folder / "metrics.json").exists():
                config = run_config(trial.spec, dataset, text_embeddings, start)
                reuse_finished_run(folder, inputs.place.path / "runs", config)
            metrics = run(
                trial.spec, dataset, text_embeddings, folder, start=start, device=device, on_epoch=on_epoch
            )
        describe_trial(trial, inputs.place)
    records = []
    if (folder / "metrics.jsonl").exists():
        records = [
            json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
    encoder = None if text_embeddings is None else text_embeddings.manifest.get("encoder")
    return {
        "id": trial.id,
        "status": "done",
        "dataset": inputs.dataset.name,
        "cell": trial.as_dict(),
        **({} if encoder is None else {"encoder": encoder}),
        **{name: value for name, value in metrics.items() if name != "config"},
        "seconds": sum(record["seconds"] + record.get("seconds_evaluation", 0) for record in records),
        "validation_curve": [
            [record["epoch"], round(record["valid"][MONITORED], 5)] for record in records if "valid" in record
        ],
    }


def describe_trial(trial: Trial, place: Workspace) -> None:
    """Say in the cell's folder, if it is there, what it is: noise and shuffling leave hashes alone in config.toml."""
    folder = place.trial(trial.id)
    if folder.exists() and not (folder / "cell.json").exists():
        write_json(folder / "cell.json", {"name": trial.name, "label": trial.label, "cell": trial.as_dict()})
