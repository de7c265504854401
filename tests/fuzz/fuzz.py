"""Mutated inputs over every reader and every stored file: nothing but our own errors, no hang, bounded memory.

    python tests/fuzz/fuzz.py --count 10000 --seed 0

Each case changes one file at random, with its checksums computed again, and reads it in a process of its own batch.
A case is bad if another error than an ``RlmrecError`` comes out, if it takes longer than 10 s, if the process dies, or
if it takes more memory than the bound.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors.numpy import load_file, save_file

from rlmrec.errors import RlmrecError
from rlmrec.files import sha256

BATCH = 400  # most cases in one child process
SECONDS = 10  # longest case
HANG_SECONDS = 60  # after which a process that does not return from compiled code is killed
MEMORY = 4 << 30  # bytes of address space beyond what the process has at its start
NUMBERS = (-1, 0, 1, 2, 7, 10**6, 2_000_000_000, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1.5, 2_000_000_000, 10**30, float("nan"), 1e308, "", "x", "\ud800", "../../etc/passwd",
    "/dev/zero", [], {}, [[]], {"a": {}}, ["x"] * 3, "9" * 5000, "evil.py:Evil", "http://127.0.0.1:9/v1",
)  # fmt: skip


# -- mutations -----------------------------------------------------------------------------------------


def change_bytes(path: Path, rng: random.Random) -> None:
    """Flip, cut, repeat or insert bytes."""
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(content) + 1)
        kind = rng.randrange(5)
        if kind == 0 and content:
            content[min(place, len(content) - 1)] = rng.randrange(256)
        elif kind == 1:
            del content[place:]
        elif kind == 2:
            content[place:place] = content[place : place + rng.randrange(1, 200)]
        elif kind == 3:
            content[place:place] = rng.randbytes(rng.randrange(1, 20))
        else:
            content[place:place] = rng.choice(
                (b'"', b"\n", b"\0", b",", b"[" * 5000, b'{"a":' * 5000, b"\xff", b"'")
            )
    path.write_bytes(content)


def change_json(value: Any, rng: random.Random) -> Any:
    """Replace, drop or add one value anywhere."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {name: other for name, other in value.items() if name != key}
        return {**value, key: change_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        place = rng.randrange(len(value))
        return [*value[:place], change_json(value[place], rng), *value[place + 1 :]]
    return rng.choice(VALUES)


def change_json_file(path: Path, rng: random.Random) -> None:
    """Change one value of a JSON file."""
    path.write_text(json.dumps(change_json(json.loads(path.read_text()), rng)))


def change_arrays(arrays: dict[str, np.ndarray], rng: random.Random) -> dict[str, np.ndarray]:
    """Change a number, the type or the shape of an array, or drop or swap one."""
    name = rng.choice(list(arrays))
    array = arrays[name].copy()
    kind = rng.randrange(7)
    if kind <= 1 and array.size:
        new = (
            rng.choice(NUMBERS)
            if array.dtype.kind in "iu"
            else rng.choice((np.nan, np.inf, 1e38, -1e38, 0.0))
        )
        with np.errstate(all="ignore"):
            array.flat[rng.randrange(array.size)] = np.array(new).astype(array.dtype)
    elif kind == 2:
        array = array.astype(rng.choice(("<f8", "<i4", "<i8", "u1", "<f4", "<f2")))
    elif kind == 3:
        array = array[: rng.randrange(len(array) + 1)] if array.ndim else array
    elif kind == 4:
        array = array.reshape(-1) if array.ndim > 1 else array[:, None]
    elif kind == 5:
        return {other: value for other, value in arrays.items() if other != name}
    else:
        other = rng.choice(list(arrays))
        return {**arrays, name: arrays[other].copy(), other: array}
    return {**arrays, name: np.ascontiguousarray(array)}


def change_table(path: Path, rng: random.Random) -> None:
    """Change one column of a Parquet file."""
    table = pl.read_parquet(path)
    name = rng.choice(table.columns)
    kind = rng.randrange(4)
    if kind == 0:
        table = table.drop(name)
    elif kind == 1:
        table = table.rename({name: rng.choice(("x", "users", "items", "id", ""))}, strict=False)
    elif kind == 2:
        values = table[name].to_list()
        values[rng.randrange(len(values))] = rng.choice((None, *NUMBERS))
        table = table.with_columns(pl.Series(name, values, strict=False))
    else:
        table = table.head(rng.randrange(len(table) + 1))
    table.write_parquet(path)


def change_database(path: Path, rng: random.Random) -> None:
    """Change a value of a table, or bytes of the file."""
    if rng.random() < 0.4:
        change_bytes(path, rng)
        return
    db = sqlite3.connect(path)
    db.execute("PRAGMA ignore_check_constraints = 1")
    tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    table = rng.choice([name for name in tables if not name.startswith("sqlite_")])
    column = rng.choice([row[1] for row in db.execute(f"PRAGMA table_info({table})")])
    value = rng.choice(
        (None, -1, 0, 2**62, 1.5, "x", "[", "[" * 5000, "{}", '["x", 1]', b"\0\1\2", "7", "\x1b[2J")
    )
    try:
        if rng.random() < 0.1:
            db.execute(f"DROP TABLE {table}")
        else:
            db.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
        db.commit()
    except sqlite3.Error:
        pass
    db.close()


# -- stored files: a folder, what changes it, what reads it -----------------------------------------------


def change_recommender(folder: Path, rng: random.Random) -> None:
    """Change arrays, ids or the description of a recommender; the checksums are computed again."""
    from rlmrec.recommend.storage import ARRAYS, IDS, MANIFEST, checksum

    description = json.loads((folder / MANIFEST).read_text())
    kind = rng.randrange(4)
    if kind <= 1:
        save_file(change_arrays(load_file(folder / ARRAYS), rng), folder / ARRAYS)
    elif kind == 2:
        change_json_file(folder / IDS, rng)
    elif rng.random() < 0.5:
        description = change_json(description, rng)
    else:
        change_bytes(folder / rng.choice((ARRAYS, IDS)), rng)
    if isinstance(description, dict):
        if isinstance(description.get("sha256"), dict):
            description["sha256"] |= {name: sha256(folder / name) for name in (ARRAYS, IDS)}
        description.pop("checksum", None)
        description["checksum"] = checksum(description)
    (folder / MANIFEST).write_text(json.dumps(description))


def read_recommender(folder: Path) -> None:
    from rlmrec.recommend.recommender import Recommender

    recommender = Recommender.load(folder, mmap=True)
    users = recommender.user_ids.ids[:3]
    recommender.recommend(users, 5)
    recommender.recommend_from_items(recommender.item_ids.ids[:2], 5)
    recommender.similar_items(recommender.item_ids.ids[:2], 5)
    recommender.contributions(0, 1)
    repr(recommender)


def change_cold(folder: Path, rng: random.Random) -> None:
    from rlmrec.recommend import cold_start

    path = folder / cold_start.FILE
    if rng.random() < 0.2:
        change_bytes(path, rng)
        return
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()["manifest"])
    arrays = load_file(path)
    if rng.random() < 0.5:
        arrays = change_arrays(arrays, rng)
    else:
        header = change_json(header, rng)
    if isinstance(header, dict):
        header.pop("checksum", None)
        header["checksum"] = cold_start._checksum(arrays, header)
    save_file(arrays, path, {"manifest": json.dumps(header)})


