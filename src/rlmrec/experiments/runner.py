"""Run many trials over processes. A run that was killed continues where it was."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from rlmrec.durations import format_duration
from rlmrec.engine import Engine, RayEngine
from rlmrec.errors import ConfigError, RlmrecError
from rlmrec.experiments.results import Results, TrialRecord
from rlmrec.experiments.trial import Trial, TrialInputs, describe_trial, pruned_record, run_trial
from rlmrec.training.trainer import MONITORED
from rlmrec.workspace import Workspace


@dataclass
class TrialsProgress:
    """How far a run of many trials is.

    Args:
        total: number of trials.
        kept: of them, those done by an earlier call.
        done: trials done or pruned by this call.
        failed: trials that failed in this call.
        running: id → label, epochs so far, greatest number of epochs.
        epochs: of the trials that are done.
        started: time of the clock.
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
        """The trials that have ended, plus the fractions of the running ones."""
        return self.kept + self.done + self.failed + sum(map(self._fraction, self.running.values()))

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the time left at the speed of this call; None before anything has run."""
        worked = self.completed - self.kept
        if worked <= 0:
            return None
        return (time.perf_counter() - self.started) / worked * (self.total - self.completed)

    def _fraction(self, running: tuple[str, int, int]) -> float:
        _, epoch, most = running
        # Early stopping ends before the last epoch; the trials that are done show when to expect that.
        expected = min(most, sum(self.epochs) / len(self.epochs)) if self.epochs else most
        return min(0.95, epoch / expected)

    @property
    def note(self) -> str:
        """The failed trials of this call and the time left; "" with neither."""
        parts = [f"{self.failed} failed"] * bool(self.failed)
        left = self.seconds_left
        if left is not None and self.kept + self.done + self.failed < self.total:
            parts.append(f"about {format_duration(left)} left")
        return ", ".join(parts)

    def __str__(self) -> str:
        finished = f"{self.kept + self.done + self.failed} of {self.total} trials finished"
        return ", ".join(filter(None, [finished, self.note]))


# Called at the start, after every epoch, and with the record of each trial that has ended.
OnProgress = Callable[[TrialsProgress, TrialRecord | None], object]
# Called after each validation of a trial with its epoch and its Recall@20; True ends the trial.
Prune = Callable[[Trial, int, float], bool]


def run_trials(
    trials: Sequence[Trial],
    place: Workspace,
    results: Results[TrialRecord],
    *,
    jobs: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    on_progress: OnProgress = lambda *_: None,
    engine: Engine | None = None,
    prune: Prune | None = None,
    progress: TrialsProgress | None = None,
) -> list[TrialRecord]:
    """Run the trials that are not done, several at a time, each in a process of its own.

    A trial that others start from runs before them. Trials that measure time run one at a time, after all others,
    with all threads. A trial that fails, or whose process dies, is recorded as failed; the next call repeats it.
    Ctrl-C stops everything; what has ended is kept, and a trial in training continues from its last validation at
    the next call.

    On Ray the same trials run as its tasks. A trial whose worker died goes on from its last validation on another one.
    The progress knows trials, not epochs, and none is pruned. Trials that measure time run in this machine's processes
    all the same.

    Args:
        trials: to run; repeated ones run once.
        place: the workspace; of a cluster, a folder that every machine sees.
        results: where the records are written.
        jobs: trials at a time.
        threads: of each trial; None shares the cores among the trials.
        device: "cpu", "cuda" or "mps"; "cuda" spreads the processes over all CUDA devices of this machine,
            "cuda:0,cuda:2" over those two.
        on_progress: called with the progress and, when a trial has ended, its record.
        engine: a ``RayEngine``; by default each trial runs in a process of its own here.
        prune: says after each validation whether a trial is ended there; None ends none. A trial that was pruned is
            not done: a later call without ``prune`` trains it to its end.
        progress: of several calls together, to be continued; by default this call has one of its own.

    Returns:
        the records of ``trials``, in order.

    Raises:
        ConfigError: less than one job or thread.
    """
    if jobs < 1 or (threads is not None and threads < 1):
        raise ConfigError(f"expected at least 1 job and 1 thread, got {jobs} and {threads}")
    every = unique([*(trial.start for trial in trials if trial.start is not None), *trials])
    todo = [trial for trial in every if not results.is_done(trial.id)]
    for trial in every:
        describe_trial(trial, place)  # early versions did not write descriptions
    progress = TrialsProgress(len(every), 0) if progress is None else progress
    progress.kept += len(every) - len(todo)
    on_progress(progress, None)
    starts = {trial.start.id for trial in todo if trial.start is not None}
    stages: list[list[Trial]] = [[], [], []]  # starts of others, others, timed
    for trial in todo:
        stages[0 if trial.id in starts else 2 if trial.timing else 1].append(trial)
    for stage, width in zip(stages, (jobs, jobs, 1), strict=True):
        if stage:
            width = min(width, len(stage))
            one = _Stage(place, results, device, progress, on_progress, prune)
            if isinstance(engine, RayEngine) and not stage[0].timing:
                one.run_on_ray(stage, width, engine, threads)
            else:
                one.run(stage, width, threads or max(1, torch.get_num_threads() // width))
    return [results.records[trial.id] for trial in trials]


def unique(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials without repeats, in order."""
    return list({trial.id: trial for trial in trials}.values())


