"""How good and how fast are the closed-form recommenders? Test figures, options chosen on validation alone.

    python benchmarks/closed_form.py --data ../shared/data                       all datasets, graph-filter
    python benchmarks/closed_form.py --data FOLDER --only debian-packages --recommenders popularity itemknn ease

FOLDER holds rlmrec-amazon, yelp-profiles and debian-packages as ../shared/data/README.md describes them;
MovieLens-100K comes from the package index (--movielens names a folder of its files). Texts are encoded by TF-IDF
with SVD, which is not in the seconds; --vectors FOLDER takes NAME.npy instead, items first and then users, and
--beside puts both side by side.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from rlmrec.closed_form import RECOMMENDERS, GraphFilter, Texts
from rlmrec.closed_form.graph_filter import GraphFilterConfig
from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.movielens import read_movielens_100k
from rlmrec.data.published import read_published
from rlmrec.data.tables import read_tables
from rlmrec.evaluation import metrics
from rlmrec.evaluation.ranking import evaluate
from rlmrec.evaluation.significance import compare
from rlmrec.linalg import unit_rows
from rlmrec.text.tfidf import TfidfEncoder
from rlmrec.topk import top_k

NAMES = ("movielens-100k", "amazon-book", "debian-packages", "yelp-profiles")
K = 20


def read(name, folder, movielens):
    if name == "amazon-book":
        return Dataset.from_source(read_published(folder / "rlmrec-amazon"))
    if name == "movielens-100k":
        return Dataset.from_source(read_movielens_100k(movielens), min_rating=3, k_core=10, seed=0)
    place = folder / name
    source = read_tables(
        **{split: place / f"{split}.csv" for split in ("train", "valid", "test")},
        items=place / ("items.jsonl" if name == "debian-packages" else "item_profiles.jsonl"),
        users=place / "users.jsonl" if name == "debian-packages" else None,
    )
    return Dataset.from_source(source)


def lines(table):
    return (
        [". ".join(value for value in row if value) for row in table.iter_rows()] if table is not None else []
    )


def encode(dataset, vectors, beside):
    """The text vectors of a dataset and what made them; None where it has no texts."""
    if dataset.item_texts is None:
        return None, "none"
    parts, how = [], []
    if vectors is not None:
        parts.append(unit_rows(np.load(vectors / f"{dataset.name}.npy").astype(np.float32)))
        how.append(vectors.name)
    if vectors is None or beside:
        texts = lines(dataset.item_texts) + lines(dataset.user_texts)
        parts.append(TfidfEncoder.fit(texts).encode(texts))
        how.append("tfidf")
    found, how = np.concatenate(parts, axis=1), " + ".join(how)
    users = found[dataset.n_items :] if dataset.user_texts is not None else None
    return Texts(found[: dataset.n_items], users), how


def shuffled(texts, rng):
    """The same texts given to the wrong items and users."""
    users = None if texts.users is None else texts.users[rng.permutation(len(texts.users))]
    return Texts(texts.items[rng.permutation(len(texts.items))], users)


def measure(kind, dataset, texts, seed, config=None):
    start = time.perf_counter()
    model = kind.fit(dataset, texts, config, seed)
    ranking = evaluate(model, dataset)
    return model, ranking, time.perf_counter() - start


def show(dataset, label, ranking, seconds, record):
    chosen = {name: value for name, value in record["chosen"].items() if value is not None}
    print(
        f"| {dataset.name} | {label} | {ranking.metric('recall@20'):.4f} / {ranking.metric('ndcg@20'):.4f} "
        f"| {seconds:.1f} | {json.dumps(chosen)} |",
        flush=True,
    )
    for note in record["notes"]:
        print(f"    {note}", flush=True)


def against(new, base, label):
    for metric in ("recall@20", "ndcg@20"):
        found = compare(new.per_user(metric), base.per_user(metric))
        print(f"    {metric} against {label}: {100 * found.relative:+.2f} %, p = {found.p_t:.2g}", flush=True)


def by_history(dataset, new, base):
    """Gain of text for users of few, some and many training items."""
    degrees = dataset.train.user_degrees()[new.users]
    for low, high in ((1, 2), (3, 4), (5, 8), (9, 10**9)):
        rows = (degrees >= low) & (degrees <= high)
        if rows.any():
            ours, theirs = (ranking.per_user("recall@20")[rows].mean() for ranking in (new, base))
            print(
                f"    {low} to {high} training items: {theirs:.4f} -> {ours:.4f} ({100 * (ours / theirs - 1):+.1f} %)"
            )


def hidden_users(dataset, texts, seed):
    """A tenth of the users leaves training and validation; all their items are to be found by their text alone."""
    rng = np.random.default_rng(seed)
    hidden = np.sort(rng.choice(dataset.n_users, dataset.n_users // 10, replace=False))
    stays = np.ones(dataset.n_users, bool)
    stays[hidden] = False
    parts = []
    for name in ("train", "valid"):
        split = dataset.split(name)
        parts.append(split.take(stays[split.users]))
    empty = Interactions(np.empty(0, int), np.empty(0, int), dataset.n_users, dataset.n_items)
    rest = Dataset("without a tenth", *parts, empty, dataset.users, dataset.items)
    known = Texts(texts.items, texts.users, None, stays)
    model = GraphFilter.fit(rest, known, None, seed)
    wanted = sum(dataset.split(name).csr() for name in ("train", "valid", "test"))[hidden].toarray() > 0
    popular = np.broadcast_to(rest.train.item_degrees().astype(np.float32), wanted.shape)
    start = time.perf_counter()
    scores = np.concatenate([model.score_parts(model.fold_in([], text=texts.users[user])) for user in hidden])
    each = (time.perf_counter() - start) / len(hidden)
    for label, of_label in (("popularity", np.ascontiguousarray(popular)), ("text alone", scores)):
        hits = np.take_along_axis(wanted, top_k(of_label, K)[0], 1)
        found = [metric(hits, wanted.sum(axis=1)).mean() for metric in (metrics.recall, metrics.ndcg)]
        print(
            f"    hidden users, {label}: {found[0]:.4f} / {found[1]:.4f}, {1000 * each:.0f} ms a user",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--movielens", type=Path)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--beside", action="store_true", help="the vectors and TF-IDF side by side")
    parser.add_argument("--only", nargs="*", default=NAMES, choices=NAMES)
    parser.add_argument("--recommenders", nargs="*", default=["graph-filter"], choices=list(RECOMMENDERS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--quick", action="store_true", help="no comparison with shuffled and without text")
    options = parser.parse_args()
    print("| data | recommender | Recall@20 / NDCG@20 | seconds | chosen |\n|---|---|---|---|---|")
    for name in options.only:
        dataset = read(name, options.data, options.movielens)
        texts, how = encode(dataset, options.vectors, options.beside)
        for seed in options.seeds:
            for kind in (RECOMMENDERS[which] for which in options.recommenders):
                read_texts_ = texts if kind.reads_text else None
                model, ranking, seconds = measure(kind, dataset, read_texts_, seed)
                label = f"{kind.label}, {how}" if kind.reads_text else kind.label
                show(dataset, label, ranking, seconds, model.record)
                if kind is not GraphFilter or texts is None or options.quick:
                    continue
                _, base, seconds = measure(kind, dataset, None, seed)
                show(dataset, "without text", base, seconds, _.record)
                against(ranking, base, "no text")
                by_history(dataset, ranking, base)
                # The options of the right texts, so that shuffled ones cannot just be left out.
                chosen = {key: value for key, value in model.record["chosen"].items() if key in OPTIONS}
                wrong = shuffled(texts, np.random.default_rng(seed))
                _, other, seconds = measure(kind, dataset, wrong, seed, GraphFilterConfig(**chosen))
                show(dataset, "shuffled text", other, seconds, _.record)
                against(other, base, "no text")
                if texts.users is not None:
                    hidden_users(dataset, texts, seed)


OPTIONS = set(GraphFilterConfig.model_fields)

if __name__ == "__main__":
    main()
