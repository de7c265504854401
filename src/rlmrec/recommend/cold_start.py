"""ColdStart: embeddings for items and users without interactions, computed from their text vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from safetensors import safe_open

from rlmrec.closed_form.base import UserParts, nested, own_user_texts, prefixed
from rlmrec.closed_form.graph_rule import GraphRule
from rlmrec.closed_form.popularity import ConstantRule
from rlmrec.data.dataset import Dataset
from rlmrec.data.vocabulary import RawId
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.files import atomic_file
from rlmrec.linalg import unit_rows
from rlmrec.recommend.index import digest
from rlmrec.recommend.recommender import Recommender
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.topk import top_k
from rlmrec.trust import check_finite, damaged, expect, parse_json, read_tensors, write_tensors
from rlmrec.types import AnyArray, Float32Array, IntArray

FILE = "cold_start.safetensors"
FORMAT = 2  # 1 had the map of items alone, for users as well
# Of the kernel map. On yelp-profiles (11,268 items), 1,000 landmarks reach Recall@20 .127, 2,000 .135,
# 4,000 .139 and all of them .143.
LANDMARKS = 4000
MAX_ROWS = 50_000  # a map is fitted on at most this many items, or users
BLOCK_SIZE = 1 << 24  # numbers in one block of similarities: 64 MiB
MIN_ITEMS = 10
# Users with a text of their own that a map of users needs. On debian-packages, users hidden from training have
# Recall@20 .49 by such a map of 1,000 users, .47 of 500, .54 of all 9,753, and .48 by the map of items (LightGCN).
MIN_USERS = 1000
SHIFTS = (0.0, 0.5, 1.0, 2.0, 4.0)
SHIFT_USERS = 1000  # by whom the shift is chosen

Arrays = dict[str, Float32Array]


class Map(Protocol):
    """A function from text vectors to embeddings. Only the direction of its result is used."""

    name: ClassVar[str]

    @property
    def options(self) -> dict[str, float]:
        """Return the hyperparameters, which are stored with the arrays."""

    @property
    def arrays(self) -> Arrays:
        """Return the parameters."""

    def apply(self, texts: Float32Array) -> Float32Array:
        """Map text vectors float32[n, d_s] to vectors float32[n, d]."""


@dataclass(frozen=True, eq=False)
class KernelMap:
    """Nyström kernel ridge regression: f(s) = Σ_l a_l exp(width (s · s_l − 1)) over landmark items l.

    Text vectors are scaled to length 1. It is the best of the maps compared on items that training never saw
    (experiments/LOG.md).

    Args:
        landmarks: float32[L, d_s], text vectors of length 1.
        values: float32[L, d], the coefficients a_l.
        width: of the kernel.
        penalty: weight of the squared norm of f in the fit.
    """

    name: ClassVar[str] = "kernel"
    landmarks: Float32Array
    values: Float32Array
    width: float = 2.0
    penalty: float = 0.3

    @property
    def options(self) -> dict[str, float]:
        """Return the hyperparameters."""
        return {"width": self.width, "penalty": self.penalty}

    @property
    def arrays(self) -> Arrays:
        """Return the parameters."""
        return {"landmarks": self.landmarks, "values": self.values}

    @classmethod
    def fit(
        cls,
        texts: Float32Array,
        targets: Float32Array,
        rng: np.random.Generator,
        width: float = 2.0,
        penalty: float = 0.3,
    ) -> KernelMap:
        """Fit the map.

        Args:
            texts: float32[n, d_s], text vectors.
            targets: float32[n, d], the vectors to predict.
            rng: draws the landmarks.
            width: of the kernel.
            penalty: weight of the squared norm.
        """
        unit = unit_rows(texts)
        marks = np.sort(rng.choice(len(unit), min(LANDMARKS, len(unit)), replace=False))
        landmarks = unit[marks]
        gram = np.zeros((len(marks), len(marks)))
        moments = np.zeros((len(marks), targets.shape[1]))
        for start, stop in _blocks(len(unit), len(marks)):
            # With many similar texts, sums in float32 are no longer positive definite.
            features = _kernel(unit[start:stop] @ landmarks.T, width).astype(np.float64)
            gram += features.T @ features
            moments += features.T @ targets[start:stop]
        gram += penalty * _kernel(landmarks @ landmarks.T, width).astype(np.float64)
        # Equal texts make equal landmarks: a small ridge keeps the system solvable.
        gram[np.diag_indices_from(gram)] += 1e-6 * np.trace(gram) / len(marks)
        values = scipy.linalg.solve(gram, moments, assume_a="pos").astype(np.float32)
        return cls(landmarks, values, width, penalty)

    def apply(self, texts: Float32Array) -> Float32Array:
        """Map text vectors float32[n, d_s] to vectors float32[n, d]."""
        unit = unit_rows(texts)
        return np.concatenate(
            [
                _kernel(unit[start:stop] @ self.landmarks.T, self.width) @ self.values
                for start, stop in _blocks(len(unit), len(self.landmarks))
            ]
        )


@dataclass(frozen=True, eq=False)
class ProjectorMap:
    """The projector σ↓ that contrastive alignment trained (Ren et al., WWW 2024, Eq. 16); nothing is fitted.

    Args:
        arrays: weights and biases of its two layers, by PyTorch's names.
    """

    name: ClassVar[str] = "projector"
    arrays: Arrays

    @property
    def options(self) -> dict[str, float]:
        """Return the hyperparameters: there are none."""
        return {}

    @property
    def sizes(self) -> tuple[int, int]:
        """Return the sizes of its input and its output."""
        return self.arrays["0.weight"].shape[1], self.arrays["2.weight"].shape[0]

    def apply(self, texts: Float32Array) -> Float32Array:
        """Map text vectors float32[n, d_s], not scaled, to vectors float32[n, d]."""
        inner: Float32Array = texts @ self.arrays["0.weight"].T + self.arrays["0.bias"]
        inner = np.maximum(inner, np.float32(0.01) * inner)  # LeakyReLU
        outer: Float32Array = inner @ self.arrays["2.weight"].T + self.arrays["2.bias"]
        return outer

    @classmethod
    def of_run(cls, folder: Path) -> ProjectorMap | None:
        """Read the projector of a run; None if it has none. A generative run has one in the other direction (σ↑)."""
        path = Path(folder) / "model.safetensors"
        prefix = "alignment.projector."
        if not path.exists():
            return None
        with safe_open(path, "numpy") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            weights = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
        return cls(weights) if weights else None


MAPS: dict[str, Callable[[Arrays, dict[str, float]], Map]] = {
    KernelMap.name: lambda arrays, options: KernelMap(arrays["landmarks"], arrays["values"], **options),
    ProjectorMap.name: lambda arrays, _: ProjectorMap(arrays),
}


class TextModel(Protocol):
    """Computes what a run gives new items and new users from a text vector: ``ColdStart`` or ``RuleColdStart``."""

    manifest: dict[str, Any]
    encoder: str
    size: int

    def items(self, texts: Float32Array) -> Float32Array:
        """Compute embeddings float32[n, d] of items with these text vectors, float32[n, d_s]."""

    def new_user(self, text: Float32Array) -> UserParts:
        """Compute the parts of a user with this text vector, float32[d_s], for ``Recommender.recommend_parts``."""


class RuleColdStart:
    """New items and users of a closed-form run, by the run's own rule: nothing has to be fitted.

    Args:
        recommender: of a run that was fitted with text embeddings and uses them (``has_rule_for_texts``).
    """

    def __init__(self, recommender: Recommender) -> None:
        self.recommender = recommender
        self.manifest: dict[str, Any] = recommender.manifest["texts"]
        self.encoder: str = self.manifest["encoder"]
        self.size: int = self.manifest["text_size"]

    def __repr__(self) -> str:
        return f"RuleColdStart(text vectors by {self.encoder}, size {self.size}, by the rule of {self.recommender!r})"

    def items(self, texts: Float32Array) -> Float32Array:
        """Compute embeddings float32[n, d] of items with these text vectors, float32[n, d_s].

        Raises:
            DataError: the vectors have another size or are not finite, or the run uses users' texts alone.
        """
        parts = self.recommender.parts
        assert parts is not None
        assert parts.rule is not None
        return parts.rule.new_items(_checked_texts(texts, self))

    def new_user(self, text: Float32Array, items: Sequence[RawId] = ()) -> UserParts:
        """Compute the parts of a user with this text vector, float32[d_s], and raw ids of items that they like.

        Raises:
            DataError: the vector has another size or is not finite.
        """
        return self.recommender.new_user(items, text=_checked_texts(text, self)[0])


def new_user(
    recommender: Recommender, cold: TextModel, text: Float32Array, items: Sequence[RawId] = ()
) -> UserParts:
    """Compute the parts of a new user from the description of their taste and items that they like.

    A closed-form run has a rule for both. Of a trained run the two directions count alike.

    Args:
        recommender: of the run.
        cold: its cold-start model.
        text: float32[d_s], the text vector of the description.
        items: raw ids; none for a description alone.

    Raises:
        UnknownIdError: an unknown item.
        DataError: the vector has another size or is not finite.
    """
    if not items:
        return cold.new_user(text)
    if isinstance(cold, RuleColdStart):
        return cold.new_user(text, items)
    liked, described = recommender.new_user(items), cold.new_user(text).vectors
    both = unit_rows(unit_rows(described) + unit_rows(liked.vectors)) * np.linalg.norm(described)
    return liked._replace(vectors=both.astype(np.float32))


def has_rule_for_texts(recommender: Recommender) -> bool:
    """Return whether a run reads texts by its own rule."""
    parts = recommender.parts
    return parts is not None and parts.reads_texts and "texts" in recommender.manifest


def _checked_texts(texts: Float32Array, model: TextModel) -> Float32Array:
    given: AnyArray = np.asarray(texts)
    if given.dtype.kind not in "fiu":
        raise DataError(
            f"expected text vectors of {model.size} numbers, got {texts!r}: encode texts first by {model.encoder}, as "
            "encoder.encode([text])"
        )
    texts = np.atleast_2d(given.astype(np.float32))
    if texts.shape[1] != model.size or not np.isfinite(texts).all():
        raise DataError(
            f"expected finite text vectors of {model.size} numbers, made by {model.encoder}, got shape {texts.shape}"
        )
    return texts


class ColdStart:
    """Computes the embedding of an item or a user without interactions from a text vector, without retraining.

    The direction of an item comes from a regression from text embeddings to item embeddings, f: s_v → e_v/‖e_v‖,
    fitted on the items that have training interactions. The length is the median of theirs: a regression shrinks where
    it is unsure, and a list sorted by e_u · e_v would then sort new items by how common their text is.

    The direction of a user comes from a regression of the same kind, s_u → e_u/‖e_u‖, where at least 1,000 users have
    a text of their own. Otherwise it is that of f(s)/‖f(s)‖ + c ū, ū the mean of the users' e_u/‖e_u‖: users lie
    elsewhere than items, most of all where a backbone ranks by cosine. c is the one of ``SHIFTS`` by which one training
    item of a user finds their others best (Recall@20 of up to 1,000 users).

    Made by ``fit`` or ``load``.

    Args:
        map: f, from text vectors to embeddings.
        item_length: length of the vectors that ``items`` returns.
        user_length: length of the vectors that ``users`` returns.
        manifest: the encoder, the sizes and a hash of the item embeddings; JSON.
        user_map: from users' text vectors to their embeddings; None for that of items.
        shift: c ū, float32[d], added for users where they have no map of their own; None adds nothing.

    Source: benchmarks/cold_start.py compares the maps.

    Example:
        >>> cold = ColdStart.fit(recommender, text_embeddings, dataset)
        >>> vector = cold.items(LocalEncoder().encode(["A heist in space, told as a comedy."]))
        >>> recommender.with_items(["new"], vector).recommend("u7")
    """

    def __init__(
        self,
        map: Map,
        item_length: float,
        user_length: float,
        manifest: dict[str, Any],
        user_map: Map | None = None,
        shift: Float32Array | None = None,
    ) -> None:
        self.map, self.user_map, self.shift = map, user_map, shift
        self.item_length, self.user_length = item_length, user_length
        self.manifest = manifest
        self.encoder: str = manifest["encoder"]
        self.size: int = manifest["text_size"]

    def __repr__(self) -> str:
        return f"ColdStart({self.map.name} map of text vectors by {self.encoder}, size {self.size})"

    def items(self, texts: Float32Array) -> Float32Array:
        """Compute embeddings float32[n, d] of items with these text vectors, float32[n, d_s].

        Raises:
            DataError: the vectors have another size or are not finite.
        """
        return self._directions(self.map, texts) * np.float32(self.item_length)

    def users(self, texts: Float32Array) -> Float32Array:
        """Compute embeddings float32[n, d] of users who describe their taste in words, float32[n, d_s].

        Raises:
            DataError: the vectors have another size or are not finite.
        """
        found = self._directions(self.user_map or self.map, texts)
        if self.user_map is None and self.shift is not None:
            found = unit_rows(found + self.shift)
        return found * np.float32(self.user_length)

    def new_user(self, text: Float32Array) -> UserParts:
        """Compute the parts of a user with this text vector, float32[d_s]; see ``users``."""
        return UserParts(self.users(text))

    def _directions(self, map: Map, texts: Float32Array) -> Float32Array:
        return unit_rows(map.apply(_checked_texts(texts, self)))

    @classmethod
    def fit(
        cls,
        recommender: Recommender,
        text_embeddings: TextEmbeddings,
        dataset: Dataset,
        projector: ProjectorMap | None = None,
        seed: int = 0,
    ) -> ColdStart:
        """Fit a kernel map on the items with text and training interactions, and on such users if they are enough.

        Args:
            recommender: holds the embeddings, of the dataset's first items where others were appended since.
            text_embeddings: text vectors of the same users and items.
            dataset: the dataset of both.
            projector: use this map instead of fitting one, for users as well.
            seed: of the landmarks, and of the users by whom the shift is chosen.

        Raises:
            ConfigError: an argument is of another kind, or a closed form needs no fit or has scores that embeddings
                alone do not give.
            DataError: fewer than 10 items have both text and interactions, the projector has other sizes, or the
                text embeddings are of another dataset.
        """
        Dataset.check(dataset)
        for name, value, kind in (
            ("recommender", recommender, Recommender),
            ("text_embeddings", text_embeddings, TextEmbeddings),
        ):
            if not isinstance(value, kind):
                raise ConfigError(f"{name} has type {type(value).__name__}: expected {kind.__name__}")
        if why := why_no_fit(recommender):
            raise ConfigError(why)
        text_embeddings.check(dataset)
        has_text = np.square(text_embeddings.items).sum(axis=1) > 0
        warm = np.flatnonzero((dataset.train.item_degrees() > 0) & has_text)
        warm = warm[warm < len(recommender.items)]  # those that were appended since have no embedding yet
        if len(warm) < MIN_ITEMS:
            raise DataError(
                f"{len(warm)} items have both a text vector and training interactions: at least {MIN_ITEMS} are needed"
            )
        if not recommender.items.shape[1]:
            raise DataError(
                "this run has item neighbours and no embeddings, so no text can be mapped to them"
            )
        sizes = text_embeddings.size, recommender.items.shape[1]
        if projector is not None and projector.sizes != sizes:
            raise DataError(
                f"the projector is of another size: it maps {projector.sizes[0]} numbers to {projector.sizes[1]}, the "
                f"texts have {sizes[0]} and the embeddings {sizes[1]}"
            )
        item_length, user_length = (
            float(np.median(np.linalg.norm(rows, axis=1)))
            for rows in (recommender.items[warm], recommender.users)
        )
        fitted: Map = projector or _fit_kernel(text_embeddings.items, recommender.items, warm, seed)
        user_map, shift, of_users = _place_users(fitted, recommender, text_embeddings, dataset, warm, seed)
        manifest = {
            "encoder": text_embeddings.manifest.get("encoder", "unknown"),
            "made_by": text_embeddings.manifest.get("made_by"),
            "text_size": text_embeddings.size,
            "method": {"name": fitted.name, "options": fitted.options},
            "users": of_users,
            "embeddings": digest(recommender.items),
            "seed": seed,
        }
        return cls(fitted, item_length, user_length, manifest, user_map, shift)

    @property
    def _arrays(self) -> Arrays:
        """All that is stored."""
        arrays = dict(self.map.arrays)
        if self.user_map is not None:
            arrays |= prefixed("users", self.user_map.arrays)
        if self.shift is not None:
            arrays["shift"] = self.shift
        return arrays

    def save(self, folder: Path | str) -> None:
        """Write one file into the recommender's folder, atomically."""
        header = {
            **self.manifest,
            "format": FORMAT,
            "item_length": self.item_length,
            "user_length": self.user_length,
        }
        header["checksum"] = _checksum(self._arrays, header)
        with atomic_file(Path(folder) / FILE) as temporary:
            write_tensors(temporary, self._arrays, {"manifest": json.dumps(header)})

    @classmethod
    def load(cls, folder: Path | str, recommender: Recommender | None = None) -> ColdStart:
        """Read the file that ``save`` wrote.

        Args:
            folder: the recommender's.
            recommender: the recommender that it must have been fitted to; None skips the check.

        Raises:
            WorkspaceError: the file is missing, damaged, of another version or fitted to other embeddings.
        """
        path = Path(folder) / FILE
        if not path.exists():
            raise WorkspaceError(f"no cold-start model at {path}: create it with 'rlmrec cold fit'")
        again = "create it again with 'rlmrec cold fit'"
        with damaged(path, again):
            arrays, metadata = read_tensors(path)
            header = expect(parse_json(metadata.get("manifest", "{}")), dict, "its manifest")
            if header.pop("checksum", None) != _checksum(arrays, header) or header.pop("format") not in (
                1,
                FORMAT,
            ):
                raise WorkspaceError(f"{path} is damaged or of another version: {again}")
            if recommender is not None and header["embeddings"] != digest(recommender.items):
                raise WorkspaceError(f"{path} was fitted to other embeddings: {again}")
            method = expect(header["method"], dict, "the method")
            if method["name"] not in MAPS:
                raise WorkspaceError(
                    f"{path} holds a {method['name']} map, which this version no longer has: {again}"
                )
            check_finite(arrays)
            fitted = MAPS[method["name"]](arrays, method["options"])
            of_users = nested("users", arrays)
            user_map = MAPS[KernelMap.name](of_users, method["options"]) if of_users else None
            lengths = [
                float(expect(header.pop(name), (int, float), name)) for name in ("item_length", "user_length")
            ]
            expect(header["encoder"], str, "the encoder")
            model = cls(fitted, lengths[0], lengths[1], header, user_map, arrays.get("shift"))
            # One text is mapped now, so that arrays that do not fit together are found at once.
            text = np.zeros((1, expect(model.size, int, "text_size")), np.float32)
            for tried in (model.items(text), model.users(text)):
                if not np.isfinite(lengths).all() or (
                    recommender is not None and tried.shape != (1, recommender.items.shape[1])
                ):
                    raise DataError(f"a text is mapped to shape {tried.shape}")
        return model


