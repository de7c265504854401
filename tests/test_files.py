"""Atomic writing: the old content or the new, never half, and never somebody else's folder."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlmrec import files
from rlmrec.errors import WorkspaceError
from rlmrec.files import atomic_file, atomic_folder, locked, read_json, read_unchanged, write_json


class Killed(Exception):
    pass


def raise_after_writing(path):
    path.write_text("half")
    raise Killed


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"v": 1})
    with pytest.raises(Killed), atomic_file(path) as temporary:
        raise_after_writing(temporary)
    assert read_json(path) == {"v": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "d"
    for version in ("1", "2"):
        with atomic_folder(folder, "mark") as temporary:
            (temporary / "mark").write_text(version)
    with pytest.raises(Killed), atomic_folder(folder, "mark") as temporary:
        raise_after_writing(temporary / "mark")
    assert (folder / "mark").read_text() == "2"
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


KILLED = """
import os, signal, sys
from pathlib import Path
from rlmrec import files

moves = []

def move(source, target):
    source.replace(target)
    moves.append(target)
    if len(moves) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

path = Path(sys.argv[1])
files._move = move
if sys.argv[2] == "0":
    with files.atomic_file(path / "big") as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
with files.atomic_folder(path, "mark") as temporary:
    (temporary / "mark").write_text("new")
