"""rlmrec recommend: the best items for one user or for all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from rlmrec.cli.arguments import (
    DEFAULT_WORKSPACE,
    AddressOption,
    EngineOption,
    JsonOption,
    RunOption,
    WhereOption,
    WorkspaceOption,
)
from rlmrec.errors import ConfigError

if TYPE_CHECKING:
    from rlmrec.cli.output import Output
    from rlmrec.data.dataset import Dataset
    from rlmrec.data.vocabulary import RawId, Vocabulary
    from rlmrec.recommend.lists import Lists, Rules


def recommend(
    run: RunOption,
    user: Annotated[str | None, typer.Option(help="Id of a user.")] = None,
    everyone: Annotated[
        bool, typer.Option("--all", help="Recommend to all users, into the file --out.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="With --all: the file to write, .parquet, .csv or .jsonl.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of items.")] = 20,
    where: WhereOption = None,
    candidates: Annotated[
        Path | None,
        typer.Option(help="Only the items of this file, one id a line; unknown ones are counted."),
    ] = None,
    exclude: Annotated[
        Path | None,
        typer.Option(help="Never the items of this file, one id a line; unknown ones are counted."),
    ] = None,
    at_most: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=N", help="At most N items with the same value of a column: brand=2."),
    ] = None,
    diversity: Annotated[
        float, typer.Option(min=0, max=1, help="Weight of marginal relevance (MMR); 0: scores alone.")
    ] = 0.0,
    bought_where: Annotated[
        str | None,
        typer.Option(
            help="Offer items again that a user has, where this condition is true: \"category = 'Coffee'\"."
        ),
    ] = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recommend the k best items to a user of the dataset, or to all users, without what they are known to have.

    The file of `--all` has one row per user, in the order of the dataset: `user`, the lists `items` and `scores`, best
    first, and `source`: history, text, or popularity where nothing is known of a user. CSV has one row per item: user,
    rank, item, score, source. It is written in groups of users, so memory does not grow with their number. Where no
    item fulfils `--where`, the command fails and writes nothing: a file that was there stays.

    **Examples:**

    `rlmrec recommend -w movies --run con --user 196 -k 10`

    `rlmrec recommend -w movies --run con --all --out recommendations.parquet`

    `rlmrec recommend -w shop --run live --all --out lists.csv --where "in_stock = true" --at-most brand=2`

    `rlmrec recommend -w news --run live --user 196 --where "published_at >= '2026-10-15 12:00'"`
    """
    from rlmrec.cli.ids import parse_ids
    from rlmrec.cli.output import Output
    from rlmrec.engine import open_engine
    from rlmrec.findings import by_number
    from rlmrec.recommend.export import LISTS, write_lists
    from rlmrec.recommend.lists import Lists, Rules
    from rlmrec.recommend.open import open_recommender
    from rlmrec.workspace import Workspace

    if (user is None) != everyone or everyone != (out is not None):
        raise ConfigError("expected either --user ID, or --all with --out FILE")
    if out is None and (engine, address) != ("local", None):
        raise ConfigError("--engine and --address are for --all: one list needs no workers, leave them out")
    if out is not None and out.suffix not in LISTS:
        raise ConfigError(f"--out {out}: the name must end in one of {', '.join(LISTS)}")
    place, output = Workspace(workspace), Output(as_json)
    dataset = place.dataset()
    lists = Lists(open_recommender(place, run, dataset), dataset)
    recommender = lists.recommender
    k = output.length(k, len(recommender.items))
    listed = {
        name: None if path is None else _ids_of(path, recommender.item_ids)
        for name, path in (("candidates", candidates), ("exclude", exclude))
    }
    rules = Rules(
        where, listed["candidates"], listed["exclude"], True, bought_where, _caps(at_most or []), diversity
    )
    if skipped := lists.allowed(rules)[1]:
        output.say(f"[yellow]{skipped:,} ids of --candidates and --exclude are unknown and skipped[/]")
    lists.check_some_left(rules)
    if out is not None:
        with (
            open_engine(engine, address, say=output.say) as opened,
            output.progress("users", len(recommender.users)) as update,
        ):
            written = write_lists(lists, out, k, rules, update, engine=opened)
        n_users, listed_items, sources = len(recommender.users), written.listed, written.sources
        full = (
            ""
            if listed_items == k * n_users
            else f", {listed_items / n_users:.1f} instead of {k} for each on average, as there were no more to choose "
            "from"
        )
        output.say(f"wrote {escape(str(out))}: {listed_items:,} items for {n_users:,} users{full}")
        if sources["popularity"]:
            number = sources["popularity"]
            output.say(
                f"{number:,} {by_number(number, 'user', 'users')} without a training interaction got what is popular"
            )
        shown = {"run": run, "out": str(out), "users": n_users, "k": k, "listed": listed_items}
        output.result({**shown, "sources": sources, "skipped": skipped})
        return
    [raw] = parse_ids(recommender.user_ids, [str(user)])
    if raw not in recommender.user_ids:
        output.say(f"[yellow]{escape(_why_unknown(dataset, raw))}[/]; here is what is popular")
    answer, source = show_recommendations(lists, raw, k, output, rules)
    output.result({"run": run, "user": raw, "source": source, "skipped": skipped, "items": answer})


