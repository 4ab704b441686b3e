"""Judges the fleet's pools every quarter of an hour, and leaves an event where there is something to do about them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from tidepool.advice.fleet_report import judge
from tidepool.advice.study import read_studies
from tidepool.advice.verdict import Study, Verdict
from tidepool.health.journal import Journal
from tidepool.periodic import every
from tidepool.pool.connection import Connection
from tidepool.pool.faults import DatabaseFault
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.repositories import Repositories

log = structlog.get_logger(__name__)

WINDOW = timedelta(minutes=15)
_NOTHING_TO_DO = ("ok", "insufficient_data")


class Adviser:
    """Runs in each process; whichever is first gives the advice for all of them.

    Processes that start together look together, too, so that none of them finds the other's advice. Each looks again
    before it gives its own, and there a lock lets one at a time.
    """

    def __init__(self, journal: Journal, side: SideConnection) -> None:
        self._journal = journal
        self._side = side

    async def run(self) -> None:
        """Wait, judge, and so on until cancelled; a failed round is logged and the next one comes."""
        await every(WINDOW.total_seconds(), self._round, "adviser", waits_first=True)

    async def _round(self) -> None:
        try:
            await self.run_once()
        except DatabaseFault as fault:
            log.warning("advice.failed", error=str(fault))

    async def run_once(self, now: datetime | None = None) -> None:
        """Judge the window before *now*, unless somebody has done so within half of it."""
        now = now or datetime.now(UTC)
        async with self._side.use() as connection:
            if await _is_given(connection, now):
                return
            studies = await read_studies(connection, since=now - WINDOW, until=now)
        judged = await judge(studies)
        if advice := [_told(study, verdict) for study, verdict in judged if verdict.name not in _NOTHING_TO_DO]:
            await self._give(advice, now)

    async def _give(self, advice: list[dict[str, Any]], now: datetime) -> None:
        """Write the events, unless another process has done so meanwhile, or is at it."""
        async with self._side.use() as connection, connection.transaction():
            events = Repositories(connection).events
            if await events.lock_advice() and not await _is_given(connection, now):
                await events.write([self._journal.event("advice", detail) for detail in advice])


async def _is_given(connection: Connection, now: datetime) -> bool:
    return bool(await Repositories(connection).events.newest(since=now - WINDOW / 2, kind="advice", limit=1))


def _told(study: Study, verdict: Verdict) -> dict[str, Any]:
    advice = verdict.advice
    return {
        "verdict": verdict.name,
        "words": verdict.finding.words,
        "pool_limit": study.window.limit,
        "advised": advice.size if advice else None,
        "confidence": advice.confidence if advice else None,
    }
