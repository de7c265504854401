"""Con with a sample of its candidates, against the sums over all of them."""

from itertools import combinations

import pytest
import torch

from rlmrec import batch as batch_module
from rlmrec import losses
from rlmrec.alignment import Contrastive
from rlmrec.batch import Batch
from rlmrec.errors import ConfigError
from rlmrec.losses import info_nce, sampled_info_nce
from rlmrec.testing import blocks
from rlmrec.text.embeddings import TextEmbeddings

TAU = 0.3
EACH = torch.arange(1)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [2, 0, 2, 5, 2, 3, 0]], ids=["distinct", "repeated"])
def test_the_denominator_is_unbiased(rows):
    """The mean of Z over every possible pool is the sum over all candidates."""
    torch.manual_seed(0)
    rows = torch.tensor(rows)
    texts, anchor = torch.randn(6, 3, dtype=torch.float64), torch.randn(1, 3, dtype=torch.float64)
    own = torch.tensor([2])
    cosines = torch.cosine_similarity(anchor, texts)
    expected = (cosines[rows] / TAU).exp().sum()
    estimates = []
    for pool in combinations(range(len(rows)), 4):  # never of the own candidate alone
        drawn = rows[list(pool)]
        loss = sampled_info_nce(
            (anchor, EACH), (texts, own), texts[drawn], TAU, torch.ones(1, dtype=torch.int64), (own, drawn),
            len(rows), (rows == 2).sum(),
        )  # fmt: skip
        estimates.append((loss + cosines[2] / TAU).exp())
    assert torch.stack(estimates).std() > 0
    torch.testing.assert_close(torch.stack(estimates).mean(), expected, rtol=1e-12, atol=0)


def pooled(users, texts, rows, counts, drawn):
    return sampled_info_nce(
        (users, rows), (texts, rows), texts[drawn], TAU, counts, (rows, drawn), len(texts)
    )


def test_a_pool_of_all_is_the_whole_loss(monkeypatch):
    monkeypatch.setattr(losses, "BLOCK_ELEMENTS", 1)
    monkeypatch.setattr(losses, "MIN_BLOCK_ANCHORS", 2)
    torch.manual_seed(1)
    users, texts = (torch.randn(9, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    rows, counts = torch.tensor([1, 4, 7]), torch.tensor([2, 1, 5])
    everyone = torch.randperm(9)
    got = pooled(users, texts, rows, counts, everyone)
    expected = info_nce(users[rows], texts[rows], texts, TAU, counts)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(3 * loss, (users, texts)) for loss in (got, expected)]
    for g, e in zip(*gradients, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-10, atol=1e-12)
    drawn = torch.tensor([4, 0, 8])
    assert torch.autograd.gradcheck(lambda u, t: pooled(u, t, rows, counts, drawn), (users, texts))


BATCH = Batch(
    torch.tensor([0, 0, 1, 2, 4, 9]), torch.tensor([3, 2, 1, 2, 3, 5]), torch.tensor([4, 8, 2, 0, 5, 4])
)


def contrastive(texts, **options):
    torch.manual_seed(2)
    return Contrastive(texts, 4, weight=0.7, temperature=TAU, **options).double()


def masked_texts(users=(2, 30), items=(5, 11)):
    """Text vectors of which some are missing."""
    _, texts = blocks()
    vectors = [texts.users.copy(), texts.items.copy()]
    for part, missing in zip(vectors, (users, items), strict=True):
        part[list(missing)] = 0
    return TextEmbeddings(*vectors, texts.manifest, *((part != 0).any(1) for part in vectors))


@pytest.mark.parametrize("texts", [blocks()[1], masked_texts()], ids=["all texts", "some texts"])
@pytest.mark.parametrize("options", [{}, {"negatives": "batch"}, {"candidates": 4}], ids=str)
def test_the_form_for_an_accelerator_is_the_same_loss(texts, options, monkeypatch):
    alignment = contrastive(texts, **options)
    torch.manual_seed(3)
    users, items = (torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (60, 45))
    inputs = [users, items, *alignment.parameters()]
    found = []
    for devices in (("cpu",), ()):
        monkeypatch.setattr(batch_module, "DYNAMIC_DEVICES", devices)
        _, drawn = alignment.corrupt(users, torch.Generator().manual_seed(0))
        loss = alignment.loss(users, items, BATCH, drawn)["contrastive"]
        found.append((loss, *torch.autograd.grad(loss, inputs)))
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-10, atol=1e-13)


def test_the_sampled_loss_is_near_the_whole_one_and_equals_it_with_enough_candidates():
    _, texts = blocks()
    torch.manual_seed(3)
    users, items = torch.randn(60, 4, dtype=torch.float64), torch.randn(45, 4, dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)

    def loss(**options):
        alignment = contrastive(texts, **options)
        _, drawn = alignment.corrupt(users, rng)
        return alignment.loss(users, items, BATCH, drawn)["contrastive"].item()

    whole = loss()
    assert loss(candidates=60) == whole
    sampled = [loss(candidates=20) for _ in range(60)]
    assert len(set(sampled)) == 60
    assert sum(sampled) / 60 == pytest.approx(whole, rel=0.02)


def test_a_batch_without_texts_has_no_loss_in_either_form(monkeypatch):
    texts = masked_texts(set(BATCH.users.tolist()), {*BATCH.positives.tolist(), *BATCH.negatives.tolist()})
    users, items = torch.randn(60, 4, dtype=torch.float64), torch.randn(45, 4, dtype=torch.float64)
    for devices in (("cpu",), ()):
        monkeypatch.setattr(batch_module, "DYNAMIC_DEVICES", devices)
        for options in ({"negatives": "batch"}, {}):
            assert contrastive(texts, **options).loss(users, items, BATCH)["contrastive"].item() == 0


def test_options():
    with pytest.raises(ConfigError, match="candidates=5 estimates the sums of negatives=all-users"):
        Contrastive(blocks()[1], 4, negatives="batch", candidates=5)
    assert "candidates" not in Contrastive(blocks()[1], 4).config.stored()
    assert Contrastive(blocks()[1], 4, candidates=5).config.stored()["candidates"] == 5
