import asyncio
import dataclasses
import gzip
import json
import sqlite3

import pytest

from rlmrec.errors import ConfigError, MissingAnswerError, WorkspaceError
from rlmrec.llm import store as store_module
from rlmrec.llm.base import Completion, Usage
from rlmrec.llm.replay import Replay
from rlmrec.llm.store import Confirmed, Profile, Store, request_hash

OPTIONS = {"temperature": 0.0}


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "profiles.sqlite") as store:
        yield store


def test_the_hash_covers_everything_that_decides_an_answer():
    first = request_hash("m", {"a": 1}, "s", "p")
    assert len(first) == 64
    others = [("n", {"a": 1}, "s", "p"), ("m", {"a": 2}, "s", "p"), ("m", {"a": 1}, "t", "p")]
    others += [("m", {"a": 1}, "s", "q"), ("m", {"a": 1}, "sp", "")]
    assert len({first, *(request_hash(*other) for other in others)}) == 6


def test_answers_and_profiles_come_back_as_they_went_in(store):
    answer = Completion('{"a": "ü"}', Usage(3, 2, 1), "length")
    store.put_answer("h", "m", OPTIONS, answer)
    assert store.answer("h") == answer
    profile = Profile(
        "user", "7", None, None, "h", (5, 2), "bad", "malformed", "raw \U0001f600", ("n",), ("h", "i"),
        Usage(3, 2), "m", "fp", (9,),
    )  # fmt: skip
    store.put_profile(profile)
    assert store.profile("user", "7") == profile
    assert store.profile("user", 7) is None  # 7 and "7" are two ids
    assert list(store.profiles("user")) == [profile]
    assert store.state("user", "7") == ("h", "malformed", False, "fp")
    store.confirm([Confirmed("user", "7", "other", (4,), ()), Confirmed("user", "none", "other", (), ())])
    confirmed = dataclasses.replace(profile, dataset="other", sources=(4,), quoted=())
    assert list(store.profiles("user")) == [confirmed]
    assert store.models() == [("m", OPTIONS, 1)]
    assert store.usage() == (1, Usage(3, 2, 1))


def test_the_first_answer_stays_in_force_and_none_is_lost(store):
    store.put_answer("h", "m", OPTIONS, Completion("first"))
    store.put_answer("h", "m", OPTIONS, Completion("second"))
    assert store.answer("h").text == "first"
    assert store.usage()[0] == 2


def test_retiring_a_failure_takes_only_its_own_answers(store):
    store.put_answer("h", "m", OPTIONS, Completion("bad"))
    store.put_answer("g", "m", OPTIONS, Completion("good"))
    store.put_profile(
        Profile("item", 1, None, None, "h", error="bad", error_kind="malformed", requests=("h",))
    )
    store.put_profile(Profile("item", 2, "fine", None, "g", requests=("g",)))
    store.retire_failure("item", 1)
    store.retire_failure("item", 2)
    assert store.answer("h") is None
    assert store.answer("g").text == "good"
    store.put_answer("h", "m", OPTIONS, Completion("better"))
    store.retire_failure("item", 1)  # killed before the profile was written: the new answer is paid for
    assert store.answer("h").text == "better"


def test_half_characters_and_nul_are_storable(store):
    store.put_answer("h", "m", {}, Completion("half \ud800, nul \x00."))
    assert store.answer("h").text == "half ?, nul \x00."


def test_reopening_keeps_everything_and_migrates_once(tmp_path, monkeypatch):
    path = tmp_path / "p.sqlite"
    with Store(path) as store:
        store.put_answer("h", "m", {}, Completion("x"))
    later = (*store_module.MIGRATIONS, "ALTER TABLE profiles ADD COLUMN rating REAL")
    monkeypatch.setattr(store_module, "MIGRATIONS", later)
    for _ in range(2):
        with Store(path) as store:
            assert store.answer("h").text == "x"
    monkeypatch.undo()
    with pytest.raises(WorkspaceError, match="newer rlmrec"):
        Store(path)


