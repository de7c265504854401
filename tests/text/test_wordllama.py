"""The static encoder, without a network."""

import pytest

pytest.importorskip("wordllama", reason="the wordllama extra is not installed")

from rlmrec.errors import DataError
from rlmrec.testing import check_text_encoder
from rlmrec.text.wordllama import WordLlamaEncoder


def test_it_owes_what_an_encoder_owes():
    check_text_encoder(WordLlamaEncoder())


def test_one_text_instead_of_a_list_is_refused():
    with pytest.raises(DataError, match=r"got the text 'Python', expected a list of texts: pass \[text\]"):
        WordLlamaEncoder().encode("Python")


def test_meaning_is_nearer_than_other_meaning():
    vectors = WordLlamaEncoder().encode(
        ["a film about outer space", "a recipe for stew", "a starship in space"]
    )
    vectors /= (vectors**2).sum(1, keepdims=True) ** 0.5
    space, stew, starship = vectors
    assert space @ starship > space @ stew + 0.2
