"""Store: every answer that was paid for, and the profiles made of them, in one SQLite file.

An answer is committed the moment it arrives, under the hash of its request. So a process killed at any moment
loses no answer, and the same request is never paid for twice. One process writes at a time: it holds a lock that
the operating system releases when the process dies.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import NoneType
from typing import Any, BinaryIO, NamedTuple

import polars as pl

from rlmrec.errors import DataError, WorkspaceError
from rlmrec.files import atomic_file, locked
from rlmrec.llm.base import Completion, Usage
from rlmrec.parts import ROWS, Taken, read_parts, write_part
from rlmrec.sqlite import SqliteFile, open_sqlite, transaction
from rlmrec.trust import damaged, expect, parse_json

# Append only: a file at version n gets the scripts from n on. Never change one that was released.
MIGRATIONS = (
    """
    CREATE TABLE models (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        options TEXT NOT NULL,
        UNIQUE (name, options)
    );
    CREATE TABLE answers (
        id INTEGER PRIMARY KEY,
        request TEXT NOT NULL,
        model INTEGER NOT NULL REFERENCES models (id),
        text TEXT NOT NULL,
        finish TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        written REAL NOT NULL,
        retired INTEGER NOT NULL DEFAULT 0
    );
    CREATE UNIQUE INDEX answers_in_force ON answers (request) WHERE NOT retired;
    CREATE TABLE profiles (
        kind TEXT NOT NULL CHECK (kind IN ('item', 'user')),
        key TEXT NOT NULL,
        summarization TEXT,
        reasoning TEXT,
        request TEXT NOT NULL,
        sources TEXT NOT NULL,
        error TEXT,
        error_kind TEXT,
        raw TEXT,
        notes TEXT NOT NULL,
        requests TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL,
        model TEXT NOT NULL,
        dataset TEXT NOT NULL,
        written REAL NOT NULL,
        PRIMARY KEY (kind, key)
    ) WITHOUT ROWID;
    """,
    "ALTER TABLE profiles ADD COLUMN quoted TEXT NOT NULL DEFAULT '[]'",
    "ALTER TABLE profiles ADD COLUMN recipe TEXT NOT NULL DEFAULT ''",
)
RawId = int | str
EXPORT_FORMAT = "rlmrec answers 1"
REMEDY = "restore a copy of it, or delete it and write the profiles again"
PARTS = "answers"
PARTS_REMEDY = "delete the part that names no model"
PART_SCHEMA: dict[str, Any] = {
    "request": pl.String, "text": pl.String, "finish": pl.String,
    "prompt_tokens": pl.Int64, "completion_tokens": pl.Int64, "cached_tokens": pl.Int64,
}  # fmt: skip
UNREADABLE = -1  # replaces a source that is not an id


def request_hash(name: str, options: Mapping[str, Any], system: str, prompt: str) -> str:
    """Return the SHA-256 (64 hexadecimal digits) of everything that decides an answer.

    Args:
        name: the model's.
        options: the model's, JSON values; their order does not matter.
        system: the system prompt.
        prompt: the user's message.

    Example:
        >>> request_hash("m", {"a": 1, "b": 2}, "s", "p") == request_hash("m", {"b": 2, "a": 1}, "s", "p")
        True
    """
    asked = json.dumps([name, dict(options), system, prompt], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()


@dataclass(frozen=True)
class Profile:
    """The profile of one user or item, or why there is none.

    Args:
        kind: "item" or "user".
        key: the raw id.
        summarization: the text that is encoded; None when there is an error.
        reasoning: the model's reasoning, kept for reading; None without any.
        request: hash of the first request; a profile is up to date while its prompt has this hash.
        sources: ids (``Interactions.id``) of all interactions whose text or existence is in the prompt.
        error: why there is no summarization; None when there is one.
        error_kind: one word for counting: malformed, none, refused, endpoint, request …
        raw: what the model or the server sent, on an error.
        notes: how the answer was repaired and the prompt truncated.
        requests: hashes of all requests made for it, including the first.
        usage: tokens of all of them.
        model: name of the model.
        dataset: ``Dataset.content`` of the dataset that the prompt was made from. If the dataset has changed,
            the profile is stale and is not used.
        quoted: for a user, the sources of the item profiles that the prompt quoted.
        recipe: hash of everything that the prompts of its kind follow from; "" if it is not known.
    """

    kind: str
    key: RawId
    summarization: str | None
    reasoning: str | None
    request: str
    sources: tuple[int, ...] = ()
    error: str | None = None
    error_kind: str | None = None
    raw: str | None = None
    notes: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)
    model: str = ""
    dataset: str = ""
    quoted: tuple[int, ...] = ()
    recipe: str = ""


class ProfileState(NamedTuple):
    """The state of a node's profile, without its texts.

    Args:
        request: hash of the profile's first request.
        error_kind: kind of failure; None for a profile.
        answered_since: whether that request was answered after the profile was written; None when it has no
            answer.
        dataset: ``Dataset.content`` of the dataset that its prompt was made from.
    """

    request: str
    error_kind: str | None
    answered_since: bool | None
    dataset: str


class Confirmed(NamedTuple):
    """A profile whose prompt is the same in another dataset, with its sources there; fields as in ``Profile``."""

    kind: str
    key: RawId
    dataset: str
    sources: tuple[int, ...]
    quoted: tuple[int, ...]
    recipe: str = ""


@contextmanager
def store_to_read(path: Path) -> Iterator[Store]:
    """Open a store only to look into it; where there is none, open an empty one that leaves no file behind."""
    with ExitStack() as stack:
        if not path.exists():
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / path.name
        yield stack.enter_context(Store(path))


class Store(SqliteFile):
    """Answers and profiles in a SQLite file. Use it as a context manager, or close it.

    Args:
        path: the file; created if it does not exist.
        create: False raises an error instead of creating it.

    Raises:
        WorkspaceError: the file is missing, not a store, or written by a newer version.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "profiles.sqlite") as store:
        ...     store.put_answer("f00", "parrot", {}, Completion("hello"))
        ...     store.answer("f00").text, store.answer("bad")
        ('hello', None)
    """

    def __init__(self, path: Path | str, *, create: bool = True) -> None:
        self.path = Path(path)
        if not create and not self.path.exists():
            raise WorkspaceError(f"{self.path} does not exist: write profiles with 'rlmrec profile' first")
        self._db = open_sqlite(self.path, MIGRATIONS, "a store of profiles")
        self._models: dict[tuple[str, str], int] = {}

    def writing(self) -> AbstractContextManager[None]:
        """Lock the store for writing; other processes that try to are refused.

        Raises:
            WorkspaceError: another process holds it.
        """
        return locked(
            self.path, f"another process is writing profiles to {self.path}: wait for it or stop it"
        )

    # -- answers ---------------------------------------------------------------------------------------

    def answer(self, request: str) -> Completion | None:
        """Return the answer in force to a request, or None."""
        row = self._db.execute(
            "SELECT text, prompt_tokens, completion_tokens, cached_tokens, finish FROM answers "
            "WHERE request = ? AND NOT retired",
            (request,),
        ).fetchone()
        if row is None:
            return None
        with damaged(self.path, REMEDY):
            return stored_answer(row[0], row[4], *row[1:4])

    def put_answer(self, request: str, name: str, options: Mapping[str, Any], answer: Completion) -> None:
        """Commit an answer. The first answer to a request stays in force; a later one is stored as retired."""
        self._db.execute(
            "INSERT INTO answers (request, model, text, finish, prompt_tokens, completion_tokens, cached_tokens, "
            "written, retired) VALUES (?1, ?, ?, ?, ?, ?, ?, ?, "
            "EXISTS (SELECT 1 FROM answers WHERE request = ?1 AND NOT retired))",
            (
                request, self._model(name, options), _storable(answer.text), answer.finish,
                *answer.usage, time.time(),
            ),
        )  # fmt: skip

    def _model(self, name: str, options: Mapping[str, Any]) -> int:
        key = (name, json.dumps(dict(options), sort_keys=True))
        if key not in self._models:
            self._db.execute("INSERT OR IGNORE INTO models (name, options) VALUES (?, ?)", key)
            found = self._db.execute("SELECT id FROM models WHERE name = ? AND options = ?", key)
            self._models[key] = found.fetchone()[0]
        return self._models[key]

    def retire_failure(self, kind: str, key: RawId) -> None:
        """Retire the answers that a failed profile was made of, so that their requests are sent again.

        Nothing is deleted, and answers that arrived after the failure stay: a killed retry pays once, too.
        """
        self._db.execute(
            "UPDATE answers SET retired = 1 FROM profiles WHERE profiles.kind = ? AND profiles.key = ? "
            "AND profiles.error IS NOT NULL AND NOT answers.retired AND answers.written <= profiles.written "
            "AND answers.request IN (SELECT value FROM json_each(profiles.requests))",
            (kind, json.dumps(key)),
        )

    def models(self) -> list[tuple[str, dict[str, Any], int]]:
        """Return (name, options, number of answers in force) of each model, most answers first."""
        rows = self._db.execute(
            "SELECT name, options, count(*) FROM answers JOIN models ON models.id = answers.model "
            "WHERE NOT retired GROUP BY models.id ORDER BY count(*) DESC, models.id"
        )
        with damaged(self.path, REMEDY):
            return [
                (expect(name, str, "a model"), expect(parse_json(options), dict, "its options"), count)
                for name, options, count in rows
            ]

    def usage(self, name: str | None = None, options: Mapping[str, Any] | None = None) -> tuple[int, Usage]:
        """Return (number, tokens) of all answers that were paid for, including retired ones.

        Args:
            name: name of the model to count; by default all.
            options: options of that model.
        """
        row = self._db.execute(
            "SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), "
            "coalesce(sum(cached_tokens), 0) FROM answers JOIN models ON models.id = answers.model "
            "WHERE ? IS NULL OR (models.name = ? AND models.options = ?)",
            (name, name, json.dumps(dict(options or {}), sort_keys=True)),
        ).fetchone()
        with damaged(self.path, REMEDY):
            return row[0], Usage(*(expect(tokens, int, "a number of tokens") for tokens in row[1:]))

    def take_parts(self, path: Path) -> Taken:
        """Commit the answers of parts that are not stored yet, part by part; taking a part twice changes nothing.

        An answer that was retired stays out of force.

        Args:
            path: a folder of parts, or one.

        Raises:
            DataError: no part there.
            WorkspaceError: a part is torn, changed or of something else; those before it were taken.
        """
        new = known = 0
        with self.writing():
            retired = set(self._db.execute("SELECT request, text FROM answers WHERE retired"))
            for about, rows in read_parts(path, PARTS, PART_SCHEMA):
                with damaged(path, PARTS_REMEDY):
                    name = expect(about["model"], str, "a model")
                    options = expect(about["options"], dict, "its options")
                wanted = [row for row in rows.select(*PART_SCHEMA).rows() if row[:2] not in retired]
                with transaction(self._db):
                    model, now, before = self._model(name, options), time.time(), self._db.total_changes
                    self._db.executemany(
                        "INSERT OR IGNORE INTO answers (request, text, finish, prompt_tokens, completion_tokens, "
                        "cached_tokens, model, written) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        [(*row, model, now) for row in wanted],
                    )
                    fresh = self._db.total_changes - before
                new, known = new + fresh, known + len(rows) - fresh
        return Taken(new, known)

    def write_parts(self, folder: Path) -> int:
        """Write the answers in force as parts; return their number."""
        count = 0
        for name, options, _ in self.models():
            cursor = self._db.execute(
                "SELECT request, text, finish, prompt_tokens, completion_tokens, cached_tokens FROM answers "
                "WHERE NOT retired AND model = ? ORDER BY request",
                (self._model(name, options),),
            )
            with damaged(self.path, REMEDY):
                while rows := list(islice(cursor, ROWS)):
                    write_answers(folder, rows, name, options)
                    count += len(rows)
        return count

    # -- profiles --------------------------------------------------------------------------------------

    def profile(self, kind: str, key: RawId) -> Profile | None:
        """Return the profile of one user or item, including a failed one; None if there is none yet."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM profiles WHERE kind = ? AND key = ?", (kind, json.dumps(key))
        )
        row = rows.fetchone()
        with damaged(self.path, REMEDY):
            return None if row is None else _profile(row)

    def profiles(self, kind: str) -> Iterator[Profile]:
        """Yield all profiles of kind "item" or "user", including failed ones."""
        for row in self._db.execute(f"SELECT {_COLUMNS} FROM profiles WHERE kind = ?", (kind,)):
            with damaged(self.path, REMEDY):
                profile = _profile(row)
            yield profile

    def state(self, kind: str, key: RawId) -> ProfileState | None:
        """Return the state of a node's profile without reading its texts; None if there is none yet."""
        row = self._db.execute(
            "SELECT request, error_kind, (SELECT answers.written <= profiles.written FROM answers "
            "WHERE answers.request = profiles.request AND NOT retired), dataset "
            "FROM profiles WHERE kind = ? AND key = ?",
            (kind, json.dumps(key)),
        ).fetchone()
        return (
            None
            if row is None
            else ProfileState(row[0], row[1], None if row[2] is None else not row[2], row[3])
        )

    def made_by(self, kind: str, recipe: str) -> list[RawId]:
        """Return the keys of all usable profiles of a kind and a recipe."""
        cursor = self._db.execute(
            "SELECT key FROM profiles WHERE kind = ? AND recipe = ? AND error IS NULL", (kind, recipe)
        )
        with damaged(self.path, REMEDY):
            keys: list[RawId] = parse_json(f"[{','.join(key for (key,) in cursor.fetchall())}]")
            # A call of ``expect`` for each takes seconds for a million.
            if not {*map(type, keys)} <= {int, str}:
                raise DataError("the keys of its profiles hold something other than integers and texts")
            return keys

    def put_profile(self, profile: Profile) -> None:
        """Commit a profile; it replaces the node's previous one."""
        self._db.execute(
            f"INSERT OR REPLACE INTO profiles ({_COLUMNS}, written) VALUES ({'?, ' * 17}?)",
            (
                profile.kind, json.dumps(profile.key),
                _storable(profile.summarization), _storable(profile.reasoning),
                profile.request, json.dumps(profile.sources),
                _storable(profile.error), profile.error_kind, _storable(profile.raw),
                json.dumps(profile.notes), json.dumps(profile.requests),
                profile.usage.prompt, profile.usage.completion,
                profile.model, profile.dataset, json.dumps(profile.quoted), profile.recipe, time.time(),
            ),
        )  # fmt: skip

    def confirm(self, found: Sequence[Confirmed]) -> None:
        """Record, in one commit, that profiles are valid for a dataset, where their prompts are the same."""
        with transaction(self._db):
            self._db.executemany(
                "UPDATE profiles SET dataset = ?, sources = ?, quoted = ?, recipe = ? WHERE kind = ? AND key = ?",
                [
                    (
                        node.dataset,
                        json.dumps(node.sources),
                        json.dumps(node.quoted),
                        node.recipe,
                        node.kind,
                        json.dumps(node.key),
                    )
                    for node in found
                ],
            )

    # -- export ----------------------------------------------------------------------------------------

    def export(self, path: Path, manifest: Mapping[str, Any] | None = None) -> int:
        """Write the answers in force as JSON lines that ``Replay`` reads; return their number.

        The first line is the manifest: the models and what the caller adds (date, command, hash of the prompts).
        The same answers give the same bytes.

        Args:
            path: the file, for example "answers.jsonl.gz"; compressed if its name ends in .gz.
            manifest: further entries of the first line, as JSON values.
        """
        listed = [(name, options) for name, options, _ in self.models()]
        models = [{"name": name, "options": options} for name, options in listed]
        ids = {self._model(*model): row for row, model in enumerate(listed)}
        rows = self._db.execute(
            "SELECT request, model, text, finish, prompt_tokens, completion_tokens, cached_tokens "
            "FROM answers WHERE NOT retired ORDER BY request"
        )
        count = 0
        with atomic_file(Path(path)) as temporary, ExitStack() as files:
            out: BinaryIO | gzip.GzipFile = files.enter_context(temporary.open("wb"))
            if Path(path).suffix == ".gz":
                out = files.enter_context(
                    gzip.GzipFile("", "wb", fileobj=out, compresslevel=9, mtime=0)  # no name, no date inside
                )
            head = {**(manifest or {}), "format": EXPORT_FORMAT, "models": models}
            out.write(json.dumps(head, ensure_ascii=False).encode() + b"\n")
            with damaged(self.path, REMEDY):
                for request, model, text, finish, *tokens in rows:
                    answer = stored_answer(text, finish, *tokens)
                    line = [expect(request, str, "a request"), ids[model], text, finish, *answer.usage]
                    out.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                    count += 1
        return count


