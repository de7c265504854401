"""rlmrec recommend, explain, index, export: what is made of a trained run."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from rlmrec.cli.arguments import DEFAULT_WORKSPACE, JsonOption, RunOption, WorkspaceOption
from rlmrec.cli.output import Output
from rlmrec.data.dataset import Dataset
from rlmrec.data.metadata import item_labels
from rlmrec.data.vocabulary import RawId, Vocabulary
from rlmrec.errors import ConfigError, UnknownIdError
from rlmrec.llm.client import LLM, OpenAIChat
from rlmrec.llm.local import LocalChat
from rlmrec.recommend.export import load_qdrant, qdrant_client, write_parquet, write_recommendations
from rlmrec.recommend.index import EXACT_BELOW, build_index
from rlmrec.recommend.open import open_explainer, open_recommender
from rlmrec.recommend.recommender import Recommender
from rlmrec.workspace import Workspace


def recommend(
    run: RunOption,
    user: Annotated[str | None, typer.Option(help="The user's id.")] = None,
    everyone: Annotated[
        bool, typer.Option("--all", help="For all users at once, into the Parquet file --out.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="With --all: the file to write.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """The k best items for a user who was in training, or for all of them, what they already have left out.

    The file of `--all` has a row per user, in the order of the dataset: `user` and the lists `items` and `scores`,
    best first. It is written group by group: memory does not grow with the number of users.

    **Examples:**

    `rlmrec recommend -w movies --run con --user 196 -k 10`

    `rlmrec recommend -w movies --run con --all --out recommendations.parquet`
    """
    if (user is None) != everyone or everyone != (out is not None):
        raise ConfigError("give either --user ID, or --all with --out FILE.parquet")
    if out is not None and out.suffix != ".parquet":
        raise ConfigError(f"--out {out}: the file is Parquet, so its name must end in .parquet")
    place, output = Workspace(workspace), Output(as_json)
    dataset = place.dataset()
    recommender = open_recommender(place, run, dataset)
    if out is not None:
        with output.progress("users", len(recommender.users)) as update:
            write_recommendations(recommender, out, k, update)
        output.say(f"wrote {escape(str(out))}: {k} items for each of {len(recommender.users):,} users")
        output.result({"run": run, "out": str(out), "users": len(recommender.users), "k": k})
        return
    [raw] = parse_ids(recommender.user_ids, [str(user)])
    answer = show_recommendations(recommender, dataset, raw, k, output)
    output.result({"run": run, "user": raw, "items": answer})


def parse_ids(vocabulary: Vocabulary, texts: Sequence[str]) -> list[RawId]:
    """Ids typed on a command line, in the type of the dataset's.

    Raises:
        UnknownIdError: text where ids are integers; whether the id exists is found out where it is used.
    """
    parsed = []
    for text in texts:
        raw = vocabulary.parse(text.strip())
        if raw is None:
            kind = vocabulary.kind
            raise UnknownIdError(
                f"unknown {kind} {text!r}: {kind} ids are integers here, e.g. {vocabulary.id(0)}"
            )
        parsed.append(raw)
    return parsed


def parse_id_lists(vocabulary: Vocabulary, texts: Sequence[str]) -> list[RawId]:
    """``parse_ids``, where each text may be several ids with commas between, unless it is an id with a comma itself."""
    ids = ([text] if vocabulary.parse(text) in vocabulary else text.split(",") for text in texts)
    return parse_ids(vocabulary, [one for several in ids for one in several])


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
            *(
                (str(answer[i]["id"]), str(answer[i]["title"]), f"{answer[i]['score']:.3f}")
                if i < len(answer)
                else ("", "", "")
            ),
        ]
        for i in range(max(len(shown), len(answer)))
    ]
    output.table(
        f"user {user}",
        [f"has ({len(history)} in training, {len(shown)} shown)", "id", "recommended", "score"],
        rows,
        text_columns=3,
    )
    return answer


def explain(
    run: RunOption,
    user: Annotated[str, typer.Option(help="The user's id.")],
    item: Annotated[str, typer.Option(help="The item's id.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    k: Annotated[int, typer.Option("-k", min=1, help="How many reasons.")] = 3,
    model: Annotated[
        str | None,
        typer.Option(
            help="Also ask this model for a sentence; 'local' is the embedded one. None by default."
        ),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Root of an OpenAI-compatible endpoint; OpenAI's by default.")
    ] = None,
    key_env: Annotated[str, typer.Option(help="Environment variable with the key.")] = "OPENAI_API_KEY",
    as_json: JsonOption = False,
) -> None:
    """Why an item is recommended to a user: the training items it rests on, profiles, shared words.

    No language model is needed. With `--model` one puts the facts into a sentence, which is dropped if it names an
    item that is not among them.

    **Example:**  `rlmrec explain -w movies --run con --user 196 --item 50`
    """
    place, output = Workspace(workspace), Output(as_json)
    dataset = place.dataset()
    explainer = open_explainer(place, run, dataset)
    [user_id] = parse_ids(dataset.users, [user])
    [item_id] = parse_ids(dataset.items, [item])
    found = explainer.explain(user_id, item_id, k)
    sentence = None
    if model is not None:
        llm: LLM = (
            LocalChat(field_tokens={"sentence": 60})
            if model == "local"
            else OpenAIChat(model, base_url=base_url, key_env=key_env)
        )
        sentence = asyncio.run(explainer.sentence(found, llm))
    rows = [[str(reason.id), reason.title, f"{reason.contribution:.3f}"] for reason in found.because]
    if found.own is not None:
        mixed = "blend" in explainer.recommender.manifest.get("config", {}).get("run", {})
        whole = "own embedding, texts" if mixed else "the user's own embedding"
        others = found.score - found.own - sum(reason.contribution for reason in found.because)
        n_others = found.history - len(found.because)
        if n_others:
            what = "item" if n_others == 1 else f"{n_others} items"
            rows.append(["", f"the other {what} they have", f"{others:.3f}"])
        rows += [
            [
                "",
                f"their taste as a whole ({whole})",
                f"{found.own:.3f}",
            ],
            ["", "score", f"{found.score:.3f}"],
        ]
    output.table(
        f"{found.title} for user {found.user}" + ", who has it already" * found.seen,
        ["id", "because they have", "adds" if found.exact else "cosine to the item"],
        rows,
        text_columns=2,
    )
    for label, text in (
        ("the item", found.item_profile),
        ("the user", found.user_profile),
        ("in common", ", ".join(found.terms)),
        ("in a sentence", sentence or found.text),
    ):
        if text:
            output.say(f"[bold]{label}[/]: {escape(text)}")
    output.result({"run": run, **found.as_dict(), "sentence": sentence})


def index(
    run: RunOption,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    recall: Annotated[float, typer.Option(help="To be reached at 20, against exact search.")] = 0.95,
    force: Annotated[
        bool, typer.Option("--force", help="Also where exact search is the better choice.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the cells and of the sample.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Build an approximate index for a large catalogue; from then on recommendations go through it.

    Below 200,000 items exact search is fast enough and nothing is built, unless `--force` says so.

    **Example:**  `rlmrec index -w shop --run con --recall 0.98`
    """
    place, output = Workspace(workspace), Output(as_json)
    recommender = open_recommender(place, run, place.dataset())
    n_items = len(recommender.items)
    if n_items < EXACT_BELOW and not force:
        output.say(f"{n_items:,} items: searched exactly, no index is needed below {EXACT_BELOW:,} (--force)")
        output.result({"run": run, "built": False, "items": n_items})
        return
    built = build_index(recommender.items, recommender.users, recall, seed)
    built.save(place.recommender_path(run))
    output.say(
        f"{built.manifest['kind']} over {n_items:,} items in {built.manifest['seconds']:.1f} s: recall@20 "
        f"{built.recall:.4f} against exact search, {built.manifest['probes']} cells a query"
    )
    output.result({"run": run, "built": True, **built.manifest})


