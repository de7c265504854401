"""Prompts: from a dataset's training interactions to what the model reads (Section 3.2, Appendix A.2).

A builder gets the training interactions and no others, so nothing held out can reach a prompt.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from rlmrec.data.interactions import Interactions
from rlmrec.data.metadata import TITLE_COLUMNS
from rlmrec.data.vocabulary import RawId, Vocabulary
from rlmrec.errors import ConfigError, DataError
from rlmrec.profiles.budget import (
    CHAT_TOKENS,
    Step,
    drop_last,
    drop_longer,
    estimate_tokens,
    fit_budget,
    shorten,
    shorten_each,
    shorten_values,
    truncate_tokens,
)
from rlmrec.profiles.template import NOTHING, Template
from rlmrec.types import IntArray


@dataclass(frozen=True)
class Prompt:
    """The prompt about one user or item.

    Args:
        kind: "item" or "user".
        row: its row.
        key: its raw id.
        system: the system prompt, the same for all of a kind.
        text: the prompt.
        sources: ids (``Interactions.id``) of the interactions in it.
        truncations: notes about what was left out to keep to the budget of tokens.
        quoted: for a user, the sources of the item profiles in it.
        nothing: whether it contains no text about the node, so that a request would be wasted.
    """

    kind: str
    row: int
    key: RawId
    system: str
    text: str
    sources: tuple[int, ...]
    truncations: tuple[str, ...] = ()
    quoted: tuple[int, ...] = ()
    nothing: bool = False

    @property
    def tokens(self) -> int:
        """Estimated number of tokens of system prompt and prompt together."""
        return estimate_tokens(self.system) + estimate_tokens(self.text) + CHAT_TOKENS


@dataclass(frozen=True)
class PromptOptions:
    """How much goes into a prompt.

    Args:
        reviews: most reviews in an item's prompt (r̂ of Eq. 13).
        items: most items in a user's prompt (Î_u of Eq. 14).
        review_tokens: most tokens of one review.
        profile_tokens: most tokens of one item's profile in a user's prompt.
        tokens: most tokens of a whole prompt, system prompt included.
        seed: seed of the sampling; each node has its own generator, seeded by this and its id.

    Raises:
        ConfigError: a number below 1.
    """

    reviews: int = 5
    items: int = 10
    review_tokens: int = 120
    profile_tokens: int = 150
    tokens: int = 3000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("reviews", "items", "review_tokens", "profile_tokens", "tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


class PromptBuilder:
    """Makes the prompts of all items or all users.

    An item's prompt (Eq. 13) contains title and description if there is a description, and with ``attributes_too``
    its attributes; otherwise title, attributes and a random subset of its training reviews. A user's prompt (Eq. 14)
    contains a uniform random subset of the user's training items, each as {title, the item's profile, this user's
    review}.

    Held-out interactions cannot get in: they are not among the arguments.

    Args:
        train: training interactions, with their reviews where there are any.
        users: raw user ids.
        items: raw item ids.
        item_texts: one row per item; the title and "description" by name, every other column is an attribute.
        templates: a template for each kind of prompt.
        options: how much goes into a prompt.
        item_profiles: summarization of each item, I entries, None without one; for users' prompts.
        item_sources: ids of the interactions that each of these was written from, I entries.
        attributes_too: whether the prompt of an item with a description contains its attributes as well.

    Raises:
        DataError: the sizes do not fit together, or the dataset has no texts at all.
        ConfigError: the budget leaves no room for data.

    Example:
        >>> both = np.array([0, 1])
        >>> train = Interactions(both, both, 2, 2, review=np.array(["So dark.", None]))
        >>> books = pl.DataFrame({"title": ["The Bell Jar", "Emma"], "genre": ["novel", None]})
        >>> builder = PromptBuilder(
        ...     train, Vocabulary(["ann", "bob"]), Vocabulary([7, 8]), books, {"item": load_template("item")}
        ... )
        >>> prompt = builder.item(0)
        >>> prompt.text
        '{"title": "The Bell Jar", "attributes": {"genre": "novel"}, "reviews": ["So dark."]}'
        >>> prompt.sources
        (0,)
        >>> builder.item(1).text
        '{"title": "Emma", "attributes": "None", "reviews": "None"}'
    """

    def __init__(
        self,
        train: Interactions,
        users: Vocabulary,
        items: Vocabulary,
        item_texts: pl.DataFrame | None,
        templates: Mapping[str, Template],
        options: PromptOptions | None = None,
        item_profiles: list[str | None] | None = None,
        item_sources: list[tuple[int, ...]] | None = None,
        *,
        attributes_too: bool = False,
    ) -> None:
        if (train.n_users, train.n_items) != (len(users), len(items)):
            raise DataError(
                f"the training interactions are {train.n_users} x {train.n_items} (users x items), "
                f"the vocabularies {len(users)} x {len(items)}"
            )
        for name, rows in (
            ("item texts", item_texts),
            ("item profiles", item_profiles),
            ("item sources", item_sources),
        ):
            if rows is not None and len(rows) != len(items):
                raise DataError(f"the {name} have {len(rows)} rows, there are {len(items)} items")
        if item_texts is None and train.review is None:
            raise DataError(
                "the dataset has neither item texts nor reviews, so there is nothing to write profiles from: "
                "make it from a source with texts"
            )
        self.train = train
        self.users = users
        self.items = items
        self.item_texts = item_texts
        self.attributes_too = attributes_too
        self.templates = dict(templates)
        self.options = options or PromptOptions()
        self.item_profiles = item_profiles
        self.item_sources = item_sources or [()] * len(items)
        for template in self.templates.values():
            least = estimate_tokens(template.system) + CHAT_TOKENS + 60
            if least > self.options.tokens:
                raise ConfigError(
                    f"a budget of {self.options.tokens} tokens is too small: the system prompt of "
                    f"{template.name} needs {least} with a title"
                )

    def prompts(self, kind: str) -> Iterator[Prompt]:
        """Yield the prompts of all items or all users in the order of their rows."""
        make: Callable[[int], Prompt] = self.item if kind == "item" else self.user
        return (make(row) for row in range(len(self.items if kind == "item" else self.users)))

    def item(self, row: int) -> Prompt:
        """Return the prompt of one item (Eq. 13)."""
        template = self.templates["item"]
        title, description, attributes = self._texts(row)
        truncations: list[str] = []
        if description is not None:
            data: dict[str, Any] = {"title": title, "description": description}
            steps = [shorten("description", "description")]
            if self.attributes_too and attributes:
                data["attributes"] = attributes
                steps = [shorten_values("attributes", 50), *steps]
            text = self._fit(template, data, steps, truncations)
            return Prompt("item", row, self.items.id(row), template.system, text, (), tuple(truncations))
        drawn = self._drawn_reviews(row)
        reviews = [self._truncate_review(review, truncations) for review, _ in drawn]
        data = {"title": title, "attributes": attributes or NOTHING, "reviews": reviews or NOTHING}
        steps = [
            shorten_values("attributes", 200),
            shorten_values("attributes", 50),
            shorten_values("reviews", self.options.review_tokens // 2),
            shorten_values("reviews", self.options.review_tokens // 4),
            drop_longer("reviews", "attributes"),
        ]
        text = self._fit(template, data, steps, truncations)
        left = data["reviews"] if isinstance(data["reviews"], list) else []
        sources = tuple(source for _, source in drawn[: len(left)])
        nothing = title == NOTHING and not attributes and not drawn
        return Prompt(
            "item",
            row,
            self.items.id(row),
            template.system,
            text,
            sources,
            tuple(truncations),
            nothing=nothing,
        )

    def user(self, row: int) -> Prompt:
        """Return the prompt of one user (Eq. 14).

        Raises:
            DataError: the builder has no item profiles.
        """
        if self.item_profiles is None:
            raise DataError("users' prompts quote the items' profiles: write those first ('--items')")
        template = self.templates["user"]
        truncations: list[str] = []
        entries, ids, quoted = [], [], []
        for position in self._draw("user", row, self._by_user, self.options.items):
            item = int(self.train.stored("items")[position])
            profile = self.item_profiles[item]
            review = self._review(position)
            shown = NOTHING
            if profile:
                shown = truncate_tokens(clean_text(profile), self.options.profile_tokens)
            entries.append(
                {
                    "title": self._titles[item],
                    "description": shown,
                    "review": self._truncate_review(review, truncations) if review else NOTHING,
                }
            )
            ids.append(self._id(position))
            quoted.append(self.item_sources[item] if profile else ())
        nothing = all(entry[name] == NOTHING for entry in entries for name in entry)
        steps = [
            shorten_each("review", self.options.review_tokens // 2),
            shorten_each("review", self.options.review_tokens // 4),
            shorten_each("description", self.options.profile_tokens // 2),
            shorten_each("description", self.options.profile_tokens // 4),
            drop_last(None, "items"),
            shorten_each("review", 8),
            shorten_each("description", 8),
        ]
        text = self._fit(template, entries, steps, truncations)
        return Prompt(
            "user", row, self.users.id(row), template.system, text, tuple(ids[: len(entries)]), tuple(truncations),
            tuple(sorted({source for some in quoted[: len(entries)] for source in some})), nothing,
        )  # fmt: skip

    @cached_property
    def _titles(self) -> list[str]:
        if self.item_texts is None or self._title_column is None:
            return [NOTHING] * len(self.items)
        return list(map(self._title, self.item_texts[self._title_column]))

    @staticmethod
    def _title(value: Any) -> str:
        return clean_text(str(value or "")) or NOTHING

    @cached_property
    def _fields(self) -> tuple[str, ...]:
        """Names of fields that a template may use."""
        columns = [] if self.item_texts is None else self.item_texts.columns
        return tuple(dict.fromkeys(("title", "description", "attributes", "reviews", *columns)))

    @cached_property
    def _title_column(self) -> str | None:
        columns = [] if self.item_texts is None else self.item_texts.columns
        return next((name for name in TITLE_COLUMNS if name in columns), None)

    def _texts(self, row: int) -> tuple[str, str | None, dict[str, Any]]:
        """Return title, description (None without one) and attributes of an item, cleaned."""
        found = {} if self.item_texts is None else self.item_texts.row(row, named=True)
        values = {name: _clean_value(value) for name, value in found.items() if name != self._title_column}
        values = {name: value for name, value in values.items() if value not in (None, "", [], {})}
        title = self._title(found.get(self._title_column or ""))
        description = values.pop("description", None)
        if isinstance(description, list):  # Amazon's later dumps hold a list of paragraphs
            description = " ".join(str(part) for part in description)
        return title, None if description is None else str(description), values

    @cached_property
    def _with_review(self) -> Callable[[int], IntArray]:
        reviews = self.train.review
        if reviews is None:
            return lambda row: np.empty(0, np.int64)  # noqa: ARG005
        has_text = np.fromiter((bool(r) and bool(str(r).strip()) for r in reviews), bool, len(reviews))
        return _groups(self.train.items, self.train.n_items, self._ids(), has_text)

    @cached_property
    def _by_user(self) -> Callable[[int], IntArray]:
        return _groups(self.train.users, self.train.n_users, self._ids(), None)

    def _draw(self, kind: str, row: int, group: Callable[[int], IntArray], most: int) -> IntArray:
        """Draw at most ``most`` positions of a node's group without replacement, the same every time."""
        candidates = group(row)
        key = self.items.id(row) if kind == "item" else self.users.id(row)
        return node_rng(self.options.seed, kind, key).permutation(candidates)[:most]

    def _drawn_reviews(self, row: int) -> list[tuple[str, int]]:
        drawn = self._draw("item", row, self._with_review, self.options.reviews)
        return [(review, self._id(position)) for position in drawn if (review := self._review(position))]

    def _review(self, position: int) -> str | None:
        review = None if self.train.review is None else self.train.review[position]
        return None if review is None else clean_text(str(review)) or None

    def _truncate_review(self, review: str, truncations: list[str]) -> str:
        short = truncate_tokens(review, self.options.review_tokens)
        if short != review and "long reviews cut" not in truncations:
            truncations.append("long reviews cut")
        return short

    def _ids(self) -> IntArray:
        assert self.train.id is not None  # set by Interactions
        return self.train.id

    def _id(self, position: int) -> int:
        return int(self._ids()[position])

    def _fit(self, template: Template, data: Any, steps: list[Step], truncations: list[str]) -> str:
        text, notes = fit_budget(template, data, self._fields, self.options.tokens, steps)
        truncations += [note for note in notes if note not in truncations]
        return text


