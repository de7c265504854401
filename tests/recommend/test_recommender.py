import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp

from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError, DataError, UnknownIdError, WorkspaceError
from rlmrec.recommend import storage
from rlmrec.recommend.recommender import Recommender


def make(n_users=40, n_items=60, d=5, text=True, seed=0, **options):
    rng = np.random.default_rng(seed)
    seen = sp.csr_array((rng.random((n_users, n_items)) < 0.2).astype(np.float32))
    users, items = (rng.standard_normal((n, d), dtype=np.float32) for n in (n_users, n_items))
    names = [
        Vocabulary([f"{kind[0]}{row}" if text else 100 + row for row in range(n)], kind)
        for kind, n in (("user", n_users), ("item", n_items))
    ]
    return Recommender(users, items, *names, seen, **options)


@pytest.fixture
def recommender():
    return make()


def slow(recommender, user, k, exclude_seen=True, allowed=None):
    row = recommender.user_ids.row(user)
    seen = set(recommender.seen[[row]].indices.tolist()) if exclude_seen else set()
    scores = recommender.items @ recommender.users[row]
    rows = [
        i
        for i in np.argsort(-scores, kind="stable").tolist()
        if i not in seen and (allowed is None or recommender.item_ids.id(i) in allowed)
    ]
    return [recommender.item_ids.id(i) for i in rows[:k]]


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_recommend(recommender, exclude_seen):
    users = ["u3", "u0", "u39", "u3"]
    ids, scores = recommender.recommend(users, k=7, exclude_seen=exclude_seen)
    assert ids.shape == scores.shape == (4, 7)
    assert ids.tolist() == [slow(recommender, user, 7, exclude_seen) for user in users]
    assert scores.dtype == np.float32
    assert (np.diff(scores, axis=1) <= 0).all()
    for user, row, values in zip(users, ids, scores, strict=True):
        np.testing.assert_allclose(recommender.score(user, row), values, rtol=1e-5)


def test_scalar_in_vector_out(recommender):
    ids, scores = recommender.recommend("u3", k=7)
    assert ids.shape == scores.shape == (7,)
    for one_row in (["u3"], np.array(["u3"]), np.array(["u3"], object)):
        assert recommender.recommend(one_row, k=7)[0].tolist() == [ids.tolist()]
    assert recommender.recommend(np.array("u3"), k=7)[0].tolist() == ids.tolist()
    assert recommender.recommend([], k=7)[0].shape == (0, 7)


def test_integer_ids():
    recommender = make(text=False)
    ids, _ = recommender.recommend(103, k=4)
    assert ids.dtype == np.int64
    assert ids.tolist() == slow(recommender, 103, 4)
    assert recommender.recommend(np.array([103]), k=4)[0].tolist() == [ids.tolist()]
    assert recommender.recommend(np.int64(103), k=4)[0].tolist() == ids.tolist()
    with pytest.raises(UnknownIdError, match="pass 103"):
        recommender.recommend("103")


def test_candidates_and_exclude(recommender):
    some = [f"i{row}" for row in (50, 3, 17, 3, 22, 8, 9, 41)]
    ids, _ = recommender.recommend("u1", k=3, candidates=some, exclude=["i17"])
    assert ids.tolist() == slow(recommender, "u1", 3, allowed=set(some) - {"i17"})
    everything, _ = recommender.recommend("u1", k=60, exclude_seen=False)
    without, _ = recommender.recommend("u1", k=59, exclude_seen=False, exclude=everything[:1])
    assert without.tolist() == everything[1:].tolist()


