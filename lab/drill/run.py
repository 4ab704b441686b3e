"""One drill: a steady load, faults one after the other, and the books checked when all is worked off."""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from lab.drill.arena import Arena, feed
from lab.drill.check import Verdict, check
from lab.drill.faults import FAULTS
from lab.drill.faults.breaking import Fault, NotHereError
from lab.drill.log import Log
from tidepool.cli.terminal import CommandError

_SLICE_S = 0.1
_LOOK_S = 0.3
_CALM_S = 3.0
"""Before and after each fault, for the rates to compare."""
_START_WAIT_S = 60.0
_RECOVERY_WAIT_S = 60.0
_CATCH_UP_WAIT_S = 30.0
_ENOUGH = 0.9
"""Of the rate before, or of the load where the workers can keep up with it: less than that is slow."""
_DRAIN_WAIT_S = 600.0
_LEASES_WAIT_S = 15.0
_NOT_EMPTY = "the queue was not worked off"
_TICK_S = 1.0
_SINCE = "SELECT count(*), min(finished_at) FROM job_results WHERE finished_at >= $1"
_ENDED = (
    "SELECT count(*), max(finished_at) FILTER (WHERE reason IS DISTINCT FROM 'unknown_user')"
    " FROM job_results WHERE job_id = ANY ($1)"  # an order for nobody is tried for twelve seconds, fault or not
)

Told = Callable[[str], None]


class DrillError(CommandError):
    """The drill cannot go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Injected:
    """What one fault did. Rates are outcomes a second; *began* is ISO 8601.

    *after* is measured when what had piled up is worked off, *caught_up_s* after the recovery; None: it took too long.
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
class Report:
    """The end of a drill."""

    seed: int
    injected: list[Injected]
    left_out: dict[str, str]
    """Faults that could not be injected here, and why."""
    verdict: Verdict
    lost_by_redis: list[str]
    """Jobs that Redis lost with its data, and that were enqueued again."""
    ended_by_themselves: int
    seconds: float

    @property
    def slow_after(self) -> list[str]:
        """The faults after which the rate was not what it had been, though the books may hold."""
        return sorted({one.fault for one in self.injected if one.slow_after})

    @property
    def holds(self) -> bool:
        """Whether no job is lost, doubled or wrong, nothing is left behind, and no worker ended by itself."""
        return self.verdict.holds and not self.ended_by_themselves


class Drill:
    """Runs faults on an arena. *told* hears what happens, line by line."""

    def __init__(self, arena: Arena, log: Log, *, rate: float, seed: int, told: Told) -> None:
        self._arena = arena
        self._log = log
        self._rate = rate
        self._seed = seed
        self._told = told
        self._chance = random.Random(seed)
        self._injected: list[Injected] = []
        self._left_out: dict[str, str] = {}

    async def mix(self, minutes: float) -> Report:
        """Inject faults chosen by chance, for so long."""

        async def faults() -> None:
            end_s = time.monotonic() + 60 * minutes
            named = self._arena.named is not None
            names = [f.name for f in FAULTS.values() if not f.loses_queue and not (named and f.needs_own_servers)]
            while time.monotonic() < end_s:
                name = self._chance.choice(names)
                if name not in self._left_out:
                    await self._inject(FAULTS[name])

        return await self._run(faults)

    async def repeat(self, names: list[str], times: int) -> Report:
        """Inject each of *names* so many times."""

        async def faults() -> None:
            for _ in range(times):
                for name in names:
                    await self._inject(FAULTS[name])

        return await self._run(faults)

    async def books(self, *, since: datetime) -> Verdict:
        """Return what is wrong in the database, and what is left in Redis, after a load that began at *since*."""
        longest_s = max((one.lasted_s + one.recovery_s for one in self._injected), default=0.0)
        gap = timedelta(seconds=longest_s + 2 * _TICK_S)
        verdict = await check(self._arena.urls.database, self._log, since=since, longest_gap=gap)
        verdict.add("leases_left", await self._leases_left())
        return verdict

    async def _run(self, faults: Callable[[], Awaitable[None]]) -> Report:
        began, began_s = self._arena.now(), time.monotonic()
        async with self._load():
            await self._until(self._arena.outcomes, _START_WAIT_S, "no worker has done a job")
            await self._catch_up()
            await asyncio.sleep(_CALM_S)
            await faults()
        lost = await self._work_off()
        verdict = await self.books(since=began)
        return Report(
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
        """Enqueue at a steady rate for the length of the block."""
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
        """Have a producer for the length of the block; kill it where that is cut short before it has ended."""
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
        """Let the producer enqueue what it has been given; what it cannot say was enqueued is enqueued again."""
        said, complained = await _ended(producer)
        if producer.returncode:
            self._told(f"the producer gave up, so all is enqueued again: {complained.decode().strip()[-200:]}")
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
        """Wait until the queue is empty; enqueue again, and return, what Redis has lost."""
        await self._until(self._queue_is_empty, _DRAIN_WAIT_S, _NOT_EMPTY)
        done = {row[0] for row in await self._arena.fetch("SELECT job_id FROM job_results")}
        lost = [job["id"] for job in self._log.jobs() if job["id"] not in done]
        if not lost or not any(FAULTS[one.fault].loses_queue for one in self._injected):
            return []
        await self._enqueue_again()
        await self._until(self._queue_is_empty, _DRAIN_WAIT_S, _NOT_EMPTY)
        return lost

    async def _until(self, condition: Callable[[], Awaitable[object]], wait_s: float, otherwise: str) -> None:
        """Wait for *condition*; raises `DrillError` with what the workers said last where that takes too long."""
        try:
            await self._arena.until(condition, wait_s)
        except TimeoutError:
            said = self._arena.last_words()
            raise DrillError(f"{otherwise} within {wait_s:.0f} s; the workers' logs end with: {said}") from None

    async def _leases_left(self) -> list[str]:
        """Return who holds a lease although there is no job left, and the dead ones have had their time."""
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
            self._told(f"{fault.name}: left out, {error}")
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
        self._told(f"{fault.name}: {injected.lasted_s:.1f} s, recovered after {injected.recovery_s:.1f} s")

    async def _catch_up(self) -> float | None:
        """Wait until what has piled up is worked off; returns how long that took, or None where it takes too long."""
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(_CATCH_UP_WAIT_S):
                while not await self._is_worked_off():  # noqa: ASYNC110  (a count of rows has no event to wait on)
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            return None
        return round(time.monotonic() - began_s, 2)

    async def _is_worked_off(self) -> bool:
        """Whether less than a second's jobs have no outcome yet. Some never have: orders that wait for a user."""
        return self._log.count - await self._arena.outcomes() < self._rate

    async def _rate_of(self, seconds: float) -> float:
        since = self._arena.now() - timedelta(seconds=seconds)
        return (await self._arena.fetch(_SINCE, since))[0][0] / seconds

    async def _recovered(self, began: datetime, mended: datetime, jobs: list[str] | None) -> datetime:
        """Wait for the last outcome of *jobs*, or the first of any job after the mend; returns when it came."""
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
    """Close the producer's input, and return what it says when it has done all of it."""
    assert producer.stdin is not None
    producer.stdin.close()
    return await producer.communicate()
