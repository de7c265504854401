"""ProfilingProgress, Estimate and Price: what a profiling run did, would take and costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from rlmrec.findings import Finding
from rlmrec.llm.base import Usage
from rlmrec.profiles.prompts import Prompt

# Kinds of failures without an answer: the next run sends these requests again, as nothing was paid for.
UNANSWERED = ("endpoint", "missing")
REASON_LENGTH = 200  # characters of an error's message in a summary


class Price(NamedTuple):
    """Prices per million tokens of prompts and of answers, in any currency."""

    prompt: float
    completion: float

    def of(self, usage: Usage) -> float:
        """Return the cost of ``usage``. Cached tokens count in full, so the bill is at most this."""
        return (usage.prompt * self.prompt + usage.completion * self.completion) / 1e6


@dataclass
class ProfilingProgress:
    """Counts of a profiling run, while it runs and at its end.

    Args:
        kind: "item" or "user".
        total: nodes.
        profiled: nodes with a profile, from earlier runs too.
        failed: nodes without one, by the kind of failure, from earlier runs too.
        reasons: the shortened error messages of failures, by kind; see ``reason``.
        kept: nodes that were profiled or failed before this run and stay as they are.
        cached: nodes settled without a request: by stored or replayed answers, or because there is no text.
        asked: requests that this run paid for, including refusals written by the model.
        usage: tokens of those.
        estimated: how many of them came without a count of tokens, so that ``usage`` and ``cost`` are estimates.
        cost: money for those; None without prices.
        repeated: tries repeated because the endpoint was busy or out of reach.
        repaired: answers that were repaired, by repair.
        truncations: prompts that were shortened to the budget of tokens, by what was left out.
        stopped: why the run ended early; None if it was completed.
        findings: what the answers of this run say that the user should know, such as another model's name.
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
    truncations: Counter[str] = field(default_factory=Counter)
    stopped: str | None = None
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, error_kind: str | None, error: str | None = None) -> None:
        """Count a node as profiled, or as failed with a kind and a message."""
        if error_kind is None:
            self.profiled += 1
            return
        self.failed[error_kind] += 1
        reason = " ".join((error or "").split())
        reason = reason if len(reason) <= REASON_LENGTH else reason[: REASON_LENGTH - 2] + " …"
        self.reasons.setdefault(error_kind, Counter())[reason] += 1

    @property
    def n_failed(self) -> int:
        """Number of failed nodes."""
        return self.failed.total()

    @property
    def n_unanswered(self) -> int:
        """Number of failed nodes that never got an answer; the next run sends their requests again."""
        return sum(self.failed[kind] for kind in UNANSWERED)

    def reason(self, error_kind: str) -> str:
        """Return the most frequent message of a kind of failure; "" if there is none."""
        counts = self.reasons.get(error_kind)
        return counts.most_common(1)[0][0] if counts else ""

    @property
    def done(self) -> int:
        """Number of nodes that are profiled or failed."""
        return self.profiled + self.n_failed

    @property
    def rate(self) -> float:
        """Nodes per second that took a request; 0 before the first."""
        new = self.done - self.kept - self.cached
        return new / self.seconds if self.seconds > 0 else 0.0

    @property
    def left(self) -> float | None:
        """Seconds left at this rate; None while it is unknown."""
        return (self.total - self.done) / self.rate if self.rate else None


@dataclass(frozen=True)
class Estimate:
    """Requests, tokens and cost that a run would take.

    Args:
        kind: "item" or "user".
        total: nodes.
        kept: nodes that need no request.
        requests: requests, without repetitions.
        usage: their tokens, estimated.
        cost: money; None without prices.
        truncations: prompts that were shortened to the budget of tokens, by what was left out.
        samples: the first prompts that would be sent.
    """

    kind: str
    total: int
    kept: int
    requests: int
    usage: Usage
    cost: float | None
    truncations: Counter[str]
    samples: tuple[Prompt, ...]
