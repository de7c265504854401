"""The HTTP interface against the Python one, and what it does with mistakes, saturation and change."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

pytest.importorskip("fastapi", reason="the serve extra is not installed")
from fastapi.testclient import TestClient
from fault_server import FaultServer, embedded, failure
from prometheus_client import CollectorRegistry
from served import (
    KINDS,
    ODD_IDS,
    PICTURES,
    TOKEN,
    WordEncoder,
    made_service,
    made_workspace,
    save_run,
    serving,
)
from uvicorn.supervisors import Multiprocess

from rlmrec.cli import main
from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.recommend.cold_start import ColdStart
from rlmrec.recommend.lists import Rules
from rlmrec.recommend.open import open_explainer, open_recommender
from rlmrec.recommend.publish import publish
from rlmrec.server import workers as connections
from rlmrec.server.added_items import AddedItems
from rlmrec.server.api import create_app
from rlmrec.server.middleware import Limits, Metrics
from rlmrec.server.quality import Quality
from rlmrec.server.service import Service
from rlmrec.server.settings import Settings, application
from rlmrec.server.workers import Workers
from rlmrec.testing import blocks
from rlmrec.text.registry import encoder_spec, make_encoder
from rlmrec.workspace import set_aside

BEARER = {"Authorization": f"Bearer {TOKEN}"}


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return made_workspace(tmp_path_factory.mktemp("api") / "w")


@pytest.fixture
def place(workspace, tmp_path):
    """A workspace of one's own."""
    # The added items of other tests may be closed, and their files removed, while they are copied.
    shutil.copytree(workspace.path, tmp_path / "w", ignore=shutil.ignore_patterns("cold_items.sqlite*"))
    return type(workspace)(tmp_path / "w")


@pytest.fixture(scope="module")
def service(workspace):
    return made_service(workspace)


@pytest.fixture(scope="module")
def client(service):
    with TestClient(create_app(service, TOKEN)) as client:
        yield client


def ids(answer):
    return [item["id"] for item in answer["items"]]


# -- answers -------------------------------------------------------------------------------------------


def test_lists_are_the_recommenders(client, service):
    recommender = service.catalogue.recommender
    answer = client.get("/v1/users/u7/recommendations?k=5").json()
    found, scores = recommender.recommend("u7", 5)
    assert ids(answer) == found.tolist()
    assert [item["score"] for item in answer["items"]] == pytest.approx(scores.tolist())
    everything = client.get("/v1/users/u7/recommendations?k=45&exclude_seen=false").json()
    assert ids(everything) == recommender.recommend("u7", 45, exclude_seen=False)[0].tolist()
    unseen = client.get("/v1/users/u7/recommendations?k=200").json()
    known = recommender.known[[recommender.user_ids.row("u7")]].nnz
    assert known > client.get("/v1/users/u7/profile").json()["interactions"]  # held-out items are known, too
    assert len(unseen["items"]) == 45 - known, "no padding"
    request = {"users": ["u7", "u30"], "k": 3, "candidates": ["i1", "i20", "i40", "i41"], "exclude": ["i1"]}
    results = client.post("/v1/recommendations", json=request).json()["results"]
    found, _ = recommender.recommend(["u7", "u30"], 3, True, request["candidates"], ["i1"])
    assert [result["user"] for result in results] == ["u7", "u30"]
    for result, row in zip(results, found.tolist(), strict=True):
        assert ids(result) == [raw for raw in row if raw is not None]


def test_lists_by_rules(client, service):
    """The rules themselves are tested in tests/recommend/test_lists.py."""
    lists, path = service.catalogue.lists, "/v1/users/u7/recommendations"
    where = "title like 'travel%'"
    [expected] = lists.of(["u7"], 4, Rules(where=where))
    answer = client.get(path, params={"k": 4, "filter": where}).json()
    assert ids(answer) == expected.items
    assert answer["source"] == "history"
    body = {"users": ["u7", "nobody"], "k": 4, "candidates": ["i1", "i2", "i999"], "diversity": 0.5}
    answer = client.post("/v1/recommendations", json=body).json()
    assert answer["skipped"] == 1
    mine, popular = answer["results"]
    rules = Rules(candidates=["i1", "i2"], diversity=0.5)
    assert ids(mine) == lists.of(["u7"], 4, rules)[0].items
    assert (popular["source"], set(ids(popular))) == ("popularity", {"i1", "i2"})
    unknown = client.get("/v1/users/nobody/recommendations?k=5").json()
    assert ids(unknown) == lists.of(["nobody"], 5)[0].items
    refused = client.get(path, params={"filter": "colour = 'red'"})
    assert refused.status_code == 422
    [problem] = refused.json()["fields"]
    assert problem["field"] == "query.filter"
    assert "over the columns id, title" in problem["message"]


def test_a_query_parameter_that_a_route_does_not_have_is_refused(client):
    answer = client.get("/v1/users/u7/recommendations?k=5&exclude_sen=false")
    assert answer.status_code == 422
    [field] = answer.json()["fields"]
    assert field["field"] == "query.exclude_sen"
    assert "exclude_seen" in field["message"]
    assert client.get("/healthz?now=1").status_code == 422
    assert client.get("/v1/users/u7/recommendations?at_most=title").status_code == 422


def test_what_is_known_of_items_and_users(client, service, workspace):
    found, cosines = service.catalogue.recommender.similar_items("i4", 4)
    answer = client.get("/v1/items/i4/similar?k=4").json()
    assert [near["id"] for near in answer["similar"]] == found.tolist()
    assert [near["cosine"] for near in answer["similar"]] == pytest.approx(cosines.tolist())
    dataset = workspace.dataset()
    item = client.get("/v1/items/i4").json()
    assert (item["title"], item["profile"], item["cold"]) == ("cookery 4", "For people who cook.", False)
    assert item["interactions"] == (dataset.train.items == 4).sum()
    user = client.get("/v1/users/u7/profile").json()
    assert user["reasoning"] == "All they read is about food."
    mine = dataset.train.items[dataset.train.users == 7]
    assert {named["id"] for named in user["history"]} == {dataset.items.id(row) for row in mine}
    assert client.get("/v1/users/u8/profile").json()["profile"] is None
    explained = client.get("/v1/explanations?user=u7&item=i4&k=2").json()
    expected = open_explainer(workspace, "con", dataset).explain("u7", "i4", 2).as_dict()
    assert explained.pop("sentences")
    assert explained == json.loads(json.dumps(expected))


