"""Publishing: a copy of a run and its dataset for the server, chosen by one file that is replaced in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rlmrec.errors import DataError, RlmrecError, WorkspaceError
from rlmrec.files import atomic_folder, complete_folder, locked, read_json, write_json
from rlmrec.recommend.open import find_cold_start, open_recommender
from rlmrec.trust import damaged, expect
from rlmrec.workspace import Workspace

MARKER = "release.json"
KEPT = 3  # releases, the published one among them
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Release:
    """A published run: a workspace of its own with one run and the dataset that it is served with.

    Args:
        folder: of the release.
        run: name of the run.
        record: when it was made, and of which dataset; JSON.
    """

    folder: Path
    run: str
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def workspace(self) -> Workspace:
        """The release as a workspace."""
        return Workspace(self.folder)


def publish(workspace: Workspace, run: str, keep: int = KEPT) -> Release:
    """Publish a finished run with the present dataset; a server without ``--run`` answers from it.

    The files are copied by hard links where the file system has them. What was published before stays until the
    last step, which replaces one file. If that file is damaged, the earlier releases that can be read are kept.

    Args:
        workspace: that holds the run.
        run: its name; trained on the dataset, or on one that it was made of by appending.
        keep: number of releases that are kept.

    Raises:
        WorkspaceError: the run cannot be served with the dataset.
    """
    with locked(workspace.published_path, "another process is publishing: wait until it has ended"):
        with workspace.changing_dataset():
            dataset = workspace.dataset()
            recommender = open_recommender(workspace, run, dataset, mmap=True)
            find_cold_start(workspace, run, recommender)  # raises if it does not belong to the run
            numbers = [int(path.name) for path in workspace.releases_path.glob("*") if path.name.isdecimal()]
            folder = workspace.releases_path / f"{max(numbers, default=0) + 1:06d}"
            record = {
                "run": run,
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
                "dataset": dataset.fingerprint,
                "users": dataset.n_users,
                "items": dataset.n_items,
                "interactions": len(dataset.everything()),
            }
            with atomic_folder(folder, MARKER) as temporary:
                _link(complete_folder(workspace.dataset_path), temporary / "dataset")
                of_run = Workspace(temporary).run(run)
                _link(workspace.recommender_path(run), of_run / "recommender")
                for name in ("config.toml", "metrics.json"):
                    if (workspace.run(run) / name).exists():
                        _link(workspace.run(run) / name, of_run / name)
                write_json(temporary / MARKER, record)
        order = [folder.name, *_earlier(workspace, numbers)]
        write_json(workspace.published_path, {"releases": order[:keep]})
        _remove_others(workspace, order[:keep])
    return Release(folder, run, record)


def rollback(workspace: Workspace) -> Release:
    """Publish again the release before the present one, and return it.

    Raises:
        WorkspaceError: there is none.
    """
    with locked(workspace.published_path, "another process is publishing: wait until it has ended"):
        found = releases(workspace)
        if len(found) < 2:
            raise WorkspaceError(f"{workspace.path} has no release before the present one to go back to")
        write_json(workspace.published_path, {"releases": [release.name for release in found[1:]]})
    return found[1]


def releases(workspace: Workspace) -> list[Release]:
    """Return the releases, the published one first; none if nothing was published.

    Raises:
        WorkspaceError: the file that names them is damaged.
    """
    path = workspace.published_path
    if not path.exists():
        return []
    found = []
    with damaged(path, "run 'rlmrec publish --run RUN' again"):
        for name in expect(expect(read_json(path), dict, path.name)["releases"], list, "releases"):
            if not expect(name, str, "a release").isdecimal():  # a folder beside the others
                raise DataError(f"{name!r} is not the name of a release")
            folder = workspace.releases_path / name
            if (folder / MARKER).exists():
                found.append(_read(folder))
    return found


def _read(folder: Path) -> Release:
    record = expect(read_json(folder / MARKER), dict, MARKER)
    Workspace(folder).run(expect(record["run"], str, "the run"))  # raises if it is not a name
    return Release(folder, record["run"], record)


def _earlier(workspace: Workspace, numbers: list[int]) -> list[str]:
    """Return the names of the releases so far; those that can be read, the newest first, if the list is damaged."""
    try:
        return [release.name for release in releases(workspace)]
    except RlmrecError:
        found = []
        for number in sorted(numbers, reverse=True):
            folder = workspace.releases_path / f"{number:06d}"
            with suppress(RlmrecError), damaged(folder / MARKER, "publish again"):
                found.append(_read(folder).name)
        return found


def first_usable(
    workspace: Workspace, load: Callable[[Release], Loaded], failed: Callable[[Release, RlmrecError], None]
) -> Loaded:
    """Load the published release; if it is damaged, the one before it.

    Args:
        workspace: that holds the releases.
        load: loads one.
        failed: called with each release that cannot be loaded, and why.

    Raises:
        WorkspaceError: nothing was published.
        RlmrecError: no release can be loaded; the error of the published one.
    """
    first: RlmrecError | None = None
    for release in releases(workspace):
        try:
            return load(release)
        except RlmrecError as error:
            failed(release, error)
            first = first or error
    raise first or WorkspaceError(
        f"nothing is published in {workspace.path}: run 'rlmrec publish --run RUN' first, or name a run with --run"
    )


def _link(source: Path, target: Path) -> None:
    """Copy a file or a folder by hard links: written files are never changed in place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if source.is_dir():
            shutil.copytree(source, target, copy_function=os.link)
        else:
            os.link(source, target)
    except (OSError, shutil.Error):  # another file system, or one without hard links
        shutil.rmtree(target, ignore_errors=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)


def _remove_others(workspace: Workspace, kept: list[str]) -> None:
    """Remove old releases, and what a killed process has left."""
    for path in workspace.releases_path.iterdir():
        if path.name not in kept and path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
