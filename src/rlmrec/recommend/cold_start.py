"""ColdStart: from a text vector into the space of the embeddings, for items and users that are new."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rlmrec.data.dataset import Dataset
from rlmrec.errors import DataError, WorkspaceError
from rlmrec.files import atomic_file
from rlmrec.recommend.index import digest
from rlmrec.recommend.recommender import Recommender
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.topk import top_k
from rlmrec.types import Float32Array, IntArray

FILE = "cold_start.safetensors"
FORMAT = 1
K = 20  # of the recall that methods are compared by
# Of the kernel. On yelp-profiles (11,268 items) 1,000 reach .127, 2,000 .135, 4,000 .139, all .143 Recall@20.
LANDMARKS = 4000
ROWS = 50_000  # items that a map is fitted on, at most
CELLS = 1 << 24  # numbers of a block of similarities: 64 MiB

Arrays = dict[str, Float32Array]


class Method(NamedTuple):
    """A way from text to embeddings, with its options."""

    name: str
    options: dict[str, float]


# The best of all on items that training had never seen (benchmarks/cold_start.py), so it is what ``fit`` takes.
DEFAULT = Method("kernel", {"width": 2.0, "penalty": 0.3})
# What ``fit`` chooses among when asked to. The projector cannot be among them: it was trained on the items
# that are hidden for the choice, and looks twice as good as it is (MovieLens-100K: .54 against .34).
METHODS = (
    *(Method("ridge", {"penalty": penalty}) for penalty in (0.1, 1.0)),
    DEFAULT,
    *(Method("kernel", {"width": 4.0, "penalty": penalty}) for penalty in (0.1, 0.3)),
    *(Method("knn", {"neighbours": 50, "temperature": t}) for t in (0.05, 0.1)),
)


class ColdStart:
    """Gives an item or a user without interactions an embedding from a text vector; nothing is retrained.

    The direction comes from a map fitted on the items that have training interactions, s_v → e_v/‖e_v‖, and
    the length is the median of theirs: a regression shrinks what it is unsure of, and a list ordered by
    e_u · e_v would then order cold items by how usual their text is.

    The maps, all of a text vector scaled to length 1:
        ridge: linear with intercept, squared penalty.
        kernel: Σ_l a_l exp(width (s · s_l − 1)) over landmark items, squared penalty (Nyström kernel ridge).
        knn: the mean over the nearest items, weighted by exp(cosine / temperature).
        projector: σ↓, which the contrastive alignment trained.

    Made by ``fit`` or ``load``.

    Args:
        method: which map.
        arrays: its numbers.
        item_length: of the vectors that ``items`` gives.
        user_length: of those that ``users`` gives.
        manifest: encoder, what was chosen among and how it did, the embeddings it belongs to; JSON.

    Source: the projector: Ren et al., WWW 2024, Eq. 16; the comparison: benchmarks/cold_start.py.

    Example:
        >>> cold = ColdStart.fit(recommender, semantics, dataset)
        >>> vector = cold.items(LocalEncoder().encode(["A heist in space, told as a comedy."]))
        >>> recommender.with_items(["new"], vector).recommend("u7")
    """

    def __init__(
        self,
        method: Method,
        arrays: Arrays,
        item_length: float,
        user_length: float,
        manifest: dict[str, Any],
    ) -> None:
        self.method = method
        self.arrays = arrays
        self.item_length, self.user_length = item_length, user_length
        self.manifest = manifest
        self.encoder: str = manifest["encoder"]
        self.size: int = manifest["text_size"]

    def items(self, texts: Float32Array) -> Float32Array:
        """Embeddings float32[n, d] of items with these text vectors, float32[n, d_s].

        Raises:
            DataError: vectors of another length, or not finite.
        """
        return self._map(texts) * np.float32(self.item_length)

    def users(self, texts: Float32Array) -> Float32Array:
        """Embeddings float32[n, d] of users who describe their taste in words, float32[n, d_s].

        A sentence about taste is read as the text of an item: who wants that item has its direction.

        Raises:
            DataError: vectors of another length, or not finite.
        """
        return self._map(texts) * np.float32(self.user_length)

    def _map(self, texts: Float32Array) -> Float32Array:
        texts = np.atleast_2d(np.asarray(texts, np.float32))
        if texts.shape[1] != self.size or not np.isfinite(texts).all():
            raise DataError(
                f"expected finite text vectors of {self.size} numbers, as {self.encoder} makes them, "
                f"got shape {texts.shape}"
            )
        return directions(apply(self.method, self.arrays, texts))

    @classmethod
    def fit(
        cls,
        recommender: Recommender,
        text_embeddings: TextEmbeddings,
        dataset: Dataset,
        projector: Arrays | None = None,
        method: Method | None = DEFAULT,
        seed: int = 0,
    ) -> ColdStart:
        """Fit a map on all items that have text and training interactions.

        With ``method=None`` each of METHODS is first fitted without a fifth of the items, and the one that
        ranks these best is taken: Recall@20 of the hidden items among themselves, for the users who have
        them in the validation split (in training, where there is no validation). Their interactions shaped
        the users' embeddings, so this is no honest test, and on yelp-profiles it prefers another method
        than items that training had never seen do (benchmarks/cold_start.py).

        Args:
            recommender: final embeddings.
            semantics: text vectors of the same items.
            dataset: what they were made of.
            projector: weights of σ↓ (``projector_weights``); given, they are the map and nothing is fitted.
            method: which map; None chooses.
            seed: of what is hidden and of the landmarks.

        Raises:
            DataError: fewer than 10 items have both text and interactions, or the projector is of another
                size.
        """
        text_embeddings.check(dataset)
        rng = np.random.default_rng(seed)
        has_text = np.square(text_embeddings.items).sum(axis=1) > 0
        warm = np.flatnonzero((dataset.train.item_degrees() > 0) & has_text)
        if len(warm) < 10:
            raise DataError(
                f"{len(warm)} items have both a text vector and training interactions: at least 10 are needed"
            )
        hidden = np.sort(rng.choice(warm, len(warm) // 5, replace=False))
        shown = np.setdiff1d(warm, hidden)
        targets = directions(recommender.items)
        results: list[dict[str, Any]] = []
        if projector is not None:
            method = Method("projector", {})
            sizes = projector["0.weight"].shape[1], projector["2.weight"].shape[0]
            if sizes != (text_embeddings.size, targets.shape[1]):
                raise DataError(
                    f"the projector is of another size: it maps {sizes[0]} numbers to {sizes[1]}, the texts have "
                    f"{text_embeddings.size} and the embeddings {targets.shape[1]}"
                )
        for tried in METHODS if method is None else ():
            arrays = _fit(tried, text_embeddings.items, targets, shown, None, np.random.default_rng(seed))
            vectors = directions(apply(tried, arrays, text_embeddings.items[hidden]))
            reached = _recall(recommender.users, vectors, hidden, dataset)
            results.append({**tried._asdict(), f"recall@{K}": round(reached, 5)})
        best = method or METHODS[int(np.argmax([result[f"recall@{K}"] for result in results]))]
        item_length, user_length = (
            float(np.median(np.linalg.norm(rows, axis=1)))
            for rows in (recommender.items[warm], recommender.users)
        )
        manifest = {
            "encoder": text_embeddings.manifest.get("encoder", "unknown"),
            "made_by": text_embeddings.manifest.get("made_by"),
            "text_size": text_embeddings.size,
            "method": best._asdict(),
            "validation": results,
            "hidden_items": len(hidden),
            "embeddings": digest(recommender.items),
            "seed": seed,
        }
        arrays = _fit(best, text_embeddings.items, targets, warm, projector, np.random.default_rng(seed))
        return cls(best, arrays, item_length, user_length, manifest)

    def save(self, folder: Path) -> None:
        """Write one file into the recommender's folder; atomic."""
        header = {
            **self.manifest,
            "format": FORMAT,
            "item_length": self.item_length,
            "user_length": self.user_length,
        }
        header["checksum"] = _checksum(self.arrays, header)
        with atomic_file(Path(folder) / FILE) as temporary:
            save_file(self.arrays, temporary, {"manifest": json.dumps(header)})

    @classmethod
    def load(cls, folder: Path, recommender: Recommender | None = None) -> ColdStart:
        """Read what ``save`` wrote.

        Args:
            folder: the recommender's.
            recommender: checked to be the one that it was fitted to.

        Raises:
            WorkspaceError: absent, damaged, or of other embeddings.
        """
        path = Path(folder) / FILE
        if not path.exists():
            raise WorkspaceError(f"no cold start at {path}: make it with 'rlmrec cold fit'")
        again = "make it again with 'rlmrec cold fit'"
        try:
            with safe_open(path, "numpy") as file:
                header = json.loads((file.metadata() or {}).get("manifest", "{}"))
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, json.JSONDecodeError, OSError) as error:
            raise WorkspaceError(f"{path} is damaged: {error}; {again}") from None
        if header.pop("checksum", None) != _checksum(arrays, header) or header.pop("format") != FORMAT:
            raise WorkspaceError(f"{path} is damaged or of another version: {again}")
        if recommender is not None and header["embeddings"] != digest(recommender.items):
            raise WorkspaceError(f"{path} was fitted to other embeddings: {again}")
        item_length, user_length = header.pop("item_length"), header.pop("user_length")
        return cls(Method(**header["method"]), arrays, item_length, user_length, header)


