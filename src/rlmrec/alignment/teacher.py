"""TeacherLists: the best items of each user by another recommender, which a backbone learns from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from rlmrec.closed_form import RECOMMENDERS
from rlmrec.closed_form.base import Texts, chosen_options
from rlmrec.config import make
from rlmrec.data.dataset import Dataset
from rlmrec.errors import DataError
from rlmrec.evaluation.ranking import Scorer
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.topk import MEMORY_BUDGET, map_blocks, top_k
from rlmrec.types import BoolArray, Float32Array, FloatArray, Int32Array

BISECTIONS = 60  # of log T: the interval of 80 shrinks below the precision of float64


@dataclass(frozen=True, eq=False)
class TeacherLists:
    """The M best items of each user by a teacher, with their probabilities π.

    π_u = softmax(scores_u / T_u) over the user's list. T_u is found by bisection so that the perplexity of π_u,
    exp(−Σ π log π), is a given share of the list's length: scores of any scale and any spread serve alike.

    Args:
        items: int32[U, M], item rows, the best first. Places without an item have probability 0.
        probabilities: float32[U, M], π; each row sums to 1, or to 0 for a user without a list.
        teacher: name of the teacher, for messages and records.
        dataset: fingerprint of the dataset that the teacher was fitted on.
        options: what the teacher was fitted with, those among them that it chose by validation.

    Raises:
        DataError: shapes that differ, probabilities that are negative or not finite.
    """

    items: Int32Array
    probabilities: Float32Array
    teacher: str
    dataset: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.items.shape != self.probabilities.shape or self.items.ndim != 2:
            raise DataError(
                f"items have shape {self.items.shape} and probabilities {self.probabilities.shape}: expected "
                "(U, M) for both"
            )
        if not (np.isfinite(self.probabilities).all() and (self.probabilities >= 0).all()):
            raise DataError("a teacher's probabilities must be finite and not negative")

    def __repr__(self) -> str:
        n_users, length = self.items.shape
        return f"TeacherLists({self.teacher}, {n_users:,} users, {length} items each)"

    @classmethod
    def of(
        cls, scorer: Scorer, dataset: Dataset, length: int = 100, spread: float = 0.4, teacher: str = "scores"
    ) -> TeacherLists:
        """Take each user's best items by a scorer; the user's training items are left out.

        Args:
            scorer: anything with ``score(users) -> float32[B, I]``: ``recommender.scorer()``, a ``ClosedFormModel``,
                a ``DotProduct``.
            dataset: the dataset that it was fitted on.
            length: M, length of a list; a catalogue may have fewer items.
            spread: perplexity of π as a share of the list's length, above 0 and at most 1.
            teacher: name of the teacher.

        Raises:
            DataError: scores of another shape than (B, I).
        """
        trained = dataset.train.csr()
        length = min(length, dataset.n_items)

        def best(block: slice) -> tuple[Int32Array, Float32Array]:
            scores = np.ascontiguousarray(scorer.score(np.arange(block.start, block.stop)))
            if scores.shape != (block.stop - block.start, dataset.n_items):
                raise DataError(
                    f"{teacher} scores {scores.shape}, expected {(block.stop - block.start, dataset.n_items)}: "
                    "fit it on this dataset"
                )
            of_rows = trained.indptr[block.start : block.stop + 1]
            rows = np.repeat(np.arange(len(scores)), np.diff(of_rows))
            scores[rows, trained.indices[of_rows[0] : of_rows[-1]]] = -np.inf
            listed, best_scores = top_k(scores, length)
            present = best_scores > -np.inf
            probabilities = spread_to_perplexity(best_scores, spread)
            return np.where(present, listed, 0).astype(np.int32), probabilities.astype(np.float32)

        threads = None if getattr(scorer, "is_thread_safe", False) else 1
        blocks = list(map_blocks(best, dataset.n_users, dataset.n_items, MEMORY_BUDGET, threads))
        items, probabilities = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        return cls(items, probabilities, teacher, dataset.fingerprint)

    @cached_property
    def digest(self) -> str:
        """Hash of the lists: a run records which it was trained with."""
        return hashlib.sha256(self.items.tobytes() + self.probabilities.tobytes()).hexdigest()[:16]


@lru_cache(maxsize=2)  # the seeds of an experiment share their teacher, which takes longer than an epoch
def fitted_lists(
    name: str,
    dataset: Dataset,
    text_embeddings: TextEmbeddings | None,
    length: int,
    spread: float,
    options: str = "{}",
) -> TeacherLists:
    """Fit a closed-form recommender and return its lists.

    Args:
        name: name of the recommender, such as "graph-filter", or the path of your own class.
        dataset: the teacher learns from its training split and chooses its options on validation.
        text_embeddings: text vectors; None for a teacher without text.
        length: M, length of a list.
        spread: perplexity of π as a share of the list's length.
        options: of the recommender, as JSON; those left open have their defaults or are chosen by validation.

    Raises:
        ConfigError: no closed-form recommender of this name, or an option that it does not have.
    """
    kind = RECOMMENDERS.resolve(name)
    texts = None if text_embeddings is None else Texts.of(text_embeddings, dataset)
    config = make(kind.Config, json.loads(options))
    model = kind.fit(dataset, texts, config)
    named = name if texts is None else f"{name} with text"
    lists = TeacherLists.of(model, dataset, length, spread, named)
    return replace(
        lists, options={**config.model_dump(exclude_none=True), **chosen_options(model.record, config)}
    )


def spread_to_perplexity(scores: Float32Array, spread: float) -> FloatArray:
    """Return softmax(scores / T) of each row, with T such that the perplexity is ``spread`` times the row's length.

    The length counts finite scores alone; −∞ has probability 0. T is found by bisection, as t-SNE does.

    Args:
        scores: float32[n, M]; −∞ marks a place without an item.
        spread: above 0 and at most 1.

    Returns:
        float64[n, M]; a row sums to 1, or to 0 where all its scores are −∞.

    Source: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008.
    """
    finite = np.isfinite(scores)
    counts = finite.sum(1)
    best = np.where(finite, scores, -np.inf).max(1, initial=-np.inf)
    # Distances from the best, in units of the row's mean distance, so that one interval of T serves all scales.
    gaps = np.where(finite, best[:, None] - np.where(finite, scores, 0).astype(np.float64), 0)
    scale = gaps.sum(1) / np.maximum(counts, 1)
    gaps /= np.where(scale > 0, scale, 1)[:, None]
    wanted = np.log(np.maximum(1.0, spread * counts))
    low, high = np.full(len(scores), -40.0), np.full(len(scores), 40.0)  # log T
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        too_sharp = _entropy(_softmax(gaps, finite, middle)) < wanted
        low, high = np.where(too_sharp, middle, low), np.where(too_sharp, high, middle)
    return _softmax(gaps, finite, (low + high) / 2)


def _softmax(gaps: FloatArray, finite: BoolArray, log_temperature: FloatArray) -> FloatArray:
    powers: FloatArray = np.where(finite, np.exp(-gaps * np.exp(-log_temperature)[:, None]), 0)
    sums = powers.sum(1, keepdims=True)
    shares: FloatArray = powers / np.where(sums > 0, sums, 1)
    return shares


def _entropy(probabilities: FloatArray) -> FloatArray:
    positive = probabilities > 0
    logs = np.log(np.where(positive, probabilities, 1))
    entropy: FloatArray = -(probabilities * logs).sum(1)
    return entropy