def read_cold(folder: Path) -> None:
    from rlmrec.recommend.cold_start import ColdStart
    from rlmrec.recommend.recommender import Recommender

    cold = ColdStart.load(folder, Recommender.load(folder))
    cold.items(np.ones((1, cold.size), np.float32))


def change_index(folder: Path, rng: random.Random) -> None:
    import faiss

    if rng.random() < 0.5:
        index = faiss.read_index(str(folder / "index.faiss"))
        cell = next(n for n in range(index.nlist) if index.invlists.list_size(n))
        ids = faiss.rev_swig_ptr(index.invlists.get_ids(cell), index.invlists.list_size(cell))
        ids[rng.randrange(len(ids))] = rng.choice(NUMBERS)
        faiss.write_index(index, str(folder / "index.faiss"))
    elif rng.random() < 0.5:
        change_bytes(folder / "index.faiss", rng)
    manifest = json.loads((folder / "index.json").read_text())
    if rng.random() < 0.4:
        manifest = change_json(manifest, rng)
    if isinstance(manifest, dict):
        manifest["sha256"] = sha256(folder / "index.faiss")
    (folder / "index.json").write_text(json.dumps(manifest))


def read_index(folder: Path) -> None:
    from rlmrec.recommend.index import Index

    items = np.load(folder / "items.npy")
    index = Index.load(folder, items, mmap=True)
    index.search(items[:3], 20)


