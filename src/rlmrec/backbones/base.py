"""Backbone: the recommender R that RLMRec makes understand text (Section 3.4); subclass it for your own."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rlmrec.batch import Batch, distinct
from rlmrec.config import Config
from rlmrec.errors import ConfigError
from rlmrec.graph import Graph
from rlmrec.losses import bpr, info_nce


class Objective(NamedTuple):
    """What a backbone hands out for one batch.

    users: final embeddings e_u, (U, d').
    items: final embeddings e_v, (I, d').
    terms: its losses by name, already weighted; their sum is L_R.
    """

    users: Tensor
    items: Tensor
    terms: dict[str, Tensor]


class BackboneConfig(Config):
    """What every backbone can be told."""

    embedding_size: int = Field(32, ge=1, description="d, of the initial embeddings")


class Backbone(nn.Module):
    """A recommender over U users and I items, given x: the initial embeddings of all N = U + I nodes.

    A subclass implements ``encode``; one with a training pass of its own (noise, several views) overrides
    ``objective`` too. The initial embeddings and the graph are arguments, never state: an alignment can
    mask x and a test can pass any x.

    Args:
        n_users: U.
        n_items: I.
        config: options, of the class's ``Config``.

    Attributes:
        Config: the class of its options; a subclass with more of them derives its own.
        output_size: d', of the final embeddings; d unless a subclass says otherwise.
        self_loops: whether its graph is that of A + I.
        uses_negatives: whether its loss reads the batch's negatives; if not, they are hidden from it and
            from the alignment.
        needs_text: whether its constructor takes ``text_embeddings``, the text vectors, after its config.
    """

    Config: type[BackboneConfig] = BackboneConfig
    self_loops = False
    uses_negatives = True
    needs_text = False

    def __init__(self, n_users: int, n_items: int, config: BackboneConfig | None = None) -> None:
        super().__init__()
        self.config = config or self.Config()
        embedding_size = self.config.embedding_size
        self.n_users = n_users
        self.n_items = n_items
        self.output_size = embedding_size
        self.user_embedding = nn.Parameter(torch.empty(n_users, embedding_size))
        self.item_embedding = nn.Parameter(torch.empty(n_items, embedding_size))
        nn.init.xavier_uniform_(self.user_embedding)
        nn.init.xavier_uniform_(self.item_embedding)

    def initial(self) -> Tensor:
        """x = [x_u ; x_v], (N, d)."""
        return torch.cat([self.user_embedding, self.item_embedding])

    def encode(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """e_u, e_v = R(x_u, x_v): deterministic; evaluation and serving use this.

        Args:
            x: (N, d).
            graph: of the training interactions.

        Returns:
            final embeddings of users (U, d') and items (I, d').

        Raises:
            ConfigError: the subclass does not implement it.
        """
        del x, graph
        raise ConfigError(f"{type(self).__name__} must implement encode(x, graph): final users and items")

    def last_layer_messages(self, x: Tensor, graph: Graph) -> Tensor | None:
        """m, (N, d'), if the last step is linear: e = (a part of x_i alone) + Σ_j Â_ij m_j; else None.

        With it a score falls apart exactly into what each training item adds, and a new user gets an
        embedding from liked items by the same step (``Recommender.item_messages``).

        Args:
            x: (N, d).
            graph: of the training interactions.
        """
        del x, graph  # not known to be linear
        return None

    def objective(self, x: Tensor, graph: Graph, batch: Batch, rng: torch.Generator) -> Objective:
        """L_R on one batch; by default BPR on ``encode``.

        Args:
            x: (N, d), possibly masked.
            graph: of the training interactions.
            batch: B triples.
            rng: source of any randomness, on the device of x.
        """
        del rng  # nothing random here
        users, items = self._checked(self.encode(x, graph))
        return Objective(users, items, {"bpr": batch_bpr(users, items, batch)})

    def _checked(self, encoded: Any) -> tuple[Tensor, Tensor]:
        """What ``encode`` gave, if it is what it should be.

        Raises:
            ConfigError: it is not a pair of tensors (U, d') and (I, d').
        """
        expected = [(self.n_users, self.output_size), (self.n_items, self.output_size)]
        parts = encoded if isinstance(encoded, tuple | list) else [encoded]
        shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
        if shapes != expected:
            got = " and ".join(map(str, shapes))
            raise ConfigError(
                f"encode gives {got}, expected users of {expected[0]} and items of {expected[1]}: "
                "return (users, items), and set output_size where d' is not d"
            )
        users, items = encoded
        return users, items


def batch_bpr(users: Tensor, items: Tensor, batch: Batch) -> Tensor:
    """BPR of a batch's triples under the given final embeddings."""
    # F.embedding and not indexing: the gradient of an index runs on one core.
    return bpr(
        F.embedding(batch.users, users),
        F.embedding(batch.positives, items),
        F.embedding(batch.negatives, items),
    )


def batch_info_nce(rows: Tensor, first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """InfoNCE of a batch's rows, one view's embedding against the other's, all rows being candidates.

    Repeated rows are computed once and counted.

    Args:
        rows: of users or of items, int64[B].
        first: their embeddings in one view, (U, d') or (I, d').
        second: in the other, of the same shape.
        temperature: τ.
    """
    found, _, counts = distinct(rows)
    return info_nce(F.embedding(found, first), F.embedding(found, second), second, temperature, counts)
