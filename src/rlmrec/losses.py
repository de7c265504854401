"""Losses: pure functions of tensors, each with its equation.

B is the number of rows of a batch, C of candidates, d of dimensions; τ is the temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlmrec.batch import has_static_shapes, occurrences_of

# Logits are computed in blocks of this many numbers. At 4 MiB in float32 a block stays in the cache between the
# product that makes it, the exponential, and the products that read it (benchmarks/README.md).
BLOCK_ELEMENTS = 1 << 20
# An accelerator is faster with few large kernels: 256 MiB.
ACCELERATOR_BLOCK_ELEMENTS = 1 << 26
# Products with fewer anchors than this are slow.
MIN_BLOCK_ANCHORS = 64
# Rows of a batch that are gathered at a time: 16 MiB each for users, positives and negatives at d = 64.
MICRO_BATCH_ROWS = 1 << 16
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
        weights = anchor_counts.to(anchors.dtype) / anchor_counts.sum().clamp(min=1)  # all 0: the term is 0
    offsets = None if candidate_counts is None else candidate_counts.to(anchors.dtype).log()
    attraction = ((anchors * positives).sum(-1) * weights).sum() / temperature
    return weighted_log_sum_exp(anchors, candidates, weights, temperature, offsets) - attraction


def sampled_info_nce(
    anchors: tuple[Tensor, Tensor],
    positives: tuple[Tensor, Tensor],
    pool: Tensor,
    temperature: float,
    counts: Tensor,
    ids: tuple[Tensor, Tensor],
    population: Tensor | int,
    occurrences: Tensor | int = 1,
    valid: Tensor | None = None,
) -> Tensor:
    """Compute InfoNCE with an estimate of its denominators, from a uniform sample of the candidates.

    Σ_i n_i/Σn · [ −a_i·p_i/τ + log Z_i ],
    Z_i = k_i exp(a_i·p_i/τ) + (R − k_i)/(M − m_i) Σ_{c in pool, c ≠ i} exp(a_i·c/τ)

    An anchor's own candidate counts exactly, the others of the pool as often as they stand for candidates outside (the
    log of that is the logQ correction). So Z_i is unbiased, and exact where the pool has every candidate. A pool with
    the anchor's own candidate alone tells nothing of the others: they are then left out.

    Args:
        anchors: table of embeddings (n, d) and the rows of the anchors in it, int64[B].
        positives: likewise, the own candidate of each anchor.
        pool: c, (M, d), drawn uniformly from the R candidates without repeats.
        temperature: τ.
        counts: n_i, weights of the mean, (B,).
        ids: of the anchors, (B,), and of the pool, (M,); equal ones are the same candidate. m_i of the pool have the
            anchor's.
        population: R, the number of candidates, those that occur several times counted as often.
        occurrences: k_i, how often the anchor's own candidate is among them, (B,).
        valid: which of the pool are candidates, bool[M]; None for all.

    Source: Bengio and Senécal, "Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic Language
    Model", 2008; the own candidate as in Khrylchenko et al., "Correcting the LogQ Correction", RecSys 2025.
    """
    names, pooled = ids[0].int(), ids[1].int()
    number: Tensor | int = len(pool)
    if valid is not None:
        pooled, number = torch.where(valid, pooled, -1), valid.sum()
    others = (population - occurrences) * torch.ones_like(counts, dtype=pool.dtype)
    rest = (number - occurrences_of(names, pooled)).clamp(min=1)
    factors = torch.where(others > 0, others / rest, 1.0)
    shares = counts.to(pool.dtype) / counts.sum().clamp(min=1)
    own = torch.log(torch.ones_like(factors) * occurrences) - factors.log()
    scaled = F.normalize(pool, dim=-1)

    def loss(
        a: Tensor, p: Tensor, pool: Tensor, one: Tensor, share: Tensor, factor: Tensor, offset: Tensor
    ) -> Tensor:
        a, p = F.normalize(a, dim=-1), F.normalize(p, dim=-1)
        attraction = (a * p).sum(-1) / temperature
        logits = (a / temperature) @ pool.T
        left_out = one[:, None] == pooled
        logits = logits.masked_fill(left_out if valid is None else left_out | ~valid, -math.inf)
        logs = torch.cat([logits, (attraction + offset)[:, None]], dim=1).logsumexp(1) + factor.log()
        return ((logs - attraction) * share).sum()

    every = torch.arange(len(counts), device=counts.device)
    tables = (anchors[0], positives[0], scaled, names, shares, factors, own)
    rows = (anchors[1], positives[1], None, every, every, every, every)
    elements = BLOCK_ELEMENTS if pool.device.type == "cpu" else ACCELERATOR_BLOCK_ELEMENTS
    return sum_over_rows(loss, tables, rows, max(MIN_BLOCK_ANCHORS, elements // (len(pool) + 1)))


def sum_over_rows(
    loss: Callable[..., Tensor], tables: Sequence[Tensor], rows: Sequence[Tensor | None], size: int
) -> Tensor:
    """Compute a loss that is a sum over the rows of a batch, in micro-batches of ``size`` rows.

    Each micro-batch adds its gradient to those of the tables. So a large batch needs one propagation before it and one
    after it, and the memory of a micro-batch.

    Args:
        loss: of the rows of each table, a scalar; a sum over them.
        tables: embeddings, or constants of each row.
        rows: of each table, int64[B]; None for a table that each micro-batch reads as a whole.
        size: rows of a micro-batch.
    """
    result: Tensor = _micro_batches(loss, rows, size, *tables)
    return result


class _MicroBatches(torch.autograd.Function):
    """The sum of ``sum_over_rows``. A scalar's gradient is known up to a factor, so it is computed beside the sum."""

    @staticmethod
    def forward(
        ctx: Any, loss: Callable[..., Tensor], rows: Sequence[Tensor | None], size: int, *tables: Tensor
    ) -> Tensor:
        needed = [j for j, need in enumerate(ctx.needs_input_grad[3:]) if need]
        # A table may be given twice, as items are for positives and negatives: one gradient then serves both.
        home = {j: next(k for k in needed if tables[k] is tables[j]) for j in needed}
        gradients = {k: torch.zeros_like(tables[k]) for k in home.values()}
        total = tables[0].new_zeros(())
        count = next(len(one) for one in rows if one is not None)
        for start in range(0, count, size):
            part = slice(start, start + size)
            some = [
                table.detach() if one is None else table[one[part]]
                for table, one in zip(tables, rows, strict=True)
            ]
            with torch.enable_grad():
                value = loss(*(one.requires_grad_(j in home) for j, one in enumerate(some)))
            total += value.detach()
            found = torch.autograd.grad(value, [some[j] for j in needed]) if needed else ()
            for j, gradient in zip(needed, found, strict=True):
                one, whole = rows[j], gradients[home[j]]
                if one is None:
                    whole += gradient
                else:
                    whole.index_add_(0, one[part], gradient)
        ctx.save_for_backward(*(gradients.get(j) for j in range(len(tables))))
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (None if one is None else one * factor for one in ctx.saved_tensors)
        return None, None, None, *gradients


