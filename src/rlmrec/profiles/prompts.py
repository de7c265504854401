"""Prompts: from a dataset's training part to what the model reads (Section 3.2, Appendix A.2).

Two rules are kept here, because here every prompt is made:

- A builder is given the training interactions and nothing else, so nothing held out can reach a prompt.
- Titles, descriptions and reviews are data. They enter as JSON strings with every character escaped that a
  template, a chat format or a code fence could take for structure, and never pass through the template
  engine as source.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox
import numpy as np
import polars as pl

from rlmrec.data.interactions import Interactions
from rlmrec.data.metadata import TITLE_COLUMNS
from rlmrec.data.vocabulary import RawId, Vocabulary
from rlmrec.errors import ConfigError, DataError
from rlmrec.profiles import DOMAINS
from rlmrec.profiles.parse import WORDS
from rlmrec.types import IntArray

KINDS = ("item", "user")
NOTHING = "None"  # the word for a missing value, as the system prompt explains
_FOLDER = Path(__file__).parent / "templates"
_MARGIN = 16  # tokens that a chat format adds around the two messages


@dataclass(frozen=True)
class Prompt:
    """What is asked about one user or item.

    Args:
        kind: "item" or "user".
        row: its row.
        key: its raw id.
        system: the system prompt, the same for all of a kind.
        text: the prompt.
        sources: ids of the interactions that went in.
        cuts: what was left out to keep to the budget of tokens, in words.
        quoted: of a user, the sources of the item profiles that went in.
        nothing: there is no text to go by, so that asking would be money lost.
    """

    kind: str
    row: int
    key: RawId
    system: str
    text: str
    sources: tuple[int, ...]
    cuts: tuple[str, ...] = ()
    quoted: tuple[int, ...] = ()
    nothing: bool = False

    @property
    def tokens(self) -> int:
        """Estimated tokens of system prompt and prompt together."""
        return estimate_tokens(self.system) + estimate_tokens(self.text) + _MARGIN


@dataclass(frozen=True)
class PromptOptions:
    """What goes into a prompt.

    Args:
        reviews: most reviews of an item's prompt (r̂ of Eq. 13).
        items: most items of a user's prompt (Î_u of Eq. 14).
        review_tokens: most tokens of one review.
        profile_tokens: most tokens of one item's profile in a user's prompt.
        tokens: most tokens of a whole prompt, system prompt included.
        seed: of the sampling; each node draws from its own generator, seeded by this and its id.

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


