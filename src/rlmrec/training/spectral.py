"""Spectral initial embeddings: the leading singular vectors of the interactions, where training may begin."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from rlmrec.backbones.base import Backbone
from rlmrec.closed_form.svd import right_singular_vectors
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError
from rlmrec.shards import Shards
from rlmrec.types import Float32Array

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
    backbone: Backbone, dataset: Dataset, seed: int = 0, shards: Shards | None = None
) -> None:
    """Replace a backbone's initial embeddings by ``spectral_embeddings``.

    Columns beyond the rank of the interactions stay, and so do users and items without training interactions.

    Args:
        backbone: its tables are changed in place.
        dataset: its training split is decomposed.
        seed: of the decomposition.
        shards: processes that compute it together and get equal tables.
    """
    tables = check_tables(backbone)
    found = spectral_embeddings(dataset, tables[0].shape[1], seed, shards)
    degrees = dataset.train.user_degrees(), dataset.train.item_degrees()
    for table, values, degree in zip(tables, found, degrees, strict=True):
        rows = torch.from_numpy(np.flatnonzero(degree)).to(table.device)
        kept = torch.from_numpy(values[degree > 0]).to(table)
        table[rows, : values.shape[1]] = kept


def spectral_embeddings(
    dataset: Dataset, size: int, seed: int = 0, shards: Shards | None = None
) -> tuple[Float32Array, Float32Array]:
    """Compute initial embeddings of users and items from the interactions alone.

    With the singular vectors U, Q and values Σ of Â = D_u^-½ R D_i^-½, users get c U Σ and items c Q Σ. These are
    eigenvectors of the graph that LightGCN propagates over, so its first final embeddings are those of a low-rank
    filter. c makes the mean score of the training interactions 1.

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
        1 / np.sqrt(np.maximum(degrees, 1)).astype(np.float32)
        for degrees in (dataset.train.user_degrees(), dataset.train.item_degrees())
    )
    adjacency = sp.csr_array(sp.diags_array(user_scale) @ interactions @ sp.diags_array(item_scale))
    found = right_singular_vectors(adjacency, size, seed=seed, shards=shards)
    rank = int((found.values > RANK_BELOW * found.values[0]).sum())
    vectors = found.vectors[:, :rank]
    users = np.asarray(adjacency @ vectors, np.float32)
    items = vectors * found.values[:rank].astype(np.float32)
    total = float(np.einsum("ud,ud->", users, interactions @ items, dtype=np.float64))
    scale = np.float32(np.sqrt(interactions.nnz / total)) if total > 0 else np.float32(1)
    return users * scale, items * scale
