"""Runs one drill: a steady load, one fault after the other, and a check of all jobs when the queue is empty."""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from lab.drill.arena import Arena, feed
from lab.drill.check import CheckResult, check
from lab.drill.faults import FAULTS
from lab.drill.faults.breaking import Fault, NotHereError
from lab.drill.log import Log
from tidepool.cli.terminal import CommandError

_SLICE_S = 0.1
_LOOK_S = 0.3
_CALM_S = 3.0
"""Seconds over which the rate is measured before and after each fault."""
_START_WAIT_S = 60.0
_RECOVERY_WAIT_S = 60.0
_CATCH_UP_WAIT_S = 30.0
_ENOUGH = 0.9
"""The rate after a fault is slow if it is less than this share of the rate before, or of the load.

The load counts if the workers kept up with it before the fault.
"""
_DRAIN_WAIT_S = 600.0
_LEASES_WAIT_S = 15.0
_NOT_EMPTY = "the queue was not worked off"
_TICK_S = 1.0
_SINCE = "SELECT count(*), min(finished_at) FROM public.job_results WHERE finished_at >= $1"
_ENDED = (
    "SELECT count(*), max(finished_at) FILTER (WHERE reason IS DISTINCT FROM 'unknown_user')"
    " FROM public.job_results WHERE job_id = ANY ($1)"  # an order for nobody is tried for twelve seconds, fault or not
)


class DrillError(CommandError):
    """The drill cannot go on. The text says why."""


@dataclass(frozen=True, slots=True)
class Injected:
    """The measurements of one injected fault. Rates are outcomes per second; *began* is ISO 8601.

    *lasted_s* is the time from the start of the fault to its repair, and *recovery_s* from there until the service had
    recovered. *caught_up_s* is how long it then took to work off the jobs that had piled up, None if it took too long.
    *after* is the rate when they were worked off.
    """

    fault: str
    began: str
    shots: int
    lasted_s: float
    recovery_s: float
    before: float
    during: float
    caught_up_s: float | None
    after: float
    slow_after: bool


@dataclass(frozen=True, slots=True)
class DrillReport:
    """The results of a drill: the injected faults and their effects, and the check of all jobs."""

    seed: int
    injected: list[Injected]
    left_out: dict[str, str]
    """Faults that could not be injected on this machine, with the reasons."""
    verdict: CheckResult
    lost_by_redis: list[str]
    """Ids of jobs that Redis lost with its data, and that were enqueued again."""
    ended_by_themselves: int
    seconds: float

    @property
    def slow_after(self) -> list[str]:
        """The names of the faults after which the rate of finished jobs stayed lower than before.

        The drill does not fail for that.
        """
        return sorted({one.fault for one in self.injected if one.slow_after})

    @property
    def holds(self) -> bool:
        """Whether the drill passed: the check found no error, and no worker ended by itself."""
        return self.verdict.holds and not self.ended_by_themselves


