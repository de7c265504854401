"""Spectral initial embeddings against a dense decomposition."""

import numpy as np
import pytest
import torch

from rlmrec.backbones import MF, LightGCN, lightgcn
from rlmrec.backbones.wrap import wrap
from rlmrec.errors import ConfigError
from rlmrec.graph import Graph
from rlmrec.testing import blocks
from rlmrec.training.config import TrainConfig
from rlmrec.training.spectral import put_spectral_embeddings, spectral_embeddings
from rlmrec.training.trainer import embeddings, train


@pytest.fixture(scope="module")
def dataset():
    return blocks()[0]


def adjacency(dataset):
    dense = dataset.train.csr().toarray().astype(np.float64)
    degrees = [np.maximum(dense.sum(axis), 1) for axis in (1, 0)]
    return dense, dense / np.outer(*degrees) ** 0.4


@pytest.mark.parametrize("size", [1, 6])
def test_scores_are_those_of_the_truncated_decomposition(dataset, size):
    dense, scaled = adjacency(dataset)
    left, values, right = np.linalg.svd(scaled, full_matrices=False)
    expected = left[:, :size] * values[:size] @ right[:size]
    expected *= dense.sum() / (expected * dense).sum()
    users, items = spectral_embeddings(dataset, size)
    assert (users.dtype, items.dtype) == (np.float32, np.float32)
    np.testing.assert_allclose(users @ items.T, expected, atol=1e-4)
    assert (users @ items.T)[dense > 0].mean() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("layers", [0, 2, 3])
def test_training_begins_there(dataset, layers):
    torch.manual_seed(0)
    backbone = LightGCN(dataset.n_users, dataset.n_items, embedding_size=6, layers=layers)
    train(backbone, None, dataset, {"initial_embeddings": "spectral", "epochs": 1, "learning_rate": 1e-9})
    expected = spectral_embeddings(dataset, 6)
    found = embeddings(backbone, dataset)
    for final, wanted in zip(found, expected, strict=True):
        assert np.linalg.norm(final - wanted) < 0.1 * np.linalg.norm(wanted)
    users, items = found
    own = dataset.train.csr().toarray() > 0
    scores = users @ items.T
    assert scores[own].mean() > scores[~own].mean() + 0.5, (
        "what is known ranks high before anything is learned"
    )


def test_a_run_that_was_killed_in_its_first_checkpoint_begins_there_again(dataset, tmp_path):
    def run():
        torch.manual_seed(0)
        backbone = LightGCN(dataset.n_users, dataset.n_items, embedding_size=6)
        return train(
            backbone, None, dataset, {"initial_embeddings": "spectral", "epochs": 1}, folder=tmp_path
        )

    first = run()
    (tmp_path / "checkpoint.json").unlink()  # written after the tensors
    assert list(tmp_path.glob("checkpoint-*.safetensors"))
    np.testing.assert_array_equal(run().users, first.users)


def test_initial_embeddings_solve_the_regularised_least_squares(dataset):
    backbone = LightGCN(dataset.n_users, dataset.n_items, embedding_size=3).double()
    graph = Graph.from_interactions(dataset.train, dtype=torch.float64)
    identity = torch.eye(graph.n_nodes, dtype=torch.float64)
    propagation = graph.propagate_sum(identity, 3)
    final = torch.from_numpy(np.concatenate(spectral_embeddings(dataset, 3))).double()
    normal = propagation @ propagation + lightgcn.SOLVER_RIDGE * identity
    expected = torch.linalg.solve(normal, propagation @ final)
    found = backbone.initial_for(final, graph)
    assert (found - expected).norm() < 0.05 * expected.norm()
    zeros = torch.zeros_like(final)
    torch.testing.assert_close(backbone.initial_for(zeros, graph), zeros)


class OtherEncoder(LightGCN):
    def encode(self, x, graph):
        return self.split(2 * x, graph)


@pytest.mark.parametrize("kind", [MF, OtherEncoder])
def test_a_backbone_without_propagation_begins_at_the_vectors_themselves(dataset, kind):
    backbone = kind(dataset.n_users, dataset.n_items, embedding_size=6)
    put_spectral_embeddings(backbone, dataset, Graph.from_interactions(dataset.train))
    for table, wanted in zip(
        (backbone.user_embedding, backbone.item_embedding), spectral_embeddings(dataset, 6), strict=True
    ):
        np.testing.assert_allclose(table.detach(), wanted, atol=1e-5)


def test_columns_beyond_the_rank_stay_random(dataset):
    rank = np.linalg.matrix_rank(adjacency(dataset)[1], tol=1e-3)
    backbone = LightGCN(dataset.n_users, dataset.n_items, embedding_size=rank + 3)
    before = backbone.user_embedding.detach().clone()
    train(backbone, None, dataset, {"initial_embeddings": "spectral", "epochs": 1, "learning_rate": 1e-9})
    after = backbone.user_embedding.detach()
    torch.testing.assert_close(after[:, rank:], before[:, rank:], atol=1e-6, rtol=0)
    assert (after[:, :rank] - before[:, :rank]).abs().max() > 0.01


def test_who_has_no_interactions_keeps_the_random_vector():
    few = blocks(density=0.1)[0]
    alone = np.flatnonzero(few.train.item_degrees() == 0)
    assert len(alone)
    backbone = LightGCN(few.n_users, few.n_items, embedding_size=6)
    before = backbone.item_embedding.detach().clone()
    put_spectral_embeddings(backbone, few, Graph.from_interactions(few.train))
    changed = (backbone.item_embedding.detach() != before).any(1).numpy()
    np.testing.assert_array_equal(np.flatnonzero(~changed), alone)


def test_a_model_without_the_tables_is_refused(dataset):
    model = torch.nn.ModuleDict(
        {"user": torch.nn.Embedding(dataset.n_users, 4), "item": torch.nn.Embedding(dataset.n_items, 4)}
    )
    model = wrap(model, encode=lambda model, _: (model["user"].weight, model["item"].weight))
    with pytest.raises(ConfigError, match="spectral needs a backbone with the parameters user_embedding"):
        train(model, None, dataset, {"initial_embeddings": "spectral", "epochs": 1})


def test_initial_embeddings_of_another_shape_are_refused(dataset):
    class Transposed(LightGCN):
        def initial_for(self, final, graph):
            return final.T

    backbone = Transposed(dataset.n_users, dataset.n_items, embedding_size=6)
    with pytest.raises(
        ConfigError, match=r"initial_for of Transposed returned \(6, 105\), expected \(105, 6\)"
    ):
        train(backbone, None, dataset, {"initial_embeddings": "spectral", "epochs": 1})


def test_the_default_is_not_stored():
    assert "initial_embeddings" not in TrainConfig().stored()
    assert TrainConfig(initial_embeddings="spectral").stored()["initial_embeddings"] == "spectral"
