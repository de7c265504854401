"""Seconds of a full test evaluation, beside the floor of the machine and a plain evaluation by torch.topk.

    .venv/bin/python benchmarks/evaluation_time.py [--data ../shared/data/rlmrec-amazon] [--repeat 15]

Random embeddings: the time does not depend on what they are. Needs an otherwise idle machine.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from rlmrec.data.dataset import Dataset
from rlmrec.data.published import read_published
from rlmrec.evaluation.ranking import DotProduct, evaluate
from rlmrec.topk import top_k

K = 20


def seconds(work, repeat):
    """Best and median of ``repeat`` runs, after one to warm up."""
    work()
    taken = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken), statistics.median(taken)


def straightforward(users, items, dataset, rows, block=1024):
    """What one writes first: a dense mask, torch.topk, a dense matrix of what is held out."""
    users, items = torch.from_numpy(users), torch.from_numpy(items)
    train, test = dataset.train.csr(), dataset.test.csr()
    recalls = []
    for start in range(0, len(rows), block):
        of = rows[start : start + block]
        scores = users[of] @ items.T
        scores[torch.from_numpy(train[of].toarray()) > 0] = -torch.inf
        held_out = torch.from_numpy(test[of].toarray())
        best = scores.topk(K, dim=1).indices
        recalls.append(held_out.gather(1, best).sum(1) / held_out.sum(1))
    return float(torch.cat(recalls).mean())


def row(name, best, median, note=""):
    print(f"{name:<52}{best * 1e3:>9.1f}{median * 1e3:>9.1f}  {note}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared/data/rlmrec-amazon")
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--d", type=int, default=32)
    options = parser.parse_args()

    dataset = Dataset.from_source(read_published(options.data))
    rng = np.random.default_rng(0)
    users = rng.standard_normal((dataset.n_users, options.d), dtype=np.float32)
    items = rng.standard_normal((dataset.n_items, options.d), dtype=np.float32)
    scorer = DotProduct(users, items)
    rows = np.unique(dataset.test.users)
    print(f"{len(rows)} users x {dataset.n_items} items, d = {options.d}, k = {K}, {os.cpu_count()} cores")
    print(f"{'milliseconds':<52}{'best':>9}{'median':>9}")

    ours = seconds(lambda: evaluate(scorer, dataset, k=(5, 10, K)), options.repeat)
    ranking = evaluate(scorer, dataset, k=(5, 10, K))
    row("evaluate", *ours)
    row("  + all metrics at 5, 10, 20", *seconds(ranking.metrics, options.repeat))
    theirs = seconds(lambda: straightforward(users, items, dataset, rows), max(3, options.repeat // 3))
    row("torch.topk, straightforward", *theirs, f"{theirs[1] / ours[1]:.1f} x ours")
    recalls = ranking.metric(f"recall@{K}"), straightforward(users, items, dataset, rows)
    assert abs(recalls[0] - recalls[1]) < 1e-6, recalls

    square = rng.standard_normal((2048, 2048), dtype=np.float32)
    gemm, _ = seconds(lambda: square @ square, 7)
    rate = 2 * 2048**3 / gemm
    flops = 2 * len(rows) * dataset.n_items * options.d
    note = f"{flops / 1e9:.2f} GFLOP at {rate / 1e9:.0f} GFLOP/s"
    row("floor: the product", flops / rate, flops / rate, note)
    source, target = np.ones(1 << 26, np.float32), np.empty(1 << 26, np.float32)
    copy, _ = seconds(lambda: np.copyto(target, source), 7)
    bandwidth = 2 * source.nbytes / copy
    volume = 2 * 4 * len(rows) * dataset.n_items
    note = (
        f"{volume / 1e9:.2f} GB at {bandwidth / 1e9:.1f} GB/s on one core; blocks stay in the cache instead"
    )
    row("if the scores went through memory, out and in", volume / bandwidth, volume / bandwidth, note)

    print("\nselection of the 20 best alone, one core, milliseconds (median)")
    print(f"{'rows x items':<20}{'top_k':>9}{'argpartition':>14}{'torch.topk':>12}")
    torch.set_num_threads(1)
    for n_rows, n_items in ((4096, 200), (1024, 1000), (112, 9332), (64, 200_000), (8, 2_000_000)):
        scores = rng.standard_normal((n_rows, n_items), dtype=np.float32)
        tensor = torch.from_numpy(scores)
        peers = (
            lambda s=scores: top_k(s, K),
            lambda s=scores: np.argpartition(s, -K, 1),
            lambda t=tensor: t.topk(K),
        )
        taken = [seconds(peer, options.repeat)[1] * 1e3 for peer in peers]
        print(f"{f'{n_rows} x {n_items}':<20}{taken[0]:>9.2f}{taken[1]:>14.2f}{taken[2]:>12.2f}")


if __name__ == "__main__":
    main()
