"""From texts to vectors: order, the cache, what is asked again, a dataset's nodes without a text."""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from fault_server import FaultServer, embedded, vector_of

import rlmrec
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.testing import blocks, check_text_encoder
from rlmrec.text import VectorCache, encode_dataset, encode_texts, encoder_of
from rlmrec.text.cache import key
from rlmrec.text.encoding import Encoded
from rlmrec.text.registry import make_encoder
from rlmrec.text.tfidf import TfidfEncoder

TEXTS = [f"text {'x' * (row % 7)} {row}" for row in range(300)]


def fitted():
    return TfidfEncoder.fit(TEXTS)


class Bytes:
    """The first bytes of a hash, and a record of what was asked."""

    name, dim = "bytes 1", 4

    def __init__(self):
        self.asked = []

    def encode(self, texts):
        self.asked.append(list(texts))
        return np.array([vector_of(text) for text in texts]).reshape(-1, 4)


def expected(texts):
    return np.array([vector_of(text) for text in texts], np.float32)


@pytest.fixture
def cache(tmp_path):
    with VectorCache(tmp_path / "cache.sqlite") as cache:
        yield cache


def test_order_lengths_and_progress():
    encoder, told = Bytes(), []
    vectors, cut = encode_texts(encoder, TEXTS, on_progress=told.append)
    assert np.array_equal(vectors, expected(TEXTS))
    assert vectors.dtype == np.float32
    assert not cut.any()
    lengths = [len(text) for chunk in encoder.asked for text in chunk]
    assert lengths == sorted(lengths, reverse=True)
    assert told == [Encoded(300, done, 0, 0) for done in (0, 128, 256, 300)]


def test_equal_texts_are_encoded_once():
    encoder = Bytes()
    vectors, _ = encode_texts(encoder, ["b", "a", "b", "b"])
    assert encoder.asked == [["b", "a"]]
    assert np.array_equal(vectors, expected(["b", "a", "b", "b"]))


def test_a_changed_text_is_encoded_alone(cache):
    encode_texts(Bytes(), TEXTS, cache)
    encoder, told = Bytes(), []
    changed = [*TEXTS[:7], "changed", *TEXTS[8:][::-1]]
    vectors, _ = encode_texts(encoder, changed, cache, told.append)
    assert encoder.asked == [["changed"]]
    assert np.array_equal(vectors, expected(changed))
    assert told[0] == Encoded(300, 299, 299, 0)


def test_another_encoder_shares_nothing(cache):
    encode_texts(Bytes(), TEXTS[:3], cache)
    other = Bytes()
    other.name = "bytes 2"
    encode_texts(other, TEXTS[:3], cache)
    assert len(other.asked) == 1


def test_nothing_to_encode(cache):
    vectors, cut = encode_texts(Bytes(), [], cache)
    assert vectors.shape == (0, 4)
    assert cut.shape == (0,)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((2, 4)), r"3 texts with an array of shape \(2, 4\)"),
        (np.zeros(3), "array of shape"),
        (np.full((3, 4), np.nan), "3 of 3 texts with NaN"),
        (np.zeros((3, 5)), "5 dimensions, 4 before"),
        ([["a"] * 4] * 3, "something else than an array of numbers"),
    ],
)
def test_wrong_answers_are_refused_and_not_stored(cache, answer, message):
    wrong = Bytes()
    wrong.encode = lambda texts: answer
    with pytest.raises(DataError, match=message):
        encode_texts(wrong, TEXTS[:3], cache)
    with pytest.raises(AssertionError):
        check_text_encoder(wrong)
    assert np.array_equal(encode_texts(Bytes(), TEXTS[:3], cache)[0], expected(TEXTS[:3]))


def test_a_stream_that_leaves_texts_out_is_refused():
    class Lazy(Bytes):
        def stream(self, texts, sink):
            sink([0], self.encode(texts[:1]))

    with pytest.raises(DataError, match="left 2 of 3 texts without a vector"):
        encode_texts(Lazy(), TEXTS[:3])
    with pytest.raises(AssertionError, match="stream"):
        check_text_encoder(Lazy())


