"""arq's Worker with batched Redis I/O: the same command, options, wire format and behaviour, but many times as fast.

Settings, signals, cron, health check, abort and burst mode are arq's. What differs is how jobs are fetched and ended:
`queue.holding` claims many in a round trip, renews their lease and acknowledges them, `running_jobs` runs each in a
task of its own, and `queue.wakeup` wakes an idle worker. An outage of Redis never ends the worker.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from signal import Signals
from typing import Any

import arq.worker
import structlog
from arq.connections import ArqRedis, create_pool

from tidepool import logs, process
from tidepool.engine import threads
from tidepool.engine.admission import name_of_deserializer, name_of_function
from tidepool.engine.concurrency import check_limits
from tidepool.engine.options import ArqContext, EngineOptions
from tidepool.engine.running_jobs import RunningJobs
from tidepool.engine.takeover import take_over
from tidepool.fleet.identity import Identity
from tidepool.jobs.job import Job
from tidepool.jobs.job_type import JobTypes
from tidepool.queue import wire
from tidepool.queue.faults import Outage, RedisFault
from tidepool.queue.holding import Holding
from tidepool.queue.scoped import ScopedRedis
from tidepool.queue.scripts import MOST_AT_ONCE
from tidepool.queue.wakeup import Wakeup
from tidepool.repeating import FailureLog

log = structlog.get_logger(__name__)
arq_log = logging.getLogger("arq.worker")

_FAILED_ROUND_DELAY_S = 1.0
"""Delay in seconds after an unexpected error of the main loop."""
_HEARTBEAT_S = 0.5
"""Seconds between two heartbeats, which check cron jobs, aborts and the health key. arq's cron needs 0.5 s or less."""
_ANNOUNCEMENT_S = 60.0
"""Seconds between two announcements of what this worker understands; each counts for ten minutes."""


