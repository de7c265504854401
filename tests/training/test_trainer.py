"""The trainer: it learns a known answer, stops early, repeats bit for bit, and survives being killed."""

import json
import signal
import threading

import numpy as np
import pytest
import torch

from rlmrec.alignment import Alignment, Contrastive, Generative
from rlmrec.alignment.contrastive import ContrastiveConfig
from rlmrec.backbones import LightGCN
from rlmrec.backbones.gccf import GCCF
from rlmrec.backbones.kar import KARLightGCN
from rlmrec.backbones.lightgcn import LightGCNConfig
from rlmrec.backbones.ngcf import NGCF
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.evaluation.ranking import DotProduct, evaluate
from rlmrec.graph import Graph
from rlmrec.testing import blocks
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.training.trainer import TrainConfig, TrainingError, embeddings, train, validation_sample

SHORT = TrainConfig(learning_rate=0.01, batch_size=128, epochs=30, patience=20)


def make(toy, kind="none", seed=0):
    dataset, text_embeddings = toy
    torch.manual_seed(seed)
    backbone = LightGCN(dataset.n_users, dataset.n_items, LightGCNConfig(embedding_size=8, layers=2))
    if kind == "none":
        return backbone, Alignment()
    return backbone, (Contrastive if kind == "contrastive" else Generative)(text_embeddings, 8)


@pytest.mark.parametrize("kind", ["none", "contrastive", "generative"])
def test_every_variant_learns_the_blocks(toy, kind):
    dataset, _ = toy
    backbone, alignment = make(toy, kind)
    history = train(backbone, alignment, dataset, SHORT, seed=1)
    ranking = evaluate(DotProduct(*embeddings(backbone, dataset)), dataset, k=(10,))
    # A user has about 4.5 of 15 block items in training: the block's rest fills the first ten places.
    assert ranking.metrics()["recall@10"] > 0.85
    assert history.epochs[history.best_epoch]["valid"]["recall@20"] == history.best


def test_early_stopping_counts_validations_without_a_new_best(toy):
    backbone, alignment = make(toy)
    config = TrainConfig(learning_rate=1e-12, epochs=1000, evaluate_every=3, patience=5)
    history = train(backbone, alignment, toy[0], config)
    assert history.best_epoch == 0
    assert len(history.epochs) == 16  # validations at 0, then 3, 6, 9, 12, 15 without gain
    assert [r["epoch"] for r in history.epochs if "valid" in r] == [0, 3, 6, 9, 12, 15]


@pytest.mark.parametrize("count", [None, 6, 10**6])
def test_the_best_parameters_come_back_whoever_validations_rank_for(toy, count):
    dataset, _ = toy
    backbone, alignment = make(toy)
    config = SHORT.model_copy(update={"validation_users": count})
    history = train(backbone, alignment, dataset, config)
    users = validation_sample(dataset, count, 0)
    assert users is None if count != 6 else len(set(users.tolist())) == 6
    scores = DotProduct(*embeddings(backbone, dataset))
    ranking = evaluate(scores, dataset, k=(20,), split="valid", users=users)
    assert ranking.metrics()["recall@20"] == history.best
    if users is not None:
        of_all = evaluate(scores, dataset, k=(20,), split="valid")
        rows = np.searchsorted(of_all.users, users)
        np.testing.assert_array_equal(of_all.users[rows], ranking.users)
        np.testing.assert_array_equal(of_all.items[rows], ranking.items)


def test_options_of_before_have_the_same_identity():
    """Ids of trials are hashes of the options: a later option may not appear at its default."""
    assert "validation_users" not in SHORT.stored()
    assert SHORT.model_copy(update={"validation_users": 6}).stored()["validation_users"] == 6


@pytest.mark.parametrize("kind", ["none", "contrastive", "generative"])
def test_the_same_seed_gives_the_same_numbers(toy, kind):
    def once(seed):
        backbone, alignment = make(toy, kind)
        train(backbone, alignment, toy[0], SHORT.model_copy(update={"epochs": 4}), seed=seed)
        return backbone.state_dict()["user_embedding"]

    assert torch.equal(once(3), once(3))
    assert not torch.equal(once(3), once(4))


HISTORIES = {
    # As version 0.1 trained, with the same seeds: the sums of the losses of three epochs, validation Recall@20.
    "none": [0.6492764, 0.6172446, 0.5774228, 0.7636054],
    "contrastive": [0.7786303, 0.7390888, 0.6915758, 0.7806122],
    "generative": [0.6948777, 0.6579673, 0.6316837, 0.7057823],
}


@pytest.mark.parametrize("kind", HISTORIES)
def test_the_numbers_of_training_stay(toy, kind):
    backbone, alignment = make(toy, kind)
    result = train(
        backbone, alignment, toy[0], {"batch_size": 128, "epochs": 3, "learning_rate": 0.01}, seed=1
    )
    losses = [sum(record["loss"].values()) for record in result.epochs]
    assert [*losses, result.best] == pytest.approx(HISTORIES[kind], rel=1e-5)
    assert np.array_equal(result.users, embeddings(backbone, toy[0])[0])


