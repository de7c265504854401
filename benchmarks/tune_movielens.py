"""The search behind the movielens preset: each trial trained once, seed 1, judged on validation alone.

    rlmrec data movielens-100k -w workspaces/ml && rlmrec encode -w workspaces/ml
    python benchmarks/tune_movielens.py workspaces/ml results.jsonl

The trials are those of experiments/results/tuning-movielens-100k.jsonl; ``--trials`` takes another such file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rlmrec.experiments.run import build
from rlmrec.experiments.spec import RunSpec
from rlmrec.training.trainer import train
from rlmrec.workspace import Workspace

CELLS = Path(__file__).parents[1] / "experiments" / "results" / "tuning-movielens-100k.jsonl"
OPTIONS = ("layers", "l2", "learning_rate", "weight", "temperature", "mask_ratio", "negatives")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("results", type=Path, help="JSON lines, appended to")
    parser.add_argument("--cells", type=Path, default=CELLS)
    options = parser.parse_args()
    place = Workspace(options.workspace)
    dataset = place.dataset()
    text_embeddings = place.text_embeddings(dataset)
    for line in options.trials.read_text().splitlines():
        trial = json.loads(line)
        chosen = {name: trial[name] for name in OPTIONS if name in trial}
        spec = RunSpec.resolve(trial["backbone"], trial["alignment"], seed=trial["seed"], options=chosen)
        history = train(*build(spec, dataset, text_embeddings), dataset, spec.training, seed=spec.seed)
        found = {**trial, "valid_recall@20": round(history.best, 5), "best_epoch": history.best_epoch,
                 "epochs": len(history.epochs)}  # fmt: skip
        print(json.dumps(found), flush=True)
        with options.results.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
