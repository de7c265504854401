"""Workspace: the one folder that a project's artefacts live in, and where each of them lies."""

from __future__ import annotations

import re
from pathlib import Path

from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.serving.cold_start import ColdStart
from rlmrec.serving.explain import Explainer
from rlmrec.serving.index import Index, has_index
from rlmrec.serving.recommender import Recommender
from rlmrec.text.semantics import Semantics


class Workspace:
    """dataset/ · semantics.safetensors · runs/<name>/

    Args:
        path: the folder; made when first written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def dataset_path(self) -> Path:
        """Where the dataset lies."""
        return self.path / "dataset"

    @property
    def semantics_path(self) -> Path:
        """Where the text vectors lie."""
        return self.path / "semantics.safetensors"

    @property
    def profiles_path(self) -> Path:
        """Where the store of profiles lies."""
        return self.path / "profiles.sqlite"

    def dataset(self) -> Dataset:
        """The dataset.

        Raises:
            WorkspaceError: there is none yet.
        """
        return Dataset.load(self.dataset_path)

    def semantics(self, dataset: Dataset) -> Semantics:
        """The text vectors, checked against the dataset.

        Raises:
            WorkspaceError: there are none yet.
            DataError: they belong to another dataset.
        """
        return Semantics.load(self.semantics_path).check(dataset)

    def recommender(self, run: str, dataset: Dataset, mmap: bool = False) -> Recommender:
        """The saved recommender of a finished run, checked against the dataset, with its index if it has one.

        Args:
            run: its name.
            dataset: what it must have been trained on.
            mmap: map the arrays: processes that do so share them.

        Raises:
            WorkspaceError: no such run, a damaged folder, or it was trained on another dataset.
        """
        folder = self.finished_run(run) / "recommender"
        recommender = Recommender.load(folder, mmap=mmap)
        if recommender.manifest.get("fingerprint") != dataset.fingerprint:
            raise WorkspaceError(
                f"run {run!r} was trained on another dataset: train it again with --overwrite"
            )
        if has_index(folder):
            return recommender.with_index(Index.load(folder, recommender.items, mmap))
        return recommender

    def cold_start(self, run: str, recommender: Recommender) -> ColdStart:
        """The map from text to a finished run's embeddings.

        Raises:
            WorkspaceError: there is none yet, or it belongs to other embeddings.
        """
        return ColdStart.load(self.finished_run(run) / "recommender", recommender)

    def explainer(self, run: str, dataset: Dataset) -> Explainer:
        """Explanations of a finished run's recommendations, with the profiles that there are."""
        return Explainer(self.recommender(run, dataset), dataset, self.profiles_path)

    def run(self, name: str) -> Path:
        """The folder of the run called ``name``, whether it exists or not.

        Raises:
            ConfigError: not a name for a folder.
        """
        if not re.fullmatch(r"[\w][\w.+=-]*", name):
            raise ConfigError(f"run name {name!r}: use letters, digits and . _ + = - only")
        return self.path / "runs" / name

    def finished_run(self, name: str) -> Path:
        """The folder of a run that has ended.

        Raises:
            WorkspaceError: there is no such run, or it was stopped before its end.
        """
        folder = self.run(name)
        if (folder / "metrics.json").exists():
            return folder
        if folder.exists():
            raise WorkspaceError(
                f"run {name!r} has not ended: give the same 'rlmrec train' command again to go on"
            )
        names = sorted(path.parent.name for path in self.path.glob("runs/*/metrics.json"))
        raise WorkspaceError(f"no run {name!r} in {self.path}: there are {', '.join(names) or 'none yet'}")
