"""Short histories: which interactions stay, what is evaluated, and whose text vectors follow."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from rlmrec.closed_form.base import Texts, own_user_texts
from rlmrec.errors import ConfigError, DataError
from rlmrec.evaluation.groups import group_metrics
from rlmrec.evaluation.ranking import DotProduct, evaluate
from rlmrec.experiments.history import cut_history
from rlmrec.experiments.spec import RunSpec
from rlmrec.experiments.trial import Trial, TrialInputs
from rlmrec.testing import blocks
from rlmrec.text.embeddings import TextEmbeddings, mean_over_training
from rlmrec.workspace import Workspace


@pytest.fixture
def dataset():
    """Blocks whose interactions have times in no order, with two equal ones for many users."""
    found, _ = blocks()
    times = np.random.default_rng(5).integers(0, 9, len(found.train)).astype(float)
    return replace(found, train=replace(found.train, timestamp=times))


def pairs(interactions):
    return set(zip(interactions.users.tolist(), interactions.items.tolist(), strict=True))


@pytest.mark.parametrize("length", [1, 2, 5, 100])
def test_the_first_and_last_against_sorting_each_history(dataset, length):
    train = dataset.train
    for keep, sign in (("first", 1), ("last", -1)):
        expected = set()
        for user in range(dataset.n_users):
            mine = [
                (sign * time, item)
                for owner, item, time in zip(train.users, train.items, train.timestamp, strict=True)
                if owner == user
            ]
            expected |= {(user, int(item)) for _, item in sorted(mine)[:length]}
        cut = cut_history(dataset, length, keep)
        assert pairs(cut.train) == expected
        assert pairs(cut.unranked) == pairs(train) - expected


def test_random_histories_are_nested_and_follow_the_seed_not_the_order_of_the_file(dataset):
    cuts = [cut_history(dataset, length, seed=1) for length in (1, 2, 3, 5)]
    for short, longer in itertools.pairwise(cuts):
        assert pairs(short.train) < pairs(longer.train)
    full = dataset.train.user_degrees()
    assert np.array_equal(cuts[2].train.user_degrees(), np.minimum(full, 3))
    mixed = replace(
        dataset, train=dataset.train.take(np.random.default_rng(0).permutation(len(dataset.train)))
    )
    assert pairs(cut_history(mixed, 2, seed=1).train) == pairs(cuts[1].train)
    assert pairs(cut_history(dataset, 2, seed=2).train) != pairs(cuts[1].train)
    assert cuts[0].fingerprint != cuts[1].fingerprint != dataset.fingerprint


def test_the_evaluation_is_unchanged(dataset):
    cut = cut_history(dataset, 1)
    rng = np.random.default_rng(0)
    scores = DotProduct(
        *(rng.standard_normal((n, 4), np.float32) for n in (dataset.n_users, dataset.n_items))
    )
    for split in ("valid", "test"):
        whole, short = (evaluate(scores, one, split=split) for one in (dataset, cut))
        assert np.array_equal(whole.items, short.items), "no removed item is a candidate"
        assert np.array_equal(whole.hits, short.hits)
    assert group_metrics(whole, dataset) == group_metrics(short, cut), "nor do the groups change"


def test_wrong_histories_are_refused(dataset):
    with pytest.raises(ConfigError, match="a history of 0 random interactions: expected at least 1"):
        cut_history(dataset, 0)
    with pytest.raises(ConfigError, match="expected at least 1, and one of random, first, last"):
        cut_history(dataset, 1, "newest")
    without = replace(dataset, train=replace(dataset.train, timestamp=None))
    with pytest.raises(DataError, match="last interactions need timestamps"):
        cut_history(without, 1, "last")


@pytest.fixture
def place(tmp_path):
    """A workspace in which every second user has a text of its own, the others the mean over their items."""
    place = Workspace(tmp_path / "w")
    dataset, texts = blocks()
    dataset.save(place.dataset_path)
    means = mean_over_training(texts.items, dataset.train)
    own = np.arange(dataset.n_users) % 2 == 0
    mixed = np.where(own[:, None], texts.users, means)
    TextEmbeddings(mixed, texts.items, texts.manifest).save(place.text_embeddings_path())
    return place


def trial(place, backbone="lightgcn", alignment="contrastive", **more):
    dataset = place.dataset()
    spec = RunSpec.resolve(backbone, alignment, seed=1)
    return Trial(spec, dataset.fingerprint, place.text_embeddings(dataset).digest, "default", **more)


def test_means_follow_the_cut_and_own_texts_stay(place):
    inputs = TrialInputs(place)
    whole, before = inputs.of(trial(place))
    short, after = inputs.of(trial(place, history=2))
    own = np.arange(whole.n_users) % 2 == 0
    assert np.array_equal(after.users[own], before.users[own])
    assert np.allclose(after.users[~own], mean_over_training(before.items, short.train)[~own])
    assert not np.allclose(after.users[~own], before.users[~own])
    assert np.array_equal(own_user_texts(after, short), own)


def test_a_closed_form_reads_no_means_as_texts_of_users_when_texts_are_shuffled(place):
    inputs = TrialInputs(place)
    for history in (0, 2):
        for which in ("items", "users", "both"):
            one = trial(place, "graph-filter", "none", shuffle=which, history=history)
            dataset, shuffled = inputs.of(one)
            texts = Texts.of(shuffled, dataset)
            assert texts.has_user.sum() == dataset.n_users // 2, "as many as before, perhaps others"
            before = inputs.text_embeddings("default").users[::2]
            found = {row.tobytes() for row in texts.users[texts.has_user]}
            assert found == {row.tobytes() for row in before}, "and these have texts of users"


def test_the_identity_names_the_history_only_where_it_is_cut(place):
    plain, cut = trial(place), trial(place, history=3)
    assert "history" not in plain.as_dict()["data"]
    assert cut.as_dict()["data"]["history"] == 3
    assert len({plain.id, cut.id, trial(place, history=3, keep="last").id}) == 3
    assert "3 random interactions of each user" in cut.label
    with pytest.raises(ConfigError, match="history 2 with period 'later'"):
        trial(place, history=2, period="later")
