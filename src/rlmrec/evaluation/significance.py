"""Is one model better than another, over the same users? Paired tests, an interval and Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from rlmrec.errors import ConfigError, DataError
from rlmrec.types import FloatArray

Seeds = Mapping[int, pl.DataFrame]  # seed → the values per user of that run

LEVEL = 0.05  # below which a corrected p counts as significant
LEAST_SEEDS = 3  # for a test over seeds

# Draws of the bootstrap that are in memory at a time: 12 MiB.
BLOCK = 1 << 20


@dataclass(frozen=True)
class Comparison:
    """A model against a base, user by user.

    Args:
        n: users.
        base: mean of the base.
        new: mean of the model.
        difference: new − base.
        relative: difference / base; infinite or NaN when the base is 0.
        p_t: two-sided p of the paired t-test: are the means equal?
        p_wilcoxon: two-sided p of the signed-rank test: are differences symmetric about 0?
        low: lower end of the bootstrap interval of the difference.
        high: its upper end.
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


def compare(
    new: npt.ArrayLike, base: npt.ArrayLike, *, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Compare two models by their values of one metric for the same users in the same order.

    Args:
        new: float[n], values of the model.
        base: float[n], values of what it is compared with.
        samples: of the bootstrap.
        confidence: of its interval.
        seed: of its draws.

    Raises:
        DataError: not two vectors of the same length, fewer than 2 users, or a value that is not finite.

    Example:
        >>> compare([0.5, 0.4, 0.6], [0.5, 0.4, 0.6]).p_t
        1.0
    """
    ours, theirs = np.asarray(new, np.float64), np.asarray(base, np.float64)
    if ours.ndim != 1 or ours.shape != theirs.shape:
        raise DataError(f"expected two vectors of the same users, got shapes {ours.shape} and {theirs.shape}")
    if len(ours) < 2:
        raise DataError(f"a comparison needs at least 2 users, got {len(ours)}")
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise DataError("a value to compare is NaN or infinite")
    differences = ours - theirs
    mean, base_mean = float(differences.mean()), float(theirs.mean())
    # scipy has no answer without any spread: no difference at all, or the same one for everybody.
    spread = np.ptp(differences) > 0
    p_t = float(stats.ttest_1samp(differences, 0).pvalue) if spread else float(mean == 0)
    p_wilcoxon = float(stats.wilcoxon(differences).pvalue) if differences.any() else 1.0
    low, high = bootstrap(differences, samples, confidence, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = float(np.float64(mean) / base_mean)
    return Comparison(
        len(ours), base_mean, float(ours.mean()), mean, relative, p_t, p_wilcoxon, low, high
    )  # fmt: skip


def compare_tables(new: pl.DataFrame, base: pl.DataFrame, metric: str, *, seed: int = 0) -> Comparison:
    """Compare two tables of ``Ranking.table`` (or ``read_table``) by one metric, for example "recall@20".

    Raises:
        DataError: the tables are of different users or held-out items: another dataset or split.
        ConfigError: a table has no such metric.
    """
    for table in (new, base):
        if metric not in table.columns or metric in ("user", "n_relevant"):
            known = ", ".join(name for name in table.columns if "@" in name)
            raise ConfigError(f"no values per user of {metric!r}: the table has {known}")
    new, base = new.sort("user"), base.sort("user")
    _refuse_other_users(new, base)
    return compare(new[metric].to_numpy(), base[metric].to_numpy(), seed=seed)


def _refuse_other_users(new: pl.DataFrame, base: pl.DataFrame) -> None:
    if not new.select("user", "n_relevant").equals(base.select("user", "n_relevant")):
        raise DataError(
            f"the two results are of different users ({len(new)} and {len(base)}) or held-out items: "
            "compare runs of one dataset and one split"
        )


def average(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The mean of several tables of values per user: one model over its seeds, user by user.

    Raises:
        DataError: no table, or tables of different users or held-out items.
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
    """Compare two models that were run with several seeds: over users, and over seeds.

    Args:
        new: values per user of the model, by seed.
        base: of what it is compared with.
        metric: for example "recall@20".

    Returns:
        the comparison over users, each user's value being the mean over seeds; and the one over the seeds
        that both have, each seed's value being the mean over users, or None for fewer than 3 of them.

    Raises:
        DataError: different users or held-out items.
        ConfigError: a table has no such metric.
    """
    users = compare_tables(average(list(new.values())), average(list(base.values())), metric)
    common = sorted(set(new) & set(base))
    if len(common) < LEAST_SEEDS:
        return users, None
    means = [[float(np.mean(side[seed][metric].to_numpy())) for seed in common] for side in (new, base)]
    return users, compare(*means)


def bootstrap(
    differences: FloatArray, samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean: of ``samples`` means over n users drawn with replacement.

    Args:
        differences: float64[n].
        samples: how many means.
        confidence: probability of the interval, in (0, 1).
        seed: of the draws; the result depends on nothing else.

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
    """Correct the p of m tests so that the chance of any false finding stays below the level.

        p'_(j) = max_{i ≤ j} min(1, (m − i + 1) · p_(i)),   p_(1) ≤ … ≤ p_(m)

    Source: Holm 1979. Valid whatever the dependence of the tests, never weaker than Bonferroni.

    Raises:
        DataError: a p outside [0, 1].

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