@pytest.mark.parametrize(("text", "nothing"), [(True, None), (False, -1)])
def test_fewer_candidates_than_k(text, nothing):
    recommender = make(text=text)
    three = recommender.item_ids.ids[:3]
    user = recommender.user_ids.id(0)
    ids, scores = recommender.recommend(user, k=5, exclude_seen=False, candidates=three)
    assert set(ids[:3].tolist()) == set(three)
    assert ids[3:].tolist() == [nothing] * 2
    assert np.isneginf(scores[3:]).all()
    ids, scores = recommender.recommend([user], k=2, candidates=[])
    assert ids.tolist() == [[nothing] * 2]
    assert recommender.recommend(user, k=100)[0].shape == (100,)
    for far_too_long in (
        lambda: recommender.recommend(user, k=2_000_000_000),
        lambda: recommender.similar_items(three[0], k=2_000_000_000),
        lambda: recommender.users_for(recommender.items[0], k=2_000_000_000),
    ):
        with pytest.raises(ConfigError, match=r"k is 2,000,000,000 and there are (60|40) to choose from"):
            far_too_long()


def test_similar(recommender):
    ids, scores = recommender.similar_items(["i5", "i6"], k=59)
    unit = recommender.items / np.linalg.norm(recommender.items, axis=1, keepdims=True)
    cosine = unit @ unit[5]
    cosine[5] = -2
    assert ids[0].tolist() == [f"i{row}" for row in np.argsort(-cosine)[:59]]
    np.testing.assert_allclose(scores[0], np.sort(cosine)[::-1][:59], rtol=1e-4, atol=1e-6)
    assert "i6" not in ids[1]
    alone, _ = recommender.similar_users("u2", k=3)
    assert alone.shape == (3,)
    assert "u2" not in alone
    assert recommender.similar_users("u2", k=40)[0][-1] is None  # 39 others


def test_a_zero_vector_is_similar_to_nothing():
    recommender = make()
    recommender.items[4] = 0
    _, scores = recommender.similar_items("i4", k=3)
    assert scores.tolist() == [0, 0, 0]


def test_score_shapes(recommender):
    matrix = recommender.score(["u0", "u1"], ["i4", "i5", "i6"])
    assert matrix.shape == (2, 3)
    np.testing.assert_allclose(matrix, recommender.users[:2] @ recommender.items[4:7].T, rtol=1e-5)
    np.testing.assert_array_equal(recommender.score("u1", ["i4", "i5", "i6"]).shape, (3,))
    np.testing.assert_allclose(recommender.score(["u0", "u1"], "i5"), matrix[:, 1], rtol=1e-5)
    assert float(recommender.score("u1", "i5")) == pytest.approx(float(matrix[1, 1]))


@pytest.mark.parametrize("budget", [1, 5000, 1 << 28])
def test_blocks_change_nothing(budget):
    whole, blocks = make(n_users=400), make(n_users=400, memory_budget=budget)
    users = whole.user_ids.ids
    np.testing.assert_array_equal(whole.recommend(users)[0], blocks.recommend(users)[0])
    np.testing.assert_array_equal(whole.similar_users(users)[0], blocks.similar_users(users)[0])


