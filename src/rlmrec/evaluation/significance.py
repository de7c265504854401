"""Comparison of two models over the same users: paired tests, a bootstrap interval and Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from rlmrec.errors import ConfigError, DataError
from rlmrec.types import FloatArray

Seeds = Mapping[int, pl.DataFrame]  # seed → the values per user of that run

LEVEL = 0.05  # a corrected p below it counts as significant
LEAST_SEEDS = 3  # with fewer, a t-test over seeds has next to no power

DIGITS = 12  # of a difference, as a share of the largest value; further ones are rounding of float64
TINY = 1e-300  # all values are 0

# Number of drawn users that the bootstrap holds in memory at a time: 12 MiB.
BLOCK = 1 << 20


@dataclass(frozen=True)
class Comparison:
    """Result of comparing a model with a baseline by paired values (of users, or of seeds).

    Args:
        n: number of pairs.
        base: mean of the baseline.
        new: mean of the model.
        difference: new − base.
        relative: difference / base; infinite or NaN when the base is 0.
        p_t: two-sided p of the paired t-test (null hypothesis: the means are equal).
        p_wilcoxon: two-sided p of the signed-rank test (null hypothesis: differences are symmetric about 0).
        low: lower end of the bootstrap interval of the difference.
        high: its upper end.
        std: sample standard deviation of the differences.
    """

    n: int
    base: float
    new: float
    difference: float
    relative: float
    p_t: float
    p_wilcoxon: float
    low: float
    high: float
    std: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; ``relative`` is None if the base is 0."""
        return {**asdict(self), "relative": self.relative if np.isfinite(self.relative) else None}