def test_comparison_tells_the_place_in_the_base_run(client, service):
    base = service.catalogue.base
    answer = client.get("/v1/users/u7/comparison?k=9").json()
    order = base.recommend("u7", 45)[0].tolist()
    assert ids({"items": answer["base"]}) == order[:9]
    for place, item in enumerate(answer["aligned"], 1):
        assert (item["rank"], item["base_rank"]) == (place, order.index(item["id"]) + 1)


def test_without_a_base_run_there_is_no_comparison(workspace):
    with TestClient(create_app(made_service(workspace, base=None))) as client:
        answer = client.get("/v1/users/u7/comparison")
    assert answer.status_code == 409
    assert "--base" in answer.json()["error"]


def test_type_ahead_puts_ids_that_begin_so_first(client):
    found = [user["id"] for user in client.get("/v1/users?q=U5&limit=4").json()["users"]]
    assert found == ["u5", "u50", "u51", "u52"]
    assert [user["id"] for user in client.get("/v1/users?q=likes cook").json()["users"]] == ["u7"], (
        "a profile"
    )
    critics = client.get("/v1/users?q=travel&limit=50").json()["users"]
    assert [user["id"] for user in critics] == [f"u{row}" for row in range(40, 60)]
    assert client.get("/v1/users?q=nobody").json() == {"users": []}


