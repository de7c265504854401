import json

import pytest
import typer
from fault_server import GOOD, FaultServer, failure, reply
from made_dataset import make_dataset
from typer.testing import CliRunner

from rlmrec.cli.audit import audit
from rlmrec.cli.profile import profile
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
    assert [path.name for path in folder.iterdir()] == ["dataset"], "no empty store is left behind"


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
    told = rlmrec("profile", "-w", folder, "--items", *named, "--batch-in", back, ok=3)
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--base-url", "http://127.0.0.1:9/v1"],
            "--base-url is for a model at an endpoint: give --model NAME",
        ),
        (["--concurrency", "16"], "--concurrency is not used by the embedded model"),
        (["--max-tokens", "600"], "--max-tokens is not used by the embedded model"),
        (["--model", "local", "--timeout", "9"], "--timeout is not used by the embedded model"),
        (["--key-env", "K"], "--key-env is not used by the embedded model"),
        (["--model", "m", "--threads", "2"], "--threads is not used by a model at an endpoint"),
        (["--replay", "f", "--threads", "2"], "--threads is not used by --replay"),
        (["--model", "m", "--batch-in", "f", "--limit", "2"], "--limit is not used by --batch-in"),
        (["--model", "m", "--batch-out", "f", "--base-url", "u"], "--base-url is not used by --batch-out"),
        (["--model", "m", "--batch-in", "f", "--batch-out", "g"], "--batch-out and --batch-in exclude"),
        (["--model", "m", "--batch-out", "f", "--dry-run"], "--batch-out and --dry-run exclude"),
        (["--replay", "f", "--batch-in", "g"], "--replay and --batch-in exclude"),
        (["--batch-in", "f"], "the embedded one has no batch files"),
        (["--model", "m", "--base-url", "127.0.0.1:9"], "expected an address such as"),
        (["--model", "m", "--max-cost", "inf", "--price-in", "1", "--price-out", "1"], "max_cost must be"),
    ],
)
def test_options_that_would_be_without_effect_are_refused(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        rlmrec("profile", "-w", folder, "--items", *options)


def test_no_access_keeps_the_summary(folder):
    with FaultServer(lambda number, body: failure(401, "bad key") if number > 2 else reply()) as server:
        told = rlmrec("profile", "-w", folder, "--items", *at(server), "--concurrency", "1", ok=3)
        assert "items: 3 of 8 profiled, 0 failed, 5 left; 3 requests" in told
        assert "stopped: the endpoint" in told
        arguments = ("profile", "-w", folder, "--items", "--users", *at(server), "--json")
        plain = json.loads(rlmrec(*arguments, ok=3))
    assert (plain["item"]["profiled"], plain["item"]["requests"], set(plain)) == (3, 0, {"item"})
    assert "refuses access" in plain["item"]["stopped"]


def test_reasons_are_shown_and_what_a_retry_would_change(folder):
    def script(number, body):
        text = body["messages"][-1]["content"]
        return (
            failure(503, "overloaded")
            if "Title 1" in text
            else failure(400, "bad")
            if "Title 2" in text
            else reply()
        )

    with FaultServer(script) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlmrec.http_client.random.uniform", lambda low, high: 0.001)
        told = rlmrec("profile", "-w", folder, "--items", *at(server), ok=3)
        assert "endpoint, mostly: no answer in 7 tries, the last one: HTTP 503" in told
        assert "request, mostly: the endpoint refused the request: HTTP 400" in told
        assert "1 requests without an answer are sent again by the next run" in told
        assert "--retry-failed requests unusable answers again" in told
        estimate = ("profile", "-w", folder, "--items", *at(server), "--dry-run", "--json")
        assert json.loads(rlmrec(*estimate))["item"]["requests"] == 1
        assert json.loads(rlmrec(*estimate, "--retry-failed"))["item"]["requests"] == 2


def test_a_replay_picks_its_model_and_costs_nothing(folder, tmp_path, server):
    for name in ("one", "two"):
        rlmrec("profile", "-w", folder, "--items", "--model", name, "--base-url", server.url)
    make_dataset().save(tmp_path / "V" / "dataset")
    replayed = ("profile", "-w", tmp_path / "V", "--items", "--replay", folder / "profiles.sqlite")
    with pytest.raises(ConfigError, match="pick one by its name"):
        rlmrec(*replayed)
    with pytest.raises(ConfigError, match="0 do"):
        rlmrec(*replayed, "--model", "two", "--max-tokens", "7")
    prices = ("--price-in", "1", "--price-out", "1")
    told = json.loads(rlmrec(*replayed, "--model", "two", "--max-tokens", "600", *prices, "--json"))["item"]
    assert (told["profiled"], told["requests"], told["cached"], told["cost"]) == (8, 0, 8, 0)
    with Store(tmp_path / "V" / "profiles.sqlite") as store:
        assert store.profile("item", 100).model == "two"


def test_an_export_does_not_tell_what_an_address_hides(folder, tmp_path, server, monkeypatch):
    url = server.url.replace("http://", "http://me:hunter22@")
    monkeypatch.setattr("sys.argv", ["rlmrec", "profile", "--base-url", url, f"--base-url={url}?key=k"])
    file = tmp_path / "answers.jsonl"
    rlmrec("profile", "-w", folder, "--items", "--model", "m", "--base-url", url, "--export", file)
    head = file.read_text().splitlines()[0]
    assert json.loads(head)["command"] == f"rlmrec profile --base-url {server.url} --base-url={server.url}"
    assert "hunter22" not in head


def test_a_cost_that_is_estimated_says_so(folder):
    without = (200, {}, json.dumps({"choices": [{"message": {"content": GOOD}}]}).encode())
    prices = ("--price-in", "10", "--price-out", "10", "--max-tokens", "20", "--max-cost", "0.01")
    with FaultServer(lambda number, body: without) as server:
        told = rlmrec("profile", "-w", folder, "--items", *at(server), *prices, ok=3)
    assert "did not count the tokens of" in told
    assert "over the bound" in told


@pytest.mark.ray
def test_rays_workers_write_the_same_profiles_and_send_each_request_once(ray_here, tmp_path):
    stored = {}
    for name in ("local", "ray"):
        make_dataset().save(tmp_path / name / "dataset")
        with FaultServer(lambda number, body: reply("no") if number == 3 else reply()) as server:
            told = rlmrec(
                "profile", "-w", tmp_path / name, "--items", "--users", *at(server),
                "--concurrency", 96, "--engine", name, "--json",
            )  # fmt: skip
            assert max(server.answered.values()) == 1
            assert server.requests == 15, "14 nodes, one of which is asked again"
        assert json.loads(told)["item"]["profiled"] == 8
        with Store(tmp_path / name / "profiles.sqlite") as store:
            stored[name] = [
                (profile.kind, profile.key, profile.summarization)
                for kind in ("item", "user")
                for profile in store.profiles(kind)
            ]
    assert stored["local"] == stored["ray"]


@pytest.mark.ray
def test_an_endpoint_that_refuses_access_stops_rays_workers_too(ray_here, folder):
    with FaultServer(lambda number, body: failure(401)) as server:
        told = rlmrec("profile", "-w", folder, "--items", *at(server), "--engine", "ray", ok=3)
    assert "refuses access (HTTP 401" in " ".join(told.split())
