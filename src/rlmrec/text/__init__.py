"""From texts to vectors: encoders, the cache of what they made, and Semantics, which alignments learn from."""

from __future__ import annotations

from rlmrec.text.api import OpenAIEmbeddings
from rlmrec.text.cache import VectorCache
from rlmrec.text.encoder import TextEncoder
from rlmrec.text.encoding import encode_dataset, encode_texts
from rlmrec.text.local import LocalEncoder
from rlmrec.text.named import encoder_of, make_encoder
from rlmrec.text.semantics import Semantics, mean_over_training
from rlmrec.text.sentence import SentenceEncoder
from rlmrec.text.wordllama import WordLlamaEncoder

__all__ = [
    "LocalEncoder",
    "OpenAIEmbeddings",
    "Semantics",
    "SentenceEncoder",
    "TextEncoder",
    "VectorCache",
    "WordLlamaEncoder",
    "encode_dataset",
    "encode_texts",
    "encoder_of",
    "make_encoder",
    "mean_over_training",
]
