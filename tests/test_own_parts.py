"""A user's own alignment, closed form and encoder, from a file, go through every command as the built-in ones do."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlmrec.alignment import ALIGNMENTS, Alignment
from rlmrec.backbones import BACKBONES, LightGCN
from rlmrec.backbones.kar import KARLightGCN
from rlmrec.closed_form import ClosedForm, FoldIn, Popularity
from rlmrec.errors import ConfigError
from rlmrec.evaluation.ranking import evaluate
from rlmrec.registry import Registry
from rlmrec.testing import blocks, check_alignment, check_backbone, check_closed_form, check_text_encoder
from rlmrec.text.registry import ENCODERS
from rlmrec.workspace import Workspace

ALIGNMENT = '''
"""Pull: the squared distance between an item's embedding and its projected text."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from neighbour import SCALE  # a file beside it
from pydantic import Field
from torch import nn

from rlmrec.alignment import Alignment
from rlmrec.config import Config


class PullConfig(Config):
    weight: float = Field(0.5, ge=0, description="w")
    layers: int = Field(1, ge=1, description="a name that the backbone has, too")


class Pull(Alignment):
    label = "Pulled"
    Config = PullConfig
    needs_text = True

    def __init__(self, text_embeddings, backbone, config=None, **options):
        super().__init__(text_embeddings, backbone, config, **options)
        self.register_buffer("text", torch.from_numpy(text_embeddings.items), persistent=False)
        self.projector = nn.Linear(text_embeddings.size, self.output_size)

    def loss(self, users, items, batch, masked):
        rows = batch.positives
        distance = F.mse_loss(F.embedding(rows, items), self.projector(self.text[rows]))
        return {"pull": self.config.weight * SCALE * distance}


class Plain(Alignment):
    """Needs no text."""

    def loss(self, users, items, batch, masked):
        return {"plain": 1e-3 * users.square().mean()}
'''

ENCODER = '''
"""Letters: how often each of the first letters of the alphabet occurs."""
import numpy as np
from pydantic import Field

from rlmrec.config import Config


class LettersConfig(Config):
    size: int = Field(4, ge=1, le=26, description="number of letters")


class Letters:
    Config = LettersConfig

    def __init__(self, config):
        self.dim = config.size
        self.name = f"letters {self.dim}"

    def encode(self, texts):
        counts = [[text.lower().count(chr(97 + i)) for i in range(self.dim)] for text in texts]
        return np.array(counts).reshape(len(texts), self.dim)


class Nameless:
    dim = 3
'''


CLOSED_FORM = '''
"""Closed forms that lack something."""
from dataclasses import replace

from rlmrec.closed_form import ClosedForm, FoldIn, Popularity


class Nothing(ClosedForm):
    pass


class HalfRule(FoldIn):
    pass


class HalfFolded(Popularity):
    @classmethod
    def fit(cls, dataset, texts=None, config=None, seed=0):
        return replace(super().fit(dataset), rule=HalfRule())


class Number(Popularity):
    @classmethod
    def fit(cls, dataset, texts=None, config=None, seed=0):
        return 3


class Short(Popularity):
    @classmethod
    def fit(cls, dataset):
        return super().fit(dataset)


class Forgot(Popularity):
    def fit(self, dataset, texts=None, config=None, seed=0):
        return 3


class Arrays(Popularity):
    @classmethod
    def fit(cls, dataset, texts=None, config=None, seed=0):
        model = super().fit(dataset)
        return replace(model, record={**model.record, "chosen": {"weights": model.items}})
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A workspace in the current folder, beside the user's files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pull.py").write_text(ALIGNMENT)
    (tmp_path / "neighbour.py").write_text("SCALE = 1.0\n")
    place = Workspace(tmp_path / "w")
    dataset, text_embeddings = blocks()
    dataset.save(place.dataset_path)
    text_embeddings.save(place.text_embeddings_path())
    return place


def result(answer):
    code, out, err = answer
    assert code == 0, err + out
    return json.loads(out.strip().splitlines()[-1])


SHORT = ("--set", "batch_size=256", "--epochs", 3, "--json")


