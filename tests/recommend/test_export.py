import sys
from contextlib import closing

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from rlmrec.data.databases import connect_postgres
from rlmrec.data.vocabulary import Vocabulary
from rlmrec.errors import ConfigError, DataError, UnavailableError
from rlmrec.recommend import export as module
from rlmrec.recommend.export import load_qdrant, point_id, write_lists, write_parquet
from rlmrec.recommend.lance import load_lancedb
from rlmrec.recommend.lists import Lists, Rules
from rlmrec.recommend.pgvector import load_pgvector
from rlmrec.recommend.recommender import Recommender


def make(text, n_users=30, n_items=12):
    rng = np.random.default_rng(0)
    users, items = (rng.standard_normal((n, 4), dtype=np.float32) for n in (n_users, n_items))
    seen = rng.random((n_users, n_items)) < 0.3
    seen[2, :-2] = True  # two candidates are left
    names = [
        Vocabulary([f"{kind}{row}" if text else 10 * row + 5 for row in range(n)], kind)
        for kind, n in (("user", n_users), ("item", n_items))
    ]
    return Recommender(users, items, *names, sp.csr_array(seen))


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("row_group", [7, 1000])
def test_recommendations_of_everybody(tmp_path, text, row_group):
    recommender = make(text)
    done = []
    written = write_lists(Lists(recommender), tmp_path / "all.parquet", 5, None, done.append, row_group)
    table = pl.read_parquet(tmp_path / "all.parquet")
    assert table["user"].to_list() == recommender.user_ids.ids
    ids, scores = recommender.recommend(recommender.user_ids.ids, k=5)
    for row, expected, values in zip(table.iter_rows(named=True), ids.tolist(), scores.tolist(), strict=True):
        kept = [raw for raw, value in zip(expected, values, strict=True) if np.isfinite(value)]
        assert row["items"] == kept
        assert row["scores"] == pytest.approx(values[: len(kept)])
    assert len(table["items"][2]) == 2
    assert done[-1] == 30
    assert done == sorted(done)
    assert [path.name for path in tmp_path.iterdir()] == ["all.parquet"]
    assert table.schema == {
        "user": recommender_type(text),
        "items": pl.List(recommender_type(text)),
        "scores": pl.List(pl.Float32),
        "source": pl.String,
    }
    assert written.listed == table["items"].list.len().sum()
    assert written.sources["history"] == (table["source"] == "history").sum()


def test_csv_and_json_lines_say_the_same(tmp_path):
    lists = Lists(make(True))
    for ending in ("parquet", "csv", "jsonl"):
        write_lists(lists, tmp_path / f"all.{ending}", 4)
    table = pl.read_parquet(tmp_path / "all.parquet")
    assert (
        pl.read_ndjson(tmp_path / "all.jsonl")
        .select("user", "items", "source")
        .equals(table.select("user", "items", "source"))
    )
    rows = pl.read_csv(tmp_path / "all.csv")
    assert rows.columns == ["user", "rank", "item", "score", "source"]
    assert (
        rows.group_by("user", maintain_order=True).agg("item")["item"].to_list() == table["items"].to_list()
    )
    assert rows["rank"].max() == 4


def recommender_type(text):
    return pl.String if text else pl.Int64


def test_recommendations_need_a_k(tmp_path):
    with pytest.raises(ConfigError, match="k must be at least 1"):
        write_lists(Lists(make(True)), tmp_path / "all.parquet", 0)
    with pytest.raises(ConfigError, match="ends in one of"):
        write_lists(Lists(make(True)), tmp_path / "all.xml", 3)
    with pytest.raises(ConfigError, match="rules has type str"):
        write_lists(Lists(make(True)), tmp_path / "all.csv", 3, "id = 'i1'")
    (tmp_path / "all.csv").write_text("yesterday's lists")
    with pytest.raises(ConfigError, match="no item fulfils the condition"):
        write_lists(Lists(make(True)), tmp_path / "all.csv", 3, Rules(where="id = 'none'"))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["yesterday's lists"]


