"""Makes Tidepool's engine run the jobs of an arq application: `adopt`, the line that the application adds.

An adopted application may name a database for records. Each worker then writes the outcomes of its jobs there, and the
figures of the application's connection pool, and the commands `tidepool --app MODULE:SETTINGS …` show them. The
application's settings stay arq's; Tidepool's own come from environment variables with the prefix `TIDEPOOL_`, such as
TIDEPOOL_DATABASE_URL.
"""

import asyncio
import functools
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar, cast

import structlog
from pydantic import SecretStr, create_model

from tidepool.adopted_settings import AdoptedSettings
from tidepool.bounded_http.listening import CannotListen
from tidepool.engine.options import ArqContext, EngineOptions
from tidepool.engine.worker import StartError, Worker
from tidepool.fleet.budget import Budget
from tidepool.fleet.capacity import Capacity
from tidepool.fleet.identity import Identity
from tidepool.health.journal import Journal
from tidepool.health.loop_lag import LoopLag
from tidepool.health.metrics import Metrics
from tidepool.health.pruner import Pruner
from tidepool.health.readiness import Condition
from tidepool.health.recorder import Recorder
from tidepool.health.serving import HealthPort
from tidepool.jobs.job import Job
from tidepool.ledger.batcher import Tally
from tidepool.ledger.history import History
from tidepool.ledger.relay import Relay
from tidepool.pool.application_pool import AsyncpgPool
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from tidepool.pool.watched import UnknownPool, WatchedPool
from tidepool.queue.connection import RedisClient
from tidepool.queue.relaying import RelayQueue
from tidepool.settings import SettingsError
from tidepool.urls import without_password

log = structlog.get_logger(__name__)

S = TypeVar("S")


def adopt(
    settings: S | Callable[[], S],
    options: EngineOptions | None = None,
    *,
    database_url: str | None = None,
    pool: Callable[[ArqContext], object] | None = None,
) -> S:
    """Make Tidepool's engine run the jobs of an arq application, and return its *settings*.

        WorkerSettings = tidepool.adopt(shop.tasks.WorkerSettings)

    *settings* is what arq takes: a class, a dictionary, or an object with attributes; or a function that returns one of
    these. It gets the attribute or key `tidepool`, which holds *options*, and is otherwise unchanged, so that it may be
    completed later. From then on every worker that this process creates is one of Tidepool's, also with the `arq`
    command, `run_worker`, `create_worker` and `arq.Worker`; those without adopted settings have default options.

    *database_url* is the PostgreSQL database for records: the outcomes of jobs, and pool snapshots. Default:
    TIDEPOOL_DATABASE_URL; without either there are no records. `tidepool --app MODULE:SETTINGS migrate` makes the
    tables. *pool* returns the application's connection pool, an `asyncpg.Pool` or an SQLAlchemy engine, whose figures
    the snapshots have; it is called with arq's ctx after the startup hook: `pool=lambda ctx: ctx["engine"]`.
    """
    Worker.install()
    _log_to_standard_library()
    made: object = settings
    if callable(settings) and not isinstance(settings, type) and not hasattr(settings, "functions"):
        made = settings()
    adopted = replace(options or EngineOptions(), observer=_Adoption(made, database_url, pool))
    if isinstance(made, type):
        cast("Any", made).tidepool = adopted
    else:  # as arq reads it: an object may refuse attributes that it does not declare
        _attributes(made)["tidepool"] = adopted
    return cast("S", made)


def settings_class_of(settings: object) -> type[AdoptedSettings] | None:
    """Return the class of Tidepool's settings for adopted arq *settings*; None if `adopt` has not had *settings*."""
    options = _attributes(settings).get("tidepool")
    adoption = options.observer if isinstance(options, EngineOptions) else None
    return adoption.settings_class() if isinstance(adoption, _Adoption) else None


def _log_to_standard_library() -> None:
    """Send the library's events to loggers of the standard library, `tidepool.…`, whose handlers an application sets.

    Does nothing if the application has configured structlog, which then handles the events. Without this call structlog
    would print them to standard output, with the local variables of each traceback.
    """
    if not structlog.is_configured():
        structlog.configure(
            processors=[structlog.stdlib.filter_by_level, _as_record],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
        )


