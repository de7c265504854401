"""rlmrec encode: from texts to vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from rlmrec.cli.arguments import DEFAULT_TEXT_EMBEDDINGS, DEFAULT_WORKSPACE, JsonOption, WorkspaceOption
from rlmrec.cli.output import Output
from rlmrec.errors import ConfigError, RlmrecError, WorkspaceError
from rlmrec.profiles import SOURCES
from rlmrec.text import ENCODERS

if TYPE_CHECKING:
    from rlmrec.data.dataset import Dataset
    from rlmrec.profiles.texts import NodeTexts, Stored
    from rlmrec.text.api import OpenAIEmbeddings
    from rlmrec.text.embeddings import TextEmbeddings
    from rlmrec.text.encoder import TextEncoder
    from rlmrec.text.encoding import Encoded
    from rlmrec.workspace import Workspace


PROFILES = (*SOURCES, "mean")
USER_VECTORS = ("profiles", "texts", "mean")
Texts = list[str | None]


def encode(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    encoder: Annotated[str, typer.Option(help=f"{ENCODERS.choices}.")] = "local",
    profiles: Annotated[
        str | None,
        typer.Option(
            help="What an item's text is. llm: its profile; metadata: title and other columns; llm+metadata: "
            "both; mean: llm if there are profiles, else metadata, and users always the mean. By default llm "
            "once 'rlmrec profile --items' has been through all items, else metadata."
        ),
    ] = None,
    user_vectors: Annotated[
        str | None,
        typer.Option(
            help="What a user's vector is. profiles: of the user's profile; texts: of --users or the dataset; "
            "mean: over the training items' vectors. By default texts with --users FILE, profiles with items "
            "by llm once 'rlmrec profile --users' has been through all users, else mean."
        ),
    ] = None,
    on_missing: Annotated[
        str,
        typer.Option(
            help="Without a profile (failed or absent). text: an item has its metadata, a user the mean. "
            "drop: no vector, left out of the alignment, as in the paper; a user whose vector is the mean anyway "
            "has that of the training items with a vector, and none without such an item."
        ),
    ] = "text",
    name: Annotated[
        str, typer.Option(help="What these vectors are called; 'rlmrec train --text-embeddings' picks them.")
    ] = DEFAULT_TEXT_EMBEDDINGS,
    items: Annotated[
        Path | None,
        typer.Option(help="Metadata of items (CSV, TSV, Parquet, JSON lines); else that of the dataset."),
    ] = None,
    users: Annotated[Path | None, typer.Option(help="Texts of users; else those of the dataset.")] = None,
    item_column: Annotated[str, typer.Option(help="Column of item ids in --items.")] = "item_id",
    user_column: Annotated[str, typer.Option(help="Column of user ids in --users.")] = "user_id",
    text_column: Annotated[
        list[str] | None, typer.Option(help="Column of metadata; repeat for several. All of them by default.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Option of your own encoder; repeat for several."),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Root of an OpenAI-compatible endpoint; OpenAI's by default.")
    ] = None,
    key_env: Annotated[
        str, typer.Option(help="Environment variable with the key. It is never written anywhere.")
    ] = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests to the endpoint at once.")] = 8,
    price: Annotated[
        float | None, typer.Option(min=0, help="Money for a million tokens, to show the cost.")
    ] = None,
    device: Annotated[str, typer.Option(help="Of a model that runs here: cpu, cuda or mps.")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Turn texts into vectors. Killed, it goes on where it was; a changed text is encoded alone.

    | --profiles | an item | a user (unless --user-vectors) |
    |---|---|---|
    | llm | profile | profile, or the mean if users are not profiled |
    | llm+metadata | metadata and profile | as with llm |
    | metadata | metadata | mean |
    | mean | profile if there are any, else metadata | mean |

    **Examples:**

    `rlmrec encode -w movies`

    `rlmrec encode -w movies --profiles llm+metadata --on-missing drop --name both`

    `rlmrec encode -w shop --encoder "sentence-transformers:hkunlp/instructor-base:Represent the product: "`

    `rlmrec encode -w shop --encoder openai:text-embedding-3-small --price 0.02`
    """
    from rlmrec.config import parse_settings
    from rlmrec.profiles.texts import ON_MISSING, node_texts
    from rlmrec.text.api import OpenAIEmbeddings
    from rlmrec.text.registry import encoder_spec, make_encoder
    from rlmrec.workspace import Workspace

    place, output = Workspace(workspace), Output(as_json)
    place.text_embeddings_path(name)  # a bad name is refused before any work
    for option, value, known in (
        ("profiles", profiles, (None, *PROFILES)),
        ("user-vectors", user_vectors, (None, *USER_VECTORS)),
        ("on-missing", on_missing, ON_MISSING),
    ):
        if value not in known:
            raise ConfigError(f"--{option} {value!r}: expected one of {', '.join(filter(None, known))}")
    if user_vectors not in (None, "mean") and profiles == "mean":
        raise ConfigError(f"--profiles mean gives users the mean: leave out --user-vectors {user_vectors}")
    if user_vectors not in (None, "texts") and users is not None:
        raise ConfigError(
            f"--user-vectors {user_vectors} does not use --users {users}: leave one of them out"
        )
    dataset = place.dataset()
    chosen = _choose(
        place, dataset, profiles, user_vectors, item_file=items is not None, user_file=users is not None
    )
    item_metadata: Texts = [None] * dataset.n_items
    if chosen.items == "metadata" or items is not None or dataset.item_texts is not None:
        item_metadata = item_texts(dataset, items, item_column, text_column)
    item_nodes = node_texts(chosen.items, chosen.item_profiles.texts, item_metadata, on_missing)
    user_nodes, nothing = None, [None] * dataset.n_users
    if chosen.users == "profiles":
        user_nodes = node_texts("llm", chosen.user_profiles.texts, nothing, on_missing)
    elif chosen.users == "texts":
        user_nodes = node_texts("metadata", nothing, _user_texts(dataset, users, user_column, text_column))
    for line in (*_described(chosen, item_nodes, user_nodes), *chosen.unused):
        output.say(escape(line))

    options = parse_settings(settings or [])
    made_by = make_encoder(encoder, base_url, key_env, device, options, concurrency=concurrency)
    text_embeddings, kept = write_text_embeddings(
        place, dataset, made_by,
        item_nodes.texts, None if user_nodes is None else user_nodes.texts, output,
        name=name, fill_users=on_missing == "text", price=price,
        manifest={
            "made_by": encoder_spec(encoder, base_url, key_env, options),
            "profiles": chosen.items,
            "users": "mean over training items" if chosen.users == "mean" else chosen.users,
            "on_missing": on_missing,
            "models": dict(chosen.item_profiles.models) if chosen.items != "metadata" else {},
            "items_with_profile": item_nodes.profile,
            "items_with_fallback": item_nodes.fallback,
            "items_failed": chosen.item_profiles.failed,
            "users_with_profile": 0 if user_nodes is None else user_nodes.profile,
            "users_failed": chosen.user_profiles.failed,
        },
    )  # fmt: skip
    path = place.text_embeddings_path(name)
    output.say(
        f"{'kept' if kept else 'wrote'} {escape(str(path))}: {len(text_embeddings.items):,} items and "
        f"{len(text_embeddings.users):,} users in {text_embeddings.size} dimensions"
    )
    without = [(~text_embeddings.has_item).sum(), (~text_embeddings.has_user).sum()]
    if not text_embeddings.complete:
        output.say(
            f"[yellow]{without[0]:,} items and {without[1]:,} users have no vector: "
            "the alignment leaves them out[/]"
        )
    if cut := text_embeddings.manifest["texts_cut"]:
        output.say(f"[yellow]{cut:,} texts are longer than the model reads: their ends were cut off[/]")
    result = {"text_embeddings": str(path), "skipped": kept, **text_embeddings.manifest}
    if isinstance(made_by, OpenAIEmbeddings):
        result |= {"tokens": made_by.tokens, "cost": _cost(made_by, price)}
        output.say(f"paid for: {_bill(made_by, price)}")
    output.result(result)


