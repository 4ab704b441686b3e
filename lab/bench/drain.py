"""Fills a queue with jobs, starts workers on it, and measures from their first finished job to the last."""

import asyncio
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from redis.asyncio import Redis

from lab.bench.processes import cpu_s, peak_mb
from lab.bench.servers import QUEUE, redis_info
from tidepool.cli.terminal import CommandError
from tidepool.client import MOST_AT_ONCE, JobClient
from tidepool.jobs.submission import Submission
from tidepool.queue.connection import RedisClient

_LOOK_S = 0.005
_ENDED = "a measured worker ended by itself: run one by hand with the same settings"


@dataclass(frozen=True, slots=True)
class Drained:
    """The measurements of one run in which workers emptied a queue that had been filled before.

    Figures per job are averages over the jobs that were finished during the measurement. CPU time is in microseconds,
    memory in MB, all workers together.
    """

    jobs_per_second: float
    cpu_us_per_job: float
    redis_cpu_us_per_job: float
    redis_commands_per_job: float
    peak_rss_mb: float


@dataclass(frozen=True, slots=True)
class System:
    """A kind of worker that is measured: its name, its arq settings class, and whether it logs only warnings."""

    name: str
    settings: str
    quiet: bool = True

    def command(self) -> list[str]:
        """Return the command line that starts one worker."""
        logs = ["--custom-log-dict", "lab.bench.targets.QUIET_LOGS"] if self.quiet else []
        return [sys.executable, "-m", "arq", self.settings, *logs]


@dataclass(frozen=True, slots=True)
class Place:
    """Where worker processes run: their environment variables, and the CPU cores that they are pinned to.

    Worker n gets the n-th core, again from the first when they run out. Without *cores* no worker is pinned.
    """

    environment: dict[str, str] = field(repr=False)
    cores: tuple[int, ...] = ()

    def prefix(self, number: int) -> list[str]:
        """Return the command that pins worker *number* to its core, to be put before the worker's own command line."""
        return ["taskset", "-c", str(self.cores[number % len(self.cores)])] if self.cores else []


async def preload_noops(redis: RedisClient, count: int) -> None:
    """Enqueue *count* jobs of the type `noop`, which return their argument."""
    await enqueue(
        JobClient(redis), (Submission(f"noop-{number}", "noop", {"value": number}) for number in range(count))
    )


async def enqueue(client: JobClient, jobs: Iterator[Submission]) -> None:
    """Enqueue all *jobs*, in calls of up to 500."""
    while chunk := list(islice(jobs, MOST_AT_ONCE)):
        await client.enqueue_many(chunk)


async def drain(
    redis: Redis, system: System, place: Place, *, workers: int = 1, most_jobs: int | None = None
) -> Drained:
    """Start *workers* workers of the kind *system* on the filled queue, and measure until they have emptied it.

    The measurement ends earlier when *most_jobs* jobs are done. The workers are stopped then. Raises `CommandError` if
    the queue is empty, if there are too few jobs to measure, or if a worker ends by itself.
    """
    await _compact(redis)
    queued = await redis.zcard(QUEUE)
    if not queued:
        raise CommandError(f"nothing to measure: no job is in {QUEUE}")
    left = max(0, queued - most_jobs) if most_jobs else 0
    processes: list[asyncio.subprocess.Process] = []
    try:
        for number in range(workers):
            processes.append(await start(system, place, number))  # noqa: PERF401  (each is stopped, wherever this ends)
        first = await _look(redis, processes, below=queued)
        last = await _look(redis, processes, below=left + 1)
    finally:
        memory_mb = sum(peak_mb(process.pid) for process in processes)
        await stop(processes)
    return _figures(first, last, memory_mb)


async def _compact(redis: Redis) -> None:
    """Make Redis rewrite its append-only file now, if it has one, and wait for the end.

    After the preload of a long queue a rewrite is due, and would otherwise start during the measurement.
    """
    info = await redis_info(redis, "persistence")
    if info["aof_enabled"]:
        await _rewrite_is_over(redis)
        await redis.bgrewriteaof()
        await _rewrite_is_over(redis)


async def _rewrite_is_over(redis: Redis) -> None:
    while True:
        info = await redis_info(redis, "persistence")
        if not info["aof_rewrite_in_progress"] and not info["aof_rewrite_scheduled"]:
            return
        await asyncio.sleep(_LOOK_S)


@dataclass(frozen=True, slots=True)
class _DrainReading:
    at_s: float
    queued: int
    cpu_s: float
    redis_cpu_s: float
    redis_commands: int


async def _look(redis: Redis, processes: Sequence[asyncio.subprocess.Process], below: int) -> _DrainReading:
    """Wait until fewer than *below* jobs are in the queue, then read the time, the CPU times and Redis's counters."""
    while (queued := await redis.zcard(QUEUE)) >= below:
        require_running(processes)
        await asyncio.sleep(_LOOK_S)
    at_s, used_s = time.perf_counter(), workers_cpu_s(processes)
    info = await redis_info(redis)
    redis_cpu_s = info["used_cpu_user"] + info["used_cpu_sys"]
    return _DrainReading(at_s, queued, used_s, redis_cpu_s, info["total_commands_processed"])


def _figures(first: _DrainReading, last: _DrainReading, memory_mb: float) -> Drained:
    jobs = first.queued - last.queued
    if not jobs:
        raise CommandError("too few jobs to measure: all ended before the first look, so ask for more --jobs")
    return Drained(
        jobs_per_second=jobs / (last.at_s - first.at_s),
        cpu_us_per_job=(last.cpu_s - first.cpu_s) * 1e6 / jobs,
        redis_cpu_us_per_job=(last.redis_cpu_s - first.redis_cpu_s) * 1e6 / jobs,
        redis_commands_per_job=(last.redis_commands - first.redis_commands) / jobs,
        peak_rss_mb=memory_mb,
    )


def require_running(processes: Sequence[asyncio.subprocess.Process]) -> None:
    """Raise `CommandError` if one of these worker processes has ended."""
    if any(process.returncode is not None for process in processes):
        raise CommandError(_ENDED)


def workers_cpu_s(processes: Sequence[asyncio.subprocess.Process]) -> float:
    """Return the total CPU time of worker processes so far, in seconds. Raises `CommandError` if one has ended."""
    require_running(processes)
    try:
        return sum(cpu_s(process.pid) for process in processes)
    except OSError:  # this moment: the loop does not know it yet
        raise CommandError(_ENDED) from None


async def start(system: System, place: Place, number: int = 0) -> asyncio.subprocess.Process:
    """Start one worker of the kind *system*, with its output dropped, and return its process.

    *number* decides which core the worker is pinned to.
    """
    quiet = asyncio.subprocess.DEVNULL
    command = [*place.prefix(number), *system.command()]
    return await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet, env=place.environment)


async def stop(processes: Sequence[asyncio.subprocess.Process], number: signal.Signals = signal.SIGTERM) -> None:
    """Send the signal *number* to the processes that still run, and wait until all have ended."""
    for process in processes:
        if process.returncode is None:
            process.send_signal(number)
    await asyncio.gather(*(process.wait() for process in processes))
