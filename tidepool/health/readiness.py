"""Checks whether a process can do its work now: PostgreSQL, the migrations, Redis, and the connection pool.

The checks are the same for a worker and for the HTTP front. `/health/ready` answers with the result. A worker that has
a METRICS_PORT writes the health-check key that `arq --check` reads only while the worker is ready. Whether a process is
alive needs no check: it is alive if it answers at all.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field

from tidepool.health.cached import Cached
from tidepool.pool.connection import Connection
from tidepool.pool.faults import PoolTimeout
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from tidepool.repeating import every
from tidepool.storage.migrator import MigrationError, Migrations, SchemaState

LOOK_S = 1.0
"""Seconds between two checks of `Readiness.run`: the health-check key of arq lives for four."""
_CACHED_S = 0.5
"""Seconds for which a report is cached, however many probes ask."""
_PATIENCE_S = 2.0
"""Seconds that one condition is waited for: probes usually wait for a few."""
_GIVING_UP_S = 0.1
"""Seconds more, so that a check can give up by itself."""
_SILENT = f"no answer within {_PATIENCE_S:.0f} s"


@dataclass(frozen=True, slots=True)
class Condition:
    """The result of one readiness check: whether it passed (`ok`), and why.

    A *warning* does not make the process unready.
    """

    ok: bool
    reason: str
    warning: str = ""


@dataclass(frozen=True, slots=True)
class ReadinessReport:
    """The results of all readiness checks at one time, by the name of the check."""

    checks: dict[str, Condition] = field(default_factory=dict)
    database_ms: float = 0.0
    """How long PostgreSQL took to answer, or was waited for, in milliseconds: a connection and one query."""

    @property
    def ready(self) -> bool:
        """Whether all checks passed; False before the first check."""
        return bool(self.checks) and all(check.ok for check in self.checks.values())

    def document(self) -> dict[str, object]:
        """Return the report as a dict of JSON values, for the response of `/health/ready`."""
        checks = {name: asdict(check) for name, check in self.checks.items()}
        for check in checks.values():
            if not check["warning"]:
                del check["warning"]
        return {"ready": self.ready, "checks": checks}


class Readiness:
    """Checks whether this process is ready: PostgreSQL, the migrations, Redis, its pool, and *own* further checks.

    *ping* asks Redis: it raises an error if Redis does not answer, and may return the text of a warning. Until `watch`
    is called the process counts as starting, which is not ready. If *migrations* is None, neither PostgreSQL nor a pool
    is checked: the process needs none.
    """

    def __init__(
        self,
        ping: Callable[[], Awaitable[object]],
        migrations: Migrations | None,
        *,
        own: Mapping[str, Callable[[], Condition]] | None = None,
    ) -> None:
        self.last = ReadinessReport()
        self._ping = ping
        self._migrations = migrations
        self._own = own or {}
        self._pool: Pool | None = None
        self._lend: Callable[[], AbstractAsyncContextManager[Connection]] | None = None
        self._lent = -1
        self._report = Cached(_CACHED_S, self._look)

    def watch(self, pool: Pool, *, side: SideConnection | None = None) -> None:
        """Set the *pool* to check, and the connection *side*, outside the pool, over which PostgreSQL is checked.

        Without *side*, PostgreSQL is checked over a connection of the pool.
        """
        self._pool = pool
        self._lend = side.use if side else None

    async def look(self) -> ReadinessReport:
        """Return a report that is at most half a second old; if there is none, run the checks first.

        Takes at most two seconds, and raises no error: if a server does not answer, its check has failed.
        """
        return await self._report.get()

    async def run(self) -> None:
        """Run the checks every second until cancelled, so that the report in *last* is never old."""
        await every(LOOK_S, self.look, "readiness")

    async def _look(self) -> ReadinessReport:
        redis, (of_the_database, database_ms) = await asyncio.gather(self._look_at_redis(), self._timed_database())
        own = {name: check() for name, check in self._own.items()}
        self.last = ReadinessReport({**of_the_database, "redis": redis, **own}, database_ms)
        return self.last

    async def _look_at_redis(self) -> Condition:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                warning = await self._ping()
        except Exception as error:  # noqa: BLE001  (whatever it is, Redis does not answer)
            return Condition(ok=False, reason=_words(error))
        return Condition(ok=True, reason="answers", warning=warning if isinstance(warning, str) else "")

    async def _timed_database(self) -> tuple[dict[str, Condition], float]:
        began_s = time.perf_counter()
        checks = await self._look_at_database()
        return checks, round((time.perf_counter() - began_s) * 1000, 3)

    async def _look_at_database(self) -> dict[str, Condition]:
        if self._migrations is None:
            return {}
        lend = self._lend or (self._pool.acquire if self._pool else None)
        if lend is None:
            return {"pool": self._headroom()}
        try:
            schema = await _compare(self._migrations, lend)
        except MigrationError as error:
            migrations = Condition(ok=False, reason=str(error))
        except (PoolTimeout, TimeoutError):
            return {
                "postgresql": Condition(ok=False, reason=_SILENT),
                "pool": self._headroom(waited=self._lend is None),
            }
        except Exception as error:  # noqa: BLE001  (whatever it is, PostgreSQL does not serve us)
            return {"postgresql": Condition(ok=False, reason=_words(error)), "pool": self._headroom()}
        else:
            names = ", ".join(map(str, schema.missing))
            newer = f"newer than this process, which can work with it: {', '.join(schema.newer)}"
            words = f"not applied: {names}" if names else newer if schema.newer else "up to date"
            migrations = Condition(ok=not schema.missing, reason=words)
        return {
            "postgresql": Condition(ok=True, reason="answers"),
            "migrations": migrations,
            "pool": self._headroom(),
        }

    def _headroom(self, *, waited: bool = False) -> Condition:
        """Return whether callers can get a connection; *waited*: this check itself waited for one in vain.

        A full pool that still lends connections is healthy. A pool that has lent nothing since the last check, while a
        caller waits, is stuck.
        """
        if self._pool is None:
            return Condition(ok=False, reason="the process is starting")
        stats = self._pool.stats
        lent, self._lent = self._lent, stats.acquire_ok
        is_full = stats.in_use >= self._pool.limit
        stuck = is_full and (waited or (stats.waiting > 0 and lent == stats.acquire_ok))
        words = f"{stats.in_use} of {self._pool.limit} in use, {stats.waiting} waiting"
        return Condition(ok=not stuck, reason=f"none comes free: {words}" if stuck else words)


async def _compare(migrations: Migrations, lend: Callable[[], AbstractAsyncContextManager[Connection]]) -> SchemaState:
    """Return how the schema compares with the migrations. Raises `TimeoutError` after two seconds.

    A connection whose server hangs is given back only after the command timeout, for which this function does not wait.
    """

    async def ask() -> SchemaState:
        async with asyncio.timeout(_PATIENCE_S), lend() as connection:
            return await migrations.compared(connection)

    asking = asyncio.create_task(ask(), name="readiness of PostgreSQL")
    asking.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody else may look at it
    try:
        await asyncio.wait((asking,), timeout=_PATIENCE_S + _GIVING_UP_S)
        if asking.done():
            return asking.result()
        raise TimeoutError
    finally:
        asking.cancel()


def _words(error: Exception) -> str:
    """Return an error's type and text as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