@dataclass(frozen=True)
class _Chosen:
    """Where texts come from: what the options say, else what the store of profiles suggests.

    items is one of SOURCES, users one of USER_VECTORS; ``unused`` says which profiles nobody reads.
    """

    items: str
    users: str
    item_profiles: Stored
    user_profiles: Stored
    unused: list[str]


def _choose(
    place: Workspace,
    dataset: Dataset,
    profiles: str | None,
    user_vectors: str | None,
    *,
    item_file: bool,
    user_file: bool,
) -> _Chosen:
    unused: list[str] = []
    item = _stored(place, dataset, "item", profiles not in (None, "metadata"), unused)
    user = _stored(place, dataset, "user", user_vectors == "profiles", unused)
    for kind, found, needed in (
        ("item", item, profiles in ("llm", "llm+metadata")),
        ("user", user, user_vectors == "profiles"),
    ):
        if needed and not found.profiled:
            raise WorkspaceError(
                f"{place.path} holds no profile of {kind}s of {dataset.name}: write them first "
                f"('rlmrec profile --{kind}s')"
            )
    if profiles in SOURCES:
        items = profiles
    elif profiles == "mean":
        items = "llm" if item.profiled else "metadata"
    else:
        items = "llm" if item.finished and not item_file else "metadata"
    if user_vectors is not None:
        users = user_vectors
    elif user_file:
        users = "texts"
    else:
        follow = profiles != "mean" and items != "metadata" and user.finished
        users = "profiles" if follow else "mean"
    for kind, found, used, option in (
        ("items", item, items != "metadata", "--profiles llm"),
        ("users", user, users == "profiles", "--user-vectors profiles"),
    ):
        if found.profiled and not used:
            unused.append(
                f"not used: profiles of {found.profiled:,} of {len(found.texts):,} {kind} in "
                f"{place.profiles_path}; {option} uses them"
            )
    return _Chosen(items, users, item, user, unused)


