"""rlmrec paper: the studies of the paper that are not grids of training runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from rlmrec.cli.arguments import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption
from rlmrec.errors import ConfigError

if TYPE_CHECKING:
    from rlmrec.cli.output import Output
    from rlmrec.llm.base import LLM
    from rlmrec.paper.theorem2 import Row

app = typer.Typer(no_args_is_help=True, help="Repeat the paper's studies: Figure 1, Figure 6 and Theorem 2.")

ANSWER_TOKENS = 110  # of the embedded model: twenty numbers and their commas
ResultsOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the records and tables; by default experiments/ in the workspace."),
]
RenderOption = Annotated[
    bool, typer.Option("--render", help="Run nothing, write the tables of what was run.")
]


@app.command()
def rerank(
    run: Annotated[str | None, typer.Option(help="The finished run whose lists are re-ranked.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    users: Annotated[int, typer.Option(min=1, help="Number of users.")] = 200,
    candidates: Annotated[int, typer.Option(min=20, help="Length of the lists.")] = 40,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Show the candidates in random order.")] = False,
    model: Annotated[
        str, typer.Option(help="A model's name at the endpoint; local is the embedded model.")
    ] = "local",
    base_url: Annotated[str | None, typer.Option(help="Root of an OpenAI-compatible endpoint.")] = None,
    key_env: Annotated[str, typer.Option(help="Environment variable with the key.")] = "OPENAI_API_KEY",
    concurrency: Annotated[
        int, typer.Option(min=1, help="Requests at a time; the embedded model answers one at a time.")
    ] = 16,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the embedded model.")] = None,
    results: ResultsOption = None,
    render: RenderOption = False,
    as_json: JsonOption = False,
) -> None:
    """Re-rank a run's lists with a language model and compare them before and after (Figure 1).

    Answers are stored: a killed command continues when it is repeated, and no prompt is sent twice.

    **Example:**  `rlmrec paper rerank -w movies --run base --users 50`
    """
    from rlmrec.cli.output import Output
    from rlmrec.workspace import Workspace

    place, output = Workspace(workspace), Output(as_json)
    folder = results or place.experiments_path
    if not render:
        from rlmrec.paper import rerank as study

        if run is None:
            raise ConfigError("rerank needs a finished run: give --run NAME")
        place.finished_run(run)  # reports a missing run before a model is loaded
        config = study.RerankConfig(users=users, candidates=candidates, shuffle=shuffle)
        llm = _language_model(model, base_url, key_env, concurrency, threads)
        with output.progress("rerank", users) as update:
            study.run(
                place, run, llm, config, folder=folder,
                on_user=lambda finished, total: update(finished, f"of {total} users"),
            )  # fmt: skip
    _show("figure1", folder, output)


def _language_model(
    model: str, base_url: str | None, key_env: str, concurrency: int, threads: int | None
) -> LLM:
    from rlmrec.llm.client import OpenAIChat
    from rlmrec.llm.local import LocalChat

    if model != "local":
        return OpenAIChat(model, base_url=base_url, key_env=key_env, concurrency=concurrency)
    if missing := LocalChat.missing():
        raise ConfigError(missing)
    return LocalChat(field_tokens={"ranking": ANSWER_TOKENS}, threads=threads)


@app.command("case-study")
def case_study(
    base: Annotated[str | None, typer.Option(help="The run without alignment.")] = None,
    runs: Annotated[
        list[str] | None, typer.Option(help="The runs to compare with it, separated by commas; repeat.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    results: ResultsOption = None,
    render: RenderOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare how close runs place users who are far apart in the graph but have similar texts (Figure 6).

    **Example:**  `rlmrec paper case-study -w movies --base base --runs con,gen`
    """
    from rlmrec.cli.output import Output
    from rlmrec.workspace import Workspace

    place, output = Workspace(workspace), Output(as_json)
    folder = results or place.experiments_path
    if not render:
        from rlmrec.paper import case_study as study

        if base is None or not runs:
            raise ConfigError("case-study compares finished runs with a base: give --base RUN --runs RUN,RUN")
        names = [name.strip() for listed in runs for name in listed.split(",")]
        study.run(place, base, names, folder=folder)
    _show("figure6", folder, output)


@app.command()
def theorem2(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    information: Annotated[
        list[float] | None, typer.Option(help="The true I in nats; repeat. 0.5, 1, 2 and 4 by default.")
    ] = None,
    n: Annotated[
        list[int] | None, typer.Option("-n", help="Pairs in a set; repeat. 4, 16 … 4096 by default.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Number of seeds, from 1 on; by default seed 0 alone.")
    ] = None,
    results: ResultsOption = None,
    render: RenderOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check on Gaussians that log N − L_info is a lower bound of the mutual information (Theorem 2).

    Needs no dataset. Estimates that are stored are not repeated.

    **Example:**  `rlmrec paper theorem2 -w movies --information 1 --information 2 -n 16`
    """
    from rlmrec.cli.output import Output
    from rlmrec.paper import theorem2 as study
    from rlmrec.workspace import Workspace

    place, output = Workspace(workspace), Output(as_json)
    folder = results or place.experiments_path
    chosen = {name: tuple(values) for name, values in (("information", information), ("sizes", n)) if values}
    wanted = [] if render else list(range(1, seeds + 1)) if seeds else [0]
    for seed in wanted:
        config = study.Theorem2Config(seed=seed, **chosen)
        total = len(study.CRITICS) * len(config.information) * len(config.sizes)
        with output.progress(f"theorem2, seed {seed}", total) as update:

            def on_row(row: Row, number: int, missing: int, update: Any = update, total: int = total) -> None:
                update(total - missing + number, f"{row.critic} critic, I = {row.information:g}, N = {row.n}")

            study.run(folder, config, on_row)
            update(total)
    _show("theorem2", folder, output)


def _show(name: str, folder: Path, output: Output) -> None:
    """Print the tables of a study's records and write them beside these."""
    from rlmrec.cli.output import printable
    from rlmrec.paper.studies import STUDIES
    from rlmrec.report.tables import as_markdown

    study = STUDIES[name]
    tables, written = study.tables(folder), study.write(folder)
    output.console.print(printable(as_markdown(tables)), markup=False, soft_wrap=True)
    output.say(written_files(written))
    records = [record for table in tables for record in table.records()]
    output.result({"experiment": name, "tables": [str(path) for path in written], "rows": records})


def written_files(paths: Sequence[Path]) -> str:
    """Return a line that names files."""
    return "wrote " + ", ".join(escape(str(path)) for path in paths)
