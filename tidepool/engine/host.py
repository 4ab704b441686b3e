"""The attributes of a worker that the parts of the engine read."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from arq.cron import CronJob
from arq.jobs import Deserializer, Serializer
from arq.typing import StartupShutdown
from arq.worker import Function

from tidepool.engine.options import ArqContext, EngineOptions, Observer
from tidepool.jobs.job import Job


class Host(Protocol):
    """A worker: its settings, under arq's names, its running jobs, and the counts that it reports."""

    tidepool_options: EngineOptions
    tidepool_observer: Observer | None
    tidepool_is_stopping: bool
    ctx: ArqContext
    functions: dict[str, Function | CronJob]
    burst: bool
    retry_jobs: bool
    allow_abort_jobs: bool
    max_tries: int
    job_timeout_s: float  # or None, like the next one: arq's annotations do not say so
    keep_result_s: float
    keep_result_forever: bool
    queue_name: str
    job_serializer: Serializer | None
    job_deserializer: Deserializer | None
    on_job_start: StartupShutdown | None
    on_job_end: StartupShutdown | None
    after_job_end: StartupShutdown | None
    log_results: bool
    loop: asyncio.AbstractEventLoop
    tasks: dict[Job, asyncio.Task[None]]
    """The jobs that are claimed and not yet acknowledged, each with the task that runs it."""
    jobs_complete: int
    jobs_retried: int
    jobs_failed: int

    @property
    def run_job(self) -> Callable[[str, int], Awaitable[None]]:
        """Arq's method, or what observers have put in its place."""
        ...
