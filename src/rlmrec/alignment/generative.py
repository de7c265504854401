"""RLMRec-Gen: mask the embeddings of some nodes and rebuild their texts (Section 3.3.2, Algorithm 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from rlmrec.alignment.base import Alignment
from rlmrec.alignment.projector import Projector
from rlmrec.backbones.base import Backbone
from rlmrec.batch import Batch, stream
from rlmrec.config import Config
from rlmrec.errors import ConfigError
from rlmrec.losses import info_nce
from rlmrec.text.embeddings import TextEmbeddings


class GenerativeConfig(Config):
    """Options of the generative alignment, with the paper's symbols."""

    weight: float = Field(default=1e-2, ge=0, description="w, the share of L_info in the loss")
    temperature: float = Field(default=0.2, gt=0, description="τ")
    mask_ratio: float = Field(
        default=0.1, gt=0, le=1, description="α, the share of nodes masked in each batch"
    )


class Generative(Alignment):
    """Generative alignment: rebuild the texts of masked nodes from their final embeddings.

    w · mean over masked i of −log( exp(cos(σ↑(e_i), s_i)/τ) / Σ_{j masked} exp(cos(σ↑(e_i), s_j)/τ) ),
    Equation 17 with the InfoNCE of Equation 18. max(1, ⌊mask_ratio · N⌋) nodes, users and items alike,
    have their initial embedding replaced by one learned [MASK] row (zeros at start) before the backbone
    encodes; the same pass feeds the backbone's own loss.

    N counts the nodes that have a text vector. Only they are masked: without one there is nothing to rebuild.

    Args:
        text_embeddings: the text vectors s.
        backbone: the backbone to align, or the size d' of its final embeddings. [MASK] has the size d of the
            initial embeddings; with a number alone it has d' ≥ d numbers, of which the first d are used.
        config: options, or a mapping of them.
        options: options by keyword.

    Raises:
        ConfigError: a wrong option, or text vectors of another dataset than the backbone's.

    Source: Ren et al., WWW 2024.
    """

    label: ClassVar[str] = "Gen"
    Config = GenerativeConfig
    needs_text = True
    column_parameters = ("mask_token",)
    config: GenerativeConfig
    text: Tensor
    with_text: Tensor | None

    def __init__(
        self,
        text_embeddings: TextEmbeddings,
        backbone: Backbone | int,
        config: GenerativeConfig | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(text_embeddings, backbone, config, **options)
        text_embeddings = text_embeddings.with_zeros_marked()
        self.register_buffer("text", torch.from_numpy(text_embeddings.stacked()), persistent=False)
        # None where every node has a vector: the usual case costs nothing.
        rows = None
        if not text_embeddings.complete:
            rows = torch.from_numpy(np.flatnonzero(text_embeddings.stacked_mask()))
        self.register_buffer("with_text", rows, persistent=False)
        size = backbone.initial().shape[1] if isinstance(backbone, Backbone) else backbone
        self.mask_token = nn.Parameter(torch.zeros(size))
        self.projector = Projector(self.output_size, text_embeddings.size)

    def corrupt(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Replace a random subset of the rows of x by [MASK]; return the new x and the masked rows."""
        if x.shape[1] > len(self.mask_token):
            raise ConfigError(
                f"the initial embeddings have {x.shape[1]} numbers, [MASK] has {len(self.mask_token)}: "
                "make the alignment with the backbone itself, Generative(text_embeddings, backbone)"
            )
        n_nodes = len(x) if self.with_text is None else len(self.with_text)
        n_masked = max(1, int(self.config.mask_ratio * n_nodes))
        masked = torch.randperm(n_nodes, generator=stream(rng), device=x.device)[:n_masked]
        if self.with_text is not None:
            masked = self.with_text[masked]
        return x.index_put((masked,), self.mask_token[: x.shape[1]]), masked

    def loss(self, users: Tensor, items: Tensor, batch: Batch, masked: Tensor | None) -> dict[str, Tensor]:
        """Compute how badly the texts of the masked nodes are rebuilt, weighted."""
        del batch
        if masked is None:
            raise ValueError("masked is None: pass the rows that corrupt() returned")
        rebuilt = self.projector(F.embedding(masked, torch.cat([users, items])))  # (M, d_s)
        text = self.text[masked]
        return {"generative": self.config.weight * info_nce(rebuilt, text, text, self.config.temperature)}
