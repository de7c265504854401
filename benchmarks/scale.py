"""Curves of seconds and peak memory against the number of interactions, each stage in a process of its own.

    python benchmarks/scale.py FOLDER [--sizes 100000 1000000 10000000] [--like pairs.csv] [--stages data fit lists als]

Interactions come from ``benchmarks/synthetic.py``, 10 of each user and 100 of each item. Stages: ``data`` reads
Parquet, splits and stores the dataset; ``fit`` chooses and fits the graph filter; ``index`` builds an approximate
index from 200,000 items on; ``lists`` writes everybody's 20 items as Parquet, by the index where there is one;
``graph`` builds the graph of trained backbones and passes three layers of 64 columns forward and back; ``steps``
trains LightGCN in batches of 65,536 for a few steps, alone and with Con over drawn candidates (made-up vectors of
384 numbers); ``pyg`` passes the graph by PyTorch Geometric; ``als`` fits 64 factors by implicit in 15 iterations,
on the same training matrix. The script needs ``pip install 'rlmrec[benchmark]'``. FOLDER keeps what was made and
``scale.jsonl``, one line for each measurement; delete it afterwards, 10^7 interactions take 1 GiB and 10^8 ten.

Where other work shares the cores, seconds of processor time say more than those of the clock.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from synthetic import Structure, write

if TYPE_CHECKING:
    from torch import Tensor

STAGES = ("data", "fit", "index", "lists", "graph", "steps", "pyg", "als")
SIZE, LAYERS = 64, 3  # of the graph pass and of LightGCN
BATCH, STEPS, TEXT_SIZE = 65_536, 4, 384
CANDIDATES = 1024, 2048, 4096, 8192


def data(folder: Path) -> dict[str, Any]:
    """Make the dataset."""
    from rlmrec.data.dataset import Dataset
    from rlmrec.data.tables import read_tables

    read = [read_tables(folder / "made.parquet", timestamp_column="timestamp")]
    dataset = Dataset.from_source(read.pop())  # it releases what was read
    dataset.save(folder / "dataset")
    return {"users": dataset.n_users, "items": dataset.n_items, "train": len(dataset.train)}


def fit(folder: Path) -> dict[str, Any]:
    """Choose the options of the graph filter and fit it."""
    from rlmrec.closed_form import GraphFilter
    from rlmrec.data.dataset import Dataset
    from rlmrec.recommend.recommender import Recommender

    dataset = Dataset.load(folder / "dataset")
    model = GraphFilter.fit(dataset)
    Recommender.of_model(dataset, model).save(folder / "recommender")
    return {"chosen": model.record["chosen"], "validation": model.record["validation"]}


def index(folder: Path) -> dict[str, Any]:
    """Build the index that everybody's list is searched by in a large catalogue."""
    from rlmrec.recommend.index import EXACT_BELOW
    from rlmrec.recommend.recommender import Recommender

    recommender = Recommender.load(folder / "recommender", mmap=True)
    if len(recommender.items) < EXACT_BELOW:
        return {"index": None}
    built = recommender.build_index()
    if built.is_faster:
        built.save(folder / "recommender")
    return {"index": built.manifest}


def lists(folder: Path) -> dict[str, Any]:
    """Write everybody's list."""
    from rlmrec.recommend.export import write_lists
    from rlmrec.recommend.index import Index, has_index
    from rlmrec.recommend.lists import Lists
    from rlmrec.recommend.recommender import Recommender

    recommender = Recommender.load(folder / "recommender", mmap=True)
    if has_index(folder / "recommender"):
        recommender = recommender.with_index(Index.load(folder / "recommender", recommender.items))
    written = write_lists(Lists(recommender), folder / "lists.parquet", 20)
    return {"listed": written.listed}


def graph(folder: Path) -> dict[str, Any]:
    """Build the graph; propagate over three layers, forward and back."""
    import torch

    from rlmrec.data.dataset import Dataset
    from rlmrec.graph import Graph

    dataset = Dataset.load(folder / "dataset")
    start = time.perf_counter()
    made = Graph.from_interactions(dataset.train)
    build = time.perf_counter() - start
    edges = len(made.indices)
    resident = made.nbytes
    x = torch.ones(made.n_nodes, SIZE, requires_grad=True)
    seconds = second_pass(lambda: made.propagate_sum(x, LAYERS))
    return {"edges": edges, "build": build, "bytes_resident": resident / edges, "pass": seconds}


