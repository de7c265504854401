"""Does text pay? LightGCN alone, with Con, and with Con whose vectors are given to the wrong nodes.

    python benchmarks/text_pays.py ../shared/data/yelp-profiles --tune     chooses on validation (an hour or two)
    python benchmarks/text_pays.py ../shared/data/yelp-profiles            the chosen ones, test, significance

Item profiles as published go through the embedded encoder; a user is the mean over their training items.
What is chosen stands in CHOSEN, so that the second command alone
repeats the table.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from fidelity import store
from rlmrec.cli.output import Output
from rlmrec.cli.text import item_texts, write_semantics
from rlmrec.cli.train import compare_to_first, show_metrics, train_with_progress
from rlmrec.data.dataset import Dataset
from rlmrec.data.tables import read_splits, read_texts
from rlmrec.experiments.run import build
from rlmrec.experiments.spec import RunSpec
from rlmrec.text.local import LocalEncoder
from rlmrec.training.trainer import train
from rlmrec.workspace import Workspace

COMMON = {"learning_rate": 5e-3}
GRID = {
    "none": [
        {"layers": 3, "l2": 1e-6},
        {"layers": 2, "l2": 1e-6},
        {"layers": 3, "l2": 1e-5},
        {"layers": 3, "l2": 1e-7},
    ],
    "contrastive": [
        {"layers": 3, "l2": 1e-6, "weight": 0.1, "temperature": 0.2, "negatives": "batch"},
        {"layers": 3, "l2": 1e-6, "weight": 0.01, "temperature": 0.2, "negatives": "batch"},
        {"layers": 2, "l2": 1e-6, "weight": 0.003, "temperature": 0.2, "negatives": "batch"},
    ],
}
CON = {"layers": 3, "l2": 1e-6, "weight": 0.01, "temperature": 0.2, "negatives": "batch"}
CHOSEN = {
    "base": ("none", {"layers": 2, "l2": 1e-6}),
    "con": ("contrastive", CON),
    "con-shuffled": ("contrastive", CON),
}


def prepare(folder, workspace, output):
    """The dataset with its own split and the text vectors, made once."""
    *parts, users, items = read_splits(*(folder / f"{split}.csv" for split in ("train", "valid", "test")))
    texts = read_texts(folder / "item_profiles.jsonl", items, "item_id")
    dataset = Dataset("yelp-profiles", *parts, users, items, texts)
    semantics, _ = write_semantics(workspace, dataset, LocalEncoder(), item_texts(dataset), None, output)
    return dataset, semantics


def tune(dataset, semantics, results):
    """Every cell of the grid, validation only; a cell that stands in ``results`` is not run again."""
    done = (
        {line["cell"] for line in map(json.loads, results.read_text().splitlines())}
        if results.exists()
        else set()
    )
    for alignment, cells in GRID.items():
        for cell in cells:
            key = json.dumps({"alignment": alignment, **COMMON, **cell}, sort_keys=True)
            if key in done:
                continue
            spec = RunSpec.resolve("lightgcn", alignment, seed=1, options={**COMMON, **cell})
            start = time.perf_counter()
            history = train(*build(spec, dataset, semantics), dataset, spec.training, seed=1)
            line = {"cell": key, "valid_recall@20": history.best, "best_epoch": history.best_epoch,
                    "seconds": time.perf_counter() - start}  # fmt: skip
            print(json.dumps(line), flush=True)
            with results.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(line) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="train.csv, valid.csv, test.csv, item_profiles.jsonl")
    parser.add_argument("-w", "--workspace", type=Path, default=Path("workspaces/yelp-profiles"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tune", action="store_true", help="run the grid on validation instead")
    parser.add_argument("--only", nargs="*", help="of base, con, con-shuffled")
    parser.add_argument(
        "--store", type=Path, help="append results and validation curves to this JSON-lines file"
    )
    options = parser.parse_args()
    output = Output(False)
    workspace = Workspace(options.workspace)
    dataset, semantics = prepare(options.folder, workspace, output)
    if options.tune:
        tune(dataset, semantics, options.workspace / "tuning.jsonl")
        return
    names, metrics = [], []
    for label, (alignment, cell) in CHOSEN.items():
        if options.only and label not in options.only:
            continue
        name = f"{label}-seed{options.seed}"
        shuffled = label.endswith("shuffled")
        vectors = semantics.shuffled(np.random.default_rng(options.seed)) if shuffled else semantics
        spec = RunSpec.resolve("lightgcn", alignment, seed=options.seed, options={**COMMON, **cell})
        names.append(name)
        metrics.append(train_with_progress(spec, dataset, vectors, workspace.run(name), output, label=name))
        if options.store:
            store(options.store, "yelp-profiles", name, metrics[-1], workspace.run(name))
    comparisons = compare_to_first(names, [workspace.run(name) for name in names])
    show_metrics(names, metrics, output, comparisons)
    for name, cells in comparisons.items():
        for metric in ("recall@20", "ndcg@20"):
            cell = cells[metric]
            print(f"{name} {metric}: {100 * cell['relative']:+.2f} %, p {cell['p_t']:.2g} (t), "
                  f"{cell['p_wilcoxon']:.2g} (Wilcoxon), {cell['p_holm']:.2g} (t, Holm)")  # fmt: skip


if __name__ == "__main__":
    main()
