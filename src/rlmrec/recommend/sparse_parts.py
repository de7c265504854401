"""SparseParts: what a closed-form recommender has beyond embeddings, and how users are folded into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from rlmrec.closed_form import RULES
from rlmrec.closed_form.base import (
    ClosedFormModel,
    FoldIn,
    State,
    UserParts,
    nested,
    sparse_from_state,
    sparse_state,
)
from rlmrec.errors import DataError, WorkspaceError
from rlmrec.trust import check_finite, check_sparse, matrix
from rlmrec.types import AnyArray, Float32Array, IntArray

MATRICES = ("history", "neighbours", "direct")
# One neighbour among so many items: then the sums of a user's history are sparse as well.
LIGHT = 128
ROUNDING = 1e-4  # of a user's embedding, up to which it is the sum of its shares


@dataclass(frozen=True, eq=False)
class SparseParts:
    """The parts of score(u, ·) = e_u · e_i + history_u · neighbours + direct_u beyond the embeddings.

    Args:
        n_items: I of the rule; items that were added later have no history and are not part of it.
        rule: how the parts of a user follow from a history and a text; None if it is a class of the user's own
            that this program has not imported, and then nobody can be folded in.
        history: sparse U x I, the users' weights in the item-item part; None without one.
        neighbours: sparse I x I, the item-item part; None without one.
        direct: sparse U x I, scores from users of similar text; None without.
        user_texts: float32[U, d_s], the users' own text vectors, zeros for none; None without any.
    """

    n_items: int
    rule: FoldIn | None
    history: sp.csr_array | None = None
    neighbours: sp.csr_array | None = None
    direct: sp.csr_array | None = None
    user_texts: Float32Array | None = None

    @classmethod
    def of(cls, model: ClosedFormModel, user_texts: Float32Array | None = None) -> SparseParts:
        """Take the parts of a fitted model."""
        return cls(len(model.items), model.rule, model.history, model.neighbours, model.direct, user_texts)

    @property
    def is_inner_product(self) -> bool:
        """Whether the embeddings alone give the scores."""
        return self.neighbours is None and self.direct is None

    @property
    def reads_texts(self) -> bool:
        """Whether new users and items can be given by a text alone."""
        return self.rule is not None and self.rule.reads_texts

    def check(self, n_users: int, n_items: int) -> None:
        """Check the shapes.

        Raises:
            DataError: a matrix has another shape, or only one of history and neighbours is there.
        """
        if (self.history is None) != (self.neighbours is None):
            raise DataError("history weights and item neighbours go together: got only one of them")
        for name, rows in (("history", n_users), ("neighbours", n_items), ("direct", n_users)):
            matrix = getattr(self, name)
            if matrix is not None and matrix.shape != (rows, n_items):
                raise DataError(f"{name} has shape {matrix.shape}, expected {(rows, n_items)}")
        if self.user_texts is not None and len(self.user_texts) != n_users:
            raise DataError(f"there are {len(self.user_texts)} text vectors for {n_users} users")

    def widened(self, n_items: int) -> SparseParts:
        """Return the parts for a catalogue with items appended, which have no neighbours."""
        neighbours = _wide(self.neighbours, n_items)
        if neighbours is not None:
            more = n_items - neighbours.shape[0]
            indptr = np.concatenate([neighbours.indptr, np.repeat(neighbours.indptr[-1:], more)])
            neighbours = sp.csr_array((neighbours.data, neighbours.indices, indptr), shape=(n_items, n_items))
        return replace(
            self,
            history=_wide(self.history, n_items),
            neighbours=neighbours,
            direct=_wide(self.direct, n_items),
        )

    def with_users(self, histories: sp.csr_array, n_items: int) -> tuple[SparseParts, Float32Array]:
        """Fold in users and return the parts with them appended, and their vectors float32[n, d].

        Args:
            histories: sparse n x n_items, the items that each of them has.
            n_items: I, with items that were added later.

        Raises:
            DataError: the rule is a class that is not imported.
        """
        if self.rule is None:
            raise DataError("nobody can be folded into this run: its rule is a class of your own")
        trained = sp.csr_array(histories[:, : self.n_items])
        parts = self.rule.parts(trained, None, np.full(trained.shape[0], -1))

        def below(old: sp.csr_array | None, new: sp.csr_array | None) -> sp.csr_array | None:
            if old is None:
                return None
            more = sp.csr_array((trained.shape[0], n_items)) if new is None else _wide(new, n_items)
            assert more is not None
            return sp.csr_array(sp.vstack([old, more.astype(old.dtype)], format="csr"))

        texts = self.user_texts
        if texts is not None:
            texts = np.concatenate([texts, np.zeros((trained.shape[0], texts.shape[1]), np.float32)])
        grown = replace(
            self,
            history=below(self.history, parts.history),
            direct=below(self.direct, parts.direct),
            user_texts=texts,
        )
        return grown, parts.vectors

    def of_users(self, vectors: Float32Array, users: IntArray) -> UserParts:
        """Return the parts of known users, given their vectors float32[B, d] and rows int64[B]."""
        history = None if self.history is None else sp.csr_array(self.history[users])
        direct = None if self.direct is None else sp.csr_array(self.direct[users])
        return UserParts(vectors, history, direct)

    def fold_in(
        self, items: IntArray, weights: Float32Array | None, text: Float32Array | None, n_items: int
    ) -> UserParts:
        """Compute the parts of a new user from item rows, weights float32[n] and a text vector float32[d_s].

        Raises:
            DataError: the rule is a class that is not imported, or reads no text.
        """
        if self.rule is None:
            raise DataError(
                "nobody can be folded into this run: its rule is a class of your own, which a stored run never "
                "imports; use one of rlmrec.closed_form, or ClosedFormModel.fold_in from Python"
            )
        if text is not None and not self.reads_texts:
            raise DataError(
                "this run reads no texts: train graph-filter with text embeddings ('rlmrec encode' first)"
            )
        amounts = np.ones(len(items), np.float32) if weights is None else weights
        trained = items < self.n_items  # an added item has no interactions to learn from
        rows, amounts = items[trained], amounts[trained]
        histories = sp.csr_array((amounts, rows, [0, len(rows)]), shape=(1, self.n_items))
        parts = self.rule.parts(histories, None if text is None else text[None], np.array([-1]))
        return UserParts(parts.vectors, _wide(parts.history, n_items), _wide(parts.direct, n_items))

    def contributions(
        self, user: int, item: int, rows: IntArray, target: Float32Array
    ) -> Float32Array | None:
        """Return the share float32[n] of each training item of a user in the score of an item.

        Args:
            user: the user's row.
            item: the item's row.
            rows: of the n training items.
            target: float32[d], the embedding of the item.

        Returns:
            None without a rule.
        """
        if self.rule is None:
            return None
        text = None if self.user_texts is None else np.asarray(self.user_texts[user])
        shares = self.rule.split(rows, np.ones(len(rows), np.float32), text)
        found: Float32Array = shares[:-1] @ target
        if self.history is not None and self.neighbours is not None and len(rows):
            weights = self.history[[user]].toarray()[0, rows]
            found = found + weights * self.neighbours[rows][:, [item]].toarray()[:, 0]
        return found

    def own_parts(self, user: int, vector: Float32Array, rows: IntArray) -> tuple[str, ...]:
        """Name what a user's scores have besides the shares of the training items.

        Args:
            user: the user's row.
            vector: float32[d], the user's embedding.
            rows: of the n training items.
        """
        if self.rule is None:
            return ()
        text = None if self.user_texts is None else np.asarray(self.user_texts[user])
        shares = self.rule.split(rows, np.ones(len(rows), np.float32), text)
        of_text, constant = (
            np.abs(rest).max(initial=0) for rest in (shares[-1], vector - shares.sum(axis=0))
        )
        least = ROUNDING * np.abs(vector).max(initial=0)
        there = {
            "own text": of_text > least,
            "users of similar text": self.direct is not None and self.direct[[user]].nnz > 0,
            "popularity": constant > least,
        }
        return tuple(name for name, has in there.items() if has)

    def add_to(self, scores: Float32Array, parts: UserParts, items: IntArray | None = None) -> Float32Array:
        """Add the sparse parts of B users to scores float32[B, M] of some items, in place; all items by default."""
        if parts.history is not None and self.neighbours is not None:
            neighbours = self.neighbours if items is None else self.neighbours[:, items]
            scores += (parts.history @ neighbours).toarray()
        if parts.direct is not None:
            scores += (parts.direct if items is None else parts.direct[:, items]).toarray()
        return scores

    @property
    def is_light(self) -> bool:
        """Whether ``sums`` of a user are so few that adding them to tiles is faster than whole rows of scores."""
        found = self.neighbours
        return found is None or LIGHT * found.nnz <= found.shape[0] * found.shape[1]

    def sums(self, parts: UserParts) -> sp.csr_array:
        """Return what the sparse parts add to the scores of B users, sparse B x I."""
        found: sp.csr_array | None = parts.direct
        if parts.history is not None and self.neighbours is not None:
            near = sp.csr_array(parts.history @ self.neighbours)
            found = near if found is None else sp.csr_array(near + found)
        assert found is not None
        return found

    def state(self) -> State:
        """Return everything as named arrays for safetensors."""
        arrays: State = {}
        for name in MATRICES:
            if getattr(self, name) is not None:
                arrays |= sparse_state(name, getattr(self, name))
        if self.user_texts is not None:
            arrays["user_texts"] = self.user_texts
        rule = {} if self.rule is None or self.rule_name is None else self.rule.state()
        return arrays | {f"rule.{name}": array for name, array in rule.items()}

    @property
    def rule_name(self) -> str | None:
        """The rule's name in ``RULES``; None for a class of the user's own."""
        return None if self.rule is None else RULES.name_of(type(self.rule))

    @classmethod
    def from_state(cls, arrays: Mapping[str, AnyArray], n_items: int, rule_name: str | None) -> SparseParts:
        """Restore what ``state`` returned.

        Raises:
            DataError: an array is missing or does not fit.
            WorkspaceError: this version has no such rule.
        """
        check_sparse(arrays)
        check_finite(arrays)
        if rule_name is not None and rule_name not in RULES:
            raise WorkspaceError(f"this version has no fold-in rule {rule_name!r}: train the run again")
        matrices = {name: sparse_from_state(name, arrays) for name in MATRICES}
        rule = None
        if rule_name is not None:
            graph = matrices["neighbours"]
            if graph is not None and graph.shape[0] > n_items:  # the rule does not know the items added later
                graph = sp.csr_array(graph[:n_items, :n_items])
            shared = {} if graph is None else sparse_state("neighbours", graph)
            rule = RULES[rule_name].from_state(nested("rule", arrays) | shared)
        user_texts = matrix(arrays, "user_texts") if "user_texts" in arrays else None
        return cls(n_items, rule, user_texts=user_texts, **matrices)

    def try_rule(self, n_items: int, size: int, text_size: int | None) -> None:
        """Fold in one history and one text, so that arrays of a rule that do not fit together are found at once.

        Args:
            n_items: I of the recommender, items that were added later included.
            size: of its embeddings.
            text_size: of the texts that the rule reads; None if it reads none.

        Raises:
            DataError: they do not fit.
        """
        if not 0 <= self.n_items <= n_items:
            raise DataError(f"the rule is for {self.n_items} items, there are {n_items}")
        if self.rule is None:
            return
        text = None if text_size is None or not self.reads_texts else np.zeros(text_size, np.float32)
        rows = np.arange(min(2, self.n_items))
        parts = self.fold_in(rows, None, text, n_items)
        shares = self.rule.split(rows, np.ones(len(rows), np.float32), text)
        if parts.vectors.shape != (1, size) or shares.shape != (len(rows) + 1, size):
            raise DataError(f"the rule gives vectors of shape {parts.vectors.shape}, expected (1, {size})")


def _wide(matrix: sp.csr_array | None, n_items: int) -> sp.csr_array | None:
    """Return a matrix with columns of zeros appended."""
    if matrix is None or matrix.shape[1] == n_items:
        return matrix
    return sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], n_items))
