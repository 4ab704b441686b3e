"""The room that takes commands: each is validated, enqueued, and answered 202, or with its outcome where one waits.

The body is the command's fields, and `worker.jobs` decides what is valid, as it does for every other way in.

- `Idempotency-Key: order-1` is the job's id. The same key again is the same job: nothing is enqueued or applied
  twice. What the first request with a key asked for stands, whatever later ones say. The header's bytes are UTF-8, so
  that the id is the same whichever way it comes, and the quotes of `"order-1"` (a structured field) are not part of it.
- `Prefer: wait=5` waits for the outcome, at most `MOST_WAIT_S` seconds. The outcome of a job with a key is the
  ledger's. That of a job with a random id is the result in Redis, a millisecond sooner: only who may write to Redis and
  reads the id out of the queue in time could forge it, and would deceive this one caller.
"""

import asyncio
import re
import secrets
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic_core import from_json, to_json

from producer.http.describing import describes
from tidepool.jobs.ids import check_id
from tidepool.jobs.job import JobType
from tidepool.jobs.outcomes import Applied, CommonReason, Failed, Outcome, Rejected
from tidepool.queue.submission import Submission
from tidepool.web.accepting import Accepting
from tidepool.web.paths import RowId, job_url
from tidepool.web.problems import Problem, problem
from tidepool.web.services import Using
from worker.jobs import create_product as create_product_job
from worker.jobs import create_user as create_user_job
from worker.jobs import place_order as place_order_job
from worker.jobs import set_stock as set_stock_job
from worker.jobs import update_user as update_user_job
from worker.reasons import ShopReason

MOST_WAIT_S = 30.0
_UNWATCHED_S = 0.5
"""So long a wait is not worth noticing that the caller has gone."""
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,9})\"?\s*(?=$|[,;])", re.IGNORECASE)
_QUOTED = re.compile(r'"(?:[^"\\]|\\["\\])*"')
_ESCAPED = re.compile(r'\\(["\\])')
_JSON = "application/json"
_PLACES = {"user_id": "/users/", "product_id": "/products/", "order_id": "/orders/"}
"""Where the row is read whose id a result has."""
_UNPROCESSABLE = (CommonReason.INVALID, ShopReason.UNKNOWN_USER, ShopReason.UNKNOWN_PRODUCT)

router = APIRouter(tags=["commands"])


@router.post("/users/", **describes(create_user_job.JOB, "Create a user"))
async def create_user(request: Request, services: Using) -> Response:
    """Username and email are unique to the letter."""
    return await _accept(request, services.accepting, create_user_job.JOB)


@router.post("/products/", **describes(create_product_job.JOB, "Create a product"))
async def create_product(request: Request, services: Using) -> Response:
    """Give a sku that no other product has, or none."""
    return await _accept(request, services.accepting, create_product_job.JOB)


@router.post("/orders/", **describes(place_order_job.JOB, "Place an order"))
async def place_order(request: Request, services: Using) -> Response:
    """Name the user and the product each by its id or by its own key."""
    return await _accept(request, services.accepting, place_order_job.JOB)


@router.put("/users/{user_id}", **describes(update_user_job.JOB, "Change a user", named=("user_id", "username")))
async def update_user(request: Request, services: Using, user_id: RowId) -> Response:
    """Fields that are left out stay as they are."""
    return await _accept(request, services.accepting, update_user_job.JOB, user_id=user_id)


@router.put(
    "/products/{product_id}/stock", **describes(set_stock_job.JOB, "Set a product's stock", named=("product_id", "sku"))
)
async def set_stock(request: Request, services: Using, product_id: RowId) -> Response:
    """Say whether the product can be ordered from now on."""
    return await _accept(request, services.accepting, set_stock_job.JOB, product_id=product_id)


async def _accept(request: Request, accepting: Accepting, job_type: JobType[Any], **named: int) -> Response:
    """Answer a request for a job of *job_type*, whose content is the body and what the path *named*."""
    key = _key(request.headers.getlist("idempotency-key"))
    submission = Submission(key or secrets.token_hex(16), job_type.name, _fields(await request.body(), job_type, named))
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
    return _answer(submission.id, outcome, honoured, created=request.method == "POST")


def _key(headers: list[str]) -> str | None:
    """Return the id that the caller gives its job, or None. *headers* are decoded as Latin-1. Raises `Problem`."""
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
    """Return what a structured field's string stands for (RFC 9651), and any other text as it is."""
    if not key.startswith('"'):
        return key
    if not _QUOTED.fullmatch(key):
        raise ValueError('must have its quotes at both ends, and others as \\"')
    return _ESCAPED.sub(r"\1", key[1:-1])


def _fields(body: bytes, job_type: JobType[Any], named: dict[str, int]) -> dict[str, Any]:
    """Return the job's content. Raises `Problem` where it is not valid."""
    try:
        content = from_json(body)
    except ValueError:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "the body is not JSON", code=CommonReason.INVALID) from None
    if not isinstance(content, dict):
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "the body is not an object", code=CommonReason.INVALID)
    if twice := named.keys() & content.keys():
        words = f"{min(twice)}: is in the path, and not in the body"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, words, code=CommonReason.INVALID)
    fields: dict[str, Any] = {**named, **content}
    command = job_type.parse(fields)
    if isinstance(command, Rejected):
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, command.detail, code=command.reason)
    return fields


def _wait_s(request: Request) -> float:
    """Return for how long the caller would rather wait; 0: not at all. What is no such wish is none (RFC 7240)."""
    wish = request.headers.get("prefer")
    match = _WAIT.search(wish) if wish else None
    return min(float(match[1]), MOST_WAIT_S) if match else 0.0


async def _outcome(
    request: Request, accepting: Accepting, job_id: str, wait_s: float, *, confirm: bool
) -> Outcome | None:
    """Wait for the job's outcome; None: time is up, or the caller has gone."""
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


def _answer(job_id: str, outcome: Outcome, headers: dict[str, str], *, created: bool) -> Response:
    """Return the answer that tells of *outcome*."""
    more = {"id": job_id, "url": job_url(job_id)}
    if isinstance(outcome, Failed):
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, outcome.error, code="failed", headers=headers, **more)
    if isinstance(outcome, Rejected):
        status = HTTPStatus.UNPROCESSABLE_ENTITY if outcome.reason in _UNPROCESSABLE else HTTPStatus.CONFLICT
        return problem(status, outcome.detail, code=outcome.reason, headers=headers, **more)
    body = to_json({**more, "status": "applied", "result": outcome.result})
    if not created:
        return Response(body, HTTPStatus.OK, headers=headers, media_type=_JSON)
    return Response(body, HTTPStatus.CREATED, headers={**headers, **_location(outcome)}, media_type=_JSON)


def _location(outcome: Applied) -> dict[str, str]:
    """Return the header that names the created row."""
    ids = {name: outcome.result.get(name) for name in _PLACES}  # anything, if somebody else wrote it to Redis
    places = (f"{place}{ids[name]}" for name, place in _PLACES.items() if type(ids[name]) is int)
    return {"Location": place} if (place := next(places, None)) else {}
