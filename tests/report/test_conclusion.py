"""The sentences of the conclusion, on known numbers."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from rlmrec.evaluation.compare import compare_pairs
from rlmrec.experiments.results import Results
from rlmrec.experiments.spec import RunSpec
from rlmrec.experiments.trial import Trial
from rlmrec.paper.grids import grids
from rlmrec.report.accuracy import Change
from rlmrec.report.collect import Inputs
from rlmrec.report.conclusion import (
    Facts,
    RunFacts,
    cost,
    effect,
    trained_out,
    what_next,
    who_gains,
    who_is_known_by_text,
    winner,
)
from rlmrec.report.experiments import save_tests, summarize
from rlmrec.report.hidden import KnownByText, known_by_text
from rlmrec.testing import blocks
from rlmrec.workspace import Workspace

BASE = RunFacts("base", 0.20, seconds=10.0, coverage=0.38)
CON = RunFacts("con", 0.22, seconds=61.0, coverage=0.42, text=True)
FILTER = RunFacts("graph-filter", 0.25, seconds=2.0, trained=False)


def compared(difference, seeds=1):
    """A comparison over 400 users whose differences have a standard deviation of 0.1 around a mean."""
    noise = np.random.default_rng(0).normal(size=400)
    noise = 0.1 * (noise - noise.mean()) / noise.std(ddof=1)

    def table(values):
        columns = {"user": range(400), "n_relevant": [1] * 400}
        return dict.fromkeys(range(seeds), pl.DataFrame({**columns, "recall@20": values}))

    base = np.full(400, 0.2)
    pair = table(base + difference + noise), table(base)
    return compare_pairs({"con": pair}, ["recall@20"])["con"]["recall@20"]


def texts(sentences):
    return [sentence.text for sentence in sentences]


GAIN, CHANCE, LOSS = compared(0.02), compared(0.002), compared(-0.02)


def facts(change=GAIN, **more):
    return Facts(**{"runs": [CON, BASE], "new": CON, "base": BASE, "change": change, **more})


def test_a_significant_winner():
    found = facts(runs=[FILTER, CON, BASE], lead=compared(0.03))
    [sentence] = winner(found)
    assert sentence.text == (
        "graph-filter has the best Recall@20 of 3 runs, 0.2500. "
        "It leads con by 13.6 %, which is significant (p < 0.001)."
    )
    assert sentence.anchor == "t-results"
    assert texts(effect(found)) == [
        "con gains 10.0 % of Recall@20 against base. This is significant (p < 0.001 after Holm's correction)."
    ]


def test_options_that_differ_are_told_with_the_change():
    [text] = texts(effect(facts(apart="epochs 15 | 40")))
    assert text.endswith("Options that differ (base | con): epochs 15 | 40.")
    [text] = texts(winner(Facts([CON, BASE], lead=GAIN, lead_apart="loss bpr | softmax")))
    assert text.endswith("Options that differ (base | con): loss bpr | softmax.")


def test_a_lead_that_may_be_chance():
    [text] = texts(winner(facts(runs=[FILTER, CON], lead=CHANCE)))
    assert text.endswith("which is not significant (p = 0.689). The two may be equally good.")
    [text] = texts(effect(facts(CHANCE)))
    assert text.startswith("con changes Recall@20 of base by +1.0 %, which may be chance (p = 0.689 after")
    assert "400 users show a change of Recall@20 of 0.014 (7.0 %) or more with 80 % probability." in text


def test_the_base_is_not_told_twice():
    [text] = texts(winner(facts(lead=GAIN)))
    assert text == "con has the best Recall@20 of 2 runs, 0.2200."


def test_a_loser_and_a_list_of_what_is_popular():
    [text] = texts(effect(facts(LOSS)))
    assert text.startswith("con loses 10.0 % of Recall@20 against base.")
    [text] = texts(winner(Facts([replace(BASE, name="popularity"), CON])))
    assert "No model is better than a list of what is popular." in text


def test_one_run():
    alone = Facts([replace(BASE, seconds=0.0, coverage=None)])
    assert texts(winner(alone)) == [
        "There is one run, base: its Recall@20 is 0.2000. Train another one to compare it with."
    ]
    assert effect(alone) == who_gains(alone) == cost(alone) == []
    assert texts(what_next(alone)) == [
        "No run reads texts: rlmrec encode makes text vectors, then train one with --alignment."
    ]


def test_a_run_whose_time_is_not_known_is_not_called_the_cheaper_one():
    untimed = replace(FILTER, seconds=0.0)
    assert not any("instead of" in text for text in texts(what_next(facts(runs=[untimed, CON, BASE]))))


def change(difference, half, base=0.1):
    return Change(base, base + difference, difference, difference - half, difference + half)


def test_a_gain_in_the_tail_alone():
    items = [("head", change(0.001, 0.01)), ("middle", change(0.002, 0.01)), ("tail", change(0.02, 0.01))]
    [sentence] = who_gains(facts(items=items))
    assert (
        sentence.text == "By popularity, these items gain: tail (+20.0 %). The others do not change clearly."
    )
    assert (sentence.topic, sentence.anchor) == ("Items", "popularity-base")


def test_everybody_gains_nobody_gains_some_lose():
    up, down, flat = change(0.01, 0.001), change(-0.01, 0.001, base=0.0), change(0.001, 0.01)

    def users(*changes):
        return texts(who_gains(facts(users=[(f"{n}–{n + 1}", one) for n, one in enumerate(changes)])))

    assert users(up, up) == ["All users gain, by training interactions: 0–1 (+10.0 %), 1–2 (+10.0 %)."]
    assert users(flat, flat) == ["No group of users, by training interactions, gains or loses clearly."]
    assert users(up, down) == [
        "By training interactions, these users gain: 0–1 (+10.0 %). These lose: 1–2 (−0.01)."
    ]


def test_what_it_costs():
    assert texts(cost(facts())) == [
        "con takes 61 s to train, 6.1 times as long as base (10 s).",
        "The lists of con show 42 % of the catalogue, those of base 38 %.",
    ]
    missing = facts(new=replace(CON, coverage=None), base=replace(BASE, seconds=0.0))
    assert texts(cost(missing)) == ["con takes 61 s to train."]


@pytest.mark.parametrize(
    ("found", "steps"),
    [
        (facts(), ["More seeds"]),
        (
            facts(compared(0.02, seeds=3)),
            ["Look at lists of con with rlmrec serve, and give it to your users"],
        ),
        (facts(CHANCE), ["More seeds", "The change is too small", "More text", "Other options"]),
        (facts(compared(0.009)), ["More seeds", "More users", "More text", "Other options"]),
        (
            facts(runs=[FILTER, CON, BASE]),
            [
                "Take graph-filter: its Recall@20 is higher than that of con, and it takes 2 s instead",
                "More seeds",
            ],
        ),
    ],
)
def test_what_to_do_next(found, steps):
    said = texts(what_next(found))
    assert len(said) == len(steps)
    assert all(text.startswith(step) for text, step in zip(said, steps, strict=True))


def test_runs_that_may_not_be_trained_out_are_told():
    [sentence] = trained_out(facts(limit="base (15 epochs): the limit of epochs ended training"))
    assert sentence.text == "base (15 epochs): the limit of epochs ended training."
    assert trained_out(facts()) == []


def test_who_is_known_by_text_alone():
    users = KnownByText("users", "graph-filter", 0.5919, "popularity", 0.3477)
    items = KnownByText("items", "graph-filter", 0.02, "graph-filter with shuffled texts", 0.03)
    found = [users, *(replace(items, significant=one) for one in (True, False))]
    of_items = (
        "For items known by their text alone, Recall@20 is 0.0200 with graph-filter and 0.0300 with graph-filter with "
        "shuffled texts. "
    )
    assert texts(who_is_known_by_text(facts(cold=found, measure="rlmrec experiment hidden"))) == [
        "For users known by their text alone, Recall@20 is 0.5919 with graph-filter and 0.3477 with popularity. "
        "The difference was not tested.",
        of_items + "This loss is significant.",
        of_items + "The difference may be chance.",
    ]
    [sentence] = texts(who_is_known_by_text(facts(measure="rlmrec experiment hidden -w shop")))
    assert sentence == (
        "What texts do for users and items without a history was not measured here. To measure it: "
        "rlmrec experiment hidden -w shop"
    )
    assert who_is_known_by_text(facts()) == [], "there are no texts"


def test_the_experiment_hidden_is_read_from_its_records(tmp_path):
    def record(number, backbone, hidden, value, shuffle="none", texts="t", alignment="none"):
        spec = RunSpec.resolve(backbone, alignment)
        trial = Trial(spec, "d", texts, texts and "default", shuffle, hidden=hidden)
        return {
            "id": str(number), "status": "done", "cell": trial.as_dict(), "dataset": "shop", "epochs": 1,
            "test": {"recall@20": value, "ndcg@20": value}, "valid": None, "environment": {},
        }  # fmt: skip

    place = Workspace(tmp_path)
    grid = next(one for one in grids() if one.name == "hidden")
    inputs = Inputs(place, [grid])
    assert known_by_text(inputs, "recall@20") == []
    results = Results(place.experiments_path / "hidden" / "shop.jsonl")
    results.append(record(1, "graph-filter", "users", 0.4))
    assert known_by_text(inputs, "recall@20") == [], "nothing to hold it against"
    results.append(record(2, "popularity", "users", 0.3, texts=None))
    results.append(record(3, "lightgcn", "users", 0.5, alignment="contrastive"))
    results.append(record(4, "graph-filter", "items", 0.2))
    results.append(record(5, "graph-filter", "items", 0.1, shuffle="both"))
    results.append(record(6, "lightgcn", "items", 0.5, alignment="contrastive"))
    pairs = [
        KnownByText("users", "graph-filter", 0.4, "popularity", 0.3),
        KnownByText("items", "graph-filter", 0.2, "graph-filter with shuffled texts", 0.1),
    ]
    assert known_by_text(inputs, "recall@20") == pairs, "never the best of several on the test split"
    dataset, _ = blocks()
    assert known_by_text(replace(inputs, dataset=dataset), "recall@20") == [], "they are of another dataset"
    dataset.__dict__["fingerprint"] = "d"
    assert known_by_text(replace(inputs, dataset=dataset), "recall@20") == pairs
    # The stored tests are against another row, unless an experiment says so.
    tested = next(row for row in summarize(grid, results.path).rows if row.records[0]["id"] == "4")
    save_tests(results.path, {tested.row: {"recall@20": {"p_holm": 0.01}}})
    assert known_by_text(inputs, "recall@20") == pairs
    values = {**grid.values, "against": {"shuffle": "both"}}
    inputs = Inputs(place, [replace(grid, values=values)])
    assert [one.significant for one in known_by_text(inputs, "recall@20")] == [None, True]
