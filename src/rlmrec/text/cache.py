"""VectorCache: all encoded vectors, by a hash of encoder and text, in one SQLite file.

Vectors are committed as they arrive. So an encoding run that was killed continues where it stopped, only changed
texts are encoded again, and an API is never paid twice. The file may be deleted: it only saves work.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rlmrec.errors import WorkspaceError
from rlmrec.files import locked
from rlmrec.parts import ROWS, Taken, read_parts, write_part
from rlmrec.sqlite import SqliteFile, open_sqlite, reason, transaction
from rlmrec.trust import check_finite, damaged
from rlmrec.types import Float32Array

MIGRATIONS = (
    """
    CREATE TABLE IF NOT EXISTS vectors (
        key BLOB PRIMARY KEY,
        cut INTEGER NOT NULL,
        vector BLOB NOT NULL
    )
    """,
)
REMEDY = "delete it and encode again, which only takes time"
PARTS = "vectors"
PART_SCHEMA: dict[str, Any] = {"key": pl.Binary, "truncated": pl.Boolean, "vector": None}
READ_AT_ONCE = 500  # below SQLite's oldest bound on variables, 999


def key(encoder: str, text: str) -> bytes:
    """SHA-256 of an encoder's name and a text."""
    digest = hashlib.sha256(encoder.encode("utf-8", "surrogatepass") + b"\0")
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.digest()


class VectorCache(SqliteFile):
    """Vectors in a SQLite file. Use it as a context manager, or close it.

    Args:
        path: the file; made where it does not exist.

    Raises:
        WorkspaceError: the file is no such cache, or of another format.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, VectorCache(Path(folder) / "v.sqlite") as cache:
        ...     cache.write([key("letters 1", "Abba")], np.array([[2, 2]], np.float32), [False])
        ...     [(place, vector.tolist(), cut) for place, vector, cut in cache.read([key("letters 1", "Abba")])]
        [(0, [2.0, 2.0], False)]
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._db = open_sqlite(self.path, MIGRATIONS, "a cache of vectors", f"; {REMEDY}")

    def writing(self) -> AbstractContextManager[None]:
        """Lock the cache for writing; other processes that try to are refused.

        Raises:
            WorkspaceError: another process holds it.
        """
        return locked(self.path, f"another process is encoding into {self.path}: wait for it or stop it")

    def read(self, keys: Sequence[bytes]) -> Iterator[tuple[int, Float32Array, bool]]:
        """(place in ``keys``, float32[d_s], whether the text was truncated) of each key in the file, in any order."""
        places = {wanted: place for place, wanted in enumerate(keys)}
        for start in range(0, len(keys), READ_AT_ONCE):
            some = keys[start : start + READ_AT_ONCE]
            rows = self._db.execute(
                f"SELECT key, cut, vector FROM vectors WHERE key IN ({','.join('?' * len(some))})", some
            )
            for found, truncated, stored in rows:
                with damaged(self.path, REMEDY):
                    vector = np.frombuffer(stored, "<f4").astype(np.float32, copy=False)
                    check_finite({"vector": vector})
                yield places[found], vector, bool(truncated)

    def take_parts(self, path: Path) -> Taken:
        """Commit the vectors of parts that are not stored yet, part by part; taking a part twice changes nothing.

        Args:
            path: a folder of parts, or one.

        Raises:
            DataError: no part there.
            WorkspaceError: a part is torn, changed or of something else; those before it were taken.
        """
        new = known = 0
        with self.writing():
            for _, rows in read_parts(path, PARTS, PART_SCHEMA):
                vectors = rows["vector"].to_numpy()
                with damaged(path, "delete the part with them"):
                    check_finite({"vectors": vectors})
                before = self._db.total_changes
                self._insert("IGNORE", rows["key"].to_list(), vectors, rows["truncated"].to_list())
                fresh = self._db.total_changes - before
                new, known = new + fresh, known + len(rows) - fresh
        return Taken(new, known)

    def write_parts(self, folder: Path) -> int:
        """Write all vectors as parts, of each dimension its own; return their number."""
        count = 0
        sizes = [size for (size,) in self._db.execute("SELECT DISTINCT length(vector) FROM vectors")]
        for size in sorted(sizes):
            cursor = self._db.execute(
                "SELECT key, cut, vector FROM vectors WHERE length(vector) = ? ORDER BY key", (size,)
            )
            while rows := list(islice(cursor, ROWS)):
                keys, truncated, stored = zip(*rows, strict=True)
                with damaged(self.path, REMEDY):
                    vectors = np.frombuffer(b"".join(stored), "<f4").reshape(len(rows), -1)
                table = {"key": keys, "truncated": list(map(bool, truncated)), "vector": vectors}
                write_part(folder, pl.DataFrame(table), {"kind": PARTS})
                count += len(rows)
        return count

    def write(self, keys: Sequence[bytes], vectors: Float32Array, truncated: Sequence[bool]) -> None:
        """Commit vectors, all or none of them.

        Args:
            keys: one per vector.
            vectors: float32[n, d_s].
            truncated: whether each text was longer than the model's longest input.

        Raises:
            WorkspaceError: the file cannot be written, for example on a full disk.
        """
        self._insert("REPLACE", keys, vectors, truncated)

    def _insert(
        self, conflict: str, keys: Sequence[bytes], vectors: Float32Array, truncated: Sequence[bool]
    ) -> None:
        rows = zip(keys, map(int, truncated), (row.astype("<f4").tobytes() for row in vectors), strict=True)
        try:
            with transaction(self._db):
                self._db.executemany(f"INSERT OR {conflict} INTO vectors VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise WorkspaceError(
                f"{self.path} cannot be written: {reason(error)}; mend that and run again, what is in it is kept"
            ) from None