def test_new_people(client, service):
    for block, kind in enumerate(KINDS):
        answer = client.post("/v1/cold/users", json={"text": f"I like {kind}", "k": 10}).json()
        assert {int(raw[1:]) // 15 for raw in ids(answer)} == {block}
    liked = ["i16", "i17"]
    answer = client.post("/v1/cold/users", json={"items": liked, "k": 5}).json()
    recommender = service.catalogue.recommender
    found, _ = recommender.recommend_vectors(recommender.fold_in(liked), 5, exclude=liked)
    assert ids(answer) == found.tolist()
    assert answer["note"] is None


def test_a_text_without_a_known_word_is_said_to_tell_nothing(place):
    told = "the encoder knows no word of this text, so it tells nothing: choose other words"
    with TestClient(create_app(made_service(place), TOKEN)) as client:
        for route in ("users", "items/preview", "items"):
            for text, note in (("qwxyz", told), ("<b>travel</b>", None)):
                body = {"text": text, **({"id": text} if route == "items" else {})}
                answer = client.post(f"/v1/cold/{route}", json=body, headers=BEARER)
                assert answer.json()["note"] == note, (route, text)


def test_a_dry_look_at_an_item_stores_nothing(client, service):
    answer = client.post("/v1/cold/items/preview", json={"text": "more travel", "k": 6}).json()
    assert {int(user["id"][1:]) // 20 for user in answer["users"]} == {2}
    assert {int(item["id"][1:]) // 15 for item in answer["similar"]} == {2}
    cosines = [item["cosine"] for item in answer["similar"]]
    assert cosines == sorted(cosines, reverse=True)
    assert service.store.all() == []


# -- what a page shows ----------------------------------------------------------------------------------


def test_items_are_found_by_id_title_profile_and_text(client, service):
    def found(query, **more):
        return ids(client.get("/v1/items", params={"q": query, "limit": 50, **more}).json())

    popularity = service.catalogue.lists.popularity
    popular = client.get("/v1/items?limit=45").json()["items"]
    counts = [item["interactions"] for item in popular]
    assert counts == sorted(popularity.tolist(), reverse=True)
    assert found("i4")[0] == "i4"
    assert set(found("i4")) == {"i4", *(f"i{row}" for row in range(40, 45))}
    assert set(found("TRAVEL 3")[:10]) == {f"i{row}" for row in range(30, 40)}
    assert set(found("3 travel")) == {f"i{row}" for row in [*range(30, 40), 43]}, "all words, in any order"
    assert found("for people who cook") == ["i4"], "its profile"
    assert set(found("", filter="price > 47 and in_stock")) == {"i43", "i44"}
    refused = client.get("/v1/items", params={"filter": "colour = 1"})
    [problem] = refused.json()["fields"]
    assert (problem["field"], "over the columns" in problem["message"]) == ("query.filter", True)


def test_cards_have_the_columns_that_fit_on_them(client):
    answer = client.post("/v1/items", json={"items": ["i4", "nothing", "i0"]}).json()
    assert ids(answer) == ["i4", "i0"]
    columns = answer["items"][0]["columns"]
    assert columns == {"category": "cookery", "price": 9, "in_stock": True}
    assert answer["items"][0]["about"] == "For people who cook."
    assert answer["items"][0]["picture"] is None, "no host was allowed"
    assert client.get("/v1/items/i4").json()["columns"] == columns


def test_a_page_has_something_to_begin_with(client, service):
    answer = client.get("/v1/overview").json()
    kinds = {column["name"]: column for column in answer["columns"]}
    assert {name: column["kind"] for name, column in kinds.items()} == {
        "category": "choice", "price": "number", "in_stock": "flag", "picture": "picture",
    }  # fmt: skip
    assert sorted(kinds["category"]["values"]) == KINDS
    assert (kinds["price"]["low"], kinds["price"]["high"]) == (5, 49)
    users = [user["id"] for user in answer["users"]]
    assert 3 <= len(users) == len(set(users))
    history = np.diff(service.catalogue.recommender.seen.indptr)
    lengths = {user["id"]: user["interactions"] for user in answer["users"]}
    rows = service.catalogue.recommender.user_ids
    assert lengths == {user: history[rows.row(user)] for user in users}
    assert max(lengths.values()) == history.max()
    assert any(kind in text for kind in KINDS for text in answer["taste_examples"]), "the data's own words"


def test_pictures_come_from_allowed_hosts_alone(workspace):
    with TestClient(
        create_app(
            made_service(workspace, pictures=[PICTURES]), limits=Limits(picture_hosts=frozenset([PICTURES]))
        )
    ) as client:
        answer = client.post("/v1/items", json={"items": ["i0", "i4"]})
        assert [item["picture"] for item in answer.json()["items"]] == [None, f"https://{PICTURES}/4.png"]
        assert f"img-src 'self' https://{PICTURES};" in answer.headers["content-security-policy"]


def test_who_would_like_an_item(client, service):
    recommender = service.catalogue.recommender
    found = [user["id"] for user in client.get("/v1/items/i4/users?k=60").json()["users"]]
    row = recommender.item_ids.row("i4")
    have = {recommender.user_ids.id(user) for user in range(60) if recommender.is_known(user, row)}
    users = recommender.users / np.linalg.norm(recommender.users, axis=1, keepdims=True)
    order = [recommender.user_ids.id(int(user)) for user in np.argsort(-(users @ recommender.items[row]))]
    assert found == [user for user in order if user not in have]


def test_items_of_similar_texts(client, workspace):
    vectors = workspace.text_embeddings(workspace.dataset()).items
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit[4]
    answer = client.get("/v1/items/i4/similar?k=10&by=text").json()["similar"]
    assert "i4" not in [item["id"] for item in answer]
    assert [item["cosine"] for item in answer] == pytest.approx(
        np.sort(np.delete(cosines, 4))[::-1][:10], abs=1e-5
    )


def test_a_taste_in_words_and_items_with_reasons(client, service):
    request = {
        "text": "something about travel",
        "items": ["i31", "i32"],
        "k": 6,
        "why": True,
        "filter": "price < 45",
    }
    answer = client.post("/v1/cold/users", json=request).json()
    assert len(answer["items"]) == 6
    assert {int(raw[1:]) // 15 for raw in ids(answer)} == {2}
    assert not {"i31", "i32"} & set(ids(answer))
    assert all(int(raw[1:]) < 40 for raw in ids(answer))
    recommender, dataset = service.catalogue.recommender, service.catalogue.dataset
    for item in answer["items"]:
        why = item["why"]
        assert why["terms"] == ["travel"]
        assert {liked["id"] for liked in why["liked"]} == {"i31", "i32"}
        # The users of the third block have the texts nearest to it; 50 of 60 count as similar.
        have = recommender.seen[:, [dataset.items.row(item["id"])]].toarray()[40:].sum()
        assert (why["similar_users"]["of"], why["similar_users"]["have"]) >= (50, have)
        assert why["sentences"][0] == "You asked for travel."
        assert "which you chose." in why["sentences"][1]
    plain = client.post("/v1/cold/users", json={"text": "travel"}).json()
    assert {item["why"] for item in plain["items"]} == {None}
    assert client.post("/v1/cold/users", json={"k": 3}).status_code == 422


def test_reasons_for_a_customer_have_no_numbers(client):
    answer = client.get("/v1/explanations?user=u7&item=i4").json()
    said = " ".join(answer["sentences"])
    assert said.startswith("Because this user has cookery")
    assert not re.search(r"cosine|score|category|price|\d\.\d", said)


def test_runs_can_be_switched(client, service):
    runs = client.get("/v1/runs").json()["runs"]
    assert [(run["name"], run["ndcg"], run["text"]) for run in runs] == [
        ("con", 0.9, True),
        ("base", 0.5, True),
    ]
    base = service.catalogue.base
    assert (
        ids(client.get("/v1/users/u7/recommendations?run=base").json())
        == base.recommend("u7", 20)[0].tolist()
    )
    answer = client.get("/v1/users/u7/comparison?run=base&base=con&k=5&filter=price>20").json()
    assert answer["base_run"] == "con"
    [expected] = service.catalogue.lists.of(["u7"], 5, Rules("price > 20"))
    assert ids({"items": answer["base"]}) == expected.items
    for item in answer["aligned"]:
        if item["id"] in expected.items:
            assert item["base_rank"] == expected.items.index(item["id"]) + 1, "among the filtered ones"
    unknown = client.get("/v1/users/u7/recommendations?run=nothing")
    assert (unknown.status_code, "there are base, con" in unknown.json()["error"]) == (404, True)
    escaped = client.get("/v1/users/u7/recommendations?run=../runs/con")
    assert escaped.status_code == 404


def test_the_served_run_beside_another_one_has_its_added_items(place):
    with TestClient(create_app(made_service(place), TOKEN)) as client:
        client.post("/v1/cold/items", json={"id": "new", "text": "travel", "title": "A trip"}, headers=BEARER)
        answer = client.get("/v1/users/u45/comparison?run=base&base=con&k=20").json()
        assert {item["id"]: item["title"] for item in answer["base"]}["new"] == "A trip"


def test_a_server_of_the_published_run_shows_no_other(place):
    publish(place, "con")
    with TestClient(application(Settings(place.path, None))) as client:
        assert client.get("/v1/runs").json() == {"runs": []}
        assert client.get("/v1/users/u7/recommendations?run=base").status_code == 404
        assert client.get("/v1/items/i4/similar?by=text").status_code == 200, "the vectors of the workspace"


# -- mistakes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("GET", "/v1/users/u7/recommendations?k=0", None, "query.k"),
        ("GET", "/v1/users/u7/recommendations?k=201", None, "query.k"),
        ("GET", "/v1/users/u7/recommendations?k=many", None, "query.k"),
        ("GET", "/v1/explanations?user=u7", None, "query.item"),
        ("POST", "/v1/recommendations", {"users": [], "k": 3}, "body.users"),
        ("POST", "/v1/recommendations", {"users": ["u1"] * 257}, "body.users"),
        ("POST", "/v1/recommendations", {"users": ["u1"], "kk": 3}, "body.kk"),
        ("POST", "/v1/recommendations", {"users": [True]}, "body.users.0"),
        ("POST", "/v1/cold/users", {"text": "  "}, "body.text"),
        ("POST", "/v1/cold/users", {}, "body"),
        ("POST", "/v1/cold/items", {"id": 5, "text": "travel"}, "body.id"),
    ],
)
def test_invalid_values_name_their_field(client, method, path, body, field):
    answer = client.request(method, path, json=body, headers=BEARER)
    assert answer.status_code == 422
    problems = answer.json()["fields"]
    assert any(problem["field"].startswith(field) and problem["message"] for problem in problems), problems


def test_messages_say_what_was_got_and_expected(client):
    def message(query):
        [problem] = client.get(f"/v1/users/u7/recommendations?{query}").json()["fields"]
        return problem["message"]

    assert message("k=0") == "got '0', expected at least 1"
    assert message("k=many") == "got 'many', expected a valid integer"
    assert "the items have no column 'lang' but id, title" in message("at_most=lang:2")
    assert "columns are flat" in message("filter=a.b%20%3D%201")

    def told(path, **request):
        answer = client.post(f"/v1/{path}", **request)
        assert answer.status_code == 422
        return [(problem["field"], problem["message"]) for problem in answer.json()["fields"]]

    kind = {"Content-Type": "application/json"}
    [(field, said)] = told("recommendations", content=b'{"users": ["u1"], "k": }', headers=kind)
    assert (field, said[:11]) == ("body", "got no JSON")
    [(field, said)] = told("recommendations", content=b'{"users": ["u1"]}', headers={"Content-Type": ""})
    assert (field, said[-30:]) == ("body", "Content-Type: application/json")
    unknown = told("cold/users", json={"text": "travel", "filtre": "x"})
    assert unknown == [
        (
            "body.filtre",
            "unknown field (did you mean 'filter'?): expected one of text, items, k, filter, why",
        )
    ]
    assert told("cold/users", json={"text": ""}) == [("body.text", "got '', expected at least 1 character")]
    assert told("recommendations", json={"users": []}) == [("body.users", "got [], expected at least 1 item")]
    assert told("recommendations", json={"users": ["u1"] * 257}) == [
        ("body.users", "got 257, expected at most 256 items")
    ]
    assert told("recommendations", json={"users": ["u1"], "candidates": [2**70]}) == [
        (
            "body.candidates.0",
            f"got {2**70}, expected an integer of 64 bits or a text of at least 1 and at most 2048 characters",
        )
    ]
    for wrong in ({"filter": "price <"}, {"bought_filter": "colour = 1"}, {"at_most": {"lang": 2}}):
        [(field, said)] = told("recommendations", json={"users": ["u1"], **wrong})
        assert (field, bool(said)) == (f"body.{next(iter(wrong))}", True)
    assert told("cold/users", json={"items": ["i1"], "filter": "price <"})[0][0] == "body.filter"
    expected = message("K=3").removeprefix("unknown parameter: expected one of ").split(", ")
    assert len(expected) == len(set(expected)) > 3


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/users/nobody/recommendations?fallback=false", None),
        ("GET", "/v1/users//profile", None),
        ("GET", "/v1/users/nobody/comparison", None),
        ("GET", "/v1/items/a%2Fb%00", None),
        ("GET", "/v1/items/i999/similar", None),
        ("GET", "/v1/explanations?user=u7&item=i999", None),
        ("POST", "/v1/recommendations", {"users": ["u1", 7], "fallback": False}),
        ("POST", "/v1/cold/users", {"items": ["i999"]}),
        ("DELETE", "/v1/cold/items/i4", None),
        ("DELETE", "/v1/cold/items/new", None),
        ("GET", "/v2", None),
    ],
)
def test_what_is_not_there_is_404(client, method, path, body):
    answer = client.request(method, path, json=body, headers=BEARER)
    assert answer.status_code == 404
    assert answer.json()["error"]


