import hashlib
import json
from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest

from rlmrec.data.dataset import SPLITS, Dataset
from rlmrec.data.interactions import Interactions
from rlmrec.data.source import Source
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError, DataError, WorkspaceError


def raw(seed=0, n=600, users=20, items=15):
    rng = np.random.default_rng(seed)
    return Interactions(
        rng.integers(users, size=n), rng.integers(items, size=n), users, items,
        rng.integers(1, 6, n).astype(float), rng.integers(0, 1000, n).astype(float),
        np.array([None if k % 3 else f"réview {k}" for k in range(n)], object),
    )  # fmt: skip


def build(item_texts=None, user_texts=None, **filters):
    if item_texts is None:
        item_texts = pl.DataFrame({"title": [f"title {n}" for n in range(15)], "id": [None] * 15})
    source = Source(
        "made", raw(), Vocabulary((f"u{n}" for n in range(20)), "user"),
        Vocabulary(range(100, 115), "item"), item_texts, user_texts, provenance={"source": "test"},
    )  # fmt: skip
    return Dataset.from_source(source, **{"k_core": 3, "min_rating": 2, "seed": 1, **filters})


def small(train=((0, 0), (1, 1)), valid=((0, 1),), test=(), **changes):
    def part(rows):
        users, items = np.array(rows, np.int64).reshape(-1, 2).T
        return Interactions(users, items, 2, 2)

    parts = {"train": part(train), "valid": part(valid), "test": part(test)}
    sides = {"users": Vocabulary(["a", "b"], "user"), "items": Vocabulary([1, 2], "item")}
    return Dataset("small", **{**parts, **sides, **changes})


def test_filters_in_order_and_the_trace():
    dataset = build()
    source = raw()
    ids = np.concatenate([dataset.split(split).id for split in SPLITS])
    assert len(set(ids)) == len(ids)
    for split in SPLITS:
        part = dataset.split(split)
        assert (part.rating >= 2).all()
        assert (source.rating[part.id] == part.rating).all()
        assert [dataset.users.id(u) for u in part.users] == [f"u{n}" for n in source.users[part.id]]
        assert [dataset.items.id(i) for i in part.items] == [100 + n for n in source.items[part.id]]
    titles = dataset.item_texts["title"].to_list()
    assert titles == [f"title {i - 100}" for i in dataset.items.ids]
    expected = source.merged().min_rating(2).k_core(3)
    assert sorted(ids) == expected.id.tolist()
    assert dataset.provenance["source"] == "test"
    assert dataset.provenance["options"]["k_core"] == 3
    assert dataset.provenance["interactions"] == {
        "read": 600,
        "distinct pairs": len(source.merged()),
        "rated high enough": len(source.merged().min_rating(2)),
        "in the 3-core": len(expected),
    }


def test_a_ready_made_split_is_kept_and_takes_no_filter():
    made = build()
    parts = (made.train, made.valid, made.test)
    source = Source("ready", parts, made.users, made.items)
    assert Dataset.from_source(source).fingerprint == made.fingerprint
    with pytest.raises(ConfigError, match="k_core, seed: not allowed with a ready-made split"):
        Dataset.from_source(source, k_core=2, seed=1)


def test_repeated_pairs_are_noted_with_a_count_and_an_example():
    made = build(k_core=1, min_rating=None)
    assert [*made.provenance["interactions"]] == [
        "read",
        "distinct pairs",
    ]  # no word of a 1-core, which is everybody
    repeated = np.unique(raw().keys(), return_counts=True)[1]
    [repeated_pairs] = [str(found) for found in made.findings if found.kind == "repeated pair"]
    assert repeated_pairs.startswith(
        f"{(repeated > 1).sum()} pairs of user and item occur more than once, for example"
    )
    assert "the latest interaction of each is kept" in repeated_pairs


def test_users_without_interactions_are_renumbered_away():
    dataset = build(k_core=1, sample_users=0.5)
    assert dataset.n_users == 10
    assert (dataset.train.user_degrees() > 0).all()


def test_the_seed_decides():
    assert build().fingerprint == build().fingerprint != build(seed=2).fingerprint


def test_content_of_texts_of_every_type():
    """A hash that changes makes every stored profile stale: compared with JSON of whole rows."""
    texts = pl.DataFrame(
        {
            "title": ['An "ä" \u2028 ', None], "year": [1, None], "price": [0.1, float("nan")],
            "tags": [["a", "b"], []], "more": [{"x": 1, "y": [None]}] * 2, "sold": [True, None],
            "day": [date(2026, 1, 2), None],
        }
    )  # fmt: skip
    made = replace(small(), item_texts=texts)
    digest = hashlib.sha256(made.fingerprint.encode())
    for split in SPLITS:
        part = made.split(split)
        digest.update(part.id[np.argsort(part.keys())].tobytes() + b"|")
    for row in [texts.columns, *texts.iter_rows()]:
        digest.update(json.dumps(row, default=str).encode() + b"\n")
    assert made.content == digest.hexdigest()[:16]


