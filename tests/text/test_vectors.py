"""Vectors made elsewhere: read in any order of ids, and each mistake named with a count and an example."""

import contextlib
import dataclasses

import numpy as np
import polars as pl
import pytest

from rlmrec.cli import main
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ColumnError, ConfigError, DataError
from rlmrec.files import sha256
from rlmrec.testing import blocks
from rlmrec.text import encoder_of
from rlmrec.text.vectors import given_embeddings, read_vectors
from rlmrec.workspace import Workspace

ITEMS = Vocabulary(["a", "b", "c"], "item")
VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2)


def test_npy_and_both_forms_of_parquet_give_the_same(tmp_path):
    np.save(tmp_path / "v.npy", VECTORS)
    order = [2, 0, 1]
    ids = [ITEMS.id(row) for row in order]
    pl.DataFrame({"item_id": ids, "v": VECTORS[order].tolist()}).write_parquet(tmp_path / "lists.parquet")
    fixed = pl.Series("v", VECTORS[order].tolist(), dtype=pl.Array(pl.Float32, 2))
    pl.DataFrame({"sku": ids, "v": fixed}).write_parquet(tmp_path / "arrays.parquet")
    pl.DataFrame({"item_id": ids, "x": VECTORS[order, 0], "y": VECTORS[order, 1].astype(int)}).write_parquet(
        tmp_path / "columns.parquet"
    )
    for name, column in (("v.npy", "item_id"), ("lists.parquet", "item_id"), ("arrays.parquet", "sku"),
                         ("columns.parquet", "item_id")):  # fmt: skip
        read = read_vectors(tmp_path / name, ITEMS, column)
        assert read.dtype == np.float32, name
        assert np.array_equal(read, VECTORS), name
    numbers = Vocabulary([30, 10, 20], "item")
    pl.DataFrame({"item_id": [10, 20, 30], "v": VECTORS.tolist()}).write_parquet(tmp_path / "numbers.parquet")
    assert np.array_equal(read_vectors(tmp_path / "numbers.parquet", numbers, "item_id"), VECTORS[[2, 0, 1]])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (VECTORS[:2], "2 rows, the dataset has 3 items: give one row per item"),
        (VECTORS[:, 0], r"shape \(3,\), expected \(3, d\)"),
        (VECTORS[None], r"shape \(1, 3, 2\)"),
        (VECTORS[:, :0], "0 dimensions"),
        (VECTORS.astype(complex), "type complex64|type complex128"),
        (VECTORS.astype(str), "type <U"),
        (
            np.where(VECTORS == 3, np.nan, VECTORS),
            r"vectors of 1 items hold NaN or infinity, .* item 'b' \(row 1\)",
        ),
        (VECTORS.astype(float) * 1e60, "of 3 items hold NaN or infinity"),
        (np.array([[1, None]] * 3, object), "cannot be read as a .npy file of numbers"),
    ],
)
def test_what_is_wrong_with_an_npy_file_is_said(tmp_path, array, message):
    path = tmp_path / "v.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        read_vectors(path, ITEMS, "item_id")


