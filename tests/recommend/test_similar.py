import numpy as np
import scipy.sparse as sp

from rlmrec.recommend.similar import Holders, similar_holders


def test_who_of_the_similar_users_has_an_item():
    users = np.array([[2, 0], [1, 1], [0, 3], [0, 0]], np.float32)  # the last has no text
    history = sp.csr_array(np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]]))
    text = np.array([5, 1], np.float32)  # nearest to the first user, then to the second
    found = similar_holders(text, users, history, np.array([2, 0, 1]), similar=2, nearest=1)
    assert found == [Holders(1, [0]), Holders(2, [0]), Holders(1, [1])]


def test_a_text_that_tells_nothing_has_no_similar_users():
    users, history = np.eye(3, dtype=np.float32), sp.csr_array(np.ones((3, 2), np.float32))
    assert similar_holders(np.zeros(3, np.float32), users, history, np.array([0, 1])) == [Holders(0, [])] * 2
