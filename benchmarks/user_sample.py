"""A workspace with a random sample of another's users: a search of hyper-parameters on it costs a tenth.

    python benchmarks/user_sample.py workspaces/yelp workspaces/yelp-sample --users 4000

Items stay where a sampled user has them in training at least three times; splits and text vectors are the
original's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.workspace import Workspace


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a workspace with text vectors")
    parser.add_argument("target", type=Path)
    parser.add_argument("--users", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    source, target = Workspace(options.source), Workspace(options.target)
    dataset = source.dataset()
    text_embeddings = source.text_embeddings(dataset, "default")

    rng = np.random.default_rng(options.seed)
    chosen = np.zeros(dataset.n_users, bool)
    chosen[rng.choice(dataset.n_users, options.users, replace=False)] = True
    train = dataset.train
    often = np.bincount(train.items[chosen[train.users]], minlength=dataset.n_items) >= 3
    # A user all of whose training items are rare leaves with them.
    kept = chosen[train.users] & often[train.items]
    users, items = np.unique(train.users[kept]), np.unique(train.items[kept])
    user_row, item_row = (np.full(size, -1) for size in (dataset.n_users, dataset.n_items))
    user_row[users], item_row[items] = np.arange(len(users)), np.arange(len(items))

    def part(split: Interactions) -> Interactions:
        u, i = user_row[split.users], item_row[split.items]
        both = (u >= 0) & (i >= 0)
        return Interactions(u[both], i[both], len(users), len(items))

    sample = Dataset(
        f"{dataset.name}-sample", *(part(dataset.split(name)) for name in ("train", "valid", "test")),
        Vocabulary([dataset.users.id(int(row)) for row in users]),
        Vocabulary([dataset.items.id(int(row)) for row in items]),
        provenance={"sampled from": dataset.fingerprint, "users": options.users, "seed": options.seed},
    )  # fmt: skip
    sample.save(target.path / "dataset")
    path = target.path / "text_embeddings" / "default.safetensors"
    path.parent.mkdir(exist_ok=True)
    TextEmbeddings(
        text_embeddings.users[users],
        text_embeddings.items[items],
        {"dataset": sample.fingerprint, "encoder": "as the source's"},
    ).save(path)
    print(f"{sample.n_users} x {sample.n_items}, {len(sample.train)} in training")


if __name__ == "__main__":
    main()
