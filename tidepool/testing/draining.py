"""Runs the queued jobs of an application in the calling process, and returns their outcomes."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from tidepool import servers
from tidepool.app import App
from tidepool.client import JobClient, open_client
from tidepool.engine.worker import Worker
from tidepool.jobs.outcomes import Applied, Failed, Outcome, Rejected
from tidepool.jobs.submission import Submission
from tidepool.lifecycle import settings_of_worker
from tidepool.queue.wire import QueueKeys, now_ms
from tidepool.settings import Settings
from tidepool.storage.outbox import OutboxRepository
from tidepool.storage.results import ResultRepository

_MOST_JOBS = 100_000
"""Max jobs that are listed or returned: a test has fewer."""


class DrainedJob(NamedTuple):
    """A job that `drain` has run to its end. *outcome* is `Applied`, `Rejected` or `Failed`."""

    id: str
    function: str
    outcome: Outcome
    attempts: int


class _ImpatientWorker(Worker):
    """A worker that runs jobs at once which are due later, such as those that are to be tried again.

    It ends when all jobs of the *outbox* have been copied to the queue, and the queue is empty.
    """

    def __init__(self, outbox: OutboxRepository, **options: Any) -> None:
        super().__init__(**options)
        self._outbox = outbox

    async def start_jobs(self, job_ids: Sequence[bytes] = ()) -> int:
        """Make all jobs of the queue due that nobody holds, and claim and start some; see `Worker.start_jobs`."""
        keys, now = QueueKeys(self.queue_name), now_ms()
        if later := set(await self.pool.zrangebyscore(keys.queue, f"({now}", "inf")):
            for owner in await self.pool.zrange(keys.owners, 0, -1):
                later -= set(await self.pool.zrange(keys.held_prefix.encode() + owner, 0, -1))
        if later:
            await self.pool.zadd(keys.queue, dict.fromkeys(later, now), xx=True)
        return await super().start_jobs(job_ids)

    async def _tidepool_is_done(self) -> bool:
        """Return whether neither the queue nor the outbox has a job."""
        return await super()._tidepool_is_done() and not await self._outbox.fresh(1, 1)


async def drain(app: App, *, timeout_s: float = 30.0) -> list[DrainedJob]:
    """Run a worker of *app* until its queue is empty, and return the jobs that have ended, in that order.

    The attempts are real ones, on the servers that the settings name. Delays are skipped: a job that is deferred, or is
    to be tried again later, runs at once. Jobs that the jobs enqueue are run as well; cron jobs are not enqueued.
    Raises `TimeoutError` after *timeout_s* seconds, with the functions of the jobs that are left, and `SettingsError`
    if the environment is not valid.
    """
    settings = app.settings.load()
    with servers.running(settings) as urls:
        connection = await settings.pool_config(urls.database, "tidepool-testing").connect("drain")
        try:
            worker_id = await _run(app, settings, OutboxRepository(connection, settings.queue_name), timeout_s)
            rows = await ResultRepository(connection).newest(limit=_MOST_JOBS)
        finally:
            await connection.close()
        async with open_client(settings) as client:
            return [await _drained(row, client) for row in reversed(rows) if row["worker_id"] == worker_id]


async def queued(app: App) -> list[Submission]:
    """Return the jobs that are in the queue of *app*, those due first. Their `function` and `fields` say what they do.

    A job that was enqueued in a transaction is in the queue after the commit.
    """
    async with open_client(app.settings.load()) as client:
        return await client.state.queued(_MOST_JOBS)


async def _run(app: App, settings: Settings, outbox: OutboxRepository, timeout_s: float) -> str:
    """Run a worker until the queue is empty; return the worker's id in the ledger."""
    options: dict[str, Any] = dict(vars(settings_of_worker(app, settings, in_test=True)))
    given = {name: value for name, value in options.items() if not name.startswith("_")}
    async with AsyncExitStack() as closing:
        worker = _ImpatientWorker(outbox, burst=True, handle_signals=False, **given)
        closing.push_async_callback(worker.close)
        try:
            async with asyncio.timeout(timeout_s):
                await worker.async_run()
        except TimeoutError:
            left = sorted({job.function for job in await queued(app)})
            raise TimeoutError(f"after {timeout_s:g} s there are jobs left, of: {', '.join(left)}") from None
    return worker.tidepool_options.owner


async def _drained(row: Mapping[str, Any], client: JobClient) -> DrainedJob:
    """Return the job of a ledger row. Only Redis has the results of jobs that ran outside of a transaction."""
    outcome: Outcome
    if row["status"] == "rejected":
        outcome = Rejected(row["reason"], row["error"])
    elif row["status"] == "failed":
        outcome = Failed(row["error"])
    else:
        outcome = Applied(row["result"] if row["atomic"] else await client.result(row["job_id"], timeout_s=0))
    return DrainedJob(row["job_id"], row["function"], outcome, row["attempts"])
