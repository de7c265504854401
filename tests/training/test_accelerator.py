"""The form of training for accelerators, run on the CPU: no number is waited for, and it is the same method.

``batch.DYNAMIC_DEVICES`` names the devices where a shape may depend on numbers. Without the CPU in it, everything takes
the way that a GPU takes.
"""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from rlmrec import batch as batch_module
from rlmrec import graph as graph_module
from rlmrec import losses as losses_module
from rlmrec.alignment import Alignment, Contrastive, Distilled, Generative
from rlmrec.alignment.teacher import TeacherLists
from rlmrec.backbones import BACKBONES
from rlmrec.backbones.autocf import AutoCF
from rlmrec.data.interactions import Interactions
from rlmrec.errors import ConfigError
from rlmrec.evaluation.ranking import DotProduct, evaluate
from rlmrec.graph import Graph
from rlmrec.testing import sample_batch
from rlmrec.training import checkpoint, compiled
from rlmrec.training.captured import check_capturable
from rlmrec.training.config import TrainConfig
from rlmrec.training.sampler import Sampler
from rlmrec.training.step import step
from rlmrec.training.trainer import train
from rlmrec.training.validation import DeviceValidation

# What makes the host of a GPU wait, since it needs numbers for a value or for a shape.
WAITS = (
    "_local_scalar_dense",
    "nonzero",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "masked_select",
    "equal",
)
WAITS += ("is_nonzero", "bincount", "_to_dense", "item")

BODIES = {
    operator._qualname: operator._init_fn
    for operator in (graph_module._graph_product, graph_module._edge_dot, losses_module._softmax_sums)
}


@pytest.fixture
def accelerator(monkeypatch):
    """Take the way of an accelerator."""
    monkeypatch.setattr(batch_module, "DYNAMIC_DEVICES", ())


