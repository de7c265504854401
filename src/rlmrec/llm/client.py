"""Client of OpenAI-compatible chat endpoints: OpenAI, vLLM, Ollama, llama.cpp, LM Studio.

Features that a server lacks (JSON schemas, a seed) are detected by the first request and remembered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rlmrec.errors import ConfigError, RefusedError, RequestError
from rlmrec.http_client import BadRequest, Connection, Endpoint, Transient, count, mapping
from rlmrec.llm.base import LLM, Completion, JsonSchema, Usage

SHORTEST = 400  # characters; a prompt that is refused at this length is not refused for its length
MOST_HOPELESS = 3  # prompts refused even when cut; after so many and no answer at all, no more are cut
# What servers call it when the limit on tokens ended an answer.
CUT_OFF = ("length", "max_tokens", "model_length", "max_output_tokens")


class OpenAIChat(Endpoint, LLM):
    """Client of an OpenAI-compatible chat endpoint, with retries.

    429, 5xx, broken connections and time-outs are retried with exponential back-off and jitter; a
    Retry-After holds back every request of this client, not only the one that received it. The JSON-schema
    response format falls back to JSON mode and then to text where the server rejects it. A prompt that is refused
    for its length, or with a 400 or 413 that nothing else explains, is cut until the server takes it.

    Args:
        model: the model's name at the endpoint.
        base_url: the endpoint's root, such as "http://localhost:11434/v1"; None is OpenAI's.
        key_env: the environment variable that holds the key. It is read by the first request and never
            written, logged or stored. Your own endpoints need none.
        temperature: 0 makes answers as repeatable as the server can.
        max_tokens: most tokens of an answer.
        seed: sent to the server if given.
        timeout: seconds that one try may take.
        concurrency: most requests in flight at once.
        retries: tries after the first one.
        backoff: seconds before the first retry; doubles each time, up to ``max_wait``.
        max_wait: longest pause in seconds; a server that asks for a longer one ends the run.
        extra_body: further fields of the request, for example {"chat_template_kwargs": …}.
        reasoning: the model takes ``max_completion_tokens`` and no temperature, as OpenAI's reasoning models
            do. Live requests detect that; a batch file cannot.
        rpm: most requests a minute; None sets no bound.
        tpm: most tokens a minute, estimated; None sets no bound.

    Raises:
        ConfigError: a value out of range or an invalid address; on the first request: no key for an endpoint
            that needs one.

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
        reasoning: bool = False,
        rpm: float | None = None,
        tpm: float | None = None,
    ) -> None:
        if max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1, got {max_tokens}")
        super().__init__(
            model, base_url=base_url, key_env=key_env, timeout=timeout, concurrency=concurrency,
            retries=retries, backoff=backoff, max_wait=max_wait, rpm=rpm, tpm=tpm,
        )  # fmt: skip
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.seed = seed
        self.extra_body = dict(extra_body or {})
        self.options: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
        if seed is not None:
            self.options["seed"] = seed
        if self.extra_body:
            self.options["extra_body"] = self.extra_body
        # Fields and response formats that this server rejects, as far as is known.
        self._refused: set[str] = {"max_tokens", "temperature"} if reasoning else set()
        self._answered: set[str] = set()  # response formats that worked
        self._hopeless = 0  # prompts that were refused even when cut

    def body(self, system: str, prompt: str, schema: JsonSchema | None = None) -> dict[str, Any]:
        """Return the request as JSON, for sending it and for a provider's batch file."""
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
        """Answer one prompt; see ``LLM.complete``. At most ``concurrency`` requests run at once.

        Raises:
            AccessError: every request will fail (key, model, quota, a pause longer than ``max_wait``).
            EndpointError: no answer in ``retries`` + 1 tries.
            RequestError: the server rejects this request.
            RefusedError: a content filter or the model refused to answer.
        """

        async def send(text: str) -> Completion:
            refused = set(self._refused)
            return await self._with_retries(
                lambda connection: self._try(connection, system, text, schema, refused),
                (len(system) + len(text)) // 4 + self.max_tokens,
            )

        try:
            return await send(prompt)
        except BadRequest as error:
            first = error
        try:
            if not self._may_be_too_long(first):
                raise first
            answer = await self._shortened(prompt, first, SHORTEST, send)
            return replace(answer, prompt_cut=True)
        except BadRequest as error:
            self._hopeless += 1
            raise RequestError(f"the endpoint refused the request: {error}", error.raw) from None

    def _may_be_too_long(self, error: BadRequest) -> bool:
        """Return whether a shorter prompt may be accepted; not if this server has refused every prompt so far."""
        given_up = self._hopeless >= MOST_HOPELESS and not self._answered
        return error.is_too_long or (error.status in (400, 413, 422) and not given_up)

    async def _try(
        self, connection: Connection, system: str, prompt: str, schema: JsonSchema | None, refused: set[str]
    ) -> Completion:
        """Send the request, without the fields that the server rejects, until it answers."""
        form = _response_format(refused)
        while True:
            try:
                content = await self._send(
                    connection, "/chat/completions", self._body(system, prompt, schema, refused)
                )
                answer = self._read(content)
            except BadRequest as error:
                attributed = _what_is_refused(error, refused)
                # A server that gives no reason mostly rejects the response format.
                unexplained = schema is not None and not error.is_too_long
                suspect = attributed or (_next_format(refused) if unexplained else None)
                if suspect is None:
                    raise
                if attributed and error.status < 500:  # a 5xx may pass, even if it names a format
                    self._refused.add(suspect)
                refused.add(suspect)
                continue
            form_now = _response_format(refused)
            if form not in self._answered:
                self._refused |= refused  # the better format has never worked here
            self._answered.add(form_now)
            return replace(answer, text=connection.secrets.clean_answer(answer.text))

    def _read(self, content: bytes) -> Completion:
        """Return the completion in a reply's content."""
        reply = self._reply(content)
        if not isinstance(reply.get("choices"), list):
            raise Transient("HTTP 200 without a completion in it", content.decode("utf-8", "replace"))
        return read_reply(reply)


