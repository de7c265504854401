"""Atomic writing and locks: a reader sees the old file or the new one, never a part of one."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import logging
import os
import platform
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from rlmrec.errors import DataError, RlmrecError, WorkspaceError
from rlmrec.trust import parse_json

# Texts are packed to a third or a tenth; what unpacks to a hundred times its size was made to fill the memory.
UNPACKED_RATIO = 100
UNPACKED_BYTES = 256 << 20
LINE_BYTES = 64 << 20  # of one line or quoted field
NO_SPACE = 1 << 20  # bytes; less is left on a disk that was too full for a file
READS = 5  # of a folder that is replaced each time
ABANDONED = 24 * 3600  # seconds after which an unfinished file of another machine is removed
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"  # the first bytes of packed files
WINDOWS = sys.platform == "win32"
logger = logging.getLogger("rlmrec.files")
Read = TypeVar("Read")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it to ``path``.

    What a killed process has left beside ``path`` is removed.

    Raises:
        WorkspaceError: the disk is full; what was at ``path`` stays.
    """
    with _space_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(path)
        temporary = _beside(path)
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        try:
            yield temporary
            with temporary.open(
                "r+b"
            ) as written:  # Windows cannot flush a file that is open for reading only
                os.fsync(written.fileno())
            temporary.chmod(mode)  # safetensors makes private files
            _move(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, marker: str) -> Iterator[Path]:
    """Yield an empty temporary folder; on success move it to ``path``, replacing the folder there.

    Args:
        path: the folder to create or replace.
        marker: a file that folders of this kind contain; a folder without it, unless empty, is never replaced.

    Raises:
        WorkspaceError: ``path`` exists and has no ``marker``, or the disk is full; what was at ``path`` stays.

    A folder cannot be replaced in one system call, so a kill between the two renames leaves ``path`` absent (never
    mixed) and the old content in a ``.old`` folder beside it. ``complete_folder`` puts that back, and what else the
    killed process has left is removed.
    """
    path = complete_folder(path)
    if path.exists() and not (path / marker).exists() and (not path.is_dir() or any(path.iterdir())):
        raise WorkspaceError(
            f"{path} exists and contains no {marker}: choose another place, nothing was replaced"
        )
    with _space_for(path):
        _remove_unfinished(path)
        temporary = _beside(path)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for written in filter(Path.is_file, temporary.iterdir()):  # safetensors makes private files
                written.chmod(temporary.stat().st_mode & 0o666)
            _replace_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def read_unchanged(path: Path, read: Callable[[], Read]) -> Read:
    """Read what another process may replace meanwhile: a read that fails because of that is repeated.

    Args:
        path: the file that is written last, such as the marker of a folder.
        read: reads everything and checks that it belongs together.

    Raises:
        RlmrecError: whatever ``read`` raises although nothing was replaced.
    """
    for _ in range(READS):
        before = _version(path)
        try:
            return read()
        except (RlmrecError, OSError):
            if _version(path) == before:
                raise
    return read()


def _version(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def complete_folder(path: Path) -> Path:
    """Return ``path``, after putting back its old content if a kill kept ``atomic_folder`` from replacing it.

    Where nothing can be written, the folder with the old content is returned.
    """
    if not _old(path).exists():
        return path
    if path.exists():
        _remove_old(path)
        return path
    logger.warning("%s: a process was killed while replacing it; its content before that is back", path)
    try:
        _move(_old(path), path)
    except OSError:  # read-only, or another process has just put a folder there
        return path if path.exists() else _old(path)
    _remove_unfinished(path)
    return path


def _remove_old(path: Path) -> None:
    """Remove the old content of a folder that a process has replaced before it was killed."""
    aside = _beside(path)
    try:
        _move(_old(path), aside)
        if path.exists():
            logger.warning(
                "%s: removed its content before the last change, which a killed process has left", path
            )
            shutil.rmtree(aside, ignore_errors=True)
        else:  # another process is just replacing it
            _move(aside, _old(path))
    except OSError:  # read-only, or another process has removed it
        return


def _replace_folder(temporary: Path, path: Path) -> None:
    """Move a folder to ``path``; what is there goes to a ``.old`` folder for the moment."""
    old = _old(path)
    for last in (False, False, True):  # a reader that finds ``path`` absent may put the old content back
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            _move(path, old)
        try:
            _move(temporary, path)
            break
        except BaseException as error:
            if isinstance(error, OSError) and path.exists() and not last:
                continue
            if old.exists() and not path.exists():
                _move(old, path)
            raise
    shutil.rmtree(old, ignore_errors=True)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _beside(path: Path) -> Path:
    """Return a new hidden name that says which process of which machine uses it."""
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}")


