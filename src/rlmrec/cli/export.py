"""rlmrec export: the embeddings of a run for a vector database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from rlmrec.cli.arguments import DEFAULT_WORKSPACE, JsonOption, RunOption, WorkspaceOption
from rlmrec.errors import ConfigError


def export(
    run: RunOption,
    out: Annotated[
        Path | None, typer.Option(help="Folder for users.parquet and items.parquet: id, vector.")
    ] = None,
    qdrant: Annotated[
        str | None, typer.Option(help="A Qdrant server (http://…) or a folder for its embedded mode.")
    ] = None,
    pgvector: Annotated[
        str | None,
        typer.Option(metavar="POSTGRES", help="A Postgres database with pgvector, postgresql://…."),
    ] = None,
    lancedb: Annotated[str | None, typer.Option(help="A folder of LanceDB, or s3://… and the like.")] = None,
    prefix: Annotated[
        str, typer.Option(help="Prefix of the names of the collections or tables of a vector database.")
    ] = "rlmrec",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Export the embeddings with their ids for a vector database; the score is the dot product.

    **Examples:**

    `rlmrec export -w movies --run con --out vectors`

    `rlmrec export -w movies --run con --qdrant http://localhost:6333`

    `rlmrec export -w movies --run con --pgvector postgresql://shop@db/shop`
    """
    from rlmrec.cli.output import Output
    from rlmrec.data.databases import shown
    from rlmrec.recommend.export import load_qdrant, qdrant_client, write_parquet
    from rlmrec.recommend.lance import load_lancedb
    from rlmrec.recommend.open import open_recommender
    from rlmrec.recommend.pgvector import load_pgvector
    from rlmrec.workspace import Workspace

    if out is None and qdrant is None and pgvector is None and lancedb is None:
        raise ConfigError(
            "expected --out FOLDER, --qdrant URL-OR-FOLDER, --pgvector POSTGRES or --lancedb FOLDER"
        )
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out is a folder, {out} is a file")
    place, output = Workspace(workspace), Output(as_json)
    recommender = open_recommender(place, run, place.dataset())
    client = None if qdrant is None else qdrant_client(qdrant)  # fails before anything is written
    written = [] if out is None else [str(path) for path in write_parquet(recommender, out)]
    for path in written:
        output.say(f"wrote {escape(path)}")
    n_rows = len(recommender.users) + len(recommender.items)
    if client is not None:
        with output.progress("points", n_rows) as update:
            load_qdrant(recommender, client, prefix, update)
        client.close()
        output.say(f"loaded collections {escape(prefix)}-users and {escape(prefix)}-items")
    if pgvector is not None:
        with output.progress("rows", n_rows) as update:
            load_pgvector(recommender, pgvector, prefix, update)
        output.say(
            f"loaded tables {escape(prefix)}_users and {escape(prefix)}_items of {escape(shown(pgvector))}"
        )
    if lancedb is not None:
        with output.progress("rows", n_rows) as update:
            load_lancedb(recommender, lancedb, prefix, update)
        output.say(f"loaded tables {escape(prefix)}-users and {escape(prefix)}-items of {escape(lancedb)}")
    output.result(
        {
            "run": run,
            "files": written,
            "qdrant": qdrant,
            "pgvector": pgvector and shown(pgvector),
            "lancedb": lancedb,
            "prefix": prefix,
        }
    )
