"""One measured drain: an empty database, a preloaded queue, workers, and the count of users in PostgreSQL.

The effect is what counts, and the database is the one place where it looks the same for every system.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis

from lab.bench.drain import cpu_s
from tests.bench.peers.catalogue import APPS, System
from tidepool.pool.config import PoolConfig
from worker import app

DATABASE = "tidepool_peers"
_LOOK_S = 0.05
_START_WAIT_S, _WORK_WAIT_S = 60.0, 180.0


class MeasureError(Exception):
    """A system did not do its work; the text says what it said."""


@dataclass(frozen=True, slots=True)
class Place:
    """The servers, where the peers' environments are, and where what they print goes."""

    admin_url: str
    database_url: str
    redis_url: str
    environments: Path
    log: Path

    def environment(self, system: System) -> dict[str, str]:
        """Return the environment of its processes: its own programs first."""
        own = {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "BENCH_DATABASE_URL": self.database_url,
            "BENCH_REDIS_URL": self.redis_url,
            "LOG_LEVEL": "WARNING",
            "dramatiq_queue_prefetch": "1000",
        }
        if system.packages:
            home = self.environments / system.name
            own |= {"PATH": f"{home / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(APPS), "VIRTUAL_ENV": str(home)}
        return {**os.environ, **own}


@dataclass(frozen=True, slots=True)
class Drained:
    """What one drain took: jobs a second, and microseconds of CPU a job, of the workers' processes."""

    jobs_per_second: float
    cpu_us_per_job: float


async def drain(system: System, place: Place) -> Drained:
    """Preload the queue of *system*, start its workers, and measure from its first effects to the last."""
    await _reset(place)
    preload = await _start(system, place, (*system.enqueue, str(system.jobs)))
    if await preload.wait():
        raise MeasureError(f"{system.name} could not enqueue: {_tail(place.log)}")
    connection: Any = await asyncpg.connect(place.database_url)
    workers = [await _start(system, place, system.work) for _ in range(system.commands)]
    try:
        first, used_s, began_s = await _users(connection, place, system, 1, _START_WAIT_S), _cpu_s(workers), _now()
        last = await _users(connection, place, system, system.jobs, _WORK_WAIT_S)
        seconds, used_s = _now() - began_s, _cpu_s(workers) - used_s
    finally:
        await _stop(workers)
        await connection.close()
    jobs = last - first
    return Drained(jobs / seconds, used_s * 1e6 / jobs)


async def _reset(place: Place) -> None:
    """Give an empty Redis and a new database with the service's tables."""
    redis = Redis.from_url(place.redis_url)
    await redis.flushall()
    await redis.aclose()
    admin: Any = await asyncpg.connect(place.admin_url)
    await admin.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
    await admin.execute(f"CREATE DATABASE {DATABASE}")
    await admin.close()
    await app.migrations.migrate(PoolConfig(url=place.database_url, application_name="peers", schema="public"))


async def _start(system: System, place: Place, command: tuple[str, ...]) -> asyncio.subprocess.Process:
    words = [word.replace("{redis}", place.redis_url) for word in command]
    with place.log.open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *words, env=place.environment(system), stdout=log, stderr=log, start_new_session=True
        )


async def _users(connection: Any, place: Place, system: System, least: int, patience_s: float) -> int:
    """Wait until there are *least* users, and return how many there are."""
    try:
        async with asyncio.timeout(patience_s):
            while (count := await connection.fetchval("SELECT count(*) FROM users")) < least:
                await asyncio.sleep(_LOOK_S)
            return count
    except TimeoutError:
        raise MeasureError(f"{system.name}: {count} users after {patience_s:.0f} s: {_tail(place.log)}") from None


async def _stop(workers: list[asyncio.subprocess.Process]) -> None:
    """End the workers with all their processes; whatever they still hold belongs to a database that goes."""
    for worker in workers:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(worker.pid, number)
                await asyncio.wait_for(worker.wait(), 5)
            except (ProcessLookupError, TimeoutError):
                continue


def _cpu_s(workers: list[asyncio.subprocess.Process]) -> float:
    """Return the CPU time so far of the workers' sessions, their children included."""
    return sum(cpu_s(pid) for worker in workers for pid in _session(worker.pid))


def _session(leader: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text("utf-8").rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[3]) == leader:
            yield int(stat.parent.name)


def _now() -> float:
    return time.perf_counter()


def _tail(log: Path) -> str:
    return log.read_text("utf-8", errors="replace")[-600:].strip()
