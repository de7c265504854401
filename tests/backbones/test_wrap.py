"""wrap: models of three foreign styles become backbones, and what is wrong is said."""

import pytest
import torch
from torch import nn

import rlmrec
from rlmrec.alignment import Contrastive, Distilled, Generative
from rlmrec.backbones.base import Objective, batch_bpr
from rlmrec.backbones.lightgcn import LightGCN, LightGCNConfig
from rlmrec.backbones.wrap import wrap
from rlmrec.errors import ConfigError
from rlmrec.graph import Graph
from rlmrec.testing import check_alignment, check_backbone, sample_batch
from rlmrec.training.step import step
from rlmrec.training.trainer import TrainConfig, train

U, I, D = 60, 45, 8


class Bare(nn.Module):
    """Style 1: bare parameters and a dense adjacency; the final embeddings are wider than the tables."""

    def __init__(self):
        super().__init__()
        self.P = nn.Parameter(0.1 * torch.randn(U, D))
        self.Q = nn.Parameter(0.1 * torch.randn(I, D))
        self.mix = nn.Parameter(torch.eye(D))

    def propagate(self, adjacency):
        e = torch.cat([self.P, self.Q])
        e = torch.cat([e, (adjacency @ e @ self.mix).tanh()], 1)
        return e[:U], e[U:]


class Modules(nn.Module):
    """Style 2: nn.Embedding read through .weight, deep inside, and dropout in training."""

    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleDict({"user": nn.Embedding(U, D), "item": nn.Embedding(I, D)})
        self.dropout = nn.Dropout(0.2)
        self.deep = nn.Linear(D, D)

    def forward(self, edge_index):
        e = torch.cat([self.tables["user"].weight, self.tables["item"].weight])
        rows, columns = edge_index
        e = e + self.deep(self.dropout(torch.zeros_like(e).index_add(0, rows, e[columns])))
        return e[:U], e[U:]


def bare():
    eye = torch.eye(U + I)
    return wrap(Bare(), ("P", "Q"), encode=lambda m, graph: m.propagate(graph @ eye), output_size=2 * D)


def modules():
    names = ("tables.user.weight", "tables.item.weight")

    def objective(model, graph, batch, rng):
        users, items = model(graph.edge_index)
        return Objective(users, items, {"own": batch_bpr(users, items, batch)})

    torch.manual_seed(0)
    return wrap(Modules(), names, encode=lambda m, graph: m(graph.edge_index), objective=objective)


def geometric():
    from torch_geometric.nn import models  # seconds to import

    model = models.LightGCN(U + I, D, num_layers=2)
    return wrap(
        model,
        "embedding.weight",
        n_users=U,
        encode=lambda m, graph: graph.split(m.get_embedding(graph.edge_index)),
    )


STYLES = pytest.mark.parametrize("style", [bare, modules, geometric], ids=lambda style: style.__name__)


@STYLES
def test_a_foreign_model_owes_what_a_backbone_owes(toy, style):
    dataset, text_embeddings = toy
    backbone = style()
    if style is modules:  # its dropout draws from the global stream, as foreign models do
        backbone.model.dropout.p = 0.0
    check_backbone(backbone, dataset)
    check_alignment(Contrastive(text_embeddings, backbone.output_size), backbone, dataset)
    check_alignment(Generative(text_embeddings, backbone), backbone, dataset)
    check_alignment(Distilled, backbone, dataset, text_embeddings)


@STYLES
def test_a_foreign_model_is_trained_in_place(toy, style):
    dataset, text_embeddings = toy
    backbone = style()
    before = backbone.initial().detach().clone()
    alignment = Generative(text_embeddings, backbone)
    history = train(backbone, alignment, dataset, TrainConfig(epochs=4, batch_size=64, learning_rate=1e-2))
    assert history.epochs[-1]["loss"]["generative"] < history.epochs[0]["loss"]["generative"]
    assert not torch.equal(backbone.initial(), before)
    assert all(p.is_leaf and isinstance(p, nn.Parameter) for p in backbone.model.parameters())


class Lookup(nn.Module):
    """Looks its rows up one by one, with the gradients that nn.Embedding is told to make."""

    def __init__(self, sparse):
        super().__init__()
        self.user, self.item = nn.Embedding(U, D, sparse=sparse), nn.Embedding(I, D, sparse=sparse)


def test_sparse_gradients_train_like_dense_ones(toy):
    dataset, text_embeddings = toy
    trained = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = Lookup(sparse)
        backbone = wrap(model, encode=lambda m, graph: (m.user(torch.arange(U)), m.item(torch.arange(I))))
        train(backbone, Contrastive(text_embeddings, D), dataset, TrainConfig(epochs=2, batch_size=64))
        trained.append(model.user.weight.detach())
    torch.testing.assert_close(*trained)


