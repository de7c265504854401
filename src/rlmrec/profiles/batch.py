"""Batch files of providers, at half the price: writes requests and reads answers as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, DataError, EndpointError, LLMError, RefusedError, RequestError
from rlmrec.files import atomic_file
from rlmrec.http_client import RAW_LENGTH, mapping
from rlmrec.llm.client import OpenAIChat, read_reply
from rlmrec.profiles.parse import SCHEMA
from rlmrec.profiles.profiler import Profiler
from rlmrec.profiles.progress import ProfilingProgress

URL = "/v1/chat/completions"
PASSING = (401, 402, 403, 404, 408, 409, 425, 429)  # 4xx whose reason is not the request itself


@dataclass
class BatchRead:
    """The contents of a file of answers.

    Args:
        progress: counts after it was read; ``total - done`` nodes still need an answer.
        answers: number of new answers.
        known: number of answers that the store had already.
        refused: number of requests refused by the provider's content filter.
        rejected: number of requests that the provider rejected (400 and similar).
        unanswered: number of requests without an answer (expired, cancelled, the provider's errors); the next
            file contains them again.
        malformed: numbers of the first 20 lines that are not a JSON object with a custom_id.

    Requests without an answer are recorded as failures of their nodes, with the line as raw text.
    """

    progress: ProfilingProgress
    answers: int = 0
    known: int = 0
    refused: int = 0
    rejected: int = 0
    unanswered: int = 0
    malformed: list[int] = field(default_factory=list)


def write_batch(
    profiler: Profiler,
    dataset: Dataset,
    kind: str,
    path: Path,
    *,
    limit: int | None = None,
    retry_failed: bool = False,
) -> int:
    """Write the requests that have no answer yet; return their number.

    Each line is {"custom_id", "method", "url", "body"}; the id is the request's hash. If a node's answer from an
    earlier file was unusable, the next file contains a further request that says so.

    Args:
        profiler: a profiler whose model is an ``OpenAIChat``.
        dataset: what to profile.
        kind: "item" or "user".
        path: the file to write.
        limit: most nodes.
        retry_failed: include nodes whose answers were unusable.

    Raises:
        ConfigError: the profiler's model is not an ``OpenAIChat``.

    Source: https://platform.openai.com/docs/guides/batch
    """
    llm = profiler.llm
    if not isinstance(llm, OpenAIChat):
        raise ConfigError(
            f"batch files hold requests to an OpenAI-compatible endpoint, {llm.name} is not one"
        )
    count = 0
    with atomic_file(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as out:
        for request in profiler.pending(dataset, kind, limit=limit, retry_failed=retry_failed):
            body = llm.body(request.system, request.prompt, SCHEMA)
            line = {"custom_id": request.hash, "method": "POST", "url": URL, "body": body}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_batch(profiler: Profiler, dataset: Dataset, kind: str, path: Path) -> BatchRead:
    """Read answers in any order, some or all of them; reading a file twice changes nothing.

    Args:
        profiler: a profiler with the same model, options and prompts as the one that wrote the requests.
        dataset: the same dataset.
        kind: the same kind.
        path: the provider's output file or its error file.

    Raises:
        DataError: the file has no answers, or an answer to a request of another dataset, model or prompt; then
            nothing of the file is stored.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is not a file: expected the provider's answers as JSON lines")
    builder = profiler.builder(dataset, kind)
    asked = {profiler.request(prompt).hash for prompt in builder.prompts(kind)}
    asked.update(request.hash for request in profiler.pending(dataset, kind))
    malformed: list[int] = []
    lines = 0
    for number, line in _lines(path, malformed):
        lines += 1
        name: str = line["custom_id"]
        if name not in asked and profiler.store.answer(name) is None:
            raise DataError(
                f"{path}, line {number}: unknown custom_id {name[:80]!r}; it was written for another "
                "dataset, model, option or prompt, so nothing of this file was taken"
            )
    if not lines:
        raise DataError(
            f"{path} holds no answers: expected JSON lines with a custom_id, as the provider's output and error "
            "files hold them"
        )
    read = BatchRead(ProfilingProgress(kind, 0), malformed=malformed)
    errors: dict[str, LLMError] = {}
    with profiler.store.writing():
        for _, line in _lines(path, []):
            _take(profiler, line, read, errors)
    read.progress = profiler.settle(dataset, kind, errors=errors)
    return read


def _take(profiler: Profiler, line: dict[str, Any], read: BatchRead, errors: dict[str, LLMError]) -> None:
    request: str = line["custom_id"]
    response = mapping(line.get("response"))
    body = mapping(response.get("body"))
    if profiler.store.answer(request) is not None:
        read.known += 1
        return
    try:
        if response.get("status_code", 200) != 200 or not isinstance(body.get("choices"), list):
            raise _failure(line, response.get("status_code"), body)
        answer = read_reply(body)
    except RefusedError as error:
        read.refused += 1
        errors[request] = error
    except RequestError as error:
        read.rejected += 1
        errors[request] = error
    except EndpointError as error:
        read.unanswered += 1
        errors[request] = error
    else:
        profiler.store.put_answer(request, profiler.llm.name, profiler.llm.options, answer)
        read.answers += 1


def _failure(line: dict[str, Any], status: Any, body: dict[str, Any]) -> LLMError:
    """Return the error that a live request would have raised for a line without an answer."""
    raw = json.dumps(line, ensure_ascii=False)[:RAW_LENGTH]
    if "content_filter" in json.dumps([line.get("error"), body]):
        return RefusedError("the provider's content filter refused the prompt", raw)
    error = line.get("error") or body.get("error") or "no answer in the line"
    error = mapping(error).get("error") or error  # vLLM nests it
    reason = mapping(error).get("message") or mapping(error).get("code") or error
    message = f"{'' if status in (None, 200) else f'HTTP {status}: '}{reason}"[:500]
    if isinstance(status, int) and 400 <= status < 500 and status not in PASSING:
        return RequestError(f"the provider refused the request: {message}", raw)
    return EndpointError(f"the provider gave no answer: {message}", raw)


def _lines(path: Path, malformed: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number, object) of each line with a custom_id; add the numbers of the first others to ``malformed``."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            try:
                value = json.loads(text, strict=False)
            except (ValueError, RecursionError):
                value = None
            if isinstance(value, dict) and isinstance(value.get("custom_id"), str):
                yield number, value
            elif len(malformed) < 20:
                malformed.append(number)