def _as_record(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> tuple[tuple[str], dict[str, object]]:
    """Make the arguments of a standard library logger's method, as the last structlog processor."""
    exc_info = event.pop("exc_info", None)
    name = event.pop("event")
    text = " ".join((str(name), *(f"{key}={value!r}" for key, value in event.items())))
    return (text,), {"exc_info": exc_info}


@dataclass(frozen=True)
class _Adoption:
    """The arguments of `adopt`, from which each worker's observer is made."""

    settings: object
    database_url: str | None = field(repr=False)
    pool: Callable[[ArqContext], object] | None

    def __call__(self) -> "_Observer":
        return _Observer(self)

    def settings_class(self) -> type[AdoptedSettings]:
        """Return the class of Tidepool's settings, whose defaults are the servers and the queue of arq's settings."""
        theirs = _attributes(self.settings)
        defaults: dict[str, Any] = {
            "redis_url": _secret(RedisClient.url_of(theirs.get("redis_settings"))),
            "database_url": _secret(self.database_url),
            "workers_abort_jobs": (ClassVar[bool], bool(theirs.get("allow_abort_jobs"))),
        }
        if "queue_name" in theirs:
            defaults["queue_name"] = (str, theirs["queue_name"])
        return create_model("AdoptedSettings", __base__=AdoptedSettings, **defaults)


class _Observer:
    """Writes the records of one worker of an adopted application while it runs, and serves its METRICS_PORT.

    See `engine.options.Observer`.
    """

    def __init__(self, adoption: _Adoption) -> None:
        self._adoption = adoption
        self._is_begun = False
        self._health: HealthPort | None = None
        self._history: History | None = None
        self._tally = Tally()
        self._tasks: list[asyncio.Task[None]] = []
        self._last_writes: list[Callable[[], Coroutine[object, object, None]]] = []
        self._sides: list[SideConnection] = []

    async def start(self, context: ArqContext, worker_id: str, functions: Collection[str]) -> None:
        """Begin to write records, if there is a database, and open the METRICS_PORT, if there is one.

        Raises `StartError` for settings that are not valid. A worker that is run again before it is closed goes on with
        what it has begun.
        """
        if self._is_begun:
            return
        kind = self._adoption.settings_class()
        if not kind.are_used():
            return
        try:
            settings = kind.load()
        except SettingsError as error:
            raise StartError(str(error)) from None
        self._is_begun = True
        self._tally.known = frozenset(functions)
        has_snapshots = settings.database is not None and settings.enable_monitoring
        is_watched = has_snapshots or settings.metrics_port is not None
        pool = self._adoption.pool
        watched = _watched(pool(context)) if pool is not None and is_watched else None
        await self._open_health_port(settings, context, watched)
        if settings.database is not None:
            self._begin_records(settings, settings.database.get_secret_value(), worker_id, watched, context["redis"])

    def beaten(self) -> bool:
        """Record a heartbeat of the worker, and return whether it is ready; True without a METRICS_PORT."""
        if self._health is None:
            return True
        self._health.beaten()
        return self._health.is_ready()

    async def _open_health_port(self, settings: AdoptedSettings, context: ArqContext, pool: WatchedPool | None) -> None:
        """Open the METRICS_PORT, if there is one. Jobs need no database, so it is not checked; see `_records`."""
        if settings.metrics_port is None:
            return
        health = HealthPort(settings.metrics_host, settings.metrics_port, None, {"records": self._records})
        try:
            await health.open(context["redis"].ping)
        except CannotListen as error:
            raise StartError(f"TIDEPOOL_METRICS_PORT: {error}") from None
        self._health = health
        lag = LoopLag()
        health.watch(Metrics(pool, self._tally, lag))
        self._run_aside(lag.run(), "loop lag probe")

    def _records(self) -> Condition:
        """Return the state of the records as a readiness check, which never fails: jobs run without them."""
        if self._history is None:
            return Condition(ok=True, reason="there is no database for records")
        if not self._history.is_away:
            return Condition(ok=True, reason="are written")
        return Condition(ok=True, reason="wait in memory", warning="PostgreSQL is unavailable, or lacks the tables")

    def _begin_records(
        self,
        settings: AdoptedSettings,
        database_url: str,
        worker_id: str,
        watched: WatchedPool | None,
        redis: RedisClient,
    ) -> None:
        """Begin to write outcomes and, unless monitoring is off, snapshots: of the pool *watched*, if it is known."""
        identity = replace(Identity.of_this_process(), worker_id=worker_id)
        config = settings.pool_config(database_url, f"tidepool:{identity.worker_id}")
        side = SideConnection(config, "stats")
        self._sides = [SideConnection(config, "history"), side]
        history = self._history = History(self._sides[0], worker_id=identity.worker_id)
        self._last_writes.append(history.close)
        pruner = Pruner(
            side, results_keep_days=settings.result_keep_days, snapshots_keep_days=settings.snapshot_keep_days
        )
        relay = Relay(RelayQueue(redis, settings.queue_name, worker_id), settings.queue_name, side, settings.db_schema)
        self._last_writes.append(relay.close)
        self._run_aside(history.run(), "history")
        self._run_aside(relay.run(), "relay")
        self._run_aside(pruner.run(), "pruner")
        if settings.enable_monitoring:
            pool = watched or UnknownPool()
            budget = Budget(
                redis,
                without_password(database_url),
                worker_id,
                pool_size=pool.max_size,
                margin=settings.connection_margin,
                read=functools.partial(Capacity.read, side),
            )
            if watched is not None:
                self._count(watched, budget)
            config_of_pool = {"min_size": pool.min_size, "max_size": pool.max_size}
            about = {"versions": {}, "config": {**config_of_pool, "stats_interval": settings.stats_interval}}
            self._watch(pool, Journal(identity, side, about=about, server=budget.server_connections), settings)

    def _count(self, pool: WatchedPool, budget: Budget) -> None:
        """Count the connections that *pool* may open, and those for records, in the fleet's *budget*."""
        budget.claim(lambda: max(pool.max_size, pool.size) + len(self._sides), lambda: pool.size)
        self._last_writes.append(budget.leave)
        self._run_aside(budget.run(), "budget")

    def _watch(self, pool: WatchedPool, journal: Journal, settings: AdoptedSettings) -> None:
        """Take snapshots of *pool*, in which a job may use a connection at any time."""
        recorder = Recorder(
            journal,
            pool=pool,
            tally=self._tally,
            callers=lambda: pool.max_size,
            interval_s=settings.stats_interval,
        )
        self._last_writes.append(recorder.close)
        self._run_aside(recorder.run(), "stats job")

    def _run_aside(self, work: Coroutine[object, object, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    def ended(self, job: Job) -> None:
        """Count the outcome of a job, and add it to the history."""
        self._tally.add_plain(job)
        if self._history is not None:
            self._history.add(job)

    async def stop(self) -> None:
        """Write the last records, for three seconds at most, and close the connections."""
        self._is_begun = False
        self._history = None
        for task in self._tasks:
            task.cancel()
        writing = [asyncio.create_task(write()) for write in self._last_writes]
        self._tasks.clear()
        self._last_writes.clear()
        try:
            if writing:
                await asyncio.wait(writing, timeout=_LAST_WRITES_S)
        finally:
            for task in writing:
                task.cancel()
            for side in self._sides:
                await side.close()
            if self._health is not None:
                await self._health.close()
                self._health = None
        ends = await asyncio.gather(*writing, return_exceptions=True)
        if errors := [repr(end) for end in ends if end is not None]:
            log.warning("records.incomplete", errors=errors)


_LAST_WRITES_S = 3.0
"""Max seconds for the last records: a container has ten for its whole end, and the jobs need some of them."""


def _watched(pool: object) -> WatchedPool:
    """Return *pool* as a pool whose figures can be read. Raises `StartError` if it is of no kind that is known."""
    if isinstance(pool, Pool):
        return pool
    if type(pool).__module__.startswith("sqlalchemy."):
        from tidepool.sqlalchemy import EnginePool  # noqa: PLC0415  (the application has imported SQLAlchemy)

        return EnginePool.of(cast("Any", pool))
    if (observed := AsyncpgPool.of(pool)) is not None:
        return observed
    kinds = "neither an asyncpg.Pool nor an SQLAlchemy engine"
    raise StartError(f"tidepool.adopt: pool returned {type(pool).__name__}, which is {kinds}")


def _secret(url: str | None) -> tuple[object, SecretStr | None]:
    return SecretStr | None, None if url is None else SecretStr(url)


def _attributes(settings: object) -> dict[str, Any]:
    """Return arq's *settings* as arq reads them."""
    return cast("dict[str, Any]", settings) if isinstance(settings, dict) else getattr(settings, "__dict__", {})
