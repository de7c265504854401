"""rlmrec push: a run's recommender, or text vectors, to the Hugging Face Hub."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from rlmrec.cli.arguments import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption
from rlmrec.errors import ConfigError


def push(
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Repository; made if there is none.")
    ],
    run: Annotated[str | None, typer.Option(help="Upload the recommender of this finished run.")] = None,
    text_embeddings: Annotated[
        str | None,
        typer.Option("--text-embeddings", metavar="NAME", help="Upload these text vectors instead."),
    ] = None,
    public: Annotated[
        bool,
        typer.Option(
            "--public",
            help="Everybody may read a repository that is made now. A recommender holds all histories.",
        ),
    ] = False,
    license: Annotated[
        str | None,
        typer.Option(help="License for the model card, such as cc-by-4.0. It depends on your data."),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Upload a run's recommender, or text vectors, to the Hugging Face Hub with a model card.

    The repository is private unless `--public`: a recommender holds the ids and the interactions of all users. Log in
    with `hf auth login`, or set `HF_TOKEN`. `Recommender.from_pretrained("OWNER/NAME")` loads it, without PyTorch.

    **Examples:**

    `rlmrec push ann/films -w movies --run con`

    `rlmrec push ann/film-texts -w movies --text-embeddings default --public --license cc-by-4.0`
    """
    from rlmrec.cli.output import Output
    from rlmrec.workspace import Workspace

    if (run is None) == (text_embeddings is None):
        raise ConfigError("expected either --run RUN or --text-embeddings NAME")
    place, output = Workspace(workspace), Output(as_json)
    dataset = place.dataset()
    if text_embeddings is not None:
        what = f"text vectors {text_embeddings!r}"
        done = place.text_embeddings(dataset, text_embeddings).push_to_hub(repository, public, license)
        load = f'TextEmbeddings.from_pretrained("{repository}", revision="{done.revision}")'
    else:
        from rlmrec.files import read_json
        from rlmrec.recommend.recommender import Recommender
        from rlmrec.report.collect import Run
        from rlmrec.report.record import command_of

        assert run is not None
        what = f"the recommender of run {run!r}"
        recommender = Recommender.load(place.recommender_path(run))
        found = Run(run, place.run(run), read_json(place.run(run) / "metrics.json"))
        metrics = found.metrics.get("test")
        command = command_of(found, place.path.name or ".", {}) if metrics else None
        done = recommender.push_to_hub(repository, public, license, metrics, command)
        load = f'Recommender.from_pretrained("{repository}", revision="{done.revision}")'
    output.say(escape(f"uploaded {what} to {done.url}"))
    output.say(escape(f"load this state of it with  {load}"))
    output.result(
        {"url": done.url, "revision": done.revision, "run": run, "text_embeddings": text_embeddings}
    )
