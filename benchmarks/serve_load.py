"""Latency of single recommendations over HTTP at rising rates, up to saturation.

    python benchmarks/serve_load.py                  10,000 items x 64, one worker
    python benchmarks/serve_load.py --workers 2
    python benchmarks/serve_load.py --users 1000000 --items 1000000 --per-user 10 --workers 2 [--recall 0.95]

Clustered vectors of uneven length, seeded, as in index.py, saved as a run and served by `rlmrec serve` on the loopback
interface. With --recall the lists come through an approximate index. The client sends at a fixed rate whatever comes
back, and a latency counts from the moment at which the request was due: a server that stalls cannot hide it. The
last row has more connections open, each with a request always under way and without heed for Retry-After, than the
server takes at once. At the end: the proportional memory (PSS) of each process. The client runs on the same cores. An
answer other than 200 and 503, or none, ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.files import write_json
from rlmrec.recommend.index import build_index
from rlmrec.recommend.recommender import Recommender
from rlmrec.workspace import Workspace

RATES = (10, 25, 50, 100, 200, 400, 600, 800, 1000, 1500, 2000)
MOST_SECONDS = 10.0  # of a rate


def make(folder, n_users, n_items, d, per_user=30, recall=None):
    rng = np.random.default_rng(0)
    columns = np.unique(
        rng.integers(n_items, size=(n_users, per_user)) + n_items * np.arange(n_users)[:, None]
    )
    train = Interactions(columns // n_items, columns % n_items, n_users, n_items)
    none = Interactions(np.empty(0, np.int64), np.empty(0, np.int64), n_users, n_items)
    names = Vocabulary(range(n_users), "user"), Vocabulary(range(n_items), "item")
    dataset = Dataset("random", train, none, none, *names)
    place = Workspace(folder)
    dataset.save(place.dataset_path)
    centres = rng.standard_normal((max(1, n_items // 200), d), dtype=np.float32)
    users, items = (clustered(rng, n, centres) for n in (n_users, n_items))
    recommender = Recommender.of(dataset, users, items)
    recommender.save(place.run("random") / "recommender")
    if recall is not None:
        index = build_index(items, users, recall, seen=recommender.known)
        index.save(place.run("random") / "recommender")
        print({name: index.manifest[name] for name in ("kind", "probes", "recall@20", "seconds")}, flush=True)
    write_json(place.run("random") / "metrics.json", {})


def clustered(rng, n, centres):
    vectors = rng.standard_normal((n, centres.shape[1]), dtype=np.float32)
    vectors *= 0.5
    vectors += centres[rng.integers(len(centres), size=n)]
    vectors *= rng.lognormal(0, 0.3, (n, 1)).astype(np.float32)
    return vectors


def memory(server):
    """Print the PSS of the server's processes: what they share is divided by how many share it."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    for pid in [str(server), *children]:
        found = re.search(r"Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text())
        name = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        what = (
            "supervisor or only worker" if pid == str(server) else "worker" if "spawn" in name else "helper"
        )
        print(f"PSS {int(found[1]) / 1024:,.0f} MiB: {what}", flush=True)


class Client:
    """Keeps connections open; counts answers by status and keeps the latencies of the good ones."""

    def __init__(self, port, n_users, k):
        self.port, self.n_users, self.k = port, n_users, k
        self.free = []
        self.draw = random.Random(0)
        self.unexpected = Counter()
        self.clear()

    def clear(self):
        self.statuses, self.latencies = Counter(), []

    async def get(self, due):
        try:
            reader, writer = (
                self.free.pop() if self.free else await asyncio.open_connection("127.0.0.1", self.port)
            )
            path = f"/v1/users/{self.draw.randrange(self.n_users)}/recommendations?k={self.k}"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
        except (OSError, asyncio.IncompleteReadError) as error:
            self.statuses[type(error).__name__] += 1
            return
        status = int(head[9:12])
        self.statuses[status] += 1
        if status == 200:
            self.latencies.append(time.perf_counter() - due)
        self.free.append((reader, writer))

    async def at_rate(self, rate, seconds):
        """Requests at a fixed rate."""
        self.clear()
        start, tasks = time.perf_counter(), []
        for number in range(int(rate * seconds)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(self.get(due)))
        await asyncio.gather(*tasks)
        return time.perf_counter() - start

    async def at_saturation(self, connections, seconds):
        """Each connection with a request always under way."""
        self.clear()
        start = time.perf_counter()

        async def one():
            while time.perf_counter() < start + seconds:
                await self.get(time.perf_counter())

        await asyncio.gather(*(one() for _ in range(connections)))
        return time.perf_counter() - start

    def row(self, name, seconds):
        wait = np.array(self.latencies or [np.nan]) * 1000
        others = {status: count for status, count in self.statuses.items() if status != 200}
        # Saturation may say 503 and nothing else.
        self.unexpected.update({status: count for status, count in others.items() if status != 503})
        p50, p99, worst = np.percentile(wait, [50, 99, 100])
        print(
            f"| {name} | {self.statuses[200] / seconds:,.0f} | {p50:.1f} | {p99:.1f} | {worst:.1f} | {others or ''} |",
            flush=True,
        )
        return p99


async def measure(port, options):
    client = Client(port, options.users, options.k)
    await client.at_rate(100, 2)  # connections, caches
    print(
        "| asked for, requests/s | answered/s | p50 ms | p99 ms | worst ms | other answers |\n|---|---|---|---|---|---|"
    )
    for rate in RATES:
        seconds = await client.at_rate(rate, options.seconds)
        if client.row(f"{rate:,}", seconds) > 1000 or client.statuses[200] < 0.7 * rate * options.seconds:
            break
    seconds = await client.at_saturation(options.connections, options.seconds)
    client.row(f"all that {options.connections} connections can", seconds)
    if client.unexpected:
        sys.exit(f"answers other than 200 and 503: {dict(client.unexpected)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--per-user", type=int, default=30)
    parser.add_argument("--recall", type=float, help="build an approximate index of this recall")
    parser.add_argument("--d", type=int, default=64)
    parser.add_argument("-k", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0, help=f"of each rate, at most {MOST_SECONDS:g}")
    parser.add_argument("--connections", type=int, default=256)
    options = parser.parse_args()
    options.seconds = min(options.seconds, MOST_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / "w", options.users, options.items, options.d, options.per_user, options.recall)
        command = [
            sys.executable,
            "-m",
            "rlmrec",
            "serve",
            "-w",
            f"{folder}/w",
            "--run",
            "random",
            "--port",
            "0",
        ]
        command += ["--workers", str(options.workers)]
        log = Path(folder) / "log"
        with log.open("w") as errors:
            server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            port = int(re.search(r":(\d+) ", server.stdout.readline())[1])
            while (
                log.read_text().count("startup complete") < options.workers
            ):  # or the first rates meet one alone
                if server.poll() is not None:
                    sys.exit(f"the server ended:\n{log.read_text()}")
                time.sleep(0.1)
            asyncio.run(measure(port, options))
            if Path("/proc").exists():
                memory(server.pid)
        finally:
            server.terminate()
            server.wait(60)


if __name__ == "__main__":
    main()
