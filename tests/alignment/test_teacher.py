"""Fitted teachers: once for all spreads, once for all processes that share a folder, and the same numbers."""

import json
import logging
import os
from dataclasses import replace

import numpy as np
import pytest

from rlmrec.alignment import teacher
from rlmrec.alignment.teacher import fitted_lists, spread_to_perplexity, teachers_kept_in
from rlmrec.closed_form import RECOMMENDERS, Texts
from rlmrec.data.interactions import Interactions
from rlmrec.experiments.spec import RunSpec
from rlmrec.experiments.trial import Trial, TrialInputs, run_trial
from rlmrec.testing import blocks
from rlmrec.trust import read_tensors, write_tensors


@pytest.fixture
def fits(monkeypatch):
    """The teachers that were fitted, by name."""
    names = []
    for name in ("graph-filter", "popularity", "ease"):
        kind = RECOMMENDERS[name]

        def counted(*arguments, name=name, fit=kind.fit, **options):
            names.append(name)
            return fit(*arguments, **options)

        monkeypatch.setattr(kind, "fit", counted)
    forget()
    yield names
    forget()


def forget():
    """Do as a new process, which remembers nothing."""
    teacher._fitted.cache_clear()
    fitted_lists.cache_clear()


def in_new_process(folder, *arguments):
    forget()
    with teachers_kept_in(folder):
        return fitted_lists(*arguments)


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_lists_are_the_same_without_a_folder_when_stored_and_when_read(toy, name, tmp_path):
    dataset, text_embeddings = toy
    kind = RECOMMENDERS[name]
    texts = text_embeddings if kind.reads_text else None
    forget()
    plain = fitted_lists(name, dataset, texts, 30, 0.4)
    stored, read = (in_new_process(tmp_path, name, dataset, texts, 30, 0.4) for _ in range(2))
    for lists in (stored, read):
        assert lists.digest == plain.digest
        assert (lists.teacher, lists.dataset) == (plain.teacher, plain.dataset)
        assert lists.options == json.loads(json.dumps(plain.options)) == plain.options

    # The slow way to the same numbers: sort all scores, and spread a few rows at a time.
    model = kind.fit(dataset, None if texts is None else Texts.of(texts, dataset))
    scores = model.score(np.arange(dataset.n_users))
    scores[dataset.train.users, dataset.train.items] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :30]
    targets = [spread_to_perplexity(rows, 0.4) for rows in np.split(np.take_along_axis(scores, best, 1), 12)]
    assert np.array_equal(plain.probabilities, np.concatenate(targets).astype(np.float32))
    assert np.array_equal(plain.items, best)


def test_another_spread_fits_nothing_again(toy, fits, tmp_path):
    dataset, text_embeddings = toy
    first = fitted_lists("graph-filter", dataset, text_embeddings, 20, 0.4)
    assert fitted_lists("graph-filter", dataset, text_embeddings, 20, 0.4) is first
    other = fitted_lists("graph-filter", dataset, text_embeddings, 20, 0.9)
    assert fits == ["graph-filter"]
    assert np.array_equal(first.items, other.items)
    assert not np.array_equal(first.probabilities, other.probabilities)
    for spread in (0.4, 0.9):
        in_new_process(tmp_path, "graph-filter", dataset, text_embeddings, 20, spread)
    assert fits == ["graph-filter"] * 2  # the first process that knew of the folder
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_a_teacher_is_fitted_again_for_whatever_it_depends_on(toy, fits, tmp_path, monkeypatch):
    dataset, text_embeddings = toy
    text_embeddings = replace(
        text_embeddings, manifest={}
    )  # of no dataset, as trials on changed data have them
    more_noise = replace(
        dataset, train=dataset.train.with_noise(0.2, np.random.default_rng(0), (dataset.valid, dataset.test))
    )
    hidden = Interactions(np.array([0]), np.array([0]), dataset.n_users, dataset.n_items)
    shuffled = text_embeddings.shuffled(np.random.default_rng(0))
    asked = [
        ("graph-filter", dataset, text_embeddings, 20, "{}"),
        ("graph-filter", dataset, None, 20, "{}"),
        ("graph-filter", dataset, shuffled, 20, "{}"),
        ("graph-filter", dataset, text_embeddings, 10, "{}"),
        ("graph-filter", dataset, text_embeddings, 20, '{"text_weight": 0.0}'),
        ("graph-filter", more_noise, text_embeddings, 20, "{}"),
        ("graph-filter", dataset.final(), text_embeddings, 20, "{}"),  # of the same fingerprint
        ("graph-filter", replace(dataset, unranked=hidden), text_embeddings, 20, "{}"),
        ("ease", dataset, None, 20, "{}"),
    ]
    for _ in range(2):
        for name, data, texts, length, options in asked:
            in_new_process(tmp_path, name, data, texts, length, 0.4, options)
        assert len(fits) == len(asked), "once for each, none in the second round"
    monkeypatch.setattr(teacher, "_sources", lambda: "other code")
    in_new_process(tmp_path, "ease", dataset, None, 20, 0.4)
    monkeypatch.setattr(teacher, "__version__", "0.0")
    in_new_process(tmp_path, "ease", dataset, None, 20, 0.4)
    assert len(fits) == len(asked) + 2