def change_dataset(folder: Path, rng: random.Random) -> None:
    name = rng.choice(("train", "valid", "test", "users", "items"))
    kind = rng.randrange(3)
    if kind == 0:
        change_table(folder / f"{name}.parquet", rng)
    elif kind == 1:
        change_bytes(folder / f"{name}.parquet", rng)
    manifest = json.loads((folder / "dataset.json").read_text())
    if kind == 2:
        manifest = change_json(manifest, rng)
    if isinstance(manifest, dict) and isinstance(manifest.get("sha256"), dict):
        manifest["sha256"][name] = sha256(folder / f"{name}.parquet")
    (folder / "dataset.json").write_text(json.dumps(manifest))


def read_dataset(folder: Path) -> None:
    from rlmrec.data.dataset import Dataset

    dataset = Dataset.load(folder)
    dataset.train.csr()
    repr(dataset)


def change_vectors(folder: Path, rng: random.Random) -> None:
    path = folder / "t.safetensors"
    if rng.random() < 0.3:
        change_bytes(path, rng)
    elif rng.random() < 0.5:
        save_file(change_arrays(load_file(path), rng), path, {"manifest": "{}"})
    else:
        save_file(
            load_file(path),
            path,
            {"manifest": json.dumps(change_json({"encoder": "x", "dataset": "y"}, rng))},
        )


def read_vectors(folder: Path) -> None:
    from rlmrec.text.embeddings import TextEmbeddings

    repr(TextEmbeddings.load(folder / "t.safetensors"))


def change_checkpoint(folder: Path, rng: random.Random) -> None:
    state = json.loads((folder / "checkpoint.json").read_text())
    path = next(folder.glob("checkpoint-*.safetensors"))
    if rng.random() < 0.6:
        save_file(change_arrays(load_file(path), rng), path)
    elif rng.random() < 0.2:
        change_bytes(path, rng)
    else:
        kept = {name: state[name] for name in ("identity", "tensors", "sha256")}
        state = change_json({name: value for name, value in state.items() if name not in kept}, rng)
        state = {**state, **kept} if isinstance(state, dict) else state
    if isinstance(state, dict):
        state["sha256"] = sha256(path)
    (folder / "checkpoint.json").write_text(json.dumps(state))


def read_checkpoint(folder: Path) -> None:
    _train(folder, 3)


def _train(folder: Path, epochs: int) -> None:
    from rlmrec.backbones import LightGCN
    from rlmrec.testing import blocks
    from rlmrec.training.trainer import TrainConfig, train

    dataset, _ = blocks(users=5, items=5)
    backbone = LightGCN(dataset.n_users, dataset.n_items)
    train(
        backbone, None, dataset, TrainConfig(epochs=epochs, evaluate_every=1), folder=folder, progress=False
    )


def change_store(folder: Path, rng: random.Random) -> None:
    change_database(folder / "profiles.sqlite", rng)


def read_store(folder: Path) -> None:
    from rlmrec.llm.replay import Replay
    from rlmrec.llm.store import Store

    with Store(folder / "profiles.sqlite") as store:
        for kind in ("item", "user"):
            list(store.profiles(kind))
        store.answer("r0")
        store.usage()
        store.models()
        store.export(folder / "out.jsonl.gz")
    replay = Replay(folder / "profiles.sqlite")
    assert replay._store is not None
    replay._store.close()


def change_replay(folder: Path, rng: random.Random) -> None:
    import gzip

    path = folder / "answers.jsonl.gz"
    if rng.random() < 0.3:
        change_bytes(path, rng)
        return
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    place = rng.randrange(len(lines))
    lines[place] = change_json(lines[place], rng)
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))


def read_replay(folder: Path) -> None:
    import asyncio

    from rlmrec.llm.replay import Replay

    asyncio.run(Replay(folder / "answers.jsonl.gz").complete("s", "p0"))


def change_cache(folder: Path, rng: random.Random) -> None:
    change_database(folder / "cache.sqlite", rng)


def read_cache(folder: Path) -> None:
    from rlmrec.text.cache import VectorCache, key

    with VectorCache(folder / "cache.sqlite") as cache:
        list(cache.read([key("e", f"t{n}") for n in range(5)]))


def change_added(folder: Path, rng: random.Random) -> None:
    change_database(folder / "cold_items.sqlite", rng)


def read_added(folder: Path) -> None:
    from rlmrec.server.added_items import AddedItems

    items = AddedItems(folder / "cold_items.sqlite")
    items.counters()
    items.all()


def change_values(folder: Path, rng: random.Random) -> None:
    (change_table if rng.random() < 0.5 else change_bytes)(folder / "test.parquet", rng)


