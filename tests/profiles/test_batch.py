import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pandas as pd
import pytest
from fault_server import GOOD
from pydantic import BaseModel, ConfigDict

from rlmrec.errors import ConfigError, DataError, RequestError
from rlmrec.llm.base import LLM, Completion
from rlmrec.llm.client import OpenAIChat
from rlmrec.llm.store import Store
from rlmrec.profiles.batch import read_batch, write_batch
from rlmrec.profiles.parse import SCHEMA
from rlmrec.profiles.profiler import Profiler
from rlmrec.profiles.ray_data import answer_batch, asked, vllm_processor


@pytest.fixture
def profiler(tmp_path):
    with Store(tmp_path / "profiles.sqlite") as store:
        yield Profiler(OpenAIChat("gpt-4o-mini"), store)


def answered(request, text=GOOD, status=200, **choice):
    body = {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    }
    if status != 200:
        body = {"error": {"message": "no", **choice}}
    return {"id": "b", "custom_id": request, "response": {"status_code": status, "body": body}, "error": None}


def requests(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_out_and_in_any_order(profiler, dataset, tmp_path):
    out, back = tmp_path / "out.jsonl", tmp_path / "back.jsonl"
    for kind, count in (("item", 8), ("user", 6)):
        assert write_batch(profiler, dataset, kind, out) == count
        asked = requests(out)
        assert len({line["custom_id"] for line in asked}) == count
        assert all(len(line["custom_id"]) <= 64 for line in asked)  # OpenAI's bound
        assert asked[0]["url"] == "/v1/chat/completions"
        assert asked[0]["method"] == "POST"
        assert asked[0]["body"]["response_format"]["type"] == "json_schema"
        lines = [answered(line["custom_id"]) for line in asked]
        random.Random(0).shuffle(lines)
        read = read_batch(profiler, dataset, kind, write(back, lines))
        assert (read.answers, read.progress.profiled, read.progress.done) == (count, count, count)
        assert write_batch(profiler, dataset, kind, out) == 0
    assert read_batch(profiler, dataset, "user", back).known == 6  # read twice without harm


def test_partial_answers_failures_and_a_second_file(profiler, dataset, tmp_path):
    out, back = tmp_path / "out.jsonl", tmp_path / "back.jsonl"
    write_batch(profiler, dataset, "item", out)
    ids = [line["custom_id"] for line in requests(out)]
    lines = [
        answered(ids[0]),
        answered(ids[1], "no JSON"),
        answered(ids[2], status=500),
        {"custom_id": ids[3], "response": None, "error": {"code": "batch_expired"}},
        answered(ids[4], status=400, code="content_filter"),
        answered(ids[5], None, finish_reason="content_filter"),
        "",
        '{"custom_id": "cut o',
    ]
    read = read_batch(profiler, dataset, "item", write(back, lines))
    assert (read.answers, read.refused, read.unanswered, read.malformed) == (2, 2, 2, [8])
    assert (read.progress.profiled, dict(read.progress.failed)) == (1, {"refused": 2, "endpoint": 2})
    assert read.progress.n_unanswered == 2
    # The next file: two without an answer, two that were not in it, and the bad one, asked again.
    assert write_batch(profiler, dataset, "item", out) == 5
    again = {line["custom_id"]: line["body"]["messages"][-1]["content"] for line in requests(out)}
    assert set(ids) & set(again) == {ids[2], ids[3], ids[6], ids[7]}
    (reworded,) = (text for request, text in again.items() if request not in ids)
    assert "was not JSON" in reworded
    read = read_batch(profiler, dataset, "item", write(back, map(answered, again)))
    assert (read.answers, read.progress.profiled, read.progress.n_failed) == (5, 6, 2)
    assert write_batch(profiler, dataset, "item", out, retry_failed=True) == 2
    read = read_batch(
        profiler, dataset, "item", write(back, [answered(r["custom_id"]) for r in requests(out)])
    )
    assert read.progress.profiled == 8


def test_unusable_answers_are_retried_when_asked(profiler, dataset, tmp_path):
    out, back = tmp_path / "out.jsonl", tmp_path / "back.jsonl"
    for _ in range(3):
        write_batch(profiler, dataset, "item", out, limit=1)
        read = read_batch(
            profiler, dataset, "item", write(back, [answered(r["custom_id"], "no") for r in requests(out)])
        )
    assert read.progress.failed == {"malformed": 1}
    assert write_batch(profiler, dataset, "item", out, limit=1, retry_failed=True) == 1
    read = read_batch(
        profiler, dataset, "item", write(back, [answered(r["custom_id"]) for r in requests(out)])
    )
    assert (read.progress.profiled, read.progress.n_failed) == (1, 0)


@pytest.mark.parametrize("wrong", ["f" * 64, "../../etc"])
def test_unknown_ids_are_refused_and_nothing_is_taken(profiler, dataset, tmp_path, wrong):
    out, back = tmp_path / "out.jsonl", tmp_path / "back.jsonl"
    write_batch(profiler, dataset, "item", out)
    lines = [answered(requests(out)[0]["custom_id"]), {**answered(""), "custom_id": wrong}]
    with pytest.raises(DataError, match="line 2: unknown custom_id"):
        read_batch(profiler, dataset, "item", write(back, lines))
    assert profiler.store.usage()[0] == 0


def test_the_file_of_another_model_is_refused(profiler, dataset, tmp_path):
    out = tmp_path / "out.jsonl"
    write_batch(profiler, dataset, "item", out)
    back = write(tmp_path / "back.jsonl", [answered(r["custom_id"]) for r in requests(out)])
    other = Profiler(OpenAIChat("another"), profiler.store)
    with pytest.raises(DataError, match="unknown custom_id"):
        read_batch(other, dataset, "item", back)
    with pytest.raises(DataError, match="is not a file"):
        read_batch(other, dataset, "item", tmp_path / "none.jsonl")


def test_models_without_batches(profiler, dataset, tmp_path):
    class Model(LLM):
        name = "m"

        async def complete(self, system, prompt, schema=None):
            return Completion(GOOD)

    with pytest.raises(ConfigError, match="m is not one"):
        write_batch(Profiler(Model(), profiler.store), dataset, "item", tmp_path / "x")


def test_what_the_provider_finds_wrong_is_recorded_with_its_words(profiler, dataset, tmp_path):
    out, back = tmp_path / "out.jsonl", tmp_path / "back.jsonl"
    write_batch(profiler, dataset, "item", out)
    ids = [line["custom_id"] for line in requests(out)]
    lines = [answered(request, status=400, message="Use 'max_completion_tokens'") for request in ids[:3]]
    lines.append({"custom_id": ids[3], "response": None, "error": {"message": "cancelled by you"}})
    lines.append(answered(ids[4], status=429))
    lines.append({"custom_id": ids[5], "response": {"status_code": 200, "body": [1]}})
    read = read_batch(profiler, dataset, "item", write(back, lines))
    assert (read.answers, read.rejected, read.unanswered) == (0, 3, 3)
    assert dict(read.progress.failed) == {"request": 3, "endpoint": 3}
    told = "the provider refused the request: HTTP 400: Use 'max_completion_tokens'"
    assert read.progress.reason("request") == told
    profile = profiler.store.profile("item", 100)
    assert (profile.error, json.loads(profile.raw)) == (told, lines[0])
    assert write_batch(profiler, dataset, "item", out) == 5, "the unanswered ones stand in the next file"
    assert write_batch(profiler, dataset, "item", out, retry_failed=True) == 8


@pytest.mark.parametrize("wrong", [None, 7, ["x"], {"a": 1}])
def test_an_id_that_is_no_text_makes_a_malformed_line(profiler, dataset, tmp_path, wrong):
    out, back = tmp_path / "out.jsonl", tmp_path / "back.jsonl"
    write_batch(profiler, dataset, "item", out)
    lines = [answered(requests(out)[0]["custom_id"]), {**answered(""), "custom_id": wrong}]
    read = read_batch(profiler, dataset, "item", write(back, lines))
    assert (read.answers, read.malformed) == (1, [2])


@pytest.mark.parametrize("lines", [[], ["", " "], ["<html>no</html>", "[1]", "[" * 100_000]])
def test_a_file_without_answers_is_an_error(profiler, dataset, tmp_path, lines):
    with pytest.raises(DataError, match="holds no answers"):
        read_batch(profiler, dataset, "item", write(tmp_path / "back.jsonl", lines))


def test_requests_for_a_reasoning_model(profiler, dataset, tmp_path):
    out = tmp_path / "out.jsonl"
    other = Profiler(OpenAIChat("gpt-4o-mini", reasoning=True), profiler.store)
    write_batch(profiler, dataset, "item", out)
    plain = requests(out)
    write_batch(other, dataset, "item", out)
    assert [line["custom_id"] for line in requests(out)] == [line["custom_id"] for line in plain]
    assert {"max_completion_tokens"} <= set(requests(out)[0]["body"])


# The lines of `vllm run-batch`, with the fields that it reads and writes (vllm/entrypoints/openai/run_batch.py).


class Exact(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Message(Exact):
    role: Literal["system", "user"]
    content: str


class JsonSchema(Exact):
    name: str
    schema_: dict[str, Any]
    strict: bool | None = None

    model_config = ConfigDict(extra="forbid", alias_generator=lambda name: name.rstrip("_"))


class ResponseFormat(Exact):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatCompletionRequest(Exact):
    model: str
    messages: list[Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    response_format: ResponseFormat | None = None


class BatchRequestInput(Exact):
    custom_id: str
    method: Literal["POST"]
    url: Literal["/v1/chat/completions"]
    body: ChatCompletionRequest


class BatchResponseData(BaseModel):
    status_code: int = 200
    request_id: str
    body: dict[str, Any] | None = None


class BatchRequestOutput(BaseModel):
    id: str
    custom_id: str
    response: BatchResponseData | None
    error: Any | None


def by_vllm(request, text=GOOD, status=200, error=None):
    """The line that vLLM writes for a request: errors have a status, no body, and their words in ``error``."""
    message = {"role": "assistant", "content": text, "refusal": None, "tool_calls": [], "reasoning": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    usage = {"prompt_tokens": 10, "total_tokens": 15, "completion_tokens": 5, "prompt_tokens_details": None}
    body = {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": request.body.model,
        "choices": [choice], "usage": usage, "prompt_logprobs": None,
    }  # fmt: skip
    data = BatchResponseData(status_code=status, request_id="vllm-batch-1", body=None if error else body)
    return BatchRequestOutput(id="vllm-1", custom_id=request.custom_id, response=data, error=error)


def test_vllm_reads_the_file_and_its_answers_are_taken(profiler, dataset, tmp_path):
    out, back = tmp_path / "out.jsonl", tmp_path / "back.jsonl"
    write_batch(profiler, dataset, "item", out)
    read = [BatchRequestInput.model_validate_json(line) for line in out.read_text().splitlines()]
    assert len(read) == 8
    assert read[0].body.response_format.json_schema.name == "answer"
    too_long = {"error": {"message": "maximum context length is 8", "type": "BadRequestError", "code": 400}}
    lines = [by_vllm(request) for request in read[:6]]
    lines.append(by_vllm(read[6], status=400, error=too_long))
    lines.append(by_vllm(read[7], status=400, error="the engine's own words"))
    found = read_batch(profiler, dataset, "item", write(back, [line.model_dump_json() for line in lines]))
    assert (found.answers, found.rejected, found.progress.profiled) == (6, 2, 6)
    said = [profiler.store.profile("item", key).error for key in (106, 107)]
    assert said[0].endswith("HTTP 400: maximum context length is 8")
    assert said[1].endswith("HTTP 400: the engine's own words")
    assert profiler.store.answer(read[0].custom_id).usage == (10, 5, 0)


@pytest.mark.ray
def test_ray_data_answers_the_file_in_parts(ray_here, profiler, dataset, tmp_path):
    out, parts = tmp_path / "out.jsonl", tmp_path / "parts"
    write_batch(profiler, dataset, "item", out)

    def answer(row):
        told = {"custom_id": row["custom_id"], "text": GOOD, "finish": "stop"}
        return {**told, "prompt_tokens": len(row["prompt"]), "completion_tokens": 5}

    answer_batch(out, parts, profiler.llm, lambda rows: rows.map(answer))
    assert profiler.store.take_parts(parts) == (8, 0)
    assert profiler.settle(dataset, "item").profiled == 8


def test_ray_data_refuses_the_file_of_another_model(profiler, dataset, tmp_path):
    write_batch(profiler, dataset, "item", tmp_path / "out.jsonl")
    line = requests(tmp_path / "out.jsonl")[0]
    assert asked(profiler.llm, line)["custom_id"] == line["custom_id"]
    with pytest.raises(DataError, match="is not one of another"):  # before Ray is started
        answer_batch(tmp_path / "out.jsonl", tmp_path / "parts", OpenAIChat("another"), pytest.fail)


class Rows(list):
    """What is used of a ray.data.Dataset, in one block."""

    def map(self, change):
        return Rows(map(change, self))

    def map_batches(self, change, batch_format):
        assert batch_format == "pandas"
        return Rows(change(pd.DataFrame(self)).to_dict("records"))

    def iter_rows(self):
        return iter(self)


def test_vllm_inside_rays_workers(monkeypatch, profiler, dataset, tmp_path):
    """The columns are those of Ray 2.60 with vLLM 0.32; like Ray, rows with an error pass by the last function."""
    out, parts, config, builder, asked_of_vllm = tmp_path / "out.jsonl", tmp_path / "parts", {}, {}, []

    def build(_, preprocess, postprocess, builder_kwargs):
        builder.update(builder_kwargs)

        def generate(row):
            row |= preprocess(row)
            asked_of_vllm.append(row)
            number = len(asked_of_vllm)
            error = "VLLMValidationError: This model's maximum context length is 64" if number == 1 else ""
            text = {1: "", 2: GOOD[:-1]}.get(number, GOOD)
            counts = {"num_input_tokens": 50 + number, "num_generated_tokens": number}
            row |= {"prompt": "<s>", "generated_text": text, **counts, "__inference_error__": error}
            return row if error else {**postprocess(row), "__inference_error__": ""}

        return lambda rows: rows.map(generate)

    read = SimpleNamespace(read_json=lambda path: Rows(requests(Path(path))))
    llm = SimpleNamespace(vLLMEngineProcessorConfig=config.update, build_processor=build)
    monkeypatch.setitem(sys.modules, "ray.data", read)
    monkeypatch.setitem(sys.modules, "ray.data.llm", llm)
    plain = {"top_k": 9}
    profiler.llm = OpenAIChat(
        "m", seed=5, extra_body={"chat_template_kwargs": {"enable_thinking": False}} | plain
    )
    assert write_batch(profiler, dataset, "item", out) == 8

    processor = vllm_processor(profiler.llm, concurrency=3, max_model_len=64)
    assert (config["model_source"], config["concurrency"]) == ("m", 3)
    assert (config["engine_kwargs"], config["placement_group_config"]) == ({"max_model_len": 64}, None)
    assert builder == {"chat_template_kwargs": {"enable_thinking": False}}
    vllm_processor(profiler.llm, cpus=2)
    assert config["placement_group_config"] == {"bundles": [{"CPU": 2}]}

    with pytest.raises(RequestError, match=r"1 of 8 requests got no answer.*maximum context length is 64"):
        answer_batch(out, parts, profiler.llm, processor)
    lines = requests(out)
    assert [row["messages"] for row in asked_of_vllm] == [line["body"]["messages"] for line in lines]
    sampling = {"temperature": 0.0, "max_tokens": 600, "seed": 5, "structured_outputs": {"json": SCHEMA}}
    assert asked_of_vllm[0]["sampling_params"] == sampling | plain
    assert profiler.store.take_parts(parts) == (7, 0)
    answers = [profiler.store.answer(line["custom_id"]) for line in lines]
    assert answers[0] is None
    assert [answer.finish for answer in answers[1:]] == ["length"] + ["stop"] * 6
    assert answers[7].usage == (58, 8, 0)
    assert profiler.settle(dataset, "item").profiled == 7
