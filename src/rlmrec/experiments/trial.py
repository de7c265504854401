"""Trial: one training run of a sweep or an experiment, with everything that its numbers depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from rlmrec.alignment import ALIGNMENTS
from rlmrec.alignment.teacher import teachers_kept_in
from rlmrec.closed_form.base import own_user_texts
from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.split import split_by_ratio, split_by_time
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError, DataError
from rlmrec.evaluation.groups import group_metrics
from rlmrec.evaluation.ranking import evaluate
from rlmrec.experiments.hidden import Hidden
from rlmrec.experiments.history import cut_history
from rlmrec.experiments.results import TrialRecord
from rlmrec.experiments.run import (
    SEMANTIC_ONLY,
    InitialEmbeddings,
    K,
    reuse_finished_run,
    run,
    run_config,
    run_semantic_only,
)
from rlmrec.experiments.spec import RunSpec
from rlmrec.files import locked, read_json_lines, write_json
from rlmrec.recommend.recommender import Recommender
from rlmrec.text import DEFAULT_TEXT_EMBEDDINGS
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.training import checkpoint
from rlmrec.training.trainer import MONITORED, OtherRunError
from rlmrec.workspace import Workspace

PERIODS = ("", "earlier", "later")  # "" is the whole history
CUTS = ("global", "per-user")  # where the periods meet: at one moment, or within each user's own history
EARLIER_SHARE = 0.5


@dataclass(frozen=True)
class Trial:
    """A training run, as data. Two trials with the same ``id`` give the same numbers and are run once.

    Args:
        spec: backbone, alignment and options, fully resolved; None scores by the text embeddings alone.
        dataset: fingerprint of the workspace's dataset.
        texts: digest of the text embeddings, before any shuffling; None if nothing reads them.
        text_embeddings: their name in the workspace; None likewise.
        shuffle: whose text embeddings are given to the wrong nodes: "none", "users", "items" or "both".
        noise: random interactions added to training, relative to its size.
        period: one of ``PERIODS``.
        start: the trial whose learned embeddings it starts from; None starts from random ones.
        timing: device and threads, in words, if the trial measures the seconds per epoch, else "".
        cut: one of ``CUTS``; of a period.
        history: training interactions that each user keeps; 0 keeps all.
        keep: which ones, see ``cut_history``.
        hidden: "users" or "items" to leave some out of training and to test on them alone, by their text; "" tests
            on the test split.
        shorter: the same trial with less patience. This one goes on where that one stopped, instead of training the
            same epochs again. No number depends on it, so the id does not either.
        keeps_checkpoint: whether the trial leaves its last checkpoint for one with more patience.

    The seed of ``spec`` is the seed of the shuffling, of the noise and of the cut history too.

    Raises:
        ConfigError: an unknown period or cut, or two of period, cut history and hidden nodes.
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
    cut: str = "global"
    history: int = 0
    keep: str = "random"
    hidden: str = ""
    shorter: Trial | None = None
    keeps_checkpoint: bool = False

    def __post_init__(self) -> None:
        changes = [
            f"{name} {value!r}"
            for name, value in (("history", self.history), ("period", self.period), ("hidden", self.hidden))
            if value
        ]
        if len(changes) > 1:
            raise ConfigError(f"{' with '.join(changes)}: expected one of them")
        if self.period not in PERIODS:
            raise ConfigError(f"unknown period {self.period!r}: expected one of {', '.join(PERIODS[1:])}")
        if self.cut not in CUTS:
            raise ConfigError(f"unknown cut {self.cut!r}: expected one of {', '.join(CUTS)}")

    @property
    def seed(self) -> int:
        """The seed of initialisation, training, shuffling and noise."""
        return 0 if self.spec is None else self.spec.seed

    def with_shorter(self, other: Trial) -> Trial:
        """Return this trial, to go on where another one stopped if that has less patience and is the same otherwise."""
        if self.spec is None or other.spec is None or self.spec.is_closed_form:
            return self
        patience = self.spec.training.patience
        patient = other.spec.training.model_copy(update={"patience": patience})
        is_same = replace(other, spec=replace(other.spec, training=patient)).id == self.id
        return replace(self, shorter=other) if is_same and other.spec.training.patience < patience else self

    @property
    def needs_text(self) -> bool:
        """Whether the trial cannot do without text embeddings."""
        return self.spec is None or self.spec.needs_text or tests_by_text(self.spec, self.hidden)

    @property
    def label(self) -> str:
        """``name`` and the seed."""
        return self.label_with([])

    def label_with(self, options: Sequence[str]) -> str:
        """Return the label with further options, each in words, before the seed."""
        return ", ".join([self.name, *options, *([] if self.spec is None else [f"seed {self.seed}"])])

    @property
    def name(self) -> str:
        """Backbone, alignment and everything that differs from the defaults; the same for all seeds."""
        own_texts = self.text_embeddings not in (None, DEFAULT_TEXT_EMBEDDINGS)
        if self.spec is None:
            return "text embeddings alone" + f" ({self.text_embeddings})" * own_texts
        parts = [self.spec.backbone, self.spec.alignment]
        parts += [str(self.text_embeddings)] * own_texts
        parts += [f"{self.shuffle} shuffled"] * (self.shuffle != "none")
        parts += [f"noise {self.noise:g}"] * (self.noise > 0)
        if self.period:
            parts.append(f"{self.period} period" + " of each user" * (self.cut == "per-user"))
        parts += [f"{self.history} {self.keep} interactions of each user"] * (self.history > 0)
        parts += [f"hidden {self.hidden}"] * bool(self.hidden)
        if self.start is not None and self.start.spec is not None:
            parts.append(f"started from {self.start.spec.alignment}")
        parts += ["timed"] * bool(self.timing)
        return ", ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values. Its hash is the trial's id, so keys and values never change."""
        text_alone = {"run": {"backbone": SEMANTIC_ONLY, "alignment": "none", "seed": 0}}
        return {
            **(text_alone if self.spec is None else self.spec.as_dict()),
            "data": {
                "dataset": self.dataset,
                "noise": self.noise,
                "period": stored_period(self.period, self.cut),
                "semantics": self.text_embeddings,
                "texts": self.texts,
                "shuffle": self.shuffle,
                # Absent by default, as in the ids of older trials.
                **({"history": self.history, "keep": self.keep} if self.history else {}),
                **({"hidden": self.hidden} if self.hidden else {}),
            },
            "start": None if self.start is None else self._start_as_dict(self.start),
            "timing": self.timing,
        }

    @staticmethod
    def _start_as_dict(start: Trial) -> dict[str, str]:
        return {"cell": start.id, "alignment": "none" if start.spec is None else start.spec.alignment}

    @cached_property
    def id(self) -> str:
        """The hash of ``as_dict()``."""
        return identity(self.as_dict())


