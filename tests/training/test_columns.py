"""Training by several processes against training by one: same losses, embeddings and checkpoints."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from rlmrec.alignment import Alignment
from rlmrec.backbones import NGCF, LightGCN
from rlmrec.columns import Columns, process_group
from rlmrec.errors import ConfigError
from rlmrec.experiments.run import build
from rlmrec.experiments.spec import RunSpec
from rlmrec.testing import blocks
from rlmrec.training.trainer import train
from rlmrec.workspace import Workspace

CASES = [
    ("lightgcn", "none", {}),
    ("lightgcn", "contrastive", {}),
    ("lightgcn", "generative", {"mask_ratio": 0.2}),
    ("lightgcn", "distilled", {"loss": "softmax"}),
    ("lightgcn", "none", {"loss": "sl@k"}),
    ("gccf", "contrastive", {}),
    ("mf", "none", {}),
    ("sgl", "none", {}),
    ("simgcl", "generative", {"mask_ratio": 0.2}),
]
QUICK = {"embedding_size": 8, "epochs": 5, "evaluate_every": 2, "batch_size": 128, "learning_rate": 0.01}


class Stopped(Exception):
    """Ends a training in the middle, as a kill does."""


def trained(case, folder=None, stop_after=None):
    """Train one case in this process, of whatever group it is in; return losses, embeddings and parameters."""
    backbone_name, alignment_name, options = CASES[case]
    spec = RunSpec.resolve(backbone_name, alignment_name, seed=3, options={**QUICK, **options})
    dataset, texts = blocks()
    backbone, alignment = build(spec, dataset, texts)

    def on_epoch(record):
        if record["epoch"] == stop_after:
            raise Stopped

    result = train(
        backbone.double(),
        alignment.double(),
        dataset,
        spec.training,
        seed=3,
        folder=folder,
        on_epoch=on_epoch,
    )
    parameters = {**backbone.state_dict(), **{f"alignment.{k}": v for k, v in alignment.state_dict().items()}}
    found = {name: value.numpy() for name, value in parameters.items() if value.is_floating_point()}
    losses = [list(record["loss"].values()) for record in result.epochs]
    found |= {"losses": np.array(losses), "users": result.users, "items": result.items}
    found["valid"] = np.array([record["valid"]["recall@20"] for record in result.epochs if "valid" in record])
    if result.item_messages is not None:
        found["messages"] = result.item_messages
    return found


def work(rank, count, folder, cases, checkpoint, stop_after):
    """One process of a group: train the cases and store what came out."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{count}", rank=rank, world_size=count)
    for case in cases:
        try:
            found = trained(case, checkpoint, stop_after)
        except Stopped:
            continue
        np.savez(Path(folder) / f"{case}-{count}-{rank}.npz", **found)
    dist.destroy_process_group()


def run_group(count, folder, cases, checkpoint=None, stop_after=None):
    mp.spawn(work, (count, str(folder), cases, checkpoint, stop_after), nprocs=count)


def same(folder, case, count, expected):
    for rank in range(count):
        found = np.load(folder / f"{case}-{count}-{rank}.npz")
        assert found.keys() == expected.keys()
        for name in expected:
            tolerance = 1e-6 if found[name].dtype == np.float32 else 1e-10
            assert np.allclose(found[name], expected[name], rtol=tolerance, atol=tolerance), (
                CASES[case],
                rank,
                name,
            )


def test_two_and_four_processes_equal_one(tmp_path):
    expected = [trained(case) for case in range(len(CASES))]
    for count in (2, 4):
        run_group(count, tmp_path, range(len(CASES)))
        for case, of_one in enumerate(expected):
            same(tmp_path, case, count, of_one)


