"""Groups of runs over seeds, their tables and tests."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rlmrec.errors import ConfigError
from rlmrec.evaluation.compare import (
    FinishedRun,
    compare_groups,
    compare_pairs,
    comparisons_as_dict,
    find_group,
    limit_reached,
    verdict,
)
from rlmrec.evaluation.significance import holm


def per_user(values):
    return pl.DataFrame({"user": range(len(values)), "n_relevant": [1] * len(values), "recall@20": values})


def by_seed(rows):
    return {seed: per_user(values) for seed, values in enumerate(rows)}


def save_run(folder, seed, values, alignment="none", **config):
    folder.mkdir(parents=True)
    metrics = {
        "test": {"recall@20": float(np.mean(values))},
        "valid": None,
        "epochs": 4,
        "seconds_per_epoch": 0.5,
        "config": {
            "run": {"backbone": "mf", "alignment": alignment, "seed": seed},
            "data": {"dataset": "x"},
            **config,
        },
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    per_user(values).write_parquet(folder / "test.parquet")


def test_pairs_are_corrected_together():
    rng = np.random.default_rng(1)
    base = rng.random((3, 100))
    pairs = {name: (by_seed(base + rng.normal(0.03, 0.1, base.shape)), by_seed(base)) for name in "ab"}
    pairs["single"] = (by_seed(base[:1] + 0.001 * rng.random((1, 100))), by_seed(base))
    found = compare_pairs(pairs, ["recall@20"])
    compared = [found[name]["recall@20"] for name in pairs]
    for tests in ([one.users for one in compared], [one.seeds for one in compared[:2]]):
        assert [one.p_holm for one in tests] == holm([one.p_t for one in tests]).tolist()
        assert [one.p_wilcoxon_holm for one in tests] == holm([one.p_wilcoxon for one in tests]).tolist()
    assert compared[2].seeds is None
    nothing = comparisons_as_dict(compare_pairs({"x": (by_seed(base), by_seed(0 * base))}, ["recall@20"]))
    assert nothing["x"]["recall@20"]["relative"] is None, "JSON has no infinity"


def test_runs_that_the_limit_of_epochs_ended():
    def run(name, best, epochs, limit=15, data=(), **training):
        training = {"epochs": limit, "evaluate_every": 3, "patience": 2, **training}
        config = {"run": {"seed": 0}, "training": training, "data": {"dataset": "x", **dict(data)}}
        return FinishedRun(name, Path(name), {"best_epoch": best, "epochs": epochs, "config": config})

    # Validated after epochs 0, 3, 6, 9, 12 and, as it is the last, 14.
    ended = [run("last", 14, 15), run("one-since", 12, 15)]
    others = [run("two-since", 9, 15), run("stopped", 3, 10), run("closed", None, 0)]
    others.append(run("final", 14, 15, data={"final": True}.items()))
    assert [one.name for one in (*ended, *others) if one.ended_by_limit] == ["last", "one-since"]
    told = limit_reached([one.group() for one in (*ended, *others)])
    assert told.startswith("last (15 epochs), one-since (15 epochs): the limit of epochs ended training")
    assert "--epochs 30" in told
    assert limit_reached([one.group() for one in others]) == ""


def test_a_name_without_a_seed_stands_for_its_runs(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.random((3, 40))
    for seed in (1, 2, 3):
        save_run(tmp_path / f"base-seed{seed}", seed, values[seed - 1])
        save_run(tmp_path / f"con-seed{seed}", seed, values[seed - 1] + 0.1, "contrastive")
    (tmp_path / "con-seed4").mkdir()
    base, con = (find_group(tmp_path, name) for name in ("base", "con"))
    assert (con.seeds, con.unfinished) == ([1, 2, 3], ("con-seed4",))
    assert con.mean("recall@20") == pytest.approx(values.mean() + 0.1)
    assert con.std("recall@20") == pytest.approx(values.mean(1).std(ddof=1))
    assert (con.mean("recall@20", "valid"), con.std("ndcg@20")) == (None, None)
    assert con.summary()["valid"] is None
    found = compare_groups([base, con], ["recall@20"])["con"]["recall@20"]
    assert (found.users.n, found.seeds.n) == (40, 3)
    assert found.users.difference == pytest.approx(0.1)
    assert verdict({"con": {"recall@20": found}}, "base").startswith("Recall@20 against base: con +")
    assert find_group(tmp_path, "gen") is None
    assert find_group(tmp_path, "con-seed2").seeds == [2]
    save_run(tmp_path / "con-seed5", 2, values[0], "contrastive")
    with pytest.raises(ConfigError, match="have the same seed"):
        find_group(tmp_path, "con")
    save_run(tmp_path / "con-seed6", 6, values[0], "generative")
    with pytest.raises(ConfigError, match="differ in more than their seed"):
        find_group(tmp_path, "con")
