import builtins
import functools
import json
import os
import pickle
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from rlmrec.data.dataset import Dataset
from rlmrec.data.published import load, read_published, read_published_profiles
from rlmrec.errors import DataError

AMAZON = Path(__file__).parents[2].parent / "shared" / "data" / "rlmrec-amazon"
TRAIN = [(0, 0), (1, 1), (2, 2), (2, 0)]
VALID = [(0, 1)]
TEST = [(1, 3), (2, 1)]
FORMS = [getattr(sp, f"{form}_{kind}") for form in ("coo", "csr", "csc") for kind in ("matrix", "array")]


def matrix(pairs, form=sp.coo_matrix, dtype=float, shape=(3, 4)):
    rows, columns = np.array(pairs).T
    return form(sp.coo_matrix((np.ones(len(pairs), dtype), (rows, columns)), shape=shape))


def dump(path, value, protocol=4):
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol))


def write(folder, form=sp.coo_matrix, protocol=4, **changes):
    parts = {"trn": matrix(TRAIN, form), "val": matrix(VALID, form), "tst": matrix(TEST, form), **changes}
    for name, value in parts.items():
        dump(folder / f"{name}_mat.pkl", value, protocol)
    return folder


def pairs(interactions):
    return sorted(zip(interactions.users.tolist(), interactions.items.tolist(), strict=True))


def published(*arguments, **mappers):
    return Dataset.from_source(read_published(*arguments, **mappers))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(tmp_path, form, protocol):
    dataset = published(write(tmp_path, form, protocol))
    assert (dataset.n_users, dataset.n_items) == (3, 4)
    assert [pairs(part) for part in (dataset.train, dataset.valid, dataset.test)] == [
        sorted(TRAIN),
        VALID,
        sorted(TEST),
    ]
    assert [part.id.tolist() for part in (dataset.train, dataset.valid, dataset.test)] == [
        [0, 1, 2, 3],
        [4],
        [5, 6],
    ]
    assert (dataset.users.ids, dataset.items.ids) == ([0, 1, 2], [0, 1, 2, 3])
    assert dataset.name == tmp_path.name


@pytest.mark.parametrize(
    ("new", "old"),
    [("scipy.sparse._coo", "scipy.sparse.coo"), ("numpy._core.multiarray", "numpy.core.multiarray")],
)
def test_module_paths_of_old_versions_are_read(tmp_path, new, old):
    content = pickle.dumps(matrix(TRAIN), 3).replace(b"c" + new.encode(), b"c" + old.encode())
    assert old.encode() in content
    write(tmp_path, trn=content)
    assert pairs(published(tmp_path).train) == sorted(TRAIN)


class OldCoo:
    """A coo_matrix as scipy before 1.13 pickled it: row and col instead of coords."""

    def __reduce__(self):
        new = matrix(TRAIN)
        state = {"_shape": new.shape, "maxprint": 50, "row": new.row, "col": new.col, "data": new.data}
        return object.__new__, (sp.coo_matrix,), state


def test_attributes_of_old_versions_are_read(tmp_path):
    # object.__new__ as scipy's own pickles spell it: the NEWOBJ opcode.
    class Pickler(pickle._Pickler):
        def save_reduce(self, func, args, state=None, *rest, **named):
            if func is object.__new__:
                self.save(args[0])
                self.save(())
                self.write(pickle.NEWOBJ)
                self.save(state)
                self.write(pickle.BUILD)
            else:
                super().save_reduce(func, args, state, *rest, **named)

    with (tmp_path / "trn_mat.pkl").open("wb") as handle:
        Pickler(handle, 4).dump(OldCoo())
    write(tmp_path, trn=(tmp_path / "trn_mat.pkl").read_bytes())
    assert pairs(published(tmp_path).train) == sorted(TRAIN)


