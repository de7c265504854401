"""Comparison of finished runs: means over seeds, paired tests with Holm's correction."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import polars as pl

from rlmrec.errors import ConfigError
from rlmrec.evaluation.power import detectable, nothing_significant, pairs_needed, power_sentences
from rlmrec.evaluation.ranking import Ranking, read_table
from rlmrec.evaluation.significance import LEVEL, Comparison, Seeds, compare_seeds, holm
from rlmrec.files import read_json
from rlmrec.html import html_table

# What a table of runs shows: the metrics of the paper's tables, at the list lengths that a run is evaluated with.
SHOWN_METRICS = tuple(f"{metric}@{k}" for metric in ("recall", "ndcg") for k in (5, 10, 20))


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run that has ended.

    Args:
        name: the run's name.
        folder: the run's folder.
        metrics: the content of its ``metrics.json``.
        evaluated: its test metrics of each user; None reads those that are stored.
    """

    name: str
    folder: Path
    metrics: Mapping[str, Any]
    evaluated: pl.DataFrame | None = field(default=None, kw_only=True)

    @classmethod
    def read(cls, folder: Path) -> FinishedRun:
        """Read a finished run from its folder.

        Raises:
            WorkspaceError: ``metrics.json`` is absent or damaged.
        """
        return cls(folder.name, folder, read_json(folder / "metrics.json"))

    @property
    def config(self) -> Mapping[str, Any]:
        """The options it was trained with, and the dataset and text embeddings it used."""
        config: Mapping[str, Any] = self.metrics["config"]
        return config

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.config["run"]["seed"])

    @property
    def ended_by_limit(self) -> bool:
        """Whether the limit of epochs ended its training before patience did, so that it may not be trained out."""
        final = self.config["data"].get("final")
        return not final and ended_by_limit(self.config.get("training") or {}, self.metrics)

    def group(self) -> RunGroup:
        """Return the group of this run alone."""
        return RunGroup(self.name, (self,))

    def per_user(self) -> pl.DataFrame:
        """Return the test metrics of each user, as ``Ranking.table`` gives them.

        Raises:
            WorkspaceError: the run has none, as when its dataset has no test split.
        """
        return read_table(self.folder / "test.parquet") if self.evaluated is None else self.evaluated


@dataclass(frozen=True, eq=False)
class RunGroup:
    """Runs that differ only in their seed.

    Args:
        name: the name that they share; that of the run where there is one.
        runs: at least one, in the order of their names.
        unfinished: names of runs of this group that have not ended and are left out.
    """

    name: str
    runs: tuple[FinishedRun, ...]
    unfinished: tuple[str, ...] = ()

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs."""
        return [run.seed for run in self.runs]

    def mean(self, metric: str, split: str = "test") -> float | None:
        """Return the mean of a metric over seeds; None if a run has no such split or metric."""
        values = self._values(metric, split)
        return statistics.mean(values) if values else None

    def std(self, metric: str, split: str = "test") -> float | None:
        """Return the sample standard deviation of a metric over seeds; None for fewer than two runs."""
        values = self._values(metric, split)
        return statistics.stdev(values) if len(values) > 1 else None

    def _values(self, metric: str, split: str) -> list[float]:
        of_runs: list[Any] = [run.metrics.get(split) for run in self.runs]
        if not all(found and metric in found for found in of_runs):
            return []
        return [float(found[metric]) for found in of_runs]

    @property
    def seconds_per_epoch(self) -> float:
        """The mean training time of an epoch; 0 for a run without training."""
        return statistics.mean(float(run.metrics["seconds_per_epoch"]) for run in self.runs)

    @property
    def seconds(self) -> float:
        """The mean time of training without validation, or of fitting a closed form; 0 for neither."""
        return statistics.mean(
            float(
                run.metrics.get("seconds") or run.metrics.get("epochs", 0) * run.metrics["seconds_per_epoch"]
            )
            for run in self.runs
        )

    def per_user(self) -> Seeds:
        """Return the test metrics of each user, by seed.

        Raises:
            WorkspaceError: a run has none.
        """
        return {run.seed: run.per_user() for run in self.runs}

    def summary(self) -> dict[str, Any]:
        """Return plain values for JSON: a single run's metrics as they are; otherwise means and deviations."""
        if len(self.runs) == 1:
            return dict(self.runs[0].metrics)
        summary: dict[str, Any] = {"seeds": self.seeds}
        for split in ("test", "valid"):
            complete = all(run.metrics[split] for run in self.runs)
            names = list(self.runs[0].metrics[split]) if complete else []
            summary[split] = {name: self.mean(name, split) for name in names} or None
            summary[f"{split}_std"] = {name: self.std(name, split) for name in names} or None
        summary["seconds_per_epoch"] = self.seconds_per_epoch
        summary["epochs"] = statistics.mean(run.metrics["epochs"] for run in self.runs)
        return summary


