"""Runs the jobs that a worker has claimed, each in a task of its own, until Redis has acknowledged how they ended.

The task makes an attempt at the job (`attempt`), through `run_job` if observers have wrapped it, and hands the ending
over to be acknowledged. It may go on after that, in the hook `after_job_end` or in a wrapper.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import Any

import structlog

from tidepool.engine import lines
from tidepool.engine.attempt import Attempts
from tidepool.engine.concurrency import Concurrency
from tidepool.engine.host import Host
from tidepool.engine.takeover import RUN_JOB
from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Release, RetryLater
from tidepool.queue.finisher import Done, Ending
from tidepool.queue.holding import Holding

log = structlog.get_logger(__name__)

_GIVEN_BACK_MS = 1000
"""Milliseconds until a job is due again that was not run, because of a wrapper of `run_job` or a bug."""
_SMALL_BYTES = 4096
"""Jobs of up to this many bytes are not counted against `max_held_bytes`, since `max_jobs` bounds them."""
_job: ContextVar[Job] = ContextVar("tidepool job")
"""The job of the current task: arq's `run_job` gets only its id, which another job may have, too."""


class RunningJobs:
    """The jobs that the worker *host* has claimed, until *holding* has acknowledged how each has ended.

    *freed* is called when jobs have been acknowledged, and when one that went on after that has ended: the worker may
    then have room for others.
    """

    def __init__(self, host: Host, holding: Holding, freed: Callable[[], None]) -> None:
        limits = host.tidepool_options.concurrency
        self._host = host
        self._holding = holding
        self._freed = freed
        self._attempts = Attempts(host)
        self._concurrency = Concurrency(limits) if limits else None
        self.left = self._attempts.left
        """The jobs that are left to other workers; the worker does not claim those that it skips."""
        self.count = 0
        """Number of jobs whose attempt has begun and has not ended."""
        self.held_bytes = 0
        """Total bytes of the jobs that are claimed and not yet acknowledged, without small jobs."""
        self._after: set[asyncio.Task[None]] = set()
        """The tasks of acknowledged jobs that go on, in a hook `after_job_end` or a wrapper of `run_job`."""
        self._inner: dict[Job, asyncio.Task[Any]] = {}
        """The task that runs the job's function, if `run_job` is wrapped; the wrapper may have put it into its own."""

    def start(self, jobs: Iterable[Job]) -> None:
        """Begin an attempt at each of *jobs*, which the worker has just claimed.

        One whose function may not run more often at a time is put back, as if it had not been claimed.
        """
        is_wrapped = getattr(self._host.run_job, "__func__", None) is not RUN_JOB
        run = self._run_wrapped if is_wrapped else self._run
        for job in jobs:
            if self._concurrency is not None and not self._may_begin(job, self._concurrency):
                continue
            self.held_bytes += _counted_bytes(job)
            self.count += 1
            self._host.tasks[job] = self._host.loop.create_task(run(job))

    async def recall(self, room: int) -> None:
        """Make up to *room* jobs due again that were put back, if no more than allowed run of their function now."""
        if self._concurrency is not None:
            await self._holding.recall(self._concurrency.recalled(room))

    def abort(self, jobs: Iterable[Job]) -> None:
        """Cancel the functions of *jobs*, as their clients have asked."""
        for job in jobs:
            if job.is_running:
                job.is_aborted = True
                self._inner.get(job, self._host.tasks[job]).cancel()

    def acknowledged(self, jobs: Sequence[Job]) -> None:
        """Record that Redis has acknowledged the endings of *jobs*."""
        for job in jobs:
            task = self._host.tasks.pop(job, None)
            if task is None:
                continue
            if self.held_bytes:
                self.held_bytes -= _counted_bytes(job)
            if not task.done():
                self._after.add(task)
                task.add_done_callback(self._has_gone)
        if self._concurrency is not None:
            self._concurrency.acknowledged(jobs)
        self._freed()

    def _has_gone(self, task: asyncio.Task[None]) -> None:
        self._after.discard(task)
        self._freed()

    @property
    def places(self) -> int:
        """Number of jobs that take a place: those not yet acknowledged, and those that go on after that."""
        return len(self._host.tasks) + len(self._after)

    async def wait(self, again_s: float) -> None:
        """Wait until all jobs, which have been cancelled, have ended; cancel them again every *again_s* seconds."""
        while running := [task for task in (*self._host.tasks.values(), *self._after) if not task.done()]:
            _, late = await asyncio.wait(running, timeout=again_s)
            for task in late:
                task.cancel()

    def _may_begin(self, job: Job, concurrency: Concurrency) -> bool:
        """Return whether a job may run within its function's limit; if not, put it back."""
        self._attempts.decode(job)
        later = None if job.is_aborted and self._host.allow_abort_jobs else concurrency.begin(job)
        if later is not None:
            self._holding.finish(job, later)
        return later is None

    # ---------------------------------------------------------------- the task of one job

    async def _run(self, job: Job) -> None:
        """Make an attempt at a job, end it, and call the hook `after_job_end` if the attempt had a context."""
        try:
            ending = await self._attempts.make(job)
            if self._attempts.has_reports:
                await self._attempts.report(job, ending)
        except asyncio.CancelledError as error:
            ending = self._attempts.unsettled(job, error)
        except Exception as error:
            log.exception("job.unsettled", job_id=lines.shown_id(job))
            ending = self._attempts.unsettled(job, error, delay_ms=_GIVEN_BACK_MS)
        except BaseException as error:  # it ends the process
            self._end(job, self._attempts.exited(job, error))
            raise
        self._end(job, ending)
        if self._host.after_job_end and job.context is not None:
            await self._holding.drain()
            await self._attempts.call_hook("after_job_end", job)

    async def _run_wrapped(self, job: Job) -> None:
        """Run a job through `run_job`, which observers have wrapped, and make sure that it ends."""
        _job.set(job)
        try:
            await self._host.run_job(job.queue_id, job.due_ms)
        except Exception:
            log.exception("job.unsettled", job_id=lines.shown_id(job))
        finally:
            await self._let_inner_end(job)
            self._end(job, Release(_GIVEN_BACK_MS))

    async def run_current(self) -> None:
        """Run the job of the current task: what arq's `run_job` does within its wrappers."""
        job, task = _job.get(), asyncio.current_task()
        if task is None or job.has_ended or job in self._inner:
            return  # a wrapper calls it a second time, or after it was cancelled
        self._inner[job] = task
        try:
            await self._run(job)
        finally:
            del self._inner[job]

    async def _let_inner_end(self, job: Job) -> None:
        """Wait for the function of a job whose wrapper has left it behind; a cancellation is passed on to it."""
        while (inner := self._inner.get(job)) is not None:
            try:
                await asyncio.wait([inner])
            except asyncio.CancelledError:
                inner.cancel()

    def _end(self, job: Job, ending: Ending) -> None:
        """Count how the attempt at a job ended, and have it acknowledged, unless that is done already."""
        if job.has_ended:
            return
        job.has_ended = True
        self.count -= 1
        if self._concurrency is not None:
            self._concurrency.end(job)
        if isinstance(ending, (RetryLater, Release)):
            self._host.jobs_retried += 1
        elif isinstance(ending, Done) and ending.success:
            self._host.jobs_complete += 1
        else:
            self._host.jobs_failed += 1
        self._holding.finish(job, ending)


def _counted_bytes(job: Job) -> int:
    """Return the bytes of a job that count against `max_held_bytes`: 0 for a small one."""
    size = len(job.queue_id) + (len(job.payload) if isinstance(job.payload, bytes) else 0)
    return size if size > _SMALL_BYTES else 0
