"""Nodes without a text vector: no anchor, no candidate, never rebuilt. Against loops over dense matrices."""

import numpy as np
import pytest
import torch

from rlmrec.alignment import Contrastive, Generative
from rlmrec.alignment.contrastive import ContrastiveConfig
from rlmrec.alignment.generative import GenerativeConfig
from rlmrec.backbones import LightGCN
from rlmrec.backbones.lightgcn import LightGCNConfig
from rlmrec.batch import Batch
from rlmrec.testing import blocks, check_alignment
from rlmrec.text.embeddings import TextEmbeddings

U, I, D, DS = 5, 6, 4, 7
HAS_USER = np.array([True, False, True, True, False])
HAS_ITEM = np.array([True, True, False, True, False, True])
# Users 1 and 4, items 2 and 4 have no vector and occur as anchor, positive and negative, repeatedly.
BATCH = Batch(
    torch.tensor([0, 0, 1, 2, 4, 1]), torch.tensor([0, 2, 1, 2, 0, 3]), torch.tensor([3, 4, 4, 0, 5, 3])
)


def masked_semantics(size=DS, n_users=U, n_items=I, has_user=HAS_USER, has_item=HAS_ITEM):
    rng = np.random.default_rng(0)
    users, items = (rng.standard_normal((n, size)).astype(np.float32) for n in (n_users, n_items))
    users[~has_user], items[~has_item] = 0, 0
    return TextEmbeddings(users, items, {}, has_user, has_item)


def embeddings():
    torch.manual_seed(1)
    return [torch.randn(n, D, dtype=torch.float64, requires_grad=True) for n in (U, I)]


def cosine(a, b):
    return (a @ b) / (a.norm() * b.norm())


def info_nce(anchors, positives, candidates, temperature):
    rows = []
    for a, p in zip(anchors, positives, strict=True):
        every = sum(torch.exp(cosine(a, c) / temperature) for c in candidates)
        rows.append(torch.log(every) - cosine(a, p) / temperature)
    return sum(rows) / len(rows)


@pytest.mark.parametrize("negatives", ["all-users", "batch"])
def test_contrastive_equals_loops_over_what_has_a_text(negatives):
    torch.manual_seed(0)
    alignment = Contrastive(
        masked_semantics(), D, ContrastiveConfig(weight=0.3, negatives=negatives)
    ).double()
    users, items = embeddings()
    loss = alignment.loss(users, items, BATCH)["contrastive"]
    text = {
        "users": alignment.projector(alignment.user_text),
        "items": alignment.projector(alignment.item_text),
    }
    expected = 0
    for kind, rows, table, has in (
        ("users", BATCH.users, users, HAS_USER),
        ("items", BATCH.positives, items, HAS_ITEM),
        ("items", BATCH.negatives, items, HAS_ITEM),
    ):
        known = [row for row in rows.tolist() if has[row]]
        if negatives == "batch":
            candidates = sorted(set(known))
        else:
            candidates = np.flatnonzero(has).tolist() if kind == "users" else known
        chosen = [text[kind][row] for row in candidates]
        own = [text[kind][row] for row in known]
        expected = expected + info_nce([table[row] for row in known], own, chosen, 0.2)
    expected = 0.3 * expected
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    leaves = [users, items, *alignment.projector.parameters()]
    wanted = torch.autograd.grad(expected, leaves, retain_graph=True)
    for got, want in zip(torch.autograd.grad(loss, leaves), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-12)
    assert not wanted[0][~HAS_USER].any()
    assert not wanted[1][~HAS_ITEM].any()


def test_vectors_of_zeros_count_as_none():
    masked = masked_semantics()
    zeros = TextEmbeddings(masked.users, masked.items)
    users, items = embeddings()
    for kind in (Contrastive, Generative):
        values = []
        for texts in (masked, zeros):
            torch.manual_seed(0)
            alignment = kind(texts, D, mask_ratio=0.9) if kind is Generative else kind(texts, D)
            alignment = alignment.double()
            _, drawn = alignment.corrupt(torch.cat([users, items]), torch.Generator().manual_seed(0))
            [value] = alignment.loss(users, items, BATCH, drawn).values()
            values.append(value.item())
        assert values[0] == values[1] > 0


@pytest.mark.parametrize("negatives", ["all-users", "batch"])
def test_a_batch_without_any_text_adds_nothing(negatives):
    alignment = Contrastive(masked_semantics(), D, ContrastiveConfig(negatives=negatives)).double()
    nobody = Batch(torch.tensor([1, 4]), torch.tensor([2, 4]), torch.tensor([4, 2]))
    users, items = embeddings()
    assert alignment.loss(users, items, nobody)["contrastive"] == 0


def test_generative_masks_and_rebuilds_only_what_has_a_text():
    text_embeddings = masked_semantics()
    torch.manual_seed(0)
    alignment = Generative(text_embeddings, D, config=GenerativeConfig(weight=0.3, mask_ratio=0.5)).double()
    known = np.flatnonzero(np.concatenate([HAS_USER, HAS_ITEM])).tolist()
    users, items = embeddings()
    rng, seen = torch.Generator().manual_seed(0), set()
    for _ in range(50):
        x = torch.cat([users, items])
        corrupted, masked = alignment.corrupt(x, rng)
        assert len(set(masked.tolist())) == len(known) // 2
        untouched = [row for row in range(U + I) if row not in masked.tolist()]
        assert torch.equal(corrupted[untouched], x[untouched])
        seen |= set(masked.tolist())
    assert sorted(seen) == known
    s = torch.from_numpy(np.concatenate([text_embeddings.users, text_embeddings.items])).double()
    rebuilt = [alignment.projector(torch.cat([users, items])[row]) for row in masked]
    expected = 0.3 * info_nce(rebuilt, [s[row] for row in masked], [s[row] for row in masked], 0.2)
    loss = alignment.loss(users, items, BATCH, masked)["generative"]
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("make", [Contrastive, Generative])
def test_they_still_owe_what_an_alignment_owes(make):
    dataset, full = blocks()
    rng = np.random.default_rng(0)
    has_user, has_item = rng.random(dataset.n_users) < 0.7, rng.random(dataset.n_items) < 0.7
    text_embeddings = TextEmbeddings(
        full.users * has_user[:, None], full.items * has_item[:, None], full.manifest, has_user, has_item
    )
    backbone = LightGCN(dataset.n_users, dataset.n_items, LightGCNConfig(embedding_size=6, layers=2))
    check_alignment(make(text_embeddings, 6), backbone, dataset)
