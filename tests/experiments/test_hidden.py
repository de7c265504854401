"""Hidden users and items: what is left for training, and what those who are known by a text alone get."""

from dataclasses import replace

import numpy as np
import pytest

from rlmrec.data.dataset import SPLITS
from rlmrec.data.interactions import Interactions
from rlmrec.data.metadata import MEANS
from rlmrec.errors import ConfigError
from rlmrec.evaluation import metrics
from rlmrec.evaluation.ranking import read_table
from rlmrec.experiments.experiment import Experiment, coordinates
from rlmrec.experiments.hidden import Hidden
from rlmrec.experiments.run import run
from rlmrec.experiments.spec import RunSpec
from rlmrec.experiments.trial import Trial, TrialInputs, run_trial
from rlmrec.linalg import unit_rows
from rlmrec.recommend.recommender import Recommender
from rlmrec.testing import blocks
from rlmrec.text.embeddings import TextEmbeddings, mean_over_training

QUICK = {"epochs": 20, "learning_rate": 0.05, "batch_size": 256}


def pairs(dataset):
    """All pairs of raw ids."""
    return {
        (dataset.users.id(user), dataset.items.id(item))
        for split in map(dataset.split, SPLITS)
        for user, item in zip(split.users.tolist(), split.items.tolist(), strict=True)
    }


@pytest.mark.parametrize("kind", ["users", "items"])
def test_nothing_of_the_hidden_is_left_and_all_of_it_is_wanted(kind):
    dataset, texts = blocks()
    low = Interactions(np.array([0]), np.array([dataset.n_items - 1]), dataset.n_users, dataset.n_items)
    dataset = replace(dataset, low_rated=low)
    hidden = Hidden.draw(dataset, kind, 0.2)
    assert np.array_equal(hidden.rows, Hidden.draw(dataset, kind, 0.2).rows)
    vocabulary = getattr(dataset, kind)
    gone = {vocabulary.id(int(row)) for row in hidden.rows}
    assert len(gone) == round(0.2 * len(vocabulary))
    side = 0 if kind == "users" else 1
    of_hidden = {pair for pair in pairs(dataset) if pair[side] in gone}
    # A user whose training items are all hidden has nothing to learn from, and is not evaluated.
    learned = {dataset.users.id(int(user)) for user in hidden.rest.train.users}
    if kind == "items":
        of_hidden = {pair for pair in of_hidden if pair[0] in learned}
    assert pairs(hidden.rest) == {
        pair for pair in pairs(dataset) if pair[side] not in gone and pair[0] in learned
    }
    rows, columns = hidden.wanted.nonzero()
    if kind == "users":
        found = {(dataset.users.id(int(hidden.rows[row])), dataset.items.id(int(column)))
                 for row, column in zip(rows, columns, strict=True)}  # fmt: skip
    else:
        found = {(dataset.users.id(int(row)), dataset.items.id(int(hidden.rows[column])))
                 for row, column in zip(rows, columns, strict=True)}  # fmt: skip
    assert found == of_hidden
    rest = hidden.texts_of_rest(texts)
    rest.check(hidden.rest)
    if kind == "users":
        assert not rest.has_user[hidden.rows].any()
    else:
        kept = np.setdiff1d(np.arange(dataset.n_items), hidden.rows)
        assert np.array_equal(rest.items, texts.items[kept])


def test_means_over_items_leave_the_hidden_ones_out():
    dataset, texts = blocks()
    averaged = TextEmbeddings(mean_over_training(texts.items, dataset.train), texts.items)
    hidden = Hidden.draw(dataset, "items", 0.3)
    rest = hidden.texts_of_rest(hidden.with_new_means(averaged))
    kept = np.setdiff1d(np.arange(dataset.n_items), hidden.rows)
    train = dataset.train.csr().toarray()[:, kept]
    expected = train @ texts.items[kept] / np.maximum(train.sum(axis=1, keepdims=True), 1)
    assert np.allclose(rest.users, expected, atol=1e-6)
    no_mean = np.arange(dataset.n_users) > 2  # who has no vector gets none
    masked = TextEmbeddings(averaged.users * no_mean[:, None], texts.items, {}, no_mean)
    assert not hidden.with_new_means(masked).has_user[:3].any()


