"""MF: matrix factorisation, the recommender without a graph (Rendle et al., UAI 2009)."""

from __future__ import annotations

from torch import Tensor

from rlmrec.backbones.base import Backbone, RankingConfig
from rlmrec.graph import Graph


class MFConfig(RankingConfig):
    """Options of MF: those that every backbone with a ranking loss has."""


class MF(Backbone):
    """Matrix factorisation: the final embeddings are the initial ones, E_0. Trained by the loss that
    ``loss`` names.

    Nodes do not exchange messages, so a masked node cannot be rebuilt from its neighbours: the generative
    alignment trains nothing but its [MASK] row. The contrastive one works as for any backbone.

    Args:
        n_users: U.
        n_items: I.
        config: options, or a mapping of them.
        options: options by keyword.

    Source: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.
    """

    Config = MFConfig
    config: MFConfig
    separate_columns = True

    def encode(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Return x unchanged, as (U, d) and (I, d)."""
        return self.split(x, graph)
