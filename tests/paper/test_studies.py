"""Figures 1 and 6 and Theorem 2: their tables, and the commands that run them."""

import csv
import io
import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rlmrec.experiments.results import Results
from rlmrec.llm import client
from rlmrec.llm.base import LLM, Completion
from rlmrec.paper import theorem2
from rlmrec.paper.case_study import case_study
from rlmrec.paper.studies import STUDIES, bounds
from rlmrec.paper.theorem2 import CRITICS, Theorem2Config
from rlmrec.recommend.open import open_recommender
from rlmrec.recommend.recommender import Recommender
from rlmrec.report.tables import as_csv, as_latex, as_markdown
from rlmrec.workspace import Workspace

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def place(toy, tmp_path):
    """A workspace with titles, text vectors and two runs: "con" knows the texts, "base" nothing."""
    dataset, text_embeddings = toy
    titles = pl.DataFrame({"title": [f"Title {row}" for row in range(dataset.n_items)]})
    place = Workspace(tmp_path / "w")
    dataset = replace(dataset, item_texts=titles)
    dataset.save(place.dataset_path)
    text_embeddings.save(place.text_embeddings_path())
    rng = np.random.default_rng(0)
    base = [rng.standard_normal((n, 8), np.float32) for n in (dataset.n_users, dataset.n_items)]
    for name, (users, items) in (("base", base), ("con", (text_embeddings.users, text_embeddings.items))):
        Recommender.of(dataset, users, items).save(place.run(name) / "recommender")
        (place.run(name) / "metrics.json").write_text("{}")
    return place


@pytest.fixture
def paper(call):
    return lambda *arguments: call("paper", *arguments)


def files(place, name):
    return {path.name for path in (place.experiments_path / name).glob("[!.]*")}


def test_the_case_study_by_command(place, paper, toy):
    code, out, err = paper("case-study", "-w", place.path, "--base", "base", "--runs", "con", "--json")
    assert code == 0
    assert files(place, "figure6") == {"blocks.jsonl", "figure6.md", "figure6.csv", "figure6.tex"}
    dataset, text_embeddings = toy
    models = {name: open_recommender(place, name, dataset).users for name in ("base", "con")}
    expected = case_study(dataset, text_embeddings, models)["kinds"]["agreeing"]
    rows = {(row["pairs"], row["run"]): row for row in json.loads(out)["rows"]}
    assert len(rows) == 4
    found = rows["texts agree", "con"]
    assert found["relevance"] == pytest.approx(expected["models"]["con"]["relevance"])
    change = expected["against_base"]["con"]["rank_percentile"]
    assert found["change of mean rank, points"] == pytest.approx(100 * change["difference"])
    assert found["p"] == change["p_wilcoxon"]
    assert f"| texts agree | con | {expected['pairs']} |" in err
    records = list(csv.DictReader((place.experiments_path / "figure6" / "figure6.csv").open()))
    assert float(records[1]["relevance"]) == pytest.approx(found["relevance"], rel=1e-4)
    assert (records[0]["dataset"], records[0]["p"]) == ("blocks", "")


class Endpoint(LLM):
    """Answers with the candidates in their order, the first of them made up."""

    name = "model/x"
    concurrency = 1

    async def complete(self, system, prompt, schema=None):
        assert "best first" in system
        numbers = list(json.loads(prompt.splitlines()[0])["candidates"])
        return Completion(json.dumps({"ranking": ", ".join(["99", *numbers[:19]])}))


def test_reranking_by_command(place, paper, monkeypatch):
    asked = []

    def endpoint(name, **options):
        asked.append((name, options))
        return Endpoint()

    monkeypatch.setattr(client, "OpenAIChat", endpoint)
    command = ["rerank", "-w", place.path, "--run", "base", "--users", 7, "--candidates", 24, "--json"]
    where = ["--model", "x", "--base-url", "http://localhost:1/v1", "--key-env", "MY_KEY", "--concurrency", 3]
    code, out, err = paper(*command, *where)
    assert code == 0, err
    assert asked == [("x", {"base_url": "http://localhost:1/v1", "key_env": "MY_KEY", "concurrency": 3})]
    before, chosen, filled = json.loads(out)["rows"]
    assert (before["users"], before["candidates"], before["model"]) == (7, "24, as retrieved", "model/x")
    assert chosen["hallucinated"] == pytest.approx(1 / 20)
    assert filled["R@20"] == pytest.approx(before["R@20"])
    assert "| 5.0 % |" in err
    assert files(place, "figure1") == {"blocks.jsonl", "figure1.md", "figure1.csv", "figure1.tex"}
    # In another order it is another question; both stay.
    assert paper(*command, *where, "--shuffle")[0] == 0
    assert paper(*command, *where)[0] == 0
    assert len(Results(place.experiments_path / "figure1" / "blocks.jsonl").records) == 2