def test_check_text_encoder_finds_what_is_wrong():
    check_text_encoder(Bytes())

    class Sorted(Bytes):
        def encode(self, texts):
            return super().encode(sorted(texts))

    class Mean(Bytes):
        def encode(self, texts):
            vectors = super().encode(texts)
            return vectors - vectors.mean(0) if len(vectors) else vectors

    class Constant(Bytes):
        def encode(self, texts):
            return np.ones((len(texts), 4))

    class Liar(Bytes):
        dim = 5

    for wrong, message in (
        (Sorted, "order of the texts"), (Mean, "texts beside it"), (Constant, "same vector"), (Liar, "dim is 5"),
    ):  # fmt: skip
        with pytest.raises(AssertionError, match=message):
            check_text_encoder(wrong())


def test_two_processes_do_not_pay_for_the_same(cache, tmp_path):
    with (
        VectorCache(tmp_path / "cache.sqlite") as other,
        other.writing(),
        pytest.raises(WorkspaceError, match="another process is encoding"),
    ):
        encode_texts(Bytes(), TEXTS, cache)


def test_damaged_and_newer_caches(tmp_path):
    (tmp_path / "bad").write_bytes(b"no database at all, but long enough to be looked at as one" * 20)
    with pytest.raises(WorkspaceError, match="delete it"):
        VectorCache(tmp_path / "bad")
    with VectorCache(tmp_path / "new") as cache:
        cache._db.execute("PRAGMA user_version = 9")
    with pytest.raises(WorkspaceError, match=r"newer rlmrec .format 9, this version reads up to 1"):
        VectorCache(tmp_path / "new")