@cache
def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def _remove_unfinished(path: Path) -> None:
    """Remove what processes that no longer run have left beside ``path``."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"(?:([0-9a-f]{6})-(\d{1,9})-)?[0-9a-f]{8}")
    try:
        names = [(entry.name, entry.stat().st_mtime) for entry in os.scandir(path.parent)]
    except OSError:  # a file vanishes while another process works; the next write looks again
        return
    for name, changed in names:
        found = pattern.fullmatch(name)
        if found is None or (_may_be_in_use(found[1], found[2]) and time.time() - changed < ABANDONED):
            continue
        left = path.with_name(name)
        logger.warning("%s: removed what a killed process has left unfinished", left)
        shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):
            left.unlink(missing_ok=True)


def _may_be_in_use(machine: str | None, process: str | None) -> bool:
    """Return whether the process of a temporary name may still run; that is known of this machine alone."""
    if WINDOWS or machine != _machine() or process is None:
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def _space_for(path: Path) -> Iterator[None]:
    """Report a full disk, which each package reports in its own way, as one error.

    Raises:
        WorkspaceError: the disk is full.
    """
    try:
        yield
    except BaseException as error:  # Polars panics, which is no Exception
        if isinstance(error, RlmrecError) or not (is_full(error) or _is_cut_off(error, path)):
            raise
        raise WorkspaceError(
            f"{path} cannot be written, the disk is full: free some space and run the same command again; "
            "what was there before is kept"
        ) from None


def is_full(error: BaseException) -> bool:
    """Return whether an error, or what caused it, says that a disk or a quota is full."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if re.search(
            r"no space left|os error (28|122)\b|storagefull|disk is full|quota exceeded", str(seen), re.I
        ):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _is_cut_off(error: BaseException, path: Path) -> bool:
    """Return whether Polars could not write the end of a Parquet file, for which it has no words of its own."""
    place = next((parent for parent in path.parents if parent.exists()), path)
    return "thrift: transport error" in str(error) and shutil.disk_usage(place).free < NO_SPACE


def _move(source: Path, target: Path) -> None:
    """Rename a file over another, or a folder to a name that is free.

    Raises:
        WorkspaceError: on Windows, another program has a file open that is to be renamed or replaced.
    """
    for pause in (0.01, 0.1, 1.0) if WINDOWS else ():  # a virus scanner closes a file after a moment
        try:
            source.replace(target)
            return
        except PermissionError:
            time.sleep(pause)
    try:
        source.replace(target)
    except PermissionError as error:
        if not WINDOWS:
            raise
        raise WorkspaceError(
            f"{target} cannot be replaced ({error.strerror}): close the programs that have it open and try again"
        ) from None