def tests_by_text(spec: RunSpec, hidden: str) -> bool:
    """Return whether a trained run is tested on hidden users or items, which only a text can tell it about."""
    return bool(hidden) and not spec.is_closed_form


def identity(values: Mapping[str, Any]) -> str:
    """Return a hash of plain values that does not depend on the order of keys."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def options_of(trial: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that a trial's numbers depend on, as "part.name" → value.

    Backbone and alignment, the seed and the dataset are not among it.

    Args:
        trial: ``Trial.as_dict``.
    """
    options = {
        f"{part}.{name}": value
        for part in ("backbone", "alignment", "training", "data")
        for name, value in trial.get(part, {}).items()
        if (part, name) != ("data", "dataset")
    }
    start = None if trial["start"] is None else trial["start"]["alignment"]
    return {**options, "run.start": start, "run.timing": trial.get("timing", "")}


def told_apart(trials: Iterable[Trial]) -> dict[str, str]:
    """Return the label of each trial by its id, with the options that trials of the same label differ in.

    Options that tell no more of them apart are left out, and so are defaults that are not recorded.
    """
    alike: dict[str, dict[str, Trial]] = {}
    for trial in trials:
        alike.setdefault(trial.label, {})[trial.id] = trial
    labels = {}
    for same in alike.values():
        options = {key: options_of(trial.as_dict()) for key, trial in same.items()}
        names: list[str] = []
        groups = 1
        for name in dict.fromkeys(name for one in options.values() for name in one if name != "data.texts"):
            count = len({tuple(repr(one.get(own)) for own in (*names, name)) for one in options.values()})
            if count > groups:
                names, groups = [*names, name], count
        for key, trial in same.items():
            values = {name: options[key].get(name) for name in names}
            labels[key] = trial.label_with(
                [
                    f"{option_label(name)} {f'{value:g}' if isinstance(value, float) else value}"
                    for name, value in values.items()
                    if value is not None
                ]
            )
    return labels