def test_progress_is_shown_on_demand(toy, capsys):
    train(*make(toy), toy[0], SHORT.model_copy(update={"epochs": 2}))
    assert capsys.readouterr() == ("", ""), "not where nobody watches"
    train(*make(toy), toy[0], SHORT.model_copy(update={"epochs": 2}), progress=True)
    assert "epoch 2, loss" in capsys.readouterr().err


def test_the_graph_is_built_once(toy, monkeypatch):
    built = []
    whole = Graph.from_interactions
    monkeypatch.setattr(Graph, "from_interactions", lambda *a, **k: (built.append(1), whole(*a, **k))[1])
    result = train(*make(toy), toy[0], SHORT.model_copy(update={"epochs": 2}))
    assert result.item_messages.shape == result.items.shape
    assert len(built) == 1


def other(toy):
    return TextEmbeddings(toy[1].users[:-1], toy[1].items)


def of_another_dataset(texts):
    return TextEmbeddings(texts.users, texts.items, {"dataset": "feed"})


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda d, t: LightGCN(d.n_users, d.n_items, embedding_sise=64), "unknown option 'embedding_sise'"),
        (lambda d, t: LightGCN(d.n_users, d.n_items, {"layers": -1}), "layers = -1"),
        (lambda d, t: LightGCN(d.n_users, d.n_items, TrainConfig()), "TrainConfig: expected LightGCNConfig"),
        (lambda d, t: LightGCN(d, d.n_items), "n_users is a Dataset: expected a number"),
        (lambda d, t: KARLightGCN(d.n_users, d.n_items), "KARLightGCN needs text vectors"),
        (lambda d, t: Contrastive(other((d, t)), LightGCN(d.n_users, d.n_items)),
         "Contrastive has text vectors for 59 users and 45 items, the backbone has 60 and 45"),
        (lambda d, t: Contrastive(t, None), "needs the backbone, or its output_size"),
        (lambda d, t: Generative(None, 32), "Generative needs text vectors"),
        (lambda d, t: Generative(t.items, 32), "text_embeddings is a ndarray, expected TextEmbeddings"),
        (lambda d, t: Generative(t, 32, {"wait": 1}), "unknown option 'wait'"),
        (lambda d, t: train(LightGCN(d.n_users, 44), None, d), "has 60 users and 44 items, the dataset has 60"),
        (lambda d, t: train(LightGCN(d.n_users, d.n_items), Generative(other((d, t)), 32), d),
         "Generative has text vectors for 59 users and 45 items, the dataset has 60 and 45"),
        (lambda d, t: train(LightGCN(d.n_users, d.n_items), Contrastive(of_another_dataset(t), 32), d),
         r"text embeddings of Contrastive were made for another dataset \(feed\)"),
        (lambda d, t: train(LightGCN(d.n_users, d.n_items), t, d), "alignment has type TextEmbeddings"),
        (lambda d, t: train(Alignment(), LightGCN(d.n_users, d.n_items), d), "backbone has type Alignment"),
        (lambda d, t: train(LightGCN(d.n_users, d.n_items), Contrastive(t, 7), d), "for embeddings of 7 dimensions"),
        (lambda d, t: train(LightGCN(d.n_users, d.n_items), None, d, {"epochs": 0}), "epochs = 0"),
        (lambda d, t: train(LightGCN(d.n_users, d.n_items), None, d, seed=-1), "seed is -1: expected 0 or more"),
        (lambda d, t: embeddings(LightGCN(9, d.n_items), d), "LightGCN has 9 users"),
        (lambda d, t: train(LightGCN(d.n_users, d.n_items), None, "movies"), "dataset has type str: expected Dataset"),
        (lambda d, t: Generative(t, 8).corrupt(torch.zeros(105, 32), torch.Generator()), "make the alignment with"),
    ],
)  # fmt: skip
def test_mistakes_are_named(toy, mistake, message):
    with pytest.raises(ConfigError, match=message):
        mistake(*toy)


@pytest.mark.parametrize("kind", [GCCF, NGCF, LightGCN])
def test_generative_takes_the_size_alone_or_the_backbone(toy, kind):
    dataset, texts = toy
    for of in (lambda b: b, lambda b: b.output_size):
        torch.manual_seed(0)
        backbone = kind(dataset.n_users, dataset.n_items, embedding_size=8)
        alignment = Generative(texts, of(backbone), mask_ratio=0.2)
        result = train(backbone, alignment, dataset, {"epochs": 2, "batch_size": 128})
        assert result.users.shape == (60, backbone.output_size)
    assert "60 users, 45 items, embedding_size=8" in repr(backbone)
    assert "60 users, 45 items, weight=0.01, temperature=0.2, mask_ratio=0.2" in repr(alignment)


