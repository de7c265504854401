"""Export of recommendations to Parquet, and of embeddings to Parquet or a vector database."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from rlmrec.data.vocabulary import RawId, Vocabulary
from rlmrec.engine import Engine, bound
from rlmrec.errors import ConfigError
from rlmrec.files import atomic_file
from rlmrec.recommend.lists import Lists, Rules, as_rules
from rlmrec.recommend.recommender import Recommender
from rlmrec.topk import check_whole
from rlmrec.types import BoolArray, Float32Array, IntArray

# Users per row group: with k = 20, some tens of MiB are in memory at a time.
ROW_GROUP = 50_000
ENTRIES = 10_000_000  # of lists in memory at a time
LISTS = (".parquet", ".csv", ".jsonl")
SIDES = ("users", "items")
BATCH = 1000
BLOCK = 10_000  # rows loaded into a database at a time
# Namespace of the ids of points whose raw id is text. Any constant works, as long as it never changes.
NAMESPACE = uuid.UUID("5f0c7d2e-6b0a-5d53-9d2c-6a1b5c0f4e11")


class Written(NamedTuple):
    """What ``write_lists`` has written: the number of items in all lists, and of users by the source of theirs."""

    listed: int
    sources: dict[str, int]


def write_lists(
    lists: Lists,
    path: Path,
    k: int = 20,
    rules: Rules | None = None,
    progress: Callable[[int], None] | None = None,
    row_group: int = ROW_GROUP,
    engine: Engine | None = None,
) -> Written:
    """Write the lists of all users as Parquet, CSV or JSON lines, in the order of the users and in bounded memory.

    Columns: ``user``; ``items`` and ``scores``, lists of k, best first, shorter where there are fewer
    candidates; ``source``, as of ``UserList``. CSV has one row per item instead: user, rank, item, score, source.

    Args:
        lists: makes them.
        path: the file; its ending decides, and it is replaced as a whole.
        k: items per user; more than there are items means all of them.
        rules: for all users.
        progress: called with the number of users done so far.
        row_group: users at a time; fewer where lists are long.
        engine: computes the lists; by default this process. The lists are the same.

    Returns:
        how much was written.

    Raises:
        ConfigError: k below 1, an ending that is none of ``LISTS``, a rule that does not fit to the items, or rules
            that no item fulfils. Nothing is written then, and a file that was there stays.
    """
    path, rules, recommender = Path(path), as_rules(rules), lists.recommender
    check_whole(k)
    if path.suffix not in LISTS:
        raise ConfigError(f"{path}: expected a name that ends in one of {', '.join(LISTS)}")
    lists.check_some_left(rules)
    allowed, _ = lists.allowed(rules)
    k = lists.length(k)
    at_once = max(1, min(row_group, ENTRIES // k))
    users, items = (
        pl.Series(ids.ids, dtype=_id_type(ids)) for ids in (recommender.user_ids, recommender.item_ids)
    )
    counts = {"history": 0, "text": 0, "popularity": 0}
    is_csv = path.suffix == ".csv"

    n_listed = 0

    def groups(*pushed_down: object) -> Iterator[pl.DataFrame]:
        nonlocal n_listed
        del pushed_down  # the sink needs all rows and columns
        starts = range(0, len(users), at_once)
        of_users = [np.arange(start, min(start + at_once, len(users))) for start in starts]
        for number, made in (engine or Engine()).map(
            bound(_rows, lists, k, rules, allowed), of_users, in_order=True
        ):
            found, scores, by_text, by_popularity = made
            start, stop = starts[number], starts[number] + len(found)
            source = np.where(by_popularity, "popularity", np.where(by_text, "text", "history"))
            for name in counts:
                counts[name] += int((source == name).sum())
            n_listed += int((found >= 0).sum())
            flat = pl.DataFrame({"row": found.ravel(), "score": scores.ravel()}).select(
                row=pl.when(pl.col("row") >= 0).then("row"),
                score=pl.when(pl.col("row") >= 0).then("score"),
            )
            table = pl.DataFrame(
                {
                    "user": users[start:stop],
                    "items": _lists(items.gather(flat["row"]), found.shape),
                    "scores": _lists(flat["score"], found.shape),
                    "source": source,
                }
            )
            yield _one_row_per_item(table) if is_csv else table
            if progress:
                progress(stop)

    schema: dict[str, Any] = {
        "user": users.dtype, "items": pl.List(items.dtype), "scores": pl.List(pl.Float32), "source": pl.String,
    }  # fmt: skip
    if is_csv:
        schema = {
            "user": users.dtype, "rank": pl.Int64, "item": items.dtype, "score": pl.Float32, "source": pl.String,
        }  # fmt: skip
    table = register_io_source(groups, schema=schema)
    with atomic_file(path) as temporary:
        if is_csv:
            table.sink_csv(temporary)
        elif path.suffix == ".jsonl":
            table.sink_ndjson(temporary)
        else:
            table.sink_parquet(temporary, row_group_size=row_group)
    return Written(n_listed, counts)


def _rows(
    lists: Lists, k: int, rules: Rules, allowed: BoolArray | None, users: IntArray
) -> tuple[IntArray, Float32Array, BoolArray, BoolArray]:
    return lists.rows(users, k, rules, allowed)


def _one_row_per_item(table: pl.DataFrame) -> pl.DataFrame:
    """Return user, rank from 1, item, score and source."""
    some = table.filter(pl.col("items").list.len() > 0)
    ranked = some.with_columns(rank=pl.int_ranges(1, pl.col("items").list.len() + 1, dtype=pl.Int64))
    return ranked.explode("items", "scores", "rank").select(
        "user", "rank", pl.col("items").alias("item"), pl.col("scores").alias("score"), "source"
    )


def _lists(column: pl.Series, shape: tuple[int, ...]) -> pl.Series:
    """Return a column of lists without nulls."""
    return column.reshape(shape).arr.to_list().list.drop_nulls()


def write_parquet(recommender: Recommender, folder: Path) -> list[Path]:
    """Write ``users.parquet`` and ``items.parquet``: columns ``id`` and ``vector`` (fixed-size float32 lists).

    The score of a user for an item is the dot product of their vectors.

    Returns:
        their paths.
    """
    recommender.check_inner_product("an export of embeddings")
    written = []
    for side in SIDES:
        ids, vectors = side_of(recommender, side)
        table = pl.DataFrame(
            {
                "id": pl.Series(ids.ids, dtype=_id_type(ids)),
                "vector": pl.Series(
                    np.ascontiguousarray(vectors), dtype=pl.Array(pl.Float32, vectors.shape[1])
                ),
            }
        )
        path = Path(folder) / f"{side}.parquet"
        with atomic_file(path) as temporary:
            table.write_parquet(temporary)
        written.append(path)
    return written


def load_qdrant(
    recommender: Recommender,
    client: Any,
    prefix: str = "rlmrec",
    progress: Callable[[int], None] | None = None,
) -> None:
    """Load all vectors into two Qdrant collections, PREFIX-users and PREFIX-items, which are replaced.

    Distance is the dot product, so a search for items with a user's vector gives the results of ``recommend``.
    The payload has the raw id as ``id``, and for users the items they are known to have as ``seen``, to be filtered
    out. The id of a point is ``point_id``.

    Args:
        recommender: holds the vectors.
        client: a ``qdrant_client.QdrantClient``: remote, in a folder, or in memory.
        prefix: of the names of the collections.
        progress: called with the number of points loaded so far.

    Raises:
        ConfigError: the ``qdrant`` extra is not installed.

    Example:
        >>> from qdrant_client import QdrantClient
        >>> load_qdrant(recommender, QdrantClient(path="vectors"))
    """
    recommender.check_inner_product("an export of embeddings")
    models = _qdrant().models
    done = 0
    for side in SIDES:
        ids, vectors = side_of(recommender, side)
        name = f"{prefix}-{side}"
        if client.collection_exists(name):
            client.delete_collection(name)
        client.create_collection(
            name,
            vectors_config=models.VectorParams(size=vectors.shape[1], distance=models.Distance.DOT),
        )
        for start in range(0, len(ids), BATCH):
            rows = range(start, min(start + BATCH, len(ids)))
            payloads: list[dict[str, Any]] = [{"id": ids.id(row)} for row in rows]
            if side == "users":
                for row, payload in zip(rows, payloads, strict=True):
                    payload["seen"] = [
                        recommender.item_ids.id(item) for item in recommender.known[[row]].indices.tolist()
                    ]
            client.upsert(
                name,
                models.Batch(
                    ids=[point_id(ids.id(row)) for row in rows],
                    vectors=np.asarray(vectors[rows.start : rows.stop]).tolist(),
                    payloads=payloads,
                ),
            )
            done += len(rows)
            if progress:
                progress(done)


def qdrant_client(location: str) -> Any:
    """Return a client of a Qdrant server ("http://…") or of a local folder.

    Raises:
        ConfigError: the ``qdrant`` extra is not installed, or no Qdrant server answers at the address.
    """
    kind = _qdrant().QdrantClient
    if "://" not in location:
        return kind(path=location)
    failures = import_module("qdrant_client.http.exceptions")
    try:
        # Its check of versions runs in a thread and would print a warning beside the error raised here.
        kind(url=location, check_compatibility=False).get_collections()
    except (failures.ApiException, ValueError) as error:  # ValueError: not an address
        raise ConfigError(
            f"no Qdrant server answers at {location} ({error}): start it, or name a folder"
        ) from None
    return kind(url=location)


def point_id(raw: RawId) -> int | str:
    """Return the id of a point: the raw id if it is a number from 0, else a UUID; Qdrant allows no others."""
    return raw if isinstance(raw, int) and raw >= 0 else str(uuid.uuid5(NAMESPACE, str(raw)))


def side_of(recommender: Recommender, side: str) -> tuple[Vocabulary, Float32Array]:
    """Return the ids and vectors of "users" or "items"."""
    if side == "users":
        return recommender.user_ids, recommender.users
    return recommender.item_ids, recommender.items


def blocks_of(recommender: Recommender, side: str, size: int) -> Iterator[pl.DataFrame]:
    """Yield the rows of a side some at a time: ``id``, ``vector``, and for users ``seen``, the ids of their items."""
    ids, vectors = side_of(recommender, side)
    for start in range(0, len(ids), size):
        stop = min(start + size, len(ids))
        columns = {
            "id": pl.Series([ids.id(row) for row in range(start, stop)], dtype=_id_type(ids)),
            "vector": pl.Series(
                np.ascontiguousarray(vectors[start:stop]), dtype=pl.Array(pl.Float32, vectors.shape[1])
            ),
        }
        if side == "users":
            known = recommender.known[start:stop]
            items = pl.Series(
                [recommender.item_ids.id(item) for item in known.indices.tolist()],
                dtype=_id_type(recommender.item_ids),
            )
            ends = known.indptr.tolist()
            columns["seen"] = pl.Series(
                [items[first:last] for first, last in itertools.pairwise(ends)], dtype=pl.List(items.dtype)
            )
        yield pl.DataFrame(columns)


def _id_type(ids: Vocabulary) -> type[pl.String | pl.Int64]:
    return pl.String if ids.is_text else pl.Int64


def _qdrant() -> Any:
    try:
        return import_module("qdrant_client")
    except ImportError:
        raise ConfigError("loading Qdrant needs its client: pip install 'rlmrec[qdrant]'") from None