def test_geometric_lightgcn_equals_ours(toy):
    """The same tables give the same terms and gradients; theirs is the mean of the layers."""
    dataset, text_embeddings = toy
    theirs = geometric()
    ours = LightGCN(U, I, LightGCNConfig(embedding_size=D, layers=2, keep_rate=1.0))
    with torch.no_grad():
        # A mean over L + 1 layers of tables is the sum over layers of tables (L + 1) times smaller.
        ours.user_embedding.copy_(theirs.initial()[:U] / 3)
        ours.item_embedding.copy_(theirs.initial()[U:] / 3)
    graph, batch = Graph.from_interactions(dataset.train), sample_batch(dataset)
    alignment = Contrastive(text_embeddings, D)
    got, expected = (
        step(backbone, alignment, graph, batch, 0.0, torch.Generator()) for backbone in (theirs, ours)
    )
    torch.testing.assert_close(got, expected)
    sum(got.values()).backward()
    sum(expected.values()).backward()
    gradient = theirs.model.embedding.weight.grad
    torch.testing.assert_close(3 * gradient[:U], ours.user_embedding.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(3 * gradient[U:], ours.item_embedding.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("tables", "options", "message"),
    [
        (
            ("user.weight", "Q"),
            {},
            r"no parameter 'user.weight': its parameters are P \(60, 8\), Q \(45, 8\), mix",
        ),
        (("P", "P"), {}, "expected one of users and one of items"),
        ("P", {}, "give n_users, from 1 to 59"),
        ("P", {"n_users": 60}, "give n_users, from 1 to 59"),
        (("P", "Q"), {"n_users": 45}, "n_users = 45, but the first table"),
    ],
)
def test_wrong_tables_are_named(tables, options, message):
    with pytest.raises(ConfigError, match=message):
        wrap(Bare(), tables, encode=lambda m, graph: m.propagate(graph), **options)


def test_what_is_no_model_or_no_function_is_refused():
    with pytest.raises(ConfigError, match=r"model is a str: expected a torch.nn.Module"):
        wrap("x", encode=lambda m, graph: None)
    with pytest.raises(ConfigError, match="encode is a str: expected a function"):
        wrap(Bare(), ("P", "Q"), encode="encode")
    with pytest.raises(ConfigError, match="objective is a str: expected a function"):
        wrap(Bare(), ("P", "Q"), encode=lambda m, graph: None, objective="bpr")


def test_tables_of_different_width_are_refused():
    model = nn.ModuleDict({"user": nn.Embedding(U, 4), "item": nn.Embedding(I, 5)})
    with pytest.raises(ConfigError, match=r"user.weight \(60, 4\) and item.weight \(45, 5\)"):
        wrap(model, encode=lambda m, graph: (m["user"].weight, m["item"].weight))


def test_shapes_are_checked_at_the_call(toy):
    dataset, _ = toy
    graph = Graph.from_interactions(dataset.train)
    backbone = wrap(Bare(), ("P", "Q"), encode=lambda m, graph: (m.Q, m.P))
    with pytest.raises(ConfigError, match=r"x is \(105, 7\), the model's tables together \(105, 8\)"):
        backbone.encode(torch.zeros(U + I, 7), graph)
    with pytest.raises(ConfigError, match=r"returned \(45, 8\) and \(60, 8\), expected users of \(60, 8\)"):
        backbone.encode(backbone.initial(), graph)
    swapped = wrap(Bare(), ("Q", "P"), encode=lambda m, graph: (m.Q, m.P))
    with pytest.raises(ConfigError, match="for 45 users and 60 items, the graph has 60 and 45"):
        swapped.encode(swapped.initial(), graph)


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda m, graph: torch.cat([m.P, m.Q]), r"encode returned \(105, 8\), expected users of \(60, 8\)"),
        (lambda m, graph: None, "encode returned NoneType, expected users"),
        (lambda m, graph: (m.P, m.Q, m.mix), r"and \(8, 8\), expected users .* return \(users, items\)"),
    ],
)
def test_what_encode_returns_is_checked(toy, encode, message):
    backbone = wrap(Bare(), ("P", "Q"), encode=encode)
    with pytest.raises(ConfigError, match=message):
        backbone.encode(backbone.initial(), Graph.from_interactions(toy[0].train))


def test_what_objective_returns_is_checked(toy):
    graph, batch = Graph.from_interactions(toy[0].train), sample_batch(toy[0])
    backbone = wrap(
        Bare(), ("P", "Q"), encode=lambda m, graph: (m.P, m.Q), objective=lambda m, *_: m.P.square().mean()
    )
    with pytest.raises(ConfigError, match=r"objective gives Tensor: expected Objective\(users, items, terms"):
        backbone.objective(backbone.initial(), graph, batch, torch.Generator())


def test_a_model_that_reads_a_copy_is_caught(toy):
    dataset, _ = toy
    model = Bare()
    users, items = model.P, model.Q  # kept outside: the swap cannot reach them
    backbone = wrap(model, ("P", "Q"), encode=lambda m, graph: (users * 1, items * 1))
    with pytest.raises(AssertionError, match="same users for different x"):
        check_backbone(backbone, dataset)


def test_wrap_is_public():
    assert rlmrec.wrap is wrap
