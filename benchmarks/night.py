"""A night of a shop: append, encode, train, train on everything, everybody's lists, publish; seconds and peak memory.

python benchmarks/night.py --customers 100000 --products 20000 --orders 3000000
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

from rlmrec.cli import main
from rlmrec.testing.shop import shop

STEPS = (
    "data append {folder}/next_day.csv --items {folder}/next_products.csv -w {folder}/w",
    "encode -w {folder}/w --encoder tfidf --set dim=256",
    "train -w {folder}/w --name chosen --overwrite",
    "train -w {folder}/w --final --like chosen --name live --overwrite",
    "recommend -w {folder}/w --run live --all --out {folder}/lists.parquet --where in_stock",
    "publish -w {folder}/w --run live",
)


def timed(command):
    start = time.perf_counter()
    try:
        main(command.split(" ") if isinstance(command, str) else command)
    except SystemExit as end:
        if end.code:
            raise
    return time.perf_counter() - start


def run():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--products", type=int, default=20_000)
    parser.add_argument("--orders", type=int, default=3_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shop(options.customers, options.products, options.orders).write(folder)
        first = [
            "data", "table", f"{folder}/orders.csv", "--user-column", "customer_id", "--item-column", "product_id",
            "--timestamp-column", "ordered_at", "--items", f"{folder}/products.csv", "--split", "temporal 8:1:1",
            "-w", f"{folder}/w",
        ]  # fmt: skip
        print(f"first day, reading: {timed(first):.1f} s")
        total = 0.0
        for step in STEPS:
            took = timed(step.format(folder=folder))
            total += took
            print(f"{step.split(' -w')[0].split('/')[0]}: {took:.1f} s")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"the night: {total:.1f} s, peak {peak:.2f} GiB (the making of the shop included)")


if __name__ == "__main__":
    run()
