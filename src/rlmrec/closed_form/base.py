"""The contract of the closed-form recommenders: what they are fitted on, and what fitting gives.

A recommender is a class derived from ``ClosedForm``; ``fit`` gives a ``ClosedFormModel``: plain arrays that score,
and a ``FoldIn`` rule by which a user's share of these arrays follows from a history and a text.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import getattr_static, isfunction, signature
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from pydantic import Field

from rlmrec.config import Config, NoOptions
from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import index_type
from rlmrec.errors import ConfigError, DataError
from rlmrec.findings import by_number
from rlmrec.linalg import unit_rows
from rlmrec.registry import Labelled
from rlmrec.text.embeddings import TextEmbeddings, mean_over_training
from rlmrec.types import AnyArray, BoolArray, Float32Array, IntArray

State = dict[str, AnyArray]
SAME = 2e-3  # largest distance of two vectors of length 1 that are equal, but for being stored as float16


class TextVectors(Protocol):
    """Text vectors of all users and items; any object with these four attributes will do.

    ``users`` float32[U, d_s] or None, ``items`` float32[I, d_s], ``has_user`` bool[U] and ``has_item`` bool[I]:
    which of them have a text of their own. Rows without one are ignored.
    """

    @property
    def users(self) -> Float32Array | None:
        """float32[U, d_s], or None where users have no text of their own."""
        ...

    @property
    def items(self) -> Float32Array:
        """float32[I, d_s]."""
        ...

    @property
    def has_user(self) -> BoolArray | None:
        """bool[U]; None means all."""
        ...

    @property
    def has_item(self) -> BoolArray | None:
        """bool[I]; None means all."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Texts:
    """The text vectors of users and items as plain arrays.

    Args:
        items: float32[I, d_s].
        users: float32[U, d_s]; None where users have no text of their own.
        has_item: bool[I]; None means all.
        has_user: bool[U]; None means all.
    """

    items: Float32Array
    users: Float32Array | None = None
    has_item: BoolArray | None = None
    has_user: BoolArray | None = None

    def __repr__(self) -> str:
        counts = []
        for kind, vectors, mask in (
            ("items", self.items, self.has_item),
            ("users", self.users, self.has_user),
        ):
            n = 0 if vectors is None else len(vectors) if mask is None else int(np.sum(mask))
            counts.append(f"{n:,} {kind} with a text")
        return f"Texts({', '.join(counts)}, {np.shape(self.items)[-1]} dimensions)"

    @classmethod
    def of(cls, text_embeddings: TextEmbeddings, dataset: Dataset) -> Self:
        """Take the vectors of a workspace, before whitening, as a closed form whitens by itself.

        A user's mean over training items is no text of the user's own.

        Args:
            text_embeddings: of the users and items of the dataset.
            dataset: its training split gives the means. ``Dataset.final`` is accepted with the text embeddings of the
                dataset that it was made of.

        Raises:
            ConfigError: these are no text embeddings, or it is no dataset.
            DataError: they were made for another dataset, such as another split of the same interactions.
        """
        Dataset.check(dataset)
        if not isinstance(text_embeddings, TextEmbeddings):
            raise ConfigError(
                f"text_embeddings has type {type(text_embeddings).__name__}: expected TextEmbeddings, such as "
                "encode_dataset makes; plain arrays go into Texts(items, users)"
            )
        text_embeddings = text_embeddings.check(dataset)
        text_embeddings = text_embeddings.unwhitened or text_embeddings
        own = own_user_texts(text_embeddings, dataset)
        if not own.any():
            return cls(text_embeddings.items, None, text_embeddings.has_item, None)
        return cls(text_embeddings.items, text_embeddings.users, text_embeddings.has_item, own)


