"""Every recommender that ``--backbone`` can name: those that are trained, and those computed in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from rlmrec.backbones import BACKBONES
from rlmrec.closed_form import RECOMMENDERS
from rlmrec.registry import Registry, is_path

if TYPE_CHECKING:
    from rlmrec.backbones import Backbone
    from rlmrec.closed_form import ClosedForm

MODELS: Registry[Backbone | ClosedForm] = Registry(
    "backbone",
    # The base of the closed forms first: to import the other one takes PyTorch.
    ("rlmrec.closed_form.base:ClosedForm", "rlmrec.backbones.base:Backbone"),
    {**BACKBONES.paths, **RECOMMENDERS.paths},
)
DEFAULT = "graph-filter"
DEFAULT_TRAINED = "lightgcn"
BASELINES = ("popularity", "graph-filter")


def is_closed_form(kind: type[Backbone | ClosedForm]) -> TypeGuard[type[ClosedForm]]:
    """Return whether a class of ``MODELS`` is computed instead of trained."""
    from rlmrec.closed_form.base import ClosedForm

    return issubclass(kind, ClosedForm)


def names_closed_form(name: str) -> bool:
    """Return whether a name of ``MODELS``, or the path of a class, names a closed form; imports a user's class."""
    return name in RECOMMENDERS or (is_path(name) and is_closed_form(MODELS.resolve(name)))


def default_backbone(alignment: str) -> str:
    """Return the recommender that is meant where none is named: an alignment needs a trained one."""
    return DEFAULT if alignment == "none" else DEFAULT_TRAINED