def read_values(folder: Path) -> None:
    from rlmrec.evaluation.ranking import read_table

    read_table(folder / "test.parquet")


def _reader(
    name: str, arguments: Callable[[Path], tuple[tuple[Any, ...], dict[str, Any]]]
) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from rlmrec.data.dataset import Dataset
        from rlmrec.data.readers import READERS

        given, options = arguments(folder)
        Dataset.from_source(READERS[name].read(*given, **options))

    return read


def change_any(folder: Path, rng: random.Random) -> None:
    """Change the bytes of one of the files."""
    change_bytes(rng.choice(sorted(path for path in folder.rglob("*") if path.is_file())), rng)


Target = tuple[Callable[[Path], None], Callable[[Path, random.Random], None], Callable[[Path], None]]


def make_run(folder: Path) -> None:
    from rlmrec.recommend.cold_start import ColdStart
    from rlmrec.recommend.recommender import Recommender
    from rlmrec.testing import blocks

    dataset, texts = blocks(users=6, items=8)
    texts.manifest["encoder"] = "x"
    rng = np.random.default_rng(0)
    users, items = (rng.normal(size=(n, 4)).astype(np.float32) for n in (dataset.n_users, dataset.n_items))
    recommender = Recommender.of(dataset, users, items, item_messages=items)
    recommender.save(folder)
    ColdStart.fit(recommender, texts, dataset).save(folder)


def make_closed(folder: Path) -> None:
    from rlmrec.closed_form.graph_filter import GraphFilter
    from rlmrec.recommend.recommender import Recommender
    from rlmrec.testing import blocks

    dataset, texts = blocks(users=6, items=8)
    texts.manifest["encoder"] = "x"
    model = GraphFilter.fit(dataset, texts)
    described = {"texts": {"encoder": "x", "text_size": texts.size}}
    Recommender.of_model(dataset, model, described, texts.users).save(folder)


def make_index(folder: Path) -> None:
    from rlmrec.recommend.index import build_index

    rng = np.random.default_rng(0)
    items = rng.normal(size=(1200, 8)).astype(np.float32)
    np.save(folder / "items.npy", items)
    build_index(items, items[:50]).save(folder)


def make_dataset(folder: Path) -> None:
    from rlmrec.testing import blocks

    blocks(users=5, items=5)[0].save(folder)


def make_vectors(folder: Path) -> None:
    from rlmrec.testing import blocks

    blocks(users=5, items=5)[1].save(folder / "t.safetensors")


def make_checkpoint(folder: Path) -> None:
    from rlmrec.training import checkpoint

    kept, checkpoint.remove = checkpoint.remove, lambda folder: None
    try:
        _train(folder, 2)
    finally:
        checkpoint.remove = kept
    state = json.loads((folder / "checkpoint.json").read_text())
    state["identity"]["config"]["epochs"] = 3
    (folder / "checkpoint.json").write_text(json.dumps(state))


def make_store(folder: Path) -> None:
    from rlmrec.llm.base import Completion, Usage
    from rlmrec.llm.store import Profile, Store, request_hash

    with Store(folder / "profiles.sqlite") as store:
        for n in range(5):
            request = request_hash("m", {}, "s", f"p{n}")
            store.put_answer(request, "m", {}, Completion('{"summarization": "x"}', Usage(3, 4)))
            store.put_profile(Profile("item", n, "Fans of it.", None, request, (1, 2), requests=(request,)))
        store.export(folder / "answers.jsonl.gz")


def make_cache(folder: Path) -> None:
    from rlmrec.text.cache import VectorCache, key

    with VectorCache(folder / "cache.sqlite") as cache:
        cache.write([key("e", f"t{n}") for n in range(5)], np.ones((5, 3), np.float32), [False] * 5)


def make_added(folder: Path) -> None:
    from rlmrec.server.added_items import AddedItem, AddedItems

    for n in range(4):
        item = AddedItem(f"i{n}", "T", "text", "e", np.ones(3, np.float32))
        AddedItems(folder / "cold_items.sqlite").add(item)


def make_values(folder: Path) -> None:
    pl.DataFrame({"user": ["a", "b"], "n_relevant": [1, 2], "recall@20": [0.5, 1.0]}).write_parquet(
        folder / "test.parquet"
    )


def rows(n: int = 60) -> list[tuple[str, str, int]]:
    rng = random.Random(0)
    return [(f"u{rng.randrange(8)}", f"i{rng.randrange(9)}", rng.randrange(1, 6)) for _ in range(n)]


