import sys
from pathlib import Path

import pytest
from made_dataset import make_dataset

sys.path.insert(0, str(Path(__file__).parents[1] / "llm"))  # fault_server.py


@pytest.fixture
def dataset():
    return make_dataset()
