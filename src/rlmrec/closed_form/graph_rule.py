"""How a user's parts of a graph filter follow from a history and a text, and where a new item goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from scipy.linalg import solve_triangular

from rlmrec.closed_form.base import (
    FoldIn,
    State,
    UserParts,
    nested,
    prefixed,
    sparse_from_state,
    sparse_state,
)
from rlmrec.closed_form.neighbours import nearest, weighted_rows
from rlmrec.linalg import ROUNDING, gram_matrix, unit_rows
from rlmrec.text.whitening import Whitening
from rlmrec.topk import map_blocks
from rlmrec.types import BoolArray, Float32Array, FloatArray, IntArray

# Added to the diagonal of a kernel matrix: above the rounding of its float32 entries, below any ridge in use.
JITTER = 1e-4
# Items whose mean a new item is placed at. Measured on yelp-profiles, Recall@20 of hidden items by similar
# items, map and text together: 15 .1657, 30 .1667, 60 .1655.
SIMILAR_ITEMS = 30
# Users or texts worked on at a time, so that memory does not grow with their number.
ROWS = 1 << 16


@dataclass(frozen=True, eq=False)
class UserTexts:
    """Histories of the users with the most similar texts: n_u = Σ_v cos(u, v)^p R_v over the nearest v.

    Args:
        whitening: of the users' texts.
        vectors: float32[U, d_t], whitened; zeros for a user without a text.
        histories: R, sparse U x I.
        count: nearest users taken.
        power: p.
    """

    whitening: Whitening
    vectors: Float32Array
    histories: sp.csr_array
    count: int
    power: float

    def rows(self, queries: Float32Array, own: IntArray) -> sp.csr_array:
        """Sparse B x I: n_u, scaled to a standard deviation of 1 over the items; empty for a query of zeros.

        Args:
            queries: float32[B, d_t], whitened.
            own: int64[B], the user's own row, which is left out; −1 for none.
        """
        ids, cosines = nearest(queries, self.vectors, self.count, own)
        weights = np.where(cosines > 0, np.maximum(cosines, 0) ** np.float32(self.power), np.float32(0))
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.float32(1e-12))
        found = sp.csr_array(weighted_rows(ids, weights, len(self.vectors)) @ self.histories)
        return scale_rows(found, reciprocal(sparse_deviations(found)))

    def state(self) -> State:
        """The arrays that ``from_state`` restores."""
        return {
            **prefixed("whitening", self.whitening.state()),
            "vectors": self.vectors,
            **sparse_state("histories", self.histories),
            "options": np.array([self.count, self.power]),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Restore what ``state`` returned."""
        histories = sparse_from_state("histories", state)
        assert histories is not None
        count, power = state["options"].tolist()
        whitening = Whitening.from_state(nested("whitening", state))
        return cls(whitening, state["vectors"], histories, int(count), power)