def node_rng(seed: int, kind: str, key: RawId) -> np.random.Generator:
    """Return a random generator that depends on the seed and the node's id alone, not on rows or other nodes."""
    digest = hashlib.sha256(json.dumps([kind, key]).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def clean_text(text: str) -> str:
    """Return one line of visible text: no control or direction marks, no lone surrogates, single spaces.

    Example:
        >>> clean_text("  So\\n\\n\\x00 dark\\u202e. ")
        'So dark.'
    """
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    kept = "".join(
        char if char.isprintable() else " " if char.isspace() else ""
        for char in text
        if char.isascii() or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn")
    )
    return " ".join(kept.split())


def _clean_value(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        cleaned = {clean_text(str(name)): _clean_value(entry) for name, entry in value.items()}
        return {name: entry for name, entry in cleaned.items() if entry not in (None, "")}
    if isinstance(value, list | tuple):
        return [entry for entry in map(_clean_value, value) if entry not in (None, "")]
    if value is None or isinstance(value, bool | int | float):
        return value
    return clean_text(str(value))


def _groups(
    of: IntArray, size: int, ids: IntArray, keep: np.ndarray[Any, np.dtype[np.bool_]] | None
) -> Callable[[int], IntArray]:
    """Return positions by row, ordered by their ids, so that a reordered file draws the same sample."""
    usable = ids >= 0  # -1: added as noise, so that no source contains it
    if keep is not None:
        usable &= keep
    positions = np.flatnonzero(usable)
    positions = positions[np.lexsort((ids[positions], of[positions]))]
    ends = np.concatenate([[0], np.cumsum(np.bincount(of[positions], minlength=size))])
    return lambda row: positions[ends[row] : ends[row + 1]]
