"""The fleet's figures for however many ask: read once a second at the most, judged once in fifteen."""

from typing import Any

from tidepool.advice.fleet_report import read_fleet, read_groups
from tidepool.health.kept import Kept
from tidepool.pool.pool import Pool

_LIFE_S = 1.0
_JUDGED_EVERY_S, _JUDGED_FOR_S = 15.0, 120.0


class Fleet:
    """Nobody asking: nothing is read. Raises what the reading raises."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._read = Kept(_LIFE_S, self._read_now)
        self._groups = Kept(_JUDGED_EVERY_S, lambda: read_groups(pool), stale_s=_JUDGED_FOR_S - _JUDGED_EVERY_S)

    async def get(self) -> dict[str, Any]:
        """Return the fleet as it was within the last second; `groups` are None until they have been judged once."""
        return await self._read.get()

    async def _read_now(self) -> dict[str, Any]:
        async with self._pool.acquire() as connection:
            tables = await read_fleet(connection)
        return {**tables, "groups": self.groups()}

    def groups(self) -> list[dict[str, Any]] | None:
        """Return the verdicts, as `tidepool.advice.fleet_report.read_groups` does; None until there are some.

        Nobody waits for them: to read and judge them takes up to a second, and slows down what is read beside it.
        """
        return self._groups.at_once()
