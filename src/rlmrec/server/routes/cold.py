"""Routes about cold start: items added by text, previews, and recommendations for new users."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from starlette.concurrency import run_in_threadpool

from rlmrec.data.vocabulary import RawId
from rlmrec.recommend.lists import Rules
from rlmrec.server import schemas
from rlmrec.server.added_items import AddedItem
from rlmrec.server.context import (
    CatalogueDependency,
    ContextDependency,
    ServedDependency,
    check_rules,
    require_token,
    served_item_id,
)
from rlmrec.server.new_users import new_user_answer
from rlmrec.server.responses import GUARDED, UNAVAILABLE, UNKNOWN, FieldError, answer
from rlmrec.text.encoder import unknown_words

# Two routers side by side: the metrics take a route's path from it, and within another router it would be a part only.
PLACE: dict[str, Any] = {"prefix": "/v1/cold", "tags": ["cold start"]}
guarded = APIRouter(**PLACE, dependencies=[Depends(require_token)], responses=GUARDED)
router = APIRouter(**PLACE)


def _described(item: AddedItem) -> schemas.AddedItemAnswer:
    return schemas.AddedItemAnswer(
        id=item.id, title=item.title, text=item.text, note=unknown_words(item.vector)
    )


@guarded.get("/items", response_model=schemas.AddedItemList)
def added_items(context: ContextDependency) -> Response:
    """List all items that were added by text."""
    return answer(schemas.AddedItemList(items=[_described(item) for item in context.service.store.all()]))


@guarded.post("/items", response_model=schemas.AddedItemAnswer, status_code=201)
async def add_item(
    request: schemas.NewItem, context: ContextDependency, catalogue: ServedDependency
) -> Response:
    """Add an item by its text. It is stored and from then on recommended like any other item."""
    ids = catalogue.recommender.item_ids
    raw = ids.given(request.id)
    if isinstance(raw, str) != ids.is_text:
        raise FieldError("body.id", f"item ids of this dataset are {'text' if ids.is_text else 'integers'}")
    vector = await context.encode(request.text, catalogue)
    added = await run_in_threadpool(context.service.add, raw, request.text, request.title, vector)
    return answer(_described(added), 201)


@guarded.delete("/items/{item_id:path}", status_code=204, response_class=Response, responses=UNKNOWN)
def remove_item(item: Annotated[RawId, Depends(served_item_id)], context: ContextDependency) -> Response:
    """Remove an item that was added by text."""
    context.service.remove(item)
    return Response(status_code=204)


@router.post("/items/preview", response_model=schemas.LikelyUsers, responses={**UNKNOWN, **UNAVAILABLE})
async def preview_item(
    request: schemas.ItemText, context: ContextDependency, catalogue: CatalogueDependency
) -> Response:
    """Return the likely users of a new item and similar items. Nothing is stored."""
    vector = await context.encode(request.text, catalogue)
    return answer(await run_in_threadpool(catalogue.likely_users, vector, request.k))


@router.post("/users", response_model=schemas.NewUserAnswer, responses={**UNKNOWN, **UNAVAILABLE})
async def new_user(
    request: schemas.NewUser, context: ContextDependency, catalogue: CatalogueDependency
) -> Response:
    """Recommend to a new user, from a description of their taste, items they like, or both."""
    await run_in_threadpool(check_rules, catalogue, Rules(request.filter), "body")
    vector = None if request.text is None else await context.encode(request.text, catalogue)
    return answer(await run_in_threadpool(new_user_answer, catalogue, request, vector))
