"""TeacherLists: the best items of each user by another recommender, which a backbone learns from."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from rlmrec import __version__, closed_form
from rlmrec.closed_form import RECOMMENDERS
from rlmrec.closed_form.base import Texts, chosen_options, fitted
from rlmrec.config import Config, make
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.evaluation.ranking import Scorer, check_scorer, seen_before
from rlmrec.files import atomic_file, locked
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.topk import MEMORY_BUDGET, check_whole, map_blocks, top_k
from rlmrec.trust import check_rows, damaged, expect, parse_json, read_tensors, write_tensors
from rlmrec.types import BoolArray, Float32Array, FloatArray, Int32Array

BISECTIONS = 60  # of log T: the interval of 80 shrinks below the precision of float64
KEPT = 2 << 30  # bytes of stored teachers, beyond which those that have been unused for longest are removed
logger = logging.getLogger("rlmrec.alignment")
_folder: ContextVar[Path | None] = ContextVar("teachers_folder", default=None)


@dataclass(frozen=True, eq=False)
class BestItems:
    """The M best items of each user by a recommender, and their scores.

    Args:
        items: int32[U, M], item rows, the best first; 0 in places without an item.
        scores: float32[U, M], in descending order; −∞ in places without an item.
        options: what the recommender was fitted with, those among them that it chose by validation.
    """

    items: Int32Array
    scores: Float32Array
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, scorer: Scorer, dataset: Dataset, length: int, teacher: str) -> BestItems:
        """Take each user's best items by a scorer, without training items; arguments as ``TeacherLists.of``.

        Raises:
            DataError: scores of another shape than (B, I).
        """
        trained = dataset.train.csr()
        length = min(length, dataset.n_items)

        def best(block: slice) -> tuple[Int32Array, Float32Array]:
            scores = np.ascontiguousarray(scorer.score(np.arange(block.start, block.stop)))
            if scores.shape != (block.stop - block.start, dataset.n_items):
                raise DataError(
                    f"{teacher} scores {scores.shape}, expected {(block.stop - block.start, dataset.n_items)}: "
                    "fit it on this dataset"
                )
            of_rows = trained.indptr[block.start : block.stop + 1]
            rows = np.repeat(np.arange(len(scores)), np.diff(of_rows))
            scores[rows, trained.indices[of_rows[0] : of_rows[-1]]] = -np.inf
            listed, best_scores = top_k(scores, length)
            return np.where(best_scores > -np.inf, listed, 0).astype(np.int32), best_scores

        threads = None if getattr(scorer, "is_thread_safe", False) else 1
        blocks = list(map_blocks(best, dataset.n_users, dataset.n_items, MEMORY_BUDGET, threads))
        items, scores = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        return cls(items, scores)

    def probabilities(self, spread: float) -> Float32Array:
        """Compute π, float32[U, M], of the perplexity that ``spread`` names (``spread_to_perplexity``)."""

        def spread_block(block: slice) -> Float32Array:
            return spread_to_perplexity(self.scores[block], spread).astype(np.float32)

        n_users, length = self.scores.shape
        # The bisection works on arrays of float64: blocks of an eighth of the usual size stay in the cache.
        return np.concatenate(list(map_blocks(spread_block, n_users, 8 * length)))

    def save(self, path: Path, fitted_for: str) -> None:
        """Write one safetensors file; atomic.

        Args:
            path: the file.
            fitted_for: everything that the fit depends on, as JSON.
        """
        with atomic_file(path) as temporary:
            write_tensors(
                temporary,
                {"items": self.items, "scores": self.scores},
                {"fitted_for": fitted_for, "options": json.dumps(self.options)},
            )

    @classmethod
    def load(cls, path: Path, fitted_for: str, n_items: int, shape: tuple[int, int]) -> Self:
        """Read what ``save`` wrote.

        Args:
            path: the file.
            fitted_for: as for ``save``.
            n_items: I.
            shape: (U, M).

        Raises:
            WorkspaceError: the file is damaged, or was fitted for something else.
        """
        with damaged(path, "the teacher is fitted again"):
            arrays, metadata = read_tensors(path)
            if metadata.get("fitted_for") != fitted_for:
                raise DataError("it was fitted for something else than its name says")
            items, scores = arrays["items"], arrays["scores"]
            for name, array, kind in (("items", items, np.int32), ("scores", scores, np.float32)):
                if array.dtype != kind or array.shape != shape:
                    raise DataError(
                        f"{name} are {array.dtype} of shape {array.shape}, expected {np.dtype(kind)} of shape {shape}"
                    )
            check_rows(items, n_items, "the items")
            if not ((scores < np.inf).all() and (scores[:, 1:] <= scores[:, :-1]).all()):
                raise DataError("its scores are not in descending order")
            return cls(items, scores, expect(parse_json(metadata["options"]), dict, "its options"))


@dataclass(frozen=True, eq=False)
class TeacherLists:
    """The M best items of each user by a teacher, with their probabilities π.

    π_u = softmax(scores_u / T_u) over the user's list. T_u is found by bisection so that the perplexity of π_u,
    exp(−Σ π log π), is a given share of the list's length: scores of any scale and any spread serve alike.

    Args:
        items: int32[U, M], item rows, the best first. Places without an item have probability 0.
        probabilities: float32[U, M], π; each row sums to 1, or to 0 for a user without a list.
        teacher: name of the teacher, for messages and records.
        dataset: fingerprint of the dataset that the teacher was fitted on.
        options: what the teacher was fitted with, those among them that it chose by validation.

    Raises:
        DataError: shapes that differ, probabilities that are negative or not finite.
    """

    items: Int32Array
    probabilities: Float32Array
    teacher: str
    dataset: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.items.shape != self.probabilities.shape or self.items.ndim != 2:
            raise DataError(
                f"items have shape {self.items.shape} and probabilities {self.probabilities.shape}: expected "
                "(U, M) for both"
            )
        if not (np.isfinite(self.probabilities).all() and (self.probabilities >= 0).all()):
            raise DataError("a teacher's probabilities must be finite and not negative")

    def __repr__(self) -> str:
        n_users, length = self.items.shape
        return f"TeacherLists({self.teacher}, {n_users:,} users, {length} items each)"

    @classmethod
    def of(
        cls, scorer: Scorer, dataset: Dataset, length: int = 100, spread: float = 0.4, teacher: str = "scores"
    ) -> TeacherLists:
        """Take each user's best items by a scorer; the user's training items are left out.

        Args:
            scorer: anything with ``score(users) -> float32[B, I]``: ``recommender.scorer()``, a ``ClosedFormModel``,
                a ``DotProduct``.
            dataset: the dataset that it was fitted on; its final dataset, or one made of it by appending, will do.
            length: M, length of a list; a catalogue may have fewer items.
            spread: perplexity of π as a share of the list's length, above 0 and at most 1.
            teacher: name of the teacher.

        Raises:
            ConfigError: a length or a spread that is none.
            DataError: scores of another shape than (B, I), or of a model that was fitted to another dataset or to what
                this one holds out.
        """
        check_scorer(scorer)
        Dataset.check(dataset)
        if told := seen_before(scorer, dataset):
            raise DataError(f"{told}; fit the teacher to this dataset")
        check_whole(length, "length")
        if not isinstance(spread, int | float | np.number) or not 0 < spread <= 1:
            raise ConfigError(f"spread must be a number above 0 and at most 1, got {spread!r}")
        best = BestItems.of(scorer, dataset, length, teacher)
        return cls(best.items, best.probabilities(spread), teacher, dataset.fingerprint)

    @cached_property
    def digest(self) -> str:
        """Hash of the lists: a run records which it was trained with."""
        return hashlib.sha256(self.items.tobytes() + self.probabilities.tobytes()).hexdigest()[:16]


@lru_cache(maxsize=2)  # for the seeds of an experiment
def fitted_lists(
    name: str,
    dataset: Dataset,
    text_embeddings: TextEmbeddings | None,
    length: int,
    spread: float,
    options: str = "{}",
) -> TeacherLists:
    """Fit a closed-form recommender and return its lists.

    It is fitted once in a process for all values of ``spread``, and once in all processes that share a folder
    (``teachers_kept_in``).

    Args:
        name: name of the recommender, such as "graph-filter", or the path of your own class.
        dataset: the teacher learns from its training split and chooses its options on validation.
        text_embeddings: text vectors; None for a teacher without text.
        length: M, length of a list.
        spread: perplexity of π as a share of the list's length.
        options: of the recommender, as JSON; those left open have their defaults or are chosen by validation.

    Raises:
        ConfigError: no closed-form recommender of this name, or an option that it does not have.
    """
    best = _fitted(name, dataset, text_embeddings, length, options)
    named = name if text_embeddings is None else f"{name} with text"
    return TeacherLists(
        best.items, best.probabilities(spread), named, dataset.fingerprint, options=best.options
    )


@contextmanager
def teachers_kept_in(folder: Path) -> Iterator[None]:
    """Keep the teachers that are fitted in this block in a folder, and take from it those that it has.

    Several processes may share the folder: one fits a teacher, the others wait for it. The folder may be deleted: it
    only saves time. Beyond 2 GiB the teachers that have been unused for longest are removed. Teachers that are the
    user's own classes are not kept, since their code may change.

    Args:
        folder: ``Workspace.teachers_path``; made when it is first needed.

    Example:
        >>> with teachers_kept_in(workspace.teachers_path):
        ...     alignment = Distilled.create(text_embeddings, backbone, dataset=dataset)
    """
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


@lru_cache(maxsize=2)  # a fit takes longer than an epoch, and lists of another spread need no other
def _fitted(
    name: str, dataset: Dataset, text_embeddings: TextEmbeddings | None, length: int, options: str
) -> BestItems:
    """Return the best items by a teacher: from the folder of the fitted teachers if it has them, else fitted."""
    kind = RECOMMENDERS.resolve(name)
    config = make(kind.Config, json.loads(options))

    def fit() -> BestItems:
        texts = None if text_embeddings is None else Texts.of(text_embeddings, dataset)
        model = fitted(kind, dataset, texts, config)
        best = BestItems.of(model, dataset, length, name)
        chosen = {**config.model_dump(exclude_none=True), **chosen_options(model.record, config)}
        return replace(best, options=chosen)

    folder = _folder.get()
    if folder is None or name not in RECOMMENDERS:
        return fit()
    shape = (dataset.n_users, min(length, dataset.n_items))
    fitted_for = _fitted_for(name, dataset, text_embeddings, shape[1], config)
    path = folder / f"{hashlib.sha256(fitted_for.encode()).hexdigest()[:16]}.safetensors"
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
            if path.exists():
                found = BestItems.load(path, fitted_for, dataset.n_items, shape)
                with suppress(
                    OSError
                ):  # another process has removed it, or it is another user's: it is good all the same
                    os.utime(path)  # it was used; unlike touch, this never makes an empty file
                return found
        except (OSError, WorkspaceError) as error:
            logger.warning("%s", error)
        best = fit()
        try:
            best.save(path, fitted_for)
            with locked(folder):  # or two processes would remove the same file
                _remove_unused(folder, path)
        except (OSError, WorkspaceError) as error:  # such as a full disk: what was fitted is still good
            logger.warning("the teacher is not kept: %s", error)
    return best


def _remove_unused(folder: Path, newest: Path) -> None:
    """Remove the stored teachers that have been unused for longest until at most ``KEPT`` bytes are left.

    A nightly job fits one for every day's dataset. The newest stays, whatever its size. A process that needs a removed
    one fits it again.
    """
    size = newest.stat().st_size
    others = {path: path.stat() for path in folder.glob("*.safetensors") if path != newest}
    for path, about in sorted(others.items(), key=lambda other: other[1].st_mtime_ns, reverse=True):
        size += about.st_size
        if size > KEPT:
            path.unlink(missing_ok=True)


@cache
def _sources() -> str:
    """Return a hash of the code of the closed forms, whose changes a stored teacher must not outlive."""
    found = hashlib.sha256()
    for path in sorted(Path(closed_form.__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _fitted_for(
    name: str, dataset: Dataset, text_embeddings: TextEmbeddings | None, length: int, config: Config
) -> str:
    """Return everything that the best items by a teacher depend on, as JSON."""
    # The dataset of a final run has the fingerprint of the one with held-out pairs, so the splits count too.
    parts = (dataset.train, dataset.valid, dataset.unranked)
    pairs = hashlib.sha256(
        b"|".join(b"" if part is None else np.sort(part.keys()).tobytes() for part in parts)
    )
    read = None if text_embeddings is None else text_embeddings.unwhitened or text_embeddings
    values = {
        "rlmrec": __version__,
        "code": _sources(),
        "teacher": name,
        "options": config.model_dump(mode="json"),
        "length": length,
        "dataset": dataset.fingerprint,
        "pairs": pairs.hexdigest()[:16],
        "texts": None if read is None else read.digest,
    }
    return json.dumps(values, sort_keys=True)


def spread_to_perplexity(scores: Float32Array, spread: float) -> FloatArray:
    """Return softmax(scores / T) of each row, with T such that the perplexity is ``spread`` times the row's length.

    The length counts finite scores alone; −∞ has probability 0. T is found by bisection, as t-SNE does.

    Args:
        scores: float32[n, M]; −∞ marks a place without an item.
        spread: above 0 and at most 1.

    Returns:
        float64[n, M]; a row sums to 1, or to 0 where all its scores are −∞.

    Source: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008.
    """
    finite = np.isfinite(scores)
    counts = finite.sum(1)
    best = np.where(finite, scores, -np.inf).max(1, initial=-np.inf)
    # Distances from the best, in units of the row's mean distance, so that one interval of T serves all scales.
    gaps = np.where(finite, best[:, None] - np.where(finite, scores, 0).astype(np.float64), 0)
    scale = gaps.sum(1) / np.maximum(counts, 1)
    gaps /= np.where(scale > 0, scale, 1)[:, None]
    wanted = np.log(np.maximum(1.0, spread * counts))
    low, high = np.full(len(scores), -40.0), np.full(len(scores), 40.0)  # log T
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        too_sharp = _entropy(_softmax(gaps, finite, middle)) < wanted
        low, high = np.where(too_sharp, middle, low), np.where(too_sharp, high, middle)
    return _softmax(gaps, finite, (low + high) / 2)


def _softmax(gaps: FloatArray, finite: BoolArray, log_temperature: FloatArray) -> FloatArray:
    powers: FloatArray = np.where(finite, np.exp(-gaps * np.exp(-log_temperature)[:, None]), 0)
    sums = powers.sum(1, keepdims=True)
    shares: FloatArray = powers / np.where(sums > 0, sums, 1)
    return shares


def _entropy(probabilities: FloatArray) -> FloatArray:
    positive = probabilities > 0
    logs = np.log(np.where(positive, probabilities, 1))
    entropy: FloatArray = -(probabilities * logs).sum(1)
    return entropy