@pytest.mark.parametrize("text", [True, False])
def test_parquet_of_the_embeddings(tmp_path, text):
    recommender = make(text)
    paths = write_parquet(recommender, tmp_path / "vectors")
    assert [path.name for path in paths] == ["users.parquet", "items.parquet"]
    users, items = map(pl.read_parquet, paths)
    assert users["id"].to_list() == recommender.user_ids.ids
    assert items["vector"].dtype == pl.Array(pl.Float32, 4)
    np.testing.assert_array_equal(items["vector"].to_numpy(), recommender.items)
    np.testing.assert_array_equal(users["vector"].to_numpy(), recommender.users)


@pytest.mark.parametrize("text", [True, False])
def test_qdrant_recommends_what_we_do(text):
    qdrant = pytest.importorskip("qdrant_client", reason="the qdrant extra is not installed")
    recommender = make(text)
    client = qdrant.QdrantClient(":memory:")
    done = []
    load_qdrant(recommender, client, "mine", done.append)
    assert done[-1] == 42
    load_qdrant(recommender, client, "mine")  # again: made anew, not added to
    assert client.count("mine-items").count == 12
    for user in recommender.user_ids.ids[:5]:
        [point] = client.retrieve("mine-users", [point_id(user)], with_vectors=True)
        assert point.payload["id"] == user
        conditions = qdrant.models.Filter(
            must_not=[
                qdrant.models.FieldCondition(
                    key="id", match=qdrant.models.MatchAny(any=point.payload["seen"])
                )
            ]
        )
        hits = client.query_points("mine-items", query=point.vector, query_filter=conditions, limit=4).points
        ids, scores = recommender.recommend(user, k=4)
        found = [hit.payload["id"] for hit in hits]
        assert found == [
            raw for raw, score in zip(ids.tolist(), scores.tolist(), strict=True) if np.isfinite(score)
        ]
        assert [hit.score for hit in hits] == pytest.approx(scores[: len(hits)].tolist(), abs=1e-5)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "http://"])
def test_a_server_that_does_not_answer_is_named(address):
    pytest.importorskip("qdrant_client", reason="the qdrant extra is not installed")
    with pytest.raises(ConfigError, match=f"no Qdrant server answers at {address} "):
        module.qdrant_client(address)


def recommended(recommender, user, k=4):
    """The ids and scores of a user's list; ``k`` of them, or fewer where there are no more."""
    ids, scores = recommender.recommend(user, k=k)
    kept = np.isfinite(scores)
    return ids[kept].tolist(), scores[kept].tolist()


@pytest.mark.parametrize("text", [True, False])
def test_pgvector_recommends_what_we_do(text, postgres_database):
    recommender = make(text)
    done = []
    load_pgvector(recommender, postgres_database, "mine", done.append)
    assert done[-1] == 42
    load_pgvector(recommender, postgres_database, "mine")  # again: made anew, not added to

    def ask(cursor, query):
        cursor.execute(query)
        return pl.DataFrame(cursor.fetch_arrow()).rows()

    with closing(connect_postgres(postgres_database)) as database, database.cursor() as cursor:
        assert ask(cursor, "SELECT count(*) FROM mine_items") == [(12,)]
        for user in recommender.user_ids.ids[:5]:
            found = ask(
                cursor,
                f"""
                SELECT items.id, -(items.vector <#> users.vector) AS score FROM mine_items items, mine_users users
                WHERE users.id = '{user}' AND items.id <> ALL (users.seen)
                ORDER BY items.vector <#> users.vector LIMIT 4
                """,
            )
            ids, scores = recommended(recommender, user)
            assert [raw for raw, _ in found] == ids
            assert [score for _, score in found] == pytest.approx(scores, abs=1e-5)
        cursor.execute("CREATE INDEX ON mine_items USING hnsw (vector vector_ip_ops)")  # what the docs show


def execute(connection, *statements):
    """The rows of the last statement, if it has any."""
    with closing(connect_postgres(connection)) as database, database.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        rows = pl.DataFrame(cursor.fetch_arrow()).rows() if cursor.description else []
        database.commit()
    return rows


