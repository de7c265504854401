"""rlmrec cold: new items and new users by their text, without training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from rlmrec.cli.output import JsonOption, Output, WorkspaceOption
from rlmrec.cli.serve import RunOption, parse_ids
from rlmrec.data.dataset import Dataset
from rlmrec.errors import ConfigError, WorkspaceError
from rlmrec.profiles.metadata import item_labels
from rlmrec.serving.cold_start import DEFAULT, ColdStart, projector_weights
from rlmrec.serving.recommender import Recommender
from rlmrec.text.local import LocalEncoder
from rlmrec.workspace import Workspace

app = typer.Typer(no_args_is_help=True, help="New items and new users by their text, without training.")
DEFAULT_WORKSPACE = Path("workspace")


@app.command()
def fit(
    run: RunOption,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    projector: Annotated[
        bool, typer.Option("--projector", help="Take the projector that Con trained instead of choosing.")
    ] = False,
    choose: Annotated[
        bool,
        typer.Option("--choose", help="Try several maps on hidden items and take the best of them."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Learn the way from text to a run's embeddings: a kernel ridge regression, unless you say otherwise.

    **Example:**  `rlmrec cold fit -w movies --run con`
    """
    if projector and choose:
        raise ConfigError("give --projector or --choose, not both")
    place, output = Workspace(workspace), Output(as_json)
    dataset = place.dataset()
    weights = projector_weights(place.finished_run(run)) if projector else None
    if projector and weights is None:
        raise ConfigError(f"run {run!r} has no projector: only --alignment contrastive trains one")
    method = None if choose else DEFAULT
    cold = ColdStart.fit(place.recommender(run, dataset), place.semantics(dataset), dataset, weights, method)
    cold.save(place.finished_run(run) / "recommender")
    if cold.manifest["validation"]:
        output.table(
            f"Recall@20 of {cold.manifest['hidden_items']} hidden items among themselves",
            ["method", "options", "recall"],
            [
                [
                    tried["name"],
                    ", ".join(f"{name} {value:g}" for name, value in tried["options"].items()),
                    f"{tried['recall@20']:.4f}",
                ]
                for tried in cold.manifest["validation"]
            ],
            text_columns=2,
        )
    output.say(f"{cold.method.name}: kept in {place.finished_run(run) / 'recommender'}")
    output.result({"run": run, **cold.manifest})


@app.command()
def item(
    run: RunOption,
    text: Annotated[str, typer.Option(help="What the item is: its description or profile.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    k: Annotated[int, typer.Option("-k", min=1, help="How many users and items to show.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Who would like an item that nobody has met yet, and what it is like.

    **Example:**  `rlmrec cold item -w movies --run con --text "A heist in space, told as a comedy."`
    """
    output = Output(as_json)
    dataset, recommender, cold = _opened(Workspace(workspace), run)
    vector = cold.items(_encoded(cold, text))[0]
    users, cosines = recommender.users_for(vector, min(k, len(recommender.users)))
    titles = item_labels(dataset)
    # What the item is like: the nearest in the space of the embeddings, asked for as if it were one of them.
    new: Any = "a new item" if recommender.item_ids.is_text else min(recommender.item_ids.ids) - 1  # type: ignore[operator]
    near, nearness = recommender.with_items([new], vector[None]).similar_items(new, min(k, len(titles)))
    similar = [
        {"id": raw, "cosine": float(cosine), "title": titles[dataset.items.row(raw)]}
        for raw, cosine in zip(near.tolist(), nearness.tolist(), strict=True)
    ]
    found = [
        {"id": raw, "cosine": float(cosine)}
        for raw, cosine in zip(users.tolist(), cosines.tolist(), strict=True)
    ]
    output.table(
        "who would like it, and what it is like",
        ["user", "cosine", "item", "cosine"],
        [
            [str(user["id"]), f"{user['cosine']:.3f}", str(other["title"]), f"{other['cosine']:.3f}"]
            for user, other in zip(found, similar, strict=False)
        ],
    )
    output.result({"run": run, "users": found, "similar": similar, "vector": vector.tolist()})


@app.command()
def user(
    run: RunOption,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    text: Annotated[str | None, typer.Option(help="Their taste in words.")] = None,
    likes: Annotated[str | None, typer.Option(help="Ids of items they like, with commas between.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Recommendations for someone who was not in training, from a sentence or from a handful of items.

    **Examples:**

    `rlmrec cold user -w movies --run con --text "slow-burn science fiction with strong female leads"`

    `rlmrec cold user -w movies --run con --likes 50,181,172`
    """
    if (text is None) == (likes is None):
        raise ConfigError("give either --text or --likes")
    place, output = Workspace(workspace), Output(as_json)
    liked = []
    if likes is not None:
        dataset = place.dataset()
        recommender = place.recommender(run, dataset)
        liked = parse_ids(recommender.item_ids, likes.split(","))
        vector = recommender.fold_in(liked)
    else:
        dataset, recommender, cold = _opened(place, run)
        vector = cold.users(_encoded(cold, str(text)))[0]
    ids, scores = recommender.recommend_vectors(vector, k, exclude=liked)
    titles = item_labels(dataset)
    answer = [
        {"id": raw, "score": float(score), "title": titles[dataset.items.row(raw)]}
        for raw, score in zip(ids.tolist(), scores.tolist(), strict=True)
        if math.isfinite(score)
    ]
    likes_them = ", ".join(titles[dataset.items.row(raw)] for raw in liked)
    output.say(escape(f"likes: {likes_them}" if liked else f"taste: {text}"))
    output.table(
        "recommended",
        ["item", "score"],
        [[str(row["title"]), f"{row['score']:.3f}"] for row in answer],
    )
    output.result({"run": run, "text": text, "likes": liked, "items": answer})


def _opened(place: Workspace, run: str) -> tuple[Dataset, Recommender, ColdStart]:
    dataset = place.dataset()
    recommender = place.recommender(run, dataset)
    try:
        return dataset, recommender, place.cold_start(run, recommender)
    except WorkspaceError as error:
        raise WorkspaceError(f"{error} -w {place.path} --run {run}") from None


def _encoded(cold: ColdStart, text: str) -> Any:
    encoder = LocalEncoder()
    if encoder.name != cold.encoder:
        raise ConfigError(
            f"the items' texts were encoded by {cold.encoder}, here is {encoder.name}: their vectors do not mix"
        )
    return encoder.encode([text])
