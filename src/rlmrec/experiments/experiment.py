"""Experiment: a grid of trials that makes a table, described by a TOML file."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rlmrec.alignment import ALIGNMENTS, alignment_label
from rlmrec.errors import ConfigError, did_you_mean
from rlmrec.evaluation.ranking import PER_USER
from rlmrec.experiments.results import Results, TrialRecord
from rlmrec.experiments.run import SEMANTIC_ONLY, K
from rlmrec.experiments.spec import RunSpec, flat_options, option_names, own_labels, read_toml
from rlmrec.experiments.trial import (
    Trial,
    TrialInputs,
    of_period,
    option_label,
    options_of,
    split_period,
    tests_by_text,
)
from rlmrec.models import MODELS, names_closed_form
from rlmrec.registry import is_path, short_name
from rlmrec.text import DEFAULT_TEXT_EMBEDDINGS, NO_TEXT_EMBEDDINGS
from rlmrec.training import checkpoint
from rlmrec.training.trainer import MONITORED
from rlmrec.workspace import Workspace

# The axes that a grid may list, each with the value for a grid that does not list it.
AXES: dict[str, Any] = {
    "backbone": "lightgcn",
    "alignment": "none",
    "text_embeddings": DEFAULT_TEXT_EMBEDDINGS,
    "shuffle": "none",
    "noise": 0.0,
    "period": "",
    "cut": "global",
    "start": "random",
    "history": 0,
    "keep": "random",
    "hidden": "",
}
# Keys of a grid beside its axes: type and type in words.
GRID_KEYS: dict[str, tuple[type, str]] = {
    "seeds": (int, "a number of seeds"),
    "options": (dict, "a table of options"),
    "tries": (list, "a list of tables of options"),
    "needs_text": (bool, "true or false"),
}
OLD_NAMES = {"semantics": "text_embeddings"}  # of axes and coordinates in version 0.1
LABELS = ("variant", "dimension")  # coordinates that a trial's options decide; only a planned trial has them
CUTS = {"global": "at one moment", "per-user": "within each user's history"}
ABSENT = "–"
# The coordinates that may make a row of the table; ``coordinates`` computes them.
COORDINATES = (
    "backbone", "variant", "text_embeddings", "shuffle", "noise", "cut", "start", "history", "hidden", "dimension",
)  # fmt: skip
WITHOUT_TEXT = {"text_embeddings": ABSENT, "shuffle": "none"}  # coordinates of a row that reads no text
DEFAULT_LOSS = "bpr"  # not shown in the variant
# Means over the users of the test split, and numbers of the record itself.
METRICS = {f"{name}@{k}" for name in PER_USER for k in K} | {"seconds_per_epoch", "seconds", "epochs"}
# The keys of a file: type, type in words, whether the key is required.
_KEYS: dict[str, tuple[type, str, bool]] = {
    "title": (str, "a text", True),
    "metrics": (list, 'a list such as ["recall@20"]', True),
    "rows": (list, f"a list of {', '.join(COORDINATES)}", True),
    "seeds": (int, "a number of seeds", True),
    "grid": (list, "one or more tables [[grid]]", True),
    "against": (dict, 'coordinates such as {variant = "Base"}', False),
    "reference": (dict, 'coordinates such as {noise = "0 %"}', False),
    "pairs": (list, 'a list of tables such as {rows = {variant = "Con"}, with = {variant = "Base"}}', False),
    "timing": (bool, "true or false", False),
    "options": (dict, "a table [options]", False),
    "try_options": (dict, "a table [try_options]", False),
    "details": (bool, "true or false", False),
}

Point = dict[str, Any]  # axis → value, and the seed
Row = tuple[str, ...]  # the coordinates that make a row of the table


@dataclass(frozen=True)
class Published:
    """Published numbers that the table shows beside ours.

    Args:
        numbers: published dataset → row → metric → value.
        same_data: our dataset → the published dataset that has the very same split.
    """

    numbers: Mapping[str, Mapping[Row, Mapping[str, float]]]
    same_data: Mapping[str, str]

    def dataset_for(self, dataset: str) -> str | None:
        """Return the published dataset to show: the same data, else one of a similar name, else the first."""
        same = self.same_data.get(dataset)
        similar = [name for name in self.numbers if dataset.split("-")[0] == name.split("-")[0]]
        known = [same] if same in self.numbers else [*similar, *self.numbers]
        return known[0] if known else None


@dataclass(frozen=True)
class Method:
    """The trials of one point of a grid over the seeds, once for each of the options to choose from.

    Args:
        tries: a short trial for each choice of options; none if there is nothing to choose.
        runs: for each choice, its trials over the seeds.
    """

    tries: tuple[Trial, ...]
    runs: tuple[tuple[Trial, ...], ...]

    def best(self, results: Results[TrialRecord]) -> int | None:
        """Return the number of the choice with the highest Recall@20 on validation; None if no try is done.

        Among equal ones the first is taken. A try that failed is left out.
        """
        if not self.tries:
            return 0
        values = {
            number: (results.records[trial.id]["valid"] or {}).get(MONITORED, 0.0)
            for number, trial in enumerate(self.tries)
            if results.is_done(trial.id)
        }
        return max(values, key=lambda number: values[number]) if values else None

    def chosen(self, results: Results[TrialRecord]) -> tuple[Trial, ...]:
        """Return the trials with the best options; none if no try is done."""
        best = self.best(results)
        return () if best is None else self.runs[best]

    def remove_checkpoints(
        self, place: Workspace, tried: Results[TrialRecord], ran: Results[TrialRecord]
    ) -> None:
        """Remove the checkpoints of the tries, where the trials that might go on from them are done.

        Args:
            place: the workspace.
            tried: records of the tries.
            ran: records of the trials.
        """
        chosen = self.chosen(tried)
        if chosen and all(ran.is_done(trial.id) for trial in chosen):
            for trial in self.tries:
                checkpoint.remove(place.trial(trial.id))


@dataclass(frozen=True)
class Experiment:
    """A grid of trials and the table that it makes.

        title = "…"
        metrics = ["recall@20", "ndcg@20"]   # of the test split, or a number of a record: "seconds_per_epoch"
        rows = ["backbone", "variant"]       # coordinates that make a row; its trials differ in their seed
        against = {variant = "Base"}         # each row is tested against the row with these coordinates
        reference = {noise = "0 %"}          # and its change relative to this row is shown
        seeds = 5
        timing = true                        # seconds are measured: trials run one at a time
        [options]                            # of every trial that has them
        [[grid]]                             # one or more: lists of values of ``AXES``
        backbone = ["lightgcn"]
        alignment = ["none", "contrastive"]
        seeds = 1                            # at most, for the trials of this grid
        options = {layers = 2}               # over [options]
        tries = [{l2 = 1e-6}, {l2 = 1e-5}]   # options to choose from on validation, with seed 1
        needs_text = true                    # left out of a workspace without text embeddings
        [try_options]                        # over the options of the tries, which may be shorter than the trials
        patience = 5
        details = true                       # tables by groups of users and items, of the cost and of the stopping rule

    Every grid of trained backbones has the same number of tries, so that no method is searched for longer than another.
    ``text_embeddings = "*"`` stands for all text embeddings of the workspace, and "none" among them keeps them from a
    closed form.

    Args:
        name: the file's name without its ending.
        values: the file's content.
        published: numbers to show beside ours.

    Raises:
        ConfigError: a required key is missing, or a key or value is unknown.
    """

    name: str
    values: Mapping[str, Any]
    published: Published | None = None

    def __post_init__(self) -> None:
        self._refuse_unknown("the file", self.values, _KEYS)
        for key, (kind, expected, required) in _KEYS.items():
            if required and key not in self.values:
                raise ConfigError(f"{self.name} has no {key}: expected {expected}")
            if key in self.values and not isinstance(self.values[key], kind):
                raise ConfigError(f"{self.name}: {key} = {self.values[key]!r}, expected {expected}")
        for pair in self.values.get("pairs", ()):
            parts = pair.values() if isinstance(pair, dict) and set(pair) == {"rows", "with"} else [None]
            if not all(isinstance(part, dict) for part in parts):
                raise ConfigError(f"{self.name}: {pair!r} among pairs, expected {_KEYS['pairs'][1]}")
        object.__setattr__(self, "values", _with_current_names(self.values))
        self._refuse_unknown("metrics", self.values["metrics"], sorted(METRICS))
        self._refuse_unknown("rows", self.rows, COORDINATES)
        for key, named in self._named_coordinates():
            self._refuse_unknown(key, named, self.rows)
        for grid in self.values["grid"]:
            self._refuse_unknown("a grid", grid, (*AXES, *GRID_KEYS))
            for axis, values in grid.items():
                if axis in GRID_KEYS:
                    kind, expected = GRID_KEYS[axis]
                    if not isinstance(values, kind):
                        raise ConfigError(f"{self.name}: {axis} = {values!r} of a grid, expected {expected}")
                    continue
                is_list = isinstance(values, list) and values
                if not is_list and not (axis == "text_embeddings" and values == "*"):
                    raise ConfigError(f"{self.name}: {axis} = {values!r}, expected a list of values")
                if axis == "start":
                    self._check_starts(values)
        for count in (
            self.values["seeds"],
            *(grid["seeds"] for grid in self.values["grid"] if "seeds" in grid),
        ):
            if isinstance(count, bool) or count < 1:
                raise ConfigError(f"{self.name}: seeds = {count!r}, expected a number of seeds, 1 or more")
        self._refuse_unequal_budgets()

    def _check_starts(self, values: Sequence[Any]) -> None:
        for value in values:
            if value != AXES["start"] and str(value) not in ALIGNMENTS and not is_path(str(value)):
                raise ConfigError(
                    f"{self.name}: start = {value!r}, expected {AXES['start']}, or the alignment of the trial on the "
                    f"earlier period: {ALIGNMENTS.choices}"
                )

    def _refuse_unequal_budgets(self) -> None:
        """Refuse grids whose trained backbones have different numbers of tries.

        A user's class is not imported to read a file, which may come from somebody else; ``methods`` asks again.
        """
        budgets: dict[int, str] = {}  # number of tries → a grid that has it
        for grid in self.values["grid"]:
            trained = [one for one in grid.get("backbone", [AXES["backbone"]]) if _is_trained(one)]
            if trained:
                alignments = grid.get("alignment", [AXES["alignment"]])
                budgets.setdefault(
                    len(grid.get("tries", ())), f"{', '.join(trained)} with {', '.join(alignments)}"
                )
        if len(budgets) > 1:
            listed = "; ".join(f"{count} for {names}" for count, names in budgets.items())
            raise ConfigError(
                f"{self.name}: the grids have different numbers of tries, which favours those with more ({listed})"
            )

    def _named_coordinates(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Yield each key that names coordinates of rows, with them."""
        for key in ("against", "reference"):
            yield key, self.values.get(key, {})
        for pair in self.values.get("pairs", ()):
            yield from (("pairs", pair[part]) for part in ("rows", "with"))

    def _refuse_unknown(self, where: str, found: Any, known: Any) -> None:
        unknown = sorted(str(name) for name in found if name not in known)
        if unknown:
            listed = ", ".join(f"{name}{did_you_mean(name, known)}" for name in unknown)
            raise ConfigError(f"{self.name}: {where} has {listed}, expected some of {', '.join(known)}")

    @classmethod
    def read(cls, path: Path) -> Experiment:
        """Read the experiment that a TOML file describes.

        Raises:
            ConfigError: no such file, or no experiment.
        """
        return cls(path.stem, read_toml(path))

    @property
    def title(self) -> str:
        """The title of the table."""
        return str(self.values["title"])

    @property
    def metrics(self) -> list[str]:
        """The metrics of the table."""
        return list(self.values["metrics"])

    @property
    def rows(self) -> list[str]:
        """The names of the coordinates that make a row."""
        return list(self.values["rows"])

    @property
    def is_timing(self) -> bool:
        """Whether the experiment measures seconds."""
        return bool(self.values.get("timing", False))

    @property
    def seeds(self) -> int:
        """The default number of seeds, which count from 1."""
        return int(self.values["seeds"])

    def points(self, text_embeddings: Sequence[str], seeds: int | None = None) -> Iterator[Point]:
        """Yield all points of the grids, each with its seed and the number of its grid.

        Args:
            text_embeddings: the names that "*" stands for.
            seeds: how many; None takes the experiment's own number.
        """
        for number, grid in enumerate(self.values["grid"]):
            axes = {axis: grid.get(axis, [default]) for axis, default in AXES.items()}
            most = grid.get("seeds", seeds or self.seeds)
            if axes["text_embeddings"] == "*":
                axes["text_embeddings"] = list(text_embeddings)
            for values in itertools.product(*axes.values()):
                point = dict(zip(axes, values, strict=True))
                # Scoring by the text embeddings alone trains nothing: every seed gives the same numbers.
                count = 1 if point["backbone"] == SEMANTIC_ONLY else min(most, seeds or self.seeds)
                for seed in range(1, count + 1):
                    yield {**point, "seed": seed, "grid": number}

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
        """Return the trials to run in a workspace, and those that lack text embeddings.

        Of a method with tries, these are its trials; ``methods`` has those that follow. The arguments and errors are
        those of ``methods``.
        """
        stages, lacking = self.methods(inputs, preset, options, seeds=seeds, only=only, timing=timing)
        methods = [method for stage in stages for method in stage]
        return [trial for method in methods for trial in method.tries or method.runs[0]], lacking

    def methods(
        self,
        inputs: TrialInputs,
        preset: str,
        options: Mapping[str, Any],
        *,
        seeds: int | None = None,
        only: Mapping[str, Sequence[str]] | None = None,
        timing: str = "",
        tell: Callable[[str], object] = lambda _: None,
    ) -> tuple[list[list[Method]], list[Trial]]:
        """Return the methods to run in a workspace, stage by stage, and the trials that lack text embeddings.

        With tries, each grid is a stage, so that what is chosen early is trained early; without, all are one stage.

        Args:
            inputs: of the workspace.
            preset: the preset of every trial's options.
            options: over the preset; each is passed to the trials that have it.
            seeds: how many, from 1 on.
            only: axis, variant or dimension → values to keep.
            timing: device and threads, for an experiment that measures seconds.
            tell: called with a sentence where values of ``only`` are left without a trial by the others.

        Raises:
            ConfigError: an unknown axis, value or option, or no trial is left.
            DataError: a trial needs timestamps and the dataset has none.
        """
        chosen = {**self.values.get("options", {}), **options}
        try_options = self.values.get("try_options", {})
        names = inputs.place.text_embeddings_names()
        every = list(self.points(names, seeds))
        labels = {name: words for name, words in (only or {}).items() if name in LABELS}
        axes = {name: words for name, words in (only or {}).items() if name not in LABELS}
        points = _select(every, axes, self.name)
        if not points:
            raise ConfigError(
                f"{self.name} has no trial with all of --only"
                if only
                else f"{self.name} has no trial with these text embeddings: run rlmrec encode"
            )
        if any(point["period"] for point in points):
            of_period(inputs.dataset, None, "later")  # reports missing timestamps once, not for every trial
        used: set[str] = set()
        mistyped: set[str] = set()
        known = _known_options(every)
        self._refuse_unequal_budgets()  # now that all classes are imported
        named = set(flat_options(options))  # options of the file may belong to trials that --only leaves out
        if not only:
            named |= {*flat_options(chosen), *(flat_options(try_options) if self.has_tries else ())}

        stages: dict[int, list[Method]] = {}
        lacking: list[Trial] = []
        seen: dict[str, list[str]] = {name: [] for name in labels}
        kept: list[Point] = []  # of ``points``, with their labels
        for alike in _by_method(points):
            number = alike[0]["grid"]
            options_read: set[str] = set()
            method = self._method(alike, inputs, names, preset, chosen, timing, options_read)
            found_labels: dict[str, str] = {}
            if labels:
                found_labels = coordinates(method.runs[0][0].as_dict())
                for label in labels:
                    seen[label].append(found_labels[label])
                if any(found_labels[label] not in words for label, words in labels.items()):
                    continue
            kept += [{**point, **{label: found_labels[label] for label in labels}} for point in alike]
            used |= options_read
            if without_text := self._lacking(alike[0], method):
                lacking += without_text
                continue
            given = {name for one in self._choices(number) for name in flat_options(one)}
            mistyped |= given - known[number]
            stages.setdefault(number if self.has_tries else 0, []).append(method)
        for label, words in labels.items():
            _refuse_unknown_values(label, words, seen[label], self.name)
        if not stages and not lacking:
            raise ConfigError(f"{self.name} has no trial with all of --only")
        if nothing := _left_out(only or {}, kept):
            tell(f"no trial with {_listed(nothing)} has all of --only: none of these is run")
        unknown = mistyped | (named - used)
        if unknown:
            options_known = sorted(set().union(*known.values()))
            listed = ", ".join(f"{name}{did_you_mean(name, options_known)}" for name in sorted(unknown))
            raise ConfigError(f"no trial of {self.name} has an option {listed}")
        planned = [method.runs[0][0] for stage in stages.values() for method in stage] + lacking
        # With the options of the preset and of the command, which a row may show.
        found = (self.row(trial.as_dict()) for trial in planned)
        self._refuse_values_of_no_row([*self._rows(names), *(row for row in found if row is not None)])
        return list(stages.values()), lacking

    def asked(
        self,
        inputs: TrialInputs,
        preset: str,
        options: Mapping[str, Any],
        *,
        seeds: int | None = None,
        timing: str = "",
        tell: Callable[[str], object] = lambda _: None,
    ) -> list[Method]:
        """Return the methods of the whole grid with these options: what the table is to show, whatever ``--only`` runs.

        Those that cannot be made with these options are not among them: a preset may have no table for them. ``tell``
        is called with a sentence where a row stands for methods that differ.
        """
        chosen = {**self.values.get("options", {}), **options}
        names = inputs.place.text_embeddings_names()
        found = []
        for alike in _by_method(list(self.points(names, seeds))):
            try:
                method = self._method(alike, inputs, names, preset, chosen, timing, set())
            except ConfigError:  # of one that is to run, ``methods`` tells it
                continue
            lacking = self._lacking(alike[0], method)
            found.append((alike[0]["grid"], Method((), (tuple(lacking),)) if lacking else method))
        if hidden := self._hidden_difference(found):
            tell(hidden)
        return [method for _, method in found]

    def _hidden_difference(self, methods: Iterable[tuple[int, Method]]) -> str | None:
        """Return a sentence about methods that give one row and differ, as it shows one of them; None without any.

        Args:
            methods: each with the number of its grid.
        """
        seen: dict[Row, tuple[int, Method]] = {}
        for number, method in methods:
            row = self.row(method.runs[0][0].as_dict())
            if row is None:
                continue
            other_number, other = seen.setdefault(row, (number, method))
            for mine, theirs in zip(method.runs, other.runs, strict=False):
                trials = theirs[0].as_dict(), mine[0].as_dict()
                differing = _differing(*trials)
                if not differing:
                    continue
                shown = [coordinates(trial) for trial in trials]
                columns = [name for name in COORDINATES if shown[0][name] != shown[1][name]]
                values = [f"{name} {shown[0][name]} and {shown[1][name]}" for name in columns] or differing
                grids = f"{other_number + 1} and {number + 1} both give"
                todo = (
                    f"add {' or '.join(columns)} to rows"
                    if columns
                    else "put one of them into a file of its own"
                )
                return (
                    f"{self.name}: [[grid]] {grids if number != other_number else f'{number + 1} gives twice'} the row "
                    f"{' '.join(row)}, with {', '.join(values)}; the table shows one of them alone: {todo}"
                )
        return None

    def _lacking(self, point: Point, method: Method) -> list[Trial]:
        """Return the trials of a method at a point whose text embeddings are not in the workspace; none if they are."""
        grid, name = self.values["grid"][point["grid"]], point["text_embeddings"]
        first = method.runs[0][0]
        is_named = "text_embeddings" in grid and name != NO_TEXT_EMBEDDINGS
        reads_text = first.spec is not None and first.spec.reads_text
        needs_text = grid.get("needs_text", False) or first.needs_text or (reads_text and is_named)
        if first.texts is not None or not needs_text:
            return []
        return [replace(trial, text_embeddings=name, shuffle=point["shuffle"]) for trial in method.runs[0]]

    def _choices(self, number: int) -> list[dict[str, Any]]:
        """Return the options of a grid, once for each of its tries."""
        grid = self.values["grid"][number]
        return [{**grid.get("options", {}), **one} for one in grid.get("tries", [{}])]

    def _method(
        self,
        alike: Sequence[Point],
        inputs: TrialInputs,
        names: Sequence[str],
        preset: str,
        options: Mapping[str, Any],
        timing: str,
        used: set[str],
    ) -> Method:
        """Return the method of points that differ in their seed alone; ``used`` collects the options that it has."""

        def trial_of(point: Point, more: Mapping[str, Any]) -> Trial:
            trial = self._trial(point, inputs, names, preset, {**options, **more}, used)
            return replace(trial, timing=timing) if self.is_timing else trial

        number = alike[0]["grid"]
        choices, try_options = self._choices(number), self.values.get("try_options", {})
        first = {**alike[0], "seed": 1}
        has_tries = "tries" in self.values["grid"][number]
        if has_tries and not alike[0]["period"] and not len(inputs.dataset.valid):  # a half is split anew
            raise ConfigError(
                f"{self.name} chooses among tries on validation, and the validation split of "
                f"{inputs.dataset.name!r} is empty: split with e.g. 3:1:1"
            )
        runs = [tuple(trial_of(point, choice) for point in alike) for choice in choices]
        if not has_tries:
            return Method((), tuple(runs))
        tries = [trial_of(first, {**choice, **try_options}) for choice in choices]
        return Method(
            tuple(replace(one, keeps_checkpoint=True) for one in tries),
            tuple(
                tuple(one.with_shorter(tried) for one in own) for tried, own in zip(tries, runs, strict=True)
            ),
        )

    @property
    def has_details(self) -> bool:
        """Whether tables of groups, cost and stopping are shown, and rows that were not run."""
        return bool(self.values.get("details", False))

    @property
    def has_tries(self) -> bool:
        """Whether options are chosen on validation."""
        return any("tries" in grid for grid in self.values["grid"])

    def _trial(
        self,
        point: Point,
        inputs: TrialInputs,
        names: Sequence[str],
        preset: str,
        options: Mapping[str, Any],
        used: set[str],
    ) -> Trial:
        """Return the trial of a point; ``used`` collects the options that it has."""
        spec = None
        if point["backbone"] != SEMANTIC_ONLY:
            backbone, alignment = point["backbone"], point["alignment"]
            known = option_names(backbone, alignment)
            own = {name: value for name, value in flat_options(options).items() if name in known}
            used.update(own)
            spec = RunSpec.resolve(backbone, alignment, preset, point["seed"], own)
        text: dict[str, Any] = {}
        name = point["text_embeddings"]
        by_text = spec is not None and tests_by_text(spec, point["hidden"])
        if spec is None or spec.needs_text or by_text or (spec.reads_text and name in names):
            text = {"text_embeddings": name, "shuffle": point["shuffle"]}
            if name in names:
                text["texts"] = inputs.text_embeddings(name).digest
        start = None
        if point["start"] != "random":
            earlier = {**point, "alignment": point["start"], "start": "random"}
            earlier["period"] = "earlier" if point["period"] else ""
            start = self._trial(earlier, inputs, names, preset, options, used)
        return Trial(
            spec, inputs.dataset.fingerprint, noise=point["noise"], period=point["period"],
            cut=point["cut"], start=start, history=point["history"], keep=point["keep"], hidden=point["hidden"],
            **text,
        )  # fmt: skip

    def row(self, trial: Mapping[str, Any]) -> Row | None:
        """Return the row of a trial (``Trial.as_dict``); None for a trial that others start from."""
        if split_period(trial["data"]["period"])[0] == "earlier":
            return None
        found = coordinates(trial)
        return tuple(found[name] for name in self.rows)

    def other_row(self, row: Row, key: str, rows: Collection[Row] = ()) -> Row | None:
        """Return the row that ``row`` is tested "against", or its "reference"; None without any or if it is itself.

        Coordinates that are not named there are those of ``row``. Where there is no such row, one without text
        embeddings, or with those that were not shuffled, takes its place: a base reads none.

        Args:
            row: of the table.
            key: "against" or "reference".
            rows: the rows that there are; by default those of the grids.
        """
        return self._row_with(row, self.values[key], rows) if key in self.values else None

    def pairs(self, rows: Collection[Row]) -> list[tuple[Row, Row]]:
        """Return the pairs of these rows that the table of pairs compares, in the order of the file."""
        found: dict[tuple[Row, Row], None] = {}
        for pair in self.values.get("pairs", ()):
            for row in sorted(rows, key=self.sort_key):
                mine = dict(zip(self.rows, row, strict=True))
                if all(mine[name] == value for name, value in pair["rows"].items()):
                    other = self._row_with(row, pair["with"], rows)
                    if other in rows and other is not None:
                        found[row, other] = None
        return list(found)

    def _row_with(self, row: Row, named: Mapping[str, str], rows: Collection[Row]) -> Row | None:
        """Return the row with these coordinates and otherwise those of ``row``; None if that is ``row``."""
        mine = dict(zip(self.rows, row, strict=True))
        free = {name: value for name, value in WITHOUT_TEXT.items() if name in mine and name not in named}
        others = [
            tuple({**mine, **named, **{name: free[name] for name in names if name in free}}.values())
            for names in ((), ("shuffle",), ("text_embeddings",), tuple(WITHOUT_TEXT))
        ]
        if row == others[0]:
            return None
        return next((one for one in others if one in (rows or self.known_rows)), others[0])

    @cached_property
    def known_rows(self) -> list[Row]:
        """The rows in the order of the grids, with the default text embeddings for "*"."""
        return self._rows([DEFAULT_TEXT_EMBEDDINGS])

    def _rows(self, text_embeddings: Sequence[str]) -> list[Row]:
        """Return the rows in the order of the grids, with these text embeddings for "*"."""
        rows: dict[Row, None] = {}
        for point in self.points(text_embeddings, 1):
            run = {"backbone": point["backbone"], "alignment": point["alignment"]}
            run |= own_labels(point["backbone"], point["alignment"])
            start = None if point["start"] == "random" else {"alignment": point["start"]}
            *options, reads_text = self._known_options(point)
            data = {**point, "semantics": point["text_embeddings"] if reads_text else None}
            if point["period"] != "earlier":
                found = _coordinates(run, data, start, point["period"], point["cut"], *options)
                rows[tuple(found[name] for name in self.rows)] = None
        return list(rows)

    def _refuse_values_of_no_row(self, rows: Iterable[Row]) -> None:
        """Refuse a coordinate that none of these rows has: nothing would be compared."""
        columns = dict(zip(self.rows, zip(*rows, strict=True), strict=True))
        for key, named in self._named_coordinates():
            for name, value in named.items():
                known = list(dict.fromkeys(columns[name]))
                if value not in known:
                    meant = did_you_mean(str(value), known)
                    raise ConfigError(
                        f"{self.name}: {key} has {name} = {value!r}{meant}, but no row: expected one of "
                        f"{_listed(known)}"
                    )

    def _known_options(self, point: Point) -> tuple[dict[str, Any], dict[str, Any], bool]:
        """Return the options of backbone and alignment at a point, and whether text is read.

        A user's class is not imported for this; before it was, nothing is known of its options.
        """
        backbone, alignment = point["backbone"], point["alignment"]
        if MODELS.known(backbone) is None or ALIGNMENTS.known(alignment) is None:
            return {}, {}, True
        grid, known = self.values["grid"][point["grid"]], option_names(backbone, alignment)
        given = {**self.values.get("options", {}), **grid.get("options", {}), **grid.get("tries", [{}])[0]}
        own = {name: value for name, value in flat_options(given).items() if name in known}
        spec = RunSpec.resolve(backbone, alignment, options=own)
        found = spec.as_dict()
        reads_text = spec.reads_text or tests_by_text(spec, point["hidden"])
        return (
            found["backbone"],
            found["alignment"],
            reads_text and point["text_embeddings"] != NO_TEXT_EMBEDDINGS,
        )

    def sort_key(self, row: Row) -> tuple[tuple[int, str], ...]:
        """Return the sort key of a row: column by column, in the order in which the grids list the values."""
        columns = [list(dict.fromkeys(values)) for values in zip(*self.known_rows, strict=True)]
        return tuple(
            (known.index(value) if value in known else len(known), value)
            for known, value in zip(columns, row, strict=True)
        )


