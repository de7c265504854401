"""Spectral initial embeddings: training begins at a low-rank filter of the interactions instead of random numbers."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from rlmrec.backbones.base import Backbone
from rlmrec.closed_form.svd import right_singular_vectors
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError
from rlmrec.graph import Graph
from rlmrec.shards import Shards
from rlmrec.types import Float32Array

# a and b of D_u^-a R D_i^-b. With them the filter ranks better than with ½, as in LightGCN's graph: validation
# Recall@20 with d = 32 is .577 and .538 on debian-packages, .105 and .096 on yelp-profiles, .119 and .102 on
# amazon-book, .261 and .238 on MovieLens.
EXPONENT = 0.4
# Singular values below this share of the largest are 0 but for rounding.
RANK_BELOW = 1e-3


def check_tables(backbone: Backbone) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    """Return the parameters ``user_embedding`` and ``item_embedding`` of a backbone.

    Raises:
        ConfigError: it has none, as a wrapped model.
    """
    parameters = dict(backbone.named_parameters())
    users, items = (parameters.get(name) for name in ("user_embedding", "item_embedding"))
    if users is None or items is None:
        raise ConfigError(
            "initial_embeddings=spectral needs a backbone with the parameters user_embedding and item_embedding; "
            f"{type(backbone).__name__} keeps them elsewhere: leave the option out"
        )
    return users, items


@torch.no_grad()
def put_spectral_embeddings(
    backbone: Backbone, dataset: Dataset, graph: Graph, seed: int = 0, shards: Shards | None = None
) -> None:
    """Replace a backbone's initial embeddings so that its final embeddings are near ``spectral_embeddings``.

    ``Backbone.initial_for`` computes the initial embeddings. A subclass with an ``encode`` and no ``initial_for`` of
    its own begins at the wanted final ones. Columns beyond the rank of the interactions stay, and so do users and items
    without training interactions.

    Args:
        backbone: its tables are changed in place.
        dataset: its training split is decomposed.
        graph: of the training interactions, with the dtype and on the device of the backbone.
        seed: of the decomposition.
        shards: processes that compute it together and get equal tables; None for one process.

    Raises:
        ConfigError: the backbone has no such tables, or its ``initial_for`` returns another shape.
    """
    tables = check_tables(backbone)
    final = torch.from_numpy(np.concatenate(spectral_embeddings(dataset, tables[0].shape[1], seed, shards)))
    final = final.to(tables[0])
    initial = backbone.initial_for(final, graph) if backbone.matches_encode("initial_for") else final
    if initial.shape != final.shape:
        raise ConfigError(
            f"initial_for of {type(backbone).__name__} returned {tuple(initial.shape)}, expected {tuple(final.shape)}: "
            "one row for each user and item, as many columns as it was given"
        )
    found = torch.split(initial, [len(table) for table in tables])
    degrees = dataset.train.user_degrees(), dataset.train.item_degrees()
    for table, values, degree in zip(tables, found, degrees, strict=True):
        rows = torch.from_numpy(np.flatnonzero(degree)).to(table.device)
        table[rows, : values.shape[1]] = values[rows]


def spectral_embeddings(
    dataset: Dataset, size: int, seed: int = 0, shards: Shards | None = None
) -> tuple[Float32Array, Float32Array]:
    """Compute embeddings of users and items from the interactions alone: those of an untrained low-rank filter.

    With the singular vectors U, Q and values Σ of R̃ = D_u^-a R D_i^-b, a = b = .4, users get c U Σ^½ and items
    c Q Σ^½, so that the scores are c² R̃ Q Qᵀ. c makes the mean score of the training interactions 1.

    Args:
        dataset: its training split is decomposed.
        size: d, columns wanted; fewer are returned where the rank of the interactions is lower.
        seed: of the decomposition.
        shards: processes that compute it together.

    Returns:
        float32[U, r] and float32[I, r].
    """
    interactions = dataset.train.csr().astype(np.float32)
    user_scale, item_scale = (
        (np.maximum(degrees, 1.0) ** -EXPONENT).astype(np.float32)
        for degrees in (dataset.train.user_degrees(), dataset.train.item_degrees())
    )
    scaled = sp.csr_array(sp.diags_array(user_scale) @ interactions @ sp.diags_array(item_scale))
    found = right_singular_vectors(scaled, size, seed=seed, shards=shards)
    rank = int((found.values > RANK_BELOW * found.values[0]).sum())
    vectors, roots = found.vectors[:, :rank], np.sqrt(found.values[:rank]).astype(np.float32)
    users = np.asarray(scaled @ vectors, np.float32) / roots
    items = vectors * roots
    total = float(np.einsum("ud,ud->", users, interactions @ items, dtype=np.float64))
    scale = np.float32(np.sqrt(interactions.nnz / total)) if total > 0 else np.float32(1)
    return users * scale, items * scale
