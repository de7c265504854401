"""Presets and settings resolved to configurations."""

import pickle

import pytest

from rlmrec import TrainConfig
from rlmrec.alignment import ALIGNMENTS
from rlmrec.backbones import BACKBONES, Backbone, LightGCN
from rlmrec.closed_form import GraphFilter
from rlmrec.config import parse_settings
from rlmrec.errors import ConfigError
from rlmrec.experiments.run import build
from rlmrec.experiments.spec import PRESETS, RunSpec


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_every_preset_resolves(preset, backbone, alignment):
    spec = RunSpec.resolve(backbone, alignment, preset)
    assert spec.training.batch_size == 4096
    assert spec.as_dict()["run"]["preset"] == preset


def test_published_values_of_amazon():
    con = RunSpec.resolve("lightgcn", "contrastive", "amazon").as_dict()
    assert con["training"]["l2"] == 1e-7
    assert con["alignment"] == {"weight": 1e-2, "temperature": 0.2, "negatives": "all-users"}
    assert con["backbone"]["layers"] == 3


def test_settings_override_the_preset():
    options = parse_settings(["layers=1", "l2=1e-3", "negatives=batch"])
    spec = RunSpec.resolve("lightgcn", "contrastive", "amazon", options=options)
    assert spec.backbone_config.layers == 1
    assert spec.training.l2 == 1e-3
    assert spec.alignment_config.negatives == "batch"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"backbone": "lightgnc"},
            "unknown backbone 'lightgnc' \\(did you mean 'lightgcn'\\?\\): expected one of lightgcn",
        ),
        ({"backbone": "no.such.module:Thing"}, "cannot be imported"),
        ({"backbone": "rlmrec.graph:Graph"}, "not a subclass of rlmrec.Backbone"),
        ({"backbone": ".graph:Graph"}, "unknown backbone '.graph:Graph'"),
        ({"backbone": 1}, "backbone 1 is not a name"),
        ({"options": {"learning_rate": float("inf")}}, "learning_rate = inf: .*finite"),
        ({"alignment": "con"}, "unknown alignment 'con'.*: expected one of none, contrastive, generative"),
        ({"preset": "amazn"}, "unknown preset 'amazn'"),
        ({"options": {"tau": 0.1}}, "unknown option 'tau'.*known are batch_size"),
        ({"options": {"layers": "many"}}, "layers = 'many'"),
        ({"options": {"layers": -1}}, "layers = -1: expected at least 0"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        RunSpec.resolve(**arguments)


def test_mistakes_are_named_by_the_constructor_of_a_config():
    with pytest.raises(ConfigError, match=r"unknown option 'epoch' \(did you mean 'epochs'\?\)"):
        TrainConfig(epoch=3)
    with pytest.raises(ConfigError, match="unknown option 'rnk'"):
        GraphFilter.Config(rnk=3)
    with pytest.raises(ConfigError) as error:
        TrainConfig(epoch=3, rank=2)
    assert str(error.value).startswith(
        "unknown options 'epoch' (did you mean 'epochs'?), 'rank': expected one of "
    )
    kept = TrainConfig(epochs=3)
    assert pickle.loads(pickle.dumps(kept)) == kept


def test_a_setting_without_a_value():
    with pytest.raises(ConfigError, match="expected name=value"):
        parse_settings(["layers"])


class Narrow(Backbone):
    """Takes no config."""

    def __init__(self, n_users, n_items):
        super().__init__(n_users, n_items)


def test_a_backbone_with_another_signature_is_refused(toy):
    spec = RunSpec.resolve(f"{__name__}:Narrow")
    with pytest.raises(ConfigError, match=r"Narrow takes other arguments than \(int, int, RankingConfig\)"):
        build(spec, toy[0], None)


def test_a_class_path_is_a_backbone():
    assert RunSpec.resolve("rlmrec.backbones.lightgcn:LightGCN").backbone_config == LightGCN.Config()