@dataclass(frozen=True)
class CorrectedComparison(Comparison):
    """A comparison that is one of several, with Holm-corrected p-values.

    Args:
        p_holm: ``p_t`` corrected over all comparisons of the table.
        p_wilcoxon_holm: ``p_wilcoxon`` corrected likewise.
        tests: number of comparisons of the table.
    """

    p_holm: float
    p_wilcoxon_holm: float
    tests: int

    @property
    def significant(self) -> bool:
        """Whether the corrected t-test is below the significance level."""
        return self.p_holm < LEVEL

    @property
    def detectable(self) -> float:
        """The smallest difference that is significant in at least 80 % of such experiments.

        At the strictest level of Holm's correction, the significance level / ``tests``.
        """
        return detectable(self.std, self.n, LEVEL / self.tests)

    @property
    def needed(self) -> int | None:
        """The pairs with which the observed difference would be significant as often; None if over a billion."""
        return pairs_needed(self.difference, self.std, LEVEL / self.tests)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, and what sample size could show."""
        return {**super().as_dict(), "detectable": self.detectable, "needed": self.needed}


@dataclass(frozen=True)
class SeededComparison:
    """A model compared with a base on one metric.

    Args:
        users: over users, each user's value being the mean over seeds.
        seeds: over the seeds that both have; None for fewer than three.
    """

    users: CorrectedComparison
    seeds: CorrectedComparison | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: the fields over users, and under "seeds" those over seeds or None."""
        return {**self.users.as_dict(), "seeds": None if self.seeds is None else self.seeds.as_dict()}


Comparisons = dict[str, dict[str, SeededComparison]]  # model → metric → its comparison with the base


def find_group(runs: Path, name: str) -> RunGroup | None:
    """Return the finished run called ``name``, or else the finished runs called so except for their ``-seedN``.

    Args:
        runs: the folder that holds the folders of all runs.
        name: a run's name, or the name that runs share.

    Returns:
        None if there is no finished run of that name.

    Raises:
        ConfigError: the runs differ in more than their seed, or two have the same seed.
    """
    if (runs / name / "metrics.json").exists():
        return FinishedRun.read(runs / name).group()
    folders = [path for path in sorted(runs.glob("*")) if without_seed(path.name) == name]
    ended = [path for path in folders if (path / "metrics.json").exists()]
    if not ended:
        return None
    finished = tuple(FinishedRun.read(path) for path in ended)
    group = RunGroup(name, finished, tuple(path.name for path in folders if path not in ended))
    for run in finished:
        if _without_seed_option(run.config) != _without_seed_option(finished[0].config):
            raise ConfigError(
                f"{finished[0].name} and {run.name} differ in more than their seed: name them one by one"
            )
    if len(set(group.seeds)) < len(finished):
        of_runs = {run.name: run.seed for run in finished}
        raise ConfigError(f"two runs of {name} have the same seed: {of_runs}")
    return group


def ended_by_limit(training: Mapping[str, Any], metrics: Mapping[str, Any]) -> bool:
    """Return whether the limit of epochs ended a training before patience did, so that it may not be trained out.

    Args:
        training: its options; none of what is not trained.
        metrics: with its "epochs" and "best_epoch".
    """
    best = metrics.get("best_epoch")
    if best is None or not {"epochs", "evaluate_every", "patience"} <= training.keys():
        return False
    limit, epochs = training["epochs"], metrics["epochs"]
    since = range(best + 1, epochs)
    validations = sum(epoch % training["evaluate_every"] == 0 or epoch == limit - 1 for epoch in since)
    return bool(epochs >= limit and validations < training["patience"])


