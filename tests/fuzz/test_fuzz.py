"""A part of what ``python tests/fuzz/fuzz.py`` runs in full."""

import pytest

from fuzz import fuzz


@pytest.mark.parametrize("target", ["recommender", "cold start", "profiles", "replay", "csv", "json lines"])
def test_mutated_files_raise_our_own_errors(target):
    assert fuzz(target, 12, seed=1) == {}
