"""What a report is made from: whatever of a workspace is there, read once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rlmrec.alignment import ALIGNMENTS, alignment_label
from rlmrec.data.dataset import Dataset
from rlmrec.errors import RlmrecError, WorkspaceError
from rlmrec.evaluation.ranking import DotProduct, Ranking, evaluate, read_table
from rlmrec.experiments.runner import Line, Results
from rlmrec.files import read_json, read_json_lines
from rlmrec.paper.figures import check_lines
from rlmrec.recommend.recommender import Recommender
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.workspace import Workspace

METRICS = tuple(f"{metric}@{k}" for metric in ("recall", "ndcg") for k in (5, 10, 20))
LIST_LENGTH = 20  # of the lists that are looked into item by item


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run, as its folder tells it; the trial of a sweep or an experiment is one, too.

    Args:
        name: the run's name; of a trial its label.
        folder: where it lies.
        metrics: what ``metrics.json`` holds.
        trial: what ``trial.json`` holds; None for a run that is no trial.
    """

    name: str
    folder: Path
    metrics: dict[str, Any]
    trial: dict[str, Any] | None = None

    @property
    def config(self) -> dict[str, Any]:
        """What it was run with. A cell's knows the dataset before noise and the vectors before shuffling."""
        config: dict[str, Any] = self.metrics["config"] if self.trial is None else self.trial["cell"]
        return config

    def option(self, part: str, name: str) -> Any:
        """An option of its configuration; None where it is not set."""
        return (self.config.get(part) or {}).get(name)

    @property
    def backbone(self) -> str:
        """Name of the backbone; "" when no model was trained."""
        return self.option("run", "backbone") or ""

    @property
    def variant(self) -> str:
        """The alignment's label: Base, Con, Gen, or that of a class of the user's own."""
        own: str | None = self.option("run", "alignment_label")
        return own or alignment_label(self.option("run", "alignment") or "none")

    @property
    def is_aligned(self) -> bool:
        """Whether it was trained with an alignment."""
        return (self.option("run", "alignment") or "none") != "none"

    @property
    def noise(self) -> float:
        """Interactions that were added to the training split at random, relative to its size."""
        return float(self.option("data", "noise") or 0.0)

    @property
    def unusual(self) -> set[str]:
        """In what it is no run that is compared with others: "noise", "shuffle", "period", "start", "timing"."""
        present = {
            "noise": self.noise > 0,
            "shuffle": self.option("data", "shuffle") not in (None, "none"),
            "period": bool(self.option("data", "period")),
            "start": bool(self.config.get("start") or self.option("data", "start")),
            "timing": bool(self.config.get("timing")),
        }
        return {name for name, there in present.items() if there}

    @cached_property
    def kind(self) -> str:
        """All that its numbers depend on but the seed, the same for a run and for a trial.

        Not the preset's name: its options are there, and those of two presets may be the same.
        """
        parts = {
            part: dict(self.config.get(part, {})) for part in ("run", "backbone", "alignment", "training")
        }
        for name in ("seed", "preset"):
            parts["run"].pop(name, None)
        data = {
            name: self.option("data", name) for name in ("dataset", "texts", "shuffle", "noise", "period")
        }
        data["shuffle"] = None if data["shuffle"] == "none" else data["shuffle"]
        start = self.option("start", "alignment") or self.option("data", "start")
        every = {**parts, "data": data, "start": start, "timing": self.config.get("timing")}
        return json.dumps(_set(every), sort_keys=True, default=str)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """A record per epoch; empty when the run kept none."""
        path = self.folder / "metrics.jsonl"
        records: list[Any] = read_json_lines(path) if path.exists() else []
        for number, record in enumerate(records, 1):
            if not isinstance(record, dict) or not isinstance(record.get("valid", {}), dict):
                raise WorkspaceError(f"{path}, line {number} is no record of an epoch")
        return records

    @cached_property
    def table(self) -> pl.DataFrame:
        """The test metrics of each user."""
        return read_table(self.folder / "test.parquet").sort("user")


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ in nothing but their seed.

    Args:
        name: the runs' name without the seed.
        runs: in the order of their seeds.
    """

    name: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The run that pictures show."""
        return self.runs[0]

    def mean(self, metric: str, split: str = "test") -> float | None:
        """The mean over seeds of a metric; None without such a split or where a run does not have it."""
        values = self._values(metric, split)
        return float(np.mean(values)) if values else None

    def deviation(self, metric: str) -> float | None:
        """The standard deviation over seeds; None for one seed."""
        values = self._values(metric, "test")
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    def _values(self, metric: str, split: str) -> list[float]:
        values = [run.metrics[split].get(metric) for run in self.runs if run.metrics.get(split)]
        return [] if None in values else values

    @cached_property
    def table(self) -> pl.DataFrame:
        """The test metrics of each user, the mean over seeds.

        Raises:
            WorkspaceError: a run kept none.
        """
        tables = [run.table for run in self.runs]
        if len(tables) == 1:
            return tables[0]
        return (
            pl.concat(tables)
            .group_by("user")
            .agg(pl.col("n_relevant").first(), pl.exclude("user", "n_relevant").mean())
            .sort("user")
        )


