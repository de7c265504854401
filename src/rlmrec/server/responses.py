"""Answers and refusals: JSON responses, their descriptions in OpenAPI, and the status of each error."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from rlmrec.errors import (
    ConfigError,
    DataError,
    LLMError,
    UnavailableError,
    UnknownIdError,
    WorkspaceError,
    did_you_mean,
    wrong_value,
)
from rlmrec.server import schemas

Responses = dict[int | str, dict[str, Any]]

# An LLMError of a server comes from an embeddings endpoint that does not answer.
STATUS = {
    UnknownIdError: 404, ConfigError: 422, WorkspaceError: 409, DataError: 409, LLMError: 503, UnavailableError: 503,
}  # fmt: skip


def described(descriptions: dict[int, str]) -> Responses:
    """Describe refusals for OpenAPI."""
    return {code: {"model": schemas.Problem, "description": text} for code, text in descriptions.items()}


COMMON = described(
    {
        400: "not JSON",
        408: "the body arrived too slowly",
        413: "the body is too large",
        421: "the Host header names a host that is not allowed",
        422: "a field has an invalid value",
        503: "too many requests at once (see Retry-After), or the text encoder's endpoint or the database of added "
        "items does not answer",
    }
)
UNKNOWN = described({404: "no such id or run"})
UNAVAILABLE = described({409: "something that the route needs is not available, such as a cold-start model"})
GUARDED = described(
    {
        401: "the token is missing or wrong",
        403: "the server has no token",
        409: "the id exists, or the run has no cold-start model",
    }
)


class FieldError(Exception):
    """A field whose value is invalid for this dataset.

    Args:
        field: as in ``schemas.FieldProblem``.
        message: the problem.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def answer(model: BaseModel, status: int = 200) -> Response:
    """Render an answer as JSON.

    It is rendered in the thread that computed it: FastAPI would validate it again, in the event loop.
    """
    return Response(model.model_dump_json(), status, media_type="application/json")


def refusal(
    status: int, error: str, fields: list[dict[str, str]] | None = None, headers: Any = None
) -> Response:
    """Render a refusal as JSON."""
    # ASCII, since an id that was sent may contain half a surrogate pair, which UTF-8 cannot encode.
    body = json.dumps({"error": error, "fields": fields or []})
    return Response(body, status, headers, "application/json")


def handle_errors(app: FastAPI) -> None:
    """Make an application answer errors with refusals."""

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        fields = [_described(problem, request) for problem in error.errors()]
        return refusal(422, "a field has an invalid value", fields)

    def field(_: Request, error: Exception) -> Response:
        assert isinstance(error, FieldError)
        return refusal(422, "a field has an invalid value", [{"field": error.field, "message": str(error)}])

    def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return refusal(error.status_code, error.detail, headers=error.headers)

    def ours(status: int) -> Callable[[Request, Exception], Response]:
        return lambda _, error: refusal(status, str(error))

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(FieldError, field)
    app.add_exception_handler(HTTPException, http)
    for kind, status in STATUS.items():
        app.add_exception_handler(kind, ours(status))


def _described(problem: Any, request: Request) -> dict[str, str]:
    """Name the field of a problem, what was got and what is expected."""
    place, message = problem["loc"], wrong_value(problem)
    if problem["type"] == "json_invalid":
        place, message = (
            place[:1],
            f"got no JSON ({problem['ctx']['error']} at character {place[-1]}), expected an object",
        )
    elif isinstance(problem.get("input"), bytes):
        got = request.headers.get("content-type") or "none"
        message = f"got the Content-Type {got}, expected a JSON object: send Content-Type: application/json"
    elif problem["type"] == "extra_forbidden":
        known = _fields(request)
        name = str(place[-1])
        message = f"unknown field{did_you_mean(name, known)}: expected one of {', '.join(known)}"
    elif problem["type"] == "model_attributes_type":
        message = message.replace("a valid dictionary or object to extract fields from", "a JSON object")
    elif problem["type"] == "missing":
        message = "missing: it is required"
    return {"field": ".".join(map(str, place)), "message": message}


def _fields(request: Request) -> list[str]:
    """Return the names of the fields of a route's body."""
    route = request.scope.get("route")
    bodies = route.dependant.body_params if isinstance(route, APIRoute) else []
    return [name for body in bodies for name in getattr(body.field_info.annotation, "model_fields", {})]
