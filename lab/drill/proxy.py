"""A TCP proxy in front of a server, which can lose, delay and cut what goes through it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

_CHUNK = 65_536
_CUT_AFTER_S = 0.05

Bite = Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Trap:
    """A trap: the bytes that it waits for, whether the request is passed on, and the function that it then calls."""

    words: bytes
    passes_on: bool
    bite: Bite


class Proxy:
    """Listens on a local port, and passes data between its clients and the server at *target* (a socket, or host:port).

    New connections are closed at once if *is_open* is false. Each piece of data is delayed by *delay_s* seconds. While
    the proxy is frozen no data pass, but connections stay open. A `trap` waits for one request that contains given
    bytes, and cuts its connection, so that either the request or its answer is lost.
    """

    def __init__(self, target: str) -> None:
        self.is_open = True
        self.delay_s = 0.0
        self.port = 0
        self._target = target
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._traps: list[_Trap] = []
        self._links: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Start to listen on a free port of 127.0.0.1, which is then in `port`."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening, and cut all connections."""
        if self._server is not None:
            self._server.close()
        self.reset()
        await asyncio.gather(*self._links, return_exceptions=True)

    def freeze(self) -> None:
        """Stop passing data in both directions. The connections stay open."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Pass data again, after `freeze`."""
        self._flowing.set()

    def reset(self) -> None:
        """Cut all connections. New ones are still accepted."""
        for link in self._links:
            link.cancel()

    def trap(self, words: bytes, *, passes_on: bool, bite: Bite) -> None:
        """Set a trap for the next request that contains *words*: call *bite*, and cut the request's connection.

        With *passes_on* the server still gets the request, and only its answer is lost.
        """
        self._traps.append(_Trap(words, passes_on, bite))

    def disarm(self) -> None:
        """Remove all traps that have not caught a request yet."""
        self._traps.clear()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.ensure_future(self._link(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            try:
                if self.is_open:
                    await self._join(reader, writer)
            finally:
                writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass data between a client and the server until one of them closes the connection, or a trap cuts it."""
        server_reader, server_writer = await _connect(self._target)
        pumps = [
            asyncio.ensure_future(self._pump(reader, server_writer, requests=True)),
            asyncio.ensure_future(self._pump(server_reader, writer, requests=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if any(
                pump.done() and not pump.cancelled() and pump.exception() is None and pump.result() for pump in pumps
            ):
                pumps[1].cancel()  # the answer is lost, and the server has time to do what it was asked
                await asyncio.sleep(_CUT_AFTER_S)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            server_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, requests: bool) -> bool:
        """Pass data in one direction until it ends; return whether a trap ended it."""
        while data := await reader.read(_CHUNK):
            await self._flowing.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            trap = (
                next((trap for trap in self._traps if trap.words in data), None) if requests and self._traps else None
            )
            if trap is None or trap.passes_on:
                writer.write(data)
                await writer.drain()
            if trap is not None:
                self._traps.remove(trap)
                trap.bite()
                return True
        return False


async def _connect(target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if target.startswith("/"):
        return await asyncio.open_unix_connection(target)
    host, _, port = target.rpartition(":")
    return await asyncio.open_connection(host, int(port))
