"""What a page shows of items and users: first words, columns that filter, search, examples, users worth a look."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import polars as pl

from rlmrec.data.dataset import Dataset
from rlmrec.data.metadata import TITLE_COLUMNS, metadata_texts, user_labels
from rlmrec.recommend.lists import Lists
from rlmrec.types import IntArray

ABOUT = 150  # characters of a text in a list
EXAMPLE = 18, 70  # characters of an example
SHORTEST_PROSE = 30  # characters: a shorter text is a label
CHOICES = 60  # values of a column that a menu offers, at most
LABEL = 40  # characters of a value in a menu at most
FACT = 300  # characters of a column's value in an item's facts
SAMPLED = 256  # users among whom those worth a look are chosen
WORTH_A_LOOK = 6
LOOKED_AT = 20  # length of the lists that are compared
PICTURE = re.compile(r"^https://\S+$", re.IGNORECASE)
PICTURE_NAME = re.compile(r"image|picture|photo|thumbnail|poster|cover", re.IGNORECASE)
PICTURE_FILE = re.compile(r"\.(png|jpe?g|webp|gif|avif)(\?\S*)?$", re.IGNORECASE)
# A sentence of plain words, without names in capitals.
PLAIN = re.compile(r"[A-Za-z][a-z]+(?:,? [a-z'’-]+){2,}")
# Where a new sentence begins although no full stop ends the one before it.
NEXT_SENTENCE = re.compile(r"(?<=[a-z)])\s+(?=(The|This|These|A|An|It|In|With|For|Based|If|You|Its)\s)")

Kind = Literal["choice", "tags", "number", "flag", "text", "picture"]
Value = str | float | bool | None


class Column(NamedTuple):
    """A column of the items, as a page shows it.

    Args:
        name: of the column.
        kind: choice: one of few values; tags: several of few values, separated by commas; number; flag: true or false;
            text: anything else; picture: addresses of pictures.
        values: of a choice or of tags, the most frequent first.
        low, high: of a number.
    """

    name: str
    kind: Kind
    values: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


class UserToOpen(NamedTuple):
    """A user worth a look: the row, and why."""

    row: int
    note: str


class Browser:
    """Describes the items and users of a catalogue for a page. Any thread may use it.

    Args:
        lists: has the recommender and the items' columns.
        dataset: has the texts.
        title: returns the title of an item row.
        item_text: returns the text of an item row, None without one.
        item_texts: yields the texts of all items.
        profiles: returns the profiles of a kind, "item" or "user", by id.
        picture_hosts: names of the hosts whose pictures are shown; other addresses are left out.
    """

    def __init__(
        self,
        lists: Lists,
        dataset: Dataset,
        title: Callable[[int], str],
        item_text: Callable[[int], str | None],
        item_texts: Callable[[], Iterable[str | None]],
        profiles: Callable[[str], dict[Any, str]],
        picture_hosts: frozenset[str] = frozenset(),
    ) -> None:
        self.lists = lists
        self.dataset = dataset
        self.title = title
        self.item_text = item_text
        self._item_texts = item_texts
        self._profiles = profiles
        self.picture_hosts = picture_hosts

    # -- items -------------------------------------------------------------------------------------------

    @cached_property
    def columns(self) -> list[Column]:
        """The items' columns beside the id and the title, in the order of the data."""
        table = self.lists.columns
        title = next((name for name in TITLE_COLUMNS if name in table.columns), None)
        return [_column(table[name]) for name in table.columns if name not in ("id", title)]

    @cached_property
    def _prose(self) -> str | None:
        """The column with the longest texts, None if they are labels."""
        table = self.lists.columns
        names = [column.name for column in self.columns if column.kind == "text"]
        lengths = {name: _mean_length(table[name]) for name in names}
        best = max(lengths, key=lambda name: lengths[name], default=None)
        return best if best is not None and lengths[best] >= SHORTEST_PROSE else None

    def about(self, row: int) -> str | None:
        """Return the first words of an item's description, or of its profile; None without any."""
        text = self.description(row) or self.item_profiles.get(self.lists.recommender.item_ids.id(row))
        return shortened(text, ABOUT) if text else None

    def description(self, row: int) -> str | None:
        """Return an item's longest column of text, or the text that it was added by; None without."""
        text = None if self._prose is None else self.lists.columns[self._prose][row]
        if text is None and self.lists.recommender.item_ids.id(row) not in self.dataset.items:
            text = self.item_text(row)
        return None if not text or text == self.title(row) else str(text)

    def facts(self, row: int) -> dict[str, Value]:
        """Return an item's columns that are not empty, without long texts and pictures."""
        table = self.lists.columns
        found: dict[str, Value] = {}
        for column in self.columns:
            value = table[column.name][row]
            if value is None or column.kind == "picture" or column.name == self._prose or value == "":
                continue
            if isinstance(value, bool | int | float):
                found[column.name] = value
            else:
                found[column.name] = shortened(str(value), FACT)
        return found

    def picture(self, row: int) -> str | None:
        """Return the address of an item's picture if its host is allowed."""
        for column in self.columns:
            if column.kind != "picture":
                continue
            address = self.lists.columns[column.name][row]
            if address and PICTURE.match(address) and _host_of(address) in self.picture_hosts:
                return str(address)
        return None

    def search_items(self, query: str, limit: int, where: str | None = None) -> list[int]:
        """Return the rows of items by id, title, profile or text; without a query the most popular ones.

        Items whose title or id is the query come first, then those that begin with it, then those with it in the title
        or the id, then those with all its words in title, id, text and profile; equal ones by popularity.
        """
        lists, wanted = self.lists, query.casefold().strip()
        order = lists.most_popular
        if where is not None:
            order = order[lists.matching(where)[order]]
        if not wanted:
            return [int(row) for row in order[:limit]]
        names, texts = self._folded_items
        exact, begins = (f"(?m)^{pl.escape_regex(wanted)}{end}" for end in ("$", ""))
        rank = np.full(len(names), 4)
        holds = np.ones(len(names), bool)
        for word in wanted.split():
            holds &= (
                names.str.contains(word, literal=True) | texts.str.contains(word, literal=True)
            ).to_numpy()
        rank[holds] = 3
        for place, matches in (
            (2, names.str.contains(wanted, literal=True)),
            (1, names.str.contains(begins)),
            (0, names.str.contains(exact)),
        ):
            rank[matches.to_numpy()] = place
        found = order[rank[order] < 4]
        return [int(row) for row in found[np.argsort(rank[found], kind="stable")][:limit]]

    @cached_property
    def _folded_items(self) -> tuple[pl.Series, pl.Series]:
        """Titles and ids, one a line, and texts and profiles, of all items, without letter case."""
        ids = self.lists.recommender.item_ids
        rows = range(len(ids))
        names = [f"{self.title(row)}\n{ids.id(row)}".casefold() for row in rows]
        profiles = self.item_profiles
        texts = (
            f"{text or ''}\n{profiles.get(ids.id(row), '')}".casefold()
            for row, text in enumerate(self._item_texts())
        )
        return pl.Series(names, dtype=pl.String), pl.Series(texts, dtype=pl.String)

    @cached_property
    def item_profiles(self) -> dict[Any, str]:
        """The items' profiles by id."""
        return self._profiles("item")

    # -- users -------------------------------------------------------------------------------------------

    @cached_property
    def user_names(self) -> list[str]:
        """What to call each user."""
        return user_labels(self.dataset)

    @cached_property
    def user_profiles(self) -> dict[Any, str]:
        """The users' profiles by id."""
        return self._profiles("user")

    def about_user(self, row: int) -> str | None:
        """Return the first words about a user: their longest text or columns, else their profile."""
        text = self.user_text(row) or self.user_profiles.get(self.lists.recommender.user_ids.id(row))
        return shortened(text, ABOUT) if text else None

    def user_text(self, row: int) -> str | None:
        """Return a user's text without the name; None without one."""
        text = self._user_texts[row] if row < len(self._user_texts) else None
        return text and text.replace("….", "…")

    @cached_property
    def _user_texts(self) -> list[str | None]:
        """The texts of users, without their names."""
        table = self.dataset.user_texts
        names = [] if table is None else [name for name in table.columns if name not in TITLE_COLUMNS]
        return [] if table is None or not names else metadata_texts(table, names)

    def worth_a_look(self, base: Lists | None) -> list[UserToOpen]:
        """Return some users of all kinds: with few items, many, and those whose lists differ most from the base's."""
        history = np.diff(self.lists.recommender.seen.indptr)
        have = np.flatnonzero(history)
        if not len(have):
            return []
        sample = have[np.unique(np.linspace(0, len(have) - 1, min(SAMPLED, len(have))).astype(int))]
        by_length = sample[np.argsort(history[sample], kind="stable")]
        chosen: dict[int, str] = {}
        groups: list[tuple[IntArray, int, str]] = []
        if base is not None:
            changed = self._changed(sample, base)
            order = np.argsort(-changed, kind="stable")
            some = (changed[order] > 0) & (3 * changed[order] <= 2 * LOOKED_AT)
            groups = [(sample[order][some], 2, "list changes")]
        middle = np.roll(by_length, -(len(by_length) // 2))
        groups += [(by_length[::-1], 2, "has a lot"), (by_length, 1, "has little"), (middle, 2, "typical")]
        for rows, number, note in groups:
            fresh = [row for row in rows.tolist() if row not in chosen][:number]
            chosen.update((row, note) for row in fresh)
        return [UserToOpen(row, note) for row, note in chosen.items()][:WORTH_A_LOOK]

    def _changed(self, users: IntArray, base: Lists) -> IntArray:
        """Return how many items int64[B] of each list are not in the base's list."""
        mine, _ = self.lists.recommender.recommend_rows(users, LOOKED_AT)
        ids = self.lists.recommender.item_ids
        known = [ids.id(row) for row in range(len(ids))]
        other, _ = base.recommender.recommend_rows(users, LOOKED_AT)
        others = base.recommender.item_ids
        return np.array(
            [
                len({known[row] for row in a if row >= 0} - {others.id(row) for row in b if row >= 0})
                for a, b in zip(mine.tolist(), other.tolist(), strict=True)
            ]
        )

    # -- examples ----------------------------------------------------------------------------------------

    def taste_examples(self) -> list[str]:
        """Return what somebody could ask for, in the data's own words: of users' texts, else of the items'."""
        prose = [text for text in self._user_texts if text and len(text) >= SHORTEST_PROSE]
        table = self.dataset.user_texts
        long = table is not None and any(
            _mean_length(table[name]) >= SHORTEST_PROSE for name in table.columns
        )
        if long and prose:
            texts = [re.sub(r"^[A-Z][\w ]{0,20}: ", "", text) for text in prose]
            return _examples(texts)
        return self.item_examples()

    def item_examples(self) -> list[str]:
        """Return descriptions of items in the data's own words: of their texts or profiles, else their labels."""
        rows = self.lists.most_popular
        rows = rows[len(rows) // 20 : len(rows) // 2 + 1]
        texts = [self._example_of(int(row)) for row in rows[:500]]
        return _examples([text for text in texts if text])

    def _example_of(self, row: int) -> str | None:
        text = self.description(row) or self.item_profiles.get(self.lists.recommender.item_ids.id(row))
        if text:
            return text
        kinds = {column.name for column in self.columns if column.kind in ("tags", "choice")}
        labels = [str(value) for name, value in self.facts(row).items() if name in kinds]
        return ", ".join(labels) or self.title(row)


def shortened(text: str, length: int) -> str:
    """Return the beginning of a text, cut between words, with an ellipsis if something is missing."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    cut = text[:length].rsplit(" ", 1)[0] if " " in text[:length] else text[: length - 1]
    return f"{cut.rstrip(' ,;:-–')} …"


def first_sentence(text: str) -> str:
    """Return the first sentence of a text, without its full stop."""
    text = NEXT_SENTENCE.split(" ".join(text.split()), maxsplit=1)[0]
    return re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0].rstrip(".")


def _examples(texts: Sequence[str], number: int = 3) -> list[str]:
    """Choose different sentences, evenly from the texts, plain ones of a handy length if there are enough."""
    sentences = list(dict.fromkeys(first_sentence(text) for text in texts))
    plain = [text for text in sentences if EXAMPLE[0] <= len(text) <= EXAMPLE[1] and PLAIN.fullmatch(text)]
    pool = plain if len(plain) >= number else sentences
    places = np.linspace(0, len(pool) - 1, min(number, len(pool)) + 2).astype(int)[1:-1] if pool else ()
    chosen = dict.fromkeys(pool[place] for place in places)
    return [shortened(text, EXAMPLE[1]).removesuffix(" …") for text in chosen]


def _column(values: pl.Series) -> Column:
    """Describe a column by its values."""
    name, there = values.name, values.drop_nulls()
    if values.dtype == pl.Boolean:
        return Column(name, "flag")
    if values.dtype.is_numeric():
        if not len(there):
            return Column(name, "text")
        return Column(name, "number", (), float(there.min()), float(there.max()))  # type: ignore[arg-type]
    if values.dtype != pl.String or not len(there):
        return Column(name, "text")
    some = [text for text in there.head(200).to_list() if text]
    if (
        some
        and all(PICTURE.match(text) for text in some)
        and (PICTURE_NAME.search(name) or all(PICTURE_FILE.search(text) for text in some))
    ):
        return Column(name, "picture")
    distinct = there.n_unique()
    if (
        distinct <= CHOICES
        and (distinct <= 12 or 2 * distinct <= len(there))
        and _fit(there.unique().to_list())
    ):
        return Column(name, "choice", _frequent(there.to_list()))
    if distinct <= 20_000:
        parts = Counter(part for text in there.to_list() for part in split_tags(text))
        if parts and len(parts) <= CHOICES and _fit(list(parts)) and 2 * len(parts) <= parts.total():
            return Column(name, "tags", tuple(part for part, _ in parts.most_common()))
    return Column(name, "text")


def split_tags(text: str) -> list[str]:
    """Split "Action, Adventure" into its parts."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _frequent(texts: list[str]) -> tuple[str, ...]:
    return tuple(text for text, _ in Counter(text for text in texts if text).most_common())


def _fit(values: Sequence[str]) -> bool:
    return max(map(len, values), default=0) <= LABEL


def _mean_length(values: pl.Series) -> float:
    if values.dtype != pl.String:
        return 0.0
    mean = values.str.len_chars().mean()
    return float(mean) if isinstance(mean, int | float) else 0.0


def _host_of(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower()
    except ValueError:
        return ""