def test_integer_ids_may_be_sent_as_text(tmp_path):
    """A client whose numbers are exact up to 2^53 cannot send them otherwise."""
    first = 2454499949580879189
    with TestClient(create_app(made_service(made_workspace(tmp_path / "w", first)), TOKEN)) as client:
        sent = {"users": [str(first + 7)], "candidates": [str(first + 1), str(first + 44), "0" + str(first)]}
        answer = client.post("/v1/recommendations", json={**sent, "exclude_seen": False}).json()
        assert answer["skipped"] == 1
        assert answer["results"][0]["user"] == first + 7
        assert {item["id"] for item in answer["results"][0]["items"]} == {first + 1, first + 44}
        shown = client.post("/v1/items", json={"items": [str(first + 3)]}).json()["items"]
        assert [item["id"] for item in shown] == [first + 3]
        assert client.post("/v1/cold/users", json={"items": [str(first + 3)]}).status_code == 200
        new = {"id": str(first + 999), "text": "travel"}
        assert client.post("/v1/cold/items", json=new, headers=BEARER).json()["id"] == first + 999


def test_ids_of_any_characters(tmp_path):
    """Each of them reaches every address, and none is taken for another one or for a part of an address."""
    service = made_service(made_workspace(tmp_path / "w", odd=True))
    with serving(service) as url, httpx.Client(base_url=url) as client:

        def got(path):
            answer = client.get(path)
            assert answer.status_code == 200, (path, answer.text)
            return answer.json()

        for raw in ODD_IDS:
            part = quote(raw, safe="")
            if raw in (".", ".."):  # clients resolve them, encoded once or not
                part = raw.replace(".", "%252e")
            for what in ("recommendations", "comparison", "profile"):
                assert got(f"/v1/users/{part}/{what}")["user"] == raw
            assert got(f"/v1/items/{part}")["id"] == raw
            similar = got(f"/v1/items/{part}/similar?k=3")
            assert (similar["item"], len(similar["similar"])) == (raw, 3)
            why = client.get("/v1/explanations", params={"user": raw, "item": raw}).json()
            assert (why["user"], why["item"]) == (raw, raw)
        listed = client.post("/v1/recommendations", json={"users": ODD_IDS, "exclude": ODD_IDS}).json()
        assert [one["user"] for one in listed["results"]] == list(ODD_IDS)
        assert got("/v1/items/a/b")["id"] == "a/b", "a slash as it is, where nothing else is meant"
        assert client.get("/v1/items/%252e%252e%2F").status_code == 404
        for raw in ("new/one", "%2e", "a\nb c"):
            new = {"id": raw, "text": "travel"}
            assert client.post("/v1/cold/items", json=new, headers=BEARER).status_code == 201
            part = quote(raw, safe="")
            assert got(f"/v1/items/{part}")["id"] == raw
            assert client.delete(f"/v1/cold/items/{part}", headers=BEARER).status_code == 204


def test_bodies_that_are_no_json(client):
    kind = {"Content-Type": "application/json"}
    for body in (b"{", b"\xff\xfe", b"[" * 100_000):
        assert client.post("/v1/recommendations", content=body, headers=kind).status_code in (400, 422)
    half = client.post("/v1/recommendations", content=b'{"users": ["\\ud800"], "\\udfff": 1}', headers=kind)
    assert half.status_code == 422, "half a surrogate pair is no text, and the answer must not repeat it"


