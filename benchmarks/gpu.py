"""Check training on a device against the CPU in float64, and time it. About 8 minutes; one table, and JSON.

    python benchmarks/gpu.py [--device cuda] [--data ../shared/data/rlmrec-amazon] [--json gpu.json]
    python benchmarks/gpu.py --device cpu --small    # the script itself, in under a minute

Without --data, interactions and texts have the sizes of amazon-book and random content: times do not depend on it.

- steps: every backbone with every variant, one step on the device in float32 against one in float64 on the CPU with the
  same batch and parameters. A device draws other random numbers, so noise is switched off by its options, and what an
  alignment or AutoCF's mask draws is taken from the CPU. The script ends with 1 if one differs.
- captured, on CUDA: every backbone with every variant trained for two epochs with the steps as CUDA graphs, and twice
  without. The embeddings may differ as much as those of the latter two do, whose sums a device adds in any order, or
  by a thousandth of their largest number.
- repeats: two trainings with the same seed; equal or the largest difference.
- times: seconds of epochs of LightGCN (base, Con, Gen, softmax and distillation; with and without CUDA
  graphs), of a validation, of encoding texts with MiniLM, and of a truncated SVD of the training matrix
  by ``torch.svd_lowrank``, as closed forms need it. ``--compile`` adds epochs compiled by torch.compile.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from rlmrec.alignment import Alignment, Contrastive, Distilled, Generative
from rlmrec.alignment.teacher import TeacherLists
from rlmrec.backbones import BACKBONES
from rlmrec.backbones.autocf import AutoCF
from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.published import read_published
from rlmrec.data.split import split_by_ratio
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import RlmrecError
from rlmrec.evaluation.ranking import DotProduct
from rlmrec.graph import Edges, Graph
from rlmrec.testing import blocks, sample_batch
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.training.step import step
from rlmrec.training.trainer import train
from rlmrec.training.validation import DeviceValidation

VARIANTS = ("none", "softmax", "con", "con batch", "con candidates", "gen", "distilled")
# Options without random draws in the objective.
WITHOUT_NOISE = {
    "lightgcn": {"keep_rate": 1.0},
    "ngcf": {"keep_rate": 1.0},
    "kar-lightgcn": {"keep_rate": 1.0},
}
WITHOUT_NOISE |= {"sgl": {"keep_rate": 1.0}, "kar-sgl": {"keep_rate": 1.0}, "simgcl": {"eps": 0.0}}
TOLERANCE = 2e-4  # of a float32 gradient, relative to its largest number
LIMIT = 8 * 60.0


def make(
    name: str, variant: str, dataset: Dataset, texts: TextEmbeddings, noise: bool = False
) -> tuple[Any, Any]:
    """Make a backbone and an alignment from seed 0, by default without random draws in the backbone's objective."""
    torch.manual_seed(0)
    options = {
        **({} if noise else WITHOUT_NOISE.get(name, {})),
        **({"loss": "softmax"} if variant == "softmax" else {}),
    }
    backbone = BACKBONES[name].create(dataset.n_users, dataset.n_items, options, texts)
    if variant == "gen":
        return backbone, Generative(texts, backbone)
    if variant == "distilled":
        lists = TeacherLists.of(DotProduct.cosine(texts.users, texts.items), dataset, 10)
        return backbone, Distilled(lists, backbone)
    if variant.startswith("con"):
        more = {"con batch": {"negatives": "batch"}, "con candidates": {"candidates": 8}}
        return backbone, Contrastive(texts, backbone, **more.get(variant, {}))
    return backbone, Alignment()


class SameDraw(nn.Module):
    """Rows that an alignment drew on the CPU, so that another device masks and samples the same ones."""

    def __init__(self, alignment: Any, x: torch.Tensor) -> None:
        super().__init__()
        self.rows = alignment.corrupt(x, torch.Generator().manual_seed(1))[1]

    def apply_to(self, alignment: Any) -> None:
        """Let the alignment return them."""
        kind = type(alignment)

        def corrupt(x: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor | None]:
            del rng
            rows = None if self.rows is None else self.rows.to(x.device)
            if rows is None or kind is not Generative:
                return x, rows
            return x.index_put((rows,), alignment.mask_token[: x.shape[1]]), rows

        alignment.corrupt = corrupt


