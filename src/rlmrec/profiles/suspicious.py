"""Suspicious profiles: texts that may be less than what the model wrote, or no profile at all."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable

from rlmrec.findings import Finding
from rlmrec.llm.store import Profile, Store
from rlmrec.profiles.parse import WORDS, AnswerError, count_words, parse

SHORT = 0.25  # share of the usual number of words below which a profile is suspicious
FEWEST = 10  # profiles of a kind from which there is a usual number of words
# A text is complete if it ends with one of these marks, perhaps in quotes or brackets.
_CLOSED = re.compile(r"[.!?…。！？؟।]\W*$")
_NOTHING = re.compile(
    r"\W*(?:none|null|nan|n/?a|unknown|undefined|nothing)\b(?!-)|i(?:'m| am) (?:sorry|unable)|as an ai\b"
    r"|.*\b(?:not enough|insufficient|no (?:further |other )?)\s*(?:information|details|data|context)\b"
    r"|.*\b(?:cannot|can't|can not|could not|couldn't|unable to|impossible to|not possible to)"
    r"\s+(?:be\s+|reliably\s+)?(?:determined?|tell|told|infer|inferred|summari[sz]e|say|said|judge|identify)\b",
    re.IGNORECASE | re.DOTALL,
)


def suspicious(store: Store, profiles: Iterable[Profile]) -> list[Finding]:
    """Find profiles that should be looked at: one finding for each sign, with a count and an example.

    The signs: no mark at the end although the model stopped by itself; at most a quarter of the usual number of
    words; words that say that there is nothing to say; and a text that is not what the stored answer says, as
    earlier versions of rlmrec read some answers wrongly.

    Args:
        store: the store, for the answers.
        profiles: profiles of one kind, failed ones included.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "profiles.sqlite") as store:
        ...     print(*suspicious(store, [Profile("item", 7, "Fans of the", None, "")]))
        1 item profiles end without a mark of punctuation, for example 'Fans of the' of item 7: read them; other prompts or another model write new ones
    """  # noqa: E501
    written = [profile for profile in profiles if profile.summarization]
    lengths = {profile.key: count_words(profile.summarization or "") for profile in written}
    usual = statistics.median(lengths.values()) if len(written) >= FEWEST else 0
    signs: dict[str, list[Profile]] = {}
    for profile in written:
        for sign in _signs(store, profile, lengths[profile.key] < SHORT * usual):
            signs.setdefault(sign, []).append(profile)
    return [_finding(sign, signs[sign], usual) for sign in _WHAT if sign in signs]


_WHAT = {
    "says nothing": "say that there is nothing to say",
    "differs": "are not what the stored answer says",
    "short": "have less than a quarter of the usual number of words",
    "open end": "end without a mark of punctuation",
}


def _signs(store: Store, profile: Profile, short: bool) -> list[str]:
    text = profile.summarization or ""
    answer = store.answer(profile.requests[-1] if profile.requests else profile.request)
    signs = []
    if _NOTHING.match(text):
        signs.append("says nothing")
    if short:
        signs.append("short")
    # Where the limit on tokens ended the answer, or the words were too many, a note of the profile says so.
    if not _CLOSED.search(text) and (answer is None or answer.finish == "stop"):
        signs.append("open end")
    if answer is not None and not _is_of(answer.text, answer.finish, profile):
        signs.append("differs")
    return signs


def _is_of(text: str, finish: str, profile: Profile) -> bool:
    """Return whether an answer, as it is read today, says what the profile says."""
    try:
        parsed = parse(text, WORDS[profile.kind], finish=finish, last_try=True)
    except AnswerError:
        return False
    return parsed.summarization == profile.summarization


def _finding(sign: str, found: list[Profile], usual: float) -> Finding:
    first = found[0]
    text = first.summarization or ""
    shown = text if len(text) <= 80 else f"{text[:40]} … {text[-37:]}"
    what = _WHAT[sign].replace("usual number of words", f"usual {usual:g} words")
    return Finding(
        f"profile {sign}",
        f"{first.kind} profiles {what}",
        len(found),
        f"{shown!r} of {first.kind} {first.key!r}",
        "read them; other prompts or another model write new ones",
    )
