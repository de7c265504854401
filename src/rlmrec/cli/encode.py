"""rlmrec encode: from texts, or vectors made elsewhere, to text embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from rlmrec.cli.arguments import (
    DEFAULT_WORKSPACE,
    AddressOption,
    EngineOption,
    JsonOption,
    PartsInOption,
    PartsOutOption,
    RequestsAMinute,
    TokensAMinute,
    WorkspaceOption,
    command_line,
    is_given,
)
from rlmrec.cli.output import Output
from rlmrec.errors import ConfigError
from rlmrec.findings import by_number
from rlmrec.profiles import SOURCES
from rlmrec.text import DEFAULT_TEXT_EMBEDDINGS, ENCODERS, NO_TEXT_EMBEDDINGS

if TYPE_CHECKING:
    from rlmrec.data.dataset import Dataset
    from rlmrec.engine import Engine
    from rlmrec.findings import Finding
    from rlmrec.text.embeddings import TextEmbeddings
    from rlmrec.text.encoder import TextEncoder
    from rlmrec.text.encoding import Encoded
    from rlmrec.workspace import Workspace

PROFILES = (*SOURCES, "mean")
USER_VECTORS = ("profiles", "texts", "mean")
SHOWN = 20  # refused texts in the output
# What a repetition may choose anew: how fast, where and at which price texts are encoded.
NOT_REPEATED = ("concurrency", "rpm", "tpm", "price", "device", "parts_in", "parts_out", "engine", "address")
USED_WITH_VECTORS = {
    "workspace", "vectors", "user_vectors", "whiten", "name", "item_column", "user_column", "as_json"
}  # fmt: skip


def encode(
    context: typer.Context,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    encoder: Annotated[
        str,
        typer.Option(
            help=f"{ENCODERS.choices}; or several joined by +, such as tfidf+local: their vectors side by side."
        ),
    ] = "local",
    profiles: Annotated[
        str | None,
        typer.Option(
            help="The text of an item. llm: its profile; metadata: title and other columns; llm+metadata: both; "
            "mean: llm if there are profiles, else metadata, and users always by the mean. Default: llm once "
            "'rlmrec profile --items' has processed all items, else metadata."
        ),
    ] = None,
    user_vectors: Annotated[
        str | None,
        typer.Option(
            help="The vector of a user. profiles: of the user's profile; texts: of --users or the dataset; mean: "
            "over the training items' vectors. Default: texts with --users FILE; profiles with items by llm once "
            "'rlmrec profile --users' has processed all users; else mean. With --vectors: mean or a file."
        ),
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(
            help="Take the items' vectors from this file instead of encoding texts: .npy in the order of the "
            "dataset's items, or .parquet with --item-column and a column of lists or columns of numbers."
        ),
    ] = None,
    whiten: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Centre the vectors and scale their principal directions by s^(p-1), s the spread: 1 only "
            "centres, 0 gives each the same spread, 0.5 lies between. Default: vectors as the encoder gives them.",
        ),
    ] = None,
    on_missing: Annotated[
        str,
        typer.Option(
            help="Nodes without a profile. text: an item is represented by its metadata, a user by the mean. "
            "drop: they get no vector and are left out of the alignment, as in the paper; the mean of a user is "
            "over the training items that have a vector."
        ),
    ] = "text",
    name: Annotated[
        str, typer.Option(help="Name of these text embeddings, for 'rlmrec train --text-embeddings'.")
    ] = DEFAULT_TEXT_EMBEDDINGS,
    items: Annotated[
        Path | None,
        typer.Option(help="Metadata of items (CSV, TSV, Parquet, JSON lines). Default: that of the dataset."),
    ] = None,
    users: Annotated[Path | None, typer.Option(help="Texts of users. Default: those of the dataset.")] = None,
    item_column: Annotated[str, typer.Option(help="Column of item ids in --items or --vectors.")] = "item_id",
    user_column: Annotated[
        str, typer.Option(help="Column of user ids in --users or --user-vectors.")
    ] = "user_id",
    text_column: Annotated[
        list[str] | None, typer.Option(help="Column of metadata; repeat for several. Default: all of them.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Option of your own encoder; repeat for several."),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Root of an OpenAI-compatible endpoint. Default: OpenAI's.")
    ] = None,
    key_env: Annotated[
        str, typer.Option(help="Environment variable with the API key, which is never written anywhere.")
    ] = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests to the endpoint at once.")] = 8,
    rpm: RequestsAMinute = None,
    tpm: TokensAMinute = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="Price of a million tokens, to show the cost.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device of a local encoder: cpu, cuda or mps.")] = "cpu",
    parts_in: PartsInOption = None,
    parts_out: PartsOutOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encode texts into vectors. A run that was killed continues; only texts that changed are encoded again.

    | --profiles | an item | a user (unless --user-vectors) |
    |---|---|---|
    | llm | profile | profile, or the mean if users are not profiled |
    | llm+metadata | metadata and profile | as with llm |
    | metadata | metadata | mean |
    | mean | profile if there are any, else metadata | mean |

    **Examples:**

    `rlmrec encode -w movies`

    `rlmrec encode -w movies --encoder tfidf --set dim=512`   (seconds, no language model)

    `rlmrec encode -w movies --whiten 0.5 --name white`

    `rlmrec encode -w movies --profiles llm+metadata --on-missing drop --name both`

    `rlmrec encode -w shop --encoder "sentence-transformers:hkunlp/instructor-base:Represent the product: "`

    `rlmrec encode -w shop --encoder openai:text-embedding-3-small --price 0.02`

    `rlmrec encode -w shop --vectors items.parquet --user-vectors users.parquet --name mine`
    """
    from rlmrec.config import parse_settings
    from rlmrec.engine import open_engine
    from rlmrec.profiles.select import ON_MISSING, metadata_of, node_texts, select_texts
    from rlmrec.text.cache import VectorCache
    from rlmrec.text.encoding import save_if_changed
    from rlmrec.text.registry import check_encoder, encoder_spec, make_encoder, parts_of
    from rlmrec.text.vectors import given_embeddings
    from rlmrec.workspace import Workspace

    place, output = Workspace(workspace), Output(as_json)
    path = place.text_embeddings_path(name)  # an invalid name is refused before any work
    if name == NO_TEXT_EMBEDDINGS:
        raise ConfigError(f"--name {name!r} stands for no text embeddings: choose another")
    command = command_line(context, without=NOT_REPEATED)
    if vectors is not None:
        unused = [option for option in context.params if is_given(context, option)]
        if unused := [option for option in unused if option not in USED_WITH_VECTORS]:
            listed = ", ".join("--" + option.replace("_", "-") for option in unused)
            raise ConfigError(f"--vectors encodes no texts and does not use {listed}: leave it out")
        of_users = None if user_vectors in (None, "mean") else Path(str(user_vectors))
        given = given_embeddings(
            place.dataset(), vectors, of_users, item_column=item_column, user_column=user_column
        )
        if whiten is not None:
            given = given.whitened(whiten, None if of_users is None else given.has_user)
        given.manifest["command"] = command
        findings = given.findings(place.dataset())
        output.result(_report(path, given, save_if_changed(path, given), findings, output))
        return
    for option, value, known in (
        ("profiles", profiles, (None, *PROFILES)),
        ("user-vectors", user_vectors, (None, *USER_VECTORS)),
        ("on-missing", on_missing, ON_MISSING),
    ):
        if value not in known:
            hint = "; a file of users' vectors needs --vectors as well" * (option == "user-vectors")
            raise ConfigError(f"--{option} {value!r}: expected one of {', '.join(filter(None, known))}{hint}")
    if user_vectors not in (None, "mean") and profiles == "mean":
        raise ConfigError(f"--profiles mean gives users the mean: leave out --user-vectors {user_vectors}")
    if user_vectors not in (None, "texts") and users is not None:
        raise ConfigError(
            f"--user-vectors {user_vectors} does not use --users {users}: leave one of them out"
        )
    if device != "cpu" and engine == "local":  # Ray's devices may be on other machines
        from rlmrec.batch import available_device

        available_device(device)
    check_encoder(encoder)
    dataset = place.dataset()
    selection = select_texts(
        dataset, place.profiles_path, profiles, user_vectors,
        item_file=items is not None, user_file=users is not None,
    )  # fmt: skip
    metadata: list[str | None] = [None] * dataset.n_items
    if selection.items == "metadata" or items is not None or dataset.item_texts is not None:
        metadata = metadata_of(dataset, "item", items, item_column, text_column)
    item_nodes = node_texts(selection.items, selection.item_profiles.texts, metadata, on_missing)
    user_nodes, nothing = None, [None] * dataset.n_users
    if selection.users == "profiles":
        user_nodes = node_texts("llm", selection.user_profiles.texts, nothing, on_missing)
    elif selection.users == "texts":
        # The columns of --text-column are those of the items unless the users' texts are in a file, too.
        columns = None if users is None else text_column
        user_nodes = node_texts(
            "metadata", nothing, metadata_of(dataset, "user", users, user_column, columns)
        )
    for line in selection.describe(item_nodes, user_nodes):
        output.say(escape(line))

    options = parse_settings(settings or [])
    if (rpm or tpm) and not any(part.startswith("openai:") for part in parts_of(encoder)):
        raise ConfigError(
            f"--rpm and --tpm are for --encoder openai:MODEL, {encoder} sends no requests: leave them out"
        )
    with output.step(f"loading {encoder}"):
        made_by = make_encoder(
            encoder, base_url, key_env, device, options, concurrency=concurrency, rpm=rpm, tpm=tpm
        )
    if parts_in is not None:
        with VectorCache(place.vectors_path) as cache:
            taken = cache.take_parts(parts_in)
        output.say(
            f"took {taken.new:,} vectors from {escape(str(parts_in))}, {taken.known:,} were there already"
        )
    with open_engine(engine, address, device, output.say) as opened:
        text_embeddings, kept = write_text_embeddings(
            place, dataset, made_by,
            item_nodes.texts, None if user_nodes is None else user_nodes.texts, output,
            name=name, fill_users=on_missing == "text", whiten=whiten, price=price,
            manifest={
                "made_by": encoder_spec(encoder, base_url, key_env, options),
                **selection.manifest(item_nodes, user_nodes, on_missing),
                "command": command,
            },
            engine=opened,
        )  # fmt: skip
    findings = [*made_by.findings(), *text_embeddings.findings(dataset)]
    result = _report(path, text_embeddings, kept, findings, output)
    if made_by.tokens is not None:
        result |= {"tokens": made_by.tokens, "cost": _cost(made_by.tokens, price)}
        output.say(f"paid for: {_bill(made_by.tokens, price)}")
    if parts_out is not None:
        with VectorCache(place.vectors_path) as cache:
            output.say(f"wrote {cache.write_parts(parts_out):,} vectors into {escape(str(parts_out))}")
    output.result(result)