def test_a_cache_that_cannot_be_written_says_so(cache):
    cache._db.execute(f"PRAGMA max_page_count = {cache._db.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(WorkspaceError, match="cannot be written: database or disk is full"):
        encode_texts(Bytes(), TEXTS, cache)
    cache._db.execute("PRAGMA max_page_count = 1000000")
    assert np.array_equal(encode_texts(Bytes(), TEXTS, cache)[0], expected(TEXTS))


def test_nodes_without_a_text():
    dataset, _ = blocks(users=4, items=3, density=0.9)
    items = [None if row in (0, 1, 2) else f"item {row}" for row in range(9)]
    text_embeddings = encode_dataset(dataset, Bytes(), items)
    assert text_embeddings.has_item.tolist() == [False] * 3 + [True] * 6
    # The first block's users have met the first block's items alone.
    assert text_embeddings.has_user.tolist() == [False] * 4 + [True] * 8
    user = 5
    mine = dataset.train.items[dataset.train.users == user]
    by_hand = expected([items[row] for row in mine]).mean(0)
    np.testing.assert_allclose(text_embeddings.users[user], by_hand, rtol=1e-6)
    manifest = text_embeddings.manifest
    assert (manifest["items_without_vector"], manifest["users_without_vector"]) == (3, 4)
    assert (manifest["encoder"], manifest["dimensions"], manifest["users_by_mean"]) == ("bytes 1", 4, 8)
    text_embeddings.check(dataset)


@pytest.mark.parametrize("fill", [True, False])
def test_users_with_texts_of_their_own(fill):
    dataset, _ = blocks(users=4, items=3)
    users = [f"user {row}" if row % 2 else None for row in range(12)]
    text_embeddings = encode_dataset(
        dataset, Bytes(), [f"item {row}" for row in range(9)], users, fill_users=fill
    )
    assert np.array_equal(text_embeddings.users[1::2], expected(users[1::2]))
    assert text_embeddings.has_user.tolist() == [fill or row % 2 == 1 for row in range(12)]
    assert text_embeddings.users[::2].any() == fill


def test_texts_that_do_not_fit_the_dataset():
    dataset, _ = blocks(users=4, items=3)
    with pytest.raises(DataError, match="8 texts of items, the dataset has 9"):
        encode_dataset(dataset, Bytes(), ["x"] * 8)
    with pytest.raises(DataError, match="not one text"):
        encode_dataset(dataset, Bytes(), [None] * 9)
    with pytest.raises(DataError, match="the texts of items are one text: expected a list"):
        encode_dataset(dataset, Bytes(), "x" * 9)
    with pytest.raises(DataError, match="the texts of items are a DataFrame"):
        encode_dataset(dataset, Bytes(), pd.DataFrame({"text": ["x"] * 9}))
    with pytest.raises(DataError, match=r"text of item 'i3' is 3 \(int\): expected a text, or None"):
        encode_dataset(dataset, Bytes(), [*"abc", 3, *"abcde"])
    with pytest.raises(DataError, match=r"of 9 texts none is of a known item: unknown item .*pass a list"):
        encode_dataset(dataset, Bytes(), pd.Series(["x"] * 9).sample(frac=1, random_state=0))
    with pytest.raises(DataError, match=r"item 'i1' has several texts"):
        encode_dataset(dataset, Bytes(), pd.Series(["x", "y"], index=["i1", "i1"]))
    with pytest.raises(DataError, match=r"the encoder is the class Bytes: make one, such as Bytes\(\)"):
        encode_dataset(dataset, Bytes, ["x"] * 9)


@pytest.mark.parametrize("make", [lambda: make_encoder("tfidf"), fitted])
def test_one_text_instead_of_a_list_is_refused(make):
    with pytest.raises(
        DataError, match=r"got the text 'Python Backend', expected a list of texts: pass \[text\]"
    ):
        make().encode("Python Backend")
    with pytest.raises(DataError, match=r"text 1 is None \(NoneType\): expected texts"):
        make().encode(["Python", None])


def test_texts_by_id_and_by_position():
    """By id: a dict, and a Series with an index of its own. By position: lists. A column has no ids and any order."""
    dataset, _ = blocks(users=4, items=3)
    ids, texts = dataset.items.ids, [f"item {row}" for row in range(9)]
    by_id = dict(zip(ids, texts, strict=True))
    for given in (texts, np.array(texts), by_id, pd.Series(by_id).sample(frac=1, random_state=0)):
        assert np.array_equal(encode_dataset(dataset, Bytes(), given).items, expected(texts))
    for given, told in (
        (
            pd.Series(texts),
            r"a Series without ids: .*\.set_index\(\"item_id\"\).*\.to_list\(\).* dataset\.items\.ids",
        ),
        (pl.Series(texts), r"a Series without ids: .*dict\(zip\(table\[\"item_id\"\]"),
        (set(texts), "the texts of items are a set: expected a list"),
    ):
        with pytest.raises(DataError, match=told):
            encode_dataset(dataset, Bytes(), given)
    users = {"u3": "x", "u1": "y", "stranger": "z"}
    with pytest.warns(UserWarning, match="1 of 3 texts is of no user of the dataset, for example 'stranger'"):
        found = encode_dataset(dataset, Bytes(), texts, users, fill_users=False)
    assert np.flatnonzero(found.has_user).tolist() == [1, 3]
    assert np.array_equal(found.users[[1, 3]], expected(["y", "x"]))


def test_missing_and_blank_texts_are_no_texts():
    dataset, _ = blocks(users=4, items=3)
    blank = pd.Series(["a", None, np.nan, "", " \n", pd.NA, pd.NaT, "b", "c"], dtype=object)
    found = encode_dataset(dataset, Bytes(), blank.to_list(), [None, "", *["d"] * 10], fill_users=False)
    assert found.has_item.tolist() == [True, *[False] * 6, True, True]
    assert (found.manifest["items_without_vector"], found.manifest["users_without_vector"]) == (6, 2)


def test_texts_of_users_that_the_dataset_has():
    orders = pd.DataFrame({"user_id": [*"aabbcc"], "item_id": [*"xyyzzx"]})
    cvs = pd.DataFrame({"user_id": [*"cab"], "cv": ["Go", "Python", " "]})
    jobs = pd.DataFrame({"item_id": [*"xyz"], "title": ["X", "Y", "Z"]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = rlmrec.Dataset.from_frame(orders, users=cvs, items=jobs, split=(1, 0, 0))
    with pytest.warns(
        UserWarning, match='^not used: 2 of 3 users have a text of their own; user_vectors="texts"'
    ):
        assert encode_dataset(data, Bytes()).manifest["users"] == "mean over training items"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_dataset(data, Bytes(), user_vectors="mean")
        found = encode_dataset(data, Bytes(), user_vectors="texts", fill_users=False)
    assert np.array_equal(found.users[[0, 2]], expected(["Python.", "Go."]))
    assert (found.manifest["users"], found.manifest["users_without_vector"]) == ("texts", 1)
    with pytest.raises(ConfigError, match="user_vectors 'profiles': expected one of texts, mean"):
        encode_dataset(data, Bytes(), user_vectors="profiles")
    with pytest.raises(ConfigError, match="user_vectors 'mean' does not use users"):
        encode_dataset(data, Bytes(), users=[*"abc"], user_vectors="mean")
    with pytest.raises(
        ConfigError, match="blocks has no user texts: pass users=…, or --users FILE, with a text"
    ):
        encode_dataset(blocks()[0], Bytes(), user_vectors="texts")


def test_the_encoder_of_vectors_that_python_encoded(tmp_path):
    dataset, _ = blocks(users=4, items=3)
    texts = [f"word{row} word{row + 1}" for row in range(9)]
    lost = encode_dataset(dataset, "tfidf", texts).manifest
    with pytest.raises(
        WorkspaceError, match="was not stored with their vectors: encode them again with encoders="
    ):
        encoder_of(lost)
    kept = encode_dataset(dataset, "tfidf", texts, encoders=str(tmp_path / "enc")).manifest
    assert encoder_of(kept, folder=str(tmp_path / "enc")).name == kept["encoder"]
    with pytest.raises(WorkspaceError, match=r"is absent: encode the texts again .'rlmrec encode'."):
        encoder_of(kept)


# The imports are shared by the fork; each run is a process of its own.
KILLED_RUN = """
import os, sys
import aiohttp
from rlmrec.text import OpenAIEmbeddings, VectorCache, encode_texts
for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        with VectorCache(sys.argv[2]) as cache:
            encoder = OpenAIEmbeddings("fake", base_url=sys.argv[1], batch_texts=5, concurrency=4)
            encode_texts(encoder, [f"text {row}" for row in range(400)], cache)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to start four processes in seconds")
def test_kill_nine_pays_nothing_twice(tmp_path):
    """Killed three times in the middle; only what was on its way at a kill is asked again."""
    texts = [f"text {row}" for row in range(400)]
    path, source = tmp_path / "cache.sqlite", Path(rlmrec.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    lost = []  # per kill: texts that were asked and not stored

    def asked(server):
        return Counter(text for body in list(server.bodies) for text in body["input"])

    with FaultServer(lambda number, body: embedded(body), latency=0.02) as server:
        runner = subprocess.Popen(
            [sys.executable, "-c", KILLED_RUN, server.url, path],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        watchdog = threading.Timer(120, runner.kill)
        watchdog.start()
        try:
            for goal in (15, 35, 55, None):  # of 80 requests
                runner.stdin.write("go\n")
                pid = int(runner.stdout.readline())
                if goal is not None:
                    while server.requests < goal and watchdog.is_alive():
                        time.sleep(0.001)
                    os.kill(pid, signal.SIGKILL)
                code = int(runner.stdout.readline())
                assert code == (0 if goal is None else -signal.SIGKILL)
                time.sleep(0.1)  # the server may still be writing answers to nobody
                stored = stored_texts(path, server.url, texts)
                lost.append({text for text in asked(server) if text not in stored})
        finally:
            runner.stdin.close()
            runner.wait(30)
            watchdog.cancel()
        paid = asked(server)
        assert stored_texts(path, server.url, texts) == set(texts)
        with VectorCache(path) as cache:
            found = {place: vector for place, vector, _ in cache.read(keys(server.url, texts))}
    assert np.array_equal([found[row] for row in range(400)], expected(texts))
    assert set(paid) == set(texts)
    assert any(lost), "no kill hit a request in flight: the test proves nothing"
    for text, times in paid.items():
        assert times <= 1 + sum(text in some for some in lost), "paid again though it was stored"
    assert sum(paid.values()) <= 400 + 3 * 4 * 5  # three kills, four requests in flight, five texts each


def keys(url, texts):
    return [key(f"fake ({url})", text) for text in texts]


def stored_texts(path, url, texts):
    with VectorCache(path) as cache:
        return {texts[place] for place, _, _ in cache.read(keys(url, texts))}
