"""Recommender: final embeddings, ids and what each user has seen. A server of it needs no torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from safetensors.numpy import save_file

from rlmrec.data.dataset import Dataset
from rlmrec.data.vocabulary import RawId, Vocabulary
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.files import atomic_folder, read_json, sha256, write_json, write_text
from rlmrec.recommend.index import Index
from rlmrec.topk import MEMORY_BUDGET, TILE, map_blocks, top_k_products
from rlmrec.types import AnyArray, BoolArray, Float32Array, IntArray

FORMAT = 1
ARRAYS, IDS, MANIFEST = "embeddings.safetensors", "ids.json", "recommender.json"
INDEX_BLOCK = 1024  # queries that an index is asked at once
# What safetensors calls the types that ``save`` writes.
TYPES = {"F32": np.float32, "I32": np.int32, "I64": np.int64}

RawIds = RawId | Sequence[RawId] | AnyArray


class Recommender:
    """Answers from embeddings: score(u, i) = e_u · e_i, similarity = cosine.

    Ids in and out are the raw ones. One id in gives vectors out, a list or array of B ids gives matrices
    of B rows. Results are ``(ids, scores)``, best first; equal scores in the order of the catalogue. Every
    row is k long: where there are fewer candidates the rest has the score −∞ and the id None (text) or −1
    (integers; it is the score that tells).

    Args:
        users: float32[U, d].
        items: float32[I, d].
        user_ids: U raw ids.
        item_ids: I raw ids.
        seen: U x I sparse matrix; its non-zeros are the items that ``exclude_seen`` leaves out.
        manifest: what it was made of (run, dataset, configuration); JSON.
        memory_budget: bytes that blocks of scores may take, however many users are asked for.
        item_messages: float32[I, d], what each item hands to its users in the last step of a linear
            propagation: e_u = own_u + Σ neighbours_v / √d_u over the training items v of u. None for a
            backbone that is not of that form. ``fold_in`` and explanations stand on it.
        self_loops: d_u counts the user itself, as in GCCF.
        index: an approximate index over ``items``; None searches exactly.

    Raises:
        DataError: shapes that do not fit together, or an embedding that is not finite.

    Example:
        >>> recommender = Recommender(
        ...     np.eye(2, dtype=np.float32),
        ...     np.array([[1, 0], [0, 1], [0.5, 0]], np.float32),
        ...     Vocabulary(["ann", "bob"], "user"),
        ...     Vocabulary(["x", "y", "z"], "item"),
        ...     sp.csr_array((2, 3)),
        ... )
        >>> ids, scores = recommender.recommend("ann", k=2)
        >>> ids.tolist(), scores.tolist()
        (['x', 'z'], [1.0, 0.5])
    """

    def __init__(
        self,
        users: Float32Array,
        items: Float32Array,
        user_ids: Vocabulary,
        item_ids: Vocabulary,
        seen: sp.csr_array,
        manifest: dict[str, Any] | None = None,
        memory_budget: int = MEMORY_BUDGET,
        item_messages: Float32Array | None = None,
        self_loops: bool = False,
        index: Index | None = None,
    ) -> None:
        matrices = [("user", users, user_ids), ("item", items, item_ids)]
        if item_messages is not None:
            matrices.append(("item", item_messages, item_ids))
        for name, matrix, ids in matrices:
            if matrix.ndim != 2 or matrix.dtype != np.float32 or len(matrix) != len(ids):
                raise DataError(
                    f"{name} embeddings are {matrix.dtype} of shape {matrix.shape}, "
                    f"expected float32 of shape ({len(ids)}, d): one row for each {name} id"
                )
            if not np.isfinite(matrix).all():
                row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
                raise DataError(f"the embedding of {name} {ids.id(row)!r} is not finite")
        for name, matrix, _ in matrices[1:]:
            if users.shape[1] != matrix.shape[1]:
                raise DataError(f"users have {users.shape[1]} dimensions, {name}s {matrix.shape[1]}")
        if _longest(users) * _longest(items) > float(np.finfo(np.float32).max):
            raise DataError("the scores overflow float32: the embeddings are far too large")
        if seen.shape != (len(user_ids), len(item_ids)):
            raise DataError(f"seen has shape {seen.shape}, expected {(len(user_ids), len(item_ids))}")
        self.users = np.ascontiguousarray(users)
        self.items = np.ascontiguousarray(items)
        self.user_ids = user_ids
        self.item_ids = item_ids
        self.seen = sp.csr_array(seen)
        self.manifest = dict(manifest or {})
        self.memory_budget = memory_budget
        self.item_messages = None if item_messages is None else np.ascontiguousarray(item_messages)
        self.self_loops = self_loops
        self.index = index

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        users: Float32Array,
        items: Float32Array,
        manifest: dict[str, Any] | None = None,
        item_messages: Float32Array | None = None,
        self_loops: bool = False,
    ) -> Recommender:
        """For a dataset: seen are the training items, the manifest gets its name and fingerprint."""
        belongs = {"dataset": dataset.name, "fingerprint": dataset.fingerprint}
        return cls(
            users, items, dataset.users, dataset.items, dataset.train.csr(), {**(manifest or {}), **belongs},
            item_messages=item_messages, self_loops=self_loops,
        )  # fmt: skip

    def recommend(
        self,
        user_ids: RawIds,
        k: int = 20,
        exclude_seen: bool = True,
        candidates: Iterable[RawId] | None = None,
        exclude: Iterable[RawId] | None = None,
    ) -> tuple[AnyArray, Float32Array]:
        """The k items of highest score for each user.

        Args:
            user_ids: one raw id or B of them.
            k: how many.
            exclude_seen: leave out what the user interacted with in training.
            candidates: choose among these items alone; None means all.
            exclude: never these items.

        Returns:
            ids [B, k] and scores float32[B, k]; without the B for one id. Padded as the class says.

        Raises:
            UnknownIdError: a user or an item that is not there.
            ConfigError: k below 1.
        """
        rows, scalar = _rows(self.user_ids, user_ids)
        allowed = self._allowed(candidates, exclude)
        found, scores = self.recommend_rows(rows, k, exclude_seen, allowed)
        return _answer(_named(self._raw_items, found), scores, scalar)

    def recommend_rows(
        self,
        users: IntArray,
        k: int = 20,
        exclude_seen: bool = True,
        allowed: BoolArray | None = None,
    ) -> tuple[IntArray, Float32Array]:
        """``recommend`` in rows instead of raw ids: item rows int64[B, k] (−1: none) and scores.

        Args:
            users: int64[B], user rows.
            k: how many.
            exclude_seen: as in ``recommend``.
            allowed: bool[I], the items to choose among; None means all.
        """
        seen = self._seen_of(users) if exclude_seen else None
        return self._best(lambda block: self.users[users[block]], len(users), k, seen, allowed)

    def recommend_vectors(
        self,
        vectors: Float32Array,
        k: int = 20,
        candidates: Iterable[RawId] | None = None,
        exclude: Iterable[RawId] | None = None,
    ) -> tuple[AnyArray, Float32Array]:
        """``recommend`` for user vectors that are not in the catalogue, such as ``fold_in``'s.

        Args:
            vectors: float32[d], or float32[B, d].
            k: how many.
            candidates: as in ``recommend``.
            exclude: as in ``recommend``.

        Raises:
            DataError: another number of dimensions, or a vector that is not finite.
        """
        queries = self._queries(vectors)
        allowed = self._allowed(candidates, exclude)
        found, scores = self._best(lambda block: queries[block], len(queries), k, None, allowed)
        return _answer(_named(self._raw_items, found), scores, np.ndim(vectors) == 1)

    def users_for(self, vectors: Float32Array, k: int = 20) -> tuple[AnyArray, Float32Array]:
        """The k users of highest cosine to each item vector: who would like an item that is new.

        Not the highest score: a user's score for an item grows with the length of the user's vector, which
        says nothing about where the item stands in that user's list.

        Args:
            vectors: float32[d], or float32[B, d].
            k: how many.
        """
        queries = _unit(self._queries(vectors))
        found, cosines = self._search(
            lambda block: queries[block], self._unit_users, len(queries), k, None, None
        )
        return _answer(_named(self._raw_users, found), np.minimum(cosines, 1), np.ndim(vectors) == 1)

    def fold_in(self, item_ids: Sequence[RawId] | AnyArray) -> Float32Array:
        """float32[d]: the vector of a new user who likes these items, without training.

        The propagation step for one node: Σ neighbours_v / √n over the n items, what the model gives a
        user of n items whose own embedding is zero. Where there are no ``item_messages``, the items' mean.

        Raises:
            UnknownIdError: an item that is not there.
            ConfigError: no item.
        """
        rows = np.unique(self.item_ids.rows(list(item_ids)))
        if not len(rows):
            raise ConfigError("fold_in needs at least one item")
        return self.fold_in_rows(rows)

    def fold_in_rows(self, rows: IntArray, weights: Float32Array | None = None) -> Float32Array:
        """``fold_in`` in item rows; ``weights`` float32[n] say how much each counts, 1 by default."""
        table = self.items if self.item_messages is None else self.item_messages
        weights = np.ones(len(rows), np.float32) if weights is None else weights
        total = float(weights.sum())
        degree = total if self.item_messages is None else math.sqrt(total + self.self_loops)
        vector: Float32Array = weights @ table[rows] / np.float32(max(degree, 1e-12))
        return vector

    def with_items(self, ids: Sequence[RawId], vectors: Float32Array) -> Recommender:
        """This one with items appended, from then on recommended like any other.

        Args:
            ids: n raw ids that are not there yet.
            vectors: float32[n, d], for example of a ``ColdStart``.

        Raises:
            DataError: an id that is there, or of the other type; wrong vectors.
        """
        return self._like(
            items=np.concatenate([self.items, np.asarray(vectors, np.float32).reshape(len(ids), -1)]),
            item_ids=Vocabulary([*self.item_ids.ids, *ids], self.item_ids.kind),
            seen=_widened(self.seen, len(self.items) + len(ids)),
            item_messages=None
            if self.item_messages is None
            else np.concatenate([self.item_messages, np.zeros((len(ids), self.users.shape[1]), np.float32)]),
            index=self.index and self.index.with_items(np.asarray(vectors, np.float32)),
        )

    def with_index(self, index: Index | None) -> Recommender:
        """This one, searching through ``index``; None searches exactly."""
        return self._like(index=index)

    def similar_items(self, item_ids: RawIds, k: int = 10) -> tuple[AnyArray, Float32Array]:
        """The k items of highest cosine to each item, itself left out; shapes as in ``recommend``."""
        rows, scalar = _rows(self.item_ids, item_ids)
        found, scores = self._similar(self._unit_items, rows, k)
        return _answer(_named(self._raw_items, found), scores, scalar)

    def similar_users(self, user_ids: RawIds, k: int = 10) -> tuple[AnyArray, Float32Array]:
        """The k users of highest cosine to each user, itself left out; shapes as in ``recommend``."""
        rows, scalar = _rows(self.user_ids, user_ids)
        found, scores = self._similar(self._unit_users, rows, k)
        return _answer(_named(self._raw_users, found), scores, scalar)

    def score(self, user_ids: RawIds, item_ids: RawIds) -> Float32Array:
        """float32[B, M]: the score of each of B users for each of M items; one id drops its axis.

        Raises:
            UnknownIdError: a user or an item that is not there.
        """
        users, one_user = _rows(self.user_ids, user_ids)
        items, one_item = _rows(self.item_ids, item_ids)
        scores: Float32Array = self.users[users] @ self.items[items].T
        scores = scores[0] if one_user else scores
        return scores[..., 0] if one_item else scores

    def save(self, folder: Path) -> None:
        """Write the folder: arrays, ids and ``recommender.json`` with their checksums; atomic as a whole."""
        with atomic_folder(Path(folder), "recommender.json") as temporary:
            # One type for both, so that a sparse matrix of them is no copy.
            narrow = np.int32 if self.seen.nnz < np.iinfo(np.int32).max else np.int64
            arrays: dict[str, AnyArray] = {
                "users": self.users,
                "items": self.items,
                "seen_indptr": self.seen.indptr.astype(narrow),
                "seen_indices": self.seen.indices.astype(narrow),
            }
            if self.item_messages is not None:
                arrays["neighbours"] = self.item_messages
            save_file(arrays, temporary / ARRAYS)
            ids = {"users": self.user_ids.ids, "items": self.item_ids.ids}
            write_text(temporary / IDS, json.dumps(ids, ensure_ascii=False))
            description = {
                "format": FORMAT,
                "users": len(self.users),
                "items": len(self.items),
                "embedding_size": self.users.shape[1],
                "self_loops": self.self_loops,
                "manifest": self.manifest,
                "sha256": {name: sha256(temporary / name) for name in (ARRAYS, IDS)},
            }
            write_json(temporary / MANIFEST, {**description, "checksum": _checksum(description)})

    @classmethod
    def load(cls, folder: Path, memory_budget: int = MEMORY_BUDGET, mmap: bool = False) -> Recommender:
        """Read a folder that ``save`` wrote.

        Args:
            folder: where.
            memory_budget: as in the class.
            mmap: map the arrays read-only instead of reading them: processes that load one folder share
                its memory. The checksums are checked in either case.

        Raises:
            WorkspaceError: it is absent, of another format, or a file is missing, truncated or was edited.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.exists():
            raise WorkspaceError(f"no recommender at {folder}: make one with 'rlmrec train …'")
        description = read_json(path)
        if not isinstance(description, dict):
            raise WorkspaceError(f"{path} is damaged: expected an object")
        if description.get("format") != FORMAT:
            raise WorkspaceError(
                f"{path} has format {description.get('format')!r}, this version reads {FORMAT}"
            )
        if description.pop("checksum", None) != _checksum(description):
            raise WorkspaceError(f"{path} was changed after it was written: save the recommender again")
        for name, checksum in description["sha256"].items():
            if not (folder / name).exists() or sha256(folder / name) != checksum:
                raise WorkspaceError(f"{folder / name} is missing or was changed: save the recommender again")
        arrays = _arrays(folder / ARRAYS, mmap)
        ids = read_json(folder / IDS)
        shape = (description["users"], description["items"])
        indices = arrays["seen_indices"]
        seen = sp.csr_array((np.ones(len(indices), bool), indices, arrays["seen_indptr"]), shape=shape)
        return cls(
            arrays["users"],
            arrays["items"],
            Vocabulary(ids["users"], "user"),
            Vocabulary(ids["items"], "item"),
            seen,
            description["manifest"],
            memory_budget,
            arrays.get("neighbours"),
            description.get("self_loops", False),
        )

    @cached_property
    def _unit_users(self) -> Float32Array:
        return _unit(self.users)

    @cached_property
    def _unit_items(self) -> Float32Array:
        return _unit(self.items)

    @cached_property
    def _raw_users(self) -> AnyArray:
        return _with_padding(self.user_ids)

    @cached_property
    def _raw_items(self) -> AnyArray:
        return _with_padding(self.item_ids)

    def _similar(self, unit: Float32Array, rows: IntArray, k: int) -> tuple[IntArray, Float32Array]:
        def itself(block: slice) -> sp.csr_array:
            own = rows[block]
            return sp.csr_array(
                (np.ones(len(own), bool), own, np.arange(len(own) + 1)), shape=(len(own), len(unit))
            )

        found, cosines = self._search(lambda block: unit[rows[block]], unit, len(rows), k, itself, None)
        # A cosine, whatever the rounding; −∞ stays what it is.
        return found, np.where(np.isneginf(cosines), cosines, np.clip(cosines, -1, 1))

    def _like(self, **changes: Any) -> Recommender:
        """A recommender of these very arrays, some of them exchanged."""
        same = {
            name: getattr(self, name)
            for name in (
                "users", "items", "user_ids", "item_ids", "seen", "manifest", "memory_budget", "item_messages",
                "self_loops", "index",
            )
        }  # fmt: skip
        return Recommender(**{**same, **changes})

    def _queries(self, vectors: Float32Array) -> Float32Array:
        queries = np.atleast_2d(np.asarray(vectors, np.float32))
        if queries.ndim != 2 or queries.shape[1] != self.users.shape[1] or not np.isfinite(queries).all():
            raise DataError(
                f"expected finite vectors of {self.users.shape[1]} numbers, got shape {np.shape(vectors)}"
            )
        return queries

    def _allowed(
        self, candidates: Iterable[RawId] | None, exclude: Iterable[RawId] | None
    ) -> BoolArray | None:
        if candidates is None and exclude is None:
            return None
        allowed = np.full(len(self.items), candidates is None)
        if candidates is not None:
            allowed[self.item_ids.rows(list(candidates))] = True
        if exclude is not None:
            allowed[self.item_ids.rows(list(exclude))] = False
        return allowed

    def _seen_of(self, users: IntArray) -> Callable[[slice], sp.csr_array]:
        return lambda block: sp.csr_array(self.seen[users[block]])

    def _best(
        self,
        queries: Callable[[slice], Float32Array],
        n_rows: int,
        k: int,
        seen: Callable[[slice], sp.csr_array] | None,
        allowed: BoolArray | None,
    ) -> tuple[IntArray, Float32Array]:
        """The best of all items, or of the allowed ones; through the index where that is of use."""
        if allowed is None or allowed.all():
            if self.index is not None and k >= 1:
                return self._approximate(self.index, queries, n_rows, k, seen)
            return self._search(queries, self.items, n_rows, k, seen, None)
        chosen = np.flatnonzero(allowed)  # (M,)
        if 2 * len(chosen) > len(allowed):  # cheaper to leave out what is not allowed than to copy the rest
            return self._search(queries, self.items, n_rows, k, seen, np.flatnonzero(~allowed))
        among = None if seen is None else lambda block: sp.csr_array(seen(block)[:, chosen])
        found, scores = self._search(queries, self.items[chosen], n_rows, k, among, None)
        return (np.where(found >= 0, chosen[found], -1) if len(chosen) else found), scores

    def _search(
        self,
        queries: Callable[[slice], Float32Array],
        items: Float32Array,
        n_rows: int,
        k: int,
        excluded: Callable[[slice], sp.csr_array] | None,
        banned: IntArray | None,
    ) -> tuple[IntArray, Float32Array]:
        """Exact: the k largest products of each query, blocks of queries at a time."""
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")

        def best(block: slice) -> tuple[IntArray, Float32Array]:
            left_out = None if excluded is None else excluded(block)
            return top_k_products(queries(block), items, k, left_out, banned)

        columns = min(len(items), max(TILE, 16 * k))
        return _gathered(map_blocks(best, n_rows, columns, self.memory_budget), n_rows, k)

    def _approximate(
        self,
        index: Index,
        queries: Callable[[slice], Float32Array],
        n_rows: int,
        k: int,
        seen: Callable[[slice], sp.csr_array] | None,
    ) -> tuple[IntArray, Float32Array]:
        """Through the index: as many more are fetched as a user has seen, then what was seen is dropped."""

        def blocks() -> Iterator[tuple[IntArray, Float32Array]]:
            for start in range(0, n_rows, INDEX_BLOCK):
                block = slice(start, min(start + INDEX_BLOCK, n_rows))
                left_out = None if seen is None else seen(block)
                most = 0 if left_out is None else int(np.diff(left_out.indptr).max(initial=0))
                found, scores = index.search(queries(block), min(k + most, len(self.items)))
                if left_out is not None:
                    found, scores = _without(found, scores, left_out)
                yield found[:, :k], scores[:, :k]

        return _gathered(blocks(), n_rows, k)