def why_no_fit(recommender: Recommender) -> str:
    """Say why a map from texts to embeddings would give a part of a closed form's scores alone; "" if it would not."""
    rule = None if recommender.parts is None else recommender.parts.rule
    if isinstance(rule, GraphRule) and rule.reads_texts:
        return (
            "a graph filter with texts needs no cold-start model: it places new users and items by "
            "Recommender.new_user and ClosedFormModel.add_items"
        )
    if isinstance(rule, GraphRule) and not recommender.is_inner_product:
        return (
            "the scores of this graph filter are embeddings and item neighbours, and texts can be mapped to embeddings "
            "alone: fit it with text embeddings, and it reads new texts by itself, or with neighbours=0"
        )
    if isinstance(rule, ConstantRule):
        return "popularity is the same for all users: no text can be mapped to it"
    return ""


def _fit_kernel(texts: Float32Array, embeddings: Float32Array, rows: IntArray, seed: int) -> KernelMap:
    """Fit a map from texts float32[n, d_s] to the directions of embeddings float32[n, d], on these rows."""
    rng = np.random.default_rng(seed)
    if len(rows) > MAX_ROWS:
        rows = np.sort(rng.choice(rows, MAX_ROWS, replace=False))
    return KernelMap.fit(texts[rows], unit_rows(embeddings[rows]), rng)


