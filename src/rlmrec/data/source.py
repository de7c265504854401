"""Source: what every reader returns, and the input of ``Dataset.from_source``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.findings import Finding
from rlmrec.types import Float32Array

if TYPE_CHECKING:
    from rlmrec.data.dataset import Dataset


@dataclass(frozen=True, eq=False)
class Source:
    """Interactions with raw ids and texts, before any filter.

    Args:
        name: name of the dataset that is made of it.
        interactions: all interactions, or a ready-made split: training, validation and test.
        users: U raw user ids.
        items: I raw item ids.
        item_texts: I rows of text columns, or None.
        user_texts: U rows of text columns, or None.
        vectors: text vectors that the source brings along, float32[U, d_s] and float32[I, d_s], or None. Only
            for a ready-made split, since filters would renumber the rows.
        findings: what the reader found in the data.
        provenance: where the data came from; JSON.
        finish: called with the filtered and split dataset; returns it with what is read only then. A source
            whose texts do not fit into memory reads those of the remaining interactions here.
        light: pairs beside these, of the same users and items, that have too little weight to count: known, but
            nothing that a user wants. None without any.
        n_light: number of interactions that were left out by their weight, those of other users and items among them.
    """

    name: str
    interactions: Interactions | tuple[Interactions, Interactions, Interactions]
    users: Vocabulary
    items: Vocabulary
    item_texts: pl.DataFrame | None = None
    user_texts: pl.DataFrame | None = None
    vectors: tuple[Float32Array, Float32Array] | None = None
    findings: Sequence[Finding] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    finish: Callable[[Dataset], Dataset] | None = None
    light: Interactions | None = None
    n_light: int = 0

    @property
    def is_split(self) -> bool:
        """Whether training, validation and test are separate already."""
        return isinstance(self.interactions, tuple)
