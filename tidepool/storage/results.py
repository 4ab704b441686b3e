"""Reads and writes the ledger, the table `job_results` with one row for each job that has ended, and pages through it.

A page is a limited number of rows for the operators' page or the API. Reading one stays cheap in a ledger of a million
rows.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import accumulate
from typing import NamedTuple, TypedDict, Unpack

from pydantic_core import PydanticSerializationError, to_json

from tidepool.jobs.job import IDENTITY_MS, JobKey
from tidepool.jobs.outcomes import Applied, Failed, Outcome, Rejected
from tidepool.pool.connection import Connection, Row
from tidepool.pool.faults import DataFault
from tidepool.storage.queries import Queries

_SQL = Queries("results")
_MAX_LOOKED_AT = 100_000
"""Max rows that are searched for one page if no index finds the matching ones: 30 to 60 ms. An index on the function
would cost every job 3 us, of the 110 us that it takes."""
_MAX_NOT_APPLIED = 10_000
"""Max rejected and failed rows that are searched for one page. They are fewer because they lie far apart."""
_MAX_ERROR_CHARACTERS = 500
MAX_PAGE_BYTES = 1024 * 1024
"""Max bytes of the results and errors of one page. The page ends with the row that reaches this size."""


class Entry(NamedTuple):
    """A row to insert into the ledger (the table `job_results`): one finished job. Times are Unix milliseconds.

    The fields are in the order in which the INSERT statement unpacks them.
    """

    job_id: str
    status: str
    result: str | None
    """The result of an applied job as JSON; None for other jobs."""
    reason: str | None
    error: str | None
    args: str | None
    """The job's arguments as JSON, kept only if the job may be enqueued again."""
    attempts: int
    enqueued_at_ms: int
    started_at_ms: int
    queue_us: int
    pool_wait_us: int
    batch_us: int = 0
    key_ms: int = IDENTITY_MS
    """The part of the row's key beside the id; see `JobKey`."""


class PlainEntry(NamedTuple):
    """The row of a plain function's job for the table `job_results`, written after the job has ended.

    Times are Unix milliseconds. The fields are in the order in which the INSERT statement unpacks them.
    """

    job_id: str
    function: str
    status: str
    reason: str | None
    error: str | None
    attempts: int
    enqueued_at_ms: int
    started_at_ms: int
    finished_at_ms: int
    queue_us: int


class Finished(NamedTuple):
    """The outcome of one job, as a producer's report counts it: five columns of the job's row in the ledger."""

    job_id: str
    function: str
    status: str
    reason: str | None
    queue_us: int


class _Requeued(NamedTuple):
    """A job to be enqueued again, under its own id. The fields are in the order of those of `Submission`."""

    job_id: str
    function: str
    args: dict[str, object]
    identity: bool
    enqueued_ms: int | None
    """When it was first enqueued (Unix milliseconds), which keeps it the same job; None if its id is its identity."""


class Selection(TypedDict, total=False):
    """Filters for rows of the ledger; a row must match all. A filter that is left out or None matches every row."""

    job_ids: Sequence[str] | None
    status: str | None
    function: str | None
    since: datetime | None
    """The earliest `finished_at`."""


class Key(NamedTuple):
    """Where a page of ledger rows ends: time and job id of its last row. The next page has the rows that are older."""

    finished_at: datetime
    job_id: str


