"""The job_results table: the ledger's rows."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypedDict, Unpack

from tidepool.jobs.outcomes import Applied, Failed, Outcome, Rejected
from tidepool.pool.connection import Connection, Row
from tidepool.storage import queries, rows

_SQL = queries.load("results")


class Entry(NamedTuple):
    """A ledger row to be written, in the order that the query expects. Times are Unix milliseconds."""

    job_id: str
    status: str
    result: str | None
    """JSON, of an applied job."""
    reason: str | None
    error: str | None
    args: str | None
    """The job's content as JSON, kept only where the job may be enqueued again."""
    attempts: int
    enqueued_at_ms: int
    started_at_ms: int
    queue_us: int
    pool_wait_us: int
    batch_us: int = 0


class Finished(NamedTuple):
    """What a run's report counts of one job."""

    job_id: str
    function: str
    status: str
    reason: str | None
    queue_us: int


class Requeued(NamedTuple):
    """A job to be enqueued again, under its own id."""

    job_id: str
    function: str
    args: dict[str, Any]


class Selection(TypedDict, total=False):
    """Which ledger rows are meant; what is left out, or None, is no condition."""

    job_ids: Sequence[str] | None
    status: str | None
    function: str | None
    since: datetime | None


class ResultRepository:
    """Ledger rows, over one connection. Opens no transaction: writes belong to the ledger's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def lookup(self, job_ids: Sequence[str]) -> dict[str, Outcome]:
        """Return the outcomes that are stored for these jobs, by id."""
        found = await self._connection.fetch(_SQL["lookup"], job_ids)
        return {row["job_id"]: _outcome(row) for row in found}

    async def write(
        self, function: str, entries: Sequence[Entry], *, worker_id: str, db_us: int, write_us: int = 0
    ) -> int:
        """Store *entries*; returns how many. Fewer than given: somebody else has stored one, so roll back.

        *write_us*, which is part of *db_us*, is how long the rows and the COMMIT of the function's batch before took:
        a row is written before its own COMMIT.
        """
        values = (function, db_us, worker_id, write_us)
        tag = await self._connection.execute(_SQL["write"], rows.encode(entries), *values)
        return int(tag.rpartition(" ")[2])

    async def finished(self, job_ids: Sequence[str]) -> list[Finished]:
        """Return those of these jobs that have an outcome."""
        found = await self._connection.fetch(_SQL["finished"], job_ids)
        return [Finished(*(row[i] for i in range(5))) for row in found]

    async def newest(self, *, limit: int = 20, **selection: Unpack[Selection]) -> list[dict[str, Any]]:
        """Return up to *limit* rows, the newest first."""
        found = await self._connection.fetch(_SQL["newest"], *_conditions(selection), limit)
        return [row_as_dict(row) for row in found]

    async def slowest(self, *, limit: int = 20, **selection: Unpack[Selection]) -> list[dict[str, Any]]:
        """Return up to *limit* rows, those first whose jobs took longest, from being due to their outcome."""
        found = await self._connection.fetch(_SQL["slowest"], *_conditions(selection), limit)
        return [row_as_dict(row) for row in found]

    async def latency(self, **selection: Unpack[Selection]) -> list[dict[str, Any]]:
        """Return where the time of these jobs went, a row for each function and part; see the view `job_latency`."""
        found = await self._connection.fetch(_SQL["latency"], *_conditions(selection))
        return [dict(row.items()) for row in found]

    async def mark_requeued(
        self, *, after_id: str, limit: int, search: str | None = None, **selection: Unpack[Selection]
    ) -> list[Requeued]:
        """Take back up to *limit* rejected or failed outcomes; their jobs are to be enqueued next.

        *search* is that of `tidepool.storage.result_pages`. Returns them in the order of their ids, after *after_id*. A
        caller that dies in between leaves marked rows, which the next call returns again.
        """
        values = (*_conditions(selection), search, after_id, limit)
        marked = await self._connection.fetch(_SQL["mark_requeued"], *values)
        marked.sort(key=lambda row: row["job_id"].encode())
        return [Requeued(row["job_id"], row["function"], json.loads(row["args"])) for row in marked]

    async def prune(self, before: datetime, *, limit: int = 1000) -> int:
        """Delete up to *limit* rows that finished before *before*; returns how many were there."""
        return await self._connection.fetchval(_SQL["prune"], before, limit)


def status_of(outcome: Outcome) -> str:
    """Return the word that the ledger uses for *outcome*."""
    return type(outcome).__name__.lower()


def row_as_dict(row: Row) -> dict[str, Any]:
    """Return a row by its columns' names, and the JSON in it as what it says."""
    return {
        name: json.loads(value) if name in ("result", "args") and value is not None else value
        for name, value in row.items()
    }


def _conditions(selection: Selection) -> tuple[Any, ...]:
    """Return a selection as the queries expect it: $1 to $4."""
    return tuple(selection.get(name) for name in ("job_ids", "status", "function", "since"))


def _outcome(row: Row) -> Outcome:
    if row["status"] == "applied":
        return Applied(json.loads(row["result"]))
    if row["status"] == "rejected":
        return Rejected(row["reason"], row["error"])
    return Failed(row["error"])
