"""rlmrec cold: recommendations for new items and new users from their text, without training."""

from __future__ import annotations

import math
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from rlmrec.cli.arguments import (
    DEFAULT_WORKSPACE,
    BaseUrlOption,
    EncoderOption,
    JsonOption,
    KeyEnvOption,
    RunOption,
    WhereOption,
    WorkspaceOption,
)
from rlmrec.errors import ConfigError, RlmrecError, WorkspaceError

if TYPE_CHECKING:
    import numpy as np

    from rlmrec.cli.output import Output
    from rlmrec.data.dataset import Dataset
    from rlmrec.data.vocabulary import RawId
    from rlmrec.recommend.cold_start import TextModel
    from rlmrec.recommend.recommender import Recommender
    from rlmrec.text.embeddings import TextEmbeddings
    from rlmrec.types import Float32Array
    from rlmrec.workspace import Workspace

app = typer.Typer(no_args_is_help=True, help="New items and new users from their text, without training.")


@app.command()
def fit(
    run: RunOption,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    projector: Annotated[
        bool,
        typer.Option(
            "--projector", help="Use the projector that Con trained instead of fitting a regression."
        ),
    ] = False,
    text_embeddings_name: Annotated[
        str | None,
        typer.Option(
            "--text-embeddings",
            metavar="NAME",
            help="Text embeddings, by the --name of 'rlmrec encode'; those of the run by default.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fit a regression from text embeddings to the run's item embeddings (kernel ridge regression), and one for users.

    Where 1,000 users or more have a text of their own, a new user's text is mapped as theirs are. Otherwise it is
    mapped as an item's is, and moved towards the mean of the users; their training items decide how far.

    The text embeddings are those that the run was trained with; for a run without texts, those called "default". New
    texts are then encoded by the same encoder. A running server uses the new model after a reload.

    **Examples:**

    `rlmrec cold fit -w movies --run con`

    `rlmrec cold fit -w movies --run con --text-embeddings by-llm`
    """
    from rlmrec.cli.output import Output
    from rlmrec.files import read_json
    from rlmrec.recommend.cold_start import ColdStart, ProjectorMap, has_rule_for_texts
    from rlmrec.recommend.open import open_recommender
    from rlmrec.text import DEFAULT_TEXT_EMBEDDINGS, NO_TEXT_EMBEDDINGS
    from rlmrec.workspace import Workspace

    place, output = Workspace(workspace), Output(as_json)
    dataset = place.dataset()
    config = read_json(place.finished_run(run) / "metrics.json")["config"]
    if projector and config["run"]["alignment"] != "contrastive":
        raise ConfigError(
            f"--projector needs a run trained with contrastive; {run} is {config['run']['alignment']}"
        )
    recommender = open_recommender(place, run, dataset)
    if has_rule_for_texts(recommender):
        output.say(f"{escape(run)} reads texts by its own rule: nothing has to be fitted")
        output.result({"run": run, **recommender.manifest["texts"]})
        return
    trained_with = config.get("names", {}).get("semantics", DEFAULT_TEXT_EMBEDDINGS)
    name = text_embeddings_name or (
        DEFAULT_TEXT_EMBEDDINGS if trained_with == NO_TEXT_EMBEDDINGS else trained_with
    )
    text_embeddings = place.text_embeddings(dataset, name)
    if config["data"].get("texts", text_embeddings.digest) != text_embeddings.digest:
        changed = f"the text embeddings {name!r} are not those that {run} was trained with"
        if projector:
            raise ConfigError(f"{changed}, which its projector needs: train it again with --overwrite")
        if text_embeddings_name is None:
            output.say(
                f"[yellow]{escape(changed)}: the regression is fitted on them as they are now; to use the same for "
                "both, train the run again with --overwrite[/]"
            )
    trained = ProjectorMap.of_run(place.finished_run(run)) if projector else None
    cold = ColdStart.fit(recommender, text_embeddings, dataset, trained)
    folder = place.recommender_path(run)
    cold.save(folder)
    of_users = cold.manifest["users"]
    if "texts" in of_users:
        placed = f"users by a map on {of_users['texts']:,} texts of users"
    elif of_users["shift"]:
        placed = f"users by the map of items, {of_users['shift']:g} times the mean of the users added"
    else:
        placed = "users by the map of items"
    output.say(
        f"{cold.map.name} map on the text embeddings {escape(name)}, {placed}: saved in {escape(str(folder))}"
    )
    output.result({"run": run, "text_embeddings": name, **cold.manifest})


@app.command()
def item(
    run: RunOption,
    text: Annotated[str, typer.Option(help="Text of the item: its description or profile.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of users and of items.")] = 10,
    encoder: EncoderOption = None,
    base_url: BaseUrlOption = None,
    key_env: KeyEnvOption = "OPENAI_API_KEY",
    as_json: JsonOption = False,
) -> None:
    """Find the likely users of a new item, and similar items.

    **Example:**  `rlmrec cold item -w movies --run con --text "A heist in space, told as a comedy."`
    """
    from rlmrec.cli.output import Output
    from rlmrec.data.markup import plain
    from rlmrec.data.metadata import item_labels
    from rlmrec.workspace import Workspace

    _refuse_empty("--text", plain(text))
    place, output = Workspace(workspace), Output(as_json)
    dataset, recommender, cold = _opened(place, run)
    encoded, note = _encoded(place, cold, plain(text), encoder, base_url, key_env, output)
    vector = cold.items(encoded[None])[0]
    users, cosines = recommender.users_for(vector, min(k, len(recommender.users)))
    titles = item_labels(dataset)
    near, nearness = recommender.items_for(vector, min(k, len(titles)))
    similar = [
        {"id": raw, "cosine": float(cosine), "title": titles[dataset.items.row(raw)]}
        for raw, cosine in zip(near.tolist(), nearness.tolist(), strict=True)
    ]
    found = [
        {"id": raw, "cosine": float(cosine)}
        for raw, cosine in zip(users.tolist(), cosines.tolist(), strict=True)
    ]
    output.table(
        "likely users",
        ["user", "cosine"],
        [[str(user["id"]), cosine] for user, cosine in zip(found, _told_apart(found), strict=True)],
    )
    output.table(
        "similar items",
        ["id", "item", "cosine"],
        [
            [str(other["id"]), str(other["title"]), cosine]
            for other, cosine in zip(similar, _told_apart(similar), strict=True)
        ],
        text_columns=2,
    )
    output.result({"run": run, "users": found, "similar": similar, "vector": vector.tolist(), "note": note})


@app.command()
def user(
    run: RunOption,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    text: Annotated[str | None, typer.Option(help="Description of their taste.")] = None,
    likes: Annotated[
        list[str] | None,
        typer.Option(help="Ids of items they like, separated by commas; repeat for more."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of items.")] = 20,
    where: WhereOption = None,
    encoder: EncoderOption = None,
    base_url: BaseUrlOption = None,
    key_env: KeyEnvOption = "OPENAI_API_KEY",
    as_json: JsonOption = False,
) -> None:
    """Recommend to a new user, from a description of their taste or from items they like.

    **Examples:**

    `rlmrec cold user -w movies --run con --text "slow-burn science fiction with strong female leads"`

    `rlmrec cold user -w movies --run con --likes 50,181,172`

    `rlmrec cold user -w shop --run live --text "coffee" --where "in_stock = true"`
    """
    from rlmrec.cli.ids import parse_id_lists
    from rlmrec.cli.output import Output
    from rlmrec.data.metadata import item_labels
    from rlmrec.recommend.open import open_recommender, open_text_embeddings
    from rlmrec.workspace import Workspace

    if (text is None) == (likes is None):
        raise ConfigError("expected either --text or --likes")
    _refuse_empty("--text", text)
    for one in likes or ():
        _refuse_empty("--likes", one)
    place, output = Workspace(workspace), Output(as_json)
    if likes is not None:
        dataset = place.dataset()
        recommender = open_recommender(place, run, dataset)
        k = output.length(k, len(recommender.items))
        liked = parse_id_lists(recommender.item_ids, likes)
        titles = item_labels(dataset)
        output.say(escape("likes: " + ", ".join(titles[dataset.items.row(raw)] for raw in liked)))
        candidates = _fulfilling(recommender, dataset, where)
        [ids], [scores] = recommender.recommend_parts(recommender.new_user(liked), k, candidates, liked)
        answer = _show_list(recommender, dataset, ids, scores, None, output)
        output.result({"run": run, "text": None, "likes": liked, "items": answer})
        return
    dataset, recommender, cold = _opened(place, run)
    k = output.length(k, len(recommender.items))
    candidates = _fulfilling(recommender, dataset, where)
    output.say(escape(f"taste: {text}"))
    vector, note = _encoded(place, cold, str(text), encoder, base_url, key_env, output)
    try:
        texts = open_text_embeddings(place, run, dataset)
    except RlmrecError as error:
        output.say(f"[yellow]similar users are not shown: {escape(str(error))}[/]")
        texts = None
    answer = show_new_user(recommender, cold, dataset, vector, texts, k, output, candidates)
    output.result({"run": run, "text": text, "likes": [], "items": answer, "note": note})


def show_new_user(
    recommender: Recommender,
    cold: TextModel,
    dataset: Dataset,
    vector: Float32Array,
    text_embeddings: TextEmbeddings | None,
    k: int,
    output: Output,
    candidates: list[RawId] | None = None,
) -> list[dict[str, Any]]:
    """Print and return the items for a new user's text vector; with text embeddings, who similar has them."""
    [ids], [scores] = recommender.recommend_parts(cold.new_user(vector), k, candidates)
    of_users = None if text_embeddings is None else text_embeddings.by_encoder(cold.encoder)
    if of_users is None and text_embeddings is not None:
        made_by = escape(str(text_embeddings.manifest.get("encoder", "unknown")))
        output.say(
            f"[yellow]similar users are not shown: the users' text vectors are by {made_by}, that of this text is by "
            f"{escape(cold.encoder)}[/]"
        )
    similar = None if of_users is None else (vector, of_users.users)
    return _show_list(recommender, dataset, ids, scores, similar, output)


def _fulfilling(recommender: Recommender, dataset: Dataset, where: str | None) -> list[RawId] | None:
    """Return the ids of the items that fulfil a condition; None without one."""
    import numpy as np

    from rlmrec.recommend.lists import Lists, Rules

    if where is None:
        return None
    lists = Lists(recommender, dataset)
    lists.check_some_left(Rules(where))
    return [recommender.item_ids.id(row) for row in np.flatnonzero(lists.matching(where)).tolist()]


def _show_list(
    recommender: Recommender,
    dataset: Dataset,
    ids: np.ndarray,
    scores: Float32Array,
    similar: tuple[Float32Array, Float32Array] | None,
    output: Output,
) -> list[dict[str, Any]]:
    """Print and return a list of items.

    Args:
        recommender: that recommends them.
        dataset: has their titles.
        ids: raw ids of the items.
        scores: their scores; those that are not finite are left out.
        similar: the text vectors of the new user and of all users, to show which similar users have an item.
        output: where to print.
    """
    import numpy as np

    from rlmrec.data.metadata import item_labels, user_labels
    from rlmrec.recommend.similar import similar_holders

    titles = item_labels(dataset)
    answer: list[dict[str, Any]] = [
        {"id": raw, "score": float(score), "title": titles[dataset.items.row(raw)]}
        for raw, score in zip(ids.tolist(), scores.tolist(), strict=True)
        if math.isfinite(score)
    ]
    shown = [[str(row["id"]), str(row["title"]), f"{row['score']:.3f}"] for row in answer]
    columns = ["id", "item", "score"]
    if similar is not None and answer:
        rows = np.array([dataset.items.row(row["id"]) for row in answer], np.int64)
        names = user_labels(dataset)
        found = similar_holders(*similar, recommender, rows)
        for row, cells, holders in zip(answer, shown, found, strict=True):
            row["similar_users"] = holders.n
            cells[2:2] = [
                f"{holders.n}" + ": " * bool(holders.n) + ", ".join(names[user] for user in holders.nearest)
            ]
        columns[2:2] = [f"of {found[0].of} similar users"]
    output.table("recommended", columns, shown, text_columns=len(columns) - 1)
    return answer


def _told_apart(rows: list[dict[str, Any]]) -> list[str]:
    """Return the cosines of rows with three digits, or with as many up to nine as tell different ones apart."""
    cosines = [float(row["cosine"]) for row in rows]
    for digits in range(3, 10):
        shown = [f"{cosine:.{digits}f}" for cosine in cosines]
        if len(set(shown)) == len(set(cosines)):
            break
    return shown


def _refuse_empty(option: str, value: str | None) -> None:
    if value is not None and not value.strip():
        expected = "ids of items, separated by commas" if option == "--likes" else "a description"
        raise ConfigError(f"{option} is empty: expected {expected}")


def _opened(place: Workspace, run: str) -> tuple[Dataset, Recommender, TextModel]:
    from rlmrec.recommend.open import open_cold_start, open_recommender

    dataset = place.dataset()
    recommender = open_recommender(place, run, dataset)
    try:
        return dataset, recommender, open_cold_start(place, run, recommender)
    except WorkspaceError as error:
        raise WorkspaceError(f"{error} (-w {quote(str(place.path))} --run {quote(run)})") from None


def _encoded(
    place: Workspace,
    cold: TextModel,
    text: str,
    encoder_name: str | None,
    base_url: str | None,
    key_env: str,
    output: Output,
) -> tuple[Float32Array, str | None]:
    """Return the vector of a text, and what was said of it if it has no known word."""
    from rlmrec.text.encoder import checked, unknown_words
    from rlmrec.text.registry import encoder_of

    encoder = encoder_of(cold.manifest, encoder_name, place.encoders_path, base_url, key_env)
    vector = checked(encoder.name, encoder.encode([text]), 1, cold.size)[0]
    note = unknown_words(vector)
    if note is not None:
        output.say(f"[yellow]{note}[/]")
    return vector, note
