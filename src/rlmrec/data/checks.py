"""Checks of ids, texts, ratings and times, which return findings: mistakes that change data and raise no error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import LONGEST_SHOWN
from rlmrec.findings import Finding, by_number
from rlmrec.types import IntArray

FEWEST_LONG_IDS = 8  # of 16 digits or more; fewer may look rounded by chance
WITH_TEXT = 0.9  # share of the items that should have a text
# What programs and people write for a missing value.
MISSING = (
    "",
    "nan",
    "null",
    "none",
    "<na>",
    "nat",
    "n/a",
    "#n/a",
    "undefined",
    "k.a.",
    "k. a.",
    "keine angabe",
    "-",
    "--",
    "\N{EN DASH}",
    "\N{EM DASH}",
)
# UTF-8 that was read as Windows-1252 (Ã¼ for ü) or Mac Roman (√º), Windows-1252 read as Latin-1 or as code page 850
# (÷ for ö, ▀ for ß), and lost characters.
_GARBLED = "Ã[¡-º¼-¿Ÿœ‰„]|Â[\u00a0-º¼-¿]|â€|√[§∂º©®±ü]|[\u0080-\u009f]|\ufffd|\\p{L}[÷\u2500-\u259f]+\\p{L}"
_GARBLED_SAYS = ("has signs of a wrong encoding", "have signs of a wrong encoding")
_GARBLED_REMEDY = (
    "name the right encoding (--encoding); if the file itself is garbled, export it again as UTF-8"
)
YEAR_1990, YEAR_2100 = 631_152_000.0, 4_102_444_800.0  # seconds since 1970
# Names of the index that pandas writes: in CSV, in CSV read again, in Parquet. Row numbers are not texts.
INDEX_COLUMNS = ("", "Unnamed: 0", "__index_level_0__")
_RESET_INDEX = r"^(index|level_0|Unnamed: [\d.]+)$"  # an index only if it counts the rows


def spelling(ids: pl.Series) -> pl.Series:
    """Return one spelling of ids that look alike: without blanks, case, Unicode forms, ``.0`` and leading zeros.

    Example:
        >>> spelling(pl.Series(["7", "007", " 7.0", "Ab"])).to_list()
        ['7', '7', '7', 'ab']
    """
    bare = ids.cast(pl.String).str.normalize("NFKC").str.replace_all(r"[\s\u{200B}\u{FEFF}]+", "")
    return bare.str.to_lowercase().str.replace(r"^0*(\d+?)(\.0+)?$", "$1")


def check_ids(ids: Vocabulary, degrees: list[IntArray]) -> list[Finding]:
    """Find ids that stand for a missing value, were rounded, are garbled or occur in several spellings.

    Args:
        ids: of the users or items.
        degrees: int64[n] each, how often each id occurs among all interactions, or in training, validation and test.
    """
    if not ids.is_text:
        return _rounded_ids(ids.kind, pl.Series(ids.ids, dtype=pl.Int128))
    raw = pl.Series(ids.ids, dtype=pl.String)
    return [
        *_rounded_ids(ids.kind, raw),
        *_missing_ids(ids, raw, np.sum(degrees, axis=0, dtype=np.int64)),
        *_twins(ids, raw, degrees),
        *_garbled_ids(ids, raw),
    ]


def is_garbled(texts: pl.Series) -> pl.Series:
    """Return whether each text has signs of a wrong encoding."""
    return texts.str.contains(_GARBLED).fill_null(False)


def _garbled_ids(ids: Vocabulary, raw: pl.Series) -> list[Finding]:
    garbled = raw.filter(is_garbled(raw))
    if not len(garbled):
        return []
    one, many = _GARBLED_SAYS
    what = by_number(len(garbled), f"{ids.kind} id {one}", f"{ids.kind} ids {many}")
    return [Finding("garbled", what, len(garbled), repr(garbled[0]), _GARBLED_REMEDY)]


ROUNDED = "that a spreadsheet or a column of floats has rounded"


def rounded(ids: pl.Series) -> pl.Series:
    """Return the ids, as text, that lost digits: a spreadsheet keeps 15 of them, a column of floats 15 to 17.

    Long integers are returned only if every one is what rounding leaves; each happens to be so once in two at most.
    Where all have more zeros at the end than rounding leaves, such as nanoseconds of a clock of milliseconds, they are
    what they were.
    """
    if ids.dtype == pl.String:
        powers = ids.filter(ids.str.contains(r"^\d([.,]\d+)?[eE]\+\d+$"))
        long = ids.filter(ids.str.contains(r"^[1-9]\d{15,18}$"))
    else:
        powers, long = pl.Series([], dtype=pl.String), ids.filter(ids.is_between(10**15, 2**63 - 1))
    numbers = long.cast(pl.Int64).to_numpy()
    exact = (numbers.astype(np.float64).astype(np.uint64) == numbers.astype(np.uint64)) & (numbers > 2**53)
    # A number with 15 + n digits that was rounded to 15 is a multiple of 10^n.
    unit = 10 ** np.searchsorted(10 ** np.arange(15, 19), numbers, side="right")
    is_rounded = len(long) >= FEWEST_LONG_IDS and np.all(exact | (numbers % unit == 0))
    if not is_rounded or not np.any(numbers % (10 * unit)):
        long = long.clear()
    return pl.concat([powers, long.cast(pl.String)])


def _rounded_ids(kind: str, ids: pl.Series, where: str = "") -> list[Finding]:
    found = rounded(ids)
    if found.is_empty():
        return []
    return [
        Finding(
            "rounded id",
            by_number(len(found), f"{kind} id{where} is a number", f"{kind} ids{where} are numbers")
            + f" {ROUNDED}",
            len(found),
            repr(found[0]),
            "different ids may have become one; export the ids again as text",
        )
    ]


def _missing_ids(ids: Vocabulary, raw: pl.Series, degrees: IntArray) -> list[Finding]:
    rows = np.flatnonzero(is_missing(raw).to_numpy() & (degrees > 0))
    if not len(rows):
        return []
    worst = int(rows[np.argmax(degrees[rows])])
    return [
        Finding(
            "missing id",
            by_number(int(degrees[rows].sum()), "interaction has", "interactions have")
            + f" {_a(ids.kind)} id that stands for a missing value",
            int(degrees[rows].sum()),
            f"{degrees[worst]:,} times {ids.id(worst)!r}",
            "leave these rows out or fill in the id",
        )
    ]


def _twins(ids: Vocabulary, raw: pl.Series, degrees: list[IntArray]) -> list[Finding]:
    """Find ids of several spellings; held-out ones that miss their training id apart."""
    plain = spelling(raw)
    rows = np.flatnonzero(plain.is_duplicated().to_numpy())
    if not len(rows):
        return []
    groups: dict[str, list[int]] = {}
    for row, text in zip(rows.tolist(), plain[rows].to_list(), strict=True):
        groups.setdefault(text, []).append(row)
    train = degrees[0]
    lost = {
        row: next(other for other in group if train[other])
        for group in groups.values()
        for row in group
        if len(degrees) > 1 and not train[row] and train[group].any() and any(part[row] for part in degrees)
    }
    findings = []
    if lost:
        row, trained = next(iter(lost.items()))
        findings.append(
            Finding(
                "held-out spelling",
                by_number(
                    len(lost), f"held-out {ids.kind} id never occurs", f"held-out {ids.kind} ids never occur"
                )
                + f" in training and {by_number(len(lost), 'looks', 'look')} like one that does",
                len(lost),
                f"{ids.id(row)!r} for {ids.id(trained)!r}",
                "write each id in one form, otherwise its held-out interactions cannot be found",
            )
        )
    others = [found for group in groups.values() if len(found := [r for r in group if r not in lost]) > 1]
    if others:
        findings.append(
            Finding(
                "spelling",
                by_number(len(others), f"{ids.kind} id occurs", f"{ids.kind} ids occur") + " in two forms",
                len(others),
                " and ".join(repr(ids.id(row)) for row in others[0][:2]),
                "they count as different; write each id in one form",
            )
        )
    return findings


def is_missing(texts: pl.Series) -> pl.Series:
    """Return whether each text is blank or a word for a missing value."""
    return texts.str.strip_chars().str.to_lowercase().is_in(list(MISSING)).fill_null(False)


def check_join(kind: str, table_ids: pl.Series, known: Vocabulary) -> list[Finding]:
    """Find ids that get no text because the table of texts has rounded them or spells them otherwise.

    Args:
        kind: "item" or "user".
        table_ids: ids of the table of texts.
        known: ids of the interactions.
    """
    ours = pl.DataFrame({"id": pl.Series(known.ids).cast(pl.String)})
    theirs = pl.DataFrame({"other": table_ids.cast(pl.String)})
    ours, theirs = (
        ours.join(theirs, left_on="id", right_on="other", how="anti", maintain_order="left"),
        theirs.join(ours, left_on="other", right_on="id", how="anti", maintain_order="left"),
    )
    odd = _rounded_ids(kind, theirs["other"].unique(maintain_order=True), " of the table of texts")
    if odd or ours.is_empty() or theirs.is_empty():
        return odd
    ours = ours.with_columns(spelling(ours["id"]).alias("plain")).unique("plain", maintain_order=True)
    theirs = theirs.with_columns(spelling(theirs["other"]).alias("plain")).unique("plain", keep="first")
    both = ours.join(theirs, on="plain", maintain_order="left")
    if both.is_empty():
        return []
    return [
        Finding(
            "text spelling",
            by_number(len(both), f"{kind} id has", f"{kind} ids have")
            + " another form in the table of texts, so "
            + by_number(len(both), f"this {kind} gets no text", f"these {kind}s get no text"),
            len(both),
            f"{both['id'][0]!r} for {both['other'][0]!r}",
            "write each id in one form (a column read as numbers loses leading zeros)",
        )
    ]


def index_columns(frame: pl.DataFrame) -> list[str]:
    """Return the columns of a table that only count its rows, as the index of a data frame does."""

    def counts(name: str) -> bool:
        numbers = frame[name].cast(pl.String, strict=False).str.strip_chars().cast(pl.Int64, strict=False)
        return bool((numbers == pl.int_range(len(numbers), eager=True)).fill_null(False).all())

    names = pl.Series(frame.columns, dtype=pl.String)
    possible = names.filter(names.str.contains(_RESET_INDEX)).to_list()
    return [name for name in frame.columns if name in INDEX_COLUMNS or (name in possible and counts(name))]


def check_texts(texts: pl.DataFrame | None, ids: Vocabulary, given: bool = True) -> list[Finding]:
    """Find texts that stand for a missing value, items without any text, and items without a title.

    Args:
        texts: one row per item.
        ids: of the items.
        given: whether a table of items came with them.
    """
    from rlmrec.data.metadata import TITLE_COLUMNS  # here, as it imports the dataset, which imports this

    if texts is None or not texts.width or not len(texts):
        return []
    findings = [
        *_of_texts(
            texts, ids, is_missing, "missing text", ("stands for a missing value", "stand for a missing value"),
            "leave such cells empty, otherwise they are encoded as texts",
        ),
        *_of_texts(texts, ids, is_garbled, "garbled", _GARBLED_SAYS, _GARBLED_REMEDY),
    ]  # fmt: skip
    has = texts.select(pl.any_horizontal(pl.all().is_not_null())).to_series().to_numpy()
    title = next((name for name in TITLE_COLUMNS if name in texts.columns), None)
    untitled = has & (np.False_ if title is None else texts[title].is_null().to_numpy())
    if untitled.any():
        findings.append(
            Finding(
                "without title",
                f"of {len(has):,} {ids.kind}s {by_number(int(untitled.sum()), 'has', 'have')} no {title}",
                int(untitled.sum()),
                repr(ids.id(int(np.argmax(untitled)))),
                "lists call them by their id",
                ordinary=True,
            )
        )
    if has.mean() < WITH_TEXT:
        findings.append(
            Finding(
                "without text",
                f"of {len(has):,} {ids.kind}s {by_number(int((~has).sum()), 'has', 'have')} no text",
                int((~has).sum()),
                repr(ids.id(int(np.argmin(has)))),
                "check that both tables write the ids alike"
                if given
                else "give the table of items as well (items, --items), for vectors of their texts",
            )
        )
    return findings


def _of_texts(
    texts: pl.DataFrame,
    ids: Vocabulary,
    test: Callable[[pl.Series], pl.Series],
    kind: str,
    says: tuple[str, str],
    remedy: str,
) -> list[Finding]:
    """Find texts that a test says yes to; ``says`` is what one or many of them do."""
    masks = {name: test(texts[name]) for name in texts.columns if texts[name].dtype == pl.String}
    total = sum(int(mask.sum()) for mask in masks.values())
    if not total:
        return []
    name = next(name for name, mask in masks.items() if mask.any())
    row = int(np.argmax(masks[name].to_numpy()))
    example = f"{texts[name][row][:LONGEST_SHOWN]!r} as {name} of {ids.kind} {ids.id(row)!r}"
    one, many = says
    what = by_number(total, f"text of {ids.kind}s {one}", f"texts of {ids.kind}s {many}")
    return [Finding(kind, what, total, example, remedy)]


def check_values(
    parts: list[Interactions], users: Vocabulary, items: Vocabulary, rated: bool
) -> list[Finding]:
    """Find ratings of at most 0 that count, missing ones that do not, and times that are not seconds since 1970.

    Args:
        parts: all interactions, or training, validation and test.
        users, items: their ids.
        rated: whether low ratings are left out (``min_rating``).
    """

    def found(kind: str, says: tuple[str, str], masks: list[Any], remedy: str, value: str) -> list[Finding]:
        total = sum(int(mask.sum()) for mask in masks)
        if not total:
            return []
        part, mask = next((part, mask) for part, mask in zip(parts, masks, strict=True) if mask.any())
        row = int(np.argmax(mask))
        pair = f"user {users.id(int(part.users[row]))!r} with item {items.id(int(part.items[row]))!r}"
        number = getattr(part, value)[row]
        what = by_number(total, *says)
        return [Finding(kind, what, total, pair if np.isnan(number) else f"{number:.15g} of {pair}", remedy)]

    nothing = np.zeros(0, bool)
    low = [nothing if rated or part.rating is None else part.rating <= 0 for part in parts]
    unrated = [np.isnan(part.rating) if rated and part.rating is not None else nothing for part in parts]
    late = [nothing if part.timestamp is None else part.timestamp >= YEAR_2100 for part in parts]
    early = [nothing if part.timestamp is None else part.timestamp < -YEAR_2100 for part in parts]
    return [
        *found(
            "low rating",
            (
                "interaction is rated 0 or lower and counts like all others",
                "interactions are rated 0 or lower and count like all others",
            ),
            low,
            "leave them out (min_rating, --min-rating)", "rating",
        ),
        *found(
            "no rating",
            ("interaction has no rating and is left out", "interactions have no rating and are left out"),
            unrated,
            "give them one, or leave out --min-rating, which keeps them", "rating",
        ),
        *found(
            "time", ("time lies after the year 2100", "times lie after the year 2100"), late,
            "they must be seconds since 1970; if they are milliseconds, say so (timestamp_format, --timestamp-format "
            "milliseconds), or microseconds likewise", "timestamp",
        ),
        *found(
            "time", ("time lies before the year 1840", "times lie before the year 1840"), early,
            "they must be seconds since 1970", "timestamp",
        ),
    ]  # fmt: skip


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeio' else 'a'} {word}"