def option_label(name: str) -> str:
    """Return the name by which people know a key of ``options_of``.

    Example:
        >>> option_label("data.semantics"), option_label("training.l2")
        ('text_embeddings', 'l2')
    """
    return "text_embeddings" if name == "data.semantics" else name.partition(".")[2]


def stored_period(period: str, cut: str) -> str:
    """Return a period and its cut as they are stored: "later", or "later, by user"."""
    return f"{period}, by user" if period and cut == "per-user" else period


def split_period(stored: str) -> tuple[str, str]:
    """Return the period and the cut of what ``stored_period`` made.

    Example:
        >>> split_period("later, by user")
        ('later', 'per-user')
    """
    period, comma, _ = stored.partition(", by user")
    return period, CUTS[bool(comma)]


class TrialInputs:
    """Reads the dataset and the text embeddings of a workspace once, and derives what each trial is trained on.

    Args:
        place: the workspace.
    """

    def __init__(self, place: Workspace) -> None:
        self.place = place
        self.dataset = place.dataset()
        self._text_embeddings: dict[str, TextEmbeddings] = {}

    def text_embeddings(self, name: str) -> TextEmbeddings:
        """Return the text embeddings called ``name``."""
        if name not in self._text_embeddings:
            self._text_embeddings[name] = self.place.text_embeddings(self.dataset, name)
        return self._text_embeddings[name]

    def of(self, trial: Trial) -> tuple[Dataset, TextEmbeddings | None]:
        """Return the dataset and the text embeddings that a trial is trained on.

        Raises:
            DataError: the workspace holds another dataset or other text embeddings than the trial was made for,
                or the history cannot be cut by time.
        """
        dataset, text_embeddings, hidden = self._of_all(trial)
        if hidden is not None:
            dataset = hidden.rest
            text_embeddings = None if text_embeddings is None else hidden.texts_of_rest(text_embeddings)
        if trial.noise:
            # Noise does not change text embeddings: texts are written before training.
            is_mixed = text_embeddings is not None and text_embeddings.users_are_means is None
            if text_embeddings is not None and is_mixed and _reads_own_texts(trial):
                text_embeddings = _without_means(dataset, text_embeddings)
            rng = np.random.default_rng(trial.seed)
            real = [dataset.valid, dataset.test, *([] if dataset.unranked is None else [dataset.unranked])]
            noisy = dataset.train.with_noise(trial.noise, rng, avoid=real)
            dataset = replace(dataset, train=noisy)
            if text_embeddings is not None:
                text_embeddings = text_embeddings.mapped(
                    lambda raw: replace(raw, manifest=_of_any_dataset(raw))
                )
        return dataset, text_embeddings

    def hidden(self, trial: Trial) -> tuple[Hidden, TextEmbeddings | None]:
        """Return what a trial with hidden users or items is tested on, and the text embeddings of all.

        Raises:
            ConfigError: the trial hides nothing.
        """
        _, text_embeddings, hidden = self._of_all(trial)
        if hidden is None:
            raise ConfigError(f"the trial {trial.label} hides no users or items: there is nothing to test on")
        return hidden, text_embeddings

    def _of_all(self, trial: Trial) -> tuple[Dataset, TextEmbeddings | None, Hidden | None]:
        """Return dataset and text embeddings, cut and shuffled, and what is hidden of both, before it is taken away."""
        if self.dataset.fingerprint != trial.dataset:
            raise DataError("the workspace's dataset was replaced while its trials were running")
        text_embeddings = None
        if trial.text_embeddings is not None:
            text_embeddings = self.text_embeddings(trial.text_embeddings)
            if text_embeddings.digest != trial.texts:
                raise DataError(
                    f"the text embeddings {trial.text_embeddings!r} were replaced while trials were running"
                )
        dataset = self.dataset
        if trial.history:
            dataset, text_embeddings = _with_short_history(trial, dataset, text_embeddings)
        if trial.period:
            dataset, text_embeddings = of_period(dataset, text_embeddings, trial.period, trial.cut)
        hidden = Hidden.draw(dataset, trial.hidden) if trial.hidden else None
        if text_embeddings is not None:
            is_shuffled = trial.shuffle != "none"
            if is_shuffled and _reads_own_texts(trial):
                text_embeddings = _without_means(dataset, text_embeddings)
            if hidden is not None:
                text_embeddings = hidden.with_new_means(text_embeddings)
            if is_shuffled:  # after all means are taken, which would undo it
                text_embeddings = text_embeddings.shuffled(np.random.default_rng(trial.seed), trial.shuffle)
        return dataset, text_embeddings, hidden


