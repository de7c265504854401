"""rlmrec serve: a run over HTTP, with the explorer page."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from rich.markup import escape

from rlmrec.cli.arguments import (
    DEFAULT_WORKSPACE,
    AddedItemsOption,
    BaseUrlOption,
    EncoderOption,
    KeyEnvOption,
    WorkspaceOption,
)
from rlmrec.errors import ConfigError

HOST_NAME = re.compile(r"[a-z0-9.-]+(:\d+)?")


def serve(
    run: Annotated[
        str | None,
        typer.Option(help="Name of a finished run; by default what 'rlmrec publish' has published."),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    base: Annotated[
        str | None, typer.Option(help="A run to compare with, such as the one without text.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any free port.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes; they share the arrays.")] = 1,
    token_env: Annotated[
        str | None,
        typer.Option(
            help="Environment variable with the bearer token that adding items and reloading require. "
            "Without it, both are refused."
        ),
    ] = None,
    in_flight: Annotated[
        int, typer.Option(min=1, help="Maximum number of requests in progress per worker; others get 503.")
    ] = 64,
    encoder: EncoderOption = None,
    base_url: BaseUrlOption = None,
    key_env: KeyEnvOption = "OPENAI_API_KEY",
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Name that the Host header may have, without a port; repeat for several, * allows all. "
            "localhost, 127.0.0.1, ::1 and a --host that is one address are always allowed.",
        ),
    ] = None,
    picture_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Host that the page may load pictures of items from, such as img.shop.example; repeat for several. "
            "The items need a column of https addresses.",
        ),
    ] = None,
    warm_up: Annotated[
        bool,
        typer.Option(
            "--warm-up/--no-warm-up",
            help="Load the text encoder at the start, in the background, or with the first text.",
        ),
    ] = True,
    added_items: AddedItemsOption = None,
) -> None:
    """Serve a run over HTTP: recommendations, explanations, cold start, metrics, and an explorer page at /.

    Without `--run` it serves what `rlmrec publish` has published, and changes to each new release by itself.

    `/docs` lists the routes, `/openapi.json` describes them. SIGHUP or `POST /v1/reload` loads the run again without
    dropping a request; SIGTERM finishes the requests in progress first.

    **Examples:**

    `rlmrec serve -w shop`

    `rlmrec serve -w movies --run con --base base`

    `RLMREC_TOKEN=… rlmrec serve -w movies --run con --workers 2 --token-env RLMREC_TOKEN`

    `rlmrec serve -w shop --added-items postgresql://shop@db/recommend`
    """
    from rlmrec.cli.output import Output

    try:
        from rlmrec.server.middleware import LOOPBACK
        from rlmrec.server.settings import Settings
        from rlmrec.server.workers import run_server
    except ImportError as error:
        raise ConfigError(f"{error}: install the server with  pip install 'rlmrec[serve]'") from None
    output = Output(as_json=False)

    def announce(url: str) -> None:
        what = "the published run" if run is None else f"run {escape(run)}"
        output.say(f"{what} at {escape(url)}  (documentation: {escape(url)}/docs)")

    names = {*LOOPBACK, host, *(name for given in allowed_hosts or () for name in given.lower().split(","))}
    hosts = None if "*" in names else frozenset(names - {"", "0.0.0.0", "::"})
    pictures = frozenset(name.lower() for name in picture_host or ())
    if bad := [name for name in pictures if not HOST_NAME.fullmatch(name)]:
        raise ConfigError(f"--picture-host {bad[0]!r}: expected the name of a host, such as img.shop.example")
    settings = Settings(
        workspace,
        run,
        base,
        token_env,
        in_flight,
        encoder,
        base_url,
        key_env,
        hosts,
        warm_up,
        pictures,
        added_items,
    )
    run_server(settings, host, port, workers, announce)
