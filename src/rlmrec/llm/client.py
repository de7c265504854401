"""The language model as everything else sees it, and the client of OpenAI-compatible endpoints.

Any server that speaks ``/chat/completions`` will do: OpenAI, vLLM, Ollama, llama.cpp, LM Studio. What a
server cannot do (JSON schemas, a seed) is found out on the first request and remembered.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from rlmrec.errors import ConfigError
from rlmrec.llm.errors import AccessError, EndpointError, LLMError, RefusedError, RequestError

OPENAI_URL = "https://api.openai.com/v1"
JsonSchema = Mapping[str, Any]


class Usage(NamedTuple):
    """Tokens of one answer, as the server counts them; ``cached`` ones of the prompt came from its cache."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


@dataclass(frozen=True)
class Completion:
    """One answer.

    Args:
        text: what the model wrote, as it wrote it; "" when the server sent an answer without text.
        usage: the tokens it took.
        finish: "stop", or "length" when the limit on tokens cut it off.
    """

    text: str
    usage: Usage = field(default_factory=Usage)
    finish: str = "stop"


@runtime_checkable
class LLM(Protocol):
    """What a language model must offer. Any object with these two will do; two more are optional.

    ``options``: a mapping of JSON values, everything beside the name that changes answers (temperature,
    limits, seed). It goes into the hash under which answers are stored. Default: none.
    ``concurrency``: how many requests at once make sense. Default: 8.

    Example:
        >>> class Parrot:
        ...     name = "parrot"
        ...     async def complete(self, system, prompt, schema=None):
        ...         return Completion(text=prompt)
        >>> isinstance(Parrot(), LLM)
        True
    """

    @property
    def name(self) -> str:
        """The model's name, part of the hash under which its answers are stored."""
        ...

    async def complete(self, system: str, prompt: str, schema: JsonSchema | None = None) -> Completion:
        """Answer one prompt.

        Args:
            system: the system prompt.
            prompt: the user's message.
            schema: JSON schema that the answer is to follow, or None for free text. A model that cannot be
                held to it answers as well as it can.

        Raises:
            LLMError: no answer; the class says whether this request or all of them are concerned.
        """
        ...


class _Connection(NamedTuple):
    """What belongs to one event loop: asyncio's and the HTTP client's objects cannot move to another."""

    loop: asyncio.AbstractEventLoop
    client: Any
    slots: asyncio.Semaphore
    key: str
    reply_type: Any  # the HTTP package's class of replies, whichever package openai stands on