def compare(
    new: npt.ArrayLike, base: npt.ArrayLike, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Compare two models by their values of one metric for the same users in the same order.

    Args:
        new: float[n], values of the model.
        base: float[n], values of the baseline.
        samples: number of bootstrap samples.
        confidence: confidence level of the bootstrap interval.
        seed: seed of the bootstrap.

    Raises:
        DataError: the lengths differ, there are fewer than 2 users, or a value is not finite.

    Example:
        >>> compare([0.5, 0.4, 0.6], [0.5, 0.4, 0.6]).p_t
        1.0
    """
    ours, theirs = np.asarray(new, np.float64), np.asarray(base, np.float64)
    if ours.ndim != 1 or ours.shape != theirs.shape:
        raise DataError(f"expected two vectors of the same users, got shapes {ours.shape} and {theirs.shape}")
    if len(ours) < 2:
        raise DataError(
            f"a comparison needs at least 2 users, got {len(ours)}: take more data, or a larger test split"
        )
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise DataError("a value to compare is NaN or infinite: expected finite values of a metric")
    differences = ours - theirs
    mean, base_mean = float(differences.mean()), float(theirs.mean())
    # scipy returns NaN if all differences are equal: then p is 1 if they are 0, else 0.
    spread = np.ptp(differences) > 0
    p_t = float(stats.ttest_1samp(differences, 0).pvalue) if spread else float(mean == 0)
    # Differences that are equal but for rounding, as of means over seeds in another order, share their ranks.
    ranked = np.round(differences / max(np.abs(ours).max(), np.abs(theirs).max(), TINY), DIGITS)
    p_wilcoxon = float(stats.wilcoxon(ranked).pvalue) if ranked.any() else 1.0
    low, high = bootstrap(differences, samples, confidence, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = float(np.float64(mean) / base_mean)
    std = float(differences.std(ddof=1)) if spread else 0.0
    return Comparison(
        len(ours), base_mean, float(ours.mean()), mean, relative, p_t, p_wilcoxon, low, high, std
    )  # fmt: skip


def compare_tables(new: pl.DataFrame, base: pl.DataFrame, metric: str, *, seed: int = 0) -> Comparison:
    """Compare two tables of ``Ranking.table`` (or ``read_table``) by one metric, for example "recall@20".

    Raises:
        DataError: the tables have different users or held-out items: they are of different datasets or splits.
        ConfigError: a table has no such metric.
    """
    for table in (new, base):
        if metric not in table.columns or metric in ("user", "n_relevant"):
            known = ", ".join(name for name in table.columns if "@" in name)
            raise ConfigError(f"there are no values per user of {metric!r}: the table has {known}")
    new, base = new.sort("user"), base.sort("user")
    _refuse_other_users(new, base)
    return compare(new[metric].to_numpy(), base[metric].to_numpy(), seed=seed)


def _refuse_other_users(new: pl.DataFrame, base: pl.DataFrame) -> None:
    if not new.select("user", "n_relevant").equals(base.select("user", "n_relevant")):
        raise DataError(
            f"the two results have different users ({len(new)} and {len(base)}) or held-out items: "
            "compare runs of one dataset and one split"
        )


def average(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Average several tables of values per user, user by user: one model over its seeds.

    Raises:
        DataError: there is no table, or the tables have different users or held-out items.
    """
    if not tables:
        raise DataError("there is no table to average")
    ordered = [table.sort("user") for table in tables]
    first = ordered[0]
    for table in ordered[1:]:
        _refuse_other_users(table, first)
    names = [name for name in first.columns if all(name in table.columns for table in ordered)]
    values = [name for name in names if name not in ("user", "n_relevant")]
    means = {name: np.mean([table[name].to_numpy() for table in ordered], axis=0) for name in values}
    return first.select("user", "n_relevant").with_columns(**means)


def compare_seeds(new: Seeds, base: Seeds, metric: str) -> tuple[Comparison, Comparison | None]:
    """Compare two models that were run with several seeds, over users and over seeds.

    Args:
        new: values per user of the model, by seed.
        base: values per user of the baseline, by seed.
        metric: for example "recall@20".

    Returns:
        the comparison over users, where each user's value is the mean over seeds; and the comparison over the seeds
        that both have, where each seed's value is the mean over users, or None for fewer than 3 common seeds.

    Raises:
        DataError: the tables have different users or held-out items.
        ConfigError: a table has no such metric.
    """
    # The mean over seeds comes first: one user's values under several seeds are not independent samples.
    users = compare_tables(average(list(new.values())), average(list(base.values())), metric)
    common = sorted(set(new) & set(base))
    if len(common) < LEAST_SEEDS:
        return users, None
    means = [[float(np.mean(side[seed][metric].to_numpy())) for seed in common] for side in (new, base)]
    return users, compare(*means)


def bootstrap(
    differences: FloatArray, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Compute a percentile bootstrap interval of the mean.

    Args:
        differences: float64[n].
        samples: number of means, each over n users drawn with replacement.
        confidence: confidence level of the interval, in (0, 1).
        seed: seed of the draws; the result depends on nothing else.

    Raises:
        ConfigError: ``samples`` below 1 or ``confidence`` outside (0, 1).
    """
    if samples < 1 or not 0 < confidence < 1:
        raise ConfigError(f"expected samples ≥ 1 and confidence in (0, 1), got {samples} and {confidence}")
    rng = np.random.default_rng(seed)
    n = len(differences)
    means = np.empty(samples)
    step = max(1, BLOCK // n)
    for start in range(0, samples, step):
        stop = min(start + step, samples)
        drawn = rng.integers(n, size=(stop - start, n), dtype=np.uint32)
        means[start:stop] = differences[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float] | FloatArray) -> FloatArray:
    """Correct the p-values of m tests so that the family-wise error rate stays below the level.

        p'_(j) = max_{i ≤ j} min(1, (m − i + 1) · p_(i)),   p_(1) ≤ … ≤ p_(m)

    The tests may depend on each other in any way. The correction is never weaker than Bonferroni's.

    Source: Holm 1979.

    Raises:
        DataError: a p is outside [0, 1].

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise DataError(f"expected a list of p-values in [0, 1], got {p_values!r}")
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return corrected
