"""Interactions: pairs of users and items in coordinate form, and the filters that make a dataset of them.

Everything is vectorised; 10 million interactions pass each filter in seconds (benchmarks/data_pipeline.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from rlmrec.errors import DataError
from rlmrec.types import AnyArray, FloatArray, IntArray

# From so many interactions on, rows and ids are kept in 32 bits and converted whenever they are asked for: this
# halves the memory of a large dataset. Repeated pairs are searched as many rows at a time.
COMPACT = 1 << 22


@dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    """User-item pairs as two parallel arrays of rows, with optional columns beside them.

    ``COMPACT`` interactions or more keep ``users``, ``items`` and ``id`` in 32 bits where they fit. Each access
    to one of them then makes a new int64 array: keep it, rather than ask for it in a loop.

    Args:
        users: int64[n], user rows in [0, n_users).
        items: int64[n], item rows in [0, n_items).
        n_users: U, rows without an interaction included.
        n_items: I, likewise.
        rating: float64[n] or None; NaN where an interaction has none.
        timestamp: float64[n] (seconds since 1970) or None.
        review: object[n], text or None per interaction; or None.
        id: int64[n], row number in the source; every filter and split keeps it, so that the content of a
            prompt or a split can be traced back to the source. Counted from 0 when not given.

    Raises:
        DataError: arrays of different lengths, or a row outside its range.
    """

    users: IntArray
    items: IntArray
    n_users: int
    n_items: int
    rating: FloatArray | None = None
    timestamp: FloatArray | None = None
    review: npt.NDArray[np.object_] | None = None
    id: IntArray | None = field(
        default_factory=lambda: None
    )  # so that the class has no attribute of that name

    def __post_init__(self) -> None:
        for name in ("users", "items"):
            rows = np.asarray(getattr(self, name))
            if rows.size and rows.dtype.kind not in "iu":
                raise DataError(f"{name} must be integer rows, got {rows.dtype}")
        kind: type[np.int32] | type[np.int64] = np.int64
        if len(self.users) >= COMPACT:
            largest = 0 if self.id is None else int(np.max(self.id))
            kind = index_type(self.n_users, self.n_items, len(self.users), largest)
        if self.id is None:
            object.__setattr__(self, "id", np.arange(len(self.users), dtype=kind))
        for name in ("users", "items", "id"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), kind))
        for name, column in self.columns().items():
            if column.shape != self.users.shape:
                raise DataError(f"column {name} has shape {column.shape}, users have {self.users.shape}")
        for name, rows, size in (("user", self.users, self.n_users), ("item", self.items, self.n_items)):
            if len(rows) and (rows.min() < 0 or rows.max() >= size):
                raise DataError(f"{name} rows span {rows.min()}..{rows.max()}, expected 0..{size - 1}")
        if kind is np.int32:
            compact = {name: self.__dict__.pop(name) for name in ("users", "items", "id")}
            object.__setattr__(self, "_compact", compact)

    def __getattr__(self, name: str) -> Any:
        """Return a column that is kept in 32 bits as int64."""
        compact: dict[str, AnyArray] = self.__dict__.get("_compact", {})
        if name not in compact:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return compact[name].astype(np.int64)

    def stored(self, name: str) -> AnyArray:
        """Return a column as it is kept, rows and ids in 32 or 64 bits, without a copy."""
        column: AnyArray = self.__dict__.get("_compact", self.__dict__)[name]
        return column

    def __len__(self) -> int:
        return len(self.stored("users"))

    def __repr__(self) -> str:
        extra = ", ".join(name for name in self.columns() if name not in ("users", "items", "id"))
        return (
            f"Interactions({len(self):,} of {self.n_users:,} users with {self.n_items:,} items"
            f"{f'; {extra}' if extra else ''})"
        )

    def columns(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the parallel arrays that are present, by name."""
        names = ("users", "items", "rating", "timestamp", "review", "id")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def take(self, index: AnyArray) -> Interactions:
        """Return the interactions at ``index`` (positions or a mask); the numbers of users and items stay."""
        taken: dict[str, Any] = {name: self.stored(name)[index] for name in ("users", "items", "id")}
        for name in ("rating", "timestamp", "review"):
            column = getattr(self, name)
            taken[name] = None if column is None else column[index]
        return replace(self, **taken)

    def keys(self) -> IntArray:
        """Return int64[n], one number per pair: user · n_items + item."""
        keys = self.users * self.n_items
        keys += self.items
        return keys

    def csr(self) -> sp.csr_array:
        """Return the U x I matrix of 0 and 1 (float32), columns sorted; indices of 32 bits where they suffice."""
        shape = (self.n_users, self.n_items)
        kind = index_type(len(self), *shape)
        users, items = (self.stored(name).astype(kind, copy=False) for name in ("users", "items"))
        entries: Any = np.ones(len(self), np.float32), (users, items)
        matrix: sp.csr_array = sp.csr_array(entries, shape=shape)
        matrix.data[:] = 1.0  # duplicates were summed
        matrix.sort_indices()
        return matrix

    def user_degrees(self) -> IntArray:
        """Return int64[U], the number of interactions of each user."""
        return np.bincount(self.stored("users"), minlength=self.n_users)

    def item_degrees(self) -> IntArray:
        """Return int64[I], the number of interactions of each item."""
        return np.bincount(self.stored("items"), minlength=self.n_items)

    def rated(self) -> Interactions:
        """Keep the interactions that have a rating.

        Raises:
            DataError: there are no ratings.
        """
        if self.rating is None:
            raise DataError(
                "min_rating needs ratings and none were read: name their column (rating, --rating-column)"
            )
        kept = self.take(~np.isnan(self.rating))
        if len(self) and not len(kept):
            raise DataError("no interaction has a rating: check the column of ratings")
        return kept

    def min_rating(self, threshold: float) -> Interactions:
        """Keep the interactions rated at least ``threshold`` (the paper: 3; Section 4.1.1) and drop unrated ones.

        Raises:
            DataError: there are no ratings, or nothing is left.
        """
        rated = self.rated()
        ratings = np.asarray(rated.rating)
        kept = rated.take(ratings >= threshold)
        if len(self) and not len(kept):
            raise DataError(
                f"no interaction has a rating of at least {threshold:g}: "
                f"ratings span {ratings.min():g}..{ratings.max():g}"
            )
        return kept

    def by_latest_rating(self, least: float | None) -> tuple[Interactions, Interactions]:
        """Return distinct pairs: those whose latest rating is at least ``least``, and those whose is lower.

        Unrated interactions are left out. Without ``least`` or ratings, all pairs are of the first kind.
        """
        if least is None or self.rating is None:
            merged = self.merged()
            return merged, merged.take(np.empty(0, np.int64))
        merged = self.take(~np.isnan(self.rating)).merged()
        high = np.asarray(merged.rating) >= least
        return merged.take(high), merged.take(~high)

    def between(self, start: float | None, end: float | None) -> Interactions:
        """Keep the interactions from ``start`` on and before ``end``, in seconds since 1970; None: no bound.

        Raises:
            DataError: there are no timestamps, or nothing is left.
        """
        if self.timestamp is None:
            raise DataError(
                "a period needs timestamps and none were read: name their column (timestamp, --timestamp-column)"
            )
        first, last = (-np.inf if start is None else start), (np.inf if end is None else end)
        kept = self.take((self.timestamp >= first) & (self.timestamp < last))
        if len(self) and not len(kept):
            span = " to ".join(_date(moment) for moment in (self.timestamp.min(), self.timestamp.max()))
            raise DataError(f"no interaction is in the period: the timestamps span {span}")
        return kept

    def merged(self) -> Interactions:
        """Keep one interaction per pair: the latest by timestamp where there is one, else the last in order."""
        keys = self.keys()
        twice = repeats(keys)
        if not len(twice):
            return self
        # Sort only the repeated pairs: usually they are few.
        order = np.concatenate(
            [start + _among(keys[start : start + COMPACT], twice) for start in range(0, len(keys), COMPACT)]
        )
        keep = np.ones(len(self), bool)
        keep[order] = False
        if self.timestamp is not None:
            order = order[np.argsort(self.timestamp[order], kind="stable")]
        # np.unique finds the first of equal keys: read from the latest backwards.
        _, first = np.unique(keys[order[::-1]], return_index=True)
        keep[order[::-1][first]] = True
        return self.take(keep)

    def sample_users(self, size: float, rng: np.random.Generator) -> Interactions:
        """Keep all interactions of a uniform random sample of the users that have any.

        Args:
            size: a share of them in (0, 1], or, above 1, their number; more than there are keeps all.
            rng: source of the sample.

        Raises:
            DataError: ``size`` is neither.
        """
        if not size > 0 or (size > 1 and size % 1):
            raise DataError(
                f"a sample of users is a share in (0, 1] or a whole number of users, got {size:g}"
            )
        active = np.flatnonzero(self.user_degrees())
        wanted = min(len(active), round(size)) if size > 1 else max(1, round(size * len(active)))
        chosen = rng.choice(active, size=wanted, replace=False)
        kept = np.zeros(self.n_users, bool)
        kept[chosen] = True
        return self.take(kept[self.users])

    def k_core(self, k: int) -> Interactions:
        """Keep the largest subset in which each user and item has at least ``k`` interactions.

        Users and items below ``k`` are removed until there are none; the result does not depend on the order.
        Pairs must be distinct (see ``merged``). Each round costs O(remaining interactions).

        Raises:
            DataError: nothing is left.
        """
        users, items = self.stored("users"), self.stored("items")
        index: AnyArray = np.arange(len(self), dtype=index_type(len(self)))
        while len(index):
            enough_user = np.bincount(users, minlength=self.n_users) >= k
            enough_item = np.bincount(items, minlength=self.n_items) >= k
            keep = enough_user[users] & enough_item[items]
            if keep.all():
                return self.take(index)
            users, items, index = users[keep], items[keep], index[keep]
        if not len(self):
            return self
        raise DataError(
            f"the {k}-core is empty: no group of users and items has at least {k} interactions each among "
            f"{len(self)} interactions; the largest k that leaves any is {self._largest_core(k)}"
        )

    def _largest_core(self, k: int) -> int:
        """Return the largest number below ``k`` whose core is not empty."""
        left, best = self, 0
        for smaller in range(1, k):
            try:
                left, best = left.k_core(smaller), smaller
            except DataError:
                break
        return best

    def with_noise(
        self, ratio: float, rng: np.random.Generator, avoid: Sequence[Interactions] = ()
    ) -> Interactions:
        """Add ``round(ratio · n)`` uniform random pairs that do not occur yet (Figure 5).

        With an equally seeded ``rng`` a larger ratio adds to the pairs of a smaller one.

        Args:
            ratio: pairs added, relative to n.
            rng: source of the pairs.
            avoid: interactions over the same users and items whose pairs are not added either, for example the
                held-out ones, which are real and hence no noise.

        Raises:
            DataError: there are not that many free pairs, or ``ratio`` is negative.
        """
        wanted = round(ratio * len(self))
        taken = np.unique(np.concatenate([part.keys() for part in (self, *avoid)]))
        if ratio < 0 or wanted > self.n_users * self.n_items - len(taken):
            raise DataError(
                f"cannot add {wanted} new pairs ({ratio:g} x {len(self)}): expected a ratio of at least 0 and as many "
                f"free pairs of {self.n_users} users and {self.n_items} items"
            )
        added = np.empty(0, np.int64)
        while len(added) < wanted:
            drawn = rng.integers(self.n_users * self.n_items, size=2 * (wanted - len(added)) + 8)
            fresh = drawn[~np.isin(drawn, taken)]
            pool = np.concatenate([added, fresh])
            _, first = np.unique(pool, return_index=True)
            added = pool[np.sort(first)][:wanted]  # order of drawing, so that the cut stays uniform
        users, items = np.divmod(added, self.n_items)
        return Interactions(
            np.concatenate([self.users, users]),
            np.concatenate([self.items, items]),
            self.n_users,
            self.n_items,
            id=np.concatenate([_ids(self), np.full(wanted, -1)]),  # -1: not from the source
        )


