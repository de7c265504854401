"""Make the sample of debian-packages that comes with the package (src/rlmrec/data/debian).

    python benchmarks/debian_sample.py DATA/debian-packages

4,000 of its 10,837 projects, at random, and of those the 5-core; descriptions are cut at 240 characters. The vectors
are those of the embedded encoder as int8, since encoding takes minutes on two cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from rlmrec.data.dataset import Dataset
from rlmrec.data.debian import VECTORS, read_debian_packages
from rlmrec.profiles.select import metadata_of
from rlmrec.text.local import LocalEncoder

PROJECTS, SEED, CORE = 4000, 7, 5
CHARACTERS = 240  # of a description
TARGET = Path(__file__).parents[1] / "src/rlmrec/data/debian"


def main(folder: Path) -> None:
    """Write users.parquet, items.parquet and pairs.parquet."""
    pairs = pl.concat([pl.read_csv(folder / f"{part}.csv") for part in ("train", "valid", "test")])
    users = pairs["user_id"].unique().sort().sample(PROJECTS, seed=SEED)
    pairs = pairs.filter(pl.col("user_id").is_in(users.implode()))
    while True:
        core = pairs.filter((pl.len().over("user_id") >= CORE) & (pl.len().over("item_id") >= CORE))
        if len(core) == len(pairs):
            break
        pairs = core
    tables = {"pairs": pairs.sort("user_id", "item_id")}
    for name, column in (("users", "user_id"), ("items", "item_id")):
        texts = pl.read_ndjson(folder / f"{name}.jsonl")
        # A text ends with a whole word.
        texts = texts.with_columns(
            pl.when(pl.col("description").str.len_chars() > CHARACTERS)
            .then(pl.col("description").str.slice(0, CHARACTERS).str.replace(r"\s+\S*$", " …"))
            .otherwise("description")
            .alias("description")
        )
        tables[name] = texts.filter(pl.col(column).is_in(pairs[column].unique().implode())).sort(column)
    for name, table in tables.items():
        path = TARGET / f"{name}.parquet"
        table.write_parquet(path, compression="zstd", compression_level=22, statistics=False)
        print(f"{path.name}: {len(table):,} rows, {path.stat().st_size:,} bytes")
    dataset, encoder = Dataset.from_source(read_debian_packages(), k_core=CORE), LocalEncoder()
    arrays = {}
    for kind in ("item", "user"):
        vectors = encoder.encode([str(text) for text in metadata_of(dataset, kind)])
        scale = np.abs(vectors).max(axis=1, keepdims=True) / 127
        arrays[f"{kind}s"] = np.round(vectors / scale).astype(np.int8)
        arrays[f"{kind}_scale"] = scale.astype(np.float32)
    save_file(arrays, TARGET / VECTORS, {"encoder": encoder.name})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