def _with_current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's content with the names of version 0.1 replaced, and periods such as "later, by user" split."""

    def named(coordinates: Mapping[str, str]) -> dict[str, str]:
        current = {OLD_NAMES.get(name, name): value for name, value in coordinates.items()}
        if current.get("text_embeddings") == NO_TEXT_EMBEDDINGS:
            current["text_embeddings"] = ABSENT
        if current.get("start") == "None":
            current["start"] = AXES["start"]
        return current

    found = dict(values)
    found |= {key: named(found[key]) for key in ("against", "reference") if key in found}
    if "pairs" in found:
        found["pairs"] = [{part: named(pair[part]) for part in ("rows", "with")} for pair in found["pairs"]]
    found["rows"] = [OLD_NAMES.get(name, name) for name in found["rows"]]
    grids = []
    for grid in found["grid"]:
        grid = {OLD_NAMES.get(name, name): value for name, value in grid.items()}
        periods = grid.get("period", [])
        if isinstance(periods, list) and any("," in str(period) for period in periods):
            split = [split_period(period) for period in periods]
            grids += [{**grid, "period": [period], "cut": [cut]} for period, cut in split]
        else:
            grids.append(grid)
    return {**found, "grid": grids}


def backbone_label(name: str) -> str:
    """Return a backbone's name as publications write it; of a user's own that is not imported, the class's name.

    Example:
        >>> backbone_label("kar-sgl"), backbone_label("mine:Model"), backbone_label("semantic-only")
        ('SGL', 'Model', '–')
    """
    kind = MODELS.known(name)
    return ABSENT if name == SEMANTIC_ONLY else short_name(name) if kind is None else kind.label


