"""The folder of a recommender: arrays, ids, and a description with their checksums."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from safetensors.numpy import save_file

from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import WorkspaceError
from rlmrec.files import atomic_folder, read_json, sha256, write_json, write_text
from rlmrec.recommend.sparse_parts import SparseParts, check_sparse
from rlmrec.types import AnyArray

FORMAT = 1
FORMAT_WITH_PARTS = 2  # of closed-form recommenders, which programs before 0.2 cannot read
ARRAYS, IDS, MANIFEST = "embeddings.safetensors", "ids.json", "recommender.json"
# The types that are written, by the names that safetensors gives them.
TYPES = {"F32": np.float32, "F64": np.float64, "I32": np.int32, "I64": np.int64, "U8": np.uint8}


def write(folder: Path | str, parts: dict[str, Any]) -> None:
    """Write the constructor arguments of a ``Recommender`` into a folder, atomically as a whole."""
    users, items, seen = parts["users"], parts["items"], parts["seen"]
    with atomic_folder(Path(folder), MANIFEST) as temporary:
        # scipy copies the indices of a sparse matrix unless both arrays have one type.
        narrow = np.int32 if seen.nnz < np.iinfo(np.int32).max else np.int64
        arrays: dict[str, AnyArray] = {
            "users": users,
            "items": items,
            "seen_indptr": seen.indptr.astype(narrow),
            "seen_indices": seen.indices.astype(narrow),
        }
        if parts["item_messages"] is not None:
            arrays["neighbours"] = parts["item_messages"]  # the name that version 0.1 reads
        sparse: SparseParts | None = parts["parts"]
        if sparse is not None:
            arrays |= sparse.state()
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary / ARRAYS)
        ids = {"users": parts["user_ids"].ids, "items": parts["item_ids"].ids}
        write_text(temporary / IDS, json.dumps(ids, ensure_ascii=False))
        description = {
            "format": FORMAT if sparse is None else FORMAT_WITH_PARTS,
            "users": len(users),
            "items": len(items),
            "embedding_size": users.shape[1],
            "self_loops": parts["self_loops"],
            "manifest": parts["manifest"],
            **({} if sparse is None else {"rule": sparse.rule_name, "rule_items": sparse.n_items}),
            "sha256": {name: sha256(temporary / name) for name in (ARRAYS, IDS)},
        }
        write_json(temporary / MANIFEST, {**description, "checksum": checksum(description)})


def read(folder: Path | str, mmap: bool) -> dict[str, Any]:
    """Read the constructor arguments that ``write`` wrote; see ``Recommender.load``."""
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.exists():
        raise WorkspaceError(f"no recommender at {folder}: make one with 'rlmrec train …'")
    description = read_json(path)
    if not isinstance(description, dict):
        raise WorkspaceError(f"{path} is damaged: expected an object")
    if description.get("format") not in (FORMAT, FORMAT_WITH_PARTS):
        raise WorkspaceError(
            f"{path} has format {description.get('format')!r}, this version reads {FORMAT} and {FORMAT_WITH_PARTS}"
        )
    if description.pop("checksum", None) != checksum(description):
        raise WorkspaceError(f"{path} was changed after it was written: save the recommender again")
    for name, expected in description["sha256"].items():
        if not (folder / name).exists() or sha256(folder / name) != expected:
            raise WorkspaceError(f"{folder / name} is missing or was changed: save the recommender again")
    arrays = _arrays(folder / ARRAYS, mmap)
    ids = read_json(folder / IDS)
    shape = (description["users"], description["items"])
    indices = arrays["seen_indices"]
    check_sparse(
        {
            "seen.indptr": arrays["seen_indptr"],
            "seen.indices": indices,
            "seen.data": np.ones(len(indices), np.float32),
            "seen.shape": np.array(shape),
        }
    )
    return {
        "users": arrays["users"],
        "items": arrays["items"],
        "user_ids": Vocabulary(ids["users"], "user"),
        "item_ids": Vocabulary(ids["items"], "item"),
        "seen": sp.csr_array((np.ones(len(indices), bool), indices, arrays["seen_indptr"]), shape=shape),
        "manifest": description["manifest"],
        "item_messages": arrays.get("neighbours"),
        "self_loops": description.get("self_loops", False),
        "parts": None
        if description["format"] == FORMAT
        else SparseParts.from_state(arrays, description["rule_items"], description["rule"]),
    }


def _arrays(path: Path, mmap: bool) -> dict[str, AnyArray]:
    """Map or read the arrays of a safetensors file whose checksum was right.

    The safetensors library always copies tensors into memory, so the header is parsed here: its length in
    eight bytes, JSON, then the data. Each array is mapped on its own, because scipy copies indices that are a
    small part of something larger.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    arrays = {}
    for name, part in header.items():
        if name == "__metadata__":
            continue
        kind, shape = TYPES[part["dtype"]], tuple(part["shape"])
        start = 8 + size + part["data_offsets"][0]
        if mmap and math.prod(shape):  # an empty array cannot be mapped
            arrays[name] = np.asarray(np.memmap(path, kind, "r", start, shape))
        else:
            arrays[name] = np.fromfile(path, kind, math.prod(shape), offset=start).reshape(shape)
    return arrays


def checksum(description: dict[str, Any]) -> str:
    """Compute the checksum of a description, which it is stored with."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
