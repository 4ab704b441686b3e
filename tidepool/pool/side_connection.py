"""A connection beside the pool, for work that must not wait behind it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tidepool.pool.connection import Connection, DirectConnection
from tidepool.pool.faults import translated
from tidepool.pool.pool import PoolConfig, connect


class SideConnection:
    """One connection, opened when first used, opened anew after it was lost, used by one caller at a time."""

    def __init__(self, config: PoolConfig, purpose: str) -> None:
        self._config = config
        self._purpose = purpose
        self._connection: DirectConnection | None = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def use(self) -> AsyncGenerator[Connection]:
        """Lend the connection. Raises as `tidepool.pool.faults` says; after an error the next caller gets a new one."""
        async with self._lock, translated():
            if self._connection is None or self._connection.is_closed():
                self._connection = await connect(self._config, self._purpose)
            try:
                yield self._connection
            except BaseException:
                self._connection.terminate()
                raise

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.terminate()
