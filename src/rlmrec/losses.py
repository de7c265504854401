"""Losses: pure functions of tensors, each with its equation.

B is the number of rows of a batch, C of candidates, d of dimensions; τ is the temperature.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits are computed in blocks of this many numbers. At 4 MiB in float32 a block stays in the cache between the
# product that makes it, the exponential, and the products that read it (benchmarks/README.md).
BLOCK_ELEMENTS = 1 << 20
# An accelerator is faster with few large kernels: 256 MiB.
ACCELERATOR_BLOCK_ELEMENTS = 1 << 26
# Products with fewer anchors than this are slow.
MIN_BLOCK_ANCHORS = 64
# Powers of two up to this are summed as they are: float32 ends at 2^128, which leaves room for 2^64 candidates.
SAFE_POWER = 64.0


def bpr(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """Compute the loss of Bayesian personalised ranking: a positive item should score above a negative one.

    mean over B of softplus(e_u·e_neg − e_u·e_pos), which is −log σ(e_u·e_pos − e_u·e_neg).

    Args:
        users: e_u, (B, d).
        positives: e_pos, (B, d).
        negatives: e_neg, (B, d).

    Source: Rendle et al., UAI 2009.
    """
    return F.softplus((users * (negatives - positives)).sum(-1)).mean()


def info_nce(
    anchors: Tensor,
    positives: Tensor,
    candidates: Tensor,
    temperature: float,
    anchor_counts: Tensor | None = None,
    candidate_counts: Tensor | None = None,
) -> Tensor:
    """Compute InfoNCE: each anchor should be closer to its positive than to the candidates (Eq. 6 and 18).

    mean over B of −a·p/τ + log Σ_c exp(a·c/τ), rows scaled to unit length.

    A batch repeats users and items, and equal rows need not be computed twice: pass the distinct anchors
    with how often each occurs, and the distinct candidates with how often each counts in the sum. The
    result is the same number.

    Args:
        anchors: a, (B, d).
        positives: p, (B, d); may or may not be among the candidates.
        candidates: c, (C, d).
        temperature: τ > 0.
        anchor_counts: weights of the mean, (B,); all one by default.
        candidate_counts: multiplicities in the sum, (C,); all one by default.

    Source: van den Oord et al., 2018; Ren et al., WWW 2024, Eq. 16-18.
    """
    anchors, positives, candidates = (F.normalize(rows, dim=-1) for rows in (anchors, positives, candidates))
    if anchor_counts is None:
        weights = anchors.new_full((len(anchors),), 1.0 / len(anchors))
    else:
        weights = anchor_counts.to(anchors.dtype) / anchor_counts.sum()
    offsets = None if candidate_counts is None else candidate_counts.to(anchors.dtype).log()
    attraction = ((anchors * positives).sum(-1) * weights).sum() / temperature
    return weighted_log_sum_exp(anchors, candidates, weights, temperature, offsets) - attraction


def weighted_log_sum_exp(
    anchors: Tensor, candidates: Tensor, weights: Tensor, temperature: float, offsets: Tensor | None = None
) -> Tensor:
    """Compute a weighted sum of log-sum-exps and its gradient without ever storing B x C numbers.

    Σ_i w_i · log Σ_c exp(a_i·c/τ + o_c)

    Args:
        anchors: a, (B, d).
        candidates: c, (C, d).
        weights: w, (B,); constants without a gradient.
        temperature: τ.
        offsets: o, (C,), log multiplicities; constants, 0 by default.
    """
    first, _ = _Softmax.apply(  # type: ignore[no-untyped-call]
        anchors, candidates, temperature, offsets, weights, None, None, None
    )
    result: Tensor = first
    return result


def listwise_cross_entropy(
    anchors: Tensor,
    candidates: Tensor,
    weights: Tensor,
    temperature: float,
    listed: Tensor,
    probabilities: Tensor,
) -> Tensor:
    """Compute a weighted sum of cross-entropies between short lists and softmaxes over all candidates.

    Σ_i w_i · [ log Σ_c exp(a_i·c/τ) − Σ_m π_im a_i·c_{l_im}/τ ], which is −Σ_m π_im log softmax(a_i·c/τ)_{l_im}
    where the π_i of a list sum to 1. They need not.

    Args:
        anchors: a, (B, d).
        candidates: c, (C, d).
        weights: w, (B,); constants without a gradient.
        temperature: τ.
        listed: l, rows of candidates, int64[B, M].
        probabilities: π, (B, M); constants without a gradient.
    """
    _, second = _Softmax.apply(  # type: ignore[no-untyped-call]
        anchors, candidates, temperature, None, None, listed, probabilities, weights
    )
    result: Tensor = second
    return result


def log_sum_exp_and_cross_entropy(
    anchors: Tensor,
    candidates: Tensor,
    temperature: float,
    weights: Tensor,
    listed: Tensor,
    probabilities: Tensor,
    list_weights: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute ``weighted_log_sum_exp`` and ``listwise_cross_entropy`` over the same logits, for the price of one.

    Args:
        anchors: a, (B, d).
        candidates: c, (C, d).
        temperature: τ.
        weights: of the log-sum-exps, (B,).
        listed: l, rows of candidates, int64[B, M].
        probabilities: π, (B, M).
        list_weights: of the cross-entropies, (B,).

    Returns:
        the two sums. Their gradients are computed together where both enter the loss with the same factor, and again
        where they do not.
    """
    first, second = _Softmax.apply(  # type: ignore[no-untyped-call]
        anchors, candidates, temperature, None, weights, listed, probabilities, list_weights
    )
    return first, second


