"""Sweep: choose hyper-parameters by grid or by search (Optuna), on validation alone."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli_w

from rlmrec.alignment import ALIGNMENTS
from rlmrec.errors import ConfigError, did_you_mean
from rlmrec.evaluation.ranking import PER_USER
from rlmrec.experiments import DEFAULT_PRESET
from rlmrec.experiments.experiment import OLD_NAMES
from rlmrec.experiments.results import Results, TrialRecord
from rlmrec.experiments.run import K
from rlmrec.experiments.spec import (
    RunSpec,
    UnknownOptionError,
    flat_options,
    option_names,
    preset_options,
    read_toml,
)
from rlmrec.experiments.trial import Trial
from rlmrec.text import DEFAULT_TEXT_EMBEDDINGS, NO_TEXT_EMBEDDINGS
from rlmrec.text.embeddings import TextEmbeddings

KEYS = (
    "metric",
    "preset",
    "text_embeddings",
    "backbones",
    "alignments",
    "seeds",
    "options",
    "grid",
    "search",
)
RANGE = {"low", "high", "log", "step"}
SEARCH_KEYS = ("trials", "seed", "prune", "warmup")  # of [search], beside options
WARMUP = 15
Variant = tuple[str, str]  # backbone, alignment
Options = dict[str, Any]
MakeTrial = Callable[[RunSpec], Trial]


@dataclass(frozen=True)
class Sweep:
    """The hyper-parameters to try for each backbone and alignment, described by a TOML file.

        metric = "recall@20"            # of validation; the best candidate has the highest mean over seeds
        preset = "general"
        text_embeddings = "default"     # their name in the workspace
        backbones = ["lightgcn", "sgl"]
        alignments = ["none", "contrastive"]
        seeds = [1]
        [options]                       # of every candidate
        learning_rate = 5e-3
        [options.sgl]                   # of one backbone, one alignment, or [options.sgl.contrastive]
        layers = 2
        [grid]                          # each combination is a candidate
        l2 = [1e-7, 1e-6, 1e-5]
        [grid.contrastive]
        weight = [1e-3, 1e-2]

    Instead of a grid, a search with Optuna's seeded TPE sampler, with the same number of trials for each variant:

        [search]
        trials = 20
        seed = 0
        prune = true                    # end a training that falls behind, see below
        warmup = 15                     # but not in its first 15 epochs
        l2 = {low = 1e-7, high = 1e-4, log = true}
        layers = {low = 1, high = 4}    # whole numbers, because both ends are
        [search.contrastive]
        negatives = ["all-users", "batch"]

    A candidate is pruned (Optuna's median rule) when its best validation Recall@20 so far is below the median of the
    candidates of its variant at the same epoch. The first five candidates of a variant are trained to the end, closed
    forms always are. Of several seeds, the first decides.

    Args:
        name: of the sweep.
        values: the file's content.

    Raises:
        ConfigError: an unknown key, name or option, an invalid value, or both grid and search. With neither, each
            variant has one candidate.
    """

    name: str
    values: Mapping[str, Any]

    def __post_init__(self) -> None:
        current = {OLD_NAMES.get(key, key): value for key, value in self.values.items()}
        object.__setattr__(self, "values", current)
        unknown = set(self.values) - set(KEYS)
        if unknown:
            listed = ", ".join(f"{key!r}{did_you_mean(key, KEYS)}" for key in sorted(unknown))
            raise ConfigError(f"unknown key {listed}: a sweep has {', '.join(KEYS)}")
        if "grid" in self.values and "search" in self.values:
            raise ConfigError("a sweep has either [grid] or [search]")
        for key in ("backbones", "alignments", "seeds", "options", "grid", "search"):
            kind = dict if key in ("options", "grid", "search") else list
            if key in self.values and (not isinstance(self.values[key], kind) or not self.values[key]):
                raise ConfigError(
                    f"{key} = {self.values[key]!r}: expected a {'table' if kind is dict else 'list'}"
                )
        for key, member in (("backbones", str), ("alignments", str), ("seeds", int)):
            self._refuse_members(key, member)
        if self.metric not in {f"{name}@{k}" for name in PER_USER for k in K}:
            raise ConfigError(
                f"metric = {self.metric!r}: expected {', '.join(PER_USER)} @ {', '.join(map(str, K))}"
            )
        for section in ("options", "grid", "search"):
            self._refuse_other_variants(section)
        for variant in self.variants:
            for options in self.grid(variant) if not self.searches else [self.base(variant)]:
                self.spec(variant, options, self.seeds[0])
            if self.searches:
                for name, space in self.space(variant).items():
                    for value in (space["low"], space["high"]) if isinstance(space, dict) else space:
                        self.spec(variant, {**self.base(variant), name: value}, self.seeds[0])
        if self.searches:
            for key, least in (("trials", 1), ("seed", 0), ("warmup", 0)):
                value = self.values["search"].get(key, least)
                if not _is_whole(value, least):
                    raise ConfigError(f"search: {key} = {value!r}: expected a whole number, {least} or more")
            if not isinstance(self.prunes, bool):
                raise ConfigError(f"search: prune = {self.prunes!r}: expected true or false")

    def _refuse_members(self, key: str, kind: type) -> None:
        values = self.values.get(key, [])
        for value in values:
            if not (_is_whole(value, 0) if kind is int else isinstance(value, kind)):
                expected = "whole numbers, 0 or more" if kind is int else "names"
                raise ConfigError(f"{key} has {value!r}: expected {expected}")
        if len(set(values)) < len(values):
            raise ConfigError(f"{key} = {values!r}: expected each value once")

    @classmethod
    def read(cls, path: Path) -> Sweep:
        """Read the sweep that a TOML file describes; its name is the file's.

        Raises:
            ConfigError: no such file, no TOML, or no sweep.
        """
        return cls(path.stem, read_toml(path))

    @property
    def metric(self) -> str:
        """The metric on validation; higher is better."""
        return str(self.values.get("metric", "recall@20"))

    @property
    def preset(self) -> str:
        """The preset of the options that the sweep does not set."""
        return str(self.values.get("preset", DEFAULT_PRESET))

    @property
    def text_embeddings(self) -> str:
        """The name of the text embeddings."""
        return str(self.values.get("text_embeddings", DEFAULT_TEXT_EMBEDDINGS))

    @property
    def needs_text(self) -> bool:
        """Whether a candidate cannot do without the text embeddings, or reads those that the file names."""
        specs = [self.spec(variant, self.base(variant), self.seeds[0]) for variant in self.variants]
        is_named = self.values.get("text_embeddings", NO_TEXT_EMBEDDINGS) != NO_TEXT_EMBEDDINGS
        return any(spec.needs_text or (spec.reads_text and is_named) for spec in specs)

    @property
    def seeds(self) -> list[int]:
        """The seeds; each candidate has a trial for each of them."""
        return list(self.values.get("seeds", [0]))

    @property
    def searches(self) -> bool:
        """Whether Optuna proposes the candidates."""
        return "search" in self.values

    @property
    def candidates(self) -> int:
        """Number of candidates of each variant of a search."""
        return int(self.values["search"].get("trials", 20))

    @property
    def prunes(self) -> bool:
        """Whether a search ends the training of candidates that fall behind."""
        prunes: bool = self.values["search"].get("prune", True)
        return prunes

    @property
    def warmup(self) -> int:
        """Epochs in which no candidate is pruned; by default those that the default patience grants every run."""
        return int(self.values["search"].get("warmup", WARMUP))

    @cached_property
    def variants(self) -> list[Variant]:
        """All pairs of backbone and alignment."""
        backbones = self.values.get("backbones", ["lightgcn"])
        return list(itertools.product(backbones, self.values.get("alignments", list(ALIGNMENTS))))

    def section(self, name: str, variant: Variant) -> Options:
        """Return the values of [name] for a variant: those of the table, then those of the variant's own tables."""
        table = self.values.get(name, {})
        backbone, alignment = variant
        own = [
            table,
            table.get(backbone, {}),
            table.get(alignment, {}),
            table.get(backbone, {}).get(alignment, {}),
        ]
        merged: Options = {}
        for part in own:
            merged |= {key: value for key, value in flat_options(part).items() if not self._is_variant(key)}
        return merged

    def base(self, variant: Variant) -> Options:
        """Return the options of every candidate of a variant."""
        return self.section("options", variant)

    def grid(self, variant: Variant) -> Iterator[Options]:
        """Yield the options of each candidate of a grid."""
        axes = self.section("grid", variant)
        for name, values in axes.items():
            if not isinstance(values, list) or not values:
                raise ConfigError(f"grid: {name} = {values!r}: expected a list of values")
        for chosen in itertools.product(*axes.values()):
            yield {**self.base(variant), **dict(zip(axes, chosen, strict=True))}

    def space(self, variant: Variant) -> Options:
        """Return what a search may set: name → {low, high, log, step}, or a list to choose from."""
        space = self.section("search", variant)
        for key in SEARCH_KEYS:
            space.pop(key, None)
        for name, values in space.items():
            self._refuse_unknown(name, values)
            is_range = isinstance(values, dict) and {"low", "high"} <= set(values) <= RANGE
            if not is_range and not (isinstance(values, list) and values):
                raise ConfigError(
                    f"search: {name} = {values!r}: expected {{low = …, high = …}}, with log = true or step, or a list"
                )
            if is_range:
                _refuse_range(name, values)
        return space

    def _refuse_unknown(self, name: str, values: Any) -> None:
        """Refuse a single value of [search] whose name is neither a setting nor an option, such as ``trails = 8``."""
        options = {option for variant in self.variants for option in option_names(*variant)}
        if isinstance(values, dict | list) or name in options:
            return  # options are checked with their values
        raise UnknownOptionError(
            f"search: unknown key {name!r}{did_you_mean(name, (*SEARCH_KEYS, *sorted(options)))}: expected "
            f"{', '.join(SEARCH_KEYS)}, or an option with a range or a list of values"
        )

    def spec(self, variant: Variant, options: Options, seed: int) -> RunSpec:
        """Return the run of a candidate with a seed.

        Raises:
            UnknownOptionError: an option that the variant does not have.
            ConfigError: an invalid value of an option.
        """
        backbone, alignment = variant
        try:
            return RunSpec.resolve(backbone, alignment, self.preset, seed, options)
        except UnknownOptionError as error:
            section = "search" if self.searches else "grid"
            raise UnknownOptionError(
                f"{error}; options that only some variants have belong in tables of these, "
                f"[{section}.ALIGNMENT] or [{section}.BACKBONE]"
            ) from None

    def _is_variant(self, key: str) -> bool:
        return key in ALIGNMENTS or any(key in variant for variant in self.variants)

    def _refuse_other_variants(self, section: str) -> None:
        alignments = {*ALIGNMENTS, *(alignment for _, alignment in self.variants)}
        for key, value in flat_options(self.values.get(section, {})).items():
            if not self._is_variant(key):
                if isinstance(value, dict) and not {"low", "high"} & set(value):
                    raise ConfigError(
                        f"[{section}.{key}] is neither a backbone of this sweep nor an alignment"
                    )
                continue
            if not isinstance(value, dict):
                raise ConfigError(f"{section}: {key} = {value!r}: expected a table, [{section}.{key}]")
            for inner, options in value.items():
                if not self._is_variant(inner):
                    continue
                if not isinstance(options, dict):
                    raise ConfigError(
                        f"{section}: {key}.{inner} = {options!r}: expected a table, [{section}.{key}.{inner}]"
                    )
                if key in alignments:
                    raise ConfigError(
                        f"[{section}.{key}.{inner}]: expected the backbone first, [{section}.{inner}.{key}]"
                    )


def trial_maker(
    dataset: str, text_embeddings: TextEmbeddings | None, name: str = DEFAULT_TEXT_EMBEDDINGS
) -> MakeTrial:
    """Return a function that makes the trial of a spec on a dataset.

    Args:
        dataset: its fingerprint.
        text_embeddings: None if there are none.
        name: of the text embeddings.
    """

    def make(spec: RunSpec) -> Trial:
        if not spec.reads_text or (text_embeddings is None and not spec.needs_text):
            return Trial(spec, dataset)
        if text_embeddings is None:
            raise ConfigError(
                f"{spec.backbone} with alignment {spec.alignment} needs text embeddings: run 'rlmrec encode' first"
            )
        return Trial(spec, dataset, text_embeddings.digest, name)

    return make


@dataclass(frozen=True)
class Candidate:
    """A choice of options for a variant, with a trial for each seed.

    Args:
        variant: backbone and alignment.
        options: over those of the preset.
        trials: in the order of the seeds.
    """

    variant: Variant
    options: Options
    trials: tuple[Trial, ...]

    def value(self, results: Results[TrialRecord], metric: str) -> float | None:
        """Return the mean of the metric on validation over seeds; None if a trial is not done."""
        if not all(results.is_done(trial.id) for trial in self.trials):
            return None
        valid = [results.records[trial.id]["valid"] or {} for trial in self.trials]
        return statistics.mean(values[metric] for values in valid)

    def is_pruned(self, results: Results[TrialRecord]) -> bool:
        """Return whether its first trial was pruned, so that the others do not run."""
        return results.is_pruned(self.trials[0].id)

    def failures(self, results: Results[TrialRecord]) -> list[str]:
        """Return the ids of the trials that failed."""
        if self.is_pruned(results):
            return []
        return [trial.id for trial in self.trials if not results.is_done(trial.id)]


def grid_candidates(sweep: Sweep, make: MakeTrial) -> list[Candidate]:
    """Return all candidates of a grid."""
    return [
        candidate(sweep, variant, options, make)
        for variant in sweep.variants
        for options in sweep.grid(variant)
    ]


def candidate(sweep: Sweep, variant: Variant, options: Options, make: MakeTrial) -> Candidate:
    """Return the candidate of a variant with these options."""
    trials = tuple(make(sweep.spec(variant, options, seed)) for seed in sweep.seeds)
    return Candidate(variant, options, trials)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _refuse_range(name: str, space: Mapping[str, Any]) -> None:
    """Refuse a range that Optuna would refuse only when it draws."""
    low, high, step = space["low"], space["high"], space.get("step")
    numbers = [low, high] if step is None else [low, high, step]
    if not all(isinstance(number, int | float) for number in numbers):
        wrong = "expected numbers"
    elif low > high:
        wrong = "low is above high"
    elif step is not None and (step <= 0 or space.get("log")):
        wrong = "expected a step above 0, and none with log"
    elif space.get("log") and low <= 0:
        wrong = "log needs a low above 0"
    else:
        return
    raise ConfigError(f"search: {name} = {dict(space)!r}: {wrong}")


def best_candidates(
    candidates: Sequence[Candidate], results: Results[TrialRecord], metric: str
) -> dict[Variant, tuple[Candidate, float]]:
    """Return the candidate of each variant with the highest mean on validation; of equal ones, the first."""
    best: dict[Variant, tuple[Candidate, float]] = {}
    for one in candidates:
        value = one.value(results, metric)
        if value is not None and (one.variant not in best or value > best[one.variant][1]):
            best[one.variant] = one, value
    return best


def best_preset(best: Mapping[Variant, tuple[Candidate, float]], sweep: Sweep) -> str:
    """Return the best candidates as the TOML of a preset, for ``--preset FILE``."""
    tables: dict[str, dict[str, Options]] = {}
    for (backbone, alignment), (one, _) in best.items():
        options = {**preset_options(sweep.preset, backbone, alignment), **one.options}
        tables.setdefault(backbone, {})[alignment] = options
    return tomli_w.dumps(tables)


def uneven(candidates: Sequence[Candidate]) -> str | None:
    """Return a warning if the variants have different numbers of candidates; None if not."""
    counts = Counter("/".join(one.variant) for one in candidates)
    if len(set(counts.values())) <= 1:
        return None
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"the variants have different numbers of candidates, which favours those with more: {listed}"
