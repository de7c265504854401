"""Are new items and new users served well from their text alone?

    python benchmarks/cold_start.py WORKSPACE -o FOLDER                 a fifth of the items, such as yelp-profiles'
    python benchmarks/cold_start.py WORKSPACE -o FOLDER --hide users    a tenth of the users, such as debian-packages'

WORKSPACE holds the dataset and its text vectors; for users, texts of their own. Cold items leave training, validation
and test, the users' text vectors and the fit of every map; cold users leave training and validation, and all their
items are to be found. LightGCN alone and with Con are trained on the rest (into FOLDER; a finished run is kept), the
graph filter is fitted to it. --epochs limits the training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from rlmrec.cli.output import Output
from rlmrec.cli.train import train_with_progress
from rlmrec.closed_form import GraphFilter, Texts
from rlmrec.data.dataset import SPLITS, Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.evaluation import metrics
from rlmrec.experiments.spec import RunSpec
from rlmrec.recommend.cold_start import ColdStart, KernelMap, ProjectorMap
from rlmrec.recommend.open import open_recommender
from rlmrec.text.embeddings import TextEmbeddings, mean_over_training
from rlmrec.topk import top_k, unit_rows
from rlmrec.workspace import Workspace

K = 20
KERNELS = ((2.0, 0.3), (4.0, 0.1), (4.0, 0.3))  # width and penalty; the first are the defaults
COMMON = {"learning_rate": 5e-3, "l2": 1e-6}
CON = {"layers": 3, "weight": 0.01, "temperature": 0.2, "negatives": "batch", "epochs": 28}
RUNS = {"base": ("none", {"layers": 2}), "con": ("contrastive", CON)}


def hold_out(dataset, text_embeddings, share, rng):
    """The dataset and vectors without a random share of the items, and the rows of warm and cold ones."""
    cold = np.sort(rng.choice(dataset.n_items, round(share * dataset.n_items), replace=False))
    warm = np.setdiff1d(np.arange(dataset.n_items), cold)
    place = np.full(dataset.n_items, -1)
    place[warm] = np.arange(len(warm))
    trained = None
    parts = []
    for name in ("train", "valid", "test"):
        split = dataset.split(name)
        keep = place[split.items] >= 0
        if trained is not None:  # who has nothing left to learn from is not evaluated
            keep &= trained[split.users]
        part = Interactions(split.users[keep], place[split.items[keep]], dataset.n_users, len(warm))
        parts.append(part)
        trained = parts[0].user_degrees() > 0
    warm_set = Dataset(
        f"{dataset.name} without cold items",
        *parts,
        dataset.users,
        Vocabulary((dataset.items.id(int(row)) for row in warm), "item"),
        dataset.item_texts[warm] if dataset.item_texts is not None else None,
    )
    items = text_embeddings.items[warm]
    texts = TextEmbeddings(
        mean_over_training(items, warm_set.train), items, {"dataset": warm_set.fingerprint}
    )
    return warm_set, texts, cold


def cold_pairs(dataset, warm_set, cold):
    """U x C: all interactions with cold items of users who have training interactions."""
    place = np.full(dataset.n_items, -1)
    place[cold] = np.arange(len(cold))
    splits = [dataset.split(name) for name in SPLITS]
    users = np.concatenate([split.users for split in splits])
    items = place[np.concatenate([split.items for split in splits])]
    keep = (items >= 0) & (warm_set.train.user_degrees() > 0)[users]
    shape = dataset.n_users, len(cold)
    return sp.csr_array((np.ones(keep.sum(), np.float32), (users[keep], items[keep])), shape=shape)


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


def new_items(runs, dataset, text_embeddings, warm_set, texts, cold, rng):
    """Compare the maps; their options are chosen on 30 % of the users, the figures of the others are reported."""
    wanted = cold_pairs(dataset, warm_set, cold)
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


def hold_out_users(dataset, text_embeddings, share, rng):
    """The dataset and vectors without the histories of a random share of the users, and the rows of those."""
    cold = np.sort(rng.choice(dataset.n_users, int(share * dataset.n_users), replace=False))
    stays = np.ones(dataset.n_users, bool)
    stays[cold] = False
    parts = [split.take(stays[split.users]) for split in map(dataset.split, SPLITS)]
    rest = Dataset(
        f"{dataset.name} without cold users", *parts, dataset.users, dataset.items, dataset.item_texts
    )
    users = np.where(stays[:, None], text_embeddings.users, np.float32(0))
    has_user = stays & text_embeddings.has_user
    manifest = {**text_embeddings.manifest, "dataset": rest.fingerprint}
    texts = TextEmbeddings(users, text_embeddings.items, manifest, has_user, text_embeddings.has_item)
    return rest, texts, cold


def new_users(runs, dataset, text_embeddings, rest, texts, cold):
    """Compare what users who are known by their text alone get; nothing is chosen on them."""
    wanted = sum(dataset.split(name).csr() for name in SPLITS)[cold].toarray() > 0
    queries = text_embeddings.users[cold]
    closed = GraphFilter.fit(rest, Texts(texts.items, text_embeddings.users, None, texts.has_user), seed=0)
    results = {
        "popularity": np.tile(rest.train.item_degrees().astype(np.float32), (len(cold), 1)),
        "graph filter, by text": np.concatenate(
            [closed.score_parts(closed.fold_in([], text=query)) for query in queries]
        ),
    }
    for name, (_, recommender) in runs.items():
        by_text = ColdStart.fit(recommender, texts, rest)
        results[f"{name}: cold-start map"] = by_text.users(queries) @ recommender.items.T
    print(f"\n{len(cold)} cold users, {wanted.sum()} interactions; Recall@20 / NDCG@20")
    for name, scores in results.items():
        hits = np.take_along_axis(wanted, top_k(scores, K)[0], 1)
        recalls, ndcgs = (metric(hits, wanted.sum(axis=1)) for metric in (metrics.recall, metrics.ndcg))
        print(f"{name:<40}{recalls.mean():.4f} / {ndcgs.mean():.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("workspaces/cold-start"))
    parser.add_argument("--hide", choices=["items", "users"], default="items")
    parser.add_argument("--share", type=float, help="of the items (.2) or users (.1) that are hidden")
    parser.add_argument("--epochs", type=int, help="at most, for each trained run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="of base, con")
    options = parser.parse_args()
    output = Output(False)
    source, place = Workspace(options.workspace), Workspace(options.out)
    dataset = source.dataset()
    text_embeddings = source.text_embeddings(dataset)
    rng = np.random.default_rng(options.seed)
    hide, share = (hold_out, 0.2) if options.hide == "items" else (hold_out_users, 0.1)
    rest, texts, cold = hide(dataset, text_embeddings, options.share or share, rng)
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
    if options.hide == "users":
        new_users(runs, dataset, text_embeddings, rest, texts, cold)
    else:
        new_items(runs, dataset, text_embeddings, rest, texts, cold, np.random.default_rng(1))


if __name__ == "__main__":
    main()
