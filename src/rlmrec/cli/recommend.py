"""rlmrec recommend: the best items for one user or for all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from rlmrec.cli.arguments import DEFAULT_WORKSPACE, JsonOption, RunOption, WorkspaceOption
from rlmrec.errors import ConfigError

if TYPE_CHECKING:
    from rlmrec.cli.output import Output
    from rlmrec.data.dataset import Dataset
    from rlmrec.data.vocabulary import RawId
    from rlmrec.recommend.recommender import Recommender


def recommend(
    run: RunOption,
    user: Annotated[str | None, typer.Option(help="Id of a user.")] = None,
    everyone: Annotated[
        bool, typer.Option("--all", help="Recommend to all users, into the Parquet file --out.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="With --all: the file to write.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of items.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Recommend the k best items to a user of the dataset, or to all users, without their training items.

    The file of `--all` has one row per user, in the order of the dataset: `user` and the lists `items` and `scores`,
    best first. It is written in groups of users, so memory does not grow with their number.

    **Examples:**

    `rlmrec recommend -w movies --run con --user 196 -k 10`

    `rlmrec recommend -w movies --run con --all --out recommendations.parquet`
    """
    from rlmrec.cli.ids import parse_ids
    from rlmrec.cli.output import Output
    from rlmrec.recommend.export import write_recommendations
    from rlmrec.recommend.open import open_recommender
    from rlmrec.workspace import Workspace

    if (user is None) != everyone or everyone != (out is not None):
        raise ConfigError("expected either --user ID, or --all with --out FILE.parquet")
    if out is not None and out.suffix != ".parquet":
        raise ConfigError(f"--out {out}: the file is Parquet, so its name must end in .parquet")
    place, output = Workspace(workspace), Output(as_json)
    dataset = place.dataset()
    recommender = open_recommender(place, run, dataset)
    if out is not None:
        with output.progress("users", len(recommender.users)) as update:
            listed = write_recommendations(recommender, out, k, update)
        n_users = len(recommender.users)
        full = "" if listed == k * n_users else f", {k * n_users - listed:,} fewer than {k} for each"
        output.say(f"wrote {escape(str(out))}: {listed:,} items for {n_users:,} users{full}")
        output.result({"run": run, "out": str(out), "users": n_users, "k": k, "listed": listed})
        return
    [raw] = parse_ids(recommender.user_ids, [str(user)])
    answer = show_recommendations(recommender, dataset, raw, k, output)
    output.result({"run": run, "user": raw, "items": answer})


def show_recommendations(
    recommender: Recommender, dataset: Dataset, user: RawId, k: int, output: Output
) -> list[dict[str, object]]:
    """Print a user's training history beside their recommendations; return the recommendations."""
    from rlmrec.data.metadata import item_labels

    ids, scores = recommender.recommend(user, k)
    labels = item_labels(dataset)
    history = [labels[row] for row in recommender.history(dataset.users.row(user)).tolist()]
    answer = [
        {"id": raw, "score": float(score), "title": labels[dataset.items.row(raw)]}
        for raw, score in zip(ids.tolist(), scores.tolist(), strict=True)
        if math.isfinite(score)  # fewer candidates than k are padded
    ]
    shown = history[: max(k, 10)]
    left = [*shown, *[""] * (len(answer) - len(shown))]
    right = [[str(row["id"]), str(row["title"]), f"{row['score']:.3f}"] for row in answer]
    right += [["", "", ""]] * (len(left) - len(right))
    output.table(
        f"user {user}",
        [f"history ({len(history)} items in training, {len(shown)} shown)", "id", "recommended", "score"],
        [[item, *cells] for item, cells in zip(left, right, strict=True)],
        text_columns=3,
    )
    return answer
