"""Servers on several machines: each has its own copy of the run, and they share the added items alone."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from served import TOKEN, WordEncoder, made_service, made_workspace, serving

from rlmrec.errors import EndpointError, UnavailableError, WorkspaceError
from rlmrec.server.added_items import AddedItem
from rlmrec.server.service import Service
from rlmrec.server.settings import Settings
from rlmrec.workspace import Workspace

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
SECONDS = 30  # that a change may take to arrive; it takes half a second on an idle machine


def new(raw, text="cookery for people who travel"):
    return {"id": raw, "text": text, "title": f"title of {raw}"}


def has(client, raw):
    """Whether a server recommends an item to a cook and finds it by its title."""

    def asked():
        items = client.get("/v1/users/u1/recommendations?k=50").json()["items"]
        found = client.get("/v1/items", params={"q": f"title of {raw}"}).json()["items"]
        return [raw in [one["id"] for one in some] for some in (items, found)]

    listed, found = asked()
    if listed != found:  # the change arrived between the two requests
        listed, found = asked()
    assert listed == found
    return listed


def soon(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "the change did not arrive"
        time.sleep(0.05)


@pytest.fixture
def services(tmp_path, postgres_database):
    """Two services with workspaces of their own and one database."""
    return [made_service(made_workspace(tmp_path / name), added=postgres_database) for name in "ab"]


@pytest.fixture
def replicas(services):
    """Clients of the servers of both."""
    with (
        serving(services[0]) as first,
        serving(services[1]) as second,
        httpx.Client(base_url=first, headers=HEADERS, timeout=60) as a,
        httpx.Client(base_url=second, headers=HEADERS, timeout=60) as b,
    ):
        yield a, b


def test_a_change_at_one_server_arrives_at_the_other(replicas, tmp_path):
    a, b = replicas
    assert a.post("/v1/cold/items", json=new("new1")).status_code == 201
    assert has(a, "new1")
    soon(lambda: has(b, "new1"))
    assert b.get("/v1/items/new1").json()["cold"] is True
    refused = b.post("/v1/cold/items", json=new("new1", "another text"))
    assert (refused.status_code, refused.json()["error"]) == (
        409,
        "item 'new1' was added before: remove it first",
    )
    assert b.delete("/v1/cold/items/new1").status_code == 204
    assert not has(b, "new1")
    soon(lambda: not has(a, "new1"))
    assert a.delete("/v1/cold/items/new1").status_code == 404
    with ThreadPoolExecutor(8) as pool:
        requests = [(client, f"same{number}") for number in range(5) for client in replicas]
        codes = list(
            pool.map(lambda one: one[0].post("/v1/cold/items", json=new(one[1])).status_code, requests)
        )
    assert sorted(codes) == [201] * 5 + [409] * 5, "the same id at both at once is added once"
    soon(lambda: all(has(client, f"same{number}") for client in replicas for number in range(5)))
    assert not list(tmp_path.glob("*/cold_items.sqlite"))


def test_a_reload_at_one_server_reloads_the_other(replicas, services):
    before = [service.catalogue for service in services]
    assert replicas[0].post("/v1/reload").status_code == 200
    assert services[0].catalogue is not before[0]
    soon(lambda: services[1].catalogue is not before[1])


def fail_once(owner, name, error):
    """Make the next call of a method fail."""
    method = getattr(owner, name)

    def fail(*_):
        setattr(owner, name, method)
        raise error

    setattr(owner, name, fail)


UNAVAILABLE = UnavailableError("the connection broke")


def test_a_change_whose_items_cannot_be_read_at_first_is_not_lost(tmp_path):
    service = made_service(made_workspace(tmp_path / "a"))
    other = made_service(Workspace(tmp_path / "a"))
    other.add("new", "cookery", "New", other.encode("cookery"))
    fail_once(service.store, "all", UNAVAILABLE)
    with pytest.raises(UnavailableError):
        service.follow()
    assert not service.catalogue.added
    service.follow()
    assert [item.id for item in service.catalogue.added] == ["new"]


def test_a_stored_change_is_answered_although_its_items_cannot_be_read(tmp_path):
    service = made_service(made_workspace(tmp_path / "a"))
    fail_once(service.store, "all", UNAVAILABLE)
    service.add("new", "cookery", "New", service.encode("cookery"))
    service.follow()
    assert [item.id for item in service.catalogue.added] == ["new"]
    fail_once(service.store, "counters", UNAVAILABLE)
    service.remove("new")
    service.follow()
    assert not service.catalogue.added


def test_a_reload_whose_items_cannot_be_encoded_at_first_is_not_lost(tmp_path):
    service = made_service(made_workspace(tmp_path / "a"))
    before = service.catalogue
    service.store.request_reload()
    fail_once(service, "_replace", EndpointError("no answer"))
    with pytest.raises(EndpointError):
        service.follow()
    assert service.catalogue is before
    service.follow()
    assert service.catalogue is not before


@pytest.fixture
def counted(tmp_path):
    """What makes a service (with what happens during its first load), its store, and the list of its loads."""
    settings = Settings(made_workspace(tmp_path / "a").path, "con")
    store, loads = settings.added_items(), []

    def make(meanwhile=lambda: None):
        def load():
            loads.append(settings.load())
            if len(loads) == 1:
                meanwhile()
            return loads[-1]

        return Service(load, store, lambda cold: WordEncoder())

    return make, store, loads


def test_a_reload_requested_while_the_run_is_loaded_is_not_lost(counted):
    make, store, loads = counted
    service = make(store.request_reload)
    assert len(loads) == 1
    service.follow()
    service.follow()
    assert len(loads) == 2
    service.reload()
    service.follow()
    assert len(loads) == 3, "a process does not follow its own request"


def test_a_reload_requested_before_a_change_here_is_not_lost(counted):
    make, store, loads = counted
    service = make()
    store.request_reload()
    service.add("new", "cookery", "New", service.encode("cookery"))
    service.follow()
    service.follow()
    assert len(loads) == 2
    assert [item.id for item in service.catalogue.added] == ["new"]


def test_a_change_beside_a_run_that_cannot_be_loaded_is_applied(counted):
    make, store, loads = counted
    service = make()
    store.add(AddedItem("new", "New", "cookery", "words", service.encode("cookery")))
    store.request_reload()
    fail_once(service, "_load", WorkspaceError("no run"))
    with pytest.raises(WorkspaceError):
        service.follow()
    service.follow()
    assert len(loads) == 1
    assert [item.id for item in service.catalogue.added] == ["new"]


def test_servers_answer_while_the_database_is_away(replicas, postgres_database, postgres_to_stop, tmp_path):
    a, b = replicas
    assert a.post("/v1/cold/items", json=new("kept")).status_code == 201
    soon(lambda: has(b, "kept"))
    postgres_to_stop.stop()
    try:
        for _ in range(2):
            refused = a.post("/v1/cold/items", json=new("other"))
            assert refused.status_code == 503
            assert "postgresql://shop@127.0.0.1" in refused.json()["error"]
        assert b.delete("/v1/cold/items/kept").status_code == 503
        assert has(a, "kept")
        assert has(b, "kept")
        third = made_service(made_workspace(tmp_path / "c"), added=postgres_database)
        with serving(third) as address, httpx.Client(base_url=address, headers=HEADERS, timeout=60) as c:
            assert not has(c, "kept"), "a server that starts meanwhile answers, without the added items"
            assert c.get("/v1/cold/items").status_code == 503
            postgres_to_stop.start()
            soon(lambda: has(c, "kept"))
    finally:
        postgres_to_stop.stop()
        postgres_to_stop.start()
    soon(lambda: a.post("/v1/cold/items", json=new("other")).status_code == 201)
    soon(lambda: has(b, "other"))