@dataclass(frozen=True, eq=False)
class ItemTexts:
    """Whitened item texts T, and users in the same space: their items' mean, their own text, or both.

    Args:
        whitening: of the items' texts.
        vectors: T, float32[I, d_t].
        user_mean: float32[d_s], the mean of the users' own texts, by which these are centred.
    """

    whitening: Whitening
    vectors: Float32Array
    user_mean: Float32Array

    def own(self, texts: Float32Array | None, n: int) -> Float32Array:
        """float32[B, d_t]: users' own texts in the space of the items, unit length; zeros for none."""
        if texts is None:
            return np.zeros((n, self.whitening.size), np.float32)
        self.whitening.check_size(texts)
        return self.whitening(texts - self.user_mean + self.whitening.mean, mask=with_text(texts))

    def means(self, histories: sp.csr_array) -> tuple[Float32Array, Float32Array]:
        """The weighted sums of the items' vectors, float32[B, d_t], and their lengths float32[B]."""
        sums: Float32Array = histories @ self.vectors
        return sums, np.linalg.norm(sums, axis=1)

    def state(self) -> State:
        """The arrays that ``from_state`` restores."""
        whitening = prefixed("whitening", self.whitening.state())
        return {**whitening, "vectors": self.vectors, "user_mean": self.user_mean}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Restore what ``state`` returned."""
        return cls(Whitening.from_state(nested("whitening", state)), state["vectors"], state["user_mean"])


@dataclass(frozen=True, eq=False)
class TextMap:
    """Kernel ridge from text to what only interactions tell: x ↦ k(x, landmarks) · coefficients.

        k(x, y) = exp(γ (x · y − 1)),  coefficients = (K_mn K_nm + λ K_mm)⁻¹ K_mn Y

    over m landmarks among the n rows that it is fitted on (the Nyström method; exact for m = n).

    Args:
        landmarks: float32[m, d_t], unit length.
        coefficients: float32[m, r].
        gamma: γ.
    """

    landmarks: Float32Array
    coefficients: Float32Array
    gamma: float

    @classmethod
    def fit(
        cls,
        inputs: Float32Array,
        targets: Float32Array,
        *,
        gamma: float = 2.0,
        ridge: float = 0.1,
        landmarks: int = 1024,
        seed: int = 0,
    ) -> Self:
        """Fit to pairs of a text and a target.

        Args:
            inputs: float32[n, d_t], unit length.
            targets: float32[n, r].
            gamma: γ; larger ones look at closer texts.
            ridge: λ, at least a little above 0.
            landmarks: m; more than n means n.
            seed: of the choice of landmarks.
        """
        n = len(inputs)
        chosen = np.arange(n)
        if n > landmarks:
            chosen = np.sort(np.random.default_rng(seed).choice(n, landmarks, replace=False))
        points = inputs[chosen]
        within = _kernel(points, points, gamma).astype(np.float64)
        within[np.diag_indices_from(within)] += JITTER
        factor = np.linalg.cholesky(within)
        # Features F with F Fᵀ ≈ K: their normal equations are as well conditioned as λ makes them, while those of
        # K itself lose all accuracy in float32.
        normal, right = np.zeros_like(within), np.zeros((len(points), targets.shape[1]))
        for start in range(0, n, ROWS):
            across = _kernel(points, inputs[start : start + ROWS], gamma).astype(np.float64)
            features = solve_triangular(factor, across, lower=True, overwrite_b=True)  # (m, ROWS)
            normal += features @ features.T
            right += features @ targets[start : start + ROWS]
        normal[np.diag_indices_from(normal)] += ridge
        weights = np.linalg.solve(normal, right)
        solved = solve_triangular(factor, weights, lower=True, trans="T")
        return cls(points, solved.astype(np.float32), gamma)

    def __call__(self, inputs: Float32Array) -> Float32Array:
        """float32[B, r]."""
        mapped: Float32Array = _kernel(inputs, self.landmarks, self.gamma) @ self.coefficients
        return mapped

    def state(self) -> State:
        """The arrays that ``from_state`` restores."""
        return {
            "landmarks": self.landmarks,
            "coefficients": self.coefficients,
            "gamma": np.array([self.gamma]),
        }

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Restore what ``state`` returned."""
        return cls(state["landmarks"], state["coefficients"], float(state["gamma"][0]))


def _kernel(left: Float32Array, right: Float32Array, gamma: float) -> Float32Array:
    products: Float32Array = left @ right.T
    products -= 1
    products *= np.float32(gamma)
    return np.exp(products, out=products)


