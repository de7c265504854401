"""MF: matrix factorisation by BPR, the recommender without a graph (Rendle et al., UAI 2009)."""

from __future__ import annotations

from torch import Tensor

from rlmrec.backbones.base import Backbone, BackboneConfig
from rlmrec.graph import Graph


class MFConfig(BackboneConfig):
    """Options of MF: d alone."""


class MF(Backbone):
    """The final embeddings are the initial ones, E_0. Trained by BPR.

    Nothing flows between nodes, so a masked node cannot be rebuilt from its neighbours: the generative
    alignment has nothing to teach MF but its [MASK] row. The contrastive one works as everywhere.

    Args:
        n_users: U.
        n_items: I.
        config: options.

    Source: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.
    """

    Config = MFConfig
    config: MFConfig

    def encode(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """x as it is, (U, d) and (I, d)."""
        return graph.split(x)
