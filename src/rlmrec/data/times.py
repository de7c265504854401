"""Times in tables: seconds since 1970 from numbers and from the usual ways to write a date."""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import polars as pl

from rlmrec.data.lines import iso_seconds
from rlmrec.types import BoolArray, FloatArray

_CLOCK = (
    r"(?:,?[ T]+(?<hour>\d{1,2}):(?<minute>\d{2})(?::(?<second>\d{2})(?<part>[.,]\d{1,9})?)?"
    r"(?: ?(?<half>[AaPp])\.?[Mm]\.?| Uhr)?)?"
)
_ISO = (
    r"^(?<year>\d{4})[-/.](?<month>\d{1,2})[-/.](?<day>\d{1,2})" + _CLOCK + r" ?(?<zone>Z|[+-]\d{2}:?\d{2})?$"
)


def _shape(separator: str) -> str:
    return (
        rf"^(?<first>\d{{1,2}}){separator}(?<second_number>\d{{1,2}}){separator}(?<year>\d{{4}}|\d{{2}})"
        rf"{_CLOCK}(?<zone>)$"
    )


# How dates are written, most usual first: pattern, and which of the first two numbers may be the day.
_SHAPES = {
    "ISO 8601": (_ISO, ()),
    "German": (_shape(r"\."), (0,)),
    "slashes": (_shape("/"), (0, 1)),
    "dashes": (_shape("-"), (0, 1)),
}
UNITS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}


class Reading(NamedTuple):
    """Times of a column of texts, or why they cannot be read.

    Args:
        seconds: float64[n], seconds since 1970 (UTC); None if there is a problem.
        row: the row of the problem.
        problem: what was expected or what to do.
        number: how many times have this problem; 0 where it is one of the whole column.
    """

    seconds: FloatArray | None
    row: int = 0
    problem: str = ""
    number: int = 0


