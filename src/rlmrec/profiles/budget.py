"""Budget: how long a prompt is in tokens, and how its data are shortened to fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

from rlmrec.errors import ConfigError
from rlmrec.profiles.template import NOTHING, Template, to_json

CHAT_TOKENS = 16  # that a chat format adds around the two messages


def estimate_tokens(text: str) -> int:
    """Estimate the number of tokens of ``text``: a quarter per ASCII character, one per any other.

    Within about 15 % for English and too high rather than too low elsewhere. Budgets and dry runs use it; bills
    use the server's own count.

    Example:
        >>> estimate_tokens("a book about a library"), estimate_tokens("本")
        (6, 1)
    """
    ascii_ = len(text) if text.isascii() else sum(char < "\x80" for char in text)
    return math.ceil(ascii_ / 4) + len(text) - ascii_


def truncate_tokens(text: str, tokens: int) -> str:
    """Return the longest beginning of ``text`` of at most ``tokens`` estimated tokens.

    It ends between words, in " …"; a text that is short enough is returned as it is.
    """
    if estimate_tokens(text) <= tokens:
        return text
    low, high = 0, min(len(text), 4 * tokens)
    while low < high:  # the longest beginning that fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if estimate_tokens(text[:middle]) <= tokens - 2 else (low, middle - 1)
    start = text[:low]
    return (start.rsplit(" ", 1)[0] if " " in start else start).rstrip() + " …"


def fit_budget(
    template: Template, data: Any, fields: Collection[str], tokens: int, steps: list[Step]
) -> tuple[str, list[str]]:
    """Fill a template with data, which are shortened in place, step by step, until the prompt keeps to the budget.

    Args:
        template: the prompt's template.
        data: a mapping for an item, a list for a user.
        fields: names of the fields that items may have.
        tokens: the budget of system prompt and prompt together.
        steps: ways to shorten the data, the least harmful first.

    Returns:
        the prompt, and the notes of the steps that shortened something.

    Raises:
        ConfigError: even shortened titles alone exceed the budget.
    """
    notes: list[str] = []
    room = tokens - estimate_tokens(template.system) - CHAT_TOKENS
    text = template.fill(data, fields)
    for step in [*steps, shorten_titles]:
        while (over := estimate_tokens(text) - room) > 0:
            note = step(data, over)
            if note is None:
                break
            if note not in notes:
                notes.append(note)
            text = template.fill(data, fields)
    if estimate_tokens(text) > room:
        raise ConfigError(f"a budget of {tokens} tokens does not hold {template.name} with a title alone")
    return text, notes


# A step shortens the data in place, given by how many tokens they exceed the budget, and returns a note about
# it; None if it cannot shorten them further. The notes are stored with profiles: do not change their words.
Step = Callable[[Any, int], str | None]


def shorten(name: str, words: str) -> Step:
    """Return a step that shortens one text to what the others leave of the budget."""

    def step(data: Any, over: int) -> str | None:
        size = estimate_tokens(data[name])
        short = truncate_tokens(data[name], max(8, size - over - 4))
        if short == data[name] or estimate_tokens(short) >= size:
            return None
        data[name] = short
        return f"{words} cut"

    return step


def shorten_each(name: str, tokens: int) -> Step:
    """Return a step that shortens the text ``name`` of every entry to ``tokens``."""

    def step(data: Any, over: int) -> str | None:  # noqa: ARG001
        changed = False
        for entry in data:
            short = truncate_tokens(entry[name], max(8, tokens))
            changed |= estimate_tokens(short) < estimate_tokens(entry[name])
            entry[name] = short
        return f"{name}s shortened" if changed else None

    return step


def shorten_values(name: str, tokens: int) -> Step:
    """Return a step that shortens every long value, so that one of them does not displace all the others."""

    def step(data: Any, over: int) -> str | None:  # noqa: ARG001
        values = data[name]
        if values == NOTHING:
            return None
        changed = False
        for key in values if isinstance(values, dict) else range(len(values)):
            short = _truncate_value(values[key], max(8, tokens))
            changed |= estimate_tokens(to_json(short)) < estimate_tokens(to_json(values[key]))
            values[key] = short
        return f"{name} shortened" if changed else None

    return step


def _truncate_value(value: Any, tokens: int) -> Any:
    """Return the beginning of a JSON value: the first words of a text, the first entries of a list or mapping."""
    if isinstance(value, str):
        return truncate_tokens(value, tokens)
    if not isinstance(value, list | dict):
        return value
    entries = list(value.items()) if isinstance(value, dict) else [(None, entry) for entry in value]
    kept: list[tuple[Any, Any]] = []
    for name, entry in entries:
        short = _truncate_value(entry, tokens)
        tokens -= estimate_tokens(to_json(short)) + estimate_tokens(to_json(name))
        if tokens < 0 and kept:
            break
        kept.append((name, short))
    return dict(kept) if isinstance(value, dict) else [entry for _, entry in kept]


def drop_longer(*names: str) -> Step:
    """Return a step that drops the last entry of the longest field, so that no field displaces another."""
    drops = {name: drop_last(name, name) for name in names}

    def step(data: Any, over: int) -> str | None:
        left = [name for name in names if data[name] != NOTHING]
        if not left:
            return None
        return drops[max(left, key=lambda name: estimate_tokens(to_json(data[name])))](data, over)

    return step


def drop_last(name: str | None, words: str) -> Step:
    """Return a step that drops the last entry. The entries are a random sample, and so are those that stay."""

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


def shorten_titles(data: Any, over: int) -> str | None:  # noqa: ARG001
    """Shorten the titles; the last resort, so a step of every prompt."""
    changed = False
    for entry in data if isinstance(data, list) else [data]:
        short = truncate_tokens(entry["title"], 30)
        changed |= estimate_tokens(short) < estimate_tokens(entry["title"])
        entry["title"] = short
    return "titles cut" if changed else None
