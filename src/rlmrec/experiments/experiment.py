"""Experiment: a grid of trials as a table, described by a TOML file: one of the paper's in ``tables/``, or your own."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from rlmrec.alignment import ALIGNMENTS, alignment_label
from rlmrec.backbones import BACKBONES
from rlmrec.errors import ConfigError
from rlmrec.evaluation.compare import compare_pairs, comparisons_as_dict
from rlmrec.evaluation.ranking import PER_USER, read_table
from rlmrec.experiments.run import SEMANTIC_ONLY, K
from rlmrec.experiments.runner import Line
from rlmrec.experiments.spec import RunSpec, flat_options, option_names, own_labels, read_toml
from rlmrec.experiments.trial import Trial, TrialInputs, of_period
from rlmrec.paper.figures import FIGURES
from rlmrec.registry import short_name
from rlmrec.workspace import DEFAULT_TEXT_EMBEDDINGS

# What a grid may vary, with what holds where it says nothing.
AXES: dict[str, Any] = {
    "backbone": "lightgcn",
    "alignment": "none",
    "semantics": DEFAULT_TEXT_EMBEDDINGS,
    "shuffle": "none",
    "noise": 0.0,
    "period": "",
    "start": "random",
}
CUTS = {"": "–", "later": "at one moment", "later, by user": "within each user's history"}
NO_TEXT = "–"
# What makes a row, as ``coordinates`` says it.
COORDINATES = ("backbone", "variant", "semantics", "shuffle", "noise", "cut", "start")
# Of the test split, user by user, and numbers of the line itself.
METRICS = {f"{name}@{k}" for name in PER_USER for k in K} | {"seconds_per_epoch", "seconds", "epochs"}
# What a file may say: its type, the type in words, whether it must.
_KEYS: dict[str, tuple[type, str, bool]] = {
    "title": (str, "a text", True),
    "metrics": (list, 'a list such as ["recall@20"]', True),
    "rows": (list, f"a list of {', '.join(COORDINATES)}", True),
    "seeds": (int, "a number of seeds", True),
    "grid": (list, "one or more tables [[grid]]", True),
    "against": (dict, 'coordinates such as {variant = "Base"}', False),
    "reference": (dict, 'coordinates such as {noise = "0 %"}', False),
    "timing": (bool, "true or false", False),
    "options": (dict, "a table [options]", False),
}

Point = dict[str, Any]  # an axis → its value, and the seed
Coordinates = dict[str, str]
Row = tuple[str, ...]  # the coordinates that make a row of the table


@dataclass(frozen=True)
class Experiment:
    """What ``tables/<name>.toml``, or a file of your own, says.

        title = "…"
        metrics = ["recall@20", "ndcg@20"]   # of the test split, or a number of the line: "seconds_per_epoch"
        rows = ["backbone", "variant"]       # coordinates that make a row; its trials differ in their seed
        against = {variant = "Base"}         # each row is tested against the one with these coordinates
        reference = {noise = "0 %"}          # and its change to this one is shown
        seeds = 5
        timing = true                        # seconds are what is measured: trials run one by one
        [options]                            # of every trial
        [[grid]]                             # one or more: lists of ``AXES``
        backbone = ["lightgcn"]
        alignment = ["none", "contrastive"]

    ``semantics = "*"`` stands for all text vectors that the workspace has.

    Args:
        name: of the file.
        values: its content.

    Raises:
        ConfigError: something lacks, or is said that is not understood.
    """

    name: str
    values: Mapping[str, Any]

    def __post_init__(self) -> None:
        for key, (kind, what, required) in _KEYS.items():
            if required and key not in self.values:
                raise ConfigError(f"{self.name} has no {key}: expected {what}")
            if key in self.values and not isinstance(self.values[key], kind):
                raise ConfigError(f"{self.name}: {key} = {self.values[key]!r}, expected {what}")
        unknown = set(self.values) - set(_KEYS)
        if unknown:
            raise ConfigError(f"{self.name} says {', '.join(sorted(unknown))}: expected {', '.join(_KEYS)}")
        unknown = set(self.values["metrics"]) - METRICS
        if unknown:
            listed = ", ".join(sorted(map(str, unknown)))
            raise ConfigError(f"{self.name}: metrics has {listed}, expected of {', '.join(sorted(METRICS))}")
        for key in ("rows", "against", "reference"):
            unknown = set(self.values.get(key, ())) - set(COORDINATES if key == "rows" else self.rows)
            if unknown:
                known = ", ".join(COORDINATES if key == "rows" else self.rows)
                raise ConfigError(f"{self.name}: {key} has {', '.join(sorted(unknown))}, expected of {known}")
        for grid in self.values["grid"]:
            unknown = set(grid) - set(AXES)
            if unknown:
                raise ConfigError(
                    f"{self.name} varies {', '.join(sorted(unknown))}: a grid may vary {', '.join(AXES)}"
                )
            for axis, values in grid.items():
                if not (isinstance(values, list) and values) and not (axis == "semantics" and values == "*"):
                    raise ConfigError(f"{self.name}: {axis} = {values!r}, expected a list of values")

    @classmethod
    def load(cls, name: str) -> Experiment:
        """The experiment called ``name``, or that of the file ``name`` if it ends in .toml.

        Raises:
            ConfigError: there is none, it has the name of one of the paper's, or it says what none can.
        """
        if name.endswith(".toml"):
            path = Path(name)
            if path.stem in (*FIGURES, *experiment_names()):
                raise ConfigError(f"{name}: {path.stem} is the paper's: give the file another name")
            return cls(path.stem, read_toml(path))
        if name not in experiment_names():
            raise ConfigError(
                f"unknown experiment {name!r}: expected one of {', '.join(experiment_names())}, or a file's path "
                "ending in .toml"
            )
        text = (resources.files("rlmrec.paper") / "tables" / f"{name}.toml").read_text(encoding="utf-8")
        return cls(name, tomllib.loads(text))

    @property
    def title(self) -> str:
        """For people."""
        return str(self.values["title"])

    @property
    def metrics(self) -> list[str]:
        """What the table shows."""
        return list(self.values["metrics"])

    @property
    def rows(self) -> list[str]:
        """The names of the coordinates that make a row."""
        return list(self.values["rows"])

    @property
    def is_timing(self) -> bool:
        """Whether seconds are what is measured."""
        return bool(self.values.get("timing", False))

    @property
    def seeds(self) -> int:
        """How many, from 1 on, unless asked otherwise."""
        return int(self.values["seeds"])

    def points(self, text_embeddings: Sequence[str], seeds: int | None = None) -> Iterator[Point]:
        """All points of the grids.

        Args:
            semantics: the names of the text vectors at hand.
            seeds: how many.
        """
        for grid in self.values["grid"]:
            axes = {axis: grid.get(axis, [default]) for axis, default in AXES.items()}
            if axes["semantics"] == "*":
                axes["semantics"] = list(text_embeddings)
            for values in itertools.product(*axes.values()):
                # What is no model has no seed.
                count = 1 if values[0] == SEMANTIC_ONLY else seeds or self.seeds
                for seed in range(1, count + 1):
                    yield {**dict(zip(axes, values, strict=True)), "seed": seed}

    def trials(
        self,
        inputs: TrialInputs,
        preset: str,
        options: Mapping[str, Any],
        *,
        seeds: int | None = None,
        only: Mapping[str, Sequence[str]] | None = None,
        timing: str = "",
    ) -> tuple[list[Trial], list[Trial]]:
        """The trials to run in a workspace, and those that lack text vectors and are left out.

        Args:
            materials: of the workspace.
            preset: where each cell's options come from.
            options: over the preset; each goes to the trials that have it.
            seeds: how many, from 1 on.
            only: axis → values to keep.
            timing: device and threads, where seconds are measured.

        Raises:
            ConfigError: an unknown axis or option, or nothing is left.
            DataError: a trial needs timestamps and there are none.
        """
        chosen = {**self.values.get("options", {}), **options}
        names = inputs.place.text_embeddings_names()
        points = _chosen(list(self.points(names, seeds)), only or {}, self.name)
        if not points:
            raise ConfigError(
                f"{self.name} has no trial with all of --only"
                if only
                else f"{self.name} has no trial with these text vectors: run rlmrec encode"
            )
        if any(point["period"] for point in points):
            of_period(inputs.dataset, None, "later")  # says now what is missing, not once a trial
        runnable: list[Trial] = []
        lacking: list[Trial] = []
        used: set[str] = set()
        for point in points:
            trial = self._trial(point, inputs, names, preset, chosen, used)
            target = runnable if trial.texts is not None or not _needs_text(trial) else lacking
            target.append(replace(trial, timing=timing) if self.is_timing else trial)
        unknown = set(flat_options(chosen)) - used
        if unknown:
            raise ConfigError(f"no trial of {self.name} has an option {', '.join(sorted(unknown))}")
        return runnable, lacking

    def _trial(
        self,
        point: Point,
        inputs: TrialInputs,
        names: Sequence[str],
        preset: str,
        options: Mapping[str, Any],
        used: set[str],
    ) -> Trial:
        fingerprint = inputs.dataset.fingerprint
        if point["backbone"] == SEMANTIC_ONLY:
            spec = None
        else:
            spec = _resolve(point["backbone"], point["alignment"], preset, point["seed"], options, used)
        text: dict[str, Any] = {}
        if spec is None or spec.needs_text:
            text = {"text_embeddings": point["semantics"], "shuffle": point["shuffle"]}
            if point["semantics"] in names:
                text["texts"] = inputs.text_embeddings(point["semantics"]).digest
        start = None
        if point["start"] != "random":
            earlier = {**point, "alignment": point["start"], "start": "random"}
            earlier["period"] = point["period"].replace("later", "earlier")
            start = self._trial(earlier, inputs, names, preset, options, used)
        return Trial(spec, fingerprint, noise=point["noise"], period=point["period"], start=start, **text)

    def row(self, trial: Mapping[str, Any]) -> Row | None:
        """The row of a cell's dict (``Trial.as_dict``); None if it only made tables that others start from."""
        if str(trial["data"]["period"]).startswith("earlier"):
            return None
        found = coordinates(trial)
        return tuple(found[name] for name in self.rows)

    def other_row(self, row: Row, which: str) -> Row | None:
        """The row that ``row`` is tested "against", or its "reference"; None if it is itself or there is none."""
        if which not in self.values:
            return None
        other = tuple({**dict(zip(self.rows, row, strict=True)), **self.values[which]}.values())
        return None if other == row else other

    @cached_property
    def known_rows(self) -> list[Row]:
        """The rows in the order of the grids, with the default text vectors where any may stand."""
        rows: dict[Row, None] = {}
        for point in self.points([DEFAULT_TEXT_EMBEDDINGS], 1):
            run = {"backbone": point["backbone"], "alignment": point["alignment"]}
            run |= own_labels(point["backbone"], point["alignment"])
            start = None if point["start"] == "random" else {"alignment": point["start"]}
            row = self.row({"run": run, "data": point, "start": start})
            if row is not None:
                rows[row] = None
        return list(rows)

    def place(self, row: Row) -> tuple[tuple[int, str], ...]:
        """What rows are sorted by: column by column in the order in which the grids name the values."""
        columns = [list(dict.fromkeys(values)) for values in zip(*self.known_rows, strict=True)]
        return tuple(
            (known.index(value) if value in known else len(known), value)
            for known, value in zip(columns, row, strict=True)
        )


