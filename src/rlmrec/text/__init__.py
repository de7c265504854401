"""From texts to vectors: encoders, the cache of what they made, and TextEmbeddings, which alignments learn from."""

from __future__ import annotations

from rlmrec.text.api import OpenAIEmbeddings
from rlmrec.text.cache import VectorCache
from rlmrec.text.embeddings import TextEmbeddings, mean_over_training
from rlmrec.text.encoder import TextEncoder
from rlmrec.text.encoding import encode_dataset, encode_texts
from rlmrec.text.local import LocalEncoder
from rlmrec.text.registry import encoder_of, make_encoder
from rlmrec.text.sentence import SentenceEncoder
from rlmrec.text.wordllama import WordLlamaEncoder

__all__ = [
    "LocalEncoder",
    "OpenAIEmbeddings",
    "SentenceEncoder",
    "TextEmbeddings",
    "TextEncoder",
    "VectorCache",
    "WordLlamaEncoder",
    "encode_dataset",
    "encode_texts",
    "encoder_of",
    "make_encoder",
    "mean_over_training",
]