class _Softmax(torch.autograd.Function):
    """Σ_i w_i log Σ_c exp(a_i·c/τ + o_c) and Σ_i v_i [log Σ_c exp(a_i·c/τ) − Σ_m π_im a_i·c_{l_im}/τ].

    The gradient of a scalar is known up to one factor. So it is computed in the forward pass: backward recomputes
    nothing, and only (B + C) x d numbers are stored.
    """

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        candidates: Tensor,
        temperature: float,
        offsets: Tensor | None,
        weights: Tensor | None,
        listed: Tensor | None,
        probabilities: Tensor | None,
        list_weights: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.needed = ctx.needs_input_grad[:2]
        ctx.temperature = temperature
        rest = (offsets, weights, listed, probabilities, list_weights)
        *sums, anchor_grad, candidate_grad = _sums_and_gradients(
            anchors, candidates, temperature, *rest, needed=ctx.needed
        )
        ctx.save_for_backward(anchor_grad, candidate_grad, anchors, candidates, *rest)
        return sums[0], sums[1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, first: Tensor, second: Tensor) -> tuple[Tensor | None, ...]:
        anchor_grad, candidate_grad, anchors, candidates, *rest = ctx.saved_tensors
        offsets, weights, listed, probabilities, list_weights = rest
        factor = second if weights is None else first
        if weights is not None and list_weights is not None and not torch.equal(first, second):
            *_, anchor_grad, candidate_grad = _sums_and_gradients(
                anchors, candidates, ctx.temperature, offsets, weights * first, listed, probabilities,
                list_weights * second, needed=ctx.needed,
            )  # fmt: skip
            factor = torch.ones_like(first)
        return (
            None if anchor_grad is None else anchor_grad * factor,
            None if candidate_grad is None else candidate_grad * factor,
            None, None, None, None, None, None,
        )  # fmt: skip


def _sums_and_gradients(
    anchors: Tensor,
    candidates: Tensor,
    temperature: float,
    offsets: Tensor | None,
    weights: Tensor | None,
    listed: Tensor | None,
    probabilities: Tensor | None,
    list_weights: Tensor | None,
    needed: tuple[bool, bool],
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the two sums of ``_Softmax`` and the gradients of their total, one block of anchors after another.

    The products of the gradients are computed while a block of softmax weights is still in the cache.
    """
    anchor_grad = torch.empty_like(anchors) if needed[0] else None
    candidate_grad = torch.zeros_like(candidates) if needed[1] else None
    first, second = anchors.new_zeros(2).unbind()
    # In powers of two: exp2 costs a third of exp, and the change of base is one scaling of the anchors.
    scale = 1 / (temperature * math.log(2))
    bias = None if offsets is None else offsets / math.log(2)
    zero = anchors.new_zeros(len(anchors))
    own, lists = (zero if one is None else one.to(anchors.dtype) for one in (weights, list_weights))
    elements = BLOCK_ELEMENTS if anchors.device.type == "cpu" else ACCELERATOR_BLOCK_ELEMENTS
    rows = min(len(anchors), max(MIN_BLOCK_ANCHORS, elements // max(1, len(candidates))))
    is_safe = scale * _largest_product(anchors, candidates) + _largest(bias) < SAFE_POWER
    # One buffer for all blocks: fresh memory of this size costs more than the product that fills it.
    buffer = anchors.new_empty(rows * len(candidates))
    for start in range(0, len(anchors), rows):
        part = slice(start, start + rows)
        block = anchors[part]
        # Candidates by anchors: the products of this shape take a third less time than those of the other.
        logits = buffer[: len(candidates) * len(block)].view(len(candidates), len(block))
        torch.mm(candidates, (block * scale).T, out=logits)
        if bias is not None:
            logits += bias[:, None]
        top = block.new_zeros(len(block))
        if not is_safe:  # the largest is subtracted, so that no power overflows
            top = logits.amax(0)
            logits -= top
        weight = own[part] + lists[part]
        if listed is not None and probabilities is not None:
            columns, targets = listed[part].T, probabilities[part].T.to(logits.dtype)
            wanted = (targets * (logits.gather(0, columns) + top)).sum(0) * math.log(2)
            second -= (lists[part] * wanted).sum()
        partition = logits.exp2_().sum(0)
        logs = partition.log() + top * math.log(2)
        first += (own[part] * logs).sum()
        second += (lists[part] * logs).sum()
        if listed is not None and probabilities is not None:
            # The gradient of a cross-entropy is softmax − π: subtracted here, π needs no product of its own.
            listed_share = lists[part] / torch.where(weight == 0, 1, weight)
            logits.scatter_add_(0, columns, -targets * (partition * listed_share))
        share = (weight / (partition * temperature))[:, None]
        if anchor_grad is not None:
            torch.mm(logits.T, candidates, out=anchor_grad[part]).mul_(share)
        if candidate_grad is not None:
            candidate_grad.addmm_(logits, block * share)
    return first, second, anchor_grad, candidate_grad


def _largest_product(anchors: Tensor, candidates: Tensor) -> float:
    """Return a bound of the inner products, max |a| · max |c|; ∞ on an accelerator, which would wait for the answer."""
    if anchors.device.type != "cpu" or not len(anchors) or not len(candidates):
        return math.inf
    return float(anchors.norm(dim=1).max() * candidates.norm(dim=1).max())


def _largest(bias: Tensor | None) -> float:
    return 0.0 if bias is None or not len(bias) else float(bias.abs().max())


def squared_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Compute ||Θ||², the sum of squares of all trainable numbers (the regulariser of Eq. 18, without λ)."""
    return torch.stack([parameter.square().sum() for parameter in parameters]).sum()
