"""Recommender: top-k recommendations from embeddings, and from sparse parts beside them, without PyTorch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from rlmrec import hub
from rlmrec.closed_form.base import ClosedFormModel, UserParts
from rlmrec.data.dataset import Dataset
from rlmrec.data.vocabulary import RawId, Vocabulary
from rlmrec.errors import ConfigError, DataError
from rlmrec.evaluation.ranking import DotProduct, Scorer, of_other_dataset
from rlmrec.recommend import search, storage
from rlmrec.recommend.card import card
from rlmrec.recommend.index import Index, build_index
from rlmrec.recommend.search import Found, Queries
from rlmrec.recommend.sparse_parts import LIGHT, SparseParts
from rlmrec.topk import MEMORY_BUDGET, ByNorm, check_whole, top_k
from rlmrec.types import AnyArray, BoolArray, Float32Array, IntArray

RawIds = RawId | Sequence[RawId] | AnyArray
Answer = tuple[AnyArray, Float32Array]  # raw ids and scores

USERS_AT_ONCE = 16_384
BYTES_PER_ENTRY = 12  # of a list: a row and a score


class Recommender:
    """Recommends items to users from embeddings: score(u, i) = e_u · e_i. Similarity is the cosine.

    Methods take and return raw ids, those named ``…_rows`` take and return row numbers. One id gives vectors;
    a list or array of B ids gives matrices of B rows. Results are ``(ids, scores)``, best first; equal scores
    are in the order of the catalogue. Each row has k entries. Where there are fewer candidates, the rest has
    the score −∞ and the id None (text ids) or −1 (integer ids, where only the score tells).

    Objects do not change; the ``with_…`` methods return new ones.

    Args:
        users: float32[U, d].
        items: float32[I, d].
        user_ids: U raw ids.
        item_ids: I raw ids.
        seen: U x I sparse matrix; its non-zeros are the training interactions.
        manifest: the run, dataset and configuration that it was made from; JSON.
        memory_budget: bytes that blocks of scores may take, however many users are queried.
        item_messages: float32[I, d], the message m_v of each item to its users in the last step of a linear
            propagation: e_u = own_u + Σ m_v / √d_u over the training items v of u. None for a backbone of
            another form. ``fold_in`` and explanations use them.
        self_loops: d_u counts the user itself, as in GCCF.
        index: an approximate index over ``items``; None searches exactly.
        parts: what a closed-form recommender adds to e_u · e_i, and its rule for new users; None for trained ones.
        known: U x I sparse matrix; its non-zeros are all interactions that are known, held-out ones too, and are
            not recommended. ``seen`` by default.

    Raises:
        DataError: the shapes do not match, or an embedding is not finite.
        ConfigError: an index, while ``parts`` add too much to the dot product; see ``check_index``.

    Example:
        >>> recommender = Recommender(
        ...     np.eye(2, dtype=np.float32),
        ...     np.array([[1, 0], [0, 1], [0.5, 0]], np.float32),
        ...     Vocabulary(["ann", "bob"], "user"),
        ...     Vocabulary(["x", "y", "z"], "item"),
        ...     sp.csr_array((2, 3)),
        ... )
        >>> recommender
        Recommender(2 users, 3 items, embedding size 2)
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
        parts: SparseParts | None = None,
        known: sp.csr_array | None = None,
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
        for name, pairs in (("seen", seen), ("known", seen if known is None else known)):
            if pairs.shape != (len(user_ids), len(item_ids)):
                raise DataError(f"{name} has shape {pairs.shape}, expected {(len(user_ids), len(item_ids))}")
        self.users = np.ascontiguousarray(users)
        self.items = np.ascontiguousarray(items)
        self.user_ids = user_ids
        self.item_ids = item_ids
        self.seen = sp.csr_array(seen)
        self.known = self.seen if known is None else sp.csr_array(known)
        self.manifest = dict(manifest or {})
        self.memory_budget = memory_budget
        self.item_messages = None if item_messages is None else np.ascontiguousarray(item_messages)
        self.self_loops = self_loops
        self.index = index
        self.parts = parts
        if parts is not None:
            parts.check(len(user_ids), len(item_ids))
        if index is not None:
            self.check_index()

    def __repr__(self) -> str:
        parts = [
            f"{len(self.users):,} users",
            f"{len(self.items):,} items",
            f"embedding size {self.users.shape[1]}",
        ]
        if "dataset" in self.manifest:
            parts.insert(0, f"dataset {self.manifest['dataset']!r}")
        run = self.manifest.get("config", {}).get("run", {})
        if "backbone" in run:
            parts.insert(0, f"{run['backbone']} + {run.get('alignment', 'none')}")
        if self.index is not None:
            parts.append("approximate index")
        return f"Recommender({', '.join(parts)})"

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
        """Make a recommender for a dataset: ``seen`` are its training interactions, ``known`` all of them.

        Arguments as in the class. The dataset's name and fingerprint, and that it is a final one, are added to the
        manifest.
        """
        belongs: dict[str, Any] = {"dataset": dataset.name, "fingerprint": dataset.fingerprint}
        if dataset.is_final:
            belongs["is_final"] = True
        return cls(
            users, items, dataset.users, dataset.items, dataset.train.csr(), {**(manifest or {}), **belongs},
            item_messages=item_messages, self_loops=self_loops, known=dataset.known(),
        )  # fmt: skip

    @classmethod
    def of_model(
        cls,
        dataset: Dataset,
        model: ClosedFormModel,
        manifest: dict[str, Any] | None = None,
        user_texts: Float32Array | None = None,
    ) -> Recommender:
        """Make a recommender of a closed-form model that was fitted to a dataset.

        Args:
            dataset: the dataset. Of a model that was fitted to another one, a warning says so, as in ``evaluate``.
            model: the model.
            manifest: as in the class.
            user_texts: float32[U, d_s], the users' own text vectors that it was fitted with, zeros for none.

        Raises:
            ConfigError: ``model`` is something else; a trained model's embeddings go into ``of``.
        """
        Dataset.check(dataset)
        if not isinstance(model, ClosedFormModel):
            raise ConfigError(
                f"model has type {type(model).__name__}: expected what fit() of a closed form returns; of trained "
                "embeddings Recommender.of(dataset, users, items) makes a recommender"
            )
        if told := of_other_dataset(model, dataset):
            warnings.warn(f"{told}: fit the model to this dataset", stacklevel=2)
        if model.is_final:  # also beside the dataset that has held-out pairs
            manifest = {**(manifest or {}), "is_final": True}
        recommender = cls.of(dataset, model.users, model.items, manifest)
        return recommender._replace(parts=SparseParts.of(model, user_texts))

    @property
    def is_inner_product(self) -> bool:
        """Whether e_u · e_i is all of the score, so that an index or a vector database can search."""
        return self.parts is None or self.parts.is_inner_product

    def check_index(self) -> None:
        """Check that an index can search: dot products, to which at most a few sums are added for each user.

        Raises:
            ConfigError: the item neighbours are too many for it, or there are no embeddings.
        """
        if self.parts is not None and not self.is_inner_product and not self._adds_sums:
            if not self.items.shape[1]:
                raise ConfigError("an index needs embeddings of items, and this run has only item neighbours")
            raise ConfigError(
                f"an index needs at most one in {LIGHT} of all pairs of items as neighbours, and this run has more: "
                "train graph-filter with fewer, such as --set neighbours=50"
            )

    @property
    def _adds_sums(self) -> bool:
        """Whether the scores are dot products and sums that are few enough to be kept sparse."""
        return self.parts is not None and self.parts.is_light and self.items.shape[1] > 0

    def check_inner_product(self, purpose: str) -> None:
        """Check that the embeddings alone give the scores.

        Raises:
            ConfigError: they do not.
        """
        if not self.is_inner_product:
            raise ConfigError(
                f"{purpose} needs scores that are dot products, and this run adds item neighbours or similar users to "
                "them: train graph-filter with --set neighbours=0 --set user_text_weight=0, or write everybody's "
                "lists with 'rlmrec recommend --all'"
            )

    # -- recommendations ---------------------------------------------------------------------------------

    def recommend(
        self,
        user_ids: RawIds,
        k: int = 20,
        exclude_seen: bool = True,
        candidates: Iterable[RawId] | None = None,
        exclude: Iterable[RawId] | None = None,
    ) -> Answer:
        """Return the k items with the highest score for each user.

        Args:
            user_ids: one raw id or B of them.
            k: how many.
            exclude_seen: leave out the items of each user's known interactions, held-out ones too.
            candidates: recommend only these items; None means all.
            exclude: never recommend these items.

        Returns:
            ids [B, k] and scores float32[B, k]; without the B for one id. Padded as described in the class.

        Raises:
            UnknownIdError: an unknown user or item.
            DataError: no ids where ids are expected, such as None.
            ConfigError: k is no whole number of at least 1.
        """
        rows, scalar = _rows(self.user_ids, user_ids)
        found = self.recommend_rows(rows, k, exclude_seen, self._allowed(candidates, exclude))
        return _answer(self._raw_items, found, scalar)

    def recommend_rows(
        self, users: IntArray, k: int = 20, exclude_seen: bool = True, allowed: BoolArray | None = None
    ) -> Found:
        """Return the k best items for user rows.

        Args:
            users: int64[B], user rows.
            k: how many.
            exclude_seen: leave out the items of each user's known interactions, held-out ones too.
            allowed: bool[I], the items that may be recommended; None means all.

        Returns:
            item rows int64[B, k] (−1: none) and scores float32[B, k].
        """
        return self._search(self._user_queries(users, exclude_seen), k, allowed)

    def recommend_vectors(
        self,
        vectors: Float32Array,
        k: int = 20,
        candidates: Iterable[RawId] | None = None,
        exclude: Iterable[RawId] | None = None,
    ) -> Answer:
        """Return the k best items for user vectors that are not in the catalogue, such as ``ColdStart.users``.

        Args:
            vectors: float32[d], or float32[B, d].
            k: how many.
            candidates: as in ``recommend``.
            exclude: as in ``recommend``.

        Raises:
            DataError: the vectors have another size or are not finite.
        """
        vectors, scalar = self._checked(vectors)
        ids, scores = self.recommend_parts(UserParts(vectors), k, candidates, exclude)
        return (ids[0], scores[0]) if scalar else (ids, scores)

    def recommend_parts(
        self,
        parts: UserParts,
        k: int = 20,
        candidates: Iterable[RawId] | None = None,
        exclude: Iterable[RawId] | None = None,
    ) -> Answer:
        """Return the k best items for users who are not in the catalogue, such as ``new_user`` makes.

        Args:
            parts: of B users.
            k: how many.
            candidates: as in ``recommend``.
            exclude: as in ``recommend``.
        """
        found = self.recommend_parts_rows(parts, k, self._allowed(candidates, exclude))
        return _answer(self._raw_items, found, False)

    def recommend_parts_rows(self, parts: UserParts, k: int = 20, allowed: BoolArray | None = None) -> Found:
        """Return item rows int64[B, k] and scores as ``recommend_rows`` does, for users as in ``recommend_parts``."""
        queries = Queries(
            len(parts.vectors), parts.vectors.__getitem__, sparse=lambda block: _part(parts, block)
        )
        # Users of similar text may add to the scores of new users, although they add nothing to those of known ones.
        has_sums = self.parts is not None and parts.direct is not None and parts.direct.nnz > 0
        return self._search(queries, k, allowed, has_sums)

    def recommend_from_items(self, item_ids: Sequence[RawId] | AnyArray, k: int = 20) -> Answer:
        """Return the k best items for a new user who likes these items; the liked items are left out.

        Raises:
            UnknownIdError: an unknown item.
            ConfigError: no item, or k is no whole number of at least 1.
        """
        ids, scores = self.recommend_parts(self.new_user(item_ids), k, exclude=item_ids)
        return ids[0], scores[0]

    def score(self, user_ids: RawIds, item_ids: RawIds) -> Float32Array:
        """Return the scores float32[B, M] of B users for M items; one id drops its axis.

        Raises:
            UnknownIdError: an unknown user or item.
        """
        users, one_user = _rows(self.user_ids, user_ids)
        items, one_item = _rows(self.item_ids, item_ids)
        scores = self.score_rows(users, items)
        scores = scores[0] if one_user else scores
        return scores[..., 0] if one_item else scores

    def score_rows(self, users: IntArray, items: IntArray | None = None) -> Float32Array:
        """Return the scores float32[B, M] of user rows for item rows; of all items by default."""
        scores: Float32Array = self.users[users] @ (self.items if items is None else self.items[items]).T
        if self.parts is None:
            return scores
        return self.parts.add_to(scores, self.parts.of_users(self.users[users], users), items)

    def score_parts(self, parts: UserParts) -> Float32Array:
        """Return the scores float32[B, I] of all items for users who are not in the catalogue, see ``new_user``."""
        scores: Float32Array = parts.vectors @ self.items.T
        return scores if self.parts is None else self.parts.add_to(scores, parts)

    def scorer(self) -> Scorer:
        """Return what ``rlmrec.evaluate`` ranks all items by: the scores of ``recommend`` for training's users.

        It knows the dataset that the manifest names, so that ``evaluate`` warns of another one.
        """
        if not self.is_inner_product:
            return _Scores(self)
        made_for = self.manifest.get("fingerprint"), bool(self.manifest.get("is_final"))
        return DotProduct(self.users, self.items, *made_for)

    def rank(
        self, user_id: RawId, item_ids: Sequence[RawId] | AnyArray, allowed: BoolArray | None = None
    ) -> IntArray:
        """Return the place int64[M], from 1, of each item among all items that are not known of the user.

        Args:
            user_id: raw id.
            item_ids: M raw ids.
            allowed: bool[I], the items that count; None means all.

        Raises:
            UnknownIdError: an unknown user or item.
        """
        user = self.user_ids.row(user_id)
        scores = self.score_rows(np.array([user]))[0]
        scores[_columns_of(self.known, user)] = -np.inf
        if allowed is not None:
            scores[~allowed] = -np.inf
        places = np.empty(len(scores), np.int64)
        places[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
        return places[self.item_ids.rows(item_ids)]

    def history(self, user: int) -> IntArray:
        """Return the rows int64[n] of the items that a user (a row) had in training."""
        return _columns_of(self.seen, user)

    def is_known(self, user: int, item: int) -> bool:
        """Return whether the interaction of a user with an item (rows) is known, so that it is not recommended."""
        return item in _columns_of(self.known, user)

    def bases(self, users: IntArray) -> tuple[BoolArray, BoolArray]:
        """Return bool[B] twice: who has a text but no training interaction, and who has neither.

        The latter get what is popular.
        """
        indptr = self.seen.indptr
        empty = indptr[users] == indptr[users + 1]
        texts = None if self.parts is None else self.parts.user_texts
        has_text = np.zeros(len(users), bool) if texts is None else np.asarray(texts[users]).any(axis=1)
        return empty & has_text, empty & ~has_text

    def contributions(self, user: int, item: int) -> tuple[IntArray, Float32Array, float | None]:
        """Split the score of a user for an item into what each training item and the user itself add.

        Args:
            user: user row.
            item: item row.

        Returns:
            rows int64[n] of the user's training items; float32[n], what each adds; and what the user's own
            embedding adds, so that the sum of all is the score; with ``parts`` it is what the user's own text, users
            of similar text and what everybody gets add. Without ``item_messages`` or a rule: the cosines of the
            training items to the item, and None.
        """
        rows, target = self.history(user), self.items[item]
        exact = None if self.parts is None else self.parts.contributions(user, item, rows, target)
        if exact is not None:
            score = float(self.score_rows(np.array([user]), np.array([item]))[0, 0])
            return rows, exact.astype(np.float32), score - float(exact.sum())
        if self.item_messages is None:
            lengths = np.linalg.norm(self.items[rows], axis=1) * np.linalg.norm(target)
            cosines: Float32Array = (self.items[rows] @ target) / np.where(lengths > 0, lengths, 1)
            return rows, cosines.astype(np.float32), None
        degree = np.sqrt(np.float32(max(len(rows) + self.self_loops, 1)))
        parts: Float32Array = self.item_messages[rows] @ target / degree
        return rows, parts, float(self.users[user] @ target - parts.sum())

    # -- new users and items -----------------------------------------------------------------------------

    def fold_in(self, item_ids: Sequence[RawId] | AnyArray) -> Float32Array:
        """Return the vector float32[d] of a new user who likes these items, without training.

        With ``parts`` it follows their rule, exactly as for a user of the catalogue. Otherwise it is one
        propagation step: Σ m_v / √n over the n items, what the model gives a user of n items whose own embedding is
        zero. Without ``item_messages`` it is the mean of the items' embeddings.

        Raises:
            UnknownIdError: an unknown item.
            ConfigError: no item, or a vector does not say everything (``new_user`` does).
        """
        rows = np.unique(self.item_ids.rows(item_ids))
        if not len(rows):
            raise ConfigError("a new user needs at least one item")
        return self.fold_in_rows(rows)

    def new_user(
        self, item_ids: Sequence[RawId] | AnyArray = (), text: Float32Array | None = None
    ) -> UserParts:
        """Return the parts of a new user for ``recommend_parts``, from liked items, a text, or both.

        Args:
            item_ids: n raw ids; none for a user who is known by a text alone.
            text: float32[d_s], the vector of the user's own text, which only some closed-form runs read; None
                without one.

        Raises:
            UnknownIdError: an unknown item.
            ConfigError: neither an item nor a text, or a text for a trained run, which needs a ``ColdStart``.
            DataError: the run reads no texts, or the text is no vector of its size, such as a sentence that has not
                been encoded.
        """
        rows = self.item_ids.rows(item_ids)
        if text is None and not len(rows):
            raise ConfigError("a new user needs at least one item, or a text")
        rows = np.unique(rows)
        if text is not None:
            text = _one_vector(text)
        if self.parts is not None:
            return self.parts.fold_in(rows, None, text, len(self.items))
        if text is not None:
            raise ConfigError("a trained run maps texts by its cold-start model: use ColdStart.users")
        return UserParts(self.fold_in_rows(rows)[None])

    def fold_in_rows(self, rows: IntArray, weights: Float32Array | None = None) -> Float32Array:
        """Return the vector of ``fold_in`` for item rows; ``weights`` float32[n] count each item, 1 by default."""
        if self.parts is not None:
            self.check_inner_product("a vector of a new user")
            folded: Float32Array = self.parts.fold_in(rows, weights, None, len(self.items)).vectors[0]
            return folded
        weights = np.ones(len(rows), np.float32) if weights is None else weights
        of_one = np.array([0, len(rows)])
        one: Float32Array = self._folded(sp.csr_array((weights, rows, of_one), shape=(1, len(self.items))))[0]
        return one

    def _folded(self, histories: sp.csr_array) -> Float32Array:
        """Return the vectors float32[n, d'] of n users of a trained run, from the weights n x I of what they have."""
        messages = self.item_messages
        totals = np.asarray(histories.sum(axis=1), np.float32)
        degrees = totals if messages is None else np.sqrt(totals + np.float32(self.self_loops))
        sums = histories @ (self.items if messages is None else messages)
        return np.asarray(sums / np.maximum(degrees, 1e-12)[:, None], np.float32)

    def users_for(self, vectors: Float32Array, k: int = 20) -> Answer:
        """Return the k users with the highest cosine to each item vector: the likely users of a new item.

        The cosine is used instead of the score, because a user's scores grow with the length of the user's
        vector, which does not tell where the item stands in that user's list.

        Args:
            vectors: float32[d], or float32[B, d].
            k: how many.

        Raises:
            DataError: the vectors have another size or are not finite.
        """
        return self._near(vectors, self._unit_users, self._raw_users, k)

    def items_for(self, vectors: Float32Array, k: int = 20) -> Answer:
        """Return the k items with the highest cosine to each item vector; arguments as in ``users_for``."""
        return self._near(vectors, self.unit_items, self._raw_items, k)

    def with_items(self, ids: Sequence[RawId], vectors: Float32Array) -> Recommender:
        """Return a recommender with items appended, which are recommended like any other.

        Args:
            ids: n new raw ids.
            vectors: float32[n, d], for example from ``ColdStart.items``.

        Raises:
            DataError: an id exists or has the other type; the vectors do not match.
        """
        vectors = np.atleast_2d(np.asarray(vectors, np.float32))
        expected = (len(ids), self.items.shape[1])
        if len(ids) and vectors.shape != expected:
            raise DataError(
                f"the vectors of new items have shape {vectors.shape}, expected {expected}: one row each"
            )
        vectors = vectors.reshape(expected)
        messages = self.item_messages
        n_items = len(self.items) + len(ids)
        return self._replace(
            items=np.concatenate([self.items, vectors]),
            item_ids=Vocabulary([*self.item_ids.ids, *ids], self.item_ids.kind),
            seen=_widened(self.seen, n_items),
            known=_widened(self.known, n_items),
            # Nobody had them in training, so they send no messages.
            item_messages=None if messages is None else np.concatenate([messages, np.zeros_like(vectors)]),
            index=self.index and self.index.with_items(vectors),
            parts=self.parts and self.parts.widened(n_items),
        )

    def with_users(self, ids: Sequence[RawId], histories: sp.csr_array) -> Recommender:
        """Return a recommender with users appended, who are folded in from what they have.

        A user without any of the items gets what the rule gives everybody; of a trained run that is a vector of zeros.

        Args:
            ids: n new raw ids.
            histories: sparse n x I, the items that each of them has.

        Raises:
            DataError: an id exists or has the other type, or nobody can be folded into this run.
        """
        histories = sp.csr_array(histories.astype(np.float32))
        if self.parts is None:
            parts, vectors = None, self._folded(histories)
        else:
            parts, vectors = self.parts.with_users(histories, len(self.items))
        known = sp.csr_array(histories.astype(bool))
        return self._replace(
            users=np.concatenate([self.users, vectors]),
            user_ids=Vocabulary([*self.user_ids.ids, *ids], self.user_ids.kind),
            seen=sp.csr_array(sp.vstack([self.seen, known], format="csr")),
            known=sp.csr_array(sp.vstack([self.known, known], format="csr")),
            parts=parts,
        )

    def with_known(self, known: sp.csr_array | None) -> Recommender:
        """Return a recommender that leaves out other known interactions, U x I; None: those of training alone."""
        return self._replace(known=self.seen if known is None else known)

    def build_index(self, recall: float = 0.95, seed: int = 0, codes: bool | None = None) -> Index:
        """Build an index over the items, its recall measured on the users' lists; see ``index.build_index``.

        Raises:
            ConfigError: see ``check_index``.
        """
        self.check_index()
        parts = self.parts

        def added(rows: IntArray) -> sp.csr_array:
            assert parts is not None
            return parts.sums(parts.of_users(self.users[rows], rows))

        of_rows = None if self.is_inner_product else added
        return build_index(self.items, self.users, recall, seed, self.known, codes, of_rows)

    def with_index(self, index: Index | None) -> Recommender:
        """Return a recommender that searches through an index; None searches exactly.

        Raises:
            ConfigError: see ``check_index``.
        """
        return self._replace(index=index)

    # -- similarity --------------------------------------------------------------------------------------

    def similar_items(self, item_ids: RawIds, k: int = 10) -> Answer:
        """Return the k items with the highest cosine to each item, without the item itself.

        Where items have no embeddings (itemknn, ease), the cosine is that of their columns of the item-item matrix.
        """
        rows, scalar = _rows(self.item_ids, item_ids)
        return _answer(self._raw_items, self._similar(self.unit_items, rows, k), scalar)

    def similar_users(self, user_ids: RawIds, k: int = 10) -> Answer:
        """Return the k users with the highest cosine to each user, without the user itself."""
        rows, scalar = _rows(self.user_ids, user_ids)
        return _answer(self._raw_users, self._similar(self._unit_users, rows, k), scalar)

    def likely_users(self, item: int, k: int = 20) -> tuple[IntArray, Float32Array]:
        """Return the k users who do not have an item (a row) and would like it most.

        By the cosine, for the reason given in ``users_for``; with sparse parts by the score, since their vectors are
        not all of it.

        Returns:
            user rows int64[≤ k] and cosines or scores float32[≤ k], best first.
        """
        if self.is_inner_product:
            unit, of_items = self._unit_users, self.unit_items
            assert not isinstance(unit, sp.csr_array)
            assert not isinstance(of_items, sp.csr_array)
            values = np.asarray(unit @ of_items[item], np.float32)
        else:
            starts = range(0, len(self.users), USERS_AT_ONCE)
            blocks = [np.arange(start, min(start + USERS_AT_ONCE, len(self.users))) for start in starts]
            values = np.concatenate([self.score_rows(block, np.array([item]))[:, 0] for block in blocks])
        values[sp.csc_array(self.known[:, [item]]).indices] = -np.inf
        [rows], [best] = top_k(values[None], k)
        found = np.isfinite(best)
        return rows[found], best[found]

    def item_cosines(self, item: int, others: IntArray) -> Float32Array:
        """Return the cosines float32[n] of an item (a row) to others (rows), as in ``similar_items``."""
        unit = self.unit_items
        found = unit[others] @ unit[[item]].T
        dense = found.toarray() if isinstance(found, sp.csr_array) else found
        return np.asarray(dense, np.float32)[:, 0]

    # -- on disk -----------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Write arrays, ids and ``recommender.json`` with their checksums; atomic as a whole."""
        storage.write(folder, self._parts())

    @classmethod
    def load(cls, folder: Path | str, memory_budget: int = MEMORY_BUDGET, mmap: bool = False) -> Recommender:
        """Read a folder that ``save`` wrote.

        Args:
            folder: of the recommender.
            memory_budget: as in the class.
            mmap: map the arrays read-only instead of reading them, so that processes share their memory. The
                checksums are checked in either case.

        Raises:
            WorkspaceError: the folder is missing or has another format, or a file is missing, truncated or
                was changed.
        """
        return cls(**storage.read(folder, mmap), memory_budget=memory_budget)

    @classmethod
    def from_pretrained(cls, repo: str, revision: str | None = None) -> Recommender:
        """Load a recommender from the Hugging Face Hub. It is data, checked like any other folder; no code is run.

        Args:
            repo: OWNER/NAME.
            revision: commit, tag or branch. Only a commit always gives the same; of others the commit is logged.

        Raises:
            ConfigError: the extra ``hub`` is not installed.
            RlmrecError: the hub has no such recommender or cannot be reached.
            WorkspaceError: a file is damaged.
        """
        return cls.load(hub.fetch(repo, storage.FILES, revision))

    def push_to_hub(
        self,
        repo: str,
        public: bool = False,
        license: str | None = None,
        metrics: Mapping[str, float] | None = None,
        command: str | None = None,
    ) -> hub.Pushed:
        """Upload the recommender with a model card. It holds the ids and the histories of all users.

        Args:
            repo: OWNER/NAME; made if there is none.
            public: everybody may read a repository that is made now.
            license: identifier for the card; it depends on your data.
            metrics: on test interactions, for the card.
            command: that trained and measured it, for the card.

        Raises:
            ConfigError: the extra ``hub`` is not installed, or the name is wrong.
            RlmrecError: the hub refuses or cannot be reached.
        """
        with TemporaryDirectory() as temporary:
            self.save(Path(temporary) / "recommender")
            files = [Path(temporary) / "recommender" / name for name in storage.FILES]
            return hub.push(files, repo, card(self, repo, license, metrics, command), public)

    # -- all scores and searches go through these --------------------------------------------------------

    def _user_queries(self, users: IntArray, exclude_seen: bool) -> Queries:
        """Return the queries of user rows."""
        seen: Callable[[slice], sp.csr_array] | None = None
        if exclude_seen:

            def seen(block: slice) -> sp.csr_array:
                return sp.csr_array(self.known[users[block]])

        sparse: Callable[[slice], UserParts] | None = None
        parts = self.parts
        if parts is not None:

            def sparse(block: slice) -> UserParts:
                return parts.of_users(self.users[users[block]], users[block])

        return Queries(len(users), lambda block: self.users[users[block]], seen, sparse)

    def _search(self, queries: Queries, k: int, allowed: BoolArray | None, has_sums: bool = False) -> Found:
        """Return the k best of the allowed items, through the index if all items are allowed."""
        self._check_length(k, queries.n_rows, len(self.items))
        if has_sums or not self.is_inner_product:
            return self._search_sums(queries, k, allowed)
        if allowed is None or allowed.all():
            if self.index is not None and k >= 1:
                return search.approximate(queries, self.index, k, self.items, self.memory_budget)
            return search.exact(queries, self.items, k, None, self.memory_budget, self._by_norm)
        chosen = np.flatnonzero(allowed)  # (M,)
        if 2 * len(chosen) > len(allowed):  # excluding a few is cheaper than copying the others
            banned = np.flatnonzero(~allowed)
            return search.exact(queries, self.items, k, banned, self.memory_budget, self._by_norm)
        found, scores = search.exact(queries.among(chosen), self.items[chosen], k, None, self.memory_budget)
        return (np.where(found >= 0, chosen[found], -1) if len(chosen) else found), scores

    def _search_sums(self, queries: Queries, k: int, allowed: BoolArray | None) -> Found:
        """Return the k best of the allowed items where the score has sparse parts, block by block."""
        parts, of_block = self.parts, queries.sparse
        assert parts is not None
        assert of_block is not None
        banned = None if allowed is None or allowed.all() else np.flatnonzero(~allowed)
        if self._adds_sums:
            summed = queries._replace(added=lambda block: parts.sums(of_block(block)))
            if self.index is not None and banned is None and k >= 1:
                return search.approximate(summed, self.index, k, self.items, self.memory_budget)
            return search.exact(summed, self.items, k, banned, self.memory_budget, self._by_norm)

        def score(block: slice) -> Float32Array:
            return self.score_parts(of_block(block))

        return search.exact_scores(
            score, queries.n_rows, len(self.items), k, queries.excluded, banned, self.memory_budget
        )

    @staticmethod
    def _check_length(k: int, n_rows: int, n: int) -> None:
        """Refuse lists whose padding alone would fill the memory.

        Raises:
            ConfigError: k is no whole number of at least 1, or is more than the n candidates, and lists of k take more
                than 256 MiB.
        """
        check_whole(k)
        if k > n and n_rows * k * BYTES_PER_ENTRY > MEMORY_BUDGET:
            raise ConfigError(f"k is {k:,} and there are {n:,} to choose from: expected at most {n:,}")

    def _similar(self, unit: Float32Array | sp.csr_array, rows: IntArray, k: int) -> Found:
        self._check_length(k, len(rows), unit.shape[0])

        def itself(block: slice) -> sp.csr_array:
            own = rows[block]
            return sp.csr_array(
                (np.ones(len(own), bool), own, np.arange(len(own) + 1)), shape=(len(own), unit.shape[0])
            )

        if isinstance(unit, sp.csr_array):
            columns = sp.csr_array(unit.T)
            return search.exact_scores(
                lambda block: np.asarray((unit[rows[block]] @ columns).toarray(), np.float32),
                len(rows), unit.shape[0], k, itself, None, self.memory_budget,
            )  # fmt: skip

        return self._cosines(Queries(len(rows), lambda block: unit[rows[block]], itself), unit, k)

    def _near(
        self, vectors: Float32Array, unit: Float32Array | sp.csr_array, raw: AnyArray, k: int
    ) -> Answer:
        vectors, scalar = self._checked(vectors)
        assert not isinstance(unit, sp.csr_array)
        queries = Queries(len(vectors), _unit(vectors[:, self._cosine_columns]).__getitem__)
        return _answer(raw, self._cosines(queries, unit, k), scalar)

    def _cosines(self, queries: Queries, unit: Float32Array, k: int) -> Found:
        self._check_length(k, queries.n_rows, len(unit))
        found, cosines = search.exact(queries, unit, k, None, self.memory_budget)
        # Rounding may leave [−1, 1]; the −∞ of padding stays.
        return found, np.where(np.isneginf(cosines), cosines, np.clip(cosines, -1, 1))

    def _checked(self, vectors: Float32Array) -> tuple[Float32Array, bool]:
        """Return vectors as float32[B, d], and whether it was one vector."""
        if not self.users.shape[1]:
            raise DataError("this run has no embeddings, only item neighbours: use graph-filter for vectors")
        queries = np.atleast_2d(np.asarray(vectors, np.float32))
        if queries.ndim != 2 or queries.shape[1] != self.users.shape[1] or not np.isfinite(queries).all():
            raise DataError(
                f"expected finite vectors of {self.users.shape[1]} numbers, got shape {np.shape(vectors)}"
            )
        return queries, np.ndim(vectors) == 1

    def _allowed(
        self, candidates: Iterable[RawId] | None, exclude: Iterable[RawId] | None
    ) -> BoolArray | None:
        if candidates is None and exclude is None:
            return None
        allowed = np.full(len(self.items), candidates is None)
        if candidates is not None:
            allowed[self.item_ids.rows(candidates)] = True
        if exclude is not None:
            allowed[self.item_ids.rows(exclude)] = False
        return allowed

    def _parts(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        names = ("users", "items", "user_ids", "item_ids", "seen", "manifest", "memory_budget", "item_messages",
                 "self_loops", "index", "parts", "known")  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def _replace(self, **changes: Any) -> Recommender:
        made = Recommender(**{**self._parts(), **changes})
        if made.items is self.items and "_by_norm" in self.__dict__:
            made.__dict__["_by_norm"] = self._by_norm
        return made

    @cached_property
    def _by_norm(self) -> ByNorm | None:
        return ByNorm.of(self.items)

    @cached_property
    def _unit_users(self) -> Float32Array | sp.csr_array:
        if self.parts is not None and self.parts.history is not None and not self.users.shape[1]:
            return _sparse_unit(self.parts.history)
        return _unit(self.users[:, self._cosine_columns])

    @property
    def _cosine_columns(self) -> slice:
        rule = None if self.parts is None else self.parts.rule
        return slice(None) if rule is None else rule.cosine_columns

    @cached_property
    def unit_items(self) -> Float32Array | sp.csr_array:
        """What cosines of items are computed from, at unit length: [I, d], or sparse [I, I] without embeddings."""
        if self.parts is not None and self.parts.neighbours is not None and not self.items.shape[1]:
            return _sparse_unit(sp.csr_array(self.parts.neighbours.T))
        return _unit(self.items[:, self._cosine_columns])

    @cached_property
    def _raw_users(self) -> AnyArray:
        return _with_padding(self.user_ids)

    @cached_property
    def _raw_items(self) -> AnyArray:
        return _with_padding(self.item_ids)


@dataclass(frozen=True, eq=False)
class _Scores:
    """The scores of a recommender with sparse parts."""

    is_thread_safe: ClassVar[bool] = True
    recommender: Recommender

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the recommender's dataset, if it names one."""
        return self.recommender.manifest.get("fingerprint")

    @property
    def is_final(self) -> bool:
        """Whether that is a final dataset."""
        return bool(self.recommender.manifest.get("is_final"))

    def score(self, users: IntArray) -> Float32Array:
        """Return the scores float32[B, I] of user rows int64[B]."""
        return self.recommender.score_rows(users)


def _columns_of(matrix: sp.csr_array, row: int) -> IntArray:
    """Return int64[n], the columns of the non-zeros of a row."""
    start, stop = matrix.indptr[row : row + 2]
    columns: IntArray = matrix.indices[start:stop].astype(np.int64)
    return columns


def _widened(matrix: sp.csr_array, n_items: int) -> sp.csr_array:
    """Return a matrix with empty columns appended."""
    return sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], n_items))


