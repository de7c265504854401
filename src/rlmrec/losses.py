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
    result: Tensor = _WeightedLogSumExp.apply(  # type: ignore[no-untyped-call]
        anchors, candidates, weights, temperature, offsets, None, None
    )
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
    where the π_i of a list sum to 1.

    Args:
        anchors: a, (B, d).
        candidates: c, (C, d).
        weights: w, (B,); constants without a gradient.
        temperature: τ.
        listed: l, rows of candidates, int64[B, M].
        probabilities: π, (B, M); constants without a gradient.
    """
    result: Tensor = _WeightedLogSumExp.apply(  # type: ignore[no-untyped-call]
        anchors, candidates, weights, temperature, None, listed, probabilities
    )
    return result


class _WeightedLogSumExp(torch.autograd.Function):
    """Computes value and gradient together, one block of anchors after another.

    The gradient of a scalar is known up to one factor. So it is computed while a block of softmax weights is still
    in the cache: backward recomputes nothing, and only (B + C) x d numbers are stored.
    """

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        candidates: Tensor,
        weights: Tensor,
        temperature: float,
        offsets: Tensor | None,
        listed: Tensor | None,
        probabilities: Tensor | None,
    ) -> Tensor:
        anchor_grad_needed, candidate_grad_needed = ctx.needs_input_grad[:2]
        anchor_grad = torch.empty_like(anchors) if anchor_grad_needed else None
        candidate_grad = torch.zeros_like(candidates) if candidate_grad_needed else None
        total = anchors.new_zeros(())
        # In powers of two: exp2 costs a third of exp, and the change of base is one scaling of the anchors.
        scale = 1 / (temperature * math.log(2))
        bias = None if offsets is None else offsets / math.log(2)
        elements = BLOCK_ELEMENTS if anchors.device.type == "cpu" else ACCELERATOR_BLOCK_ELEMENTS
        rows = min(len(anchors), max(16, elements // max(1, len(candidates))))
        # One buffer for all blocks: fresh memory of this size costs more than the product that fills it.
        buffer = anchors.new_empty(rows, len(candidates))
        for start in range(0, len(anchors), rows):
            block = anchors[start : start + rows]
            weight = weights[start : start + rows]
            logits = torch.mm(block * scale, candidates.T, out=buffer[: len(block)])  # (rows, C)
            if bias is not None:
                logits += bias
            top = logits.amax(1, keepdim=True)  # subtracted, so that no power overflows
            logits.sub_(top)
            columns = None if listed is None else listed[start : start + rows]
            if columns is not None and probabilities is not None:
                targets = probabilities[start : start + rows]
                wanted = (targets * (logits.gather(1, columns) + top)).sum(1)
                total -= (weight * wanted).sum() * math.log(2)
            partition = logits.exp2_().sum(1)
            if columns is not None:
                # The gradient of the cross-entropy is softmax − π: subtracted here, π needs no product of its own.
                logits.scatter_add_(1, columns, -targets * partition[:, None])
            total += (weight * (partition.log() + top[:, 0] * math.log(2))).sum()
            share = weight / (partition * temperature)
            if anchor_grad is not None:
                torch.mm(logits, candidates, out=anchor_grad[start : start + rows]).mul_(share[:, None])
            if candidate_grad is not None:
                candidate_grad.addmm_(logits.T, block * share[:, None])
        ctx.save_for_backward(anchor_grad, candidate_grad)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        anchor_grad, candidate_grad = ctx.saved_tensors
        return (
            None if anchor_grad is None else anchor_grad * gradient,
            None if candidate_grad is None else candidate_grad * gradient,
            None, None, None, None, None,
        )  # fmt: skip


def squared_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Compute ||Θ||², the sum of squares of all trainable numbers (the regulariser of Eq. 18, without λ)."""
    return torch.stack([parameter.square().sum() for parameter in parameters]).sum()