def coordinates(trial: Mapping[str, Any]) -> dict[str, str]:
    """Return the value of each of ``COORDINATES`` for a trial (``Trial.as_dict``)."""
    data = trial["data"]
    period, cut = split_period(data["period"])
    options = trial.get("backbone", {}), trial.get("alignment", {})
    return _coordinates(trial["run"], data, trial["start"], period, cut, *options)


def _coordinates(
    run: Mapping[str, Any],
    data: Mapping[str, Any],
    start: Mapping[str, Any] | None,
    period: str,
    cut: str,
    options: Mapping[str, Any],
    alignment_options: Mapping[str, Any],
) -> dict[str, str]:
    backbone, alignment = run["backbone"], run["alignment"]
    kinds = MODELS.known(backbone), ALIGNMENTS.known(alignment)
    variant = run.get("alignment_label") or alignment_label(alignment)
    if alignment_options.get("contrastive_weight"):  # of distillation
        variant += f" + {alignment_label('contrastive')}"
    if options.get("loss", DEFAULT_LOSS) != DEFAULT_LOSS:
        variant = options["loss"] if alignment == "none" else f"{variant}, {options['loss']}"
    history = data.get("history", 0)
    if backbone == SEMANTIC_ONLY:
        variant = "Semantic embeddings only"
    elif kinds[0] is not None and kinds[0].enhancement:
        variant = kinds[0].enhancement + (f" + {variant}" if alignment != "none" else "")
    return {
        "backbone": run.get("backbone_label") or backbone_label(backbone),
        "variant": variant,
        "text_embeddings": ABSENT if data["semantics"] is None else str(data["semantics"]),
        "shuffle": str(data["shuffle"]),
        "noise": f"{100 * data['noise']:g} %",
        "cut": CUTS[cut] if period else ABSENT,
        "start": AXES["start"] if start is None else alignment_label(start["alignment"]),
        "history": f"{data['keep']} {history}" if history else "all",
        "hidden": data.get("hidden") or ABSENT,
        "dimension": str(options.get("embedding_size", options.get("dim", ABSENT))),
    }


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the options in which two trials (``Trial.as_dict``) differ, with the values of both; not seed or texts."""
    both = [
        {
            "run.backbone": trial["run"]["backbone"],
            "run.alignment": trial["run"]["alignment"],
            **options_of(trial),
        }
        for trial in (one, other)
    ]
    names = [name for name in {**both[0], **both[1]} if name != "data.texts"]  # the digest of named ones
    values = {
        name: ["the default" if part.get(name) is None else part[name] for part in both] for name in names
    }
    return [
        f"{option_label(name)} {mine} and {theirs}"
        for name, (mine, theirs) in values.items()
        if mine != theirs
    ]


def _is_trained(backbone: str) -> bool:
    """Return whether a backbone is known to be trained: not if it is a user's class that was not imported."""
    if is_path(backbone) and MODELS.known(backbone) is None:
        return False
    return backbone != SEMANTIC_ONLY and not names_closed_form(backbone)


