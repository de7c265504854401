"""Backbone: the recommender R that is aligned with text (Section 3.4). Subclass it for your own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rlmrec.batch import Batch, TaughtBatch, distinct, has_static_shapes, occurrences_of, stream
from rlmrec.columns import Columns
from rlmrec.config import Config, as_config
from rlmrec.errors import ConfigError
from rlmrec.graph import Graph
from rlmrec.losses import (
    MICRO_BATCH_ROWS,
    bpr,
    info_nce,
    log_sum_exp_and_cross_entropy,
    sum_over_rows,
    weighted_log_sum_exp,
)
from rlmrec.registry import Labelled, construct
from rlmrec.text.embeddings import TextEmbeddings

# Of a batch's users: those whose top-K thresholds are computed anew. A user is in several batches of an epoch.
REFRESHED_SHARE = 0.05


class Objective(NamedTuple):
    """Result of a backbone's training pass on one batch.

    users: final embeddings e_u, (U, d').
    items: final embeddings e_v, (I, d').
    terms: the backbone's losses by name, already weighted; their sum is L_R.
    """

    users: Tensor
    items: Tensor
    terms: dict[str, Tensor]


class BackboneConfig(Config):
    """Options that every backbone has."""

    embedding_size: int = Field(default=32, ge=1, description="d, size of the initial embeddings")


class RankingConfig(BackboneConfig):
    """Options of every backbone that is trained by ``ranking_loss``."""

    later_options = frozenset(
        {"loss", "loss_temperature", "loss_candidates", "loss_k", "loss_weight_temperature"}
    )

    loss: Literal["bpr", "softmax", "sl@k"] = Field(
        default="bpr",
        description="ranking loss. bpr: one sampled negative per interaction, scores are inner products; "
        "softmax: all items are candidates, scores are cosines; "
        "sl@k: softmax in which interactions near the top K or above count more",
    )
    loss_temperature: float = Field(default=0.15, gt=0, description="τ of softmax and sl@k")
    loss_candidates: int = Field(
        default=0,
        ge=0,
        description="items drawn as candidates of softmax and sl@k in each batch; 0 takes all",
    )
    loss_k: int = Field(default=20, ge=1, description="K of sl@k, length of the lists that count")
    loss_weight_temperature: float = Field(
        default=0.2, gt=0, description="τ_w of sl@k: the lower, the more the top K count"
    )


class Backbone(Labelled, nn.Module):
    """A recommender over U users and I items, given x: the initial embeddings of all N = U + I nodes.

    A subclass implements ``encode``; one with a training pass of its own (noise, several views) overrides
    ``objective`` too. The initial embeddings and the graph are arguments, never state: an alignment can
    mask x and a test can pass any x.

    Args:
        n_users: U.
        n_items: I.
        config: options, an instance of the class's ``Config`` or a mapping.
        options: options by keyword, such as ``embedding_size=64``; they override those of ``config``.

    Attributes:
        Config: class of the options; a subclass with more options derives its own.
        label: name for tables and figures; the name of the class by default.
        enhancement: what a class adds to the backbone called ``label``, as "KAR" does; mostly "".
        output_size: d', size of the final embeddings; d unless a subclass sets it.
        self_loops: whether its graph is that of A + I.
        uses_negatives: whether its loss reads the batch's negatives; if not, they are hidden from it and
            from the alignment.
        has_softmax_of_products: whether its own loss has a softmax of inner products over all items, which may serve
            an alignment as well (``ListTargets``).
        needs_text: whether its constructor takes ``text_embeddings``, the text vectors, after its config.
        separate_columns: whether every column of x is treated alike until ``split`` makes the final embeddings, so that
            several processes can share them (``rlmrec.columns``). A subclass with an ``initial``, ``encode`` or
            ``objective`` of its own says so again.
        columns: of x that this process has while several train together; None otherwise.

    Raises:
        ConfigError: a wrong option, or numbers of users and items below 1.
    """

    Config: type[BackboneConfig] = RankingConfig
    thresholds: Tensor  # with the loss sl@k
    label: ClassVar[str] = "Backbone"
    enhancement: ClassVar[str] = ""
    self_loops = False
    uses_negatives = True
    has_softmax_of_products = False
    needs_text = False
    separate_columns: ClassVar[bool] = False
    columns: Columns | None = None

    def __init__(
        self,
        n_users: int,
        n_items: int,
        config: BackboneConfig | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        for name, count in (("n_users", n_users), ("n_items", n_items)):
            if not isinstance(count, int | np.integer):
                raise ConfigError(f"{name} is a {type(count).__name__}: expected a number, as dataset.{name}")
            if count < 1:
                raise ConfigError(f"{name} = {count}: expected 1 or more")
        self.config = as_config(self.Config, config, options)
        embedding_size = self.config.embedding_size
        self.n_users = n_users
        self.n_items = n_items
        self.output_size = embedding_size
        self.user_embedding = nn.Parameter(torch.empty(n_users, embedding_size))
        self.item_embedding = nn.Parameter(torch.empty(n_items, embedding_size))
        nn.init.xavier_uniform_(self.user_embedding)
        nn.init.xavier_uniform_(self.item_embedding)
        if isinstance(self.config, RankingConfig) and self.config.loss == "sl@k":
            # β_u, refreshed in training. Part of the state, so that a resumed run repeats.
            self.register_buffer("thresholds", torch.full((n_users,), torch.nan))

    @classmethod
    def create(
        cls,
        n_users: int,
        n_items: int,
        config: BackboneConfig | Mapping[str, Any] | None = None,
        text_embeddings: TextEmbeddings | None = None,
    ) -> Self:
        """Make the backbone of a run. Override it where your constructor takes other arguments.

        Args:
            n_users: U.
            n_items: I.
            config: options.
            text_embeddings: the text vectors, which only a class with ``needs_text`` receives; None without.

        Raises:
            ConfigError: as the constructor, or the constructor takes other arguments.
        """
        return construct(cls, n_users, n_items, config, *([text_embeddings] if cls.needs_text else []))

    def extra_repr(self) -> str:
        """Return the number of users and items and the options, for ``repr``."""
        options = getattr(self, "config", ())  # a wrapped model has none
        return ", ".join(
            [f"{self.n_users} users, {self.n_items} items", *(f"{name}={value!r}" for name, value in options)]
        )

    def initial(self) -> Tensor:
        """Return the initial embeddings x = [x_u ; x_v], (N, d)."""
        return torch.cat([self.user_embedding, self.item_embedding])

    def encode(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Compute the final embeddings e_u, e_v = R(x_u, x_v). Deterministic: evaluation and serving use it.

        Args:
            x: (N, d).
            graph: of the training interactions.

        Returns:
            final embeddings of users (U, d') and items (I, d').

        Raises:
            ConfigError: the subclass does not implement it.
        """
        del x, graph
        raise ConfigError(f"{type(self).__name__} must implement encode(x, graph): final users and items")

    def initial_for(self, final: Tensor, graph: Graph) -> Tensor:
        """Return initial embeddings whose final embeddings are near the given ones; by default the given ones.

        Training begins there with ``initial_embeddings=spectral``. Override it where ``encode`` is linear, so that the
        given ones can be solved for.

        Args:
            final: [e_u ; e_v], (N, r); r ≤ d columns.
            graph: of the training interactions.

        Returns:
            x, (N, r).
        """
        del graph
        return final

    def split(self, nodes: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return final embeddings (N, d') as those of users (U, d') and items (I, d'), with all processes' columns."""
        return graph.split(nodes if self.columns is None else self.columns.gather(nodes))

    @property
    def has_separate_columns(self) -> bool:
        """Whether several processes can share the columns: the class says so, and no subclass computes otherwise."""
        kinds = type(self).__mro__
        first = {
            name: next(place for place, kind in enumerate(kinds) if name in vars(kind))
            for name in ("initial", "encode", "objective", "separate_columns")
        }
        return self.separate_columns and first["separate_columns"] == min(first.values())

    def matches_encode(self, method: str) -> bool:
        """Return whether a method is of the class that defines ``encode``, or of a subclass of that.

        A subclass with an ``encode`` of its own would else inherit, for example, the messages of another encoder.
        """
        of_method, of_encode = (
            next(kind for kind in type(self).__mro__ if name in vars(kind)) for name in (method, "encode")
        )
        return issubclass(of_method, of_encode)

    @property
    def has_static_steps(self) -> bool:
        """Whether every step has the same graph and shapes, so that it can be compiled; SL@K's steps have not."""
        config = getattr(self, "config", None)  # a wrapped model has none
        return not (isinstance(config, RankingConfig) and config.loss == "sl@k")

    def last_layer_messages(self, x: Tensor, graph: Graph) -> Tensor | None:
        """Return the messages m of the last propagation step, (N, d'), or None where that step is not linear.

        Linear means e_i = (a part of x_i alone) + Σ_j Â_ij m_j. Then a score is exactly the sum of what each
        training item contributes, and the same step gives a new user an embedding from liked items
        (``Recommender.item_messages``).

        Args:
            x: (N, d).
            graph: of the training interactions.
        """
        del x, graph  # not known to be linear
        return None

    def objective(self, x: Tensor, graph: Graph, batch: Batch, rng: torch.Generator) -> Objective:
        """Compute L_R on one batch; by default ``ranking_loss`` on the embeddings of ``encode``.

        Args:
            x: (N, d), possibly masked.
            graph: of the training interactions.
            batch: B triples.
            rng: source of any randomness, on the device of x.
        """
        users, items = self._checked(self.encode(x, graph))
        return Objective(users, items, self.ranking_loss(users, items, batch, rng))

    @property
    def ranks_by_cosine(self) -> bool:
        """Whether items are ranked by cosine: their final embeddings are scaled to unit length after training."""
        config = getattr(self, "config", None)  # a wrapped model has none
        return isinstance(config, RankingConfig) and config.loss != "bpr"

    def ranking_loss(
        self, users: Tensor, items: Tensor, batch: Batch, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Compute the ranking loss that the option ``loss`` names, of a batch under final embeddings.

        Args:
            users: (U, d').
            items: (I, d').
            batch: B triples.
            rng: draws the candidates of a sampled softmax.

        Returns:
            one term, of the loss's name.
        """
        if not self.ranks_by_cosine:
            return {"bpr": batch_bpr(users, items, batch)}
        config = self.config
        assert isinstance(config, RankingConfig)
        weights = None
        if config.loss == "sl@k":
            refresh_thresholds(self.thresholds, users, items, batch.users, config.loss_k, rng)
            weights = top_weights(self.thresholds, users, items, batch, config.loss_weight_temperature)
        temperature, n_candidates = config.loss_temperature, config.loss_candidates
        return {config.loss: batch_softmax(users, items, batch, temperature, n_candidates, rng, weights)}

    def _checked(self, encoded: Any) -> tuple[Tensor, Tensor]:
        """Return the result of ``encode`` if it has the right form.

        Raises:
            ConfigError: it is not a pair of tensors (U, d') and (I, d').
        """
        expected = [(self.n_users, self.output_size), (self.n_items, self.output_size)]
        parts = encoded if isinstance(encoded, tuple | list) else [encoded]
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
        if shapes != expected:
            got = " and ".join(map(str, shapes))
            raise ConfigError(
                f"encode returned {got}, expected users of {expected[0]} and items of {expected[1]}: "
                "return (users, items), and set output_size where d' is not d"
            )
        users, items = encoded
        return users, items


def batch_bpr(users: Tensor, items: Tensor, batch: Batch) -> Tensor:
    """Compute BPR of a batch's triples under the given final embeddings."""
    return _mean_over_rows(bpr, (users, items, items), batch)


def _mean_over_rows(loss: Callable[..., Tensor], tables: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
    """Compute a loss that is a mean over the rows of a batch, a large batch in micro-batches."""
    size = len(rows[0])
    if size <= MICRO_BATCH_ROWS:
        # F.embedding and not indexing: the gradient of an index runs on one core.
        return loss(*(F.embedding(one, table) for one, table in zip(rows, tables, strict=True)))
    return sum_over_rows(lambda *some: loss(*some) * (len(some[0]) / size), tables, rows, MICRO_BATCH_ROWS)


def batch_softmax(
    users: Tensor,
    items: Tensor,
    batch: Batch,
    temperature: float,
    n_candidates: int = 0,
    rng: torch.Generator | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Compute the softmax loss of a batch's interactions under the given final embeddings.

    mean over B of −cos(e_u, e_pos)/τ + log Σ_c exp(cos(e_u, e_c)/τ − log q_c), weighted by w_u,pos if there are weights

    The candidates c are all items, or the batch's positives and ``n_candidates`` uniformly drawn items. q_c is the
    probability that c is among the candidates (1 where all are), so that the sum estimates that over all items.

    Args:
        users: (U, d').
        items: (I, d').
        batch: B triples; the negatives are not used. Its targets, if they have the same temperature and all items are
            candidates, get their term.
        temperature: τ.
        n_candidates: number of drawn items; 0, or at least I, takes all items.
        rng: draws them.
        weights: w, (B,), of the interactions in the mean; constants without a gradient. None for equal ones.

    Source: Wu et al., "On the Effectiveness of Sampled Softmax Loss for Item Recommendation", TOIS 2024; logQ as
    Bengio and Senécal, 2008.
    """
    rows, at, counts = distinct(batch.users)
    some = F.normalize(F.embedding(rows, users), dim=1)
    every = F.normalize(items, dim=1)
    # Each user once: the log-sum-exp depends on the user alone.
    if weights is None:
        attraction = _mean_over_rows(_mean_product, (some, every), (at, batch.positives))
        share = counts.to(users.dtype) / len(batch.users)
    else:
        cosines = (F.embedding(at, some) * F.embedding(batch.positives, every)).sum(1)
        weights = weights / weights.sum()
        attraction = (cosines * weights).sum()
        share = weights.new_zeros(len(rows)).index_add_(0, at, weights)
    targets = batch.targets if isinstance(batch, TaughtBatch) else None
    is_sampled = 0 < n_candidates < len(items)
    if targets is not None and targets.by_cosine and targets.temperature == temperature and not is_sampled:
        log_sums, targets.term = log_sum_exp_and_cross_entropy(
            some, every, temperature, share, targets.items, targets.probabilities, targets.shares
        )
        return log_sums - attraction / temperature
    candidates, offsets = every, None
    if is_sampled:
        chosen, log_q = sampled_candidates(batch.positives, len(items), n_candidates, rng)
        candidates, offsets = F.embedding(chosen, every), -log_q
    return weighted_log_sum_exp(some, candidates, share, temperature, offsets) - attraction / temperature


def _mean_product(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1).mean()


@torch.no_grad()
def refresh_thresholds(
    thresholds: Tensor, users: Tensor, items: Tensor, rows: Tensor, k: int, rng: torch.Generator
) -> None:
    """Set the K-th highest cosine β_u of users that have none, and of a random share of the others.

    Args:
        thresholds: β, (U,), changed in place; NaN where there is none yet.
        users: (U, d').
        items: (I, d').
        rows: of users, int64[B], with repeats.
        k: K.
        rng: chooses who is refreshed.
    """
    present = torch.unique(rows)
    drawn = torch.rand(len(present), generator=stream(rng), device=present.device) < REFRESHED_SHARE
    stale = present[drawn | thresholds[present].isnan()]
    every = F.normalize(items, dim=1)
    for some in torch.split(stale, 256):  # a block of scores is a few megabytes
        cosines = F.normalize(users[some], dim=1) @ every.T
        thresholds[some] = cosines.topk(min(k, len(items)), dim=1).values[:, -1]


@torch.no_grad()
def top_weights(thresholds: Tensor, users: Tensor, items: Tensor, batch: Batch, temperature: float) -> Tensor:
    """Compute the weights of SL@K, (B,): σ((cos(e_u, e_pos) − β_u)/τ_w), constants without a gradient.

    The original weights sum to less than their number; ``batch_softmax`` takes their weighted mean, so that the loss
    keeps its scale beside other terms.

    Args:
        thresholds: β, (U,), the K-th highest cosine of each user.
        users: (U, d').
        items: (I, d').
        batch: B triples.
        temperature: τ_w.

    Source: Yang et al., "Breaking the Top-K Barrier: Advancing Top-K Ranking Metrics Optimization in Recommender
    Systems", KDD 2025.
    """
    cosines = F.cosine_similarity(F.embedding(batch.users, users), F.embedding(batch.positives, items))
    return ((cosines - thresholds[batch.users]) / temperature).sigmoid()


def sampled_candidates(
    included: Tensor, n_items: int, n_candidates: int, rng: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Draw candidate items and join them with items that the batch has; return both with the log of q.

    q_c = 1 − (1 − n/I)(1 − p_c): the probability that item c is drawn or in the batch. p_c, the chance that a batch of
    the same size has item c, is taken from the batch itself: 1 − (1 − count_c/B)^B.

    Args:
        included: rows of items in the batch, int64[B], with repeats.
        n_items: I.
        n_candidates: n, drawn without repeats.
        rng: the source of randomness.

    Returns:
        rows int64[C], log q float[C].
    """
    drawn = torch.randperm(n_items, generator=stream(rng), device=included.device)[:n_candidates]
    present = distinct(included)
    counts = occurrences_of(present.rows, included) if has_static_shapes(included) else present.counts
    missed = included.new_ones(n_items, dtype=torch.get_default_dtype())
    missed[present.rows] = (1 - counts / len(included)) ** len(included)
    chosen = distinct(torch.cat([present.rows, drawn]))
    log_q = torch.log1p(-(1 - n_candidates / n_items) * missed[chosen.rows])
    # A row that is there several times counts once altogether.
    return chosen.rows, log_q if chosen.shares is None else log_q - chosen.shares.log()


def batch_info_nce(rows: Tensor, first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Compute InfoNCE between two views of a batch's rows, all rows of the second view being candidates.

    Repeated rows are computed once and counted.

    Args:
        rows: of users or of items, int64[B].
        first: their embeddings in one view, (U, d') or (I, d').
        second: in the other, of the same shape.
        temperature: τ.
    """
    found, _, counts = distinct(rows)
    return info_nce(F.embedding(found, first), F.embedding(found, second), second, temperature, counts)
