"""Cells: identity, and what each of them is trained on."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from rlmrec.closed_form.base import own_user_texts
from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.experiments.run import build, run
from rlmrec.experiments.spec import RunSpec
from rlmrec.experiments.trial import Trial, TrialInputs, of_period, run_trial
from rlmrec.recommend.recommender import Recommender
from rlmrec.testing import blocks
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.training import checkpoint
from rlmrec.workspace import Workspace

QUICK = {"epochs": 4, "learning_rate": 0.01, "batch_size": 256}


def con(place, seed=1, **more):
    dataset = place.dataset()
    spec = RunSpec.resolve("lightgcn", "contrastive", seed=seed, options=QUICK)
    return Trial(spec, dataset.fingerprint, place.text_embeddings(dataset).digest, "default", **more)


def test_the_identity_is_the_hash_of_everything(place):
    trial = con(place)
    canonical = json.dumps(trial.as_dict(), sort_keys=True, ensure_ascii=False)
    assert trial.id == hashlib.sha256(canonical.encode()).hexdigest()[:16]
    assert trial.id == con(place).id
    others = [
        con(place, seed=2),
        con(place, shuffle="users"),
        con(place, noise=0.1),
        con(place, period="later"),
        con(place, start=con(place, seed=3)),
        con(place, timing="cpu, 2 threads"),
        replace(trial, dataset="another"),
        replace(trial, texts="others"),
        replace(
            trial, spec=RunSpec.resolve("lightgcn", "contrastive", seed=1, options={**QUICK, "weight": 1})
        ),
    ]
    assert len({trial.id, *(other.id for other in others)}) == len(others) + 1
    assert len({trial.label, *(other.label for other in others[:5])}) == 6
    with pytest.raises(ConfigError, match="unknown period 'late'"):
        con(place, period="late")


def test_noise_is_of_pairs_that_exist_nowhere_and_the_test_is_unchanged(place):
    inputs = TrialInputs(place)
    clean = inputs.dataset
    few, many = (inputs.of(con(place, noise=ratio))[0] for ratio in (0.05, 0.25))
    for noisy, ratio in ((few, 0.05), (many, 0.25)):
        assert len(noisy.train) == len(clean.train) + round(ratio * len(clean.train))
        assert np.array_equal(noisy.test.keys(), clean.test.keys())
        held_out = np.concatenate([clean.valid.keys(), clean.test.keys()])
        assert not np.isin(noisy.train.keys(), held_out).any()
    assert np.isin(few.train.keys(), many.train.keys()).all(), "more noise is added noise"
    other = inputs.of(con(place, seed=2, noise=0.05))[0]
    assert other.fingerprint != few.fingerprint


def test_noise_makes_no_mean_a_text_and_brings_no_history_back(place):
    inputs = TrialInputs(place)
    dataset, texts = inputs.dataset, inputs.text_embeddings("default")
    own = np.arange(dataset.n_users) % 2 == 0
    mixed = texts.with_means_over(dataset.train, ~own)
    inputs._text_embeddings["default"] = mixed
    for more in ({}, {"history": 2}):
        for backbone, alignment in (("graph-filter", "none"), ("lightgcn", "distilled")):
            spec = RunSpec.resolve(backbone, alignment, seed=1)
            trial = Trial(spec, dataset.fingerprint, mixed.digest, "default", noise=0.25, **more)
            noisy, found = inputs.of(trial)
            assert np.array_equal(own_user_texts(found, noisy), own)
    assert not np.isin(noisy.train.keys(), noisy.unranked.keys()).any()


def test_shuffled_vectors_follow_the_seed(place):
    inputs = TrialInputs(place)
    _, plain = inputs.of(con(place))
    _, items = inputs.of(con(place, shuffle="items"))
    _, other = inputs.of(con(place, shuffle="items", seed=2))
    assert np.array_equal(items.users, plain.users)
    assert not np.array_equal(items.items, plain.items)
    assert not np.array_equal(items.items, other.items)


def with_times(dataset):
    """Each user meets an item a day, in an order of their own; every second user comes a year later."""
    parts = []
    for split in ("train", "valid", "test"):
        part = dataset.split(split)
        parts.append(replace(part, timestamp=_times(part.users, part.items)))
    return replace(dataset, train=parts[0], valid=parts[1], test=parts[2])


def _times(users, items):
    return (7 * items + 4 * users) % 15 * 86400.0 + users % 2 * 3.2e7


@pytest.mark.parametrize("cut", ["global", "per-user"])
def test_periods_share_users_and_items_and_do_not_overlap(cut):
    dataset, text_embeddings = blocks(density=0.8)
    timed = with_times(dataset)
    if cut == "global":  # at one moment only those are in both who came at any time
        rng = np.random.default_rng(0)
        timed = replace(
            timed,
            **{
                s: replace(timed.split(s), timestamp=rng.random(len(timed.split(s))))
                for s in ("train", "valid", "test")
            },
        )
    # Every other user has a text of their own, which stays; the others' means are taken anew.
    is_mean = np.arange(dataset.n_users) % 2 == 1
    mixed = replace(text_embeddings, manifest={}).with_means_over(timed.train, is_mean)
    assert mixed.manifest == {"users_by_mean": is_mean.sum()}
    (early, texts), (late, _) = (of_period(timed, mixed, when, cut) for when in ("earlier", "later"))
    assert early.users.ids == late.users.ids
    assert early.items.ids == late.items.ids
    assert early.n_users > 50
    keys = [np.concatenate([d.split(s).keys() for s in ("train", "valid", "test")]) for d in (early, late)]
    assert not np.isin(*keys).any()
    assert len(early.test) == 0
    assert len(late.test) > 0
    when = [np.concatenate([d.split(s).timestamp for s in ("train", "valid", "test")]) for d in (early, late)]
    if cut == "global":
        assert when[0].max() < when[1].min()
    rows = [dataset.items.row(raw) for raw in early.items.ids]
    np.testing.assert_array_equal(texts.items, text_embeddings.items[rows])
    means = 0
    for row, raw in enumerate(early.users.ids):
        expected = mixed.users[dataset.users.row(raw)]
        if is_mean[dataset.users.row(raw)]:
            expected = texts.items[early.train.items[early.train.users == row]].mean(0)
            means += 1
        np.testing.assert_allclose(texts.users[row], expected, rtol=1e-5, atol=1e-6)
    assert texts.manifest["users_by_mean"] == means > 10
    with_gaps = replace(mixed, items=mixed.items * (np.arange(len(mixed.items)) > 4)[:, None],
                        has_item=np.arange(len(mixed.items)) > 4)  # fmt: skip
    assert of_period(timed, with_gaps, "later", cut)[1].has_item.sum() == late.n_items - 5


def test_a_final_run_takes_means_before_whitening(tmp_path):
    """A closed form whitens by itself, so it ranks by whitened vectors as by those that they were made of."""
    dataset, text_embeddings = blocks()
    is_mean = np.arange(dataset.n_users) % 2 == 1
    plain = replace(text_embeddings, manifest={}).with_means_over(dataset.train, is_mean)
    scores = []
    for name, texts in (("plain", plain), ("whitened", plain.whitened(0.5, ~is_mean))):
        run(RunSpec.resolve("graph-filter", seed=1), dataset, texts, tmp_path / name, final=True)
        scores.append(Recommender.load(tmp_path / name / "recommender").scorer().score(np.arange(8)))
    np.testing.assert_array_equal(*scores)


def test_a_final_run_gives_means_to_those_without_a_text_if_any_had_one(tmp_path, monkeypatch):
    dataset, text_embeddings = blocks()
    own = np.arange(dataset.n_users) % 3 > 0
    dropped = replace(text_embeddings, users=text_embeddings.users * own[:, None], has_user=own)
    filled = dropped.with_means_over(dataset.train, ~own)
    read = []
    monkeypatch.setattr(
        "rlmrec.experiments.run.build", lambda *given: read.append(given[2].has_user) or build(*given)
    )
    spec = RunSpec.resolve("lightgcn", "contrastive", options={**QUICK, "epochs": 1})
    for name, texts in (("dropped", dropped), ("filled", filled)):
        run(spec, dataset, texts, tmp_path / name, final=True)
    np.testing.assert_array_equal(read[0], own)
    assert read[1].all()


def test_means_are_shuffled_after_a_period_is_taken(place):
    inputs = TrialInputs(place)
    inputs.text_embeddings("default")  # read with the dataset that they are of
    inputs.dataset = with_times(inputs.dataset)
    plain = replace(con(place, period="later", cut="per-user"), dataset=inputs.dataset.fingerprint)
    right = inputs.of(plain)[1]
    for which in ("users", "items", "both"):
        found = inputs.of(replace(plain, shuffle=which))[1]
        order = np.random.default_rng(plain.seed).permutation(len(right.users))
        expected = right.users if which == "items" else right.users[order]
        np.testing.assert_array_equal(found.users, expected, which)
        assert np.array_equal(found.items, right.items) == (which == "users")


def test_periods_need_timestamps(place):
    with pytest.raises(DataError, match="needs timestamps and this dataset has none"):
        TrialInputs(place).of(con(place, period="earlier"))


def test_a_run_starts_from_the_tables_of_another(tmp_path):
    """With a learning rate of next to nothing, what comes out is what it started from."""
    place = Workspace(tmp_path / "w")
    dataset = with_times(blocks(density=0.8)[0])
    dataset.save(place.dataset_path)
    options = {**QUICK, "learning_rate": 0.05, "epochs": 6}
    before = Trial(
        RunSpec.resolve("mf", seed=1, options=options), dataset.fingerprint, period="earlier", cut="per-user"
    )
    still = RunSpec.resolve("mf", seed=2, options={**QUICK, "learning_rate": 1e-12, "epochs": 1})
    after = Trial(still, dataset.fingerprint, period="later", cut="per-user", start=before)
    inputs = TrialInputs(place)
    with pytest.raises(WorkspaceError, match="no finished training run to start from"):
        run_trial(after, inputs)
    run_trial(before, inputs)
    line = run_trial(after, inputs)
    assert line["cell"]["start"] == {"cell": before.id, "alignment": "none"}
    tables = [Recommender.load(place.trial(trial.id) / "recommender").users for trial in (before, after)]
    np.testing.assert_allclose(tables[1], tables[0], atol=1e-8)


def test_what_was_replaced_meanwhile_is_refused(place):
    trial = con(place)
    dataset = place.dataset()
    place.text_embeddings(dataset).shuffled(np.random.default_rng(0)).save(place.text_embeddings_path())
    with pytest.raises(DataError, match="text embeddings 'default' were replaced"):
        run_trial(trial, TrialInputs(place))
    blocks(seed=5)[0].save(place.dataset_path)
    with pytest.raises(DataError, match="dataset was replaced"):
        run_trial(trial, TrialInputs(place))


def test_text_vectors_have_names(place):
    dataset = place.dataset()
    other = TextEmbeddings(*(np.ones((n, 3), np.float32) for n in (dataset.n_users, dataset.n_items)))
    other.save(place.path / "text_embeddings" / "ones.safetensors")
    assert place.text_embeddings_names() == ["default", "ones"]
    assert place.text_embeddings(dataset, "ones").size == 3
    with pytest.raises(ConfigError, match="text embeddings name"):
        place.text_embeddings(dataset, "../ones")


def test_text_vectors_alone_are_a_cell(place):
    dataset = place.dataset()
    trial = Trial(None, dataset.fingerprint, place.text_embeddings(dataset).digest, "default")
    line = run_trial(trial, TrialInputs(place))
    assert line["cell"]["run"]["backbone"] == "semantic-only"
    assert line["test"]["recall@20"] > 0.5
    assert line["validation_curve"] == []
    assert "encoder" not in line, "these vectors do not tell it"
    replace(place.text_embeddings(dataset), manifest={"encoder": "MiniLM"}).save(place.text_embeddings_path())
    assert run_trial(trial, TrialInputs(place))["encoder"] == "MiniLM"


def plain_run(place, name, seed=1, **options):
    spec = RunSpec.resolve("lightgcn", "contrastive", seed=seed, options={**QUICK, **options})
    dataset = place.dataset()
    return run(
        spec, dataset, place.text_embeddings(dataset), place.run(name), text_embeddings_name="of another name"
    )


def test_a_finished_run_of_the_same_configuration_is_taken_over(place):
    metrics = plain_run(place, "con")
    trained = []
    line = run_trial(con(place), TrialInputs(place), on_epoch=trained.append)
    assert trained == []
    assert line["taken_from"] == "con"
    assert line["id"] == con(place).id
    assert line["test"] == metrics["test"]
    assert len(line["validation_curve"]) == 2
    files = [path for path in place.run("con").rglob("*") if path.is_file() and path.name != "metrics.json"]
    assert len(files) > 5
    for path in files:
        copy = place.trial(line["id"]) / path.relative_to(place.run("con"))
        assert copy.read_bytes() == path.read_bytes(), path.name
    assert json.loads((place.trial(line["id"]) / "cell.json").read_text()) == {
        "name": "lightgcn, contrastive", "label": "lightgcn, contrastive, seed 1", "cell": con(place).as_dict(),
    }  # fmt: skip
    # What was taken over is a trial like any other: the same trial again is no second copy.
    assert run_trial(con(place), TrialInputs(place)) == line


def test_other_runs_are_not_taken_over(place):
    plain_run(place, "other-seed", seed=2)
    plain_run(place, "other-option", weight=0.3)
    plain_run(place, "unfinished")
    (place.run("unfinished") / "metrics.json").unlink()
    plain_run(place, "older")  # of a version that did not have this option: what it did is not known
    config = place.run("older") / "config.toml"
    config.write_text(
        "".join(line for line in config.read_text().splitlines(True) if "temperature" not in line)
    )
    shuffled = place.text_embeddings(place.dataset()).shuffled(np.random.default_rng(9))
    spec = RunSpec.resolve("lightgcn", "contrastive", seed=1, options=QUICK)
    run(spec, place.dataset(), shuffled, place.run("other-texts"))
    trained = []
    line = run_trial(con(place), TrialInputs(place), on_epoch=trained.append)
    assert len(trained) == QUICK["epochs"]
    assert "taken_from" not in line
    plain_run(place, "same")
    for trial in (con(place, noise=0.1), con(place, shuffle="users"), con(place, timing="cpu, 1 threads")):
        assert "taken_from" not in run_trial(trial, TrialInputs(place)), trial.label


def test_a_finished_run_takes_the_place_of_a_cell_that_was_killed(place):
    class Killed(Exception):
        pass

    def kill(record):
        raise Killed

    with pytest.raises(Killed):
        run_trial(con(place), TrialInputs(place), on_epoch=kill)
    plain_run(place, "con")
    assert run_trial(con(place), TrialInputs(place))["taken_from"] == "con"
    assert not list(place.trial(con(place).id).glob("checkpoint*"))
    assert not list((place.path / "trials").glob(".taken*"))


def test_a_run_with_named_vectors_is_taken_up_again(place):
    assert plain_run(place, "con") == plain_run(place, "con")


def test_a_trial_goes_on_where_the_same_one_with_less_patience_stopped(place, tmp_path):
    inputs, epochs = TrialInputs(place), []

    def patient(patience, **more):
        options = {
            **QUICK,
            "epochs": 40,
            "learning_rate": 0.05,
            "evaluate_every": 1,
            "patience": patience,
            **more,
        }
        spec = RunSpec.resolve("lightgcn", "contrastive", seed=1, options=options)
        return replace(con(place), spec=spec)

    tried, trial = replace(patient(1), keeps_checkpoint=True), patient(9)
    longer = trial.with_shorter(tried)
    assert (longer.shorter, longer.id) == (tried, trial.id)
    for other in (patient(9), patient(1, weight=0.5), patient(1, epochs=20), replace(tried, noise=0.1)):
        assert trial.with_shorter(other) == trial, "more differs than the patience, or nothing"
    short = run_trial(tried, inputs)
    found = run_trial(longer, inputs, on_epoch=epochs.append)
    assert 0 < short["epochs"] < found["epochs"] == short["epochs"] + len(epochs)
    alone = Workspace(tmp_path / "alone")
    shutil.copytree(place.dataset_path, alone.dataset_path)
    shutil.copytree(place.text_embeddings_path().parent, alone.text_embeddings_path().parent)
    expected = run_trial(trial, TrialInputs(alone))
    for name in ("test", "valid", "best_epoch", "epochs", "validation_curve"):
        assert found[name] == expected[name], name
    assert checkpoint.exists(place.trial(tried.id))
    assert not checkpoint.exists(place.trial(trial.id))


def test_a_killed_trial_starts_again_if_it_learned_from_another_teacher(place):
    dataset, inputs, epochs = place.dataset(), TrialInputs(place), []
    spec = RunSpec.resolve(
        "lightgcn", "distilled", seed=1, options={**QUICK, "epochs": 3, "evaluate_every": 1}
    )
    trial = Trial(spec, dataset.fingerprint, place.text_embeddings(dataset).digest, "default")

    def kill(record):
        if record["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(trial, inputs, on_epoch=kill)
    path = place.trial(trial.id) / "checkpoint.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    state["identity"]["teacher"] = "another"
    path.write_text(json.dumps(state), encoding="utf-8")
    record = run_trial(trial, inputs, on_epoch=epochs.append)
    assert [one["epoch"] for one in epochs] == [0, 1, 2]
    assert (record["status"], record["epochs"]) == ("done", 3)
    assert json.loads((place.trial(trial.id) / "cell.json").read_text())["cell"] == trial.as_dict()
