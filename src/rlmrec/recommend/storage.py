"""The folder of a recommender: arrays, ids, and a description with their checksums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from rlmrec.data.interactions import index_type
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import WorkspaceError
from rlmrec.files import (
    atomic_folder,
    complete_folder,
    read_json,
    read_unchanged,
    sha256,
    write_json,
    write_text,
)
from rlmrec.recommend.sparse_parts import SparseParts
from rlmrec.trust import check_sparse, damaged, expect, matrix, read_tensors, write_tensors
from rlmrec.types import AnyArray

FORMAT = 1
FORMAT_WITH_PARTS = 2  # of closed-form recommenders, which programs before 0.2 cannot read
FILES = ARRAYS, IDS, MANIFEST = "embeddings.safetensors", "ids.json", "recommender.json"


def write(folder: Path | str, parts: dict[str, Any]) -> None:
    """Write the constructor arguments of a ``Recommender`` into a folder, atomically as a whole."""
    users, items, seen, known = parts["users"], parts["items"], parts["seen"], parts["known"]
    with atomic_folder(Path(folder), MANIFEST) as temporary:
        arrays: dict[str, AnyArray] = {"users": users, "items": items, **_pairs("seen", seen)}
        if known is not seen:
            arrays |= _pairs("known", known)
        if parts["item_messages"] is not None:
            arrays["neighbours"] = parts["item_messages"]  # the name that version 0.1 reads
        sparse: SparseParts | None = parts["parts"]
        if sparse is not None:
            arrays |= sparse.state()
        write_tensors(temporary / ARRAYS, arrays)
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
    folder = complete_folder(Path(folder))
    path = folder / MANIFEST

    def read_all() -> dict[str, Any]:
        if not path.exists():
            raise WorkspaceError(f"no recommender at {folder}: make one with 'rlmrec train …'")
        with damaged(folder, "save the recommender again, or train the run again with --overwrite"):
            return _read(folder, mmap)

    return read_unchanged(path, read_all)


def _read(folder: Path, mmap: bool) -> dict[str, Any]:
    path = folder / MANIFEST
    description = expect(read_json(path), dict, MANIFEST)
    if description.get("format") not in (FORMAT, FORMAT_WITH_PARTS):
        raise WorkspaceError(
            f"{path} has format {description.get('format')!r}, this version reads {FORMAT} and {FORMAT_WITH_PARTS}"
        )
    if description.pop("checksum", None) != checksum(description):
        raise WorkspaceError(f"{path} was changed after it was written: save the recommender again")
    for name in (ARRAYS, IDS):
        if not (folder / name).exists() or sha256(folder / name) != description["sha256"][name]:
            raise WorkspaceError(f"{folder / name} is missing or was changed: save the recommender again")
    arrays, _ = read_tensors(folder / ARRAYS, mmap)
    ids = read_json(folder / IDS)
    user_ids, item_ids = Vocabulary(ids["users"], "user"), Vocabulary(ids["items"], "item")
    for vocabulary in (user_ids, item_ids):
        if not vocabulary.is_text:
            np.array(vocabulary.ids, np.int64)  # raises where an id is beyond 64 bits
    shape = (len(user_ids), len(item_ids))
    users = matrix(arrays, "users", shape[0])
    items = matrix(arrays, "items", shape[1], users.shape[1])
    manifest = _checked_manifest(description["manifest"])
    parts = None
    if description["format"] == FORMAT_WITH_PARTS:
        rule_items = expect(description["rule_items"], int, "rule_items")
        parts = SparseParts.from_state(arrays, rule_items, description["rule"])
        parts.check(*shape)
        parts.try_rule(shape[1], users.shape[1], manifest.get("texts", {}).get("text_size"))
    messages = "neighbours" if "neighbours" in arrays else None
    return {
        "users": users,
        "items": items,
        "user_ids": user_ids,
        "item_ids": item_ids,
        "seen": _matrix("seen", arrays, shape),
        "known": _matrix("known", arrays, shape) if "known_indices" in arrays else None,
        "manifest": manifest,
        "item_messages": messages and matrix(arrays, messages, *items.shape),
        "self_loops": expect(description.get("self_loops", False), bool, "self_loops"),
        "parts": parts,
    }


def _checked_manifest(manifest: Any) -> dict[str, Any]:
    """Check the types of what the program reads of a recommender's manifest."""
    found: dict[str, Any] = expect(manifest, dict, "the manifest")
    expect(expect(found.get("config", {}), dict, "config").get("run", {}), dict, "config.run")
    if "texts" in found:
        expect(expect(found["texts"], dict, "texts").get("encoder"), str, "the encoder of the texts")
        expect(found["texts"].get("text_size"), int, "the size of the texts")
    return found


def _pairs(name: str, matrix: sp.csr_array) -> dict[str, AnyArray]:
    """Return the places of a matrix's non-zeros as named arrays."""
    # scipy copies the indices of a sparse matrix unless both arrays have one type.
    narrow = index_type(matrix.nnz, *matrix.shape)
    return {f"{name}_indptr": matrix.indptr.astype(narrow), f"{name}_indices": matrix.indices.astype(narrow)}


def _matrix(name: str, arrays: dict[str, AnyArray], shape: tuple[int, int]) -> sp.csr_array:
    """Return the matrix that ``_pairs`` took apart."""
    indptr, indices = arrays[f"{name}_indptr"], arrays[f"{name}_indices"]
    check_sparse(
        {
            f"{name}.indptr": indptr,
            f"{name}.indices": indices,
            f"{name}.data": np.ones(len(indices), np.float32),
            f"{name}.shape": np.array(shape),
        }
    )
    return sp.csr_array((np.ones(len(indices), bool), indices, indptr), shape=shape)


def checksum(description: dict[str, Any]) -> str:
    """Compute the checksum of a description, which it is stored with."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
