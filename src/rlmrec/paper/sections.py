"""Sections of the HTML report: Figure 6, Figure 1 and Theorem 2, each if it was run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlmrec.errors import RlmrecError
from rlmrec.paper.studies import STUDIES, Record, bounds
from rlmrec.report.blocks import Block, Card, Chart, Options, Section, Text, decimal
from rlmrec.report.collect import Inputs


def _records(inputs: Inputs, folder: str) -> list[Record]:
    """Return the records of a study, of the report's dataset where a record names one."""
    found: list[Record] = []
    for path in sorted((inputs.workspace.experiments_path / folder).glob("*.jsonl")):
        try:
            found += STUDIES[folder].records(path)
        except RlmrecError as error:
            inputs.leave_out(str(error))
    known = (None, None if inputs.dataset is None else inputs.dataset.fingerprint)
    return [record for record in found if inputs.dataset is None or record.get("fingerprint") in known]


def case_study(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Return the table of distant users and some of the pairs; None if the case study was not run."""
    records = _records(inputs, "figure6")
    if not records:
        return None
    blocks: list[Block] = [STUDIES["figure6"].table("", records[-1:])]
    cards = [_pair(example) for example in records[-1]["examples"]]
    if cards:
        blocks.append(Text("The pairs with the most similar texts, described by their least popular items:"))
    return Section("case", "Distant users with similar texts", [*blocks, *cards])


def _pair(example: dict[str, Any]) -> Card:
    users = [
        (f"user {user}", " · ".join(items))
        for user, items in zip(example["users"], example["items"], strict=True)
    ]
    models = [
        (name, f"relevance {decimal(value)}, rank {example['rank'][name]:g} of {example['distant_users']:,}")
        for name, value in example["relevance"].items()
    ]
    return Card(f"Cosine of the texts {example['agreement']:.3f}", [*users, *models])


def reranking(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Return the table of lists re-ranked by a language model; None if that was not run."""
    records = _records(inputs, "figure1")
    if not records:
        return None
    return Section("rerank", "Re-ranking by a language model", [STUDIES["figure1"].table("", records)])


def theorem2(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Return the chart of Theorem 2's bound; None if it was not estimated."""
    rows = bounds(_records(inputs, "theorem2"))
    return Section("theory", "Theorem 2", [bound_chart(rows)]) if rows else None


def bound_chart(rows: Sequence[dict[str, Any]]) -> Chart:
    """Draw log N − L_info against N for each known I, with the trained critic.

    Args:
        rows: what ``studies.bounds`` returns.
    """
    from rlmrec.report.charts import SERIES, Series, lines  # needs Matplotlib, which is optional

    levels = sorted({row["information"] for row in rows})[: len(SERIES)]
    series = []
    for place, information in enumerate(levels):
        points = sorted(
            (row["n"], row["bound"], row["standard_error"])
            for row in rows
            if row["critic"] == "trained" and row["information"] == information
        )
        n, bound, error = (np.array(column) for column in zip(*points, strict=True))
        low, high = ((bound + sign * 2 * error).tolist() for sign in (-1, 1))
        series.append(Series(f"I = {information:g}", n.tolist(), bound.tolist(), low, high, place))
    return lines(
        "The bound log N − L_info approaches I from below",
        series,
        "N, pairs in a set",
        "nats",
        x_scale="log",
        levels=[(information, f"I = {information:g}") for information in levels],
        note="Correlated Gaussians of known mutual information I (dashed). The paper's critic was trained with the "
        "project's own loss and evaluated on other pairs. The bound can exceed neither I nor log N. Bands: two "
        "standard errors.",
    )


SECTIONS = (case_study, reranking, theorem2)