@dataclass
class Inputs:
    """A workspace, as far as it is there.

    Args:
        workspace: where it lies.
        dataset: None when there is none that can be read.
        semantics: the text vectors of its runs; None likewise.
        groups: runs on this dataset (without one, on that of most runs), by all but their seed; those without
            alignment first. Trials of sweeps are not among them, nor is what follows.
        noisy: trials with noise added to the training split.
        shuffled: trials whose text vectors were given to the wrong nodes.
        others: trials of a part of the history, started from others', or timed: what stands in tables alone.
        left_out: what could not be read, in words.
    """

    workspace: Workspace
    dataset: Dataset | None = None
    text_embeddings: TextEmbeddings | None = None
    groups: list[Group] = field(default_factory=list)
    noisy: list[Group] = field(default_factory=list)
    shuffled: list[Group] = field(default_factory=list)
    others: list[Group] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def backbones(self) -> list[str]:
        """The backbones that were trained, in order of name."""
        return sorted({group.first.backbone for group in self.groups})

    def of_backbone(self, backbone: str) -> list[Group]:
        """Its groups; those without alignment first."""
        return [group for group in self.groups if group.first.backbone == backbone]

    def base_of(self, backbone: str) -> Group | None:
        """What the others of a backbone are held against: its first group without alignment."""
        return next((group for group in self.of_backbone(backbone) if not group.first.is_aligned), None)

    def recommender(self, group: Group) -> Recommender | None:
        """The recommender of a group's first run; None, and a word on why, where there is none."""
        assert self.dataset is not None  # groups are of a dataset
        try:
            recommender = Recommender.load(group.first.folder / "recommender")
        except RlmrecError as error:
            self.leave_out(f"recommender of {group.first.name}: {error}")
            return None
        if recommender.manifest.get("fingerprint") != self.dataset.fingerprint:
            self.leave_out(f"recommender of {group.first.name}: it was trained on another dataset")
            return None
        return recommender

    def ranking(self, group: Group) -> Ranking | None:
        """The lists of a group's first run on the test split; None where they cannot be made."""
        assert self.dataset is not None
        if group.name not in self._rankings:
            recommender = self.recommender(group)
            self._rankings[group.name] = None
            if recommender is not None and len(self.dataset.test):
                scores = DotProduct(recommender.users, recommender.items)
                self._rankings[group.name] = evaluate(scores, self.dataset, k=(LIST_LENGTH,))
        return self._rankings[group.name]

    @cached_property
    def _rankings(self) -> dict[str, Ranking | None]:
        return {}

    def lines(self, name: str) -> list[Line]:
        """What an experiment left in ``experiments/<name>``; of this dataset where a line says of which."""
        paths = sorted((self.workspace.experiments_path / name).glob("*.jsonl"))
        found = [line for path in paths for line in self._lines_of_figure(name, path)]
        if self.dataset is None:
            return found
        return [line for line in found if line.get("fingerprint") in (None, self.dataset.fingerprint)]

    def _lines_of_figure(self, name: str, path: Path) -> list[Line]:
        done = [line for line in self.lines_of(path) if line["status"] == "done"]
        try:
            check_lines(name, path, done)
        except RlmrecError as error:
            self.leave_out(str(error))
            return []
        return done

    def lines_of(self, path: Path) -> list[Line]:
        """The lines of a file, the last of each id; none, and a word on why, where it is damaged."""
        try:
            return list(Results(path).lines.values())
        except RlmrecError as error:
            self.leave_out(str(error))
            return []

    def leave_out(self, why: str) -> None:
        """Note what could not be read, once; the report says it."""
        if why not in self.left_out:
            self.left_out.append(why)


