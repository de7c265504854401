"""Profiler: profiles of every item and user from a language model, many at once, no request paid for twice.

A run walks over all nodes. It makes each node's prompt and looks its hash up in the store: stored answers are
read, the others are requested. There is no state beside the store, so a killed run continues when it is started
again, and a changed prompt or model re-sends only the prompts that changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from rlmrec.data.dataset import Dataset
from rlmrec.data.metadata import described_items
from rlmrec.errors import ConfigError, LLMError, WorkspaceError
from rlmrec.http_client import run_in_a_loop
from rlmrec.llm.base import LLM, Usage
from rlmrec.llm.store import Confirmed, Profile, Store
from rlmrec.profiles.dialogue import Dialogue, ModelRequest, Outcome
from rlmrec.profiles.progress import UNANSWERED, Estimate, Price, ProfilingProgress
from rlmrec.profiles.prompts import Prompt, PromptBuilder, PromptOptions
from rlmrec.profiles.requests import ANSWER_TOKENS, Requests
from rlmrec.profiles.select import StoredProfiles, stored_profiles
from rlmrec.profiles.template import load_template
from rlmrec.sqlite import reason
from rlmrec.types import BoolArray

REFUSED = ("refused", "request")  # kinds of failures that are final: the endpoint rejected the prompt itself
SAMPLES = 64  # prompts that are made again to see whether all are the same
CONFIRM_AT_ONCE = 500  # profiles in one commit


class Profiler:
    """Writes profiles of a dataset's items and users with a language model, into a store.

    Args:
        llm: the model.
        store: where answers and profiles are kept.
        domain: the wording of the prompts: general, books, businesses, games, movies.
        folder: a folder with your own prompts (item.md, user.md).
        small: short prompts with examples, for small models; by default ``llm.small``.
        options: what goes into a prompt.
        attempts: most requests per node: an unusable answer is requested again, saying what was wrong.
        concurrency: nodes in work at once; by default ``llm.concurrency``.
        price: prices per million tokens, for ``cost`` and ``max_cost``.
        max_cost: a run stops before its requests cost more than this.
        allow_partial: profile users although some items have no profile yet. Their prompts give "None" as such
            an item's profile; once it has one they change and are paid for again.
        on_progress: called after every node.

    Raises:
        ConfigError: the model is no ``LLM``, a number is out of range, or there is a bound on the cost without
            prices.

    Source: Section 3.2 of the paper, arXiv 2310.15950.

    Example:
        >>> import tempfile, numpy as np, polars as pl
        >>> from rlmrec.data.interactions import Interactions
        >>> from rlmrec.data.vocabulary import Vocabulary
        >>> from rlmrec.llm import Completion
        >>> class Parrot(LLM):
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
        on_progress: Callable[[ProfilingProgress], None] | None = None,
    ) -> None:
        if not isinstance(llm, LLM):
            raise ConfigError(
                f"llm is a {type(llm).__name__}, expected a rlmrec.llm.LLM: derive your class from it"
            )
        self.llm = llm
        self.store = store
        self.domain = domain
        self.folder = folder
        self.small = llm.small if small is None else small
        self.options = options or PromptOptions()
        self.attempts = attempts
        self.concurrency = llm.concurrency if concurrency is None else concurrency
        self.price = price
        self.max_cost = max_cost
        self.allow_partial = allow_partial
        self.on_progress = on_progress
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

    def run(
        self, dataset: Dataset, kind: str, *, limit: int | None = None, retry_failed: bool = False
    ) -> ProfilingProgress:
        """Profile all items or all users that have no profile yet. Works inside a notebook's event loop, too.

        Args:
            dataset: what to profile; of its interactions only the training ones are read.
            kind: "item" or "user"; users' prompts quote the items' profiles in the store.
            limit: most nodes to profile in this run.
            retry_failed: request again where answers were unusable. Requests that never got an answer are
                sent again in any case.

        Returns:
            the counts; ``stopped`` gives the reason if the run ended early, for example because the endpoint
            refuses every request (``AccessError``).

        Raises:
            WorkspaceError: another process writes to the store; users before all items; item profiles made
                for another dataset, or from interactions that this one holds out.
            ConfigError: something about the model or the prompts is wrong.
        """

        async def whole() -> ProfilingProgress:
            try:
                return await self.arun(dataset, kind, limit=limit, retry_failed=retry_failed)
            finally:
                await self.llm.aclose()  # connections cannot move to another event loop

        return run_in_a_loop(whole())

    async def arun(
        self, dataset: Dataset, kind: str, *, limit: int | None = None, retry_failed: bool = False
    ) -> ProfilingProgress:
        """Run as a coroutine; see ``run``. The caller closes the model's connections."""
        with self.store.writing():
            walk = _Walk(self, dataset, kind, limit, retry_failed)
            await walk.online()
            return walk.progress

    def pending(
        self, dataset: Dataset, kind: str, *, limit: int | None = None, retry_failed: bool = False
    ) -> Iterator[ModelRequest]:
        """Write every profile that stored answers suffice for; yield the next request of every other node.

        Nothing is sent. This is for batch files; see ``run`` for arguments and errors.
        """
        with self.store.writing():
            yield from _Walk(self, dataset, kind, limit, retry_failed).offline({})

    def settle(
        self, dataset: Dataset, kind: str, *, errors: Mapping[str, LLMError] | None = None
    ) -> ProfilingProgress:
        """Write every profile that stored answers suffice for; send nothing. ``total - done`` nodes are left.

        Args:
            dataset: what to profile.
            kind: "item" or "user".
            errors: refusals by the hash of their request; their nodes are recorded as failed.
        """
        with self.store.writing():
            walk = _Walk(self, dataset, kind, None, retry_failed=False)
            for _ in walk.offline(errors or {}):
                pass
            return walk.progress

    def estimate(
        self,
        dataset: Dataset,
        kind: str,
        *,
        limit: int | None = None,
        retry_failed: bool = False,
        samples: int = 3,
    ) -> Estimate:
        """Estimate what a run with these arguments would take, without a request.

        For users before all items have profiles, profiles of average length stand in for the missing ones.
        """
        builder = self.builder(dataset, kind, assume_profiles=True)
        # The same model's answers only: models differ in how much they write.
        count, used = self.store.usage(self.llm.name, self.llm.options)
        answer = round(used.completion / count) if count else ANSWER_TOKENS
        kept = requests = tokens = total = 0
        truncations: Counter[str] = Counter()
        shown: list[Prompt] = []
        for prompt in builder.prompts(kind):
            total += 1
            if prompt.nothing or self._needs_no_request(prompt, retry_failed):
                kept += 1
                continue
            if limit is not None and requests >= limit:
                continue
            requests += 1
            tokens += prompt.tokens
            truncations.update(prompt.truncations)
            if len(shown) < samples:
                shown.append(prompt)
        usage = Usage(tokens, requests * answer)
        cost = None if self.price is None else self.price.of(usage)
        return Estimate(kind, total, kept, requests, usage, cost, truncations, tuple(shown))

    def builder(self, dataset: Dataset, kind: str, *, assume_profiles: bool = False) -> PromptBuilder:
        """Return the prompt builder of a dataset. Of the interactions it gets the training ones only."""
        template = load_template(kind, self.domain, folder=self.folder, small=self.small)
        profiles = sources = None
        if kind == "user":
            try:
                stored = stored_profiles(self.store, dataset, "item")
            except WorkspaceError:
                if not assume_profiles:
                    raise
                stored = StoredProfiles.none(dataset.n_items)
            left = len(stored.texts) - stored.profiled - stored.failed + stored.unanswered
            if assume_profiles and left and not (self.allow_partial and stored.profiled):
                assumed = "some words about who would enjoy it " * 8
                stored.texts[:] = [text or assumed for text in stored.texts]
            else:
                _refuse_too_few(stored, left, dataset, self.store.path, self.allow_partial)
            profiles, sources = stored.texts, stored.sources
        return PromptBuilder(
            dataset.train, dataset.users, dataset.items, described_items(dataset),
            {kind: template}, self.options, profiles, sources,
            attributes_too="prompt_attributes" in dataset.provenance,
        )  # fmt: skip

    def recipe(self, builder: PromptBuilder, content: str, kind: str) -> str:
        """Return the hash of everything that the requests of a kind follow from.

        Args:
            builder: of the dataset; users' prompts follow from its item profiles, too.
            content: ``Dataset.content``.
            kind: "item" or "user".
        """
        told = [
            content, kind, builder.templates[kind].source, asdict(self.options), builder.attributes_too,
            self.llm.name, dict(self.llm.options),
        ]  # fmt: skip
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        if kind == "user":
            for profile in zip(builder.item_profiles or (), builder.item_sources, strict=False):
                digest.update(json.dumps(profile).encode())
        return digest.hexdigest()

    def request(self, prompt: Prompt) -> ModelRequest:
        """Return the first request that a prompt makes."""
        return ModelRequest.of(self.llm, prompt)

    def is_settled(self, prompt: Prompt, retry_failed: bool = False) -> bool:
        """Return whether the node's profile or failure is of this very prompt and final."""
        state = self.store.state(prompt.kind, prompt.key)
        if state is None or state.request != self.request(prompt).hash:
            return False
        if prompt.nothing or state.error_kind is None:
            return True
        if retry_failed or state.error_kind in UNANSWERED:
            return False
        # A retry that was under way when the process died goes on: its old answers are out of force already,
        # or a new one has arrived in the meantime.
        return state.answered_since is (None if state.error_kind in REFUSED else False)

    def _needs_no_request(self, prompt: Prompt, retry_failed: bool) -> bool:
        """Return whether the node is settled, or an answer that stays in force will be read."""
        if self.is_settled(prompt, retry_failed):
            return True
        request = self.request(prompt)
        if self.store.answer(request.hash) is None:
            return False
        state = self.store.state(prompt.kind, prompt.key)
        if state is None or state.request != request.hash:
            return True
        return not (retry_failed and state.error_kind is not None and not state.answered_since)