class NothingWaits(TorchDispatchMode):
    """Fails on an operator that waits for a number on a GPU, inside the operators of this package too."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "rlmrec":
            with self:
                return BODIES[function.name()](*args, **(kwargs or {}))
        name = function.name().split("::")[1].split(".")[0]
        assert name not in WAITS, f"{function.name()} waits for a number"
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            assert not any(one is not None and one.dtype == torch.bool for one in args[1]), (
                "a mask as an index"
            )
        if name == "repeat_interleave":
            assert (kwargs or {}).get("output_size") is not None, "its number of rows must be given"
        return function(*args, **(kwargs or {}))


def test_the_mode_fails_on_what_waits():
    x = torch.arange(3.0)
    for call in (x.sum().item, x.unique, lambda: x[x > 1], lambda: float(x[0]), lambda: torch.equal(x, x)):
        with pytest.raises(AssertionError), NothingWaits():
            call()


VARIANTS = ("none", "softmax", "sampled softmax", "con", "con batch", "con candidates", "gen", "distilled")


def parts(name, variant, toy):
    dataset, texts = toy
    kind = BACKBONES[name]
    options = {}
    if "softmax" in variant:
        if kind is AutoCF:
            pytest.skip("AutoCF has a loss of its own")
        options = {"loss": "softmax", "loss_candidates": 10 if variant.startswith("sampled") else 0}
    torch.manual_seed(0)
    backbone = kind.create(dataset.n_users, dataset.n_items, options, texts)
    if variant == "gen":
        return backbone, Generative(texts, backbone)
    if variant == "distilled":
        lists = TeacherLists.of(DotProduct.cosine(texts.users, texts.items), dataset, 5)
        return backbone, Distilled(lists, backbone, every=2)
    if variant.startswith("con"):
        more = {"con batch": {"negatives": "batch"}, "con candidates": {"candidates": 8}}.get(variant, {})
        return backbone, Contrastive(texts, backbone, **more)
    return backbone, Alignment()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", BACKBONES)
def test_nothing_waits_within_a_step(toy, name, variant, accelerator):
    backbone, alignment = parts(name, variant, toy)
    model = torch.nn.ModuleList([backbone, alignment])
    graph = Graph.from_interactions(toy[0].train, backbone.self_loops)
    rng = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    if isinstance(
        backbone, AutoCF
    ):  # every tenth batch draws a new mask, whose graph has as many edges as it has
        step(backbone, alignment, graph, sample_batch(toy[0], 32), 1e-6, rng)
    with NothingWaits():
        terms = step(backbone, alignment, graph, sample_batch(toy[0], 32), 1e-6, rng)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()


# Backbones and alignments do not know each other, so each is taken once.
EACH = [(name, "none") for name in BACKBONES] + [("lightgcn", variant) for variant in VARIANTS[1:]]


def total_of(parts, graph, rng):
    """Return a function from a batch to the loss of a step."""
    return lambda batch: torch.stack(list(step(*parts, graph, batch, 1e-6, rng).values())).sum()


@pytest.mark.parametrize(("name", "variant"), EACH)
def test_the_shapes_of_a_step_follow_from_shapes_alone(toy, name, variant, accelerator):
    backbone, alignment = parts(name, variant, toy)
    graph = Graph.from_interactions(toy[0].train, backbone.self_loops)
    total = total_of((backbone, alignment), graph, torch.Generator().manual_seed(0))
    batch = sample_batch(toy[0], 32)
    if isinstance(backbone, AutoCF):
        total(batch)
    # A fake tensor has a shape and no numbers: whatever needs one fails.
    with FakeTensorMode(allow_non_fake_inputs=True):
        total(batch).backward()
    for parameter in (*backbone.parameters(), *alignment.parameters()):
        assert parameter.grad is None or parameter.grad.shape == parameter.shape


@pytest.mark.parametrize(
    ("name", "variant", "backend"),
    [
        ("lightgcn", "con", "aot_eager"),
        ("dccf", "none", "eager"),
        ("sgl", "gen", "eager"),
        ("simgcl", "sampled softmax", "eager"),
        ("ngcf", "none", "eager"),
        ("gccf", "none", "eager"),
    ],
)
def test_a_compiled_step_is_one_graph_and_the_same(toy, name, variant, backend, monkeypatch):
    found = []
    for compiles in (False, True):
        monkeypatch.setattr(batch_module, "DYNAMIC_DEVICES", ("cpu",) if compiles else ())
        made = parts(name, variant, toy)
        graph = Graph.from_interactions(toy[0].train, made[0].self_loops)
        assert len(graph.transpose)
        with torch.random.fork_rng():
            # The default generator with the seed of another one draws the same numbers.
            rng = (torch.default_generator if compiles else torch.Generator()).manual_seed(0)
            total = total_of(made, graph, rng)
            if compiles:
                torch.compiler.reset()
                total = torch.compile(total, fullgraph=True, dynamic=False, backend=backend)
            loss = total(sample_batch(toy[0], 32))
            loss.backward()
        gradients = [p.grad for part in made for p in part.parameters() if p.grad is not None]
        found.append([loss.detach(), *gradients])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-7)


def test_training_with_compiled_steps_is_the_same(toy, monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    options = {"epochs": 2, "batch_size": 64, "learning_rate": 0.02}
    assert TrainConfig(compile=False).stored() == TrainConfig().stored()
    assert "compile" not in TrainConfig().stored()
    results = []
    for compiles in (False, True):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        made = parts("sgl", "con", toy)
        before = torch.get_rng_state()
        results.append(train(*made, toy[0], {**options, "compile": compiles}))
        assert torch.equal(before, torch.get_rng_state())
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == int(compiles)
    np.testing.assert_allclose(results[1].users, results[0].users, rtol=1e-4, atol=1e-6)
    assert results[1].epochs[-1]["valid"] == results[0].epochs[-1]["valid"]


def test_what_cannot_be_compiled_says_so(toy, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no compiler is installed")

    options = {"epochs": 1, "compile": True, "batch_size": 64}
    with pytest.raises(
        ConfigError, match=r"compile=true: the graph or the shapes of AutoCF .* leave compile out"
    ):
        train(*parts("autocf", "none", toy), toy[0], options)
    sl = BACKBONES["mf"](toy[0].n_users, toy[0].n_items, loss="sl@k")
    with pytest.raises(ConfigError, match="of MF with these options"):
        train(sl, None, toy[0], options)
    with pytest.raises(ConfigError, match="2 processes"):
        compiled.check_compilable(parts("mf", "none", toy)[0], torch.device("cpu"), 2)
    with pytest.raises(ConfigError, match="expected a device of cpu or cuda, got mps"):
        compiled.check_compilable(parts("mf", "none", toy)[0], torch.device("mps"), 1)
    monkeypatch.setattr(compiled, "BACKEND", broken)
    with pytest.raises(
        ConfigError, match=r"cannot compile the step here \(.*no compiler is installed.*C\+\+"
    ):
        train(*parts("mf", "none", toy), toy[0], options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cuda_graphs": True}, "cuda_graphs=true: expected a CUDA device, got cpu"),
        ({"cuda_graphs": True, "compile": True}, "leave out compile or cuda_graphs"),
    ],
)
def test_options_of_cuda_are_refused_elsewhere(toy, options, message):
    assert TrainConfig().stored().keys().isdisjoint(options)
    with pytest.raises(ConfigError, match=message):
        train(*parts("mf", "none", toy), toy[0], {"epochs": 1, **options})


def test_what_cannot_be_captured_says_so(toy):
    cuda = torch.device("cuda")
    with pytest.raises(ConfigError, match="cuda_graphs=true: the graph or the shapes of AutoCF"):
        check_capturable(parts("autocf", "none", toy)[0], cuda, 1)
    with pytest.raises(ConfigError, match="cuda_graphs=true: 2 processes"):
        check_capturable(parts("mf", "none", toy)[0], cuda, 2)
    check_capturable(parts("mf", "none", toy)[0], cuda, 1)


def test_the_device_draws_every_interaction_once_and_true_negatives_evenly(accelerator):
    rng = np.random.default_rng(0)
    matrix = rng.random((40, 12)) < 0.5
    matrix[:, 3] = False
    matrix[0] = np.arange(12) != 3  # one item is left
    train_split = Interactions(*np.nonzero(matrix), 40, 12)
    sampler = Sampler(train_split, 64)
    with NothingWaits():
        batches = list(sampler.epoch(np.random.default_rng(1)))
    assert [len(batch.users) for batch in batches[:-1]] == [64] * (len(batches) - 1)
    users, positives, negatives = (torch.cat(column).numpy() for column in zip(*batches, strict=True))
    assert sorted(users * 12 + positives) == sorted(train_split.keys())
    assert not matrix[users, negatives].any()
    counts = np.zeros((40, 12))
    for seed in range(200):
        for batch in sampler.epoch(np.random.default_rng(seed)):
            np.add.at(counts, (batch.users.numpy(), batch.negatives.numpy()), 1)
    expected = counts.sum(1, keepdims=True) / (~matrix).sum(1, keepdims=True)
    assert (np.abs(counts - expected)[~matrix] < 5 * np.sqrt(expected + 0 * counts)[~matrix]).all()
    again = torch.cat([torch.stack(list(batch)) for batch in sampler.epoch(np.random.default_rng(1))], 1)
    assert torch.equal(again, torch.cat([torch.stack(list(batch)) for batch in batches], 1))


@pytest.mark.parametrize("some", [False, True])
def test_validation_on_the_device_is_that_of_evaluate(toy, some, monkeypatch):
    monkeypatch.setattr("rlmrec.training.validation.BLOCK_SCORES", 7 * 45)
    dataset = toy[0]
    rows = np.flatnonzero(dataset.valid.user_degrees())[::3] if some else None
    torch.manual_seed(0)
    users, items = torch.randn(dataset.n_users, 4), torch.randn(dataset.n_items, 4)
    expected = evaluate(
        DotProduct(users.numpy(), items.numpy()), dataset, (20,), "valid", users=rows
    ).metrics()
    validation = DeviceValidation(dataset, rows, "cpu")
    with NothingWaits():
        recall, ndcg = validation.metrics(users, items)
    assert recall.item() == pytest.approx(expected["recall@20"], abs=1e-12)
    assert ndcg.item() == pytest.approx(expected["ndcg@20"], abs=1e-12)


def test_training_in_this_form_learns_and_repeats(toy, accelerator, tmp_path):
    dataset, texts = toy
    results = []
    for attempt in range(2):
        backbone, alignment = parts("lightgcn", "con candidates", toy)
        results.append(
            train(backbone, alignment, dataset, {"epochs": 12, "learning_rate": 0.02, "batch_size": 64},
                  folder=tmp_path / str(attempt))
        )  # fmt: skip
    assert results[0].best > 0.7
    assert np.array_equal(results[0].users, results[1].users)
    del texts


def test_a_checkpoint_of_another_device_says_so(toy, tmp_path, monkeypatch):
    backbone, alignment = parts("mf", "none", toy)
    train(backbone, alignment, toy[0], {"epochs": 2}, folder=tmp_path)
    tensors, state = checkpoint.load(tmp_path)
    found = {**tensors, "model_rng": torch.zeros(16, dtype=torch.uint8)}, state  # as CUDA's generator has it
    monkeypatch.setattr(checkpoint, "load", lambda _: found)
    with pytest.raises(ConfigError, match=r"another kind of device than cpu.*--device.*--overwrite"):
        train(*parts("mf", "none", toy), toy[0], {"epochs": 2}, folder=tmp_path)


def test_the_script_that_checks_a_device(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    gpu = importlib.import_module("gpu")
    for record in gpu.check_steps("cpu", ["autocf", "gccf"]):
        assert record["passed"], record
    assert [record["difference"] for record in gpu.check_repeats("cpu")[:1]] == [0.0]
    dataset = gpu.of_amazon_size(small=True)
    assert all(record["seconds"] > 0 for record in gpu.epoch_times(dataset, "cpu", small=True))