def experiment_names() -> list[str]:
    """Of those described by a TOML file."""
    folder = resources.files("rlmrec.paper") / "tables"
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))


def experiments_of(results: Path) -> list[Experiment]:
    """The paper's, and those of your own that were run: their files lie beside their lines.

    Raises:
        ConfigError: a file beside lines says what no experiment can.
    """
    own = sorted(path for path in results.glob("*/*.toml") if path.stem == path.parent.name)
    return [*map(Experiment.load, experiment_names()), *(Experiment.load(str(path)) for path in own)]


def coordinates(trial: Mapping[str, Any]) -> Coordinates:
    """Where a trial stands, in the words of the tables."""
    run, data = trial["run"], trial["data"]
    backbone, alignment = run["backbone"], run["alignment"]
    kinds = BACKBONES.known(backbone), ALIGNMENTS.known(alignment)
    variant = run.get("alignment_label") or alignment_label(alignment)
    label = run.get("backbone_label") or (short_name(backbone) if kinds[0] is None else kinds[0].label)
    # A class that is not imported here may read texts.
    reads_text = any(kind is None or kind.needs_text for kind in kinds)
    if backbone == SEMANTIC_ONLY:
        label, variant = "–", "Semantic embeddings only"
    elif kinds[0] is not None and kinds[0].enhancement:
        variant = kinds[0].enhancement + (f" + {variant}" if alignment != "none" else "")
    return {
        "backbone": label,
        "variant": variant,
        "semantics": str(data["semantics"]) if reads_text else NO_TEXT,
        "shuffle": str(data["shuffle"]),
        "noise": f"{100 * data['noise']:g} %",
        "cut": CUTS.get(data["period"], str(data["period"])),
        "start": "None" if trial["start"] is None else alignment_label(trial["start"]["alignment"]),
    }