def _refuse_too_few(
    stored: StoredProfiles, left: int, dataset: Dataset, path: Path, allow_partial: bool
) -> None:
    """Refuse to write users' prompts, which quote the items' profiles, before there are item profiles."""
    if not stored.profiled:
        raise WorkspaceError(
            f"{path} holds no profile of an item of {dataset.name}, and users' prompts quote them: "
            "write them first ('rlmrec profile --items')"
        )
    if left and not allow_partial:
        raise WorkspaceError(
            f"{left:,} of {len(stored.texts):,} items of {dataset.name} have no profile yet, and users' prompts "
            "quote them: run 'rlmrec profile --items' to the end first, or add --allow-partial"
        )


class _Walk:
    """One walk over all nodes of a kind: ``online`` sends requests, ``offline`` only reads stored answers."""

    def __init__(
        self, profiler: Profiler, dataset: Dataset, kind: str, limit: int | None, retry_failed: bool
    ) -> None:
        self.profiler, self.store, self.llm = profiler, profiler.store, profiler.llm
        self.kind, self.content = kind, dataset.content
        self.limit, self.retry_failed = limit, retry_failed
        total, self.vocabulary = (
            (dataset.n_items, dataset.items) if kind == "item" else (dataset.n_users, dataset.users)
        )
        self.progress = ProfilingProgress(kind, total, cost=None if profiler.price is None else 0.0)
        builder = profiler.builder(dataset, kind)
        self.recipe = profiler.recipe(builder, self.content, kind)
        self.make: Callable[[int], Prompt] = builder.item if kind == "item" else builder.user
        self.repeated_before = self.llm.tries_repeated
        self.broken = False
        self.started = time.monotonic()
        self.taken = 0
        self.confirmed: list[Confirmed] = []
        self.rows = np.flatnonzero(~self._unchanged())  # of the nodes to look at
        self.progress.kept = self.progress.profiled = total - len(self.rows)

    def _unchanged(self) -> BoolArray:
        """Return bool[total]: who has a profile by this very recipe, so that no prompt needs to be made again.

        Another version of rlmrec may word prompts otherwise, so some of them are made to see; if one differs, all are.
        """
        keys = set(self.store.made_by(self.kind, self.recipe))
        found = np.fromiter((raw in keys for raw in self.vocabulary.ids), bool, self.progress.total)
        rows = np.flatnonzero(found)
        samples = rows[:: max(1, len(rows) // SAMPLES)].tolist()
        return (
            found
            if all(self.profiler.is_settled(self.make(row)) for row in samples)
            else np.zeros_like(found)
        )

    async def online(self) -> None:
        """Work on several nodes at once. An error that ends the run lets requests in flight finish."""
        profiler = self.profiler
        requests = Requests(
            self.llm, self.store, self.progress, profiler.price, profiler.max_cost,
            give_up_after=max(10, 2 * profiler.concurrency),
        )  # fmt: skip
        rows = map(int, self.rows)  # one iterator for all workers
        workers = [asyncio.create_task(self._work(rows, requests)) for _ in range(profiler.concurrency)]
        clock = asyncio.create_task(self._report_every_second())
        try:
            ended = await asyncio.gather(*workers, return_exceptions=True)
        finally:
            for task in (*workers, clock):
                task.cancel()
        try:
            self._confirm()
        except sqlite3.Error as failure:
            ended.append(failure)
        self.progress.findings = self.llm.findings()
        self._report()
        for error in ended:
            if isinstance(error, sqlite3.Error):
                raise WorkspaceError(f"cannot write to {self.store.path}: {reason(error)}") from None
            if isinstance(error, BaseException):
                raise error

    def offline(self, errors: Mapping[str, LLMError]) -> Iterator[ModelRequest]:
        """Settle what the store's answers and ``errors`` settle; yield the missing requests, each once."""

        def lookup(request: ModelRequest) -> Outcome | None:
            return self.store.answer(request.hash) or errors.get(request.hash)

        yielded: set[str] = set()
        try:
            for row in map(int, self.rows):
                prompt = self._take(row)
                if prompt is None:
                    continue
                dialogue = self._dialogue(prompt)
                if (profile := dialogue.advance(lookup)) is not None:
                    self._record(profile, prompt, paid=False)
                elif dialogue.request.hash not in yielded:
                    yielded.add(dialogue.request.hash)
                    yield dialogue.request
        finally:
            self._confirm()
        self._report()

    async def _work(self, rows: Iterator[int], requests: Requests) -> None:
        try:
            for row in rows:
                if self.broken:
                    return
                prompt = self._take(row)
                if prompt is not None:
                    await self._settle(prompt, requests)
                    self._report()
                elif row % 50 == 0:
                    await asyncio.sleep(0)  # thousands of settled nodes must not hold up answers
        except BaseException:
            self.broken = True
            raise

    async def _settle(self, prompt: Prompt, requests: Requests) -> None:
        dialogue = self._dialogue(prompt)
        paid = False
        while (profile := dialogue.advance(lambda request: self.store.answer(request.hash))) is None:
            outcome, fresh = await requests.ask(dialogue.request)
            paid |= fresh
            if outcome is None:  # the run stops: nothing is recorded, the next run sends the request
                self._count_as_before(prompt)
                return
            dialogue.receive(outcome)
        self._record(profile, prompt, paid)

    def _dialogue(self, prompt: Prompt) -> Dialogue:
        return Dialogue(self.llm, prompt, self.profiler.attempts, self.content)

    def _take(self, row: int) -> Prompt | None:
        """Return the prompt of a node to work on; None, after counting it, for a node that stays as it is."""
        left_alone = self.progress.stopped is not None or (
            self.limit is not None and self.taken >= self.limit
        )
        if left_alone and self.store.state(self.kind, self.vocabulary.id(row)) is None:
            return None
        prompt = self.make(row)
        if left_alone or self.profiler.is_settled(prompt, self.retry_failed):
            self._count_as_before(prompt)
            return None
        self.taken += 1
        if prompt.nothing:
            self._record(self._dialogue(prompt).fail_unasked(), prompt, paid=False)
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
        # Of another split, other texts or an older version, but its prompt is the same.
        if state.dataset != self.content or state.error_kind is None:
            self.confirmed.append(
                Confirmed(prompt.kind, prompt.key, self.content, prompt.sources, prompt.quoted, self.recipe)
            )
            if len(self.confirmed) >= CONFIRM_AT_ONCE:
                self._confirm()
        failed = None if state.error_kind is None else self.store.profile(prompt.kind, prompt.key)
        self.progress.count(state.error_kind, None if failed is None else failed.error)

    def _confirm(self) -> None:
        if self.confirmed:
            self.store.confirm(self.confirmed)
            self.confirmed.clear()

    def _record(self, profile: Profile, prompt: Prompt, paid: bool) -> None:
        if not (profile.error_kind in UNANSWERED and self._has_usable(profile)):
            self.store.put_profile(replace(profile, recipe=self.recipe))
        self.progress.cached += not paid
        self.progress.truncations.update(prompt.truncations)
        self.progress.repaired.update(profile.notes[len(prompt.truncations) :])
        self.progress.count(profile.error_kind, profile.error)

    def _has_usable(self, failed: Profile) -> bool:
        """Return whether the node has a profile, which an endpoint out of reach must not replace."""
        stored = self.store.profile(failed.kind, failed.key)
        return stored is not None and stored.error is None and stored.dataset == self.content

    async def _report_every_second(self) -> None:
        while True:  # so that repeated tries are reported while no node is settled
            await asyncio.sleep(1)
            self._report()

    def _report(self) -> None:
        self.progress.repeated = self.llm.tries_repeated - self.repeated_before
        self.progress.seconds = time.monotonic() - self.started
        if self.profiler.on_progress is not None:
            self.profiler.on_progress(self.progress)
