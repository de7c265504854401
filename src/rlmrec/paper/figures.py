"""Figures 1 and 6 and Theorem 2, which are no grids of training runs: their stored lines, as tables.

A line has, as a grid's, "id", "status" and "dataset"; the rest is what ``rerank``, ``case_study`` or
``theorem2`` says. Of several lines with one id the last one counts.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlmrec.errors import WorkspaceError
from rlmrec.experiments.runner import Line, Results

Value = str | int | float | None


@dataclass(frozen=True)
class Sheet:
    """A table of one dataset.

    Args:
        title: what it shows.
        dataset: on which.
        columns: name → how a value is written (as in ``format``); "" for texts.
        rows: a value for each column; None is not known.
        note: what there is to know, below.
    """

    title: str
    dataset: str
    columns: Mapping[str, str]
    rows: Sequence[Sequence[Value]]
    note: str

    def texts(self) -> list[list[str]]:
        """The rows as they are written."""
        forms = list(self.columns.values())
        return [[_written(value, form) for value, form in zip(row, forms, strict=True)] for row in self.rows]


def _written(value: Value, form: str) -> str:
    return "–" if value is None else format(value, form).replace("%", " %" if form else "%")


def figure1(dataset: str, lines: Sequence[Line]) -> Sheet:
    """Lists before and after a language model has re-ranked them."""
    columns = {"run": "", "model": "", "candidates": "", "list": "", "users": "d", "R@10": ".4f", "R@20": ".4f",
               "N@10": ".4f", "N@20": ".4f", "change of R@20": "+.1%", "p": ".2g", "made up": ".1%",
               "answers with such": ".0%", "s a user": ".2f"}  # fmt: skip
    labels = {"before": "before", "after": "what the model chose", "filled": "the same, the rest behind"}
    rows: list[list[Value]] = []
    for line in lines:
        order = "shuffled" if line["config"]["shuffle"] else "as retrieved"
        about = [line["run"], line["llm"]["name"], f"{line['config']['candidates']}, {order}"]
        for name, label in labels.items():
            metrics, tests = line["metrics"][name], line["against_before"].get(name, {}).get("recall@20", {})
            counted = [
                line["hallucination_rate"],
                line["answers_with_hallucination"],
                line["seconds_per_user"],
            ]
            of_model = counted if name == "after" else [None, None, None]
            rows.append(
                [*about, label, line["users"],
                 *(metrics[metric] for metric in ("recall@10", "recall@20", "ndcg@10", "ndcg@20")),
                 tests.get("relative"), tests.get("p_wilcoxon"), *of_model]
            )  # fmt: skip
    failed = sum(sum(line["failed"].values()) for line in lines)
    note = (
        "Made up: the share of the answers' entries that are not in the list; answers with such: the share of answers "
        "that have any. p: Wilcoxon's signed-rank test over "
        "users. Seconds are of one request on the machine of the run. The paper: worse than the list it started "
        "from, and 3.6 s a user with a model of 13B parameters."
    )
    note += f" {failed} requests failed: those users have an empty list." * bool(failed)
    return Sheet(
        "Figure 1: a recommender's lists, re-ranked by a language model", dataset, columns, rows, note
    )


def figure6(dataset: str, lines: Sequence[Line]) -> Sheet:
    """How near the models bring users whom the graph keeps apart."""
    columns = {"pairs": "", "run": "", "number": "d", "relevance": ".3f", "mean rank": ".1%",
               "median place": ".1f", "change of mean rank, points": "+.1f", "p": ".2g",
               "share a test item": ".0%"}  # fmt: skip
    rows: list[list[Value]] = []
    for line in lines:
        for kind, label in (("agreeing", "texts agree"), ("random", "random (control)")):
            found = line["kinds"][kind]
            for name, model in found["models"].items():
                change = found["against_base"].get(name, {}).get("rank_percentile", {})
                rows.append(
                    [label, name, found["pairs"], model["relevance"], model["rank_percentile"],
                     model["median_rank"], 100 * change["difference"] if change else None,
                     change.get("p_wilcoxon"), found["share_a_test_item"]]
                )  # fmt: skip
    hops = " or ".join(sorted({str(line["hops"]) for line in lines}))
    note = (
        f"Every user's partner is, among all users more than {hops} hops away, the one whose text agrees most, or a "
        "random one. Relevance: cosine of the final embeddings. Rank: the partner's place among those users as a share "
        "of them, 0 % is best. Change: against the first run; p: Wilcoxon's signed-rank test over pairs. Share a test "
        "item: whether they turn out to want the same."
    )
    return Sheet(
        "Figure 6: users whom the graph keeps apart, but whose texts agree", dataset, columns, rows, note
    )


def bounds(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Theorem 2's estimates with the configuration of the last one, each the mean over its seeds."""
    if not lines:
        return []

    def but_seed(line: Line) -> str:
        return json.dumps({**line["config"], "seed": None}, sort_keys=True)

    groups: dict[tuple[str, float, int], list[Line]] = {}
    for line in lines:
        if but_seed(line) == but_seed(lines[-1]):
            groups.setdefault((line["critic"], line["information"], line["n"]), []).append(line)
    return [
        {
            "critic": critic, "information": information, "n": n,
            "bound": statistics.mean(line["bound"] for line in same),
            "standard_error": math.hypot(*(line["standard_error"] for line in same)) / len(same),
            "seeds": sorted(line["config"]["seed"] for line in same),
        }
        for (critic, information, n), same in sorted(groups.items(), key=lambda entry: entry[0])
    ]  # fmt: skip


