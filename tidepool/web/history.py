"""Reads counts of jobs and figures of pools over time from stored snapshots, for the charts of the operators' page.

The counts are those of the counters in every worker's snapshots. They are complete whatever the rate, and to read them
costs the same at twenty jobs a second and at twenty thousand. They are as new as the last snapshot; what a killed
process did after that is in the ledger only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from tidepool.advice.window import Tick, Window
from tidepool.storage.repositories import Repositories

_MOST_PROCESSES = 50
TALLIED = timedelta(minutes=5)
"""Length of the period whose outcomes are counted by function."""
_STRETCH = timedelta(seconds=5)
"""Length of one point of the rates by function."""
_STATUSES = ("applied", "rejected", "failed")
_COUNTS = (*_STATUSES, "retried")
"""As each function's counters stand in a snapshot."""
_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class _Span:
    """A period that the page can show: its length, the length of one point, and how many seconds it is cached."""

    length: timedelta
    stretch: timedelta
    life_s: float
    lag: timedelta
    """How old the newest snapshot of a live process may be: the counts end there, and begin as much earlier."""

    async def read(self, repositories: Repositories, now: datetime) -> dict[str, object]:
        """Return the data of the page's charts for this period up to *now*, as a dict.

        - `times`      Unix seconds, one for each point of the charts
        - `outcomes`   jobs a second at each of them, by outcome
        - `pools`      figures of the pool of each live process, the 50 with the highest use at most
        - `live`       the number of live processes
        - `ended`      the number of processes that wrote snapshots in the period, and are not live any more
        - `tallies`    counts by function (`tallies`) of the five minutes up to the newest snapshot, or up to
          *now* if no process is live
        """
        since = _floor(now - self.length, self.stretch)
        read_since = since - self.lag
        readings, live_ids = await repositories.snapshots.history(read_since, now, self.stretch)
        ticks = Tick.pair(readings, since=read_since)
        times = [since + n * self.stretch for n in range(int((now - since) / self.stretch) + 1)]
        by_process: dict[UUID, list[tuple[int, Tick]]] = {}
        for tick in ticks:
            place = (tick.now.tick - since) // self.stretch
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


SPANS = {
    "5m": _Span(timedelta(minutes=5), timedelta(seconds=5), 2.0, timedelta(seconds=20)),
    "1h": _Span(timedelta(hours=1), timedelta(minutes=1), 15.0, timedelta(0)),
    "1d": _Span(timedelta(days=1), timedelta(minutes=15), 60.0, timedelta(0)),
}


def _outcomes(processes: Iterable[Sequence[tuple[int, Tick]]], length: int) -> dict[str, list[float | None]]:
    """Return jobs a second of all processes together; None where no process wrote a row."""
    rates: dict[str, list[float | None]] = {status: [None] * length for status in _STATUSES}
    for placed in processes:
        for place, tick in placed:
            outcomes = (tick.gained.jobs_applied, tick.gained.jobs_rejected, tick.gained.jobs_failed)
            for status, jobs in zip(_STATUSES, outcomes, strict=True):
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
        series["wait_p95_ms"][place] = tick.wait_p95_ms
    return {
        "process": now.worker_id,
        "limit": now.pool_limit,
        "in_use": now.in_use,
        "waiting": now.waiting,
        "use": window.utilisation or 0.0,
        "batch_pending": now.batch_pending,
        "batch_wait_ms": window.batch_wait_ms,
        "queued": gained.saturated_us / window.us,
        "wait_p95_ms": window.wait_p95_ms,
        "jobs_per_second": (gained.jobs_applied + gained.jobs_rejected + gained.jobs_failed) / (window.us / 1e6),
        "memory_mb": now.rss_bytes / 1_048_576,
        "series": series,
    }


@dataclass
class _Counted:
    """The counts of one function: jobs by outcome, and jobs a second at each time."""

    jobs: list[int] = field(default_factory=lambda: [0] * len(_COUNTS))
    rates: list[list[float]] = field(default_factory=lambda: [[0.0] * int(TALLIED / _STRETCH) for _ in _STATUSES])


def tallies(ticks: Sequence[Tick], *, now: datetime | None = None) -> dict[str, object]:
    """Return a dict of how many jobs ended in the last five minutes, by function and outcome.

    It is computed from *ticks*, the intervals between snapshots of processes.

    - `functions`  a list of dicts, one for each `function`: `jobs` are the numbers of jobs by outcome, and of retries;
      `rates` are jobs a second by outcome at each of `times`
    - `times`      Unix seconds, five seconds apart
    - `since`, `until`  the period, in Unix seconds; it ends with the newest tick, or at *now* if that is later

    Without any tick, the lists are empty and `since` and `until` are None.
    """
    if not ticks:
        return {"since": None, "until": None, "times": [], "functions": []}
    until = max(tick.now.tick for tick in ticks)
    until = max(until, now) if now else until
    since = until - TALLIED
    counted: dict[str, _Counted] = {}
    for tick in ticks:
        if tick.now.tick > since:
            for name, gains in _gains(tick).items():
                _count(counted.setdefault(name, _Counted()), gains, *_places(tick, since))
    return {
        "since": since.timestamp(),
        "until": until.timestamp(),
        "times": [(since + n * _STRETCH).timestamp() for n in range(int(TALLIED / _STRETCH))],
        "functions": [_function(name, counted[name]) for name in sorted(counted)],
    }


def _floor(at: datetime, stretch: timedelta) -> datetime:
    """Return the start of the period that *at* is in; periods have the length *stretch*, and count from 1970."""
    return _EPOCH + (at - _EPOCH) // stretch * stretch


def _gains(tick: Tick) -> dict[str, list[int]]:
    """Return how much each function's counters grew, without functions whose counters did not.

    Counters of a newer version that this one does not know are ignored.
    """
    now = tick.now.functions
    before = tick.before.functions if tick.before else {}
    none = [0] * len(_COUNTS)
    gains = {name: [n - b for n, b in zip(now[name], before.get(name, none), strict=False)] for name in now}
    gains = {name: [*gain, *none][: len(_COUNTS)] for name, gain in gains.items()}
    return {name: gain for name, gain in gains.items() if any(gain)}


def _places(tick: Tick, since: datetime) -> tuple[int, int]:
    """Return the first and last stretch that a tick is spread over."""
    last = _place(tick.now.tick, since)
    began = tick.before.tick if tick.before else tick.began_at
    return min(last, max(0, _place(began, since) + 1)), last


def _place(at: datetime, since: datetime) -> int:
    """Return the stretch that ends at *at*, or after it."""
    return -((since - at) // _STRETCH) - 1


def _count(counted: _Counted, gains: list[int], first: int, last: int) -> None:
    seconds = (last - first + 1) * _STRETCH.total_seconds()
    for n, gain in enumerate(gains):
        counted.jobs[n] += gain
    for rates, gain in zip(counted.rates, gains, strict=False):  # retries have none
        for place in range(first, last + 1):
            rates[place] += gain / seconds


def _function(name: str, counted: _Counted) -> dict[str, object]:
    return {
        "function": name,
        "jobs": dict(zip(_COUNTS, counted.jobs, strict=True)),
        "rates": dict(zip(_STATUSES, counted.rates, strict=True)),
    }
