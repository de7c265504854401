"""Seconds per training epoch on amazon-book's matrix, beside the floor of this machine and beside a peer.

    python benchmarks/epoch_time.py ../shared/data/rlmrec-amazon

Text vectors are random here: time does not depend on what they say. Run it with nothing else running.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the rlmrec command does; read when PyTorch is imported

import numpy as np
import torch

from rlmrec.alignment import Alignment, Contrastive, Generative
from rlmrec.alignment.contrastive import ContrastiveConfig
from rlmrec.alignment.generative import GenerativeConfig
from rlmrec.backbones.lightgcn import LightGCN, LightGCNConfig
from rlmrec.data.dataset import Dataset
from rlmrec.data.published import read_published
from rlmrec.evaluation.ranking import DotProduct, evaluate
from rlmrec.graph import Graph
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.training.onednn import exact_products_by_onednn
from rlmrec.training.sampler import Sampler
from rlmrec.training.step import step
from rlmrec.training.trainer import embeddings

D, BATCH = 32, 4096
VARIANTS = ("base", "con all-users", "con batch", "gen")


def make(variant, dataset, d_s):
    torch.manual_seed(0)
    backbone = LightGCN(dataset.n_users, dataset.n_items, LightGCNConfig(layers=2 if variant == "gen" else 3))
    if variant == "base":
        return backbone, Alignment()
    rng = np.random.default_rng(0)
    text_embeddings = TextEmbeddings(
        rng.standard_normal((dataset.n_users, d_s), np.float32),
        rng.standard_normal((dataset.n_items, d_s), np.float32),
    )
    if variant == "gen":
        config = GenerativeConfig(mask_ratio=0.15, weight=0.1, temperature=0.5)
        return backbone, Generative(text_embeddings, D, config=config)
    return backbone, Contrastive(text_embeddings, D, ContrastiveConfig(negatives=variant.split()[1]))


@exact_products_by_onednn()  # as training does
def epochs(variant, dataset, d_s, n):
    """Seconds of each of n epochs, the first (warm-up) left out."""
    backbone, alignment = make(variant, dataset, d_s)
    graph, sampler = Graph.from_interactions(dataset.train), Sampler(dataset.train, BATCH)
    optimizer = torch.optim.Adam([*backbone.parameters(), *alignment.parameters()], lr=1e-3, fused=True)
    rng, draws = torch.Generator().manual_seed(0), np.random.default_rng(0)
    times = []
    for _ in range(n + 1):
        start = time.perf_counter()
        for batch in sampler.epoch(draws):
            optimizer.zero_grad()
            torch.stack(list(step(backbone, alignment, graph, batch, 1e-6, rng).values())).sum().backward()
            optimizer.step()
        times.append(time.perf_counter() - start)
    return times[1:]


def distinct(dataset):
    """Mean distinct users, positive items and items of a batch: what the operations are counted over."""
    counts = [
        (
            len(b.users.unique()),
            len(b.positives.unique()),
            len(b.negatives.unique()),
            len(torch.cat(b[1:]).unique()),
        )
        for b in Sampler(dataset.train, BATCH).epoch(np.random.default_rng(0))
    ]
    return np.mean(counts, 0)


def operations(variant, dataset, d_s):
    """Floating-point operations of an epoch's dense products and bytes of its sparse ones."""
    n_users, n_nodes = dataset.n_users, dataset.n_users + dataset.n_items
    steps = Sampler(dataset.train, BATCH).n_batches
    layers = 2 if variant == "gen" else 3
    # Forward and backward: per directed edge an index, a weight and a row of x; and the output written.
    moved = 2 * layers * (2 * len(dataset.train) * (4 + 4 + 4 * D) + n_nodes * D * 4 * 2)
    moved += 7 * 4 * n_nodes * D  # Adam reads the parameter, gradient and two moments, writes three
    if variant == "base":
        return 0, steps * moved
    hidden = (D + d_s) // 2
    users, positives, negatives, items = distinct(dataset)

    def info_nce(anchors, candidates, size, sides):  # logits, and a gradient product for each side
        return 2 * anchors * candidates * size * (1 + sides)

    if variant == "gen":
        masked = int(0.15 * n_nodes)
        # σ↑ forward, and backward to weights and inputs; texts are constants
        total = 3 * 2 * masked * (D * hidden + hidden * d_s) + info_nce(masked, masked, d_s, 1)
    else:
        everyone = variant.endswith("all-users")
        projected = (n_users if everyone else users) + items
        # σ↓ forward and backward; no gradient of the first layer's inputs, which are the texts
        total = 2 * projected * (2 * d_s * hidden + 3 * hidden * D)
        total += info_nce(users, n_users if everyone else users, D, 2)
        total += info_nce(positives, positives, D, 2) + info_nce(negatives, negatives, D, 2)
    return steps * total, steps * moved


