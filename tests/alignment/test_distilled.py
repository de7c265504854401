"""Distillation: the teacher's lists, their perplexity, and what a student makes of them."""

import numpy as np
import pytest
import torch

from rlmrec import DotProduct, TeacherLists, evaluate, train
from rlmrec.alignment import Distilled
from rlmrec.alignment.teacher import spread_to_perplexity
from rlmrec.backbones import MF, LightGCN
from rlmrec.backbones.autocf import AutoCF
from rlmrec.closed_form import Texts
from rlmrec.closed_form.graph_filter import GraphFilter
from rlmrec.errors import ConfigError, DataError
from rlmrec.experiments.run import build
from rlmrec.experiments.spec import RunSpec
from rlmrec.graph import Graph
from rlmrec.testing import blocks, check_alignment, sample_batch
from rlmrec.training.step import step


def perplexity(probabilities):
    """exp of the entropy of each row, as a plain loop."""
    return np.array([np.exp(-sum(p * np.log(p) for p in row if p > 0)) for row in probabilities])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("spread", [0.05, 0.4, 0.95])
def test_targets_have_the_wanted_perplexity_whatever_the_scale_of_the_scores(scale, spread):
    scores = np.sort(np.random.default_rng(0).standard_normal((50, 40)).astype(np.float32) * scale)[:, ::-1]
    targets = spread_to_perplexity(scores, spread)
    np.testing.assert_allclose(targets.sum(1), 1)
    np.testing.assert_allclose(perplexity(targets), spread * 40, rtol=1e-6)
    assert (np.diff(targets) <= 0).all(), "a better item never has a lower probability"
    softmaxes = np.log(targets[:, 0] / targets[:, 1]) / (scores[:, 0] - scores[:, 1])
    again = np.log(targets[:, 2] / targets[:, 5]) / (scores[:, 2] - scores[:, 5])
    np.testing.assert_allclose(softmaxes, again, rtol=1e-3)  # one temperature for the whole row


def test_equal_scores_missing_places_and_empty_rows():
    scores = np.array([[3, 3, 3, 3], [5, 4, -np.inf, -np.inf], [-np.inf] * 4, [7, 7, 1, 0]], np.float32)
    targets = spread_to_perplexity(scores, 0.5)
    np.testing.assert_allclose(targets[0], 0.25)  # no temperature makes equal scores unequal
    assert targets[1].tolist()[2:] == [0, 0]
    assert targets[1].sum() == pytest.approx(1)
    assert perplexity(targets[1:2]) == pytest.approx(1, abs=1e-6)  # half of two items
    assert not targets[2].any()
    np.testing.assert_allclose(targets[3], [0.5, 0.5, 0, 0], atol=1e-6)


def test_lists_are_the_teachers_best_without_training_items(toy):
    dataset, _ = toy
    scores = np.random.default_rng(1).random((dataset.n_users, dataset.n_items), np.float32)

    class Table:
        def score(self, users):
            return scores[users].copy()

    lists = TeacherLists.of(Table(), dataset, length=7, teacher="a table")
    for user in range(dataset.n_users):
        trained = set(dataset.train.items[dataset.train.users == user].tolist())
        best = [item for item in np.argsort(-scores[user]) if item not in trained][:7]
        assert lists.items[user].tolist() == best
    assert repr(lists) == f"TeacherLists(a table, {dataset.n_users} users, 7 items each)"
    held_out = set(zip(dataset.test.users.tolist(), dataset.test.items.tolist(), strict=True))
    listed = {(u, i) for u, row in enumerate(lists.items.tolist()) for i in row}
    assert held_out & listed, "held-out items are not removed: that would tell the student what they are"


@pytest.mark.parametrize("kind", [LightGCN, MF, AutoCF])
def test_distilled_does_what_every_alignment_does(toy, kind):
    dataset, _ = toy
    for options in ({}, {"loss": "softmax"}) if kind is not AutoCF else ({},):
        check_alignment(
            Distilled, kind(dataset.n_users, dataset.n_items, embedding_size=8, **options), dataset
        )


@pytest.mark.parametrize("options", [{}, {"every": 3}])
@pytest.mark.parametrize(("kind", "own", "passes"), [(MF, {"loss": "softmax"}, 1), (AutoCF, {"heads": 2}, 3)])
def test_one_pass_with_the_softmax_changes_nothing(toy, kind, own, passes, options):
    dataset, _ = toy
    torch.manual_seed(0)
    backbone = kind(dataset.n_users, dataset.n_items, embedding_size=8, **own).double()
    scores = DotProduct(torch.randn(dataset.n_users, 2).numpy(), torch.randn(dataset.n_items, 2).numpy())
    alignment = Distilled(TeacherLists.of(scores, dataset, 5), backbone, weight=0.6, **options).double()
    graph = Graph.from_interactions(dataset.train, dtype=torch.float64)
    batch = sample_batch(dataset)
    results = []
    for is_joint in (True, False):
        if not is_joint:
            alignment.targets = lambda batch: None
        if kind is AutoCF:
            backbone.batches.zero_()  # the same mask again
        with torch.profiler.profile() as profile:
            terms = step(backbone, alignment, graph, batch, 0.0, torch.Generator().manual_seed(0))
            gradients = torch.autograd.grad(sum(terms.values()), list(backbone.parameters()))
        results.append((terms, gradients))
        done = sum(event.name == "rlmrec::softmax_sums" for event in profile.events())
        assert done == (passes if is_joint else passes + 1)
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-14)


