"""kill -9 at thirty random moments: nothing that was answered is lost, nothing is paid for twice."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fault_server import FaultServer, reply
from made_dataset import make_dataset

import rlmrec.llm.client
from rlmrec.llm.client import OpenAIChat
from rlmrec.llm.store import Store, request_hash
from rlmrec.profiles.audit import audit

KILLS = 30
IN_FLIGHT = 8
N_USERS, N_ITEMS = 40, 400
HERE = Path(__file__).parent


def answer(number, body):
    """Some first answers are unusable, so that asking again is killed in between as well."""
    prompt = body["messages"][-1]["content"]
    return reply("no JSON") if '7",' in prompt and "(Try" not in prompt else reply()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to start thirty processes in seconds")
def test_thirty_kills(tmp_path):
    rng = random.Random(20261121)
    path = tmp_path / "profiles.sqlite"
    options = OpenAIChat("fake").options
    lost = []  # per kill: the requests that were out and whose answer was not stored

    def hashes(server):
        return {
            request_hash("fake", options, body["messages"][0]["content"], body["messages"][1]["content"])
            for body in list(server.bodies)
        }

    source = Path(rlmrec.llm.client.__file__).parents[2]
    with FaultServer(answer, latency=0.02) as server:
        runner = subprocess.Popen(
            [sys.executable, HERE / "killed_run.py", server.url, path, str(N_USERS), str(N_ITEMS)],
            env={**os.environ, "PYTHONPATH": f"{source}:{HERE}", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        watchdog = threading.Timer(120, runner.kill)
        watchdog.start()
        try:
            for _ in range(KILLS):
                runner.stdin.write("go\n")
                pid = int(runner.stdout.readline())
                started, before = time.monotonic(), server.requests
                at_work = rng.random() < 0.8  # else at a random moment of its start
                while at_work and server.requests == before and time.monotonic() < started + 5:
                    time.sleep(0.001)
                time.sleep(rng.uniform(0, 0.06))
                os.kill(pid, signal.SIGKILL)
                assert int(runner.stdout.readline()) == -signal.SIGKILL, "the run ended before the kill"
                time.sleep(0.05)  # the server may still be writing answers to nobody
                with Store(path) as store:
                    lost.append({request for request in hashes(server) if store.answer(request) is None})
            runner.stdin.write("go\n")
            runner.stdout.readline()
            assert int(runner.stdout.readline()) == 0
        finally:
            runner.stdin.close()
            runner.wait(30)
            watchdog.cancel()
        paid = {}
        for body in server.bodies:
            request = request_hash("fake", options, *(message["content"] for message in body["messages"]))
            paid[request] = paid.get(request, 0) + 1

    dataset = make_dataset(N_USERS, N_ITEMS)
    with Store(path) as store:
        assert all(profile.error is None for kind in ("item", "user") for profile in store.profiles(kind))
        assert sum(1 for _ in store.profiles("item")) == N_ITEMS
        assert sum(1 for _ in store.profiles("user")) == N_USERS
        stored, _ = store.usage()
        assert stored == len(paid)  # one stored answer for each request hash, never two
        assert audit(store, dataset).passed
    assert len(paid) > N_ITEMS + N_USERS  # some were asked again
    newly_lost = [now - before for before, now in zip([set(), *lost], lost, strict=False)]
    assert all(len(requests) <= IN_FLIGHT for requests in newly_lost)
    for request, times in paid.items():
        assert times <= 1 + sum(request in requests for requests in lost), "paid again though it was stored"
    assert sum(paid.values()) <= len(paid) + KILLS * IN_FLIGHT
    assert any(lost), "no kill hit a request in flight: the test proves nothing"
