"""A connection outside the pool, for work that must not wait for the pool."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from tidepool.pool.connection import Connection
from tidepool.pool.faults import translated
from tidepool.pool.pool import PoolConfig, connect


class SideConnection:
    """A connection that opens on first use, reopens after a loss, and serves one caller at a time."""

    def __init__(self, config: PoolConfig, purpose: str) -> None:
        self._config = config
        self._purpose = purpose
        self._connection: Any = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def use(self) -> AsyncGenerator[Connection]:
        """Acquire the connection, waiting for its present user. Raises `tidepool.pool.faults`; an error closes it."""
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
