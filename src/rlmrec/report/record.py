"""Sections of the report: tables of experiments, profiles with their reasoning, costs, how to repeat everything."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tomli_w

from rlmrec.data.dataset import Dataset
from rlmrec.data.metadata import item_labels
from rlmrec.errors import RlmrecError
from rlmrec.experiments.trial import split_period
from rlmrec.llm.base import Usage
from rlmrec.llm.store import Profile, Store
from rlmrec.profiles.parse import cut_words
from rlmrec.report import hidden, history
from rlmrec.report.blocks import Block, Card, Code, Options, Section, Text
from rlmrec.report.collect import Inputs, Run
from rlmrec.report.experiments import Summary, summarize, tables_of
from rlmrec.report.tables import ResultTable, Value
from rlmrec.text import DEFAULT_TEXT_EMBEDDINGS

STALE = "stale: written for another split or other texts"


def experiments(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Return the tables of the experiments that were run."""
    blocks: list[Block] = []
    short: list[Summary] = []
    hidden_shown = False
    for experiment in inputs.experiments:
        for path in sorted((inputs.workspace.experiments_path / experiment.name).glob("*.jsonl")):
            try:
                summary = summarize(experiment, path)
            except RlmrecError as error:
                inputs.leave_out(str(error))
                continue
            tables = tables_of(summary) if summary.rows else []
            if tables and experiment.name == hidden.NAME and not hidden_shown:
                tables[0] = replace(tables[0], anchor=hidden.ANCHOR)
                hidden_shown = True
            blocks += tables
            short += [summary] * (experiment.name == history.NAME)
    chart = history.gain_chart(short)
    blocks = blocks if chart is None else [chart, *blocks]
    return Section("tables", "Experiments", blocks) if blocks else None


def profiles(inputs: Inputs, options: Options) -> Section | None:
    """Return how many profiles there are, failed and are stale, and some of them with their reasoning."""
    path = inputs.workspace.profiles_path
    if not path.exists():
        return None
    try:
        with Store(path, create=False) as store:
            found = {kind: list(store.profiles(kind)) for kind in ("item", "user")}
            count, usage = store.usage()
            models = store.models()
    except RlmrecError as error:
        inputs.leave_out(str(error))
        return None
    if not any(found.values()):
        return None
    data, others = inputs.dataset, 0
    if data is not None:
        nodes = {"item": data.items, "user": data.users}
        own = {kind: [one for one in listed if one.key in nodes[kind]] for kind, listed in found.items()}
        others = sum(map(len, found.values())) - sum(map(len, own.values()))
        found = own
    rows: list[list[Value]] = []
    stale = []
    for kind, listed in found.items():
        good = [profile for profile in listed if profile.summarization is not None]
        words = [len((profile.summarization or "").split()) for profile in good]
        total = n_stale = None
        if data is not None:
            old = sum(_is_stale(profile, data) for profile in listed)
            total, n_stale = f"{len(nodes[kind]):,}", f"{old:,}"
            stale += [f"--{kind}s"] * bool(old)
        rows.append(
            [f"{kind}s", total, f"{len(good):,}", f"{len(listed) - len(good):,}", n_stale,
             f"{np.median(words):g}" if words else None]
        )  # fmt: skip
    names = ", ".join(f"{name} ({answers:,} answers)" for name, _, answers in models)
    spent = _spent(count, usage, options)
    blocks: list[Block] = [
        ResultTable(["", "in the dataset", "profiled", "failed", "stale", "words, median"], rows),
        Text(f"Written by {names or 'an unnamed model'}: {spent}."),
    ]
    if stale:
        blocks.append(
            Text(
                "Stale profiles were written for another dataset, split or other texts than the present ones and may "
                "quote interactions that are held out now: rlmrec encode refuses them. Text embeddings made of them "
                f"earlier are unchanged. 'rlmrec profile {' '.join(stale)}' with the same options as before re-sends "
                "only prompts that changed."
            )
        )
    if others:
        blocks.append(
            Text(
                f"{others:,} profiles belong to items or users that are not in the dataset; they are not counted."
            )
        )
    labels = {}
    if data is not None:
        labels = dict(zip(data.items.ids, item_labels(data), strict=True))
    for kind, listed in found.items():
        for why, profile in _examples(data, kind, listed, options.examples):
            name = labels.get(profile.key, f"item {profile.key}") if kind == "item" else f"user {profile.key}"
            entries = [("profile", profile.summarization or "–"), ("reasoning", profile.reasoning or "–")]
            is_stale = data is not None and _is_stale(profile, data)
            notes = [STALE] * is_stale + [why] * bool(why) + list(profile.notes)
            blocks.append(Card(cut_words(name, 14), entries, "; ".join(notes)))
    return Section("profiles", "Profiles", blocks)


