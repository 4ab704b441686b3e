"""Whether a process can do its work now, check by check: the same facts for a worker and for the front.

`/health/ready` answers with it, and a worker that has a METRICS_PORT writes the sign of life that `arq --check` asks
for while it is ready only. Being alive is another thing: who answers at all is.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from worker.db.faults import DatabaseFault, PoolTimeout
from worker.db.migrations import MigrationError, missing
from worker.db.pool import Pool
from worker.health.kept import Kept

LOOK_S = 3.0
"""Between two looks of `Readiness.run`."""
_KEPT_S = 1.0
_PATIENCE_S = 2.0
"""For one check. A pool whose connections are all taken for as long has no headroom."""


@dataclass(frozen=True, slots=True)
class Check:
    """One fact, and the words to it."""

    ok: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """All facts of one look, by name."""

    checks: dict[str, Check] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether all hold; before the first look none does."""
        return bool(self.checks) and all(check.ok for check in self.checks.values())

    def document(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {"ready": self.ready, "checks": {name: asdict(check) for name, check in self.checks.items()}}


class Readiness:
    """The checks of one process. *ping* asks Redis; *own*, where given, are further facts, by name.

    *pool* may be set later; until then the process is starting.
    """

    def __init__(
        self,
        ping: Callable[[], Awaitable[Any]],
        *,
        pool: Pool | None = None,
        own: dict[str, Callable[[], Check]] | None = None,
    ) -> None:
        self.pool = pool
        self.last = Report()
        self._ping = ping
        self._own = own or {}
        self._kept = Kept(_KEPT_S, self._look)

    async def look(self) -> Report:
        """Return how it is now, or was within the last second. Takes some seconds at the most, and raises nothing."""
        return await self._kept.get()

    async def run(self) -> None:
        """Look every few seconds until cancelled, so that *last* is never old."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> Report:
        redis, of_the_database = await asyncio.gather(self._look_at_redis(), self._look_at_database())
        own = {name: check() for name, check in self._own.items()}
        self.last = Report({**of_the_database, "redis": redis, **own})
        return self.last

    async def _look_at_redis(self) -> Check:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._ping()
        except Exception as error:  # noqa: BLE001  (whatever it is, Redis does not answer)
            return Check(ok=False, reason=_words(error))
        return Check(ok=True, reason="answers")

    async def _look_at_database(self) -> dict[str, Check]:
        """Look over a connection of the pool, so that the way there is the one that the work takes."""
        if self.pool is None:
            return {"postgresql": Check(ok=False, reason="the process is starting")}
        try:
            async with asyncio.timeout(_PATIENCE_S), self.pool.acquire() as connection:
                missed = await missing(connection)
        except MigrationError as error:
            return self._fits(Check(ok=False, reason=str(error)))
        except (PoolTimeout, TimeoutError):
            return self._full()
        except DatabaseFault as error:
            return {"postgresql": Check(ok=False, reason=_words(error)), "pool": self._headroom()}
        names = ", ".join(f"{migration.version:04}_{migration.name}" for migration in missed)
        return self._fits(Check(ok=not missed, reason=f"not applied: {names}" if missed else "up to date"))

    def _fits(self, migrations: Check) -> dict[str, Check]:
        answers = Check(ok=True, reason="answers")
        return {"postgresql": answers, "migrations": migrations, "pool": self._headroom()}

    def _full(self) -> dict[str, Check]:
        """Return the checks where there was no answer in time: the pool is full, or else PostgreSQL is silent."""
        silent = Check(ok=False, reason=f"no answer within {_PATIENCE_S:.0f} s")
        assert self.pool is not None
        if self.pool.stats.in_use < self.pool.limit:
            return {"postgresql": silent, "pool": self._headroom()}
        return {"postgresql": silent, "pool": Check(ok=False, reason=f"no turn within 2 s: {self._fullness()}")}

    def _headroom(self) -> Check:
        return Check(ok=True, reason=self._fullness())

    def _fullness(self) -> str:
        assert self.pool is not None
        stats = self.pool.stats
        return f"{stats.in_use} of {self.pool.limit} in use, {stats.waiting} waiting"


def _words(error: Exception) -> str:
    """Return an error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