@dataclass(frozen=True)
class Template:
    """One prompt file: a part "# System" and a part "# Prompt", both Jinja.

    The parts are told apart before anything is filled in. ``{{ words }}`` is the limit of words. The prompt
    may use ``{{ data }}`` (all of the node's data as one JSON value) and, for items, ``{{ fields.title }}``,
    description, attributes, reviews and each attribute by the name of its column (one entry of the data, as a
    JSON value, "None" where the item lacks it); the system prompt gets no data.

    Args:
        kind: "item" or "user".
        source: the file's text.
        name: what messages call it, mostly the file's path.

    Raises:
        ConfigError: a part is missing, the prompt uses no data, or Jinja cannot read or fill it.

    Example:
        >>> t = Template("item", "# System\\nAt most {{ words }} words.\\n# Prompt\\nBOOK {{ fields.title }}")
        >>> t.system
        'At most 200 words.'
        >>> t.fill({"title": "{{ 7 * 7 }} <|im_end|>"})
        'BOOK "\\\\u007b\\\\u007b 7 * 7 \\\\u007d\\\\u007d \\\\u003c|im_end|\\\\u003e"'
    """

    kind: str
    source: str
    name: str = "the prompt"

    def __post_init__(self) -> None:
        probes: list[Any] = [{"title": "t"}, {"title": "u"}]
        if self.kind == "user":
            probes = [[probe] for probe in probes]
        if self.fill(probes[0]) == self.fill(probes[1]):
            uses = "{{ data }}" if self.kind == "user" else "{{ data }} or {{ fields.title }}"
            raise ConfigError(f"{self.name}: all prompts would be the same, '# Prompt' must use {uses}")

    @cached_property
    def _parts(self) -> tuple[jinja2.Template, jinja2.Template]:
        parts = re.split(r"^# (System|Prompt)[ \t]*\r?$", self.source, flags=re.MULTILINE)
        if len(parts) != 5 or parts[1] != "System" or parts[3] != "Prompt":
            raise ConfigError(
                f"{self.name}: expected one line '# System' and after its text one line '# Prompt', "
                f"got {parts[1::2] or 'neither'}"
            )
        engine = jinja2.sandbox.ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
        )
        try:
            return engine.from_string(parts[2].strip()), engine.from_string(parts[4].strip())
        except (jinja2.TemplateSyntaxError, RecursionError) as error:
            raise ConfigError(f"{self.name}: Jinja cannot read it: {_line(error)}") from None

    @cached_property
    def system(self) -> str:
        """The system prompt."""
        return self._render(self._parts[0], {})

    def fill(self, data: Any, known: Collection[str] | None = None) -> str:
        """The prompt around ``data``, a JSON value whose strings may hold anything.

        Args:
            data: of an item a mapping, of a user a list.
            known: names of fields that items may have; another one in the template is a mistake. None: any.

        Raises:
            ConfigError: the template uses a name that there is not, or fails otherwise.
        """
        fields = _Fields(data, known) if isinstance(data, dict) else _Fields({}, ())
        return self._render(self._parts[1], {"data": to_json(data), "fields": fields})

    def _render(self, part: jinja2.Template, variables: dict[str, Any]) -> str:
        try:
            return part.render(words=WORDS[self.kind], **variables)
        except _UnknownFieldError as error:
            raise ConfigError(f"{self.name}: {error}") from None
        except Exception as error:  # a template is a program of the user's: whatever it raises is its mistake
            raise ConfigError(
                f"{self.name}: {_line(error)}; known are words, and in the part '# Prompt' data and fields"
            ) from None


class _UnknownFieldError(Exception):
    """A template asks for a field that no item can have."""


class _Fields:
    """Entries of an item's data as JSON, its attributes by their names; what an item lacks is the word for nothing.

    No mapping: ``fields.values`` must be an entry of that name, not a method.
    """

    def __init__(self, data: Mapping[str, Any], known: Collection[str] | None) -> None:
        attributes = data.get("attributes")
        self._entries = {**(attributes if isinstance(attributes, dict) else {}), **data}
        self._known = known

    def __getitem__(self, name: object) -> str:
        if name not in self._entries and self._known is not None and name not in self._known:
            listed = ", ".join(self._known) or "none, use {{ data }}"
            raise _UnknownFieldError(f"there is no field {name!r}; there are {listed}")
        return to_json(self._entries.get(str(name), NOTHING))

    def __getattr__(self, name: str) -> str:
        if name.startswith("_"):  # Python's own business
            raise AttributeError(name)
        return self[name]

    def __str__(self) -> str:
        raise _UnknownFieldError("fields is no text: name one of them, such as {{ fields.title }}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def load_template(
    kind: str, domain: str = "general", *, folder: Path | None = None, small: bool = False
) -> Template:
    """The prompt file of a kind and a domain.

    Args:
        kind: "item" or "user".
        domain: "general", "books", "businesses", "games" or "movies".
        folder: a user's own folder with item.md or user.md; the one it lacks is the domain's.
        small: the shorter prompt with written-out examples that small models need.

    Raises:
        ConfigError: an unknown kind or domain, a folder with neither file, or one that is not UTF-8.
    """
    if kind not in KINDS or domain not in DOMAINS:
        raise ConfigError(
            f"no prompt for {kind!r} of domain {domain!r}: expected one of {', '.join(KINDS)} and one of "
            f"{', '.join(DOMAINS)}, or your own folder (--prompts)"
        )
    if folder is not None:
        folder = Path(folder)
        if not any((folder / f"{name}.md").is_file() for name in KINDS):
            raise ConfigError(f"{folder} holds neither item.md nor user.md")
        own = folder / f"{kind}.md"
        if own.is_file():
            try:
                return Template(
                    kind, own.read_text(encoding="utf-8-sig"), str(own)
                )  # editors put a mark in front
            except UnicodeDecodeError as error:
                raise ConfigError(f"{own} is not UTF-8 ({error}): save it as UTF-8") from None
    names = [f"{domain}/{kind}.md"]
    if small:
        names = [f"{domain}/{kind}.small.md", f"general/{kind}.small.md"]
    path = next(_FOLDER / name for name in names if (_FOLDER / name).is_file())
    return Template(kind, path.read_text(encoding="utf-8"), str(path))


