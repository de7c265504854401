"""The alignments, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlmrec.registry import Registry

if TYPE_CHECKING:
    from rlmrec.alignment.base import Alignment
    from rlmrec.alignment.contrastive import Contrastive
    from rlmrec.alignment.generative import Generative

ALIGNMENTS: Registry[Alignment] = Registry(
    "alignment",
    "rlmrec.alignment.base:Alignment",
    {
        "none": "rlmrec.alignment.base:Alignment",
        "contrastive": "rlmrec.alignment.contrastive:Contrastive",
        "generative": "rlmrec.alignment.generative:Generative",
    },
)

__all__ = ["ALIGNMENTS", "Alignment", "Contrastive", "Generative"]


def __getattr__(name: str) -> Any:
    return ALIGNMENTS.exported(name)
