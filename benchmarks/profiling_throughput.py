"""How close profiling comes to what the endpoint allows, and whether memory stays flat.

    python benchmarks/profiling_throughput.py [--items 5000] [--latency 0.2] [--at-once 64]
    python benchmarks/profiling_throughput.py --items 5000 --no-endpoint
    python benchmarks/profiling_throughput.py --items 1000000 --finished WORKSPACE

A fake endpoint in a process of its own answers after a fixed latency; the ideal is items · latency / at once.
Everything is in the measured time: prompts, requests, parsing, the commit of every answer and profile.
With --no-endpoint the model answers in this process at once: what is left is the run without HTTP, and the resume.
With --finished a workspace whose items all have profiles is written, unless it is there, and 'rlmrec profile' finds
that nothing is left. Of its hashes of prompts only those are true that the command looks at, as making all takes long.
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "llm"))
from fault_server import GOOD, FaultServer

from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.llm.base import LLM, Completion, Usage
from rlmrec.llm.client import OpenAIChat
from rlmrec.llm.store import Profile, Store
from rlmrec.profiles.profiler import SAMPLES, Profiler
from rlmrec.sqlite import transaction
from rlmrec.workspace import Workspace

ALLOWED = 1.15
NOWHERE = "http://127.0.0.1:9/v1"
PROFILE = ["--items", "--model", "fake", "--base-url", NOWHERE, "--json"]


def serve(latency, out, stop):
    with FaultServer(latency=latency, keep=False) as server:
        out.put(server.url)
        stop.wait()
        out.put((server.requests, server.most))


class AtOnce(LLM):
    name = "fake"
    concurrency = 64

    async def complete(self, system, prompt, schema=None):  # noqa: ARG002
        return Completion(GOOD, Usage(100, 20, 0))


def resume(path, dataset):
    """Seconds until a new process would send its first request, once it has the dataset: all items are done."""
    dataset.__dict__.pop("content", None)  # a new process computes it again
    started, busy = time.perf_counter(), time.process_time()
    with Store(path) as store:
        again = Profiler(AtOnce(), store).run(dataset, "item")
    return again, time.perf_counter() - started, time.process_time() - busy


def without_endpoint(n_items):
    dataset = make_dataset(n_items)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profiles.sqlite"
        started = time.process_time()
        with Store(path) as store:
            Profiler(AtOnce(), store).run(dataset, "item")
        busy = time.process_time() - started
        again, seconds, again_busy = resume(path, dataset)
        print(f"items {n_items}, no endpoint: processor time {1000 * busy / n_items:.3f} ms an item")
        print(f"resumed: {again.kept} kept, {seconds:.2f} s, processor time {again_busy:.2f} s")


def finish(place, n_items):
    """Write a workspace whose items all have a profile of the recipe that ``PROFILE`` has."""
    dataset = make_dataset(n_items)
    dataset.save(place.dataset_path)
    usage = Usage(100, 20)
    with Store(place.profiles_path) as store, transaction(store._db):
        profiler = Profiler(OpenAIChat("fake", base_url=NOWHERE), store)
        builder = profiler.builder(dataset, "item")
        recipe = profiler.recipe(builder, dataset.content, "item")
        looked_at = set(range(0, n_items, max(1, n_items // SAMPLES)))
        for row, key in enumerate(dataset.items.ids):
            request = profiler.request(builder.item(row)).hash if row in looked_at else f"{row:064x}"
            store.put_profile(
                Profile(
                    "item", key, f"People who enjoy quiet evenings with book {row}.", "It says so.", request,
                    requests=(request,), usage=usage, model="fake", dataset=dataset.content, recipe=recipe,
                )
            )  # fmt: skip


def finished(place, n_items):
    if not place.profiles_path.exists():
        finish(place, n_items)
    started = time.perf_counter()
    command = [sys.executable, "-m", "rlmrec", "profile", "-w", place.path, *PROFILE]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["item"]
    seconds, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{n_items} items: {told['kept']} kept, {told['requests']} requests")
    print(f"{seconds:.1f} s, processor time {used.ru_utime + used.ru_stime:.1f} s, ", end="")
    print(f"at most {used.ru_maxrss / 1024:.0f} MB")
    sys.exit(0 if told["kept"] == n_items else 1)


def make_dataset(n_items, n_users=200, each=50):
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(n_users), each)
    items = np.concatenate([rng.choice(n_items, each, replace=False) for _ in range(n_users)])
    reviews = np.array(
        [f"Review {row}: it kept me busy for a whole weekend." for row in range(len(users))], object
    )
    train = Interactions(users, items, n_users, n_items, review=reviews)
    none = train.take(np.empty(0, np.int64))
    words = np.array(["night", "river", "engine", "garden", "letters", "winter", "music", "stone"])
    texts = pl.DataFrame(
        {
            "title": [f"Book {row}" for row in range(n_items)],
            "description": [
                " ".join(rng.choice(words, 120)) if row % 2 else None for row in range(n_items)
            ],
            "genre": [f"genre {row % 17}" for row in range(n_items)],
        }
    )  # fmt: skip
    return Dataset(
        "throughput",
        train,
        none,
        none,
        Vocabulary(range(n_users)),
        Vocabulary(range(n_items)),
        item_texts=texts,
    )


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=5000)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--no-endpoint", action="store_true")
    parser.add_argument("--finished", type=Path, metavar="WORKSPACE")
    options = parser.parse_args()
    if options.finished:
        finished(Workspace(options.finished), options.items)
    if options.no_endpoint:
        without_endpoint(options.items)
        return
    dataset = make_dataset(options.items)
    context = multiprocessing.get_context("spawn")
    out, stop = context.Queue(), context.Event()
    server = context.Process(target=serve, args=(options.latency, out, stop), daemon=True)
    server.start()
    url = out.get(timeout=30)
    memory = {}

    def watch(progress):
        step = progress.done * 5 // progress.total
        if step not in memory:
            memory[step] = resident_mb()

    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "profiles.sqlite") as store:
        llm = OpenAIChat("fake", base_url=url, concurrency=options.at_once)
        started, busy = time.perf_counter(), time.process_time()
        progress = Profiler(llm, store, on_progress=watch).run(dataset, "item")
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        size = (Path(folder) / "profiles.sqlite").stat().st_size / 1e6
        started = time.perf_counter()
        again = Profiler(llm, store).run(dataset, "item")
        resume = time.perf_counter() - started
    stop.set()
    requests, most = out.get(timeout=30)
    server.join(10)

    ideal = options.items * options.latency / options.at_once
    growth = memory[5] - memory[1]
    print(f"items {options.items}, latency {options.latency} s, at once {options.at_once} (seen {most})")
    print(f"profiled {progress.profiled}, requests {requests}, failed {progress.n_failed}")
    print(f"ideal {ideal:.2f} s, took {seconds:.2f} s = {seconds / ideal:.3f} x (allowed {ALLOWED})")
    print(f"processor time {busy:.2f} s = {1000 * busy / options.items:.2f} ms an item")
    print(f"resident MB after each fifth: {', '.join(f'{mb:.0f}' for _, mb in sorted(memory.items()))}")
    print(f"store {size:.1f} MB; a second run that finds all done: {resume:.2f} s, {again.asked} requests")
    passed = (
        seconds <= ALLOWED * ideal
        and growth < 10
        and requests == progress.profiled == options.items
        and again.asked == 0
    )
    print("passed" if passed else "FAILED")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
