"""What can go wrong between a prompt and a usable answer; who catches it decides by the class.

``AccessError`` ends a run, since every further request would end the same way. The others concern one
request: the run goes on and the node is recorded as failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlmrec.errors import RlmrecError

if TYPE_CHECKING:
    from rlmrec.llm.client import Usage


class LLMError(RlmrecError):
    """Base of the errors of a language model.

    Args:
        message: what was got, what was expected and what to do.
        raw: what the server sent, for the record; never holds the key.
    """

    kind = "error"

    def __init__(self, message: str, raw: str | None = None) -> None:
        super().__init__(message)
        self.raw = raw


class AccessError(LLMError):
    """The endpoint refuses every request: a wrong key, an unknown model, no money left, a long ban."""

    kind = "access"


class EndpointError(LLMError):
    """The endpoint gave no answer in all tries: time-outs, 429, 5xx, broken connections. Nothing was paid."""

    kind = "endpoint"


class RequestError(LLMError):
    """The endpoint refuses this one request, for example because it is too long. Asking again is in vain."""

    kind = "request"


class RefusedError(LLMError):
    """A content filter or the model itself refused to answer this prompt.

    Args:
        message: as for every ``LLMError``.
        raw: as for every ``LLMError``.
        usage: the tokens of a refusal that the model wrote, which is paid for as any answer; None where a
            filter kept the prompt from the model.
    """

    kind = "refused"

    def __init__(self, message: str, raw: str | None = None, usage: Usage | None = None) -> None:
        super().__init__(message, raw)
        self.usage = usage


class MissingAnswerError(LLMError):
    """A replay was asked something that the stored answers do not hold."""

    kind = "missing"
