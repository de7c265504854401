"""ease: a linear autoencoder with a closed form, optionally regularised by the items' texts."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from pydantic import Field
from scipy.linalg import cho_factor, cho_solve

from rlmrec.closed_form.base import (
    ClosedForm,
    ClosedFormModel,
    FoldIn,
    State,
    TextVectors,
    check_texts,
)
from rlmrec.closed_form.linear import HistoryRule, item_item_model, scaled_interactions
from rlmrec.closed_form.search import Validation
from rlmrec.config import Config, as_config
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, DataError
from rlmrec.types import FloatArray

RIDGES = 3.0, 30.0, 300.0
DEFAULT_RIDGE = 30.0
# Above this the I x I matrix in float64 takes more than 5 GiB, with its factors.
MOST_ITEMS = 25_000


class EASEConfig(Config):
    """Options of EASE; None lets validation choose."""

    user_exponent: float = Field(0.3, ge=0, le=1, description="a of R̃ = D_u^−a R D_i^−b; 0 is plain EASE")
    item_exponent: float = Field(0.3, ge=0, le=1, description="b of R̃ = D_u^−a R D_i^−b; 0 is plain EASE")
    ridge: float | None = Field(None, gt=0, description="λ, in units of the median of the diagonal of R̃ᵀR̃")
    neighbours: int = Field(500, ge=1, description="M, entries of largest magnitude kept in each column of B")
    text_ridge: float = Field(
        0.0,
        ge=0,
        description="λ_E, in the same units: pull B towards what the items' texts predict; 0: not at all",
    )
    text_spread: float = Field(
        8.0, gt=0, description="λ_F, ridge of the prediction of item texts from each other"
    )


class EASE(ClosedForm):
    """Predict each item from the others: score(u, ·) = R̃_u B, min ‖R̃ − R̃B‖² + λ‖B‖² with a diagonal of zeros.

        P = (R̃ᵀR̃ + λ I)⁻¹,  B = I − P diag(1 / diag P)

    λ is given relative to the median of the diagonal of R̃ᵀR̃, so that one value suits data of any size. With
    ``text_ridge`` λ_E > 0 a second model C, the same with texts F (d_s x I) in place of R̃ and λ_F, is what B is
    pulled to:

        B = λ_E P C − P diag((1 + λ_E diag(P C)) / diag P) off the diagonal,  P = (R̃ᵀR̃ + (λ + λ_E) I)⁻¹

    Of each column the M entries of largest magnitude are kept.

    Source: Steck, WWW 2019 (EASE); Moon et al., CIKM 2025 (L3AE, the text term).
    """

    NAME: ClassVar[str] = "ease"
    label: ClassVar[str] = "EASE"
    reads_text: ClassVar[bool] = True
    Config: ClassVar[type[Config]] = EASEConfig

    @classmethod
    def uses_text(cls, config: Any) -> bool:
        """Return whether the text term is switched on."""
        return bool(config.text_ridge > 0)

    @classmethod
    def fit(
        cls, dataset: Dataset, texts: TextVectors | None = None, config: Any = None, seed: int = 0
    ) -> ClosedFormModel:
        """Fit to the training split; see ``ClosedForm.fit``.

        Raises:
            ConfigError: ``text_ridge`` without texts.
            DataError: more items than an I x I matrix can be made for.
        """
        texts = check_texts(texts, dataset)
        options: EASEConfig = as_config(EASEConfig, config, {})
        if options.text_ridge and texts is None:
            raise ConfigError(
                "text_ridge is above 0, but there are no text vectors: encode texts, or set it to 0"
            )
        if dataset.n_items > MOST_ITEMS:
            raise DataError(
                f"EASE inverts an I x I matrix: {dataset.n_items} items are more than {MOST_ITEMS}; use graph-filter"
            )
        scaled = scaled_interactions(dataset, options.user_exponent, options.item_exponent)
        gram = (scaled.T @ scaled).toarray().astype(np.float64)
        diagonal = gram.diagonal()
        unit = float(np.median(diagonal[diagonal > 0]))
        prior = None
        if options.text_ridge and texts is not None:
            prior = autoencoder(_gram_of_texts(texts), options.text_spread)
        validation = Validation(dataset, seed) if len(dataset.valid) and options.ridge is None else None
        ridges = [options.ridge] if options.ridge is not None else [DEFAULT_RIDGE]
        if validation is not None:
            ridges = list(RIDGES)
        best: tuple[float, float, sp.csr_array] | None = None
        for ridge in ridges:
            weights = autoencoder(gram, ridge * unit, prior, options.text_ridge * unit)
            graph = sp.csr_array(largest_of_columns(weights, options.neighbours))
            mean = 0.0
            if validation is not None:
                rows = scaled[validation.users]
                mean = validation.quality(lambda block, r=rows, g=graph: (r[block] @ g).toarray()).mean  # type: ignore[misc]
            if best is None or mean > best[0]:
                best = mean, ridge, graph
        assert best is not None
        notes = [] if validation or options.ridge else ["no validation split: λ has its default"]
        item_weights = np.maximum(dataset.train.item_degrees(), 1.0) ** -options.item_exponent
        chosen = {**options.model_dump(), "ridge": best[1]}
        return item_item_model(
            dataset,
            item_weights.astype(np.float32),
            best[2],
            {
                "recommender": cls.NAME,
                "chosen": chosen,
                "notes": notes,
                "tries": validation.tried if validation else 0,
            },
        )

    @classmethod
    def rule(cls, state: State) -> FoldIn:
        """The fold-in rule of a fitted model, from its arrays."""
        return HistoryRule.from_state(state)


def autoencoder(
    gram: FloatArray, ridge: float, prior: FloatArray | None = None, prior_ridge: float = 0.0
) -> FloatArray:
    """float64[I, I]: B of EASE, pulled towards ``prior`` with the weight ``prior_ridge``.

    Args:
        gram: R̃ᵀR̃, float64[I, I].
        ridge: λ.
        prior: C, float64[I, I], diagonal of zeros; None without one.
        prior_ridge: λ_E.
    """
    shifted = gram.copy()
    shifted[np.diag_indices_from(shifted)] += ridge + prior_ridge
    inverse = cho_solve(cho_factor(shifted, lower=True), np.eye(len(gram)))
    diagonal = inverse.diagonal()
    if prior is None or not prior_ridge:
        weights = -inverse / diagonal
    else:
        pulled = prior_ridge * (inverse @ prior)
        weights = pulled - inverse * ((1 + pulled.diagonal()) / diagonal)
    np.fill_diagonal(weights, 0)
    found: FloatArray = weights
    return found


def largest_of_columns(weights: FloatArray, count: int) -> sp.csr_array:
    """The ``count`` entries of largest magnitude in each column of a dense matrix, as float32."""
    n = len(weights)
    if count >= n:
        return sp.csr_array(weights.astype(np.float32))
    rows = np.argpartition(-np.abs(weights), count, axis=0)[:count]
    columns = np.broadcast_to(np.arange(weights.shape[1]), rows.shape)
    entries = weights[rows, columns].astype(np.float32).ravel(), (rows.ravel(), columns.ravel())
    return sp.csr_array(entries, shape=weights.shape)


def _gram_of_texts(texts: TextVectors) -> FloatArray:
    """FᵀF of the items' texts, each of unit length; an item without a text has zeros."""
    vectors = texts.items.astype(np.float64)
    if texts.has_item is not None:
        vectors = np.where(texts.has_item[:, None], vectors, 0)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.where(lengths > 0, lengths, 1)
    found: FloatArray = vectors @ vectors.T
    return found
