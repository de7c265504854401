"""Sections: test results, who gains, training curves, noise, ablation."""

from __future__ import annotations

import json
from collections.abc import Sequence, Sized
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from rlmrec.data.dataset import Dataset
from rlmrec.errors import DataError, RlmrecError
from rlmrec.evaluation.significance import Comparison, bootstrap, compare_tables, holm
from rlmrec.report.blocks import (
    Block,
    Options,
    Section,
    Table,
    metric_name,
    model_name,
    p_value,
    signed,
    x_and_y,
)
from rlmrec.report.charts import SERIES, Chart, Series, bars, lines
from rlmrec.report.collect import METRICS, Group, Inputs, Run
from rlmrec.report.data import head_mid_tail
from rlmrec.types import FloatArray
from rlmrec.workspace import DEFAULT_TEXT_EMBEDDINGS

LEVEL = 0.05


def results(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Test metrics of every group against its backbone's base, with significance; and beyond accuracy."""
    tested = [group for group in inputs.groups if group.mean("recall@20") is not None]
    if not tested:
        return None
    trials = _comparisons(inputs, tested)
    rows, beyond = [], []
    for group in tested:
        row = [group.name, model_name(group.first.backbone), str(len(group.runs))]
        for metric in METRICS:
            mean = group.mean(metric)
            if mean is None:
                row.append("–")
                continue
            text = f"{mean:.4f}"
            deviation = group.deviation(metric)
            if deviation is not None:
                text += f" ±{deviation:.4f}"
            found = trials.get((group.name, metric))
            if found is not None:
                comparison, p = found
                if np.isfinite(comparison.relative):
                    text += f"\n{signed(100 * comparison.relative)} %"
                text += "*" if p < LEVEL else ""
            row.append(text)
        rows.append(row)
        values = [group.mean(f"{name}@20") for name in ("coverage", "novelty", "popularity", "gini")]
        beyond.append([group.name, *map(_three_digits, values)])
    tests = [
        [
            name, metric_name(metric), f"{comparison.base:.4f}", f"{comparison.new:.4f}",
            f"{signed(comparison.low, '.4f')} … {signed(comparison.high, '.4f')}",
            p_value(comparison.p_t), p_value(comparison.p_wilcoxon), p_value(p),
        ]
        for (name, metric), (comparison, p) in trials.items()
        if metric.endswith("@20")
    ]  # fmt: skip
    blocks: list[Block] = [
        Table(
            ["run", "backbone", "seeds", *map(metric_name, METRICS)],
            rows,
            title="All items ranked, test split",
            text_columns=2,
            note="R is Recall, N is NDCG; ± is the standard deviation over seeds. The change is against the base "
            "of the same backbone; * marks p < 0.05 of a paired t-test over users, each user's value being the "
            "mean over seeds, after Holm's correction over every change in this table.",
        )
    ]
    if tests:
        blocks.append(
            Table(
                [
                    "run",
                    "metric",
                    "base",
                    "run's",
                    "difference, 95 % interval",
                    "p (t)",
                    "p (Wilcoxon)",
                    "p (t, Holm)",
                ],
                tests,
                title="Significance",
                text_columns=2,
                note="Paired over the users of the test split; the interval is a bootstrap's.",
            )
        )
    blocks.append(
        Table(
            ["run", "coverage", "novelty, bits", "popularity, users", "Gini of exposure"],
            beyond,
            title="Beyond accuracy, lists of 20",
            note="Coverage: share of the catalogue in any list. Novelty: mean self-information of the listed "
            "items. Popularity: their mean training interactions. Gini: 0 if all items are shown equally often, "
            "1 if one alone.",
        )
    )
    return Section("results", "Results", blocks)


def _three_digits(value: float | None) -> str:
    return "–" if value is None else f"{value:#.3g}".removesuffix(".")


def _comparisons(
    inputs: Inputs, groups: Sequence[Group], metrics: Sequence[str] = METRICS
) -> dict[tuple[str, str], tuple[Comparison, float]]:
    """(group, metric) → the comparison with its base, and its p after Holm's correction over all of them."""
    found: dict[tuple[str, str], Comparison] = {}
    for group in groups:
        base = inputs.base_of(group.first.backbone)
        if base is None or base is group:
            continue
        for metric in metrics:
            try:
                found[group.name, metric] = compare_tables(group.table, base.table, metric)
            except RlmrecError as error:
                inputs.leave_out(f"{group.name} against {base.name}: {error}")
                break
    corrected = holm([comparison.p_t for comparison in found.values()])
    return {key: (value, float(p)) for (key, value), p in zip(found.items(), corrected, strict=True)}


class Change(NamedTuple):
    """What a model changes for some users: the means, their difference and its 95 % bootstrap interval.

    No test, as the charts show none: a signed-rank test of a dozen users counts out all permutations.
    """

    base: float
    new: float
    difference: float
    low: float
    high: float

    @classmethod
    def of(cls, new: FloatArray, base: FloatArray) -> Change:
        """Of values user by user."""
        differences = new - base
        return cls(float(base.mean()), float(new.mean()), float(differences.mean()), *bootstrap(differences))


def who_gains(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """The gain by how active a user is, and by how popular the items are that they want."""
    blocks: list[Block] = []
    for backbone in inputs.backbones():
        base = inputs.base_of(backbone)
        every = [group for group in inputs.of_backbone(backbone) if group is not base]
        others = every[: len(SERIES) - 1]
        if inputs.dataset is None or base is None or not others or base.mean("recall@20") is None:
            continue
        more = _more(every, others)
        blocks += _by_activity(inputs.dataset, backbone, base, others, more)
        blocks += _by_popularity(inputs, inputs.dataset, backbone, base, others, more)
    return Section("who-gains", "Who gains", blocks) if blocks else None


def _more(every: Sized, shown: Sized) -> str:
    """What a note says where a chart has not the colours for all."""
    left = len(every) - len(shown)
    return f" {left} more {'is' if left == 1 else 'are'} left out." if left else ""


def _by_activity(
    data: Dataset, backbone: str, base: Group, others: Sequence[Group], more: str = ""
) -> list[Block]:
    users = base.table["user"].to_numpy()
    degrees = data.train.user_degrees()[users]
    quarter = np.minimum((rankdata(degrees, "ordinal") - 1) * 4 // len(degrees), 3)
    quarters = [np.flatnonzero(quarter == number) for number in range(4)]
    if min(map(len, quarters)) < 2:
        return []
    categories = [
        f"{degrees[rows].min()}–{degrees[rows].max()}" for rows in quarters
    ]  # of users who are equally active some stand left, some right of a cut
    found = []
    for number, group in enumerate(others, 1):
        if not group.table.select("user", "n_relevant").equals(base.table.select("user", "n_relevant")):
            continue
        new, old = (table["recall@20"].to_numpy() for table in (group.table, base.table))
        found.append((number, group.name, [Change.of(new[rows], old[rows]) for rows in quarters]))
    return _gains(
        f"{model_name(backbone)}: change of Recall@20 by activity of the user",
        categories,
        found,
        f"Quarters of the {len(users):,} test users by training interactions; of equally active users some stand left "
        "and some right of a cut. Whiskers: 95 % bootstrap intervals of the difference, as a share of the base."
        f"{more}",
        "training interactions of the user",
    )


def _by_popularity(
    inputs: Inputs, data: Dataset, backbone: str, base: Group, others: Sequence[Group], more: str = ""
) -> list[Block]:
    ranking = inputs.ranking(base)
    if ranking is None:
        return []
    groups = head_mid_tail(data.train.item_degrees())
    wanted = data.test.csr()[ranking.users]
    of_item = groups[wanted.indices]
    rows = np.repeat(np.arange(len(ranking.users)), np.diff(wanted.indptr))
    counts = np.stack(
        [np.bincount(rows[of_item == number], minlength=len(ranking.users)) for number in range(3)]
    )  # (3, n) held-out items of each user in each group

    def recalls(group: Group) -> FloatArray | None:
        lists = inputs.ranking(group)
        if lists is None:
            return None
        hits = np.stack([(lists.hits & (groups[lists.items] == number)).sum(1) for number in range(3)])
        values: FloatArray = hits / np.maximum(counts, 1)
        return values

    old = recalls(base)
    assert old is not None  # its ranking is there
    asked = [np.flatnonzero(counts[number]) for number in range(3)]
    if min(map(len, asked)) < 2:
        return []
    found = []
    for number, group in enumerate(others, 1):
        new = recalls(group)
        if new is not None:
            found.append(
                (number, group.name, [Change.of(new[part, rows], old[part, rows]) for part, rows in enumerate(asked)])
            )  # fmt: skip
    sizes = [int((groups == number).sum()) for number in range(3)]
    chart = _gains(
        f"{model_name(backbone)}: change of Recall@20 by popularity of the item",
        [f"{name} ({size:,})" for name, size in zip(("head", "middle", "tail"), sizes, strict=True)],
        found,
        "Recall of the held-out items of each group, over the users who have any. Head: the most popular items, until "
        "they have a fifth of the training interactions; tail: the least popular, likewise. The first seed of each."
        + more,
        "popularity of the item (number of items)",
    )
    absolute = [[base.name, *(f"{old[part, rows].mean():.4f}" for part, rows in enumerate(asked))]]
    absolute += [[name, *(f"{one.new:.4f}" for one in comparisons)] for _, name, comparisons in found]
    table = Table(
        ["Recall@20", "head", "middle", "tail"], absolute, title=f"{model_name(backbone)}: by popularity"
    )
    return [*chart, table] if chart else []


def _gains(
    title: str,
    categories: Sequence[str],
    found: Sequence[tuple[int, str, Sequence[Change]]],
    note: str,
    x_label: str,
) -> list[Block]:
    """Bars of relative change in %, or of the difference where some base is 0."""
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
    unit = "change against base, %" if relative else "difference to base"
    chart = bars(title, categories, series, unit, note=note, x_label=x_label)
    if not chart.legend:  # one series: say which
        chart = Chart(f"{title}, {found[0][1]}", chart.svg, (), note)
    return [chart]


def noise(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Recall@20 and its relative drop as random interactions are added to training (Figure 5)."""
    alike: dict[str, list[Group]] = {}  # by everything but noise and seed
    for group in [*inputs.groups, *inputs.noisy] if inputs.noisy else []:
        if group.mean("recall@20") is not None:
            alike.setdefault(_but(group.first, "noise"), []).append(group)
    labels = {key: (mine[0].first.backbone, mine[0].name) for key, mine in alike.items()}
    curves = {
        key: [(100 * group.first.noise, group.mean("recall@20") or 0.0) for group in _same_seeds(mine)]
        for key, mine in alike.items()
    }
    blocks: list[Block] = []
    for backbone in sorted({backbone for backbone, _ in labels.values()}):
        mine = {
            labels[key][1]: sorted(points)
            for key, points in curves.items()
            if labels[key][0] == backbone and len({ratio for ratio, _ in points}) > 1
        }
        if not mine:
            continue
        shown = list(mine.items())[: len(SERIES)]
        series = [Series(name, *x_and_y(points)) for name, points in shown]
        drops = [
            Series(name, *x_and_y([(x, 100 * (y / points[0][1] - 1)) for x, y in points]))
            for name, points in shown
            if points[0][0] == 0 and points[0][1] > 0
        ]
        unit = "random interactions added to training, %"
        title = f"{model_name(backbone)}: Recall@20 under noise"
        note = (
            "The test split is unchanged. The points of a curve are means over the seeds that all of them have."
            f"{_more(mine, shown)}"
        )
        blocks.append(lines(title, series, unit, "Recall@20 on test", note=note))
        if drops:
            title = f"{model_name(backbone)}: relative change under noise"
            blocks.append(lines(title, drops, unit, "change against no noise, %"))
    return Section("noise", "Noise", blocks) if blocks else None


def _same_seeds(groups: Sequence[Group]) -> list[Group]:
    """The groups with the seeds that all of them have: else a curve would show seeds where it says noise."""
    seeds = [{run.option("run", "seed") for run in group.runs} for group in groups]
    common = set.intersection(*seeds)
    if not common:
        return list(groups)
    return [
        replace(group, runs=tuple(run for run in group.runs if run.option("run", "seed") in common))
        for group in groups
    ]


def _but(run: Run, *names: str) -> str:
    """What a run was run with but for its seed and some of what is said of its data."""
    kind = json.loads(run.kind)
    return json.dumps({**kind, "data": {name: v for name, v in kind["data"].items() if name not in names}})


def ablation(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """The same alignment with different text vectors, shuffled ones included (Figure 4)."""
    charts: list[Block] = []
    numbers: list[Block] = []
    for backbone in inputs.backbones():
        alike: dict[str, list[Group]] = {}  # by everything but the vectors
        for group in [*inputs.of_backbone(backbone), *inputs.shuffled]:
            aligned = group.first.backbone == backbone and group.first.is_aligned
            if aligned and group.mean("recall@20") is not None:
                alike.setdefault(_but(group.first, "texts", "shuffle"), []).append(group)
        base = inputs.base_of(backbone)
        for mine in alike.values():
            if len(mine) < 2:
                continue
            shown = mine[: len(SERIES)]
            more = _more(mine, shown)
            names = [_vectors(group) for group in shown]
            # Vectors of one name may be different ones: then the runs' names tell them apart.
            labels = [
                group.name if names.count(name) > 1 else name
                for name, group in zip(names, shown, strict=True)
            ]
            title = f"{model_name(backbone)} · {mine[0].first.variant}: what the text vectors bring"
            note = f"Runs that differ in their text vectors alone; means over seeds.{more}"
            chart, table = _by_vectors(inputs, title, labels, shown, base, note)
            charts.append(chart)
            numbers.append(table)
    return Section("ablation", "Ablation", [*charts, *numbers]) if charts else None


def _by_vectors(
    inputs: Inputs, title: str, labels: Sequence[str], groups: Sequence[Group], base: Group | None, note: str
) -> tuple[Chart, Table]:
    """Bars of the change against the base where there is one, of the metrics themselves else; and the numbers."""
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
        unit = f"change against {base.name}, %"  # type: ignore[union-attr]
        note += " Whiskers: 95 % bootstrap intervals of the difference over users, as a share of the base."
        series = []
        for metric, found in zip(measured, changes, strict=True):
            values, low, high = (
                [100 * getattr(one, part) / one.base for one in found]
                for part in ("difference", "low", "high")
            )
            series.append(Series(metric_name(metric), range(len(groups)), values, low, high))
    else:
        unit = "test metric"
        series = [
            Series(metric_name(metric), range(len(groups)), [group.mean(metric) or 0.0 for group in groups])
            for metric in measured
        ]
    rows = [
        [label, str(len(group.runs)), *(f"{group.mean(metric) or 0.0:.4f}" for metric in measured)]
        for label, group in [*([(base.name, base)] if base else []), *zip(labels, groups, strict=True)]
    ]
    table = Table(
        [title.partition(":")[0], "seeds", *map(metric_name, measured)],
        rows,
        title="Means over seeds, test split",
    )
    return bars(title, labels, series, unit, note=note), table


def _user_by_user(group: Group, base: Group, metric: str) -> tuple[FloatArray, FloatArray]:
    """A metric of the same users in the same order.

    Raises:
        DataError: the two have other users or held-out items.
    """
    keys = ("user", "n_relevant")
    if not group.table.select(keys).equals(base.table.select(keys)):
        raise DataError(f"{group.name} and {base.name} were tested on different users or held-out items")
    return group.table[metric].to_numpy(), base.table[metric].to_numpy()


def _vectors(group: Group) -> str:
    """What a group's text vectors are called: short, as it stands below a bar."""
    name = group.first.option("data", "semantics") or group.first.option("names", "semantics") or group.name
    shuffle = group.first.option("data", "shuffle")
    if shuffle in (None, "none"):
        return str(name)
    return f"{shuffle} shuffled" if name == DEFAULT_TEXT_EMBEDDINGS else f"{name}, {shuffle} shuffled"


def training(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Validation Recall@20 over epochs and over seconds; one pair of charts for each backbone."""
    blocks: list[Block] = []
    for backbone in inputs.backbones():
        curves = []
        for group in inputs.of_backbone(backbone):
            seconds = np.cumsum([record.get("seconds", 0.0) for record in group.first.history])
            points = [
                (record["epoch"], float(spent), record["valid"]["recall@20"])
                for record, spent in zip(group.first.history, seconds, strict=True)
                if "recall@20" in record.get("valid", {})
            ]
            if points:
                curves.append((group.name, *map(list, zip(*points, strict=True))))
        if not curves:
            continue
        shown = curves[: len(SERIES)]
        note = f"The first seed of each.{_more(curves, shown)}"
        for place, unit in ((1, "epoch"), (2, "seconds of training")):
            blocks.append(
                lines(
                    f"{model_name(backbone)}: validation Recall@20 by {'epoch' if place == 1 else 'time'}",
                    [Series(str(curve[0]), curve[place], curve[3]) for curve in shown],
                    unit,
                    "Recall@20 on validation",
                    note=note,
                )
            )
    return Section("training", "Training", blocks) if blocks else None
