"""rlmrec blend: a run whose scores also count how near the texts are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from rlmrec.cli.output import JsonOption, Output, WorkspaceOption
from rlmrec.cli.recommend import RunOption
from rlmrec.errors import ConfigError
from rlmrec.experiments.run import run_blend
from rlmrec.files import read_json
from rlmrec.recommend.blend import Tried, best_weight, try_weights
from rlmrec.workspace import DEFAULT_TEXT_EMBEDDINGS, Workspace


def blend(
    run: RunOption,
    workspace: WorkspaceOption = Path("workspace"),
    name: Annotated[str | None, typer.Option(help="What the new run is called; RUN-text by default.")] = None,
    weight: Annotated[
        float | None, typer.Option(help="Of the text score; chosen on validation by default.")
    ] = None,
    text_embeddings: Annotated[
        str | None,
        typer.Option(help="Text vectors; by default those of the run, of a run without texts 'default'."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run of that name.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a run of another whose score is its own plus a weight times the cosine of the text vectors.

    The weight is chosen by Recall@20 on validation, 0 included: where 0 is best, there is nothing to gain and no
    run is made. What each weight gives for the items of the tail (the half with the fewest training
    interactions) is shown beside it. Nothing is trained; the new run can be compared, served, explained and
    exported as any other.

    **Example:**  `rlmrec blend -w movies --run con`   and then   `rlmrec compare -w movies con con-text`
    """
    place, output = Workspace(workspace), Output(as_json)
    if name is None:  # the seed stays last: 'compare' knows the seeds of a run by it
        name = re.sub(r"(-seed\d+)?$", r"-text\1", run, count=1)
    folder = place.run(name)
    if name == run:
        raise ConfigError(f"--name {name}: the new run needs another name than the one that it is made of")
    dataset = place.dataset()
    recommender = place.recommender(run, dataset)
    config = read_json(place.finished_run(run) / "metrics.json")["config"]
    chosen = text_embeddings or config.get("names", {}).get("semantics", DEFAULT_TEXT_EMBEDDINGS)
    texts = place.text_embeddings(dataset, chosen)
    tried: list[Tried] = []
    if weight is None:
        tried = try_weights(recommender, texts, dataset)
        weight = best_weight(tried)
        output.table(
            "Recall@20 on validation",
            ["weight", "all items", "tail"],
            [
                [
                    f"{one.weight:g}" + " (best)" * (one.weight == weight),
                    f"{one.recall:.4f}",
                    _figure(one.tail),
                ]
                for one in tried
            ],
        )
    result = {
        "run": run,
        "weight": weight,
        "text_embeddings": chosen,
        "validation": [one._asdict() for one in tried],
    }
    if weight == 0:
        output.say(
            f"the texts add nothing to {escape(run)} on validation: no run was made (--weight makes one)"
        )
        output.result({**result, "name": None})
        return
    run_blend(dataset, texts, recommender, config, folder, weight, (run, chosen), overwrite=overwrite)
    output.say(f"weight {weight:g}: kept as run {escape(name)}")
    test: list[Tried] = []
    if len(dataset.test):
        test = try_weights(recommender, texts, dataset, (0.0, weight), split="test")
        output.table(
            "Recall@20 on test",
            ["run", "all items", "tail"],
            [[one, f"{of.recall:.4f}", _figure(of.tail)] for one, of in zip((run, name), test, strict=True)],
        )
    output.result({**result, "name": name, "test": [one._asdict() for one in test]})


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
