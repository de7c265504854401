"""The blend of a trained score and a text score, against the sum written out."""

import numpy as np
import pytest
from scipy.spatial.distance import cosine

from rlmrec.errors import ConfigError
from rlmrec.recommend.blend import Tried, best_weight, blended, tail_items, try_weights
from rlmrec.recommend.explain import contributions
from rlmrec.recommend.recommender import Recommender
from rlmrec.testing import blocks
from rlmrec.text.embeddings import TextEmbeddings


@pytest.fixture(scope="module")
def world():
    """blocks() with embeddings that know nothing and texts that know the blocks; user 0 and item 1 have none."""
    dataset, texts = blocks(users=20, items=15)
    rng = np.random.default_rng(0)
    users, items, messages = (
        rng.standard_normal((n, 6)).astype(np.float32)
        for n in (dataset.n_users, dataset.n_items, dataset.n_items)
    )
    has_user, has_item = np.arange(60) != 0, np.arange(45) != 1
    texts = TextEmbeddings(
        texts.users * has_user[:, None], texts.items * has_item[:, None], {}, has_user, has_item
    )
    return dataset, texts, Recommender.of(dataset, users, items, item_messages=messages)


def test_the_score_is_the_sum(world):
    dataset, texts, recommender = world
    both = blended(recommender, texts, 0.3)
    length = np.median([np.linalg.norm(row) for row in recommender.items])
    for user, item in ((3, 5), (40, 2), (0, 5), (3, 1)):
        e, v = recommender.users[user], recommender.items[item]
        has_text = user != 0 and item != 1
        near = 1 - cosine(texts.users[user], texts.items[item]) if has_text else 0
        expected = e @ v + 0.3 * np.linalg.norm(e) * length * near
        ids = dataset.users.id(user), dataset.items.id(item)
        assert both.score(*ids) == pytest.approx(expected, abs=1e-4)
    assert blended(recommender, texts, 0) is recommender


def test_explanations_still_add_up_and_a_folded_user_has_no_text_score(world):
    _, texts, recommender = world
    both = blended(recommender, texts, 0.3)
    before, after = contributions(recommender, 7, 9), contributions(both, 7, 9)
    assert np.allclose(before[1], after[1])
    assert after[1].sum() + after[2] == pytest.approx(both.users[7] @ both.items[9], abs=1e-4)
    liked = [recommender.item_ids.id(row) for row in (3, 4)]
    warm = recommender.fold_in(liked) @ recommender.items.T
    assert np.allclose(both.fold_in(liked) @ both.items.T, warm, atol=1e-5)


def test_validation_takes_texts_that_help_and_leaves_those_that_do_not(world):
    dataset, texts, recommender = world
    tried = try_weights(recommender, texts, dataset)
    assert best_weight(tried) > 0
    assert tried[-1].recall > tried[0].recall + 0.1
    good = Recommender.of(dataset, texts.users, texts.items)
    misleading = TextEmbeddings(-texts.users, texts.items)
    assert best_weight(try_weights(good, misleading, dataset)) == 0


def test_of_equal_weights_the_smallest():
    assert best_weight([Tried(0.0, 0.1, None), Tried(0.5, 0.2, None), Tried(1.0, 0.2, None)]) == 0.5


def test_the_tail_is_judged_by_its_own_items(world):
    dataset, texts, recommender = world
    tail = tail_items(dataset)
    degrees = dataset.train.item_degrees()
    assert degrees[tail].max() <= np.median(degrees) < degrees[~tail].min()
    [found] = try_weights(recommender, texts, dataset, (0.5,), "test")
    both = blended(recommender, texts, 0.5)
    scores = both.users @ both.items.T
    scores[dataset.train.csr().toarray() > 0] = -np.inf
    held = dataset.test.csr().toarray() > 0
    values = {True: [], False: []}
    for user in range(dataset.n_users):
        best = set(np.argsort(-scores[user], kind="stable")[:20].tolist())
        for only_tail in values:
            relevant = set(np.flatnonzero(held[user] & (tail | (not only_tail))).tolist())
            if relevant:
                values[only_tail].append(len(best & relevant) / len(relevant))
    assert (found.recall, found.tail) == pytest.approx((np.mean(values[False]), np.mean(values[True])))


@pytest.mark.parametrize("weight", [-0.1, np.inf, np.nan])
def test_weights_out_of_range(world, weight):
    with pytest.raises(ConfigError, match="0 or more"):
        blended(world[2], world[1], weight)
