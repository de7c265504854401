"""Collect the content of a report: everything that a workspace holds, read once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from rlmrec.alignment import ALIGNMENTS, alignment_label
from rlmrec.data.dataset import Dataset
from rlmrec.errors import RlmrecError, WorkspaceError
from rlmrec.evaluation.compare import FinishedRun, RunGroup, without_seed
from rlmrec.evaluation.ranking import Ranking, evaluate
from rlmrec.evaluation.significance import average
from rlmrec.experiments.baselines import TEXT_WEIGHTS, with_texts
from rlmrec.experiments.differences import differing_options
from rlmrec.experiments.experiment import Experiment, backbone_label
from rlmrec.experiments.results import Results, TrialRecord
from rlmrec.files import read_json, read_json_lines
from rlmrec.recommend.recommender import Recommender
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.workspace import Workspace

LIST_LENGTH = 20  # of the lists that are examined item by item


@dataclass(frozen=True, eq=False)
class Run(FinishedRun):
    """A finished run or trial, as its folder describes it.

    Args:
        trial: content of ``cell.json``; None for a run.
    """

    trial: dict[str, Any] | None = None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration. That of a trial names the dataset before noise and the texts before shuffling."""
        config: dict[str, Any] = dict(self.metrics["config"] if self.trial is None else self.trial["cell"])
        run = dict(config.get("run") or {})
        # Version 0.1 had runs with a text score blended in, marked in the alignment's name.
        run["alignment"] = str(run.get("alignment") or "none").removesuffix(" + text")
        return {**config, "run": run}

    def option(self, part: str, name: str) -> Any:
        """Return an option of the configuration; None if it is not set."""
        return (self.config.get(part) or {}).get(name)

    @property
    def seed(self) -> int:
        """Its seed; 0 if it recorded none."""
        return int(self.option("run", "seed") or 0)

    @property
    def backbone(self) -> str:
        """The name of the backbone; "" if no model was trained."""
        return self.option("run", "backbone") or ""

    @property
    def model(self) -> str:
        """The backbone's name as publications write it, with KAR's prefix."""
        label = self.option("run", "backbone_label") or backbone_label(self.backbone)
        return "KAR-" * self.backbone.startswith("kar-") + label

    @property
    def is_base(self) -> bool:
        """Whether no text was aligned with the backbone or blended into its scores."""
        return self.option("run", "alignment") == "none" and self.option("run", "blend") is None

    def is_base_of(self, other: Run) -> bool:
        """Whether this is the recommender that another run adds texts to: by alignment, or by fitting them too."""
        if not other.is_base:
            return self.is_base
        without, texts = (run.option("data", "texts") is None for run in (self, other))
        return without and not texts and not other.metrics.get("epochs")

    @property
    def variant(self) -> str:
        """The label of the alignment: Base, Con, Gen or that of a user's own."""
        label = self.option("run", "alignment_label") or alignment_label(self.option("run", "alignment"))
        return label + " + text" * (self.option("run", "blend") is not None)

    @property
    def noise(self) -> float:
        """Random interactions added to the training split, relative to its size."""
        return float(self.option("data", "noise") or 0.0)

    @property
    def conditions(self) -> set[str]:
        """The conditions of training that forbid comparisons with other runs.

        Of "noise", "shuffle", "period", "history", "hidden", "start" and "timing".
        """
        present = {
            "noise": self.noise > 0,
            "shuffle": self.option("data", "shuffle") not in (None, "none"),
            "period": bool(self.option("data", "period")),
            "history": bool(self.option("data", "history")),
            "hidden": bool(self.option("data", "hidden")),
            "start": bool(self.config.get("start") or self.option("data", "start")),
            "timing": bool(self.config.get("timing")),
        }
        return {name for name, there in present.items() if there}

    @cached_property
    def kind(self) -> str:
        """All that the numbers depend on but the seed, written the same way for runs and trials.

        The preset's name is not part of it: two presets may have the same options.
        """
        parts = {
            part: dict(self.config.get(part, {})) for part in ("run", "backbone", "alignment", "training")
        }
        for name in ("seed", "preset"):
            parts["run"].pop(name, None)
        # Whatever a trial changes in the data stands there: results on changed data are never another seed of a run.
        data = {**(self.config.get("data") or {}), "semantics": None, "start": None}
        data["shuffle"] = None if data.get("shuffle") == "none" else data.get("shuffle")
        data["noise"] = data.get("noise") or None
        start = self.option("start", "alignment") or self.option("data", "start")
        every = {**parts, "data": data, "start": start, "timing": self.config.get("timing")}
        return json.dumps(_without_unset(every), sort_keys=True, default=str)

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """A record per epoch; empty if the run kept none."""
        path = self.folder / "metrics.jsonl"
        records: list[Any] = read_json_lines(path) if path.exists() else []
        for number, record in enumerate(records, 1):
            if not isinstance(record, dict) or not isinstance(record.get("valid", {}), dict):
                raise WorkspaceError(f"{path}, line {number} is not the record of an epoch")
        return records

    @cached_property
    def table(self) -> pl.DataFrame:
        """The test metrics of each user."""
        return self.per_user().sort("user")


