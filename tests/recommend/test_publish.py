"""Publishing: a server finds a whole release at any moment, whatever happens to dataset and runs."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest

from rlmrec.data.append import append
from rlmrec.data.dataset import Dataset, DatasetWithoutPairs
from rlmrec.data.frames import read_frame
from rlmrec.data.tables import Columns
from rlmrec.errors import WorkspaceError
from rlmrec.experiments.run import run
from rlmrec.experiments.spec import RunSpec
from rlmrec.recommend.open import open_recommender
from rlmrec.recommend.publish import publish, releases, rollback
from rlmrec.server.settings import Settings
from rlmrec.testing.shop import shop
from rlmrec.workspace import Workspace

COLUMNS = Columns("customer_id", "product_id", timestamp="ordered_at")


@pytest.fixture(scope="module")
def market():
    return shop(customers=60, products=48, orders=900)


@pytest.fixture
def place(market, tmp_path):
    place = Workspace(tmp_path / "w")
    with pytest.warns(UserWarning, match="occur more than once"):
        dataset = Dataset.from_frame(
            market.orders,
            user="customer_id",
            item="product_id",
            timestamp="ordered_at",
            items=market.products,
        )
    dataset.save(place.dataset_path)
    fit(place, "live")
    return place


def fit(place, name, backbone="graph-filter"):
    options = {"epochs": 2} if backbone == "lightgcn" else {}
    run(RunSpec.resolve(backbone, options=options), place.dataset(), None, place.run(name), overwrite=True)


def next_day(market, place):
    orders = read_frame(market.next_day, "orders", COLUMNS.present, COLUMNS[:2])
    products = read_frame(market.next_products, "products", ids=("product_id",))
    before = place.dataset()
    append(before, orders, COLUMNS, products).dataset.save(place.dataset_path)
    return before, place.dataset()


def served(place):
    return Settings(place.path, None).load()


@pytest.mark.parametrize("backbone", ["graph-filter", "lightgcn", "itemknn"])
def test_a_run_of_yesterday_serves_today(market, place, backbone):
    fit(place, "live", backbone)
    before, after = next_day(market, place)
    recommender = open_recommender(place, "live", after)
    assert len(recommender.users) == after.n_users > before.n_users
    assert len(recommender.items) == before.n_items < after.n_items
    ids, scores = recommender.recommend(after.users.ids, k=5)
    known = after.everything()
    for row, found in enumerate(ids.tolist()):
        bought = {after.items.id(item) for item in known.items[known.users == row].tolist()}
        assert not bought & set(found)
    new = after.users.ids[-1]
    assert np.isfinite(scores).all()
    history = [after.items.id(i) for i in known.items[known.users == after.n_users - 1].tolist()]
    folded = [raw for raw in history if raw in recommender.item_ids]
    if folded:  # a new customer is folded in as anybody else would be
        expected = recommender.recommend_from_items(folded, k=5)
        assert recommender.recommend(new, k=5)[0].tolist() == expected[0].tolist()
        np.testing.assert_allclose(recommender.recommend(new, k=5)[1], expected[1], rtol=1e-4, atol=1e-5)


def test_a_run_of_yesterday_recommends_nothing_that_is_rated_low(tmp_path):
    rng = np.random.default_rng(0)
    rated = [(u, i, rng.choice([1.0, 5.0])) for u in range(30) for i in range(12) if rng.random() < 0.7]
    table = pl.DataFrame(rated, schema=["user_id", "item_id", "stars"], orient="row")
    made = Dataset.from_frame(table, rating="stars", min_rating=3)
    place = Workspace(tmp_path)
    made.save(place.dataset_path)
    fit(place, "live")
    bought = made.users.id(made.train.users[0]), made.items.id(made.train.items[0])
    opinions = [(*bought, 1.0), (99, made.items.id(0), 5.0), (99, made.items.id(1), 1.0)]
    day = pl.DataFrame(opinions, schema=table.schema, orient="row")
    append(made, day).dataset.save(place.dataset_path)
    for dataset in (place.dataset(), DatasetWithoutPairs.load(place.dataset_path)):
        recommender = open_recommender(place, "live", dataset)
        known = place.dataset().known().toarray() > 0
        assert known.sum() == len(table) + 2
        lists, scores = recommender.recommend_rows(np.arange(dataset.n_users), k=12)
        assert not known[np.arange(len(lists))[:, None], lists][np.isfinite(scores)].any()
        assert recommender.seen[[-1]].nnz == 1, "a new user is not placed by what they do not like"


def test_a_release_outlives_dataset_and_run(market, place):
    first = publish(place, "live")
    lists = served(place).recommendations("c000001", 5)
    next_day(market, place)
    assert served(place).recommendations("c000001", 5) == lists
    fit(place, "live")  # writes over the run
    assert served(place).recommendations("c000001", 5) == lists
    second = publish(place, "live")
    now = served(place)
    assert now.release == second.name
    assert now.dataset.n_users > first.record["users"]
    assert rollback(place) == first
    assert served(place).recommendations("c000001", 5) == lists
    with pytest.raises(WorkspaceError, match="no release before"):
        rollback(place)


def test_only_some_releases_are_kept(place):
    for _ in range(5):
        publish(place, "live", keep=2)
    assert [release.name for release in releases(place)] == ["000005", "000004"]
    assert sorted(path.name for path in place.releases_path.iterdir()) == ["000004", "000005"]


def test_a_damaged_release_gives_way_to_the_one_before(place, caplog):
    first, second = publish(place, "live"), publish(place, "live")
    (second.folder / "runs" / "live" / "recommender" / "ids.json").unlink()
    assert served(place).release == first.name
    assert "release 000002 cannot be served" in caplog.text
    (first.folder / "dataset" / "dataset.json").unlink()
    with pytest.raises(WorkspaceError, match=r"ids\.json"):
        served(place)


@pytest.mark.parametrize(
    "content", ['{"releases": ["../../elsewhere"]}', '{"releases": 3}', "[]", "nothing", '{"releases": [7]}']
)
def test_a_file_of_releases_names_no_other_folder_and_is_replaced_when_damaged(place, content):
    publish(place, "live")
    place.published_path.write_text(content)
    with pytest.raises(WorkspaceError, match=r"published\.json.*is damaged"):
        releases(place)
    publish(place, "live")
    assert [release.name for release in releases(place)] == ["000002", "000001"]


def test_a_release_that_cannot_be_read_is_left_out_of_the_next_list(place):
    first, second = publish(place, "live"), publish(place, "live")
    (second.folder / "release.json").write_text("{}")
    with pytest.raises(WorkspaceError, match="is damaged"):
        releases(place)
    assert [publish(place, "live"), first] == releases(place)


def test_what_cannot_be_published(place):
    with pytest.raises(WorkspaceError, match="nothing is published"):
        served(place)
    with pytest.raises(WorkspaceError, match="no run 'other'"):
        publish(place, "other")
    dataset = place.dataset()
    pairs = pl.DataFrame({"user_id": ["a", "a", "b", "b"], "item_id": ["x", "y", "x", "z"]})
    with pytest.warns(UserWarning, match="split is empty"):
        Dataset.from_frame(pairs).save(place.dataset_path)
    with pytest.raises(WorkspaceError, match="was trained on another dataset"):
        publish(place, "live")
    dataset.save(place.dataset_path)
    publish(place, "live")


NIGHT = """
import sys
from pathlib import Path
from rlmrec.recommend.publish import publish
from rlmrec.workspace import Workspace
place = Workspace(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    place.dataset().save(place.dataset_path)
    publish(place, "live")
"""


@pytest.mark.skipif(os.name == "nt", reason="kill -9")
def test_a_kill_at_any_moment_leaves_something_to_serve(place):
    publish(place, "live")
    for moment in (0.02, 0.07, 0.15):
        process = subprocess.Popen([sys.executable, "-c", NIGHT, str(place.path)], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert served(place).recommendations("c000001", 3).items
        assert len(place.dataset().train)
    publish(place, "live")
    assert json.loads(place.published_path.read_text())["releases"]
