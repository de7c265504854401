"""Parsing of answers: repairs them where the meaning is clear, and says what is wrong otherwise."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from rlmrec.errors import RlmrecError

# Sent to servers that can enforce a schema.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"summarization": {"type": "string"}, "reasoning": {"type": "string"}},
    "required": ["summarization", "reasoning"],
    "additionalProperties": False,
}
WORDS = {"item": 200, "user": 100}  # most words of a summarization (Appendix A.2)
# Models count words badly: up to this many times the limit a text is truncated, beyond that it is rejected.
FAR_TOO_LONG = 2.0

_FENCE = re.compile(r"```[a-zA-Z]*\s*\n?(.*?)(?:```|\Z)", re.DOTALL)
_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_DOUBLED = re.compile(r"""\w\s*(?:""|'')|(?:""|'')\s*\w""")
_NONE = {"", "none", "null", "n/a", "na", "unknown"}
_NONE_AND_WHY = re.compile(r"\W*(?:none|null|n/a)\s*(?:[.,;:(!]|\s[-–—]).*", re.IGNORECASE | re.DOTALL)
# The placeholder in the form that the prompts show, see profiles/templates.
_FORM = re.compile(
    r"which types of [\w ]+ (?:would enjoy this|this \w+ is likely to enjoy)[\w .]*", re.IGNORECASE
)
# Chinese and Japanese put no spaces between words: a character counts as one, with the punctuation after it.
# For other scripts without spaces (Thai, Khmer), 25 characters count as a word.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CJK}][、。！？，；：）」』…]*|[^\s{_CJK}]{{1,25}}")
_ALIASES = {"summary": "summarization", "summarisation": "summarization", "reason": "reasoning"}


class AnswerError(RlmrecError):
    """An answer without a usable profile.

    Args:
        kind: "empty", "malformed", "truncated", "keys", "form", "too long" or "none".
        message: what the answer is instead.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Parsed(NamedTuple):
    """A profile's texts, and notes about repairs."""

    summarization: str
    reasoning: str | None
    notes: tuple[str, ...] = ()


def parse(text: str, words: int, *, finish: str = "stop", last_try: bool = False) -> Parsed:
    """Extract {"summarization": …, "reasoning": …} from an answer.

    Repaired, with a note: thoughts, fences or prose around the JSON, Python quotes, keys in another case or
    spelling, a list instead of a text, raw line breaks, bytes that are not UTF-8, quotes inside a text without a
    backslash where the text's end is clear, JSON truncated after the summarization's end, and a summarization over the limit, which is truncated at the end of a sentence. Of
    several objects the last one counts: those before it are drafts, or the form from the prompt.

    Args:
        text: the answer.
        words: most words of the summarization; a Chinese or Japanese character is one.
        finish: "length" if the limit on tokens truncated the answer.
        last_try: truncate even a summarization of more than twice the limit instead of rejecting it.

    Raises:
        AnswerError: nothing usable; its ``kind`` is "none" if the model answers that it cannot tell.

    Example:
        >>> parse('Sure! ```json\\n{"Summarization": "Fans of noir.", "reasoning": "Dark."}\\n```', 200)
        Parsed(summarization='Fans of noir.', reasoning='Dark.', notes=('fences or text around the JSON', 'key in another spelling'))
    """  # noqa: E501
    notes: list[str] = []
    clean = text.removeprefix("\ufeff").replace("\x00", "")
    if "\ufffd" in clean:
        clean = clean.replace("\ufffd", "")
        notes.append("bytes that were no UTF-8")
    without = clean.strip()
    found = None
    if 0 <= without.find("{") < without.find("<think>"):  # the tag may be part of a text in the JSON
        found = _find_object(without, notes, known=True)
    if found is None:
        without = _THOUGHTS.sub("", clean).strip()
        if without != clean.strip():
            notes.append("thoughts before the answer")
        if not without:
            raise AnswerError("empty", "the answer is empty")
        found = _find_object(without, notes)
    if found is None and (found := _with_quotes(without)) is not None:
        notes.append("quotes inside a text without a backslash")
    if found is None:
        found = _cut_off(without)
        if found is None:
            cut = finish == "length" or (_opens_profile(without) and not without.endswith("}"))
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
        raise AnswerError("keys", f"the summarization is not a text: {_short(fields['summarization'])}")
    if _FORM.fullmatch(summarization):
        raise AnswerError("form", "the answer repeats the form that was to be filled in")
    if summarization.strip(" .\"'").lower() in _NONE or _NONE_AND_WHY.fullmatch(summarization):
        raise AnswerError("none", "the model could not tell (it answered None)")
    count = count_words(summarization)
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


