"""PostgresItems: items added to a server by text, in a Postgres database that servers on several machines share."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import polars as pl

from rlmrec.data.databases import check_postgres, connect_postgres, error_without_secrets, shown
from rlmrec.data.vocabulary import RawId
from rlmrec.errors import DataError, UnavailableError, WorkspaceError
from rlmrec.server.added_items import (
    AddedItem,
    Counters,
    added_before,
    check_room,
    not_added,
    stored_item,
)

Result = TypeVar("Result")
Row = tuple[Any, ...]

FORMAT = 1
LOCK = 0x726C6D  # of those who make the tables at the same time
SECONDS = 10  # that a statement may take, waiting for other writers included
TABLES = (
    f"SELECT pg_advisory_xact_lock({LOCK})",
    """
CREATE TABLE IF NOT EXISTS rlmrec_added_items (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL UNIQUE,
    title text NOT NULL,
    text text NOT NULL,
    encoder text NOT NULL,
    vector bytea NOT NULL
)""",
    """
CREATE TABLE IF NOT EXISTS rlmrec_counters (
    format integer PRIMARY KEY,
    changes bigint NOT NULL,
    reloads bigint NOT NULL
)""",
    f"INSERT INTO rlmrec_counters SELECT {FORMAT}, 0, 0 WHERE NOT EXISTS (SELECT FROM rlmrec_counters)",
)


class PostgresItems:
    """The store of added items in Postgres: an ``ItemStore``. It makes its two tables when it first connects.

    One connection is kept and used by one thread at a time. If it breaks, that call fails, and the next one makes a new
    connection.

    Args:
        connection: ``postgresql://user@host:port/database``, with anything that libpq understands behind a question
            mark. The tables are in the first schema of its search path.

    Raises:
        ConfigError: it is no such address.
        UnavailableError: (all methods) the server does not answer.
        WorkspaceError: (all methods) the server refuses a statement, or the tables are of a newer version.
    """

    def __init__(self, connection: str) -> None:
        check_postgres(connection)
        self.connection = connection
        self._database: Any = None
        self._using = threading.Lock()

    def counters(self) -> Counters:
        """Return the counters."""
        [row] = self._transaction(lambda ask: ask("SELECT changes, reloads FROM rlmrec_counters"))
        return Counters(*row)

    def all(self) -> list[AddedItem]:
        """Return all items in the order in which they were added."""
        select = "SELECT id, title, text, encoder, vector FROM rlmrec_added_items ORDER BY position"
        rows = self._transaction(lambda ask: ask(select))
        try:
            return [
                stored_item(raw, json.loads(title), json.loads(text), encoder, vector)
                for raw, title, text, encoder, vector in rows
            ]
        except (ValueError, DataError) as error:
            raise WorkspaceError(
                f"the added items of {shown(self.connection)} are damaged ({error}): delete those rows of "
                "rlmrec_added_items and add the items again"
            ) from None

    def add(self, item: AddedItem) -> None:
        """Store an item; see ``ItemStore.add``."""
        # Title and text are JSON, as Postgres' text holds no character of the code 0.
        values = {
            "id": json.dumps(item.id),
            "title": json.dumps(item.title),
            "text": json.dumps(item.text),
            "encoder": item.encoder,
            "vector": item.vector.astype(np.float32).tobytes(),
        }
        insert = (
            "INSERT INTO rlmrec_added_items (id, title, text, encoder, vector) VALUES ($1, $2, $3, $4, $5) "
            "ON CONFLICT (id) DO NOTHING RETURNING 1"
        )

        def add(ask: Ask) -> None:
            # First, so that writers wait for each other: then the limit holds, and positions are in order.
            ask("UPDATE rlmrec_counters SET changes = changes + 1 RETURNING 1")
            [[count]] = ask("SELECT count(*) FROM rlmrec_added_items")
            check_room(count)
            if not ask(insert, values):
                raise added_before(item)

        self._transaction(add)

    def remove(self, raw: RawId) -> None:
        """Remove an item; see ``ItemStore.remove``."""

        def remove(ask: Ask) -> None:
            ask("UPDATE rlmrec_counters SET changes = changes + 1 RETURNING 1")
            if not ask("DELETE FROM rlmrec_added_items WHERE id = $1 RETURNING 1", {"id": json.dumps(raw)}):
                raise not_added(raw)

        self._transaction(remove)

    def request_reload(self) -> None:
        """Make all workers load the run again."""
        self._transaction(lambda ask: ask("UPDATE rlmrec_counters SET reloads = reloads + 1 RETURNING 1"))

    def _transaction(self, work: Callable[[Ask], Result]) -> Result:
        """Run ``work`` in one transaction, which is rolled back on an error."""
        with self._using:
            if self._database is None:
                self._database = self._open()
            return self._run(self._database, work)

    def _open(self) -> Any:
        # Without it a network that swallows packets would block a thread for a quarter of an hour.
        database = connect_postgres(self.connection, tcp_user_timeout=1000 * SECONDS)
        try:
            self._run(database, _prepare)
        except BaseException:
            _close(database)
            raise
        return database

    def _run(self, database: Any, work: Callable[[Ask], Result]) -> Result:
        from adbc_driver_postgresql import dbapi

        def ask(statement: str, values: dict[str, Any] | None = None) -> list[Row]:
            cursor.execute(statement, None if values is None else pl.DataFrame([values]))
            return pl.DataFrame(cursor.fetch_arrow()).rows() if cursor.description else []

        place = shown(self.connection)
        try:
            with database.cursor() as cursor:
                found = work(ask)
            database.commit()
        except dbapi.Error as error:
            self._drop(database)
            said = error_without_secrets(error, self.connection)
            if error.sqlstate is None or error.sqlstate[:2] in UNAVAILABLE:
                raise UnavailableError(
                    f"the added items are not available: {place} does not answer ({said})"
                ) from None
            raise WorkspaceError(f"{place} cannot be used as a store of items: {said}") from None
        except BaseException:
            try:
                database.rollback()
            except dbapi.Error:
                self._drop(database)
            raise
        return found

    def _drop(self, database: Any) -> None:
        """Close a connection whose state is unknown after an error: the next call makes a new one."""
        self._database = None
        _close(database)


Ask = Callable[..., list[Row]]
# Classes of SQLSTATE that pass: connection, rollback, resources, intervention of an operator, system.
UNAVAILABLE = ("08", "40", "53", "55", "57", "58", "25")


def _prepare(ask: Ask) -> None:
    """Make the tables if they are not there, and limit the time of later statements."""
    ask(f"SET statement_timeout = {1000 * SECONDS}")
    [[found]] = ask("SELECT to_regclass('rlmrec_counters') IS NOT NULL")
    if not found:
        for statement in TABLES:
            ask(statement)
    [[number]] = ask("SELECT format FROM rlmrec_counters")
    if number > FORMAT:
        raise WorkspaceError(
            f"the tables of the added items were written by a newer rlmrec (format {number}, this version reads up to "
            f"{FORMAT}): update rlmrec"
        )


def _close(database: Any) -> None:
    try:
        database.close()
    except Exception:  # the connection is broken already, in a way of its own
        return
