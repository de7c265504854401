"""Answers to a batch file by Ray Data: vLLM on the GPUs of many machines, without a server in between.

The file is what ``rlmrec profile --batch-out`` wrote, the answers are parts for ``rlmrec profile --parts-in``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from rlmrec.errors import ConfigError, DataError, RequestError
from rlmrec.llm.client import OpenAIChat
from rlmrec.llm.store import request_hash, write_answers
from rlmrec.profiles.parse import SCHEMA

Processor = Callable[[Any], Any]  # of a ray.data.Dataset
ERROR = "__inference_error__"  # the column in which Ray says why a row has no answer; "" or absent where it has one


def answer_batch(requests: Path | str, folder: Path | str, llm: OpenAIChat, processor: Processor) -> None:
    """Answer a batch file; write each block of answers as a part the moment it is there.

    Args:
        requests: the file, which every machine sees.
        folder: of the parts, which every machine sees.
        llm: the model with the options with which the file was written; no request is sent to its endpoint.
        processor: computes ``text``, ``finish``, ``prompt_tokens`` and ``completion_tokens`` of rows that have
            ``custom_id``, ``system``, ``prompt`` and ``body``, or a text in ``__inference_error__``;
            ``vllm_processor`` makes one.

    Raises:
        ConfigError: the ``ray`` extra is not installed.
        DataError: the file was written for another model or other options.
        RequestError: some requests got no answer, for example because their prompt is too long. It is raised at the
            end: the answers of all others are in ``folder``.
    """
    with Path(requests).open(encoding="utf-8") as lines:
        for line in lines:
            asked(llm, json.loads(line))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        data: Any = import_module("ray.data")
    except ImportError:
        raise ConfigError("answers by Ray Data need Ray: pip install 'rlmrec[ray]'") from None
    rows = data.read_json(str(Path(requests).resolve())).map(partial(asked, llm))
    write = partial(_write, Path(folder).resolve(), llm)
    count, failed, first = 0, 0, ""
    for row in processor(rows).map_batches(write, batch_format="pandas").iter_rows():
        count += 1  # each part is written by the worker that has its answers
        if row[ERROR]:
            failed, first = failed + 1, first or row[ERROR]
    if failed:
        raise RequestError(
            f"{failed:,} of {count:,} requests got no answer; the answers to the others are in {folder}; "
            f"the first reason: {first}"
        )


def vllm_processor(
    llm: OpenAIChat, concurrency: int = 1, batch_size: int = 64, cpus: int | None = None, **engine: Any
) -> Processor:
    """Return a processor that generates with vLLM inside Ray's workers.

    It was run with vLLM 0.32.0 and Ray 2.60.0 on the CPU, not on a GPU. Neither of them reports usage unless
    RAY_USAGE_STATS_ENABLED=1 or VLLM_NO_USAGE_STATS=0 is set.

    Args:
        llm: gives the model's name, the temperature, the seed and the length of answers. Of ``extra_body``,
            ``chat_template_kwargs`` go to the chat template, all else to vLLM's ``SamplingParams``.
        concurrency: largest number of copies of the model.
        batch_size: requests that a copy receives at once.
        cpus: cores of a copy where vLLM was built for the CPU; None gives each copy as many GPUs as
            ``tensor_parallel_size`` says, 1 by default, and Ray waits until it has them.
        engine: options of vLLM, such as ``tensor_parallel_size`` or ``max_model_len``.

    Raises:
        ConfigError: Ray or vLLM is not installed.

    Source: https://docs.ray.io/en/latest/data/working-with-llms.html
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        module: Any = import_module("ray.data.llm")
    except ImportError as error:
        raise ConfigError(f"vLLM inside Ray's workers needs pip install 'ray[llm]' ({error})") from None
    config = module.vLLMEngineProcessorConfig(
        model_source=llm.name,
        engine_kwargs=engine,
        concurrency=concurrency,
        batch_size=batch_size,
        placement_group_config=None if cpus is None else {"bundles": [{"CPU": cpus}]},
        runtime_env={"env_vars": {"VLLM_NO_USAGE_STATS": os.environ.get("VLLM_NO_USAGE_STATS", "1")}},
        should_continue_on_error=True,  # else one prompt that is too long ends the work
        # vLLM itself does both. Each of these stages would hold a core.
        tokenize_stage=False,
        detokenize_stage=False,
    )
    sampling: dict[str, Any] = {"temperature": llm.temperature, "max_tokens": llm.max_tokens}
    sampling["structured_outputs"] = {"json": SCHEMA}
    if llm.seed is not None:
        sampling["seed"] = llm.seed
    template = llm.extra_body.get("chat_template_kwargs")
    sampling |= {name: value for name, value in llm.extra_body.items() if name != "chat_template_kwargs"}
    processor: Processor = module.build_processor(
        config,
        preprocess=partial(_for_vllm, sampling),
        postprocess=_of_vllm,
        builder_kwargs=None if template is None else {"chat_template_kwargs": template},
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


def _of_vllm(row: Mapping[str, Any]) -> dict[str, Any]:
    # Ray drops vLLM's finish reason. The schema lets an answer end only where its JSON is whole; any other was cut off.
    try:
        json.loads(row["generated_text"])
        finish = "stop"
    except ValueError:
        finish = "length"
    return {
        "custom_id": row["custom_id"],
        "text": row["generated_text"],
        "finish": finish,
        "prompt_tokens": int(row["num_input_tokens"]),
        "completion_tokens": int(row["num_generated_tokens"]),
    }


def _write(folder: Path, llm: OpenAIChat, rows: Any) -> Any:
    """Write the answers in a block, a pandas data frame, as a part; return the rows' ids and errors alone."""
    columns = ["custom_id", "text", "finish", "prompt_tokens", "completion_tokens"]
    rows = rows.assign(**{ERROR: rows[ERROR].fillna("") if ERROR in rows else ""})
    answered = rows[rows[ERROR] == ""]
    if len(answered):
        counts = {"prompt_tokens": int, "completion_tokens": int}  # floats where a row of the block has none
        table = answered[columns].astype(counts).itertuples(index=False, name=None)
        write_answers(folder, [(*row, 0) for row in table], llm.name, llm.options)
    return rows[["custom_id", ERROR]]
