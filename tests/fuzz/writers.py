"""The commands that write, each beside a small workspace; shared by ``kills.py`` and ``full_disk.py``."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "llm"))
from fault_server import FaultServer, reply

# What a command writes beside artefacts whose content is the same each time: times, seconds, logs.
VOLATILE = (".sqlite", ".sqlite-wal", ".sqlite-shm", ".lock", "published.json", "monitor.jsonl")
UNFINISHED = "checkpoint"  # a training that was killed goes on from there
TABLE = (
    "data table orders.csv --user-column customer_id --item-column product_id --timestamp-column ordered_at "
    '--items products.csv --split "hash 3:1:1" -w w'
)
TRAIN = "train -w w --backbone mf --epochs 4 --set batch_size=256 --set evaluate_every=1"
PROFILE = "profile -w w --items --model m --base-url {url} --concurrency 2"
PREPARE = (
    TABLE, "encode -w w --encoder tfidf --set dim=16", "train -w w --name chosen", f"{TRAIN} --name mf",
    f"{PROFILE} --limit 20", "recommend -w w --run chosen --all --out lists.parquet -k 5", "publish -w w --run chosen",
)  # fmt: skip
COMMANDS = {
    "data table": TABLE.replace("hash 3:1:1", "hash 2:1:1"),
    "data append": "data append next_day.csv --items next_products.csv -w w",
    "profile": PROFILE,
    "profile --export": f"{PROFILE} --export answers.jsonl.gz",
    "profile --batch-out": "profile -w w --items --model m --batch-out requests.jsonl",
    "encode tfidf": "encode -w w --encoder tfidf --set dim=24 --whiten 0.5",
    "encode metadata": "encode -w w --encoder tfidf --profiles llm+metadata --name both",
    "train graph-filter": "train -w w --name chosen --overwrite --set rank=16",
    "train mf": f"{TRAIN} --name mf --overwrite",
    "train --final": "train -w w --final --like chosen --name live",
    "cold fit": "cold fit -w w --run mf",
    "recommend parquet": "recommend -w w --run chosen --all --out lists.parquet -k 6",
    "recommend csv": "recommend -w w --run chosen --all --out lists.csv -k 6",
    "recommend jsonl": "recommend -w w --run chosen --all --out lists.jsonl -k 6",
    "export": "export -w w --run mf --out vectors",
    "publish": "publish -w w --run mf",
    "monitor": "monitor lists.parquet next_day.csv -w w",
    "report": "report -w w",
}


def import_everything() -> None:
    """Import what the commands need, so that a forked process spends its time on writing."""
    names = (
        "torch", "faiss", "matplotlib.pyplot", "sklearn.feature_extraction.text", "aiohttp", "filelock",
        "rich.progress", "rlmrec.server.api", "rlmrec.server.settings", "rlmrec.recommend.publish",
        "rlmrec.recommend.export", "rlmrec.recommend.index", "rlmrec.recommend.cold_start", "rlmrec.profiles.profiler",
        "rlmrec.profiles.batch", "rlmrec.llm.client", "rlmrec.llm.local", "rlmrec.llm.replay", "rlmrec.text.encoding",
        "rlmrec.text.tfidf",
        "rlmrec.training.trainer", "rlmrec.experiments.runner", "rlmrec.experiments.baselines", "rlmrec.report",
        "rlmrec.report.collect", "rlmrec.report.accuracy", "rlmrec.closed_form.graph_filter", "rlmrec.backbones.mf",
        "rlmrec.testing.shop", "rlmrec.data.readers", "rlmrec.data.append", "scipy.stats", "pandas",
    )  # fmt: skip
    for name in names:
        with contextlib.suppress(ImportError):
            import_module(name)
    from rlmrec.cli import COMMANDS as commands

    for name in commands:
        with contextlib.suppress(ImportError):
            import_module(f"rlmrec.cli.{name}")


def forked(
    work: Callable[[], Any], kill_after: float | None = None, kill_at_event: int | None = None
) -> tuple[int, str, float]:
    """Run ``work`` in a forked process; return its exit code (-9 if killed), what it printed, and the seconds.

    Args:
        work: what to do; its ``SystemExit`` gives the code.
        kill_after: seconds after which the process is killed with SIGKILL.
        kill_at_event: the number of the change of a file before which the process kills itself.
    """
    with tempfile.NamedTemporaryFile("w+") as out:
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _child(work, out.name, kill_at_event)
        status = None
        while status is None:
            found, raw = os.waitpid(child, os.WNOHANG)
            if found:
                status = raw
            elif kill_after is not None and time.monotonic() - started >= kill_after:
                os.kill(child, 9)
                kill_after = None
            else:
                time.sleep(0.002)
        return (
            os.waitstatus_to_exitcode(status),
            Path(out.name).read_text(errors="replace"),
            time.monotonic() - started,
        )


def _child(work: Callable[[], Any], out: str, kill_at_event: int | None) -> None:
    descriptor = os.open(out, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    code = 70
    try:
        count = _kill_at(kill_at_event or 0)
        try:
            work()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        print(f"changes of files: {count()}")
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _kill_at(number: int) -> Callable[[], int]:
    """Kill this process before a change of a file; return what counts the changes so far."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        changes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.chmod")
        if event == "open":
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            changes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and "/dev/" not in str(
                arguments[0]
            )
        if changes:
            count += 1
            if count == number:
                os.kill(os.getpid(), 9)

    sys.addaudithook(hook)
    return lambda: count


