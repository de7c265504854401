"""A shop's way on the command line: choose on held-out orders, train on everything, go on the next day."""

import json
import re
import shlex
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from rlmrec.cli.data import describe
from rlmrec.cli.output import Output
from rlmrec.data.dataset import Dataset
from rlmrec.evaluation.compare import FinishedRun
from rlmrec.experiments.final import final_spec
from rlmrec.experiments.run import read_config
from rlmrec.files import write_json
from rlmrec.recommend.open import open_recommender
from rlmrec.report import record
from rlmrec.report.blocks import Options
from rlmrec.report.collect import collect
from rlmrec.testing.shop import shop
from rlmrec.text.registry import encoder_of
from rlmrec.workspace import Workspace

TABLE = ("--user-column", "customer_id", "--item-column", "product_id", "--timestamp-column", "ordered_at")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    shop(customers=120, products=60, orders=2500).write(folder)
    return folder


@pytest.fixture
def place(files, tmp_path, call):
    """A workspace with the shop's orders, split by time, and text vectors."""
    place = Workspace(tmp_path / "w")
    code, _, err = call(
        "data", "table", files / "orders.csv", *TABLE, "--items", files / "products.csv",
        "--split", "temporal 8:1:1", "-w", place.path,
    )  # fmt: skip
    assert code == 0, err
    assert call("encode", "-w", place.path, "--encoder", "tfidf", "--set", "dim=16")[0] == 0
    return place


def bought(dataset, user):
    every = dataset.everything()
    return {dataset.items.id(row) for row in every.items[every.users == dataset.users.row(user)].tolist()}


def test_everybody_is_kept_and_what_was_bought_is_not_offered(place, files, call):
    dataset = place.dataset()
    assert dataset.provenance["options"]["k_core"] == 1
    assert dataset.provenance["text_columns"] == ["title", "category", "brand", "description"]
    _, printed, _ = call(
        "data", "table", files / "orders.csv", *TABLE, "--items", files / "products.csv",
        "--split", "temporal 8:1:1", "-w", place.path, "--json",
    )  # fmt: skip
    made = json.loads(printed)
    assert made["cold"] == len(dataset.cold) > 0
    products = pl.read_csv(files / "products.csv")
    unsold = int((~products["product_id"].is_in(dataset.items.ids)).sum())
    assert made["texts"] == {"items of the table without an interaction": unsold}
    output = Output(as_json=False)
    output.console = Console(record=True, width=120)
    describe(dataset, output)
    shown = " ".join(output.console.export_text().split())
    assert f"held out, user without training │ {made['cold']}" in shown
    assert f"items of the table without an interaction │ {unsold}" in shown
    assert "interactions: distinct pairs" in shown
    assert call("train", "-w", place.path)[0] == 0
    out = place.path / "all.parquet"
    assert (
        call("recommend", "-w", place.path, "--run", "graph-filter", "--all", "--out", out, "-k", 10)[0] == 0
    )
    recommender = open_recommender(place, "graph-filter", dataset)
    ids, _ = recommender.recommend(dataset.users.ids, k=10)
    for user, row in zip(dataset.users.ids, ids.tolist(), strict=True):
        assert not set(row) & bought(dataset, user)


def test_a_closed_form_is_fitted_without_text_if_none_is_named(place, call):
    none = ("--text-embeddings", "none")
    code, out, _ = call("train", "-w", place.path, *none)
    assert code == 0
    assert "texts: none, as --text-embeddings says" in out
    name = "graph-filter-texts=none"
    assert call("train", "-w", place.path, "--final", "--like", name, "--name", "live")[0] == 0
    for run in (name, "live"):
        config = read_config(place.run(run))
        assert "texts" not in config["data"]
        assert config["names"] == {"semantics": "none"}
    code, _, err = call("train", "-w", place.path, "--alignment", "contrastive", *none)
    assert (code, "needs text embeddings, got 'none'" in " ".join(err.split())) == (2, True)
    code, _, err = call("encode", "-w", place.path, "--encoder", "tfidf", "--name", "none")
    assert (code, "'none' stands for no text embeddings" in " ".join(err.split())) == (2, True)