def _longest(matrix: Float32Array) -> float:
    """Return the length of the longest row, with squares in float64."""
    return math.sqrt(float(np.einsum("nd,nd->n", matrix, matrix, dtype=np.float64).max(initial=0)))


def _rows(vocabulary: Vocabulary, raw: RawIds) -> tuple[IntArray, bool]:
    """Return rows int64[B] of one raw id or several, and whether it was one."""
    if isinstance(raw, str | int | np.integer):
        return np.array([vocabulary.row(raw)]), True
    if isinstance(raw, np.ndarray) and raw.ndim == 0:
        return np.array([vocabulary.row(raw.item())]), True
    return vocabulary.rows(raw), False


def _one_vector(text: object) -> Float32Array:
    """Return the vector float32[d_s] of one text.

    Raises:
        DataError: it is something else.
    """
    vector: AnyArray = np.asarray(text)
    if vector.ndim != 1 or vector.dtype.kind not in "fiu":
        got = repr(text) if isinstance(text, str) else f"{vector.dtype} of shape {vector.shape}"
        raise DataError(
            f"text is {got}: expected the vector of one text, such as encoder.encode([text])[0] of the encoder of the "
            "run's text embeddings"
        )
    return vector.astype(np.float32)


def _answer(raw: AnyArray, found: Found, scalar: bool) -> Answer:
    """Name the rows that were found; one query gives vectors."""
    ids, scores = raw[found[0]], found[1]
    return (ids[0], scores[0]) if scalar else (ids, scores)


def _with_padding(vocabulary: Vocabulary) -> AnyArray:
    """Return the raw ids followed by the one of padding, so that row −1 finds it."""
    if vocabulary.is_text:
        return np.array([*vocabulary.ids, None], object)
    return np.array([*vocabulary.ids, -1], np.int64)


def _part(parts: UserParts, block: slice) -> UserParts:
    """Return the parts of a slice of users."""
    history, direct = (
        None if matrix is None else sp.csr_array(matrix[block]) for matrix in (parts.history, parts.direct)
    )
    return UserParts(parts.vectors[block], history, direct)


def _sparse_unit(matrix: sp.csr_array) -> sp.csr_array:
    """Scale the rows of a sparse matrix to length 1."""
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    factors = np.repeat(1 / np.where(lengths > 0, lengths, 1), np.diff(matrix.indptr))
    data = (matrix.data * factors).astype(np.float32)
    return sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def _unit(matrix: Float32Array) -> Float32Array:
    """Scale rows to length 1; a zero row stays zero, so that its cosines are 0."""
    norms: Float32Array = np.sqrt(np.square(matrix).sum(axis=1, keepdims=True))
    norms[norms == 0] = 1
    unit: Float32Array = matrix / norms
    return unit
