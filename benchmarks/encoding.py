"""Texts a second of the embedded encoder, by length and in the given order; and whether memory stays flat.

    python benchmarks/encoding.py ../shared/data/yelp-profiles [--sample 2000] [--memory 14085]

The same texts go through batches of 32 in their given order, through the library's own encode (which sorts
the list it is given) and through ours, cache included; then once more through ours, when all are cached.
Processor seconds stand beside wall seconds, since other work on the machine changes the latter. For memory the
texts are three joined, so that most are longer than what the model reads.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from rlmrec.text import LocalEncoder, VectorCache, encode_texts, make_encoder

BATCH = 32


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def timed(label, texts, work):
    wall, busy = time.perf_counter(), time.process_time()
    result = work()
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    print(f"{label:28} {wall:7.1f} s {len(texts) / wall:8.1f} texts/s; processor {busy:7.1f} s "
          f"{len(texts) / busy:8.1f} texts/s", flush=True)  # fmt: skip
    return result


def speed(encoder, texts, cache):
    def given_order():
        parts = [encoder.encode(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
        return np.concatenate(parts)

    given = timed("batches in the given order", texts, given_order)
    library = timed("the library's own encode", texts, lambda: encoder.encode(texts))
    ours, cut = timed("ours", texts, lambda: encode_texts(encoder, texts, cache))
    timed("ours, all of them cached", texts, lambda: encode_texts(encoder, texts, cache))
    print(f"largest difference {max(np.abs(given - ours).max(), np.abs(library - ours).max()):.1e}; "
          f"{cut.sum()} texts were cut")  # fmt: skip


def memory(encoder, texts, cache):
    seen = {}

    def watch(so_far):
        if so_far.done:
            seen.setdefault(so_far.done * 8 // so_far.total, resident_mb())

    timed("long texts", texts, lambda: encode_texts(encoder, texts, cache, watch))
    print(f"resident MB after each eighth: {', '.join(f'{mb:.0f}' for _, mb in sorted(seen.items()))}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with item_profiles.jsonl")
    parser.add_argument("--sample", type=int, default=2000, help="texts for the speed; 0 leaves it out")
    parser.add_argument("--memory", type=int, default=0, help="long texts for the memory; 0 leaves it out")
    parser.add_argument("--encoder", default="local", help="for the memory, as of 'rlmrec encode'")
    options = parser.parse_args()
    table = pl.read_ndjson(options.folder / "item_profiles.jsonl")
    texts = table[table.columns[-1]].to_list()
    random.Random(0).shuffle(texts)
    with tempfile.TemporaryDirectory() as folder:
        if options.sample:
            sample = texts[: options.sample]
            lengths = np.array([len(text) for text in sample])
            print(
                f"{len(sample)} texts of {lengths.min()} to {lengths.max()} characters, mean {lengths.mean():.0f}"
            )
            encoder = LocalEncoder()
            encoder.encode(texts[:BATCH])  # what happens once is not measured
            with VectorCache(Path(folder) / "speed.sqlite") as cache:
                speed(encoder, sample, cache)
        if options.memory:
            long = [f"{text} {texts[row - 1]} {texts[row - 2]}" for row, text in enumerate(texts)]
            with VectorCache(Path(folder) / "memory.sqlite") as cache:
                memory(make_encoder(options.encoder), long[: options.memory], cache)


if __name__ == "__main__":
    main()
