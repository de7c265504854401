"""DCCF: a contrast of neighbours, latent intents and learned edge masks (Ren et al., SIGIR 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rlmrec.backbones.base import Backbone, Objective, RankingConfig
from rlmrec.batch import Batch, Distinct, distinct
from rlmrec.graph import Graph
from rlmrec.losses import info_nce


class DCCFConfig(RankingConfig):
    """Options of DCCF, with the paper's symbols."""

    layers: int = Field(default=2, ge=0, description="L, number of layers")
    intents: int = Field(default=128, ge=1, description="K, number of intents of users, and of items")
    cl_weight: float = Field(default=1e-3, ge=0, description="weight of the contrast between the four views")
    cl_temperature: float = Field(default=0.1, gt=0, description="temperature of the contrast")


class Views(NamedTuple):
    """The four views of one layer, each (N, d); see ``DCCF``."""

    gnn: Tensor
    int: Tensor
    gaa: Tensor
    iaa: Tensor


class DCCF(Backbone):
    """DCCF: E_{l+1} = gnn + int + gaa + iaa + E_l; the final embeddings are E_0 + E_1 + … + E_L.

    gnn = Â E_l are the neighbours; int = softmax(E_l W) Wᵀ the intents, W in R^{d x K} one for users and
    one for items; gaa = M(gnn) E_l and iaa = M(int) E_l the neighbours again, over adaptively masked edges:
    M(h)_ij ∝ (cos(h_i, h_j) + 1)/2 on the edges of A, each row summing to 1 (a row of zeros stays one).

    Trained by the ranking loss + cl_weight · Σ over layers and (gnn, int), (gnn, gaa), (gnn, iaa) of InfoNCE among the
    batch's distinct users and among its distinct positive items, both *summed* over rows and divided by the
    number of distinct users.

    Args:
        n_users: U.
        n_items: I.
        config: options, or a mapping of them.
        options: options by keyword.

    Source: Ren et al., "Disentangled Contrastive Collaborative Filtering", SIGIR 2023, as in the RLMRec
    experiments.
    """

    Config = DCCFConfig
    config: DCCFConfig

    def __init__(
        self,
        n_users: int,
        n_items: int,
        config: DCCFConfig | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(n_users, n_items, config, **options)
        size = self.config.embedding_size
        self.user_intents = nn.Parameter(torch.empty(size, self.config.intents))
        self.item_intents = nn.Parameter(torch.empty(size, self.config.intents))
        nn.init.xavier_uniform_(self.user_intents)
        nn.init.xavier_uniform_(self.item_intents)

    def encode(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Sum the layers; return (U, d) and (I, d)."""
        return graph.split(self._propagate(x, graph)[0])

    def objective(self, x: Tensor, graph: Graph, batch: Batch, rng: torch.Generator) -> Objective:
        """Compute the ranking loss and the contrast of the views of each layer."""
        total, layers = self._propagate(x, graph)
        users, items = graph.split(total)
        of_users, of_items = distinct(batch.users), distinct(batch.positives)
        contrast, tau = x.new_zeros(()), self.config.cl_temperature
        for views in layers:
            for rows, shares, factor in (
                (of_users.rows, of_users.shares, 1.0),
                (of_items.rows + self.n_users, of_items.shares, self._ratio(of_items, of_users, x)),
            ):
                gnn, *others = (F.embedding(rows, view) for view in views)
                for other in others:
                    contrast = contrast + factor * info_nce(gnn, other, other, tau, shares, shares)
        terms = {**self.ranking_loss(users, items, batch, rng), "cl": self.config.cl_weight * contrast}
        return Objective(users, items, terms)

    @staticmethod
    def _ratio(items: Distinct, users: Distinct, x: Tensor) -> Tensor | float:
        """Return the number of distinct items over that of distinct users."""
        if items.shares is None or users.shares is None:
            return len(items.rows) / len(users.rows)
        return (items.shares.sum() / users.shares.sum()).to(x.dtype)

    def _propagate(self, x: Tensor, graph: Graph) -> tuple[Tensor, list[Views]]:
        total, layer, layers = x, x, []
        for _ in range(self.config.layers):
            gnn = graph.propagate(layer)
            users, items = graph.split(layer)
            intents = torch.cat([_mixture(users, self.user_intents), _mixture(items, self.item_intents)])
            views = Views(gnn, intents, _masked(gnn, layer, graph), _masked(intents, layer, graph))
            layer = torch.stack(views).sum(0) + layer
            total = total + layer
            layers.append(views)
        return total, layers


def _mixture(nodes: Tensor, intents: Tensor) -> Tensor:
    """Express each node as a mixture of intents, softmax(e W) Wᵀ, (n, d)."""
    return (nodes @ intents).softmax(1) @ intents.T


def _masked(h: Tensor, layer: Tensor, graph: Graph) -> Tensor:
    """Compute M E: sum the neighbours' embeddings, weighted by the similarity of an edge's two ends in h."""
    directions = F.normalize(h, dim=1)
    # Rounding can take a cosine of −1 a hair below: a weight must not be negative.
    alike = ((graph.edge_dot(directions, directions) + 1) / 2).clamp(min=0)
    # One more column, of ones, gives the row sums in the same product.
    product = graph.weighted(alike, F.pad(layer, (0, 1), value=1.0))
    sums = product[:, -1:]
    return product[:, :-1] / sums.masked_fill(sums == 0, 1.0)
