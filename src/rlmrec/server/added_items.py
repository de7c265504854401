"""Items added to a server by text after training: what a store of them offers, and a store in one SQLite file.

``rlmrec.server.postgres_items`` keeps them in Postgres instead, for servers that share no folder.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from rlmrec.data.vocabulary import RawId
from rlmrec.errors import DataError, UnknownIdError, WorkspaceError
from rlmrec.sqlite import open_sqlite, transaction
from rlmrec.trust import check_finite, damaged, expect, parse_json
from rlmrec.types import Float32Array
from rlmrec.workspace import Workspace

MAX_ITEMS = 10_000  # each worker appends them to the arrays in its memory
MIGRATIONS = (
    """
CREATE TABLE items (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    encoder TEXT NOT NULL,
    vector BLOB NOT NULL
);
CREATE TABLE counters (changes INTEGER NOT NULL, reloads INTEGER NOT NULL);
INSERT INTO counters VALUES (0, 0)
""",
)


class AddedItem(NamedTuple):
    """An item that was added after training.

    Args:
        id: raw id, of the same type as the dataset's.
        title: its name.
        text: the text that its vector was computed from.
        encoder: name of the text encoder.
        vector: float32[d_s], the text vector. It stays valid when the run is trained again.
    """

    id: RawId
    title: str
    text: str
    encoder: str
    vector: Float32Array


class Counters(NamedTuple):
    """The number of changes to the items and of requested reloads; workers compare them to notice changes."""

    changes: int
    reloads: int


class ItemStore(Protocol):
    """A store of added items, which all workers of all servers of a run share. Any thread may call it.

    Raises:
        UnavailableError: (all methods) it does not answer at the moment.
        WorkspaceError: (all methods) it cannot be used.
    """

    def counters(self) -> Counters:
        """Return the counters; zeros if nothing was stored yet."""

    def all(self) -> list[AddedItem]:
        """Return all items in the order in which they were added."""

    def add(self, item: AddedItem) -> None:
        """Store an item.

        Raises:
            DataError: its id was added before, or the store is full.
        """

    def remove(self, raw: RawId) -> None:
        """Remove an item.

        Raises:
            UnknownIdError: no such item was added.
        """

    def request_reload(self) -> None:
        """Make all workers load the run again."""


class AddedItems:
    """The store of added items in a SQLite file. Every call opens the file again.

    Args:
        path: the SQLite file, created by the first call that writes.

    Raises:
        WorkspaceError: (all methods) the file cannot be used.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     items = AddedItems(Path(folder) / "cold_items.sqlite")
        ...     items.add(AddedItem("new", "New", "A heist in space.", "fake", np.ones(2, np.float32)))
        ...     [item.title for item in items.all()], items.counters()
        (['New'], Counters(changes=1, reloads=0))
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def counters(self) -> Counters:
        """Return the counters; zeros if there is no file yet."""
        if not self.path.exists():
            return Counters(0, 0)
        with self._open() as db, damaged(self.path, "delete it and add the items again"):
            found = db.execute("SELECT changes, reloads FROM counters").fetchone()
            return Counters(*(expect(count, int, "a counter") for count in found))

    def all(self) -> list[AddedItem]:
        """Return all items in the order in which they were added."""
        if not self.path.exists():
            return []
        with self._open() as db:
            rows = db.execute("SELECT id, title, text, encoder, vector FROM items ORDER BY position")
            with damaged(self.path, "delete it and add the items again"):
                return [stored_item(*row) for row in rows]

    def add(self, item: AddedItem) -> None:
        """Store an item.

        Raises:
            DataError: its id was added before, or the store is full.
        """
        with self._open(write=True) as db:
            check_room(db.execute("SELECT count(*) FROM items").fetchone()[0])
            try:
                db.execute(
                    "INSERT INTO items (id, title, text, encoder, vector) VALUES (?, ?, ?, ?, ?)",
                    (json.dumps(item.id), *item[1:4], item.vector.astype(np.float32).tobytes()),
                )
            except sqlite3.IntegrityError:
                raise added_before(item) from None
            db.execute("UPDATE counters SET changes = changes + 1")

    def remove(self, raw: RawId) -> None:
        """Remove an item.

        Raises:
            UnknownIdError: no such item was added.
        """
        with self._open(write=True) as db:
            if not db.execute("DELETE FROM items WHERE id = ?", (json.dumps(raw),)).rowcount:
                raise not_added(raw)
            db.execute("UPDATE counters SET changes = changes + 1")

    def request_reload(self) -> None:
        """Make all workers load the run again."""
        with self._open(write=True) as db:
            db.execute("UPDATE counters SET reloads = reloads + 1")

    @contextmanager
    def _open(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        """Open a connection in one transaction, which is rolled back on an error."""
        purpose = "a store of items"
        try:
            kind = "IMMEDIATE" if write else "DEFERRED"
            with closing(open_sqlite(self.path, MIGRATIONS, purpose)) as db, transaction(db, kind):
                yield db
        except sqlite3.Error as error:
            raise WorkspaceError(f"{self.path} cannot be used as {purpose}: {error}") from None


def item_store(workspace: Workspace, connection: str | None) -> ItemStore:
    """Return the store of a workspace: a Postgres database ``postgresql://…``, or for None a file of the workspace.

    Raises:
        ConfigError: it is no such address.
    """
    if connection is None:
        return AddedItems(workspace.added_items_path)
    from rlmrec.server.postgres_items import PostgresItems  # which imports this module

    return PostgresItems(connection)


def check_room(count: int) -> None:
    """Refuse one more item in a full store.

    Raises:
        DataError: ``count`` items are all that a store may hold.
    """
    if count >= MAX_ITEMS:
        raise DataError(f"{MAX_ITEMS:,} items were added already: train again with them, or remove some")


def added_before(item: AddedItem) -> DataError:
    """Return the error of adding an item twice."""
    return DataError(f"item {item.id!r} was added before: remove it first")


def not_added(raw: RawId) -> UnknownIdError:
    """Return the error of removing an item that is not there."""
    return UnknownIdError(f"item {raw!r} was not added by text")


def stored_item(raw: str, title: str, text: str, encoder: str, stored: bytes) -> AddedItem:
    """Make an item of what a store holds: its id as JSON, and the bytes of its vector."""
    vector = np.frombuffer(stored, np.float32)
    check_finite({"vector": vector})
    for what, value in (("title", title), ("text", text), ("encoder", encoder)):
        expect(value, str, what)
    return AddedItem(expect(parse_json(raw), (int, str), "an id"), title, text, encoder, vector)
