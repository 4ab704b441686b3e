"""Converts errors to HTTP responses with problem details (RFC 9457).

These are JSON with `type`, `title`, `status`, `detail` and `code`.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request
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

    *detail* says what is wrong for people, *code* for programs. *headers* are added to the response, *more* are further
    members of its document.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: object,
    ) -> None:
        super().__init__(detail)
        self._status = status
        self._detail = detail
        self._code = {} if code is None else {"code": code}
        self._headers = headers
        self._more = more

    def response(self) -> JSONResponse:
        """Return the HTTP response to the refused request, with the problem details as JSON."""
        title = HTTPStatus(self._status).phrase
        members = {"type": "about:blank", "title": title, "status": self._status, "detail": self._detail}
        content = {**members, **self._code, **self._more}
        return JSONResponse(content, self._status, headers=self._headers, media_type=MEDIA_TYPE)


def _on_problem(_request: Request, error: Problem) -> JSONResponse:
    return error.response()


def _on_http(_request: Request, error: HTTPException) -> JSONResponse:
    return Problem(error.status_code, str(error.detail), headers=error.headers).response()


def _on_invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    words = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, words, code="invalid").response()


def _on_bug(_request: Request, _error: Exception) -> JSONResponse:
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "an error of the front; its log has it").response()


def _on_away(_request: Request, error: Exception) -> JSONResponse:
    words = f"{'Redis' if isinstance(error, RedisError) else 'PostgreSQL'} does not answer"
    if isinstance(error, PoolTimeout):
        words = "all of the front's connections to PostgreSQL are in use"
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, words, headers={"Retry-After": "2"}).response()


def _on_unfit(_request: Request, error: DataFault) -> JSONResponse:
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(error), code="invalid").response()


HANDLERS: dict[Any, Any] = {
    Problem: _on_problem,
    HTTPException: _on_http,
    RequestValidationError: _on_invalid,
    Exception: _on_bug,
    DataFault: _on_unfit,  # a text with a NUL, say, that nothing in the database can be equal to
    **dict.fromkeys((Unavailable, PoolTimeout, StatementTimeout, RedisError), _on_away),
}
"""FastAPI's exception handlers: every error is answered with problem details."""
