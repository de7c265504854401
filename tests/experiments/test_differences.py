"""Options in which runs differ."""

from pathlib import Path

from rlmrec.evaluation.compare import FinishedRun, RunGroup
from rlmrec.experiments.differences import differing_options


def differing(**groups):
    return differing_options(
        [
            RunGroup(name, tuple(FinishedRun(name, Path(name), {"config": one}) for one in configs))
            for name, configs in groups.items()
        ]
    )


def test_options_of_the_alignment_differ_only_between_runs_of_one_alignment():
    def config(alignment, weight, texts, seed=0, backbone="lightgcn", **more):
        return {
            "run": {"backbone": backbone, "alignment": alignment, "preset": "general", "seed": seed},
            "backbone": more,
            "alignment": {"weight": weight},
            "training": {"epochs": 9},
            "data": {"dataset": "x", "texts": texts},
        }

    con, gen = config("contrastive", 1, "abc", layers=2), config("generative", 2, "abc", layers=2)
    assert differing(con=[con], gen=[gen]) == {}
    named = {**config("contrastive", 3, "def", layers=2), "names": {"semantics": "by-llm"}}
    assert differing(con=[con], other=[named]) == {"weight": ["1", "3"], "texts": ["abc", "by-llm (def)"]}
    flat = config("none", 0, "abc", 1, "mf")
    assert differing(con=[con, {**con, "run": {**con["run"], "seed": 1}}], mf=[flat]) == {
        "backbone": ["lightgcn", "mf"],
        "seed": ["0, 1", "1"],
    }


def test_what_a_run_does_not_record_is_at_its_default():
    def run(backbone="lightgcn", alignment="none", training=(), data=(), preset="general", **own):
        return [
            {
                "run": {"backbone": backbone, "alignment": alignment, "preset": preset, "seed": 0},
                "backbone": own,
                "alignment": {},
                "training": {"epochs": 9, **dict(training)},
                "data": {"dataset": "x", **dict(data)},
            }
        ]

    assert differing(one=run(), two=run(preset="mine.toml")) == {}, "a preset is what it sets"
    base, softmax = run(layers=2), run(layers=2, loss="softmax", loss_k=10)
    assert differing(base=base, softmax=softmax) == {"loss": ["bpr", "softmax"], "loss_k": ["20", "10"]}
    con = run(alignment="contrastive", layers=2, training={"initial_embeddings": "spectral"}.items())
    assert differing(con=con, base=base) == {"initial_embeddings": ["spectral", "random"]}
    started = run(layers=2, data={"start": "abc"}.items())
    assert differing(base=base, started=started) == {"start": ["none", "abc"]}
    # MF has the losses of LightGCN and no layers; a class of the user's own is not imported to know its default.
    flat = run("mf", loss="softmax")
    assert differing(base=base, flat=flat) == {"backbone": ["lightgcn", "mf"], "loss": ["bpr", "softmax"]}
    mine = run("never_imported.py:Mine"), run("never_imported.py:Mine", loss="softmax")
    assert differing(one=mine[0], two=mine[1]) == {"loss": ["the default", "softmax"]}
    # The same recommender with texts and without; a name that two parts have is told with its part.
    with_texts = run("graph-filter", data={"texts": "abc"}.items())
    assert differing(without=run("graph-filter"), texts=with_texts) == {"texts": ["none", "abc"]}
    sgl = [
        {**run("sgl", "contrastive", temperature=of)[0], "alignment": {"temperature": of}}
        for of in (0.1, 0.2)
    ]
    assert differing(one=sgl[:1], two=sgl[1:]) == {
        "backbone.temperature": ["0.1", "0.2"],
        "alignment.temperature": ["0.1", "0.2"],
    }