@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "i4", "u1", "?"])
def test_every_number_type_is_read(tmp_path, dtype):
    read_published(write(tmp_path, trn=matrix(TRAIN, dtype=np.dtype(dtype))))


def test_zeros_and_repeated_entries_are_no_interactions(tmp_path):
    rows, columns = np.array([*TRAIN, (0, 3), (0, 0)]).T
    doubled = sp.coo_matrix((np.array([1, 1, 1, 1, 0, 1.0]), (rows, columns)), shape=(3, 4))
    dataset = published(write(tmp_path, trn=doubled))
    assert pairs(dataset.train) == sorted(TRAIN)
    assert dataset.valid.id.tolist() == [4]


@pytest.mark.skipif(not AMAZON.is_dir(), reason=f"no real data at {AMAZON}")
def test_the_published_amazon_data_is_a_dataset(tmp_path):
    dataset = published(AMAZON)
    assert (dataset.n_users, dataset.n_items) == (11_000, 9_332)
    sizes = [len(part) for part in (dataset.train, dataset.valid, dataset.test)]
    assert sizes == [120_464, 40_290, 40_106]
    assert np.concatenate([p.id for p in (dataset.train, dataset.valid, dataset.test)]).tolist() == list(
        range(sum(sizes))
    )
    assert read_published_profiles(AMAZON) is None
    dataset.save(tmp_path / "dataset")
    assert Dataset.load(tmp_path / "dataset").fingerprint == dataset.fingerprint


# Mappers.


def write_mapper(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_mappers_give_the_raw_ids(tmp_path):
    users = write_mapper(tmp_path / "user.json", [{"uid": n, "reviewerID": f"R{n}"} for n in (2, 0, 1)])
    items = write_mapper(tmp_path / "item.json", [{"iid": n, "asin": f"00{n}"} for n in range(4)])
    dataset = published(write(tmp_path), user_mapper=users, item_mapper=items)
    assert dataset.users.ids == ["R0", "R1", "R2"]
    assert dataset.items.ids == ["000", "001", "002", "003"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"uid": n, "user_id": f"R{n}"} for n in (0, 1)],
            r"column 'uid': expected each of 0\.\.2 once, got 2 rows",
        ),
        ([{"uid": n, "user_id": f"R{n}"} for n in (0, 1, 1)], r"expected each of 0\.\.2 once, got 3 rows"),
        ([{"uid": n, "user_id": "same"} for n in range(3)], "column 'user_id': user id 'same' occurs twice"),
        (
            [{"uid": n, "name": f"R{n}"} for n in range(3)],
            "has no column 'reviewerID' or 'user_id' or 'username'",
        ),
        ([{"row": n, "user_id": f"R{n}"} for n in range(3)], "has no column 'uid'"),
        ([{"uid": 0, "user_id": 1}, {"uid": 1, "user_id": "1"}], "mixes integers and text"),
    ],
)
def test_a_mapper_that_does_not_fit_is_refused(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_published(write(tmp_path), user_mapper=write_mapper(tmp_path / "user.json", rows))


# Matrices that cannot be used.


def changed(**state):
    value = matrix(TRAIN)
    value.__dict__.update(state)
    return value


def broken_csr(**state):
    value = matrix(TRAIN, sp.csr_matrix)
    value.__dict__.update(state)
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones((3, 4)), "expected a scipy.sparse matrix, got a numpy array"),
        ([1], "expected a scipy.sparse matrix, got list"),
        (changed(data=np.array([1, np.nan, 1, np.inf])), "2 values are NaN or infinite"),
        (changed(data=np.ones(3)), "do not match"),
        (changed(data=np.ones((2, 2))), "do not match"),
        (changed(data=[1.0] * 4), "expected data to be a numpy array, got list"),
        (
            changed(coords=(np.array([0, 1, 2, 3]), np.zeros(4, int))),
            r"row indices span 0\.\.3, expected 0\.\.2",
        ),
        (
            changed(coords=(np.zeros(4, int), np.array([0, 1, 2, -1]))),
            r"column indices span -1\.\.2, expected 0\.\.3",
        ),
        (
            changed(coords=(np.zeros(4), np.zeros(4, int))),
            "expected row to be a list of integers, got float64",
        ),
        (changed(coords=(np.zeros(4, int),)), "expected row and column indices"),
        (changed(_shape=(3,)), r"expected a matrix of users x items, got shape \(3,\)"),
        (changed(_shape=(3, 4, 5)), "expected a matrix of users x items"),
        (changed(_shape=(3, -4)), "expected a matrix of users x items"),
        (broken_csr(indptr=np.array([0, 2, 1, 4])), "indptr is not 4 ascending numbers from 0 to 4"),
        (broken_csr(indptr=np.array([0, 1, 2, 5])), "indptr is not 4 ascending"),
        (broken_csr(indices=np.array([0, 1, 2, 9])), r"column indices span 0\.\.9, expected 0\.\.3"),
    ],
)
def test_a_matrix_that_cannot_be_used_is_refused(tmp_path, value, message):
    with pytest.raises(DataError, match=message) as caught:
        read_published(write(tmp_path, trn=value))
    assert "trn_mat.pkl" in str(caught.value)


