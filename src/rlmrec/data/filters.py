"""Filters: the options by which a source is filtered and split, checked in one place."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from typing import Any, NamedTuple

import numpy as np

from rlmrec.data.split import SplitRule, check_shares
from rlmrec.errors import ConfigError

COLD = ("keep", "drop")
DAY = 86400.0  # seconds; the day after the last one of the calendar has no date
Moment = float | str | date | None  # a bound of a period


class Filters(NamedTuple):
    """The options of ``Dataset.from_source``, which describes them, after ``checked``."""

    min_rating: float | None
    period: tuple[float | None, float | None] | None
    sample_users: float | None
    k_core: int
    rule: SplitRule
    cold: str
    seed: int

    @classmethod
    def checked(
        cls,
        min_rating: Any = None,
        period: Any = None,
        sample_users: Any = None,
        k_core: Any = 1,
        split: Any = (3, 1, 1),
        cold: Any = "keep",
        seed: Any = 0,
    ) -> Filters:
        """Check the options as somebody has passed them.

        Raises:
            ConfigError: one has a wrong type or is out of range.
            DataError: a split that is no three numbers.
        """
        for name, value in (("min_rating", min_rating), ("sample_users", sample_users)):
            if value is not None and not is_number(value):
                raise ConfigError(f"{name} is {value!r}: expected a number, or None, which keeps all")
        for name, value, least in (("k_core", k_core, 1), ("seed", seed, 0)):
            if not is_number(value) or value % 1 or value < least:
                raise ConfigError(f"{name} is {value!r}: expected a whole number of at least {least}")
        if cold not in COLD:
            raise ConfigError(f"cold {cold!r}: expected one of {', '.join(COLD)}")
        if isinstance(split, str):
            rule = SplitRule.parse(split)
        else:
            check_shares(split)
            rule = SplitRule("random", tuple(split))
        if period is not None and (isinstance(period, str) or not _is_pair(period)):
            raise ConfigError(
                f"period is {period!r}: expected (start, end), each a day such as '2026-01-31', a moment, or None for "
                "no bound"
            )
        bounds = None if period is None else bounds_of_period(*period)
        if bounds == (None, None):
            bounds = None
        return cls(_plain(min_rating), bounds, _plain(sample_users), int(k_core), rule, cold, int(seed))

    def plain(self) -> dict[str, Any]:
        """Return the options that change the interactions as JSON values, for a dataset's provenance."""
        return {
            "min_rating": self.min_rating,
            "period": None if self.period is None else list(self.period),
            "sample_users": self.sample_users,
            "k_core": self.k_core,
            "split": list(map(_plain, self.rule.shares)) if self.rule.kind == "random" else str(self.rule),
            "seed": self.seed,
        }


def _plain(value: Any) -> Any:
    """Return a number of NumPy as one of Python."""
    return value.item() if isinstance(value, np.generic) else value


def is_number(value: object) -> bool:
    """Return whether a value is a finite number, and not true or false."""
    is_real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    return is_real and bool(np.isfinite(value))  # type: ignore[call-overload]  # mypy does not follow is_real


def _is_pair(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and len(value) == 2


def bounds_of_period(
    start: Moment, end: Moment, names: tuple[str, str] = ("period: the start", "period: the end")
) -> tuple[float | None, float | None]:
    """Return the bounds of a period in seconds since 1970, the second excluded; None for no bound.

    A day counts as a whole, also as the end; a moment is one: a number of seconds, a datetime, a Timestamp of pandas.

    Args:
        start, end: days or moments, UTC unless they have a zone, or their text (ISO 8601).
        names: what messages call the two.

    Raises:
        ConfigError: one is neither, or the start is not before the end.

    Example:
        >>> bounds_of_period("1970-01-02", "1970-01-02")
        (86400.0, 172800.0)
    """
    first, last = _bound(start, names[0], 0.0), _bound(end, names[1], DAY)
    if first is not None and last is not None and first >= last:
        raise ConfigError(f"{names[0]} {start} is not before {names[1].removeprefix('period: ')} {end}")
    return first, last


def _bound(value: Any, name: str, after_day: float) -> float | None:
    """Return a bound in seconds; that of a day is ``after_day`` later than its midnight."""
    if value is None:
        return None
    if is_number(value):
        return float(value)
    found = value
    if isinstance(value, np.datetime64):
        is_day = np.datetime_data(value.dtype)[0] == "D"
        found = (value if is_day else value.astype("datetime64[us]")).item()
    if isinstance(found, str):
        found = _parsed(found.strip())
    if isinstance(found, datetime) and found == found:  # not NaT of pandas
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    if isinstance(found, date) and found == found:
        return datetime.combine(found, time(), UTC).timestamp() + after_day
    raise ConfigError(f"{name} {value!r}: expected a day such as 2012-01-31")


def _parsed(text: str) -> date | None:
    for kind in (date, datetime):
        try:
            return kind.fromisoformat(text)
        except ValueError:
            continue
    return None
