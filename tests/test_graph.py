"""The graph against dense algebra."""

import numpy as np
import pytest
import torch

from rlmrec import graph as graph_module
from rlmrec.data.interactions import Interactions
from rlmrec.graph import Graph

# User 2 and item 3 are isolated; user 1 has one item.
TRAIN = Interactions(np.array([0, 0, 0, 1, 3, 3]), np.array([0, 1, 2, 1, 2, 0]), 4, 4)


def dense(train, self_loops=False):
    n = train.n_users + train.n_items
    a = np.zeros((n, n))
    for u, i in zip(train.users, train.items, strict=True):
        a[u, train.n_users + i] = a[train.n_users + i, u] = 1
    if self_loops:
        a += np.eye(n)
    degrees = a.sum(1)
    scale = np.array([d**-0.5 if d else 0.0 for d in degrees])
    return torch.from_numpy(scale[:, None] * a * scale[None, :])


def as_dense(graph):
    return graph @ torch.eye(graph.n_nodes, dtype=graph.values.dtype)


@pytest.mark.parametrize("self_loops", [False, True])
def test_normalised_adjacency(self_loops):
    graph = Graph.from_interactions(TRAIN, self_loops, torch.float64)
    torch.testing.assert_close(as_dense(graph), dense(TRAIN, self_loops))
    assert graph.indices.dtype == torch.int32


@pytest.mark.parametrize("self_loops", [False, True])
def test_many_edges_have_offsets_of_64_bits(self_loops):
    narrow = Graph.from_interactions(TRAIN, self_loops)
    wide = Graph.from_interactions(TRAIN, self_loops, int32_edges=12)
    rows, columns = narrow.edge_index
    again = Graph.from_edges(rows, columns, 4, 4, int32_edges=12)
    for graph in (wide, again):
        assert graph.indptr.dtype == graph.indices.dtype == graph.transpose.dtype == torch.int64
        assert torch.equal(graph.indptr, narrow.indptr.long())
        assert torch.equal(graph.indices, narrow.indices.long())
        torch.testing.assert_close(graph.values, narrow.values)
        torch.testing.assert_close(graph @ torch.ones(8, 1), narrow @ torch.ones(8, 1))


def test_degrees_are_counted_exactly_in_low_precision():
    """Bfloat16 cannot count beyond 256: 256 + 1 is 256."""
    train = Interactions(np.zeros(600, np.int64), np.arange(600), 1, 600)
    graph = Graph.from_interactions(train, dtype=torch.bfloat16)
    expected = torch.full((1200,), 600**-0.5)
    torch.testing.assert_close(graph.values.float(), expected, rtol=4e-3, atol=0)
    same = graph.normalised(torch.ones(1200, dtype=torch.bfloat16))
    torch.testing.assert_close(same.values.float(), expected, rtol=4e-3, atol=0)


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_propagate_sum_is_the_polynomial(layers):
    graph = Graph.from_interactions(TRAIN, dtype=torch.float64)
    x = torch.randn(8, 3, dtype=torch.float64)
    a = dense(TRAIN)
    expected = sum(torch.linalg.matrix_power(a, k) @ x for k in range(layers + 1))
    torch.testing.assert_close(graph.propagate_sum(x, layers), expected)


def test_gradients_with_dropped_edges():
    """Dropped entries make the matrix asymmetric: the gradient must use its true transpose."""
    graph = Graph.from_interactions(TRAIN, dtype=torch.float64).drop_edges(
        0.6, torch.Generator().manual_seed(3)
    )
    matrix = as_dense(graph)
    assert not torch.equal(matrix, matrix.T)
    x = torch.randn(8, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: graph @ x, (x,))
    assert torch.autograd.gradcheck(lambda x: graph.propagate_sum(x, 3), (x,))


def test_transpose_permutation_lists_opposite_edges():
    graph = Graph.from_interactions(TRAIN, dtype=torch.float64)
    numbered = graph.with_values(torch.arange(1.0, 13.0, dtype=torch.float64))
    opposite = graph.with_values(numbered.values[graph.transpose])
    torch.testing.assert_close(as_dense(opposite), as_dense(numbered).T)