def test_shapes_made_to_hurt_are_refused_at_once(tmp_path):
    """A tuple that doubles at each level has a repr of 2^60 characters; one nested deeply has none."""
    doubled = ()
    for _ in range(60):
        doubled = (doubled, doubled)
    nested = ()
    for _ in range(900):
        nested = (nested,)
    for shape in (doubled, nested, (10**11, 4)):
        write(tmp_path, trn=changed(_shape=shape))
        with pytest.raises(DataError, match="expected a matrix of users x items, got"):
            published(tmp_path)


def test_matrices_of_different_shapes_are_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"one shape .*got trn_mat\.pkl 3 x 4, val_mat\.pkl 3 x 5, tst_mat\.pkl 3 x 4"
    ):
        read_published(write(tmp_path, val=matrix(VALID, shape=(3, 5))))


def test_a_missing_matrix_is_named(tmp_path):
    (write(tmp_path) / "val_mat.pkl").unlink()
    with pytest.raises(DataError, match=r"val_mat\.pkl does not exist"):
        read_published(tmp_path)


def test_the_protocol_of_a_dataset_holds(tmp_path):
    kept = published(write(tmp_path, trn=matrix(TRAIN[:2])))
    assert len(kept.cold)
    cold = next(str(finding) for finding in kept.findings if finding.kind == "cold")
    assert "user has no training interaction, for example" in cold
    assert "the user is kept" in cold
    with pytest.raises(DataError, match="more than one split"):
        published(write(tmp_path, val=matrix(TRAIN[:1])))


# Vectors and profiles.


def write_vectors(folder, users, items):
    dump(folder / "usr_emb_np.pkl", users)
    dump(folder / "itm_emb_np.pkl", items)
    return folder


def test_vectors_are_read(tmp_path):
    assert read_published(write(tmp_path)).vectors is None
    made = np.arange(12.0).reshape(3, 4), np.asfortranarray(np.arange(16.0).reshape(4, 4).astype(">f4"))
    users, items = read_published(write_vectors(tmp_path, *made)).vectors
    assert users.dtype == items.dtype == np.float32
    assert (users == made[0]).all()
    assert (items == made[1]).all()