def _spent(count: int, usage: Usage, options: Options) -> str:
    spent = f"{count:,} answers, {usage.prompt:,} prompt and {usage.completion:,} answer tokens"
    if options.price is not None:
        spent += f", at most {options.price.of(usage):.2f} in money"
    return spent


def _is_stale(profile: Profile, data: Dataset) -> bool:
    """Return whether a profile was written for another dataset, split or other texts, as ``rlmrec audit`` does."""
    return not data.keeps_profile(profile.kind, profile.key, profile.dataset)


def _examples(
    data: Dataset | None, kind: str, listed: Sequence[Profile], count: int
) -> list[tuple[str, Profile]]:
    """Choose profiles from the most to the least popular or active, evenly: pairs of reason and profile."""
    good = [profile for profile in listed if profile.summarization is not None]
    if data is None:
        return [("", profile) for profile in good[:count]]
    ids = data.items if kind == "item" else data.users
    degrees = data.train.item_degrees() if kind == "item" else data.train.user_degrees()
    known = [(int(degrees[ids.row(profile.key)]), profile) for profile in good if profile.key in ids]
    known.sort(key=lambda pair: -pair[0])
    places = sorted({round(place) for place in np.linspace(0, len(known) - 1, min(count, len(known)))})
    return [(f"{known[place][0]:,} training interactions", known[place][1]) for place in places]


def costs(inputs: Inputs, options: Options) -> Section | None:
    """Return seconds of training and evaluation, and the tokens of the language model."""
    rows: list[list[Value]] = []
    for group in inputs.groups:

        def mean(name: str, form: str, plus: int = 0, runs: Sequence[Run] = group.runs) -> str | None:
            values = [run.metrics[name] + plus for run in runs if run.metrics.get(name) is not None]
            return format(float(np.mean(values)), form) if values else None

        spent = [sum(record.get("seconds", 0.0) for record in run.history) for run in group.runs]
        spent = [one or run.metrics.get("seconds", 0.0) for one, run in zip(spent, group.runs, strict=True)]
        trained = any(run.metrics.get("epochs") for run in group.runs)  # a closed form has no epochs
        rows.append(
            [
                group.name,
                group.first.model,
                mean("seconds_per_epoch", ".3g") if trained else None,
                mean("epochs", ".0f") if trained else None,
                mean("best_epoch", ".0f", 1),  # epochs count from 0 in the records
                (f"{np.mean(spent):.1f}" if np.mean(spent) >= 0.05 else "<0.1") if any(spent) else None,
                mean("seconds_evaluation", ".3g"),
                _devices(group.runs),
            ]
        )
    blocks: list[Block] = []
    if rows:
        blocks.append(
            ResultTable(
                [
                    "run",
                    "backbone",
                    "s/epoch",
                    "epochs",
                    "best after",
                    "s of training",
                    "s/evaluation",
                    "device",
                ],
                rows,
                text_columns=2,
                note="Means over seeds, measured on the machine of each run; other programs may have slowed it down.",
                anchor="t-costs",
            )
        )
    path = inputs.workspace.profiles_path
    if path.exists():
        try:
            with Store(path, create=False) as store:
                count, usage = store.usage()
            blocks.append(Text(f"Profiles: {_spent(count, usage, options)}."))
        except RlmrecError as error:
            inputs.leave_out(str(error))
    return Section("costs", "Costs and times", blocks) if blocks else None


def _devices(runs: Sequence[Run]) -> str:
    """ "cpu, 1 or 2 threads"."""
    made = [run.metrics.get("environment") or {} for run in runs]
    devices, threads = (sorted({str(one.get(name, "–")) for one in made}) for name in ("device", "threads"))
    return f"{' or '.join(devices)}, {' or '.join(threads)} thread{'s' * (threads != ['1'])}"


