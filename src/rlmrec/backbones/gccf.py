"""GCCF: linear propagation with self-loops, layers side by side (Chen et al., AAAI 2020)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from rlmrec.backbones.base import Backbone, BackboneConfig
from rlmrec.graph import Graph


class GCCFConfig(BackboneConfig):
    """Options of GCCF, with the paper's symbols."""

    layers: int = Field(2, ge=0, description="L; the final embeddings have d' = (L + 1) d numbers")


class GCCF(Backbone):
    """E_{l+1} = Â E_l with Â of A + I; the final embeddings are [E_0, E_1, …, E_L] side by side.

    No weights and no non-linearity. Trained by BPR.

    Args:
        n_users: U.
        n_items: I.
        config: options.

    Source: Chen et al., "Revisiting Graph Based Collaborative Filtering", AAAI 2020, as in the RLMRec
    experiments.
    """

    Config = GCCFConfig
    config: GCCFConfig
    self_loops = True

    def __init__(self, n_users: int, n_items: int, config: GCCFConfig | None = None) -> None:
        super().__init__(n_users, n_items, config)
        self.output_size = (self.config.layers + 1) * self.config.embedding_size

    def encode(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """The layers side by side, (U, d') and (I, d')."""
        layers = [x]
        for _ in range(self.config.layers):
            layers.append(graph @ layers[-1])
        return graph.split(torch.cat(layers, dim=1))

    def last_layer_messages(self, x: Tensor, graph: Graph) -> Tensor | None:
        """[0, x, Âx, …, Â^(L−1) x]: each part of e is Â of the part before it."""
        parts = [torch.zeros_like(x), x]
        for _ in range(self.config.layers - 1):
            parts.append(graph @ parts[-1])
        return torch.cat(parts, dim=1) if self.config.layers else None