def test_a_body_is_bounded_however_it_comes(service):
    with TestClient(create_app(service, limits=Limits(body=1000))) as client:
        whole = client.post("/v1/recommendations", content=b" " * 1001)
        pieces = client.post("/v1/recommendations", content=(b" " * 100 for _ in range(11)))
        assert whole.status_code == pieces.status_code == 413
        assert client.post("/v1/recommendations", json={"users": ["u1"]}).status_code == 200


def test_a_body_that_never_comes_is_given_up(service, monkeypatch):
    monkeypatch.setattr("rlmrec.server.middleware.BODY_SECONDS", 0.05)
    with serving(service) as url, socket.create_connection(("127.0.0.1", int(url.rsplit(":")[-1]))) as held:
        held.sendall(b"POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        assert held.recv(1000).startswith(b"HTTP/1.1 408")
        assert "rlmrec_requests_in_flight 0.0" in httpx.get(f"{url}/metrics").text


def test_every_answer_forbids_foreign_content(client):
    for path in ("/", "/docs", "/web/explorer.js", "/web/api.js", "/healthz", "/v1/users?limit=0"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_page_loads_nothing_from_elsewhere(client):
    for path in ("/", "/docs", "/web/explorer.js", "/web/docs.js", "/web/style.css"):
        text = client.get(path).text
        assert re.findall(r"https?://[^\s\"']+|//[a-z]+\.", text) == []
        assert "innerHTML" not in text


# -- items by text -------------------------------------------------------------------------------------


def test_changes_need_the_token(workspace, service):
    calls = [
        ("GET", "/v1/cold/items"),
        ("POST", "/v1/cold/items"),
        ("DELETE", "/v1/cold/items/x"),
        ("POST", "/v1/reload"),
    ]
    body = {"id": "new", "text": "travel"}
    with TestClient(create_app(service, None)) as client:
        for method, path in calls:
            assert client.request(method, path, json=body, headers=BEARER).status_code == 403
    with TestClient(create_app(service, TOKEN)) as client:
        for method, path in calls:
            for wrong, why in (
                ({}, "a bearer token is required"),
                ({"Authorization": f"Basic {TOKEN}"}, "a bearer token is required"),
                ({"Authorization": "Bearer wrong"}, "the bearer token is wrong"),
            ):
                answer = client.request(method, path, json=body, headers=wrong)
                assert (answer.status_code, answer.json()["error"]) == (401, why)
                assert answer.headers["www-authenticate"] == "Bearer"
    assert service.store.all() == []


def test_an_added_item_is_recommended_and_survives_a_restart(place):
    other = made_service(place)  # what another worker has
    with TestClient(create_app(made_service(place), TOKEN)) as client:
        new = {"id": "new", "title": "A <b>new</b> one", "text": "<p>detectives,<br>all of them</p>"}
        answer = client.post("/v1/cold/items", json=new, headers=BEARER)
        stored = {**new, "title": "A new one", "text": "detectives, all of them", "note": None}
        assert (answer.status_code, answer.json()) == (201, stored)
        tags = client.post("/v1/cold/items", json={**new, "id": "x", "text": "<p><br></p>"}, headers=BEARER)
        assert tags.json()["fields"] == [
            {"field": "body.text", "message": "got '<p><br></p>', expected more than HTML tags"}
        ]
        long = client.post("/v1/cold/items", json={**new, "title": "x" * 501}, headers=BEARER)
        assert long.json()["fields"] == [
            {"field": "body.title", "message": "expected at most 500 characters"}
        ]
        assert client.post("/v1/cold/items", json=new, headers=BEARER).status_code == 409
        trained = client.post("/v1/cold/items", json={**new, "id": "i4"}, headers=BEARER)
        assert trained.status_code == 409
        assert "new" in ids(client.get("/v1/users/u25/recommendations?k=20").json())
        assert "new" not in ids(client.get("/v1/users/u5/recommendations?k=10").json())
        assert client.get("/v1/items/new").json()["cold"] is True
        explained = client.get("/v1/explanations?user=u25&item=new").json()
        assert explained["title"] == "A new one"
        assert "detectives" in explained["terms"]
        moved = client.get("/v1/users/u25/comparison?k=20").json()["aligned"]
        assert next(item for item in moved if item["id"] == "new")["base_rank"] is None
    assert "new" not in other.catalogue.recommender.item_ids
    other.follow()
    assert "new" in other.catalogue.recommender.item_ids
    with TestClient(create_app(made_service(place), TOKEN)) as client:
        assert client.get("/v1/cold/items", headers=BEARER).json() == {"items": [stored]}
        assert "new" in ids(client.get("/v1/users/u25/recommendations?k=20").json())
        assert client.delete("/v1/cold/items/new", headers=BEARER).status_code == 204
        assert client.get("/v1/items/new").status_code == 404
        assert client.delete("/v1/cold/items/new", headers=BEARER).status_code == 404
        counted = client.get("/metrics").text
        for told in (
            '"GET",path="/v1/cold/items",status="200"',
            '"DELETE",path="/v1/cold/items/{item_id}",status="204"',
        ):
            assert f"rlmrec_requests_total{{method={told}}} 1.0" in counted
    other.follow()
    assert "new" not in other.catalogue.recommender.item_ids


def test_without_cold_start_or_with_another_encoder_texts_are_refused(place):
    class Other(WordEncoder):
        name = "other"

    with TestClient(create_app(made_service(place, Other))) as client:
        answer = client.post("/v1/cold/users", json={"text": "travel"})
        assert answer.status_code == 409
        assert "other" in answer.json()["error"]
    (place.run("con") / "recommender" / "cold_start.safetensors").unlink()
    with TestClient(create_app(made_service(place))) as client:
        answer = client.post("/v1/cold/users", json={"text": "travel"})
        assert (answer.status_code, "rlmrec cold fit" in answer.json()["error"]) == (409, True)
        assert client.post("/v1/cold/users", json={"items": ["i1"]}).status_code == 200
        assert client.get("/healthz").json()["cold_start"] is False


def refit(place, name, manifest):
    """The cold start of run ``con`` anew, from vectors of another encoder."""
    dataset = place.dataset()
    text_embeddings = blocks(users=20, items=15)[1]
    text_embeddings.manifest.update({"encoder": name, **manifest})
    cold = ColdStart.fit(open_recommender(place, "con", dataset), text_embeddings, dataset)
    cold.save(place.run("con") / "recommender")


def test_texts_are_read_by_the_encoder_that_made_the_vectors(place):
    """An endpoint here; one that is gone is no error of ours."""

    def answer(number, body):
        vectors = WordEncoder().encode(body["input"]).tolist()
        data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(vectors)]
        return embedded(body, data=data)

    with FaultServer(answer) as server:
        made_by = encoder_spec("openai:words", server.url)
        refit(place, make_encoder("openai:words", server.url).name, {"made_by": made_by})
        with TestClient(application(Settings(place.path, "con"))) as client:
            unnamed = client.post("/v1/cold/users", json={"text": "travel"})
            assert (unnamed.status_code, "--encoder openai:words" in unnamed.json()["error"]) == (409, True)
            assert server.bodies == [], "a stored file never chooses an endpoint"
        mine = Settings(place.path, "con", encoder="openai:words", base_url=server.url)
        with TestClient(application(mine)) as client:
            liked = client.post("/v1/cold/users", json={"text": "travel", "k": 5}).json()
            assert {int(raw[1:]) // 15 for raw in ids(liked)} == {2}
        refit(place, "words", {"made_by": encoder_spec("openai:words")})
        keyless = Settings(place.path, "con", encoder="openai:words", key_env="NO_SUCH_KEY")
        with TestClient(application(keyless)) as client:
            keyless = client.post("/v1/cold/users", json={"text": "travel"})
            assert (keyless.status_code, "NO_SUCH_KEY" in keyless.json()["error"]) == (409, True)
        refit(place, make_encoder("openai:words", server.url).name, {"made_by": made_by})
        server.script = lambda number, body: failure(500)
        with TestClient(application(mine)) as client:
            gone = client.post("/v1/cold/users", json={"text": "travel"})
            assert (gone.status_code, "no answer in 2 tries" in gone.json()["error"]) == (503, True)
            assert client.get("/v1/users/u7/recommendations").status_code == 200


def test_a_reload_may_bring_another_encoder(place):
    class Second(WordEncoder):
        name = "second"

    made = []

    def encoder(cold):
        made.append(cold.encoder)
        return Second() if cold.encoder == "second" else WordEncoder()

    service = Service(Settings(place.path, "con").load, AddedItems(place.added_items_path), encoder)
    with TestClient(create_app(service, TOKEN)) as client:
        assert client.post("/v1/cold/users", json={"text": "travel"}).status_code == 200
        client.post("/v1/cold/items", json={"id": "new", "text": "travel"}, headers=BEARER)
        refit(place, "second", {})
        assert client.post("/v1/reload", headers=BEARER).status_code == 200
        assert client.post("/v1/cold/users", json={"text": "travel"}).status_code == 200
        assert "new" in ids(client.get("/v1/users/u45/recommendations?k=20").json()), "encoded anew"
    assert made == ["words", "second"]


def test_texts_are_warmed_up_in_the_background(place):
    come, go_on = threading.Event(), threading.Event()

    class Slow(WordEncoder):
        def __init__(self):
            come.set()
            assert go_on.wait(60)

    with TestClient(create_app(made_service(place, Slow))) as client:
        assert come.wait(60), "nobody has sent a text"
        loading = client.get("/readyz")
        assert (loading.status_code, loading.json()) == (503, {"texts": "loading"})
        assert client.get("/v1/users/u7/recommendations").status_code == 200
        go_on.set()
        wait_for(lambda: client.get("/readyz").status_code != 503)
        assert client.get("/readyz").json() == {"texts": "ready"}
        wait_for(lambda: "rlmrec_texts_ready 1.0" in client.get("/metrics").text)


def test_a_defect_of_the_encoder_does_not_leave_the_server_loading(place):
    def encoder(cold):
        raise RuntimeError("a library's own error")

    service = Service(Settings(place.path, "con").load, AddedItems(place.added_items_path), encoder)
    with pytest.raises(RuntimeError):
        service.warm_texts()
    assert service.texts == "failed"


def test_the_encoder_of_another_run_does_not_replace_that_of_the_served_run(place):
    class Second(WordEncoder):
        name = "second"

    service = Service(
        Settings(place.path, "con").load,
        AddedItems(place.added_items_path),
        lambda cold: Second() if cold.encoder == "second" else WordEncoder(),
    )
    service.warm_texts()
    refit(place, "second", {})
    service.encode("travel", Settings(place.path, "con").load().cold)
    assert service.texts == "ready"


@pytest.mark.parametrize(("name", "state"), [("words", "failed"), (None, "none")])
def test_a_server_that_cannot_read_texts_is_ready(place, name, state):
    def encoder(cold):
        raise ConfigError("no such encoder")

    if name is None:
        (place.run("con") / "recommender" / "cold_start.safetensors").unlink()
    service = Service(Settings(place.path, "con").load, AddedItems(place.added_items_path), encoder)
    service.warm_texts()
    with TestClient(create_app(service)) as client:
        assert (client.get("/readyz").status_code, client.get("/readyz").json()) == (200, {"texts": state})


def test_a_server_that_starts_while_its_run_is_overwritten_has_the_run_before(place):
    """``train --overwrite`` sets the old run aside until the new one is finished."""
    settings = Settings(place.path, "con", "base")
    before = settings.load()
    for name in ("con", "base"):
        place.run(name).rename(set_aside(place.run(name)))
        place.run(name).mkdir()
    during = settings.load()
    assert (during.run, during.base_run) == ("con", "base")
    assert (during.recommender.users == before.recommender.users).all()
    assert during.cold is not None
    assert during.load_texts() is not None
    with pytest.raises(WorkspaceError, match="run 'con' is not finished"):
        place.finished_run("con")


# -- change and load -----------------------------------------------------------------------------------


def test_a_reload_takes_over_a_new_training_and_keeps_the_items(place):
    service, other = made_service(place), made_service(place)
    with TestClient(create_app(service, TOKEN)) as client:
        client.post("/v1/cold/items", json={"id": "new", "text": "travel"}, headers=BEARER)
        before = client.get("/v1/users/u7/recommendations").json()
        save_run(place, place.dataset(), blocks(users=20, items=15)[1], "con", 0.1, seed=5)
        assert client.get("/v1/users/u7/recommendations").json() == before
        assert client.post("/v1/reload", headers=BEARER).status_code == 200
        after = client.get("/v1/users/u7/recommendations").json()
        assert after != before
        assert "new" in ids(client.get("/v1/users/u45/recommendations?k=20").json())
        other.follow()
        assert other.catalogue.recommender.score("u7", "i1") == service.catalogue.recommender.score(
            "u7", "i1"
        )
        taken = service.catalogue
        service.follow()
        assert service.catalogue is taken, "its own reload is not another's"
        (place.run("con") / "recommender" / "ids.json").write_text("[]")
        refused = client.post("/v1/reload", headers=BEARER)
        assert refused.status_code == 409
        assert "ids.json" in refused.json()["error"]
        assert client.get("/v1/users/u7/recommendations").json() == after
        figures = client.get("/metrics").text
        assert 'rlmrec_reloads_total{outcome="done"} 1.0' in figures
        assert 'rlmrec_reloads_total{outcome="failed"} 1.0' in figures


def test_metrics_of_quality(service):
    """Who gets what is popular, how old everything is, and what is listed."""
    with TestClient(create_app(service, TOKEN)) as client:

        def value(name):
            return float(
                re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)[1]
            )

        assert value("rlmrec_catalogue_coverage_hour") == 0
        known = client.get("/v1/users/u7/recommendations?k=3").json()
        client.get("/v1/users/nobody/recommendations?k=2")
        other = client.post("/v1/recommendations", json={"users": ["u7", "nobody"], "k": 4}).json()
        listed = {*ids(known), *(item["id"] for one in other["results"] for item in one["items"])}
        assert value('rlmrec_lists_total{source="history"}') == 2
        assert value('rlmrec_lists_total{source="popularity"}') == 2
        share = len(listed) / len(service.catalogue.recommender.items)
        assert value("rlmrec_catalogue_coverage_hour") == pytest.approx(share)
        for name in ("model", "data"):
            assert 0 <= time.time() - value(f"rlmrec_{name}_timestamp_seconds") < 24 * 3600


def test_workers_share_what_was_listed(service, tmp_path, monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    one, other = Quality(CollectorRegistry()), Quality(CollectorRegistry())
    one.observe([service.catalogue.recommendations("u7", 3)], service.catalogue)
    share = 3 / len(service.catalogue.recommender.items)
    assert f"coverage_hour {share:.15g}" in other.text(service.catalogue).decode()


def test_no_request_is_dropped_while_it_reloads(place):
    with serving(made_service(place)) as url, httpx.Client(base_url=url) as client:
        stop = threading.Event()

        def ask(row):
            with httpx.Client(base_url=url) as mine:
                answers = []
                while not stop.is_set() or len(answers) < 10:
                    answers.append(mine.get(f"/v1/users/u{row}/recommendations?k=5").status_code)
                return answers

        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask, row) for row in range(4)]
            try:
                for _ in range(5):
                    assert client.post("/v1/reload", headers=BEARER, timeout=60).status_code == 200
            finally:
                stop.set()
            answers = [code for one in asked for code in one.result()]
    assert set(answers) == {200}


