"""Requests: what a profiling run sends to the model, each request once and within a bound on the cost."""

from __future__ import annotations

import asyncio

from rlmrec.errors import AccessError, ConfigError, EndpointError, LLMError, RefusedError, RequestError
from rlmrec.llm.base import LLM, Completion, Usage
from rlmrec.llm.store import Store
from rlmrec.profiles.budget import estimate_tokens
from rlmrec.profiles.dialogue import ModelRequest, Outcome
from rlmrec.profiles.parse import SCHEMA
from rlmrec.profiles.progress import Price, ProfilingProgress

ANSWER_TOKENS = 150  # of a typical answer, for an estimate before the first one


class Requests:
    """Requests of one run. Answers are committed to the store the moment they arrive.

    With a bound on the cost, each request reserves what its longest answer may cost. So only a server that ignores
    ``max_tokens`` can pass the bound, by at most the answers that are in flight when the first of them arrives.

    Args:
        llm: the model.
        store: where answers are stored.
        progress: where requests, tokens and cost are counted, and why the run stops.
        price: prices; None if unknown.
        max_cost: most money that the requests may cost; None without a bound.
        give_up_after: so many requests in a row without an answer stop the run.
    """

    def __init__(
        self,
        llm: LLM,
        store: Store,
        progress: ProfilingProgress,
        price: Price | None,
        max_cost: float | None,
        give_up_after: int,
    ) -> None:
        self.llm, self.store, self.progress = llm, store, progress
        self.price, self.max_cost, self.give_up_after = price, max_cost, give_up_after
        self._in_flight: dict[str, asyncio.Future[Outcome | None]] = {}
        self._reserved = 0.0  # the most that the requests in flight may cost
        self._freed = asyncio.Event()
        self._unanswered_in_a_row = 0
        # Most tokens of an answer; a server that ignores the limit shows it by its first long one.
        self._longest = int(llm.options.get("max_tokens", 4 * ANSWER_TOKENS))

    async def ask(self, request: ModelRequest) -> tuple[Outcome | None, bool]:
        """Return the outcome and whether this call paid for it; the outcome is None if the run stops."""
        running = self._in_flight.get(request.hash)
        if running is not None:  # two nodes with the same prompt pay once
            return await asyncio.shield(running), False
        waiting = asyncio.get_running_loop().create_future()
        self._in_flight[request.hash] = waiting
        outcome: Outcome | None = None
        try:
            outcome = await self._send(request)
        finally:
            del self._in_flight[request.hash]
            if not waiting.done():
                waiting.set_result(outcome)
        return outcome, not self.llm.replays

    async def _send(self, request: ModelRequest) -> Outcome | None:
        reserved = await self._reserve(request)
        if reserved is None or self.progress.stopped:
            return None
        try:
            answer = await self.llm.complete(request.system, request.prompt, SCHEMA)
            if not isinstance(answer, Completion):
                raise ConfigError(
                    f"complete() of the model {self.llm.name!r} returned {type(answer).__name__}, expected a "
                    "rlmrec.llm.Completion: return Completion(text)"
                )
            # No await between the answer and its commit: from here on it is paid for.
            self.store.put_answer(request.hash, self.llm.name, self.llm.options, answer)
            self._pay(request, answer.usage, answer.text)
        except AccessError as error:
            self.progress.stopped = self.progress.stopped or str(error)
            return None
        except LLMError as error:
            if isinstance(error, RefusedError) and error.usage is not None:
                self._pay(request, error.usage, str(error))
            self._watch(error)
            return error
        finally:
            self._reserved -= reserved
            self._freed.set()
        self._unanswered_in_a_row = 0
        return answer

    async def _reserve(self, request: ModelRequest) -> float | None:
        """Reserve and return the most that the request may cost; None if that exceeds the bound."""
        if self.price is None or self.max_cost is None or self.llm.replays:
            return 0.0
        while True:
            most = self.price.of(Usage(request.tokens, self._longest))
            if (self.progress.cost or 0.0) + self._reserved + most <= self.max_cost:
                break
            if self._reserved <= 1e-12:
                self.progress.stopped = (
                    f"the next request could take the cost over the bound of {self.max_cost:g}"
                )
            if self.progress.stopped:
                return None
            self._freed.clear()
            await self._freed.wait()  # answers mostly cost less than was reserved for them
        self._reserved += most
        return most

    def _pay(self, request: ModelRequest, usage: Usage, text: str) -> None:
        """Count an answer; tokens that the server did not count are estimated."""
        if self.llm.replays:
            return
        progress = self.progress
        progress.asked += 1
        if usage.prompt == 0 or (usage.completion == 0 and text):
            progress.estimated += 1
            usage = usage._replace(
                prompt=usage.prompt or request.tokens, completion=usage.completion or estimate_tokens(text)
            )
        self._longest = max(self._longest, usage.completion)
        progress.usage = progress.usage.plus(usage)
        if self.price is not None:
            progress.cost = self.price.of(progress.usage)

    def _watch(self, error: LLMError) -> None:
        """Stop the run when the endpoint is gone, instead of failing thousands of nodes one by one."""
        if not isinstance(error, EndpointError):
            if isinstance(error, RequestError | RefusedError):  # it refuses, so it is there
                self._unanswered_in_a_row = 0
            return
        self._unanswered_in_a_row += 1
        if self._unanswered_in_a_row >= self.give_up_after and self.progress.stopped is None:
            self.progress.stopped = (
                f"{self._unanswered_in_a_row} requests in a row got no answer, the last one: {error}"
            )
