"""Which approximate index: FAISS' inverted files beside usearch's HNSW and exact search.

    python benchmarks/index.py                        200,000 items
    python benchmarks/index.py --items 20000          a small one

Clustered vectors of uneven length, seeded: what embeddings of items look like, and harder for inner products
than random ones. One thread; CPU seconds, so that other work on the machine weighs little. MiB is what the
saved index takes. usearch is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np

from rlmrec.recommend.index import _recall, build_index
from rlmrec.topk import top_k_products

K = 20


def make(n_items, n_queries, d):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, n_items // 200), d))
    vectors = centres[rng.integers(len(centres), size=n_items + n_queries)]
    vectors = vectors + 0.5 * rng.standard_normal(vectors.shape)
    vectors *= rng.lognormal(0, 0.3, (len(vectors), 1))
    vectors = vectors.astype(np.float32)
    return vectors[:n_items], vectors[n_items:]


def timed(work):
    start = time.process_time()
    return work(), max(time.process_time() - start, 1e-9)


def report(name, built, search, queries, exact, size):
    """One row; ``search`` is called once before it is timed."""
    search(queries[:10])
    found, seconds = timed(lambda: search(queries))
    build = "" if built is None else f"{built:.1f}"
    print(f"{name:<44}{build:>8}{_recall(np.asarray(found, np.int64), exact):>10.4f}{len(queries) / seconds:>12,.0f}"
          f"{size / 2**20:>8.0f}", flush=True)  # fmt: skip


def of_faiss(items, queries, exact, folder):
    cells = int(build_index(items, queries, 0.5).manifest["kind"].removeprefix("IVF").partition(",")[0])
    compressed = f"IVF{cells},PQ{items.shape[1] // 2}x4fs,RFlat"
    for kind, probes in ((f"IVF{cells},Flat", (8, 32, 64)), (compressed, (16,))):

        def build(kind=kind):
            index = faiss.index_factory(items.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
            index.train(items)
            index.add(items)
            return index

        index, seconds = timed(build)
        path = folder / "faiss"
        faiss.write_index(index, str(path))
        for count in probes:
            if count > cells:
                continue
            inner = faiss.SearchParametersIVF(nprobe=count)
            refined = faiss.IndexRefineSearchParameters(k_factor=4, base_index_params=inner)
            parameters = refined if "RFlat" in kind else inner
            report(
                f"FAISS {kind}, {count} cells", seconds,
                lambda asked, index=index, parameters=parameters: index.search(asked, K, params=parameters)[1],
                queries, exact, path.stat().st_size,
            )  # fmt: skip


def of_usearch(items, queries, exact, folder):
    try:
        from usearch.index import Index
    except ImportError:
        print("usearch: not installed (pip install usearch)")
        return
    index = Index(ndim=items.shape[1], metric="ip", dtype="f32")
    _, seconds = timed(lambda: index.add(np.arange(len(items)), items, threads=1))
    path = folder / "usearch"
    index.save(str(path))
    for expansion in (64, 256, 512):
        index.expansion_search = expansion
        report(
            f"usearch HNSW f32, expansion {expansion}", seconds,
            lambda asked: index.search(asked, K, threads=1).keys, queries, exact, path.stat().st_size,
        )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--d", type=int, default=64)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    items, queries = make(options.items, options.queries, options.d)
    exact = top_k_products(queries, items, K)[0]
    print(f"{'':<44}{'build s':>8}{'recall@20':>10}{'queries/s':>12}{'MiB':>8}")
    report(
        "exact (rlmrec)", None, lambda asked: top_k_products(asked, items, K)[0], queries, exact, items.nbytes
    )
    with tempfile.TemporaryDirectory() as folder:
        of_faiss(items, queries, exact, Path(folder))
        of_usearch(items, queries, exact, Path(folder))


if __name__ == "__main__":
    main()
