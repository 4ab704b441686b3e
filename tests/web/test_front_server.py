"""How the front's server ends when what runs beside it fails, as the load of `serve --demo` does on a full disk."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from fastapi import FastAPI

from tidepool.bounded_http.listening import listen_at
from tidepool.web.server import WebServer


async def test_a_cancel_closes_the_application(caplog: pytest.LogCaptureFixture) -> None:
    """What it has open is closed, and nothing but the cancel is reported."""
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        seen.append("opened")
        yield
        seen.append("closed")

    app = FastAPI(lifespan=lifespan)
    app.state.services = SimpleNamespace(accepting=SimpleNamespace(waits=SimpleNamespace(close=lambda: None)))
    listening = await listen_at("127.0.0.1", 0, 8)
    running = asyncio.create_task(WebServer.run_app(app, listening))
    reader, writer = await asyncio.open_connection(*listening[0].getsockname())
    writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 404")
    writer.close()

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert ["opened", "closed"] == seen
    assert [] == [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
