"""Figures 1 and 6 and Theorem 2, which are not grids of trials: the tables of their stored records.

A record has "id", "status" and "dataset"; the rest is what ``rerank``, ``case_study`` or ``theorem2`` returns.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.experiments.results import Results
from rlmrec.recommend.open import open_recommender, refuse_final
from rlmrec.recommend.recommender import Recommender
from rlmrec.report.tables import ResultTable, Value, write_tables
from rlmrec.workspace import Workspace

Record = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A study of the paper.

    Args:
        folder: of its results.
        command: of ``rlmrec paper`` that runs it.
        needed: what a record must have.
        table: makes the table of a dataset's records.
    """

    folder: str
    command: str
    needed: tuple[str, ...]
    table: Callable[[str, Sequence[Record]], ResultTable]

    def records(self, path: Path) -> list[Record]:
        """Read a file of records, the last one of each id, without those that failed.

        Raises:
            WorkspaceError: a line is damaged, or a record is not one of this study.
        """
        records = [record for record in Results[Record](path).records.values() if record["status"] == "done"]
        for record in records:
            missing = [key for key in ("dataset", *self.needed) if key not in record]
            if missing:
                raise WorkspaceError(
                    f"{path}: the record with id {record['id']!r} has no {', '.join(missing)}, so it does not belong "
                    f"to {self.folder}: remove that line"
                )
        return records

    def tables(self, results: Path) -> list[ResultTable]:
        """Return a table for each dataset that has records."""
        found = [self.records(path) for path in sorted((results / self.folder).glob("*.jsonl"))]
        return [self.table(records[-1]["dataset"], records) for records in found if records]

    def write(self, results: Path) -> list[Path]:
        """Write the tables beside the records and return their paths.

        Raises:
            ConfigError: there are no records.
        """
        return write_tables(results / self.folder, self.folder, self.tables(results))


def open_studied(workspace: Workspace, run: str, dataset: Dataset) -> Recommender:
    """Load the recommender of a finished run, which knows the training interactions of the dataset and no others.

    Raises:
        ConfigError: the run was trained on the held-out interactions too, or before interactions were appended.
        WorkspaceError: as ``open_recommender``.
    """
    recommender = open_recommender(workspace, run, dataset)
    refuse_final(recommender, run)
    if recommender.manifest["fingerprint"] != dataset.fingerprint:
        raise ConfigError(f"run {run!r} was trained before interactions were appended: train it again")
    return recommender.with_known(None)


def reranked_lists(dataset: str, records: Sequence[Record]) -> ResultTable:
    """Return the table of Figure 1: lists before and after a language model has re-ranked them."""
    formats = {"users": "d", "R@10": ".4f", "R@20": ".4f", "N@10": ".4f", "N@20": ".4f", "change of R@20": "+.1%",
               "p": ".2g", "hallucinated": ".1%", "answers with hallucinations": ".0%", "s/user": ".2f"}  # fmt: skip
    labels = {"before": "before", "after": "the model's choice", "filled": "its choice, then the rest"}
    rows: list[list[Value]] = []
    for record in records:
        order = "shuffled" if record["config"]["shuffle"] else "as retrieved"
        about = [record["run"], record["llm"]["name"], f"{record['config']['candidates']}, {order}"]
        for name, label in labels.items():
            metrics = record["metrics"][name]
            test = record["against_before"].get(name, {}).get("recall@20", {})
            of_model = ("hallucination_rate", "answers_with_hallucination", "seconds_per_user")
            rows.append([
                *about, label, record["users"],
                *(metrics[metric] for metric in ("recall@10", "recall@20", "ndcg@10", "ndcg@20")),
                test.get("relative"), test.get("p_wilcoxon"),
                *(record[key] if name == "after" else None for key in of_model),
            ])  # fmt: skip
    failed = sum(sum(record["failed"].values()) for record in records)
    note = (
        "Hallucinated: the share of the answers' entries that are not in the list; answers with hallucinations: the "
        "share of answers with at least one. p: Wilcoxon's signed-rank test over users. Seconds: one request on the "
        "machine of the run. In the paper the re-ranked lists are worse, too, at 3.6 s/user with a model of 13B "
        "parameters."
    )
    note += f" {failed} requests failed: those users have an empty list." * bool(failed)
    columns = ["run", "model", "candidates", "list", *formats]
    title = "Figure 1: a recommender's lists, re-ranked by a language model"
    return ResultTable(columns, rows, title, note, dataset, 4, formats)


