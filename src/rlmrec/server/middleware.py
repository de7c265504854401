"""Middleware before every request: limits, security headers and metrics."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlmrec.server.catalogue import Catalogue
from rlmrec.server.quality import Quality

# Answered even when the worker is saturated, since monitoring depends on them.
MONITORED = frozenset({"/healthz", "/readyz", "/metrics"})
BODY_SECONDS = 10.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Wait before a refusal: clients that retry at once would slow down the requests in progress.
REFUSAL_SECONDS = 0.1
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
CONTENT_SECURITY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'%s; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# These stay encoded until the address is split into parts: a slash or a line break within an id would change the
# address, and an encoded percent sign distinguishes them from ids that contain such a code.
KEPT = re.compile("%(2[5f]|0a)", re.IGNORECASE)
# Set in the state of the application after SIGTERM: answers then close their connection.
ENDING = "ending"
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Args:
        in_flight: requests in progress in one worker; further ones are refused with 503.
        body: bytes of a request's body; longer ones are refused with 413.
        arriving: bodies that are being received; further ones are refused with 503, requests without a body are not.
        texts: texts that wait for the encoder; further ones are refused with 503.
        hosts: names that the Host header may have, without a port; others are refused with 421, so that a page
            whose name was rebound to this server's address reads nothing. None allows all.
        picture_hosts: names of the hosts that a page may load pictures from, over HTTPS.
    """

    in_flight: int = 64
    body: int = 1 << 20
    arriving: int = 1024
    texts: int = 8
    hosts: frozenset[str] | None = None
    picture_hosts: frozenset[str] = frozenset()


class Metrics:
    """Metrics for Prometheus; with PROMETHEUS_MULTIPROC_DIR set, of all workers together."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["method", "path", "status"]
        self.requests = Counter("rlmrec_requests", "Requests answered.", labels, registry=self.registry)
        self.seconds = Histogram(
            "rlmrec_request_seconds", "Time from the head of the request to the end of the answer.",
            ["path"], registry=self.registry, buckets=BUCKETS,
        )  # fmt: skip
        self.in_flight = Gauge(
            "rlmrec_requests_in_flight", "Requests in progress.",
            registry=self.registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.refused = Counter(
            "rlmrec_requests_refused",
            "Requests refused because too many were in progress.",
            registry=self.registry,
        )
        self.reloads = Counter(
            "rlmrec_reloads", "Reloads of the run, by outcome.", ["outcome"], registry=self.registry
        )
        self.texts_ready = Gauge(
            "rlmrec_texts_ready", "The text encoder is loaded; with several workers, in all of them.",
            registry=self.registry, multiprocess_mode="livemin",
        )  # fmt: skip
        self.quality = Quality(self.registry)

    def text(self, catalogue: Catalogue) -> bytes:
        """Return all metrics in the text format of Prometheus, with those of the catalogue that is served."""
        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry) + self.quality.text(catalogue)


class RequestMiddleware:
    """ASGI middleware that enforces the limits, adds security headers and counts requests.

    It refuses an unknown host (421), a body that is too large (413) or too slow (408) and requests above the
    limits (503). Bodies are received before a request counts as being in progress: half-sent ones block nobody.

    Args:
        app: the application behind it.
        limits: of requests.
        metrics: counts the requests.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self.app = app
        self.limits = limits
        self.metrics = metrics
        self.in_flight = 0
        self.arriving = 0
        pictures = "".join(f" https://{host}" for host in sorted(limits.picture_hosts))
        self.headers = [*HEADERS, (b"content-security-policy", (CONTENT_SECURITY % pictures).encode())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Not every server sets raw_path.
        address = scope.get("raw_path") or quote(scope["path"]).encode()
        scope["path"] = unquote(KEPT.sub(r"%25\1", address.decode("latin-1")))
        start = time.perf_counter()
        status = 500  # the server's own answer if the application sends none

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ends = [(b"connection", b"close")] * bool(scope.get("state", {}).get(ENDING))
                message["headers"] = [*message.get("headers", []), *self.headers, *ends]
            await send(message)

        try:
            body = await self._accepted(scope, receive, answer)
            if body is not None:
                await self._answer(scope, _replayed(body, receive), answer)
        finally:
            self._count(scope, status, start)

    async def _accepted(self, scope: Scope, receive: Receive, answer: Send) -> bytes | None:
        """Return the body of a request that may be answered; refuse others and return None."""
        headers = dict(scope["headers"])
        host = _host(headers.get(b"host", b"").decode("latin-1"))
        if self.limits.hosts is not None and host not in self.limits.hosts:
            why = f"the host {host[:100]!r} is not allowed here: start the server with --allowed-hosts to serve it"
            await _refuse(answer, 421, why)
            return None
        if headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers:
            return b""
        close = [(b"connection", b"close")]
        if scope["path"] in MONITORED:
            await _refuse(answer, 413, "expected a request without a body", close)
            return None
        if self.arriving >= self.limits.arriving:
            await self._saturated(answer)
            return None
        self.arriving += 1
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._body(scope, receive)
        except TimeoutError:
            await _refuse(answer, 408, f"the body did not arrive within {BODY_SECONDS:g} s", close)
            return None
        finally:
            self.arriving -= 1
        if body is None:
            await _refuse(answer, 413, f"the body is larger than {self.limits.body:,} bytes", close)
        return body

    async def _answer(self, scope: Scope, receive: Receive, answer: Send) -> None:
        """Pass a request on if a slot is free."""
        counted = scope["path"] not in MONITORED
        if counted and self.in_flight >= self.limits.in_flight:
            await self._saturated(answer)
            return
        self.in_flight += counted
        self.metrics.in_flight.inc(counted)
        try:
            await self.app(scope, receive, answer)
        finally:
            self.in_flight -= counted
            self.metrics.in_flight.dec(counted)

    async def _saturated(self, answer: Send) -> None:
        self.metrics.refused.inc()
        await asyncio.sleep(REFUSAL_SECONDS)
        await _refuse(answer, 503, "too many requests at once: try again later", [(b"retry-after", b"1")])

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Read the whole body; return None if it is too large."""
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > self.limits.body:
                return None
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":  # the client has left
                return bytes(body)
            body += message.get("body", b"")
            if len(body) > self.limits.body:
                return None
            if not message.get("more_body", False):
                return bytes(body)

    def _count(self, scope: Scope, status: int, start: float) -> None:
        # The template instead of the path, or every id would make a time series of its own.
        path = (getattr(scope.get("route"), "path", None) or "other").replace(":path", "")
        method = scope["method"] if scope["method"] in {"GET", "POST", "DELETE"} else "other"
        self.metrics.requests.labels(method, path, str(status)).inc()
        self.metrics.seconds.labels(path).observe(time.perf_counter() - start)


def _host(header: str) -> str:
    """Return the name in a Host header, without its port, in lower case."""
    name = header.strip().lower()
    if name.startswith("["):  # an IPv6 address
        return name[1:].partition("]")[0]
    return name.partition(":")[0].rstrip(".")


def decode_path_part(part: str) -> str:
    """Decode the characters of a part of an address that the middleware left encoded."""
    return KEPT.sub(lambda found: unquote(found[0]), part)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a channel that gives the body first and then later messages, such as a disconnect."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(
    send: Send, status: int, error: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    payload: dict[str, Any] = {"error": error, "fields": []}
    body = json.dumps(payload).encode()
    lines = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*lines, *(headers or [])]})
    await send({"type": "http.response.body", "body": body})
