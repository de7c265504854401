"""AutoCF between two masks: what stays, what is drawn anew, and what a checkpoint must hold."""

import pytest
import torch

from rlmrec.backbones.autocf import AutoCF, AutoCFConfig
from rlmrec.errors import ConfigError
from rlmrec.graph import Graph
from rlmrec.testing import sample_batch


def terms_of(backbone, dataset, count, rng):
    graph = Graph.from_interactions(dataset.train)
    batch = sample_batch(dataset)
    return [backbone.objective(backbone.initial(), graph, batch, rng).terms for _ in range(count)]


def test_a_mask_serves_fix_steps_batches(toy):
    dataset, _ = toy
    backbone = AutoCF(dataset.n_users, dataset.n_items, AutoCFConfig(seeds=3, fix_steps=3))
    terms = terms_of(backbone, dataset, 7, torch.Generator().manual_seed(0))
    assert ["sampling" in one for one in terms] == [True, False, False, True, False, False, True]
    losses = [float(one["recommendation"].detach()) for one in terms]
    assert losses[0] == losses[1] == losses[2] != losses[3] == losses[4] == losses[5] != losses[6]


def test_a_run_is_taken_up_between_two_masks(toy):
    dataset, _ = toy
    config = AutoCFConfig(seeds=3, fix_steps=4)
    first, second = (AutoCF(dataset.n_users, dataset.n_items, config) for _ in range(2))
    rng = torch.Generator().manual_seed(0)
    terms_of(first, dataset, 2, rng)
    second.load_state_dict(first.state_dict())
    state = rng.get_state()
    ahead = terms_of(first, dataset, 3, rng)
    rng.set_state(state)
    for one, two in zip(ahead, terms_of(second, dataset, 3, rng), strict=True):
        assert one.keys() == two.keys()
        for name in one:
            assert torch.equal(one[name], two[name])


def test_the_encoder_sees_no_edge_of_a_seed_or_its_neighbours(toy):
    dataset, _ = toy
    backbone = AutoCF(dataset.n_users, dataset.n_items, AutoCFConfig(seeds=2, mask_depth=2))
    graph = Graph.from_interactions(dataset.train)
    backbone.chosen.copy_(torch.tensor([0, 70]))
    encoder, decoder = backbone._mask(graph, torch.Generator().manual_seed(0))
    rows, columns = (part.tolist() for part in graph.edge_index)
    masked = {0, 70} | {j for i, j in zip(rows, columns, strict=True) if i in (0, 70)}
    expected = [i not in masked and j not in masked for i, j in zip(rows, columns, strict=True)]
    assert (encoder.values > 0).tolist() == expected
    pairs = set(zip(*(part.tolist() for part in decoder.edge_index), strict=True))
    assert all((j, i) in pairs for i, j in pairs)
    assert all((i, i) in pairs for i in range(graph.n_nodes))
    assert {(i, j) for i, j, kept in zip(rows, columns, expected, strict=True) if kept} <= pairs


def test_heads_must_divide_the_size():
    with pytest.raises(ConfigError, match="embedding_size = 6 must be a multiple of heads = 4"):
        AutoCF(2, 2, AutoCFConfig(embedding_size=6))
