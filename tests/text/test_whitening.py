"""Whitened text vectors: what is stored, what new texts get, and that a closed form is none the worse for them."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from rlmrec import linalg
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.experiments.run import run
from rlmrec.experiments.spec import RunSpec
from rlmrec.linalg import gram_matrix
from rlmrec.recommend.cold_start import ColdStart
from rlmrec.recommend.recommender import Recommender
from rlmrec.testing import blocks, check_text_encoder
from rlmrec.text import (
    TextEmbeddings,
    TextEncoder,
    VectorCache,
    encode_dataset,
    encode_texts,
    encoder_of,
)
from rlmrec.text.encoder import CombinedEncoder
from rlmrec.text.tfidf import Tfidf
from rlmrec.text.whitening import WhitenedEncoder, Whitening


class Letters(TextEncoder):
    name, dim = "letters 1", 8

    def encode(self, texts):
        counts = [[text.lower().count(chr(97 + i)) for i in range(8)] for text in texts]
        return np.array(counts, np.float32).reshape(len(texts), 8)


def words(rows, seed=0):
    rng = np.random.default_rng(seed)
    return [
        " ".join("".join(rng.choice(list("abcdefgh"), 4)) for _ in range(rng.integers(8, 16)))
        for _ in range(rows)
    ]


@pytest.fixture
def dataset():
    return blocks()[0]


def by_hand(vectors, fitted_on, power):
    """P S^p of the centred rows, by their SVD in float64."""
    mean = fitted_on.mean(axis=0, dtype=np.float64)
    _, spread, directions = np.linalg.svd(fitted_on - mean, full_matrices=False)
    scaled = (vectors - mean) @ directions.T * spread ** (power - 1)
    return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)


@pytest.mark.parametrize("power", [0, 0.5, 1])
def test_items_users_and_new_texts_are_whitened_alike(dataset, tmp_path, power):
    items, users = words(dataset.n_items), words(dataset.n_users, 1)
    found = encode_dataset(
        dataset,
        Letters(),
        items,
        users,
        whiten=power,
        encoders=tmp_path,
        manifest={"made_by": {"encoder": "my.py:L"}},
    )
    raw = Letters().encode(items + users)
    expected = by_hand(raw, raw, power)
    got = np.concatenate([found.items, found.users])
    np.testing.assert_allclose(
        got @ got.T, expected @ expected.T, atol=1e-4
    )  # signs are free, cosines are not
    assert found.manifest["whitening"] == {"power": power, "of": "letters 1"}
    stored = found.manifest["made_by"]["whitening"]
    new = WhitenedEncoder(Letters(), Whitening.load(tmp_path / stored["file"]), stored["power"])
    assert new.name == found.manifest["encoder"]
    np.testing.assert_allclose(new.encode(items[:3]), found.items[:3], atol=1e-5)
    check_text_encoder(new)


def test_whitened_vectors_are_read_as_they_were_written(dataset, tmp_path):
    items = [*words(dataset.n_items - 1), None]
    found = encode_dataset(dataset, Letters(), items, whiten=0.5)
    assert not found.items[-1].any()
    found.save(tmp_path / "t.safetensors")
    again = TextEmbeddings.load(tmp_path / "t.safetensors")
    np.testing.assert_allclose(again.items, found.items, atol=1e-6)
    np.testing.assert_allclose(again.users, found.users, atol=1e-6)
    assert again.digest == found.digest
    assert again.manifest == found.manifest
    plain = encode_dataset(dataset, Letters(), items)
    assert again.unwhitened.digest == plain.digest != again.digest
    assert again.unwhitened.manifest["encoder"] == "letters 1"
    shuffled = found.shuffled(np.random.default_rng(0))
    order = np.random.default_rng(0)
    order.permutation(dataset.n_users)
    np.testing.assert_allclose(shuffled.items, found.items[order.permutation(dataset.n_items)], atol=1e-6)


def test_a_closed_form_is_the_same_with_whitened_vectors(dataset, tmp_path):
    """It whitens by itself, so it is given the vectors before whitening; new texts are encoded likewise."""
    plain, white = (
        encode_dataset(
            dataset, Tfidf(), words(dataset.n_items), whiten=power, encoders=tmp_path / "encoders",
            manifest={"made_by": {"encoder": "tfidf"}},
        )
        for power in (None, 0.5)
    )  # fmt: skip
    spec = RunSpec.resolve(
        "graph-filter",
        options={
            "text_weight": 0.5,
            "user_exponent": 0.3,
            "item_exponent": 0.3,
            "neighbours": 0,
            "rank": 8,
            "ridge": 2,
        },
    )
    opened = []
    for name, texts in (("plain", plain), ("white", white)):
        run(spec, dataset, texts, tmp_path / name)
        opened.append(Recommender.load(tmp_path / name / "recommender"))
    users = np.arange(dataset.n_users)
    scores = [one.scorer().score(users) for one in opened]
    np.testing.assert_array_equal(*scores)
    encoders = [encoder_of(one.manifest["texts"], folder=tmp_path / "encoders") for one in opened]
    assert encoders[0].name == encoders[1].name


def test_a_change_of_the_vectors_reaches_what_is_whitened(dataset):
    texts = encode_dataset(dataset, Letters(), words(dataset.n_items))
    users = texts.users[::-1]
    found = texts.whitened(0.5).mapped(lambda raw: replace(raw, users=users, manifest={}))
    np.testing.assert_array_equal(found.unwhitened.users, users)
    expected = replace(texts, users=users).whitened(0.5)
    np.testing.assert_allclose(found.users, expected.users, atol=1e-6)
    assert found.manifest["encoder"] == expected.manifest["encoder"]
    assert "dataset" not in found.manifest
    assert texts.mapped(lambda raw: raw) is texts


def test_cold_start_whitens_new_texts(dataset, tmp_path):
    texts = encode_dataset(
        dataset,
        Tfidf(),
        words(dataset.n_items),
        whiten=0.5,
        encoders=tmp_path,
        manifest={"made_by": {"encoder": "tfidf"}},
    )
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((n, 4)).astype(np.float32) for n in (dataset.n_users, dataset.n_items))
    cold = ColdStart.fit(Recommender.of(dataset, *vectors), texts, dataset)
    encoder = encoder_of(cold.manifest, folder=tmp_path)
    np.testing.assert_allclose(encoder.encode(words(dataset.n_items)[:2]), texts.items[:2], atol=1e-5)
    assert not encoder.encode(["zzz"]).any(), "a text without a known word says nothing"
    next(tmp_path.glob("whitening-*")).unlink()
    with pytest.raises(WorkspaceError, match="encode the texts again"):
        encoder_of(cold.manifest, folder=tmp_path)


def test_what_cannot_be_whitened_is_refused(dataset):
    texts = encode_dataset(dataset, Letters(), words(dataset.n_items))
    with pytest.raises(ConfigError, match=r"is 2: expected a number from 0 to 1"):
        texts.whitened(2)
    with pytest.raises(ConfigError, match="whitened already"):
        texts.whitened(0.5).whitened(0.5)
    with pytest.raises(DataError, match="45 text vectors are equal"):
        encode_dataset(dataset, Letters(), ["abc"] * dataset.n_items, whiten=0.5)


def test_a_combination_is_the_mean_of_the_cosines():
    class Vowels(Letters):
        name, dim = "vowels 1", 2

        def encode(self, texts):
            return np.array([[text.count("a"), text.count("e")] for text in texts], float).reshape(-1, 2)

    both, texts = CombinedEncoder([Letters(), Vowels()]), words(6)
    vectors, truncated = encode_texts(both, texts)
    parts = [
        part / np.linalg.norm(part, axis=1, keepdims=True)
        for part in (one.encode(texts) for one in both.parts)
    ]
    np.testing.assert_allclose(vectors @ vectors.T, sum(part @ part.T for part in parts) / 2, atol=1e-5)
    assert not truncated.any()
    assert (both.name, both.dim, both.tokens) == ("letters 1 + vowels 1", 10, None)
    check_text_encoder(both)
    # Without a vowel only the letters count.
    np.testing.assert_allclose(both.encode(["bb"])[0, :8], Letters().encode(["b"])[0], atol=1e-6)


def test_a_combination_caches_its_parts(tmp_path):
    calls = []

    class Counted(Letters):
        def encode(self, texts):
            calls.append(len(texts))
            return super().encode(texts)

    texts = words(5)
    with VectorCache(tmp_path / "cache.sqlite") as cache:
        first, _ = encode_texts(Counted(), texts, cache)
        seen = []
        both, _ = encode_texts(CombinedEncoder([Counted(), Counted()]), texts, cache, seen.append)
    assert calls == [5]
    assert seen[-1].done == 5
    np.testing.assert_allclose(
        both[:, :8] @ both[:, :8].T * 2,
        *[unit @ unit.T for unit in [first / np.linalg.norm(first, axis=1, keepdims=True)]],
        atol=1e-5,
    )


def test_a_damaged_whitening_is_one_line(dataset, tmp_path):
    path = tmp_path / "t.safetensors"
    encode_dataset(dataset, Letters(), words(dataset.n_items), whiten=0.5).save(path)
    arrays = load_file(path)
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    for name, array in (("mean", np.zeros(3, np.float32)), ("map", np.full((8, 8), np.nan, np.float32))):
        save_file({**arrays, f"whitening.{name}": array}, path, metadata)
        with pytest.raises(WorkspaceError, match=r"damaged: .*; run 'rlmrec encode' again"):
            TextEmbeddings.load(path)


def test_the_gram_matrix_is_that_of_one_product_however_many_rows_are_summed_at_a_time(monkeypatch):
    monkeypatch.setattr(linalg, "WIDE_ROWS", 7)
    rows = np.random.default_rng(0).standard_normal((23, 5)).astype(np.float32) + 3
    wide = rows.astype(np.float64)
    np.testing.assert_allclose(gram_matrix(rows), wide.T @ wide, rtol=1e-12)
    mean = wide.mean(axis=0)
    np.testing.assert_allclose(gram_matrix(rows, mean), (wide - mean).T @ (wide - mean), rtol=1e-12)
    assert not gram_matrix(rows[:0]).any()
