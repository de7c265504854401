import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rlmrec.errors import DataError, UnknownIdError, WorkspaceError
from rlmrec.server.added_items import AddedItem, AddedItems, Counters


def item(raw, text="text"):
    return AddedItem(raw, f"title {raw}", text, "words", np.arange(3, dtype=np.float32))


def test_what_was_added_is_there_in_its_order(tmp_path):
    path = tmp_path / "w" / "cold_items.sqlite"
    assert AddedItems(path).all() == []
    assert AddedItems(path).counters() == Counters(0, 0)
    assert not path.exists(), "reading makes no file"
    for raw in ("b", "a", 7, "7"):
        AddedItems(path).add(item(raw))
    AddedItems(path).remove("a")
    kept = AddedItems(path).all()
    assert [one.id for one in kept] == ["b", 7, "7"]
    assert kept[0].vector.tolist() == [0, 1, 2]
    AddedItems(path).request_reload()
    assert AddedItems(path).counters() == Counters(5, 1)


def test_mistakes_change_nothing(tmp_path):
    items = AddedItems(tmp_path / "cold_items.sqlite")
    items.add(item("a"))
    with pytest.raises(DataError, match="added before"):
        items.add(item("a", "another text"))
    with pytest.raises(UnknownIdError, match="'b'"):
        items.remove("b")
    assert items.counters() == Counters(1, 0)
    assert items.all()[0].text == "text"


def test_it_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("rlmrec.server.added_items.MAX_ITEMS", 1)
    items = AddedItems(tmp_path / "cold_items.sqlite")
    items.add(item("a"))
    with pytest.raises(DataError, match="already"):
        items.add(item("b"))


def test_many_writers_at_once_lose_nothing(tmp_path):
    path = tmp_path / "cold_items.sqlite"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda raw: AddedItems(path).add(item(raw)), range(40)))
    assert sorted(one.id for one in AddedItems(path).all()) == list(range(40))
    assert AddedItems(path).counters() == Counters(40, 0)


def test_another_file_or_version_is_refused(tmp_path):
    other = tmp_path / "text.sqlite"
    other.write_text("no database at all, only words and words")
    with pytest.raises(WorkspaceError, match="cannot be used"):
        AddedItems(other).all()
    newer = tmp_path / "newer.sqlite"
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(WorkspaceError, match="newer rlmrec"):
        AddedItems(newer).counters()
