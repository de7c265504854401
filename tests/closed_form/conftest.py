"""Small datasets with a known answer, for the closed-form recommenders."""

import numpy as np
import pytest

from rlmrec.closed_form import Texts
from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.split import split_by_ratio
from rlmrec.data.vocabulary import Vocabulary


def make(users, items, n_users, n_items, ratio=(3, 1, 1), seed=0, name="small"):
    parts = split_by_ratio(Interactions(users, items, n_users, n_items), ratio, np.random.default_rng(seed))
    return Dataset(
        name,
        *parts,
        Vocabulary((f"u{row}" for row in range(n_users)), "user"),
        Vocabulary((f"i{row}" for row in range(n_items)), "item"),
    )


def only_training(dataset):
    """The dataset without validation and test."""
    empty = Interactions(np.empty(0, int), np.empty(0, int), dataset.n_users, dataset.n_items)
    return Dataset("training alone", dataset.train, empty, empty, dataset.users, dataset.items)


@pytest.fixture(scope="session")
def checkerboard():
    """Users and items of even and odd rows; a user interacts with most of the items of the same parity."""
    rng = np.random.default_rng(0)
    n_users, n_items = 60, 40
    same = np.arange(n_users)[:, None] % 2 == np.arange(n_items)[None, :] % 2
    chosen = same & (rng.random(same.shape) < 0.6)
    return make(*np.nonzero(chosen), n_users, n_items, name="checkerboard")


@pytest.fixture(scope="session")
def noisy():
    """Five groups with noise and popular items, users and items with texts that tell the group."""
    rng = np.random.default_rng(1)
    n_users, n_items, groups = 300, 150, 5
    of_user, of_item = rng.integers(groups, size=n_users), rng.integers(groups, size=n_items)
    popular = rng.pareto(2, n_items) + 0.2
    chance = np.where(of_user[:, None] == of_item[None, :], 0.15, 0.02) * popular
    dataset = make(*np.nonzero(rng.random(chance.shape) < chance), n_users, n_items, name="noisy")
    directions = rng.standard_normal((groups, 12))
    users = directions[of_user] + 0.5 * rng.standard_normal((n_users, 12))
    items = directions[of_item] + 0.5 * rng.standard_normal((n_items, 12))
    return dataset, Texts(items.astype(np.float32), users.astype(np.float32))


@pytest.fixture(scope="session")
def make_dataset():
    """``make``: a dataset of pairs."""
    return make


@pytest.fixture(scope="session")
def without_held_out():
    """``only_training``: a dataset without validation and test."""
    return only_training