@dataclass(frozen=True, eq=False)
class NewItems:
    """Place of an item that has a text and no history: the mean of two directions, at one length for all.

    One direction is the map from its text, the other the mean of the most similar items, weighted by cos². Both
    aim at the items' directions in Q and not at Q itself, whose lengths grow with popularity.

    Args:
        text_map: from whitened text to the rows of Q at unit length.
        length: of Q̂, so that users' scores of new items spread as those of known ones.
        text_weight: of the new item's text, beside the weight that texts have for known items.
    """

    text_map: TextMap
    length: float = 1.0
    text_weight: float = 1.0

    def directions(
        self, queries: Float32Array, texts: Float32Array, vectors: Float32Array, own: IntArray | None = None
    ) -> Float32Array:
        """float32[n, r], unit length.

        Args:
            queries: float32[n, d_t], whitened texts of the new items.
            texts: float32[I, d_t], whitened texts of the known items.
            vectors: Q, float32[I, r]; a row of zeros, of an item without history, is left out.
            own: int64[n], the row of each query among the known items, if it is one.
        """
        ids, cosines = nearest(queries, texts, SIMILAR_ITEMS, own)
        weights = np.maximum(cosines, 0) ** 2
        similar = weighted_rows(ids, weights, len(texts)) @ unit_rows(vectors, ROUNDING)
        scaled = similar * reciprocal(np.linalg.norm(similar, axis=1))[:, None]
        return unit_rows(unit_rows(self.text_map(queries), ROUNDING) + scaled, ROUNDING)

    def state(self) -> State:
        """The arrays that ``from_state`` restores."""
        return {**prefixed("map", self.text_map.state()), "scales": np.array([self.length, self.text_weight])}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Restore what ``state`` returned."""
        length, text_weight = state["scales"].tolist()
        return cls(TextMap.from_state(nested("map", state)), length, text_weight)


@dataclass(frozen=True, eq=False)
class NewUsers:
    """What a user gets who has a text and no history.

    Args:
        text_map: from the user's whitened text to c_u; None leaves the part out.
        weights: of the filter by ``text_map``, of the item texts and of the users with similar texts.
    """

    text_map: TextMap | None
    weights: tuple[float, float, float]

    def state(self) -> State:
        """The arrays that ``from_state`` restores."""
        inner = {} if self.text_map is None else prefixed("map", self.text_map.state())
        return {**inner, "weights": np.array(self.weights)}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Restore what ``state`` returned."""
        inner = nested("map", state)
        filtered, item_text, user_text = state["weights"].tolist()
        return cls(TextMap.from_state(inner) if inner else None, (filtered, item_text, user_text))


