import asyncio
import email.utils
import gc
import json
import logging
import pickle
import random
import time

import pytest
from fault_server import GOOD, HANG, RESET, FaultServer, failure, reply

from rlmrec.errors import AccessError, ConfigError, EndpointError, LLMError, RefusedError, RequestError
from rlmrec.http_client import Pace, _is_same_model
from rlmrec.llm.base import Completion, Usage
from rlmrec.llm.client import OpenAIChat
from rlmrec.profiles.parse import SCHEMA


def chat(server, **options):
    settings = {"backoff": 0.01, "timeout": 5.0, "retries": 3, **options}
    return OpenAIChat("fake", base_url=server.url, **settings)


def ask(llm, prompt="p", times=1):
    async def work():
        try:
            return await asyncio.gather(*(llm.complete("s", f"{prompt}{i}", SCHEMA) for i in range(times)))
        finally:
            await llm.aclose()

    return asyncio.run(work())


def script(*outcomes):
    """The given outcomes one after the other, the last one for ever."""
    return lambda number, body: outcomes[min(number, len(outcomes) - 1)]


def test_an_answer_and_what_was_asked():
    with FaultServer() as server:
        answers = ask(chat(server, seed=7, max_tokens=50))
    assert answers == [Completion(GOOD, Usage(100, 20, 0))]
    body = server.bodies[0]
    assert body["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "p0"}]
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("fake", 50, 0.0, 7)
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA


@pytest.mark.parametrize(
    "fault", [failure(500), failure(502), failure(503), failure(429), failure(408), RESET]
)
def test_faults_that_pass_are_tried_again(fault):
    with FaultServer(script(fault, fault, reply())) as server:
        llm = chat(server)
        assert ask(llm)[0].text == GOOD
    assert (server.requests, llm.tries_repeated) == (3, 2)


def test_a_hang_ends_at_the_time_out():
    with FaultServer(script(HANG, reply())) as server:
        started = time.monotonic()
        assert ask(chat(server, timeout=0.3))[0].text == GOOD
        assert time.monotonic() - started < 5


def test_a_dripping_answer_ends_at_the_time_out_too():
    with FaultServer(latency=3.0) as server, pytest.raises(EndpointError, match=r"no answer within 0\.2 s"):
        ask(chat(server, timeout=0.2, retries=0))


@pytest.mark.parametrize("fault", [failure(500, "kaputt"), RESET, HANG])
def test_giving_up_says_what_happened(fault):
    with FaultServer(script(fault)) as server, pytest.raises(EndpointError, match="no answer in 3 tries"):
        ask(chat(server, retries=2, timeout=0.3))


def test_nobody_listens():
    llm = OpenAIChat("m", base_url="http://127.0.0.1:9/v1", retries=1, backoff=0.01)
    with pytest.raises(EndpointError, match="connection failed"):
        ask(llm)


def test_retry_after_is_kept_to_by_every_request():
    told = []

    def limit(number, body):
        told.append(time.monotonic())
        return failure(429, headers={"retry-after": "0.4"}) if number == 0 else reply()

    with FaultServer(limit) as server:
        llm = chat(server, concurrency=1)
        ask(llm, times=3)
    assert told[1] - told[0] >= 0.4
    assert server.requests == 4


@pytest.mark.parametrize("form", ["seconds", "milliseconds", "date"])
def test_forms_of_retry_after(form):
    headers = {
        "seconds": {"retry-after": "1"},
        "milliseconds": {"retry-after-ms": "1000"},
        "date": {"retry-after": email.utils.formatdate(time.time() + 2, usegmt=True)},
    }[form]
    with FaultServer(script(failure(429, headers=headers), reply())) as server:
        started = time.monotonic()
        assert ask(chat(server))[0].text == GOOD
        assert 0.5 < time.monotonic() - started < 4


@pytest.mark.parametrize("value", ["soon", "-3", "nan", "Thu, 99 Foo 2026", ""])
def test_nonsense_in_retry_after_is_backed_off_from(value):
    with FaultServer(script(failure(429, headers={"retry-after": value}), reply())) as server:
        assert ask(chat(server))[0].text == GOOD


def test_a_pause_that_is_too_long_ends_the_run():
    fault = failure(429, headers={"retry-after": "3600"})
    with FaultServer(script(fault)) as server, pytest.raises(AccessError, match="asks to wait 3600 s"):
        ask(chat(server))


@pytest.mark.parametrize(
    "fault",
    [
        failure(401, "bad key"),
        failure(403),
        failure(404, "no such model"),
        failure(429, "quota", code="insufficient_quota"),
    ],
)
def test_no_access_is_said_at_once(fault):
    with FaultServer(script(fault)) as server:
        with pytest.raises(AccessError):
            ask(chat(server))
        assert server.requests == 1


@pytest.mark.parametrize(
    ("taken", "expected"), [("json_object", "json_object"), ("text", None)], ids=["json_object", "text"]
)
def test_response_formats_fall_back_and_are_remembered(taken, expected):
    def picky(number, body):
        form = body.get("response_format", {}).get("type", "text")
        if form in ("json_schema", "json_object") and form != taken:
            return failure(400, f"response_format type {form} is not supported")
        return reply()

    with FaultServer(picky) as server:
        llm = chat(server)
        ask(llm, "first")
        before = server.requests
        ask(llm, "second", times=3)
        assert server.requests == before + 3
    assert server.bodies[-1].get("response_format", {}).get("type") == expected


def test_a_server_that_does_not_say_what_it_dislikes():
    def mute(number, body):
        return failure(400, "Bad Request") if "response_format" in body else reply()

    with FaultServer(mute) as server:
        llm = chat(server)
        assert ask(llm)[0].text == GOOD
        ask(llm, "again")
        assert server.requests == 4  # schema, object, text; then text at once


def test_one_bad_prompt_does_not_cost_the_format():
    def one(number, body):
        return failure(400, "cannot") if body["messages"][-1]["content"] == "bad0" else reply()

    with FaultServer(one) as server:
        llm = chat(server)
        ask(llm)
        with pytest.raises(RequestError, match="cannot"):
            ask(llm, "bad")
        ask(llm, "fine")
    assert server.bodies[-1]["response_format"]["type"] == "json_schema"


def test_parameters_that_a_model_refuses():
    def reasoning_model(number, body):
        if "max_tokens" in body:
            return failure(
                400, "Unsupported parameter: use 'max_completion_tokens' instead", param="max_tokens"
            )
        if "temperature" in body:
            return failure(400, "Unsupported value: 'temperature' does not support 0", param="temperature")
        return reply()

    with FaultServer(reasoning_model) as server:
        llm = chat(server)
        ask(llm)
        ask(llm, "again")
        assert server.requests == 4
    assert server.bodies[-1]["max_completion_tokens"] == 600
    assert server.bodies[-1]["response_format"]["type"] == "json_schema"


def test_too_long_a_prompt_concerns_itself_alone():
    fault = failure(400, "maximum context length is 4096", code="context_length_exceeded")
    with FaultServer(script(fault)) as server:
        llm = chat(server)
        with pytest.raises(RequestError, match="4096"):
            ask(llm)
    assert llm.body("s", "p", SCHEMA)["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    "fault",
    [
        failure(400, "filtered", code="content_filter"),
        reply(None, finish="content_filter"),
        reply(message={"role": "assistant", "content": None, "refusal": "I can't help with that."}),
    ],
)
def test_refusals_are_recognised_and_not_repeated(fault):
    with FaultServer(script(fault)) as server:
        with pytest.raises(RefusedError) as caught:
            ask(chat(server))
        assert server.requests == 1
    assert caught.value.raw


def test_empty_choices_and_missing_parts():
    empty = (200, {}, b'{"choices": []}')
    parts = reply(message={"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]})
    with FaultServer(script(empty, reply(None), parts, reply("x", finish="length"))) as server:
        llm = chat(server, concurrency=1)
        assert [ask(llm)[0].text for _ in range(3)] == ["", "", "ab"]
        assert ask(llm)[0].finish == "length"


@pytest.mark.parametrize("content", [b"<html>proxy</html>", b"", b"\xff\xfe", b"[]", b'{"choices": 3}'])
def test_a_body_that_is_no_completion_is_tried_again(content):
    with FaultServer(script((200, {}, content), reply())) as server:
        assert ask(chat(server))[0].text == GOOD


def test_bytes_that_are_no_utf8():
    content = reply("caf\x00")[2].replace(b"caf\\u0000", b"caf\xe9")
    with FaultServer(script((200, {}, content))) as server:
        assert ask(chat(server))[0].text == "caf\ufffd"


def test_concurrency_is_bounded():
    with FaultServer(latency=0.05) as server:
        ask(chat(server, concurrency=4), times=20)
    assert server.most == 4


def test_the_key_is_sent_and_stands_nowhere_else(monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    caplog.set_level(logging.DEBUG)
    echo = failure(401, "Incorrect API key provided: sk-very-secret")
    with FaultServer(script(reply(), echo)) as server:
        llm = chat(server, key_env="MY_KEY")
        ask(llm)
        assert server.headers[0]["authorization"] == "bearer sk-very-secret"
        with pytest.raises(AccessError) as caught:
            ask(llm, "again")
    assert "[key]" in str(caught.value)
    shown = f"{caught.value} {caught.value.raw} {vars(llm)} {llm.options} {caplog.text}"
    assert "sk-very-secret" not in shown
    assert b"sk-very-secret" not in pickle.dumps(llm)


def test_no_key_for_an_endpoint_that_needs_one():
    with pytest.raises(ConfigError, match="OPENAI_API_KEY holds no key"):
        ask(OpenAIChat("gpt-4o-mini"))


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_several_event_loops_one_after_the_other(caplog):
    with FaultServer() as server:
        llm = chat(server)
        for _ in range(3):
            assert asyncio.run(llm.complete("s", "p")).text == GOOD
        llm._connection = None
        gc.collect()
    assert not caplog.records, "each loop closes its connections, so nothing is said about open ones"


def test_options_out_of_range():
    for wrong in ({"concurrency": 0}, {"max_tokens": 0}, {"timeout": 0}, {"retries": -1}):
        with pytest.raises(ConfigError):
            OpenAIChat("m", **wrong)


def test_further_fields_of_the_request():
    with FaultServer() as server:
        llm = chat(server, extra_body={"top_k": 3})
        ask(llm)
    assert server.bodies[0]["top_k"] == 3
    assert json.dumps(llm.options)  # goes into the hash


SECRET = "sk-very-secret/1"


def everything(error):
    return f"{error!r} {error} {getattr(error, 'raw', None)}"


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        ((200, {}, b"<pre>Authorization: Bearer sk-very-secret/1</pre>"), EndpointError),
        ((200, {}, b" " * 19_990 + b"sk-very-secret/1"), EndpointError),
        ((200, {}, rb'{"headers": "Bearer sk-very-secret\/1"}'), EndpointError),
        (failure(500, "Bearer SK-VERY-SECRET/1"), EndpointError),
        (failure(400, "b'Bearer sk-very-secret/1'"), RequestError),
        (failure(400, "x" * 480 + SECRET), RequestError),
        (failure(401, f"bad key {SECRET}"), AccessError),
        (reply(message={"content": None, "refusal": f"I will not use {SECRET}."}), RefusedError),
    ],
)
def test_no_error_holds_the_key(fault, raised, monkeypatch):
    monkeypatch.setenv("MY_KEY", f" {SECRET}\n")
    with FaultServer(script(fault)) as server, pytest.raises(raised) as caught:
        ask(chat(server, key_env="MY_KEY", retries=1))
    assert server.headers[0]["authorization"] == f"bearer {SECRET}", "sent without the line break"
    assert "very-secret" not in everything(caught.value).lower()


def test_no_answer_holds_the_key_and_a_key_that_is_none_costs_no_letter(monkeypatch):
    monkeypatch.setenv("MY_KEY", SECRET)
    with FaultServer(script(reply(f"Your key is {SECRET}."))) as server:
        assert ask(chat(server, key_env="MY_KEY"))[0].text == "Your key is [key]."
        monkeypatch.setenv("MY_KEY", "e")
        assert SECRET in ask(chat(server, key_env="MY_KEY"))[0].text


@pytest.mark.parametrize("key", ["sk-very\nsecret", "sk-very-sécret", "sk-very\x00secret"])
def test_what_is_no_key_is_refused_unseen(key, monkeypatch):
    monkeypatch.setattr("os.environ", {"MY_KEY": key})
    with (
        FaultServer() as server,
        pytest.raises(ConfigError, match=r"\$MY_KEY holds something other than a key") as caught,
    ):
        ask(chat(server, key_env="MY_KEY"))
    assert server.requests == 0
    assert "sk-very" not in str(caught.value)


def test_a_key_in_place_of_its_variable_is_not_repeated():
    with pytest.raises(ConfigError, match="name of an environment variable") as caught:
        OpenAIChat("m", key_env="sk-very-secret")
    assert "sk-very" not in str(caught.value)


@pytest.mark.parametrize(
    "fault", [failure(401), failure(404, "me:hunter22 from bWU6aHVudGVyMjI="), failure(500)]
)
def test_no_error_holds_what_an_address_hides(fault):
    with FaultServer(script(fault)) as server:
        llm = OpenAIChat("m", base_url=server.url.replace("http://", "http://me:hunter22@"), retries=0)
        with pytest.raises(LLMError) as caught:
            ask(llm)
    assert f"http://127.0.0.1:{server.port}/v1" in str(caught.value)
    for secret in ("hunter22", "bWU6aHVudGVyMjI="):
        assert secret not in everything(caught.value)


@pytest.mark.parametrize(
    "url",
    ["localhost:11434/v1", "", "ftp://host", "http://", "http://host:port", "me:pw@host/v1", "http://a\n"],
)
def test_an_address_that_is_none(url):
    with pytest.raises(ConfigError, match="expected an address such as") as caught:
        OpenAIChat("m", base_url=url)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize("status", [500, 501])
def test_a_format_that_a_server_fails_on_is_lowered(status):
    def llama(number, body):
        if body.get("response_format", {}).get("type") == "json_schema":
            return failure(status, "Failed to parse json_schema: no grammar")
        return reply()

    with FaultServer(llama) as server:
        llm = chat(server)
        assert ask(llm)[0].text == GOOD
        ask(llm, "again")
    assert [body["response_format"]["type"] for body in server.bodies] == ["json_schema"] + [
        "json_object"
    ] * 2


def test_a_passing_fault_that_names_a_format_costs_it_once():
    with FaultServer(script(reply(), failure(500, "json_schema worker died"), reply())) as server:
        llm = chat(server)
        for prompt in "abc":
            ask(llm, prompt)
    assert server.bodies[-1]["response_format"]["type"] == "json_schema"


def test_a_server_that_fails_whatever_the_format_gives_no_answer():
    with FaultServer(script(failure(500, "json_schema"))) as server, pytest.raises(EndpointError):
        ask(chat(server, retries=1))


def test_a_refusal_of_max_tokens_by_name():
    def picky(number, body):
        return failure(400, "not supported", param="max_tokens") if "max_tokens" in body else reply()

    with FaultServer(picky) as server:
        ask(chat(server))
    assert server.bodies[-1]["max_completion_tokens"] == 600
    assert server.bodies[-1]["response_format"]["type"] == "json_schema"


def test_requests_to_a_reasoning_model_from_the_start():
    llm = OpenAIChat("o", reasoning=True)
    body = llm.body("s", "p", SCHEMA)
    assert body["max_completion_tokens"] == 600
    assert not {"max_tokens", "temperature"} & set(body)
    assert llm.options == OpenAIChat("o").options, "the hash of a question does not hang on it"


def test_a_refusal_that_was_paid_for_says_what_it_took():
    refused = reply(message={"content": None, "refusal": "No."}, completion_tokens=7)
    with FaultServer(script(refused)) as server, pytest.raises(RefusedError) as caught:
        ask(chat(server))
    assert caught.value.usage == Usage(100, 7, 0)


# -- answers that hold anything ------------------------------------------------------------------------


def raw_reply(usage):
    head = (
        '{"choices": [{"finish_reason": "stop", "message": {"content": ' + json.dumps(GOOD) + '}}], "usage": '
    )
    return 200, {}, (head + usage + "}").encode()


@pytest.mark.parametrize("tokens", ["1e999", "1" + "0" * 30, "-1", "NaN", '"7"', "true", "[7]"])
def test_a_number_of_tokens_that_is_none_does_not_lose_the_answer(tokens):
    usage = f'{{"prompt_tokens": {tokens}, "completion_tokens": 3}}'
    with FaultServer(script(raw_reply(usage))) as server:
        answer = ask(chat(server))[0]
    assert (answer.text, answer.usage.completion) == (GOOD, 3)
    assert answer.usage.prompt == 0


@pytest.mark.parametrize(
    "body",
    ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, '{"choices": [[[]]]}', '{"choices": ' + "[" * 50_000],
)
def test_an_answer_that_cannot_be_read_is_one_failed_request(body):
    with FaultServer(lambda number, asked: (200, {}, body.encode())) as server:
        llm = chat(server, retries=0)
        if body == '{"choices": [[[]]]}':
            assert ask(llm)[0].text == ""
        else:
            with pytest.raises(EndpointError, match="HTTP 200 without"):
                ask(llm)


def test_an_error_in_a_200_is_told_and_not_repeated():
    refused = {"error": {"message": "the model is on holiday", "code": "bad_model_state"}}
    with (
        FaultServer(script((200, {}, json.dumps(refused).encode()))) as server,
        pytest.raises(RequestError, match="the model is on holiday"),
    ):
        ask(chat(server, retries=6))
    assert server.requests <= 3, "the response formats fall back once"
    busy = {"error": {"message": "slow down", "code": 429}}
    with FaultServer(script((200, {}, json.dumps(busy).encode()), reply())) as server:
        assert ask(chat(server))[0].text == GOOD


def test_a_redirect_to_another_host_is_refused_and_gets_nothing():
    with FaultServer() as elsewhere:
        moved = 307, {"location": elsewhere.url + "/chat/completions"}, b"{}"
        with (
            FaultServer(lambda number, body: moved) as server,
            pytest.raises(AccessError, match="another host"),
        ):
            ask(chat(server))
    assert elsewhere.requests == 0


def test_a_redirect_on_the_same_host_is_followed():
    with FaultServer(script((307, {"location": "/v1/other"}, b"{}"), reply())) as server:
        assert ask(chat(server))[0].text == GOOD


def test_redirects_in_a_circle_end():
    with (
        FaultServer(script((302, {"location": "/v1/chat/completions"}, b""))) as server,
        pytest.raises(EndpointError, match="more than 5 redirects"),
    ):
        ask(chat(server, retries=0))


def test_a_proxy_of_the_environment_is_used(monkeypatch):
    for name in ("HTTP_PROXY", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MY_KEY", "sk-of-the-endpoint")
    with FaultServer() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("http://", "http://me:hunter22@"))
        llm = OpenAIChat("m", base_url="http://nowhere.invalid/v1", key_env="MY_KEY", timeout=5, retries=0)
        assert ask(llm)[0].text == GOOD
        assert proxy.headers[0]["host"] == "nowhere.invalid"
        assert proxy.headers[0]["proxy-authorization"] == "basic bwu6ahvudgvymji="  # FaultServer lowers it
        assert proxy.headers[0]["authorization"] == "bearer sk-of-the-endpoint"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with FaultServer() as server:
            ask(chat(server))
        assert (proxy.requests, server.requests) == (1, 1)
    with pytest.raises(EndpointError) as caught:
        ask(llm)
    assert "hunter22" not in everything(caught.value)
    monkeypatch.setenv("http_proxy", "socks5://me:hunter22@127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"socks5://127\.0\.0\.1:9 of the environment is not an HTTP proxy"):
        ask(llm)


def test_requests_and_tokens_a_minute_are_kept():
    """By a clock of the test: no minute holds more requests or tokens than allowed, and none is wasted."""
    rng = random.Random(0)
    for rpm, tpm in ((30, None), (None, 9000), (40, 5000)):
        pace, now, sent = Pace(rpm, tpm), 1000.0, []
        for _ in range(400):
            now += rng.choice((0.0, 0.0, 0.5, 3.0))
            tokens = rng.randrange(1, 300)
            sent.append((now + pace.wait(tokens, now), tokens))
        for start, _ in sent:
            within = [tokens for at, tokens in sent if start < at < start + 60 - 1e-6]
            assert rpm is None or len(within) <= rpm
            assert tpm is None or sum(within) <= tpm + 300
        assert len([at for at, _ in sent if at < 1060]) > (25 if rpm else 40), "as many as allowed"
    assert Pace().wait(10**9, 5.0) == 0


@pytest.mark.parametrize("options", [{"rpm": 0}, {"tpm": -1}, {"rpm": float("nan")}])
def test_a_pace_out_of_range(options):
    with pytest.raises(ConfigError, match="rpm and tpm must be positive"):
        OpenAIChat("m", base_url="http://127.0.0.1:9/v1", **options)


def test_requests_wait_for_their_turn(monkeypatch):
    waited = []

    async def sleep(seconds):
        waited.append(seconds)

    monkeypatch.setattr("rlmrec.http_client.asyncio.sleep", sleep)
    with FaultServer() as server:
        ask(chat(server, rpm=0.5, concurrency=1), times=3)
    assert [round(seconds, -1) for seconds in waited[:2]] == [120, 240]


@pytest.mark.parametrize(
    "fault",
    [
        failure(400, "maximum context length is 512 tokens", code="context_length_exceeded"),
        failure(413, "too big"),
        failure(400, "Bad Request"),
    ],
)
def test_a_prompt_that_is_refused_for_its_length_is_cut(fault):
    def bounded(number, body):
        return fault if len(body["messages"][1]["content"]) > 2000 else reply()

    with FaultServer(bounded) as server:
        llm = chat(server)
        assert ask(llm, "short")[0].prompt_cut is False
        cut = ask(llm, "word " * 1000)[0]
        assert (cut.text, cut.prompt_cut, llm.shortened) == (GOOD, True, 1)
        ask(llm, "fine")
    assert server.bodies[-1]["response_format"]["type"] == "json_schema", "a long prompt costs no format"


def test_a_prompt_that_is_refused_however_short_is_given_up():
    with FaultServer(lambda number, body: failure(400, "never")) as server:
        llm = chat(server)
        for _ in range(5):
            with pytest.raises(RequestError, match="never"):
                ask(llm, "word " * 2000)
        before = server.requests
        with pytest.raises(RequestError, match="never"):
            ask(llm, "word " * 2000)
        assert server.requests == before + 3, "when all are refused, none is cut any more"


def test_another_models_name_in_the_answer_is_kept():
    status, headers, body = reply()
    named = json.dumps({**json.loads(body), "model": "smaller-model"}).encode()
    with FaultServer(lambda number, asked: (status, headers, named)) as server:
        llm = chat(server)
        ask(llm)
        ask(llm, "again")
    assert llm.other_models == {"smaller-model": 2}
    assert "2 answers name another model than 'fake'" in str(llm.findings()[0])


@pytest.mark.parametrize(
    ("asked", "named", "same"),
    [
        ("gpt-4o", "gpt-4o-2024-08-06", True), ("gpt-4o", "gpt-4o-mini", False), ("qwen3", "qwen3:8b", True),
        ("qwen3:70b", "qwen3:8b", False), ("Org/Name", "name", True), ("name", "/models/name.gguf", True),
        ("llama3", "llama3:latest", True), ("a", "b" * 10**6, False),
    ],
)  # fmt: skip
def test_which_names_are_the_same_model(asked, named, same):
    assert _is_same_model(asked, named) is same
