"""Compare how close models place users who are far apart in the graph but have similar texts (Figure 6).

The paper shows one such pair. Here each user is paired with the user whose text embedding is most similar among all
users more than ``hops`` hops away: by text and graph alone, independent of any model. For each model we report the
pair's relevance (cosine of the final embeddings) and the partner's rank among all distant users. As a control, each
user is also paired with a random distant user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.metadata import item_labels
from rlmrec.errors import ConfigError, DataError
from rlmrec.evaluation.significance import compare
from rlmrec.experiments.results import Results, results_path
from rlmrec.experiments.trial import identity
from rlmrec.linalg import unit_rows
from rlmrec.paper.studies import open_studied
from rlmrec.profiles.parse import cut_words
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.topk import MEMORY_BUDGET, map_blocks
from rlmrec.types import BoolArray, Float32Array, FloatArray, IntArray
from rlmrec.workspace import Workspace

HOPS = 3
KINDS = ("agreeing", "random")


@dataclass(frozen=True, eq=False)
class Pairs:
    """One distant partner for each of n users.

    Args:
        users: int64[n], rows of the users with a text who have a distant user with one.
        partners: int64[n], rows.
        agreement: float64[n], cosine of the two text embeddings.
        n_distant: int64[n], distant users of each user.
        relevance: by model: float64[n], cosine of the two final embeddings.
        rank: by model: float64[n], the partner's place among the user's distant users by relevance; 1 is
            the best, users of equal relevance share the mean of their places.
    """

    users: IntArray
    partners: IntArray
    agreement: FloatArray
    n_distant: IntArray
    relevance: dict[str, FloatArray]
    rank: dict[str, FloatArray]

    def __len__(self) -> int:
        return len(self.users)

    def percentile(self, model: str) -> FloatArray:
        """Return the ranks as shares of the distant users, float64[n]: 0 is best, 1 worst; 0.5 if there is one."""
        share: FloatArray = (self.rank[model] - 0.5) / self.n_distant
        return share


def within_hops(train: Interactions, users: slice, hops: int) -> BoolArray:
    """Return who can be reached from some users in at most ``hops`` hops, by breadth-first search.

    The graph is bipartite, so another user is an even number of hops away: user → item → user.

    Args:
        train: the training split, the graph's edges.
        users: a block of B user rows.
        hops: 2 or 3 reach the users with a common item.

    Returns:
        bool[B, U]; each user reaches themselves.
    """
    user_item = train.csr()
    item_user = sp.csr_array(user_item.T)
    start = np.arange(train.n_users)[users]
    reached = np.zeros((len(start), train.n_users), bool)
    reached[np.arange(len(start)), start] = True
    frontier: Any = sp.csr_array(reached, dtype=np.float32)
    for _ in range(hops // 2):
        found = sp.csr_array(frontier @ user_item @ item_user).toarray() > 0
        fresh = found & ~reached
        if not fresh.any():
            break
        reached |= fresh
        frontier = sp.csr_array(fresh, dtype=np.float32)
    return reached


def distant_pairs(
    train: Interactions,
    texts: Float32Array,
    models: Mapping[str, Float32Array],
    *,
    hops: int = HOPS,
    seed: int = 0,
    memory_budget: int = MEMORY_BUDGET,
) -> dict[str, Pairs]:
    """Pair each user with the distant user of the most similar text ("agreeing") and with a random one ("random").

    Users without a text, or without a distant user who has one, are in no pair; a random partner may have none.

    Args:
        train: the training split.
        texts: float32[U, d_s], text embeddings of the users; a row of zeros for none.
        models: by name, the final embeddings of the users, float32[U, d].
        hops: distant is farther than this.
        seed: of the random partners.
        memory_budget: bytes that blocks of users x users may take.

    Raises:
        DataError: nobody with a text has a distant user with one, or a matrix has another number of users.
    """
    for name, matrix in {"text": texts, **models}.items():
        if len(matrix) != train.n_users:
            raise DataError(f"{name} has vectors of {len(matrix)} users, the dataset {train.n_users}")
    directions = {name: unit_rows(matrix) for name, matrix in models.items()}
    text = unit_rows(texts)
    has_text: BoolArray = np.asarray(text.any(1))
    # One number per user, drawn here: the size of the blocks must not change who is drawn.
    draws = np.random.default_rng(seed).random(train.n_users)

    def work(block: slice) -> dict[str, Pairs]:
        distant = ~within_hops(train, block, hops)
        n_distant = distant.sum(1)
        rows = np.flatnonzero(has_text[block] & (distant & has_text).any(1))  # places within the block
        users = np.arange(train.n_users)[block][rows]
        distant, n_distant = distant[rows], n_distant[rows]
        agreement = text[users] @ text.T
        which = (draws[users] * n_distant).astype(np.int64)
        partners = {
            "agreeing": np.where(distant & has_text, agreement, -np.inf).argmax(1),
            "random": (distant.cumsum(1) > which[:, None]).argmax(1),
        }
        place = np.arange(len(users))
        pairs = {
            kind: Pairs(users, chosen, agreement[place, chosen].astype(float), n_distant, {}, {})
            for kind, chosen in partners.items()
        }
        for name, vectors in directions.items():
            relevance = vectors[users] @ vectors.T
            for pair in pairs.values():
                own = relevance[place, pair.partners]
                better = (distant & (relevance > own[:, None])).sum(1)
                equal = (distant & (relevance == own[:, None])).sum(1)
                pair.relevance[name] = own.astype(float)
                pair.rank[name] = 1 + better + (equal - 1) / 2
        return pairs

    # A block needs memory for the mask, the cosines of texts and of a model, and the comparisons of ranks.
    blocks = list(map_blocks(work, train.n_users, 3 * train.n_users, memory_budget, threads=1))
    pairs = {kind: _joined([block[kind] for block in blocks]) for kind in KINDS}
    if not len(pairs["agreeing"]):
        raise DataError(
            f"no two users with a text are more than {hops} hops apart: this graph has no distant pairs"
        )
    return pairs


def case_study(
    dataset: Dataset,
    text_embeddings: TextEmbeddings,
    models: Mapping[str, Float32Array],
    *,
    hops: int = HOPS,
    examples: int = 3,
    seed: int = 0,
    memory_budget: int = MEMORY_BUDGET,
) -> dict[str, Any]:
    """Return Figure 6 over all users as plain values; the first model is the base.

    The comparisons are paired over users; ranks are compared as shares of the distant users, so that a
    negative difference is an improvement. The examples are the pairs of highest agreement, chosen without the models.

    Args:
        dataset: its training split is the graph.
        text_embeddings: of the users.
        models: by name, the final embeddings of the users; the first is the base.
        hops: distant is farther than this.
        examples: how many pairs to describe.
        seed: of the control.
        memory_budget: bytes that blocks of users x users may take.

    Raises:
        ConfigError: fewer than two models.
        DataError: no distant pairs.
    """
    if len(models) < 2:
        raise ConfigError(
            f"the case study needs a base and at least one other model, got {', '.join(models) or 'none'}"
        )
    found = distant_pairs(
        dataset.train, text_embeddings.users, models, hops=hops, seed=seed, memory_budget=memory_budget
    )
    base, *others = models
    held_out = dataset.test.csr()
    kinds = {}
    for kind, pairs in found.items():
        common = held_out[pairs.users].multiply(held_out[pairs.partners]).sum(1)
        kinds[kind] = {
            "pairs": len(pairs),
            "agreement": float(pairs.agreement.mean()),
            # Held-out items are independent evidence that a pair has similar tastes.
            "share_a_test_item": float((np.asarray(common) > 0).mean()),
            "models": {
                name: {
                    "relevance": float(pairs.relevance[name].mean()),
                    "median_rank": float(np.median(pairs.rank[name])),
                    "rank_percentile": float(pairs.percentile(name).mean()),
                }
                for name in models
            },
            "against_base": {
                name: {
                    "relevance": asdict(compare(pairs.relevance[name], pairs.relevance[base])),
                    "rank_percentile": asdict(compare(pairs.percentile(name), pairs.percentile(base))),
                    "share_ranked_better": float((pairs.rank[name] < pairs.rank[base]).mean()),
                }
                for name in others
            },
        }
    return {
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "hops": hops,
        "base": base,
        "models": list(models),
        "median_distant_users": float(np.median(found["agreeing"].n_distant)),
        "kinds": kinds,
        "examples": _examples(dataset, found["agreeing"], examples),
    }


def run(
    workspace: Workspace,
    base: str,
    runs: Sequence[str],
    *,
    hops: int = HOPS,
    examples: int = 3,
    seed: int = 0,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Run ``case_study`` on finished runs of a workspace and append the result to ``figure6/<dataset>.jsonl``.

    Args:
        workspace: with a dataset, text embeddings and runs.
        base: the run without alignment.
        runs: the runs to compare with it.
        hops: distant is farther than this.
        examples: how many pairs to describe.
        seed: of the control.
        folder: of results; ``experiments`` in the workspace by default.
    """
    dataset = workspace.dataset()
    text_embeddings = workspace.text_embeddings(dataset)
    models = {name: open_studied(workspace, name, dataset).users for name in (base, *runs)}
    for name, users in models.items():
        if users.shape[1] < 2:
            raise ConfigError(
                f"run {name!r} has user embeddings of {users.shape[1]} dimensions, which say nothing of who is like "
                "whom: choose another run"
            )
    result = case_study(dataset, text_embeddings, models, hops=hops, examples=examples, seed=seed)
    asked = {name: result[name] for name in ("fingerprint", "hops", "base", "models")}
    path = results_path(folder or workspace.experiments_path, "figure6", dataset.name)
    Results[dict[str, Any]](path).append({"id": identity(asked), "status": "done", **result})
    return result