def theorem2(dataset: str, lines: Sequence[Line]) -> Sheet:
    """The bound of each critic and each I, by N."""
    found = bounds(lines)
    sizes = sorted({row["n"] for row in found})
    columns = {"critic": "", "I, nats": "g", **{f"N = {n}": ".4f" for n in sizes}}
    by_place = {(row["critic"], row["information"], row["n"]): row["bound"] for row in found}
    rows: list[list[Value]] = [
        [critic, information, *(by_place.get((critic, information, n)) for n in sizes)]
        for critic in ("trained", "exact")
        for information in sorted({row["information"] for row in found})
    ]
    above = sum(row["bound"] - row["information"] > 4 * row["standard_error"] + 1e-6 for row in found)
    seeds = ", ".join(map(str, sorted({seed for row in found for seed in row["seeds"]})))
    note = (
        "Estimates of log N − L_info in nats, which may exceed neither I nor log N and come nearer to I as N grows. "
        "Trained: the paper's critic, judged on fresh pairs; exact: the density ratio itself. Largest standard error "
        f"{max(row['standard_error'] for row in found):.4f}; above I by more than four of its own standard errors: "
        f"{above} of {len(found)}. Seeds: {seeds}."
    )
    return Sheet("Theorem 2: log N − L_info is a lower bound of I(e; s)", dataset, columns, rows, note)


# What a line must say, so that a table can be made of it.
NEEDED = {
    "figure1": ("run", "llm", "config", "users", "failed", "metrics", "against_before", "hallucination_rate",
                "answers_with_hallucination", "seconds_per_user"),
    "figure6": ("hops", "kinds", "examples"),
    "theorem2": ("critic", "information", "n", "bound", "standard_error", "config"),
}  # fmt: skip


def check_lines(name: str, path: Path, lines: Sequence[Line]) -> None:
    """Refuse lines of which no table can be made, as those of another experiment.

    Raises:
        WorkspaceError: a line lacks something.
    """
    for line in lines:
        lacking = [key for key in ("dataset", *NEEDED[name]) if key not in line]
        if lacking:
            raise WorkspaceError(
                f"{path}: the line with id {line['id']!r} has no {', '.join(lacking)}, so it is none of {name}: "
                "remove it"
            )


# Name → how its lines become a table.
FIGURES = {"figure1": figure1, "figure6": figure6, "theorem2": theorem2}


def sheets_of(name: str, results: Path) -> list[Sheet]:
    """The tables of a figure, one a dataset that has lines.

    Raises:
        WorkspaceError: a file of lines is damaged.
    """
    found = []
    for path in sorted((results / name).glob("*.jsonl")):
        found.append(list(Results(path).lines.values()))
        check_lines(name, path, found[-1])
    return [FIGURES[name](lines[-1]["dataset"], lines) for lines in found if lines]
