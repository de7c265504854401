"""Power of a comparison: the smallest difference it can show, what the observed one needs, and what to try next."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scipy import special, stats

from rlmrec.errors import ConfigError
from rlmrec.evaluation.significance import LEAST_SEEDS, LEVEL

if TYPE_CHECKING:
    from rlmrec.evaluation.compare import CorrectedComparison, SeededComparison

POWER = 0.8
MOST_PAIRS = 10**9  # a difference that needs more is none
WITHIN_REACH = 10  # times the present pairs: with more needed, more data is no advice


def detectable(std: float, n: int, level: float = LEVEL, power: float = POWER) -> float:
    """Return the smallest difference that a two-sided paired t-test detects with a given probability.

        d = δ · s / √n,   where P(T'_{n−1}(δ) > t_{n−1, 1 − level/2}) = power

    T'(δ) is the noncentral t distribution. The chance of a significant result of the wrong sign, less than 10⁻⁴ at
    usual levels, is left out.

    Args:
        std: standard deviation s of the differences.
        n: number of pairs, at least 2.
        level: significance level.
        power: probability of a significant result.

    Raises:
        ConfigError: a negative deviation, fewer than 2 pairs, or a probability outside (0, 1).

    Source: Cohen 1988, chapter 2.

    Example:
        >>> round(detectable(1.0, 34), 2)
        0.49
    """
    if n < 2 or not std >= 0 or not 0 < level < 1 or not 0 < power < 1:
        raise ConfigError(
            f"expected std ≥ 0, n ≥ 2 and level and power in (0, 1), got {std}, {n}, {level} and {power}"
        )
    critical = stats.t.isf(level / 2, n - 1)
    return float(special.nctdtrinc(n - 1, 1 - power, critical) * std / math.sqrt(n))


def pairs_needed(
    difference: float, std: float, level: float = LEVEL, power: float = POWER, most: int = MOST_PAIRS
) -> int | None:
    """Return the number of pairs with which a difference is detected with a given probability.

    Args:
        difference: true mean of the differences, of either sign.
        std: their standard deviation.
        level: significance level.
        power: probability of a significant result.
        most: the largest number looked at.

    Returns:
        the smallest n whose ``detectable`` difference is at most as large as this one; None if it is above ``most``.

    Example:
        >>> pairs_needed(0.5, 1.0)
        34
    """
    if difference == 0:
        return None
    sizes = range(2, most + 1)
    # The smallest difference that n pairs detect falls as n grows, so that bisection finds the first that suffices.
    place = bisect_left(sizes, True, key=lambda n: detectable(std, n, level, power) <= abs(difference))
    return sizes[place] if place < len(sizes) else None


def power_sentences(found: SeededComparison, metric: str) -> list[str]:
    """Return what a comparison without a significant difference could have shown, over users and over seeds.

    Args:
        found: the comparison.
        metric: its metric, such as "recall@20".
    """
    if not found.users.std and not found.users.difference:
        return [f"The values of {metric} are the same for every user."]
    sides = [(found.users, "users")] + ([(found.seeds, "seeds")] if found.seeds is not None else [])
    return [_power_sentence(side, metric, unit) for side, unit in sides if side.std]


def _power_sentence(found: CorrectedComparison, metric: str, unit: str) -> str:
    share, relative = (
        f" ({100 * value / found.base:{form}} %)" if found.base else ""
        for value, form in ((found.detectable, ".1f"), (found.difference, "+.1f"))
    )
    # A test that is not significant always needs more pairs: its p is at least the level / tests.
    more = "more than a billion" if found.needed is None else f"about {rounded(found.needed):,}"
    return (
        f"{found.n:,} {unit} show a change of {metric} of {found.detectable:.2g}{share} or more with "
        f"{100 * POWER:.0f} % probability. Here it is {found.difference:+.2g}{relative}, for which {more} {unit} "
        "would be needed."
    )


def next_steps(found: SeededComparison, *, trained: bool = True, text: bool = True) -> list[str]:
    """Return what to try after a comparison without a significant difference, the most helpful first.

    Args:
        found: the comparison.
        trained: whether a model was trained in epochs. A closed form was not: its seed draws the validation users by
            which its options are chosen.
        text: whether the two differ in the text they use.
    """
    users, steps = found.users, list[str]()
    if not users.std and not users.difference:
        return steps  # the two are the same
    if trained and found.seeds is None:
        steps.append(
            f"More seeds: train both with at least {LEAST_SEEDS} (--seed 1, 2, 3). Their means vary less, and the "
            "change is tested over seeds too."
        )
    needed = users.needed
    if needed is not None and needed <= WITHIN_REACH * users.n:
        steps.append(f"More users: {rounded(needed):,} test users instead of {users.n:,}, so more data.")
    else:
        steps.append(
            "The change is too small for this data: treat the two as equal, and take the cheaper one."
        )
    if text:
        steps.append(
            "More text: profiles instead of titles (rlmrec profile), another encoder (rlmrec encode), or a look at "
            "short histories, where text helps most (rlmrec experiment history)."
        )
    steps.append("Other options: rlmrec sweep chooses them on validation, the weight of the text among them.")
    return steps


def rounded(number: int) -> int:
    """Return a whole number rounded up to two digits: an estimate has no more.

    Example:
        >>> rounded(12_345)
        13000
    """
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // unit) * unit


def nothing_significant(of_model: Sequence[SeededComparison]) -> bool:
    """Return whether no comparison of a model is significant, over users or over seeds."""
    return not any(
        side is not None and side.significant for found in of_model for side in (found.users, found.seeds)
    )
