"""KAR: text vectors as input features, the LLM-enhanced baseline of Table 2 (Xi et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from rlmrec.backbones.base import Backbone, BackboneConfig
from rlmrec.backbones.lightgcn import LightGCN, LightGCNConfig
from rlmrec.backbones.sgl import SGL, SGLConfig
from rlmrec.errors import ConfigError
from rlmrec.text.embeddings import TextEmbeddings


class KAROptions(BackboneConfig):
    """Options that KAR adds to those of its backbone."""

    preference_experts: int = Field(
        default=3, ge=0, description="number of preference experts, for users and for items"
    )
    shared_experts: int = Field(default=2, ge=1, description="number of shared experts; the gate mixes all")
    expert_size: int = Field(default=64, ge=1, description="hidden size of each expert")


class KAR(Backbone):
    """KAR as a mixin before a backbone's class: x = [E_0, experts(s)] W + b, then the backbone.

    experts(s) = Σ_k g_k · MLP_k(s) with the gate g = softmax(s G), over preference and shared experts, one
    set for users and one for items. Everything is trained end to end by the backbone's loss; the text
    vectors are fixed; those of a node without one are zeros. Only the initial embeddings change, so any
    backbone can be enhanced:

        class KARMine(KAR, Mine): Config = …  # KAROptions and Mine's options

    Args:
        n_users: U.
        n_items: I.
        config: options of KAR and of the backbone, or a mapping of them.
        text_embeddings: the text vectors s.
        options: options by keyword.

    Raises:
        ConfigError: no text vectors, or for other users and items.

    Source: Xi et al., "Towards Open-World Recommendation with Knowledge Augmentation from Large Language
    Models", 2023, Section 3.3, over collaborative filtering as in the RLMRec experiments.
    """

    Config = KAROptions
    enhancement = "KAR"
    needs_text = True
    config: KAROptions
    user_text: Tensor
    item_text: Tensor

    def __init__(
        self,
        n_users: int,
        n_items: int,
        config: KAROptions | Mapping[str, Any] | None = None,
        text_embeddings: TextEmbeddings | None = None,
        **options: Any,
    ) -> None:
        if text_embeddings is None:
            raise ConfigError(f"{type(self).__name__} needs text vectors: pass text_embeddings=")
        got = len(text_embeddings.users), len(text_embeddings.items)
        if got != (n_users, n_items):
            raise ConfigError(
                f"{type(self).__name__} has {n_users} users and {n_items} items, the text vectors are for "
                f"{got[0]} and {got[1]}: use text vectors of the same dataset"
            )
        super().__init__(n_users, n_items, config, **options)
        self.text_digest = text_embeddings.digest
        size = self.user_embedding.shape[1]
        count = self.config.preference_experts + self.config.shared_experts
        self.register_buffer("user_text", torch.from_numpy(text_embeddings.users), persistent=False)
        self.register_buffer("item_text", torch.from_numpy(text_embeddings.items), persistent=False)
        self.user_experts, self.item_experts = (
            Experts(text_embeddings.size, size, count, self.config.expert_size) for _ in range(2)
        )
        self.merge = nn.Linear(2 * size, size)
        nn.init.xavier_uniform_(self.merge.weight)

    def initial(self) -> Tensor:
        """Merge initial embeddings and texts into x, (N, d)."""
        text = torch.cat([self.user_experts(self.user_text), self.item_experts(self.item_text)])
        merged: Tensor = self.merge(torch.cat([super().initial(), text], dim=1))
        return merged


class Experts(nn.Module):
    """A gated mixture of K experts: Σ_k g_k · (ReLU(s A_k + a_k) B_k + b_k), g = softmax(s G + c).

    The K experts run as two products: their first layers are concatenated, and, since the gate is one number
    per expert, their second layers are one product with the gated hidden units.

    Args:
        in_size: d_s.
        out_size: d.
        count: K.
        hidden_size: hidden size of each expert.
    """

    def __init__(self, in_size: int, out_size: int, count: int, hidden_size: int) -> None:
        super().__init__()
        self.gate = nn.Linear(in_size, count)
        self.inner = nn.Linear(in_size, count * hidden_size)
        self.outer = nn.Parameter(torch.empty(count, hidden_size, out_size))
        self.bias = nn.Parameter(torch.zeros(count, out_size))
        nn.init.xavier_uniform_(self.gate.weight)
        for expert in (*self.inner.weight.chunk(count), *self.outer):
            nn.init.xavier_uniform_(expert)

    def forward(self, text: Tensor) -> Tensor:
        """Map text vectors (n, d_s) to (n, d)."""
        gates = self.gate(text).softmax(1)  # (n, K)
        hidden = self.inner(text).relu().unflatten(1, self.outer.shape[:2])  # (n, K, hidden)
        mixed = (hidden * gates[:, :, None]).flatten(1)
        return torch.addmm(gates @ self.bias, mixed, self.outer.flatten(0, 1))


class KARLightGCNConfig(LightGCNConfig, KAROptions):
    """Options of KAR over LightGCN."""


class KARLightGCN(KAR, LightGCN):
    """KAR over LightGCN."""

    Config = KARLightGCNConfig
    label = "LightGCN"
    config: KARLightGCNConfig


class KARSGLConfig(SGLConfig, KAROptions):
    """Options of KAR over SGL."""


class KARSGL(KAR, SGL):
    """KAR over SGL."""

    Config = KARSGLConfig
    label = "SGL"
    config: KARSGLConfig
