"""A connection outside the pool, for work that must not wait for a connection of the pool."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tidepool.pool.config import PoolConfig
from tidepool.pool.connection import Connection, DirectConnection
from tidepool.pool.faults import translated


class SideConnection:
    """One PostgreSQL connection outside the pool, opened at its first use and opened again after it was lost.

    Only one caller uses it at a time; others wait. *purpose* becomes a part of its application name.
    """

    def __init__(self, config: PoolConfig, purpose: str) -> None:
        self._config = config
        self._purpose = purpose
        self._connection: DirectConnection | None = None
        self._lock = asyncio.Lock()
        self._listeners: dict[str, Callable[[str], None]] = {}

    @asynccontextmanager
    async def use(self) -> AsyncGenerator[Connection]:
        """Use the connection in an `async with` block, after waiting until no other caller uses it.

        Raises the errors of `tidepool.pool.faults`. After any exception in the block the connection is closed, and the
        next use opens another.
        """
        async with self._lock, translated():
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._open()
            try:
                yield self._connection
            except BaseException:
                self._connection.terminate()
                raise

    async def listen(self, channel: str, heard: Callable[[str], None]) -> None:
        """Call *heard* with the payload of each notification on *channel*, a channel of LISTEN, from now on.

        A notification is lost if it comes while the connection is; the next use of the connection listens again.
        Raises the errors of `tidepool.pool.faults`.
        """
        async with self.use() as connection:
            if channel not in self._listeners:
                await _listen(connection, channel, heard)
                self._listeners[channel] = heard

    async def _open(self) -> DirectConnection:
        connection = await self._config.connect(self._purpose)
        try:
            for channel, heard in self._listeners.items():
                await _listen(connection, channel, heard)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.terminate()


async def _listen(connection: Any, channel: str, heard: Callable[[str], None]) -> None:
    def notified(_connection: object, _pid: int, _channel: str, payload: str) -> None:
        heard(payload)

    await connection.add_listener(channel, notified)