def test_any_number_of_processes_goes_on_from_a_checkpoint(tmp_path):
    case = 2  # Gen, whose [MASK] is split too
    expected = trained(case)
    checkpoint = tmp_path / "run"
    run_group(2, tmp_path, [case], checkpoint, stop_after=3)  # the last checkpoint is of epoch 2
    state = json.loads((checkpoint / "checkpoint.json").read_text())
    assert len(state["epochs"]) == 3
    for count in (4, 1):
        copy = tmp_path / f"copy{count}"
        subprocess.run(["cp", "-r", checkpoint, copy], check=True)
        if count == 1:
            found = trained(case, copy)
            for name in expected:
                assert np.allclose(found[name], expected[name], rtol=1e-6, atol=1e-6), name
        else:
            run_group(count, tmp_path, [case], copy)
            same(tmp_path, case, count, expected)
    lines = (tmp_path / "copy4" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2, 3, 4], "one process writes"


def test_who_cannot_share_columns_says_so():
    columns, none = Columns(0, 3), Alignment()
    with pytest.raises(
        ConfigError, match=r"NGCF mixes the columns .* take LightGCN, GCCF, SGL, SimGCL or MF"
    ):
        columns.split(NGCF(4, 5, embedding_size=6), none)
    with pytest.raises(
        ConfigError, match=r"embedding_size is 8, and 3 processes .* expected a multiple of 3"
    ):
        columns.split(LightGCN(4, 5, embedding_size=8), none)

    class Mine(LightGCN):
        def encode(self, x, graph):
            return super().encode(x.softmax(dim=1), graph)

    assert not Mine(4, 5).has_separate_columns, "its encode may do anything"
    assert LightGCN(4, 5).has_separate_columns
    assert Columns.current() is None


def torchrun(*arguments, **environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *map(str, arguments)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=500, check=False)


def kill_one_and_go_on(workspace):
    """What each process of the test below does: train, and, the first time, lose the second process at epoch 3."""
    place = Workspace(workspace)
    marker = place.path / "killed"

    def on_epoch(record):
        if record["epoch"] == 3 and dist.get_rank() == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    spec = RunSpec.resolve("lightgcn", "none", seed=3, options=QUICK)
    backbone, alignment = build(spec, place.dataset(), None)
    with process_group("cpu"):
        train(
            backbone, alignment, place.dataset(), spec.training,
            seed=3, folder=place.run("survivor"), on_epoch=on_epoch,
        )  # fmt: skip


def test_the_command_and_a_killed_process(tmp_path):
    place = Workspace(tmp_path / "w")
    dataset, _ = blocks()
    dataset.save(place.dataset_path)
    settings = [part for name, value in QUICK.items() for part in ("--set", f"{name}={value}")]
    train_it = ["train", "-w", place.path, "--backbone", "lightgcn", "--seed", "3", *settings]
    single = [sys.executable, "-m", "rlmrec", *map(str, train_it), "--name", "one"]
    subprocess.run(single, check=True, capture_output=True)
    done = torchrun("-m", "rlmrec", *train_it, "--name", "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best after") == 1, "one process talks"
    results = [json.loads((place.run(name) / "metrics.json").read_text()) for name in ("one", "two")]
    assert results[0]["test"]["recall@20"] == pytest.approx(results[1]["test"]["recall@20"], rel=1e-3)
    assert torchrun("-m", "rlmrec", *train_it, "--name", "two").returncode == 0, "kept"
    refused = torchrun("-m", "rlmrec", "train", "-w", place.path, "--backbone", "popularity")
    assert refused.returncode != 0
    assert "2 processes were started, and popularity is computed by one" in refused.stderr
    survived = torchrun("--max-restarts", "1", __file__, place.path)
    assert survived.returncode == 0, survived.stderr
    assert (place.path / "killed").exists()
    epochs = [json.loads(line) for line in (place.run("survivor") / "metrics.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in (place.run("one") / "metrics.jsonl").read_text().splitlines()]
    assert [one["epoch"] for one in epochs] == [one["epoch"] for one in before]
    losses = [[one["loss"]["bpr"] for one in run] for run in (epochs, before)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


if __name__ == "__main__":
    kill_one_and_go_on(sys.argv[1])
