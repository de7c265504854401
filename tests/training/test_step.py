"""One whole optimiser step against a slow, dense, independent reference in float64.

Nothing of rlmrec is used in the reference: matrices are dense, losses are loops over the batch as the
formulas have it, with repeats written out.
"""

import numpy as np
import pytest
import torch

from rlmrec.alignment import Alignment, Contrastive, Generative
from rlmrec.alignment.contrastive import ContrastiveConfig
from rlmrec.alignment.generative import GenerativeConfig
from rlmrec.backbones.lightgcn import LightGCN, LightGCNConfig
from rlmrec.batch import Batch
from rlmrec.data.interactions import Interactions
from rlmrec.graph import Graph
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.training.step import step

U, I, D, DS, L, LAMBDA = 5, 6, 4, 7, 2, 1e-3
# User 3 is isolated, user 1 has one item, item 5 is isolated; users and items repeat in the batch.
TRAIN = Interactions(np.array([0, 0, 0, 1, 2, 2, 4, 4]), np.array([0, 1, 2, 1, 2, 3, 0, 4]), U, I)
BATCH = Batch(
    torch.tensor([0, 0, 1, 2, 4, 0]), torch.tensor([0, 2, 1, 2, 0, 0]), torch.tensor([3, 3, 2, 0, 5, 4])
)


class Reference:
    """The paper's formulas over dense float64 tensors."""

    def __init__(self, backbone, alignment, text_embeddings):
        self.parameters = {
            name: p.detach().clone().requires_grad_()
            for module in (("b", backbone), ("a", alignment))
            for name, p in ((f"{module[0]}.{n}", p) for n, p in module[1].named_parameters())
        }
        a = torch.zeros(U + I, U + I, dtype=torch.float64)
        for u, i in zip(TRAIN.users, TRAIN.items, strict=True):
            a[u, U + i] = a[U + i, u] = 1
        scale = torch.tensor([d**-0.5 if d else 0.0 for d in a.sum(1).tolist()], dtype=torch.float64)
        self.adjacency = scale[:, None] * a * scale[None, :]
        self.s_users = torch.from_numpy(text_embeddings.users).double() if text_embeddings else None
        self.s_items = torch.from_numpy(text_embeddings.items).double() if text_embeddings else None

    def mlp(self, x):
        p = self.parameters
        hidden = x @ p["a.projector.0.weight"].T + p["a.projector.0.bias"]
        hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
        return hidden @ p["a.projector.2.weight"].T + p["a.projector.2.bias"]

    @staticmethod
    def info_nce(anchors, positives, candidates, temperature):
        def cosine(a, b):
            return (a * b).sum() / (a.norm() * b.norm())

        rows = []
        for a, p in zip(anchors, positives, strict=True):
            denominator = sum(torch.exp(cosine(a, c) / temperature) for c in candidates)
            rows.append(-torch.log(torch.exp(cosine(a, p) / temperature) / denominator))
        return sum(rows) / len(rows)

    def loss(self, kind, config, masked, kept_edges):
        p = self.parameters
        x = torch.cat([p["b.user_embedding"], p["b.item_embedding"]])
        if kind == "generative":
            x = torch.stack([p["a.mask_token"] if i in masked else x[i] for i in range(U + I)])
        matrix = self.adjacency * kept_edges
        total, layer = x, x
        for _ in range(L):
            layer = matrix @ layer
            total = total + layer
        eu, ev = total[:U], total[U:]
        loss = 0
        for u, i, j in zip(*BATCH, strict=True):
            loss = loss - torch.log(torch.sigmoid(eu[u] @ ev[i] - eu[u] @ ev[j])) / len(BATCH.users)
        if kind == "contrastive":
            t_users, t_items = self.mlp(self.s_users), self.mlp(self.s_items)
            everyone = config.negatives == "all-users"
            for rows, e, t, candidates in (
                (BATCH.users, eu, t_users, range(U) if everyone else sorted(set(BATCH.users.tolist()))),
                (
                    BATCH.positives,
                    ev,
                    t_items,
                    BATCH.positives if everyone else sorted(set(BATCH.positives.tolist())),
                ),
                (
                    BATCH.negatives,
                    ev,
                    t_items,
                    BATCH.negatives if everyone else sorted(set(BATCH.negatives.tolist())),
                ),
            ):
                term = self.info_nce(
                    [e[r] for r in rows], [t[r] for r in rows], [t[c] for c in candidates], config.temperature
                )
                loss = loss + config.weight * term
        if kind == "generative":
            s = torch.cat([self.s_users, self.s_items])
            rebuilt = self.mlp(total[masked])
            loss = loss + config.weight * self.info_nce(rebuilt, s[masked], s[masked], config.temperature)
        return loss + LAMBDA * sum((q**2).sum() for q in p.values())


