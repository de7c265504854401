"""Parts: answers and vectors go from one store to another, whatever arrives twice, in pieces or changed."""

import shutil

import numpy as np
import polars as pl
import pytest

from rlmrec.errors import DataError, WorkspaceError
from rlmrec.files import sha256
from rlmrec.llm.base import Completion, Usage
from rlmrec.llm.store import PARTS, Profile, Store, write_answers
from rlmrec.parts import write_part
from rlmrec.text.cache import VectorCache, key

OPTIONS = {"temperature": 0.0}


def fill(store, numbers, name="m"):
    for number in numbers:
        answer = Completion(f"answer {number} ü", Usage(number, 2, 1), "length" if number % 2 else "stop")
        store.put_answer(f"{number:064x}", name, OPTIONS, answer)


def content(store):
    return sorted(
        store._db.execute("SELECT request, model, text, finish, prompt_tokens, retired FROM answers")
    )


@pytest.fixture
def stores(tmp_path):
    with Store(tmp_path / "a.sqlite") as one, Store(tmp_path / "b.sqlite") as other:
        yield one, other


def test_answers_arrive_once_however_often_they_are_taken(stores, tmp_path):
    here, there = stores
    fill(here, range(6))
    fill(here, range(6, 9), name="another")
    fill(there, range(4, 6))  # has some of them already
    assert here.write_parts(tmp_path / "parts") == 9
    assert here.write_parts(tmp_path / "parts") == 9
    parts = sorted((tmp_path / "parts").iterdir())
    assert len(parts) == 2, "the same answers make the same files"
    assert all(part.stem == sha256(part) for part in parts)
    assert there.take_parts(tmp_path / "parts") == (7, 2)
    before = content(there)
    assert there.take_parts(tmp_path / "parts") == (0, 9)
    assert there.take_parts(parts[0]).new == 0
    overlapping = tmp_path / "overlapping"
    write_answers(overlapping, [(f"{3:064x}", "a later answer", "stop", 1, 1, 0)], "m", OPTIONS)
    assert there.take_parts(overlapping) == (0, 1)
    assert content(there) == before
    assert here.answer(f"{5:064x}") == there.answer(f"{5:064x}") == Completion(
        "answer 5 ü", Usage(5, 2, 1), "length"
    )  # fmt: skip
    assert sorted(here.models()) == sorted(there.models())


def test_a_retired_answer_stays_out_of_force(stores, tmp_path):
    here, _ = stores
    fill(here, [1])
    here.write_parts(tmp_path / "parts")
    request = f"{1:064x}"
    here.put_profile(Profile("item", 1, None, None, request, error="no JSON", requests=(request,)))
    here.retire_failure("item", 1)
    assert here.answer(request) is None
    assert here.take_parts(tmp_path / "parts") == (0, 1)
    assert here.answer(request) is None


def torn(part):
    part.write_bytes(part.read_bytes()[:-20])


def changed(part):
    part.write_bytes(part.read_bytes().replace(b"stop", b"halt"))


def renamed(part):
    part.rename(part.with_name("answers.parquet"))


@pytest.mark.parametrize("harm", [torn, changed, renamed])
def test_a_part_that_did_not_arrive_whole_is_refused_by_name(stores, tmp_path, harm):
    here, there = stores
    fill(here, range(20))
    here.write_parts(tmp_path / "parts")
    [part] = (tmp_path / "parts").iterdir()
    harm(part)
    [part] = (tmp_path / "parts").iterdir()
    with pytest.raises(WorkspaceError, match=rf"{part.name} is damaged: its SHA-256 is not its name"):
        there.take_parts(tmp_path / "parts")
    assert there.models() == []


def test_a_part_of_something_else_is_refused(stores, tmp_path):
    _, there = stores
    vectors = pl.DataFrame({"key": [b"k" * 32], "truncated": [False], "vector": np.ones((1, 3), np.float32)})
    cases = [
        (write_part(tmp_path / "1", vectors, {"kind": "vectors"}), "it holds 'vectors', expected 'answers'"),
        (write_part(tmp_path / "2", vectors, {"kind": PARTS}), "request"),
        (write_answers(tmp_path / "3", [(None, "", "", 1, 1, 1)], "m", {}), "missing values"),
    ]
    for part, message in cases:
        with pytest.raises(WorkspaceError, match=message):
            there.take_parts(part)
    with pytest.raises(DataError, match="holds no parts"):
        there.take_parts(tmp_path / "none")


def test_vectors_arrive_once_and_stay_as_they_were(tmp_path):
    keys = [key("letters 1", str(number)) for number in range(5)]
    vectors = np.arange(15, dtype=np.float32).reshape(5, 3)
    with VectorCache(tmp_path / "a.sqlite") as here, VectorCache(tmp_path / "b.sqlite") as there:
        here.write(keys, vectors, [False, True, False, False, False])
        here.write([key("wide", "x")], np.ones((1, 7), np.float32), [False])
        there.write(keys[:1], vectors[:1], [False])
        assert here.write_parts(tmp_path / "parts") == 6
        assert len(list((tmp_path / "parts").iterdir())) == 2
        assert there.take_parts(tmp_path / "parts") == (5, 1)
        assert there.take_parts(tmp_path / "parts") == (0, 6)
        found = {place: (vector.tolist(), cut) for place, vector, cut in there.read(keys)}
        assert found == {row: (vectors[row].tolist(), row == 1) for row in range(5)}
        again = tmp_path / "again"
        there.write_parts(again)
        assert {path.name for path in again.iterdir()} == {
            path.name for path in (tmp_path / "parts").iterdir()
        }
        shutil.rmtree(again)
        bad = pl.DataFrame(
            {"key": [b"k" * 32], "truncated": [False], "vector": np.full((1, 3), np.nan, np.float32)}
        )
        with pytest.raises(WorkspaceError, match="vectors"):
            there.take_parts(write_part(again, bad, {"kind": "vectors"}))
