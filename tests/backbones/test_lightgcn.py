"""LightGCN, and what our own checks catch."""

import pytest
import torch

from rlmrec.alignment import Alignment
from rlmrec.backbones import Backbone, LightGCN
from rlmrec.backbones.base import BackboneConfig
from rlmrec.backbones.lightgcn import LightGCNConfig
from rlmrec.errors import ConfigError
from rlmrec.testing import check_backbone
from rlmrec.training.trainer import train


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


class Counting(Backbone):
    """Right, with a buffer that every training pass changes and that its loss depends on."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("passes", torch.ones(()))

    def encode(self, x, graph):
        return graph.split(x)

    def objective(self, x, graph, batch, rng):
        out = super().objective(x, graph, batch, rng)
        self.passes += 1
        return out._replace(terms={"bpr": out.terms["bpr"] * self.passes.item()})


class CountingNoisily(Counting):
    """Wrong: draws from the global stream, which a buffer must not hide."""

    def objective(self, x, graph, batch, rng):
        return super().objective(x + torch.randn_like(x), graph, batch, rng)


def test_check_backbone_leaves_what_it_found(toy):
    dataset, _ = toy
    backbone = Counting(dataset.n_users, dataset.n_items).eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    check_backbone(backbone, dataset)
    assert not backbone.training
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())


class WithDropout(Backbone):
    """Wrong: PyTorch's own generator, which no seed of a run sets."""

    def encode(self, x, graph):
        return graph.split(torch.nn.functional.dropout(x, 0.5, self.training))


class WithoutEncode(Backbone):
    """Wrong: nothing but the tables."""


class OneTensor(Backbone):
    """Wrong: users and items in one."""

    def encode(self, x, graph):
        return graph @ x


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (WithoutEncode, r"WithoutEncode must implement encode\(x, graph\)"),
        (OneTensor, r"encode returned \(105, 32\), expected users of \(60, 32\) and items of \(45, 32\)"),
    ],
)
def test_training_says_what_a_subclass_owes(toy, kind, message):
    dataset, _ = toy
    with pytest.raises(ConfigError, match=message):
        train(kind(dataset.n_users, dataset.n_items), Alignment(), dataset)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ReadsItsOwnTables, "same users for different x"),
        (Noisy, "not deterministic"),
        (Swapped, "expected \\(60, 4\\)"),
        (Idle, "no gradient reaches spare"),
        (CountingNoisily, "differs for equal rng"),
        (WithDropout, "must come from rng, which nn.Dropout does not use"),
    ],
)
def test_check_backbone_catches(toy, kind, message):
    dataset, _ = toy
    with pytest.raises(AssertionError, match=message):
        check_backbone(kind(dataset.n_users, dataset.n_items, BackboneConfig(embedding_size=4)), dataset)
