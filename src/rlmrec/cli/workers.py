"""Workers: uvicorn's processes, told to reload instead of being replaced."""

from __future__ import annotations

import logging
from socket import socket

from prometheus_client.multiprocess import mark_process_dead
from uvicorn import Config
from uvicorn.supervisors import Multiprocess

from rlmrec.errors import WorkspaceError
from rlmrec.serving.cold_items import ColdItems

logger = logging.getLogger("uvicorn.error")


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

    def handle_hup(self) -> None:
        """SIGHUP."""
        try:
            self.store.ask_reload()
        except WorkspaceError as error:
            logger.error("reload failed, the run in force stays: %s", error)
