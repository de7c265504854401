"""Checkpoints, from which a killed run resumes bit for bit. Safetensors and JSON, never pickle."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlmrec.errors import WorkspaceError
from rlmrec.files import atomic_file, read_json, sha256, write_json


def save(folder: Path, epoch: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write the checkpoint of ``epoch`` and remove the previous one.

    The tensors are written first, to a new file. The new checkpoint becomes valid when ``checkpoint.json``,
    which names that file, is renamed into place. So a kill at any time leaves one complete checkpoint.
    """
    path = folder / f"checkpoint-{epoch}.safetensors"
    with atomic_file(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    write_json(folder / "checkpoint.json", {"tensors": path.name, "sha256": sha256(path), **state})
    for old in folder.glob("checkpoint-*.safetensors"):
        if old != path:
            old.unlink()


def exists(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint; its tensors alone are what a kill before the first one has left."""
    return (folder / "checkpoint.json").exists()


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the tensors and the state of the last checkpoint, or None if there is none.

    Raises:
        WorkspaceError: it is damaged.
    """
    if not exists(folder):
        return None
    state = read_json(folder / "checkpoint.json")
    if not isinstance(state, dict) or not {"tensors", "sha256", "identity"} <= state.keys():
        raise WorkspaceError(f"{folder / 'checkpoint.json'} is damaged: restart the run with --overwrite")
    name = str(state.pop("tensors"))
    if not re.fullmatch(r"checkpoint-\d+\.safetensors", name):  # a file in this folder
        raise WorkspaceError(f"{folder / 'checkpoint.json'} is damaged: restart the run with --overwrite")
    path = folder / name
    checksum = state.pop("sha256")
    try:
        if sha256(path) != checksum:
            raise WorkspaceError(f"{path} does not match its checksum: restart the run with --overwrite")
        return load_file(path), state
    except (OSError, SafetensorError) as error:
        raise WorkspaceError(f"{path} cannot be read: {error}; restart the run with --overwrite") from None


def go_on_with(patience: int, source: Path, folder: Path) -> None:
    """Let a run go on where another one stopped, which had less patience and was the same otherwise.

    Args:
        patience: of the run that goes on.
        source: folder of the run that stopped, with its checkpoint.
        folder: of the run that goes on, without one.
    """
    state = read_json(source / "checkpoint.json")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / state["tensors"]) as temporary:
        shutil.copyfile(source / state["tensors"], temporary)
    state["identity"]["config"]["patience"] = patience
    write_json(folder / "checkpoint.json", state)


def remove(folder: Path) -> None:
    """Remove the checkpoint of a finished run, ``checkpoint.json`` first."""
    (folder / "checkpoint.json").unlink(missing_ok=True)
    for pattern in ("checkpoint-*.safetensors", ".checkpoint-*"):  # a kill while writing leaves the latter
        for path in folder.glob(pattern):
            path.unlink()
