"""Text vectors from any OpenAI-compatible ``/embeddings`` endpoint: OpenAI, vLLM, Ollama, llama.cpp, TEI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from rlmrec.errors import ConfigError, DataError, RequestError
from rlmrec.http_client import (
    OPENAI_URL,
    BadRequest,
    Connection,
    Endpoint,
    Transient,
    count,
    mapping,
    run_in_a_loop,
)
from rlmrec.text.encoder import EncoderSettings, Sink, TextEncoder, checked
from rlmrec.types import BoolArray, Float32Array

SHORTEST = 100  # characters; a text that is still refused at this length is not refused for its length


class OpenAIEmbeddings(Endpoint, TextEncoder):
    """An OpenAI-compatible embeddings endpoint; see ``Endpoint`` for how faults are met.

    A batch that the server refuses is sent again in halves, down to the text that it refuses. A text that
    is longer than the model reads is shortened by quarters until it is accepted, see ``is_truncated``; a refusal
    costs nothing.
    The vectors keep the dimension that the model gives.

    Args:
        model: the model's name at the endpoint, such as "text-embedding-3-small".
        base_url: the endpoint's root, such as "http://localhost:11434/v1"; None is OpenAI's.
        key_env: the environment variable that holds the key. It is read when the first request goes out
            and never written, logged or stored. Endpoints of your own need none.
        batch_texts: texts in a request, at most.
        batch_tokens: tokens in a request, at most, by a generous estimate; a longer text goes alone.
        timeout: seconds that one try may take.
        concurrency: requests in flight at once, at most.
        retries: tries after the first one.
        backoff: seconds before the first retry; doubles each time, up to ``max_wait``.
        max_wait: longest pause in seconds; a server that asks for a longer one ends the run.

    Raises:
        ConfigError: a value out of range; on the first request: no key for an endpoint that needs one.

    Source: https://platform.openai.com/docs/api-reference/embeddings

    Example:
        >>> encoder = OpenAIEmbeddings("nomic-embed-text", base_url="http://localhost:11434/v1")
        >>> encoder.name, encoder.dim
        ('nomic-embed-text (http://localhost:11434/v1)', None)
    """

    keyless = "--encoder local"

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key_env: str = "OPENAI_API_KEY",
        batch_texts: int = 128,
        batch_tokens: int = 50_000,
        timeout: float = 60.0,
        concurrency: int = 8,
        retries: int = 6,
        backoff: float = 1.0,
        max_wait: float = 120.0,
    ) -> None:
        if batch_texts < 1 or batch_tokens < 1:
            raise ConfigError(
                f"batch_texts and batch_tokens must be at least 1, got {batch_texts}, {batch_tokens}"
            )
        super().__init__(
            model, base_url=base_url, key_env=key_env, timeout=timeout, concurrency=concurrency,
            retries=retries, backoff=backoff, max_wait=max_wait,
        )  # fmt: skip
        if self.base_url != OPENAI_URL:  # the same model's name means another model elsewhere
            self.name = f"{model} ({self.address.rstrip('/')})"
        self.batch_texts = batch_texts
        self.batch_tokens = batch_tokens
        self.tokens: int = 0  # as the server counts them
        self.dim: int | None = None
        self._truncated: set[str] = set()

    @classmethod
    def create(cls, argument: str, settings: EncoderSettings) -> Self:
        """Make the client of "openai:MODEL"."""
        return cls(
            argument, base_url=settings.base_url, key_env=settings.key_env, **dict(settings.endpoint or {})
        )

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Return float32[n, d_s]; see ``stream`` for the errors."""
        parts: list[tuple[Sequence[int], Float32Array]] = []
        self.stream(texts, lambda rows, vectors: parts.append((rows, vectors)))
        encoded = np.empty((len(texts), self.dim or 0), np.float32)
        for rows, vectors in parts:
            encoded[list(rows)] = vectors
        return encoded

    def stream(self, texts: Sequence[str], sink: Sink) -> None:
        """Pass vectors to ``sink(rows, vectors)`` as they arrive. Works inside a notebook's event loop, too.

        After a failure no more requests are sent; answers to those under way are still passed on.

        Raises:
            AccessError: every request will fail (key, model, quota, a pause longer than ``max_wait``).
            EndpointError: no answer in ``retries`` + 1 tries.
            RequestError: the server refuses a text.
            DataError: an answer that is not one finite vector of one length for each text.
        """
        run_in_a_loop(self._run(texts, sink))

    def is_truncated(self, texts: Sequence[str]) -> BoolArray:
        """Return bool[n]: whether a text was shortened for this endpoint; known after it was encoded."""
        return np.array([text in self._truncated for text in texts], bool)

    async def _run(self, texts: Sequence[str], sink: Sink) -> None:
        batches = self._batches(texts)
        failures: list[Exception] = []

        async def work() -> None:
            for rows in batches:  # one iterator for all workers
                try:
                    await self._batch(texts, rows, sink)
                except Exception as error:  # raised below, when the others have come to rest
                    failures.append(error)
                if failures:
                    return

        try:
            await asyncio.gather(*(work() for _ in range(self.concurrency)))
        finally:  # connections do not outlive their event loop
            await self.aclose()
        if failures:
            raise failures[0]

    def _batches(self, texts: Sequence[str]) -> Iterator[range]:
        """Consecutive rows, within both bounds."""
        start, tokens = 0, 0
        for row, text in enumerate(texts):
            size = len(text.encode("utf-8", "replace")) // 3 + 1  # no tokenizer makes more of most languages
            full = row - start >= self.batch_texts or tokens + size > self.batch_tokens
            if full and row > start:
                yield range(start, row)
                start, tokens = row, 0
            tokens += size
        if start < len(texts):
            yield range(start, len(texts))

    async def _batch(self, texts: Sequence[str], rows: range, sink: Sink) -> None:
        try:
            answer = await self._ask([texts[row] for row in rows])
        except BadRequest as error:
            if len(rows) == 1:
                answer = await self._ask_shortened(texts[rows[0]], error)
            else:
                middle = len(rows) // 2
                if not error.is_too_long:  # too many at once for this server, more likely than one bad text
                    self.batch_texts = min(self.batch_texts, len(rows) - middle)
                for half in (rows[:middle], rows[middle:]):
                    await self._batch(texts, half, sink)
                return
        self.tokens += answer.tokens
        self.dim = answer.vectors.shape[1]
        sink(rows, answer.vectors)

    async def _ask_shortened(self, text: str, error: BadRequest) -> _Answer:
        shorter = text
        while error.is_too_long and len(shorter) > SHORTEST:
            shorter = shorter[: len(shorter) * 3 // 4]
            try:
                answer = await self._ask([shorter])
            except BadRequest as again:
                error = again
                continue
            self._truncated.add(text)
            return answer
        raise RequestError(f"{self.name} refuses the text {text[:60]!r}: {error}", error.raw) from None

    async def _ask(self, texts: list[str]) -> _Answer:
        # Never the parameter that shortens vectors: a smaller dimension is never chosen silently. Plain
        # numbers, since not every server can do base64. Half characters and empty texts are refused by many.
        body = {
            "model": self._model,
            "input": [text.encode("utf-8", "replace").decode() or " " for text in texts],
            "encoding_format": "float",
        }

        async def attempt(connection: Connection) -> _Answer:
            return self._read(await self._send(connection, "/embeddings", body), len(texts))

        return await self._with_retries(attempt)

    def _read(self, content: bytes, n_texts: int) -> _Answer:
        """The vectors in a reply's content, in the order of the texts, whatever order they came in."""
        try:
            reply = json.loads(content)
        except ValueError:
            reply = None
        if not isinstance(reply, dict) or not isinstance(reply.get("data"), list):
            raise Transient("HTTP 200 without vectors in it", content.decode("utf-8", "replace"))
        entries = [mapping(entry) for entry in reply["data"]]
        order = [entry.get("index", place) for place, entry in enumerate(entries)]
        numbers = [place for place in order if isinstance(place, int)]
        if len(entries) != n_texts or sorted(numbers) != list(range(n_texts)):
            raise DataError(
                f"{self.name} answered {n_texts} texts with {len(entries)} vectors of the indices "
                f"{str(order)[:80]}: expected one vector for each text"
            )
        vectors: list[Any] = [None] * n_texts
        for place, entry in zip(order, entries, strict=True):
            vectors[place] = entry.get("embedding")
        return _Answer(
            checked(self.name, vectors, n_texts, self.dim),
            count(mapping(reply.get("usage")), "prompt_tokens"),
        )


class _Answer(NamedTuple):
    vectors: Float32Array
    tokens: int
