"""What every OpenAI-compatible endpoint needs, whatever is asked of it: connections, patience, plain errors.

The client of chats (client.py) and that of text vectors (rlmrec.text.api) stand on this.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar

from rlmrec.errors import ConfigError
from rlmrec.llm.errors import AccessError, EndpointError, LLMError, RefusedError

OPENAI_URL = "https://api.openai.com/v1"
Answer = TypeVar("Answer")


class Connection(NamedTuple):
    """What belongs to one event loop: asyncio's and the HTTP client's objects cannot move to another."""

    loop: asyncio.AbstractEventLoop
    client: Any
    slots: asyncio.Semaphore
    key: str
    reply_type: Any  # the HTTP package's class of replies, whichever package openai stands on


class Endpoint:
    """An OpenAI-compatible endpoint, with the patience that thousands of requests need.

    429, 5xx, broken connections and time-outs are tried again with exponential back-off and jitter; a
    Retry-After holds back every request of this client, not only the one that was told.

    Args:
        model: the model's name at the endpoint.
        base_url: the endpoint's root, such as "http://localhost:11434/v1"; None is OpenAI's.
        key_env: the environment variable that holds the key. It is read when the first request goes out
            and never written, logged or stored. Endpoints of your own need none.
        timeout: seconds that one try may take.
        concurrency: requests in flight at once, at most.
        retries: tries after the first one.
        backoff: seconds before the first retry; doubles each time, up to ``max_wait``.
        max_wait: longest pause in seconds; a server that asks for a longer one ends the run.

    Raises:
        ConfigError: a value out of range.
    """

    keyless = "--model local"  # the option that needs no key, for the message about a missing one

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None,
        key_env: str,
        timeout: float,
        concurrency: int,
        retries: int,
        backoff: float,
        max_wait: float,
    ) -> None:
        for label, value, least in (("concurrency", concurrency, 1), ("retries", retries, 0)):
            if value < least:
                raise ConfigError(f"{label} must be at least {least}, got {value}")
        if timeout <= 0 or backoff <= 0 or max_wait <= 0:
            raise ConfigError(
                "timeout, backoff and max_wait must be positive seconds, "
                f"got {timeout}, {backoff}, {max_wait}"
            )
        self.name = model
        self.base_url = base_url or OPENAI_URL
        self.key_env = key_env
        self.timeout = timeout
        self.concurrency = concurrency
        self.retries = retries
        self.backoff = backoff
        self.max_wait = max_wait
        self.tries_repeated = 0
        self._model = model
        self._resume_at = 0.0  # a Retry-After holds for all requests
        self._connection: Connection | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connection": None}  # no key, no socket in a pickle

    async def _patiently(self, attempt: Callable[[Connection], Awaitable[Answer]]) -> Answer:
        """What ``attempt`` returns, tried again while it raises ``Transient``. Waits for a free slot first."""
        connection = self._connect()
        async with connection.slots:
            failed = 0
            while True:
                await self._pause()
                try:
                    return await attempt(connection)
                except Transient as fault:
                    failed += 1
                    if failed > self.retries:
                        raise EndpointError(
                            f"no answer in {failed} tries, the last one: {fault}; check the endpoint "
                            f"{self.base_url} or lower --concurrency, then run again",
                            fault.raw,
                        ) from None
                    self.tries_repeated += 1
                    await self._back_off(fault, failed)

    async def _send(self, connection: Connection, path: str, body: dict[str, Any]) -> bytes:
        """One HTTP exchange: the content, or one of our own errors."""
        import openai

        try:
            async with asyncio.timeout(self.timeout):
                # The generic method: ours is the request as it is to be sent, and ours is the reading of the
                # reply's bytes. The typed one checks a body against its types for 0.7 ms a request.
                reply = await connection.client.post(path, cast_to=connection.reply_type, body=body)
                content: bytes = reply.content
                return content
        except (TimeoutError, openai.APITimeoutError):
            raise Transient(f"no answer within {self.timeout:g} s") from None
        except openai.APIStatusError as error:
            raise self._status_error(error, connection.key) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise Transient(
                _clean(f"connection failed ({type(cause).__name__}: {cause})", connection.key)
            ) from None

    def _status_error(self, error: Any, key: str) -> Exception:
        status: int = error.status_code
        raw = _clean(error.response.content.decode("utf-8", "replace")[:20_000], key)
        message = _clean(f"HTTP {status}: {error.message}", key)[:500]
        body = mapping(error.body)
        code = str(body.get("code") or "")
        if "content_filter" in code or "content_policy" in code or "content_filter" in raw:
            return RefusedError(f"a content filter refused the prompt ({message})", raw)
        if status == 429 and code not in ("insufficient_quota", "billing_hard_limit_reached"):
            wait = _retry_after(error.response.headers)
            if wait is not None and wait > self.max_wait:
                return AccessError(
                    f"the endpoint asks to wait {wait:g} s, more than the {self.max_wait:g} s that this run "
                    "waits at most: run the same command again later, nothing is lost",
                    raw,
                )
            return Transient(message, raw, wait)
        bad = BadRequest(message, raw, str(body.get("param") or ""))
        if status >= 500 and bad.is_too_long:  # llama.cpp's way of saying it
            return bad
        if status in (408, 409, 425) or status >= 500:
            return Transient(message, raw, _retry_after(error.response.headers, self.max_wait))
        if status in (401, 402, 403, 429):
            return AccessError(
                f"the endpoint {self.base_url} refuses access ({message}): check the key in "
                f"${self.key_env} and the account",
                raw,
            )
        if status == 404 and not bad.names_a_format:
            return AccessError(
                f"the endpoint {self.base_url} does not know model {self._model!r} or the address "
                f"({message}): check the model's name and --base-url",
                raw,
            )
        return bad

    async def _pause(self) -> None:
        while (rest := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(rest * random.uniform(1.0, 1.1))  # not all at the same instant

    async def _back_off(self, fault: Transient, failed: int) -> None:
        if fault.wait is not None:
            self._resume_at = max(self._resume_at, time.monotonic() + fault.wait)
            return
        await asyncio.sleep(min(self.max_wait, self.backoff * 2 ** (failed - 1)) * random.uniform(0.5, 1.0))

    def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._connection is None or self._connection.loop is not loop:
            try:
                import openai
            except ImportError:
                raise ConfigError(
                    "requests to an endpoint need the package openai: pip install 'openai>=3'"
                ) from None
            key = os.environ.get(self.key_env, "")
            if not key and self.base_url.startswith(OPENAI_URL):
                raise ConfigError(
                    f"${self.key_env} holds no key, {self.base_url} needs one: export {self.key_env}=…, name "
                    f"another variable with --key-env, or use {self.keyless}, which needs none"
                )
            client = openai.AsyncOpenAI(
                api_key=key or "none",  # the package insists on one
                base_url=self.base_url,
                timeout=self.timeout,
                max_retries=0,  # counted, and paced, here
            )
            package = openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0]
            reply_type = sys.modules[package].Response
            slots = asyncio.Semaphore(self.concurrency)
            self._connection = Connection(loop, client, slots, key, reply_type)
        return self._connection

    async def aclose(self) -> None:
        """Close the connections; the next request opens new ones."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.client.close()


