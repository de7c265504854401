"""Experiments that choose options by tries: equal budgets, resuming, and the tables of details."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import ttest_rel

from rlmrec.cli import main
from rlmrec.closed_form import RECOMMENDERS
from rlmrec.errors import ConfigError
from rlmrec.evaluation.groups import group_metrics
from rlmrec.evaluation.ranking import evaluate, read_table
from rlmrec.evaluation.significance import holm
from rlmrec.experiments.experiment import Experiment
from rlmrec.experiments.results import Results, read_trial_records, results_path, tries_path
from rlmrec.experiments.spec import RunSpec
from rlmrec.experiments.trial import Trial, TrialInputs, identity, told_apart
from rlmrec.models import MODELS
from rlmrec.paper.grids import grid
from rlmrec.recommend.recommender import Recommender
from rlmrec.report.details import _gain_left, detail_tables, stop
from rlmrec.report.experiments import load_tests, run_tests, save_tests, summarize
from rlmrec.report.pairs import PairTests, _compared, load_pairs, pair_table, run_pair_tests
from rlmrec.testing import blocks
from rlmrec.training.trainer import train
from rlmrec.workspace import Workspace

STORED = Path(__file__).parents[2] / "experiments" / "results"
FILE = """
title = "Small"
metrics = ["recall@20"]
rows = ["backbone", "variant", "text_embeddings", "shuffle", "dimension"]
against = { variant = "Base", text_embeddings = "–", shuffle = "none" }
reference = { variant = "Base" }
pairs = [
    { rows = { variant = "Con" }, with = { variant = "Base", dimension = "32" } },
    { rows = { backbone = "graph filter", text_embeddings = "default" }, with = { text_embeddings = "none" } },
]
seeds = 2
details = true
[options]
epochs = 4
batch_size = 256
patience = 6
[try_options]
epochs = 2
[[grid]]
backbone = ["popularity"]
[[grid]]
backbone = ["graph-filter"]
text_embeddings = ["none"]
seeds = 1
[[grid]]
backbone = ["graph-filter"]
shuffle = ["none", "both"]
needs_text = true
seeds = 1
[[grid]]
tries = [{ learning_rate = 1e-5 }, { learning_rate = 0.05 }]
[[grid]]
alignment = ["contrastive"]
options = { embedding_size = 8 }
tries = [{ weight = 0.1 }, { weight = 0.01 }]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(FILE)
    return path


def command(file, place, *more):
    with pytest.raises(SystemExit) as end:
        main(["experiment", str(file), "-w", str(place.path), "--threads", "1", *more])
    return end.value.code


