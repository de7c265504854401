import numpy as np
import scipy.sparse as sp

from rlmrec.data.vocabulary import Vocabulary
from rlmrec.recommend.recommender import Recommender
from rlmrec.recommend.similar import Holders, similar_holders


def trained_on(history):
    n_users, n_items = history.shape
    return Recommender(
        np.zeros((n_users, 1), np.float32), np.zeros((n_items, 1), np.float32),
        Vocabulary(range(n_users), "user"), Vocabulary(range(n_items), "item"), sp.csr_array(history),
    )  # fmt: skip


def test_who_of_the_similar_users_has_an_item():
    users = np.array([[2, 0], [1, 1], [0, 3], [0, 0]], np.float32)  # the last has no text
    recommender = trained_on(np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]]))
    text = np.array([5, 1], np.float32)  # nearest to the first user, then to the second
    found = similar_holders(text, users, recommender, np.array([2, 0, 1]), similar=2, nearest=1)
    assert found == [Holders(1, [0], 2), Holders(2, [0], 2), Holders(1, [1], 2)]


def test_a_text_that_tells_nothing_has_no_similar_users():
    users, recommender = np.eye(3, dtype=np.float32), trained_on(np.ones((3, 2), np.float32))
    found = similar_holders(np.zeros(3, np.float32), users, recommender, np.array([0, 1]))
    assert found == [Holders(0, [], 3)] * 2
