"""SpreadChat: requests to an endpoint that are sent by several workers of Ray instead of one process."""

from __future__ import annotations

import math
import uuid
from collections import Counter
from functools import partial
from typing import NamedTuple

from rlmrec.engine import RayEngine
from rlmrec.findings import Finding
from rlmrec.llm.base import LLM, Completion, JsonSchema
from rlmrec.llm.client import OpenAIChat

REQUESTS_EACH = 64  # at once, of a worker


class _Counts(NamedTuple):
    """What a worker has counted so far; ``worker`` tells apart those that were started after one died."""

    worker: str
    tries_repeated: int
    other_models: Counter[str]


class SpreadChat(LLM):
    """A model at an endpoint whose requests are sent by workers of Ray.

    Prompts are still made in this process, which commits each answer the moment it arrives, so bounds on the cost and
    resuming are the same. Each request is sent once, except those under way in a worker that dies: these are sent, and
    may be paid for, a second time. The key is read from the environment of the workers and never sent to them.

    Args:
        llm: the model. Its ``concurrency``, ``rpm`` and ``tpm`` are divided among the workers.
        engine: has the workers: one for each 64 requests at once, at most one for each CPU.
    """

    def __init__(self, llm: OpenAIChat, engine: RayEngine) -> None:
        self.llm = llm
        self.name, self.options, self.concurrency = llm.name, llm.options, llm.concurrency
        self.copies = min(engine.cpus, math.ceil(llm.concurrency / REQUESTS_EACH))
        share = llm.divided(self.copies)
        self._ask = engine.service(partial(_Sender, share), self.copies, share.concurrency)
        self._counts: dict[str, _Counts] = {}

    async def complete(self, system: str, prompt: str, schema: JsonSchema | None = None) -> Completion:
        """Answer one prompt; see ``OpenAIChat.complete``."""
        answer, counts = await self._ask((system, prompt, schema))
        self._counts[counts.worker] = counts
        self.tries_repeated = sum(one.tries_repeated for one in self._counts.values())
        return answer

    def findings(self) -> list[Finding]:
        """Return what the answers so far say that the user should know."""
        self.llm.other_models = sum((one.other_models for one in self._counts.values()), Counter())
        return self.llm.findings()


class _Sender:
    """Sends requests in a worker."""

    def __init__(self, llm: OpenAIChat) -> None:
        self.llm = llm
        self.worker = uuid.uuid4().hex

    async def __call__(self, request: tuple[str, str, JsonSchema | None]) -> tuple[Completion, _Counts]:
        answer = await self.llm.complete(*request)
        return answer, _Counts(self.worker, self.llm.tries_repeated, self.llm.other_models)