class StartError(Exception):
    """The worker cannot start, and waiting would not help; the text is one line that is shown to the user."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """The objects that a worker uses while it is connected to Redis."""

    holding: Holding
    wakeup: Wakeup
    jobs: RunningJobs


class Worker(arq.worker.Worker):
    """The Worker that `arq worker.WorkerSettings` runs. It takes the options of `arq.worker.Worker`.

    Applications extend arq's class. So what this one adds to it has `tidepool` in its name, and hides nothing.
    """

    jobs_complete: int
    jobs_retried: int
    jobs_failed: int
    tasks: dict[Job, asyncio.Task[None]]  # pyright: ignore[reportIncompatibleVariableOverride]  (arq's have ids)
    tidepool_is_begun: bool = False
    """Whether `__init__` has been called; see `takeover`."""
    tidepool_max_jobs_run: int | None = None
    """Number of jobs that the worker runs before it ends by itself, retries included; None: any number.

    Set it before the worker runs. The worker claims no more jobs than that, and ends when the last of them has ended.
    """

    def __init__(self, functions: Sequence[Any] = (), *, tidepool: EngineOptions | None = None, **options: Any) -> None:
        self.tidepool_is_begun = True
        super().__init__(threads.accepted(functions), **options)
        given = options.get("ctx")
        self.ctx: ArqContext = self.ctx if given is None else given  # arq replaces an empty one by its own
        self.tidepool_options = tidepool or EngineOptions(leave_s=None)
        self.tidepool_observer = self.tidepool_options.observer() if self.tidepool_options.observer else None
        types = self.tidepool_options.typed.types if self.tidepool_options.typed else JobTypes(())
        check_limits(self.tidepool_options.concurrency, [name for name in self.functions if types.get(name) is None])
        self._tidepool_name = self.tidepool_options.owner or Identity.of_this_process().worker_id
        self._tidepool_next_heartbeat_s = self._tidepool_next_announcement_s = 0.0
        self._tidepool_failures = FailureLog("worker")
        self._tidepool_freed = asyncio.Event()
        self._tidepool_outage = Outage()
        self._tidepool_parts: _Parts | None = None
        self.tidepool_is_stopping = False

    @classmethod
    def install(cls) -> None:
        """Make this class the one of every worker that the process creates from now on."""
        take_over(cls)

    # ---------------------------------------------------------------- life

    def run(self) -> None:
        """Run until a signal stops the worker. Exits with status 2 if it cannot start, or Redis rejects a command."""
        try:
            super().run()
        except Exception as error:
            is_answer = RedisFault.of(error).is_answer
            if not isinstance(error, StartError) and not is_answer:
                raise
            logs.say(f"error: {'Redis refuses us: ' if is_answer else ''}{error}")
            raise SystemExit(2) from None

    async def main(self) -> None:
        """Connect, run the startup hook, and run jobs until cancelled, or in burst mode until the queue is empty."""
        parts = await self._tidepool_open()
        threads.wait_at_stop(lambda: self.tidepool_is_stopping)
        arq_log.info("Starting worker for %d functions: %s", len(self.functions), ", ".join(self.functions))
        await arq.worker.log_redis_info(self.pool, arq_log.info)  # pyright: ignore[reportPrivateImportUsage]  (tests patch it there)
        self.ctx["redis"] = self.pool
        if self.on_startup:
            await self.on_startup(self.ctx)
        if self.tidepool_observer is not None:
            await self.tidepool_observer.start(self.ctx, self._tidepool_name, self.functions)
        while not self.tidepool_is_stopping:
            try:
                worked = await self._poll_iteration()
                if await self._tidepool_is_done():
                    await parts.holding.drain()
                    return
                if self._tidepool_outage.is_on:
                    self._tidepool_outage.over()
                if not worked:
                    await self._tidepool_rest()
            except Exception as error:  # noqa: BLE001  (raised again if waiting cannot help)
                await parts.wakeup.close()  # its connections are as dead, and would meet the same trouble later
                await self._tidepool_outlast(error)
                parts.holding.doubt()

    async def _tidepool_outlast(self, error: Exception) -> None:
        """Wait after a failed round of the main loop. Raises *error* if Redis will never accept the command.

        An error that does not come from Redis comes from data or a hook: it is logged, and the worker goes on. In burst
        mode it is raised, as in arq.
        """
        if self.burst or RedisFault.of(error) is not RedisFault.NONE:
            await self._tidepool_outage.pause(error)
        else:
            self._tidepool_failures.log(error)
            await asyncio.sleep(_FAILED_ROUND_DELAY_S)

    async def close(self) -> None:
        """Put the jobs that the worker still holds back into the queue, and close everything, even if a step fails."""
        if not self._handle_signals:
            self.handle_sig(Signals.SIGUSR1)
        if self._pool is None:  # pyright: ignore[reportUnnecessaryComparison]  (arq annotates it too narrowly)
            return
        self.tidepool_is_stopping = True
        async with AsyncExitStack() as steps:  # the last one first
            steps.push_async_callback(self._tidepool_close_pool)
            if self.on_shutdown:
                steps.push_async_callback(self.on_shutdown, self.ctx)
            if self.tidepool_observer is not None:
                steps.push_async_callback(self.tidepool_observer.stop)
            if self._tidepool_parts is not None:
                steps.push_async_callback(self._tidepool_parts.wakeup.close)
                steps.push_async_callback(self._tidepool_parts.holding.close)
                steps.push_async_callback(self._tidepool_give_back, self._tidepool_parts.holding)
                await self._tidepool_parts.jobs.wait(self.tidepool_options.lease_s)

    async def _tidepool_close_pool(self) -> None:
        """Close the connections, and forget the jobs, which are given back: the worker may run again."""
        self._tidepool_parts = None
        self.tasks.clear()
        await self.pool.aclose(close_connection_pool=True)
        self._pool = None

    async def _tidepool_open(self) -> _Parts:
        if self._pool is None:  # pyright: ignore[reportUnnecessaryComparison]  (the same)
            self._pool = await (self.tidepool_options.connect or self._tidepool_connect_as_arq_does)()
        if self.tidepool_options.id_prefix:
            self._pool = ScopedRedis(self._pool, self.tidepool_options.id_prefix)
        self.tidepool_is_stopping = False
        self._tidepool_next_heartbeat_s = 0.0
        return self._tidepool_assembled()

    def _tidepool_assembled(self) -> _Parts:
        """Return the worker's parts; the first call after the connection is opened makes them."""
        if self._tidepool_parts is None:
            options = self.tidepool_options

            def acknowledged(jobs: Sequence[Job]) -> None:
                running.acknowledged(jobs)

            holding = Holding(
                self.pool,
                self.queue_name,
                name=self._tidepool_name,
                lease_s=options.lease_s,
                outage=self._tidepool_outage,
                acknowledged=acknowledged,
                max_job_bytes=options.max_job_bytes,
                longest_block_s=options.longest_block_s or self.in_progress_timeout_s,
            )
            running = RunningJobs(self, holding, self._tidepool_look_again)
            wakeup = Wakeup(self.pool, self.queue_name, poll_delay_s=self.poll_delay_s)
            self._tidepool_parts = _Parts(holding, wakeup, running)
        return self._tidepool_parts

    async def _tidepool_connect_as_arq_does(self) -> ArqRedis:
        return await create_pool(
            self.redis_settings,
            job_deserializer=self.job_deserializer,
            job_serializer=self.job_serializer,
            default_queue_name=self.queue_name,
            expires_extra_ms=self.expires_extra_ms,
        )

    async def _tidepool_give_back(self, holding: Holding) -> None:
        """Acknowledge finished jobs and put the others back into the queue; delete the health key.

        If Redis is unavailable, other workers take the jobs over when the lease ends.
        """
        try:
            await holding.give_back()
            await self.pool.delete(self.health_check_key)
        except Exception as error:
            if not isinstance(error, TimeoutError) and not RedisFault.of(error).is_outage:
                raise
            log.warning("worker.left_jobs", jobs=len(self.tasks), error=type(error).__name__)

    # ---------------------------------------------------------------- one round

    async def _poll_iteration(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]  (arq's returns None)
        """Claim jobs and start them, and do the heartbeat if it is due. This is one round of the main loop.

        Returns whether there may be more jobs to claim at once: the claim got as many as it asked for, or stopped
        before the end of the due jobs.
        """
        beats = time.monotonic() >= self._tidepool_next_heartbeat_s
        if beats:
            await self._tidepool_announce()  # before the claim, whose jobs may become dead letters at once
        room = self._tidepool_room()
        started = await self.start_jobs()
        if started < room:
            await asyncio.sleep(0)
        if beats:
            self._tidepool_next_heartbeat_s = time.monotonic() + _HEARTBEAT_S
            if self.allow_abort_jobs and self.tasks:
                await self._cancel_aborted_jobs()
            await self.heart_beat()
            await self._tidepool_forget_gone_jobs()
        return room > 0 and (room == started or self._tidepool_assembled().holding.is_midway)

    async def start_jobs(self, job_ids: Sequence[bytes] = ()) -> int:  # noqa: ARG002  # pyright: ignore[reportIncompatibleMethodOverride]
        """Claim (reserve for this worker) as many due jobs as its limits allow, and start them; return their number.

        *job_ids* is ignored. arq's own worker reads ids and then claims the jobs one by one; here one call to Redis
        finds and claims the jobs.
        """
        parts = self._tidepool_assembled()
        await parts.jobs.recall(self._tidepool_room())
        max_bytes = self.tidepool_options.max_held_bytes - parts.jobs.held_bytes
        claimed = await parts.holding.claim(self._tidepool_room(), max_bytes, skipped=parts.jobs.left.skipped())
        parts.jobs.start(claimed)
        return len(claimed)

    def _tidepool_room(self) -> int:
        """Return how many jobs may be claimed now, within the limits of jobs, bytes and a burst."""
        jobs = self._tidepool_assembled().jobs
        room = min(self.max_jobs - jobs.places, MOST_AT_ONCE, self.queue_read_limit)
        if (limit := self._tidepool_jobs_limit()) is not None:
            room = min(room, limit - self._jobs_started())
        has_room = jobs.held_bytes < self.tidepool_options.max_held_bytes
        return room if has_room and self.allow_pick_jobs and self.tidepool_options.may_claim() else 0

    async def tidepool_run_job(self, job_id: str, score: int) -> None:  # noqa: ARG002  (arq's)
        """Run the job of the current task. `run_job` of arq's Worker calls this method; see `takeover`."""
        await self._tidepool_assembled().jobs.run_current()

    def _tidepool_look_again(self) -> None:
        """Wake the main loop: there may be room for another job, or none may be left to wait for."""
        self._tidepool_freed.set()
        if self._tidepool_parts is not None:
            self._tidepool_parts.wakeup.set()

    async def _cancel_aborted_jobs(self) -> None:
        """Cancel those running jobs of this worker that a client asked to abort.

        Requests for other workers' jobs are not read, however many there are. As in arq, requests that are dated in the
        future are deleted.
        """
        parts = self._tidepool_assembled()
        running = {job.queue_id: job for job in self.tasks if job.is_running}
        try:
            aborted = await parts.holding.aborted(list(running)) if await self.pool.zcard(wire.ABORTS) else ()
        except Exception as error:
            if RedisFault.of(error) is not RedisFault.WRONG_TYPE:
                raise
            return  # the next claim logs it
        parts.jobs.abort(running[queue_id] for queue_id in aborted)

    async def run_cron(self, n: datetime, delay: float, num_windows: int = 2) -> None:
        """Enqueue the cron jobs that are due within *num_windows* times *delay* seconds from *n*, the time now.

        arq's first call only finds each job's next tick, and the second, half a second later, enqueues it. If the tick
        is in between, another worker has run it by then: it would be enqueued again, and run when its in-progress key
        has expired, a minute later. So the ticks are found before that call here.
        """
        for cron_job in self.cron_jobs:
            if cron_job.next_run is None and not cron_job.run_at_startup:
                cron_job.calculate_next(n)
        await super().run_cron(n, delay, num_windows)

    async def record_health(self) -> None:
        """Report a heartbeat (`EngineOptions.beaten`), and renew the key that `arq --check` reads if that is due.

        The key is not renewed while the worker is not ready.
        """
        self.tidepool_options.beaten()
        is_ready = self.tidepool_options.is_ready()
        if self.tidepool_observer is not None:
            is_ready = self.tidepool_observer.beaten() and is_ready
        if is_ready:
            await super().record_health()

    async def _tidepool_forget_gone_jobs(self) -> None:
        """Skip no more the jobs that others have run meanwhile, as their ids may be used again."""
        parts = self._tidepool_assembled()
        if skipped := parts.jobs.left.skipped():
            parts.jobs.left.gone(await parts.holding.gone(skipped))

    async def _tidepool_announce(self) -> None:
        """Record in Redis, once a minute, which jobs this worker understands, so that others leave them to it."""
        if self.tidepool_options.leave_s is not None and time.monotonic() >= self._tidepool_next_announcement_s:
            deserializer = name_of_deserializer(self.job_deserializer)
            await self._tidepool_assembled().holding.announce(map(name_of_function, self.functions), deserializer)
            self._tidepool_next_announcement_s = time.monotonic() + _ANNOUNCEMENT_S

    # ---------------------------------------------------------------- rest

    async def _tidepool_rest(self) -> None:
        """Wait until another job may be claimed, because one has ended or is due; until the next heartbeat at most."""
        timeout_s = max(0.0, self._tidepool_next_heartbeat_s - time.monotonic())
        if self._tidepool_room() <= 0:
            self._tidepool_freed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):  # not wait_for: in 3.11 it can swallow the stop's cancel
                    await self._tidepool_freed.wait()
            return
        parts = self._tidepool_assembled()
        await parts.wakeup.wait(timeout_s, skipped=parts.jobs.left.skipped())

    async def _tidepool_is_done(self) -> bool:
        """Return whether the worker ends by itself now: in burst mode, or after `max_jobs_run` jobs."""
        if self._tidepool_assembled().jobs.places:
            return False
        limit = self._tidepool_jobs_limit()
        if limit is not None and limit <= self._jobs_started():
            return True
        return self.burst and not await self.pool.zcard(self.queue_name)

    def _tidepool_jobs_limit(self) -> int | None:
        """Return how many jobs the worker may start in its life; None: any number."""
        return self.max_burst_jobs if self.burst and self.max_burst_jobs >= 0 else self.tidepool_max_jobs_run

    # ---------------------------------------------------------------- counting and stopping

    def _jobs_started(self) -> int:
        return self.jobs_complete + self.jobs_retried + self.jobs_failed + self._tidepool_assembled().jobs.count

    def _add_signal_handler(self, signum: Signals, handler: Callable[[Signals], None]) -> None:
        """Set the handler of a signal, unless the parent process made it ignored.

        A shell does that for background commands.
        """
        if not process.stays_ignored(signum):
            super()._add_signal_handler(signum, handler)

    def handle_sig(self, signum: Signals) -> None:
        """Stop the worker at once: running jobs are cancelled and put back into the queue."""
        self.tidepool_is_stopping = True
        super().handle_sig(signum)

    async def _wait_for_tasks_to_complete(self, signum: Signals) -> None:
        try:
            await super()._wait_for_tasks_to_complete(signum)
        finally:
            self.tidepool_is_stopping = True
