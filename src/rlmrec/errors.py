"""Every error that rlmrec raises on purpose.

A message names what was got, what was expected and what to do. The command line prints it as one line, or one for each
kind of broken rows; anything that is not an ``RlmrecError`` is a defect and shows its traceback.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

LONGEST_SHOWN = 80  # characters of a wrong value that a message repeats
CLOSE = (
    0.65  # least ratio of difflib: "eval" is close to "evaluate", "interactions" is not close to "min-rating"
)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'lightgcn'?)" for a message about an unknown name; "" if no known name is close.

    Case and the dashes before an option do not count.
    """
    by_case = {one.casefold().lstrip("-"): one for one in known}
    close = get_close_matches(name.casefold().lstrip("-"), by_case, n=1, cutoff=CLOSE)
    return f" (did you mean {by_case[close[0]]!r}?)" if close else ""


def wrong_value(problem: Any) -> str:
    """Say what a value is and what was expected, from one entry of the ``errors()`` of a pydantic ``ValidationError``.

    Example:
        >>> wrong_value({"msg": "Input should be greater than or equal to 1", "input": "0"})
        "got '0', expected at least 1"
    """
    found, got = expectation(str(problem["msg"])), repr(problem.get("input"))
    length = problem.get("ctx", {}).get("actual_length")
    if length is not None and len(got) > LONGEST_SHOWN:
        got = f"{length:,}"
    return f"got {got}, {found}" if found.startswith("expected ") and len(got) <= LONGEST_SHOWN else found


def expectation(message: str) -> str:
    """Return what pydantic expected of a value, in the words of this package's messages."""
    message = message.removeprefix("Value error, ").rstrip(".").partition(", unable to parse ")[0]
    for theirs, ours in (
        ("Input should be greater than or equal to ", "expected at least "),
        ("Input should be less than or equal to ", "expected at most "),
        ("Input should be greater than ", "expected more than "),
        ("Input should be ", "expected "),
    ):
        if message.startswith(theirs):
            return ours + message.removeprefix(theirs)
    length = re.match(r"(?:String|List|Dictionary|Data) should have (at (?:least|most) \d+ \w+)", message)
    return message if length is None else f"expected {length[1]}"


class RlmrecError(Exception):
    """Base of all errors below: catch it to catch them all."""


class DataError(RlmrecError):
    """Input that cannot be used: a file, a row, a column, a matrix, a vector."""


class NoRowsError(DataError):
    """A table with a header and no rows."""


class BrokenRowsError(DataError):
    """Several kinds of rows that cannot be used: a line for each."""


class ConfigError(RlmrecError):
    """An option that does not exist or has no valid value. The command line exits with 2."""


class ColumnError(DataError, ConfigError):
    """A column that was asked for by name and that the file does not have. The command line exits with 2."""


class WorkspaceError(RlmrecError):
    """An artefact that a step needs is missing, damaged or belongs to another dataset."""


class UnknownIdError(RlmrecError):
    """A raw user or item id that the dataset does not hold."""


class EngineError(RlmrecError):
    """Workers of an engine that die over the same part of the work again and again."""


class UnavailableError(RlmrecError):
    """A database that does not answer at the moment; the same call may succeed later."""


# What can go wrong between a prompt and a usable answer. ``AccessError`` ends a run, since every further request
# would fail the same way. The others concern one request: the run continues and the node is recorded as failed.


class LLMError(RlmrecError):
    """Base of the errors of a language model.

    Args:
        message: what was got, what was expected and what to do.
        raw: what the server sent, for the record; never holds the key.
    """

    kind = "error"
    usage: Any = None  # rlmrec.llm.Usage of an answer that was paid for all the same

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
        usage: the tokens (``rlmrec.llm.Usage``) of a refusal that the model wrote, which is paid for as any
            answer; None where a
            filter kept the prompt from the model.
    """

    kind = "refused"

    def __init__(self, message: str, raw: str | None = None, usage: Any = None) -> None:
        super().__init__(message, raw)
        self.usage = usage


class MissingAnswerError(LLMError):
    """A replay was asked something that the stored answers do not hold."""

    kind = "missing"