class Transient(Exception):
    """Worth another try. ``wait``: seconds that the server asked for."""

    def __init__(self, message: str, raw: str | None = None, wait: float | None = None) -> None:
        super().__init__(message)
        self.raw = raw
        self.wait = wait


class BadRequest(LLMError):
    """The server dislikes something about the request; ``param`` is what it named."""

    def __init__(self, message: str, raw: str | None, param: str) -> None:
        super().__init__(message, raw)
        self.param = param

    @property
    def text(self) -> str:
        """Everything the server said, for looking names up."""
        return f"{self.param} {self} {self.raw}".lower()

    @property
    def names_a_format(self) -> bool:
        """Whether it is about the format of the answer."""
        return any(word in self.text for word in ("response_format", "json_schema", "json_object", "guided"))

    @property
    def is_too_long(self) -> bool:
        """Whether it is about the length of what was sent."""
        return any(
            words in self.text
            for words in ("context_length", "maximum context", "context length", "too large to process")
        )


def run_in_a_loop(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a coroutine to its end, in another thread when this one has a loop that runs (notebooks)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    result: list[Answer] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            result.append(asyncio.run(work))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=target, name="rlmrec-requests")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def mapping(value: Any) -> dict[str, Any]:
    """``value`` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def count(values: Mapping[str, Any], name: str) -> int:
    """A number of tokens in a reply's usage; 0 where there is none."""
    value = values.get(name)
    return int(value) if isinstance(value, int | float) and value >= 0 else 0


def _retry_after(headers: Mapping[str, str], most: float | None = None) -> float | None:
    """Seconds that the server asks to wait, from the headers; None where it does not say."""
    wait: float | None = None
    try:
        if milliseconds := headers.get("retry-after-ms"):
            wait = float(milliseconds) / 1000
        elif value := headers.get("retry-after"):
            try:
                wait = float(value)
            except ValueError:
                wait = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None
    if wait is None or not 0 <= wait < float("inf"):
        return None if wait is None or wait != wait or wait > 0 else 0.0
    return wait if most is None else min(wait, most)


def _clean(text: str, key: str) -> str:
    """``text`` without the key: some servers quote it in their refusals."""
    return text.replace(key, "[key]") if key else text