def test_tables_keep_their_indexes_while_their_types_fit(postgres_database):
    def indexes():
        return execute(
            postgres_database,
            "SELECT indexname::text FROM pg_indexes WHERE tablename = 'rlmrec_items' ORDER BY 1",
        )

    load_pgvector(make(True), postgres_database)
    execute(postgres_database, "CREATE INDEX ON rlmrec_items USING hnsw (vector vector_ip_ops)")
    load_pgvector(make(True, n_items=20), postgres_database)
    assert indexes() == [("rlmrec_items_pkey",), ("rlmrec_items_vector_idx",)]
    assert execute(postgres_database, "SELECT count(*) FROM rlmrec_items") == [(20,)]
    load_pgvector(make(False), postgres_database)  # ids are numbers now
    assert indexes() == [("rlmrec_items_pkey",)]
    assert execute(postgres_database, "SELECT max(id) FROM rlmrec_items") == [(115,)]


def test_tables_of_others_stay(postgres_database):
    execute(
        postgres_database,
        "CREATE TABLE shop_items (id bigint, price bigint)",
        "INSERT INTO shop_items VALUES (1, 2)",
    )
    with pytest.raises(
        DataError,
        match=r"table shop_items was not made by rlmrec, .* id bigint, price .*choose another --prefix",
    ):
        load_pgvector(make(True), postgres_database, "shop")
    assert execute(postgres_database, "SELECT * FROM shop_items") == [(1, 2)]
    assert execute(postgres_database, "SELECT to_regclass('shop_users') IS NULL") == [(True,)]


def test_a_load_that_fails_changes_nothing(postgres_database):
    load_pgvector(make(True), postgres_database)
    execute(postgres_database, "CREATE VIEW mine AS SELECT id FROM rlmrec_items")
    with pytest.raises(DataError, match=r"takes no vectors: .*other objects depend on it"):
        load_pgvector(make(False), postgres_database)  # ids of another type: the table must be dropped
    assert execute(postgres_database, "SELECT count(*), min(id) FROM rlmrec_users") == [(30, "user0")]
    for prefix in ('a"; drop', "Shop"):
        with pytest.raises(ConfigError, match="expected lower-case letters, digits and underscores"):
            load_pgvector(make(True), postgres_database, prefix)
    with pytest.raises(UnavailableError, match="cannot be reached"):
        load_pgvector(make(True), "postgresql://shop@127.0.0.1:1/shop")


@pytest.mark.parametrize("text", [True, False])
def test_lancedb_recommends_what_we_do(text, tmp_path, monkeypatch):
    lancedb = pytest.importorskip("lancedb", reason="the lancedb extra is not installed")
    recommender = make(text)
    monkeypatch.setattr("rlmrec.recommend.lance.BLOCK", 7)
    done = []
    load_lancedb(recommender, str(tmp_path / "vectors"), "mine", done.append)
    assert done[-1] == 42
    load_lancedb(recommender, str(tmp_path / "vectors"), "mine")  # again: made anew, not added to
    database = lancedb.connect(str(tmp_path / "vectors"))
    users, items = database.open_table("mine-users"), database.open_table("mine-items")
    assert items.count_rows() == 12
    rows = {row["id"]: row for row in users.to_arrow().to_pylist()}
    for user in recommender.user_ids.ids[:5]:
        seen = ", ".join(repr(raw) for raw in rows[user]["seen"])
        found = (
            items.search(rows[user]["vector"])
            .distance_type("dot")
            .where(f"id NOT IN ({seen})")
            .limit(4)
            .to_list()
        )
        ids, scores = recommended(recommender, user)
        assert [row["id"] for row in found] == ids
        assert [1 - row["_distance"] for row in found] == pytest.approx(scores, abs=1e-5)


def test_a_place_that_takes_no_vectors_is_named(tmp_path):
    pytest.importorskip("lancedb", reason="the lancedb extra is not installed")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match="file takes no vectors"):
        load_lancedb(make(True), str(tmp_path / "file"))


def test_point_ids():
    assert point_id(7) == 7
    assert point_id(-7) != point_id("x")
    assert point_id("x") == point_id("x")
    assert len(str(point_id(-7))) == 36


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(ConfigError, match=r"rlmrec\[qdrant\]"):
        module.qdrant_client("http://localhost:1")
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(ConfigError, match=r"rlmrec\[lancedb\]"):
        load_lancedb(make(True), "vectors")
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
    with pytest.raises(ConfigError, match=r"rlmrec\[postgres\]"):
        load_pgvector(make(True), "postgresql://h/d")