@dataclass(frozen=True, eq=False)
class Group(RunGroup):
    """Runs that differ in nothing but their seed, in the order of their seeds."""

    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The run that charts and maps show."""
        return self.runs[0]

    @cached_property
    def table(self) -> pl.DataFrame:
        """The test metrics of each user, averaged over seeds.

        Raises:
            WorkspaceError: a run kept none.
        """
        return average([run.table for run in self.runs])


@dataclass
class Inputs:
    """What a workspace holds.

    Args:
        workspace: it.
        experiments: whose records may be in it.
        dataset: None if there is none that can be read.
        text_embeddings: of its runs; None likewise.
        text_manifests: name → manifest of all text embeddings that its runs read, or of ``text_embeddings`` alone.
        groups: runs on this dataset (without one, on the dataset of most runs) by all but their seed, those without
            alignment first. The trials of sweeps are not among them, nor are the following.
        noisy: trials with noise added to the training split.
        shuffled: trials whose text embeddings were given to the wrong nodes.
        others: trials of a part of the history, with hidden users or items, started from others, or timed: they
            appear in tables only.
        left_out: what could not be read, in words.
    """

    workspace: Workspace
    experiments: Sequence[Experiment] = ()
    dataset: Dataset | None = None
    text_embeddings: TextEmbeddings | None = None
    text_manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    noisy: list[Group] = field(default_factory=list)
    shuffled: list[Group] = field(default_factory=list)
    others: list[Group] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    _rankings: dict[str, Ranking | None] = field(default_factory=dict, init=False, repr=False)

    def backbones(self) -> list[str]:
        """Return the backbones that were trained, sorted by name."""
        return sorted({group.first.backbone for group in self.groups})

    def of_backbone(self, backbone: str) -> list[Group]:
        """Return its groups; those without alignment first."""
        return [group for group in self.groups if group.first.backbone == backbone]

    def base_of(self, group: Group) -> Group | None:
        """Return what a group is compared with: of its backbone's groups without text, that of the nearest options.

        None for a group without alignment, unless it is a closed form that was fitted with texts.
        """
        bases = [
            base for base in self.of_backbone(group.first.backbone) if base.first.is_base_of(group.first)
        ]
        seeds = {*group.seeds}
        return min(
            bases,
            key=lambda base: (len(options_apart([base, group])), -len(seeds & {*base.seeds})),
            default=None,
        )

    def by_base(self, backbone: str) -> list[tuple[Group, list[Group]]]:
        """Return each base of a backbone's groups with the groups that are compared with it."""
        found: dict[str, tuple[Group, list[Group]]] = {}
        for group in self.of_backbone(backbone):
            base = self.base_of(group)
            if base is not None:
                found.setdefault(base.name, (base, []))[1].append(group)
        return [*found.values()]

    def recommender(self, group: Group) -> Recommender | None:
        """Load the recommender of a group's first run; if that fails, note why and return None."""
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
        """Rank all items for the test users with a group's first run; None if that is impossible."""
        assert self.dataset is not None
        if group.name not in self._rankings:
            recommender = self.recommender(group)
            self._rankings[group.name] = None
            if recommender is not None and len(self.dataset.test):
                self._rankings[group.name] = evaluate(recommender.scorer(), self.dataset, k=(LIST_LENGTH,))
        return self._rankings[group.name]

    def records(self, path: Path) -> list[TrialRecord]:
        """Read a file of records, the last of each id; if it is damaged, note that and return none."""
        try:
            return list(Results[TrialRecord](path).records.values())
        except RlmrecError as error:
            self.leave_out(str(error))
            return []

    def leave_out(self, why: str) -> None:
        """Note what could not be read; the report lists it."""
        if why not in self.left_out:
            self.left_out.append(why)


