"""The client of embeddings endpoints against a fake one: what is sent, what is made of every fault."""

import asyncio
import json
import pickle

import numpy as np
import pytest
from fault_server import HANG, RESET, FaultServer, embedded, failure, vector_of

from rlmrec.errors import AccessError, ConfigError, DataError, EndpointError, RequestError
from rlmrec.testing import blocks, check_text_encoder
from rlmrec.text import OpenAIEmbeddings, VectorCache, encode_dataset, encode_texts

TEXTS = [f"text number {row}" for row in range(10)]


def client(server, **options):
    settings = {"backoff": 0.01, "timeout": 5.0, "retries": 3, **options}
    return OpenAIEmbeddings("fake", base_url=server.url, **settings)


def well(number, body):
    return embedded(body)


def script(*outcomes):
    """The given outcomes one after the other, then ordinary answers."""
    return lambda number, body: outcomes[number] if number < len(outcomes) else embedded(body)


def expected(texts):
    return np.array([vector_of(text) for text in texts], np.float32)


def test_vectors_in_the_order_of_the_texts_and_what_was_asked():
    with FaultServer(well) as server:
        encoder = client(server, batch_texts=4)
        assert encoder.dim is None
        vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, expected(TEXTS))
    assert (encoder.dim, encoder.tokens) == (4, 100)
    assert sorted(len(body["input"]) for body in server.bodies) == [2, 4, 4]
    assert {key: value for key, value in server.bodies[0].items() if key != "input"} == {
        "model": "fake", "encoding_format": "float",
    }, "never a parameter that shortens vectors"  # fmt: skip


def test_it_owes_what_an_encoder_owes():
    with FaultServer(well) as server:
        check_text_encoder(client(server, batch_texts=2))


def test_requests_are_bounded_by_tokens_and_at_once():
    with FaultServer(well, latency=0.05) as server:
        client(server, batch_tokens=20, concurrency=3).encode(["long " * 100, *TEXTS])
    assert ("long " * 100,) in server.received, "a text beyond the bound goes alone"
    assert max(len(body["input"]) for body in server.bodies) < len(TEXTS)
    assert 1 < server.most <= 3


def test_a_text_of_nothing_and_half_a_character():
    with FaultServer(well) as server:
        client(server).encode(["", "half \ud83d"])
    assert server.bodies[0]["input"] == [" ", "half ?"]


@pytest.mark.parametrize(
    "fault",
    [failure(500), failure(503), failure(429, headers={"retry-after": "0"}), failure(408), RESET, HANG,
     (200, {}, b"<html>oops</html>"), (200, {}, b'{"data": [{"ind'), (200, {}, b"\xff\xfe"), (200, {}, b"[]")],
)  # fmt: skip
def test_faults_that_pass_are_tried_again(fault):
    with FaultServer(script(fault, fault)) as server:
        encoder = client(server, timeout=0.5)
        assert np.array_equal(encoder.encode(TEXTS), expected(TEXTS))
    assert (server.requests, encoder.tries_repeated) == (3, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": []}, "answered 2 texts with 0 vectors"),
        ({"data": [{"index": 0, "embedding": [1.0]}]}, "answered 2 texts with 1 vectors"),
        ({"data": [{"index": 0, "embedding": [1.0]}] * 2}, r"of the indices \[0, 0\]"),
        ({"data": [{"index": [], "embedding": [1.0]}] * 2}, "expected one vector for each text"),
        (
            {"data": [{"embedding": [1.0]}, {"embedding": [1.0, 2.0]}]},
            "something else than an array of numbers",
        ),
        ({"data": [{"embedding": "AAAA"}, {"embedding": "AAAA"}]}, "something else than an array of numbers"),
        ({"data": [{"embedding": None}, {"embedding": [1.0]}]}, "something else than an array of numbers"),
        ({"data": [7, 7]}, "array of shape"),
        ({"data": [{"embedding": []}, {"embedding": []}]}, "array of shape"),
        ({"data": [{"embedding": [float("nan")]}, {"embedding": [1.0]}]}, "1 of 2 texts with NaN"),
        ({"data": [{"embedding": [1e300]}, {"embedding": [1.0]}]}, "1 of 2 texts with NaN or infinity"),
        ({"data": [{"embedding": [None]}, {"embedding": [1.0]}]}, "1 of 2 texts with NaN"),
    ],
)
def test_wrong_vectors_are_an_error_that_says_so(changes, message):
    with (
        FaultServer(lambda number, body: embedded(body, **changes)) as server,
        pytest.raises(DataError, match=message),
    ):
        client(server).encode(TEXTS[:2])
    assert server.requests == 1, "it was paid for; asking again would pay again"


def test_another_dimension_than_before_is_an_error():
    def shrink(number, body):
        data = [{"index": i, "embedding": [1.0] * (4 - number)} for i in range(len(body["input"]))]
        return embedded(body, data=data)

    with FaultServer(shrink) as server, pytest.raises(DataError, match="vectors of 3 dimensions, 4 before"):
        client(server, batch_texts=5, concurrency=1).encode(TEXTS)