def _gathered(
    blocks: Iterable[tuple[IntArray, Float32Array]], n_rows: int, k: int
) -> tuple[IntArray, Float32Array]:
    """The results of all blocks in arrays of k columns, padded with −1 and −∞."""
    found = np.full((n_rows, k), -1)
    scores = np.full((n_rows, k), -np.inf, np.float32)
    start = 0
    for columns, values in blocks:
        stop, width = start + len(columns), columns.shape[1]
        found[start:stop, :width] = np.where(np.isneginf(values), -1, columns)
        scores[start:stop, :width] = values
        start = stop
    return found, scores


def _without(found: IntArray, scores: Float32Array, left_out: sp.csr_array) -> tuple[IntArray, Float32Array]:
    """The lists without what is left out, the rest moved up in its order, padded with −1 and −∞."""
    n_items = left_out.shape[1]
    keys = np.repeat(np.arange(len(found)), np.diff(left_out.indptr)) * n_items + left_out.indices
    drop = np.isin(np.arange(len(found))[:, None] * n_items + found, keys) | (found < 0)
    order = np.argsort(drop, axis=1, kind="stable")
    found = np.take_along_axis(np.where(drop, -1, found), order, 1)
    return found, np.take_along_axis(np.where(drop, np.float32(-np.inf), scores), order, 1)


