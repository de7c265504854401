"""Routes about items: details and similar items."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from rlmrec.recommend.lists import Rules
from rlmrec.server import schemas
from rlmrec.server.context import CatalogueDependency, ItemId, KQuery, check_rules
from rlmrec.server.responses import UNAVAILABLE, UNKNOWN, answer

router = APIRouter(prefix="/v1/items", tags=["items"], responses={**UNKNOWN, **UNAVAILABLE})


@router.get("", response_model=schemas.Items)
def search_items(
    catalogue: CatalogueDependency,
    q: Annotated[str, Query(max_length=200, description="Part of an id, a title, a profile or a text.")] = "",
    limit: Annotated[int, Query(ge=1, le=50)] = 10,
    filter: Annotated[schemas.Condition | None, Query(description=schemas.FILTER)] = None,
) -> Response:
    """Search items; titles and ids that begin with the query come first. Without one: the most popular items."""
    check_rules(catalogue, Rules(filter), "query")
    return answer(catalogue.search_items(q, limit, filter))


@router.post("", response_model=schemas.Items)
def cards(request: schemas.ItemIds, catalogue: CatalogueDependency) -> Response:
    """Return the first words, columns and pictures of items; unknown ids are left out."""
    return answer(catalogue.cards(request.items))


# Before the route below, whose path matches this one too.
@router.get("/{item_id:path}/similar", response_model=schemas.SimilarItems)
def similar(
    item: ItemId,
    catalogue: CatalogueDependency,
    k: KQuery = 10,
    by: Annotated[
        Literal["embedding", "text"], Query(description="What is compared; text: the vectors of the texts.")
    ] = "embedding",
) -> Response:
    """Return the items with the highest cosine to an item."""
    return answer(catalogue.similar(item, k, by))


@router.get("/{item_id:path}/users", response_model=schemas.ItemUsers)
def likely_users(item: ItemId, catalogue: CatalogueDependency, k: KQuery = 10) -> Response:
    """Return the users who do not have an item and would like it most."""
    return answer(catalogue.likely_users_of(item, k))


@router.get("/{item_id:path}", response_model=schemas.Item)
def details(item: ItemId, catalogue: CatalogueDependency) -> Response:
    """Return an item's title, text and profile."""
    return answer(catalogue.item(item))
