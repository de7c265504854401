"""Tables beside that of an experiment: groups of users and items, cost of the choice of options, stopping rule."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlmrec.evaluation.compare import ended_by_limit
from rlmrec.evaluation.groups import ITEM_GROUPS, USER_GROUPS
from rlmrec.experiments.results import TrialRecord
from rlmrec.report.tables import ResultTable, Value

if TYPE_CHECKING:
    from rlmrec.report.experiments import Summary, SummaryRow

NOT_MEASURED = "not measured"
SHORT_PATIENCE = 5  # the paper's
_Stops = tuple[
    tuple[float, float], tuple[float, float]
]  # epoch and value with the short patience, with the own
GROUPS = (*ITEM_GROUPS, *USER_GROUPS)


def detail_tables(summary: Summary) -> list[ResultTable]:
    """Return the tables of groups, of cost and of the stopping rule; each only if there is something in it."""
    found = (_groups(summary), _cost(summary), _stopping(summary))
    return [table for table in found if table is not None]


def _columns(summary: Summary) -> list[str]:
    return [name.replace("_", " ") for name in summary.experiment.rows]


def _groups(summary: Summary) -> ResultTable | None:
    """Return Recall@20 by popularity of the held-out item and by activity of the user."""
    means = {row.row: _mean_groups(row) for row in summary.rows}
    if not any(means.values()):
        return None
    body: list[list[Value]] = []
    for row in summary.rows:
        own, base = means[row.row], means.get(row.base or row.row, {})
        values: list[Value] = []
        for name in GROUPS:
            text = f"{own[name]:.4f}" if name in own else NOT_MEASURED
            if name in own and base is not own and base.get(name):
                text += f" ({100 * (own[name] / base[name] - 1):+.1f} %)"
            values.append(text)
        body.append([*row.marked, *values])
    return ResultTable(
        [*_columns(summary), *GROUPS],
        body,
        "Recall@20 by popularity of the held-out items and by activity of the user",
        "Head: the most popular items that have a fifth of the training interactions; tail: the least popular ones that"
        " have a fifth; over the users with held-out items of the group. Sparse: users with at most the median number"
        " of training interactions. In brackets the change to the base; not tested.",
        summary.dataset,
        len(summary.experiment.rows),
    )


def _mean_groups(row: SummaryRow) -> dict[str, float]:
    found = [record["groups"] for record in row.records if "groups" in record]
    if len(found) < len(row.records):
        return {}
    names = [name for name in GROUPS if all(name in one for one in found)]
    return {name: statistics.mean(one[name] for one in found) for name in names}


def _cost(summary: Summary) -> ResultTable:
    """Return how many options each row was chosen from, in how many seconds, and which were chosen."""
    varied = _varied(record for tried in summary.tries.values() for record in tried)
    body: list[list[Value]] = []
    for row in summary.rows:
        tried = summary.tries.get(row.row, [])
        records = sorted(row.records, key=lambda record: record["cell"]["run"]["seed"])
        fits: list[Mapping[str, Any]] = [record.get("fit", {}) for record in records]
        counts = [len(tried)] if tried else [fit.get("tries") for fit in fits]
        chosen = (
            [{name: _option(record, name) for name in varied} for record in records]
            if tried
            else [fit.get("chosen", {}) for fit in fits]
        )
        body.append([
            *row.marked,
            _by_seed(counts),
            _seconds(sum(record["seconds"] for record in tried)) if tried else "in the fit" if any(counts) else "–",
            _seconds(statistics.mean(record["seconds"] for record in row.records)),
            _in_words(chosen),
        ])  # fmt: skip
    return ResultTable(
        [*_columns(summary), "tries", "seconds of the tries", "seconds of a run", "chosen"],
        body,
        "Cost: options tried on validation, and seconds",
        "A closed form tries its options while it is fitted; where seeds chose differently, 96/8 is the value of the"
        " first and of the second. Seconds of training or fitting and validation, with the number of threads given"
        " above; other programs may have been running.",
        summary.dataset,
        len(summary.experiment.rows),
    )


def _in_words(chosen: Sequence[Mapping[str, Any]]) -> str:
    """Return the options that each seed has chosen."""
    names = dict.fromkeys(name for one in chosen for name in one)
    values = {name: [one.get(name) for one in chosen] for name in names}
    return ", ".join(
        f"{name} {_by_seed(of)}" for name, of in values.items() if any(one is not None for one in of)
    )


def _by_seed(values: Sequence[Any]) -> str:
    """Return the value that all seeds have, else that of each; "–" without any.

    Example:
        >>> _by_seed([96, 96]), _by_seed([96, 8, 0.25])
        ('96', '96/8/0.25')
    """
    texts = ["–" if value is None else _short(value) for value in values] or ["–"]
    return texts[0] if len(set(texts)) == 1 else "/".join(texts)


def _option(record: TrialRecord, name: str) -> Any:
    part, _, option = name.partition(".")
    return record["cell"].get(part, {}).get(option)


def _varied(tried: Iterable[TrialRecord]) -> list[str]:
    """Return the options, as "part.option", in which the tries of some row differ."""
    values: dict[tuple[str, str], set[str]] = {}
    for record in tried:
        run = record["cell"]["run"]
        for part in ("backbone", "alignment", "training"):
            for name, value in record["cell"].get(part, {}).items():
                key = f"{run['backbone']} {run['alignment']}", f"{part}.{name}"
                values.setdefault(key, set()).add(repr(value))
    return list(dict.fromkeys(name for (_, name), found in values.items() if len(found) > 1))


def stop(curve: Sequence[Sequence[float]], patience: int) -> tuple[float, float]:
    """Return the epoch and the value that training ends with under a patience, on a recorded validation curve.

    Args:
        curve: pairs of epoch and value; a patience above the recorded run's own gives the best of the curve.
        patience: validations in a row without a new best.

    Example:
        >>> stop([(0, 0.1), (3, 0.2), (6, 0.15), (9, 0.15), (12, 0.3)], 2)
        (3, 0.2)
    """
    best = (curve[0][0], curve[0][1])
    stale = 0
    for epoch, value in curve[1:]:
        stale = 0 if value > best[1] else stale + 1
        best = (epoch, value) if value > best[1] else best
        if stale >= patience:
            break
    return best


def _stopping(summary: Summary) -> ResultTable | None:
    """Return what the paper's patience would have stopped at on the recorded curves, beside where training ended."""
    stops = {
        row.row: [_stops(record) for record in row.records]
        for row in summary.rows
        if all(
            len(record.get("validation_curve", ())) > 1 and _patience(record) > SHORT_PATIENCE
            for record in row.records
        )
    }
    if not stops:
        return None
    rows = {row.row: row for row in summary.rows}
    body: list[list[Value]] = []
    for row, mine in stops.items():
        base = stops.get(rows[row].base or row, mine)
        values: list[Value] = []
        for part in range(2):
            own = [one[part][1] for one in mine]
            text = f"{statistics.mean(own):.4f}"
            text += f" ± {statistics.stdev(own):.4f}" if len(own) > 1 else ""
            if base is not mine:
                change = statistics.mean(own) / statistics.mean(one[part][1] for one in base) - 1
                text += f" ({100 * change:+.1f} %)"
            epochs = ", ".join(f"{one[part][0] + 1:g}" for one in mine)
            values += [epochs, text]
        of_both = (*rows[row].records, *rows[rows[row].base or row].records)
        left = "–" if any(map(is_ended_by_limit, of_both)) else _gain_left(mine, base)
        body.append([*rows[row].marked, *values, left, _after_best(rows[row].records)])
    every = {_patience(record) for row in stops for record in rows[row].records}
    patience = f"patience {every.pop()}" if len(every) == 1 else "own patience"
    return ResultTable(
        [
            *_columns(summary),
            f"best epochs, patience {SHORT_PATIENCE}", f"validation R@20, patience {SHORT_PATIENCE}",
            f"best epochs, {patience}", f"validation R@20, {patience}",
            "gain left", "epochs after the best",
        ],
        body,
        "The stopping rule: what is left of each gain when training goes on",
        f"The rule with patience {SHORT_PATIENCE} is applied to the recorded validation curves; one best epoch is"
        " listed for each seed. In brackets the change to the base under the same rule. Gain left: the gain over the"
        f" base with {patience}, as a share of that with patience {SHORT_PATIENCE}, where that is positive and"
        " patience, not the limit of epochs, ended all these runs. Epochs after the best: how long training went on"
        " without a new best, by seed.",
        summary.dataset,
        len(summary.experiment.rows),
    )  # fmt: skip


def _patience(record: TrialRecord) -> int:
    return int(record["cell"]["training"].get("patience", 0))


def is_ended_by_limit(record: TrialRecord) -> bool:
    """Return whether the limit of epochs ended a run before patience did."""
    return ended_by_limit(record["cell"].get("training", {}), record)


def _gain_left(mine: Sequence[_Stops], base: Sequence[_Stops]) -> str:
    """Return the gain over the base when both are trained out, as a share of the gain under the short patience."""
    early, late = (
        statistics.mean(one[part][1] for one in mine) - statistics.mean(one[part][1] for one in base)
        for part in range(2)
    )
    return f"{100 * late / early:.0f} %" if early > 0 else "–"


def _after_best(records: Sequence[TrialRecord]) -> str:
    """Return how many epochs each run went on after its best one."""
    return ", ".join(
        "–" if record.get("best_epoch") is None else str(record["epochs"] - 1 - (record["best_epoch"] or 0))
        for record in records
    )


def _stops(record: TrialRecord) -> _Stops:
    curve = record["validation_curve"]
    return stop(curve, SHORT_PATIENCE), stop(curve, len(curve))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