def collect(workspace: Workspace, names: Sequence[str] | None = None) -> Inputs:
    """Read a workspace. What is missing is left out, what is damaged is left out and named.

    Args:
        workspace: where to look.
        names: the runs to report; None takes all that have ended.

    Raises:
        WorkspaceError: a run that was asked for does not exist or has not ended.
    """
    inputs = Inputs(workspace)
    if (workspace.dataset_path / "dataset.json").exists():
        try:
            inputs.dataset = workspace.dataset()
        except RlmrecError as error:
            inputs.leave_out(str(error))
    if names is None:
        folders = sorted(path.parent for path in workspace.path.glob("runs/*/metrics.json"))
        folders += sorted(path.parent for path in workspace.path.glob("cells/*/metrics.json"))
        for line in _unfinished(workspace, set(folders)):
            inputs.leave_out(line)
    else:
        folders = [workspace.finished_run(name) for name in dict.fromkeys(names)]
    runs: list[Run] = []
    trials = _trials(inputs)
    seen: dict[tuple[str, Any], Run] = {}
    for folder in folders:
        is_cell = folder.parent.name in ("trials", "cells")
        if is_cell and folder.name in trials:
            continue
        try:
            run = _read(folder, is_cell)
        except (RlmrecError, KeyError, TypeError, AttributeError) as error:
            inputs.leave_out(f"{'cell' if is_cell else 'run'} {folder.name}: {error}")
            continue
        identity = run.kind, run.option("run", "seed")
        if identity not in seen:
            seen[identity] = run
            runs.append(run)
        elif not is_cell:  # a trial is often the copy of a run; of runs nobody expects it
            twin = seen[identity].name
            inputs.leave_out(f"run {run.name}: run {twin} has the same options and seed, and counts once")
    fingerprint: str | None
    if inputs.dataset is not None:
        fingerprint = inputs.dataset.fingerprint
    else:  # runs tell most of what there is to tell without their dataset, too
        counted = Counter(run.option("data", "dataset") for run in runs)
        fingerprint = counted.most_common(1)[0][0] if counted else None
    here = [run for run in runs if run.option("data", "dataset") == fingerprint]
    # A run that started from another one is shown as before; a trial that did belongs to its experiment's table.
    inputs.groups = _groups(
        [run for run in here if not run.unusual or (run.trial is None and run.unusual == {"start"})]
    )
    inputs.noisy = _groups([run for run in here if run.unusual == {"noise"}])
    inputs.shuffled = _groups([run for run in here if run.unusual == {"shuffle"}])
    shown = {run.folder for group in (*inputs.groups, *inputs.noisy, *inputs.shuffled) for run in group.runs}
    inputs.others = _groups([run for run in here if run.folder not in shown])
    others = [run.name for run in runs if run not in here]
    if others:
        inputs.leave_out(f"runs on another dataset: {', '.join(others)}")
    inputs.text_embeddings = _semantics(inputs)
    return inputs


