"""LightGCN, and what our own checks catch."""

import pytest
import torch

from rlmrec.backbones import Backbone, LightGCN
from rlmrec.backbones.base import BackboneConfig
from rlmrec.backbones.lightgcn import LightGCNConfig
from rlmrec.testing import check_backbone


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_lightgcn_owes_what_a_backbone_owes(toy, layers):
    dataset, _ = toy
    check_backbone(LightGCN(dataset.n_users, dataset.n_items, LightGCNConfig(layers=layers)), dataset)


class ReadsItsOwnTables(Backbone):
    """Wrong: ignores x, so that a mask would have no effect."""

    def encode(self, x, graph):
        return self.user_embedding * 1, self.item_embedding * 1


class Noisy(Backbone):
    """Wrong: evaluation must be deterministic."""

    def encode(self, x, graph):
        return graph.split(x + torch.randn_like(x))


class Swapped(Backbone):
    """Wrong: items first."""

    def encode(self, x, graph):
        return graph.split(x)[::-1]


class Idle(Backbone):
    """Wrong: a parameter that nothing uses."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.spare = torch.nn.Parameter(torch.ones(2))

    def encode(self, x, graph):
        return graph.split(x)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ReadsItsOwnTables, "same users whatever x is"),
        (Noisy, "not deterministic"),
        (Swapped, "expected \\(60, 4\\)"),
        (Idle, "no gradient reaches spare"),
    ],
)
def test_check_backbone_catches(toy, kind, message):
    dataset, _ = toy
    with pytest.raises(AssertionError, match=message):
        check_backbone(kind(dataset.n_users, dataset.n_items, BackboneConfig(embedding_size=4)), dataset)
