"""Logs of training: a real MLflow in a file, TensorBoard's files, and what Weights & Biases is told."""

import json
import sys
from types import SimpleNamespace

import pytest

from rlmrec.errors import ConfigError
from rlmrec.training.logs import open_log


def train(call, place, *logs):
    command = ["train", "-w", place.path, "--backbone", "mf", "--epochs", "3", "--name", "r"]
    command += ["--set", "embedding_size=8", "--json"]
    code, out, err = call(*command, *(word for log in logs for word in ("--log", log)))
    assert code == 0, err
    records = [json.loads(line) for line in (place.run("r") / "metrics.jsonl").read_text().splitlines()]
    said = " ".join(err.split())  # lines are as wide as the terminal
    return json.loads(out), records, said


def test_mlflow_in_a_file(call, place, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the mlflow extra is not installed")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "films")
    metrics, records, said = train(call, place, "mlflow")
    assert "INFO" not in said, "nothing of the tables of a new database"
    client = mlflow.MlflowClient(store)
    [run] = client.search_runs([client.get_experiment_by_name("films").experiment_id])
    assert run.info.run_name == "r"
    assert run.info.status == "FINISHED"
    assert run.data.params["run.backbone"] == "mf"
    assert run.data.params["backbone.embedding_size"] == "8"
    history = {one.step: one.value for one in client.get_metric_history(run.info.run_id, "loss/bpr")}
    assert history == {one["epoch"]: one["loss"]["bpr"] for one in records}
    assert run.data.metrics["test/recall_at_20"] == metrics["test"]["recall@20"]
    # A run that goes on after a kill is the same run there; one that is made again is another.
    log = open_log("mlflow", place.run("r"), {})
    log({"epoch": 3, "loss": {"bpr": 0.5}})
    log.close({"epochs": 4, "test": None})
    assert len(client.get_metric_history(run.info.run_id, "loss/bpr")) == 4
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_weights_and_biases_are_told_the_same(call, place, monkeypatch):
    told = []

    class Run:
        summary = SimpleNamespace(update=lambda values: told.append(("summary", values)))

        def log(self, values, step):
            told.append(("log", step, values))

        def finish(self, exit_code):
            told.append(("finish", exit_code))

    def init(**options):
        told.append(("init", options))
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    metrics, records, _ = train(call, place, "wandb", "tensorboard")
    (_, options), *logged, (_, summary), end = told
    assert (options["project"], options["name"], options["resume"]) == ("rlmrec", "r", "allow")
    assert options["config"]["backbone.embedding_size"] == 8
    assert [step for _, step, _ in logged] == [0, 1, 2]
    assert [values["loss/bpr"] for *_, values in logged] == [one["loss"]["bpr"] for one in records]
    assert logged[0][2]["valid/recall@20"] == records[0]["valid"]["recall@20"]
    assert summary["test/recall@20"] == metrics["test"]["recall@20"]
    assert end == ("finish", 0)
    assert (place.run("r") / "wandb.id").read_text() == options["id"]
    assert list((place.run("r") / "tensorboard").glob("events*"))


def test_a_server_that_fails_costs_no_training(call, place, monkeypatch):
    def log(values, step):
        raise OSError("the server is down\nand more")

    def init(**options):
        return SimpleNamespace(log=log, finish=lambda exit_code: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    _, records, said = train(call, place, "wandb")
    assert said.count("--log wandb failed and gets nothing more of this run: the server is down") == 1
    assert len(records) == 3


def test_a_package_that_is_missing_and_a_log_that_is_none(call, place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, _, err = call("train", "-w", place.path, "--log", "wandb")
    assert code == 2
    assert "--log wandb needs its package: pip install 'rlmrec[wandb]'" in err
    assert not place.run("r").exists()
    with pytest.raises(ConfigError, match="expected tensorboard, mlflow, wandb"):
        open_log("mlfow", tmp_path, {})
