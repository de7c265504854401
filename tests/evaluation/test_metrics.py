import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ir_measures import AP, RR, P, R, Success, nDCG

from rlmrec.evaluation import metrics


def slow(hits, n_relevant):
    """One user, by the book."""
    k = len(hits)
    ranks = [rank for rank, hit in enumerate(hits, 1) if hit]
    best = min(k, n_relevant)
    return {
        "recall": len(ranks) / n_relevant,
        "ndcg": sum(1 / math.log2(r + 1) for r in ranks)
        / sum(1 / math.log2(r + 1) for r in range(1, best + 1)),
        "precision": len(ranks) / k,
        "mrr": 1 / ranks[0] if ranks else 0,
        "hit_rate": float(bool(ranks)),
        "map": sum((n + 1) / rank for n, rank in enumerate(ranks)) / best,
    }


def random_lists(seed, n=60, n_items=80, k=20, held_out=30):
    rng = np.random.default_rng(seed)
    ranked = np.stack([rng.permutation(n_items)[:k] for _ in range(n)])
    relevant = [set(rng.permutation(n_items)[: rng.integers(1, held_out)].tolist()) for _ in range(n)]
    hits = np.array(
        [[item in wanted for item in row] for row, wanted in zip(ranked.tolist(), relevant, strict=True)]
    )
    return ranked, relevant, hits, np.array([len(wanted) for wanted in relevant])


@pytest.mark.parametrize("k", [1, 5, 10, 20])
def test_against_the_slow_reference(k):
    _, _, hits, n_relevant = random_lists(k)
    for user in range(len(hits)):
        expected = slow(hits[user, :k].tolist(), int(n_relevant[user]))
        for name, metric in metrics.ACCURACY.items():
            assert metric(hits[:, :k], n_relevant)[user] == pytest.approx(expected[name]), name


@pytest.mark.parametrize("k", [5, 10, 20])
def test_against_ir_measures(k):
    """An independent library; its AP divides by |held-out|, the same where nobody has more than k."""
    for held_out in (40, k + 1):
        ranked, relevant, hits, n_relevant = random_lists(k, held_out=held_out)
        qrels = [
            ir_measures.Qrel(str(user), str(item), 1)
            for user, wanted in enumerate(relevant)
            for item in wanted
        ]
        run = [
            ir_measures.ScoredDoc(str(user), str(item), float(-rank))
            for user, row in enumerate(ranked.tolist())
            for rank, item in enumerate(row)
        ]
        theirs = {
            "recall": R @ k,
            "ndcg": nDCG @ k,
            "precision": P @ k,
            "mrr": RR @ k,
            "hit_rate": Success @ k,
        }
        if held_out == k + 1:
            theirs["map"] = AP @ k
        for name, measure in theirs.items():
            values = {m.query_id: m.value for m in ir_measures.iter_calc([measure], qrels, run)}
            ours = metrics.ACCURACY[name](hits[:, :k], n_relevant)
            np.testing.assert_allclose(
                ours, [values[str(u)] for u in range(len(ours))], atol=1e-6, err_msg=name
            )


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 25))), st.integers(0, 30))
def test_accuracy_is_between_0_and_1(hits, unfound):
    n_relevant = np.maximum(hits.sum(axis=1) + unfound, 1)
    for name, metric in metrics.ACCURACY.items():
        values = metric(hits, n_relevant)
        assert values.shape == (len(hits),), name
        assert ((values >= 0) & (values <= 1)).all(), name


def test_a_perfect_list_has_1():
    hits, n_relevant = np.array([[True] * 20, [True] * 3 + [False] * 17]), np.array([30, 3])
    np.testing.assert_allclose(metrics.ndcg(hits, n_relevant), 1)
    np.testing.assert_allclose(metrics.average_precision(hits, n_relevant), 1)


def test_novelty_and_popularity():
    ranked = np.array([[0, 1], [2, -1], [-1, -1]])
    popularity = np.array([8, 2, 0])
    # p = 1, 1/4 and, for the item that nobody trained on, 1/8
    np.testing.assert_allclose(metrics.novelty(ranked, popularity, n_users=8), [1.0, 3.0, 0.0])
    np.testing.assert_allclose(metrics.average_popularity(ranked, popularity), [5.0, 0.0, 0.0])


def test_coverage():
    assert metrics.coverage(np.array([[0, 1], [1, -1]]), n_items=4) == 0.5


def test_gini():
    assert metrics.gini(np.array([[0, 1], [2, 3]]), n_items=4) == pytest.approx(0)
    assert metrics.gini(np.array([[2], [2]]), n_items=4) == pytest.approx(0.75)  # (I − 1) / I
    assert metrics.gini(np.array([[-1]]), n_items=4) == 0
    exposure = [1, 0, 4, 2, 2]
    ranked = np.repeat(np.arange(5), exposure)[None]
    pairwise = sum(abs(a - b) for a in exposure for b in exposure) / (2 * 5 * sum(exposure))
    assert metrics.gini(ranked, 5) == pytest.approx(pairwise)