def test_content_is_what_prompts_are_made_of(tmp_path):
    made = build()
    made.save(tmp_path)
    assert made.content == build().content == Dataset.load(tmp_path).content
    manifest = json.loads((tmp_path / "dataset.json").read_text())
    assert manifest.pop("content") == made.content
    (tmp_path / "dataset.json").write_text(json.dumps(manifest))
    assert Dataset.load(tmp_path).content == made.content, "a folder without it, as earlier versions wrote"
    order = np.random.default_rng(0).permutation(len(made.train))
    assert replace(made, train=made.train.take(order)).content == made.content
    train = made.train
    told = np.where(train.review == None, "new", train.review)  # noqa: E711
    others = [
        build(seed=2),
        build(item_texts=pl.DataFrame({"title": [f"other {n}" for n in range(15)]})),
        replace(made, item_texts=made.item_texts.rename({"title": "name"})),
        replace(made, item_texts=None),
        replace(made, train=replace(train, review=told)),
        replace(made, train=replace(train, id=train.id + 1)),
    ]
    assert len({made.content, *(other.content for other in others)}) == 7
    held_out = replace(made, test=replace(made.test, review=None))
    assert held_out.content == made.content  # no prompt holds these


def test_save_and_load_give_the_same(tmp_path):
    dataset = build(user_texts=pl.DataFrame({"age": ["1"] * 20}))
    dataset.save(tmp_path / "dataset")
    loaded = Dataset.load(tmp_path / "dataset")
    assert (loaded.name, loaded.users, loaded.items) == (dataset.name, dataset.users, dataset.items)
    assert (loaded.provenance, loaded.fingerprint) == (dataset.provenance, dataset.fingerprint)
    for split in SPLITS:
        ours, theirs = dataset.split(split).columns(), loaded.split(split).columns()
        assert {name: column.tolist() for name, column in ours.items()} == {
            name: column.tolist() for name, column in theirs.items()
        }
    assert loaded.item_texts.equals(
        dataset.item_texts.with_columns(pl.col("id").cast(loaded.item_texts["id"].dtype))
    )
    assert loaded.user_texts.equals(dataset.user_texts)


def test_a_dataset_without_texts_has_none_when_loaded(tmp_path):
    small().save(tmp_path / "dataset")
    loaded = Dataset.load(tmp_path / "dataset")
    assert loaded.item_texts is None
    assert loaded.train.columns().keys() == {"users", "items", "id"}


def test_a_changed_file_is_refused(tmp_path):
    build().save(tmp_path / "dataset")
    path = tmp_path / "dataset" / "test.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(WorkspaceError, match=r"test\.parquet is missing or was changed"):
        Dataset.load(tmp_path / "dataset")
    path.unlink()
    with pytest.raises(WorkspaceError, match=r"test\.parquet is missing or was changed"):
        Dataset.load(tmp_path / "dataset")


def test_an_absent_or_other_folder_is_refused(tmp_path):
    with pytest.raises(WorkspaceError, match="no dataset at"):
        Dataset.load(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(WorkspaceError, match="has format 99"):
        Dataset.load(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(WorkspaceError, match=r"dataset\.json is damaged"):
        Dataset.load(tmp_path)


def test_a_save_killed_in_the_middle_leaves_the_old_dataset(tmp_path, monkeypatch):
    folder = tmp_path / "dataset"
    build().save(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("rlmrec.data.dataset.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        build(seed=2).save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_shapes_that_differ_are_refused():
    ok = small()
    wide = Interactions(np.array([0]), np.array([1]), 2, 3)
    with pytest.raises(DataError, match=r"valid is 2 x 3 \(users x items\), the vocabularies have 2 x 2"):
        Dataset("wide", ok.train, wide, ok.test, ok.users, ok.items)


def test_texts_of_another_length_are_refused():
    with pytest.raises(DataError, match="the item texts have 3 rows, the dataset has 2 items"):
        small(item_texts=pl.DataFrame({"title": ["a", "b", "c"]}))


def test_no_training_interaction_is_refused():
    with pytest.raises(DataError, match="training split has no interaction"):
        small(train=(), valid=())


def test_a_user_without_training_is_refused():
    with pytest.raises(DataError, match="1 user of valid has no training interaction, for example 'b'"):
        small(train=((0, 0),), valid=((1, 1),))


def test_a_pair_in_two_splits_is_refused():
    with pytest.raises(
        DataError, match="1 pair occurs in more than one split, for example user 'b' with item 2"
    ):
        small(test=((1, 1),))


def test_one_user_is_refused():
    one = Interactions(np.array([0, 0]), np.array([0, 1]), 1, 2)
    none = one.take(np.array([], np.int64))
    with pytest.raises(DataError, match="at least 2 users and 2 items are needed, got 1 and 2"):
        Dataset("one", one, none, none, Vocabulary(["a"]), Vocabulary([1, 2]))


def test_a_core_that_removes_everything_says_so():
    with pytest.raises(DataError, match=r"the 50-core is empty.*the largest k that leaves any is \d+"):
        build(k_core=50)


def test_an_unknown_split_is_refused():
    with pytest.raises(DataError, match="unknown split 'dev': expected one of train, valid, test"):
        small().split("dev")
