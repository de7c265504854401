"""Alignments: the losses that tie embeddings to text, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlmrec.registry import Registry, short_name

if TYPE_CHECKING:
    from rlmrec.alignment.base import Alignment
    from rlmrec.alignment.contrastive import Contrastive
    from rlmrec.alignment.distilled import Distilled
    from rlmrec.alignment.generative import Generative

# A new alignment is one line here.
ALIGNMENTS: Registry[Alignment] = Registry(
    "alignment",
    "rlmrec.alignment.base:Alignment",
    {
        "none": "rlmrec.alignment.base:Alignment",
        "contrastive": "rlmrec.alignment.contrastive:Contrastive",
        "generative": "rlmrec.alignment.generative:Generative",
        "distilled": "rlmrec.alignment.distilled:Distilled",
    },
)

__all__ = ["ALIGNMENTS", "Alignment", "Contrastive", "Distilled", "Generative", "alignment_label"]


if not TYPE_CHECKING:  # a type checker would take every name for one of the package
    __getattr__ = ALIGNMENTS.exported


def alignment_label(name: str) -> str:
    """Return the label of the alignment called ``name`` in tables: "Base", "Con", "Gen", a class's own label.

    Nothing of the user's is imported for it: of a path whose class was not imported before, it is the name of the
    class; of a name from an earlier version, the name itself.
    """
    found = ALIGNMENTS.known(name)
    return short_name(name) if found is None else found.label
