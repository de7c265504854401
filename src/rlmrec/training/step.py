"""One training step: Algorithms 1 and 2 of the paper, for every backbone and every alignment."""

from __future__ import annotations

import torch
from torch import Tensor

from rlmrec.alignment.base import Alignment
from rlmrec.backbones.base import Backbone
from rlmrec.batch import Batch, TaughtBatch
from rlmrec.graph import Graph
from rlmrec.losses import squared_norm


def step(
    backbone: Backbone, alignment: Alignment, graph: Graph, batch: Batch, l2: float, rng: torch.Generator
) -> dict[str, Tensor]:
    """Compute the loss terms of one batch, whose sum is minimised: L_R + L_info (Eq. 18) + λ·||Θ||².

    Args:
        backbone: R.
        alignment: L_info; ``Alignment()`` for none.
        graph: of the training interactions.
        batch: B triples.
        l2: λ, the weight of the squared norm of all trainable parameters of both modules.
        rng: random generator on the device of the modules.

    Returns:
        each term by its name: those of the backbone, those of the alignment, and "l2".
    """
    # Emptied here, so that backbone and alignment cannot disagree about whether negatives count.
    if not backbone.uses_negatives:
        batch = batch._replace(negatives=batch.negatives[:0])
    targets = alignment.targets(batch)
    if targets is not None:
        batch = TaughtBatch(batch, targets)
    x, masked = alignment.corrupt(backbone.initial(), rng)
    out = backbone.objective(x, graph, batch, rng)
    parameters = [*backbone.parameters(), *alignment.parameters()]
    norm = squared_norm(parameters) if backbone.columns is None else backbone.columns.squared_norm(parameters)
    return {
        **out.terms,
        **alignment.terms(out.users, out.items, batch, masked),
        "l2": l2 * norm,
    }
