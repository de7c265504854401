import json

import numpy as np
import pytest
import scipy.sparse as sp

from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.recommend import index as module
from rlmrec.recommend import search
from rlmrec.recommend.index import Index, build_index
from rlmrec.recommend.recommender import Recommender
from rlmrec.recommend.sparse_parts import SparseParts

faiss = pytest.importorskip("faiss", reason="the index extra is not installed")


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, 16))
    return [
        (centres[rng.integers(40, size=n)] + 0.5 * rng.standard_normal((n, 16))).astype(np.float32)
        for n in (300, 5000)
    ]


@pytest.fixture(scope="module")
def index(vectors):
    users, items = vectors
    return build_index(items, users, recall=0.9)


def exact(queries, items, k):
    return np.argsort(-(queries @ items.T), axis=1, kind="stable")[:, :k]


def test_recall_is_what_it_says(vectors, index):
    users, items = vectors
    found, scores = index.search(users, 20)
    shared = [
        len(set(a) & set(b)) / 20
        for a, b in zip(found.tolist(), exact(users, items, 20).tolist(), strict=True)
    ]
    assert index.recall == pytest.approx(np.mean(shared), abs=1e-3)
    assert index.recall >= 0.9
    assert index.manifest["probes"] < 200, "not all cells"
    np.testing.assert_allclose(scores, np.einsum("bd,bkd->bk", users, items[found]), rtol=1e-4, atol=1e-4)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_a_recall_of_one_is_exact(vectors):
    users, items = vectors
    built = build_index(items, users, recall=1.0)
    np.testing.assert_array_equal(built.search(users, 5)[0], exact(users, items, 5))


def test_searches_are_timed_for_one_user_each(vectors, index, monkeypatch):
    assert set(index.manifest["milliseconds"]) == {"exact", "index"}
    assert min(index.manifest["milliseconds"].values()) > 0
    users, items = vectors
    sample = search.Queries(300, users.__getitem__)
    one = search.exact(sample.row(7), items, 5)[0]
    np.testing.assert_array_equal(one, exact(users[7:8], items, 5))
    for times, faster in (([0.7, 9.7], False), ([2.0, 0.4], True)):
        left = iter(times)
        monkeypatch.setattr(module, "_milliseconds", lambda work, rows, left=left: next(left))
        built = build_index(items, users, recall=0.5)
        assert built.manifest["milliseconds"] == dict(zip(("exact", "index"), times, strict=True))
        assert built.is_faster is faster
    del built.manifest["milliseconds"]  # as version 0.1 stored it
    assert built.is_faster


def test_the_same_seed_gives_the_same_index(vectors, index):
    users, items = vectors
    again = build_index(items, users, recall=0.9)
    np.testing.assert_array_equal(again.search(users, 20)[0], index.search(users, 20)[0])


def recommender(vectors, seen, **options):
    users, items = vectors
    names = Vocabulary(range(len(users)), "user"), Vocabulary(range(len(items)), "item")
    return Recommender(users, items, *names, seen, **options)


def test_what_was_seen_is_left_out_by_fetching_more(vectors):
    users, items = vectors
    best = exact(users, items, 30)
    seen = sp.csr_array(
        (np.ones(best.size), (np.repeat(np.arange(len(users)), 30), best.ravel())),
        shape=(len(users), len(items)),
    )
    sure = build_index(items, users, recall=1.0)
    sure.manifest["probes"] = 10_000  # all cells: exact at any depth
    plain = recommender(vectors, seen)
    through = plain.with_index(sure)
    for options in ({}, {"exclude_seen": False}, {"exclude": [3, 4]}, {"candidates": range(50)}):
        ids, scores = through.recommend(list(range(300)), k=10, **options)
        expected, values = plain.recommend(list(range(300)), k=10, **options)
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_allclose(scores, values, rtol=1e-4)


