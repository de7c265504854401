"""Endpoint: connections, retries and errors of every OpenAI-compatible endpoint.

The clients for chats (rlmrec.llm.client) and for text vectors (rlmrec.text.api) derive from it.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import email.utils
import json
import os
import random
import re
import ssl
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from rlmrec import __version__
from rlmrec.errors import AccessError, ConfigError, EndpointError, LLMError, RefusedError, RlmrecError
from rlmrec.findings import Finding
from rlmrec.trust import parse_json

OPENAI_URL = "https://api.openai.com/v1"
MOST_TOKENS = 10**9  # of one answer; more is a fault of the server
RAW_LENGTH = 20_000  # most characters of a server's reply that are recorded with an error
MOST_REDIRECTS = 5
MOST_CUTS = 24  # times that a refused text is cut before it is given up
Answer = TypeVar("Answer")


class Connection(NamedTuple):
    """Objects that belong to one event loop and cannot move to another."""

    loop: asyncio.AbstractEventLoop
    session: Any  # an aiohttp.ClientSession
    opened: AsyncGenerator[Any]  # closes the session, at the latest when the event loop ends
    slots: asyncio.Semaphore
    secrets: Secrets


class Secrets:
    """The API key and the secrets in an address; removes them from texts.

    Some servers quote the headers of a request, and HTTP packages quote what they cannot send. Every error and
    every answer of a connection is cleaned here.

    Args:
        key: the API key; "" without one.
        url: the endpoint's address, which may contain a name and a password or a key.

    Example:
        >>> Secrets("sk-very-secret", "http://me:pw@host/v1").clean("'Bearer sk-very-secret' to http://me:pw@host")
        "'Bearer [key]' to http://[key]@host"
    """

    def __init__(self, key: str, url: str) -> None:
        parts = urlsplit(url)
        login = parts.netloc.rpartition("@")[0]
        sent = unquote(login) if ":" in login else f"{unquote(login)}:"
        basic = base64.b64encode(sent.encode()).decode()  # as the header has it
        values = [pair.partition("=")[2] for pair in parts.query.split("&")]
        secrets = [key, login.partition(":")[2], basic, *(value for value in values if len(value) >= 16)]
        # A short login is removed only before an @, so that no other word is damaged.
        self._login = [f"{re.escape(form)}(?=@)" for form in {login, unquote(login)} if form]
        self._in_errors = self._pattern(secrets, 4)
        self._in_answers = self._pattern(secrets, 8)

    def _pattern(self, secrets: list[str], shortest: int) -> re.Pattern[str] | None:
        forms = {form for secret in secrets if len(secret) >= shortest for form in _forms(secret)}
        found = [*self._login, *sorted(map(re.escape, forms), key=len, reverse=True)]
        return re.compile("|".join(found), re.IGNORECASE) if found else None

    def clean(self, text: str) -> str:
        """Return an error's text without any secret."""
        return text if self._in_errors is None else self._in_errors.sub("[key]", text)

    def clean_answer(self, text: str) -> str:
        """Return an answer without the longer secrets; your own servers may have keys such as "x"."""
        return text if self._in_answers is None else self._in_answers.sub("[key]", text)

    def clean_error(self, error: RlmrecError | Transient) -> None:
        """Remove all secrets from an error's message and from the reply recorded with it, in place."""
        error.args = tuple(self.clean(str(part)) for part in error.args)
        if isinstance(error, LLMError | Transient) and error.raw is not None:
            error.raw = self.clean(error.raw)[
                :RAW_LENGTH
            ]  # truncated afterwards: half a key would not be found


