"""rlmrec monitor: compare the lists of a day with what was bought."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlmrec.cli.arguments import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption
from rlmrec.errors import ColumnError, ConfigError, DataError

if TYPE_CHECKING:
    import polars as pl


def monitor(
    lists: Annotated[
        Path, typer.Argument(help="File of 'rlmrec recommend --all', .parquet, .csv or .jsonl.")
    ],
    orders: Annotated[
        str,
        typer.Argument(help="File or database of what was bought after the lists were made.", metavar="PATH"),
    ],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    query: Annotated[
        str | None, typer.Option(metavar="SQL", help="What to read of the database of orders.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the lists of a day with what was bought, and append a line to the workspace's monitor.jsonl.

    hit rate: share of the buyers with a list who bought something from it. found: share of the bought pairs that are
    in a list. coverage: share of the catalogue in all lists. popular: share of the lists that are only what is
    popular. score: mean score of the first places; a jump means that the model has changed.
    Interactions that 'rlmrec data append' leaves out, such as those rated below the dataset's --min-rating, do not
    count as bought.

    **Example:**  `rlmrec monitor lists-2026-11-27.parquet orders-2026-11-27.csv -w shop`
    """
    import json
    from contextlib import suppress
    from datetime import UTC, datetime

    import numpy as np
    import polars as pl
    from rich.markup import escape

    from rlmrec.cli.output import Output
    from rlmrec.data.databases import shown
    from rlmrec.data.file_format import FileFormat
    from rlmrec.data.tables import Columns, assemble, read_interactions
    from rlmrec.files import read_json_lines
    from rlmrec.findings import by_number
    from rlmrec.recommend.export import LISTS
    from rlmrec.trust import damaged
    from rlmrec.workspace import Workspace

    place, output = Workspace(workspace), Output(as_json)
    dataset = place.dataset()
    recorded = dataset.provenance.get("columns", {})
    least = (dataset.provenance.get("options") or {}).get("min_rating")
    rating, timestamp = recorded.get("rating"), recorded.get("timestamp")
    columns = Columns(recorded.get("user", "user_id"), recorded.get("item", "item_id"))
    if not lists.is_file():
        raise DataError(f"{lists} does not exist: expected a file of 'rlmrec recommend --all'")
    if lists.suffix not in LISTS:
        raise ConfigError(
            f"{lists}: the name must end in one of {', '.join(LISTS)}, as 'rlmrec recommend' writes it"
        )
    with damaged(lists, "write it again with 'rlmrec recommend --all'"):
        table = _read_lists(lists)
    if not {"user", "items", "scores", "source"} <= set(table.columns):
        raise DataError(f"{lists} is no file of 'rlmrec recommend --all': it has {', '.join(table.columns)}")
    form = FileFormat(**dataset.provenance.get("format", {}))
    read = None
    if least is not None and rating is not None:
        for time in dict.fromkeys(
            (timestamp, None)
        ):  # the latest rating counts, in the order of the file without times
            rated = columns._replace(rating=rating, timestamp=time)
            with suppress(ColumnError):
                read, columns = read_interactions(orders, rated, form, query), rated
                break
    if read is None:
        read = read_interactions(orders, columns, form, query)
        if least is not None and rating is not None:
            output.say(
                f"note: {escape(shown(orders))} has no column {escape(repr(rating))}, so all of its interactions "
                "count as bought"
            )
    [interactions], users, items = assemble([read], *columns)
    counted, low = interactions.by_latest_rating(least)
    left_out = len(low) + (0 if interactions.rating is None else int(np.isnan(interactions.rating).sum()))
    bought = pl.DataFrame(
        {
            "user": pl.Series(users.ids).cast(pl.String)[counted.users],
            "item": pl.Series(items.ids).cast(pl.String)[counted.items],
        }
    )
    listed = table.select(pl.col("user").cast(pl.String), "items").explode("items")
    pairs = listed.select("user", item=pl.col("items").cast(pl.String)).drop_nulls()
    hits = bought.join(pairs, on=["user", "item"], how="semi")
    buyers = bought.join(pairs.select("user").unique(), on="user", how="semi")["user"].n_unique()
    line = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "lists": str(lists),
        "orders": shown(orders),
        "left_out": left_out,
        "buyers": buyers,
        "hit_rate": hits["user"].n_unique() / buyers if buyers else None,
        "found": len(hits) / len(bought) if len(bought) else None,
        "coverage": pairs["item"].n_unique() / dataset.n_items,
        "popular": float((table["source"] == "popularity").mean() or 0),  # type: ignore[arg-type]
        "score": table["scores"].list.first().mean(),
    }
    path = place.path / "monitor.jsonl"
    before = read_json_lines(path) if path.exists() else []
    with path.open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
    names = ("buyers", "hit_rate", "found", "coverage", "popular", "score")
    last = before[-1] if before else {}
    output.table(
        f"{lists.name} against {Path(shown(orders)).name}",
        ["", "now", "before"],
        [[name.replace("_", " "), _shown(line[name]), _shown(last.get(name))] for name in names],
    )
    if left_out:
        output.say(
            f"note: {left_out:,} {by_number(left_out, 'interaction', 'interactions')} rated below {least:g}, or not at "
            f"all, {by_number(left_out, 'is', 'are')} left out, as by 'rlmrec data append'"
        )
    output.findings(read.findings)
    output.result(line)


def _read_lists(path: Path) -> pl.DataFrame:
    """Read a file of lists: one row per user.

    CSV has one row per item instead, best first, so users with an empty list are not in it.
    """
    import polars as pl

    if path.suffix == ".csv":
        rows = pl.read_csv(path, infer_schema=False)  # ids stay text: 007 is not 7
        if not {"user", "item", "score", "source"} <= set(rows.columns):
            return rows
        return rows.group_by("user", maintain_order=True).agg(
            items="item", scores=pl.col("score").cast(pl.Float64), source=pl.col("source").first()
        )
    return pl.read_ndjson(path) if path.suffix == ".jsonl" else pl.read_parquet(path)


def _shown(value: object) -> str:
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