@pytest.mark.parametrize("fault", [failure(500, "kaputt"), RESET])
def test_giving_up_says_what_happened(fault):
    with (
        FaultServer(lambda number, body: fault) as server,
        pytest.raises(EndpointError, match="no answer in 2 tries"),
    ):
        client(server, retries=1).encode(TEXTS)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (failure(401, "bad key sk-secret"), r"refuses access .*\[key\].*check the key in \$MY_KEY"),
        (failure(404, "no such model"), "does not know model 'fake'"),
        (failure(429, "broke", code="insufficient_quota"), "refuses access"),
        (failure(429, headers={"retry-after": "3600"}), "asks to wait 3600 s"),
    ],
)
def test_what_no_further_request_would_get(fault, message, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with (
        FaultServer(lambda number, body: fault) as server,
        pytest.raises(AccessError, match=message) as error,
    ):
        client(server, key_env="MY_KEY").encode(TEXTS)
    assert server.requests == 1
    assert server.headers[0]["authorization"] == "bearer sk-secret"
    assert "sk-secret" not in f"{error.value} {error.value.raw}"


def test_a_key_is_asked_for_before_anything_is_sent():
    with pytest.raises(ConfigError, match=r"\$OPENAI_API_KEY holds no key.*--encoder local"):
        OpenAIEmbeddings("text-embedding-3-small").encode(["x"])


def test_neither_key_nor_password_is_in_name_or_pickle(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    encoder = OpenAIEmbeddings("m", base_url="http://me:pw@host:1/v1/?key=k")
    assert encoder.name == "m (http://host:1/v1)"
    assert b"sk-secret" not in pickle.dumps(encoder)
    assert OpenAIEmbeddings("m").name == "m"


def test_a_refused_batch_is_halved_and_the_server_told_once():
    def small_batches(number, body):
        return failure(422, "batch size too big") if len(body["input"]) > 2 else embedded(body)

    with FaultServer(small_batches) as server:
        vectors = client(server, batch_texts=8, concurrency=1).encode(TEXTS * 4)
    assert np.array_equal(vectors, expected(TEXTS * 4))
    refused = sum(len(body["input"]) > 2 for body in server.bodies)
    assert refused <= 3, "what the server takes is learned"


def refuses(word, fault):
    """A server that refuses every request with a text that contains ``word``."""
    return lambda number, body: (
        fault if any(word in text for text in body["input"]) else embedded(body, model="fake")
    )


def test_a_refused_text_is_named_by_a_caller_who_needs_it():
    with (
        FaultServer(refuses("number 7", failure(400, "no"))) as server,
        pytest.raises(RequestError, match=r"refuses the text 'text number 7': HTTP 400: .*no"),
    ):
        client(server).encode(TEXTS)


# How servers word that a text is too long; the last ones do not say it at all.
TOO_LONG = [
    failure(400, "This model's maximum context length is 50 tokens", code="context_length_exceeded"),  # OpenAI, vLLM
    failure(500, "input is too large to process"),  # llama.cpp
    (413, {}, b'{"error": "`inputs` must have less than 50 tokens", "error_type": "Validation"}'),  # TEI
    failure(400, "The input token count (900) exceeds the maximum number of tokens allowed (50)."),  # Gemini
    (400, {}, b'{"object": "error", "message": "Too many tokens in request", "code": "3210"}'),  # Mistral
    (413, {}, b"<html>413 Request Entity Too Large</html>"),
    failure(400, "Bad Request"),
    (200, {}, json.dumps({"error": {"message": "input rejected", "code": "bad_input"}}).encode()),
]  # fmt: skip


@pytest.mark.parametrize("refusal", TOO_LONG)
def test_a_text_that_is_too_long_is_cut_and_counted_whatever_the_server_says(refusal, tmp_path):
    def bounded(number, body):
        return refusal if max(map(len, body["input"])) > 200 else embedded(body)

    long = "word " * 100
    with FaultServer(bounded) as server, VectorCache(tmp_path / "v.sqlite") as cache:
        vectors, cut = encode_texts(client(server), [*TEXTS, long], cache)
        assert cut.tolist() == [False] * len(TEXTS) + [True]
        assert np.array_equal(vectors[:-1], expected(TEXTS))
        beginning = server.answered.keys() - {(text,) for text in TEXTS}
        # An error in a 200 counts as answered, so the last text that was tried is the shortest.
        kept = min((texts[0] for texts in beginning if len(texts) == 1), key=len)
        assert long.startswith(kept)
        assert 100 < len(kept) <= 200, "no more is cut off than needed"
        assert np.array_equal(vectors[-1:], expected([kept]))
        before = server.requests
        again, cut = encode_texts(client(server), [*TEXTS, long], cache)
        assert server.requests == before
        assert cut[-1], "that it was cut is remembered"
        assert np.array_equal(again, vectors)


@pytest.mark.parametrize(
    "fault", [failure(400, "no"), failure(400, "bad words", code="content_filter"), failure(422, "?")]
)
def test_one_refused_text_is_one_node_without_a_vector(fault):
    dataset, _ = blocks(users=2, items=5)
    texts = [f"a text about item number {row}, long enough to be cut" for row in range(dataset.n_items)]
    texts[3] = f"poison {'word ' * 50}"
    with FaultServer(refuses("poison", fault)) as server:
        encoder = client(server, batch_texts=4)
        found = encode_dataset(dataset, encoder, texts)
        assert server.requests < 20
    assert np.flatnonzero(~found.has_item).tolist() == [3]
    assert np.array_equal(found.items[4:], expected(texts[4:]))
    listed = found.manifest["texts_refused"]
    assert (listed["count"], listed["nodes"][0]["kind"], listed["nodes"][0]["id"]) == (
        1,
        "item",
        dataset.items.id(3),
    )
    assert any(words in listed["nodes"][0]["reason"] for words in ("no", "bad words", "?"))
    assert encoder.batch_texts == 4, "one bad text says nothing about the size of a batch"


def test_a_server_that_refuses_everything_is_found_out_soon():
    texts = [f"an ordinary text, the {row}th of very many" for row in range(500)]
    with (
        FaultServer(lambda number, body: failure(400, "unknown field encoding_format")) as server,
        pytest.raises(RequestError, match=r"refuses every text, plain ones too.*unknown field"),
    ):
        encode_texts(client(server), texts)
    assert server.requests < 400


def test_refused_texts_that_come_first_do_not_end_the_run():
    texts = [f"poison {row} {'word ' * 20}" for row in range(15)]
    with FaultServer(refuses("poison", failure(400, "no"))) as server:
        encoder = client(server, batch_texts=1)
        vectors, _ = encode_texts(encoder, [*texts, "fine"])
    assert len(encoder.refused) == 15
    assert np.array_equal(vectors[-1:], expected(["fine"]))


def test_an_error_in_a_200_is_told_and_not_repeated():
    refused = 200, {}, json.dumps({"error": {"message": "on holiday", "code": "bad_state"}}).encode()
    with FaultServer(lambda number, body: refused) as server, pytest.raises(RequestError, match="on holiday"):
        client(server, retries=6).encode(["x"])
    assert server.requests == 1


def test_another_model_in_the_answers_is_told_with_a_count():
    with FaultServer(lambda number, body: embedded(body, model="tiny")) as server:
        encoder = client(server, batch_texts=5)
        encoder.encode(TEXTS)
    assert [str(finding).partition(":")[0] for finding in encoder.findings()] == [
        "2 answers name another model than 'fake', for example 'tiny'"
    ]


def test_what_was_asked_before_a_failure_is_stored(tmp_path):
    """The second of four requests at once fails: the other three were paid for, and are kept."""

    def fail_one(number, body):
        return failure(401, "no") if "text number 2" in body["input"] else embedded(body)

    with FaultServer(fail_one, latency=0.05) as server, VectorCache(tmp_path / "v.sqlite") as cache:
        for _ in range(2):
            with pytest.raises(AccessError):
                encode_texts(client(server, batch_texts=1, concurrency=4), TEXTS, cache)
        answered = set(server.answered)
    assert answered
    assert max(server.answered[texts] for texts in answered if texts != ("text number 2",)) == 1, (
        "nothing was paid twice"
    )


def test_inside_a_running_loop():
    async def notebook(server):
        return client(server).encode(TEXTS)

    with FaultServer(well) as server:
        assert np.array_equal(asyncio.run(notebook(server)), expected(TEXTS))


@pytest.mark.parametrize("options", [{"batch_texts": 0}, {"concurrency": 0}, {"timeout": 0}])
def test_numbers_out_of_range(options):
    with pytest.raises(ConfigError, match="must be"):
        OpenAIEmbeddings("m", base_url="http://127.0.0.1:9/v1", **options)


def test_json_numbers_survive_to_the_last_bit():
    numbers = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    data = [{"index": 0, "embedding": [float(f"{value:.9g}") for value in numbers]}]
    with FaultServer(lambda number, body: (200, {}, json.dumps({"data": data}).encode())) as server:
        assert np.array_equal(client(server).encode(["x"])[0], numbers)


def test_an_answer_that_quotes_the_key_is_not_kept(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret-1")
    with (
        FaultServer(lambda number, body: (200, {}, b"Authorization: Bearer sk-secret-1")) as server,
        pytest.raises(EndpointError) as caught,
    ):
        client(server, key_env="MY_KEY", retries=0).encode(["x"])
    assert caught.value.raw == "Authorization: Bearer [key]"