def one_step(parts: tuple[Any, Any], dataset: Dataset, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """Return the loss and the gradients of a step, in float64 on the CPU."""
    model = nn.ModuleList(parts).to(device=device, dtype=dtype)
    backbone, alignment = parts
    graph = Graph.from_interactions(dataset.train, backbone.self_loops, dtype, device)
    if isinstance(backbone, AutoCF):
        set_mask(backbone, dataset, graph)
    batch = sample_batch(dataset, 64)
    batch = type(batch)(*(column.to(device) for column in batch))
    terms = step(backbone, alignment, graph, batch, 1e-4, torch.Generator(device).manual_seed(0))
    loss = torch.stack(list(terms.values())).sum()
    loss.backward()
    found = {"loss": loss.detach()} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {name: tensor.double().cpu() for name, tensor in found.items()}


def set_mask(backbone: AutoCF, dataset: Dataset, graph: Graph) -> None:
    """Give AutoCF a mask that was drawn on the CPU, as between two masks of a training."""
    on_cpu = Graph.from_interactions(dataset.train, dtype=torch.float64)
    backbone.chosen.copy_(torch.arange(len(backbone.chosen)) * 7 % on_cpu.n_nodes)
    device = backbone.chosen.device
    backbone.chosen = backbone.chosen.cpu()
    encoder, decoder = backbone._mask(on_cpu, torch.Generator().manual_seed(2))
    backbone.chosen = backbone.chosen.to(device)
    backbone.batches.fill_(1)
    there = [
        part.to(graph.device) for part in (decoder.indptr, decoder.indices, decoder.values.to(graph.dtype))
    ]
    backbone._graphs = (
        int(backbone.draw),
        graph,
        graph.with_values(encoder.values.to(device=graph.device, dtype=graph.dtype)),
        Graph(Edges(there[0], there[1]), there[2], graph.n_users, graph.n_items),
    )


def check_steps(device: str, names: Iterable[str] = BACKBONES) -> list[dict[str, Any]]:
    """Compare a step of each backbone and variant with that of the CPU in float64."""
    dataset, texts = blocks()
    results = []
    for name in names:
        for variant in VARIANTS:
            if name == "autocf" and variant == "softmax":
                continue  # it has a loss of its own
            record: dict[str, Any] = {"backbone": name, "variant": variant}
            try:
                parts = make(name, variant, dataset, texts)
                reference = make(name, variant, dataset, texts)
                draw = SameDraw(reference[1], reference[0].initial())
                for _, alignment in (parts, reference):
                    draw.apply_to(alignment)
                got = one_step(parts, dataset, torch.float32, device)
                expected = one_step(reference, dataset, torch.float64, "cpu")
                worst = max(
                    float((got[key] - expected[key]).abs().max() / expected[key].abs().max().clamp(min=1e-12))
                    for key in expected
                )
                record |= {"error": worst, "passed": worst < TOLERANCE}
            except (RlmrecError, RuntimeError) as error:
                record |= {
                    "error": None,
                    "passed": False,
                    "message": f"{type(error).__name__}: {error}"[:300],
                }
            results.append(record)
    return results


def check_repeats(device: str) -> list[dict[str, Any]]:
    """Train twice with the same seed."""
    dataset, texts = blocks()
    results = []
    for name, variant in (("lightgcn", "none"), ("lightgcn", "con"), ("lightgcn", "gen"), ("sgl", "none")):
        runs = []
        for _ in range(2):
            backbone, alignment = make(name, variant, dataset, texts)
            options = {"epochs": 4, "batch_size": 64, "learning_rate": 0.01}
            runs.append(train(backbone, alignment, dataset, options, device=device, progress=False).users)
        difference = float(np.abs(runs[0] - runs[1]).max())
        results.append({"backbone": name, "variant": variant, "difference": difference})
    return results


def of_amazon_size(small: bool) -> Dataset:
    """Make a dataset of amazon-book's size with random content."""
    users, items, count = (500, 400, 6_000) if small else (11_000, 9_332, 200_860)
    rng = np.random.default_rng(0)
    popularity = 1 / np.arange(1, items + 1) ** 0.6
    pairs = rng.integers(users, size=2 * count), rng.choice(items, 2 * count, p=popularity / popularity.sum())
    keys = np.unique(pairs[0] * items + pairs[1])
    keys = rng.permutation(keys)[:count]
    every = Interactions(keys // items, keys % items, users, items)
    parts = split_by_ratio(every, (3, 1, 1), rng)
    names = (
        Vocabulary((f"{kind}{i}" for i in range(n)), kind) for kind, n in (("user", users), ("item", items))
    )
    return Dataset("random", *parts, *names)


def synchronise(device: str) -> None:
    """Wait for the device, so that a clock means something."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def seconds(call: Callable[[], object], device: str, repeats: int = 2) -> float:
    """Return the best time of a call after a first one that counts for nothing."""
    times = []
    for _ in range(repeats + 1):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def check_captured(device: str, names: Iterable[str] = BACKBONES) -> list[dict[str, Any]]:
    """Compare trainings whose steps are CUDA graphs with the same ones launched kernel by kernel."""
    if not device.startswith("cuda"):
        return []
    dataset, texts = blocks()
    results = []
    for name in names:
        for variant in VARIANTS:
            if name == "autocf":
                continue  # its graph changes
            record: dict[str, Any] = {"backbone": name, "variant": variant}
            try:
                found = []
                for captured in (True, False, False):
                    backbone, alignment = make(name, variant, dataset, texts, noise=True)
                    options = {"epochs": 2, "batch_size": 64, "learning_rate": 0.01, "cuda_graphs": captured}
                    result = train(backbone, alignment, dataset, options, device=device, progress=False)
                    found.append(result.users)
                apart, noise = (float(np.abs(one - found[1]).max()) for one in (found[0], found[2]))
                allowed = max(1e-3 * float(np.abs(found[1]).max()), 3 * noise)
                record |= {"error": apart, "noise": noise, "passed": apart <= allowed}
            except (RlmrecError, RuntimeError) as error:
                message = f"{type(error).__name__}: {error}"[:300]
                record |= {"error": None, "passed": False, "message": message}
            results.append(record)
    return results


def epoch_times(dataset: Dataset, device: str, small: bool, compiles: bool = False) -> list[dict[str, Any]]:
    """Time an epoch of each variant and a validation."""
    results: list[dict[str, Any]] = []
    rng = np.random.default_rng(0)
    is_cuda = device.startswith("cuda")
    forms: dict[str, dict[str, Any]] = {"": {}}
    if is_cuda:
        forms[", CUDA graphs"] = {"cuda_graphs": True}
        forms |= {", compiled": {"compile": True}} if compiles else {}
    sizes = {
        "none": 0,
        "softmax": 0,
        "distilled": 0,
        "con": 384,
        "con batch": 384,
        "gen": 384,
        "con 1536": 1536,
    }
    for variant, wide in sizes.items():
        size = min(wide, 32) if small else wide
        texts = TextEmbeddings(
            rng.standard_normal((dataset.n_users, size or 1), np.float32),
            rng.standard_normal((dataset.n_items, size or 1), np.float32),
        )
        for form, options in forms.items():
            torch.manual_seed(0)
            backbone = BACKBONES["lightgcn"].create(
                dataset.n_users,
                dataset.n_items,
                {
                    "layers": 2 if variant == "gen" else 3,
                    "loss": "softmax" if variant in ("softmax", "distilled") else "bpr",
                },
                texts,
            )
            alignment: Any = Alignment()
            if variant.startswith("con"):
                alignment = Contrastive(
                    texts, backbone, negatives="batch" if "batch" in variant else "all-users"
                )
            elif variant == "gen":
                alignment = Generative(texts, backbone, mask_ratio=0.15)
            elif variant == "distilled":
                vectors = rng.standard_normal((2, max(dataset.n_users, dataset.n_items), 8), np.float32)
                scores = DotProduct.cosine(vectors[0][: dataset.n_users], vectors[1][: dataset.n_items])
                alignment = Distilled(TeacherLists.of(scores, dataset, 100), backbone)
            record: dict[str, Any] = {"what": f"epoch, {variant}" + f", d_s {size}" * bool(size) + form}
            try:
                result = train(
                    backbone, alignment, dataset,
                    {"epochs": 3 if small else 4, "batch_size": 512 if small else 4096, **options},
                    device=device, progress=False, early_stopping=False,
                )  # fmt: skip
                record["seconds"] = min(one["seconds"] for one in result.epochs[1:])
            except (RlmrecError, RuntimeError) as error:
                record |= {"seconds": None, "message": f"{type(error).__name__}: {error}"[:300]}
            results.append(record)
    graph = Graph.from_interactions(dataset.train, device=device)
    with torch.no_grad():
        backbone = backbone.to(device)
        users, items = backbone.encode(backbone.initial(), graph)
    validation = DeviceValidation(dataset, None, device)
    validate = seconds(lambda: validation.metrics(users, items)[0].item(), device)
    return [*results, {"what": "validation", "seconds": validate}]


def other_times(dataset: Dataset, device: str, small: bool) -> list[dict[str, Any]]:
    """Time the encoding of texts, and a truncated SVD as the closed form needs it."""
    results: list[dict[str, Any]] = []
    matrix = dataset.train.csr()
    sparse = torch.sparse_csr_tensor(
        *(torch.from_numpy(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices)),
        torch.from_numpy(matrix.data), size=matrix.shape, check_invariants=False,
    ).to(device)  # fmt: skip
    rank = 32 if small else 256
    try:
        svd = seconds(lambda: torch.svd_lowrank(sparse, q=rank, niter=4), device, 1)
        results.append({"what": f"SVD, rank {rank}", "seconds": svd})
    except RuntimeError as error:  # an operator that the device lacks
        results.append({"what": f"SVD, rank {rank}", "seconds": None, "message": str(error)[:200]})
    texts = [
        f"A novel about subject {i}, for readers who liked book {i * 7 % 1000}." * 3
        for i in range(32 if small else 2000)
    ]
    try:
        from rlmrec.text.local import LocalEncoder

        encoder = LocalEncoder(device=device)
        taken = seconds(lambda: encoder.encode(texts), device, 1)
        results.append({"what": f"encoding {len(texts):,} texts", "seconds": taken})
    except (ImportError, RlmrecError, RuntimeError) as error:  # the package with the model may be absent
        results.append(
            {"what": "encoding", "seconds": None, "message": f"{type(error).__name__}: {error}"[:200]}
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", type=Path, help="a published folder of the paper; by default random data")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    parser.add_argument(
        "--parts", default="", help="some of steps,repeats,captured,times,more times; by default all"
    )
    parser.add_argument("--compile", action="store_true", help="time epochs compiled by torch.compile too")
    parser.add_argument("--small", action="store_true", help="small sizes, to try the script itself")
    options = parser.parse_args()
    device, start = options.device, time.perf_counter()
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or "cpu"
    found: dict[str, Any] = {
        "device": device,
        "name": name,
        "torch": torch.__version__,
        "small": options.small,
    }
    dataset = (
        Dataset.from_source(read_published(options.data)) if options.data else of_amazon_size(options.small)
    )
    parts: tuple[tuple[str, Callable[[], list[dict[str, Any]]]], ...] = (
        ("steps", lambda: check_steps(device)),
        ("repeats", lambda: check_repeats(device)),
        ("captured", lambda: check_captured(device)),
        ("times", lambda: epoch_times(dataset, device, options.small, options.compile)),
        ("more times", lambda: other_times(dataset, device, options.small)),
    )
    wanted = options.parts.split(",") if options.parts else [part for part, _ in parts]
    if unknown := set(wanted) - {part for part, _ in parts}:
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}")
    for part, call in parts:
        if part not in wanted:
            continue
        if time.perf_counter() - start > LIMIT:
            found[part] = "left out: the time was over"
            continue
        found[part] = call()
        found["seconds"] = time.perf_counter() - start
        # After each part: what there is survives a limit.
        options.json.write_text(json.dumps(found, indent=1))
    table = Table("what", "result", title=f"{name}, torch {torch.__version__}")
    measured = {part: found[part] for part, _ in parts if isinstance(found.get(part), list)}
    failed = 0
    for part, text in (
        ("steps", "steps as on the CPU in float64"),
        ("captured", "trained with captured steps as without"),
    ):
        checked = measured.get(part, [])
        wrong = [one for one in checked if not one["passed"]]
        failed += len(wrong)
        if checked:
            table.add_row(text, f"{len(checked) - len(wrong)} of {len(checked)}")
        for one in wrong:
            table.add_row(f"  {one['backbone']}, {one['variant']}", str(one.get("message") or one["error"]))
    for one in measured.get("repeats", []):
        equal = "equal" if one["difference"] == 0 else f"{one['difference']:.1e} apart"
        table.add_row(f"two trainings, {one['backbone']} {one['variant']}", equal)
    for one in [*measured.get("times", []), *measured.get("more times", [])]:
        shown = one.get("message", "") if one["seconds"] is None else f"{one['seconds']:.4f} s"
        table.add_row(one["what"], shown)
    table.add_row("all", f"{found['seconds']:.0f} s")
    Console().print(table)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
