"""rlmrec explain: why an item is recommended to a user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from rlmrec.cli.arguments import (
    DEFAULT_WORKSPACE,
    BaseUrlOption,
    JsonOption,
    KeyEnvOption,
    RunOption,
    WorkspaceOption,
)

if TYPE_CHECKING:
    from rlmrec.recommend.explain import Explanation


def explain(
    run: RunOption,
    user: Annotated[str, typer.Option(help="Id of a user.")],
    item: Annotated[str, typer.Option(help="Id of an item.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    k: Annotated[int, typer.Option("-k", min=1, help="Maximum number of reasons.")] = 3,
    model: Annotated[
        str | None,
        typer.Option(
            help="Language model that writes a sentence; 'local' is the embedded one. None by default."
        ),
    ] = None,
    base_url: BaseUrlOption = None,
    key_env: KeyEnvOption = "OPENAI_API_KEY",
    as_json: JsonOption = False,
) -> None:
    """Explain why an item is recommended to a user: the training items behind its score, profiles, shared words.

    This needs no language model. With `--model`, one writes the facts as a sentence; a sentence that names another
    item is dropped.

    **Example:**  `rlmrec explain -w movies --run con --user 196 --item 50`
    """
    import asyncio

    from rlmrec.cli.ids import parse_ids
    from rlmrec.cli.output import Output
    from rlmrec.recommend.explain import POPULARITY
    from rlmrec.recommend.open import open_explainer
    from rlmrec.workspace import Workspace

    place, output = Workspace(workspace), Output(as_json)
    dataset = place.dataset()
    explainer = open_explainer(place, run, dataset)
    [user_id] = parse_ids(dataset.users, [user])
    [item_id] = parse_ids(dataset.items, [item])
    found = explainer.explain(user_id, item_id, k)
    sentence = None
    if model is not None:
        from rlmrec.llm.base import LLM
        from rlmrec.llm.client import OpenAIChat
        from rlmrec.llm.local import LocalChat

        llm: LLM = (
            LocalChat(field_tokens={"sentence": 60})
            if model == "local"
            else OpenAIChat(model, base_url=base_url, key_env=key_env)
        )
        sentence = asyncio.run(explainer.sentence(found, llm))
    output.table(
        f"{found.title} for user {found.user}" + ", who has it already" * found.seen,
        ["id", "training item", "contribution" if found.exact else "cosine to the item"],
        _rows(found),
        text_columns=2,
    )
    if found.own_parts == (POPULARITY,) and not found.history:
        output.say(
            "this user has no training interaction: the list is what is popular, by the number of users"
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


def _rows(found: Explanation) -> list[list[str]]:
    """Return the rows of the table; those of an exact explanation add up to the score."""
    from rlmrec.recommend.explain import POPULARITY

    rows = [[str(reason.id), reason.title, f"{reason.contribution:.3f}"] for reason in found.because]
    if found.own is None:
        return rows
    n_others = found.history - len(found.because)
    others = f"{found.score - found.own - sum(reason.contribution for reason in found.because):z.3f}"
    if n_others and not (found.is_popular and float(others) == 0):
        rows.append(["", "the other item" if n_others == 1 else f"the other {n_others} items", others])
    if found.own_parts:
        parts = ", ".join(found.own_parts)
        label = parts if found.own_parts == (POPULARITY,) else f"the user ({parts})"
        rows.append(["", label, f"{found.own:z.3f}"])
    return [*rows, ["", "score", f"{found.score:z.3f}"]]