class Pace:
    """Spaces requests evenly, so that no more requests and tokens are sent in a minute than a server allows.

    A token bucket without a reserve: each request waits until its turn and moves the next turn on by the time
    that it takes up of the minute.

    Args:
        rpm: most requests a minute; None sets no bound.
        tpm: most tokens a minute; None sets no bound.

    Raises:
        ConfigError: a number that is not positive.

    Example:
        >>> pace = Pace(rpm=60)
        >>> [pace.wait(0, now=100.0) for _ in range(3)]
        [0.0, 1.0, 2.0]
    """

    def __init__(self, rpm: float | None = None, tpm: float | None = None) -> None:
        if not all(bound is None or 0 < bound < float("inf") for bound in (rpm, tpm)):
            raise ConfigError(f"rpm and tpm must be positive numbers, got {rpm}, {tpm}")
        self.rpm, self.tpm = rpm, tpm
        self._next = 0.0

    def wait(self, tokens: int, now: float) -> float:
        """Return the seconds until a request's turn, and take that turn.

        Args:
            tokens: of the request and its longest answer.
            now: seconds of any clock that only goes forward.
        """
        takes = max(60 / self.rpm if self.rpm else 0.0, 60 * tokens / self.tpm if self.tpm else 0.0)
        turn = max(now, self._next)
        self._next = turn + takes
        return turn - now


