"""Routes about items: details and similar items."""

from __future__ import annotations

from fastapi import APIRouter, Response

from rlmrec.server import schemas
from rlmrec.server.context import CatalogueDependency, ItemId, KQuery
from rlmrec.server.responses import UNKNOWN, answer

router = APIRouter(prefix="/v1/items", tags=["items"], responses=UNKNOWN)


# Before the route below, whose path matches this one too.
@router.get("/{item_id:path}/similar", response_model=schemas.SimilarItems)
def similar(item: ItemId, catalogue: CatalogueDependency, k: KQuery = 10) -> Response:
    """Return the items with the highest cosine to an item."""
    return answer(catalogue.similar(item, k))


@router.get("/{item_id:path}", response_model=schemas.Item)
def details(item: ItemId, catalogue: CatalogueDependency) -> Response:
    """Return an item's title, text and profile."""
    return answer(catalogue.item(item))
