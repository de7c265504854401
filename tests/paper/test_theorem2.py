"""Theorem 2's bound where the mutual information is known."""

import math

import pytest
import torch
from scipy.stats import multivariate_normal

from rlmrec.errors import ConfigError
from rlmrec.experiments.results import Results
from rlmrec.paper.theorem2 import (
    Row,
    Theorem2Config,
    correlation,
    draw,
    exact_critic,
    run,
    theorem2,
    violations,
)

SMALL = Theorem2Config(
    information=(0.0, 1.0), sizes=(4, 32, 256), dimensions=2, steps=120, batch_size=128, anchors=4096
)


@pytest.fixture(scope="module")
def rows():
    return theorem2(SMALL)


@pytest.mark.parametrize("dimensions", [1, 4, 7])
def test_the_pairs_have_the_information_that_is_said(dimensions):
    rho = correlation(1.5, dimensions)
    assert -dimensions / 2 * math.log(1 - rho**2) == pytest.approx(1.5)
    x, y = draw(100_000, 1.5, dimensions, torch.Generator().manual_seed(0))
    assert torch.allclose((x * y).mean(0), torch.full((dimensions,), rho), atol=0.02)
    for part in (x, y):
        assert torch.allclose(part.T @ part / len(part), torch.eye(dimensions), atol=0.02)


def test_the_exact_critic_is_the_density_ratio():
    """Against scipy's densities of each pair; the factor of x alone cancels in Eq. 6."""
    information, d, n = 1.0, 3, 6
    rho = correlation(information, d)
    x, y = (part.double() for part in draw(n, information, d, torch.Generator().manual_seed(0)))
    ratios = torch.tensor(
        [
            [
                multivariate_normal.logpdf(s, rho * e, 1 - rho**2) - multivariate_normal.logpdf(s, [0] * d)
                for s in y.tolist()
            ]
            for e in x.numpy()
        ]
    )
    expected = (ratios.logsumexp(1) - ratios.diagonal()).mean()
    assert exact_critic(information, d)(x, y) == pytest.approx(float(expected), abs=1e-9)


def test_the_bound_holds_and_tightens(rows):
    assert violations(rows) == []
    for critic in ("trained", "exact"):
        mine = [row for row in rows if row.critic == critic and row.information == 1]
        bounds = [row.bound for row in mine]
        assert bounds == sorted(bounds)
        assert all(row.bound <= math.log(row.n) for row in mine)
        assert 0.9 < bounds[-1] <= 1 + 4 * mine[-1].standard_error
    for row in rows:  # nothing to know, nothing found
        if row.information == 0:
            assert abs(row.bound) < 0.02


def test_a_bound_above_the_information_is_noticed():
    assert violations([Row("trained", 64, 1.0, 1.2, 0.01, 30), Row("trained", 64, 1.0, 1.02, 0.01, 30)]) == [
        Row("trained", 64, 1.0, 1.2, 0.01, 30)
    ]


def test_a_run_is_kept_and_a_killed_one_goes_on(tmp_path):
    config = SMALL.model_copy(update={"information": (1.0,), "sizes": (4, 16), "steps": 3})
    told = []

    def stop(row, number, total):
        told.append((row, number, total))
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, config, stop)
    path = tmp_path / "theorem2" / "gaussians.jsonl"
    before = path.read_text()
    assert len(before.splitlines()) == 3
    rest = []
    whole = run(tmp_path, config, lambda row, number, total: rest.append((number, total)))
    assert rest == [(1, 2), (2, 2)], "of N = 16, whose exact critic was lacking"
    assert path.read_text().startswith(before)
    assert whole == theorem2(config)
    lines = Results(path).records.values()
    assert sorted(line["bound"] for line in lines) == sorted(row.bound for row in whole)
    assert {line["config"]["steps"] for line in lines} == {3}
    assert run(tmp_path, config, stop) == whole, "nothing is estimated again"
    # Other options are other rows.
    other = run(tmp_path, config.model_copy(update={"temperature": 0.2}))
    assert other != whole
    assert len(Results(path).records) == 8


def test_impossible_questions_are_refused():
    for bad in ({"sizes": (1,)}, {"information": (-1.0,)}):
        with pytest.raises(ConfigError, match="expected N"):
            theorem2(SMALL.model_copy(update=bad))