def test_a_teacher_that_is_right_makes_a_student_that_is_right():
    """Nothing else teaches the student: its own loss is off, and only the teacher's text knows the groups."""
    dataset, text_embeddings = blocks(4, users=25, items=25, density=0.2)
    texts = Texts(text_embeddings.items, text_embeddings.users)
    same = np.arange(100)[:, None] // 25 == np.arange(100)[None, :] // 25

    class Student(MF):
        def objective(self, x, graph, batch, rng):
            out = super().objective(x, graph, batch, rng)
            return out._replace(terms={name: 0 * term for name, term in out.terms.items()})

    known = DotProduct(np.eye(100, dtype=np.float32), same.astype(np.float32))
    for teacher in (known, GraphFilter.fit(dataset, texts)):
        lists = TeacherLists.of(teacher, dataset, 20)
        torch.manual_seed(0)
        student = Student(100, 100, embedding_size=16, loss="softmax")
        options = {"learning_rate": 0.05, "batch_size": 64, "epochs": 30}
        trained = train(student, Distilled(lists, student), dataset, options)
        ranking = evaluate(DotProduct(trained.users, trained.items), dataset)
        own = ranking.items[:, :10] // 25 == (ranking.users // 25)[:, None]
        assert own.mean() > 0.98


def test_the_same_seed_gives_the_same_run(toy):
    dataset, text_embeddings = toy
    spec = RunSpec.resolve("lightgcn", "distilled", options={"contrastive_weight": 0.1, "epochs": 3})
    runs = []
    for _ in range(2):
        backbone, alignment = build(spec, dataset, text_embeddings)
        runs.append(train(backbone, alignment, dataset, spec.training, seed=1))
    assert np.array_equal(runs[0].items, runs[1].items)
    assert [epoch["loss"] for epoch in runs[0].epochs] == [epoch["loss"] for epoch in runs[1].epochs]
    assert {"distilled", "contrastive"} <= runs[0].epochs[0]["loss"].keys()


def test_the_teacher_reads_text_only_where_it_is_wanted(toy):
    dataset, text_embeddings = toy
    teachers = {}
    for wanted in (True, False):
        spec = RunSpec.resolve("lightgcn", "distilled", options={"teacher_text": wanted})
        assert spec.reads_text is wanted
        assert not spec.needs_text
        _, alignment = build(spec, dataset, text_embeddings)
        teachers[wanted] = alignment.teacher
    assert teachers == {True: "graph-filter with text", False: "graph-filter"}
    _, without = build(RunSpec.resolve("lightgcn", "distilled"), dataset, None)
    assert without.teacher == "graph-filter"


def test_mistakes_are_named(toy):
    dataset, text_embeddings = toy
    other = blocks(seed=7)[0]
    backbone = LightGCN(dataset.n_users, dataset.n_items, embedding_size=4)
    scores = DotProduct(np.ones((dataset.n_users, 2), np.float32), np.ones((dataset.n_items, 2), np.float32))
    foreign = TeacherLists.of(scores, other, 5, teacher="graph-filter of yesterday")
    with pytest.raises(
        ConfigError, match=r"lists of the teacher 'graph-filter of yesterday' .* another dataset"
    ):
        train(backbone, Distilled(foreign, backbone), dataset)
    lists = TeacherLists.of(scores, dataset, 5)
    with pytest.raises(ConfigError, match=r"lists items for 60 users, the backbone has 7"):
        Distilled(lists, LightGCN(7, dataset.n_items, embedding_size=4))
    with pytest.raises(ConfigError, match=r"\d+ rows of items that the backbone does not have, such as"):
        Distilled(lists, LightGCN(dataset.n_users, 3, embedding_size=4))
    with pytest.raises(ConfigError, match=r"lists is a DotProduct, expected TeacherLists"):
        Distilled(scores, backbone)
    with pytest.raises(ConfigError, match=r"contrastive_weight needs text vectors"):
        Distilled(lists, backbone, contrastive_weight=0.1)
    with pytest.raises(ConfigError, match=r"unknown closed form 'lightgbm': expected one of .*ease"):
        Distilled.create(None, backbone, {"teacher": "lightgbm"}, dataset)
    with pytest.raises(ConfigError, match="needs the dataset"):
        Distilled.create(text_embeddings, backbone)
    with pytest.raises(DataError, match=r"expected \(U, M\) for both"):
        TeacherLists(lists.items, lists.probabilities[:, :2], "x", "y")
    with pytest.raises(DataError, match="finite and not negative"):
        TeacherLists(lists.items, -lists.probabilities, "x", "y")
