"""The alignments, by name."""

from __future__ import annotations

from rlmrec.alignment.base import Alignment
from rlmrec.alignment.contrastive import Contrastive
from rlmrec.alignment.generative import Generative

ALIGNMENTS: dict[str, type[Alignment]] = {
    "none": Alignment,
    "contrastive": Contrastive,
    "generative": Generative,
}

__all__ = ["ALIGNMENTS", "Alignment", "Contrastive", "Generative"]