@dataclass(frozen=True, eq=False)
class GraphRule(FoldIn):
    """score(u, ·) = z(c_u Qᵀ) + w z(t_u Tᵀ) + v z(h_u G) + w_u z(n_u) + p_u z(√d), with what these are made of.

    Args:
        factors: float32[I, r], S-smoothed D_i^−b Q diag(h): c_u is their sum over the history.
        vectors: Q, float32[I, r].
        item_weights: D_i^−b, float32[I]: h_u is the history times these.
        neighbours: G, sparse I x I; None leaves the part out.
        item_texts: None leaves the part out.
        user_texts: None leaves the part out.
        new_users: what a user with a text and no history gets; None treats it as one without a text.
        average: float32[r], the mean of all c_u: what a user with neither history nor text gets.
        weights: v, w, s and p; w_u = s / (1 + √d_u) and p_u = p / (1 + √d_u).
        of_new_items: where an item goes that is known by text alone; None refuses it.
        popularity: √d less its mean, at unit length as the columns of Q, float32[I], d_i the users of an item; None
            leaves the part out.
        reads_own: whether the text of a user with a history is a part of t_u: the fit knew texts of users.
    """

    factors: Float32Array
    vectors: Float32Array
    item_weights: Float32Array
    neighbours: sp.csr_array | None
    item_texts: ItemTexts | None
    user_texts: UserTexts | None
    new_users: NewUsers | None
    average: Float32Array
    weights: tuple[float, float, float, float]
    of_new_items: NewItems | None = None
    popularity: Float32Array | None = None
    reads_own: bool = False

    @cached_property
    def items(self) -> Float32Array:
        """float32[I, d]: [Q ; T ; popularity]."""
        texts = [] if self.item_texts is None else [self.item_texts.vectors]
        popularity = [] if self.popularity is None else [self.popularity[:, None]]
        parts = [self.vectors, *texts, *popularity]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    @cached_property
    def _covariances(self) -> tuple[Float32Array, Float32Array | None]:
        texts = None if self.item_texts is None else covariance(self.item_texts.vectors)
        return covariance(self.vectors), texts

    @cached_property
    def _popularity_scale(self) -> float:
        """The factor that makes the standard deviation of ``popularity`` 1."""
        if self.popularity is None:
            return 0.0
        return float(reciprocal(self.popularity.std(dtype=np.float64, keepdims=True))[0])

    def parts(
        self, histories: sp.csr_array, texts: Float32Array | None = None, own: IntArray | None = None
    ) -> UserParts:
        """The parts of B users; see ``FoldIn.parts``. Many are computed some at a time."""
        n_users = histories.shape[0]
        own = np.full(n_users, -1) if own is None else own
        if n_users <= ROWS:
            return self._parts(histories, texts, own)
        vectors = np.empty((n_users, self.items.shape[1]), np.float32)
        sparse: tuple[list[sp.csr_array], list[sp.csr_array]] = [], []
        for start in range(0, n_users, ROWS):
            block = slice(start, start + ROWS)
            found = self._parts(
                sp.csr_array(histories[block]), None if texts is None else texts[block], own[block]
            )
            vectors[block] = found.vectors
            for parts, part in zip(sparse, found[1:], strict=True):
                if part is not None:
                    parts.append(part)
        history, direct = (sp.csr_array(sp.vstack(part, format="csr")) if part else None for part in sparse)
        return UserParts(vectors, history, direct)

    def _parts(self, histories: sp.csr_array, texts: Float32Array | None, own: IntArray) -> UserParts:
        n_users, n_items = histories.shape
        degrees = np.asarray(histories.sum(axis=1)).ravel()
        is_new = degrees <= 0
        queries = self._queries(texts)
        by_length = 1 / (1 + np.sqrt(degrees))
        popularity = self.weights[3] * by_length * self._popularity_scale
        if texts is not None and self.new_users is not None:
            popularity[is_new & with_text(texts)] = 0  # their weights were chosen without it
        vectors = self._vectors(histories, texts, queries, is_new, popularity)
        history = None
        if self.neighbours is not None:
            history = scale_rows(histories, np.ones(n_users, np.float32), self.item_weights)
            scales = self.weights[0] * reciprocal(self._deviations(history))
            history = scale_rows(history, scales)
        direct: sp.csr_array | None = None
        if self.user_texts is not None:
            if queries is None:
                none = np.zeros((n_users, 0), np.float32)
                direct = weighted_rows(np.zeros((n_users, 0), np.int64), none, n_items)
            else:
                amounts = self.weights[2] * by_length
                if self.new_users is not None:
                    amounts = np.where(is_new, self.new_users.weights[2], amounts)
                asked = np.where((amounts > 0)[:, None], queries, 0)  # zeros find no neighbour
                direct = scale_rows(self.user_texts.rows(asked, own), amounts)
        return UserParts(vectors, history, direct)

    def _queries(self, texts: Float32Array | None) -> Float32Array | None:
        if texts is None or self.user_texts is None:
            return None
        return self.user_texts.whitening(texts, mask=with_text(texts))

    def _vectors(
        self,
        histories: sp.csr_array,
        texts: Float32Array | None,
        queries: Float32Array | None,
        is_new: BoolArray,
        popularity: FloatArray,
    ) -> Float32Array:
        filtered, scales, text, text_scales = self._unscaled(histories, texts, queries, is_new)
        parts = [filtered * scales[:, None]]
        if self.item_texts is not None:
            parts.append(text * text_scales[:, None])
        if self.popularity is not None:
            parts.append(popularity.astype(np.float32)[:, None])
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _unscaled(
        self,
        histories: sp.csr_array,
        texts: Float32Array | None,
        queries: Float32Array | None,
        is_new: BoolArray,
    ) -> tuple[Float32Array, Float32Array, Float32Array, Float32Array]:
        """c_u and t_u with the factors float32[B] that make their scores' deviations 1 and w."""
        filtered: Float32Array = histories @ self.factors
        text = np.zeros((len(filtered), 0), np.float32)
        weights = np.ones(len(filtered)), np.full(len(filtered), self.weights[1])
        filtered[is_new] = self.average
        by_text = np.zeros(len(filtered), bool)
        if texts is not None and self.new_users is not None:
            by_text = is_new & texts.any(axis=1)
            weights[0][by_text], weights[1][by_text] = self.new_users.weights[:2]
            if self.new_users.text_map is not None and queries is not None and by_text.any():
                filtered[by_text] = self.new_users.text_map(queries[by_text])
        of_items, of_texts = self._covariances
        scales = weights[0] * reciprocal(deviations(filtered, of_items))
        text_scales = np.zeros(len(filtered), np.float32)
        if self.item_texts is not None and of_texts is not None:
            sums, lengths = self.item_texts.means(histories)
            own = self.item_texts.own(texts, len(sums))
            if not self.reads_own:  # beside a history they were never tried
                own[~is_new] = 0
            text = sums * reciprocal(lengths)[:, None] + own
            text_scales = weights[1] * reciprocal(deviations(text, of_texts))
        return filtered, scales.astype(np.float32), text, text_scales.astype(np.float32)

    def _deviations(self, history: sp.csr_array) -> Float32Array:
        """float32[B]: the standard deviation over the items of each row of history · neighbours."""
        neighbours = self.neighbours
        assert neighbours is not None

        def work(block: slice) -> Float32Array:
            return sparse_deviations(sp.csr_array(history[block] @ neighbours))

        found = list(map_blocks(work, history.shape[0], history.shape[1]))
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    def split(self, items: IntArray, weights: Float32Array, text: Float32Array | None) -> Float32Array:
        """The shares of the history items and of the own text in a user's vector; see ``FoldIn.split``."""
        n_items = len(self.vectors)
        histories = sp.csr_array((weights, items, [0, len(items)]), shape=(1, n_items))
        texts = None if text is None else text[None]
        is_new = np.array([weights.sum() <= 0])
        filtered, scales, texted, text_scales = self._unscaled(histories, texts, self._queries(texts), is_new)
        shares = np.zeros((len(items) + 1, self.items.shape[1]), np.float32)
        rank = self.vectors.shape[1]
        if not is_new[0]:
            shares[:-1, :rank] = weights[:, None] * self.factors[items] * scales[0]
        elif texts is not None and texts.any() and self.new_users is not None:
            shares[-1, :rank] = filtered[0] * scales[0]
        if self.item_texts is not None:
            _, lengths = self.item_texts.means(histories)
            of_items = weights[:, None] * self.item_texts.vectors[items] * reciprocal(lengths)[0]
            by_text = slice(rank, rank + texted.shape[1])
            shares[:-1, by_text] = of_items * text_scales[0]
            shares[-1, by_text] = texted[0] * text_scales[0] - shares[:-1, by_text].sum(axis=0)
        return shares

    @property
    def reads_texts(self) -> bool:
        """Whether the model was fitted with texts that it uses."""
        return self.item_texts is not None or self.user_texts is not None

    @property
    def cosine_columns(self) -> slice:
        """All but the popularity: two items are not alike because both are popular."""
        return slice(None if self.popularity is None else -1)

    def new_items(self, texts: Float32Array) -> Float32Array:
        """[Q̂ ; T ; 0] of items that are known by text alone: of average popularity; see ``FoldIn.new_items``."""
        if self.item_texts is None or self.of_new_items is None:
            return super().new_items(texts)
        of_new, whitened = self.of_new_items, self.item_texts.whitening(texts, mask=with_text(texts))
        rank = of_new.text_map.coefficients.shape[1]
        # Further columns of Q serve new users alone: a history gives them no weight.
        directions = of_new.directions(whitened, self.item_texts.vectors, self.vectors[:, :rank])
        more = np.zeros((len(whitened), self.vectors.shape[1] - rank), np.float32)
        parts = [np.float32(of_new.length) * directions, more, np.float32(of_new.text_weight) * whitened]
        if self.popularity is not None:
            parts.append(np.zeros((len(whitened), 1), np.float32))
        return np.concatenate(parts, axis=1)

    def state(self) -> State:
        """The arrays that ``from_state`` restores, but ``neighbours``, which the model keeps."""
        arrays: State = {
            "factors": self.factors,
            "vectors": self.vectors,
            "item_weights": self.item_weights,
            "average": self.average,
            "weights": np.array(self.weights),
            "reads_own": np.array([self.reads_own], np.int8),
        }
        if self.popularity is not None:
            arrays["popularity"] = self.popularity
        for name in ("item_texts", "user_texts", "new_users", "of_new_items"):
            part = getattr(self, name)
            if part is not None:
                arrays |= prefixed(name, part.state())
        return arrays

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Restore what ``state`` returned."""

        def part(name: str, restore: Callable[[State], object]) -> object:
            inner = nested(name, state)
            return restore(inner) if inner else None

        # Models of older versions have no popularity, and no own texts without those of similar users.
        user_texts = part("user_texts", UserTexts.from_state)
        neighbour, item_text, user_text, popularity = (*state["weights"].tolist(), 0.0)[:4]
        return cls(
            state["factors"],
            state["vectors"],
            state["item_weights"],
            sparse_from_state("neighbours", state),
            part("item_texts", ItemTexts.from_state),  # type: ignore[arg-type]
            user_texts,  # type: ignore[arg-type]
            part("new_users", NewUsers.from_state),  # type: ignore[arg-type]
            state["average"],
            (neighbour, item_text, user_text, popularity),
            part("of_new_items", NewItems.from_state),  # type: ignore[arg-type]
            state.get("popularity"),
            bool(state["reads_own"][0]) if "reads_own" in state else user_texts is not None,
        )


def covariance(vectors: Float32Array) -> Float32Array:
    """float32[d, d]: the covariance of the rows, with which a user's standard deviation of scores is √(eᵀ C e)."""
    n = max(len(vectors), 1)
    return np.asarray(gram_matrix(vectors, vectors.sum(axis=0, dtype=np.float64) / n) / n, np.float32)


