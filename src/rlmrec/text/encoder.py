"""TextEncoder: what turns profiles into vectors, s = T(P) (Eq. 15)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class TextEncoder(Protocol):
    """Anything that maps texts to vectors of one length.

    Attributes:
        name: what made the vectors, revision included; recorded in their manifest.
        dim: d_s.
    """

    name: str
    dim: int

    def encode(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> npt.NDArray[np.float32]:
        """float32[n, d_s], in the order of ``texts``; ``progress`` is told how many are done so far."""
        ...