_COLUMNS = (
    "kind, key, summarization, reasoning, request, sources, error, error_kind, raw, notes, requests, "
    "prompt_tokens, completion_tokens, model, dataset, quoted, recipe"
)


def write_answers(
    folder: Path, rows: Sequence[tuple[Any, ...]], name: str, options: Mapping[str, Any]
) -> Path:
    """Write answers of one model as a part, which ``Store.take_parts`` reads; return its path.

    Args:
        folder: made where it does not exist.
        rows: the hash of the request, text, finish, and tokens of the prompt, of the answer and from the cache.
        name: the model's.
        options: the model's.
    """
    table = pl.DataFrame(rows, schema=PART_SCHEMA, orient="row")
    return write_part(folder, table, {"kind": PARTS, "model": name, "options": dict(options)})


def stored_answer(text: Any, finish: Any, *tokens: Any) -> Completion:
    """Make an answer of stored values.

    Raises:
        DataError: one has another type.
    """
    usage = Usage(*(expect(number, int, "a number of tokens") for number in tokens))
    return Completion(expect(text, str, "an answer"), usage, expect(finish, str, "finish"))


def _profile(row: tuple[Any, ...]) -> Profile:
    kind, key, summarization, reasoning, request, sources, error, error_kind, raw, notes, requests, *rest = (
        row
    )
    prompt, completion, model, dataset, quoted, recipe = rest
    for name, value in (("summarization", summarization), ("reasoning", reasoning), ("error", error)):
        expect(value, (str, NoneType), name)
    return Profile(
        kind=expect(kind, str, "kind"),
        key=expect(parse_json(key), (int, str), "key"),
        summarization=summarization,
        reasoning=reasoning,
        request=expect(request, str, "request"),
        sources=_sources(sources),
        error=error,
        error_kind=error_kind,
        raw=raw,
        notes=tuple(expect(note, str, "a note") for note in parse_json(notes)),
        requests=tuple(expect(one, str, "a request") for one in parse_json(requests)),
        usage=Usage(expect(prompt, int, "prompt_tokens"), expect(completion, int, "completion_tokens")),
        model=expect(model, str, "model"),
        dataset=expect(dataset, str, "dataset"),
        quoted=_sources(quoted),
        recipe=expect(recipe, str, "recipe"),
    )


def _sources(text: str) -> tuple[int, ...]:
    """Read ids of interactions; anything else becomes an id that no dataset contains, which an audit reports."""
    try:
        listed = parse_json(text)
    except (TypeError, ValueError):
        listed = None
    if not isinstance(listed, list):
        return (UNREADABLE,)
    return tuple(entry if type(entry) is int and 0 <= entry < 2**63 else UNREADABLE for entry in listed)


def _storable(text: Any) -> Any:
    """Replace lone surrogates, which JSON escapes can spell and UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text
