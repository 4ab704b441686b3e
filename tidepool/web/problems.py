"""Answers errors with problem details (RFC 9457): JSON with `type`, `title`, `status`, `detail` and `code`."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tidepool.pool.faults import DataFault, PoolTimeout, StatementTimeout, Unavailable
from tidepool.queue.faults import RedisError

MEDIA_TYPE = "application/problem+json"
_SCHEMA: dict[str, object] = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "description": "the status in words"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "what is wrong, for people"},
        "code": {"type": "string", "description": "what is wrong, for programs"},
    },
}
PROBLEM_SCHEMA: dict[str, object] = {"content": {MEDIA_TYPE: {"schema": _SCHEMA}}}
"""How the OpenAPI description says that a response is a problem."""
RESPONSES: dict[int | str, dict[str, object]] = {
    "4XX": {"description": "The request is at fault; `code`, where there is one, says how", **PROBLEM_SCHEMA},
    "5XX": {"description": "The service is at fault; 503: a server is away, try again", **PROBLEM_SCHEMA},
}
"""What every route may answer."""


class Problem(Exception):
    """Raised in a route to refuse a request. The response is problem details with *status*, *detail* and *code*.

    *detail* says what is wrong for people, *code* for programs.
    """

    def __init__(self, status: HTTPStatus, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code


def problem(
    status: int, detail: str, *, code: str | None = None, headers: dict[str, str] | None = None, **more: object
) -> JSONResponse:
    """Return a response with problem details. *code* is for programs; *more* are further members of the document."""
    members = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if code is not None:
        members["code"] = code
    return JSONResponse({**members, **more}, status, headers=headers, media_type=MEDIA_TYPE)


def handle_problems(app: FastAPI) -> None:
    """Register error handlers on *app*, so that it answers every error with problem details."""

    def on_problem(_request: Request, error: Problem) -> JSONResponse:
        return problem(error.status, error.detail, code=error.code)

    def on_http(_request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail), headers=dict(error.headers or {}))

    def on_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        words = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, words, code="invalid")

    def on_bug(_request: Request, _error: Exception) -> JSONResponse:
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "an error of the front; its log has it")

    def on_away(_request: Request, error: Exception) -> JSONResponse:
        words = f"{'Redis' if isinstance(error, RedisError) else 'PostgreSQL'} does not answer"
        if isinstance(error, PoolTimeout):
            words = "all of the front's connections to PostgreSQL are in use"
        return problem(HTTPStatus.SERVICE_UNAVAILABLE, words, headers={"Retry-After": "2"})

    def on_unfit(_request: Request, error: DataFault) -> JSONResponse:
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), code="invalid")

    handlers: dict[Any, Any] = {
        Problem: on_problem,
        HTTPException: on_http,
        RequestValidationError: on_invalid,
        Exception: on_bug,
        DataFault: on_unfit,  # a text with a NUL, say, that nothing in the database can be equal to
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    for kind in (Unavailable, PoolTimeout, StatementTimeout, RedisError):
        app.add_exception_handler(kind, on_away)
