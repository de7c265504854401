"""Worker processes: uvicorn's, made to end and to reload without dropping a request."""

from __future__ import annotations

import logging
import os
import tempfile
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from functools import partial
from socket import socket

import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from rlmrec.errors import ConfigError, RlmrecError
from rlmrec.server.added_items import ItemStore
from rlmrec.server.middleware import ENDING
from rlmrec.server.settings import Settings, application

logger = logging.getLogger("uvicorn.error")

# A client that has just received an answer may already have sent its next request.
LAST_REQUEST_SECONDS = 1.0
GRACE_SECONDS = 30
HEAD_SECONDS = 10  # from the connection, or a request's first byte, to the end of its head
# Longer than proxies keep connections open (60 s): a request may be lost if the server closes first.
IDLE_SECONDS = 75


def run_server(
    settings: Settings, host: str, port: int, workers: int, announce: Callable[[str], None]
) -> None:
    """Run a server until it gets SIGTERM or SIGINT.

    Args:
        settings: of the server.
        host: address to listen on.
        port: to listen on; 0 takes any free port.
        workers: number of processes.
        announce: called with the URL when the server listens.

    Raises:
        ConfigError: nothing can listen on the host and port.
        RlmrecError: the settings or the run cannot be used.
    """
    settings.token()
    config = uvicorn.Config(
        # Several workers make their applications in their own processes.
        partial(application, settings) if workers > 1 else application(settings),
        factory=workers > 1,
        host=host,
        port=port,
        workers=workers,
        http=Connection,
        log_level="info",
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_worker_healthcheck=GRACE_SECONDS,
    )
    if workers > 1:
        settings.load()  # so that a mistake is reported once and not by every worker
    name = f"[{host}]" if ":" in host else host
    try:
        listening = config.bind_socket()
    except SystemExit:  # uvicorn has logged why
        raise ConfigError(
            f"cannot listen on {name}:{port}, as the line above says: give a free port (--port, 0 takes any) "
            "or an address of this machine (--host), or end the program that listens there"
        ) from None
    listening.listen(config.backlog)  # clients that connect before the workers are ready wait for them
    announce(f"http://{name}:{listening.getsockname()[1]}")
    if workers == 1:
        uvicorn.Server(config).run([listening])
        return
    with tempfile.TemporaryDirectory(prefix="rlmrec-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        Workers(config, [listening], settings.added_items()).run()


class Connection(HttpToolsProtocol):
    """A connection that is closed if the head of a request does not arrive in time.

    If it is idle at SIGTERM, it stays open for one more answer, which says that it is the last.
    """

    _head_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; after an answer they begin the head of the next request."""
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Begin to answer a request."""
        self._stop_timer()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def shutdown(self) -> None:
        """Close the connection, at once or after a last request."""
        self.app_state[ENDING] = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LAST_REQUEST_SECONDS, super().shutdown)
        else:
            super().shutdown()


class Workers(Multiprocess):
    """Worker processes that load the run again at SIGHUP; no process ends and no connection is closed.

    Args:
        config: uvicorn's.
        sockets: that all of them listen on.
        store: its counters announce a reload to the workers.
    """

    def __init__(self, config: uvicorn.Config, sockets: list[socket], store: ItemStore) -> None:
        super().__init__(config, sockets)
        self.store = store

    def keep_subprocess_alive(self) -> None:
        """Replace workers that have died."""
        before = {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        for pid in before - {process.pid for process in self.processes}:
            # Its requests in progress ended with it; its counters stay.
            mark_process_dead(pid)  # type: ignore[no-untyped-call]

    def terminate_all(self) -> None:
        """Ask all workers to end."""
        for sock in self.sockets:
            sock.close()  # or a client that connects now would wait for ever
        super().terminate_all()

    def handle_hup(self) -> None:
        """Make all workers load the run again."""
        try:
            self.store.request_reload()
        except RlmrecError as error:
            logger.error("reload failed, the current run stays: %s", error)
