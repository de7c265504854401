"""Embeddings into LanceDB: a folder, or object storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from rlmrec.errors import ConfigError, DataError
from rlmrec.recommend.export import BLOCK, SIDES, blocks_of
from rlmrec.recommend.recommender import Recommender


def load_lancedb(
    recommender: Recommender,
    location: str,
    prefix: str = "rlmrec",
    progress: Callable[[int], None] | None = None,
) -> None:
    """Load all vectors into two LanceDB tables, PREFIX-users and PREFIX-items, which are replaced.

    Columns: ``id``; ``vector``; and for users ``seen``, the ids of the items they are known to have. With the distance
    "dot" and the items of ``seen`` filtered out, a search for items with a user's vector gives the results of
    ``recommend``.

    Args:
        recommender: holds the vectors.
        location: a folder, or what else ``lancedb.connect`` takes, such as ``s3://bucket/folder``.
        prefix: of the names of the tables.
        progress: called with the number of rows loaded so far.

    Raises:
        ConfigError: the ``lancedb`` extra is not installed.
        DataError: LanceDB refuses; a table that was there stays.

    Example:
        >>> load_lancedb(recommender, "vectors")
        >>> lancedb.connect("vectors").open_table("rlmrec-items").search(vector).distance_type("dot").limit(20)
    """
    recommender.check_inner_product("an export of embeddings")
    try:
        lancedb = import_module("lancedb")
    except ImportError:
        raise ConfigError("loading LanceDB needs it: pip install 'rlmrec[lancedb]'") from None
    done = 0
    try:
        database = lancedb.connect(location)
        for side in SIDES:

            def batches(side: str = side) -> Iterator[Any]:
                nonlocal done
                for block in blocks_of(recommender, side, BLOCK):
                    yield from block.to_arrow().to_batches()
                    done += len(block)
                    if progress:
                        progress(done)

            schema = next(blocks_of(recommender, side, 1)).to_arrow().schema
            database.create_table(f"{prefix}-{side}", batches(), schema=schema, mode="overwrite")
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"{location} takes no vectors: {' '.join(str(error).split())[:400]}") from None