def _widened(seen: sp.csr_array, n_items: int) -> sp.csr_array:
    """The same entries in a matrix with more columns."""
    return sp.csr_array((seen.data, seen.indices, seen.indptr), shape=(seen.shape[0], n_items))


def _longest(matrix: Float32Array) -> float:
    """The length of the longest row, squares taken in float64."""
    return math.sqrt(float(np.einsum("nd,nd->n", matrix, matrix, dtype=np.float64).max(initial=0)))


def _rows(vocabulary: Vocabulary, raw: RawIds) -> tuple[IntArray, bool]:
    """Rows int64[B] of one raw id or several, and whether it was one."""
    if isinstance(raw, str | int | np.integer):
        return np.array([vocabulary.row(raw)]), True
    if isinstance(raw, np.ndarray) and raw.ndim == 0:
        return np.array([vocabulary.row(raw.item())]), True
    return vocabulary.rows(raw), False


def _answer(ids: AnyArray, scores: Float32Array, scalar: bool) -> tuple[AnyArray, Float32Array]:
    return (ids[0], scores[0]) if scalar else (ids, scores)


def _with_padding(vocabulary: Vocabulary) -> AnyArray:
    """The raw ids and, last, what stands for none: so that row −1 finds it."""
    if vocabulary.is_text:
        return np.array([*vocabulary.ids, None], object)
    return np.array([*vocabulary.ids, -1], np.int64)