def test_a_diverging_run_says_so(toy):
    backbone, alignment = make(toy)
    with torch.no_grad():
        backbone.user_embedding.mul_(1e30)
    with pytest.raises(TrainingError, match="not finite after epoch 1"):
        train(backbone, alignment, toy[0], SHORT)


def test_a_last_update_that_diverges_says_so(toy):
    """One batch an epoch: its loss is fine, what it makes of the embeddings is not."""
    config = TrainConfig(learning_rate=3e38, batch_size=4096)
    with pytest.raises(TrainingError, match="an embedding is not finite after epoch 1: lower learning_rate"):
        train(*make(toy), toy[0], config)


def test_a_model_of_double_precision_is_trained_in_it(toy):
    backbone, alignment = make(toy, "contrastive")
    train(backbone.double(), alignment.double(), toy[0], SHORT.model_copy(update={"epochs": 1}))
    assert backbone.user_embedding.dtype == torch.float64
    assert backbone.user_embedding.isfinite().all()


def test_nothing_to_validate_on(toy):
    dataset = toy[0]
    empty = dataset.valid.take(dataset.valid.users < 0)
    without = Dataset("x", dataset.train, empty, dataset.test, dataset.users, dataset.items)
    with pytest.raises(ConfigError, match="validation split is empty"):
        train(*make(toy), without, SHORT)


def test_a_device_that_is_not_there(toy):
    with pytest.raises(ConfigError, match=r"device 'abacus' is not available here: expected cpu"):
        train(*make(toy), toy[0], SHORT, device="abacus")


def train_and_stop(folder, kind, stop, stopped):
    """Train in a process of its own; after epoch ``stop``, wait to be killed."""
    toy = blocks()
    backbone, alignment = make(toy, kind)
    config = TrainConfig(learning_rate=0.01, batch_size=128, epochs=24, patience=20)

    def on_epoch(record):
        if record["epoch"] == stop:
            stopped.send(True)
            threading.Event().wait()

    train(backbone, alignment, toy[0], config, seed=1, folder=folder, on_epoch=on_epoch)
    torch.save(backbone.state_dict() | alignment.state_dict(), folder / "end.pt")


@pytest.mark.parametrize("kind", ["contrastive", "generative"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, kind, quick_processes):
    stopped, theirs = quick_processes.Pipe(duplex=False)

    def start(folder, stop=-1):
        process = quick_processes.Process(target=train_and_stop, args=(folder, kind, stop, theirs))
        process.start()
        return process

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reference = start(whole)
    for stop_after in (4, 13):  # once between two validations, once after several more
        child = start(killed, stop_after)
        assert stopped.poll(300)
        stopped.recv()
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        assert not (killed / "end.pt").exists()
    for process in (start(killed), reference):
        process.join()
        assert process.exitcode == 0
    ends = [torch.load(folder / "end.pt", weights_only=True) for folder in (whole, killed)]
    assert ends[0].keys() == ends[1].keys()
    for name, tensor in ends[0].items():
        assert torch.equal(tensor, ends[1][name]), name
    logs = [
        [json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (whole, killed)
    ]
    for first, second in zip(*logs, strict=True):
        assert (first["loss"], first.get("valid")) == (second["loss"], second.get("valid"))


def test_a_run_without_validation_goes_on_too(toy, tmp_path):
    def stop(record):
        if record["epoch"] == 4:
            raise KeyboardInterrupt

    def run(folder, on_epoch=None):
        return train(*make(toy), toy[0], SHORT, folder=folder, early_stopping=False, on_epoch=on_epoch)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", stop)
    whole, stopped = run(tmp_path / "whole"), run(tmp_path / "stopped")
    assert len(stopped.epochs) == SHORT.epochs
    assert np.array_equal(whole.items, stopped.items)


def test_a_checkpoint_of_other_options_is_refused(toy, tmp_path):
    train(*make(toy), toy[0], SHORT.model_copy(update={"epochs": 4}), folder=tmp_path)
    with pytest.raises(ConfigError, match=r"another config.*--overwrite"):
        train(*make(toy), toy[0], SHORT, folder=tmp_path)


def test_a_damaged_checkpoint_is_named(toy, tmp_path):
    config = SHORT.model_copy(update={"epochs": 4})
    train(*make(toy), toy[0], config, folder=tmp_path)
    (path,) = tmp_path.glob("checkpoint-*.safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(WorkspaceError, match=path.name):
        train(*make(toy), toy[0], config, folder=tmp_path)


def test_weightless_alignment_leaves_the_backbone_alone(toy):
    """With weight 0 the contrastive run is the base run: neither draws from the other's random numbers."""
    config = SHORT.model_copy(update={"epochs": 3, "l2": 0.0})
    base, none = make(toy)
    train(base, none, toy[0], config, seed=2)
    aligned, _ = make(toy)
    train(aligned, Contrastive(toy[1], 8, ContrastiveConfig(weight=0.0)), toy[0], config, seed=2)
    torch.testing.assert_close(base.user_embedding, aligned.user_embedding, rtol=1e-5, atol=1e-7)