def test_options_are_chosen_by_tries_and_a_killed_command_continues(file, place, tmp_path, capsys):
    assert command(file, place) == 0
    path = results_path(place.experiments_path, "small", "blocks")
    tried, records = Results(tries_path(path)).records, Results(path).records
    assert len(tried) == 4, "two for each trained method, with one seed"
    assert {record["cell"]["training"]["epochs"] for record in tried.values()} == {2}
    assert not list(place.path.rglob("checkpoint*")), "no trial will go on from a try any more"
    valid = {
        record["cell"]["training"]["learning_rate"]: record["valid"]["recall@20"]
        for record in tried.values()
        if record["cell"]["run"]["alignment"] == "none"
    }
    assert valid[0.05] > valid[1e-5]
    base = [record for record in records.values() if record["cell"]["run"]["backbone"] == "lightgcn"]
    chosen = [record["cell"]["training"] for record in base if record["cell"]["run"]["alignment"] == "none"]
    assert {options["learning_rate"] for options in chosen} == {0.05}
    assert {options["epochs"] for options in chosen} == {4}
    assert len(base) == 4
    tables = capsys.readouterr().out
    for rate in ("1e-05", "0.05"):
        assert f"lightgcn, none, learning_rate {rate}, seed 1: valid R@20" in tables, (
            "lines tell the tries apart"
        )
    assert "| graph filter | Base | default | both |" in tables
    assert "best epochs, patience 5" in tables
    stopping = detail_tables(summarize(Experiment.read(file), path))[-1]
    after = {line[0] + line[1]: line[-1] for line in stopping.texts}
    assert after["LightGCNBase"] == ", ".join(str(3 - record["best_epoch"]) for record in base[:2])
    assert {line[-2] for line in stopping.texts} == {"–"}, (
        "4 epochs end a training before a patience of 6 does"
    )
    assert (
        "4 of 4 trained runs: the limit of epochs ended training before patience did, so they may not be trained out. "
        "To train longer: --epochs 8." in tables
    )

    # Pairs: the p-value of SciPy, Holm's correction by hand, and no test of trials that are not shown.
    pairs = pair_table(summarize(Experiment.read(file), path))
    assert [(line[1], line[3], line[5], line[6]) for line in pairs.texts] == [
        ("Con", "none", "Base, text embeddings –, dimension 32", "1, 2"),
        ("Base", "none", "text embeddings –", "1"),
        ("Base", "both", "text embeddings –, shuffle none", "1"),
    ]
    of_base, of_con = (
        np.mean(
            [
                read_table(place.trial(one["id"]) / "test.parquet")["recall@20"].to_numpy()
                for one in records.values()
                if one["cell"]["run"]["backbone"] == "lightgcn" and one["cell"]["run"]["alignment"] == name
            ],
            axis=0,
        )
        for name in ("none", "contrastive")
    )
    by_row = {one.row[1] + one.row[3]: one for one in load_pairs(path)}
    found = {name: one.metrics["recall@20"]["p_t"] for name, one in by_row.items()}
    assert found["Connone"] == pytest.approx(ttest_rel(of_con, of_base).pvalue)
    assert [line[9] for line in pairs.texts] == [
        f"{p:.2g}" for p in holm([found[f"{line[1]}{line[3]}"] for line in pairs.texts])
    ]
    # Only seeds that both rows have are compared.
    pair = pairs.rows[0]
    seeds = [one for one in load_pairs(path) if one.row[1] == "Con"]
    of_both = {one["id"]: one["cell"]["run"]["seed"] for one in records.values()}
    assert [[of_both[trial] for trial in part] for part in seeds[0].trials] == [[1, 2], [1, 2]]
    assert _compared([1], [1, 2, 3]) == ([1], [1])
    assert _compared([1, 2], [4]) == ([1, 2], [4])
    assert pair[6] == "1, 2"
    summary = summarize(Experiment.read(file), path)
    changed = [{**one.__dict__, "trials": (["other"], one.trials[1])} for one in summary.pairs]
    assert pair_table(replace(summary, pairs=[PairTests(**one) for one in changed])) is None
    # A base of 0 has no relative change, and tests of other metrics than the file's are not shown.
    of_row = {1: pl.DataFrame({"user": [1, 2, 3], "n_relevant": [1, 1, 1], "recall@20": [0.1, 0.2, 0.4]})}
    of_other = {1: of_row[1].with_columns(pl.lit(0.0).alias("recall@20"))}
    [one, *_] = summary.pairs
    trials = (dict(enumerate(part, 1)) for part in one.trials)
    ids = dict(zip((one.row, one.other), trials, strict=True))
    tables = {
        row: dict.fromkeys(ids[row], table) for row, table in ((one.row, of_row[1]), (one.other, of_other[1]))
    }
    run_pair_tests([(one.row, one.other)], tables, ids, ["recall@20"], tmp_path / "zero.jsonl")
    zero = replace(summary, pairs=load_pairs(tmp_path / "zero.jsonl"))
    assert pair_table(zero).texts[0][7:9] == ["–", "0.12"]
    assert pair_table(replace(summary, pairs=[replace(one, metrics={})])) is None
    options = {"training.l2": (0.1, 0.2)}
    marked = replace(summary, rows=[replace(row, other_options=options) for row in summary.rows])
    assert all(line[4].endswith("†") for line in pair_table(marked).texts)

    # What a kill left unfinished is done, what was done is kept.
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    of_tries = tries_path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-2]))
    tries_path(path).write_text("".join(of_tries[:-1]))
    assert command(file, place) == 0
    again = Results(path).records
    assert [record["test"] for record in again.values()] == [record["test"] for record in records.values()]
    assert Results(tries_path(path)).records.keys() == tried.keys()
    written = path.read_text(encoding="utf-8")
    assert command(file, place) == 0
    assert path.read_text(encoding="utf-8") == written, "nothing was left to do"

    # A test over two seeds is not replaced by one over the seed whose values are left; Holm's correction is over all.
    before = load_tests(path)
    for record in [one for one in records.values() if one["cell"]["run"]["alignment"] == "none"][-1:]:
        assert record["cell"]["run"]["seed"] == 2
        (place.trial(record["id"]) / "test.parquet").unlink()
    first = next(iter(before))
    save_tests(path, {row: metrics for row, metrics in before.items() if row != first})
    run_tests(Experiment.read(file), path, TrialInputs(place))
    tests = load_tests(path)
    assert {row: tests[row]["recall@20"]["difference"] for row in tests} == {
        row: before[row]["recall@20"]["difference"] for row in before
    }
    found = [metrics["recall@20"] for metrics in tests.values()]
    assert [one["p_holm"] for one in found] == holm([one["p_t"] for one in found]).tolist()

    # Tries of other options or of another split are no cost of the rows that are shown.
    for number, (part, name, value) in enumerate((("backbone", "layers", 9), ("data", "dataset", "another"))):
        for one in tried.values():
            cell = {**one["cell"], part: {**one["cell"][part], name: value}}
            Results(tries_path(path)).append({**one, "id": f"{number} {one['id']}", "cell": cell})
    counts = [len(found) for found in summarize(Experiment.read(file), path).tries.values()]
    assert counts == [2, 2]


