"""Accepts HTTP connections for uvicorn, up to a max number.

At the max a new connection takes the place of the one that has been without a complete request for longest, so that
idle clients and half requests lock no other client out. If all of them have a complete request, the new one is answered
503 and closed.
"""

import asyncio
import errno
import socket
import time
from contextlib import suppress

import uvicorn

from tidepool.bounded_http.limits import Connections, Limits
from tidepool.bounded_http.protocol import BUSY, BoundedProtocol

_ACCEPTS_A_TURN = 16
"""Connections that are accepted in one turn of the event loop."""
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_FILES_PAUSE_S = 0.1
_BURST_S = 10.0
"""What the bound on new connections allows at once, in seconds of its rate."""


class BoundedServer(uvicorn.Server):
    """uvicorn's server with *limits* on connections. It serves on sockets that are listening already."""

    def __init__(self, config: uvicorn.Config, limits: Limits) -> None:
        super().__init__(config)
        self.connections = Connections(limits.connections)
        self._limits = limits
        self._full_at_s = 0.0
        """The token bucket of new connections as one number: when it will be full again."""
        self._listening: list[socket.socket] = []
        self._beginning: set[asyncio.Task[None]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept connections on *sockets*, which are listening already."""
        await super().startup(sockets=[])
        self._listening = list(sockets or ())
        for listening in self._listening:
            listening.settimeout(0)
            self._listen_on(listening)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, and wait for the requests in progress.

        The wait is limited by `timeout_graceful_shutdown` in uvicorn's configuration.
        """
        for listening in self._listening:
            asyncio.get_running_loop().remove_reader(listening)
        self._listening = []
        await super().shutdown(sockets)

    def _listen_on(self, listening: socket.socket) -> None:
        if listening in self._listening:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _pause(self, listening: socket.socket, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(seconds, self._listen_on, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            if wait_s := self._wait_s():
                self._pause(listening, wait_s)
                return
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_FILES:
                    self.connections.evict()
                    self._pause(listening, _NO_FILES_PAUSE_S)
                    return
                continue  # the client has gone
            if self._limits.accepts_per_s:
                self._full_at_s = max(self._full_at_s, time.monotonic()) + 1 / self._limits.accepts_per_s
            self._begin(connection)

    def _wait_s(self) -> float:
        """Return for how many seconds no further connection may be accepted."""
        return max(0.0, self._full_at_s - time.monotonic() - _BURST_S) if self._limits.accepts_per_s else 0.0

    def _begin(self, connection: socket.socket) -> None:
        connection.settimeout(0)
        if not self.connections.make_room():
            with suppress(OSError), connection:
                connection.send(BUSY)
            return
        self.connections.count += 1
        task = asyncio.create_task(self._open(connection), name="connection begins")
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _open(self, connection: socket.socket) -> None:
        try:
            if connection.family in (socket.AF_INET, socket.AF_INET6):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        except OSError:
            self.connections.count -= 1
            connection.close()

    def _protocol(self) -> BoundedProtocol:
        return BoundedProtocol(
            self.config,
            self.server_state,
            self.lifespan.state,
            limits=self._limits,
            connections=self.connections,
        )