def test_what_changes_nothing_fits_nothing_again(toy, fits, tmp_path):
    dataset, text_embeddings = toy
    whitened = text_embeddings.whitened(0.5)  # a closed form reads the vectors before whitening
    other_object = blocks()[0]
    for data, texts in ((dataset, text_embeddings), (other_object, text_embeddings), (dataset, whitened)):
        in_new_process(tmp_path, "graph-filter", data, texts, 20, 0.4)
    for length in (dataset.n_items, dataset.n_items + 5):
        in_new_process(tmp_path, "popularity", dataset, None, length, 0.4)
    assert fits == ["graph-filter", "popularity"]


def truncated(path, arrays, metadata):
    path.write_bytes(path.read_bytes()[:-8])


def wrong_item(path, arrays, metadata):
    arrays["items"][3, 1] = 10_000
    write_tensors(path, arrays, metadata)


def wrong_score(path, arrays, metadata):
    arrays["scores"][2, 0] = np.nan
    write_tensors(path, arrays, metadata)


def fewer_users(path, arrays, metadata):
    write_tensors(path, {name: array[1:] for name, array in arrays.items()}, metadata)


def no_scores(path, arrays, metadata):
    write_tensors(path, {"items": arrays["items"]}, metadata)


def of_another(path, arrays, metadata):
    write_tensors(path, arrays, {**metadata, "fitted_for": "{}"})


@pytest.mark.parametrize(
    "damage",
    [truncated, wrong_item, wrong_score, fewer_users, no_scores, of_another],
    ids=lambda d: d.__name__,
)
def test_a_damaged_file_is_told_and_replaced(toy, fits, tmp_path, caplog, damage):
    dataset, _ = toy
    asked = ("popularity", dataset, None, 20, 0.4)
    before = in_new_process(tmp_path, *asked)
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    damage(path, *read_tensors(path))
    with caplog.at_level(logging.WARNING, "rlmrec.alignment"):
        assert in_new_process(tmp_path, *asked).digest == before.digest
    assert f"{path} is damaged" in caplog.text
    assert "the teacher is fitted again" in caplog.text
    assert path.read_bytes() == whole
    in_new_process(tmp_path, *asked)
    assert len(fits) == 2


def test_the_teachers_that_were_not_used_for_longest_are_removed(toy, fits, tmp_path, monkeypatch):
    def use(length):
        in_new_process(tmp_path, "popularity", toy[0], None, length, 0.4)
        for path in tmp_path.glob("*.safetensors"):  # an hour later
            times = path.stat()
            os.utime(path, ns=(times.st_atime_ns - 3600 * 10**9, times.st_mtime_ns - 3600 * 10**9))

    use(20)
    size = next(tmp_path.glob("*.safetensors")).stat().st_size
    monkeypatch.setattr(teacher, "KEPT", int(2.5 * size))
    use(19)
    use(20)
    use(18)  # one too many
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    use(20)
    assert fits == ["popularity"] * 3
    use(19)
    assert len(fits) == 4
    monkeypatch.setattr(teacher, "KEPT", 1)
    use(17)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1, "the newest stays, whatever its size"


def test_a_teacher_that_another_process_removes_while_it_is_read_is_used(
    toy, fits, tmp_path, caplog, monkeypatch
):
    in_new_process(tmp_path, "popularity", toy[0], None, 20, 0.4)
    load = teacher.BestItems.load

    def load_and_remove(path, *arguments):
        found = load(path, *arguments)
        path.unlink()
        return found

    monkeypatch.setattr(teacher.BestItems, "load", load_and_remove)
    in_new_process(tmp_path, "popularity", toy[0], None, 20, 0.4)
    assert fits == ["popularity"]
    assert not list(tmp_path.glob("*.safetensors"))
    assert not caplog.records


@pytest.mark.parametrize("broken", ["folder", "file", "disk"])
def test_what_cannot_be_kept_is_used_all_the_same(toy, fits, tmp_path, caplog, monkeypatch, broken):
    folder = tmp_path / "teachers"
    if broken == "folder":
        folder.write_text("a file in its place")
    elif broken == "file":
        with teachers_kept_in(folder):
            fitted_lists("popularity", toy[0], None, 5, 0.4)
        (path,) = folder.glob("*.safetensors")
        path.unlink()
        path.mkdir()
        forget()
    else:

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(teacher, "write_tensors", full)
    with caplog.at_level(logging.WARNING), teachers_kept_in(folder):
        lists = fitted_lists("popularity", toy[0], None, 5, 0.4)
    assert lists.items.shape == (toy[0].n_users, 5)
    assert caplog.records


def test_a_class_of_your_own_is_fitted_in_every_process(toy, fits, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from rlmrec.closed_form.popularity import Popularity\n\n\nclass Mine(Popularity):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        lists = in_new_process(tmp_path / "kept", "mine.py:Mine", toy[0], None, 20, 0.4)
    assert lists.teacher == "mine.py:Mine"
    assert fits == ["popularity"] * 2
    assert not (tmp_path / "kept").exists()


def test_trials_keep_their_teacher_in_the_workspace(place, fits):
    dataset = place.dataset()
    quick = {"epochs": 1, "batch_size": 256, "embedding_size": 4, "contrastive_weight": 0}
    for seed, spread in ((1, 0.4), (2, 0.4), (1, 0.8)):
        forget()
        spec = RunSpec.resolve("lightgcn", "distilled", seed=seed, options={**quick, "spread": spread})
        digest = place.text_embeddings(dataset).digest
        run_trial(Trial(spec, dataset.fingerprint, digest, "default"), TrialInputs(place))
    assert fits == ["graph-filter"]
    assert len(list(place.teachers_path.glob("*.safetensors"))) == 1
