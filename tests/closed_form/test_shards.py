"""A fit by several processes against a fit by one: the same choices, the same model, up to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from rlmrec.closed_form import GraphFilter, graph_filter, svd
from rlmrec.closed_form.graph_filter import GraphFilterConfig
from rlmrec.closed_form.neighbours import largest_products
from rlmrec.errors import ConfigError
from rlmrec.shards import Shards, started_processes
from rlmrec.workspace import Workspace

RANK = GraphFilterConfig(rank=12, accuracy=1e-3, user_exponent=0.3, item_exponent=0.4)
CASES = {
    "with texts": (True, RANK),
    "without texts": (False, GraphFilterConfig(max_rank=48, neighbours=30)),
    # As in large data: coarse filters of a sample, exponents compared again, scores computed anew.
    "of a sample": (True, GraphFilterConfig(max_rank=48, neighbours=30, accuracy=1e-4)),
    "smoothed": (True, RANK.model_copy(update={"smoothing": 0.2, "neighbours": 0})),
}


def cases_of(count):
    """All cases for two processes, the one with most parts for more."""
    return list(CASES)[: None if count == 2 else 1]


def fitted(case, dataset, texts, shards):
    """Fit a case; its arrays and its record, as arrays."""
    with_texts, config = CASES[case]
    with pytest.MonkeyPatch.context() as constants:
        if case == "of a sample":
            constants.setattr(graph_filter, "TRIAL_INTERACTIONS", len(dataset.train) // 2)
            constants.setattr(graph_filter, "KEPT_CELLS", 0)
        model = GraphFilter.fit(dataset, texts if with_texts else None, config, seed=3, shards=shards)
    scores = model.score(np.arange(len(model.users)))
    found = {"users": model.users, "items": model.items, "scores": scores, **model.state()}
    return found | {"record": np.array(json.dumps(model.record, default=float))}


def work(rank, count, folder, dataset, texts):
    """One process of a group: fit the cases and store what came out."""
    svd.EXACT_SIZE = 10  # so that such small data is decomposed by iteration
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    shards = Shards.current()
    assert (shards.rank, shards.count) == (rank, count)
    for number, case in enumerate(cases_of(count)):
        np.savez(Path(folder) / f"{number}-{rank}.npz", **fitted(case, dataset, texts, shards))
    neighbours = largest_products(dataset.train.csr().astype(np.float32), 7, shards)
    np.savez(Path(folder) / f"n-{rank}.npz", dense=neighbours.toarray())
    dist.destroy_process_group()


def near(found, expected):
    """Equal up to what float32 sums in another order change in singular vectors of a residual of 5 %."""
    return np.abs(found - expected).max(initial=0) <= 1e-3 * max(1, np.abs(expected).max(initial=0))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_several_processes_equal_one(tmp_path, noisy, monkeypatch, quick_processes, count):
    monkeypatch.setattr(svd, "EXACT_SIZE", 10)
    dataset, texts = noisy
    method = quick_processes.get_start_method()
    mp.start_processes(work, (count, str(tmp_path), dataset, texts), nprocs=count, start_method=method)
    for number, case in enumerate(cases_of(count)):
        expected = fitted(case, dataset, texts, None)
        records, users = [json.loads(str(expected["record"]))], []
        for rank in range(count):
            found = np.load(tmp_path / f"{number}-{rank}.npz")
            records.append(json.loads(str(found["record"])))
            users.append(len(found["users"]))
            if not rank:  # the first has the whole model
                assert found.keys() == expected.keys()
                for name in expected:
                    if name != "record":
                        assert near(found[name], expected[name]), (case, name)
            assert near(found["items"], expected["items"])
        assert users == [300, *[300 // count] * (count - 1)], "the others have their own users"
        for record in records[1:]:
            assert record["chosen"] | {"svd_error": 0} == records[0]["chosen"] | {"svd_error": 0}, case
            assert record["validation"] == pytest.approx(records[0]["validation"], abs=2e-3)
            assert (record["notes"], record["tries"]) == (records[0]["notes"], records[0]["tries"])
    neighbours = largest_products(dataset.train.csr().astype(np.float32), 7).toarray()
    for rank in range(count):
        np.testing.assert_array_equal(np.load(tmp_path / f"n-{rank}.npz")["dense"], neighbours)


def test_one_process_is_all_of_them():
    shards = Shards.current()
    assert (shards.count, shards.is_first, shards.rows(7)) == (1, True, slice(0, 7))
    values = np.arange(3.0)
    for same in (shards.sum(values), shards.from_first(values), shards.gather(values)):
        assert same is values


def test_rows_are_divided_without_gap_or_overlap():
    for n in (0, 3, 10):
        shards = [Shards() for _ in range(4)]
        for rank, one in enumerate(shards):
            one.rank, one.count = rank, 4
        rows = [row for one in shards for row in range(n)[one.rows(n)]]
        assert rows == list(range(n))


@pytest.mark.parametrize(
    ("given", "count"),
    [({}, 1), ({"WORLD_SIZE": "4"}, 1), ({"RANK": "0", "WORLD_SIZE": "many", "MASTER_PORT": "1"}, 1)],
)
def test_left_over_variables_start_no_group(monkeypatch, given, count):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert started_processes() == count


@pytest.mark.parametrize(("rank", "count"), [("0", "many"), ("x", "2"), ("2", "2"), ("-1", "2")])
def test_an_environment_that_makes_no_sense_is_one_line(monkeypatch, call, toy, tmp_path, rank, count):
    toy[0].save(Workspace(tmp_path).dataset_path)
    for name, value in {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "h", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="expected numbers from torchrun"):
        started_processes()
    code, _, err = call("train", "-w", tmp_path, "--backbone", "lightgcn")
    assert code == 2
    assert f"RANK='{rank}' and WORLD_SIZE='{count}'" in err
    assert "Traceback" not in err


def test_the_command_by_torchrun(tmp_path, noisy):
    """One process writes, and the run is that of one process."""
    dataset, _ = noisy
    place = Workspace(tmp_path / "w")
    dataset.save(place.dataset_path)
    train = ["-m", "rlmrec", "train", "-w", str(place.path), "--backbone", "graph-filter", "--set", "rank=12"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for launcher, name in (
        ([sys.executable], "one"),
        ([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"], "two"),
    ):
        done = subprocess.run(
            [*launcher, *train, "--name", name], capture_output=True, text=True, env=environment, timeout=500
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("fitted in") == 1, "one process talks"
    one, two = (json.loads((place.run(name) / "metrics.json").read_text()) for name in ("one", "two"))
    assert two["fit"]["chosen"] == pytest.approx(one["fit"]["chosen"], rel=0.01)
    assert two["test"]["recall@20"] == pytest.approx(one["test"]["recall@20"], abs=2e-3)
