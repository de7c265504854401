"""What the tests of experiments share."""

import pytest

from rlmrec.testing import blocks
from rlmrec.workspace import Workspace


@pytest.fixture
def place(tmp_path):
    """A workspace with the dataset of blocks and its text embeddings."""
    place = Workspace(tmp_path / "w")
    dataset, text_embeddings = blocks()
    dataset.save(place.dataset_path)
    text_embeddings.save(place.text_embeddings_path())
    return place