def test_a_file_that_is_cut_off_or_announces_too_much(tmp_path):
    path = tmp_path / "v.npy"
    np.save(path, VECTORS)
    whole = path.read_bytes()
    for content in (whole[:-4], whole.replace(b"(3, 2)", b"(3, 9)"), whole[:8], b"", b"PK nothing"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read as a .npy file"):
            read_vectors(path, ITEMS, "item_id")
    with pytest.raises(DataError, match=r"expected vectors in a .npy or a .parquet file"):
        read_vectors(tmp_path / "v.npz", ITEMS, "item_id")
    with pytest.raises(DataError, match="is not a file"):
        read_vectors(tmp_path / "none.npy", ITEMS, "item_id")
    path.with_suffix(".parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"cannot be read as a .parquet file"):
        read_vectors(path.with_suffix(".parquet"), ITEMS, "item_id")


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"id": ["a", "b", "c"], "x": [1, 2, 3]}, ColumnError, "no column 'item_id' of item ids: it has id, x"),
        ({"item_id": [1, 2, 3], "x": [1, 2, 3]}, DataError, "ids of type Int64, those of the dataset are text"),
        ({"item_id": ["a", "b", None], "x": [1, 2, 3]}, DataError, "1 rows have no item id"),
        ({"item_id": ["a", "b", "b", "c"], "x": [1, 2, 3, 4]}, DataError, r"1 item id, .* 'b', stands in several"),
        ({"item_id": ["a", "b", "c", "d"], "x": [1, 2, 3, 4]}, DataError, "1 item id, for example 'd', is no item of"),
        ({"item_id": ["b"], "x": [1]}, DataError, "2 item ids, for example 'a', have no vector"),
        ({"item_id": ["a", "b", "c"], "x": ["1", "2", "3"]}, ColumnError, r"lists or .* got x \(String\)"),
        ({"item_id": ["a", "b", "c"]}, ColumnError, "got none"),
        ({"item_id": ["a", "b", "c"], "v": [[1.0], [1.0, 2.0], [1.0]]}, DataError, "1 vectors .* 'b': 2, expected 1"),
        ({"item_id": ["a", "b", "c"], "v": [[1.0], [2.0], None]}, DataError, "1 vectors .* 'c': None, expected 1"),
        ({"item_id": ["a", "b", "c"], "v": [[1.0], [None], [2.0]]}, DataError, "of 1 items hold NaN .* item 'b'"),
        ({"item_id": ["a", "b", "c"], "v": [["x"], ["y"], ["z"]]}, DataError, "lists of String, expected numbers"),
        ({"item_id": ["a", "b", "c"], "x": [1.0, None, 2.0]}, DataError, "of 1 items hold NaN .* item 'b'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_parquet_file_is_said(tmp_path, columns, error, message):
    path = tmp_path / "v.parquet"
    pl.DataFrame(columns).write_parquet(path)
    with pytest.raises(error, match=message):
        read_vectors(path, ITEMS, "item_id")


def test_users_are_the_mean_over_training_items_or_have_vectors_of_their_own(tmp_path):
    dataset, _ = blocks()
    rng = np.random.default_rng(0)
    items = rng.normal(size=(dataset.n_items, 5)).astype(np.float32)
    users = rng.normal(size=(dataset.n_users, 5)).astype(np.float32)
    np.save(tmp_path / "items.npy", items)
    np.save(tmp_path / "users.npy", users)
    mean = given_embeddings(dataset, tmp_path / "items.npy")
    first = items[dataset.train.items[dataset.train.users == 0]].mean(axis=0)
    assert np.allclose(mean.users[0], first, atol=1e-6)
    assert mean.manifest["users"] == "mean over training items"
    both = given_embeddings(dataset, tmp_path / "items.npy", tmp_path / "users.npy")
    assert np.array_equal(both.users, users)
    assert both.manifest["vectors"]["users"] == {
        "file": "users.npy",
        "sha256": sha256(tmp_path / "users.npy"),
    }
    np.save(tmp_path / "users.npy", users[:, :3])
    with pytest.raises(DataError, match=r"3 dimensions, .* of 5: make both with the same model"):
        given_embeddings(dataset, tmp_path / "items.npy", tmp_path / "users.npy")


def test_the_command_and_a_run_with_it(tmp_path, capsys):
    dataset, given = blocks()
    place = Workspace(tmp_path / "w")
    dataset.save(place.dataset_path)
    np.save(tmp_path / "items.npy", given.items)
    arguments = ["encode", "-w", str(place.path), "--vectors", str(tmp_path / "items.npy"), "--name", "mine"]
    for said in ("wrote", "kept"):
        with contextlib.suppress(SystemExit):
            main(arguments)
        assert said in "".join(capsys.readouterr())
    stored = place.text_embeddings(dataset, "mine")
    assert np.array_equal(stored.items, given.items)
    with pytest.raises(ConfigError, match=r"made elsewhere .* no encoder for a new text"):
        encoder_of(stored.manifest)
    with contextlib.suppress(SystemExit):
        main(["train", "-w", str(place.path), "--backbone", "mf", "--alignment", "contrastive",
              "--text-embeddings", "mine", "--set", "epochs=1", "--name", "aligned"])  # fmt: skip
    assert (place.run("aligned") / "metrics.json").exists()
    capsys.readouterr()
    for wrong, message in (
        (["--encoder", "local"], "does not use --encoder"),
        (["--user-vectors", "profiles"], "expected vectors in a .npy or a .parquet file"),
    ):
        with pytest.raises(SystemExit) as end:
            main([*arguments, *wrong])
        assert end.value.code != 0
        assert message in " ".join(capsys.readouterr().err.split())


def test_vectors_follow_the_dataset(tmp_path):
    dataset, given = blocks()
    np.save(tmp_path / "items.npy", given.items)
    made = given_embeddings(dataset, tmp_path / "items.npy")
    other = dataclasses.replace(dataset, train=dataset.train.take(np.arange(len(dataset.train) - 1)))
    with pytest.raises(DataError, match="another dataset"):
        made.check(other)
