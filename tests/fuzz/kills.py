"""kill -9 at random moments of every command that writes: nothing is lost, nothing is half, and a repeat completes it.

    python tests/fuzz/kills.py --count 30 --seed 0

Half of the kills come at a random time, the others just before a random change of a file. After each one everything
in the workspace is read, each file must be as before or as after the command, and the same command must then succeed,
end with the same files as without a kill, and leave nothing unfinished.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import writers


def kills(
    name: str, command: str, copies: writers.Copies, url: str, count: int, seed: int
) -> tuple[Counter[str], list[str]]:
    """Kill a command ``count`` times; return how often it was killed, had ended or was wrong, and what was wrong."""
    before = writers.contents(copies.whole)
    with copies.copy() as folder:
        code, out, seconds = writers.forked(writers.run(command, folder, url))
        if code not in (0, 3):
            raise SystemExit(f"rlmrec {command}: {out}")
        after = writers.contents(folder)
        changes = int(out.rpartition("changes of files: ")[2])
    with copies.copy() as folder:
        code, out, again = writers.forked(writers.run(command, folder, url))
        volatile = {path for path in after if after[path] != writers.contents(folder).get(path)}
    outcomes, wrong = Counter[str](), []
    for number in range(count):
        rng = writers.seeded(name, seed, number)
        at_time = rng.uniform(0, max(seconds, again)) if number % 2 else None
        at_event = None if number % 2 else rng.randint(1, max(1, changes))
        with copies.copy() as folder:
            code, _, _ = writers.forked(writers.run(command, folder, url), at_time, at_event)
            outcomes["killed" if code == -9 else "had ended"] += 1
            found = _wrong(folder, command, url, before, after, volatile)
        if found:
            outcomes["wrong"] += 1
            wrong.append(f"case {number} ({at_time or at_event}): {found}")
    return outcomes, wrong


def _wrong(
    folder: Path, command: str, url: str, before: dict[str, str], after: dict[str, str], volatile: set[str]
) -> str | None:
    """Return what a kill has damaged; None if nothing."""
    now = writers.contents(folder)
    half = [
        path
        for path, digest in now.items()
        if path not in volatile and digest not in (before.get(path), after.get(path)) and not _is_hidden(path)
    ]
    code, out, _ = writers.forked(lambda: writers.check(folder))
    if code:
        return f"it cannot be read: {out.strip()[-600:]}"
    if half:
        return f"files that are neither old nor new: {half}"
    code, out, _ = writers.forked(writers.run(command, folder, url))
    if code not in (0, 3):
        return f"the same command fails: {out.strip()[-600:]}"
    if volatile:  # what is the same as without a kill need not be read
        code, out, _ = writers.forked(lambda: writers.check(folder))
        if code:
            return f"after the repeat it cannot be read: {out.strip()[-600:]}"
    now = writers.contents(folder)
    if other := [path for path in after if path not in volatile and now.get(path) != after[path]]:
        return f"the repeat ends with other files: {other}"
    if left := writers.unfinished(folder):
        return f"left unfinished: {left}"
    return None


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in Path(path).parts)


def main() -> int:
    """Kill all commands and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=30, help="kills of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="commands, separated by commas")
    options = parser.parse_args()
    writers.import_everything()
    total = Counter[str]()
    with tempfile.TemporaryDirectory() as place, writers.server() as server:
        whole = Path(place) / "whole"
        whole.mkdir()
        writers.make(whole, server.url)
        copies = writers.Copies(whole, Path(place))
        for name, command in writers.COMMANDS.items():
            if options.only is None or name in options.only.split(","):
                started = time.monotonic()
                outcomes, wrong = kills(name, command, copies, server.url, options.count, options.seed)
                total += outcomes
                print(f"{name}: {dict(outcomes)}, {time.monotonic() - started:.0f} s", flush=True)
                for line in wrong[:5]:
                    print(f"  {line}", flush=True)
    print(dict(total))
    return int(total["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
