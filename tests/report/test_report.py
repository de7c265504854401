"""The report: what it says, what it leaves out, and how a browser shows it."""

import itertools
import json
import re
import shlex
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from sklearn.neighbors import NearestNeighbors

from rlmrec.cli import main
from rlmrec.config import parse_settings
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.evaluation.compare import SHOWN_METRICS
from rlmrec.evaluation.groups import head_mid_tail
from rlmrec.evaluation.significance import compare_tables, holm
from rlmrec.experiments.results import Results, results_path
from rlmrec.experiments.run import run
from rlmrec.experiments.spec import RunSpec
from rlmrec.experiments.trial import Trial, TrialInputs, run_trial
from rlmrec.files import write_json_lines
from rlmrec.llm.base import Completion, Usage
from rlmrec.llm.store import Profile, Store
from rlmrec.paper.grids import grid as paper_grid
from rlmrec.paper.grids import grids
from rlmrec.paper.sections import SECTIONS
from rlmrec.report import accuracy, maps, record
from rlmrec.report import write_report as write
from rlmrec.report.blocks import Options
from rlmrec.report.charts import Series, bars, lines, scatter
from rlmrec.report.collect import Group, Run, collect
from rlmrec.report.experiments import summaries_of
from rlmrec.report.maps import item_classes, neighbour_agreement
from rlmrec.testing import blocks
from rlmrec.workspace import Workspace

