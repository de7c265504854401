"""LightGCN: propagation without weights and non-linearity (He et al., SIGIR 2020)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rlmrec.backbones.base import Backbone, Objective, RankingConfig
from rlmrec.batch import Batch
from rlmrec.graph import Graph

# Of ``LayerSum.initial_for``. P has eigenvalues from 0 to L + 1; after ten steps the final embeddings rank as well as
# the given ones (Recall@20 .1927 for both, a million interactions).
SOLVER_STEPS, SOLVER_RIDGE, TINY = 10, 1e-2, 1e-30


class LayerSumConfig(RankingConfig):
    """Options of every backbone that sums its layers."""

    layers: int = Field(default=3, ge=0, description="L, number of propagations")


class LayerSum(Backbone):
    """The encoder of LightGCN, which SGL and SimGCL share: E_{l+1} = Â E_l, summed to E_0 + E_1 + … + E_L."""

    Config = LayerSumConfig
    config: LayerSumConfig
    separate_columns = True

    def encode(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Sum the layers over the whole graph; return (U, d) and (I, d)."""
        return self.split(graph.propagate_sum(x, self.config.layers), graph)

    def initial_for(self, final: Tensor, graph: Graph) -> Tensor:
        """Solve min_x ||P x − E||² + ε ||x||² with P = I + Â + … + Â^L by conjugate gradients, all columns at once.

        Args:
            final: E, (N, r).
            graph: of the training interactions.

        Returns:
            x, (N, r).
        """

        def propagate(x: Tensor) -> Tensor:
            return graph.propagate_sum(x, self.config.layers)

        with torch.no_grad():
            x, residual = torch.zeros_like(final), propagate(final)
            direction, squares = residual, residual.square().sum(0)
            for _ in range(SOLVER_STEPS):
                product = propagate(propagate(direction)) + SOLVER_RIDGE * direction
                size = squares / (direction * product).sum(0).clamp(min=TINY)  # 0 once a column is solved
                x = x + size * direction
                residual = residual - size * product
                before, squares = squares, residual.square().sum(0)
                direction = residual + squares / before.clamp(min=TINY) * direction
        return x

    def last_layer_messages(self, x: Tensor, graph: Graph) -> Tensor | None:
        """Return m = x + Âx + … + Â^(L−1) x, since e = x + Â m; None for L = 0."""
        return graph.propagate_sum(x, self.config.layers - 1) if self.config.layers else None


class LightGCNConfig(LayerSumConfig):
    """Options of LightGCN, with the paper's symbols."""

    keep_rate: float = Field(
        default=0.8, gt=0, le=1, description="probability that an edge is kept in a training pass"
    )


class LightGCN(LayerSum):
    """LightGCN: E_{l+1} = Â E_l; the final embeddings are E_0 + E_1 + … + E_L.

    Trained by the loss that ``loss`` names, on one pass over a graph whose directed entries are each kept with
    ``keep_rate``.

    Args:
        n_users: U.
        n_items: I.
        config: options, or a mapping of them.
        options: options by keyword.

    Source: He et al., "LightGCN", SIGIR 2020; a sum instead of a mean as in the RLMRec experiments.
    """

    Config = LightGCNConfig
    config: LightGCNConfig
    separate_columns = True

    def objective(self, x: Tensor, graph: Graph, batch: Batch, rng: torch.Generator) -> Objective:
        """Compute the ranking loss on a pass with edge dropout."""
        return super().objective(x, graph.drop_edges(self.config.keep_rate, rng), batch, rng)
