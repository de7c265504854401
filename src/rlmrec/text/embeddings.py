"""TextEmbeddings: the text vectors of all users and items, with a manifest of where they came from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.files import atomic_file
from rlmrec.trust import damaged, expect, matrix, parse_json, read_tensors
from rlmrec.types import BoolArray, Float32Array


@dataclass(frozen=True, eq=False)
class TextEmbeddings:
    """The text vectors s: one per user and per item (Eq. 15), except those marked to have none.

    A node without a vector takes part in everything except the alignment: it is neither anchor nor candidate, and
    its text is never rebuilt. Its row is zeros.

    Args:
        users: float32[U, d_s].
        items: float32[I, d_s].
        manifest: encoder, hash of the texts, how the users' vectors were made, the dataset's fingerprint.
        has_user: bool[U], which users have a vector; all of them by default.
        has_item: bool[I], likewise.

    Raises:
        DataError: the dimensions differ, a vector holds NaN or infinity, or a row marked to have no vector
            has one.
    """

    users: Float32Array
    items: Float32Array
    manifest: dict[str, Any] = field(default_factory=dict)
    has_user: BoolArray = None  # type: ignore[assignment]  # set below; never None afterwards
    has_item: BoolArray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for kind in ("users", "items"):
            vectors = np.ascontiguousarray(getattr(self, kind), np.float32)
            if vectors.ndim != 2:
                raise DataError(
                    f"the text vectors of {kind} have shape {vectors.shape}, expected (rows, d_s)"
                )
            bad = ~np.isfinite(vectors).all(1)
            if bad.any():
                raise DataError(
                    f"the text vectors of {kind} hold NaN or infinity in {int(bad.sum())} rows, "
                    f"first in row {int(bad.argmax())}: every vector must be finite"
                )
            object.__setattr__(self, kind, vectors)
            self._set_mask(kind, vectors)
        if not (self.has_user.any() or self.has_item.any()):
            raise DataError("no user and no item has a text vector: encode texts of this dataset first")
        if self.users.shape[1] != self.items.shape[1]:
            raise DataError(
                f"users' vectors have {self.users.shape[1]} dimensions, items' {self.items.shape[1]}: "
                "encode both with one encoder"
            )

    def __repr__(self) -> str:
        encoder = self.manifest.get("encoder", "an unknown encoder")
        missing = int((~self.has_user).sum() + (~self.has_item).sum())
        return (
            f"TextEmbeddings({len(self.users):,} users, {len(self.items):,} items, {self.size} dimensions, "
            f"{missing:,} without a vector, by {encoder})"
        )

    def _set_mask(self, kind: str, vectors: Float32Array) -> None:
        name = f"has_{kind[:-1]}"
        given = getattr(self, name)
        mask: BoolArray = np.ones(len(vectors), bool) if given is None else np.ascontiguousarray(given, bool)
        if mask.shape != (len(vectors),):
            raise DataError(f"{name} has shape {mask.shape}, expected ({len(vectors)},), one for each vector")
        if (filled := vectors[~mask].any(1)).any():
            raise DataError(
                f"{int(filled.sum())} rows of {kind} are marked to have no vector, yet hold one: "
                f"leave zeros there, or correct {name}"
            )
        object.__setattr__(self, name, mask)

    @property
    def size(self) -> int:
        """Number of dimensions d_s."""
        return int(self.items.shape[1])

    @property
    def complete(self) -> bool:
        """Whether every user and item has a vector."""
        return bool(self.has_user.all() and self.has_item.all())

    @cached_property
    def digest(self) -> str:
        """Hash of the vectors: a run records which it was trained with."""
        digest = hashlib.sha256(self.users.tobytes() + self.items.tobytes())
        if not self.complete:
            digest.update(self.has_user.tobytes() + self.has_item.tobytes())
        return digest.hexdigest()[:16]

    def stacked(self) -> Float32Array:
        """Return float32[N, d_s], users first."""
        return np.concatenate([self.users, self.items])

    def stacked_mask(self) -> BoolArray:
        """Return bool[N], which nodes have a vector, users first."""
        return np.concatenate([self.has_user, self.has_item])

    def check(self, dataset: Dataset) -> TextEmbeddings:
        """Check that there is one row per user and item of ``dataset``; return self.

        Raises:
            DataError: another number of rows, or made for other data.
        """
        for kind, vectors, size in (
            ("users", self.users, dataset.n_users),
            ("items", self.items, dataset.n_items),
        ):
            if len(vectors) != size:
                raise DataError(
                    f"there are text vectors for {len(vectors)} {kind}, the dataset has {size}: "
                    "encode them for this dataset"
                )
        made_for = self.manifest.get("dataset")
        if made_for is not None and made_for != dataset.fingerprint:
            raise DataError("these text vectors were made for another dataset: run 'rlmrec encode' again")
        return self

    def shuffled(self, rng: np.random.Generator, which: str = "both") -> TextEmbeddings:
        """Assign the vectors to the wrong nodes, users among users and items among items (Figure 4).

        Args:
            rng: source of the order; the order of the items does not depend on ``which``.
            which: "users", "items" or "both".

        Raises:
            ConfigError: none of these.
        """
        if which not in ("users", "items", "both"):
            raise ConfigError(f"cannot shuffle {which!r}: expected users, items or both")
        users, items = rng.permutation(len(self.users)), rng.permutation(len(self.items))
        if which == "items":
            users = np.arange(len(self.users))
        elif which == "users":
            items = np.arange(len(self.items))
        return TextEmbeddings(
            self.users[users], self.items[items], {**self.manifest, "shuffled": which},
            self.has_user[users], self.has_item[items],
        )  # fmt: skip

    def save(self, path: Path | str) -> None:
        """Write one safetensors file whose header carries the manifest; atomic."""
        tensors: dict[str, Any] = {"users": self.users, "items": self.items}
        if not self.complete:
            tensors |= {"has_user": self.has_user, "has_item": self.has_item}
        with atomic_file(Path(path)) as temporary:
            save_file(tensors, temporary, {"manifest": json.dumps(self.manifest)})

    @classmethod
    def load(cls, path: Path | str) -> TextEmbeddings:
        """Read what ``save`` wrote.

        Raises:
            WorkspaceError: absent or damaged.
        """
        path = Path(path)
        if not path.exists():
            raise WorkspaceError(f"no text vectors at {path}: make them with 'rlmrec encode'")
        with damaged(path, "run 'rlmrec encode' again"):
            arrays, metadata = read_tensors(path)
            manifest = expect(parse_json(metadata.get("manifest", "{}")), dict, "its manifest")
            expect(manifest.get("encoder", ""), str, "the encoder")
            masks = {name: arrays[name] for name in ("has_user", "has_item") if name in arrays}
            if any(mask.dtype != bool for mask in masks.values()):
                raise DataError("has_user and has_item are not bool")
            return cls(matrix(arrays, "users"), matrix(arrays, "items"), manifest, **masks)


def mean_over_training(
    item_vectors: Float32Array, train: Interactions, has_item: BoolArray | None = None
) -> Float32Array:
    """Compute the users' default vectors: means over their training items' vectors, never a held-out one.

    Args:
        item_vectors: float32[I, d_s].
        train: the training split.
        has_item: bool[I], the items to average over; all by default.

    Returns:
        float32[U, d_s]; a user with nothing to average over has zeros.
    """
    matrix = train.csr()
    if has_item is not None:
        matrix = matrix[:, has_item]
        item_vectors = item_vectors[has_item]
    counts = np.maximum(np.diff(matrix.indptr), 1).astype(np.float32)
    sums: Float32Array = matrix @ item_vectors
    return sums / counts[:, None]
