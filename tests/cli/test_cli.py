"""The command line from outside: what it prints, what it leaves, how it fails."""

import json
import subprocess
import sys

import polars as pl
import pytest

from rlmrec.cli import main
from rlmrec.data.dataset import SPLITS
from rlmrec.testing import blocks
from rlmrec.workspace import Workspace


@pytest.fixture
def call(capsys):
    """Run the command line in this process: exit code, stdout, stderr."""

    def run(*arguments):
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def last_json(out):
    return json.loads(out.strip().splitlines()[-1])


@pytest.fixture
def workspace(tmp_path):
    """A workspace with dataset and vectors, no run yet."""
    place = Workspace(tmp_path / "w")
    dataset, semantics = blocks()
    dataset.save(place.dataset_path)
    semantics.save(place.semantics_path)
    return place


def train(call, place, name, alignment="none", *more):
    return call("train", "-w", place.path, "--alignment", alignment, "--name", name, "--epochs", 7,
                "--set", "learning_rate=0.01", "--set", "batch_size=256", *more, "--json")  # fmt: skip


def test_train_writes_what_it_promises(call, workspace):
    code, out, _ = train(call, workspace, "con", "contrastive")
    assert code == 0
    metrics = json.loads((workspace.run("con") / "metrics.json").read_text())
    for split in ("test", "valid"):
        assert {"recall@20", "ndcg@20", "precision@5", "map@10", "gini@20"} <= metrics[split].keys()
    assert {"best_epoch", "epochs", "seconds_per_epoch", "seconds_evaluation", "config"} <= metrics.keys()
    assert metrics["config"]["alignment"]["negatives"] in ("all-users", "batch")
    assert last_json(out)["test"] == metrics["test"]
    left = {path.name for path in workspace.run("con").iterdir()}
    assert left == {"config.toml", "metrics.json", "metrics.jsonl", "model.safetensors", "recommender",
                    "test.parquet", "valid.parquet"}  # fmt: skip


def test_a_finished_run_is_not_repeated_and_other_options_are_refused(call, workspace):
    assert train(call, workspace, "base")[0] == 0
    model = workspace.run("base") / "model.safetensors"
    before = model.stat().st_mtime_ns
    code, _, err = train(call, workspace, "base")
    assert code == 0
    assert "done before" in err
    assert model.stat().st_mtime_ns == before
    code, _, err = train(call, workspace, "base", "none", "--seed", "5")
    assert code == 2
    assert "another run" in err
    assert "--overwrite" in err
    assert train(call, workspace, "base", "none", "--seed", "5", "--overwrite")[0] == 0


def test_compare_evaluate_recommend(call, workspace):
    for name, alignment in (("base", "none"), ("con", "contrastive"), ("gen", "generative")):
        assert train(call, workspace, name, alignment)[0] == 0
    code, out, err = call("compare", "-w", workspace.path, "base", "con", "gen", "--json")
    assert code == 0
    result = last_json(out)
    assert set(result["comparisons"]) == {"con", "gen"}
    cell = result["comparisons"]["con"]["ndcg@10"]
    base, con = (result["runs"][name]["test"]["ndcg@10"] for name in ("base", "con"))
    assert cell["relative"] == pytest.approx(con / base - 1)
    assert 0 <= cell["p_t"] <= cell["p_holm"] <= 1
    assert "base" in err

    code, out, _ = call("evaluate", "-w", workspace.path, "--run", "con", "-k", 10, "--json")
    assert code == 0
    assert last_json(out)["ndcg@10"] == con

    code, out, _ = call("recommend", "-w", workspace.path, "--run", "con", "--user", "u3", "-k", 4, "--json")
    assert code == 0
    answer = last_json(out)
    assert answer["user"] == "u3"
    assert len(answer["items"]) == 4
    dataset = workspace.dataset()
    mine = dataset.train.items[dataset.train.users == dataset.users.row("u3")]
    assert not {item["id"] for item in answer["items"]} & {dataset.items.id(int(row)) for row in mine}


