"""arq's Worker with batched Redis I/O: the same command, options, wire format and meaning, many times the speed.

What is arq's stays arq's: settings, signals, cron, health check, abort, burst. Replaced is how jobs
come and go: `holding` claims many in a round trip, keeps their lease and finishes them (through
`leases`, `renewal` and `finisher`), `job_run` makes an attempt at each, `wakeup` ends the idle worker's
sleep, and trouble with Redis (`trouble`) never ends the worker.
"""

import asyncio
import functools
import gc
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from signal import Signals
from typing import Any

import arq.worker
import structlog
import uvloop
from arq.connections import ArqRedis, create_pool, log_redis_info

from tidepool import logs, process
from tidepool.engine.attempt import perform
from tidepool.periodic import FailureLog
from tidepool.queue import keys
from tidepool.queue.faults import Outage, is_answer, is_outage, is_refused_command, is_wrong_type, shown_text
from tidepool.queue.holding import Holding
from tidepool.queue.leases import MOST_AT_ONCE, Claimed, Finish
from tidepool.queue.wakeup import Wakeup

log = structlog.get_logger(__name__)
arq_log = logging.getLogger("arq.worker")

_HOOK_DELAY_MS = 1000
_FAILED_ROUND_DELAY_S = 1.0
_YOUNG_OBJECTS = 20_000
_SMALL_BYTES = 4096
_BEAT_S = 0.5
"""Between two looks at cron, aborts and the health key; arq's cron counts on at most this."""


class StartError(Exception):
    """The worker cannot start, and waiting would not help; the text is one line for the person who started it."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What arq's settings have no place for: the value of `ctx["engine"]`, all of it optional.

    *owner* names the process in Redis; *connect* makes the connection instead of arq's `create_pool`;
    while *may_claim* says no, no new jobs are claimed and those that are here are kept. *beaten* hears of every beat;
    while *is_ready* says no, the sign of life that `arq --check` asks for is not renewed, and ends.

    *max_job_bytes* is the limit of a job's content in Redis: a larger one is never read, and its result is an error.
    While the jobs at hand have *max_held_bytes* together or more, no others are claimed; those of less than 4 KiB are
    bounded by `max_jobs` alone and not counted. The arguments of a job of more than *max_kept_bytes* are not kept while
    it runs, nor in its result; None: they are, as in arq. *log_arguments*: the line of a job's start shows them.
    """

    owner: str = ""
    lease_s: float = 5.0
    connect: Callable[[], Awaitable[ArqRedis]] | None = None
    may_claim: Callable[[], bool] = lambda: True
    beaten: Callable[[], None] = lambda: None
    is_ready: Callable[[], bool] = lambda: True
    max_job_bytes: int = 64 * 1024 * 1024
    max_held_bytes: int = 64 * 1024 * 1024
    max_kept_bytes: int | None = None
    log_arguments: bool = True