def devices(device: str, count: int) -> list[str]:
    """Return the devices that jobs are spread over: "cuda" is all of a machine, "cuda:0,cuda:2" are these two.

    Args:
        device: as the user named it.
        count: number of CUDA devices of this machine.
    """
    if device == "cuda" and count:
        return [f"cuda:{i}" for i in range(count)]
    return [name.strip() for name in device.split(",") if name.strip()]


class _Worker:
    """A process that runs the trials it receives and sends back epochs and records."""

    def __init__(self, place: Workspace, device: str, threads: int) -> None:
        # A process that is forked while PyTorch's threads run can hang. The fork server has imported everything
        # and run nothing, so its forks are safe and start at once; Windows has none.
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            context.set_forkserver_preload([__name__])
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(theirs, place.path, device, threads), daemon=True, name="trial"
        )
        with _interrupts_blocked():
            self.process.start()
        theirs.close()  # with our copy open, the end of the process would go unnoticed
        self.trial: Trial | None = None
        self.device = device

    def send(self, trial: Trial, asks: bool) -> None:
        """Send a trial; ``asks`` is whether it asks after each validation if it is pruned."""
        self.trial = trial
        self._send((trial, asks))

    def answer(self, prune: bool) -> None:
        """Send whether the trial that asked is pruned."""
        self._send(prune)

    def _send(self, message: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it died, which ``receive`` then tells
            self.connection.send(message)

    def receive(self, trial: Trial) -> tuple[str, Any]:
        """Return the next message: its kind ("epoch", "valid", "ended" or "died"), and the epoch, value or record."""
        try:
            kind, content = self.connection.recv()
            return kind, content
        except (EOFError, ConnectionResetError):
            self.process.join()
            return "died", _failed(trial, f"its process ended: {_describe_exit(self.process.exitcode)}")

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Start a process that ignores Ctrl-C while it imports: otherwise it would print a traceback."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # now, as it would unblock the signal when the process starts it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _describe_exit(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    hint = (
        ", as when memory runs out: try fewer --jobs" if code == -9 else ""
    )  # SIGKILL, not known on Windows
    return f"killed by signal {-code}{hint}"


