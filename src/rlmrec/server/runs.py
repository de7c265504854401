"""The other runs of a workspace: listed with their figures, and opened when somebody asks for one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlmrec.errors import RlmrecError, UnknownIdError, did_you_mean
from rlmrec.files import read_json
from rlmrec.server import schemas
from rlmrec.server.catalogue import Catalogue
from rlmrec.workspace import Workspace

KEPT = 4  # opened runs


class Runs:
    """Lists and opens the finished runs of a workspace. Any thread may use it.

    Args:
        workspace: that holds them.
        load: loads a run by its name.
    """

    def __init__(self, workspace: Path, load: Callable[[str], Catalogue]) -> None:
        self.workspace = Workspace(workspace)
        self._load = load
        self._opened: OrderedDict[str, Catalogue] = OrderedDict()
        self._opening: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Return the names of the finished runs in alphabetical order."""
        found = self.workspace.path.glob("runs/[!.]*/metrics.json")
        return sorted(path.parent.name for path in found if (path.parent / "recommender").exists())

    def listed(self) -> list[schemas.Run]:
        """Return the finished runs with their figures, the best first, those without figures last."""
        runs = [self._described(name) for name in self.names()]
        return sorted(runs, key=lambda run: -1.0 if run.ndcg is None else run.ndcg, reverse=True)

    def open(self, name: str) -> Catalogue:
        """Return the catalogue of a run; the last few stay open.

        Raises:
            UnknownIdError: there is no finished run of that name.
            RlmrecError: it cannot be loaded.
        """
        kept = self._kept(name)
        if kept is not None:
            return kept
        if name not in self.names():
            names = self.names()
            raise UnknownIdError(
                f"no finished run {name!r}{did_you_mean(name, names)}: there are {', '.join(names)}"
            )
        with self._lock:
            opening = self._opening.setdefault(name, threading.Lock())
        with opening:  # who asks for another run meanwhile does not wait
            found = self._kept(name) or self._load(name)
            with self._lock:
                self._opened[name] = found
                self._opened.move_to_end(name)
                while len(self._opened) > KEPT:
                    self._opened.popitem(last=False)
        return found

    def _kept(self, name: str) -> Catalogue | None:
        """Return the catalogue of a run that is open, which now counts as used last."""
        with self._lock:
            if name in self._opened:
                self._opened.move_to_end(name)
            return self._opened.get(name)

    def forget(self) -> None:
        """Close all runs, since they may have been trained again."""
        with self._lock:
            self._opened.clear()

    def _described(self, name: str) -> schemas.Run:
        try:
            metrics: Any = read_json(self.workspace.run(name) / "metrics.json")
        except RlmrecError:
            metrics = {}
        config, ndcg = _table(metrics, "config"), _table(metrics, "test").get("ndcg@20")
        run = _table(config, "run")
        parts = [run.get("backbone"), None if run.get("alignment") in (None, "none") else run["alignment"]]
        what = " + ".join(str(part) for part in parts if part)
        return schemas.Run(
            name=name,
            what=what or None,
            text=_table(config, "data").get("texts") is not None,
            ndcg=ndcg if isinstance(ndcg, int | float) else None,
        )


def _table(values: Any, key: str) -> dict[str, Any]:
    """Return a table within a table; empty where a file that was damaged has none."""
    found = values.get(key) if isinstance(values, dict) else None
    return found if isinstance(found, dict) else {}