def projector_weights(run: Path) -> Arrays | None:
    """The weights of a run's projector, None if it has none: σ↓ of a contrastive run, σ↑ of a generative one."""
    path = Path(run) / "model.safetensors"
    prefix = "alignment.projector."
    if not path.exists():
        return None
    with safe_open(path, "numpy") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        weights = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    return weights or None


def directions(rows: Float32Array) -> Float32Array:
    """Rows of length 1; a zero row stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Float32Array = (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return scaled


def apply(method: Method, arrays: Arrays, texts: Float32Array) -> Float32Array:
    """Where a fitted method maps text vectors, float32[n, d_s] → float32[n, d]; lengths mean nothing yet."""
    if method.name == "projector":  # trained on the vectors as they are
        inner: Float32Array = texts @ arrays["0.weight"].T + arrays["0.bias"]
        inner = np.maximum(inner, np.float32(0.01) * inner)  # LeakyReLU
        outer: Float32Array = inner @ arrays["2.weight"].T + arrays["2.bias"]
        return outer
    unit = directions(texts)
    if method.name == "ridge":
        linear: Float32Array = unit @ arrays["weights"] + arrays["intercept"]
        return linear
    table = arrays["landmarks"]
    return np.concatenate(
        [
            _near(method, unit[start:stop] @ table.T, arrays["values"])
            for start, stop in _blocks(len(unit), max(1, CELLS // len(table)))
        ]
    )


def _near(method: Method, cosines: Float32Array, values: Float32Array) -> Float32Array:
    if method.name == "kernel":
        weighted: Float32Array = _kernel(cosines, method.options["width"]) @ values
        return weighted
    rows, best = top_k(cosines, int(method.options["neighbours"]))
    weights = np.exp((best - best[:, :1]) / np.float32(method.options["temperature"]))
    mean: Float32Array = np.einsum("bn,bnd->bd", weights / weights.sum(axis=1, keepdims=True), values[rows])
    return mean


def _kernel(cosines: Float32Array, width: float) -> Float32Array:
    raised: Float32Array = np.exp(np.float32(width) * (cosines - np.float32(1)))
    return raised


def _fit(
    method: Method,
    texts: Float32Array,
    targets: Float32Array,
    rows: IntArray,
    projector: Arrays | None,
    rng: np.random.Generator,
) -> Arrays:
    """The numbers of a method, fitted on ``rows`` of texts and targets."""
    if method.name == "projector":
        assert projector is not None  # or it would not be among the methods
        return projector
    if len(rows) > ROWS:
        rows = np.sort(rng.choice(rows, ROWS, replace=False))
    unit, wanted = directions(texts[rows]), targets[rows]
    if method.name == "knn":
        return {"landmarks": unit, "values": wanted}
    penalty = method.options["penalty"]
    if method.name == "ridge":
        middle, mean = unit.mean(axis=0), wanted.mean(axis=0)
        centred = (unit - middle).astype(np.float64)
        squares = centred.T @ centred + penalty * np.eye(unit.shape[1])
        weights = scipy.linalg.solve(squares, centred.T @ (wanted - mean), assume_a="pos").astype(np.float32)
        return {"weights": weights, "intercept": (mean - middle @ weights).astype(np.float32)}
    marks = np.sort(rng.choice(len(unit), min(LANDMARKS, len(unit)), replace=False))
    landmarks = unit[marks]
    width = method.options["width"]
    gram = np.zeros((len(marks), len(marks)))
    moments = np.zeros((len(marks), wanted.shape[1]))
    for start, stop in _blocks(len(unit), max(1, CELLS // len(marks))):
        # In float32 the sums of many like texts are no longer positive definite.
        features = _kernel(unit[start:stop] @ landmarks.T, width).astype(np.float64)
        gram += features.T @ features
        moments += features.T @ wanted[start:stop]
    gram += penalty * _kernel(landmarks @ landmarks.T, width).astype(np.float64)
    # Equal texts make equal landmarks: a trace of ridge keeps the system solvable.
    gram[np.diag_indices_from(gram)] += 1e-6 * np.trace(gram) / len(marks)
    values = scipy.linalg.solve(gram, moments, assume_a="pos").astype(np.float32)
    return {"landmarks": landmarks, "values": values}


def _recall(users: Float32Array, vectors: Float32Array, hidden: IntArray, dataset: Dataset) -> float:
    """Mean Recall@K of the hidden items, ranked among themselves, over the users who have any of them."""
    split = dataset.valid if np.isin(dataset.valid.items, hidden).any() else dataset.train
    wanted = split.csr()[:, hidden].tocsr()
    asked = np.flatnonzero(np.diff(wanted.indptr))
    k = min(K, max(1, len(hidden) // 10))
    total = 0.0
    for start, stop in _blocks(len(asked), max(1, CELLS // len(hidden))):
        rows = asked[start:stop]
        found, _ = top_k(users[rows] @ vectors.T, k)
        relevant = wanted[rows].toarray()
        hits = np.take_along_axis(relevant, found, 1).sum(axis=1)
        total += float((hits / relevant.sum(axis=1)).sum())
    return total / len(asked)


def _blocks(n: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + size, n)) for start in range(0, n, size))


def _checksum(arrays: Arrays, header: dict[str, Any]) -> str:
    parts = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        parts.update(name.encode() + str(arrays[name].shape).encode() + arrays[name].tobytes())
    return parts.hexdigest()
