"""Answers to a batch file by Ray Data: vLLM on the GPUs of many machines, without a server in between.

The file is what ``rlmrec profile --batch-out`` wrote, the answers are parts for ``rlmrec profile --parts-in``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from rlmrec.errors import ConfigError, DataError
from rlmrec.llm.client import OpenAIChat
from rlmrec.llm.store import request_hash, write_answers
from rlmrec.profiles.parse import SCHEMA

Processor = Callable[[Any], Any]  # of a ray.data.Dataset


def answer_batch(requests: Path | str, folder: Path | str, llm: OpenAIChat, processor: Processor) -> None:
    """Answer a batch file; write each block of answers as a part the moment it is there.

    Args:
        requests: the file, which every machine sees.
        folder: of the parts, which every machine sees.
        llm: the model with the options with which the file was written; no request is sent to its endpoint.
        processor: computes ``text``, ``finish``, ``prompt_tokens`` and ``completion_tokens`` of rows that have
            ``custom_id``, ``system``, ``prompt`` and ``body``; ``vllm_processor`` makes one.

    Raises:
        ConfigError: the ``ray`` extra is not installed.
        DataError: the file was written for another model or other options.
    """
    with Path(requests).open(encoding="utf-8") as lines:
        for line in lines:
            asked(llm, json.loads(line))
    try:
        data: Any = import_module("ray.data")
    except ImportError:
        raise ConfigError("answers by Ray Data need Ray: pip install 'rlmrec[ray]'") from None
    rows = data.read_json(str(Path(requests).resolve())).map(partial(asked, llm))
    write = partial(_write, Path(folder).resolve(), llm)
    for _ in processor(rows).map_batches(write, batch_format="pandas").iter_rows():
        pass  # each part is written by the worker that has its answers


def vllm_processor(llm: OpenAIChat, concurrency: int = 1, batch_size: int = 64, **engine: Any) -> Processor:
    """Return a processor that generates with vLLM inside Ray's workers. Not run in our tests, which have no GPU.

    Args:
        llm: gives the model's name, the temperature and the length of answers.
        concurrency: copies of the model.
        batch_size: requests that a copy receives at once.
        engine: options of vLLM, such as ``tensor_parallel_size`` or ``max_model_len``.

    Raises:
        ConfigError: Ray or vLLM is not installed.

    Source: https://docs.ray.io/en/latest/data/working-with-llms.html
    """
    try:
        module: Any = import_module("ray.data.llm")
    except ImportError as error:
        raise ConfigError(f"vLLM inside Ray's workers needs pip install 'ray[llm]' ({error})") from None
    config = module.vLLMEngineProcessorConfig(
        model_source=llm.name, engine_kwargs=engine, concurrency=concurrency, batch_size=batch_size
    )
    sampling: dict[str, Any] = {"temperature": llm.temperature, "max_tokens": llm.max_tokens}
    sampling["structured_outputs"] = {"json": SCHEMA}
    if llm.seed is not None:
        sampling["seed"] = llm.seed
    processor: Processor = module.build_processor(
        config, preprocess=partial(_for_vllm, sampling), postprocess=partial(_of_vllm, llm.max_tokens)
    )
    return processor


def asked(llm: OpenAIChat, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's id and texts, after checking that it is one of this model and these options."""
    system, prompt = (message["content"] for message in row["body"]["messages"])
    if request_hash(llm.name, llm.options, system, prompt) != row["custom_id"]:
        raise DataError(
            f"request {row['custom_id'][:12]}… is not one of {llm.name} with {llm.options}: give the model and options "
            "with which 'rlmrec profile --batch-out' wrote the file"
        )
    return {"custom_id": row["custom_id"], "system": system, "prompt": prompt, "body": row["body"]}


def _for_vllm(sampling: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    messages = [{"role": "system", "content": row["system"]}, {"role": "user", "content": row["prompt"]}]
    return {"messages": messages, "sampling_params": dict(sampling), "custom_id": row["custom_id"]}


def _of_vllm(most: int, row: Mapping[str, Any]) -> dict[str, Any]:
    length = int(row["num_generated_tokens"])
    return {
        "custom_id": row["custom_id"],
        "text": row["generated_text"],
        "finish": "length" if length >= most else "stop",
        "prompt_tokens": int(row["num_input_tokens"]),
        "completion_tokens": length,
    }


def _write(folder: Path, llm: OpenAIChat, rows: Any) -> Any:
    """Write a block of answers, a pandas data frame, as a part; return their ids alone."""
    columns = ("custom_id", "text", "finish", "prompt_tokens", "completion_tokens")
    answers = [(*row, 0) for row in rows[list(columns)].itertuples(index=False, name=None)]
    if answers:
        write_answers(folder, answers, llm.name, llm.options)
    return rows[["custom_id"]]
