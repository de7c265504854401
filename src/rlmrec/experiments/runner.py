"""The runner of sweeps and experiments: trials over processes, one JSON line each, killed and taken up again."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from rlmrec.errors import ConfigError, RlmrecError, WorkspaceError
from rlmrec.experiments.trial import Trial, TrialInputs, describe_trial, run_trial
from rlmrec.files import locked
from rlmrec.workspace import Workspace

Line = dict[str, Any]


def lines_path(results: Path, experiment: str, dataset: str) -> Path:
    """Where the JSON lines of an experiment on a dataset lie."""
    return results / experiment / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', dataset)}.jsonl"


class Results:
    """A JSON-lines file of finished trials, appended to the moment each one ends.

    A line that a kill cut off is dropped, from the file by the next append: who reads alone, perhaps while another
    process writes, changes nothing. Of several lines of a trial the last one counts.

    Args:
        path: the file; made when first written to.

    Raises:
        WorkspaceError: a whole line is no JSON object with an id and a status.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, Line] = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole = text.rpartition("\n")[0]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                found = json.loads(line)
                _ = found["status"]
                self._put(found)
            except (json.JSONDecodeError, KeyError, TypeError):
                raise WorkspaceError(
                    f"{path}, line {number} is damaged: expected a JSON object with an id and a status; remove that "
                    "line"
                ) from None

    def _put(self, line: Line) -> None:
        self.lines.pop(line["id"], None)  # so that the order is that of the last ones
        self.lines[line["id"]] = line

    def done(self, trial: Trial) -> bool:
        """Whether the trial has ended well."""
        return self.lines.get(trial.id, {}).get("status") == "done"

    def append(self, line: Line) -> None:
        """Write a line and flush it to disk. Several processes may append: each holds the file while it writes.

        A line that is there already is not written again: of two runners of one grid both hear of each trial.
        """
        self._put(line)
        written = (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()
        with locked(self.path), self.path.open("a+b") as file:
            file.seek(0)
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)  # nobody is writing now: what has no end was cut off
            if written in content.splitlines(keepends=True):
                return
            file.write(written)
            file.flush()
            os.fsync(file.fileno())


@dataclass
class Progress:
    """Where a grid stands.

    total: trials in all. kept: of them done before. done, failed: in this session. running: by id, the cell's
    label, epochs so far and at most.
    """

    total: int
    kept: int
    done: int = 0
    failed: int = 0
    running: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    epochs: list[int] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @property
    def completed(self) -> float:
        """Cells that have ended, a running one counting in part."""
        return self.kept + self.done + self.failed + sum(map(self._share, self.running.values()))

    @property
    def seconds_left(self) -> float | None:
        """About how long the rest takes, at this session's speed; None before anything is known."""
        worked = self.completed - self.kept
        if worked <= 0:
            return None
        return (time.perf_counter() - self.started) / worked * (self.total - self.completed)

    def _share(self, running: tuple[str, int, int]) -> float:
        _, epoch, most = running
        # Early stopping ends before the last epoch: those that have ended say where about.
        expected = min(most, sum(self.epochs) / len(self.epochs)) if self.epochs else most
        return min(0.95, epoch / expected)


# Told at the start, after every epoch, and with the line of each trial that has ended.
Report = Callable[[Progress, Line | None], None]