def test_drop_edges_keeps_the_share_without_rescaling():
    rng = np.random.default_rng(0)
    train = Interactions(*np.nonzero(rng.random((300, 200)) < 0.3), 300, 200)
    graph = Graph.from_interactions(train)
    dropped = graph.drop_edges(0.8, torch.Generator().manual_seed(0))
    kept = dropped.values != 0
    assert kept.float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert torch.equal(dropped.values[kept], graph.values[kept])
    opposite = dropped.values[graph.transpose] != 0
    assert (kept != opposite).any(), "the two directions of an edge are dropped independently"
    assert graph.drop_edges(1.0, torch.Generator()) is graph


@pytest.mark.parametrize("self_loops", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_graph_without_weights_is_the_same_matrix(self_loops, dtype):
    weighted = Graph.from_interactions(TRAIN, self_loops, dtype)
    graph = Graph.from_interactions(TRAIN, self_loops, dtype, weightless_edges=0)
    assert graph.symmetric
    assert graph.nbytes < weighted.nbytes
    torch.testing.assert_close(graph.values, weighted.values)
    torch.testing.assert_close(as_dense(graph), dense(TRAIN, self_loops).to(dtype))
    x = torch.randn(8, 3, dtype=dtype)
    torch.testing.assert_close(graph.propagate_sum(x, 3), weighted.propagate_sum(x, 3))
    values = torch.randn(len(graph.indices), dtype=dtype)
    torch.testing.assert_close(graph.weighted(values, x), weighted.weighted(values, x))


def test_gradients_of_a_graph_without_weights():
    graph = Graph.from_interactions(TRAIN, dtype=torch.float64, weightless_edges=0)
    dropped = graph.drop_edges(0.6, torch.Generator().manual_seed(3))
    assert dropped.indices is graph.indices
    matrix = as_dense(dropped)
    assert not torch.equal(matrix, matrix.T)
    rows, columns = graph.edge_index
    torch.testing.assert_close(matrix[rows, columns], dropped.values)
    x = torch.randn(8, 2, dtype=torch.float64, requires_grad=True)
    for each in (graph, dropped):
        assert torch.autograd.gradcheck(lambda x, each=each: each @ x, (x,))
        assert torch.autograd.gradcheck(lambda x, each=each: each.propagate_sum(x, 3), (x,))
    values = torch.randn(len(graph.indices), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(graph.weighted, (values, x))
    assert torch.autograd.gradcheck(graph.edge_dot, (x, x.detach().clone()))


@pytest.mark.parametrize("chunk", [100, 1 << 22])
def test_hashed_dropout_keeps_the_share_of_each_direction(monkeypatch, chunk):
    monkeypatch.setattr(graph_module, "CHUNK_EDGES", chunk)
    rng = np.random.default_rng(0)
    train = Interactions(*np.nonzero(rng.random((300, 200)) < 0.3), 300, 200)
    graph = Graph.from_interactions(train, weightless_edges=0)
    masks = []
    for seed in range(2):
        dropped = graph.drop_edges(0.8, torch.Generator().manual_seed(seed))
        kept = dropped.values != 0
        assert kept.float().mean().item() == pytest.approx(0.8, abs=0.01)
        assert torch.equal(dropped.values[kept], graph.values[kept])
        opposite = kept[graph.transpose]
        assert (kept & opposite).float().mean().item() == pytest.approx(0.64, abs=0.01), "independent"
        assert torch.equal(dropped._kept(transposed=True) != 0, opposite)
        by_row = torch.zeros(500).index_add_(0, graph.rows, kept.float()) / graph.indptr.diff()
        spread = (by_row - 0.8) / (
            0.16 / graph.indptr.diff()
        ).sqrt()  # standard normal, if rows are independent
        assert spread.std().item() == pytest.approx(1, abs=0.15)
        masks.append(kept)
    assert (masks[0] & masks[1]).float().mean().item() == pytest.approx(0.64, abs=0.01)
    again = graph.drop_edges(0.8, torch.Generator().manual_seed(1)).values != 0
    assert torch.equal(again, masks[1])


def test_split():
    users, items = Graph.from_interactions(TRAIN).split(torch.arange(8)[:, None])
    assert users[:, 0].tolist() == [0, 1, 2, 3]
    assert items[:, 0].tolist() == [4, 5, 6, 7]


def test_weighted_product_and_edge_dot_are_dense_algebra():
    graph = Graph.from_interactions(TRAIN, dtype=torch.float64)
    rows, columns = graph.edge_index
    values, a, b = (torch.randn(n, dtype=torch.float64) for n in (12, (8, 3), (8, 3)))
    matrix = torch.zeros(8, 8, dtype=torch.float64)
    matrix[rows, columns] = values
    torch.testing.assert_close(graph.weighted(values, a), matrix @ a)
    torch.testing.assert_close(graph.edge_dot(a, b), (a @ b.T)[rows, columns])


def test_weighted_product_and_edge_dot_have_the_right_gradients():
    graph = Graph.from_interactions(TRAIN, dtype=torch.float64)
    values, a, b = (torch.randn(n, dtype=torch.float64, requires_grad=True) for n in (12, (8, 3), (8, 3)))
    assert torch.autograd.gradcheck(graph.weighted, (values, a))
    assert torch.autograd.gradcheck(graph.edge_dot, (a, b))
    assert torch.autograd.gradcheck(lambda x: graph.edge_dot(x, x), (a,))


@pytest.mark.parametrize("self_loops", [False, True])
def test_symmetric_is_said_when_it_is_so(self_loops):
    graph = Graph.from_interactions(TRAIN, self_loops, torch.float64)
    assert graph.symmetric
    assert torch.equal(graph.values, graph.values[graph.transpose])
    assert not graph.drop_edges(0.5, torch.Generator().manual_seed(0)).symmetric
    x = torch.randn(8, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: graph @ x, (x,))
    assert torch.autograd.gradcheck(lambda x: graph.propagate_sum(x, 2), (x,))


def test_a_subgraph_shares_the_structure():
    graph = Graph.from_interactions(TRAIN, dtype=torch.float64)
    rows, columns = graph.edge_index
    kept = (rows != 0) & (columns != 0)
    thinned = graph.normalised(kept.double())
    without = Interactions(TRAIN.users[TRAIN.users != 0], TRAIN.items[TRAIN.users != 0], 4, 4)
    torch.testing.assert_close(as_dense(thinned), dense(without))
    assert thinned.indices is graph.indices


def test_from_edges_counts_duplicates_once():
    rows, columns = torch.tensor([0, 5, 0, 5, 7]), torch.tensor([5, 0, 5, 0, 7])
    graph = Graph.from_edges(rows, columns, 4, 4, torch.float64)
    expected = torch.zeros(8, 8, dtype=torch.float64)
    expected[0, 5] = expected[5, 0] = expected[7, 7] = 1
    torch.testing.assert_close(as_dense(graph), expected)


CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")


@pytest.mark.parametrize("weightless", [False, True])
def test_the_products_are_proper_operators(weightless):
    rng = torch.Generator().manual_seed(0)
    graph = Graph.from_interactions(TRAIN, weightless_edges=1 if weightless else 1 << 20).drop_edges(0.5, rng)
    x = torch.randn(graph.n_nodes, 3, generator=rng, requires_grad=True)
    seed, keep_rate = graph.dropout or (None, 1.0)
    opposite = None if weightless else graph.transpose
    matrix = graph.indptr, graph.indices, graph._values, graph.scale, opposite, seed, keep_rate
    torch.library.opcheck(graph_module._graph_product, (x, *matrix, 2, True, False), test_utils=CHECKS)
    if not weightless:
        values = graph.values.clone().requires_grad_()
        matrix = graph.indptr, graph.indices, values, None, opposite, None, 1.0
        torch.library.opcheck(graph_module._graph_product, (x, *matrix, 1, False, True), test_utils=CHECKS)
        other = torch.randn(graph.n_nodes, 3, generator=rng, requires_grad=True)
        edges = graph.indptr, graph.indices, opposite
        torch.library.opcheck(graph_module._edge_dot, (x, other, *edges), test_utils=CHECKS)
