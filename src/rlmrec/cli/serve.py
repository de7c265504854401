"""rlmrec serve: a run over HTTP, and the explorer page."""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from threadpoolctl import threadpool_limits

from rlmrec.cli.arguments import DEFAULT_WORKSPACE, RunOption, WorkspaceOption
from rlmrec.cli.output import Output
from rlmrec.errors import ConfigError
from rlmrec.recommend.cold_start import ColdStart, has_cold_start
from rlmrec.recommend.open import open_cold_start, open_recommender
from rlmrec.server.added_items import ColdItems
from rlmrec.server.catalogue import Catalogue
from rlmrec.server.service import Service
from rlmrec.text.encoder import TextEncoder
from rlmrec.workspace import Workspace

if TYPE_CHECKING:
    from fastapi import FastAPI

GRACE_SECONDS = 30
# Longer than proxies keep connections open (60 s): one that the server closes first can take a request with it.
IDLE_SECONDS = 75


@dataclass(frozen=True)
class Source:
    """What a worker is to serve; plain values, so that it travels to new processes.

    Args:
        workspace: folder.
        run: name.
        base: name of the run to compare with, or None.
        token_env: environment variable that holds the bearer token, or None.
        in_flight: requests at a time in one worker.
    """

    workspace: Path
    run: str
    base: str | None = None
    token_env: str | None = None
    in_flight: int = 64

    def load(self) -> Catalogue:
        """The run as it lies in the workspace now."""
        place = Workspace(self.workspace)
        dataset = place.dataset()
        recommender = open_recommender(place, self.run, dataset, mmap=True)
        return Catalogue(
            self.run,
            dataset,
            recommender,
            open_cold_start(place, self.run, recommender)
            if has_cold_start(place.recommender_path(self.run))
            else None,
            self.base,
            None if self.base is None else open_recommender(place, self.base, dataset, mmap=True),
            place.profiles_path,
        )

    def token(self) -> str | None:
        """The bearer token.

        Raises:
            ConfigError: the variable is not set or empty.
        """
        if self.token_env is None:
            return None
        token = os.environ.get(self.token_env, "").strip()
        if not token:
            raise ConfigError(f"--token-env {self.token_env}: this environment variable is not set")
        return token


def application(source: Source) -> FastAPI:
    """What one worker runs."""
    from rlmrec.server.api import create_app
    from rlmrec.server.middleware import Limits

    # A product over one user's vector is too small to split: threads of BLAS only get in each other's way.
    threadpool_limits(1, user_api="blas")
    store = ColdItems(Workspace(source.workspace).added_items_path)
    logging.getLogger("rlmrec").setLevel(logging.INFO)
    if not logging.getLogger("rlmrec").handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s:  %(message)s"))
        logging.getLogger("rlmrec").addHandler(handler)
    return create_app(
        Service(source.load, store, _encoder), source.token(), Limits(in_flight=source.in_flight)
    )


def _encoder(cold: ColdStart) -> TextEncoder:
    from rlmrec.text.registry import (
        encoder_of,  # the encoders' packages are heavy: not before they are needed
    )

    return encoder_of(cold.manifest)


def serve(
    run: RunOption,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    base: Annotated[
        str | None, typer.Option(help="A run to compare with, such as the one without text.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes; they share the arrays.")] = 1,
    token_env: Annotated[
        str | None,
        typer.Option(
            help="Environment variable with the bearer token for adding items and reloading; both are refused without."
        ),
    ] = None,
    in_flight: Annotated[
        int, typer.Option(min=1, help="Requests that a worker takes at once; above that the answer is 503.")
    ] = 64,
) -> None:
    """Serve a run over HTTP: recommendations, explanations, cold start, metrics, and an explorer page at /.

    `/docs` lists the addresses, `/openapi.json` describes them. SIGHUP or `POST /v1/reload` reads the run again
    without dropping a request; SIGTERM ends what is under way first.

    **Examples:**

    `rlmrec serve -w movies --run con --base base`

    `RLMREC_TOKEN=… rlmrec serve -w movies --run con --workers 2 --token-env RLMREC_TOKEN`
    """
    try:
        import uvicorn

        import rlmrec.server.api  # noqa: F401 - what it needs is missing now rather than in a worker
        from rlmrec.server.workers import Connection, Workers
    except ImportError as error:
        raise ConfigError(f"{error}: install the server with  pip install 'rlmrec[serve]'") from None
    source = Source(workspace, run, base, token_env, in_flight)
    source.token()
    output = Output(as_json=False)
    config = uvicorn.Config(
        # Several workers make theirs in processes of their own.
        partial(application, source) if workers > 1 else application(source),
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
        source.load()  # a mistake is told once, here, and not by every worker
    listening = config.bind_socket()
    listening.listen(config.backlog)  # who connects before the workers are up waits instead of being refused
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listening.getsockname()[1]}"
    output.say(f"run {escape(run)} at {escape(address)}  (documentation: {escape(address)}/docs)")
    if workers == 1:
        uvicorn.Server(config).run([listening])
        return
    with tempfile.TemporaryDirectory(prefix="rlmrec-metrics-") as figures:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = figures
        Workers(config, [listening], ColdItems(Workspace(workspace).added_items_path)).run()
