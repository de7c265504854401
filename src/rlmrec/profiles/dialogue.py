"""Dialogue: from a prompt to a profile, with further requests where an answer is unusable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rlmrec.errors import LLMError
from rlmrec.llm.base import LLM, Completion, Usage
from rlmrec.llm.store import Profile, request_hash
from rlmrec.profiles.budget import estimate_tokens
from rlmrec.profiles.parse import WORDS, AnswerError, parse
from rlmrec.profiles.prompts import Prompt

# What a further request appends to the prompt, by what was wrong. Part of the hash of the request: a changed
# word invalidates the stored answers to it.
_ASK_AGAIN = {
    "empty": "Your last answer was empty. Answer with the JSON object that was asked for.",
    "malformed": "Your last answer was not JSON. Answer with nothing but the JSON object that was asked for.",
    "truncated": "Your last answer was too long and was cut off. Answer with the JSON object in fewer words.",
    "keys": 'Your last answer had other keys. Answer with the JSON object of the keys "summarization" and '
    '"reasoning", both of them texts.',
    "form": "Your last answer repeated the form. Answer with the JSON object, filled in.",
    "too long": "Your last summarization was far too long. Answer again, with at most {words} words.",
}
Outcome = Completion | LLMError


class ModelRequest(NamedTuple):
    """One request to the model, and the hash under which its answer is stored."""

    hash: str
    system: str
    prompt: str

    @classmethod
    def of(cls, llm: LLM, prompt: Prompt, text: str | None = None) -> ModelRequest:
        """Return the request of a prompt; ``text`` replaces the prompt's own when it is sent again."""
        text = prompt.text if text is None else text
        return cls(request_hash(llm.name, llm.options, prompt.system, text), prompt.system, text)

    @property
    def tokens(self) -> int:
        """Estimated number of tokens."""
        return estimate_tokens(self.system) + estimate_tokens(self.prompt)


class Dialogue:
    """The requests about one node. Each follows from the answers before it, so stored answers can be replayed.

    Args:
        llm: the model.
        prompt: the node's prompt.
        attempts: most requests; an unusable answer is followed by a request that says what was wrong.
        content: ``Dataset.content``, recorded with the profile.

    Attributes:
        request: the request that has no answer yet.
        profile: the result, failed ones included; None while a request has no answer.
    """

    def __init__(self, llm: LLM, prompt: Prompt, attempts: int, content: str) -> None:
        self.llm, self.prompt, self.attempts, self.content = llm, prompt, attempts, content
        self.request = ModelRequest.of(llm, prompt)
        self.profile: Profile | None = None
        self._first = self.request.hash
        self._hashes = [self._first]
        self._usage = Usage()
        self._raw: str | None = None

    def advance(self, lookup: Callable[[ModelRequest], Outcome | None]) -> Profile | None:
        """Continue as far as ``lookup`` knows outcomes; return the profile if that is the end of it."""
        while self.profile is None and (outcome := lookup(self.request)) is not None:
            self.receive(outcome)
        return self.profile

    def receive(self, outcome: Outcome) -> None:
        """Continue with the outcome of ``request``: either to ``profile`` or to a further ``request``."""
        self._usage = self._usage.plus(outcome.usage or Usage())
        if isinstance(outcome, LLMError):
            raw = self._raw if outcome.raw is None else outcome.raw
            self._fail(str(outcome), outcome.kind, raw)
            return
        self._raw = outcome.text
        attempt = len(self._hashes)
        last = attempt == self.attempts
        words = WORDS[self.prompt.kind]
        try:
            parsed = parse(self._raw, words, finish=outcome.finish, last_try=last)
        except AnswerError as error:
            if outcome.finish == "length" and error.kind in ("empty", "truncated"):
                error = AnswerError(
                    error.kind,
                    f"{error}: the limit on tokens ended it, perhaps while the model was reasoning; raise --max-tokens",
                )
            if last or error.kind == "none":  # a model that has nothing to say will not say more
                self._fail(f"{error} (after {attempt} of {self.attempts} tries)", error.kind, self._raw)
                return
            again = _ASK_AGAIN[error.kind].format(words=words)
            # The number makes it a request of its own, with a hash and an answer of its own.
            text = f"{self.prompt.text}\n\n{again} (Try {attempt + 1}.)"
            self.request = ModelRequest.of(self.llm, self.prompt, text)
            self._hashes.append(self.request.hash)
            return
        cut = ("prompt cut as the endpoint refused it whole",) if outcome.prompt_cut else ()
        notes = (*self.prompt.truncations, *cut, *parsed.notes)
        self._end(summarization=parsed.summarization, reasoning=parsed.reasoning, notes=notes)

    def fail_unasked(self) -> Profile:
        """Return the failure of a node without any text, for which no request is sent."""
        kind = self.prompt.kind
        self._hashes = []
        return self._end(
            error=f"no text to write a profile from: the {kind} has neither texts nor training interactions "
            "with texts",
            error_kind="none",
        )

    def _fail(self, error: str, kind: str, raw: str | None) -> None:
        self._end(error=error, error_kind=kind, raw=raw, notes=self.prompt.truncations)

    def _end(self, **outcome: Any) -> Profile:
        prompt = self.prompt
        self.profile = Profile(
            prompt.kind, prompt.key, outcome.pop("summarization", None), outcome.pop("reasoning", None),
            self._first, prompt.sources, requests=tuple(self._hashes),
            usage=self._usage, model=self.llm.name, dataset=self.content, quoted=prompt.quoted, **outcome,
        )  # fmt: skip
        return self.profile
