"""SGL: LightGCN with a contrast between two edge-dropped views (Wu et al., SIGIR 2021)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rlmrec.backbones.base import Objective, batch_info_nce
from rlmrec.backbones.lightgcn import LayerSum, LayerSumConfig
from rlmrec.batch import Batch
from rlmrec.graph import Graph


class SGLConfig(LayerSumConfig):
    """Options of SGL, with the paper's symbols."""

    keep_rate: float = Field(
        default=0.8, gt=0, le=1, description="probability that an edge is kept in a view"
    )
    cl_weight: float = Field(default=0.1, ge=0, description="weight of the contrast between the views")
    cl_temperature: float = Field(default=0.2, gt=0, description="temperature of the contrast")


class SGL(LayerSum):
    """SGL: the encoder of LightGCN, trained with a contrast between two randomly thinned graphs.

    The ranking loss on the full graph + cl_weight · [InfoNCE over users + over positive items + over negative
    items]. The contrast is between two passes over graphs whose directed entries are each kept with ``keep_rate``,
    drawn separately for each pass; all users (all items) of the second pass are candidates.

    Args:
        n_users: U.
        n_items: I.
        config: options, or a mapping of them.
        options: options by keyword.

    Source: Wu et al., "Self-supervised Graph Learning for Recommendation", SIGIR 2021, with edge dropout,
    as in the RLMRec experiments.
    """

    Config = SGLConfig
    config: SGLConfig
    separate_columns = True

    def objective(self, x: Tensor, graph: Graph, batch: Batch, rng: torch.Generator) -> Objective:
        """Compute the ranking loss and the contrast of two edge-dropped views."""
        users, items = self.encode(x, graph)
        (users_1, items_1), (users_2, items_2) = (
            self.encode(x, graph.drop_edges(self.config.keep_rate, rng)) for _ in range(2)
        )
        # Positives and negatives have the same candidates and are equally many: the sum of their means is
        # twice the mean over both, and an item that is both is computed once.
        both = torch.cat([batch.positives, batch.negatives])
        contrast = batch_info_nce(
            batch.users, users_1, users_2, self.config.cl_temperature
        ) + 2 * batch_info_nce(both, items_1, items_2, self.config.cl_temperature)
        terms = {**self.ranking_loss(users, items, batch, rng), "cl": self.config.cl_weight * contrast}
        return Objective(users, items, terms)