def count_words(text: str) -> int:
    """Return the number of words of a text; a Chinese or Japanese character is one."""
    return len(_WORD.findall(text))


def cut_words(text: str, words: int) -> str:
    """Truncate ``text`` to ``words`` words, at the end of a sentence if that keeps at least half of them.

    Example:
        >>> cut_words("Fans of noir. Also those who like long walks in the rain", 6)
        'Fans of noir.'
    """
    line = " ".join(text.split())
    ends = [match.end() for match in _WORD.finditer(line)]
    if len(ends) <= words:
        return text
    for last in range(words, max(1, words // 2) - 1, -1):
        kept = line[: ends[last - 1]]
        whole = ends[last] - ends[last - 1] > 1 or kept.endswith(("。", "！", "？"))  # not the dot of 3.5
        if whole and kept.rstrip("\"')）」』").endswith((".", "!", "?", "。", "！", "？")):
            return kept
    return line[: ends[words - 1]] + " …"


def _find_object(text: str, notes: list[str], known: bool = False) -> dict[str, Any] | None:
    """Return the last JSON object with a summarization, rather than the form; else one with another known key.

    Without either, return the first object, or None if ``known`` is true.
    """
    best: dict[str, Any] | None = None
    best_rank, best_notes = -1, list[str]()
    for candidate, whole in _candidates(text):
        for value, added in _objects(candidate, whole):
            rank = _rank(value)
            if rank > best_rank or (rank == best_rank and rank > 0):
                best, best_rank, best_notes = value, rank, added
        if best_rank > 1:
            break
    if known and best_rank < 1:
        return None
    notes.extend(best_notes)
    return best


def _rank(value: dict[str, Any]) -> int:
    """Return how well an object fits: 3 has a summarization, 2 the form's, 1 another known key, 0 none."""
    keys = {_key(key): key for key in value}
    if "summarization" in keys:
        text = value[keys["summarization"]]
        is_form = isinstance(text, str) and (_FORM.fullmatch(text) or not text.strip(" .…"))
        return 2 if is_form else 3
    return int("reasoning" in keys)


def _objects(text: str, whole: bool) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Yield each object in a text, with notes about repairs."""
    # Not strict: raw line breaks inside strings are common and harmless.
    decoder = json.JSONDecoder(strict=False, object_pairs_hook=_longest)
    after = 0  # the end of the last object that fits: braces inside it belong to it
    for start in _braces(text):
        if start < after:
            continue
        added = []
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            value = _python_literal(text[start:])
            end = len(text)
            added.append("Python quotes instead of JSON's")
        if not isinstance(value, dict):
            continue
        if _rank(value) > 0:
            after = end
        if not whole or text[:start].strip() or text[end:].strip():
            added.insert(0, "fences or text around the JSON")
        yield value, added


def _longest(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs; of texts under one key the longest counts."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        before = found.get(key)
        if not (isinstance(before, str) and isinstance(value, str) and len(before) > len(value)):
            found[key] = value
    return found


def _candidates(text: str) -> Iterator[tuple[str, bool]]:
    """Yield (text to search, whether it is the whole answer)."""
    yield text, True
    if not text.startswith("{"):
        yield from ((match.group(1), False) for match in _FENCE.finditer(text))


def _braces(text: str, most: int = 20) -> list[int]:
    """Return positions of the first and the last opening braces; bounded, as each one takes a try."""
    found = [match.start() for match in re.finditer("{", text)]
    return found if len(found) <= 2 * most else found[:most] + found[-most:]


def _python_literal(text: str) -> Any:
    text = text[: text.rfind("}") + 1]
    if not text or len(text) > 20_000:
        return None
    if _DOUBLED.search(text):  # Python would join the parts and drop the quotes between them
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _opens_profile(text: str) -> bool:
    return re.search(r"\{\s*\"?\w*\Z|\{\s*\"summari[sz]ation\"", text) is not None


_NAME = r"(?P<key>summari[sz]ation|summary|reason(?:ing)?)"


def _with_quotes(text: str) -> dict[str, Any] | None:
    """Read an object whose texts hold quotes without a backslash, where the end of each text is clear.

    The ends of the texts are found from the keys: a text ends before the next key or at the object's end. None
    unless there are one or two distinct keys, each once, and the last text ends at the end of the object.
    """
    found: dict[str, Any] = {}
    opening = re.compile(rf"""(?P<lead>[{{,])\s*(?P<q>["'])(?i:{_NAME})(?P=q)\s*:\s*(?P<open>["'])""")
    keys = list(opening.finditer(text))
    if not keys or keys[0]["lead"] != "{" or any(key["lead"] == "{" for key in keys[1:]):
        return None
    for key, following in zip(keys, [*keys[1:], None], strict=True):
        rest = text[key.end() : len(text) if following is None else following.start()].rstrip()
        if following is None:
            rest, brace, after = rest.rpartition("}")
            if not brace or '"' in after:
                return None
            rest = rest.rstrip()
        name = _key(key["key"])
        if not rest.endswith(key["open"]) or rest.endswith("\\" + key["open"]) or name in found:
            return None
        found[name] = _unquoted(rest[:-1], key["open"])
    return found if "summarization" in found and None not in found.values() else None


def _cut_off(text: str) -> dict[str, Any] | None:
    """Return the summarization of a truncated object, if the summarization itself is complete.

    It is if the next key follows, or if the answer ends with its closing quote, after the end of a sentence.
    """
    opening = re.search(rf"""\{{\s*"(?i:{_NAME})"\s*:\s*\"""", text)
    if opening is None or _key(opening["key"]) != "summarization":
        return None
    rest = text[opening.end() :].rstrip()
    ends = [match.start() for match in re.finditer(r'"\s*,\s*"(?i:reason(?:ing)?)"\s*:', rest)]
    if len(ends) == 1:
        told = _unquoted(rest[: ends[0]], '"')
    elif not ends and re.search(r"""[.!?…。！？][)'”’]*"\s*,?\Z""", rest):
        told = _unquoted(rest.rstrip(" ,\n")[:-1], '"')
    else:
        return None
    return None if told is None else {"summarization": told}


def _unquoted(text: str, quote: str) -> str | None:
    """Return the value of a JSON text without its outer quotes; inner quotes need no backslash."""
    if quote == "'":
        text = text.replace("\\'", "'")
    escaped = re.sub(r'\\.|"', lambda found: found[0] if len(found[0]) > 1 else '\\"', text, flags=re.DOTALL)
    try:
        value = json.loads(f'"{escaped}"', strict=False)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _key(key: Any) -> str:
    name = str(key).strip().lower()
    return _ALIASES.get(name, name)


def _fields(found: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    if len(found) == 1 and isinstance(inner := next(iter(found.values())), dict):
        found = inner  # {"answer": {"summarization": …}}
    fields = {_key(key): value for key, value in found.items()}
    fields |= {key: value for key, value in found.items() if key in SCHEMA["properties"]}  # not an alias
    if any(key not in found for key in SCHEMA["properties"] if key in fields):
        notes.append("key in another spelling")
    return fields


def _text(value: Any, notes: list[str]) -> str | None:
    """Return a field's text on one line; "None" for null; None if it is not a text."""
    if value is None:
        return "None"
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        notes.append("list instead of a text")
        value = " ".join(value)
    return " ".join(value.split()) if isinstance(value, str) else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "…'"
