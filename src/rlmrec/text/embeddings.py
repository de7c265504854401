"""TextEmbeddings: the text vectors of all users and items, with a manifest of where they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from rlmrec import hub
from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.metadata import MEANS
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.files import atomic_file
from rlmrec.findings import Finding
from rlmrec.text.whitening import Whitening, whitened_name
from rlmrec.trust import damaged, expect, matrix, parse_json, read_tensors, write_tensors
from rlmrec.types import BoolArray, Float32Array

ON_HUB = "text_embeddings.safetensors"
LOAD = """```python
from rlmrec import TextEmbeddings

text_embeddings = TextEmbeddings.from_pretrained("{repo}").check(dataset)
```"""
LIMITS = (
    "A row is a user or an item in the order of the dataset, so the vectors serve that dataset alone. They hold what "
    "the encoder took from the texts; texts can partly be told from them."
)
LARGE = 1e15  # numbers whose squares or products may leave the range of float32


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
        whitening: what made these vectors of ``unwhitened``; None for vectors as the encoder gave them. See
            ``whitened``.
        unwhitened: the vectors before whitening, for what whitens by itself.

    Raises:
        DataError: no arrays of numbers, the dimensions differ, a vector holds NaN or infinity, or a row marked to have
            no vector has one.
    """

    users: Float32Array
    items: Float32Array
    manifest: dict[str, Any] = field(default_factory=dict)
    has_user: BoolArray = None  # type: ignore[assignment]  # set below; never None afterwards
    has_item: BoolArray = None  # type: ignore[assignment]
    whitening: Whitening | None = None
    unwhitened: TextEmbeddings | None = None

    def __post_init__(self) -> None:
        for kind in ("users", "items"):
            vectors = _dense(getattr(self, kind), kind)
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

    @property
    def users_are_means(self) -> bool | None:
        """Whether all users' vectors are means over training items (True) or none is (False); None if unknown.

        This is what the manifest records; where some users have a mean, it does not say which.
        """
        if self.manifest.get("users") == MEANS:
            return True
        return False if self.manifest.get("users_by_mean") == 0 else None

    @cached_property
    def digest(self) -> str:
        """Hash of the vectors: a run records which it was trained with."""
        if self.whitening is not None and self.unwhitened is not None:
            # Of what is stored: products of matrices may differ in the last bit from machine to machine.
            both = self.unwhitened.digest + self.whitening.digest
            return hashlib.sha256(both.encode()).hexdigest()[:16]
        digest = hashlib.sha256(self.users.tobytes() + self.items.tobytes())
        if not self.complete:
            digest.update(self.has_user.tobytes() + self.has_item.tobytes())
        return digest.hexdigest()[:16]

    def with_zeros_marked(self) -> TextEmbeddings:
        """Return these vectors with rows of zeros marked as no vector; unchanged where there are only zeros."""
        has_user, has_item = (
            has & rows.any(axis=1) for rows, has in ((self.users, self.has_user), (self.items, self.has_item))
        )
        if not (has_user.any() or has_item.any()):
            return self
        return replace(self, has_user=has_user, has_item=has_item)

    def by_encoder(self, name: str) -> TextEmbeddings | None:
        """Return these vectors or those before whitening, whichever an encoder made; None if it made neither.

        Args:
            name: the encoder's, such as ``TextModel.encoder``: its vectors of new texts can be compared with them.
        """
        for found in (self, self.unwhitened):
            if found is not None and found.manifest.get("encoder", "unknown") == name:
                return found
        return None

    def stacked(self) -> Float32Array:
        """Return float32[N, d_s], users first."""
        return np.concatenate([self.users, self.items])

    def stacked_mask(self) -> BoolArray:
        """Return bool[N], which nodes have a vector, users first."""
        return np.concatenate([self.has_user, self.has_item])

    def findings(self, dataset: Dataset) -> list[Finding]:
        """Find vectors of zeros, and numbers so large that lengths and products of vectors overflow.

        Args:
            dataset: whose users and items these are.
        """
        sides = ((dataset.items, self.items, self.has_item), (dataset.users, self.users, self.has_user))
        found = []
        for ids, vectors, has in sides:
            most = np.abs(vectors).max(axis=1, initial=0)
            kinds = (
                ("zero vector", "have a text vector of zeros", most == 0, "they count as if they had no text"),
                (
                    "large vector", f"have numbers beyond {LARGE:g} in their text vector", most > LARGE,
                    "lengths and products overflow: scale the vectors to length 1",
                ),
            )  # fmt: skip
            for kind, what, mask, remedy in kinds:
                rows = np.flatnonzero(mask & has)
                if len(rows):
                    example = repr(ids.id(int(rows[0])))
                    found.append(Finding(kind, f"{ids.kind}s {what}", len(rows), example, remedy))
        return found

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
            raise DataError("these text vectors were made for another dataset: encode them for this dataset")
        return self

    def whitened(
        self, power: float, own_users: BoolArray | None = None, folder: Path | str | None = None
    ) -> TextEmbeddings:
        """Centre all vectors, scale their principal directions by s^(p−1), s the spread, and the rows to length 1.

        Mean and directions are those of the items' vectors and of the users' own; see ``Whitening``. The manifest
        records p, and the encoder of new texts then whitens them in the same way.

        Args:
            power: p: 1 only centres, 0 gives every direction the same spread, .5 lies between.
            own_users: bool[U], users with a text of their own instead of a mean over items; none by default.
            folder: where the whitening is stored for new texts (``Workspace.encoders_path``); None stores it only
                with the vectors.

        Raises:
            ConfigError: p is not between 0 and 1, or the vectors are whitened already.
            DataError: all vectors are equal.
        """
        if not 0 <= power <= 1:
            raise ConfigError(f"the power of the whitening is {power}: expected a number from 0 to 1")
        if self.whitening is not None:
            raise ConfigError("the text vectors are whitened already: whiten them once")
        rows = self.items[self.has_item & self.items.any(axis=1)]
        if own_users is not None:
            rows = np.concatenate([rows, self.users[own_users & self.users.any(axis=1)]])
        whitening = Whitening.fit(rows, power)
        if not whitening.size:
            raise DataError(f"all {len(rows):,} text vectors are equal: there is nothing to whiten")
        encoder = self.manifest.get("encoder", "unknown")
        manifest = {
            **self.manifest,
            "encoder": whitened_name(encoder, power, whitening),
            "dimensions": whitening.size,
            "whitening": {"power": power, "of": encoder},
        }
        if folder is not None and self.manifest.get("made_by") is not None:
            stored = {"power": power, "file": whitening.save(Path(folder))}
            manifest["made_by"] = {**self.manifest["made_by"], "whitening": stored}
        return self._by(whitening, manifest)

    def _by(self, whitening: Whitening, manifest: dict[str, Any]) -> TextEmbeddings:
        users, items = (
            whitening(rows, mask=has & rows.any(axis=1))
            for rows, has in ((self.users, self.has_user), (self.items, self.has_item))
        )
        return TextEmbeddings(users, items, manifest, self.has_user, self.has_item, whitening, self)

    def with_means_over(self, train: Interactions, users: BoolArray) -> TextEmbeddings:
        """Give some users the mean over their items of a training split as their vector.

        A user without such items that have a vector gets none. The manifest counts the users with a mean.

        Args:
            train: of these users and items.
            users: bool[U], who gets a mean; the others keep what they have.
        """
        means = mean_over_training(self.items, train, self.has_item)
        averaged = users & (train.csr() @ self.has_item.astype(np.int64) > 0)
        vectors = np.where(averaged[:, None], means, np.where(users[:, None], 0, self.users))
        manifest = {**self.manifest, "users_by_mean": int(averaged.sum())}
        has_user = (self.has_user & ~users) | averaged
        return replace(self, users=vectors.astype(np.float32), has_user=has_user, manifest=manifest)

    def mapped(self, change: Callable[[TextEmbeddings], TextEmbeddings]) -> TextEmbeddings:
        """Apply a change to the vectors before whitening, and whiten what it returns in the same way.

        Args:
            change: takes and returns text embeddings that are not whitened.
        """
        if self.whitening is None or self.unwhitened is None:
            return change(self)
        found = change(self.unwhitened)
        kept = ("encoder", "dimensions", "whitening", "made_by")
        own = {name: self.manifest[name] for name in kept if name in self.manifest}
        return found._by(self.whitening, {**found.manifest, **own})

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
        if self.whitening is not None:
            return self.mapped(lambda raw: raw.shuffled(rng, which))
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
        kept = self if self.unwhitened is None else self.unwhitened
        tensors: dict[str, Any] = {"users": kept.users, "items": kept.items}
        if not self.complete:
            tensors |= {"has_user": self.has_user, "has_item": self.has_item}
        if self.whitening is not None:
            tensors |= {f"whitening.{name}": array for name, array in self.whitening.state().items()}
        with atomic_file(Path(path)) as temporary:
            write_tensors(temporary, tensors, {"manifest": json.dumps(self.manifest)})

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
            masks: list[Any] = [arrays.get(name) for name in ("has_user", "has_item")]
            if any(mask is not None and mask.dtype != bool for mask in masks):
                raise DataError("has_user and has_item are not bool")
            vectors = matrix(arrays, "users"), matrix(arrays, "items")
            if "whitening.map" not in arrays:
                return cls(*vectors, manifest, *masks)
            expect(manifest.get("made_by") or {}, dict, "the record of the encoder")
            before = cls(*vectors, _unwhitened(manifest), *masks)
            return before._by(Whitening.of_arrays(arrays, "whitening."), manifest)

    @classmethod
    def from_pretrained(cls, repo: str, revision: str | None = None) -> TextEmbeddings:
        """Load text vectors from the Hugging Face Hub; ``check`` tells whether they belong to a dataset.

        Args:
            repo: OWNER/NAME.
            revision: commit, tag or branch. Only a commit always gives the same; of others the commit is logged.

        Raises:
            ConfigError: the extra ``hub`` is not installed.
            RlmrecError: the hub has no such vectors or cannot be reached.
            WorkspaceError: the file is damaged.
        """
        return cls.load(hub.fetch(repo, [ON_HUB], revision) / ON_HUB)

    def push_to_hub(self, repo: str, public: bool = False, license: str | None = None) -> hub.Pushed:
        """Upload the vectors, without ids and texts, with a card.

        Args:
            repo: OWNER/NAME; made if there is none.
            public: everybody may read a repository that is made now.
            license: identifier for the card; it depends on your data and on the encoder.

        Raises:
            ConfigError: the extra ``hub`` is not installed, or the name is wrong.
            RlmrecError: the hub refuses or cannot be reached.
        """
        facts = {
            "encoder": self.manifest.get("encoder", "unknown"),
            "items with a vector": int(self.has_item.sum()),
            "users with a vector": int(self.has_user.sum()),
            "dimensions": self.size,
            "dataset (fingerprint)": self.manifest.get("dataset", "unknown"),
        }
        sections = {"Load": LOAD.format(repo=repo), "Limits": LIMITS}
        with TemporaryDirectory() as temporary:
            # The command names files of this machine, which are nobody else's business.
            manifest = {name: value for name, value in self.manifest.items() if name != "command"}
            replace(self, manifest=manifest).save(Path(temporary) / ON_HUB)
            card = hub.model_card(f"Text vectors {repo}", facts, sections, license)
            return hub.push([Path(temporary) / ON_HUB], repo, card, public)


def _unwhitened(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest of the vectors before whitening."""
    found = {name: value for name, value in manifest.items() if name != "whitening"}
    whitening = expect(manifest.get("whitening"), dict, "the record of the whitening")
    found["encoder"] = expect(whitening.get("of"), str, "the encoder before whitening")
    if manifest.get("made_by") is not None:
        found["made_by"] = {name: value for name, value in manifest["made_by"].items() if name != "whitening"}
    return found


def _dense(vectors: Any, kind: str) -> Float32Array:
    """Return vectors as one array of float32."""
    try:
        return np.ascontiguousarray(vectors, np.float32)
    except (TypeError, ValueError, RuntimeError):  # lists of different lengths, a tensor with a gradient
        remedy = "; make it dense by .toarray()" if hasattr(vectors, "toarray") else ""
        raise DataError(
            f"the text vectors of {kind} are a {type(vectors).__name__}: expected an array of numbers (rows, d_s)"
            + remedy
        ) from None


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
