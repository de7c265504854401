"""Results: a JSON-lines file with a record for each trial that has ended."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, Required, TypedDict, TypeVar, cast

from rlmrec.errors import WorkspaceError
from rlmrec.files import locked

R = TypeVar("R", bound=Mapping[str, Any])


class TrialRecord(TypedDict, total=False):
    """A trial that has ended, as plain JSON values.

    ``status`` is "done", "failed" or "pruned"; a failed trial has ``error`` and perhaps ``traceback`` instead of
    metrics, a pruned one only its epochs, seconds and curve.
    ``cell`` is what ``Trial.as_dict`` returns (the key is that of version 0.1), ``dataset`` the
    dataset's name, ``encoder`` the encoder of its text embeddings, ``seconds`` the time of training and validation,
    ``validation_curve`` pairs of epoch and Recall@20, ``groups`` what ``group_metrics`` returns, ``fit`` what a closed
    form recorded of its options, and ``taken_from`` the run that the trial is a copy of.
    """

    id: Required[str]
    status: Required[str]
    cell: Required[dict[str, Any]]
    dataset: str
    encoder: str
    valid: dict[str, float] | None
    test: dict[str, float] | None
    best_epoch: int | None
    epochs: int
    seconds_per_epoch: float
    seconds_evaluation: float
    seconds: float
    environment: dict[str, Any]
    validation_curve: list[list[float]]
    groups: dict[str, float]
    fit: dict[str, Any]
    taken_from: str
    error: str
    traceback: str


def results_path(folder: Path, experiment: str, dataset: str) -> Path:
    """Return the path of the records of an experiment on a dataset."""
    return folder / experiment / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', dataset)}.jsonl"


def tries_path(records: Path) -> Path:
    """Return the path of the records of the tries that a choice of options was made from, beside the others."""
    return records.parent / "tries" / records.name


class Results(Generic[R]):
    """The records of a JSON-lines file, by id. Of several records with one id the last one counts.

    A line that a kill cut short is ignored; the next append removes it from the file. Reading alone changes
    nothing, as another process may be writing.

    Args:
        path: the file; created by the first append.

    Raises:
        WorkspaceError: a complete line is not a JSON object with an id and a status.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, R] = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        complete = text.rpartition("\n")[0]
        for number, line in enumerate(complete.splitlines(), 1):
            try:
                record = json.loads(line)
                _ = record["status"]
                self._put(record)
            except (json.JSONDecodeError, KeyError, TypeError):
                raise WorkspaceError(
                    f"{path}, line {number} is damaged: expected a JSON object with an id and a status; remove that "
                    "line"
                ) from None

    def _put(self, record: R) -> None:
        self.records.pop(
            record["id"], None
        )  # dictionaries keep the first place of a key: the last one counts
        self.records[record["id"]] = record

    def is_done(self, identity: str) -> bool:
        """Return whether there is a record with this id that neither failed nor was pruned."""
        return self._has(identity, "done")

    def is_pruned(self, identity: str) -> bool:
        """Return whether the record with this id is of a trial that was pruned."""
        return self._has(identity, "pruned")

    def _has(self, identity: str, status: str) -> bool:
        return identity in self.records and self.records[identity]["status"] == status

    def append(self, record: R) -> None:
        """Write a record and flush it to disk. Several processes may append to one file.

        A record that is the last of its id in the file is not written again: two runners of the same trials both get
        the result of each.

        Args:
            record: whose first key is "id".
        """
        self._put(record)
        line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
        with locked(self.path), self.path.open("a+b") as file:
            file.seek(0)
            content = file.read()
            # With the lock held nobody else is writing, so an incomplete last line was cut short by a kill.
            file.truncate(content.rfind(b"\n") + 1)
            key = b'{"id": ' + json.dumps(record["id"], ensure_ascii=False).encode() + b","
            own = (one for one in reversed(content.splitlines(keepends=True)) if one.startswith(key))
            if next(own, None) == line:
                return
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def read_trial_records(path: Path) -> list[TrialRecord]:
    """Read the records of an experiment's trials, the last one of each trial.

    Raises:
        WorkspaceError: a line is damaged, or a record lacks something that a trial's record has.
    """
    records = list(Results[TrialRecord](path).records.values())
    for record in records:
        trial: Any = record.get("cell")
        missing = [key for key in ("run", "data", "start") if not isinstance(trial, dict) or key not in trial]
        if record["status"] == "done":
            missing += [key for key in ("dataset", "test", "epochs", "environment") if key not in record]
        if missing:
            raise WorkspaceError(
                f"{path}: the record with id {record['id']!r} has no {', '.join(missing)}, so it is not a trial of an "
                "experiment: remove that line"
            )
    return records


def metric_value(record: TrialRecord, metric: str) -> float | None:
    """Return a test metric such as "recall@20", or a number of the record itself such as "seconds_per_epoch".

    None if the trial's dataset has no test split.
    """
    values = record["test"] if "@" in metric else cast(Mapping[str, Any], record)
    return None if values is None else float(values[metric])
