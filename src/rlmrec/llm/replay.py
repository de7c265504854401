"""Replay: a language model that only returns stored answers. No key, no network, no cost."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlmrec.errors import ConfigError, MissingAnswerError, WorkspaceError
from rlmrec.files import open_unpacked
from rlmrec.llm.base import LLM, Completion, JsonSchema
from rlmrec.llm.store import EXPORT_FORMAT, Store, request_hash, stored_answer
from rlmrec.trust import damaged, expect, parse_json

SQLITE = b"SQLite format 3\0"  # the first bytes of a SQLite file


class Replay(LLM):
    """Returns the answers of one model from a file: a store, or a file that ``Store.export`` wrote.

    Args:
        path: a store (``profiles.sqlite``) or exported answers (``.jsonl``, ``.jsonl.gz``).
        model: name of the model; required if the file has answers of several models.
        options: the model's options; required if the file has several sets of them.
        some_options: some of the options, instead of all.

    Raises:
        WorkspaceError: the file is missing or damaged.
        ConfigError: no model or several models match; the message lists them.

    Example:
        >>> import asyncio, tempfile
        >>> from rlmrec.llm.store import Store, request_hash
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "answers.jsonl.gz"
        ...     with Store(Path(folder) / "profiles.sqlite") as store:
        ...         store.put_answer(request_hash("m", {}, "Be kind.", "Hi"), "m", {}, Completion("Hello!"))
        ...         _ = store.export(file)
        ...     llm = Replay(file)
        >>> asyncio.run(llm.complete("Be kind.", "Hi")).text
        'Hello!'
    """

    concurrency = 1
    replays = True

    def __init__(
        self,
        path: Path | str,
        *,
        model: str | None = None,
        options: Mapping[str, Any] | None = None,
        some_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            what = "is a folder" if self.path.is_dir() else "does not exist"
            raise WorkspaceError(f"{self.path} {what}: expected stored answers to replay, one file")
        self.manifest: dict[str, Any] = {}
        self._answers: dict[str, Completion] | None = None
        self._store: Store | None = None
        with self.path.open("rb") as handle:
            start = handle.read(len(SQLITE))
        if start != SQLITE:
            self.manifest, self._answers = _read_export(self.path)
            models = [(entry["name"], entry["options"]) for entry in self.manifest["models"]]
        else:
            self._store = Store(self.path, create=False)
            models = [(name, kept) for name, kept, _ in self._store.models()]
        fitting = [
            (name, kept)
            for name, kept in models
            if model in (None, name)
            and (options is None or dict(options) == kept)
            and all(kept.get(option) == value for option, value in (some_options or {}).items())
        ]
        if len(fitting) != 1:
            if self._store is not None:
                self._store.close()  # an open file cannot be replaced or deleted on Windows
            listed = "; ".join(f"{name} {json.dumps(kept)}" for name, kept in models) or "none"
            raise ConfigError(
                f"{self.path} must hold the answers of exactly one model that matches "
                f"(model={model!r}, options={options or some_options!r}), {len(fitting)} do: it holds {listed}; "
                "pick one by its name (--model) and options (--temperature, --max-tokens)"
            )
        self.name, self.options = fitting[0]
        self.small = bool(self.options.get("small"))  # LocalChat's: the prompts must be the same again

    async def complete(
        self,
        system: str,
        prompt: str,
        schema: JsonSchema | None = None,  # noqa: ARG002 (the stored answers followed it)
    ) -> Completion:
        """Return the stored answer to a prompt; see ``LLM.complete``.

        Raises:
            MissingAnswerError: there is none.
        """
        request = request_hash(self.name, self.options, system, prompt)
        if self._answers is not None:
            answer = self._answers.get(request)
        else:
            assert self._store is not None  # one of the two was opened
            answer = self._store.answer(request)
        if answer is None:
            raise MissingAnswerError(
                f"{self.path} holds no answer of {self.name} to this prompt ({request[:12]}…): the dataset, "
                "the prompts or their options differ from the recorded run; ask a model (--model) instead"
            )
        return answer


def _read_export(path: Path) -> tuple[dict[str, Any], dict[str, Completion]]:
    answers = {}
    with (
        damaged(path, "expected answers as 'rlmrec profile --export' writes them"),
        io.TextIOWrapper(open_unpacked(path), encoding="utf-8") as lines,
    ):
        manifest = expect(parse_json(next(lines, "")), dict, "the first line")
        if manifest.get("format") != EXPORT_FORMAT:
            raise WorkspaceError(
                f"{path} has format {manifest.get('format')!r}, this version reads {EXPORT_FORMAT!r}"
            )
        for model in manifest["models"]:
            expect(model["name"], str, "a model")
            expect(model["options"], dict, "its options")
        for line in lines:
            request, _, text, finish, *tokens = parse_json(line)
            answers[expect(request, str, "a request")] = stored_answer(text, finish, *tokens)
    return manifest, answers
