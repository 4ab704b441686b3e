"""Accepts HTTP connections for uvicorn, up to a max number.

The first bytes of a new connection are read here, and the connection is handed to uvicorn once they contain a request.
Until then a connection costs a tenth of what one of uvicorn's costs, so a flood of connections without a request delays
the requests little.

At the max number, the connection that has been without a complete request for longest is closed in favour of a new one,
so that idle clients and half requests lock no other client out. If all connections have a complete request, the new one
is answered 503 and closed.
"""

import asyncio
import errno
import socket
from contextlib import suppress

import uvicorn

from tidepool.bounded_http import limits as bounds
from tidepool.bounded_http.limits import Limits, OpenConnections, Pace
from tidepool.bounded_http.protocol import BUSY, TOO_LATE, BoundedProtocol

_ACCEPTS_A_TURN = 16
"""Connections that are accepted in one turn of the event loop."""
_NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_NO_FILES_PAUSE_S = 0.1
_ACCEPTS_AT_ONCE, _FIRST_REQUESTS_AT_ONCE = 200, 100
"""Connections that may exceed the rates of `Limits` after a pause: clients come in bursts."""


class _Arrival:
    """A new connection that has not sent the head of a request. When it has, it calls `begin` of *server*."""

    __slots__ = ("_deadline", "_is_late", "_reads", "_server", "connection", "opened_s", "received")

    def __init__(self, server: "BoundedServer", connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._server = server
        self.connection = connection
        self.received = b""
        self.opened_s = loop.time()
        self._reads = 0
        self._is_late = False
        self._deadline = loop.call_later(bounds.ARRIVAL_S, self._late)
        loop.add_reader(connection, self.read)

    def read(self) -> None:
        """Read what has arrived. A connection with a request, or with too many bytes for here, leaves for uvicorn."""
        try:
            data = self.connection.recv(bounds.READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.evict()
            return
        if self._is_late:
            return  # read, so that closing the connection does not discard the answer on its way
        self.received += data
        if self._is_ready():
            self._leave()
            self._server.begin(self)
            return
        self._reads += 1
        if self._reads >= bounds.SMALL_READS:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self.connection)
            loop.call_later(bounds.READ_PAUSE_S, self._read_on)

    def _is_ready(self) -> bool:
        """Return whether the bytes have a whole head, or are too many to wait for it, or cannot be of a request."""
        return (
            b"\r\n\r\n" in self.received or len(self.received) >= bounds.SMALL_BYTES or not self.received[:1].isalpha()
        )

    def _read_on(self) -> None:
        if self in self._server.arrivals:
            asyncio.get_running_loop().add_reader(self.connection, self.read)

    def _late(self) -> None:
        if self._is_late or not self.received:
            self.evict()
            return
        self._is_late = True
        with suppress(OSError):
            self.connection.send(TOO_LATE)
            self.connection.shutdown(socket.SHUT_WR)
        self._deadline = asyncio.get_running_loop().call_later(bounds.LINGER_S, self._late)

    def _leave(self) -> None:
        asyncio.get_running_loop().remove_reader(self.connection)
        self._deadline.cancel()

    def evict(self) -> None:
        """Close the connection without an answer."""
        self._leave()
        self._server.close(self)


class BoundedServer(uvicorn.Server):
    """uvicorn's server, with *limits* on its connections. It serves on sockets that are listening already."""

    def __init__(self, config: uvicorn.Config, limits: Limits) -> None:
        super().__init__(config)
        self.connections = OpenConnections(limits.max_connections())
        self._limits = limits
        self._accepts = Pace(limits.accepts_per_s, _ACCEPTS_AT_ONCE)
        self._first_requests = Pace(limits.first_requests_per_s, _FIRST_REQUESTS_AT_ONCE)
        self._listening: list[socket.socket] = []
        self.arrivals: set[_Arrival] = set()
        """The connections that are not uvicorn's yet."""
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
        for arrival in tuple(self.arrivals):
            arrival.evict()
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
            if wait_s := self._accepts.wait_s():
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
            self._accepts.count()
            self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        connection.settimeout(0)
        if not self.connections.make_room():
            with suppress(OSError), connection:
                connection.send(BUSY)
            return
        self.connections.count += 1
        arrival = _Arrival(self, connection)
        self.arrivals.add(arrival)
        self.connections.evictable[arrival] = None
        arrival.read()

    def begin(self, arrival: _Arrival) -> None:
        """Hand the new connection *arrival*, whose first bytes have been read, to uvicorn.

        At most `Limits.first_requests_per_s` connections are handed over each second; the others wait.
        """
        self.connections.evictable.pop(arrival)
        asyncio.get_running_loop().call_later(self._first_requests.admit(), self._begin, arrival)

    def close(self, arrival: _Arrival) -> None:
        """Close the new connection *arrival*, which has not been handed to uvicorn yet."""
        self.arrivals.discard(arrival)
        self.connections.evictable.pop(arrival, None)
        self.connections.count -= 1
        arrival.connection.close()

    def _begin(self, arrival: _Arrival) -> None:
        if arrival not in self.arrivals:
            return  # closed by `shutdown`
        self.arrivals.discard(arrival)
        task = asyncio.create_task(self._open(arrival), name="connection begins")
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _open(self, arrival: _Arrival) -> None:
        def protocol() -> BoundedProtocol:
            return BoundedProtocol(
                self.config,
                self.server_state,
                self.lifespan.state,
                limits=self._limits,
                connections=self.connections,
                received=arrival.received,
                opened_s=arrival.opened_s,
            )

        try:
            if arrival.connection.family in (socket.AF_INET, socket.AF_INET6):
                arrival.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(protocol, arrival.connection)
        except OSError:
            self.close(arrival)
