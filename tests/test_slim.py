"""rlmrec-serve: the same source tree without PyTorch, language models and their clients."""

import json
import re
import signal
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import pytest

from rlmrec.cli.serve import serve
from rlmrec.testing.shop import shop

ROOT = Path(__file__).parents[1]
SLIM = ROOT / "packaging" / "rlmrec-serve"
WHOLE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PART = tomllib.loads((SLIM / "pyproject.toml").read_text(encoding="utf-8"))
NAME = re.compile(r"^[\w-]+")
# A process in which what rlmrec-serve does not install cannot be imported.
WITHOUT = """
import importlib.machinery, sys
absent, find = set(sys.argv.pop(1).split(",")), importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: None if name.partition(".")[0] in absent else find(name, path, target)
)
from rlmrec.__main__ import run
run()
"""


def names(requirements):
    return {NAME.match(requirement)[0] for requirement in requirements}


def absent():
    """The modules that rlmrec needs and rlmrec-serve does not bring."""
    extras = [one for group in WHOLE["project"]["optional-dependencies"].values() for one in group]
    missing = names([*WHOLE["project"]["dependencies"], *extras]) - names(PART["project"]["dependencies"])
    return missing - {"httptools", "rlmrec", "wordllama"} | {"torch", "sentence_transformers"}


def test_both_packages_are_made_of_the_same_parts():
    whole, part = WHOLE["project"], PART["project"]
    extras = whole["optional-dependencies"]
    assert set(part["dependencies"]) <= {*whole["dependencies"], *extras["serve"], *extras["report"]}
    assert names(whole["dependencies"]) - names(part["dependencies"]) == {
        "aiohttp",
        "jinja2",
        "torch",
        "truststore",
    }
    for key in ("dynamic", "requires-python", "license", "scripts"):
        assert whole[key] == part[key], key
    assert WHOLE["tool"]["setuptools"]["package-data"] == PART["tool"]["setuptools"]["package-data"]


@pytest.fixture
def slim(tmp_path):
    """Run a command in a process without the other packages."""
    command = [sys.executable, "-c", WITHOUT, ",".join(sorted(absent()))]

    def run(*arguments, wait=True, code=0):
        process = subprocess.Popen(
            [*command, *map(str, arguments)], cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if not wait:
            return process
        out, _ = process.communicate(timeout=300)
        assert process.returncode == code, (arguments, out)
        return out

    return run


def test_a_shop_runs_without_pytorch(slim, tmp_path):
    """From the first day to a server that answers."""
    shop(customers=80, products=48, orders=1500).write(tmp_path)
    slim(
        "data", "table", "orders.csv", "--user-column", "customer_id", "--item-column", "product_id",
        "--timestamp-column", "ordered_at", "--items", "products.csv", "--split", "temporal 8:1:1", "-w", "w",
    )  # fmt: skip
    slim("encode", "-w", "w", "--encoder", "tfidf", "--set", "dim=16")
    slim("train", "-w", "w", "--name", "chosen")
    slim("train", "-w", "w", "--final", "--like", "chosen", "--name", "live")
    slim("publish", "-w", "w", "--run", "live")
    slim("recommend", "-w", "w", "--run", "live", "--all", "--out", "lists.parquet")
    server = slim("serve", "-w", "w", "--port", 0, wait=False)
    try:
        heard = ""
        while "startup complete" not in heard:  # the address is printed before
            line = server.stdout.readline()
            assert line, heard
            heard += line
        found = re.search(r"http://127.0.0.1:\d+", heard)
        with urllib.request.urlopen(
            f"{found[0]}/v1/users/c000001/recommendations?k=5", timeout=120
        ) as answer:
            assert len(json.load(answer)["items"]) == 5
        request = urllib.request.Request(
            f"{found[0]}/v1/cold/users", b'{"text": "a steel kettle"}', {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert json.load(answer)["items"]
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
    told = slim("train", "-w", "w", "--backbone", "lightgcn", "--epochs", 1, code=1)
    assert "this needs torch, which rlmrec-serve leaves out" in told


def test_the_steps_of_the_image():
    """What is copied exists, and the server takes the options of its command."""
    text = (SLIM / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    for copied in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        for source in copied.split()[:-1]:
            assert (ROOT / source).exists(), source
    [entry] = re.findall(r"^ENTRYPOINT (.+)$", text, re.MULTILINE)
    [command] = re.findall(r"^CMD (\[\"serve.+)$", text, re.MULTILINE)
    assert json.loads(entry) == list(PART["project"]["scripts"])
    options = {"--" + name.replace("_", "-") for name in serve.__annotations__}
    assert {word for word in json.loads(command) if word.startswith("--")} <= options
    composed = (SLIM / "compose.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"(--[a-z-]+)[,\]]", composed)) <= options
