"""SimGCL: LightGCN with a contrast between two noisy views (Yu et al., SIGIR 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from rlmrec.backbones.base import Objective, batch_info_nce
from rlmrec.backbones.lightgcn import LayerSum, LayerSumConfig
from rlmrec.batch import Batch, stream
from rlmrec.graph import Graph


class SimGCLConfig(LayerSumConfig):
    """Options of SimGCL, with the paper's symbols."""

    eps: float = Field(default=0.9, ge=0, description="ε, length of the noise added to each layer of a view")
    cl_weight: float = Field(default=0.1, ge=0, description="weight of the contrast between the views")
    cl_temperature: float = Field(default=0.2, gt=0, description="temperature of the contrast")


class SimGCL(LayerSum):
    """SimGCL: the encoder of LightGCN, trained with a contrast between two noisy passes.

    The ranking loss on the pass without noise + cl_weight · [InfoNCE over users + InfoNCE over positive items]. In a
    noisy pass, after each layer e += ε · sign(e) ∘ r/||r|| with r uniform in [0, 1)^d; all users (all items) of the
    second pass are candidates.

    Args:
        n_users: U.
        n_items: I.
        config: options, or a mapping of them.
        options: options by keyword.

    Source: Yu et al., "Are Graph Augmentations Necessary?", SIGIR 2022, as in the RLMRec experiments.
    """

    Config = SimGCLConfig
    config: SimGCLConfig
    separate_columns = True

    def objective(self, x: Tensor, graph: Graph, batch: Batch, rng: torch.Generator) -> Objective:
        """Compute the ranking loss and the contrast of two noisy views."""
        users, items = self.encode(x, graph)
        (users_1, items_1), (users_2, items_2) = (
            self.split(self._view(x, graph, rng), graph) for _ in range(2)
        )
        contrast = batch_info_nce(batch.users, users_1, users_2, self.config.cl_temperature) + batch_info_nce(
            batch.positives, items_1, items_2, self.config.cl_temperature
        )
        terms = {**self.ranking_loss(users, items, batch, rng), "cl": self.config.cl_weight * contrast}
        return Objective(users, items, terms)

    def _view(self, x: Tensor, graph: Graph, rng: torch.Generator) -> Tensor:
        total = layer = x
        for _ in range(self.config.layers):
            layer = graph.propagate(layer)
            shape = len(x), self.config.embedding_size  # of all columns, which its length depends on
            noise = F.normalize(
                torch.rand(shape, generator=stream(rng), dtype=x.dtype, device=x.device), dim=1
            )
            if self.columns is not None:
                noise = self.columns.own(noise)
            layer = layer + self.config.eps * layer.sign() * noise
            total = total + layer
        return total
