import warnings

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from rlmrec.alignment.teacher import TeacherLists
from rlmrec.closed_form import ItemKNN, Popularity
from rlmrec.data.dataset import Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.evaluation.ranking import OVERALL, PER_USER, DotProduct, evaluate, read_table
from rlmrec.recommend.recommender import Recommender
from rlmrec.testing import blocks


def make(train, valid, test, n_users, n_items):
    splits = [
        Interactions(*(np.array(column, np.int64) for column in zip(*pairs, strict=True)), n_users, n_items)
        if pairs
        else Interactions(np.empty(0, np.int64), np.empty(0, np.int64), n_users, n_items)
        for pairs in (train, valid, test)
    ]
    return Dataset("small", *splits, Vocabulary(range(n_users), "user"), Vocabulary(range(n_items), "item"))


def random_dataset(seed=0, n_users=70, n_items=45, share=0.3):
    rng = np.random.default_rng(seed)
    train, valid, test = [], [], []
    for user in range(n_users):
        chosen = rng.permutation(n_items)[: rng.integers(1, int(n_items * share))]
        train.append((user, int(chosen[0])))
        for item in chosen[1:].tolist():
            (train, valid, test)[rng.integers(3)].append((user, item))
    return make(train, valid, test, n_users, n_items)


def random_scores(dataset, seed=0, d=6):
    rng = np.random.default_rng(seed)
    return DotProduct(
        *(rng.standard_normal((n, d), dtype=np.float32) for n in (dataset.n_users, dataset.n_items))
    )


class Fixed:
    """A scorer of one's own: a matrix."""

    def __init__(self, matrix):
        self.matrix = np.array(matrix, np.float32)

    def score(self, users):
        return self.matrix[users]


def slow(scores, dataset, k, split):
    """user -> (ranked items, hits), pure Python."""
    trained, wanted = [{u: set() for u in range(dataset.n_users)} for _ in range(2)]
    for part, sets in ((dataset.train, trained), (dataset.split(split), wanted)):
        for user, item in zip(part.users.tolist(), part.items.tolist(), strict=True):
            sets[user].add(item)
    result = {}
    for user in range(dataset.n_users):
        if wanted[user]:
            row = scores.score(np.array([user]))[0].tolist()
            items = [i for i in range(dataset.n_items) if i not in trained[user]]
            items = sorted(items, key=lambda i: (-row[i], i))[:k]
            result[user] = (items, [i in wanted[user] for i in items], len(wanted[user]))
    return result


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("seed", range(3))
def test_against_the_slow_reference(seed, split):
    dataset = random_dataset(seed)
    rng = np.random.default_rng(seed)
    # Few levels, so that ties matter.
    scores = Fixed(rng.integers(6, size=(dataset.n_users, dataset.n_items)))
    ranking = evaluate(scores, dataset, k=(5, 10), split=split)
    expected = slow(scores, dataset, 10, split)
    assert ranking.users.tolist() == list(expected)
    for row, (items, hits, n_relevant) in enumerate(expected.values()):
        assert ranking.items[row].tolist() == items
        assert ranking.hits[row].tolist() == hits
        assert ranking.n_relevant[row] == n_relevant
    recalls = [sum(hits[:5]) / n for _, hits, n in expected.values()]
    assert ranking.metrics()["recall@5"] == pytest.approx(np.mean(recalls))


def test_training_items_are_never_ranked_and_validation_items_are():
    dataset = make(
        train=[(0, 0), (1, 1), (2, 2)], valid=[(0, 1), (1, 2)], test=[(0, 2), (1, 0)], n_users=3, n_items=4
    )
    ranking = evaluate(Fixed([[9, 8, 7, 6], [6, 9, 8, 7], [1, 2, 3, 4]]), dataset, k=(2,))
    assert ranking.users.tolist() == [0, 1]  # user 2 has nothing held out
    assert ranking.items.tolist() == [[1, 2], [2, 3]]  # 0's validation item 1 ranks before the test item 2
    assert ranking.hits.tolist() == [[False, True], [False, False]]
    assert ranking.per_user("mrr@2").tolist() == [0.5, 0.0]
    assert ranking.metric("recall@2") == 0.5


def test_fewer_candidates_than_k():
    dataset = make([(0, 0), (0, 1), (1, 2)], [], [(0, 2), (1, 0)], n_users=2, n_items=3)
    ranking = evaluate(Fixed(np.zeros((2, 3))), dataset, k=(1, 5))
    assert ranking.items.tolist() == [[2, -1, -1, -1, -1], [0, 1, -1, -1, -1]]
    assert ranking.per_user("precision@5").tolist() == [0.2, 0.2]
    assert ranking.metric("coverage@5") == 1.0


