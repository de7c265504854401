"""RLMRec-Con: pull each embedding towards its own text and away from the others (Section 3.3.1, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from rlmrec.alignment.base import Alignment
from rlmrec.alignment.projector import Projector
from rlmrec.backbones.base import Backbone
from rlmrec.batch import Batch, Distinct, distinct, has_static_shapes, occurrences_of, stream
from rlmrec.config import Config
from rlmrec.losses import info_nce, sampled_info_nce
from rlmrec.text.embeddings import TextEmbeddings


class ContrastiveConfig(Config):
    """Options of the contrastive alignment, with the paper's symbols."""

    later_options = frozenset({"candidates"})
    weight: float = Field(default=1e-2, ge=0, description="w, the share of L_info in the loss")
    temperature: float = Field(default=0.2, gt=0, description="τ")
    negatives: Literal["all-users", "batch"] = Field(
        default="all-users",
        description="all-users: every user's text is a candidate for a user (reproduces Table 1); "
        "batch: the candidates are those of the batch (the paper's text)",
    )
    candidates: int = Field(
        default=0,
        ge=0,
        description="users, and rows of the batch for its items, drawn in each batch to estimate the sums over all of "
        "them (logQ correction); 0 takes all. With negatives=all-users",
    )

    @model_validator(mode="after")
    def _check_candidates(self) -> Self:
        if self.candidates and self.negatives != "all-users":
            raise ValueError(
                f"candidates={self.candidates} estimates the sums of negatives=all-users, and negatives is "
                f"{self.negatives} (perhaps by the preset): set negatives=all-users as well, or leave candidates out"
            )
        return self