def run(command: str, folder: Path, url: str) -> Callable[[], None]:
    """Return a call that runs a command line in a folder."""

    def work() -> None:
        import shlex

        from rlmrec.cli import main

        os.chdir(folder)
        main(shlex.split(command.format(url=url)))

    return work


def make(folder: Path, url: str) -> None:
    """Make the workspace that every command starts from."""
    from rlmrec.testing.shop import shop

    forked(lambda: shop(customers=60, products=36, orders=900).write(folder))
    for line in PREPARE:
        code, out, _ = forked(run(line, folder, url))
        if code not in (0, 3):
            raise SystemExit(f"rlmrec {line}: {out}")


def server() -> FaultServer:
    """Return an endpoint that answers every prompt with the same profile."""
    return FaultServer(lambda number, body: reply(), latency=0.002, keep=False)


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of every file whose content is the same each time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if (
            path.is_file()
            and not path.name.endswith(VOLATILE)
            and not path.name.startswith(UNFINISHED)
            and "/releases/" not in name
            and "encoders/" not in name
        ):
            found[name] = digest(path)
    return found


def digest(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check(folder: Path) -> None:
    """Read everything that is stored; raise an error if something is damaged, half or does not fit together."""
    import polars as pl

    from rlmrec.llm.store import Store
    from rlmrec.recommend.cold_start import FILE, ColdStart
    from rlmrec.recommend.publish import releases
    from rlmrec.recommend.recommender import Recommender
    from rlmrec.server.settings import Settings
    from rlmrec.text.cache import VectorCache
    from rlmrec.text.embeddings import TextEmbeddings
    from rlmrec.workspace import Workspace

    place = Workspace(folder / "w")
    place.dataset()
    with Store(place.profiles_path, create=False) as store:
        assert store.usage()[0] >= 20, "answers that were paid for are lost"
        assert len(list(store.profiles("item"))) >= 20, "profiles are lost"
    with VectorCache(place.vectors_path) as cache:
        assert cache._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    for path in (place.path / "text_embeddings").glob("*.safetensors"):
        TextEmbeddings.load(path)
    for run_folder in sorted((place.path / "runs").iterdir()):
        if (run_folder / "metrics.json").exists():
            recommender = Recommender.load(run_folder / "recommender")
            recommender.recommend(recommender.user_ids.ids[:2], 3)
            if (run_folder / "recommender" / FILE).exists():
                ColdStart.load(run_folder / "recommender", recommender)
    assert releases(place), "what was published is gone"
    Settings(place.path, None).load()
    for path in (*folder.glob("[!.]*.parquet"), *folder.glob("vectors/[!.]*.parquet")):
        pl.read_parquet(path)
    for path in folder.glob("[!.]*.jsonl*"):
        content = path.read_bytes()
        for line in (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines():
            json.loads(line)


def unfinished(folder: Path) -> list[str]:
    """Return hidden files and folders that a process has left; locks stay."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if not path.name.endswith(".lock")]


class Copies:
    """Fresh copies of a folder."""

    def __init__(self, whole: Path, place: Path) -> None:
        self.whole, self.place, self.number = whole, place, 0

    @contextlib.contextmanager
    def copy(self) -> Any:
        """Yield a new copy, which is removed afterwards."""
        self.number += 1
        folder = Path(shutil.copytree(self.whole, self.place / f"copy{self.number}"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def seeded(*parts: object) -> random.Random:
    """Return a source of random numbers for a case."""
    return random.Random(int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little"))
