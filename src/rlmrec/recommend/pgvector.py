"""Embeddings into a Postgres database with the extension pgvector."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from typing import Any

from rlmrec.data.databases import connect_postgres, shown, without_secrets
from rlmrec.errors import ConfigError, DataError
from rlmrec.recommend.export import SIDES, blocks_of
from rlmrec.recommend.recommender import Recommender

ROWS = 10_000  # loaded at a time
MAX_COLUMNS = 16_000  # of pgvector
PREFIX = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,40}")


def load_pgvector(
    recommender: Recommender,
    connection: str,
    prefix: str = "rlmrec",
    progress: Callable[[int], None] | None = None,
) -> None:
    """Load all vectors into two tables, PREFIX_users and PREFIX_items, which are replaced in one transaction.

    Columns: ``id``; ``vector``; and for users ``seen``, the ids of the items they are known to have. The score is the
    inner product, so with a user's vector and ``seen``

        SELECT id FROM rlmrec_items WHERE id <> ALL (:seen) ORDER BY vector <#> :vector LIMIT 20

    gives the results of ``recommend``. Without an index Postgres searches exactly.

    Args:
        recommender: holds the vectors.
        connection: ``postgresql://user@host:port/database``; the extension is created if it is not there.
        prefix: of the names of the tables: letters, digits and underscores.
        progress: called with the number of rows loaded so far.

    Raises:
        ConfigError: a prefix that names no table, more than 16,000 numbers a vector, or no such kind of address; or the
            ``postgres`` extra is not installed.
        UnavailableError: no server answers.
        DataError: the server has no pgvector, or refuses a statement; then nothing has changed.
    """
    recommender.check_inner_product("an export of embeddings")
    if not PREFIX.fullmatch(prefix):
        raise ConfigError(
            f"--prefix {prefix!r}: expected letters, digits and underscores for names of tables"
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
            said = without_secrets(error, connection)
            if "is not available" in said or "extension/vector.control" in said:
                said = "it has no pgvector; install the extension on that machine, as postgresql-16-pgvector or so"
            raise DataError(f"{shown(connection)} takes no vectors: {said}") from None


def _load(
    cursor: Any,
    recommender: Recommender,
    side: str,
    table: str,
    done: int,
    progress: Callable[[int], None] | None,
) -> int:
    """Load one side into a new table under the name of the old one; return the number of rows loaded so far."""
    d = recommender.items.shape[1]
    seen = ", seen" if side == "users" else ""
    id_type, item_type = (
        "text" if ids.is_text else "bigint"
        for ids in (
            recommender.user_ids if side == "users" else recommender.item_ids,
            recommender.item_ids,
        )
    )
    cursor.execute(f'DROP TABLE IF EXISTS "{table}"')
    cursor.execute(
        f'CREATE TABLE "{table}" (id {id_type} PRIMARY KEY, vector vector({d}) NOT NULL'
        + (f", seen {item_type}[] NOT NULL)" if seen else ")")
    )
    for block in blocks_of(recommender, side, ROWS):
        cursor.adbc_ingest(
            "rlmrec_block", block, mode="create", temporary=True
        )  # by COPY, as arrays of numbers
        cursor.execute(
            f'INSERT INTO "{table}" (id, vector{seen}) SELECT id, vector::vector({d}){seen} FROM rlmrec_block'
        )
        cursor.execute("DROP TABLE rlmrec_block")
        done += len(block)
        if progress:
            progress(done)
    return done
