"""The profiler: every item and user through the language model, many at once, nothing paid twice.

A run is a walk over all nodes. Each one's prompt is made anew and its hash looked up in the store: what is
answered is only read, what is not is asked for. So there is no state beside the store, a killed run goes on
by starting again, and a changed prompt or model asks again for exactly what it changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rlmrec.data.dataset import Dataset
from rlmrec.errors import (
    AccessError,
    ConfigError,
    EndpointError,
    LLMError,
    RefusedError,
    RequestError,
    WorkspaceError,
)
from rlmrec.http_client import run_in_a_loop
from rlmrec.llm.client import LLM, Completion, Usage
from rlmrec.llm.store import Confirmed, Profile, Store, request_hash
from rlmrec.profiles.parse import SCHEMA, WORDS, AnswerError, parse
from rlmrec.profiles.prompts import (
    Prompt,
    PromptBuilder,
    PromptOptions,
    estimate_tokens,
    load_template,
)
from rlmrec.profiles.texts import Stored, stored_profiles

# Failures without an answer: the next run asks again of itself, there is nothing to pay twice.
UNANSWERED = ("endpoint", "missing")
REFUSED = ("refused", "request")  # the endpoint's last word on a prompt; there is no answer to read
CONFIRM_AT_ONCE = 500  # profiles in one commit
REASON_LENGTH = 200  # characters of an error's message in a summary
ANSWER_TOKENS = 150  # of a typical answer, for an estimate before the first one


class Price(NamedTuple):
    """Money for a million tokens, in any currency."""

    prompt: float
    completion: float

    def of(self, usage: Usage) -> float:
        """What ``usage`` costs; cached tokens count in full, so the true bill is at most this."""
        return (usage.prompt * self.prompt + usage.completion * self.completion) / 1e6


class Request(NamedTuple):
    """One question to the model, and the hash under which its answer is stored."""

    hash: str
    system: str
    prompt: str


@dataclass
class Progress:
    """How far a run is, and at its end what it did.

    Args:
        kind: "item" or "user".
        total: nodes.
        profiled: nodes with a profile, earlier ones included.
        failed: nodes without one, by the kind of failure, earlier ones included.
        reasons: what was said of those, shortened, by the kind of failure; see ``reason``.
        kept: nodes that were settled before this run.
        cached: nodes settled in this run without a request: by stored or replayed answers, or as there is
            nothing to ask with.
        asked: requests that this run paid for, refusals that the model wrote included.
        usage: tokens of those.
        estimated: how many of them came without a count of tokens, so that ``usage`` and ``cost`` estimate it.
        cost: money for those; None without prices.
        repeated: tries that were repeated, because the endpoint was busy or out of reach.
        repaired: repairs of answers, by what was done.
        cuts: prompts cut to the budget, by what was left out.
        stopped: why the run ended early; None when it went through.
        seconds: since the start.
    """

    kind: str
    total: int
    profiled: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    kept: int = 0
    cached: int = 0
    asked: int = 0
    usage: Usage = field(default_factory=Usage)
    estimated: int = 0
    cost: float | None = None
    repeated: int = 0
    repaired: Counter[str] = field(default_factory=Counter)
    cuts: Counter[str] = field(default_factory=Counter)
    stopped: str | None = None
    seconds: float = 0.0

    @property
    def n_failed(self) -> int:
        """Nodes that ended in a failure."""
        return self.failed.total()

    @property
    def n_unanswered(self) -> int:
        """Failed nodes that never got an answer, which the next run asks again of itself."""
        return sum(self.failed[kind] for kind in UNANSWERED)

    def reason(self, error_kind: str) -> str:
        """The commonest message of a kind of failure; "" where there is none."""
        counts = self.reasons.get(error_kind)
        return counts.most_common(1)[0][0] if counts else ""

    @property
    def done(self) -> int:
        """Nodes that are settled, one way or the other."""
        return self.profiled + self.n_failed

    @property
    def rate(self) -> float:
        """Nodes a second that took a request; 0 before the first."""
        new = self.done - self.kept - self.cached
        return new / self.seconds if self.seconds > 0 else 0.0

    @property
    def left(self) -> float | None:
        """Seconds to go at this rate; None while nobody can tell."""
        return (self.total - self.done) / self.rate if self.rate else None


@dataclass(frozen=True)
class Estimate:
    """What a run would take.

    Args:
        kind: "item" or "user".
        total: nodes.
        kept: nodes that need no request.
        requests: requests, without repetitions.
        usage: their tokens, estimated.
        cost: money, None without prices.
        cuts: prompts cut to the budget, by what was left out.
        samples: the first prompts that would be asked.
    """

    kind: str
    total: int
    kept: int
    requests: int
    usage: Usage
    cost: float | None
    cuts: Counter[str]
    samples: tuple[Prompt, ...]


class Profiler:
    """Writes profiles of a dataset's items and users with a language model, into a store.

    Args:
        llm: any ``LLM``.
        store: where answers and profiles go.
        domain: whose words the prompts use: general, books, businesses, games, movies.
        folder: a folder with prompts of your own (item.md, user.md).
        small: short prompts with examples, for small models; None asks the model (``llm.small``).
        options: what goes into a prompt.
        attempts: requests per node, at most: an unusable answer is asked for again, saying what was wrong.
        concurrency: nodes in work at once; None asks the model (``llm.concurrency``, else 8).
        price: money per million tokens, for ``cost`` and ``max_cost``.
        max_cost: a run stops before its requests cost more than this.
        allow_partial: profile users though some items have not been: their prompts call such an item's
            profile "None", and change, so that they are paid again, once the item has one.
        on_progress: called after every node.

    Raises:
        ConfigError: a number out of range, or a bound on the cost without prices.

    Source: Section 3.2 of the paper, arXiv 2310.15950.

    Example:
        >>> import tempfile, numpy as np, polars as pl
        >>> from rlmrec.data.interactions import Interactions
        >>> from rlmrec.data.vocabulary import Vocabulary
        >>> class Parrot:
        ...     name = "parrot"
        ...     async def complete(self, system, prompt, schema=None):
        ...         return Completion('{"summarization": "Readers of short books.", "reasoning": "Short."}')
        >>> every = Interactions(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), 2, 2)
        >>> dataset = Dataset(
        ...     "tiny", every.take(np.array([0, 1, 2])), every.take(np.array([3])), every.take(np.array([], int)),
        ...     Vocabulary(["ann", "bob"]), Vocabulary([7, 8]),
        ...     item_texts=pl.DataFrame({"title": ["Emma", "Ulysses"], "description": ["A novel.", "Another."]}),
        ... )
        >>> with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "profiles.sqlite") as store:
        ...     profiler = Profiler(Parrot(), store, domain="books")
        ...     items, users = profiler.run(dataset, "item"), profiler.run(dataset, "user")
        ...     print(items.profiled, users.profiled, store.profile("user", "ann").summarization)
        2 2 Readers of short books.
    """

    def __init__(
        self,
        llm: LLM,
        store: Store,
        *,
        domain: str = "general",
        folder: Path | None = None,
        small: bool | None = None,
        options: PromptOptions | None = None,
        attempts: int = 3,
        concurrency: int | None = None,
        price: Price | None = None,
        max_cost: float | None = None,
        allow_partial: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.llm = llm
        self.store = store
        self.domain = domain
        self.folder = folder
        self.small = bool(getattr(llm, "small", False)) if small is None else small
        self.options = options or PromptOptions()
        self.attempts = attempts
        self.concurrency: int = getattr(llm, "concurrency", 8) if concurrency is None else concurrency
        self.price = price
        self.max_cost = max_cost
        self.allow_partial = allow_partial
        self.on_progress = on_progress
        self._llm_options: dict[str, Any] = dict(getattr(llm, "options", {}))
        if attempts < 1 or self.concurrency < 1:
            raise ConfigError(
                f"attempts and concurrency must be at least 1, got {attempts}, {self.concurrency}"
            )
        for label, value in (
            ("max_cost", max_cost),
            *zip(("price in", "price out"), price or (), strict=False),
        ):
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"{label} must be a number of money, at least 0, got {value}")
        if max_cost is not None and price is None:
            raise ConfigError("a bound on the cost needs prices: give --price-in and --price-out as well")

    # -- what is called --------------------------------------------------------------------------------

    def run(
        self, dataset: Dataset, kind: str, *, limit: int | None = None, retry_failed: bool = False
    ) -> Progress:
        """Profile all items or all users that are not yet. Works inside a notebook's event loop, too.

        Args:
            dataset: what to profile; of its interactions only the training ones are looked at.
            kind: "item" or "user"; users' prompts quote the items' profiles in the store.
            limit: settle at most this many nodes that are not settled yet.
            retry_failed: ask again for nodes whose answers were unusable. Nodes that never got an answer
                are asked for again in any case.

        Returns:
            what was done; ``stopped`` says why if not everything was, for example because the endpoint
            refuses every request (``AccessError``).

        Raises:
            WorkspaceError: another process writes to the store; users before all items; item profiles made
                for another dataset, or from interactions that this one holds out.
            ConfigError: something about the model or the prompts is wrong.
        """

        async def whole() -> Progress:
            try:
                return await self.arun(dataset, kind, limit=limit, retry_failed=retry_failed)
            finally:  # connections do not outlive their event loop
                if (close := getattr(self.llm, "aclose", None)) is not None:
                    await close()

        return run_in_a_loop(whole())

    async def arun(
        self, dataset: Dataset, kind: str, *, limit: int | None = None, retry_failed: bool = False
    ) -> Progress:
        """``run`` as a coroutine. Closing the model's connections is the caller's."""
        with self.store.writing():
            run = _Run(self, dataset, kind, limit, retry_failed)
            await run.go()
            return run.progress

    def pending(
        self, dataset: Dataset, kind: str, *, limit: int | None = None, retry_failed: bool = False
    ) -> Iterator[Request]:
        """Settle every node that stored answers settle, and yield the next request of each other one.

        Nothing is asked. For batch files, and for finishing after one was read. See ``run`` for the rest.
        """
        with self.store.writing():
            run = _Run(self, dataset, kind, limit, retry_failed)
            yield from run.offline()

    def settle(
        self, dataset: Dataset, kind: str, *, errors: Mapping[str, LLMError] | None = None
    ) -> Progress:
        """Settle every node that stored answers settle, ask nothing; ``total - done`` nodes are left.

        Args:
            dataset: what to profile.
            kind: "item" or "user".
            errors: refusals by the hash of their request; their nodes are recorded as failed.
        """
        with self.store.writing():
            run = _Run(self, dataset, kind, None, retry_failed=False)
            for _ in run.offline(errors or {}):
                pass
            return run.progress

    def estimate(
        self,
        dataset: Dataset,
        kind: str,
        *,
        limit: int | None = None,
        retry_failed: bool = False,
        samples: int = 3,
    ) -> Estimate:
        """What a run with these arguments would take, without a request.

        Users before all items have profiles are estimated with profiles of average length in their place.
        """
        builder = self.builder(dataset, kind, assume_profiles=True)
        count, used = self.store.usage(
            self.llm.name, self._llm_options
        )  # models differ in how much they write
        answer = round(used.completion / count) if count else ANSWER_TOKENS
        kept = requests = tokens = total = 0
        cuts: Counter[str] = Counter()
        shown: list[Prompt] = []
        for prompt in builder.prompts(kind):
            total += 1
            request = self.request(prompt)
            if prompt.nothing or self._needs_none(prompt, request, retry_failed):
                kept += 1
                continue
            if limit is not None and requests >= limit:
                continue
            requests += 1
            tokens += prompt.tokens
            cuts.update(prompt.cuts)
            if len(shown) < samples:
                shown.append(prompt)
        usage = Usage(tokens, requests * answer)
        cost = None if self.price is None else self.price.of(usage)
        return Estimate(kind, total, kept, requests, usage, cost, cuts, tuple(shown))

    # -- parts -----------------------------------------------------------------------------------------

    def builder(self, dataset: Dataset, kind: str, *, assume_profiles: bool = False) -> PromptBuilder:
        """The prompt builder of a dataset. It is handed the training interactions and no others."""
        template = load_template(kind, self.domain, folder=self.folder, small=self.small)
        profiles = sources = None
        if kind == "user":
            try:
                stored = stored_profiles(self.store, dataset, "item")
            except WorkspaceError:
                if not assume_profiles:
                    raise
                stored = Stored([None] * dataset.n_items, 0, Counter(), [()] * dataset.n_items)
            left = len(stored.texts) - stored.profiled - stored.failed + stored.unanswered
            if assume_profiles and left and not (self.allow_partial and stored.profiled):
                assumed = "some words about who would enjoy it " * 8
                stored.texts[:] = [text or assumed for text in stored.texts]
            else:
                _refuse_too_few(stored, left, dataset, self.store.path, self.allow_partial)
            profiles, sources = stored.texts, stored.sources
        return PromptBuilder(
            dataset.train, dataset.users, dataset.items, dataset.item_texts,
            {kind: template}, self.options, profiles, sources,
        )  # fmt: skip

    def request(self, prompt: Prompt, text: str | None = None) -> Request:
        """The request that a prompt makes; ``text`` in place of its own when it is asked again."""
        text = prompt.text if text is None else text
        return Request(
            request_hash(self.llm.name, self._llm_options, prompt.system, text), prompt.system, text
        )

    def steps(self, prompt: Prompt, content: str = "") -> Generator[Request, Completion | LLMError, Profile]:
        """From a prompt to a profile: yields requests, is sent answers or errors, returns the profile.

        Each try's prompt follows from the answers before it alone, so a restarted run walks the same way
        through stored answers.
        """
        asked: list[str] = []
        used = Usage()
        raw: str | None = None
        text = prompt.text

        def profile(**outcome: Any) -> Profile:
            return Profile(
                prompt.kind, prompt.key, outcome.pop("summarization", None), outcome.pop("reasoning", None),
                asked[0], prompt.sources, requests=tuple(asked), usage=used,
                model=self.llm.name, dataset=content, quoted=prompt.quoted, **outcome,
            )  # fmt: skip

        for attempt in range(1, self.attempts + 1):
            request = self.request(prompt, text)
            asked.append(request.hash)
            outcome = yield request
            if isinstance(outcome, LLMError):
                used = _sum(used, getattr(outcome, "usage", None) or Usage())
                sent = outcome.raw if outcome.raw is not None else raw
                return profile(error=str(outcome), error_kind=outcome.kind, raw=sent, notes=prompt.cuts)
            used = _sum(used, outcome.usage)
            raw = outcome.text
            last = attempt == self.attempts
            try:
                parsed = parse(raw, WORDS[prompt.kind], finish=outcome.finish, last_try=last)
            except AnswerError as error:
                if last or error.kind == "none":  # a model that cannot tell would not the second time
                    return profile(
                        error=f"{error} (after {attempt} of {self.attempts} tries)",
                        error_kind=error.kind,
                        raw=raw,
                        notes=prompt.cuts,
                    )
                again = _ASK_AGAIN[error.kind].format(words=WORDS[prompt.kind])
                text = f"{prompt.text}\n\n{again} (Try {attempt + 1}.)"  # numbered: a question of its own
                continue
            notes = (*prompt.cuts, *parsed.notes)
            return profile(summarization=parsed.summarization, reasoning=parsed.reasoning, notes=notes)
        raise AssertionError("unreachable: the last attempt returns")

    def _needs_none(self, prompt: Prompt, request: Request, retry_failed: bool) -> bool:
        """Whether a run asks nothing for a node: it is settled, or an answer that stays in force will be read."""
        if self._is_settled(prompt, request, retry_failed):
            return True
        if self.store.answer(request.hash) is None:
            return False
        state = self.store.state(prompt.kind, prompt.key)
        retired = retry_failed and state is not None and state.error_kind is not None and not state.news
        return not (retired and state is not None and state.request == request.hash)

    def _is_settled(self, prompt: Prompt, request: Request, retry_failed: bool = False) -> bool:
        state = self.store.state(prompt.kind, prompt.key)
        if state is None or state.request != request.hash:
            return False
        if prompt.nothing:
            return True
        if state.error_kind is None:
            return True
        if retry_failed or state.error_kind in UNANSWERED:
            return False
        # A retry that was under way when the process died goes on: its old answers are out of force already,
        # or a new one has come in the meantime.
        return state.news is (None if state.error_kind in REFUSED else False)


_ASK_AGAIN = {
    "empty": "Your last answer was empty. Answer with the JSON object that was asked for.",
    "malformed": "Your last answer was not JSON. Answer with nothing but the JSON object that was asked for.",
    "truncated": "Your last answer was too long and was cut off. Answer with the JSON object in fewer words.",
    "keys": 'Your last answer had other keys. Answer with the JSON object of the keys "summarization" and '
    '"reasoning", both of them texts.',
    "form": "Your last answer repeated the form. Answer with the JSON object, filled in.",
    "too long": "Your last summarization was far too long. Answer again, with at most {words} words.",
}


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(*(a + b for a, b in zip(one, other, strict=True)))


def _refuse_too_few(stored: Stored, left: int, dataset: Dataset, path: Path, allow_partial: bool) -> None:
    """Users' prompts quote the items' profiles, so paying for them before there are any is money lost."""
    if not stored.profiled:
        raise WorkspaceError(
            f"{path} holds no profile of an item of {dataset.name}, and users' prompts quote them: "
            "write them first ('rlmrec profile --items')"
        )
    if left and not allow_partial:
        raise WorkspaceError(
            f"{left:,} of {len(stored.texts):,} items of {dataset.name} have no profile yet, and users' prompts "
            "quote them: run 'rlmrec profile --items' to the end first, or --allow-partial"
        )


def _prompt_tokens(request: Request) -> int:
    return estimate_tokens(request.system) + estimate_tokens(request.prompt)


class _Run:
    """One walk over all nodes."""

    def __init__(
        self, profiler: Profiler, dataset: Dataset, kind: str, limit: int | None, retry_failed: bool
    ) -> None:
        self.profiler = profiler
        self.store = profiler.store
        self.content = dataset.content
        self.retry_failed = retry_failed
        self.limit = limit
        total = dataset.n_items if kind == "item" else dataset.n_users
        self.progress = Progress(kind, total, cost=None if profiler.price is None else 0.0)
        builder = profiler.builder(dataset, kind)
        self.kind = kind
        self.vocabulary = dataset.items if kind == "item" else dataset.users
        self.make: Callable[[int], Prompt] = builder.item if kind == "item" else builder.user
        # Repeating stored answers costs nothing, so nothing of it is counted as asked or paid.
        self.replays = bool(getattr(profiler.llm, "replays", False))
        self.repeated_before = self._repeated()
        self.broken = False
        self.started = time.monotonic()
        self.taken = 0
        self.confirmed: list[Confirmed] = []
        self.in_flight: dict[str, asyncio.Future[Completion | LLMError]] = {}
        self.reserved = 0.0
        self.freed = asyncio.Event()
        self.unanswered_in_a_row = 0
        self.give_up = max(10, 2 * profiler.concurrency)

    # -- with a model ----------------------------------------------------------------------------------

    async def go(self) -> None:
        """Work through all nodes, some at once. An error that ends the run lets requests in flight finish."""
        rows = iter(range(self.progress.total))  # one iterator for all workers
        workers = [asyncio.create_task(self._work(rows)) for _ in range(self.profiler.concurrency)]
        clock = asyncio.create_task(self._tell_every_second())
        try:
            ended = await asyncio.gather(*workers, return_exceptions=True)
        finally:
            for task in (*workers, clock):
                task.cancel()
        try:
            self._confirm()
        except sqlite3.Error as failure:
            ended.append(failure)
        self._tell()
        for error in ended:
            if isinstance(error, sqlite3.Error):
                raise WorkspaceError(f"cannot write to {self.store.path}: {error}") from None
            if isinstance(error, BaseException):
                raise error

    async def _tell_every_second(self) -> None:
        while True:  # repeated tries are told while no node is settled
            await asyncio.sleep(1)
            self._tell()

    async def _work(self, rows: Iterator[int]) -> None:
        try:
            for row in rows:
                if self.broken:
                    return
                prompt = self._take(row)
                if prompt is not None:
                    await self._settle(prompt)
                    self._tell()
                elif row % 50 == 0:
                    await asyncio.sleep(0)  # thousands of settled nodes must not hold up answers
        except BaseException:
            self.broken = True
            raise

    def _take(self, row: int) -> Prompt | None:
        """The prompt of a node that is to be worked on; one that is settled, or stays as it is, is counted."""
        left_alone = self.progress.stopped is not None or (
            self.limit is not None and self.taken >= self.limit
        )
        if left_alone and self.store.state(self.kind, self.vocabulary.id(row)) is None:
            return None
        prompt = self.make(row)
        if left_alone or self.profiler._is_settled(prompt, self.profiler.request(prompt), self.retry_failed):
            self._count_as_before(prompt)
            return None
        self.taken += 1
        if prompt.nothing:
            self._record(self._unasked(prompt), prompt, paid=False)
            return None
        if self.retry_failed:
            self.store.retire_failure(prompt.kind, prompt.key)
        return prompt

    def _count_as_before(self, prompt: Prompt) -> None:
        """Count a node that this run leaves as it is, if it has a profile or a failure of this very prompt."""
        state = self.store.state(prompt.kind, prompt.key)
        if state is None or state.request != self.profiler.request(prompt).hash:
            return
        self.progress.kept += 1
        if state.dataset != self.content:  # of another split or other texts, and its prompt is still the same
            self.confirmed.append(
                Confirmed(prompt.kind, prompt.key, self.content, prompt.sources, prompt.quoted)
            )
            if len(self.confirmed) >= CONFIRM_AT_ONCE:
                self._confirm()
        if state.error_kind is None:
            self._count(None)
        else:
            failed = self.store.profile(prompt.kind, prompt.key)
            self._count(state.error_kind, None if failed is None else failed.error)

    def _confirm(self) -> None:
        if self.confirmed:
            self.store.confirm(self.confirmed)
            self.confirmed.clear()

    def _unasked(self, prompt: Prompt) -> Profile:
        return Profile(
            prompt.kind, prompt.key, None, None, self.profiler.request(prompt).hash, prompt.sources,
            error=f"nothing to go by: the {prompt.kind} has neither texts nor training interactions that have any",
            error_kind="none", model=self.profiler.llm.name, dataset=self.content, quoted=prompt.quoted,
        )  # fmt: skip

    async def _settle(self, prompt: Prompt) -> None:
        steps = self.profiler.steps(prompt, self.content)
        paid = False
        request = next(steps)
        while True:
            outcome: Completion | LLMError | None = self.store.answer(request.hash)
            if outcome is None:
                outcome, fresh = await self._ask(request)
                paid |= fresh
                if outcome is None:  # the run stops; nothing is recorded, the next one asks
                    self._count_as_before(prompt)
                    return
            try:
                request = steps.send(outcome)
            except StopIteration as end:
                self._record(end.value, prompt, paid)
                return

    async def _ask(self, request: Request) -> tuple[Completion | LLMError | None, bool]:
        """(answer, whether this call paid for it); None when the run is stopping."""
        running = self.in_flight.get(request.hash)
        if running is not None:  # two nodes with the same prompt pay once
            return await asyncio.shield(running), False
        waiting = asyncio.get_running_loop().create_future()
        self.in_flight[request.hash] = waiting
        outcome: Completion | LLMError | None = None
        try:
            outcome = await self._send(request)
        finally:
            del self.in_flight[request.hash]
            if not waiting.done():
                waiting.set_result(outcome)
        return outcome, not self.replays

    async def _send(self, request: Request) -> Completion | LLMError | None:
        most = await self._afford(request)
        if most is None or self.progress.stopped:
            return None
        llm = self.profiler.llm
        try:
            answer = await llm.complete(request.system, request.prompt, SCHEMA)
            if not isinstance(answer, Completion):
                raise ConfigError(
                    f"complete() of the model {llm.name!r} returned {type(answer).__name__}, expected a "
                    "rlmrec.llm.client.Completion: return Completion(text)"
                )
            # Nothing may come between the answer and its commit: from here on it is paid for.
            self.store.put_answer(request.hash, llm.name, self.profiler._llm_options, answer)
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
            self.reserved -= most
            self.freed.set()
        self.unanswered_in_a_row = 0
        return answer

    async def _afford(self, request: Request) -> float | None:
        """Reserve what the request may cost at most; None when that is over the bound."""
        price, bound = self.profiler.price, self.profiler.max_cost
        if price is None or bound is None or self.replays:
            return 0.0
        longest = int(self.profiler._llm_options.get("max_tokens", 4 * ANSWER_TOKENS))
        most = price.of(Usage(_prompt_tokens(request), longest))
        while (self.progress.cost or 0.0) + self.reserved + most > bound:
            if self.reserved <= 1e-12:
                self.progress.stopped = f"the next request could take the cost over the bound of {bound:g}"
            if self.progress.stopped:
                return None
            self.freed.clear()
            await self.freed.wait()  # answers mostly cost less than was reserved for them
        self.reserved += most
        return most

    def _pay(self, request: Request, usage: Usage, text: str) -> None:
        """Count an answer. Where the server does not say what it took, an estimate stands in for it."""
        if self.replays:
            return
        progress = self.progress
        progress.asked += 1
        if usage.prompt == 0 or (usage.completion == 0 and text):
            progress.estimated += 1
            usage = usage._replace(
                prompt=usage.prompt or _prompt_tokens(request),
                completion=usage.completion or estimate_tokens(text),
            )
        progress.usage = _sum(progress.usage, usage)
        if self.profiler.price is not None:
            progress.cost = self.profiler.price.of(progress.usage)

    def _watch(self, error: LLMError) -> None:
        """An endpoint that is gone must not fail thousands of nodes one by one."""
        if not isinstance(error, EndpointError):
            if isinstance(error, RequestError | RefusedError):  # an endpoint that refuses is there
                self.unanswered_in_a_row = 0
            return
        self.unanswered_in_a_row += 1
        if self.unanswered_in_a_row >= self.give_up and self.progress.stopped is None:
            self.progress.stopped = (
                f"{self.unanswered_in_a_row} requests in a row got no answer, the last one: {error}"
            )

    def _record(self, profile: Profile, prompt: Prompt, paid: bool) -> None:
        if not (profile.error_kind in UNANSWERED and self._is_usable(profile)):
            self.store.put_profile(profile)
        self.progress.cached += not paid
        self.progress.cuts.update(prompt.cuts)
        self.progress.repaired.update(profile.notes[len(prompt.cuts) :])
        self._count(profile.error_kind, profile.error)

    def _is_usable(self, failed: Profile) -> bool:
        """Whether there is a profile, another model's perhaps, that an endpoint out of reach must not cost."""
        there = self.store.profile(failed.kind, failed.key)
        return there is not None and there.error is None and there.dataset == self.content

    def _count(self, error_kind: str | None, error: str | None = None) -> None:
        if error_kind is None:
            self.progress.profiled += 1
            return
        self.progress.failed[error_kind] += 1
        reason = " ".join((error or "").split())
        reason = reason if len(reason) <= REASON_LENGTH else reason[: REASON_LENGTH - 2] + " …"
        self.progress.reasons.setdefault(error_kind, Counter())[reason] += 1

    def _repeated(self) -> int:
        return int(getattr(self.profiler.llm, "tries_repeated", 0))

    def _tell(self) -> None:
        self.progress.repeated = self._repeated() - self.repeated_before
        self.progress.seconds = time.monotonic() - self.started
        if self.profiler.on_progress is not None:
            self.profiler.on_progress(self.progress)

    # -- without one -----------------------------------------------------------------------------------

    def offline(self, errors: Mapping[str, LLMError] | None = None) -> Iterator[Request]:
        """Settle what the store's answers and ``errors`` settle; yield what is missing, each request once."""
        errors = errors or {}
        yielded: set[str] = set()
        try:
            for row in range(self.progress.total):
                prompt = self._take(row)
                if prompt is None:
                    continue
                steps = self.profiler.steps(prompt, self.content)
                request = next(steps)
                with contextlib.suppress(StopIteration):
                    while (
                        outcome := self.store.answer(request.hash) or errors.get(request.hash)
                    ) is not None:
                        try:
                            request = steps.send(outcome)
                        except StopIteration as end:
                            self._record(end.value, prompt, paid=False)
                            raise
                    if request.hash not in yielded:
                        yielded.add(request.hash)
                        yield request
        finally:
            self._confirm()
        self._tell()