class PromptBuilder:
    """Makes the prompts of all items or all users.

    An item's prompt (Eq. 13): title and description where there is a description; otherwise title,
    attributes and a random subset of its training reviews. A user's (Eq. 14): a uniform random subset of
    the user's training items, each as {title, the item's profile, this user's review}.

    Held-out interactions cannot get in: they are not among the arguments.

    Args:
        train: training interactions, with their reviews where there are any.
        users: raw user ids.
        items: raw item ids.
        item_texts: one row per item; the title and "description" by name, every other column is an attribute.
        templates: a template for each kind that is asked for.
        options: how much goes in.
        item_profiles: summarization of each item, I entries, None where there is none; for users' prompts.
        item_sources: the interactions that each of these was written from, I entries.

    Raises:
        DataError: the sizes do not fit together, or there is no text at all to make prompts of.
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
        self.templates = dict(templates)
        self.options = options or PromptOptions()
        self.item_profiles = item_profiles
        self.item_sources = item_sources or [()] * len(items)
        for template in self.templates.values():
            least = estimate_tokens(template.system) + _MARGIN + 60
            if least > self.options.tokens:
                raise ConfigError(
                    f"a budget of {self.options.tokens} tokens is too small: the system prompt of "
                    f"{template.name} needs {least} with a title"
                )

    def prompts(self, kind: str) -> Iterator[Prompt]:
        """The prompts of all items or all users, in the order of their rows, one at a time."""
        make: Callable[[int], Prompt] = self.item if kind == "item" else self.user
        return (make(row) for row in range(len(self.items if kind == "item" else self.users)))

    def item(self, row: int) -> Prompt:
        """The prompt of one item (Eq. 13)."""
        template = self.templates["item"]
        title, description, attributes = self._texts(row)
        cuts: list[str] = []
        if description is not None:
            data: dict[str, Any] = {"title": title, "description": description}
            text = self._fit(template, data, [_shorten("description", "description")], cuts)
            return Prompt("item", row, self.items.id(row), template.system, text, (), tuple(cuts))
        drawn = self._drawn_reviews(row)
        reviews = [self._cut_review(review, cuts) for review, _ in drawn]
        data = {"title": title, "attributes": attributes or NOTHING, "reviews": reviews or NOTHING}
        steps = [
            _shorten_values("attributes", 200),
            _shorten_values("attributes", 50),
            _shorten_values("reviews", self.options.review_tokens // 2),
            _shorten_values("reviews", self.options.review_tokens // 4),
            _drop_longer("reviews", "attributes"),
        ]
        text = self._fit(template, data, steps, cuts)
        left = data["reviews"] if isinstance(data["reviews"], list) else []
        sources = tuple(source for _, source in drawn[: len(left)])
        nothing = title == NOTHING and not attributes and not drawn
        return Prompt(
            "item", row, self.items.id(row), template.system, text, sources, tuple(cuts), nothing=nothing
        )

    def user(self, row: int) -> Prompt:
        """The prompt of one user (Eq. 14).

        Raises:
            DataError: the builder was given no item profiles.
        """
        if self.item_profiles is None:
            raise DataError("users' prompts quote the items' profiles: write those first ('--items')")
        template = self.templates["user"]
        cuts: list[str] = []
        entries, ids, quoted = [], [], []
        for position in self._draw("user", row, self._by_user, self.options.items):
            item = int(self.train.items[position])
            profile = self.item_profiles[item]
            review = self._review(position)
            shown = NOTHING
            if profile:
                shown = cut_tokens(clean_text(profile), self.options.profile_tokens)
            entries.append(
                {
                    "title": self._titles[item],
                    "description": shown,
                    "review": self._cut_review(review, cuts) if review else NOTHING,
                }
            )
            ids.append(self._id(position))
            quoted.append(self.item_sources[item] if profile else ())
        nothing = all(entry[name] == NOTHING for entry in entries for name in entry)
        steps = [
            _shorten_each("review", self.options.review_tokens // 2),
            _shorten_each("review", self.options.review_tokens // 4),
            _shorten_each("description", self.options.profile_tokens // 2),
            _shorten_each("description", self.options.profile_tokens // 4),
            _drop_last(None, "items"),
            _shorten_each("review", 8),
            _shorten_each("description", 8),
        ]
        text = self._fit(template, entries, steps, cuts)
        return Prompt(
            "user", row, self.users.id(row), template.system, text, tuple(ids[: len(entries)]), tuple(cuts),
            tuple(sorted({source for some in quoted[: len(entries)] for source in some})), nothing,
        )  # fmt: skip

    # -- what goes in ----------------------------------------------------------------------------------

    @cached_property
    def _titles(self) -> list[str]:
        if self.item_texts is None or self._title_column is None:
            return [NOTHING] * len(self.items)
        return [clean_text(str(title or "")) or NOTHING for title in self.item_texts[self._title_column]]

    @cached_property
    def _fields(self) -> tuple[str, ...]:
        """What a template may call a field."""
        columns = [] if self.item_texts is None else self.item_texts.columns
        return tuple(dict.fromkeys(("title", "description", "attributes", "reviews", *columns)))

    @cached_property
    def _title_column(self) -> str | None:
        columns = [] if self.item_texts is None else self.item_texts.columns
        return next((name for name in TITLE_COLUMNS if name in columns), None)

    def _texts(self, row: int) -> tuple[str, str | None, dict[str, Any]]:
        """Title, description (None where there is none) and attributes of an item, cleaned."""
        found = {} if self.item_texts is None else self.item_texts.row(row, named=True)
        values = {name: _clean_value(value) for name, value in found.items() if name != self._title_column}
        values = {name: value for name, value in values.items() if value not in (None, "", [], {})}
        title = self._titles[row]
        description = values.pop("description", None)
        if isinstance(description, list):  # Amazon's later dumps hold a list of paragraphs
            description = " ".join(str(part) for part in description)
        return title, None if description is None else str(description), values

    @cached_property
    def _with_review(self) -> Callable[[int], IntArray]:
        reviews = self.train.review
        if reviews is None:
            return lambda row: np.empty(0, np.int64)  # noqa: ARG005
        told = np.fromiter((bool(r) and bool(str(r).strip()) for r in reviews), bool, len(reviews))
        return _groups(self.train.items, self.train.n_items, self._ids(), told)

    @cached_property
    def _by_user(self) -> Callable[[int], IntArray]:
        return _groups(self.train.users, self.train.n_users, self._ids(), None)

    def _draw(self, kind: str, row: int, group: Callable[[int], IntArray], most: int) -> IntArray:
        """At most ``most`` positions of a node's group, uniform without replacement, the same every time."""
        candidates = group(row)
        key = self.items.id(row) if kind == "item" else self.users.id(row)
        return node_rng(self.options.seed, kind, key).permutation(candidates)[:most]

    def _drawn_reviews(self, row: int) -> list[tuple[str, int]]:
        drawn = self._draw("item", row, self._with_review, self.options.reviews)
        return [(review, self._id(position)) for position in drawn if (review := self._review(position))]

    def _review(self, position: int) -> str | None:
        review = None if self.train.review is None else self.train.review[position]
        return None if review is None else clean_text(str(review)) or None

    def _cut_review(self, review: str, cuts: list[str]) -> str:
        short = cut_tokens(review, self.options.review_tokens)
        if short != review and "long reviews cut" not in cuts:
            cuts.append("long reviews cut")
        return short

    def _ids(self) -> IntArray:
        assert self.train.id is not None  # set by Interactions
        return self.train.id

    def _id(self, position: int) -> int:
        return int(self._ids()[position])

    # -- how much goes in ------------------------------------------------------------------------------

    def _fit(self, template: Template, data: Any, steps: list[_Step], cuts: list[str]) -> str:
        """The prompt around ``data``, which is cut in place, step by step, until it keeps to the budget."""
        room = self.options.tokens - estimate_tokens(template.system) - _MARGIN
        text = template.fill(data, self._fields)
        for step in [*steps, _shorten_titles]:
            while (over := estimate_tokens(text) - room) > 0:
                said = step(data, over)
                if said is None:
                    break
                if said not in cuts:
                    cuts.append(said)
                text = template.fill(data, self._fields)
        if estimate_tokens(text) > room:
            raise ConfigError(
                f"a budget of {self.options.tokens} tokens does not hold {template.name} with a title alone"
            )
        return text