def own_user_texts(text_embeddings: TextEmbeddings, dataset: Dataset) -> BoolArray:
    """Return which users have a text of their own, bool[U]; the others' vectors are means over training items.

    The text embeddings record it where all vectors are of one kind. Otherwise a mean is recognised by its direction,
    whatever its length, and also when it was stored as float16.

    Args:
        text_embeddings: of the dataset.
        dataset: whose training split gives the means; of ``Dataset.final`` also that of the dataset before.
    """
    text_embeddings = text_embeddings.unwhitened or text_embeddings  # a whitened mean is no mean
    has_own = text_embeddings.has_user.copy()
    if (by_mean := text_embeddings.users_are_means) is not None:
        return np.zeros_like(has_own) if by_mean else has_own
    users = unit_rows(text_embeddings.users)
    splits = [dataset.train]
    if dataset.n_before_final is not None:
        splits.append(dataset.split_of_means)
    for train in splits:
        means = mean_over_training(text_embeddings.items, train, text_embeddings.has_item)
        has_own &= np.linalg.norm(users - unit_rows(means), axis=1) > SAME
    return has_own


def check_texts(texts: TextVectors | None, dataset: Dataset, are_used: bool = True) -> TextVectors | None:
    """Check what ``fit`` was given: a dataset, and text vectors of all its users and items.

    Args:
        texts: text vectors, or ``TextEmbeddings``, whose vectors ``Texts.of`` takes; None without any.
        dataset: the dataset.
        are_used: whether the recommender reads texts; if not, text embeddings are only compared with the dataset, which
            computes no means.

    Raises:
        ConfigError: it is no dataset, or these are no text vectors.
        DataError: they are no arrays, there is not one row for each user and item, or they were made for another
            dataset.
    """
    Dataset.check(dataset)
    if texts is None:
        return None
    if isinstance(texts, TextEmbeddings):
        if are_used:
            return Texts.of(texts, dataset)
        texts.check(dataset)
        return None
    if not all(hasattr(texts, name) for name in ("users", "items", "has_user", "has_item")):
        raise ConfigError(
            f"texts has type {type(texts).__name__}: expected Texts.of(text_embeddings, dataset), or "
            "Texts(items, users) with a row for each item and user"
        )
    for what, array in (
        ("the text vectors of items are", texts.items),
        ("the text vectors of users are", texts.users),
        ("has_item is", texts.has_item),
        ("has_user is", texts.has_user),
    ):
        if array is not None and not isinstance(array, np.ndarray):
            raise DataError(f"{what} a {type(array).__name__}: expected an array of NumPy")
    size = np.shape(texts.items)[-1:]
    for kind, vectors, mask, n in (
        ("items", texts.items, texts.has_item, dataset.n_items),
        ("users", texts.users, texts.has_user, dataset.n_users),
    ):
        if vectors is not None and np.shape(vectors) != (n, *size):
            expected = f"({n}, {size[0] if size and kind == 'users' else 'd_s'})"
            raise DataError(
                f"the text vectors of {kind} have shape {np.shape(vectors)}, expected {expected}: one row for each of "
                f"the dataset's {kind}"
            )
        if vectors is not None and mask is not None and np.shape(mask) != (n,):
            raise DataError(
                f"has_{kind[:-1]} has shape {np.shape(mask)}, expected ({n},), one for each vector"
            )
    return texts


class UserParts(NamedTuple):
    """What B users bring to their scores: vectors · items + history · neighbours + direct.

    Args:
        vectors: float32[B, d].
        history: sparse B x I, weights of history items; None where the model has no item-item part.
        direct: sparse B x I, scores by item; None where there are none.
    """

    vectors: Float32Array
    history: sp.csr_array | None = None
    direct: sp.csr_array | None = None

    def __repr__(self) -> str:
        more = [name for name in ("history", "direct") if getattr(self, name) is not None]
        n_users, size = self.vectors.shape
        users = by_number(n_users, "user", "users")
        return f"UserParts({', '.join([f'{n_users:,} {users}', f'vectors of {size} numbers', *more])})"


class Explanation(NamedTuple):
    """A score taken apart: ``contributions.sum() + text + neighbours + constant`` is the score.

    Args:
        items: int64[n], the history.
        contributions: float32[n], the share of each history item.
        text: share of the user's own text.
        neighbours: share of the users whose text is similar.
        constant: what does not depend on which items the history has, such as an item's popularity.
        score: the score.
    """

    items: IntArray
    contributions: Float32Array
    text: float
    neighbours: float
    constant: float
    score: float


