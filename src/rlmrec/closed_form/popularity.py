"""popularity: every user gets the most frequent items, the baseline that any recommender has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp

from rlmrec.closed_form.base import (
    ClosedForm,
    ClosedFormModel,
    FoldIn,
    State,
    TextVectors,
    UserParts,
    check_texts,
    constant_vectors,
)
from rlmrec.config import Config, as_config
from rlmrec.data.dataset import Dataset
from rlmrec.types import Float32Array, IntArray


class PopularityConfig(Config):
    """Popularity has no options."""


@dataclass(frozen=True, eq=False)
class ConstantRule(FoldIn):
    """Every user has the same vector.

    Args:
        vector: float32[d].
    """

    vector: Float32Array

    def parts(
        self, histories: sp.csr_array, texts: Float32Array | None = None, own: IntArray | None = None
    ) -> UserParts:
        """The same parts for each of B users."""
        del texts, own
        return UserParts(constant_vectors(self.vector, histories.shape[0]))

    def split(self, items: IntArray, weights: Float32Array, text: Float32Array | None) -> Float32Array:
        """Zeros: no history item has a share, all of the score is constant."""
        del weights, text
        return np.zeros((len(items) + 1, len(self.vector)), np.float32)

    def state(self) -> State:
        """The arrays that ``from_state`` restores."""
        return {"vector": self.vector}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Restore what ``state`` returned."""
        return cls(state["vector"])


class Popularity(ClosedForm):
    """Rank items by their number of training interactions: score(u, i) = d_i / U."""

    NAME: ClassVar[str] = "popularity"
    label: ClassVar[str] = "popularity"
    Config: ClassVar[type[Config]] = PopularityConfig

    @classmethod
    def fit(
        cls, dataset: Dataset, texts: TextVectors | None = None, config: Any = None, seed: int = 0
    ) -> ClosedFormModel:
        """Count the training interactions; see ``ClosedForm.fit``."""
        del seed
        check_texts(texts, dataset, are_used=False)  # unused here, but a mistake all the same
        as_config(PopularityConfig, config, {})
        items = (dataset.train.item_degrees() / dataset.n_users).astype(np.float32)[:, None]
        rule = ConstantRule(np.ones(1, np.float32))
        users = constant_vectors(rule.vector, dataset.n_users)
        return ClosedFormModel(
            users,
            items,
            rule,
            record={"recommender": cls.NAME, "chosen": {}, "notes": []},
            fingerprint=dataset.fingerprint,
            is_final=dataset.is_final,
        )

    @classmethod
    def rule(cls, state: State) -> FoldIn:
        """The fold-in rule of a fitted model, from its arrays."""
        return ConstantRule.from_state(state)
