"""Spectral initial embeddings: the leading singular vectors of the interactions, where training may begin."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from rlmrec.backbones.base import Backbone
from rlmrec.closed_form.svd import right_singular_vectors
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError
from rlmrec.types import Float32Array


@torch.no_grad()
def put_spectral_embeddings(backbone: Backbone, dataset: Dataset, seed: int = 0) -> None:
    """Replace a backbone's initial embeddings by ``spectral_embeddings``; columns beyond their rank stay.

    Raises:
        ConfigError: the backbone has no parameters ``user_embedding`` and ``item_embedding``, as a wrapped model.
    """
    parameters = dict(backbone.named_parameters())
    tables = [parameters.get(name) for name in ("user_embedding", "item_embedding")]
    if any(table is None or table.ndim != 2 for table in tables):
        raise ConfigError(
            f"initial_embeddings=spectral needs a backbone with the parameters user_embedding and item_embedding; "
            f"{type(backbone).__name__} keeps them elsewhere: leave the option out"
        )
    found = spectral_embeddings(dataset, tables[0].shape[1], seed)  # type: ignore[union-attr]
    for table, values in zip(tables, found, strict=True):
        table[:, : values.shape[1]] = torch.from_numpy(values)  # type: ignore[index]


def spectral_embeddings(dataset: Dataset, size: int, seed: int = 0) -> tuple[Float32Array, Float32Array]:
    """Compute initial embeddings of users and items from the interactions alone.

    With the singular vectors U, Q and values Σ of Â = D_u^-½ R D_i^-½, users get c U Σ and items c Q Σ. These are
    eigenvectors of the graph that LightGCN propagates over, so its first final embeddings are those of a low-rank
    filter. c makes the mean score of the training interactions 1.

    Args:
        dataset: its training split is decomposed.
        size: d, columns wanted; min(U, I) at most are returned.
        seed: of the decomposition.

    Returns:
        float32[U, r] and float32[I, r].
    """
    interactions = dataset.train.csr().astype(np.float32)
    user_scale, item_scale = (
        1 / np.sqrt(np.maximum(degrees, 1)).astype(np.float32)
        for degrees in (dataset.train.user_degrees(), dataset.train.item_degrees())
    )
    adjacency = sp.csr_array(sp.diags_array(user_scale) @ interactions @ sp.diags_array(item_scale))
    found = right_singular_vectors(adjacency, size, seed=seed)
    users = np.asarray(adjacency @ found.vectors, np.float32)
    items = found.vectors * found.values.astype(np.float32)
    total = float(np.einsum("ud,ud->", users, interactions @ items, dtype=np.float64))
    scale = np.float32(np.sqrt(interactions.nnz / total)) if total > 0 else np.float32(1)
    return users * scale, items * scale
