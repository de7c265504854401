"""Semantic embeddings only: text vectors as a scorer, nothing trained."""

import numpy as np

from rlmrec.evaluation.ranking import DotProduct, evaluate
from rlmrec.testing import blocks


def test_scores_are_cosines():
    rng = np.random.default_rng(0)
    users, items = rng.standard_normal((3, 4), np.float32), rng.standard_normal((5, 4), np.float32)
    users[2] = 0
    scores = DotProduct.cosine(users, items).score(np.array([0, 2]))
    expected = [users[0] @ item / np.linalg.norm(users[0]) / np.linalg.norm(item) for item in items]
    np.testing.assert_allclose(scores, [expected, [0] * 5], rtol=1e-5)
    assert scores.dtype == np.float32


def test_texts_that_tell_the_groups_apart_recommend_the_own_group():
    dataset, text_embeddings = blocks(text_size=32)
    ranking = evaluate(DotProduct.cosine(text_embeddings.users, text_embeddings.items), dataset, k=(5,))
    assert (ranking.users[:, None] // 20 == ranking.items // 15).mean() > 0.95