def significance(
    experiment: Experiment, lines: Sequence[Line], inputs: TrialInputs
) -> dict[Row, dict[str, dict[str, Any]]]:
    """Each row against the one it is tested against, over the test users (and seeds), Holm over the table.

    Args:
        experiment: whose ``against`` says which.
        lines: of trials that have ended well, each row's differing in their seed.
        materials: of the workspace that holds the values per user.

    Returns:
        row → metric → the fields of ``SeededComparison``.
    """
    tables: dict[Row, dict[int, pl.DataFrame]] = {}
    for line in lines:
        row = experiment.row(line["cell"])
        if row is not None and line["test"] is not None:
            path = inputs.place.trial(line["id"]) / "test.parquet"
            tables.setdefault(row, {})[line["cell"]["run"]["seed"]] = read_table(path)
    pairs = {}
    for row, of_row in tables.items():
        base = experiment.other_row(row, "against")
        if base is not None and base in tables:
            pairs["\n".join(row)] = of_row, tables[base]
    metrics = [name for name in experiment.metrics if "@" in name]
    compared = comparisons_as_dict(compare_pairs(pairs, metrics))
    return {tuple(key.split("\n")): found for key, found in compared.items()}


def _resolve(
    backbone: str, alignment: str, preset: str, seed: int, options: Mapping[str, Any], used: set[str]
) -> RunSpec:
    """A spec with those of the options that it has; ``used`` collects them."""
    known = option_names(backbone, alignment)
    own = {name: value for name, value in flat_options(options).items() if name in known}
    used.update(own)
    return RunSpec.resolve(backbone, alignment, preset, seed, own)


