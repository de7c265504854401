"""Sweeps: what a file means, what is chosen, how a search goes on."""

import json
import math
import tomllib

import numpy as np
import pytest

from rlmrec.cli import main
from rlmrec.errors import ConfigError
from rlmrec.experiments.results import Results
from rlmrec.experiments.search import search
from rlmrec.experiments.spec import RunSpec, preset_options
from rlmrec.experiments.sweep import (
    Sweep,
    best_candidates,
    best_preset,
    grid_candidates,
    trial_maker,
    uneven,
)
from rlmrec.testing import blocks
from rlmrec.workspace import Workspace

GRID = """
backbones = ["lightgcn", "sgl"]
alignments = ["none", "contrastive"]
seeds = [1, 2]
[options]
learning_rate = 1e-2
[options.sgl]
layers = 1
[options.sgl.contrastive]
keep_rate = 0.5
[grid]
l2 = [1e-6, 1e-5]
[grid.contrastive]
weight = [0.1, 0.2, 0.3]
"""
SEARCH = """
backbones = ["mf"]
alignments = ["none", "generative"]
seeds = [1]
[search]
trials = 6
seed = 3
l2 = {low = 1e-8, high = 1e-3, log = true}
[search.generative]
mask_ratio = {low = 0.1, high = 0.5, step = 0.1}
"""


def sweep(text):
    return Sweep("s", tomllib.loads(text))


def maker():
    dataset, text_embeddings = blocks()
    return trial_maker(dataset.fingerprint, text_embeddings)


def line(trial, value, test=0.0):
    return {"id": trial.id, "status": "done", "valid": {"recall@20": value}, "test": {"recall@20": test}}


def test_a_grid_is_every_combination():
    candidates = grid_candidates(sweep(GRID), maker())
    counts = {}
    for one in candidates:
        counts[one.variant] = counts.get(one.variant, 0) + 1
        assert [trial.seed for trial in one.trials] == [1, 2]
        assert one.trials[0].spec.training.learning_rate == 1e-2
    assert counts == {("lightgcn", "none"): 2, ("lightgcn", "contrastive"): 6, ("sgl", "none"): 2,
                      ("sgl", "contrastive"): 6}  # fmt: skip
    sgl = [one for one in candidates if one.variant == ("sgl", "contrastive")]
    assert {(one.options["l2"], one.options["weight"]) for one in sgl} == {
        (l2, weight) for l2 in (1e-6, 1e-5) for weight in (0.1, 0.2, 0.3)
    }
    assert all(one.trials[0].spec.backbone_config.keep_rate == 0.5 for one in sgl)
    assert all(one.trials[0].spec.backbone_config.layers == 1 for one in sgl)
    assert "sgl/none 2, sgl/contrastive 6" in uneven(candidates)
    assert uneven([one for one in candidates if one.variant[1] == "none"]) is None


def test_the_best_is_chosen_on_validation_and_not_on_test(tmp_path):
    plan = sweep(GRID.replace("[1e-6, 1e-5]", "[1e-6, 1e-5, 1e-4]"))
    candidates, results = grid_candidates(plan, maker()), Results(tmp_path / "r")
    first, second, third = [one for one in candidates if one.variant == ("lightgcn", "none")]
    for one, values, test in (
        (first, (0.1, 0.2), 0.9),
        (second, (0.12, 0.19), 0.1),
        (third, (0.9, None), 0.9),
    ):
        for trial, value in zip(one.trials, values, strict=True):
            if value is not None:  # a trial with a seed missing is not chosen
                results.append(line(trial, value, test))
    best = best_candidates(candidates, results, "recall@20")
    assert best[("lightgcn", "none")] == (second, pytest.approx(0.155))
    text = best_preset(best, plan)
    assert tomllib.loads(text) == {"lightgcn": {"none": {"learning_rate": 1e-2, "layers": 3, "l2": 1e-5}}}


