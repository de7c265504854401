"""Graph: the normalised adjacency matrix of users and items, and its products with embeddings."""

from __future__ import annotations

import copy
import warnings
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from rlmrec.data.interactions import Interactions

with warnings.catch_warnings():
    # PyTorch warns once per process that CSR is in beta. Only its products are used here, and tests compare these
    # with dense algebra. So the warning is triggered and ignored here, before a user could see it.
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)


class Graph:
    """Bipartite graph of users and items with its normalised adjacency matrix Â = D^-1/2 A D^-1/2.

    It has N = U + I nodes, users first, and is stored as CSR with int32 indices. A is symmetric in structure, so
    the transpose that the gradient needs is the same structure with permuted values. The permutation is computed
    once: nothing is transposed during training, and dropping edges sets values to zero instead of rebuilding the
    matrix.

    Args:
        indptr: int32[N + 1].
        indices: int32[E], E directed edges (two per interaction), sorted within a row.
        values: (E,) edge weights.
        transpose: int64[E], position of each edge's opposite edge.
        n_users: U.
        n_items: I.

    Attributes:
        symmetric: whether opposite edges are known to have equal weights, so that the gradient needs no
            permutation.

    Example:
        >>> graph = Graph.from_interactions(dataset.train)
        >>> users, items = graph.split(graph @ x)  # one step of propagation
    """

    symmetric = False

    def __init__(
        self, indptr: Tensor, indices: Tensor, values: Tensor, transpose: Tensor, n_users: int, n_items: int
    ) -> None:
        self.indptr = indptr
        self.indices = indices
        self.values = values
        self.transpose = transpose
        self.n_users = n_users
        self.n_items = n_items

    @classmethod
    def from_interactions(
        cls,
        train: Interactions,
        self_loops: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Graph:
        """Build Â from training interactions.

        Args:
            train: the training split.
            self_loops: use A + I instead of A, as GCCF does.
            dtype: type of the weights.
            device: device of the graph's tensors.
        """
        user_item = train.csr()
        adjacency = sp.csr_array(
            sp.block_array([[None, user_item], [user_item.T.tocsr(), None]], format="csr")
        )
        if self_loops:
            adjacency = sp.csr_array(adjacency + sp.eye_array(adjacency.shape[0], format="csr"))
        rows, columns = (torch.from_numpy(part.astype(np.int64)) for part in adjacency.nonzero())
        return cls.from_edges(rows.to(device), columns.to(device), train.n_users, train.n_items, dtype)

    @classmethod
    def from_edges(
        cls, rows: Tensor, columns: Tensor, n_users: int, n_items: int, dtype: torch.dtype = torch.float32
    ) -> Graph:
        """Build D^-1/2 A D^-1/2 from the edges of any A with a symmetric structure, on the device of the edges.

        Args:
            rows: int64, one end of each directed edge; duplicates count once.
            columns: int64, the other end; the opposite edge must be present as well.
            n_users: U.
            n_items: I.
            dtype: type of the weights.
        """
        n_nodes = n_users + n_items
        keys = torch.unique(rows * n_nodes + columns)  # sorted: by row, then by column
        rows, columns = keys // n_nodes, keys % n_nodes
        indptr = torch.searchsorted(rows, torch.arange(n_nodes + 1, device=keys.device))
        # Sorting the edges by (column, row) lists each edge's opposite in the order of (row, column).
        transpose = (columns * n_nodes + rows).argsort()
        values = torch.ones(len(keys), dtype=dtype, device=keys.device)
        return cls(indptr.int(), columns.int(), values, transpose, n_users, n_items).normalised(values)

    @property
    def n_nodes(self) -> int:
        """The number of nodes, N = U + I."""
        return self.n_users + self.n_items

    @cached_property
    def rows(self) -> Tensor:
        """The row of each edge, int64[E]; ``indices`` has its column."""
        return torch.repeat_interleave(
            torch.arange(self.n_nodes, device=self.indptr.device), self.indptr.diff().long()
        )

    @property
    def edge_index(self) -> Tensor:
        """The edges in PyTorch Geometric's format, int64[2, E]."""
        return torch.stack([self.rows, self.indices.long()])

    def with_values(self, values: Tensor) -> Graph:
        """Return the graph with other edge weights, (E,)."""
        other = copy.copy(self)
        other.values, other.symmetric = values, False
        return other

    def normalised(self, values: Tensor) -> Graph:
        """Return the graph with weights v_ij / sqrt(d_i d_j), where d are the row sums of ``values``, (E,).

        Opposite edges must have the same value. An edge of value 0 counts as absent, so a subgraph can share the
        structure of its graph.
        """
        sums = values.new_zeros(self.n_nodes).index_add_(0, self.rows, values)
        scale = torch.where(sums > 0, sums.rsqrt(), 0.0)
        graph = self.with_values(values * (scale[self.rows] * scale[self.indices]))
        graph.symmetric = True
        return graph

    def drop_edges(self, keep_rate: float, rng: torch.Generator) -> Graph:
        """Keep each directed edge with probability ``keep_rate``; weights are not rescaled."""
        if keep_rate >= 1:
            return self
        drawn = torch.rand(self.values.shape, generator=rng, dtype=torch.float32, device=self.values.device)
        return self.with_values(self.values * (drawn < keep_rate))

    def split(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Split the rows of all nodes, (N, d), into users (U, d) and items (I, d)."""
        return nodes[: self.n_users], nodes[self.n_users :]

    def __matmul__(self, x: Tensor) -> Tensor:
        """Return Â x, differentiable in x: (N, d) → (N, d)."""
        result: Tensor = _Propagate.apply(x, self, 1, False)  # type: ignore[no-untyped-call]
        return result

    def propagate_sum(self, x: Tensor, layers: int) -> Tensor:
        """Return x + Âx + Â²x + … + Â^L x, differentiable in x: (N, d) → (N, d).

        Horner's rule, x + Â(x + Â(x + …)), adds x within every product, so no layer is stored. The gradient is the
        same sum with Âᵀ.
        """
        if layers == 0:
            return x
        result: Tensor = _Propagate.apply(x, self, layers, True)  # type: ignore[no-untyped-call]
        return result

    def weighted(self, values: Tensor, x: Tensor) -> Tensor:
        """Return S x, where S has the graph's structure with ``values`` on its edges; differentiable in both.

        Args:
            values: (E,).
            x: (N, d).
        """
        result: Tensor = _WeightedProduct.apply(values, x, self)  # type: ignore[no-untyped-call]
        return result

    def edge_dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a_i · b_j for each edge (i, j), differentiable: (N, d), (N, d) → (E,).

        This is the adjoint of ``weighted`` with respect to its values: each of the two computes the gradient of the
        other, and together they make attention over edges. E x d numbers are never stored.
        """
        result: Tensor = _EdgeDot.apply(a, b, self)  # type: ignore[no-untyped-call]
        return result

    def _edge_dot(self, a: Tensor, b: Tensor) -> Tensor:
        if a.device.type == "mps":  # no sampled product there
            return (a[self.rows] * b[self.indices]).sum(-1)
        structure = self._matrix(transposed=False, values=a.new_zeros(len(self.indices)))
        dots: Tensor = torch.sparse.sampled_addmm(structure, a, b.T).values()
        return dots

    def _matrix(self, transposed: bool, values: Tensor | None = None) -> Tensor:
        if transposed and not (values is None and self.symmetric):
            values = (self.values if values is None else values)[self.transpose]
        values = self.values if values is None else values
        if self.values.device.type == "mps":  # no CSR product there
            return torch.sparse_coo_tensor(
                self.edge_index, values, (self.n_nodes, self.n_nodes), is_coalesced=True
            )
        return torch.sparse_csr_tensor(
            self.indptr, self.indices, values, (self.n_nodes, self.n_nodes), check_invariants=False
        )


class _Propagate(torch.autograd.Function):
    """Propagation by Horner's rule. Edge weights are constants, so only x has a gradient."""

    # The matrix is made once for all layers of a direction: making the handle costs as much as a small product.
    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Graph, layers: int, accumulate: bool) -> Tensor:
        ctx.graph, ctx.layers, ctx.accumulate = graph, layers, accumulate
        return _horner(graph._matrix(transposed=False), x, layers, accumulate)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        matrix = ctx.graph._matrix(transposed=True)
        return _horner(matrix, gradient.contiguous(), ctx.layers, ctx.accumulate), None, None, None


class _WeightedProduct(torch.autograd.Function):
    """The product S x. With G the gradient of the result, dS_ij = G_i · x_j on the edges and dx = Sᵀ G."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, x: Tensor, graph: Graph) -> Tensor:
        ctx.save_for_backward(values, x)
        ctx.graph = graph
        return graph._matrix(transposed=False, values=values) @ x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, x = ctx.saved_tensors
        gradient = gradient.contiguous()
        return (
            ctx.graph._edge_dot(gradient, x) if ctx.needs_input_grad[0] else None,
            ctx.graph._matrix(transposed=True, values=values) @ gradient if ctx.needs_input_grad[1] else None,
            None,
        )


class _EdgeDot(torch.autograd.Function):
    """The products a_i · b_j on the edges. With g the gradient of the result as a matrix, da = g b and db = gᵀ a."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, graph: Graph) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.graph = graph
        return graph._edge_dot(a, b)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        a, b = ctx.saved_tensors
        matrix = ctx.graph._matrix
        gradient = gradient.contiguous()
        return (
            matrix(transposed=False, values=gradient) @ b,
            matrix(transposed=True, values=gradient) @ a,
            None,
        )


def _horner(matrix: Tensor, x: Tensor, layers: int, accumulate: bool) -> Tensor:
    """Return the sum of all layers, or the last layer alone without ``accumulate``."""
    total = x
    for _ in range(layers):
        total = torch.addmm(x, matrix, total) if accumulate else matrix @ total
    return total