def test_data_table_from_files(call, tmp_path):
    dataset, _ = blocks(density=0.9)
    rows = {"u": [], "i": [], "stars": []}
    for split in SPLITS:
        part = dataset.split(split)
        rows["u"] += part.users.tolist()
        rows["i"] += [dataset.items.id(row) for row in part.items.tolist()]
    rows["stars"] = [1 + n % 5 for n in range(len(rows["u"]))]
    pl.DataFrame(rows).write_parquet(tmp_path / "r.parquet")
    (tmp_path / "items.csv").write_text("i,title\n" + "".join(f"i{n},Title {n}\n" for n in range(40)))
    code, out, _ = call("data", "table", tmp_path / "r.parquet", "-w", tmp_path / "w", "--user-column", "u",
                        "--item-column", "i", "--rating-column", "stars", "--min-rating", 2, "--k-core", 3,
                        "--items", tmp_path / "items.csv", "--seed", 4, "--json")  # fmt: skip
    assert code == 0
    result = last_json(out)
    stored = Workspace(tmp_path / "w").dataset()
    assert stored.fingerprint == result["fingerprint"]
    assert stored.provenance["options"]["min_rating"] == 2
    assert stored.item_texts["title"].drop_nulls().len() == 40
    assert isinstance(stored.users.id(0), int)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "-w", "{w}", "--alignment", "magic"], 2, "unknown alignment 'magic'"),
        (["train", "-w", "{w}", "--set", "lr"], 2, "expected name=value"),
        (["train", "-w", "{w}", "--set", "lr=1"], 2, "unknown option 'lr'"),
        (["train", "-w", "{w}", "--name", "../out"], 2, "run name"),
        (["train", "-w", "nowhere"], 1, "rlmrec data"),
        (["recommend", "-w", "{w}", "--run", "x", "--user", "u1"], 1, "no run 'x'"),
        (["compare", "-w", "{w}", "one"], 2, "at least two runs"),
        (["data", "table", "-w", "{w}"], 2, "--train, --valid and --test"),
        (["data", "table", "missing.csv", "-w", "{w}"], 1, "missing.csv"),
        (["data", "table", "missing.csv", "--split", "3:1", "-w", "{w}"], 1, "missing.csv"),
        (["encode", "-w", "{w}"], 2, "--items FILE"),
    ],
)
def test_mistakes_are_one_line_without_a_traceback(
    call, workspace, tmp_path, monkeypatch, arguments, code, message
):
    monkeypatch.chdir(tmp_path)
    got, _, err = call(*(a.replace("{w}", str(workspace.path)) for a in arguments))
    assert got == code
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


def test_wrong_options_are_wrong_use(call):
    assert call("train", "--no-such-option")[0] == 2
    assert call("nonsense")[0] == 2


def test_debug_shows_the_traceback(tmp_path):
    command = [sys.executable, "-m", "rlmrec", "train", "-w", str(tmp_path / "nowhere"), "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize(
    "command",
    [[], ["data"], ["data", "table"], ["data", "movielens-100k"], ["data", "published"], ["data", "recbole"],
     ["profile"], ["audit"], ["encode"], ["train"], ["evaluate"], ["recommend"], ["compare"], ["quickstart"]],
)  # fmt: skip
def test_help_has_examples(call, command):
    code, out, _ = call(*command, "--help")
    assert code == 0
    assert "Example" in out or command == ["data"]


def test_a_class_of_your_own_trains(call, workspace, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from rlmrec import Backbone\n"
        "class Factors(Backbone):\n"
        "    def __init__(self, n_users, n_items, config=None):\n"
        "        super().__init__(n_users, n_items, 8)\n"
        "    def encode(self, x, graph):\n"
        "        return graph.split(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert train(call, workspace, "mine", "contrastive", "--backbone", "mine:Factors")[0] == 0


def test_vectors_of_another_dataset_are_refused(call, workspace):
    blocks(seed=9)[0].save(workspace.dataset_path)
    code, _, err = train(call, workspace, "con", "contrastive")
    assert code == 1
    assert "made for another dataset" in err


def test_tensorboard_files(call, workspace):
    pytest.importorskip("tensorboard")
    assert train(call, workspace, "tb", "none", "--tensorboard")[0] == 0
    assert list((workspace.run("tb") / "tensorboard").glob("events*"))
