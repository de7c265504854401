"""rlmrec evaluate: all metrics of a run on a split."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from rlmrec.cli.arguments import (
    DEFAULT_WORKSPACE,
    JsonOption,
    TextEmbeddingsOption,
    WorkspaceOption,
)
from rlmrec.errors import ConfigError
from rlmrec.text import DEFAULT_TEXT_EMBEDDINGS


def evaluate(
    run: Annotated[str | None, typer.Option(help="Name of a finished run.")] = None,
    semantic_only: Annotated[
        bool,
        typer.Option(
            "--semantic-only",
            help="Evaluate the text embeddings alone, by their cosines; saved as the run semantic-only.",
        ),
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    text_embeddings: TextEmbeddingsOption = DEFAULT_TEXT_EMBEDDINGS,
    split: Annotated[str, typer.Option(help="test or valid.")] = "test",
    k: Annotated[
        list[int] | None,
        typer.Option("-k", min=1, help="List length; repeat for several. By default 5, 10 and 20."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rank all items for every user of a split and print all metrics.

    **Examples:**

    `rlmrec evaluate -w movies --run con -k 10 -k 50`

    `rlmrec evaluate -w movies --semantic-only`   and then   `rlmrec compare -w movies semantic-only base`
    """
    from rlmrec.cli.output import Output
    from rlmrec.evaluation.ranking import evaluate as rank
    from rlmrec.experiments.run import SEMANTIC_ONLY, run_semantic_only
    from rlmrec.recommend.open import open_scorer
    from rlmrec.workspace import Workspace

    if split not in ("test", "valid"):
        raise ConfigError(f"--split {split!r}: expected test or valid")
    if (run is None) == (not semantic_only):
        raise ConfigError("expected either --run NAME or --semantic-only")
    if run is not None and text_embeddings != DEFAULT_TEXT_EMBEDDINGS:
        raise ConfigError(
            "--text-embeddings goes with --semantic-only: a run keeps those it was trained with"
        )
    place, output = Workspace(workspace), Output(as_json)
    lengths = tuple(sorted(k or (5, 10, 20)))
    dataset = place.dataset()
    if run is None:
        run = SEMANTIC_ONLY
        folder = place.run(run)
        # Vectors can change under a run that took no training to make, so the run is always made again.
        run_semantic_only(dataset, place.text_embeddings(dataset, text_embeddings), folder, overwrite=True)
    scores, unknown = open_scorer(place, run, dataset)
    if unknown:
        output.say(
            f"[yellow]{unknown:,} items joined after {escape(run)} was trained: they are in no list[/]"
        )
    metrics = rank(scores, dataset, k=lengths, split=split).metrics()
    names = list(dict.fromkeys(name.partition("@")[0] for name in metrics))
    output.table(
        f"{run} on {split}, all items ranked",
        ["metric", *(f"@{length}" for length in lengths)],
        [[name, *(f"{metrics[f'{name}@{length}']:.4f}" for length in lengths)] for name in names],
    )
    output.result({"run": run, "split": split, "unknown_items": unknown, **metrics})