def _known_options(points: Sequence[Point]) -> dict[int, set[str]]:
    """Return the options that the methods of each grid have, and those of the runs that they start from."""
    known: dict[int, set[str]] = {point["grid"]: set() for point in points}
    for grid, backbone, *alignments in {
        (point["grid"], point["backbone"], point["alignment"], point["start"]) for point in points
    }:
        if backbone != SEMANTIC_ONLY:
            for alignment in set(alignments) - {"random"}:
                known[grid] |= option_names(backbone, alignment)
    return known


def _by_method(points: Sequence[Point]) -> list[list[Point]]:
    """Return the points that differ in their seed alone, together."""
    groups: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(tuple(value for name, value in point.items() if name != "seed"), []).append(point)
    return list(groups.values())


def _select(points: Sequence[Point], only: Mapping[str, Sequence[str]], name: str) -> list[Point]:
    """Return the points that ``only`` keeps.

    Raises:
        ConfigError: an axis or a value that no point has. Ignoring a typing error would run half a table.
    """
    kept = list(points)
    for axis, words in only.items():
        axis = OLD_NAMES.get(axis, axis)
        if axis not in AXES and axis != "seed":
            raise ConfigError(
                f"--only {axis}={','.join(words)}: expected one of {', '.join((*AXES, *LABELS))}, seed before ="
            )
        known = list(dict.fromkeys(point[axis] for point in points))
        _refuse_unknown_values(axis, words, known, name)
        kept = [point for point in kept if any(_is_same(word, point[axis]) for word in words)]
    return kept


def _left_out(only: Mapping[str, Sequence[str]], kept: Sequence[Point]) -> list[str]:
    """Return the values of ``--only``, as "axis=value", that none of the points has."""
    return [
        f"{axis}={word}"
        for axis, words in only.items()
        for word in words
        if not any(_is_same(word, point[OLD_NAMES.get(axis, axis)]) for point in kept)
    ]


def _refuse_unknown_values(key: str, words: Sequence[str], known: Sequence[Any], name: str) -> None:
    """Refuse values of ``--only`` that no trial has."""
    missing = [word for word in words if not any(_is_same(word, value) for value in known)]
    if missing:
        raise ConfigError(
            f"--only {key}: {name} has no {missing[0]!r} there; expected "
            f"{_listed(known) or 'other text embeddings: run rlmrec encode'}"
        )


def _listed(values: Iterable[Any]) -> str:
    """List values for a message, with another separator where a value has a comma, as "Distilled, softmax" has."""
    texts = list(dict.fromkeys(map(str, values)))
    return ("; " if any("," in text for text in texts) else ", ").join(texts)


def _is_same(word: str, value: Any) -> bool:
    if isinstance(value, str):
        return word == value
    try:
        return float(word) == float(value)
    except ValueError:
        return False
