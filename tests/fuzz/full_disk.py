"""A disk that fills up while each command writes: one clear line, the old artefact whole, and a repeat completes it.

    sudo python tests/fuzz/full_disk.py

The workspace lies on a small tmpfs, which only root can mount. Each command first runs with room enough, to see how
much it takes; then with shares of that room. After each run everything is read, and with more room the same command
must succeed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import writers

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 0.97)  # of the room that a command takes
ROOM = 1 << 30
PAGE = 4096


def reason_not() -> str | None:
    """Return why no tmpfs can be mounted here; None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux can mount a tmpfs"
    with tempfile.TemporaryDirectory() as place:
        try:
            with disk(Path(place), PAGE * 4):
                return None
        except subprocess.CalledProcessError as error:
            return f"no tmpfs can be mounted: {error.stderr.decode(errors='replace').strip()}"


@contextlib.contextmanager
def disk(place: Path, size: int) -> Iterator[None]:
    """Mount a tmpfs of ``size`` bytes at a folder."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=True, capture_output=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True, capture_output=True)


def used(place: Path) -> int:
    """Return the bytes that are taken of a disk."""
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def taken(place: Path, command: str, whole: Path, url: str) -> tuple[int, int, dict[str, str]]:
    """Run a command with room enough; return the bytes before it, the most while it ran, and the files after it."""
    with disk(place, ROOM):
        folder = Path(shutil.copytree(whole, place / "x"))
        before = most = used(place)
        done = threading.Event()

        def watch() -> None:
            nonlocal most
            while not done.wait(0.0005):
                most = max(most, used(place))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            code, out, _ = writers.forked(writers.run(command, folder, url))
        finally:
            done.set()
            watcher.join()
        if code not in (0, 3):
            raise SystemExit(f"rlmrec {command}: {out}")
        return before, max(most, used(place)), writers.contents(folder)


def fill(name: str, whole: Path, url: str, place: Path) -> tuple[Counter[str], list[str]]:
    """Run a command on disks that are too small; return how often it failed, had room or was wrong, and how."""
    command = writers.COMMANDS[name]
    outcomes, wrong = Counter[str](), []
    old = writers.contents(whole)
    before, most, new = taken(place, command, whole, url)
    for share in SHARES:
        size = before + int(share * (most - before)) // PAGE * PAGE
        with disk(place, size):
            folder = Path(shutil.copytree(whole, place / "x"))
            code, out, _ = writers.forked(writers.run(command, folder, url))
            outcomes["had room" if code in (0, 3) else "failed"] += 1
            found = None if code in (0, 3) else _not_clear(code, out)
            changed = [
                path
                for path, digest in old.items()
                if (now := _digest(folder, path)) != digest and (code not in (0, 3) and now != new.get(path))
            ]
            subprocess.run(["mount", "-o", f"remount,size={ROOM}", place], check=True, capture_output=True)
            found = (
                found
                or (f"not whole any more: {changed}" if changed else None)
                or _repeated(folder, command, url)
            )
        if found:
            outcomes["wrong"] += 1
            wrong.append(f"room for {share:.0%}: {found}")
    return outcomes, wrong


def _digest(folder: Path, path: str) -> str | None:
    return writers.digest(folder / path) if (folder / path).exists() else None


def _not_clear(code: int, out: str) -> str | None:
    """Return what is wrong with the message of a command that failed; None if it is one clear line."""
    lines = [line for line in out.splitlines() if line.startswith("error")]
    if code != 1 or len(lines) != 1 or "full" not in lines[0] or "unexpected" in out or "Traceback" in out:
        return f"exit code {code}: {out.strip()[-600:]}"
    return None


def _repeated(folder: Path, command: str, url: str) -> str | None:
    """Read everything and run the command again, now with room; return what is wrong."""
    for what, work in (
        ("it cannot be read", lambda: writers.check(folder)),
        ("the same command fails", writers.run(command, folder, url)),
        ("after the repeat it cannot be read", lambda: writers.check(folder)),
    ):
        code, out, _ = writers.forked(work)
        if code not in (0, 3):
            return f"{what}: {out.strip()[-600:]}"
    left = writers.unfinished(folder)
    return f"left unfinished: {left}" if left else None


def main() -> int:
    """Fill the disk under every command and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="one command")
    options = parser.parse_args()
    if reason := reason_not():
        print(f"skipped: {reason}")
        return 0
    writers.import_everything()
    total = Counter[str]()
    with (
        tempfile.TemporaryDirectory() as place,
        tempfile.TemporaryDirectory() as small,
        writers.server() as server,
    ):
        whole = Path(place) / "whole"
        whole.mkdir()
        writers.make(whole, server.url)
        for name in writers.COMMANDS if options.only is None else [options.only]:
            started = time.monotonic()
            outcomes, wrong = fill(name, whole, server.url, Path(small))
            total += outcomes
            print(f"{name}: {dict(outcomes)}, {time.monotonic() - started:.0f} s", flush=True)
            for line in wrong:
                print(f"  {line}", flush=True)
    print(dict(total))
    return int(total["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
