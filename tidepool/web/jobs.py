"""Defines the routes that list the outcomes of jobs, requeue jobs and abort them."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Literal, NamedTuple

from fastapi import Depends, Path, Query
from pydantic import AwareDatetime, TypeAdapter

from tidepool import durations
from tidepool.jobs.job import MAX_ID_CHARACTERS
from tidepool.storage.repositories import Repositories
from tidepool.storage.results import Key
from tidepool.web.problems import Problem
from tidepool.web.routing import Body, Router, job_url
from tidepool.web.services import Services, Using

router = Router(tags=["jobs"])

_KEY = TypeAdapter(tuple[AwareDatetime, str])

JobId = Annotated[str, Path(min_length=1, max_length=MAX_ID_CHARACTERS, description="The job's id.")]
Status = Literal["applied", "rejected", "failed"]


class _Row(Body):
    """The outcome of a job, as the ledger has it. Durations are microseconds."""

    job_id: str
    function: str
    status: Status
    result: object
    reason: str | None
    error: str | None
    attempts: int
    worker_id: str
    enqueued_at: datetime
    started_at: datetime
    finished_at: datetime
    queue_us: int
    batch_us: int
    pool_wait_us: int
    db_us: int
    write_us: int
    requeued_at: datetime | None
    atomic: bool
    """Whether the outcome was committed with the job's effects; false for plain functions, whose rows have neither
    result nor arguments, and only *queue_us* of the durations."""


class _JobRow(_Row):
    """The outcome of a job in a list of outcomes. *requeueable* is whether the job can be enqueued again.

    A list omits the arguments, which only `GET /jobs/{id}` returns. A result of more than 4 kB is null here, and an
    error is cut after 2,000 characters.
    """

    requeueable: bool


class _JobPage(Body):
    """A page of outcomes, the newest first. *next* is the cursor of the next page, or null on the last one.

    A page that has a next one may have few rows, or none. A page ends before its *limit* if its results and errors have
    a megabyte together.
    """

    jobs: list[_JobRow]
    next: str | None


class _PendingJob(Body):
    """A job that has no outcome yet."""

    id: str
    status: Literal["queued", "deferred", "in_progress"]
    url: str


class _RetryingJob(_PendingJob):
    """A job whose attempts so far have failed, and which will be tried again."""

    function: str | None
    attempts: int
    """Tries so far."""
    last_error: str | None
    due_at: datetime | None
    """When it is tried next; null while a worker has it."""


class _SettledJob(_Row):
    """A job that has an outcome, with the job's arguments if they were kept."""

    id: str
    args: object
    url: str


class _RequeueResponse(Body):
    """The response to a request to run jobs again: how many jobs were enqueued.

    *left_out* is how many jobs of plain functions match but cannot run again, because their arguments are not kept.
    """

    requeued: int
    left_out: int


class _AbortResponse(Body):
    """The response to a request to abort a job.

    The job is rejected with the reason `aborted`, unless it is committed first.
    """

    id: str
    status: Literal["aborting"] = "aborting"
    url: str


class _Filter(NamedTuple):
    """The conditions that select outcomes in the ledger."""

    status: Status | None
    function: str | None
    since: datetime | None
    search: str | None


def _filtered(
    status: Annotated[Status | None, Query(description="Only of this status.")] = None,
    function: Annotated[str | None, Query(max_length=200, description="Only of this function.")] = None,
    since: Annotated[
        str | None, Query(pattern=r"^(\d{1,5}[smh]|\d{1,4}d)$", description="Only the last 90s, 10m, 2h, 7d …")
    ] = None,
    search: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=MAX_ID_CHARACTERS,
            description="Only those whose id begins so, or whose reason or error has this text.",
        ),
    ] = None,
) -> _Filter:
    began = datetime.now(UTC) - durations.parse(since) if since else None
    return _Filter(status, function, began, search)


Filtered = Annotated[_Filter, Depends(_filtered)]


@router.get("/jobs")
async def _list_jobs(
    services: Using,
    wanted: Filtered,
    limit: Annotated[int, Query(ge=1, le=500, description="Max rows of the page.")] = 50,
    cursor: Annotated[str | None, Query(max_length=500, description="The `next` of the page before.")] = None,
) -> _JobPage:
    """List outcomes, the newest first."""
    before = None if cursor is None else _key(cursor)
    async with services.pool.acquire() as connection:
        results = Repositories(connection).results
        found, after = await results.page(before=before, limit=limit, **wanted._asdict())
    rows = [_JobRow.model_validate(row) for row in found]
    return _JobPage(jobs=rows, next=None if after is None else _cursor(after))


