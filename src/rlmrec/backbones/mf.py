"""MF: matrix factorisation by BPR, the recommender without a graph (Rendle et al., UAI 2009)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from rlmrec.backbones.base import Backbone
from rlmrec.config import Config
from rlmrec.graph import Graph


class MFConfig(Config):
    """Options of MF, with the paper's symbols."""

    embedding_size: int = Field(32, ge=1, description="d")


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

    def __init__(self, n_users: int, n_items: int, config: MFConfig | None = None) -> None:
        self.config = config or MFConfig()
        super().__init__(n_users, n_items, self.config.embedding_size)

    def encode(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """x as it is, (U, d) and (I, d)."""
        return graph.split(x)