def test_means_over_the_items_to_be_found_are_no_texts():
    dataset, texts = blocks()
    means = mean_over_training(texts.items, dataset.train)
    hidden = Hidden.draw(dataset, "users", 0.2)
    some = means.copy()
    some[hidden.rows[0]] = texts.users[hidden.rows[0]]
    kept = hidden.with_new_means(TextEmbeddings(some, texts.items, texts.manifest)).users[hidden.rows]
    assert kept[0].any()
    assert not kept[1:].any()
    with pytest.raises(ConfigError, match=r"no user has a text of their own.*--user-vectors texts"):
        hidden.with_new_means(TextEmbeddings(means, texts.items, texts.manifest))


def test_means_are_shuffled_after_items_are_hidden(place):
    dataset, texts = place.dataset(), place.text_embeddings(place.dataset())
    manifest = {"users": MEANS, "dataset": dataset.fingerprint}
    TextEmbeddings(mean_over_training(texts.items, dataset.train), texts.items, manifest).save(
        place.text_embeddings_path()
    )
    inputs = TrialInputs(place)
    plain = trial(place, "lightgcn", "contrastive", "items")
    right = inputs.of(plain)[1]
    for which in ("users", "items", "both"):
        found = inputs.of(replace(plain, shuffle=which))[1]
        order = np.random.default_rng(plain.seed).permutation(dataset.n_users)
        expected = right.users if which == "items" else right.users[order]
        assert np.allclose(found.users, expected, atol=1e-6), which
        assert np.array_equal(found.items, right.items) == (which == "users")


def trial(place, backbone, alignment="none", hidden="users"):
    dataset = place.dataset()
    spec = None
    if backbone != "semantic-only":
        options = QUICK if backbone == "lightgcn" else {}
        spec = RunSpec.resolve(backbone, alignment, seed=1, options=options)
    texts = {"texts": place.text_embeddings(dataset).digest, "text_embeddings": "default"}
    return Trial(spec, dataset.fingerprint, hidden=hidden, **({} if backbone == "popularity" else texts))


@pytest.mark.parametrize("hidden", ["users", "items"])
def test_texts_of_a_group_lead_to_its_items(place, hidden):
    inputs = TrialInputs(place)
    for backbone, alignment in (
        ("semantic-only", "none"), ("graph-filter", "none"), ("lightgcn", "none"), ("lightgcn", "contrastive")
    ):  # fmt: skip
        one = trial(place, backbone, alignment, hidden)
        record = run_trial(one, inputs)
        # A user has up to 15 items of the own group, of 45; the hidden items are three a group.
        k = 20 if hidden == "users" else 5
        assert record["test"][f"recall@{k}"] > 0.9, (backbone, alignment)
        assert "groups" not in record
        again = run_trial(one, inputs)  # kept, and evaluated to the same numbers
        assert again["test"] == record["test"]


@pytest.mark.parametrize("kind", ["users", "items"])
def test_a_closed_form_reads_whitened_texts_as_those_before(kind, tmp_path):
    dataset, texts = blocks()
    hidden = Hidden.draw(dataset, kind)
    found = []
    for name, given in (("plain", texts), ("whitened", texts.whitened(0.5, texts.has_user))):
        given = hidden.with_new_means(given)
        run(RunSpec.resolve("graph-filter"), hidden.rest, hidden.texts_of_rest(given), tmp_path / name)
        recommender = Recommender.load(tmp_path / name / "recommender")
        found.append(hidden.evaluate(recommender, given, (5,), text_alone=False).items)
    np.testing.assert_array_equal(*found)


