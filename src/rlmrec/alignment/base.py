"""Alignment: L_info, the loss that ties embeddings to text vectors. Subclass it for your own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from rlmrec.backbones.base import Backbone
from rlmrec.batch import Batch, ListTargets
from rlmrec.config import Config, NoOptions, as_config
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError
from rlmrec.registry import Labelled, construct
from rlmrec.text.embeddings import TextEmbeddings

ConfigLike = Config | Mapping[str, Any] | None


class Alignment(Labelled, nn.Module):
    """The base class of alignments; by itself no alignment, which leaves the backbone as it is.

    A subclass implements ``loss``; one that masks or perturbs the initial embeddings overrides ``corrupt`` too.

    Args:
        text_embeddings: the text vectors s; None where ``needs_text`` is False.
        backbone: the backbone to align, or the size d' of its final embeddings.
        config: options, an instance of the class's ``Config`` or a mapping.
        options: options by keyword; they override those of ``config``.

    Attributes:
        label: short name for tables and figures; the name of the class by default.
        Config: class of the options; a subclass that has options defines its own.
        needs_text: whether the constructor needs text vectors.
        needs_dataset: whether ``create`` takes the dataset, after its config.
        column_parameters: names of parameters as wide as the initial embeddings, which are split as these are where
            several processes train together.
        config: the options.
        input_digests: hash of the text vectors, and of whatever else the loss reads, by name.
        made_for: fingerprint of the dataset that each of these was made for, by name.
        chosen: options that it left open and chose by validation; the record of a run keeps them for ``--final``.
        output_size: d'; absent where no backbone was given.

    Raises:
        ConfigError: a wrong option; no text vectors where they are needed; text vectors for other users and
            items than the backbone has.
    """

    label: ClassVar[str] = "Base"
    Config: type[Config] = NoOptions
    needs_text: ClassVar[bool] = False
    needs_dataset: ClassVar[bool] = False
    column_parameters: ClassVar[tuple[str, ...]] = ()
    output_size: int

    def __init__(
        self,
        text_embeddings: TextEmbeddings | None = None,
        backbone: Backbone | int | None = None,
        config: ConfigLike = None,
        **options: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if isinstance(backbone, bool) or not isinstance(backbone, Backbone | int | None):
            raise ConfigError(
                f"{name}: backbone is a {type(backbone).__name__}, expected a Backbone or its output_size"
            )
        if text_embeddings is None and self.needs_text:
            raise ConfigError(f"{name} needs text vectors: pass TextEmbeddings as the first argument")
        if text_embeddings is not None and not isinstance(text_embeddings, TextEmbeddings):
            raise ConfigError(
                f"{name}: text_embeddings is a {type(text_embeddings).__name__}, expected TextEmbeddings"
            )
        if text_embeddings is not None and backbone is None:
            raise ConfigError(f"{name} needs the backbone, or its output_size, as the second argument")
        self.config = as_config(self.Config, config, options)
        self.input_digests: dict[str, str] = {}
        self.chosen: dict[str, Any] = {}
        self.made_for: dict[str, str | None] = {}
        self.n_users: int | None = None
        self.n_items: int | None = None
        if text_embeddings is not None:
            self.input_digests["texts"] = text_embeddings.digest
            self.made_for["text embeddings"] = text_embeddings.manifest.get("dataset")
            self.n_users, self.n_items = len(text_embeddings.users), len(text_embeddings.items)
        if isinstance(backbone, Backbone):
            self.check_rows(backbone.n_users, backbone.n_items, "the backbone")
            self.output_size = backbone.output_size
        elif backbone is not None:
            self.output_size = backbone

    @classmethod
    def uses_text(cls, config: Any) -> bool:
        """Return whether the loss depends on text vectors, if there are any, with these options."""
        del config
        return cls.needs_text

    @classmethod
    def create(
        cls,
        text_embeddings: TextEmbeddings | None,
        backbone: Backbone,
        config: ConfigLike = None,
        dataset: Dataset | None = None,
    ) -> Self:
        """Make the alignment for a backbone. Override it where your constructor takes other arguments.

        Args:
            text_embeddings: the text vectors; None where there are none.
            backbone: the backbone to align.
            config: options.
            dataset: the dataset, which only a class with ``needs_dataset`` receives.

        Raises:
            ConfigError: as the constructor, or the constructor takes other arguments.
        """
        del dataset
        return construct(cls, text_embeddings, backbone, config)

    def check_rows(self, n_users: int, n_items: int, where: str) -> None:
        """Check that the text vectors are for these numbers of users and items.

        Raises:
            ConfigError: they are for others.
        """
        if self.n_users is not None and (self.n_users, self.n_items) != (n_users, n_items):
            raise ConfigError(
                f"{type(self).__name__} has text vectors for {self.n_users} users and {self.n_items} items, "
                f"{where} has {n_users} and {n_items}: use text vectors of the same dataset"
            )

    def corrupt(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Change the initial embeddings before the backbone encodes them; by default nothing changes.

        Args:
            x: initial embeddings, (N, d).
            rng: source of any randomness, on the device of x.

        Returns:
            the embeddings to encode, (N, d), and rows that were drawn, int64[M], or None: those that were masked, or
            others that ``loss`` needs. It is called once a step, before ``loss``, which has no random numbers.
        """
        del rng
        return x, None

    def targets(self, batch: Batch) -> ListTargets | None:
        """Return lists for the batch's users that the backbone's softmax may learn in the same pass; by default none.

        Args:
            batch: B triples.
        """
        del batch
        return None

    def loss(self, users: Tensor, items: Tensor, batch: Batch, masked: Tensor | None) -> dict[str, Tensor]:
        """Compute L_info on one batch; by default there is none.

        Args:
            users: final embeddings, (U, d').
            items: final embeddings, (I, d').
            batch: B triples.
            masked: the rows that ``corrupt`` returned.

        Returns:
            terms by name, scalars, already weighted; their sum is L_info.
        """
        del users, items, batch, masked
        return {}

    def terms(self, users: Tensor, items: Tensor, batch: Batch, masked: Tensor | None) -> dict[str, Tensor]:
        """Compute ``loss``, and check that it returns terms by name.

        Raises:
            ConfigError: it returns something else, or a term is no scalar.
        """
        found: Any = self.loss(users, items, batch, masked)
        loss = f"{type(self).__name__}.loss"
        if not isinstance(found, Mapping):
            raise ConfigError(
                f"{loss} returned a {type(found).__name__}: expected a dict of terms by name, such as "
                '{"mine": loss} with a scalar tensor'
            )
        for name, term in found.items():
            if not isinstance(term, Tensor) or term.ndim:
                got = (
                    f"tensor of shape {tuple(term.shape)}"
                    if isinstance(term, Tensor)
                    else type(term).__name__
                )
                raise ConfigError(f"the term {name!r} of {loss} is a {got}: expected a scalar tensor")
        return dict(found)

    def extra_repr(self) -> str:
        """Return the number of users and items and the options, for ``repr``."""
        rows = [f"{self.n_users} users, {self.n_items} items"] * (self.n_users is not None)
        return ", ".join([*rows, *(f"{name}={value!r}" for name, value in self.config)])
