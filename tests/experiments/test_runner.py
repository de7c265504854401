"""The runner: results, crashes, kills, progress."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing import resource_tracker
from types import SimpleNamespace

import pytest

from rlmrec.durations import format_duration
from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.experiments.results import Results
from rlmrec.experiments.runner import TrialsProgress, _interrupts_blocked, _Stage, devices, run_trials
from rlmrec.experiments.spec import RunSpec
from rlmrec.experiments.trial import Trial, TrialInputs, run_trial
from rlmrec.testing import blocks
from rlmrec.workspace import Workspace

QUICK = {"epochs": 4, "learning_rate": 0.01, "batch_size": 256}
FAULTY = """
import os, signal
from pathlib import Path
from rlmrec.backbones import MF, LightGCN

class Dies(MF):
    def objective(self, x, graph, batch, rng):
        if Path("FAULTS").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().objective(x, graph, batch, rng)

class Raises(MF):
    def objective(self, x, graph, batch, rng):
        raise ZeroDivisionError("of a user's backbone")
"""


@pytest.fixture
def place(tmp_path):
    place = Workspace(tmp_path / "w")
    blocks()[0].save(place.dataset_path)
    return place


def trial(place, backbone="mf", seed=1, **options):
    spec = RunSpec.resolve(backbone, "none", seed=seed, options={**QUICK, **options})
    return Trial(spec, place.dataset().fingerprint)


def test_a_crash_is_written_down_and_the_others_go_on(place, tmp_path, monkeypatch):
    faults = tmp_path / "faults"
    faults.touch()
    (tmp_path / "faulty.py").write_text(FAULTY.replace("FAULTS", str(faults)))
    monkeypatch.syspath_prepend(tmp_path)
    trials = [
        trial(place, "faulty:Dies"), trial(place), trial(place, "faulty:Raises"), trial(place, seed=2), trial(place),
    ]  # fmt: skip
    results, told = Results(tmp_path / "r.jsonl"), []
    lines = run_trials(
        trials, place, results, jobs=2, threads=1, on_progress=lambda p, line: told.append((p.done, line))
    )
    assert [line["status"] for line in lines] == ["failed", "done", "failed", "done", "done"]
    assert "killed by signal 9, as when memory runs out" in lines[0]["error"]
    assert lines[2]["error"] == "ZeroDivisionError: of a user's backbone"
    assert "in objective" in lines[2]["traceback"]
    assert lines[1] is lines[4], "the same trial is run once"
    assert len([line for _, line in told if line]) == 4
    # The numbers are those of the trial run right here.
    here = Workspace(tmp_path / "here")
    place.dataset().save(here.dataset_path)
    direct = run_trial(trial(here), TrialInputs(here))
    assert direct["test"] == lines[1]["test"]
    assert direct["validation_curve"] == lines[1]["validation_curve"]
    assert {"device", "threads", "torch", "rlmrec"} <= lines[1]["environment"].keys()
    assert lines[1]["seconds"] > 0
    # Given again: what ended is kept, what failed is tried again.
    faults.unlink()
    again = Results(tmp_path / "r.jsonl")
    told.clear()
    lines = run_trials(
        trials[:2], place, again, threads=1, on_progress=lambda p, line: told.append((p.kept, line))
    )
    assert [line["status"] for line in lines] == ["done", "done"]
    assert [(kept, line["id"]) for kept, line in told if line] == [(1, trials[0].id)]


def test_a_worker_that_dies_while_it_waits_for_an_answer_ends_its_trial_alone(place, tmp_path):
    def prune(*_):
        [worker] = multiprocessing.active_children()
        worker.kill()
        worker.join()
        return False

    results = Results(tmp_path / "r.jsonl")
    [line] = run_trials([trial(place)], place, results, threads=1, prune=prune)
    assert line["status"] == "failed"
    assert "killed by signal 9" in line["error"]


def test_a_killed_grid_loses_nothing(place, tmp_path):
    """SIGKILL in the middle of the second trial; then the numbers are those of a run without a kill."""
    options = {"epochs": 300, "patience": 100}
    trials = [trial(place), trial(place, **options)]
    code = (
        "import sys, pickle\n"
        "from pathlib import Path\n"
        "from rlmrec.experiments.results import Results\n"
        "from rlmrec.experiments.runner import run_trials\n"
        "from rlmrec.workspace import Workspace\n"
        "if __name__ == '__main__':\n"
        "    trials = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "    run_trials(trials, Workspace(sys.argv[2]), Results(Path(sys.argv[3])), threads=1)\n"
    )
    import pickle

    (tmp_path / "grid.py").write_text(code)
    (tmp_path / "trials.pickle").write_bytes(pickle.dumps(trials))
    arguments = [tmp_path / "grid.py", tmp_path / "trials.pickle", place.path, tmp_path / "r.jsonl"]
    process = subprocess.Popen([sys.executable, *map(str, arguments)], start_new_session=True)
    checkpoint = place.trial(trials[1].id) / "checkpoint.json"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = Results(tmp_path / "r.jsonl")
    assert before.is_done(trials[0].id)
    assert not before.is_done(trials[1].id)
    reached = json.loads(checkpoint.read_text())["epochs"][-1]["epoch"]
    told = []
    lines = run_trials(
        trials,
        place,
        before,
        threads=1,
        on_progress=lambda p, line: told.append(dict(p.running) if not line else None),
    )
    first_epoch = next(running for running in told if running)[trials[1].id][1]
    assert first_epoch == reached + 2, "it goes on after the checkpoint"
    here = Workspace(tmp_path / "here")
    place.dataset().save(here.dataset_path)
    whole = run_trial(trial(here, **options), TrialInputs(here))
    assert whole["test"] == lines[1]["test"]
    assert whole["validation_curve"] == lines[1]["validation_curve"]


def test_results_survive_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": "a", "status": "failed"}\n{"id": "b", "status": "done"}\n{"id": "c", "sta')
    before = path.read_text()
    results = Results(path)
    assert list(results.records) == ["a", "b"]
    assert path.read_text() == before, "the rest of the line may be on its way"
    results.append({"id": "a", "status": "done"})
    assert list(Results(path).records.items()) == [
        ("b", {"id": "b", "status": "done"}),
        ("a", {"id": "a", "status": "done"}),
    ]
    path.write_text('{"id": "a", "status": "done"}\nnonsense\n')
    with pytest.raises(WorkspaceError, match="line 2 is damaged"):
        Results(path)
    path.write_text('{"id": "a"}\n')
    with pytest.raises(
        WorkspaceError, match="line 1 is damaged: expected a JSON object with an id and a status"
    ):
        Results(path)


def test_two_that_append_to_a_file_that_was_cut_off_lose_nothing(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"id": "a", "status": "done"}\n{"id": "b", "sta')
    first, second = Results(path), Results(path)
    for results, name in ((first, "c"), (second, "d"), (first, "e")):
        results.append({"id": name, "status": "done"})
    assert list(Results(path).records) == ["a", "c", "d", "e"]


def test_two_runners_of_one_grid_leave_one_line_a_cell(tmp_path):
    first, second = Results(tmp_path / "r.jsonl"), Results(tmp_path / "r.jsonl")
    line = {"id": "a", "status": "done", "value": 0.25}
    for results in (first, second, second):
        results.append(dict(line))
    assert (tmp_path / "r.jsonl").read_text().count("\n") == 1
    second.append({**line, "value": 0.5})
    assert Results(tmp_path / "r.jsonl").records["a"]["value"] == 0.5
    second.append({**line, "id": "b"})
    second.append(line)  # as before: it is the last one that counts
    assert Results(tmp_path / "r.jsonl").records["a"]["value"] == 0.25


def test_progress_says_how_long_it_takes(monkeypatch):
    monkeypatch.setattr("time.perf_counter", lambda: 160.0)
    progress = TrialsProgress(total=11, kept=1, started=100.0)
    assert progress.seconds_left is None
    assert str(progress) == "1 of 11 trials finished"
    progress.done, progress.failed = 4, 1
    assert progress.seconds_left == pytest.approx(60.0)  # 5 in 60 s, 5 to go
    assert str(progress) == "6 of 11 trials finished, 1 failed, about 60 s left"
    progress.running["x"] = ("x", 50, 100)
    assert progress.completed == 6.5
    progress.epochs += [60, 40]  # early stopping: the expectation is 50
    assert progress.completed == 6.95
    assert [format_duration(s) for s in (0.44, 5, 40.2, 600, 7200)] == [
        "0.4 s",
        "5 s",
        "40 s",
        "10 min",
        "2.0 h",
    ]


def test_processes_are_spread_over_the_devices_of_the_machine(place, tmp_path, monkeypatch):
    assert devices("cuda", 3) == ["cuda:0", "cuda:1", "cuda:2"]
    assert devices("cuda:1", 3) == ["cuda:1"]
    assert devices("cuda:0, cuda:2,", 3) == ["cuda:0", "cuda:2"]
    assert devices("cuda", 0) == ["cuda"]
    assert devices("cpu", 3) == ["cpu"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    stage = _Stage(place, Results(tmp_path / "r.jsonl"), "cuda", TrialsProgress(0, 0), lambda *_: None, None)
    workers = []
    for _ in range(5):
        workers.append(SimpleNamespace(device=stage._free_device(workers)))
    assert [worker.device for worker in workers] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert stage._free_device(workers[1:2]) == "cuda:0", "a process that died leaves its device to the next"


def test_wrong_numbers_of_processes(place, tmp_path):
    for wrong in ({"jobs": 0}, {"threads": 0}):
        with pytest.raises(ConfigError, match="at least 1 job and 1 thread"):
            run_trials([trial(place)], place, Results(tmp_path / "r"), **wrong)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal masks")
def test_processes_start_with_interrupts_blocked(monkeypatch):
    tracker = resource_tracker.ResourceTracker()  # one that has not started yet, as in a new process
    monkeypatch.setattr(resource_tracker, "ensure_running", tracker.ensure_running)
    with _interrupts_blocked():
        tracker.ensure_running()  # as the start of a process does
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    tracker._stop()


def test_an_interrupt_ends_the_processes_and_the_cell_goes_on_later(place, tmp_path):
    slow = trial(place, epochs=100_000, patience=100_000)

    def interrupt(progress, line):
        if progress.running:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trials([slow], place, Results(tmp_path / "r.jsonl"), threads=1, on_progress=interrupt)
    assert not multiprocessing.active_children()
    assert not Results(tmp_path / "r.jsonl").records