def test_a_best_preset_is_a_preset(tmp_path):
    path = tmp_path / "best.toml"
    path.write_text("[lightgcn.none]\nlayers = 1\nl2 = 1e-4\n")
    spec = RunSpec.resolve("lightgcn", "none", str(path))
    assert (spec.backbone_config.layers, spec.training.l2) == (1, 1e-4)
    for alignment in ("contrastive", "magic"):
        with pytest.raises(
            ConfigError, match=rf"no table \[lightgcn.{alignment}\] but the tables \[lightgcn.none\]: "
        ):
            preset_options(str(path), "lightgcn", alignment)
    with pytest.raises(ConfigError, match="does not exist"):
        preset_options(str(tmp_path / "none.toml"), "lightgcn", "none")
    path.write_text("layers =")
    with pytest.raises(ConfigError, match="is not TOML"):
        preset_options(str(path), "lightgcn", "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backbone = ['mf']", r"unknown key 'backbone' \(did you mean 'backbones'\?\): a sweep has metric"),
        ("backbones = 'mf'", "backbones = 'mf': expected a list"),
        ("backbones = ['fm']", "unknown backbone 'fm'"),
        ("metric = 'loss'", "metric = 'loss': expected"),
        ("[grid]\nlayerz = [1]", r"unknown option 'layerz' \(did you mean 'layers'\?\) for lightgcn"),
        ("[grid]\nweight = [1]", "unknown option 'weight' for lightgcn with alignment none"),
        ("[grid]\nlayers = 1", "layers = 1: expected a list of values"),
        ("[grid.sgl]\nlayers = [1]", r"\[grid.sgl\] is neither a backbone of this sweep"),
        ("[grid]\nl2 = [1]\n[search]\nl2 = [1]", "either"),
        ("[search]\nl2 = {low = 1}", "expected {low"),
        (
            "[search]\ntrails = 8\nl2 = [1]",
            r"search: unknown key 'trails' \(did you mean 'trials'\?\): expected ",
        ),
        ("[search]\nlayer = 2\nl2 = [1]", r"unknown key 'layer' \(did you mean 'layers'\?\)"),
        ("[search]\nl2 = 3", "l2 = 3: expected"),
        ("[search]\nlr = [1]", "unknown option 'lr'"),
        ("[search]\nweight = [1]", r"tables of these, \[search.ALIGNMENT\] or \[search.BACKBONE\]"),
        ("[search]\nl2 = [1e-5, -1]", "l2 = -1: expected at least 0"),
        ("[search]\nl2 = {low = 1e-5, high = -1.0}", "l2 = -1.0: .*greater than or equal to 0|low is above"),
        ("[search]\nl2 = {low = 1e-3, high = 1e-5}", "low is above high"),
        ("[search]\nl2 = {low = 0.0, high = 1e-5, log = true}", "log needs a low above 0"),
        ("[search]\nlayers = {low = 1, high = 3, step = 0}", "expected a step above 0"),
        ("[search]\nl2 = {low = 'a', high = 'b'}", "expected numbers"),
        ("[search]\ntrials = 0\nl2 = [1]", "trials = 0: expected a whole number, 1 or more"),
        ("[search]\nwarmup = 1.5\nl2 = [1]", "warmup = 1.5: expected a whole number, 0 or more"),
        ("[search]\nprune = 1\nl2 = [1]", "prune = 1: expected true or false"),
        ("[search]\nseed = 'x'\nl2 = [1]", "seed = 'x': expected a whole number, 0 or more"),
        ("[grid]\nnone = [1]", r"grid: none = \[1\]: expected a table, \[grid.none\]"),
        ("[options.lightgcn]\nnone = 4", r"options: lightgcn.none = 4: expected a table"),
        ("[options.none.lightgcn]\nl2 = 1", r"expected the backbone first, \[options.lightgcn.none\]"),
        ("backbones = [1]", "backbones has 1: expected names"),
        ("seeds = ['a']", "seeds has 'a': expected whole numbers, 0 or more"),
        ("seeds = [-1]", "seeds has -1: expected whole numbers"),
        ("seeds = [1, 1]", r"seeds = \[1, 1\]: expected each value once"),
    ],
)
def test_mistakes_in_a_file_are_named(text, message):
    with pytest.raises(ConfigError, match=message):
        sweep(text)


