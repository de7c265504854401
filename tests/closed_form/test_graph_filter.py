"""The graph filter against a dense reference, and all that must follow from its parts."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from rlmrec.closed_form import (
    RECOMMENDERS,
    GraphFilter,
    Popularity,
    Texts,
    graph_filter,
    graph_rule,
    load_state,
    search,
    svd,
)
from rlmrec.closed_form.graph_filter import GraphFilterConfig
from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.split import split_by_ratio
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError, DataError
from rlmrec.evaluation.ranking import evaluate
from rlmrec.experiments.history import cut_history
from rlmrec.recommend.recommender import Recommender
from rlmrec.recommend.sparse_parts import SparseParts
from rlmrec.testing import blocks

OPTIONS = {
    "user_exponent": 0.3,
    "item_exponent": 0.4,
    "smoothing": 0,
    "rank": 20,
    "ridge": 2,
    "neighbours": 30,
    "neighbour_weight": 0.7,
    "popularity_weight": 0.8,
    "text_weight": 0.4,
    "user_text_weight": 1.5,
}
FIXED = GraphFilterConfig(**OPTIONS)


@pytest.fixture(scope="module")
def fitted(noisy):
    return GraphFilter.fit(*noisy, FIXED)


def unit(rows):
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def z(scores):
    """Scores with mean 0 and standard deviation 1 in each row, as the formulas have it."""
    spread = scores.std(axis=1, keepdims=True)
    return (scores - scores.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)


def whitened(vectors, power):
    centred = vectors - vectors.mean(axis=0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    return unit(centred @ directions.T * values ** (power - 1)), directions.T * values ** (power - 1)


def reference(dataset, texts):
    """All scores in float64 from the formulas, densely; z-scores in full."""
    train = dataset.train.csr().toarray().astype(np.float64)
    of_users = np.maximum(train.sum(axis=1), 1)
    scaled = of_users[:, None] ** -0.3 * train * np.maximum(train.sum(axis=0), 1) ** -0.4
    _, values, directions = np.linalg.svd(scaled, full_matrices=False)
    vectors, values = directions[:20].T, values[:20]
    gains = values**2 / (values**2 + (2 * values[-1]) ** 2)
    total = z((scaled @ vectors * gains) @ vectors.T)

    graph = scaled.T @ scaled
    for column in graph.T:
        column[np.argsort(-column, kind="stable")[30:]] = 0
    total += 0.7 * z(scaled @ graph)

    items, item_map = whitened(texts.items.astype(np.float64), 0.5)
    own = unit((texts.users - texts.users.mean(axis=0)).astype(np.float64) @ item_map)
    total += 0.4 * z((unit(train @ items) + own) @ items.T)

    users, _ = whitened(texts.users.astype(np.float64), 1)
    cosines = np.round(users @ users.T, 4)  # as nearest does, so that equal texts tie
    np.fill_diagonal(cosines, -np.inf)
    weights = np.zeros_like(cosines)
    for row, of_row in zip(weights, cosines, strict=True):
        best = np.argsort(-of_row, kind="stable")[:50]
        row[best] = np.maximum(of_row[best], 0) ** 3
    similar = weights / weights.sum(axis=1, keepdims=True) @ train
    by_length = 1 / (1 + np.sqrt(train.sum(axis=1)))[:, None]
    return total + 1.5 * by_length * z(similar) + 0.8 * by_length * z(np.sqrt(train.sum(axis=0))[None])


def test_ranks_as_the_fused_z_scores(noisy, fitted):
    dataset, texts = noisy
    expected = reference(dataset, texts)
    known = np.flatnonzero(dataset.train.user_degrees())
    scores = fitted.score(known).astype(np.float64)
    centred = scores - scores.mean(axis=1, keepdims=True)
    expected = expected[known] - expected[known].mean(axis=1, keepdims=True)
    np.testing.assert_allclose(centred, expected, atol=5e-3)
    # The same lists, but for items whose scores are equal up to rounding.
    same = np.argsort(-centred, axis=1)[:, :10] == np.argsort(-expected, axis=1)[:, :10]
    assert same.mean() > 0.99


def test_blocks_of_users_change_nothing_but_rounding(noisy, fitted, monkeypatch):
    for module in (graph_rule, graph_filter):
        monkeypatch.setattr(module, "ROWS", 7)
    monkeypatch.setattr(svd.Gram.__init__, "__defaults__", (7,))
    found = GraphFilter.fit(*noisy, FIXED)
    for name, array in fitted.state().items():
        bound = 1e-3 * np.abs(array).max(initial=0)
        np.testing.assert_allclose(found.state()[name], array, rtol=2e-3, atol=bound, err_msg=name)


def test_few_neighbours_are_tried_where_items_are_many(noisy, monkeypatch):
    dataset, _ = noisy
    monkeypatch.setattr(graph_filter, "ENTRIES", 60 * dataset.n_items)
    record = GraphFilter.fit(dataset).record
    assert {trial["neighbours"] for trial in record["trials"] if "neighbours" in trial} == {50}
    assert any("neighbours 200, 1000 not tried" in note for note in record["notes"])


def test_without_sparse_parts_it_is_one_inner_product(noisy):
    dataset, texts = noisy
    config = GraphFilterConfig(**OPTIONS | {"neighbours": 0, "user_text_weight": 0})
    model = GraphFilter.fit(dataset, texts, config)
    assert model.is_inner_product
    users = np.arange(dataset.n_users)
    np.testing.assert_allclose(model.score(users), model.users @ model.items.T, atol=1e-6)


def test_fold_in_of_a_known_user_is_its_own_parts(noisy, fitted):
    dataset, texts = noisy
    train = dataset.train.csr()
    for user in range(0, dataset.n_users, 7):
        items = train.indices[train.indptr[user] : train.indptr[user + 1]]
        parts = fitted.fold_in(items[::-1], text=texts.users[user], own=user)
        np.testing.assert_allclose(parts.vectors[0], fitted.users[user], atol=1e-5)
        np.testing.assert_allclose(parts.history.toarray()[0], fitted.history[[user]].toarray()[0], atol=1e-5)
        np.testing.assert_allclose(parts.direct.toarray()[0], fitted.direct[[user]].toarray()[0], atol=1e-5)
        np.testing.assert_allclose(fitted.score_parts(parts)[0], fitted.score(np.array([user]))[0], atol=1e-5)


def test_explanation_sums_to_the_score(noisy, fitted):
    dataset, texts = noisy
    train = dataset.train.csr()
    popularity = 0.8 * z(np.sqrt(dataset.train.item_degrees())[None])[0]
    for user in (0, 5, 17):
        items = train.indices[train.indptr[user] : train.indptr[user + 1]]
        for text in (texts.users[user], None):
            parts = fitted.fold_in(items, text=text, own=user)
            for item in (0, 3, 99):
                found = fitted.explain(item, items, text=text, own=user)
                total = found.contributions.sum() + found.text + found.neighbours + found.constant
                assert total == pytest.approx(found.score, abs=1e-5)
                assert found.score == pytest.approx(float(fitted.score_parts(parts)[0, item]), abs=1e-4)
                assert found.constant == pytest.approx(popularity[item] / (1 + np.sqrt(len(items))), abs=1e-4)
                assert (found.text == pytest.approx(0, abs=1e-5)) == (text is None)


def test_contribution_of_an_item_is_linear_in_its_weight(noisy, fitted):
    items, weights = np.array([2, 9, 30]), np.array([1.0, 1.0, 1.0])
    heavier = fitted.explain(7, items, weights * 3)
    plain = fitted.explain(7, items, weights)
    # All weights three times as large: the same shares, as only their proportions count.
    np.testing.assert_allclose(heavier.contributions, plain.contributions, atol=1e-4)


def test_state_round_trip(noisy, fitted):
    _, texts = noisy
    arrays = fitted.state()
    assert all(isinstance(array, np.ndarray) and array.dtype != object for array in arrays.values())
    restored = load_state(arrays, fitted.record)
    users = np.arange(20)
    np.testing.assert_array_equal(restored.score(users), fitted.score(users))
    parts, again = (model.fold_in([1, 4], text=texts.users[3]) for model in (fitted, restored))
    np.testing.assert_array_equal(parts.vectors, again.vectors)
    np.testing.assert_array_equal(restored.add_items(texts.items[:2]), fitted.add_items(texts.items[:2]))


def test_a_recommender_with_items_added_is_stored_and_restored(noisy, fitted, tmp_path):
    dataset, texts = noisy
    more = Recommender.of_model(dataset, fitted).with_items(
        ["new", "newer"], fitted.add_items(texts.items[:2])
    )
    more.save(tmp_path / "recommender")
    again = Recommender.load(tmp_path / "recommender")
    plain = Recommender.of_model(dataset, fitted)
    plain.save(tmp_path / "plain")
    parts = Recommender.load(tmp_path / "plain", mmap=True).parts
    for name in ("data", "indices", "indptr"):  # mapped once, for all workers
        assert np.shares_memory(getattr(parts.neighbours, name), getattr(parts.rule.neighbours, name))
    for items in (["new", dataset.items.id(3)], [dataset.items.id(5)]):
        one, two = (recommender.recommend_from_items(items, k=30) for recommender in (more, again))
        assert one[0].tolist() == two[0].tolist()
        np.testing.assert_array_equal(one[1], two[1])
    user = dataset.users.id(7)
    assert again.recommend(user, k=20)[0].tolist() == more.recommend(user, k=20)[0].tolist()


def test_a_model_stored_without_popularity_is_restored(noisy):
    config = GraphFilterConfig(**OPTIONS | {"popularity_weight": 0})
    model = GraphFilter.fit(*noisy, config)
    arrays = model.state()
    assert "rule.popularity" not in arrays
    arrays["rule.weights"] = arrays["rule.weights"][:3]  # as version 0.1 stored it
    restored = load_state(arrays, model.record)
    for items in ([], [1, 4]):
        parts, again = (one.fold_in(items) for one in (model, restored))
        np.testing.assert_array_equal(parts.vectors, again.vectors)


@pytest.mark.parametrize("history", [1, 2])
def test_short_histories_are_ranked_no_worse_than_by_popularity(noisy, history):
    dataset, texts = noisy
    short = cut_history(dataset, history)
    values = [
        evaluate(kind.fit(short), short, k=(20,)).metrics()["recall@20"] for kind in (GraphFilter, Popularity)
    ]
    assert values[0] > 0.98 * values[1]
    # Texts are found beside popularity, however large its weight.
    model = GraphFilter.fit(short, texts)
    assert model.record["chosen"]["user_text_weight"] > 0
    assert evaluate(model, short, k=(20,)).metrics()["recall@20"] > 1.1 * max(values)
    # The smallest weight only orders what would tie: items that nothing else speaks for.
    tied, without = (
        GraphFilter.fit(short, config=GraphFilterConfig(**OPTIONS | {"popularity_weight": weight}))
        for weight in (graph_filter.CARRIED, 0)
    )
    users = np.flatnonzero(short.train.user_degrees())
    np.testing.assert_allclose(tied.score(users), without.score(users), atol=5e-3)
    better, worse = (evaluate(model, short, k=(20,)).metrics()["recall@20"] for model in (tied, without))
    assert better > worse


def test_new_user_by_text_and_new_item_by_text(noisy):
    dataset, texts = noisy
    model = GraphFilter.fit(dataset, texts)
    train = dataset.train.csr().toarray() > 0
    popular = train.mean(axis=0)
    by_text = np.concatenate([model.score_parts(model.fold_in([], text=text)) for text in texts.users])
    gain = [
        (np.corrcoef(row, wanted)[0, 1]) for row, wanted in zip(by_text, train, strict=True) if wanted.any()
    ]
    base = [np.corrcoef(popular, wanted)[0, 1] for wanted in train if wanted.any()]
    assert np.mean(gain) > np.mean(base)
    # New users have a rank of their own, and users with a history nothing beyond theirs.
    chosen, factors = model.record["chosen"], model.rule.factors
    assert factors.shape[1] == max(chosen["rank"], chosen["new_user_rank"])
    assert not factors[:, chosen["rank"] :].any()
    # A new item with the text of a known one is liked by those who like the known one.
    embeddings = model.add_items(texts.items)
    assert embeddings.shape == model.items.shape
    scores, own = model.users @ embeddings.T, model.users @ model.items.T
    agreement = [np.corrcoef(scores[:, item], own[:, item])[0, 1] for item in range(dataset.n_items)]
    assert np.median(agreement) > 0.5


def test_similar_users_of_a_new_one_count_also_where_they_do_not_for_known_ones(noisy, fitted):
    """As where validation gives the histories of similar users no weight, but those of new users some."""
    dataset, texts = noisy
    of_new = replace(fitted.rule.new_users, weights=(1.0, 0.4, 1.0))
    rule = replace(fitted.rule, neighbours=None, new_users=of_new, weights=(0.0, 0.4, 0.0, 0.8))
    model = replace(fitted, rule=rule, history=None, neighbours=None, direct=None)
    recommender = Recommender.of_model(dataset, model, {}, texts.users)
    assert recommender.is_inner_product
    parts = recommender.new_user((), text=texts.users[3])
    assert parts.direct.nnz > 0
    scores = recommender.score_parts(parts)[0]
    [rows], [found] = recommender.recommend_parts_rows(parts, 10)
    np.testing.assert_allclose(found, -np.sort(-scores)[:10], rtol=1e-5)
    np.testing.assert_allclose(found, scores[rows], rtol=1e-5)


def test_cosines_do_not_compare_popularity(noisy, fitted):
    dataset, _ = noisy
    plain = GraphFilter.fit(*noisy, GraphFilterConfig(**OPTIONS | {"popularity_weight": 0}))
    assert fitted.items.shape[1] == plain.items.shape[1] + 1
    both = [Recommender.of_model(dataset, model) for model in (fitted, plain)]
    vector = plain.add_items(noisy[1].items[:1])[0]
    for alike in (
        lambda one: one.similar_items("i1"),
        lambda one: one.similar_users("u1"),
        lambda one: one.items_for(np.pad(vector, (0, one.items.shape[1] - len(vector)), constant_values=9)),
    ):
        (ids, cosines), (expected, values) = map(alike, both)
        assert ids.tolist() == expected.tolist()
        np.testing.assert_allclose(cosines, values, atol=1e-5)
    # The column is as long as the singular vectors beside it, so that indexes and norms are not about it alone.
    assert np.linalg.norm(fitted.items[:, -1]) == pytest.approx(1, abs=1e-5)


def test_user_with_neither_history_nor_text_gets_what_is_popular(noisy, fitted):
    dataset, _ = noisy
    nobody = fitted.fold_in([])
    scores = fitted.score_parts(nobody)[0]
    degrees = dataset.train.item_degrees()
    assert degrees[np.argsort(-scores)[:10]].mean() > 2 * degrees.mean()
    found = fitted.explain(3, [])
    assert found.constant == pytest.approx(found.score, abs=1e-5)


def test_checkerboard_ranks_the_own_colour_first(checkerboard):
    model = GraphFilter.fit(checkerboard)
    ranking = evaluate(model, checkerboard, k=(5,))
    own = ranking.items % 2 == ranking.users[:, None] % 2
    # 20 items of each colour: some users have fewer than five left.
    scores = model.score(np.arange(checkerboard.n_users))
    mine = np.arange(checkerboard.n_users)[:, None] % 2 == np.arange(checkerboard.n_items)[None, :] % 2
    assert own.mean() > 0.95
    assert (np.where(mine, scores, np.inf).min(axis=1) > np.where(mine, -np.inf, scores).max(axis=1)).all()


def test_same_on_every_run(noisy):
    first, second = (GraphFilter.fit(*noisy, seed=3) for _ in range(2))
    assert first.record == second.record
    np.testing.assert_array_equal(first.users, second.users)


def test_scores_that_are_computed_anew_choose_the_same(noisy, monkeypatch):
    kept = GraphFilter.fit(*noisy)
    monkeypatch.setattr(graph_filter, "KEPT_CELLS", 0)
    anew = GraphFilter.fit(*noisy)
    assert anew.record == kept.record
    np.testing.assert_array_equal(anew.users, kept.users)


@pytest.mark.parametrize(
    "given", [{}, {"user_text_weight": 0}, {"user_text_weight": 0, "text_weight": 0.8}, {"text_weight": 0}]
)
def test_the_recorded_validation_is_that_of_the_model(noisy, given):
    dataset, texts = noisy
    model = GraphFilter.fit(*noisy, GraphFilterConfig(neighbours=0, **given))
    measured = evaluate(model, dataset, 20, "valid").metrics()
    for name in ("recall@20", "ndcg@20"):
        assert model.record["validation"][name] == pytest.approx(measured[name], abs=1e-6), name
    history = dataset.train.items[dataset.train.users == 3]
    restored = load_state(model.state(), model.record)
    for one in (model, restored):
        np.testing.assert_allclose(
            one.fold_in(history, text=texts.users[3]).vectors[0], model.users[3], atol=1e-4
        )
    # The own text is named where the user's embedding would be another one without it.
    is_read = not np.allclose(model.fold_in(history).vectors[0], model.users[3], atol=1e-4)
    named = SparseParts.of(model, texts.users).own_parts(3, model.users[3], history)
    assert ("own text" in named) == is_read == (given.get("text_weight") != 0)


def test_exponents_from_a_sample_of_users(noisy, monkeypatch):
    whole = GraphFilter.fit(*noisy)
    monkeypatch.setattr(graph_filter, "TRIAL_INTERACTIONS", len(noisy[0].train) // 2)
    some = GraphFilter.fit(*noisy)
    assert some.record["validation"]["recall@20"] > 0.9 * whole.record["validation"]["recall@20"]


def test_exponents_that_coarse_filters_cannot_tell_apart(noisy, monkeypatch):
    monkeypatch.setattr(graph_filter, "TRIAL_INTERACTIONS", len(noisy[0].train) // 2)
    monkeypatch.setattr(search.Quality, "gain_over", lambda self, base: (self.mean - base.mean, 1.0))
    for options in ({}, {"smoothing": 0.2}, {"rank": 30}, {"user_exponent": 0.3}):
        model = GraphFilter.fit(*noisy, GraphFilterConfig(**options))
        closely = [trial for trial in model.record["trials"] if trial.get("accurate")]
        assert len(closely) == (0 if "smoothing" in options else 2)
        if closely:
            best = max(closely, key=lambda trial: trial["recall@20"] + trial["ndcg@20"])
            for name in ("user_exponent", "item_exponent"):
                assert model.record["chosen"][name] == best[name]
        # Neighbours never gain more than this standard error.
        assert model.record["chosen"]["neighbour_weight"] == 0


def test_a_higher_rank_is_tried_only_if_oversampling_vectors_rank_better(monkeypatch):
    rng = np.random.default_rng(0)
    groups = rng.integers(12, size=700), rng.integers(12, size=600)
    matrix = (groups[0][:, None] == groups[1]) & (rng.random((700, 600)) < 0.35)
    every = Interactions(*np.nonzero(matrix), 700, 600)
    names = (Vocabulary((f"{kind}{i}" for i in range(n)), kind) for kind, n in (("user", 700), ("item", 600)))
    dataset = Dataset("groups", *split_by_ratio(every, (3, 1, 1), rng), *names)
    monkeypatch.setattr(graph_filter, "RANK", 16)
    one_fit = {"user_exponent": 0.3, "item_exponent": 0.3}

    def highest():
        record = GraphFilter.fit(dataset, config=one_fit).record
        return max(trial["rank"] for trial in record["trials"] if "rank" in trial)

    # Twelve groups: more than 16 vectors hold noise alone.
    assert highest() == 32
    monkeypatch.setattr(graph_filter, "RANK", 4)
    assert highest() >= 16


def test_lower_ranks_are_tried_where_a_few_groups_are_all_there_is():
    dataset, _ = blocks(6, users=50, items=50, density=0.1)
    for most, ranks in ((128, {4, 8, 16, 32, 64, 96, 128}), (24, {6, 12, 18, 24})):
        record = GraphFilter.fit(dataset, config=GraphFilterConfig(neighbours=0, max_rank=most)).record
        assert record["chosen"]["rank"] < graph_filter.RANK // 4
        assert {trial["rank"] for trial in record["trials"] if "rank" in trial} == ranks
    # The exponents are chosen without item neighbours where these have no weight.
    same = GraphFilter.fit(dataset, config=GraphFilterConfig(neighbour_weight=0, max_rank=24)).record
    assert same["trials"] == record["trials"]


def test_close_exponents_are_compared_by_whole_fits(noisy, monkeypatch):
    dataset, _ = noisy
    options = GraphFilterConfig(neighbours=0)

    def mean(one):
        return one["recall@20"] + one["ndcg@20"]

    def exponents(one):
        return one["user_exponent"], one["item_exponent"]

    record = GraphFilter.fit(dataset, config=options).record
    tried = [one for one in record["trials"] if "smoothed" in one]
    coarse, whole = ([one for one in tried if ("coarse" in one) == wanted] for wanted in (True, False))
    proposed = sorted(coarse, key=mean, reverse=True)[:2]
    assert [exponents(one) for one in whole] == [exponents(one) for one in proposed]
    assert exponents(record["chosen"]) == exponents(max(whole, key=mean)) == exponents(proposed[1])
    monkeypatch.setattr(graph_filter, "CLOSE", -np.inf)
    alone = GraphFilter.fit(dataset, config=options).record
    assert exponents(alone["chosen"]) == exponents(proposed[0])
    assert mean(alone["validation"]) < mean(record["validation"])


@pytest.mark.parametrize(("given", "value"), [("user_exponent", 0.333), ("item_exponent", 0.125)])
def test_a_given_exponent_is_taken_as_it_is(noisy, given, value):
    dataset, _ = noisy
    record = GraphFilter.fit(
        dataset, config=GraphFilterConfig(**{given: value}, neighbours=0, max_rank=8)
    ).record
    assert record["chosen"][given] == value
    assert {trial[given] for trial in record["trials"] if given in trial} == {value}


def test_items_borrow_history_by_their_texts_where_validation_gains(noisy, monkeypatch):
    dataset, texts = noisy
    short = cut_history(dataset, 2, "random", 1)
    wrong = texts.items[np.random.default_rng(0).permutation(dataset.n_items)]
    models = {
        (name, *options.items()): GraphFilter.fit(short, Texts(items), options)
        for name, items in (("right", texts.items), ("wrong", wrong))
        for options in ({"text_weight": 1e-3}, {"text_weight": 0}, {"text_weight": 0, "smoothing": 0.5})
    }
    chosen = {key: model.record["chosen"]["smoothing"] for key, model in models.items()}
    assert [weight for (name, *_), weight in chosen.items() if name == "right"] == [0.5, 0, 0.5]
    assert [weight for (name, *_), weight in chosen.items() if name == "wrong"] == [0, 0, 0.5]
    records = {name: models[name, ("text_weight", 1e-3)].record for name in ("right", "wrong")}
    without = models["right", ("text_weight", 0)].record["validation"]["recall@20"]
    assert records["right"]["validation"]["recall@20"] > 1.04 * without
    assert any(
        note.startswith("smoothing: used, validation changes by +") for note in records["right"]["notes"]
    )
    assert any(note.startswith("smoothing: not used, ") for note in records["wrong"]["notes"])
    # Not tried: in large data, and with long histories.
    for name in ("SMOOTHING_CELLS", "SMOOTHING_HISTORY"):
        with monkeypatch.context() as changed:
            changed.setattr(graph_filter, name, 0)
            record = GraphFilter.fit(short, Texts(texts.items), {"text_weight": 1e-3}).record
            assert record["chosen"]["smoothing"] == 0
            assert not any(note.startswith("smoothing") for note in record["notes"])


def test_text_that_helps_is_used_and_shuffled_text_is_not(noisy):
    dataset, texts = noisy
    right = GraphFilter.fit(dataset, texts)
    assert right.record["chosen"]["user_text_weight"] > 0
    rng = np.random.default_rng(0)
    wrong = Texts(texts.items[rng.permutation(150)], texts.users[rng.permutation(300)])
    other = GraphFilter.fit(dataset, wrong)
    assert any("not used" in note for note in other.record["notes"])
    # Without a better weight above 0 nothing was measured, so no difference of 0 is told.
    told = "".join(other.record["notes"])
    assert "changes by +0.0000 (standard error 0.0000)" not in told
    assert any(
        note.endswith("not used, no weight above 0 ranks better on validation")
        for note in other.record["notes"]
    ), other.record["notes"]
    assert right.record["validation"]["recall@20"] > other.record["validation"]["recall@20"]


def test_explicit_options_are_respected(noisy, fitted):
    chosen = fitted.record["chosen"]
    for name, value in OPTIONS.items():
        assert chosen[name] == value


def test_smoothing_is_folded_in_exactly(noisy):
    dataset, texts = noisy
    config = GraphFilterConfig(**OPTIONS | {"smoothing": 0.3, "user_text_weight": 0})
    model = GraphFilter.fit(dataset, texts, config)
    items = dataset.train.csr()[[4]].indices
    parts = model.fold_in(items, text=texts.users[4], own=4)
    np.testing.assert_allclose(parts.vectors[0], model.users[4], atol=1e-5)
    # Items borrow history by their texts also where the texts themselves have no weight.
    smoothed, texts_too = (
        GraphFilter.fit(dataset, Texts(texts.items), config.model_copy(update={"text_weight": weight}))
        for weight in (0, 1e-9)
    )
    every = np.arange(dataset.n_users)
    np.testing.assert_allclose(smoothed.score(every), texts_too.score(every), atol=1e-5)


def test_vectors_that_are_not_accurate_enough_are_told(noisy, monkeypatch):
    monkeypatch.setattr(svd, "EXACT_SIZE", 10)
    for accuracy, told in ((1e-9, True), (0.05, False)):
        model = GraphFilter.fit(*noisy, GraphFilterConfig(**OPTIONS, accuracy=accuracy))
        assert any("above the accuracy of" in note for note in model.record["notes"]) == told


def test_no_validation_split_takes_defaults(noisy, without_held_out):
    dataset, texts = noisy
    model = GraphFilter.fit(without_held_out(dataset), texts)
    assert any("no validation split" in note for note in model.record["notes"])
    assert model.record["chosen"]["rank"] == 128
    fixed = GraphFilter.fit(without_held_out(dataset), texts, FIXED)
    assert not any("no validation split" in note for note in fixed.record["notes"]), "nothing was left open"
    assert np.isfinite(model.score(np.arange(dataset.n_users))).all()


def test_a_model_is_shown_in_one_line(noisy):
    dataset, texts = noisy
    shown = repr(GraphFilter.fit(dataset, texts, FIXED))
    assert shown.startswith(
        f"ClosedFormModel(graph-filter, {dataset.n_users} users, {dataset.n_items} items, "
    )
    assert "text_weight=" in shown
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_a_data_frame_instead_of_a_dataset_is_named(name):
    with pytest.raises(
        ConfigError, match=r"dataset has type DataFrame: expected a Dataset, such as Dataset\.from_fr"
    ):
        RECOMMENDERS.resolve(name).fit(pl.DataFrame({"user_id": [1], "item_id": [2]}))


@pytest.mark.parametrize("case", ["equal", "none", "zero", "masked"])
def test_texts_that_tell_nothing_are_left_out_with_a_note(noisy, case):
    dataset, texts = noisy
    equal = np.full_like(texts.items, 0.7)
    given = {
        "equal": Texts(equal, np.full_like(texts.users, 0.7)),
        "none": Texts(np.zeros_like(equal)),
        "zero": Texts(np.zeros((dataset.n_items, 0), np.float32)),
        "masked": Texts(texts.items, None, np.zeros(dataset.n_items, bool)),
    }[case]
    model = GraphFilter.fit(dataset, given)
    assert any("equal or absent" in note for note in model.record["notes"])
    plain = GraphFilter.fit(dataset)
    np.testing.assert_array_equal(model.score(np.arange(5)), plain.score(np.arange(5)))
    with pytest.raises(DataError, match="reads no item texts"):
        model.add_items(np.zeros((1, 12), np.float32))


def test_users_and_items_without_a_text(noisy):
    dataset, texts = noisy
    rng = np.random.default_rng(0)
    part = Texts(texts.items, texts.users, rng.random(150) < 0.7, rng.random(300) < 0.5)
    model = GraphFilter.fit(dataset, part, FIXED)
    without = np.flatnonzero(~part.has_user)
    assert not model.direct[without].nnz
    alike = GraphFilter.fit(dataset, part, FIXED.model_copy(update={"user_power": 0}))
    assert not alike.direct[without].nnz, "also where all similar users weigh the same"
    assert np.isfinite(model.score(np.arange(dataset.n_users))).all()
    zeros = Texts(*(np.where(has[:, None], rows, np.float32(0))
                    for rows, has in ((part.items, part.has_item), (part.users, part.has_user))))  # fmt: skip
    same = GraphFilter.fit(dataset, zeros, FIXED)
    np.testing.assert_array_equal(same.score(np.arange(300)), model.score(np.arange(300)))
    size = model.rule.item_texts.whitening.size
    assert not model.add_items(np.zeros((1, texts.items.shape[1])))[:, -size - 1 : -1].any()


@pytest.mark.parametrize(("n_users", "n_items"), [(2, 2), (2, 5), (6, 2), (30, 3)])
def test_tiny_data(make_dataset, n_users, n_items):
    users, items = np.divmod(np.arange(n_users * n_items), n_items)
    kept = (users + items) % 3 != 0
    kept[users == 0] = True
    texts = Texts(np.eye(n_items, 4, dtype=np.float32), np.eye(n_users, 4, dtype=np.float32))
    dataset = make_dataset(users[kept], items[kept], n_users, n_items)
    for given in (None, texts):
        model = GraphFilter.fit(dataset, given, GraphFilterConfig(rank=1000))
        assert np.isfinite(model.score(np.arange(n_users))).all()
        assert any("rank 1000 is above the matrix's" in note for note in model.record["notes"])


def test_refuses(fitted, noisy):
    with pytest.raises(DataError, match=r"item rows span 3..150"):
        fitted.fold_in([3, 150])
    with pytest.raises(DataError, match="more than once"):
        fitted.fold_in([3, 3])
    with pytest.raises(DataError, match="expected 2 weights"):
        fitted.fold_in([3, 4], [1])
    for size in (1, 5):  # one number would be taken for twelve
        with pytest.raises(DataError, match="expected 12"):
            fitted.fold_in([3], text=np.ones(size, np.float32))
    with pytest.raises(ConfigError, match="expected GraphFilterConfig or a mapping"):
        GraphFilter.fit(noisy[0], None, object())
    with pytest.raises(ConfigError, match=r"unknown option 'rnk' \(did you mean 'rank'\?\)"):
        GraphFilter.fit(noisy[0], None, {"rnk": 3})
