"""LLM: what the rest of the package needs from a language model, and the answers that it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from rlmrec.findings import Finding

JsonSchema = Mapping[str, Any]


class Usage(NamedTuple):
    """Tokens of an answer, as the server counts them.

    prompt: of the request, the cached ones included. completion: of the answer. cached: of the prompt, read from
    the server's cache.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def plus(self, other: Usage) -> Usage:
        """Return the sum, field by field."""
        return Usage(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Completion:
    """One answer of a language model.

    Args:
        text: the text as the model wrote it; "" when the server sent an answer without text.
        usage: the tokens it took.
        finish: "stop", or "length" when the limit on tokens ended it.
        prompt_cut: whether the endpoint refused the whole prompt and answered its beginning. Not stored.
    """

    text: str
    usage: Usage = field(default_factory=Usage)
    finish: str = "stop"
    prompt_cut: bool = False


class LLM(ABC):
    """Base class of language models: subclasses have a ``name`` and ``complete``; the rest has defaults.

    Attributes:
        name: the model's name, part of the hash under which its answers are stored.
        options: everything beside the name that changes answers (temperature, limits, seed), as JSON values;
            also part of the hash.
        concurrency: how many requests at once make sense.
        small: whether the model needs the short prompts with written-out examples.
        replays: whether answers were paid for before, so that they cost nothing.
        tries_repeated: how many tries were repeated so far, because the server was busy or out of reach.

    Example:
        >>> class Parrot(LLM):
        ...     name = "parrot"
        ...     async def complete(self, system, prompt, schema=None):
        ...         return Completion(text=prompt)
        >>> Parrot().concurrency
        8
    """

    name: str
    options: Mapping[str, Any] = MappingProxyType({})
    concurrency: int = 8
    small: bool = False
    replays: bool = False
    tries_repeated: int = 0

    @abstractmethod
    async def complete(self, system: str, prompt: str, schema: JsonSchema | None = None) -> Completion:
        """Answer one prompt.

        Args:
            system: the system prompt.
            prompt: the user's message.
            schema: JSON schema that the answer should follow, or None for free text. A model that cannot
                enforce it answers as well as it can.

        Raises:
            LLMError: there is no answer; its class says whether only this request or every request fails.
        """

    def findings(self) -> list[Finding]:
        """Return what the user should know about the answers so far; by default nothing."""
        return []

    async def aclose(self) -> None:  # noqa: B027 (most models have nothing to close)
        """Release connections or memory; the next request acquires them again."""
