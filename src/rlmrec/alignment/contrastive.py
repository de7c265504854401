"""RLMRec-Con: pull each embedding towards its own text and away from the others (Section 3.3.1, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from rlmrec.alignment.base import Alignment
from rlmrec.alignment.projector import Projector
from rlmrec.backbones.base import Backbone
from rlmrec.batch import Batch, distinct
from rlmrec.config import Config
from rlmrec.losses import info_nce
from rlmrec.text.embeddings import TextEmbeddings


class ContrastiveConfig(Config):
    """Options of the contrastive alignment, with the paper's symbols."""

    weight: float = Field(default=1e-2, ge=0, description="w, the share of L_info in the loss")
    temperature: float = Field(default=0.2, gt=0, description="τ")
    negatives: Literal["all-users", "batch"] = Field(
        default="all-users",
        description="all-users: every user's text is a candidate for a user (reproduces Table 1); "
        "batch: the candidates are those of the batch (the paper's text)",
    )


class Contrastive(Alignment):
    """Contrastive alignment: InfoNCE between embeddings and projected texts, for users and for items.

    w · [InfoNCE(e_u, σ↓(s_u), C_u) + InfoNCE(e_pos, σ↓(s_pos), C_pos) + InfoNCE(e_neg, σ↓(s_neg), C_neg)],
    Equation 16 with the InfoNCE of Equation 18. With ``negatives="all-users"`` C_u holds the texts of all
    users and C_pos, C_neg those of the batch's items, repeats counted; with ``"batch"`` all three hold
    the distinct texts of the batch.

    A node without a text vector is neither anchor nor candidate; a term without anchors is left out.

    The projector runs once on each distinct node that the options need.

    Args:
        text_embeddings: the text vectors s.
        backbone: the backbone to align, or the size d' of its final embeddings.
        config: options, or a mapping of them.
        options: options by keyword.

    Raises:
        ConfigError: a wrong option, or text vectors of another dataset than the backbone's.

    Source: Ren et al., WWW 2024.
    """

    label: ClassVar[str] = "Con"
    Config = ContrastiveConfig
    needs_text = True
    config: ContrastiveConfig
    user_text: Tensor
    item_text: Tensor
    has_user: Tensor | None
    has_item: Tensor | None

    def __init__(
        self,
        text_embeddings: TextEmbeddings,
        backbone: Backbone | int,
        config: ContrastiveConfig | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(text_embeddings, backbone, config, **options)
        self.register_buffer("user_text", torch.from_numpy(text_embeddings.users), persistent=False)
        self.register_buffer("item_text", torch.from_numpy(text_embeddings.items), persistent=False)
        # None where every node has a vector: the usual case costs nothing.
        for name in ("has_user", "has_item"):
            mask = getattr(text_embeddings, name)
            self.register_buffer(name, None if mask.all() else torch.from_numpy(mask), persistent=False)
        self.projector = Projector(text_embeddings.size, self.output_size)

    def loss(
        self, users: Tensor, items: Tensor, batch: Batch, masked: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the three InfoNCE terms, summed and weighted."""
        del masked
        all_users = self.config.negatives == "all-users"
        total = users.new_zeros(())
        user_rows, _, user_counts = distinct(_only(batch.users, self.has_user))
        if len(user_rows):
            if all_users:
                user_text = self.projector(self.user_text)  # (U, d')
                own_text = F.embedding(user_rows, user_text)
                weights = self.has_user  # a candidate without a text counts 0 times
            else:
                user_text = own_text = self.projector(self.user_text[user_rows])
                weights = None
            total = total + info_nce(
                F.embedding(user_rows, users),
                own_text,
                user_text,
                self.config.temperature,
                user_counts,
                weights,
            )

        # One projection for positives and negatives together: many items are both.
        positives, negatives = (_only(rows, self.has_item) for rows in (batch.positives, batch.negatives))
        item_rows, at, _ = distinct(torch.cat([positives, negatives]))
        item_text = self.projector(self.item_text[item_rows])
        embeddings = F.embedding(item_rows, items)
        for part in torch.tensor_split(at, [len(positives)]):
            if not len(part):  # no negatives, or none with a text: the term is left out
                continue
            present, _, counts = distinct(part)
            text = F.embedding(present, item_text)
            total = total + info_nce(
                F.embedding(present, embeddings),
                text,
                text,
                self.config.temperature,
                counts,
                counts if all_users else None,
            )
        return {"contrastive": self.config.weight * total}


def _only(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Return the entries of ``rows`` for which ``mask`` is True."""
    return rows if mask is None else rows[mask[rows]]
