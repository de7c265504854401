"""Uvicorn's connections and processes: ended without a request dropped, told to reload instead of being replaced."""

from __future__ import annotations

import logging
from socket import socket

from prometheus_client.multiprocess import mark_process_dead
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from rlmrec.errors import WorkspaceError
from rlmrec.server.added_items import ColdItems
from rlmrec.server.middleware import ENDING

logger = logging.getLogger("uvicorn.error")
# A client that has just had its answer may have its next request on the way.
LAST_CALL_SECONDS = 1.0


class Connection(HttpToolsProtocol):
    """As uvicorn's, but one that is idle at SIGTERM is not closed at once: its next answer says that it is the last."""

    def shutdown(self) -> None:
        """The server ends: close the connection, now or soon."""
        self.app_state[ENDING] = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LAST_CALL_SECONDS, super().shutdown)
        else:
            super().shutdown()


class Workers(Multiprocess):
    """As uvicorn's, but SIGHUP makes the workers read the run again; no process ends and no connection closes.

    Args:
        config: uvicorn's.
        sockets: that all of them listen on.
        store: through whose counters the workers are told.
    """

    def __init__(self, config: Config, sockets: list[socket], store: ColdItems) -> None:
        super().__init__(config, sockets)
        self.store = store

    def keep_subprocess_alive(self) -> None:
        """Put a new worker in the place of one that has died, and forget what it was working on."""
        before = {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        for pid in before - {process.pid for process in self.processes}:
            # Its requests in flight have ended with it; what it counted stays counted.
            mark_process_dead(pid)  # type: ignore[no-untyped-call]

    def terminate_all(self) -> None:
        """Ask the workers to end."""
        for sock in self.sockets:
            sock.close()  # or who connects now would wait for an answer that never comes
        super().terminate_all()

    def handle_hup(self) -> None:
        """SIGHUP."""
        try:
            self.store.ask_reload()
        except WorkspaceError as error:
            logger.error("reload failed, the run in force stays: %s", error)