class OpenAIChat:
    """Any OpenAI-compatible chat endpoint, with the patience that thousands of requests need.

    429, 5xx, broken connections and time-outs are tried again with exponential back-off and jitter; a
    Retry-After holds back every request of this client, not only the one that was told. The JSON-schema
    response format falls back to plain JSON mode and then to text where the server refuses it.

    Args:
        model: the model's name at the endpoint.
        base_url: the endpoint's root, such as "http://localhost:11434/v1"; None is OpenAI's.
        key_env: the environment variable that holds the key. It is read when the first request goes out
            and never written, logged or stored. Endpoints of your own need none.
        temperature: 0 makes answers as repeatable as the server can.
        max_tokens: bound on the tokens of an answer.
        seed: passed on where given.
        timeout: seconds that one try may take.
        concurrency: requests in flight at once, at most.
        retries: tries after the first one.
        backoff: seconds before the first retry; doubles each time, up to ``max_wait``.
        max_wait: longest pause in seconds; a server that asks for a longer one ends the run.
        extra_body: further fields of the request, for example {"chat_template_kwargs": …}.

    Raises:
        ConfigError: a value out of range; on the first request: no key for an endpoint that needs one.

    Source: https://platform.openai.com/docs/api-reference/chat

    Example:
        >>> llm = OpenAIChat("qwen3:8b", base_url="http://localhost:11434/v1")
        >>> llm.name, llm.options["temperature"]
        ('qwen3:8b', 0.0)
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key_env: str = "OPENAI_API_KEY",
        temperature: float = 0.0,
        max_tokens: int = 600,
        seed: int | None = None,
        timeout: float = 60.0,
        concurrency: int = 16,
        retries: int = 6,
        backoff: float = 1.0,
        max_wait: float = 120.0,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        for label, value, least in (
            ("max_tokens", max_tokens, 1),
            ("concurrency", concurrency, 1),
            ("retries", retries, 0),
        ):
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
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.seed = seed
        self.timeout = timeout
        self.concurrency = concurrency
        self.retries = retries
        self.backoff = backoff
        self.max_wait = max_wait
        self.extra_body = dict(extra_body or {})
        self.tries_repeated = 0
        self._refused: set[str] = set()  # what this server was found not to take
        self._answered: set[str] = set()  # response formats that have worked
        self._resume_at = 0.0  # a Retry-After holds for all requests
        self._connection: _Connection | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connection": None}  # no key, no socket in a pickle

    @property
    def options(self) -> dict[str, Any]:
        """What beside the name changes answers; part of the hash under which they are stored."""
        options: dict[str, Any] = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        if self.seed is not None:
            options["seed"] = self.seed
        if self.extra_body:
            options["extra_body"] = self.extra_body
        return options

    def body(self, system: str, prompt: str, schema: JsonSchema | None = None) -> dict[str, Any]:
        """The request as JSON, the way it is sent and the way it stands in a provider's batch file."""
        return self._body(system, prompt, schema, self._refused)

    def _body(self, system: str, prompt: str, schema: JsonSchema | None, refused: set[str]) -> dict[str, Any]:
        limit = "max_completion_tokens" if "max_tokens" in refused else "max_tokens"
        body: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": prompt}],
            limit: self.max_tokens,
        }
        if "temperature" not in refused:
            body["temperature"] = self.temperature
        if self.seed is not None and "seed" not in refused:
            body["seed"] = self.seed
        if schema is not None:
            form = _response_format(refused)
            if form == "json_schema":
                named = {"name": "answer", "strict": True, "schema": dict(schema)}
                body["response_format"] = {"type": "json_schema", "json_schema": named}
            elif form == "json_object":
                body["response_format"] = {"type": "json_object"}
        return body | self.extra_body

    async def complete(self, system: str, prompt: str, schema: JsonSchema | None = None) -> Completion:
        """Answer one prompt; see ``LLM.complete``. Waits for a free slot first.

        Raises:
            AccessError: every request will fail (key, model, quota, a pause longer than ``max_wait``).
            EndpointError: no answer in ``retries`` + 1 tries.
            RequestError: the server refuses this request.
            RefusedError: a content filter or the model refused.
        """
        connection = self._connect()
        async with connection.slots:
            refused = set(self._refused)
            failed = 0
            while True:
                await self._pause()
                try:
                    return await self._try(connection, system, prompt, schema, refused)
                except _Transient as fault:
                    failed += 1
                    if failed > self.retries:
                        raise EndpointError(
                            f"no answer in {failed} tries, the last one: {fault}; check the endpoint "
                            f"{self.base_url} or lower --concurrency, then run again",
                            fault.raw,
                        ) from None
                    self.tries_repeated += 1
                    await self._back_off(fault, failed)

    async def _try(
        self, connection: _Connection, system: str, prompt: str, schema: JsonSchema | None, refused: set[str]
    ) -> Completion:
        """One answer, after as many corrections of the request's form as the server asks for."""
        form = _response_format(refused)
        while True:
            try:
                content = await self._send(connection, self._body(system, prompt, schema, refused))
            except _BadRequest as error:
                attributed = _what_is_refused(error, refused)
                # Servers that do not say what they dislike mostly dislike the response format.
                suspect = attributed or (_next_format(refused) if schema is not None else None)
                if suspect is None:
                    raise RequestError(f"the endpoint refused the request: {error}", error.raw) from None
                if attributed:
                    self._refused.add(suspect)
                refused.add(suspect)
                continue
            form_now = _response_format(refused)
            if form not in self._answered:
                self._refused |= refused  # the better format never worked here, the lesser one does
            self._answered.add(form_now)
            return self._read(content)

    async def _send(self, connection: _Connection, body: dict[str, Any]) -> bytes:
        """One HTTP exchange: the content, or one of our own errors."""
        import openai

        try:
            async with asyncio.timeout(self.timeout):
                # The generic method: ours is the request as it is to be sent, and ours is the reading of the
                # reply's bytes. The typed one checks a body against its types for 0.7 ms a request.
                reply = await connection.client.post(
                    "/chat/completions", cast_to=connection.reply_type, body=body
                )
                content: bytes = reply.content
                return content
        except (TimeoutError, openai.APITimeoutError):
            raise _Transient(f"no answer within {self.timeout:g} s") from None
        except openai.APIStatusError as error:
            raise self._status_error(error, connection.key) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise _Transient(
                _clean(f"connection failed ({type(cause).__name__}: {cause})", connection.key)
            ) from None

    def _status_error(self, error: Any, key: str) -> Exception:
        status: int = error.status_code
        raw = _clean(error.response.content.decode("utf-8", "replace")[:20_000], key)
        message = _clean(f"HTTP {status}: {error.message}", key)[:500]
        body = _mapping(error.body)
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
            return _Transient(message, raw, wait)
        if status in (408, 409, 425) or status >= 500:
            return _Transient(message, raw, _retry_after(error.response.headers, self.max_wait))
        bad = _BadRequest(message, raw, str(body.get("param") or ""))
        if status in (401, 402, 403, 429):
            return AccessError(
                f"the endpoint {self.base_url} refuses access ({message}): check the key in "
                f"${self.key_env} and the account",
                raw,
            )
        if status == 404 and not _names_a_format(bad):
            return AccessError(
                f"the endpoint {self.base_url} does not know model {self.name!r} or the address ({message}): "
                "check --model and --base-url",
                raw,
            )
        return bad

    def _read(self, content: bytes) -> Completion:
        """The completion in a reply's content, whatever state it is in."""
        text = content.decode("utf-8", "replace")
        try:
            reply = json.loads(text, strict=False)
        except ValueError:
            reply = None
        if not isinstance(reply, dict) or not isinstance(reply.get("choices"), list):
            raise _Transient("HTTP 200 without a completion in it", text[:20_000])
        return read_reply(reply)

    async def _pause(self) -> None:
        while (rest := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(rest * random.uniform(1.0, 1.1))  # not all at the same instant

    async def _back_off(self, fault: _Transient, failed: int) -> None:
        if fault.wait is not None:
            self._resume_at = max(self._resume_at, time.monotonic() + fault.wait)
            return
        await asyncio.sleep(min(self.max_wait, self.backoff * 2 ** (failed - 1)) * random.uniform(0.5, 1.0))

    def _connect(self) -> _Connection:
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
                    "another variable with --key-env, or use --model local, which needs none"
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
            self._connection = _Connection(loop, client, slots, key, reply_type)
        return self._connection

    async def aclose(self) -> None:
        """Close the connections; the next request opens new ones."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.client.close()


def read_reply(reply: Mapping[str, Any]) -> Completion:
    """The completion in one ``chat.completion`` object, of a reply or a batch file; "" where it has no text.

    Raises:
        RefusedError: the reply says that the content filter or the model refused.
    """
    choices = reply.get("choices")
    choice = _mapping(choices[0] if isinstance(choices, list) and choices else None)
    message = _mapping(choice.get("message"))
    text = message.get("content")
    if isinstance(text, list):  # some servers send a list of parts
        text = "".join(str(part.get("text") or "") for part in text if isinstance(part, dict))
    finish = str(choice.get("finish_reason") or "stop")
    refusal = message.get("refusal")
    if finish == "content_filter" or refusal:
        raise RefusedError(
            f"the model or its content filter refused the prompt: {refusal or finish}",
            json.dumps(choice, ensure_ascii=False)[:20_000],
        )
    usage = _mapping(reply.get("usage"))
    details = _mapping(usage.get("prompt_tokens_details"))
    tokens = Usage(
        _count(usage, "prompt_tokens"), _count(usage, "completion_tokens"), _count(details, "cached_tokens")
    )
    text = text if isinstance(text, str) else ""
    return Completion(text, tokens, "length" if finish == "length" else "stop")


class _Transient(Exception):
    """Worth another try. ``wait``: seconds that the server asked for."""

    def __init__(self, message: str, raw: str | None = None, wait: float | None = None) -> None:
        super().__init__(message)
        self.raw = raw
        self.wait = wait


class _BadRequest(LLMError):
    """The server dislikes something about the request; ``param`` is what it named."""

    def __init__(self, message: str, raw: str | None, param: str) -> None:
        super().__init__(message, raw)
        self.param = param

    @property
    def text(self) -> str:
        """Everything the server said, for looking names up."""
        return f"{self.param} {self} {self.raw}".lower()


def _response_format(refused: set[str]) -> str:
    return next((form for form in ("json_schema", "json_object") if form not in refused), "text")


def _next_format(refused: set[str]) -> str | None:
    form = _response_format(refused)
    return None if form == "text" else form


def _names_a_format(error: _BadRequest) -> bool:
    return any(word in error.text for word in ("response_format", "json_schema", "json_object", "guided"))


def _what_is_refused(error: _BadRequest, refused: set[str]) -> str | None:
    """The part of the request that the server names as its reason, unless it was left out already."""
    text = error.text
    if "context_length" in text or "maximum context" in text or "json_validate_failed" in text:
        return None  # this prompt's fault, not the form's
    if "max_completion_tokens" in text and "max_tokens" not in refused:
        return "max_tokens"
    for name in ("temperature", "seed"):
        named = error.param == name or (name in text and ("unsupported" in text or "not support" in text))
        if named and name not in refused:
            return name
    return _next_format(refused) if _names_a_format(error) else None


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


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(mapping: Mapping[str, Any], name: str) -> int:
    value = mapping.get(name)
    return int(value) if isinstance(value, int | float) and value >= 0 else 0