def test_groups_and_what_is_not_measured_are_in_the_tables(file, place, capsys):
    assert command(file, place, "--only", "backbone=popularity,graph-filter") == 0
    tables = capsys.readouterr().out
    assert "| LightGCN | Con | default | none | 8 | – | – | not measured | – |" in tables
    plan = Experiment.read(file)
    path = results_path(place.experiments_path, "small", "blocks")
    summary = summarize(plan, path)
    inputs = TrialInputs(place)
    for row in summary.rows:
        folder = place.trial(row.records[0]["id"])
        ranking = evaluate(Recommender.load(folder / "recommender").scorer(), inputs.dataset)
        expected = group_metrics(ranking, inputs.dataset)
        assert row.records[0]["groups"] == pytest.approx(expected)
        users = {
            user: set(inputs.dataset.test.items[inputs.dataset.test.users == user].tolist())
            for user in ranking.users
        }
        recalls = np.array(
            [
                len(users[user] & set(items.tolist())) / len(users[user])
                for user, items in zip(ranking.users, ranking.items, strict=True)
            ]
        )
        degrees = inputs.dataset.train.user_degrees()[ranking.users]
        assert expected["sparse"] == pytest.approx(recalls[degrees <= np.median(degrees)].mean())
        assert expected["active"] == pytest.approx(recalls[degrees > np.median(degrees)].mean())
    groups, cost = detail_tables(summary)
    assert len(groups.rows) == len(cost.rows) == len(summary.rows) == 4
    counts = [line[5] for line in cost.texts]
    assert counts[0] == "–", "popularity has nothing to choose"
    assert all(int(count) > 10 for count in counts[1:])
    # Seeds that choose differently: the value and the count of each, in the order of the seeds.
    row = summary.rows[1]
    fits = [
        {"tries": tries, "chosen": {"rank": rank, "ridge": 1.0}}
        for tries, rank in ((24, 8), (24, 96), (20, None))
    ]
    records = [
        {**row.records[0], "fit": fit, "cell": {**row.records[0]["cell"], "run": {"seed": seed}}}
        for seed, fit in zip((3, 1, 2), fits, strict=True)
    ]
    by_seed = detail_tables(replace(summary, rows=[replace(row, records=records)]))[-1].texts[0]
    assert by_seed[5:7] + by_seed[8:] == ["24/20/24", "in the fit", "rank 96/–/8, ridge 1"]