class Drill:
    """Injects faults into an arena under load, and checks all jobs at the end.

    *report* is called with lines of text on its progress.
    """

    def __init__(self, arena: Arena, log: Log, *, rate: float, seed: int, report: Callable[[str], None]) -> None:
        self._arena = arena
        self._log = log
        self._rate = rate
        self._seed = seed
        self._report = report
        self._chance = random.Random(seed)
        self._injected: list[Injected] = []
        self._left_out: dict[str, str] = {}

    async def mix(self, minutes: float) -> DrillReport:
        """Inject random faults for *minutes* minutes, then check all jobs; return the report.

        Faults by which Redis loses its queue are left out, and on servers that the user named those that need own
        servers.
        """

        async def faults() -> None:
            end_s = time.monotonic() + 60 * minutes
            named = self._arena.named is not None
            names = [f.name for f in FAULTS.values() if not f.loses_queue and not (named and f.needs_own_servers)]
            while time.monotonic() < end_s:
                name = self._chance.choice(names)
                if name not in self._left_out:
                    await self._inject(FAULTS[name])

        return await self._run(faults)

    async def repeat(self, names: list[str], times: int) -> DrillReport:
        """Inject the faults *names* in this order, *times* times over, then check all jobs; return the report."""

        async def faults() -> None:
            for _ in range(times):
                for name in names:
                    await self._inject(FAULTS[name])

        return await self._run(faults)

    async def books(self, *, since: datetime) -> CheckResult:
        """Check all jobs of the load that began at *since*; return errors in the database, and leases left in Redis.

        A lease is the time for which a worker holds jobs. The queue must be empty.
        """
        longest_s = max((one.lasted_s + one.recovery_s for one in self._injected), default=0.0)
        gap = timedelta(seconds=longest_s + 2 * _TICK_S)
        verdict = await check(self._arena.urls.database, self._log, since=since, longest_gap=gap)
        verdict.add("leases_left", await self._leases_left())
        return verdict

    async def _run(self, faults: Callable[[], Awaitable[None]]) -> DrillReport:
        began, began_s = self._arena.now(), time.monotonic()
        async with self._load():
            await self._until(self._arena.outcomes, _START_WAIT_S, "no worker has done a job")
            await self._catch_up()
            await asyncio.sleep(_CALM_S)
            await faults()
        lost = await self._work_off()
        verdict = await self.books(since=began)
        return DrillReport(
            seed=self._seed,
            injected=self._injected,
            left_out=self._left_out,
            verdict=verdict,
            lost_by_redis=lost,
            ended_by_themselves=self._arena.ended_by_themselves,
            seconds=time.monotonic() - began_s,
        )

    # ---------------------------------------------------------------- load

    @asynccontextmanager
    async def _load(self) -> AsyncGenerator[None]:
        """Enqueue jobs at a steady rate while the block runs."""
        async with self._producing(self._rate) as producer:
            feeding = asyncio.create_task(self._feed(producer))
            try:
                yield
            finally:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
            await self._end(producer)

    @asynccontextmanager
    async def _producing(self, rate: float) -> AsyncGenerator[asyncio.subprocess.Process]:
        """Start a producer for the block. It is killed at the end if it still runs."""
        producer = await self._arena.start_producer(rate)
        try:
            yield producer
        finally:
            if producer.returncode is None:
                producer.kill()
                await producer.wait()

    async def _feed(self, producer: asyncio.subprocess.Process) -> None:
        assert producer.stdin is not None
        began_s, given = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - began_s) * self._rate)
            feed(producer, self._log.write(due - given))
            given = due
            await producer.stdin.drain()
            await asyncio.sleep(_SLICE_S)

    async def _end(self, producer: asyncio.subprocess.Process) -> None:
        """Wait until the producer has enqueued all that it was given.

        If it failed, all jobs of the log are enqueued again, which does nothing to those that were. Raises `DrillError`
        if it refused jobs.
        """
        said, complained = await _ended(producer)
        if producer.returncode:
            self._report(f"the producer gave up, so all is enqueued again: {complained.decode().strip()[-200:]}")
            await self._enqueue_again()
        elif json.loads(said)["refused"]:
            raise DrillError(f"the producer refused jobs of the drill: {complained.decode()[-500:]}")

    async def _enqueue_again(self) -> None:
        async with self._producing(1_000_000) as producer:
            assert producer.stdin is not None
            for line in self._log.commands():
                feed(producer, [line])
                await producer.stdin.drain()
            await _ended(producer)

    async def _work_off(self) -> list[str]:
        """Wait until the queue is empty; return the ids of jobs that a fault of Redis has lost.

        These are enqueued again, and waited for.
        """
        await self._until(self._queue_is_empty, _DRAIN_WAIT_S, _NOT_EMPTY)
        done = {row[0] for row in await self._arena.fetch("SELECT job_id FROM public.job_results")}
        lost = [job.id for job in self._log.jobs() if job.id not in done]
        if not lost or not any(FAULTS[one.fault].loses_queue for one in self._injected):
            return []
        await self._enqueue_again()
        await self._until(self._queue_is_empty, _DRAIN_WAIT_S, _NOT_EMPTY)
        return lost

    async def _until(self, condition: Callable[[], Awaitable[object]], wait_s: float, otherwise: str) -> None:
        """Wait until *condition* returns a true value. Raises `DrillError` after *wait_s* seconds.

        The error has the text *otherwise* and the last lines of the workers' logs.
        """
        try:
            await self._arena.until(condition, wait_s)
        except TimeoutError:
            said = self._arena.last_words()
            raise DrillError(f"{otherwise} within {wait_s:.0f} s; the workers' logs end with: {said}") from None

    async def _leases_left(self) -> list[str]:
        """Return the owners that still hold a lease although no job is left.

        Leases of dead workers have 15 s to end first.
        """
        with suppress(TimeoutError):
            await self._arena.until(self._leases_are_over, _LEASES_WAIT_S)
        return await self._arena.leases()

    async def _leases_are_over(self) -> bool:
        return not await self._arena.leases()

    async def _queue_is_empty(self) -> bool:
        return not await self._arena.queued()

    # ---------------------------------------------------------------- faults

    async def _inject(self, fault: Fault) -> None:
        before = await self._rate_of(_CALM_S)
        steady = self._rate if await self._is_worked_off() else min(self._rate, before)
        began = self._arena.now()
        try:
            jobs = await fault.inject(self._arena, self._chance)
            mended = self._arena.now()
            recovered = await self._recovered(began, mended, jobs)
        except NotHereError as error:
            self._left_out[fault.name] = str(error)
            self._report(f"{fault.name}: left out, {error}")
            return
        except (TimeoutError, DrillError) as error:
            raise DrillError(f"{fault.name}: {error or 'it could not be injected in time'}") from None
        during = (await self._arena.fetch(_SINCE, began))[0][0] / max((recovered - began).total_seconds(), 1e-3)
        caught_up_s = await self._catch_up()
        await asyncio.sleep(_CALM_S)
        after = await self._rate_of(_CALM_S)
        injected = Injected(
            fault=fault.name,
            began=began.isoformat(),
            shots=self._arena.shots if fault.is_burst else 1,
            lasted_s=round((mended - began).total_seconds(), 2),
            recovery_s=round((recovered - mended).total_seconds(), 2),
            before=round(before, 1),
            during=round(during, 1),
            caught_up_s=caught_up_s,
            after=round(after, 1),
            slow_after=after < _ENOUGH * steady,
        )
        self._injected.append(injected)
        self._report(f"{fault.name}: {injected.lasted_s:.1f} s, recovered after {injected.recovery_s:.1f} s")

    async def _catch_up(self) -> float | None:
        """Wait until the jobs that have piled up are worked off; return the seconds it took, or None after 30 s."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(_CATCH_UP_WAIT_S):
                while not await self._is_worked_off():  # noqa: ASYNC110  (a count of rows has no event to wait on)
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            return None
        return round(time.monotonic() - began_s, 2)

    async def _is_worked_off(self) -> bool:
        """Return whether the jobs without an outcome are fewer than the load of one second.

        Some jobs are always without one, such as orders whose user does not exist, which are retried.
        """
        return self._log.count - await self._arena.outcomes() < self._rate

    async def _rate_of(self, seconds: float) -> float:
        since = self._arena.now() - timedelta(seconds=seconds)
        return (await self._arena.fetch(_SINCE, since))[0][0] / seconds

    async def _recovered(self, began: datetime, mended: datetime, jobs: list[str] | None) -> datetime:
        """Wait until the service has recovered from a fault, and return when that was.

        It has recovered at the last outcome of *jobs*, or if *jobs* is None at the first outcome of any job after
        *mended*. Raises `DrillError` after 60 s.
        """
        found: datetime | None = None

        async def is_there() -> bool:
            nonlocal found
            if jobs is None:
                count, found = (await self._arena.fetch(_SINCE, mended))[0]
                return count > 0
            count, found = (await self._arena.fetch(_ENDED, jobs))[0]
            return count == len(jobs)

        try:
            await self._arena.until(is_there, _RECOVERY_WAIT_S)
        except TimeoutError:
            raise DrillError(f"no recovery within {_RECOVERY_WAIT_S:.0f} s") from None
        return max(found or began, mended)


async def _ended(producer: asyncio.subprocess.Process) -> tuple[bytes, bytes]:
    """Close the producer's standard input, wait for its end, and return its standard output and standard error."""
    assert producer.stdin is not None
    producer.stdin.close()
    return await producer.communicate()
