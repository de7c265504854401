"""Text vectors: what is refused, what is kept, what users get by default."""

import numpy as np
import pytest
import scipy.sparse as sp

from rlmrec.data.interactions import Interactions
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.testing import blocks
from rlmrec.text.embeddings import TextEmbeddings, mean_over_training


def vectors(rows, size=3):
    return np.arange(rows * size, dtype=np.float32).reshape(rows, size)


def test_nan_is_refused_with_its_row():
    bad = vectors(4)
    bad[2, 1] = np.nan
    with pytest.raises(DataError, match="items hold NaN or infinity in 1 rows, first in row 2"):
        TextEmbeddings(vectors(3), bad)


def test_two_encoders_are_refused():
    with pytest.raises(DataError, match="users' vectors have 3 dimensions, items' 4"):
        TextEmbeddings(vectors(2, 3), vectors(2, 4))


def test_flat_vectors_are_refused():
    with pytest.raises(
        DataError, match=r"items are a csr_array: expected an array .*; make it dense by .toarray"
    ):
        TextEmbeddings(vectors(3, 2), sp.csr_array(vectors(3, 2)))
    with pytest.raises(DataError, match=r"shape \(3,\), expected \(rows, d_s\)"):
        TextEmbeddings(np.ones(3, np.float32), vectors(2))


def test_another_row_count_than_the_dataset_is_refused(toy):
    dataset, text_embeddings = toy
    with pytest.raises(DataError, match="vectors for 44 items, the dataset has 45"):
        TextEmbeddings(text_embeddings.users, text_embeddings.items[:-1]).check(dataset)
    assert text_embeddings.check(dataset) is text_embeddings


def test_vectors_of_another_dataset_are_refused(toy):
    other, _ = blocks(seed=1)
    with pytest.raises(DataError, match="made for another dataset"):
        toy[1].check(other)


def test_save_and_load(toy, tmp_path):
    _, text_embeddings = toy
    text_embeddings.save(tmp_path / "s.safetensors")
    again = TextEmbeddings.load(tmp_path / "s.safetensors")
    assert np.array_equal(again.users, text_embeddings.users)
    assert np.array_equal(again.items, text_embeddings.items)
    assert again.manifest == text_embeddings.manifest


def test_absent_and_damaged_files(toy, tmp_path):
    path = tmp_path / "s.safetensors"
    with pytest.raises(WorkspaceError, match="rlmrec encode"):
        TextEmbeddings.load(path)
    toy[1].save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WorkspaceError, match="damaged"):
        TextEmbeddings.load(path)


def test_shuffled_keeps_users_among_users(toy):
    _, text_embeddings = toy
    shuffled = text_embeddings.shuffled(np.random.default_rng(0))
    for kind in ("users", "items"):
        before, after = getattr(text_embeddings, kind), getattr(shuffled, kind)
        assert not np.array_equal(before, after)
        assert np.array_equal(np.sort(before, axis=0), np.sort(after, axis=0))
    assert shuffled.manifest["shuffled"] == "both"


def test_shuffled_on_one_side(toy):
    _, text_embeddings = toy
    both, users, items = (
        text_embeddings.shuffled(np.random.default_rng(0), which) for which in ("both", "users", "items")
    )
    assert np.array_equal(users.users, both.users)
    assert np.array_equal(users.items, text_embeddings.items)
    assert np.array_equal(items.items, both.items)
    assert np.array_equal(items.users, text_embeddings.users)
    with pytest.raises(ConfigError, match="expected users, items or both"):
        text_embeddings.shuffled(np.random.default_rng(0), "all")


def test_mean_over_training_by_hand():
    train = Interactions(np.array([0, 0, 2]), np.array([0, 2, 1]), 3, 3)
    means = mean_over_training(np.array([[1, 0], [0, 5], [3, 2]], np.float32), train)
    assert means.tolist() == [[2, 1], [0, 0], [0, 5]]
    assert means.dtype == np.float32


def test_the_mean_leaves_out_items_without_a_vector():
    train = Interactions(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 2]), 4, 3)
    has_item = np.array([True, False, True])
    means = mean_over_training(np.array([[1, 0], [0, 0], [3, 2]], np.float32), train, has_item)
    assert means.tolist() == [[2, 1], [0, 0], [3, 2], [0, 0]]


@pytest.fixture
def partial():
    users, items = vectors(3) + 1, vectors(2) + 1
    users[1] = 0
    return TextEmbeddings(users, items, {"x": 1}, has_user=np.array([True, False, True]))


def test_marks_are_kept(partial, tmp_path):
    assert not partial.complete
    assert partial.has_item.all()
    assert partial.stacked_mask().tolist() == [True, False, True, True, True]
    partial.save(tmp_path / "s.safetensors")
    again = TextEmbeddings.load(tmp_path / "s.safetensors")
    assert again.has_user.tolist() == [True, False, True]
    assert again.digest == partial.digest
    assert again.digest != TextEmbeddings(partial.users, partial.items).digest, (
        "a mark is part of what is learned"
    )


def test_marks_move_with_their_rows(partial):
    shuffled = partial.shuffled(np.random.default_rng(1))
    assert (shuffled.users.any(1) == shuffled.has_user).all()
    assert shuffled.has_user.sum() == 2


def test_marks_that_contradict_the_vectors_are_refused():
    with pytest.raises(DataError, match="1 rows of items are marked to have no vector, yet hold one"):
        TextEmbeddings(vectors(3), vectors(2) + 1, has_item=np.array([True, False]))
    with pytest.raises(DataError, match=r"has_user has shape \(2,\), expected \(3,\)"):
        TextEmbeddings(vectors(3), vectors(2), has_user=np.array([True, False]))
    none = np.zeros(2, bool)
    with pytest.raises(DataError, match="no user and no item has a text vector"):
        TextEmbeddings(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), {}, none, none)
