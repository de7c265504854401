"""AutoCF: a masked graph autoencoder that learns what to mask (Xia et al., WWW 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rlmrec.backbones.base import Backbone, BackboneConfig, Objective
from rlmrec.batch import Batch, Distinct, TaughtBatch, distinct, stream
from rlmrec.errors import ConfigError
from rlmrec.graph import Graph
from rlmrec.losses import log_sum_exp_and_cross_entropy, weighted_log_sum_exp
from rlmrec.trust import check_rows


class AutoCFConfig(BackboneConfig):
    """Options of AutoCF, with the paper's symbols."""

    layers: int = Field(default=2, ge=0, description="L, number of propagations before the graph transformer")
    heads: int = Field(default=4, ge=1, description="heads of the graph transformer; must divide d")
    seeds: int = Field(default=100, ge=1, description="number of nodes around which the graph is masked")
    mask_depth: int = Field(
        default=2,
        ge=1,
        description="1: the seeds' edges are masked; 2: their neighbours' too, which on dense data hides nearly all",
    )
    random_share: float = Field(
        default=0.2, ge=0, le=1, description="share of all nodes that may be in the decoder's random pairs"
    )
    fix_steps: int = Field(default=10, ge=1, description="batches between two masks")
    ssl_weight: float = Field(
        default=1.0, ge=0, description="weight of the terms that spread users and items"
    )


