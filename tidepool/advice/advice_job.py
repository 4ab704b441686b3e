"""Judges the pools of all workers every 15 minutes, and writes an event if there is something to do about them."""

from datetime import datetime, timedelta

import structlog

from tidepool.advice.study import Study
from tidepool.advice.verdict import PoolVerdict
from tidepool.health.journal import Journal
from tidepool.pool.connection import Connection
from tidepool.pool.faults import DatabaseFault
from tidepool.pool.side_connection import SideConnection
from tidepool.repeating import every
from tidepool.storage.repositories import Repositories

log = structlog.get_logger(__name__)

WINDOW = timedelta(minutes=15)
"""Length of the period that is judged, and the time between two rounds."""
_NOTHING_TO_DO = ("ok", "insufficient_data")
"""Verdicts without an event."""


class AdviceJob:
    """Judges the pools of all workers every 15 minutes, and writes advice as events to the database.

    Each worker process runs one; the first one to judge writes the advice for all of them. Processes that start
    together judge at the same time, too, so that none of them finds the other's advice. So each checks again before it
    writes its own, under a lock that one process at a time can hold.
    """

    def __init__(self, journal: Journal, side: SideConnection) -> None:
        self._journal = journal
        self._side = side

    async def run(self) -> None:
        """Wait 15 minutes, judge, and repeat until cancelled. A failed round is logged, and the next one follows."""
        await every(WINDOW.total_seconds(), self._round, "advice job", waits_first=True)

    async def _round(self) -> None:
        try:
            await self.run_once()
        except DatabaseFault as fault:
            log.warning("advice.failed", error=str(fault))

    async def run_once(self, now: datetime | None = None) -> None:
        """Compute a recommended pool size from the snapshots of the 15 minutes before *now*, and store it as an event.

        Does nothing if a process has written advice in the last seven and a half minutes. *now* is by default
        PostgreSQL's time.
        """
        async with self._side.use() as connection:
            now = now or await Repositories(connection).server.clock()
            if await _is_given(connection, now):
                return
            studies = await Study.read(connection, since=now - WINDOW, until=now)
        verdicts = await PoolVerdict.judge(studies)
        if advice := [_detail(verdict) for verdict in verdicts if verdict.verdict not in _NOTHING_TO_DO]:
            await self._write(advice, now)

    async def _write(self, advice: list[dict[str, object]], now: datetime) -> None:
        """Write the events, unless another process has written its own since the verdict, or is doing so."""
        async with self._side.use() as connection, connection.transaction():
            events = Repositories(connection).events
            if await events.lock_advice() and not await _is_given(connection, now):
                await events.write([self._journal.event("advice", detail) for detail in advice])


async def _is_given(connection: Connection, now: datetime) -> bool:
    return bool(await Repositories(connection).events.newest(since=now - WINDOW / 2, kind="advice", limit=1))


def _detail(verdict: PoolVerdict) -> dict[str, object]:
    advice = verdict.advice
    return {
        "verdict": verdict.verdict,
        "words": verdict.words,
        "pool_limit": verdict.pool_limit,
        "advised": advice.size if advice else None,
        "confidence": advice.confidence if advice else None,
    }