def test_similar_users_of_a_new_one(place, files, call):
    """Who has an item is counted in what the run was trained on; where they cannot be shown, it is said why."""
    texts = ("--set", "text_weight=0.5")
    assert call("train", "-w", place.path, *texts, "--name", "chosen")[0] == 0
    tfidf = ("encode", "-w", place.path, "--encoder", "tfidf", "--set", "dim=16")
    assert call(*tfidf, "--whiten", 0.5, "--name", "white")[0] == 0
    white = ("--text-embeddings", "white")
    assert call("train", "-w", place.path, *texts, *white, "--name", "white")[0] == 0
    assert call("train", "-w", place.path, "--final", "--like", "chosen", "--name", "live")[0] == 0
    dataset = place.dataset()
    vectors = place.text_embeddings(dataset)
    encoder = encoder_of(vectors.manifest, folder=place.encoders_path)
    [text] = encoder.encode(["coffee"])
    lengths = np.linalg.norm(vectors.users, axis=1) * np.linalg.norm(text)
    order = np.argsort(-(vectors.users @ text) / np.maximum(lengths, 1e-12), kind="stable")[:50]
    order = order[vectors.users[order] @ text > 0]
    # A closed form reads texts as they were before whitening, and so are they compared.
    for name, interactions in (
        ("chosen", dataset.train), ("live", dataset.everything()), ("white", dataset.train)
    ):  # fmt: skip
        code, out, err = call("cold", "user", "-w", place.path, "--run", name, "--text", "coffee", "--json")
        assert code == 0, err
        assert "similar users" in err
        items = json.loads(out)["items"]
        rows = [dataset.items.row(item["id"]) for item in items]
        expected = (interactions.csr()[order][:, rows] != 0).sum(axis=0)
        assert [item["similar_users"] for item in items] == expected.tolist()
    con = ("--alignment", "contrastive", "--epochs", 1, "--name", "con")
    assert call("train", "-w", place.path, *con)[0] == 0
    assert call("cold", "fit", "-w", place.path, "--run", "con", *white)[0] == 0
    code, out, _ = call("cold", "user", "-w", place.path, "--run", "con", "--text", "coffee")
    assert code == 0
    assert "similar users are not shown: the users' text vectors are by tfidf 16" in " ".join(out.split())
    assert call("data", "append", files / "next_day.csv", "-w", place.path)[0] == 0
    cold = ("cold", "user", "-w", place.path, "--run", "chosen", "--text", "coffee")
    code, out, err = call(*cold)
    assert code == 0, err
    said = " ".join(out.split())
    assert "similar users are not shown: text embeddings 'default': there are text vectors for" in said
    assert f"encode them for this dataset (rlmrec encode -w {place.path}, with the other options" in said
    assert call(*tfidf)[0] == 0
    said = " ".join(call(*cold)[1].split())
    assert "the text embeddings 'default' are not those that run 'chosen' was trained with" in said


@pytest.mark.parametrize(
    ("name", "options"), [("graph-filter", ()), ("base", ("--backbone", "lightgcn", "--epochs", 4))]
)
def test_a_final_run(place, call, name, options):
    assert call("train", "-w", place.path, *options, "--name", name)[0] == 0
    code, out, err = call("train", "-w", place.path, "--final", "--like", name, "--name", "live")
    assert code == 0, err
    dataset = place.dataset()
    assert f"trained on all {len(dataset.everything()):,} interactions like {name}" in out
    assert "no test figure of its own" in out
    final, chosen = (FinishedRun.read(place.finished_run(run)).metrics for run in ("live", name))
    assert final["test"] is None
    assert final["valid"] is None
    assert final["epochs"] == chosen["best_epoch"] + 1 if options else final["epochs"] == 0
    recommender = open_recommender(place, "live", dataset)
    assert recommender.seen.nnz == len(dataset.everything())
    if not options:  # nothing was left open
        options_of = final["config"]["backbone"]
        assert {key: options_of[key] for key in ("rank", "ridge", "neighbours")} == {
            key: chosen["fit"]["chosen"][key] for key in ("rank", "ridge", "neighbours")
        }
        cold = dataset.cold.users[0]
        assert np.abs(recommender.users[cold]).any()  # a cold customer is known to the final model
    assert "trained on everything" in call("evaluate", "-w", place.path, "--run", "live")[2]
    assert "trained on everything" in call("compare", "-w", place.path, "live", name)[2]
    again = call("train", "-w", place.path, "--final", "--like", name, "--name", "live")
    assert "already finished" in again[1]
    said = " ".join(call("train", "-w", place.path, "--final", "--like", "live", "--name", "twin")[1].split())
    assert "no test figure of its own; neither has live, which is a final run itself" in said