def run_trials(
    trials: Sequence[Trial],
    place: Workspace,
    results: Results,
    *,
    jobs: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    report: Report | None = None,
) -> list[Line]:
    """Run the trials that have not ended yet, several at a time, each in a process that may die alone.

    A trial that others start from is run before them. Cells that measure time run one by one, after all the
    others, with all threads. A trial that fails, or whose process dies, is written down as failed and is tried
    again by the next call. Ctrl-C stops everything at once; what has ended is kept, and a trial that was being
    trained goes on from its last validation when called again.

    Args:
        trials: what to run; one that occurs twice is run once.
        place: the workspace.
        results: where the lines go.
        jobs: processes at a time.
        threads: of each process; by default the cores are shared out.
        device: "cpu", "cuda" or "mps".
        report: told what happens.

    Returns:
        the lines of ``trials``, in order.

    Raises:
        ConfigError: no job at all.
    """
    if jobs < 1 or (threads is not None and threads < 1):
        raise ConfigError(f"expected at least 1 job and 1 thread, got {jobs} and {threads}")
    every = unique([*(trial.start for trial in trials if trial.start is not None), *trials])
    todo = [trial for trial in every if not results.done(trial)]
    for trial in every:
        describe_trial(trial, place)  # those of earlier versions, whose folders do not say it
    cores = torch.get_num_threads()
    started_from = {trial.start.id for trial in todo if trial.start is not None}
    first = [trial for trial in todo if trial.id in started_from]
    then = [trial for trial in todo if trial.id not in started_from and not trial.timing]
    timed = [trial for trial in todo if trial.id not in started_from and trial.timing]
    progress = Progress(len(every), len(every) - len(todo))
    if report is not None:
        report(progress, None)
    for stage, width in ((first, jobs), (then, jobs), (timed, 1)):
        if stage:
            share = threads or max(1, cores // min(width, len(stage)))
            _run_stage(stage, place, results, min(width, len(stage)), share, device, progress, report)
    return [results.lines[trial.id] for trial in trials]


def unique(trials: Iterable[Trial]) -> list[Trial]:
    """The trials without repeats, in order."""
    return list({trial.id: trial for trial in trials}.values())


class _Worker:
    """A process that runs the trials it is sent and answers with what happens."""

    def __init__(self, place: Workspace, device: str, threads: int) -> None:
        context = _process_context()
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(theirs, place.path, device, threads), daemon=True, name="cell"
        )
        with _interrupts_blocked():  # or Ctrl-C while a process still imports would print its traceback
            self.process.start()
        theirs.close()  # else the end of the process would not be seen
        self.trial: Trial | None = None

    def send(self, trial: Trial) -> None:
        self.trial = trial
        self.connection.send(trial)

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def _process_context() -> Any:
    # A process in which PyTorch's threads run can hang when it is forked. The fork server has imported everything
    # and run nothing, so a worker starts at once; Windows has none.
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Keep SIGINT from this thread and from the processes that it starts meanwhile; no effect on Windows."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_stage(
    trials: list[Trial],
    place: Workspace,
    results: Results,
    jobs: int,
    threads: int,
    device: str,
    progress: Progress,
    report: Report | None,
) -> None:
    waiting = list(reversed(trials))
    workers: list[_Worker] = []

    def ended(trial: Trial, line: Line) -> None:
        progress.running.pop(trial.id, None)
        if line["status"] == "done":
            progress.done += 1
            progress.epochs.append(max(1, line["epochs"]))
        else:
            progress.failed += 1
        results.append(line)
        if report is not None:
            report(progress, line)

    try:
        while waiting or any(worker.trial for worker in workers):
            for worker in workers:
                if worker.trial is None and waiting:
                    worker.send(waiting.pop())
            while waiting and len(workers) < jobs:
                workers.append(_Worker(place, device, threads))
                workers[-1].send(waiting.pop())
            of_connection = {worker.connection: worker for worker in workers if worker.trial}
            for connection in wait(list(of_connection)):
                worker = of_connection[connection]
                trial = worker.trial
                assert trial is not None
                try:
                    kind, content = worker.connection.recv()
                except (EOFError, ConnectionResetError):
                    workers.remove(worker)
                    worker.process.join()
                    code = worker.process.exitcode
                    why = (
                        f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
                    )
                    if code == -9:  # SIGKILL, which Windows lacks
                        why += ", as when memory runs out: try fewer --jobs"
                    ended(trial, _failed(trial, f"its process ended: {why}"))
                    continue
                if kind == "epoch":
                    most = trial.spec.training.epochs if trial.spec else 1
                    progress.running[trial.id] = (trial.label, content + 1, most)
                    if report is not None:
                        report(progress, None)
                else:
                    worker.trial = None
                    ended(trial, content if kind == "done" else _failed(trial, *content))
    finally:
        for worker in workers:
            worker.stop()


def _failed(trial: Trial, error: str, trace: str | None = None) -> Line:
    line: Line = {"id": trial.id, "status": "failed", "error": error, "cell": trial.as_dict()}
    return line if trace is None else {**line, "traceback": trace}


def _work(connection: Connection, place: Path, device: str, threads: int) -> None:
    """What a worker's process does until its connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the runner ends this one
    torch.set_num_threads(threads)
    inputs: TrialInputs | None = None

    def on_epoch(record: dict[str, Any]) -> None:
        connection.send(("epoch", record["epoch"]))

    while True:
        try:
            trial = connection.recv()
        except EOFError:  # the runner has ended
            return
        try:
            inputs = inputs or TrialInputs(Workspace(place))
            answer = ("done", run_trial(trial, inputs, device=device, on_epoch=on_epoch))
        except BrokenPipeError:
            return  # the runner has died: nobody listens any more
        except RlmrecError as error:
            answer = ("failed", (str(error),))  # type: ignore[assignment]
        except Exception as error:
            named = f"{type(error).__name__}: {error}"
            answer = ("failed", (named, traceback.format_exc()))  # type: ignore[assignment]
        try:
            connection.send(answer)
        except BrokenPipeError:
            return


def describe(progress: Progress) -> str:
    """One line for people: how many trials have ended, and about how long the rest takes."""
    ended = progress.kept + progress.done + progress.failed
    parts = [f"{ended}/{progress.total} cells"]
    parts += [f"{progress.failed} failed"] * bool(progress.failed)
    left = progress.seconds_left
    if left is not None and ended < progress.total:
        parts.append(f"about {duration(left)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """ "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