def test_values_per_user_against_scores_by_hand(place):
    inputs = TrialInputs(place)
    dataset, texts = inputs.dataset, inputs.text_embeddings("default")
    everything = sum(dataset.split(split).csr().toarray() for split in SPLITS) > 0
    for kind in ("users", "items"):
        one = trial(place, "semantic-only", hidden=kind)
        record = run_trial(one, inputs)
        rows = inputs.hidden(one)[0].rows
        queries, items = unit_rows(texts.users), unit_rows(texts.items)
        scores = queries[rows] @ items.T if kind == "users" else queries @ items[rows].T
        wanted = everything[rows] if kind == "users" else everything[:, rows]
        users = rows if kind == "users" else np.arange(dataset.n_users)
        n_relevant = wanted.sum(axis=1)
        if kind == "items":
            n_relevant *= inputs.hidden(one)[0].rest.train.user_degrees() > 0
        hits = np.take_along_axis(wanted, np.argsort(-scores, axis=1, kind="stable")[:, :5], axis=1)
        values = metrics.recall(hits, np.maximum(n_relevant, 1))[n_relevant > 0]
        stored = read_table(place.trial(one.id) / "test.parquet")
        assert stored["user"].to_list() == users[n_relevant > 0].tolist()
        assert np.allclose(stored["recall@5"], values)
        assert record["test"]["recall@5"] == pytest.approx(values.mean())
        if kind == "items":  # nine items: a list of 20 has them all, and eleven empty places
            assert record["test"]["precision@20"] == pytest.approx(n_relevant[n_relevant > 0].mean() / 20)


def test_without_a_text_users_get_what_is_popular(place):
    inputs = TrialInputs(place)
    one = trial(place, "popularity")
    record = run_trial(one, inputs)
    hidden = inputs.hidden(one)[0]
    best = np.argsort(-hidden.rest.train.item_degrees(), kind="stable")[:20]
    wanted = hidden.wanted.toarray() > 0
    assert record["test"]["recall@20"] == pytest.approx((wanted[:, best].sum(1) / wanted.sum(1)).mean())
    # A trained recommender, and somebody whose text vector is missing.
    texts = inputs.text_embeddings("default")
    masked = texts.users.copy()
    masked[hidden.rows] = 0
    missing = np.isin(np.arange(len(masked)), hidden.rows)
    without = TextEmbeddings(masked, texts.items, texts.manifest, ~missing, texts.has_item)
    run_trial(trial(place, "lightgcn"), inputs)
    recommender = Recommender.load(place.trial(trial(place, "lightgcn").id) / "recommender")
    ranking = hidden.evaluate(recommender, without, (20,), text_alone=False)
    assert ranking.metrics()["recall@20"] == pytest.approx(record["test"]["recall@20"])


def test_the_identity_names_what_is_hidden_only_where_something_is(place):
    plain, hidden = trial(place, "lightgcn", hidden=""), trial(place, "lightgcn")
    assert "hidden" not in plain.as_dict()["data"]
    assert hidden.as_dict()["data"]["hidden"] == "users"
    assert plain.id != hidden.id
    assert (plain.needs_text, hidden.needs_text) == (False, True)
    assert "hidden users" in hidden.label
    assert [coordinates(one.as_dict())["hidden"] for one in (plain, hidden)] == ["–", "users"]
    with pytest.raises(ConfigError, match="history 2 with hidden 'users': expected one of them"):
        Trial(hidden.spec, hidden.dataset, hidden="users", history=2)
    dataset = place.dataset()
    for kind, share in (("pairs", None), ("users", 0.0), ("items", 1.0)):
        with pytest.raises(ConfigError, match="expected users or items, and between 0 and 1 of them"):
            Hidden.draw(dataset, kind, share)


def test_a_grid_with_and_without_text_embeddings(place):
    values = {
        "title": "Hidden", "metrics": ["recall@20"], "rows": ["hidden", "backbone", "text_embeddings"], "seeds": 1,
        "grid": [{"backbone": ["popularity", "graph-filter", "lightgcn"], "hidden": ["users", ""]}],
    }  # fmt: skip
    plan = Experiment("hidden", values)
    trials, lacking = plan.trials(TrialInputs(place), "general", {})
    assert lacking == []
    rows = [plan.row(one.as_dict()) for one in trials]
    assert rows == plan.known_rows
    assert ("users", "popularity", "–") in rows
    assert ("users", "LightGCN", "default") in rows
    assert ("–", "LightGCN", "–") in rows
    place.text_embeddings_path().unlink()
    trials, lacking = plan.trials(TrialInputs(place), "general", {})
    assert [one.label for one in lacking] == ["lightgcn, none, hidden users, seed 1"]