@exact_products_by_onednn()
def machine():
    """Measured speed of a large matrix product (FLOP/s) and of a read that the cache cannot hold (bytes/s)."""
    a = torch.randn(3072, 3072)
    big = torch.ones(1 << 27)

    def best(call, n=5):
        call()
        times = []
        for _ in range(n):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    return 2 * 3072**3 / best(lambda: a @ a), big.numel() * 4 / best(lambda: big.sum())


def peak_mib():
    """Peak resident memory of this process; ru_maxrss would count the parent's, inherited at the fork."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def peer(dataset, n):
    """torch-geometric's own LightGCN class: its forward, its BPR loss, the same batches, Adam."""
    try:
        from torch_geometric.nn.models import LightGCN as Peer
    except ImportError:
        return None
    n_nodes = dataset.n_users + dataset.n_items
    torch.manual_seed(0)
    model = Peer(n_nodes, D, num_layers=3)
    users, items = (
        torch.from_numpy(dataset.train.users),
        torch.from_numpy(dataset.train.items) + dataset.n_users,
    )
    edges = torch.stack([torch.cat([users, items]), torch.cat([items, users])])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    sampler, draws = Sampler(dataset.train, BATCH), np.random.default_rng(0)
    times = []
    for _ in range(n + 1):
        start = time.perf_counter()
        for batch in sampler.epoch(draws):
            pairs = [torch.stack([batch.users, column + dataset.n_users]) for column in batch[1:]]
            optimizer.zero_grad()
            positive, negative = model(edges, torch.cat(pairs, 1)).chunk(2)
            nodes = torch.cat(
                [batch.users, batch.positives + dataset.n_users, batch.negatives + dataset.n_users]
            )
            model.recommendation_loss(positive, negative, nodes.unique(), lambda_reg=1e-6).backward()
            optimizer.step()
        times.append(time.perf_counter() - start)
    return times[1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the published amazon-book folder")
    parser.add_argument("--epochs", type=int, default=5, help="timed epochs of the quick variants")
    parser.add_argument("--only", nargs=2, metavar=("VARIANT", "D_S"), help="one variant, in this process")
    options = parser.parse_args()
    dataset = Dataset.from_source(read_published(options.folder))
    if options.only:
        variant, d_s = options.only[0], int(options.only[1])
        times = epochs(variant, dataset, d_s, options.epochs if d_s < 1000 else 2)
        peak = peak_mib()
        print(f"{min(times):.3f} {float(np.median(times)):.3f} {peak:.0f}")
        return
    flops, bandwidth = machine()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; measured {flops / 1e9:.0f} GFLOP/s in a "
          f"3072³ product, {bandwidth / 1e9:.0f} GB/s read")  # fmt: skip
    print(f"{'variant':16} {'d_s':>5} {'best s':>8} {'median s':>9} {'floor s':>8} {'peak MiB':>9}")
    base = None
    for variant, d_s in [("base", 0), *((v, d) for d in (384, 1536) for v in VARIANTS[1:])]:
        # A process each, so that its peak memory is its own.
        command = [sys.executable, __file__, str(options.folder), "--epochs", str(options.epochs)]
        answer = subprocess.run(
            [*command, "--only", variant, str(d_s)], capture_output=True, text=True, check=True
        )
        best, median, peak = map(float, answer.stdout.split())
        base = base or median
        dense, moved = operations(variant, dataset, d_s)
        floor = dense / flops + moved / bandwidth
        print(f"{variant:16} {d_s or '':>5} {best:8.2f} {median:9.2f} {floor:8.2f} {peak:9.0f}", flush=True)
    model, _ = make("base", dataset, 0)
    scores = DotProduct(*embeddings(model, dataset))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        evaluate(scores, dataset).metrics()
        times.append(time.perf_counter() - start)
    print(f"{'full evaluation':22} {min(times):8.2f} {float(np.median(times)):9.2f}")
    times = peer(dataset, 3)
    if times is None:
        print("peer: torch-geometric is not installed (pip install 'rlmrec[dev]')")
    else:
        median = float(np.median(times))
        print(f"{'torch-geometric base':22} {min(times):8.2f} {median:9.2f}   {median / base:.1f} x ours")


if __name__ == "__main__":
    main()