def repeat(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Return the configuration of everything, and the commands that repeat it."""
    blocks: list[Block] = []
    place = inputs.workspace.path.name or "."
    workspace = f"-w {shlex.quote(place)}"  # the commands name their files as they were given
    if inputs.groups or inputs.others:
        blocks.append(
            Text(
                f"Run each command in the folder that holds {place}/, with its dataset and text embeddings. It sets "
                "every option, and gives the same numbers with the same versions on the same kind of machine."
            )
        )
    experiment_of = _experiments(inputs)
    for group in [*inputs.groups, *inputs.noisy, *inputs.shuffled, *inputs.others]:
        if str(group.first.option("data", "period") or "").startswith("earlier"):
            continue  # the command of the trials that start from it trains it, too
        command = "\n".join(command_of(run, place, experiment_of) for run in group.runs)
        blocks.append(Code(group.name, f"{command}\n\n{_toml(group.first.config)}".strip()))
    if inputs.dataset is not None:
        made = dict(inputs.dataset.provenance)
        commands = "\n".join(f"{command} {workspace}" for command in made.pop("commands", []))
        blocks.append(Code("the dataset", f"{commands}\n\n{_toml(made)}".strip()))
    for name, manifest in inputs.text_manifests.items():
        kept = dict(manifest)
        own = "" if name == DEFAULT_TEXT_EMBEDDINGS else f" {name}"
        command = f"{kept.pop('command')} {workspace}" if "command" in kept else ""
        blocks.append(Code(f"the text embeddings{own}", f"{command}\n\n{_toml(kept)}".strip()))
    return Section("repeat", "How to repeat it", blocks) if blocks else None


def _experiments(inputs: Inputs) -> dict[str, str]:
    """Return trial → an experiment of the workspace that it belongs to, as rlmrec experiment takes it."""
    place = inputs.workspace
    found = {}
    for path in sorted(place.experiments_path.glob("*/*.jsonl")):
        own = path.with_name(f"{path.parent.name}.toml")
        name = (
            f"{place.path.name or '.'}/experiments/{own.parent.name}/{own.name}"
            if own.exists()
            else path.parent.name
        )
        found.update({record["id"]: name for record in inputs.records(path)})
    return found


def command_of(run: Run, place: str, experiment_of: Mapping[str, str]) -> str:
    """Return the command that repeats a run; "" if its configuration is not known.

    Args:
        run: the run or trial.
        place: the workspace, as the command names it.
        experiment_of: trial → the experiment that it belongs to.
    """
    config = run.config
    if not config.get("run", {}).get("preset"):
        return ""
    # A preset that is a file may be missing by now: the command sets every option, so that none is needed.
    preset = str(run.option("run", "preset"))
    if run.conditions - {"start"}:  # rlmrec train has no options for these
        name = experiment_of.get(run.folder.name)
        if name is None:
            return f"# trial {run.folder.name}: no experiment of this workspace has it"
        words = ["rlmrec", "experiment", name, "-w", place, "--seeds", str(run.option("run", "seed"))]
        for axis, value in _point(run).items():
            words += ["--only", f"{axis}={value}"]
    else:
        words = ["rlmrec", "train", "-w", place]
        words += ["--name", run.name] if run.trial is None else []
        texts = run.option("data", "semantics") or run.option("names", "semantics")
        if texts not in (None, DEFAULT_TEXT_EMBEDDINGS):
            words += ["--text-embeddings", str(texts)]
        for option in ("backbone", "alignment", "seed"):
            words += [f"--{option}", str(run.option("run", option))]
        if "start" in run.conditions:  # the configuration has a hash of the embeddings, not the run's name
            words += ["--start-from", "RUN"]
    words += ["--preset", preset] * (not preset.endswith(".toml"))
    for part in ("backbone", "alignment", "training"):
        for option, value in config.get(part, {}).items():
            if value is not None:
                words += ["--set", f"{option}={str(value).lower() if isinstance(value, bool) else value}"]
    return shlex.join(words)


def _point(run: Run) -> dict[str, Any]:
    """Return a trial's point in the grid of its experiment, as ``--only`` takes it."""
    data, start = run.config["data"], run.config.get("start")
    found = {name: run.option("run", name) for name in ("backbone", "alignment", "seed")}
    if run.option("data", "semantics"):
        found |= {"text_embeddings": data["semantics"], "shuffle": data["shuffle"]}
    found |= {"noise": f"{run.noise:g}"} if run.noise else {}
    found |= {name: data[name] for name in ("history", "keep", "hidden") if data.get(name)}
    if data.get("period"):
        period, cut = split_period(data["period"])
        found |= {"period": period, "cut": cut, "start": "random" if start is None else start["alignment"]}
    return found


def _toml(values: dict[str, Any]) -> str:
    return tomli_w.dumps(_without_none(values)) or "not recorded"


def _without_none(value: Any) -> Any:
    """Drop None, which TOML does not have; in a list it becomes an empty text."""
    if isinstance(value, dict):
        return {str(name): _without_none(entry) for name, entry in value.items() if entry is not None}
    if isinstance(value, list | tuple):
        return ["" if entry is None else _without_none(entry) for entry in value]
    return value if isinstance(value, str | bool | int | float) else str(value)
