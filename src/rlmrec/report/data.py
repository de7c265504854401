"""Section of the report: the dataset, and how popular its items are."""

from __future__ import annotations

import numpy as np

from rlmrec.data.dataset import SPLITS
from rlmrec.report.blocks import Options, Section
from rlmrec.report.charts import Series, lines
from rlmrec.report.collect import Inputs
from rlmrec.report.tables import ResultTable, Value


def dataset(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Return counts, density and the distribution of interactions."""
    data = inputs.dataset
    if data is None:
        return None
    interactions = sum(len(data.split(split)) for split in SPLITS)
    by_item = np.sort(data.train.item_degrees())[::-1]
    by_user = np.sort(data.train.user_degrees())[::-1]
    fifth = by_item[: max(1, len(by_item) // 5)].sum() / max(1, by_item.sum())
    counts: list[list[Value]] = [[f"{split} interactions", f"{len(data.split(split)):,}"] for split in SPLITS]
    rows: list[list[Value]] = [
        ["users", f"{data.n_users:,}"],
        ["items", f"{data.n_items:,}"],
        *counts,
        ["density of all interactions", f"{100 * interactions / (data.n_users * data.n_items):.3g} %"],
        ["training interactions of a user, median", f"{np.median(by_user):g}"],
        ["training interactions of an item, median", f"{np.median(by_item):g}"],
        ["share of them on the most popular fifth of the items", f"{100 * fifth:.0f} %"],
        ["fingerprint", data.fingerprint],
    ]
    tail = lines(
        "The long tail",
        [
            Series(name, np.arange(1, len(degrees) + 1).tolist(), degrees.tolist())
            for name, degrees in (("items", by_item[by_item > 0]), ("users", by_user[by_user > 0]))
        ],
        "rank, most active or popular first",
        "training interactions",
        x_scale="log",
        y_scale="log",
        note="Both axes are logarithmic: a straight line is a power law.",
    )
    return Section("data", "The dataset", [ResultTable(["", "value"], rows), tail])