def test_no_list_is_short_because_of_what_was_seen(vectors):
    users, items = vectors
    best = exact(users, items, 1000)
    seen = sp.csr_array(
        (np.ones(best.size, bool), (np.repeat(np.arange(len(users)), 1000), best.ravel())),
        shape=(len(users), len(items)),
    )
    few = build_index(items, users, recall=0.5)
    plain = recommender(vectors, seen)
    ids = plain.with_index(few).recommend(list(range(300)), k=200)[0]
    assert (ids >= 0).all()
    wanted = plain.recommend(list(range(300)), k=20)[0]
    for reached in (0.5, 0.95):
        built = build_index(items, users, recall=reached, seen=seen)
        found = plain.with_index(built).recommend(list(range(300)), k=20)[0]
        shared = np.mean(
            [len(set(a) & set(b)) / 20 for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]
        )
        assert built.recall == pytest.approx(shared, abs=1e-3), "measured as it is used"
        assert built.recall >= reached


@pytest.fixture(scope="module")
def with_neighbours(vectors):
    """A recommender whose scores are dot products and sums over item neighbours."""
    rng = np.random.default_rng(1)
    histories = sp.random_array((300, 5000), density=0.002, format="csr", rng=rng, dtype=np.float32)
    neighbours = sp.random_array((5000, 5000), density=0.002, format="csr", rng=rng, dtype=np.float32)
    parts = SparseParts(5000, None, 30 * histories, neighbours)
    return recommender(vectors, sp.csr_array(histories != 0), parts=parts)


def test_what_is_added_to_the_dot_products_is_found_through_an_index(vectors, with_neighbours):
    users, items = vectors
    scores = users @ items.T + (with_neighbours.parts.history @ with_neighbours.parts.neighbours).toarray()
    scores[with_neighbours.seen.toarray()] = -np.inf
    wanted = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    by_products = np.argsort(-np.where(scores > -np.inf, users @ items.T, -np.inf), axis=1)[:, :20]
    assert np.mean(wanted == by_products) < 0.9, "what is added matters"

    sure = with_neighbours.build_index(recall=1.0)
    ids, values = with_neighbours.with_index(sure).recommend(list(range(300)), k=20)
    np.testing.assert_array_equal(ids, wanted)
    np.testing.assert_allclose(values, np.take_along_axis(scores, wanted, 1), rtol=1e-4)

    built = with_neighbours.build_index(recall=0.9)
    ids = with_neighbours.with_index(built).recommend(list(range(300)), k=20)[0]
    shared = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(ids.tolist(), wanted.tolist(), strict=True)])
    assert built.recall == pytest.approx(shared, abs=1e-3), "measured on the whole scores"
    assert built.manifest["probes"] < sure.manifest["probes"]


def test_no_list_is_short_where_something_is_added(with_neighbours):
    built = with_neighbours.build_index(recall=0.3)
    built.manifest["probes"] = 1
    ids = with_neighbours.with_index(built).recommend(list(range(300)), k=500)[0]
    assert (ids >= 0).all()
    assert all(len(set(row)) == 500 for row in ids.tolist())


def test_too_many_neighbours_are_refused(vectors):
    full = sp.csr_array(np.ones((5000, 50), np.float32))
    full = sp.csr_array((full.data, full.indices, full.indptr), shape=(5000, 5000))
    parts = SparseParts(5000, None, sp.csr_array((300, 5000), dtype=np.float32), full)
    one = recommender(vectors, sp.csr_array((300, 5000)), parts=parts)
    with pytest.raises(ConfigError, match="one in 128 of all pairs of items"):
        one.build_index()


def test_items_added_later_are_found(vectors, index):
    users, items = vectors
    seen = sp.csr_array((len(users), len(items)))
    more = recommender(vectors, seen, index=index).with_items([9000], 5 * users[:1])
    assert len(more.index) == 5001
    assert len(index) == 5000
    assert more.recommend(0, k=3)[0][0] == 9000