def limit_reached(groups: Sequence[RunGroup]) -> str:
    """Return a sentence about the runs that the limit of epochs ended before patience did; "" if there are none."""
    epochs = {
        group.name: max(run.metrics["epochs"] for run in group.runs)
        for group in groups
        if any(run.ended_by_limit for run in group.runs)
    }
    if not epochs:
        return ""
    names = ", ".join(f"{name} ({count:,} epoch{'s' * (count != 1)})" for name, count in epochs.items())
    how = f"--epochs {2 * max(epochs.values())}, with another --name or --overwrite"
    return limit_sentence(names, len(epochs), how)


def limit_sentence(who: str, count: int, how: str) -> str:
    """Return the sentence that says that the limit of epochs ended ``count`` runs, and how to train longer."""
    they = "it" if count == 1 else "they"
    return (
        f"{who}: the limit of epochs ended training before patience did, so {they} may not be trained out. To train "
        f"longer: {how}"
    )


def without_seed(name: str) -> str:
    """Return the name of a run without its ``-seedN``."""
    return re.sub(r"-seed\d+(?=-|$)", "", name)


def _without_seed_option(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "run": {name: value for name, value in config["run"].items() if name != "seed"}}


def compare_groups(groups: Sequence[RunGroup], metrics: Sequence[str] = SHOWN_METRICS) -> Comparisons:
    """Compare each later group with the first.

    Raises:
        DataError: the runs were evaluated on different users.
        WorkspaceError: a run has no values per user.
    """
    base, *others = [(group.name, group.per_user()) for group in groups]
    return compare_pairs({name: (new, base[1]) for name, new in others}, metrics)


def compare_pairs(pairs: Mapping[str, tuple[Seeds, Seeds]], metrics: Sequence[str]) -> Comparisons:
    """Make all comparisons of one table, with Holm's correction over all of them.

    Args:
        pairs: model → (its values per user, those of the base), each by seed.
        metrics: for example ("recall@20", "ndcg@20").

    Raises:
        DataError: a pair was evaluated on different users.
        ConfigError: a table has no such metric.
    """
    return corrected(
        {
            (name, metric): compare_seeds(new, base, metric)
            for name, (new, base) in pairs.items()
            for metric in metrics
        }
    )


def corrected(found: Mapping[tuple[str, str], tuple[Comparison, Comparison | None]]) -> Comparisons:
    """Correct the p-values of all comparisons of one table, those over users and those over seeds apart.

    Args:
        found: (model, metric) → the results of ``compare_seeds``.
    """
    users = dict(zip(found, _holm([over_users for over_users, _ in found.values()]), strict=True))
    with_seeds = {key: over_seeds for key, (_, over_seeds) in found.items() if over_seeds is not None}
    seeds = dict(zip(with_seeds, _holm(list(with_seeds.values())), strict=True))
    comparisons: Comparisons = {}
    for (name, metric), over_users in users.items():
        over_seeds = seeds.get((name, metric))
        comparisons.setdefault(name, {})[metric] = SeededComparison(over_users, over_seeds)
    return comparisons


def _holm(found: Sequence[Comparison]) -> list[CorrectedComparison]:
    p_t, p_wilcoxon = (holm([getattr(one, p) for one in found]).tolist() for p in ("p_t", "p_wilcoxon"))
    values = [{field.name: getattr(one, field.name) for field in fields(Comparison)} for one in found]
    return [
        CorrectedComparison(**value, p_holm=t, p_wilcoxon_holm=wilcoxon, tests=len(found))
        for value, t, wilcoxon in zip(values, p_t, p_wilcoxon, strict=True)
    ]


def power(comparisons: Comparisons, metric: str = "recall@20") -> dict[str, list[str]]:
    """Return what the comparisons of each model without a significant difference could have shown, in sentences.

    Args:
        comparisons: of one table.
        metric: the one whose numbers are told; none of the others is significant either.
    """
    return {
        name: power_sentences(of_model[metric], metric)
        for name, of_model in comparisons.items()
        if nothing_significant(list(of_model.values()))
    }


def comparisons_as_dict(comparisons: Comparisons) -> dict[str, dict[str, dict[str, Any]]]:
    """Return plain values for JSON: model → metric → the fields of its comparison."""
    return {
        name: {metric: found.as_dict() for metric, found in of_model.items()}
        for name, of_model in comparisons.items()
    }


