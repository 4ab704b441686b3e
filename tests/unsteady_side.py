"""A side connection that a test can take away."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tidepool.pool.connection import Connection
from tidepool.pool.side_connection import SideConnection


class UnsteadySide:
    """A side connection that can be away, and that counts its uses."""

    def __init__(self, side: SideConnection) -> None:
        self._side = side
        self.away: Exception | None = None
        self.uses = 0

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Connection]:
        """Lend the connection, unless it is away."""
        self.uses += 1
        if self.away is not None:
            raise self.away
        async with self._side.use() as connection:
            yield connection
