"""Logs of training for other programs: TensorBoard, MLflow, Weights & Biases.

A log is called with the record of each epoch, so it fits ``on_epoch`` of ``train``; ``close`` takes the final metrics.
Loss terms and validation metrics are scalars named loss/bpr and valid/recall@20, by epoch.
"""

from __future__ import annotations

import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from rlmrec.errors import ConfigError
from rlmrec.files import write_text

GROUPS = ("loss", "valid", "test")
# The experiment of MLflow and the project of Weights & Biases, where the user has named none.
PROJECT = "rlmrec"
RUN_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


class RunLog(ABC):
    """Base of the logs.

    Args:
        folder: the run's folder; its name is the run's name.
        config: options by part: {"run": {"seed": 0}, "backbone": {"layers": 3}}.

    Raises:
        ConfigError: the package that writes it is not installed.
    """

    name = ""
    package = ""

    def __init__(self, folder: Path, config: Mapping[str, Mapping[str, Any]]) -> None:
        self.folder, self.config = folder, config
        try:
            self.api: Any = import_module(self.package)
        except ImportError:
            raise ConfigError(
                f"--log {self.name} needs its package: pip install 'rlmrec[{self.name}]'"
            ) from None
        self._open: Any = None

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Write the scalars of an epoch's record."""
        self.write(dict(scalars(record)), record["epoch"])

    @abstractmethod
    def write(self, values: dict[str, float], epoch: int) -> None:
        """Write scalars of an epoch."""

    @abstractmethod
    def close(self, metrics: Mapping[str, Any] | None = None) -> None:
        """End the log with the run's metrics, the content of ``metrics.json``; None of a run that failed."""

    def _stored_id(self) -> str:
        """Return the id that this run has in the other program, so that a resumed run goes on there; "" if none."""
        path = self.folder / f"{self.name}.id"
        found = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        return found if RUN_ID.fullmatch(found) else ""

    def _store_id(self, found: str) -> None:
        write_text(self.folder / f"{self.name}.id", found)


def scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the scalars of an epoch's record or of a run's metrics, by the names that the logs use."""
    for group in GROUPS:
        for key, value in (record.get(group) or {}).items():
            yield f"{group}/{key}", float(value)


def options(config: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return options by names such as "backbone.layers"; those left open are left out."""
    return {
        f"{part}.{name}": value
        for part, of_part in config.items()
        for name, value in of_part.items()
        if value is not None
    }


class TensorBoardLog(RunLog):
    """Event files in the run's folder, in ``tensorboard/``."""

    name, package = "tensorboard", "torch.utils.tensorboard"

    def write(self, values: dict[str, float], epoch: int) -> None:
        """Write scalars of an epoch; the first makes the file, as the run's folder then exists."""
        self._open = self._open or self.api.SummaryWriter(self.folder / "tensorboard")
        for name, value in values.items():
            self._open.add_scalar(name, value, epoch)

    def close(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Flush and close the file."""
        del metrics
        if self._open is not None:
            self._open.close()


class MlflowLog(RunLog):
    """A run of MLflow, where its own variables say: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME.

    Its names allow no "@": recall@20 is recall_at_20 there.
    """

    name, package = "mlflow", "mlflow"

    def write(self, values: dict[str, float], epoch: int) -> None:
        """Write scalars of an epoch."""
        for name, value in values.items():
            self._client.log_metric(self._id, name.replace("@", "_at_"), value, step=epoch)

    def close(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Write the final metrics and end the run; without metrics it counts as failed."""
        if metrics is None and self._open is None:
            return
        self.write(dict(scalars(metrics or {})), int((metrics or {}).get("epochs", 0)))
        self._client.set_terminated(self._id, "FAILED" if metrics is None else "FINISHED")

    @property
    def _client(self) -> Any:
        if self._open is None:
            if "MLFLOW_LOGGING_LEVEL" not in os.environ:
                for package in ("mlflow", "alembic"):  # which tell each table of a new database
                    logging.getLogger(package).setLevel(logging.WARNING)
            client = self.api.MlflowClient()
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = client.get_experiment_by_name(name)
            experiment = client.create_experiment(name) if found is None else found.experiment_id
            self._id = self._stored_id()
            if not self._id or not self._is_there(client, experiment):
                self._id = client.create_run(experiment, run_name=self.folder.name).info.run_id
                self._store_id(self._id)
                for option, value in options(self.config).items():
                    client.log_param(self._id, option, value)
            self._open = client
        return self._open

    def _is_there(self, client: Any, experiment: str) -> bool:
        """Whether the stored id is of a run of this experiment that was not deleted."""
        try:
            info = client.get_run(self._id).info
        except self.api.MlflowException:
            return False
        return bool(info.experiment_id == experiment and info.lifecycle_stage == "active")


class WandbLog(RunLog):
    """A run of Weights & Biases, where its own variables say: WANDB_PROJECT, WANDB_MODE=offline."""

    name, package = "wandb", "wandb"

    def write(self, values: dict[str, float], epoch: int) -> None:
        """Write scalars of an epoch."""
        self._run.log(values, step=epoch)

    def close(self, metrics: Mapping[str, Any] | None = None) -> None:
        """Write the final metrics and end the run; without metrics it counts as failed."""
        if metrics is None and self._open is None:
            return
        self._run.summary.update(dict(scalars(metrics or {})))
        self._run.finish(exit_code=int(metrics is None))

    @property
    def _run(self) -> Any:
        if self._open is None:
            identity = self._stored_id() or os.urandom(6).hex()
            self._store_id(identity)
            self._open = self.api.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=self.folder.name,
                id=identity,
                resume="allow",
                dir=str(self.folder),
                config=options(self.config),
            )
        return self._open


LOGS: dict[str, type[RunLog]] = {kind.name: kind for kind in (TensorBoardLog, MlflowLog, WandbLog)}


def open_log(name: str, folder: Path, config: Mapping[str, Mapping[str, Any]]) -> RunLog:
    """Return the log of a name.

    Raises:
        ConfigError: there is no such log, or its package is not installed.
    """
    if name not in LOGS:
        raise ConfigError(f"--log {name}: expected {', '.join(LOGS)}")
    return LOGS[name](folder, config)