@pytest.mark.parametrize("budget", [1, 40_000, 1 << 28])
def test_the_memory_budget_changes_nothing(budget):
    dataset = random_dataset(n_users=300)
    scores = random_scores(dataset)
    whole = evaluate(scores, dataset)
    for scorer in (scores, Fixed(scores.users @ scores.items.T)):
        blocks = evaluate(scorer, dataset, memory_budget=budget)
        np.testing.assert_array_equal(whole.items, blocks.items)
        np.testing.assert_array_equal(whole.hits, blocks.hits)


def test_metrics_and_values_per_user():
    ranking = evaluate(random_scores(dataset := random_dataset()), dataset, k=(10, 5))
    found = ranking.metrics()
    assert set(found) == {f"{name}@{k}" for name in (*PER_USER, *OVERALL) for k in (5, 10)}
    assert all(np.isfinite(value) for value in found.values())
    for name in PER_USER:
        assert found[f"{name}@5"] == pytest.approx(ranking.per_user(f"{name}@5").mean())
    assert len(ranking) == len(ranking.per_user("recall@3"))  # any k up to the largest
    assert 0 <= found["novelty@10"] <= np.log2(dataset.n_users)


@pytest.mark.parametrize(
    "name", ["recall", "recall@", "recall@0", "recall@21", "recall@-1", "accuracy@5", "coverage@5"]
)
def test_unknown_metrics(name):
    ranking = evaluate(random_scores(dataset := random_dataset()), dataset)
    with pytest.raises(ConfigError):
        ranking.per_user(name)


def test_table_on_disk(tmp_path):
    ranking = evaluate(random_scores(dataset := random_dataset()), dataset)
    ranking.save(tmp_path / "test.parquet")
    table = read_table(tmp_path / "test.parquet")
    assert_frame_equal(table, ranking.table())
    assert table["user"].to_list() == ranking.users.tolist()
    np.testing.assert_array_equal(table["ndcg@20"].to_numpy(), ranking.per_user("ndcg@20"))
    assert [p.name for p in tmp_path.iterdir()] == ["test.parquet"]


def test_damaged_tables(tmp_path):
    path = tmp_path / "test.parquet"
    with pytest.raises(WorkspaceError, match="does not exist"):
        read_table(path)
    path.write_bytes(b"PAR1 not at all")
    with pytest.raises(WorkspaceError, match=r"test\.parquet is damaged"):
        read_table(path)
    pl.DataFrame({"a": [1]}).write_parquet(path)
    with pytest.raises(WorkspaceError, match="expected user"):
        read_table(path)


def test_wrong_input():
    dataset = random_dataset()
    scores = random_scores(dataset)
    assert evaluate(scores, dataset, k=7).metrics() == evaluate(scores, dataset, k=(7,)).metrics()
    for k in ((), (0, 5)):
        with pytest.raises(ConfigError, match="k must be"):
            evaluate(scores, dataset, k=k)
    with pytest.raises(DataError, match=r"scores is a tuple: expected DotProduct\(users, items\)"):
        evaluate((np.ones((3, 2)), np.ones((4, 2))), dataset)
    with pytest.raises(ConfigError, match="never ranked"):
        evaluate(scores, dataset, split="train")
    with pytest.raises(ConfigError, match="unknown split 'tset': evaluate on 'valid' or 'test'"):
        evaluate(scores, dataset, split="tset")
    with pytest.raises(DataError, match="there are 3 user embeddings, but small has 70"):
        evaluate(DotProduct(scores.users[:3], scores.items), dataset)
    with pytest.raises(DataError, match=r"scores of \d+ users have shape"):
        evaluate(DotProduct(scores.users, scores.items[:9]), dataset)
    with pytest.raises(DataError, match="NaN"):
        evaluate(DotProduct(scores.users, np.full_like(scores.items, np.nan)), dataset)
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate(scores, make([(0, 0), (1, 1)], [], [], 70, 45))
    for k in (2.5, "20", [5, "20"], True, np.array(5)):
        with pytest.raises(ConfigError, match="k must be one or more whole numbers"):
            evaluate(scores, dataset, k=k)
    assert evaluate(scores, dataset, k=np.int64(7)).k == (7,)
    recommender = Recommender.of(dataset, scores.users, scores.items)
    with pytest.raises(DataError, match=r"scores is a Recommender: expected its scorer\(\)"):
        evaluate(recommender, dataset)