class AutoCF(Backbone):
    """AutoCF: L propagations over a masked graph, then a graph transformer layer over a second one, summed.

    Every ``fix_steps`` batches the ``seeds`` nodes of highest log σ(cos(E_0, mean of its 1- and 2-hop
    neighbourhood)) + Gumbel noise are chosen. The encoder graph is A without the edges that touch one of these seeds or
    a node at most ``mask_depth`` − 1 steps from one, renormalised; the decoder graph has the kept edges, self-loops,
    and a random pair, in both directions, for each non-zero entry of A, drawn among the same nodes and random ones.
    In evaluation both graphs are Â.

    The transformer attends from each node i to its neighbours j with exp(clamp(q_i·k_j, −10, 10)),
    normalised per node; its output is Σ_j att_ij v_j.

    With LSE(a, C) = mean over rows of log Σ_c exp(a·c), no scaling to unit length, the loss is
    −mean(e_u·e_pos) + LSE(users of the batch, all items) + ssl_weight · [LSE(its distinct users, all users)
    + LSE(its distinct positive items, all items)], and −mean(noisy log score) in the batch that drew a mask.
    There are no sampled negatives.

    Args:
        n_users: U.
        n_items: I.
        config: options, or a mapping of them.
        options: options by keyword.

    Raises:
        ConfigError: the heads do not divide d.

    Source: Xia et al., "Automated Self-Supervised Learning for Recommendation", WWW 2023, as in the RLMRec
    experiments.
    """

    Config = AutoCFConfig
    config: AutoCFConfig
    uses_negatives = False
    has_softmax_of_products = True
    batches: Tensor
    chosen: Tensor
    draw: Tensor

    def __init__(
        self,
        n_users: int,
        n_items: int,
        config: AutoCFConfig | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(n_users, n_items, config, **options)
        size = self.config.embedding_size
        if size % self.config.heads:
            raise ConfigError(f"embedding_size = {size} must be a multiple of heads = {self.config.heads}")
        self.query, self.key, self.value = (nn.Parameter(torch.empty(size, size)) for _ in range(3))
        for weight in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(weight)
        # Both masked graphs follow from these, so that a checkpoint can be resumed between two masks.
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer(
            "chosen", torch.zeros(min(self.config.seeds, n_users + n_items), dtype=torch.int64)
        )
        self.register_buffer("draw", torch.zeros((), dtype=torch.int64))
        self.register_load_state_dict_post_hook(_check_chosen)  # type: ignore[no-untyped-call]
        self._graphs: tuple[int, Graph, Graph, Graph] | None = None
        self._known: dict[str, tuple[Tensor, int, int]] = {}

    has_static_steps = False  # a new mask every few batches

    def encode(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Sum the layers, nothing masked; return (U, d) and (I, d)."""
        return self._propagate(x, graph, graph)

    def objective(self, x: Tensor, graph: Graph, batch: Batch, rng: torch.Generator) -> Objective:
        """Compute attraction and spread, and every ``fix_steps`` batches the loss of a new mask."""
        terms: dict[str, Tensor] = {}
        done = self._read("batches")
        if done % self.config.fix_steps == 0:
            scores = self._scores(x, graph, rng)
            self.chosen.copy_(scores.detach().topk(len(self.chosen)).indices)
            self.draw.copy_(torch.randint(1 << 62, (), generator=stream(rng), device=x.device))
            terms["sampling"] = -scores.mean()
        self.batches += 1
        self._known["batches"] = (self.batches, self.batches._version, done + 1)
        users, items = self._propagate(x, *self._masked_graphs(graph))

        of_users, of_items = distinct(batch.users), distinct(batch.positives)
        some_users, some_items = F.embedding(of_users.rows, users), F.embedding(of_items.rows, items)
        attraction = (F.embedding(batch.users, users) * F.embedding(batch.positives, items)).sum(1).mean()
        share = of_users.counts.to(x.dtype) / len(batch.users)
        targets = batch.targets if isinstance(batch, TaughtBatch) else None
        if targets is not None and not targets.by_cosine and targets.temperature == 1:
            log_sums, targets.term = log_sum_exp_and_cross_entropy(
                some_users, items, 1.0, share, targets.items, targets.probabilities, targets.shares
            )
        else:
            log_sums = weighted_log_sum_exp(some_users, items, share, 1.0)
        terms["recommendation"] = log_sums - attraction
        terms["ssl"] = (
            self.config.ssl_weight
            * torch.stack(
                [
                    weighted_log_sum_exp(some, every, _equal_shares(found, some), 1.0)
                    for found, some, every in ((of_users, some_users, users), (of_items, some_items, items))
                ]
            ).sum()
        )
        return Objective(users, items, terms)

    def _propagate(self, x: Tensor, encoder: Graph, decoder: Graph) -> tuple[Tensor, Tensor]:
        total = layer = x
        for _ in range(self.config.layers):
            layer = encoder.propagate(layer)
            total = total + layer
        return encoder.split(total + self._attention(layer, decoder))

    def _attention(self, x: Tensor, graph: Graph) -> Tensor:
        heads = self.config.heads
        queries, keys, values = (
            (x @ weight).chunk(heads, dim=1) for weight in (self.query, self.key, self.value)
        )
        outputs = []
        for query, key, value in zip(queries, keys, values, strict=True):
            strengths = graph.edge_dot(query.contiguous(), key.contiguous()).clamp(-10, 10).exp()
            # One more column, of ones, gives the normalising sums in the same product.
            product = graph.weighted(strengths, F.pad(value, (0, 1), value=1.0))
            sums = product[:, -1:]
            outputs.append(product[:, :-1] / sums.masked_fill(sums == 0, 1.0))
        return torch.cat(outputs, dim=1)

    def _scores(self, x: Tensor, graph: Graph, rng: torch.Generator) -> Tensor:
        """Score each node by log σ(cos(x, neighbourhood)) + Gumbel noise, (N,)."""
        ones = graph.with_values(torch.ones(len(graph.indices), dtype=graph.dtype, device=graph.device))
        degrees = graph.indptr.diff()[:, None]
        first = ones.propagate(x) - x  # E1
        second = ones.propagate(first) - first - degrees * x  # E2
        # The mean would divide this sum by a positive number, which does not change the cosine. Where that number
        # is zero (a node with only neighbours of degree 1) there is no mean, and the sum works as well.
        cosine = (F.normalize(x, dim=1) * F.normalize(first + second, dim=1)).sum(1)
        uniform = torch.rand(len(x), generator=stream(rng), dtype=x.dtype, device=x.device)
        gumbel = -(-uniform.clamp(min=1e-8).log()).log()
        return F.logsigmoid(cosine) + gumbel

    def _read(self, name: str) -> int:
        """Return the number in a buffer; the host waits for a GPU only if it has changed since it was known."""
        buffer = getattr(self, name)
        known = self._known.get(name)
        if known is None or known[0] is not buffer or known[1] != buffer._version:
            known = self._known[name] = (buffer, buffer._version, int(buffer))
        return known[2]

    def _masked_graphs(self, graph: Graph) -> tuple[Graph, Graph]:
        """Return the encoder's and the decoder's graph of the current mask, built once per mask."""
        draw = self._read("draw")
        if self._graphs is None or self._graphs[0] != draw or self._graphs[1] is not graph:
            self._graphs = (
                draw,
                graph,
                *self._mask(graph, torch.Generator(graph.device).manual_seed(draw)),
            )
        return self._graphs[2:]

    def _mask(self, graph: Graph, rng: torch.Generator) -> tuple[Graph, Graph]:
        n_nodes, device = graph.n_nodes, graph.device
        rows, columns = graph.edge_index
        around = torch.zeros(n_nodes, dtype=torch.bool, device=device)  # the seeds, then their neighbours
        around[self.chosen] = True
        for _ in range(self.config.mask_depth - 1):
            around[columns[around[rows]]] = True
        kept = ~(around[rows] | around[columns])

        def integers(high: int, size: int) -> Tensor:
            return torch.randint(high, (size,), generator=rng, device=device)

        around[integers(n_nodes, int(self.config.random_share * n_nodes))] = True
        pool = around.nonzero()[:, 0]
        ends = [pool[integers(len(pool), len(rows))] for _ in range(2)]
        loops = torch.arange(n_nodes, device=device)
        decoder = Graph.from_edges(
            torch.cat([*ends, loops, rows[kept]]),
            torch.cat([*ends[::-1], loops, columns[kept]]),
            graph.n_users,
            graph.n_items,
            graph.dtype,
        )
        return graph.normalised(kept.to(graph.dtype)), decoder


def _equal_shares(found: Distinct, some: Tensor) -> Tensor:
    """Return the weights of a mean over distinct rows, (n,)."""
    shares = found.shares
    return some.new_full((len(some),), 1 / len(some)) if shares is None else (shares / shares.sum()).to(some)


def _check_chosen(backbone: nn.Module, _: object) -> None:
    """Check the stored seeds, which are rows of the graph."""
    assert isinstance(backbone, AutoCF)
    check_rows(backbone.chosen.cpu().numpy(), backbone.n_users + backbone.n_items, "the seeds of AutoCF")
