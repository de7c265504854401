"""Embeddings into a Postgres database with the extension pgvector."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from typing import Any

import polars as pl

from rlmrec.data.databases import connect_postgres, error_without_secrets, shown
from rlmrec.errors import ConfigError, DataError
from rlmrec.recommend.export import BLOCK, SIDES, blocks_of
from rlmrec.recommend.recommender import Recommender

MAX_COLUMNS = 16_000  # of pgvector
PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,40}")
TYPES = {"id": "text|bigint", "vector": r"vector\(\d+\)", "seen": r"(text|bigint)\[\]"}


def load_pgvector(
    recommender: Recommender,
    connection: str,
    prefix: str = "rlmrec",
    progress: Callable[[int], None] | None = None,
) -> None:
    """Load all vectors into two tables, PREFIX_users and PREFIX_items, replacing their rows in one transaction.

    Columns: ``id``; ``vector``; and for users ``seen``, the ids of the items they are known to have. The score is the
    inner product, so with a user's vector and ``seen``

        SELECT id FROM rlmrec_items WHERE id <> ALL (:seen) ORDER BY vector <#> :vector LIMIT 20

    gives the results of ``recommend``. Without an index Postgres searches exactly. Tables of an earlier export keep
    their indexes if the types of their columns still fit; otherwise they are made anew.

    Args:
        recommender: holds the vectors.
        connection: ``postgresql://user@host:port/database``; the extension is created if it is not there.
        prefix: of the names of the tables: lower-case letters, digits and underscores, so that SQL needs no quotes.
        progress: called with the number of rows loaded so far.

    Raises:
        ConfigError: a prefix that names no table, more than 16,000 numbers a vector, or no such kind of address; or the
            ``postgres`` extra is not installed.
        UnavailableError: no server answers.
        DataError: a table of that name was not made by an export, the server has no pgvector, or it refuses a
            statement; then nothing has changed.
    """
    recommender.check_inner_product("an export of embeddings")
    if not PREFIX.fullmatch(prefix):
        raise ConfigError(
            f"--prefix {prefix!r}: expected lower-case letters, digits and underscores, at most 41, the first no digit"
        )
    d = recommender.items.shape[1]
    if d > MAX_COLUMNS:
        raise ConfigError(f"vectors of {d:,} numbers: pgvector takes {MAX_COLUMNS:,} at most")
    with closing(connect_postgres(connection)) as database:
        from adbc_driver_postgresql import dbapi

        try:
            with database.cursor() as cursor:
                cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
                done = 0
                for side in SIDES:
                    done = _load(cursor, recommender, side, f"{prefix}_{side}", done, progress)
            database.commit()
        except dbapi.Error as error:
            said = error_without_secrets(error, connection)
            if "is not available" in said or "extension/vector.control" in said:
                said = (
                    "it has no pgvector; install the extension on that machine, for example the package "
                    "postgresql-16-pgvector"
                )
            raise DataError(f"{shown(connection)} takes no vectors: {said}") from None


def _load(
    cursor: Any,
    recommender: Recommender,
    side: str,
    table: str,
    done: int,
    progress: Callable[[int], None] | None,
) -> int:
    """Replace the rows of one side's table; return the number of rows loaded so far."""
    seen = ", seen" if side == "users" else ""
    _empty_table(cursor, table, _columns(recommender, side))
    for block in blocks_of(recommender, side, BLOCK):
        cursor.adbc_ingest(
            "rlmrec_block", block, mode="create", temporary=True
        )  # by COPY, as arrays of numbers
        cursor.execute(
            f"INSERT INTO {table} (id, vector{seen}) SELECT id, vector::vector{seen} FROM rlmrec_block"
        )
        cursor.execute("DROP TABLE rlmrec_block")
        done += len(block)
        if progress:
            progress(done)
    return done


def _columns(recommender: Recommender, side: str) -> dict[str, str]:
    """Return the names and types of the columns of a side's table."""
    user_id, item_id = (
        "text" if ids.is_text else "bigint" for ids in (recommender.user_ids, recommender.item_ids)
    )
    vector = f"vector({recommender.items.shape[1]})"
    if side == "users":
        return {"id": user_id, "vector": vector, "seen": f"{item_id}[]"}
    return {"id": item_id, "vector": vector}


def _empty_table(cursor: Any, table: str, columns: dict[str, str]) -> None:
    """Make a table, or empty the one of an earlier export: if its types fit it stays, with its indexes.

    Raises:
        DataError: a table of that name has columns that no export makes.
    """
    cursor.execute(
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute "
        f"WHERE attrelid = to_regclass('{table}') AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    found = dict(pl.DataFrame(cursor.fetch_arrow()).rows())
    ours = list(found) == list(columns) and all(re.fullmatch(TYPES[name], found[name]) for name in found)
    if found and not ours:
        kinds = ", ".join(f"{name} {kind}" for name, kind in found.items())
        raise DataError(
            f"table {table} was not made by rlmrec, its columns are {kinds}: choose another --prefix"
        )
    if found == columns:
        cursor.execute(f"TRUNCATE {table}")
        return
    cursor.execute(f"DROP TABLE IF EXISTS {table}")
    definitions = ", ".join(f"{name} {kind} NOT NULL" for name, kind in columns.items())
    cursor.execute(f"CREATE TABLE {table} ({definitions}, PRIMARY KEY (id))")
