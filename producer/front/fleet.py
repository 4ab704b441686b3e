"""The fleet's figures for however many ask: read once a second at the most, judged once in fifteen."""

import asyncio
from datetime import timedelta
from typing import Any

from worker.db.pool import Pool
from worker.health.fleet import read_fleet, read_groups
from worker.health.kept import Kept

_LIFE_S = 1.0
_JUDGED_EVERY_S, _JUDGED_FOR_S = 15.0, 120.0
_SILENT_TICKS, _LEAST_SILENT = 4, timedelta(minutes=2)
_PATIENCE_S = 0.05
"""For the first verdict, which takes up to a second to compute."""


class Fleet:
    """Nobody asking: nothing is read. Raises what the reading raises."""

    def __init__(self, pool: Pool, *, stats_interval_s: float) -> None:
        self._pool = pool
        self._silent_after = max(_LEAST_SILENT, _SILENT_TICKS * timedelta(seconds=stats_interval_s))
        self._read = Kept(_LIFE_S, self._read_now)
        self._groups = Kept(_JUDGED_EVERY_S, lambda: read_groups(pool), stale_s=_JUDGED_FOR_S - _JUDGED_EVERY_S)

    async def get(self) -> dict[str, Any]:
        """Return the fleet as it was within the last second; `groups` are None until they have been judged once."""
        return await self._read.get()

    async def _read_now(self) -> dict[str, Any]:
        tables, groups = await asyncio.gather(self._read_tables(), self.groups())
        return {**tables, "groups": groups}

    async def _read_tables(self) -> dict[str, Any]:
        async with self._pool.acquire() as connection:
            return await read_fleet(connection, silent_after=self._silent_after)

    async def groups(self) -> list[dict[str, Any]] | None:
        """Return the verdicts, as `worker.health.fleet.read_groups` does; None until there are some."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await self._groups.get()
        except TimeoutError:
            return None
