"""Recommender: final embeddings, ids and what each user has seen. A server of it needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from safetensors.numpy import load_file, save_file

from rlmrec.data.dataset import Dataset
from rlmrec.data.vocabulary import RawId, Vocabulary
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.files import atomic_folder, read_json, sha256, write_json, write_text
from rlmrec.topk import MEMORY_BUDGET, map_blocks, top_k

FORMAT = 1
ARRAYS, IDS, MANIFEST = "embeddings.safetensors", "ids.json", "recommender.json"

IntArray = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
IdArray = npt.NDArray[Any]
RawIds = RawId | Sequence[RawId] | IdArray


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
    ) -> None:
        for name, matrix, ids in (("user", users, user_ids), ("item", items, item_ids)):
            if matrix.ndim != 2 or matrix.dtype != np.float32 or len(matrix) != len(ids):
                raise DataError(
                    f"{name} embeddings are {matrix.dtype} of shape {matrix.shape}, "
                    f"expected float32 of shape ({len(ids)}, d): one row for each {name} id"
                )
            if not np.isfinite(matrix).all():
                row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
                raise DataError(f"the embedding of {name} {ids.id(row)!r} is not finite")
        if users.shape[1] != items.shape[1]:
            raise DataError(f"users have {users.shape[1]} dimensions, items {items.shape[1]}")
        if seen.shape != (len(user_ids), len(item_ids)):
            raise DataError(f"seen has shape {seen.shape}, expected {(len(user_ids), len(item_ids))}")
        self.users = np.ascontiguousarray(users)
        self.items = np.ascontiguousarray(items)
        self.user_ids = user_ids
        self.item_ids = item_ids
        self.seen = sp.csr_array(seen)
        self.manifest = dict(manifest or {})
        self.memory_budget = memory_budget

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        users: Float32Array,
        items: Float32Array,
        manifest: dict[str, Any] | None = None,
    ) -> Recommender:
        """For a dataset: seen are the training items, the manifest gets its name and fingerprint."""
        belongs = {"dataset": dataset.name, "fingerprint": dataset.fingerprint}
        seen = dataset.train.csr()
        return cls(users, items, dataset.users, dataset.items, seen, {**(manifest or {}), **belongs})

    def recommend(
        self,
        user_ids: RawIds,
        k: int = 20,
        exclude_seen: bool = True,
        candidates: Iterable[RawId] | None = None,
        exclude: Iterable[RawId] | None = None,
    ) -> tuple[IdArray, Float32Array]:
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
        allowed = None
        if candidates is not None or exclude is not None:
            allowed = np.full(len(self.items), candidates is None)
            if candidates is not None:
                allowed[self.item_ids.rows(list(candidates))] = True
            if exclude is not None:
                allowed[self.item_ids.rows(list(exclude))] = False
        rows, scalar = _rows(self.user_ids, user_ids)
        found, scores = self.recommend_rows(rows, k, exclude_seen, allowed)
        return _answer(_named(self._raw_items, found), scores, scalar)

    def recommend_rows(
        self,
        users: IntArray,
        k: int = 20,
        exclude_seen: bool = True,
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[IntArray, Float32Array]:
        """``recommend`` in rows instead of raw ids: item rows int64[B, k] (−1: none) and scores.

        Args:
            users: int64[B], user rows.
            k: how many.
            exclude_seen: as in ``recommend``.
            allowed: bool[I], the items to choose among; None means all.
        """
        chosen = None if allowed is None or allowed.all() else np.flatnonzero(allowed)  # (M,)
        items = self.items if chosen is None else self.items[chosen]
        seen = self.seen[users] if exclude_seen else None
        if seen is not None and chosen is not None:
            seen = sp.csr_array(seen[:, chosen])

        def best(block: slice) -> tuple[IntArray, Float32Array]:
            scores = self.users[users[block]] @ items.T  # (b, M)
            if seen is not None:
                of_rows = seen.indptr[block.start : block.stop + 1]
                rows = np.repeat(np.arange(len(scores)), np.diff(of_rows))
                scores[rows, seen.indices[of_rows[0] : of_rows[-1]]] = -np.inf
            return top_k(scores, k)

        found, scores = self._gather(best, len(users), len(items), k)
        if chosen is not None and len(chosen):
            found = np.where(found >= 0, chosen[found], -1)
        return found, scores

    def similar_items(self, item_ids: RawIds, k: int = 10) -> tuple[IdArray, Float32Array]:
        """The k items of highest cosine to each item, itself left out; shapes as in ``recommend``."""
        rows, scalar = _rows(self.item_ids, item_ids)
        found, scores = self._similar(self._unit_items, rows, k)
        return _answer(_named(self._raw_items, found), scores, scalar)

    def similar_users(self, user_ids: RawIds, k: int = 10) -> tuple[IdArray, Float32Array]:
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
            arrays: dict[str, npt.NDArray[Any]] = {
                "users": self.users,
                "items": self.items,
                "seen_indptr": self.seen.indptr.astype(np.int64),
                "seen_indices": self.seen.indices.astype(np.int32),
            }
            save_file(arrays, temporary / ARRAYS)
            ids = {"users": self.user_ids.ids, "items": self.item_ids.ids}
            write_text(temporary / IDS, json.dumps(ids, ensure_ascii=False))
            description = {
                "format": FORMAT,
                "users": len(self.users),
                "items": len(self.items),
                "embedding_size": self.users.shape[1],
                "manifest": self.manifest,
                "sha256": {name: sha256(temporary / name) for name in (ARRAYS, IDS)},
            }
            write_json(temporary / MANIFEST, {**description, "checksum": _checksum(description)})

    @classmethod
    def load(cls, folder: Path, memory_budget: int = MEMORY_BUDGET) -> Recommender:
        """Read a folder that ``save`` wrote.

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
        arrays = load_file(folder / ARRAYS)
        ids = read_json(folder / IDS)
        shape = (description["users"], description["items"])
        indices = arrays["seen_indices"]
        seen = sp.csr_array((np.ones(len(indices), np.float32), indices, arrays["seen_indptr"]), shape=shape)
        return cls(
            arrays["users"],
            arrays["items"],
            Vocabulary(ids["users"], "user"),
            Vocabulary(ids["items"], "item"),
            seen,
            description["manifest"],
            memory_budget,
        )

    @cached_property
    def _unit_users(self) -> Float32Array:
        return _unit(self.users)

    @cached_property
    def _unit_items(self) -> Float32Array:
        return _unit(self.items)

    @cached_property
    def _raw_users(self) -> IdArray:
        return _with_padding(self.user_ids)

    @cached_property
    def _raw_items(self) -> IdArray:
        return _with_padding(self.item_ids)

    def _similar(self, unit: Float32Array, rows: IntArray, k: int) -> tuple[IntArray, Float32Array]:
        def best(block: slice) -> tuple[IntArray, Float32Array]:
            scores = unit[rows[block]] @ unit.T
            np.clip(scores, -1, 1, out=scores)  # a cosine, whatever the rounding
            scores[np.arange(len(scores)), rows[block]] = -np.inf
            return top_k(scores, k)

        return self._gather(best, len(rows), len(unit), k)

    def _gather(self, best: Any, n_rows: int, n_columns: int, k: int) -> tuple[IntArray, Float32Array]:
        """The results of all blocks in arrays of k columns, padded with −1 and −∞."""
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        found = np.full((n_rows, k), -1)
        scores = np.full((n_rows, k), -np.inf, np.float32)
        start, width = 0, min(k, n_columns)
        for columns, values in map_blocks(best, n_rows, n_columns, self.memory_budget):
            stop = start + len(columns)
            found[start:stop, :width] = np.where(np.isneginf(values), -1, columns)
            scores[start:stop, :width] = values
            start = stop
        return found, scores


