"""What the operators' page shows, put together from the tables and the queue.

Its parts are kept for as long as they stay true, and each is gathered once for however many look: what is now for a
second, history for longer the longer its stretches are, the verdicts for half a minute. Those take a second of
reading and computing for a large fleet, so that a picture has the last ones, and the first has none yet. Nobody
looking: nothing is gathered.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import structlog
from pydantic_core import to_json
from redis.exceptions import RedisError

from producer.front.history import SPANS, read_history
from producer.front.services import Services
from producer.front.tallies import SPAN, Tallies
from worker.db.faults import DatabaseFault
from worker.db.overview import Overview
from worker.db.repositories import Repositories
from worker.engine.leases import backlog
from worker.health.study import read_studies
from worker.health.verdict import Study, Verdict, examine

log = structlog.get_logger(__name__)

T = TypeVar("T")

LIFE_S = 1.0
_VERDICT_LIFE_S = 30.0
_JUDGED = timedelta(minutes=15)
_MOST_EVENTS = 30
_SILENT_TICKS = 4
_LEAST_SILENT = timedelta(seconds=10)


class Kept(Generic[T]):
    """What *make* returned, for *life_s* seconds; then it is made anew, once for all who ask meanwhile."""

    def __init__(self, life_s: float, make: Callable[[], Awaitable[T]]) -> None:
        self._life_s = life_s
        self._make = make
        self._making = asyncio.Lock()
        self._made: tuple[float, T] | None = None

    @property
    def left_s(self) -> float:
        """For how long it will be kept."""
        return max(0.0, self._made[0] + self._life_s - time.monotonic()) if self._made else 0.0

    async def get(self) -> T:
        """Return it. Raises what *make* raises, which is kept for nobody."""
        async with self._making:
            if self._made is None or not self.left_s:
                began_s = time.monotonic()
                self._made = (began_s, await self._make())
            return self._made[1]


class Later(Generic[T]):
    """The same of what takes long: nobody waits for it, and until it was made for the first time it is None."""

    def __init__(self, life_s: float, make: Callable[[], Awaitable[T]]) -> None:
        self._kept = Kept(life_s, make)
        self._making: asyncio.Task[None] | None = None
        self._last: T | None = None

    def get(self) -> T | None:
        """Return the last one, and have it made anew where it is too old."""
        if not self._kept.left_s and (self._making is None or self._making.done()):
            self._making = asyncio.create_task(self._make(), name="picture part")
        return self._last

    async def close(self) -> None:
        """Give up what is being made."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)

    async def _make(self) -> None:
        try:
            self._last = await self._kept.get()
        except DatabaseFault as fault:
            log.warning("picture.part_failed", error=str(fault))


class Pictures:
    """The pictures of one front, as JSON, by the name of their time: `5m`, `1h` or `1d`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tallies = Tallies()
        self._depths: deque[tuple[float, int, int, float]] = deque(maxlen=int(SPAN.total_seconds() / LIFE_S))
        self._now = Kept(LIFE_S, self._gather_now)
        self._verdicts = Later(_VERDICT_LIFE_S, self._judge)
        self._history = {name: Kept(span.life_s, self._reader_of(name)) for name, span in SPANS.items()}
        self._whole = {name: Kept(LIFE_S, self._composer_of(name)) for name in SPANS}

    async def close(self) -> None:
        """Give up what is being made."""
        await self._verdicts.close()

    def of(self, window: str) -> Kept[bytes]:
        """Return the picture of that time; getting it raises `worker.db.faults.DatabaseFault`."""
        return self._whole[window]

    def _composer_of(self, window: str) -> Callable[[], Awaitable[bytes]]:
        async def compose() -> bytes:
            parts = {
                "window": window,
                "window_s": SPANS[window].length.total_seconds(),
                **await self._now.get(),
                "history": await self._history[window].get(),
                "groups": self._verdicts.get(),
            }
            return to_json(parts, inf_nan_mode="null", fallback=str)

        return compose

    def _reader_of(self, window: str) -> Callable[[], Awaitable[dict[str, Any]]]:
        silent_after = max(_LEAST_SILENT, _SILENT_TICKS * timedelta(seconds=self._services.settings.stats_interval))

        async def read() -> dict[str, Any]:
            async with self._services.pool.acquire() as connection:
                return await read_history(
                    Overview(connection), SPANS[window], datetime.now(UTC), silent_after=silent_after
                )

        return read

    async def _gather_now(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        queue = await self._look_at_queue(now)
        async with self._services.pool.acquire() as connection:
            overview = Overview(connection)
            await self._tallies.look(overview, now)
            server = await overview.server()
            events = await Repositories(connection).events.newest(since=now - timedelta(days=1), limit=_MOST_EVENTS)
            has_results = await overview.has_results()
        return {
            "at": now,
            "queue": queue,
            "tallies": self._tallies.told(now),
            "server": server,
            "events": [_event(event) for event in events],
            "has_results": has_results,
        }

    async def _look_at_queue(self, now: datetime) -> dict[str, Any] | None:
        """Return the queue now and in the last minutes, as far as somebody looked; None while Redis is away."""
        settings = self._services.settings
        try:
            found = await backlog(self._services.redis, settings.queue_name, int(now.timestamp() * 1000))
        except (RedisError, OSError):
            return None
        self._depths.append((now.timestamp(), found.waiting, found.running, found.oldest_s or 0.0))
        names = ("times", "waiting", "running", "oldest_s")
        since = (now - SPAN).timestamp()
        columns = zip(*(row for row in self._depths if row[0] >= since), strict=True)
        return {**found._asdict(), "series": dict(zip(names, columns, strict=True))}

    async def _judge(self) -> list[dict[str, Any]]:
        until = datetime.now(UTC)
        async with self._services.pool.acquire() as connection:
            studies = await read_studies(connection, since=until - _JUDGED, until=until)
        return await asyncio.to_thread(lambda: [_judged(study, examine(study)) for study in studies])


def _judged(study: Study, verdict: Verdict) -> dict[str, Any]:
    """Return the verdict on a group of processes that are set up alike, and the size advised, in words."""
    return {
        "processes": sorted(row["worker_id"] for row in study.window.newest),
        "since": study.since,
        "limit": study.window.limit,
        "verdict": verdict.name,
        "words": verdict.finding.words,
        "evidence": [{**asdict(one), "counts": one.counts} for one in verdict.finding.evidence],
        "advice": _advised(verdict),
    }


def _advised(verdict: Verdict) -> str:
    advice = verdict.advice
    if advice is None:
        return "No size is advised: the figures do not bear it."
    if advice.size == advice.limit:
        return f"Keep the pool at {advice.limit}."
    step = f", by way of {advice.next_step}" if advice.next_step != advice.size else ""
    return (
        f"Set POOL_MAX_SIZE to {advice.size} instead of {advice.limit}{step} "
        f"(range {advice.low} to {advice.high}, confidence {advice.confidence})."
    )


def _event(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event without the stack of its task, which is for `python -m worker why --json`."""
    detail = ", ".join(f"{name} {value}" for name, value in event["detail"].items() if name != "stack")
    return {"at": event["at"], "kind": event["kind"], "process": event["worker_id"], "detail": detail}
