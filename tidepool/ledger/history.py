"""Records the outcomes of plain functions in the table job_results, after the fact.

A plain function commits its effects by itself, so its outcome cannot be committed with them: it is written when the job
has ended, and the row says so (`atomic` is false). The history may therefore lack jobs, but it never delays or fails
one: outcomes wait in memory, up to a limit, while PostgreSQL is unavailable, and are dropped and counted beyond it.
"""

import asyncio
from collections import deque
from itertools import islice

import structlog

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Rejected, outcome_of_plain
from tidepool.logs import text_of
from tidepool.pool.faults import DatabaseFault, DataFault, ServerError
from tidepool.pool.side_connection import SideConnection
from tidepool.queue.wire import now_ms
from tidepool.repeating import every
from tidepool.storage.results import PlainEntry, ResultRepository, storable

log = structlog.get_logger(__name__)

MAX_WAITING = 20_000
"""Max outcomes that wait to be written: about 10 MB."""
_DELAY_S = 0.2
"""Seconds from an outcome until it is written with those that came meanwhile, and between two attempts."""
_MAX_ROWS = 500
"""Max rows in one statement."""
_MAX_NAME_CHARACTERS = 100
_LAST_WRITE_S = 2.0
"""Max seconds for writing what is left when the worker stops."""


class History:
    """Writes outcomes of plain functions, in batches, over the connection *side*.

    *worker_id* is the process that ran the jobs. `add` is called for each job, and `run` writes.
    """

    def __init__(self, side: SideConnection, *, worker_id: str) -> None:
        self._side = side
        self._worker_id = worker_id
        self._waiting: deque[PlainEntry] = deque()
        self._has_some = asyncio.Event()
        self.is_away = False
        """Whether the last write failed because PostgreSQL is unavailable or lacks the table."""
        self.dropped = 0
        """The number of outcomes that were dropped, because too many were waiting."""

    def add(self, job: Job) -> None:
        """Record that *job* has ended for good: it failed if it has an `error`."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        self._waiting.append(_entry(job))
        self._has_some.set()

    async def run(self) -> None:
        """Write what has been added, at most five times a second, until cancelled."""
        await every(0.0, self._write_soon, "history")

    async def _write_soon(self) -> None:
        """Wait until there is an outcome, and a moment for others to come; then write all."""
        await self._has_some.wait()
        await asyncio.sleep(_DELAY_S)
        await self.write()
        if not self._waiting:
            self._has_some.clear()

    async def write(self) -> None:
        """Write all outcomes in memory to the table; keep them if PostgreSQL is unavailable or lacks the table.

        If PostgreSQL cannot store one of them, the others of its batch are written one by one, and that one is dropped.
        """
        rows = _MAX_ROWS
        while self._waiting:
            batch = list(islice(self._waiting, rows))
            try:
                async with self._side.use() as connection:
                    await ResultRepository(connection).record(batch, worker_id=self._worker_id)
            except DataFault:
                if rows > 1:
                    rows = 1
                    continue
                self.dropped += 1
            except (DatabaseFault, ServerError) as error:
                self._note_outage(error)
                return
            for _ in batch:
                self._waiting.popleft()
        if self.is_away:
            self.is_away = False
            log.info("history.back", dropped=self.dropped)

    async def close(self) -> None:
        """Write what is left, for two seconds at most, and close the connection."""
        try:
            async with asyncio.timeout(_LAST_WRITE_S):
                await self.write()
        except TimeoutError:
            pass
        if self._waiting or self.dropped:
            log.warning("history.incomplete", lost=len(self._waiting) + self.dropped)
        await self._side.close()

    def _note_outage(self, error: Exception) -> None:
        if not self.is_away:
            self.is_away = True
            log.warning("history.unavailable", error=str(error), waiting=len(self._waiting))


def _entry(job: Job) -> PlainEntry:
    words = "" if job.error is None else storable(f"{type(job.error).__name__}: {text_of(job.error)}")
    outcome = outcome_of_plain(job.error, words, is_aborted=job.is_aborted)
    is_rejected = isinstance(outcome, Rejected)
    return PlainEntry(
        job_id=job.id,
        function=storable(job.function[:_MAX_NAME_CHARACTERS]),
        status=type(outcome).__name__.lower(),
        reason=storable(outcome.reason) if is_rejected else None,
        error=storable(outcome.detail) if is_rejected else words or None,
        attempts=max(1, job.attempt),
        enqueued_at_ms=job.enqueued_ms or job.due_ms,
        started_at_ms=job.started_ms,
        finished_at_ms=now_ms(),
        queue_us=job.queue_us,
    )