def export(
    run: RunOption,
    out: Annotated[
        Path | None, typer.Option(help="Folder for users.parquet and items.parquet: id, vector.")
    ] = None,
    qdrant: Annotated[
        str | None, typer.Option(help="A Qdrant server (http://…) or a folder for its embedded mode.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Of the Qdrant collections' names.")] = "rlmrec",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Write the embeddings with their ids for a vector database; the score is the dot product.

    **Examples:**

    `rlmrec export -w movies --run con --out vectors`

    `rlmrec export -w movies --run con --qdrant http://localhost:6333`
    """
    if out is None and qdrant is None:
        raise ConfigError("say where to: --out FOLDER, --qdrant URL-OR-FOLDER, or both")
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out is a folder, {out} is a file")
    place, output = Workspace(workspace), Output(as_json)
    recommender = open_recommender(place, run, place.dataset())
    client = None if qdrant is None else qdrant_client(qdrant)  # before anything is written
    written = [] if out is None else [str(path) for path in write_parquet(recommender, out)]
    for path in written:
        output.say(f"wrote {escape(path)}")
    if client is not None:
        with output.progress("points", len(recommender.users) + len(recommender.items)) as update:
            load_qdrant(recommender, client, prefix, update)
        client.close()
        output.say(f"loaded collections {escape(prefix)}-users and {escape(prefix)}-items")
    output.result({"run": run, "files": written, "qdrant": qdrant, "prefix": prefix})
