"""Short histories: a dataset whose users keep some of their training interactions, evaluated as before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.errors import ConfigError, DataError
from rlmrec.types import IntArray

KEPT = ("random", "first", "last")


def cut_history(dataset: Dataset, length: int, keep: str = "random", seed: int = 0) -> Dataset:
    """Keep at most ``length`` training interactions of each user; validation and test stay as they are.

    The removed interactions are neither learned from nor ranked, so the lists have the same candidates at every
    length. With the same seed, a longer random history contains the shorter one.

    Args:
        dataset: with the whole histories.
        length: interactions kept for each user, at least 1.
        keep: one of ``KEPT``: random ones, or the first or last ones by time.
        seed: of the random choice.

    Raises:
        ConfigError: a length below 1, or an unknown ``keep``.
        DataError: the order by time is wanted and there are no timestamps.
    """
    if length < 1 or keep not in KEPT:
        raise ConfigError(
            f"a history of {length} {keep} interactions: expected at least 1, and one of {', '.join(KEPT)}"
        )
    train = dataset.train
    kept = _place_in_history(train, keep, seed) < length
    name = f"{dataset.name}, {length} {keep} interactions of each user"
    return replace(dataset, name=name, train=train.take(kept), unranked=train.take(~kept))


def _place_in_history(train: Interactions, keep: str, seed: int) -> IntArray:
    """Return int64[n]: the place of each interaction in its user's history, from 0 on, by time or at random."""
    if keep == "random":
        # Ordered by pair first, so that the choice does not depend on the order of a file.
        by_pair = np.argsort(train.keys(), kind="stable")
        values = np.empty(len(train))
        values[by_pair] = np.random.default_rng(seed).random(len(train))
    else:
        if train.timestamp is None:
            raise DataError(
                f"{keep} interactions need timestamps, and the dataset has none: keep random ones"
            )
        values = train.timestamp if keep == "first" else -train.timestamp
    order = np.lexsort((train.keys(), values, train.users))
    starts = np.cumsum(train.user_degrees()) - train.user_degrees()
    places = np.empty(len(train), np.int64)
    places[order] = np.arange(len(train)) - starts[train.users[order]]
    return places
