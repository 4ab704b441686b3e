"""Whether a process can do its work now, check by check: the same facts for a worker and for the front.

`/health/ready` answers with it, and a worker that has a METRICS_PORT writes the sign of life that `arq --check` asks
for while it is ready only. Being alive is another thing: who answers at all is.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

from tidepool.health.kept import Kept
from tidepool.periodic import every
from tidepool.pool.connection import Connection
from tidepool.pool.faults import PoolTimeout
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.migrator import MigrationError, Migrations, SchemaState

LOOK_S = 1.0
"""Between two looks of `Readiness.run`."""
_KEPT_S = 0.5
_PATIENCE_S = 2.0
"""For one check."""
_GIVING_UP_S = 0.1
"""More, for a check to give up by itself."""
_SILENT = f"no answer within {_PATIENCE_S:.0f} s"


@dataclass(frozen=True, slots=True)
class Check:
    """One fact, and the words to it; a *warning* is worth a look, and the process is ready all the same."""

    ok: bool
    reason: str
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All facts of one look, by name."""

    checks: dict[str, Check] = field(default_factory=dict)
    database_ms: float = 0.0
    """How long PostgreSQL took to answer, or was waited for: a connection and one query."""

    @property
    def ready(self) -> bool:
        """Whether all hold; before the first look none does."""
        return bool(self.checks) and all(check.ok for check in self.checks.values())

    def document(self) -> dict[str, Any]:
        """Return the report as a dict of JSON values."""
        checks = {name: asdict(check) for name, check in self.checks.items()}
        for check in checks.values():
            if not check["warning"]:
                del check["warning"]
        return {"ready": self.ready, "checks": checks}


class Readiness:
    """The checks of one process. *ping* asks Redis, and may return a text to warn with; *own* are further facts.

    Until `watch` it is starting.
    """

    def __init__(
        self,
        ping: Callable[[], Awaitable[Any]],
        migrations: Migrations,
        *,
        own: Mapping[str, Callable[[], Check]] | None = None,
    ) -> None:
        self.last = Report()
        self._ping = ping
        self._migrations = migrations
        self._own = own or {}
        self._pool: Pool | None = None
        self._lend: Callable[[], AbstractAsyncContextManager[Connection]] | None = None
        self._lent = -1
        self._kept = Kept(_KEPT_S, self._look)

    def watch(self, pool: Pool, *, side: SideConnection | None = None) -> None:
        """Begin to check *pool*, and PostgreSQL over *side*; without *side*, over a connection of the pool."""
        self._pool = pool
        self._lend = side.use if side else None

    async def look(self) -> Report:
        """Return the present state, at most half a second old. Takes at most two seconds, and raises nothing."""
        return await self._kept.get()

    async def run(self) -> None:
        """Look every second until cancelled, so that *last* is never old."""
        await every(LOOK_S, self.look, "readiness")

    async def _look(self) -> Report:
        redis, (of_the_database, database_ms) = await asyncio.gather(self._look_at_redis(), self._timed_database())
        own = {name: check() for name, check in self._own.items()}
        self.last = Report({**of_the_database, "redis": redis, **own}, database_ms)
        return self.last

    async def _look_at_redis(self) -> Check:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                warning = await self._ping()
        except Exception as error:  # noqa: BLE001  (whatever it is, Redis does not answer)
            return Check(ok=False, reason=_words(error))
        return Check(ok=True, reason="answers", warning=warning if isinstance(warning, str) else "")

    async def _timed_database(self) -> tuple[dict[str, Check], float]:
        began_s = time.perf_counter()
        checks = await self._look_at_database()
        return checks, round((time.perf_counter() - began_s) * 1000, 3)

    async def _look_at_database(self) -> dict[str, Check]:
        lend = self._lend or (self._pool.acquire if self._pool else None)
        if lend is None:
            return {"pool": self._headroom()}
        try:
            schema = await _compare(self._migrations, lend)
        except MigrationError as error:
            migrations = Check(ok=False, reason=str(error))
        except (PoolTimeout, TimeoutError):
            return {"postgresql": Check(ok=False, reason=_SILENT), "pool": self._headroom(waited=self._lend is None)}
        except Exception as error:  # noqa: BLE001  (whatever it is, PostgreSQL does not serve us)
            return {"postgresql": Check(ok=False, reason=_words(error)), "pool": self._headroom()}
        else:
            names = ", ".join(map(str, schema.missing))
            newer = f"newer than this process, which can work with it: {', '.join(schema.newer)}"
            words = f"not applied: {names}" if names else newer if schema.newer else "up to date"
            migrations = Check(ok=not schema.missing, reason=words)
        return {"postgresql": Check(ok=True, reason="answers"), "migrations": migrations, "pool": self._headroom()}

    def _headroom(self, *, waited: bool = False) -> Check:
        """Say whether whoever needs a connection gets one; *waited*: this look itself waited in vain.

        A full pool is at work. One that has lent nothing since the last look, while somebody waits, is stuck.
        """
        if self._pool is None:
            return Check(ok=False, reason="the process is starting")
        stats = self._pool.stats
        lent, self._lent = self._lent, stats.acquire_ok
        is_full = stats.in_use >= self._pool.limit
        stuck = is_full and (waited or (stats.waiting > 0 and lent == stats.acquire_ok))
        words = f"{stats.in_use} of {self._pool.limit} in use, {stats.waiting} waiting"
        return Check(ok=not stuck, reason=f"none comes free: {words}" if stuck else words)


async def _compare(migrations: Migrations, lend: Callable[[], AbstractAsyncContextManager[Connection]]) -> SchemaState:
    """Return how the schema compares. Raises `TimeoutError` after two seconds, whoever is slower to give up.

    A connection whose server hangs is given back only after the command timeout: that is not waited for.
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
    """Return an error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
