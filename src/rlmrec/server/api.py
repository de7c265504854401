"""The HTTP interface: FastAPI over a Service, and the explorer page."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hmac
import json
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import anyio.to_thread
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from rlmrec import __version__
from rlmrec.data.vocabulary import RawId, Vocabulary
from rlmrec.errors import ConfigError, DataError, LLMError, RlmrecError, UnknownIdError, WorkspaceError
from rlmrec.server import schemas
from rlmrec.server.middleware import Gate, Limits, Metrics, decode_path_part
from rlmrec.server.service import Service

logger = logging.getLogger("rlmrec.server")

WEB = Path(__file__).parent / "web"
THREADS = 4  # that answer; more of them only wait for the interpreter lock
FOLLOW_SECONDS = 0.5
# The lock's default of 5 ms is what the loop would wait for while a thread computes; at 200 requests/s that is
# most of the 99th percentile.
SWITCH_SECONDS = 0.0005

K = Annotated[int, Query(ge=1, le=schemas.MOST_K, description="How many.")]
# An LLMError here is an endpoint of text vectors that does not answer.
STATUS = {UnknownIdError: 404, ConfigError: 422, WorkspaceError: 409, DataError: 409, LLMError: 503}


class FieldError(Exception):
    """A field whose value only the data can judge.

    Args:
        field: as in ``schemas.FieldProblem``.
        message: what is wrong.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def create_app(service: Service, token: str | None = None, limits: Limits | None = None) -> FastAPI:
    """The application; give it to any ASGI server, a process each.

    Args:
        service: what answers.
        token: bearer token for /v1/cold/items and /v1/reload; None refuses these.
        limits: bounds of requests.

    Example:
        >>> app = create_app(Service(load, ColdItems(path), lambda cold: LocalEncoder()), token=os.environ["TOKEN"])
        >>> uvicorn.run(app, host="127.0.0.1", port=8000)
    """
    metrics = Metrics()
    # One text at a time, and not in the threads of those that need none: the first one loads the encoder.
    texts = ThreadPoolExecutor(1, "rlmrec-texts")

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        usual = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        gc.collect()
        gc.freeze()  # what is loaded stays: the collector need not look through it
        tasks = {asyncio.create_task(follow())}
        loop = asyncio.get_running_loop()
        main = threading.current_thread() is threading.main_thread()  # the only one that may handle signals
        hangup = getattr(signal, "SIGHUP", None) if main else None  # Windows has no such signal

        def hang_up() -> None:
            task = loop.create_task(reload_quietly())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        if hangup is not None:
            loop.add_signal_handler(hangup, hang_up)
        try:
            yield
        finally:
            if hangup is not None:
                loop.remove_signal_handler(hangup)
            for task in tasks:
                task.cancel()
            texts.shutdown(wait=False, cancel_futures=True)
            gc.unfreeze()
            sys.setswitchinterval(usual)

    async def follow() -> None:
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                await run_in_threadpool(service.follow)
            except RlmrecError as error:
                logger.error("another process's change was not taken over: %s", error)
            except (
                Exception
            ):  # a defect; but a worker that follows no more would answer from old data for ever
                logger.exception("another process's change was not taken over")

    async def reload_quietly() -> None:
        try:
            await run_in_threadpool(reload)
        except RlmrecError as error:
            logger.error("reload failed, the run in force stays: %s", error)

    def reload() -> schemas.Health:
        try:
            catalogue = service.reload()
        except RlmrecError:
            metrics.reloads.labels("failed").inc()
            raise
        metrics.reloads.labels("done").inc()
        return catalogue.health(token is not None)

    async def encoded(text: str) -> Any:
        return await asyncio.get_running_loop().run_in_executor(texts, service.encode, text)

    async def guarded(request: Request) -> None:
        if token is None:
            raise HTTPException(403, "this server was started without a token: nothing can be changed")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})
        if not hmac.compare_digest(given.strip().encode("latin-1"), token.encode()):
            raise HTTPException(401, "the bearer token is wrong", {"WWW-Authenticate": "Bearer"})

    app = FastAPI(
        title="rlmrec",
        version=__version__,
        description="Recommendations that understand text. Scores are dot products, lists best first.",
        lifespan=lifespan,
        docs_url=None,  # theirs comes from a CDN; ours is /docs below
        redoc_url=None,
        redirect_slashes=False,
        responses={
            code: {"model": schemas.Problem, "description": what}
            for code, what in (
                (400, "not JSON"),
                (408, "the body came too slowly"),
                (413, "the body is too large"),
                (422, "a field has no valid value"),
                (
                    503,
                    "too many requests at once (Retry-After), or no answer from the text encoder's endpoint",
                ),
            )
        },
    )
    app.add_middleware(Gate, limits=limits or Limits(), metrics=metrics)
    _handle_errors(app)
    unknown: dict[int | str, dict[str, Any]] = {404: _problem("no such id")}
    unready: dict[int | str, dict[str, Any]] = {409: _problem("what it needs is not there")}
    closed: dict[int | str, dict[str, Any]] = {
        401: _problem("the token is missing or wrong"),
        403: _problem("no token is configured"),
        409: _problem("the id is taken, or the run cannot read texts"),
    }
    guard: dict[str, Any] = {
        "dependencies": [Depends(guarded)],
        "openapi_extra": {"security": [{"bearer": []}]},
    }

    # -- lists -----------------------------------------------------------------------------------------

    @app.get("/v1/users", response_model=schemas.Users, tags=["users"])
    def search_users(
        q: Annotated[str, Query(max_length=200, description="Part of an id or of the user's text.")] = "",
        limit: Annotated[int, Query(ge=1, le=50)] = 10,
    ) -> Response:
        """Users to choose from; those whose id begins so first."""
        return _json(service.catalogue.search_users(q, limit))

    @app.get(
        "/v1/users/{user_id:path}/recommendations", response_model=schemas.Recommendations,
        responses=unknown, tags=["users"],
    )  # fmt: skip
    def recommendations(user_id: str, k: K = 20, exclude_seen: bool = True) -> Response:
        """The items of highest score for a user, what they had in training left out unless told otherwise."""
        catalogue = service.catalogue
        user = _addressed(catalogue.recommender.user_ids, user_id)
        return _json(catalogue.recommendations(user, k, exclude_seen))

    @app.get(
        "/v1/users/{user_id:path}/comparison", response_model=schemas.Comparison,
        responses={**unknown, **unready}, tags=["users"],
    )  # fmt: skip
    def comparison(user_id: str, k: K = 20) -> Response:
        """This run's list beside the base run's, and where the base run has each item."""
        catalogue = service.catalogue
        return _json(catalogue.comparison(_addressed(catalogue.recommender.user_ids, user_id), k))

    @app.get(
        "/v1/users/{user_id:path}/profile", response_model=schemas.UserProfile,
        responses=unknown, tags=["users"],
    )  # fmt: skip
    def profile(user_id: str) -> Response:
        """A user's training items, profile and the reasoning behind it."""
        catalogue = service.catalogue
        return _json(catalogue.user_profile(_addressed(catalogue.recommender.user_ids, user_id)))

    @app.post("/v1/recommendations", response_model=schemas.Batch, responses=unknown, tags=["users"])
    def batch(request: schemas.BatchRequest) -> Response:
        """The lists of several users at once."""
        return _json(service.catalogue.batch(request))

    @app.get("/v1/explanations", response_model=schemas.ExplanationAnswer, responses=unknown, tags=["users"])
    def explanations(
        user: Annotated[str, Query(max_length=schemas.ID_LENGTH)],
        item: Annotated[str, Query(max_length=schemas.ID_LENGTH)],
        k: Annotated[int, Query(ge=1, le=schemas.MOST_K, description="Reasons at most.")] = 3,
    ) -> Response:
        """Why an item is recommended to a user: the training items that its score rests on."""
        catalogue = service.catalogue
        ids = catalogue.recommender.user_ids, catalogue.recommender.item_ids
        return _json(catalogue.explanation(_id(ids[0], user), _id(ids[1], item), k))

    # -- items -----------------------------------------------------------------------------------------

    @app.get(
        "/v1/items/{item_id:path}/similar", response_model=schemas.SimilarItems,
        responses=unknown, tags=["items"],
    )  # fmt: skip
    def similar(item_id: str, k: K = 10) -> Response:
        """The nearest items by cosine."""
        catalogue = service.catalogue
        return _json(catalogue.similar(_addressed(catalogue.recommender.item_ids, item_id), k))

    @app.get("/v1/items/{item_id:path}", response_model=schemas.Item, responses=unknown, tags=["items"])
    def item(item_id: str) -> Response:
        """What is known of an item."""
        catalogue = service.catalogue
        return _json(catalogue.item(_addressed(catalogue.recommender.item_ids, item_id)))

    # -- cold start ------------------------------------------------------------------------------------

    @app.get(
        "/v1/cold/items", response_model=schemas.ColdItemList, responses=closed, tags=["cold start"], **guard
    )
    def cold_items() -> Response:
        """All items that were added by text."""
        return _json(schemas.ColdItemList(items=[_cold_item(item) for item in service.store.all()]))

    @app.post(
        "/v1/cold/items", response_model=schemas.ColdItemAnswer, status_code=201, responses=closed,
        tags=["cold start"], **guard,
    )  # fmt: skip
    async def add_item(request: schemas.NewItem) -> Response:
        """Add an item by its text: from now on, restarts included, it is recommended like any other."""
        ids = service.catalogue.recommender.item_ids
        if isinstance(request.id, str) != ids.is_text:
            raise FieldError("body.id", f"item ids are {'text' if ids.is_text else 'integers'} here")
        vector = await encoded(request.text)
        added = await run_in_threadpool(service.add, request.id, request.text, request.title, vector)
        return _json(_cold_item(added), 201)

    @app.delete(
        "/v1/cold/items/{item_id:path}", status_code=204, response_class=Response,
        responses={**closed, **unknown}, tags=["cold start"], **guard,
    )  # fmt: skip
    def remove_item(item_id: str) -> Response:
        """Remove an item that was added by text."""
        service.remove(_addressed(service.catalogue.recommender.item_ids, item_id))
        return Response(status_code=204)

    @app.post("/v1/cold/items/preview", response_model=schemas.Likers, responses=unready, tags=["cold start"])
    async def preview_item(request: schemas.ItemText) -> Response:
        """Who would like an item that nobody has met, and what it is like. Nothing is stored."""
        vector = await encoded(request.text)
        return _json(await run_in_threadpool(service.catalogue.likers, vector, request.k))

    @app.post(
        "/v1/cold/users",
        response_model=schemas.ColdUser,
        responses={**unknown, **unready},
        tags=["cold start"],
    )
    async def cold_user(request: schemas.NewUser) -> Response:
        """Recommendations for someone new, from their taste in words or from items they like."""
        if request.items is not None:
            return _json(await run_in_threadpool(service.catalogue.for_liked, request.items, request.k))
        vector = await encoded(str(request.text))
        return _json(await run_in_threadpool(service.catalogue.for_taste, vector, request.k))

    # -- running it ------------------------------------------------------------------------------------

    @app.post("/v1/reload", response_model=schemas.Health, responses=closed, tags=["server"], **guard)
    async def reload_run() -> Response:
        """Read the run again, in all workers. Requests under way end with what they began with."""
        return _json(await run_in_threadpool(reload))

    @app.get("/healthz", response_model=schemas.Health, tags=["server"])
    async def health() -> Response:
        """What is being served."""
        return _json(service.catalogue.health(token is not None))

    @app.get("/metrics", response_class=Response, tags=["server"])
    def figures() -> Response:
        """Figures in Prometheus' text format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def explorer() -> Response:
        return FileResponse(WEB / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(WEB / "docs.html")

    app.mount("/web", StaticFiles(directory=WEB))
    _declare_bearer(app)
    return app


def _id(vocabulary: Vocabulary, text: str) -> RawId:
    """An id from an address, in the type of the dataset's.

    Raises:
        UnknownIdError: there can be no such id; whether there is one is found out where it is used.
    """
    raw = vocabulary.parse(text)
    if raw is None:
        raise UnknownIdError(f"unknown {vocabulary.kind} {text!r}: {vocabulary.kind} ids are integers here")
    return raw


def _addressed(vocabulary: Vocabulary, part: str) -> RawId:
    """``_id`` of a part of an address.

    Browsers resolve the parts "." and ".." however they are encoded, unless twice.
    """
    text = decode_path_part(part)
    if text.lower() in ("%2e", "%2e%2e") and text not in vocabulary:
        text = unquote(text)
    return _id(vocabulary, text)


def _json(answer: BaseModel, status: int = 200) -> Response:
    # Rendered where it was made: FastAPI would check it against its own model once more, on the loop.
    return Response(answer.model_dump_json(), status, media_type="application/json")


def _cold_item(item: Any) -> schemas.ColdItemAnswer:
    return schemas.ColdItemAnswer(id=item.id, title=item.title, text=item.text)


def _problem(description: str) -> dict[str, Any]:
    return {"model": schemas.Problem, "description": description}


def _refusal(
    status: int, error: str, fields: list[dict[str, str]] | None = None, headers: Any = None
) -> Response:
    # ASCII: what was sent may hold half a surrogate pair, which is no UTF-8.
    body = json.dumps({"error": error, "fields": fields or []})
    return Response(body, status, headers, "application/json")


def _handle_errors(app: FastAPI) -> None:
    def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # what it is registered for
        fields = [
            {"field": ".".join(map(str, problem["loc"])), "message": problem["msg"]}
            for problem in error.errors()
        ]
        return _refusal(422, "a field has no valid value", fields)

    def field(_: Request, error: Exception) -> Response:
        assert isinstance(error, FieldError)
        return _refusal(422, "a field has no valid value", [{"field": error.field, "message": str(error)}])

    def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _refusal(error.status_code, error.detail, headers=error.headers)

    def ours(status: int) -> Callable[[Request, Exception], Response]:
        return lambda _, error: _refusal(status, str(error))

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(FieldError, field)
    app.add_exception_handler(HTTPException, http)
    for kind, status in STATUS.items():
        app.add_exception_handler(kind, ours(status))


def _declare_bearer(app: FastAPI) -> None:
    """The document names the security scheme that guarded operations refer to."""
    made = app.openapi

    def document() -> dict[str, Any]:
        described = made()
        schemes = described.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["bearer"] = {"type": "http", "scheme": "bearer"}
        return described

    app.openapi = document  # type: ignore[method-assign]
