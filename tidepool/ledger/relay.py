"""Copies the jobs of the outbox, which were enqueued in transactions, from PostgreSQL into the queue in Redis.

Each worker process has a relay, so that there is no process to run beside the workers, and one relay of a queue is at
work. It has a lease on a key in Redis: another one takes over within four seconds after its process was killed, and a
process that cannot reach PostgreSQL gives the lease up. (An advisory lock of PostgreSQL would be released sooner, but
does not work behind a pooler.) The lease only saves work. Two relays at work at the same time do no harm, because each
step can be repeated:

    fresh    rows that were never copied are enqueued, then marked. A row that is not marked is enqueued again: the
             queue's job with this id and this payload is this very job; otherwise it has ended, and the ledger has its
             outcome; otherwise the id is in use by another job. Then arq's rule holds, and the row is deleted.
    sweep    reads the table from the first row to the last, again and again, and deletes the rows whose jobs have an
             outcome. It does not stop while it finds many, and reads one page a second otherwise.
    refill   if Redis has lost its data, a key is missing, and all rows without an outcome are copied again.
    lost     a failover to a replica of Redis may lose jobs of the last seconds without a trace. So the sweep asks Redis
             for jobs that were copied a minute ago. One that is missing, and has no outcome a second later, is copied
             again, unless it is a dead letter.

A job is never applied twice because of that: each copy has the same id and enqueue time, for which the ledger has one
row. For a plain function the history is asked in the same way, but an outcome that was not written in time, or a job
that is running when Redis is emptied, means that it runs again.

The relay uses the process's side connection, which is counted in the connection budget, also for its LISTEN: COMMIT
notifies the relay, which otherwise looks once a second. An unused outbox costs two empty queries a second in one
process, and one round trip to Redis in each.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import NamedTuple

import structlog

from tidepool.pool.connection import Connection
from tidepool.pool.faults import DatabaseFault, ServerError
from tidepool.pool.side_connection import SideConnection
from tidepool.queue.relaying import Presence, QueuedJob, RelayQueue, is_outage
from tidepool.repeating import every
from tidepool.storage.outbox import CHANNEL, OutboxRepository, Swept, Waiting, topic

log = structlog.get_logger(__name__)

_CHECK_S = 1.0
"""Seconds between two renewals of the lease, and between two looks at the table without a notification."""
_PAUSE_S = 1.5
"""Seconds for which a relay that failed leaves the lease to others."""
_MAX_ROWS = 500
"""Max rows in one statement, and max jobs that are enqueued at once."""
_MAX_BYTES = 4 * 1024 * 1024
"""Bytes of payloads after which no other job is enqueued in the same call."""
_DOUBT_S = 60.0
"""Seconds after which a job that was copied is looked for in Redis."""
_GRACE_S = 1.0
"""Seconds after which a job that was not found there must have an outcome, if it has ended."""
_MAX_LOGGED = 5
"""Max job ids in one log line."""
_CLOSE_S = 1.0
"""Max seconds for giving up the lease at shutdown."""


class _Lost(NamedTuple):
    """A job that was missing in Redis."""

    row: Swept
    presence: Presence


class Relay:
    """Moves the jobs of one queue's outbox to Redis, in one worker process.

    *side* is the connection to the database, *schema* that of the library's tables. *declared* maps the names
    of the job types, whose outcomes are in the ledger for certain, to whether their jobs' ids are their identity; of
    other functions a result in Redis counts, too.
    """

    def __init__(
        self,
        queue: RelayQueue,
        queue_name: str,
        side: SideConnection,
        schema: str,
        *,
        declared: Mapping[str, bool] = MappingProxyType({}),
    ) -> None:
        self._queue = queue
        self._queue_name = queue_name
        self._side = side
        self._topic = topic(schema, queue_name)
        self._declared = declared
        self._identities = [name for name, is_identity in declared.items() if is_identity]
        self._woken = asyncio.Event()
        self._check_s = 0.0
        """When to renew the lease next, and to look without a notification (monotonic seconds)."""
        self._is_elected = False
        self._is_away = False
        self._after_id = 0
        """The row after which the sweep goes on."""
        self._is_sweeping = False
        """Whether the sweep goes on at once."""
        self._is_refilling = False
        self._lost: list[_Lost] = []
        self._lost_s = 0.0
        """When these jobs were missed (monotonic seconds)."""

    async def run(self) -> None:
        """Copy jobs until cancelled."""
        await every(0.0, self._round, "relay")

    async def close(self) -> None:
        """Leave the work to another process. Does nothing if Redis does not answer within a second."""
        with suppress(Exception):
            async with asyncio.timeout(_CLOSE_S):
                await self._queue.release()

    async def _round(self) -> None:
        """Do what there is to do, and wait for more. If a server is unavailable, let another process try."""
        self._woken.clear()
        try:
            has_more = await self.work()
        except Exception as error:
            self._is_elected = False
            self._check_s = time.monotonic() + _PAUSE_S
            await self.close()
            if not isinstance(error, (DatabaseFault, ServerError)) and not is_outage(error):
                raise
            self._note_outage(error)
            has_more = False
        if not has_more:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._check_s - time.monotonic())):
                    await self._woken.wait()

    async def work(self) -> bool:
        """Copy a batch of fresh jobs, and once a second look after the older ones; return whether there is more to do.

        Does nothing if the relay of another process is at work. Raises the errors of both servers' clients.
        """
        is_time = time.monotonic() >= self._check_s
        if is_time:
            await self._check()
        if not self._is_elected:
            return False
        has_more = await self._copy_fresh()
        if is_time or self._is_sweeping:
            self._is_sweeping = await self._sweep()
        if self._is_away:
            self._is_away = False
            log.info("relay.back")
        return has_more or self._is_sweeping

    async def _check(self) -> None:
        """Renew the lease or try to get it, listen, and begin to refill Redis if it has lost its data."""
        self._check_s = time.monotonic() + _CHECK_S
        self._is_elected = await self._queue.claim()
        if not self._is_elected:
            self._is_refilling = self._is_sweeping = False
            return
        await self._side.listen(CHANNEL, self._heard)
        if not self._is_refilling and not await self._queue.is_refilled():
            await self._queue.begin_refill()
            self._is_refilling, self._after_id = True, 0

    def _heard(self, payload: str) -> None:
        if payload == self._topic:
            self._woken.set()

    async def _copy_fresh(self) -> bool:
        """Enqueue the oldest rows that were never copied; return whether there may be more of them."""
        async with self._side.use() as connection:
            rows = await self._outbox(connection).fresh(_MAX_ROWS, _MAX_BYTES)
        if not rows:
            return False
        replies = await self._queue.enqueue(_queued(rows))
        copied = [row.id for row, reply in zip(rows, replies, strict=True) if reply != "0"]
        known = [row.id for row, reply in zip(rows, replies, strict=True) if reply == "0"]
        async with self._side.use() as connection:
            outbox = self._outbox(connection)
            await outbox.mark(copied)
            if known:
                await _drop_known(outbox, known)
        return len(rows) == _MAX_ROWS or sum(len(row.payload) for row in rows) >= _MAX_BYTES

    def _outbox(self, connection: Connection) -> OutboxRepository:
        return OutboxRepository(connection, self._queue_name, self._identities)

    async def _sweep(self) -> bool:
        """Delete the settled rows of a page, and copy those again that Redis lacks; return whether to go on."""
        async with self._side.use() as connection:
            rows = await self._outbox(connection).sweep(self._after_id, _MAX_ROWS)
        is_full = len(rows) == _MAX_ROWS
        self._after_id = rows[-1].id if is_full else 0
        copied = [row for row in rows if not row.is_settled and row.relayed_s is not None]
        if self._is_refilling:
            await self._copy_again([row.id for row in copied])
            if not is_full:
                await self._queue.end_refill()
                self._is_refilling = False
            return self._is_refilling
        await self._look_for([row for row in copied if row.relayed_s is not None and row.relayed_s >= _DOUBT_S])
        return is_full and sum(row.is_settled for row in rows) >= _MAX_ROWS // 2

    async def _look_for(self, rows: Sequence[Swept]) -> None:
        """Copy the jobs again that were lost when the last ones were looked for, and look for those of *rows*."""
        if self._lost and time.monotonic() >= self._lost_s + _GRACE_S:
            lost, self._lost = self._lost, []
            await self._restore(lost)
        if rows and not self._lost:
            found = await self._queue.presence([row.job_id for row in rows])
            self._lost = [_Lost(*pair) for pair in zip(rows, found, strict=True) if not pair[1].job]
            self._lost_s = time.monotonic()

    async def _restore(self, lost: Sequence[_Lost]) -> None:
        """Copy jobs again that are not in Redis, unless they have ended or are dead letters."""
        dead = await self._queue.dead([one.row.job_id for one in lost])
        ended = [one.row.id for one in lost if one.presence.result and one.row.function not in self._declared]
        missing = {one.row.id for one in lost if one.row.job_id not in dead} - set(ended)
        await self._copy_again(sorted(missing))
        if ended:
            async with self._side.use() as connection:
                await self._outbox(connection).drop(ended)

    async def _copy_again(self, ids: Sequence[int]) -> None:
        """Enqueue those of the rows *ids*, which are sorted, whose jobs have no outcome."""
        while ids:
            async with self._side.use() as connection:
                rows = await self._outbox(connection).unsettled(ids, _MAX_BYTES)
            if not rows:
                return
            for again in (False, True):  # of a declared job a result without an outcome proves nothing
                part = [row for row in rows if (row.function in self._declared) is again]
                if part:
                    await self._queue.enqueue(_queued(part), again=again)
            async with self._side.use() as connection:
                await self._outbox(connection).mark([row.id for row in rows])
            ids = [one for one in ids if one > rows[-1].id]

    def _note_outage(self, error: Exception) -> None:
        if not self._is_away:
            self._is_away = True
            log.warning("relay.unavailable", error=str(error))


def _queued(rows: Sequence[Waiting]) -> list[QueuedJob]:
    return [QueuedJob(row.job_id, row.payload, row.due_ms) for row in rows]


async def _drop_known(outbox: OutboxRepository, ids: Sequence[int]) -> None:
    """Delete rows whose ids Redis knows already; log those that have no outcome: another job has their id."""
    refused = await outbox.unsettled(ids, _MAX_BYTES)
    if refused:
        log.warning("outbox.id_in_use", count=len(refused), job_ids=[row.job_id for row in refused[:_MAX_LOGGED]])
    await outbox.drop(ids)
