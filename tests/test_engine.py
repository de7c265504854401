"""Engines: what Ray's workers compute equals what one process computes, also after a worker died."""

import os
import signal
import socket
import sys

import numpy as np
import polars as pl
import pytest

from rlmrec.engine import Engine, RayEngine, _check_reachable, bound, open_engine
from rlmrec.errors import ConfigError, DataError, EngineError
from rlmrec.experiments.results import Results
from rlmrec.experiments.runner import run_trials
from rlmrec.experiments.spec import RunSpec
from rlmrec.experiments.trial import Trial
from rlmrec.text.cache import VectorCache
from rlmrec.text.encoding import encode_texts
from rlmrec.text.registry import make_encoder
from rlmrec.workspace import Workspace


def power(base, exponent):
    return base**exponent


def test_one_process_computes_in_order():
    assert [value for _, value in Engine().map(bound(power, 2), [1, 2, 3])] == [2, 4, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("spark",), "expected one of local, ray"), (("local", "head:6379"), "add --engine ray")],
)
def test_engines_that_do_not_exist(arguments, message):
    with pytest.raises(ConfigError, match=message), open_engine(*arguments):
        pass


def test_without_ray_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'rlmrec\[ray\]'"):
        RayEngine()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("recommend", "--run", "r", "--user", "1", "--engine", "ray"), "are for --all"),
        (("profile", "--items", "--engine", "ray"), "--engine is not used by the embedded model"),
    ],
)
def test_commands_refuse_an_engine_that_they_do_not_use(place, call, arguments, message):
    code, _, error = call(*arguments, "-w", place.path)
    assert code == 2
    assert message in " ".join(error.split())


# From here on with Ray.


@pytest.fixture
def engine(ray_here):
    return RayEngine()


def dies(folder, times, item):
    """Kill the worker the first few times."""
    for number in range(times):
        note = folder / f"{item}-{number}"
        if not note.exists():
            note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return item, os.environ["OMP_NUM_THREADS"]


def wrong(item):
    raise DataError(f"row {item} is not a number")


def test_an_address_where_nothing_listens_is_refused_at_once():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]  # bound and not listening: refused, and nobody else can take it
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:99999"):
            with pytest.raises(ConfigError, match=f"no Ray cluster answers at {address}.*check --address"):
                _check_reachable(address)
        listening.listen()
        _check_reachable(f"127.0.0.1:{port}")
    _check_reachable("auto")


@pytest.mark.ray
def test_order_errors_and_deaths(engine, tmp_path):
    assert [value for _, value in engine.map(bound(power, 2), range(1, 9), in_order=True)] == [
        2**number for number in range(1, 9)
    ]
    with pytest.raises(DataError, match="row 3 is not a number"):
        list(engine.map(bound(wrong), [3]))
    assert list(engine.map(bound(dies, tmp_path, 1), ["x"])) == [(0, ("x", "1"))]


@pytest.mark.ray
def test_a_worker_that_dies_each_time(engine, tmp_path, monkeypatch):
    monkeypatch.setattr("rlmrec.engine.RETRIES", 1)  # each worker takes seconds to start
    with pytest.raises(EngineError, match="a worker of Ray died 2 times"):
        list(engine.map(bound(dies, tmp_path, 9), ["x"]))
    told = list(engine.map(bound(dies, tmp_path, 9), ["y"], died=lambda number, error: (number, error)))
    assert "repeat the command to resume" in told[0][1][1]


@pytest.mark.ray
def test_vectors_and_cache_are_the_same(engine, tmp_path):
    texts = [f"word{number % 7} word{number % 31} {'long ' * (number % 5)}{number}" for number in range(700)]
    encoder = make_encoder("tfidf", options={"dim": 8}).fitted_to(texts)
    here, _ = encode_texts(encoder, texts)
    told = []
    with VectorCache(tmp_path / "v.sqlite") as cache:
        there, _ = encode_texts(encoder, texts, cache, told.append, engine)
        again, _ = encode_texts(encoder, texts, cache, told.append, engine)
    assert np.array_equal(here, there)
    assert np.array_equal(here, again)
    assert told[-1].cached == 700
    assert len(told) > 5, "vectors are stored as they arrive"


KILLED = """
import os, signal
from pathlib import Path
from rlmrec.backbones import MF

class Once(MF):
    def objective(self, x, graph, batch, rng):
        note = Path("NOTE")
        if not note.exists():
            note.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().objective(x, graph, batch, rng)
"""


@pytest.mark.ray
def test_the_same_trials_on_both_runners(engine, place, tmp_path):
    code = tmp_path / "once.py"
    code.write_text(KILLED.replace("NOTE", str(tmp_path / "killed")))
    options = {"epochs": 3, "learning_rate": 0.01, "batch_size": 256}
    names = [("mf", 1), ("mf", 2), (f"{code}:Once", 1)]
    fingerprint = place.dataset().fingerprint
    trials = [Trial(RunSpec.resolve(name, "none", seed=s, options=options), fingerprint) for name, s in names]
    on_ray = run_trials(trials, place, Results(tmp_path / "a"), jobs=2, threads=1, engine=engine)
    assert (tmp_path / "killed").exists()
    assert [record["status"] for record in on_ray] == ["done"] * 3
    here = Workspace(tmp_path / "here")
    place.dataset().save(here.dataset_path)
    in_processes = run_trials(trials, here, Results(tmp_path / "b"), jobs=2, threads=1)
    for one, other in zip(on_ray, in_processes, strict=True):
        assert (one["id"], one["test"], one["validation_curve"]) == (
            other["id"],
            other["test"],
            other["validation_curve"],
        )


@pytest.mark.ray
def test_commands_write_the_same(engine, place, call, tmp_path):
    assert call("train", "-w", place.path, "--backbone", "graph-filter", "--name", "g")[0] == 0
    files = [tmp_path / f"{name}.parquet" for name in ("local", "ray")]
    for file in files:
        code, _, error = call(
            "recommend", "-w", place.path, "--run", "g", "--all", "--out", file, "--engine", file.stem
        )
        assert code == 0, error
    one, other = map(pl.read_parquet, files)
    assert one.drop("scores").equals(other.drop("scores"))
    assert np.allclose(one["scores"].explode(), other["scores"].explode(), rtol=1e-6)
