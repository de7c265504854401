"""The trust boundary: what is read from a stored file is checked here before anything computes with it.

A workspace, a run or a file may come from somebody else (SECURITY.md), with checksums computed again. Compiled code
of SciPy, FAISS and PyTorch reads outside of arrays whose indices are wrong; everything else fails with errors that
do not name the file.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rlmrec.errors import ConfigError, DataError, WorkspaceError
from rlmrec.types import AnyArray

# The types of stored arrays, by the names that safetensors gives them, in the order in which it stores them: wide ones
# first, so that every array lies at a multiple of the size of its numbers.
TYPES = {
    "I64": np.int64,
    "F64": np.float64,
    "F32": np.float32,
    "I32": np.int32,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
HEADER_BYTES = 100_000_000  # longest header of a safetensors file, as in the library itself
# What damaged content raises in Python code, and the bases of the errors of SQLite and zlib.
_DAMAGE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, RecursionError, TypeError,
    ValueError, sqlite3.Error, zlib.error,
)  # fmt: skip
# Errors of packages that only some readers import. A panic of Rust code is not even an Exception.
_FOREIGN = {"SafetensorError", "PolarsError", "PanicException", "BadGzipFile", "RuntimeError"}


@contextmanager
def damaged(path: Path | str, remedy: str) -> Iterator[None]:
    """Report whatever the content of a file raises as one ``WorkspaceError`` that names the file.

    Args:
        path: the file or folder that the block reads.
        remedy: what to do about it.

    Raises:
        WorkspaceError: the content is damaged.
    """
    try:
        yield
    except (WorkspaceError, ConfigError):
        raise
    except DataError as error:
        raise WorkspaceError(f"{path} is damaged: {error}; {remedy}") from None
    except BaseException as error:
        names = {kind.__name__ for kind in type(error).__mro__}
        if not isinstance(error, _DAMAGE) and not names & _FOREIGN:
            raise
        detail = " ".join(str(error).split())[:200]
        raise WorkspaceError(f"{path} is damaged ({type(error).__name__}: {detail}); {remedy}") from None


def parse_json(text: str | bytes, strict: bool = True) -> Any:
    """Parse JSON from elsewhere.

    Args:
        text: the JSON.
        strict: whether to refuse raw line breaks in texts.

    Raises:
        ValueError: it is not JSON, or nested too deeply to read.
    """
    try:
        return json.loads(text, strict=strict)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def expect(value: Any, kind: type | tuple[type, ...], what: str) -> Any:
    """Return a value of stored JSON if it has the expected type; a bool is no number.

    Raises:
        DataError: it has another type.
    """
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(one.__name__ for one in kinds)
        raise DataError(f"{what} is {str(value)[:60]!r}, expected {names}")
    return value


def write_tensors(
    path: Path, arrays: Mapping[str, AnyArray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays, and metadata, as a safetensors file: the same bytes as the library, which copies all arrays first.

    Raises:
        DataError: an array has a type that is not in ``TYPES``.
    """
    names = {np.dtype(kind): name for name, kind in TYPES.items()}
    for name, array in arrays.items():
        if array.dtype not in names:
            raise DataError(f"array {name!r} has type {array.dtype}, expected {', '.join(map(str, names))}")
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    place = 0
    order = sorted(arrays, key=lambda name: (list(TYPES).index(names[arrays[name].dtype]), name))
    for name in order:
        array = arrays[name]
        offsets = [place, place + array.nbytes]
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        place = offsets[1]
    described = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    described += b" " * (-len(described) % 8)
    with path.open("wb") as file:
        file.write(len(described).to_bytes(8, "little") + described)
        for name in order:
            if arrays[name].size:  # not tofile, which reports no full disk
                file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)


