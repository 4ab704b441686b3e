"""Starts and stops a worker process: opens its connections, creates its parts, and closes them at shutdown.

The class of settings that `arq worker.WorkerSettings` runs a worker with is made here. Nothing else makes a pool, a
ledger or a batcher for a worker.
"""

import asyncio
import functools
import platform
import sys
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from dataclasses import asdict
from importlib.metadata import version
from types import TracebackType
from typing import Protocol

import structlog

from tidepool import logs, process, servers
from tidepool.advice.advice_job import AdviceJob
from tidepool.bounded_http.listening import CannotListen
from tidepool.client import JobClient
from tidepool.embedded import EmbeddedServersError
from tidepool.engine.options import ArqContext, EngineOptions, TypedJobs
from tidepool.engine.worker import StartError, Worker
from tidepool.fleet.budget import Budget
from tidepool.fleet.capacity import Capacity
from tidepool.fleet.identity import Identity
from tidepool.health.journal import Journal
from tidepool.health.loop_lag import LoopLag
from tidepool.health.metrics import Metrics
from tidepool.health.pruner import Pruner
from tidepool.health.recorder import Recorder
from tidepool.health.serving import HealthPort
from tidepool.jobs.cron import Cron
from tidepool.jobs.job import Job
from tidepool.jobs.job_type import JobTypes
from tidepool.ledger.batcher import Batcher
from tidepool.ledger.completion import LEDGER
from tidepool.ledger.history import History
from tidepool.ledger.ledger import Ledger
from tidepool.ledger.relay import Relay
from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import DatabaseFault, ServerError, words
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from tidepool.queue import wire
from tidepool.queue.connection import RedisClient
from tidepool.queue.faults import REDIS_ERRORS, RedisRefused
from tidepool.queue.relaying import RelayQueue
from tidepool.queue.renewal import LONGEST_BLOCK_S
from tidepool.queue.state import QueueState
from tidepool.queue.wire import QueueKeys, now_ms
from tidepool.scheduler import Scheduler
from tidepool.settings import Settings
from tidepool.storage.migrator import Migrations
from tidepool.urls import PostgresUrl, without_password

log = structlog.get_logger(__name__)


_HEALTH_CHECK_INTERVAL_S = 3


class Application(Protocol):
    """An application as its workers need it; see `tidepool.App`."""

    settings: type[Settings]
    job_types: JobTypes
    crons: list[Cron]
    migrations: Migrations

    def use(self, client: JobClient, settings: Settings) -> AbstractContextManager[None]:
        """Enqueue jobs with *client* and by *settings* in a `with` block."""
        ...


def worker_settings(app: Application) -> type:
    """Return the `WorkerSettings` class that the `arq` command runs a worker of *app* with.

    If the settings are not valid, the process ends with status 2 and prints one line for each wrong variable.
    """
    settings = app.settings.load_or_exit()
    Worker.install()
    if process.is_arq_command():
        process.tune_for_throughput()
        sys.excepthook = _explain
    return settings_of_worker(app, settings, in_test=False)