@router.post("/jobs/requeue", status_code=HTTPStatus.ACCEPTED)
async def _requeue_jobs(services: Using, wanted: Filtered) -> _RequeueResponse:
    """Run all jobs of a filter again that failed or were rejected. Applied ones never run again.

    Without any of its four parameters the call is refused (422): all of the ledger is never meant.
    """
    if not any(wanted):
        words = "name one or more of status, function, since and search"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, words, code="invalid")
    ids = await services.client.requeue(**wanted._asdict())
    async with services.pool.acquire() as connection:
        left_out = await Repositories(connection).results.count_plain(**wanted._asdict())
    return _RequeueResponse(requeued=len(ids), left_out=left_out)


@router.post("/jobs/{job_id:path}/requeue", status_code=HTTPStatus.ACCEPTED)
async def _requeue_job(services: Using, job_id: JobId) -> _RequeueResponse:
    """Run a job again that failed or was rejected, under its own id."""
    ids = await services.client.requeue(job_ids=[job_id])
    if not ids:
        row = await _row_of(services, job_id)
        if row is None:
            raise _unknown(job_id)
        raise Problem(HTTPStatus.CONFLICT, f"the job cannot run again: {_hindrance(row)}", code="not_requeueable")
    return _RequeueResponse(requeued=len(ids), left_out=0)


@router.post("/jobs/{job_id:path}/abort", status_code=HTTPStatus.ACCEPTED)
async def _abort_job(services: Using, job_id: JobId) -> _AbortResponse:
    """Ask the workers to abort a job. One that commits first stays applied."""
    if not services.settings.workers_abort_jobs:
        words = "the workers abort no jobs: set allow_abort_jobs = True in the arq settings"
        raise Problem(HTTPStatus.CONFLICT, words, code="aborts_are_off")
    if not await services.client.abort(job_id):
        if await _row_of(services, job_id) is None:
            raise _unknown(job_id)
        raise Problem(HTTPStatus.CONFLICT, "the job has its outcome already", code="settled")
    return _AbortResponse(id=job_id, url=job_url(job_id))


@router.get("/jobs/{job_id:path}")
async def _read_job(services: Using, job_id: JobId) -> _SettledJob | _RetryingJob | _PendingJob:
    """Return a job: its outcome, or else what the queue knows of it."""
    row = await _row_of(services, job_id)
    if row is None or row["requeued_at"] is not None or not row["atomic"]:  # ids of plain functions are used again
        state = await services.client.status(job_id)
        if state in ("queued", "deferred", "in_progress"):
            return await _pending(services, job_id, state)
        row = await _row_of(services, job_id)  # it may have been settled in between
    if row is None:
        raise _unknown(job_id)
    return _SettledJob.model_validate({**row, "id": job_id, "url": job_url(job_id)})


async def _pending(services: Services, job_id: str, state: str) -> _PendingJob:
    pending = {"id": job_id, "status": state, "url": job_url(job_id)}
    retrying = await services.client.retrying(job_id)
    if retrying is None:
        return _PendingJob.model_validate(pending)
    due_at = None if state == "in_progress" else retrying.due_at  # what a claimed job has in its place is a lease
    return _RetryingJob.model_validate({**pending, **retrying._asdict(), "due_at": due_at})


async def _row_of(services: Services, job_id: str) -> dict[str, object] | None:
    async with services.pool.acquire() as connection:
        rows = await Repositories(connection).results.newest(job_ids=[job_id], limit=1)
    return rows[0] if rows else None


def _hindrance(row: Mapping[str, object]) -> str:
    """Return why the job of a row in the ledger cannot run again, in words."""
    if row["status"] == "applied":
        return "it was applied"
    if not row["atomic"]:
        return "arguments of plain functions are not kept; the application can enqueue it anew"
    return "its content was not kept"


def _unknown(job_id: str) -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, f"no job has the id {ascii(job_id)[1:-1]}", code="unknown_job")


def _cursor(key: Key) -> str:
    return urlsafe_b64encode(_KEY.dump_json((key.finished_at, key.job_id))).decode()


def _key(cursor: str) -> Key:
    """Return the position in the ledger that a cursor stands for. Raises `Problem` if the cursor is not one of ours."""
    try:
        return Key(*_KEY.validate_json(urlsafe_b64decode(cursor)))
    except ValueError:  # of either reader
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "cursor: must be the `next` of a page", code="invalid") from None
