"""Caches figures of all workers (the fleet), so that any number of callers can ask for them.

The figures are read from the database at most once a second, and judged at most once in 15 seconds.
"""

import asyncio
from dataclasses import asdict
from datetime import timedelta

from tidepool.advice.study import Study
from tidepool.advice.verdict import PoolVerdict
from tidepool.health.cached import Cached
from tidepool.pool.faults import Unavailable
from tidepool.pool.pool import Pool
from tidepool.storage.repositories import Repositories
from tidepool.storage.snapshots import ServerReading

_LIFE_S = 1.0
"""Seconds for which the tables are kept: as often as the page asks."""
_PATIENCE_S = 2.0
"""Seconds that a caller waits for a server that does not answer: as long as `/health` does."""
_JUDGED_EVERY_S, _JUDGED_FOR_S = 15.0, 120.0
"""Seconds after which verdicts are made anew, and for which old ones are shown meanwhile."""
_MINUTES = timedelta(minutes=10)
_JUDGED = timedelta(minutes=15)
_MAX_ROWS = 120
"""Snapshots of each process: a third of what `why` reads. It is asked often, and 360 took half a second for ten
processes."""
_BUDGET_TIME = timedelta(minutes=2)
"""An older reading of the server is not shown."""
_HISTOGRAMS = ("wait_hist", "hold_hist", "batch_wait_hist", "commit_hist")
_SESSIONS = ("active", "waiting_lock")


class FleetFigures:
    """Reads the figures of all worker processes (the fleet) from the database, and caches them.

    The database is read only when a method is called; errors of the database are raised to the caller.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._tables = Cached(_LIFE_S, self._read)
        self._verdicts = Cached(_JUDGED_EVERY_S, self._judge, stale_s=_JUDGED_FOR_S - _JUDGED_EVERY_S)

    async def get(self) -> dict[str, object]:
        """Return the figures of all workers as a dict, at most a second old.

        - `processes`  the last minute of each live process, with the columns of the view `pool_health`
        - `minutes`    the last ten minutes of all processes together, with the columns of the view `fleet_health`
        - `budget`     the server's connections, as columns of `db_snapshots`; None if unknown for two minutes
        - `groups`     the verdicts, as the method `groups` returns them

        Raises `Unavailable` after two seconds without an answer.
        """
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await self._tables.get()
        except TimeoutError:
            raise Unavailable(f"PostgreSQL gave no answer within {_PATIENCE_S:g} s") from None

    def groups(self) -> list[PoolVerdict] | None:
        """Return what limits the workers, judged by the last fifteen minutes: a verdict for each group of processes.

        A group are processes with the same pool size and number of callers. Returns None until the first verdicts are
        made. They are made in the background, as reading and judging takes up to a second; the call does not wait for
        them.
        """
        return self._verdicts.at_once()

    async def _read(self) -> dict[str, object]:
        async with self._pool.acquire() as connection:
            repositories = Repositories(connection)
            now = await repositories.server.clock()
            processes = await repositories.snapshots.pool_health(now - _MINUTES)
            minutes = await repositories.snapshots.fleet_health(now - _MINUTES)
            server = await repositories.server.window(now - _BUDGET_TIME)
        return {
            "processes": [{name: row[name] for name in row if name not in _HISTOGRAMS} for row in processes],
            "minutes": minutes,
            "budget": _budget(server[-1]) if server else None,
            "groups": self.groups(),
        }

    async def _judge(self) -> list[PoolVerdict]:
        async with self._pool.acquire() as connection:
            until = await Repositories(connection).server.clock()
            studies = await Study.read(connection, since=until - _JUDGED, until=until, max_rows=_MAX_ROWS)
        return await PoolVerdict.judge(studies)


def _budget(reading: ServerReading) -> dict[str, object]:
    return {name: value for name, value in asdict(reading).items() if name not in _SESSIONS}