def _report(
    path: Path, text_embeddings: TextEmbeddings, kept: bool, findings: Sequence[Finding], output: Output
) -> dict[str, Any]:
    """Show what was stored and what is odd about it, and return both for --json."""
    output.say(
        f"{'kept' if kept else 'wrote'} {escape(str(path))}: {len(text_embeddings.items):,} items and "
        f"{len(text_embeddings.users):,} users in {text_embeddings.size} dimensions"
    )
    without = (~text_embeddings.has_item).sum(), (~text_embeddings.has_user).sum()
    if not text_embeddings.complete:
        counts = " and ".join(
            f"{count:,} {by_number(count, kind, f'{kind}s')}"
            for count, kind in zip(without, ("item", "user"), strict=True)
            if count
        )
        output.say(
            f"[yellow]{counts} {by_number(sum(without), 'has', 'have')} no vector: the alignment leaves "
            f"{by_number(sum(without), 'it', 'them')} out[/]"
        )
    if truncated := text_embeddings.manifest.get("texts_cut"):
        output.say(f"[yellow]{truncated:,} texts are longer than the model reads and were truncated[/]")
    _show_refused(text_embeddings.manifest.get("texts_refused"), output)
    output.findings(findings)
    return {
        "text_embeddings": str(path),
        "skipped": kept,
        **text_embeddings.manifest,
        "findings": [finding.plain() for finding in findings],
    }


