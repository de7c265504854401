"""The answers that ship with the package for the quickstart: where they are from, and that they still fit."""

import hashlib
import json
from importlib import resources

import pytest

from rlmrec.llm.local import LocalChat
from rlmrec.llm.replay import Replay
from rlmrec.profiles.parse import WORDS, parse
from rlmrec.profiles.prompts import PromptOptions
from rlmrec.profiles.template import load_template

FILE = resources.files("rlmrec.profiles") / "movielens-100k.jsonl.gz"


@pytest.fixture(scope="module")
def replay():
    return Replay(FILE)


def test_provenance(replay):
    assert {"date", "command", "prompts_sha256"} <= set(replay.manifest)
    assert replay.manifest["command"].startswith("rlmrec profile ")
    assert FILE.stat().st_size < 2e6


@pytest.mark.parametrize("kind", ["item", "user"])
def test_the_prompts_are_still_those_that_were_answered(replay, kind):
    """Whoever changes a prompt of the movies must ask again; else the quickstart finds no answers."""
    source = load_template(kind, "movies", small=True).source
    assert replay.manifest["prompts_sha256"][kind] == hashlib.sha256(source.encode()).hexdigest()
    options = replay.manifest["prompt_options"]
    assert PromptOptions(**options) == PromptOptions()


def test_the_embedded_model_would_ask_the_same(replay):
    local = LocalChat()
    assert replay.name == local.name
    assert replay.options == json.loads(json.dumps(local.options))


def test_every_answer_parses(replay):
    assert len(replay._answers) > 1900
    for answer in replay._answers.values():
        assert parse(answer.text, max(WORDS.values())).summarization
