"""Handles HTTP requests that enqueue a job: each is validated, enqueued, and answered 202.

If the request waits for the job's outcome, the response is this outcome. The body has the fields of the job's command;
the command's model decides what is valid, however a job is enqueued. The description of such a route in OpenAPI is made
from that model, too.

- `Idempotency-Key: order-1` is the job's id, and its identity. The same key again is the same job: nothing is enqueued
  or applied twice. What the first request with a key asked for stands, whatever later ones ask for. The header's bytes
  are UTF-8, so that the id is the same whichever way it comes, and the quotes of `"order-1"` (a structured field) are
  not part of it.
- `Prefer: wait=5` waits for the outcome, at most `MAX_WAIT_S` seconds. The outcome of a job with a key is read from the
  ledger. That of a job with a random id is the result in Redis, a millisecond sooner: only somebody who may write to
  Redis, and reads the id from the queue in time, could forge it, and would deceive this one caller.
"""

import asyncio
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from pydantic_core import from_json, to_json

from tidepool.jobs.job import check_id
from tidepool.jobs.job_type import AnyJobType
from tidepool.jobs.outcomes import Applied, CommonReason, Failed, Outcome, Reason, Rejected
from tidepool.jobs.submission import Submission
from tidepool.web.accepting import Accepting
from tidepool.web.problems import PROBLEM_SCHEMA, Problem
from tidepool.web.routing import job_url
from tidepool.web.services import Services

MAX_WAIT_S = 30.0
"""Seconds that a request may wait for its outcome: less than proxies wait for an answer."""
_UNWATCHED_S = 0.5
"""Seconds of a wait in which nobody checks if the caller has gone: the check costs more than so short a wait."""
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(?=$|[,;])", re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"\\]|\\["\\])*"')
_ESCAPED = re.compile(r'\\(["\\])')
_JSON = "application/json"
_JOB_ID = {"type": "string", "description": "the job's id"}
_JOB_URL = {"type": "string", "description": "where the job and its outcome are read"}
_ACCEPTED: dict[str, object] = {
    "type": "object",
    "required": ["id", "url", "status"],
    "properties": {"id": _JOB_ID, "url": _JOB_URL, "status": {"const": "queued"}},
}
_APPLIED: dict[str, object] = {
    "type": "object",
    "required": ["id", "url", "status", "result"],
    "properties": {
        "id": _JOB_ID,
        "url": _JOB_URL,
        "status": {"const": "applied"},
        "result": {"type": "object", "description": "the ids of what was created or changed"},
    },
}
_HEADERS: list[dict[str, object]] = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Becomes the job's id. The same key again is the same job: nothing is applied twice, and what "
        "the first request with a key asked for stands. Printable characters as UTF-8, spaces only inside, not `.` or "
        "`..`; the quotes of a quoted key are not part of it.",
        "schema": {
            "type": "string",
            "minLength": 1,
            "maxLength": 200,
            "pattern": r"^(?!\.{1,2}$)[!#-~]([ -~]*[!-~])?$",
        },
    },
    {
        "name": "Prefer",
        "in": "header",
        "description": "`wait=5`: answer with the outcome if there is one within so many seconds, at most 30.",
        "schema": {"type": "string"},
        "example": "wait=5",
    },
]


