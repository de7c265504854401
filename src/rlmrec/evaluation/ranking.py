"""All-rank evaluation: every item except a user's training items is ranked, and each user's result is kept."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import polars as pl

from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.evaluation import metrics
from rlmrec.files import atomic_file
from rlmrec.linalg import unit_rows
from rlmrec.topk import MEMORY_BUDGET, check_whole, map_blocks, top_k
from rlmrec.trust import damaged
from rlmrec.types import AnyArray, BoolArray, Float32Array, FloatArray, IntArray

# Names of the metrics that have a value per user, and of those that describe all lists together.
PER_USER = (*metrics.ACCURACY, "novelty", "popularity")
MOST_K = 1000  # longest list of a smaller catalogue; the places behind its end are empty
OVERALL = ("coverage", "gini")


class Scorer(Protocol):
    """A model that scores every item for some users: higher is better, −∞ excludes an item.

    A scorer whose ``score`` may run in several threads at once has an attribute ``is_thread_safe`` that is True. One
    that knows which dataset it was fitted to has its ``Dataset.fingerprint`` as an attribute ``fingerprint``, and its
    ``Dataset.is_final`` as ``is_final``.
    """

    def score(self, users: IntArray, /) -> Float32Array:
        """Return float32[B, I] for user rows int64[B]. It must be a new array: the caller writes into it."""
        ...


@dataclass(frozen=True, eq=False)
class DotProduct:
    """Scorer that takes the dot product of user and item embeddings: score(u, i) = e_u · e_i.

    Args:
        users: float32[U, d].
        items: float32[I, d].
        fingerprint: of the dataset that they were made for; None where it is unknown.
        is_final: whether that is a final dataset, which has everything in training.

    Raises:
        DataError: these are not two float32 matrices with the same d.
    """

    is_thread_safe: ClassVar[bool] = True
    users: Float32Array
    items: Float32Array
    fingerprint: str | None = None
    is_final: bool = False

    def __post_init__(self) -> None:
        for name, matrix in (("user", self.users), ("item", self.items)):
            if matrix.ndim != 2 or matrix.dtype != np.float32:
                raise DataError(
                    f"{name} embeddings must be a float32 matrix, got {matrix.dtype} of shape {matrix.shape}"
                )
        if self.users.shape[1] != self.items.shape[1]:
            raise DataError(
                f"user embeddings have {self.users.shape[1]} dimensions and item embeddings {self.items.shape[1]}: "
                "expected the same number"
            )

    @classmethod
    def cosine(cls, users: Float32Array, items: Float32Array) -> DotProduct:
        """Make a scorer that takes the cosine: score(u, i) = cos(e_u, e_i), 0 for a row of zeros.

        On text embeddings this is "semantic embeddings only" in Table 1: nothing is trained.

        Example:
            ``evaluate(DotProduct.cosine(text_embeddings.users, text_embeddings.items), dataset)``
        """
        return cls(unit_rows(users), unit_rows(items))

    def score(self, users: IntArray) -> Float32Array:
        """Return the scores float32[B, I] of all items for user rows int64[B]."""
        scores: Float32Array = self.users[users] @ self.items.T
        return scores


@dataclass(frozen=True, eq=False)
class WithUnknownItems:
    """The scores of a model that does not know the last items of a dataset: nobody's list contains these.

    Args:
        scores: of the model, for the first items of the dataset.
        n_items: I, number of items of the dataset.
    """

    scores: Scorer
    n_items: int

    @property
    def is_thread_safe(self) -> bool:
        """Whether the model may be called from several threads at once."""
        return bool(getattr(self.scores, "is_thread_safe", False))

    def score(self, users: IntArray) -> Float32Array:
        """Return the scores float32[B, I] of user rows int64[B], −∞ for the items that the model does not know."""
        known = self.scores.score(users)
        found = np.full((len(users), self.n_items), -np.inf, np.float32)
        found[:, : known.shape[1]] = known
        return found


@dataclass(frozen=True, eq=False, repr=False)
class Ranking:
    """Ranked lists of n users up to rank K, and the counts that the metrics need.

    Args:
        users: int64[n], rows of the users with held-out items, ascending.
        items: int64[n, K], item rows from rank 1 on; −1 where a user has fewer than K candidates.
        hits: bool[n, K], whether the item is held out.
        n_relevant: int64[n], number of held-out items of each user.
        popularity: int64[I], number of training interactions of each item.
        n_users: U, including users without held-out items.
        k: the list lengths to report, ascending; the last is K.

    Example:
        ``evaluate(DotProduct(users, items), dataset).metrics()["recall@20"]``
    """

    users: IntArray
    items: IntArray
    hits: BoolArray
    n_relevant: IntArray
    popularity: IntArray
    n_users: int
    k: tuple[int, ...]

    def __repr__(self) -> str:
        lengths = ", ".join(map(str, self.k))
        return (
            f"Ranking({len(self):,} users with held-out items, lists of {lengths}; metrics() has the values)"
        )

    def __len__(self) -> int:
        return len(self.users)

    def per_user(self, name: str) -> FloatArray:
        """Return float64[n], the values of a metric such as "recall@20" in the order of ``users``.

        Raises:
            ConfigError: the metric is unknown or has no value per user, or k is greater than K.
        """
        metric, k = self._parse(name)
        if metric in metrics.ACCURACY:
            return metrics.ACCURACY[metric](self.hits[:, :k], self.n_relevant)
        if metric == "novelty":
            return metrics.novelty(self.items[:, :k], self.popularity, self.n_users)
        if metric == "popularity":
            return metrics.average_popularity(self.items[:, :k], self.popularity)
        raise ConfigError(f"{name} has no value per user: expected one of {', '.join(PER_USER)} with @k")

    def metric(self, name: str) -> float:
        """Return the mean of a metric over users, or the value of "coverage@k" or "gini@k"."""
        metric, k = self._parse(name)
        if metric == "coverage":
            return metrics.coverage(self.items[:, :k], len(self.popularity))
        if metric == "gini":
            return metrics.gini(self.items[:, :k], len(self.popularity))
        return float(self.per_user(name).mean())

    def metrics(self) -> dict[str, float]:
        """Return every metric at every k: {"recall@5": …, "ndcg@5": …, …, "gini@20": …}."""
        return {f"{name}@{k}": self.metric(f"{name}@{k}") for k in self.k for name in (*PER_USER, *OVERALL)}

    def table(self) -> pl.DataFrame:
        """Return one row per user: its row ``user``, ``n_relevant``, and each metric at each k."""
        names = [f"{name}@{k}" for k in self.k for name in PER_USER]
        values = {name: self.per_user(name) for name in names}
        return pl.DataFrame({"user": self.users, "n_relevant": self.n_relevant, **values})

    def save(self, path: Path) -> None:
        """Write ``table()`` as Parquet, atomically; ``read_table`` reads it."""
        with atomic_file(Path(path)) as temporary:
            self.table().write_parquet(temporary)

    def _parse(self, name: str) -> tuple[str, int]:
        metric, _, k = name.partition("@")
        if metric not in (*PER_USER, *OVERALL):
            raise ConfigError(
                f"unknown metric {name!r}: expected one of {', '.join((*PER_USER, *OVERALL))} with @k"
            )
        if not k.isdecimal() or not 1 <= int(k) <= self.k[-1]:
            raise ConfigError(f"{name!r}: expected {metric}@k with k from 1 to {self.k[-1]}")
        return metric, int(k)


def read_table(path: Path) -> pl.DataFrame:
    """Read the values per user that ``Ranking.save`` wrote.

    Raises:
        WorkspaceError: the file is missing or damaged, or holds something else.
    """
    path = Path(path)
    if not path.exists():
        raise WorkspaceError(
            f"{path} does not exist: this run has no values per user (there are none for a dataset with no test split)"
        )
    with damaged(path, "expected Parquet with values per user; train or evaluate the run again"):
        table = pl.read_parquet(path)
    if not {"user", "n_relevant"} <= set(table.columns):
        raise WorkspaceError(
            f"{path} holds the columns {', '.join(table.columns)}: expected user, n_relevant, …"
        )
    return table


def evaluate(
    scores: Scorer,
    dataset: Dataset,
    k: int | Sequence[int] = (5, 10, 20),
    split: str = "test",
    memory_budget: int = MEMORY_BUDGET,
    users: IntArray | Sequence[int] | None = None,
) -> Ranking:
    """Rank all items for every user with held-out items (the paper's all-rank protocol, Section 4.1.2).

    Candidates are all items except the user's training items and ``dataset.unranked``; on the test split, validation
    items are candidates.
    Among items with equal scores, the one with the lower row comes first.

    A model that was fitted to another dataset may have seen the held-out items in training. Where the scores know their
    dataset and it is another one, a warning says so; it is no error, since another dataset may have the same training
    split and later test interactions. A dataset that was made by ``append`` counts as the same. A model of
    ``dataset.final()`` has seen them, of which there is a warning as well.

    Args:
        scores: a ``DotProduct``, a ``ClosedFormModel``, ``Recommender.scorer()``, or anything with
            ``score(users) -> float32[B, I]``. A ``DotProduct`` is scored by one thread per core; others are called from
            this thread, with a block of users at a time.
        dataset: its ``excluded()`` pairs are left out of the lists, and the items of ``split`` count as relevant.
        k: list lengths, or one; at most the number of items, or 1,000 where there are fewer. The places behind the last
            item stay empty.
        split: "test" or "valid".
        memory_budget: bytes that the blocks of scores may take; the result does not depend on it.
        users: only these rows, of those with held-out items; None ranks for all of them. ``dataset.users.rows(ids)``
            are the rows of ids.

    Raises:
        ConfigError: ``k`` is empty, contains something else than a whole number of at least 1 or one above both 1,000
            and the number of items, ``users`` are no rows of the dataset, or ``split`` is "train".
        DataError: the split is empty, none of ``users`` has held-out items, or the scores have the wrong shape or
            contain NaN.
    """
    check_scorer(scores)
    Dataset.check(dataset)
    if told := seen_before(scores, dataset):
        warnings.warn(f"{told}; fit the model to this dataset", stacklevel=2)
    lengths = _lengths(k)
    if split not in ("valid", "test"):
        never = "training items are never ranked: " if split == "train" else f"unknown split {split!r}: "
        raise ConfigError(f"{never}evaluate on 'valid' or 'test'")
    held_out = dataset.split(split)
    found = np.flatnonzero(held_out.user_degrees())
    if not len(found):
        raise DataError(f"the {split} split of {dataset.name} is empty: there is nothing to evaluate on")
    if users is not None:
        found = found[np.isin(found, _checked_rows(users, dataset))]
        if not len(found):
            raise DataError(
                f"none of the {len(users)} users has an item in the {split} split of {dataset.name}"
            )
    users = found  # (n,)
    n_items = dataset.n_items
    if lengths[-1] > max(n_items, MOST_K):
        raise ConfigError(
            f"k is {lengths[-1]:,}: expected at most {max(n_items, MOST_K):,}, the larger of {MOST_K:,} and the "
            f"number of items ({n_items:,})"
        )
    _check_shape(scores, dataset)
    excluded = dataset.excluded()[users]  # (n, I)
    wanted = held_out.csr()[users]  # (n, I)
    n_relevant = np.diff(wanted.indptr).astype(np.int64)
    # One ascending number per relevant (user, item), so that hits of a block are found by one binary search.
    keys = np.repeat(np.arange(len(users)), n_relevant) * n_items + wanted.indices

    def rank(block: slice) -> tuple[IntArray, BoolArray]:
        found = np.ascontiguousarray(scores.score(users[block]))
        n_rows = block.stop - block.start
        if found.shape != (n_rows, n_items):
            raise DataError(
                f"scores of {n_rows} users have shape {found.shape}, expected {(n_rows, n_items)}"
            )
        if found.dtype != np.float32:  # integers cannot hold the −∞ of what is left out
            raise DataError(
                f"scores must be float32, got {found.dtype}: convert them with astype(numpy.float32)"
            )
        of_rows = excluded.indptr[block.start : block.stop + 1]
        rows = np.repeat(np.arange(n_rows), np.diff(of_rows))
        found[rows, excluded.indices[of_rows[0] : of_rows[-1]]] = -np.inf
        items, best = top_k(found, lengths[-1])
        # Only the keys of the block's own users: shorter to search.
        relevant = keys[wanted.indptr[block.start] : wanted.indptr[block.stop]]
        ranked = np.arange(block.start, block.stop)[:, None] * n_items + items
        place = np.minimum(np.searchsorted(relevant, ranked), len(relevant) - 1)
        is_candidate = best > -np.inf
        return np.where(is_candidate, items, -1), (relevant[place] == ranked) & is_candidate

    threads = None if getattr(scores, "is_thread_safe", False) else 1
    blocks = list(map_blocks(rank, len(users), n_items, memory_budget, threads))
    # If the catalogue has fewer than K items, the places behind its end keep -1.
    items = np.full((len(users), lengths[-1]), -1)
    hits = np.zeros(items.shape, bool)
    width = min(lengths[-1], n_items)
    np.concatenate([block[0] for block in blocks], out=items[:, :width])
    np.concatenate([block[1] for block in blocks], out=hits[:, :width])
    return Ranking(users, items, hits, n_relevant, dataset.train.item_degrees(), dataset.n_users, lengths)


def check_scorer(scores: Scorer) -> None:
    """Check that something scores items.

    Raises:
        DataError: it does not.
    """
    kind = type(scores).__name__
    if callable(getattr(scores, "scorer", None)):  # whose score() takes ids of users and items
        raise DataError(f"scores is a {kind}: expected its scorer(), such as recommender.scorer()")
    if not callable(getattr(scores, "score", None)):
        raise DataError(
            f"scores is a {kind}: expected DotProduct(users, items), or an object with score(users)"
        )


def seen_before(scores: object, dataset: Dataset) -> str:
    """Say that scores may have been fitted to what a dataset holds out; "" if they were not, or if it is unknown."""
    if told := of_other_dataset(scores, dataset):
        return f"{told}: the held-out items may have been in its training"
    if getattr(scores, "is_final", False) and not dataset.is_final:
        return (
            f"the {type(scores).__name__} is of a final dataset, such as dataset.final() makes: the held-out "
            "items were in its training"
        )
    return ""


def of_other_dataset(scores: object, dataset: Dataset) -> str:
    """Say that scores were fitted to another dataset; "" if they were not, or if it is unknown."""
    fingerprint = getattr(scores, "fingerprint", None)
    if not isinstance(fingerprint, str) or dataset.descends_from(fingerprint):
        return ""
    return (
        f"the {type(scores).__name__} is of another dataset or split (fingerprint {fingerprint}, that of "
        f"{dataset.name!r} is {dataset.fingerprint})"
    )


def _lengths(k: int | Sequence[int]) -> tuple[int, ...]:
    """Return the list lengths in ascending order."""
    is_one = isinstance(k, str | float) or not isinstance(k, Iterable) or getattr(k, "ndim", 1) == 0
    given = [k] if is_one else list(k)  # type: ignore[arg-type]  # mypy does not follow is_one
    try:
        lengths = {check_whole(length) for length in given}
    except ConfigError:
        lengths = set()
    if not lengths:
        raise ConfigError(f"k must be one or more whole numbers of at least 1, got {k!r}")
    return tuple(sorted(lengths))


def _checked_rows(users: IntArray | Sequence[int], dataset: Dataset) -> IntArray:
    """Return rows of users as int64[n].

    Raises:
        ConfigError: they are something else.
    """
    rows: AnyArray = np.asarray(users)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise ConfigError(
            f"users has type {rows.dtype} and shape {rows.shape}: expected rows of users, such as "
            "dataset.users.rows(ids) gives"
        )
    wrong = rows[(rows < 0) | (rows >= dataset.n_users)]
    if len(wrong):
        raise ConfigError(
            f"users has the row {wrong[0]}: expected rows from 0 to {dataset.n_users - 1}; of ids, "
            "dataset.users.rows(ids) gives the rows"
        )
    return rows.astype(np.int64)


def _check_shape(scores: Scorer, dataset: Dataset) -> None:
    if isinstance(scores, DotProduct) and len(scores.users) != dataset.n_users:
        raise DataError(
            f"there are {len(scores.users)} user embeddings, but {dataset.name} has {dataset.n_users} users: "
            "evaluate embeddings on the dataset that they were made for"
        )
