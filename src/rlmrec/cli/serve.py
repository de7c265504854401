"""rlmrec recommend: answers for one user."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from rlmrec.cli.output import JsonOption, Output, WorkspaceOption
from rlmrec.data.dataset import Dataset
from rlmrec.data.vocabulary import RawId
from rlmrec.errors import UnknownIdError
from rlmrec.profiles.metadata import item_labels
from rlmrec.serving.recommender import Recommender
from rlmrec.workspace import Workspace


def recommend(
    run: Annotated[str, typer.Option(help="The run's name.")],
    user: Annotated[str, typer.Option(help="The user's id.")],
    workspace: WorkspaceOption = Path("workspace"),
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """The k best items for a user who was in training, what they already have left out.

    **Example:**  `rlmrec recommend -w movies --run con --user 196 -k 10`
    """
    place, output = Workspace(workspace), Output(as_json)
    dataset = place.dataset()
    recommender = place.recommender(run, dataset)
    raw = recommender.user_ids.parse(user)
    if raw is None:
        raise UnknownIdError(
            f"unknown user {user!r}: user ids are integers here, e.g. {recommender.user_ids.id(0)}"
        )
    answer = show_recommendations(recommender, dataset, raw, k, output)
    output.result({"run": run, "user": raw, "items": answer})


def show_recommendations(
    recommender: Recommender, dataset: Dataset, user: RawId, k: int, output: Output
) -> list[dict[str, object]]:
    """Print a user's training history beside their recommendations; return the latter."""
    ids, scores = recommender.recommend(user, k)
    labels = item_labels(dataset)
    mine = dataset.train.users == dataset.users.row(user)
    history = [labels[row] for row in dataset.train.items[mine]]
    answer = [
        {"id": raw, "score": float(score), "title": labels[dataset.items.row(raw)]}
        for raw, score in zip(ids.tolist(), scores.tolist(), strict=True)
        if math.isfinite(score)  # a row with fewer candidates than k is padded
    ]
    shown = history[: max(k, 10)]
    rows = [
        [
            shown[i] if i < len(shown) else "",
            *((str(answer[i]["title"]), f"{answer[i]['score']:.3f}") if i < len(answer) else ("", "")),
        ]
        for i in range(max(len(shown), len(answer)))
    ]
    output.table(
        f"user {user}",
        [f"has ({len(history)} in training, {len(shown)} shown)", "recommended", "score"],
        rows,
        text_columns=2,
    )
    return answer
