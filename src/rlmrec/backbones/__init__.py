"""The recommenders that can be aligned with text, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlmrec.registry import Registry

if TYPE_CHECKING:
    from rlmrec.backbones.base import Backbone
    from rlmrec.backbones.lightgcn import LightGCN

# A new backbone is one line here.
BACKBONES: Registry[Backbone] = Registry(
    "backbone",
    "rlmrec.backbones.base:Backbone",
    {
        "lightgcn": "rlmrec.backbones.lightgcn:LightGCN",
        "gccf": "rlmrec.backbones.gccf:GCCF",
        "sgl": "rlmrec.backbones.sgl:SGL",
        "simgcl": "rlmrec.backbones.simgcl:SimGCL",
        "dccf": "rlmrec.backbones.dccf:DCCF",
        "autocf": "rlmrec.backbones.autocf:AutoCF",
        "ngcf": "rlmrec.backbones.ngcf:NGCF",
        "mf": "rlmrec.backbones.mf:MF",
        "kar-lightgcn": "rlmrec.backbones.kar:KARLightGCN",
        "kar-sgl": "rlmrec.backbones.kar:KARSGL",
    },
)

__all__ = ["BACKBONES", "Backbone", "LightGCN"]


if not TYPE_CHECKING:  # a type checker would take every name for one of the package
    __getattr__ = BACKBONES.exported