@pytest.mark.parametrize(
    ("users", "message"),
    [
        (
            np.array([[1.0], [np.nan], [np.inf]]),
            r"usr_emb_np\.pkl: 2 of 3 rows hold NaN or infinity, the first is row 1",
        ),
        (np.ones((2, 1)), r"usr_emb_np\.pkl has shape \(2, 1\), the dataset has 3 users"),
        (np.ones(3), r"has shape \(3,\), the dataset has 3 users"),
        (np.ones((3, 2)), "user vectors have 2 dimensions and item vectors 1"),
        ({"a": 1}, "expected the file to be a numpy array, got dict"),
        (np.full((3, 1), "x"), "was refused.* an array of type"),
        (np.full((3, 1), None), "was refused.* an array of type 'O8'"),
    ],
)
def test_vectors_that_cannot_be_used_are_refused(tmp_path, users, message):
    write(tmp_path)
    with pytest.raises(DataError, match=message):
        read_published(write_vectors(tmp_path, users, np.ones((4, 1))))


def test_half_of_the_vectors_is_refused(tmp_path):
    write(tmp_path)
    dump(tmp_path / "usr_emb_np.pkl", np.ones((3, 1)))
    with pytest.raises(DataError, match=r"itm_emb_np\.pkl does not exist: users and items come together"):
        read_published(tmp_path)


def test_profiles_are_read(tmp_path):
    assert read_published_profiles(tmp_path) is None
    dump(tmp_path / "usr_prf.pkl", {np.int64(1): {"profile": "likes", "reasoning": "because", "more": 1}})
    dump(tmp_path / "itm_prf.pkl", {0: {"profile": "liked by"}})
    assert read_published_profiles(tmp_path) == (
        {1: {"profile": "likes", "reasoning": "because"}},
        {0: {"profile": "liked by"}},
    )
    dataset = published(write(tmp_path))
    assert dataset.user_texts["profile"].to_list() == [None, "likes", None]
    assert dataset.item_texts["profile"].to_list() == ["liked by", None, None, None]


@pytest.mark.parametrize(
    "value", [[1], {"a": {"profile": "x"}}, {1: "x"}, {1: {"reasoning": "x"}}, {1: {"profile": 2}}]
)
def test_profiles_that_cannot_be_used_are_refused(tmp_path, value):
    dump(tmp_path / "usr_prf.pkl", {})
    dump(tmp_path / "itm_prf.pkl", value)
    with pytest.raises(DataError, match=r"itm_prf\.pkl.*expected"):
        read_published_profiles(tmp_path)


# Pickles that want more than numbers. The canary must not come to be.


class Calls:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def hostile(canary):
    touch = f"touch {canary}"
    write_it = f"open({str(canary)!r}, 'w').close()"
    nested = np.empty(2, object)
    nested[0] = Calls(os.system, touch)
    return {
        "system": Calls(os.system, touch),
        "eval": Calls(eval, write_it),
        "exec": Calls(exec, write_it),
        "getattr": Calls(getattr, "", "format"),
        "open": Calls(builtins.open, str(canary), "w"),
        "partial": Calls(functools.partial(os.system, touch)),
        "reduce": Calls(functools.reduce, os.system, [touch]),
        "import": Calls(__import__, "os"),
        "nested": nested,
        "in a dictionary": {0: {"profile": Calls(os.system, touch)}},
        "as a key": {Calls(os.system, touch): 1},
        "numpy.load": Calls(np.load, str(canary), None, True),
        "numpy.save": Calls(np.save, str(canary), 1),
        "numpy.memmap": Calls(np.memmap, str(canary), "u1", "w+", 0, (4,)),
        "scipy.sparse.load_npz": Calls(sp.load_npz, str(canary)),
        "protocol 0": f"cos\nsystem\n(S'{touch}'\ntR.".encode(),
        "INST": f"(S'{touch}'\nios\nsystem\n.".encode(),
        "OBJ": f"(cos\nsystem\nS'{touch}'\no.".encode(),
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x15ndarray.__class__.mro\x93.",
        "persistent": b"Pabc\n.",
        "state of a stand-in": b"cnumpy\ndtype\n(N}S'__init__'\ncos\nsystem\nstb.",
    }