def read_reply(reply: Mapping[str, Any]) -> Completion:
    """Return the completion in a ``chat.completion`` object; its text is "" if the object has none.

    Raises:
        RefusedError: the reply says that the content filter or the model refused to answer.
    """
    choices = reply.get("choices")
    choice = mapping(choices[0] if isinstance(choices, list) and choices else None)
    message = mapping(choice.get("message"))
    text = message.get("content")
    if isinstance(text, list):  # some servers send a list of parts
        text = "".join(str(part.get("text") or "") for part in text if isinstance(part, dict))
    finish = choice.get("finish_reason")
    finish = finish if isinstance(finish, str) else "stop"
    usage = mapping(reply.get("usage"))
    details = mapping(usage.get("prompt_tokens_details"))
    tokens = Usage(
        count(usage, "prompt_tokens"), count(usage, "completion_tokens"), count(details, "cached_tokens")
    )
    refusal = message.get("refusal")
    if finish == "content_filter" or refusal:
        raise RefusedError(
            f"the model or its content filter refused the prompt: {str(refusal or finish)[:500]}",
            json.dumps(choice, ensure_ascii=False),
            tokens,
        )
    text = text if isinstance(text, str) else ""
    return Completion(text, tokens, "length" if finish.lower() in CUT_OFF else "stop")


def _response_format(refused: set[str]) -> str:
    return next((form for form in ("json_schema", "json_object") if form not in refused), "text")


def _next_format(refused: set[str]) -> str | None:
    form = _response_format(refused)
    return None if form == "text" else form


def _what_is_refused(error: BadRequest, refused: set[str]) -> str | None:
    """Return the part of the request that the server names as its reason, unless it was left out already."""
    text = error.text
    if error.is_too_long or "json_validate_failed" in text:
        return None  # caused by this prompt, not by the form of the request
    if "max_completion_tokens" in text and "max_tokens" not in refused:
        return "max_tokens"
    unsupported = "unsupported" in text or "not support" in text
    for name in ("max_tokens", "temperature", "seed"):
        # Some servers quote the whole request: then max_tokens in the message means nothing.
        said = name in text and unsupported and not (name == "max_tokens" and error.names_a_format)
        if (error.param == name or said) and name not in refused:
            return name
    return _next_format(refused) if error.names_a_format else None
