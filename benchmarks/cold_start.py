"""Which map from texts to item embeddings serves new items best?

    python benchmarks/cold_start.py WORKSPACE -o FOLDER

WORKSPACE holds the dataset and its text vectors. A fifth of the items leave training, validation and test, the users'
text vectors and the fit of every map. LightGCN alone and with Con are trained on the rest (into FOLDER; finished runs
are kept), the graph filter is fitted to it. --epochs limits the training. For new users, and for more recommenders:
rlmrec experiment hidden.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from rlmrec.cli.output import Output
from rlmrec.cli.train import train_with_progress
from rlmrec.closed_form import GraphFilter, Texts
from rlmrec.experiments.hidden import Hidden
from rlmrec.experiments.spec import RunSpec
from rlmrec.linalg import unit_rows
from rlmrec.recommend.cold_start import KernelMap, ProjectorMap
from rlmrec.recommend.open import open_recommender
from rlmrec.topk import top_k
from rlmrec.workspace import Workspace

K = 20
KERNELS = ((2.0, 0.3), (4.0, 0.1), (4.0, 0.3))  # width and penalty; the first are the defaults
COMMON = {"learning_rate": 5e-3, "l2": 1e-6}
CON = {"layers": 3, "weight": 0.01, "temperature": 0.2, "negatives": "batch", "epochs": 28}
RUNS = {"base": ("none", {"layers": 2}), "con": ("contrastive", CON)}


def recall(users, items, wanted, rows):
    """Mean Recall@20 of the rows' users: all cold items ranked by users · items."""
    rows = rows[np.diff(wanted.indptr)[rows] > 0]
    values = []
    for start in range(0, len(rows), 2048):
        block = rows[start : start + 2048]
        found, _ = top_k(users[block] @ items.T, K)
        relevant = wanted[block].toarray()
        values.append(np.take_along_axis(relevant, found, 1).sum(axis=1) / relevant.sum(axis=1))
    return float(np.concatenate(values).mean())


def new_items(runs, hidden, text_embeddings, texts, rng):
    """Compare the maps; their options are chosen on 30 % of the users, the figures of the others are reported."""
    dataset, warm_set, cold, wanted = hidden.whole, hidden.rest, hidden.rows, hidden.wanted
    chosen = rng.random(dataset.n_users) < 0.3
    parts = np.flatnonzero(chosen), np.flatnonzero(~chosen)
    new = text_embeddings.items[cold]
    noise = rng.standard_normal((dataset.n_users, 1)).astype(np.float32), rng.standard_normal((len(cold), 1))
    results = {
        # No cold item has a training interaction: by popularity all are equal, and so in random order.
        "(b, c) popularity = random": [
            recall(noise[0], noise[1].astype(np.float32), wanted, part) for part in parts
        ],
        "(a) cosine of text vectors": [
            recall(unit_rows(texts.users), unit_rows(new), wanted, part) for part in parts
        ],
    }
    warm = np.flatnonzero(warm_set.train.item_degrees() > 0)
    for name, (folder, recommender) in runs.items():
        targets = unit_rows(recommender.items[warm])
        maps = [
            KernelMap.fit(texts.items[warm], targets, np.random.default_rng(0), width, penalty)
            for width, penalty in KERNELS
        ]
        projector = ProjectorMap.of_run(folder)
        best = {}
        for one in maps if projector is None else [*maps, projector]:
            mapped = unit_rows(one.apply(new))
            found = [recall(recommender.users, mapped, wanted, part) for part in parts]
            if found[0] > best.get(one.name, ([-1],))[0][0]:
                best[one.name] = found, one
        for found, one in best.values():
            results[f"{name}: {one.name} {one.options or ''}"] = found
    closed = GraphFilter.fit(warm_set, Texts(texts.items), seed=0)
    placed = closed.add_items(new)
    results["graph filter, new items by text"] = [
        recall(closed.users, placed, wanted, part) for part in parts
    ]
    text = results["(a) cosine of text vectors"][1]
    print(f"\n{len(cold)} cold items, {wanted.nnz} interactions; Recall@20 among the cold items")
    print(f"{'':<58}chosen on  reported  of (a)")
    for name, (on, reported) in results.items():
        print(f"{name:<58}{on:>9.4f}{reported:>10.4f}{reported / text:>8.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("workspaces/cold-start"))
    parser.add_argument("--share", type=float, default=0.2, help="of the items that are hidden")
    parser.add_argument("--epochs", type=int, help="at most, for each trained run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="of base, con")
    options = parser.parse_args()
    output = Output(False)
    source, place = Workspace(options.workspace), Workspace(options.out)
    dataset = source.dataset()
    text_embeddings = source.text_embeddings(dataset)
    hidden = Hidden.draw(dataset, "items", options.share, options.seed)
    rest, texts = hidden.rest, hidden.texts_of_rest(text_embeddings)
    runs = {}
    for name, (alignment, cell) in RUNS.items():
        limit = (
            {}
            if options.epochs is None
            else {"epochs": min(options.epochs, cell.get("epochs", options.epochs))}
        )
        spec = RunSpec.resolve("lightgcn", alignment, seed=options.seed, options={**COMMON, **cell, **limit})
        if options.only is None or name in options.only:
            train_with_progress(spec, rest, texts, place.run(name), output)
            runs[name] = place.run(name), open_recommender(place, name, rest)
    new_items(runs, hidden, text_embeddings, texts, np.random.default_rng(1))


if __name__ == "__main__":
    main()
