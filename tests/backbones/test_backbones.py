"""What every backbone owes, with every alignment; and that each learns."""

import pytest

from rlmrec.backbones import BACKBONES
from rlmrec.evaluation.ranking import DotProduct, evaluate
from rlmrec.experiments.run import build
from rlmrec.experiments.spec import PRESETS, RunSpec
from rlmrec.testing import check_alignment, check_backbone
from rlmrec.training.trainer import embeddings, train

ALIGNED = ("none", "contrastive", "generative")


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_owes(toy, name):
    dataset, semantics = toy
    check_backbone(build(RunSpec.resolve(name), dataset, semantics)[0], dataset)


@pytest.mark.parametrize("alignment", ALIGNED)
@pytest.mark.parametrize("name", BACKBONES)
def test_an_alignment_owes(toy, name, alignment):
    dataset, semantics = toy
    spec = RunSpec.resolve(name, alignment)
    backbone, alignment = build(spec, dataset, semantics)
    if (name, spec.alignment) == ("mf", "generative"):
        # Without neighbours nothing but [MASK] itself is known of a masked node: docs of MF.
        with pytest.raises(AssertionError, match="no gradient of the alignment reaches the embeddings"):
            check_alignment(alignment, backbone, dataset)
    else:
        check_alignment(alignment, backbone, dataset)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_preset_resolves(name):
    specs = [RunSpec.resolve(name, alignment, preset) for preset in PRESETS for alignment in ALIGNED]
    assert all(spec.backbone_config.embedding_size == 32 for spec in specs)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_learns_the_blocks(toy, name):
    """Each group must be recommended its own block: 15 of 45 items, so chance is a third."""
    dataset, semantics = toy
    spec = RunSpec.resolve(
        name, options={"batch_size": 64, "learning_rate": 1e-2, "epochs": 40, "patience": 40}
    )
    backbone, alignment = build(spec, dataset, semantics)
    train(backbone, alignment, dataset, spec.training, seed=1)
    ranking = evaluate(DotProduct(*embeddings(backbone, dataset)), dataset, k=(5,))
    own = ranking.users[:, None] // 20 == ranking.items // 15
    assert own.mean() > 0.95
