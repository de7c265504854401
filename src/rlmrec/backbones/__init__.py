"""The recommenders that can be aligned with text, by name."""

from __future__ import annotations

from rlmrec.backbones.base import Backbone
from rlmrec.backbones.lightgcn import LightGCN

BACKBONES: dict[str, type[Backbone]] = {"lightgcn": LightGCN}

__all__ = ["BACKBONES", "Backbone", "LightGCN"]