def test_an_own_alignment_in_train_options_compare_and_report(call, place):
    listed = result(call("options", "--alignment", "pull.py:Pull", "--json"))
    names = [option["name"] for option in listed["options"]]
    assert {"weight", "alignment.layers", "backbone.layers", "training.l2"} - {"training.l2"} <= set(names)
    values = {option["name"]: option["value"] for option in listed["options"]}
    assert values["learning_rate"] == 5e-3, "without a preset of its own: the options of the backbone alone"

    code, _, err = call("train", "-w", place.path, "--alignment", "pull.py:Pull", "--set", "layers=2", *SHORT)
    assert code == 2
    assert "backbone.layers or alignment.layers" in err
    pulled = result(
        call("train", "-w", place.path, "--alignment", "pull.py:Pull", "--set", "alignment.layers=2",
             "--name", "pulled", *SHORT)
    )  # fmt: skip
    assert pulled["config"]["alignment"] == {"weight": 0.5, "layers": 2}
    assert pulled["config"]["run"]["alignment_label"] == "Pulled"
    plain = result(call("train", "-w", place.path, "--alignment", "pull.py:Plain", *SHORT))
    assert plain["run"].startswith("lightgcn-plain-general-seed0")
    assert "texts" not in plain["config"]["data"]
    result(call("train", "-w", place.path, "--backbone", "lightgcn", "--name", "base", *SHORT))

    compared = result(call("compare", "-w", place.path, "base", "pulled", "--json"))
    assert set(compared["comparisons"]) == {"pulled"}
    # The run may be somebody else's, so that it names the class is not enough to run its code.
    final = ("train", "-w", place.path, "--final", "--like", "pulled", "--name", "live")
    code, _, err = call(*final)
    assert code == 2
    assert "if you trust it, add --alignment pull.py:Pull" in err
    assert result(call(*final, "--alignment", "pull.py:Pull", "--json"))["test"] is None
    assert call(*final, "--alignment", "pull.py:Plain")[0] == 2

    pytest.importorskip("matplotlib")
    result(call("report", "-w", place.path, "--json"))
    assert "pulled" in (place.path / "report.html").read_text(encoding="utf-8")


def test_an_own_alignment_in_a_sweep_and_an_experiment(call, place):
    (place.path / "s.toml").write_text(
        'alignments = ["none", "pull.py:Pull"]\n[options]\nepochs = 2\nbatch_size = 256\n'
        '[grid]\nl2 = [1e-6]\n[grid."pull.py:Pull"]\nweight = [0.1, 0.2]\nalignment.layers = [2]\n'
    )
    swept = result(call("sweep", "-w", place.path, place.path / "s.toml", "--json"))
    assert (swept["trials"], swept["failed"]) == (3, 0)
    best = {one["alignment"]: one["options"] for one in swept["best"]}
    assert best["pull.py:Pull"]["alignment.layers"] == 2
    preset = place.path / "sweeps" / "s" / "best.toml"
    trained = result(
        call("train", "-w", place.path, "--alignment", "pull.py:Pull", "--preset", preset, "--json")
    )
    assert trained["config"]["alignment"]["layers"] == 2

    (place.path / "mine.toml").write_text(
        'title = "Mine"\nmetrics = ["recall@20"]\nrows = ["variant", "text_embeddings", "dimension"]\nseeds = 1\n'
        'against = {variant = "Base"}\ndetails = true\n[options]\nepochs = 2\nbatch_size = 256\n'
        '[[grid]]\nalignment = ["none", "pull.py:Pull"]\n'
    )
    ran = result(call("experiment", place.path / "mine.toml", "-w", place.path, "--json"))
    pulled = {"variant": "Pulled", "text_embeddings": "default", "dimension": "32"}
    assert ran["rows"][1].items() >= pulled.items()
    table = next((place.path).rglob("mine*.md")).read_text(encoding="utf-8")
    assert "| Pulled | default | 32 |" in table
    assert "not measured" not in table, "every row that was asked for is"


