"""Enqueues the jobs of cron expressions, in each worker process.

All processes enqueue the same ticks. The id of a tick's job has its time, so that one job comes of them, and the ledger
has one row for it.
"""

import asyncio
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from tidepool.client import MOST_AT_ONCE, JobClient
from tidepool.jobs.cron import Cron
from tidepool.pool.side_connection import SideConnection
from tidepool.repeating import every
from tidepool.storage.results import ResultRepository

_AHEAD = timedelta(seconds=5)
"""How long before a tick its job is enqueued, which is due at the tick: so it is punctual."""
_LATE = timedelta(seconds=60)
"""How late a tick may be enqueued, after a restart of all workers or an outage of Redis. Others are skipped."""
_LONGEST_REST_S = 60.0
"""Max seconds between two rounds: the system's clock may be set."""


class Scheduler:
    """Enqueues the jobs of *crons* at their ticks. *side* is a connection to the database of the ledger."""

    def __init__(self, crons: Iterable[Cron], client: JobClient, side: SideConnection) -> None:
        self._crons = tuple(crons)
        self._client = client
        self._side = side
        self._reached: dict[int, datetime] = {}
        """The last tick that was enqueued or skipped, by the number of its cron."""

    async def run(self) -> None:
        """Enqueue jobs until cancelled."""
        await every(0.0, self._round, "cron")

    async def _round(self) -> None:
        following = await self.enqueue(datetime.now(UTC))
        rest_s = _LONGEST_REST_S
        if following is not None:
            rest_s = min(rest_s, (following - _AHEAD - datetime.now(UTC)).total_seconds())
        await asyncio.sleep(max(0.0, rest_s))

    async def enqueue(self, now: datetime) -> datetime | None:
        """Enqueue the jobs of all ticks until shortly after *now*; return the first tick after those, None: no other.

        If it fails, the next call enqueues the same jobs. Raises the errors of `JobClient.enqueue_many`, and those of
        `tidepool.pool.faults`.
        """
        following: list[datetime] = []
        for number, cron in enumerate(self._crons):
            if number not in self._reached:
                self._reached[number] = await self._first(cron, now)
            if not cron.catch_up:
                self._reached[number] = max(self._reached[number], now - _LATE)
            ticks = [*_between(cron, self._reached[number], now + _AHEAD)]
            for first in range(0, len(ticks), MOST_AT_ONCE):
                part = ticks[first : first + MOST_AT_ONCE]
                await self._client.enqueue_many([cron.submission_at(tick) for tick in part])
                self._reached[number] = part[-1]
            if (tick := cron.after(self._reached[number])) is not None:
                following.append(tick)
        return min(following, default=None)

    async def _first(self, cron: Cron, now: datetime) -> datetime:
        """Return after which time the ticks of *cron* are to be enqueued: its last one in the ledger, to catch up."""
        last = None
        if cron.catch_up:
            async with self._side.use() as connection:
                last = await ResultRepository(connection).last_id(cron.id_prefix, cron.job_type.name)
        return now - _LATE if last is None else datetime.fromisoformat(last.removeprefix(cron.id_prefix))


def _between(cron: Cron, start: datetime, end: datetime) -> Iterator[datetime]:
    """Yield the ticks after *start*, up to *end*."""
    tick = cron.after(start)
    while tick is not None and tick <= end:
        yield tick
        tick = cron.after(tick)
