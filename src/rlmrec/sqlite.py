"""SQLite files with a format version: opened, upgraded and written the same way everywhere."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlmrec.errors import WorkspaceError

ROOM = 1 << 20  # bytes; SQLite's index of its log alone takes 32 KiB at a time


class SqliteFile:
    """Base class of what is kept in a SQLite file: a context manager that closes the connection ``_db``."""

    _db: sqlite3.Connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        self._db.close()


def open_sqlite(path: Path, migrations: Sequence[str], purpose: str, remedy: str = "") -> sqlite3.Connection:
    """Open a SQLite file, create it if it does not exist, and bring its tables to the latest format.

    The connection is in autocommit mode and may move between threads, one caller at a time (notebooks open it
    in one thread and use it in another). The file uses a write-ahead log with ``synchronous=NORMAL``: a killed
    process loses nothing; a power failure may lose the last commits, never the file.

    Args:
        path: the file.
        migrations: SQL scripts; format n is the result of the first n. Append only, never change a released one.
        purpose: a noun for error messages, for example "a cache of vectors".
        remedy: what to do about a file that cannot be used, appended to the message.

    Raises:
        WorkspaceError: the file is damaged, not a SQLite file, or of a newer format.
    """
    latest = len(migrations)
    path.parent.mkdir(parents=True, exist_ok=True)
    problem = f"{path} cannot be used as {purpose}"
    try:
        db = _connect(path, problem, remedy)
        try:
            db.execute("PRAGMA synchronous = NORMAL")
            version = _version(db)
            if version > latest:
                raise WorkspaceError(
                    f"{path} was written by a newer rlmrec (format {version}, this version reads up to "
                    f"{latest}): update rlmrec"
                )
            if version == 0:
                db.execute("PRAGMA journal_mode = WAL")  # stored in the file
            for number in range(version, latest):
                # A script and its number are one transaction: a kill leaves the format before or after.
                with transaction(db):
                    if _version(db) == number:  # else another process has just done it
                        for statement in migrations[number].split(";"):
                            db.execute(statement)
                        db.execute(f"PRAGMA user_version = {number + 1}")
        except BaseException:
            db.close()  # Windows deletes no file that is open
            raise
    except _StoreError:
        raise
    except sqlite3.Error as error:
        raise _store_error(error, path, problem, remedy) from None
    return db


class _StoreError(WorkspaceError, sqlite3.DatabaseError):
    """A file that SQLite cannot read or write: one of our errors, which callers may also catch as SQLite's.

    Args:
        message: names the file.
        reason: what SQLite says.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def _store_error(error: Exception, path: Path, problem: str, remedy: str) -> _StoreError:
    """Return what SQLite says about a file as one of our errors; a full disk is no reason to delete the file."""
    said = str(error)
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL" or (name.startswith("SQLITE_IOERR") and _is_full(path)):
        said = "database or disk is full"
        remedy = ": free some space and run the same command again, what is in it is kept"
    elif isinstance(error, sqlite3.OperationalError):  # such as a lock: no damage, nothing is to be deleted
        remedy = ""
    return _StoreError(f"{problem}: {said}{remedy}", said)


def _is_full(path: Path) -> bool:
    """Return whether the disk has no room for the files that SQLite keeps beside its own."""
    try:
        return shutil.disk_usage(path.parent).free < ROOM
    except OSError:
        return False


def reason(error: sqlite3.Error) -> str:
    """Return what SQLite says, without the name of the file."""
    return error.reason if isinstance(error, _StoreError) else str(error)


class _Cursor(sqlite3.Cursor):
    """A cursor that names the file in errors, which SQLite also finds while rows are read."""

    def execute(self, *arguments: Any) -> Self:
        with self._named():
            return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> Self:
        with self._named():
            return super().executemany(*arguments)

    def fetchone(self) -> Any:
        with self._named():
            return super().fetchone()

    def fetchall(self) -> list[Any]:
        with self._named():
            return super().fetchall()

    def __next__(self) -> Any:
        with self._named():
            return super().__next__()

    @contextmanager
    def _named(self) -> Iterator[None]:
        connection = self.connection
        assert isinstance(connection, _Connection)
        try:
            yield
        except (sqlite3.IntegrityError, _StoreError):
            raise
        except (sqlite3.Error, UnicodeDecodeError) as error:  # SQLite's message may quote bytes of the file
            raise _store_error(error, connection.path, connection.problem, connection.remedy) from None


class _Connection(sqlite3.Connection):
    """A connection whose cursors name the file in errors."""

    path = Path()
    problem = ""
    remedy = ""

    def cursor(self, factory: Any = _Cursor) -> Any:
        return super().cursor(factory)

    def execute(self, *arguments: Any) -> Any:
        return self.cursor().execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        return self.cursor().executemany(*arguments)


def _connect(path: Path, problem: str, remedy: str) -> sqlite3.Connection:
    """Connect to a file; where nothing can be written, a file that no process is writing is only read.

    SQLite reads a write-ahead log through a file that it makes beside it, so a read-only folder needs
    ``immutable``, which reads the file as it stands.
    """
    log = path.with_name(f"{path.name}-wal")
    writable = os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
    read_only = path.exists() and not writable and not (log.exists() and log.stat().st_size)
    address = f"{path.resolve().as_uri()}?immutable=1" if read_only else str(path)
    db = sqlite3.connect(
        address, timeout=30, isolation_level=None, check_same_thread=False, factory=_Connection, uri=read_only
    )
    db.path, db.problem, db.remedy = path, problem, remedy
    return db


def _version(db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version


@contextmanager
def transaction(db: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Commit everything that the block does, or nothing if it raises.

    Args:
        kind: "IMMEDIATE" to write, "DEFERRED" to read one state of the file in several queries.
    """
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has rolled back already
            db.execute("ROLLBACK")
        raise