def test_a_run_whose_texts_are_switched_off_reads_none(place, call):
    off = ("--set", "text_weight=0", "--set", "user_text_weight=0")
    for options in (off, ("--final", "--like", "off")):
        code, out, err = call(
            "train", "-w", place.path, *options, "--name", "off" if options is off else "live"
        )
        assert code == 0, err
        assert "texts: none are used with these options" in out
    for name in ("off", "live"):
        config = FinishedRun.read(place.finished_run(name)).metrics["config"]
        assert "texts" not in config["data"]
        assert "names" not in config
        assert config["backbone"]["text_weight"] == 0


def test_a_final_run_keeps_the_options_of_its_teacher(place, call):
    """Nothing is left to choose them by."""
    assert (
        call("train", "-w", place.path, "--alignment", "distilled", "--epochs", 2, "--name", "taught")[0] == 0
    )
    code, _, err = call("train", "-w", place.path, "--final", "--like", "taught", "--name", "live")
    assert code == 0, err
    taught, live = (FinishedRun.read(place.finished_run(run)).metrics for run in ("taught", "live"))
    options = taught["chosen"]["teacher_options"]
    assert {"rank", "ridge", "neighbours", "text_weight"} <= options.keys()
    assert live["config"]["alignment"]["teacher_options"] == options
    assert live["chosen"]["teacher_options"] == options
    assert "teacher_options" not in taught["config"]["alignment"]  # as in runs of before
    # A graph filter of before popularity was a part of it chose nothing for it, and a final one does without.
    del options["popularity_weight"]
    write_json(place.run("taught") / "metrics.json", taught)
    assert final_spec(place.run("taught")).alignment_config.teacher_options == options | {
        "popularity_weight": 0
    }
    assert call("train", "-w", place.path, "--name", "alone")[0] == 0
    alone = FinishedRun.read(place.finished_run("alone")).metrics
    assert final_spec(place.run("alone")).backbone_config.popularity_weight > 0
    del alone["fit"]["chosen"]["popularity_weight"]
    write_json(place.run("alone") / "metrics.json", alone)
    assert final_spec(place.run("alone")).backbone_config.popularity_weight == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--final",), "--final and --like RUN go together"),
        (("--like", "x"), "--final and --like RUN go together"),
        (("--final", "--like", "x", "--seed", 3), "--seed: a final run takes the options of --like x"),
        (("--final", "--like", "x"), "no run 'x'"),
    ],
)
def test_wrong_options_of_a_final_run(place, call, options, message):
    code, _, err = call("train", "-w", place.path, *options)
    assert code != 0
    assert message in " ".join(err.split())


def test_the_next_day(place, files, call):
    before = place.dataset()
    command = (
        "data",
        "append",
        files / "next_day.csv",
        "--items",
        files / "next_products.csv",
        "-w",
        place.path,
    )
    code, out, err = call(*command, "--json")
    assert code == 0, err
    counts = json.loads(out)
    after = Dataset.load(place.dataset_path)
    assert {"items of the table without an interaction", "to cold"} <= counts["counts"].keys()
    assert counts["new_users"] == after.n_users - before.n_users > 0
    assert after.descends_from(before.fingerprint)
    code, out, _ = call(*command)
    assert "nothing new" in out
    assert Dataset.load(place.dataset_path).fingerprint == after.fingerprint
    assert "nothing to append" in call("data", "append", "-w", place.path)[2]
    # The report has the commands, and they give the same dataset.
    *_, block = record.repeat(collect(place), Options()).blocks
    told = block.text.split("\n\n")[0].splitlines()
    assert len(told) == 2
    for line in told:
        program, *words, _, workspace = shlex.split(line)
        assert (program, workspace) == ("rlmrec", place.path.name)
        assert call(*words, "-w", place.path / "again")[0] == 0
    assert Dataset.load(place.path / "again" / "dataset").fingerprint == after.fingerprint
    odd = place.path / "odd.csv"
    odd.write_text("customer_id,product_id,ordered_at\nnan,p00001,2026-11-28 09:00:00\n")
    code, out, err = call("data", "append", odd, "-w", place.path, "--strict")
    assert code == 1
    assert "stands for a missing value" in " ".join(out.split())
    assert "nothing is written" in " ".join(err.split())
    assert Dataset.load(place.dataset_path).fingerprint == after.fingerprint
    code, out, _ = call("encode", "-w", place.path, "--encoder", "tfidf", "--set", "dim=16")
    assert code == 0


