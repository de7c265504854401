import pytest
from made_dataset import make_dataset


@pytest.fixture
def dataset():
    return make_dataset()
