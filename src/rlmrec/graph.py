"""Graph: the normalised adjacency matrix of users and items, and its products with embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from rlmrec.batch import stream
from rlmrec.data.interactions import Interactions

with warnings.catch_warnings():
    # PyTorch warns once per process that CSR is in beta. Only its products are used here, and tests compare these
    # with dense algebra. So the warning is triggered and ignored here, before a user could see it.
    warnings.simplefilter("ignore", UserWarning)
    torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)


INT32_EDGES = 2**31 - 1  # from so many directed edges on, offsets need 64 bits
# From so many directed edges on, a graph on the CPU stores no weights. Below, the products of MKL give the numbers of
# version 0.1, and are as fast at the paper's d = 32.
WEIGHTLESS_EDGES = 1 << 20
CHUNK_EDGES = 1 << 22  # edges whose random numbers are computed at a time: 16 MiB an array

# S x, or S x + y: the product with a matrix that has the structure of a graph.
Product = Callable[[Tensor, Tensor | None], Tensor]


class Edges:
    """Structure of a graph: its directed edges in CSR form, shared by all graphs that only differ in weights.

    Args:
        indptr: int32[N + 1]; int64 for 2³¹ edges and more.
        indices: int32[E], E directed edges, sorted within a row; likewise.
    """

    def __init__(self, indptr: Tensor, indices: Tensor) -> None:
        self.indptr = indptr
        self.indices = indices

    @property
    def rows(self) -> Tensor:
        """The row of each edge, int64[E], made anew: as many bytes as indices and weights together."""
        nodes = torch.arange(len(self.indptr) - 1, device=self.indptr.device)
        return torch.repeat_interleave(nodes, self.indptr.diff().long(), output_size=len(self.indices))

    @cached_property
    def transpose(self) -> Tensor:
        """Position of each edge's opposite edge, of the type of ``indices``; made when first needed.

        Sorting the edges by (column, row) lists each edge's opposite in the order of (row, column). Edges are in the
        order of their rows already, so a stable sort by column does it.
        """
        return self.indices.argsort(stable=True).to(self.indices.dtype)


class Graph:
    """Bipartite graph of users and items with its normalised adjacency matrix Â = D^-1/2 A D^-1/2.

    It has N = U + I nodes, users first, and is stored as CSR. A is symmetric in structure, so the transpose that the
    gradient needs is the same structure with permuted values: nothing is transposed during training, and dropping
    edges sets values to zero instead of rebuilding the matrix. Without dropped edges Â itself is symmetric and no
    permutation is made, so an edge takes 8 bytes; with them 12.

    A graph of ``WEIGHTLESS_EDGES`` directed edges or more, on the CPU, stores no weights: Â x = s ∘ A (s ∘ x) with
    s = D^-1/2, so an edge takes 4 bytes. Which edges are dropped follows from a hash of a seed, the row and the column,
    so the transpose is computed instead of permuted.

    Args:
        edges: the structure.
        values: (E,) edge weights; None for a graph without, which needs ``scale``.
        n_users: U.
        n_items: I.
        scale: s, (N,), of a graph without weights.

    Attributes:
        symmetric: whether opposite edges are known to have equal weights, so that the gradient needs no
            permutation.
        dropout: seed and keep rate of a graph without weights whose edges were dropped.

    Example:
        >>> graph = Graph.from_interactions(dataset.train)
        >>> users, items = graph.split(graph @ x)  # one step of propagation
    """

    symmetric = False
    dropout: tuple[Tensor, float] | None = None

    def __init__(
        self, edges: Edges, values: Tensor | None, n_users: int, n_items: int, scale: Tensor | None = None
    ) -> None:
        self.edges = edges
        self._values = values
        self.scale = scale
        self.n_users = n_users
        self.n_items = n_items

    @classmethod
    def from_interactions(
        cls,
        train: Interactions,
        self_loops: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        int32_edges: int = INT32_EDGES,
        weightless_edges: int = WEIGHTLESS_EDGES,
    ) -> Graph:
        """Build Â from training interactions, without keys of edges that would have to be sorted.

        Args:
            train: the training split.
            self_loops: use A + I instead of A, as GCCF does.
            dtype: type of the weights.
            device: device of the graph's tensors.
            int32_edges: number of directed edges from which on offsets have 64 bits.
            weightless_edges: number of directed edges from which on a graph on the CPU stores no weights.
        """
        user_item = train.csr()
        item_user = sp.csr_array(user_item.T)
        n_users, n_items = user_item.shape
        kind = _offsets(2 * user_item.nnz + n_users + n_items, int32_edges)
        # The columns of a user's row are items, whose nodes come after all users.
        counts = np.concatenate([np.diff(user_item.indptr), np.diff(item_user.indptr)])
        indices: npt.NDArray[Any] = np.concatenate(
            [user_item.indices, item_user.indices], dtype=kind, casting="same_kind"
        )
        indices[: user_item.nnz] += n_users
        if self_loops:  # the node itself precedes a user's items and follows an item's users
            places = np.concatenate([user_item.indptr[:-1], user_item.nnz + item_user.indptr[1:]])
            indices = np.insert(indices, places, np.arange(n_users + n_items, dtype=kind))
            counts += 1
        del user_item, item_user
        indptr = np.concatenate([np.zeros(1, kind), np.cumsum(counts, dtype=kind)])
        edges = Edges(torch.from_numpy(indptr).to(device), torch.from_numpy(indices).to(device))
        degrees = torch.from_numpy(counts.astype(np.float64)).to(device)
        if torch.device(device).type == "cpu" and len(indices) >= weightless_edges:
            graph = cls(edges, None, n_users, n_items, _inverse_roots(degrees, dtype))
            graph.symmetric = True
            return graph
        graph = cls(edges, torch.ones((), dtype=dtype, device=device), n_users, n_items)
        return graph._scaled(degrees, graph.values)

    @classmethod
    def from_edges(
        cls,
        rows: Tensor,
        columns: Tensor,
        n_users: int,
        n_items: int,
        dtype: torch.dtype = torch.float32,
        int32_edges: int = INT32_EDGES,
    ) -> Graph:
        """Build D^-1/2 A D^-1/2 from the edges of any A with a symmetric structure, on the device of the edges.

        Args:
            rows: int64, one end of each directed edge; duplicates count once.
            columns: int64, the other end; the opposite edge must be present as well.
            n_users: U.
            n_items: I.
            dtype: type of the weights.
            int32_edges: number of directed edges from which on offsets have 64 bits.
        """
        n_nodes = n_users + n_items
        keys = torch.unique(rows * n_nodes + columns)  # sorted: by row, then by column
        rows, columns = keys // n_nodes, keys % n_nodes
        indptr = torch.searchsorted(rows, torch.arange(n_nodes + 1, device=keys.device))
        kind = torch.int32 if _offsets(len(keys), int32_edges) is np.int32 else torch.int64
        values = torch.ones(len(keys), dtype=dtype, device=keys.device)
        return cls(Edges(indptr.to(kind), columns.to(kind)), values, n_users, n_items).normalised(values)

    @property
    def indptr(self) -> Tensor:
        """Where each node's edges begin, [N + 1]."""
        return self.edges.indptr

    @property
    def indices(self) -> Tensor:
        """The column of each edge, [E]."""
        return self.edges.indices

    @property
    def values(self) -> Tensor:
        """The weight of each edge, [E]; made anew for a graph that stores none."""
        if self._values is not None:
            return self._values
        assert self.scale is not None
        values = self._between(self.scale)
        kept = self._kept()
        return values if kept is None else values.mul_(kept)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return (self.scale if self._values is None else self._values).dtype  # type: ignore[union-attr]

    @property
    def device(self) -> torch.device:
        """The device of the graph's tensors."""
        return self.edges.indices.device

    @property
    def nbytes(self) -> int:
        """The memory that its tensors take now, in bytes."""
        parts = (self.indptr, self.indices, self._values, self.scale, self.edges.__dict__.get("transpose"))
        return sum(part.nbytes for part in parts if part is not None)

    @property
    def transpose(self) -> Tensor:
        """Position of each edge's opposite edge, [E]."""
        return self.edges.transpose

    @property
    def n_nodes(self) -> int:
        """The number of nodes, N = U + I."""
        return self.n_users + self.n_items

    @property
    def rows(self) -> Tensor:
        """The row of each edge, int64[E]; ``indices`` has its column."""
        return self.edges.rows

    @property
    def edge_index(self) -> Tensor:
        """The edges in PyTorch Geometric's format, int64[2, E]."""
        return torch.stack([self.rows, self.indices.long()])

    def with_values(self, values: Tensor) -> Graph:
        """Return the graph with other edge weights, (E,)."""
        return Graph(self.edges, values, self.n_users, self.n_items)

    def normalised(self, values: Tensor) -> Graph:
        """Return the graph with weights v_ij / sqrt(d_i d_j), where d are the row sums of ``values``, (E,).

        Opposite edges must have the same value. An edge of value 0 counts as absent, so a subgraph can share the
        structure of its graph. The sums are in float64: float32 stops counting at 2²⁴, bfloat16 at 256.
        """
        zeros = torch.zeros(self.n_nodes, dtype=torch.float64, device=values.device)
        return self._scaled(zeros.index_add_(0, self.rows, values.double()), values)

    def _scaled(self, degrees: Tensor, values: Tensor) -> Graph:
        """Return the graph with weights v_ij / sqrt(d_i d_j).

        Args:
            degrees: float64[N].
            values: (E,) weights, or one for all.
        """
        weights = self._between(_inverse_roots(degrees, values.dtype))
        weights *= values
        graph = self.with_values(weights)
        graph.symmetric = True
        return graph

    def _between(self, scale: Tensor) -> Tensor:
        """Return s_i · s_j for each edge (i, j), [E]."""
        weights = torch.repeat_interleave(scale, self.indptr.diff().long(), output_size=len(self.indices))
        weights *= scale.index_select(0, self.indices)
        return weights

    def drop_edges(self, keep_rate: float, rng: torch.Generator) -> Graph:
        """Keep each directed edge with probability ``keep_rate``; weights are not rescaled."""
        if keep_rate >= 1:
            return self
        if self._values is None and self.dropout is None:
            other = Graph(self.edges, None, self.n_users, self.n_items, self.scale)
            other.dropout = (torch.randint(1 << 62, (), generator=stream(rng), device=rng.device), keep_rate)
            return other
        drawn = torch.rand(
            self.values.shape, generator=stream(rng), dtype=torch.float32, device=self.values.device
        )
        return self.with_values(self.values * (drawn < keep_rate))

    def split(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Split the rows of all nodes, (N, d), into users (U, d) and items (I, d)."""
        return nodes[: self.n_users], nodes[self.n_users :]

    def propagate(self, x: Tensor) -> Tensor:
        """Return Â x, differentiable in x: (N, d) → (N, d). It is ``graph @ x``, which torch.compile cannot follow."""
        return self._multiplied(x, 1, accumulate=False)

    __matmul__ = propagate

    def propagate_sum(self, x: Tensor, layers: int) -> Tensor:
        """Return x + Âx + Â²x + … + Â^L x, differentiable in x: (N, d) → (N, d).

        Horner's rule, x + Â(x + Â(x + …)), adds x within every product, so no layer is stored. The gradient is the
        same sum with Âᵀ.
        """
        return x if layers == 0 else self._multiplied(x, layers, accumulate=True)

    def weighted(self, values: Tensor, x: Tensor) -> Tensor:
        """Return S x, where S has the graph's structure with ``values`` on its edges; differentiable in both.

        Args:
            values: (E,).
            x: (N, d).
        """
        structure = self.indptr, self.indices, values, None, self._opposite(x), None
        result: Tensor = _graph_product(x, *structure, 1.0, 1, False, False)
        return result

    def edge_dot(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a_i · b_j for each edge (i, j), differentiable: (N, d), (N, d) → (E,).

        This is the adjoint of ``weighted`` with respect to its values: each of the two computes the gradient of the
        other, and together they make attention over edges. E x d numbers are never stored.
        """
        result: Tensor = _edge_dot(a, b, self.indptr, self.indices, self._opposite(b))
        return result

    def _multiplied(self, x: Tensor, layers: int, accumulate: bool) -> Tensor:
        seed, keep_rate = self.dropout or (None, 1.0)
        values = None if self._values is None else self._values.detach()  # weights of edges are constants
        opposite = None if self.symmetric or values is None else self._opposite(x)
        matrix = self.indptr, self.indices, values, self.scale, opposite, seed, keep_rate
        result: Tensor = _graph_product(x, *matrix, layers, accumulate, False)
        return result

    def _opposite(self, x: Tensor) -> Tensor | None:
        """Return the permutation that the gradient of x needs; None where x has no gradient."""
        return self.transpose if x.requires_grad and torch.is_grad_enabled() else None

    def _kept(self, transposed: bool = False) -> Tensor | None:
        """Return 1 for each edge that was not dropped and 0 for the others, [E]; None where none was dropped.

        Args:
            transposed: for each edge (i, j) say it of the opposite one, (j, i).
        """
        if self.dropout is None:
            return None
        seed, keep_rate = self.dropout
        nodes = torch.arange(self.n_nodes, dtype=torch.int32, device=self.device)
        codes = [_mixed(nodes * odd + part) for odd, part in zip(_ODD, _halves(seed), strict=True)]
        of_row, of_column = codes[::-1] if transposed else codes
        bound = int(keep_rate * 2**32) - 2**31
        kept = torch.empty(len(self.indices), dtype=self.dtype, device=self.device)
        for some, edges in self._chunks():
            counts = self.indptr[some.start : some.stop + 1].diff().long()
            code = torch.repeat_interleave(of_row[some], counts, output_size=edges.stop - edges.start)
            code += of_column.index_select(0, self.indices[edges])
            torch.lt(_mixed(code), bound, out=kept[edges])
        return kept

    def _chunks(self) -> Iterator[tuple[slice, slice]]:
        """Yield ranges of nodes and of their edges, at most ``CHUNK_EDGES`` unless one node has more."""
        first = start = 0
        while first < self.n_nodes:
            bound = torch.tensor(start + CHUNK_EDGES, dtype=self.indptr.dtype, device=self.device)
            last = max(first + 1, int(torch.searchsorted(self.indptr, bound, right=True)) - 1)
            end = int(self.indptr[last])
            yield slice(first, last), slice(start, end)
            first, start = last, end

    def _product(self, transposed: bool) -> Product:
        """Return the product with Â, or with its transpose."""
        if self._values is None:
            return self._sums_of_rows(self._kept(transposed), self.scale)
        values = self._values if self.symmetric or not transposed else self._values[self.transpose]
        if self.device.type == "cpu" and len(self.indices) >= WEIGHTLESS_EDGES:
            return self._sums_of_rows(values, None)
        shape = self.n_nodes, self.n_nodes
        if self.device.type == "mps":  # no CSR product there
            matrix = torch.sparse_coo_tensor(self.edge_index, values, shape, is_coalesced=True)
        else:
            matrix = torch.sparse_csr_tensor(self.indptr, self.indices, values, shape, check_invariants=False)
        return lambda x, y: matrix @ x if y is None else torch.addmm(y, matrix, x)

    def _sums_of_rows(self, weights: Tensor | None, scale: Tensor | None) -> Product:
        """Return the product with diag(s) W diag(s) as weighted sums of rows.

        ``embedding_bag`` takes a third of the time of MKL's product at d = 64 and needs no weights where all are 1.
        """
        by_row = None if scale is None else scale[:, None]

        def product(x: Tensor, y: Tensor | None) -> Tensor:
            x = x.contiguous() if by_row is None else x * by_row
            total = F.embedding_bag(
                self.indices, x, self.indptr, mode="sum", include_last_offset=True, per_sample_weights=weights
            )
            if by_row is not None:
                total *= by_row
            return total if y is None else total.add_(y)

        return product


# The products are operators of PyTorch: torch.compile and fake tensors take each as one step and look at no number.


@torch.library.custom_op("rlmrec::graph_product", mutates_args=())
def _graph_product(
    x: Tensor,
    indptr: Tensor,
    indices: Tensor,
    values: Tensor | None,
    scale: Tensor | None,
    opposite: Tensor | None,
    seed: Tensor | None,
    keep_rate: float,
    layers: int,
    accumulate: bool,
    transposed: bool,
) -> Tensor:
    """Return S^L x, or x + Sx + … + S^L x with ``accumulate``; S is a graph's matrix, or its transpose.

    Args:
        x: (N, d).
        indptr: of the structure.
        indices: of the structure.
        values: (E,); None where ``scale`` is given.
        scale: (N,).
        opposite: position of each edge's opposite edge, where opposite edges differ; only for the transpose.
        seed: of dropped edges of a graph without weights.
        keep_rate: likewise.
        layers: L, at least 1.
        accumulate: whether all layers are summed.
        transposed: whether S is the transpose.
    """
    edges = Edges(indptr, indices)
    if opposite is not None:
        edges.transpose = opposite
    graph = Graph(edges, values, len(indptr) - 1, 0, scale)
    graph.symmetric = opposite is None
    graph.dropout = None if seed is None else (seed, keep_rate)
    # The product is made once for all layers: making the handle costs as much as a small product.
    product, total = graph._product(transposed), x
    for _ in range(layers):
        total = product(total, x if accumulate else None)
    return total


@torch.library.custom_op("rlmrec::edge_dot", mutates_args=())
def _edge_dot(a: Tensor, b: Tensor, indptr: Tensor, indices: Tensor, opposite: Tensor | None) -> Tensor:
    """Return a_i · b_j for each edge (i, j): (N, d), (N, d) → (E,); ``opposite`` serves the gradient of b."""
    del opposite
    if a.device.type == "mps":  # no sampled product there
        return (a[Edges(indptr, indices).rows] * b[indices]).sum(-1)
    zeros = a.new_zeros(len(indices))
    structure = torch.sparse_csr_tensor(indptr, indices, zeros, (len(a), len(a)), check_invariants=False)
    dots: Tensor = torch.sparse.sampled_addmm(structure, a, b.T).values()
    return dots


@_graph_product.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


@_edge_dot.register_fake
def _(a: Tensor, b: Tensor, indptr: Tensor, indices: Tensor, opposite: Tensor | None) -> Tensor:
    del b, indptr, opposite
    return a.new_empty(len(indices))


def _keep_for_product(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    x, *matrix, layers, accumulate, transposed = inputs
    *tensors, keep_rate = matrix
    ctx.save_for_backward(x if ctx.needs_input_grad[3] else None, *tensors)
    ctx.rest = keep_rate, layers, accumulate, transposed


@torch.autograd.function.once_differentiable
def _product_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """With G the gradient of S x, that of x is Sᵀ G, and that of the values G_i · x_j on the edges."""
    x, *tensors = ctx.saved_tensors
    keep_rate, layers, accumulate, transposed = ctx.rest
    of_x = of_values = None
    gradient = gradient.contiguous()
    if ctx.needs_input_grad[0]:
        of_x = _graph_product(gradient, *tensors, keep_rate, layers, accumulate, not transposed)
    if ctx.needs_input_grad[3]:  # only of one layer, see Graph.weighted
        of_values = _edge_dot(*((x, gradient) if transposed else (gradient, x)), *tensors[:2], None)
    return of_x, None, None, of_values, *[None] * 7


_graph_product.register_autograd(_product_gradient, setup_context=_keep_for_product)


def _keep_for_dot(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs)


@torch.autograd.function.once_differentiable
def _dot_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """With g the gradient as the values of a matrix, da = g b and db = gᵀ a."""
    a, b, indptr, indices, opposite = ctx.saved_tensors

    def product(x: Tensor, transposed: bool) -> Tensor:
        structure = indptr, indices, gradient.contiguous(), None, opposite, None
        result: Tensor = _graph_product(x, *structure, 1.0, 1, False, transposed)
        return result

    of_a = product(b, False) if ctx.needs_input_grad[0] else None
    of_b = product(a, True) if ctx.needs_input_grad[1] else None
    return of_a, of_b, None, None, None


_edge_dot.register_autograd(_dot_gradient, setup_context=_keep_for_dot)


def _offsets(n_edges: int, bound: int) -> type[np.int32] | type[np.int64]:
    """Return the type of the offsets of so many directed edges."""
    return np.int32 if n_edges < bound else np.int64


def _inverse_roots(degrees: Tensor, dtype: torch.dtype) -> Tensor:
    """Return D^-1/2, (N,), in the type of the weights; 0 for a node without edges.

    Args:
        degrees: float64[N].
        dtype: of the weights.
    """
    sums = degrees.to(dtype if dtype in (torch.float32, torch.float64) else torch.float32)
    return torch.where(sums > 0, sums.rsqrt(), 0.0).to(dtype)


_ODD = (-1640531535, 374761393)  # xxHash's primes, as signed numbers: rows and columns get different codes


def _halves(seed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lower and the upper 31 bits of a seed, int64[]."""
    return seed & 0x7FFFFFFF, seed >> 31 & 0x7FFFFFFF


def _mixed(numbers: Tensor) -> Tensor:
    """Mix the bits of int32 numbers in place, so that each bit depends on all (the last step of MurmurHash3)."""
    for shift, factor in ((16, -2048144789), (13, -1028477387), (16, 1)):
        numbers ^= (numbers >> shift) & ((1 << (32 - shift)) - 1)  # the sign must not be shifted in
        numbers *= factor
    return numbers