def _with_short_history(
    trial: Trial, dataset: Dataset, text_embeddings: TextEmbeddings | None
) -> tuple[Dataset, TextEmbeddings | None]:
    """Return a dataset with the trial's cut histories; users without a text of their own get new means."""
    short = cut_history(dataset, trial.history, trial.keep, trial.seed)
    if text_embeddings is None:
        return short, None

    def shortened(raw: TextEmbeddings) -> TextEmbeddings:
        own = own_user_texts(raw, dataset)
        renewed = raw.with_means_over(short.train, raw.has_user & ~own)
        return replace(renewed, manifest=_of_any_dataset(renewed))

    return short, text_embeddings.mapped(shortened)


def _reads_own_texts(trial: Trial) -> bool:
    """Return whether a trial reads users' texts only where they are their own: a closed form, a teacher among them."""
    spec = trial.spec
    return spec is not None and (spec.is_closed_form or ALIGNMENTS.resolve(spec.alignment).needs_dataset)


def _without_means(dataset: Dataset, text_embeddings: TextEmbeddings) -> TextEmbeddings:
    """Return text embeddings in which users without a text of their own have no vector.

    Means over training items are recognised as such, which they no longer are after shuffling or with noise.
    """
    own = own_user_texts(text_embeddings, dataset)
    return text_embeddings.mapped(
        lambda raw: replace(
            raw,
            users=np.where(own[:, None], raw.users, np.float32(0)),
            has_user=own,
            manifest={**raw.manifest, "users_by_mean": 0},
        )
    )


def _of_any_dataset(text_embeddings: TextEmbeddings) -> dict[str, Any]:
    """Return the manifest without its dataset, for a dataset that a trial changed on purpose."""
    return {name: value for name, value in text_embeddings.manifest.items() if name != "dataset"}