def asked(results, seen, stop_after=None):
    """Runs no training: a made-up validation value that is best at l2 = 1e-5."""

    def run(trials, prune=None):
        for trial in trials:
            if stop_after is not None and len(seen) == stop_after:
                raise KeyboardInterrupt
            seen.append(trial)
            results.append(line(trial, -abs(math.log10(trial.spec.training.l2) + 5)))

    return run


def test_a_search_that_was_killed_goes_on(tmp_path):
    pytest.importorskip("optuna", reason="the sweep extra is not installed")
    plan, seen = sweep(SEARCH), []
    storage = tmp_path / "optuna.journal"
    with pytest.raises(KeyboardInterrupt):
        search(plan, maker(), r := Results(tmp_path / "r"), asked(r, seen, 7), storage)
    results = Results(tmp_path / "r")
    candidates = search(plan, maker(), results, asked(results, seen), storage)
    budget = [one.variant for one in candidates]
    assert budget.count(("mf", "none")) == budget.count(("mf", "generative")) == 6
    ids = [trial.id for trial in seen]
    # The round that was killed is run again as it was asked for; nothing else is, and no point twice.
    assert set(ids) == {trial.id for one in candidates for trial in one.trials}
    assert len(set(ids)) == 12
    assert all(one.value(results, "recall@20") is not None for one in candidates)
    assert {round(one.options["mask_ratio"], 9) for one in candidates if "mask_ratio" in one.options} <= {
        0.1, 0.2, 0.3, 0.4, 0.5,
    }  # fmt: skip
    # All done: nothing is asked for again. Another seed is another study.
    before = len(seen)
    search(plan, maker(), results, asked(results, seen), storage)
    assert len(seen) == before
    search(sweep(SEARCH.replace("seed = 3", "seed = 4")), maker(), results, asked(results, seen), storage)
    assert len(seen) == before + 12


def test_two_searches_at_once_share_their_trials(tmp_path):
    pytest.importorskip("optuna", reason="the sweep extra is not installed")
    plan, storage = sweep(SEARCH), tmp_path / "optuna.journal"
    mine, theirs = Results(tmp_path / "r"), Results(tmp_path / "r")
    others = []

    def run(trials, prune):
        if not others:  # while the first trials run, another process takes up all, and ends before
            others.append(search(plan, maker(), theirs, asked(theirs, []), storage))
        asked(mine, [])(trials)

    candidates = search(plan, maker(), mine, run, storage)
    assert [one.options for one in candidates] == [one.options for one in others[0]]
    assert len(candidates) == 12


def test_a_search_repeats_and_finds(tmp_path):
    pytest.importorskip("optuna", reason="the sweep extra is not installed")
    plan = sweep(SEARCH.replace("trials = 6", "trials = 25").replace(', "generative"', ""))
    plan = Sweep(
        "s", {**plan.values, "search": {k: v for k, v in plan.values["search"].items() if k != "generative"}}
    )
    found = []
    for name in ("a", "b"):
        results = Results(tmp_path / name)
        candidates = search(plan, maker(), results, asked(results, []), tmp_path / f"{name}.journal")
        found.append([one.options["l2"] for one in candidates])
    assert found[0] == found[1], "seeded"
    best = min(abs(np.log10(found[0]) + 5))
    assert best < 0.1, "a fiftieth of the range"


def pruned_run(results, seen, stop_after=None):
    """Runs no training: curves of ten validations that are all best at l2 = 1e-5; asks after each whether to go on."""

    def run(trials, prune):
        for trial in trials:
            if results.is_done(trial.id):
                continue
            top = 1 / (1 + abs(math.log10(trial.spec.training.l2) + 5))
            curve = []
            for epoch in range(0, 30, 3):
                if stop_after is not None and len(seen) == stop_after:
                    raise KeyboardInterrupt
                curve.append([epoch, round(top * (1 - 0.5 ** (epoch + 1)), 5)])
                seen.append((trial.id, epoch))
                if prune is not None and prune(trial, *curve[-1]):
                    break
            else:
                results.append({**line(trial, top), "validation_curve": curve})
                continue
            results.append({"id": trial.id, "status": "pruned", "validation_curve": curve})

    return run


