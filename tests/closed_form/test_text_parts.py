"""Whitening, neighbours, the TF-IDF encoder and the map from text."""

import numpy as np
import pytest
import scipy.sparse as sp

from rlmrec.closed_form import neighbours
from rlmrec.closed_form.graph_rule import ItemTexts, TextMap
from rlmrec.closed_form.neighbours import (
    largest,
    largest_products,
    nearest,
    similarity_graph,
    times_products,
)
from rlmrec.errors import DataError, WorkspaceError
from rlmrec.linalg import unit_rows
from rlmrec.text import whitening
from rlmrec.text.tfidf import TfidfConfig, TfidfEncoder
from rlmrec.text.whitening import Whitening

TEXTS = [
    "a space opera",
    "a western",
    "space western with robots",
    "robots",
    "",
    "opera robots space",
    "western",
]


@pytest.mark.parametrize("power", [0, 0.5, 1])
def test_whitening_scales_the_spectrum(power):
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((200, 6)) * [9, 5, 3, 2, 1, 0.5] + 4).astype(np.float32)
    whitening = Whitening.fit(vectors, power)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left * values**power
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    # The signs of singular vectors are free: cosines are not.
    np.testing.assert_allclose(whitening(vectors) @ whitening(vectors).T, expected @ expected.T, atol=1e-4)


def test_whitening_of_masked_equal_and_new_vectors():
    vectors = np.array([[1, 2], [3, 1], [9, 9], [2, 5]], np.float32)
    mask = np.array([True, True, False, True])
    whitening = Whitening.fit(vectors, mask=mask)
    assert not whitening(vectors, mask=mask)[2].any()
    np.testing.assert_allclose(Whitening.fit(vectors[mask]).mean, whitening.mean)
    restored = Whitening.from_state(whitening.state())
    np.testing.assert_array_equal(restored(vectors), whitening(vectors))
    assert Whitening.fit(np.full((5, 3), 7.3, np.float32)).size == 0
    assert Whitening.fit(np.zeros((0, 3), np.float32)).size == 0
    with pytest.raises(DataError, match="have 3 dimensions, expected 2"):
        whitening(np.zeros((1, 3), np.float32))
    with pytest.raises(DataError, match="row 1 holds NaN"):
        Whitening.fit(np.array([[0, 1], [np.nan, 0]], np.float32))


def test_own_texts_are_checked_once(monkeypatch):
    vectors = np.array([[1, 2], [3, 1], [2, 5]], np.float32)
    item_texts = ItemTexts(Whitening.fit(vectors), vectors, vectors.mean(axis=0))
    checked = []
    monkeypatch.setattr(whitening, "_check", lambda given: checked.append(len(given)))
    assert item_texts.own(vectors, 3).shape == (3, 2)
    assert checked == [3]
    with pytest.raises(DataError, match="have 3 dimensions, expected 2"):  # before they are centred
        item_texts.own(np.ones((1, 3), np.float32), 1)


def test_nearest_equals_sorting_all():
    rng = np.random.default_rng(0)
    vectors = unit_rows(rng.standard_normal((300, 8)).astype(np.float32))
    own = np.arange(300)
    ids, cosines = nearest(vectors, vectors, 5, own)
    dense = np.round(vectors @ vectors.T, 4)
    np.fill_diagonal(dense, -np.inf)
    np.testing.assert_array_equal(ids, np.argsort(-dense, axis=1, kind="stable")[:, :5])
    assert (np.diff(cosines, axis=1) <= 0).all()
    assert nearest(vectors[:2], vectors[:3], 9)[0].shape == (2, 3)


def test_similarity_graph_is_symmetric_and_bounded():
    vectors = unit_rows(np.random.default_rng(0).standard_normal((80, 5)).astype(np.float32))
    vectors[3] = 0
    graph = similarity_graph(vectors, 4).toarray()
    np.testing.assert_allclose(graph, graph.T, atol=1e-6)
    assert not graph.diagonal().any()
    assert not graph[3].any()
    assert np.linalg.eigvalsh(graph).max() <= 1 + 1e-5


@pytest.mark.parametrize("dense", [0, 10**9])
@pytest.mark.parametrize("m", [1, 3, 5, 40])
def test_products_are_never_made_whole(m, dense, monkeypatch):
    monkeypatch.setattr(neighbours, "DENSE", dense)  # each of the two ways for all blocks
    monkeypatch.setattr(neighbours, "SPARSE", dense)
    rng = np.random.default_rng(0)
    matrix = sp.csr_array(rng.integers(0, 3, (50, 30)) * (rng.random((50, 30)) < 0.3), dtype=np.float32)
    whole = (matrix.T @ matrix).tocsr()
    kept = largest_products(matrix, m)
    np.testing.assert_array_equal(kept.toarray(), largest(whole, m).toarray())
    assert kept.indices.dtype == kept.indptr.dtype == np.int32
    rows = matrix[:7]
    found = times_products(rows, matrix, sp.csr_array(matrix.T))
    np.testing.assert_allclose(found, (rows @ whole).toarray(), rtol=1e-5)