def _among(keys: IntArray, wanted: IntArray) -> IntArray:
    """Return the positions of the keys that are among ``wanted``, which is ascending."""
    place = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    return np.flatnonzero(wanted[place] == keys)


def joined(parts: Sequence[Interactions]) -> Interactions:
    """Join interactions over the same users and items, with the columns that all of them have."""
    columns = [part.columns() for part in parts if len(part)] or [parts[0].columns()]
    shared: dict[str, Any] = {
        name: np.concatenate([found[name] for found in columns])
        for name in columns[0]
        if all(name in found for found in columns)
    }
    return replace(parts[0], **{**dict.fromkeys(("rating", "timestamp", "review")), **shared})


def _date(moment: float) -> str:
    # Clipped to some thousand years: a source can hold any number.
    return str(np.datetime64(int(np.clip(moment, -6e10, 2.5e11)), "s").astype("datetime64[D]"))


def _ids(interactions: Interactions) -> IntArray:
    assert interactions.id is not None  # set in __post_init__
    return interactions.id


def index_type(*sizes: int, bound: int = np.iinfo(np.int32).max) -> type[np.int32] | type[np.int64]:
    """Return the type of the indices of a sparse matrix: 32 bits, or 64 where a size is ``bound`` or more.

    Args:
        sizes: the number of entries, of rows, of columns.
        bound: 2³¹ − 1; tests pass a smaller one.
    """
    return np.int32 if max(sizes) < bound else np.int64


def repeats(keys: IntArray) -> IntArray:
    """Return the keys that occur more than once, ascending."""
    # Sorting and comparing neighbours is much faster than np.unique.
    ordered = np.sort(keys, kind="stable")  # radix sort
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
