"""LightGCN on the paper's amazon-book split with the paper's hyper-parameters, beside the paper's numbers.

python benchmarks/fidelity.py ../shared/data/rlmrec-amazon --seed 1
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rlmrec.cli.output import Output
from rlmrec.cli.train import train_with_progress
from rlmrec.data.published import read_published
from rlmrec.experiments.spec import RunSpec

PAPER = {"recall@20": 0.1411, "ndcg@20": 0.0856}
GOAL = {"recall@20": 0.139, "ndcg@20": 0.085}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the published amazon-book folder")
    parser.add_argument("-w", "--workspace", type=Path, default=Path("workspaces/amazon-book"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--store", type=Path, help="append the result and the validation curve to this JSON-lines file"
    )
    options = parser.parse_args()
    dataset = read_published(options.folder)
    spec = RunSpec.resolve("lightgcn", "none", "amazon", options.seed)
    name = f"base-seed{options.seed}"
    folder = options.workspace / "runs" / name
    metrics = train_with_progress(spec, dataset, None, folder, Output(False), label=name)
    for metric, paper in PAPER.items():
        got = metrics["test"][metric]
        verdict = "reached" if got >= GOAL[metric] else "missed"
        print(f"{metric}: {got:.4f}   paper {paper:.4f}   goal {GOAL[metric]} {verdict}")
    print(
        f"best epoch {metrics['best_epoch']} of {metrics['epochs']}, {metrics['seconds_per_epoch']:.2f} s an epoch"
    )
    if options.store:
        store(options.store, "amazon-book", name, metrics, folder)


def store(path, dataset, name, metrics, folder):
    """Append one JSON line: what ran, what came out, and the validation curve as [epoch, Recall@20] pairs."""
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    curve = [[r["epoch"], round(r["valid"]["recall@20"], 5)] for r in records if "valid" in r]
    with path.open("a", encoding="utf-8") as lines:
        lines.write(
            json.dumps({"dataset": dataset, "run": name, **metrics, "validation_curve": curve}) + "\n"
        )


if __name__ == "__main__":
    main()
