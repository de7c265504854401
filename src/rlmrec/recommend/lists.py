"""Lists as a shop shows them: filters, candidates, caps, diversity, and something for everybody."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl
import scipy.sparse as sp

from rlmrec.data.dataset import Dataset
from rlmrec.data.metadata import item_labels, title_origin
from rlmrec.data.vocabulary import RawId
from rlmrec.errors import ColumnError, ConfigError, did_you_mean
from rlmrec.html import html_table
from rlmrec.recommend.conditions import EXPECTED, as_dates, flat_name, with_dates
from rlmrec.recommend.recommender import Recommender
from rlmrec.recommend.search import Found
from rlmrec.topk import check_whole
from rlmrec.types import BoolArray, Float32Array, IntArray

POOL = 100  # items of a user among which caps and diversity choose; at least POOL_OF_K · k
POOL_OF_K = 5
BLOCK = 1024  # users at a time
FILTERS_KEPT = 64
# After the name of a column in a condition: it is compared with a number.
_TO_NUMBER = r"[\"`]?\s*(?:[=<>!]+|(?:not\s+)?in\s*\()\s*[-+]?\d"
Source = Literal["history", "text", "popularity"]
_BY: dict[Source, str] = {"history": "history", "text": "the user's text", "popularity": "popularity"}


@dataclass(frozen=True)
class Rules:
    """What may be in a list, and how it is chosen.

    Args:
        where: only items for which this SQL expression over their columns is true: ``in_stock and price < 20``.
        candidates: only these items; None means all. Unknown ids are skipped.
        exclude: never these items. Unknown ids are skipped.
        exclude_seen: leave out what the user is known to have.
        bought_where: items that are recommended although the user has them, such as consumables: an SQL expression.
        at_most: the largest number of items with the same value of a column, by column: ``{"brand": 2}``.
        diversity: λ of maximal marginal relevance, from 0, scores alone, to 1: each next item has the highest
            (1 − λ) · relevance − λ · (largest cosine to an item before it), relevance from 0 to 1 in the user's pool.

    Raises:
        ConfigError: a cap below 1, a diversity outside [0, 1], or a value of another kind.

    Source: Carbonell and Goldstein, SIGIR 1998 (maximal marginal relevance).
    """

    where: str | None = None
    candidates: Collection[RawId] | None = None
    exclude: Collection[RawId] | None = None
    exclude_seen: bool = True
    bought_where: str | None = None
    at_most: Mapping[str, int] = field(default_factory=dict)
    diversity: float = 0.0

    def __post_init__(self) -> None:
        for name, kinds, expected in (
            ("where", str, "an SQL condition such as \"city = 'Berlin'\""),
            ("bought_where", str, "an SQL condition such as \"city = 'Berlin'\""),
            ("candidates", Collection, "a list of ids"),
            ("exclude", Collection, "a list of ids"),
        ):
            value = getattr(self, name)
            is_text = isinstance(value, str)
            if value is not None and (not isinstance(value, kinds) or is_text != (kinds is str)):
                raise ConfigError(f"{name} is {value!r}: expected {expected}")
        if any(cap < 1 for cap in self.at_most.values()):
            raise ConfigError(f"at_most {dict(self.at_most)}: expected numbers of at least 1")
        if not 0 <= self.diversity <= 1:
            raise ConfigError(f"diversity {self.diversity:g}: expected a number from 0 to 1")

    @property
    def chooses(self) -> bool:
        """Whether a list is more than the highest scores."""
        return bool(self.at_most) or self.diversity > 0


@dataclass(frozen=True)
class UserList:
    """A user's list, best first.

    Args:
        user: raw id.
        items: raw ids; fewer than asked for where the rules leave no more.
        scores: float32[n]; of a list by popularity the numbers of users who have the items.
        source: "history": the user's interactions; "text": the user's own text, without any; "popularity": nothing is
            known of the user.
        dataset: has the items' titles; None without.
    """

    user: RawId
    items: list[RawId]
    scores: Float32Array
    source: Source
    dataset: Dataset | None = field(default=None, repr=False, compare=False)

    @property
    def titles(self) -> list[str]:
        """What the items are called; the id as text for an item without a title."""
        if self.dataset is None:
            return [str(raw) for raw in self.items]
        known = [raw for raw in self.items if raw in self.dataset.items]
        labels = dict(zip(known, item_labels(self.dataset, self.dataset.items.rows(known)), strict=True))
        return [labels.get(raw, str(raw)) for raw in self.items]

    def _repr_html_(self) -> str:
        """Return a table of the list for notebooks."""
        rows = [
            (place, title, raw, f"{score:.3g}")
            for place, (title, raw, score) in enumerate(
                zip(self.titles, self.items, self.scores, strict=True), 1
            )
        ]
        caption = f"Recommended to {self.user}, by {_BY[self.source]}"
        return html_table(caption, ("", "item", "id", "score"), rows, text_columns=3)


class Lists:
    """Makes lists with a recommender. Any thread may use it.

    Args:
        recommender: gives the scores.
        dataset: has the items' columns; its first rows are the recommender's. Without one there are no columns.
    """

    def __init__(self, recommender: Recommender, dataset: Dataset | None = None) -> None:
        self.recommender = recommender
        self.dataset = dataset
        self._filters: dict[str, BoolArray] = {}

    def __repr__(self) -> str:
        columns = "" if self.dataset is None else f", columns for rules: {', '.join(self.columns.columns)}"
        return f"Lists({self.recommender!r}{columns})"

    @cached_property
    def columns(self) -> pl.DataFrame:
        """The items' columns with numbers and true or false as such, one row per item; ``id`` is the raw id as text."""
        n_items = len(self.recommender.items)
        ids = pl.DataFrame({"id": [str(raw) for raw in self.recommender.item_ids.ids]})
        if self.dataset is None or self.dataset.item_texts is None:
            return ids
        table = self.dataset.item_texts
        known = [raw for raw in self.dataset.items.ids[:n_items] if raw in self.recommender.item_ids]
        table = pl.concat(
            [table[: len(known)], pl.DataFrame(schema=table.schema).clear(n_items - len(known))]
        )
        origin = title_origin(self.dataset)
        if origin is not None and origin not in ("id", *table.columns) and "title" in table.columns:
            # A filter may call it as the user's table does.
            table = table.with_columns(table["title"].alias(origin))
        return ids.hstack([_typed(table[name]) for name in table.columns if name != "id"])

    @cached_property
    def dated_columns(self) -> pl.DataFrame:
        """The columns, with those of dates and times as such: what conditions are about."""
        dates = [dated for column in self.columns if (dated := as_dates(column)) is not None]
        return self.columns.with_columns(dates)

    @cached_property
    def popularity(self) -> IntArray:
        """The number of users, int64[I], who are known to have each item."""
        return popularity(self.recommender, self.dataset)

    @cached_property
    def most_popular(self) -> IntArray:
        """All items, int64[I], the most popular first."""
        order: IntArray = np.argsort(-self.popularity, kind="stable")
        return order

    @property
    def _unit_items(self) -> Float32Array:
        if not self.recommender.items.shape[1]:
            raise ConfigError("diversity needs embeddings of items, and this run has only item neighbours")
        unit = self.recommender.unit_items
        assert not isinstance(unit, sp.csr_array)
        return unit

    def matching(self, where: str) -> BoolArray:
        """Return bool[I], the items for which an SQL expression is true; a missing value is never true.

        Raises:
            ConfigError: it is not an expression over the columns.
        """
        kept = self._filters.get(where)
        if kept is None:
            try:
                condition = pl.sql_expr(with_dates(where, self.dated_columns.schema))
                found = self.dated_columns.with_columns(condition.alias("\0"))["\0"]
                if found.dtype == pl.String or found.dtype.is_temporal():
                    what = "text" if found.dtype == pl.String else "date"
                    raise ConfigError(f"filter {where!r}: it is a {what}, {self._expected(where)}")
                found = found.cast(pl.Boolean)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
                raise ConfigError(f"filter {where!r}: {self._problem(where, error)}") from None
            if len(self._filters) >= FILTERS_KEPT:
                self._filters.clear()
            self._filters[where] = kept = found.fill_null(False).to_numpy().astype(bool)
        return kept  # another thread may have cleared the filters

    def _problem(self, where: str, error: BaseException) -> str:
        """Say why a condition cannot be evaluated, and what is expected."""
        names, named = self.columns.columns, flat_name(where)
        if named is not None:
            quoted = f': write "{named}" with its quotation marks' if named in names else ""
            return f"{named} has points, but columns are flat{quoted}; {self._expected()}"
        why = (str(error) or type(error).__name__).splitlines()[0].partition("; valid columns: ")[0]
        unknown = re.match(r'unable to find column "(.+)"', why)
        meant = "" if unknown is None else did_you_mean(unknown[1], names)
        dates = [
            name for name, kind in self.dated_columns.schema.items() if kind.is_temporal() and name in where
        ]
        told = f"; compare {' and '.join(dates)} with {EXPECTED}" if dates else ""
        if unknown is not None and self._is_id_column(unknown[1]):
            meant += f"; ids are in the column id, as text: {self._compared('id')}"
        elif "cannot compare string" in why or "for String values" in why:
            texts = [
                name
                for name, kind in self.dated_columns.schema.items()
                if kind == pl.String
                and re.search(rf"(?<!\w){re.escape(name)}{_TO_NUMBER}", where, re.IGNORECASE)
            ]
            told += "".join(f"; {name} is text: {self._compared(name)}" for name in texts)
        return f"{why}{meant}{told}; {self._expected()}"

    def _is_id_column(self, name: str) -> bool:
        """Whether an unknown column is what one's own tables call the items' ids, as far as it can be told."""
        of_tables = {} if self.dataset is None else self.dataset.provenance.get("columns") or {}
        is_called_id = re.search(r"(?:^|_)[Ii][Dd]$|[a-z]I[Dd]$", name)  # not paid, grid or valid
        return name == of_tables.get("item") or is_called_id is not None

    def _compared(self, name: str) -> str:
        """Compare a column with one of its values, as an example."""
        return f"{name} = {_examples(self.columns[name])[0]}"

    def _expected(self, column: str = "") -> str:
        """Say what a condition is, with an example; of a column of text or dates, with one of its values."""
        example = "in_stock and price < 20"
        if column in self.columns.columns and (values := _examples(self.columns[column])):
            example = f"{column} = {values[0]}"
        return (
            f"expected an SQL condition such as {example} over the columns {', '.join(self.columns.columns)}"
        )

    def wrong_rule(self, rules: Rules) -> tuple[str, ConfigError] | None:
        """Return the name of the first rule that does not fit to the items or the run, and why; None if all do."""
        for name, check in (
            ("where", lambda: None if rules.where is None else self.matching(rules.where)),
            (
                "bought_where",
                lambda: None if rules.bought_where is None else self.matching(rules.bought_where),
            ),
            ("at_most", lambda: self._check_caps(rules)),
            ("diversity", lambda: self._unit_items if rules.diversity else None),
        ):
            try:
                check()
            except ConfigError as error:
                return name, error
        return None

    def _check_caps(self, rules: Rules) -> None:
        names = self.columns.columns
        unknown = next((name for name in rules.at_most if name not in names), None)
        if unknown is not None:
            raise ColumnError(
                f"at_most: the items have no column {unknown!r}{did_you_mean(unknown, names)} but {', '.join(names)}"
            )

    def check_some_left(self, rules: Rules) -> None:
        """Refuse rules that no item fulfils, by which every list would be empty.

        Raises:
            ConfigError: there is no such item; the message tells values of the columns of ``where``.
        """
        if rules.where is not None and not self.matching(rules.where).any():
            names = pl.sql_expr(with_dates(rules.where, self.dated_columns.schema)).meta.root_names()
            values = [f"{name} has {self._told(name)}" for name in dict.fromkeys(names)]
            told = f": {'; '.join(values)}" if values else ""
            raise ConfigError(f"no item fulfils the condition {rules.where!r}{told}")
        mask, _ = self.allowed(rules)
        if mask is not None and not mask.any():
            raise ConfigError(
                "no item is left by the condition, the candidates and the excluded items together: leave one of them "
                "out"
            )

    def _told(self, name: str) -> str:
        """Tell values of a column: of dates the first and the last, of others some examples."""
        column = self.dated_columns[name]
        if column.dtype.is_temporal():
            first, last = map(str, (column.min(), column.max()))
            return f"dates from {first} to {last}"
        values = _examples(column)
        return f"{', '.join(values)}, for example" if values else "no value"

    def allowed(self, rules: Rules) -> tuple[BoolArray | None, int]:
        """Return bool[I], the items that may be recommended (None: all), and how many ids of the rules are unknown."""
        if rules.where is None and rules.candidates is None and rules.exclude is None:
            return None, 0
        ids, skipped = self.recommender.item_ids, 0
        mask = np.full(len(ids), rules.candidates is None)
        for raws, value in ((rules.candidates, True), (rules.exclude, False)):
            known = [raw for raw in raws or () if raw in ids]
            skipped += len(raws or ()) - len(known)
            mask[ids.rows(known)] = value
        if rules.where is not None:
            mask &= self.matching(rules.where)
        return mask, skipped

    def length(self, k: int) -> int:
        """Return k, or the number of items where that is less."""
        return min(check_whole(k), max(1, len(self.recommender.items)))

    def of(self, users: Sequence[RawId], k: int = 20, rules: Rules | None = None) -> list[UserList]:
        """Return the list of each user; of an unknown user, or one with nothing, that of the most popular items.

        Args:
            users: raw ids.
            k: how many items.
            rules: for all of them.

        Raises:
            ConfigError: a rule names no column or is not an expression, k is below 1, or an argument is of another
                kind.
        """
        # A text would be taken letter by letter, and an array of no dimension is one id.
        if isinstance(users, str) or not isinstance(users, Iterable) or getattr(users, "ndim", 1) == 0:
            example = self.recommender.user_ids.ids[:1]
            raise ConfigError(f"users is {users!r}: expected a list of ids such as {example}")
        users, rules, k = list(users), as_rules(rules), self.length(k)
        allowed, _ = self.allowed(rules)
        known = [place for place, user in enumerate(users) if user in self.recommender.user_ids]
        rows = self.recommender.user_ids.rows([users[place] for place in known])
        found, scores, by_text, by_popularity = self.rows(rows, k, rules, allowed)
        ids = self.recommender.item_ids
        made: dict[int, UserList] = {}
        for number, place in enumerate(known):
            source: Source = (
                "popularity" if by_popularity[number] else "text" if by_text[number] else "history"
            )
            items = [ids.id(row) for row in found[number].tolist() if row >= 0]
            made[place] = UserList(users[place], items, scores[number, : len(items)], source, self.dataset)
        if len(made) < len(users):
            popular, counts = self._popular(np.array([-1]), k, rules, allowed)
            items = [ids.id(row) for row in popular[0].tolist() if row >= 0]
            for place, user in enumerate(users):
                if place not in made:
                    made[place] = UserList(user, items, counts[0, : len(items)], "popularity", self.dataset)
        return [made[place] for place in range(len(users))]

    def rows(
        self, users: IntArray, k: int, rules: Rules, allowed: BoolArray | None
    ) -> tuple[IntArray, Float32Array, BoolArray, BoolArray]:
        """Return lists of user rows.

        Args:
            users: int64[B].
            k: how many items.
            rules: what they obey.
            allowed: of ``allowed(rules)``.

        Returns:
            item rows int64[B, k] (−1: none), scores float32[B, k], k being ``length(k)`` at most, and bool[B]: who
            has a text alone, and who has nothing and gets the most popular items.
        """
        k = self.length(k)
        by_text, by_popularity = self.recommender.bases(users)
        found = np.full((len(users), k), -1)
        scores = np.full((len(users), k), -np.inf, np.float32)
        for mask, search in ((~by_popularity, self._best), (by_popularity, self._popular)):
            places = np.flatnonzero(mask)
            for start in range(0, len(places), BLOCK):
                block = places[start : start + BLOCK]
                found[block], scores[block] = search(users[block], k, rules, allowed)
        return found, scores, by_text, by_popularity

    def _best(self, users: IntArray, k: int, rules: Rules, allowed: BoolArray | None) -> Found:
        """Return the lists of users who are known, in one block."""
        n_items = len(self.recommender.items)
        if not rules.chooses:
            return self._candidates(users, k, rules, allowed)
        depth = min(n_items, max(POOL, POOL_OF_K * k))
        found, scores = self._choose(*self._candidates(users, depth, rules, allowed), k, rules)
        short = np.flatnonzero((found < 0).any(axis=1))
        if len(short) and depth < n_items:  # the caps need a look further down
            whole = self._candidates(users[short], n_items, rules, allowed)
            found[short], scores[short] = self._choose(*whole, k, rules)
        return found, scores

    def _candidates(self, users: IntArray, k: int, rules: Rules, allowed: BoolArray | None) -> Found:
        """Return the k highest scores of each user, with what may be bought again."""
        recommender = self.recommender
        if not rules.exclude_seen or rules.bought_where is None:
            return recommender.recommend_rows(users, k, rules.exclude_seen, allowed)
        again = self.matching(rules.bought_where)
        new = recommender.recommend_rows(users, k, True, allowed)
        old = recommender.recommend_rows(users, k, False, again if allowed is None else again & allowed)
        rows, scores = np.concatenate([new[0], old[0]], axis=1), np.concatenate([new[1], old[1]], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")
        rows, scores = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
        return _first_distinct(rows, scores, k)

    def _choose(self, rows: IntArray, scores: Float32Array, k: int, rules: Rules) -> Found:
        """Choose k of the pool int64[B, D] one after the other, by caps and marginal relevance."""
        n_users = len(rows)
        chosen = np.full((n_users, k), -1)
        values = np.full((n_users, k), -np.inf, np.float32)
        free = rows >= 0
        relevance = _scaled(scores, free)
        groups = [(codes[rows], cap, np.full((n_users, k), -2)) for codes, cap in self._groups(rules)]
        vectors = self._unit_items[rows] if rules.diversity else None
        nearest = np.full(rows.shape, -np.inf if vectors is None else -1.0, np.float32)
        everyone = np.arange(n_users)
        for place in range(min(k, rows.shape[1])):
            utility = relevance
            if vectors is not None:
                penalty = np.maximum(nearest, 0) if place else np.float32(0)
                utility = (1 - rules.diversity) * relevance - rules.diversity * penalty
            best = np.where(free, utility, -np.inf).argmax(axis=1)
            has = free[everyone, best]
            chosen[has, place] = rows[everyone, best][has]
            values[has, place] = scores[everyone, best][has]
            free[everyone, best] = False
            for codes, cap, taken in groups:
                picked = codes[everyone, best]
                taken[has, place] = picked[has]
                full = has & (picked >= 0) & ((taken == picked[:, None]).sum(axis=1) >= cap)
                free &= ~((codes == picked[:, None]) & full[:, None])
            if vectors is not None:
                nearest = np.maximum(nearest, np.einsum("bnd,bd->bn", vectors, vectors[everyone, best]))
        return chosen, values

    def _groups(self, rules: Rules) -> Iterator[tuple[IntArray, int]]:
        """Yield for each capped column int64[I], equal for equal values and −1 without one, and the cap."""
        self._check_caps(rules)
        for name, cap in rules.at_most.items():
            column = self.columns[name]
            codes = column.cast(pl.String).rank("dense").cast(pl.Int64).fill_null(-1)
            yield codes.to_numpy(), cap

    def _popular(self, users: IntArray, k: int, rules: Rules, allowed: BoolArray | None) -> Found:
        """Return the most popular of the allowed items, without what each user has; row −1 is an unknown user."""
        counts, order = self.popularity, self.most_popular
        order = order if allowed is None else order[allowed[order]]
        again = None if rules.bought_where is None else self.matching(rules.bought_where)
        depth = len(order) if rules.at_most else k
        rows = np.full((len(users), depth), -1)
        for number, user in enumerate(users.tolist()):
            mine = order
            if rules.exclude_seen and user >= 0:
                had = self.recommender.known[[user]].indices
                had = had if again is None else had[~again[had]]
                mine = order[: depth + len(had)]
                mine = mine[~np.isin(mine, had)]
            rows[number, : len(mine[:depth])] = mine[:depth]
        scores = np.where(rows >= 0, counts[rows], -np.inf).astype(np.float32)
        return (
            self._choose(rows, scores, k, Rules(at_most=rules.at_most)) if rules.at_most else (rows, scores)
        )


def popularity(recommender: Recommender, dataset: Dataset | None) -> IntArray:
    """Return the number of users, int64[I], who are known to have each item; who rates it low does not count."""
    counts: IntArray = np.bincount(recommender.known.indices, minlength=len(recommender.items))
    if dataset is None:
        return counts
    low = dataset.low_ratings()[: len(counts)]
    counts[: len(low)] -= low
    return np.maximum(counts, 0)  # items that were added by text may stand where the dataset has others


def as_rules(rules: object) -> Rules:
    """Return rules; None means no rule.

    Raises:
        ConfigError: they are something else, such as a condition.
    """
    if rules is not None and not isinstance(rules, Rules):
        remedy = f"Rules(where={rules!r})" if isinstance(rules, str) else "Rules(…)"
        raise ConfigError(f"rules has type {type(rules).__name__}: expected {remedy}")
    return Rules() if rules is None else rules


def _typed(column: pl.Series) -> pl.Series:
    """Return a column of text as numbers or as true and false, if it holds nothing else."""
    if column.dtype != pl.String or not column.count():
        return column
    values = column.str.strip_chars()
    lower = values.str.to_lowercase()
    if lower.drop_nulls().is_in(["true", "false"]).all():
        return lower == "true"
    for kind in (pl.Int64, pl.Float64):
        numbers = values.cast(kind, strict=False)
        if numbers.null_count() == values.null_count():
            return numbers
    return column


def _examples(column: pl.Series) -> list[str]:
    """Return the first three distinct values of a column as SQL writes them."""
    values = column.drop_nulls().unique(maintain_order=True).head(3).to_list()
    return [
        "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value).lower()
        for value in values
    ]


def _scaled(scores: Float32Array, free: BoolArray) -> Float32Array:
    """Scale each row's scores of free places to [0, 1]."""
    low = np.where(free, scores, np.inf).min(axis=1, keepdims=True)
    high = np.where(free, scores, -np.inf).max(axis=1, keepdims=True)
    width = np.where(high > low, high - low, 1)
    scaled: Float32Array = np.where(free, (scores - low) / width, 0).astype(np.float32)
    return scaled


def _first_distinct(rows: IntArray, scores: Float32Array, k: int) -> Found:
    """Return the first k entries of each row without repeats and padding."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, 1)
    twice = np.zeros(rows.shape, bool)
    np.put_along_axis(
        twice,
        order,
        np.concatenate([np.zeros((len(rows), 1), bool), ordered[:, 1:] == ordered[:, :-1]], 1),
        1,
    )
    drop = np.argsort(twice | (rows < 0), axis=1, kind="stable")[:, :k]
    gone = np.take_along_axis(twice | (rows < 0), drop, 1)
    found = np.where(gone, -1, np.take_along_axis(rows, drop, 1))
    return found, np.where(gone, np.float32(-np.inf), np.take_along_axis(scores, drop, 1))