NAMES = list(hostile("x"))


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_pickle_is_refused_and_nothing_of_it_runs(tmp_path, name):
    canary = tmp_path / "canary"
    value = hostile(canary)[name]
    with pytest.raises(DataError, match=r"trn_mat\.pkl was refused and not run: it refers to "):
        read_published(write(tmp_path, trn=value))
    assert not canary.exists()
    if name == "numpy.memmap":
        return
    # The same file does what it says elsewhere, or else this test would show nothing.
    if name in ("system", "eval", "exec", "open", "nested", "protocol 0"):
        pickle.loads((tmp_path / "trn_mat.pkl").read_bytes())
        assert canary.exists()


def test_the_refusal_names_what_was_asked_for(tmp_path):
    with pytest.raises(
        DataError, match=r"it refers to builtins\.eval, expected only arrays of numpy and matrices"
    ):
        read_published(write(tmp_path, trn=Calls(eval, "1")))


def test_a_type_with_hidden_objects_is_refused(tmp_path):
    """Bytes taken for pointers to objects would let a file run code without naming any."""
    dtype = np.dtype([("a", object)])
    for value in (
        np.zeros(1, dtype),
        np.zeros(1, object),
        np.zeros(1, "M8[s]"),
        np.zeros(1, "V8"),
        np.zeros(1, "c16"),
    ):
        with pytest.raises(DataError, match="was refused"):
            read_published(write(tmp_path, trn=value))
    # The same by the state of a dtype that was admitted as numbers.
    state = (3, "|", (dtype, (1,)), ("a",), {"a": (np.dtype(int), 0)}, 8, 8, 63)
    content = pickle.dumps(state, 2)[2:-1]
    dump(tmp_path / "x.pkl", b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85R" + content + b"b.")
    with pytest.raises(DataError, match="was refused"):
        load(tmp_path / "x.pkl")


def test_lengths_that_lie_allocate_nothing(tmp_path):
    huge = matrix(TRAIN).data.__reduce__()
    lying = (huge[2][0], (10**15,), *huge[2][2:])

    class Array:
        def __reduce__(self):
            return *huge[:2], lying

    dump(tmp_path / "x.pkl", Array())
    with pytest.raises(DataError, match="damaged or not a pickle"):
        load(tmp_path / "x.pkl")
    dump(tmp_path / "x.pkl", b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x")
    with pytest.raises(DataError, match="damaged or not a pickle"):
        load(tmp_path / "x.pkl")


@given(st.binary(max_size=200))
def test_garbage_is_a_data_error_or_plain_values(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "garbage.pkl"
    path.write_bytes(content)
    with suppress(DataError):
        load(path)


WHOLE = pickle.dumps(matrix(TRAIN), 4)


@given(st.integers(0, len(WHOLE) - 1))
def test_a_truncated_pickle_is_a_data_error(tmp_path_factory, length):
    path = tmp_path_factory.getbasetemp() / "truncated.pkl"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(DataError, match=r"truncated\.pkl is damaged or not a pickle"):
        load(path)


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_a_data_error_or_a_dataset(tmp_path_factory, position, mask):
    folder = tmp_path_factory.getbasetemp() / "flipped"
    folder.mkdir(exist_ok=True)
    content = bytearray(WHOLE)
    content[position] ^= mask
    with suppress(DataError):
        published(write(folder, trn=bytes(content)))


@pytest.mark.parametrize("step", [b"Ns.", b"Nu."])
def test_a_key_whose_hash_would_take_hours_is_refused(tmp_path, step):
    shared = ()
    for _ in range(60):
        shared = (shared, shared)
    body = pickle.dumps(shared, 2)[2:-1]
    bomb = b"}" + body + b"Ns." if step == b"Ns." else b"}(" + body + b"Nu."
    (tmp_path / "bomb.pkl").write_bytes(b"\x80\x02" + bomb)
    with pytest.raises(DataError, match="a key that is neither a text nor a number"):
        load(tmp_path / "bomb.pkl")
