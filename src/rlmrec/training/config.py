"""Options of training, readable without PyTorch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from rlmrec.config import Config


class TrainConfig(Config):
    """Options of training; the defaults are the paper's (Section 4.1.4)."""

    later_options: ClassVar[frozenset[str]] = frozenset(
        {"validation_users", "initial_embeddings", "compile", "cuda_graphs"}
    )

    learning_rate: float = Field(default=1e-3, gt=0, description="learning rate of Adam")
    batch_size: int = Field(default=4096, ge=1, description="B, triples per batch")
    l2: float = Field(default=1e-6, ge=0, description="λ, weight of ||Θ||²")
    epochs: int = Field(default=1000, ge=1, description="maximum number; early stopping usually ends before")
    evaluate_every: int = Field(default=3, ge=1, description="epochs between validations")
    patience: int = Field(
        default=5, ge=1, description="validations in a row without a new best before stopping"
    )
    validation_users: int | None = Field(
        default=None,
        ge=1,
        description="users of a seeded sample that validations during training rank for, where all are too many; "
        "None takes all. The figures of a finished run are of all users",
    )
    initial_embeddings: Literal["random", "spectral"] = Field(
        default="random",
        description="where training begins. random: as in the paper; spectral: a low-rank filter of the interactions, "
        "which saves most of the epochs in large data",
    )
    compile: bool = Field(
        default=False,
        description="compile each step by torch.compile, on CUDA with CUDA graphs. The first step takes a minute",
    )
    cuda_graphs: bool = Field(
        default=False,
        description="on CUDA, launch all kernels of a step together, as a CUDA graph that is recorded once",
    )
