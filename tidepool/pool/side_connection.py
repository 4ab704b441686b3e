"""A connection outside the pool, for work that must not wait for it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tidepool.pool.connection import Connection, DirectConnection
from tidepool.pool.faults import translated
from tidepool.pool.pool import PoolConfig, connect


class SideConnection:
    """One connection, opened at its first use and again after it was lost. One caller at a time uses it."""

    def __init__(self, config: PoolConfig, purpose: str) -> None:
        self._config = config
        self._purpose = purpose
        self._connection: DirectConnection | None = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def use(self) -> AsyncGenerator[Connection]:
        """Give the connection for a block. Raises the errors of `tidepool.pool.faults`; the next use opens another."""
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
