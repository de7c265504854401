"""graph-filter: a low-rank ridge filter of the interactions, fused with text and with item neighbours."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from pydantic import Field

from rlmrec.closed_form.base import (
    ClosedForm,
    ClosedFormModel,
    ExponentsConfig,
    FoldIn,
    State,
    TextVectors,
    UserParts,
    check_texts,
    notes_without_validation,
)
from rlmrec.closed_form.graph_rule import (
    ROWS,
    GraphRule,
    ItemTexts,
    NewItems,
    NewUsers,
    TextMap,
    UserTexts,
    covariance,
    deviations,
    reciprocal,
    scale_rows,
    with_text,
)
from rlmrec.closed_form.neighbours import largest, largest_products, similarity_graph, times_products
from rlmrec.closed_form.search import CELLS, Quality, Validation, shards_for
from rlmrec.closed_form.svd import SingularVectors, right_singular_vectors, rows_of
from rlmrec.config import Config, as_config
from rlmrec.data.dataset import Dataset
from rlmrec.linalg import ROUNDING, unit_rows
from rlmrec.shards import Shards
from rlmrec.text.whitening import Whitening
from rlmrec.topk import map_blocks
from rlmrec.types import BoolArray, Float32Array, FloatArray, IntArray

# What an option left open is where no validation split can choose it: the middle of what four datasets chose.
EXPONENTS = 0.3, 0.3
RANK, LEAST_RANK = 128, 4
RIDGE = 2.0
NO_WEIGHT = "no weight above 0 ranks better on validation"
DEFAULT_WEIGHTS = {"neighbours": 1.0, "popularity": 1.0, "item_text": 0.2, "user_text": 1.0}
# What is tried where it can.
STEP = 0.1
# Numbers of singular vectors of the coarse filters. Short histories need few, and more add noise; long ones need many.
# In a sample of large data only 64 are tried.
TRIAL_RANKS, SAMPLE_RANKS, TRIAL_TOLERANCE = (16, 64, 128), (64,), 0.25
CLOSE = 2.0  # standard errors within which exponents are compared by whole fits
TRIAL_WEIGHTS = 0.5, 1.5, 4.0
# β where it is tried. yelp-profiles with two interactions of each user, Recall@20 on validation: without smoothing
# .052; 10 neighbours: .059 (β = .2), .040 (β = 1); 50 neighbours: .062 (β = .5).
SMOOTHING = 0.5
# It is tried where users have at most so many interactions on average, and there are at most so many pairs of items.
SMOOTHING_HISTORY, SMOOTHING_CELLS = 5.0, 1 << 31
# Interactions that the coarse filters are computed from: those of a sample of users where there are more.
TRIAL_INTERACTIONS = 1 << 21
NEIGHBOURS = 50, 200, 1000
KEPT_CELLS = 1 << 26  # scores of a part that are kept while options are tried: 256 MiB in float32
ENTRIES = 1 << 26  # of the item neighbours at most where their number is chosen: 512 MiB
RIDGES = 1.0, 2.0, 3.0, 5.0, 8.0
# Users without a history: what is hidden to choose their weights, and what is tried beside the filter.
HIDDEN = 1000
NEW_ITEM_TEXTS = 0.0, 0.2, 0.4, 0.8, 1.2
NEW_USER_TEXTS = 0.0, 0.5, 1.0, 2.0
# γ and λ of the maps from text.
MAP_WIDTH, USER_RIDGE, ITEM_RIDGE = 1.0, 0.1, 0.3
# Weight of a new item's text beside the place found for it, and items that tell how far such places spread.
NEW_ITEM_WEIGHT, SPREAD_ITEMS = 0.4, 1000
# Weight of popularity and item texts that validation left out: too small to change a ranking of known items that
# anything else speaks for, but popularity orders the others, and a new item's text finds its users by it.
CARRIED = 1e-3
DROWNS = 2.0  # weight of popularity beside which no text shows: texts are then chosen beside smaller ones
WEIGHT_NAMES = {
    "neighbours": "neighbour_weight",
    "popularity": "popularity_weight",
    "item_text": "text_weight",
    "user_text": "user_text_weight",
}
TEXTS = "item_text", "user_text"
WEIGHTS = {
    "neighbours": (0.0, 0.25, 0.5, 1.0, 1.5, 2.5, 4.0),
    "popularity": (CARRIED, 0.5, 1.0, 2.0, 4.0, 8.0, 32.0),
    "item_text": (0.0, 0.1, 0.2, 0.35, 0.5, 0.8, 1.2),
    "user_text": (0.0, 0.5, 1.0, 1.5, 2.0, 3.0),
}


class GraphFilterConfig(ExponentsConfig):
    """Options of the graph filter; None lets validation choose."""

    rank: int | None = Field(None, ge=1, description="r, singular vectors kept")
    max_rank: int = Field(
        512,
        ge=1,
        description="largest r that is tried where rank is left open; coarse filters, which find the exponents, have "
        "up to 128",
    )
    ridge: float | None = Field(None, ge=0, description="μ / σ_r of the filter h = σ² / (σ² + μ²)")
    accuracy: float = Field(0.05, gt=0, description="relative residual that each singular pair must reach")
    neighbours: int | None = Field(
        None, ge=0, description="M, items kept in each column of R̃ᵀR̃; 0 leaves the part out"
    )
    neighbour_weight: float | None = Field(None, ge=0, description="v, weight of the item neighbours")
    popularity_weight: float | None = Field(
        None, ge=0, description="p of p_u = p / (1 + √d_u), weight of the items' popularity"
    )
    text_weight: float | None = Field(None, ge=0, description="w, weight of the item texts")
    text_power: float = Field(
        0.5, ge=0, le=1, description="p of the whitening: 1 centres only, 0 whitens fully"
    )
    smoothing: float | None = Field(
        None,
        ge=0,
        description="β of R̃ (I + β K), K the nearest items by text: items borrow history; left open, .5 is tried "
        "where histories are short, unless text_weight is 0",
    )
    smoothing_neighbours: int = Field(50, ge=1, description="nearest items by text of each row of K")
    user_text_weight: float | None = Field(
        None,
        ge=0,
        description="s of w_u = s / (1 + √d_u), weight of the histories of users with similar texts",
    )
    user_text_power: float = Field(1.0, ge=0, le=1, description="p of the whitening of the users' texts")
    user_neighbours: int = Field(50, ge=1, description="users whose histories are averaged")
    user_power: float = Field(3.0, ge=0, description="power of the cosine by which these users are weighted")


class GraphFilter(ClosedForm):
    """Low-rank ridge filter of the interactions, fused with item neighbours, popularity and text; no epochs.

        score(u, ·) = z(c_u Qᵀ) + w z(t_u Tᵀ) + v z(R̃_u G) + w_u z(n_u) + p_u z(√d)

    R̃ = D_u^−a R D_i^−b are the scaled training interactions, Q their leading right singular vectors and
    c_u = R̃_u Q diag(h) with h = σ² / (σ² + μ²). T are the whitened item texts, and t_u is the mean of the vectors of
    the user's items, scaled to unit length, plus the user's own text at unit length where there is one. G holds the
    largest entries of R̃ᵀR̃, and n_u averages the histories of the users with the most similar texts,
    w_u = s / (1 + √d_u). √d are the square roots of the items' numbers of users, p_u = p / (1 + √d_u): the shorter
    the history, the more popularity counts. z divides a user's scores by their standard deviation over the items;
    the mean is left out, as it does not change the order. So all but the item neighbours and n_u are one inner
    product, and without these two it is all of the model.

    Where items have texts, R̃ (I + β K) can stand for R̃ in the filter: K joins the nearest items by text, so that
    items borrow history.

    Every option that ``GraphFilterConfig`` leaves open is chosen by the mean of Recall@20 and NDCG@20 on the
    validation split. Coarse filters of few and of many singular vectors find exponents; where the best two are
    close, both are fitted and the better one stays. A text is used only if that gains more than its standard error,
    beyond what popularity gains. So is smoothing, which is tried where users have at most five interactions on
    average. The smallest weight of popularity only breaks ties.
    """

    NAME: ClassVar[str] = "graph-filter"
    label: ClassVar[str] = "graph filter"
    reads_text: ClassVar[bool] = True
    has_shards: ClassVar[bool] = True
    Config: ClassVar[type[Config]] = GraphFilterConfig

    @classmethod
    def uses_text(cls, config: Any) -> bool:
        """Return whether a weight of texts is above 0 or left open, or items are smoothed by their texts."""
        weights = config.text_weight, config.user_text_weight, config.smoothing or 0
        return any(weight != 0 for weight in weights)

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        texts: TextVectors | None = None,
        config: Any = None,
        seed: int = 0,
        shards: Shards | None = None,
    ) -> ClosedFormModel:
        """Fit to the training split; see ``ClosedForm.fit``.

        Args:
            dataset: the dataset.
            texts: text vectors.
            config: a ``GraphFilterConfig``.
            seed: of everything random.
            shards: processes that fit together, each of which calls this with the same arguments. The products over
                users, the item neighbours, the ranking of the validation users and the users' parts are divided.
                The first process gets the model; in the others it holds their own users alone.
        """
        texts = check_texts(texts, dataset)
        options: GraphFilterConfig = as_config(GraphFilterConfig, config, {})
        return _Fit(dataset, texts, options, seed, shards or Shards()).model()

    @classmethod
    def rule(cls, state: State) -> FoldIn:
        """The fold-in rule of a fitted model, from its arrays."""
        return GraphRule.from_state(state)


class _Fit:
    """The steps of one fit, with what they share."""

    def __init__(
        self,
        dataset: Dataset,
        texts: TextVectors | None,
        config: GraphFilterConfig,
        seed: int,
        shards: Shards,
    ) -> None:
        self.dataset, self.texts, self.config, self.seed, self.shards = dataset, texts, config, seed, shards
        self.train = dataset.train.csr()
        self.degrees = dataset.train.user_degrees(), dataset.train.item_degrees()
        self.exponents = EXPONENTS
        self.smoothing: sp.csr_array | None = None
        # Singular vectors of the chosen exponents, where these were compared by accurate ones.
        self.accurate: SingularVectors | None = None
        self.notes: list[str] = []
        self.chosen: dict[str, Any] = {}
        self.validation: Validation | None = None
        if len(dataset.valid):
            self.validation = Validation(dataset, seed, shards=shards)
        else:
            self.notes += notes_without_validation(config)
        self.parts: dict[str, _Scores] = {}
        self.pairs: tuple[float, sp.csr_array, sp.csr_array] | None = None
        self.weights = dict.fromkeys(WEIGHT_NAMES, 0.0)
        self.quality: Quality | None = None
        self.free: list[str] = []
        self.trials: list[dict[str, float]] = []

    def model(self) -> ClosedFormModel:
        """All steps, in order."""
        self.item_texts, self.user_texts = self._item_texts(), self._user_texts()
        if self.validation is not None:
            self._score_parts()
        best = self._best_exponents()
        best._choose_weights()
        if self.config.smoothing is None and self._may_smooth():
            best = self._smoothed_if_better(best)
        best.chosen["smoothing"] = 0.0 if best.smoothing is None else self.config.smoothing or SMOOTHING
        self.parts, best.parts = {}, {}  # nothing more is chosen by them
        return best._finished()

    def _with(self, exponents: tuple[float, float], smoothing: sp.csr_array | None) -> _Fit:
        """A copy with these exponents and I + β K, fitted up to the texts whose weight is free.

        It takes over ``accurate``. Trials and validation users are shared.
        """
        fit = copy.copy(self)
        fit.exponents, fit.smoothing = exponents, smoothing
        fit.accurate, self.accurate = self.accurate if smoothing is None else None, None
        fit.parts, fit.weights = dict(self.parts), dict.fromkeys(WEIGHT_NAMES, 0.0)
        fit.notes = list(self.notes)
        fit.chosen = {"user_exponent": exponents[0], "item_exponent": exponents[1]}
        fit._interactions()
        fit._begin_weights()
        if fit.quality is not None:
            self.trials.append({**fit._tried(*exponents), **fit.quality.figures()})
        return fit

    def _best_exponents(self) -> _Fit:
        """The best fit to the interactions among the exponents that coarse filters left."""
        proposed, graph = self._exponents(), self._smoothing(self.config.smoothing or 0.0)
        self.pairs = None  # of the coarse filters alone
        fits = (self._with(exponents, graph) for exponents in proposed)
        return max(fits, key=lambda fit: 0.0 if fit.quality is None else fit.quality.mean)

    def _may_smooth(self) -> bool:
        """Whether smoothing is tried: there are item texts, histories are short, and the data are not too large."""
        if self.validation is None or self.item_texts is None:
            return False
        lengths = self.degrees[0]
        if lengths.sum() > SMOOTHING_HISTORY * np.count_nonzero(lengths):
            return False
        return self.dataset.n_items**2 <= SMOOTHING_CELLS and self.trial_users is None

    def _smoothed_if_better(self, plain: _Fit) -> _Fit:
        """``plain`` with smoothing if that gains more than its standard error, else as it is."""
        smoothed = self._with(plain.exponents, self._smoothing(SMOOTHING))
        smoothed._choose_weights()
        assert smoothed.quality is not None
        assert plain.quality is not None
        gain, error = smoothed.quality.gain_over(plain.quality)
        kept = smoothed if gain > error else plain
        changes = f"validation changes by {gain:+.4f} (standard error {error:.4f})"
        kept.notes.append(f"smoothing: {'used' if kept is smoothed else 'not used'}, {changes}")
        return kept

    def _finished(self) -> ClosedFormModel:
        """The model, when all is chosen."""
        rule = self._rule()
        parts = self._parts(rule)
        record = {
            "recommender": GraphFilter.NAME,
            "chosen": self.chosen,
            "validation": {} if self.quality is None else self.quality.figures(),
            "trials": self.trials,
            "notes": self.notes,
            "tries": 0 if self.validation is None else self.validation.tried,
        }
        return ClosedFormModel(
            parts.vectors, rule.items, rule, parts.history, rule.neighbours, parts.direct, record,
            self.dataset.fingerprint, self.dataset.is_final,
        )  # fmt: skip

    def _parts(self, rule: GraphRule) -> UserParts:
        """The parts of all users; in a process that is not the first, those of its own."""
        mine = self.shards.rows(self.dataset.n_users)
        vectors = None if self.texts is None else self._known_texts()
        vectors = None if vectors is None else vectors[mine]
        train = rows_of(self.train, mine.start, mine.stop)
        parts = rule.parts(train, vectors, np.arange(mine.start, mine.stop))
        history, direct = (
            None if part is None else self.shards.gather_sparse(part, everywhere=False) for part in parts[1:]
        )
        direct = direct if direct is not None and direct.nnz else None
        return UserParts(self.shards.gather(parts.vectors, everywhere=False), history, direct)

    # The interactions.

    def _scaled(self, a: float, b: float) -> sp.csr_array:
        """R̃ = D_u^−a R D_i^−b, float32."""
        return scale_rows(self.train, np.maximum(self.degrees[0], 1.0) ** -a, self._item_weights(b))

    def _smoothing(self, weight: float) -> sp.csr_array | None:
        """I + β K, by which items borrow history from the items of similar text; None for β = 0."""
        item_texts = self._whitened_items if weight else None
        if item_texts is None:
            return None
        graph = similarity_graph(item_texts.vectors, self.config.smoothing_neighbours)
        identity = sp.eye_array(self.dataset.n_items, dtype=np.float32)
        return sp.csr_array(identity + np.float32(weight) * graph)

    def _smoothed(self, rows: sp.csr_array) -> sp.csr_array:
        """Rows of R' = R̃ (I + β K), from those of R̃."""
        return rows if self.smoothing is None else sp.csr_array(rows @ self.smoothing)

    def _exponents(self) -> list[tuple[float, float]]:
        """a and b: from the default, by steps to whichever neighbour's coarse filters rank best, until none is better.

        Coarse filters cannot tell the best ones apart, so a close second is returned too.
        """
        given = self.config.user_exponent, self.config.item_exponent
        begin = [default if value is None else value for value, default in zip(given, EXPONENTS, strict=True)]
        best = begin[0], begin[1]
        free = [axis for axis in (1, 0) if given[axis] is None]
        if self.validation is None or not free:
            return [best]
        tried: dict[tuple[float, float], Quality] = {}
        start: Float32Array | None = None

        def try_out(point: tuple[float, float]) -> float:
            nonlocal start
            if point not in tried:
                tried[point], start = self._trial(*point, start)
            return tried[point].mean

        def beside(axis: int, step: float) -> tuple[float, float]:
            a, b = (round(value + step, 2) if place == axis else value for place, value in enumerate(best))
            return a, b

        moved = True
        while moved:
            moved = False
            for axis in free:
                for step in (STEP, -STEP):
                    other = beside(axis, step)
                    while 0 <= other[axis] <= 1 and try_out(other) > try_out(best):
                        best, moved = other, True
                        other = beside(axis, step)
        if self.trial_users is not None:  # one whole fit; smoothing comes after the exponents
            return [best if self.config.smoothing else self._compared_by_accurate_vectors(best, tried)]
        gains = {point: tried[best].gain_over(quality) for point, quality in tried.items() if point != best}
        # An error of 0: the same lists, as a user's exponent changes nothing where all have as many interactions.
        close = [point for point, (gain, error) in gains.items() if gain <= CLOSE * error and error > 0]
        return [best, *sorted(close, key=lambda point: -tried[point].mean)[:1]]

    @cached_property
    def trial_users(self) -> IntArray | None:
        """Rows of the users whose interactions the coarse filters are computed from; None for all."""
        n_users, share = self.train.shape[0], TRIAL_INTERACTIONS / max(1, self.train.nnz)
        if share >= 1:
            return None
        rng = np.random.default_rng(self.seed)
        return np.sort(rng.choice(n_users, max(1, int(share * n_users)), replace=False))

    def _compared_by_accurate_vectors(
        self, best: tuple[float, float], tried: dict[tuple[float, float], Quality]
    ) -> tuple[float, float]:
        """The better of the two best exponents by accurate singular vectors, where coarse ones cannot tell them apart.

        In a large catalogue a coarse filter of few vectors hides what the exponents change. The filters are compared
        alone, as item neighbours come later and must gain more than chance.

        Args:
            best: a and b.
            tried: what validation says of the coarse filters.
        """
        gains = {point: tried[best].gain_over(quality) for point, quality in tried.items() if point != best}
        close = [point for point, (gain, error) in gains.items() if gain <= error]
        if not close:
            return best
        assert self.validation is not None
        rank = self._first_rank()
        ridge = RIDGE if self.config.ridge is None else self.config.ridge
        rival = max(close, key=lambda point: tried[point].mean)
        means = []
        start = None
        for point in (best, rival):
            scaled = self._scaled(*point)
            found = self._svd(scaled, rank, start)
            users = _filter_users(self._smoothed(scaled[self.validation.users]), _cut(found, rank), ridge)
            quality = self.validation.quality(_scores_of(users, found.vectors[:, :rank]))
            self.trials.append({**self._tried(*point), "accurate": True, **quality.figures()})
            means.append(quality.mean)
            if len(means) == 1 or means[1] > means[0]:
                self.accurate = found
            start = found.vectors
        return rival if means[1] > means[0] else best

    def _trial(self, a: float, b: float, start: Float32Array | None) -> tuple[Quality, Float32Array]:
        """What validation says of the best coarse filter with these exponents, and the singular vectors."""
        assert self.validation is not None
        scaled = self._scaled(a, b)
        tried = TRIAL_RANKS if self.trial_users is None else SAMPLE_RANKS
        found = right_singular_vectors(
            scaled if self.trial_users is None else scaled[self.trial_users],
            max(tried),
            tolerance=TRIAL_TOLERANCE,
            seed=self.seed,
            start=start,
            shards=self.shards,
        )
        rows = scaled[self.validation.users]
        ranks = sorted({min(rank, len(found.values)) for rank in tried})
        cuts = [_cut(found, rank) for rank in ranks]
        filters = [(_filter_users(rows, cut, RIDGE), cut.vectors) for cut in cuts]
        of_items = self._item_weights(b)
        weighted = scale_rows(rows, np.ones(rows.shape[0]), of_items)
        alone = self.config.neighbours == 0 or self.config.neighbour_weight == 0

        def scores(block: slice) -> Iterator[Float32Array]:
            beside: list[Any] = [np.float32(0)]
            if not alone:
                alike = _unit(self._through_users(weighted[block], a) * of_items)
                beside = [np.float32(weight) * alike for weight in TRIAL_WEIGHTS]
            for users, vectors in filters:
                of_block = users[block] @ vectors.T
                for part in beside:
                    yield of_block + part

        results = self.validation.qualities(scores)
        best = int(np.argmax([quality.mean for quality in results]))
        rank = ranks[best * len(ranks) // len(results)]
        self.trials.append({**self._tried(a, b), "coarse": rank, **results[best].figures()})
        return results[best], found.vectors

    def _tried(self, a: float, b: float) -> dict[str, float]:
        """What a trial of the filter is recorded by."""
        return {"user_exponent": a, "item_exponent": b, "smoothed": self.smoothing is not None}

    def _item_weights(self, b: float) -> Float32Array:
        """float32[I]: D_i^−b."""
        return (np.maximum(self.degrees[1], 1.0) ** -b).astype(np.float32)

    def _through_users(self, rows: sp.csr_array, a: float) -> Float32Array:
        """float32[B, I]: ``rows`` times Rᵀ D_u^−2a R, which is never made: it has up to I² entries.

        R̃ᵀR̃ is this matrix with both sides scaled by D_i^−b.
        """
        pairs = self.pairs
        if pairs is None or pairs[0] != a:
            scaled = self._scaled(a, 0)
            self.pairs = pairs = a, scaled, sp.csr_array(scaled.T)
        return times_products(rows, pairs[1], pairs[2])

    def _neighbour_counts(self) -> tuple[int, ...]:
        """The values of M that are tried: those for which G has at most ``ENTRIES`` entries, at least the least."""
        tried = tuple(count for count in NEIGHBOURS if count * self.dataset.n_items <= ENTRIES)
        left_out = NEIGHBOURS[max(1, len(tried)) :]
        if left_out:
            self.notes.append(
                f"{self.dataset.n_items:,} items: neighbours {', '.join(map(str, left_out))} not tried, for memory"
            )
        return tried or NEIGHBOURS[:1]

    def _graph(self, scaled: sp.csr_array) -> sp.csr_array | None:
        """G: the largest entries of each column of R̃ᵀR̃; how many, validation chooses beside the filter."""
        counts = self._neighbour_counts() if self.config.neighbours is None else (self.config.neighbours,)
        if counts == (0,) or self.config.neighbour_weight == 0:
            return None
        whole = largest_products(scaled, max(counts), self.shards)
        if self.validation is None:
            self.chosen["neighbours"] = counts[0]
            return _columns(whole, counts[0])
        # The parts are compared together with the filter, as a graph that is best alone is not best beside it.
        rows = scaled[self.validation.users]
        graphs: list[sp.csr_array] = []
        for count in sorted(counts, reverse=True):
            whole = largest(whole, count)
            graphs.insert(0, sp.csr_array(whole.T))

        def scores(block: slice) -> Iterator[Float32Array]:
            of_filter = self.parts["filter"][block]
            for graph in graphs:
                part = _unit(sp.csr_array(rows[block] @ graph).toarray())
                for weight in TRIAL_WEIGHTS:
                    yield of_filter + np.float32(weight) * part

        means = [quality.mean for quality in self.validation.qualities(scores)]
        best = int(np.argmax(means)) // len(TRIAL_WEIGHTS)
        for count, found in zip(counts, np.reshape(means, (len(counts), -1)).max(axis=1), strict=True):
            self.trials.append({"neighbours": count, "mean": float(found)})
        self.chosen["neighbours"] = counts[best]
        self.parts["neighbours"] = self._neighbour_scores(rows, graphs[best])
        return graphs[best]

    def _neighbour_scores(self, rows: sp.csr_array, graph: sp.csr_array) -> _Scores:
        """float32[n, I]: z(R̃_u G) of the validation users."""

        def work(block: slice) -> Float32Array:
            return _unit(sp.csr_array(rows[block] @ graph).toarray())

        return self._stacked(work)

    def _stacked(self, work: Callable[[slice], Float32Array]) -> _Scores:
        """The scores of all validation users, kept where they are few enough and else computed whenever needed."""
        assert self.validation is not None
        if len(self.validation) * self.dataset.n_items > KEPT_CELLS:
            return _Recomputed(work)
        found = np.empty((len(self.validation), self.dataset.n_items), np.float32)

        def fill(block: slice) -> None:
            found[block] = work(block)

        for _ in map_blocks(fill, *found.shape):
            pass
        return found

    def _first_rank(self) -> int:
        """The rank that is given, or the one that higher ones are tried from."""
        rank = min(RANK, self.config.max_rank) if self.config.rank is None else self.config.rank
        return min(rank, *self.train.shape)

    def _interactions(self) -> None:
        """Find singular vectors, r, μ / σ_r and G; the rank doubles for as long as more of it ranks better."""
        config, scaled = self.config, self._scaled(*self.exponents)
        rank = self._first_rank()
        if config.rank is not None and config.rank > rank:
            self.notes.append(f"rank {config.rank} is above the matrix's: {rank} is all there is")
        wide = self._svd(scaled, rank, None) if self.accurate is None else self.accurate
        self.accurate = None
        found = _cut(wide, rank)
        ridge = RIDGE if config.ridge is None else config.ridge
        if self.validation is not None:
            self._keep_filter(scaled, found, ridge)
        graph = self._graph(scaled)
        given = config.neighbour_weight
        self.weights["neighbours"] = (
            0.0 if graph is None else DEFAULT_WEIGHTS["neighbours"] if given is None else given
        )
        if self.validation is not None:
            if graph is not None and given is None:
                self._pick("neighbours")
            found, rank, ridge = self._search_rank(scaled, wide, rank)
            self._keep_filter(scaled, _cut(found, rank), ridge)
        self.chosen |= {"rank": rank, "ridge": ridge, "svd_error": round(found.error, 4)}
        if found.error > config.accuracy:
            self.notes.append(
                f"the singular vectors have a relative residual of {found.error:.2g}, above the accuracy of "
                f"{config.accuracy:g}"
            )
        self.spectrum, self.rank, self.ridge, self.graph = found, rank, ridge, graph

    def _search_rank(
        self, scaled: sp.csr_array, wide: SingularVectors, rank: int
    ) -> tuple[SingularVectors, int, float]:
        """All singular vectors found, r at a middling ridge, and the best μ / σ_r at that rank.

        Args:
            scaled: R̃.
            wide: its leading singular vectors, the oversampling ones after them.
            rank: how many of them are accurate.
        """
        assert self.validation is not None
        most, rows = min(*scaled.shape, self.config.max_rank), self._smoothed(scaled[self.validation.users])
        found = _cut(wide, rank)
        chosen, best, more = self._choose_rank(rows, wide, rank, _parts_of(rank), lower=True)
        while more and 2 * rank <= most:
            rank *= 2
            wide = self._svd(scaled, rank, found.vectors)
            found = _cut(wide, rank)
            wider, quality, more = self._choose_rank(rows, wide, rank, [3 * rank // 4, rank])
            if quality <= best:
                break
            chosen, best = wider, quality
        ridges = RIDGES if self.config.ridge is None else (self.config.ridge,)
        by_ridge = self._filter_qualities(rows, found, [(chosen, ridge) for ridge in ridges])
        return found, chosen, ridges[int(np.argmax(by_ridge))]

    def _svd(self, scaled: sp.csr_array, rank: int, start: Float32Array | None) -> SingularVectors:
        return right_singular_vectors(
            scaled,
            rank,
            smoothing=self.smoothing,
            tolerance=self.config.accuracy,
            seed=self.seed,
            start=start,
            shards=self.shards,
            spare=True,
        )

    def _choose_rank(
        self, rows: sp.csr_array, wide: SingularVectors, most: int, ranks: list[int], lower: bool = False
    ) -> tuple[int, float, bool]:
        """The best of ``ranks`` at a middling ridge.

        Args:
            rows: R' of the validation users.
            wide: the leading singular vectors, the oversampling ones after them.
            most: how many of them are accurate, the last of ``ranks``.
            ranks: what is tried, unless the rank is given.
            lower: whether to try halves of the least of them, too, down to ``LEAST_RANK``.

        Returns:
            rank, its value, and whether a higher rank may be better: the highest is the best, and the oversampling
            vectors, where there are any, still add to it.
        """
        config = self.config
        half = min(ranks) // 2
        while lower and half >= LEAST_RANK:
            ranks, half = [half, *ranks], half // 2
        ranks = [config.rank] if config.rank is not None else sorted({max(1, rank) for rank in ranks})
        ranks = sorted({min(rank, most) for rank in ranks})
        # Oversampling vectors say whether a higher rank may pay. They are less accurate, so they are no choice.
        is_last = config.rank is not None or 2 * most > min(*self.train.shape, config.max_rank)
        spare = [] if is_last or len(wide.values) == most else [len(wide.values)]
        middle = 3.0 if config.ridge is None else config.ridge
        by_rank = self._filter_qualities(rows, wide, [(rank, middle) for rank in ranks + spare])
        best = int(np.argmax(by_rank[: len(ranks)]))
        more = config.rank is None and ranks[best] == most and max(by_rank[len(ranks) - 1 :]) == by_rank[-1]
        return ranks[best], by_rank[best], more

    def _filter_qualities(
        self, rows: sp.csr_array, wide: SingularVectors, pairs: list[tuple[int, float]]
    ) -> list[float]:
        """What validation says of the filters of some ranks and ridges beside the item neighbours."""
        assert self.validation is not None
        beside = np.float32(self.weights["neighbours"])
        cuts = [(_cut(wide, rank), ridge) for rank, ridge in pairs]
        filters = [(_filter_users(rows, cut, ridge), cut.vectors) for cut, ridge in cuts]

        def scores(block: slice) -> Iterator[Float32Array]:
            part = beside * self.parts["neighbours"][block] if beside else np.float32(0)
            for users, vectors in filters:
                yield users[block] @ vectors.T + part

        results = self.validation.qualities(scores)
        for (rank, ridge), quality in zip(pairs, results, strict=True):
            self.trials.append({"rank": rank, "ridge": ridge, **quality.figures()})
        return [quality.mean for quality in results]

    # The texts.

    def _item_texts(self) -> ItemTexts | None:
        """The whitened item texts, or None where there are none that tell items apart or they have no weight."""
        return None if self.config.text_weight == 0 else self._whitened_items

    @cached_property
    def _whitened_items(self) -> ItemTexts | None:
        texts = self.texts
        if texts is None:
            return None
        mask = _text_mask(texts.items, texts.has_item)
        whitening = Whitening.fit(texts.items, self.config.text_power, mask=mask)
        if not whitening.size:
            self.notes.append("the item texts are all equal or absent: they are not used")
            return None
        user_mean = whitening.mean
        if texts.users is not None:
            known = _text_mask(texts.users, texts.has_user)
            users = texts.users if known is None else texts.users[known]
            user_mean = users.mean(axis=0, dtype=np.float64).astype(np.float32) if len(users) else user_mean
        return ItemTexts(whitening, whitening(texts.items, mask=mask), user_mean)

    def _user_texts(self) -> UserTexts | None:
        """The whitened user texts, or None where there are none that tell users apart."""
        texts, config = self.texts, self.config
        if texts is None or texts.users is None or config.user_text_weight == 0:
            return None
        mask = _text_mask(texts.users, texts.has_user)
        whitening = Whitening.fit(texts.users, config.user_text_power, mask=mask)
        if not whitening.size:
            self.notes.append("the user texts are all equal or absent: they are not used")
            return None
        vectors = whitening(texts.users, mask=mask)
        return UserTexts(whitening, vectors, self.train, config.user_neighbours, config.user_power)

    def _known_texts(self) -> Float32Array | None:
        """float32[U, d_s]: the users' own texts, zeros for none."""
        assert self.texts is not None
        if self.texts.users is None:
            return None
        if self.texts.has_user is None:
            return self.texts.users
        return np.where(self.texts.has_user[:, None], self.texts.users, 0).astype(np.float32)

    def _begin_weights(self) -> None:
        """All weights as given or by default, and what popularity and neighbours rank best by without free texts."""
        given = {name: getattr(self.config, option) for name, option in WEIGHT_NAMES.items()}
        present = {
            "neighbours": self.config.neighbours != 0,
            "popularity": True,
            "item_text": self.item_texts is not None,
            "user_text": self.user_texts is not None,
        }
        for name, there in present.items():
            if there and name != "neighbours":
                self.weights[name] = DEFAULT_WEIGHTS[name] if given[name] is None else given[name]
        if self.validation is None:
            return
        self.free = [name for name, there in present.items() if there and given[name] is None]
        self.weights |= {name: 0.0 for name in self.free if name in TEXTS}
        if "popularity" in self.free:
            self._pick("popularity")
        if "neighbours" in self.free and (self.weights["neighbours"] or self.trial_users is None):
            self._pick("neighbours")
        self.quality = self._quality()

    def _choose_weights(self) -> None:
        """w and s, then every free weight once more; a text whose gain is not beyond chance is left out.

        ``_begin_weights`` chose v and p: popularity comes before the texts, so that nothing is put down to them that
        it does as well. Where it drowns everything else, texts are chosen beside smaller weights of it.
        """
        if self.validation is None:
            self.chosen |= {WEIGHT_NAMES[name]: weight for name, weight in self.weights.items()}
            return
        free, texts = self.free, [name for name in self.free if name in TEXTS]
        if "popularity" in free and texts and self.weights["popularity"] > DROWNS:
            self._add_texts_beside_popularity(texts)
        else:
            for name in texts:
                self._add_text(name)
        for name in [name for name in free if self.weights[name] > CARRIED]:
            self._pick(name)
        self.quality = self._quality()
        self.chosen |= {WEIGHT_NAMES[name]: weight for name, weight in self.weights.items()}

    def _add_texts_beside_popularity(self, texts: list[str]) -> None:
        """Choose the weights of the texts beside each smaller weight of popularity, then that of popularity again.

        All weights stay as they were if the best of this does not gain more than chance over popularity alone.
        """
        without, quality, notes = dict(self.weights), self._quality(), list(self.notes)
        found: list[tuple[Quality, dict[str, float], list[str]]] = []
        for start in WEIGHTS["popularity"]:
            if start <= without["popularity"]:
                self.weights, self.notes = {**without, "popularity": start}, []
                for name in texts:
                    self._add_text(name)
                found.append((self._pick("popularity"), dict(self.weights), self.notes))
        best, weights, said = max(found, key=lambda one: one[0].mean)
        gain, error = best.gain_over(quality)
        self.weights, self.notes = weights, notes + said
        if gain <= error:
            self.weights = without
            tried = any(weights[name] for name in texts)
            changes = (
                f"validation changes by {gain:+.4f} (standard error {error:.4f})" if tried else NO_WEIGHT
            )
            self.notes.append(f"texts: not used, beside popularity {changes}")

    def _add_text(self, name: str) -> None:
        """Choose the weight of a text, which stays 0 if the gain is not beyond chance."""
        before = self._quality()
        gain, error = self._pick(name).gain_over(before)
        kept = gain > error
        tried = self.weights[name] != 0
        if not kept:
            self.weights[name] = 0.0
        changes = f"validation changes by {gain:+.4f} (standard error {error:.4f})" if tried else NO_WEIGHT
        self.notes.append(f"{name.replace('_', ' ')}: {'used' if kept else 'not used'}, {changes}")

    def _pick(self, name: str) -> Quality:
        """Set the weight that ranks best, the others staying."""
        assert self.validation is not None

        def scores(block: slice) -> Iterator[Float32Array]:
            others, part = self._sum(block, leave_out=name), self.parts[name][block]
            for weight in WEIGHTS[name]:
                yield others + np.float32(weight) * part

        results = self.validation.qualities(scores)
        means = [quality.mean for quality in results]
        best = int(np.argmax(means))
        if (
            name == "popularity" and means[-1] == means[best]
        ):  # the filter says nothing: it must not be left to ties
            best = len(means) - 1
        # In large data item neighbours double the time of a list.
        if name == "neighbours" and self.trial_users is not None:
            gain, error = results[best].gain_over(results[0])
            best = best if gain > error else 0
        for weight, quality in zip(WEIGHTS[name], results, strict=True):
            self.trials.append({WEIGHT_NAMES[name]: weight, **quality.figures()})
        self.weights[name] = WEIGHTS[name][best]
        return results[best]

    def _quality(self) -> Quality:
        """What validation says of the weights as they are."""
        assert self.validation is not None
        return self.validation.quality(self._sum)

    def _sum(self, block: slice, leave_out: str = "") -> Float32Array:
        """float32[B, I]: the weighted sum of the parts."""
        total = self.parts["filter"][block].copy()
        for name, weight in self.weights.items():
            if weight and name != leave_out:
                total += np.float32(weight) * self.parts[name][block]
        return total

    def _keep_filter(self, scaled: sp.csr_array, found: SingularVectors, ridge: float) -> None:
        assert self.validation is not None
        users = _filter_users(self._smoothed(scaled[self.validation.users]), found, ridge)
        self.parts["filter"] = self._stacked(_scores_of(users, found.vectors))

    def _popularity(self) -> Float32Array:
        """float32[I]: z(√d), d_i the number of users of an item."""
        roots = np.sqrt(self.degrees[1])[None]
        found: Float32Array = _unit(np.asarray(roots - roots.mean(), np.float32))[0]
        return found

    def _score_parts(self) -> None:
        """Score the validation users by popularity and by texts, which no exponent changes."""
        assert self.validation is not None
        item_texts, user_texts = self.item_texts, self.user_texts
        users = self.validation.users
        by_length = (1 / (1 + np.sqrt(self.degrees[0][users]))).astype(np.float32)
        popularity = self._popularity()
        self.parts["popularity"] = _Recomputed(lambda block: by_length[block, None] * popularity)
        own = None if self.texts is None else self._known_texts()
        own = None if own is None else own[users]
        if item_texts is not None:
            sums, lengths = item_texts.means(self.train[users])
            text = sums * reciprocal(lengths)[:, None] + item_texts.own(own, len(users))
            scales = reciprocal(deviations(text, covariance(item_texts.vectors)))
            scaled = np.asarray(text * scales[:, None], np.float32)
            self.parts["item_text"] = self._stacked(lambda block: scaled[block] @ item_texts.vectors.T)
        if user_texts is not None:
            found = user_texts.rows(user_texts.vectors[users], users)
            of_users = scale_rows(found, by_length)
            self.parts["user_text"] = self._stacked(lambda block: sp.csr_array(of_users[block]).toarray())

    # The model.

    def _rule(self) -> GraphRule:
        scaled, of_items = self._scaled(*self.exponents), self._item_weights(self.exponents[1])
        spectrum, rank, ridge = self.spectrum, self.rank, self.ridge
        item_texts, user_texts = self.item_texts, self.user_texts
        gains = _gains(spectrum.values, ridge, rank)
        weights = dict(self.weights)
        spread = spectrum.vectors if self.smoothing is None else self.smoothing @ spectrum.vectors
        new_users, width = self._new_users(scaled, spread)
        factors = spread[:, :rank] * gains[:rank]
        average, moments = _moments(scaled, factors, item_texts is not None, self.shards)
        if item_texts is not None and not weights["item_text"]:
            weights["item_text"] = CARRIED
        return GraphRule(
            factors=of_items[:, None] * (spread * gains)[:, :width],
            vectors=np.ascontiguousarray(spectrum.vectors[:, :width]),
            item_weights=of_items,
            neighbours=self.graph if weights["neighbours"] else None,
            item_texts=item_texts,
            user_texts=user_texts if weights["user_text"] or new_users is not None else None,
            new_users=new_users,
            average=np.pad(average, (0, width - rank)),
            weights=(
                weights["neighbours"],
                weights["item_text"],
                weights["user_text"],
                weights["popularity"],
            ),
            of_new_items=self._of_new_items(moments, spectrum.vectors[:, :rank], item_texts),
            popularity=unit_rows(self._popularity()[None])[0] if weights["popularity"] else None,
            reads_own=self.texts is not None and self.texts.users is not None,
        )

    def _of_new_items(
        self, moments: FloatArray, vectors: Float32Array, item_texts: ItemTexts | None
    ) -> NewItems | None:
        """Where new items go by their texts, fitted on the items that have a text and a history.

        Args:
            moments: float64[r, r], the mean of c_uᵀ c_u, which the mean variance of the scores follows from.
            vectors: Q, float32[I, r].
            item_texts: None where there are none.
        """
        if item_texts is None:
            return None
        texts = item_texts.vectors
        rows = np.flatnonzero(texts.any(axis=1) & (self.degrees[1] > 0))
        if not len(rows):
            return None
        text_map = TextMap.fit(
            texts[rows], unit_rows(vectors[rows], ROUNDING), gamma=MAP_WIDTH, ridge=ITEM_RIDGE, seed=self.seed
        )
        rng = np.random.default_rng(self.seed)
        some = np.sort(rng.choice(rows, min(len(rows), SPREAD_ITEMS), replace=False))
        places = NewItems(text_map).directions(texts[some], texts, vectors, some)
        spreads = [float((covariance(items) * moments).sum()) for items in (vectors, places)]
        length = np.sqrt(spreads[0] / spreads[1]) if min(spreads) > 0 else 1.0
        return NewItems(text_map, float(length), NEW_ITEM_WEIGHT / (self.weights["item_text"] or CARRIED))

    def _new_users(self, scaled: sp.csr_array, spread: Float32Array) -> tuple[NewUsers | None, int]:
        """What users get who have a text alone, and the rank that they and the others need.

        Their filter and weights are chosen on users whose history is hidden for the purpose: the ranks and ridges
        that suit a history are too small and too large for a text.
        """
        rank, spectrum = self.rank, self.spectrum
        item_texts, user_texts = self.item_texts, self.user_texts
        if user_texts is None:
            return None if item_texts is None else NewUsers(None, (0.0, 1.0, 0.0)), rank
        known = np.flatnonzero(user_texts.vectors.any(axis=1) & (self.degrees[0] > 0))
        if not len(known):
            return None, rank
        projected, values = scaled[known] @ spread, spectrum.values
        hidden = self._hidden_users(known, projected)
        chosen, weights = (
            (rank, self.ridge),
            (1.0, NEW_ITEM_TEXTS[0 if item_texts is None else 1], NEW_USER_TEXTS[1]),
        )
        if hidden is not None:
            chosen, weights = self._choose_new_users(hidden, values)
        width = max(rank, chosen[0])
        targets = unit_rows(projected * _gains(values, chosen[1], chosen[0]), ROUNDING)[:, :width]
        text_map = _map_users(user_texts.vectors[known], targets, self.seed)
        self.chosen |= {
            "new_user_rank": chosen[0],
            "new_user_ridge": chosen[1],
            "new_user_weights": list(weights),
        }
        return NewUsers(text_map, weights), width

    def _hidden_users(
        self,
        known: IntArray,
        projected: Float32Array,
    ) -> _HiddenUsers | None:
        """Some of the known users, taken for new; None where they are too few to choose by."""
        item_texts, user_texts = self.item_texts, self.user_texts
        assert user_texts is not None
        size = min(len(known) // 10, HIDDEN, max(1, CELLS // self.dataset.n_items))
        if size < 10:
            return None
        rows = np.sort(np.random.default_rng(self.seed).choice(len(known), size, replace=False))
        rest = np.setdiff1d(np.arange(len(known)), rows)
        shards = shards_for(size, self.shards)
        hidden, others, inputs = known[rows][shards.rows(size)], known[rest], user_texts.vectors
        remaining = replace(user_texts, vectors=inputs[others], histories=self.train[others])
        of_items = np.zeros((len(hidden), 0), np.float32)
        if item_texts is not None:
            own = self._known_texts()
            text = item_texts.own(None if own is None else own[hidden], len(hidden))
            text *= reciprocal(deviations(text, covariance(item_texts.vectors)))[:, None]
            of_items = text @ item_texts.vectors.T
        return _HiddenUsers(
            queries=inputs[hidden],
            inputs=inputs[others],
            projected=projected[rest],
            vectors=self.spectrum.vectors,
            by_items=of_items,
            by_users=remaining.rows(inputs[hidden], np.full(len(hidden), -1)),
            validation=Validation.of_hidden(self.dataset, hidden, shards),
        )

    def _choose_new_users(
        self, hidden: _HiddenUsers, values: FloatArray
    ) -> tuple[tuple[int, float], tuple[float, float, float]]:
        """The rank and ridge of the filter of new users, then the weights of the item texts and similar users."""
        config = self.config
        middle = NEW_ITEM_TEXTS[1] if hidden.by_items.size else 0.0, NEW_USER_TEXTS[2]
        ranks = _parts_of(len(values)) if config.rank is None else [len(values)]
        ridges = RIDGES if config.ridge is None else (config.ridge,)
        chosen = ranks[-1], 3.0 if config.ridge is None else config.ridge

        def best_of(filters: list[tuple[int, float]], pairs: list[tuple[float, float]]) -> int:
            targets = [
                unit_rows(hidden.projected * _gains(values, ridge, rank), ROUNDING) for rank, ridge in filters
            ]
            results = hidden.qualities(targets, pairs, self.seed)
            for (rank, ridge), (text, users), quality in zip(
                [one for one in filters for _ in pairs], pairs * len(filters), results, strict=True
            ):
                names = {"new_rank": rank, "new_ridge": ridge, "new_text": text, "new_users": users}
                self.trials.append({**names, **quality.figures()})
            return int(np.argmax([quality.mean for quality in results]))

        filters = [(max(1, rank), chosen[1]) for rank in ranks]
        chosen = filters[best_of(filters, [middle])]
        filters = [(chosen[0], ridge) for ridge in ridges]
        chosen = filters[best_of(filters, [middle])]
        texts = NEW_ITEM_TEXTS if hidden.by_items.size else (0.0,)
        pairs = [(text, users) for text in texts for users in NEW_USER_TEXTS]
        return chosen, (1.0, *pairs[best_of([chosen], pairs)])


def _text_mask(vectors: Float32Array, has: BoolArray | None) -> BoolArray | None:
    """bool[n]: which rows have a text, as one of zeros says nothing; None where all have."""
    found = with_text(vectors) if has is None else with_text(vectors) & has
    return None if found.all() else found


class _Recomputed:
    """Scores of validation users that are computed anew for each block, so that memory does not grow with the users.

    Args:
        work: gives float32[B, I] for a slice of the users.
    """

    def __init__(self, work: Callable[[slice], Float32Array]) -> None:
        self.work = work

    def __getitem__(self, block: slice) -> Float32Array:
        return self.work(block)


_Scores = Float32Array | _Recomputed


@dataclass(frozen=True, eq=False)
class _HiddenUsers:
    """Users who are taken for new, to choose what users get who have a text alone.

    Args:
        queries: float32[n, d_t], their texts; with several processes, those of this process's users.
        inputs: float32[m, d_t], the texts of the other users.
        projected: float32[m, r], R' Q of the other users.
        vectors: Q.
        by_items: float32[n, I], scores of the item texts; float32[n, 0] where there are none.
        by_users: sparse n x I, scores of the similar users.
        validation: their histories, which are to be found.
    """

    queries: Float32Array
    inputs: Float32Array
    projected: Float32Array
    vectors: Float32Array
    by_items: Float32Array
    by_users: sp.csr_array
    validation: Validation

    def qualities(
        self, targets: list[Float32Array], pairs: list[tuple[float, float]], seed: int
    ) -> list[Quality]:
        """Rank by each filter with each pair of weights, of the item texts and of the similar users.

        Args:
            targets: float32[m, r] each, the other users' places by each filter.
            pairs: the weights.
            seed: of the map from text to place.
        """
        mapped = _map_users(self.inputs, np.concatenate(targets, axis=1), seed)(self.queries)
        spread = covariance(self.vectors)
        users = [
            part * reciprocal(deviations(part, spread))[:, None] for part in np.split(mapped, len(targets), 1)
        ]

        def scores(block: slice) -> Iterator[Float32Array]:
            of_items = self.by_items[block] if self.by_items.size else np.float32(0)
            of_users = self.by_users[block].toarray()
            for part in users:
                of_filter = part[block] @ self.vectors.T
                for item_text, user_text in pairs:
                    yield of_filter + np.float32(item_text) * of_items + np.float32(user_text) * of_users

        return self.validation.qualities(scores)


def _moments(
    scaled: sp.csr_array, factors: Float32Array, squares: bool, shards: Shards
) -> tuple[Float32Array, FloatArray]:
    """The mean float32[r] of all users' c_u at unit length, and with ``squares`` that of c_uᵀ c_u, float64[r, r].

    Args:
        scaled: R̃, sparse U x I.
        factors: float32[I, r], c_u = R̃_u · factors.
        squares: whether the second one is needed; zeros otherwise.
        shards: processes that each add up their own users.
    """
    n_users, rank = scaled.shape[0], factors.shape[1]
    total, second = np.zeros(rank), np.zeros((rank, rank))
    mine = shards.rows(n_users)
    for start in range(mine.start, mine.stop, ROWS):
        users = unit_rows(scaled[start : min(start + ROWS, mine.stop)] @ factors, ROUNDING)
        total += users.sum(axis=0, dtype=np.float64)
        if squares:
            second += users.T @ users
    total, second = shards.sum(total), shards.sum(second)
    return np.asarray(total / n_users, np.float32), second / n_users


def _map_users(inputs: Float32Array, targets: Float32Array, seed: int) -> TextMap:
    """The map from users' texts to their places."""
    return TextMap.fit(inputs, targets, gamma=MAP_WIDTH, ridge=USER_RIDGE, seed=seed)


def _parts_of(rank: int) -> list[int]:
    """A quarter, a half, three quarters and all of a rank."""
    return [rank // 4, rank // 2, 3 * rank // 4, rank]


def _gains(values: FloatArray, ridge: float, rank: int) -> Float32Array:
    """h = σ² / (σ² + μ²) with μ = ridge · σ_r, and 0 beyond the rank r."""
    squares = values**2
    smallest = squares[rank - 1] if rank else 0.0
    gains = np.divide(squares, squares + ridge**2 * smallest, out=np.zeros(len(squares)), where=squares > 0)
    gains[rank:] = 0
    return gains.astype(np.float32)


def _filter_users(rows: sp.csr_array, found: SingularVectors, ridge: float) -> Float32Array:
    """float32[n, r]: c_u of some users' rows of R', scaled so that c_u Qᵀ has a standard deviation of 1."""
    users = (rows @ found.vectors) * _gains(found.values, ridge, len(found.values))
    users *= reciprocal(deviations(users, covariance(found.vectors)))[:, None]
    return users


def _scores_of(users: Float32Array, vectors: Float32Array) -> Callable[[slice], Float32Array]:
    """The scores of a slice of users, float32[n, r], for items float32[I, r]."""
    return lambda block: users[block] @ vectors.T


def _cut(found: SingularVectors, rank: int) -> SingularVectors:
    """The first ``rank`` of the singular vectors and values."""
    vectors = np.ascontiguousarray(found.vectors[:, :rank])
    return SingularVectors(vectors, found.values[:rank], found.error)


def _columns(symmetric: sp.csr_array, count: int) -> sp.csr_array:
    """The ``count`` largest entries of each column of a symmetric matrix."""
    return sp.csr_array(largest(symmetric, count).T)


def _unit(scores: Float32Array) -> Float32Array:
    """``scores`` with a standard deviation of 1 in each row, in place."""
    n = max(scores.shape[1], 1)
    means = scores.mean(axis=1, dtype=np.float64)
    squares = np.einsum("ui,ui->u", scores, scores) / n
    scores *= reciprocal(np.sqrt(np.maximum(squares - means**2, 0)))[:, None]
    return scores