def deviations(users: Float32Array, item_covariance: Float32Array) -> Float32Array:
    """float32[B]: the standard deviation over the items of each user's scores."""
    variances = np.einsum("bd,bd->b", users @ item_covariance, users)
    found: Float32Array = np.sqrt(np.maximum(variances, 0)).astype(np.float32)
    return found


def sparse_deviations(scores: sp.csr_array) -> Float32Array:
    """float32[B]: the standard deviation of each row, its zeros included."""
    n = max(scores.shape[1], 1)
    means = np.asarray(scores.sum(axis=1), np.float64).ravel() / n
    squares = np.asarray(scores.multiply(scores).sum(axis=1), np.float64).ravel() / n
    return np.sqrt(np.maximum(squares - means**2, 0)).astype(np.float32)


def reciprocal(values: npt.NDArray[np.floating]) -> Float32Array:
    """1 / values, and 0 where a value is too small to divide by."""
    found: Float32Array = np.divide(1, values, out=np.zeros(len(values), np.float32), where=values > 1e-9)
    return found


def with_text(texts: Float32Array) -> BoolArray:
    """bool[B]: whether each row has a text; a row of zeros has none."""
    found: BoolArray = np.abs(texts).sum(axis=1) > 0
    return found


def scale_rows(
    matrix: sp.csr_array, factors: npt.NDArray[np.floating], columns: Float32Array | None = None
) -> sp.csr_array:
    """diag(factors) · matrix · diag(columns), as a new float32 matrix; computed in float64, some rows at a time."""
    data = np.empty(matrix.nnz, np.float32)
    for start in range(0, matrix.shape[0], ROWS):
        stop = min(start + ROWS, matrix.shape[0])
        part = slice(matrix.indptr[start], matrix.indptr[stop])
        found = matrix.data[part] * np.repeat(factors[start:stop], np.diff(matrix.indptr[start : stop + 1]))
        data[part] = found if columns is None else found * columns[matrix.indices[part]]
    return sp.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)
