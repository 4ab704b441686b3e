"""Reads outcomes of jobs and figures of pools over time from stored snapshots, for the page's charts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from tidepool.advice.window import Tick, Window, quantile_ms
from tidepool.storage.repositories import Repositories
from tidepool.web.tallies import STATUSES, floor, tallies

_MOST_PROCESSES = 50
_P95 = 0.95


@dataclass(frozen=True, slots=True)
class _Span:
    """A period that the page can show: its length, the length of one point, and how many seconds it is cached."""

    length: timedelta
    stretch: timedelta
    life_s: float
    lag: timedelta
    """How old the newest snapshot of a live process may be: the counts end there, and begin as much earlier."""


SPANS = {
    "5m": _Span(timedelta(minutes=5), timedelta(seconds=5), 2.0, timedelta(seconds=20)),
    "1h": _Span(timedelta(hours=1), timedelta(minutes=1), 15.0, timedelta(0)),
    "1d": _Span(timedelta(days=1), timedelta(minutes=15), 60.0, timedelta(0)),
}


async def read_history(repositories: Repositories, span: _Span, now: datetime) -> dict[str, object]:
    """Return the data of the page's charts for the period *span* up to *now*, as a dict.

    - `times`      Unix seconds, one for each point of the charts
    - `outcomes`   jobs a second at each of them, by outcome
    - `pools`      figures of the pool of each live process, the 50 with the highest use at most
    - `live`       the number of live processes
    - `ended`      the number of processes that wrote snapshots in the period, and are not live any more
    - `tallies`    counts by function (`tidepool.web.tallies`) of the five minutes up to the newest snapshot, or up to
      *now* if no process is live
    """
    since = floor(now - span.length, span.stretch)
    read_since = since - span.lag
    readings, live_ids = await repositories.snapshots.history(read_since, now, span.stretch)
    ticks = Tick.pair(readings, since=read_since)
    times = [since + n * span.stretch for n in range(int((now - since) / span.stretch) + 1)]
    by_process: dict[UUID, list[tuple[int, Tick]]] = {}
    for tick in ticks:
        place = (tick.now.tick - since) // span.stretch
        if 0 <= place < len(times):
            by_process.setdefault(tick.now.instance_id, []).append((place, tick))
    live = [placed for placed in by_process.values() if placed[-1][1].now.instance_id in live_ids]
    pools = sorted((_pool(placed, len(times)) for placed in live), key=lambda pool: (-pool["use"], pool["process"]))
    return {
        "times": [at.timestamp() for at in times],
        "outcomes": _outcomes(by_process.values(), len(times)),
        "pools": pools[:_MOST_PROCESSES],
        "live": len(pools),
        "ended": len(by_process) - len(live),
        "tallies": tallies(ticks, now=None if live else now),
    }


def _outcomes(processes: Iterable[Sequence[tuple[int, Tick]]], length: int) -> dict[str, list[float | None]]:
    """Return jobs a second of all processes together; None where no process wrote a row."""
    rates: dict[str, list[float | None]] = {status: [None] * length for status in STATUSES}
    for placed in processes:
        for place, tick in placed:
            outcomes = (tick.gained.jobs_applied, tick.gained.jobs_rejected, tick.gained.jobs_failed)
            for status, jobs in zip(STATUSES, outcomes, strict=True):
                rates[status][place] = (rates[status][place] or 0.0) + jobs / (tick.us / 1e6)
    return rates


def _pool(placed: Sequence[tuple[int, Tick]], length: int) -> dict[str, Any]:
    """Return one process's pool: how it is now, its figures over the whole period, and at each point of it."""
    window = Window(tick for _, tick in placed)
    now = placed[-1][1].now
    gained = window.gained
    series: dict[str, list[float | None]] = {name: [None] * length for name in ("in_use", "waiting", "wait_p95_ms")}
    for place, tick in placed:
        series["in_use"][place] = tick.gained.in_use_us / tick.us
        series["waiting"][place] = tick.gained.waiting_us / tick.us
        series["wait_p95_ms"][place] = quantile_ms(tick.gained.wait_hist, _P95)
    return {
        "process": now.worker_id,
        "limit": now.pool_limit,
        "in_use": now.in_use,
        "waiting": now.waiting,
        "use": window.utilisation or 0.0,
        "batch_pending": now.batch_pending,
        "batch_wait_ms": window.batch_wait_ms,
        "queued": gained.saturated_us / window.us,
        "wait_p95_ms": quantile_ms(gained.wait_hist, _P95),
        "jobs_per_second": (gained.jobs_applied + gained.jobs_rejected + gained.jobs_failed) / (window.us / 1e6),
        "memory_mb": now.rss_bytes / 1_048_576,
        "series": series,
    }