def test_training_goes_on_from_the_run_of_before(place, files, call):
    """With no learning to speak of, the tables are those of before, with rows for what was appended."""
    options = ("--backbone", "lightgcn", "--set", "layers=1", "-w", place.path)
    assert call("train", *options, "--epochs", 2, "--name", "old")[0] == 0
    assert call("data", "append", files / "next_day.csv", "-w", place.path)[0] == 0
    still = ("--epochs", 1, "--set", "learning_rate=1e-12")
    code, _, err = call("train", *options, *still, "--name", "new", "--start-from", "old")
    assert code == 0, err
    assert "only its initial embeddings are taken" not in err
    other = (
        "--backbone",
        "simgcl",
        "--epochs",
        1,
        "-w",
        place.path,
        "--name",
        "other",
        "--start-from",
        "old",
    )
    said = " ".join("".join(call("train", *other)[1:]).split())
    assert (
        "it is lightgcn without an alignment, this run is simgcl without an alignment; only its initial"
        in said
    )
    old, new = (load_file(place.run(name) / "model.safetensors") for name in ("old", "new"))
    for table, size in (("user", place.dataset().n_users), ("item", place.dataset().n_items)):
        before, after = (one[f"backbone.{table}_embedding"] for one in (old, new))
        assert len(before) < len(after) == size
        np.testing.assert_allclose(after[: len(before)], before, atol=1e-6)
        assert after[len(before) :].any(axis=1).all()
    final = ("train", "-w", place.path, "--final", "--like", "new", "--name", "live")
    code, _, err = call(*final)
    assert code == 2
    assert "new started from the embeddings of another run" in err, "its epochs are few from random ones"
    assert call(*final[:-1], "fresh", "--epochs", 1)[0] == 0
    assert call(*final, "--start-from", "old")[0] == 0
    live = load_file(place.run("live") / "model.safetensors")["backbone.item_embedding"]
    np.testing.assert_allclose(live, new["backbone.item_embedding"], atol=1e-6)
    code, _, err = call("train", *options, "--epochs", 1, "--name", "leak", "--start-from", "live")
    assert code == 2
    assert "it would be tested on what it was trained on" in " ".join(err.split())
    code, _, err = call("train", *options, "--epochs", 1, "--set", "embedding_size=16", "--start-from", "old")
    assert code == 2
    assert "cannot start from" in err


def test_a_start_of_another_split_is_told(place, call):
    options = ("--backbone", "mf", "--epochs", 1, "-w", place.path)
    assert call("train", *options, "--name", "old")[0] == 0
    dataset = place.dataset()
    replace(dataset, valid=dataset.test, test=dataset.valid).save(place.dataset_path)
    for name, warns in (("new", True), ("newer", False)):
        _, out, err = call("train", *options, "--name", name, "--start-from", "old" if warns else "new")
        assert ("it is of another dataset or split" in " ".join((out + err).split())) is warns
    _, out, err = call("train", "-w", place.path, "--final", "--like", "newer", "--start-from", "old")
    assert "another dataset or split" not in out + err, "nothing is held out"