class Endpoint:
    """Base class of clients of OpenAI-compatible endpoints, with retries.

    429, 5xx, broken connections and time-outs are retried with exponential back-off and jitter; a
    Retry-After holds back every request of this client, not only the one that received it.

    Args:
        model: the model's name at the endpoint.
        base_url: the endpoint's root, such as "http://localhost:11434/v1"; None is OpenAI's.
        key_env: the environment variable that holds the key. It is read by the first request and never
            written, logged or stored. Your own endpoints need none.
        timeout: seconds that one try may take.
        concurrency: most requests in flight at once.
        retries: tries after the first one.
        backoff: seconds before the first retry; doubles each time, up to ``max_wait``.
        max_wait: longest pause in seconds; a server that asks for a longer one ends the run.
        rpm: most requests a minute, evenly spaced; None sets no bound.
        tpm: most tokens a minute, by an estimate of each request and its longest answer; None sets no bound.

    Raises:
        ConfigError: a value out of range, or an invalid address.
    """

    keyless = "--model local"  # the option without a key, for the message about a missing one

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None,
        key_env: str,
        timeout: float,
        concurrency: int,
        retries: int,
        backoff: float,
        max_wait: float,
        rpm: float | None = None,
        tpm: float | None = None,
    ) -> None:
        for label, value, least in (("concurrency", concurrency, 1), ("retries", retries, 0)):
            if value < least:
                raise ConfigError(f"{label} must be at least {least}, got {value}")
        if not (timeout > 0 and backoff > 0 and max_wait > 0):
            raise ConfigError(
                "timeout, backoff and max_wait must be positive seconds, "
                f"got {timeout}, {backoff}, {max_wait}"
            )
        if not (key_env.isidentifier() and key_env.isascii()):  # not quoted: it may be the key itself
            raise ConfigError("key_env must be the name of an environment variable, such as OPENAI_API_KEY")
        self.name = model
        self.base_url = OPENAI_URL if base_url is None else _checked(base_url)
        self.address = without_secrets(self.base_url)  # for messages
        self.key_env = key_env
        self.timeout = timeout
        self.concurrency = concurrency
        self.retries = retries
        self.backoff = backoff
        self.max_wait = max_wait
        self.other_models: Counter[str] = Counter()  # answers by the other model that they name
        self.shortened = 0  # texts that were accepted only after they were cut
        self.tries_repeated = 0
        self._model = model
        self._resume_at = 0.0  # a Retry-After holds for all requests
        self._pace = Pace(rpm, tpm)
        self._connection: Connection | None = None

    def divided(self, copies: int) -> Self:
        """Return this client for one of ``copies`` processes, which together send no more than this one would."""
        share = copy.copy(self)
        share.concurrency = -(-self.concurrency // copies)
        rpm, tpm = self._pace.rpm, self._pace.tpm
        share._pace = Pace(rpm and rpm / copies, tpm and tpm / copies)
        share._connection = None
        return share

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connection": None}  # no key, no socket in a pickle

    async def _with_retries(
        self, attempt: Callable[[Connection], Awaitable[Answer]], tokens: int = 0
    ) -> Answer:
        """Return the result of ``attempt``, retried while it raises ``Transient``; secrets are removed from errors.

        Args:
            attempt: sends one request.
            tokens: that the request may take, for ``tpm``.
        """
        connection = await self._connect()
        async with connection.slots:
            failed = 0
            while True:
                if (rest := self._pace.wait(tokens, time.monotonic())) > 0:
                    await asyncio.sleep(rest)
                await self._pause()
                try:
                    return await attempt(connection)
                except RlmrecError as error:
                    connection.secrets.clean_error(error)
                    raise
                except (
                    Transient,
                    ArithmeticError,
                    LookupError,
                    RecursionError,
                    TypeError,
                    ValueError,
                ) as error:
                    # An answer may hold anything: what cannot be read fails this request and no other.
                    fault = (
                        error
                        if isinstance(error, Transient)
                        else Transient(f"an answer that cannot be read ({type(error).__name__})")
                    )
                    connection.secrets.clean_error(fault)
                    failed += 1
                    if failed > self.retries:
                        raise EndpointError(
                            f"no answer in {failed} tries, the last one: {fault}; check the endpoint "
                            f"{self.address} or lower --concurrency, then run again",
                            fault.raw,
                        ) from None
                    self.tries_repeated += 1
                    await self._back_off(fault, failed)

    async def _send(self, connection: Connection, path: str, body: dict[str, Any]) -> bytes:
        """Send one HTTP request and return the content of the reply; raise one of our own errors."""
        import aiohttp

        url = _url(self.base_url, path)
        # Half characters cannot be sent.
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        try:
            async with asyncio.timeout(self.timeout):
                for _ in range(MOST_REDIRECTS):
                    async with connection.session.post(url, data=content, allow_redirects=False) as reply:
                        told: bytes = await reply.read()
                    if reply.status not in (301, 302, 307, 308) or "location" not in reply.headers:
                        break
                    url = _redirected(url, reply.headers["location"])
                else:
                    raise Transient(f"more than {MOST_REDIRECTS} redirects")
        except TimeoutError:
            raise Transient(f"no answer within {self.timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            said = without_secrets(str(error))
            raise Transient(f"connection failed ({type(error).__name__}: {said})") from None
        if reply.status >= 300:
            raise self._status_error(reply.status, reply.headers, told, connection.secrets, body)
        return told

    def _status_error(
        self,
        status: int,
        headers: Mapping[str, str],
        content: bytes,
        secrets: Secrets,
        asked: Mapping[str, Any],
    ) -> Exception:
        raw = content.decode("utf-8", "replace")
        try:
            reply = mapping(parse_json(raw, strict=False))
        except ValueError:
            reply = {}
        body = mapping(reply.get("error", reply))
        said = body.get("message")
        message = secrets.clean(f"HTTP {status}: {said if isinstance(said, str) and said else raw}")[:500]
        code = str(body.get("code") or "")
        if "content_filter" in code or "content_policy" in code or "content_filter" in raw:
            return RefusedError(f"a content filter refused the prompt ({message})", raw)
        if status == 429 and code not in ("insufficient_quota", "billing_hard_limit_reached"):
            wait = _retry_after(headers)
            if wait is not None and wait > self.max_wait:
                return AccessError(
                    f"the endpoint asks to wait {wait:g} s, more than the {self.max_wait:g} s that this run "
                    "waits at most: run the same command again later, nothing is lost",
                    raw,
                )
            return Transient(message, raw, wait)
        bad = BadRequest(message, raw, str(body.get("param") or ""), status)
        # llama.cpp answers 5xx to a prompt that is too long; it and vLLM to a format that they lack.
        if status >= 500 and (bad.is_too_long or (bad.names_a_format and "response_format" in asked)):
            return bad
        if status in (408, 409, 425) or status >= 500:
            return Transient(message, raw, _retry_after(headers, self.max_wait))
        if status in (401, 402, 403, 429):
            return AccessError(
                f"the endpoint {self.address} refuses access ({message}): check the key in "
                f"${self.key_env} and the account",
                raw,
            )
        if status == 404 and not bad.names_a_format:
            return AccessError(
                f"the endpoint {self.address} does not know model {self._model!r} or the address "
                f"({message}): check the model's name and --base-url",
                raw,
            )
        return bad

    def _reply(self, content: bytes) -> dict[str, Any]:
        """Return the JSON object in a reply's content, or raise the error that it holds."""
        text = content.decode("utf-8", "replace")
        try:
            reply = parse_json(text, strict=False)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise Transient("HTTP 200 without an answer in it", text)
        if reply.get("error") and not (reply.get("choices") or reply.get("data")):
            raise self._error_of_200(reply["error"], text)
        named = reply.get("model")
        if isinstance(named, str) and named and not _is_same_model(self._model, named):
            self.other_models[named[:100]] += 1
        return reply

    def _error_of_200(self, error: Any, raw: str) -> Exception:
        """Return the error that some servers send with status 200, which says what kind it is by a code."""
        body = mapping(error)
        code = str(body.get("code") or body.get("type") or "")
        message = f"HTTP 200 with an error: {body.get('message') or error}"[:500]
        if code in ("401", "402", "403", "404", "insufficient_quota", "invalid_api_key", "model_not_found"):
            return AccessError(f"the endpoint {self.address} refuses access ({message})", raw)
        passing = ("rate_limit", "overloaded", "server_error", "timeout", "unavailable")
        if (
            code in ("408", "409", "425", "429")
            or re.fullmatch(r"5\d\d", code)
            or any(w in code for w in passing)
        ):
            return Transient(message, raw)
        return BadRequest(message, raw, str(body.get("param") or ""), 400)

    async def _shortened(
        self, text: str, error: BadRequest, shortest: int, send: Callable[[str], Awaitable[Answer]]
    ) -> Answer:
        """Send a refused text again, cut, until the server takes it; a refusal costs nothing.

        Servers word the refusal of a long text in many ways, so every refusal is met like this.

        Args:
            text: the text.
            error: its refusal.
            shortest: characters; a text that is refused at this length is not refused for its length.
            send: sends one text.

        Raises:
            BadRequest: the last refusal.
        """
        for _ in range(MOST_CUTS):
            if len(text) <= shortest:
                break
            text = text[: len(text) * 3 // 4 if error.is_too_long else len(text) // 2]
            try:
                answer = await send(text)
            except BadRequest as again:
                error = again
                continue
            self.shortened += 1
            return answer
        raise error

    def findings(self) -> list[Finding]:
        """Return what the answers so far say that the user should know; here, that another model wrote them."""
        if not self.other_models:
            return []
        named = self.other_models.most_common(1)[0][0]
        remedy = "check the model's name and what the endpoint serves"
        what = f"answers name another model than {self._model!r}"
        return [Finding("other model", what, self.other_models.total(), repr(named), remedy)]

    async def _pause(self) -> None:
        while (rest := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(rest * random.uniform(1.0, 1.1))  # not all at the same instant

    async def _back_off(self, fault: Transient, failed: int) -> None:
        if fault.wait is not None:
            self._resume_at = max(self._resume_at, time.monotonic() + fault.wait)
            return
        await asyncio.sleep(min(self.max_wait, self.backoff * 2 ** (failed - 1)) * random.uniform(0.5, 1.0))

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._connection is None or self._connection.loop is not loop:
            key = os.environ.get(self.key_env, "").strip()  # a key read from a file ends with a line break
            if not (key.isascii() and key.isprintable()):
                raise ConfigError(
                    f"${self.key_env} holds something other than a key (it contains a line break or letters beyond "
                    f"ASCII): export {self.key_env} again, with the key alone"
                )
            if not key and self.base_url.startswith(OPENAI_URL):
                raise ConfigError(
                    f"${self.key_env} holds no key, {self.address} needs one: export {self.key_env}=…, name "
                    f"another variable with --key-env, or use {self.keyless}, which needs none"
                )
            opened = _session(self.base_url, key)
            session = await anext(opened)
            slots = asyncio.Semaphore(self.concurrency)
            self._connection = Connection(loop, session, opened, slots, Secrets(key, self.base_url))
        return self._connection

    async def aclose(self) -> None:
        """Close the connections; the next request opens new ones."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.opened.aclose()


class Transient(Exception):
    """An error that may pass, so that the request is retried. ``wait``: seconds that the server asks for."""

    def __init__(self, message: str, raw: str | None = None, wait: float | None = None) -> None:
        super().__init__(message)
        self.raw = raw
        self.wait = wait


class BadRequest(LLMError):
    """The server rejects the request; ``param`` is the field that it names, ``status`` the HTTP status."""

    def __init__(self, message: str, raw: str | None, param: str, status: int) -> None:
        super().__init__(message, raw)
        self.param = param
        self.status = status

    @property
    def text(self) -> str:
        """The server's whole message in lower case."""
        return f"{self.param} {self} {self.raw}".lower()

    @property
    def names_a_format(self) -> bool:
        """Whether the format of the answer is the reason."""
        words = ("response_format", "json_schema", "json_object", "guided", "grammar")
        return any(word in self.text for word in words)

    @property
    def is_too_long(self) -> bool:
        """Whether the server says that the length of the request is the reason."""
        return self.status == 413 or any(
            words in self.text
            for words in (
                "context_length", "maximum context", "context length", "too large to process",
                "must have less than",  # TEI
                "token count", "maximum number of tokens",  # Gemini
                "too many tokens", "exceeds maximum", "max_tokens_per_request", "maximum allowed length",  # Mistral
            )
        )  # fmt: skip


def run_in_a_loop(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a coroutine to its end, in another thread if this one has a running event loop (notebooks)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    result: list[Answer] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            result.append(asyncio.run(work))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=target, name="rlmrec-requests")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


async def _session(base_url: str, key: str) -> AsyncGenerator[Any]:
    """Yield an aiohttp session for one endpoint. ``asyncio.run`` closes generators that are still open at its end.

    Certificates are checked against those of the system, or of $SSL_CERT_FILE; $HTTP_PROXY, $HTTPS_PROXY, $ALL_PROXY
    and $NO_PROXY are read once, as aiohttp would read them in a thread before every request.

    Raises:
        ConfigError: aiohttp is not installed, or the environment names a proxy that is not an HTTP proxy.
    """
    try:
        import aiohttp
    except ImportError:
        raise ConfigError(
            "requests to an endpoint need the package aiohttp: pip install 'aiohttp>=3.11'"
        ) from None
    parts = urlsplit(base_url)
    headers = {"Content-Type": "application/json", "User-Agent": f"rlmrec/{__version__}"}
    login = unquote(parts.netloc.rpartition("@")[0])
    login = f"{login}:" if login and ":" not in login else login
    if login or key:
        basic = base64.b64encode(login.encode()).decode()
        headers["Authorization"] = f"Basic {basic}" if login else f"Bearer {key}"
    async with aiohttp.ClientSession(
        headers=headers,
        proxy=_proxy(parts),
        connector=aiohttp.TCPConnector(limit=0, ssl=_certificates()),  # Connection.slots is the limit
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),  # _send has its own
    ) as session:
        yield session


def _proxy(parts: SplitResult) -> str | None:
    """Return the address of the proxy that the environment names for an endpoint; None if it names none."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy is None or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if _port(urlsplit(proxy)) is None and proxy.startswith(("http://", "https://")):
        raise ConfigError(
            f"{parts.scheme.upper()}_PROXY of the environment is not an address: expected http://HOST:PORT, with the "
            "characters / ? # @ of a name or password written as %2F %3F %23 %40"
        )
    if not proxy.startswith(("http://", "https://")):
        raise ConfigError(
            f"the proxy {without_secrets(proxy)} of the environment is not an HTTP proxy: name one in "
            f"{parts.scheme.upper()}_PROXY, or add {parts.hostname} to NO_PROXY"
        )
    return proxy


def _certificates() -> ssl.SSLContext:
    """Return a context with the certificates of the system, or of $SSL_CERT_FILE or $SSL_CERT_DIR."""
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
    if sys.platform in ("darwin", "win32") and not named:  # OpenSSL does not read all of theirs
        import truststore

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return ssl.create_default_context()


def _url(base_url: str, path: str) -> str:
    """Return the address of a path below an endpoint's root, without name and password.

    Example:
        >>> _url("http://me:pw@host/v1/?version=2", "/embeddings")
        'http://host/v1/embeddings?version=2'
    """
    parts = urlsplit(base_url)
    netloc = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=netloc, path=parts.path.rstrip("/") + path, fragment="").geturl()


def _redirected(url: str, location: str) -> str:
    """Return where a redirect leads.

    Raises:
        AccessError: to another host, which would receive the prompt and the key.
    """
    named = urljoin(url, location)
    before, after = urlsplit(url), urlsplit(named)
    same = (before.scheme, before.hostname, _port(before)) == (after.scheme, after.hostname, _port(after))
    if not same and (before.hostname, before.scheme, after.scheme) != (after.hostname, "http", "https"):
        raise AccessError(
            f"the endpoint redirects to another host, {without_secrets(named)[:200]}: nothing was sent there; "
            "pass that address as --base-url if you trust it"
        )
    return named


def _port(parts: SplitResult) -> int | None:
    """Return the port of an address, that of its scheme by default."""
    try:
        return parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:  # it is no number
        return None


def _is_same_model(asked: str, named: str) -> bool:
    """Return whether an answer names the model that was asked for, perhaps with a folder, a date or a version.

    Example:
        >>> _is_same_model("gpt-4o", "gpt-4o-2024-08-06"), _is_same_model("gpt-4o", "gpt-4o-mini")
        (True, False)
    """
    names = (name[:200].lower().replace("\\", "/").rpartition("/")[2] for name in (asked, named))
    short, long = sorted(names, key=len)
    rest = long.removeprefix(short)
    return long.startswith(short) and (not rest or re.match(r"[-@:_](v?\d|latest)|\.gguf", rest) is not None)


def mapping(value: Any) -> dict[str, Any]:
    """Return ``value`` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def count(values: Mapping[str, Any], name: str) -> int:
    """Return a number of tokens in a reply's usage; 0 if it is missing or no number of tokens."""
    value = values.get(name)
    return (
        int(value)
        if isinstance(value, int | float) and value is not True and 0 <= value <= MOST_TOKENS
        else 0
    )


def _retry_after(headers: Mapping[str, str], most: float | None = None) -> float | None:
    """Return the seconds that the headers ask to wait, at most ``most``; None if they do not."""
    wait: float | None = None
    try:
        if milliseconds := headers.get("retry-after-ms"):
            wait = float(milliseconds) / 1000
        elif value := headers.get("retry-after"):
            try:
                wait = float(value)
            except ValueError:
                wait = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None
    if wait is None or not 0 <= wait < float("inf"):
        return None if wait is None or wait != wait or wait > 0 else 0.0
    return wait if most is None else min(wait, most)


def without_secrets(text: str) -> str:
    """Remove names, passwords and queries, which may hold keys, from the addresses in a text.

    Example:
        >>> without_secrets("--base-url=http://me:pw@host:1/v1?key=k")
        '--base-url=http://host:1/v1'
    """
    return re.sub(r"(\w+://)(?:[^\s/?#]*@)?([^\s?#]*)\S*", r"\1\2", text)


def _checked(url: str) -> str:
    """Return the address of an endpoint if it is valid."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number
        fine = False
    if not fine or url != url.strip():
        raise ConfigError(
            f"base_url {url.rpartition('@')[2]!r}: expected an address such as 'http://localhost:11434/v1'"
        )
    return url


def _forms(secret: str) -> set[str]:
    """Return the ways in which a secret may be quoted: plain, in JSON, in Python, in an address."""
    escaped = json.dumps(secret)[1:-1]
    return {
        secret,
        escaped,
        escaped.replace("/", "\\/"),
        repr(secret)[1:-1],
        quote(secret, ""),
        unquote(secret),
    }
