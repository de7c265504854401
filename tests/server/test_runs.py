"""The other runs of a workspace: opened once, each on its own, and listed whatever their files hold."""

import threading

import pytest

from rlmrec.errors import UnknownIdError
from rlmrec.files import write_json
from rlmrec.server.runs import KEPT, Runs


def workspace(tmp_path, *names):
    for name in names:
        (tmp_path / "runs" / name / "recommender").mkdir(parents=True)
        write_json(tmp_path / "runs" / name / "metrics.json", {"test": {"ndcg@20": 0.5}})
    return tmp_path


def test_a_run_that_loads_holds_up_no_other(tmp_path):
    started, may_end, loaded = threading.Event(), threading.Event(), []

    def load(name):
        loaded.append(name)
        if name == "slow":
            started.set()
            assert may_end.wait(60)
        return f"catalogue of {name}"

    runs = Runs(workspace(tmp_path, "slow", "quick"), load)
    found = []
    threads = [threading.Thread(target=lambda: found.append(runs.open("slow"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert started.wait(60)
    assert runs.open("quick") == "catalogue of quick"
    may_end.set()
    for thread in threads:
        thread.join(60)
    assert found == ["catalogue of slow"] * 2
    assert sorted(loaded) == ["quick", "slow"], "two requests for one run load it once"


def test_the_last_few_stay_open_and_a_reload_closes_them(tmp_path):
    loaded = []
    names = [f"r{number}" for number in range(KEPT + 1)]
    runs = Runs(workspace(tmp_path, *names), lambda name: loaded.append(name) or object())
    first = runs.open("r0")
    for name in names[1:KEPT]:
        runs.open(name)
    assert runs.open("r0") is first, "and it now counts as used last"
    runs.open(names[KEPT])
    assert runs.open("r0") is first
    runs.open("r1")
    assert loaded == [*names, "r1"], "the one that was not used for longest was closed"
    runs.forget()
    assert runs.open("r0") is not first
    with pytest.raises(UnknownIdError, match=r"no finished run '\.\./runs/r0': there are r0, r1"):
        runs.open("../runs/r0")


@pytest.mark.parametrize("damaged", [[], {"config": 1}, {"config": {"run": "con", "data": []}}, {"test": 7}])
def test_a_run_with_damaged_figures_is_listed_without_them(tmp_path, damaged):
    runs = Runs(workspace(tmp_path, "good", "odd"), lambda name: name)
    write_json(tmp_path / "runs" / "odd" / "metrics.json", damaged)
    good, odd = runs.listed()
    assert (good.name, good.ndcg) == ("good", 0.5)
    assert (odd.name, odd.what, odd.text, odd.ndcg) == ("odd", None, False, None)
