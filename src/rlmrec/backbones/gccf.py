"""GCCF: linear propagation with self-loops, layers concatenated (Chen et al., AAAI 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from rlmrec.backbones.base import Backbone, RankingConfig
from rlmrec.graph import Graph


class GCCFConfig(RankingConfig):
    """Options of GCCF, with the paper's symbols."""

    layers: int = Field(default=2, ge=0, description="L, number of propagations; d' = (L + 1) d")


class GCCF(Backbone):
    """GCCF: E_{l+1} = Â E_l with Â of A + I; the final embeddings are the concatenation [E_0, E_1, …, E_L].

    It has no weights and no non-linearity. Trained by the loss that ``loss`` names.

    Args:
        n_users: U.
        n_items: I.
        config: options, or a mapping of them.
        options: options by keyword.

    Source: Chen et al., "Revisiting Graph Based Collaborative Filtering", AAAI 2020, as in the RLMRec
    experiments.
    """

    Config = GCCFConfig
    config: GCCFConfig
    self_loops = True
    separate_columns = True

    def __init__(
        self,
        n_users: int,
        n_items: int,
        config: GCCFConfig | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(n_users, n_items, config, **options)
        self.output_size = (self.config.layers + 1) * self.config.embedding_size

    def encode(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Concatenate the layers; return (U, d') and (I, d')."""
        layers = [x]
        for _ in range(self.config.layers):
            layers.append(graph.propagate(layers[-1]))
        return self.split(torch.cat(layers, dim=1), graph)

    def last_layer_messages(self, x: Tensor, graph: Graph) -> Tensor | None:
        """Return m = [0, x, Âx, …, Â^(L−1) x]: each part of e is Â times the part before it."""
        parts = [torch.zeros_like(x), x]
        for _ in range(self.config.layers - 1):
            parts.append(graph.propagate(parts[-1]))
        return torch.cat(parts, dim=1) if self.config.layers else None
