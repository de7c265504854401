"""FileFormat: how tables write numbers, times and characters, where that differs from the usual."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from rlmrec.data.encodings import codec_name
from rlmrec.data.times import UNITS
from rlmrec.errors import ConfigError

_SHORT_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_NAMED_SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}


@dataclass(frozen=True)
class FileFormat:
    """How tables write their values, and by which weights their rows count.

    Args:
        delimiter: the ASCII character between the fields of CSV and TSV files, or "tab"; None finds it.
        decimal: the decimal separator of numbers in text files, "." or ",".
        encoding: encoding of text files; None guesses it.
        timestamp_format: how times are written, as for ``strptime``, or seconds, milliseconds, microseconds or
            nanoseconds since 1970; None recognises the usual forms.
        item_separator: what stands between the ids of a basket that is one text; None: no text is a basket, unless all
            are JSON lists.
        weight_column: the column of quantities or counts, which are added up for each pair of user and item.
        min_weight: the least sum of a pair that counts; None: more than 0.

    Raises:
        ConfigError: a value is none of these.

    Example:
        >>> FileFormat(delimiter="tab", decimal=",").given()
        {'delimiter': '\\t', 'decimal': ','}
    """

    delimiter: str | None = None
    decimal: str = "."
    encoding: str | None = None
    timestamp_format: str | None = None
    item_separator: str | None = None
    weight_column: str | None = None
    min_weight: float | None = None

    def __post_init__(self) -> None:
        delimiter = _NAMED_SEPARATORS.get(self.delimiter or "", self.delimiter)
        object.__setattr__(self, "delimiter", delimiter)
        if delimiter is not None and (
            len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0'
        ):
            raise ConfigError(
                f"delimiter {delimiter!r}: expected one ASCII character, for example ';' or '|', or 'tab'"
            )
        if self.decimal not in (".", ","):
            raise ConfigError(f"decimal {self.decimal!r}: expected '.' or ','")
        form = self.timestamp_format
        if form is not None and form not in UNITS and "%" not in form:
            close = _SHORT_UNITS.get(form) or next(iter(get_close_matches(form, UNITS, 1)), None)
            raise ConfigError(
                f"timestamp format {form!r} (timestamp_format, --timestamp-format): expected a form as for strptime, "
                f"such as '%d.%m.%Y %H:%M', or one of {', '.join(UNITS)}"
                + (f"; did you mean {close!r}?" if close else "")
            )
        if self.min_weight is not None and self.weight_column is None:
            raise ConfigError("a least weight needs a column of weights (weight_column, --weight-column)")
        if self.encoding is not None:
            codec_name(self.encoding)

    def given(self) -> dict[str, Any]:
        """Return the values that differ from the usual, as JSON."""
        usual = asdict(PLAIN)
        return {name: value for name, value in asdict(self).items() if value != usual[name]}


PLAIN = FileFormat()
