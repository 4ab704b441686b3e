"""Judges the connection pools of all workers every 15 minutes, and writes an event if they should be changed."""

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
    """Judges the connection pools of all workers every 15 minutes, and writes advice as events to the database.

    Each worker process runs an `AdviceJob`; the first one to judge writes the advice for all workers. Processes that
    start together also judge at the same time, before any of them has written. So each process checks again, just
    before it writes, whether another one has written advice; a lock in the database lets one process at a time do this.
    """

    def __init__(self, journal: Journal, side: SideConnection) -> None:
        self._journal = journal
        self._side = side

    async def run(self) -> None:
        """Wait 15 minutes, call `run_once`, and repeat until cancelled. If a round fails, log that and go on."""
        await every(WINDOW.total_seconds(), self._round, "advice job", waits_first=True)

    async def _round(self) -> None:
        try:
            await self.run_once()
        except DatabaseFault as fault:
            log.warning("advice.failed", error=str(fault))

    async def run_once(self, now: datetime | None = None) -> None:
        """Judge all workers by the snapshots of the 15 minutes before *now*, and store the advice as events.

        Stores nothing if no pool needs a change, or if any process has stored advice in the last seven and a half
        minutes. *now* is by default PostgreSQL's time.
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
