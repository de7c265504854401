"""Vectors made elsewhere: read from .npy or Parquet files, checked, and turned into TextEmbeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from rlmrec.data.dataset import Dataset
from rlmrec.data.metadata import MEANS
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ColumnError, DataError
from rlmrec.files import sha256
from rlmrec.findings import by_number
from rlmrec.text.embeddings import TextEmbeddings, mean_over_training
from rlmrec.text.registry import MADE_ELSEWHERE
from rlmrec.types import AnyArray, Float32Array


def given_embeddings(
    dataset: Dataset,
    items: Path,
    users: Path | None = None,
    *,
    item_column: str = "item_id",
    user_column: str = "user_id",
) -> TextEmbeddings:
    """Read the vectors of a dataset's items, and of its users, from files.

    Args:
        dataset: whose items and users.
        items: file of the items' vectors; see ``read_vectors``.
        users: file of the users' vectors; by default each is the mean over the user's training items.
        item_column: the column of item ids in a Parquet file.
        user_column: the column of user ids in a Parquet file.

    Raises:
        DataError: a file does not hold one finite vector for each item or user, or the two differ in length.
    """
    item_vectors = read_vectors(items, dataset.items, item_column)
    if users is None:
        user_vectors = mean_over_training(item_vectors, dataset.train)
    else:
        user_vectors = read_vectors(users, dataset.users, user_column)
        if user_vectors.shape[1] != item_vectors.shape[1]:
            raise DataError(
                f"{users} has vectors of {user_vectors.shape[1]} dimensions, {items} of "
                f"{item_vectors.shape[1]}: make both with the same model"
            )
    files = {"items": items, **({} if users is None else {"users": users})}
    given = {kind: {"file": path.name, "sha256": sha256(path)} for kind, path in files.items()}
    has_item, has_user = np.ones(dataset.n_items, bool), np.ones(dataset.n_users, bool)
    if users is None:
        has_user = np.diff(dataset.train.csr().indptr) > 0
    return TextEmbeddings(
        user_vectors,
        item_vectors,
        {
            "encoder": f"{MADE_ELSEWHERE}{items.name} (sha256 {given['items']['sha256'][:12]})",
            "vectors": given,
            "dimensions": item_vectors.shape[1],
            "users": MEANS if users is None else "vectors",
            "dataset": dataset.fingerprint,
            "items_without_vector": 0,
            "users_without_vector": int((~has_user).sum()),
        },
        has_user,
        has_item,
    )


def read_vectors(path: Path, vocabulary: Vocabulary, id_column: str) -> Float32Array:
    """Read one vector per user or item.

    Args:
        path: a .npy file, a matrix whose rows are in the order of ``vocabulary.ids``; or a .parquet file in any
            order, with a column of ids and either one column of lists or several columns of numbers.
        vocabulary: the users or the items, n of them.
        id_column: the column of ids in a .parquet file.

    Returns:
        float32[n, d_s] in the vocabulary's order.

    Raises:
        ColumnError: there is no such column, or no column of vectors.
        DataError: the file is unreadable or does not hold exactly one finite vector per user or item.
    """
    if path.suffix.lower() not in (".npy", ".parquet"):
        raise DataError(f"{path}: expected vectors in a .npy or a .parquet file")
    if not path.is_file():
        raise DataError(f"{path} is not a file: expected vectors in a .npy or a .parquet file")
    if path.suffix.lower() == ".npy":
        return _checked(_read_npy(path, vocabulary), path, vocabulary)
    return _checked(_read_parquet(path, vocabulary, id_column), path, vocabulary)


def _read_npy(path: Path, vocabulary: Vocabulary) -> AnyArray:
    kind = vocabulary.kind
    try:
        # Mapped, so that a header that announces terabytes is compared with the file's size first.
        vectors: AnyArray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a .npy file of numbers: {error}") from None
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2:
        raise DataError(
            f"{path} has shape {np.shape(vectors)}, expected ({len(vocabulary)}, d): one row per {kind}"
        )
    if len(vectors) != len(vocabulary):
        raise DataError(
            f"{path} has {len(vectors):,} rows, the dataset has {len(vocabulary):,} {kind}s: give one row per "
            f"{kind} in the order of Dataset.{kind}s.ids, or a .parquet file with ids"
        )
    return vectors


def _read_parquet(path: Path, vocabulary: Vocabulary, id_column: str) -> AnyArray:
    kind = vocabulary.kind
    try:
        table = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read as a .parquet file: {error}") from None
    if id_column not in table.columns:
        raise ColumnError(
            f"{path} has no column {id_column!r} of {kind} ids: it has {', '.join(table.columns)}; name it with "
            f"--{kind}-column"
        )
    rows = _rows(table[id_column], path, vocabulary)
    rest = table.drop(id_column)
    lists = [name for name, dtype in rest.schema.items() if isinstance(dtype, pl.List | pl.Array)]
    numbers = [name for name, dtype in rest.schema.items() if dtype.is_numeric()]
    if len(lists) == 1 and rest.width == 1:
        column = rest[lists[0]]
        lengths = column.list.len() if isinstance(column.dtype, pl.List) else column.arr.len()
        size = lengths.mode().sort()[0]
        wrong = lengths.ne_missing(size)
        if size is None or wrong.any():
            place = int(wrong.fill_null(True).arg_max() or 0)
            raise DataError(
                f"{path}, column {lists[0]!r}: {int(wrong.sum()):,} vectors differ in length, for example that of "
                f"{kind} {table[id_column][place]!r}: {lengths[place]}, expected {size}"
            )
        flat = column.explode()
        if not flat.dtype.is_numeric():
            raise DataError(f"{path}, column {lists[0]!r}: lists of {flat.dtype}, expected numbers")
        vectors: AnyArray = flat.cast(pl.Float64).to_numpy().reshape(len(column), -1)
    elif numbers and len(numbers) == rest.width:
        vectors = rest.cast(pl.Float64).to_numpy()
    else:
        found = ", ".join(f"{name} ({dtype})" for name, dtype in rest.schema.items()) or "none"
        raise ColumnError(
            f"{path}: expected beside {id_column!r} one column of lists or only columns of numbers, got {found}"
        )
    ordered = np.empty_like(vectors)
    ordered[rows] = vectors
    return ordered


def _rows(ids: pl.Series, path: Path, vocabulary: Vocabulary) -> AnyArray:
    """Return the row of the dataset that each id stands for; refuse all but a permutation."""
    kind, where = vocabulary.kind, f"{path}, column {ids.name!r}"
    expected = pl.String if vocabulary.is_text else pl.Int64
    if vocabulary.is_text != (ids.dtype == pl.String) or not (
        ids.dtype == pl.String or ids.dtype.is_integer()
    ):
        names = {True: "text", False: "integers"}
        raise DataError(
            f"{where}: {kind} ids of type {ids.dtype}, those of the dataset are {names[vocabulary.is_text]}: "
            "convert them"
        )
    ids = ids.cast(expected)
    if nulls := ids.null_count():
        raise DataError(f"{where}: {nulls:,} rows have no {kind} id: remove them")
    known = pl.Series("known", list(vocabulary.ids), dtype=expected)
    for wrong, problem, example in (
        (
            ids.is_duplicated(),
            [f"{verb} in several rows: keep one row per {kind}" for verb in ("stands", "stand")],
            ids,
        ),
        (
            ~ids.is_in(known.implode()),
            [f"is no {kind} of the dataset: remove it", f"are no {kind}s of the dataset: remove them"],
            ids,
        ),
        (
            ~known.is_in(ids.implode()),
            [f"{verb} no vector: every {kind} needs a row" for verb in ("has", "have")],
            known,
        ),
    ):
        found = example.filter(wrong)
        if len(found):
            count = found.n_unique()
            ids_of = by_number(count, f"{kind} id", f"{kind} ids")
            raise DataError(
                f"{where}: {count:,} {ids_of}, for example {found[0]!r}, {by_number(count, *problem)}"
            )
    return np.array([vocabulary.row(raw) for raw in ids.to_list()], np.int64)


def _checked(vectors: AnyArray, path: Path, vocabulary: Vocabulary) -> Float32Array:
    kind = vocabulary.kind
    if vectors.dtype.kind not in "fiu":
        raise DataError(f"{path} holds values of type {vectors.dtype}, expected numbers (float32)")
    if vectors.shape[1] == 0:
        raise DataError(f"{path} has vectors of 0 dimensions, expected at least 1")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite and is refused below
        converted = np.ascontiguousarray(vectors, np.float32)
    wrong = ~np.isfinite(converted).all(axis=1)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"{path}: the vectors of {int(wrong.sum()):,} {kind}s hold NaN or infinity, for example that of {kind} "
            f"{vocabulary.id(first)!r} (row {first}): every number must be finite"
        )
    return converted