def of_period(
    dataset: Dataset, text_embeddings: TextEmbeddings | None, period: str, cut: str = "global"
) -> tuple[Dataset, TextEmbeddings | None]:
    """Return the earlier or the later half of a dataset's history, over the users and items that both halves have.

    The earlier half is split 4:1 into training and validation, the later one 3:1:1. Users without a text of their own
    get the mean over their training items of that half, so that the earlier half has no knowledge of the later one.

    Raises:
        DataError: there are no timestamps, or no user is in both halves.
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
    halves = split_by_time(everything, EARLIER_SHARE, per_user=cut == "per-user")
    user_rows, item_rows = (np.unique(getattr(halves[0], kind)) for kind in ("users", "items"))
    half = halves[0] if period == "earlier" else halves[1]
    own = Interactions(
        np.searchsorted(user_rows, half.users),
        np.searchsorted(item_rows, half.items),
        len(user_rows),
        len(item_rows),
        timestamp=half.timestamp,
    )
    ratio = (4, 1, 0) if period == "earlier" else (3, 1, 1)
    reduced = Dataset(
        f"{dataset.name}, {stored_period(period, cut)}",
        *split_by_ratio(own, ratio, np.random.default_rng(0)),
        Vocabulary((dataset.users.id(int(row)) for row in user_rows), "user"),
        Vocabulary((dataset.items.id(int(row)) for row in item_rows), "item"),
    )
    if text_embeddings is None:
        return reduced, None

    def of_half(raw: TextEmbeddings) -> TextEmbeddings:
        own = own_user_texts(raw, dataset)[user_rows]
        kept = TextEmbeddings(
            raw.users[user_rows], raw.items[item_rows], _of_any_dataset(raw),
            raw.has_user[user_rows], raw.has_item[item_rows],
        )  # fmt: skip
        return kept.with_means_over(reduced.train, kept.has_user & ~own)

    return reduced, text_embeddings.mapped(of_half)


def run_trial(
    trial: Trial,
    inputs: TrialInputs,
    *,
    device: str = "cpu",
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> TrialRecord:
    """Run a trial in its folder of the workspace, or continue it where it was killed.

    If another process is running the same trial, this one waits and returns that result. A finished run of the
    workspace with the same configuration is copied instead of trained again, unless seconds are measured.

    Raises:
        RlmrecError: the trial cannot be run.
    """
    folder = inputs.place.trial(trial.id)
    dataset, text_embeddings = inputs.of(trial)
    with locked(folder), teachers_kept_in(inputs.place.teachers_path):
        if trial.spec is None:
            if text_embeddings is None:
                raise ConfigError("scoring by text embeddings alone needs some: run 'rlmrec encode' first")
            metrics = run_semantic_only(dataset, text_embeddings, folder)
        else:
            start = None if trial.start is None else InitialEmbeddings.of(inputs.place.trial(trial.start.id))
            if not trial.timing and not (folder / "metrics.json").exists():
                config = run_config(trial.spec, dataset, text_embeddings, start)
                taken = reuse_finished_run(folder, inputs.place.path / "runs", config)
                shorter = None if trial.shorter is None else inputs.place.trial(trial.shorter.id)
                is_new = taken is None and not (folder / "config.toml").exists()
                if is_new and shorter is not None and checkpoint.exists(shorter):
                    checkpoint.go_on_with(trial.spec.training.patience, shorter, folder)
            train = partial(
                run, trial.spec, dataset, text_embeddings, folder, start=start, device=device, on_epoch=on_epoch,
                keep_checkpoint=trial.keeps_checkpoint,
            )  # fmt: skip
            try:
                metrics = train()
            except OtherRunError:  # it was killed, and its teacher or its class has changed since
                metrics = train(overwrite=True)
        if trial.hidden:
            metrics = {**metrics, "test": _test_on_hidden(trial, inputs, folder)}
            write_json(folder / "metrics.json", metrics)
        describe_trial(trial, inputs.place)
    seconds, curve = _training(folder)
    record: Any = {  # the keys of metrics.json are those of TrialRecord, but mypy cannot know it
        "id": trial.id,
        "status": "done",
        "dataset": inputs.dataset.name,
        "cell": trial.as_dict(),
        **{name: value for name, value in metrics.items() if name != "config"},
        "seconds": seconds or metrics.get("seconds", 0.0),
        "validation_curve": curve,
    }
    if "fit" in record:  # without the figures of each option that was tried
        record["fit"] = {name: value for name, value in record["fit"].items() if name != "trials"}
    if metrics["test"] is not None and not trial.hidden:
        record["groups"] = _group_metrics(folder, dataset)
    if text_embeddings is not None and text_embeddings.manifest.get("encoder") is not None:
        record["encoder"] = text_embeddings.manifest["encoder"]
    result: TrialRecord = record
    return result


def pruned_record(trial: Trial, place: Workspace) -> TrialRecord:
    """Return the record of a trial whose training was ended early, from what it has written so far."""
    seconds, curve = _training(place.trial(trial.id))
    return {
        "id": trial.id,
        "status": "pruned",
        "cell": trial.as_dict(),
        "epochs": int(curve[-1][0]) + 1 if curve else 0,
        "seconds": seconds,
        "validation_curve": curve,
    }


def _training(folder: Path) -> tuple[float, list[list[float]]]:
    """Return the seconds that a trial has trained and validated, and its pairs of epoch and validation Recall@20."""
    path = folder / "metrics.jsonl"
    epochs = read_json_lines(path) if path.exists() else []
    seconds = sum(epoch["seconds"] + epoch.get("seconds_evaluation", 0) for epoch in epochs)
    return seconds, [
        [epoch["epoch"], round(epoch["valid"][MONITORED], 5)] for epoch in epochs if "valid" in epoch
    ]


def _test_on_hidden(trial: Trial, inputs: TrialInputs, folder: Path) -> dict[str, float]:
    """Evaluate a finished trial on its hidden users or items, instead of the test split of the others."""
    hidden, text_embeddings = inputs.hidden(trial)
    recommender = Recommender.load(folder / "recommender")
    ranking = hidden.evaluate(recommender, text_embeddings, K, text_alone=trial.spec is None)
    ranking.save(folder / "test.parquet")
    return ranking.metrics()


def _group_metrics(folder: Path, dataset: Dataset) -> dict[str, float]:
    """Return the test accuracy of a finished trial by groups of users and items."""
    scorer = Recommender.load(folder / "recommender").scorer()
    return group_metrics(evaluate(scorer, dataset, K), dataset)


def describe_trial(trial: Trial, place: Workspace) -> None:
    """Describe a trial in its folder: of noise and shuffling, config.toml contains only hashes."""
    folder = place.trial(trial.id)
    if folder.exists() and not (folder / "cell.json").exists():
        write_json(folder / "cell.json", {"name": trial.name, "label": trial.label, "cell": trial.as_dict()})