def test_an_own_encoder_in_encode_and_cold_start(call, place):
    (place.path.parent / "letters.py").write_text(ENCODER)
    rows = "".join(f"{raw},{'abcdefgh'[int(raw[1:]) % 8] * 3} {raw}\n" for raw in place.dataset().items.ids)
    (place.path / "items.csv").write_text("item_id,title\n" + rows)
    encode = ("encode", "-w", place.path, "--items", place.path / "items.csv", "--name", "own", "--json")
    made = result(call(*encode, "--encoder", "letters.py:Letters", "--set", "size=8"))
    assert (made["encoder"], made["dimensions"]) == ("letters 8", 8)
    assert made["made_by"] == {"encoder": "letters.py:Letters", "options": {"size": 8}}
    code, _, err = call(*encode, "--encoder", "letters.py:Nameless")
    assert code == 2
    assert "has no name, no encode" in err

    result(call("train", "-w", place.path, "--backbone", "lightgcn", "--name", "base", *SHORT))
    result(call("cold", "fit", "-w", place.path, "--run", "base", "--text-embeddings", "own", "--json"))
    cold = ("cold", "item", "-w", place.path, "--run", "base", "--text", "aaa", "--json")
    code, _, err = call(*cold)
    assert code == 2, "a stored file alone never runs code"
    assert "a stored file never imports: pass --encoder letters.py:Letters" in err
    assert len(result(call(*cold, "--encoder", "letters.py:Letters"))["users"]) == 10
    code, _, err = call(*cold, "--encoder", "wordllama")
    assert code == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Nothing", "Nothing does not implement fit, rule: a subclass of rlmrec.closed_form.ClosedForm must"),
        (
            "HalfFolded",
            "HalfRule does not implement from_state, parts, split, state: a subclass of rlmrec.closed_",
        ),
        ("Number", "Number.fit gave an object of type int: expected a rlmrec.closed_form.ClosedFormModel"),
        ("Short", "Short.fit does not take (dataset, texts, config, seed): too many positional"),
        ("Forgot", "Forgot.fit is no class method: put @classmethod before it"),
        ("Arrays", "Arrays.fit: weights of the record is of type ndarray, expected what JSON can hold"),
    ],
)
def test_a_closed_form_that_lacks_something_is_one_line(call, place, name, message):
    (place.path.parent / "forms.py").write_text(CLOSED_FORM)
    code, _, err = call("train", "-w", place.path, "--backbone", f"forms.py:{name}")
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


class Hollow(ClosedForm):
    """Implements nothing."""

    label = ""
    Config = dict


class Validating(Popularity):
    """Needs a validation split."""

    @classmethod
    def fit(cls, dataset, texts=None, config=None, seed=0):
        model = super().fit(dataset)
        evaluate(model, dataset, split="valid")
        return model


class Random(Popularity):
    """Differs from fit to fit."""

    @classmethod
    def fit(cls, dataset, texts=None, config=None, seed=0):
        model = super().fit(dataset)
        return replace(model, items=np.random.default_rng().random((dataset.n_items, 1), np.float32))


class Anonymous(Popularity):
    """Does not say which dataset it was fitted to."""

    @classmethod
    def fit(cls, dataset, texts=None, config=None, seed=0):
        return replace(super().fit(dataset), fingerprint=None)


class Unmeasured(Popularity):
    """Divides by zero."""

    @classmethod
    def fit(cls, dataset, texts=None, config=None, seed=0):
        return replace(super().fit(dataset), items=np.full((dataset.n_items, 1), np.nan, np.float32))


class Doubled(Popularity):
    """Gives known users twice what its rule gives new ones."""

    @classmethod
    def fit(cls, dataset, texts=None, config=None, seed=0):
        return replace(super().fit(dataset), users=np.full((dataset.n_users, 1), 2, np.float32))


class Forgetful(Popularity):
    """Restores another rule than it had."""

    @classmethod
    def rule(cls, state):
        return super().rule({"vector": 2 * state["vector"]})


@pytest.mark.parametrize(
    ("kind", "messages"),
    [
        (Hollow, ["Hollow does not implement fit(", "Hollow does not implement rule(",
                  "Hollow.Config is", "Hollow.label is ''"]),
        (Random, ["a second fit with the same seed, and with the defaults of Config, gives other scores"]),
        (Validating, ["fit() fails on dataset.final(), which has no validation split: the valid split of blocks"]),
        (Anonymous, ["fingerprint of the model is None, expected dataset.fingerprint"]),
        (Unmeasured, ["score() gives numbers that are not finite"]),
        (Doubled, ["rule.parts() gives known users other scores than score()"]),
        (Forgetful, ["rule() restores another rule"]),
        (FoldIn, ["FoldIn is not a subclass of rlmrec.ClosedForm"]),
    ],
)  # fmt: skip
def test_check_closed_form_names_what_is_missing(toy, kind, messages):
    with pytest.raises(AssertionError) as error:
        check_closed_form(kind, toy[0])
    lines = str(error.value).splitlines()
    assert len(lines) == len(messages)
    for line, message in zip(lines, messages, strict=True):
        assert message in line