def test_a_store_of_the_first_version_is_read(tmp_path, monkeypatch):
    path = tmp_path / "p.sqlite"
    monkeypatch.setattr(store_module, "MIGRATIONS", store_module.MIGRATIONS[:1])
    with Store(path) as store:
        store._db.execute(
            "INSERT INTO profiles (kind, key, request, sources, notes, requests, prompt_tokens, completion_tokens, "
            "model, dataset, written) VALUES ('user', '7', 'h', '[5]', '[]', '[]', 1, 2, 'm', 'fp', 0)"
        )
    monkeypatch.undo()
    with Store(path) as store:
        assert store.profile("user", 7) == Profile(
            "user", 7, None, None, "h", (5,), usage=Usage(1, 2), model="m", dataset="fp"
        )


def test_a_migration_that_fails_leaves_the_version_before(tmp_path, monkeypatch):
    path = tmp_path / "p.sqlite"
    Store(path).close()
    broken = (*store_module.MIGRATIONS, "CREATE TABLE fine (a); CREATE TABLE models (twice)")
    monkeypatch.setattr(store_module, "MIGRATIONS", broken)
    with pytest.raises(WorkspaceError, match="already exists"):
        Store(path)
    monkeypatch.undo()
    with Store(path) as store:
        assert store.models() == []


def test_write_ahead_log(store):
    with sqlite3.connect(store.path) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_files_that_are_no_stores(tmp_path):
    with pytest.raises(WorkspaceError, match="does not exist"):
        Store(tmp_path / "none.sqlite", create=False)
    (tmp_path / "text.sqlite").write_text("no database at all, but some text that is long enough")
    with pytest.raises(WorkspaceError, match="cannot be used"):
        Store(tmp_path / "text.sqlite")


def test_one_writer_at_a_time(store):
    with store.writing(), Store(store.path) as other:
        with pytest.raises(WorkspaceError, match="another process"), other.writing():
            pass
        other.put_answer("h", "m", {}, Completion("x"))  # reading and small writes stay possible
    with store.writing():
        pass


def replayed(llm, system, prompt):
    return asyncio.run(llm.complete(system, prompt)).text


def test_replay_from_a_store_and_from_an_export(store, tmp_path):
    request = request_hash("m", OPTIONS, "s", "p")
    store.put_answer(request, "m", OPTIONS, Completion("answer", Usage(1, 2, 0)))
    file = tmp_path / "answers.jsonl.gz"
    assert store.export(file, {"date": "2026-11-21"}) == 1
    again = tmp_path / "again.jsonl.gz"
    store.export(again, {"date": "2026-11-21"})
    assert file.read_bytes() == again.read_bytes()
    plain = tmp_path / "answers.jsonl"
    store.export(plain, {"date": "2026-11-21"})
    assert plain.read_bytes() == gzip.decompress(file.read_bytes())
    for path in (store.path, file, plain):
        llm = Replay(path)
        assert (llm.name, llm.options) == ("m", OPTIONS)
        assert replayed(llm, "s", "p") == "answer"
        with pytest.raises(MissingAnswerError, match="holds no answer of m"):
            replayed(llm, "s", "q")
    assert Replay(file).manifest["date"] == "2026-11-21"


def test_replay_must_know_which_model_to_be(store):
    store.put_answer("1", "m", OPTIONS, Completion("x"))
    store.put_answer("2", "n", OPTIONS, Completion("y"))
    with pytest.raises(ConfigError, match=r"it holds m .*; n "):
        Replay(store.path)
    assert Replay(store.path, model="n").name == "n"
    with pytest.raises(ConfigError, match="0 do"):
        Replay(store.path, model="n", options={})


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(b"", mtime=0)[:12],
        gzip.compress(b"[]\n", mtime=0),
        gzip.compress(b'{"format": "x"}\n', mtime=0),
        b"\x1f\x8bxx",
        b"",
        b"id,text\n",
    ],
)
def test_damaged_exports(tmp_path, content):
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(WorkspaceError, match=r"x\.gz"):
        Replay(tmp_path / "x.gz")
    with pytest.raises(WorkspaceError, match="does not exist"):
        Replay(tmp_path / "none.gz")
    with pytest.raises(WorkspaceError, match="expected stored answers"):
        Replay(tmp_path)


def test_a_failing_line_of_an_export_names_the_file(tmp_path):
    head = json.dumps({"format": store_module.EXPORT_FORMAT, "models": []})
    (tmp_path / "x.gz").write_bytes(gzip.compress(f"{head}\n[1]\n".encode()))
    with pytest.raises(WorkspaceError, match="is damaged"):
        Replay(tmp_path / "x.gz")
