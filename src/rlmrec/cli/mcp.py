"""rlmrec mcp: a run as tools of an assistant."""

from __future__ import annotations

from typing import Annotated

import typer

from rlmrec.cli.arguments import (
    DEFAULT_WORKSPACE,
    AddedItemsOption,
    BaseUrlOption,
    EncoderOption,
    KeyEnvOption,
    WorkspaceOption,
)
from rlmrec.errors import ConfigError


def mcp(
    run: Annotated[
        str | None,
        typer.Option(help="Name of a finished run; by default what 'rlmrec publish' has published."),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Serve over streamable HTTP, at http://127.0.0.1:PORT/mcp, instead of standard input and output.",
        ),
    ] = None,
    encoder: EncoderOption = None,
    base_url: BaseUrlOption = None,
    key_env: KeyEnvOption = "OPENAI_API_KEY",
    added_items: AddedItemsOption = None,
) -> None:
    """Give an assistant a run as tools of the Model Context Protocol: search, recommendations, explanations.

    The assistant starts the command and talks to it over standard input and output. The tools only read.

    **Examples:**

    `rlmrec mcp -w /home/ann/shop`   (as the command of an assistant's settings)

    `rlmrec mcp -w movies --run con --port 8001`
    """
    from rlmrec.cli.output import Output

    try:
        from rlmrec.server.mcp import create_server
        from rlmrec.server.settings import Settings
    except ImportError as error:
        raise ConfigError(f"{error}: install the tools with  pip install 'rlmrec[mcp]'") from None
    settings = Settings(
        workspace, run, encoder=encoder, base_url=base_url, key_env=key_env, added=added_items
    )
    server = create_server(settings.service())
    if port is None:
        server.run("stdio")
        return
    Output(as_json=True).say(f"MCP at http://127.0.0.1:{port}/mcp")
    server.run("streamable-http", host="127.0.0.1", port=port)