def _place_users(
    fitted: Map,
    recommender: Recommender,
    text_embeddings: TextEmbeddings,
    dataset: Dataset,
    warm: IntArray,
    seed: int,
) -> tuple[Map | None, Float32Array | None, dict[str, Any]]:
    """Return a map for users, or c ū, float32[d], to be added to that of items, and what the manifest says of it."""
    trained = dataset.train.user_degrees() > 0
    own = np.flatnonzero(own_user_texts(text_embeddings, dataset) & trained)
    if len(own) >= MIN_USERS and isinstance(fitted, KernelMap):
        return _fit_kernel(text_embeddings.users, recommender.users, own, seed), None, {"texts": len(own)}
    if not trained.any():
        return None, None, {"shift": 0.0}
    mean = unit_rows(recommender.users[trained]).mean(axis=0)
    best = _best_shift(fitted, recommender, text_embeddings, dataset, warm, mean, seed)
    return None, (best * mean).astype(np.float32), {"shift": best}


def _best_shift(
    fitted: Map,
    recommender: Recommender,
    text_embeddings: TextEmbeddings,
    dataset: Dataset,
    warm: IntArray,
    mean: Float32Array,
    seed: int,
) -> float:
    """Return the c by which the text of one training item of a user finds their others best; ``mean`` is ū, [d]."""
    rng = np.random.default_rng(seed)
    n_items = len(recommender.items)
    histories = sp.csr_array(dataset.train.csr()[:, :n_items])
    users = np.flatnonzero(np.diff(histories.indptr) > 1)
    users = rng.choice(users, min(SHIFT_USERS, len(users)), replace=False)
    asked = np.array([rng.choice(histories[[user]].indices) for user in users], np.int64)
    known = np.isin(asked, warm)
    users, asked = users[known], asked[known]
    if not len(users):
        return 0.0
    directions = unit_rows(fitted.apply(text_embeddings.items[asked]))
    recalls = np.zeros(len(SHIFTS))
    for start, stop in _blocks(len(users), n_items):
        block, rows = slice(start, stop), np.arange(stop - start)
        wanted = histories[users[block]].toarray() > 0
        wanted[rows, asked[block]] = False
        for place, shift in enumerate(SHIFTS):
            scores = unit_rows(directions[block] + np.float32(shift) * mean) @ recommender.items.T
            scores[rows, asked[block]] = -np.inf
            listed, _ = top_k(scores, min(20, n_items))
            recalls[place] += (np.take_along_axis(wanted, listed, axis=1).sum(1) / wanted.sum(1)).sum()
    return SHIFTS[int(np.argmax(recalls))]


def has_cold_start(folder: Path) -> bool:
    """Return whether a recommender's folder holds a cold-start model."""
    return (Path(folder) / FILE).exists()


def _kernel(cosines: Float32Array, width: float) -> Float32Array:
    raised: Float32Array = np.exp(np.float32(width) * (cosines - np.float32(1)))
    return raised


def _blocks(n_rows: int, n_columns: int) -> Iterator[tuple[int, int]]:
    """Split rows so that one block of a matrix with n_columns has at most BLOCK_SIZE numbers."""
    size = max(1, BLOCK_SIZE // n_columns)
    return ((start, min(start + size, n_rows)) for start in range(0, n_rows, size))


def _checksum(arrays: Arrays, header: dict[str, Any]) -> str:
    parts = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        parts.update(name.encode() + str(arrays[name].shape).encode() + arrays[name].tobytes())
    return parts.hexdigest()
