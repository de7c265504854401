"""NGCF: propagation with weights and element-wise products (Wang et al., SIGIR 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rlmrec.backbones.base import Backbone, Objective, RankingConfig
from rlmrec.batch import Batch, stream
from rlmrec.graph import Graph

SLOPE = 0.2  # of the LeakyReLU: from the authors' code, as the paper gives none


class NGCFConfig(RankingConfig):
    """Options of NGCF, with the paper's symbols."""

    layers: int = Field(default=3, ge=0, description="L, number of propagations; d' = (L + 1) d")
    keep_rate: float = Field(
        default=0.9, gt=0, le=1, description="probability that a message is kept in training"
    )


class NGCF(Backbone):
    """NGCF: E_{l+1} = LeakyReLU((Â + I) E_l W_1 + b_1 + (Â E_l ∘ E_l) W_2 + b_2), layers concatenated.

    The final embeddings are [E_0, E_1/||E_1||, …, E_L/||E_L||], every layer's rows scaled to unit length.
    Trained by the loss that ``loss`` names; in training each number of E_{l+1} is kept with ``keep_rate`` and then
    divided by it.

    Args:
        n_users: U.
        n_items: I.
        config: options, or a mapping of them.
        options: options by keyword.

    Source: Wang et al., "Neural Graph Collaborative Filtering", SIGIR 2019, Eq. 3, 4, 7 and 8.
    """

    Config = NGCFConfig
    config: NGCFConfig

    def __init__(
        self,
        n_users: int,
        n_items: int,
        config: NGCFConfig | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(n_users, n_items, config, **options)
        size = self.config.embedding_size
        self.output_size = (self.config.layers + 1) * size
        self.sums = nn.ModuleList(nn.Linear(size, size) for _ in range(self.config.layers))  # W_1, b_1
        self.products = nn.ModuleList(nn.Linear(size, size) for _ in range(self.config.layers))  # W_2, b_2
        for layer in (*self.sums, *self.products):
            nn.init.xavier_uniform_(layer.weight)

    def encode(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Concatenate the layers; return (U, d') and (I, d')."""
        return self._propagate(x, graph, None)

    def objective(self, x: Tensor, graph: Graph, batch: Batch, rng: torch.Generator) -> Objective:
        """Compute the ranking loss on a pass with message dropout."""
        users, items = self._propagate(x, graph, rng)
        return Objective(users, items, self.ranking_loss(users, items, batch, rng))

    def _propagate(self, x: Tensor, graph: Graph, rng: torch.Generator | None) -> tuple[Tensor, Tensor]:
        keep_rate = self.config.keep_rate
        layer, layers = x, [x]
        for of_sum, of_product in zip(self.sums, self.products, strict=True):
            neighbours = graph.propagate(layer)
            layer = F.leaky_relu(of_sum(neighbours + layer) + of_product(neighbours * layer), SLOPE)
            if rng is not None and keep_rate < 1:
                drawn = torch.rand(layer.shape, generator=stream(rng), dtype=layer.dtype, device=layer.device)
                layer = layer * (drawn < keep_rate) / keep_rate
            layers.append(F.normalize(layer, dim=1))
        return graph.split(torch.cat(layers, dim=1))