class Contrastive(Alignment):
    """Contrastive alignment: InfoNCE between embeddings and projected texts, for users and for items.

    w · [InfoNCE(e_u, σ↓(s_u), C_u) + InfoNCE(e_pos, σ↓(s_pos), C_pos) + InfoNCE(e_neg, σ↓(s_neg), C_neg)],
    Equation 16 with the InfoNCE of Equation 18. With ``negatives="all-users"`` C_u holds the texts of all
    users, C_pos those of the batch's positive items and C_neg of its negative ones, repeats counted; with
    ``"batch"`` they hold the distinct texts of the batch's users, positive and negative items.

    With ``candidates=n`` the sums of "all-users" are estimated without bias: those over all users from n users drawn
    for the batch, those over the batch's items from n of its rows, and an anchor's own text counts exactly
    (``sampled_info_nce``). A step then costs B x n products instead of B x U, and the projector runs on n users and the
    batch instead of all.

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
        text_embeddings = text_embeddings.with_zeros_marked()
        self.register_buffer("user_text", torch.from_numpy(text_embeddings.users), persistent=False)
        self.register_buffer("item_text", torch.from_numpy(text_embeddings.items), persistent=False)
        # None where every node has a vector: the usual case costs nothing.
        for name in ("has_user", "has_item"):
            mask = getattr(text_embeddings, name)
            self.register_buffer(name, None if mask.all() else torch.from_numpy(mask), persistent=False)
        self.users_with_text = int(text_embeddings.has_user.sum())
        self.projector = Projector(text_embeddings.size, self.output_size)

    def corrupt(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Leave x as it is and draw the users that stand for all; None where all are candidates."""
        n = self.config.candidates
        if not 0 < n < self.users_with_text:
            return x, None
        if self.has_user is None:
            return x, torch.randperm(len(self.user_text), generator=stream(rng), device=x.device)[:n]
        keys = torch.rand(len(self.user_text), generator=stream(rng), device=x.device)
        return x, keys.masked_fill(~self.has_user, 2.0).topk(n, largest=False).indices

    def loss(
        self, users: Tensor, items: Tensor, batch: Batch, masked: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the three InfoNCE terms, summed and weighted; ``masked`` are the users that ``corrupt`` drew."""
        total = users.new_zeros(()) + self._of_users(users, _only(batch.users, self.has_user), masked)
        # One projection for positives and negatives together: many items are both.
        parts = [_only(rows, self.has_item) for rows in (batch.positives, batch.negatives)]
        every = distinct(torch.cat(parts))
        text = self.projector(self.item_text[every.rows])
        embeddings = F.embedding(every.rows, items)
        for at in torch.tensor_split(every.at, [len(parts[0])]):
            if len(at):  # otherwise no negatives, or none with a text: the term is left out
                total = total + self._of_items(embeddings, text, every.rows, at)
        return {"contrastive": self.config.weight * total}

    def _of_users(self, users: Tensor, rows: Tensor, drawn: Tensor | None) -> Tensor:
        """Compute the term of a batch's users, int64[B]; the candidates are ``drawn``, or what the options say."""
        found, tau = distinct(rows), self.config.temperature
        if not len(rows):
            return users.new_zeros(())
        weights = _with_text(found.counts, found.rows, self.has_user)
        if drawn is not None:
            own, pool = self.projector(self.user_text[torch.cat([found.rows, drawn])]).split(
                [len(found.rows), len(drawn)]
            )
            each = torch.arange(len(own), device=own.device)
            ids = found.rows, drawn
            return sampled_info_nce(
                (users, found.rows), (own, each), pool, tau, weights, ids, self.users_with_text
            )
        anchors = F.embedding(found.rows, users)
        if self.config.negatives == "all-users":
            text = self.projector(self.user_text)  # (U, d')
            # A candidate without a text counts 0 times.
            return info_nce(anchors, F.embedding(found.rows, text), text, tau, weights, self.has_user)
        text = self.projector(self.user_text[found.rows])
        return info_nce(anchors, text, text, tau, weights, _once(found.rows, self.has_user))

    def _of_items(self, embeddings: Tensor, text: Tensor, ids: Tensor, at: Tensor) -> Tensor:
        """Compute the term of a batch's positive, or negative, items.

        Args:
            embeddings: of all items of the batch, (n, d').
            text: theirs, projected, (n, d').
            ids: their rows, int64[n].
            at: which of them, int64[B].
        """
        found, tau, all_users = distinct(at), self.config.temperature, self.config.negatives == "all-users"
        rows = ids[found.rows]
        weights = _with_text(found.counts, rows, self.has_item)
        if 0 < self.config.candidates < len(at):
            drawn = at[: self.config.candidates]  # batches are in random order, so these are a uniform sample
            static = has_static_shapes(at)
            valid = self.has_item[ids[drawn]] if static and self.has_item is not None else None
            return sampled_info_nce(
                (embeddings, found.rows), (text, found.rows), F.embedding(drawn, text), tau, weights,
                (rows, ids[drawn]), weights.sum(), occurrences_of(rows, rows) if static else weights, valid,
            )  # fmt: skip
        anchors, own = F.embedding(found.rows, embeddings), F.embedding(found.rows, text)
        counts = _some(weights) if all_users else _once(rows, self.has_item)
        return info_nce(anchors, own, own, tau, weights, counts)


def _only(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Return the entries of ``rows`` for which ``mask`` is True; all of them on an accelerator."""
    return rows if mask is None or has_static_shapes(rows) else rows[mask[rows]]


def _with_text(counts: Tensor, rows: Tensor, mask: Tensor | None) -> Tensor:
    """Return the counts of rows, 0 for those without a text, which are only there on an accelerator."""
    return counts if mask is None or not has_static_shapes(rows) else counts * mask[rows]


def _once(rows: Tensor, mask: Tensor | None) -> Tensor | None:
    """Return how often each row counts so that equal ones together count once; None where each does."""
    if not has_static_shapes(rows):
        return None
    shares = Distinct(rows, rows, rows).shares
    assert shares is not None
    return _some(shares if mask is None else shares * mask[rows])


def _some(counts: Tensor) -> Tensor:
    """Return counts of candidates, all 1 where all are 0: then the weights of the anchors are 0 as well."""
    return torch.where(counts.sum() > 0, counts, 1) if has_static_shapes(counts) else counts