def node_rng(seed: int, kind: str, key: RawId) -> np.random.Generator:
    """A generator of its own for one user or item: the order of rows and other nodes do not matter."""
    digest = hashlib.sha256(json.dumps([kind, key]).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def estimate_tokens(text: str) -> int:
    """Tokens of ``text``, without a tokenizer: a quarter per ASCII character, one per any other.

    Within about 15 % for English and on the safe side elsewhere; budgets and dry runs use it, bills come
    from the server's own count.

    Example:
        >>> estimate_tokens("a book about a library"), estimate_tokens("本")
        (6, 1)
    """
    ascii_ = len(text) if text.isascii() else sum(char < "\x80" for char in text)
    return math.ceil(ascii_ / 4) + len(text) - ascii_


def cut_tokens(text: str, tokens: int) -> str:
    """The beginning of ``text`` within an estimated number of tokens, cut between words, ending in " …"."""
    if estimate_tokens(text) <= tokens:
        return text
    low, high = 0, min(len(text), 4 * tokens)
    while low < high:  # the longest beginning that fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if estimate_tokens(text[:middle]) <= tokens - 2 else (low, middle - 1)
    start = text[:low]
    return (start.rsplit(" ", 1)[0] if " " in start else start).rstrip() + " …"


_STRUCTURE = re.compile(r"[<>{}`\u2028\u2029]|\[(?=/?INST)")


def to_json(value: Any) -> str:
    """JSON whose strings hold no character that a template or a chat format could take for its own.

    Angle brackets (<|im_end|>, </s>, <think>), braces within strings ({{ }}), backticks (fences) and
    Mistral's [INST] are written as \\\\u escapes: the same JSON to a parser, no structure to anything else.

    Example:
        >>> to_json({"review": "Fine.</s> ```"})
        '{"review": "Fine.\\\\u003c/s\\\\u003e \\\\u0060\\\\u0060\\\\u0060"}'
    """
    if isinstance(value, str):
        return _STRUCTURE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))
    if isinstance(value, Mapping):
        return (
            "{" + ", ".join(f"{to_json(str(name))}: {to_json(entry)}" for name, entry in value.items()) + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(to_json(entry) for entry in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return to_json(NOTHING)
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return to_json(str(value))


def clean_text(text: str) -> str:
    """One line of visible text: no control or direction marks, no half characters, single spaces.

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
    """Positions by row, in the order of their ids, so that a reordered file draws the same sample."""
    usable = ids >= 0  # -1: added as noise, in no source, so nothing could prove where it came from
    if keep is not None:
        usable &= keep
    positions = np.flatnonzero(usable)
    positions = positions[np.lexsort((ids[positions], of[positions]))]
    ends = np.concatenate([[0], np.cumsum(np.bincount(of[positions], minlength=size))])
    return lambda row: positions[ends[row] : ends[row + 1]]


# A step cuts something from the data, which is over the budget by so many tokens, and says what in words;
# None when it has nothing left to cut.
_Step = Callable[[Any, int], str | None]


def _shorten(name: str, words: str) -> _Step:
    def step(data: Any, over: int) -> str | None:
        size = estimate_tokens(data[name])
        short = cut_tokens(data[name], max(8, size - over - 4))
        if short == data[name] or estimate_tokens(short) >= size:
            return None
        data[name] = short
        return f"{words} cut"

    return step


def _shorten_each(name: str, tokens: int) -> _Step:
    def step(data: Any, over: int) -> str | None:  # noqa: ARG001
        changed = False
        for entry in data:
            short = cut_tokens(entry[name], max(8, tokens))
            changed |= estimate_tokens(short) < estimate_tokens(entry[name])
            entry[name] = short
        return f"{name}s shortened" if changed else None

    return step


def _shorten_values(name: str, tokens: int) -> _Step:
    """Shorten every long value, so that one of them does not cost all the others."""

    def step(data: Any, over: int) -> str | None:  # noqa: ARG001
        values = data[name]
        if values == NOTHING:
            return None
        changed = False
        for key in values if isinstance(values, dict) else range(len(values)):
            short = _cut_value(values[key], max(8, tokens))
            changed |= estimate_tokens(to_json(short)) < estimate_tokens(to_json(values[key]))
            values[key] = short
        return f"{name} shortened" if changed else None

    return step


def _cut_value(value: Any, tokens: int) -> Any:
    """The beginning of a JSON value: of a text its first words, of a list or mapping its first entries."""
    if isinstance(value, str):
        return cut_tokens(value, tokens)
    if not isinstance(value, list | dict):
        return value
    entries = list(value.items()) if isinstance(value, dict) else [(None, entry) for entry in value]
    kept: list[tuple[Any, Any]] = []
    for name, entry in entries:
        short = _cut_value(entry, tokens)
        tokens -= estimate_tokens(to_json(short)) + estimate_tokens(to_json(name))
        if tokens < 0 and kept:
            break
        kept.append((name, short))
    return dict(kept) if isinstance(value, dict) else [entry for _, entry in kept]


def _drop_longer(*names: str) -> _Step:
    """Drop the last entry of what is longest, so that none has to give all its room to another."""
    drops = {name: _drop_last(name, name) for name in names}

    def step(data: Any, over: int) -> str | None:
        left = [name for name in names if data[name] != NOTHING]
        if not left:
            return None
        return drops[max(left, key=lambda name: estimate_tokens(to_json(data[name])))](data, over)

    return step


def _drop_last(name: str | None, words: str) -> _Step:
    """Drop the last entry: of a random sample, so that what is left is one too."""

    def step(data: Any, over: int) -> str | None:  # noqa: ARG001
        entries = data if name is None else data[name]
        if entries == NOTHING or len(entries) <= (1 if name is None else 0):
            return None
        if isinstance(entries, dict):
            entries.popitem()
        else:
            entries.pop()
        if name is not None and not entries:
            data[name] = NOTHING
        return f"{words} dropped"

    return step


def _shorten_titles(data: Any, over: int) -> str | None:  # noqa: ARG001
    changed = False
    for entry in data if isinstance(data, list) else [data]:
        short = cut_tokens(entry["title"], 30)
        changed |= estimate_tokens(short) < estimate_tokens(entry["title"])
        entry["title"] = short
    return "titles cut" if changed else None
