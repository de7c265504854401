"""Validation on an accelerator: the metrics that training watches, without a copy of scores to the host."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rlmrec.data.dataset import Dataset
from rlmrec.types import IntArray

BLOCK_SCORES = 1 << 26  # scores of a block of users: 256 MiB


class DeviceValidation:
    """Recall@k and NDCG@k on the validation split, as ``evaluate`` computes them, on the device of the embeddings.

    Where scores are equal, which of the items comes first may differ from ``evaluate``.

    Args:
        dataset: its validation split.
        users: rows of the users to rank for; None for all that have held-out items.
        device: where the embeddings are.
        k: length of the lists.
    """

    def __init__(
        self, dataset: Dataset, users: IntArray | None, device: torch.device | str, k: int = 20
    ) -> None:
        held_out = dataset.valid
        found = np.flatnonzero(held_out.user_degrees())
        rows = found if users is None else found[np.isin(found, users)]
        self.k, self.n_items = min(k, dataset.n_items), dataset.n_items
        wanted, excluded = held_out.csr()[rows], dataset.excluded()[rows]
        counts = np.diff(wanted.indptr)
        keys = np.repeat(np.arange(len(rows)), counts) * self.n_items + wanted.indices
        discounts = 1 / np.log2(np.arange(2, k + 2))

        def on_device(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        self.users, self.keys, self.counts = on_device(rows), on_device(keys), on_device(counts)
        # The dtype of the sums: a mean over a million users needs more than float32. MPS has nothing wider.
        self.kind = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self.discounts = on_device(discounts[: self.k]).to(self.kind)
        self.ideal = on_device(np.cumsum(discounts)[np.minimum(counts, k) - 1]).to(self.kind)
        size = max(1, BLOCK_SCORES // self.n_items)
        self.blocks = [slice(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
        self.left_out = []  # of each block, places in its scores
        for block in self.blocks:
            bounds = excluded.indptr[block.start : block.stop + 1].astype(np.int64)
            of_rows = np.repeat(np.arange(block.stop - block.start), np.diff(bounds))
            places = of_rows * self.n_items + excluded.indices[bounds[0] : bounds[-1]]
            self.left_out.append(on_device(places))

    @torch.no_grad()
    def metrics(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return Recall@k and NDCG@k as numbers on the device; nothing waits for them.

        Args:
            users: final embeddings, (U, d').
            items: final embeddings, (I, d').
        """
        recall, ndcg = (torch.zeros((), dtype=self.kind, device=users.device) for _ in range(2))
        for block, left_out in zip(self.blocks, self.left_out, strict=True):
            scores = users[self.users[block]] @ items.T
            scores.view(-1).index_fill_(0, left_out, -torch.inf)
            best = scores.topk(self.k, dim=1)
            row = torch.arange(block.start, block.stop, device=users.device)[:, None]
            ranked = row * self.n_items + best.indices
            place = torch.searchsorted(self.keys, ranked).clamp(max=len(self.keys) - 1)
            hits = ((self.keys[place] == ranked) & (best.values > -torch.inf)).to(self.kind)
            recall += (hits.sum(1) / self.counts[block]).sum()
            ndcg += ((hits @ self.discounts) / self.ideal[block]).clamp(max=1).sum()
        return recall / len(self.users), ndcg / len(self.users)