def test_saturation_is_503_and_the_loop_never_waits(workspace):
    """An encoder that hangs holds its requests; others are answered, and what is too much is told to come again."""
    go_on, came = threading.Event(), threading.Event()

    class Hanging(WordEncoder):
        def encode(self, texts):
            came.set()
            assert go_on.wait(60)
            return super().encode(texts)

    with (
        serving(made_service(workspace, Hanging), limits=Limits(in_flight=3)) as url,
        httpx.Client(base_url=url, timeout=60) as client,
        ThreadPoolExecutor(3) as pool,
    ):
        texts = [
            pool.submit(httpx.post, f"{url}/v1/cold/users", json={"text": "travel"}, timeout=90) for _ in "12"
        ]
        try:
            assert came.wait(60)
            wait_for(lambda: "rlmrec_requests_in_flight 2.0" in client.get("/metrics").text)
            assert client.get("/v1/users/u7/recommendations").status_code == 200
            texts.append(pool.submit(httpx.post, f"{url}/v1/cold/users", json={"text": "travel"}, timeout=90))
            wait_for(lambda: "rlmrec_requests_in_flight 3.0" in client.get("/metrics").text)
            refused = client.get("/v1/users/u7/recommendations")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert client.get("/healthz").status_code == 200
        finally:
            go_on.set()
        assert [text.result().status_code for text in texts] == [200, 200, 200]
        assert client.get("/v1/users/u7/recommendations").status_code == 200
        figures = client.get("/metrics").text
    assert "rlmrec_requests_refused_total 1.0" in figures
    served = 'rlmrec_requests_total{method="GET",path="/v1/users/{user_id}/recommendations",status="%d"} %d.0'
    assert served % (200, 2) in figures
    assert served % (503, 1) not in figures, "refused before its address was read"


