"""Context: what the routes of one worker share, and the dependencies that give routes their part of it.

The dependencies are coroutines: FastAPI would run plain functions in a thread, which costs more than they do.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, cast
from urllib.parse import unquote

from fastapi import Depends, Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from rlmrec.data.vocabulary import RawId, Vocabulary
from rlmrec.errors import RlmrecError, UnknownIdError
from rlmrec.recommend.lists import Rules
from rlmrec.server import schemas
from rlmrec.server.catalogue import Catalogue
from rlmrec.server.middleware import Metrics, decode_path_part
from rlmrec.server.responses import FieldError
from rlmrec.server.service import Service
from rlmrec.types import Float32Array


class Context:
    """The shared state of one worker's routes.

    Args:
        service: answers and changes.
        token: bearer token of the guarded routes; None refuses them.
        metrics: counts reloads and is shown at /metrics.
        texts: texts that may wait for the encoder at once.
    """

    def __init__(self, service: Service, token: str | None, metrics: Metrics, texts: int = 8) -> None:
        self.service = service
        self.token = token
        self.metrics = metrics
        # The first text loads the encoder, which takes seconds: texts wait for each other in a thread of their
        # own instead of taking the threads of the other requests.
        self.text_thread = ThreadPoolExecutor(1, "rlmrec-texts")
        self._free_texts = texts

    async def encode(self, text: str, catalogue: Catalogue) -> Float32Array:
        """Return the vector float32[d_s] of a text for the cold-start model of a catalogue.

        Raises:
            HTTPException: 503, other texts are waiting.
        """
        if self._free_texts <= 0:
            self.metrics.refused.inc()
            raise HTTPException(503, "too many texts at once: try again later", {"Retry-After": "1"})
        self._free_texts -= 1
        try:
            loop, cold = asyncio.get_running_loop(), catalogue.cold_start()
            return await loop.run_in_executor(self.text_thread, self.service.encode, text, cold)
        finally:
            self._free_texts += 1

    def reload(self) -> schemas.Health:
        """Load the run again in all workers and count the outcome."""
        try:
            catalogue = self.service.reload()
        except RlmrecError:
            self.metrics.reloads.labels("failed").inc()
            raise
        self.metrics.reloads.labels("done").inc()
        return self.health(catalogue)

    def health(self, catalogue: Catalogue) -> schemas.Health:
        """Return the names and sizes of what is served."""
        service = self.service
        return catalogue.health(self.token is not None, service.texts, service.runs is not None)


async def _context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


ContextDependency = Annotated[Context, Depends(_context)]


async def _served(context: ContextDependency) -> Catalogue:
    return context.service.catalogue


async def _catalogue(
    context: ContextDependency,
    run: Annotated[
        str | None,
        Query(max_length=200, description="Another finished run of the workspace; /v1/runs lists them."),
    ] = None,
) -> Catalogue:
    if run is None:
        return context.service.catalogue
    return await run_in_threadpool(context.service.of_run, run)


# A request uses one catalogue from beginning to end, even if a reload replaces it meanwhile.
ServedDependency = Annotated[Catalogue, Depends(_served)]
CatalogueDependency = Annotated[Catalogue, Depends(_catalogue)]


async def _user_id(user_id: str, catalogue: CatalogueDependency) -> RawId:
    return _id_in_path(catalogue.recommender.user_ids, user_id)


async def _item_id(item_id: str, catalogue: CatalogueDependency) -> RawId:
    return _id_in_path(catalogue.recommender.item_ids, item_id)


async def served_item_id(item_id: str, catalogue: ServedDependency) -> RawId:
    """Return the id in an address of an item of the run that is served."""
    return _id_in_path(catalogue.recommender.item_ids, item_id)


UserId = Annotated[RawId, Depends(_user_id)]
ItemId = Annotated[RawId, Depends(_item_id)]

KQuery = Annotated[int, Query(ge=1, le=schemas.MAX_K, description="Length of the list.")]

_bearer = HTTPBearer(scheme_name="bearer", auto_error=False)


async def require_token(
    context: ContextDependency,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """Refuse a request without the bearer token.

    Raises:
        HTTPException: 403 if the server has no token, 401 if the request has none or a wrong one.
    """
    if context.token is None:
        raise HTTPException(403, "this server was started without a token: nothing can be changed")
    challenge = {"WWW-Authenticate": "Bearer"}
    if given is None:
        raise HTTPException(401, "a bearer token is required", challenge)
    if not hmac.compare_digest(given.credentials.strip().encode("latin-1"), context.token.encode()):
        raise HTTPException(401, "the bearer token is wrong", challenge)


async def known_parameters(request: Request) -> None:
    """Refuse a query parameter that the route does not have, as an unknown field of a body is refused.

    Raises:
        FieldError: such a parameter.
    """
    route = request.scope.get("route")
    if not isinstance(route, APIRoute) or not request.query_params:
        return
    known = list(dict.fromkeys(_query_parameters(route.dependant)))
    for name in request.query_params:
        if name not in known:
            raise FieldError(
                f"query.{name}",
                f"unknown parameter: expected one of {', '.join(known)}" if known else "no parameter",
            )


def _query_parameters(dependant: Dependant) -> Iterator[str]:
    """Yield the names of the query parameters of a route and of what it depends on."""
    for parameter in dependant.query_params:
        yield parameter.alias
    for inner in dependant.dependencies:
        yield from _query_parameters(inner)


def parse_caps(texts: Sequence[str], place: str) -> dict[str, int]:
    """Convert caps such as "brand:2".

    Args:
        texts: the caps.
        place: of the field, for messages.

    Raises:
        FieldError: one is not a column, a colon and a number of at least 1.
    """
    caps = {}
    for text in texts:
        column, colon, number = text.rpartition(":")
        if (
            not colon
            or not column
            or not number.isascii()
            or not number.isdigit()
            or not 1 <= int(number) <= schemas.MAX_K
        ):
            raise FieldError(
                place, f"expected a column and a number from 1 to {schemas.MAX_K} such as brand:2"
            )
        caps[column] = int(number)
    return caps


def check_rules(catalogue: Catalogue, rules: Rules, place: str) -> None:
    """Refuse rules that do not fit to the items.

    Args:
        catalogue: has the items.
        rules: of a request.
        place: "query" or "body".

    Raises:
        FieldError: the first such rule.
    """
    wrong = catalogue.lists.wrong_rule(rules)
    if wrong is not None:
        name, error = wrong
        field = {"where": "filter", "bought_where": "bought_filter"}.get(name, name)
        raise FieldError(f"{place}.{field}", str(error))


def parse_id(vocabulary: Vocabulary, text: str) -> RawId:
    """Convert an id from an address to the type of the dataset's ids.

    Raises:
        UnknownIdError: the text cannot be an id. Whether the id exists is checked where it is used.
    """
    raw = vocabulary.parse(text)
    if raw is None:
        raise UnknownIdError(
            f"unknown {vocabulary.kind} {text!r}: {vocabulary.kind} ids of this dataset are integers"
        )
    return raw


def _id_in_path(vocabulary: Vocabulary, part: str) -> RawId:
    text = decode_path_part(part)
    # Clients resolve the parts "." and ".." of an address unless they are encoded twice.
    if text.lower() in ("%2e", "%2e%2e") and text not in vocabulary:
        text = unquote(text)
    return parse_id(vocabulary, text)
