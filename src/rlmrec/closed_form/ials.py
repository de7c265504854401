"""ials: matrix factorisation for implicit feedback by alternating least squares, by the ``implicit`` package."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from pydantic import Field
from threadpoolctl import threadpool_limits

from rlmrec.closed_form.base import (
    ClosedForm,
    ClosedFormModel,
    FoldIn,
    State,
    TextVectors,
    UserParts,
    check_texts,
)
from rlmrec.closed_form.search import Validation
from rlmrec.config import Config, as_config
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError
from rlmrec.linalg import gram_matrix
from rlmrec.types import AnyArray, Float32Array, FloatArray, IntArray

REGULARIZATIONS = 0.1, 1.0, 10.0, 30.0, 100.0, 300.0
DEFAULT_REGULARIZATION = 0.1


class IALSConfig(Config):
    """Options of iALS; None lets validation choose."""

    dim: int = Field(128, ge=1, description="d, size of the factors")
    confidence: float = Field(20.0, gt=0, description="α: an interaction weighs 1 + α, everything else 1")
    regularization: float | None = Field(None, ge=0, description="λ")
    iterations: int = Field(15, ge=1, description="passes over users and items")


@dataclass(frozen=True, eq=False)
class LeastSquaresRule(FoldIn):
    """A user's factors by ridge regression on the items' factors, weighted by confidence.

        x_u = (YᵀY + α Σ_j w_j y_j y_jᵀ + λ I)⁻¹ Σ_j (1 + α w_j) y_j

    Args:
        items: Y, float32[I, d].
        confidence: α.
        regularization: λ.
    """

    items: Float32Array
    confidence: float
    regularization: float

    @cached_property
    def _gram(self) -> FloatArray:
        gram = gram_matrix(self.items)
        gram[np.diag_indices_from(gram)] += self.regularization + 1e-9
        return gram

    def parts(
        self, histories: sp.csr_array, texts: Float32Array | None = None, own: IntArray | None = None
    ) -> UserParts:
        """The factors of B users; zeros for a user without a history."""
        del texts, own
        vectors = np.zeros((histories.shape[0], self.items.shape[1]), np.float32)
        for row in np.flatnonzero(np.diff(histories.indptr)):
            part = slice(histories.indptr[row], histories.indptr[row + 1])
            shares = self._shares(histories.indices[part], histories.data[part])
            vectors[row] = shares.sum(axis=0)
        return UserParts(vectors)

    def _shares(self, items: AnyArray, weights: AnyArray) -> FloatArray:
        """float64[n, d]: (…)⁻¹ (1 + α w_j) y_j of each history item, which sum to x_u."""
        factors = self.items[items].astype(np.float64)
        amounts = self.confidence * weights.astype(np.float64)
        system = self._gram + (factors * amounts[:, None]).T @ factors
        shares = np.linalg.solve(system, (factors * (1 + amounts)[:, None]).T).T
        return np.asarray(shares, np.float64)

    def split(self, items: IntArray, weights: Float32Array, text: Float32Array | None) -> Float32Array:
        """The share of each history item in x_u, as in Hu et al.; see ``FoldIn.split``."""
        del text
        shares = np.zeros((len(items) + 1, self.items.shape[1]), np.float32)
        if len(items):
            shares[:-1] = self._shares(items, weights)
        return shares

    def state(self) -> State:
        """The arrays that ``from_state`` restores."""
        return {"items": self.items, "options": np.array([self.confidence, self.regularization])}

    @classmethod
    def from_state(cls, state: State) -> Self:
        """Restore what ``state`` returned."""
        confidence, regularization = state["options"].tolist()
        return cls(state["items"], confidence, regularization)


class IALS(ClosedForm):
    """Factorise the interactions by alternating least squares: every cell counts, interactions more.

        min Σ_ui c_ui (p_ui − x_u · y_i)² + λ (Σ ‖x_u‖² + Σ ‖y_i‖²),  c_ui = 1 + α p_ui

    The items' factors come from ``implicit``; the users' are solved once more from them exactly, so that a user who
    is folded in gets the same.

    Source: Hu, Koren and Volinsky, ICDM 2008.
    """

    NAME: ClassVar[str] = "ials"
    label: ClassVar[str] = "iALS"
    Config: ClassVar[type[Config]] = IALSConfig

    @classmethod
    def fit(
        cls, dataset: Dataset, texts: TextVectors | None = None, config: Any = None, seed: int = 0
    ) -> ClosedFormModel:
        """Fit to the training split; see ``ClosedForm.fit``.

        Raises:
            ConfigError: the ``benchmark`` extra is not installed.
        """
        check_texts(texts, dataset, are_used=False)  # unused here, but a mistake all the same
        options: IALSConfig = as_config(IALSConfig, config, {})
        validation = None
        tried: tuple[float, ...] = (DEFAULT_REGULARIZATION,)
        if options.regularization is not None:
            tried = (options.regularization,)
        elif len(dataset.valid):
            validation, tried = Validation(dataset, seed), REGULARIZATIONS
        best: tuple[float, LeastSquaresRule] | None = None
        for regularization in tried:
            rule = LeastSquaresRule(
                _item_factors(dataset, options, regularization, seed), options.confidence, regularization
            )
            mean = 0.0
            if validation is not None:
                users = rule.parts(dataset.train.csr()[validation.users]).vectors
                mean = validation.quality(lambda block, u=users, r=rule: u[block] @ r.items.T).mean  # type: ignore[misc]
            if best is None or mean > best[0]:
                best = mean, rule
        assert best is not None
        rule = best[1]
        chosen = {**options.model_dump(), "regularization": rule.regularization}
        tries = validation.tried if validation else 0
        record = {"recommender": cls.NAME, "chosen": chosen, "notes": [], "tries": tries}
        users = rule.parts(dataset.train.csr()).vectors
        return ClosedFormModel(
            users, rule.items, rule, record=record, fingerprint=dataset.fingerprint, is_final=dataset.is_final
        )

    @classmethod
    def rule(cls, state: State) -> FoldIn:
        """The fold-in rule of a fitted model, from its arrays."""
        return LeastSquaresRule.from_state(state)


def _item_factors(dataset: Dataset, options: IALSConfig, regularization: float, seed: int) -> Float32Array:
    """float32[I, d]: the items' factors after the last pass."""
    try:
        from implicit.cpu.als import AlternatingLeastSquares
    except ImportError as error:
        raise ConfigError(f"{error}: install it with  pip install 'rlmrec[benchmark]'") from None
    train = sp.csr_matrix(dataset.train.csr())
    train.data = train.data * np.float32(1 + options.confidence)
    # implicit has threads of its own; those of BLAS beside them only wait for each other.
    with threadpool_limits(1, user_api="blas"):
        model = AlternatingLeastSquares(
            factors=options.dim,
            regularization=regularization,
            alpha=1.0,
            iterations=options.iterations,
            random_state=seed,
        )
        model.fit(train, show_progress=False)
    return np.ascontiguousarray(model.item_factors, np.float32)