def test_a_workspace_without_text_leaves_out_what_needs_it(file, place, capsys):
    place.text_embeddings_path().unlink()
    assert command(file, place, "--only", "backbone=graph-filter") == 0
    assert "2 of 3 trials need text embeddings" in capsys.readouterr().out
    records = read_trial_records(results_path(place.experiments_path, "small", "blocks"))
    assert [record["cell"]["data"]["semantics"] for record in records] == [None]


def test_the_plan_says_what_is_left_and_how_long_it_may_take(file, place, capsys):
    def planned(*more):
        capsys.readouterr()
        assert command(file, place, "--dry-run", "--json", *more) == 0
        return json.loads(capsys.readouterr().out)

    fresh = planned()
    assert not place.experiments_path.exists(), "nothing is written"
    assert [(row["backbone"], row["trainings"]) for row in fresh["rows"]] == [
        ("popularity", 2), ("graph filter", 1), ("graph filter", 1), ("graph filter", 1), ("LightGCN", 4),
        ("LightGCN", 4),
    ]  # fmt: skip
    assert fresh["left"] == 13
    assert all(row["seconds"] is None for row in fresh["rows"])
    assert command(file, place, "--only", "alignment=none") == 0
    later = planned()
    assert [row["left"] for row in later["rows"]] == [0, 0, 0, 0, 0, 4]
    of_base = Results(results_path(place.experiments_path, "small", "blocks")).records.values()
    of_tries = Results(tries_path(results_path(place.experiments_path, "small", "blocks"))).records.values()
    expected = sum(
        2 * np.mean([one["seconds"] for one in records if one["cell"]["run"]["backbone"] == "lightgcn"])
        for records in (of_base, of_tries)
    )
    assert later["seconds"] == pytest.approx(expected)
    longer = planned("--set", "epochs=400")
    assert [row["left"] for row in longer["rows"]] == [0, 0, 0, 0, 2, 4]
    assert [row["seconds"] for row in longer["rows"][4:]] == [None, None], (
        "4 epochs do not tell how long 400 take"
    )


@pytest.mark.parametrize(
    ("early", "late", "left"), [((0.1, 0.12), (0.2, 0.21), "50 %"), ((0.1, 0.09), (0.2, 0.21), "–")]
)
def test_what_is_left_of_a_gain(early, late, left):
    base, mine = ([((0, early[who]), (9, late[who]))] for who in range(2))
    assert _gain_left(mine, base) == left


def test_without_validation_nothing_is_chosen(file, place, call, tmp_path):
    dataset = place.dataset()
    dataset = replace(dataset, valid=dataset.valid.take(np.empty(0, np.int64)))
    empty = Workspace(tmp_path / "empty")
    dataset.save(empty.dataset_path)
    sweep = tmp_path / "few.toml"
    sweep.write_text('backbones = ["graph-filter"]\nalignments = ["none"]\n[grid]\nneighbours = [0, 10]\n')
    for command in (("experiment", file, "--only", "backbone=lightgcn"), ("sweep", sweep)):
        code, _, err = call(*command, "-w", empty.path)
        assert code == 2
        assert "the validation split of 'blocks' is empty" in " ".join(err.split())


