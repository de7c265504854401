"""The losses against slow float64 sums written from the formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from rlmrec import losses
from rlmrec.losses import (
    bpr,
    info_nce,
    listwise_cross_entropy,
    log_sum_exp_and_cross_entropy,
    squared_norm,
    weighted_log_sum_exp,
)


def slow_info_nce(anchors, positives, candidates, temperature):
    """Row by row, in plain Python floats."""

    def cosine(a, b):
        return float(a @ b / (a.norm() * b.norm()))

    total = 0.0
    for a, p in zip(anchors, positives, strict=True):
        scores = [cosine(a, c) / temperature for c in candidates]
        top = max(scores)
        total += top + math.log(sum(math.exp(s - top) for s in scores)) - cosine(a, p) / temperature
    return total / len(anchors)


def test_bpr_by_hand():
    users = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    positives = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    negatives = torch.tensor([[1.0, 5.0], [1.0, 0.0]])
    # scores: 3 against 1, and 2 against 0
    assert bpr(users, positives, negatives).item() == pytest.approx(math.log1p(math.exp(-2)), rel=1e-6)


@pytest.mark.parametrize("temperature", [0.02, 0.05, 0.2, 1.0])
def test_info_nce_equals_the_slow_sum(temperature):
    torch.manual_seed(0)
    anchors, positives, candidates = (torch.randn(n, 5, dtype=torch.float64) for n in (7, 7, 11))
    expected = slow_info_nce(anchors, positives, candidates, temperature)
    assert info_nce(anchors, positives, candidates, temperature).item() == pytest.approx(expected, rel=1e-12)
    single = info_nce(anchors.float(), positives.float(), candidates.float(), temperature)
    assert single.item() == pytest.approx(expected, rel=2e-5)


def test_counting_repeats_is_exact():
    torch.manual_seed(1)
    anchors, candidates = torch.randn(3, 4, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    anchor_counts, candidate_counts = torch.tensor([1, 4, 2]), torch.tensor([3, 1, 1, 5])
    positives = candidates[:3]
    short = info_nce(anchors, positives, candidates, 0.3, anchor_counts, candidate_counts)
    long = slow_info_nce(
        anchors.repeat_interleave(anchor_counts, 0),
        positives.repeat_interleave(anchor_counts, 0),
        candidates.repeat_interleave(candidate_counts, 0),
        0.3,
    )
    assert short.item() == pytest.approx(long, rel=1e-12)


@pytest.mark.parametrize("safe_power", [0.0, 64.0])
@pytest.mark.parametrize("block", [1, 40, 1 << 20])
def test_gradient_whatever_the_block(monkeypatch, block, safe_power):
    monkeypatch.setattr(losses, "SAFE_POWER", safe_power)
    monkeypatch.setattr(losses, "BLOCK_ELEMENTS", block)
    monkeypatch.setattr(losses, "MIN_BLOCK_ANCHORS", 16)
    torch.manual_seed(2)
    anchors = torch.randn(37, 4, dtype=torch.float64, requires_grad=True)
    candidates = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(37, dtype=torch.float64)
    offsets = torch.rand(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda a, c: weighted_log_sum_exp(a, c, weights, 0.4, offsets), (anchors, candidates)
    )


def test_gradient_of_info_nce_equals_autograd_of_the_plain_form():
    torch.manual_seed(3)
    tensors = [torch.randn(n, 6, dtype=torch.float64, requires_grad=True) for n in (9, 9, 13)]

    def plain(a, p, c):
        a, p, c = (F.normalize(t, dim=-1) for t in (a, p, c))
        return ((a @ c.T / 0.2).logsumexp(1) - (a * p).sum(1) / 0.2).mean()

    expected = torch.autograd.grad(3 * plain(*tensors), tensors)
    got = torch.autograd.grad(3 * info_nce(*tensors, 0.2), tensors)
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-12)


def test_anchors_that_are_also_candidates_get_both_gradients():
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: info_nce(x, x, x, 0.5), (x,))


def test_no_gradient_is_made_for_constants():
    anchors = torch.randn(5, 3, requires_grad=True)
    text = torch.randn(8, 3)
    info_nce(anchors, text[:5], text, 0.1).backward()
    assert anchors.grad is not None
    assert text.grad is None


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.05, 2.0), st.integers(0, 2**31))
def test_info_nce_is_bounded_by_its_candidates(n, m, temperature, seed):
    """With the positive among M candidates the loss lies between 0 and log M + 2/τ."""
    generator = torch.Generator().manual_seed(seed)
    candidates = torch.randn(m, 3, generator=generator, dtype=torch.float64)
    anchors = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    positives = candidates[torch.randint(m, (n,), generator=generator)]
    value = info_nce(anchors, positives, candidates, temperature).item()
    assert -1e-9 <= value <= math.log(m) + 2 / temperature + 1e-9


def test_squared_norm():
    assert squared_norm([torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]).item() == 14.0


def test_listwise_cross_entropy_equals_the_dense_one_and_its_finite_differences(monkeypatch):
    monkeypatch.setattr(losses, "BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(losses, "MIN_BLOCK_ANCHORS", 16)  # two blocks
    torch.manual_seed(3)
    anchors, candidates = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (21, 8))
    weights = torch.rand(21, dtype=torch.float64)
    listed = torch.stack([torch.randperm(8)[:4] for _ in range(21)])
    probabilities = torch.rand(21, 4, dtype=torch.float64).softmax(1)
    probabilities[0] = 0  # no list

    def dense(a, c):
        logs = (a @ c.T / 0.4).log_softmax(1).gather(1, listed)
        own = -(probabilities * logs).sum(1)
        own[0] = (a[0] @ c.T / 0.4).logsumexp(0)
        return (weights * own).sum()

    def ours(a, c):
        return listwise_cross_entropy(a, c, weights, 0.4, listed, probabilities)

    torch.testing.assert_close(ours(anchors, candidates), dense(anchors, candidates), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(ours, (anchors, candidates))


@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.0, 0.3), (0.0, 2.0)])
def test_both_sums_in_one_pass_equal_those_computed_apart(monkeypatch, factors):
    monkeypatch.setattr(losses, "BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(losses, "MIN_BLOCK_ANCHORS", 16)
    torch.manual_seed(5)
    tensors = [torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (21, 8)]
    weights, list_weights = torch.rand(2, 21, dtype=torch.float64)
    weights[:2], list_weights[1:3] = 0, 0  # no user of the one, of the other, of both
    listed = torch.stack([torch.randperm(8)[:4] for _ in range(21)])
    probabilities = torch.rand(21, 4, dtype=torch.float64).softmax(1)
    apart = (
        weighted_log_sum_exp(*tensors, weights, 0.4),
        listwise_cross_entropy(*tensors, list_weights, 0.4, listed, probabilities),
    )
    together = log_sum_exp_and_cross_entropy(*tensors, 0.4, weights, listed, probabilities, list_weights)
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=0)
    for got, expected in zip(
        *(
            torch.autograd.grad(factors[0] * one + factors[1] * other, tensors)
            for one, other in (together, apart)
        ),
        strict=True,
    ):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-14)


def test_the_sums_are_a_proper_operator():
    rng = torch.Generator().manual_seed(0)
    anchors, candidates = (torch.randn(n, 3, generator=rng).requires_grad_() for n in (4, 5))
    weights, listed = torch.rand(4, generator=rng), torch.randint(5, (4, 2), generator=rng)
    lists = listed, torch.rand(4, 2, generator=rng), weights
    for rest in ((torch.rand(5, generator=rng), weights, None, None, None), (None, None, *lists)):
        torch.library.opcheck(losses._softmax_sums, (anchors, candidates, 0.2, *rest, True, True))