def _named(raw: AnyArray, rows: IntArray) -> AnyArray:
    named: AnyArray = raw[rows]
    return named


def _unit(matrix: Float32Array) -> Float32Array:
    """Rows of length 1; a zero row stays zero, its cosine with anything is 0."""
    norms: Float32Array = np.sqrt(np.square(matrix).sum(axis=1, keepdims=True))
    norms[norms == 0] = 1
    unit: Float32Array = matrix / norms
    return unit


def _arrays(path: Path, mmap: bool) -> dict[str, AnyArray]:
    """The arrays of a safetensors file whose checksum was right, mapped or read.

    The library itself reads every tensor into memory of its own, so the header is taken apart here: its
    length in eight bytes, JSON, then the data. Each array is mapped for itself: scipy copies indices that
    are a small part of something larger.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    arrays = {}
    for name, part in header.items():
        if name == "__metadata__":
            continue
        kind, shape = TYPES[part["dtype"]], tuple(part["shape"])
        start = 8 + size + part["data_offsets"][0]
        if mmap and math.prod(shape):  # nothing cannot be mapped
            arrays[name] = np.asarray(np.memmap(path, kind, "r", start, shape))
        else:
            arrays[name] = np.fromfile(path, kind, math.prod(shape), offset=start).reshape(shape)
    return arrays


def _checksum(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