def _needs_text(trial: Trial) -> bool:
    return trial.spec is None or trial.spec.needs_text


def _chosen(points: Sequence[Point], only: Mapping[str, Sequence[str]], name: str) -> list[Point]:
    """The points that ``--only`` keeps.

    Raises:
        ConfigError: an axis or a value that no point has: left alone, a slip of the pen would run half a table.
    """
    every = points
    for axis, values in only.items():
        if axis not in AXES and axis != "seed":
            raise ConfigError(
                f"--only {axis}={','.join(values)}: expected one of {', '.join(AXES)}, seed before ="
            )
        known = list(dict.fromkeys(point[axis] for point in every))
        asked = _values(values, known)
        unknown = [value for value in asked if value not in known]
        if unknown:
            raise ConfigError(
                f"--only {axis}: {name} has no {', '.join(map(repr, unknown))} there; expected "
                f"{', '.join(map(str, known)) or 'other text vectors: run rlmrec encode'}"
            )
        points = [point for point in points if point[axis] in asked]
    return list(points)


def _values(words: Sequence[str], known: Sequence[Any]) -> list[Any]:
    """What was asked for between commas. A name may have a comma itself: the longest known one counts."""
    found: list[Any] = []
    place = 0
    while place < len(words):
        for end in range(len(words), place, -1):
            word = ", ".join(words[place:end])
            match = next((value for value in known if _same(word, value)), word)
            if match in known or end == place + 1:
                found.append(match)
                place = end
                break
    return found


def _same(word: str, value: Any) -> bool:
    if isinstance(value, str):
        return word == value
    try:
        return float(word) == float(value)
    except ValueError:
        return False
