"""Reads and writes the table job_outbox: the jobs that were enqueued in a transaction and are not settled yet."""

from base64 import b64encode
from collections.abc import Sequence
from typing import LiteralString, NamedTuple

from tidepool.pool.connection import Connection, Row
from tidepool.storage.queries import Queries
from tidepool.storage.results import encode_rows

CHANNEL = "tidepool_outbox"
"""PostgreSQL's channel on which the COMMIT of an enqueued job notifies the relays. The payload is that of `topic`."""
_SQL = Queries("outbox")


class OutboxJob(NamedTuple):
    """A job to write to the outbox: what is needed to enqueue it in Redis, unchanged each time. Times are Unix ms."""

    job_id: str
    function: str
    payload: bytes
    """The encoded job, which contains *enqueued_ms* as `et`."""
    enqueued_ms: int
    due_ms: int | None = None
    """When it may run first; None: at once."""
    identity: bool | None = None
    """Whether the id is the job's identity, as in the payload; None: its type decides."""


class Waiting(NamedTuple):
    """A row of the outbox to be copied to Redis."""

    id: int
    job_id: str
    function: str
    payload: bytes
    due_ms: int | None


class Swept(NamedTuple):
    """A row of the outbox as `sweep` has found it."""

    id: int
    job_id: str
    function: str
    relayed_s: float | None
    """Seconds since it was last copied to Redis; None if it never was."""
    is_settled: bool
    """Whether the ledger has the job's outcome; then the row is deleted."""


def topic(schema: str, queue_name: str) -> str:
    """Return the payload of the notification that a job was enqueued in the queue *queue_name*."""
    return f'"{schema}" {queue_name}'


def addition(schema: str) -> LiteralString:
    """Return the statement that writes jobs to the outbox, with the parameters of `parameters` as $1 and $2."""
    return _SQL.of(schema)["add"]


def parameters(jobs: Sequence[OutboxJob], queue_name: str) -> tuple[str, str]:
    """Return the parameters of `addition`. Raises `DataFault` for text that is not valid Unicode."""
    rows = [(job_id, function, b64encode(payload).decode(), *rest) for job_id, function, payload, *rest in jobs]
    return encode_rows(rows), queue_name


class OutboxRepository:
    """Runs the relay's queries on the outbox of one queue, over one connection.

    *identities* are the names of the job types whose jobs' ids are their identity.
    """

    def __init__(self, connection: Connection, queue_name: str, identities: Sequence[str] = ()) -> None:
        self._connection = connection
        self._queue_name = queue_name
        self._identities = identities
        self._sql = _SQL.of(connection.schema)

    async def fresh(self, limit: int, max_bytes: int) -> list[Waiting]:
        """Return the oldest rows that were never copied to Redis: up to *limit*, and no more after *max_bytes*."""
        return _waiting(await self._connection.fetch(self._sql["fresh"], self._queue_name, limit, max_bytes))

    async def unsettled(self, ids: Sequence[int], max_bytes: int) -> list[Waiting]:
        """Return those of the rows *ids* whose jobs have no outcome in the ledger, and no more after *max_bytes*."""
        values = (self._queue_name, ids, max_bytes, self._identities)
        return _waiting(await self._connection.fetch(self._sql["unsettled"], *values))

    async def mark(self, ids: Sequence[int]) -> None:
        """Record that the rows *ids* were copied to Redis."""
        await self._connection.execute(self._sql["mark"], self._queue_name, ids)

    async def drop(self, ids: Sequence[int]) -> None:
        """Delete the rows *ids*."""
        await self._connection.execute(self._sql["drop"], self._queue_name, ids)

    async def sweep(self, after_id: int, limit: int) -> list[Swept]:
        """Return the next *limit* rows after *after_id*; those of them that are settled are deleted."""
        found = await self._connection.fetch(self._sql["sweep"], *(self._queue_name, after_id, limit, self._identities))
        return [Swept(*(row[i] for i in range(5))) for row in found]


def _waiting(found: Sequence[Row]) -> list[Waiting]:
    return [Waiting(*(row[i] for i in range(5))) for row in found]
