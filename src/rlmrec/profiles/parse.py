"""From what a model wrote to a profile: repair what is meant unmistakably, name what is wrong otherwise."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from rlmrec.errors import RlmrecError

# What is asked of the server where it can hold the model to it.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"summarization": {"type": "string"}, "reasoning": {"type": "string"}},
    "required": ["summarization", "reasoning"],
    "additionalProperties": False,
}
WORDS = {"item": 200, "user": 100}  # most words of a summarization (Appendix A.2)
# Models count words badly: up to this many times the limit a text is cut, beyond it was not to the point.
FAR_TOO_LONG = 2.0

_FENCE = re.compile(r"```[a-zA-Z]*\s*\n?(.*?)(?:```|\Z)", re.DOTALL)
_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_NONE = {"", "none", "null", "n/a", "na", "unknown"}
_ALIASES = {"summary": "summarization", "summarisation": "summarization", "reason": "reasoning"}


class AnswerError(RlmrecError):
    """An answer that holds no usable profile.

    Args:
        kind: "empty", "malformed", "truncated", "keys", "too long" or "none".
        message: what was got instead.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Parsed(NamedTuple):
    """A profile's texts and, in words, what had to be repaired."""

    summarization: str
    reasoning: str | None
    notes: tuple[str, ...] = ()


def parse(text: str, words: int, *, finish: str = "stop", last_try: bool = False) -> Parsed:
    """Read {"summarization": …, "reasoning": …} out of an answer.

    Repaired and noted: thoughts, fences or prose around the JSON, Python quotes, keys in another case or
    spelling, a list where a text was asked for, raw line breaks, bytes that were no UTF-8, JSON cut off
    after the summarization's end, and a summarization over the limit, which is cut at a sentence's end.

    Args:
        text: the answer.
        words: most words of the summarization.
        finish: "length" when the limit on tokens cut the answer off.
        last_try: cut even a summarization of more than twice the limit rather than give it up.

    Raises:
        AnswerError: nothing usable; ``kind`` "none" when the model says that it cannot tell.

    Example:
        >>> parse('Sure! ```json\\n{"Summarization": "Fans of noir.", "reasoning": "Dark."}\\n```', 200)
        Parsed(summarization='Fans of noir.', reasoning='Dark.', notes=('fences or text around the JSON', 'key in another spelling'))
    """  # noqa: E501
    notes: list[str] = []
    clean = text.removeprefix("\ufeff").replace("\x00", "")
    if "\ufffd" in clean:
        clean = clean.replace("\ufffd", "")
        notes.append("bytes that were no UTF-8")
    without = _THOUGHTS.sub("", clean).strip()
    if without != clean.strip():
        notes.append("thoughts before the answer")
    if not without:
        raise AnswerError("empty", "the answer is empty")
    found = _find_object(without, notes)
    if found is None:
        found = _cut_off(without)
        if found is None:
            cut = finish == "length" or _opens_profile(without)
            raise AnswerError(
                "truncated" if cut else "malformed",
                "the answer was cut off before the summarization's end"
                if cut
                else f"the answer holds no JSON object: {_short(without)}",
            )
        notes.append("JSON cut off after the summarization")
    fields = _fields(found, notes)
    if "summarization" not in fields:
        raise AnswerError(
            "keys", f'expected the keys "summarization" and "reasoning", got {_short(list(found))}'
        )
    summarization = _text(fields["summarization"], notes)
    reasoning = _text(fields.get("reasoning"), [])
    if summarization is None:
        raise AnswerError("keys", f"the summarization is no text: {_short(fields['summarization'])}")
    if summarization.strip(" .\"'").lower() in _NONE:
        raise AnswerError("none", "the model could not tell (it answered None)")
    count = len(summarization.split())
    if count > words:
        if count > FAR_TOO_LONG * words and not last_try:
            raise AnswerError(
                "too long", f"the summarization has {count} words, at most {words} were asked for"
            )
        summarization = cut_words(summarization, words)
        notes.append("over-long summarization cut")
    if reasoning is not None and reasoning.strip(" .\"'").lower() in _NONE:
        reasoning = None
    return Parsed(summarization, reasoning, tuple(notes))


def cut_words(text: str, words: int) -> str:
    """The first ``words`` words of ``text``, back to the end of a sentence where that keeps half of them.

    Example:
        >>> cut_words("Fans of noir. Also those who like long walks in the rain", 6)
        'Fans of noir.'
    """
    kept = text.split()
    if len(kept) <= words:
        return text
    kept = kept[:words]
    for last in range(len(kept), len(kept) // 2 - 1, -1):
        if last and kept[last - 1].rstrip("\"')").endswith((".", "!", "?")):
            return " ".join(kept[:last])
    return " ".join(kept) + " …"


def _find_object(text: str, notes: list[str]) -> dict[str, Any] | None:
    """The first JSON object with a key that we know, else the first object at all."""
    decoder = json.JSONDecoder(strict=False)  # raw line breaks inside strings are common and harmless
    first: dict[str, Any] | None = None
    first_notes: list[str] = []
    for candidate, whole in _candidates(text):
        for start in _braces(candidate):
            added = []
            try:
                value, end = decoder.raw_decode(candidate, start)
            except (ValueError, RecursionError):
                value = _python_literal(candidate[start:])
                end = len(candidate)
                added.append("Python quotes instead of JSON's")
            if not isinstance(value, dict):
                continue
            if not whole or candidate[:start].strip() or candidate[end:].strip():
                added.append("fences or text around the JSON")
            if any(_key(key) in SCHEMA["properties"] for key in value):
                notes.extend(reversed(added))
                return value
            if first is None:
                first, first_notes = value, added
    notes.extend(first_notes)
    return first


def _candidates(text: str) -> Iterator[tuple[str, bool]]:
    """(where to look, whether it is the whole answer)."""
    if not text.startswith("{"):
        yield from ((match.group(1), False) for match in _FENCE.finditer(text))
    yield text, True


def _braces(text: str, most: int = 20) -> Iterator[int]:
    """Positions of opening braces; bounded, since each one costs a try."""
    start = -1
    for _ in range(most):
        start = text.find("{", start + 1)
        if start < 0:
            return
        yield start


def _python_literal(text: str) -> Any:
    text = text[: text.rfind("}") + 1]
    if not text or len(text) > 20_000:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _opens_profile(text: str) -> bool:
    return re.search(r"\{\s*\"?\w*\Z|\{\s*\"summari[sz]ation\"", text) is not None


def _cut_off(text: str) -> dict[str, Any] | None:
    """The summarization of an object that ends too early, if its own end is there."""
    match = re.search(r'"summari[sz]ation"\s*:\s*("(?:[^"\\]|\\.)*")', text, re.DOTALL)
    if match is None:
        return None
    try:
        return {"summarization": json.loads(match.group(1), strict=False)}
    except ValueError:
        return None


def _key(key: Any) -> str:
    name = str(key).strip().lower()
    return _ALIASES.get(name, name)


def _fields(found: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    if len(found) == 1 and isinstance(inner := next(iter(found.values())), dict):
        found = inner  # {"answer": {"summarization": …}}
    fields = {_key(key): value for key, value in found.items()}
    if any(key not in found for key in SCHEMA["properties"] if key in fields):
        notes.append("key in another spelling")
    return fields


def _text(value: Any, notes: list[str]) -> str | None:
    """A field's text on one line; "None" for null; None when it is no text."""
    if value is None:
        return "None"
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        notes.append("list instead of a text")
        value = " ".join(value)
    return " ".join(value.split()) if isinstance(value, str) else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "…'"
