"""What a report is made from: whatever of a workspace is there, read once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rlmrec.data.dataset import Dataset
from rlmrec.errors import RlmrecError
from rlmrec.evaluation.ranking import DotProduct, Ranking, evaluate, read_table
from rlmrec.files import read_json, read_json_lines
from rlmrec.serving.recommender import Recommender
from rlmrec.text.semantics import Semantics
from rlmrec.workspace import Workspace

VARIANTS = {"none": "base", "contrastive": "Con", "generative": "Gen"}
METRICS = tuple(f"{metric}@{k}" for metric in ("recall", "ndcg") for k in (5, 10, 20))
LIST_LENGTH = 20  # of the lists that are looked into item by item


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run, as its folder tells it.

    Args:
        name: the run's name.
        folder: where it lies.
        metrics: what ``metrics.json`` holds.
    """

    name: str
    folder: Path
    metrics: dict[str, Any]

    def option(self, part: str, name: str) -> Any:
        """An option of ``config.toml``; None where it is not set."""
        return self.metrics["config"].get(part, {}).get(name)

    @property
    def backbone(self) -> str:
        """Name of the backbone; "" when no model was trained."""
        return self.option("run", "backbone") or ""

    @property
    def variant(self) -> str:
        """base, Con or Gen, or the alignment's name."""
        alignment = self.option("run", "alignment") or "none"
        return VARIANTS.get(alignment, alignment)

    @property
    def noise(self) -> float | None:
        """Ratio of interactions that were added to the training split at random; None without any."""
        ratio = self.option("data", "noise")
        return float(ratio) if ratio else None

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """A record per epoch; empty when the run kept none."""
        path = self.folder / "metrics.jsonl"
        return read_json_lines(path) if path.exists() else []

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
        """The mean over seeds of a metric; None without such a split."""
        values = [run.metrics[split][metric] for run in self.runs if run.metrics.get(split)]
        return float(np.mean(values)) if values else None

    def deviation(self, metric: str) -> float | None:
        """The standard deviation over seeds; None for one seed."""
        values = [run.metrics["test"][metric] for run in self.runs if run.metrics.get("test")]
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

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
        semantics: None likewise.
        groups: runs on this dataset (without one, on that of most runs), by all but their seed; those without
            alignment first.
        noisy: runs on this dataset with noise added to its training split.
        left_out: what could not be read, in words.
    """

    workspace: Workspace
    dataset: Dataset | None = None
    semantics: Semantics | None = None
    groups: list[Group] = field(default_factory=list)
    noisy: list[Group] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def backbones(self) -> list[str]:
        """The backbones that were trained, in order of name."""
        return sorted({group.first.backbone for group in self.groups})

    def of_backbone(self, backbone: str) -> list[Group]:
        """Its groups; those without alignment first."""
        return [group for group in self.groups if group.first.backbone == backbone]

    def base_of(self, backbone: str) -> Group | None:
        """What the others of a backbone are held against: its first group without alignment."""
        return next((group for group in self.of_backbone(backbone) if group.first.variant == "base"), None)

    def recommender(self, group: Group) -> Recommender | None:
        """The recommender of a group's first run; None, and a word on why, where there is none."""
        assert self.dataset is not None  # groups are of a dataset
        try:
            return self.workspace.recommender(group.first.name, self.dataset)
        except RlmrecError as error:
            self.leave_out(f"recommender of {group.first.name}: {error}")
            return None

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

    def result(self, name: str) -> Any:
        """What an experiment left as ``experiments/<name>`` (.json or .jsonl); None when it was not run."""
        path = self.workspace.experiments_path / name
        if not path.exists():
            return None
        try:
            return read_json_lines(path) if path.suffix == ".jsonl" else read_json(path)
        except RlmrecError as error:
            self.leave_out(str(error))
            return None

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
            if workspace.semantics_path().exists():
                inputs.semantics = workspace.semantics(inputs.dataset)
        except RlmrecError as error:
            inputs.leave_out(str(error))
    if names is None:
        folders = sorted(path.parent for path in workspace.path.glob("runs/*/metrics.json"))
    else:
        folders = [workspace.finished_run(name) for name in dict.fromkeys(names)]
    runs = []
    for folder in folders:
        try:
            run = Run(folder.name, folder, read_json(folder / "metrics.json"))
            if not isinstance(run.metrics.get("config"), dict):
                raise TypeError("no configuration in metrics.json")
            if run.metrics.get("test"):
                _ = run.table, run.history
            runs.append(run)
        except (RlmrecError, TypeError, AttributeError) as error:
            inputs.leave_out(f"run {folder.name}: {error}")
    plain = [run for run in runs if run.noise is None]
    fingerprint: str | None
    if inputs.dataset is not None:
        fingerprint = inputs.dataset.fingerprint
    else:  # runs tell most of what there is to tell without their dataset, too
        counted = Counter(run.option("data", "dataset") for run in plain)
        fingerprint = counted.most_common(1)[0][0] if counted else None
    inputs.groups = _groups([run for run in plain if run.option("data", "dataset") == fingerprint])
    inputs.noisy = _groups([run for run in runs if run.noise is not None])
    others = [run.name for run in plain if run.option("data", "dataset") != fingerprint]
    if others:
        inputs.leave_out(f"runs on another dataset: {', '.join(others)}")
    return inputs


def _groups(runs: Sequence[Run]) -> list[Group]:
    """By configuration without the seed. Runs that are equal in it but differ in name stay together."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        config = {part: dict(options) for part, options in run.metrics["config"].items()}
        config.get("run", {}).pop("seed", None)
        found.setdefault(json.dumps(config, sort_keys=True, default=str), []).append(run)
    groups: list[Group] = []
    for same in found.values():
        same.sort(key=lambda run: (run.option("run", "seed") or 0, run.name))
        name = re.sub(r"-seed\d+(?=-|$)", "", same[0].name) if len(same) > 1 else same[0].name
        groups.append(Group(name, tuple(same)))
    order = list(VARIANTS.values())

    def place(group: Group) -> tuple[str, int, str]:
        variant = group.first.variant
        return group.first.backbone, order.index(variant) if variant in order else len(order), group.name

    return sorted(groups, key=place)
