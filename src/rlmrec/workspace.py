"""Workspace: the folder of a project, and the paths of everything in it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, DataError, WorkspaceError, did_you_mean
from rlmrec.files import locked
from rlmrec.text import DEFAULT_TEXT_EMBEDDINGS
from rlmrec.text.embeddings import TextEmbeddings

# Version 0.1 had other names for these folders. A workspace with the old folder keeps it.
_OLD_NAMES = {"text_embeddings": "semantics", "trials": "cells"}


class Workspace:
    """dataset/ · profiles.sqlite · text_embeddings/<name>.safetensors · runs/<name>/ · trials/<id>/ · experiments/ ·
    teachers/ · cold_items.sqlite · releases/<number>/ · published.json

    Args:
        path: the folder; created by the first write.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._before: str | None = None  # the run that is read as it was

    def _folder(self, name: str) -> Path:
        old = self.path / _OLD_NAMES[name]
        return old if old.exists() else self.path / name

    @property
    def dataset_path(self) -> Path:
        """Return the folder of the dataset."""
        return self.path / "dataset"

    @property
    def profiles_path(self) -> Path:
        """Return the path of the store of profiles and answers."""
        return self.path / "profiles.sqlite"

    @property
    def vectors_path(self) -> Path:
        """Return the path of the cache of text vectors, shared by all encoders."""
        return self._folder("text_embeddings") / "cache.sqlite"

    @property
    def encoders_path(self) -> Path:
        """Return the folder of the encoders that were fitted to texts, such as TF-IDF."""
        return self._folder("text_embeddings") / "encoders"

    def text_embeddings_path(self, name: str = DEFAULT_TEXT_EMBEDDINGS) -> Path:
        """Return the path of the text vectors called ``name``.

        Raises:
            ConfigError: the name cannot be a file name.
        """
        return self._folder("text_embeddings") / f"{_checked(name, 'text embeddings')}.safetensors"

    def text_embeddings_names(self) -> list[str]:
        """Return the names of the stored text vectors, "default" first."""
        names = sorted(path.stem for path in self._folder("text_embeddings").glob("*.safetensors"))
        return sorted(names, key=lambda name: name != DEFAULT_TEXT_EMBEDDINGS)

    @property
    def added_items_path(self) -> Path:
        """Return the path of the items that were added to a server by text."""
        return self.path / "cold_items.sqlite"

    @property
    def trials_path(self) -> Path:
        """Return the folder of the trials of sweeps and experiments."""
        return self._folder("trials")

    @property
    def teachers_path(self) -> Path:
        """Return the folder of the fitted teachers, a cache that may be deleted."""
        return self.path / "teachers"

    @property
    def experiments_path(self) -> Path:
        """Return the folder of the results of experiments."""
        return self.path / "experiments"

    @property
    def releases_path(self) -> Path:
        """Return the folder of the releases that ``rlmrec publish`` makes."""
        return self.path / "releases"

    @property
    def published_path(self) -> Path:
        """Return the file that names the release to serve."""
        return self.path / "published.json"

    def dataset(self) -> Dataset:
        """Load the dataset.

        Raises:
            WorkspaceError: there is none yet.
        """
        return Dataset.load(self.dataset_path)

    @contextmanager
    def changing_dataset(self) -> Iterator[None]:
        """Hold the lock of the dataset while it is read, changed and saved.

        Raises:
            WorkspaceError: another process holds it.
        """
        busy = f"another process is changing {self.dataset_path}: wait until it has ended"
        with locked(self.dataset_path, busy):
            yield

    def text_embeddings(self, dataset: Dataset, name: str = DEFAULT_TEXT_EMBEDDINGS) -> TextEmbeddings:
        """Load the text vectors called ``name`` and check that they belong to the dataset.

        Raises:
            WorkspaceError: there are none yet.
            DataError: they belong to another dataset.
        """
        path = self.text_embeddings_path(name)
        if path.exists():
            try:
                return TextEmbeddings.load(path).check(dataset)
            except DataError as error:
                own = "" if name == DEFAULT_TEXT_EMBEDDINGS else f" --name {name}"
                raise DataError(
                    f"text embeddings {name!r}: {error} (rlmrec encode -w {shlex.quote(str(self.path))}{own}, with the "
                    "other options as before)"
                ) from None
        old = self.path / "semantics.safetensors"
        if old.exists() and name == DEFAULT_TEXT_EMBEDDINGS:
            raise WorkspaceError(f"{old} lies where earlier versions looked for it: move it to {path}")
        names = self.text_embeddings_names()
        known = ", ".join(names) or "none yet"
        raise WorkspaceError(
            f"no text vectors {name!r} in {self.path}{did_you_mean(name, names)}: there are {known}; make them "
            "with 'rlmrec encode'" + ("" if name == DEFAULT_TEXT_EMBEDDINGS else f" --name {name}")
        )

    def run(self, name: str) -> Path:
        """Return the folder of the run called ``name``, whether it exists or not.

        Raises:
            ConfigError: the name cannot be a folder name.
        """
        folder = self.path / "runs" / _checked(name, "run")
        return set_aside(folder) if name == self._before else folder

    def before_overwriting(self, name: str) -> Workspace:
        """Return this workspace with a run as it was, while that run is being overwritten; else this workspace.

        For readers that must have some run, such as a server that starts: a training may take hours.
        """
        folder = self.run(name)
        finished = "metrics.json"
        if (folder / finished).exists() or not (set_aside(folder) / finished).exists():
            return self
        workspace = Workspace(self.path)
        workspace._before = name
        return workspace

    def trial(self, identity: str) -> Path:
        """Return the folder of a trial of a sweep or an experiment, which is a run like any other."""
        return self.trials_path / identity

    def finished_run(self, name: str) -> Path:
        """Return the folder of a finished run.

        Raises:
            WorkspaceError: there is no such run, or it was interrupted.
        """
        folder = self.run(name)
        if (folder / "metrics.json").exists():
            return folder
        if folder.exists():
            raise WorkspaceError(
                f"run {name!r} is not finished: give the same 'rlmrec train' command again to resume it"
            )
        names = sorted(path.parent.name for path in self.path.glob("runs/[!.]*/metrics.json"))
        raise WorkspaceError(
            f"no run {name!r} in {self.path}{did_you_mean(name, names)}: there are {', '.join(names) or 'none yet'}"
        )

    def recommender_path(self, run: str) -> Path:
        """Return the folder of a finished run's recommender, which also holds its index and cold-start model.

        Raises:
            WorkspaceError: there is no such run, or it was interrupted.
        """
        return self.finished_run(run) / "recommender"


def set_aside(folder: Path) -> Path:
    """Return where the run of a folder is kept while another one is written there."""
    return folder.with_name(f".{folder.name}.old")


def _checked(name: str, what: str) -> str:
    if not re.fullmatch(r"[\w][\w.+=-]*", name):
        raise ConfigError(f"{what} name {name!r}: use letters, digits and . _ + = - only")
    return name
