"""Do profiles by the embedded language model help on MovieLens-100K? Base, Con and Gen by what is encoded.

    rlmrec quickstart -w W && python benchmarks/movielens_profiles.py W --seeds 3

Vectors: the items' metadata, their profiles, or both; a user's is that of their profile or the mean over
their training items. The movielens preset, which was chosen with metadata; nothing is tuned here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from rlmrec.cli import main as rlmrec
from rlmrec.cli.output import Output
from rlmrec.cli.train import train_with_progress
from rlmrec.evaluation.ranking import read_table
from rlmrec.evaluation.significance import compare
from rlmrec.experiments.spec import RunSpec
from rlmrec.workspace import Workspace

VECTORS = {  # name: items' texts, users' vectors
    "metadata": ("metadata", "mean"),
    "llm": ("llm", "profiles"),
    "llm-mean": ("llm", "mean"),
    "both": ("llm+metadata", "profiles"),
    "both-mean": ("llm+metadata", "mean"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", type=Path, help="write the results to this JSON-lines file")
    options = parser.parse_args()
    place, output = Workspace(options.workspace), Output(False)
    dataset = place.dataset()
    variants = [("base", "none", None)]
    for name, (profiles, users) in VECTORS.items():
        try:
            rlmrec(
                [
                    "encode",
                    "-w",
                    str(options.workspace),
                    "--profiles",
                    profiles,
                    "--user-vectors",
                    users,
                    "--name",
                    name,
                ]
            )
        except SystemExit as end:
            if end.code:
                raise
        variants += [
            (f"{short}-{name}", alignment, name)
            for short, alignment in (("con", "contrastive"), ("gen", "generative"))
        ]
    tables = {}
    for label, alignment, name in variants:
        text_embeddings = place.text_embeddings(dataset, name) if name else None
        values = []
        for seed in range(options.seeds):
            run = f"{label}-seed{seed}"
            spec = RunSpec.resolve("lightgcn", alignment, "movielens", seed)
            metrics = train_with_progress(spec, dataset, text_embeddings, place.run(run), output).metrics
            values.append(metrics)
            tables.setdefault(label, []).append(read_table(place.run(run) / "test.parquet"))
            if options.store:
                with options.store.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps({"run": run, "semantics": name, **metrics}) + "\n")
        valid = np.mean([m["valid"]["recall@20"] for m in values])
        line = f"{label:15} valid R@20 {valid:.4f}  test"
        for metric in ("recall@20", "ndcg@20", "ndcg@10"):
            seeds = [m["test"][metric] for m in values]
            line += f"  {metric} {np.mean(seeds):.4f} ± {np.std(seeds, ddof=1):.4f}"
        if label != "base":
            for metric in ("recall@20", "ndcg@10"):
                ours, base = (
                    np.mean([t[metric].to_numpy() for t in tables[which]], axis=0)
                    for which in (label, "base")
                )
                found = compare(ours, base)
                line += f"  {metric} {100 * found.relative:+.1f} % p {found.p_t:.2g}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
