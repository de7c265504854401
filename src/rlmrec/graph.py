"""Graph: the normalised bipartite adjacency and its product, the one operation all backbones share."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from rlmrec.data.interactions import Interactions

with warnings.catch_warnings():
    # PyTorch says once per process that CSR is in beta. All we use of it is one product, which our tests pin
    # to dense algebra: hear it here and spare the user.
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)


class Graph:
    """Â = D^-1/2 A D^-1/2 of the bipartite graph of N = U + I nodes, users first.

    Kept as CSR with int32 indices. A is symmetric in structure, so the transpose that the gradient needs
    is the same structure with permuted values: the permutation is made once, nothing is transposed while
    training, and dropping edges zeroes values instead of rebuilding the matrix.

    Args:
        indptr: int32[N + 1].
        indices: int32[E], E directed edges (two per interaction), sorted within a row.
        values: E weights.
        transpose: int64[E], position of each edge's opposite edge.
        n_users: U.
        n_items: I.

    Example:
        >>> graph = Graph.from_interactions(dataset.train)
        >>> users, items = graph.split(graph @ x)  # one step of propagation
    """

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
            dtype: of the weights.
            device: where the graph lives.
        """
        user_item = train.csr()
        adjacency = sp.csr_array(
            sp.block_array([[None, user_item], [user_item.T.tocsr(), None]], format="csr")
        )
        if self_loops:
            adjacency = sp.csr_array(adjacency + sp.eye_array(adjacency.shape[0], format="csr"))
        adjacency.sort_indices()
        degrees = np.diff(adjacency.indptr)
        n_nodes = len(degrees)
        rows = np.repeat(np.arange(n_nodes), degrees)
        with np.errstate(divide="ignore"):
            scale = np.where(degrees > 0, degrees.astype(np.float64) ** -0.5, 0.0)
        values = scale[rows] * scale[adjacency.indices]
        # Sorting the edges by (column, row) lists each edge's opposite in the order of (row, column).
        transpose = np.lexsort((rows, adjacency.indices))
        return cls(
            torch.from_numpy(adjacency.indptr.astype(np.int32)).to(device),
            torch.from_numpy(adjacency.indices.astype(np.int32)).to(device),
            torch.from_numpy(values).to(device, dtype),
            torch.from_numpy(transpose).to(device),
            train.n_users,
            train.n_items,
        )

    @property
    def n_nodes(self) -> int:
        """N = U + I."""
        return self.n_users + self.n_items

    def with_values(self, values: Tensor) -> Graph:
        """The same structure with other edge weights, (E,)."""
        return Graph(self.indptr, self.indices, values, self.transpose, self.n_users, self.n_items)

    def drop_edges(self, keep_rate: float, rng: torch.Generator) -> Graph:
        """Keep each directed entry with probability ``keep_rate``; weights are not rescaled."""
        if keep_rate >= 1:
            return self
        drawn = torch.rand(self.values.shape, generator=rng, dtype=torch.float32, device=self.values.device)
        return self.with_values(self.values * (drawn < keep_rate))

    def split(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """(N, d) → users (U, d) and items (I, d)."""
        return nodes[: self.n_users], nodes[self.n_users :]

    def __matmul__(self, x: Tensor) -> Tensor:
        """Â x, differentiable in x: (N, d) → (N, d)."""
        result: Tensor = _Propagate.apply(x, self, 1, False)  # type: ignore[no-untyped-call]
        return result

    def propagate_sum(self, x: Tensor, layers: int) -> Tensor:
        """x + Âx + Â²x + … + Â^L x, differentiable in x: (N, d) → (N, d).

        By Horner's rule, x + Â(x + Â(x + …)): every product adds x as it goes, so no layer is stored, and
        the gradient is the same sum with Âᵀ.
        """
        if layers == 0:
            return x
        result: Tensor = _Propagate.apply(x, self, layers, True)  # type: ignore[no-untyped-call]
        return result

    def _matrix(self, transposed: bool) -> Tensor:
        values = self.values[self.transpose] if transposed else self.values
        if self.values.device.type == "mps":  # no CSR product there
            rows = torch.repeat_interleave(
                torch.arange(self.n_nodes, device=values.device), self.indptr.diff()
            )
            edges = torch.stack([rows, self.indices.long()])
            return torch.sparse_coo_tensor(edges, values, (self.n_nodes, self.n_nodes), is_coalesced=True)
        return torch.sparse_csr_tensor(
            self.indptr, self.indices, values, (self.n_nodes, self.n_nodes), check_invariants=False
        )


class _Propagate(torch.autograd.Function):
    """Horner's rule with one matrix handle per direction; edge weights are constants."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Graph, layers: int, accumulate: bool) -> Tensor:
        ctx.graph, ctx.layers, ctx.accumulate = graph, layers, accumulate
        return _horner(graph._matrix(transposed=False), x, layers, accumulate)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        matrix = ctx.graph._matrix(transposed=True)
        return _horner(matrix, gradient.contiguous(), ctx.layers, ctx.accumulate), None, None, None


def _horner(matrix: Tensor, x: Tensor, layers: int, accumulate: bool) -> Tensor:
    total = x
    for _ in range(layers):
        total = torch.addmm(x, matrix, total) if accumulate else matrix @ total
    return total