def is_compact_date(numbers: FloatArray) -> BoolArray:
    """Return whether each number is written like a date of 1900 to 2099: 20170714, 201707142209 or 20170714220911."""
    days = np.where(numbers >= 1e13, numbers // 1e6, np.where(numbers >= 1e11, numbers // 1e4, numbers))
    return cast(BoolArray, (days >= 19000101) & (days < 21000000) & (numbers == np.floor(numbers)))


def compact_dates(numbers: FloatArray) -> Reading:
    """Return the times of numbers such as 20170714, 201707142209 or 20170714220911."""
    texts = pl.Series(numbers).cast(pl.Int64, strict=False).cast(pl.String).str.pad_end(14, "0")
    moments = texts.str.to_datetime("%Y%m%d%H%M%S", time_unit="us", strict=False)
    odd = moments.is_null().to_numpy() | ~is_compact_date(numbers)
    if odd.any():
        problem = (
            "is not a date, and the column looks like dates such as 20170714: correct it, or say how times are written "
            "(timestamp_format, --timestamp-format), for example as seconds"
        )
        return Reading(None, int(np.argmax(odd)), problem, int(odd.sum()))
    return Reading(_seconds(moments))


def read_times(texts: pl.Series) -> Reading:
    """Return the times of texts that are all written in one of the usual ways.

    These are ISO 8601 (UTC unless a zone is named), 31.12.2026 23:59, and 12/31/2026 or 31/12/2026, with or without a
    time. Whether the day or the month comes first must follow from the column itself.

    Args:
        texts: String[n], stripped, without nulls.
    """
    best: tuple[int, int, str] = (0, 0, "")
    for pattern, day_places in _SHAPES.values():
        found = texts.str.extract_groups(pattern).struct.unnest()
        matches = found["year"].is_not_null()
        count = int(matches.sum())
        if count < len(texts):
            if count > best[0]:
                best = (
                    count,
                    int(np.argmin(matches.to_numpy())),
                    str(texts[int(np.argmax(matches.to_numpy()))]),
                )
            continue
        if not day_places:
            return _checked(_moments(found))
        first, second = found["first"], found["second_number"]
        readings = [
            _checked(_moments(found.with_columns(day=day, month=month)))
            for place, day, month in ((0, first, second), (1, second, first))
            if place in day_places
        ]
        good = [reading for reading in readings if reading.seconds is not None]
        if not good:
            return readings[0]
        if len(good) == 2 and not np.array_equal(
            cast(FloatArray, good[0].seconds), cast(FloatArray, good[1].seconds)
        ):
            row = int(np.argmax(np.asarray(good[0].seconds) != np.asarray(good[1].seconds)))
            return Reading(None, row, _ambiguous(str(texts[row])))
        return good[0]
    try:
        return Reading(np.array([iso_seconds(text) for text in texts]))
    except ValueError:
        pass
    expected = "expected seconds since 1970 or a date such as 2018-07-07 22:09:11"
    if best[2]:
        expected += f", written like the others ({best[2]!r})"
    first_odd, number = (best[1], len(texts) - best[0]) if best[2] else _odd(texts)
    return Reading(
        None,
        first_odd,
        f"{expected}, or say how times are written (timestamp_format, --timestamp-format)",
        number,
    )


def parse_times(texts: pl.Series, form: str) -> Reading:
    """Return the times of texts that are written in a given form, as that of ``strptime``."""
    problem = f"expected a time written as {form!r} (timestamp_format, --timestamp-format)"
    try:
        moments = texts.str.to_datetime(form, time_unit="us", strict=False)
    except pl.exceptions.PolarsError:
        return Reading(None, 0, problem, len(texts))
    if moments.is_null().any():
        odd = moments.is_null().to_numpy()
        return Reading(None, int(np.argmax(odd)), problem, int(odd.sum()))
    return Reading(_seconds(moments))


def _odd(texts: pl.Series) -> tuple[int, int]:
    """Return the first row that is no time, and the number of such rows."""
    odd = []
    for row, text in enumerate(texts):
        try:
            iso_seconds(text)
        except ValueError:
            odd.append(row)
    return odd[0], len(odd)


def _ambiguous(text: str) -> str:
    separator = "/" if "/" in text else "-"
    clock = "" if ":" not in text else " %H:%M:%S" if text.count(":") == 2 else " %H:%M"
    if text[-1] in "mM.":
        clock = clock.replace("%H", "%I") + " %p"
    year = "%Y" if len(text.split()[0].split(separator)[-1].rstrip(",")) == 4 else "%y"
    forms = [separator.join((*order, year)) + clock for order in (("%d", "%m"), ("%m", "%d"))]
    return (
        f"may be day and month or month and day, and no date in the column tells which: name the form, "
        f"--timestamp-format '{forms[0]}' or '{forms[1]}'"
    )


def _moments(parts: pl.DataFrame) -> pl.Series:
    """Return float64[n], seconds since 1970 of dates in parts; null where a part is out of its range."""
    year, hour, half = (
        pl.col("year").cast(pl.Int32),
        pl.col("hour").cast(pl.Int32).fill_null(0),
        pl.col("half"),
    )
    if "half" not in parts.columns:
        half = pl.lit(None, pl.String)
    full = pl.when(pl.col("year").str.len_bytes() == 2).then(
        year + pl.when(year < 70).then(2000).otherwise(1900)
    )
    clock = (
        pl.when(half.is_null())
        .then(hour)
        .when(hour.is_between(1, 12))
        .then(hour % 12 + pl.when(half.str.to_lowercase() == "p").then(12).otherwise(0))
        .otherwise(99)
    )
    written = pl.concat_str(
        full.otherwise(year).cast(pl.String).str.zfill(4),
        pl.col("month").str.zfill(2),
        pl.col("day").str.zfill(2),
        clock.cast(pl.String).str.zfill(2),
        pl.col("minute").fill_null("00"),
        pl.col("second").fill_null("00"),
    )
    zone = pl.col("zone").str.replace("Z", "+0000").str.replace(":", "")
    minutes = zone.str.slice(1, 2).cast(pl.Int32, strict=False) * 60 + zone.str.slice(3, 2).cast(
        pl.Int32, strict=False
    )
    offset = pl.when(zone.str.starts_with("-")).then(-minutes).otherwise(minutes).fill_null(0)
    fraction = pl.concat_str(pl.lit("0."), pl.col("part").str.slice(1)).cast(pl.Float64).fill_null(0.0)
    moment = written.str.to_datetime("%Y%m%d%H%M%S", time_unit="us", strict=False).dt.epoch("us") / 1e6
    return parts.select(seconds=moment + fraction - offset * 60.0)["seconds"]


def _checked(seconds: pl.Series) -> Reading:
    if seconds.is_null().any():
        odd = seconds.is_null().to_numpy()
        return Reading(None, int(np.argmax(odd)), "is no date of the calendar: correct it", int(odd.sum()))
    return Reading(cast(FloatArray, seconds.to_numpy()))


def _seconds(moments: pl.Series) -> FloatArray:
    return cast(FloatArray, (moments.dt.epoch("us") / 1e6).to_numpy())
