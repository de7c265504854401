"""Workspace: the one folder that a project's artefacts live in, and where each of them lies."""

from __future__ import annotations

import re
from pathlib import Path

from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.recommend.cold_start import FILE as COLD_START
from rlmrec.recommend.cold_start import ColdStart
from rlmrec.recommend.explain import Explainer
from rlmrec.recommend.index import Index, has_index
from rlmrec.recommend.recommender import Recommender
from rlmrec.text.embeddings import TextEmbeddings

DEFAULT_TEXT_EMBEDDINGS = "default"
# Folders that version 0.1 called otherwise. A workspace that has the old one keeps it.
_OLD_NAMES = {"text_embeddings": "semantics", "trials": "cells"}


class Workspace:
    """dataset/ · profiles.sqlite · text_embeddings/<name>.safetensors · runs/<name>/ · trials/<id>/ · experiments/ ·
    cold_items.sqlite

    Args:
        path: the folder; made when first written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def _folder(self, name: str) -> Path:
        old = self.path / _OLD_NAMES[name]
        return old if old.exists() else self.path / name

    @property
    def dataset_path(self) -> Path:
        """Where the dataset lies."""
        return self.path / "dataset"

    @property
    def profiles_path(self) -> Path:
        """Where the store of profiles lies."""
        return self.path / "profiles.sqlite"

    @property
    def vectors_path(self) -> Path:
        """Where the cache of vectors lies, that of all encoders and texts."""
        return self._folder("text_embeddings") / "cache.sqlite"

    def text_embeddings_path(self, name: str = DEFAULT_TEXT_EMBEDDINGS) -> Path:
        """Where the text vectors called ``name`` lie.

        Raises:
            ConfigError: not a name for a file.
        """
        return self._folder("text_embeddings") / f"{_checked(name, 'text embeddings')}.safetensors"

    def text_embeddings_names(self) -> list[str]:
        """The names of the text vectors that there are, "default" first."""
        names = sorted(path.stem for path in self._folder("text_embeddings").glob("*.safetensors"))
        return sorted(names, key=lambda name: name != DEFAULT_TEXT_EMBEDDINGS)

    @property
    def cold_items_path(self) -> Path:
        """Where the items lie that a server was given by text."""
        return self.path / "cold_items.sqlite"

    @property
    def experiments_path(self) -> Path:
        """Where the results of experiments lie."""
        return self.path / "experiments"

    def dataset(self) -> Dataset:
        """The dataset.

        Raises:
            WorkspaceError: there is none yet.
        """
        return Dataset.load(self.dataset_path)

    def text_embeddings(self, dataset: Dataset, name: str = DEFAULT_TEXT_EMBEDDINGS) -> TextEmbeddings:
        """The text vectors called ``name``, checked against the dataset.

        Raises:
            WorkspaceError: there are none yet.
            DataError: they belong to another dataset.
        """
        path = self.text_embeddings_path(name)
        if path.exists():
            return TextEmbeddings.load(path).check(dataset)
        old = self.path / "semantics.safetensors"
        if old.exists() and name == DEFAULT_TEXT_EMBEDDINGS:
            raise WorkspaceError(f"{old} lies where earlier versions looked for it: move it to {path}")
        known = ", ".join(self.text_embeddings_names()) or "none yet"
        raise WorkspaceError(
            f"no text vectors {name!r} in {self.path}: there are {known}; make them with 'rlmrec encode'"
            + ("" if name == DEFAULT_TEXT_EMBEDDINGS else f" --name {name}")
        )

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

    def has_cold_start(self, run: str) -> bool:
        """Whether a finished run has a map from text."""
        return (self.finished_run(run) / "recommender" / COLD_START).exists()

    def explainer(self, run: str, dataset: Dataset) -> Explainer:
        """Explanations of a finished run's recommendations, with the profiles that there are."""
        return Explainer(self.recommender(run, dataset), dataset, self.profiles_path)

    def run(self, name: str) -> Path:
        """The folder of the run called ``name``, whether it exists or not.

        Raises:
            ConfigError: not a name for a folder.
        """
        return self.path / "runs" / _checked(name, "run")

    def trial(self, identity: str) -> Path:
        """The folder of the trial of a sweep or an experiment with this identity; a run like any other."""
        return self._folder("trials") / identity

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


def _checked(name: str, what: str) -> str:
    if not re.fullmatch(r"[\w][\w.+=-]*", name):
        raise ConfigError(f"{what} name {name!r}: use letters, digits and . _ + = - only")
    return name
