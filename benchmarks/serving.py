"""Users per second of top-20 recommendations for everybody, beside implicit's topk and FAISS flat.

    python benchmarks/serving.py                                     20,000 of a million users
    python benchmarks/serving.py --users 1000000 --parquet all.parquet

Random vectors, seeded; each user has seen 30 random items, which are left out. The rounds take turns, so that
other work on the machine falls on all alike; CPU seconds are printed too. FAISS cannot leave out other items
for each query: it is asked for k + 30 and what was seen is dropped, and once for k alone, which is less work
than was asked of the others.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from pathlib import Path

import faiss
import numpy as np
import scipy.sparse as sp
from implicit.cpu.topk import topk
from threadpoolctl import threadpool_limits

from rlmrec.data.vocabulary import Vocabulary
from rlmrec.recommend.export import write_lists
from rlmrec.recommend.lists import Lists
from rlmrec.recommend.recommender import Recommender
from rlmrec.recommend.search import without

SEEN = 30
# Queries that the peers get at once. FAISS is four times slower with 1,024; to implicit it makes no difference.
BATCH = 8192


def make(n_users, n_items, d):
    rng = np.random.default_rng(0)
    users, items = (rng.standard_normal((n, d), dtype=np.float32) for n in (n_users, n_items))
    columns = np.sort(rng.integers(n_items, size=(n_users, SEEN), dtype=np.int32), axis=1)
    indptr = np.arange(0, SEEN * n_users + 1, SEEN, dtype=np.int32)
    seen = sp.csr_array((np.ones(SEEN * n_users, bool), columns.ravel(), indptr), shape=(n_users, n_items))
    names = Vocabulary(range(n_users), "user"), Vocabulary(range(n_items), "item")
    return Recommender(users, items, *names, seen)


def peers(recommender, k, threads):
    users, items, seen = recommender.users, recommender.items, recommender.seen
    flat = faiss.IndexFlatIP(items.shape[1])
    flat.add(items)
    faiss.omp_set_num_threads(threads)

    def blocks(work):
        def run():
            return np.concatenate(
                [work(slice(start, min(start + BATCH, len(users)))) for start in range(0, len(users), BATCH)]
            )

        return run

    def of_implicit(block):
        left_out = sp.csr_matrix(seen[block], dtype=np.float32)
        return topk(items, users[block], k, filter_query_items=left_out, num_threads=threads)[0]

    def of_faiss(block):
        scores, found = flat.search(users[block], k + SEEN)
        return without(found, scores, sp.csr_array(seen[block]))[0][:, :k]

    return {
        "rlmrec": lambda: recommender.recommend_rows(np.arange(len(users)), k)[0],
        "implicit": blocks(of_implicit),
        "FAISS flat, k + seen, dropped": blocks(of_faiss),
        "FAISS flat, nothing left out": blocks(lambda block: flat.search(users[block], k)[1]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--d", type=int, default=64)
    parser.add_argument("-k", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parquet", type=Path, help="instead, write everybody's recommendations there")
    options = parser.parse_args()
    recommender = make(options.users, options.items, options.d)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    if options.parquet:
        start, cpu = time.perf_counter(), time.process_time()
        write_lists(Lists(recommender), options.parquet, options.k)
        took = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        size = options.parquet.stat().st_size / 2**20
        print(f"{options.users} users: {took:.1f} s, {options.users / took:.0f} users/s, "
              f"{1e6 * (time.process_time() - cpu) / options.users:.0f} us CPU a user, peak memory {before:.0f} MiB "
              f"with the data, {peak:.0f} MiB at the end, file {size:.0f} MiB")  # fmt: skip
        return
    works = peers(recommender, options.k, options.threads)
    times = {name: [] for name in works}
    found = {}
    with threadpool_limits(options.threads):
        for _ in range(options.rounds):
            for name, work in works.items():
                start, cpu = time.perf_counter(), time.process_time()
                found[name] = work()
                times[name].append((time.perf_counter() - start, time.process_time() - cpu))
    for name, rounds in times.items():
        best = min(wall for wall, _ in rounds)
        middle = statistics.median(wall for wall, _ in rounds)
        cpu = min(cpu for _, cpu in rounds)
        same = (found[name] == found["rlmrec"]).mean()
        print(f"{name:<32}{options.users / best:>8.0f} users/s best {options.users / middle:>8.0f} median "
              f"{1e6 * cpu / options.users:>6.0f} us CPU a user, {same:.4f} of the lists as ours")  # fmt: skip


if __name__ == "__main__":
    main()
