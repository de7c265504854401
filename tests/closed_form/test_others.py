"""Popularity, ItemKNN, EASE and iALS against dense references in float64."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from rlmrec.closed_form import EASE, IALS, RECOMMENDERS, ItemKNN, Popularity, Texts, base, load_state
from rlmrec.closed_form.ease import EASEConfig
from rlmrec.closed_form.ials import IALSConfig, LeastSquaresRule
from rlmrec.closed_form.itemknn import ItemKNNConfig
from rlmrec.data.interactions import joined
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.linalg import unit_rows
from rlmrec.testing import blocks, check_closed_form
from rlmrec.text import encode_dataset
from rlmrec.text.embeddings import TextEmbeddings, mean_over_training


def scaled(dataset, a, b):
    train = dataset.train.csr().toarray().astype(np.float64)
    of_users, of_items = np.maximum(train.sum(axis=1), 1), np.maximum(train.sum(axis=0), 1)
    return of_users[:, None] ** -a * train * of_items**-b


def users_of(dataset):
    return np.arange(dataset.n_users)


def same_order_of_scores(found, expected):
    """Up to a factor for each user, which ranking does not see."""
    spread = expected.std(axis=1, keepdims=True)
    kept = spread.ravel() > 0
    ratio = found.std(axis=1, keepdims=True)[kept] / spread[kept]
    np.testing.assert_allclose(found[kept], expected[kept] * ratio, rtol=1e-3, atol=1e-4)


def test_popularity(noisy):
    dataset, _ = noisy
    model = Popularity.fit(dataset)
    expected = dataset.train.item_degrees() / dataset.n_users
    np.testing.assert_allclose(model.score(np.array([0, 7])), np.stack([expected] * 2), rtol=1e-6)
    found = model.explain(3, [1, 2])
    assert not found.contributions.any()
    assert found.constant == pytest.approx(expected[3])
    with pytest.raises(DataError, match="reads no item texts"):
        model.add_items(np.zeros((1, 3), np.float32))


def test_itemknn_is_the_two_hop_filter(noisy):
    dataset, _ = noisy
    config = ItemKNNConfig(user_exponent=0.5, item_exponent=0.3, neighbours=10_000)
    model = ItemKNN.fit(dataset, None, config)
    matrix = scaled(dataset, 0.5, 0.3)
    same_order_of_scores(model.score(users_of(dataset)), matrix @ matrix.T @ matrix)


def test_itemknn_keeps_the_nearest_of_each_item(noisy):
    dataset, _ = noisy
    model = ItemKNN.fit(dataset, None, ItemKNNConfig(user_exponent=0.5, item_exponent=0.3, neighbours=5))
    matrix = scaled(dataset, 0.5, 0.3)
    whole = matrix.T @ matrix
    for item in range(0, dataset.n_items, 10):
        column = model.neighbours.toarray()[:, item]
        bar = np.sort(whole[:, item])[-5]
        np.testing.assert_allclose(column[column > 0], whole[column > 0, item], rtol=1e-5)
        assert (whole[column > 0, item] >= bar - 1e-6).all()


def test_ease(noisy):
    dataset, _ = noisy
    config = EASEConfig(user_exponent=0.2, item_exponent=0.1, ridge=10, neighbours=1000)
    model = EASE.fit(dataset, None, config)
    matrix = scaled(dataset, 0.2, 0.1)
    gram = matrix.T @ matrix
    diagonal = gram.diagonal()
    # The normal equations with one multiplier an item, solved column by column.
    shifted = gram + 10 * np.median(diagonal[diagonal > 0]) * np.eye(len(gram))
    expected = np.zeros_like(gram)
    for item in range(len(gram)):
        others = np.arange(len(gram)) != item
        expected[others, item] = np.linalg.solve(shifted[np.ix_(others, others)], gram[others, item])
    same_order_of_scores(model.score(users_of(dataset)), matrix @ expected)


def test_ease_with_text(noisy):
    dataset, texts = noisy
    config = EASEConfig(
        user_exponent=0, item_exponent=0, ridge=2, text_ridge=3, text_spread=4, neighbours=1000
    )
    model = EASE.fit(dataset, texts, config)
    matrix = scaled(dataset, 0, 0)
    gram = matrix.T @ matrix
    unit = np.median(gram.diagonal()[gram.diagonal() > 0])
    vectors = texts.items / np.linalg.norm(texts.items, axis=1, keepdims=True)
    of_texts = vectors.astype(np.float64) @ vectors.T
    prior, expected = np.zeros_like(gram), np.zeros_like(gram)
    for item in range(len(gram)):
        others = np.arange(len(gram)) != item
        within = np.ix_(others, others)
        eye = np.eye(len(gram) - 1)
        prior[others, item] = np.linalg.solve(of_texts[within] + 4 * eye, of_texts[others, item])
        expected[others, item] = np.linalg.solve(
            gram[within] + (2 + 3) * unit * eye, gram[others, item] + 3 * unit * prior[others, item]
        )
    np.testing.assert_allclose(model.neighbours.toarray(), expected, atol=1e-4)


def test_ease_chooses_its_ridge_and_refuses(noisy):
    dataset, _ = noisy
    assert EASE.fit(dataset).record["chosen"]["ridge"] in (3, 30, 300)
    with pytest.raises(ConfigError, match="there are no text vectors"):
        EASE.fit(dataset, None, EASEConfig(text_ridge=1))


def test_least_squares_rule(noisy):
    dataset, _ = noisy
    rng = np.random.default_rng(0)
    items = rng.standard_normal((dataset.n_items, 8)).astype(np.float32)
    rule = LeastSquaresRule(items, confidence=5, regularization=0.7)
    train = dataset.train.csr()
    found = rule.parts(train).vectors
    wide = items.astype(np.float64)
    for user in range(0, dataset.n_users, 30):
        row = train[[user]].toarray()[0].astype(np.float64)
        system = wide.T @ np.diag(1 + 5 * row) @ wide + 0.7 * np.eye(8)
        expected = np.linalg.solve(system, wide.T @ ((1 + 5 * row) * row))
        np.testing.assert_allclose(found[user], expected, atol=1e-5)
        rows = np.flatnonzero(row)
        shares = rule.split(rows, np.ones(len(rows), np.float32), None)
        np.testing.assert_allclose(shares.sum(axis=0), expected, atol=1e-4)


def test_ials(checkerboard):
    pytest.importorskip("implicit")
    model = IALS.fit(checkerboard, None, IALSConfig(dim=4))
    scores = model.score(users_of(checkerboard))
    mine = users_of(checkerboard)[:, None] % 2 == np.arange(checkerboard.n_items)[None, :] % 2
    assert scores[mine].mean() > scores[~mine].mean() + 0.3


def test_ials_says_what_to_install(checkerboard, monkeypatch):
    monkeypatch.setitem(sys.modules, "implicit", None)
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(ConfigError, match=r"pip install 'rlmrec\[benchmark\]'"):
        IALS.fit(checkerboard)


@pytest.mark.parametrize("with_texts", [False, True])
@pytest.mark.parametrize("name", RECOMMENDERS)
def test_every_closed_form_passes_its_check(toy, name, with_texts):
    if name == "ials":
        pytest.importorskip("implicit")
    dataset, text_embeddings = toy
    check_closed_form(RECOMMENDERS[name], dataset, text_embeddings if with_texts else None)


def test_a_record_of_another_kind():
    with pytest.raises(WorkspaceError, match="made by 'magic'"):
        load_state({}, {"recommender": "magic"})


def other_split(dataset):
    """The same users, items and interactions, those of validation in training."""
    nothing = dataset.valid.take(np.empty(0, np.int64))
    return replace(dataset, train=joined([dataset.train, dataset.valid]), valid=nothing)


@pytest.mark.parametrize("recorded", [True, False])
def test_means_are_no_texts_of_the_users(recorded):
    dataset, given = blocks()
    sentences = [
        f"{['heist', 'comedy', 'space', 'crime', 'opera'][row % 5]} {row % 7}"
        for row in range(dataset.n_items)
    ]
    made = encode_dataset(dataset, "tfidf", sentences)
    stored = made if recorded else replace(made, manifest={})
    half = made.users.astype(np.float16).astype(np.float32)
    for users in (made.users, unit_rows(made.users), half, unit_rows(half)):
        for known in (dataset, dataset.final()):  # whose training split has other means
            assert Texts.of(replace(stored, users=users), known).users is None
    final = dataset.final()
    of_final = replace(stored, users=mean_over_training(made.items, final.train))
    assert Texts.of(of_final, final).users is None
    assert Texts.of(given, dataset).has_user.all()

    some = [None if row % 2 else f"heist {row % 5}" for row in range(dataset.n_users)]
    mixed = encode_dataset(dataset, "tfidf", sentences, some)
    for known in (dataset, final):
        assert Texts.of(mixed, known).has_user.tolist() == [text is not None for text in some]


def test_texts_of_another_dataset_and_of_other_kinds_are_refused():
    dataset, text_embeddings = blocks()
    vectors = text_embeddings.items
    with pytest.raises(DataError, match="made for another dataset"):
        Texts.of(text_embeddings, other_split(dataset))
    with pytest.raises(DataError, match="text vectors for 60 users, the dataset has 90"):
        Texts.of(text_embeddings, blocks(users=30)[0])
    with pytest.raises(ConfigError, match="text_embeddings has type ndarray: expected TextEmbeddings"):
        Texts.of(vectors, dataset)
    assert repr(Texts.of(text_embeddings, dataset)) == (
        "Texts(45 items with a text, 60 users with a text, 8 dimensions)"
    )


@pytest.mark.parametrize(
    "kind", [RECOMMENDERS.resolve(name) for name in RECOMMENDERS], ids=list(RECOMMENDERS)
)
def test_fit_takes_text_embeddings_as_texts_and_refuses_what_does_not_fit(kind, monkeypatch):
    if kind is IALS:
        pytest.importorskip("implicit")
    dataset, given = blocks()
    means = mean_over_training(given.items, dataset.train)
    text_embeddings = TextEmbeddings(means, given.items, given.manifest)
    by_embeddings, by_texts = (
        kind.fit(dataset, texts) for texts in (text_embeddings, Texts.of(text_embeddings, dataset))
    )
    if kind in (Popularity, IALS, ItemKNN):  # which read no texts: no means are computed to ignore them
        with monkeypatch.context() as patch:
            patch.setattr(base, "mean_over_training", None)
            kind.fit(dataset, replace(text_embeddings, manifest={}))
    assert by_embeddings.fingerprint == dataset.fingerprint
    assert np.array_equal(by_embeddings.score(users_of(dataset)), by_texts.score(users_of(dataset)))
    with pytest.raises(DataError, match="made for another dataset"):
        kind.fit(other_split(dataset), text_embeddings)
    items, users = given.items, given.users
    with pytest.raises(
        ConfigError, match=r"texts has type ndarray: expected Texts\.of\(text_embeddings, dataset\)"
    ):
        kind.fit(dataset, items)
    for wrong, told in (
        (Texts(items[:5]), r"items have shape \(5, 8\), expected \(45, d_s\)"),
        (Texts(items.tolist()), "the text vectors of items are a list: expected an array of NumPy"),
        (Texts(items, has_item=[True] * len(items)), "has_item is a list: expected an array of NumPy"),
        (Texts(items[0]), r"items have shape \(8,\), expected \(45, d_s\)"),
        (Texts(items, users[:10]), r"users have shape \(10, 8\), expected \(60, 8\)"),
        (Texts(items, users[:, :3]), r"users have shape \(60, 3\), expected \(60, 8\)"),
        (Texts(items, users, has_user=np.ones(3, bool)), r"has_user has shape \(3,\), expected \(60,\)"),
    ):
        with pytest.raises(DataError, match=told):
            kind.fit(dataset, wrong)


@pytest.mark.parametrize("name", ["popularity", "itemknn", "ease"])
def test_fold_in_explanation_and_state(noisy, name):
    dataset, _ = noisy
    model = RECOMMENDERS[name].fit(dataset)
    restored = load_state(model.state(), model.record)
    np.testing.assert_array_equal(restored.score(users_of(dataset)), model.score(users_of(dataset)))
    for user in (0, 3, 50):
        items = dataset.train.csr()[[user]].indices
        own = model.score(np.array([user]))[0]
        np.testing.assert_allclose(restored.score_parts(restored.fold_in(items))[0], own, atol=1e-5)
        found = restored.explain(7, items)
        assert found.score == pytest.approx(float(own[7]), abs=1e-5)
