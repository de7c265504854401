"""RLMRec-Gen: hide some nodes' embeddings and rebuild their texts (Section 3.3.2, Algorithm 2)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rlmrec.alignment.base import Alignment
from rlmrec.alignment.projector import Projector
from rlmrec.batch import Batch
from rlmrec.config import Config
from rlmrec.losses import info_nce
from rlmrec.text.embeddings import TextEmbeddings


class GenerativeConfig(Config):
    """Options of the generative alignment, with the paper's symbols."""

    weight: float = Field(1e-2, ge=0, description="w, the share of L_info in the loss")
    temperature: float = Field(0.2, gt=0, description="τ")
    mask_ratio: float = Field(0.1, gt=0, le=1, description="α, the share of nodes masked in each batch")


class Generative(Alignment):
    """w · mean over masked i of −log( exp(cos(σ↑(e_i), s_i)/τ) / Σ_{j masked} exp(cos(σ↑(e_i), s_j)/τ) ).

    Equation 17 with the InfoNCE of Equation 18. max(1, ⌊mask_ratio · N⌋) nodes, users and items alike,
    have their initial embedding replaced by one learned [MASK] row (zeros at start) before the backbone
    encodes; the same pass feeds the backbone's own loss.

    N counts the nodes that have a text vector: only they are masked, since there is nothing to rebuild the
    others to.

    Args:
        semantics: the text vectors s.
        output_size: d', of the backbone's final embeddings.
        embedding_size: d, of its initial embeddings, which [MASK] replaces.
        config: options.

    Source: Ren et al., WWW 2024.
    """

    Config = GenerativeConfig
    text: Tensor
    with_text: Tensor | None

    def __init__(
        self,
        text_embeddings: TextEmbeddings,
        output_size: int,
        embedding_size: int | None = None,
        config: GenerativeConfig | None = None,
    ) -> None:
        super().__init__()
        self.texts = text_embeddings.digest
        self.config = config or GenerativeConfig()
        self.register_buffer("text", torch.from_numpy(text_embeddings.stacked()), persistent=False)
        # None where every node has a vector.
        rows = (
            None
            if text_embeddings.complete
            else torch.from_numpy(np.flatnonzero(text_embeddings.stacked_mask()))
        )
        self.register_buffer("with_text", rows, persistent=False)
        self.mask_token = nn.Parameter(torch.zeros(embedding_size or output_size))
        self.projector = Projector(output_size, text_embeddings.size)

    def corrupt(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """x with the [MASK] row at a random subset of nodes, and which nodes."""
        n_nodes = len(x) if self.with_text is None else len(self.with_text)
        n_masked = max(1, int(self.config.mask_ratio * n_nodes))
        masked = torch.randperm(n_nodes, generator=rng, device=x.device)[:n_masked]
        if self.with_text is not None:
            masked = self.with_text[masked]
        return x.index_put((masked,), self.mask_token), masked

    def loss(self, users: Tensor, items: Tensor, batch: Batch, masked: Tensor | None) -> dict[str, Tensor]:
        """Reconstruction of the masked nodes' texts, weighted."""
        del batch
        if masked is None:
            raise ValueError("the generative alignment needs the rows that corrupt() masked, got None")
        rebuilt = self.projector(F.embedding(masked, torch.cat([users, items])))  # (M, d_s)
        text = self.text[masked]
        return {"generative": self.config.weight * info_nce(rebuilt, text, text, self.config.temperature)}
