"""Are new items recommended from their text alone? A fifth of yelp-profiles' items is hidden from training.

    python benchmarks/cold_start.py WORKSPACE -o FOLDER       WORKSPACE: dataset and text vectors of yelp-profiles

Cold items leave training, validation and test, the users' text vectors and the fit of every map. LightGCN
alone and with Con are trained on the rest (into FOLDER; a finished run is kept).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from rlmrec.cli.output import Output
from rlmrec.cli.train import train_with_progress
from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.experiments.spec import RunSpec
from rlmrec.text.semantics import Semantics, mean_over_training
from rlmrec.workspace import Workspace

COMMON = {"learning_rate": 5e-3, "l2": 1e-6}
CON = {"layers": 3, "weight": 0.01, "temperature": 0.2, "negatives": "batch", "epochs": 50}
RUNS = {"base": ("none", {"layers": 2}), "con": ("contrastive", CON)}


def hold_out(dataset, semantics, share, rng):
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
    items = semantics.items[warm]
    texts = Semantics(mean_over_training(items, warm_set.train), items, {"dataset": warm_set.fingerprint})
    return warm_set, texts, warm, cold


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("workspaces/cold-start"))
    parser.add_argument("--share", type=float, default=0.2, help="of the items that are hidden")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    output = Output(False)
    source, place = Workspace(options.workspace), Workspace(options.out)
    dataset = source.dataset()
    semantics = source.semantics(dataset)
    warm_set, texts, warm, cold = hold_out(
        dataset, semantics, options.share, np.random.default_rng(options.seed)
    )
    for name, (alignment, cell) in RUNS.items():
        spec = RunSpec.resolve("lightgcn", alignment, seed=options.seed, options={**COMMON, **cell})
        train_with_progress(spec, warm_set, texts, place.run(name), output, label=name)


if __name__ == "__main__":
    main()