def distant_users(dataset: str, records: Sequence[Record]) -> ResultTable:
    """Return the table of Figure 6: how close models place users who are far apart in the graph."""
    formats = {"number": "d", "relevance": ".3f", "mean rank": ".1%", "median place": ".1f",
               "change of mean rank, points": "+.1f", "p": ".2g", "share a test item": ".0%"}  # fmt: skip
    rows: list[list[Value]] = []
    for record in records:
        for kind, label in (("agreeing", "texts agree"), ("random", "random (control)")):
            found = record["kinds"][kind]
            for name, model in found["models"].items():
                change = found["against_base"].get(name, {}).get("rank_percentile", {})
                rows.append([
                    label, name, found.get("pairs"), model["relevance"], model["rank_percentile"],
                    model["median_rank"], 100 * change["difference"] if change else None,
                    change.get("p_wilcoxon"), found["share_a_test_item"],
                ])  # fmt: skip
    hops = " or ".join(sorted({str(record["hops"]) for record in records}))
    median = records[-1].get("median_distant_users")
    note = (
        f"Each user is paired with the user whose text is most similar among all users more than {hops} hops away"
        f"{f' (median {median:g} users)' if median is not None else ''}, or with a random one of these. Relevance: "
        "cosine of the final embeddings. Rank: the partner's place among these users as a share of them; 0 % is best. "
        "Change: against the first run; p: Wilcoxon's signed-rank test over pairs. Share a test item: the pairs with "
        "a common item in the test split."
    )
    title = "Figure 6: users who are far apart in the graph but have similar texts"
    return ResultTable(["pairs", "run", *formats], rows, title, note, dataset, 2, formats)


def bounds(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return Theorem 2's estimates with the configuration of the last one, each the mean over its seeds."""
    if not records:
        return []

    def without_seed(record: Record) -> str:
        return json.dumps({**record["config"], "seed": None}, sort_keys=True)

    groups: dict[tuple[str, float, int], list[Record]] = {}
    for record in records:
        if without_seed(record) == without_seed(records[-1]):
            groups.setdefault((record["critic"], record["information"], record["n"]), []).append(record)
    return [
        {
            "critic": critic, "information": information, "n": n,
            "bound": statistics.mean(record["bound"] for record in same),
            "standard_error": math.hypot(*(record["standard_error"] for record in same)) / len(same),
            "seeds": sorted(record["config"]["seed"] for record in same),
        }
        for (critic, information, n), same in sorted(groups.items(), key=lambda entry: entry[0])
    ]  # fmt: skip


def information_bounds(dataset: str, records: Sequence[Record]) -> ResultTable:
    """Return the table of Theorem 2: the bound of each critic and each I, by N."""
    found = bounds(records)
    sizes = sorted({row["n"] for row in found})
    by_place = {(row["critic"], row["information"], row["n"]): row["bound"] for row in found}
    rows: list[list[Value]] = [
        [critic, information, *(by_place.get((critic, information, n)) for n in sizes)]
        for critic in ("trained", "exact")
        for information in sorted({row["information"] for row in found})
    ]
    # Four standard errors, and the rounding of float32 where the bound has no spread at all.
    above = sum(row["bound"] - row["information"] > 4 * row["standard_error"] + 1e-6 for row in found)
    seeds = ", ".join(map(str, sorted({seed for row in found for seed in row["seeds"]})))
    note = (
        "Estimates of log N − L_info in nats, which can exceed neither I nor log N and approach I as N grows. "
        "Trained: the paper's critic, evaluated on pairs it was not trained on; exact: the density ratio itself. "
        f"Largest standard error {max(row['standard_error'] for row in found):.4f}; above I by more than four standard "
        f"errors: {above} of {len(found)}. Seeds: {seeds}."
    )
    formats = {"I, nats": "g", **{f"N = {n}": ".4f" for n in sizes}}
    title = "Theorem 2: log N − L_info is a lower bound of I(e; s)"
    return ResultTable(["critic", *formats], rows, title, note, dataset, 1, formats)


STUDIES: Mapping[str, Study] = {
    study.folder: study
    for study in (
        Study(
            "figure1", "rerank",
            ("run", "llm", "config", "users", "failed", "metrics", "against_before", "hallucination_rate",
             "answers_with_hallucination", "seconds_per_user"),
            reranked_lists,
        ),
        Study("figure6", "case-study", ("hops", "kinds", "examples"), distant_users),
        Study(
            "theorem2", "theorem2", ("critic", "information", "n", "bound", "standard_error", "config"),
            information_bounds,
        ),
    )
}  # fmt: skip