"""


@pytest.mark.skipif(files.WINDOWS, reason="there is no SIGKILL")
@pytest.mark.parametrize(
    ("moves", "content"), [("1", "old"), ("2", "new")]
)  # before and after the second rename
@pytest.mark.parametrize("then", ["read", "write"])
def test_a_kill_between_two_renames_is_mended_and_told(tmp_path, caplog, moves, content, then):
    folder = tmp_path / "d"
    with atomic_folder(folder, "mark") as temporary:
        (temporary / "mark").write_text("old")
    run = subprocess.run([sys.executable, "-c", KILLED, str(folder), moves], check=False)
    assert run.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2, "the kill has left something hidden"
    if then == "read":
        assert (files.complete_folder(folder) / "mark").read_text() == content
    if then == "write":
        with atomic_folder(folder, "mark") as temporary:
            (temporary / "mark").write_text("newest")
        assert (folder / "mark").read_text() == "newest"
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    assert content == "new" or "content before that is back" in caplog.text


@pytest.mark.skipif(files.WINDOWS, reason="there is no SIGKILL")
def test_a_killed_writer_leaves_nothing_for_good(tmp_path, caplog):
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "0"], check=False)
    assert run.returncode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    others = tmp_path / ".big.000000-1-00000000", tmp_path / f".big.{files._machine()}-{os.getpid()}-00000000"
    for other in others:  # of a process on another machine, and of one that runs
        other.touch()
    (tmp_path / ".big.mine").touch()
    write_json(tmp_path / "big", 1)
    assert f"{left}: removed what a killed process has left" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {"big", ".big.mine", *(path.name for path in others)}


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error while serializing: IoError(Os { code: 28, kind: StorageFull })"),
        ValueError("write failed: No space left on device (os error 28)"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_a_full_disk_is_one_error_and_what_was_there_stays(tmp_path, error):
    write_json(tmp_path / "a.json", 1)
    for opened in (atomic_file(tmp_path / "a.json"), atomic_folder(tmp_path / "d", "mark")):
        with pytest.raises(WorkspaceError, match="cannot be written, the disk is full"), opened:
            raise error
    assert read_json(tmp_path / "a.json") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(KeyError), atomic_file(tmp_path / "a.json"):
        raise KeyError("something else")


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(WorkspaceError, match="contains no mark"), atomic_folder(tmp_path / "thesis", "mark"):
        pass
    assert (tmp_path / "thesis" / "chapter1.txt").exists()
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty", "mark") as temporary:
        (temporary / "mark").touch()


def test_a_folder_that_is_replaced_while_it_is_read_is_read_again(tmp_path):
    """As by a server that starts while its run is trained again."""
    folder, marker = tmp_path / "f", tmp_path / "f" / "m.json"

    def write(content):
        with atomic_folder(folder, "m.json") as temporary:
            (temporary / "m.json").write_text(content)
            (temporary / "data").write_text(content)

    def read():
        seen = marker.read_text()
        if tries.append(seen) is None and len(tries) == 1 and replaced:
            write("new")
        if (folder / "data").read_text() != seen:
            raise WorkspaceError("mixed")
        return seen

    write("old")
    for replaced, expected in ((False, ["old"]), (True, ["old", "new"])):  # noqa: B007 (``read`` looks at it)
        tries = []
        assert read_unchanged(marker, read) == expected[-1]
        assert tries == expected
    (folder / "data").write_text("damaged")
    with pytest.raises(WorkspaceError, match="mixed"):
        read_unchanged(marker, read)


def test_the_umask_is_kept(tmp_path):
    old = os.umask(0o077)
    try:
        write_json(tmp_path / "private.json", 1)
    finally:
        os.umask(old)
    assert (tmp_path / "private.json").stat().st_mode & 0o777 == 0o600


def test_files_of_a_folder_are_like_any_other(tmp_path):
    old = os.umask(0o022)
    try:
        with atomic_folder(tmp_path / "folder", "mark") as temporary:
            (temporary / "mark").touch(0o600)  # as safetensors does
    finally:
        os.umask(old)
    assert (tmp_path / "folder" / "mark").stat().st_mode & 0o777 == 0o644


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(WorkspaceError, match=r"x\.json is damaged"):
        read_json(tmp_path / "x.json")
    with pytest.raises(WorkspaceError, match="does not exist"):
        read_json(tmp_path / "y.json")


def test_a_lock_excludes_other_processes_and_dies_with_its_own(tmp_path):
    """Three processes add to a number, each by reading and writing; one more is killed while it holds the lock."""
    number = tmp_path / "number"
    number.write_text("0")
    add = (
        "import sys; from pathlib import Path; from rlmrec.files import locked; path = Path(sys.argv[1])\n"
        "for _ in range(50):\n"
        "    with locked(path): path.write_text(str(int(path.read_text()) + 1))"
    )
    hold = (
        "import sys, time; from pathlib import Path; from rlmrec.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )

    def start(code):
        return subprocess.Popen([sys.executable, "-c", code, str(number)], stdout=subprocess.PIPE, text=True)

    adding = [start(add) for _ in range(3)]
    assert [process.wait() for process in adding] == [0, 0, 0]
    assert number.read_text() == "150"
    holder = start(hold)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(WorkspaceError, match="one at a time"), locked(number, "one at a time"):
        pass
    holder.kill()
    holder.wait()
    with locked(number, "one at a time"):
        pass


def test_windows_waits_for_a_file_that_is_open_and_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr("rlmrec.files.WINDOWS", True)
    monkeypatch.setattr("rlmrec.files.time.sleep", lambda seconds: None)
    replace, refusals = Path.replace, [PermissionError(13, "in use")] * 2

    def refuse(self, target):
        if refusals:
            raise refusals.pop()
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    write_json(tmp_path / "a.json", 1)
    assert read_json(tmp_path / "a.json") == 1
    refusals += [PermissionError(13, "in use")] * 9
    with pytest.raises(WorkspaceError, match=r"a\.json cannot be replaced \(in use\): close the programs"):
        write_json(tmp_path / "a.json", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_every_module_imports_without_what_windows_lacks():
    """The modules and functions of Linux that other systems lack are hidden, then everything is imported."""
    code = """
import asyncio, importlib, multiprocessing, os, pkgutil, select, signal, socket, subprocess, sys, tempfile
import filelock, torch, polars, aiohttp, sqlite3  # may know their platform; ours may not
try:
    import fastapi, mcp.server.mcpserver, prometheus_client, uvicorn, optuna, matplotlib.pyplot
except ImportError:
    pass
import rlmrec
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
for module, names in {
    os: ("getloadavg", "sched_getaffinity", "fork", "killpg", "setsid", "getuid"),
    signal: ("pthread_sigmask", "SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "alarm"),
}.items():
    for name in names:
        delattr(module, name)
for module in pkgutil.walk_packages(rlmrec.__path__, "rlmrec."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