def test_runs_of_before_the_next_day_are_evaluated_and_compared(place, files, call):
    """On the held-out orders of the present dataset; products that joined since are found by nobody."""
    assert call("train", "-w", place.path, "--backbone", "popularity", "--name", "old")[0] == 0
    assert call("train", "-w", place.path, "--name", "graph-filter")[0] == 0
    assert "fitted popularity in" in " ".join(
        call("compare", "-w", place.path, "old", "popularity")[1].split()
    )
    before = place.dataset()
    assert call("data", "append", files / "next_day.csv", "-w", place.path)[0] == 0
    after = place.dataset()
    code, out, err = call("evaluate", "-w", place.path, "--run", "old", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["unknown_items"] == after.n_items - before.n_items > 0
    # By hand: the most popular products of before, without what the customer had in training.
    order = np.argsort(-before.train.item_degrees(), kind="stable")
    recalls = []
    for user in np.flatnonzero(after.test.user_degrees()):
        wanted = after.test.items[after.test.users == user]
        had = after.train.items[after.train.users == user]
        recalls.append(np.isin(order[~np.isin(order, had)][:10], wanted).sum() / len(wanted))
    assert told["recall@10"] == pytest.approx(np.mean(recalls))
    assert call("train", "-w", place.path, "--backbone", "popularity", "--name", "new")[0] == 0
    code, out, err = call("compare", "-w", place.path, "old", "new", "--json")
    assert code == 0, err
    said = " ".join(err.split())
    assert "fitted popularity again, as the dataset has changed, in" in said, "nobody else has asked for it"
    assert "run graph-filter is of another dataset: train it again with --overwrite" in said
    assert "old: trained before interactions were appended" in " ".join(err.split())
    assert json.loads(out)["runs"]["old"]["test"]["recall@10"] == pytest.approx(np.mean(recalls))


def test_publishing(place, files, call):
    assert "nothing is published" in call("serve", "-w", place.path, "--port", 0)[2]
    assert call("train", "-w", place.path, "--name", "live")[0] == 0
    assert call("publish", "-w", place.path, "--run", "live")[0] == 0
    assert call("data", "append", files / "next_day.csv", "-w", place.path)[0] == 0
    code, out, err = call("publish", "-w", place.path, "--run", "live", "--json")
    assert code == 0, err
    shown = json.loads(out)["releases"]
    assert [one["name"] for one in shown] == ["000002", "000001"]
    assert shown[0]["users"] > shown[1]["users"]
    said = " ".join(call("publish", "-w", place.path, "--rollback")[1].split())
    assert (
        "release 000001; running servers of this workspace change to it, except those with --run or" in said
    )
    assert "000001 (published)" in call("publish", "-w", place.path)[1]
    assert call("publish", "-w", place.path, "--rollback")[0] == 1
    assert call("publish", "-w", place.path, "--rollback", "--run", "live")[0] == 2


def test_lists_by_rules(place, files, call, tmp_path):
    assert call("train", "-w", place.path, "--name", "live")[0] == 0
    (tmp_path / "stock.txt").write_text("p00001\np00002\np00007\ngone\n")
    (tmp_path / "one.txt").write_text("p00001\n")
    recommend = ("recommend", "-w", place.path, "--run", "live")
    code, out, err = call(*recommend, "--user", "c000001", "--candidates", tmp_path / "stock.txt", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["skipped"] == 1
    assert {item["id"] for item in answer["items"]} <= {"p00001", "p00002", "p00007"}
    out_file = tmp_path / "lists.csv"
    rules = ("--where", "in_stock = true and price < 40", "--at-most", "category=2", "--diversity", 0.2)
    code, _, err = call(*recommend, "--all", "--out", out_file, "-k", 6, *rules)
    assert code == 0, err
    products = pl.read_csv(files / "products.csv").rename({"product_id": "item"})
    found = pl.read_csv(out_file).join(products, on="item")
    assert found["in_stock"].all()
    assert found["price"].max() < 40
    assert found.group_by("user", "category").len()["len"].max() == 2
    # A condition that no item fulfils leaves yesterday's file as it is.
    before = out_file.read_bytes()
    for condition, told in (
        (
            "category = 'Tyres' and price < 40",
            rf"'{products['category'][0]}'.*price has {products['price'][0]}",
        ),
        ("in_stock = true and in_stock = false", r"in_stock has true, false|in_stock has false, true"),
    ):
        code, _, err = call(*recommend, "--all", "--out", out_file, "--where", condition)
        assert (code, out_file.read_bytes()) == (2, before)
        said = " ".join(err.split())
        assert f"no item fulfils the condition {condition!r}: " in said.replace('\\"', '"')
        assert re.search(told, said)
    (tmp_path / "gone.txt").write_text("gone\n")
    code, _, err = call(*recommend, "--all", "--out", out_file, "--candidates", tmp_path / "gone.txt")
    assert (code, out_file.read_bytes()) == (2, before)
    assert "no item is left" in err
    said = " ".join(call(*recommend, "--all", "--out", out_file, "--where", "category")[2].split())
    assert "it is a text, expected an SQL condition such as category = '" in said
    code, out, _ = call(*recommend, "--user", "stranger", "-k", 3)
    assert "user 'stranger' is not in the dataset" in " ".join(out.split())
    assert "history" not in out
    code, out, _ = call(
        *recommend, "--all", "--out", tmp_path / "few.csv", "-k", 3, "--candidates", tmp_path / "stock.txt",
        "--exclude", tmp_path / "one.txt", "--where", "id <> 'p00007'",
    )  # fmt: skip
    listed, n_users = len(pl.read_csv(tmp_path / "few.csv")), place.dataset().n_users
    assert f"{listed / n_users:.1f} instead of 3 for each on average" in " ".join(out.split())
    meant = call("recommend", "-w", place.path, "--run", "liv", "--user", "c000001")[2]
    assert "(did you mean 'live'?): there are live" in " ".join(meant.split())
    code, out, _ = call(*recommend, "--user", "C000001", "-k", 3)
    assert "user 'C000001' is not in the dataset (did you mean 'c000001'?); here is" in " ".join(out.split())
    assert "(did you mean 'price'?)" in call(*recommend, "--user", "c000001", "--where", "PRICE < 3")[2]
    assert "did you mean" not in call(*recommend, "--user", "c000001", "--where", '"price" is')[2]
    assert (
        "invalid value for '-k': got '0', expected at least 1: see"
        in call(*recommend, "--user", "c", "-k", 0)[2]
    )
    assert "at least two runs, got live" in call("compare", "-w", place.path, "live")[2]
    assert call(*recommend, "--user", "c000001", "--at-most", "brand")[0] == 2
    assert "expected an SQL condition" in call(*recommend, "--user", "c000001", "--where", "colour = 1")[2]


def test_lists_of_every_form_are_watched_alike(place, files, call, tmp_path):
    assert call("train", "-w", place.path, "--name", "live")[0] == 0
    found, scores = [], []
    for ending in ("parquet", "csv", "jsonl"):
        lists = tmp_path / f"lists.{ending}"
        assert call("recommend", "-w", place.path, "--run", "live", "--all", "--out", lists, "-k", 5)[0] == 0
        code, out, err = call("monitor", lists, files / "next_day.csv", "-w", place.path, "--json")
        assert code == 0, err
        line = json.loads(out)
        found.append([line[name] for name in ("buyers", "hit_rate", "found", "coverage", "popular")])
        scores.append(line["score"])
    assert found[0] == found[1] == found[2]
    assert scores == pytest.approx([scores[0]] * 3)
    assert found[0][0] > 0
    (tmp_path / "lists.txt").write_text("")
    code, _, err = call("monitor", tmp_path / "lists.txt", files / "next_day.csv", "-w", place.path)
    assert code == 2
    assert "the name must end in one of .parquet, .csv, .jsonl" in err


def test_what_append_leaves_out_is_not_bought(call, tmp_path):
    """Items that a reader hid (0 stars) are no hits of the lists that offered them."""
    rows = [(f"u{user}", item, 1 + (user + item) % 3, 10) for user in range(4) for item in range(6)]
    first = pl.DataFrame(rows, schema=["user_id", "item_id", "stars", "at"], orient="row")
    first.write_csv(tmp_path / "first.csv")
    options = (
        "--rating-column",
        "stars",
        "--min-rating",
        1,
        "--timestamp-column",
        "at",
        "-w",
        tmp_path / "w",
    )
    assert call("data", "table", tmp_path / "first.csv", *options)[0] == 0
    day = [
        ("u0", 6, 0, 20),
        ("u0", 7, 2, 20),
        ("u1", 6, 3, 20),
        ("u1", 6, 0, 21),
        ("u2", 7, 1, 20),
        ("u2", 1, 0, 20),
    ]
    lines = (dict(zip(first.columns, row, strict=True)) for row in day)
    (tmp_path / "day.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    pl.DataFrame(
        {"user": ["u0", "u1", "u2"], "items": [[6], [6], [7]], "scores": [[1.0]] * 3, "source": ["model"] * 3}
    ).write_parquet(tmp_path / "lists.parquet")
    monitor = ("monitor", tmp_path / "lists.parquet", tmp_path / "day.jsonl", "-w", tmp_path / "w", "--json")
    code, out, err = call(*monitor)
    assert code == 0, err
    told = json.loads(out)
    assert (told["buyers"], told["hit_rate"], told["found"]) == (2, 0.5, 0.5)
    assert "note: 3 interactions rated below 1, or not at all, are left out" in " ".join(err.split())
    # Without times the last rating of the file counts; without ratings everything does.
    pl.read_ndjson(tmp_path / "day.jsonl").drop("at").write_csv(tmp_path / "no_times.csv")
    pl.read_ndjson(tmp_path / "day.jsonl").drop("at", "stars").write_csv(tmp_path / "no_stars.csv")
    for name, buyers in (("no_times", 2), ("no_stars", 3)):
        code, out, err = call(*monitor[:2], tmp_path / f"{name}.csv", *monitor[3:])
        assert (code, json.loads(out)["buyers"]) == (0, buyers), err
        assert ("has no column 'stars', so all of its interactions count" in " ".join(err.split())) == (
            buyers == 3
        )
    _, out, err = call("data", "append", tmp_path / "day.jsonl", "-w", tmp_path / "w", "--json")
    counts = json.loads(out)["counts"]
    assert counts["rated below 1 and left out"] == told["left_out"] == 3
    assert (counts["earlier ratings that they take back"], counts["new"]) == (1, 2)


def test_tables_may_call_the_ids_differently(place, files, call, tmp_path):
    other = tmp_path / "other"
    for name in ("products", "next_products"):
        table = pl.read_csv(files / f"{name}.csv", infer_schema=False).rename({"product_id": "sku"})
        # A column that is called as the ids of the orders is then a column like others.
        table.with_columns(product_id=pl.lit("made to order")).write_csv(tmp_path / f"{name}.csv")
    pl.read_csv(tmp_path / "products.csv").drop("product_id").write_csv(tmp_path / "p.csv")
    command = ("data", "table", files / "orders.csv", *TABLE, "--split", "temporal 8:1:1", "-w", other)
    code, _, err = call(*command, "--items", tmp_path / "p.csv")
    assert code == 2
    assert "name the column of item ids in the table of items (--items-id-column)" in err
    assert "p.csv has no column 'product_id'" in err
    code, _, err = call(*command, "--items-id-column", "sku")
    assert code == 2
    assert "item ids (--items-id-column) is in the table of items: give that table, too (--items)" in err
    code, _, err = call(*command, "--items", tmp_path / "products.csv", "--items-id-column", "sku")
    assert code == 0, err
    made, dataset = Dataset.load(other / "dataset"), place.dataset()
    assert made.fingerprint == dataset.fingerprint
    assert made.item_texts.drop("product_id").equals(dataset.item_texts)
    assert set(made.item_texts["product_id"].drop_nulls()) == {"made to order"}
    code, _, err = call("data", "append", files / "next_day.csv", "--items-id-column", "sku", "-w", other)
    assert code == 2
    assert "(--items-id-column) is in the table of items" in err
    # The next day the name is known.
    grown = []
    for workspace, folder in ((other, tmp_path), (place.path, files)):
        code, _, err = call(
            "data", "append", files / "next_day.csv", "--items", folder / "next_products.csv", "-w", workspace
        )
        assert code == 0, err
        grown.append(Dataset.load(workspace / "dataset").item_texts)
    assert grown[0].drop("product_id").equals(grown[1])


def test_who_was_left_out_is_told(files, tmp_path, call):
    code, out, err = call(
        "data", "table", files / "orders.csv", *TABLE, "--k-core", 3, "--min-rating", 2, "--rating-column", "quantity",
        "-w", tmp_path / "w",
    )  # fmt: skip
    assert code == 0, err
    dataset = Dataset.load(tmp_path / "w" / "dataset")
    gone = dataset.left_out.filter(pl.col("reason").str.contains("core"))["id"].to_list()
    counts = dataset.provenance["left out"]
    assert counts["users: not in the 3-core"] == len(gone)
    assert (
        len(dataset.left_out) + dataset.n_users == pl.read_csv(files / "orders.csv")["customer_id"].n_unique()
    )
    assert f"left out: {len(dataset.left_out)} of" in " ".join(out.split())
    assert "--k-core 1 keeps everybody" in " ".join(out.split())
    assert call("train", "-w", tmp_path / "w", "--backbone", "popularity", "--name", "p")[0] == 0
    code, out, _ = call("recommend", "-w", tmp_path / "w", "--run", "p", "--user", gone[0])
    assert code == 0
    assert "was left out of the dataset (not in the 3-core)" in " ".join(out.split())
