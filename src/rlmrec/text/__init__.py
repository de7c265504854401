"""From texts to vectors: encoders, the cache of their vectors, and TextEmbeddings, which alignments learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlmrec.lazy import lazy_names
from rlmrec.registry import Registry

if TYPE_CHECKING:
    from rlmrec.text.api import OpenAIEmbeddings
    from rlmrec.text.cache import VectorCache
    from rlmrec.text.embeddings import TextEmbeddings, mean_over_training
    from rlmrec.text.encoder import TextEncoder
    from rlmrec.text.encoding import encode_dataset, encode_texts
    from rlmrec.text.local import LocalEncoder
    from rlmrec.text.registry import encoder_of, make_encoder
    from rlmrec.text.sentence import SentenceEncoder
    from rlmrec.text.wordllama import WordLlamaEncoder

# A new encoder is one line here: how --encoder names it → the path of its class.
ENCODERS: Registry[Any] = Registry(
    "encoder",
    None,
    {
        "local": "rlmrec.text.local:LocalEncoder",
        "wordllama": "rlmrec.text.wordllama:WordLlamaEncoder",
        "sentence-transformers:NAME_OR_FOLDER[:INSTRUCTION]": "rlmrec.text.sentence:SentenceEncoder",
        "openai:MODEL": "rlmrec.text.api:OpenAIEmbeddings",
        "tfidf": "rlmrec.text.tfidf:Tfidf",
    },
)

DEFAULT_TEXT_EMBEDDINGS = "default"  # their name in a workspace
NO_TEXT_EMBEDDINGS = "none"  # in the place of such a name: a closed form then reads none

__all__ = [
    "DEFAULT_TEXT_EMBEDDINGS",
    "ENCODERS",
    "NO_TEXT_EMBEDDINGS",
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

if not TYPE_CHECKING:  # a type checker would take every name for one of the package
    __getattr__ = lazy_names(
        __name__,
        {
            "LocalEncoder": "rlmrec.text.local",
            "OpenAIEmbeddings": "rlmrec.text.api",
            "SentenceEncoder": "rlmrec.text.sentence",
            "TextEmbeddings": "rlmrec.text.embeddings",
            "TextEncoder": "rlmrec.text.encoder",
            "VectorCache": "rlmrec.text.cache",
            "WordLlamaEncoder": "rlmrec.text.wordllama",
            "encode_dataset": "rlmrec.text.encoding",
            "encode_texts": "rlmrec.text.encoding",
            "encoder_of": "rlmrec.text.registry",
            "make_encoder": "rlmrec.text.registry",
            "mean_over_training": "rlmrec.text.embeddings",
        },
    )
