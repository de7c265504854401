"""How long the data pipeline takes and how much memory it needs.

    python benchmarks/data_pipeline.py [--interactions 10000000]

Random power-law interactions (seeded) are written as CSV and as Parquet, then read, merged, reduced to the
10-core, split, saved and loaded. Peak memory is the process's so far, so it grows down the table; the first
row is what making the input itself took.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from rlmrec.data.dataset import Dataset
from rlmrec.data.split import split_by_ratio
from rlmrec.data.tables import read_tables

T = TypeVar("T")


def power_law(n: int, seed: int) -> pl.DataFrame:
    """n interactions of n / 20 users with n / 50 items; the rarest fall out of the 10-core."""
    rng = np.random.default_rng(seed)

    def draw(size: int, exponent: float) -> np.ndarray:
        return np.minimum((size * rng.random(n) ** exponent).astype(np.int64), size - 1)

    return pl.DataFrame(
        {
            "user_id": draw(max(20, n // 20), 2.0),
            "item_id": draw(max(20, n // 50), 2.0),
            "rating": rng.integers(1, 6, n),
            "timestamp": rng.integers(0, 1_500_000_000, n),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = Table("step", "seconds", "interactions after", "peak memory, GiB")

    def timed(step: str, run: Callable[[], T], size: Callable[[T], int] = len) -> T:  # type: ignore[assignment]
        start = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
        report.add_row(step, f"{seconds:.2f}", f"{size(result):,}", f"{peak:.2f}")
        return result

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = timed("make the input", lambda: power_law(options.interactions, options.seed))
        made.write_csv(folder / "made.csv")
        # Text ids, as in the Amazon and Yelp data.
        made.select("user_id", pl.format("item-{}", "item_id").alias("item_id")).write_csv(
            folder / "text.csv"
        )
        made.write_parquet(folder / "made.parquet")
        del made
        columns = {"rating_column": "rating", "timestamp_column": "timestamp"}
        read = lambda source: len(source.interactions)  # noqa: E731
        timed("read CSV, 2 columns of ids, text", lambda: read_tables(folder / "text.csv"), read)
        timed("read Parquet, 4 columns", lambda: read_tables(folder / "made.parquet", **columns), read)
        source = timed("read CSV, 4 columns", lambda: read_tables(folder / "made.csv", **columns), read)
        merged = timed("merge repeated pairs", source.interactions.merged)
        core = timed("10-core", lambda: merged.k_core(10))
        timed("split 3:1:1", lambda: split_by_ratio(core, (3, 1, 1), np.random.default_rng(1))[0])
        total = lambda dataset: sum(len(dataset.split(s)) for s in ("train", "valid", "test"))  # noqa: E731
        dataset = timed(
            "Dataset.from_source, all of these", lambda: Dataset.from_source(source, k_core=10), total
        )
        timed("save", lambda: dataset.save(folder / "dataset") or dataset, total)  # type: ignore[func-returns-value]
        timed("load", lambda: Dataset.load(folder / "dataset"), total)
    Console().print(report)


if __name__ == "__main__":
    main()
