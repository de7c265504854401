"""The folders that the paper's authors publish: pickled matrices, vectors and profiles.

A pickle is a program. Here it never runs: the names in it are not looked up but replaced by a short list of
stand-ins for numpy and scipy.sparse, which only record their arguments. Arrays and matrices are made of these
records after every length, type and range has been checked. So the pickles of old and new versions of numpy and
scipy are read alike, and the code of neither handles an unchecked byte.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from rlmrec.data.interactions import Interactions
from rlmrec.data.source import Source
from rlmrec.data.tables import read_table
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import DataError
from rlmrec.types import AnyArray, Float32Array, IntArray

MATRICES = {"train": "trn_mat.pkl", "valid": "val_mat.pkl", "test": "tst_mat.pkl"}
VECTORS = {"user": "usr_emb_np.pkl", "item": "itm_emb_np.pkl"}
PROFILES = {"user": "usr_prf.pkl", "item": "itm_prf.pkl"}
MAPPER_IDS = {
    "user": ("uid", ("reviewerID", "user_id", "username")),
    "item": ("iid", ("asin", "business_id", "product_id")),
}

Profiles = dict[int, dict[str, str]]


def read_published(
    folder: Path | str,
    *,
    user_mapper: Path | str | None = None,
    item_mapper: Path | str | None = None,
) -> Source:
    """Read a dataset folder of the paper. Its split is kept; its pickles are read by a restricted reader.

    Args:
        folder: Folder with trn_mat.pkl, val_mat.pkl, tst_mat.pkl and, if any, the vectors and profiles.
        user_mapper: Published JSON lines with the raw id of each user row; by default the rows are the ids.
        item_mapper: Published JSON lines with the raw id of each item row; by default the rows are the ids.

    Returns:
        a ready-made split, in which a non-zero entry is an interaction and ids are counted through the three files;
        profiles, where the folder has them, as texts with the column ``profile``; and the text vectors.

    Raises:
        DataError: a file is missing, damaged or refers to anything but numpy and scipy.sparse, or the files do
            not match each other.
    """
    folder = Path(folder)
    pairs = {split: _matrix(folder / name) for split, name in MATRICES.items()}
    shapes = {MATRICES[split]: shape for split, (_, _, shape) in pairs.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape[0]} x {shape[1]}" for name, shape in shapes.items())
        raise DataError(f"{folder}: expected three matrices of one shape (users x items), got {listed}")
    n_users, n_items = shapes[MATRICES["train"]]
    profiles = read_published_profiles(folder)
    parts: list[Interactions] = []
    start = 0
    for users, items, _ in pairs.values():
        part = Interactions(users, items, n_users, n_items).merged()
        parts.append(replace(part, id=np.arange(start, start + len(part))))
        start += len(part)
    return Source(
        folder.resolve().name,
        (parts[0], parts[1], parts[2]),
        _vocabulary("user", n_users, user_mapper),
        _vocabulary("item", n_items, item_mapper),
        item_texts=_profile_texts(profiles[1], n_items) if profiles else None,
        user_texts=_profile_texts(profiles[0], n_users) if profiles else None,
        vectors=_read_vectors(folder, n_users, n_items),
        provenance={"source": "published", "files": list(MATRICES.values())},
    )


def _read_vectors(folder: Path, n_users: int, n_items: int) -> tuple[Float32Array, Float32Array] | None:
    """Read usr_emb_np.pkl and itm_emb_np.pkl; None when neither file is there."""
    paths = _both(folder, VECTORS)
    if paths is None:
        return None
    users = _vectors(paths["user"], n_users, "user")
    items = _vectors(paths["item"], n_items, "item")
    if users.shape[1] != items.shape[1]:
        raise DataError(
            f"{folder}: user vectors have {users.shape[1]} dimensions and item vectors {items.shape[1]}: "
            "expected those of one encoder"
        )
    return users, items


def read_published_profiles(folder: Path | str) -> tuple[Profiles, Profiles] | None:
    """Read usr_prf.pkl and itm_prf.pkl.

    Returns:
        for users and for items: row → {"profile": text, "reasoning": text if any}; None when neither file
        is there.

    Raises:
        DataError: one file is missing, damaged or not such a dictionary.
    """
    paths = _both(Path(folder), PROFILES)
    return None if paths is None else (_profiles(paths["user"]), _profiles(paths["item"]))


def _matrix(path: Path) -> tuple[IntArray, IntArray, tuple[int, int]]:
    """Return rows and columns of the non-zero entries, and the shape."""
    noted = load(path)
    if not isinstance(noted, _Matrix):
        raise DataError(f"{path}: expected a scipy.sparse matrix, got {_what(noted)}")
    state = noted.state
    shape = state.get("_shape", state.get("shape"))
    if not (
        isinstance(shape, tuple) and len(shape) == 2 and all(type(n) is int and 0 < n < 2**31 for n in shape)
    ):
        raise DataError(f"{path}: expected a matrix of users x items, got shape {_sizes(shape)}")
    data = _array(path, state.get("data"), "data")
    if noted.format == "coo":
        coordinates = state.get("coords", (state.get("row"), state.get("col")))
        if not (isinstance(coordinates, tuple) and len(coordinates) == 2):
            raise DataError(f"{path}: expected row and column indices, got {_what(coordinates)}")
        rows, columns = (
            _indices(path, part, name) for part, name in zip(coordinates, ("row", "col"), strict=True)
        )
    else:
        columns, pointers = (_indices(path, state.get(name), name) for name in ("indices", "indptr"))
        lines = shape[0] if noted.format == "csr" else shape[1]
        if (
            len(pointers) != lines + 1
            or pointers[0] != 0
            or pointers[-1] != len(columns)
            or (np.diff(pointers) < 0).any()
        ):
            raise DataError(f"{path}: indptr is not {lines + 1} ascending numbers from 0 to {len(columns)}")
        rows = np.repeat(np.arange(lines), np.diff(pointers))
        if noted.format == "csc":
            rows, columns = columns, rows
    if not data.ndim == rows.ndim == columns.ndim == 1 or not len(data) == len(rows) == len(columns):
        raise DataError(
            f"{path}: {data.shape} values, {rows.shape} rows and {columns.shape} columns do not match"
        )
    if not np.isfinite(data).all():
        raise DataError(f"{path}: {int((~np.isfinite(data)).sum())} values are NaN or infinite")
    for name, index, size in (("row", rows, shape[0]), ("column", columns, shape[1])):
        if len(index) and (index.min() < 0 or index.max() >= size):
            raise DataError(
                f"{path}: {name} indices span {index.min()}..{index.max()}, expected 0..{size - 1}"
            )
    filled = data != 0
    return rows[filled], columns[filled], shape


def _vectors(path: Path, n: int, kind: str) -> Float32Array:
    vectors = _array(path, load(path), "the file")
    if vectors.ndim != 2 or len(vectors) != n:
        raise DataError(
            f"{path} has shape {vectors.shape}, the dataset has {n} {kind}s: "
            "expected one row of d_s numbers for each"
        )
    vectors = vectors.astype(np.float32)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{path}: {int((~finite).sum())} of {n} rows hold NaN or infinity, "
            f"the first is row {int(finite.argmin())}"
        )
    return vectors


def _profiles(path: Path) -> Profiles:
    noted = load(path)
    if not isinstance(noted, dict):
        raise DataError(f"{path}: expected a dictionary of row → profile, got {_what(noted)}")
    profiles: Profiles = {}
    for row, profile in noted.items():
        texts = (
            {name: profile[name] for name in ("profile", "reasoning") if name in profile}
            if isinstance(profile, dict)
            else {}
        )
        if (
            type(row) is not int
            or "profile" not in texts
            or not all(isinstance(text, str) for text in texts.values())
        ):
            raise DataError(
                f"{path}, entry {len(profiles)}: expected row → {{'profile': text, 'reasoning': text}}, "
                f"got {_what(row)} → {_what(profile)}"
            )
        profiles[row] = texts
    return profiles


def _profile_texts(profiles: Profiles, n: int) -> pl.DataFrame:
    texts = [profiles.get(row, {}).get("profile") for row in range(n)]
    return pl.DataFrame({"profile": pl.Series(texts, dtype=pl.String)})


def _vocabulary(kind: str, n: int, mapper: Path | str | None) -> Vocabulary:
    if mapper is None:
        return Vocabulary(range(n), kind)
    row_name, id_names = MAPPER_IDS[kind]
    table = read_table(mapper, ids=(row_name,))
    name = next((name for name in id_names if name in table.frame.columns), None)
    if name is None:
        raise DataError(
            f"{mapper} has no column {' or '.join(map(repr, id_names))}: its columns are "
            f"{', '.join(map(repr, table.frame.columns))}"
        )
    table = read_table(mapper, (row_name, name), ids=(row_name, name))
    rows, raw = table.ids(row_name, kind), table.ids(name, kind)
    ordered = rows.sort().to_list()
    if ordered != list(range(n)):
        raise DataError(
            f"{mapper}, column {row_name!r}: expected each of 0..{n - 1} once, got {len(rows)} rows from "
            f"{ordered[0]!r} to {ordered[-1]!r}"
        )
    try:
        return Vocabulary(raw.gather(rows.arg_sort()).to_list(), kind)
    except DataError as error:
        raise DataError(f"{mapper}, column {name!r}: {error}") from None


def _both(folder: Path, names: Mapping[str, str]) -> dict[str, Path] | None:
    present = {kind: folder / name for kind, name in names.items() if (folder / name).exists()}
    if 0 < len(present) < len(names):
        missing = next(name for kind, name in names.items() if kind not in present)
        raise DataError(f"{folder / missing} does not exist: users and items come together")
    return present or None


# The restricted unpickler. The stand-ins record what a pickle contains of arrays and matrices and do nothing else.


class _Dtype:
    """numpy.dtype: a code such as "f8" and then, by BUILD, the byte order."""

    def __init__(self, code: str, *_: object) -> None:
        if not (isinstance(code, str) and re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248])", code)):
            raise _Refused(f"an array of type {code!r} (numbers only)")
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise ValueError("byte order")
        self.value = self.value.newbyteorder(order)


class _Array:
    """numpy.ndarray: shape, type, order and bytes."""

    value: AnyArray | None = None

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, by_column, content = state
        self.value = _filled(content, dtype, shape, "F" if by_column else "C")


class _Matrix:
    """A scipy.sparse class: its attributes."""

    format = ""
    state: dict[str, Any]

    def __new__(cls, *_: object) -> _Matrix:
        self = super().__new__(cls)
        self.state = {}  # here, because a pickle makes objects without calling __init__
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        if not isinstance(state, dict):
            raise TypeError("state")
        self.state = state


class _Coo(_Matrix):
    format = "coo"


class _Csr(_Matrix):
    format = "csr"


class _Csc(_Matrix):
    format = "csc"


def _filled(content: object, dtype: object, shape: object, order: Any) -> AnyArray:
    if not (
        isinstance(dtype, _Dtype) and isinstance(content, bytes | bytearray) and isinstance(shape, tuple)
    ):
        raise TypeError("array state")
    # -1 would let reshape guess; a wrong size raises.
    if order not in ("C", "F") or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("array shape")
    return np.frombuffer(bytes(content), dtype.value).reshape(shape, order=order)


def _from_buffer(content: object, dtype: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.value = _filled(content, dtype, shape, order)
    return array


def _scalar(dtype: object, content: object) -> Any:
    return _filled(content, dtype, (), "C").item()


def _encode(text: str, encoding: str) -> bytes:
    """Decode bytes as pickles of protocol 2 and below write them."""
    if encoding != "latin1":
        raise ValueError("encoding")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    **{
        (f"scipy.sparse.{module}", f"{stand_in.format}_{kind}"): stand_in
        for stand_in in (_Coo, _Csr, _Csc)
        for module in (stand_in.format, f"_{stand_in.format}")
        for kind in ("matrix", "array")
    },
}


class _Refused(Exception):
    """Raised with the name that a pickle refers to and that is not allowed."""


class _Unpickler(pickle._Unpickler):
    """The reader that Python has in Python: its steps can be checked, which those of the compiled one cannot.

    A tuple that holds another one twice, thirty times over, has a billion entries: its hash takes minutes. So only
    plain values may be keys.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]

    def _check_keys(self, keys: Iterable[Any]) -> None:
        if not all(key is None or type(key) in (str, int, float, bool, bytes) for key in keys):
            raise _Refused("a key that is neither a text nor a number")

    def _setitem(self) -> None:
        self._check_keys(self.stack[-2:-1])
        self.load_setitem()  # type: ignore[attr-defined]

    def _setitems(self) -> None:
        self._check_keys(self.stack[::2])
        self.load_setitems()  # type: ignore[attr-defined]

    def _dict(self) -> None:
        self._check_keys(self.stack[::2])
        self.load_dict()  # type: ignore[attr-defined]

    def _set(self) -> None:
        raise _Refused("a set")

    dispatch[pickle.SETITEM[0]] = _setitem
    dispatch[pickle.SETITEMS[0]] = _setitems
    dispatch[pickle.DICT[0]] = _dict
    for _code in (pickle.ADDITEMS, pickle.FROZENSET):
        dispatch[_code[0]] = _set

    def find_class(self, module: str, name: str) -> Any:
        allowed = _ALLOWED.get((module, name))
        if allowed is None:
            raise _Refused(f"{module}.{name}")
        # A new object each time: BUILD can set attributes of whatever it finds on the stack.
        return (
            type(allowed.__name__, (allowed,), {})
            if isinstance(allowed, type)
            else lambda *given: allowed(*given)
        )

    def persistent_load(self, pid: Any) -> Any:  # noqa: ARG002 - the base class's signature
        raise _Refused("a persistent object")