def test_a_search_prunes_what_is_below_the_median_after_the_warm_up(tmp_path):
    pytest.importorskip("optuna", reason="the sweep extra is not installed")
    text = SEARCH.replace("trials = 6", "trials = 12\nwarmup = 7").replace("seeds = [1]", "seeds = [1, 2]")
    plan = sweep(text.split("[search.generative]")[0].replace(', "generative"', ""))
    results, seen = Results(tmp_path / "a"), []
    whole = search(plan, maker(), results, pruned_run(results, seen), tmp_path / "a.journal")
    for variant in plan.variants:
        of_variant = [one for one in whole if one.variant == variant]
        assert len(of_variant) == 12
        # Optuna's rule, written out: the best so far against the median of the ended ones at this epoch.
        ended = []
        for one in of_variant:
            curve = results.records[one.trials[0].id]["validation_curve"]
            expected = next(
                (
                    epoch
                    for epoch, value in curve
                    if len(ended) >= 5 and epoch >= 7
                    if value
                    < np.median(
                        [dict(map(tuple, other))[epoch] for other in ended if len(other) > epoch // 3]
                    )
                ),
                None,
            )
            assert (curve[-1][0] if one.is_pruned(results) else None) == expected
            # The other seed of a pruned candidate never runs.
            assert (one.trials[1].id in results.records) == (expected is None)
            assert one.failures(results) == []
            if not one.is_pruned(results):
                ended.append(curve)
        assert 0 < sum(one.is_pruned(results) for one in of_variant) <= 7
    best = best_candidates(whole, results, "recall@20")
    assert all(not one.is_pruned(results) for one, _ in best.values())
    # Killed anywhere, it goes on to the same candidates.
    with pytest.raises(KeyboardInterrupt):
        search(
            plan,
            maker(),
            r := Results(tmp_path / "b"),
            pruned_run(r, [], len(seen) - 20),
            tmp_path / "b.journal",
        )
    results = Results(tmp_path / "b")
    rest = search(plan, maker(), results, pruned_run(results, []), tmp_path / "b.journal")
    assert [one.options for one in rest] == [one.options for one in whole]


def test_pruning_can_be_turned_off(tmp_path):
    pytest.importorskip("optuna", reason="the sweep extra is not installed")
    plan = sweep(SEARCH.replace("trials = 6", "trials = 9\nprune = false"))
    results = Results(tmp_path / "r")

    def run(trials, prune):
        assert prune is None
        asked(results, [])(trials)

    ended = []
    candidates = search(plan, maker(), results, run, tmp_path / "journal", 2, ended.append)
    assert ended == [0, 4, 8, 12, 16, 18], "two of each of two variants in a round, nine of each in all"
    assert len(candidates) == 18
    assert all(one.value(results, "recall@20") is not None for one in candidates)


def test_the_command_prunes_trainings(tmp_path, capsys):
    """Real trainings: those that learn next to nothing are ended early, shown as such, and finished by a grid."""
    pytest.importorskip("optuna", reason="the sweep extra is not installed")
    place = Workspace(tmp_path / "w")
    dataset, _ = blocks()
    dataset.save(place.dataset_path)
    file = tmp_path / "s.toml"
    file.write_text(
        'backbones = ["mf"]\nalignments = ["none"]\n[options]\nepochs = 9\nbatch_size = 256\n'
        "[search]\ntrials = 8\nwarmup = 3\nlearning_rate = [1e-1, 1e-2, 1e-9, 1e-8]\n"
    )

    def call():
        with pytest.raises(SystemExit) as end:
            main(["sweep", "-w", str(place.path), str(file), "--threads", "1", "--json"])
        out, err = capsys.readouterr()
        assert not end.value.code
        return json.loads(out), err

    result, err = call()
    records = Results(place.path / "sweeps" / "s" / "trials.jsonl").records
    pruned = [record for record in records.values() if record["status"] == "pruned"]
    assert result["pruned"] >= len(pruned) > 0
    assert result["failed"] == 0
    rates = [record["cell"]["training"]["learning_rate"] for record in pruned]
    assert max(rates) < 1e-5
    assert all(record["epochs"] < 9 for record in pruned)
    assert "s: best of the 8 candidates of each variant on validation" in err
    assert f"{result['pruned']} pruned after epoch" in err
    assert "8 of 8 trials finished" in err or "s, trials: 8 of 8, done in" in err
    assert "trials stored" not in err
    assert call()[0] == result, "repeated, nothing changes"
    file.write_text(file.read_text().split("[search]")[0] + f"[grid]\nlearning_rate = {rates}\n")
    result, _ = call()
    assert (result["trials"], result["failed"], result["pruned"]) == (len(rates), 0, 0)
    records = Results(place.path / "sweeps" / "s" / "trials.jsonl").records
    assert {record["status"] for record in records.values()} == {"done"}


def test_the_command(tmp_path, capsys):
    place = Workspace(tmp_path / "w")
    dataset, text_embeddings = blocks()
    dataset.save(place.dataset_path)
    text_embeddings.save(place.text_embeddings_path())
    file = tmp_path / "tiny.toml"
    file.write_text(
        'backbones = ["mf"]\nalignments = ["none", "contrastive"]\nseeds = [1]\n'
        "[options]\nepochs = 4\nbatch_size = 256\n[grid]\nlearning_rate = [1e-6, 1e-1]\n"
    )

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        return end.value.code or 0, *capsys.readouterr()

    code, out, err = call("sweep", "-w", place.path, file, "--threads", 1, "--json")
    assert code == 0
    result = json.loads(out)
    assert result["trials"] == 4
    assert [best["options"]["learning_rate"] for best in result["best"]] == [0.1, 0.1]
    assert "best of the 2 candidates of each variant" in err
    assert "(3 of 4 trials finished" in err
    assert "different numbers" not in err
    assert len((place.path / "sweeps" / "tiny" / "trials.jsonl").read_text().splitlines()) == 4
    best = place.path / "sweeps" / "tiny" / "best.toml"
    code, _, _ = call(
        "train", "-w", place.path, "--backbone", "mf", "--preset", best, "--name", "x", "--epochs", 1
    )
    assert code == 0
    config = json.loads((place.run("x") / "metrics.json").read_text())["config"]
    assert config["training"]["learning_rate"] == 0.1
    # What it says to train is what trains.
    said = [line.split() for line in err.splitlines() if line.startswith("  rlmrec train ")]
    assert [line[line.index("--alignment") + 1] for line in said] == ["none", "contrastive"]
    assert {line[line.index("--seed") + 1] for line in said} == {"1"}, "the sweep's own"
    assert call(*said[1][1:], "--epochs", 1, "--set", "batch_size=256", "--name", "y")[0] == 0
    # Another file of the same name does not replace the best of this one; the same file moved is the same.
    other = tmp_path / "elsewhere" / "tiny.toml"
    other.parent.mkdir()
    other.write_text(file.read_text().replace('"none", ', ""))
    kept = best.read_bytes()
    code, _, err = call("sweep", "-w", place.path, other, "--threads", 1)
    assert code == 2
    assert f"holds the sweep of {file}" in err
    assert best.read_bytes() == kept
    other.write_text(file.read_text())
    assert call("sweep", "-w", place.path, other, "--threads", 1)[0] == 0
    assert call("sweep", "-w", place.path, file, "--threads", 1)[0] == 0
    # Text embeddings that are not there are named as elsewhere.
    other.write_text('text_embeddings = "defualt"\n' + file.read_text())
    other = other.rename(other.with_name("typo.toml"))
    code, _, err = call("sweep", "-w", place.path, other)
    assert code == 1
    assert "no text vectors 'defualt'" in err
    assert "(did you mean 'default'?): there are default;" in " ".join(err.split())
    # A trial that fails leaves its mark on the exit code; the rest stands.
    file.write_text(file.read_text().replace("1e-1]", "1e30]").replace('"none", ', ""))
    code, out, err = call("sweep", "-w", place.path, file, "--threads", 1, "--json")
    assert code == 3
    assert "the loss is not finite" in err
    assert json.loads(out)["failed"] == 1