def _stored(place: Workspace, dataset: Dataset, kind: str, wanted: bool, unused: list[str]) -> Stored:
    """The workspace's profiles of one kind; that they cannot be used is an error only if they were asked for."""
    from rlmrec.llm.store import Store
    from rlmrec.profiles.texts import Stored, stored_profiles

    found = Stored([None] * (dataset.n_items if kind == "item" else dataset.n_users), 0, Counter())
    if place.profiles_path.exists():
        try:
            with Store(place.profiles_path, create=False) as store:
                found = stored_profiles(store, dataset, kind)
        except WorkspaceError as error:
            if wanted:
                raise
            unused.append(f"not used: {error}")
    return found


def _described(chosen: _Chosen, items: NodeTexts, users: NodeTexts | None) -> Iterator[str]:
    """What is encoded, one line for items and one for users."""
    if chosen.items == "metadata":
        yield f"items: their metadata; {items.missing:,} of {len(items.texts):,} have none"
    else:
        also = " after their metadata" if chosen.items == "llm+metadata" else ""
        line = (
            f"items: profiles by {_by(chosen.item_profiles)}{also}: {items.profile:,} of {len(items.texts):,}"
        )
        if others := items.fallback + items.missing:
            line += (
                f"; of the other {others:,} ({chosen.item_profiles.failed:,} failed) {items.fallback:,} have their "
                f"metadata instead, {items.missing:,} nothing"
            )
        yield line
    if users is None:
        yield "users: the mean over their training items' vectors"
    elif chosen.users == "texts":
        yield f"users: their texts; {users.missing:,} of {len(users.texts):,} have none"
    else:
        yield (
            f"users: profiles by {_by(chosen.user_profiles)}: {users.profile:,} of {len(users.texts):,} "
            f"({chosen.user_profiles.failed:,} failed)"
        )


def _by(stored: Stored) -> str:
    return ", ".join(model for model, _ in stored.models.most_common())


def item_texts(
    dataset: Dataset, file: Path | None = None, id_column: str = "item_id", columns: list[str] | None = None
) -> Texts:
    """The metadata of each item, from ``file`` or from the dataset; None where there is none.

    Raises:
        ConfigError: neither has any.
    """
    from rlmrec.data.metadata import metadata_texts
    from rlmrec.data.tables import read_texts

    if file is not None:
        return metadata_texts(read_texts(file, dataset.items, id_column, columns), columns)
    if dataset.item_texts is None:
        raise ConfigError(
            "this dataset has no item texts: give a file of them with --items FILE --text-column NAME"
        )
    return metadata_texts(dataset.item_texts, columns)


def _user_texts(dataset: Dataset, file: Path | None, id_column: str, columns: list[str] | None) -> Texts:
    from rlmrec.data.metadata import metadata_texts
    from rlmrec.data.tables import read_texts

    if file is not None:
        return metadata_texts(read_texts(file, dataset.users, id_column, columns), columns)
    if dataset.user_texts is None:
        raise ConfigError("this dataset has no user texts: give a file of them with --users FILE")
    return metadata_texts(dataset.user_texts)


def write_text_embeddings(
    workspace: Workspace,
    dataset: Dataset,
    encoder: TextEncoder,
    items: Sequence[str | None],
    users: Sequence[str | None] | None,
    output: Output,
    *,
    name: str = DEFAULT_TEXT_EMBEDDINGS,
    fill_users: bool = True,
    manifest: dict[str, Any] | None = None,
    price: float | None = None,
) -> tuple[TextEmbeddings, bool]:
    """Encode with a progress bar and store, unless the very same is stored already; says which."""
    from rlmrec.text.api import OpenAIEmbeddings
    from rlmrec.text.cache import VectorCache
    from rlmrec.text.encoding import encode_dataset

    distinct = len({text for text in (*items, *(users or ())) if text is not None})
    with output.progress("encoding", distinct) as update, VectorCache(workspace.vectors_path) as cache:

        def show(so_far: Encoded) -> None:
            note = [f"{so_far.cached:,} cached"] if so_far.cached else []
            if isinstance(encoder, OpenAIEmbeddings):
                note.append(_bill(encoder, price))
            update(so_far.done, " · ".join(note))

        text_embeddings = encode_dataset(
            dataset, encoder, items, users,
            fill_users=fill_users, cache=cache, on_progress=show, manifest=manifest,
        )  # fmt: skip
    try:
        existing = workspace.text_embeddings(dataset, name)
        if existing.manifest == text_embeddings.manifest and existing.digest == text_embeddings.digest:
            return existing, True
    except RlmrecError:
        pass  # absent, damaged or of another dataset: made anew below
    text_embeddings.save(workspace.text_embeddings_path(name))
    return text_embeddings, False


def _cost(encoder: OpenAIEmbeddings, price: float | None) -> float | None:
    return None if price is None else encoder.tokens * price / 1e6


def _bill(encoder: OpenAIEmbeddings, price: float | None) -> str:
    cost = _cost(encoder, price)
    return f"{encoder.tokens:,} tokens" + ("" if cost is None else f", cost {cost:.4g}")
