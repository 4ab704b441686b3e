"""Judges the fleet's pools every quarter of an hour, and writes an event if there is something to do about them."""

from datetime import datetime, timedelta

import structlog

from tidepool.advice.study import Study
from tidepool.advice.verdict import Verdict, judge
from tidepool.health.journal import Journal
from tidepool.periodic import every
from tidepool.pool.connection import Connection
from tidepool.pool.faults import DatabaseFault
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.repositories import Repositories

log = structlog.get_logger(__name__)

WINDOW = timedelta(minutes=15)
"""How long a time is judged, and how often."""
_NOTHING_TO_DO = ("ok", "insufficient_data")
"""Verdicts without an event."""


class AdviceJob:
    """Runs in each worker process; the first one to judge writes the advice for all of them.

    Processes that start together judge at the same time, too, so that none of them finds the other's advice. So each
    looks again before it writes its own, and a lock lets one process at a time do that.
    """

    def __init__(self, journal: Journal, side: SideConnection) -> None:
        self._journal = journal
        self._side = side

    async def run(self) -> None:
        """Wait, judge, and so on until cancelled; a failed round is logged and the next one comes."""
        await every(WINDOW.total_seconds(), self._round, "advice job", waits_first=True)

    async def _round(self) -> None:
        try:
            await self.run_once()
        except DatabaseFault as fault:
            log.warning("advice.failed", error=str(fault))

    async def run_once(self, now: datetime | None = None) -> None:
        """Judge the window before *now* (by default PostgreSQL's), unless a process has done so within half of it."""
        async with self._side.use() as connection:
            now = now or await Repositories(connection).server.clock()
            if await _is_given(connection, now):
                return
            studies = await Study.read(connection, since=now - WINDOW, until=now)
        verdicts = await judge(studies)
        if advice := [_detail(verdict) for verdict in verdicts if verdict.verdict not in _NOTHING_TO_DO]:
            await self._write(advice, now)

    async def _write(self, advice: list[dict[str, object]], now: datetime) -> None:
        """Write the events, unless another process has written its own meanwhile, or is doing so."""
        async with self._side.use() as connection, connection.transaction():
            events = Repositories(connection).events
            if await events.lock_advice() and not await _is_given(connection, now):
                await events.write([self._journal.event("advice", detail) for detail in advice])


async def _is_given(connection: Connection, now: datetime) -> bool:
    return bool(await Repositories(connection).events.newest(since=now - WINDOW / 2, kind="advice", limit=1))


def _detail(verdict: Verdict) -> dict[str, object]:
    advice = verdict.advice
    return {
        "verdict": verdict.verdict,
        "words": verdict.words,
        "pool_limit": verdict.pool_limit,
        "advised": advice.size if advice else None,
        "confidence": advice.confidence if advice else None,
    }