def test_unequal_budgets_are_refused(place, tmp_path):
    values = {"title": "x", "metrics": ["recall@20"], "rows": ["backbone"], "seeds": 1}
    more = {"backbone": ["mf"], "tries": [{"l2": 1e-6}, {"l2": 1e-5}]}
    for other in ({}, {"tries": [{"l2": 1e-6}]}):
        count = len(other.get("tries", ()))
        for part, name in (
            ({"backbone": ["sgl"]}, "sgl with none"),
            ({"backbone": ["mf"], "alignment": ["contrastive"]}, "mf with contrastive"),
        ):
            with pytest.raises(
                ConfigError, match=rf"numbers of tries.*\(2 for mf with none; {count} for {name}\)"
            ):
                Experiment("x", {**values, "grid": [more, {**part, **other}, more]})
    Experiment("x", {**values, "grid": [more, {"backbone": ["ease", "semantic-only"]}]})
    # A file may come from somebody else: to read it runs no code, to run it does.
    (tmp_path / "mine.py").write_text("from rlmrec.backbones import MF\nclass Mine(MF): ...\n")
    own = Experiment("x", {**values, "grid": [more, {"backbone": [f"{tmp_path}/mine.py:Mine"]}]})
    assert MODELS.known(f"{tmp_path}/mine.py:Mine") is None
    with pytest.raises(ConfigError, match=r"numbers of tries.*; 0 for .*mine.py:Mine with none"):
        own.methods(TrialInputs(place), "general", {})
    for pairs in ([{"rows": {}}], [{"rows": {"backbone": "MF"}, "with": "SGL"}], [{"row": {}, "with": {}}]):
        with pytest.raises(ConfigError, match="among pairs, expected a list of tables such as"):
            Experiment("x", {**values, "pairs": pairs, "grid": [more]})
    with pytest.raises(ConfigError, match="pairs has variant, expected some of backbone"):
        Experiment("x", {**values, "pairs": [{"rows": {"variant": "Con"}, "with": {}}], "grid": [more]})
    with pytest.raises(ConfigError, match="tries = 3 of a grid, expected a list of tables"):
        Experiment("x", {**values, "grid": [{"tries": 3}]})


def test_the_budget_of_strong_is_equal_and_no_option_is_mistyped(place):
    stages, lacking = grid("strong").methods(TrialInputs(place), "general", {})
    assert not lacking
    methods = [method for stage in stages for method in stage]
    for method in methods:
        spec = method.runs[0][0].spec
        closed = spec.backbone in RECOMMENDERS
        assert len(method.tries) == (0 if closed else 4)
        assert len({trial.id for trial in method.tries}) == len(method.tries), "no option is tried twice"
        assert len(method.runs) == max(1, len(method.tries))
        if not closed:
            assert {trial.spec.training.patience for trial in method.tries} == {5}
            assert {trial.spec.training.patience for run in method.runs for trial in run} == {25}
            assert [trial.seed for trial in method.runs[0]] == [1, 2, 3]
    for trials in (
        [trial for method in methods for trial in method.tries],
        [trial for method in methods for run in method.runs for trial in run],
    ):
        labels = told_apart(trials)
        assert len(set(labels.values())) == len(labels) == len({trial.id for trial in trials})
    assert labels[methods[0].runs[0][0].id] == "popularity, none, seed 1", (
        "nothing is added where nothing differs"
    )
    rows = [grid("strong").row(method.runs[0][0].as_dict()) for method in methods]
    assert rows == list(dict.fromkeys(rows)), "no row twice"
    assert set(rows) == set(grid("strong").known_rows)


def test_only_knows_the_columns_variant_and_dimension(place):
    told = []

    def rows(**only):
        told.clear()
        stages, _ = grid("strong").methods(TrialInputs(place), "general", {}, only=only, tell=told.append)
        return {grid("strong").row(method.runs[0][0].as_dict()) for stage in stages for method in stage}

    every = rows()
    assert rows(dimension=["128"]) == {row for row in every if row[4] == "128"}
    two = rows(variant=["Distilled, softmax", "Con"], dimension=["32"], backbone=["lightgcn", "mf"])
    assert two <= every
    assert {(row[0], row[4]) for row in two} == {("LightGCN", "32")}
    assert told == ["no trial with backbone=mf has all of --only: none of these is run"]
    variants = sorted(row[1] for row in two)
    assert variants == ["Con", *3 * ["Distilled, softmax"]], "with text, without, with shuffled text"
    assert rows(backbone=["graph-filter", "lightgcn"], dimension=["32"]) < every
    assert told == ["no trial with backbone=graph-filter has all of --only: none of these is run"]
    rows(backbone=["ease", "lightgcn"], dimension=["128"], variant=["Con", "Distilled + Con, softmax"])
    left = "backbone=ease; variant=Distilled + Con, softmax"
    assert told == [f"no trial with {left} has all of --only: none of these is run"]
    plan = Experiment("x", {**grid("strong").values, "against": {"variant": "base"}})
    with pytest.raises(ConfigError, match=r"but no row: expected one of Base; Con; .*; Distilled, softmax; "):
        plan.methods(TrialInputs(place), "general", {}, only={"backbone": ["ease"]})
    for wrong, message in (
        (
            {"variant": ["Cox"]},
            "strong has no 'Cox' there; expected Base; Con; Gen; softmax; sl@k; Distilled",
        ),
        ({"dimension": ["128"], "backbone": ["mf"]}, "strong has no '128' there; expected 32"),
        ({"dimension": ["128"], "variant": ["sl@k"]}, "strong has no trial with all of --only"),
    ):
        with pytest.raises(ConfigError, match=message):
            rows(**wrong)