def test_workers_map_the_arrays(service):
    """All that grows with the catalogue; no copy was made on the way."""
    recommender = service.catalogue.recommender
    for array in (recommender.users, recommender.items, recommender.seen.indices):
        while not isinstance(array, np.memmap):
            array = array.base
            assert array is not None


def test_serving_imports_no_torch(workspace):
    code = f"""
import sys
from pathlib import Path
from fastapi.testclient import TestClient
from rlmrec.server.settings import Settings, application
with TestClient(application(Settings(Path({str(workspace.path)!r}), "con", "base"))) as client:
    for path in ("/", "/healthz", "/v1/users/u7/recommendations", "/v1/users/u7/comparison", "/v1/items/i4/similar"):
        assert client.get(path).status_code == 200, path
    assert client.get("/v1/explanations?user=u7&item=i4").status_code == 200
    assert client.post("/v1/cold/users", json={{"items": ["i1"]}}).status_code == 200
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# -- any request at all --------------------------------------------------------------------------------


def test_schemathesis_finds_no_server_error(place):
    """Valid and invalid requests of every operation: none fails, and every answer is as the document says."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed (extra dev)")
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [
        not_a_server_error,
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    ]
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(made_service(place), TOKEN))
    known = {"user_id": "u7", "item_id": "i4"}
    asked, without_invalid = [], []
    for found in schema.get_all_operations():
        operation = found.ok()
        asked.append(operation.label)
        for mode in GenerationMode:

            @settings(max_examples=10, suppress_health_check=list(HealthCheck), database=None)
            @given(case=operation.as_strategy(generation_mode=mode))
            def probe(case):
                case.call_and_validate(headers=BEARER, checks=checks)
                if case.path_parameters:  # no text that is made up is an id
                    case.path_parameters = {name: known[name] for name in case.path_parameters}
                    case.call_and_validate(headers=BEARER, checks=checks)

            try:
                probe()
            except Unsatisfiable:  # any text may be an id, and some operations take nothing
                assert mode == GenerationMode.NEGATIVE
                without_invalid.append(operation.label)
    assert len(asked) == 22
    assert {label.split()[1] for label in without_invalid} == {
        "/healthz", "/metrics", "/readyz", "/v1/runs",
    }  # fmt: skip