def _ids_of(path: Path, vocabulary: Vocabulary) -> list[RawId]:
    """Read ids from a file, one a line; what cannot be an id of the dataset stays text and is unknown."""
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: expected a file with one id a line")
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    parsed = ((line, vocabulary.parse(line)) for line in lines if line)
    return [line if raw is None else raw for line, raw in parsed]


def _caps(texts: list[str]) -> dict[str, int]:
    caps = {}
    for text in texts:
        column, equals, number = text.rpartition("=")
        if not equals or not number.isdecimal():
            raise ConfigError(f"--at-most {text!r}: expected a column and a number such as brand=2")
        caps[column] = int(number)
    return caps


def _why_unknown(dataset: Dataset, user: RawId) -> str:
    """Say whether a user was left out of the dataset and what to do, or that nobody of this id was there."""
    table = dataset.left_out
    found = [] if table is None else table.filter(table["id"] == str(user))["reason"].to_list()
    if found:
        remedy = (
            "--k-core 1 keeps everybody" if "core" in found[0] else "other filters of 'rlmrec data' keep them"
        )
        return f"user {user!r} was left out of the dataset ({found[0]}): {remedy}"
    alike = dataset.users.similar(user)
    if alike is not None:
        return f"user {user!r} is not in the dataset (did you mean {alike!r}?)"
    return (
        f"user {user!r} is not in the dataset: 'rlmrec data append' adds new users with what they bought, "
        "'rlmrec cold user' recommends from a text or from items"
    )


def show_recommendations(
    lists: Lists, user: RawId, k: int, output: Output, rules: Rules | None = None
) -> tuple[list[dict[str, object]], str]:
    """Print a user's training history beside their recommendations; return these and what they follow from."""
    from rlmrec.data.metadata import item_labels

    recommender, dataset = lists.recommender, lists.dataset
    assert dataset is not None
    [found] = lists.of([user], k, rules)
    labels = item_labels(dataset)
    known = user in recommender.user_ids
    history = (
        [labels[row] for row in recommender.history(recommender.user_ids.row(user)).tolist()] if known else []
    )
    answer: list[dict[str, Any]] = [
        {"id": raw, "score": float(score), "title": labels[dataset.items.row(raw)]}
        for raw, score in zip(found.items, found.scores.tolist(), strict=True)
    ]
    shown = history[: max(k, 10)]
    count = f"{len(history)} item{'s' * (len(history) != 1)} in training, {len(shown)} shown"
    left = [*shown, *[""] * (len(answer) - len(shown))]
    right = [[str(row["id"]), str(row["title"]), f"{row['score']:.3f}"] for row in answer]
    right += [["", "", ""]] * (len(left) - len(right))
    columns, rows = ["id", "recommended", "score"], right
    if history:  # of an unknown user there is no column to be empty
        columns = [f"history ({count})", *columns]
        rows = [[item, *cells] for item, cells in zip(left, right, strict=True)]
    output.table(f"user {user}", columns, rows, text_columns=len(columns) - 1)
    if found.source == "popularity" and known:
        output.say("this user has no training interaction: the list is what is popular")
    return answer, found.source
