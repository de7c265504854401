import json

import pytest
import typer
from fault_server import FaultServer, reply
from made_dataset import make_dataset
from typer.testing import CliRunner

from rlmrec.cli.profile import audit, profile
from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.llm.local import LocalChat
from rlmrec.llm.store import Profile, Store

app = typer.Typer()
app.command()(profile)
app.command()(audit)


def rlmrec(*arguments, ok=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == ok, result.output
    return result.stdout


@pytest.fixture
def folder(tmp_path):
    make_dataset().save(tmp_path / "W" / "dataset")
    return tmp_path / "W"


@pytest.fixture
def server():
    with FaultServer() as server:
        yield server


def at(server):
    return "--model", "fake", "--base-url", server.url


def test_items_users_audit_and_again(folder, server):
    told = json.loads(rlmrec("profile", "-w", folder, "--items", "--users", *at(server), "--json"))
    assert (told["item"]["profiled"], told["user"]["profiled"], told["user"]["requests"]) == (8, 6, 6)
    again = rlmrec("profile", "-w", folder, "--items", "--users", *at(server))
    assert "items: 8 of 8 profiled, 0 failed, 0 left; 0 requests" in again
    assert server.requests == 14
    assert "passed: the prompts of 8 items, 6 users used" in rlmrec("audit", "-w", folder)


def test_a_planted_leak_fails_the_audit(folder, server):
    rlmrec("profile", "-w", folder, "--items", *at(server))
    held_out = int(make_dataset().test.id[0])
    with Store(folder / "profiles.sqlite") as store:
        store.put_profile(Profile("item", 100, "x", None, "h", (held_out,), dataset=make_dataset().content))
    told = rlmrec("audit", "-w", folder, ok=1)
    assert f"interaction {held_out}, which is held out for test" in told
    plain = json.loads(rlmrec("audit", "-w", folder, "--json", ok=1))
    assert (plain["passed"], plain["violations"]) == (False, 1)


def test_exit_code_3_when_some_failed(folder):
    with FaultServer(lambda number, body: reply("no")) as server:
        told = rlmrec("profile", "-w", folder, "--items", *at(server), "--limit", "2", ok=3)
        assert "0 of 8 profiled, 2 failed, 6 left; 6 requests" in told
        assert "malformed 2" in told
    with FaultServer() as server:
        rlmrec("profile", "-w", folder, "--items", *at(server), ok=3)  # the two are still failed
        assert "8 of 8" in rlmrec("profile", "-w", folder, "--items", *at(server), "--retry-failed")


def test_dry_run_asks_nothing(folder, server):
    prices = ("--price-in", "1", "--price-out", "2")
    told = rlmrec("profile", "-w", folder, "--items", "--users", *at(server), "--dry-run", *prices)
    assert "items: 8 requests of 8" in told
    assert "prompt 3, item 102" in told
    assert "cost 0." in told
    assert server.requests == 0
    estimate = json.loads(rlmrec("profile", "-w", folder, "--items", *at(server), "--dry-run", "--json"))
    assert estimate["item"]["cost"] is None
    assert len(estimate["item"]["samples"]) == 3


def test_max_cost_stops_and_says_so(folder, server):
    prices = ("--price-in", "10", "--price-out", "10", "--max-tokens", "20")
    told = rlmrec("profile", "-w", folder, "--items", *at(server), *prices, "--max-cost", "0.01", ok=3)
    assert "stopped: the next request could take the cost over the bound of 0.01" in told
    assert 0 < server.requests < 8


def test_batch_files(folder, tmp_path, server):
    out, back = tmp_path / "out.jsonl", tmp_path / "back.jsonl"
    named = ("--model", "gpt-4o-mini")
    assert "wrote 8 requests" in rlmrec("profile", "-w", folder, "--items", *named, "--batch-out", out)
    body = json.loads(reply()[2])
    lines = [
        {"custom_id": json.loads(line)["custom_id"], "response": {"status_code": 200, "body": body}}
        for line in out.read_text().splitlines()
    ]
    back.write_text("\n".join(json.dumps(line) for line in lines[:5]))
    told = rlmrec("profile", "-w", folder, "--items", *named, "--batch-in", back)
    assert "read 5 answers" in told
    assert "3 still need an answer" in told
    with pytest.raises(ConfigError, match="one kind"):
        rlmrec("profile", "-w", folder, "--items", "--users", *named, "--batch-out", out)


def test_export_and_replay(folder, tmp_path, server):
    file = tmp_path / "answers.jsonl.gz"
    rlmrec("profile", "-w", folder, "--items", "--users", *at(server), "--domain", "books", "--export", file)
    make_dataset().save(tmp_path / "V" / "dataset")
    before = server.requests
    told = rlmrec(
        "profile", "-w", tmp_path / "V", "--items", "--users", "--domain", "books", "--replay", file
    )
    assert "8 of 8" in told
    assert "6 of 6" in told
    assert server.requests == before


def test_own_prompts(folder, tmp_path, server):
    own = tmp_path / "prompts"
    own.mkdir()
    (own / "item.md").write_text("# System\nSum up. JSON.\n# Prompt\nWINE {{ fields.title }}")
    rlmrec("profile", "-w", folder, "--items", *at(server), "--prompts", own, "--limit", "1")
    assert server.bodies[0]["messages"][1]["content"] == 'WINE "Title 0"'


def test_wrong_use(folder, tmp_path):
    with pytest.raises(ConfigError, match="--items, --users or both"):
        rlmrec("profile", "-w", folder)
    with pytest.raises(ConfigError, match="both prices"):
        rlmrec("profile", "-w", folder, "--items", "--price-in", "1")
    with pytest.raises(ConfigError, match="holds no key"):
        rlmrec("profile", "-w", folder, "--items", "--model", "gpt-4o-mini")
    with pytest.raises(WorkspaceError, match="no dataset"):
        rlmrec("profile", "-w", tmp_path / "none", "--items")
    other = tmp_path / "other"
    make_dataset().save(other / "dataset")
    with pytest.raises(WorkspaceError, match="write profiles"):
        rlmrec("audit", "-w", other)


@pytest.mark.skipif(LocalChat.missing() is not None, reason=str(LocalChat.missing()))
def test_the_embedded_model_writes_real_profiles(folder):
    told = json.loads(rlmrec("profile", "-w", folder, "--items", "--limit", "2", "--threads", "1", "--json"))
    assert (told["item"]["profiled"], told["item"]["failed"]) == (2, {})
    with Store(folder / "profiles.sqlite") as store:
        assert len(store.profile("item", 100).summarization) > 5