def make_csv(folder: Path) -> None:
    import gzip

    text = "user_id,item_id,rating\n" + "".join(f"{user},{item},{rating}\n" for user, item, rating in rows())
    (folder / "r.csv").write_text(text)
    (folder / "r.csv.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "items.csv").write_text(
        "item_id,title\n" + "".join(f'i{n},"Title, ""{n}"""\n' for n in range(9))
    )


def make_lines(folder: Path) -> None:
    records = [{"user_id": user, "item_id": item, "rating": rating} for user, item, rating in rows()]
    (folder / "r.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def make_table(folder: Path) -> None:
    users, items, ratings = zip(*rows(), strict=True)
    pl.DataFrame({"user_id": users, "item_id": items, "rating": ratings}).write_parquet(folder / "r.parquet")


def make_raw(folder: Path) -> None:
    reviews = [
        {
            "reviewerID": u,
            "asin": i,
            "overall": float(r),
            "unixReviewTime": 10 + n,
            "reviewText": 'It\'s "ok"',
        }
        for n, (u, i, r) in enumerate(rows())
    ]
    (folder / "reviews.json").write_text("".join(f"{record}\n" for record in reviews))
    meta = [{"asin": f"i{n}", "title": f"T{n}", "categories": [["A", "B"]]} for n in range(9)]
    (folder / "meta.json").write_text("".join(json.dumps(record) + "\n" for record in meta))


def make_recbole(folder: Path) -> None:
    inner = folder / "toy"
    inner.mkdir()
    text = "user_id:token\titem_id:token\trating:float\n" + "".join(f"{u}\t{i}\t{r}\n" for u, i, r in rows())
    (inner / "toy.inter").write_text(text)
    (inner / "toy.item").write_text(
        "item_id:token\ttitle:token_seq\n" + "".join(f"i{n}\tT {n}\n" for n in range(9))
    )


def make_published(folder: Path) -> None:
    import pickle

    import scipy.sparse as sp

    dense = np.random.default_rng(0).integers(0, 4, (8, 9))
    for number, name in enumerate(("trn", "val", "tst")):
        diagonal = np.eye(8, 9) > 0  # in training, so that every user has an item there
        matrix = sp.coo_matrix(diagonal | (dense == 1) if number == 0 else ~diagonal & (dense == number + 1))
        (folder / f"{name}_mat.pkl").write_bytes(pickle.dumps(matrix))
    for kind, n in (("usr", 8), ("itm", 9)):
        vectors = np.ones((n, 3), np.float32)
        (folder / f"{kind}_emb_np.pkl").write_bytes(pickle.dumps(vectors))
        profiles = {row: {"profile": f"Fans of {row}"} for row in range(n)}
        (folder / f"{kind}_prf.pkl").write_bytes(pickle.dumps(profiles))


TARGETS: dict[str, Target] = {
    "recommender": (make_run, change_recommender, read_recommender),
    "closed form": (make_closed, change_recommender, read_recommender),
    "cold start": (make_run, change_cold, read_cold),
    "index": (make_index, change_index, read_index),
    "dataset": (make_dataset, change_dataset, read_dataset),
    "text vectors": (make_vectors, change_vectors, read_vectors),
    "checkpoint": (make_checkpoint, change_checkpoint, read_checkpoint),
    "profiles": (make_store, change_store, read_store),
    "replay": (make_store, change_replay, read_replay),
    "vector cache": (make_cache, change_cache, read_cache),
    "added items": (make_added, change_added, read_added),
    "values per user": (make_values, change_values, read_values),
    "csv": (
        make_csv, change_any,
        _reader("table", lambda f: ((f / "r.csv",), {"items": f / "items.csv", "rating_column": "rating"})),
    ),
    "csv.gz": (make_csv, change_any, _reader("table", lambda f: ((f / "r.csv.gz",), {}))),
    "json lines": (make_lines, change_any, _reader("table", lambda f: ((f / "r.jsonl",), {}))),
    "parquet": (make_table, change_any, _reader("table", lambda f: ((f / "r.parquet",), {}))),
    "amazon": (
        make_raw, change_any,
        _reader("amazon", lambda f: ((), {"reviews": f / "reviews.json", "meta": f / "meta.json"})),
    ),
    "recbole": (make_recbole, change_any, _reader("recbole", lambda f: ((f / "toy",), {}))),
    "published": (make_published, change_any, _reader("published", lambda f: ((f,), {}))),
}  # fmt: skip


# -- running -------------------------------------------------------------------------------------------


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")


def _case(name: str, seed: int, number: int, whole: Path, folder: Path) -> str | None:
    """Run one case; return what was wrong."""
    _, change, read = TARGETS[name]
    shutil.copytree(whole, folder)
    try:
        rng = random.Random(_seed(name, seed, number))
        try:
            change(folder, rng)
        except Exception:  # a change that this file does not allow
            shutil.rmtree(folder)
            shutil.copytree(whole, folder)
            change_any(folder, rng)
        started = time.monotonic()
        signal.alarm(SECONDS)
        try:
            read(folder)
        except RlmrecError as error:
            return None if str(error).strip() else "an error without a message"
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            return traceback.format_exc(limit=-4)
        finally:
            signal.alarm(0)
        return f"took {time.monotonic() - started:.1f} s" if time.monotonic() - started > SECONDS else None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _hang(*_: object) -> None:
    raise TimeoutError(f"longer than {SECONDS} s")


def _child(name: str, seed: int, numbers: range, whole: Path, report: Path) -> None:
    faulthandler.enable(open(os.devnull, "w"))  # noqa: SIM115
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    os.dup2(sys.stderr.fileno(), 2)
    with tempfile.TemporaryDirectory() as place:  # imports take time, too
        TARGETS[name][2](Path(shutil.copytree(whole, Path(place) / "w")))
    signal.signal(signal.SIGALRM, _hang)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    with report.open("a") as out, tempfile.TemporaryDirectory() as place:
        for number in numbers:
            out.write(json.dumps([number, "died"]) + "\n")
            out.flush()
            wrong = _case(name, seed, number, whole, Path(place) / "w")
            out.write(json.dumps([number, wrong]) + "\n")
            out.flush()


def fuzz(name: str, count: int, seed: int = 0) -> dict[int, str]:
    """Run cases of one target; return what was wrong by case."""
    with tempfile.TemporaryDirectory() as place:
        whole, report = Path(place) / "whole", Path(place) / "report"
        whole.mkdir()
        TARGETS[name][0](whole)
        TARGETS[name][2](Path(shutil.copytree(whole, Path(place) / "unchanged")))  # so that it is read at all
        report.touch()
        start = 0
        while start < count:
            start = _batch(name, seed, start, min(start + BATCH, count), whole, report)
        outcomes = dict(json.loads(line) for line in report.read_text().splitlines())
    return {number: wrong for number, wrong in outcomes.items() if wrong is not None}


def _batch(name: str, seed: int, start: int, stop: int, whole: Path, report: Path) -> int:
    """Run cases in a new process until one ends it; return the number of the next case.

    A fork would not do: the threads of Polars are not in the child, which waits for them.
    """
    arguments = [name, str(seed), str(start), str(stop), str(whole), str(report)]
    child = subprocess.Popen([sys.executable, __file__, "--child", *arguments])
    size, since = -1, time.monotonic()
    while child.poll() is None:
        time.sleep(0.05)
        if report.stat().st_size != size:
            size, since = report.stat().st_size, time.monotonic()
        elif time.monotonic() - since > HANG_SECONDS:
            child.kill()
            child.wait()
    lines = report.read_text().splitlines()
    return stop if not lines else max(json.loads(lines[-1])[0], start) + 1


def main() -> int:
    """Run all targets and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="cases in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one target")
    parser.add_argument("--child", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, seed, start, stop, whole, report = options.child
        _child(name, int(seed), range(int(start), int(stop)), Path(whole), Path(report))
        return 0
    names = [options.only] if options.only else list(TARGETS)
    each = -(-options.count // len(names))
    total = Counter[str]()
    for name in names:
        started = time.monotonic()
        wrong = fuzz(name, each, options.seed)
        total["cases"] += each
        total["wrong"] += len(wrong)
        print(f"{name}: {each} cases, {len(wrong)} wrong, {time.monotonic() - started:.0f} s", flush=True)
        kinds = Counter(text.strip().splitlines()[-1][:150] for text in wrong.values())
        for kind, n in kinds.most_common(8):
            number = next(case for case, text in wrong.items() if text.strip().splitlines()[-1][:150] == kind)
            print(f"  {n} x {kind} (case {number})")
            if os.environ.get("FUZZ_TRACE"):
                print("    " + "\n    ".join(wrong[number].strip().splitlines()))
    print(f"{total['cases']} cases, {total['wrong']} wrong")
    return int(total["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