class ResultRepository:
    """Runs the queries on the ledger, the table `job_results` with one row for each finished job, over one connection.

    Its methods begin no transaction and commit nothing. The caller begins one, so that the rows of a batch are
    committed together with the effects of its jobs.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sql = _SQL.of(connection.schema)

    async def lookup(self, keys: Sequence[JobKey]) -> dict[JobKey, Outcome]:
        """Return the outcomes in the ledger of the jobs with these *keys*. Jobs without an outcome are left out."""
        values = [job_id for job_id, _ in keys], [key_ms for _, key_ms in keys]
        found = await self._connection.fetch(self._sql["lookup"], *values)
        return {(row["job_id"], row["key_ms"]): _outcome(row) for row in found}

    async def lookup_unknown(self, jobs: Sequence[tuple[str, int]]) -> dict[str, Outcome]:
        """Return the outcomes that jobs may have whose type or content is unknown here, by id.

        *jobs* are their ids, and when they were due (Unix milliseconds). Another worker may have known more of them.
        """
        values = [job_id for job_id, _ in jobs], [due_ms for _, due_ms in jobs]
        found = await self._connection.fetch(self._sql["lookup_unknown"], *values)
        return {row["job_id"]: _outcome(row) for row in found}

    async def write(
        self, function: str, entries: Sequence[Entry], *, worker_id: str, db_us: int, write_us: int = 0
    ) -> int:
        """Insert *entries*, the ledger rows of one batch of jobs, and return how many rows were inserted.

        A row is not inserted if the ledger has one for that job already, because another worker stored an outcome of
        the job. If the returned number is less than `len(entries)`, the caller must roll its transaction back. *db_us*
        is the time that the batch spent in the database, in microseconds. *write_us* is the part of that time for
        writing rows and COMMIT, as measured for the function's previous batch, because a row is written before its own
        COMMIT.
        """
        values = (function, db_us, worker_id, write_us)
        tag = await self._connection.execute(self._sql["write"], encode_rows(entries), *values)
        return int(tag.rpartition(" ")[2])

    async def record(self, entries: Sequence[PlainEntry], *, worker_id: str) -> None:
        """Store outcomes of plain functions. A row of the same job is replaced, unless that is of a declared type."""
        await self._connection.execute(self._sql["record"], encode_rows(entries), worker_id)

    async def finished(self, job_ids: Sequence[str]) -> list[Finished]:
        """Return the outcomes of those of the jobs *job_ids* that have ended; the other jobs are left out.

        If an id was used several times, that is the outcome of the job that was enqueued last.
        """
        found = await self._connection.fetch(self._sql["finished"], job_ids)
        return [Finished(*(row[i] for i in range(5))) for row in found]

    async def last_id(self, prefix: str, function: str) -> str | None:
        """Return the last id, in order, of those that jobs of *function* have and that begin with *prefix*, or None."""
        return await self._connection.fetchval(self._sql["last_id"], prefix, function)

    async def states(self, job_ids: Sequence[str]) -> dict[str, Row]:
        """Return by id where jobs stand, as far as the database knows: rows of its function `job_states`."""
        return {row["job_id"]: row for row in await self._connection.fetch(self._sql["states"], job_ids)}

    async def newest(self, *, limit: int = 20, **selection: Unpack[Selection]) -> list[dict[str, object]]:
        """Return up to *limit* rows of the ledger that match the filters *selection*, the job that ended last first."""
        found = await self._connection.fetch(self._sql["newest"], *_conditions(selection), limit)
        return [_row_as_dict(row) for row in found]

    async def slowest(self, *, limit: int = 20, **selection: Unpack[Selection]) -> list[dict[str, object]]:
        """Return up to *limit* rows of the ledger that match the filters *selection*, the slowest job first.

        A job's duration is counted from the time when it was due until its outcome. The rows also have `run_us`, the
        time that a plain function ran, in microseconds; 0 for jobs of declared types.
        """
        found = await self._connection.fetch(self._sql["slowest"], *_conditions(selection), limit)
        return [_row_as_dict(row) for row in found]

    async def latency(self, **selection: Unpack[Selection]) -> list[dict[str, object]]:
        """Return latency percentiles, in milliseconds, of the jobs in the ledger that match the filters *selection*.

        The result has a dict for each job type and part of the latency: `queue` (from due to claimed by a worker),
        `batch` (until the job's batch starts), `pool` (waiting for a connection) and `database`; for a plain function
        `queue` and `run`. Its keys are the
        columns of the view `job_latency`: `function`, `part`, `jobs`, `p50_ms`, `p95_ms`, `p99_ms` and `max_ms`.
        """
        found = await self._connection.fetch(self._sql["latency"], *_conditions(selection))
        return [dict(row.items()) for row in found]

    async def mark_requeued(
        self, *, after_id: str, limit: int, search: str | None = None, **selection: Unpack[Selection]
    ) -> list[_Requeued]:
        """Mark up to *limit* failed or rejected jobs in the ledger as to be run again; return them, sorted by id.

        The caller then enqueues the returned jobs. Only jobs are marked that match the filters *selection* and *search*
        (as in `page`) and whose ids sort after *after_id*: to continue, pass the id of the last job returned. Of an id
        that was used several times, only the newest job is marked. If the caller dies before it has enqueued the jobs,
        the same call returns them again.
        """
        values = (*_conditions(selection), search, after_id, limit)
        marked = await self._connection.fetch(self._sql["mark_requeued"], *values)
        marked.sort(key=lambda row: row["job_id"].encode())
        return [_requeued(row) for row in marked]

    async def count_plain(self, *, search: str | None = None, **selection: Unpack[Selection]) -> int:
        """Return how many failed and rejected jobs of plain functions match: those that `mark_requeued` leaves out."""
        return await self._connection.fetchval(self._sql["count_plain"], *_conditions(selection), search)

    async def page(
        self,
        *,
        before: Key | None,
        limit: int,
        status: str | None = None,
        function: str | None = None,
        since: datetime | None = None,
        search: str | None = None,
    ) -> tuple[list[dict[str, object]], Key | None]:
        """Return up to *limit* ledger rows, the newest first, and the *before* of the next page; None after the last.

        The rows are those older than *before*; None: the newest. A row has the columns of job_results except the job's
        arguments; `requeueable` says whether the ledger has kept these arguments, so that the job can run again. A
        result of more than 4 kB is null, and an error is cut after 2,000 characters.

        *status*, *function* and *since* are filters as in `Selection`. *search* selects rows whose job id begins with
        that text (the last thousand of such jobs), and rows of jobs that were not applied and whose reason or error
        contains that text, ignoring case. A page may have fewer rows, or none, and still have a next page, because the
        number of rows that are read for one page is limited.
        """
        edge = None
        if status is not None or function is not None or search is not None:
            edge = await self._edge(before, since, not_applied=search is not None or status in ("rejected", "failed"))
        key = before or (None, None)
        values = (status, function, edge or since, *key, limit + 1, search)
        return _page(await self._connection.fetch(self._sql["page"], *values), limit, edge)

    async def outcomes(self, since: datetime) -> list[dict[str, object]]:
        """Return how many jobs ended since *since*: for each `function`, numbers `applied`, `rejected`, `failed`."""
        return [dict(row.items()) for row in await self._connection.fetch(self._sql["outcomes"], since)]

    async def has_any(self) -> bool:
        """Return whether the ledger, the table of the outcomes of jobs, has any row."""
        return await self._connection.fetchval(self._sql["has_any"])

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* ledger rows of jobs that finished before *before*; return how many were deleted."""
        return await self._connection.fetchval(self._sql["prune"], before, limit)

    async def _edge(self, before: Key | None, since: datetime | None, *, not_applied: bool) -> datetime | None:
        """Return the earliest `finished_at` that the next page searches, which limits the rows that it reads.

        *not_applied* says whether only rejected and failed rows are searched. Returns None if no such limit is needed,
        or if *since* is later.
        """
        finished_at = before.finished_at if before else None
        if not_applied:
            edge = await self._connection.fetchval(self._sql["edge_of_not_applied"], finished_at, _MAX_NOT_APPLIED)
        else:
            edge = await self._connection.fetchval(self._sql["edge"], finished_at, _MAX_LOOKED_AT)
        return None if edge and since and edge <= since else edge


def encode_rows(rows: Iterable[Sequence[object]]) -> str:
    """Encode *rows* as one query parameter, a JSON array with an array for each row, so that one query writes many.

    A query unpacks the columns by position: `FROM jsonb_array_elements($1) AS g (r)`, then `r ->> 0`. An array
    parameter for each column would be more usual, but asyncpg encodes such arrays element by element, which took 9 us
    for a ledger row. JSON takes 3 us, and PostgreSQL's share is the same. Raises `DataFault` for text that is not valid
    Unicode.
    """
    try:
        return to_json(list(rows)).decode()
    except PydanticSerializationError:
        raise DataFault("a value does not fit its column's type") from None


def storable(error: str) -> str:
    """Return an error's text as the ledger keeps it: max 500 characters, NUL characters and lone surrogates escaped."""
    return error[:_MAX_ERROR_CHARACTERS].replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def _row_as_dict(row: Row) -> dict[str, object]:
    """Return a row as a dictionary by column name, with the JSON in it decoded."""
    return {
        name: json.loads(value) if name in ("result", "args") and value is not None else value
        for name, value in row.items()
    }


def _conditions(selection: Selection) -> tuple[object, ...]:
    """Return a selection as the parameters $1 to $4 of the queries."""
    return tuple(selection.get(name) for name in ("job_ids", "status", "function", "since"))


def _requeued(row: Row) -> _Requeued:
    key_ms: int = row["key_ms"]
    is_identity = key_ms == IDENTITY_MS
    return _Requeued(
        *(row["job_id"], row["function"], json.loads(row["args"])), is_identity, None if is_identity else key_ms
    )


def _outcome(row: Row) -> Outcome:
    if row["status"] == "applied":
        return Applied(json.loads(row["result"]))
    if row["status"] == "rejected":
        return Rejected(row["reason"], row["error"])
    return Failed(row["error"])


def _page(found: Sequence[Row], limit: int, edge: datetime | None) -> tuple[list[dict[str, object]], Key | None]:
    """Make a page of *found*, which has one row more than *limit* if there is a next page, and of *edge*.

    *edge* is the time before which the search stopped (see `_edge`); it is where the next page goes on.
    """
    fitting = min(limit, _fitting(found))
    rows = [_row_as_dict(row) for row in found[:fitting]]
    if len(found) > fitting:
        return rows, _key(found[fitting - 1])
    return rows, None if edge is None else Key(edge, "")


def _fitting(found: Sequence[Row]) -> int:
    """Return how many of the first rows fit into the max bytes of one page."""
    sizes = accumulate(len((row["result"] or "").encode()) + len((row["error"] or "").encode()) for row in found)
    return next((number for number, size in enumerate(sizes, 1) if size >= MAX_PAGE_BYTES), len(found))


def _key(row: Row) -> Key:
    return Key(row["finished_at"], row["job_id"])