def test_unknown_ids_and_bad_options(recommender):
    for call in (
        lambda: recommender.recommend("nobody"),
        lambda: recommender.recommend(["u1", "nobody"]),
        lambda: recommender.recommend("u1", candidates=["nothing"]),
        lambda: recommender.recommend("u1", exclude=["nothing"]),
        lambda: recommender.similar_items("nothing"),
        lambda: recommender.score("u1", "nothing"),
    ):
        with pytest.raises(UnknownIdError, match=r"no(body|thing)"):
            call()
    for k, told in ((0, "at least 1"), (-1, "at least 1"), (2.5, "a whole number"), ("5", "a whole number")):
        for call in (recommender.recommend, recommender.similar_users):
            with pytest.raises(ConfigError, match=f"k must be {told}"):
                call("u1", k=k)
    for call, told in (
        (lambda: recommender.recommend(None, 5), "got None, expected a list of user ids such as"),
        (
            lambda: recommender.recommend("u1", exclude=np.array("i1")),
            r"got array\('i1'.*, expected a list of item ids",
        ),
        (lambda: recommender.recommend([["u1"]], 2), r"got \['u1'\], expected one user id"),
        (lambda: recommender.recommend("u1", candidates=1000), "got 1000, expected a list of item ids"),
        (lambda: recommender.recommend("u1", exclude="i1"), "got 'i1', expected a list of item ids"),
        (lambda: recommender.recommend_from_items(1000), "got 1000, expected a list of item ids"),
        (lambda: recommender.recommend_from_items("i1"), "got 'i1', expected a list of item ids"),
        (
            lambda: recommender.new_user(text="Ich suche"),
            "text is 'Ich suche': expected the vector of one text",
        ),
        (lambda: recommender.new_user(text=np.ones((1, 8))), r"text is float64 of shape \(1, 8\)"),
    ):
        with pytest.raises(DataError, match=told):
            call()
    for call in (recommender.new_user, lambda: recommender.recommend_from_items([])):
        with pytest.raises(ConfigError, match="a new user needs at least one item, or a text"):
            call()
    some = recommender.recommend("u1", 2, exclude_seen=False, candidates=(f"i{row}" for row in range(4)))
    assert set(some[0]) <= {"i0", "i1", "i2", "i3"}


def test_wrong_arrays():
    good = make()
    names = (good.user_ids, good.item_ids, good.seen)
    with pytest.raises(DataError, match=r"expected float32 of shape \(40, d\)"):
        Recommender(good.users[:3], good.items, *names)
    with pytest.raises(DataError, match="float64"):
        Recommender(good.users, good.items.astype(float), *names)
    with pytest.raises(DataError, match="users have 2 dimensions, items 5"):
        Recommender(good.users[:, :2], good.items, *names)
    with pytest.raises(DataError, match="seen has shape"):
        Recommender(good.users, good.items, good.user_ids, good.item_ids, sp.csr_array((2, 2)))
    broken = good.items.copy()
    broken[3, 1] = np.inf
    with pytest.raises(DataError, match="item 'i3' is not finite"):
        Recommender(good.users, broken, *names)


