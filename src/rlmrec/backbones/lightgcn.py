"""LightGCN: propagation and nothing else (He et al., SIGIR 2020)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rlmrec.backbones.base import Backbone, BackboneConfig, Objective
from rlmrec.batch import Batch
from rlmrec.graph import Graph


class LightGCNConfig(BackboneConfig):
    """Options of LightGCN, with the paper's symbols."""

    layers: int = Field(3, ge=0, description="L")
    keep_rate: float = Field(0.8, gt=0, le=1, description="probability that an edge stays in a training pass")


class LightGCN(Backbone):
    """E_{l+1} = Â E_l; the final embeddings are E_0 + E_1 + … + E_L.

    Training runs on one pass over a graph whose directed entries are each kept with ``keep_rate``.

    Args:
        n_users: U.
        n_items: I.
        config: options.

    Source: He et al., "LightGCN", SIGIR 2020; a sum instead of a mean as in the RLMRec experiments.
    """

    Config = LightGCNConfig
    config: LightGCNConfig

    def encode(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Sum of the layers, (U, d) and (I, d)."""
        return graph.split(graph.propagate_sum(x, self.config.layers))

    def last_layer_messages(self, x: Tensor, graph: Graph) -> Tensor | None:
        """x + Âx + … + Â^(L−1) x, since e = x + Â of that."""
        return graph.propagate_sum(x, self.config.layers - 1) if self.config.layers else None

    def objective(self, x: Tensor, graph: Graph, batch: Batch, rng: torch.Generator) -> Objective:
        """BPR on a pass with edge dropout."""
        return super().objective(x, graph.drop_edges(self.config.keep_rate, rng), batch, rng)
