"""Template: prompt files, and the JSON that is filled into them.

Titles, descriptions and reviews are data. They enter as JSON strings with every character escaped that a
template, a chat format or a code fence could interpret, and never pass through the template engine as source.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import jinja2.sandbox

from rlmrec.errors import ConfigError
from rlmrec.profiles import DOMAINS
from rlmrec.profiles.parse import WORDS

KINDS = ("item", "user")
NOTHING = "None"  # the word for a missing value, as the system prompt explains
_FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Template:
    """A prompt file: a part "# System" and a part "# Prompt", both Jinja templates.

    The parts are separated before anything is filled in. ``{{ words }}`` is the limit of words. The prompt may
    use ``{{ data }}`` (all of the node's data as one JSON value) and, for items, ``{{ fields.title }}``,
    description, attributes, reviews and each attribute by the name of its column (one entry of the data, as a
    JSON value, "None" where the item has none). The system prompt gets no data.

    Args:
        kind: "item" or "user".
        source: the file's text.
        name: the name in error messages, mostly the file's path.

    Raises:
        ConfigError: a part is missing, the prompt uses no data, or Jinja cannot parse or render it.

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
        """Return the prompt with ``data`` filled in, a JSON value whose strings may hold anything.

        Args:
            data: a mapping for an item, a list for a user.
            known: names of the fields that items may have; None allows any.

        Raises:
            ConfigError: the template uses an unknown name, or fails otherwise.
        """
        fields = _Fields(data, known) if isinstance(data, dict) else _Fields({}, ())
        return self._render(self._parts[1], {"data": to_json(data), "fields": fields})

    def _render(self, part: jinja2.Template, variables: dict[str, Any]) -> str:
        try:
            return part.render(words=WORDS[self.kind], **variables)
        except _UnknownFieldError as error:
            raise ConfigError(f"{self.name}: {error}") from None
        except Exception as error:  # a template is the user's program: it may raise anything
            raise ConfigError(
                f"{self.name}: {_line(error)}; known are words, and in the part '# Prompt' data and fields"
            ) from None


class _UnknownFieldError(Exception):
    """A template uses a field that no item can have."""


class _Fields:
    """The fields of an item as JSON, its attributes by their names; ``NOTHING`` for those it lacks.

    Not a mapping: ``fields.values`` must be the field of that name, not a method.
    """

    def __init__(self, data: Mapping[str, Any], known: Collection[str] | None) -> None:
        attributes = data.get("attributes")
        self._entries = {**(attributes if isinstance(attributes, dict) else {}), **data}
        self._known = known

    def __getitem__(self, name: object) -> str:
        if name not in self._entries and self._known is not None and name not in self._known:
            listed = ", ".join(self._known) or "none, use {{ data }}"
            raise _UnknownFieldError(f"there is no field {name!r}; known fields: {listed}")
        return to_json(self._entries.get(str(name), NOTHING))

    def __getattr__(self, name: str) -> str:
        if name.startswith("_"):  # Python's own protocols, such as copying
            raise AttributeError(name)
        return self[name]

    def __str__(self) -> str:
        raise _UnknownFieldError("fields is not a text: name one of them, such as {{ fields.title }}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def load_template(
    kind: str, domain: str = "general", *, folder: Path | None = None, small: bool = False
) -> Template:
    """Load the template of a kind of node.

    Args:
        kind: "item" or "user".
        domain: "general", "books", "businesses", "games" or "movies".
        folder: your own folder with item.md or user.md; if one is missing, the domain's is used.
        small: use the shorter prompt with written-out examples that small models need.

    Raises:
        ConfigError: an unknown kind or domain, a folder with neither file, or a file that is not UTF-8.
    """
    if kind not in KINDS or domain not in DOMAINS:
        raise ConfigError(
            f"no prompt for {kind!r} of domain {domain!r}: expected one of {', '.join(KINDS)} and one of "
            f"{', '.join(DOMAINS)}; for another domain write your own prompts (--prompts FOLDER)"
        )
    if folder is not None:
        folder = Path(folder)
        if not any((folder / f"{name}.md").is_file() for name in KINDS):
            raise ConfigError(f"{folder} holds neither item.md nor user.md")
        own = folder / f"{kind}.md"
        if own.is_file():
            try:
                # Some editors put a byte order mark in front.
                return Template(kind, own.read_text(encoding="utf-8-sig"), str(own))
            except UnicodeDecodeError as error:
                raise ConfigError(f"{own} is not UTF-8 ({error}): save it as UTF-8") from None
    names = [f"{domain}/{kind}.md"]
    if small:
        names = [f"{domain}/{kind}.small.md", f"general/{kind}.small.md"]
    path = next(_FOLDER / name for name in names if (_FOLDER / name).is_file())
    return Template(kind, path.read_text(encoding="utf-8"), str(path))


_QUOTE = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make an encoder for each text
_STRUCTURE = re.compile(r"[<>{}`\u2028\u2029]|\[(?=/?INST)")


def to_json(value: Any) -> str:
    """Return JSON whose strings hold no character that has a meaning in a template or a chat format.

    Angle brackets (<|im_end|>, </s>, <think>), braces within strings ({{ }}), backticks (fences) and
    Mistral's [INST] are written as \\\\u escapes: the same JSON to a parser, no markup to anything else.

    Example:
        >>> to_json({"review": "Fine.</s> ```"})
        '{"review": "Fine.\\\\u003c/s\\\\u003e \\\\u0060\\\\u0060\\\\u0060"}'
    """
    if isinstance(value, str):
        return _STRUCTURE.sub(lambda match: f"\\u{ord(match[0]):04x}", _QUOTE(value))
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
