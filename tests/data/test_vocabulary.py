from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import DataError, UnknownIdError

ids = st.one_of(
    st.lists(st.integers(), unique=True, min_size=1), st.lists(st.text(), unique=True, min_size=1)
)


@given(ids)
def test_rows_and_ids_are_inverse(raw):
    vocabulary = Vocabulary(raw, "item")
    assert vocabulary.rows(raw).tolist() == list(range(len(raw)))
    assert [vocabulary.id(row) for row in range(len(vocabulary))] == raw
    assert all(i in vocabulary for i in raw)


def test_numpy_integers_are_integers():
    vocabulary = Vocabulary(np.array([5, 3]), "user")
    assert vocabulary.ids == [5, 3]
    assert vocabulary.row(np.int32(3)) == 1
    assert vocabulary == Vocabulary([5, 3])


def test_ids_that_differ_only_by_type_are_refused():
    with pytest.raises(DataError, match="user ids mix integers and text; 7 occurs as a number and as text"):
        Vocabulary([7, "7"], "user")
    with pytest.raises(DataError, match="mix integers and text: make them one type"):
        Vocabulary([7, "b"], "user")


def test_other_types_are_refused():
    with pytest.raises(DataError, match=r"item ids must be integers or text, got \['float'\]"):
        Vocabulary([1.5], "item")
    with pytest.raises(DataError, match=r"got \['UUID'\]: convert them, for example by str"):
        Vocabulary([UUID(int=1)], "item")
    with pytest.raises(DataError, match="ids are the text 'abc': expected a list of them"):
        Vocabulary("abc")


def test_a_row_that_is_not_there_is_refused():
    for row in (-1, 2):
        with pytest.raises(DataError, match=f"no item in row {row}: rows are numbered from 0 to 1"):
            Vocabulary(["a", "b"], "item").id(row)
    for row in (None, 1.0, "a"):
        with pytest.raises(DataError, match=f"got {row!r}, expected the row of one item, a whole number"):
            Vocabulary(["a", "b"], "item").id(row)


def test_a_repeated_id_is_refused():
    with pytest.raises(DataError, match="item id 'b' occurs twice"):
        Vocabulary(["a", "b", "b"], "item")
    with pytest.raises(DataError, match=r"^id 'b' occurs twice"):
        Vocabulary(["b", "b"])
    with pytest.raises(DataError, match=r"^ids mix integers"):
        Vocabulary(["b", 1])


def test_an_unknown_id_says_what_would_be_known():
    with pytest.raises(UnknownIdError, match=r"unknown user '7' \(str\): user ids are integers here, pass 7"):
        Vocabulary([7, 8], "user").row("7")
    with pytest.raises(UnknownIdError, match=r"unknown user 7 \(int\): user ids are text here, pass '7'"):
        Vocabulary(["7"], "user").row(7)
    with pytest.raises(UnknownIdError, match=r"unknown user 9: not among the 2 ids \(7, 8, …\)"):
        Vocabulary([7, 8], "user").rows([7, 9])


def test_typed_text_is_parsed_by_the_type_of_the_ids():
    integers, texts = Vocabulary([7]), Vocabulary(["007"])
    assert (integers.parse("7"), integers.parse("007"), integers.parse("x")) == (7, None, None)
    assert texts.parse("007") == "007"


@pytest.mark.parametrize("typed", ["1", " 00001", "001"])
def test_an_id_without_its_leading_zeros_is_recognised(typed):
    with pytest.raises(UnknownIdError, match=r"did you mean '00001'\?"):
        Vocabulary(["00002", "00001"], "user").row(typed)
    with pytest.raises(UnknownIdError, match=r"\('00002', '00001', …\)$"):
        Vocabulary(["00002", "00001"], "user").row("3")


@pytest.mark.parametrize("typed", ["", "000", " "])
def test_an_id_of_zeros_alone_is_not_suggested(typed):
    with pytest.raises(UnknownIdError) as error:
        Vocabulary(["0", "1"], "user").row(typed)
    assert "did you mean" not in str(error.value)


def test_suggestions_never_read_a_large_vocabulary(monkeypatch):
    """A server looks up the ids of requests: an unknown one must cost no more than a known one."""
    bare = []
    monkeypatch.setattr("rlmrec.data.vocabulary._bare", lambda raw: bare.append(raw) or str(raw).lstrip("0"))
    for size, read in ((10_000, 10_002), (10_001, 2)):
        ids = Vocabulary([f"0{n}" for n in range(1, size + 1)], "user")
        bare.clear()
        for _ in range(2):
            with pytest.raises(UnknownIdError) as error:
                ids.row("7")
            assert ("did you mean '07'?" in str(error.value)) == (size == 10_000)
        assert len(bare) == read
