"""Distillation: a trained backbone learns to rank as a closed-form recommender, with or without text, does."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from rlmrec.alignment.base import Alignment, ConfigLike
from rlmrec.alignment.contrastive import Contrastive
from rlmrec.alignment.teacher import TeacherLists, fitted_lists
from rlmrec.backbones.base import Backbone
from rlmrec.batch import Batch, Distinct, ListTargets, TaughtBatch, distinct, has_static_shapes
from rlmrec.config import Config, as_config
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError
from rlmrec.losses import listwise_cross_entropy
from rlmrec.text.embeddings import TextEmbeddings


class DistilledConfig(Config):
    """Options of distillation."""

    later_options = frozenset({"teacher_options"})
    weight: float = Field(default=1.0, ge=0, description="w, weight of the term beside the backbone's loss")
    temperature: float = Field(
        default=0.15,
        gt=0,
        description="τ of the student's cosines; inner products are taken as they are. If it is the backbone's "
        "loss_temperature, both share one pass",
    )
    teacher: str = Field(
        default="graph-filter", description="closed-form recommender that is the teacher, or your own class"
    )
    teacher_options: dict[str, Any] = Field(
        default={}, description="options of the teacher; those left open are chosen by validation"
    )
    teacher_text: bool = Field(default=True, description="whether the teacher reads the text vectors")
    length: int = Field(default=100, ge=1, description="M, number of items that the teacher lists for a user")
    spread: float = Field(
        default=0.4, gt=0, le=1, description="perplexity of the targets, as a share of the list's length"
    )
    every: int = Field(
        default=1,
        ge=1,
        description="n: every n-th user of a batch is taught; a user is in many batches of an epoch",
    )
    contrastive_weight: float = Field(
        default=0.0,
        ge=0,
        description="weight of the contrastive alignment (Con) beside the teacher; 0 for none",
    )
    contrastive_temperature: float = Field(default=0.2, gt=0, description="τ of the contrastive alignment")


class Distilled(Alignment):
    """Distillation: pull each user's ranking towards a teacher's list.

    w · mean over the taught users u of the batch of Σ_{i in list_u} π_ui · [−s_ui + log Σ_c exp(s_uc)]

    The taught users are the distinct users of the batch that have a list; with ``every`` = n, only every n-th distinct
    user is taken. π are the teacher's probabilities (``TeacherLists``) and the candidates c are all items. s_ui is the
    score that the backbone ranks by: cos(e_u, e_i)/τ where it ranks by cosine (``loss`` is ``softmax`` or ``sl@k``),
    else e_u · e_i.

    With ``contrastive_weight`` the contrastive alignment is added, with the texts of the batch as candidates.

    Args:
        lists: the teacher's lists.
        backbone: the backbone to align, or the size d' of its final embeddings, which then ranks by inner products.
        config: options, or a mapping of them.
        text_embeddings: the text vectors, which only the contrastive alignment beside needs.
        options: options by keyword.

    Raises:
        ConfigError: a wrong option, or lists or text vectors for other users and items than the backbone has.

    Example:
        >>> lists = TeacherLists.of(recommender.scorer(), dataset)
        >>> sizes = dataset.n_users, dataset.n_items
        >>> backbone = LightGCN(*sizes, layers=2, loss="softmax", loss_temperature=0.07)
        >>> train(backbone, Distilled(lists, backbone, weight=2.3, temperature=0.07), dataset)

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, for the idea; targets of a fixed
    perplexity as in t-SNE (van der Maaten and Hinton, 2008).
    """

    label: ClassVar[str] = "Distilled"
    Config = DistilledConfig
    needs_dataset = True
    config: DistilledConfig
    list_items: Tensor
    list_weights: Tensor

    def __init__(
        self,
        lists: TeacherLists,
        backbone: Backbone | int,
        config: ConfigLike = None,
        text_embeddings: TextEmbeddings | None = None,
        **options: Any,
    ) -> None:
        super().__init__(text_embeddings, backbone, config, **options)
        if not isinstance(lists, TeacherLists):
            raise ConfigError(
                f"Distilled: lists is a {type(lists).__name__}, expected TeacherLists: "
                "TeacherLists.of(recommender.scorer(), dataset)"
            )
        self.teacher = lists.teacher
        self.input_digests["teacher"] = lists.digest
        if lists.options:
            self.chosen["teacher_options"] = dict(lists.options)
        self.made_for[f"lists of the teacher {lists.teacher!r}"] = lists.dataset
        self.by_cosine = isinstance(backbone, Backbone) and backbone.ranks_by_cosine
        self.may_share = self.by_cosine or getattr(backbone, "has_softmax_of_products", False)
        if isinstance(backbone, Backbone):
            _check_fit(lists, backbone)
        self.register_buffer("list_items", torch.from_numpy(lists.items), persistent=False)
        self.register_buffer("list_weights", torch.from_numpy(lists.probabilities), persistent=False)
        self.contrastive: Contrastive | None = None
        if self.config.contrastive_weight > 0:
            if text_embeddings is None:
                raise ConfigError(
                    "contrastive_weight needs text vectors: run 'rlmrec encode' first, or leave it at 0"
                )
            self.contrastive = Contrastive(
                text_embeddings, backbone,
                weight=self.config.contrastive_weight,
                temperature=self.config.contrastive_temperature,
                negatives="batch",
            )  # fmt: skip

    @classmethod
    def uses_text(cls, config: Any) -> bool:
        """Return whether the teacher or the contrastive alignment reads text vectors with these options."""
        return bool(config.teacher_text or config.contrastive_weight > 0)

    @classmethod
    def create(
        cls,
        text_embeddings: TextEmbeddings | None,
        backbone: Backbone,
        config: ConfigLike = None,
        dataset: Dataset | None = None,
    ) -> Self:
        """Fit the teacher that the options name and make the alignment.

        Args:
            text_embeddings: the text vectors; None for a teacher without text.
            backbone: the backbone to align.
            config: options.
            dataset: what the teacher is fitted on.

        Raises:
            ConfigError: no dataset, an unknown teacher, or a wrong option.
        """
        if dataset is None:
            raise ConfigError("Distilled.create needs the dataset, to fit the teacher: pass dataset=")
        chosen = as_config(DistilledConfig, config, {})
        texts = text_embeddings if chosen.teacher_text else None
        options = json.dumps(chosen.teacher_options, sort_keys=True)
        lists = fitted_lists(chosen.teacher, dataset, texts, chosen.length, chosen.spread, options)
        return cls(lists, backbone, chosen, text_embeddings if chosen.contrastive_weight > 0 else None)

    def targets(self, batch: Batch) -> ListTargets | None:
        """Return the teacher's lists for a backbone whose own softmax may have the same logits."""
        if not self.may_share or has_static_shapes(
            batch.users
        ):  # one pass would compare two factors on the host
            return None
        found = distinct(batch.users)
        items, probabilities, shares = self._lists(found.rows, self._taught(found))
        return ListTargets(
            items, probabilities, self.config.weight * shares, self.temperature, self.by_cosine
        )

    @property
    def temperature(self) -> float:
        """τ of the student's scores: inner products are taken as they are."""
        return self.config.temperature if self.by_cosine else 1.0

    def _taught(self, found: Distinct) -> Tensor:
        """Return the weights of a batch's users in a sum over those who are taught, (n,)."""
        taught = found.places % self.config.every == 0
        return taught if found.shares is None else taught * found.shares

    def _lists(self, rows: Tensor, taught: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the lists of these users, their probabilities, and the users' shares of the mean."""
        probabilities = self.list_weights[rows]
        present = probabilities.sum(1)  # 1 for a user with a list, 0 without
        if taught is not None:
            present = present * taught
        return self.list_items[rows].long(), probabilities, present / present.sum().clamp(min=1)

    def loss(
        self, users: Tensor, items: Tensor, batch: Batch, masked: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the cross-entropy between the teacher's lists and the student's scores, weighted."""
        targets = batch.targets if isinstance(batch, TaughtBatch) else None
        term = targets.term if targets is not None else None
        if term is None:
            # Which users these are changes from batch to batch, as a user's place among the distinct ones does.
            found, taught = distinct(batch.users), None
            rows = found.rows
            if has_static_shapes(rows):
                taught = self._taught(found)
            else:
                rows = rows[:: self.config.every]
            anchors, every = F.embedding(rows, users), items
            if self.by_cosine:
                anchors, every = F.normalize(anchors, dim=1), F.normalize(items, dim=1)
            listed, probabilities, shares = self._lists(rows, taught)
            shares = self.config.weight * shares
            term = listwise_cross_entropy(anchors, every, shares, self.temperature, listed, probabilities)
        terms = {"distilled": term}
        if self.contrastive is not None:
            terms |= self.contrastive.loss(users, items, batch, masked)
        return terms


def _check_fit(lists: TeacherLists, backbone: Backbone) -> None:
    """Check that a teacher's lists are for the users and items of a backbone.

    Raises:
        ConfigError: they are for others.
    """
    if len(lists.items) != backbone.n_users:
        raise ConfigError(
            f"the teacher {lists.teacher!r} lists items for {len(lists.items)} users, the backbone has "
            f"{backbone.n_users}: use a teacher of the same dataset"
        )
    wrong = (lists.items < 0) | (lists.items >= backbone.n_items)
    if wrong.any():
        raise ConfigError(
            f"the teacher {lists.teacher!r} lists {int(wrong.sum())} rows of items that the backbone does not have, "
            f"such as {int(lists.items[wrong][0])}; it has {backbone.n_items}: use a teacher of the same dataset"
        )