def make(kind, negatives="all-users"):
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    text_embeddings = TextEmbeddings(
        rng.standard_normal((U, DS)).astype(np.float32), rng.standard_normal((I, DS)).astype(np.float32)
    )
    backbone = LightGCN(U, I, LightGCNConfig(embedding_size=D, layers=L, keep_rate=0.7)).double()
    if kind == "none":
        return backbone, Alignment(), None, None
    if kind == "contrastive":
        config = ContrastiveConfig(weight=0.3, temperature=0.2, negatives=negatives)
        alignment = Contrastive(text_embeddings, D, config)
    else:
        config = GenerativeConfig(weight=0.3, temperature=0.2, mask_ratio=0.4)
        alignment = Generative(text_embeddings, D, config=config)
        torch.nn.init.normal_(alignment.mask_token)  # zeros at start would hide errors
    return backbone, alignment.double(), config, text_embeddings


@pytest.mark.parametrize(
    ("kind", "negatives"),
    [("none", ""), ("contrastive", "all-users"), ("contrastive", "batch"), ("generative", "")],
)
def test_one_optimiser_step_equals_the_reference(kind, negatives):
    backbone, alignment, config, text_embeddings = make(kind, negatives)
    graph = Graph.from_interactions(TRAIN, dtype=torch.float64)

    # The draws that step() will make, replayed: which nodes are masked, which edges stay.
    replay = torch.Generator().manual_seed(9)
    _, masked = alignment.corrupt(backbone.initial(), replay)
    kept = (graph.drop_edges(0.7, replay).values != 0).double()
    kept_edges = graph.with_values(kept) @ torch.eye(U + I, dtype=torch.float64)
    masked = masked.tolist() if masked is not None else None
    if kind == "generative":
        assert len(set(masked)) == int(0.4 * (U + I))

    reference = Reference(backbone, alignment, text_embeddings)
    modules = torch.nn.ModuleDict({"b": backbone, "a": alignment})
    ours = torch.optim.Adam(modules.parameters(), lr=0.01)
    theirs = torch.optim.Adam(list(reference.parameters.values()), lr=0.01)

    terms = step(backbone, alignment, graph, BATCH, LAMBDA, torch.Generator().manual_seed(9))
    loss = sum(terms.values())
    expected = reference.loss(kind, config, masked, kept_edges)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    loss.backward()
    expected.backward()
    for name, parameter in modules.named_parameters():
        torch.testing.assert_close(
            parameter.grad, reference.parameters[name].grad, rtol=1e-8, atol=1e-11, msg=name
        )
    ours.step()
    theirs.step()
    for name, parameter in modules.named_parameters():
        torch.testing.assert_close(parameter, reference.parameters[name], rtol=1e-8, atol=1e-11, msg=name)


def test_terms_are_named():
    backbone, alignment, _, _ = make("contrastive")
    graph = Graph.from_interactions(TRAIN, dtype=torch.float64)
    terms = step(backbone, alignment, graph, BATCH, LAMBDA, torch.Generator())
    assert set(terms) == {"bpr", "contrastive", "l2"}
