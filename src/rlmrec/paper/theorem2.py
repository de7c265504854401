"""Theorem 2 (Section 3.1): log N − L_info is a lower bound of the mutual information I(e; s), tighter as N grows.

Shown where I is known. x and y are standard normal in d dimensions, each pair of components correlated by ρ:

    I(x; y) = −d/2 · log(1 − ρ²)  nats

x plays the interactions, y the text. e is learned from x as a recommender learns it from interactions, and
f(e, s) = exp(cos(e, σ↓(y))/τ) is the paper's critic: our projector, our ``info_nce``. Both ends are functions
of x and y, so by the data processing inequality I(e; s) ≤ I(x; y), and the bound holds for I(x; y) as well.
Beside it the theorem's own critic, p(y|x)/p(y), which here is known: the best that any critic can reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rlmrec.alignment.projector import Projector
from rlmrec.config import Config
from rlmrec.errors import ConfigError
from rlmrec.experiments.runner import Results, lines_path
from rlmrec.experiments.trial import identity
from rlmrec.losses import info_nce


class Theorem2Config(Config):
    """What is drawn and how the critic is trained.

    Args:
        information: the true I in nats, a critic for each.
        sizes: N, pairs in a set: each anchor has its partner and N − 1 others to be told from.
        dimensions: d of x and y.
        embedding_size: d' of e and σ↓(y).
        hidden: width of the two perceptrons.
        temperature: τ.
        steps: of training, each with ``batch_size`` fresh pairs.
        batch_size: N in training.
        learning_rate: of Adam, falling to 0 along a cosine.
        anchors: anchors to estimate each bound from, at least; none of them was trained on.
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
    """One estimate.

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
    """ρ that gives d pairs of normal variables the mutual information I: √(1 − exp(−2I/d)).

    Example:
        >>> round(correlation(1.0, 4), 4)
        0.6273
    """
    return math.sqrt(-math.expm1(-2 * information / dimensions))


def draw(n: int, information: float, dimensions: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """n pairs (x, y), each (n, d), of mutual information I nats."""
    rho = correlation(information, dimensions)
    x, noise = (torch.randn(n, dimensions, generator=rng) for _ in range(2))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def exact_critic(information: float, dimensions: int) -> Critic:
    """L_info with f = p(y|x)/p(y), up to a factor of x alone, which Eq. 6 does not see.

    log f(x, y) = (ρ x·y − ρ²|y|²/2) / (1 − ρ²) + c(x)
    """
    rho = correlation(information, dimensions)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        log_f = (rho * x @ y.T - rho**2 / 2 * y.square().sum(1)) / (1 - rho**2)  # (N, N)
        return (log_f.logsumexp(1) - log_f.diagonal()).mean()

    return loss


def train_critic(information: float, config: Theorem2Config) -> Critic:
    """Learn e(x) and σ↓(y) by minimising L_info over fresh pairs, and return the loss of the critic they make."""
    rng = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng():  # the caller's random numbers stay as they were
        torch.manual_seed(config.seed)
        # The projector's width is the mean of its sizes: lift the input first, as a text encoder's is.
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
    """Mean of log N − L_info over independent sets of n fresh pairs, its standard error, the number of sets."""
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
        on_row: told each row, its number from 1 on, and how many there will be.

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
    """``theorem2``, kept in ``folder/theorem2/gaussians.jsonl``: a row a line, with the configuration it came from.

    What is stored there is not estimated again; a killed run goes on with the rows that it lacks.

    Args:
        folder: of results.
        config: what is drawn and how the critic is trained.
        on_row: told each new row, its number from 1 on, and how many new ones there will be.
    """
    config = config or Theorem2Config()
    results = Results(lines_path(folder, "theorem2", DATASET))
    used = config.model_dump(exclude={"information", "sizes"})

    def name(critic: str, information: float, n: int) -> str:
        return identity({"critic": critic, "information": information, "n": n, "config": used})

    lacking = {
        information: tuple(
            n
            for n in config.sizes
            if not all(name(critic, information, n) in results.lines for critic in CRITICS)
        )
        for information in config.information
    }
    total = len(CRITICS) * sum(map(len, lacking.values()))
    done = 0

    def keep(row: Row, *_: int) -> None:
        nonlocal done
        done += 1
        found = {**row._asdict(), "config": used}
        asked = name(row.critic, row.information, row.n)
        results.append({"id": asked, "status": "done", "dataset": DATASET, **found})
        if on_row is not None:
            on_row(row, done, total)

    for information, sizes in lacking.items():
        if sizes:  # a critic is trained for one I, and each N is judged on pairs of its own
            theorem2(config.model_copy(update={"information": (information,), "sizes": sizes}), keep)
    kept = (
        results.lines[name(critic, information, n)]
        for information in config.information
        for critic in CRITICS
        for n in config.sizes
    )
    return [Row(*(line[field] for field in Row._fields)) for line in kept]


def violations(rows: Sequence[Row], standard_errors: float = 4.0) -> list[Row]:
    """The rows whose bound exceeds I by more than chance allows; none, if the theorem holds."""
    slack = 1e-6  # of float32, where the bound has no spread at all (I = 0)
    return [row for row in rows if row.bound - row.information > standard_errors * row.standard_error + slack]
