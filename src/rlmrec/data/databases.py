"""Tables that are the answer of a database to a query (DuckDB, Postgres), and sheets of Excel files."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import polars as pl

from rlmrec.data.table import UNREADABLE, first_line, is_blank, refuse_absent
from rlmrec.errors import ConfigError, DataError, UnavailableError
from rlmrec.files import check_unpacked_size

_CONNECTION = re.compile(r"^([a-z][a-z0-9+]+)://", re.IGNORECASE)
POSTGRES = ("postgresql", "postgres")
INSTALL = "pip install 'rlmrec[postgres]'"
CONNECT_SECONDS = 5
UNNAMED = "__UNNAMED__"  # how fastexcel begins the name of a column without one
_PASSWORDS = re.compile(r"(?<=://)([^:/@]*):(.*)@|([?&](?:password|sslpassword)=)([^&]*)", re.IGNORECASE)

# What libpq puts around a reason: its own name, the query once more, and a question that we answer ourselves.
_LIBPQ = re.compile(
    r"^(?:\w+: )?\[libpq\] (?:Failed to connect: )?|\s*Is the server running .*\?$|\s+LINE \d+: .*$"
)


def is_connection(location: Path | str) -> bool:
    """Return whether a location is a connection string and not a file."""
    return _CONNECTION.match(str(location)) is not None


def shown(location: Path | str) -> str:
    """Return a location as it may be printed and stored: a connection string without its passwords.

    Example:
        >>> shown("postgresql://ann:secret@db/shop?sslmode=require")
        'postgresql://ann@db/shop?sslmode=require'
    """
    if not is_connection(location):
        return str(location)
    return _PASSWORDS.sub(lambda found: f"{found[3]}…" if found[3] else f"{found[1]}@", str(location))


def read_query(connection: str, query: str | None) -> pl.DataFrame:
    """Return what a database answers to a query.

    Args:
        connection: ``postgresql://user@host:port/database``, with anything that libpq understands behind a question
            mark; or ``duckdb:///file.db`` (``duckdb:////absolute/file.db``), which is only read.
        query: SQL that returns rows.

    Raises:
        ConfigError: there is no query, or no such kind of database.
        DataError: the database cannot be reached or refuses the query, or a package is missing; passwords are not
            shown.
    """
    found = _CONNECTION.match(connection)
    kind = found[1].lower() if found else ""
    readers = {**dict.fromkeys(POSTGRES, _read_postgres), "duckdb": _read_duckdb}
    if kind not in readers:
        raise ConfigError(f"{shown(connection)}: expected a file, postgresql://… or duckdb:///…")
    if query is None:
        raise ConfigError(
            f"{shown(connection)} is a database: say what to read of it (query, --query 'select …'; for items "
            "--items-query, for users --users-query)"
        )
    try:
        frame = readers[kind](connection, query)
    except ImportError as error:
        raise DataError(
            f"{shown(connection)} needs the package {error.name}: pip install 'rlmrec[databases]'"
        ) from None
    except UnavailableError as error:
        raise DataError(str(error)) from None
    except (Exception, pl.exceptions.PanicException) as error:  # each driver has errors of its own
        raise DataError(f"{shown(connection)}: {error_without_secrets(error, connection)}") from None
    if not frame.width:
        raise DataError(f"{shown(connection)}: the query returns no columns: expected a select")
    return frame


def is_postgres(location: Path | str) -> bool:
    """Return whether a location is a connection string of Postgres."""
    found = _CONNECTION.match(str(location))
    return found is not None and found[1].lower() in POSTGRES


def check_postgres(connection: str) -> None:
    """Refuse what is no connection string of Postgres.

    Raises:
        ConfigError: it is none.
    """
    if not is_postgres(connection):
        raise ConfigError(f"{shown(connection)}: expected postgresql://user@host:port/database")


def connect_postgres(connection: str, **options: int) -> Any:
    """Connect to a Postgres server.

    Args:
        connection: ``postgresql://user@host:port/database``, with anything that libpq understands behind a question
            mark.
        options: of libpq, where the connection string does not set them; ``connect_timeout`` is 5 s.

    Returns:
        a connection of ``adbc_driver_postgresql.dbapi``, whose first statement opens a transaction. Parameters of a
        statement are a data frame of one row; answers are read by ``fetch_arrow``, for which only Polars is needed.

    Raises:
        ConfigError: it is no connection string of Postgres, or the driver is not installed.
        UnavailableError: no server answers, or it refuses; passwords are not shown.
    """
    check_postgres(connection)
    try:
        from adbc_driver_postgresql import dbapi
    except ImportError:
        raise ConfigError(f"{shown(connection)}: Postgres needs its driver: {INSTALL}") from None
    place = shown(connection)
    for name, value in {"connect_timeout": CONNECT_SECONDS, **options}.items():
        if f"{name}=" not in connection:
            connection += f"{'&' if '?' in connection else '?'}{name}={value}"
    try:
        return dbapi.connect(connection)
    except dbapi.Error as error:
        raise UnavailableError(
            f"{place} cannot be reached: {error_without_secrets(error, connection)}: check that the server runs, "
            "and the host, port, user and database of the connection string"
        ) from None


def _read_postgres(connection: str, query: str) -> pl.DataFrame:
    with connect_postgres(connection) as database, database.cursor() as cursor:
        cursor.execute("set transaction read only")
        cursor.execute(query)
        frame = pl.DataFrame(cursor.fetch_arrow())
    return frame.with_columns(_plain(frame[name]) for name in frame.columns)


def _plain(series: pl.Series) -> pl.Series:
    """Return numeric and JSON columns as text, and UUIDs, which the driver gives as 16 bytes, as people write them."""
    if isinstance(series.dtype, pl.BaseExtension):
        return series.ext.storage()
    if series.dtype == pl.Binary and (series.bin.size() == 16).fill_null(True).all():
        texts = [None if value is None else str(UUID(bytes=value)) for value in series]
        return pl.Series(series.name, texts, dtype=pl.String)
    return series


def _read_duckdb(connection: str, query: str) -> pl.DataFrame:
    import duckdb

    path = unquote(connection.partition("://")[2].removeprefix("/"))
    in_memory = path == ":memory:"
    if not in_memory:
        refuse_absent(Path(path))
    with duckdb.connect(
        path, read_only=not in_memory, config={"autoinstall_known_extensions": "false"}
    ) as database:
        relation = database.sql(query)
        return pl.DataFrame(relation) if relation is not None else pl.DataFrame()


def error_without_secrets(error: BaseException, connection: str) -> str:
    """Return the message of an error in one line, without the passwords of a connection string."""
    text = _LIBPQ.sub("", " ".join(str(error).split()))[:400]
    for found in _PASSWORDS.finditer(connection):
        secret = found[2] or found[4] or ""
        for form in {secret, unquote(secret)} - {""}:
            text = text.replace(form, "…")
    return text.replace(connection, shown(connection))


def read_sheet(path: Path, sheet: str | None) -> tuple[pl.DataFrame, list[str], int]:
    """Return a sheet of an Excel file, the first if none is named, the names of all, and the row of its header.

    All values are text. Rows are counted from 1, as Excel does; empty ones above the header are left out, and columns
    without name and values, too, as formats and blanks outside a table make them.

    Raises:
        DataError: the file is absent or damaged, has no such sheet, or the package for it is missing.
    """
    refuse_absent(path)
    try:
        import fastexcel
    except ImportError:
        raise DataError(f"{path} is an Excel file: pip install 'rlmrec[files]' to read it") from None
    try:
        with zipfile.ZipFile(path) as parts:
            check_unpacked_size(path, sum(part.file_size for part in parts.infolist()))
        book = fastexcel.read_excel(path)
        if sheet is not None and sheet not in book.sheet_names:
            raise DataError(
                f"{path} has no sheet {sheet!r}: its sheets are {', '.join(map(repr, book.sheet_names))}"
            )
        loaded = book.load_sheet(sheet or 0, dtypes="string")
        whole = book.load_sheet(sheet or 0, dtypes="string", header_row=None, skip_rows=0, n_rows=1)
        frame = pl.DataFrame(loaded)
    except (*UNREADABLE, zipfile.BadZipFile, fastexcel.FastExcelError) as error:
        raise DataError(f"{path} is not a readable Excel file: {first_line(error)}") from None
    named = [name for name in frame.columns if not (name.startswith(UNNAMED) and is_blank(frame[name]).all())]
    return frame.select(named), book.sheet_names, whole.total_height - loaded.total_height
