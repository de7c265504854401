"""Checkpoints: what a killed run needs to go on bit for bit. Safetensors and JSON, never pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlmrec.errors import WorkspaceError
from rlmrec.files import atomic_file, read_json, sha256, write_json


def save(folder: Path, epoch: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write the checkpoint of ``epoch`` and then remove the one before it.

    The tensors go first, under a name of their own; renaming ``checkpoint.json``, which points to them,
    is the moment at which the new checkpoint holds. A kill at any time leaves one whole checkpoint.
    """
    path = folder / f"checkpoint-{epoch}.safetensors"
    with atomic_file(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    write_json(folder / "checkpoint.json", {"tensors": path.name, "sha256": sha256(path), **state})
    for old in folder.glob("checkpoint-*.safetensors"):
        if old != path:
            old.unlink()


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors and the state of the last checkpoint; None where there is none.

    Raises:
        WorkspaceError: it is damaged.
    """
    if not (folder / "checkpoint.json").exists():
        return None
    state = read_json(folder / "checkpoint.json")
    if not isinstance(state, dict) or not {"tensors", "sha256", "identity"} <= state.keys():
        raise WorkspaceError(f"{folder / 'checkpoint.json'} is damaged: start the run anew with --overwrite")
    path = folder / str(state.pop("tensors"))
    checksum = state.pop("sha256")
    try:
        if sha256(path) != checksum:
            raise WorkspaceError(f"{path} does not match its checksum: start the run anew with --overwrite")
        return load_file(path), state
    except (OSError, SafetensorError) as error:
        raise WorkspaceError(f"{path} cannot be read: {error}; start the run anew with --overwrite") from None


def remove(folder: Path) -> None:
    """Remove the checkpoint of a run that has ended; the pointer goes first."""
    (folder / "checkpoint.json").unlink(missing_ok=True)
    for pattern in ("checkpoint-*.safetensors", ".checkpoint-*"):  # a kill while writing leaves the latter
        for path in folder.glob(pattern):
            path.unlink()
