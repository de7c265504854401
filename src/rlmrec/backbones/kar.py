"""KAR: text vectors as input features, the LLM-enhanced baseline of Table 2 (Xi et al., 2023)."""

from __future__ import annotations

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

    preference_experts: int = Field(3, ge=0, description="experts of one kind, for users and for items")
    shared_experts: int = Field(2, ge=1, description="experts of the other kind; the gate mixes all")
    expert_size: int = Field(64, ge=1, description="hidden numbers of each expert")


class KAR(Backbone):
    """x = [E_0, experts(s)] W + b, then the backbone: a mixin that stands before a backbone's class.

    experts(s) = Σ_k g_k · MLP_k(s) with the gate g = softmax(s G), over preference and shared experts, one
    set for users and one for items. Everything is trained end to end by the backbone's loss; the text
    vectors are fixed, a node without one enters as zeros. Only the initial embeddings change, so that any
    backbone can be enhanced:

        class KARMine(KAR, Mine): Config = …  # KAROptions and Mine's options

    Args:
        n_users: U.
        n_items: I.
        config: options of KAR and of the backbone.
        semantics: the text vectors s.

    Raises:
        ConfigError: no text vectors, or for other users and items.

    Source: Xi et al., "Towards Open-World Recommendation with Knowledge Augmentation from Large Language
    Models", 2023, Section 3.3, over collaborative filtering as in the RLMRec experiments.
    """

    Config = KAROptions
    needs_text = True
    config: KAROptions
    user_text: Tensor
    item_text: Tensor

    def __init__(
        self,
        n_users: int,
        n_items: int,
        config: KAROptions | None = None,
        text_embeddings: TextEmbeddings | None = None,
    ) -> None:
        if text_embeddings is None:
            raise ConfigError(f"{type(self).__name__} needs text vectors: pass text_embeddings=")
        got = len(text_embeddings.users), len(text_embeddings.items)
        if got != (n_users, n_items):
            raise ConfigError(
                f"there are text vectors for {got} users and items, expected {(n_users, n_items)}"
            )
        super().__init__(n_users, n_items, config)
        self.texts = text_embeddings.digest
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
        """x, embeddings and text merged, (N, d)."""
        text = torch.cat([self.user_experts(self.user_text), self.item_experts(self.item_text)])
        merged: Tensor = self.merge(torch.cat([super().initial(), text], dim=1))
        return merged


class Experts(nn.Module):
    """Σ_k g_k · (ReLU(s A_k + a_k) B_k + b_k), g = softmax(s G + c).

    The K experts run as two products: their first layers side by side, and, as the gate is one number an
    expert, their second layers as one over the gated hidden numbers.

    Args:
        in_size: d_s.
        out_size: d.
        count: K.
        hidden_size: of each expert.
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
        """(n, d_s) → (n, d)."""
        gates = self.gate(text).softmax(1)  # (n, K)
        hidden = self.inner(text).relu().unflatten(1, self.outer.shape[:2])  # (n, K, hidden)
        mixed = (hidden * gates[:, :, None]).flatten(1)
        return torch.addmm(gates @ self.bias, mixed, self.outer.flatten(0, 1))


class KARLightGCNConfig(LightGCNConfig, KAROptions):
    """Options of KAR over LightGCN."""


class KARLightGCN(KAR, LightGCN):
    """KAR over LightGCN."""

    Config = KARLightGCNConfig
    config: KARLightGCNConfig


class KARSGLConfig(SGLConfig, KAROptions):
    """Options of KAR over SGL."""


class KARSGL(KAR, SGL):
    """KAR over SGL."""

    Config = KARSGLConfig
    config: KARSGLConfig