class Worker(arq.worker.Worker):
    """The Worker that `arq worker.WorkerSettings` runs; see arq's for every option."""

    @functools.wraps(arq.worker.Worker.__init__)  # arq reads the option names off this signature
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        given = options.get("ctx")
        self.ctx = self.ctx if given is None else given  # arq replaces an empty one by its own
        self.options: EngineOptions = self.ctx.get("engine") or EngineOptions()
        self._name = self.options.owner or secrets.token_hex(8)
        self._next_beat_s = 0.0
        self._performing = 0
        self._held_bytes = 0
        self._failures = FailureLog("worker")
        self._sizes: dict[Any, int] = {}
        """Bytes of the jobs at hand that are not small, by the keys of `tasks`."""
        self._freed = asyncio.Event()
        self._outage = Outage()
        self._holding: Any = None
        self.is_stopping = False

    # ---------------------------------------------------------------- life

    def run(self) -> None:
        """Run until told to stop; exit status 2 where it could not start, or Redis refuses a command."""
        try:
            super().run()
        except Exception as error:
            if not isinstance(error, StartError) and not is_answer(error):
                raise
            logs.say(f"error: {'Redis refuses us: ' if is_answer(error) else ''}{error}")
            raise SystemExit(2) from None

    async def main(self) -> None:
        """Connect, start up, and work until cancelled, or in burst mode until the queue is empty."""
        await self._open()
        arq_log.info("Starting worker for %d functions: %s", len(self.functions), ", ".join(self.functions))
        await log_redis_info(self.pool, arq_log.info)
        self.ctx["redis"] = self.pool
        self.ctx["burst"] = self.burst
        if self.on_startup:
            await self.on_startup(self.ctx)
        while not self.is_stopping:
            try:
                worked = await self._poll_iteration()
                if self.burst and await self._burst_is_over():
                    await self._holding.drain()
                    return
                self._outage.over()
                if not worked:
                    await self._rest()
            except Exception as error:  # noqa: BLE001  (raised again if waiting cannot help)
                await self._wakeup.close()  # its connections are as dead, and would tell of the same trouble later
                await self._outlast(error)
                self._holding.doubt()

    async def _outlast(self, error: Exception) -> None:
        """Wait a little after a round that failed; raises *error* if it is a command that Redis will never take.

        An error that is no answer of Redis's comes from data or a hook: it ends a worker in burst mode only, as in arq.
        """
        if self.burst or is_outage(error) or is_refused_command(error):
            await self._outage.pause(error)
        else:
            self._failures.log(error)
            await asyncio.sleep(_FAILED_ROUND_DELAY_S)

    async def close(self) -> None:
        """Let go of what is still held, then close everything; each step whatever became of the one before."""
        if not self._handle_signals:
            self.handle_sig(Signals.SIGUSR1)
        if self._pool is None:  # pyright: ignore[reportUnnecessaryComparison]  (arq annotates it too narrowly)
            return
        self.is_stopping = True
        async with AsyncExitStack() as steps:  # the last one first
            steps.push_async_callback(self._close_pool)
            if self.on_shutdown:
                steps.push_async_callback(self.on_shutdown, self.ctx)
            if self._holding is not None:
                steps.push_async_callback(self._wakeup.close)
                steps.push_async_callback(self._holding.close)
                steps.push_async_callback(self._give_back)
            await self._let_jobs_end()

    async def _close_pool(self) -> None:
        self._holding = None
        await self.pool.aclose(close_connection_pool=True)
        self._pool = None

    async def _let_jobs_end(self) -> None:
        """Wait for the jobs that were told to stop; those that go on all the same are told again."""
        while running := [task for task in self.tasks.values() if not task.done()]:
            _, late = await asyncio.wait(running, timeout=self.options.lease_s)
            for task in late:
                task.cancel()

    async def _open(self) -> None:
        if self._pool is None:  # pyright: ignore[reportUnnecessaryComparison]  (the same)
            self._pool = await (self.options.connect or self._connect_as_arq_does)()
        self.is_stopping = False
        self._next_beat_s = 0.0
        self._assemble()

    def _assemble(self) -> None:
        """Make the engine's parts, on the connection that is open."""
        if self._holding is not None:
            return
        self._holding = Holding(
            self.pool,
            self.queue_name,
            name=self._name,
            lease_s=self.options.lease_s,
            outage=self._outage,
            acknowledged=self._acknowledged,
            max_job_bytes=self.options.max_job_bytes,
        )
        self._wakeup = Wakeup(self.pool, self.queue_name, poll_delay_s=self.poll_delay_s)

    async def _connect_as_arq_does(self) -> ArqRedis:
        return await create_pool(
            self.redis_settings,
            job_deserializer=self.job_deserializer,
            job_serializer=self.job_serializer,
            default_queue_name=self.queue_name,
            expires_extra_ms=self.expires_extra_ms,
        )

    async def _give_back(self) -> None:
        """Acknowledge what is done and give back the rest; if Redis is away, the lease will lapse by itself."""
        try:
            await self._holding.give_back()
            await self.pool.delete(self.health_check_key)
        except Exception as error:
            if not isinstance(error, TimeoutError) and not is_outage(error):
                raise
            log.warning("worker.left_jobs", jobs=len(self.tasks), error=type(error).__name__)

    # ---------------------------------------------------------------- one round

    async def _poll_iteration(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]  (arq's returns None)
        """Claim what there is room for and start it; look after aborts, cron and health when it is time.

        Returns whether there may be more to claim at once: the claim took all that it asked for, or did not come to
        the end of what is due.
        """
        self._assemble()
        room = self._room()
        started = await self.start_jobs()
        if started < room:
            await asyncio.sleep(0)
        if time.monotonic() >= self._next_beat_s:
            self._next_beat_s = time.monotonic() + _BEAT_S
            if self.allow_abort_jobs and self.job_tasks:
                await self._cancel_aborted_jobs()
            await self.heart_beat()
        return room > 0 and (room == started or self._holding.is_midway)

    async def start_jobs(self, job_ids: Sequence[bytes] = ()) -> int:  # noqa: ARG002  # pyright: ignore[reportIncompatibleMethodOverride]
        """Claim as many due jobs as there is room for and start them; returns how many.

        arq asks for ids first and claims one by one; here the claim itself finds them.
        """
        self._assemble()
        claimed = await self._holding.claim(self._room(), self.options.max_held_bytes - self._held_bytes)
        for job in claimed:
            self._start(job)
        if claimed:
            self._wakeup.claimed()
        return len(claimed)

    def _room(self) -> int:
        """Return how many jobs may be claimed now."""
        room = min(self.max_jobs - len(self.tasks), MOST_AT_ONCE, self.queue_read_limit)
        if self.burst and self.max_burst_jobs >= 0:
            room = min(room, self.max_burst_jobs - self._jobs_started())
        has_room = self._held_bytes < self.options.max_held_bytes
        return room if has_room and self.allow_pick_jobs and self.options.may_claim() else 0

    def _start(self, claimed: Claimed) -> None:
        tasks: dict[Any, Any] = self.tasks
        key: Any = (claimed.id, claimed.owner)  # no id can be made to look like another job's
        while key in tasks:  # its mark was deleted by somebody, or its finish is on the way
            key = (*key, "again")
        payload = claimed.payload
        size = len(claimed.id) + (len(payload) if isinstance(payload, bytes) else 0)
        if size > _SMALL_BYTES:
            self._sizes[key] = size
            self._held_bytes += size
        self._performing += 1
        tasks[key] = self.loop.create_task(self._run_claimed(claimed, key))

    async def _run_claimed(self, claimed: Claimed, key: Any) -> None:
        try:
            finish = await perform(self, claimed, self.tasks[key])
        except asyncio.CancelledError:
            finish = Finish(claimed.id, "release", owner=claimed.owner)
        except Exception:
            log.exception("hook.failed", job_id=shown_text(claimed.id))  # arq's worker would end here
            tries = str(claimed.failed_tries + 1).encode()
            finish = Finish(claimed.id, "again", tries, _HOOK_DELAY_MS, owner=claimed.owner)
        self._performing -= 1
        self._holding.finish(finish)
        if self.after_job_end:
            await self._holding.drain()
            await self.after_job_end({**self.ctx, "job_id": claimed.id})

    def _acknowledged(self, finishes: Sequence[Finish]) -> None:
        tasks: dict[Any, Any] = self.tasks
        for finish in finishes:
            key: tuple[str, ...] = (finish.id, finish.owner)
            while (again := (*key, "again")) in tasks:
                key = again
            tasks.pop(key, None)
            if self._sizes:
                self._held_bytes -= self._sizes.pop(key, 0)
        self._freed.set()
        self._wakeup.set()

    async def _cancel_aborted_jobs(self) -> None:
        """Cancel the jobs that run here and are to be aborted; nobody else's marks are read, however many there are.

        As in arq, marks from the future are removed.
        """
        try:
            aborted = await self._holding.aborted(list(self.job_tasks)) if await self.pool.zcard(keys.ABORTS) else ()
        except Exception as error:
            if not is_wrong_type(error):
                raise
            return  # the next claim logs it
        for job_id in aborted:
            task = self.job_tasks.get(job_id)
            if task is not None:
                self.aborting_tasks.add(job_id)
                task.cancel()

    async def record_health(self) -> None:
        """Renew the sign of life, if it is time."""
        self.options.beaten()
        if self.options.is_ready():
            await super().record_health()

    # ---------------------------------------------------------------- rest

    async def _rest(self) -> None:
        """Wait for room, for work, or for the next beat."""
        timeout_s = max(0.0, self._next_beat_s - time.monotonic())
        if self._room() <= 0:
            self._freed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):  # not wait_for: in 3.11 it can swallow the stop's cancel
                    await self._freed.wait()
            return
        await self._wakeup.wait(timeout_s)

    async def _burst_is_over(self) -> bool:
        if 0 <= self.max_burst_jobs <= self._jobs_started():
            await asyncio.gather(*self.tasks.values())
            return True
        return not self.tasks and not await self.pool.zcard(self.queue_name)

    # ---------------------------------------------------------------- counting and stopping

    def _jobs_started(self) -> int:
        return self.jobs_complete + self.jobs_retried + self.jobs_failed + self._performing

    def _add_signal_handler(self, signum: Signals, handler: Callable[[Signals], None]) -> None:
        """Handle a signal, unless the parent has let it be ignored, as a shell does for commands in the background."""
        if not process.stays_ignored(signum):
            super()._add_signal_handler(signum, handler)

    def handle_sig(self, signum: Signals) -> None:
        """Stop at once: what runs is cancelled and given back."""
        self.is_stopping = True
        super().handle_sig(signum)

    async def _wait_for_tasks_to_complete(self, signum: Signals) -> None:
        try:
            await super()._wait_for_tasks_to_complete(signum)
        finally:
            self.is_stopping = True


def install() -> None:
    """Make the `arq` command build this Worker, in a process prepared for it: uvloop, and rarer garbage collection.

    `arq worker.WorkerSettings` always builds `arq.worker.Worker`, looked up in that module by name; there
    is no setting for another class. Rebinding the name where the settings are handed out is the one seam.
    arq is pinned to 0.28, and a test makes sure that the command runs ours.
    """
    module: Any = arq.worker
    module.Worker = Worker
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # pyright: ignore[reportDeprecated]  (arq asks the policy)
    # A thousand jobs at hand are some ten thousand young objects, none of them garbage: by default the collector
    # goes through them, and through all modules, several times for each batch, a sixth of the worker's time.
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)
