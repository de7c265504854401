"""Semantics: the text vectors of all users and items, with a manifest of where they came from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.files import atomic_file

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Semantics:
    """s: one vector per user and per item (Eq. 15).

    Args:
        users: float32[U, d_s].
        items: float32[I, d_s].
        manifest: encoder, hash of the texts, how the users' vectors were made, the dataset's fingerprint.

    Raises:
        DataError: the dimensions differ, or a vector holds NaN or infinity.
    """

    users: Vectors
    items: Vectors
    manifest: dict[str, Any] = field(default_factory=dict)

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
        if self.users.shape[1] != self.items.shape[1]:
            raise DataError(
                f"users' vectors have {self.users.shape[1]} dimensions, items' {self.items.shape[1]}: "
                "encode both with one encoder"
            )

    @property
    def size(self) -> int:
        """d_s."""
        return int(self.items.shape[1])

    @cached_property
    def digest(self) -> str:
        """A hash of the vectors themselves: a run names what it was trained with."""
        return hashlib.sha256(self.users.tobytes() + self.items.tobytes()).hexdigest()[:16]

    def stacked(self) -> Vectors:
        """float32[N, d_s], users first."""
        return np.concatenate([self.users, self.items])

    def check(self, dataset: Dataset) -> Semantics:
        """This, if it has one row per user and item of ``dataset``.

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

    def shuffled(self, rng: np.random.Generator, which: str = "both") -> Semantics:
        """The same vectors given to the wrong nodes, users among users and items among items (Figure 4).

        Args:
            rng: source of the order; what it does to the items does not depend on ``which``.
            which: "users", "items" or "both".

        Raises:
            ConfigError: none of these.
        """
        if which not in ("users", "items", "both"):
            raise ConfigError(f"cannot shuffle {which!r}: expected users, items or both")
        users, items = rng.permutation(self.users), rng.permutation(self.items)
        return Semantics(
            users if which != "items" else self.users,
            items if which != "users" else self.items,
            {**self.manifest, "shuffled": which},
        )

    def save(self, path: Path) -> None:
        """Write one safetensors file whose header carries the manifest; atomic."""
        with atomic_file(Path(path)) as temporary:
            save_file(
                {"users": self.users, "items": self.items}, temporary, {"manifest": json.dumps(self.manifest)}
            )

    @classmethod
    def load(cls, path: Path) -> Semantics:
        """Read what ``save`` wrote.

        Raises:
            WorkspaceError: absent or damaged.
        """
        path = Path(path)
        if not path.exists():
            raise WorkspaceError(f"no text vectors at {path}: make them with 'rlmrec encode'")
        try:
            with safe_open(path, "numpy") as file:
                manifest = json.loads((file.metadata() or {}).get("manifest", "{}"))
                return cls(file.get_tensor("users"), file.get_tensor("items"), manifest)
        except (SafetensorError, json.JSONDecodeError, OSError) as error:
            raise WorkspaceError(f"{path} is damaged: {error}; run 'rlmrec encode' again") from None


def mean_over_training(item_vectors: Vectors, train: Interactions) -> Vectors:
    """The users' default vectors: the mean over their training items' vectors, never a held-out one.

    Args:
        item_vectors: float32[I, d_s].
        train: the training split.

    Returns:
        float32[U, d_s]; a user without training interactions has zeros.
    """
    degrees = np.maximum(train.user_degrees(), 1).astype(np.float32)
    sums: Vectors = train.csr() @ item_vectors
    return sums / degrees[:, None]