def _rows(vocabulary: Vocabulary, raw: RawIds) -> tuple[IntArray, bool]:
    """Rows int64[B] of one raw id or several, and whether it was one."""
    if isinstance(raw, str | int | np.integer):
        return np.array([vocabulary.row(raw)]), True
    if isinstance(raw, np.ndarray) and raw.ndim == 0:
        return np.array([vocabulary.row(raw.item())]), True
    return vocabulary.rows(raw), False


def _answer(ids: IdArray, scores: Float32Array, scalar: bool) -> tuple[IdArray, Float32Array]:
    return (ids[0], scores[0]) if scalar else (ids, scores)


def _with_padding(vocabulary: Vocabulary) -> IdArray:
    """The raw ids and, last, what stands for none: so that row −1 finds it."""
    if vocabulary.is_text:
        return np.array([*vocabulary.ids, None], object)
    return np.array([*vocabulary.ids, -1], np.int64)


def _named(raw: IdArray, rows: IntArray) -> IdArray:
    named: IdArray = raw[rows]
    return named


def _unit(matrix: Float32Array) -> Float32Array:
    """Rows of length 1; a zero row stays zero, its cosine with anything is 0."""
    norms: Float32Array = np.sqrt(np.square(matrix).sum(axis=1, keepdims=True))
    norms[norms == 0] = 1
    unit: Float32Array = matrix / norms
    return unit


def _checksum(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
