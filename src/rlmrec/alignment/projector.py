"""Projector: the two-layer perceptron between text space and embedding space (σ↓ and σ↑)."""

from __future__ import annotations

from torch import nn


class Projector(nn.Sequential):
    """Two-layer perceptron: Linear(in, (in + out) // 2) → LeakyReLU → Linear((in + out) // 2, out).

    Weights start Xavier-uniform. One projector serves users and items.

    Args:
        in_size: dimension of the input.
        out_size: dimension of the output.
    """

    def __init__(self, in_size: int, out_size: int) -> None:
        hidden = (in_size + out_size) // 2
        inner, outer = nn.Linear(in_size, hidden), nn.Linear(hidden, out_size)
        for layer in (inner, outer):
            nn.init.xavier_uniform_(layer.weight)
        super().__init__(inner, nn.LeakyReLU(inplace=True), outer)