@dataclass
class _Stage:
    """Trials that run beside each other."""

    place: Workspace
    results: Results[TrialRecord]
    device: str
    progress: TrialsProgress
    on_progress: OnProgress
    prune: Prune | None

    def run_on_ray(self, trials: Sequence[Trial], width: int, engine: RayEngine, threads: int | None) -> None:
        """Run the trials as tasks of Ray, ``width`` at a time, and record each one that ends."""
        threads = threads or max(1, min(engine.cpus_of_a_machine, engine.cpus // width))
        start = partial(_TrialRunner, self.place.path.resolve(), self.device, threads)

        def died(number: int, error: str) -> TrialRecord:
            return _failed(trials[number], error)

        for number, record in engine.map(start, trials, at_once=width, cpus=threads, died=died):
            self._ended(trials[number], record)

    def run(self, trials: Sequence[Trial], width: int, threads: int) -> None:
        """Run the trials in ``width`` processes and record each one that ends."""
        waiting = list(reversed(trials))
        workers: list[_Worker] = []
        try:
            while waiting or any(worker.trial for worker in workers):
                for worker in workers:
                    if worker.trial is None and waiting:
                        worker.send(waiting.pop(), self.prune is not None)
                while waiting and len(workers) < width:
                    workers.append(_Worker(self.place, self._free_device(workers), threads))
                    workers[-1].send(waiting.pop(), self.prune is not None)
                busy = {worker.connection: worker for worker in workers if worker.trial}
                for connection in wait(list(busy)):
                    worker = busy[connection]
                    trial = worker.trial
                    assert trial is not None
                    kind, content = worker.receive(trial)
                    if kind == "epoch":
                        self._epoch(trial, content)
                        continue
                    if kind == "valid":
                        assert self.prune is not None
                        worker.answer(self.prune(trial, *content))
                        continue
                    if kind == "died":
                        workers.remove(worker)
                    worker.trial = None
                    self._ended(trial, content)
        finally:
            for worker in workers:
                worker.stop()

    def _free_device(self, workers: Sequence[_Worker]) -> str:
        """Return the device for another process: of those of this machine the one with the fewest."""
        taken = Counter(worker.device for worker in workers)
        return min(devices(self.device, torch.cuda.device_count()), key=lambda device: taken[device])

    def _epoch(self, trial: Trial, epoch: int) -> None:
        most = trial.spec.training.epochs if trial.spec else 1
        self.progress.running[trial.id] = (trial.label, epoch + 1, most)
        self.on_progress(self.progress, None)

    def _ended(self, trial: Trial, record: TrialRecord) -> None:
        self.progress.running.pop(trial.id, None)
        if record["status"] != "failed":
            self.progress.done += 1
            if record["epochs"]:  # a closed form has none, which tells nothing of the others
                self.progress.epochs.append(record["epochs"])
        else:
            self.progress.failed += 1
        self.results.append(record)
        self.on_progress(self.progress, record)


def _failed(trial: Trial, error: str, trace: str | None = None) -> TrialRecord:
    record: TrialRecord = {"id": trial.id, "status": "failed", "error": error, "cell": trial.as_dict()}
    if trace is not None:
        record["traceback"] = trace
    return record


class _PrunedError(Exception):
    """Ends the training of a trial."""


class _TrialRunner:
    """Runs trials in a worker's process; makes a record of those that fail, too."""

    def __init__(self, place: Path, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.place, self.device = place, device
        self._inputs: TrialInputs | None = None

    def __call__(self, trial: Trial, on_epoch: Callable[[dict[str, Any]], None] | None = None) -> TrialRecord:
        try:
            self._inputs = self._inputs or TrialInputs(Workspace(self.place))
            return run_trial(trial, self._inputs, device=self.device, on_epoch=on_epoch)
        except (BrokenPipeError, EOFError):  # the runner has ended or died
            raise
        except _PrunedError:
            return pruned_record(trial, Workspace(self.place))
        except RlmrecError as error:
            return _failed(trial, str(error))
        except Exception as error:
            return _failed(trial, f"{type(error).__name__}: {error}", traceback.format_exc())


def _work(connection: Connection, place: Path, device: str, threads: int) -> None:
    """Run the trials that arrive on a connection, in a worker's process, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the runner stops this one
    runner = _TrialRunner(place, device, threads)
    asks = False

    def on_epoch(record: dict[str, Any]) -> None:
        connection.send(("epoch", record["epoch"]))
        if asks and "valid" in record:
            connection.send(("valid", (record["epoch"], record["valid"][MONITORED])))
            if connection.recv():
                raise _PrunedError

    try:
        while True:
            trial, asks = connection.recv()
            connection.send(("ended", runner(trial, on_epoch)))
    except (EOFError, BrokenPipeError):  # the runner has ended or died
        return