def _show_refused(refused: Mapping[str, Any] | None, output: Output) -> None:
    """List the texts that the endpoint refused, with its own words."""
    if not refused:
        return
    output.say(f"[yellow]{refused['count']:,} texts were refused by the endpoint, also when cut[/]:")
    for node in refused["nodes"][:SHOWN]:
        output.say(f"  {node['kind']} {escape(repr(node['id']))}: {escape(node['reason'])}")
    if refused["count"] > SHOWN:
        output.say(f"  and {refused['count'] - SHOWN:,} more (--json lists them)")


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
    whiten: float | None = None,
    manifest: dict[str, Any] | None = None,
    price: float | None = None,
    engine: Engine | None = None,
) -> tuple[TextEmbeddings, bool]:
    """Encode with a progress bar and store; return the embeddings and whether the same were stored already."""
    from rlmrec.text.cache import VectorCache
    from rlmrec.text.encoding import encode_dataset, save_if_changed

    distinct = len({text for text in (*items, *(users or ())) if text is not None})
    with output.progress("encoding", distinct) as update, VectorCache(workspace.vectors_path) as cache:

        def show(so_far: Encoded) -> None:
            note = [f"{so_far.cached:,} cached"] if so_far.cached else []
            if encoder.tokens is not None:
                note.append(_bill(encoder.tokens, price))
            update(so_far.done, " · ".join(note))

        text_embeddings = encode_dataset(
            dataset, encoder, items, users,
            user_vectors="mean" if users is None else "texts",  # chosen before, so nothing is left to warn of
            fill_users=fill_users, whiten=whiten, encoders=workspace.encoders_path,
            cache=cache, on_progress=show, manifest=manifest, engine=engine,
        )  # fmt: skip
    return text_embeddings, save_if_changed(workspace.text_embeddings_path(name), text_embeddings)


def _cost(tokens: int, price: float | None) -> float | None:
    return None if price is None else tokens * price / 1e6


def _bill(tokens: int, price: float | None) -> str:
    cost = _cost(tokens, price)
    return f"{tokens:,} tokens" + ("" if cost is None else f", cost {cost:.4g}")