# -- the command ---------------------------------------------------------------------------------------


def run_cli(*arguments):
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments)])
    return end.value.code


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--run", "con", "--token-env", "NO_SUCH_TOKEN"], 2, "NO_SUCH_TOKEN"),
        (["--run", "nothing"], 1, "there are base, con"),
        (["--run", "con", "--base", "nothing"], 1, "there are base, con"),
        (["--run", "con", "--workers", "0"], 2, "workers"),
    ],
)
def test_mistakes_on_the_command_line(workspace, capsys, options, code, message):
    assert run_cli("serve", "-w", workspace.path, *options) == code
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


def test_a_port_that_is_taken_is_named(workspace, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run_cli("serve", "-w", workspace.path, "--run", "con", "--port", port) == 2
    assert (
        f"cannot listen on 127.0.0.1:{port}, as the line above says: give a free port"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_it_reloads_on_hangup_and_ends_gracefully(place, workers):
    """The command as it is run: SIGHUP while requests are made, SIGTERM at the end."""
    environment = {**os.environ, "MY_TOKEN": TOKEN}
    arguments = [
        "serve",
        "-w",
        place.path,
        "--run",
        "con",
        "--port",
        "0",
        "--workers",
        str(workers),
        "--token-env",
        "MY_TOKEN",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlmrec", *map(str, arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        line = next(line for line in process.stdout if "run con at" in line)
        url = re.search(r"http://[\d.:]+", line)[0]
        log = []
        reader = threading.Thread(target=lambda: log.extend(process.stdout))
        reader.start()
        with httpx.Client(base_url=url, timeout=60) as client:
            before = client.get("/v1/users/u7/recommendations").json()  # waits in the backlog for a worker
            save_run(place, place.dataset(), blocks(users=20, items=15)[1], "con", 0.1, seed=5)
            process.send_signal(signal.SIGHUP)
            answers, deadline = [], time.monotonic() + 60
            while sum("reloaded" in line for line in log) < workers and time.monotonic() < deadline:
                answers.append(client.get("/v1/users/u7/recommendations"))
            for _ in range(10):
                with httpx.Client(base_url=url, timeout=60) as another:  # any of the workers
                    answers.append(another.get("/v1/users/u7/recommendations"))
            assert {answer.status_code for answer in answers} == {200}
            assert all(answer.json() != before for answer in answers[-10:])
            counted = re.search(r"requests_total\{.*recommendations.*\} (\d+)", client.get("/metrics").text)
            assert int(counted[1]) == 1 + len(answers), "those of all workers"
        if workers > 1:
            pids = [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", "".join(log))]
            os.kill(pids[0], signal.SIGKILL)
            deadline = time.monotonic() + 60
            while f"Child process [{pids[0]}] died" not in "".join(log) and time.monotonic() < deadline:
                time.sleep(0.05)
            for _ in range(10):
                assert httpx.get(f"{url}/v1/users/u7/recommendations", timeout=60).status_code == 200
            while "".join(log).count("startup complete") <= workers and time.monotonic() < deadline:
                time.sleep(0.05)
            assert "".join(log).count("startup complete") == workers + 1, "another in its place"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, -signal.SIGTERM)  # one process ends by the signal it was sent
        reader.join()
    finally:
        process.kill()
        process.wait()
    assert not [line for line in log if "Traceback" in line or "ERROR" in line], "".join(log)


def test_a_request_that_crosses_the_end_is_answered(service, monkeypatch):
    """On a connection that is idle when the server is told to end; its answer says that it is the last."""
    monkeypatch.setattr(connections, "LAST_REQUEST_SECONDS", 600)
    servers = []
    with (
        serving(service, http=connections.Connection, servers=servers) as url,
        httpx.Client(base_url=url) as client,
    ):
        assert "connection" not in client.get("/healthz").headers
        servers[0].should_exit = True
        with contextlib.suppress(httpx.ConnectError):
            while True:  # until it takes no new connection
                httpx.get(f"{url}/healthz", timeout=60)
        last = client.get("/v1/users/u7/recommendations")
        assert (last.status_code, last.headers["connection"]) == (200, "close")


def test_what_a_dead_worker_was_at_is_in_flight_no_more(service, tmp_path, monkeypatch):
    """What it counted stays counted; the one in its place begins with nothing."""
    work = (
        "import os, sys; from rlmrec.server.middleware import Metrics; metrics = Metrics();"
        "metrics.in_flight.inc(); metrics.refused.inc(); print(os.getpid())"
    )
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    pids = [
        int(
            subprocess.run(
                [sys.executable, "-c", work], env=environment, check=True, capture_output=True
            ).stdout
        )
        for _ in "12"
    ]
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    parent = Workers.__new__(Workers)  # the constructor takes over the process's signals
    parent.processes = [SimpleNamespace(pid=pid) for pid in pids]

    def replaced(self):
        self.processes[0] = SimpleNamespace(pid=-1)

    monkeypatch.setattr(Multiprocess, "keep_subprocess_alive", replaced)
    assert b"rlmrec_requests_in_flight 2.0" in Metrics().text(service.catalogue)
    parent.keep_subprocess_alive()
    figures = Metrics().text(service.catalogue)
    assert b"rlmrec_requests_in_flight 1.0" in figures
    assert b"rlmrec_requests_refused_total 2.0" in figures