def load(path: Path) -> Any:
    """Read a pickle of plain values, arrays and sparse matrices, the latter two as stand-ins.

    Raises:
        DataError: the file is missing, is not a complete pickle, or refers to anything that is not on the list.
            Nothing that it refers to is imported or run.
    """
    try:
        with path.open("rb") as handle:
            return _Unpickler(handle).load()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except _Refused as refused:
        raise DataError(
            f"{path} was refused and not run: it refers to {refused}, expected only arrays of numpy and "
            "matrices of scipy.sparse"
        ) from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path} is damaged or not a pickle ({type(error).__name__}: {error})") from None


def _array(path: Path, noted: object, name: str) -> AnyArray:
    if not isinstance(noted, _Array) or noted.value is None:
        raise DataError(f"{path}: expected {name} to be a numpy array, got {_what(noted)}")
    return noted.value


def _indices(path: Path, noted: object, name: str) -> IntArray:
    array = _array(path, noted, name)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DataError(
            f"{path}: expected {name} to be a list of integers, got {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.int64)


def _sizes(shape: object) -> str:
    # Never the repr of an untrusted object: a nested tuple can take hours to print.
    plain = isinstance(shape, tuple) and len(shape) <= 8 and all(type(n) is int for n in shape)
    return str(shape) if plain else _what(shape)


def _what(value: object) -> str:
    return "a numpy array" if isinstance(value, _Array) else f"{type(value).__name__}"
