import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rlmrec.alignment.projector import Projector
from rlmrec.closed_form import GraphFilter, Popularity, Texts
from rlmrec.closed_form.base import mean_over_training
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.recommend import cold_start
from rlmrec.recommend.cold_start import ColdStart, KernelMap, ProjectorMap
from rlmrec.recommend.recommender import Recommender
from rlmrec.testing import blocks
from rlmrec.text.embeddings import TextEmbeddings


@pytest.fixture(scope="module")
def made():
    """Blocks whose embeddings are a rotation of the blocks' directions: what is right is known."""
    dataset, text_embeddings = blocks(users=30, items=25, density=0.6)
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((8, 8)))
    users, items = (
        (vectors @ turn * 3).astype(np.float32) for vectors in (text_embeddings.users, text_embeddings.items)
    )
    return dataset, text_embeddings, Recommender.of(dataset, users, items), turn


def direction(block, size=8):
    return np.eye(1, size, block, dtype=np.float32)


def test_a_new_item_goes_to_its_block(made):
    dataset, text_embeddings, recommender, turn = made
    cold = ColdStart.fit(recommender, text_embeddings, dataset)
    for block in range(3):
        vector = cold.items(direction(block))
        assert vector.shape == (1, 8)
        assert vector.dtype == np.float32
        unit = vector[0] / np.linalg.norm(vector)
        assert unit @ (direction(block)[0] @ turn) > 0.97
        likers, _ = recommender.users_for(vector[0], k=30)
        assert {dataset.users.row(raw) // 30 for raw in likers} == {block}
        more = recommender.with_items(["new"], vector)
        of_block, others = dataset.users.id(30 * block), dataset.users.id((30 * block + 30) % 90)
        assert "new" in more.recommend(of_block, k=25)[0]
        assert "new" not in more.recommend(others, k=10)[0]
    lengths = np.linalg.norm(recommender.items, axis=1)
    assert np.linalg.norm(vector) == pytest.approx(np.median(lengths), rel=1e-5)


def test_a_recommender_of_before_is_fitted_on_the_items_that_it_knows(made):
    dataset, text_embeddings, recommender, _ = made
    before = Recommender(
        recommender.users, recommender.items[:70], dataset.users, Vocabulary(dataset.items.ids[:70], "item"),
        recommender.seen[:, :70],
    )  # fmt: skip
    assert dataset.train.item_degrees()[70:].all()
    known = text_embeddings.items * (np.arange(dataset.n_items) < 70)[:, None]
    expected = ColdStart.fit(recommender, replace(text_embeddings, items=known), dataset).map
    for name, values in ColdStart.fit(before, text_embeddings, dataset).map.arrays.items():
        np.testing.assert_array_equal(values, expected.arrays[name])


def test_a_sentence_about_taste_gets_items_of_its_block(made):
    dataset, text_embeddings, recommender, _ = made
    cold = ColdStart.fit(recommender, text_embeddings, dataset)
    for block in range(3):
        ids, _ = recommender.recommend_vectors(cold.users(direction(block))[0], k=20)
        assert {dataset.items.row(raw) // 25 for raw in ids} == {block}


def test_a_user_is_placed_as_the_texts_of_other_users_are(made, monkeypatch):
    """Users write in another language than items: their texts are in other directions, each block's for itself."""
    dataset, text_embeddings, recommender, _ = made
    other, _ = np.linalg.qr(np.random.default_rng(2).standard_normal((8, 8)))
    texts = TextEmbeddings((text_embeddings.users @ other).astype(np.float32), text_embeddings.items)

    def found(cold):
        lists = [
            recommender.recommend_vectors(cold.users((direction(block) @ other).astype(np.float32))[0], k=20)[
                0
            ]
            for block in range(3)
        ]
        return [
            np.mean([dataset.items.row(raw) // 25 == block for raw in ids]) for block, ids in enumerate(lists)
        ]

    few = ColdStart.fit(recommender, texts, dataset)
    assert few.user_map is None
    monkeypatch.setattr(cold_start, "MIN_USERS", 60)
    cold = ColdStart.fit(recommender, texts, dataset)
    assert cold.manifest["users"] == {"texts": int((dataset.train.user_degrees() > 0).sum())}
    assert found(cold) == [1, 1, 1]
    assert min(found(few)) < 1
    np.testing.assert_array_equal(cold.items(direction(0)), few.items(direction(0)))
    # Vectors that are means over training items are no texts of users.
    means = mean_over_training(text_embeddings.items, dataset.train, np.ones(dataset.n_items, bool))
    assert ColdStart.fit(recommender, TextEmbeddings(means, text_embeddings.items), dataset).user_map is None


def test_users_who_lie_elsewhere_than_items_are_met_there():
    """Users share a direction of which an item's text knows nothing, and so do the items that everybody has."""
    dataset, text_embeddings = blocks(users=30, items=80, density=0.6)
    rng, turn = np.random.default_rng(0), np.eye(8)
    keep = (dataset.train.items % 80 < 20) | (rng.random(len(dataset.train)) < 0.1)
    dataset = replace(dataset, train=dataset.train.take(keep))
    text_embeddings = TextEmbeddings(text_embeddings.users, text_embeddings.items)
    users, items = (
        np.pad(rows @ turn, ((0, 0), (0, 1))).astype(np.float32)
        for rows in (text_embeddings.users, text_embeddings.items)
    )
    users[:, -1] = 2
    items[:, -1] = np.where(np.arange(len(items)) % 80 < 20, 1, -0.5)
    recommender = Recommender.of(dataset, users, items)
    cold = ColdStart.fit(recommender, text_embeddings, dataset)
    mean = (users / np.linalg.norm(users, axis=1, keepdims=True)).mean(axis=0)
    shift = cold.manifest["users"]["shift"]
    assert shift in cold_start.SHIFTS
    assert shift > 0
    np.testing.assert_allclose(cold.shift, shift * mean, atol=1e-6)
    expected = cold.items(direction(1))[0] / cold.item_length + cold.shift
    placed = cold.users(direction(1))[0]
    np.testing.assert_allclose(placed, cold.user_length * expected / np.linalg.norm(expected), atol=1e-4)
    # With one training interaction each there is no other item to find, so nothing is added.
    _, firsts = np.unique(dataset.train.users, return_index=True)
    single = replace(dataset, train=dataset.train.take(firsts))
    alone = ColdStart.fit(Recommender.of(single, users, items), text_embeddings, single)
    assert alone.manifest["users"] == {"shift": 0.0}
    np.testing.assert_allclose(
        alone.users(direction(1)),
        alone.items(direction(1)) * alone.user_length / alone.item_length,
        rtol=1e-4,
    )


def test_kernel_with_all_items_as_landmarks_is_kernel_ridge():
    rng = np.random.default_rng(0)
    texts, new = (rng.standard_normal((n, 6)).astype(np.float32) for n in (80, 7))
    targets = rng.standard_normal((80, 4)).astype(np.float32)
    fitted = KernelMap.fit(texts, targets, rng, width=2.0, penalty=0.3)

    def kernel(a, b):
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        return np.exp(2 * (a @ b.T - 1))

    exact = kernel(new, texts) @ np.linalg.solve(kernel(texts, texts) + 0.3 * np.eye(80), targets)
    np.testing.assert_allclose(fitted.apply(new), exact, atol=0.02)


def test_many_equal_texts_leave_the_kernel_solvable():
    rng = np.random.default_rng(0)
    texts = np.repeat(rng.standard_normal((4, 6)), 300, axis=0).astype(np.float32)
    texts += 1e-6 * rng.standard_normal(texts.shape).astype(np.float32)
    targets = np.repeat(np.eye(4, dtype=np.float32), 300, axis=0)
    mapped = KernelMap.fit(texts, targets, rng).apply(texts[::300])
    assert (mapped.argmax(axis=1) == np.arange(4)).all()


def test_the_projector_is_that_of_torch(tmp_path, made):
    dataset, text_embeddings, recommender, _ = made
    torch.manual_seed(0)
    projector = Projector(8, 8)
    save_file(
        {f"alignment.projector.{name}": tensor for name, tensor in projector.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    trained = ProjectorMap.of_run(tmp_path)
    with torch.no_grad():
        expected = projector(torch.from_numpy(text_embeddings.items)).numpy()
    np.testing.assert_allclose(trained.apply(text_embeddings.items), expected, atol=1e-5)
    cold = ColdStart.fit(recommender, text_embeddings, dataset, trained)
    assert cold.map is trained
    narrow = {name: array[:, :5] if array.ndim == 2 else array for name, array in trained.arrays.items()}
    with pytest.raises(DataError, match="projector is of another size"):
        ColdStart.fit(recommender, text_embeddings, dataset, ProjectorMap(narrow))
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(cold.items(text_embeddings.items), unit * cold.item_length, atol=1e-4)
    assert ProjectorMap.of_run(tmp_path / "nothing") is None
    save_file({"backbone.x": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert ProjectorMap.of_run(tmp_path) is None


def test_hidden_texts_do_not_reach_the_map(made):
    """An item without training interactions changes nothing: maps are fitted on warm items alone."""
    dataset, text_embeddings, recommender, _ = made
    cold_rows = np.flatnonzero(dataset.train.item_degrees() == 0)
    spoiled = text_embeddings.items.copy()
    spoiled[cold_rows] = 7
    ones, others = (
        ColdStart.fit(recommender, TextEmbeddings(text_embeddings.users, items), dataset)
        for items in (text_embeddings.items, spoiled)
    )
    np.testing.assert_array_equal(ones.items(direction(1)), others.items(direction(1)))


@pytest.mark.parametrize("fewest", [60, 1000])
def test_save_and_load(tmp_path, made, fewest, monkeypatch):
    dataset, text_embeddings, recommender, _ = made
    monkeypatch.setattr(cold_start, "MIN_USERS", fewest)
    cold = ColdStart.fit(recommender, text_embeddings, dataset)
    assert (cold.user_map is None) == (fewest == 1000)
    with pytest.raises(WorkspaceError, match="rlmrec cold fit"):
        ColdStart.load(tmp_path)
    cold.save(tmp_path)
    loaded = ColdStart.load(tmp_path, recommender)
    np.testing.assert_array_equal(loaded.items(text_embeddings.items), cold.items(text_embeddings.items))
    np.testing.assert_array_equal(loaded.users(text_embeddings.items), cold.users(text_embeddings.items))
    assert loaded.manifest == cold.manifest
    other = Recommender.of(dataset, recommender.users, recommender.items + 1)
    with pytest.raises(WorkspaceError, match="fitted to other embeddings"):
        ColdStart.load(tmp_path, other)
    path = tmp_path / "cold_start.safetensors"
    content = path.read_bytes()
    for damaged in (
        content[: len(content) // 2],
        content[:-4] + b"abcd",
        content.replace(b"user_length", b"user_lengtg"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(WorkspaceError, match="rlmrec cold fit"):
            ColdStart.load(tmp_path)


def test_a_map_that_was_removed_must_be_fitted_again(tmp_path, made):
    """Version 0.1 could also store a ridge regression and the nearest neighbours."""
    dataset, text_embeddings, recommender, _ = made
    cold = ColdStart.fit(recommender, text_embeddings, dataset)
    cold.manifest["method"] = {"name": "knn", "options": {"neighbours": 50, "temperature": 0.1}}
    cold.save(tmp_path)
    with pytest.raises(WorkspaceError, match=r"holds a knn map.*create it again with 'rlmrec cold fit'"):
        ColdStart.load(tmp_path, recommender)


def test_wrong_vectors(made):
    dataset, text_embeddings, recommender, _ = made
    cold = ColdStart.fit(recommender, text_embeddings, dataset)
    for wrong in (np.zeros((2, 5)), np.full((1, 8), np.inf)):
        with pytest.raises(DataError, match="text vectors of 8 numbers"):
            cold.items(wrong)
    for wrong in ("Python", ["Python"]):
        with pytest.raises(
            DataError, match=r"text vectors of 8 numbers, got .*'Python'.*: encode texts first"
        ):
            cold.items(wrong)
    silent = TextEmbeddings(text_embeddings.users, np.zeros_like(text_embeddings.items))
    with pytest.raises(DataError, match="at least 10"):
        ColdStart.fit(recommender, silent, dataset)


def test_a_graph_filter_of_embeddings_alone_places_new_items_in_their_block(made):
    dataset, text_embeddings, _, _ = made
    graph_filter = GraphFilter.fit(dataset, None, {"neighbours": 0, "popularity_weight": 0})
    recommender = Recommender.of_model(dataset, graph_filter)
    cold = ColdStart.fit(recommender, text_embeddings, dataset)
    blocks_of_items = text_embeddings.items.argmax(axis=1)
    for block in np.unique(blocks_of_items):
        scores = recommender.items @ cold.items(direction(block))[0]
        best = np.argsort(-scores)[: (blocks_of_items == block).sum()]
        assert set(blocks_of_items[best]) == {block}


def test_what_needs_no_fit_or_is_something_else_is_refused(made):
    dataset, text_embeddings, recommender, _ = made
    texts = Texts.of(text_embeddings, dataset)
    for model, told in (
        (
            GraphFilter.fit(dataset, texts),
            r"a graph filter with texts needs no cold-start model: it places new users and items",
        ),
        (
            GraphFilter.fit(dataset, None, {"neighbours": 5}),
            "are embeddings and item neighbours, .* fit it with text embeddings, .* or with neighbours=0",
        ),
        (Popularity.fit(dataset), "popularity is the same for all users"),
    ):
        with pytest.raises(ConfigError, match=told):
            ColdStart.fit(Recommender.of_model(dataset, model), text_embeddings, dataset)
    by_text = Recommender.of_model(
        dataset, GraphFilter.fit(dataset, texts), {"texts": {"encoder": "letters 1", "text_size": 8}}
    )
    rule = cold_start.RuleColdStart(by_text)
    assert repr(rule) == f"RuleColdStart(text vectors by letters 1, size 8, by the rule of {by_text!r})"
    parts = rule.new_user(text_embeddings.users[0])
    assert repr(parts) == f"UserParts(1 user, vectors of {by_text.items.shape[1]} numbers, history, direct)"
    with pytest.raises(DataError, match="encode texts first by letters 1"):
        rule.items("Python")
    with pytest.raises(ConfigError, match="recommender has type ClosedFormModel: expected Recommender"):
        ColdStart.fit(model, text_embeddings, dataset)
    with pytest.raises(ConfigError, match="text_embeddings has type ndarray: expected TextEmbeddings"):
        ColdStart.fit(recommender, text_embeddings.items, dataset)
    with pytest.raises(ConfigError, match="dataset has type dict: expected a Dataset"):
        ColdStart.fit(recommender, text_embeddings, {})


def test_serves_without_torch(tmp_path, made):
    dataset, text_embeddings, recommender, _ = made
    cold = ColdStart.fit(recommender, text_embeddings, dataset)
    cold.save(tmp_path)
    code = (
        "import json, sys, numpy as np\n"
        "import rlmrec.cli\n"  # so that no command but those that train needs it
        "from rlmrec.recommend.cold_start import ColdStart\n"
        "import rlmrec.recommend.explain, rlmrec.recommend.export, rlmrec.recommend.index\n"
        f"cold = ColdStart.load({str(tmp_path)!r})\n"
        "print(json.dumps(cold.items(np.eye(1, 8, dtype=np.float32))[0].tolist()))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout), cold.items(direction(0))[0], rtol=1e-5)