def test_theorem2_by_command_needs_no_dataset(tmp_path, paper, monkeypatch):
    quick = Theorem2Config(steps=2, anchors=64, batch_size=16)
    monkeypatch.setattr(theorem2, "Theorem2Config", lambda **options: quick.model_copy(update=options))
    command = ["theorem2", "-w", tmp_path / "w", "--information", 1, "--information", 2, "-n", 16, "--json"]
    code, out, err = paper(*command)
    assert code == 0, err
    assert [(row["critic"], row["I, nats"]) for row in json.loads(out)["rows"]] == [
        (critic, i) for critic in CRITICS for i in (1, 2)
    ]
    path = tmp_path / "w" / "experiments" / "theorem2" / "gaussians.jsonl"
    assert {line["config"]["seed"] for line in Results(path).records.values()} == {0}
    assert paper(*command, "--seeds", 2)[0] == 0
    assert len(Results(path).records) == 2 * 2 * 3
    assert "Seeds: 0, 1, 2." in (path.parent / "theorem2.md").read_text()
    text = path.read_text()
    assert paper(*command, "--seeds", 2)[0] == 0
    assert path.read_text() == text
    assert paper("theorem2", "-w", tmp_path / "w", "--render")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rerank"], "rerank needs a finished run: give --run NAME"),
        (["rerank", "--run", "absent"], "no run 'absent'"),
        (["case-study", "--base", "base"], "give --base RUN --runs RUN,RUN"),
        (["theorem2", "-n", "1"], "expected N of at least 2"),
        (["case-study", "--render"], "nothing to render"),
    ],
)
def test_what_cannot_be_run_is_said(place, paper, arguments, message):
    code, _, err = paper(*arguments, "-w", place.path)
    assert code != 0
    assert message in " ".join(err.split())
    assert not place.experiments_path.exists()


def test_bounds_are_of_the_last_configuration_over_its_seeds():
    def line(seed, steps, bound):
        config = {"seed": seed, "steps": steps}
        return {"critic": "exact", "information": 1.0, "n": 4, "bound": bound, "standard_error": 0.3,
                "config": config}  # fmt: skip

    [found] = bounds([line(0, 5, 9.0), line(1, 10, 0.2), line(2, 10, 0.4)])
    assert found["bound"] == pytest.approx(0.3)
    assert found["standard_error"] == pytest.approx(0.3 / 2**0.5)
    assert found["seeds"] == [1, 2]
    assert bounds([]) == []
    above = STUDIES["theorem2"].table("gaussians", [line(1, 10, 3.0)])
    assert "above I by more than four standard errors: 1 of 1" in above.note


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_the_stored_records_have_their_tables(name):
    [table] = STUDIES[name].tables(EXPERIMENTS / "results")
    rows = [row for row in as_markdown([table]).splitlines() if row.startswith("|")]
    assert {row.count("|") for row in rows} == {len(table.columns) + 1}
    records = list(csv.DictReader(io.StringIO(as_csv([table]))))
    assert len(records) == len(table.rows)
    assert set(records[0]) == {"dataset", *table.columns}
    tex = as_latex([table])
    assert tex.count(r" \\") == len(table.rows) + 1
    assert "%" not in tex.replace(r"\%", "")


def test_the_readme_names_what_the_log_speaks_of(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    for name in ("told.jsonl", "untold.jsonl"):
        (results / name).write_text("{}\n")
    (tmp_path / "LOG.md").write_text("See `results/told.jsonl`.")
    text = runpy.run_path(str(EXPERIMENTS / "render.py"))["readme"](results)
    assert "are in `LOG.md`: `told.jsonl`." in text