def steps(folder: Path) -> dict[str, Any]:
    """Train LightGCN for a few steps, alone and with Con and several numbers of candidates."""
    import numpy as np
    import torch

    from rlmrec.alignment import Alignment, Contrastive
    from rlmrec.alignment.contrastive import ContrastiveConfig
    from rlmrec.backbones.lightgcn import LightGCN, LightGCNConfig
    from rlmrec.data.dataset import Dataset
    from rlmrec.graph import Graph
    from rlmrec.text.embeddings import TextEmbeddings
    from rlmrec.training.onednn import exact_products_by_onednn
    from rlmrec.training.sampler import Sampler
    from rlmrec.training.step import step

    dataset = Dataset.load(folder / "dataset")
    rng = np.random.default_rng(0)
    of_users, of_items = (
        rng.standard_normal((n, TEXT_SIZE), np.float32) for n in (dataset.n_users, dataset.n_items)
    )
    texts = TextEmbeddings(of_users, of_items)
    graph, sampler = Graph.from_interactions(dataset.train), Sampler(dataset.train, BATCH)

    def median(alignment: Alignment) -> float:
        torch.manual_seed(0)
        options = LightGCNConfig(layers=LAYERS, embedding_size=SIZE)
        backbone = LightGCN(dataset.n_users, dataset.n_items, options)
        optimizer = torch.optim.Adam([*backbone.parameters(), *alignment.parameters()], lr=1e-3, fused=True)
        generator, times = torch.Generator().manual_seed(0), []
        for _, batch in zip(range(STEPS + 1), sampler.epoch(np.random.default_rng(0)), strict=False):
            start = time.perf_counter()
            optimizer.zero_grad()
            torch.stack(
                list(step(backbone, alignment, graph, batch, 1e-6, generator).values())
            ).sum().backward()
            optimizer.step()
            times.append(time.perf_counter() - start)
        return float(np.median(times[1:] or times))

    with exact_products_by_onednn():
        found = {"base": median(Alignment())}
        for n in CANDIDATES:
            options = ContrastiveConfig(negatives="all-users", candidates=n)
            found[f"con, {n} candidates"] = median(Contrastive(texts, SIZE, options))
    return {"steps_an_epoch": sampler.n_batches, "seconds_a_step": found}


def pyg(folder: Path) -> dict[str, Any]:
    """Propagate over three layers, forward and back, by the LightGCN of PyTorch Geometric."""
    from torch_geometric.nn import LightGCN

    from rlmrec.data.dataset import Dataset
    from rlmrec.graph import Graph

    dataset = Dataset.load(folder / "dataset")
    edges = Graph.from_interactions(dataset.train).edge_index
    model = LightGCN(dataset.n_users + dataset.n_items, SIZE, LAYERS)
    return {"edges": edges.shape[1], "pass": second_pass(lambda: model.get_embedding(edges))}


def second_pass(forward: Callable[[], Tensor]) -> float:
    """Seconds of the processor of a pass forward and back; the first one also imports what PyTorch imports late."""
    import torch

    for _ in range(2):
        start = time.process_time()
        found = forward()
        found.backward(torch.ones_like(found))
    return time.process_time() - start


def als(folder: Path) -> dict[str, Any]:
    """Fit the peer."""
    import scipy.sparse as sp
    from implicit.als import AlternatingLeastSquares

    from rlmrec.data.dataset import Dataset
    from rlmrec.evaluation.ranking import DotProduct
    from rlmrec.machine import available_cores

    dataset = Dataset.load(folder / "dataset")
    model = AlternatingLeastSquares(factors=64, iterations=15, random_state=0, num_threads=available_cores())
    model.fit(sp.csr_matrix(dataset.train.csr()), show_progress=False)
    return {"factors": DotProduct(model.user_factors, model.item_factors).users.shape[1]}


def peak() -> float:
    """Return the largest memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux


def measure(stage: str, folder: Path) -> None:
    """Run a stage in this process and print what it took as JSON."""
    start = time.perf_counter(), time.process_time()
    found = {
        "data": data,
        "fit": fit,
        "index": index,
        "lists": lists,
        "graph": graph,
        "steps": steps,
        "pyg": pyg,
        "als": als,
    }[stage](folder)
    wall, processor = time.perf_counter() - start[0], time.process_time() - start[1]
    print(json.dumps({"seconds": wall, "processor": processor, "peak_gib": peak(), **found}, default=float))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--like", type=Path, help="CSV of real pairs; by default Debian's sample")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.folder)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    structure = Structure.read(options.like)
    report = Table("interactions", "stage", "seconds", "of the processor", "peak memory, GiB")
    for size in options.sizes:
        place = options.folder / str(size)
        place.mkdir(exist_ok=True)
        if not (place / "made.parquet").exists():
            write(place / "made.parquet", structure, size // 10, size // 100, size, options.seed)
        for stage in options.stages:
            command = [sys.executable, __file__, str(place), "--measure", stage]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{size:,} {stage} failed: {done.stderr.strip().splitlines()[-1:]}")
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            with (options.folder / "scale.jsonl").open("a") as stream:
                stream.write(json.dumps({"interactions": size, "stage": stage, **found}) + "\n")
            cells = [f"{found[name]:.1f}" for name in ("seconds", "processor")]
            report.add_row(f"{size:,}", stage, *cells, f"{found['peak_gib']:.2f}")
    Console().print(report)


if __name__ == "__main__":
    main()
