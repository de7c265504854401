"""Distant users: breadth-first search, partners and ranks against brute force."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.csgraph import shortest_path

from rlmrec.data.interactions import Interactions
from rlmrec.errors import ConfigError, DataError
from rlmrec.experiments.results import Results
from rlmrec.paper import case_study
from rlmrec.paper.case_study import distant_pairs, within_hops
from rlmrec.recommend.recommender import Recommender
from rlmrec.workspace import Workspace


def sparse_graph(users=40, items=30, pairs=55, seed=0):
    rng = np.random.default_rng(seed)
    keys = rng.choice(users * items, pairs, replace=False)
    return Interactions(keys // items, keys % items, users, items)


@pytest.mark.parametrize("hops", [1, 2, 3, 4, 5, 6])
def test_breadth_first_search(hops):
    train = sparse_graph()
    user_item = train.csr()
    distances = shortest_path(sp.block_array([[None, user_item], [user_item.T, None]]), unweighted=True)
    expected = distances[: train.n_users, : train.n_users] <= hops
    found = np.concatenate([within_hops(train, slice(at, at + 7), hops) for at in range(0, 40, 7)])
    assert (found == expected).all()


@pytest.mark.parametrize("gaps", [False, True])
def test_partners_and_ranks_against_brute_force(gaps):
    train = sparse_graph()
    rng = np.random.default_rng(1)
    texts = rng.standard_normal((40, 5)).astype(np.float32)
    has_text = np.arange(40) % 3 > 0 if gaps else np.ones(40, bool)  # who has none is in no pair
    texts[~has_text] = 0
    directions = np.array([[1, 0], [0, 1], [-1, 0], [0, 0]], np.float32)
    model = directions[rng.integers(4, size=40)]  # many equal cosines, and exactly equal
    pairs = distant_pairs(train, texts, {"m": model})

    def cosine(matrix, a, b):
        lengths = np.linalg.norm(matrix[a]) * np.linalg.norm(matrix[b])
        return matrix[a] @ matrix[b] / lengths if lengths else 0.0

    near = within_hops(train, slice(0, 40), 3)
    found = pairs["agreeing"]
    for place, user in enumerate(found.users):
        distant = [other for other in range(40) if not near[user, other]]
        partner = max(
            (other for other in distant if has_text[other]), key=lambda other: cosine(texts, user, other)
        )
        assert found.partners[place] == partner
        assert found.n_distant[place] == len(distant)
        own = cosine(model, user, partner)
        values = np.array([cosine(model, user, other) for other in distant])
        better, equal = (values > own).sum(), (values == own).sum()
        assert found.rank["m"][place] == 1 + better + (equal - 1) / 2
    assert set(found.users) == set(np.flatnonzero(has_text))
    control = pairs["random"]
    assert not near[control.users, control.partners].any()
    assert len(set(control.partners.tolist())) > 15


def test_blocks_do_not_change_the_result():
    train = sparse_graph()
    texts = np.random.default_rng(1).standard_normal((40, 5)).astype(np.float32)
    whole, small = (
        distant_pairs(train, texts, {"m": texts}, memory_budget=budget) for budget in (1 << 20, 1)
    )
    for kind in case_study.KINDS:
        assert (whole[kind].partners == small[kind].partners).all()
        assert (whole[kind].rank["m"] == small[kind].rank["m"]).all()


def test_an_aligned_model_brings_agreeing_users_closer(toy, tmp_path):
    """A model that knows the texts ranks the partner first; the base knows nothing."""
    dataset, text_embeddings = toy
    place = Workspace(tmp_path)
    dataset.save(place.dataset_path)
    text_embeddings.save(place.text_embeddings_path())
    rng = np.random.default_rng(0)
    items = rng.standard_normal((dataset.n_items, 8)).astype(np.float32)
    for name, users in (
        ("base", rng.standard_normal((dataset.n_users, 8), np.float32)),
        ("con", text_embeddings.users),
    ):
        folder = place.run(name)
        Recommender.of(dataset, users, items).save(folder / "recommender")
        (folder / "metrics.json").write_text("{}")
    result = case_study.run(place, "base", ["con"], examples=2)
    [line] = Results(tmp_path / "experiments" / "figure6" / "blocks.jsonl").records.values()
    assert {name: value for name, value in line.items() if name not in ("id", "status")} == result
    case_study.run(place, "base", ["con"], examples=2)  # asked again, it takes the place of the first
    assert len(Results(tmp_path / "experiments" / "figure6" / "blocks.jsonl").records) == 1
    agreeing, control = (result["kinds"][kind] for kind in case_study.KINDS)
    assert agreeing["models"]["con"]["median_rank"] == 1
    assert agreeing["against_base"]["con"]["rank_percentile"]["p_wilcoxon"] < 1e-6
    assert agreeing["against_base"]["con"]["rank_percentile"]["high"] < 0
    pairs = distant_pairs(dataset.train, text_embeddings.users, {})["agreeing"]
    tests = [set(dataset.test.items[dataset.test.users == user]) for user in range(dataset.n_users)]
    common = [bool(tests[a] & tests[b]) for a, b in zip(pairs.users, pairs.partners, strict=True)]
    assert agreeing["share_a_test_item"] == np.mean(common)
    assert control["against_base"]["con"]["rank_percentile"]["p_t"] > 0.01
    assert len(result["examples"]) == 2
    assert result["examples"][0]["agreement"] >= result["examples"][1]["agreement"]


def test_what_cannot_be_studied_is_said(toy):
    dataset, text_embeddings = toy
    with pytest.raises(ConfigError, match="a base and at least one other model, got"):
        case_study.case_study(dataset, text_embeddings, {"base": text_embeddings.users})
    everyone = Interactions(np.arange(4), np.zeros(4, int), 4, 2)
    with pytest.raises(DataError, match="no distant pairs"):
        distant_pairs(everyone, np.ones((4, 2), np.float32), {"m": np.ones((4, 2), np.float32)})
    with pytest.raises(DataError, match="vectors of 3 users"):
        distant_pairs(everyone, np.ones((3, 2), np.float32), {})