def options_apart(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Return the options in which groups differ apart from text: not their alignment, nor texts that only some read.

    Seeds do not count, nor the preset's name: its options do.
    """
    found = differing_options(groups)
    without = any(group.first.option("data", "texts") is None for group in groups)
    for name in ("seed", "preset", *(["texts", *TEXT_WEIGHTS] if without else [])):
        found.pop(name, None)
    return found


def collect(
    workspace: Workspace, names: Sequence[str] | None = None, experiments: Sequence[Experiment] = ()
) -> Inputs:
    """Read a workspace. What is missing is left out; what is damaged is left out and noted.

    Args:
        workspace: to read.
        names: of the runs to report; None takes all that have ended.
        experiments: to look for, besides those whose files are in the workspace.

    Raises:
        WorkspaceError: a named run does not exist or has not ended.
    """
    inputs = Inputs(workspace, [*experiments])
    for path in sorted(workspace.experiments_path.glob("*/*.toml")):
        if path.stem == path.parent.name and path.stem not in {one.name for one in experiments}:
            inputs.experiments = [*inputs.experiments, *_tried(inputs, "", lambda: Experiment.read(path))]  # noqa: B023
    if (workspace.dataset_path / "dataset.json").exists():
        inputs.dataset = next(iter(_tried(inputs, "", workspace.dataset)), None)
    runs = _unique_runs(inputs, _folders(inputs, names))
    if inputs.dataset is not None:
        fingerprint = inputs.dataset.fingerprint
    else:  # most of the report needs no dataset, only runs of the same one
        counted = Counter(run.option("data", "dataset") for run in runs)
        fingerprint = counted.most_common(1)[0][0] if counted else ""
    here = [run for run in runs if run.option("data", "dataset") == fingerprint]
    # A run that started from another one is shown among the runs; such a trial belongs to its experiment's table.
    inputs.groups = _groups(
        run for run in here if not run.conditions or (run.trial is None and run.conditions == {"start"})
    )
    inputs.noisy = _groups(run for run in here if run.conditions == {"noise"})
    inputs.shuffled = _groups(run for run in here if run.conditions == {"shuffle"})
    shown = {run.folder for group in (*inputs.groups, *inputs.noisy, *inputs.shuffled) for run in group.runs}
    inputs.others = _groups(run for run in here if run.folder not in shown)
    elsewhere = [run.name for run in runs if run not in here]
    if elsewhere:
        inputs.leave_out(f"runs on another dataset: {', '.join(elsewhere)}")
    _read_text_embeddings(inputs)
    return inputs


def _tried(inputs: Inputs, what: str, read: Callable[[], Any]) -> list[Any]:
    """Return a list with what ``read`` returns; empty, with a note in the report, if it is damaged."""
    try:
        return [read()]
    except (RlmrecError, KeyError, TypeError, AttributeError) as error:
        inputs.leave_out(f"{what}: {error}" if what else str(error))
        return []


def _folders(inputs: Inputs, names: Sequence[str] | None) -> list[Path]:
    """Return the folders of the runs and trials to read; note those that have not ended."""
    workspace = inputs.workspace
    if names is not None:
        return [workspace.finished_run(name) for name in dict.fromkeys(names)]
    begun = ("[!.]*/config.toml", "[!.]*/metrics.json")
    runs, trials = (
        sorted({path.parent for pattern in begun for path in folder.glob(pattern)})
        for folder in (workspace.path / "runs", workspace.trials_path)
    )
    for folder in runs:
        if not (folder / "metrics.json").exists():
            inputs.leave_out(f"run {folder.name} has not ended: repeat its command to continue it")
    pruned = _ids(inputs, "sweeps/*/trials.jsonl", {"pruned"})
    unfinished = sum(not (folder / "metrics.json").exists() for folder in trials if folder.name not in pruned)
    if unfinished:
        have, their, them = (
            ("trial has", "its", "it") if unfinished == 1 else ("trials have", "their", "them")
        )
        inputs.leave_out(
            f"{unfinished} {have} not ended: repeat the command of {their} experiment or sweep to continue {them}"
        )
    of_sweeps = _ids(inputs, "sweeps/*/trials.jsonl") - _ids(inputs, "experiments/*/*.jsonl")
    # Trials of sweeps were run to choose among them on validation: their test metrics are not results.
    kept = [*runs, *(folder for folder in trials if folder.name not in of_sweeps)]
    return [folder for folder in kept if (folder / "metrics.json").exists()]


def _ids(inputs: Inputs, pattern: str, statuses: Container[str] | None = None) -> set[str]:
    """Return the ids of the trials in files of records, of all statuses or some."""
    records = [
        record for path in sorted(inputs.workspace.path.glob(pattern)) for record in inputs.records(path)
    ]
    return {record["id"] for record in records if statuses is None or record["status"] in statuses}


def _unique_runs(inputs: Inputs, folders: Sequence[Path]) -> list[Run]:
    """Read runs and trials. Of several with the same options and seed the first one counts."""
    found: dict[tuple[str, Any], Run] = {}
    for folder in folders:
        is_trial = folder.parent == inputs.workspace.trials_path
        for run in _tried(
            inputs, f"{'trial' if is_trial else 'run'} {folder.name}", lambda: _read(folder, is_trial)  # noqa: B023
        ):  # fmt: skip
            if run.option("data", "final"):
                inputs.leave_out(f"run {run.name}: trained on everything (--final), so it has no test figure")
                continue
            twin = found.setdefault((run.kind, run.option("run", "seed")), run)
            if twin is not run and not is_trial:  # trials are often copies of runs; two runs are a surprise
                inputs.leave_out(
                    f"run {run.name}: run {twin.name} has the same options and seed, and counts once"
                )
    return list(found.values())


def _read(folder: Path, is_trial: bool) -> Run:
    metrics = read_json(folder / "metrics.json")
    trial = None
    if is_trial:
        if not (folder / "cell.json").exists():
            raise WorkspaceError(
                "its description is missing: repeat the command of its experiment or sweep to write it"
            )
        trial = read_json(folder / "cell.json")
    run = Run(folder.name if trial is None else trial["label"], folder, metrics, trial)
    if not isinstance(run.metrics.get("config"), dict):
        raise TypeError("no configuration in metrics.json")
    if run.metrics.get("test"):
        _ = run.table, run.history  # reads them, so that damaged files are noted here
    _ = run.kind
    return run


def _read_text_embeddings(inputs: Inputs) -> None:
    """Set the text embeddings that a run was trained with, or the first that can be read, and the manifests of all."""
    dataset = inputs.dataset
    if dataset is None:
        return
    every = (*inputs.groups, *inputs.noisy, *inputs.shuffled, *inputs.others)
    used = [group.first.option("data", "texts") for group in every]
    found: dict[str, TextEmbeddings] = {}
    for name in inputs.workspace.text_embeddings_names():
        for one in _tried(inputs, "", lambda: inputs.workspace.text_embeddings(dataset, name)):  # noqa: B023
            found[name] = one
    of_runs = {name: one for name, one in found.items() if one.digest in used} or dict([*found.items()][:1])
    shown = {group.first.option("data", "texts") for group in inputs.groups}
    of_groups = [one for one in of_runs.values() if one.digest in shown]
    inputs.text_embeddings = next(iter([*of_groups, *of_runs.values()]), None)
    inputs.text_manifests = {name: one.manifest for name, one in of_runs.items()}


def _without_unset(values: dict[str, Any]) -> dict[str, Any]:
    """Drop what is not set, however that is written."""
    return {
        name: _without_unset(value) if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None and value != ""
    }


def _groups(runs: Iterable[Run]) -> list[Group]:
    """Group runs by their configuration without the seed, whatever they are called."""
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
            name = with_texts(_common_name(same), same[0])
        groups.append(Group(name, tuple(same)))
    groups = [
        replace(group, name=f"{group.name}, {what}") if what else group
        for group in groups
        for what in [_difference(group, [other for other in groups if other.name == group.name])]
    ]
    order = list(ALIGNMENTS)

    def sort_key(group: Group) -> tuple[str, bool, int, str]:
        run = group.first
        alignment = run.option("run", "alignment")
        place = order.index(alignment) if alignment in order else len(order)
        return run.backbone, not run.is_base, place, group.name

    return sorted(groups, key=sort_key)


def _common_name(runs: Sequence[Run]) -> str:
    """Return what the runs of one group are called together: if possible, their name without the seed."""
    if len(runs) == 1:
        return runs[0].name
    runs = [run for run in runs if run.trial is None]
    for names in (
        {without_seed(run.name) for run in runs},
        {re.sub(rf"[-_. ]*(seed|s)?[-_. ]*{run.seed}$", "", run.name) for run in runs},
    ):
        if len(names) == 1 and (name := names.pop()):
            return name
    return f"{runs[0].name} and {len(runs) - 1} more"


def _difference(group: Group, namesakes: Sequence[Group]) -> str:
    """Return the options that distinguish a group from others of its name; "" if there is no other."""

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
