"""Routes to operate the server: reload, health, metrics, and the pages."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Depends, Response
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from rlmrec.server import schemas
from rlmrec.server.context import ContextDependency, ServedDependency, require_token
from rlmrec.server.responses import GUARDED, answer

WEB = Path(__file__).parents[1] / "web"

router = APIRouter(tags=["server"])


@router.post(
    "/v1/reload",
    response_model=schemas.Health,
    dependencies=[Depends(require_token)],
    responses=GUARDED,
)
async def reload_run(context: ContextDependency) -> Response:
    """Load the run again in all workers. Requests in progress finish with the catalogue they started with."""
    return answer(await run_in_threadpool(context.reload))


@router.get("/healthz", response_model=schemas.Health)
async def health(context: ContextDependency, catalogue: ServedDependency) -> Response:
    """Return the name and size of the run that is served."""
    return answer(context.health(catalogue))


@router.get("/readyz", response_model=schemas.Readiness, responses={503: {"model": schemas.Readiness}})
async def readiness(context: ContextDependency) -> Response:
    """Return whether texts are answered at once: 503 while the text encoder is being loaded.

    Everything else is answered meanwhile.
    """
    texts = context.service.texts
    return answer(schemas.Readiness(texts=texts), 503 if texts == "loading" else 200)


@router.get("/v1/runs", response_model=schemas.RunList)
def runs(context: ContextDependency) -> Response:
    """List the finished runs that other requests may name; none of a server of the published run."""
    service = context.service
    return answer(schemas.RunList(runs=[] if service.runs is None else service.runs.listed()))


@router.get("/metrics", response_class=Response)
def metrics(context: ContextDependency, catalogue: ServedDependency) -> Response:
    """Return metrics in the text format of Prometheus."""
    return Response(context.metrics.text(catalogue), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", include_in_schema=False)
async def explorer() -> Response:
    """Return the explorer page."""
    return FileResponse(WEB / "index.html")


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """Return the page that lists the routes."""
    return FileResponse(WEB / "docs.html")
