"""Closed-form recommenders: computed from the interactions in seconds, without gradients, exact to fold in.

Example:
    >>> from rlmrec.closed_form import RECOMMENDERS, load_state
    >>> sorted(RECOMMENDERS)
    ['ease', 'graph-filter', 'ials', 'itemknn', 'popularity']
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlmrec.closed_form.base import (
    ClosedForm,
    ClosedFormModel,
    Explanation,
    FoldIn,
    Texts,
    TextVectors,
    UserParts,
    nested,
    sparse_from_state,
)
from rlmrec.closed_form.ease import EASE
from rlmrec.closed_form.graph_filter import GraphFilter
from rlmrec.closed_form.ials import IALS
from rlmrec.closed_form.itemknn import ItemKNN
from rlmrec.closed_form.popularity import Popularity
from rlmrec.errors import WorkspaceError
from rlmrec.types import AnyArray

RECOMMENDERS: dict[str, type[ClosedForm]] = {
    kind.NAME: kind for kind in (GraphFilter, Popularity, ItemKNN, EASE, IALS)
}

__all__ = [
    "EASE",
    "IALS",
    "RECOMMENDERS",
    "ClosedForm",
    "ClosedFormModel",
    "Explanation",
    "FoldIn",
    "GraphFilter",
    "ItemKNN",
    "Popularity",
    "TextVectors",
    "Texts",
    "UserParts",
    "load_state",
]


def load_state(arrays: Mapping[str, AnyArray], record: dict[str, Any]) -> ClosedFormModel:
    """Restore a model from what ``ClosedFormModel.state`` returned and its record.

    Raises:
        WorkspaceError: the record names no recommender of this version.
    """
    kind = RECOMMENDERS.get(record.get("recommender", ""))
    if kind is None:
        raise WorkspaceError(
            f"the run was made by {record.get('recommender')!r}: expected one of {', '.join(RECOMMENDERS)}"
        )
    matrices = {name: sparse_from_state(name, arrays) for name in ("history", "neighbours", "direct")}
    shared = {name: array for name, array in arrays.items() if name.startswith("neighbours.")}
    rule = kind.rule(nested("rule", arrays) | shared)
    return ClosedFormModel(arrays["users"], arrays["items"], rule, record=record, **matrices)
