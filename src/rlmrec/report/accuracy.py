"""Sections of the report: test results, who gains, training curves, noise, ablation."""

from __future__ import annotations

import json
from collections.abc import Sequence, Sized
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy.stats import rankdata

from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, DataError, RlmrecError
from rlmrec.evaluation.compare import SHOWN_METRICS, Comparisons, SeededComparison, compare_pairs
from rlmrec.evaluation.groups import ITEM_GROUPS, head_mid_tail, item_group_recall
from rlmrec.evaluation.significance import LEVEL, bootstrap
from rlmrec.experiments.differences import in_words
from rlmrec.report.blocks import Block, Chart, Options, Section, anchor, p_value, signed
from rlmrec.report.charts import SERIES, Series, bars, lines
from rlmrec.report.collect import Group, Inputs, Run, options_apart
from rlmrec.report.tables import ResultTable, Value, short_metric
from rlmrec.text import DEFAULT_TEXT_EMBEDDINGS
from rlmrec.types import FloatArray


def results(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Return the test metrics of every group and their changes to the backbone's base; and metrics beyond accuracy."""
    tested = [group for group in inputs.groups if group.mean("recall@20") is not None]
    if not tested:
        return None
    tests = tests_against_base(inputs, tested)
    rows: list[list[Value]] = []
    beyond: list[list[Value]] = []
    for group in tested:
        values = [
            _with_change(group, metric, tests.get(group.name, {}).get(metric)) for metric in SHOWN_METRICS
        ]
        rows.append([group.name, group.first.model, len(group.runs), *values])
        means = [group.mean(f"{name}@20") for name in ("coverage", "novelty", "popularity", "gini")]
        beyond.append([group.name, *(None if mean is None else _three_digits(mean) for mean in means)])
    blocks: list[Block] = [
        ResultTable(
            ["run", "backbone", "seeds", *map(short_metric, SHOWN_METRICS)],
            rows,
            "Test split, all items ranked",
            "R is Recall, N is NDCG; ± is the standard deviation over seeds. The change is relative to the base, the "
            f"same backbone without text; * marks p < {LEVEL} in a paired t-test over users (values averaged over "
            f"seeds), with Holm's correction over all changes in this table.{differences_from_bases(inputs, tested)}",
            text_columns=2,
            anchor="t-results",
        )
    ]
    bases = {group.name: base.name for group in tested if (base := inputs.base_of(group)) is not None}
    significance: list[list[Value]] = [
        [
            name, bases[name], short_metric(metric), f"{test.users.base:.4f}", f"{test.users.new:.4f}",
            f"{signed(test.users.low, '.4f')} … {signed(test.users.high, '.4f')}",
            *map(p_value, (test.users.p_t, test.users.p_wilcoxon, test.users.p_holm)),
        ]
        for name, by_metric in tests.items()
        for metric, test in by_metric.items()
        if metric.endswith("@20")
    ]  # fmt: skip
    if significance:
        blocks.append(
            ResultTable(
                [
                    "run",
                    "base",
                    "metric",
                    "base's",
                    "run's",
                    "difference, 95 % interval",
                    "p (t)",
                    "p (Wilcoxon)",
                    "p (t, Holm)",
                ],
                significance,
                "Significance",
                "Paired tests over the users of the test split; bootstrap intervals, each of its difference alone, "
                "without the correction.",
                text_columns=3,
                anchor="t-significance",
            )
        )
    blocks.append(
        ResultTable(
            ["run", "coverage", "novelty, bits", "popularity, users", "Gini of exposure"],
            beyond,
            "Beyond accuracy, lists of 20",
            "Coverage: share of the catalogue that is in any list. Novelty: mean self-information of the listed items. "
            "Popularity: their mean number of training interactions. Gini: 0 if all items are listed equally often, "
            "1 if only one is.",
            anchor="t-beyond",
        )
    )
    return Section("results", "Results", blocks)


def _with_change(group: Group, metric: str, test: SeededComparison | None) -> str | None:
    """Return a mean with its deviation over seeds, its change to the base and the mark of significance."""
    mean, deviation = group.mean(metric), group.std(metric)
    if mean is None:
        return None
    text = f"{mean:.4f}" + (f" ±{deviation:.4f}" if deviation is not None else "")
    if test is None:
        return text
    change = f"{100 * test.users.relative:+.1f} %" if np.isfinite(test.users.relative) else ""
    return f"{text} ({change}{'*' * test.users.significant})".removesuffix(" ()")


def _three_digits(value: float) -> str:
    return f"{value:#.3g}".removesuffix(".")


def tests_against_base(inputs: Inputs, groups: Sequence[Group]) -> Comparisons:
    """Test each group against its base, where it has one."""
    pairs = {}
    for group in groups:
        base = inputs.base_of(group)
        if base is None:
            continue
        if len(group.first.table) < 2:
            inputs.leave_out(f"{group.name}: a single user has test interactions, so nothing is tested")
            continue
        try:
            for metric in SHOWN_METRICS:
                _user_by_user(group, base, metric)
        except RlmrecError as error:
            inputs.leave_out(str(error))
            continue
        pairs[group.name] = by_seed(group), by_seed(base)
    return compare_pairs(pairs, SHOWN_METRICS)


def differences_from_bases(inputs: Inputs, groups: Sequence[Group]) -> str:
    """Return sentences for a note: in which options groups differ from their bases, the text apart; "" for none."""
    pairs = [(inputs.base_of(group), group) for group in groups]
    found = [
        f"{base.name} | {group.name}: {in_words(apart)}"
        for base, group in pairs
        if base is not None and (apart := options_apart([base, group]))
    ]
    return (
        f" Options that differ, so that a change is not due to text alone: {'. '.join(found)}."
        if found
        else ""
    )


def by_seed(group: Group) -> dict[int, pl.DataFrame]:
    """Return the test metrics of each user, by seed."""
    return {run.option("run", "seed") or 0: run.table for run in group.runs}


class Change(NamedTuple):
    """The change that a model makes for some users: two means, their difference and its 95 % bootstrap interval.

    Without a test, as the charts show none and a signed-rank test of few users enumerates all permutations.
    """

    base: float
    new: float
    difference: float
    low: float
    high: float

    @classmethod
    def of(cls, new: FloatArray, base: FloatArray) -> Change:
        """Compare values user by user."""
        differences = new - base
        return cls(float(base.mean()), float(new.mean()), float(differences.mean()), *bootstrap(differences))


def who_gains(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Return the gain by the activity of the user, and by the popularity of the held-out items."""
    blocks: list[Block] = []
    for base, every in [pair for backbone in inputs.backbones() for pair in inputs.by_base(backbone)]:
        others = every[: len(SERIES) - 1]
        if inputs.dataset is None or base.mean("recall@20") is None:
            continue
        more = _more(every, others) + differences_from_bases(inputs, others)
        blocks += _by_activity(inputs.dataset, base, others, more)
        blocks += _by_popularity(inputs, inputs.dataset, base, others, more)
    return Section("who-gains", "Who gains", blocks) if blocks else None


def _more(every: Sized, shown: Sized) -> str:
    """Return a sentence for the note of a chart that has too few colours for all."""
    left = len(every) - len(shown)
    return f" {left} more {'is' if left == 1 else 'are'} left out." if left else ""


Changes = list[tuple[int, str, list[Change]]]  # (number, name, its change for each group) of each run


def changes_by_activity(data: Dataset, base: Group, others: Sequence[Group]) -> tuple[list[str], Changes]:
    """Compute the change of Recall@20 for each quarter of the test users by training interactions.

    Returns:
        the limits of the quarters, such as "3–7", and the changes; both empty for too few users.
    """
    users = base.table["user"].to_numpy()
    degrees = data.train.user_degrees()[users]
    quarter = np.minimum((rankdata(degrees, "ordinal") - 1) * 4 // len(degrees), 3)
    quarters = [np.flatnonzero(quarter == number) for number in range(4)]
    if min(map(len, quarters)) < 2:
        return [], []
    limits = [
        f"{degrees[rows].min()}–{degrees[rows].max()}" for rows in quarters
    ]  # equally active users may be on both sides of a limit
    found: Changes = []
    for number, group in enumerate(others, 1):
        try:
            new, old = _user_by_user(group, base, "recall@20")
        except RlmrecError:
            continue  # noted with the results
        found.append((number, group.name, [Change.of(new[rows], old[rows]) for rows in quarters]))
    return limits, found


def _by_activity(data: Dataset, base: Group, others: Sequence[Group], more: str = "") -> list[Block]:
    categories, found = changes_by_activity(data, base, others)
    return _gains(
        f"{base.first.model}: change of Recall@20 by activity of the user",
        base.name,
        categories,
        found,
        f"Quarters of the {len(base.table):,} test users by training interactions; equally active users may be in two "
        "quarters. Whiskers: 95 % bootstrap intervals of the difference, as a share of the base."
        f"{more}",
        "training interactions of the user",
        anchor("activity", base.name),
    )


def changes_by_popularity(inputs: Inputs, data: Dataset, base: Group, others: Sequence[Group]) -> Changes:
    """Compute the change of Recall@20 for held-out items of the head, the middle and the tail.

    Empty if a group of items has fewer than two users, or the lists of the base cannot be made.
    """
    ranking = inputs.ranking(base)
    if ranking is None:
        return []
    groups = head_mid_tail(data.train.item_degrees())
    old, mask = item_group_recall(ranking, data, groups)
    having = [np.flatnonzero(of_group) for of_group in mask]
    if min(map(len, having)) < 2:
        return []
    found: Changes = []
    for number, group in enumerate(others, 1):
        lists = inputs.ranking(group)
        if lists is not None:
            new, _ = item_group_recall(lists, data, groups)
            found.append(
                (number, group.name, [Change.of(new[part, rows], old[part, rows]) for part, rows in enumerate(having)])
            )  # fmt: skip
    return found


def _by_popularity(
    inputs: Inputs, data: Dataset, base: Group, others: Sequence[Group], more: str = ""
) -> list[Block]:
    found = changes_by_popularity(inputs, data, base, others)
    groups = head_mid_tail(data.train.item_degrees())
    sizes = [int((groups == number).sum()) for number in range(3)]
    chart = _gains(
        f"{base.first.model}: change of Recall@20 by popularity of the item",
        base.name,
        [f"{name} ({size:,})" for name, size in zip(ITEM_GROUPS, sizes, strict=True)],
        found,
        "Recall of the held-out items of each group, over the users who have any. Head: the most popular items that "
        "have a fifth of the training interactions; tail: the least popular items that have a fifth. First seeds only."
        + more,
        "popularity of the item (number of items)",
        anchor("popularity", base.name),
    )
    if not chart:
        return []
    means: list[list[Value]] = [[base.name, *(one.base for one in found[0][2])]]
    means += [[name, *(one.new for one in changes)] for _, name, changes in found]
    table = ResultTable(
        ["Recall@20", *ITEM_GROUPS],
        means,
        f"{base.first.model}: by popularity",
        formats=dict.fromkeys(ITEM_GROUPS, ".4f"),
    )
    return [*chart, table]


def _gains(
    title: str,
    base: str,
    categories: Sequence[str],
    found: Sequence[tuple[int, str, Sequence[Change]]],
    note: str,
    x_label: str,
    place_on_page: str,
) -> list[Block]:
    """Return bars of the relative change in %, or of the difference if some base is 0."""
    if not found:
        return []
    relative = all(one.base > 0 for _, _, comparisons in found for one in comparisons)
    series = []
    for place, name, comparisons in found:
        scale = [100 / one.base if relative else 1.0 for one in comparisons]
        values, low, high = (
            [getattr(one, part) * factor for one, factor in zip(comparisons, scale, strict=True)]
            for part in ("difference", "low", "high")
        )
        series.append(Series(name, range(len(categories)), values, low, high, place))
    unit = f"change to {base}, %" if relative else f"difference to {base}"
    chart = bars(title, categories, series, unit, note=note, x_label=x_label)
    if not chart.legend:  # with one series the title names it
        chart = replace(chart, title=f"{title}, {found[0][1]}")
    return [replace(chart, anchor=place_on_page)]


def noise(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Return Recall@20 and its relative change as random interactions are added to training (Figure 5)."""
    alike: dict[str, list[Group]] = {}  # by everything but noise and seed
    for group in [*inputs.groups, *inputs.noisy] if inputs.noisy else []:
        if group.mean("recall@20") is not None:
            alike.setdefault(_but(group.first, "noise"), []).append(group)
    labels = {key: (mine[0].first.model, mine[0].name) for key, mine in alike.items()}
    curves = {
        key: [(100 * group.first.noise, group.mean("recall@20") or 0.0) for group in _same_seeds(mine)]
        for key, mine in alike.items()
    }
    blocks: list[Block] = []
    for model in sorted({model for model, _ in labels.values()}):
        mine = {
            labels[key][1]: sorted(points)
            for key, points in curves.items()
            if labels[key][0] == model and len({ratio for ratio, _ in points}) > 1
        }
        if not mine:
            continue
        shown = list(mine.items())[: len(SERIES)]
        series = [_curve(name, points) for name, points in shown]
        drops = [
            _curve(name, [(x, 100 * (y / points[0][1] - 1)) for x, y in points])
            for name, points in shown
            if points[0][0] == 0 and points[0][1] > 0
        ]
        unit = "random interactions added to training, %"
        title = f"{model}: Recall@20 under noise"
        note = (
            "The test split is unchanged. The points of a curve are means over the seeds that all of them have."
            f"{_more(mine, shown)}"
        )
        blocks.append(lines(title, series, unit, "Recall@20 on test", note=note))
        if drops:
            title = f"{model}: relative change under noise"
            blocks.append(lines(title, drops, unit, "change to no noise, %"))
    return Section("noise", "Noise", blocks) if blocks else None


def _curve(name: str, points: Sequence[tuple[float, float]]) -> Series:
    return Series(name, [x for x, _ in points], [y for _, y in points])


def _same_seeds(groups: Sequence[Group]) -> list[Group]:
    """Restrict groups to their common seeds, so that the points of a curve differ in noise alone.

    Where there are none, all groups are returned as they are.
    """
    seeds = [{run.option("run", "seed") for run in group.runs} for group in groups]
    common = set.intersection(*seeds)
    if not common:
        return list(groups)
    return [
        replace(group, runs=tuple(run for run in group.runs if run.option("run", "seed") in common))
        for group in groups
    ]


def _with_common_seeds(inputs: Inputs, groups: Sequence[Group]) -> list[Group]:
    """Leave out groups that share no seed with the others, and note them."""
    kept: list[Group] = []
    common: set[int] = set()
    for group in sorted(groups, key=lambda group: -len(group.runs)):
        if not kept or common & {*group.seeds}:
            common = {*group.seeds} & (common or {*group.seeds})
            kept.append(group)
        else:
            inputs.leave_out(
                f"{group.name}: no seed in common with {kept[0].name}, so their texts are not compared"
            )
    return [group for group in groups if group in kept]


def _but(run: Run, *names: str) -> str:
    """Return a run's ``kind`` without some of its options of the data."""
    kind = json.loads(run.kind)
    return json.dumps({**kind, "data": {name: v for name, v in kind["data"].items() if name not in names}})


def ablation(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Compare the same alignment with different text embeddings, shuffled ones included (Figure 4)."""
    charts: list[Block] = []
    numbers: list[Block] = []
    for backbone in inputs.backbones():
        alike: dict[str, list[Group]] = {}  # by everything but the text embeddings
        for group in [*inputs.of_backbone(backbone), *inputs.shuffled]:
            aligned = group.first.backbone == backbone and not group.first.is_base
            if aligned and group.mean("recall@20") is not None:
                alike.setdefault(_but(group.first, "texts", "shuffle"), []).append(group)
        for every in alike.values():
            mine = _same_seeds(_with_common_seeds(inputs, every))
            if len(mine) < 2:
                continue
            shown = mine[: len(SERIES)]
            more = _more(mine, shown)
            base = inputs.base_of(every[0])
            if base is not None:
                base = _same_seeds([base, *shown])[0]
                more += differences_from_bases(inputs, shown[:1])
            names = [_texts_label(group) for group in shown]
            # Text embeddings of one name may have been replaced: then the runs' names distinguish them.
            labels = [
                group.name if names.count(name) > 1 else name
                for name, group in zip(names, shown, strict=True)
            ]
            title = f"{mine[0].first.model} · {mine[0].first.variant}: effect of the text embeddings"
            note = f"Runs that differ in their text embeddings alone; means over their common seeds.{more}"
            chart, table = _by_texts(inputs, title, labels, shown, base, note)
            charts.append(chart)
            numbers.append(table)
    return Section("ablation", "Ablation", [*charts, *numbers]) if charts else None


def _by_texts(
    inputs: Inputs, title: str, labels: Sequence[str], groups: Sequence[Group], base: Group | None, note: str
) -> tuple[Chart, ResultTable]:
    """Return bars of the change to the base, or of the metrics if there is no base, and a table of the metrics."""
    measured = ("recall@20", "ndcg@20")
    changes: list[list[Change]] = []
    if base is not None and base.mean("recall@20"):
        try:
            changes = [
                [Change.of(*_user_by_user(group, base, metric)) for group in groups] for metric in measured
            ]
        except RlmrecError as error:
            inputs.leave_out(f"{title}: {error}")
    if changes:
        unit = f"change to {base.name}, %"  # type: ignore[union-attr]
        note += " Whiskers: 95 % bootstrap intervals of the difference over users, as a share of the base."
        series = []
        for metric, found in zip(measured, changes, strict=True):
            values, low, high = (
                [100 * getattr(one, part) / one.base for one in found]
                for part in ("difference", "low", "high")
            )
            series.append(Series(short_metric(metric), range(len(groups)), values, low, high))
    else:
        unit = "test metric"
        series = [
            Series(short_metric(metric), range(len(groups)), [group.mean(metric) or 0.0 for group in groups])
            for metric in measured
        ]
    rows: list[list[Value]] = [
        [label, len(group.runs), *(group.mean(metric) for metric in measured)]
        for label, group in [*([(base.name, base)] if base else []), *zip(labels, groups, strict=True)]
    ]
    columns = [*map(short_metric, measured)]
    table = ResultTable(
        [title.partition(":")[0], "seeds", *columns],
        rows,
        "Means over seeds, test split",
        formats=dict.fromkeys(columns, ".4f"),
    )
    return bars(title, labels, series, unit, note=note), table


def _user_by_user(group: Group, base: Group, metric: str) -> tuple[FloatArray, FloatArray]:
    """Return a metric of two groups for the same users in the same order.

    Raises:
        DataError: the groups have different users or held-out items.
        ConfigError: a group does not have the metric.
    """
    keys = ("user", "n_relevant")
    if not group.table.select(keys).equals(base.table.select(keys)):
        raise DataError(f"{group.name} and {base.name} were tested on different users or held-out items")
    for one in (group, base):
        if metric not in one.table.columns:
            raise ConfigError(f"{one.name} has no values of {metric} per user")
    return group.table[metric].to_numpy(), base.table[metric].to_numpy()


def _texts_label(group: Group) -> str:
    """Return a short name of a group's text embeddings, to stand below a bar."""
    name = group.first.option("data", "semantics") or group.first.option("names", "semantics") or group.name
    shuffle = group.first.option("data", "shuffle")
    if shuffle in (None, "none"):
        return str(name)
    return f"{shuffle} shuffled" if name == DEFAULT_TEXT_EMBEDDINGS else f"{name}, {shuffle} shuffled"


def training(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Return curves of validation Recall@20 by epoch and by seconds, two charts for each backbone."""
    blocks: list[Block] = []
    for backbone in inputs.backbones():
        curves = []
        for group in inputs.of_backbone(backbone):
            seconds = np.cumsum([record.get("seconds", 0.0) for record in group.first.history])
            points = [
                (record["epoch"] + 1, float(spent), record["valid"]["recall@20"])
                for record, spent in zip(group.first.history, seconds, strict=True)
                if "recall@20" in record.get("valid", {})
            ]
            if points:
                curves.append((group.name, *map(list, zip(*points, strict=True))))
        if not curves:
            continue
        shown = curves[: len(SERIES)]
        note = f"First seeds only.{_more(curves, shown)}"
        model = inputs.of_backbone(backbone)[0].first.model
        for place, unit in ((1, "epoch"), (2, "seconds of training")):
            blocks.append(
                lines(
                    f"{model}: validation Recall@20 by {'epoch' if place == 1 else 'time'}",
                    [Series(str(curve[0]), curve[place], curve[3]) for curve in shown],
                    unit,
                    "Recall@20 on validation",
                    note=note,
                )
            )
    return Section("training", "Training", blocks) if blocks else None
