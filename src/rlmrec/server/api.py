"""The HTTP API: a FastAPI application over a Service, with the explorer page."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator

import anyio.to_thread
from fastapi import Depends, FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool

from rlmrec import __version__
from rlmrec.errors import RlmrecError
from rlmrec.server.context import Context, known_parameters
from rlmrec.server.middleware import Limits, Metrics, RequestMiddleware
from rlmrec.server.responses import COMMON, handle_errors
from rlmrec.server.routes import admin, cold, items, users
from rlmrec.server.service import TRANSIENT, Service

logger = logging.getLogger("rlmrec.server")

THREADS = 4  # that compute answers; more would only wait for the interpreter lock
FOLLOW_SECONDS = 0.5
# How long the event loop waits for the interpreter lock while a thread computes. The default of 5 ms makes up
# most of the 99th percentile at 200 requests/s.
SWITCH_SECONDS = 0.0005


def create_app(service: Service, token: str | None = None, limits: Limits | None = None) -> FastAPI:
    """Create the application of one worker process, for any ASGI server.

    Args:
        service: answers the requests.
        token: bearer token for /v1/cold/items and /v1/reload; None refuses these routes.
        limits: of requests.

    Example:
        >>> service = Service(load, AddedItems(path), lambda cold: LocalEncoder())
        >>> uvicorn.run(create_app(service, token=os.environ["TOKEN"]), host="127.0.0.1", port=8000)
    """
    metrics, limits = Metrics(), limits or Limits()
    app = FastAPI(
        title="rlmrec",
        version=__version__,
        description="Recommendations that understand text. Scores are dot products; lists are sorted best first.",
        lifespan=_lifespan,
        docs_url=None,  # FastAPI's page loads scripts from a CDN; ours is the route /docs
        redoc_url=None,
        redirect_slashes=False,
        responses=COMMON,
        dependencies=[Depends(known_parameters)],
    )
    app.state.context = Context(service, token, metrics, limits.texts)
    app.add_middleware(RequestMiddleware, limits=limits, metrics=metrics)
    handle_errors(app)
    for router in (users.router, items.router, cold.guarded, cold.router, admin.router):
        app.include_router(router)
    app.mount("/web", StaticFiles(directory=admin.WEB))
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Prepare the process, follow the other workers' changes and handle SIGHUP while the application runs."""
    context: Context = app.state.context
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # the loaded arrays stay, so the garbage collector need not scan them
    loop = asyncio.get_running_loop()
    tasks = {asyncio.create_task(_follow(context)), asyncio.create_task(_warm(context))}

    def hang_up() -> None:
        task = loop.create_task(_reload(context))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    main = threading.current_thread() is threading.main_thread()  # only this thread may handle signals
    signal_number = getattr(signal, "SIGHUP", None) if main else None  # Windows has no such signal
    if signal_number is not None:
        loop.add_signal_handler(signal_number, hang_up)
    try:
        yield
    finally:
        if signal_number is not None:
            loop.remove_signal_handler(signal_number)
        for task in tasks:
            task.cancel()
        context.text_thread.shutdown(wait=False, cancel_futures=True)
        gc.unfreeze()
        sys.setswitchinterval(before)


async def _follow(context: Context) -> None:
    """Apply the changes of other workers, for ever."""
    failing = False
    while True:
        await asyncio.sleep(FOLLOW_SECONDS)
        try:
            await run_in_threadpool(context.service.follow)
            if failing:
                logger.info("other workers' changes are applied again")
            failing = False
        except TRANSIENT as error:
            if not failing:  # said once, not twice a second
                logger.error("other workers' changes are not applied, trying again: %s", error)
            failing = True
        except RlmrecError as error:
            logger.error("another worker's change was not applied: %s", error)
        except Exception:  # a bug must not end the loop: the worker would answer from old data for ever
            logger.exception("another worker's change was not applied")


async def _warm(context: Context) -> None:
    """Load the text encoder after the start, and another one after a reload that needs it."""
    while True:
        try:
            await asyncio.get_running_loop().run_in_executor(context.text_thread, context.service.warm_texts)
        except Exception:
            logger.exception("the text encoder was not loaded")
            return
        context.metrics.texts_ready.set(context.service.texts == "ready")
        await asyncio.sleep(FOLLOW_SECONDS)


async def _reload(context: Context) -> None:
    try:
        await run_in_threadpool(context.reload)
    except RlmrecError as error:
        logger.error("reload failed, the current run stays: %s", error)