@contextmanager
def locked(path: Path, refusal: str | None = None) -> Iterator[None]:
    """Hold a lock beside ``path``, which the operating system releases when the process dies.

    Args:
        path: the file or folder that one process at a time may change.
        refusal: the message if another process holds the lock; None waits for it.

    Raises:
        WorkspaceError: another process holds the lock, and there is a ``refusal``.
    """
    from filelock import FileLock, Timeout  # here, as importing it takes 0.1 s

    path.parent.mkdir(parents=True, exist_ok=True)
    # Not thread-local: a generator that holds the lock may be closed in another thread.
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0 if refusal else -1, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise WorkspaceError(refusal) from None
    try:
        yield
    finally:
        lock.release()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value per line, atomically; NaN and infinity are refused."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_json_lines(path: Path) -> list[Any]:
    """Read what ``write_json_lines`` wrote; a missing or damaged file is a ``WorkspaceError`` that names it."""
    try:
        return [parse_json(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except FileNotFoundError:
        raise WorkspaceError(f"{path} does not exist") from None
    except ValueError as error:
        raise WorkspaceError(f"{path} is damaged: expected JSON lines, {error}") from None


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or damaged one is a ``WorkspaceError`` that names it."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WorkspaceError(f"{path} does not exist") from None
    except ValueError as error:
        raise WorkspaceError(f"{path} is damaged: expected JSON, {error}") from None


def open_unpacked(path: Path) -> BinaryIO:
    """Open a file for reading, unpacked if it is gzip or zstd; its first bytes decide, not its name.

    Reading raises ``DataError`` if the file unpacks to far more than texts do, if the packed data is damaged, or if
    the package for zstd is missing.
    """
    return unpacked(path.open("rb"), path)


def unpacked(file: BinaryIO, path: Path) -> BinaryIO:
    """Return a stream of the unpacked bytes of an open file, as ``open_unpacked`` does; closing it closes the file."""
    start = file.read(4)
    file.seek(0)
    if start.startswith(GZIP):
        stream: Any = gzip.GzipFile(fileobj=file)
    elif start == ZSTD:
        stream = _zstd(file, path)
    else:
        return file
    return io.BufferedReader(_Unpacked(stream, file, path), 1 << 20)


class _Unpacked(io.RawIOBase):
    """Unpacked bytes, of which no more are read than texts of that size unpack to."""

    def __init__(self, stream: Any, file: BinaryIO, path: Path) -> None:
        self._stream, self._file, self._path = stream, file, path
        self._most = _most_unpacked(path)
        self._total = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            count: int = self._stream.readinto(buffer)
        except EOFError:
            raise DataError(
                f"{self._path} cannot be read: it is truncated, the packed data ends too early; copy or download it "
                "again"
            ) from None
        except Exception as error:  # zlib.error, OSError and the error of the zstd package
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{self._path} cannot be read: the packed data is damaged ({error}); copy or download it again"
            ) from None
        self._total += count
        if self._total > self._most:
            check_unpacked_size(self._path, self._total)
        return count

    def close(self) -> None:
        self._stream.close()
        self._file.close()
        super().close()


def check_unpacked_size(path: Path, size: int) -> None:
    """Check that a packed file does not unpack to far more bytes than texts do; ``DataError`` if it does."""
    most, packed = _most_unpacked(path), path.stat().st_size
    if size > most:
        raise DataError(
            f"{path} unpacks to more than {most >> 20:,} MB from {packed / 1e6:.1f} MB: if you trust it, set "
            "RLMREC_MAX_UNPACKED_MB to what it may have"
        )


def _most_unpacked(path: Path) -> int:
    return _bound("RLMREC_MAX_UNPACKED_MB", max(UNPACKED_BYTES, UNPACKED_RATIO * path.stat().st_size))


def _zstd(file: BinaryIO, path: Path) -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise DataError(f"{path} is packed with zstd: pip install 'rlmrec[files]' to read it") from None
    return zstd.ZstdFile(file)


def bounded_lines(stream: BinaryIO, path: Path) -> Iterator[bytes]:
    """Yield the lines of a stream.

    Raises:
        DataError: a line is far too long; the message says how to read it all the same.
    """
    longest = longest_line()
    number = 0
    while line := stream.readline(longest + 1):
        number += 1
        if len(line) > longest:
            raise too_long(path, number, longest)
        yield line


def too_long(path: Path, line: int, longest: int) -> DataError:
    """Return the error about a line of more than ``longest`` bytes."""
    return DataError(
        f"{path}: line {line:,} is longer than {longest >> 20:,} MB: is this the right file? If so, set "
        "RLMREC_MAX_LINE_MB to what a line may have"
    )


def longest_line() -> int:
    """Return how many bytes a line or a quoted field may have."""
    return _bound("RLMREC_MAX_LINE_MB", LINE_BYTES)


def _bound(variable: str, default: int) -> int:
    raised = os.environ.get(variable, "")
    return int(raised) << 20 if raised.isascii() and raised.isdecimal() else default


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def check_sha256(path: Path, expected: str, remedy: str) -> None:
    """Check that a file is the one that this version was written for.

    Args:
        path: the file.
        expected: hexadecimal SHA-256 of its content.
        remedy: what to do if it is another.

    Raises:
        WorkspaceError: it is another file.
    """
    found = sha256(path)
    if found != expected:
        raise WorkspaceError(f"{path} has SHA-256 {found[:16]}…, expected {expected[:16]}…: {remedy}")
