"""The recommenders that can be aligned with text, by name."""

from __future__ import annotations

from rlmrec.backbones.autocf import AutoCF
from rlmrec.backbones.base import Backbone
from rlmrec.backbones.dccf import DCCF
from rlmrec.backbones.gccf import GCCF
from rlmrec.backbones.lightgcn import LightGCN
from rlmrec.backbones.mf import MF
from rlmrec.backbones.ngcf import NGCF
from rlmrec.backbones.sgl import SGL
from rlmrec.backbones.simgcl import SimGCL
from rlmrec.backbones.wrap import wrap

BACKBONES: dict[str, type[Backbone]] = {
    "gccf": GCCF,
    "lightgcn": LightGCN,
    "sgl": SGL,
    "simgcl": SimGCL,
    "dccf": DCCF,
    "autocf": AutoCF,
    "ngcf": NGCF,
    "mf": MF,
}

__all__ = [
    "BACKBONES",
    "DCCF",
    "GCCF",
    "MF",
    "NGCF",
    "SGL",
    "AutoCF",
    "Backbone",
    "LightGCN",
    "SimGCL",
    "wrap",
]
