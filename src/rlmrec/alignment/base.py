"""Alignment: L_info, what ties the embeddings to the text vectors. This file holds the null one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rlmrec.batch import Batch


class Alignment(nn.Module):
    """No alignment: the backbone alone ("base" in the paper's tables), and the base class of the others."""

    def corrupt(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Change the initial embeddings before the backbone sees them.

        Args:
            x: (N, d).
            rng: on the device of x.

        Returns:
            what the backbone shall encode, (N, d), and the rows that were masked, int64[M] or None.
        """
        del rng
        return x, None

    def loss(self, users: Tensor, items: Tensor, batch: Batch, masked: Tensor | None) -> dict[str, Tensor]:
        """L_info by name, already weighted.

        Args:
            users: final embeddings, (U, d').
            items: final embeddings, (I, d').
            batch: B triples.
            masked: what ``corrupt`` returned.
        """
        del users, items, batch, masked
        return {}