def settings_of_worker(app: Application, settings: Settings, *, in_test: bool) -> type:
    """Return the class of arq's settings for one worker of *app*, and leave the process as it is until it starts.

    With *in_test* the worker leaves logging as the process has it, and enqueues no cron jobs.
    """
    this = _WorkerProcess(settings, app, in_test=in_test)

    class WorkerSettings:
        """The options of arq's worker. arq reads attributes of this class only, and none of base classes."""

        functions = this.typed.arq_functions()
        on_startup = this.startup
        on_shutdown = this.shutdown
        tidepool = this.engine_options()
        redis_settings = RedisClient.settings_for(settings.urls.redis)
        queue_name = settings.queue_name
        job_serializer = wire.serialize
        job_deserializer = wire.receive
        health_check_key = QueueKeys(settings.queue_name).health_check(settings.worker_name)
        health_check_interval = _HEALTH_CHECK_INTERVAL_S
        max_jobs = settings.max_jobs
        poll_delay = settings.poll_delay
        keep_result = settings.keep_result
        job_completion_wait = settings.shutdown_wait
        allow_abort_jobs = True
        log_results = False

    return WorkerSettings


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught error of Redis in one line, any other with its traceback; an exception hook for `arq`."""
    if isinstance(error, REDIS_ERRORS):
        print(f"error: {error}", file=sys.stderr)  # noqa: T201  (the end of the command)
    else:
        sys.__excepthook__(kind, error, trace)


class _WorkerProcess:
    """Opens and closes everything that a worker process needs; arq calls `startup` and `shutdown`."""

    def __init__(self, settings: Settings, app: Application, *, in_test: bool) -> None:
        self._settings = settings
        self._in_test = in_test
        self._app = app
        self._job_types = app.job_types
        self._migrations = app.migrations
        self._servers = ExitStack()
        self._open = AsyncExitStack()
        self._urls = settings.urls
        self._identity = Identity.of_this_process()
        self._ledger: Ledger | None = None
        self._history: History | None = None
        """The record of plain functions; None if the application has none."""
        self.typed = TypedJobs(app.job_types, settings.max_tries)
        self._health = HealthPort(settings.metrics_host, settings.metrics_port, app.migrations)

    def engine_options(self) -> EngineOptions:
        """Return the options for the engine, which runs the jobs of this process."""
        return EngineOptions(
            owner=self._identity.worker_id,
            lease_s=self._settings.lease,
            longest_block_s=LONGEST_BLOCK_S,
            connect=self._connect,
            typed=self.typed,
            may_claim=lambda: self._ledger is None or not self._ledger.database_is_away,
            beaten=self._health.beaten,
            is_ready=self._health.is_ready,
            max_job_bytes=wire.MAX_PAYLOAD_BYTES,
            max_held_bytes=self._settings.max_held_bytes,
            max_kept_bytes=wire.MAX_KEPT_BYTES,
            leave_s=self._settings.newer_job_wait,
            log_arguments=False,
            observer=lambda: self,
        )

    async def _connect(self) -> RedisClient:
        """Start or join the embedded servers if they are used, wait for Redis, and return its client."""
        if not self._in_test:
            logs.configure(self._settings.log_level)
        try:
            await asyncio.to_thread(self._servers.enter_context, servers.running(self._settings))
        except EmbeddedServersError as error:
            raise StartError(str(error)) from None
        redis = RedisClient.open(
            self._urls.redis, queue_name=self._settings.queue_name, connect_timeout_s=self._settings.connect_timeout
        )
        try:
            await redis.wait_until_usable(self._urls.redis)
        except RedisRefused as error:
            raise StartError(f"Redis at {without_password(self._urls.redis)} refuses us: {error}") from None
        return redis

    async def startup(self, ctx: ArqContext) -> None:
        """Open the pool and everything else that jobs need, and start the background work. arq's startup hook."""
        _require_known(self._settings.pool_shares, self._job_types)
        await self._open_health_port(ctx["redis"])
        client = JobClient(ctx["redis"])
        self._open.enter_context(self._app.use(client, self._settings))
        worker_id = self._identity.worker_id
        if PostgresUrl.parse(self._urls.database).wants_channel_binding:
            log.warning("postgresql.no_channel_binding", reason="the driver has none: use sslmode=verify-full")
        config = self._settings.pool_config(self._urls.database, f"tidepool:{worker_id}")
        side = SideConnection(config, "stats")
        budget = await self._enter_fleet(ctx["redis"], side)
        pool = await self._open_pool(config, budget, side)
        ledger = self._ledger = Ledger(
            pool,
            self._job_types,
            worker_id=worker_id,
            handler_timeout_s=self._settings.job_timeout,
            schema=config.schema,
        )
        batcher = Batcher(
            ledger,
            slots=pool.limit,
            limit=self._settings.batch_limit,
            shares=self._settings.pool_shares,
            limits={job_type.name: job_type.max_batch for job_type in self._job_types if job_type.max_batch},
        )
        self._open.push_async_callback(batcher.close)
        budget.govern(lambda: pool.connections, functools.partial(_resize, pool, batcher))
        self.typed.batcher, self.typed.ledger = batcher, ledger
        ctx[LEDGER] = ledger
        self._relay_outbox(ctx["redis"], side)
        if self._app.crons and not self._in_test:
            self._run_aside(Scheduler(self._app.crons, client, side).run, "cron")
        if any(job_type.handler is None for job_type in self._job_types):
            self._begin_history(config, worker_id)
        self._watch(pool, ledger, batcher, side, budget, ctx["redis"])
        log.info("worker.started", worker_id=worker_id, database=without_password(self._urls.database))

    async def shutdown(self, _ctx: ArqContext) -> None:
        """Let running batches commit, write the last pool snapshot, and close everything. arq's shutdown hook."""
        await self._open.aclose()
        await asyncio.to_thread(self._servers.close)
        log.info("worker.stopped")

    # ---------------------------------------------------------------- the record of plain functions

    async def start(self, context: ArqContext, worker_id: str, functions: Collection[str]) -> None:
        """See `engine.options.Observer`; everything has begun with `startup`."""

    def beaten(self) -> bool:
        """Return True; whether the worker is ready is known from elsewhere."""
        return True

    def ended(self, job: Job) -> None:
        """Count the outcome of a plain function's job, and add it to the history, unless the ledger has it already."""
        assert self._ledger is not None
        if job.settled is not None:
            return
        self._ledger.tally.add_plain(job)
        if self._history is not None:
            self._history.add(job)

    async def stop(self) -> None:
        """Write what is left of the history."""
        if self._history is not None:
            await self._history.close()

    async def _open_health_port(self, redis: RedisClient) -> None:
        try:
            await self._health.open(redis.ask)
        except CannotListen as error:
            raise StartError(f"METRICS_PORT: {error}") from None
        self._open.push_async_callback(self._health.close)

    async def _enter_fleet(self, redis: RedisClient, side: SideConnection) -> Budget:
        """Wait until this process may open connections, and return its budget of them.

        The fleet is all worker processes that share the connections of one PostgreSQL server. At shutdown this process
        leaves it after it has closed all its connections.
        """
        budget = Budget(
            redis,
            without_password(self._urls.database),
            self._identity.worker_id,
            pool_size=self._settings.pool_max_size,
            margin=self._settings.connection_margin,
            read=functools.partial(Capacity.read, side),
        )
        self._open.push_async_callback(budget.leave)
        self._open.push_async_callback(side.close)
        await budget.enter()
        self._run_aside(budget.run, "budget")
        return budget

    async def _open_pool(self, config: PoolConfig, budget: Budget, side: SideConnection) -> Pool:
        try:
            tables = not self._settings.migrate_on_start
            await config.until_available(
                functools.partial(self._migrations.require, side, tables=tables, writing=True), None
            )
            if self._settings.migrate_on_start:
                migrate = functools.partial(self._migrations.migrate, config)
                for migration in await config.until_available(migrate, None):
                    log.info("migration.applied", name=str(migration))
                await config.until_available(
                    functools.partial(self._migrations.require, side, tables=True, writing=True), None
                )
            pool = await config.until_available(functools.partial(_open_pool, config, budget), None)
        except (DatabaseFault, ServerError) as error:
            raise StartError(f"PostgreSQL at {without_password(self._urls.database)}: {words(error)}") from None
        self._open.push_async_callback(pool.close)
        return pool

    def _relay_outbox(self, redis: RedisClient, side: SideConnection) -> None:
        """Start to copy jobs that were enqueued in transactions to Redis."""
        queue_name = self._settings.queue_name
        queue = RelayQueue(redis, queue_name, self._identity.worker_id)
        declared = {each.name: each.identity for each in self._job_types if each.handler is not None}
        relay = Relay(queue, queue_name, side, self._settings.db_schema, declared=declared)
        self._open.push_async_callback(relay.close)
        self._run_aside(relay.run, "relay")

    def _begin_history(self, config: PoolConfig, worker_id: str) -> None:
        side = SideConnection(config, "history")
        self._open.push_async_callback(side.close)
        self._history = History(side, worker_id=worker_id)
        self._run_aside(self._history.run, "history")

    def _watch(
        self, pool: Pool, ledger: Ledger, batcher: Batcher, side: SideConnection, budget: Budget, redis: RedisClient
    ) -> None:
        """Start the periodic work: deletion of old rows, pool snapshots, and advice about the pool."""
        pruner = Pruner(
            side,
            results_keep_days=self._settings.result_keep_days,
            snapshots_keep_days=self._settings.snapshot_keep_days,
        )
        self._run_aside(pruner.run, "pruner")
        lag = LoopLag()
        self._health.watch(Metrics(pool, ledger.tally, lag), pool, side)
        if self._settings.enable_monitoring:
            journal = Journal(
                self._identity, side, about=_about(self._settings, pool.config), server=budget.server_connections
            )
            recorder = Recorder(
                journal,
                pool=pool,
                tally=ledger.tally,
                lag=lag,
                callers=lambda: batcher.slots,
                pending=lambda: batcher.pending,
                backlog=functools.partial(_read_backlog, redis),
                interval_s=self._settings.stats_interval,
            )
            self._open.push_async_callback(recorder.close)
            self._run_aside(recorder.run, "stats job")
            self._run_aside(AdviceJob(journal, side).run, "advice job")

    def _run_aside(self, work: Callable[[], Coroutine[object, object, None]], name: str) -> None:
        task = asyncio.create_task(work(), name=name)
        self._open.callback(task.cancel)


