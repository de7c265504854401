"""A night of a shop: append a day, encode what is new, train, evaluate, train on everything, lists, publish, restart.

Every step is a command in a process of its own, as a nightly job runs it. Prints seconds, processor seconds and peak
memory of each as one table of Markdown.

python benchmarks/night.py --customers 100000 --products 20000 --orders 3000000
"""

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from rlmrec.machine import available_cores

FIRST_DAY = (
    "data table {folder}/orders.csv --user-column customer_id --item-column product_id --timestamp-column ordered_at"
    " --items {folder}/products.csv --split 'temporal 8:1:1' -w {folder}/w",
    "encode -w {folder}/w --encoder tfidf --set dim=256",
)
NIGHT = {
    "append": "data append {folder}/next_day.csv --items {folder}/next_products.csv -w {folder}/w",
    "encode": "encode -w {folder}/w --encoder tfidf --set dim=256",
    "train and evaluate": "train -w {folder}/w --name chosen --overwrite",
    "train on everything": "train -w {folder}/w --final --like chosen --name live --overwrite",
    "everybody's lists": "recommend -w {folder}/w --run live --all --out {folder}/lists.parquet --where in_stock",
    "publish": "publish -w {folder}/w --run live",
}
GIB = 2**30


def command(text, folder):
    return [sys.executable, "-m", "rlmrec", *shlex.split(text.format(folder=folder))]


def timed(text, folder, log):
    """Run a command; return its seconds, processor seconds and peak memory in GiB."""
    start = time.perf_counter()
    process = subprocess.Popen(command(text, folder), stdout=log, stderr=log)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        log.seek(0)
        raise SystemExit(f"{text}: exit status {process.returncode}\n{log.read().decode()}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / GIB


def restarted(folder, log):
    """Start a server, ask for one list and end it; return seconds to the answer and the rest as ``timed``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1/users/c000001/recommendations"
    start = time.perf_counter()
    server = subprocess.Popen(command(f"serve -w {folder}/w --port {port}", folder), stdout=log, stderr=log)
    took = None
    while took is None and server.poll() is None and time.perf_counter() < start + 60:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert len(json.load(answer)["items"]) == 20
            took = time.perf_counter() - start
        except OSError:
            time.sleep(0.02)
    server.send_signal(signal.SIGTERM)
    _, _, usage = os.wait4(server.pid, 0)
    if took is None:
        log.seek(0)
        raise SystemExit(f"the server did not answer\n{log.read().decode()}")
    return took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / GIB


def run():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--customers", type=int, default=100_000)
    parser.add_argument("--products", type=int, default=20_000)
    parser.add_argument("--orders", type=int, default=3_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, (Path(name) / "log").open("w+b") as log:
        folder = Path(name)
        # In a process of its own: what this one has used counts as memory of the processes that it starts.
        sizes = f"{options.customers}, {options.products}, {options.orders}"
        code = (
            f"import sys, pathlib, rlmrec.testing.shop as s; s.shop({sizes}).write(pathlib.Path(sys.argv[1]))"
        )
        subprocess.run([sys.executable, "-c", code, folder], check=True)
        for text in FIRST_DAY:
            timed(text, folder, log)
        rows = {step: timed(text, folder, log) for step, text in NIGHT.items()}
        seconds, processor, peaks = zip(*rows.values(), strict=True)
        rows["**the night**"] = sum(seconds), sum(processor), max(peaks)
        rows["restart of the server to its first list"] = restarted(folder, log)
    print(
        f"{options.customers:,} customers, {options.products:,} products, {options.orders:,} orders; "
        f"{available_cores()} cores, load {os.getloadavg()[1]:.1f}\n"
    )
    print("| step | s | processor s | peak GiB |\n|---|---:|---:|---:|")
    for step, (took, cpu, peak) in rows.items():
        print(f"| {step} | {took:.1f} | {cpu:.1f} | {peak:.2f} |")


if __name__ == "__main__":
    run()
