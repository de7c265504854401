"""How fast raw review files are read, and in how much memory.

    python benchmarks/raw_sources.py [--reviews 2000000]

Files in the forms of Amazon (JSON reviews, metadata as Python literals) and Steam (Python literals), gzipped, are
made in a temporary folder: power-law users and items, texts of some 500 characters. Each step runs in a process
of its own, whose peak memory (Linux) is the one shown; the imports' part of it is the first row. Lines a second
are those of processor time, which other work on the machine changes less than the clock's.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from rlmrec.data.amazon import AMAZON, read_amazon
from rlmrec.data.dataset import SPLITS, Dataset
from rlmrec.data.lines import parse_json, parse_literal
from rlmrec.data.raw import Format
from rlmrec.data.steam import STEAM, read_steam

TEXT = (
    "the a of it's book game I \"really\" didn't like this and what one was very story don’t great ending.\n with by "
    "for them never more time love again characters world play through every other first read about because"
)
SAMPLE = 50_000  # lines for the comparison of parsers


def make(folder: Path, n: int, seed: int = 1) -> None:
    """n reviews by n / 10 users of n / 100 items, in both forms, and the items."""
    rng = np.random.default_rng(seed)
    words = TEXT.split(" ")
    texts = [" ".join(rng.choice(words, size)) for size in rng.geometric(0.01, 5000)]

    def draw(size: int) -> np.ndarray:
        return np.minimum((size * rng.random(n) ** 2).astype(np.int64), size - 1)

    columns = (
        draw(n // 10), draw(n // 100), rng.integers(1, 6, n), rng.integers(0, 1_400_000_000, n),
        rng.integers(0, 5000, n),
    )  # fmt: skip
    with (
        gzip.open(folder / "amazon.json.gz", "wt", compresslevel=1) as amazon,
        gzip.open(folder / "steam.json.gz", "wt", compresslevel=1) as steam,
    ):
        for user, item, stars, when, text in zip(*(column.tolist() for column in columns), strict=True):
            review = {
                "reviewerID": f"A{user:013}", "asin": f"{item:010}", "reviewerName": "J. McDonald", "helpful": [2, 3],
                "reviewText": texts[text], "overall": float(stars), "summary": "In short",
                "unixReviewTime": when, "reviewTime": "09 13, 2009",
            }  # fmt: skip
            amazon.write(json.dumps(review) + "\n")
            played = {
                "username": f"player {user}", "hours": 0.1, "products": 41, "product_id": str(item),
                "page_order": 0, "date": str(np.datetime64(when, "s").astype("datetime64[D]")),
                "text": texts[text], "early_access": False, "page": 1,
            }  # fmt: skip
            steam.write(python2(played) + "\n")
    with (
        gzip.open(folder / "meta.json.gz", "wt", compresslevel=1) as meta,
        gzip.open(folder / "games.json.gz", "wt", compresslevel=1) as games,
    ):
        for item in range(n // 100):
            book = {
                "asin": f"{item:010}", "title": f"Book {item}", "description": texts[item % 5000],
                "categories": [["Books", "Fiction"]], "related": {"also_bought": [f"{i:010}" for i in range(60)]},
            }  # fmt: skip
            meta.write(repr(book) + "\n")
            games.write(python2({"id": str(item), "app_name": f"Game {item}", "genres": ["Action"]}) + "\n")


def python2(record: dict[str, Any]) -> str:
    """As Python 2 prints a record of text, numbers and lists."""
    parts = []
    for key, value in record.items():
        if isinstance(value, list):
            said = "[" + ", ".join("u" + ascii(entry) for entry in value) + "]"
        else:
            said = "u" + ascii(value) if isinstance(value, str) else repr(value)
        parts.append(f"u'{key}': {said}")
    return "{" + ", ".join(parts) + "}"


def nothing(_: Path) -> int:
    """What the imports take."""
    return 1


def split_lines(folder: Path) -> int:
    """Unpack and split into lines: the floor."""
    with gzip.open(folder / "amazon.json.gz") as file:
        return sum(1 for _ in file)


def _pass(source: Format, path: Path) -> int:
    return sum(1 for _ in source.reviews(path, 0, None).each(source.review))


def first_pass_json(folder: Path) -> int:
    """Pass one over JSON, nothing kept."""
    return _pass(AMAZON, folder / "amazon.json.gz")


def first_pass_python(folder: Path) -> int:
    """Pass one over Python literals, nothing kept."""
    return _pass(STEAM, folder / "steam.json.gz")


def _sample(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt") as file:
        yield from (line for line, _ in zip(file, range(SAMPLE), strict=False))


def _parse(parse: Callable[[str], Any], path: Path) -> int:
    return sum(1 for line in _sample(path) if parse(line))


def parse_json_alone(folder: Path) -> int:
    """The JSON decoder on 50,000 lines."""
    return _parse(parse_json, folder / "amazon.json.gz")


def parse_literal_alone(folder: Path) -> int:
    """Ours on 50,000 lines of Python literals."""
    return _parse(parse_literal, folder / "steam.json.gz")


def literal_eval_alone(folder: Path) -> int:
    """ast.literal_eval on the same."""
    return _parse(ast.literal_eval, folder / "steam.json.gz")


def _size(dataset: Dataset) -> int:
    read: int = dataset.provenance["interactions"]["read"]
    kept = sum(len(dataset.split(split)) for split in SPLITS)
    print(f"{dataset.name}: {dataset.n_users:,} x {dataset.n_items:,}, {kept:,} interactions")
    return read


def amazon(folder: Path) -> int:
    """read_amazon: 20 % of the users, 5-core, texts."""
    source = read_amazon(reviews=folder / "amazon.json.gz", meta=folder / "meta.json.gz")
    return _size(Dataset.from_source(source, min_rating=3, sample_users=0.2, k_core=5))


def steam(folder: Path) -> int:
    """read_steam: 25 % of the users, 5-core, texts."""
    source = read_steam(reviews=folder / "steam.json.gz", games=folder / "games.json.gz")
    return _size(Dataset.from_source(source, sample_users=0.25, k_core=5))


STEPS = (
    nothing, split_lines, parse_json_alone, parse_literal_alone, literal_eval_alone,
    first_pass_json, first_pass_python, amazon, steam,
)  # fmt: skip


def measure(step: Callable[[Path], int], folder: Path) -> tuple[int, float, float, float]:
    """Lines, seconds, seconds of the processor, MiB at the peak."""
    start, busy = time.perf_counter(), time.process_time()
    lines = step(folder)
    seconds, processor = time.perf_counter() - start, time.process_time() - busy
    # Not getrusage, whose peak a process inherits from the one that started it.
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return lines, seconds, processor, int(peak[1]) / 2**10 if peak else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reviews", type=int, default=2_000_000)
    options = parser.parse_args()
    report = Table("step", "lines", "seconds", "processor", "lines a second of it", "peak memory, MiB")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, options.reviews)
        for path in sorted(folder.iterdir()):
            print(f"{path.name}: {path.stat().st_size / 1e6:.0f} MB")
        context = multiprocessing.get_context("spawn")
        for step in STEPS:
            with ProcessPoolExecutor(1, context) as process:
                lines, seconds, processor, peak = process.submit(measure, step, folder).result()
            what = (step.__doc__ or "").rstrip(".")
            report.add_row(
                what,
                f"{lines:,}",
                f"{seconds:.2f}",
                f"{processor:.2f}",
                f"{lines / processor:,.0f}",
                f"{peak:.0f}",
            )
    Console().print(report)


if __name__ == "__main__":
    main()
