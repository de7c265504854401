from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """A folder of real data by name; the test is skipped where it is not."""

    def folder(name):
        if not (SHARED / name).is_dir():
            pytest.skip(f"real data {name} is not at {SHARED}")
        return SHARED / name

    return folder