@dataclass(frozen=True, eq=False)
class RankingComparison:
    """Rankings of several recommenders over the same held-out items, the first being the base of the others.

    Args:
        rankings: name → its ranking.
        comparisons: of each later ranking with the first, for each metric.
    """

    rankings: Mapping[str, Ranking]
    comparisons: Comparisons

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics compared, such as "recall@20"."""
        of_first: Mapping[str, SeededComparison] = next(iter(self.comparisons.values()), {})
        return tuple(of_first)

    @property
    def verdict(self) -> str:
        """One sentence: the change of each recommender against the first in the first metric, and its significance."""
        return verdict(self.comparisons, next(iter(self.rankings)), self.metrics[0])

    @property
    def power(self) -> dict[str, list[str]]:
        """What the comparison could have shown, for each recommender without a significant difference to the first."""
        return power(self.comparisons, self.metrics[0])

    def rows(self) -> list[list[str]]:
        """Return a row for each ranking: its name, and its metrics with the change and a star if significant."""
        found = []
        for name, ranking in self.rankings.items():
            row = [name]
            for metric in self.metrics:
                compared = self.comparisons.get(name, {}).get(metric)
                change = ""
                if compared is not None:
                    users = compared.users
                    change = f" ({100 * users.relative:+.1f} %{'*' * users.significant})"
                row.append(f"{ranking.metric(metric):.4f}{change}")
            found.append(row)
        return found

    def __repr__(self) -> str:
        table = [["", *self.metrics], *self.rows()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table
        ]
        return "\n".join([*(line.rstrip() for line in lines), *self._power_lines()])

    def _power_lines(self) -> list[str]:
        return [f"{name}: {' '.join(sentences)}" for name, sentences in self.power.items()]

    def _repr_html_(self) -> str:
        """Return the table for notebooks."""
        users = len(next(iter(self.rankings.values())))
        note = (
            f"{users:,} users. In brackets the change to the first row; "
            f"* p < {LEVEL:g}, paired t-test, Holm's correction."
        )
        note = " ".join([note, *self._power_lines()])
        return html_table("Comparison", ("", *self.metrics), self.rows(), note=note)


def compare_rankings(
    rankings: Mapping[str, Ranking], metrics: Sequence[str] = ("recall@20", "ndcg@20")
) -> RankingComparison:
    """Compare several rankings of the same held-out items with the first of them, user by user.

    Args:
        rankings: name → what ``evaluate`` returned; at least two.
        metrics: what to compare.

    Raises:
        ConfigError: fewer than two rankings, something else than rankings by name, or an unknown metric.
        DataError: the rankings have different users or held-out items.

    Example:
        >>> compare_rankings({"popularity": evaluate(popular, dataset), "mine": evaluate(mine, dataset)})
    """
    if not isinstance(rankings, Mapping):
        raise ConfigError(
            f"rankings has type {type(rankings).__name__}: expected a name for each, such as "
            '{"popularity": ranking, "mine": another}'
        )
    for name, ranking in rankings.items():
        if not isinstance(ranking, Ranking):
            raise ConfigError(
                f"ranking {name!r} has type {type(ranking).__name__}: expected what evaluate() returns"
            )
    if isinstance(metrics, str):
        raise ConfigError(f"metrics is the text {metrics!r}: expected a list such as [{metrics!r}]")
    if len(rankings) < 2 or not metrics:
        raise ConfigError(
            f"expected at least two rankings and one metric, got {len(rankings)} and {len(metrics)}"
        )
    base, *others = [(name, {0: ranking.table()}) for name, ranking in rankings.items()]
    pairs = {name: (table, base[1]) for name, table in others}
    return RankingComparison(dict(rankings), compare_pairs(pairs, metrics))


def verdict(comparisons: Comparisons, base: str, metric: str = "recall@20") -> str:
    """Return one sentence with the relative change of each model and its significance."""
    parts = []
    for name, of_model in comparisons.items():
        found = of_model[metric].users
        significance = "significant" if found.significant else "not significant"
        parts.append(f"{name} {100 * found.relative:+.1f} % ({significance}, p = {found.p_holm:.2g})")
    return f"{metric.capitalize()} against {base}: {', '.join(parts)}."
