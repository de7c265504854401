import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rlmrec.errors import ConfigError, DataError
from rlmrec.evaluation.significance import (
    average,
    bootstrap,
    compare,
    compare_seeds,
    compare_tables,
    holm,
)


def test_against_scipy():
    rng = np.random.default_rng(0)
    base = rng.random(300)
    new = base + rng.normal(0.02, 0.1, 300)
    found = compare(new, base)
    assert found.n == 300
    assert found.p_t == pytest.approx(stats.ttest_rel(new, base).pvalue)
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(new, base).pvalue)
    assert found.difference == pytest.approx(new.mean() - base.mean())
    assert found.relative == pytest.approx(new.mean() / base.mean() - 1)
    theirs = stats.bootstrap(
        (new - base,), np.mean, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx(theirs, abs=2e-3)


def test_a_known_answer():
    """Differences 1, 2, 3: t = 2 / (1 / √3), two degrees of freedom; signs all +: 2 of 8 arrangements."""
    found = compare([2, 4, 6], [1, 2, 3])
    assert found.p_t == pytest.approx(0.0741799)
    assert found.p_wilcoxon == pytest.approx(0.25)
    assert (found.base, found.new, found.difference, found.relative) == (2, 4, 2, 1)


def test_no_difference():
    found = compare([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert (found.p_t, found.p_wilcoxon, found.difference, found.low, found.high) == (1, 1, 0, 0, 0)


@pytest.mark.filterwarnings("error")
def test_the_same_difference_everywhere_and_a_base_of_zero():
    found = compare(np.full(50, 0.5), np.zeros(50))
    assert found.p_t == 0
    assert found.p_wilcoxon < 1e-10
    assert (found.low, found.high, found.relative) == (0.5, 0.5, np.inf)


def test_wrong_values():
    with pytest.raises(DataError, match="same users"):
        compare([1, 2, 3], [1, 2])
    with pytest.raises(DataError, match="at least 2 users, got 1"):
        compare([1], [2])
    with pytest.raises(DataError, match="NaN"):
        compare([1, np.nan], [1, 2])


def table(users, values, n_relevant=None):
    return pl.DataFrame({"user": users, "n_relevant": n_relevant or [1] * len(users), "recall@20": values})


def test_tables():
    base, new = table([0, 1, 2], [0.1, 0.2, 0.3]), table([2, 1, 0], [0.6, 0.2, 0.1])
    assert compare_tables(new, base, "recall@20") == compare([0.1, 0.2, 0.6], [0.1, 0.2, 0.3])
    with pytest.raises(DataError, match="different users"):
        compare_tables(new, table([0, 1, 3], [0.1, 0.2, 0.3]), "recall@20")
    with pytest.raises(DataError, match="held-out items"):
        compare_tables(new, table([0, 1, 2], [0.1, 0.2, 0.3], [1, 1, 2]), "recall@20")
    for name in ("ndcg@20", "user"):
        with pytest.raises(ConfigError, match="recall@20"):
            compare_tables(new, base, name)


def seeds_of(values):
    """Values (seeds, users) as tables by seed, from 1 on, each in another order of users."""
    rng = np.random.default_rng(3)
    orders = [rng.permutation(len(row)) for row in values]
    return {
        seed: table(order.tolist(), np.asarray(row)[order])
        for seed, (row, order) in enumerate(zip(values, orders, strict=True), 1)
    }


def test_average_is_over_seeds_user_by_user():
    values = np.random.default_rng(0).random((4, 30))
    found = average(list(seeds_of(values).values())).sort("user")
    np.testing.assert_allclose(found["recall@20"], values.mean(0))
    with pytest.raises(DataError, match="no table"):
        average([])
    with pytest.raises(DataError, match="different users"):
        average([table([0, 1], [0.1, 0.2]), table([0, 2], [0.1, 0.2])])


def test_seeds_against_scipy():
    rng = np.random.default_rng(0)
    base = rng.random((4, 200))
    new = base + rng.normal(0.02, 0.1, (4, 200))
    users, seeds = compare_seeds(seeds_of(new), seeds_of(base), "recall@20")
    assert users.p_t == pytest.approx(stats.ttest_rel(new.mean(0), base.mean(0)).pvalue)
    assert users.p_wilcoxon == pytest.approx(stats.wilcoxon(new.mean(0), base.mean(0)).pvalue)
    assert seeds.n == 4
    assert seeds.p_t == pytest.approx(stats.ttest_rel(new.mean(1), base.mean(1)).pvalue)
    assert seeds.p_wilcoxon == pytest.approx(stats.wilcoxon(new.mean(1), base.mean(1)).pvalue)


def test_rounding_breaks_no_ties_of_ranks():
    """Recalls are fractions: in whole numbers their differences have ties that rounding must not part."""
    rng = np.random.default_rng(0)
    relevant = rng.integers(1, 8, 300)
    new, base = (rng.binomial(relevant, share, (3, 300)) for share in (0.35, 0.3))
    users, _ = compare_seeds(seeds_of(new / relevant), seeds_of(base / relevant), "recall@20")
    exact = (new.sum(0) - base.sum(0)) * (420 // relevant)
    assert users.p_wilcoxon == pytest.approx(stats.wilcoxon(exact).pvalue, rel=1e-9)


def test_only_common_seeds_are_paired_and_two_are_too_few():
    rng = np.random.default_rng(0)
    base, new = rng.random((5, 20)), rng.random((3, 20))
    found = compare_seeds(seeds_of(new), seeds_of(base), "recall@20")[1]
    assert found.base == pytest.approx(base[:3].mean())
    assert compare_seeds(seeds_of(new[:2]), seeds_of(base), "recall@20")[1] is None


def test_bootstrap():
    differences = np.random.default_rng(0).normal(0.3, 1, 4000)
    low, high = bootstrap(differences)
    assert (low, high) == bootstrap(differences)
    assert (low, high) != bootstrap(differences, seed=1)
    error = differences.std() / np.sqrt(4000)
    assert low == pytest.approx(differences.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(differences.mean() + 1.96 * error, abs=0.2 * error)
    narrow = bootstrap(differences, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high
    for wrong in ({"samples": 0}, {"confidence": 1.0}):
        with pytest.raises(ConfigError):
            bootstrap(differences, **wrong)


def test_holm():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([]).tolist() == []
    for wrong in ([1.1], [np.nan], [-0.1]):
        with pytest.raises(DataError):
            holm(wrong)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_none_and_bonferroni(p):
    corrected = holm(p)
    order = np.argsort(p, kind="stable")
    assert (corrected >= np.array(p)).all()
    assert (corrected <= np.minimum(np.array(p) * len(p), 1)).all()
    assert (np.diff(corrected[order]) >= 0).all()
