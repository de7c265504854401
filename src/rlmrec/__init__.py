"""rlmrec: recommendations that understand text.

Graph collaborative filtering whose user and item embeddings are aligned with language-model profiles
(RLMRec, Ren et al., WWW 2024). The names below are the whole public interface for everyday use; they are
imported when first asked for, so that serving needs no PyTorch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rlmrec.lazy import lazy_names

# Linux gives a new array page by page, 4 KB each, when it is first written. With this setting PyTorch asks for pages of
# 2 MB, which takes a fifth of the time for large arrays. PyTorch reads it when it makes its first array.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

if TYPE_CHECKING:
    from rlmrec.alignment import Alignment, Contrastive, Distilled, Generative
    from rlmrec.alignment.teacher import TeacherLists
    from rlmrec.backbones import Backbone, LightGCN
    from rlmrec.backbones.wrap import wrap
    from rlmrec.closed_form import ClosedForm
    from rlmrec.data.dataset import Dataset
    from rlmrec.data.interactions import Interactions
    from rlmrec.data.vocabulary import Vocabulary
    from rlmrec.errors import RlmrecError
    from rlmrec.evaluation.compare import compare_rankings
    from rlmrec.evaluation.ranking import DotProduct, evaluate
    from rlmrec.graph import Graph
    from rlmrec.recommend.recommender import Recommender
    from rlmrec.text.embeddings import TextEmbeddings
    from rlmrec.text.encoding import encode_dataset
    from rlmrec.training.config import TrainConfig
    from rlmrec.training.trainer import embeddings, train

__version__ = "0.1.0"

_HOME = {
    "Alignment": "rlmrec.alignment",
    "Backbone": "rlmrec.backbones",
    "ClosedForm": "rlmrec.closed_form",
    "Contrastive": "rlmrec.alignment",
    "Dataset": "rlmrec.data.dataset",
    "Distilled": "rlmrec.alignment",
    "DotProduct": "rlmrec.evaluation.ranking",
    "Generative": "rlmrec.alignment",
    "Graph": "rlmrec.graph",
    "Interactions": "rlmrec.data.interactions",
    "LightGCN": "rlmrec.backbones",
    "Recommender": "rlmrec.recommend.recommender",
    "RlmrecError": "rlmrec.errors",
    "TeacherLists": "rlmrec.alignment.teacher",
    "TextEmbeddings": "rlmrec.text.embeddings",
    "TrainConfig": "rlmrec.training.config",
    "Vocabulary": "rlmrec.data.vocabulary",
    "compare_rankings": "rlmrec.evaluation.compare",
    "embeddings": "rlmrec.training.trainer",
    "encode_dataset": "rlmrec.text.encoding",
    "evaluate": "rlmrec.evaluation.ranking",
    "train": "rlmrec.training.trainer",
    "wrap": "rlmrec.backbones.wrap",
}

__all__ = [
    "Alignment",
    "Backbone",
    "ClosedForm",
    "Contrastive",
    "Dataset",
    "Distilled",
    "DotProduct",
    "Generative",
    "Graph",
    "Interactions",
    "LightGCN",
    "Recommender",
    "RlmrecError",
    "TeacherLists",
    "TextEmbeddings",
    "TrainConfig",
    "Vocabulary",
    "compare_rankings",
    "embeddings",
    "encode_dataset",
    "evaluate",
    "train",
    "wrap",
]


if not TYPE_CHECKING:  # a type checker would take every name for one of the package
    __getattr__ = lazy_names(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