def test_some_users():
    dataset = random_dataset()
    scores = random_scores(dataset)
    with_test = np.flatnonzero(dataset.test.user_degrees())
    whole, some = evaluate(scores, dataset), evaluate(scores, dataset, users=with_test[3:8].tolist())
    assert np.array_equal(some.users, with_test[3:8])
    assert np.array_equal(some.items, whole.items[3:8])
    for users, told in (
        ([0, 99999], r"users has the row 99999: expected rows from 0 to 69; of ids, dataset\.users\.rows"),
        ([-1], "users has the row -1"),
        (["u1"], "expected rows of users, such as"),
        (np.ones(70, bool), "users has type bool"),
    ):
        with pytest.raises(ConfigError, match=told):
            evaluate(scores, dataset, users=users)
    without = np.flatnonzero(dataset.test.user_degrees() == 0)[:2]
    with pytest.raises(DataError, match="none of the 2 users has an item in the test split"):
        evaluate(scores, dataset, users=without)


def test_scores_of_another_split_are_told_where_they_know_theirs():
    dataset, other = random_dataset(), random_dataset(1)
    model = Popularity.fit(dataset)
    scorer = Recommender.of_model(dataset, model).scorer()
    with_neighbours = Recommender.of_model(dataset, ItemKNN.fit(dataset)).scorer()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scores in (model, scorer, with_neighbours):
            assert scores.fingerprint == dataset.fingerprint
            evaluate(scores, dataset)
        evaluate(random_scores(dataset), other)  # of an unknown dataset
        TeacherLists.of(model, dataset.final())
    for scores in (model, scorer, with_neighbours):
        with pytest.warns(UserWarning, match=f"another dataset or split .fingerprint {dataset.fingerprint}"):
            evaluate(scores, other)
        with pytest.raises(DataError, match=r"another dataset or split .* fit the teacher to this dataset"):
            TeacherLists.of(scores, other)
    final = dataset.final()
    for fit in (Popularity.fit, ItemKNN.fit):
        model_of_all = fit(final)
        TeacherLists.of(model_of_all, final)
        for scores in (
            model_of_all,
            Recommender.of_model(dataset, model_of_all).scorer(),
            Recommender.of(final, model_of_all.users, model_of_all.items).scorer(),
        ):
            with pytest.warns(UserWarning, match="of a final dataset.* were in its training; fit the model"):
                evaluate(scores, dataset)
            with pytest.raises(DataError, match="is of a final dataset"):
                TeacherLists.of(scores, dataset)
    with pytest.warns(UserWarning, match="fit the model to this dataset"):
        Recommender.of_model(other, model)
    for wrong in ({"spread": 3}, {"spread": 0}, {"spread": "wide"}, {"length": 0}, {"length": 2.5}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be"):
            TeacherLists.of(model, dataset, **wrong)


def test_scores_of_integers_and_far_too_long_lists_are_refused():
    dataset, _ = blocks()

    class Counts:
        def score(self, users):
            return np.ones((len(users), dataset.n_items), np.int64)

    with pytest.raises(DataError, match="scores must be float32, got int64"):
        evaluate(Counts(), dataset)
    with pytest.raises(
        ConfigError, match="expected at most 1,000, the larger of 1,000 and the number of items"
    ):
        evaluate(Counts(), dataset, k=[2_000_000_000])


def test_wrong_embeddings():
    with pytest.raises(DataError, match="float32"):
        DotProduct(np.zeros((2, 2)), np.zeros((2, 2), np.float32))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="user embeddings have 2 dimensions and item embeddings 3"):
        DotProduct(np.zeros((2, 2), np.float32), np.zeros((2, 3), np.float32))


def test_scores_are_cosines():
    rng = np.random.default_rng(0)
    users, items = rng.standard_normal((3, 4), np.float32), rng.standard_normal((5, 4), np.float32)
    users[2] = 0
    scores = DotProduct.cosine(users, items).score(np.array([0, 2]))
    expected = [users[0] @ item / np.linalg.norm(users[0]) / np.linalg.norm(item) for item in items]
    np.testing.assert_allclose(scores, [expected, [0] * 5], rtol=1e-5)
    assert scores.dtype == np.float32


def test_texts_that_tell_the_groups_apart_recommend_the_own_group():
    dataset, text_embeddings = blocks(text_size=32)
    ranking = evaluate(DotProduct.cosine(text_embeddings.users, text_embeddings.items), dataset, k=(5,))
    assert (ranking.users[:, None] // 20 == ranking.items // 15).mean() > 0.95
