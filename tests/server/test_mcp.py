"""The tools for assistants, called by the client of the protocol's own SDK."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("mcp", reason="the mcp extra is not installed")
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from served import made_service, made_workspace

from rlmrec.recommend.open import open_explainer, open_recommender
from rlmrec.server.mcp import create_server

TOOLS = {
    "search_items",
    "search_users",
    "item",
    "recommend",
    "recommend_for_taste",
    "similar_items",
    "explain",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return made_workspace(tmp_path_factory.mktemp("mcp") / "w")


def talk(server, *calls):
    """Connect, call tools, and return the names of all tools and the answers; of an error, its text."""

    async def conversation():
        async with Client(server) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            answers = [await client.call_tool(name, arguments) for name, arguments in calls]
            return names, [one.content[0].text if one.is_error else one.structured_content for one in answers]

    return asyncio.run(conversation())


CALLS = [
    ("recommend", {"user": "u7", "k": 4}),
    ("explain", {"user": "u7", "item": "i4"}),
    ("similar_items", {"item": "i20", "k": 2}),
    ("search_items", {"query": "detectives 2"}),
    ("recommend", {"user": "nobody"}),
]


def check(place, names, answers):
    assert names == TOOLS
    dataset = place.dataset()
    recommender = open_recommender(place, "con", dataset)
    recommended, explained, similar, found, unknown = answers
    ids, scores = recommender.recommend("u7", 4)
    assert [one["id"] for one in recommended["items"]] == ids.tolist()
    assert [one["score"] for one in recommended["items"]] == pytest.approx(scores.tolist())
    why = open_explainer(place, "con", dataset).explain("u7", "i4")
    assert explained["text"] == why.text
    assert explained["item_profile"] == "For people who cook."
    assert [one["id"] for one in similar["similar"]] == recommender.similar_items("i20", 2)[0].tolist()
    assert {one["title"] for one in found["items"]} == {f"detectives {row}" for row in range(20, 30)}
    assert unknown.endswith(": unknown user 'nobody': search_users finds ids")


def test_a_client_starts_the_command_and_calls_its_tools(place):
    command = ["-m", "rlmrec", "mcp", "-w", str(place.path), "--run", "con"]
    check(
        place,
        *talk(StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ)), *CALLS),
    )


def test_the_same_over_http(place):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "rlmrec",
        "mcp",
        "-w",
        str(place.path),
        "--run",
        "con",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(command)
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        check(place, *talk(f"http://127.0.0.1:{port}/mcp", *CALLS))
    finally:
        process.terminate()
        process.wait(60)


def test_a_taste_in_words(place):
    _, [found] = talk(create_server(made_service(place)), ("recommend_for_taste", {"text": "travel", "k": 5}))
    assert all(one["title"].startswith("travel") for one in found["items"])
    assert len(found["items"]) == 5
    assert found["items"][0]["why"]["sentences"]
    cheap = ("recommend_for_taste", {"text": "travel", "k": 5, "filter": "price > 20"})
    _, [filtered] = talk(create_server(made_service(place)), cheap)
    allowed = made_service(place).catalogue.lists.matching("price > 20")
    ids = made_service(place).catalogue.recommender.item_ids
    assert filtered["items"]
    assert all(allowed[ids.row(one["id"])] for one in filtered["items"])


def test_ids_are_those_of_the_dataset_whatever_json_type_they_come_as(tmp_path):
    server = create_server(made_service(made_workspace(tmp_path / "w", first=100)))
    _, [number, text] = talk(server, ("item", {"item": 104}), ("item", {"item": "104"}))
    assert number == text
    assert number["id"] == 104


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        ("recommend", {"user": "u7", "k": 51}, "less than or equal to 50"),
        ("recommend", {"user": "u" * 3000}, "at most 2048 characters"),
        ("recommend_for_taste", {"text": "a" * 10_001}, "at most 10000 characters"),
        ("search_items", {"query": "a" * 201}, "at most 200 characters"),
        ("recommend", {"user": "u7", "filter": "no_such_column = 1"}, "no_such_column"),
        ("item", {"item": "../../etc/passwd"}, "unknown item"),
    ],
)
def test_arguments_are_bounded_and_checked(place, tool, arguments, told):
    _, [answer] = talk(create_server(made_service(place)), (tool, arguments))
    assert told in answer


def test_a_workspace_without_the_run_is_one_line(call, tmp_path, place):
    code, out, err = call("mcp", "-w", place.path, "--run", "none")
    assert (code, out) == (1, "")
    assert "no run 'none'" in err
    assert len(err.strip().splitlines()) == 1
