"""Routes about users: search, recommendations, comparison, profile, explanations."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from rlmrec.recommend.lists import Rules
from rlmrec.server import schemas
from rlmrec.server.context import (
    CatalogueDependency,
    ContextDependency,
    KQuery,
    UserId,
    check_rules,
    parse_caps,
    parse_id,
)
from rlmrec.server.responses import UNAVAILABLE, UNKNOWN, answer

router = APIRouter(prefix="/v1", tags=["users"], responses={**UNKNOWN, **UNAVAILABLE})
RawIdQuery = Annotated[str, Query(max_length=schemas.MAX_ID_LENGTH)]


@router.get("/overview", response_model=schemas.Overview)
def overview(catalogue: CatalogueDependency) -> Response:
    """Return users worth a look, the items' columns, and examples of texts: what a page can begin with."""
    return answer(catalogue.overview())


@router.get("/users", response_model=schemas.Users)
def search_users(
    catalogue: CatalogueDependency,
    q: Annotated[str, Query(max_length=200, description="Part of an id or of the user's text.")] = "",
    limit: Annotated[int, Query(ge=1, le=50)] = 10,
) -> Response:
    """Search users by id, text or profile; ids that begin with the query come first."""
    return answer(catalogue.search_users(q, limit))


@router.get("/users/{user_id:path}/recommendations", response_model=schemas.Recommendations)
def recommendations(
    user: UserId,
    context: ContextDependency,
    catalogue: CatalogueDependency,
    k: KQuery = 20,
    exclude_seen: Annotated[bool, Query(description="Leave out what the user is known to have.")] = True,
    filter: Annotated[schemas.Condition | None, Query(description=schemas.FILTER)] = None,
    bought_filter: Annotated[schemas.Condition | None, Query(description=schemas.BOUGHT_FILTER)] = None,
    at_most: Annotated[
        list[Annotated[str, Query(max_length=200)]] | None,
        Query(
            description="Largest number of items with the same value of a column: brand:2; repeat for several."
        ),
    ] = None,
    diversity: Annotated[float, Query(ge=0, le=1, description=schemas.DIVERSITY)] = 0.0,
    fallback: Annotated[bool, Query(description=schemas.FALLBACK)] = True,
) -> Response:
    """Return the items with the highest score for a user, by default without those the user is known to have."""
    rules = Rules(
        filter, None, None, exclude_seen, bought_filter, parse_caps(at_most or [], "query.at_most"), diversity
    )
    check_rules(catalogue, rules, "query")
    found = catalogue.recommendations(user, k, rules, fallback)
    if catalogue.run == context.service.catalogue.run:
        context.metrics.quality.observe([found], catalogue)
    return answer(found)


@router.get(
    "/users/{user_id:path}/comparison",
    response_model=schemas.Comparison,
)
def comparison(
    user: UserId,
    context: ContextDependency,
    catalogue: CatalogueDependency,
    k: KQuery = 20,
    base: Annotated[
        str | None, Query(max_length=200, description="The run to compare with; by default that of --base.")
    ] = None,
    filter: Annotated[schemas.Condition | None, Query(description=schemas.FILTER)] = None,
) -> Response:
    """Return the lists of this run and of the base run, with the place of each item in the base run."""
    other = None if base is None or base == catalogue.base_run else context.service.of_run(base)
    check_rules(catalogue, Rules(filter), "query")
    return answer(catalogue.comparison(user, k, filter, other))


@router.get("/users/{user_id:path}/profile", response_model=schemas.UserProfile)
def profile(user: UserId, catalogue: CatalogueDependency) -> Response:
    """Return a user's training items, profile and the reasoning behind the profile."""
    return answer(catalogue.user_profile(user))


@router.post("/recommendations", response_model=schemas.Batch)
def batch(
    request: schemas.BatchRequest, context: ContextDependency, catalogue: CatalogueDependency
) -> Response:
    """Return recommendations for several users at once."""
    check_rules(catalogue, catalogue.rules_of(request), "body")
    found = catalogue.batch(request)
    if catalogue.run == context.service.catalogue.run:
        context.metrics.quality.observe(found.results, catalogue)
    return answer(found)


@router.get("/explanations", response_model=schemas.ExplanationAnswer)
def explanations(
    catalogue: CatalogueDependency,
    user: RawIdQuery,
    item: RawIdQuery,
    k: Annotated[int, Query(ge=1, le=schemas.MAX_K, description="Maximum number of reasons.")] = 3,
) -> Response:
    """Explain why an item is recommended to a user: the training items that contribute most to its score."""
    ids = catalogue.recommender.user_ids, catalogue.recommender.item_ids
    return answer(catalogue.explanation(parse_id(ids[0], user), parse_id(ids[1], item), k))