def test_largest_keeps_the_largest():
    dense = np.random.default_rng(0).standard_normal((20, 30))
    dense[np.abs(dense) < 0.5] = 0
    found = largest(sp.csr_array(dense), 4).toarray()
    for row, kept in zip(dense, found, strict=True):
        best = np.argsort(-np.abs(row), kind="stable")[:4]
        np.testing.assert_array_equal(np.flatnonzero(kept), np.sort(best[row[best] != 0]))


def test_tfidf_equals_scikit_learn():
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [f"{TEXTS[i % 7]} {TEXTS[i % 5]} word{i % 4} word{i % 6}" for i in range(40)]
    encoder = TfidfEncoder.fit(texts, TfidfConfig(dim=100, max_share=1.0))
    theirs = TfidfVectorizer(sublinear_tf=True, min_df=2).fit_transform(texts)
    assert sorted(encoder.terms) == sorted(TfidfVectorizer(min_df=2).fit(texts).get_feature_names_out())
    ours = encoder.encode(texts)
    # All but one direction is kept, so cosines nearly are those of the sparse rows.
    np.testing.assert_allclose(ours @ ours.T, (theirs @ theirs.T).toarray(), atol=0.02)


def test_tfidf_round_trip_and_new_texts():
    encoder = TfidfEncoder.fit(TEXTS, TfidfConfig(dim=3))
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (7, encoder.dim)
    assert vectors.dtype == np.float32
    assert not vectors[4].any()
    new = ["western robots", "nothing known", ""]
    state = encoder.state()
    assert all(isinstance(array, np.ndarray) and array.dtype != object for array in state.values())
    restored = TfidfEncoder.from_state(state)
    np.testing.assert_array_equal(restored.encode(new), encoder.encode(new))
    assert not encoder.encode(new)[1:].any()
    assert (restored.name, restored.dim) == (encoder.name, encoder.dim)
    assert encoder.encode([]).shape == (0, encoder.dim)


@pytest.mark.parametrize(
    "fitted",
    [
        TfidfEncoder.fit(TEXTS, TfidfConfig(dim=3)),
        Whitening.fit(np.random.default_rng(0).standard_normal((9, 3), np.float32)),
    ],
    ids=["tfidf", "whitening"],
)
def test_a_damaged_file_of_an_encoder_is_written_again(fitted, tmp_path):
    path = tmp_path / fitted.save(tmp_path)
    path.write_bytes(b"x")
    with pytest.raises(WorkspaceError, match=r"damaged.*; encode the texts again"):
        type(fitted).load(path)
    fitted.save(tmp_path)
    assert type(fitted).load(path).digest == fitted.digest


def test_tfidf_of_next_to_nothing():
    assert TfidfEncoder.fit(["word"]).encode(["word", "other"]).any(axis=1).tolist() == [True, False]
    with pytest.raises(DataError, match="no term is left of 2 texts"):
        TfidfEncoder.fit(["", "?"])


def test_text_map_equals_kernel_ridge():
    rng = np.random.default_rng(0)
    inputs = unit_rows(rng.standard_normal((60, 4)).astype(np.float32))
    targets = rng.standard_normal((60, 3)).astype(np.float32)
    kernel = np.exp(2.0 * (inputs.astype(np.float64) @ inputs.T - 1))
    expected = kernel @ np.linalg.solve(kernel + 0.5 * np.eye(60), targets)
    found = TextMap.fit(inputs, targets, gamma=2, ridge=0.5)
    np.testing.assert_allclose(found(inputs), expected, atol=5e-3)
    restored = TextMap.from_state(found.state())
    np.testing.assert_array_equal(restored(inputs[:3]), found(inputs[:3]))


def test_text_map_stays_accurate_where_the_kernel_is_nearly_flat():
    rng = np.random.default_rng(0)
    inputs = unit_rows(rng.standard_normal((900, 5)).astype(np.float32))
    targets = (inputs**2).astype(np.float32)
    kernel = np.exp(0.3 * (inputs.astype(np.float64) @ inputs.T - 1))
    expected = kernel @ np.linalg.solve(kernel + 0.1 * np.eye(900), targets)
    found = TextMap.fit(inputs, targets, gamma=0.3, ridge=0.1)
    np.testing.assert_allclose(found(inputs), expected, atol=5e-3)
