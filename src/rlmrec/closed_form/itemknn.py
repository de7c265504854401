"""itemknn: the two-hop filter, items by the items that the same users chose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from rlmrec.closed_form.base import (
    ClosedForm,
    ClosedFormModel,
    ExponentsConfig,
    FoldIn,
    State,
    TextVectors,
    check_texts,
    notes_without_validation,
)
from rlmrec.closed_form.linear import HistoryRule, climb, item_item_model, scaled_interactions
from rlmrec.closed_form.neighbours import largest, largest_products, times_products
from rlmrec.closed_form.search import Quality, Validation
from rlmrec.config import Config, as_config
from rlmrec.data.dataset import Dataset
from rlmrec.types import Float32Array

DEFAULT = 0.3, 0.3
STEP = 0.1
COUNTS = 50, 200, 1000


class ItemKNNConfig(ExponentsConfig):
    """Options of the two-hop filter; None lets validation choose."""

    neighbours: int | None = Field(None, ge=1, description="M, the items that each item has as neighbours")


class ItemKNN(ClosedForm):
    """Score items by co-occurrence with the history: score(u, ·) = R̃_u G, G the M largest of each column of R̃ᵀR̃.

    R̃ = D_u^−a R D_i^−b. With a = b = ½ and all of R̃ᵀR̃ it is the two-hop propagation of LightGCN without training.

    Source: Sarwar et al., WWW 2001 (item neighbours); Wang et al., WWW 2019 and He et al., SIGIR 2020 (the graph).
    """

    NAME: ClassVar[str] = "itemknn"
    label: ClassVar[str] = "ItemKNN"
    Config: ClassVar[type[Config]] = ItemKNNConfig

    @classmethod
    def fit(
        cls, dataset: Dataset, texts: TextVectors | None = None, config: Any = None, seed: int = 0
    ) -> ClosedFormModel:
        """Fit to the training split; see ``ClosedForm.fit``."""
        check_texts(texts, dataset, are_used=False)  # unused here, but a mistake all the same
        options: ItemKNNConfig = as_config(ItemKNNConfig, config, {})
        validation = Validation(dataset, seed) if len(dataset.valid) else None
        notes = [] if validation else notes_without_validation(options)
        a, b = _exponents(dataset, options, validation)
        scaled = scaled_interactions(dataset, a, b)
        count = options.neighbours
        whole = largest_products(scaled, max(COUNTS) if count is None else count)
        if count is None:
            count = COUNTS[-1] if validation is None else _best_count(scaled, whole, validation)
        item_weights = np.maximum(dataset.train.item_degrees(), 1.0) ** -b
        chosen = {"user_exponent": a, "item_exponent": b, "neighbours": count}
        return item_item_model(
            dataset,
            item_weights.astype(np.float32),
            sp.csr_array(largest(whole, count).T),  # R̃ᵀR̃ is symmetric: its rows are cut, and become columns
            {
                "recommender": cls.NAME,
                "chosen": chosen,
                "notes": notes,
                "tries": validation.tried if validation else 0,
            },
        )

    @classmethod
    def rule(cls, state: State) -> FoldIn:
        """The fold-in rule of a fitted model, from its arrays."""
        return HistoryRule.from_state(state)


def _exponents(
    dataset: Dataset, options: ItemKNNConfig, validation: Validation | None
) -> tuple[float, float]:
    given = options.user_exponent, options.item_exponent
    start = [default if value is None else value for value, default in zip(given, DEFAULT, strict=True)]
    free = [axis for axis in (1, 0) if given[axis] is None]
    if validation is None or not free:
        return start[0], start[1]

    def quality(point: tuple[float, ...]) -> Quality:
        scaled = scaled_interactions(dataset, point[0], point[1])
        transposed, rows = sp.csr_array(scaled.T), scaled[validation.users]
        return validation.quality(lambda block: times_products(rows[block], scaled, transposed))

    a, b = climb(start, free, STEP, quality)
    return a, b


def _best_count(scaled: sp.csr_array, whole: sp.csr_array, validation: Validation) -> int:
    rows = scaled[validation.users]
    graphs = [sp.csr_array(largest(whole, count).T) for count in COUNTS]

    def scores(block: slice) -> Iterator[Float32Array]:
        for graph in graphs:
            yield (rows[block] @ graph).toarray()

    results = validation.qualities(scores)
    return COUNTS[int(np.argmax([quality.mean for quality in results]))]
