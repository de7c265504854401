"""Seconds per training epoch of the six backbones, alone, with Con and with Gen, on amazon-book's matrix.

    python benchmarks/backbone_times.py ../shared/data/rlmrec-amazon

Preset amazon, d = 32, random text vectors of d_s = 384: time does not depend on what they say. Run it with nothing
else running; the trainer's own clock, evaluation left out, the best of the timed epochs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the rlmrec command does; read when PyTorch is imported

import numpy as np

from rlmrec.data.dataset import Dataset
from rlmrec.data.published import read_published
from rlmrec.experiments.run import build
from rlmrec.experiments.spec import RunSpec
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.training.trainer import train

CEILINGS = {"gccf": 0.4, "lightgcn": 0.5, "sgl": 25, "simgcl": 20, "dccf": 8, "autocf": 20}
ADDED = 4  # seconds that an alignment may add at d_s = 384


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the published amazon-book folder")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(CEILINGS), help="backbones")
    options = parser.parse_args()
    dataset = Dataset.from_source(read_published(options.folder))
    rng = np.random.default_rng(0)
    text_embeddings = TextEmbeddings(
        rng.standard_normal((dataset.n_users, 384), np.float32),
        rng.standard_normal((dataset.n_items, 384), np.float32),
    )
    print(f"load {os.getloadavg()[0]:.1f}\n| backbone | base | ceiling | Con | adds | Gen | adds |")
    for backbone in options.only:
        seconds = {}
        for alignment in ("none", "contrastive", "generative"):
            spec = RunSpec.resolve(backbone, alignment, "amazon", 0, {"epochs": options.epochs})
            history = train(*build(spec, dataset, text_embeddings), dataset, spec.training, seed=0)
            seconds[alignment] = min(record["seconds"] for record in history.epochs)
        base, con, gen = seconds.values()
        print(f"| {backbone} | {base:.2f} | {CEILINGS[backbone]} | {con:.2f} | {con - base:+.2f} | "
              f"{gen:.2f} | {gen - base:+.2f} |", flush=True)  # fmt: skip
    print(f"load {os.getloadavg()[0]:.1f}; an alignment may add {ADDED} s")


if __name__ == "__main__":
    main()
