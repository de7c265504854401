"""Why a new user gets an item: the users with the most similar texts who have it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlmrec.linalg import unit_rows
from rlmrec.recommend.recommender import Recommender
from rlmrec.types import Float32Array, IntArray

SIMILAR = 50  # users that count as similar


class Holders(NamedTuple):
    """Of the similar users, those who have an item.

    Args:
        n: how many.
        nearest: rows of the nearest of them, nearest first.
        of: how many users count as similar at most.
    """

    n: int
    nearest: list[int]
    of: int


def similar_holders(
    text: Float32Array,
    users: Float32Array,
    recommender: Recommender,
    items: IntArray,
    *,
    similar: int = SIMILAR,
    nearest: int = 2,
) -> list[Holders]:
    """Find, for each item, who of the users with the most similar texts has it.

    Args:
        text: float32[d_s], the text vector of the new user.
        users: float32[U, d_s], the text vectors of the users.
        recommender: has the interactions that it was trained on; of a final run these are all.
        items: int[n], rows of items.
        similar: how many users count as similar at most, by the cosine of the text vectors, which must be positive.
        nearest: how many of them to return for an item.

    Returns:
        for each item, how many of the similar users have it, and the nearest of those.
    """
    cosines = unit_rows(users) @ (text / max(float(np.linalg.norm(text)), 1e-12))
    rows = np.argsort(-cosines, kind="stable")[:similar]
    rows = rows[cosines[rows] > 0]  # a text without a known word is like none
    have = recommender.seen[rows][:, items].toarray() != 0
    of = min(similar, len(users))
    return [Holders(int(of_item.sum()), rows[of_item][:nearest].tolist(), of) for of_item in have.T]
