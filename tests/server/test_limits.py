"""Nobody keeps the server from answering others: half requests, silent connections, long texts, other hosts."""

import contextlib
import socket
import sqlite3
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest
from served import TOKEN, WordEncoder, made_service, made_workspace, serving

from rlmrec import sqlite as files
from rlmrec.errors import WorkspaceError
from rlmrec.llm.store import Store
from rlmrec.server import workers
from rlmrec.server.middleware import LOOPBACK, Limits

LIST = "/v1/users/u7/recommendations"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return made_workspace(tmp_path_factory.mktemp("limits") / "w")


def connections(url, count, data=b""):
    address = urlsplit(url)
    stack = contextlib.ExitStack()
    opened = [
        stack.enter_context(socket.create_connection((address.hostname, address.port))) for _ in range(count)
    ]
    for one in opened:
        one.settimeout(10)
        one.sendall(data)
    return stack, opened


def test_only_hosts_that_are_allowed_are_answered(place):
    with serving(made_service(place), limits=Limits(hosts=frozenset({*LOOPBACK, "shop.example"}))) as url:
        for host in ("localhost", "127.0.0.1:81", "[::1]:80", "Shop.Example.", "SHOP.example:8000"):
            assert httpx.get(url + LIST, headers={"host": host}).status_code == 200
        for path in (LIST, "/", "/healthz", "/metrics", "/openapi.json", "/web/app.js"):
            for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[::2]", ""):
                refused = httpx.get(url + path, headers={"host": host})
                assert (refused.status_code, "--allowed-hosts" in refused.text) == (421, True)


def test_half_sent_bodies_do_not_take_slots(place):
    head = b"POST /v1/recommendations HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
    with serving(made_service(place), limits=Limits(in_flight=4)) as url:
        stack, _ = connections(url, 60, head)
        with stack:
            assert httpx.get(url + LIST).status_code == 200
            assert httpx.post(f"{url}/v1/recommendations", json={"users": ["u7"]}).status_code == 200


def test_texts_have_slots_of_their_own(place):
    release = threading.Event()

    class Slow(WordEncoder):
        def encode(self, texts):
            release.wait(20)
            return super().encode(texts)

    def ask(codes):
        codes.append(httpx.post(f"{url}/v1/cold/users", json={"text": "travel"}, timeout=30).status_code)

    with serving(made_service(place, Slow), limits=Limits(in_flight=64, texts=2)) as url:
        codes = []
        threads = [threading.Thread(target=ask, args=(codes,)) for _ in range(12)]
        for thread in threads:
            thread.start()
        while len(codes) < 10:
            time.sleep(0.01)
        assert set(codes) == {503}
        assert httpx.get(url + LIST).status_code == 200
        release.set()
        for thread in threads:
            thread.join()
    assert sorted(codes) == [200, 200, *[503] * 10]


def test_a_body_to_the_monitored_routes_is_refused(place):
    with serving(made_service(place)) as url:
        assert httpx.request("GET", f"{url}/healthz", content=b"x" * 1000).status_code == 413
        assert httpx.get(f"{url}/healthz").status_code == 200


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-"])
def test_connections_without_a_whole_head_are_closed(place, monkeypatch, sent):
    monkeypatch.setattr(workers, "HEAD_SECONDS", 0.3)
    with serving(made_service(place), TOKEN, http=workers.Connection) as url:
        stack, opened = connections(url, 20, sent)
        with stack:
            assert all(one.recv(100) == b"" for one in opened)
        stack, opened = connections(url, 1, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        with stack:
            whole = b""
            while not whole.endswith(b"}"):
                whole += opened[0].recv(100_000)
            assert whole.startswith(b"HTTP/1.1 200")
            opened[0].sendall(b"GET /hea")  # the next head is bounded, too
            assert opened[0].recv(100) == b""


def test_profiles_are_read_where_nothing_can_be_written(place, monkeypatch):
    folder = place.profiles_path.parent
    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr(files.os, "access", lambda path, mode: False)
    with Store(place.profiles_path, create=False) as store:
        assert store.profile("user", "u7").summarization.startswith("Likes cookery")
        assert sorted(path.name for path in folder.iterdir()) == before
        with pytest.raises(
            WorkspaceError, match="cannot be used as a store of profiles: attempt to write a readonly"
        ):
            store.retire_failure("user", "u7")


def test_a_damaged_store_is_one_of_our_errors(place, tmp_path):
    content = bytearray(place.profiles_path.read_bytes())
    content[4096:] = bytes(len(content) - 4096)
    (tmp_path / "profiles.sqlite").write_bytes(content)
    with (
        pytest.raises(WorkspaceError, match=r"profiles\.sqlite"),
        Store(tmp_path / "profiles.sqlite") as store,
    ):
        list(store.profiles("user"))
    assert issubclass(sqlite3.DatabaseError, Exception)
