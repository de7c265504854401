"""The sampler: each interaction once, no negative that is a training item, uniform otherwise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import DataError
from rlmrec.training.sampler import Sampler


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(2, 9), st.integers(1, 7), st.integers(0, 2**32))
def test_an_epoch_is_every_interaction_once_with_a_true_negative(n_users, n_items, batch_size, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.random((n_users, n_items)) < 0.5
    matrix[:, 0] = False  # nobody has everything
    matrix[0, 1] = True
    train = Interactions(*np.nonzero(matrix), n_users, n_items)
    sampler = Sampler(train, batch_size)
    batches = list(sampler.epoch(rng))
    assert len(batches) == sampler.n_batches
    assert all(len(batch.users) == batch_size for batch in batches[:-1])
    users, positives, negatives = (torch.cat(columns).numpy() for columns in zip(*batches, strict=True))
    assert sorted(users * n_items + positives) == sorted(train.keys())
    assert not matrix[users, negatives].any()


def test_negatives_are_uniform_over_what_is_allowed():
    train = Interactions(np.array([0, 0, 1]), np.array([1, 3, 0]), 2, 6)
    drawn = Sampler(train, 4).negatives(np.zeros(40_000, np.int64), np.random.default_rng(0))
    counts = np.bincount(drawn, minlength=6)
    assert counts[[1, 3]].sum() == 0
    # four allowed items, expected 10,000 each, standard deviation 87
    assert (abs(counts[[0, 2, 4, 5]] - 10_000) < 450).all()


def test_epochs_differ_and_seeds_repeat(toy):
    sampler = Sampler(toy[0].train, 64)

    def draw(rng):
        return torch.cat([torch.cat(list(batch)) for batch in sampler.epoch(rng)])

    rng = np.random.default_rng(5)
    first, second = draw(rng), draw(rng)
    assert not torch.equal(first, second)
    assert torch.equal(first, draw(np.random.default_rng(5)))


def test_a_user_with_every_item_is_in_no_triple():
    train = Interactions(np.array([0, 0, 1]), np.array([0, 1, 0]), 2, 2)
    with pytest.warns(
        UserWarning, match="1 of 2 users have a training interaction with every item.* user row 0"
    ):
        sampler = Sampler(train, 2)
    [batch] = sampler.epoch(np.random.default_rng(0))
    assert [column.tolist() for column in batch][:3] == [[1], [0], [1]]
    with pytest.warns(UserWarning, match="user 'u-17/a': no negative can be drawn"):
        Sampler(train, 2, users=Vocabulary(["u-17/a", "u-18"], "user"))
    with pytest.raises(DataError, match="so nothing can be trained"):
        Sampler(Interactions(np.array([0, 0]), np.array([0, 1]), 1, 2), 2)
