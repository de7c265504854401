"""A blend: what training learned and how near the texts are, in one score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError
from rlmrec.evaluation.ranking import DotProduct, evaluate
from rlmrec.recommend.recommender import Recommender
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.types import BoolArray

WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
METRIC = "recall@20"


class Tried(NamedTuple):
    """A weight and Recall@20 with it.

    Args:
        weight: of the text score.
        recall: over all items.
        tail: of the held-out items in the tail alone, among all items; None where there are none.
    """

    weight: float
    recall: float
    tail: float | None


def blended(recommender: Recommender, text_embeddings: TextEmbeddings, weight: float) -> Recommender:
    """A recommender of score(u, i) = e_u · e_i + weight · ‖e_u‖ · L · cos(s_u, s_i).

    L is the median length of the items' embeddings, so that a weight means the same for every model and
    user. The sum is one dot product of longer vectors, [e_u, √weight ‖e_u‖ ŝ_u] and [e_i, √weight L ŝ_i]:
    search, index, export and cold start work on these as on any others. In explanations the text score is
    part of what is the user's own, and where the run keeps ``item_messages``, ``fold_in`` gives someone new no text
    score. A user or an item
    without text has the text score 0.

    Args:
        recommender: of a trained model.
        semantics: text vectors of the same users and items.
        weight: of the text score; 0 gives the recommender back.

    Raises:
        ConfigError: a weight that is negative or not finite.
    """
    if not (math.isfinite(weight) and weight >= 0):
        raise ConfigError(f"weight must be 0 or more, got {weight:g}")
    if weight == 0:
        return recommender
    text = DotProduct.cosine(text_embeddings.users, text_embeddings.items)
    user_lengths = np.linalg.norm(recommender.users, axis=1, keepdims=True)
    item_length = float(np.median(np.linalg.norm(recommender.items, axis=1)))
    root = np.float32(math.sqrt(weight))
    messages = recommender.item_messages
    if messages is not None:
        messages = np.concatenate([messages, np.zeros_like(text.items)], axis=1)
    return Recommender(
        np.concatenate([recommender.users, root * user_lengths * text.users], axis=1),
        np.concatenate([recommender.items, root * np.float32(item_length) * text.items], axis=1),
        recommender.user_ids,
        recommender.item_ids,
        recommender.seen,
        recommender.manifest,
        recommender.memory_budget,
        messages,
        recommender.self_loops,
    )


def tail_items(dataset: Dataset) -> BoolArray:
    """bool[I]: the items with at most the median number of training interactions."""
    degrees = dataset.train.item_degrees()
    tail: BoolArray = degrees <= np.median(degrees)
    return tail


def try_weights(
    recommender: Recommender,
    text_embeddings: TextEmbeddings,
    dataset: Dataset,
    weights: Sequence[float] = WEIGHTS,
    split: str = "valid",
) -> list[Tried]:
    """What each weight gives.

    Args:
        recommender: of a trained model.
        semantics: text vectors of the same users and items.
        dataset: of both.
        weights: to try.
        split: what it is measured on; choose on "valid", report on "test".

    Raises:
        ConfigError: the split is empty.
    """
    held = dataset.split(split)
    if not len(held):
        raise ConfigError(f"the {split} split is empty: a weight cannot be judged on it")
    of_tail = held.take(np.flatnonzero(tail_items(dataset)[held.items]))
    changed: dict[str, Any] = {split: of_tail}
    tail_set = replace(dataset, **changed)
    found = []
    for weight in weights:
        one = blended(recommender, text_embeddings, weight)
        scores = DotProduct(one.users, one.items)
        recall, tail = (
            evaluate(scores, of, k=(20,), split=split).metric(METRIC) if len(of.split(split)) else None
            for of in (dataset, tail_set)
        )
        assert recall is not None  # the split is not empty
        found.append(Tried(weight, recall, tail))
    return found


def best_weight(tried: Sequence[Tried]) -> float:
    """The weight of the highest recall; of equal ones the smallest."""
    return max(tried, key=lambda one: (one.recall, -one.weight)).weight
