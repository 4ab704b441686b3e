"""What the streams of both applications share: servers, the plan of a run, and the accounts of what ran when."""

import asyncio
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from signal import Signals
from typing import Any

import asyncpg
from arq import ArqRedis, create_pool
from arq.connections import RedisSettings

from tests.bench.killing import ENDED_S, Kill
from tidepool import embedded
from tidepool.settings import Settings

_LOOK_S = 0.1
_QUEUE = "arq:queue"
_RUNS = "SELECT job_id, worker, began_at, ended_at FROM cron_runs ORDER BY ended_at"


@dataclass(frozen=True)
class Plan:
    """How much is done for how long: items a second, the signals, when a delay is late, and the wait for the last."""

    rate: int
    seconds: int
    signals: Sequence[Signals]
    late_s: float
    wait_s: float


@dataclass(frozen=True)
class Application:
    """An application whose stream *run* runs on one engine, with the command of a worker on each engine.

    *longest_timeout_s* is the longest of the timeouts of its jobs, *rate* the usual number of items in a second.
    """

    run: Callable[[str, Plan], Awaitable[dict[str, object]]]
    commands: Mapping[str, Sequence[str]]
    longest_timeout_s: int
    rate: int


@dataclass(frozen=True)
class Site:
    """Servers for one run, empty at first, and the environment of its workers.

    PostgreSQL does not wait for the disk, so that what is committed has its time from just before.
    """

    directory: Path
    database: Any
    redis: ArqRedis
    environment: Mapping[str, str]

    async def has_ended(self, end_s: float) -> bool:
        """Return whether no job is queued or runs, other than cron jobs of a tick after *end_s*."""
        queued = [job_id.decode().split(":") for job_id in await self.redis.zrange(_QUEUE, 0, -1)]
        return all(words[0] == "cron" and int(words[-1]) > end_s * 1000 for words in queued)


@dataclass(frozen=True, slots=True)
class Run:
    """When a worker process ran something, in seconds of the clock."""

    worker: int
    began_s: float
    ended_s: float

    def was_hit(self, kills: Iterable[Kill]) -> bool:
        """Return whether it was running when its worker was killed, or had ended less than `ENDED_S` before."""
        return any(
            kill.pid == self.worker and self.began_s <= kill.over_s and self.ended_s >= kill.sent_s - ENDED_S
            for kill in kills
        )


@asynccontextmanager
async def open_site(create_tables: Callable[[str], Awaitable[None]]) -> AsyncIterator[Site]:
    """Run servers with an application's tables while the block runs."""
    with tempfile.TemporaryDirectory(prefix="wild-") as home, embedded.join(Path(home)) as membership:
        urls = membership.urls
        await create_tables(urls.database)
        database: Any = await asyncpg.connect(urls.database)
        await database.execute("ALTER SYSTEM SET fsync = off")
        await database.execute("SELECT pg_reload_conf()")
        redis = await create_pool(RedisSettings.from_dsn(urls.redis))
        environment = Settings.child_environment(DATABASE_URL=urls.database, REDIS_URL=urls.redis)
        try:
            yield Site(Path(home), database, redis, environment)
        finally:
            await redis.aclose()
            await database.close()


async def begin(site: Site, every_s: int) -> float:
    """Wait for the first cron run, and then for the next full *every_s* seconds of the clock; return that time.

    So each stream begins at the same point between two ticks.
    """
    while not await site.database.fetchval("SELECT count(*) FROM cron_runs"):
        await asyncio.sleep(_LOOK_S)
    began_s = (time.time() // every_s + 1) * every_s
    await asyncio.sleep(began_s - time.time())
    return began_s


async def wait_until(condition: Callable[[], Awaitable[bool]], wait_s: float) -> None:
    """Wait until *condition* holds, for up to *wait_s* seconds."""
    until_s = time.monotonic() + wait_s
    while not await condition() and time.monotonic() < until_s:
        await asyncio.sleep(_LOOK_S)


async def ticks(site: Site, began_s: float, ended_s: float, every_s: int, kills: Sequence[Kill]) -> dict[str, object]:
    """Count the committed runs of each tick between two times; all cron jobs have one every *every_s* seconds."""
    runs: dict[str, list[Run]] = {}
    for job_id, worker, began_at, ended_at in await site.database.fetch(_RUNS):
        runs.setdefault(job_id, []).append(Run(worker, began_at.timestamp(), ended_at.timestamp()))
    found = {job_id.rpartition(":")[0]: int(job_id.rpartition(":")[2]) for job_id in runs}
    due = [
        f"{name}:{tick_ms}"
        for name, some_tick_ms in found.items()
        for tick_ms in _series(some_tick_ms, round(began_s * 1000), round(ended_s * 1000), every_s * 1000)
    ]
    counts = Counter(len(runs.get(job_id, ())) for job_id in due)
    return {
        "runs_per_tick": {str(count): counts[count] for count in sorted(counts)},
        **doubles([runs.get(job_id, []) for job_id in due], kills),
    }


def _series(member: int, first: int, last: int, step: int) -> range:
    """Return the numbers from *first* to *last* that are a multiple of *step* away from *member*."""
    return range(first + (member - first) % step, last + 1, step)


def doubles(things: Iterable[Sequence[Run]], kills: Sequence[Kill]) -> dict[str, int]:
    """Count the things with more than one run, and why; the runs of each are in the order of time.

    `at_a_kill` are those whose runs but the last were all hit by a kill. Of the others `side_by_side` are those with
    two runs at the same time.
    """
    doubled = [runs for runs in things if len(runs) > 1]
    other = [runs for runs in doubled if not all(run.was_hit(kills) for run in runs[:-1])]
    side_by_side = [runs for runs in other if any(after.began_s < before.ended_s for before, after in pairwise(runs))]
    return {"doubled": len(doubled), "at_a_kill": len(doubled) - len(other), "side_by_side": len(side_by_side)}


def delays(delays_s: Sequence[float], late_s: float) -> dict[str, object]:
    """Return how many delays are longer than *late_s*, and their distribution in seconds."""
    if len(delays_s) < 2:
        return {"late": 0}
    percentiles = statistics.quantiles(delays_s, n=100, method="inclusive")
    figures = {"p50": percentiles[49], "p95": percentiles[94], "max": max(delays_s)}
    return {
        "late": sum(delay_s > late_s for delay_s in delays_s),
        "delay_s": {name: round(figure, 2) for name, figure in figures.items()},
    }
