"""The alignments: our own checks, and what is particular to each."""

import numpy as np
import pytest
import torch

from rlmrec.alignment import Alignment, Contrastive, Generative
from rlmrec.alignment.contrastive import ContrastiveConfig
from rlmrec.alignment.generative import GenerativeConfig
from rlmrec.alignment.projector import Projector
from rlmrec.backbones import LightGCN
from rlmrec.backbones.lightgcn import LightGCNConfig
from rlmrec.testing import check_alignment, sample_batch


def backbone_for(dataset):
    return LightGCN(dataset.n_users, dataset.n_items, LightGCNConfig(embedding_size=6, layers=2))


@pytest.mark.parametrize("negatives", ["all-users", "batch"])
def test_contrastive_owes_what_an_alignment_owes(toy, negatives):
    dataset, text_embeddings = toy
    alignment = Contrastive(text_embeddings, 6, ContrastiveConfig(negatives=negatives))
    check_alignment(alignment, backbone_for(dataset), dataset)


def test_generative_owes_what_an_alignment_owes(toy):
    dataset, text_embeddings = toy
    check_alignment(Generative(text_embeddings, 6), backbone_for(dataset), dataset)


def test_none_owes_nothing(toy):
    dataset, _ = toy
    check_alignment(Alignment(), backbone_for(dataset), dataset)
    x = torch.randn(4, 2)
    assert Alignment().corrupt(x, torch.Generator()) == (x, None)


@pytest.mark.parametrize(("ratio", "expected"), [(0.1, 10), (0.001, 1), (1.0, 105)])
def test_the_number_of_masked_nodes(toy, ratio, expected):
    dataset, text_embeddings = toy
    alignment = Generative(text_embeddings, 6, config=GenerativeConfig(mask_ratio=ratio))
    x = torch.randn(dataset.n_users + dataset.n_items, 6)
    corrupted, masked = alignment.corrupt(x, torch.Generator().manual_seed(0))
    assert len(masked) == len(masked.unique()) == expected
    assert torch.equal(corrupted[masked], torch.zeros(expected, 6)), "[MASK] is zeros at start"
    assert x[masked].any(), "the caller's x is not changed"


def test_masks_reach_users_and_items_alike(toy):
    dataset, text_embeddings = toy
    alignment = Generative(text_embeddings, 6, config=GenerativeConfig(mask_ratio=0.2))
    x = torch.randn(dataset.n_users + dataset.n_items, 6)
    rng = torch.Generator().manual_seed(0)
    hits = np.zeros(len(x))
    for _ in range(1000):
        hits[alignment.corrupt(x, rng)[1].numpy()] += 1
    assert hits.min() > 140
    assert hits.max() < 260  # 200 expected, standard deviation 13


def test_generative_needs_its_mask(toy):
    with pytest.raises(ValueError, match="corrupt"):
        Generative(toy[1], 6).loss(torch.zeros(60, 6), torch.zeros(45, 6), sample_batch(toy[0]), None)


def test_no_gradient_reaches_the_texts(toy):
    alignment = Contrastive(toy[1], 6)
    assert not alignment.user_text.requires_grad
    assert "user_text" not in alignment.state_dict(), "texts belong to the workspace, not to the model"
    assert {name.split(".")[0] for name, _ in alignment.named_parameters()} == {"projector"}


def test_projector_sizes_and_initialisation():
    projector = Projector(384, 32)
    inner, outer = projector[0], projector[2]
    assert (inner.in_features, inner.out_features, outer.in_features, outer.out_features) == (
        384,
        208,
        208,
        32,
    )
    bound = (6 / (384 + 208)) ** 0.5
    assert inner.weight.abs().max() <= bound
    assert inner.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