def read_tensors(path: Path, mmap: bool = False) -> tuple[dict[str, AnyArray], dict[str, str]]:
    """Map or read the arrays of a safetensors file, and its metadata.

    The safetensors library always copies tensors into memory, so the header is parsed here: its length in
    eight bytes, JSON, then the data. Each array is mapped on its own, because SciPy copies indices that are a
    small part of something larger.

    Raises:
        DataError: the file is not of this format, or an array is of another type or outside of the file.
    """
    total = path.stat().st_size
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 0 < size <= min(total - 8, HEADER_BYTES):
            raise DataError(f"its header has {size:,} bytes and the file {total:,}")
        header = expect(parse_json(file.read(size)), dict, "its header")
    metadata = expect(header.pop("__metadata__", {}), dict, "its metadata")
    arrays = {}
    for name, part in header.items():
        kind = TYPES.get(expect(part, dict, f"array {name!r}").get("dtype"))
        if kind is None:
            raise DataError(f"array {name!r} has type {part.get('dtype')!r}, expected {', '.join(TYPES)}")
        shape = tuple(expect(n, int, f"the shape of array {name!r}") for n in part["shape"])
        first, last = (expect(place, int, f"the place of array {name!r}") for place in part["data_offsets"])
        count = 1
        for n in shape:
            count *= n
        if min(shape, default=0) < 0 or not 0 <= first <= last <= total - 8 - size:
            raise DataError(f"array {name!r} of shape {shape} lies outside of the file")
        if last - first != count * np.dtype(kind).itemsize:
            raise DataError(f"array {name!r} of shape {shape} has {last - first:,} bytes")
        start = 8 + size + first
        if mmap and count:  # an empty array cannot be mapped
            arrays[name] = np.asarray(np.memmap(path, kind, "r", start, shape))
        else:
            arrays[name] = np.fromfile(path, kind, count, offset=start).reshape(shape)
    return arrays, metadata


def matrix(
    arrays: Mapping[str, AnyArray], name: str, rows: int | None = None, columns: int | None = None
) -> Any:
    """Return a stored matrix of finite float32 numbers.

    Raises:
        DataError: it is missing or has another type or shape, or a number is not finite.
    """
    found = arrays.get(name)
    if found is None:
        raise DataError(f"array {name!r} is missing")
    fits = found.ndim == 2 and rows in (None, len(found)) and columns in (None, found.shape[-1])
    if found.dtype != np.float32 or not fits:
        raise DataError(
            f"array {name!r} is {found.dtype} of shape {found.shape}, expected float32 of shape "
            f"({'n' if rows is None else rows}, {'d' if columns is None else columns})"
        )
    check_finite({name: found})
    return found


def check_finite(arrays: Mapping[str, AnyArray]) -> None:
    """Check that all floating-point numbers are finite.

    Raises:
        DataError: one is not.
    """
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"array {name!r} holds NaN or infinity")


def check_rows(rows: AnyArray, size: int, what: str) -> None:
    """Check that stored rows of a table are within it.

    Raises:
        DataError: they are not integers, or one is negative or too large.
    """
    if rows.dtype.kind not in "iu":
        raise DataError(f"{what} are {rows.dtype}, expected integers")
    if rows.size and not 0 <= rows.min() <= rows.max() < size:
        raise DataError(f"{what} span {rows.min()}..{rows.max()}, expected 0..{size - 1}")


def check_sparse(arrays: Mapping[str, AnyArray]) -> None:
    """Check every stored sparse matrix before SciPy sees it.

    Args:
        arrays: NAME.data, NAME.indices, NAME.indptr and NAME.shape of each.

    Raises:
        DataError: pointers or indices outside of their bounds, or arrays that do not belong together.
    """
    for name in arrays:
        if not name.endswith((".indptr", ".indices", ".data")):
            continue
        matrix = name.rpartition(".")[0]
        parts = [arrays.get(f"{matrix}.{part}") for part in ("data", "indices", "indptr", "shape")]
        if any(part is None for part in parts):
            raise DataError(f"one of the arrays of the matrix {matrix} is missing")
        problem = _problem(*parts)
        if problem:
            raise DataError(f"the stored matrix {matrix} is damaged: {problem}")


def _problem(data: Any, indices: Any, indptr: Any, shape: Any) -> str | None:
    if np.shape(shape) != (2,) or shape.dtype.kind != "i":
        return "its shape is not two integers"
    if any(np.ndim(array) != 1 for array in (data, indices, indptr)) or indptr.dtype.kind != "i":
        return "an array has another form"
    rows, columns = (int(size) for size in shape)
    if len(indptr) != rows + 1 or len(data) != len(indices) or indices.dtype.kind != "i":
        return "its arrays have different lengths"
    if indptr[0] != 0 or indptr[-1] != len(indices) or (indptr[1:] < indptr[:-1]).any():
        return "the pointers to its rows are out of order"
    if len(indices) and not 0 <= indices.min() <= indices.max() < columns:
        return f"its columns span {indices.min()}..{indices.max()}, expected 0..{columns - 1}"
    return None if data.dtype.kind in "fb" and np.isfinite(data).all() else "an entry is not a finite number"
