"""Power of the paired t-test against the noncentral t distribution, a simulation and published tables."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import stats

from rlmrec.errors import ConfigError
from rlmrec.evaluation.compare import compare_pairs, power
from rlmrec.evaluation.power import detectable, next_steps, pairs_needed, rounded


@pytest.mark.parametrize(("n", "level", "wanted"), [(3, 0.05, 0.8), (20, 0.05, 0.9), (5000, 0.05 / 6, 0.8)])
def test_against_the_noncentral_t_distribution(n, level, wanted):
    effect = detectable(2.0, n, level, wanted) / 2.0 * np.sqrt(n)
    critical = stats.t.isf(level / 2, n - 1)
    assert stats.nct.sf(critical, n - 1, effect) == pytest.approx(wanted, abs=1e-5)


def test_against_published_tables():
    """G*Power and Cohen's table: an effect of 0.5 needs 34 pairs, one of 0.2 needs 199, one of 0.8 needs 15."""
    assert [pairs_needed(effect, 1.0) for effect in (0.5, -0.2, 0.8)] == [34, 199, 15]
    assert [pairs_needed(0.5, 1.0, power=0.9), pairs_needed(0.0, 1.0), pairs_needed(1e-9, 1.0)] == [
        44,
        None,
        None,
    ]
    assert pairs_needed(0.5, 0.0) == 2


def test_a_simulated_difference_is_found_as_often_as_said():
    n, level = 40, 0.05 / 6
    rng = np.random.default_rng(0)
    differences = rng.normal(detectable(0.3, n, level), 0.3, (4000, n))
    p = stats.ttest_1samp(differences, 0, axis=1).pvalue
    assert (p < level).mean() == pytest.approx(0.8, abs=0.02)


def test_wrong_values():
    for values in ((1.0, 1), (-1.0, 5), (float("nan"), 5), (1.0, 5, 0.0), (1.0, 5, 0.05, 1.0)):
        with pytest.raises(ConfigError, match="expected std"):
            detectable(*values)


def by_seed(rows):
    columns = {"user": range(rows.shape[1]), "n_relevant": [1] * rows.shape[1]}
    return {seed: pl.DataFrame({**columns, "recall@20": values}) for seed, values in enumerate(rows)}


@pytest.fixture
def found():
    """A gain that is significant, one that is not over 3 seeds, and a model that changes nothing."""
    rng = np.random.default_rng(1)
    base = rng.random((3, 200))
    near = base + rng.normal(0.004, 0.1, base.shape)
    pairs = {
        name: (by_seed(new), by_seed(base))
        for name, new in (("far", near + 0.1), ("near", near), ("same", base))
    }
    return compare_pairs(pairs, ["recall@20"])


def test_only_what_is_not_significant_is_explained(found):
    near = found["near"]["recall@20"]
    assert near.users.std == pytest.approx(0.1 / np.sqrt(3), rel=0.1)
    assert near.users.detectable == detectable(near.users.std, 200, 0.05 / 3)
    assert near.users.needed == pairs_needed(near.users.difference, near.users.std, 0.05 / 3) > 200
    assert near.as_dict()["needed"] == near.users.needed
    said = power(found)
    assert set(said) == {"near", "same"}
    assert said["same"] == ["The values of recall@20 are the same for every user."]
    users, seeds = said["near"]
    assert users.startswith("200 users show a change of recall@20 of 0.01")
    assert f"for which about {rounded(near.users.needed):,} users would be needed" in users
    assert seeds.startswith("3 seeds show a change of recall@20 of ")
    assert [rounded(number) for number in (7, 34, 199, 12_345)] == [7, 34, 200, 13_000]


def test_what_to_try_next(found):
    near = found["near"]["recall@20"]
    single = replace(near, seeds=None, users=replace(near.users, difference=0.012))
    assert [step.partition(":")[0] for step in next_steps(single)] == [
        "More seeds", "More users", "More text", "Other options",
    ]  # fmt: skip
    steps = next_steps(replace(near, users=replace(near.users, difference=1e-5)), text=False)
    assert steps[0].startswith("The change is too small for this data")
    assert len(steps) == 2
