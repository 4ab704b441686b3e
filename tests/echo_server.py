"""The bounded HTTP server with an application that says what reached it, and connections to it over sockets.

The fixture here is that of the folders whose conftest.py import it.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from waiting import until

from tidepool.bounded_http import limits as bounds
from tidepool.bounded_http.limits import Limits
from tidepool.bounded_http.server import BoundedServer

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
REQUEST = GET + b"Connection: close\r\n\r\n"
LARGE = 8_000_000
"""Bytes of the answer to `/large`: more than the buffers of two sockets hold."""


class Echo:
    """An application that answers with the number of headers and bytes that came.

    `/hold` answers when it is let go, and `/large` with `LARGE` bytes.
    """

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.held = 0
        self.seen: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        self.seen.append(scope)
        size = 0
        while scope["path"] != "/unread":
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            if not message["more_body"]:
                break
        if scope["path"] == "/hold":
            self.held += 1
            await self.let_go.wait()
        body = b"x" * LARGE if scope["path"] == "/large" else b"%d %d" % (len(scope["headers"]), size)
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Served:
    """A server with an `Echo`, and connections to it."""

    def __init__(self, server: BoundedServer, app: Echo, port: int) -> None:
        self.server = server
        self.app = app
        self.port = port

    async def connect(self, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection and send something."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        return reader, writer

    async def answer(self, *pieces: bytes) -> bytes:
        """Send *pieces* over a new connection; returns all that is answered until the server closes it."""
        reader, writer = await self.connect()
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        try:
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()

    async def status(self, *pieces: bytes) -> int:
        """Return the status of the first answer; 0: the connection was closed without one."""
        answer = await self.answer(*pieces)
        return int(answer.split()[1]) if answer else 0


@asynccontextmanager
async def serving(limits: Limits) -> AsyncIterator[Served]:
    """Run a server for the length of the block."""
    app = Echo()
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, ws="none", timeout_graceful_shutdown=1, timeout_keep_alive=60
    )
    bounded = BoundedServer(config, limits)
    bounded.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    running = asyncio.create_task(bounded.serve([listening]))
    await until(lambda: true_of(bounded.started))
    yield Served(bounded, app, listening.getsockname()[1])
    bounded.should_exit = True
    app.let_go.set()
    await running


async def true_of(value: object) -> object:
    """Return *value*, for `until`, which waits for coroutines."""
    return value


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """Give a server whose bounds on time are short."""
    monkeypatch.setattr(bounds, "ARRIVAL_S", 0.3)
    async with serving(Limits(connections=8, body_bytes=100_000)) as served:
        yield served
        await until(lambda: true_of(not served.server.connections.unfinished_bytes))


def headers(count: int) -> bytes:
    """Return so many header lines."""
    return b"".join(b"x%d: y\r\n" % number for number in range(count))