class Empty(Alignment):
    """Implements nothing."""

    label = ""
    Config = dict


class Wild(Alignment):
    """Draws from PyTorch's own stream."""

    def corrupt(self, x, rng):
        return x + torch.randn(x.shape), None

    def loss(self, users, items, batch, masked):
        return {"wild": users.mean()}


class Unnamed(Alignment):
    """Returns a term without a name."""

    def loss(self, users, items, batch, masked):
        return users.square().mean()


class Float(Alignment):
    """Returns a term that is no tensor."""

    def loss(self, users, items, batch, masked):
        return {"mine": 0.0}


class Long(Alignment):
    """Returns a term for each dimension."""

    def loss(self, users, items, batch, masked):
        return {"mine": users.mean(0)}


class Demanding(Alignment):
    """Needs texts."""

    needs_text = True

    def loss(self, users, items, batch, masked):
        return {"demanding": users.square().mean()}


@pytest.mark.parametrize(
    ("kind", "messages"),
    [
        (Empty, ["Empty does not implement loss(", "Empty.Config is", "Empty.label is ''"]),
        (Wild, ["corrupt() differs for equal rng"]),
        (Unnamed, ["Unnamed.loss returned a Tensor: expected a dict of terms by name"]),
        (Float, ["the term 'mine' of Float.loss is a float: expected a scalar tensor"]),
        (Long, ["the term 'mine' of Long.loss is a tensor of shape (32,): expected a scalar tensor"]),
        (Demanding, ["Demanding needs text vectors"]),
        (Registry, ["Registry is not a subclass of rlmrec.Alignment"]),
    ],
)
def test_check_alignment_names_everything_that_is_missing(toy, kind, messages):
    backbone = LightGCN(toy[0].n_users, toy[0].n_items)
    with pytest.raises(AssertionError) as error:
        check_alignment(kind, backbone, toy[0])
    lines = str(error.value).splitlines()
    assert len(lines) == len(messages)
    for line, message in zip(lines, messages, strict=True):
        assert message in line


def test_the_checks_make_a_class_by_its_create(toy):
    dataset, texts = toy
    check_alignment(Demanding, LightGCN(dataset.n_users, dataset.n_items), dataset, texts)
    check_backbone(KARLightGCN, dataset, texts)


def test_check_text_encoder_names_everything_that_is_missing():
    with pytest.raises(
        AssertionError, match=r"object has no name: .*\nobject has no dim: .*\nobject has no encode"
    ):
        check_text_encoder(object())


@pytest.mark.parametrize("registry", [BACKBONES, ALIGNMENTS, ENCODERS], ids=lambda registry: registry.kind)
def test_every_line_of_a_registry_is_a_class(registry):
    for name in registry:
        assert isinstance(registry[name], type), name
        assert registry.resolve(name) is registry.known(name) is registry[name]
        assert name in registry.choices


def test_mistakes_in_paths_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registry = Registry("part", "rlmrec.errors:RlmrecError", {"data": "rlmrec.errors:DataError"})
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "fine.py").write_text("from rlmrec.errors import DataError\nclass Mine(DataError): ...\n")
    assert registry.resolve("fine.py:Mine").__name__ == "Mine"
    assert registry.known("fine.py:Mine") is registry.resolve("fine.py:Mine")
    assert registry.known("fine.py:Other") is None, "nothing is imported for a name that is only looked up"
    for name, message in (
        ("dota", r"unknown part 'dota' \(did you mean 'data'\?\): expected one of data, or your own class"),
        ("no.py:Mine", "no.py does not exist"),
        ("broken.py:Mine", "cannot be imported: ZeroDivisionError"),
        ("no.such.module:Mine", "cannot be imported: ModuleNotFoundError"),
        ("fine.py:Yours", r"fine.py has no Yours; such classes in it: Mine"),
        ("rlmrec.registry:Registry", "has a Registry that is not a subclass of rlmrec.RlmrecError"),
    ):
        with pytest.raises(ConfigError, match=message):
            registry.resolve(name)
