"""Check of Theorem 2 (Section 3.1): log N − L_info is a lower bound of I(e; s) that becomes tighter as N grows.

The check uses data of known mutual information: x and y are standard normal in d dimensions, each pair of
components correlated by ρ:

    I(x; y) = −d/2 · log(1 − ρ²)  nats

x takes the place of the interactions and y that of the text. e is learned from x as a recommender learns it from
interactions, and f(e, s) = exp(cos(e, σ↓(y))/τ) is the paper's critic: our projector, our ``info_nce``. Both ends
are functions of x and y, so I(e; s) ≤ I(x; y) by the data processing inequality, and the bound holds for I(x; y)
as well. The exact critic p(y|x)/p(y), which is known here, shows the best that any critic can reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlmrec.alignment.projector import Projector
from rlmrec.config import Config
from rlmrec.errors import ConfigError
from rlmrec.experiments.results import Results, results_path
from rlmrec.experiments.trial import identity
from rlmrec.losses import info_nce


class Theorem2Config(Config):
    """Options of the draws and of the critic's training.

    Args:
        information: the true I in nats; a critic is trained for each.
        sizes: N, pairs in a set: each anchor has its partner and N − 1 negatives.
        dimensions: d of x and y.
        embedding_size: d' of e and σ↓(y).
        hidden: width of the two perceptrons.
        temperature: τ.
        steps: of training, each with ``batch_size`` fresh pairs.
        batch_size: N in training.
        learning_rate: of Adam, decayed to 0 along a cosine.
        anchors: least number of anchors for each estimate; none of them was trained on.
        seed: of everything random.
    """

    information: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    sizes: tuple[int, ...] = (4, 16, 64, 256, 1024, 4096)
    dimensions: int = 4
    embedding_size: int = 32
    hidden: int = 96
    temperature: float = 0.1
    steps: int = 1500
    batch_size: int = 512
    learning_rate: float = 3e-3
    anchors: int = 65536
    seed: int = 0


class Row(NamedTuple):
    """An estimate of the bound.

    Args:
        critic: "trained" (the paper's form) or "exact" (the density ratio itself).
        n: N.
        information: the true I, nats.
        bound: the mean of log N − L_info, nats.
        standard_error: of that mean, over independent sets of N pairs.
        sets: how many sets.
    """

    critic: str
    n: int
    information: float
    bound: float
    standard_error: float
    sets: int


DATASET = "gaussians"
CRITICS = ("trained", "exact")
Critic = Callable[[Tensor, Tensor], Tensor]  # x, y → L_info of one set


def correlation(information: float, dimensions: int) -> float:
    """Return the ρ that gives d pairs of normal variables the mutual information I.

        ρ = √(1 − exp(−2I/d))

    Example:
        >>> round(correlation(1.0, 4), 4)
        0.6273
    """
    return math.sqrt(-math.expm1(-2 * information / dimensions))


def draw(n: int, information: float, dimensions: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw n pairs (x, y), each (n, d), of mutual information I nats."""
    rho = correlation(information, dimensions)
    x, noise = (torch.randn(n, dimensions, generator=rng) for _ in range(2))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def exact_critic(information: float, dimensions: int) -> Critic:
    """Return L_info with f = p(y|x)/p(y), up to a factor of x alone, which cancels in Eq. 6.

    log f(x, y) = (ρ x·y − ρ²|y|²/2) / (1 − ρ²) + c(x)
    """
    rho = correlation(information, dimensions)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        log_f = (rho * x @ y.T - rho**2 / 2 * y.square().sum(1)) / (1 - rho**2)  # (N, N)
        return (log_f.logsumexp(1) - log_f.diagonal()).mean()

    return loss


def train_critic(information: float, config: Theorem2Config) -> Critic:
    """Learn e(x) and σ↓(y) by minimising L_info over fresh pairs, and return L_info of that critic."""
    rng = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng():  # the caller's random numbers stay as they were
        torch.manual_seed(config.seed)
        # The projector's hidden width is the mean of its sizes: widen the input first, as a text encoder does.
        encoder, projector = (
            torch.nn.Sequential(
                torch.nn.Linear(config.dimensions, config.hidden),
                torch.nn.LeakyReLU(),
                Projector(config.hidden, config.embedding_size),
            )
            for _ in range(2)
        )

    def loss(x: Tensor, y: Tensor) -> Tensor:
        s = projector(y)
        return info_nce(encoder(x), s, s, config.temperature)

    optimiser = torch.optim.Adam([*encoder.parameters(), *projector.parameters()], config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    for _ in range(config.steps):
        optimiser.zero_grad()
        loss(*draw(config.batch_size, information, config.dimensions, rng)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return loss


@torch.no_grad()
def estimate(critic: Critic, n: int, information: float, config: Theorem2Config) -> tuple[float, float, int]:
    """Return the mean of log N − L_info over sets of n fresh pairs, its standard error and the number of sets."""
    sets = max(30, math.ceil(config.anchors / n))
    rng = torch.Generator().manual_seed(config.seed + 1)  # other pairs than in training
    drawn = (draw(n, information, config.dimensions, rng) for _ in range(sets))
    bounds = math.log(n) - torch.stack([critic(x, y) for x, y in drawn]).double()
    return float(bounds.mean()), float(bounds.std() / math.sqrt(sets)), sets


def theorem2(
    config: Theorem2Config | None = None, on_row: Callable[[Row, int, int], None] | None = None
) -> list[Row]:
    """Train a critic for each I and estimate the bound for each N, with it and with the exact one.

    Args:
        config: what is drawn and how the critic is trained.
        on_row: called with each row, its number from 1 on, and the total.

    Raises:
        ConfigError: an N below 2, or an I that is negative.
    """
    config = config or Theorem2Config()
    if min(config.sizes) < 2 or min(config.information) < 0:
        raise ConfigError(
            f"expected N of at least 2 and I of at least 0, got {config.sizes} and {config.information}"
        )
    rows: list[Row] = []
    total = 2 * len(config.information) * len(config.sizes)
    for information in config.information:
        critics = {
            "trained": train_critic(information, config),
            "exact": exact_critic(information, config.dimensions),
        }
        for name, critic in critics.items():
            for n in config.sizes:
                rows.append(Row(name, n, information, *estimate(critic, n, information, config)))
                if on_row is not None:
                    on_row(rows[-1], len(rows), total)
    return rows


def run(
    folder: Path,
    config: Theorem2Config | None = None,
    on_row: Callable[[Row, int, int], None] | None = None,
) -> list[Row]:
    """Run ``theorem2`` and store each row in ``folder/theorem2/gaussians.jsonl`` with its configuration.

    Stored rows are not estimated again; a killed run continues with the missing ones.

    Args:
        folder: of results.
        config: what is drawn and how the critic is trained.
        on_row: called with each new row, its number from 1 on, and the number of new ones.
    """
    config = config or Theorem2Config()
    results = Results[dict[str, Any]](results_path(folder, "theorem2", DATASET))
    used = config.model_dump(exclude={"information", "sizes"})

    def row_id(critic: str, information: float, n: int) -> str:
        return identity({"critic": critic, "information": information, "n": n, "config": used})

    missing = {
        information: tuple(
            n
            for n in config.sizes
            if not all(row_id(critic, information, n) in results.records for critic in CRITICS)
        )
        for information in config.information
    }
    total = len(CRITICS) * sum(map(len, missing.values()))
    done = 0

    def keep(row: Row, *_: int) -> None:
        nonlocal done
        done += 1
        found = {**row._asdict(), "config": used}
        key = row_id(row.critic, row.information, row.n)
        results.append({"id": key, "status": "done", "dataset": DATASET, **found})
        if on_row is not None:
            on_row(row, done, total)

    for information, sizes in missing.items():
        if sizes:  # a critic is trained for each I, and each N is estimated on pairs of its own
            theorem2(config.model_copy(update={"information": (information,), "sizes": sizes}), keep)
    kept = (
        results.records[row_id(critic, information, n)]
        for information in config.information
        for critic in CRITICS
        for n in config.sizes
    )
    return [Row(*(record[field] for field in Row._fields)) for record in kept]


def violations(rows: Sequence[Row], standard_errors: float = 4.0) -> list[Row]:
    """Return the rows whose bound exceeds I by more than chance allows; none if the theorem holds."""
    slack = 1e-6  # of float32, where the bound has no spread at all (I = 0)
    return [row for row in rows if row.bound - row.information > standard_errors * row.standard_error + slack]
