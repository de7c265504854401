"""The other runs of a workspace: listed with their figures, and opened when somebody asks for one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlmrec.errors import RlmrecError, UnknownIdError
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
        self._opening = threading.Lock()

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
        with self._opening:
            if name not in self._opened:
                if name not in self.names():
                    raise UnknownIdError(f"no finished run {name!r}: there are {', '.join(self.names())}")
                self._opened[name] = self._load(name)
            self._opened.move_to_end(name)
            while len(self._opened) > KEPT:
                self._opened.popitem(last=False)
            return self._opened[name]

    def forget(self) -> None:
        """Close all runs, since they may have been trained again."""
        with self._opening:
            self._opened.clear()

    def _described(self, name: str) -> schemas.Run:
        try:
            metrics: Any = read_json(self.workspace.run(name) / "metrics.json")
        except RlmrecError:
            metrics = {}
        metrics = metrics if isinstance(metrics, dict) else {}
        options, test = ((metrics.get(part) or {}) for part in ("config", "test"))
        run = options.get("run", {}) if isinstance(options, dict) else {}
        ndcg = test.get("ndcg@20") if isinstance(test, dict) else None
        uses_text = isinstance(options, dict) and (options.get("data") or {}).get("texts") is not None
        parts = [run.get("backbone"), None if run.get("alignment") in (None, "none") else run["alignment"]]
        what = " + ".join(str(part) for part in parts if part)
        return schemas.Run(
            name=name, what=what or None, text=uses_text, ndcg=ndcg if isinstance(ndcg, int | float) else None
        )
