"""ColdItems: the items that came after training, in one SQLite file that all workers of a server share."""

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
from rlmrec.types import Float32Array

MOST = 10_000  # they are appended to the arrays in the memory of each worker
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


class ColdItem(NamedTuple):
    """An item that came after training.

    Args:
        id: raw id, in the type of the dataset's.
        title: what it is called.
        text: what its vector was made of.
        encoder: what made it.
        vector: float32[d_s], the text's, so that it outlives the embeddings that it is mapped into.
    """

    id: RawId
    title: str
    text: str
    encoder: str
    vector: Float32Array


class State(NamedTuple):
    """How often items were changed, and how often a reload was asked for: what workers watch."""

    changes: int
    reloads: int


class ColdItems:
    """Items by text, kept until they are removed. Every call opens the file anew: any thread may call.

    Args:
        path: the file; made by the first call that writes.

    Raises:
        WorkspaceError: (all calls) the file cannot be used.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     items = ColdItems(Path(folder) / "cold_items.sqlite")
        ...     items.add(ColdItem("new", "New", "A heist in space.", "fake", np.ones(2, np.float32)))
        ...     [item.title for item in items.all()], items.state()
        (['New'], State(changes=1, reloads=0))
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def state(self) -> State:
        """The counters; zeros where there is no file yet."""
        if not self.path.exists():
            return State(0, 0)
        with self._open() as db:
            return State(*db.execute("SELECT changes, reloads FROM counters").fetchone())

    def all(self) -> list[ColdItem]:
        """All items in the order in which they were added."""
        if not self.path.exists():
            return []
        with self._open() as db:
            rows = db.execute("SELECT id, title, text, encoder, vector FROM items ORDER BY position")
            return [
                ColdItem(json.loads(raw), title, text, encoder, np.frombuffer(vector, np.float32))
                for raw, title, text, encoder, vector in rows
            ]

    def add(self, item: ColdItem) -> None:
        """Keep an item.

        Raises:
            DataError: its id is taken, or there are MOST items.
        """
        with self._open(write=True) as db:
            if db.execute("SELECT count(*) FROM items").fetchone()[0] >= MOST:
                raise DataError(f"there are {MOST:,} items by text already: train anew, or remove some")
            try:
                db.execute(
                    "INSERT INTO items (id, title, text, encoder, vector) VALUES (?, ?, ?, ?, ?)",
                    (json.dumps(item.id), *item[1:4], item.vector.astype(np.float32).tobytes()),
                )
            except sqlite3.IntegrityError:
                raise DataError(f"item {item.id!r} was added before: remove it first") from None
            db.execute("UPDATE counters SET changes = changes + 1")

    def remove(self, raw: RawId) -> None:
        """Forget an item.

        Raises:
            UnknownIdError: it was not added.
        """
        with self._open(write=True) as db:
            if not db.execute("DELETE FROM items WHERE id = ?", (json.dumps(raw),)).rowcount:
                raise UnknownIdError(f"item {raw!r} was not added by text")
            db.execute("UPDATE counters SET changes = changes + 1")

    def ask_reload(self) -> None:
        """Tell all workers to read the run again."""
        with self._open(write=True) as db:
            db.execute("UPDATE counters SET reloads = reloads + 1")

    @contextmanager
    def _open(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection inside one transaction, which is taken back on an error."""
        purpose = "a store of items"
        try:
            kind = "IMMEDIATE" if write else "DEFERRED"
            with closing(open_sqlite(self.path, MIGRATIONS, purpose)) as db, transaction(db, kind):
                yield db
        except sqlite3.Error as error:
            raise WorkspaceError(f"{self.path} cannot be used as {purpose}: {error}") from None
