"""Closed-form recommenders: computed from the interactions in seconds, without gradients, exact to fold in.

Example:
    >>> from rlmrec.closed_form import RECOMMENDERS, load_state
    >>> sorted(RECOMMENDERS)
    ['ease', 'graph-filter', 'ials', 'itemknn', 'popularity']
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlmrec.errors import WorkspaceError
from rlmrec.registry import Registry

if TYPE_CHECKING:
    import numpy.typing as npt

    from rlmrec.closed_form.base import (
        ClosedForm,
        ClosedFormModel,
        Explanation,
        FoldIn,
        Texts,
        TextVectors,
        UserParts,
    )
    from rlmrec.closed_form.ease import EASE
    from rlmrec.closed_form.graph_filter import GraphFilter
    from rlmrec.closed_form.ials import IALS
    from rlmrec.closed_form.itemknn import ItemKNN
    from rlmrec.closed_form.popularity import Popularity

# A new recommender is one line here.
RECOMMENDERS: Registry[ClosedForm] = Registry(
    "closed form",
    "rlmrec.closed_form.base:ClosedForm",
    {
        "graph-filter": "rlmrec.closed_form.graph_filter:GraphFilter",
        "popularity": "rlmrec.closed_form.popularity:Popularity",
        "itemknn": "rlmrec.closed_form.itemknn:ItemKNN",
        "ease": "rlmrec.closed_form.ease:EASE",
        "ials": "rlmrec.closed_form.ials:IALS",
    },
)
# The rules by which users are folded in, as a stored recommender names them.
RULES: Registry[FoldIn] = Registry(
    "fold-in rule",
    "rlmrec.closed_form.base:FoldIn",
    {
        "graph": "rlmrec.closed_form.graph_rule:GraphRule",
        "history": "rlmrec.closed_form.linear:HistoryRule",
        "constant": "rlmrec.closed_form.popularity:ConstantRule",
        "least-squares": "rlmrec.closed_form.ials:LeastSquaresRule",
    },
)
_OF_BASE = ("ClosedFormModel", "Explanation", "TextVectors", "Texts", "UserParts")

__all__ = [
    "EASE",
    "IALS",
    "RECOMMENDERS",
    "RULES",
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


def __getattr__(name: str) -> Any:
    if name in _OF_BASE:
        return getattr(import_module("rlmrec.closed_form.base"), name)
    return RULES.exported(name) if name == "FoldIn" else RECOMMENDERS.exported(name)


def load_state(
    arrays: Mapping[str, npt.NDArray[Any]], record: dict[str, Any], kind: type[ClosedForm] | None = None
) -> ClosedFormModel:
    """Restore a model from what ``ClosedFormModel.state`` returned and its record.

    Args:
        arrays: what ``state`` returned.
        record: of the model.
        kind: your own class that it was fitted by; None for the built-in one that the record names.

    Raises:
        WorkspaceError: the record names no recommender of this version.
    """
    from rlmrec.closed_form.base import ClosedFormModel, nested, sparse_from_state

    kind = kind or RECOMMENDERS.get(record.get("recommender", ""))
    if kind is None:
        raise WorkspaceError(
            f"the run was made by {record.get('recommender')!r}: expected one of {', '.join(RECOMMENDERS)}; "
            "of your own class, pass kind"
        )
    history, neighbours, direct = (
        sparse_from_state(name, arrays) for name in ("history", "neighbours", "direct")
    )
    shared = {name: array for name, array in arrays.items() if name.startswith("neighbours.")}
    rule = kind.rule(nested("rule", arrays) | shared)
    return ClosedFormModel(arrays["users"], arrays["items"], rule, history, neighbours, direct, record)
