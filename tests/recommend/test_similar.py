import numpy as np
import scipy.sparse as sp

from rlmrec.recommend.similar import Holders, similar_holders


def test_who_of_the_similar_users_has_an_item():
    users = np.array([[2, 0], [1, 1], [0, 3], [0, 0]], np.float32)  # the last has no text
    history = sp.csr_array(np.array([[1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1]]))
    text = np.array([5, 1], np.float32)  # nearest to the first user, then to the second
    found = similar_holders(text, users, history, np.array([2, 0, 1]), similar=2, nearest=1)
    assert found == [Holders(1, [0]), Holders(2, [0]), Holders(1, [1])]
