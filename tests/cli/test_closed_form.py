"""Closed-form recommenders from outside: fitted, served, explained, exported and compared like every other run."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient
from safetensors.numpy import load_file, save_file

from rlmrec.cli import main
from rlmrec.closed_form import RECOMMENDERS, Texts
from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.files import locked, read_json, sha256, write_json
from rlmrec.recommend import sparse_parts, storage
from rlmrec.recommend.open import open_recommender
from rlmrec.recommend.recommender import Recommender
from rlmrec.report import write_report
from rlmrec.report.collect import collect
from rlmrec.server.settings import Settings, application
from rlmrec.testing import blocks
from rlmrec.workspace import Workspace

KINDS = ["cookery recipes", "detective stories", "travel guides"]
NAMES = ["popularity", "itemknn", "ease", "graph-filter"]


@pytest.fixture
def call_json(call):
    """Run the command line in this process with --json: exit code, JSON or None, stderr."""

    def run(*arguments):
        code, out, error = call(*arguments, "--json")
        return code, json.loads(out.splitlines()[-1]) if out else None, error

    return run


def run(arguments):
    """Run the command line; it must end well."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert not end.value.code


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A workspace whose items have texts of their block, encoded by TF-IDF, with one run of each closed form."""
    place = Workspace(tmp_path_factory.mktemp("closed") / "w")
    dataset, _ = blocks()
    words = np.random.default_rng(0).choice(["old", "new", "short", "long", "plain"], (45, 3))
    texts = [f"{KINDS[row // 15]} {' '.join(words[row])}" for row in range(45)]
    replace(dataset, item_texts=pl.DataFrame({"text": texts})).save(place.dataset_path)
    w = ["-w", str(place.path)]
    run(["encode", *w, "--encoder", "tfidf", "--set", "dim=8"])
    for name in NAMES:
        run(["train", *w, "--backbone", name, "--name", f"my-{name}"])
    run(["train", *w])
    plain = ["--set", "neighbours=0", "--set", "text_weight=0.3"]
    run(["train", *w, "--name", "plain", *plain])
    return place


def opened(place, name, mmap=False):
    return open_recommender(place, name, place.dataset(), mmap=mmap)


@pytest.mark.parametrize("light", [0, 10**9])
@pytest.mark.parametrize("name", NAMES)
def test_a_stored_run_scores_and_ranks_as_the_model_does(place, name, light, monkeypatch):
    monkeypatch.setattr(sparse_parts, "LIGHT", light)  # lists from tiles of sums, and from whole rows
    dataset = place.dataset()
    text_embeddings = place.text_embeddings(dataset)
    texts = (
        Texts(text_embeddings.items, has_item=text_embeddings.has_item) if name == "graph-filter" else None
    )
    model = RECOMMENDERS[name].fit(dataset, texts)
    users = np.arange(dataset.n_users)
    expected = model.score(users)
    for recommender in (opened(place, f"my-{name}"), opened(place, f"my-{name}", mmap=True)):
        np.testing.assert_allclose(recommender.score_rows(users), expected, atol=1e-5)
        items = np.array([3, 40])
        np.testing.assert_allclose(recommender.score_rows(users, items), expected[:, items], atol=1e-5)
    masked = np.where(dataset.everything().csr().toarray() > 0, -np.inf, expected)
    recommender.memory_budget = 1 << 14  # many blocks
    rows, scores = recommender.recommend_rows(users, 5)
    np.testing.assert_allclose(scores, -np.sort(-masked, axis=1)[:, :5], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(masked, rows, 1), scores, atol=1e-5)
    some = [dataset.items.id(row) for row in (1, 20, 44)]
    ids, _ = recommender.recommend("u5", 3, exclude_seen=False, candidates=some)
    best = [1, 20, 44][int(np.argmax(expected[5, [1, 20, 44]]))]
    assert ids[0] == dataset.items.id(best)
    order = np.argsort(-masked[7], kind="stable")
    assert recommender.rank("u7", [dataset.items.id(int(order[2]))]).tolist() == [3]


@pytest.mark.parametrize(
    ("name", "named"),
    [("popularity", "popularity"), ("itemknn", None), ("ease", None), ("graph-filter", None)],
)
def test_an_explanation_names_what_the_model_has(place, call, name, named):
    """No text where users have none, nothing but the history in an item-item model."""
    recommender = opened(place, f"my-{name}")
    ids, _ = recommender.recommend("u0", k=1)
    weight = read_json(place.run(f"my-{name}") / "metrics.json")["fit"]["chosen"].get("popularity_weight", 0)
    code, out, _ = call("explain", "-w", place.path, "--run", f"my-{name}", "--user", "u0", "--item", ids[0])
    said = " ".join(out.split())
    assert code == 0
    assert "own text" not in said
    assert "users of similar text" not in said
    assert ("popularity" in said) == bool(named or weight)
    if name == "popularity":
        assert "the other" not in said
        assert "is recommended because it is popular." in said


@pytest.mark.parametrize("name", [*NAMES, "plain"])
def test_folding_in_a_known_history_is_exact_and_contributions_sum_to_the_score(place, name):
    run = name if name == "plain" else f"my-{name}"
    recommender = opened(place, run)
    roots = np.sqrt(place.dataset().train.item_degrees())
    roots = (roots - roots.mean()) / roots.std()
    for user in (0, 33):
        parts = recommender.new_user([recommender.item_ids.id(int(row)) for row in recommender.history(user)])
        own = recommender.parts.of_users(recommender.users[[user]], np.array([user]))
        np.testing.assert_allclose(parts.vectors, own.vectors, atol=1e-5)
        if own.history is not None:
            np.testing.assert_allclose(parts.history.toarray(), own.history.toarray(), atol=1e-5)
        rows, shares, rest = recommender.contributions(user, 2)
        assert rows.tolist() == recommender.history(user).tolist()
        assert np.isclose(shares.sum() + rest, recommender.score_rows(np.array([user]))[0, 2], atol=1e-5)
        if name != "popularity":
            weight = read_json(place.run(run) / "metrics.json")["fit"]["chosen"].get("popularity_weight", 0)
            popularity = roots[2] * weight / (1 + np.sqrt(len(rows)))
            assert np.isclose(rest, popularity, atol=1e-5)
    if recommender.is_inner_product:
        assert recommender.fold_in(["i0"]).shape == recommender.users[0].shape
    else:
        with pytest.raises(ConfigError, match="dot products"):
            recommender.fold_in(["i0"])


def test_what_a_run_records_and_how_it_is_named(place, call_json):
    metrics = read_json(place.run("graph-filter") / "metrics.json")
    assert metrics["config"]["run"]["backbone"] == "graph-filter"
    assert metrics["config"]["data"]["texts"]
    assert metrics["config"]["training"] == {}
    assert metrics["epochs"] == 0
    assert metrics["seconds"] > 0
    assert {"chosen", "validation", "notes"} <= metrics["fit"].keys()
    w = ("-w", place.path)
    code, again, err = call_json("train", *w)
    assert (code, again["run"]) == (0, "graph-filter")
    assert "already finished" in err
    code, _, err = call_json("train", *w, "--backbone", "ease", "--alignment", "contrastive")
    assert code == 2
    assert "computed in closed form" in err
    code, _, err = call_json("train", *w, "--epochs", 3)
    assert code == 2
    assert "nothing is trained here" in err
    code, listed, _ = call_json("options", "--backbone", "itemknn")
    assert {row["name"] for row in listed["options"]} == {"user_exponent", "item_exponent", "neighbours"}


def test_the_commands_treat_it_like_every_run(place, call_json, tmp_path):
    w = ("-w", place.path)
    _, found, _ = call_json("evaluate", *w, "--run", "my-itemknn")
    metrics = read_json(place.run("my-itemknn") / "metrics.json")
    assert np.isclose(found["recall@20"], metrics["test"]["recall@20"])
    _, found, _ = call_json("compare", *w, "my-itemknn", "my-ease")
    assert list(found["runs"]) == ["my-itemknn", "my-ease"]
    assert list(found["baselines"]) == ["popularity", "graph-filter"]
    assert place.run("popularity").exists()
    _, _, err = call_json("compare", *w, "my-itemknn", "my-ease")
    first = " ".join(line.split("│")[1].strip() for line in err.splitlines() if line.startswith("│"))
    assert "graph-filter (text: default, weight 0)" in first, "validation did not choose them"
    assert "was fitted with" not in err
    _, found, _ = call_json("compare", *w, "my-itemknn", "my-ease", "--no-baselines")
    assert found["baselines"] == {}
    code, _, _ = call_json("recommend", *w, "--run", "my-itemknn", "--all", "--out", tmp_path / "all.parquet")
    assert code == 0
    assert pl.read_parquet(tmp_path / "all.parquet").height == 60
    _, found, _ = call_json("explain", *w, "--run", "my-itemknn", "--user", "u0", "--item", "i3")
    assert found["exact"]
    code, _, err = call_json("export", *w, "--run", "my-itemknn", "--out", tmp_path / "out")
    assert code == 2
    assert "dot products" in err
    assert call_json("export", *w, "--run", "plain", "--out", tmp_path / "out")[0] == 0
    code, _, err = call_json("index", *w, "--run", "my-ease")
    assert code == 2
    assert "an index needs embeddings of items" in err
    (tmp_path / "s.toml").write_text(
        'backbones = ["itemknn"]\nalignments = ["none"]\nseeds = [0]\n[grid]\nneighbours = [5, 10]\n'
    )
    code, found, _ = call_json("sweep", *w, tmp_path / "s.toml")
    assert (code, found["failed"], found["trials"]) == (0, 0, 2)


@pytest.mark.parametrize("name", NAMES)
def test_the_report_ranks_by_all_parts_of_the_score(place, name, tmp_path):
    inputs = collect(place, [f"my-{name}"])
    [group] = inputs.groups
    metrics = read_json(place.run(f"my-{name}") / "metrics.json")
    assert np.isclose(inputs.ranking(group).metric("ndcg@20"), metrics["test"]["ndcg@20"])
    write_report(place, tmp_path / "report.html", [f"my-{name}"])  # a map of items needs two dimensions
    assert f"my-{name}" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_new_users_and_items_by_text_need_no_fit(place, call_json):
    w = ("-w", place.path)
    _, found, _ = call_json(
        "cold", "user", *w, "--run", "graph-filter", "--text", "detective stories", "-k", 5
    )
    assert {int(item["id"][1:]) // 15 for item in found["items"]} == {1}
    _, found, _ = call_json("cold", "user", *w, "--run", "my-itemknn", "--likes", "i31,i32", "-k", 5)
    assert {int(item["id"][1:]) // 15 for item in found["items"]} == {2}
    _, found, _ = call_json(
        "cold", "item", *w, "--run", "graph-filter", "--text", "new travel guides", "-k", 5
    )
    assert {int(user["id"][1:]) // 20 for user in found["users"]} == {2}
    assert {int(item["id"][1:]) // 15 for item in found["similar"]} == {2}
    code, _, err = call_json("cold", "user", *w, "--run", "my-itemknn", "--text", "detective stories")
    assert code == 1
    assert "reads no texts" in err
    code, _, err = call_json("cold", "fit", *w, "--run", "graph-filter")
    assert code == 0
    assert "nothing has to be fitted" in err


def test_http(place, monkeypatch):
    monkeypatch.setenv("TOKEN", "secret")
    with TestClient(application(Settings(place.path, "graph-filter", "my-itemknn", "TOKEN"))) as client:
        assert client.get("/healthz").json()["cold_start"]
        lists = client.get("/v1/users/u0/recommendations?k=5").json()["items"]
        expected, _ = opened(place, "graph-filter").recommend("u0", 5)
        assert [item["id"] for item in lists] == expected.tolist()
        assert client.get("/v1/users/u0/comparison?k=5").status_code in (200, 404)
        assert client.get("/v1/items/i0/similar?k=3").status_code == 200
        by_text = client.post("/v1/cold/users", json={"text": "cookery recipes", "k": 4}).json()["items"]
        assert {int(item["id"][1:]) // 15 for item in by_text} == {0}
        liked = client.post("/v1/cold/users", json={"items": ["i16"], "k": 4}).json()["items"]
        assert {int(item["id"][1:]) // 15 for item in liked} == {1}
        new = {"id": "new", "text": "short travel guides"}
        headers = {"Authorization": "Bearer secret"}
        assert client.post("/v1/cold/items", json=new, headers=headers).status_code == 201
        scores = client.get("/v1/users/u50/recommendations?k=46").json()["items"]
        assert "new" in [item["id"] for item in scores]
        assert client.delete("/v1/cold/items/new", headers=headers).status_code == 204


def test_similar_items_without_embeddings_are_of_the_same_block(place):
    for name in ("my-itemknn", "my-ease"):
        ids, cosines = opened(place, name).similar_items("i0", 4)
        assert {int(raw[1:]) // 15 for raw in ids} == {0}
        assert (np.diff(cosines) <= 0).all()
        ids, _ = opened(place, name).similar_users("u0", 4)
        assert {int(raw[1:]) // 20 for raw in ids} == {0}


@pytest.mark.parametrize(
    ("name", "value"),
    [("neighbours.indices", 10**6), ("neighbours.indices", -1), ("neighbours.indptr", 10**6)],
)
def test_a_damaged_sparse_part_is_refused(place, tmp_path, name, value):
    folder = tmp_path / "r"
    opened(place, "my-itemknn").save(folder)
    arrays = load_file(folder / storage.ARRAYS)
    arrays[name][5] = value
    save_file(arrays, folder / storage.ARRAYS)
    # As by somebody who also corrects the checksums.
    description = read_json(folder / storage.MANIFEST)
    del description["checksum"]
    description["sha256"][storage.ARRAYS] = sha256(folder / storage.ARRAYS)
    write_json(folder / storage.MANIFEST, {**description, "checksum": storage.checksum(description)})
    for mmap in (False, True):
        with pytest.raises(WorkspaceError, match="matrix neighbours is damaged"):
            Recommender.load(folder, mmap=mmap)


def test_a_closed_form_of_ones_own(place, call_json, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from rlmrec.closed_form import Popularity\n"
        "class Mine(Popularity):\n    NAME = 'mine'\n    label = 'Mine'\n"
    )
    code, found, _ = call_json("train", "-w", place.path, "--backbone", "mine.py:Mine")
    assert (code, found["run"]) == (0, "mine")
    assert (
        opened(place, "mine").recommend("u0", 3)[0].tolist()
        == opened(place, "my-popularity").recommend("u0", 3)[0].tolist()
    )
    student = ("--backbone", "mf", "--alignment", "distilled", "--set", "teacher=mine.py:Mine", "--epochs", 1)
    code, found, _ = call_json("train", "-w", place.path, *student)
    assert (code, found["run"]) == (0, "mf-distilled-general-seed0-teacher=Mine-epochs=1")


def test_a_run_that_another_process_trains_is_left_alone(place, call_json):
    arguments = ["train", "-w", str(place.path), "--backbone", "popularity", "--name", "busy"]
    with locked(place.run("busy")):
        code, _, error = call_json(*arguments)
    assert code == 1
    assert "another process is training the run 'busy': wait until it has ended" in error
    assert not place.run("busy").exists()
    assert call_json(*arguments)[0] == 0


def test_fit_leaves_pytorch_alone(place):
    code = (
        "import sys; from rlmrec.cli import main\n"
        f"try: main(['train', '-w', {str(place.path)!r}, '--name', 'without-torch'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "torch" not in read_json(place.run("without-torch") / "metrics.json")["environment"]