@dataclass(frozen=True, kw_only=True)
class JobRequests:
    """Enqueues jobs for HTTP requests to an application's routes, and makes responses from the outcomes of the jobs.

    The fields say which response an outcome gets.
    """

    places: Mapping[str, str]
    """For fields of results that are row ids, the path under which the row is read: `{"user_id": "/users/"}`."""
    unprocessable: Collection[Reason] = ()
    """Reasons that are answered 422, as an invalid request is; a job rejected for another one is answered 409."""
    alternatives: Collection[tuple[str, str]] = ()
    """Pairs of fields of which a command takes exactly one, for the OpenAPI description."""

    def route(self, job_type: AnyJobType, summary: str, *, named: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return keyword arguments for the FastAPI decorator of a route that accepts jobs of *job_type*.

        *summary* is for the API's description; *named* are the fields that are in the route's path.
        """
        done = HTTPStatus.OK if named else HTTPStatus.CREATED
        waited = "With `Prefer: wait`: the outcome. "
        return {
            "summary": summary,
            "status_code": HTTPStatus.ACCEPTED,
            "response_description": "The job is in the queue (or was, under this key)",
            "responses": {
                202: _json(_ACCEPTED),
                int(done): {"description": f"{waited}Applied", **_json(_APPLIED)},
                409: {"description": f"{waited}A rule said no; `code` names it", **PROBLEM_SCHEMA},
                422: {"description": "Not valid, or names what is not there; `code` says which", **PROBLEM_SCHEMA},
            },
            "openapi_extra": {
                "requestBody": {"required": True, **_json(_body_schema(job_type, named, self.alternatives))},
                "parameters": _HEADERS,
            },
        }

    async def accept(self, request: Request, services: Services, job_type: AnyJobType, **named: int) -> Response:
        """Enqueue a job of *job_type* with the fields in the request's body and *named*, those in its path.

        Returns the response: 202, or the outcome if the request asks to wait for it. Raises `Problem` if the request is
        not valid.
        """
        accepting = services.accepting
        key = _key(request.headers.getlist("idempotency-key"))
        fields = _fields(await request.body(), job_type, named)
        submission = Submission(key or secrets.token_hex(16), job_type.name, fields, identity=True)
        wait_s = _wait_s(request)
        outcome = await accepting.settled(submission.id) if key is not None else None
        if outcome is None:
            outcome = await accepting.accept(submission)
        if outcome is None and wait_s:
            outcome = await _outcome(request, accepting, submission.id, wait_s, confirm=key is not None)
        if not wait_s:
            return _accepted(submission.id, {})
        honoured = {"Preference-Applied": f"wait={wait_s:.0f}"}
        if outcome is None:
            return _accepted(submission.id, honoured)
        return self._answer(submission.id, outcome, honoured, created=request.method == "POST")

    def _answer(self, job_id: str, outcome: Outcome, headers: dict[str, str], *, created: bool) -> Response:
        """Return the response for *outcome*."""
        more = {"id": job_id, "url": job_url(job_id)}
        if isinstance(outcome, Failed):
            failed = HTTPStatus.INTERNAL_SERVER_ERROR
            return Problem(failed, outcome.error, code="failed", headers=headers, **more).response()
        if isinstance(outcome, Rejected):
            is_invalid = outcome.reason in (CommonReason.INVALID, *self.unprocessable)
            status = HTTPStatus.UNPROCESSABLE_ENTITY if is_invalid else HTTPStatus.CONFLICT
            return Problem(status, outcome.detail, code=outcome.reason, headers=headers, **more).response()
        body = to_json({**more, "status": "applied", "result": outcome.result})
        if not created:
            return Response(body, HTTPStatus.OK, headers=headers, media_type=_JSON)
        return Response(body, HTTPStatus.CREATED, headers={**headers, **self.location(outcome)}, media_type=_JSON)

    def location(self, outcome: Applied) -> dict[str, str]:
        """Return the HTTP header `Location` with the path of the row that an applied job created.

        Returns an empty dict if the job's result has no id of a row.
        """
        result = outcome.result if isinstance(outcome.result, dict) else {}
        ids = {name: result.get(name) for name in self.places}  # anything, if somebody else wrote it to Redis
        places = (f"{place}{ids[name]}" for name, place in self.places.items() if type(ids[name]) is int)
        return {"Location": place} if (place := next(places, None)) else {}


def _key(headers: list[str]) -> str | None:
    """Return the job id in the values of Idempotency-Key, decoded as Latin-1; None without any. Raises `Problem`."""
    if not headers:
        return None
    try:
        if len(headers) > 1:
            raise ValueError("must be given once")  # noqa: TRY301  (one place makes the answer)
        key = _unquoted(_as_utf8(headers[0]))
        check_id(key)
    except ValueError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, f"Idempotency-Key: {error}", code="invalid_key") from None
    return key


def _as_utf8(header: str) -> str:
    try:
        return header if header.isascii() else header.encode("latin-1").decode()
    except UnicodeDecodeError:
        raise ValueError("must be UTF-8") from None


def _unquoted(key: str) -> str:
    """Return the text inside the quotes of a structured field's string (RFC 9651); other text stays as it is.

    Raises `ValueError` if the quotes are not valid.
    """
    if not key.startswith('"'):
        return key
    if not _QUOTED.fullmatch(key):
        raise ValueError('must have its quotes at both ends, and others as \\"')
    return _ESCAPED.sub(r"\1", key[1:-1])


def _fields(body: bytes, job_type: AnyJobType, named: dict[str, int]) -> dict[str, object]:
    """Return the fields of the job, from the body and the path. Raises `Problem` if they are not valid."""
    try:
        content = from_json(body)
    except ValueError:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "the body is not JSON", code=CommonReason.INVALID) from None
    if not isinstance(content, dict):
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "the body is not an object", code=CommonReason.INVALID)
    if twice := named.keys() & content.keys():
        words = f"{min(twice)}: is in the path, and not in the body"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, words, code=CommonReason.INVALID)
    fields: dict[str, object] = {**named, **content}
    command = job_type.parse(fields)
    if isinstance(command, Rejected):
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, command.detail, code=command.reason)
    return fields


def _wait_s(request: Request) -> float:
    """Return how many seconds the `Prefer` header asks to wait, at most `MAX_WAIT_S`; 0 if it does not ask for that."""
    wish = request.headers.get("prefer")
    match = _WAIT.search(wish) if wish else None
    return min(float(match[1]), MAX_WAIT_S) if match else 0.0


async def _outcome(
    request: Request, accepting: Accepting, job_id: str, wait_s: float, *, confirm: bool
) -> Outcome | None:
    """Wait for the job's outcome; returns None if time is up or the caller has gone."""
    outcome = await accepting.outcome(job_id, min(wait_s, _UNWATCHED_S), confirm=confirm)
    if outcome is not None or wait_s <= _UNWATCHED_S:
        return outcome
    waiting = asyncio.ensure_future(accepting.outcome(job_id, wait_s - _UNWATCHED_S, confirm=confirm))
    leaving = asyncio.ensure_future(request.receive())  # the body has been read: what comes next is the end
    try:
        await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        waiting.cancel()
        leaving.cancel()


def _accepted(job_id: str, headers: dict[str, str]) -> Response:
    url = job_url(job_id)
    body = to_json({"id": job_id, "url": url, "status": "queued"})
    return Response(body, HTTPStatus.ACCEPTED, headers={"Location": url, **headers}, media_type=_JSON)


def _body_schema(
    job_type: AnyJobType, named: tuple[str, ...], alternatives: Collection[tuple[str, str]]
) -> dict[str, object]:
    """Return the JSON schema of the body: the command's, without the fields that are in the path."""
    schema = job_type.command.model_json_schema()
    schema["properties"] = {
        name: _without_null(field) for name, field in schema["properties"].items() if name not in named
    }
    one_of = [
        {"oneOf": [{"required": [name]} for name in pair]}
        for pair in alternatives
        if schema["properties"].keys() >= {*pair}
    ]
    changes = [{"minProperties": 1}] if named else []
    return {**schema, "allOf": [*one_of, *changes]} if one_of or changes else schema


def _without_null(field: dict[str, object]) -> dict[str, object]:
    """Remove a default of null from a field's schema: the field may be omitted, but may not be null."""
    return {name: value for name, value in field.items() if name != "default" or value is not None}


def _json(schema: dict[str, object]) -> dict[str, object]:
    return {"content": {_JSON: {"schema": schema}}}
