"""Upload and download against a hub on the loopback interface, by the client that everybody has."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("huggingface_hub", reason="the hub extra is not installed")
from fake_hub import FakeHub

from rlmrec import hub
from rlmrec.recommend.recommender import Recommender

NO_FAST = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@pytest.fixture(scope="module")
def hub_and_address():
    there = FakeHub()
    with there.serving() as address:
        yield there, address


@pytest.fixture
def with_hub(hub_and_address, tmp_path):
    """Run Python in a process that knows the hub and a token; return its stdout and stderr."""

    def run(*command, code=0):
        environment = {**os.environ, **NO_FAST, "HF_ENDPOINT": hub_and_address[1], "HF_TOKEN": "secret"}
        environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout, done.stderr

    return run


def test_a_run_goes_to_the_hub_and_comes_back_without_pytorch(place, call, hub_and_address, with_hub):
    there, address = hub_and_address
    code, out, err = call("train", "-w", place.path, "--name", "gf", "--json")
    assert code == 0, err
    metrics = json.loads(out)["test"]
    out, _ = with_hub("-m", "rlmrec", "push", "ann/films", "-w", place.path, "--run", "gf", "--json")
    pushed = json.loads(out)
    assert pushed["url"] == f"{address}/ann/films"
    assert pushed["revision"] == there.newest("ann/films")
    assert there.private["ann/films"] == "private"
    assert {sent for method, _, sent in there.asked if method == "POST"} == {"Bearer secret"}
    files = there.commits["ann/films"][pushed["revision"]]
    assert set(files) == {
        ".gitattributes",
        "README.md",
        "embeddings.safetensors",
        "ids.json",
        "recommender.json",
    }
    card = files["README.md"].decode()
    for part in (
        "library_name: rlmrec", f"| recall@20 | {metrics['recall@20']:.4f} |", "rlmrec train -w w --name gf",
        "--backbone graph-filter", 'Recommender.from_pretrained("ann/films")', "## Limits", "Not chosen yet",
    ):  # fmt: skip
        assert part in card
    # A later upload does not change what a commit gives.
    there.commit("ann/films", {"README.md": b"changed", "code.py": b"raise SystemExit('run')"})
    program = f"""
import sys
from rlmrec import Recommender
pinned = Recommender.from_pretrained("ann/films", revision={pushed["revision"]!r})
newest = Recommender.from_pretrained("ann/films")
assert "torch" not in sys.modules
for one in (pinned, newest):
    print(one.recommend(one.user_ids.id(3), k=5)[0].tolist())
"""
    out, err = with_hub("-c", program)
    own = Recommender.load(place.recommender_path("gf"))
    assert out.splitlines() == [str(own.recommend(own.user_ids.id(3), k=5)[0].tolist())] * 2
    assert err.count(f"ann/films is at commit {there.newest('ann/films')}") == 1, (
        "only the one without a commit"
    )
    assert not any("code.py" in path for _, path, _ in there.asked), (
        "nothing but the three files is asked for"
    )


def test_text_vectors(place, hub_and_address, with_hub):
    there, _ = hub_and_address
    with_hub(
        "-m", "rlmrec", "push", "ann/texts", "-w", place.path, "--text-embeddings", "default", "--public",
        "--license", "cc0-1.0",
    )  # fmt: skip
    assert there.private["ann/texts"] == "public"
    card = there.commits["ann/texts"][there.newest("ann/texts")]["README.md"].decode()
    assert "license: cc0-1.0" in card
    assert f"| dataset (fingerprint) | {place.dataset().fingerprint} |" in card
    assert "Not chosen yet" not in card
    program = f"""
from rlmrec import TextEmbeddings
from rlmrec.workspace import Workspace
dataset = Workspace({str(place.path)!r}).dataset()
print(TextEmbeddings.from_pretrained("ann/texts").check(dataset).items.sum())
"""
    own = place.text_embeddings(place.dataset())
    assert float(with_hub("-c", program)[0]) == pytest.approx(float(own.items.sum()), rel=1e-5)


def test_damage_and_absence_are_one_error(toy, tmp_path, hub_and_address, with_hub):
    there, _ = hub_and_address
    dataset, _ = toy
    rng = np.random.default_rng(0)
    users, items = (
        rng.standard_normal((n, 4)).astype(np.float32) for n in (dataset.n_users, dataset.n_items)
    )
    Recommender.of(dataset, users, items).save(tmp_path / "r")
    files = {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()}
    there.commit("eve/changed", {**files, "ids.json": files["ids.json"].replace(b'"u', b'"v')})
    there.commit("eve/empty", {"model.pkl": b"cos\nsystem\n"})
    program = """
from rlmrec import Recommender
from rlmrec.errors import RlmrecError
for asked in (["eve/changed"], ["eve/empty"], ["eve/none"], ["eve/empty", "v9"], ["eve"]):
    try:
        Recommender.from_pretrained(*asked)
    except RlmrecError as error:
        print(error)
"""
    out, _ = with_hub("-c", program)
    changed, empty, none, revision, name = out.splitlines()
    assert "ids.json is missing or was changed" in changed
    assert "eve/empty has no embeddings.safetensors, ids.json, recommender.json" in empty
    assert "the hub has no repository eve/none" in none
    assert "eve/empty has no such revision" in revision
    assert name == "repository 'eve': expected OWNER/NAME"


def test_a_hub_that_does_not_answer_is_one_line(place, tmp_path):
    environment = {**os.environ, **NO_FAST, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "secret"}
    command = [
        sys.executable,
        "-m",
        "rlmrec",
        "push",
        "ann/t",
        "-w",
        str(place.path),
        "--text-embeddings",
        "default",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the hub cannot be reached for ann/t" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_names_from_data_stay_in_their_cell():
    card = hub.model_card("t", {"dataset": "a | b\n<script>", "users": 1234}, {})
    assert "| dataset | a \\| b &lt;script> |" in card
    assert "| users | 1,234 |" in card


def test_push_wants_one_thing(call, place):
    code, _, err = call("push", "ann/films", "-w", place.path)
    assert code == 2
    assert "either --run RUN or --text-embeddings NAME" in err