HOSTILE = (
    '</script><script>alert(1)</script><img src="https://x.invalid/a.png" onerror=alert(2)> $x_$ {{ 7*7 }}'
)
OPTIONS = {"epochs": 4, "learning_rate": 0.01, "batch_size": 256, "embedding_size": 8}
EVERYTHING = ["conclusion", "data", "results", "who-gains", "training", "noise", "ablation", "tables", "maps",
              "case", "rerank", "theory", "profiles", "costs", "repeat"]  # fmt: skip


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A workspace with everything a report can show, its texts written by somebody who means no good."""
    place = Workspace(tmp_path_factory.mktemp("full") / "w")
    dataset, text_embeddings = blocks()
    genres = [["Drama", "Comedy", HOSTILE][row // 15] + ", War" for row in range(dataset.n_items)]
    titles = [f"Title {row} {HOSTILE if row % 7 == 0 else ''}" for row in range(dataset.n_items)]
    texts = pl.DataFrame({"title": titles, "genres": genres})
    dataset = Dataset(
        HOSTILE, dataset.train, dataset.valid, dataset.test, dataset.users, dataset.items, texts,
        provenance={"source": HOSTILE, "k_core": None},
    )  # fmt: skip
    dataset.save(place.dataset_path)
    text_embeddings.save(place.text_embeddings_path())
    for name, alignment, seed in (
        ("base-seed1", "none", 1), ("base-seed2", "none", 2), ("con", "contrastive", 1), ("gen", "generative", 1)
    ):  # fmt: skip
        run(
            RunSpec.resolve("lightgcn", alignment, seed=seed, options=OPTIONS),
            dataset,
            text_embeddings,
            place.run(name),
        )
    for trial in grid(place):
        line = run_trial(trial, TrialInputs(place))
        name = "figure5" if trial.shuffle == "none" else "figure4"
        Results(results_path(place.experiments_path, name, "x")).append(line)
    with Store(place.path / "profiles.sqlite") as store:
        store.put_answer("h", HOSTILE, {}, Completion("x", Usage(1_000_000, 500_000)))
        for kind, keys in (("item", dataset.items.ids[:9]), ("user", dataset.users.ids[:4])):
            for key in keys:
                store.put_profile(
                    Profile(
                        kind, key, f"Likes {HOSTILE}", f"Because {HOSTILE}", "h", notes=(HOSTILE,),
                        dataset=dataset.content,
                    )
                )  # fmt: skip
        store.put_profile(
            Profile(
                "user", "u7", None, None, "h", error="bad", error_kind="malformed", dataset=dataset.content
            )
        )
    write_experiments(place)
    return place


def grid(place):
    """Figures 4 and 5 in small: two seeds with noise and without, and shuffled vectors."""
    wanted = {"alignment": ["none", "contrastive"], "noise": ["0", "0.25"]}
    inputs = TrialInputs(place)
    trials, _ = paper_grid("figure5").trials(inputs, "general", OPTIONS, seeds=2, only=wanted)
    only = {"backbone": ["lightgcn"], "alignment": ["contrastive"], "shuffle": ["users", "both"]}
    shuffled, _ = paper_grid("figure4").trials(inputs, "general", OPTIONS, seeds=1, only=only)
    return [*trials, *shuffled]


def write_experiments(place):
    rows = [
        {"critic": critic, "n": n, "information": i, "bound": min(i, np.log(n)) - 0.1, "standard_error": 0.01}
        for critic in ("trained", "exact") for i in (0.5, 2.0) for n in (4, 64)
    ]  # fmt: skip
    store_lines(place, "theorem2", [{**row, "config": {"seed": 0}} for row in rows])
    model = {"relevance": -0.25, "median_rank": 3.0, "rank_percentile": 0.25}
    against = {"rank_percentile": {"difference": -0.05, "p_wilcoxon": 0.001}}
    kind = {
        "models": {"base": model, "con": model},
        "against_base": {"con": against},
        "share_a_test_item": 0.5,
    }
    example = {"users": ["u1", HOSTILE], "items": [[HOSTILE], ["b"]], "agreement": 0.9, "distant_users": 40,
               "relevance": {"base": -0.1}, "rank": {"base": 2.0}}  # fmt: skip
    case = {
        "hops": 3,
        "median_distant_users": 40.0,
        "kinds": {"agreeing": kind, "random": kind},
        "examples": [example],
    }
    store_lines(place, "figure6", [case])
    metrics = {f"{metric}@{k}": 0.125 for metric in ("recall", "ndcg") for k in (10, 20)}
    figure1 = {"run": "base", "llm": {"name": HOSTILE}, "config": {"candidates": 40, "shuffle": False}, "users": 50,
               "metrics": dict.fromkeys(("before", "after", "filled"), metrics), "hallucination_rate": 0.47,
               "answers_with_hallucination": 0.76,
               "seconds_per_user": 3.6, "failed": {}, "against_before": {}}  # fmt: skip
    store_lines(place, "figure1", [figure1])


def store_lines(place, name, lines):
    whole = [
        {"id": str(number), "status": "done", "dataset": "w", **line} for number, line in enumerate(lines)
    ]
    path = results_path(place.experiments_path, name, "w")
    path.parent.mkdir(parents=True)
    write_json_lines(path, whole)


def write_report(place, path, runs=None, **options):
    return write(place, path, runs, experiments=grids(), sections=SECTIONS, **options)


@pytest.fixture(scope="module")
def page(full):
    assert write_report(full, full.path / "report.html") == []
    return full.path / "report.html"


class Tags(HTMLParser):
    """Elements with their attributes, and ids; knows whether every element was closed."""

    VOID = frozenset({"meta", "link", "br", "img"})

    def __init__(self, text):
        super().__init__()
        self.seen, self.open, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def sections(text):
    return [attributes["id"] for tag, attributes in Tags(text).seen if tag == "section"]


def test_everything_has_its_section_and_every_link_its_end(page):
    text = page.read_text()
    assert sections(text) == EVERYTHING
    tags = Tags(text)
    ids = Counter(attributes["id"] for _, attributes in tags.seen if "id" in attributes)
    links = {
        value for _, attributes in tags.seen for name, value in attributes.items() if name.endswith("href")
    }
    assert all(link == "data:," or ids[link[1:]] == 1 for link in links)
    assert max(ids.values()) == 1


def test_nothing_is_loaded_and_no_text_becomes_markup(page):
    text = page.read_text()
    tags = Tags(text)
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in tags.seen}
    assert not [
        name for _, attributes in tags.seen for name in attributes if name.startswith("on") or name == "src"
    ]
    assert not re.search(r"@import|url\((?!#)", text)
    assert "".join(tags.text).count(HOSTILE) > 20  # shown as it is, no mathematics, no template


def test_the_results_are_those_of_the_runs(full, page):
    inputs = collect(full)
    base, _, gen = inputs.groups
    assert [run.name for run in base.runs] == ["base-seed1", "base-seed2"]
    values = [
        json.loads((full.run(f"base-seed{n}") / "metrics.json").read_text())["test"]["ndcg@10"]
        for n in (1, 2)
    ]
    assert base.mean("ndcg@10") == pytest.approx(np.mean(values))
    assert base.table["ndcg@10"].mean() == pytest.approx(np.mean(values))
    text = page.read_text()
    assert f"{np.mean(values):.4f} ±{np.std(values, ddof=1):.4f}" in text
    found = [
        compare_tables(group.table, base.table, metric)
        for group in inputs.groups[1:]
        for metric in SHOWN_METRICS
    ]
    corrected = holm([one.p_t for one in found])
    place = len(SHOWN_METRICS)  # those of Con come before
    change = f"{100 * found[place].relative:+.1f} %".replace("-", "−") + "*" * bool(corrected[place] < 0.05)
    assert f"{gen.mean('recall@5'):.4f}\n({change})" in text


def test_a_gain_is_that_against_the_base_of_the_same_options(full, tmp_path):
    place = copy_of(full, tmp_path)
    inputs = TrialInputs(place)

    def trained(name, alignment="none", seed=1, **options):
        spec = RunSpec.resolve("lightgcn", alignment, seed=seed, options={**OPTIONS, **options})
        run(spec, inputs.dataset, inputs.text_embeddings("default"), place.run(name))

    trained("a-base", epochs=1)  # before the other base by its name
    found = collect(place)
    groups = {group.name: group for group in found.groups}
    assert found.base_of(groups["con"]) is groups["base"]
    assert found.base_of(groups["base"]) is found.base_of(groups["a-base"]) is None
    assert "Options that differ" not in accuracy.results(found, Options()).blocks[0].note
    trained("con-2", "contrastive", epochs=2, layers=1)
    trained("b-base", epochs=1, layers=1)
    found = collect(place)
    groups = {group.name: group for group in found.groups}
    assert found.base_of(groups["con-2"]).name == "b-base", "it differs in one option, the others in two"
    told = "Options that differ, so that a change is not due to text alone: b-base | con-2: epochs 1 | 2."
    assert told in accuracy.results(found, Options()).blocks[0].note
    bases = [(base.name, [group.name for group in mine]) for base, mine in found.by_base("lightgcn")]
    assert bases == [("base", ["con", "gen"]), ("b-base", ["con-2"])]
    write_report(place, tmp_path / "report.html")


def test_groups_and_closed_forms_are_called_by_what_they_are(full, tmp_path):
    place = copy_of(full, tmp_path)
    dataset, vectors = place.dataset(), place.text_embeddings(place.dataset())
    for seed in (0, 1):
        spec = RunSpec.resolve("mf", seed=seed, options={**OPTIONS, "epochs": 1})
        run(spec, dataset, None, place.run(f"c12-{seed}"))
    options = {
        "rank": 4,
        "neighbours": 0,
        "text_weight": 0.3,
        "user_text_weight": 0.0,
        "popularity_weight": 0.0,
    }
    for name, weight in (("with", 0.3), ("without", 0.0)):
        spec = RunSpec.resolve("graph-filter", options={**options, "text_weight": weight})
        run(spec, dataset, vectors, place.run(name), text_embeddings_name="default")
    inputs = collect(place)
    names = {run.name: group.name for group in inputs.groups for run in group.runs}
    assert names["c12-0"] == names["c12-1"] == "c12"
    assert (names["with"], names["without"]) == ("with (text: default)", "without (no text)")
    by_name = {group.name: group for group in inputs.groups}
    with_text = by_name["with (text: default)"]
    assert inputs.base_of(with_text) is by_name["without (no text)"]
    assert inputs.base_of(by_name["without (no text)"]) is None
    assert accuracy.differences_from_bases(inputs, [with_text]) == "", "text is what they differ in"
    [table] = [
        block for block in record.costs(inputs, Options()).blocks if getattr(block, "anchor", "") == "t-costs"
    ]
    [row] = [dict(zip(table.columns, row, strict=True)) for row in table.texts if row[0] == with_text.name]
    assert (row["s/epoch"], row["epochs"]) == ("–", "–")
    assert row["s of training"] != "–"


def test_head_and_tail_have_a_fifth_each():
    popularity = np.random.default_rng(0).zipf(1.6, 500)
    groups = head_mid_tail(popularity)
    shares = [popularity[groups == number].sum() / popularity.sum() for number in range(3)]
    assert shares[0] >= 0.2
    assert shares[2] <= 0.2
    assert popularity[groups == 0].min() >= popularity[groups == 1].max()
    assert popularity[groups == 1].min() >= popularity[groups == 2].max()
    assert head_mid_tail(np.zeros(3, np.int64)).tolist() == [0, 0, 0]  # nobody knows: nothing is a tail


def test_recall_by_popularity_against_counting(full):
    inputs = collect(full)
    base, con = inputs.groups[:2]
    blocks_made = accuracy._by_popularity(inputs, inputs.dataset, base, [con])
    ranking = inputs.ranking(con)
    groups = head_mid_tail(inputs.dataset.train.item_degrees())
    expected = []
    for number in range(3):
        recalls = []
        for place, user in enumerate(ranking.users):
            mine = inputs.dataset.test.items[inputs.dataset.test.users == user]
            wanted = {int(item) for item in mine if groups[item] == number}
            if wanted:
                recalls.append(len(wanted & set(ranking.items[place].tolist())) / len(wanted))
        expected.append(f"{np.mean(recalls):.4f}")
    assert blocks_made[-1].texts[1][1:] == expected


def test_neighbours_against_scikit_learn():
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((80, 5)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    classes = rng.integers(4, size=80)
    nearest = NearestNeighbors(n_neighbors=11).fit(directions).kneighbors(return_distance=False)[:, 1:]
    known = classes < 3
    own = NearestNeighbors(n_neighbors=10).fit(directions).kneighbors(return_distance=False)
    assert nearest.shape == own.shape  # without X a point is not its own neighbour
    expected = (classes[own[known]] == classes[known, None]).mean()
    assert neighbour_agreement(directions, classes, 3) == pytest.approx(expected)
    zeros = np.zeros((40, 5), np.float32)  # of items without a text
    with_gaps = neighbour_agreement(
        np.concatenate([zeros, directions]), np.concatenate([classes[:40], classes]), 3
    )
    assert with_gaps == pytest.approx(expected)
    assert neighbour_agreement(zeros, classes[:40], 3) == 0


def of_cell(full, trial):
    return json.loads((full.trial(trial.id) / "metrics.json").read_text())["test"]["recall@20"]


def test_maps_before_and_after_share_their_plane(full, monkeypatch):
    """A rotation of all vectors changes nothing; vectors of other items keep next to none of their neighbours."""
    inputs, drawn = collect(full), {}
    base, con, _ = inputs.groups
    monkeypatch.setattr(
        maps, "scatter", lambda title, points, *rest, **more: drawn.update({title: (points, more)})
    )
    vectors = np.random.default_rng(0).normal(size=(inputs.dataset.n_items, 8)).astype(np.float32)
    turned = vectors @ np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0].astype(np.float32)

    def drawn_with(aligned):
        spaces = {base.name: vectors, con.name: aligned}
        monkeypatch.setattr(
            inputs,
            "recommender",
            lambda group: (
                SimpleNamespace(items=spaces[group.name], unit_items=spaces[group.name])
                if group.name in spaces
                else None
            ),
        )
        drawn.clear()
        maps.maps(inputs, Options())
        before, after, changed = (drawn[title] for title in list(drawn)[-3:])
        return before[0], after[0], changed[1]

    before, after, changed = drawn_with(turned)
    assert after == pytest.approx(before, abs=1e-4)
    assert "keeps 100 %" in changed["note"]
    assert np.isfinite(changed["moved"]).all()  # fewer items than arrows
    _, after, changed = drawn_with(np.random.default_rng(2).normal(size=vectors.shape).astype(np.float32))
    assert after != pytest.approx(before, abs=0.1)
    kept = float(re.search(r"keeps (\d+) %", changed["note"])[1])
    assert kept == pytest.approx(100 * 10 / (inputs.dataset.n_items - 1), abs=8)  # by chance


def test_noise_is_held_against_the_same_cells_without_it(full, monkeypatch):
    drawn = {}
    monkeypatch.setattr(accuracy, "lines", lambda title, series, *_, **__: drawn.setdefault(title, series))
    accuracy.noise(collect(full), Options())
    level, drop = drawn.values()
    assert [(one.name, one.x) for one in level] == [("base", [0, 25]), ("con", [0, 25])]
    for one, alignment in zip(level, ("none", "contrastive"), strict=True):
        expected = [
            np.mean([of_cell(full, trial) for trial in grid(full)
                     if (trial.spec.alignment, trial.noise, trial.shuffle) == (alignment, ratio, "none")])
            for ratio in (0, 0.25)
        ]  # fmt: skip
        assert one.y == pytest.approx(expected)
    assert drop[1].y == pytest.approx([0, 100 * (level[1].y[1] / level[1].y[0] - 1)])


def test_a_curve_of_noise_has_the_same_seeds_at_every_point(full, tmp_path, monkeypatch):
    place = copy_of(full, tmp_path)
    of_seed_2 = [
        trial for trial in grid(full) if trial.noise and trial.seed == 2 and trial.spec.alignment == "none"
    ]
    shutil.rmtree(place.trial(of_seed_2[0].id))
    drawn = {}
    monkeypatch.setattr(accuracy, "lines", lambda title, series, *_, **__: drawn.setdefault(title, series))
    accuracy.noise(collect(place), Options())
    [base, con], _ = drawn.values()
    alone = [
        trial
        for trial in grid(full)
        if trial.seed == 1 and trial.spec.alignment == "none" and trial.shuffle == "none"
    ]
    assert base.y == pytest.approx(
        [of_cell(full, trial) for trial in sorted(alone, key=lambda trial: trial.noise)]
    )
    assert len(con.y) == 2


def test_what_was_run_twice_counts_once(full, tmp_path):
    place = copy_of(full, tmp_path)
    shutil.copytree(place.run("con"), place.run("con-again"))
    metrics = json.loads((place.run("con-again") / "metrics.json").read_text())
    metrics["config"]["run"]["preset"] = "another.toml"  # of which the options are the same
    (place.run("con-again") / "metrics.json").write_text(json.dumps(metrics))
    shutil.copytree(place.run("con"), place.run("live"))
    final = {**metrics, "test": None, "valid": None}
    final["config"] = {**metrics["config"], "data": {**metrics["config"]["data"], "final": True}}
    (place.run("live") / "metrics.json").write_text(json.dumps(final))
    inputs = collect(place)
    assert [len(group.runs) for group in inputs.groups] == [len(group.runs) for group in collect(full).groups]
    assert "run live: trained on everything (--final), so it has no test figure" in inputs.left_out
    assert "run con-again: run con has the same options and seed, and counts once" in inputs.left_out


def test_an_option_of_zero_is_another_option_than_one_left_open(tmp_path):
    def of(weight, noise):
        config = {
            "run": {"backbone": "graph-filter"},
            "backbone": {"text_weight": weight},
            "data": {"noise": noise},
        }
        return Run("one", tmp_path, {"config": config}).kind

    assert of(0.0, None) != of(None, None)
    assert of(0.0, None) == of(0.0, 0.0)


def test_the_commands_repeat_what_was_run(full):
    section = record.repeat(collect(full), Options())
    trained = {run.name: run for group in collect(full).groups for run in group.runs}
    trials = {trial.id: trial for trial in grid(full)}
    asked = set()
    for block in section.blocks[1:]:
        for command in block.text.split("\n\n")[0].splitlines():
            if not command.startswith("rlmrec "):
                continue  # of the dataset and the vectors
            _, what, *words = shlex.split(command)
            given = {
                name: [v for n, v in itertools.pairwise(words) if n == name]
                for name in words
                if name[:2] == "--"
            }
            assert words[words.index("-w") + 1] == full.path.name
            options = parse_settings(given["--set"])
            if what == "train":
                [backbone], [alignment], [seed] = given["--backbone"], given["--alignment"], given["--seed"]
                spec = RunSpec.resolve(backbone, alignment, given["--preset"][0], int(seed), options)
                if "--name" in given:
                    config = trained[given["--name"][0]].config
                    assert all(spec.as_dict()[part] == config[part] for part in spec.as_dict())
                continue
            only = {}
            for one in given["--only"]:
                axis, _, values = one.partition("=")
                only[axis] = values.split(",")
            plan = paper_grid(words[0])
            [trial], _ = plan.trials(
                TrialInputs(full), given["--preset"][0], options, seeds=int(given["--seeds"][0]), only=only
            )
            asked.add(trial.id)
    assert asked == {trial.id for trial in trials.values() if trial.noise or trial.shuffle != "none"}


def test_shuffled_vectors_are_an_ablation(full, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        accuracy, "bars", lambda title, names, series, *_, **__: drawn.setdefault(title, (names, series))
    )
    accuracy.ablation(collect(full), Options())
    [(names, series)] = drawn.values()
    assert names == ["con", "both shuffled", "users shuffled"]
    shuffled = {trial.shuffle: of_cell(full, trial) for trial in grid(full)}
    base = json.loads((full.run("base-seed1") / "metrics.json").read_text())["test"][
        "recall@20"
    ]  # their seed
    changes = [100 * (shuffled[kind] / base - 1) for kind in ("both", "users")]
    assert series[0].y[1:] == pytest.approx(changes)
    assert all(
        low <= y <= high for one in series for low, y, high in zip(one.low, one.y, one.high, strict=True)
    )
    # A run of another seed is not compared with them.
    inputs = collect(full)
    alone = inputs.shuffled[0]
    cell = json.loads(json.dumps(alone.first.trial))
    cell["cell"]["run"]["seed"] = 5
    inputs.shuffled[0] = replace(alone, runs=(replace(alone.first, trial=cell),))
    drawn.clear()
    accuracy.ablation(inputs, Options())
    assert [len(names) for names, _ in drawn.values()] == [2]
    assert inputs.left_out == [f"{alone.name}: no seed in common with con, so their texts are not compared"]
    # Vectors of the same name that are not the same ones are called by their runs.
    inputs = collect(full)
    con = next(group for group in inputs.groups if group.name == "con").first
    metrics = [json.loads(json.dumps(con.metrics)) for _ in range(2)]
    for one in metrics:
        one["config"]["names"] = {"semantics": "default"}
    metrics[1]["config"]["data"]["texts"] = "others"
    runs = replace(con, metrics=metrics[0]), replace(con, name="con-again", metrics=metrics[1])
    inputs.groups = [Group(one.name, (one,)) for one in runs]
    drawn.clear()
    blocks_made = accuracy.ablation(inputs, Options()).blocks
    assert (
        blocks_made[-1].texts[1][2] == f"{inputs.groups[1].mean('recall@20'):.4f}"
    )  # without a base: as they are
    assert [names for names, _ in drawn.values()] == [["con", "con-again", "both shuffled", "users shuffled"]]


def test_cells_stand_beside_runs_but_no_noise_and_no_trial(full, tmp_path):
    inputs = collect(full)
    assert [group.name for group in inputs.groups] == ["base", "con", "gen"]
    con = inputs.groups[1]
    # Seed 1 is the run, of which the trial is a copy; seed 2 was trained as a trial alone.
    assert [(run.name, run.trial is None) for run in con.runs] == [
        ("con", True),
        ("lightgcn, contrastive, seed 2", False),
    ]
    assert all(run.trial is None for run in inputs.groups[0].runs)
    assert inputs.ranking(inputs.groups[1]) is not None
    # A sweep's trials are no results.
    place = Workspace(tmp_path / "w")
    shutil.copytree(full.path, place.path)
    spec = RunSpec.resolve("lightgcn", "none", seed=1, options={**OPTIONS, "l2": 1e-3})
    trial = Trial(spec, inputs.dataset.fingerprint)
    line = run_trial(trial, TrialInputs(place))
    names = [group.name for group in collect(place).groups]
    assert names == ["base", "lightgcn, none", "con", "gen"]
    Results(place.path / "sweeps" / "s" / "trials.jsonl").append(line)
    assert [group.name for group in collect(place).groups] == ["base", "con", "gen"]
    # Two that are called alike say in what they differ.
    other = Trial(RunSpec.resolve("lightgcn", "none", seed=1, options={**OPTIONS, "l2": 1e-2}), trial.dataset)
    run_trial(other, TrialInputs(place))
    (place.path / "sweeps" / "s" / "trials.jsonl").unlink()
    assert [group.name for group in collect(place).groups][1:3] == [
        "lightgcn, none, l2 = 0.001",
        "lightgcn, none, l2 = 0.01",
    ]
    (place.trial(other.id) / "cell.json").unlink()
    left = collect(place)
    assert [line for line in left.left_out if "its description is missing" in line]


def test_a_trial_on_changed_data_is_no_further_seed_of_a_run(full, tmp_path):
    place = copy_of(full, tmp_path)
    inputs = TrialInputs(place)
    specs = [RunSpec.resolve("popularity", "none", seed=seed) for seed in (1, 2, 3)]
    run(specs[0], inputs.dataset, None, place.run("popular"))
    hidden = Trial(
        specs[1], inputs.dataset.fingerprint, hidden="users"
    )  # other test users than those of the run
    short = Trial(specs[2], inputs.dataset.fingerprint, history=2)  # as many as the run has
    for trial in (hidden, short):
        run_trial(trial, inputs)
    found = collect(place)
    assert [one.name for group in found.groups for one in group.runs if one.backbone == "popularity"] == [
        "popular"
    ]
    assert {group.name for group in found.others} == {hidden.name, short.name}
    experiment_of = {hidden.id: "hidden", short.id: "history"}
    commands = [record.command_of(group.first, "w", experiment_of) for group in found.others]
    for words in ("experiment hidden -w w --seeds 2", "experiment history -w w --seeds 3"):
        assert any(words in command for command in commands)
    for words in ("--only hidden=users", "--only history=2 --only keep=random"):
        assert any(words in command for command in commands)
    write_report(place, tmp_path / "report.html")

    def kind(**data):
        return Run("one", tmp_path, {}, {"cell": {"run": {"backbone": "popularity"}, "data": data}}).kind

    changes = {"noise": 0.1, "shuffle": "users", "period": "later", "history": 2, "hidden": "items"}
    assert len({kind(), *(kind(**{name: value}) for name, value in changes.items())}) == len(changes) + 1


def test_the_table_of_an_experiment_stands_there_as_in_its_markdown(page, full):
    [table] = summaries_of(paper_grid("figure5"), full.experiments_path)
    assert [entry.row for entry in table.rows] == [
        ("0 %", "Base"), ("0 %", "Con"), ("25 %", "Base"), ("25 %", "Con")
    ]  # fmt: skip
    text = page.read_text()
    for entry in table.rows:
        assert f"{entry.mean['recall@20']:.4f} ± {entry.std['recall@20']:.4f}" in text


def test_what_colours_a_map(full):
    dataset = full.dataset()
    label, names, classes = item_classes(dataset)
    assert label == "genres (first named)"
    assert {"Comedy", "Drama"} < set(names)
    assert np.bincount(classes).tolist() == [15, 15, 15]
    with pytest.raises(ConfigError, match="no column 'colour'"):
        item_classes(dataset, "colour")
    plain, _ = blocks()
    assert item_classes(plain)[0] == "popularity"
    sorts = [None, *("cooking" if row % 2 else "crime, old" for row in range(1, dataset.n_items))]
    names = [f"book number {row}" for row in range(dataset.n_items)]
    other = pl.DataFrame({"title": names, "Gattung": sorts}, schema_overrides={"Gattung": pl.String})
    label, found, classes = item_classes(replace(dataset, item_texts=other))
    assert (label, sorted(found)) == ("Gattung (first named)", ["cooking", "crime"])  # whatever it is called
    assert classes[0] == 2  # of no class
    stock = other.with_columns(Lagerbestand=pl.Series(["12", *["sold out"] * (dataset.n_items - 1)]))
    chosen = {"text_columns": ["title", "Gattung"]}
    assert item_classes(replace(dataset, item_texts=stock, provenance=chosen))[0] == label  # not the stock


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        (
            ["text_embeddings", "experiments", "profiles.sqlite"],
            {"tables", "case", "rerank", "theory", "profiles"},
        ),
        (["runs", "trials"], {"conclusion", "results", "who-gains", "training", "noise", "ablation"}),
        (["dataset"], {"data", "who-gains", "maps"}),
    ],
)
def test_what_is_missing_has_no_section(full, tmp_path, missing, gone):
    place = Workspace(tmp_path / "w")
    shutil.copytree(full.path, place.path)
    for name in missing:
        lies = place.path / name
        shutil.rmtree(lies) if lies.is_dir() else lies.unlink()
    assert write_report(place, tmp_path / "r.html") == []
    assert set(sections((tmp_path / "r.html").read_text())) == set(EVERYTHING) - gone


def test_what_is_damaged_is_left_out_and_named(full, tmp_path):
    place = Workspace(tmp_path / "w")
    shutil.copytree(full.path, place.path)
    (place.run("con") / "metrics.json").write_text("{")
    (place.run("gen") / "test.parquet").write_text("no")
    results_path(place.experiments_path, "figure6", "w").write_text("[\n")
    (place.path / "profiles.sqlite").write_text("no database at all, but some text that is long enough")
    place.text_embeddings_path().write_text("no")
    left_out = write_report(place, tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert not {"case", "profiles"} & set(sections(text))
    assert len(left_out) == 5
    assert text.count("Left out:") == 5
    write_report(place, tmp_path / "one.html", ["base-seed1"])
    assert "contrastive" not in (tmp_path / "one.html").read_text()


def test_a_single_test_user_costs_the_tests_alone(tmp_path):
    place = Workspace(tmp_path / "w")
    dataset, texts = blocks()
    dataset = replace(dataset, test=dataset.test.take(dataset.test.users == dataset.test.users[0]))
    dataset.save(place.dataset_path)
    texts = replace(texts, manifest={**texts.manifest, "dataset": dataset.fingerprint})
    for name, alignment in (("base", "none"), ("con", "contrastive")):
        spec = RunSpec.resolve("lightgcn", alignment, options={"epochs": 1, "batch_size": 256})
        run(spec, dataset, texts, place.run(name))
    left_out, text = shown(place, tmp_path)
    assert "con: a single user has test interactions, so nothing is tested" in left_out
    assert "has the best Recall@20 of 2 runs" in text


def test_the_map_of_texts_is_of_the_vectors_that_runs_were_trained_with(full, tmp_path):
    place = copy_of(full, tmp_path)
    dataset, used = place.dataset(), place.text_embeddings(place.dataset())
    place.text_embeddings_path().rename(place.text_embeddings_path("used"))
    used.shuffled(np.random.default_rng(0)).save(place.text_embeddings_path("another"))
    assert collect(place).text_embeddings.digest == used.digest
    # Of what no run read, nothing has to be repeated; of all that runs read there is the command.
    other = used.shuffled(np.random.default_rng(1))
    other.manifest["command"] = "rlmrec encode --name second --encoder tfidf"
    other.save(place.text_embeddings_path("second"))
    run(RunSpec.resolve("graph-filter", options={"text_weight": 0.5}), dataset, other, place.run("by-second"))
    told = {block.title: block.text for block in record.repeat(collect(place), Options()).blocks[1:]}
    assert {"the text embeddings used", "the text embeddings second"} <= told.keys()
    assert "the text embeddings another" not in told
    assert told["the text embeddings second"].startswith(
        f"rlmrec encode --name second --encoder tfidf -w {place.path.name}\n\n"
    )
    assert "command" not in told["the text embeddings second"].partition("\n\n")[2]
    shutil.rmtree(place.run("by-second"))
    place.text_embeddings_path("second").unlink()
    place.text_embeddings_path("used").unlink()
    assert collect(place).text_embeddings.digest == place.text_embeddings(dataset, "another").digest


def shown(place, tmp_path):
    """What the report leaves out, and all that it says."""
    left_out = write_report(place, tmp_path / "r.html")
    return left_out, " ".join(Tags((tmp_path / "r.html").read_text()).text)


def copy_of(full, tmp_path):
    place = Workspace(tmp_path / "w")
    shutil.copytree(full.path, place.path)
    return place


def test_stale_profiles_are_told_from_those_of_this_split(full, page, tmp_path):
    def table(text):
        return re.search(r"words, median\s+(.*?)\s+Written by", text, re.DOTALL)[1].split()

    before = "".join(Tags(page.read_text()).text)
    assert "tale" not in before.replace("stale", "", 1), "the column's name alone"
    assert table(before) == ["items", "45", "9", "0", "0", "8", "users", "60", "4", "1", "0", "8"]
    place = copy_of(full, tmp_path)
    content = full.dataset().content
    with Store(place.profiles_path) as store:
        first = place.dataset().items.ids[0]
        store.put_profile(Profile("item", first, "Of the old split", None, "h", dataset="another"))
        store.put_profile(Profile("item", "sold out", "Nobody's", None, "h", dataset=content))
    left_out, text = shown(place, tmp_path)
    assert left_out == []
    assert table(text)[:6] == ["items", "45", "9", "0", "1", "8"]
    assert "'rlmrec profile --items' with the same options as before" in text
    assert "1 profiles belong to items or users that are not in the dataset" in text
    assert text.count("stale: written for another split") <= 1
    page_of_all = tmp_path / "all.html"
    write_report(place, page_of_all, examples=99)
    assert (
        "".join(Tags(page_of_all.read_text()).text).count("stale: written for another split or other texts; ")
        == 1
    )


def test_what_has_not_ended_is_named(full, tmp_path):
    place = copy_of(full, tmp_path)
    (place.run("con") / "metrics.json").unlink()
    killed = [trial for trial in grid(full) if trial.shuffle != "none"]
    for trial in killed:
        (place.trial(trial.id) / "metrics.json").unlink()
    left_out, text = shown(place, tmp_path)
    assert left_out == [
        "run con has not ended: repeat its command to continue it",
        "2 trials have not ended: repeat the command of their experiment or sweep to continue them",
    ]
    assert all(line in text for line in left_out)
    # A trial that a sweep has pruned has ended.
    record = {"id": killed[0].id, "status": "pruned", "cell": killed[0].as_dict()}
    sweep = place.path / "sweeps" / "s" / "trials.jsonl"
    sweep.parent.mkdir(parents=True)
    write_json_lines(sweep, [record])
    assert shown(place, tmp_path)[0][1:] == [
        "1 trial has not ended: repeat the command of its experiment or sweep to continue it"
    ]


def test_runs_of_other_versions_show_what_they_have(full, tmp_path):
    place = copy_of(full, tmp_path)
    for name, change in (
        ("base-seed1", lambda found: found["test"].pop("coverage@20")),
        ("gen", lambda found: found["test"].pop("recall@5")),
        ("con", lambda found: found.pop("environment")),
    ):
        found = json.loads((place.run(name) / "metrics.json").read_text())
        change(found)
        (place.run(name) / "metrics.json").write_text(json.dumps(found))
    left_out, text = shown(place, tmp_path)
    assert left_out == []
    assert re.search(r"gen\s+LightGCN\s+1\s+–\s+0\.\d{4}", text)
    (place.run("con") / "metrics.jsonl").write_text('{"epoch": 0}\n[]\n')
    assert "line 2 is not the record of an epoch" in write_report(place, tmp_path / "r.html")[0]


@pytest.mark.parametrize(
    "line", [{"id": "a", "status": "done"}, {"id": "a", "status": "failed", "cell": {}}, {"id": 1}]
)
def test_lines_of_something_else_are_left_out_in_words(full, tmp_path, line):
    place = copy_of(full, tmp_path)
    names = ["figure1", "figure5", "figure6", "table1", "theorem2"]
    if line.get("status") == "failed":  # which says nothing in a figure, and so does no harm
        names = ["figure5", "table1"]
    for name in names:
        path = results_path(place.experiments_path, name, "other")
        path.parent.mkdir(exist_ok=True)
        write_json_lines(path, [line])
    left_out, _ = shown(place, tmp_path)
    assert sorted(why.split("/other.jsonl")[0].rpartition("/")[2] for why in left_out) == names


def test_tables_say_of_which_dataset_they_are(full, tmp_path):
    place = copy_of(full, tmp_path)
    path = results_path(place.experiments_path, "figure5", "x")
    other = [{**json.loads(line), "dataset": "the other"} for line in path.read_text().splitlines()]
    write_json_lines(path.with_name("y.jsonl"), other)
    _, text = shown(place, tmp_path)
    title = paper_grid("figure5").title
    assert f"{title}: the other" in text
    assert f"{title}: {HOSTILE}" in text


def test_charts_say_how_many_they_have_no_colour_for():
    assert accuracy._more("abc", "ab") == " 1 more is left out."
    assert accuracy._more("abcd", "ab") == " 2 more are left out."
    assert accuracy._more("ab", "ab") == ""


def test_the_same_workspace_gives_the_same_bytes(full, page, tmp_path):
    write_report(full, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_the_command(full, tmp_path, capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["report", "-w", str(full.path), *arguments])
        return end.value.code, capsys.readouterr()

    code, out = call(
        "base-seed1", "--out", str(tmp_path / "r.html"), "--price-in", "2", "--price-out", "4", "--json"
    )
    assert code == 0
    assert json.loads(out.out)["bytes"] == (tmp_path / "r.html").stat().st_size
    assert "at most 4.00 in money" in (tmp_path / "r.html").read_text()
    for wrong, message in (
        (["--projection", "mercator"], "expected one of pca, tsne"),
        (["--price-in", "2"], "both prices"),
    ):
        code, out = call(*wrong)
        assert code == 2
        assert message in out.err
    assert call("absent")[0] == 1
    with pytest.raises(WorkspaceError, match="nothing to report"):
        write_report(Workspace(tmp_path / "empty"), tmp_path / "r.html")


def test_the_page_begins_with_its_conclusion(page):
    text = page.read_text()
    first = text[text.index('<section id="conclusion"') : text.index('<section id="data"')]
    told = "".join(Tags(first[: first.index("</section>") + 10]).text)
    assert re.search(r"\S+ has the best Recall@20 of 3 runs, 0\.\d{4}\.", told)
    assert "Train both" in told or "More seeds: train both" in told
    assert {"t-results", "t-significance", "t-costs", "t-beyond"} <= set(re.findall('href="#([^"]+)"', first))
    assert "At a glance" in told


def test_charts_take_any_text_and_follow_the_page():
    one = Series(HOSTILE, [1, 10], [1.0, 2.0], [0.5, 1.5], [1.5, 2.5])
    charts = [
        lines(HOSTILE, [one, one], HOSTILE, HOSTILE, x_scale="log", levels=[(1.5, HOSTILE)]),
        bars(HOSTILE, [HOSTILE, "b"], [one], HOSTILE),
        scatter(HOSTILE, np.eye(2), np.array([0, 1]), [HOSTILE]),
    ]
    for chart in charts:
        tags = Tags(str(chart.svg))
        assert not {"script", "img"} & {tag for tag, _ in tags.seen}
        assert not re.search(r"(fill|stroke): #", str(chart.svg)), "a colour that does not follow the page"
    shown = "".join(Tags(re.sub("<title>.*?</title>", "", str(charts[0].svg), flags=re.DOTALL)).text)
    assert shown.count(HOSTILE) == 2  # the axes; what stands within the picture is cut
    assert HOSTILE[:19] + "…" in shown
    assert "$\\math" not in charts[0].svg


def test_tooltips_stand_on_what_they_tell():
    """At the places of the drawn markers, and within the bars, in words that are escaped."""
    one = Series("con", [0, 1, 2], [0.0, -1.0, 4.0], [-0.5, -1.5, 3.5], [0.5, -0.5, 4.5])
    chart = lines("t", [one], "x", "y")
    markers = {
        (float(x), float(y))
        for x, y in re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill', chart.svg)
    }
    tips = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="4"><title>(.*?)</title>', chart.svg)
    assert [text for *_, text in tips] == [
        "con: 0 at 0 (95 % interval −0.5 to 0.5)", "con: −1 at 1 (95 % interval −1.5 to −0.5)",
        "con: 4 at 2 (95 % interval 3.5 to 4.5)",
    ]  # fmt: skip
    for x, y, _ in tips:
        assert min(np.hypot(float(x) - a, float(y) - b) for a, b in markers) < 0.1
    assert chart.svg.count("<title>con</title>") == 1  # the curve
    drawn = bars("t", ["head", HOSTILE], [Series("gen", [0, 1], [1.5, 2.0])], "y").svg
    assert re.findall(r"<title>(.*?)</title>\s*<path", drawn)[0] == "gen, head: 1.5"
    assert Tags(str(drawn)).text.count(f"gen, {HOSTILE}: 2") == 1
    points = scatter(
        "t",
        np.eye(2),
        np.array([0, 1]),
        ["a"],
        labels=["one", HOSTILE],
        moved=np.array([[1.0, 1.0], [np.nan] * 2]),
    ).svg
    assert "<title>one</title>" in points
    assert HOSTILE in Tags(str(points)).text


# -- in a browser --------------------------------------------------------------------------------------

PROBLEMS = """() => {
  const width = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > width) found.push('the page scrolls sideways');
  for (const element of document.querySelectorAll('body *')) {
    if (element.closest('.scroll') && !element.matches('.scroll')) continue;  // tables scroll in their box
    if (element.closest('svg') && !element.matches('svg, text')) continue;
    const box = element.getBoundingClientRect();
    if (box.width && (box.right > width + 1 || box.left < -1))
      found.push(element.tagName + ' leaves the page: ' + element.textContent.trim().slice(0, 40));
    if (element.matches('svg') && (box.width < 250 || box.height < 120)) found.push('a chart without a size');
    if (element.matches('svg text') && box.height < 6) found.push('unreadable: ' + element.textContent);
  }
  for (const text of document.querySelectorAll('svg text')) {
    const box = text.getBoundingClientRect(), frame = text.closest('svg').getBoundingClientRect();
    if (box.left < frame.left - 3 || box.right > frame.right + 3 || box.bottom > frame.bottom + 3)
      found.push('text leaves its chart: ' + text.textContent);
  }
  for (const image of document.images) if (!image.naturalWidth) found.push('broken image');
  return found;
}"""
CONTRAST = """() => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const ratio = colour => (Math.max(light(colour), paper) + 0.05) / (Math.min(light(colour), paper) + 0.05);
  const of = (selector, property) =>
    [...document.querySelectorAll(selector)].map(element => ratio(getComputedStyle(element)[property]));
  return {paper, text: Math.min(...of('p, td, th, li, h2, dd, a', 'color'), ...of('svg text', 'fill')),
          series: Math.min(...of('.legend span', 'color'))};
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_a_browser_shows_it(browser, page, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    try:
        view = context.new_page()
        told, asked = [], []
        view.on("console", lambda message: told.append(message.text))
        view.on("pageerror", lambda error: told.append(str(error)))
        view.on("request", lambda request: asked.append(request.url))
        view.goto(page.as_uri())
        for fold in view.locator("summary").all():
            fold.click()
        assert told == []
        assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
        assert view.evaluate(PROBLEMS) == []
        if width == 1400:  # six metrics with deviation and change: all to be seen at once
            box = view.locator("#results .scroll").first
            assert box.evaluate("box => box.scrollWidth <= box.clientWidth")
            # On paper the conclusion and the main table fill the first page: 297 − 28 mm at 96 dots per inch.
            view.emulate_media(media="print")
            view.set_viewport_size({"width": 688, "height": 900})
            assert view.locator("#conclusion").evaluate("one => one.getBoundingClientRect().bottom") < 1016
            view.emulate_media(media="screen")
            view.set_viewport_size({"width": width, "height": 900})
        contrast = view.evaluate(CONTRAST)
        assert (contrast["paper"] < 0.2) == (scheme == "dark")
        assert contrast["text"] >= 4.5  # WCAG AA
        assert contrast["series"] >= 3
    finally:
        context.close()
