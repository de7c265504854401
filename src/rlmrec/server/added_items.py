"""AddedItems: items added to a server by text after training, in one SQLite file that all workers share."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rlmrec.data.vocabulary import RawId
from rlmrec.errors import DataError, UnknownIdError, WorkspaceError
from rlmrec.sqlite import open_sqlite, transaction
from rlmrec.trust import check_finite, damaged, expect, parse_json
from rlmrec.types import Float32Array

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


class AddedItems:
    """The store of added items. Every call opens the file again, so any thread may call.

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
                return [_item(*row) for row in rows]

    def add(self, item: AddedItem) -> None:
        """Store an item.

        Raises:
            DataError: its id was added before, or the store is full.
        """
        with self._open(write=True) as db:
            if db.execute("SELECT count(*) FROM items").fetchone()[0] >= MAX_ITEMS:
                raise DataError(
                    f"{MAX_ITEMS:,} items were added already: train again with them, or remove some"
                )
            try:
                db.execute(
                    "INSERT INTO items (id, title, text, encoder, vector) VALUES (?, ?, ?, ?, ?)",
                    (json.dumps(item.id), *item[1:4], item.vector.astype(np.float32).tobytes()),
                )
            except sqlite3.IntegrityError:
                raise DataError(f"item {item.id!r} was added before: remove it first") from None
            db.execute("UPDATE counters SET changes = changes + 1")

    def remove(self, raw: RawId) -> None:
        """Remove an item.

        Raises:
            UnknownIdError: no such item was added.
        """
        with self._open(write=True) as db:
            if not db.execute("DELETE FROM items WHERE id = ?", (json.dumps(raw),)).rowcount:
                raise UnknownIdError(f"item {raw!r} was not added by text")
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


def _item(raw: str, title: str, text: str, encoder: str, stored: bytes) -> AddedItem:
    vector = np.frombuffer(stored, np.float32)
    check_finite({"vector": vector})
    for what, value in (("title", title), ("text", text), ("encoder", encoder)):
        expect(value, str, what)
    return AddedItem(expect(parse_json(raw), (int, str), "an id"), title, text, encoder, vector)
