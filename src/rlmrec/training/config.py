"""Options of training, readable without PyTorch."""

from __future__ import annotations

from pydantic import Field

from rlmrec.config import Config


class TrainConfig(Config):
    """Options of training; the defaults are the paper's (Section 4.1.4)."""

    learning_rate: float = Field(default=1e-3, gt=0, description="learning rate of Adam")
    batch_size: int = Field(default=4096, ge=1, description="B, triples per batch")
    l2: float = Field(default=1e-6, ge=0, description="λ, weight of ||Θ||²")
    epochs: int = Field(default=1000, ge=1, description="maximum number; early stopping usually ends before")
    evaluate_every: int = Field(default=3, ge=1, description="epochs between validations")
    patience: int = Field(
        default=5, ge=1, description="validations in a row without a new best before stopping"
    )
