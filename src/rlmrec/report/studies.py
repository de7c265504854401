"""Sections: the paper's tables, Theorem 2, the study of distant users, re-ranking; each if it was run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlmrec.errors import RlmrecError
from rlmrec.experiments.experiment import Experiment, experiment_names, experiments_of
from rlmrec.experiments.render import build_table, parts
from rlmrec.paper.figures import bounds
from rlmrec.report.blocks import (
    Block,
    Card,
    Options,
    Section,
    Table,
    Text,
    decimal,
    p_value,
    signed,
)
from rlmrec.report.charts import SERIES, Chart, Series, lines
from rlmrec.report.collect import Inputs


def tables(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """The experiments that are grids, ours beside the paper's; of them, what is no run to compare stands here alone."""
    blocks: list[Block] = []
    try:
        plans = experiments_of(inputs.workspace.experiments_path)
    except RlmrecError as error:  # of a file of the user's own
        inputs.leave_out(str(error))
        plans = [Experiment.load(name) for name in experiment_names()]
    for plan in plans:
        for path in sorted((inputs.workspace.experiments_path / plan.name).glob("*.jsonl")):
            try:
                table = build_table(plan, path)
            except RlmrecError as error:
                inputs.leave_out(str(error))
                continue
            for place, part in enumerate(parts(table) if table.entries else []):
                # A folder may hold several datasets; what stands beside the paper follows its own table.
                title = part.title if place else f"{part.title}: {table.dataset}"
                rows = [[_for_page(trial) for trial in row] for row in part.rows]
                blocks.append(
                    Table(part.header, rows, title=title, note=part.note, text_columns=len(plan.rows))
                )
    return Section("tables", "The paper's tables", blocks) if blocks else None


def _for_page(trial: str) -> str:
    """A minus as wide as a plus, and the change on a line of its own, so that six metrics stand side by side."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", trial).replace(" (", "\n(")


def theory(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Theorem 2's bound, when it was run."""
    rows = bounds(inputs.lines("theorem2"))
    if not rows:
        return None
    return Section("theory", "Theorem 2", [bound_chart(rows)])


def bound_chart(rows: Sequence[dict[str, Any]]) -> Chart:
    """log N − L_info against N, for each known I, with the trained critic.

    Args:
        rows: what ``figures.bounds`` says.
    """
    levels = sorted({row["information"] for row in rows})[: len(SERIES)]
    series = []
    for place, information in enumerate(levels):
        mine = sorted(
            (row["n"], row["bound"], row["standard_error"])
            for row in rows
            if row["critic"] == "trained" and row["information"] == information
        )
        n, bound, error = (np.array(column) for column in zip(*mine, strict=True))
        low, high = ((bound + sign * 2 * error).tolist() for sign in (-1, 1))
        series.append(Series(f"I = {information:g}", n.tolist(), bound.tolist(), low, high, place))
    return lines(
        "The bound log N − L_info approaches I from below",
        series,
        "N, pairs in a set",
        "nats",
        x_scale="log",
        levels=[(information, f"I = {information:g}") for information in levels],
        note="Correlated Gaussians of known mutual information I (dashed), the paper's critic trained with the "
        "project's own loss, judged on fresh pairs. The bound can exceed neither I nor log N. Bands: two "
        "standard errors.",
    )


def case(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Distant users whose texts agree, when the case study was run."""
    lines_of_case = inputs.lines("figure6")
    if not lines_of_case:
        return None
    found = lines_of_case[-1]
    kinds = found["kinds"]
    about = (
        "Every user's partner is the one whose text vector is most similar among all users more than "
        f"{found['hops']} hops away (median {found['median_distant_users']:g} of them). Do such pairs turn out to "
        f"want the same? {_percent(kinds['agreeing']['share_a_test_item'])} share an item of the test split, of "
        f"random distant pairs {_percent(kinds['random']['share_a_test_item'])}."
    )
    rows = []
    for kind, label in (("agreeing", "texts agree"), ("random", "random (control)")):
        for name, model in kinds[kind]["models"].items():
            row = [
                label,
                name,
                decimal(model["relevance"]),
                _percent(model["rank_percentile"], 1),
                f"{model['median_rank']:g}",
            ]
            against = kinds[kind]["against_base"].get(name)
            if against is None:
                row += ["–", "–"]
            else:
                change = against["rank_percentile"]
                row += [signed(100 * change["difference"]), p_value(change["p_wilcoxon"])]
            rows.append(row)
    blocks: list[Block] = [
        Text(about),
        Table(
            ["pairs", "run", "relevance", "mean rank", "median place", "change of mean rank, points", "p"],
            rows,
            text_columns=2,
            note="Relevance: cosine of the final embeddings. Rank: the partner's place among the user's distant "
            "users, as a share of them (0 % is best). Change: against the first run; p: Wilcoxon's signed-rank test "
            "over pairs.",
        ),
    ]
    cards = [_pair(example) for example in found["examples"]]
    if cards:
        blocks.append(
            Text("The pairs of highest agreement, whatever the models make of them, by their rarest items.")
        )
    return Section("case", "Users whom the graph keeps apart", [*blocks, *cards])


def _pair(example: dict[str, Any]) -> Card:
    users = [
        (f"user {user}", " · ".join(items))
        for user, items in zip(example["users"], example["items"], strict=True)
    ]
    models = [
        (name, f"relevance {decimal(value)}, rank {example['rank'][name]:g} of {example['distant_users']:,}")
        for name, value in example["relevance"].items()
    ]
    return Card(f"Texts agree to {example['agreement']:.3f}", [*users, *models])


def reranking(inputs: Inputs, options: Options) -> Section | None:  # noqa: ARG001
    """Lists re-ranked by a language model, when that was run."""
    rows = []
    for found in inputs.lines("figure1"):
        order = "shuffled" if found["config"]["shuffle"] else "as retrieved"
        seconds = found["seconds_per_user"]
        lists = {
            "before": (f"{found['run']} alone", "–", "–", "–"),
            "after": (
                "what the model chose",
                _percent(found["hallucination_rate"]),
                _percent(found["answers_with_hallucination"]),
                "–" if seconds is None else f"{seconds:.2f}",
            ),
            "filled": ("the same, the rest behind", "–", "–", "–"),
        }
        for name, (label, *last) in lists.items():
            values = (
                found["metrics"][name][metric] for metric in ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
            )
            candidates = f"{found['config']['candidates']}, {order}"
            row = [found["llm"]["name"], candidates, f"{found['users']:,}", label]
            rows.append([*row, *(f"{value:.4f}" for value in values), *last])
    if not rows:
        return None
    table = Table(
        [
            "model",
            "candidates",
            "users",
            "list",
            "R@10",
            "R@20",
            "N@10",
            "N@20",
            "made up",
            "answers with such",
            "s/user",
        ],
        rows,
        text_columns=4,
        note="Made up: the share of the answers' entries that are not in the list; answers with such: the share of "
        "answers that have any. Seconds are of one request, on the machine of the run.",
    )
    return Section("rerank", "Re-ranking by a language model", [table])


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"