def _joined(parts: Sequence[Pairs]) -> Pairs:
    def column(get: Any) -> Any:
        return np.concatenate([get(part) for part in parts])

    names = parts[0].relevance
    return Pairs(
        column(lambda part: part.users), column(lambda part: part.partners),
        column(lambda part: part.agreement), column(lambda part: part.n_distant),
        {name: column(lambda part, name=name: part.relevance[name]) for name in names},
        {name: column(lambda part, name=name: part.rank[name]) for name in names},
    )  # fmt: skip


def _examples(dataset: Dataset, pairs: Pairs, count: int) -> list[dict[str, Any]]:
    labels = item_labels(dataset)
    of_user = dataset.train.csr()
    popularity = dataset.train.item_degrees()
    chosen: list[dict[str, Any]] = []
    seen: set[tuple[int, ...]] = set()
    for place in np.argsort(-pairs.agreement, kind="stable"):
        ends = (int(pairs.users[place]), int(pairs.partners[place]))
        if len(chosen) == count:
            break
        if tuple(sorted(ends)) in seen:  # two users may be each other's partner
            continue
        seen.add(tuple(sorted(ends)))
        # The least popular items characterize a user best.
        items = [sorted(of_user[[row]].indices, key=lambda item: popularity[item])[:5] for row in ends]
        chosen.append(
            {
                "users": [dataset.users.id(row) for row in ends],
                "items": [[cut_words(labels[item], 12) for item in mine] for mine in items],
                "agreement": float(pairs.agreement[place]),
                "distant_users": int(pairs.n_distant[place]),
                "relevance": {name: float(values[place]) for name, values in pairs.relevance.items()},
                "rank": {name: float(values[place]) for name, values in pairs.rank.items()},
            }
        )
    return chosen
