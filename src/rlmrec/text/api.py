"""Text vectors from any OpenAI-compatible ``/embeddings`` endpoint: OpenAI, vLLM, Ollama, llama.cpp, TEI."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from rlmrec.errors import ConfigError, DataError, RefusedError, RequestError
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
from rlmrec.text.encoder import EncoderSettings, Sink, TextEncoder, checked, list_of_texts
from rlmrec.types import BoolArray, Float32Array

SHORTEST = 30  # characters; a text that is still refused at this length is not refused for its length
ALL_REFUSED = 10  # after so many refused texts and none accepted, a plain one shows whether it is the texts
PLAIN_TEXT = "a plain text"


class OpenAIEmbeddings(Endpoint, TextEncoder):
    """An OpenAI-compatible embeddings endpoint; see ``Endpoint`` for how faults are met.

    A batch that the server refuses is sent again in halves, down to the text that it refuses. That text is cut
    until it is accepted, see ``is_truncated``, whatever the server says is wrong with it; a refusal costs nothing.
    If cutting does not help, ``refused`` holds the text with the server's sentence, and all other texts are encoded.
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
        rpm: most requests a minute; None sets no bound.
        tpm: most tokens a minute, by the same estimate; None sets no bound.

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
        rpm: float | None = None,
        tpm: float | None = None,
    ) -> None:
        if batch_texts < 1 or batch_tokens < 1:
            raise ConfigError(
                f"batch_texts and batch_tokens must be at least 1, got {batch_texts}, {batch_tokens}"
            )
        super().__init__(
            model, base_url=base_url, key_env=key_env, timeout=timeout, concurrency=concurrency,
            retries=retries, backoff=backoff, max_wait=max_wait, rpm=rpm, tpm=tpm,
        )  # fmt: skip
        if self.base_url != OPENAI_URL:  # the same model's name means another model elsewhere
            self.name = f"{model} ({self.address.rstrip('/')})"
        self.batch_texts = batch_texts
        self.batch_tokens = batch_tokens
        self.tokens: int = 0  # as the server counts them
        self.dim: int | None = None
        self.refused: dict[str, str] = {}
        self._truncated: set[str] = set()

    @classmethod
    def create(cls, argument: str, settings: EncoderSettings) -> Self:
        """Make the client of "openai:MODEL"."""
        return cls(
            argument, base_url=settings.base_url, key_env=settings.key_env, **dict(settings.endpoint or {})
        )

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Return float32[n, d_s]; see ``stream`` for the errors.

        Raises:
            RequestError: the server refuses a text; the others were encoded.
        """
        texts = list_of_texts(texts)
        parts: list[tuple[Sequence[int], Float32Array]] = []
        self.stream(texts, lambda rows, vectors: parts.append((rows, vectors)))
        for text in texts:
            if text in self.refused:
                raise RequestError(f"{self.name} refuses the text {text[:60]!r}: {self.refused[text]}")
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
            RequestError: the server refuses every text.
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
            size = _size(text)
            full = row - start >= self.batch_texts or tokens + size > self.batch_tokens
            if full and row > start:
                yield range(start, row)
                start, tokens = row, 0
            tokens += size
        if start < len(texts):
            yield range(start, len(texts))

    async def _batch(self, texts: Sequence[str], rows: range, sink: Sink) -> bool:
        """Encode some rows; return whether the server took all of them in one request."""
        try:
            answer = await self._ask([texts[row] for row in rows])
        except (BadRequest, RefusedError) as error:
            if len(rows) == 1:
                await self._refused_text(texts, rows, error, sink)
                return False
            middle = len(rows) // 2
            halves = rows[:middle], rows[middle:]
            taken = [await self._batch(texts, half, sink) for half in halves]
            if all(taken):  # too much at once for this server, no single text
                if isinstance(error, BadRequest) and error.is_too_long:
                    self.batch_tokens = max(sum(_size(texts[row]) for row in half) for half in halves)
                else:
                    self.batch_texts = min(self.batch_texts, len(rows) - middle)
            return False
        self._keep(answer, rows, sink)
        return True

    async def _refused_text(
        self, texts: Sequence[str], rows: range, error: BadRequest | RefusedError, sink: Sink
    ) -> None:
        """Encode the beginning of a text that the server refuses as it is, or give it up."""
        text = texts[rows[0]]
        try:
            if isinstance(error, RefusedError):  # for what it says, not for its length
                raise error
            answer = await self._shortened(text, error, SHORTEST, lambda shorter: self._ask([shorter]))
        except (BadRequest, RefusedError) as last:
            self.refused[text] = str(last)
            if self.dim is None and len(self.refused) >= ALL_REFUSED:
                await self._check_plain_text()
            return
        self._truncated.add(text)
        self._keep(answer, rows, sink)

    async def _check_plain_text(self) -> None:
        """Raise an error if the server refuses a plain text, too: then it refuses all of them."""
        try:
            answer = await self._ask([PLAIN_TEXT])
        except (BadRequest, RefusedError) as error:
            raise RequestError(
                f"{self.name} refuses every text, plain ones too: {error}", error.raw
            ) from None
        self.tokens += answer.tokens
        self.dim = answer.vectors.shape[1]

    def _keep(self, answer: _Answer, rows: range, sink: Sink) -> None:
        self.tokens += answer.tokens
        self.dim = answer.vectors.shape[1]
        sink(rows, answer.vectors)

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

        return await self._with_retries(attempt, sum(map(_size, texts)))

    def _read(self, content: bytes, n_texts: int) -> _Answer:
        """The vectors in a reply's content, in the order of the texts, whatever order they came in."""
        reply = self._reply(content)
        if not isinstance(reply.get("data"), list):
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


def _size(text: str) -> int:
    """Return a text's tokens, estimated: no tokenizer makes more of most languages."""
    return len(text.encode("utf-8", "replace")) // 3 + 1
