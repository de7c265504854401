"""Make large interactions with the degrees and the clusters of a real set, so that there is something to learn.

    python benchmarks/synthetic.py made.parquet --users 1000000 --items 100000 --interactions 10000000 --like pairs.csv

Without --like the real set is the sample of Debian's package index that comes with rlmrec. Of the real set are taken:

- the interactions of a user: each made user has a real one as template, with its number of interactions, scaled by
  one factor for all, and its clusters;
- the popularity of items: the made items of a cluster have the quantiles of its real items' degrees as weights;
- the clusters: k-means of the items' leading singular vectors. A made catalogue holds ``COPIES`` of each; a user stays
  with one of them for ``LOYALTY`` of the interactions, and takes ``NOISE`` of all from any cluster.

Users are made in parts from seeds of their own and written as row groups, so memory does not grow with their number.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp
from sklearn.cluster import KMeans

from rlmrec.closed_form.svd import right_singular_vectors
from rlmrec.data.debian import read_debian_packages
from rlmrec.types import FloatArray, IntArray

CLUSTERS, RANK = 64, 48
COPIES, LOYALTY, NOISE = 4, 0.9, 0.15
PART = 200_000  # users made at a time
DAY, DAYS = 86_400, 2_000


@dataclass(frozen=True)
class Structure:
    """What is taken of a real set.

    Args:
        indptr: int64[U + 1], where each real user's interactions begin.
        clusters: int64[n], the cluster of each interaction's item.
        degrees: for each cluster the degrees of its items, ascending.
    """

    indptr: IntArray
    clusters: IntArray
    degrees: list[IntArray]

    @classmethod
    def of(cls, users: IntArray, items: IntArray, seed: int = 0) -> Structure:
        """Take the structure of pairs, whose rows are numbered from 0."""
        matrix = sp.csr_array((np.ones(len(users), np.float32), (users, items)))
        matrix.data[:] = 1
        degrees = np.bincount(matrix.indices, minlength=matrix.shape[1])
        of_users = np.diff(matrix.indptr)
        scaled = sp.csr_array(
            (
                (np.repeat(of_users, of_users) * degrees[matrix.indices]) ** -0.5,
                matrix.indices,
                matrix.indptr,
            ),
            shape=matrix.shape,
        )
        vectors = right_singular_vectors(scaled.astype(np.float32), RANK, seed=seed).vectors
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
        found = KMeans(CLUSTERS, n_init=1, random_state=seed).fit_predict(vectors)
        by_cluster = [np.sort(degrees[(found == c) & (degrees > 0)]) for c in range(CLUSTERS)]
        return cls(matrix.indptr.astype(np.int64), found[matrix.indices].astype(np.int64), by_cluster)

    @classmethod
    def read(cls, path: Path | None) -> Structure:
        """Take the structure of a CSV whose first two columns are users and items; by default of Debian's sample."""
        if path is None:
            pairs = read_debian_packages().interactions
            assert not isinstance(pairs, tuple)
            return cls.of(pairs.users, pairs.items)
        table = pl.read_csv(path)
        users, items = (
            table[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in table.columns[:2]
        )
        return cls.of(users, items)


def make(
    structure: Structure, n_users: int, n_items: int, n_interactions: int, seed: int
) -> Iterator[dict[str, IntArray]]:
    """Yield parts of the interactions: columns user_id, item_id, rating and timestamp, distinct pairs."""
    weights, starts = _catalogue(structure, n_items)
    ends = np.cumsum(weights)
    bounds = np.concatenate([[0.0], ends])
    real = np.diff(structure.indptr)
    factor = n_interactions / n_users / real.mean()
    shuffled = np.random.default_rng(seed).permutation(n_items)  # ids tell nothing of the cluster
    for number, first in enumerate(range(0, n_users, PART)):
        rng = np.random.default_rng([seed, number])
        count = min(PART, n_users - first)
        templates = rng.integers(len(real), size=count)
        wanted = np.maximum(1, rng.poisson(real[templates] * factor))
        users = np.repeat(np.arange(count), wanted)
        of_template = templates[users]
        place = (rng.random(len(users)) * real[of_template]).astype(np.int64)
        clusters = structure.clusters[structure.indptr[of_template] + place]
        anywhere = rng.random(len(users)) < NOISE
        clusters[anywhere] = structure.clusters[
            rng.integers(len(structure.clusters), size=int(anywhere.sum()))
        ]
        copies = rng.integers(COPIES, size=count)[users]
        other = rng.random(len(users)) > LOYALTY
        copies[other] = rng.integers(COPIES, size=int(other.sum()))
        leaves = clusters * COPIES + copies
        low, high = bounds[starts[leaves]], bounds[starts[leaves + 1]]
        found = np.searchsorted(ends, low + (high - low) * rng.random(len(users)), side="right")
        items = shuffled[np.minimum(found, n_items - 1)]
        _, first_of = np.unique(users * n_items + items, return_index=True)
        first_of.sort()
        yield {
            "user_id": users[first_of] + first,
            "item_id": items[first_of],
            "rating": rng.integers(1, 6, len(first_of)),
            "timestamp": rng.integers(DAYS * DAY, size=len(first_of)) + 1_500_000_000,
        }


def _catalogue(structure: Structure, n_items: int) -> tuple[FloatArray, IntArray]:
    """Return the weight of each item, leaf after leaf, and where each leaf (a copy of a cluster) begins."""
    shares = np.array([len(degrees) for degrees in structure.degrees], float)
    ends = np.round(np.cumsum(np.repeat(shares, COPIES)) / (COPIES * shares.sum()) * n_items).astype(np.int64)
    starts = np.concatenate([[0], ends])
    weights = np.empty(n_items)
    for leaf in range(len(ends)):
        size = starts[leaf + 1] - starts[leaf]
        degrees = structure.degrees[leaf // COPIES]
        if size:
            weights[starts[leaf] : starts[leaf + 1]] = np.quantile(degrees, (np.arange(size) + 0.5) / size)
    return weights, starts


def write(
    path: Path, structure: Structure, n_users: int, n_items: int, n_interactions: int, seed: int = 0
) -> int:
    """Write the interactions as one Parquet file, a row group for each part; return how many there are."""
    kinds = {"user_id": pa.int64(), "item_id": pa.int64(), "rating": pa.int8(), "timestamp": pa.int64()}
    schema, total = pa.schema(list(kinds.items())), 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in make(structure, n_users, n_items, n_interactions, seed):
            writer.write_table(pa.table(part, schema=schema))
            total += len(part["user_id"])
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--like", type=Path, help="CSV of real pairs; by default Debian's sample")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    total = write(
        options.file,
        Structure.read(options.like),
        options.users,
        options.items,
        options.interactions,
        options.seed,
    )
    print(f"{options.file}: {total:,} interactions of {options.users:,} users with {options.items:,} items")


if __name__ == "__main__":
    main()
