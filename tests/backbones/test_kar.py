"""KAR: the initial embeddings against a slow reference, and how the text vectors get there."""

import numpy as np
import pytest
import torch

from rlmrec.backbones.kar import KARSGL, KARLightGCN, KARLightGCNConfig
from rlmrec.backbones.lightgcn import LightGCN
from rlmrec.errors import ConfigError
from rlmrec.experiments.run import build
from rlmrec.experiments.spec import RunSpec
from rlmrec.graph import Graph
from rlmrec.testing import sample_batch
from rlmrec.text.embeddings import TextEmbeddings

CONFIG = KARLightGCNConfig(embedding_size=4, preference_experts=2, shared_experts=1, expert_size=3, layers=1)


def test_initial_is_the_merge_of_embeddings_and_experts(toy):
    dataset, text_embeddings = toy
    backbone = KARLightGCN(dataset.n_users, dataset.n_items, CONFIG, text_embeddings).double()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter)  # zeros at start would hide errors
    p = {name: value.detach().clone().requires_grad_() for name, value in backbone.named_parameters()}
    rows = []
    for side, text in (("user", text_embeddings.users), ("item", text_embeddings.items)):
        for row, s in enumerate(torch.from_numpy(text).double()):
            gate = torch.softmax(p[f"{side}_experts.gate.weight"] @ s + p[f"{side}_experts.gate.bias"], 0)
            inner = p[f"{side}_experts.inner.weight"] @ s + p[f"{side}_experts.inner.bias"]
            mixed = 0
            for k in range(3):
                hidden = inner[3 * k : 3 * k + 3].relu()
                mixed = mixed + gate[k] * (
                    hidden @ p[f"{side}_experts.outer"][k] + p[f"{side}_experts.bias"][k]
                )
            both = torch.cat([p[f"{side}_embedding"][row], mixed])
            rows.append(p["merge.weight"] @ both + p["merge.bias"])
    expected = torch.stack(rows)
    torch.testing.assert_close(backbone.initial(), expected, rtol=1e-10, atol=1e-12)
    weights = torch.randn(expected.shape, dtype=torch.float64)
    (backbone.initial() * weights).sum().backward()
    (expected * weights).sum().backward()
    for name, parameter in backbone.named_parameters():
        torch.testing.assert_close(parameter.grad, p[name].grad, rtol=1e-8, atol=1e-10, msg=name)


def test_the_objective_is_the_backbones_own(toy):
    dataset, text_embeddings = toy
    kar = KARLightGCN(dataset.n_users, dataset.n_items, CONFIG, text_embeddings)
    plain = LightGCN(dataset.n_users, dataset.n_items, CONFIG)
    graph, batch = Graph.from_interactions(dataset.train), sample_batch(dataset)
    got, expected = (
        backbone.objective(kar.initial(), graph, batch, torch.Generator().manual_seed(0))
        for backbone in (kar, plain)
    )
    assert torch.equal(got.terms["bpr"], expected.terms["bpr"])


def test_text_vectors_are_asked_for(toy):
    dataset, text_embeddings = toy
    with pytest.raises(ConfigError, match="KARLightGCN needs text vectors"):
        KARLightGCN(dataset.n_users, dataset.n_items, CONFIG)
    with pytest.raises(ConfigError, match="backbone 'kar-sgl' needs text vectors: run 'rlmrec encode'"):
        build(RunSpec.resolve("kar-sgl"), dataset, None)
    few = TextEmbeddings(text_embeddings.users[:5], text_embeddings.items)
    with pytest.raises(
        ConfigError, match="KARLightGCN has 60 users and 45 items, the text vectors are for 5 and 45"
    ):
        KARLightGCN(dataset.n_users, dataset.n_items, CONFIG, few)


@pytest.mark.parametrize("kind", [KARLightGCN, KARSGL])
def test_the_default_options_are_those_of_both(toy, kind):
    dataset, text_embeddings = toy
    backbone = kind(dataset.n_users, dataset.n_items, text_embeddings=text_embeddings)
    assert (backbone.config.layers, backbone.config.expert_size) == (3, 64)


def test_the_text_is_not_in_the_state(toy):
    dataset, text_embeddings = toy
    state = KARLightGCN(dataset.n_users, dataset.n_items, CONFIG, text_embeddings).state_dict()
    assert not any(name.endswith("_text") for name in state)
    assert np.isfinite([float(v.sum()) for v in state.values()]).all()
