"""The nightly job of docs/operations.md, run as it stands there, twice and stopped after every line."""

import json
import re
import shlex
from pathlib import Path

import polars as pl
import pytest

from rlmrec.errors import WorkspaceError
from rlmrec.recommend.publish import releases
from rlmrec.server.settings import Settings
from rlmrec.testing.shop import shop
from rlmrec.workspace import Workspace

GUIDE = (Path(__file__).parents[1] / "docs" / "operations.md").read_text(encoding="utf-8")


def lines_of(block):
    return [line for line in block.replace("\\\n", " ").splitlines() if line.startswith("rlmrec ")]


FIRST_DAY = lines_of(re.search(r"```\n(.*?)```", GUIDE, re.DOTALL)[1])
NIGHT = lines_of(re.search(r"```bash\n(.*?)```", GUIDE, re.DOTALL)[1])


@pytest.fixture
def run(call, tmp_path, monkeypatch):
    """Run lines of the guide in a folder with the shop's files."""
    monkeypatch.chdir(tmp_path)
    shop(customers=80, products=48, orders=1500).write(tmp_path)

    def run_lines(lines, **names):
        for line in lines:
            for name, value in names.items():
                line = line.replace(f'"${name}"', value)
            code, out, err = call(*shlex.split(line, comments=True)[1:])
            assert code == 0, (line, out, err)

    return run_lines


def served():
    return Settings(Path("shop"), None).load()


def test_a_night_may_be_stopped_anywhere_and_repeated(run, call):
    assert NIGHT[-1].startswith("rlmrec publish")
    run([line for line in FIRST_DAY if " serve " not in line])
    place, customer = Workspace(Path("shop")), "c000001"
    yesterday = served()
    names = {"W": "shop", "ORDERS": "next_day.csv", "PRODUCTS": "next_products.csv", "LISTS": "lists.parquet"}
    for stop in (1, 3, 5):  # killed between two steps; tests/recommend/test_publish.py kills within one
        run(NIGHT[:stop], **names)
        assert served().recommendations(customer, 5) == yesterday.recommendations(customer, 5)
    run(NIGHT, **names)
    today = served()
    assert [release.name for release in releases(place)] == ["000002", "000001"]
    assert len(today.recommender.users) > len(yesterday.recommender.users)
    assert len(today.recommender.items) > len(yesterday.recommender.items)
    run(NIGHT, **names)  # the same night again
    assert served().recommendations(customer, 5) == today.recommendations(customer, 5)
    lists = pl.read_parquet("lists.parquet")
    stock = dict(pl.read_csv("next_products.csv").select("product_id", "in_stock").iter_rows())
    assert all(stock[item] for items in lists["items"] for item in items)
    code, out, err = call("monitor", "lists.parquet", "next_day.csv", "-w", "shop", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert 0 < told["coverage"] <= 1
    assert told["hit_rate"] == 0  # what was bought is known by now, and not offered
    assert len(Path("shop/monitor.jsonl").read_text().splitlines()) == 1


def test_nothing_is_served_before_something_is_published(run):
    run(FIRST_DAY[:1])
    with pytest.raises(WorkspaceError, match="nothing is published"):
        served()
