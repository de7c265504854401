"""What itemknn and ease share: a user is the weighted history, an item its neighbours among the items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import scipy.sparse as sp

from rlmrec.closed_form.base import ClosedFormModel, FoldIn, State, UserParts
from rlmrec.closed_form.graph_rule import scale_rows
from rlmrec.closed_form.search import Quality
from rlmrec.data.dataset import Dataset
from rlmrec.types import Float32Array, IntArray


@dataclass(frozen=True, eq=False)
class HistoryRule(FoldIn):
    """A user's item-item weights: the history, each item times a weight of its own.

    Args:
        item_weights: float32[I].
    """

    item_weights: Float32Array

    def parts(
        self, histories: sp.csr_array, texts: Float32Array | None = None, own: IntArray | None = None
    ) -> UserParts:
        """The weighted histories of B users; their vectors have no dimension."""
        del texts, own
        n_users = histories.shape[0]
        weighted = scale_rows(histories, np.ones(n_users), self.item_weights)
        return UserParts(np.zeros((n_users, 0), np.float32), weighted)

    def split(self, items: IntArray, weights: Float32Array, text: Float32Array | None) -> Float32Array:
        """Vectors of no dimension: the item-item part is all of the score."""
        del weights, text
        return np.zeros((len(items) + 1, 0), np.float32)

    def state(self) -> State:
        """The arrays that ``from_state`` restores."""
        return {"item_weights": self.item_weights}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Restore what ``state`` returned."""
        return cls(state["item_weights"])


def item_item_model(
    dataset: Dataset, item_weights: Float32Array, neighbours: sp.csr_array, record: dict[str, Any]
) -> ClosedFormModel:
    """The model whose score is the weighted history times ``neighbours``.

    Args:
        dataset: that it is fitted to.
        item_weights: float32[I], what each item of a history counts.
        neighbours: sparse I x I, what an item of the history (row) adds to the score of each item (column).
        record: as ``ClosedForm.fit`` says.
    """
    rule = HistoryRule(item_weights)
    parts = rule.parts(dataset.train.csr())
    items = np.zeros((dataset.n_items, 0), np.float32)
    return ClosedFormModel(
        parts.vectors,
        items,
        rule,
        parts.history,
        neighbours,
        record=record,
        fingerprint=dataset.fingerprint,
        is_final=dataset.is_final,
    )


def scaled_interactions(dataset: Dataset, a: float, b: float) -> sp.csr_array:
    """R̃ = D_u^−a R D_i^−b, float32; a user or item without interactions counts as having one."""
    of_users = np.maximum(dataset.train.user_degrees(), 1.0) ** -a
    of_items = np.maximum(dataset.train.item_degrees(), 1.0) ** -b
    return scale_rows(dataset.train.csr(), of_users, of_items.astype(np.float32))


def climb(
    start: Sequence[float],
    free: Sequence[int],
    step: float,
    quality: Callable[[tuple[float, ...]], Quality],
) -> tuple[float, ...]:
    """Walk over a grid of exponents in [0, 1] to a point that none of its neighbours improves on.

    Args:
        start: where to begin.
        free: the axes to move along, the most important first.
        step: of the grid.
        quality: of a point; asked once for each.
    """
    known: dict[tuple[float, ...], float] = {}

    def mean(point: tuple[float, ...]) -> float:
        if point not in known:
            known[point] = quality(point).mean
        return known[point]

    best, moved = tuple(start), True
    while moved:
        moved = False
        for other in _around(best, free, step):
            if mean(other) > mean(best):
                best, moved = other, True
                break
    return best


def _around(point: tuple[float, ...], free: Sequence[int], step: float) -> Iterator[tuple[float, ...]]:
    for axis in free:
        for sign in (1, -1):
            value = round(point[axis] + sign * step, 3)
            if 0 <= value <= 1:
                yield (*point[:axis], value, *point[axis + 1 :])