class FoldIn(ABC):
    """How users' parts of a model follow from histories and texts. Known and new users go through the same code.

    A subclass implements ``parts``, ``split``, ``state`` and ``from_state``. One that reads texts overrides
    ``reads_texts`` and ``new_items`` too. ``HistoryRule`` and ``ConstantRule`` serve many models.

    Raises:
        ConfigError: the subclass leaves one of these methods out.
    """

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        del arguments, options
        _expect_all_methods(cls)
        return super().__new__(cls)

    @abstractmethod
    def parts(
        self, histories: sp.csr_array, texts: Float32Array | None = None, own: IntArray | None = None
    ) -> UserParts:
        """The parts of B users.

        Args:
            histories: sparse B x I, the weight of each history item (1 for a plain interaction).
            texts: float32[B, d_s], the users' own text vectors, a row of zeros for none; or None.
            own: int64[B], rows of known users, who are not their own neighbours; −1 or None for new ones.
        """

    @abstractmethod
    def split(self, items: IntArray, weights: Float32Array, text: Float32Array | None) -> Float32Array:
        """float32[n + 1, d]: the share of each history item, and of the own text, in one user's vector.

        The rows sum to ``parts(…).vectors`` less what every user gets.
        """

    @property
    def reads_texts(self) -> bool:
        """Whether new users and items can be given by a text alone."""
        return False

    @property
    def cosine_columns(self) -> slice:
        """The columns of e_u and e_i that cosines compare: all but those that say nothing about taste."""
        return slice(None)

    def new_items(self, texts: Float32Array) -> Float32Array:
        """float32[n, d]: item embeddings from texts float32[n, d_s].

        Raises:
            DataError: the model reads no item texts.
        """
        raise DataError(
            f"this model reads no item texts, so it cannot place {len(texts)} new items by theirs: "
            "train graph-filter with text vectors"
        )

    @abstractmethod
    def state(self) -> State:
        """The arrays that ``from_state`` restores the rule from."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: State) -> Self:
        """Restore what ``state`` returned."""


def chosen_options(record: Mapping[str, Any], options: Config) -> dict[str, Any]:
    """Return the options that were left open and what a fit chose for them, from the record of the fit."""
    left_open = open_options(options)
    return {name: value for name, value in record.get("chosen", {}).items() if name in left_open}


def open_options(options: Config) -> list[str]:
    """Return the names of the options that are None, so that a fit chooses them."""
    return [name for name in type(options).model_fields if getattr(options, name) is None]


def notes_without_validation(options: Config) -> list[str]:
    """Return the notes of a fit that has no validation split to choose options on."""
    return ["no validation split: options left open have their defaults"] if open_options(options) else []


@dataclass(frozen=True, eq=False, repr=False)
class ClosedFormModel:
    """A fitted closed-form recommender: score(u, ·) = e_u · e_i + history_u · neighbours + direct_u.

    Args:
        users: float32[U, d], e_u; d is 0 where the item-item part is everything.
        items: float32[I, d], e_i.
        rule: how users' parts follow from histories and texts.
        history: sparse U x I, weights of each user's history in the item-item part; None without one.
        neighbours: sparse I x I, the item-item part, neighbours of each item in its column; None without one.
        direct: sparse U x I, scores that users of similar text hand over; None without one.
        record: the recommender's name, the options chosen, what validation said, notes; JSON.
        fingerprint: of the dataset that it was fitted to; None where it is unknown, as of a model read from a file.
        is_final: whether that was a final dataset, which has everything in training.

    Raises:
        DataError: shapes that do not fit together.
    """

    users: Float32Array
    items: Float32Array
    rule: FoldIn
    history: sp.csr_array | None = None
    neighbours: sp.csr_array | None = None
    direct: sp.csr_array | None = None
    record: dict[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None
    is_final: bool = False

    def __post_init__(self) -> None:
        n_users, n_items = len(self.users), len(self.items)
        if self.users.shape[1] != self.items.shape[1]:
            raise DataError(f"users have {self.users.shape[1]} dimensions, items {self.items.shape[1]}")
        if (self.history is None) != (self.neighbours is None):
            raise DataError("history weights and item neighbours go together: got only one of them")
        expected = {
            "history": (n_users, n_items),
            "neighbours": (n_items, n_items),
            "direct": (n_users, n_items),
        }
        for name, shape in expected.items():
            matrix = getattr(self, name)
            if matrix is not None and matrix.shape != shape:
                raise DataError(f"{name} has shape {matrix.shape}, expected {shape}")

    def __repr__(self) -> str:
        chosen = "".join(f", {name}={value}" for name, value in self.record.get("chosen", {}).items())
        return (
            f"ClosedFormModel({self.record.get('recommender', type(self.rule).__name__)}, {len(self.users):,} users, "
            f"{len(self.items):,} items, embedding size {self.users.shape[1]}{chosen})"
        )

    @property
    def is_inner_product(self) -> bool:
        """Whether ``users`` and ``items`` alone give the scores, so that any index over vectors will do."""
        return self.neighbours is None and self.direct is None

    def score(self, users: IntArray) -> Float32Array:
        """float32[B, I]: the scores of user rows int64[B], a fresh array."""
        history = None if self.history is None else self.history[users]
        direct = None if self.direct is None else self.direct[users]
        return self.score_parts(UserParts(self.users[users], history, direct))

    def score_parts(self, parts: UserParts) -> Float32Array:
        """float32[B, I]: the scores of users who need not be in the catalogue, from ``fold_in``."""
        scores: Float32Array = parts.vectors @ self.items.T
        if parts.history is not None and self.neighbours is not None:
            scores += (parts.history @ self.neighbours).toarray()
        if parts.direct is not None:
            scores += parts.direct.toarray()
        return scores

    def fold_in(
        self,
        items: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        text: Float32Array | None = None,
        own: int = -1,
    ) -> UserParts:
        """Compute the parts of one user from a history and a text, exactly as ``fit`` does.

        Args:
            items: n distinct item rows; none at all for a user who is known by text alone.
            weights: n weights, at least 0; 1 each by default.
            text: float32[d_s], the user's own text vector; None without one.
            own: the user's row if the catalogue has it, so that it is not its own neighbour.

        Returns:
            parts of one row, for ``score_parts``.

        Raises:
            DataError: a row outside the catalogue or one twice, weights of another length or below 0, or a text
                of another dimension.
        """
        rows, amounts = self._history(items, weights)
        histories = sp.csr_array((amounts, rows, [0, len(rows)]), shape=(1, len(self.items)))
        texts = None if text is None else _one_text(text)
        return self.rule.parts(histories, texts, np.array([own]))

    def explain(
        self,
        item: int,
        items: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        text: Float32Array | None = None,
        own: int = -1,
    ) -> Explanation:
        """Take the score of ``item`` apart by the items of a history.

        Args:
            item: the row of the item whose score is explained.
            items, weights, text, own: as in ``fold_in``.

        Raises:
            DataError: as ``fold_in``.
        """
        rows, amounts = self._history(items, weights)
        parts = self.fold_in(rows, amounts, text, own)
        shares = self.rule.split(rows, amounts, None if text is None else _one_text(text)[0])
        vector = self.items[item]
        contributions = shares[:-1] @ vector
        if parts.history is not None and self.neighbours is not None:
            column = self.neighbours[:, [item]].toarray().ravel()
            contributions = contributions + parts.history.toarray().ravel()[rows] * column[rows]
        direct = 0.0 if parts.direct is None else float(parts.direct.toarray()[0, item])
        constant = float((parts.vectors[0] - shares.sum(axis=0)) @ vector)
        own_text = float(shares[-1] @ vector)
        score = float(contributions.sum()) + own_text + direct + constant
        return Explanation(rows, contributions, own_text, direct, constant, score)

    def add_items(self, texts: Float32Array) -> Float32Array:
        """float32[n, d]: embeddings of new items from their text vectors float32[n, d_s], to rank beside ``items``.

        Raises:
            DataError: the model reads no item texts, or the vectors have another dimension.
        """
        return self.rule.new_items(np.atleast_2d(np.asarray(texts, np.float32)))

    def state(self) -> State:
        """Everything but ``record`` as named arrays, for safetensors; ``from_state`` restores the model."""
        arrays: State = {"users": self.users, "items": self.items}
        for name in ("history", "neighbours", "direct"):
            matrix = getattr(self, name)
            if matrix is not None:
                arrays |= sparse_state(name, matrix)
        return arrays | {f"rule.{name}": array for name, array in self.rule.state().items()}

    def _history(self, items: npt.ArrayLike, weights: npt.ArrayLike | None) -> tuple[IntArray, Float32Array]:
        rows = np.asarray(items, np.int64).reshape(-1)
        amounts = np.ones(len(rows)) if weights is None else np.asarray(weights).reshape(-1)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self.items):
            raise DataError(f"item rows span {rows.min()}..{rows.max()}, expected 0..{len(self.items) - 1}")
        if len(np.unique(rows)) != len(rows):
            raise DataError("an item stands in the history more than once: give it once, with a weight")
        if len(amounts) != len(rows) or not (np.isfinite(amounts) & (amounts >= 0)).all():
            raise DataError(f"expected {len(rows)} weights of at least 0, one for each item of the history")
        return rows, amounts.astype(np.float32)


class ExponentsConfig(Config):
    """The exponents of R̃ = D_u^−a R D_i^−b; None lets validation choose."""

    user_exponent: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="a of R̃ = D_u^−a R D_i^−b: how much less each item of a long history counts",
    )
    item_exponent: float | None = Field(
        default=None, ge=0, le=1, description="b of R̃ = D_u^−a R D_i^−b: how much less popular items count"
    )


class ClosedForm(Labelled, ABC):
    """A recommender that is computed instead of trained.

    A subclass implements ``fit`` and ``rule``; one that reads texts overrides ``reads_text``, and ``uses_text`` if its
    options decide. ``rlmrec.testing.check_closed_form`` checks it.

    Attributes:
        NAME: name in the registry, of a built-in class.
        label: name for tables and figures; the name of the class by default.
        Config: class of the options; a subclass that has options defines its own.
        needs_text: whether ``fit`` needs text vectors.
        reads_text: whether ``fit`` reads text vectors, if there are any.
        has_shards: whether ``fit`` takes ``shards``: several processes that fit together.
        enhancement: as in ``Backbone``: what tables add to the label.
    """

    NAME: ClassVar[str]
    needs_text: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False
    has_shards: ClassVar[bool] = False
    enhancement: ClassVar[str] = ""
    Config: ClassVar[type[Config]] = NoOptions

    @classmethod
    def uses_text(cls, config: Any) -> bool:
        """Return whether the result depends on text vectors, if there are any, with these options."""
        del config
        return cls.reads_text

    @classmethod
    @abstractmethod
    def fit(
        cls, dataset: Dataset, texts: TextVectors | None = None, config: Any = None, seed: int = 0
    ) -> ClosedFormModel:
        """Fit to the training split; the validation split chooses the options that ``config`` leaves open.

        Args:
            dataset: the test split is never looked at.
            texts: text vectors, ``Texts.of(text_embeddings, dataset)``; None without any. ``TextEmbeddings`` are taken
                in the same way. ``check_texts`` checks them.
            config: an instance of the class's ``Config`` or a mapping of its options; None for its defaults.
            seed: of everything random.

        Returns:
            the model, with the dataset's ``fingerprint`` and ``is_final``, and a ``record`` that has at least
            "recommender" (``NAME``, or the name of the class), "chosen" (the options it was fitted with, as a
            mapping) and "notes" (a list of sentences).
        """

    @classmethod
    @abstractmethod
    def rule(cls, state: State) -> FoldIn:
        """The fold-in rule of a fitted model, from what its ``state`` returned, as in ``FoldIn.from_state``."""


def fitted(
    kind: type[ClosedForm],
    dataset: Dataset,
    texts: TextVectors | None = None,
    config: Any = None,
    seed: int = 0,
    **more: Any,
) -> ClosedFormModel:
    """Fit a closed form that may be a user's own class; the arguments are those of ``ClosedForm.fit``.

    Raises:
        ConfigError: the class leaves a method out, its ``fit`` or ``rule`` is no class method, or ``fit`` takes other
            arguments or returns something else.
    """
    _expect_all_methods(kind)
    name = kind.__name__
    for method in ("fit", "rule"):
        plain = getattr_static(kind, method)
        if isfunction(plain) and next(iter(signature(plain).parameters), "") in ("self", "cls"):
            raise ConfigError(f"{name}.{method} is no class method: put @classmethod before it")
    try:
        signature(kind.fit).bind(dataset, texts, config, seed, **more)
    except TypeError as error:
        arguments = ", ".join(["dataset", "texts", "config", "seed", *more])
        shards = ": take shards, or set has_shards = False" if "shards" in more else ""
        raise ConfigError(f"{name}.fit does not take ({arguments}): {error}{shards}") from None
    model: object = kind.fit(dataset, texts, config, seed, **more)
    if not isinstance(model, ClosedFormModel):
        raise ConfigError(
            f"{name}.fit gave an object of type {type(model).__name__}: expected a "
            "rlmrec.closed_form.ClosedFormModel"
        )
    if missing := [key for key in ("recommender", "chosen", "notes") if key not in model.record]:
        raise ConfigError(f"{name}.fit: the record has no {', '.join(missing)}")
    for key, value in [*model.record["chosen"].items(), *model.record.items()]:
        try:
            json.dumps(value, default=float)
        except (TypeError, ValueError):
            raise ConfigError(
                f"{name}.fit: {key} of the record is of type {type(value).__name__}, expected what JSON can hold: "
                "numbers, texts, lists, mappings"
            ) from None
    return model


def _expect_all_methods(kind: type) -> None:
    if missing := sorted(getattr(kind, "__abstractmethods__", ())):
        raise ConfigError(
            f"{kind.__name__} does not implement {', '.join(missing)}: a subclass of rlmrec.closed_form."
            f"{'FoldIn' if issubclass(kind, FoldIn) else 'ClosedForm'} must"
        )


def constant_vectors(value: Float32Array, n: int) -> Float32Array:
    """float32[n, d]: ``value`` in every row."""
    return np.ascontiguousarray(np.broadcast_to(value, (n, len(value))), np.float32)


def sparse_state(name: str, matrix: sp.csr_array) -> State:
    """The arrays of a sparse matrix under names that begin with ``name``."""
    narrow = index_type(matrix.nnz, *matrix.shape)
    return {
        f"{name}.data": matrix.data,
        f"{name}.indices": matrix.indices.astype(narrow, copy=False),
        f"{name}.indptr": matrix.indptr.astype(narrow, copy=False),
        f"{name}.shape": np.array(matrix.shape, np.int64),
    }


def sparse_from_state(name: str, state: Mapping[str, AnyArray]) -> sp.csr_array | None:
    """The sparse matrix that ``sparse_state`` took apart, or None if ``state`` has none of that name."""
    if f"{name}.data" not in state:
        return None
    arrays = tuple(state[f"{name}.{part}"] for part in ("data", "indices", "indptr"))
    n_rows, n_columns = state[f"{name}.shape"].tolist()
    return sp.csr_array(arrays, shape=(n_rows, n_columns))


def nested(name: str, state: Mapping[str, AnyArray]) -> State:
    """The arrays whose names begin with ``name`` and a dot, without that beginning."""
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


def prefixed(name: str, state: Mapping[str, AnyArray]) -> State:
    """``state`` with ``name`` and a dot before every name: the inverse of ``nested``."""
    return {f"{name}.{key}": value for key, value in state.items()}


def _one_text(text: Float32Array) -> Float32Array:
    vector = np.asarray(text, np.float32)
    if vector.ndim != 1:
        raise DataError(f"the text vector of one user has shape {vector.shape}, expected (d_s,)")
    return vector[None]