def test_save_and_load(tmp_path, vectors, index):
    users, items = vectors
    index.save(tmp_path)
    for mmap in (False, True):
        loaded = Index.load(tmp_path, items, mmap)
        np.testing.assert_array_equal(loaded.search(users, 20)[0], index.search(users, 20)[0])
        assert loaded.recall == index.recall
    with pytest.raises(WorkspaceError, match="built over other embeddings"):
        Index.load(tmp_path, items + 1)
    with pytest.raises(ConfigError, match="build it again"):
        index.with_items(users).save(tmp_path)
    content = (tmp_path / "index.faiss").read_bytes()
    (tmp_path / "index.faiss").unlink()  # it is mapped: not to be shortened under the one that reads it
    (tmp_path / "index.faiss").write_bytes(content[:-9])
    with pytest.raises(WorkspaceError, match="was changed: build it again"):
        Index.load(tmp_path, items)
    (tmp_path / "index.json").write_text(json.dumps({"format": 7}))
    with pytest.raises(WorkspaceError, match="not an index of this version"):
        Index.load(tmp_path, items)


@pytest.mark.parametrize("d", [16, 18])  # 18 is no multiple of what a byte of a code stands for
def test_codes_above_a_number_of_items(tmp_path, monkeypatch, d):
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((40, d))
    users, items = (
        (centres[rng.integers(40, size=n)] + 0.5 * rng.standard_normal((n, d))).astype(np.float32)
        for n in (300, 5000)
    )
    assert build_index(items, users).manifest["kind"].endswith(",Flat")
    monkeypatch.setattr(module, "CODES_ABOVE", 4000)
    index = build_index(items, users, recall=0.95)
    assert index.manifest["kind"].endswith(",PQ4" if d == 16 else ",PQ5")
    assert index.recall >= 0.95
    found, scores = index.search(users, 20)
    shared = [len(set(a) & set(b)) / 20 for a, b in zip(found, exact(users, items, 20), strict=True)]
    assert index.recall == pytest.approx(np.mean(shared), abs=1e-3)
    for row in range(300):
        assert scores[row] == pytest.approx(items[found[row]] @ users[row], abs=1e-4), "exact, not of codes"
        assert (np.diff(scores[row]) <= 0).all()
    every = index.search(users[:2], 5000)[0]
    assert every.shape == (2, 5000)
    index.save(tmp_path)
    size = (tmp_path / "index.faiss").stat().st_size
    assert module.estimate_bytes(5000, d) == pytest.approx(size, rel=0.25), (
        "cells' heads and the codes' centres"
    )
    assert size < 5000 * 4 * d / 2
    for mmap in (False, True):
        loaded = Index.load(tmp_path, items, mmap)
        np.testing.assert_array_equal(loaded.search(users, 20)[0], found)
    manifest = json.loads((tmp_path / "index.json").read_text())
    for wrong in ({"depth": 0}, {"depth": 10**6}, {"depth": None}):
        (tmp_path / "index.json").write_text(json.dumps({**manifest, **wrong}))
        with pytest.raises(WorkspaceError, match="build it again"):
            Index.load(tmp_path, items)
    more = recommender((users, items), sp.csr_array((300, 5000)), index=index).with_items(
        [9000], 5 * users[:1]
    )
    assert more.recommend(0, k=3)[0][0] == 9000


def test_codes_of_vectors_that_are_hard_to_tell_apart_reach_the_recall(monkeypatch):
    """Random vectors of 8 numbers in 2 bytes: many more candidates are scored again."""
    rng = np.random.default_rng(2)
    users, items = (rng.standard_normal((n, 8)).astype(np.float32) for n in (200, 4000))
    index = build_index(items, users, recall=0.99, codes=True)
    assert index.recall >= 0.99
    assert index.manifest["depth"] > module.DEPTHS[0]


def test_what_cannot_be_built(vectors, monkeypatch):
    users, items = vectors
    with pytest.raises(ConfigError, match="recall must be in"):
        build_index(items, users, recall=1.5)
    with pytest.raises(DataError, match="at least 1,000"):
        build_index(items[:10], users)

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(module, "import_module", absent)
    with pytest.raises(ConfigError, match=r"rlmrec\[index\]"):
        build_index(items, users)
