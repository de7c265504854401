"""A process that profiles until it is killed. Each line on stdin forks a run, whose pid is printed.

The imports are shared by the fork, so that thirty runs take seconds; each run is a process of its own.
"""

import os
import sys
from pathlib import Path

import aiohttp  # noqa: F401 (imported before the fork)
from made_dataset import make_dataset

from rlmrec.llm.client import OpenAIChat
from rlmrec.llm.store import Store
from rlmrec.profiles.profiler import Profiler


def run(url, path, n_users, n_items):
    dataset = make_dataset(n_users, n_items)
    with Store(path) as store:
        llm = OpenAIChat("fake", base_url=url, concurrency=8, backoff=0.01)
        for kind in ("item", "user"):
            progress = Profiler(llm, store).run(dataset, kind)
            if progress.n_failed or progress.stopped:
                os._exit(4)


if __name__ == "__main__":
    url, path, n_users, n_items = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                run(url, path, n_users, n_items)
            except BaseException as error:
                print(f"failed: {error!r}", file=sys.stderr, flush=True)
                os._exit(5)
            os._exit(0)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