def test_the_mistyped_option_of_a_grid_is_named(place):
    values = {"title": "x", "metrics": ["recall@20"], "rows": ["backbone"], "seeds": 1}
    plan = Experiment("x", {**values, "grid": [{"tries": [{"layer": 2}]}]})
    with pytest.raises(ConfigError, match="no trial of x has an option layer"):
        plan.methods(TrialInputs(place), "general", {})
    only = {"backbone": ["mf"]}
    plan = Experiment("x", {**values, "grid": [{"backbone": ["mf", "lightgcn"], "options": {"layers": 2}}]})
    ((method,),) = plan.methods(TrialInputs(place), "general", {}, only=only)[0]
    assert method.runs[0][0].spec.backbone == "mf", "layers is an option of the other backbone of the grid"
    start = {"start": ["distilled"], "options": {"spread": 0.2}}
    ((method,),) = Experiment("x", {**values, "grid": [start]}).methods(TrialInputs(place), "general", {})[0]
    assert method.runs[0][0].start.spec.alignment_config.spread == 0.2
    plan = Experiment("x", {**values, "grid": [{"backbone": ["mf", "lightgcn"], "tries": [{"layer": 2}]}]})
    with pytest.raises(ConfigError, match="no trial of x has an option layer"):
        plan.methods(TrialInputs(place), "general", {}, only=only)


@pytest.mark.parametrize("name", ["table1", "figure4", "figure5", "table3"])
def test_ids_of_stored_trials_are_unchanged(name):
    records = [record for path in (STORED / name).glob("*.jsonl") for record in read_trial_records(path)]
    assert records
    for record in records:
        cell = record["cell"]
        assert identity(cell) == record["id"]
        if cell["run"]["backbone"] == "semantic-only" or cell["start"] is not None:
            continue
        data, timed = cell["data"], cell["timing"]
        period, _, by_user = data["period"].partition(", ")
        trial = Trial(
            RunSpec.from_dict(cell), data["dataset"], data["texts"], data["semantics"], data["shuffle"],
            data["noise"], period, timing=timed, cut="per-user" if by_user else "global",
        )  # fmt: skip
        assert trial.id == record["id"], json.dumps(cell)


def test_the_stopping_rule_on_a_curve_is_that_of_training():
    dataset, _ = blocks()
    options = {"epochs": 60, "evaluate_every": 1, "learning_rate": 0.05, "batch_size": 64}

    def trained(patience):
        import torch

        from rlmrec.backbones import LightGCN

        torch.manual_seed(0)
        backbone = LightGCN(dataset.n_users, dataset.n_items)
        return train(backbone, None, dataset, {**options, "patience": patience}, progress=False)

    long = trained(60)
    curve = [(epoch["epoch"], epoch["valid"]["recall@20"]) for epoch in long.epochs]
    for patience in (1, 3):
        short = trained(patience)
        assert stop(curve, patience) == (short.best_epoch, pytest.approx(short.best))
    assert stop(curve, 60) == (long.best_epoch, pytest.approx(long.best))