# torch.compile cannot follow gradients that are computed inside a function, so it leaves this one as it is.
_micro_batches = torch.compiler.disable(_MicroBatches.apply)  # type: ignore[no-untyped-call]


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
    return _sums(anchors, candidates, temperature, offsets, weights, None, None, None)[0]


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
    return _sums(anchors, candidates, temperature, None, None, listed, probabilities, weights)[1]


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
    return _sums(anchors, candidates, temperature, None, weights, listed, probabilities, list_weights)


def _sums(anchors: Tensor, candidates: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """Return the two sums of ``_softmax_sums``, with the gradients that autograd will ask for."""
    is_learning = torch.is_grad_enabled()
    needed = (is_learning and table.requires_grad for table in (anchors, candidates))
    first, second, *_ = _softmax_sums(anchors, candidates, *rest, *needed)
    return first, second


@torch.library.custom_op("rlmrec::softmax_sums", mutates_args=())
def _softmax_sums(
    anchors: Tensor,
    candidates: Tensor,
    temperature: float,
    offsets: Tensor | None,
    weights: Tensor | None,
    listed: Tensor | None,
    probabilities: Tensor | None,
    list_weights: Tensor | None,
    needs_anchors: bool,
    needs_candidates: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute Σ_i w_i log Σ_c exp(a_i·c/τ + o_c) and Σ_i v_i [log Σ_c exp(a_i·c/τ) − Σ_m π_im a_i·c_{l_im}/τ].

    The gradient of a scalar is known up to one factor. So it is computed beside the sums, one block of anchors after
    another, while a block of softmax weights is still in the cache: backward recomputes nothing, and only
    (B + C) x d numbers are stored.

    Args:
        anchors: a, (B, d).
        candidates: c, (C, d).
        temperature: τ.
        offsets: o, (C,); none is 0.
        weights: w, (B,); none is 0.
        listed: l, int64[B, M].
        probabilities: π, (B, M).
        list_weights: v, (B,); none is 0.
        needs_anchors: whether the gradient of the anchors is computed.
        needs_candidates: whether that of the candidates is.

    Returns:
        the two sums, and the gradients of their total, empty where they are not needed.
    """
    anchor_grad = torch.empty_like(anchors) if needs_anchors else anchors.new_empty(0)
    candidate_grad = torch.zeros_like(candidates) if needs_candidates else candidates.new_empty(0)
    first, second = anchors.new_zeros(()), anchors.new_zeros(())
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
        if needs_anchors:
            torch.mm(logits.T, candidates, out=anchor_grad[part]).mul_(share)
        if needs_candidates:
            candidate_grad.addmm_(logits, block * share)
    return first, second, anchor_grad, candidate_grad


@_softmax_sums.register_fake
def _(
    anchors: Tensor, candidates: Tensor, temperature: float, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    del temperature
    needed = zip((anchors, candidates), rest[-2:], strict=True)
    gradients = (table.new_empty(table.shape if need else (0,)) for table, need in needed)
    return anchors.new_empty(()), anchors.new_empty(()), *gradients  # type: ignore[return-value]


def _keep_sums(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    anchors, candidates, temperature, *rest, needs_anchors, needs_candidates = inputs
    ctx.temperature, ctx.needed = temperature, (needs_anchors, needs_candidates)
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(*output[2:], anchors, candidates, *rest)


@torch.autograd.function.once_differentiable
def _gradient_of_sums(ctx: Any, first: Tensor, second: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    *gradients, anchors, candidates, offsets, weights, listed, probabilities, list_weights = ctx.saved_tensors
    factor = second if weights is None else first
    both = weights is not None and list_weights is not None
    if both and not torch.equal(first, second):  # never on a GPU, where an alignment asks for no common pass
        *_, anchor_grad, candidate_grad = _softmax_sums(
            anchors, candidates, ctx.temperature, offsets, weights * first, listed, probabilities,
            list_weights * second, *ctx.needed,
        )  # fmt: skip
        gradients, factor = [anchor_grad, candidate_grad], torch.ones_like(first)
    found = (one * factor if need else None for one, need in zip(gradients, ctx.needed, strict=True))
    return *found, *[None] * 8


_softmax_sums.register_autograd(_gradient_of_sums, setup_context=_keep_sums)


def _largest_product(anchors: Tensor, candidates: Tensor) -> float:
    """Return a bound of the inner products, max |a| · max |c|; ∞ on an accelerator, which would wait for the answer."""
    if has_static_shapes(anchors) or not len(anchors) or not len(candidates):
        return math.inf
    return float(anchors.norm(dim=1).max() * candidates.norm(dim=1).max())


def _largest(bias: Tensor | None) -> float:
    if bias is None or not len(bias) or has_static_shapes(bias):
        return 0.0
    return float(bias.abs().max())


def squared_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Compute ||Θ||², the sum of squares of all trainable numbers (the regulariser, without λ)."""
    return torch.stack([parameter.square().sum() for parameter in parameters]).sum()
