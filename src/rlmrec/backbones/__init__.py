"""The recommenders that can be aligned with text, by name."""

from __future__ import annotations

from rlmrec.backbones.autocf import AutoCF
from rlmrec.backbones.base import Backbone
from rlmrec.backbones.dccf import DCCF
from rlmrec.backbones.gccf import GCCF
from rlmrec.backbones.kar import KAR, KARSGL, KARLightGCN
from rlmrec.backbones.lightgcn import LightGCN
from rlmrec.backbones.mf import MF
from rlmrec.backbones.ngcf import NGCF
from rlmrec.backbones.sgl import SGL
from rlmrec.backbones.simgcl import SimGCL
from rlmrec.backbones.wrap import wrap

BACKBONES: dict[str, type[Backbone]] = {
    "lightgcn": LightGCN,
    "gccf": GCCF,
    "sgl": SGL,
    "simgcl": SimGCL,
    "dccf": DCCF,
    "autocf": AutoCF,
    "ngcf": NGCF,
    "mf": MF,
    "kar-lightgcn": KARLightGCN,
    "kar-sgl": KARSGL,
}

__all__ = [
    "BACKBONES",
    "DCCF",
    "GCCF",
    "KAR",
    "KARSGL",
    "MF",
    "NGCF",
    "SGL",
    "AutoCF",
    "Backbone",
    "KARLightGCN",
    "LightGCN",
    "SimGCL",
    "wrap",
]
