"""rlmrec quickstart: the whole pipeline on MovieLens-100K in one readable run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from rlmrec.cli.data import describe
from rlmrec.cli.output import JsonOption, Output, WorkspaceOption
from rlmrec.cli.serve import show_recommendations
from rlmrec.cli.text import encode_texts, item_texts
from rlmrec.cli.train import Comparisons, compare_to_first, show_metrics, train_with_progress
from rlmrec.data.dataset import Dataset
from rlmrec.data.movielens import read_movielens_100k
from rlmrec.errors import ConfigError
from rlmrec.workspace import Workspace

RUNS = {"base": "none", "con": "contrastive", "gen": "generative"}


def quickstart(
    workspace: WorkspaceOption = Path("workspaces/movielens-100k"),
    folder: Annotated[
        Path | None,
        typer.Option("--movielens", help="Folder of the original files; else they come from PyPI."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of split, initialisation and training.")] = 0,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="At most this many epochs a run, for a quick look.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what another quickstart left here.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """MovieLens-100K from ratings and titles to recommendations: read, split, encode, train three ways, compare.

    Everything stays in the workspace; what is done already is not done again.

    **Example:**  `rlmrec quickstart`  and then
    `rlmrec recommend -w workspaces/movielens-100k --run con --user 196 -k 10`
    """
    start = time.perf_counter()
    place, output = Workspace(workspace), Output(as_json)

    output.say("[bold]1. ratings → dataset[/] (ratings of at least 3, 10-core, split 3:1:1)")
    source = read_movielens_100k(folder)
    dataset = Dataset.build(
        "movielens-100k", source.interactions, source.users, source.items,
        min_rating=3, k_core=10, seed=seed, item_texts=source.item_texts, user_texts=source.user_texts,
    )  # fmt: skip
    if place.dataset_path.exists() and not overwrite and place.dataset().fingerprint != dataset.fingerprint:
        raise ConfigError(f"{workspace} holds another dataset: choose another --workspace, or --overwrite it")
    dataset.save(place.dataset_path)
    describe(dataset, output)

    output.say("[bold]2. titles and genres → text vectors[/] (a user is the mean over their training items)")
    texts = item_texts(dataset)
    output.say(f'   for example "{texts[0]}"')
    semantics, _ = encode_texts(place, dataset, texts, None, output)

    from rlmrec.experiments.spec import RunSpec  # brings PyTorch

    output.say("[bold]3. train LightGCN alone (base), with RLMRec-Con and with RLMRec-Gen[/]")
    options = {} if epochs is None else {"epochs": epochs}
    metrics = [
        train_with_progress(
            RunSpec.resolve("lightgcn", alignment, "movielens", seed, options),
            dataset, semantics, place.run(name), output, label=name, overwrite=overwrite,
        )
        for name, alignment in RUNS.items()
    ]  # fmt: skip

    output.say(
        "[bold]4. compare[/] (change against base; * is p < 0.05 over users, paired t-test after Holm)"
    )
    names = list(RUNS)
    comparisons = compare_to_first(names, [place.run(name) for name in names])
    show_metrics(names, metrics, output, comparisons)
    output.say(verdict(comparisons))

    output.say("[bold]5. recommend[/]")
    user = dataset.users.id(0)
    recommender = place.recommender("con", dataset)
    answer = show_recommendations(recommender, dataset, user, 10, output)
    output.say(
        f"done in {time.perf_counter() - start:.0f} s. Next: "
        f"[bold]rlmrec recommend -w {workspace} --run con --user {user} -k 10[/]"
    )
    output.result(
        {
            "workspace": str(workspace),
            "seconds": time.perf_counter() - start,
            "runs": dict(zip(names, metrics, strict=True)),
            "comparisons": comparisons,
            "user": user,
            "items": answer,
        }
    )


def verdict(comparisons: Comparisons) -> str:
    """What the table says about text, in one sentence a reader can check against it."""
    parts = []
    for name, metrics in comparisons.items():
        against = metrics["recall@20"]
        sure = "significant" if against["p_holm"] < 0.05 else "not significant"
        parts.append(f"{name} {100 * against['relative']:+.1f} % ({sure}, p = {against['p_holm']:.2g})")
    return "Recall@20 against base: " + ", ".join(parts) + "."