def _semantics(inputs: Inputs) -> TextEmbeddings | None:
    """The text vectors that a run was trained with; where there are none any more, the first that can be read."""
    if inputs.dataset is None:
        return None
    used = {group.first.option("data", "texts") for group in inputs.groups}
    first: TextEmbeddings | None = None
    for name in inputs.workspace.text_embeddings_names():
        try:
            text_embeddings = inputs.workspace.text_embeddings(inputs.dataset, name)
        except RlmrecError as error:
            inputs.leave_out(str(error))
            continue
        if text_embeddings.digest in used:
            return text_embeddings
        first = first or text_embeddings
    return first


def _unfinished(workspace: Workspace, ended: set[Path]) -> list[str]:
    """The runs, and how many trials, that have begun and not ended: killed, or still at it."""
    begun = [path.parent for path in workspace.path.glob("runs/*/config.toml") if path.parent not in ended]
    found = [
        f"run {folder.name}: it has not ended; give its command again to go on" for folder in sorted(begun)
    ]
    trials = [path for path in workspace.path.glob("cells/*/config.toml") if path.parent not in ended]
    if trials:
        found.append(
            f"trials that have not ended: {len(trials)}; give their experiment or sweep again to go on"
        )
    return found


def _read(folder: Path, is_cell: bool) -> Run:
    metrics = read_json(folder / "metrics.json")
    trial = None
    if is_cell:
        if not (folder / "cell.json").exists():
            raise WorkspaceError("it does not say what it is: give its experiment or sweep again")
        trial = read_json(folder / "cell.json")
    run = Run(folder.name if trial is None else trial["label"], folder, metrics, trial)
    if not isinstance(run.metrics.get("config"), dict):
        raise TypeError("no configuration in metrics.json")
    if run.metrics.get("test"):
        _ = run.table, run.history
    return run


def _trials(inputs: Inputs) -> set[str]:
    """The trials of sweeps alone. They were tried to choose among them on validation: their test is no result."""

    def ids(pattern: str) -> set[str]:
        paths = sorted(inputs.workspace.path.glob(pattern))
        return {line["id"] for path in paths for line in inputs.lines_of(path)}

    return ids("sweeps/*/trials.jsonl") - ids("experiments/*/*.jsonl")


def _set(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is not set, however that is written."""
    return {
        name: _set(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value not in (None, "", 0.0) or isinstance(value, bool)
    }


def _groups(runs: Sequence[Run]) -> list[Group]:
    """By configuration without the seed, whatever the runs are called."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.kind, []).append(run)
    groups: list[Group] = []
    for same in found.values():
        same.sort(key=lambda run: (run.option("run", "seed") or 0, run.name))
        trial = same[0].trial
        if trial is not None:
            name = trial["name"]
        else:
            name = re.sub(r"-seed\d+(?=-|$)", "", same[0].name) if len(same) > 1 else same[0].name
        groups.append(Group(name, tuple(same)))
    groups = [
        replace(group, name=f"{group.name}, {what}") if what else group
        for group in groups
        for what in [_difference(group, [other for other in groups if other.name == group.name])]
    ]
    order = [alignment_label(name) for name in ALIGNMENTS]

    def place(group: Group) -> tuple[str, int, str]:
        variant = group.first.variant
        return group.first.backbone, order.index(variant) if variant in order else len(order), group.name

    return sorted(groups, key=place)


def _difference(group: Group, namesakes: Sequence[Group]) -> str:
    """The options that tell a group from others of its name; "" for the only one of its name."""

    def flat(one: Group) -> dict[str, Any]:
        parts = ("run", "backbone", "alignment", "training", "data")
        options = {name: value for part in parts for name, value in one.first.config.get(part, {}).items()}
        return {name: value for name, value in options.items() if name != "seed"}

    if len(namesakes) == 1:
        return ""
    options = [flat(one) for one in namesakes]
    differ = [name for name in options[0] if len({str(one.get(name)) for one in options}) > 1]
    mine = flat(group)
    return ", ".join(f"{name} = {mine.get(name)}" for name in differ) or group.first.folder.name
