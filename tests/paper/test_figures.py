"""Figures 1 and 6 and Theorem 2: their tables, and the commands that run them."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rlmrec.cli import figures as commands
from rlmrec.cli import main
from rlmrec.experiments.render import readme, sheet_csv, sheet_latex, sheet_markdown
from rlmrec.experiments.runner import Results
from rlmrec.llm.client import Completion
from rlmrec.paper.case_study import case_study
from rlmrec.paper.figures import FIGURES, bounds, sheets_of
from rlmrec.paper.theorem2 import CRITICS, Theorem2Config
from rlmrec.recommend.open import open_recommender
from rlmrec.recommend.recommender import Recommender
from rlmrec.workspace import Workspace

RESULTS = Path(__file__).parents[2] / "experiments" / "results"


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
def call(capsys):
    def call(*arguments):
        code = 0
        try:
            main(["experiment", *map(str, arguments)])
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return call


def files(place, name):
    return {path.name for path in (place.experiments_path / name).iterdir()}


def test_figure6_by_command(place, call, toy):
    code, out, err = call(
        "figure6", "-w", place.path, "--base", "base", "--runs", "con", "--jobs", 2, "--json"
    )
    assert code == 0
    assert "figure6 runs in one process: --jobs is not used" in err
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


class Endpoint:
    """Answers with the candidates in their order, the first of them made up."""

    name = "model/x"
    concurrency = 1

    async def complete(self, system, prompt, schema=None):
        assert "best first" in system
        numbers = list(json.loads(prompt.splitlines()[0])["candidates"])
        return Completion(json.dumps({"ranking": ", ".join(["99", *numbers[:19]])}))


def test_figure1_by_command(place, call, monkeypatch):
    asked = []

    def endpoint(name, **options):
        asked.append((name, options))
        return Endpoint()

    monkeypatch.setattr(commands, "OpenAIChat", endpoint)
    command = ["figure1", "-w", place.path, "--run", "base", "--users", 7, "--candidates", 24, "--json"]
    where = ["--model", "x", "--base-url", "http://localhost:1/v1", "--key-env", "MY_KEY", "--concurrency", 3]
    code, out, err = call(*command, *where)
    assert code == 0, err
    assert asked == [("x", {"base_url": "http://localhost:1/v1", "key_env": "MY_KEY", "concurrency": 3})]
    before, chosen, filled = json.loads(out)["rows"]
    assert (before["users"], before["candidates"], before["model"]) == (7, "24, as retrieved", "model/x")
    assert chosen["made up"] == pytest.approx(1 / 20)
    assert filled["R@20"] == pytest.approx(before["R@20"])
    assert "| 5.0 % |" in err
    assert files(place, "figure1") == {"blocks.jsonl", "figure1.md", "figure1.csv", "figure1.tex"}
    # In another order it is another question; both stay.
    assert call(*command, *where, "--shuffle")[0] == 0
    assert call(*command, *where)[0] == 0
    assert len(Results(place.experiments_path / "figure1" / "blocks.jsonl").lines) == 2


def test_theorem2_by_command_needs_no_dataset(tmp_path, call, monkeypatch):
    quick = Theorem2Config(steps=2, anchors=64, batch_size=16)
    monkeypatch.setattr(
        commands.theorem2, "Theorem2Config", lambda **options: quick.model_copy(update=options)
    )
    command = ["theorem2", "-w", tmp_path / "w", "--only", "information=1,2", "--only", "n=16", "--json"]
    code, out, err = call(*command)
    assert code == 0, err
    assert [(row["critic"], row["I, nats"]) for row in json.loads(out)["rows"]] == [
        (critic, i) for critic in CRITICS for i in (1, 2)
    ]
    path = tmp_path / "w" / "experiments" / "theorem2" / "gaussians.jsonl"
    assert {line["config"]["seed"] for line in Results(path).lines.values()} == {0}
    assert call(*command, "--seeds", 2)[0] == 0
    assert len(Results(path).lines) == 2 * 2 * 3
    assert "Seeds: 0, 1, 2." in (path.parent / "theorem2.md").read_text()
    text = path.read_text()
    assert call(*command, "--seeds", 2)[0] == 0
    assert path.read_text() == text
    assert call("theorem2", "-w", tmp_path / "w", "--render")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["figure1"], "figure1 re-ranks the lists of a finished run: give --run NAME"),
        (["figure1", "--run", "absent"], "no run 'absent'"),
        (["figure6", "--base", "base"], "give --base RUN --runs RUN,RUN"),
        (["figure6", "--seeds", "3"], "figure6 has no --seeds"),
        (["figure1", "--run", "base", "--epochs", "3"], "figure1 has no --epochs"),
        (["theorem2", "--only", "backbone=sgl"], "expected information or n before ="),
        (
            ["theorem2", "--only", "n=5"],
            "theorem2 has no such trial: information is one of 0.5, 1, 2, 4, n of 4",
        ),
        (["theorem2", "--only", "n=few"], "take numbers"),
        (["figure6", "--render"], "nothing to render"),
    ],
)
def test_what_cannot_be_run_is_said(place, call, arguments, message):
    code, _, err = call(*arguments, "-w", place.path)
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
    above = FIGURES["theorem2"]("gaussians", [line(1, 10, 3.0)])
    assert "above I by more than four of its own standard errors: 1 of 1" in above.note


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_the_stored_lines_have_their_tables(name):
    [sheet] = sheets_of(name, RESULTS)
    text = sheet_markdown(sheet)
    assert all(
        line.count("|") == len(sheet.columns) + 1 for line in text.splitlines() if line.startswith("|")
    )
    records = list(csv.DictReader(io.StringIO(sheet_csv([sheet]))))
    assert len(records) == len(sheet.rows)
    assert set(records[0]) == {"dataset", *sheet.columns}
    tex = sheet_latex([sheet])
    assert tex.count(r" \\") == len(sheet.rows) + 1
    assert "%" not in tex.replace(r"\%", "")


def test_the_readme_names_what_the_log_speaks_of(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    for name in ("told.jsonl", "untold.jsonl"):
        (results / name).write_text("{}\n")
    (tmp_path / "LOG.md").write_text("See `results/told.jsonl`.")
    text = readme(results)
    assert "in forms of their own, shown in `LOG.md`: `told.jsonl`." in text
