"""The two stores of added items keep the same promises; and what is particular to each."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from rlmrec.data.databases import connect_postgres
from rlmrec.errors import ConfigError, DataError, UnavailableError, UnknownIdError, WorkspaceError
from rlmrec.server.added_items import AddedItem, AddedItems, Counters
from rlmrec.server.postgres_items import PostgresItems

END_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND datname = current_database()"""


def item(raw, text="text"):
    return AddedItem(raw, f"title {raw}", text, "words", np.arange(3, dtype=np.float32))


@pytest.fixture(params=["sqlite", "postgres"])
def opened(request, tmp_path):
    """Opens the store again, as another process would."""
    if request.param == "sqlite":
        return lambda: AddedItems(tmp_path / "w" / "cold_items.sqlite")
    connection = request.getfixturevalue("postgres_database")
    return lambda: PostgresItems(connection)


def test_what_was_added_is_there_in_its_order(opened):
    assert opened().all() == []
    assert opened().counters() == Counters(0, 0)
    for raw in ("b", "a", 7, "7", "\x00 '\"漢"):
        opened().add(item(raw, f"text {raw}\x00"))
    opened().remove("a")
    kept = opened().all()
    assert [one.id for one in kept] == ["b", 7, "7", "\x00 '\"漢"]
    assert [one.text for one in kept] == [f"text {one.id}\x00" for one in kept]
    assert [one.title for one in kept] == [f"title {one.id}" for one in kept]
    assert kept[0].vector.tolist() == [0, 1, 2]
    opened().request_reload()
    assert opened().counters() == Counters(6, 1)


def test_mistakes_change_nothing(opened):
    items = opened()
    items.add(item("a"))
    with pytest.raises(DataError, match="added before"):
        items.add(item("a", "another text"))
    with pytest.raises(UnknownIdError, match="'b'"):
        items.remove("b")
    assert items.counters() == Counters(1, 0)
    assert items.all()[0].text == "text"
    items.remove("a")
    items.add(item("a", "another text"))
    assert items.all()[0].text == "another text"


def test_it_is_bounded(opened, monkeypatch):
    monkeypatch.setattr("rlmrec.server.added_items.MAX_ITEMS", 1)
    items = opened()
    items.add(item("a"))
    with pytest.raises(DataError, match="already"):
        items.add(item("b"))


def test_many_writers_at_once_lose_nothing(opened):
    stores = [opened() for _ in range(4)]  # some of them make the file or the tables

    def add(number):
        try:
            stores[number % 4].add(item(number // 2))
        except DataError:
            return 1
        return 0

    with ThreadPoolExecutor(8) as pool:
        refused = list(pool.map(add, range(40)))
    assert sum(refused) == 20, "each id was sent twice, and added once"
    assert sorted(one.id for one in opened().all()) == list(range(20))
    assert opened().counters() == Counters(20, 0)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda raw: stores[raw % 4].remove(raw), range(20)))
    assert opened().all() == []


def test_reading_makes_no_file(tmp_path):
    path = tmp_path / "w" / "cold_items.sqlite"
    assert AddedItems(path).all() == []
    assert AddedItems(path).counters() == Counters(0, 0)
    assert not path.exists()


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


def execute(connection, statement):
    with closing(connect_postgres(connection)) as database, database.cursor() as cursor:
        cursor.execute(statement)
        database.commit()


def test_other_tables_of_postgres_are_refused(postgres_database):
    items = PostgresItems(postgres_database)
    items.add(item("a"))
    execute(postgres_database, "UPDATE rlmrec_added_items SET title = 'no JSON'")
    with pytest.raises(WorkspaceError, match=r"are damaged .*: delete those rows of rlmrec_added_items"):
        items.all()
    execute(postgres_database, "UPDATE rlmrec_counters SET format = 99")
    with pytest.raises(WorkspaceError, match="newer rlmrec"):
        PostgresItems(postgres_database).counters()
    execute(postgres_database, "ALTER TABLE rlmrec_counters DROP COLUMN changes")
    with pytest.raises(WorkspaceError, match=r"cannot be used as a store of items: .*changes"):
        items.counters()
    with pytest.raises(ConfigError, match="mysql://shop@h/d: expected postgresql://"):
        PostgresItems("mysql://shop:geheim@h/d")


def test_a_lost_connection_is_said_and_made_again(postgres_database):
    items = PostgresItems(postgres_database)
    items.add(item("a"))
    execute(postgres_database, END_OTHERS)
    with pytest.raises(UnavailableError, match=r"the added items are not available: postgresql://shop@127"):
        items.all()
    assert [one.id for one in items.all()] == ["a"]
    items.add(item("b"))
    assert items.counters() == Counters(2, 0)


def test_a_mistake_is_said_although_the_connection_breaks_after_it(postgres_database, monkeypatch):
    items = PostgresItems(postgres_database)
    items.add(item("a"))
    broken = items._database

    def added_before(one):
        execute(postgres_database, END_OTHERS)
        return DataError(f"{one.id} was added before")

    monkeypatch.setattr("rlmrec.server.postgres_items.added_before", added_before)
    with pytest.raises(DataError, match="a was added before"):
        items.add(item("a"))
    assert items._database is not broken
    assert items.counters() == Counters(1, 0)


def test_a_server_that_is_not_there_is_named_without_the_password():
    items = PostgresItems("postgresql://shop:geheim@127.0.0.1:1/shop")
    with pytest.raises(
        UnavailableError, match=r"postgresql://shop@127.0.0.1:1/shop cannot be reached"
    ) as caught:
        items.counters()
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)