@pytest.mark.parametrize("text", [True, False])
def test_save_and_load(tmp_path, text):
    recommender = make(text=text, manifest={"run": "base", "config": {"layers": 3}})
    recommender.save(tmp_path / "recommender")
    loaded = Recommender.load(tmp_path / "recommender")
    assert loaded.manifest == recommender.manifest
    assert loaded.user_ids == recommender.user_ids
    users = recommender.user_ids.ids
    for ours, theirs in zip(recommender.recommend(users), loaded.recommend(users), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    recommender.save(tmp_path / "recommender")  # over an existing one
    assert [path.name for path in tmp_path.iterdir()] == ["recommender"]


def test_of_a_dataset(tmp_path):
    def part(pairs):
        return Interactions(*np.array(pairs, np.int64).reshape(-1, 2).T, 2, 3)

    dataset = Dataset(
        "tiny",
        part([(0, 0), (1, 1)]),
        part([(0, 1)]),
        part([]),
        Vocabulary([7, 8], "user"),
        Vocabulary([*"abc"], "item"),
    )
    rng = np.random.default_rng(0)
    users, items = (rng.standard_normal((n, 2), dtype=np.float32) for n in (2, 3))
    Recommender.of(dataset, users, items, {"run": "base"}).save(tmp_path / "r")
    loaded = Recommender.load(tmp_path / "r")
    assert loaded.manifest == {"run": "base", "dataset": "tiny", "fingerprint": dataset.fingerprint}
    assert loaded.recommend(7, k=2)[0].tolist() == ["c", None]  # the held-out item is known, too
    assert loaded.rank(7, ["c"]).tolist() == [1]
    assert set(loaded.with_known(None).recommend(7, k=2)[0].tolist()) == {"b", "c"}  # as the paper evaluates
    assert loaded.history(0).tolist() == [0]


@pytest.mark.parametrize("name", ["embeddings.safetensors", "ids.json", "recommender.json"])
@pytest.mark.parametrize("damage", ["truncated", "edited", "missing"])
def test_damaged_folders(tmp_path, recommender, name, damage):
    recommender.save(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        at = content.index(b'"users"') + 1
        path.write_bytes(content[:at] + b"U" + content[at + 1 :])
    with pytest.raises(WorkspaceError, match=str(tmp_path)) as error:
        Recommender.load(tmp_path)
    if not (name == "recommender.json" and damage == "missing"):
        assert name in str(error.value)


@pytest.mark.parametrize("content", ["[]", '{"format": 99}', '{"format": 1}'])
def test_other_manifests(tmp_path, recommender, content):
    recommender.save(tmp_path)
    (tmp_path / "recommender.json").write_text(content)
    with pytest.raises(WorkspaceError, match=r"recommender\.json"):
        Recommender.load(tmp_path)


def test_serves_without_torch(tmp_path, recommender):
    recommender.save(tmp_path / "r")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import json, rlmrec.evaluation.ranking\n"
        "from rlmrec.recommend.recommender import Recommender\n"
        f"print(json.dumps(Recommender.load({str(tmp_path / 'r')!r}).recommend('u3', k=5)[0].tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == recommender.recommend("u3", k=5)[0].tolist()


def test_vectors_that_are_not_in_the_catalogue(recommender):
    own = recommender.users[3]
    for vectors, pick in ((own, slice(None)), (own[None], 0)):
        ids, scores = recommender.recommend_vectors(vectors, k=6, exclude=["i2"])
        expected, values = recommender.recommend("u3", k=6, exclude_seen=False, exclude=["i2"])
        assert ids[pick].tolist() == expected.tolist()
        np.testing.assert_allclose(scores[pick], values, rtol=1e-5)
    for wrong in (np.zeros(3), np.full(5, np.nan), np.zeros((1, 2, 5))):
        with pytest.raises(DataError, match="expected finite vectors of 5 numbers"):
            recommender.recommend_vectors(wrong)


def test_users_for_an_item_vector(recommender):
    unit = recommender.users / np.linalg.norm(recommender.users, axis=1, keepdims=True)
    vector = recommender.items[7]
    cosines = unit @ (vector / np.linalg.norm(vector))
    ids, found = recommender.users_for(vector, k=5)
    assert ids.tolist() == [f"u{row}" for row in np.argsort(-cosines)[:5]]
    np.testing.assert_allclose(found, np.sort(cosines)[::-1][:5], rtol=1e-4)


def test_items_for_an_item_vector(recommender):
    ids, cosines = recommender.items_for(3 * recommender.items[7], k=6)
    nearest, values = recommender.similar_items("i7", k=5)
    assert ids.tolist() == ["i7", *nearest.tolist()]
    np.testing.assert_allclose(cosines, [1, *values], rtol=1e-5)


def test_rank_is_the_place_among_unseen_items(recommender):
    ids, _ = recommender.recommend("u3", k=60)
    unseen = [raw for raw in ids.tolist() if raw is not None]
    assert recommender.rank("u3", unseen).tolist() == list(range(1, len(unseen) + 1))


def test_recommendations_from_items_leave_them_out(recommender):
    liked = ["i2", "i9"]
    ids, scores = recommender.recommend_from_items(liked, k=5)
    expected = recommender.recommend_vectors(recommender.fold_in(liked), k=7)
    kept = [row for row, raw in enumerate(expected[0]) if raw not in liked][:5]
    assert ids.tolist() == expected[0][kept].tolist()
    np.testing.assert_allclose(scores, expected[1][kept], rtol=1e-6)


def test_the_repr_says_what_it_holds(recommender):
    assert repr(recommender) == "Recommender(40 users, 60 items, embedding size 5)"
    run = {"config": {"run": {"backbone": "lightgcn", "alignment": "contrastive"}}, "dataset": "shop"}
    assert repr(make(manifest=run)).startswith("Recommender(lightgcn + contrastive, dataset 'shop', 40 users")


def test_items_added_are_recommended_and_nothing_else_changes(recommender):
    best = 10 * recommender.users[4]
    more = recommender.with_items(["new", "newer"], np.stack([best, -best]))
    assert more.recommend("u4", k=1)[0].tolist() == ["new"]
    assert "newer" not in more.recommend("u4", k=40)[0][:20]
    old, _ = recommender.recommend("u4", k=10)
    assert more.recommend("u4", k=10, exclude=["new", "newer"])[0].tolist() == old.tolist()
    assert len(recommender.items) == 60
    assert len(more.items) == 62
    again = more.with_items(["third"], best[None])
    assert again.similar_items("third", k=1)[0].tolist() == ["new"]
    with pytest.raises(DataError, match="occurs twice"):
        recommender.with_items(["i3"], best[None])
    with pytest.raises(DataError, match=r"have shape \(5, 2\), expected \(2, 5\)"):
        recommender.with_items(["x", "y"], np.stack([best, -best]).T)
    with pytest.raises(DataError, match="not finite"):
        recommender.with_items(["x"], np.full((1, 5), np.nan))


def test_fold_in_is_the_propagation_step():
    item_messages = np.random.default_rng(5).standard_normal((60, 5), dtype=np.float32)
    for loops, divisor in ((False, np.sqrt(3)), (True, 2)):
        recommender = make(item_messages=item_messages, self_loops=loops)
        vector = recommender.fold_in(["i2", "i9", "i4", "i2"])
        np.testing.assert_allclose(vector, item_messages[[2, 9, 4]].sum(axis=0) / divisor, rtol=1e-5)
    plain = make()
    np.testing.assert_allclose(plain.fold_in(["i2", "i9"]), plain.items[[2, 9]].mean(axis=0), rtol=1e-5)
    with pytest.raises(ConfigError, match="at least one item"):
        plain.fold_in([])
    with pytest.raises(UnknownIdError):
        plain.fold_in(["nothing"])


@pytest.mark.parametrize("mmap", [True, False])
def test_load_reads_or_maps(tmp_path, mmap):
    item_messages = np.ones((60, 5), np.float32)
    recommender = make(item_messages=item_messages, self_loops=True)
    recommender.save(tmp_path / "r")
    loaded = Recommender.load(tmp_path / "r", mmap=mmap)
    users = recommender.user_ids.ids
    np.testing.assert_array_equal(loaded.recommend(users)[0], recommender.recommend(users)[0])
    np.testing.assert_array_equal(loaded.item_messages, item_messages)
    assert loaded.self_loops
    for array in (loaded.users, loaded.items, loaded.item_messages, loaded.seen.indices, loaded.seen.indptr):
        root = array
        while isinstance(root, np.ndarray) and root.base is not None:
            root = root.base
        assert (type(root).__name__ == "mmap") == mmap, "a copy is not shared"
        assert array.flags.writeable != mmap


def test_a_folder_of_before_the_step_was_kept(tmp_path):
    recommender = make()
    recommender.save(tmp_path / "r")
    description = json.loads((tmp_path / "r" / "recommender.json").read_text())
    del description["self_loops"], description["checksum"]
    description["checksum"] = storage.checksum(description)
    (tmp_path / "r" / "recommender.json").write_text(json.dumps(description))
    loaded = Recommender.load(tmp_path / "r")
    assert loaded.item_messages is None
    assert loaded.recommend("u1")[0].tolist() == recommender.recommend("u1")[0].tolist()


def test_embeddings_so_long_that_scores_overflow():
    good = make()
    with pytest.raises(DataError, match="overflow float32"):
        Recommender(good.users * 1e30, good.items * 1e30, good.user_ids, good.item_ids, good.seen)
