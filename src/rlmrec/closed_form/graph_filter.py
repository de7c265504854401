"""graph-filter: a low-rank ridge filter of the interactions, fused with text and with item neighbours."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from pydantic import Field

from rlmrec.closed_form.base import ClosedForm, ClosedFormModel, FoldIn, State, TextVectors, check_config
from rlmrec.closed_form.graph_rule import (
    GraphRule,
    ItemTexts,
    NewUsers,
    TextMap,
    UserTexts,
    covariance,
    deviations,
    reciprocal,
    scale_rows,
)
from rlmrec.closed_form.neighbours import largest, similarity_graph
from rlmrec.closed_form.search import Quality, Validation
from rlmrec.closed_form.svd import SingularVectors, right_singular_vectors
from rlmrec.closed_form.whitening import Whitening
from rlmrec.config import Config
from rlmrec.data.dataset import Dataset

IntArray = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# What an option left open is where no validation split can choose it: the middle of what four datasets chose.
EXPONENTS = 0.3, 0.3
RANK = 128
RIDGE = 2.0
DEFAULT_WEIGHTS = {"neighbours": 1.0, "item_text": 0.2, "user_text": 1.0}
# What is tried where it can.
STEP = 0.1
TRIAL_RANK, TRIAL_TOLERANCE = 64, 0.25
RIDGES = 1.0, 2.0, 3.0, 5.0, 8.0
WEIGHTS = {
    "neighbours": (0.0, 0.25, 0.5, 1.0, 1.5, 2.5, 4.0),
    "item_text": (0.0, 0.1, 0.2, 0.35, 0.5, 0.8),
    "user_text": (0.0, 0.5, 1.0, 1.5, 2.0, 3.0),
}


class GraphFilterConfig(Config):
    """Options of the graph filter; None lets validation choose."""

    user_exponent: float | None = Field(
        None, ge=0, le=1, description="a of R̃ = D_u^−a R D_i^−b: how much less each item of a long history counts"
    )
    item_exponent: float | None = Field(
        None, ge=0, le=1, description="b of R̃ = D_u^−a R D_i^−b: how much less popular items count"
    )
    rank: int | None = Field(None, ge=1, description="r, singular vectors kept")
    max_rank: int = Field(512, ge=1, description="largest r that is tried where rank is left open")
    ridge: float | None = Field(None, ge=0, description="μ / σ_r of the filter h = σ² / (σ² + μ²)")
    accuracy: float = Field(0.05, gt=0, description="relative residual that each singular pair must reach")
    neighbours: int = Field(100, ge=0, description="M, items kept in each column of R̃ᵀR̃; 0 leaves the part out")
    neighbour_weight: float | None = Field(None, ge=0, description="v, weight of the item neighbours")
    text_weight: float | None = Field(None, ge=0, description="w, weight of the item texts")
    text_power: float = Field(0.5, ge=0, le=1, description="p of the whitening: 1 centres only, 0 whitens fully")
    smoothing: float | None = Field(
        0.0, ge=0, description="β of R̃ (I + β K), K the nearest items by text: items borrow history"
    )
    smoothing_neighbours: int = Field(10, ge=1, description="nearest items by text of each row of K")
    user_text_weight: float | None = Field(
        None, ge=0, description="s of w_u = s / (1 + √d_u), weight of the histories of users with similar texts"
    )
    user_neighbours: int = Field(50, ge=1, description="users whose histories are averaged")
    user_power: float = Field(3.0, ge=0, description="power of the cosine by which these users are weighted")


class GraphFilter(ClosedForm):
    """Low-rank ridge filter of the interactions, fused with item neighbours and text; no gradient, no epochs.

        score(u, ·) = z(c_u Qᵀ) + w z(t_u Tᵀ) + v z(R̃_u G) + w_u z(n_u)

    R̃ = D_u^−a R D_i^−b are the scaled training interactions, Q their leading right singular vectors and
    c_u = R̃_u Q diag(h) with h = σ² / (σ² + μ²). T are the whitened item texts and t_u the mean of the user's
    items, with the user's own text where there is one. G holds the largest entries of R̃ᵀR̃, and n_u averages the
    histories of the users with the most similar texts, w_u = s / (1 + √d_u). z divides a user's scores by their
    standard deviation over the items; the mean is left out, as it does not change the order. So the first two
    terms are one inner product, and without the other two it is all of the model.

    Every option that ``GraphFilterConfig`` leaves open is chosen by the mean of Recall@20 and NDCG@20 on the
    validation split; a text is used only if that gains more than its standard error.
    """

    NAME: ClassVar[str] = "graph-filter"
    label: ClassVar[str] = "graph filter"
    reads_text: ClassVar[bool] = True
    Config: ClassVar[type[Config]] = GraphFilterConfig

    @classmethod
    def fit(
        cls, dataset: Dataset, texts: TextVectors | None = None, config: Any = None, seed: int = 0
    ) -> ClosedFormModel:
        """Fit to the training split; see ``ClosedForm.fit``."""
        options: GraphFilterConfig = check_config(config, GraphFilterConfig)
        return _Fit(dataset, texts, options, seed).model()

    @classmethod
    def rule(cls, state: State) -> FoldIn:
        """The fold-in rule of a fitted model, from its arrays."""
        return GraphRule.from_state(state)


class _Fit:
    """The steps of one fit, with what they share."""

    def __init__(
        self, dataset: Dataset, texts: TextVectors | None, config: GraphFilterConfig, seed: int
    ) -> None:
        self.dataset, self.texts, self.config, self.seed = dataset, texts, config, seed
        self.train = dataset.train.csr()
        self.degrees = dataset.train.user_degrees(), dataset.train.item_degrees()
        self.notes: list[str] = []
        self.chosen: dict[str, Any] = {}
        self.validation: Validation | None = None
        if len(dataset.valid):
            self.validation = Validation(dataset, seed)
        else:
            self.notes.append("no validation split: options left open have their defaults")
        self.parts: dict[str, Float32Array] = {}
        self.weights: dict[str, float] = {}
        self.figures: dict[str, float] = {}

    def model(self) -> ClosedFormModel:
        """All steps, in order."""
        exponents = self._exponents()
        scaled = self._scaled(*exponents)
        graph = self._graph(scaled, exponents[1])
        spectrum, ridge = self._spectrum(scaled)
        item_texts, user_texts = self._item_texts(), self._user_texts()
        self._choose_weights(item_texts, user_texts)
        rule = self._rule(scaled, spectrum, ridge, exponents[1], graph, item_texts, user_texts)
        vectors = None if self.texts is None else self._known_texts()
        parts = rule.parts(self.train, vectors, np.arange(self.dataset.n_users))
        record = {
            "recommender": GraphFilter.NAME,
            "chosen": self.chosen,
            "validation": self.figures,
            "notes": self.notes,
        }
        return ClosedFormModel(
            parts.vectors, rule.items, rule, parts.history, rule.neighbours, parts.direct, record
        )

    # The interactions.

    def _scaled(self, a: float, b: float) -> sp.csr_array:
        """R̃ = D_u^−a R D_i^−b, float32."""
        of_users, of_items = (np.maximum(degrees, 1.0) for degrees in self.degrees)
        return scale_rows(self.train, of_users**-a, (of_items**-b).astype(np.float32))

    def _exponents(self) -> tuple[float, float]:
        """a and b: from the default, by steps to whichever neighbour ranks best, until none is better."""
        given = [self.config.user_exponent, self.config.item_exponent]
        best = [default if value is None else value for value, default in zip(given, EXPONENTS, strict=True)]
        free = [axis for axis in (1, 0) if given[axis] is None]
        if self.validation is not None and free:
            tried: dict[tuple[float, ...], float] = {}
            start: Float32Array | None = None

            def try_out(point: tuple[float, ...]) -> float:
                nonlocal start
                if point not in tried:
                    tried[point], start = self._trial(point[0], point[1], start)
                return tried[point]

            point, moved = tuple(best), True
            while moved:
                moved = False
                for axis in free:
                    for sign in (1, -1):
                        value = round(point[axis] + sign * STEP, 2)
                        other = (value, point[1]) if axis == 0 else (point[0], value)
                        while 0 <= value <= 1 and try_out(other) > try_out(point):
                            point, moved = other, True
                            value = round(value + sign * STEP, 2)
                            other = (value, point[1]) if axis == 0 else (point[0], value)
            best = list(point)
        self.chosen |= {"user_exponent": best[0], "item_exponent": best[1]}
        return best[0], best[1]

    def _trial(self, a: float, b: float, start: Float32Array | None) -> tuple[float, Float32Array]:
        """What validation says of a coarse filter with these exponents, and its singular vectors."""
        assert self.validation is not None
        scaled = self._scaled(a, b)
        found = right_singular_vectors(
            scaled, TRIAL_RANK, tolerance=TRIAL_TOLERANCE, seed=self.seed, start=start
        )
        rows = scaled[self.validation.users]
        scores = _filtered(rows, found, len(found.values), RIDGE)
        if self.config.neighbours:
            scores += _unit((sp.csr_array(rows @ scaled.T) @ scaled).toarray())
        return self.validation.quality(scores).mean, found.vectors

    def _graph(self, scaled: sp.csr_array, b: float) -> sp.csr_array | None:
        """G: the largest entries of each column of R̃ᵀR̃."""
        if not self.config.neighbours:
            return None
        # R̃ᵀR̃ is symmetric: its rows are cut, and become columns.
        graph = sp.csr_array(largest(sp.csr_array(scaled.T @ scaled), self.config.neighbours).T)
        if self.validation is not None:
            rows = scaled[self.validation.users]
            self.parts["neighbours"] = _unit((rows @ graph).toarray())
        return graph

    def _spectrum(self, scaled: sp.csr_array) -> tuple[SingularVectors, float]:
        """The singular vectors and μ / σ_r; the rank doubles for as long as more of it ranks better."""
        config = self.config
        rank = RANK if config.rank is None else config.rank
        rank = min(rank, *scaled.shape)
        found = self._svd(scaled, rank, None)
        if self.validation is None:
            ridge = RIDGE if config.ridge is None else config.ridge
        else:
            rank, ridge, best = self._choose_rank(scaled, found, [rank // 4, rank // 2, 3 * rank // 4, rank])
            while config.rank is None and rank == len(found.values) and 2 * rank <= min(*scaled.shape, config.max_rank):
                found = self._svd(scaled, 2 * rank, found.vectors)
                wider, wider_ridge, quality = self._choose_rank(scaled, found, [3 * rank // 2, 2 * rank])
                if quality.mean <= best.mean:
                    break
                rank, ridge, best = wider, wider_ridge, quality
        if config.rank is not None and config.rank > rank and self.validation is None:
            self.notes.append(f"rank {config.rank} is above the matrix's: {rank} is all there is")
        self.chosen |= {"rank": rank, "ridge": ridge, "svd_error": round(found.error, 4)}
        cut = SingularVectors(np.ascontiguousarray(found.vectors[:, :rank]), found.values[:rank], found.error)
        if self.validation is not None:
            self.parts["filter"] = _filtered(scaled[self.validation.users], cut, rank, ridge)
        return cut, ridge

    def _svd(self, scaled: sp.csr_array, rank: int, start: Float32Array | None) -> SingularVectors:
        return right_singular_vectors(
            scaled, rank, tolerance=self.config.accuracy, seed=self.seed, start=start
        )

    def _choose_rank(
        self, scaled: sp.csr_array, found: SingularVectors, ranks: list[int]
    ) -> tuple[int, float, Quality]:
        """The best of ``ranks`` at a middling ridge, then the best ridge at that rank."""
        assert self.validation is not None
        config, rows = self.config, scaled[self.validation.users]
        ranks = [config.rank] if config.rank is not None else sorted({max(1, rank) for rank in ranks})
        ranks = sorted({min(rank, len(found.values)) for rank in ranks})
        middle = 3.0 if config.ridge is None else config.ridge
        tried: dict[tuple[int, float], Quality] = {}

        def try_out(rank: int, ridge: float) -> Quality:
            if (rank, ridge) not in tried:
                scores = _filtered(rows, found, rank, ridge)
                if "neighbours" in self.parts:
                    scores += self.parts["neighbours"]
                tried[rank, ridge] = self.validation.quality(scores)  # type: ignore[union-attr]
            return tried[rank, ridge]

        rank = max(ranks, key=lambda rank: try_out(rank, middle).mean)
        ridges = RIDGES if config.ridge is None else (config.ridge,)
        ridge = max(ridges, key=lambda ridge: try_out(rank, ridge).mean)
        return rank, ridge, tried[rank, ridge]

    # The texts.

    def _item_texts(self) -> ItemTexts | None:
        """The whitened item texts, or None where there are none that tell items apart."""
        texts = self.texts
        if texts is None or self.config.text_weight == 0:
            return None
        mask = texts.has_item
        whitening = Whitening.fit(texts.items, self.config.text_power, mask=mask)
        if not whitening.size:
            self.notes.append("the item texts are all equal or absent: they are not used")
            return None
        user_mean = None
        if texts.users is not None:
            users = texts.users if texts.has_user is None else texts.users[texts.has_user]
            user_mean = users.mean(axis=0, dtype=np.float64).astype(np.float32) if len(users) else None
        return ItemTexts(whitening, whitening(texts.items, mask=mask), user_mean)

    def _user_texts(self) -> UserTexts | None:
        """The whitened user texts, or None where there are none that tell users apart."""
        texts, config = self.texts, self.config
        if texts is None or texts.users is None or config.user_text_weight == 0:
            return None
        whitening = Whitening.fit(texts.users, config.text_power, mask=texts.has_user)
        if not whitening.size:
            self.notes.append("the user texts are all equal or absent: they are not used")
            return None
        vectors = whitening(texts.users, mask=texts.has_user)
        return UserTexts(whitening, vectors, self.train, config.user_neighbours, config.user_power)

    def _known_texts(self) -> Float32Array | None:
        """float32[U, d_s]: the users' own texts, zeros for none."""
        assert self.texts is not None
        if self.texts.users is None:
            return None
        if self.texts.has_user is None:
            return self.texts.users
        return np.where(self.texts.has_user[:, None], self.texts.users, 0).astype(np.float32)

    def _choose_weights(self, item_texts: ItemTexts | None, user_texts: UserTexts | None) -> None:
        """v, w and s, one after the other and once more; a text whose gain is not beyond chance is left out."""
        given = {
            "neighbours": self.config.neighbour_weight,
            "item_text": self.config.text_weight,
            "user_text": self.config.user_text_weight,
        }
        present = {
            "neighbours": self.config.neighbours > 0,
            "item_text": item_texts is not None,
            "user_text": user_texts is not None,
        }
        self.weights = {name: 0.0 for name in given}
        for name, there in present.items():
            value = given[name]
            if there:
                self.weights[name] = DEFAULT_WEIGHTS[name] if value is None else value
        if self.validation is None:
            self.chosen |= self.weights
            return
        self._score_texts(item_texts, user_texts)
        free = [name for name, there in present.items() if there and given[name] is None]
        self.weights |= {name: 0.0 for name in free}
        for name in free:
            before = self._quality()
            after = self._pick(name)
            self._keep_if_better(name, before, after)
        for name in [name for name in free if self.weights[name]]:
            self._pick(name)
        quality = self._quality()
        self.figures = quality.figures()
        self.chosen |= {name: round(weight, 4) for name, weight in self.weights.items()}

    def _keep_if_better(self, name: str, before: Quality, after: Quality) -> None:
        gain, error = after.gain_over(before)
        if name != "neighbours":
            what = name.replace("_", " ")
            kept = gain > error
            self.notes.append(
                f"{what}: {'used' if kept else 'not used'}, validation changes by {gain:+.4f} (standard error {error:.4f})"
            )
        else:
            kept = gain > 0
        if not kept:
            self.weights[name] = 0.0

    def _pick(self, name: str) -> Quality:
        """Set the weight that ranks best, the others staying."""
        tried: dict[float, Quality] = {}
        for weight in WEIGHTS[name]:
            self.weights[name] = weight
            tried[weight] = self._quality()
        best = max(tried, key=lambda weight: tried[weight].mean)
        self.weights[name] = best
        return tried[best]

    def _quality(self) -> Quality:
        """What validation says of the weights as they are."""
        assert self.validation is not None
        scores = self.parts["filter"].copy()
        for name, weight in self.weights.items():
            if weight:
                scores += np.float32(weight) * self.parts[name]
        return self.validation.quality(scores)

    def _score_texts(self, item_texts: ItemTexts | None, user_texts: UserTexts | None) -> None:
        assert self.validation is not None
        users = self.validation.users
        own = None if self.texts is None else self._known_texts()
        own = None if own is None else own[users]
        if item_texts is not None:
            sums, lengths = item_texts.means(self.train[users])
            text = sums * reciprocal(lengths)[:, None] + item_texts.own(own, len(users))
            scales = reciprocal(deviations(text, covariance(item_texts.vectors)))
            self.parts["item_text"] = (text * scales[:, None]) @ item_texts.vectors.T
        if user_texts is not None:
            found = user_texts.rows(user_texts.vectors[users], users)
            amounts = 1 / (1 + np.sqrt(self.degrees[0][users]))
            self.parts["user_text"] = scale_rows(found, amounts).toarray()

    # The model.

    def _rule(
        self,
        scaled: sp.csr_array,
        spectrum: SingularVectors,
        ridge: float,
        b: float,
        graph: sp.csr_array | None,
        item_texts: ItemTexts | None,
        user_texts: UserTexts | None,
    ) -> GraphRule:
        of_items = (np.maximum(self.degrees[1], 1.0) ** -b).astype(np.float32)
        weighted = spectrum.vectors * _gains(spectrum.values, ridge)
        weights = self.weights["neighbours"], self.weights["item_text"], self.weights["user_text"]
        return GraphRule(
            factors=of_items[:, None] * weighted,
            vectors=spectrum.vectors,
            item_weights=of_items,
            neighbours=graph if weights[0] else None,
            item_texts=item_texts if weights[1] else None,
            user_texts=user_texts if weights[2] else None,
            new_users=None,
            weights=weights,
            item_map=None,
        )


def _gains(values: FloatArray, ridge: float) -> Float32Array:
    """h = σ² / (σ² + μ²) with μ = ridge · σ_r."""
    squares = values**2
    smallest = squares[-1] if len(squares) else 0.0
    return np.divide(
        squares, squares + ridge**2 * smallest, out=np.zeros(len(squares)), where=squares > 0
    ).astype(np.float32)


def _filtered(rows: sp.csr_array, found: SingularVectors, rank: int, ridge: float) -> Float32Array:
    """float32[n, I]: z(c_u Qᵀ) of some users at a rank and ridge."""
    vectors = np.ascontiguousarray(found.vectors[:, :rank])
    users = (rows @ vectors) * _gains(found.values[:rank], ridge)
    users *= reciprocal(deviations(users, covariance(vectors)))[:, None]
    scores: Float32Array = users @ vectors.T
    return scores


def _unit(scores: Float32Array) -> Float32Array:
    """``scores`` with a standard deviation of 1 in each row, in place."""
    n = max(scores.shape[1], 1)
    means = scores.mean(axis=1, dtype=np.float64)
    squares = np.einsum("ui,ui->u", scores, scores) / n
    scores *= reciprocal(np.sqrt(np.maximum(squares - means**2, 0)))[:, None]
    return scores