def _about(settings: Settings, config: PoolConfig) -> dict[str, dict[str, object]]:
    """Return the versions and settings that are recorded when a process starts, to explain its figures later."""
    packages = ("arq", "asyncpg", "redis", "uvloop")
    pool = asdict(config)
    del pool["url"], pool["application_name"]
    others = ("queue_name", "pool_shares", "max_jobs", "batch_limit", "lease", "job_timeout", "stats_interval")
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "config": {**pool, **{name: getattr(settings, name) for name in others}},
    }


def _require_known(shares: Mapping[str, float], job_types: JobTypes) -> None:
    if unknown := shares.keys() - {job_type.name for job_type in job_types}:
        raise StartError(f"POOL_SHARES: no function is called {', '.join(sorted(unknown))}")


async def _open_pool(config: PoolConfig, budget: Budget) -> Pool:
    """Open the connection pool with this process's share of the server's connections."""
    return await Pool.open(config, await budget.take_share())


async def _read_backlog(redis: RedisClient) -> tuple[int, float | None] | None:
    """Return how many jobs wait and for how many seconds the oldest has been due; None if Redis does not answer."""
    found = await QueueState(redis).backlog(now_ms())
    return found and (found.waiting, found.oldest_s)


def _resize(pool: Pool, batcher: Batcher, limit: int) -> None:
    """Set the max number of the pool's connections and of concurrent batches to *limit*."""
    pool.limit = batcher.slots = limit
