"""Gate: what stands before every request: bounds, headers, figures."""

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

# Never refused at saturation: who watches must be answered.
WATCHED = frozenset({"/healthz", "/metrics"})
BODY_SECONDS = 10.0
# Before a refusal: clients that ask again at once would take the time of those who are being answered.
REFUSAL_SECONDS = 0.1
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
CONTENT_SECURITY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# What stays encoded in an address until it is split into parts: a slash or a line break within an id would make it
# another address, and the percent sign is what tells them from ids that look like this.
KEPT = re.compile("%(2[5f]|0a)", re.IGNORECASE)
# In the state of the application from SIGTERM on: whoever is answered then is told to go elsewhere.
ENDING = "ending"
HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Args:
        in_flight: requests that one worker works on at a time; what comes above is told to come again (503).
        body: bytes of a request's body (413).
    """

    in_flight: int = 64
    body: int = 1 << 20


class Metrics:
    """Figures for Prometheus. With PROMETHEUS_MULTIPROC_DIR set, those of all workers together."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["method", "path", "status"]
        self.requests = Counter("rlmrec_requests", "Requests answered.", labels, registry=self.registry)
        self.seconds = Histogram(
            "rlmrec_request_seconds", "Time from the request's head to the end of the answer.",
            ["path"], registry=self.registry, buckets=BUCKETS,
        )  # fmt: skip
        self.in_flight = Gauge(
            "rlmrec_requests_in_flight", "Requests being worked on.",
            registry=self.registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self.refused = Counter(
            "rlmrec_requests_refused", "Requests refused at saturation.", registry=self.registry
        )
        self.reloads = Counter(
            "rlmrec_reloads", "Reloads of the run, by outcome.", ["outcome"], registry=self.registry
        )

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class Gate:
    """ASGI middleware: refuses what is too large (413), too slow (408) or too much (503); sets headers; counts.

    Args:
        app: what is behind it.
        limits: bounds.
        metrics: where requests are counted.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self.app = app
        self.limits = limits
        self.metrics = metrics
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        address = (
            scope.get("raw_path") or quote(scope["path"]).encode()
        )  # not every server hands over the former
        scope["path"] = unquote(KEPT.sub(r"%25\1", address.decode("latin-1")))
        start = time.perf_counter()
        status = 500  # what the server says where nobody has answered

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ends = [(b"connection", b"close")] * bool(scope.get("state", {}).get(ENDING))
                message["headers"] = [*message.get("headers", []), *HEADERS, *ends]
            await send(message)

        counted = scope["path"] not in WATCHED
        if counted and self.in_flight >= self.limits.in_flight:
            self.metrics.refused.inc()
            await asyncio.sleep(REFUSAL_SECONDS)
            await _refuse(answer, 503, "too many requests at once: try again", [(b"retry-after", b"1")])
            self._count(scope, status, start)
            return
        self.in_flight += counted
        self.metrics.in_flight.inc(counted)
        try:
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    body = await self._body(scope, receive)
            except TimeoutError:
                await _refuse(answer, 408, f"the body did not arrive within {BODY_SECONDS:g} s")
                return
            if body is None:
                await _refuse(answer, 413, f"a body of at most {self.limits.body:,} bytes is taken")
            else:
                await self.app(scope, _replayed(body, receive), answer)
        finally:
            self.in_flight -= counted
            self.metrics.in_flight.dec(counted)
            self._count(scope, status, start)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None where it is too large."""
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
        # The template, not the path: ids would make a series each.
        path = (getattr(scope.get("route"), "path", None) or "other").replace(":path", "")
        method = scope["method"] if scope["method"] in {"GET", "POST", "DELETE"} else "other"
        self.metrics.requests.labels(method, path, str(status)).inc()
        self.metrics.seconds.labels(path).observe(time.perf_counter() - start)


def decode_path_part(part: str) -> str:
    """A part of an address with what the gate left encoded decoded."""
    return KEPT.sub(lambda found: unquote(found[0]), part)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A channel that hands over the body at once, then what comes later (that the client has left)."""
    handed = False

    async def replay() -> Message:
        nonlocal handed
        if handed:
            return await receive()
        handed = True
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
